//! Compaction of a conversation over an upstream without OpenAI's routes for it: `/v1/responses/compact`, a
//! `compaction_trigger` at the end of a request, and the requests that follow (Ollama
//! `openai/responses_compact.go`).

use crate::support::*;

const PATH: &str = "/v1/responses";
const COMPACT: &str = "/v1/responses/compact";
const CHAT: &str = "/v1/chat/completions";
const NO_ROUTE: &str = r#"{"detail":"Not Found"}"#;

/// A proxy that knows that its upstream has chat completions only.
fn bench() -> Bench {
    let bench = Bench::new();
    bench.upstream.script(vec![status(404, &[], NO_ROUTE)]).script(vec![answer("ok")]);
    assert_eq!(bench.post(PATH, &json!({"model": "m", "input": "Hi"})).status(), 200);
    let paths = [bench.upstream.request().path, bench.upstream.request().path];
    assert_eq!(paths, [PATH, CHAT]);
    bench
}

fn user(text: &str) -> Value {
    json!({"type": "message", "role": "user", "content": text})
}

fn trigger() -> Value {
    json!({"type": "compaction_trigger"})
}

/// A conversation with a call that has no result yet.
fn history() -> Vec<Value> {
    vec![
        json!({"type": "message", "role": "developer", "content": "Be brief."}),
        user("first"),
        json!({"type": "function_call", "call_id": "a", "name": "f", "arguments": "{\"p\":1}"}),
        json!({"type": "function_call_output", "call_id": "a", "output": "RESULT"}),
        json!({"type": "message", "role": "assistant",
            "content": [{"type": "output_text", "text": "answer"}]}),
        user("last"),
        json!({"type": "function_call", "call_id": "b", "name": "g", "arguments": "{}"}),
    ]
}

fn body(input: &[Value]) -> Value {
    json!({"model": "m", "input": input})
}

/// What the item of a compaction holds.
fn payload(item: &Value) -> Value {
    assert_eq!(item["type"], "compaction", "{item}");
    assert!(item["id"].as_str().is_some_and(|id| id.starts_with("cmp_")), "{item}");
    let content = item["encrypted_content"].as_str().expect("text");
    serde_json::from_str(content).expect("JSON")
}

fn expected_payload() -> Value {
    let call = json!({"id": "b", "function": {"name": "g", "arguments": {}}});
    let open = json!({"role": "assistant", "content": "", "tool_calls": [call]});
    json!({"type": "ollama_compaction", "version": 1, "summary": "THE SUMMARY",
        "retained": [{"role": "user", "content": "last"}, open]})
}

/// The item of a compaction with this summary.
fn compacted(summary: &str) -> Value {
    let content = json!({"type": "ollama_compaction", "version": 1, "summary": summary,
        "retained": [{"role": "user", "content": "kept"}]});
    json!({"type": "compaction", "id": "cmp_1", "encrypted_content": content.to_string()})
}

/// The messages that a request with this input leads to.
fn sent(bench: &Bench, input: &[Value]) -> Vec<Value> {
    bench.upstream.script(vec![answer("ok")]);
    let found = bench.post(PATH, &body(input));
    assert_eq!(found.status(), 200, "{}", found.body);
    bench.upstream.request().json()["messages"].as_array().expect("a list").clone()
}

#[test]
fn a_conversation_is_compacted_to_one_object() {
    let bench = bench();
    bench.upstream.script(vec![answer(" THE SUMMARY\n")]);
    let request = with(
        body(&history()),
        &json!({"instructions": "I", "parallel_tool_calls": false,
        "stream": true, "tools": [{"type": "function", "name": "f", "parameters": {}}]}),
    );
    let found = bench.post(COMPACT, &request);
    assert_eq!(found.head.header("content-type"), Some("application/json"));
    let response = found.json();
    let number = response["id"].as_str().and_then(|id| id.strip_prefix("resp_compact_"));
    assert!(number.is_some_and(|number| !number.is_empty()), "{response}");
    assert_eq!(response["object"], "response.compaction");
    assert!(response["created_at"].as_u64().is_some_and(|at| at > 1_700_000_000));
    assert_eq!(response["output"].as_array().map(Vec::len), Some(1));
    assert_eq!(payload(&response["output"][0]), expected_payload());
    assert_eq!(
        response["usage"],
        json!({"input_tokens": 5, "output_tokens": 2, "total_tokens": 7,
            "input_tokens_details": {"cached_tokens": 0},
            "output_tokens_details": {"reasoning_tokens": 0}})
    );
    let members = ["id", "object", "created_at", "output", "usage"];
    let places = members.map(|name| found.body.find(&format!("\"{name}\":"))).into_iter();
    assert!(places.is_sorted() && response.as_object().map(serde_json::Map::len) == Some(5));
}

