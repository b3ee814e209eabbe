//! Tool calls: each complete and in a line of its own; tool results are matched to their calls with
//! and without ids.

use super::answers::objects;
use crate::support::*;

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
    let (upstream, proxy) = pair();
    let (go_on, told) = bounded(0);
    let call = |index: u64, arguments: &str| {
        json!({"tool_calls": [{"index": index, "id": format!("call_{index}"), "type": "function",
            "function": {"name": "f", "arguments": arguments}}]})
    };
    upstream.script(ended(vec![
        stream_head(),
        piece(&call(0, "{\"x\"")),
        piece(&json!({"tool_calls": [{"index": 0, "function": {"arguments": ":1}"}}]})),
        piece(&call(1, "{")),
        Step::Wait(told),
        piece(&json!({"tool_calls": [{"index": 1, "function": {"arguments": "}"}}]})),
    ]));
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
fn a_call_that_breaks_off_is_an_error_and_one_that_is_no_json_keeps_its_text() {
    let (upstream, proxy) = pair();
    let half = json!({"tool_calls": [{"index": 0, "id": "a", "function": {"name": "f", "arguments": "{\"x\""}}]});
    let finish = frame(
        "data: {\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"tool_calls\"}]}\n\n",
    );
    upstream.script(vec![stream_head(), piece(&half), Step::Close]);
    upstream.script(vec![stream_head(), piece(&half), finish, last_frame()]);
    proxy.ask("/api/chat", asked(true)).assert_error(502, CUT_SHORT);
    let lines = proxy.ask("/api/chat", asked(true)).lines();
    let call = &lines[0]["message"]["tool_calls"][0]["function"];
    assert_eq!(call["arguments"], json!({"_raw": "{\"x\""}));
    assert_eq!(lines[1]["done_reason"], "stop");
}

/// The names of the calls of a response, and how it says that it ended.
fn calls_and_end(path: &str, answer: &Answer) -> (Vec<String>, String) {
    assert_eq!(answer.status(), 200, "{path}: {}", answer.body);
    let values = match answer.head.header("content-type") {
        Some("text/event-stream") => answer.events(),
        Some("application/x-ndjson") => answer.lines(),
        _ => vec![answer.json()],
    };
    let (mut names, mut end) = (vec![], String::new());
    for value in values {
        let items = [
            &value["message"]["tool_calls"],
            &value["content"],
            &value["output"],
            &value["response"]["output"],
        ];
        let items = items.into_iter().filter_map(Value::as_array).flatten();
        let block = [&value["content_block"]];
        let calls = items.chain(block).filter(|item| {
            item["function"].is_object()
                || ["tool_use", "function_call"].contains(&item["type"].as_str().unwrap_or(""))
        });
        names.extend(calls.map(|call| {
            let name = call["function"]["name"].as_str().or(call["name"].as_str());
            name.expect("a name").to_owned()
        }));
        let ends = [
            &value["done_reason"],
            &value["stop_reason"],
            &value["delta"]["stop_reason"],
            &value["status"],
            &value["response"]["status"],
        ];
        end = ends.into_iter().filter_map(Value::as_str).next_back().map_or(end, str::to_owned);
    }
    (names, end)
}

