//! CORS: which web pages may ask, and the headers that tell their browsers so (ollama-api.md 16.1).
//!
//! Pure: a method, an `Origin` and a `Host` go in, a [`CorsDecision`] comes out. `OLLAMA_ORIGINS` adds to
//! Ollama's defaults and takes nothing away. Nothing here looks at paths: a preflight is answered
//! whether the path exists or not. The headers of a preflight are fixed, never an echo of what it
//! asks for.
//! Invariant: an origin that is echoed was allowed, and is visible ASCII.

/// Header lines for an answer, in the order in which they are sent.
pub type ResponseHeaders = Vec<(&'static str, String)>;

/// Ways in which a literal entry may begin.
const SCHEMES: [&str; 6] = [
    "http://",
    "https://",
    "chrome-extension://",
    "moz-extension://",
    "safari-extension://",
    "ms-browser-extension://",
];

/// Hosts that are allowed with either scheme of the web and any port.
const LOCAL_HOSTS: [&str; 3] = ["localhost", "127.0.0.1", "0.0.0.0"];

/// Beginnings that are allowed: desktop applications and editors.
const APP_SCHEMES: [&str; 5] =
    ["app://", "file://", "tauri://", "vscode-webview://", "vscode-file://"];

const ALLOWED_METHODS: &str = "GET,POST,PUT,PATCH,DELETE,HEAD,OPTIONS";

const ALLOWED_HEADERS: &str = "Authorization,Content-Type,User-Agent,Accept,X-Requested-With,Openai-Beta,\
    X-Stainless-Arch,X-Stainless-Async,X-Stainless-Custom-Poll-Interval,X-Stainless-Helper-Method,\
    X-Stainless-Lang,X-Stainless-Os,X-Stainless-Package-Version,X-Stainless-Poll-Helper,\
    X-Stainless-Retry-Count,X-Stainless-Runtime,X-Stainless-Runtime-Version,X-Stainless-Timeout";

/// How long a browser may remember a preflight, in seconds.
const MAX_AGE: &str = "43200";

/// The origins that are allowed.
#[derive(Clone, Debug)]
pub struct CorsPolicy {
    /// The entries as they were given, to be shown.
    raw: String,
    /// `*` alone was among them.
    allow_any: bool,
    rules: Vec<OriginRule>,
}

#[derive(Clone, Debug)]
enum OriginRule {
    /// This origin and no other.
    Exact(String),
    /// What stands before and behind the `*`.
    Wildcard(String, String),
}

/// What CORS has to say about a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CorsDecision {
    /// Nothing: it does not come from another origin.
    SameOrigin,
    /// It comes from an origin that may not ask: 403.
    Refused,
    /// A preflight: 204 with these headers.
    Preflight(ResponseHeaders),
    /// It goes on, and its answer carries these headers.
    Allowed(ResponseHeaders),
}

impl CorsPolicy {
    /// Reads a value of `OLLAMA_ORIGINS`; the defaults are added.
    ///
    /// # Errors
    /// What to write, where Ollama would panic: an entry that has two `*`, or none and no scheme of
    /// the web or of a browser's extensions. Also for what could not stand in a header or would hold
    /// a password.
    pub fn parse(text: &str) -> Result<Self, String> {
        let entries = if text.is_empty() { Vec::new() } else { text.split(',').collect() };
        let mut rules =
            entries.iter().map(|entry| parse_rule(entry)).collect::<Result<Vec<_>, _>>()?;
        rules.extend(default_rules());
        Ok(Self { raw: text.to_owned(), allow_any: entries.contains(&"*"), rules })
    }

    /// The entries as they were given.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.raw
    }

    /// What is odd about the entries and yet not refused, because Ollama takes it.
    #[must_use]
    pub fn warning(&self) -> Option<String> {
        let never = |entry: &str| {
            let path = entry.trim().split_once("://").is_some_and(|(_, host)| host.contains('/'));
            path || (entry.contains('*') && entry.trim() != entry)
        };
        self.raw.split(',').position(never).map(|at| {
            let number = at + 1;
            format!(
                "entry {number} matches no origin: an origin has no path and no trailing slash, and \
                 a wildcard entry no spaces"
            )
        })
    }

    /// Judges a request. An origin with the same host is none of another site.
    #[must_use]
    pub fn decide(&self, method: &str, origin: Option<&str>, host: &str) -> CorsDecision {
        let Some(origin) = origin.filter(|origin| !origin.is_empty()) else {
            return CorsDecision::SameOrigin;
        };
        let at = origin.strip_prefix("http://").or_else(|| origin.strip_prefix("https://"));
        if at == Some(host) {
            return CorsDecision::SameOrigin;
        }
        if !self.allows(origin) {
            return CorsDecision::Refused;
        }
        match method {
            "OPTIONS" => CorsDecision::Preflight(self.preflight_headers(origin)),
            _ => CorsDecision::Allowed(self.response_headers(origin)),
        }
    }

    fn allows(&self, origin: &str) -> bool {
        // No browser sends anything else, and it is echoed into a header.
        let visible = origin.bytes().all(|byte| byte.is_ascii_graphic());
        visible && (self.allow_any || self.rules.iter().any(|rule| rule.allows(origin)))
    }

    fn response_headers(&self, origin: &str) -> ResponseHeaders {
        let mut headers = self.allow_origin_header(origin);
        if !self.allow_any {
            headers.push(("Vary", "Origin".to_owned()));
        }
        headers
    }

    fn preflight_headers(&self, origin: &str) -> ResponseHeaders {
        let mut headers = vec![
            ("Access-Control-Allow-Methods", ALLOWED_METHODS.to_owned()),
            ("Access-Control-Allow-Headers", ALLOWED_HEADERS.to_owned()),
            ("Access-Control-Max-Age", MAX_AGE.to_owned()),
        ];
        headers.extend(self.allow_origin_header(origin));
        if !self.allow_any {
            for name in
                ["Origin", "Access-Control-Request-Method", "Access-Control-Request-Headers"]
            {
                headers.push(("Vary", name.to_owned()));
            }
        }
        headers
    }

    fn allow_origin_header(&self, origin: &str) -> ResponseHeaders {
        let allowed = if self.allow_any { "*" } else { origin };
        vec![("Access-Control-Allow-Origin", allowed.to_owned())]
    }
}

