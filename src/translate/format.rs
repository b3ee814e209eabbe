//! Translates `format` to `response_format`.
//!
//! Picks the form that the upstream's profile names: plain JSON mode, a schema, or TGI's grammar.
//! Invariant: a schema is sent as the caller wrote it.

use serde_json::Value;
use serde_json::value::RawValue;

use crate::api::openai::request::{JsonSchema, ResponseFormat};
use crate::backends::profiles::Profile;
use crate::error::{Error, Result};

/// The schema that stands for JSON mode on an upstream that has none.
const ANY_OBJECT_SCHEMA: &str = r#"{"type":"object"}"#;

/// Translates `format`; if it is absent, `null` or `""`, the text is free.
///
/// # Errors
/// [`Error::InvalidOption`] for anything else but `"json"` and an object.
pub fn to_response_format<'a>(
    format: Option<&'a RawValue>,
    profile: &Profile,
) -> Result<Option<ResponseFormat<'a>>> {
    let Some(raw) = format else { return Ok(None) };
    match raw.get() {
        "null" | "\"\"" => Ok(None),
        "\"json\"" if profile.uses_tgi_grammar => {
            let object = serde_json::from_str(ANY_OBJECT_SCHEMA).ok();
            Ok(object.map(|value| ResponseFormat::Json { value }))
        }
        "\"json\"" if profile.has_json_object => Ok(Some(ResponseFormat::JsonObject)),
        "\"json\"" => Ok(any_object_format()),
        text if text.starts_with('{') && profile.uses_tgi_grammar => {
            Ok(Some(ResponseFormat::Json { value: raw }))
        }
        text if text.starts_with('{') => {
            let strict = serde_json::from_str::<Value>(text)
                .is_ok_and(|schema| schema["type"] == "object" && is_strict(&schema));
            Ok(Some(json_schema_format("schema", raw, strict.then_some(true))))
        }
        text => Err(Error::InvalidOption(format!(
            "invalid format: {}; expected \"json\" or a valid JSON Schema object",
            Value::from(text)
        ))),
    }
}

/// True if the upstream requires the word "json" in a message, as OpenAI does in JSON mode, and no
/// message has it.
pub fn needs_json_instruction<'a>(
    format: Option<&ResponseFormat<'_>>,
    profile: &Profile,
    mut texts: impl Iterator<Item = &'a str>,
) -> bool {
    matches!(format, Some(ResponseFormat::JsonObject))
        && profile.needs_json_instruction
        && !texts.any(|text| text.to_ascii_lowercase().contains("json"))
}

/// The system message that is then added.
pub const JSON_INSTRUCTION: &str = "Answer in JSON.";

/// A schema that allows any JSON object.
pub fn any_object_format() -> Option<ResponseFormat<'static>> {
    serde_json::from_str(ANY_OBJECT_SCHEMA)
        .ok()
        .map(|schema| json_schema_format("object", schema, None))
}

/// The instruction that replaces a schema for an upstream that takes none.
pub fn schema_to_instruction(schema: &str) -> String {
    format!("Answer with JSON that this JSON Schema allows, and with nothing else: {schema}")
}

fn json_schema_format<'a>(
    name: &'static str,
    schema: &'a RawValue,
    strict: Option<bool>,
) -> ResponseFormat<'a> {
    ResponseFormat::JsonSchema { json_schema: JsonSchema { name, schema, strict } }
}

/// True if a schema meets OpenAI's rules for `strict` (Structured Outputs guide): each object forbids
/// additional properties and requires all its own. Schemas are not rewritten to meet the rules, since
/// that would change the responses.
fn is_strict(schema: &Value) -> bool {
    match schema {
        Value::Object(members) => {
            let object = schema["type"] == "object" || members.contains_key("properties");
            (!object || is_closed(schema)) && members.values().all(is_strict)
        }
        Value::Array(items) => items.iter().all(is_strict),
        _ => true,
    }
}

