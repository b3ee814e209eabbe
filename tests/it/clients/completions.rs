//! What agents on `/v1/chat/completions` stumble over, each with requests and chunks in its own form: OpenCode,
//! Qwen Code, Crush, Droid, Goose, Pi, Kimi Code, Continue and Copilot CLI.
//!
//! An upstream's answer is passed on byte for byte, so the shape of chunks is checked where the proxy writes
//! them itself. The requests follow the programs' public sources and reports; nobody's traffic was recorded.

use crate::support::*;

const COMPLETIONS: &str = "/v1/chat/completions";

fn tool(name: &str) -> Value {
    json!({"type": "function", "function": {"name": name, "description": "d",
        "parameters": {"type": "object", "properties": {"path": {"type": "string"}}}}})
}

fn asking(more: &Value) -> Value {
    let messages = json!([{"role": "user", "content": "Hi"}]);
    with(json!({"model": "m", "stream": true, "messages": messages}), more)
}

/// An upstream that refuses each of these members with OpenAI's words.
fn refusing(members: &'static [&'static str]) -> (Upstream, Proxy) {
    let (upstream, proxy) = asking_once();
    upstream.judge(move |request| {
        let body = request.json();
        let refused = members.iter().find(|member| body.get(**member).is_some());
        Some(match refused {
            Some(member) => vec![unsupported(member, "")],
            None => upstream::stream(&["ok"]),
        })
    });
    (upstream, proxy)
}

/// Asks twice: what was learnt once is known. Returns what was accepted.
#[track_caller]
fn check_accepted((upstream, proxy): &(Upstream, Proxy), body: &Value) -> Value {
    let told = proxy.post(COMPLETIONS, body);
    assert_eq!(told.status(), 200, "{}", told.body);
    assert!(told.body.ends_with("data: [DONE]\n\n"), "{}", told.body);
    let mut sent = upstream.request();
    while !upstream.is_idle() {
        sent = upstream.request();
    }
    assert_eq!(proxy.post(COMPLETIONS, body).status(), 200);
    let again = upstream.request();
    assert!(upstream.is_idle(), "the second request costs one attempt");
    assert_eq!(again.body, sent.body);
    sent.json()
}

/// An upstream whose model only `/responses` serves, so that the proxy writes the chunks.
fn writing_chunks(events: &[Value]) -> (Upstream, Proxy) {
    let (upstream, proxy) = asking_once();
    let refusal = json!({"error": {"message": "This model is only supported in v1/responses and not \
        in v1/chat/completions.", "type": "invalid_request_error", "param": "model"}});
    let frames: Vec<String> = events.iter().map(|event| format!("data: {event}\n\n")).collect();
    upstream.judge(move |request| {
        if request.path.ends_with("/chat/completions") {
            return Some(vec![status(404, &[], &refusal.to_string())]);
        }
        let mut steps = vec![stream_head()];
        steps.extend(frames.iter().map(|text| frame(text)));
        steps.push(last_frame());
        Some(steps)
    });
    (upstream, proxy)
}

/// A text, then a call in pieces.
fn text_and_call() -> Vec<Value> {
    let call = |arguments: &str| {
        json!({"type": "function_call", "id": "fc", "call_id": "call_1", "name": "read",
            "arguments": arguments})
    };
    let done = json!({"id": "resp_1", "status": "completed", "model": "m", "output": [],
        "usage": {"input_tokens": 5, "output_tokens": 2, "total_tokens": 7}});
    vec![
        json!({"type": "response.output_text.delta", "output_index": 0, "delta": "So"}),
        json!({"type": "response.output_item.added", "output_index": 1, "item": call("")}),
        json!({"type": "response.function_call_arguments.delta", "output_index": 1,
            "delta": "{\"path\":"}),
        json!({"type": "response.function_call_arguments.delta", "output_index": 1,
            "delta": "\"a\"}"}),
        json!({"type": "response.output_item.done", "output_index": 1,
            "item": call("{\"path\":\"a\"}")}),
        json!({"type": "response.completed", "response": done}),
    ]
}

