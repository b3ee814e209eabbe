//! Which route a method and a path mean (ollama-api.md 1.5, 2).
//!
//! Pure: a request target goes in, a [`Route`] or an [`Error`] comes out. A route is one row of
//! the table; its methods stand in the order in which the `Allow` header lists them.

use crate::error::{Error, Result};

/// What a request asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Route {
    /// `/`
    Root,
    /// `/api/version`
    Version,
    /// `/api/tags`
    Tags,
    /// `/api/ps`
    Ps,
    /// `/api/show`
    Show,
    /// `/api/chat`
    Chat,
    /// `/api/generate`
    Generate,
    /// `/api/embed`
    Embed,
    /// `/api/embeddings`
    Embeddings,
    /// `/api/status`
    Status,
    /// `/api/me`
    Me,
    /// `/api/signout`
    SignOut,
    /// `/api/user/keys/:encodedKey`
    UserKey,
    /// `/api/experimental/web_search`
    WebSearch,
    /// `/api/experimental/web_fetch`
    WebFetch,
    /// `/api/experimental/model-recommendations`
    Recommendations,
    /// `/api/create`
    Create,
    /// `/api/copy`
    Copy,
    /// `/api/delete`
    Delete,
    /// `/api/pull`
    Pull,
    /// `/api/push`
    Push,
    /// `/api/blobs/:digest`
    Blob,
    /// What is below `/v1`.
    V1(V1Route),
    /// `/health`, ours
    Health,
    /// `/ready`, ours
    Ready,
    /// `/openai/health`, ours
    UpstreamHealth,
    /// `/metrics`, ours
    Metrics,
}

/// The routes of the other two protocols.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum V1Route {
    /// `/v1/models`
    Models,
    /// `/v1/models/:model`
    Model,
    /// `/v1/chat/completions`
    Chat,
    /// `/v1/completions`
    Completions,
    /// `/v1/embeddings`
    Embeddings,
    /// `/v1/responses`
    Responses,
    /// `/v1/audio/transcriptions`
    Transcriptions,
    /// `/v1/messages`
    Messages,
    /// `/v1/messages/count_tokens`, which Ollama has not
    CountTokens,
}

/// Path, methods as the `Allow` header lists them, route. A `:name` at the end of a path stands for
/// one segment, whatever it is; a `*name` for any number of them, but not for none.
const ROUTES: &[(&str, &str, Route)] = &[
    ("/", "HEAD, GET", Route::Root),
    ("/api/version", "HEAD, GET", Route::Version),
    ("/api/tags", "HEAD, GET", Route::Tags),
    ("/api/ps", "GET", Route::Ps),
    ("/api/show", "POST", Route::Show),
    ("/api/chat", "POST", Route::Chat),
    ("/api/generate", "POST", Route::Generate),
    ("/api/embed", "POST", Route::Embed),
    ("/api/embeddings", "POST", Route::Embeddings),
    ("/api/status", "GET", Route::Status),
    ("/api/me", "POST", Route::Me),
    ("/api/signout", "POST", Route::SignOut),
    ("/api/user/keys/:encodedKey", "DELETE", Route::UserKey),
    ("/api/experimental/web_search", "POST", Route::WebSearch),
    ("/api/experimental/web_fetch", "POST", Route::WebFetch),
    ("/api/experimental/model-recommendations", "GET", Route::Recommendations),
    ("/api/create", "POST", Route::Create),
    ("/api/copy", "POST", Route::Copy),
    ("/api/delete", "DELETE", Route::Delete),
    ("/api/pull", "POST", Route::Pull),
    ("/api/push", "POST", Route::Push),
    ("/api/blobs/:digest", "HEAD, POST", Route::Blob),
    ("/v1/models", "GET", Route::V1(V1Route::Models)),
    ("/v1/models/*model", "GET", Route::V1(V1Route::Model)),
    ("/v1/chat/completions", "POST", Route::V1(V1Route::Chat)),
    ("/v1/completions", "POST", Route::V1(V1Route::Completions)),
    ("/v1/embeddings", "POST", Route::V1(V1Route::Embeddings)),
    ("/v1/responses", "POST", Route::V1(V1Route::Responses)),
    ("/v1/audio/transcriptions", "POST", Route::V1(V1Route::Transcriptions)),
    ("/v1/messages", "POST", Route::V1(V1Route::Messages)),
    ("/v1/messages/count_tokens", "POST", Route::V1(V1Route::CountTokens)),
    ("/health", "HEAD, GET", Route::Health),
    ("/ready", "HEAD, GET", Route::Ready),
    ("/openai/health", "HEAD, GET", Route::UpstreamHealth),
    ("/metrics", "HEAD, GET", Route::Metrics),
];

/// Who sees to a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lane {
    /// The workers.
    Main,
    /// Those who tell that we are there and how we are, without waiting for anybody.
    Health,
    /// Those who tell of the upstream's, which they have to ask.
    Probe,
}

