//! The parameters of a tool, checked as Ollama checks them and kept as the client wrote them.
//!
//! Ollama reads a part of JSON Schema into types of its own (`ToolFunctionParameters` in
//! `api/types.go`) and refuses what does not fit: parameters and properties that are not objects, and
//! `required` that is not a list of strings, at any depth. All other keywords may hold anything. The
//! text is never changed, because an upstream may support more of JSON Schema than Ollama.

use serde::de::{Deserialize, Deserializer, Error};
use serde_json::Value;
use serde_json::value::RawValue;

use super::decode::{go_type_of, prefix_field};

/// A schema that Ollama accepts.
#[derive(Clone, Copy, Debug)]
pub struct Schema<'a>(pub &'a RawValue);

impl<'de> Deserialize<'de> for Schema<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let raw = <&RawValue>::deserialize(deserializer)?;
        // A schema that is nested too deep to parse is left to the upstream.
        if let Ok(schema) = serde_json::from_str::<Value>(raw.get()) {
            check_schema(&schema, "api.ToolFunctionParameters")?;
        }
        Ok(Self(raw))
    }
}

/// Refuses a schema that is not what Go calls `name`.
fn check_schema<E: Error>(schema: &Value, name: &str) -> Result<(), E> {
    let Value::Object(members) = schema else { return Err(type_error(schema, name)) };
    match members.get("required") {
        None | Some(Value::Null) => {}
        Some(Value::Array(items)) => {
            if let Some(item) = items.iter().find(|item| !item.is_string() && !item.is_null()) {
                return Err(prefix_field("required", type_error(item, "string")));
            }
        }
        Some(other) => return Err(prefix_field("required", type_error(other, "[]string"))),
    }
    match members.get("properties") {
        None | Some(Value::Null) => Ok(()),
        Some(Value::Object(properties)) => properties
            .values()
            .filter(|property| !property.is_null())
            .try_for_each(|property| check_schema(property, "api.ToolProperty"))
            .map_err(|error| prefix_field("properties", error)),
        Some(other) => Err(prefix_field("properties", type_error(other, "api.ToolPropertiesMap"))),
    }
}

/// The error of a wrong type, in the form of serde's own.
fn type_error<E: Error>(found: &Value, expected: &str) -> E {
    let found = go_type_of(&found.to_string());
    E::custom(format_args!("invalid type: {found}, expected {expected}"))
}

#[cfg(test)]
mod tests {
    use crate::api::ollama::decode;
    use crate::api::ollama::request::Tool;

    /// The parameters as they were kept, or what is wrong with them.
    fn check(parameters: &str, expected: &str) {
        let tool = format!(r#"{{"function":{{"name":"f","parameters":{parameters}}}}}"#);
        let found = match decode::parse::<Tool<'_>>(&tool, "Tool") {
            Ok(tool) => {
                let schema = tool.function.and_then(|function| function.parameters);
                schema.map_or("nothing", |schema| schema.0.get()).to_owned()
            }
            Err(error) => error.message(),
        };
        assert_eq!(found, expected, "{parameters}");
    }

    #[test]
    fn what_ollama_takes_is_kept_as_it_was_written() {
        for taken in [
            "{}",
            r#"{"type":"object","required":null,"properties":null}"#,
            r#"{ "properties": {"b":{"type":["string","null"],"default": 1},"a":null}, "x": [5] }"#,
            r#"{"required":["a",null],"properties":{"a":{"properties":{"b":{"required":[]}}}}}"#,
            r#"{"properties":{"a":{"items":true,"enum":[1,"x",null],"oneOf":5,"$ref":{}}}}"#,
        ] {
            check(taken, taken);
        }
        check("null", "nothing");
    }

    #[test]
    fn what_ollama_refuses_is_named_with_its_place() {
        let wrong = |found: &str, place: &str, expected: &str| {
            format!(
                "json: cannot unmarshal {found} into Go struct field \
                 Tool.function.parameters{place} of type {expected}"
            )
        };
        let parameters = "api.ToolFunctionParameters";
        check("[]", &wrong("array", "", parameters));
        check("\"x\"", &wrong("string", "", parameters));
        check("true", &wrong("bool", "", parameters));
        let property = "api.ToolProperty";
        check(r#"{"properties":{"a":"string"}}"#, &wrong("string", ".properties", property));
        check(r#"{"properties":{"b":{},"a":[5]}}"#, &wrong("array", ".properties", property));
        check(
            r#"{"properties":{"a":{"properties":{"b":true}}}}"#,
            &wrong("bool", ".properties.properties", property),
        );
        check(r#"{"properties":[]}"#, &wrong("array", ".properties", "api.ToolPropertiesMap"));
        check(r#"{"required":"a"}"#, &wrong("string", ".required", "[]string"));
        check(r#"{"required":["a",5]}"#, &wrong("number", ".required", "string"));
        check(
            r#"{"properties":{"a":{"required":true}}}"#,
            &wrong("bool", ".properties.required", "[]string"),
        );
    }
}
