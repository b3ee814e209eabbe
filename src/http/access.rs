//! Access control: CORS, then the check of `Host` as in Ollama (server/routes.go), then the client
//! key.
//!
//! The check of `Host` keeps web pages from reaching a server on loopback by a name that they point
//! there (DNS rebinding). A server that listens elsewhere is meant to be reached by other names, so
//! it has no such check. Pure: facts about the machine come in as [`HostInfo`].
//! Invariant: CORS comes first. A preflight never has a key and must succeed all the same, and a
//! refusal carries the CORS headers of an allowed origin, so that a page can read it.
//!
//! # Origins
//!
//! Allowed by default, as in Ollama (envconfig/config.go): `http` and `https` origins of
//! `localhost`, `127.0.0.1` and `0.0.0.0` with any port, and `app://`, `file://`, `tauri://`,
//! `vscode-webview://` and `vscode-file://`. `OLLAMA_ORIGINS` adds origins, each with at most one
//! `*`. Other origins get an empty 403. A preflight of an allowed origin gets 204, with or without
//! a key and for any path. The allowed request headers are Ollama's: `Authorization` is one of
//! them, `x-api-key` is not.
//!
//! The status page's routes are for pages of the proxy itself only, whatever is allowed elsewhere; see
//! [`crate::http::same_origin`].
//!
//! # Hosts
//!
//! On a loopback address the `Host` must be local, or the request gets an empty 403. Local are:
//! loopback, private and unspecified addresses, addresses and the name of this machine,
//! `localhost`, and names that end in `.localhost`, `.local` or `.internal`. On other addresses any
//! host is accepted.
//!
//! # Keys
//!
//! With `PROXY_API_KEYS` or `PROXY_API_KEYS_FILE` every route needs a key, except `GET` and `HEAD`
//! of `/`, `/health` and the files of the status page, which hold no data. Accepted are:
//!
//! - `Authorization: Bearer KEY`: clients of OpenAI and Ollama;
//! - `x-api-key: KEY`: clients of Anthropic;
//! - `Authorization: Basic`: the password is the key, or the user name if there is no password.
//!
//! Without a valid key a request gets 401 with two `WWW-Authenticate` headers, in the error format
//! of its route; its body is not read. The page of the proxy itself gets no challenge for `Basic`, at which a
//! browser would ask for a password in a window of its own. An address that sends many wrong keys gets 429
//! ([`crate::http::wrong_keys`]). A key has 8 to 512 visible ASCII characters without commas; how many there
//! are does not matter. They are read at the start. Those with names may have limits
//! ([`crate::http::named_keys`]); all others have the same rights. A client's key never
//! goes upstream, and the upstream's key never goes to a client. Without keys, every process and
//! user of the machine has access, and so have containers in its network.

use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::error::{Error, KeyLimit};
use crate::http::client_keys::{ClientKeys, Credentials, FoundKey};
use crate::http::cors::{CorsDecision, CorsPolicy, MAX_HOST_BYTES, ResponseHeaders};
use crate::http::named_keys::{ClientKey, REFUSAL_WORDS};
use crate::http::routes::split_absolute_form;
use crate::http::same_origin;
use crate::net::listen_address;
use crate::observe::redact::Secret;

/// Suffixes of names of this machine or its network.
const LOCAL_SUFFIXES: [&str; 3] = [".localhost", ".local", ".internal"];

/// Characters of a header that are logged.
const MAX_LOGGED_CHARS: usize = 100;

/// The rules for one listening socket.
pub struct AccessControl {
    origins: CorsPolicy,
    keys: ClientKeys,
    /// Those of the keys that have names, in their order.
    named: Arc<[Arc<ClientKey>]>,
    /// `None` if any host is allowed.
    host_info: Option<HostInfo>,
    /// Whether it was said what to do about a refused origin, and about a refused host.
    is_told: [AtomicBool; 2],
}

