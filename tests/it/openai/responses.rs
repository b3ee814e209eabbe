//! `/v1/responses` over an upstream without that route: detected once, then translated to chat
//! completions and back. The golden pairs in `tests/golden/responses` check each member.

use crate::support::*;

const PATH: &str = "/v1/responses";
const CHAT: &str = "/v1/chat/completions";

/// The error of llama.cpp for an unknown route.
const NO_ROUTE: &str =
    r#"{"error":{"code":404,"message":"File Not Found","type":"not_found_error"}}"#;

/// A proxy that has detected that its upstream lacks the route.
fn bench() -> Bench {
    let bench = Bench::new();
    bench.upstream.script(vec![status(404, &[], NO_ROUTE)]).script(vec![answer("ok")]);
    let first = bench.post(PATH, &json!({"model": "m", "input": "Hi"}));
    assert_eq!(first.status(), 200, "{}", first.body);
    assert_eq!(bench.upstream.request().path, PATH);
    assert_eq!(bench.upstream.request().path, CHAT);
    bench
}

fn ask(bench: &Bench, change: Value) -> Answer {
    bench.post(PATH, &with(json!({"model": "m", "input": "Hi"}), &change))
}

/// What a client reads of a stream.
fn played(bench: &Bench, change: Value, steps: Vec<Step>) -> Vec<Value> {
    let mut change = change;
    change["stream"] = true.into();
    bench.upstream.script(steps);
    let answer = ask(bench, change);
    assert_eq!(answer.status(), 200, "{}", answer.body);
    events(&answer.body)
}

fn events(body: &str) -> Vec<Value> {
    let data = body.lines().filter_map(|line| line.strip_prefix("data: "));
    data.map(|data| serde_json::from_str(data).expect("JSON")).collect()
}

/// The message of an error in OpenAI's shape, whose kind must be this.
fn message(body: &str, kind: &str) -> String {
    let body: Value = serde_json::from_str(body).unwrap_or_else(|_| panic!("not JSON: {body}"));
    let message = body["error"]["message"].as_str().unwrap_or_else(|| panic!("{body}"));
    let error = json!({"message": message, "type": kind, "param": null, "code": null});
    assert_eq!(body, json!({ "error": error }));
    message.to_owned()
}

