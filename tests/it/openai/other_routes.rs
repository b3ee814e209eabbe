//! Routes below `/v1` that only the upstream has: passed on where the request names a model, and
//! unknown where it manages the operator's account.

use super::pass_through::posted;
use super::uploads::{FORM, form, streams_through};
use crate::support::reserved::Reserved;
use crate::support::*;
use ollama_openai_proxy::http::client_keys::ClientKeys;
use std::time::Duration;

const SPEECH: &str = "{ \"input\" : \"Hi\",\n\"voice\":\"a\",\"model\" :\"m\", \"speed\":1.50 }\n";

/// The plain 404 of an unknown path, and that the upstream was not asked.
#[track_caller]
fn is_unknown(upstream: &Upstream, answer: &Answer, asked: &str) {
    assert_eq!((answer.status(), answer.body.as_str()), (404, "404 page not found"), "{asked}");
    assert_eq!(answer.head.header("content-type"), Some("text/plain"), "{asked}");
    assert!(upstream.is_idle(), "{asked}");
}

#[test]
fn path_query_body_status_and_answer_stay_as_they_are() {
    let (upstream, proxy) = pair();
    for path in [
        "/v1/rerank",
        "/v1/audio/speech?a=%20b&c",
        "/v1/audio/translations",
        "/v1/images/generations",
        "/v1/moderations",
        "/v1/responses/compact",
        "/v1/some/later/route",
    ] {
        upstream.script(vec![typed(201, "audio/wav", &[("x-request-id", "r")], "RIFF\0\r\n\u{1}")]);
        let mut client = proxy.client();
        posted(&mut client, path, "Authorization: Bearer theirs\r\n", SPEECH.as_bytes());
        let answer = client.answer();
        assert_eq!((answer.status(), answer.body.as_str()), (201, "RIFF\0\r\n\u{1}"), "{path}");
        assert_eq!(answer.head.header("content-type"), Some("audio/wav"));
        assert_eq!(answer.head.header("x-request-id"), Some("r"));
        let request = upstream.request();
        assert_eq!((request.method.as_str(), request.path.as_str()), ("POST", path));
        assert_eq!(request.body, SPEECH);
        assert_eq!(request.header("authorization"), Some(format!("Bearer {KEY}").as_str()));
        assert_eq!(request.header("content-type"), Some("application/json"));
    }
}