#[test]
fn the_model_is_asked_for_a_summary_of_the_conversation_as_text_and_without_tools() {
    let bench = bench();
    bench.upstream.script(vec![answer("THE SUMMARY")]);
    let image = json!({"type": "message", "role": "user", "content": [
        {"type": "input_image", "image_url": "data:image/png;base64,iVBORw0KGgo="}]});
    let tools = json!([{"type": "function", "name": "f", "parameters": {}}]);
    let request = with(body(&[history(), vec![image]].concat()), &json!({ "tools": tools }));
    assert_eq!(bench.post(COMPACT, &request).status(), 200);
    let request = bench.upstream.request();
    assert_eq!(request.path, CHAT);
    let sent = request.json();
    for member in ["tools", "tool_choice", "parallel_tool_calls", "max_tokens"] {
        assert!(sent.get(member).is_none(), "{sent}");
    }
    let messages = sent["messages"].as_array().expect("a list");
    let roles: Vec<&str> = messages.iter().filter_map(|it| it["role"].as_str()).collect();
    assert_eq!(
        roles,
        ["system", "user", "assistant", "user", "assistant", "user", "assistant", "user"]
            [..roles.len()]
    );
    assert_eq!(roles.last(), Some(&"user"));
    let text = sent.to_string();
    for part in ["Be brief.", "first", "f: ", "RESULT", "answer", "last", "image was here"] {
        assert!(text.contains(part), "{part}: {text}");
    }
    assert!(!text.contains("iVBORw0KGgo"), "{text}");
}

#[test]
fn a_trigger_at_the_end_of_a_stream_leads_to_exactly_one_item() {
    let bench = bench();
    bench.upstream.script(stream(&["THE ", "SUMMARY"]));
    let request = with(body(&[history(), vec![trigger()]].concat()), &json!({"stream": true}));
    let found = bench.post(PATH, &request);
    assert_eq!(found.head.header("content-type"), Some("text/event-stream"));
    let events = found.events();
    let kinds: Vec<&str> = kinds(&events);
    assert_eq!(
        kinds,
        [
            "response.created",
            "response.in_progress",
            "response.output_item.added",
            "response.output_item.done",
            "response.completed"
        ]
    );
    for (number, event) in events.iter().enumerate() {
        assert_eq!(event["sequence_number"], number, "{event}");
    }
    assert_eq!(payload(&events[3]["item"]), expected_payload());
    assert_eq!(events[2]["item"], events[3]["item"]);
    let response = &events[4]["response"];
    assert_eq!(response["output"], json!([events[3]["item"]]));
    assert_eq!(
        (&response["status"], &response["usage"]["total_tokens"]),
        (&json!("completed"), &json!(7))
    );
    assert_eq!(response["id"], events[0]["response"]["id"]);
    assert!(!bench.upstream.request().json().to_string().contains("compaction_trigger"));
}

#[test]
fn a_compaction_takes_the_place_of_what_stood_before_it() {
    let bench = bench();
    let found = sent(
        &bench,
        &[&history()[..5], &[compacted("old"), compacted("NEW"), user("next")]].concat(),
    );
    let texts: Vec<&str> = found.iter().filter_map(|it| it["content"].as_str()).collect();
    assert_eq!(texts.len(), 4, "{found:?}");
    assert_eq!(texts[0], "Be brief.");
    assert!(texts[1].ends_with("NEW"), "{texts:?}");
    assert_eq!(texts[2..], ["kept", "next"]);
    // What the proxy wrote is what it reads.
    bench.upstream.script(vec![answer("THE SUMMARY")]);
    let item = bench.post(COMPACT, &body(&history())).json()["output"][0].clone();
    bench.upstream.request();
    let result = json!({"type": "function_call_output", "call_id": "b", "output": "R"});
    let found = sent(&bench, &[item, result]);
    assert!(found[0]["content"].as_str().is_some_and(|text| text.ends_with("THE SUMMARY")));
    assert_eq!(found[1], json!({"role": "user", "content": "last"}));
    assert_eq!(found[2]["tool_calls"][0]["function"], json!({"name": "g", "arguments": "{}"}));
    assert_eq!((&found[3]["role"], &found[3]["content"]), (&json!("tool"), &json!("R")));
    assert_eq!(found.len(), 4);
}

#[test]
fn a_compaction_of_another_server_is_left_out() {
    let bench = bench();
    let foreign = json!({"type": "compaction", "encrypted_content": "gAAAAABopaque"});
    let found = sent(&bench, &[user("one"), foreign.clone(), user("two")]);
    let text = json!(found).to_string();
    assert!(text.contains("one") && text.contains("two") && !text.contains("opaque"), "{text}");
    bench.upstream.script(vec![answer("THE SUMMARY")]);
    assert_eq!(bench.post(COMPACT, &body(&[user("one"), foreign])).status(), 200);
}