#[test]
fn an_upstream_without_the_route_is_asked_for_it_only_once() {
    let refusals = [
        status(404, &[], NO_ROUTE),
        status(404, &[], r#"{"detail":"Not Found"}"#),
        typed(404, "text/plain", &[], "404 page not found"),
        status(405, &[], r#"{"detail":"Method Not Allowed"}"#),
        status(405, &[], ""),
        Step::Send(b"HTTP/1.1 404 X\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n16\r\n{\"detail\":\"Not Found\"}\r\n0\r\n\r\n".to_vec()),
    ];
    for refusal in refusals {
        let bench = Bench::new();
        bench.upstream.script(vec![refusal]);
        for text in ["one", "two"] {
            bench.upstream.script(vec![answer(text)]);
            let answer = ask(&bench, json!({}));
            assert_eq!(answer.status(), 200, "{}", answer.body);
            assert_eq!(answer.json()["output"][0]["content"][0]["text"], text);
        }
        let paths: Vec<String> = (0..3).map(|_| bench.upstream.request().path).collect();
        assert_eq!(paths, [PATH, CHAT, CHAT]);
        assert!(bench.upstream.is_idle());
    }
}

#[test]
fn a_model_that_is_unknown_is_no_route_that_is_missing() {
    let bench = Bench::new();
    let unknown = r#"{"error":{"message":"The model `m` does not exist or you do not have access to it.","type":"invalid_request_error","param":null,"code":"model_not_found"}}"#;
    for _ in 0..2 {
        bench.upstream.script(vec![status(404, &[], unknown)]);
        ask(&bench, json!({})).assert_body(404, unknown);
        assert_eq!(bench.upstream.request().path, PATH);
    }
    assert!(bench.upstream.is_idle());
}

#[test]
fn an_answer_is_one_object_with_the_head_of_one() {
    let bench = bench();
    bench.upstream.script(vec![answer("Hello")]);
    let answer = ask(&bench, json!({"model": "m:latest"}));
    assert_eq!(answer.head.header("content-type"), Some("application/json"));
    assert!(answer.body.ends_with("}\n"), "{}", answer.body);
    let response = answer.json();
    assert_eq!(response["model"], "m:latest", "as the client named it");
    assert_eq!(response["output"][0]["content"][0]["text"], "Hello");
    assert_eq!(response["usage"]["total_tokens"], 7);
    let sent = bench.upstream.request().json();
    let messages = json!([{"role": "user", "content": "Hi"}]);
    assert_eq!(sent, json!({"model": "m", "messages": messages, "stream": false}));
    bench.upstream.script(vec![upstream::json(r#"{"choices":[{"message":{"content":"a"}}]}"#)]);
    let other = ask(&bench, json!({})).json();
    assert_ne!(response["id"], other["id"]);
    assert_ne!(response["output"][0]["id"], other["output"][0]["id"]);
}

#[test]
fn the_first_event_arrives_before_the_upstream_sends_the_second_chunk() {
    let bench = bench();
    let (go_on, steps) = upstream::halting();
    bench.upstream.script(steps);
    let mut client = bench.proxy.client();
    let request = json!({"model": "m", "input": "Hi", "stream": true});
    let head = client.post(PATH, request.to_string()).head();
    assert_eq!(head.status, 200);
    assert_eq!(head.header("content-type"), Some("text/event-stream"));
    assert_eq!(head.header("cache-control"), Some("no-cache"));
    let first = events(&client.frame().expect("events"));
    assert_eq!(
        kinds(&first),
        [
            "response.created",
            "response.in_progress",
            "response.output_item.added",
            "response.content_part.added",
            "response.output_text.delta"
        ]
    );
    assert_eq!(first[4]["delta"], "one");
    drop(go_on);
    let second = events(&client.frame().expect("events"));
    assert_eq!((second.len(), &second[0]["delta"]), (1, &json!("two")));
    let last = events(&client.frame().expect("events"));
    assert_eq!(kinds(&last).last(), Some(&"response.completed"));
    assert_eq!(client.frame(), None, "no other end of the stream is told");
}

#[test]
fn a_whole_answer_to_a_client_that_streams_comes_as_events() {
    let found = played(&bench(), json!({}), vec![answer("Hello")]);
    let end = found.last().expect("events");
    assert_eq!(end["response"]["output"][0]["content"][0]["text"], "Hello");
    assert_eq!(end["sequence_number"], found.len() - 1);
}

#[test]
fn a_stream_to_a_client_that_does_not_stream_comes_as_one_object() {
    let bench = bench();
    bench.upstream.script(stream(&["Hel", "lo"]));
    let response = ask(&bench, json!({})).json();
    assert_eq!(response["output"][0]["content"][0]["text"], "Hello");
}

/// The shape is that of OpenAI's public API reference (Responses, function
/// calling), which agents such as Codex use: each turn repeats the conversation, output items are sent
/// back unchanged, and each tool output names its call.
#[test]
fn calls_go_to_an_agent_and_their_outputs_come_back() {
    let bench = bench();
    let shell = json!({"type": "function", "name": "shell", "description": "Runs a command.",
        "strict": false, "parameters": {"type": "object", "properties": {"command": {"type": "array",
        "items": {"type": "string"}}}, "required": ["command"], "additionalProperties": false}});
    let mut input = json!([
        {"type": "message", "role": "developer",
            "content": [{"type": "input_text", "text": "Sandboxed."}]},
        {"type": "message", "role": "user",
            "content": [{"type": "input_text", "text": "What is here?"}]}]);
    let turn = |input: &Value| {
        json!({"instructions": "You are an agent.", "input": input, "tools": [shell],
            "tool_choice": "auto", "parallel_tool_calls": false, "store": false,
            "include": ["reasoning.encrypted_content"], "prompt_cache_key": "key",
            "reasoning": null, "text": {"verbosity": "low"}})
    };
    let piece = |function: Value| {
        json!({"choices": [{"index": 0, "delta": {"tool_calls":
        [{"index": 0, "id": "call_1", "type": "function", "function": function}]}}]})
    };
    let thought = json!({"choices": [{"index": 0, "delta": {"reasoning_content": "Look."}}]});
    let begin = piece(json!({"name": "shell", "arguments": "{\"command\":"}));
    let steps = chunks(&[thought, begin, piece(json!({"arguments": "[\"ls\"]}"}))]);
    let found = played(&bench, turn(&input), steps);
    let sent = bench.upstream.request().json();
    assert_eq!(sent["tools"][0]["function"]["name"], "shell");
    assert!(sent.get("tool_choice").is_none() && sent.get("temperature").is_none(), "{sent}");
    let items: Vec<&Value> = found
        .iter()
        .filter(|event| event["type"] == "response.output_item.done")
        .map(|event| &event["item"])
        .collect();
    assert_eq!(items.len(), 2, "{found:?}");
    assert_eq!(items[1]["arguments"], r#"{"command":["ls"]}"#);

    let list = input.as_array_mut().expect("a list");
    list.extend(items.into_iter().cloned());
    list.push(json!({"type": "function_call_output", "call_id": "call_1", "output": "a.txt"}));
    let found = played(&bench, turn(&input), stream(&["One file."]));
    let text = &found.last().expect("events")["response"]["output"][0]["content"][0]["text"];
    assert_eq!(text, "One file.");
    let call = json!({"id": "call_1", "type": "function",
        "function": {"name": "shell", "arguments": r#"{"command":["ls"]}"#}});
    assert_eq!(
        bench.upstream.request().json()["messages"],
        json!([
            {"role": "system", "content": "You are an agent.\n\nSandboxed."},
            {"role": "user", "content": "What is here?"},
            {"role": "assistant", "content": "", "tool_calls": [call]},
            {"role": "tool", "content": "a.txt", "tool_call_id": "call_1"}])
    );
}

#[test]
fn a_virtual_model_brings_its_prompt_and_options() {
    let bench = bench();
    let made = json!({"model": "mario", "from": "m", "system": "You are Mario.", "stream": false,
        "parameters": {"temperature": 0.5, "seed": 7}});
    assert_eq!(bench.post("/api/create", &made).status(), 200);
    let check = |change: Value, system: &str, temperature: Value| {
        bench.upstream.script(vec![answer("ok")]);
        let answer = ask(&bench, change);
        assert_eq!(answer.json()["model"], "mario");
        let sent = bench.upstream.request().json();
        assert_eq!(sent["messages"][0], json!({"role": "system", "content": system}));
        assert_eq!((&sent["temperature"], &sent["seed"]), (&temperature, &json!(7)));
        assert_eq!(sent["model"], "m");
    };
    check(json!({"model": "mario"}), "You are Mario.", json!(0.5));
    let own = json!({"model": "mario", "instructions": "Be Luigi.", "temperature": 0});
    check(own, "Be Luigi.", json!(0));
}

#[test]
fn what_is_wrong_with_a_request_is_told_in_openai_s_shape() {
    let bench = bench();
    let field = |found: &str, path: &str, kind: &str| {
        format!(
            "json: cannot unmarshal {found} into Go struct field ResponsesRequest.{path} of type {kind}"
        )
    };
    let either = |name: &str| {
        format!(
            "{name} must be a string or array: json: cannot unmarshal number into Go value of type []json.RawMessage"
        )
    };
    let rows = [
        (json!({"model": 5}), field("number", "model", "string")),
        (json!({"model": ""}), "model is required".to_owned()),
        (json!({"model": null}), "model is required".to_owned()),
        (json!({"instructions": []}), field("array", "instructions", "string")),
        (json!({"stream": "no"}), field("string", "stream", "bool")),
        (json!({"temperature": "1"}), field("string", "temperature", "float64")),
        (json!({"top_p": true}), field("bool", "top_p", "float64")),
        (json!({"max_output_tokens": "5"}), field("string", "max_output_tokens", "int")),
        (json!({"reasoning": {"effort": 5}}), field("number", "reasoning.effort", "string")),
        (json!({"tools": {}}), field("object", "tools", "slice")),
        (json!({"background": 1}), field("number", "background", "bool")),
        (json!({"truncation": 1}), field("number", "truncation", "string")),
        (json!({"input": 5}), either("input")),
        (json!({"input": ""}), "[] is too short - 'input'".to_owned()),
        (json!({"input": null}), "[] is too short - 'input'".to_owned()),
    ];
    for (change, text) in rows {
        for stream in [false, true] {
            let mut change = change.clone();
            if change.get("stream").is_none() {
                change["stream"] = stream.into();
            }
            let answer = ask(&bench, change.clone());
            assert_eq!(answer.status(), 400, "{change}: {}", answer.body);
            assert_eq!(message(&answer.body, "invalid_request_error"), text, "{change}");
        }
    }
    for (body, text) in [("", "EOF"), ("{", "unexpected EOF")] {
        let answer = bench.proxy.ask(PATH, body);
        assert_eq!(answer.status(), 400, "{body:?}");
        assert_eq!(message(&answer.body, "invalid_request_error"), text);
    }
    assert!(bench.upstream.is_idle(), "the upstream is asked nothing");
}

#[test]
fn what_a_model_cannot_do_is_refused_as_on_the_other_routes() {
    let bench = bench();
    bench.upstream.list(
        r#"{"data":[{"id":"plain","supported_parameters":["temperature"]},{"id":"m"},{"id":"text-embed"}]}"#,
    );
    let refused = |change: Value, text: &str| {
        let answer = ask(&bench, change);
        assert_eq!(
            (answer.status(), message(&answer.body, "invalid_request_error")),
            (400, text.to_owned())
        );
    };
    let tool = json!([{"type": "function", "name": "f"}]);
    refused(
        json!({"model": "plain", "tools": tool}),
        "registry.ollama.ai/library/plain:latest does not support tools",
    );
    refused(json!({"model": "text-embed"}), "\"text-embed\" does not support chat");
    assert!(bench.upstream.is_idle(), "the upstream is asked nothing");
    // Agents send an effort with every request.
    bench.upstream.script(vec![answer("ok")]);
    let effort = json!({"model": "plain", "reasoning": {"effort": "low"}});
    assert_eq!(ask(&bench, effort).status(), 200);
    assert!(bench.upstream.request().json().get("reasoning_effort").is_none());
}

#[test]
fn an_error_before_the_stream_keeps_its_status() {
    let bench = bench();
    let rows = [
        (401, r#"{"error":{"message":"bad key"}}"#, "api_error", "bad key"),
        (400, r#"{"error":{"message":"too long"}}"#, "invalid_request_error", "too long"),
        (500, r#"{"error":"out of memory"}"#, "api_error", "out of memory"),
    ];
    for (code, body, kind, text) in rows {
        for stream in [false, true] {
            bench.upstream.script(vec![status(code, &[], body)]);
            let answer = ask(&bench, json!({"stream": stream}));
            assert_eq!(answer.status(), code, "{}", answer.body);
            assert_eq!(message(&answer.body, kind), text);
        }
    }
    let failed = frame("data: {\"error\":{\"message\":\"no\",\"code\":503}}\n\n");
    bench.upstream.script(vec![stream_head(), failed, last_frame()]);
    let answer = ask(&bench, json!({"stream": true}));
    assert_eq!((answer.status(), message(&answer.body, "api_error")), (503, "no".to_owned()));
}

#[test]
fn an_error_inside_a_stream_is_its_last_event() {
    let bench = bench();
    let failed = frame("data: {\"error\":{\"message\":\"out of memory\"}}\n\n");
    let rows = [(vec![failed, last_frame()], "out of memory"), (vec![Step::Close], CUT_SHORT)];
    for (end, text) in rows {
        let steps = [stream_head(), delta("Hel")].into_iter().chain(end).collect();
        let found = played(&bench, json!({}), steps);
        assert!(!kinds(&found).contains(&"response.completed"), "{found:?}");
        let last = found.last().expect("events");
        assert_eq!(last["type"], "response.failed");
        let error = json!({"code": "server_error", "message": text});
        assert_eq!(last["response"]["error"], error);
    }
}