/// What the check of `Host` needs to know about the machine.
#[derive(Clone, Debug)]
pub struct HostInfo {
    /// Its name; empty when unknown.
    pub hostname: String,
    /// True if one of its interfaces has the address.
    pub has_address: fn(IpAddr) -> bool,
}

/// The parts of a request that access depends on. No `Debug`, because it holds a key.
#[derive(Clone, Copy, Default)]
pub struct RequestInfo<'a> {
    /// Its method.
    pub method: &'a str,
    /// Its target as it stands in the request line.
    pub target: &'a str,
    /// Its header `Origin`.
    pub origin: Option<&'a str>,
    /// Its header `Host`.
    pub host: Option<&'a str>,
    /// Its client key.
    pub credentials: Credentials<'a>,
    /// Its header `Sec-Fetch-Site`.
    pub fetch_site: Option<&'a str>,
    /// True if its route needs no key.
    pub is_public: bool,
    /// True if its route is for pages of the proxy itself only.
    pub is_same_origin: bool,
}

/// The response to a request that does not reach its route.
#[derive(Clone, Debug, PartialEq)]
pub enum EarlyResponse {
    /// This status and no body.
    Empty(u16),
    /// This error.
    Fail(Error),
}

/// The decision about a request.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct AccessDecision {
    /// `None` if the request goes on to its route.
    pub response: Option<EarlyResponse>,
    /// Headers for its response, be it this response or the route's.
    pub headers: ResponseHeaders,
    /// Why it is refused, for the log.
    pub denial_reason: Option<Denial>,
    /// True if it needs a key, and has one.
    pub has_right_key: bool,
    /// That key, if it has a name.
    pub key: Option<Arc<ClientKey>>,
    /// True if a page of the proxy itself sent it, as far as one can tell.
    pub is_from_own_page: bool,
}

/// Why a request does not reach its route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Denial {
    /// Its origin is not allowed; the beginning of it.
    Origin(String),
    /// Its host is not local; the beginning of it.
    Host(String),
    /// It has no key.
    NoKey,
    /// It has a wrong key.
    WrongKey,
    /// It has a wrong key, and its address has sent too many.
    TooManyWrongKeys,
    /// Its key has reached a limit.
    KeyLimit(KeyLimit),
    /// Its key may not use the model.
    ModelNotAllowed,
}

impl Denial {
    /// The words of all reasons that need no key with a name, for metrics.
    pub const WORDS: [&str; 5] = ["origin", "host", "no_key", "wrong_key", "too_many_wrong_keys"];

    /// The word for log and metrics.
    pub fn word(&self) -> &'static str {
        let place = match self {
            Self::Origin(_) => 0,
            Self::Host(_) => 1,
            Self::NoKey => 2,
            Self::WrongKey => 3,
            Self::TooManyWrongKeys => 4,
            Self::KeyLimit(limit) => return limit.word(),
            Self::ModelNotAllowed => return REFUSAL_WORDS[3],
        };
        Self::WORDS[place]
    }

    /// For the log: what to do, where the client cannot know it.
    fn advice(&self) -> Option<String> {
        match self {
            Self::Origin(origin) => Some(format!(
                "origin {origin:?} is not allowed: add it to OLLAMA_ORIGINS if its pages may use this proxy"
            )),
            Self::Host(host) => Some(format!(
                "host {host:?} is not local: let the reverse proxy send \"Host: localhost\", or listen on \
                 an address of the network (OLLAMA_HOST)"
            )),
            _ => None,
        }
    }

    /// For the log: the origin or the host. Never a key.
    pub fn value(&self) -> Option<&str> {
        match self {
            Self::Origin(value) | Self::Host(value) => Some(value),
            Self::NoKey
            | Self::WrongKey
            | Self::TooManyWrongKeys
            | Self::KeyLimit(_)
            | Self::ModelNotAllowed => None,
        }
    }
}