/// The chunks that the proxy wrote, in front of `[DONE]`.
fn written() -> Vec<Value> {
    let (_upstream, proxy) = writing_chunks(&text_and_call());
    let told = proxy.post(COMPLETIONS, &asking(&json!({"tools": [tool("read")]})));
    assert_eq!(told.status(), 200, "{}", told.body);
    let events: Vec<&str> = told.body.split_terminator("\n\n").collect();
    let (last, chunks) = events.split_last().expect("events");
    assert_eq!(*last, "data: [DONE]", "Crush waits for it");
    let data = chunks.iter().map(|event| event.strip_prefix("data: ").expect("data"));
    data.map(|data| serde_json::from_str(data).expect("JSON")).collect()
}

#[test]
fn opencode_finds_id_index_type_and_name_in_the_first_piece_of_a_call() {
    let chunks = written();
    let mut pieces = chunks.iter().filter_map(|it| it["choices"][0]["delta"]["tool_calls"].get(0));
    let first = pieces.next().expect("a call");
    assert_eq!((&first["id"], &first["index"]), (&json!("call_1"), &json!(0)));
    assert_eq!((&first["type"], &first["function"]["name"]), (&json!("function"), &json!("read")));
    assert!(first["function"]["arguments"].is_string(), "{first}");
    assert!(pieces.all(|piece| piece["index"] == 0));
}

#[test]
fn qwen_code_and_crush_find_a_reason_and_the_end_of_a_stream() {
    let chunks = written();
    let reasons: Vec<&Value> = chunks
        .iter()
        .map(|it| &it["choices"][0]["finish_reason"])
        .filter(|it| !it.is_null())
        .collect();
    assert_eq!(reasons, ["tool_calls"]);
}

#[test]
fn droid_finds_an_object_where_it_expects_one() {
    for chunk in written() {
        assert_eq!(chunk["object"], "chat.completion.chunk", "{chunk}");
        for choice in chunk["choices"].as_array().expect("a list") {
            assert!(choice["delta"].is_object(), "{chunk}");
        }
    }
    // In one piece as well.
    let (_upstream, proxy) = writing_chunks(&text_and_call());
    let whole = proxy.post(COMPLETIONS, &with(asking(&json!({})), &json!({"stream": false})));
    assert!(whole.json()["choices"][0]["message"].is_object(), "{}", whole.body);
}

#[test]
fn goose_sends_ollama_s_options_and_no_stream_options() {
    let pair = refusing(&["options"]);
    let body = asking(&json!({"options": {"num_predict": 4096, "num_ctx": 32768}}));
    let sent = check_accepted(&pair, &body);
    assert!(sent.get("options").is_none() && sent.get("stream_options").is_none(), "{sent}");
}

#[test]
fn pi_sends_a_developer_and_three_members_that_old_servers_do_not_know() {
    let pair = refusing(&["store", "max_completion_tokens", "reasoning_effort"]);
    let messages = json!([{"role": "developer", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "Hi"}]}]);
    let body = asking(&json!({"messages": messages, "store": false,
        "max_completion_tokens": 32000, "reasoning_effort": "medium",
        "stream_options": {"include_usage": true}}));
    let sent = check_accepted(&pair, &body);
    assert_eq!(sent["messages"], messages);
    assert_eq!(sent["max_tokens"], 32000, "under the other name");
    assert!(sent.get("store").is_none() && sent.get("reasoning_effort").is_none());
}

#[test]
fn pi_s_developer_is_a_system_message_where_the_role_is_not_known() {
    let (upstream, proxy) = asking_once();
    upstream.judge(|request| {
        let is_refused = request.body.contains("\"developer\"");
        let words = "Unexpected message role: developer. Supported: system, user, assistant, tool.";
        let error = json!({"error": {"message": words, "param": "messages[0].role"}}).to_string();
        Some(if is_refused { vec![status(400, &[], &error)] } else { upstream::stream(&["ok"]) })
    });
    let messages = json!([{"role": "developer", "content": "Be brief."},
        {"role": "user", "content": "Hi"}]);
    let sent = check_accepted(&(upstream, proxy), &asking(&json!({"messages": messages})));
    assert!(sent["messages"].to_string().contains("Be brief."), "{sent}");
}

