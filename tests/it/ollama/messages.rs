//! The messages and tools of a chat request: how each member is translated, and which are refused.

use crate::support::*;

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
    // A text, because `json!` would sort the members.
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
    let answer = bench.proxy.ask(CHAT, body);
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

#[test]
fn what_is_empty_stays_here() {
    let messages = json!([
        {"role": "user", "content": "x", "images": [], "tool_calls": null, "thinking": null},
        {"role": "assistant", "content": "y", "tool_calls": [], "thinking": "Hm.", "images": null,
         "tool_name": ""},
        {"role": "user", "content": "z", "images": null, "tool_calls": []}]);
    let body = Bench::new().sent(
        CHAT,
        &json!({"messages": messages, "tools": [], "format": "", "options": null,
                            "keep_alive": null, "think": null}),
    );
    let expected = json!([{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"},
                          {"role": "user", "content": "z"}]);
    assert_eq!(body["messages"], expected);
    for name in ["tools", "format", "response_format", "options", "think", "reasoning_effort"] {
        assert!(body.get(name).is_none(), "{name}: {body}");
    }
}

#[test]
fn a_message_needs_no_content() {
    let picture = "iVBORw0KGgoAAAANSUhEUg==";
    let body =
        Bench::new().sent(CHAT, &json!({"messages": [{"role": "user", "images": [picture]}]}));
    assert_eq!(body["messages"][0]["content"][0]["type"], "image_url");
    let messages = json!([{"role": "user", "content": "x"},
        {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": {}}}]},
        {"role": "tool", "content": "1"}]);
    let body = Bench::new().sent(CHAT, &json!({"messages": messages}));
    assert_eq!(body["messages"][1]["tool_calls"][0]["function"]["name"], "f");
}

#[test]
fn unknown_roles_reach_the_upstream_in_lower_case() {
    let (upstream, proxy) = pair();
    upstream.script(vec![upstream::answer("ok")]);
    let body = json!({"model": "m", "stream": false, "messages": [
        {"role": "Narrator", "content": "a"}, {"role": "DEVELOPER", "content": "b"},
        {"role": "", "content": "c"}, {"content": "d"}]});
    let answer = proxy.post("/api/chat", &body);
    assert_eq!(answer.status(), 200, "{}", answer.body);
    let sent = upstream.request().json();
    let roles: Vec<_> = sent["messages"].as_array().expect("a list").iter().collect();
    let role = |at: usize| roles[at]["role"].as_str().expect("a role");
    assert_eq!([role(0), role(1), role(2), role(3)], ["narrator", "developer", "", ""]);
}

#[test]
fn a_history_of_a_thousand_messages_arrives_in_order() {
    let (upstream, proxy) = pair();
    upstream.script(vec![upstream::answer("ok")]);
    let messages: Vec<Value> = (0..1000)
        .map(|number| {
            let role = if number % 2 == 0 { "user" } else { "assistant" };
            json!({"role": role, "content": format!("message {number}")})
        })
        .collect();
    let body = json!({"model": "m", "stream": false, "messages": messages});
    let answer = proxy.post("/api/chat", &body);
    assert_eq!(answer.status(), 200, "{}", answer.body);
    assert_eq!(upstream.request().json()["messages"], Value::from(messages));
}
