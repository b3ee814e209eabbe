//! Access control and routing: origins, hosts and routes.

use std::net::IpAddr;

use ollama_openai_proxy::handlers::{Handler, ROUTES};
use ollama_openai_proxy::http::access::{AccessControl, EarlyResponse, HostInfo, RequestInfo};
use ollama_openai_proxy::http::client_keys::ClientKeys;
use ollama_openai_proxy::http::cors::{CorsDecision, CorsPolicy};
use ollama_openai_proxy::http::error_format::ErrorFormat;
use ollama_openai_proxy::http::routes;
use ollama_openai_proxy::http::routes::{Outcome, ResolvedRoute};

/// Words of origins, hosts and targets.
pub const WORDS: &[&str] = &[
    "\n", "http://", "https://", "localhost", "127.0.0.1", "[::1]", ":11434", "*", ",", "@", "/",
    "//", "?", "#", "%2f", ".localhost", ".local", ".internal", "evil.test", "tauri://", "app://",
    "file://", "vscode-webview://", "GET", "OPTIONS", "POST", "HEAD", "/api/chat", "/api/tags",
    "/v1/models/", "/api/blobs/sha256:", "null", "0.0.0.0", "[", "]", "chrome-extension://",
];

/// Lines: origins as configured, method, target, origin, host.
pub fn origins(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let mut lines = text.splitn(5, '\n');
    let mut line = || lines.next().unwrap_or_default();
    let (given, method, target, origin, host) = (line(), line(), line(), line(), line());
    let configured = match CorsPolicy::parse(given) {
        Ok(configured) => configured,
        Err(reason) => {
            assert!(reason.len() < 1024 && !reason.contains('\n'));
            CorsPolicy::default()
        }
    };
    let again = CorsPolicy::parse(configured.as_str()).expect("what was taken is taken again");
    for bound in ["127.0.0.1", "::1", "0.0.0.0", "192.168.1.5"] {
        let bound: IpAddr = bound.parse().expect("an address");
        for (origin, host) in [(Some(origin), Some(host)), (None, Some(host)), (None, None)] {
            let asked = RequestInfo { method, target, origin, host, ..RequestInfo::default() };
            let ruling = gate(&configured, bound).decide(&asked);
            let same = gate(&again, bound).decide(&asked);
            assert_eq!(ruling, same, "the entries mean what they show");
            let refused = ruling.response == Some(EarlyResponse::Empty(403));
            let known =
                refused || matches!(ruling.response, None | Some(EarlyResponse::Empty(204)));
            assert!(known && ruling.denial_reason.is_some() == refused, "{ruling:?}");
            for (name, value) in &ruling.headers {
                let is_clean = value.bytes().all(|byte| byte.is_ascii_graphic() || byte == b' ');
                assert!(is_clean, "{name}: {value:?}");
                let echoed = *name != "Access-Control-Allow-Origin"
                    || value == "*"
                    || Some(value.as_str()) == origin;
                assert!(echoed, "{value} was not asked for");
            }
            if let Some(false) = is_near(host.unwrap_or_default(), target)
                && bound.is_loopback()
                && (method != "OPTIONS" || ruling.headers.is_empty())
            {
                assert!(refused, "{host:?} is let in");
            }
        }
    }
    check_foreign(method, origin, host);
    check_route(method, target);
}

fn gate(origins: &CorsPolicy, bound: IpAddr) -> AccessControl {
    let machine = HostInfo { hostname: "workshop".into(), has_address: |_| false };
    AccessControl::new(origins.clone(), ClientKeys::default(), bound, machine)
}

/// A host that a browser could send, below a domain that somebody else owns, is never near. `None`
/// where this cannot tell.
fn is_near(host: &str, target: &str) -> Option<bool> {
    let is_name =
        |it: &str| it.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'.');
    let (name, port) = host.rsplit_once(':').unwrap_or((host, ""));
    let is_port = port.bytes().all(|byte| byte.is_ascii_digit());
    (!target.contains("://") && is_port && is_name(name) && name.ends_with(".test"))
        .then_some(false)
}

/// By default no page of a foreign domain may ask, whatever it is called.
fn check_foreign(method: &str, origin: &str, host: &str) {
    let label: String = origin.chars().filter(|c| c.is_ascii_alphanumeric() || *c == '-').collect();
    for scheme in ["http", "https"] {
        let foreign = format!("{scheme}://{label}.evil.test");
        let verdict = CorsPolicy::default().decide(method, Some(&foreign), host);
        let is_own = host == format!("{label}.evil.test");
        assert_eq!(verdict == CorsDecision::Refused, !is_own, "{foreign}: {verdict:?}");
    }
}

/// Every target has a route, a redirect to the same server, or an error.
fn check_route(method: &str, target: &str) {
    let resolve =
        |target: &str| -> ResolvedRoute<Handler> { routes::resolve(ROUTES, method, target) };
    let route = resolve(target);
    if let Outcome::Redirect { status, location } = &route.outcome {
        assert!(matches!(status, 301 | 307), "{status}");
        assert!(location.starts_with('/') && !location.starts_with("//"), "{location}");
        let again = resolve(location).outcome;
        assert!(!matches!(again, Outcome::Redirect { .. }), "a redirect to a redirect");
    }
    let path = &route.path;
    assert!(!path.contains("//") && !path.contains('?'), "{path}");
    assert!(route.decoded_parameter().len() <= 3 * target.len());
    let is_openai = route.error_format == ErrorFormat::OpenAi;
    assert!(!is_openai || path.starts_with("/v1"), "{path}");
}
