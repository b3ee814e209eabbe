//! Fill-in-the-middle (`suffix`): the endpoint of each upstream family, and the responses it may
//! send.

use crate::support::*;
use std::sync::Arc;
use std::time::Duration;

use ollama_openai_proxy::api::openai::request::CompletionRequest;
use ollama_openai_proxy::config::Config;
use ollama_openai_proxy::upstream::{Client, Operation, RetryEnv, Trace, UpstreamResponse};
use serde_json::{Map, Value, json};

const LLAMA: &str = r#"{"data":[{"id":"m","owned_by":"llamacpp"}]}"#;

fn ask(proxy: &Proxy, stream: bool) -> crate::support::raw::Answer {
    let body = json!({"model": "m", "prompt": "def f(", "suffix": "return 1", "stream": stream});
    proxy.post("/api/generate", &body)
}

fn llama() -> Upstream {
    let upstream = Upstream::start();
    upstream.list(LLAMA);
    upstream
}

#[test]
fn llama_cpp_fills_in_beside_its_base_url() {
    let upstream = llama();
    let proxy = Proxy::start(&upstream);
    let text = r#"{"content":"x):\n","stop":true,"stop_type":"eos","tokens_predicted":3,"tokens_evaluated":9}"#;
    upstream.script(vec![upstream::json(text)]);
    let answer = ask(&proxy, false);
    assert_eq!(answer.status(), 200, "{}", answer.body);
    let answer = answer.json();
    assert_eq!((&answer["response"], &answer["done_reason"]), (&"x):\n".into(), &"stop".into()));
    assert_eq!((&answer["prompt_eval_count"], &answer["eval_count"]), (&9.into(), &3.into()));
    let request = upstream.request();
    assert_eq!(request.path, "/infill");
    assert_eq!(request.header("authorization"), Some(format!("Bearer {KEY}").as_str()));
    assert_eq!(
        request.json(),
        json!({"model": "m", "input_prefix": "def f(", "input_suffix": "return 1", "stream": false})
    );
}

#[test]
fn a_filled_in_text_streams_line_by_line() {
    let upstream = llama();
    let proxy = Proxy::start(&upstream);
    let (next, wait) = crossbeam_channel::bounded(1);
    upstream.script(vec![
        upstream::stream_head(),
        upstream::frame("data: {\"content\":\"x\",\"stop\":false}\n\n"),
        upstream::Step::Wait(wait),
        upstream::frame("data: {\"content\":\"):\",\"stop\":false}\n\n"),
        upstream::frame(
            "data: {\"content\":\"\",\"stop\":true,\"stop_type\":\"limit\",\"tokens_predicted\":2}\n\n",
        ),
        upstream::last_frame(),
    ]);
    let mut client = proxy.client();
    client.post("/api/generate", r#"{"model":"m","prompt":"a","suffix":"b"}"#);
    assert_eq!(client.head().status, 200);
    let line = |text: String| serde_json::from_str::<Value>(&text).expect("a JSON line");
    let first = line(client.frame().expect("a line before the second event is sent"));
    assert_eq!((&first["response"], &first["done"]), (&"x".into(), &false.into()));
    next.send(()).expect("the upstream waits");
    assert_eq!(line(client.frame().expect("a line"))["response"], "):");
    let last = line(client.frame().expect("a line"));
    assert_eq!((&last["done_reason"], &last["eval_count"]), (&"length".into(), &2.into()));
    assert_eq!(client.frame(), None);
    assert_eq!(upstream.request().json()["stream"], true);
}

#[test]
fn a_model_that_cannot_fill_in_is_told_in_ollama_s_words() {
    let sentence = "registry.ollama.ai/library/m:latest does not support insert";
    let check = |upstream: &Upstream, code: u16, message: &str, expected: (u16, &str)| {
        let error = json!({"error": {"code": code, "message": message, "type": "t"}});
        upstream.script(vec![status(code, &[], &error.to_string())]);
        let proxy = Proxy::start(upstream);
        for stream in [true, false] {
            let answer = ask(&proxy, stream);
            assert_eq!((answer.status(), answer.error().as_str()), expected);
            assert_eq!(upstream.request().header("content-type"), Some("application/json"));
            assert!(upstream.is_idle(), "asked once");
            upstream.script(vec![status(code, &[], &error.to_string())]);
        }
    };
    let no_tokens = "Infill is not supported by this model: prefix token is missing. ";
    check(&llama(), 501, no_tokens, (400, sentence));
    check(&llama(), 400, "\"input_prefix\" is required", (400, "\"input_prefix\" is required"));
    // An unknown family is asked by `suffix`.
    let plain = Upstream::start();
    check(&plain, 400, "suffix is not currently supported", (400, sentence));
    check(&Upstream::start(), 422, "suffix not supported", (400, sentence));
}

#[test]
fn a_family_that_cannot_fill_in_is_not_asked() {
    let (upstream, proxy) = pair();
    upstream.list(r#"{"data":[{"id":"m","owned_by":"vllm"}]}"#);
    let answer = ask(&proxy, true);
    let sentence = "registry.ollama.ai/library/m:latest does not support insert";
    answer.assert_error(400, sentence);
    assert!(upstream.is_idle());
}

#[test]
fn an_unknown_family_fills_in_at_completions() {
    let upstream = Upstream::start();
    let text = r#"{"choices":[{"index":0,"text":"x):","finish_reason":"stop"}]}"#;
    upstream.script(vec![upstream::json(text)]);
    let answer = ask(&Proxy::start(&upstream), false).json();
    assert_eq!(answer["response"], "x):");
    let request = upstream.request();
    assert_eq!(request.path, "/v1/completions");
    assert_eq!(request.json()["suffix"], "return 1");
}

/// Mistral is known by its host alone, so its own path is tried at the client.
#[test]
fn mistral_is_asked_below_its_base_url() {
    let upstream = Upstream::start();
    upstream.script(vec![upstream::answer("x):")]);
    let config = Config::for_base_url(&upstream.base_url()).expect("a valid base URL");
    let pacing = RetryEnv { sleep: Box::new(|_: Duration| false), jitter: Box::new(|| 0.0) };
    let client = Client::new(config.upstream_settings(), pacing, Arc::default());
    let mut request = CompletionRequest {
        model: "codestral-latest",
        prompt: "def f(",
        suffix: Some("return 1"),
        stream: false,
        stream_options: None,
        sampling: Map::new(),
        response_format: None,
        watched_stop: Vec::new(),
    };
    let mut trace = Trace::new("req_0");
    let answer = client.call(Operation::FIM, &mut request, &mut trace).expect("an answer");
    assert!(matches!(answer, UpstreamResponse::Whole(text) if text.contains("x):")));
    let request = upstream.request();
    assert_eq!(request.path, "/v1/fim/completions");
    assert_eq!(request.json()["suffix"], "return 1");
}
