//! Members that the operator adds to each JSON request that lacks them.

use ollama_openai_proxy::config::Config;

use crate::support::*;

/// Members as they stand in a request.
const ADDED: &str = r#""provider":{"sort":"throughput"},"service_tier":"flex""#;

fn adding(config: &mut Config) {
    let extra = json!({"provider": {"sort": "throughput"}, "service_tier": "flex"});
    config.upstream.extra_body = extra.as_object().cloned().expect("an object");
}

/// A request on each route that sends JSON.
fn requests() -> Vec<(&'static str, String)> {
    let text = |value: Value| value.to_string();
    vec![
        ("/api/chat", chat("Hi")),
        ("/api/chat", chat_whole("Hi")),
        ("/api/generate", text(json!({"model": "m", "prompt": "Hi", "stream": false}))),
        (
            "/api/generate",
            text(json!({"model": "m", "prompt": "Hi", "raw": true, "stream": false})),
        ),
        ("/api/embed", text(json!({"model": "m", "input": ["Hi"]}))),
        ("/v1/chat/completions", chat("Hi")),
        ("/v1/completions", text(json!({"model": "m", "prompt": "Hi"}))),
        ("/v1/embeddings", text(json!({"model": "m", "input": "Hi"}))),
        ("/v1/responses", text(json!({"model": "m", "input": "Hi"}))),
        (
            "/v1/messages",
            text(json!({"model": "m", "max_tokens": 9,
            "messages": [{"role": "user", "content": "Hi"}]})),
        ),
        ("/v1/rerank", text(json!({"model": "m", "query": "Hi"}))),
        ("/v1/images/generations", text(json!({"model": "m", "prompt": "Hi"}))),
    ]
}

#[test]
fn they_are_added_on_every_route_and_to_large_bodies() {
    let (upstream, proxy) = pair_with(adding);
    let large = "x".repeat(2_000_000);
    let long = [
        ("/v1/chat/completions", chat(&large)),
        ("/v1/rerank", json!({"model": "m", "query": large}).to_string()),
        ("/v1/embeddings", json!({"input": large, "model": "m"}).to_string()),
    ];
    for (path, body) in requests().into_iter().chain(long) {
        upstream.script(vec![json("{}")]);
        proxy.ask(path, body);
        let request = upstream.request();
        assert_eq!(request.body.matches(ADDED).count(), 1, "{path}");
        let length = request.header("content-length").and_then(|it| it.parse().ok());
        assert_eq!(length, Some(request.body.len()), "{path}");
        // Whatever followed what is no answer on some routes.
        while !upstream.is_idle() {
            upstream.request();
        }
    }
}

#[test]
fn what_the_client_sends_stays_and_so_does_the_text_of_all_else() {
    let (upstream, proxy) = pair_with(adding);
    for (path, body, expected) in [
        (
            "/v1/chat/completions",
            r#"{"zeta":1.50,"model":"m","messages":[ {"role":"user","content":"\u00e9"} ],"provider":null}"#,
            r#"{"zeta":1.50,"model":"m","messages":[ {"role":"user","content":"\u00e9"} ],"provider":null,"service_tier":"flex"}"#,
        ),
        (
            "/v1/rerank",
            "{ \"model\" : \"m\",\n \"service_tier\":\"auto\" , \"n\":1e2 }\n",
            "{ \"model\" : \"m\",\n \"service_tier\":\"auto\" , \"n\":1e2 ,\"provider\":{\"sort\":\"throughput\"}}",
        ),
    ] {
        upstream.script(vec![json("{}")]);
        proxy.ask(path, body);
        assert_eq!(upstream.request().body, expected);
    }
}

#[test]
fn forms_stay_as_they_are() {
    let (upstream, proxy) = pair_with(adding);
    let lines = "Content-Type: multipart/form-data; boundary=b\r\n";
    let form = "--b\r\nContent-Disposition: form-data; name=\"model\"\r\n\r\nm\r\n--b--\r\n";
    upstream.script(vec![json("{}")]);
    let mut client = proxy.client();
    client.with("POST", "/v1/audio/transcriptions", lines, form);
    assert_eq!(client.answer().status(), 200);
    assert_eq!(upstream.request().body, form);
}

#[test]
fn the_form_of_the_answer_stays_the_client_s_choice() {
    let (upstream, proxy) = pair_with(|config| {
        let extra = json!({"stream": true, "top_k": 5, "stream_options": {"include_usage": true}});
        config.upstream.extra_body = extra.as_object().cloned().expect("an object");
    });
    upstream.script(vec![answer("ok")]);
    let body = r#"{"model":"m","messages":[]}"#;
    assert_eq!(proxy.ask("/v1/chat/completions", body).status(), 200);
    assert_eq!(upstream.request().body, r#"{"model":"m","messages":[],"top_k":5}"#);
    upstream.script(stream(&["ok"]));
    proxy.ask("/v1/chat/completions", r#"{"model":"m","messages":[],"stream":true}"#);
    assert_eq!(upstream.request().json()["stream_options"]["include_usage"], true);
}

#[test]
fn a_member_that_the_upstream_refuses_ends_no_conversation() {
    for (path, body) in [
        ("/api/chat", chat_whole("Hi")),
        ("/v1/chat/completions", chat_whole("Hi")),
        ("/v1/rerank", chat_whole("Hi")),
    ] {
        let (upstream, proxy) = pair_with(adding);
        upstream.judge(|request| {
            let is_refused = request.json().get("provider").is_some();
            is_refused.then(|| vec![unsupported("provider", "")])
        });
        upstream.script(vec![answer("ok")]).script(vec![answer("ok")]);
        assert_eq!(proxy.ask(path, &body).status(), 200, "{path}");
        assert!(upstream.request().body.contains("provider"), "{path}");
        assert!(!upstream.request().body.contains("provider"), "{path}");
    }
}

#[test]
fn they_are_sent_again_with_a_repaired_request_and_to_the_other_route_of_a_model() {
    let (upstream, proxy) = pair_with(adding);
    upstream.script(vec![unsupported("temperature", "")]).script(vec![answer("ok")]);
    let body = json!({"model": "m", "messages": [], "temperature": 0.5}).to_string();
    assert_eq!(proxy.ask("/v1/chat/completions", body).status(), 200);
    for has_temperature in [true, false] {
        let request = upstream.request();
        assert!(request.body.contains(ADDED), "{}", request.body);
        assert_eq!(request.body.contains("temperature"), has_temperature);
    }
    let message = "This model is only supported in v1/responses and not in v1/chat/completions.";
    let error = json!({"error": {"message": message, "type": "invalid_request_error"}});
    upstream.script(vec![status(404, &[], &error.to_string())]).script(vec![json("{}")]);
    proxy.ask(
        "/v1/chat/completions",
        json!({"model": "m", "messages": [
        {"role": "user", "content": "Hi"}]})
        .to_string(),
    );
    upstream.request();
    let request = upstream.request();
    assert_eq!(request.path, "/v1/responses");
    let sent = request.json();
    assert_eq!(
        (&sent["provider"]["sort"], &sent["service_tier"]),
        (&json!("throughput"), &json!("flex"))
    );
}
