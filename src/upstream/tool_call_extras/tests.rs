//! What is kept, what is found again, and the bounds.

use serde_json::json;

use super::*;
use crate::api::openai::chunk::Chunk;
use crate::api::openai::raw_object::RawObject;
use crate::api::openai::request::{FunctionCall, ToolCall};
use crate::translate::pass_through::{Endpoint, PassBody};

fn call(id: &str, arguments: &str, extra: Option<&str>) -> CompleteToolCall {
    let (id, name, extra) = (id.to_owned(), "f".to_owned(), extra.map(str::to_owned));
    let arguments = arguments.to_owned();
    CompleteToolCall { id, index: 0, name, arguments, substitute: None, extra_content: extra }
}

fn answer(calls: &[CompleteToolCall]) -> AnswerExtras {
    let mut extras = AnswerExtras::default();
    extras.calls = calls.to_vec();
    extras
}

/// An answer with these calls, this reasoning and a whole list of details.
fn thoughtful(calls: &[CompleteToolCall], reasoning: &str, details: &Value) -> AnswerExtras {
    let mut extras = answer(calls);
    extras.push_reasoning(reasoning);
    let text = json!({"choices": [{"delta": {"reasoning_details": details}}]}).to_string();
    let chunk = Chunk::parse(&text).expect("valid");
    extras.push_details(chunk.choices[0].delta.as_ref().expect("a delta"), true);
    extras
}

/// What goes up for an assistant's message with this call.
fn restored(kept: &ToolCallExtras, id: &str, arguments: &str) -> Value {
    let function = FunctionCall { name: "f".into(), arguments: arguments.into() };
    let call = ToolCall { id: id.into(), kind: "function", function, extra_content: None };
    let mut message = Message::text("assistant", "");
    message.tool_calls.push(call);
    let mut messages = [message];
    kept.restore(&mut messages);
    serde_json::to_value(&messages[0]).expect("JSON")
}

fn extra(kept: &ToolCallExtras, id: &str, arguments: &str) -> Option<String> {
    let message = restored(kept, id, arguments);
    message["tool_calls"][0].get("extra_content").map(Value::to_string)
}

