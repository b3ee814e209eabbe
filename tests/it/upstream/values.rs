//! Values that an upstream refuses: a limit, a number of stop sequences, the edge of a range; and
//! conversations that end with the assistant's words. The servers' own texts, on all chat routes.

use crate::support::*;
use ollama_openai_proxy::backends::profiles;

/// vLLM's texts, version 0.32.
const LIMIT: &str = "'max_tokens' or 'max_completion_tokens' is too large: 4096. This model's maximum \
                     context length is 2048 tokens and your request has 10 input tokens (4096 > 2048 \
                     - 10). None";
const STOPS: &str = "[{'type': 'too_long', 'loc': ('body', 'stop'), 'msg': 'List should have at most 4 \
                     items after validation, not 5', 'input': ['1', '2', '3', '4', '5']}]";
/// llama.cpp's text.
const THINKING_PREFILL: &str = "Assistant response prefill is incompatible with enable_thinking.";
/// What a user is made to say.
const GO_ON: &str = "Go on exactly where your last message stops. Repeat nothing of it.";

fn refusal(text: &str) -> Step {
    let body = json!({"error": {"message": text, "type": "BadRequestError", "param": null,
        "code": 400}});
    status(400, &[], &body.to_string())
}

/// The chat routes, with a request of each.
fn routes(messages: &Value, limit: Option<u64>) -> [(&'static str, Value); 3] {
    let limited = |mut body: Value, place: &str| {
        if let Some(limit) = limit {
            match place {
                "options" => body["options"] = json!({"num_predict": limit}),
                place => body[place] = limit.into(),
            }
        }
        body
    };
    let body = json!({"model": "m", "stream": false, "messages": messages});
    let mut anthropic = limited(body.clone(), "max_tokens");
    if limit.is_none() {
        anthropic["max_tokens"] = 9.into();
    }
    [
        ("/api/chat", limited(body.clone(), "options")),
        ("/v1/chat/completions", limited(body, "max_tokens")),
        ("/v1/messages", anthropic),
    ]
}

/// Sends a request that is refused once; returns the two bodies that the upstream got.
#[track_caller]
fn mended(route: &str, body: &Value, text: &str) -> (Value, Value) {
    let (upstream, proxy) = pair();
    upstream.script(vec![refusal(text)]).script(vec![answer("Hi")]);
    let told = proxy.post(route, body);
    assert_eq!(told.status(), 200, "{route}: {}", told.body);
    let requests = (upstream.request().json(), upstream.request().json());
    assert!(upstream.is_idle());
    requests
}

#[test]
fn a_limit_above_the_window_is_lowered_for_this_prompt_only() {
    let user = json!([{"role": "user", "content": "Hello"}]);
    for (route, body) in routes(&user, Some(4096)) {
        let (upstream, proxy) = pair();
        for _ in 0..2 {
            upstream.script(vec![refusal(LIMIT)]).script(vec![answer("Hi")]);
            assert_eq!(proxy.post(route, &body).status(), 200, "{route}");
            assert_eq!(upstream.request().json()["max_tokens"], 4096, "{route}");
            assert_eq!(upstream.request().json()["max_tokens"], 2038, "{route}");
        }
        assert!(upstream.is_idle());
    }
}

#[test]
fn a_raw_prompt_without_a_limit_has_what_the_window_leaves() {
    let raw = json!({"model": "m", "prompt": "four", "raw": true, "stream": false});
    let (first, second) = mended("/api/generate", &raw, LIMIT);
    assert_eq!((&first["max_tokens"], &second["max_tokens"]), (&json!(4096), &json!(2038)));
    let (upstream, proxy) = pair();
    upstream.list(r#"{"data":[{"id":"m","owned_by":"vllm","max_model_len":2048}]}"#);
    upstream.script(vec![answer("Hi")]);
    assert_eq!(proxy.post("/api/generate", &raw).status(), 200);
    assert_eq!(upstream.request().json()["max_tokens"], 2045);
}

#[test]
fn a_model_s_own_limit_is_remembered_and_a_lower_one_is_kept() {
    let (upstream, proxy) = pair();
    let text = "max_tokens is too large: 5000. This model supports at most 4096 completion tokens, \
                whereas you provided 5000.";
    upstream.script(vec![refusal(text)]);
    let sent = |limit: u64| {
        upstream.script(vec![answer("Hi")]);
        let body = json!({"model": "m", "stream": false, "options": {"num_predict": limit},
            "messages": [{"role": "user", "content": "x"}]});
        assert_eq!(proxy.post("/api/chat", &body).status(), 200);
    };
    sent(5000);
    upstream.request();
    assert_eq!(upstream.request().json()["max_tokens"], 4096);
    for (asked, expected) in [(9000, 4096), (100, 100)] {
        sent(asked);
        assert_eq!(upstream.request().json()["max_tokens"], expected);
    }
}

#[test]
fn a_limit_that_is_refused_again_is_left_to_the_upstream() {
    let (upstream, proxy) = pair();
    let text = "max_tokens must be less than 4000";
    upstream.script(vec![refusal(text)]).script(vec![refusal(text)]).script(vec![answer("Hi")]);
    let body = json!({"model": "m", "stream": false, "options": {"num_predict": 5000},
        "messages": [{"role": "user", "content": "x"}]});
    assert_eq!(proxy.post("/api/chat", &body).status(), 200);
    let limits = [(); 3].map(|()| upstream.request().json().get("max_tokens").cloned());
    assert_eq!(limits, [Some(json!(5000)), Some(json!(4000)), None]);
    upstream.script(vec![answer("Hi")]);
    assert_eq!(proxy.post("/api/chat", &body).status(), 200);
    let next = upstream.request().json();
    assert_eq!(next["max_tokens"], 5000, "one refused request is no reason to drop all limits");
}

#[test]
fn stop_sequences_beyond_the_number_that_a_refusal_names_are_watched_for() {
    let (upstream, proxy) = pair();
    upstream.script(vec![refusal(STOPS)]);
    let body = json!({"model": "m", "stream": false, "options": {"stop": ["1", "2", "3", "4", "5"]},
        "messages": [{"role": "user", "content": "x"}]});
    for _ in 0..2 {
        upstream.script(stream(&["a5b"]));
        assert_eq!(proxy.post("/api/chat", &body).json()["message"]["content"], "a");
    }
    assert_eq!(upstream.request().json()["stop"].as_array().map(Vec::len), Some(5));
    for _ in 0..2 {
        let sent = upstream.request().json();
        assert_eq!((&sent["stop"], &sent["stream"]), (&json!(["1", "2", "3", "4"]), &true.into()));
    }
}

/// `transformers serve` 5.24 leaves the sequence at the end of the text.
#[test]
fn a_stop_sequence_that_an_unknown_server_leaves_in_the_text_is_cut_off() {
    let body = |is_stream: bool| {
        json!({"model": "m", "stream": is_stream, "options": {"stop": ["END"]},
            "messages": [{"role": "user", "content": "x"}]})
    };
    let (upstream, proxy) = pair();
    upstream.script(vec![answer("One.END")]).script(stream(&["One.", "EN", "D"]));
    for is_stream in [false, true] {
        let told = proxy.post("/api/chat", &body(is_stream));
        let lines: Vec<Value> =
            told.body.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
        let text =
            |line: &Value| line["message"]["content"].as_str().unwrap_or_default().to_owned();
        assert_eq!(lines.iter().map(text).collect::<String>(), "One.");
        let last = lines.last().expect("a line");
        assert_eq!((&last["done_reason"], &last["eval_count"]), (&json!("stop"), &json!(2)));
    }
    // What stands within the text may be a quote.
    upstream.script(vec![answer("ENDs meet")]);
    assert_eq!(proxy.post("/api/chat", &body(false)).json()["message"]["content"], "ENDs meet");
    // A server that is known does it right.
    let (upstream, proxy) =
        pair_with(|config| config.upstream.profile = profiles::find_by_name("openai"));
    upstream.script(vec![answer("One.END")]);
    assert_eq!(proxy.post("/api/chat", &body(false)).json()["message"]["content"], "One.END");
}

#[test]
fn a_stop_that_a_passed_on_request_has_too_many_of_goes_back() {
    let (upstream, proxy) = pair();
    upstream.script(vec![refusal(STOPS)]);
    let body = json!({"model": "m", "stop": ["1", "2", "3", "4", "5"],
        "messages": [{"role": "user", "content": "x"}]});
    assert_eq!(proxy.post("/v1/chat/completions", &body).status(), 400);
    upstream.request();
    assert!(upstream.is_idle());
}

#[test]
fn top_p_zero_becomes_the_nearest_value_that_is_accepted() {
    let user = json!([{"role": "user", "content": "x"}]);
    for (route, mut body) in routes(&user, None) {
        match route {
            "/api/chat" => body["options"] = json!({"top_p": 0, "temperature": 0.5}),
            _ => body["top_p"] = 0.into(),
        }
        let (first, second) = mended(route, &body, "top_p must be in (0, 1], got 0.0.");
        assert_eq!(first["top_p"], 0, "{route}");
        assert_eq!(second["top_p"], 0.000_001, "{route}");
        assert_eq!(first["temperature"], second["temperature"], "{route}");
    }
}

/// A conversation that ends with the assistant's words.
fn begun() -> Value {
    json!([{"role": "user", "content": "Count."}, {"role": "assistant", "content": "One, two,"}])
}

#[test]
fn a_family_that_can_is_told_to_continue_the_last_message() {
    for name in ["vllm", "sglang"] {
        for (route, body) in routes(&begun(), None) {
            let (upstream, proxy) =
                pair_with(|config| config.upstream.profile = profiles::find_by_name(name));
            upstream.script(vec![answer("Hi")]);
            assert_eq!(proxy.post(route, &body).status(), 200);
            let sent = upstream.request().json();
            // A request that is passed on stays as it is until it is refused.
            let is_told = route != "/v1/chat/completions";
            let told = is_told.then(|| (true.into(), false.into()));
            let switches = |sent: &Value| {
                Some((
                    sent.get("continue_final_message")?.clone(),
                    sent["add_generation_prompt"].clone(),
                ))
            };
            assert_eq!(switches(&sent), told, "{name} {route}");
        }
    }
    // The list tells the family.
    let (upstream, proxy) = pair();
    upstream.list(r#"{"data":[{"id":"m","owned_by":"vllm"}]}"#);
    upstream.script(vec![answer("Hi")]).script(vec![answer("Hi")]);
    let [(route, mut body), ..] = routes(&begun(), None);
    proxy.post(route, &body);
    assert_eq!(upstream.request().json()["continue_final_message"], true);
    body["messages"].as_array_mut().expect("a list").pop();
    proxy.post(route, &body);
    assert!(upstream.request().json().get("continue_final_message").is_none());
}

#[test]
fn a_response_that_repeats_what_it_continues_begins_with_what_is_new() {
    let shown = |text: &str, messages: &Value, is_stream: bool| {
        let (upstream, proxy) = pair();
        let [(route, mut body), _, (anthropic, whole)] = routes(messages, None);
        upstream.script(if is_stream { stream(&[text]) } else { vec![answer(text)] });
        body["stream"] = is_stream.into();
        let told = proxy.post(route, &body).body;
        let first: Value =
            serde_json::from_str(told.lines().next().expect("a line")).expect("JSON");
        let first = first["message"]["content"].as_str().expect("a text").to_owned();
        if !is_stream {
            upstream.script(vec![answer(text)]);
            assert_eq!(proxy.post(anthropic, &whole).json()["content"][0]["text"], first);
        }
        first
    };
    // llama.cpp repeats it in whole responses, and not in streams.
    assert_eq!(shown("One, two, three", &begun(), false), " three");
    assert_eq!(shown("three", &begun(), false), "three");
    assert_eq!(shown("One, two, and so on", &begun(), true), "One, two, and so on");
    let asked = json!([{"role": "user", "content": "One, two,"}]);
    assert_eq!(shown("One, two, three", &asked, false), "One, two, three");
}

#[test]
fn llama_cpp_continues_without_reasoning() {
    for (route, body) in routes(&begun(), None) {
        let (first, second) = mended(route, &body, THINKING_PREFILL);
        assert!(first.get("continue_final_message").is_none(), "it continues by itself");
        assert_eq!(second["chat_template_kwargs"], json!({"enable_thinking": false}), "{route}");
        assert_eq!(first["messages"], second["messages"], "{route}");
    }
}

#[test]
fn a_refused_last_message_teaches_how_it_is_continued() {
    let switch = "Cannot set `add_generation_prompt` to True when the last message is from the \
                  assistant. Consider using `continue_final_message` instead.";
    let refused = [
        "Expected last role User or Tool (or Assistant with prefix True) for serving but got assistant",
        "This model does not support assistant message prefill. The conversation must end with a user \
         message.",
        "the final message may not be the assistant's",
    ];
    for (route, body) in routes(&begun(), None) {
        let (first, second) = mended(route, &body, switch);
        assert_eq!(second["continue_final_message"], true, "{route}");
        assert_eq!(second["add_generation_prompt"], false, "{route}");
        assert_eq!(first["messages"], second["messages"], "{route}");
        for text in refused {
            let (first, second) = mended(route, &body, text);
            let mut expected = first["messages"].as_array().expect("a list").clone();
            expected.push(json!({"role": "user", "content": GO_ON}));
            assert_eq!(second["messages"], Value::Array(expected), "{route} {text}");
        }
    }
}

#[test]
fn a_switch_that_is_refused_gives_way_to_a_question_from_then_on() {
    let (upstream, proxy) =
        pair_with(|config| config.upstream.profile = profiles::find_by_name("vllm"));
    let text = "continue_final_message is set but the final message does not appear in the chat after \
                applying the chat template!";
    upstream.script(vec![refusal(text)]);
    let [(route, body), ..] = routes(&begun(), None);
    for _ in 0..2 {
        upstream.script(vec![answer("Hi")]);
        assert_eq!(proxy.post(route, &body).status(), 200);
    }
    upstream.request();
    for _ in 0..2 {
        let sent = upstream.request().json();
        assert_eq!(sent["messages"][2]["content"], GO_ON);
        assert!(sent.get("continue_final_message").is_none());
        assert!(sent.get("add_generation_prompt").is_none());
    }
    assert!(upstream.is_idle());
}
