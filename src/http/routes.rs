//! Matches a request line against a table of routes, as Ollama's router (gin) does.
//!
//! Pure and generic: the rows, with their handlers, are `handlers::ROUTES`. A request is resolved
//! once, on arrival; body handling, lane, access control and error format all read the same
//! [`ResolvedRoute`]. Invariant: a path matches the first row that fits, whatever the method.

use std::borrow::Cow;

use memchr::memmem;
use percent_encoding::percent_decode_str;

use crate::http::error_format::ErrorFormat;

/// The worker pool that serves a route; `app::dispatcher` has them in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lane {
    /// The pool of `PROXY_WORKERS` threads.
    Main,
    /// For routes that never wait, so that they respond while all main workers are busy.
    Health,
    /// For routes that probe the upstream, which may take a while.
    Probe,
}

/// One row of a route table.
#[derive(Clone, Copy, Debug)]
pub struct Route<H> {
    /// The path. A final `:name` stands for one segment; a final `*name` for one or more.
    pub pattern: &'static str,
    /// The allowed methods, in the order of the `Allow` header.
    pub allow: &'static str,
    /// The pool that serves it.
    pub lane: Lane,
    /// True if no client key is needed.
    pub is_public: bool,
    /// True if pages of no other origin than the proxy's own may use it.
    pub is_same_origin: bool,
    /// True if it asks a model, so that it counts for the limits of the client key.
    pub asks_model: bool,
    /// The function that serves it, and how the request's body is read.
    pub handler: H,
}

impl<H: Copy> Route<H> {
    /// A row that needs a client key and is served by the main workers.
    pub const fn new(pattern: &'static str, allow: &'static str, handler: H) -> Self {
        let (lane, is_public, is_same_origin, asks_model) = (Lane::Main, false, false, false);
        Self { pattern, allow, lane, is_public, is_same_origin, asks_model, handler }
    }

    /// The same row in another lane.
    #[must_use]
    pub const fn lane(mut self, lane: Lane) -> Self {
        self.lane = lane;
        self
    }

    /// The same row, as one that asks a model.
    #[must_use]
    pub const fn asks_model(mut self) -> Self {
        self.asks_model = true;
        self
    }

    /// The same row, open to clients without a key.
    #[must_use]
    pub const fn public(mut self) -> Self {
        self.is_public = true;
        self
    }

    /// The same row, closed to pages of other origins.
    #[must_use]
    pub const fn same_origin(mut self) -> Self {
        self.is_same_origin = true;
        self
    }
}

impl<H> Route<H> {
    /// The allowed methods, one by one.
    pub fn methods(&self) -> impl Iterator<Item = &'static str> + use<H> {
        self.allow.split(", ")
    }

    fn matches(&self, path: &str) -> bool {
        let Some((prefix, _)) = self.pattern.split_once([':', '*']) else {
            return self.pattern == path;
        };
        path.strip_prefix(prefix).is_some_and(|parameter| {
            let is_deep = self.pattern.contains('*') && !parameter.ends_with('/');
            !parameter.is_empty() && (is_deep || !parameter.contains('/'))
        })
    }
}

/// Where a request leads.
#[derive(Clone, Debug)]
pub struct ResolvedRoute<H: 'static> {
    /// The path without host, query and repeated slashes.
    pub path: String,
    /// The row, or why there is none.
    pub outcome: Outcome<H>,
    /// The format of its errors. Paths without a row have one, too.
    pub error_format: ErrorFormat,
}

