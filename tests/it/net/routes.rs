//! The table of all routes (Ollama `server/routes.go`, v0.32.15): each method and path reaches its
//! own handler, other methods get 405, and unknown paths get 404.
//!
//! Intended differences: `/health`, `/openai/health` and `/v1/messages/count_tokens` are additions, and
//! a model name below `/v1/models` may contain slashes.

use ollama_openai_proxy::handlers;

use crate::support::*;

/// How a response shows which handler sent it.
enum Told {
    /// By a status, and the beginning of a body that no other handler sends.
    Begins(u16, &'static str),
    /// By the Go type name in the error for a number in this member.
    Reads(&'static str),
    /// The same for the member `model`, in OpenAI's error format.
    ReadsName(&'static str),
}
use Told::{Begins, Reads, ReadsName};

const SIGNED_OUT: Told = Begins(401, r#"{"error":"you are not currently signed in"}"#);

/// A registered path, its methods as in `Allow`, and how its handler is recognized.
const ROUTES: &[(&str, &str, Told)] = &[
    ("/", "HEAD, GET", Begins(200, "Ollama is running")),
    ("/api/version", "HEAD, GET", Begins(200, r#"{"version":""#)),
    ("/api/status", "GET", Begins(200, r#"{"cloud":{"#)),
    ("/api/tags", "HEAD, GET", Begins(200, r#"{"models":[{"name":""#)),
    ("/api/ps", "GET", Begins(200, r#"{"models":[]}"#)),
    ("/api/show", "POST", Reads("ShowRequest.model")),
    ("/api/generate", "POST", Reads("GenerateRequest.model")),
    ("/api/chat", "POST", Reads("ChatRequest.model")),
    ("/api/embed", "POST", Reads("EmbedRequest.model")),
    ("/api/embeddings", "POST", Reads("EmbeddingRequest.model")),
    ("/api/pull", "POST", Reads("PullRequest.model")),
    ("/api/push", "POST", Reads("PushRequest.model")),
    ("/api/create", "POST", Reads("CreateRequest.from")),
    ("/api/copy", "POST", Reads("CopyRequest.source")),
    ("/api/delete", "DELETE", Reads("DeleteRequest.model")),
    ("/api/blobs/:digest", "HEAD, POST", Begins(400, r#"{"error":"invalid digest format"}"#)),
    ("/api/me", "POST", Begins(401, r#"{"error":"unauthorized"}"#)),
    ("/api/signout", "POST", SIGNED_OUT),
    ("/api/user/keys/:encodedKey", "DELETE", SIGNED_OUT),
    (
        "/api/experimental/web_search",
        "POST",
        Begins(403, r#"{"error":"ollama cloud is disabled: web search is unavailable"}"#),
    ),
    (
        "/api/experimental/web_fetch",
        "POST",
        Begins(403, r#"{"error":"ollama cloud is disabled: web fetch is unavailable"}"#),
    ),
    ("/api/experimental/model-recommendations", "GET", Begins(200, r#"{"recommendations":[]}"#)),
    ("/v1/models", "GET", Begins(200, r#"{"object":"list","data":[{"id":""#)),
    (
        "/v1/models/*model",
        "GET",
        Begins(404, r#"{"error":{"message":"model 'a/b/c:8b' not found""#),
    ),
    ("/v1/chat/completions", "POST", ReadsName("ChatCompletionRequest")),
    ("/v1/completions", "POST", ReadsName("CompletionRequest")),
    ("/v1/embeddings", "POST", ReadsName("EmbedRequest")),
    ("/v1/responses", "POST", ReadsName("ResponsesRequest")),
    ("/v1/responses/compact", "POST", ReadsName("ResponsesCompactRequest")),
    (
        "/v1/audio/transcriptions",
        "POST",
        Begins(400, r#"{"error":{"message":"failed to parse multipart form"#),
    ),
    (
        "/v1/messages",
        "POST",
        Begins(
            400,
            r#"{"type":"error","error":{"type":"invalid_request_error","message":"model is required"}"#,
        ),
    ),
    (
        "/v1/messages/count_tokens",
        "POST",
        Begins(
            400,
            r#"{"type":"error","error":{"type":"invalid_request_error","message":"model is required"}"#,
        ),
    ),
];

/// Routes that Ollama does not have.
const OURS: &[&str] = &[
    "/health", "/openai/health", "/ready", "/metrics", "/status", "/status.css", "/status.js",
    "/status.json",
];

/// All methods that are tried.
const METHODS: &[&str] = &["HEAD", "GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"];

/// A concrete path for a registered pattern.
fn path(registered: &str) -> String {
    registered
        .replace(":digest", "sha256:0")
        .replace(":encodedKey", "c3No")
        .replace("*model", "a/b%2Fc:8b")
}

/// Uses an address as host: a plain OPTIONS to a host name never reaches the router.
fn ask(client: &mut Client, method: &str, path: &str, body: &str) -> Answer {
    client.with_host("127.0.0.1", method, path, "", body).any_answer(method)
}

/// The router's own response, which is plain text.
#[track_caller]
fn assert_plain(answer: &Answer, asked: (&str, &str), status: u16, text: &str) {
    let text = if asked.0 == "HEAD" { "" } else { text };
    assert_eq!((answer.status(), answer.body.as_str()), (status, text), "{asked:?}");
    assert_eq!(answer.head.header("content-type"), Some("text/plain"), "{asked:?}");
}

#[test]
fn each_route_is_answered_by_its_own_handler() {
    let (upstream, proxy) = pair();
    let mut client = proxy.client();
    let text = "json: cannot unmarshal number into Go struct field";
    for (registered, methods, told) in ROUTES {
        let (status, begins, body) = match told {
            Begins(status, begins) => (*status, (*begins).to_owned(), "{}".to_owned()),
            ReadsName(name) => {
                let begins = format!(r#"{{"error":{{"message":"{text} {name}.model of type"#);
                (400, begins, r#"{"model":5}"#.to_owned())
            }
            Reads(place) => {
                let begins = format!(r#"{{"error":"{text} {place} of type string"}}"#);
                let member = place.split('.').next_back().expect("a member");
                (400, begins, format!(r#"{{"{member}":5}}"#))
            }
        };
        for method in methods.split(", ") {
            let answer = ask(&mut client, method, &path(registered), &body);
            assert_eq!(answer.status(), status, "{method} {registered}: {}", answer.body);
            let begins = if method == "HEAD" { "" } else { &begins };
            assert!(answer.body.starts_with(begins), "{method} {registered}: {}", answer.body);
        }
    }
    assert!(upstream.is_idle());
}

#[test]
fn every_other_method_is_refused() {
    let proxy = Proxy::start(&Upstream::start());
    let mut client = proxy.client();
    for (registered, methods, _) in ROUTES {
        let path = path(registered);
        let others = METHODS.iter().filter(|other| !methods.split(", ").any(|it| it == **other));
        for method in others {
            let answer = ask(&mut client, method, &path, "");
            assert_plain(&answer, (method, &path), 405, "405 method not allowed");
            assert_eq!(answer.head.header("allow"), Some(*methods), "{method} {path}");
        }
    }
}

#[test]
fn what_is_not_registered_is_not_found() {
    let proxy = Proxy::start(&Upstream::start());
    let mut client = proxy.client();
    for path in [
        "/v1", "/v1/messages/batches", "/v1/images/generations", "/v1/images/edits",
        "/v1/moderations", "/v1/responses/resp_1", "/api/web_search", "/api/web_fetch",
    ] {
        for method in METHODS {
            let answer = ask(&mut client, method, path, "{}");
            assert_plain(&answer, (method, path), 404, "404 page not found");
        }
    }
}

#[test]
fn nothing_else_is_registered() {
    let paths = handlers::ROUTES.iter().map(|route| route.pattern);
    let mut found: Vec<&str> = paths.filter(|path| !OURS.contains(path)).collect();
    let mut expected: Vec<&str> = ROUTES.iter().map(|(path, ..)| *path).collect();
    expected.sort_unstable();
    found.sort_unstable();
    assert_eq!(found, expected);
}
