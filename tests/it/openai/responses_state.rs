//! What `/v1/responses` keeps over an upstream without that route: earlier responses by
//! `previous_response_id`, and their items by `item_reference`; and attempts to open a WebSocket there.

use crate::support::*;

const PATH: &str = "/v1/responses";

/// The header lines of a WebSocket's handshake (RFC 6455 section 1.3).
const HANDSHAKE: &str = "Connection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n\
     Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";

#[test]
fn an_attempt_to_open_a_websocket_is_told_that_only_http_is_spoken() {
    let (upstream, proxy) = pair();
    for lines in [HANDSHAKE, &HANDSHAKE.replace("websocket", "h2c, WebSocket/13")] {
        let answer = proxy.client().with("GET", PATH, lines, "").answer();
        assert_eq!(answer.status(), 426, "{}", answer.body);
        assert_eq!(answer.head.header("upgrade"), Some("HTTP/1.1"));
        let mut headers = answer.head.headers.iter();
        let is_option = |(name, value): &(String, String)| {
            name.eq_ignore_ascii_case("connection") && value == "Upgrade"
        };
        assert!(headers.any(is_option), "{:?}", answer.head);
        assert_eq!(answer.json()["error"]["type"], "invalid_request_error");
    }
    let other = HANDSHAKE.replace("websocket", "h2c");
    for (method, path, lines) in [
        ("GET", PATH, ""),
        ("GET", PATH, other.as_str()),
        ("PUT", PATH, HANDSHAKE),
        ("GET", "/v1/chat/completions", HANDSHAKE),
    ] {
        let answer = proxy.client().with(method, path, lines, "").answer();
        assert_eq!(answer.status(), 405, "{method} {path} {lines}");
        assert_eq!(answer.head.header("allow"), Some("POST"));
        assert_eq!(answer.head.header("upgrade"), None);
    }
    assert!(upstream.is_idle());
}

/// The error of llama.cpp for an unknown route.
const NO_ROUTE: &str =
    r#"{"error":{"code":404,"message":"File Not Found","type":"not_found_error"}}"#;

/// The text for a response that is not kept (Ollama `middleware/responses_history.go`).
const MISSING: &str =
    "previous_response_id was not found or has expired; resend the full conversation";

/// A proxy that knows that its upstream has chat completions only.
fn bench() -> Bench {
    let bench = Bench::new();
    bench.upstream.script(vec![status(404, &[], NO_ROUTE)]).script(vec![answer("ok")]);
    assert_eq!(bench.post(PATH, &json!({"model": "m", "input": "Hi"})).status(), 200);
    bench.upstream.request();
    bench.upstream.request();
    bench
}

/// The answer to a request with these members, for which the upstream writes this.
fn ask(bench: &Bench, steps: Vec<Step>, members: Value) -> Answer {
    bench.upstream.script(steps);
    let found = bench.post(PATH, &with(json!({"model": "m"}), &members));
    assert_eq!(found.status(), 200, "{}", found.body);
    found
}

/// The messages of the next request that the upstream gets.
fn messages(bench: &Bench) -> Value {
    bench.upstream.request().json()["messages"].clone()
}

/// The answer to a request that continues a response, as the client with these header lines.
fn continued(bench: &Bench, lines: &str, id: &Value) -> Answer {
    let body = json!({"model": "m", "input": "next", "previous_response_id": id}).to_string();
    let head = format!("{lines}Content-Type: application/json\r\n");
    bench.proxy.client().with("POST", PATH, &head, &body).answer()
}

#[track_caller]
fn assert_missing(found: &Answer) {
    let error = json!({"message": MISSING, "type": "invalid_request_error",
        "param": "previous_response_id", "code": "previous_response_not_found"});
    assert_eq!((found.status(), found.json()), (404, json!({ "error": error })));
}

/// An answer with reasoning, a text and a call.
fn everything() -> Step {
    upstream::json(
        r#"{"choices":[{"message":{"reasoning_content":"R","content":"T","tool_calls":[{"id":"a","type":"function","function":{"name":"f","arguments":"{}"}}]},"finish_reason":"tool_calls"}]}"#,
    )
}

