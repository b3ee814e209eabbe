//! Adds to the schemas of tools what strict servers miss in them.
//!
//! OpenAI refuses an object without `properties` and a list without `items`, and a `null` for `required`
//! or `enum`, which typed clients write (OpenAI API reference, function calling). Adds the empty schema,
//! which means the same as its absence. Invariant: a schema that lacks nothing stays the caller's text,
//! and what is added allows nothing less and nothing more.

use serde_json::value::RawValue;

use crate::api::openai::raw_object::{self, RawObject};

/// Levels of a schema that are read; what lies below stays as it is.
const MAX_DEPTH: usize = 32;

/// The schema with what it lacks; `None` if it lacks nothing.
pub(super) fn complete(schema: &RawValue) -> Option<Box<RawValue>> {
    RawValue::from_string(complete_schema(schema.get(), MAX_DEPTH)?).ok()
}

fn complete_schema(text: &str, depth: usize) -> Option<String> {
    let mut schema = RawObject::parse(text).filter(|_| depth > 0)?;
    let mut is_changed =
        schema.change_values(&mut |keyword, value| complete_below(keyword, value, depth - 1));
    for keyword in ["required", "enum"] {
        if schema.get(keyword) == Some("null") {
            is_changed |= schema.remove(keyword);
        }
    }
    let kind = schema.get("type").unwrap_or_default().to_owned();
    for (name, keyword) in [("\"object\"", "properties"), ("\"array\"", "items")] {
        if kind.contains(name) && !schema.has_value(keyword) {
            schema.set(keyword, "{}");
            is_changed = true;
        }
    }
    is_changed.then(|| schema.to_json())
}

/// The value of a keyword with what the schemas in it lack; `None` if they lack nothing.
fn complete_below(keyword: &str, value: &str, depth: usize) -> Option<String> {
    match keyword {
        "items" | "prefixItems" | "anyOf" | "oneOf" | "allOf" if value.starts_with('[') => {
            let mut items: Vec<String> =
                raw_object::parse_items(value)?.into_iter().map(str::to_owned).collect();
            let complete = |item: &mut String| match complete_schema(item, depth) {
                Some(completed) => {
                    *item = completed;
                    true
                }
                None => false,
            };
            let is_changed = items.iter_mut().map(complete).fold(false, |a, b| a | b);
            is_changed.then(|| raw_object::join_items(&items))
        }
        "items" | "additionalProperties" | "not" => complete_schema(value, depth),
        "properties" | "patternProperties" | "$defs" | "definitions" => {
            let mut named = RawObject::parse(value)?;
            let is_changed = named.change_values(&mut |_, schema| complete_schema(schema, depth));
            is_changed.then(|| named.to_json())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(given: &str, expected: &str) {
        let raw: &RawValue = serde_json::from_str(given).expect("JSON");
        let completed = complete(raw);
        let found = completed.as_deref().map_or("as it is", RawValue::get);
        assert_eq!(found, expected, "{given}");
        if let Some(completed) = &completed {
            assert!(complete(completed).is_none(), "{completed} lacks nothing");
        }
    }

    #[test]
    fn objects_get_properties_and_lists_get_items() {
        check(r#"{"type":"object"}"#, r#"{"type":"object","properties":{}}"#);
        check(r#"{"type":["null","array"]}"#, r#"{"type":["null","array"],"items":{}}"#);
        check(
            r#"{"type":"object","properties":{"a":{"type":"array"},"b":{"type":"object","properties":null}}}"#,
            r#"{"type":"object","properties":{"a":{"type":"array","items":{}},"b":{"type":"object","properties":{}}}}"#,
        );
        check(r#"{"items":{"type":"array"}}"#, r#"{"items":{"type":"array","items":{}}}"#);
        check(
            r#"{"additionalProperties":{"type":"array"}}"#,
            r#"{"additionalProperties":{"type":"array","items":{}}}"#,
        );
        for keyword in ["anyOf", "oneOf", "allOf", "prefixItems", "items"] {
            check(
                &format!(r#"{{"{keyword}":[true,{{"type":"array"}},{{"type":"string"}}]}}"#),
                &format!(
                    r#"{{"{keyword}":[true,{{"type":"array","items":{{}}}},{{"type":"string"}}]}}"#
                ),
            );
        }
        for keyword in ["$defs", "definitions", "patternProperties"] {
            check(
                &format!(r#"{{"{keyword}":{{"x":{{"type":"object"}}}}}}"#),
                &format!(r#"{{"{keyword}":{{"x":{{"type":"object","properties":{{}}}}}}}}"#),
            );
        }
        check(r#"{"type":"string","enum":null,"required":null}"#, r#"{"type":"string"}"#);
    }

    #[test]
    fn a_schema_that_lacks_nothing_stays_the_caller_s_text() {
        for whole in [
            r#"{ "type" : "object", "properties" : {"a":{"type":"string","x":1.50}} }"#,
            r#"{"type":"array","items":{"type":["string","null"]}}"#,
            r##"{"$ref":"#/$defs/a","default":{"type":"object"},"examples":[{"type":"array"}]}"##,
            r#"{"const":{"type":"array"},"properties":{"type":{"type":"string"},"items":true}}"#,
            "true",
            "[]",
            "5",
        ] {
            check(whole, "as it is");
        }
        // A property may have the name of a keyword.
        check(
            r#"{"properties":{"items":{"type":"array"},"required":null}}"#,
            r#"{"properties":{"items":{"type":"array","items":{}},"required":null}}"#,
        );
    }

    #[test]
    fn deep_schemas_take_bounded_work() {
        let deep = |levels: usize, inner: &str| {
            format!("{}{inner}{}", r#"{"items":"#.repeat(levels), "}".repeat(levels))
        };
        check(&deep(5, r#"{"type":"array"}"#), &deep(5, r#"{"type":"array","items":{}}"#));
        check(&deep(20_000, r#"{"type":"array"}"#), "as it is");
    }
}
