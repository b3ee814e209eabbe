//! Fill-in-the-middle (`suffix`): the endpoint of each upstream family, and the responses it may
//! send.

use crate::support::*;
use std::sync::Arc;
use std::time::Duration;

use ollama_openai_proxy::api::openai::request::{CompletionRequest, ResponseEffects};
use ollama_openai_proxy::backends::profiles;
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
    let sentence = "registry.ollama.ai/library/m:latest does not support insert";
    // The model of vLLM is of no known family, and Gemini has no such endpoint at all.
    for family in ["vllm", "tgi", "gemini"] {
        let (upstream, proxy) =
            pair_with(|config| config.upstream.profile = profiles::find_by_name(family));
        ask(&proxy, true).assert_error(400, sentence);
        assert!(upstream.is_idle(), "{family}");
    }
}

/// A model whose family has a prompt of its own.
const QWEN: &str = "Qwen/Qwen2.5-Coder-7B";

/// Its prompt for the request of [`ask_for`].
const QWEN_PROMPT: &str = "<|fim_prefix|>def f(<|fim_suffix|>return 1<|fim_middle|>";

fn ask_for(proxy: &Proxy, model: &str, stream: bool) -> Answer {
    let body = json!({"model": model, "prompt": "def f(", "suffix": "return 1", "stream": stream});
    proxy.post("/api/generate", &body)
}

