//! Tools and reasoning over the wire: whole calls in lines of their own, and a round trip in which
//! the client's ids, or its lack of them, reach the upstream as it wants them.

use crate::support::proxy::{Proxy, pair};
use crate::support::upstream::{self, Step, Upstream, ending, frame, last_frame, stream_head};
use crossbeam_channel::bounded;
use serde_json::{Value, json};

fn piece(delta: &Value) -> Step {
    let chunk = json!({"choices": [{"index": 0, "delta": delta}]});
    frame(&format!("data: {chunk}\n\n"))
}

fn asked(tools: bool) -> String {
    let tool =
        json!({"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}});
    let mut body = json!({"model": "m", "messages": [{"role": "user", "content": "Hi"}]});
    if tools {
        body["tools"] = json!([tool]);
    }
    body.to_string()
}

#[test]
fn a_whole_call_is_shown_before_the_next_one_is_complete() {
    let upstream = Upstream::start();
    let (go_on, told) = bounded(0);
    let call = |index: u64, arguments: &str| {
        json!({"tool_calls": [{"index": index, "id": format!("call_{index}"), "type": "function",
            "function": {"name": "f", "arguments": arguments}}]})
    };
    let mut steps = vec![
        stream_head(),
        piece(&call(0, "{\"x\"")),
        piece(&json!({"tool_calls": [{"index": 0, "function": {"arguments": ":1}"}}]})),
        piece(&call(1, "{")),
        Step::Wait(told),
        piece(&json!({"tool_calls": [{"index": 1, "function": {"arguments": "}"}}]})),
    ];
    steps.extend(ending());
    upstream.script(steps);
    let proxy = Proxy::start(&upstream);
    let mut client = proxy.client();
    client.post("/api/chat", asked(true)).head();
    let line = |frame: Option<String>| -> Value {
        serde_json::from_str(&frame.expect("a line")).expect("JSON")
    };
    let first = line(client.frame());
    let expected = json!({"role": "assistant", "content": "",
        "tool_calls": [{"id": "call_0", "function": {"index": 0, "name": "f", "arguments": {"x": 1}}}]});
    assert_eq!((&first["message"], &first["done"]), (&expected, &false.into()));
    drop(go_on);
    let second = line(client.frame());
    assert_eq!(second["message"]["tool_calls"][0]["id"], "call_1");
    let last = line(client.frame());
    assert_eq!((&last["done"], &last["done_reason"]), (&true.into(), &"stop".into()));
    assert_eq!(last["message"], json!({"role": "assistant", "content": ""}));
    assert_eq!(upstream.request().json()["tools"][0]["type"], "function");
}

#[test]
fn a_call_that_breaks_off_is_an_error_and_never_half_a_call() {
    let upstream = Upstream::start();
    let half = json!({"tool_calls": [{"index": 0, "id": "a", "function": {"name": "f", "arguments": "{\"x\""}}]});
    let finish =
        frame("data: {\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"length\"}]}\n\n");
    upstream.script(vec![stream_head(), piece(&half), Step::Close]);
    upstream.script(vec![stream_head(), piece(&half), finish, last_frame()]);
    let proxy = Proxy::start(&upstream);
    for expected in [
        "the upstream ended its answer early",
        "invalid response from the upstream: invalid tool call arguments for \"f\"",
    ] {
        let answer = proxy.client().post("/api/chat", asked(true)).answer();
        assert_eq!((answer.status(), answer.error().as_str()), (502, expected));
    }
}

#[test]
fn a_round_trip_without_any_ids_is_linked() {
    let upstream = Upstream::start();
    let call = json!({"choices": [{"index": 0, "finish_reason": "tool_calls", "message": {"role": "assistant",
        "content": null, "tool_calls": [{"id": "abc", "type": "function", "function": {"name": "f", "arguments": "{\"x\":1}"}}]}}]});
    upstream.script(vec![upstream::json(&call.to_string())]).script(vec![upstream::answer("done")]);
    let proxy = Proxy::start(&upstream);
    let mut body: Value = serde_json::from_str(&asked(true)).expect("JSON");
    body["stream"] = false.into();
    let first = proxy.client().post("/api/chat", body.to_string()).answer().json();
    let mut message = first["message"].clone();
    assert_eq!(message["tool_calls"][0]["function"]["arguments"], json!({"x": 1}));
    // As Home Assistant does: the call without its id, the result with nothing but its text.
    message["tool_calls"][0].as_object_mut().expect("a call").remove("id");
    let messages = body["messages"].as_array_mut().expect("a list");
    messages.push(message);
    messages.push(json!({"role": "tool", "content": "42"}));
    let second = proxy.client().post("/api/chat", body.to_string()).answer();
    assert_eq!(second.status(), 200);
    upstream.request();
    let sent = upstream.request().json();
    let id = &sent["messages"][1]["tool_calls"][0]["id"];
    assert!(id.is_string() && *id == sent["messages"][2]["tool_call_id"], "{sent}");
    assert_eq!(sent["messages"][1]["tool_calls"][0]["function"]["arguments"], "{\"x\":1}");
}

#[test]
fn made_up_ids_differ_from_answer_to_answer() {
    let upstream = Upstream::start();
    let call = json!({"choices": [{"message": {"tool_calls": [{"function": {"name": "f", "arguments": "{}"}}]}}]});
    let proxy = Proxy::start(&upstream);
    let mut ids = vec![];
    for _ in 0..2 {
        upstream.script(vec![upstream::json(&call.to_string())]);
        let lines = proxy.client().post("/api/chat", asked(true)).answer().lines();
        assert_eq!(lines.len(), 2, "the call has a line of its own");
        ids.push(lines[0]["message"]["tool_calls"][0]["id"].clone());
    }
    assert_ne!(ids[0], ids[1]);
}

#[test]
fn reasoning_is_shown_as_it_comes_and_hidden_on_request() {
    let (upstream, proxy) = pair();
    for (think, expected) in [("null", "hm, so"), ("true", "hm, so"), ("false", "")] {
        let mut steps = vec![stream_head()];
        steps.extend(
            ["<th", "ink>hm", ", so</think>", "\n\nYes"]
                .map(|text| piece(&json!({"content": text}))),
        );
        steps.extend(ending());
        upstream.script(steps);
        let body = asked(false).replacen('{', &format!("{{\"think\":{think},"), 1);
        let lines = proxy.client().post("/api/chat", body).answer().lines();
        let all = |name: &str| -> String {
            lines.iter().filter_map(|line| line["message"][name].as_str()).collect()
        };
        assert_eq!(
            (all("thinking").as_str(), all("content").as_str()),
            (expected, "Yes"),
            "{think}"
        );
    }
}

#[test]
fn log_probabilities_come_only_when_asked_for() {
    let (upstream, proxy) = pair();
    let answer = json!({"choices": [{"message": {"content": "Hi"}, "finish_reason": "stop",
        "logprobs": {"content": [{"token": "Hi", "logprob": -0.5, "top_logprobs": [{"token": "Hi", "logprob": -0.5}]}]}}]});
    for (asked_for, expected) in [
        (false, json!(null)),
        (true, json!([{"token": "Hi", "logprob": -0.5, "bytes": [72, 105]}])),
    ] {
        upstream.script(vec![upstream::json(&answer.to_string())]);
        let body = json!({"model": "m", "stream": false, "logprobs": asked_for, "messages": [{"role": "user"}]});
        let found = proxy.client().post("/api/chat", body.to_string()).answer().json();
        assert_eq!(found["logprobs"], expected);
        assert_eq!(upstream.request().json().get("logprobs").is_some(), asked_for);
    }
}

#[test]
fn what_gemini_sends_with_a_call_comes_back_with_it_and_stays_from_the_client() {
    let (upstream, proxy) = pair();
    let signature = json!({"google": {"thought_signature": "c2ln"}});
    let call = json!({"id": "function-call-1", "type": "function", "extra_content": signature,
        "function": {"name": "f", "arguments": "{\"a\":1}"}});
    for stream in [true, false] {
        let choice = |name: &str| {
            json!({"choices": [{name: {"role": "assistant", "tool_calls": [call]},
            "finish_reason": "tool_calls"}]})
        };
        let body =
            json!({"model": "m", "stream": stream, "messages": [{"role": "user", "content": "x"}]});
        upstream.script(if stream {
            let event = format!("data: {}\n\ndata: [DONE]\n\n", choice("delta"));
            vec![stream_head(), frame(&event), last_frame()]
        } else {
            vec![upstream::json(&choice("message").to_string())]
        });
        let told = proxy.client().post("/api/chat", body.to_string()).answer();
        assert!(told.body.contains(r#""arguments":{"a":1}"#), "{}", told.body);
        assert!(!told.body.contains("signature") && !told.body.contains("extra"), "{}", told.body);
        upstream.request();
        // The client sends neither the id nor what it never saw.
        let history = json!({"model": "m", "stream": false, "messages": [
            {"role": "user", "content": "x"},
            {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": {"a": 1}}}]},
            {"role": "tool", "content": "2"}]});
        upstream.script(vec![upstream::answer("Done.")]);
        proxy.client().post("/api/chat", history.to_string()).answer();
        let sent = upstream.request().json();
        assert_eq!(sent["messages"][1]["tool_calls"][0]["extra_content"], signature);
    }
}
