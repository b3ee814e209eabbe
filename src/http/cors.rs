//! CORS: the web origins that may send requests, and the headers of responses to them.
//!
//! As in Ollama (server/routes.go, envconfig/config.go, which use gin-contrib/cors), `OLLAMA_ORIGINS`
//! adds to the default origins. Pure; never looks at a path, so that a preflight succeeds for any
//! path, and never echoes the headers that a preflight asks for.
//! Invariant: an origin that is echoed was allowed, and is visible ASCII.

/// Headers of a response, in the order in which they are sent.
pub type ResponseHeaders = Vec<(&'static str, String)>;

/// Schemes of an entry without `*`.
const SCHEMES: [&str; 6] = [
    "http://",
    "https://",
    "chrome-extension://",
    "moz-extension://",
    "safari-extension://",
    "ms-browser-extension://",
];

/// Longest `Host` and `Origin`, in bytes, that may be allowed: four times the longest host name.
pub(super) const MAX_HOST_BYTES: usize = 1024;

/// Hosts that are allowed by default, with `http` or `https` and any port.
const LOCAL_HOSTS: [&str; 3] = ["localhost", "127.0.0.1", "0.0.0.0"];

/// Prefixes that are allowed by default: desktop applications and editors.
const APP_SCHEMES: [&str; 5] =
    ["app://", "file://", "tauri://", "vscode-webview://", "vscode-file://"];

/// The headers of a preflight only. A browser may cache it for half a day.
const PREFLIGHT_HEADERS: [(&str, &str); 3] = [
    ("Access-Control-Allow-Methods", "GET,POST,PUT,PATCH,DELETE,HEAD,OPTIONS"),
    (
        "Access-Control-Allow-Headers",
        "Authorization,Content-Type,User-Agent,Accept,X-Requested-With,Openai-Beta,\
         X-Stainless-Arch,X-Stainless-Async,X-Stainless-Custom-Poll-Interval,\
         X-Stainless-Helper-Method,X-Stainless-Lang,X-Stainless-Os,X-Stainless-Package-Version,\
         X-Stainless-Poll-Helper,X-Stainless-Retry-Count,X-Stainless-Runtime,\
         X-Stainless-Runtime-Version,X-Stainless-Timeout",
    ),
    ("Access-Control-Max-Age", "43200"),
];

/// What a response to an allowed origin depends on; all but the first concern a preflight only.
const VARY: [(&str, &str); 3] = [
    ("Vary", "Origin"),
    ("Vary", "Access-Control-Request-Method"),
    ("Vary", "Access-Control-Request-Headers"),
];

/// The allowed origins; the default has Ollama's.
#[derive(Clone, Debug, Default)]
pub struct CorsPolicy {
    /// The text of `OLLAMA_ORIGINS`.
    raw: String,
    /// True if one of the entries is `*`.
    allow_any: bool,
    /// Each an origin, or the text before and after a `*`.
    rules: Vec<String>,
}

/// The decision about a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CorsDecision {
    /// The origin is not allowed: 403.
    Refused,
    /// A preflight of an allowed origin: 204 with these headers.
    Preflight(ResponseHeaders),
    /// The origin is allowed; the response has these headers. A request that does not come from
    /// another origin needs none.
    Allowed(ResponseHeaders),
}

impl CorsPolicy {
    /// Parses a value of `OLLAMA_ORIGINS`, which adds to the defaults.
    ///
    /// # Errors
    /// The expected form, if Ollama panics at an entry (several `*`, or an unknown scheme without `*`),
    /// or if an entry is not visible ASCII or contains a password.
    pub fn parse(text: &str) -> Result<Self, String> {
        let entries = if text.is_empty() { Vec::new() } else { text.split(',').collect() };
        let rules = entries.iter().map(|entry| parse_rule(entry)).collect::<Option<_>>();
        let rules = rules.ok_or_else(|| {
            let schemes = SCHEMES.join(", ");
            format!(
                "expected comma-separated origins, each containing one * or starting with one of \
                 {schemes}"
            )
        })?;
        Ok(Self { raw: text.to_owned(), allow_any: entries.contains(&"*"), rules })
    }

    /// The text of `OLLAMA_ORIGINS`.
    pub fn as_str(&self) -> &str {
        &self.raw
    }

    /// A warning about the first entry that matches no origin. Ollama accepts such entries.
    pub fn warning(&self) -> Option<String> {
        let matches_nothing = |entry: &str| {
            let path = entry.trim().split_once("://").is_some_and(|(_, host)| host.contains('/'));
            path || (entry.contains('*') && entry.trim() != entry)
        };
        self.raw.split(',').position(matches_nothing).map(|at| {
            let number = at + 1;
            format!(
                "entry {number} matches no origin: an origin has no path and no trailing slash, and \
                 a wildcard entry no spaces"
            )
        })
    }

