//! The rows of ollama-api.md 5.6, 5.7 and 5.9, messages and tools, over real sockets.
//!
//! | row | held by |
//! | --- | --- |
//! | 5.6 each member of a message, and what becomes of it | here, `golden/chat/request-history` |
//! | 5.6 roles in any case, not validated | here, `bad_input.rs` `unknown_roles_reach_the_upstream_in_lower_case` |
//! | 5.6 a list as `content` | `golden/chat/request-content-list` |
//! | 5.6 wrong types of every member | `bad_input.rs` `a_wrong_type_is_refused_for_every_member` |
//! | 5.6 results by id, by name, in order | `rows_18_12.rs` `tool_results_find_their_calls_by_id_then_name_then_order` |
//! | 5.6 messages of create | `golden/create/*`, `src/translate/virtual_model/mod.rs` |
//! | 5.7 what is recognised, in its order; other keywords are forwarded | here |
//! | 5.7 the refusals | here, each depth in `src/ollama/schema.rs` |
//! | 5.7 no `tool_choice` | `rows_18_12.rs` `top_level_settings_of_the_ai_sdk_are_ignored` |
//! | 5.9 message, images, `tool_calls`, `tool_call_id`, `thinking` | here; every kind of image in `golden/chat/request-images` |
//! | 5.9 `tools` only if there are any | here |
//! | 5.9 `format`, `think`, options | `rows_5.rs` |
//! | 5.9 `logprobs`, `top_logprobs` | `golden/chat/request-logprobs*` |
//! | 5.9 `delta.content`, `delta.reasoning_content` | `golden/chat/stream-plain`, `golden/chat/stream-reasoning` |
//! | 5.9 `delta.tool_calls` by index, whole (each in a line of its own, as 7 prefers) | `golden/chat/stream-tools-*` |
//! | 5.9 arguments that cannot be parsed | `golden/chat/stream-tools-broken`, `golden/chat/answer-tools-broken` |
//! | 5.9 `finish_reason` | `rows_6.rs` |
//! | 5.9 chunks that add nothing | `golden/chat/stream-llamacpp-timings`: its first one |
//! | 5.9 usage and timings, cached tokens included | `golden/chat/answer-llamacpp-timings`, `src/translate/metrics.rs` |
//!
//! An upstream is not sent the `index` of a call nor the `name` of a result, which OpenAI does not
//! ask for: ids and order say the same (openai-wire.md 3.7).

use crate::support::bench::{Bench, CHAT, LLAMA};
use serde_json::{Value, json};

const PNG: &str = "iVBORw0KGgoAAAANSUhEUg==";