/// Ollama's defaults and nothing else.
impl Default for CorsPolicy {
    fn default() -> Self {
        Self { raw: String::new(), allow_any: false, rules: default_rules().collect() }
    }
}

impl OriginRule {
    fn allows(&self, origin: &str) -> bool {
        match self {
            Self::Exact(known) => known == origin,
            Self::Wildcard(before, behind) => origin
                .strip_prefix(before.as_str())
                .is_some_and(|rest| rest.ends_with(behind.as_str())),
        }
    }
}

/// One entry: with a `*` as it stands, else trimmed and in lower case.
fn parse_rule(entry: &str) -> Result<OriginRule, String> {
    let refusal = || {
        let schemes = SCHEMES.join(", ");
        format!(
            "expected comma-separated origins, each containing one * or starting with one of \
             {schemes}"
        )
    };
    let literal = entry.trim().to_ascii_lowercase();
    if !literal.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'@') {
        return Err(refusal());
    }
    match entry.split_once('*') {
        Some((_, behind)) if behind.contains('*') => Err(refusal()),
        Some((before, behind)) => Ok(OriginRule::Wildcard(before.to_owned(), behind.to_owned())),
        None if SCHEMES.iter().any(|scheme| literal.starts_with(scheme)) => {
            Ok(OriginRule::Exact(literal))
        }
        None => Err(refusal()),
    }
}

