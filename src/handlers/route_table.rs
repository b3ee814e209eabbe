//! The table of routes, and what calls their handlers.
//!
//! Paths and methods are those of Ollama (server/routes.go, v0.32.15), of OpenAI and Anthropic below
//! `/v1`, and our own at the end. A path without a row may be a route that only the upstream has
//! (`other_routes`). Invariant: the body of every request is read before the request is
//! answered, so that the connection can serve the next one.

use Handler::{Decompressed, NoBody, ReadsBody, WithBody};

use super::pass_through::pass;
use super::{
    Context, account, anthropic, audio, chat_generate, decompress, embed, health, info, manage,
    other_routes, responses, responses_compact, status, transfer, v1_models,
};
use crate::api::ollama::decode;
use crate::api::ollama::response::IS_RUNNING;
use crate::api::openai::other_routes::OtherRoute;
use crate::error::{Error, Result};
use crate::http::exchange::ContentType;
use crate::http::routes::{Lane, Outcome, ResolvedRoute, Route};
use crate::translate::pass_through::Endpoint;

/// A function that serves a route, by what it needs of the request's body.
#[derive(Clone, Copy)]
pub enum Handler {
    /// Needs none; the body is read and dropped.
    NoBody(fn(&mut Context<'_>) -> Result<()>),
    /// Needs the whole body, as text.
    WithBody(fn(&mut Context<'_>, String) -> Result<()>),
    /// The same, decompressed if it is compressed.
    Decompressed(fn(&mut Context<'_>, String) -> Result<()>),
    /// Reads the body itself.
    ReadsBody(fn(&mut Context<'_>) -> Result<()>),
}

/// Every route.
pub static ROUTES: &[Route<Handler>] = &[
    Route::new("/", "HEAD, GET", NoBody(root)).lane(Lane::Health).public(),
    Route::new("/api/version", "HEAD, GET", NoBody(info::version)).lane(Lane::Health),
    Route::new("/api/tags", "HEAD, GET", NoBody(info::tags)),
    Route::new("/api/ps", "GET", NoBody(info::ps)),
    Route::new("/api/show", "POST", WithBody(info::show)),
    Route::new("/api/chat", "POST", WithBody(chat_generate::chat)).asks_model(),
    Route::new("/api/generate", "POST", WithBody(chat_generate::generate)).asks_model(),
    Route::new("/api/embed", "POST", WithBody(embed::embed)).asks_model(),
    Route::new("/api/embeddings", "POST", WithBody(embed::embeddings)).asks_model(),
    Route::new("/api/status", "GET", NoBody(account::status)),
    Route::new("/api/me", "POST", NoBody(account::me)),
    Route::new("/api/signout", "POST", NoBody(account::sign_out)),
    Route::new("/api/user/keys/:encodedKey", "DELETE", NoBody(account::sign_out)),
    Route::new("/api/experimental/web_search", "POST", ReadsBody(account::web_search)),
    Route::new("/api/experimental/web_fetch", "POST", ReadsBody(account::web_fetch)),
    Route::new("/api/experimental/model-recommendations", "GET", NoBody(account::recommendations)),
    Route::new("/api/create", "POST", WithBody(manage::create)),
    Route::new("/api/copy", "POST", WithBody(manage::copy)),
    Route::new("/api/delete", "DELETE", WithBody(manage::delete)),
    Route::new("/api/pull", "POST", WithBody(transfer::pull)),
    Route::new("/api/push", "POST", WithBody(transfer::push)),
    Route::new("/api/blobs/:digest", "HEAD, POST", ReadsBody(transfer::blob)),
    Route::new("/v1/models", "GET", NoBody(v1_models::list)),
    Route::new("/v1/models/*model", "GET", NoBody(v1_models::retrieve)),
    Route::new("/v1/chat/completions", "POST", ReadsBody(|c| pass(c, Endpoint::Chat))).asks_model(),
    Route::new("/v1/completions", "POST", ReadsBody(|c| pass(c, Endpoint::Completions)))
        .asks_model(),
    Route::new("/v1/embeddings", "POST", ReadsBody(|c| pass(c, Endpoint::Embeddings))).asks_model(),
    Route::new("/v1/responses", "POST", ReadsBody(responses::responses)).asks_model(),
    Route::new("/v1/responses/compact", "POST", ReadsBody(responses_compact::compact)).asks_model(),
    Route::new("/v1/audio/transcriptions", "POST", ReadsBody(audio::transcriptions)).asks_model(),
    Route::new("/v1/messages", "POST", Decompressed(anthropic::messages)).asks_model(),
    Route::new("/v1/messages/count_tokens", "POST", Decompressed(anthropic::count_tokens)),
    Route::new("/health", "HEAD, GET", NoBody(health::health)).lane(Lane::Health).public(),
    Route::new("/ready", "HEAD, GET", NoBody(health::ready)).lane(Lane::Health),
    Route::new("/openai/health", "HEAD, GET", NoBody(health::upstream_health)).lane(Lane::Probe),
    Route::new("/metrics", "HEAD, GET", NoBody(health::metrics)).lane(Lane::Health),
    own_page("/status", NoBody(|c| status::serve_file(c, &status::PAGE))).public(),
    own_page("/status.css", NoBody(|c| status::serve_file(c, &status::STYLE))).public(),
    own_page("/status.js", NoBody(|c| status::serve_file(c, &status::SCRIPT))).public(),
    own_page("/status.json", NoBody(status::serve_json)),
];

/// Whether a request asks a model, if it is served. A path without a row may be one that the upstream has.
pub fn asks_models(route: &ResolvedRoute<Handler>) -> bool {
    match route.outcome {
        Outcome::Found(found) => found.asks_model,
        Outcome::NotFound => true,
        Outcome::MethodNotAllowed(_) | Outcome::Redirect { .. } => false,
    }
}

/// A row of the status page.
const fn own_page(pattern: &'static str, handler: Handler) -> Route<Handler> {
    Route::new(pattern, "HEAD, GET", handler).lane(Lane::Health).same_origin()
}

/// Handles one request.
///
/// # Errors
/// The error that the client gets, or [`Error::ClientDisconnected`].
pub fn handle(mut context: Context<'_>) -> Result<()> {
    let (route, context) = (context.route, &mut context);
    match &route.outcome {
        Outcome::Found(found) => match found.handler {
            NoBody(serve) => {
                context.read_body()?;
                serve(context)
            }
            WithBody(serve) => {
                let body = context.read_body()?;
                context.charge_parsed(&body)?;
                serve(context, decode::decode_body(body)?)
            }
            Decompressed(serve) => {
                let body = decompress::read_body(context)?;
                context.charge_parsed(&body)?;
                serve(context, decode::decode_body(body)?)
            }
            ReadsBody(serve) => serve(context),
        },
        Outcome::Redirect { status, location } => {
            context.read_body()?;
            let headers = [("Location", location.as_str())];
            context.exchange.respond_with_headers(*status, ContentType::PLAIN_UTF8, &headers, b"")
        }
        Outcome::MethodNotAllowed(found) => {
            let error = if responses::wants_websocket(context, found.pattern) {
                Error::UpgradeRequired
            } else {
                Error::MethodNotAllowed(found.allow)
            };
            context.read_body().and(Err(error))
        }
        Outcome::NotFound => other_routes::pass_or_reject(context),
    }
}

/// True if a request for a path without a row is passed on.
pub fn is_passed_on(method: &str, target: &str) -> bool {
    method == "POST" && OtherRoute::parse(target).is_some()
}

fn root(context: &mut Context<'_>) -> Result<()> {
    context.exchange.respond(200, ContentType::PLAIN_UTF8, IS_RUNNING.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::routes;
    use crate::observe::metrics::GENERATION_ROUTES;

    fn check(method: &str, target: &str, expected: &str) {
        let route = routes::resolve(ROUTES, method, target);
        let found = match &route.outcome {
            Outcome::Found(route) => route.pattern.to_owned(),
            Outcome::Redirect { status, location } => format!("{status} {location}"),
            Outcome::MethodNotAllowed(route) => format!("405 {}", route.allow),
            Outcome::NotFound => Error::UnknownRoute.message(),
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
        check("POST", "/v1/responses/compact", "/v1/responses/compact");
        check("GET", "/v1/responses/resp_1", "404 page not found");
        check("GET", "/v1", "404 page not found");
        check("GET", "/api", "404 page not found");
        check("GET", "", "404 page not found");
    }

    #[test]
    fn a_row_is_found_without_a_method() {
        let pattern = |target| routes::resolve(ROUTES, "?", target).pattern();
        assert_eq!(pattern("//api/chat?x=1"), Some("/api/chat"));
        assert_eq!(pattern("/api/blobs/sha256:00"), Some("/api/blobs/:digest"));
        assert_eq!(pattern("http://h/v1/models/a/b"), Some("/v1/models/*model"));
        assert_eq!(pattern("/nothing"), None);
    }

    #[test]
    fn the_routes_that_ask_models_are_rows() {
        let asks = |target| asks_models(&routes::resolve(ROUTES, "POST", target));
        for path in GENERATION_ROUTES {
            assert!(ROUTES.iter().any(|route| route.pattern == *path) && asks(path), "{path}");
        }
        assert!(asks("/v1/rerank"));
        assert!(
            !asks("/api/tags") && !asks("/v1/models/m") && !asks("/api/pull") && !asks("/status")
        );
    }

    #[test]
    fn a_digest_is_the_last_segment() {
        let route = routes::resolve(ROUTES, "POST", "/api/blobs/sha256:00?x=/y");
        assert_eq!(route.parameter(), "sha256:00");
    }

    #[test]
    fn only_health_and_the_files_of_the_status_page_are_public() {
        let is_public = |method, target| routes::resolve(ROUTES, method, target).is_public();
        for method in ["GET", "HEAD"] {
            for open in ["/", "/health", "/health?x=1", "http://h/health", "http://h", "//health"] {
                assert!(is_public(method, open), "{method} {open}");
            }
            for open in ["/status", "/status?x=1", "/status.css", "/status.js"] {
                assert!(is_public(method, open), "{method} {open}");
            }
        }
        for (method, target) in [
            ("POST", "/"),
            ("PUT", "/health"),
            ("OPTIONS", "/"),
            ("GET", "/health/"),
            ("GET", "/healthy"),
            ("GET", "/Health"),
            ("GET", "/health/../api/tags"),
            ("GET", "/%68ealth"),
            ("GET", "/openai/health"),
            ("GET", "/status.json"),
            ("GET", "/status/"),
            ("GET", "/status.html"),
            ("POST", "/status"),
            ("GET", "/api/version"),
            ("GET", "/api/tags?/health"),
            ("GET", "http:///health/api/tags"),
            ("POST", "/api/chat"),
            ("GET", "/v1/models"),
            ("GET", "/nothing"),
            ("GET", ""),
        ] {
            assert!(!is_public(method, target), "{method} {target}");
        }
    }
}
