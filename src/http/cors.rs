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

/// Hosts that are allowed by default, with `http` or `https` and any port.
const LOCAL_HOSTS: [&str; 3] = ["localhost", "127.0.0.1", "0.0.0.0"];

/// Prefixes that are allowed by default: desktop applications and editors.
const APP_SCHEMES: [&str; 5] =
    ["app://", "file://", "tauri://", "vscode-webview://", "vscode-file://"];

const ALLOWED_METHODS: &str = "GET,POST,PUT,PATCH,DELETE,HEAD,OPTIONS";

const ALLOWED_HEADERS: &str = "Authorization,Content-Type,User-Agent,Accept,X-Requested-With,Openai-Beta,\
    X-Stainless-Arch,X-Stainless-Async,X-Stainless-Custom-Poll-Interval,X-Stainless-Helper-Method,\
    X-Stainless-Lang,X-Stainless-Os,X-Stainless-Package-Version,X-Stainless-Poll-Helper,\
    X-Stainless-Retry-Count,X-Stainless-Runtime,X-Stainless-Runtime-Version,X-Stainless-Timeout";

/// How long a browser may cache a preflight, in seconds.
const MAX_AGE: &str = "43200";

/// The allowed origins.
#[derive(Clone, Debug)]
pub struct CorsPolicy {
    /// The text of `OLLAMA_ORIGINS`.
    raw: String,
    /// True if one of the entries is `*`.
    allow_any: bool,
    rules: Vec<OriginRule>,
}

#[derive(Clone, Debug)]
enum OriginRule {
    /// This origin only.
    Exact(String),
    /// The text before and after the `*`.
    Wildcard(String, String),
}

/// The decision about a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CorsDecision {
    /// The request does not come from another origin.
    SameOrigin,
    /// The origin is not allowed: 403.
    Refused,
    /// A preflight of an allowed origin: 204 with these headers.
    Preflight(ResponseHeaders),
    /// The origin is allowed; the response has these headers.
    Allowed(ResponseHeaders),
}

impl CorsPolicy {
    /// Parses a value of `OLLAMA_ORIGINS`, and adds the defaults.
    ///
    /// # Errors
    /// What is expected, for an entry for which Ollama panics (several `*`, or none and an unknown
    /// scheme), and for one that is not visible ASCII or that contains a password.
    pub fn parse(text: &str) -> Result<Self, String> {
        let entries = if text.is_empty() { Vec::new() } else { text.split(',').collect() };
        let mut rules =
            entries.iter().map(|entry| parse_rule(entry)).collect::<Result<Vec<_>, _>>()?;
        rules.extend(default_rules());
        Ok(Self { raw: text.to_owned(), allow_any: entries.contains(&"*"), rules })
    }

    /// The text of `OLLAMA_ORIGINS`.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.raw
    }

    /// A warning about the first entry that matches no origin. Ollama accepts such entries.
    #[must_use]
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
            "OPTIONS" => CorsDecision::Preflight(self.headers(origin, true)),
            _ => CorsDecision::Allowed(self.headers(origin, false)),
        }
    }

    fn allows(&self, origin: &str) -> bool {
        // The origin is echoed into a header; no browser sends other characters.
        let visible = origin.bytes().all(|byte| byte.is_ascii_graphic());
        visible && (self.allow_any || self.rules.iter().any(|rule| rule.allows(origin)))
    }

    fn headers(&self, origin: &str, is_preflight: bool) -> ResponseHeaders {
        let (mut headers, vary): (ResponseHeaders, &[&str]) = if is_preflight {
            let fixed = vec![
                ("Access-Control-Allow-Methods", ALLOWED_METHODS.to_owned()),
                ("Access-Control-Allow-Headers", ALLOWED_HEADERS.to_owned()),
                ("Access-Control-Max-Age", MAX_AGE.to_owned()),
            ];
            let vary =
                &["Origin", "Access-Control-Request-Method", "Access-Control-Request-Headers"];
            (fixed, vary)
        } else {
            (Vec::new(), &["Origin"])
        };
        let allowed = if self.allow_any { "*" } else { origin };
        headers.push(("Access-Control-Allow-Origin", allowed.to_owned()));
        if !self.allow_any {
            headers.extend(vary.iter().map(|name| ("Vary", (*name).to_owned())));
        }
        headers
    }
}

/// Ollama's defaults.
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

/// Parses one entry. An entry with a `*` is used as it is, others are trimmed and in lower case.
fn parse_rule(entry: &str) -> Result<OriginRule, String> {
    let error = || {
        let schemes = SCHEMES.join(", ");
        format!(
            "expected comma-separated origins, each containing one * or starting with one of \
             {schemes}"
        )
    };
    let literal = entry.trim().to_ascii_lowercase();
    if !literal.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'@') {
        return Err(error());
    }
    match entry.split_once('*') {
        Some((_, behind)) if behind.contains('*') => Err(error()),
        Some((before, behind)) => Ok(OriginRule::Wildcard(before.to_owned(), behind.to_owned())),
        None if SCHEMES.iter().any(|scheme| literal.starts_with(scheme)) => {
            Ok(OriginRule::Exact(literal))
        }
        None => Err(error()),
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