/// Who sees to a request, by its target as it stands in the request line.
#[must_use]
pub fn find_lane(target: &str) -> Lane {
    match target.split('?').next().unwrap_or_default() {
        "/" | "/api/version" | "/health" | "/ready" | "/metrics" => Lane::Health,
        "/openai/health" => Lane::Probe,
        _ => Lane::Main,
    }
}

/// Where a request leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RouteMatch {
    /// To a route.
    Route(Route),
    /// Elsewhere: the same path without its last slash, with 301 for GET and 307 for the rest.
    Redirect {
        /// 301 or 307.
        status: u16,
        /// The value of the `Location` header.
        location: String,
    },
}

/// Finds the route of `target`, the path with its query as it stands in the request line.
///
/// # Errors
/// [`Error::UnknownRoute`] and [`Error::MethodNotAllowed`].
pub fn find(method: &str, target: &str) -> Result<RouteMatch> {
    let target = strip_authority(target);
    let (path, query) = match target.find(['?', '#']) {
        Some(at) => target.split_at(at),
        None => (target, ""),
    };
    let path = collapse_slashes(path);
    if let Some(&(_, allow, route)) =
        ROUTES.iter().find(|(known, ..)| matches_pattern(known, &path))
    {
        return if allow.split(", ").any(|allowed| allowed == method) {
            Ok(RouteMatch::Route(route))
        } else {
            Err(Error::MethodNotAllowed { allow })
        };
    }
    if let Some(bare) = path.strip_suffix('/')
        && ROUTES.iter().any(|(known, ..)| matches_pattern(known, bare))
    {
        let status = if method == "GET" { 301 } else { 307 };
        return Ok(RouteMatch::Redirect { status, location: format!("{bare}{query}") });
    }
    Err(Error::UnknownRoute)
}

impl Route {
    /// The path, for the log.
    #[must_use]
    pub fn path(self) -> &'static str {
        ROUTES.iter().find(|(.., route)| *route == self).map_or("?", |(path, ..)| *path)
    }
}

/// The path of the row that a request target means, whatever its method; `None` where there is none.
#[must_use]
pub fn find_pattern(target: &str) -> Option<&'static str> {
    let path = normalize_path(target);
    ROUTES.iter().find(|(known, ..)| matches_pattern(known, &path)).map(|(known, ..)| *known)
}

/// Every path of the table with its methods, for whoever has to look at all of them.
pub fn iter_routes() -> impl Iterator<Item = (&'static str, Vec<&'static str>)> {
    ROUTES.iter().map(|(path, methods, _)| (*path, methods.split(", ").collect()))
}

/// The last step of a path, without its query: what stands for the step with the colon.
#[must_use]
pub fn last_segment(target: &str) -> &str {
    let path = target.split(['?', '#']).next().unwrap_or_default();
    path.rsplit('/').next().unwrap_or_default()
}

/// The path of a request target: without host, query and repeated slashes.
#[must_use]
pub fn normalize_path(target: &str) -> String {
    let target = strip_authority(target);
    collapse_slashes(target.split(['?', '#']).next().unwrap_or_default())
}