#[test]
fn a_call_that_the_token_limit_cuts_off_is_left_out_and_the_rest_is_a_success() {
    let call = |name: &str, arguments: &str| json!({"id": name, "type": "function", "function": {"name": name, "arguments": arguments}});
    let halves = [
        call("f", "{\"x\": \"ab"),
        call("f", "{\"x\": [1, {"),
        call("f", "{\"x\": 1, "),
        call("f", "{"),
        call("f", ""),
        call("f", "{\"x\": \"\\u00"),
    ];
    let doors =
        [("/api/chat", "length"), ("/v1/messages", "max_tokens"), ("/v1/responses", "completed")];
    for (half, (path, end)) in halves.iter().flat_map(|half| doors.map(|door| (half, door))) {
        for (before, stream) in [(0, true), (0, false), (1, true), (1, false), (2, true)] {
            let (upstream, proxy) = pair();
            let whole = [call("g", "{\"y\": 2}"), call("h", "")];
            let calls: Vec<Value> = whole[..before].iter().chain([half]).cloned().collect();
            let message = json!({"role": "assistant", "content": "ok", "tool_calls": calls});
            let answer = json!({"choices": [{"index": 0, "message": message,
                                             "finish_reason": "length"}]});
            let pieces = calls.iter().enumerate().map(|(index, call)| {
                let mut call = call.clone();
                call["index"] = json!(index);
                piece(&json!({"tool_calls": [call]}))
            });
            let finish = frame(
                "data: {\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"length\"}]}\n\n",
            );
            let start = [stream_head(), delta("ok")];
            let steps = start.into_iter().chain(pieces).chain([finish, last_frame()]);
            let script =
                if stream { steps.collect() } else { vec![upstream::json(&answer.to_string())] };
            if path == "/v1/responses" {
                // This upstream has no such endpoint.
                upstream.script(vec![upstream::status(404, &[], "{}")]);
            }
            upstream.script(script);
            let mut body = json!({"model": "m", "stream": stream, "max_tokens": 9, "input": "Hi",
                                  "messages": [{"role": "user", "content": "Hi"}]});
            body["tools"] = match path {
                "/api/chat" => tools(),
                "/v1/messages" => json!([{"name": "f", "input_schema": {"type": "object"}}]),
                _ => json!([{"type": "function", "name": "f", "parameters": {}}]),
            };
            let answer = proxy.post(path, &body);
            let (mut names, told) = calls_and_end(path, &answer);
            names.dedup();
            assert!(!names.contains(&"f".to_owned()), "{path} {half}: {}", answer.body);
            assert_eq!(names.len(), before, "{path} {half}: {}", answer.body);
            // Codex would take an incomplete stream for an error.
            let is_incomplete = path == "/v1/responses" && !stream;
            let end = if is_incomplete { "incomplete" } else { end };
            if is_incomplete {
                let details = &answer.json()["incomplete_details"];
                assert_eq!(*details, json!({"reason": "max_output_tokens"}));
            }
            assert!(answer.body.contains("\"ok\""), "{path} {half}: {}", answer.body);
            assert_eq!(told, end, "{path} {half}: {}", answer.body);
        }
    }
}

#[test]
fn a_round_trip_without_any_ids_is_linked() {
    let (upstream, proxy) = pair();
    let call = json!({"choices": [{"index": 0, "finish_reason": "tool_calls", "message": {"role": "assistant",
        "content": null, "tool_calls": [{"id": "abc", "type": "function", "function": {"name": "f", "arguments": "{\"x\":1}"}}]}}]});
    upstream.script(vec![upstream::json(&call.to_string())]).script(vec![upstream::answer("done")]);
    let mut body: Value = serde_json::from_str(&asked(true)).expect("JSON");
    body["stream"] = false.into();
    let first = proxy.post("/api/chat", &body).json();
    let mut message = first["message"].clone();
    assert_eq!(message["tool_calls"][0]["function"]["arguments"], json!({"x": 1}));
    // As Home Assistant does: a call without its id, and a result of text alone.
    message["tool_calls"][0].as_object_mut().expect("a call").remove("id");
    let messages = body["messages"].as_array_mut().expect("a list");
    messages.push(message);
    messages.push(json!({"role": "tool", "content": "42"}));
    let second = proxy.post("/api/chat", &body);
    assert_eq!(second.status(), 200);
    upstream.request();
    let sent = upstream.request().json();
    let id = &sent["messages"][1]["tool_calls"][0]["id"];
    assert!(id.is_string() && *id == sent["messages"][2]["tool_call_id"], "{sent}");
    assert_eq!(sent["messages"][1]["tool_calls"][0]["function"]["arguments"], "{\"x\":1}");
}