impl AccessControl {
    /// The rules for a socket that is bound to `listen_address`. Without keys, none is needed.
    pub fn new(
        origins: CorsPolicy,
        keys: ClientKeys,
        listen_address: IpAddr,
        host_info: HostInfo,
    ) -> Self {
        let host_info = listen_address.to_canonical().is_loopback().then_some(host_info);
        Self { origins, keys, named: Arc::new([]), host_info, is_told: Default::default() }
    }

    /// The same rules with what is known of the keys that have names, in the order of the keys.
    #[must_use]
    pub fn with_named_keys(self, named: Arc<[Arc<ClientKey>]>) -> Self {
        Self { named, ..self }
    }

    /// What to do about a refusal, the first time under these rules: each refusal has its own line, too.
    pub fn first_advice(&self, denial: &Denial) -> Option<String> {
        let is_told = match denial {
            Denial::Origin(_) => &self.is_told[0],
            Denial::Host(_) => &self.is_told[1],
            _ => return None,
        };
        if is_told.swap(true, Ordering::Relaxed) { None } else { denial.advice() }
    }

    /// The key that a request sends for the upstream: none of the keys that clients need here.
    pub fn find_foreign_key(&self, credentials: Credentials<'_>) -> Option<Secret> {
        self.keys.find_foreign(credentials)
    }

    /// Decides about a request.
    pub fn decide(&self, request: &RequestInfo<'_>) -> AccessDecision {
        let host = effective_host(request.target, request.host);
        if request.is_same_origin {
            return self.decide_same_origin(request, host);
        }
        let headers = match self.origins.decide(request.method, request.origin, host) {
            CorsDecision::Refused => {
                return deny(Denial::Origin(shorten(request.origin.unwrap_or_default())));
            }
            CorsDecision::Preflight(headers) => {
                return AccessDecision { headers, ..answer_empty(204) };
            }
            CorsDecision::Allowed(headers) => headers,
        };
        let decision = self
            .check_host(request.method, host)
            .unwrap_or_else(|| self.check_credentials(request));
        let is_from_own_page = request.fetch_site == Some("same-origin");
        AccessDecision { headers, is_from_own_page, ..decision }
    }

    /// Decides about a request of a route that is for pages of the proxy itself.
    fn decide_same_origin(&self, request: &RequestInfo<'_>, host: &str) -> AccessDecision {
        let site = (request.origin, request.fetch_site);
        let foreign = same_origin::find_foreign(site, host, request.is_public);
        let denied = foreign.map(|value| deny(Denial::Origin(shorten(value))));
        let decision = denied
            .or_else(|| self.check_host(request.method, host))
            .unwrap_or_else(|| self.check_credentials(request));
        AccessDecision { headers: same_origin::headers(), is_from_own_page: true, ..decision }
    }

    /// The response to a request whose `Host` is not allowed, or is named by a plain `OPTIONS`.
    fn check_host(&self, method: &str, host: &str) -> Option<AccessDecision> {
        let host_info = self.host_info.as_ref()?;
        let host = strip_port(host);
        if host.parse().is_ok_and(|address| host_info.is_local(address)) {
            return None;
        }
        let is_short = host.len() <= MAX_HOST_BYTES;
        if !is_short || !host_info.is_local_name(&host.to_ascii_lowercase()) {
            return Some(deny(Denial::Host(shorten(host))));
        }
        (method == "OPTIONS").then(|| answer_empty(204))
    }

    fn check_credentials(&self, request: &RequestInfo<'_>) -> AccessDecision {
        if request.is_public || self.keys.is_empty() {
            return AccessDecision::default();
        }
        if let Some(found) = self.keys.find_key(request.credentials) {
            let key = match found {
                FoundKey::Named(place) => self.named.get(place).cloned(),
                FoundKey::Nameless => None,
            };
            return AccessDecision { has_right_key: true, key, ..AccessDecision::default() };
        }
        let is_missing = request.credentials.are_missing();
        let denial = if is_missing { Denial::NoKey } else { Denial::WrongKey };
        AccessDecision {
            response: Some(EarlyResponse::Fail(Error::Unauthorized)),
            denial_reason: Some(denial),
            ..AccessDecision::default()
        }
    }
}

