//! Histories with calls whose arguments are no JSON object, as agents keep them of calls that were cut or
//! badly written: servers that parse them refuse the whole conversation, some with the status of a failure
//! of their own (llama.cpp, `common/chat.cpp`; vLLM, `entrypoints/chat_utils.py`; ggml-org/llama.cpp
//! issue 25510).

use super::refusing::{CHATS, TRANSLATED, accepted, ask, on, refusing, result, said};
use crate::support::*;

const COMPLETIONS: &str = CHATS[1];
const RESPONSES: &str = CHATS[3];

/// What llama.cpp says with status 500.
const LLAMA_CPP: &str = "Failed to parse tool call arguments as JSON: [json.exception.parse_error.101] parse \
                         error at line 1, column 5: syntax error while parsing object key - invalid string: \
                         missing closing quote; last read: '\"pa'";

/// Arguments that are no object, and what becomes of them.
fn malformed() -> [(Value, &'static str); 10] {
    [
        (json!("{\"pa"), r#"{"_raw":"{\"pa"}"#),
        (json!(""), "{}"),
        (json!("null"), "{}"),
        (json!(null), "{}"),
        (json!("5"), r#"{"_raw":"5"}"#),
        (json!("[1]"), r#"{"_raw":"[1]"}"#),
        (json!("ls -l"), r#"{"_raw":"ls -l"}"#),
        (json!("{\"a\":\"say \"hi\"\",}"), r#"{"a":"say \"hi\""}"#),
        (json!("{\"a\":{\"b\":1}"), r#"{"a":{"b":1}}"#),
        (json!("\"{\\\"a\\\":1}\""), r#"{"a":1}"#),
    ]
}

fn history(arguments: &Value) -> Value {
    let call = |id: &str, arguments: &Value| {
        json!({"role": "assistant", "content": null, "tool_calls": [{"id": id, "type": "function",
            "function": {"name": "f", "arguments": arguments}}]})
    };
    json!([
        said("user", "A"),
        call("a12345678", &json!("{\"x\": 1}")),
        result("a12345678"),
        call("b12345678", arguments),
        result("b12345678")
    ])
}

fn body(arguments: &Value) -> Value {
    on(COMPLETIONS, &history(arguments), &Value::Null, &json!({}))
}

/// The arguments of all calls of a request.
fn sent_arguments(body: &Value) -> Vec<Value> {
    let messages = body["messages"].as_array().into_iter().flatten();
    let calls = messages.flat_map(|it| it["tool_calls"].as_array().into_iter().flatten());
    let items = body["input"].as_array().into_iter().flatten();
    let items = items.filter(|it| it["type"] == "function_call");
    calls
        .map(|it| it["function"]["arguments"].clone())
        .chain(items.map(|it| it["arguments"].clone()))
        .collect()
}

fn is_malformed(body: &Value) -> bool {
    let is_object = |text: &str| serde_json::from_str::<Value>(text).is_ok_and(|it| it.is_object());
    sent_arguments(body).iter().any(|it| !it.as_str().is_some_and(is_object))
}

#[test]
fn arguments_are_mended_at_once_and_before_the_first_attempt_from_then_on() {
    for (arguments, mended) in malformed() {
        let pair = refusing(|body| is_malformed(body).then(|| (500, LLAMA_CPP.to_owned())));
        let body = body(&arguments);
        let (told, sent) = ask(&pair, COMPLETIONS, &body);
        assert_eq!((told.status(), sent.len()), (200, 2), "{arguments}: {}", told.body);
        assert_eq!(sent[0], body, "as the client wrote it");
        assert_eq!(sent_arguments(&sent[1]), ["{\"x\": 1}", mended], "{arguments}");
        let (told, again) = ask(&pair, COMPLETIONS, &body);
        assert_eq!((told.status(), &again[..]), (200, &sent[1..]), "{arguments}: learnt");
        assert!(pair.1.sleeps.is_empty(), "no delay");
    }
}

#[test]
fn each_server_tells_it_in_its_own_words_and_with_its_own_status() {
    for (code, text) in [
        (400, LLAMA_CPP),
        (
            500,
            "litellm.InternalServerError: InternalServerError: Custom_openaiException - Failed to parse \
               tool call arguments as JSON: parse error at line 1, column 5. Received Model Group=m",
        ),
        (400, "Expecting value: line 1 column 1 (char 0)"),
        (404, "Unterminated string starting at: line 1 column 2 (char 1)"),
        (500, "Internal server error: Expecting ',' delimiter: line 1 column 9 (char 8)"),
        (400, "can only concatenate str (not \"dict\") to str"),
        (500, "'str object' has no attribute 'items'"),
        (400, "Can only get item pairs from a mapping."),
        (422, "Invalid JSON in tool call arguments"),
        (400, "invalid tool call arguments"),
        (400, "Tool call arguments must be valid JSON"),
        (400, "messages.3.content.0.tool_use.input: Input should be a valid dictionary"),
        (502, "messages.3.content.0.tool_use.input: Input should be a valid dictionary"),
        (
            400,
            "Invalid value at 'contents[3].parts[0].function_call.args' \
               (type.googleapis.com/google.protobuf.Struct), \"x\"",
        ),
        (
            500,
            "json: cannot unmarshal string into Go struct field .arguments of type map[string]interface {}",
        ),
        (500, "EOF while parsing a string at line 1 column 4"),
        // The arguments are repeated, and hold words that mean something else elsewhere.
        (
            500,
            "Failed to parse tool call arguments as JSON: last read: '\"the api key of model m not found'",
        ),
        (400, "Tool call arguments must be valid JSON: {\"text\": \"your credit balance"),
    ] {
        let pair = refusing(move |body| is_malformed(body).then(|| (code, text.to_owned())));
        let (told, sent) = ask(&pair, COMPLETIONS, &body(&json!("{\"pa")));
        assert_eq!((told.status(), sent.len()), (200, 2), "{code} {text}: {}", told.body);
        assert_eq!(sent_arguments(&sent[1])[1], r#"{"_raw":"{\"pa"}"#, "{text}");
        assert!(pair.1.sleeps.is_empty(), "{code} {text}: no delay");
    }
}

#[test]
fn unheard_of_words_are_answered_in_the_plainest_form() {
    for (arguments, mended) in malformed() {
        let pair =
            refusing(|body| is_malformed(body).then(|| (400, "computer says no".to_owned())));
        let body = body(&arguments);
        for expected in [2, 1] {
            let (told, sent) = ask(&pair, COMPLETIONS, &body);
            assert_eq!((told.status(), sent.len()), (200, expected), "{arguments}: {}", told.body);
            assert_eq!(sent_arguments(&sent[expected - 1])[1], mended, "{arguments}");
        }
    }
}

/// What is sent to an upstream that says this once and then accepts anything.
fn after_one(arguments: &Value, (code, text): (u16, &str)) -> (Answer, Vec<Value>, usize) {
    let pair = pair();
    let error = json!({"error": {"code": code, "message": text, "type": "server_error"}});
    pair.0.script(vec![status(code, &[], &error.to_string())]);
    pair.0.script(vec![answer("ok")]);
    let (told, sent) = ask(&pair, COMPLETIONS, &body(arguments));
    (told, sent, pair.1.sleeps.try_iter().count())
}

#[test]
fn a_failure_for_another_reason_is_tried_again_as_it_was() {
    let good = json!("{\"y\":2}");
    let bad = json!("{\"pa");
    for (arguments, text) in
        [(&good, LLAMA_CPP), (&good, "computer says no"), (&bad, "slot unavailable")]
    {
        let (told, sent, sleeps) = after_one(arguments, (500, text));
        assert_eq!((told.status(), sent.len(), sleeps), (200, 2, 1), "{text}: {}", told.body);
        assert_eq!(sent[0], sent[1], "{text}");
    }
    let (told, sent, sleeps) = after_one(&bad, (500, LLAMA_CPP));
    assert_eq!((told.status(), sent.len(), sleeps), (200, 2, 0), "{}", told.body);
    assert_ne!(sent[0], sent[1]);
}

#[test]
fn a_refusal_that_stays_is_told_once_it_was_answered() {
    let pair = refusing(|_| Some((400, LLAMA_CPP.to_owned())));
    let (told, sent) = ask(&pair, COMPLETIONS, &body(&json!("{\"pa")));
    assert_eq!(told.status(), 400);
    assert!(told.body.contains("Failed to parse tool call arguments"), "{}", told.body);
    assert!(sent.len() <= 3, "{sent:?}");
}

#[test]
fn an_error_in_a_success_is_answered_too() {
    for code in [json!(500), json!(400), json!(null)] {
        let pair = pair();
        let error = json!({"error": {"code": code, "message": LLAMA_CPP}}).to_string();
        pair.0.judge(move |request| {
            let body = request.json();
            Some(if is_malformed(&body) { vec![status(200, &[], &error)] } else { accepted(&body) })
        });
        let (told, sent) = ask(&pair, COMPLETIONS, &body(&json!("{\"pa")));
        assert_eq!((told.status(), sent.len()), (200, 2), "{code}: {}", told.body);
        assert!(told.body.contains("ok"), "{}", told.body);
    }
    let pair = pair();
    let error = json!({"error": {"code": 500, "message": LLAMA_CPP}}).to_string();
    pair.0.judge(move |_| Some(vec![status(200, &[], &error)]));
    let (told, sent) = ask(&pair, COMPLETIONS, &body(&json!("{\"y\":2}")));
    assert_eq!((told.status(), sent.len()), (500, 1), "it is about something else");
}

#[test]
fn items_of_responses_are_mended_where_they_are_passed_on() {
    let (upstream, proxy) = pair();
    upstream.judge(|request| {
        let body = request.json();
        let error = json!({"error": {"code": 500, "message": LLAMA_CPP, "type": "server_error"}});
        let good = r#"{"id":"r","object":"response","status":"completed","output":[]}"#;
        let is_bad = is_malformed(&body);
        Some(vec![if is_bad { status(500, &[], &error.to_string()) } else { upstream::json(good) }])
    });
    for (arguments, mended) in malformed().into_iter().filter(|(it, _)| it.is_string()) {
        let body = on(RESPONSES, &history(&arguments), &Value::Null, &json!({}));
        let told = proxy.post(RESPONSES, &body);
        assert_eq!(told.status(), 200, "{arguments}: {}", told.body);
        let mut last = Value::Null;
        while !upstream.is_idle() {
            last = upstream.request().json();
        }
        assert_eq!(sent_arguments(&last), ["{\"x\": 1}", mended], "{arguments}");
    }
    assert!(proxy.sleeps.is_empty(), "no delay");
}

#[test]
fn translated_routes_send_objects_from_the_start() {
    for route in TRANSLATED {
        let pair = refusing(|body| is_malformed(body).then(|| (500, LLAMA_CPP.to_owned())));
        let mut body = on(route, &history(&json!("{\"y\":2}")), &Value::Null, &json!({}));
        match route {
            "/v1/messages" => body["messages"][3]["content"][0]["input"] = "{\"pa".into(),
            "/v1/responses" => body["input"][3]["arguments"] = "{\"pa".into(),
            _ => body["messages"][3]["tool_calls"][0]["function"]["arguments"] = json!({}),
        }
        let (told, sent) = ask(&pair, route, &body);
        assert_eq!((told.status(), sent.len()), (200, 1), "{route}: {}", told.body);
        assert_eq!(sent_arguments(&sent[0]).len(), 2, "{route}");
    }
}