#[test]
fn a_call_is_found_by_its_id_else_by_what_it_says() {
    let kept = ToolCallExtras::default();
    let calls = [call("a", r#"{"x":1,"y":2}"#, Some(r#"{"s":"1"}"#)), call("b", "{}", None)];
    kept.save("m", &answer(&calls));
    assert_eq!(extra(&kept, "a", "{}").as_deref(), Some(r#"{"s":"1"}"#));
    let other_order = r#"{ "y": 2, "x": 1 }"#;
    assert_eq!(extra(&kept, "made up", other_order).as_deref(), Some(r#"{"s":"1"}"#));
    assert_eq!(extra(&kept, "b", "{}"), None, "it never had any");
    assert_eq!(extra(&kept, "b", other_order), None, "it never had any");
    assert_eq!(extra(&kept, "c", r#"{"x":2}"#), None);
    kept.save("m", &answer(&[call("c", r#"{"x":1,"y":2}"#, Some(r#"{"s":"2"}"#))]));
    assert_eq!(extra(&kept, "", other_order).as_deref(), Some(r#"{"s":"2"}"#), "the last");
    assert_eq!(extra(&kept, "a", other_order).as_deref(), Some(r#"{"s":"1"}"#));
    kept.save("m", &answer(&[call("a", r#"{"x":3}"#, Some(r#"{"s":"3"}"#))]));
    assert_eq!(extra(&kept, "a", other_order).as_deref(), Some(r#"{"s":"1"}"#), "the same call");
    assert_eq!(extra(&kept, "a", "{}").as_deref(), Some(r#"{"s":"3"}"#), "the last");
}

#[test]
fn details_are_those_of_the_answer_and_text_needs_the_whole_call() {
    let kept = ToolCallExtras::default();
    let sealed = json!([{"type": "reasoning.encrypted", "data": "x", "index": 0}]);
    let open = json!([{"type": "reasoning.text", "text": "hm"}, sealed[0]]);
    kept.save(
        "m",
        &thoughtful(&[call("a", "{\"n\":1}", None), call("b", "{}", None)], "", &sealed),
    );
    kept.save("m", &thoughtful(&[call("c", "{\"n\":2}", None)], "hm", &open));
    let details = |id: &str, arguments: &str| {
        restored(&kept, id, arguments).get("reasoning_details").cloned()
    };
    assert_eq!(details("a", "{\"n\":5}"), Some(sealed.clone()));
    assert_eq!(details("b", "{}"), Some(sealed.clone()), "of each call");
    assert_eq!(details("z", "{\"n\":1}"), Some(sealed));
    assert_eq!(details("c", "{\"n\":2}"), Some(open));
    assert_eq!(details("c", "{\"n\":5}"), None, "another conversation may have the same id");
    assert_eq!(details("z", "{\"n\":2}"), None);
    assert!(kept.has_some_for("m") && !kept.has_some_for("n"));
}

#[test]
fn reasoning_is_found_by_the_whole_call_and_replaces_a_placeholder_only() {
    let kept = ToolCallExtras::default();
    kept.save("m", &thoughtful(&[call("a", "{}", None)], "I see", &json!([])));
    let find = |id: &str, arguments: &str| {
        let call = json!({"id": id, "function": {"name": "f", "arguments": arguments}}).to_string();
        kept.reasoning(&RawObject::parse(&call).expect("an object"))
    };
    for arguments in ["{}", " { } ", ""] {
        assert_eq!(find("a", arguments).as_deref(), Some("I see"));
    }
    assert_eq!((find("a", "{\"n\":1}"), find("b", "{}")), (None, None));
    assert_eq!(restored(&kept, "a", "{}").get("reasoning_content"), None, "not unasked");
    assert!(!kept.has_some_for("m"), "nor must it go back");
    for (sent, expected) in [(PLACEHOLDER_REASONING, "I see"), ("own", "own")] {
        let function = FunctionCall { name: "f".into(), arguments: "{}".into() };
        let call = ToolCall { id: "a".into(), kind: "function", function, extra_content: None };
        let mut message = Message::text("assistant", "");
        message.reasoning_content = Some(sent.into());
        message.tool_calls.push(call);
        let mut messages = [message];
        kept.restore(&mut messages);
        assert_eq!(messages[0].reasoning_content.as_deref(), Some(expected));
    }
}

#[test]
fn a_passed_body_changes_only_where_a_call_lacks_something() {
    let kept = ToolCallExtras::default();
    let sealed = json!([{"type": "reasoning.encrypted", "data": "x"}]);
    let calls = [call("a", "{}", Some("{\"s\":1}")), call("b", "{}", None)];
    let sent = |messages: &str| {
        let text = format!(r#"{{ "messages" : {messages}, "model":"m", "x" : 1.0}}"#);
        let mut body = PassBody::parse(&text, Endpoint::Chat).expect("valid");
        body.set_model("m");
        kept.restore_in_body(&mut body);
        let sent = String::from_utf8(body.to_bytes().into_owned()).expect("UTF-8");
        (sent != text).then_some(sent)
    };
    let lacking = r#"[{"role":"user", "content":"tool_calls"},{"tool_calls":[{"id":"a" ,"function":{"name":"f","arguments":"{}"}},{"id":"z"}], "role":"assistant"}]"#;
    assert_eq!(sent(lacking), None, "nothing is kept");
    kept.save("m", &thoughtful(&calls, "hm", &sealed));
    let expected = r#"{"messages":[{"role":"user", "content":"tool_calls"},{"tool_calls":[{"id":"a","function":{"name":"f","arguments":"{}"},"extra_content":{"s":1}},{"id":"z"}],"role":"assistant","reasoning_details":[{"data":"x","type":"reasoning.encrypted"}]}],"model":"m","x":1.0}"#;
    assert_eq!(sent(lacking).as_deref(), Some(expected));
    let own = r#"[{"role":"assistant","tool_calls":[{"id":"a","extra_content":{"own":1}}],"reasoning_details":[]}]"#;
    let unknown = r#"[{"role":"assistant","tool_calls":[{"id":"z","function":{"name":"f","arguments":"{}"}}]}]"#;
    let odd = r#"[{"role":"assistant","tool_calls":7},{"tool_calls":["a"]},"tool_calls",null]"#;
    for other in [own, unknown, odd, "null", "\"tool_calls\""] {
        assert_eq!(sent(other), None, "{other}");
    }
}

#[test]
fn number_and_size_are_bounded() {
    let kept = ToolCallExtras::default();
    let long = format!("\"{}\"", "x".repeat(MAX_EXTRA_BYTES));
    kept.save("m", &answer(&[call("long", "{}", Some(&long))]));
    assert_eq!(extra(&kept, "long", "{}"), None);
    let save = |number: usize, extra: &str| {
        kept.save(
            "m",
            &answer(&[call(&number.to_string(), &format!("{{\"n\":{number}}}"), Some(extra))]),
        );
    };
    for number in 0..=MAX_CALLS {
        save(number, "1");
        assert!(extra(&kept, "0", "{}").is_some(), "it is used all the time");
    }
    assert_eq!(lock(&kept.kept).calls.len(), MAX_CALLS);
    assert_eq!(extra(&kept, "1", "{}"), None);
    assert!(extra(&kept, "2", "{}").is_some());
    let large = format!("\"{}\"", "x".repeat(MAX_EXTRA_BYTES - 2));
    for number in 0..2 * MAX_BYTES / MAX_EXTRA_BYTES {
        save(number, &large);
        assert!(lock(&kept.kept).bytes <= MAX_BYTES);
    }
    let held = lock(&kept.kept).calls.iter().map(KeptCall::length).sum::<usize>();
    assert_eq!(lock(&kept.kept).bytes, held);
    assert!(held > MAX_BYTES - 2 * MAX_EXTRA_BYTES);
}