impl HostInfo {
    fn is_local(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        let private = match address {
            IpAddr::V4(address) => address.is_private(),
            IpAddr::V6(address) => address.is_unique_local(),
        };
        private || address.is_loopback() || address.is_unspecified() || (self.has_address)(address)
    }

    fn is_local_name(&self, host: &str) -> bool {
        host.is_empty()
            || host == "localhost"
            || host == self.hostname.to_ascii_lowercase()
            || LOCAL_SUFFIXES.iter().any(|ending| host.ends_with(ending))
    }
}

/// A header's value for the log.
fn shorten(value: &str) -> String {
    value.chars().take(MAX_LOGGED_CHARS).collect()
}

fn answer_empty(status: u16) -> AccessDecision {
    AccessDecision { response: Some(EarlyResponse::Empty(status)), ..AccessDecision::default() }
}

fn deny(denial: Denial) -> AccessDecision {
    AccessDecision { denial_reason: Some(denial), ..answer_empty(403) }
}

/// The host that a request is for. The absolute form of the target overrides the header (RFC 9112
/// section 3.2.2).
fn effective_host<'a>(target: &'a str, header: Option<&'a str>) -> &'a str {
    let (authority, _) = split_absolute_form(target);
    let host = authority.rsplit('@').next().unwrap_or_default();
    if host.is_empty() { header.unwrap_or_default() } else { host }
}

