//! The upstream's base URL: parsed once, then joined with the paths of endpoints.
//!
//! Pure. A base without a path means `/v1`, a query string stays behind the path, and no joined URL has
//! `//` in its path. A user name and a password are kept apart and stand in no joined URL; `Display`,
//! `Debug` and errors never show them, nor the values of the query, where some gateways expect a key.
//! Invariant: `path` begins with one slash and does not end with one.

use std::borrow::Cow;
use std::fmt;
use std::net::{IpAddr, Ipv6Addr};

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use crate::api::openai::other_routes::OtherRoute;
use crate::net::listen_address;
use crate::upstream::basic_auth::BasicAuth;

/// Endpoints that are cut off a base that was copied with one; longest first.
const ENDPOINT_PATHS: [&str; 4] = ["/chat/completions", "/completions", "/embeddings", "/models"];

/// The path of a base without one.
const DEFAULT_PATH: &str = "/v1";

/// What the path of Azure's APIs begins with.
const AZURE_ROOT: &str = "/openai";

/// The domain of Azure's servers.
const AZURE_HOST: &str = ".openai.azure.com";

const OPENAI_HOST: &str = "api.openai.com";

const MASK: &str = "***";

/// What is wrong where a password seems to end the host.
pub(super) const UNESCAPED_PASSWORD: &str = "/, ? and # in the password must be percent-encoded";

/// What is escaped in a segment of a path: all but the unreserved characters of RFC 3986.
const ESCAPED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// The upstream's base URL, checked and in one spelling.
#[derive(Clone, PartialEq, Eq)]
pub struct BaseUrl {
    /// Scheme, host and port; the port only if it is not the scheme's own.
    origin: String,
    host: String,
    /// The one in the URL, or the scheme's own.
    port: u16,
    /// The user name and the password.
    auth: Option<BasicAuth>,
    path: String,
    /// With its question mark, or empty.
    query: String,
}

impl BaseUrl {
    /// Parses a base URL.
    ///
    /// # Errors
    /// What is wrong and what to write instead; never repeats any part of `text`.
    pub fn parse(text: &str) -> Result<Self, String> {
        if !text.chars().all(is_url_char) {
            return Err(
                "spaces, braces and other special characters must be percent-encoded".to_owned()
            );
        }
        if text.contains('#') {
            return Err("remove the fragment (# and what follows)".to_owned());
        }
        let (scheme, default_port, rest) = split_scheme(text)?;
        let authority_end = rest.find(['/', '?']).unwrap_or(rest.len());
        let (authority, rest) = rest.split_at(authority_end);
        let (path, query) = rest.split_at(rest.find('?').unwrap_or(rest.len()));

        let (auth, authority) = split_auth(authority)?;
        let (host, port) = split_authority(authority).map_err(|reason| {
            let is_cut = auth.is_none() && path.contains('@');
            if is_cut { UNESCAPED_PASSWORD.to_owned() } else { reason }
        })?;
        let explicit_port = port.filter(|port| *port != default_port);
        let shown_host = if host.contains(':') { format!("[{host}]") } else { host.clone() };
        let shown_port = explicit_port.map(|port| format!(":{port}")).unwrap_or_default();
        let origin = format!("{scheme}://{shown_host}{shown_port}");
        let query = if query == "?" { "" } else { query };
        let path = match path.trim_matches('/') {
            "" if host.ends_with(AZURE_HOST) && query.is_empty() => "/openai/v1",
            "" if host.ends_with(AZURE_HOST) => AZURE_ROOT,
            _ => path,
        };
        let (port, path) = (port.unwrap_or(default_port), normalize_path(path));
        Ok(Self { origin, host, port, auth, path, query: query.to_owned() })
    }

    /// The URL of an endpoint: `path` is relative to the base and has no query of its own, such as
    /// `chat/completions`. It must be percent-encoded.
    pub fn join(&self, path: &str) -> String {
        let Self { origin, path: base, query, .. } = self;
        format!("{origin}{base}/{}{query}", path.trim_start_matches('/'))
    }