    /// Decides about a request. An origin with the same host is not another origin.
    pub fn decide(&self, method: &str, origin: Option<&str>, host: &str) -> CorsDecision {
        let Some(origin) = origin.filter(|origin| !origin.is_empty()) else {
            return CorsDecision::Allowed(Vec::new());
        };
        if is_same_host(origin, host) {
            return CorsDecision::Allowed(Vec::new());
        }
        if !self.allows(origin) {
            return CorsDecision::Refused;
        }
        match method {
            "OPTIONS" => CorsDecision::Preflight(self.headers(origin, true)),
            _ => CorsDecision::Allowed(self.headers(origin, false)),
        }
    }

    fn allows(&self, origin: &str) -> bool {
        // The origin is echoed into a header; no browser sends other characters, nor a longer one.
        let visible =
            origin.len() <= MAX_HOST_BYTES && origin.bytes().all(|byte| byte.is_ascii_graphic());
        let is_listed = || self.rules.iter().any(|rule| matches_rule(origin, rule));
        visible && (self.allow_any || is_allowed_by_default(origin) || is_listed())
    }

    fn headers(&self, origin: &str, is_preflight: bool) -> ResponseHeaders {
        let (fixed, vary) = match is_preflight {
            true => (&PREFLIGHT_HEADERS[..], &VARY[..]),
            false => (&[][..], &VARY[..1]),
        };
        let (allowed, vary) = if self.allow_any { ("*", &[][..]) } else { (origin, vary) };
        let allowed = [("Access-Control-Allow-Origin", allowed)];
        let headers = fixed.iter().copied().chain(allowed).chain(vary.iter().copied());
        headers.map(|(name, value)| (name, value.to_owned())).collect()
    }
}

/// Whether an origin is the host itself, with or without TLS before it.
pub(super) fn is_same_host(origin: &str, host: &str) -> bool {
    let at = origin.strip_prefix("http://").or_else(|| origin.strip_prefix("https://"));
    at == Some(host)
}

/// Parses one entry. An entry with a `*` is used as it is, others are trimmed and in lower case.
fn parse_rule(entry: &str) -> Option<String> {
    let literal = entry.trim().to_ascii_lowercase();
    if !literal.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'@') {
        return None;
    }
    match entry.split_once('*') {
        Some((_, behind)) => (!behind.contains('*')).then(|| entry.to_owned()),
        None => SCHEMES.iter().any(|scheme| literal.starts_with(scheme)).then_some(literal),
    }
}

fn matches_rule(origin: &str, rule: &str) -> bool {
    match rule.split_once('*') {
        Some((before, behind)) => {
            origin.strip_prefix(before).is_some_and(|rest| rest.ends_with(behind))
        }
        None => rule == origin,
    }
}

