//! Sends tools that take free text as functions with the one text `input`.
//!
//! Invariant: only a request whose response gets the form back is changed.

use serde_json::json;

use super::document::{Document, TOOLS};
use super::turn::Turn;
use crate::api::openai::raw_object;
use crate::api::openai::raw_object::RawObject;
use crate::translate::responses::tools::{CUSTOM_PARAMETERS, describe_custom};

/// The type, and the member that holds what is of this type.
const CUSTOM: &str = "custom";
const FUNCTION: &str = "function";

/// Makes functions of the tools, in all places; returns whether there were some.
pub(super) fn use_functions(document: &mut Document<'_>) -> bool {
    if !document.route.is_passed || !document.route.is_chat {
        return false;
    }
    let mut names = Vec::new();
    let tools = document.get(TOOLS).and_then(raw_object::parse_items).unwrap_or_default();
    let tools: Vec<String> = tools
        .into_iter()
        .map(|tool| to_function(tool, &mut names).unwrap_or_else(|| tool.to_owned()))
        .collect();
    let has_calls = document.turns().iter_mut().map(rename_calls).filter(|it| *it).count() > 0;
    if has_calls {
        document.mark_changed();
    }
    if names.is_empty() {
        return has_calls;
    }
    document.set(TOOLS, raw_object::join_items(&tools));
    let choice = document.get("tool_choice").and_then(RawObject::parse);
    if let Some(choice) = choice.and_then(|choice| rename(choice, |_| None)) {
        document.set("tool_choice", choice);
    }
    document.effects.custom_tools.extend(names);
    true
}

/// The function that stands for a tool; `None` for all others.
fn to_function(tool: &str, names: &mut Vec<String>) -> Option<String> {
    rename(RawObject::parse(tool)?, |custom| {
        let format = custom.get("format").and_then(|format| serde_json::from_str(format).ok());
        let description = custom.get_string("description").unwrap_or_default();
        let description = describe_custom(&description, format);
        names.extend(custom.get_string("name"));
        Some(vec![
            ("description", raw_object::quote_json(&description)),
            ("parameters", CUSTOM_PARAMETERS.to_owned()),
        ])
    })
}

/// Renames the calls of such tools in a message; returns whether there were some.
fn rename_calls(turn: &mut Turn<'_>) -> bool {
    let mut changed = false;
    let calls = turn.calls().into_iter().map(|call| {
        let before = call.to_json();
        let arguments = |custom: &RawObject<'_>| {
            let input = custom.get_string("input").unwrap_or_default();
            let arguments = json!({ "input": input }).to_string();
            Some(vec![("arguments", raw_object::quote_json(&arguments))])
        };
        match rename(call, arguments) {
            Some(renamed) => {
                changed = true;
                renamed
            }
            None => before,
        }
    });
    let calls: Vec<String> = calls.collect();
    if changed {
        turn.set_calls(&calls);
    }
    changed
}

/// An object of the type `custom` as one of the type `function`, which keeps the name and gets other members.
fn rename(
    mut object: RawObject<'_>,
    members: impl FnOnce(&RawObject<'_>) -> Option<Vec<(&'static str, String)>>,
) -> Option<String> {
    let custom = RawObject::parse(object.get(CUSTOM)?)?;
    let mut function = RawObject::default();
    function.set("name", custom.get("name")?.to_owned());
    for (name, value) in members(&custom).unwrap_or_default() {
        function.set(name, value);
    }
    let function = function.to_json();
    object.remove(CUSTOM);
    object.set("type", raw_object::quote_json(FUNCTION));
    object.set(FUNCTION, function);
    Some(object.to_json())
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::upstream::repair::document::RouteTraits;

    #[test]
    fn tools_choice_and_history_become_functions() {
        let grammar = json!({"type": "grammar",
            "grammar": {"syntax": "lark", "definition": "start: X"}});
        let body = json!({"model": "m",
            "tools": [{"type": "custom", "custom": {"name": "patch", "description": "Edits.",
                "format": grammar}}, {"type": "function", "function": {"name": "f"}}],
            "tool_choice": {"type": "custom", "custom": {"name": "patch"}},
            "messages": [{"role": "assistant", "content": null, "tool_calls": [
                {"id": "a", "type": "custom", "custom": {"name": "patch", "input": "a\"b"}}]},
                {"role": "tool", "tool_call_id": "a", "content": "done"}]});
        let text = body.to_string();
        let route = RouteTraits { is_chat: true, is_passed: true, ..RouteTraits::default() };
        let mut document = Document::parse(&text, route).expect("an object");
        assert!(use_functions(&mut document) && document.is_changed());
        assert_eq!(document.effects.custom_tools, ["patch"]);
        let sent: Value = serde_json::from_str(&document.to_json()).expect("JSON");
        let tool = &sent["tools"][0];
        assert_eq!(
            (&tool["type"], &tool["function"]["name"]),
            (&json!("function"), &json!("patch"))
        );
        let description = tool["function"]["description"].as_str().expect("a text");
        assert!(description.starts_with("Edits.\n") && description.ends_with("(lark):\nstart: X"));
        assert_eq!(tool["function"]["parameters"]["required"], json!(["input"]));
        assert_eq!(sent["tools"][1], body["tools"][1]);
        let choice = json!({"type": "function", "function": {"name": "patch"}});
        assert_eq!(sent["tool_choice"], choice);
        let call = &sent["messages"][0]["tool_calls"][0];
        assert_eq!(call["function"]["arguments"], "{\"input\":\"a\\\"b\"}");
        assert_eq!((&call["id"], &call["type"]), (&json!("a"), &json!("function")));
        assert!(!use_functions(&mut document), "once is enough");
        let mut document =
            Document::parse(&text, RouteTraits { is_chat: true, ..RouteTraits::default() })
                .expect("an object");
        assert!(!use_functions(&mut document), "nothing could give the form back");
    }
}