#[test]
fn a_request_continues_an_earlier_response() {
    let bench = bench();
    let first =
        ask(&bench, vec![answer("one")], json!({"input": "Hi", "instructions": "S"})).json();
    assert_eq!(messages(&bench).as_array().map(Vec::len), Some(2));
    let members = json!({"input": "more", "previous_response_id": first["id"], "stream": true});
    let second = ask(&bench, stream(&["two"]), members).events();
    let said = |role: &str, text: &str| json!({"role": role, "content": text});
    let two_turns = json!([said("user", "Hi"), said("assistant", "one"), said("user", "more")]);
    assert_eq!(messages(&bench), two_turns, "its instructions are not continued");
    let response = &second.last().expect("events")["response"];
    assert_eq!(response["previous_response_id"], first["id"]);
    let members = json!({"input": [{"role": "user", "content": "end"}],
        "previous_response_id": response["id"]});
    ask(&bench, vec![answer("three")], members);
    let mut three_turns = two_turns.as_array().expect("a list").clone();
    three_turns.extend([said("assistant", "two"), said("user", "end")]);
    assert_eq!(messages(&bench), json!(three_turns));
    // Each response can be continued more than once.
    assert_eq!(continued_messages(&bench, &first["id"]).len(), 3);
}

fn continued_messages(bench: &Bench, id: &Value) -> Vec<Value> {
    bench.upstream.script(vec![answer("again")]);
    assert_eq!(continued(bench, "", id).status(), 200);
    messages(bench).as_array().expect("a list").clone()
}