/// The host without port and without the brackets of an IPv6 address. Text with several colons and
/// no brackets stays as it is.
fn strip_port(host: &str) -> &str {
    let (name, _) = listen_address::split_port(host);
    let has_brackets = host.starts_with('[') && host.contains(']');
    if has_brackets && name.parse::<Ipv6Addr>().is_err() { host } else { name }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn control(bound: &str) -> AccessControl {
        let has_address = |address: IpAddr| address.to_string() == "203.0.113.5";
        let host_info = HostInfo { hostname: "Workshop".into(), has_address };
        let (origins, keys) = (CorsPolicy::default(), ClientKeys::default());
        AccessControl::new(origins, keys, bound.parse().expect("an address"), host_info)
    }

    fn request<'a>(method: &'a str, target: &'a str, host: Option<&'a str>) -> RequestInfo<'a> {
        RequestInfo { method, target, host, ..RequestInfo::default() }
    }

    /// The status of a decision; 0 if the request goes on to its route.
    fn status(decision: &AccessDecision) -> u16 {
        match &decision.response {
            None => 0,
            Some(EarlyResponse::Empty(status)) => *status,
            Some(EarlyResponse::Fail(error)) => error.status().unwrap_or_default(),
        }
    }

    /// The status for a plain GET and a plain OPTIONS; 0 if the request goes on to its route.
    #[track_caller]
    fn check(bound: &str, host: &str, get: u16, options: u16) {
        for (method, expected) in [("GET", get), ("OPTIONS", options)] {
            let decision = control(bound).decide(&request(method, "/", Some(host)));
            let is_denied = decision.denial_reason.is_some();
            let found = (status(&decision), is_denied, decision.headers.len());
            assert_eq!(found, (expected, expected == 403, 0), "{bound} {method} {host:?}");
        }
    }

    #[test]
    fn what_to_do_about_a_refused_host_or_origin_is_told_once() {
        let control = control("127.0.0.1");
        let told = |denial: Denial| control.first_advice(&denial);
        let host = told(Denial::Host("ollama.example.com".to_owned())).expect("the first one");
        assert!(
            host.contains("\"ollama.example.com\"") && host.contains("Host: localhost"),
            "{host}"
        );
        assert_eq!(told(Denial::Host("other.example.com".to_owned())), None);
        let origin = told(Denial::Origin("https://a.test".to_owned())).expect("the first one");
        assert!(
            origin.contains("\"https://a.test\"") && origin.contains("OLLAMA_ORIGINS"),
            "{origin}"
        );
        for denial in [Denial::NoKey, Denial::WrongKey, Denial::TooManyWrongKeys] {
            assert_eq!(told(denial), None);
        }
    }

    #[test]
    fn local_addresses_go_on_to_their_route() {
        for host in "127.0.0.1 127.0.0.1:11434 127.8.9.1:80 10.1.2.3 172.16.0.1:1 172.31.255.255 \
                     192.168.1.5:11434 0.0.0.0:11434 203.0.113.5 203.0.113.5:11434 [::1]:11434 \
                     [::1] ::1 [::]:1 [fd00::7]:11434 [fcff::] [::ffff:127.0.0.1]:1"
            .split(' ')
        {
            check("127.0.0.1", host, 0, 0);
            check("::1", host, 0, 0);
        }
    }

    #[test]
    fn local_names_go_on_and_a_plain_options_gets_a_204() {
        for host in "|:11434|localhost|LocalHost:11434|localhost:|workshop|WORKSHOP:80|\
                     app.localhost|printer.local:11434|host.docker.internal:11434|\
                     HOST.DOCKER.INTERNAL"
            .split('|')
        {
            check("127.0.0.1", host, 0, 204);
        }
        let decision = control("127.0.0.1").decide(&request("OPTIONS", "/", None));
        assert_eq!(status(&decision), 204, "no header is an empty one");
    }

    #[test]
    fn all_others_are_refused_on_loopback() {
        for host in "example.com example.com:11434 localhost.example.com evil-localhost local \
                     internal workshop.example.com 203.0.113.6 8.8.8.8:11434 172.32.0.1 \
                     [2001:db8::1]:11434 [fe80::1] [localhost] [::1]x [::1 a:b:c \
                     localhost@example.com localhost. 127.0.0.1.nip.io"
            .split(' ')
        {
            check("127.0.0.1", host, 403, 403);
            check("127.9.9.9", host, 403, 403);
        }
    }

    #[test]
    fn elsewhere_than_on_loopback_any_host_is_allowed() {
        for bound in ["0.0.0.0", "::", "192.168.1.5"] {
            for host in ["example.com", "localhost", "8.8.8.8", ""] {
                check(bound, host, 0, 0);
            }
        }
        check("::ffff:127.0.0.1", "example.com", 403, 403);
    }

    #[test]
    fn a_machine_without_a_known_name_allows_no_more_names() {
        let host_info = HostInfo { hostname: String::new(), has_address: |_| false };
        let control = AccessControl { host_info: Some(host_info), ..control("127.0.0.1") };
        let status = |host| status(&control.decide(&request("GET", "/", Some(host))));
        assert_eq!((status("workshop"), status("localhost")), (403, 0));
    }

    #[test]
    fn the_absolute_form_of_the_target_overrides_the_header() {
        for (target, header, expected) in [
            ("http://example.com/api/tags", "localhost", 403),
            ("https://example.com?x", "localhost", 403),
            ("http://localhost@example.com/", "localhost", 403),
            ("http://localhost:11434/api/tags", "example.com", 0),
            ("http:///api/tags", "example.com", 403),
            ("/http://localhost/", "example.com", 403),
            ("ftp://localhost/", "example.com", 403),
        ] {
            let decision = control("127.0.0.1").decide(&request("GET", target, Some(header)));
            assert_eq!(status(&decision), expected, "{target} {header}");
        }
    }

    /// Access control with a key, not on loopback.
    fn keyed() -> AccessControl {
        let keys = ClientKeys::parse("first-key-1").expect("a key");
        AccessControl { keys, ..control("0.0.0.0") }
    }

    /// The status, and the number of headers.
    #[track_caller]
    fn check_order(control: &AccessControl, table: &[(&str, Option<&str>, &str, u16, usize)]) {
        for (method, origin, host, expected, headers) in table {
            let request =
                RequestInfo { origin: *origin, ..request(method, "/api/tags", Some(host)) };
            let decision = control.decide(&request);
            assert_eq!(decision.denial_reason.is_some(), *expected > 400);
            let found = (status(&decision), decision.headers.len());
            assert_eq!(found, (*expected, *headers), "{method} {origin:?} {host}");
        }
    }

    const NEAR: Option<&str> = Some("http://localhost:3000");
    const FAR: Option<&str> = Some("http://evil.test");

    #[test]
    fn cors_comes_before_the_host() {
        let table = [
            ("OPTIONS", NEAR, "example.com", 204, 7),
            ("OPTIONS", NEAR, "localhost", 204, 7),
            ("OPTIONS", NEAR, "127.0.0.1", 204, 7),
            ("GET", NEAR, "example.com", 403, 2),
            ("GET", NEAR, "localhost", 0, 2),
            ("GET", FAR, "localhost", 403, 0),
            ("OPTIONS", FAR, "localhost", 403, 0),
            ("OPTIONS", Some("http://localhost"), "localhost", 204, 0),
            ("GET", FAR, "evil.test", 403, 0),
        ];
        check_order(&control("127.0.0.1"), &table);
    }

    #[test]
    fn cors_and_the_host_come_before_the_key() {
        let table = [
            ("OPTIONS", NEAR, "example.com", 204, 7),
            ("GET", NEAR, "example.com", 401, 2),
            ("GET", None, "example.com", 401, 0),
            ("GET", FAR, "example.com", 403, 0),
        ];
        check_order(&keyed(), &table);
        let loopback = AccessControl { keys: keyed().keys, ..control("127.0.0.1") };
        let table = [
            ("GET", NEAR, "example.com", 403, 2),
            ("GET", NEAR, "localhost", 401, 2),
            ("OPTIONS", None, "localhost", 204, 0),
        ];
        check_order(&loopback, &table);
    }

    #[test]
    fn a_refusal_has_its_reason_and_no_key_in_it() {
        let long = "x".repeat(2 * MAX_HOST_BYTES);
        let far = format!("http://{long}.localhost");
        let loopback = AccessControl { keys: keyed().keys, ..control("127.0.0.1") };
        let check = |origin, host: &str, key, expected: (&str, Option<&str>)| {
            let credentials = Credentials { authorization: None, api_key: key };
            let request = request("GET", "/x", Some(host));
            let decision = loopback.decide(&RequestInfo { origin, credentials, ..request });
            let denial = decision.denial_reason.expect("refused");
            assert_eq!((denial.word(), denial.value()), expected);
            assert!(Denial::WORDS.contains(&denial.word()));
        };
        let begin = |text| str::get(text, ..MAX_LOGGED_CHARS);
        check(FAR, "localhost", None, ("origin", Some("http://evil.test")));
        check(Some(&far), "localhost", None, ("origin", begin(&far)));
        check(None, "evil.test", None, ("host", Some("evil.test")));
        check(None, &format!("{long}.local"), None, ("host", begin(&long)));
        check(None, "localhost", None, ("no_key", None));
        check(None, "localhost", Some("s3cret-key"), ("wrong_key", None));
    }

    #[test]
    fn without_a_key_only_public_routes_are_open() {
        for (is_public, denied) in [(true, 0), (false, 401)] {
            for (authorization, expected) in [
                (None, denied),
                (Some("Bearer first-key-2"), denied),
                (Some("Bearer first-key-1"), 0),
            ] {
                let credentials = Credentials { authorization, api_key: None };
                let request = request("GET", "/x", Some("localhost"));
                let decision = keyed().decide(&RequestInfo { is_public, credentials, ..request });
                assert_eq!(status(&decision), expected, "{is_public} {authorization:?}");
                let has_right_key = !is_public && expected == 0;
                let served = AccessDecision { has_right_key, ..AccessDecision::default() };
                assert_eq!(decision == served, expected == 0);
            }
        }
    }
}