#[test]
fn kimi_code_asks_for_more_tokens_than_a_model_has() {
    let (upstream, proxy) = asking_once();
    upstream.judge(|request| {
        let asked = request.json()["max_tokens"].as_u64().unwrap_or_default();
        let words = format!(
            "max_tokens is too large: {asked}. This model supports at most 16384 completion tokens, \
             whereas you provided {asked}."
        );
        let error = json!({"error": {"message": words, "type": "invalid_request_error",
            "param": "max_tokens", "code": "invalid_value"}});
        let is_refused = asked > 16_384;
        let refusal = || vec![status(400, &[], &error.to_string())];
        Some(if is_refused { refusal() } else { upstream::stream(&["ok"]) })
    });
    let sent = check_accepted(&(upstream, proxy), &asking(&json!({"max_tokens": 128_000})));
    assert_eq!(sent["max_tokens"], 16_384);
}

#[test]
fn continue_sends_back_calls_and_results_with_the_ids_that_it_was_given() {
    let (upstream, proxy) = pair();
    let call = json!({"id": "call_1", "type": "function",
        "function": {"name": "read", "arguments": "{\"path\":\"a\"}"}});
    let messages = json!([{"role": "user", "content": "Hi"},
        {"role": "assistant", "content": " ", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call_1", "content": "text"}]);
    let body = asking(&json!({"messages": messages, "tools": [tool("read")],
        "parallel_tool_calls": false}));
    upstream.script(upstream::stream(&["ok"]));
    assert_eq!(proxy.post(COMPLETIONS, &body).status(), 200);
    assert_eq!(upstream.request().body, body.to_string(), "not one byte is changed");
}

#[test]
fn qwen_code_is_told_that_a_model_has_no_tools_in_the_upstream_s_words() {
    let (upstream, proxy) = asking_once();
    let error = json!({"error": {"message": "registry.ollama.ai/library/m does not support tools",
        "type": "api_error", "param": null, "code": null}});
    upstream.script(vec![status(400, &[], &error.to_string())]);
    let told = proxy.post(COMPLETIONS, &asking(&json!({"tools": [tool("read")]})));
    assert_eq!((told.status(), told.json()), (400, error));
    upstream.request();
    assert!(upstream.is_idle(), "nothing else would help");
}

#[test]
fn arguments_that_are_no_json_are_passed_on_as_the_model_wrote_them() {
    let bad = "{\"path\": \"a\nb\", \"text\": \"say \"hi\"\"}";
    let call = json!({"index": 0, "id": "call_1", "type": "function",
        "function": {"name": "read", "arguments": bad}});
    let chunk = json!({"choices": [{"index": 0, "delta": {"tool_calls": [call]}}]});
    let event = format!("data: {chunk}\n\n");
    let (upstream, proxy) = pair();
    upstream.script(ended(vec![stream_head(), frame(&event)]));
    let body = asking(&json!({"tools": [tool("read")]}));
    assert!(proxy.post(COMPLETIONS, &body).body.starts_with(&event));
    upstream.request();
    // And back in the history.
    let call = json!({"id": "call_1", "type": "function",
        "function": {"name": "read", "arguments": bad}});
    let messages = json!([{"role": "user", "content": "Hi"},
        {"role": "assistant", "content": null, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call_1", "content": "invalid arguments"}]);
    let body = asking(&json!({ "messages": messages }));
    upstream.script(upstream::stream(&["ok"]));
    assert_eq!(proxy.post(COMPLETIONS, &body).status(), 200);
    assert_eq!(upstream.request().body, body.to_string());
}
