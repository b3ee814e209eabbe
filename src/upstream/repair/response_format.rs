//! Repairs of `response_format`.
//!
//! An upstream that does not take a format is asked in another way. Invariant: the response is still to
//! be JSON, and the schema, where there is one, is still told.

use super::document::{Document, RESPONSE_FORMAT};
use super::turn::Turn;
use crate::api::openai::raw_object::RawObject;
use crate::translate::format;

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FormatKind {
    Object,
    Schema { is_strict: bool },
    Other,
}

/// The format that a request asks for.
pub(super) fn find(document: &Document<'_>) -> Option<FormatKind> {
    let format = RawObject::parse(document.get(RESPONSE_FORMAT)?)?;
    match format.get_string("type")?.as_str() {
        "text" => None,
        "json_object" => Some(FormatKind::Object),
        "json_schema" => {
            let is_strict = format.get("json_schema").and_then(RawObject::parse);
            let is_strict = is_strict.is_some_and(|schema| schema.has_value("strict"));
            Some(FormatKind::Schema { is_strict })
        }
        _ => Some(FormatKind::Other),
    }
}

/// The schema of the format.
pub(super) fn schema(document: &Document<'_>) -> Option<String> {
    let format = RawObject::parse(document.get(RESPONSE_FORMAT)?)?;
    let named = RawObject::parse(format.get("json_schema")?)?;
    named.get("schema").map(str::to_owned)
}

/// Changes the named schema of the format.
fn change_schema(document: &mut Document<'_>, change: fn(&mut RawObject<'_>) -> bool) -> bool {
    let changed = || {
        let mut format = RawObject::parse(document.get(RESPONSE_FORMAT)?)?;
        let mut named = RawObject::parse(format.get("json_schema")?)?;
        let text = change(&mut named).then(|| named.to_json())?;
        format.set("json_schema", text);
        Some(format.to_json())
    };
    let Some(text) = changed() else { return false };
    document.set(RESPONSE_FORMAT, text);
    true
}

pub(super) fn drop_strict(document: &mut Document<'_>) -> bool {
    change_schema(document, |schema| schema.remove("strict"))
}

/// Replaces `json_object` by a schema that allows any object.
pub(super) fn object_to_schema(document: &mut Document<'_>) -> bool {
    let is_object = find(document) == Some(FormatKind::Object);
    let schema = format::any_object_format().filter(|_| is_object);
    let Some(text) = schema.and_then(|schema| serde_json::to_string(&schema).ok()) else {
        return false;
    };
    document.set(RESPONSE_FORMAT, text);
    true
}

