//! Routes that are for pages of the proxy itself only: the status page, and what it loads.
//!
//! `OLLAMA_ORIGINS` does not open them: no response has CORS headers, and a request that a page of another
//! origin made gets 403. Such a request is known by `Origin`, which is not the host that it asks, or by
//! `Sec-Fetch-Site` (W3C, Fetch Metadata Request Headers), which browsers send where they leave `Origin` out.
//! A page that needs no key may be linked to from anywhere, so only `Origin` counts there. Programs send
//! neither. Pure. Invariant: each response of these routes has all of these headers, also one that refuses.

use super::cors::{ResponseHeaders, is_same_host};

/// What a browser may do with a response: run the page's own script and style, and ask its own server.
const HEADERS: [(&str, &str); 4] = [
    (
        "Content-Security-Policy",
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; \
         base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    ),
    ("X-Content-Type-Options", "nosniff"),
    ("Referrer-Policy", "no-referrer"),
    ("Cross-Origin-Resource-Policy", "same-origin"),
];

/// The headers of every response.
pub(super) fn headers() -> ResponseHeaders {
    HEADERS.iter().map(|(name, value)| (*name, (*value).to_owned())).collect()
}

/// The header by which a request comes from a page of another origin; `None` if it does not.
pub(super) fn find_foreign<'a>(
    (origin, fetch_site): (Option<&'a str>, Option<&'a str>),
    host: &str,
    is_public: bool,
) -> Option<&'a str> {
    let origin = origin.filter(|it| !it.is_empty() && !is_same_host(it, host));
    let is_foreign = |site: &&str| !matches!(*site, "same-origin" | "none");
    origin.or_else(|| fetch_site.filter(is_foreign).filter(|_| !is_public))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_pages_of_the_proxy_itself_and_programs_are_served() {
        let host = "proxy.test:8080";
        for (origin, fetch_site, is_public, expected) in [
            (None, None, false, None),
            (Some(""), None, false, None),
            (Some("http://proxy.test:8080"), Some("same-origin"), false, None),
            (Some("https://proxy.test:8080"), None, false, None),
            (None, Some("same-origin"), false, None),
            (None, Some("none"), false, None),
            (None, Some("same-site"), false, Some("same-site")),
            (None, Some("cross-site"), false, Some("cross-site")),
            (None, Some("else"), false, Some("else")),
            // A link to the page from anywhere.
            (None, Some("cross-site"), true, None),
            (Some("http://localhost:3000"), None, true, Some("http://localhost:3000")),
            (Some("http://proxy.test"), Some("same-site"), false, Some("http://proxy.test")),
            (
                Some("http://proxy.test:8080.evil.test"),
                None,
                false,
                Some("http://proxy.test:8080.evil.test"),
            ),
            (Some("null"), Some("same-origin"), false, Some("null")),
            (Some("app://proxy.test:8080"), None, false, Some("app://proxy.test:8080")),
        ] {
            let found = find_foreign((origin, fetch_site), host, is_public);
            assert_eq!(found, expected, "{origin:?} {fetch_site:?} {is_public}");
        }
    }
}