#[test]
fn made_up_ids_differ_from_answer_to_answer() {
    let (upstream, proxy) = pair();
    let call = json!({"choices": [{"message": {"tool_calls": [{"function": {"name": "f", "arguments": "{}"}}]}}]});
    let mut ids = vec![];
    for _ in 0..2 {
        upstream.script(vec![upstream::json(&call.to_string())]);
        let lines = proxy.ask("/api/chat", asked(true)).lines();
        assert_eq!(lines.len(), 2, "the call is in a line of its own");
        ids.push(lines[0]["message"]["tool_calls"][0]["id"].clone());
    }
    assert_ne!(ids[0], ids[1]);
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
        let found = proxy.post("/api/chat", &body).json();
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
        let told = proxy.post("/api/chat", &body);
        assert!(told.body.contains(r#""arguments":{"a":1}"#), "{}", told.body);
        assert!(!told.body.contains("signature") && !told.body.contains("extra"), "{}", told.body);
        upstream.request();
        // The client returns neither the id nor the signature.
        let history = json!({"model": "m", "stream": false, "messages": [
            {"role": "user", "content": "x"},
            {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": {"a": 1}}}]},
            {"role": "tool", "content": "2"}]});
        upstream.script(vec![upstream::answer("Done.")]);
        proxy.post("/api/chat", &history);
        let sent = upstream.request().json();
        assert_eq!(sent["messages"][1]["tool_calls"][0]["extra_content"], signature);
    }
}

/// A stream with two calls.
pub(super) fn calls() -> Vec<Step> {
    let call = |index: usize, arguments: &str| {
        json!({"tool_calls": [{"index": index, "id": format!("call_{index}"), "type": "function",
                               "function": {"name": "f", "arguments": arguments}}]})
    };
    deltas(&[
        json!({"role": "assistant", "content": null}),
        call(0, "{\"a\": 1}"),
        call(1, "{\"a\": 2}"),
    ])
}

pub(super) fn tools() -> Value {
    json!([{"type": "function", "function": {"name": "f", "parameters": {
        "type": "object", "properties": {"a": {"type": "integer"}}}}}])
}

/// The lines of a chat when the upstream plays this.
pub(super) fn chat_lines(steps: Vec<Step>) -> Vec<Value> {
    let upstream = Upstream::start();
    upstream.script(steps);
    let body = json!({"model": "m", "messages": [{"role": "user", "content": "Hello"}],
                      "tools": tools()});
    Proxy::start(&upstream).post("/api/chat", &body).lines()
}

/// The upstream's messages for a history of two calls with these results.
fn linked(ids: [Option<&str>; 2], results: &Value) -> Value {
    let call = |id: Option<&str>, name: &str| {
        let mut call = json!({"function": {"name": name, "arguments": {}}});
        if let Some(id) = id {
            call["id"] = json!(id);
        }
        call
    };
    let mut messages = vec![
        json!({"role": "user", "content": "x"}),
        json!({"role": "assistant", "content": "",
               "tool_calls": [call(ids[0], "f"), call(ids[1], "g")]}),
    ];
    messages.extend(results.as_array().expect("a list").iter().cloned());
    Bench::new().sent(CHAT, &json!({"messages": messages}))["messages"].clone()
}

#[test]
fn tool_results_find_their_calls_by_id_then_name_then_order() {
    let first = |more: Value| {
        let mut message = json!({"role": "tool", "content": "of f"});
        message.as_object_mut().expect("made here").extend(
            more.as_object()
                .expect("an object")
                .iter()
                .map(|(name, it)| (name.clone(), it.clone())),
        );
        message
    };
    let second = json!({"role": "tool", "content": "of g"});
    let with = |name: &str, value: &str| {
        let mut message = second.clone();
        message[name] = json!(value);
        message
    };
    let ids = [Some("1"), Some("2")];
    let none = [None, None];
    for (ids, results) in [
        (ids, json!([with("tool_call_id", "2"), first(json!({"tool_call_id": "1"}))])),
        (none, json!([with("tool_name", "g"), first(json!({"tool_name": "f"}))])),
        (none, json!([first(json!({})), second])),
        // litellm invents ids that match no call.
        (none, json!([first(json!({"tool_call_id": "?"})), with("tool_call_id", "??")])),
    ] {
        let messages = linked(ids, &results);
        let calls = messages[1]["tool_calls"].as_array().expect("calls");
        assert_ne!(calls[0]["id"], calls[1]["id"], "{messages}");
        for message in &messages.as_array().expect("a list")[2..] {
            let index = usize::from(message["content"] == "of g");
            assert!(calls[index]["id"].as_str().is_some_and(|id| !id.is_empty()), "{messages}");
            assert_eq!(message["tool_call_id"], calls[index]["id"], "{messages}");
        }
    }
}

#[test]
fn arguments_are_an_object_here_and_a_string_there() {
    let lines = chat_lines(calls());
    let told: Vec<&Value> = lines
        .iter()
        .filter_map(|line| line["message"]["tool_calls"].as_array())
        .flatten()
        .collect();
    assert_eq!(told.len(), 2, "{lines:?}");
    for (index, call) in told.iter().enumerate() {
        assert_eq!(call["function"]["arguments"], json!({"a": index + 1}));
        assert_eq!(call["function"]["index"], json!(index));
    }
    let messages = json!([{"role": "user", "content": "x"},
        {"role": "assistant", "content": "", "tool_calls": [
            {"type": "Function", "function": {"name": "f", "arguments": {"a": 1}}}]},
        {"role": "tool", "content": "1"}]);
    let call = Bench::new().sent(CHAT, &json!({"messages": messages}))["messages"][1]["tool_calls"]
        [0]
    .clone();
    assert_eq!(call["type"], "function");
    assert_eq!(call["function"]["arguments"], "{\"a\":1}");
}

const PNG: &str = "iVBORw0KGgoAAAANSUhEUg==";

#[test]
fn results_without_ids_find_their_calls_and_images_find_a_user() {
    let call = json!({"function": {"name": "f", "arguments": {}}});
    let sent = Bench::new().sent(
        CHAT,
        &json!({"messages": [
            {"role": "user", "content": "Hi"},
            {"role": "assistant", "content": "", "tool_calls": [call, call]},
            {"role": "tool", "content": "1", "images": [PNG]},
            {"role": "tool", "content": "2"}]}),
    );
    let messages = &sent["messages"];
    let calls = &messages[1]["tool_calls"];
    assert_ne!(calls[0]["id"], calls[1]["id"]);
    for place in [0, 1] {
        assert_eq!(messages[2 + place]["tool_call_id"], calls[place]["id"], "{sent}");
        assert_eq!(messages[2 + place]["content"], (place + 1).to_string());
    }
    assert_eq!(messages[4]["role"], "user");
    let url = format!("data:image/png;base64,{PNG}");
    let image = messages[4]["content"].as_array().expect("a list").last().expect("a part").clone();
    assert_eq!(image, json!({"type": "image_url", "image_url": {"url": url}}));
}

#[test]
fn calls_have_a_line_of_their_own_also_when_all_came_at_once() {
    let bench = Bench::new();
    let said = json!({"content": "One moment.", "reasoning": "Hm.", "tool_calls": [
        {"index": 0, "id": "a", "function": {"name": "f", "arguments": "{}"}},
        {"index": 1, "id": "b", "function": {"name": "g", "arguments": "{}"}}]});
    let whole = json!({"choices": [{"message": said, "finish_reason": "tool_calls"}]});
    for steps in [deltas(&[said]), vec![upstream::json(&whole.to_string())]] {
        let (last, before) = objects(&bench.played(CHAT, &json!({}), steps).body);
        assert!(before.iter().all(|line| line["done"] == false), "{before:?}");
        let (text, calls) = before.split_first().expect("a line before the last");
        let expected = json!({"role": "assistant", "content": "One moment.", "thinking": "Hm."});
        assert_eq!(text["message"], expected);
        // Both in one line, or one line each.
        let mut told = vec![];
        for line in calls {
            let message = &line["message"];
            assert_eq!((&message["content"], message.get("thinking")), (&"".into(), None));
            told.extend(message["tool_calls"].as_array().expect("calls").iter().cloned());
        }
        let call = |index: u64, id: &str, name: &str| json!({"id": id, "function": {"index": index, "name": name, "arguments": {}}});
        assert_eq!(told, [call(0, "a", "f"), call(1, "b", "g")]);
        assert_eq!(last["message"], json!({"role": "assistant", "content": ""}));
    }
}
