//! What an upstream sends with tool calls and wants back with them: signatures, details and reasoning.
//! Conversations of two turns on each route, whole and streamed, and across routes.

use ollama_openai_proxy::backends::profiles;

use crate::support::*;

const RESPONSES: &str = "/v1/responses";
const PASSED: &str = "/v1/chat/completions";

/// The routes with tool calls.
const ROUTES: [&str; 4] = [CHAT, MESSAGES, RESPONSES, PASSED];

/// The first answer of a conversation: a call with `id`, and what else `members` has.
struct Asked {
    id: &'static str,
    /// Members of the call.
    call: Value,
    /// Members of the message, each in chunks of its own in a stream.
    message: Vec<Value>,
}

impl Asked {
    fn call(&self) -> Value {
        let function = json!({"name": "f", "arguments": "{\"a\": 1}"});
        with(json!({"id": self.id, "type": "function", "function": function}), &self.call)
    }

    /// The answer as the upstream sends it.
    fn steps(&self, stream: bool) -> Vec<Step> {
        if stream {
            let frames = self.events().into_iter().map(|event| frame(&event));
            return [stream_head()].into_iter().chain(frames).chain([last_frame()]).collect();
        }
        let members = self.message.iter();
        let message = json!({"role": "assistant", "content": null, "tool_calls": [self.call()]});
        let message = members.fold(message, with);
        let choice = json!({"index": 0, "message": message, "finish_reason": "tool_calls"});
        vec![upstream::json(&json!({"choices": [choice]}).to_string())]
    }

    /// The same as events.
    fn events(&self) -> Vec<String> {
        let calls = json!({"tool_calls": [with(json!({"index": 0}), &self.call())]});
        let chunk = |delta: &Value, reason: Value| json!({"choices": [{"index": 0, "delta": delta, "finish_reason": reason}]});
        // The last of the members comes behind the calls.
        let mut deltas = self.message.clone();
        deltas.insert(deltas.len().saturating_sub(1), calls);
        let events = deltas.iter().map(|delta| chunk(delta, Value::Null));
        let events = events.chain([chunk(&json!({}), "tool_calls".into())]);
        let events = events.map(|event| format!("data: {event}\n\n"));
        events.chain(["data: [DONE]\n\n".to_owned()]).collect()
    }
}

