//! `/v1/messages` over real sockets: Anthropic's protocol downstream, chat completions upstream. The
//! golden pairs in `tests/golden/anthropic` check the translation of each member.

use crate::support::*;

pub(super) const COUNT: &str = "/v1/messages/count_tokens";

/// The type and the message of an error, which has an id as well and nothing else.
pub(super) fn error(answer: &Answer) -> (u16, String, String) {
    let json = answer.json();
    assert_eq!(json["type"], "error", "{json}");
    assert!(json["request_id"].as_str().is_some_and(|id| id.starts_with("req_")), "{json}");
    let text = |name: &str| json["error"][name].as_str().expect(name).to_owned();
    (answer.status(), text("type"), text("message"))
}

/// A list with the supported parameters, without reasoning and tools.
pub(super) const PLAIN: &str = r#"{"data":[{"id":"m","supported_parameters":["temperature"]}]}"#;

pub(super) fn streamed() -> Value {
    json!({"stream": true})
}

#[test]
fn an_answer_is_one_message() {
    let bench = Bench::new();
    let answer = bench.played(MESSAGES, &json!({}), vec![upstream::answer("Hello")]);
    assert_eq!(answer.head.header("content-type"), Some("application/json"));
    let id = answer.json()["id"].as_str().expect("an id").to_owned();
    let digits = id.strip_prefix("msg_").expect("a message's id");
    assert!(digits.len() == 24 && digits.bytes().all(|byte| byte.is_ascii_hexdigit()), "{id}");
    let message = r#""type":"message","role":"assistant","model":"m","content":[{"type":"text","text":"Hello"}]"#;
    let end = r#""stop_reason":"end_turn","stop_sequence":null,"usage":{"input_tokens":5,"output_tokens":2}"#;
    assert_eq!(answer.body, format!("{{\"id\":\"{id}\",{message},{end}}}\n"));
    let other = bench.played(MESSAGES, &json!({}), vec![upstream::answer("Hello")]);
    assert_ne!(other.json()["id"].as_str(), Some(id.as_str()), "each has an id of its own");
}

#[test]
fn a_stream_is_events_in_anthropic_s_order() {
    let bench = Bench::new();
    let call = json!({"index": 0, "id": "call_1", "function": {"name": "f", "arguments": "{}"}});
    let said = [
        json!({"reasoning_content": "Hm"}),
        json!({"content": "Hi"}),
        json!({"tool_calls": [call]}),
    ];
    let answer = bench.played(MESSAGES, &streamed(), deltas(&said));
    let header = |name: &str| answer.head.header(name);
    assert_eq!(header("content-type"), Some("text/event-stream"));
    assert_eq!(header("cache-control"), Some("no-cache"));
    let events = answer.events();
    let (start, delta) = ("content_block_start", "content_block_delta");
    let mut expected = vec!["message_start", start, delta];
    // A signature ends the reasoning.
    expected.extend([delta, "content_block_stop"]);
    expected.extend([start, delta, "content_block_stop"].repeat(2));
    expected.extend(["message_delta", "message_stop"]);
    assert_eq!(kinds(&events), expected);
    let indices: Vec<_> = events.iter().filter_map(|event| event["index"].as_u64()).collect();
    assert_eq!(indices, [0, 0, 0, 0, 1, 1, 1, 2, 2, 2]);
    assert_eq!(events[11]["delta"], json!({"stop_reason": "tool_use", "stop_sequence": null}));
    assert_eq!(events[11]["usage"], json!({"input_tokens": 5, "output_tokens": 2}));
}