    /// The URL of an endpoint for a model. As [`BaseUrl::join`], except for Azure's dated API (Azure
    /// OpenAI REST API reference): there the model is a part of the path, unless the base names a
    /// deployment, and the list of models is beside the deployments.
    pub fn endpoint_url(&self, path: &str, model: Option<&str>) -> String {
        let Some((root, deployment)) = self.split_azure_path() else { return self.join(path) };
        let Self { origin, query, .. } = self;
        let encode = |model: &str| utf8_percent_encode(model, ESCAPED).to_string();
        let deployment = deployment.map(str::to_owned).or_else(|| model.map(encode));
        match deployment.filter(|_| path != "models") {
            Some(deployment) => format!("{origin}{root}/deployments/{deployment}/{path}{query}"),
            None => format!("{origin}{root}/{path}{query}"),
        }
    }

    /// The URL of a place at the server's root, beside the `/v1` of the base: `path` begins with a slash. The
    /// root is behind the prefix under which a gateway has the server.
    pub fn root_url(&self, path: &str) -> String {
        let Self { origin, path: base, query, .. } = self;
        let prefix = base.strip_suffix(DEFAULT_PATH).unwrap_or_default();
        format!("{origin}{prefix}{path}{query}")
    }

    /// The URL of a route that a client names, with the client's query behind the base's own.
    pub fn route_url(&self, route: OtherRoute<'_>, model: Option<&str>) -> String {
        let url = self.endpoint_url(route.path, model);
        match route.query.strip_prefix('?') {
            None | Some("") => url,
            Some(query) if url.contains('?') => format!("{url}&{query}"),
            Some(query) => format!("{url}?{query}"),
        }
    }

    /// Whether the upstream speaks Azure's dated API, which has its own header for the key.
    pub fn is_azure_versioned(&self) -> bool {
        self.split_azure_path().is_some()
    }

    /// For Azure's dated API, which has its version in the query: the path up to `/openai`, and the
    /// deployment that the base names, if any.
    fn split_azure_path(&self) -> Option<(&str, Option<&str>)> {
        let is_dated = self.query.trim_start_matches('?').split('&').any(|part| {
            part.split_once('=').is_some_and(|(name, _)| name.eq_ignore_ascii_case("api-version"))
        });
        let end = self.path.find(AZURE_ROOT)? + AZURE_ROOT.len();
        let (root, rest) = self.path.split_at(end);
        match rest.strip_prefix("/deployments/") {
            Some(deployment) if is_dated => Some((root, Some(deployment))),
            None if is_dated && rest.is_empty() => Some((root, None)),
            _ => None,
        }
    }

    /// Scheme, host and port, for endpoints that are not below the base.
    pub fn origin(&self) -> &str {
        &self.origin
    }

    /// The host in lower case; an IPv6 address without its brackets.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The port, also where it is the scheme's own.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Whether the upstream is reached over TLS.
    pub fn is_https(&self) -> bool {
        self.origin.starts_with("https:")
    }

    /// The user name and the password before the host.
    pub fn auth(&self) -> Option<&BasicAuth> {
        self.auth.as_ref()
    }

    /// Whether the upstream runs on this machine: `localhost`, a name under it, or a loopback
    /// address.
    pub fn is_loopback(&self) -> bool {
        let name = self.host.trim_end_matches('.');
        name == "localhost"
            || name.ends_with(".localhost")
            || name.parse().is_ok_and(|address: IpAddr| address.to_canonical().is_loopback())
    }

    /// Whether the upstream is OpenAI's own server, which requires a key.
    pub fn is_openai(&self) -> bool {
        self.host.trim_end_matches('.') == OPENAI_HOST
    }
}

/// OpenAI's own server.
impl Default for BaseUrl {
    fn default() -> Self {
        Self {
            origin: format!("https://{OPENAI_HOST}"),
            host: OPENAI_HOST.to_owned(),
            port: 443,
            auth: None,
            path: DEFAULT_PATH.to_owned(),
            query: String::new(),
        }
    }
}

/// The URL, with its user name, its password and the values of its query masked.
impl BaseUrl {
    /// The URL without user name, password and query.
    pub fn without_secrets(&self) -> String {
        format!("{}{}", self.origin, self.path)
    }
}

impl fmt::Display for BaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { origin, path, query, .. } = self;
        let query = query.strip_prefix('?').map(|query| format!("?{}", mask_query(query)));
        let origin = match &self.auth {
            Some(_) => origin.replacen("://", &format!("://{MASK}@"), 1),
            None => origin.clone(),
        };
        write!(f, "{origin}{path}{}", query.unwrap_or_default())
    }
}