#[test]
fn each_member_of_a_message_goes_where_it_belongs() {
    let history = json!([
        {"role": "System", "content": "Be brief."},
        {"role": "USER", "content": "What?", "images": [PNG], "tool_name": "", "more": {"a": 1}},
        {"role": "user", "images": [PNG]},
        {"role": "user", "content": null, "images": null, "thinking": null, "tool_calls": null},
        {"role": "assistant", "content": "Look.", "thinking": "Hm.", "tool_calls": [
            {"id": "mine", "type": "odd", "function": {"index": 0, "name": "f", "arguments": {"a": "x", "b": [1]}}},
            {"function": {"name": "g", "arguments": {}}}]},
        {"role": "tool", "content": "of g", "tool_name": "g"},
        {"role": "tool", "content": "of f", "tool_call_id": "mine"}]);
    let image =
        json!({"type": "image_url", "image_url": {"url": format!("data:image/png;base64,{PNG}")}});
    let call = |id: &str, name: &str, arguments: &str| json!({"id": id, "type": "function", "function": {"name": name, "arguments": arguments}});
    for bench in [Bench::new(), Bench::over(LLAMA)] {
        let sent = bench.sent(CHAT, &json!({"messages": history}));
        let made = sent["messages"][4]["tool_calls"][1]["id"].as_str().expect("an id").to_owned();
        assert!(!made.is_empty() && made != "mine", "{made}");
        let expected = json!([
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": [{"type": "text", "text": "What?"}, image]},
            {"role": "user", "content": [image]},
            {"role": "user", "content": ""},
            {"role": "assistant", "content": "Look.", "tool_calls": [
                call("mine", "f", r#"{"a":"x","b":[1]}"#), call(&made, "g", "{}")]},
            {"role": "tool", "content": "of g", "tool_call_id": made},
            {"role": "tool", "content": "of f", "tool_call_id": "mine"}]);
        assert_eq!(sent["messages"], expected);
    }
}

#[test]
fn arguments_that_are_no_object_are_refused() {
    let bench = Bench::new();
    for arguments in [json!([1]), json!(5), json!(true), json!("nonsense"), json!("[1]")] {
        let call = json!({"function": {"name": "f", "arguments": arguments}});
        let messages = json!([{"role": "assistant", "tool_calls": [call]}]);
        let text = "Value looks like object, but can't find closing '}' symbol";
        bench.refused(CHAT, &json!({"messages": messages}), 400, text);
    }
}

/// A tool with these parameters.
fn tools(parameters: &str) -> Value {
    let parameters: Value = serde_json::from_str(parameters).expect("JSON");
    json!({"tools": [{"type": "function", "items": [1], "function": {"name": "f",
        "description": "Does it.", "parameters": parameters}}]})
}

#[test]
fn a_tool_is_forwarded_with_all_of_its_schema_in_its_order() {
    // Written by hand, so that nothing sorts it on the way.
    let schema = concat!(
        r##"{"type":"object","title":"T","required":["city"],"properties":{"##,
        r##""z":{"type":["string","null"],"description":"D","enum":["Bonn",5,null],"default":5},"##,
        r##""city":{"anyOf":[{"type":"string"},{"type":"integer"}],"format":"x"},"##,
        r##""a":{"type":"array","items":{"$ref":"#/$defs/n"}},"none":null,"##,
        r##""m":{"type":"object","properties":{"b":{},"a":null},"required":["b"]}},"##,
        r##""$defs":{"n":{"oneOf":[true]}},"additionalProperties":false}"##
    );
    let body = format!(
        r#"{{"model":"m","messages":[{{"role":"user"}}],"tools":[{{"type":"Function","items":1,"function":{{"parameters":{schema},"description":"Does it.","name":"f"}}}}]}}"#
    );
    let bench = Bench::new();
    bench.upstream.script(vec![crate::support::upstream::answer("ok")]);
    let answer = bench.proxy.client().post(CHAT, body).answer();
    assert_eq!(answer.status(), 200, "{}", answer.body);
    let sent = bench.upstream.request().body;
    let expected = format!(
        r#""tools":[{{"type":"function","function":{{"name":"f","description":"Does it.","parameters":{schema}}}}}]"#
    );
    assert!(sent.contains(&expected), "{sent}");
}

#[test]
fn tools_are_sent_only_if_there_are_any() {
    let bench = Bench::new();
    for none in [json!({}), json!({"tools": null}), json!({"tools": []})] {
        assert_eq!(bench.added(CHAT, &none), json!({}), "{none}");
    }
    let added = bench.added(CHAT, &tools("{}"));
    let parameters = json!({"type": "object", "properties": {}});
    let function = json!({"name": "f", "description": "Does it.", "parameters": parameters});
    assert_eq!(added, json!({"tools": [{"type": "function", "function": function}]}));
}

#[test]
fn a_schema_that_ollama_cannot_read_is_refused() {
    let bench = Bench::new();
    for (parameters, found, place, of) in [
        (r#"{"properties":{"a":{},"b":"string"}}"#, "string", ".properties", "api.ToolProperty"),
        (r#"{"properties":{"a":["string"]}}"#, "array", ".properties", "api.ToolProperty"),
        (r#"{"properties":{"a":true}}"#, "bool", ".properties", "api.ToolProperty"),
        (r#"{"required":"a"}"#, "string", ".required", "[]string"),
        (r#"{"required":true}"#, "bool", ".required", "[]string"),
        (r#"{"required":["a",5]}"#, "number", ".required", "string"),
        (r#""none""#, "string", "", "api.ToolFunctionParameters"),
    ] {
        let text = format!(
            "json: cannot unmarshal {found} into Go struct field \
             ChatRequest.tools.function.parameters{place} of type {of}"
        );
        bench.refused(CHAT, &tools(parameters), 400, &text);
    }
}
