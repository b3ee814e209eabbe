//! `/api/chat` and `/api/generate` as in the examples of Ollama's API documentation.

use crate::support::*;
use ollama_openai_proxy::observe::timestamp;
use std::time::SystemTime;

const METRICS: &str = r#""total_duration":_,"load_duration":_,"prompt_eval_count":88,"prompt_eval_duration":_,"eval_count":31,"eval_duration":_}"#;

/// The end of an upstream's stream with the counts of [`METRICS`].
fn counted(mut pieces: Vec<Value>, reason: &str) -> Vec<Step> {
    pieces.push(json!({"choices": [{"index": 0, "delta": {}, "finish_reason": reason}],
        "usage": {"prompt_tokens": 88, "completion_tokens": 31, "total_tokens": 119}}));
    let mut steps = chunks(&pieces);
    // The counts were sent already; of the usual ending only the marker remains.
    let end = steps.len() - ending().len();
    steps.truncate(end);
    steps.extend([upstream::frame("data: [DONE]\n\n"), upstream::last_frame()]);
    steps
}

fn adds(delta: &Value) -> Value {
    json!({"choices": [{"index": 0, "delta": delta}]})
}

#[test]
fn members_of_other_routes_are_ignored_whatever_they_hold() {
    let bench = Bench::new();
    for held in [json!("x"), json!(5), json!(true), json!([1]), json!({"a": "b"})] {
        for (route, others) in [
            (
                CHAT,
                &["system", "template", "tool_choice", "prompt", "suffix", "context", "raw"][..],
            ),
            (CHAT, &["images", "input", "dimensions", "temperature", "name", "response_format"]),
            (CHAT, &["top_p", "max_output_tokens", "max_tokens"]),
            (GENERATE, &["messages", "tools", "tool_choice", "input", "dimensions", "temperature"]),
            (EMBED, &["prompt", "messages", "stream", "format", "think", "encoding_format"]),
            (EMBEDDINGS, &["input", "truncate", "dimensions", "stream", "messages", "logprobs"]),
        ] {
            let plain = bench.sent(route, &json!({}));
            for other in others {
                let change = json!({*other: held});
                assert_eq!(bench.sent(route, &change), plain, "{route} {change}");
            }
        }
    }
}

#[test]
fn a_chat_with_thinking_and_a_call_is_streamed_as_the_example_shows() {
    let bench = Bench::new();
    let call = json!({"tool_calls": [{"index": 0, "id": "call_a1b2c3d4", "type": "function",
        "function": {"name": "get_time", "arguments": "{\"city\": \"Bonn\"}"}}]});
    let steps = counted(
        vec![adds(&json!({"reasoning_content": "Look it up."})), adds(&call)],
        "tool_calls",
    );
    let found = masked(&bench.played(CHAT, &json!({"model": "M:latest"}), steps).body);
    let line = |message: &str, rest: &str| {
        format!(
            r#"{{"model":"M:latest","created_at":_,"message":{{"role":"assistant","content":""{message}}},{rest}"#
        ) + "\n"
    };
    let call = r#","tool_calls":[{"id":"call_a1b2c3d4","function":{"index":0,"name":"get_time","arguments":{"city":"Bonn"}}}]"#;
    let expected = [
        line(r#","thinking":"Look it up.""#, r#""done":false}"#),
        line(call, r#""done":false}"#),
        line("", &format!(r#""done":true,"done_reason":"stop",{METRICS}"#)),
    ];
    assert_eq!(found, expected.concat());
}

#[test]
fn whole_answers_are_as_the_examples_show() {
    let bench = Bench::new();
    let answer = json!({"choices": [{"message": {"content": "Hello.", "reasoning": "Hm."},
            "finish_reason": "length"}],
        "usage": {"prompt_tokens": 88, "completion_tokens": 31, "total_tokens": 119}});
    let change = json!({"stream": false});
    let told = |route: &str| {
        let steps = vec![upstream::json(&answer.to_string())];
        masked(&bench.played(route, &change, steps).body)
    };
    let chat = r#"{"model":"m","created_at":_,"message":{"role":"assistant","content":"Hello.","thinking":"Hm."},"done":true,"done_reason":"length","#;
    assert_eq!(told(CHAT), chat.to_owned() + METRICS);
    let generate = r#"{"model":"m","created_at":_,"response":"Hello.","thinking":"Hm.","done":true,"done_reason":"length","context":_,"#;
    assert_eq!(told(GENERATE), generate.to_owned() + METRICS);
}

#[test]
fn a_prompt_is_answered_as_the_example_shows() {
    let bench = Bench::new();
    let steps =
        || counted(["Blue", "."].map(|text| adds(&json!({"content": text}))).to_vec(), "stop");
    let line = |text: &str, rest: &str| {
        format!(r#"{{"model":"m","created_at":_,"response":"{text}",{rest}"#) + "\n"
    };
    let (one, two) = (line("Blue", r#""done":false}"#), line(".", r#""done":false}"#));
    let end = |context: &str| {
        line("", &format!(r#""done":true,"done_reason":"stop",{context}{METRICS}"#))
    };
    let found = masked(&bench.played(GENERATE, &json!({}), steps()).body);
    assert_eq!(found, [&one, &two, &end(r#""context":_,"#)].map(String::as_str).concat());
    // A raw prompt has no context to continue from.
    let raw = masked(&bench.played(GENERATE, &json!({"raw": true}), steps()).body);
    assert_eq!(raw, [&one, &two, &end("")].map(String::as_str).concat());
}

#[test]
fn each_object_has_the_time_at_which_it_was_made() {
    let bench = Bench::new();
    for route in TEXT {
        let (go_on, steps) = upstream::halting();
        bench.upstream.script(steps);
        let mut client = bench.proxy.client();
        let before = SystemTime::now();
        client.post(route, request(route, &json!({})).to_string()).head();
        let mut time = || {
            let line: Value = serde_json::from_str(&client.frame().expect("a line")).expect("JSON");
            let text = line["created_at"].as_str().expect("a time").to_owned();
            assert!(text.ends_with('Z'), "{text}");
            timestamp::parse_rfc3339(&text).expect("RFC 3339")
        };
        let first = time();
        let between = SystemTime::now();
        drop(go_on);
        assert!(before <= first && first <= between && between <= time(), "{route}");
    }
}

#[test]
fn requests_have_the_headers_that_upstreams_want() {
    let (upstream, proxy) = pair();
    upstream.script(vec![answer("ok")]);
    proxy.ask("/api/chat", chat_whole("Hi"));
    let request = upstream.request();
    assert_eq!((request.method.as_str(), request.path.as_str()), ("POST", "/v1/chat/completions"));
    assert_eq!(request.header("content-type"), Some("application/json"));
    assert_eq!(request.header("accept"), Some("application/json"));
    assert_eq!(request.header("accept-encoding"), Some("identity"));
    assert!(request.header("user-agent").expect("an agent").starts_with("ollama-openai-proxy/"));
}