fn filled_in() -> Vec<Step> {
    vec![upstream::json(r#"{"choices":[{"index":0,"text":"x):","finish_reason":"stop"}]}"#)]
}

fn refusal(code: u16, body: &Value) -> Vec<Step> {
    vec![status(code, &[], &body.to_string())]
}

#[test]
fn a_server_without_suffix_gets_the_prompt_of_the_model_s_family() {
    for family in ["vllm", "tgi"] {
        let (upstream, proxy) =
            pair_with(|config| config.upstream.profile = profiles::find_by_name(family));
        upstream.list(&json!({"data": [{"id": QWEN}]}).to_string());
        upstream.script(filled_in());
        let answer = ask_for(&proxy, QWEN, false);
        assert_eq!(answer.json()["response"], "x):", "{family}: {}", answer.body);
        let request = upstream.request();
        assert_eq!(request.path, "/v1/completions");
        let request = request.json();
        assert_eq!((&request["prompt"], &request["model"]), (&QWEN_PROMPT.into(), &QWEN.into()));
        assert!(request.get("suffix").is_none() && request.get("stop").is_none(), "{request}");
        let events =
            ["data: {\"choices\":[{\"index\":0,\"text\":\"x):\"}]}\n\n", "data: [DONE]\n\n"];
        let [text, end] = events.map(frame);
        upstream.script(vec![stream_head(), text, end, last_frame()]);
        let streamed = ask_for(&proxy, QWEN, true);
        assert_eq!(streamed.lines()[0]["response"], "x):", "{}", streamed.body);
        assert_eq!(upstream.request().json()["prompt"], QWEN_PROMPT);
        let shown = proxy.show(QWEN);
        assert!(shown["capabilities"].as_array().expect("a list").contains(&"insert".into()));
        assert!(shown["template"].as_str().expect("a text").contains(".Suffix"));
    }
}

#[test]
fn only_models_that_can_fill_in_are_shown_so() {
    for (family, model, expected) in [
        ("vllm", "starcoder2:7b", true),
        ("vllm", "llama3.1:8b", false),
        ("vllm", "mamba-codestral", false),
        ("gemini", "starcoder2:7b", false),
        ("generic", "stable-code:3b", true),
        ("generic", "llama3.1:8b", false),
    ] {
        let (upstream, proxy) =
            pair_with(|config| config.upstream.profile = profiles::find_by_name(family));
        upstream.list(&json!({"data": [{"id": model}]}).to_string());
        let shown = proxy.show(model);
        let found = shown["capabilities"].as_array().expect("a list").contains(&"insert".into());
        assert_eq!(found, expected, "{family} {model}");
    }
}

#[test]
fn a_refusal_of_suffix_in_any_words_leads_to_the_prompt_and_is_remembered() {
    for (code, body) in [
        (400, json!({"error": {"message": "suffix is not currently supported", "param": null}})),
        (422, json!({"error": "suffix not supported", "error_type": "suffix not supported"})),
        (
            422,
            json!({"detail": [{"type": "extra_forbidden", "loc": ["body", "suffix"],
            "msg": "Extra inputs are not permitted"}]}),
        ),
        (400, json!({"error": {"message": "This option is gone.", "param": "suffix"}})),
        (400, json!({"error": {"message": "We took `suffix` out in May", "code": "x"}})),
    ] {
        let (upstream, proxy) = pair();
        upstream.script(refusal(code, &body)).script(filled_in());
        let answer = ask_for(&proxy, QWEN, false);
        assert_eq!(answer.status(), 200, "{body}: {}", answer.body);
        assert_eq!(answer.json()["response"], "x):");
        let first = upstream.request().json();
        assert_eq!((&first["prompt"], &first["suffix"]), (&"def f(".into(), &"return 1".into()));
        let second = upstream.request().json();
        assert_eq!((&second["prompt"], second.get("suffix")), (&QWEN_PROMPT.into(), None));
        upstream.script(filled_in());
        assert_eq!(ask_for(&proxy, QWEN, false).status(), 200);
        assert_eq!(upstream.request().json()["prompt"], QWEN_PROMPT, "the next one pays nothing");
        upstream.script(filled_in());
        assert_eq!(ask_for(&proxy, "starcoder2", false).status(), 200);
        assert_eq!(upstream.request().json()["suffix"], "return 1", "another model is not known");
        assert!(upstream.is_idle());
    }
}

#[test]
fn other_refusals_and_unknown_families_are_not_answered_with_a_prompt() {
    let (upstream, proxy) = pair();
    let other = json!({"error": {"message": "logprobs of the suffix", "param": "logprobs"}});
    upstream.script(refusal(400, &other));
    ask_for(&proxy, QWEN, false).assert_error(400, "logprobs of the suffix");
    upstream.request();
    assert!(upstream.is_idle(), "it is about another member");
    let sentence = "registry.ollama.ai/library/m:latest does not support insert";
    for (message, expected) in [
        ("We took `suffix` out in May", sentence),
        ("`suffix` is too long", "`suffix` is too long"),
    ] {
        upstream.script(refusal(400, &json!({"error": {"message": message}})));
        ask_for(&proxy, "m", false).assert_error(400, expected);
        assert_eq!(upstream.request().json()["suffix"], "return 1");
        assert!(upstream.is_idle());
    }
}

#[test]
fn a_prompt_that_is_refused_too_ends_with_the_first_refusal_and_nothing_is_remembered() {
    let (upstream, proxy) = pair();
    let no_suffix = json!({"error": {"message": "suffix is not currently supported"}});
    for _ in 0..2 {
        let second = json!({"error": {"message": "the prompt is bad"}});
        upstream.script(refusal(400, &no_suffix)).script(refusal(400, &second));
        let sentence = "registry.ollama.ai/Qwen/Qwen2.5-Coder-7B:latest does not support insert";
        ask_for(&proxy, QWEN, false).assert_error(400, sentence);
        assert_eq!(upstream.request().json()["suffix"], "return 1");
        assert_eq!(upstream.request().json()["prompt"], QWEN_PROMPT);
        assert!(upstream.is_idle());
    }
    let failed = json!({"error": {"message": "broken"}});
    upstream.script(refusal(400, &no_suffix)).script(refusal(501, &failed));
    assert_ne!(ask_for(&proxy, QWEN, false).status(), 200);
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
    let settings = config.upstream_settings(&config.redactor()).remove(0);
    let client = Client::new(settings, Arc::new(pacing), Arc::default());
    let mut request = CompletionRequest {
        model: "codestral-latest",
        prompt: "def f(".into(),
        suffix: Some("return 1"),
        stream: false,
        stream_options: None,
        sampling: Map::new(),
        response_format: None,
        effects: ResponseEffects::default(),
    };
    let mut trace = Trace::new("req_0");
    let answer = client.call(Operation::FIM, &mut request, &mut trace).expect("an answer");
    assert!(matches!(answer, UpstreamResponse::Whole(text) if text.contains("x):")));
    let request = upstream.request();
    assert_eq!(request.path, "/v1/fim/completions");
    assert_eq!(request.json()["suffix"], "return 1");
}