impl fmt::Debug for BaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BaseUrl({self})")
    }
}

/// Masks what could be a user name, a password, a query's value or a fragment in a text that may hold
/// a URL, valid or not.
pub fn mask_url(text: &str) -> Cow<'_, str> {
    if !text.contains(['@', '?', '#']) {
        return Cow::Borrowed(text);
    }
    let (scheme, rest) = match text.split_once("://") {
        Some((scheme, rest)) if !scheme.contains(['@', '?', '#']) => (Some(scheme), rest),
        _ => (None, text),
    };
    // A password may hold any of the other marks, so the last `@` decides.
    let (user, rest) = match rest.rsplit_once('@') {
        // The `@` may as well be part of a query's value or a fragment, which does not end there.
        Some((before, _)) if before.contains(['?', '#']) => ("***@", MASK),
        Some((_, rest)) => ("***@", rest),
        None => ("", rest),
    };
    let (rest, fragment) = match rest.split_once('#') {
        Some((rest, _)) => (rest, "#***"),
        None => (rest, ""),
    };
    let (rest, query) = match rest.split_once('?') {
        Some((rest, query)) => (rest, format!("?{}", mask_query(query))),
        None => (rest, String::new()),
    };
    let scheme = scheme.map(|scheme| format!("{scheme}://")).unwrap_or_default();
    Cow::Owned(format!("{scheme}{user}{rest}{query}{fragment}"))
}

/// `a=1&b` as `a=***&***`: a part without a name may itself be the secret.
fn mask_query(query: &str) -> String {
    let mask_part = |part: &str| match part.split_once('=') {
        Some((name, _)) => format!("{name}={MASK}"),
        None => MASK.to_owned(),
    };
    query.split('&').map(mask_part).collect::<Vec<_>>().join("&")
}

/// Printable ASCII that RFC 3986 lets stand in a URL as it is.
fn is_url_char(c: char) -> bool {
    c.is_ascii_graphic() && !matches!(c, '"' | '<' | '>' | '\\' | '^' | '`' | '{' | '|' | '}')
}

/// The scheme, its port, and what follows.
fn split_scheme(text: &str) -> Result<(&'static str, u16, &str), String> {
    let (scheme, rest) = text.split_once("://").unwrap_or(("", text));
    match scheme.to_ascii_lowercase().as_str() {
        "http" => Ok(("http", 80, rest)),
        "https" => Ok(("https", 443, rest)),
        _ => Err("must start with http:// or https://, as in https://api.openai.com/v1 or \
                  http://localhost:8080/v1"
            .to_owned()),
    }
}

/// The user name and password before the last `@`, if there is one, and what follows.
pub(super) fn split_auth(authority: &str) -> Result<(Option<BasicAuth>, &str), String> {
    match authority.rsplit_once('@') {
        Some(("" | ":", rest)) => Ok((None, rest)),
        Some((auth, rest)) => Ok((Some(BasicAuth::parse(auth)?), rest)),
        None => Ok((None, authority)),
    }
}

/// Host and port of `host`, `host:port`, `[v6]` or `[v6]:port`.
pub(super) fn split_authority(authority: &str) -> Result<(String, Option<u16>), String> {
    let (host, port) = listen_address::split_port(authority);
    if authority.starts_with('[') {
        let address: Ipv6Addr = host
            .parse()
            .map_err(|_| "the brackets must hold an IPv6 address, such as [::1]".to_owned())?;
        return Ok((address.to_string(), parse_port(port)?));
    }
    if host.contains(':') {
        return Err("an IPv6 address needs brackets, as in http://[::1]:8080/v1".to_owned());
    }
    let port = parse_port(port)?;
    if host.is_empty() {
        return Err("the host is missing, as in http://localhost:8080/v1".to_owned());
    }
    if !host.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_')) {
        return Err(
            "the host may hold letters, digits, dots, hyphens and underscores only".to_owned()
        );
    }
    Ok((host.to_ascii_lowercase(), port))
}

/// A port from 1 to 65535; without digits it is the scheme's own.
fn parse_port(text: Option<&str>) -> Result<Option<u16>, String> {
    let Some(text) = text.filter(|text| !text.is_empty()) else { return Ok(None) };
    let digits = text.bytes().all(|b| b.is_ascii_digit());
    match text.parse() {
        Ok(port) if digits && port > 0 => Ok(Some(port)),
        _ => Err("the port must be a number from 1 to 65535".to_owned()),
    }
}