#[test]
fn the_model_is_named_as_elsewhere() {
    let (upstream, proxy) = pair();
    let copied = proxy.ask("/api/copy", r#"{"source":"tagged:8b","destination":"alias"}"#);
    assert_eq!(copied.status(), 200, "{}", copied.body);
    for (sent, expected) in [
        ("m:latest", "m"),
        ("library/m", "m"),
        ("alias", "tagged:8b"),
        ("unlisted", "unlisted"),
        ("tagged:8b", "tagged:8b"),
    ] {
        upstream.script(vec![json("{}")]);
        let answer = proxy.ask("/v1/rerank", SPEECH.replace("\"m\"", &format!("\"{sent}\"")));
        assert_eq!(answer.status(), 200, "{sent}: {}", answer.body);
        let expected = SPEECH.replace("\"m\"", &format!("\"{expected}\""));
        assert_eq!(upstream.request().body, expected, "{sent}");
    }
    let cloud = proxy.ask("/v1/rerank", SPEECH.replace("\"m\"", "\"x:cloud\""));
    assert_eq!(cloud.status(), 403, "{}", cloud.body);
    assert!(upstream.is_idle());
}

#[test]
fn the_upstream_s_404_is_the_client_s() {
    let (upstream, proxy) = pair();
    for said in [r#"{"detail":"Not Found"}"#, r#"{"error":{"message":"no such route: /v1/x"}}"#] {
        upstream.script(vec![status(404, &[], said)]);
        let answer = proxy.ask("/v1/rerank", SPEECH);
        assert_eq!((answer.status(), answer.body.as_str()), (404, said));
        upstream.request();
    }
    let leaked = format!(r#"{{"error":"bad key {KEY}"}}"#);
    upstream.script(vec![status(401, &[], &leaked)]);
    let answer = proxy.ask("/v1/rerank", SPEECH);
    assert_eq!(answer.status(), 401);
    assert!(answer.body.contains("bad key") && !answer.body.contains(KEY), "{}", answer.body);
}

#[test]
fn a_stream_goes_on_as_it_comes() {
    let (upstream, proxy) = pair();
    let (go_on, told) = bounded(0);
    let (first, second) = (frame("data: one\n\n"), frame("data: two\n\n"));
    upstream.script(vec![stream_head(), first, Step::Wait(told), second, last_frame()]);
    let mut client = proxy.client();
    client.post("/v1/images/edits", SPEECH);
    assert_eq!(client.head().status, 200);
    assert_eq!(client.frame().as_deref(), Some("data: one\n\n"));
    drop(go_on);
    assert_eq!(client.frame().as_deref(), Some("data: two\n\n"));
    assert_eq!(client.frame(), None);
}

#[test]
fn a_form_names_its_model_too() {
    let (upstream, proxy) = pair();
    let mut client = proxy.client();
    for (path, size) in [("/v1/images/edits", 4), ("/v1/audio/translations?x=1", 2_000_000)] {
        upstream.script(vec![json("{}")]);
        posted(&mut client, path, FORM, &form("m:latest", size));
        assert_eq!(client.answer().body, "{}");
        let request = upstream.request();
        assert_eq!(request.path, path);
        assert!(request.body.as_bytes() == form("m", size), "{size}");
        assert_eq!(request.header("content-type"), Some("multipart/form-data; boundary=b"));
    }
    // The name behind a large file.
    let text = String::from_utf8(form("m:latest", 2_000_000)).expect("text");
    let (model, file) = text.split_at(text.rfind("--b\r\n").expect("the second part"));
    let turned = format!("{}{model}--b--\r\n", file.trim_end_matches("--b--\r\n"));
    upstream.script(vec![json("{}")]);
    posted(&mut client, "/v1/images/edits", FORM, turned.as_bytes());
    assert_eq!(client.answer().status(), 200);
    assert!(upstream.request().body == turned.replace("m:latest", "m"));
}

#[test]
fn large_bodies_stream_through() {
    let body = format!(r#"{{"model":"m","documents":["{}"]}}"#, "x".repeat(4_000_000));
    streams_through("/v1/rerank", "", body.as_bytes(), 0);
    streams_through("/v1/images/edits", FORM, &form("m", 4_000_000), 0);
}

#[test]
fn what_names_no_model_is_an_unknown_path() {
    let (upstream, proxy) = pair();
    let large = format!(r#"{{"input":"{}"}}"#, "x".repeat(2_000_000));
    for body in [
        "", "{}", "null", "[]", "m", r#"{"model":5}"#, r#"{"model":null}"#, r#"{"model":" "}"#,
        r#"{"model":"m""#, r#"{"x":{"model":"m"}}"#, &large,
    ] {
        let shown = &body[..body.len().min(40)];
        is_unknown(&upstream, &proxy.ask("/v1/rerank", body), shown);
    }
    let mut client = proxy.client();
    posted(&mut client, "/v1/images/edits", FORM, b"--b\r\n\r\nx\r\n--b--\r\n");
    is_unknown(&upstream, &client.answer(), "a form");
}

#[test]
fn what_manages_the_account_is_an_unknown_path() {
    let (upstream, proxy) = pair();
    for path in [
        "/v1/files",
        "/v1/files?purpose=batch",
        "/v1/fine_tuning/jobs",
        "/v1/batches",
        "/v1/uploads",
        "/v1/uploads/u/complete",
        "/v1/vector_stores",
        "/v1/vector_stores/v/search",
        "/v1/assistants",
        "/v1/threads",
        "/v1/threads/t/runs",
        "/v1/responses/resp_1",
        "/v1/responses/resp_1/cancel",
        "/v1/containers",
        "/v1/evals",
        "/v1/organization/projects",
        "/v1/chat/completions/c",
        "/v1/messages/batches",
        "/v1/Files",
        "/v1/%66iles",
        "/v1/x/../files",
        "/v1/x/%2e%2E/files",
        "/v1/x%2f..%2ffiles",
        "/v1/%252e%252e/files",
        "/v1//rerank",
        "//v1/rerank",
        "/v1/x//y",
        "http://localhost/v1/rerank",
        "/v1/http://localhost/x",
        "/v2/rerank",
        "/rerank",
    ] {
        is_unknown(&upstream, &proxy.ask(path, SPEECH), path);
        let mut client = proxy.client();
        posted(&mut client, path, FORM, &form("m", 4));
        is_unknown(&upstream, &client.answer(), path);
    }
    for method in ["GET", "PUT", "PATCH", "DELETE"] {
        let answer = proxy.client().call(method, "/v1/rerank", SPEECH).answer();
        is_unknown(&upstream, &answer, method);
    }
}

#[test]
fn only_a_failed_connection_is_tried_again() {
    let (upstream, proxy) = pair();
    for code in [408, 429, 500, 503] {
        upstream.script(vec![status(code, &[("retry-after", "1")], r#"{"error":"not now"}"#)]);
        let answer = proxy.ask("/v1/rerank", SPEECH);
        assert_eq!((answer.status(), answer.body.as_str()), (code, r#"{"error":"not now"}"#));
        upstream.request();
        assert!(upstream.is_idle(), "{code}");
    }
    let (upstream, proxy) = pair();
    upstream.script(vec![Step::Close]);
    assert_eq!(proxy.ask("/v1/rerank", SPEECH).status(), 502);
    upstream.request();
    assert!(upstream.is_idle());
    assert_eq!(proxy.sleeps.len(), 0);
    let (upstream, proxy) = pair_with(|config| config.request_timeout = Duration::from_millis(100));
    let (_silent, told) = bounded(0);
    upstream.script(vec![Step::Wait(told)]);
    assert_eq!(proxy.ask("/v1/rerank", SPEECH).status(), 504);
    upstream.request();
    assert!(upstream.is_idle() && proxy.sleeps.is_empty(), "a timeout is not repeated");
    let nobody = Reserved::new();
    let proxy = Proxy::at(&nobody.base_url(), |_| {});
    assert_eq!(proxy.ask("/v1/rerank", SPEECH).status(), 502);
    assert_eq!(proxy.sleeps.len(), 3);
}

#[test]
fn all_bounds_hold() {
    let (upstream, proxy) = pair_with(|config| config.max_body_bytes = 1_500_000);
    for size in [2_000_000, 9_000_000] {
        let body = format!(r#"{{"model":"m","x":"{}"}}"#, "x".repeat(size));
        let answer = proxy.ask("/v1/rerank", body);
        assert_eq!(answer.status(), 413, "{}", answer.body);
    }
    assert!(upstream.is_idle());
    // A body that names its model late is held, and counts against the memory for bodies.
    let (upstream, proxy) =
        pair_with(|config| config.connection_limits.max_held_memory = Some(1_500_000));
    let late = format!(r#"{{"x":"{}","model":"m"}}"#, "x".repeat(2_000_000));
    for path in ["/v1/rerank", "/v1/embeddings"] {
        let mut client = proxy.client();
        let answer = client.post(path, &late).answer();
        assert_eq!(answer.status(), 413, "{path}: {}", answer.body);
        upstream.script(vec![json("{}")]);
        assert_eq!(client.post(path, SPEECH).answer().status(), 200, "nothing is left of it");
        upstream.request();
    }
    assert!(upstream.is_idle());
    let (proxy, busy) = full_queue("", |_| {});
    assert_eq!(proxy.ask("/v1/rerank", SPEECH).status(), 503);
    assert_eq!(busy.answer().status(), 200);
    let (upstream, proxy) =
        pair_with(|config| config.proxy_api_keys = ClientKeys::parse("own-key-1").expect("a key"));
    assert_eq!(proxy.ask("/v1/rerank", SPEECH).status(), 401);
    assert!(upstream.is_idle());
}

#[test]
fn the_queries_of_the_base_and_of_the_client_are_joined() {
    let upstream = Upstream::start();
    let base = upstream.base_url().replace("/v1", "/openai?api-version=2024-10-21");
    let proxy = Proxy::at(&base, |_| {});
    upstream.script(vec![json("{}")]);
    assert_eq!(proxy.ask("/v1/audio/speech?a=1", SPEECH).status(), 200);
    let path = "/openai/deployments/m/audio/speech?api-version=2024-10-21&a=1";
    assert_eq!(upstream.request().path, path);
}