/// Tells the schema in the prompt, and asks for any JSON object.
pub(super) fn schema_to_prompt(document: &mut Document<'_>) -> bool {
    let Some(schema) = schema(document) else { return false };
    instruct(document, &format::schema_to_instruction(&schema));
    document.set(RESPONSE_FORMAT, r#"{"type":"json_object"}"#);
    true
}

/// Tells the format in the prompt only. A fence that the model then puts around it goes.
pub(super) fn format_to_prompt(document: &mut Document<'_>) -> bool {
    if find(document).is_none() {
        return false;
    }
    let words = schema(document).map(|schema| format::schema_to_instruction(&schema));
    instruct(document, words.as_deref().unwrap_or(format::JSON_INSTRUCTION));
    document.remove(RESPONSE_FORMAT);
    document.effects.strips_fence = document.route.rewrites_response;
    true
}

/// Adds an instruction to the system message, which becomes one if there is none.
fn instruct(document: &mut Document<'_>, words: &str) {
    let turns = document.turns();
    match turns.first_mut().filter(|turn| turn.is_system()) {
        Some(system) => system.append_text(words),
        None => turns.insert(0, Turn::text("system", words)),
    }
    document.mark_changed();
}

/// Adds the word "JSON", which some servers look for.
pub(super) fn mention_json(document: &mut Document<'_>) -> bool {
    let turns = document.turns();
    if turns.iter().any(|turn| turn.as_text().contains("JSON")) {
        return false;
    }
    turns.insert(0, Turn::text("system", format::JSON_INSTRUCTION));
    document.mark_changed();
    true
}

/// Wraps a schema whose root is no object; the response is unwrapped.
pub(super) fn wrap_root(document: &mut Document<'_>) -> bool {
    let is_wrapped = document.effects.unwraps_value || !document.route.rewrites_response;
    let root = schema(document);
    let root = root.as_deref().and_then(RawObject::parse).filter(|_| !is_wrapped);
    let is_object = |root: &RawObject<'_>| {
        root.get("type").is_none_or(|kind| kind == "\"object\"") && !root.has_value("anyOf")
    };
    if root.is_none_or(|root| is_object(&root)) {
        return false;
    }
    let wrapped = change_schema(document, |named| {
        let Some(mut schema) = named.get("schema").and_then(RawObject::parse) else { return false };
        let mut root = RawObject::default();
        root.set("type", "\"object\"");
        let definitions = ["$defs", "definitions"].map(|name| {
            let value = schema.get(name).map(str::to_owned);
            schema.remove(name);
            (name, value)
        });
        let mut properties = RawObject::default();
        properties.set("value", schema.to_json());
        root.set("properties", properties.to_json());
        root.set("required", r#"["value"]"#);
        root.set("additionalProperties", "false");
        for (name, value) in definitions {
            value.into_iter().for_each(|value| root.set(name, value));
        }
        let root = root.to_json();
        named.set("schema", root);
        true
    });
    document.effects.unwraps_value |= wrapped;
    wrapped
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::upstream::repair::document::RouteTraits;

    const ROUTE: RouteTraits = RouteTraits {
        is_chat: true,
        rewrites_response: true,
        may_truncate: false,
        is_passed: false,
        can_collect: true,
    };

    fn repaired(
        repair: fn(&mut Document<'_>) -> bool,
        body: &Value,
    ) -> (Option<Value>, crate::api::openai::request::ResponseEffects) {
        let text = body.to_string();
        let mut document = Document::parse(&text, ROUTE).expect("an object");
        let changed = repair(&mut document);
        let sent = serde_json::from_str(&document.to_json()).expect("JSON");
        assert_eq!(changed, sent != *body, "{sent}");
        assert!(!repair(&mut document), "once is enough");
        (changed.then_some(sent), document.effects)
    }

    fn body(format: &Value) -> Value {
        json!({"model": "m", "messages": [{"role": "user", "content": "Hi"}], "response_format": format})
    }

    fn schema(schema: &Value, strict: bool) -> Value {
        let mut named = json!({"name": "n", "schema": schema});
        if strict {
            named["strict"] = true.into();
        }
        json!({"type": "json_schema", "json_schema": named})
    }

    #[test]
    fn a_format_is_asked_for_in_another_way() {
        let pet = json!({"type": "object", "properties": {"a": {"type": "string"}}});
        let (sent, _) = repaired(drop_strict, &body(&schema(&pet, true)));
        assert_eq!(sent, Some(body(&schema(&pet, false))));
        let (sent, _) = repaired(schema_to_prompt, &body(&schema(&pet, false)));
        let sent = sent.expect("changed");
        assert_eq!(sent["response_format"], json!({"type": "json_object"}));
        assert!(
            sent["messages"][0]["content"].as_str().expect("a text").contains(&pet.to_string())
        );
        let (sent, effects) = repaired(format_to_prompt, &body(&schema(&pet, false)));
        let sent = sent.expect("changed");
        assert!(sent.get("response_format").is_none() && effects.strips_fence);
        assert_eq!(sent["messages"][0]["role"], "system");
        let object = json!({"type": "json_object"});
        let (sent, _) = repaired(object_to_schema, &body(&object));
        assert_eq!(sent.expect("changed")["response_format"]["type"], "json_schema");
        let (sent, _) = repaired(mention_json, &body(&object));
        assert_eq!(sent.expect("changed")["messages"][0]["content"], "Answer in JSON.");
        assert_eq!(repaired(drop_strict, &body(&object)).0, None);
        assert_eq!(repaired(object_to_schema, &body(&json!({"type": "text"}))).0, None);
    }

    #[test]
    fn a_root_that_is_no_object_is_wrapped_with_its_definitions_beside_it() {
        let list = json!({"type": "array", "items": {"$ref": "#/$defs/P"}, "$defs": {"P": {}}});
        let (sent, effects) = repaired(wrap_root, &body(&schema(&list, false)));
        let sent = &sent.expect("changed")["response_format"]["json_schema"]["schema"];
        assert_eq!(
            *sent,
            json!({"type": "object", "properties": {"value": {"type": "array",
                "items": {"$ref": "#/$defs/P"}}}, "required": ["value"], "additionalProperties": false,
                "$defs": {"P": {}}})
        );
        assert!(effects.unwraps_value);
    }

    #[test]
    fn an_object_is_not_wrapped_but_a_choice_of_objects_is() {
        let object = json!({"type": "object", "properties": {"a": {"type": "string"}}});
        assert_eq!(repaired(wrap_root, &body(&schema(&object, false))).0, None);
        assert_eq!(repaired(wrap_root, &body(&schema(&json!({"properties": {}}), false))).0, None);
        let choice = json!({"anyOf": [object, {"type": "object"}]});
        let (sent, effects) = repaired(wrap_root, &body(&schema(&choice, true)));
        let sent = &sent.expect("changed")["response_format"]["json_schema"];
        assert_eq!(sent["schema"]["properties"]["value"], choice);
        assert!(sent["strict"] == true && effects.unwraps_value);
    }
}