fn default_rules() -> impl Iterator<Item = OriginRule> {
    let hosts = LOCAL_HOSTS.iter().flat_map(|host| {
        ["http://", "https://"].into_iter().flat_map(move |scheme| {
            let plain = OriginRule::Exact(format!("{scheme}{host}"));
            [plain, OriginRule::Wildcard(format!("{scheme}{host}:"), String::new())]
        })
    });
    let applications =
        APP_SCHEMES.iter().map(|scheme| OriginRule::Wildcard((*scheme).to_owned(), String::new()));
    hosts.chain(applications)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(entries: &str, origin: &str, allowed: bool) {
        let origins =
            CorsPolicy::parse(entries).unwrap_or_else(|error| panic!("{entries}: {error}"));
        let expected = if allowed {
            CorsDecision::Allowed(vec![
                ("Access-Control-Allow-Origin", origin.to_owned()),
                ("Vary", "Origin".to_owned()),
            ])
        } else {
            CorsDecision::Refused
        };
        let verdict = origins.decide("POST", Some(origin), "127.0.0.1:11434");
        assert_eq!(verdict, expected, "{entries:?} {origin:?}");
    }

    #[test]
    fn this_machine_and_desktop_applications_are_allowed_by_default() {
        for host in ["localhost", "127.0.0.1", "0.0.0.0"] {
            for scheme in ["http", "https"] {
                check("", &format!("{scheme}://{host}"), true);
                check("", &format!("{scheme}://{host}:3000"), true);
                check("", &format!("{scheme}://{host}.evil.test"), false);
                check("", &format!("{scheme}://evil.{host}"), false);
            }
            check("", &format!("ftp://{host}"), false);
        }
        check("", "app://obsidian.md", true);
        check("", "file://", true);
        check("", "tauri://localhost", true);
        check("", "vscode-webview://1a2b", true);
        check("", "vscode-file://vscode-app", true);
    }

    #[test]
    fn all_others_are_refused_by_default() {
        check("", "null", false);
        check("", "chrome-extension://abc", false);
        check("", "moz-extension://abc", false);
        check("", "http://192.168.1.5:3000", false);
        check("", "http://[::1]:3000", false);
        check("", "https://example.com", false);
        check("", "HTTP://LOCALHOST", false);
        check("", "tauri", false);
    }

    #[test]
    fn entries_are_added_to_the_defaults() {
        check("https://a.test", "https://a.test", true);
        check("https://a.test", "https://a.test:8443", false);
        check("https://a.test", "http://a.test", false);
        check("https://a.test", "http://localhost:1", true);
        check(" HTTPS://A.test , http://b.test", "https://a.test", true);
        check(" HTTPS://A.test , http://b.test", "http://b.test", true);
        check("chrome-extension://*", "chrome-extension://abc", true);
        check("moz-extension://abc", "moz-extension://abc", true);
        check("safari-extension://abc", "safari-extension://abd", false);
        check("ms-browser-extension://abc", "ms-browser-extension://abc", true);
    }

    #[test]
    fn a_star_stands_for_anything_in_its_place() {
        check("http://192.168.1.*", "http://192.168.1.7:80", true);
        check("http://192.168.1.*", "http://192.168.2.7", false);
        check("*.example.com", "https://a.example.com", true);
        check("*.example.com", "https://example.com", false);
        check("http://*.example.com", "http://a.b.example.com", true);
        check("http://*.example.com", "https://a.example.com", false);
        check("https://a*a", "https://a", false);
        check("https://a*a", "https://aa", true);
        check("http://A.*", "http://a.test", false);
        check("nul*", "null", true);
    }

    #[test]
    fn a_star_alone_allows_all_and_tells_so() {
        for entries in ["*", "http://a.test,*"] {
            let origins = CorsPolicy::parse(entries).expect(entries);
            let headers = vec![("Access-Control-Allow-Origin", "*".to_owned())];
            let verdict = origins.decide("GET", Some("null"), "h");
            assert_eq!(verdict, CorsDecision::Allowed(headers.clone()));
            let CorsDecision::Preflight(preflight) = origins.decide("OPTIONS", Some("null"), "h")
            else {
                panic!("a preflight");
            };
            assert!(preflight.contains(&headers[0]), "{preflight:?}");
            assert!(preflight.iter().all(|(name, _)| *name != "Vary"), "{preflight:?}");
        }
        // Blanks around it make it a wildcard entry, and such are used as given.
        check("http://a.test, *", "http://b.test", false);
    }

    #[test]
    fn a_preflight_is_told_the_fixed_lists() {
        let CorsDecision::Preflight(headers) =
            CorsPolicy::default().decide("OPTIONS", Some("app://x"), "localhost")
        else {
            panic!("a preflight");
        };
        let names: Vec<_> = headers.iter().map(|(name, _)| *name).collect();
        let first = [
            "Access-Control-Allow-Methods",
            "Access-Control-Allow-Headers",
            "Access-Control-Max-Age",
            "Access-Control-Allow-Origin",
        ];
        assert_eq!(names, [&first[..], &["Vary", "Vary", "Vary"]].concat());
        assert_eq!(headers[1].1.split(',').count(), 18);
        assert!(!headers[1].1.contains(' '), "{}", headers[1].1);
        assert_eq!(headers[3].1, "app://x");
    }

    #[test]
    fn the_same_origin_is_none_of_our_business() {
        let check = |origin: Option<&str>, host: &str, expected: bool| {
            let verdict = CorsPolicy::default().decide("OPTIONS", origin, host);
            assert_eq!(verdict == CorsDecision::SameOrigin, expected, "{origin:?} {host}");
        };
        check(None, "localhost", true);
        check(Some(""), "localhost", true);
        check(Some("http://example.com:11434"), "example.com:11434", true);
        check(Some("https://example.com"), "example.com", true);
        check(Some("http://example.com"), "example.com:11434", false);
        check(Some("http://http://example.com"), "example.com", false);
        check(Some("app://example.com"), "example.com", false);
    }

    #[test]
    fn an_origin_that_is_no_header_is_refused_even_by_a_star() {
        for origin in ["app://a\nSet-Cookie: b", "app://a\rb", "app://a b", "app://\u{7f}"] {
            for entries in ["", "*"] {
                let origins = CorsPolicy::parse(entries).expect(entries);
                assert_eq!(origins.decide("GET", Some(origin), "h"), CorsDecision::Refused);
            }
        }
    }

    #[test]
    fn bad_entries_are_refused_with_what_to_write() {
        for bad in [
            "example.com",
            "null",
            "app://x",
            "http://a.test,",
            ",",
            "http://a.test,,http://b.test",
            "http://*.a.*",
            "**",
            "http://a b",
            "http://me:s3cret@h",
            "http://\u{fc}*",
        ] {
            let error = CorsPolicy::parse(bad).expect_err(bad);
            assert!(error.starts_with("expected ") && !error.contains("s3cret"), "{bad}: {error}");
        }
    }

    #[test]
    fn entries_that_allow_nothing_are_told() {
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
            let told = warning(odd).unwrap_or_default();
            assert!(told.starts_with(&format!("entry {number} ")), "{odd}: {told}");
        }
    }
}