fn is_closed(object: &Value) -> bool {
    let required = |name: &str| {
        object["required"].as_array().is_some_and(|list| list.iter().any(|item| item == name))
    };
    object["additionalProperties"] == Value::Bool(false)
        && object["properties"]
            .as_object()
            .is_some_and(|properties| properties.keys().all(|name| required(name)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backends::profiles::{self, GENERIC};

    fn raw(text: &str) -> Box<RawValue> {
        RawValue::from_string(text.to_owned()).expect("valid JSON")
    }

    /// A schema as OpenAI takes it; `more` stands behind it.
    fn json_schema(name: &str, schema: &str, more: &str) -> String {
        let named = format!(r#"{{"name":"{name}","schema":{schema}{more}}}"#);
        format!(r#"{{"type":"json_schema","json_schema":{named}}}"#)
    }

    fn check(profile: &Profile, format: &str, expected: &str) {
        let raw = raw(format);
        let written = match to_response_format(Some(&raw), profile) {
            Ok(format) => serde_json::to_string(&format).expect("serialisable"),
            Err(error) => format!("{:?} {}", error.status(), error.message()),
        };
        assert_eq!(written, expected, "{format}");
    }

    fn refused(format: &str) -> String {
        let expected = r#"expected "json" or a valid JSON Schema object"#;
        format!("Some(500) invalid format: {format}; {expected}")
    }

    #[test]
    fn formats_become_response_formats() {
        check(&GENERIC, "null", "null");
        check(&GENERIC, r#""""#, "null");
        check(&GENERIC, r#""json""#, r#"{"type":"json_object"}"#);
        let lm_studio = profiles::find_by_owner("organization_owner").expect("known");
        check(lm_studio, r#""json""#, &json_schema("object", r#"{"type":"object"}"#, ""));
        let open = r#"{"type":"object","properties":{"a":{"type":"string"}}}"#;
        check(&GENERIC, open, &json_schema("schema", open, ""));
        let closed = r#"{"type":"object","properties":{"a":{"type":"string"}},"required":["a"],"additionalProperties":false}"#;
        check(&GENERIC, closed, &json_schema("schema", closed, r#","strict":true"#));
    }

    #[test]
    fn tgi_gets_a_grammar_in_its_own_shape() {
        let tgi = profiles::find_by_name("tgi").expect("known");
        check(tgi, r#""json""#, r#"{"type":"json","value":{"type":"object"}}"#);
        check(tgi, r#"{"type":"string"}"#, r#"{"type":"json","value":{"type":"string"}}"#);
        check(tgi, r#""""#, "null");
        check(tgi, "5", &refused(r#""5""#));
    }

    #[test]
    fn only_an_object_can_be_strict_at_the_root() {
        for schema in ["{}", r#"{"type":"string"}"#, r#"{"anyOf":[]}"#] {
            check(&GENERIC, schema, &json_schema("schema", schema, ""));
        }
    }

    #[test]
    fn an_open_object_anywhere_makes_a_schema_unstrict() {
        let strict = |text: &str| is_strict(&serde_json::from_str(text).expect("valid JSON"));
        assert!(strict(r#"{"type":"string"}"#));
        assert!(!strict(
            r#"{"type":"object","properties":{"a":{"type":"object","properties":{}}},"required":["a"],"additionalProperties":false}"#
        ));
        assert!(!strict(
            r#"{"type":"object","properties":{"a":{},"b":{}},"required":["a"],"additionalProperties":false}"#
        ));
    }

    #[test]
    fn anything_else_is_refused_in_ollama_s_words() {
        check(&GENERIC, r#""xml""#, &refused(r#""\"xml\"""#));
        check(&GENERIC, "5", &refused(r#""5""#));
    }

    #[test]
    fn the_word_json_is_asked_for_only_where_it_is_wanted() {
        let openai = profiles::find_by_host("api.openai.com").expect("known");
        let format = Some(ResponseFormat::JsonObject);
        let lacks = |profile, text: &'static str| {
            needs_json_instruction(format.as_ref(), profile, [text].into_iter())
        };
        assert!(lacks(openai, "hello"));
        assert!(!lacks(openai, "give me Json"));
        assert!(!lacks(&GENERIC, "hello"));
        assert!(!needs_json_instruction(None, openai, ["hello"].into_iter()));
    }
}
