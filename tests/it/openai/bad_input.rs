//! Malformed input to OpenAI's and Anthropic's routes: refused in the error format of each protocol,
//! never a panic, a hang or a 5xx. After each request the same connection serves the next one.
//!
//! Wrong types are tried beside the translations (`anthropic.rs`, `responses.rs`); what is passed on is
//! the upstream's to judge, once it is an object that names a model.

use crate::support::*;

/// A route, and a sample of what it takes.
fn samples() -> Vec<(&'static str, Value)> {
    let message = json!({"role": "user", "content": "Hé \"x\""});
    let tool = json!({"name": "f", "input_schema": {"type": "object", "properties": {}}});
    vec![
        (
            "/v1/chat/completions",
            json!({"model": "m", "messages": [message], "n": [1, {"a": null}]}),
        ),
        ("/v1/completions", json!({"model": "m", "prompt": "x", "stop": ["a"]})),
        ("/v1/embeddings", json!({"model": "m", "input": ["a", "b"]})),
        ("/v1/responses", json!({"model": "m", "input": [message], "tools": []})),
        (
            "/v1/messages",
            json!({"model": "m", "max_tokens": 5, "system": [{"type": "text", "text": "S"}],
                "tools": [tool], "messages": [message]}),
        ),
        ("/v1/messages/count_tokens", json!({"model": "m", "messages": [message]})),
    ]
}

/// The message of an error in the shape of the route's protocol.
fn message(path: &str, error: &Value) -> String {
    if path.starts_with("/v1/messages") {
        assert_eq!(error["type"], "error", "{path}: {error}");
        assert!(error["request_id"].as_str().is_some_and(|id| id.starts_with("req_")), "{error}");
    } else {
        assert_eq!(error.as_object().map(serde_json::Map::len), Some(1), "{path}: {error}");
        assert!(error["error"]["param"].is_null() && error["error"]["code"].is_null(), "{error}");
    }
    assert_eq!(error["error"]["type"], "invalid_request_error", "{path}: {error}");
    error["error"]["message"].as_str().expect("a message").to_owned()
}

#[test]
fn a_body_cut_at_any_byte_is_refused_in_the_shape_of_its_protocol() {
    let (upstream, proxy) = pair();
    for (path, sample) in samples() {
        let body = sample.to_string();
        let mut client = proxy.client();
        for end in 0..body.len() {
            let answer = client.post(path, &body.as_bytes()[..end]).answer();
            assert_eq!(answer.status(), 400, "{path} cut at {end}: {}", answer.body);
            let text = message(path, &answer.json());
            let expected = if end == 0 { "EOF" } else { "unexpected EOF" };
            assert!(text.contains(expected) || text.contains("invalid character"), "{end}: {text}");
        }
    }
    assert!(upstream.is_idle(), "the upstream gets no request");
}

#[test]
fn bodies_that_are_no_object_or_name_no_model_are_refused_in_the_shape_of_their_protocol() {
    let (upstream, proxy) = pair();
    for (path, _) in samples() {
        let mut client = proxy.client();
        for body in [
            "[]", "5", "\"x\"", "true", "{}", "null", r#"{"model":5}"#, r#"{"model":""}"#,
            r#"{"model":" "}"#, r#"{"model":null}"#, r#"{"model":["m"]}"#, r#"{"model":"m:"}"#,
        ] {
            let answer = client.post(path, body).answer();
            assert_eq!(answer.status(), 400, "{path} {body}: {}", answer.body);
            assert!(!message(path, &answer.json()).is_empty());
        }
    }
    assert!(upstream.is_idle(), "the upstream gets no request");
}