/// What a table says about a method and a path.
#[derive(Clone, Debug)]
pub enum Outcome<H: 'static> {
    /// The row serves the request.
    Found(&'static Route<H>),
    /// The row has the path and not the method.
    MethodNotAllowed(&'static Route<H>),
    /// A row has the same path without its last slash.
    Redirect {
        /// 301 for GET, 307 for other methods.
        status: u16,
        /// The value of the `Location` header.
        location: String,
    },
    /// No row has the path.
    NotFound,
}

/// Resolves `target`, path and query as they stand in the request line.
pub fn resolve<H>(table: &'static [Route<H>], method: &str, target: &str) -> ResolvedRoute<H> {
    let (_, target) = split_absolute_form(target);
    let end = memchr::memchr2(b'?', b'#', target.as_bytes()).unwrap_or(target.len());
    let (path, query) = target.split_at(end);
    let path = collapse_slashes(path);
    let find = |path: &str| table.iter().find(|route| route.matches(path));
    let outcome = match find(&path) {
        Some(route) if route.methods().any(|allowed| allowed == method) => Outcome::Found(route),
        Some(route) => Outcome::MethodNotAllowed(route),
        None => match path.strip_suffix('/') {
            Some(bare) if find(bare).is_some() => {
                let status = if method == "GET" { 301 } else { 307 };
                Outcome::Redirect { status, location: format!("{bare}{query}") }
            }
            _ => Outcome::NotFound,
        },
    };
    ResolvedRoute { outcome, error_format: ErrorFormat::for_path(&path), path }
}

impl<H> ResolvedRoute<H> {
    /// The pattern of the row that has the path, whatever the method.
    pub fn pattern(&self) -> Option<&'static str> {
        self.row().map(|route| route.pattern)
    }

    /// The pool that serves the request.
    pub fn lane(&self) -> Lane {
        self.row().map_or(Lane::Main, |route| route.lane)
    }

    /// True if the request needs no client key.
    pub fn is_public(&self) -> bool {
        matches!(self.outcome, Outcome::Found(route) if route.is_public)
    }

    /// True if pages of no other origin may use the path, whatever the method.
    pub fn is_same_origin(&self) -> bool {
        self.row().is_some_and(|route| route.is_same_origin)
    }

    /// The part of the path that the pattern's parameter stands for, as it was sent; empty without
    /// one.
    pub fn parameter(&self) -> &str {
        let prefix = self.pattern().and_then(|pattern| pattern.split_once([':', '*']));
        prefix.and_then(|(prefix, _)| self.path.strip_prefix(prefix)).unwrap_or_default()
    }

    /// The same, percent-decoded; malformed escapes stay as they are.
    pub fn decoded_parameter(&self) -> Cow<'_, str> {
        percent_decode_str(self.parameter()).decode_utf8_lossy()
    }

    fn row(&self) -> Option<&'static Route<H>> {
        match self.outcome {
            Outcome::Found(route) | Outcome::MethodNotAllowed(route) => Some(route),
            Outcome::Redirect { .. } | Outcome::NotFound => None,
        }
    }
}

/// The authority and the path of a target in absolute form, as clients of a forward proxy send it
/// (RFC 9112 section 3.2.2); an empty authority and the target itself in other forms.
pub fn split_absolute_form(target: &str) -> (&str, &str) {
    let rest = target.strip_prefix("http://").or_else(|| target.strip_prefix("https://"));
    let Some(rest) = rest else { return ("", target) };
    let end = memchr::memchr3(b'/', b'?', b'#', rest.as_bytes()).unwrap_or(rest.len());
    (&rest[..end], rest.find('/').map_or("/", |at| &rest[at..]))
}

/// Repeated slashes count as one: users configure base URLs that end in a slash.
fn collapse_slashes(path: &str) -> String {
    if memmem::find(path.as_bytes(), b"//").is_none() {
        return path.to_owned();
    }
    let mut single = String::with_capacity(path.len());
    for (at, segment) in path.split('/').enumerate() {
        if at > 0 && !single.ends_with('/') {
            single.push('/');
        }
        single.push_str(segment);
    }
    single
}

#[cfg(test)]
mod tests {
    use super::*;

    static TABLE: &[Route<()>] = &[
        Route::new("/", "HEAD, GET", ()).lane(Lane::Health).public(),
        Route::new("/api/chat", "POST", ()),
        Route::new("/v1/models/*model", "GET", ()),
    ];

    #[test]
    fn lane_and_access_are_those_of_the_row() {
        for (method, target, lane, is_public) in [
            ("GET", "/", Lane::Health, true),
            ("HEAD", "http://h?x", Lane::Health, true),
            ("POST", "/", Lane::Health, false),
            ("POST", "/api/chat", Lane::Main, false),
            ("GET", "/nothing", Lane::Main, false),
        ] {
            let route = resolve(TABLE, method, target);
            assert_eq!((route.lane(), route.is_public()), (lane, is_public), "{method} {target}");
        }
    }

    #[test]
    fn a_parameter_is_decoded() {
        for (target, expected) in [
            ("/v1/models/m:8b?x=1", "m:8b"),
            ("//v1/models//a/b", "a/b"),
            ("http://h/v1/models/a%2Fb%3a%20%c3%A9", "a/b: \u{e9}"),
            ("/v1/models/100%25", "100%"),
            ("/v1/models/a%2", "a%2"),
            ("/v1/models/%+1%zz", "%+1%zz"),
            ("/v1/models/%ff", "\u{fffd}"),
            ("/api/chat", ""),
            ("/nothing", ""),
        ] {
            let route = resolve(TABLE, "GET", target);
            assert_eq!(route.decoded_parameter(), expected, "{target}");
        }
    }
}