#[test]
fn wrong_requests_are_refused_in_the_words_of_ollama() {
    let bench = bench();
    let check = |path: &str, request: Value, text: &str| {
        let found = bench.post(path, &request);
        let error = json!({"message": text, "type": "invalid_request_error", "param": null,
            "code": "invalid_request_error"});
        assert_eq!((found.status(), found.json()), (400, json!({ "error": error })), "{request}");
    };
    check(COMPACT, json!({"input": "Hi"}), "model is required");
    check(COMPACT, json!({"model": "m"}), "input is required");
    check(COMPACT, json!({"model": "m", "input": null}), "input is required");
    check(COMPACT, json!({"model": "m", "input": []}), "compaction input is empty");
    let of_type = "input must be a string or array, got number";
    check(COMPACT, json!({"model": "m", "input": 5}), of_type);
    check(COMPACT, body(&[json!({"type": "compaction"})]), "invalid compaction item");
    let only = "compaction_trigger is only valid on POST /v1/responses";
    check(COMPACT, body(&[user("one"), trigger()]), only);
    let streamed = json!({"stream": true});
    check(PATH, body(&[user("one"), trigger()]), "compaction_trigger requires stream=true");
    let last = "compaction_trigger must be the final and only compaction trigger";
    check(PATH, with(body(&[trigger(), user("one")]), &streamed), last);
    check(PATH, with(body(&[user("one"), trigger(), trigger()]), &streamed), last);
    check(PATH, with(body(&[trigger()]), &streamed), "compaction input is empty");
    let missing = bench.proxy.ask(COMPACT, "");
    assert_eq!(
        (missing.status(), &missing.json()["error"]["code"]),
        (400, &json!("invalid_request_error"))
    );
    assert!(bench.upstream.is_idle());
}

#[test]
fn a_model_that_writes_no_summary_fails_the_compaction() {
    let bench = bench();
    bench.upstream.script(vec![answer(" ")]);
    let found = bench.post(COMPACT, &body(&[user("one")]));
    assert_eq!(
        (found.status(), &found.json()["error"]["code"]),
        (500, &json!("compaction_failed"))
    );
    bench.upstream.script(stream(&[" "]));
    let request = with(body(&[user("one"), trigger()]), &json!({"stream": true}));
    // By an event, if the stream has begun before.
    let found = bench.post(PATH, &request);
    assert!(found.body.contains(r#""code":"compaction_failed""#), "{}", found.body);
}

#[test]
fn a_conversation_that_exceeds_the_context_is_shortened_before_it_is_summarised() {
    const TOO_LONG: &str = r#"{"error":{"message":"This model's maximum context length is 100 tokens. However, your messages resulted in 200 tokens. Please reduce the length of the messages.","type":"invalid_request_error","param":"messages","code":"context_length_exceeded"}}"#;
    let bench = bench();
    let words = "word ".repeat(100);
    let input = [user(&words), json!({"role": "assistant", "content": "a"}), user("last")];
    bench.upstream.script(vec![status(400, &[], TOO_LONG)]).script(vec![answer("THE SUMMARY")]);
    let found = bench.post(COMPACT, &body(&input));
    assert_eq!(found.status(), 200, "{}", found.body);
    assert!(bench.upstream.request().json().to_string().contains(&words));
    assert!(!bench.upstream.request().json().to_string().contains(&words));
}

#[test]
fn an_upstream_that_has_the_routes_gets_the_requests_as_they_are() {
    let bench = Bench::new();
    let compacted = r#"{"id":"resp_1","object":"response.compaction","output":[]}"#;
    let request =
        r#"{ "model":"m", "input": [{"type":"compaction","encrypted_content":"x"}], "other": 1 }"#;
    bench.upstream.script(vec![upstream::json(compacted)]);
    bench.proxy.ask(COMPACT, request).assert_body(200, compacted);
    let sent = bench.upstream.request();
    assert_eq!((sent.path.as_str(), sent.body.as_str()), (COMPACT, request));
    let request = request.replace("compaction\"", "compaction_trigger\"");
    bench.upstream.script(vec![upstream::json("{}")]);
    bench.proxy.ask(PATH, &request).assert_body(200, "{}");
    let sent = bench.upstream.request();
    assert_eq!((sent.path.as_str(), sent.body.as_str()), (PATH, request.as_str()));
}

#[test]
fn an_upstream_that_has_only_responses_keeps_getting_them() {
    let bench = Bench::new();
    // Not known yet: translated, which says nothing of the other route.
    bench.upstream.script(vec![status(404, &[], NO_ROUTE)]).script(vec![answer("THE SUMMARY")]);
    assert_eq!(bench.post(COMPACT, &body(&[user("one")])).status(), 200);
    assert_eq!([bench.upstream.request().path, bench.upstream.request().path], [COMPACT, CHAT]);
    bench.upstream.script(vec![upstream::json("{}")]);
    bench.post(PATH, &body(&[user("one")])).assert_body(200, "{}");
    assert_eq!(bench.upstream.request().path, PATH);
    // Such an upstream could not read a compaction of the proxy's.
    bench.upstream.script(vec![status(404, &[], NO_ROUTE)]);
    bench.post(COMPACT, &body(&[user("one")])).assert_body(404, NO_ROUTE);
    assert_eq!(bench.upstream.request().path, COMPACT);
    assert!(bench.upstream.is_idle());
}