#[test]
fn an_upstream_that_keeps_responses_itself_gets_the_request_as_it_is() {
    let (upstream, proxy) = pair();
    let request = r#"{"model":"m", "previous_response_id":"resp_1", "conversation":"c","background":true,"input":[{"type":"item_reference","id":"msg_1"}]}"#;
    upstream.script(vec![upstream::json(r#"{"id":"resp_2"}"#)]);
    proxy.ask(PATH, request).assert_body(200, r#"{"id":"resp_2"}"#);
    let sent = upstream.request();
    assert_eq!((sent.path.as_str(), sent.body.as_str()), (PATH, request));
}

#[test]
fn a_result_alone_continues_the_call() {
    let bench = bench();
    let tools = json!([{"type": "function", "name": "f", "parameters": {"type": "object"}}]);
    let first = ask(&bench, vec![everything()], json!({"input": "Hi", "tools": tools})).json();
    messages(&bench);
    let result = json!({"type": "function_call_output", "call_id": "a", "output": "RES"});
    let members = json!({"input": [result], "tools": tools, "previous_response_id": first["id"]});
    ask(&bench, vec![answer("done")], members);
    let sent = messages(&bench);
    assert_eq!(sent.as_array().map(Vec::len), Some(3), "{sent}");
    assert_eq!((&sent[1]["content"], &sent[1]["tool_calls"][0]["id"]), (&json!("T"), &json!("a")));
    assert_eq!(sent[2], json!({"role": "tool", "tool_call_id": "a", "content": "RES"}));
}

#[test]
fn a_response_that_is_not_kept_is_not_found() {
    let bench = bench();
    assert_missing(&continued(&bench, "", &json!("resp_unknown")));
    let refused = ask(&bench, vec![answer("one")], json!({"input": "Hi", "store": false})).json();
    assert_eq!(refused["store"], false);
    assert_missing(&continued(&bench, "", &refused["id"]));
    messages(&bench);
    // One that failed is no response.
    let cut = vec![stream_head(), delta("one"), Step::Close];
    let failed = ask(&bench, cut, json!({"input": "Hi", "stream": true})).events();
    assert_eq!(kinds(&failed).last(), Some(&"response.failed"));
    assert_missing(&continued(&bench, "", &failed[0]["response"]["id"]));
    messages(&bench);
    for id in [json!(null), json!("")] {
        assert_eq!(continued_messages(&bench, &id).len(), 1, "{id}");
    }
}

#[test]
fn a_response_belongs_to_the_key_of_its_client() {
    let bench = bench();
    let body = json!({"model": "m", "input": "Hi"}).to_string();
    bench.upstream.script(vec![answer("one")]);
    let lines = "Authorization: Bearer alice\r\nContent-Type: application/json\r\n";
    let first = bench.proxy.client().with("POST", PATH, lines, &body).answer().json();
    bench.upstream.request();
    for other in ["", "Authorization: Bearer bob\r\n", "x-api-key: alice\r\n"] {
        assert_missing(&continued(&bench, other, &first["id"]));
        let reference = json!({"type": "item_reference", "id": first["output"][0]["id"]});
        let body = json!({"model": "m", "input": [reference]}).to_string();
        let head = format!("{other}Content-Type: application/json\r\n");
        let found = bench.proxy.client().with("POST", PATH, &head, &body).answer();
        assert_eq!(found.status(), 400, "{other}: {}", found.body);
    }
    bench.upstream.script(vec![answer("two")]);
    let own = continued(&bench, "Authorization: Bearer alice\r\n", &first["id"]);
    assert_eq!(own.status(), 200, "{}", own.body);
}

#[test]
fn references_stand_for_the_items_of_earlier_responses() {
    let bench = bench();
    let tools = json!([{"type": "function", "name": "f", "parameters": {"type": "object"}}]);
    let first = ask(&bench, vec![everything()], json!({"input": "Hi", "tools": tools})).json();
    messages(&bench);
    let output = first["output"].as_array().expect("a list");
    assert_eq!(output.len(), 3, "{first}");
    let mut input = vec![json!({"role": "user", "content": "Hi"})];
    // The type may be left out.
    input.extend(output.iter().map(|item| json!({"type": "item_reference", "id": item["id"]})));
    input[1].as_object_mut().expect("an object").remove("type");
    input.push(json!({"type": "function_call_output", "call_id": "a", "output": "RES"}));
    ask(&bench, vec![answer("done")], json!({"input": input, "tools": tools}));
    let by_reference = messages(&bench);
    let whole: Vec<Value> = [&input[..1], output, &input[4..]].concat();
    ask(&bench, vec![answer("done")], json!({"input": whole, "tools": tools, "store": false}));
    assert_eq!(by_reference, messages(&bench));
    assert_eq!(by_reference[1]["tool_calls"][0]["id"], "a");
}

#[test]
fn a_reference_to_an_unknown_item_says_how_to_do_without() {
    let bench = bench();
    let reference = json!({"type": "item_reference", "id": "msg_unknown"});
    let input = json!([{"role": "user", "content": "Hi"}, reference]);
    let found = bench.post(PATH, &json!({"model": "m", "input": input}));
    assert_eq!(found.status(), 400, "{}", found.body);
    let error = &found.json()["error"];
    let text = error["message"].as_str().expect("text");
    assert!(text.contains("'msg_unknown' not found") && text.contains("store: false"), "{text}");
    assert_eq!(error["type"], "invalid_request_error");
    assert!(bench.upstream.is_idle());
}

#[test]
fn what_only_openai_keeps_is_refused() {
    const TEXT: &str =
        "background and conversation are not supported; use previous_response_id for continuation";
    let bench = bench();
    for members in [
        json!({"conversation": "conv_1"}),
        json!({"conversation": {"id": "conv_1"}}),
        json!({"background": true}),
    ] {
        let found = bench.post(PATH, &with(json!({"model": "m", "input": "Hi"}), &members));
        assert_eq!((found.status(), &found.json()["error"]["message"]), (400, &json!(TEXT)));
    }
    let members = json!({"input": "Hi", "conversation": null, "background": false, "store": true});
    let response = ask(&bench, vec![answer("ok")], members).json();
    assert_eq!((&response["background"], &response["store"]), (&json!(false), &json!(true)));
    // A response is kept to be continued, and cannot be fetched.
    let path = format!("{PATH}/{}", response["id"].as_str().expect("an id"));
    for method in ["GET", "DELETE"] {
        assert_eq!(bench.proxy.client().request(method, &path).answer().status(), 404, "{method}");
    }
}

#[test]
fn members_of_any_type_are_an_error_of_the_client_or_none() {
    let bench = bench();
    bench.upstream.judge(|_| Some(vec![answer("ok")]));
    for member in ["previous_response_id", "conversation", "background", "store", "input"] {
        for value in [json!(5), json!([]), json!({}), json!("x"), json!(true), json!([[]])] {
            for path in [PATH, "/v1/responses/compact"] {
                let change = json!({ (member): value });
                let found = bench.post(path, &with(json!({"model": "m", "input": "Hi"}), &change));
                assert!(matches!(found.status(), 200 | 400 | 404), "{change}: {}", found.body);
            }
        }
    }
    for item in ["item_reference", "compaction", "compaction_summary", "compaction_trigger"] {
        for member in ["id", "encrypted_content", "type"] {
            for value in [json!(5), json!([]), json!({}), json!(null), json!(""), json!("{}")] {
                for path in [PATH, "/v1/responses/compact"] {
                    let item = with(json!({ "type": item }), &json!({ (member): value }));
                    let input = json!([{"role": "user", "content": "Hi"}, item]);
                    let found = bench.post(path, &json!({"model": "m", "input": input}));
                    assert!(matches!(found.status(), 200 | 400), "{item}: {}", found.body);
                }
            }
        }
    }
}