#[test]
fn the_first_text_arrives_before_the_upstream_sends_the_second() {
    let bench = Bench::new();
    let (go_on, steps) = upstream::halting();
    bench.upstream.script(steps);
    let mut client = bench.proxy.client();
    let body = request(MESSAGES, &streamed()).to_string();
    assert_eq!(client.post(MESSAGES, body).head().status, 200);
    let first = client.frame().expect("events");
    assert!(first.starts_with("event: message_start\n"), "{first}");
    assert!(first.contains(r#""text":"one""#) && first.ends_with("\n\n"), "{first}");
    drop(go_on);
    let second = client.frame().expect("an event");
    assert!(second.starts_with("event: content_block_delta\n"), "{second}");
    assert!(second.contains(r#""text":"two""#), "{second}");
    let last = client.frame().expect("events");
    assert!(last.ends_with("data: {\"type\":\"message_stop\"}\n\n"), "{last}");
    assert_eq!(client.frame(), None);
}

#[test]
fn a_stream_that_fails_ends_with_an_error_and_no_message_stop() {
    let bench = Bench::new();
    let error_event = frame("data: {\"error\":{\"message\":\"out of memory\",\"code\":500}}\n\n");
    let failures = [
        (vec![stream_head(), delta("one"), error_event, last_frame()], "out of memory"),
        (vec![stream_head(), delta("one"), Step::Close], CUT_SHORT),
    ];
    for (steps, message) in failures {
        let events = bench.played(MESSAGES, &streamed(), steps).events();
        let (last, before) = events.split_last().expect("events");
        let told = json!({"type": "error", "error": {"type": "api_error", "message": message}});
        assert_eq!(last, &told);
        assert_eq!(kinds(before), ["message_start", "content_block_start", "content_block_delta"]);
    }
}

#[test]
fn a_model_that_does_not_think_is_not_asked_to() {
    let wishes = [
        json!({"thinking": {"type": "enabled", "budget_tokens": 1024}}),
        json!({"output_config": {"effort": "high"}}),
    ];
    for wish in wishes {
        let bench = Bench::over(PLAIN);
        assert_eq!(bench.added(MESSAGES, &wish), json!({"max_tokens": 64}), "{wish}");
    }
    let thinks = Bench::over(LLAMA);
    let kwargs = json!({"chat_template_kwargs": {"enable_thinking": true}, "max_tokens": 64});
    assert_eq!(thinks.added(MESSAGES, &json!({"thinking": {"type": "enabled"}})), kwargs);
}

#[test]
fn reasoning_is_shown_unless_it_was_switched_off() {
    let shown = |wish: Value| {
        let bench = Bench::new();
        let said = [json!({"reasoning_content": "Hm"}), json!({"content": "Hi"})];
        let mut change = streamed();
        change["thinking"] = wish;
        let answer = bench.played(MESSAGES, &change, deltas(&said));
        answer.body.contains("thinking_delta")
    };
    assert!(shown(Value::Null) && shown(json!({"type": "enabled"})));
    assert!(shown(json!({"type": "adaptive"})) && !shown(json!({"type": "disabled"})));
}

#[test]
fn keys_versions_and_query_parameters_are_ignored() {
    let bench = Bench::new();
    bench.upstream.script(vec![upstream::answer("Hi")]);
    let body = request(MESSAGES, &json!({})).to_string();
    let lines = "x-api-key: theirs\r\nAuthorization: Bearer theirs\r\n\
                 anthropic-version: 1999-01-01\r\nanthropic-beta: some-feature\r\n";
    let answer = bench.proxy.client().with("POST", "/v1/messages?beta=true", lines, body).answer();
    assert_eq!(answer.status(), 200, "{}", answer.body);
    let asked = bench.upstream.request();
    assert_eq!(asked.path, "/v1/chat/completions");
    assert_eq!(asked.header("authorization"), Some(format!("Bearer {KEY}").as_str()));
    for name in ["x-api-key", "anthropic-version", "anthropic-beta"] {
        assert_eq!(asked.header(name), None, "{name}");
    }
}

#[test]
fn a_refused_limit_goes_by_its_other_name() {
    let bench = Bench::new();
    let hint = " Use 'max_completion_tokens' instead.";
    bench.upstream.script(vec![unsupported("max_tokens", hint)]);
    bench.upstream.script(vec![upstream::answer("Hi")]);
    assert_eq!(bench.ask(MESSAGES, &json!({})).status(), 200);
    assert_eq!(bench.upstream.request().json()["max_tokens"], 64);
    let again = bench.upstream.request().json();
    assert_eq!((&again["max_completion_tokens"], &again["max_tokens"]), (&64.into(), &Value::Null));
}

#[test]
fn a_refused_stop_sequence_is_watched_for() {
    let bench = Bench::new();
    bench.upstream.script(vec![unsupported("stop", "")]);
    bench.upstream.script(upstream::stream(&["one ", "two", " three"]));
    let answer = bench.ask(MESSAGES, &json!({"stop_sequences": ["two"]}));
    let message = answer.json();
    assert_eq!(message["content"], json!([{"type": "text", "text": "one "}]));
    assert_eq!(message["stop_reason"], "end_turn");
}

/// A created model with every member that changes a request.
pub(super) fn mario(bench: &Bench) {
    let body = json!({"model": "mario", "from": "m", "system": "You are Mario.",
        "parameters": {"temperature": 0.5, "num_predict": 3, "stop": ["END"]},
        "messages": [{"role": "user", "content": "Who?"}, {"role": "assistant", "content": "Me!"}]});
    assert_eq!(bench.post("/api/create", &body).status(), 200);
}

#[test]
fn a_virtual_model_brings_its_own_and_the_request_wins() {
    let bench = Bench::new();
    mario(&bench);
    let sent = bench.sent(MESSAGES, &json!({"model": "mario"}));
    assert_eq!(sent["model"], "m");
    let says = |sent: &Value| -> Vec<String> {
        let messages = sent["messages"].as_array().expect("messages").clone();
        let text = |value: &Value| value.as_str().unwrap_or("?").to_owned();
        messages.iter().map(|it| text(&it["role"]) + ":" + &text(&it["content"])).collect()
    };
    assert_eq!(says(&sent), ["system:You are Mario.", "user:Who?", "assistant:Me!", "user:Hi"]);
    let options = json!([sent["temperature"], sent["max_tokens"], sent["stop"]]);
    assert_eq!(options, json!([0.5, 64, ["END"]]));
    let change = json!({"model": "mario", "system": "Be Luigi.", "temperature": 0});
    let sent = bench.sent(MESSAGES, &change);
    assert_eq!(says(&sent), ["user:Who?", "assistant:Me!", "system:Be Luigi.", "user:Hi"]);
    assert_eq!(sent["temperature"], 0);
    let answer =
        bench.played(MESSAGES, &json!({"model": "mario"}), vec![upstream::answer("It's me")]);
    assert_eq!(answer.json()["model"], "mario", "the name as the client sent it");
}

#[test]
fn a_model_shows_as_loaded_after_a_message() {
    let bench = Bench::new();
    assert_eq!(bench.get("/api/ps")["models"], json!([]));
    bench.sent(MESSAGES, &json!({}));
    assert_eq!(bench.get("/api/ps")["models"][0]["name"], "m:latest");
}

#[test]
fn a_choice_of_tools_that_is_refused_is_left_out() {
    let bench = Bench::new();
    bench.upstream.script(vec![unsupported("tool_choice", "")]);
    let change = json!({"tools": [{"name": "f"}], "tool_choice": {"type": "any"}});
    let sent = bench.sent(MESSAGES, &change);
    assert_eq!(sent["tool_choice"], "required", "the first time");
    let again = bench.upstream.request().json();
    assert_eq!(again["tool_choice"], Value::Null);
    assert_eq!(again["tools"][0]["type"], "function");
}
