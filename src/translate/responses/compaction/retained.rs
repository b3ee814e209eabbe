//! The messages that a compaction keeps word for word.
//!
//! They are written as messages of `/api/chat`, which Ollama reads back (Ollama
//! `openai/responses_compact.go`); what that form would lose, such as a namespace, a free-form tool or an
//! image, stays an item of `/v1/responses`, which has a `type`. Both forms are read.

use serde_json::{Value, json};

use crate::translate::tool_calls::compact_json;

/// The kind of an item; a role makes one without a type a message.
pub(super) fn kind(item: &Value) -> &str {
    match item["type"].as_str().unwrap_or_default() {
        "" if item["role"].is_string() => "message",
        kind => kind,
    }
}

pub(super) fn role(item: &Value) -> &str {
    item["role"].as_str().unwrap_or_default()
}

/// An item in the form in which it is kept.
pub(super) fn write(item: &str) -> String {
    let value: Value = serde_json::from_str(item).unwrap_or_default();
    let message = to_message(&value);
    message.map_or_else(|| compact_json(item), |message| message.to_string())
}

/// The message of an item; `None` if it would not be the same item when it is read back.
fn to_message(item: &Value) -> Option<Value> {
    match kind(item) {
        "message" => {
            let content = match &item["content"] {
                Value::String(text) => text.clone(),
                Value::Array(parts) => match parts.as_slice() {
                    [part] if part["type"] == "input_text" => part["text"].as_str()?.to_owned(),
                    _ => return None,
                },
                _ => return None,
            };
            Some(json!({"role": role(item), "content": content}))
        }
        "function_call" if item["namespace"].is_null() => {
            let (id, name) = (item["call_id"].as_str()?, item["name"].as_str()?);
            let arguments: Value = serde_json::from_str(item["arguments"].as_str()?).ok()?;
            let call = json!({"id": id, "function": {"name": name, "arguments": arguments}});
            let is_object = arguments.is_object();
            is_object.then(|| json!({"role": "assistant", "content": "", "tool_calls": [call]}))
        }
        _ => None,
    }
}

/// The items of what was kept.
pub(super) fn read(kept: &str) -> Vec<String> {
    let Ok(message) = serde_json::from_str::<Value>(kept) else { return Vec::new() };
    if !message["type"].is_null() || !message["role"].is_string() {
        return vec![kept.to_owned()];
    }
    let (role, content) = (&message["role"], &message["content"]);
    let has_content = content.as_str() != Some("") && !content.is_null();
    let mut items = Vec::new();
    if role == "tool" {
        items.push(json!({"type": "function_call_output", "call_id": message["tool_call_id"],
            "output": content}));
    } else if has_content {
        items.push(json!({"type": "message", "role": role, "content": content}));
    }
    for call in message["tool_calls"].as_array().into_iter().flatten() {
        let function = &call["function"];
        items.push(json!({"type": "function_call", "call_id": call["id"],
            "name": function["name"], "arguments": function["arguments"].to_string()}));
    }
    items.iter().map(Value::to_string).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(item: &Value, kept: &Value) {
        let written: Value = serde_json::from_str(&write(&item.to_string())).expect("JSON");
        assert_eq!(written, *kept);
    }

    fn check_both(item: &Value, kept: &Value) {
        check(item, kept);
        let items = read(&kept.to_string());
        let items: Vec<Value> =
            items.iter().map(|item| serde_json::from_str(item).expect("JSON")).collect();
        assert_eq!(items, std::slice::from_ref(item));
    }

    #[test]
    fn messages_and_calls_are_kept_in_the_form_of_ollama_and_come_back_whole() {
        check_both(
            &json!({"type": "message", "role": "user", "content": "a"}),
            &json!({"role": "user", "content": "a"}),
        );
        check_both(
            &json!({"type": "function_call", "call_id": "c", "name": "f",
                "arguments": "{\"p\":1}"}),
            &json!({"role": "assistant", "content": "", "tool_calls": [
                {"id": "c", "function": {"name": "f", "arguments": {"p": 1}}}]}),
        );
        check(
            &json!({"role": "user", "content": [{"type": "input_text", "text": "a"}]}),
            &json!({"role": "user", "content": "a"}),
        );
    }

    #[test]
    fn what_that_form_would_lose_stays_as_it_is() {
        for item in [
            json!({"type": "message", "role": "user", "content": [
                {"type": "input_text", "text": "a"},
                {"type": "input_image", "image_url": "data:image/png;base64,AAAA"}]}),
            json!({"type": "function_call", "call_id": "c", "namespace": "n", "name": "f",
                "arguments": "{}"}),
            json!({"type": "function_call", "call_id": "c", "name": "f", "arguments": "{"}),
            json!({"type": "custom_tool_call", "call_id": "c", "name": "f", "input": "x"}),
        ] {
            check_both(&item, &item);
        }
    }

    #[test]
    fn a_message_of_ollama_may_hold_several_items() {
        let kept = json!({"role": "assistant", "content": "text", "thinking": "t", "tool_calls": [
            {"id": "c", "function": {"index": 0, "name": "f", "arguments": {}}}]});
        let output = json!({"role": "tool", "content": "o", "tool_call_id": "c"});
        let items = [read(&kept.to_string()), read(&output.to_string())].concat();
        let items: Vec<Value> =
            items.iter().map(|item| serde_json::from_str(item).expect("JSON")).collect();
        assert_eq!(
            items,
            [
                json!({"type": "message", "role": "assistant", "content": "text"}),
                json!({"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"}),
                json!({"type": "function_call_output", "call_id": "c", "output": "o"}),
            ]
        );
        for odd in ["5", "null", "{}", "{\"role\":5}", "[]"] {
            read(odd);
        }
    }
}
