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
    /// `/health`, ours
    Health,
    /// `/openai/health`, ours
    UpstreamHealth,
}

/// Path, methods as the `Allow` header lists them, route. A `:name` at the end of a path stands for
/// one segment, whatever it is.
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
    ("/health", "HEAD, GET", Route::Health),
    ("/openai/health", "HEAD, GET", Route::UpstreamHealth),
];

/// Where a request leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
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
pub fn find(method: &str, target: &str) -> Result<Target> {
    let target = without_authority(target);
    let (path, query) = match target.find(['?', '#']) {
        Some(at) => target.split_at(at),
        None => (target, ""),
    };
    let path = collapse(path);
    if let Some(&(_, allow, route)) = ROUTES.iter().find(|(known, ..)| matches(known, &path)) {
        return if allow.split(", ").any(|allowed| allowed == method) {
            Ok(Target::Route(route))
        } else {
            Err(Error::MethodNotAllowed { allow })
        };
    }
    if let Some(bare) = path.strip_suffix('/')
        && ROUTES.iter().any(|(known, ..)| matches(known, bare))
    {
        let status = if method == "GET" { 301 } else { 307 };
        return Ok(Target::Redirect { status, location: format!("{bare}{query}") });
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

/// The last step of a path, without its query: what stands for the step with the colon.
#[must_use]
pub fn last_step(target: &str) -> &str {
    let path = target.split(['?', '#']).next().unwrap_or_default();
    path.rsplit('/').next().unwrap_or_default()
}

/// Whether a path is one that a row of the table means.
fn matches(known: &str, path: &str) -> bool {
    match known.split_once(':') {
        Some((before, _)) => path
            .strip_prefix(before)
            .is_some_and(|segment| !segment.is_empty() && !segment.contains('/')),
        None => known == path,
    }
}

/// Clients of a forward proxy put the whole URL into the request line (RFC 9112, 3.2.2).
fn without_authority(target: &str) -> &str {
    match target.split_once("://") {
        Some(("http" | "https", rest)) => rest.find('/').map_or("/", |at| &rest[at..]),
        _ => target,
    }
}

/// Repeated slashes count as one: users configure base URLs that end in a slash.
fn collapse(path: &str) -> String {
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
            Ok(Target::Route(route)) => route.path().to_owned(),
            Ok(Target::Redirect { status, location }) => format!("{status} {location}"),
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
        assert_eq!(last_step("/api/blobs/sha256:00?x=/y"), "sha256:00");
        check("GET", "/nothing", "404 page not found");
        check("GET", "/api", "404 page not found");
        check("GET", "", "404 page not found");
    }
}