fn is_allowed_by_default(origin: &str) -> bool {
    let host = origin.strip_prefix("http://").or_else(|| origin.strip_prefix("https://"));
    let is_local = |host: &str| {
        let ports = LOCAL_HOSTS.iter().filter_map(|local| host.strip_prefix(local));
        ports.into_iter().any(|port| port.is_empty() || port.starts_with(':'))
    };
    host.is_some_and(is_local) || APP_SCHEMES.iter().any(|scheme| origin.starts_with(scheme))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Decides about two lists of origins, which have spaces between them.
    #[track_caller]
    fn check(entries: &str, allowed: &str, refused: &str) {
        let policy = CorsPolicy::parse(entries).expect(entries);
        let decide = |origin| policy.decide("POST", Some(origin), "127.0.0.1:11434");
        for origin in allowed.split_whitespace() {
            let headers = [("Access-Control-Allow-Origin", origin), ("Vary", "Origin")];
            let headers = headers.map(|(name, value)| (name, value.to_owned())).to_vec();
            assert_eq!(decide(origin), CorsDecision::Allowed(headers), "{entries:?} {origin:?}");
        }
        for origin in refused.split_whitespace() {
            assert_eq!(decide(origin), CorsDecision::Refused, "{entries:?} {origin:?}");
        }
    }

    #[test]
    fn this_machine_and_desktop_applications_are_allowed_by_default() {
        for host in ["localhost", "127.0.0.1", "0.0.0.0"] {
            for scheme in ["http", "https"] {
                let allowed = format!("{scheme}://{host} {scheme}://{host}:3000");
                let refused = format!("{scheme}://{host}.evil.test {scheme}://evil.{host}");
                check("", &allowed, &refused);
            }
            check("", "", &format!("ftp://{host}"));
        }
        check(
            "",
            "app://obsidian.md file:// tauri://localhost vscode-webview://1a2b \
             vscode-file://vscode-app",
            "null chrome-extension://abc moz-extension://abc http://192.168.1.5:3000 \
             http://[::1]:3000 https://example.com HTTP://LOCALHOST tauri",
        );
    }

    #[test]
    fn entries_are_added_to_the_defaults() {
        for (entries, allowed, refused) in [
            (
                "https://a.test",
                "https://a.test http://localhost:1",
                "https://a.test:8443 http://a.test",
            ),
            (" HTTPS://A.test , http://b.test", "https://a.test http://b.test", ""),
            ("chrome-extension://*", "chrome-extension://abc", ""),
            ("moz-extension://abc", "moz-extension://abc", ""),
            ("safari-extension://abc", "", "safari-extension://abd"),
            ("ms-browser-extension://abc", "ms-browser-extension://abc", ""),
            // A star stands for anything in its place.
            ("http://192.168.1.*", "http://192.168.1.7:80", "http://192.168.2.7"),
            ("*.example.com", "https://a.example.com", "https://example.com"),
            ("http://*.example.com", "http://a.b.example.com", "https://a.example.com"),
            ("https://a*a", "https://aa", "https://a"),
            ("http://A.*", "", "http://a.test"),
            ("nul*", "null", ""),
            // With spaces around it, a star is used as it is.
            ("http://a.test, *", "", "http://b.test"),
        ] {
            check(entries, allowed, refused);
        }
    }

    /// The headers of a preflight of an allowed origin.
    fn preflight(policy: &CorsPolicy, origin: &str) -> ResponseHeaders {
        match policy.decide("OPTIONS", Some(origin), "localhost") {
            CorsDecision::Preflight(headers) => headers,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_star_alone_allows_all_and_is_sent_back() {
        for entries in ["*", "http://a.test,*"] {
            let policy = CorsPolicy::parse(entries).expect(entries);
            let headers = vec![("Access-Control-Allow-Origin", "*".to_owned())];
            let decision = policy.decide("GET", Some("null"), "h");
            assert_eq!(decision, CorsDecision::Allowed(headers.clone()));
            let preflight = preflight(&policy, "null");
            assert!(preflight.contains(&headers[0]), "{preflight:?}");
            assert!(preflight.iter().all(|(name, _)| *name != "Vary"), "{preflight:?}");
        }
    }

    #[test]
    fn a_preflight_gets_the_fixed_lists() {
        let headers = preflight(&CorsPolicy::default(), "app://x");
        let names: Vec<_> =
            headers.iter().map(|(name, _)| name.trim_start_matches("Access-Control-")).collect();
        let expected =
            ["Allow-Methods", "Allow-Headers", "Max-Age", "Allow-Origin", "Vary", "Vary", "Vary"];
        assert_eq!(names, expected);
        assert_eq!(headers[1].1.split(',').count(), 18);
        assert!(!headers[1].1.contains(' '), "{}", headers[1].1);
        assert_eq!(headers[3].1, "app://x");
    }

    #[test]
    fn the_same_origin_needs_no_permission() {
        for (origin, host, expected) in [
            (None, "localhost", true),
            (Some(""), "localhost", true),
            (Some("http://example.com:11434"), "example.com:11434", true),
            (Some("https://example.com"), "example.com", true),
            (Some("http://example.com"), "example.com:11434", false),
            (Some("http://http://example.com"), "example.com", false),
            (Some("app://example.com"), "example.com", false),
        ] {
            let decision = CorsPolicy::default().decide("OPTIONS", origin, host);
            let is_plain = decision == CorsDecision::Allowed(Vec::new());
            assert_eq!(is_plain, expected, "{origin:?} {host}");
        }
    }

    #[test]
    fn an_origin_that_is_no_header_is_refused_even_by_a_star() {
        for origin in ["app://a\nSet-Cookie: b", "app://a\rb", "app://a b", "app://\u{7f}"] {
            for entries in ["", "*"] {
                let policy = CorsPolicy::parse(entries).expect(entries);
                assert_eq!(policy.decide("GET", Some(origin), "h"), CorsDecision::Refused);
            }
        }
    }

    #[test]
    fn a_bad_entry_is_an_error_that_says_what_is_expected() {
        for bad in "example.com|null|app://x|http://a.test,|,|http://a.test,,http://b.test|\
                    http://*.a.*|**|http://a b|http://me:s3cret@h|http://\u{fc}*"
            .split('|')
        {
            let error = CorsPolicy::parse(bad).expect_err(bad);
            assert!(error.starts_with("expected ") && !error.contains("s3cret"), "{bad}: {error}");
        }
    }

    #[test]
    fn entries_that_match_nothing_cause_a_warning() {
        let warning = |entries: &str| CorsPolicy::parse(entries).expect(entries).warning();
        for fine in ["", "*", "http://a.test, http://b.test", "http://*", "*://a.test"] {
            assert_eq!(warning(fine), None, "{fine}");
        }
        for (odd, number) in [
            ("http://a.test/", 1),
            ("http://a.test,http://b.test/x", 2),
            ("http://a.test, *", 2),
            ("http://a.* ,http://b.test", 1),
        ] {
            let text = warning(odd).unwrap_or_default();
            assert!(text.starts_with(&format!("entry {number} ")), "{odd}: {text}");
        }
    }
}
