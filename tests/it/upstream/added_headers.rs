//! Headers that the operator adds: they are sent with each request, once, whatever else has their name.

use ollama_openai_proxy::config::Config;
use ollama_openai_proxy::observe::redact::Secret;
use ollama_openai_proxy::upstream::base_url::BaseUrl;
use ollama_openai_proxy::upstream::proxy;

use crate::support::*;

fn add(config: &mut Config, headers: &[(&str, &str)]) {
    let header = |(name, value): &(&str, &str)| ((*name).to_owned(), Secret::new(*value));
    config.upstream.headers = headers.iter().map(header).collect();
}

/// Whether a request has these headers, each of them once.
#[track_caller]
fn check(request: &Recorded, headers: &[(&str, &str)]) {
    for (name, value) in headers {
        let path = &request.path;
        assert_eq!((request.header(name), request.count(name)), (Some(*value), 1), "{path} {name}");
    }
}

#[test]
fn they_are_sent_with_every_request() {
    let added = [("X-Team", "ml"), ("OpenAI-Organization", "org-1")];
    let (upstream, proxy) = pair_with(|config| add(config, &added));
    upstream.script_lists();
    upstream.script(vec![json(r#"{"data":[{"id":"m","owned_by":"llamacpp"}]}"#)]);
    assert_eq!(proxy.names(), ["m:latest"]);
    let key = format!("Bearer {KEY}");
    let check = |request: &Recorded| {
        check(request, &added);
        check(request, &[("Authorization", &key)]);
    };
    let list = upstream.request();
    assert_eq!(list.path, "/v1/models");
    check(&list);
    let details = upstream.asides();
    assert_eq!(details.len(), 1, "{details:?}");
    check(&details[0]);
    for (path, body) in [
        ("/api/chat", chat("Hi")),
        ("/api/generate", json!({"model": "m", "prompt": "Hi", "stream": false}).to_string()),
        ("/api/embed", json!({"model": "m", "input": "Hi"}).to_string()),
        ("/v1/chat/completions", chat("Hi")),
        ("/v1/embeddings", json!({"model": "m", "input": "Hi"}).to_string()),
        ("/v1/responses", json!({"model": "m", "input": "Hi"}).to_string()),
        ("/v1/rerank", json!({"model": "m", "query": "Hi"}).to_string()),
        ("/v1/chat/completions", chat(&"x".repeat(2_000_000))),
    ] {
        upstream.script(vec![status(400, &[], r#"{"error":{"message":"enough"}}"#)]);
        proxy.ask(path, body);
        check(&upstream.request());
    }
    // Requests that follow the first rejection.
    while !upstream.is_idle() {
        check(&upstream.request());
    }
    upstream.script(vec![json(MODELS)]);
    proxy.fetch("/openai/health");
    check(&upstream.request());
}

#[test]
fn they_win_over_the_client_s_and_over_our_own() {
    let added = [
        ("openai-organization", "org-1"),
        ("Authorization", "Token t0ken-1"),
        ("user-agent", "mine/1"),
        ("ACCEPT", "application/x-mine"),
        ("X-Request-Id", "fixed"),
        ("Content-Type", "application/json; charset=utf-8"),
        ("Host", "virtual.example"),
    ];
    let (upstream, proxy) = pair_with(|config| add(config, &added));
    let lines = "OpenAI-Organization: org-2\r\nOpenAI-Project: p-2\r\nAccept: text/event-stream\r\n\
                 Authorization: Bearer mine\r\nUser-Agent: sdk/2\r\n";
    for path in ["/v1/chat/completions", "/api/chat"] {
        upstream.script(vec![answer("ok")]);
        let mut client = proxy.client();
        assert_eq!(client.with("POST", path, lines, chat_whole("Hi")).answer().status(), 200);
        let request = upstream.request();
        check(&request, &added);
        let project = (path == "/v1/chat/completions").then_some("p-2");
        assert_eq!(request.header("openai-project"), project);
    }
}

#[test]
fn the_type_of_a_form_and_the_framing_stay() {
    let added = [("Content-Type", "text/plain"), ("Content-Length", "3"), ("Connection", "close")];
    let (upstream, proxy) = pair_with(|config| add(config, &added));
    let kind = "multipart/form-data; boundary=b";
    let lines = format!("Content-Type: {kind}\r\n");
    let form = "--b\r\nContent-Disposition: form-data; name=\"model\"\r\n\r\nm\r\n--b--\r\n";
    upstream.script(vec![json("{}")]);
    let mut client = proxy.client();
    client.with("POST", "/v1/audio/transcriptions", &lines, form);
    assert_eq!(client.answer().status(), 200);
    let request = upstream.request();
    assert_eq!((request.body.as_str(), request.count("content-length")), (form, 1));
    check(&request, &[("Content-Type", kind)]);
    assert_eq!(request.header("connection"), None);
}

#[test]
fn azure_s_own_header_can_be_set_too() {
    let upstream = Upstream::start();
    let base = upstream.base_url().replace("/v1", "/openai?api-version=1");
    let proxy = Proxy::at(&base, |config| add(config, &[("Api-Key", "another-key-1")]));
    upstream.script(vec![answer("ok")]);
    assert_eq!(proxy.ask("/api/chat", chat_whole("Hi")).status(), 200);
    check(&upstream.request(), &[("api-key", "another-key-1")]);
}

#[test]
fn they_go_through_a_proxy_with_the_whole_url() {
    let upstream = Upstream::start();
    let base = "http://upstream.test:8000/v1";
    let url = format!("http://me:s3cret@{}", upstream.addr());
    let chosen = proxy::Proxy::select(&BaseUrl::parse(base).expect("a base URL"), &|names| {
        Some((names[0], url.clone())).filter(|_| !names.contains(&"no_proxy"))
    });
    let added = [("X-Team", "ml"), ("User-Agent", "mine/1"), ("Host", "other.test")];
    let proxy = Proxy::at(base, |config| {
        config.upstream.proxy = chosen.expect("a proxy's URL");
        add(config, &added);
    });
    upstream.script(vec![answer("one")]).script(vec![answer("two")]);
    for path in ["/api/chat", "/v1/chat/completions"] {
        assert_eq!(proxy.ask(path, chat_whole("Hi")).status(), 200);
        let request = upstream.request();
        assert_eq!(request.path, "http://upstream.test:8000/v1/chat/completions");
        check(&request, &added);
        assert_eq!(request.count("proxy-authorization"), 1);
    }
}

#[test]
fn a_value_that_an_upstream_repeats_is_masked() {
    let added = [("X-Key", "s3cret-value-1"), ("Authorization", "Token s3cret-token-2")];
    let (upstream, proxy) = pair_with(|config| add(config, &added));
    let error = r#"{"error":{"message":"bad: s3cret-value-1, s3cret-token-2"}}"#;
    for path in ["/api/chat", "/v1/chat/completions"] {
        upstream.script(vec![status(401, &[], error)]);
        let told = proxy.ask(path, chat("Hi"));
        assert_eq!(told.status(), 401);
        assert!(told.body.contains("bad: ***, ***"), "{}", told.body);
    }
}
