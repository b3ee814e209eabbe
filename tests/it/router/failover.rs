//! Which failures send a request to the next upstream.

use ollama_openai_proxy::backends::profiles;
use ollama_openai_proxy::models::configured::Strategy;

use crate::support::fleet::{Fleet, configured, fleet, server, several};
use crate::support::reserved::Reserved;
use crate::support::*;

/// Two replicas of `m`, of which the first one fails in this way.
fn failing(steps: impl Fn() -> Vec<Step> + Send + 'static) -> Fleet {
    let fleet = fleet(&[&["m"], &["m"]], |config| config.retry.max_retries = 0);
    fleet.upstreams[0].judge(move |_| Some(steps()));
    fleet
}

/// The requests of all routes that a model answers.
fn requests() -> Vec<(&'static str, Value)> {
    let messages = json!([{"role": "user", "content": "Hi"}]);
    let mut requests = vec![
        ("/api/embed", json!({"model": "m", "input": "a"})),
        ("/v1/embeddings", json!({"model": "m", "input": "a"})),
        ("/v1/rerank", json!({"model": "m", "query": "a", "documents": []})),
    ];
    for stream in [false, true] {
        requests.extend([
            ("/api/chat", json!({"model": "m", "messages": messages, "stream": stream})),
            ("/api/generate", json!({"model": "m", "prompt": "Hi", "stream": stream})),
            ("/v1/chat/completions", json!({"model": "m", "messages": messages, "stream": stream})),
            ("/v1/completions", json!({"model": "m", "prompt": "Hi", "stream": stream})),
            (
                "/v1/messages",
                json!({"model": "m", "messages": messages, "max_tokens": 9, "stream": stream}),
            ),
        ]);
    }
    requests
}