/// A proxy that knows that its upstream has no `/v1/responses`.
fn bench() -> Bench {
    let bench = Bench::new();
    bench.upstream.script(vec![status(404, &[], r#"{"detail":"Not Found"}"#)]);
    bench.upstream.script(vec![answer("ok")]);
    let first = bench.post(RESPONSES, &json!({"model": "m", "input": "Hi"}));
    assert_eq!(first.status(), 200, "{}", first.body);
    bench.upstream.request();
    bench.upstream.request();
    bench
}

/// The tools, in the form of a route.
fn tools(route: &str) -> Value {
    let schema = json!({"type": "object", "properties": {"a": {"type": "integer"}}});
    match route {
        MESSAGES => json!([{"name": "f", "input_schema": schema}]),
        RESPONSES => json!([{"type": "function", "name": "f", "parameters": schema}]),
        _ => json!([{"type": "function", "function": {"name": "f", "parameters": schema}}]),
    }
}

fn first_turn(route: &str, stream: bool) -> Value {
    let user = json!({"role": "user", "content": "Hi"});
    let conversation = if route == RESPONSES { "input" } else { "messages" };
    let body = json!({"model": "m", "stream": stream, "tools": tools(route), conversation: [user]});
    if route == MESSAGES { with(body, &json!({"max_tokens": 100})) } else { body }
}

/// The second turn of a client that has kept the call, and its own reasoning if there is some.
fn second_turn(route: &str, id: &str, thinking: Option<&str>) -> Value {
    let user = json!({"role": "user", "content": "Hi"});
    let arguments = json!({"a": 1});
    let turns = match route {
        CHAT => json!([user,
            with(json!({"role": "assistant", "content": "", "tool_calls": [{"id": id,
                "function": {"name": "f", "arguments": arguments}}]}), &json!({"thinking": thinking})),
            {"role": "tool", "tool_call_id": id, "content": "2"}]),
        MESSAGES => {
            let used = json!({"type": "tool_use", "id": id, "name": "f", "input": arguments});
            let thought =
                thinking.map(|it| json!({"type": "thinking", "thinking": it, "signature": ""}));
            let blocks: Vec<Value> = thought.into_iter().chain([used]).collect();
            json!([user, {"role": "assistant", "content": blocks},
                {"role": "user", "content": [{"type": "tool_result", "tool_use_id": id, "content": "2"}]}])
        }
        RESPONSES => {
            let thought = thinking
                .map(|it| json!({"type": "reasoning", "summary": [], "encrypted_content": it}));
            let call = json!({"type": "function_call", "call_id": id, "name": "f",
                "arguments": arguments.to_string()});
            let output = json!({"type": "function_call_output", "call_id": id, "output": "2"});
            let items = [user].into_iter().chain(thought).chain([call, output]);
            items.collect::<Vec<_>>().into()
        }
        _ => json!([user,
            with(json!({"role": "assistant", "content": null, "tool_calls": [{"id": id,
                "type": "function", "function": {"name": "f", "arguments": arguments.to_string()}}]}),
                &thinking.map_or(json!({}), |it| json!({"reasoning": it}))),
            {"role": "tool", "tool_call_id": id, "content": "2"}]),
    };
    let conversation = if route == RESPONSES { "input" } else { "messages" };
    let body = json!({"model": "m", "stream": false, "tools": tools(route), conversation: turns});
    if route == MESSAGES { with(body, &json!({"max_tokens": 100})) } else { body }
}

/// Plays the first turn.
fn play_first(bench: &Bench, route: &str, asked: &Asked, stream: bool) -> Answer {
    bench.upstream.script(asked.steps(stream));
    let answer = bench.post(route, &first_turn(route, stream));
    assert_eq!(answer.status(), 200, "{route}: {}", answer.body);
    assert!(answer.body.contains(asked.id) || route == CHAT, "{route}: {}", answer.body);
    bench.upstream.request();
    answer
}

/// The assistant's message with the call in the second request, as the upstream gets it after these
/// refusals.
fn play_second(bench: &Bench, route: &str, body: &Value, refusals: &[&str]) -> Value {
    for refusal in refusals {
        bench.upstream.script(vec![status(400, &[], refusal)]);
    }
    bench.upstream.script(vec![answer("Done.")]);
    let answer = bench.post(route, body);
    assert_eq!(answer.status(), 200, "{route}: {}", answer.body);
    for _ in refusals {
        bench.upstream.request();
    }
    let sent = bench.upstream.request().json();
    assert!(bench.upstream.is_idle());
    let turns = sent["messages"].as_array().expect("messages").clone();
    turns.into_iter().find(|turn| turn.get("tool_calls").is_some()).expect("a turn with calls")
}

fn signature(text: &str) -> Value {
    json!({"extra_content": {"google": {"thought_signature": text}}})
}

const REFUSED_SIGNATURE: &str = r#"[{"error":{"code":400,"message":"Function call is missing a thought_signature in functionCall parts. This is required for tools to work correctly.","status":"INVALID_ARGUMENT"}}]"#;
const REFUSED_REASONING: &str = r#"{"error":{"message":"The reasoning_content in the thinking mode must be passed back to the API.","type":"invalid_request_error","param":null,"code":"invalid_request_error"}}"#;

#[test]
fn a_signature_comes_back_on_every_route_whichever_sent_it() {
    for first in ROUTES {
        for stream in [false, true] {
            let bench = bench();
            let asked = Asked { id: "call_abc", call: signature("c2ln"), message: Vec::new() };
            let answer = play_first(&bench, first, &asked, stream);
            assert_eq!(answer.body.contains("c2ln"), first == PASSED, "{first}");
            for second in ROUTES {
                let turn = play_second(&bench, second, &second_turn(second, "call_abc", None), &[]);
                let call = &turn["tool_calls"][0];
                let expected = &asked.call["extra_content"];
                assert_eq!(&call["extra_content"], expected, "{first} {stream} {second}");
            }
        }
    }
}

#[test]
fn a_signature_that_nobody_kept_is_replaced_after_the_refusal() {
    for route in ROUTES {
        let bench = bench();
        let body = second_turn(route, "call_abc", None);
        let any = signature("skip_thought_signature_validator");
        let turn = play_second(&bench, route, &body, &[REFUSED_SIGNATURE]);
        assert_eq!(turn["tool_calls"][0]["extra_content"], any["extra_content"], "{route}");
        let turn = play_second(&bench, route, &body, &[]);
        assert_eq!(turn["tool_calls"][0]["extra_content"], any["extra_content"], "{route}: known");
        // What is kept goes before what stands for it.
        let asked = Asked { id: "call_new", call: signature("c2ln"), message: Vec::new() };
        play_first(&bench, route, &asked, false);
        let turn = play_second(&bench, route, &second_turn(route, "call_new", None), &[]);
        assert_eq!(turn["tool_calls"][0]["extra_content"], asked.call["extra_content"], "{route}");
    }
}

#[test]
fn a_passed_request_of_whose_calls_nothing_is_kept_goes_up_byte_for_byte() {
    let bench = bench();
    let asked = Asked { id: "call_abc", call: signature("c2ln"), message: Vec::new() };
    play_first(&bench, PASSED, &asked, true);
    let call = |id: &str, extra: &str| {
        format!(
            r#"{{ "id":"{id}", "type":"function", "function":{{"name":"f","arguments":"{{\"a\":1}}"}}{extra}}}"#
        )
    };
    let body = |calls: &str| {
        format!(
            r#"{{ "messages" : [ {{"role":"user", "content":"Hi"}}, {{"role":"assistant","tool_calls":[{calls}] }},{{"role":"tool", "tool_call_id":"x","content":"1"}}], "model":"m" , "x":1.50 }}"#
        )
    };
    let own = call("call_abc", r#", "extra_content":{"own":1.0}"#);
    for body in [body(&call("other", "")), body(&own), body("")] {
        bench.upstream.script(vec![answer("ok")]);
        bench.proxy.ask(PASSED, &body);
        assert_eq!(bench.upstream.request().body, body);
    }
    // Only the call that lacks it changes.
    let both = format!("{}, {}", call("other", ""), call("call_abc", ""));
    bench.upstream.script(vec![answer("ok")]);
    bench.proxy.ask(PASSED, body(&both));
    let sent = bench.upstream.request().body;
    let untouched = [
        r#"{"role":"user", "content":"Hi"}"#,
        r#"{"role":"tool", "tool_call_id":"x","content":"1"}"#,
        &call("other", ""),
        r#""x":1.50"#,
    ];
    for part in untouched {
        assert!(sent.contains(part), "{sent}");
    }
    assert!(sent.contains(r#""extra_content":{"google":{"thought_signature":"c2ln"}}"#), "{sent}");
}

#[test]
fn the_bytes_of_a_passed_answer_do_not_change_and_are_not_held_back() {
    let bench = bench();
    let asked = Asked { id: "call_abc", call: signature("c2ln"), message: Vec::new() };
    let text = asked.events().concat();
    // Cut in the middle of the name of the member; the second half only comes when the first is here.
    let (first, second) = text.split_at(text.find("extra_co").expect("an extra") + 8);
    let (go_on, told) = bounded(0);
    let halt = Step::Wait(told);
    bench.upstream.script(vec![stream_head(), frame(first), halt, frame(second), last_frame()]);
    let mut client = bench.proxy.client();
    client.post(PASSED, first_turn(PASSED, true).to_string()).head();
    let mut seen = String::new();
    while seen.len() < first.len() {
        seen += &client.frame().expect("the first half");
    }
    drop(go_on);
    while let Some(frame) = client.frame() {
        seen += &frame;
    }
    assert_eq!(seen, text);
    bench.upstream.request();
    let turn = play_second(&bench, PASSED, &second_turn(PASSED, "call_abc", None), &[]);
    assert_eq!(turn["tool_calls"][0]["extra_content"], asked.call["extra_content"]);
}

/// Details in pieces, and the list that goes up again.
fn details() -> (Vec<Value>, Value) {
    let text =
        |text: &str| json!({"type": "reasoning.text", "text": text, "format": "x-v1", "index": 0});
    let sealed = json!({"type": "reasoning.encrypted", "data": "c2Vh", "id": "call_abc", "format": "x-v1", "index": 1});
    let pieces = vec![
        json!({"reasoning": "I \"s", "reasoning_details": [text("I \"s")]}),
        // The same twice.
        json!({"reasoning": "e", "reasoning_details": [text("e")]}),
        json!({"reasoning": "e", "reasoning_details": [text("e")]}),
        json!({"reasoning_details": [{"type": "reasoning.text", "signature": "sig", "index": 0}]}),
        json!({"reasoning_details": [sealed]}),
    ];
    (pieces, json!([with(text("I \"see"), &json!({"signature": "sig"})), sealed]))
}

#[test]
fn reasoning_details_come_back_whole_and_in_order_on_every_route() {
    let (pieces, whole) = details();
    for first in ROUTES {
        for stream in [false, true] {
            let bench = bench();
            let message =
                if stream { pieces.clone() } else { vec![json!({"reasoning_details": whole})] };
            let asked = Asked { id: "call_abc", call: json!({}), message };
            play_first(&bench, first, &asked, stream);
            for second in ROUTES {
                let body = second_turn(second, "call_abc", None);
                let turn = play_second(&bench, second, &body, &[]);
                assert_eq!(turn["reasoning_details"], whole, "{first} {stream} {second}");
                let other = second_turn(second, "call_other", None);
                let turn = play_second(&bench, second, &other, &[]);
                assert_eq!(turn.get("reasoning_details"), None, "{first} {stream} {second}");
            }
            // The client's own are not corrected.
            let mut body = second_turn(PASSED, "call_abc", None);
            body["messages"][1]["reasoning_details"] = json!([{"type": "own"}]);
            let turn = play_second(&bench, PASSED, &body, &[]);
            assert_eq!(turn["reasoning_details"], json!([{"type": "own"}]));
        }
    }
}

#[test]
fn an_error_that_openrouter_wraps_is_understood() {
    let raw = REFUSED_SIGNATURE;
    let wrapped = json!({"error": {"message": "Provider returned error", "code": 400,
        "metadata": {"raw": raw, "provider_name": "Google"}}});
    for route in ROUTES {
        let bench = bench();
        let body = second_turn(route, "call_abc", None);
        let turn = play_second(&bench, route, &body, &[&wrapped.to_string()]);
        let any = signature("skip_thought_signature_validator");
        assert_eq!(turn["tool_calls"][0]["extra_content"], any["extra_content"], "{route}");
    }
}

/// An answer with reasoning in this member. In a stream, the pieces of the text come apart.
fn reasoned(member: &str, stream: bool) -> Asked {
    let message = if stream {
        vec![json!({ member: "I " }), json!({ member: "see." }), json!({"content": ""})]
    } else {
        vec![json!({ member: "I see." })]
    };
    Asked { id: "call_abc", call: json!({}), message }
}

#[test]
fn reasoning_goes_up_from_the_client_else_from_memory_else_as_a_blank() {
    for member in ["reasoning_content", "reasoning"] {
        for (first, stream) in ROUTES.into_iter().flat_map(|it| [(it, false), (it, true)]) {
            for second in ROUTES {
                let bench = bench();
                let name = format!("{member} {first} {stream} {second}");
                play_first(&bench, first, &reasoned(member, stream), stream);
                let body = second_turn(second, "call_abc", None);
                let turn = play_second(&bench, second, &body, &[]);
                assert_eq!(turn.get("reasoning_content"), None, "{name}: not unasked");
                let turn = play_second(&bench, second, &body, &[REFUSED_REASONING]);
                assert_eq!(turn["reasoning_content"], "I see.", "{name}");
                let body = second_turn(second, "call_abc", Some("Mine."));
                let turn = play_second(&bench, second, &body, &[]);
                assert_eq!(turn["reasoning_content"], "Mine.", "{name}");
                let body = second_turn(second, "call_other", None);
                let turn = play_second(&bench, second, &body, &[]);
                assert_eq!(turn["reasoning_content"], " ", "{name}");
            }
        }
    }
}

#[test]
fn reasoning_that_is_hidden_from_the_client_is_kept_for_the_upstream() {
    let bench = bench();
    bench.upstream.script(reasoned("reasoning_content", true).steps(true));
    let body = with(first_turn(CHAT, true), &json!({"think": false}));
    let answer = bench.post(CHAT, &body);
    assert!(!answer.body.contains("see."), "{}", answer.body);
    bench.upstream.request();
    let body = second_turn(CHAT, "call_abc", None);
    let turn = play_second(&bench, CHAT, &body, &[REFUSED_REASONING]);
    assert_eq!(turn["reasoning_content"], "I see.");
}

#[test]
fn a_family_that_wants_reasoning_gets_what_was_kept_before_a_blank() {
    let (upstream, proxy) =
        pair_with(|config| config.upstream.profile = profiles::find_by_name("deepseek"));
    let bench = Bench { upstream, proxy };
    play_first(&bench, CHAT, &reasoned("reasoning_content", true), true);
    for (id, thinking, expected) in [
        ("call_abc", None, "I see."),
        ("call_abc", Some("Mine."), "Mine."),
        ("call_other", None, " "),
    ] {
        let turn = play_second(&bench, CHAT, &second_turn(CHAT, id, thinking), &[]);
        assert_eq!(turn["reasoning_content"], expected);
    }
}

#[test]
fn a_large_passed_request_gets_its_extras_too() {
    let bench = bench();
    let asked = Asked { id: "call_abc", call: signature("c2ln"), message: Vec::new() };
    play_first(&bench, PASSED, &asked, true);
    let mut body = second_turn(PASSED, "call_abc", None);
    body["messages"][0]["content"] = "x".repeat(2 << 20).into();
    body.as_object_mut().expect("an object").remove("model");
    // With the model in front, a large body could be streamed.
    let text = format!("{{\"model\":\"m\",{}", &body.to_string()[1..]);
    bench.upstream.script(vec![answer("Done.")]);
    assert_eq!(bench.proxy.ask(PASSED, text).status(), 200);
    let sent = bench.upstream.request().json();
    let call = &sent["messages"][1]["tool_calls"][0];
    assert_eq!(call["extra_content"], asked.call["extra_content"]);
}

#[test]
fn a_large_passed_answer_is_looked_through_whole_or_in_chunks() {
    for chunked in [false, true] {
        let bench = bench();
        let filler = json!({"content": "x".repeat(200_000)});
        let asked = Asked { id: "call_abc", call: signature("c2ln"), message: vec![filler] };
        if chunked {
            let message = with(json!({"tool_calls": [asked.call()]}), &asked.message[0]);
            let text = json!({"choices": [{"message": message}]}).to_string();
            let head = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n";
            let (first, second) = text.split_at(100_000);
            let frames = [Step::Send(head.into()), frame(first), frame(second), last_frame()];
            bench.upstream.script(frames.into());
            let answer = bench.post(PASSED, &first_turn(PASSED, false));
            assert_eq!(answer.body, text);
            bench.upstream.request();
        } else {
            play_first(&bench, PASSED, &asked, false);
        }
        let turn = play_second(&bench, PASSED, &second_turn(PASSED, "call_abc", None), &[]);
        assert_eq!(turn["tool_calls"][0]["extra_content"], asked.call["extra_content"]);
    }
}

#[test]
fn sealed_details_come_back_to_clients_that_send_no_ids() {
    let sealed = json!([{"type": "reasoning.encrypted", "data": "c2Vh", "index": 0}]);
    let open = json!([{"type": "reasoning.text", "text": "I see.", "index": 0}]);
    for (details, comes_back) in [(sealed, true), (open, false)] {
        let bench = bench();
        let message = vec![json!({ "reasoning_details": details })];
        play_first(&bench, CHAT, &Asked { id: "call_abc", call: json!({}), message }, false);
        let mut body = second_turn(CHAT, "call_abc", None);
        body["messages"][1]["tool_calls"][0].as_object_mut().expect("a call").remove("id");
        body["messages"][2].as_object_mut().expect("a result").remove("tool_call_id");
        let turn = play_second(&bench, CHAT, &body, &[]);
        // Text could be that of another conversation with the same call.
        let expected = comes_back.then_some(&details);
        assert_eq!(turn.get("reasoning_details"), expected);
    }
}

#[test]
fn what_came_with_a_call_is_kept_for_a_client_that_leaves_once_it_has_the_call() {
    let bench = bench();
    let asked = Asked { id: "call_abc", call: signature("c2ln"), message: Vec::new() };
    let calls = [asked.call(), json!({"id": "call_next", "function": {"name": "f"}})];
    let events = calls.iter().enumerate().map(|(index, call)| {
        let delta = json!({"tool_calls": [with(json!({ "index": index }), call)]});
        frame(&format!("data: {}\n\n", json!({"choices": [{"delta": delta}]})))
    });
    let (gone, left) = bounded(1);
    let steps = [stream_head()].into_iter().chain(events).chain([Step::UntilClosed(gone)]);
    bench.upstream.script(steps.collect());
    let mut client = bench.proxy.client();
    client.post(CHAT, first_turn(CHAT, true).to_string()).head();
    let line = client.frame().expect("a line");
    assert!(line.contains("call_abc"), "{line}");
    drop(client);
    left.recv_timeout(HANG).expect("the call ends with the client");
    bench.upstream.request();
    let turn = play_second(&bench, CHAT, &second_turn(CHAT, "call_abc", None), &[]);
    assert_eq!(turn["tool_calls"][0]["extra_content"], asked.call["extra_content"]);
}
