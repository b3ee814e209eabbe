//! What comes back from `/v1/responses` over chat completions: calls in the form of their tools, one item
//! after the other, counts, and failures as coding agents act by them (openai/codex, `sse/responses.rs`).

use crate::support::*;

const PATH: &str = "/v1/responses";

/// A proxy in front of an upstream without `/v1/responses`.
fn chat_only() -> (Upstream, Proxy) {
    let (upstream, proxy) = pair_with(|config| config.retry.max_retries = 0);
    upstream.judge(|request| {
        let is_responses = request.path.ends_with("/responses");
        is_responses.then(|| vec![status(404, &[], r#"{"detail":"Not Found"}"#)])
    });
    (upstream, proxy)
}

fn ask(proxy: &Proxy, change: Value) -> Answer {
    proxy.post(PATH, &with(json!({"model": "m", "input": "Hi"}), &change))
}

/// The events of a stream.
fn streamed(proxy: &Proxy, mut change: Value) -> Vec<Value> {
    change["stream"] = true.into();
    let answer = ask(proxy, change);
    assert_eq!(answer.status(), 200, "{}", answer.body);
    let events = named_events(&answer.body);
    for (number, event) in events.iter().enumerate() {
        assert_eq!(event["sequence_number"], number, "{event}");
    }
    events
}

/// The items that a stream told as done, which are the output of its end.
fn items(events: &[Value]) -> Vec<Value> {
    let done = events.iter().filter(|event| event["type"] == "response.output_item.done");
    let items: Vec<Value> = done.map(|event| event["item"].clone()).collect();
    let end = events.last().expect("an end");
    assert_eq!(
        (&end["type"], &end["response"]["output"]),
        (&json!("response.completed"), &json!(items))
    );
    items
}

fn call(index: usize, id: &str, name: &str, arguments: &str) -> Value {
    json!({"index": index, "id": id, "type": "function",
        "function": {"name": name, "arguments": arguments}})
}

/// A piece of a call that another chunk has begun.
fn more(index: usize, arguments: &str) -> Value {
    json!({"tool_calls": [{"index": index, "function": {"arguments": arguments}}]})
}

/// The only call that a client reads of this call of the upstream, streamed and whole alike.
fn called(tools: &Value, name: &str, arguments: &str) -> Value {
    let (upstream, proxy) = chat_only();
    upstream.script(deltas(&[json!({"tool_calls": [call(0, "call_1", name, arguments)]})]));
    let events = streamed(&proxy, json!({"tools": tools}));
    let message = json!({"role": "assistant", "tool_calls": [call(0, "call_1", name, arguments)]});
    let body = json!({"choices": [{"message": message, "finish_reason": "tool_calls"}]});
    upstream.script(vec![upstream::json(&body.to_string())]);
    let whole = ask(&proxy, json!({"tools": tools})).json();
    let [item] = &items(&events)[..] else { panic!("{events:?}") };
    let without_id = |item: &Value| with(item.clone(), &json!({"id": null}));
    assert_eq!(without_id(&whole["output"][0]), without_id(item));
    assert_eq!(item["call_id"], "call_1");
    item.clone()
}

fn function(name: &str) -> Value {
    json!({"type": "function", "name": name, "parameters": {"type": "object", "properties": {}}})
}

fn custom(name: &str) -> Value {
    json!({"type": "custom", "name": name, "description": "Takes text."})
}

fn namespace() -> Value {
    let members = [function("read"), custom("edit")];
    json!({"type": "namespace", "name": "mcp__fs", "description": "Files.", "tools": members})
}

#[test]
fn a_member_of_a_namespace_is_called_by_its_namespace_and_its_bare_name() {
    for name in ["mcp__fs__read", "mcp__fs.read", "functions.mcp__fs.read", "read"] {
        let item = called(&json!([namespace()]), name, r#"{"path":"a"}"#);
        assert_eq!(
            (&item["type"], &item["namespace"], &item["name"], &item["arguments"]),
            (&json!("function_call"), &json!("mcp__fs"), &json!("read"), &json!(r#"{"path":"a"}"#))
        );
    }
}

#[test]
fn a_custom_tool_in_a_namespace_is_called_with_its_text() {
    let item = called(&json!([namespace()]), "mcp__fs__edit", r#"{"input":"raw \"text\""}"#);
    assert_eq!(
        (&item["type"], &item["namespace"], &item["name"], &item["input"]),
        (&json!("custom_tool_call"), &json!("mcp__fs"), &json!("edit"), &json!("raw \"text\""))
    );
}

#[test]
fn a_patch_is_raw_text_however_the_model_writes_it() {
    let patch = "*** Begin Patch\n*** Add File: a\n+\"b\"\n*** End Patch";
    let member = |name: &str| json!({ name: patch }).to_string();
    for arguments in [member("input"), member("patch"), json!(patch).to_string(), patch.to_owned()]
    {
        let item = called(&json!([custom("apply_patch")]), "apply_patch", &arguments);
        assert_eq!(item["type"], "custom_tool_call");
        assert_eq!((&item["input"], item.get("namespace")), (&json!(patch), None), "{arguments}");
    }
}

#[test]
fn a_patch_tool_that_is_declared_as_a_function_is_called_as_one() {
    let item = called(&json!([function("apply_patch")]), "apply_patch", r#"{"patch":"a"}"#);
    assert_eq!((&item["type"], item.get("input")), (&json!("function_call"), None));
    assert_eq!(item["arguments"], r#"{"patch":"a"}"#);
}

#[test]
fn a_search_for_tools_has_an_object_as_arguments_and_no_events_of_them() {
    let search = json!([{"type": "tool_search", "execution": "client", "description": "Finds tools.",
        "parameters": {"type": "object", "properties": {"query": {"type": "string"}}}}]);
    let item = called(&search, "tool_search", r#"{"query":"mail"}"#);
    assert_eq!((&item["type"], &item["execution"]), (&json!("tool_search_call"), &json!("client")));
    assert_eq!(
        (&item["arguments"], &item["status"]),
        (&json!({"query": "mail"}), &json!("completed"))
    );
    let (upstream, proxy) = chat_only();
    let found = call(0, "call_1", "tool_search", r#"{"query":"mail"}"#);
    upstream.script(deltas(&[json!({"tool_calls": [found]})]));
    let events = streamed(&proxy, json!({ "tools": search }));
    let between = &kinds(&events)[2..events.len() - 1];
    assert_eq!(between, ["response.output_item.added", "response.output_item.done"]);
}

#[test]
fn a_shell_that_the_client_declared_is_called_with_its_action() {
    let item = called(
        &json!([{"type": "local_shell"}]),
        "local_shell",
        r#"{"command":["ls","-l"],"workdir":"/tmp"}"#,
    );
    assert_eq!(item["type"], "local_shell_call");
    let action =
        json!({"type": "exec", "command": ["ls", "-l"], "working_directory": "/tmp", "env": {}});
    assert_eq!(item["action"], action);
}

#[test]
fn arguments_that_are_no_json_reach_the_client_as_they_are() {
    let item = called(&json!([function("f")]), "f", "{\"a\": \"b\nsay \"c\"\"}");
    assert_eq!(item["arguments"], "{\"a\": \"b\nsay \"c\"\"}");
}

#[test]
fn a_call_that_the_limit_cut_off_is_left_out_and_nothing_fails() {
    let (upstream, proxy) = chat_only();
    let piece = |call: &Value| {
        let piece = json!({"choices": [{"index": 0, "delta": {"tool_calls": [call]}}]});
        frame(&format!("data: {piece}\n\n"))
    };
    let finish =
        "data: {\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"length\"}]}\n\n";
    for stream in [true, false] {
        let (whole, half) = (call(0, "a", "f", "{}"), call(1, "b", "f", "{\"x\":"));
        let pieces = [piece(&whole), piece(&half), frame(finish), last_frame()];
        upstream.script([stream_head()].into_iter().chain(pieces).collect());
        let change = json!({"tools": [function("f")]});
        let items = if stream {
            items(&streamed(&proxy, change))
        } else {
            let response = ask(&proxy, change).json();
            assert_eq!(response["incomplete_details"], json!({"reason": "max_output_tokens"}));
            response["output"].as_array().expect("items").clone()
        };
        assert_eq!(items.len(), 1, "{items:?}");
        assert_eq!(items[0]["call_id"], "a");
    }
}

#[test]
fn interleaved_calls_come_one_after_the_other_behind_the_text() {
    let (upstream, proxy) = chat_only();
    upstream.script(deltas(&[
        json!({"content": "text"}),
        json!({"tool_calls": [call(0, "a", "f", "{\"x\":")]}),
        json!({"tool_calls": [call(1, "b", "f", "{\"x\":")]}),
        more(0, "1}"),
        more(1, "2}"),
    ]));
    let events = streamed(&proxy, json!({"tools": [function("f")]}));
    let found: Vec<(Value, Value)> = items(&events)
        .iter()
        .map(|item| (item["call_id"].clone(), item["arguments"].clone()))
        .collect();
    let call = |id: &str, arguments: &str| (json!(id), json!(arguments));
    assert_eq!(found, [(Value::Null, Value::Null), call("a", "{\"x\":1}"), call("b", "{\"x\":2}")]);
    let mut open = None;
    let mut done = Vec::new();
    for event in &events {
        let index = event.get("output_index");
        match event["type"].as_str().expect("a type") {
            "response.output_item.added" => assert_eq!(open.replace(index), None),
            "response.output_item.done" => {
                assert_eq!(open.take(), Some(index));
                done.push(index.cloned().expect("a place"));
            }
            _ => assert!(index.is_none() || open == Some(index), "{event}"),
        }
    }
    assert_eq!(done, [json!(0), json!(1), json!(2)]);
}

#[test]
fn a_whole_call_is_told_before_the_next_one_is_whole_and_before_text_that_follows() {
    let (upstream, proxy) = chat_only();
    let piece = |delta: Value| {
        let piece = json!({"choices": [{"index": 0, "delta": delta}]});
        frame(&format!("data: {piece}\n\n"))
    };
    for second in [json!({"tool_calls": [call(1, "b", "f", "{")]}), json!({"content": "text"})] {
        let is_call = second.get("tool_calls").is_some();
        let (go_on, told) = bounded(0);
        let first = json!({"tool_calls": [call(0, "a", "f", "{\"x\":1}")]});
        let rest = piece(if is_call { more(1, "}") } else { json!({"content": " more"}) });
        upstream.script(ended(vec![
            stream_head(),
            piece(first),
            piece(second),
            Step::Wait(told),
            rest,
        ]));
        let mut client = proxy.client();
        let request =
            json!({"model": "m", "input": "Hi", "stream": true, "tools": [function("f")]});
        client.post(PATH, request.to_string()).head();
        let mut text = String::new();
        while !text.contains("event: response.output_item.done") {
            text += &client.frame().expect("a frame");
        }
        assert!(text.contains("\"call_id\":\"a\""), "{text}");
        drop(go_on);
        text += &client.rest_of_stream();
        assert_eq!(items(&named_events(&text)).len(), 2, "{text}");
    }
}

#[test]
fn two_calls_with_one_id_both_come_with_ids_of_their_own() {
    let (upstream, proxy) = chat_only();
    let twice = [call(0, "a", "f", "{}"), call(1, "a", "f", "{}")];
    upstream.script(deltas(&[json!({"tool_calls": twice})]));
    let items = items(&streamed(&proxy, json!({"tools": [function("f")]})));
    assert_eq!(items.len(), 2, "{items:?}");
    assert_ne!(items[0]["id"], items[1]["id"]);
}

#[test]
fn text_behind_a_call_is_a_message_of_its_own_streamed_and_whole() {
    let (upstream, proxy) = chat_only();
    let pieces = [
        json!({"content": "before"}),
        json!({"tool_calls": [call(0, "a", "f", "{}")]}),
        json!({"content": "behind"}),
    ];
    let change = json!({"tools": [function("f")]});
    upstream.script(deltas(&pieces));
    let streamed = items(&streamed(&proxy, change.clone()));
    upstream.script(deltas(&pieces));
    let whole = ask(&proxy, change).json()["output"].clone();
    for items in [&streamed, whole.as_array().expect("items")] {
        let kinds: Vec<&Value> = items.iter().map(|item| &item["type"]).collect();
        assert_eq!(kinds, ["message", "function_call", "message"]);
        assert_eq!(items[0]["content"][0]["text"], "before");
        assert_eq!(items[2]["content"][0]["text"], "behind");
        assert_ne!(items[0]["id"], items[2]["id"]);
    }
}

#[test]
fn line_breaks_between_calls_are_no_message() {
    let (upstream, proxy) = chat_only();
    upstream.script(deltas(&[
        json!({"content": "text"}),
        json!({"tool_calls": [call(0, "a", "f", "{}")]}),
        json!({"tool_calls": [call(1, "b", "f", "{}")]}),
        json!({"content": "\n"}),
        json!({"tool_calls": [call(2, "c", "f", "{}")]}),
        json!({"content": "\n"}),
        json!({"content": "end"}),
    ]));
    let items = items(&streamed(&proxy, json!({"tools": [function("f")]})));
    let kinds: Vec<&Value> = items.iter().map(|item| &item["type"]).collect();
    assert_eq!(kinds, ["message", "function_call", "function_call", "function_call", "message"]);
    assert_eq!(items[4]["content"][0]["text"], "\n\nend", "nothing of the text is lost");
}

#[test]
fn a_whole_answer_holds_reasoning_then_the_message_then_the_calls() {
    let (upstream, proxy) = chat_only();
    let message = json!({"role": "assistant", "reasoning_content": "hm", "content": "text",
        "tool_calls": [call(0, "a", "f", "{}")]});
    let body = json!({"choices": [{"message": message, "finish_reason": "tool_calls"}]});
    upstream.script(vec![upstream::json(&body.to_string())]);
    let output = ask(&proxy, json!({"tools": [function("f")]})).json()["output"].clone();
    let kinds: Vec<&Value> =
        output.as_array().expect("items").iter().map(|it| &it["type"]).collect();
    assert_eq!(kinds, ["reasoning", "message", "function_call"]);
    assert_eq!(output[0]["summary"], json!([{"type": "summary_text", "text": "hm"}]));
    assert_eq!(output[0]["encrypted_content"], "hm", "it comes back with the next request");
    assert_eq!(output[1]["content"][0]["text"], "text");
}

#[test]
fn a_refusal_is_text_of_a_response_that_completed() {
    let (upstream, proxy) = chat_only();
    let check = |response: &Value, text: &str| {
        assert_eq!(response["status"], "completed");
        let part = &response["output"][0]["content"][0];
        assert_eq!((&part["type"], &part["text"]), (&json!("output_text"), &json!(text)));
    };
    for (message, finish) in [
        (json!({"content": "I can"}), "content_filter"),
        (json!({"content": null, "refusal": "I can not"}), "stop"),
    ] {
        let text = message["refusal"].as_str().unwrap_or("I can").to_owned();
        let end = json!({"choices": [{"index": 0, "delta": {}, "finish_reason": finish}]});
        upstream.script(chunks(&[json!({"choices": [{"index": 0, "delta": message}]}), end]));
        let events = streamed(&proxy, json!({}));
        assert!(!kinds(&events).iter().any(|kind| kind.contains("refusal")));
        items(&events);
        check(&events.last().expect("an end")["response"], &text);
        let body = json!({"choices": [{"message": message, "finish_reason": finish}]});
        upstream.script(vec![upstream::json(&body.to_string())]);
        check(&ask(&proxy, json!({})).json(), &text);
    }
}

#[test]
fn an_answer_at_the_limit_completes_a_stream_and_is_incomplete_as_a_whole() {
    let (upstream, proxy) = chat_only();
    let body = r#"{"choices":[{"message":{"content":"part"},"finish_reason":"length"}]}"#;
    upstream.script(vec![upstream::json(body)]).script(vec![upstream::json(body)]);
    let events = streamed(&proxy, json!({}));
    let end = &events.last().expect("an end")["response"];
    assert_eq!((&end["status"], &end["incomplete_details"]), (&json!("completed"), &Value::Null));
    let whole = ask(&proxy, json!({})).json();
    assert_eq!(whole["status"], "incomplete");
    assert_eq!(whole["incomplete_details"], json!({"reason": "max_output_tokens"}));
}

#[test]
fn cached_and_reasoning_tokens_are_told() {
    let (upstream, proxy) = chat_only();
    let usage = json!({"prompt_tokens": 900, "completion_tokens": 30, "total_tokens": 930,
        "prompt_tokens_details": {"cached_tokens": 400},
        "completion_tokens_details": {"reasoning_tokens": 7}});
    let body = json!({"choices": [{"message": {"content": "a"}, "finish_reason": "stop"}],
        "usage": usage});
    let told = json!({"input_tokens": 900, "output_tokens": 30, "total_tokens": 930,
        "input_tokens_details": {"cached_tokens": 400},
        "output_tokens_details": {"reasoning_tokens": 7}});
    upstream.script(vec![upstream::json(&body.to_string())]);
    assert_eq!(ask(&proxy, json!({})).json()["usage"], told);
    let end = json!({"choices": [], "usage": usage});
    let end = frame(&format!("data: {end}\n\ndata: [DONE]\n\n"));
    upstream.script(vec![stream_head(), delta("a"), end, last_frame()]);
    assert_eq!(streamed(&proxy, json!({})).last().expect("an end")["response"]["usage"], told);
}

/// The error of a stream that only tells of a failure.
fn failure(events: &[Value]) -> Value {
    let created = &events[0];
    assert_eq!(created["type"], "response.created");
    let end = events.last().expect("an end");
    assert_eq!(
        (&end["type"], &end["response"]["status"]),
        (&json!("response.failed"), &json!("failed"))
    );
    assert_eq!(end["response"]["id"], created["response"]["id"]);
    end["response"]["error"].clone()
}

#[test]
fn an_upstream_that_dies_in_the_middle_fails_the_response_and_ends_the_body() {
    let (upstream, proxy) = chat_only();
    let mut steps = vec![stream_head()];
    steps.extend((0..10).map(|number| delta(&format!("token {number} "))));
    steps.push(Step::Close);
    upstream.script(steps);
    // The body ended, else the events were not known yet.
    let events = streamed(&proxy, json!({}));
    let error = failure(&events);
    assert_eq!(error["code"], "server_error");
    assert_eq!(error["message"], CUT_SHORT);
    let texts = events.iter().filter(|event| event["type"] == "response.output_text.delta");
    assert_eq!(texts.count(), 10);
}

#[test]
fn a_prompt_that_exceeds_the_context_fails_a_stream_by_the_code_that_makes_agents_compact() {
    let (upstream, proxy) = chat_only();
    let refusals = [
        json!({"error": {"code": 400, "type": "exceed_context_size_error", "n_ctx": 2000,
            "n_prompt_tokens": 2100, "message": "request (2100 tokens) exceeds the available context size (2000 tokens), try increasing it"}}),
        json!({"error": {"code": "context_length_exceeded", "type": "invalid_request_error",
            "param": "messages", "message": "This model's maximum context length is 2000 tokens. However, your messages resulted in 2100 tokens. Please reduce the length of the messages."}}),
        json!({"object": "error", "type": "BadRequestError", "code": 400, "message": "This model's maximum context length is 2000 tokens. However, your request has 2100 input tokens. Please reduce the length of the input messages."}),
    ];
    for refusal in refusals {
        let refusal = refusal.to_string();
        upstream.judge(move |request| {
            let is_chat = request.path.ends_with("/chat/completions");
            Some(vec![if is_chat { status(400, &[], &refusal) } else { status(404, &[], "{}") }])
        });
        let events = streamed(&proxy, json!({}));
        assert_eq!(failure(&events)["code"], "context_length_exceeded", "{events:?}");
        let whole = ask(&proxy, json!({}));
        assert_eq!(whole.status(), 400, "{}", whole.body);
        assert_eq!(whole.json()["error"]["code"], "context_length_exceeded");
        while !upstream.is_idle() {
            upstream.request();
        }
        // Agents shorten a conversation themselves: nobody else does.
        let said = |role: &str| json!({"role": role, "content": "x"});
        let input = ["user", "assistant", "user", "assistant", "user"].map(said);
        assert_eq!(ask(&proxy, json!({ "input": input })).status(), 400);
        let chats = std::iter::from_fn(|| (!upstream.is_idle()).then(|| upstream.request()));
        let chats: Vec<_> = chats.filter(|it| it.path.ends_with("/chat/completions")).collect();
        let is_whole = |it: &Recorded| it.json()["messages"].as_array().map(Vec::len) == Some(5);
        assert!(!chats.is_empty() && chats.iter().all(is_whole));
    }
}

#[test]
fn a_rate_limit_fails_a_stream_with_the_delay_and_keeps_its_status_elsewhere() {
    let (upstream, proxy) = chat_only();
    let limit = r#"{"error":{"message":"Rate limit reached","type":"requests","code":"rate_limit_exceeded"}}"#;
    let refused = || vec![status(429, &[("retry-after", "7")], limit)];
    upstream.script(refused()).script(refused());
    let error = failure(&streamed(&proxy, json!({})));
    let text = "Rate limit reached. Please try again in 7s.";
    assert_eq!(error, json!({"code": "rate_limit_exceeded", "message": text}));
    let whole = ask(&proxy, json!({}));
    assert_eq!(whole.status(), 429, "{}", whole.body);
    let error = &whole.json()["error"];
    assert_eq!(
        (&error["code"], &error["type"]),
        (&json!("rate_limit_exceeded"), &json!("requests"))
    );
}

#[test]
fn an_account_without_credit_fails_a_stream_for_good_and_keeps_its_code_elsewhere() {
    let (upstream, proxy) = chat_only();
    let text = "You exceeded your current quota, please check your plan and billing details.";
    let body = json!({"error": {"message": text, "type": "insufficient_quota", "param": null,
        "code": "insufficient_quota"}});
    let refused = || vec![status(429, &[], &body.to_string())];
    upstream.script(refused()).script(refused());
    let error = failure(&streamed(&proxy, json!({})));
    assert_eq!(error, json!({"code": "insufficient_quota", "message": text}));
    let whole = ask(&proxy, json!({}));
    assert_eq!((whole.status(), whole.json()), (429, body));
}

#[test]
fn all_other_failures_before_the_first_byte_keep_their_status() {
    let (upstream, proxy) = chat_only();
    for code in [400, 401, 403, 404, 500, 502, 503, 504] {
        for stream in [true, false] {
            upstream.script(vec![status(code, &[], r#"{"error":{"message":"no"}}"#)]);
            let answer = ask(&proxy, json!({"stream": stream}));
            assert_eq!(answer.status(), code, "{}", answer.body);
            assert_eq!(answer.json()["error"]["message"], "no");
        }
    }
    // Codex gives up on a server that says so by its code.
    let full = r#"{"error":{"message":"full","code":"server_is_overloaded"}}"#;
    upstream.script(vec![status(503, &[], full)]);
    let answer = ask(&proxy, json!({"stream": true}));
    assert_eq!((answer.status(), &answer.json()["error"]["code"]), (503, &Value::Null));
}

#[test]
fn failures_after_the_beginning_are_told_by_the_same_codes() {
    let (upstream, proxy) = chat_only();
    let exceeded = "context_length_exceeded";
    let rows = [
        (json!({"message": "too long", "code": exceeded}), exceeded),
        (json!({"message": "slow down", "code": 429}), "rate_limit_exceeded"),
        (json!({"message": "no credit", "code": "insufficient_quota"}), "insufficient_quota"),
        (json!({"message": "bad key", "code": 401}), "invalid_prompt"),
        (json!({"message": "out of memory", "code": 500}), "server_error"),
        (json!({"message": "full", "code": 503}), "server_error"),
    ];
    for (error, expected) in rows {
        let error = json!({ "error": error });
        upstream.script(vec![
            stream_head(),
            delta("one"),
            frame(&format!("data: {error}\n\n")),
            last_frame(),
        ]);
        let events = streamed(&proxy, json!({}));
        assert_eq!(failure(&events)["code"], expected, "{events:?}");
        assert!(kinds(&events).contains(&"response.output_text.delta"));
    }
}
