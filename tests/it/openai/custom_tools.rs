//! Tools that take free text on `/v1/chat/completions`: passed on as they are, and sent as functions once an
//! upstream has refused them, whose calls come back in the form of the tools.

use crate::support::*;

const COMPLETIONS: &str = "/v1/chat/completions";
const PATCH: &str = "*** Begin Patch\n+say \"hi\"\n*** End Patch";

fn request(stream: bool) -> Value {
    json!({"model": "m", "stream": stream,
        "tools": [
            {"type": "custom", "custom": {"name": "apply_patch", "description": "Edits files.",
                "format": {"type": "grammar", "grammar": {"syntax": "lark", "definition": "start: X"}}}},
            {"type": "function", "function": {"name": "read", "parameters": {"type": "object",
                "properties": {}}}}],
        "messages": [{"role": "user", "content": "Hi"},
            {"role": "assistant", "content": null, "tool_calls": [{"id": "call_0", "type": "custom",
                "custom": {"name": "apply_patch", "input": "first"}}]},
            {"role": "tool", "tool_call_id": "call_0", "content": "done"}]})
}

/// An upstream that knows functions only, and tells it in these words.
fn functions_only(words: &str, code: u16) -> (Upstream, Proxy) {
    let (upstream, proxy) = asking_once();
    let error = json!({"error": {"message": words, "type": "invalid_request_error"}}).to_string();
    upstream.judge(move |request| {
        let body = request.json();
        let is_refused = request.body.contains("\"custom\"");
        let refusal = || vec![status(code, &[], &error)];
        Some(if is_refused { refusal() } else { calls(body["stream"] == true) })
    });
    (upstream, proxy)
}

fn arguments() -> String {
    json!({ "input": PATCH }).to_string()
}

/// A text, a call of the tool in two pieces, and one of a function between them.
fn calls(stream: bool) -> Vec<Step> {
    let text = arguments();
    let call = |index: u64, id: &str, name: &str, arguments: &str| {
        json!({"index": index, "id": id, "type": "function",
            "function": {"name": name, "arguments": arguments}})
    };
    if !stream {
        let message = json!({"role": "assistant", "content": "So", "tool_calls": [
            call(0, "call_1", "apply_patch", &text), call(1, "call_2", "read", "{}")]});
        let choice = json!({"index": 0, "message": message, "finish_reason": "tool_calls"});
        return vec![json(&json!({"id": "c", "choices": [choice]}).to_string())];
    }
    let (start, end) = text.split_at(9);
    let chunk = |delta: Value, reason: Value| {
        let choice = json!({"index": 0, "delta": delta, "finish_reason": reason});
        frame(&format!("data: {}\n\n", json!({"id": "c", "choices": [choice]})))
    };
    let begun = json!({"tool_calls": [call(0, "call_1", "apply_patch", start)]});
    let other = json!({"tool_calls": [call(1, "call_2", "read", "{}")]});
    let more = json!({"tool_calls": [{"index": 0, "function": {"arguments": end}}]});
    vec![
        stream_head(),
        chunk(json!({"role": "assistant", "content": "So"}), Value::Null),
        chunk(begun, Value::Null),
        chunk(other, Value::Null),
        chunk(more, Value::Null),
        chunk(json!({}), "tool_calls".into()),
        frame("data: [DONE]\n\n"),
        last_frame(),
    ]
}

fn custom() -> Value {
    json!({"name": "apply_patch", "input": PATCH})
}

/// The chunks of a stream, which ends in `[DONE]`.
fn chunks(answer: &Answer) -> Vec<Value> {
    let events = answer.body.split_terminator("\n\n").map(|event| event.strip_prefix("data: "));
    let mut events: Vec<&str> = events.map(|event| event.expect("data")).collect();
    assert_eq!(events.pop(), Some("[DONE]"));
    events.into_iter().map(|event| serde_json::from_str(event).expect("JSON")).collect()
}

#[test]
fn a_refused_custom_tool_is_a_function_whose_calls_come_back_as_custom_ones() {
    for (words, code) in [
        ("Invalid value: 'custom'. Supported values are: 'function'.", 400),
        ("[{'loc': ('body', 'tools', 0, 'type'), 'msg': \"Input should be 'function'\"}]", 422),
        ("Only function tools are supported.", 400),
        ("The sky is green.", 400),
    ] {
        let (upstream, proxy) = functions_only(words, code);
        let whole = proxy.post(COMPLETIONS, &request(false));
        assert_eq!(whole.status(), 200, "{words}: {}", whole.body);
        upstream.request();
        let sent = upstream.request().json();
        let tool = &sent["tools"][0]["function"];
        assert_eq!(
            (&tool["name"], &sent["tools"][0]["type"]),
            (&json!("apply_patch"), &json!("function"))
        );
        assert!(tool["description"].as_str().expect("a text").contains("start: X"), "{tool}");
        let calls = sent["messages"].as_array().expect("a list").iter();
        let before: Vec<_> =
            calls.filter_map(|it| it["tool_calls"][0]["function"].as_object()).collect();
        assert_eq!(before[0]["arguments"], "{\"input\":\"first\"}");
        let message = &whole.json()["choices"][0]["message"];
        let call = &message["tool_calls"][0];
        assert_eq!((&call["type"], &call["custom"]), (&json!("custom"), &custom()), "{words}");
        assert!(call.get("function").is_none());
        assert_eq!(message["tool_calls"][1]["function"]["name"], "read");
        assert_eq!(message["content"], "So");
        // It is known now.
        let streamed = proxy.post(COMPLETIONS, &request(true));
        upstream.request();
        assert!(upstream.is_idle(), "{words}: learnt");
        let chunks = chunks(&streamed);
        let deltas: Vec<&Value> =
            chunks.iter().map(|chunk| &chunk["choices"][0]["delta"]).collect();
        assert_eq!(deltas[0]["content"], "So");
        assert_eq!(deltas[1]["tool_calls"][0]["function"]["name"], "read");
        let call = &deltas[2]["tool_calls"][0];
        assert_eq!((&call["index"], &call["id"]), (&json!(0), &json!("call_1")));
        assert_eq!((&call["type"], &call["custom"]), (&json!("custom"), &custom()));
        assert_eq!(chunks[2]["choices"][0]["finish_reason"], "tool_calls");
        assert_eq!(chunks.len(), 3);
    }
}

#[test]
fn an_upstream_that_knows_custom_tools_gets_the_request_as_it_is() {
    let (upstream, proxy) = pair();
    upstream.script(vec![answer("ok")]);
    assert_eq!(proxy.post(COMPLETIONS, &request(false)).status(), 200);
    assert_eq!(upstream.request().body, request(false).to_string());
}

#[test]
fn text_before_a_held_call_arrives_at_once() {
    let (upstream, proxy) = functions_only("Only function tools are supported.", 400);
    proxy.post(COMPLETIONS, &request(false));
    let (go_on, told) = bounded(0);
    upstream.judge(|_| None);
    let mut steps = calls(true);
    steps.insert(3, Step::Wait(told));
    upstream.script(steps);
    let mut client = proxy.client();
    client.post(COMPLETIONS, request(true).to_string());
    assert_eq!(client.head().status, 200);
    assert!(client.frame().expect("a frame").contains("\"So\""));
    drop(go_on);
    assert!(client.rest_of_stream().contains("\"custom\""));
}