/// One slash between segments, none at the end, no endpoint, and never empty.
fn normalize_path(path: &str) -> String {
    let segments = path.split('/').filter(|segment| !segment.is_empty());
    let mut normal: String = segments.flat_map(|segment| ["/", segment]).collect();
    if let Some(base) = ENDPOINT_PATHS.iter().find_map(|endpoint| normal.strip_suffix(endpoint)) {
        normal.truncate(base.len());
    }
    if normal.is_empty() { DEFAULT_PATH.to_owned() } else { normal }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> BaseUrl {
        BaseUrl::parse(text).unwrap_or_else(|error| panic!("{text}: {error}"))
    }

    #[track_caller]
    fn check(base: &str, expected: &str) {
        let url = parse(base);
        assert_eq!(url.join("chat/completions"), expected, "{base}");
        assert_eq!(url.join("/chat/completions"), expected, "{base}, path with a slash");
    }

    #[track_caller]
    fn check_parts(base: &str, host: &str, origin: &str) {
        let url = parse(base);
        assert_eq!((url.host(), url.origin()), (host, origin), "{base}");
    }

    #[track_caller]
    fn check_refused(base: &str, word: &str) {
        let error = BaseUrl::parse(base).expect_err(base);
        assert!(error.contains(word), "{base}: {error}");
        assert!(!error.contains("s3cret"), "{base}: {error}");
        let shown = mask_url(base);
        assert!(!shown.contains("s3cret"), "{base}: {shown}");
    }

    #[test]
    fn a_base_and_a_path_become_one_url() {
        check("https://api.openai.com/v1", "https://api.openai.com/v1/chat/completions");
        check("https://api.openai.com/v1/", "https://api.openai.com/v1/chat/completions");
        check("https://openrouter.ai/api/v1", "https://openrouter.ai/api/v1/chat/completions");
        let groq = "https://api.groq.com/openai/v1";
        check(&format!("{groq}//"), &format!("{groq}/chat/completions"));
        check("http://h/a//b", "http://h/a/b/chat/completions");
        check("HTTP://LocalHost:8080/V1", "http://localhost:8080/V1/chat/completions");
        check("http://[0:0::1]:8080/v1", "http://[::1]:8080/v1/chat/completions");
        check("http://h:80/v1", "http://h/v1/chat/completions");
        check("http://h:443/v1", "http://h:443/v1/chat/completions");
        check("https://h:/v1", "https://h/v1/chat/completions");
    }

    #[test]
    fn a_base_without_a_path_gets_v1() {
        check("http://h:1234", "http://h:1234/v1/chat/completions");
        check("http://h:1234/", "http://h:1234/v1/chat/completions");
        check("http://h:1234//", "http://h:1234/v1/chat/completions");
        check("http://h:1234?a=1", "http://h:1234/v1/chat/completions?a=1");
        let beta = "https://g.example/v1beta/openai";
        check(beta, &format!("{beta}/chat/completions"));
    }

    #[test]
    fn a_query_stays_behind_the_path() {
        check("http://h/v1?a=1&b=2", "http://h/v1/chat/completions?a=1&b=2");
        check("http://h/v1/?a=x/y?z", "http://h/v1/chat/completions?a=x/y?z");
        check("http://h/v1?", "http://h/v1/chat/completions");
    }

    #[test]
    fn azure_has_the_model_in_its_path_and_its_list_beside_the_deployments() {
        let check = |base: &str, path: &str, expected: &str| {
            assert_eq!(parse(base).endpoint_url(path, Some("a b/c")), expected, "{base}");
        };
        let version = "?api-version=2024-10-21";
        let root = "https://r.openai.azure.com/openai";
        for base in [format!("{root}{version}"), format!("https://r.openai.azure.com{version}")] {
            let chat = format!("{root}/deployments/a%20b%2Fc/chat/completions{version}");
            check(&base, "chat/completions", &chat);
            check(&base, "models", &format!("{root}/models{version}"));
            assert!(parse(&base).is_azure_versioned());
        }
        let base = format!("{root}/deployments/mine{version}");
        let chat = format!("{root}/deployments/mine/chat/completions{version}");
        check(&base, "chat/completions", &chat);
        check(&base, "models", &format!("{root}/models{version}"));
        // A gateway in front of it may have a path of its own.
        let base = format!("http://gw/azure/openai/deployments/mine{version}&x=1");
        let chat = format!("http://gw/azure/openai/deployments/mine/embeddings{version}&x=1");
        check(&base, "embeddings", &chat);
        for base in ["https://r.openai.azure.com", "https://r.openai.azure.com/openai/v1"] {
            check(base, "models", "https://r.openai.azure.com/openai/v1/models");
            assert!(!parse(base).is_azure_versioned(), "{base}");
        }
        check("http://h/v1", "models", "http://h/v1/models");
        check("https://api.groq.com/openai/v1", "models", "https://api.groq.com/openai/v1/models");
        assert_eq!(
            parse(&format!("{root}{version}")).endpoint_url("chat/completions", None),
            format!("{root}/chat/completions{version}")
        );
    }

    #[test]
    fn a_pasted_endpoint_is_cut_off() {
        for endpoint in ["chat/completions", "completions", "models", "embeddings", "models/"] {
            check(&format!("http://h/v1/{endpoint}"), "http://h/v1/chat/completions");
            check(&format!("http://h/{endpoint}"), "http://h/v1/chat/completions");
        }
        let azure = "https://r.example/openai/deployments/d/chat/completions?api-version=1";
        check(azure, azure);
        check("http://h/mymodels", "http://h/mymodels/chat/completions");
        check("http://h/models/v1", "http://h/models/v1/chat/completions");
    }

    #[test]
    fn host_and_port_are_told() {
        check_parts("https://API.OpenAI.com/v1", "api.openai.com", "https://api.openai.com");
        check_parts("http://h", "h", "http://h");
        check_parts("http://[::1]", "::1", "http://[::1]");
        check_parts("http://[2001:DB8::1]:65535/x", "2001:db8::1", "http://[2001:db8::1]:65535");
        check_parts(
            "http://my_backend.local:8000",
            "my_backend.local",
            "http://my_backend.local:8000",
        );
        assert_eq!(parse("http://[::1]:8080/v1?a=1").origin(), "http://[::1]:8080");
    }

    #[test]
    fn loopback_and_openai_are_known() {
        for base in ["localhost", "a.LOCALHOST", "localhost.", "127.0.0.1", "127.9.9.9"] {
            assert!(parse(&format!("http://{base}:1/v1")).is_loopback(), "{base}");
        }
        assert!(parse("http://[::1]").is_loopback());
        assert!(parse("http://[::ffff:127.0.0.1]").is_loopback());
        for base in ["notlocalhost", "localhost.example.com", "128.0.0.1", "[::2]", "0.0.0.0"] {
            assert!(!parse(&format!("http://{base}")).is_loopback(), "{base}");
        }
        assert!(parse("http://API.openai.COM").is_openai());
        assert!(parse("https://api.openai.com.:443/v2").is_openai());
        assert!(!parse("https://api.openai.com.example.org").is_openai());
        assert!(!parse("https://example.org/api.openai.com").is_openai());
    }

    #[test]
    fn what_cannot_be_used_is_refused_with_what_to_write() {
        check_refused("localhost:8080/v1", "http://localhost:8080/v1");
        check_refused("api.openai.com/v1", "must start with");
        check_refused("//h/v1", "must start with");
        check_refused("http:/h/v1", "must start with");
        check_refused("ftp://h/v1", "must start with");
        check_refused("http://h /v1", "spaces");
        check_refused("http://h/\nv1", "spaces");
        check_refused("http://h/{deployment}", "braces");
        check_refused("http://ü.example/v1", "percent-encoded");
        check_refused("http://h/v1#s3cret", "fragment");
        check_refused("http://", "host is missing");
        check_refused("http://:80/v1", "host is missing");
        check_refused("http:///v1", "host is missing");
        check_refused("http://h:0/v1", "port");
        check_refused("http://h:65536/v1", "port");
        check_refused("http://h:+80/v1", "port");
        check_refused("http://::1:8080/v1", "brackets");
        check_refused("http://[::1/v1", "IPv6");
        check_refused("http://[::1]x/v1", "IPv6");
        check_refused("http://[h]/v1", "IPv6");
        check_refused("http://h,i/v1", "letters");
        check_refused("http://me%3A:s3cret@h/v1", "user name");
        check_refused("http://me:s3cret%ff@h/v1", "UTF-8");
        check_refused("http://me:s3cret@/v1", "host is missing");
        check_refused("http://me:s3cret@h:x/v1", "port");
        check_refused("http://me:s3/cret@h/v1", "percent-encoded");
        check_refused("me:s3cret@h/v1", "must start with");
        check_refused("http://me:s3/cret?s3cret#@h/v1", "fragment");
        check_refused("h/v1?key=s3cret", "must start with");
    }

    #[test]
    fn the_values_of_a_query_are_never_shown() {
        let url = parse("http://h/v1?key=s3cret&s3cret&v=");
        assert_eq!(url.to_string(), "http://h/v1?key=***&***&v=***");
        assert_eq!(format!("{url:?}"), "BaseUrl(http://h/v1?key=***&***&v=***)");
        assert!(url.join("models").contains("s3cret"), "it is sent all the same");
    }

    #[test]
    fn the_root_is_behind_the_prefix_and_keeps_the_query() {
        for (base, expected) in [
            ("http://h", "http://h/props"),
            ("http://h/v1", "http://h/props"),
            ("http://h:1/llama/v1/?key=a", "http://h:1/llama/props?key=a"),
            ("http://[::1]:8080/v1", "http://[::1]:8080/props"),
            // Nothing tells where the root is.
            ("http://h/compatible-mode", "http://h/props"),
            ("http://h/xv1", "http://h/props"),
        ] {
            assert_eq!(parse(base).root_url("/props"), expected, "{base}");
        }
    }

    #[test]
    fn a_user_name_and_a_password_stand_in_no_url_and_are_never_shown() {
        let url = parse("http://us3r:s3cret@h:8080/v1");
        let header = "Basic dXMzcjpzM2NyZXQ=";
        assert_eq!(url.auth().map(|auth| auth.header_value().expose()), Some(header));
        assert_eq!(url.join("models"), "http://h:8080/v1/models");
        assert_eq!((url.origin(), url.host(), url.port()), ("http://h:8080", "h", 8080));
        assert_eq!(url.to_string(), "http://***@h:8080/v1");
        assert_eq!(format!("{url:?}"), "BaseUrl(http://***@h:8080/v1)");
        assert_eq!(mask_url("http://us3r:s3cret@h:8080/v1"), url.to_string());
        for base in ["http://h/v1", "http://@h/v1", "http://:@h/v1"] {
            assert_eq!(parse(base).auth(), None, "{base}");
        }
        // The last `@` ends a password that was not escaped.
        let url = parse("http://me:a@b@[::1]/v1");
        assert_eq!((url.host(), url.port()), ("::1", 80));
        assert_eq!(url.auth().map(|auth| auth.password().expose()), Some("a@b"));
    }

    #[test]
    fn a_secret_with_an_at_sign_in_a_query_is_masked_to_its_end() {
        let url = BaseUrl::parse("http://h/v1?code=half@s3cret").expect("a base URL");
        assert_eq!(url.to_string(), "http://h/v1?code=***");
        assert_eq!(format!("{url:?}"), "BaseUrl(http://h/v1?code=***)");
        for text in ["ftp://h/?code=half@s3cret", "h?half@s3cret", "http://h#half@s3cret"] {
            assert!(!mask_url(text).contains("s3cret"), "{}", mask_url(text));
            assert_eq!(mask_url(&mask_url(text)), mask_url(text));
        }
        // It cannot be told whose password this is.
        assert_eq!(mask_url("http://u:p?w@h"), "http://***@***");
    }

    #[test]
    fn masking_leaves_other_text_alone() {
        assert_eq!(mask_url("12 MiB"), "12 MiB");
        assert_eq!(mask_url("http://h/v1"), "http://h/v1");
        assert_eq!(mask_url("http://a:b@h/v1?x=1#f"), "http://***@h/v1?x=***#***");
        assert_eq!(mask_url("a@b://c"), "***@b://c");
        assert_eq!(mask_url("http://a:b@c@h"), "http://***@h");
        assert_eq!(mask_url(&mask_url("http://a@h?x=1&y#z")), mask_url("http://a@h?x=1&y#z"));
    }

    #[test]
    fn the_default_is_openai() {
        assert_eq!(BaseUrl::default(), parse("https://api.openai.com"));
    }
}