/// What a path has behind `before`, with its percent-encoded bytes decoded; what is encoded badly
/// stays as it is.
#[must_use]
pub fn decode_suffix(target: &str, prefix: &str) -> String {
    let path = normalize_path(target);
    let mut rest = path.strip_prefix(prefix).unwrap_or_default().as_bytes().iter();
    let mut out = Vec::with_capacity(rest.len());
    while let Some(&byte) = rest.next() {
        let digits = rest.as_slice().get(..2).filter(|_| byte == b'%');
        let value = digits
            .filter(|digits| digits.iter().all(u8::is_ascii_hexdigit))
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .and_then(|digits| u8::from_str_radix(digits, 16).ok());
        out.push(value.unwrap_or(byte));
        if value.is_some() {
            rest.nth(1);
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// Whether a path is one that a row of the table means.
fn matches_pattern(pattern: &str, path: &str) -> bool {
    let Some((before, _)) = pattern.split_once([':', '*']) else { return pattern == path };
    path.strip_prefix(before).is_some_and(|rest| {
        let several = pattern.contains('*') && !rest.ends_with('/');
        !rest.is_empty() && (several || !rest.contains('/'))
    })
}

/// Clients of a forward proxy put the whole URL into the request line (RFC 9112, 3.2.2).
fn strip_authority(target: &str) -> &str {
    match target.split_once("://") {
        Some(("http" | "https", rest)) => rest.find('/').map_or("/", |at| &rest[at..]),
        _ => target,
    }
}

/// Repeated slashes count as one: users configure base URLs that end in a slash.
fn collapse_slashes(path: &str) -> String {
    let mut out = String::with_capacity(path.len());
    for character in path.chars() {
        if !(character == '/' && out.ends_with('/')) {
            out.push(character);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(method: &str, target: &str, expected: &str) {
        let found = match find(method, target) {
            Ok(RouteMatch::Route(route)) => route.path().to_owned(),
            Ok(RouteMatch::Redirect { status, location }) => format!("{status} {location}"),
            Err(Error::MethodNotAllowed { allow }) => format!("405 {allow}"),
            Err(error) => error.message(),
        };
        assert_eq!(found, expected, "{method} {target}");
    }

    #[test]
    fn methods_and_paths_lead_where_ollama_s_do() {
        check("GET", "/", "/");
        check("HEAD", "/", "/");
        check("POST", "/", "405 HEAD, GET");
        check("GET", "/api/tags", "/api/tags");
        check("GET", "/api/tags?x=1", "/api/tags");
        check("HEAD", "/api/ps", "405 GET");
        check("GET", "/api/chat", "405 POST");
        check("get", "/api/tags", "405 HEAD, GET");
        check("POST", "//api//chat", "/api/chat");
        check("GET", "/api/tags/", "301 /api/tags");
        check("POST", "/api/chat/?a=b", "307 /api/chat?a=b");
        check("GET", "http://localhost:11434/api/tags?x=1", "/api/tags");
        check("GET", "http://localhost:11434", "/");
        check("DELETE", "/api/user/keys/c3No=-_%2F", "/api/user/keys/:encodedKey");
        check("DELETE", "/api/user/keys/:encodedKey?x", "/api/user/keys/:encodedKey");
        check("GET", "/api/user/keys/c3No", "405 DELETE");
        check("DELETE", "/api/user/keys/c3No/", "307 /api/user/keys/c3No");
        check("DELETE", "/api/user/keys/", "404 page not found");
        check("DELETE", "/api/user/keys", "404 page not found");
        check("DELETE", "/api/user/keys/c3No/x", "404 page not found");
        check("OPTIONS", "/api/chat", "405 POST");
        check("OPTIONS", "/nothing", "404 page not found");
        check("DELETE", "/api/delete", "/api/delete");
        check("POST", "/api/delete", "405 DELETE");
        check("HEAD", "/api/blobs/sha256:00", "/api/blobs/:digest");
        check("POST", "/api/blobs/sha256:00?x=/y", "/api/blobs/:digest");
        check("GET", "/api/blobs/x", "405 HEAD, POST");
        check("POST", "/api/blobs/", "404 page not found");
        check("POST", "/api/blobs", "404 page not found");
        check("POST", "/api/blobs/a/b", "404 page not found");
        check("POST", "/api/blobs/a/", "307 /api/blobs/a");
        assert_eq!(last_segment("/api/blobs/sha256:00?x=/y"), "sha256:00");
        check("GET", "/nothing", "404 page not found");
        check("GET", "/v1/models", "/v1/models");
        check("HEAD", "/v1/models", "405 GET");
        check("GET", "/v1/models/", "301 /v1/models");
        check("GET", "/v1/models/m:8b", "/v1/models/*model");
        check("GET", "/v1/models/a/b/c%2Fd?x", "/v1/models/*model");
        check("GET", "/v1/models/a/b/", "301 /v1/models/a/b");
        check("POST", "/v1/models/a/b", "405 GET");
        check("POST", "//v1//chat//completions", "/v1/chat/completions");
        check("POST", "/v1/chat/completions/", "307 /v1/chat/completions");
        check("GET", "/v1/chat", "404 page not found");
        check("POST", "/v1/messages?beta=true", "/v1/messages");
        check("POST", "/v1/messages/count_tokens", "/v1/messages/count_tokens");
        check("POST", "/v1/messages/other", "404 page not found");
        check("GET", "/v1/responses/resp_1", "404 page not found");
        check("GET", "/v1", "404 page not found");
        check("GET", "/api", "404 page not found");
        check("GET", "", "404 page not found");
    }

    #[test]
    fn a_row_is_found_without_a_method() {
        assert_eq!(find_pattern("//api/chat?x=1"), Some("/api/chat"));
        assert_eq!(find_pattern("/api/blobs/sha256:00"), Some("/api/blobs/:digest"));
        assert_eq!(find_pattern("http://h/v1/models/a/b"), Some("/v1/models/*model"));
        assert_eq!(find_pattern("/nothing"), None);
    }

    #[test]
    fn what_stands_behind_a_path_is_decoded() {
        let behind = |target: &str| decode_suffix(target, "/v1/models/");
        assert_eq!(behind("/v1/models/m:8b?x=1"), "m:8b");
        assert_eq!(behind("//v1/models//a/b"), "a/b");
        assert_eq!(behind("http://h/v1/models/a%2Fb%3a%20%c3%A9"), "a/b: é");
        assert_eq!(behind("/v1/models/100%25"), "100%");
        assert_eq!(behind("/v1/models/a%2"), "a%2");
        assert_eq!(behind("/v1/models/%+1%zz"), "%+1%zz");
        assert_eq!(behind("/v1/models/%ff"), "\u{fffd}");
    }
}