#[test]
fn every_route_goes_on_to_the_next_upstream_before_the_first_byte() {
    let fleet = failing(|| vec![status(503, &[], r#"{"error":{"message":"overloaded"}}"#)]);
    for (path, body) in requests() {
        let answer = fleet.proxy.post(path, &body);
        assert_eq!(answer.status(), 200, "{path} {body}: {}", answer.body);
        assert_eq!(answer.head.header("x-upstream"), Some("b"), "{path}");
        assert_eq!(fleet.asked(), "ab", "{path} {body}");
    }
    assert!(fleet.proxy.sleeps.is_empty(), "at once");
}

#[test]
fn each_failure_that_another_upstream_may_not_have_goes_on() {
    let error = |code: u16| {
        move || vec![status(code, &[], &format!(r#"{{"error":{{"message":"no {code}"}}}}"#))]
    };
    for code in [401, 402, 403, 408, 409, 429, 500, 502, 503, 504, 529] {
        assert_eq!(failing(error(code)).chat("m"), "b", "{code}");
    }
    let unknown = || {
        let body =
            r#"{"error":{"message":"The model `m` does not exist","code":"model_not_found"}}"#;
        vec![status(404, &[], body)]
    };
    assert_eq!(failing(unknown).chat("m"), "b", "404 of a model that its list shows");
    assert_eq!(failing(|| vec![Step::Close]).chat("m"), "b", "closed without a byte");
    assert_eq!(failing(|| vec![Step::Reset]).chat("m"), "b", "reset");
    let in_band = || vec![upstream::json(r#"{"error":{"message":"boom","code":500}}"#)];
    assert_eq!(failing(in_band).chat("m"), "b", "an error in a success");
}

#[test]
fn a_client_s_own_mistake_is_told_by_the_first_upstream() {
    for code in [400, 413, 422] {
        let fleet =
            failing(move || vec![status(code, &[], r#"{"error":{"message":"you are wrong"}}"#)]);
        let told = fleet.chat("m");
        assert!(told.starts_with(&format!("{code} you are wrong")), "{told}");
        assert!(!fleet.asked().contains('b'), "{code}");
    }
}

#[test]
fn an_upstream_that_cannot_be_reached_is_left_at_once() {
    let (nobody, other) = (Reserved::new(), Upstream::start());
    other.script(vec![upstream::answer("b")]);
    let servers = vec![server("a", &nobody.base_url()), server("b", &other.base_url())];
    let proxy = several(servers, |config| {
        config.models = vec![configured("mine", &["a/m", "b/m"], Strategy::Order)];
    });
    let body =
        json!({"model": "mine", "stream": false, "messages": [{"role": "user", "content": "Hi"}]});
    let answer = proxy.post("/api/chat", &body);
    assert_eq!((answer.status(), answer.head.header("x-upstream")), (200, Some("b")));
    assert!(proxy.sleeps.is_empty());
}

#[test]
fn an_upstream_that_sends_no_head_in_time_is_left() {
    let fleet = fleet(&[&["m"], &["m"]], |config| {
        config.upstreams[0].timeout = Some(std::time::Duration::from_millis(50));
    });
    let (_go_on, told) = bounded::<()>(0);
    fleet.upstreams[0].judge(move |_| Some(vec![Step::Wait(told.clone())]));
    assert_eq!(fleet.chat("m"), "b");
}

#[test]
fn a_stream_that_ends_before_its_first_event_goes_on() {
    for path in ["/api/chat", "/v1/chat/completions", "/v1/messages"] {
        let body = json!({"model": "m", "max_tokens": 9, "stream": true,
            "messages": [{"role": "user", "content": "Hi"}]});
        let fleet = failing(|| vec![upstream::stream_head(), Step::Close]);
        let answer = fleet.proxy.post(path, &body);
        assert_eq!(answer.status(), 200, "{path}: {}", answer.body);
        assert_eq!(answer.head.header("x-upstream"), Some("b"), "{path}");
        assert!(!answer.body.contains("error"), "{path}: {}", answer.body);
    }
}

#[test]
fn after_the_first_byte_no_other_upstream_is_asked() {
    for path in ["/api/chat", "/v1/chat/completions", "/v1/messages"] {
        let body = json!({"model": "m", "max_tokens": 9, "stream": true,
            "messages": [{"role": "user", "content": "Hi"}]});
        let fleet = failing(|| vec![upstream::stream_head(), upstream::delta("one"), Step::Close]);
        let mut client = fleet.proxy.client();
        client.with("POST", path, "Connection: close\r\n", body.to_string());
        let text = client.rest();
        assert!(text.contains("one") && !text.contains("[DONE]"), "{path}: {text}");
        assert!(
            !text.contains("\"done\":true") && !text.contains("message_stop"),
            "{path}: {text}"
        );
        assert_eq!(fleet.asked(), "a", "{path}");
    }
}

#[test]
fn each_candidate_gets_the_request_in_its_own_words() {
    let fleet = fleet(&[&["m"], &["other/m"]], |config| {
        config.upstreams[0].profile = profiles::find_by_name("openai");
        config.upstreams[1].profile = profiles::find_by_name("vllm");
        config.models = vec![configured("mine", &["a/m", "b/other/m"], Strategy::Order)];
        config.retry.max_retries = 0;
    });
    fleet.upstreams[0].judge(|_| Some(vec![status(500, &[], r#"{"error":{"message":"x"}}"#)]));
    let body = json!({"model": "mine", "stream": false, "options": {"num_predict": 7, "top_k": 5},
        "messages": [{"role": "user", "content": "Hi"}]});
    assert_eq!(fleet.proxy.post("/api/chat", &body).status(), 200);
    let (first, second) =
        (fleet.upstreams[0].request().json(), fleet.upstreams[1].request().json());
    assert_eq!((&first["model"], &second["model"]), (&json!("m"), &json!("other/m")));
    assert_eq!((&first["max_completion_tokens"], &first["top_k"]), (&json!(7), &Value::Null));
    assert_eq!((&second["max_tokens"], &second["top_k"]), (&json!(7), &json!(5)));
}

#[test]
fn a_repair_is_made_for_the_upstream_that_needs_it() {
    let fleet = fleet(&[&["m"], &["m"]], |config| config.retry.max_retries = 0);
    let body = json!({"model": "m", "stream": false, "options": {"temperature": 1},
        "messages": [{"role": "user", "content": "Hi"}]});
    fleet.upstreams[0].judge(|request| match request.json().get("temperature") {
        Some(_) => Some(vec![upstream::unsupported("temperature", "")]),
        None => Some(vec![upstream::answer("a")]),
    });
    let answer = fleet.proxy.post("/api/chat", &body);
    assert_eq!((answer.status(), answer.head.header("x-upstream")), (200, Some("a")));
    assert_eq!(fleet.asked(), "aa", "a rejected parameter is left out, and b is not asked");
    fleet.upstreams[0].judge(|_| Some(vec![Step::Close]));
    assert_eq!(fleet.proxy.post("/api/chat", &body).status(), 200);
    assert!(fleet.upstreams[1].request().json()["temperature"].is_number(), "b needs no repair");
}

#[test]
fn an_upload_that_streams_goes_on_only_while_nothing_of_it_was_read() {
    let big = "x".repeat(2 * 1024 * 1024);
    let body = format!(r#"{{"model":"mine","messages":[{{"role":"user","content":"{big}"}}]}}"#);
    let (nobody, other) = (Reserved::new(), Upstream::start());
    other.list(&crate::support::fleet::list_of(&["m"]));
    other.judge(|request| Some(crate::support::fleet::says("b", request)));
    let targets = [server("a", &nobody.base_url()), server("b", &other.base_url())];
    let proxy = several(targets.to_vec(), |config| {
        config.upstreams[0].list = Some(vec!["mine".to_owned()]);
        config.upstreams[1].list = Some(vec!["mine".to_owned()]);
        config.retry.max_retries = 0;
    });
    let answer = proxy.ask("/v1/chat/completions", &body);
    assert_eq!((answer.status(), answer.head.header("x-upstream")), (200, Some("b")));
    assert_eq!(other.request().body, body, "whole, byte for byte");
    let fleet = failing(|| vec![status(503, &[], r#"{"error":{"message":"later"}}"#)]);
    let body = body.replace("\"mine\"", "\"m\"");
    let answer = fleet.proxy.ask("/v1/chat/completions", &body);
    assert_eq!((answer.status(), fleet.asked().as_str()), (503, "a"), "it was read");
}

#[test]
fn a_response_is_translated_for_an_upstream_without_the_route_although_the_next_one_has_it() {
    let fleet = fleet(&[&["m"], &["m"]], |config| config.retry.max_retries = 0);
    fleet.upstreams[0].judge(|request| match request.path.ends_with("/responses") {
        true => Some(vec![status(404, &[], r#"{"detail":"Not Found"}"#)]),
        false => Some(vec![upstream::answer("a")]),
    });
    for asked in ["aa", "a"] {
        let answer = fleet.proxy.post("/v1/responses", &json!({"model": "m", "input": "Hi"}));
        assert_eq!((answer.status(), answer.head.header("x-upstream")), (200, Some("a")));
        assert_eq!(answer.json()["output"][0]["content"][0]["text"], "a", "{}", answer.body);
        assert_eq!(fleet.asked(), asked);
    }
}

#[test]
fn the_upstream_whose_error_is_told_is_named() {
    let fleet = failing(|| vec![status(429, &[], r#"{"error":{"message":"slow down"}}"#)]);
    fleet.upstreams[1].judge(|_| Some(vec![Step::Close]));
    let answer = fleet.proxy.ask("/api/chat", chat("Hi"));
    assert_eq!((answer.status(), answer.head.header("x-upstream")), (429, Some("a")));
    assert_eq!(answer.error(), "slow down (2 upstreams tried)");
}
