//! Translates tool definitions to OpenAI's form.
//!
//! The schema of the parameters stays the caller's text, with keywords that Ollama does not know.
//! Changes only what strict upstreams refuse: `type` is always `function`, absent parameters become an
//! object without properties, and `translate::schema` adds what a schema lacks.

use std::borrow::Cow;

use serde_json::value::RawValue;

use super::schema;
use crate::api::ollama::request::Tool as OllamaTool;
use crate::api::openai::request::{FunctionDefinition, Tool, ToolChoice, ToolName};

/// The parameters of a function that has none.
const EMPTY_PARAMETERS: &str = r#"{"type":"object","properties":{}}"#;

/// The tools for the upstream; a definition without a name is left out.
pub fn to_openai<'a>(tools: &'a [OllamaTool<'a>]) -> Vec<Tool<'a>> {
    let definition = |tool: &'a OllamaTool<'a>| {
        let function = tool.function.as_ref()?;
        let name = function.name.as_deref().filter(|name| !name.is_empty())?;
        let description = function.description.as_deref().unwrap_or_default();
        let given = function.parameters.map(|schema| schema.0).filter(|raw| !is_empty_schema(raw));
        let given = given.map(|raw| schema::complete(raw).map_or(Cow::Borrowed(raw), Cow::Owned));
        let empty = || serde_json::from_str(EMPTY_PARAMETERS).ok().map(Cow::Borrowed);
        let parameters = given.or_else(empty)?;
        let function = FunctionDefinition { name, description, parameters };
        Some(Tool { kind: "function", function, cache_control: tool.cache_control })
    };
    tools.iter().filter_map(definition).collect()
}

/// The choice of the function `name`; `None` if it is not among `tools`, which upstreams refuse.
pub(super) fn choose<'a>(tools: &[Tool<'a>], name: &str) -> Option<ToolChoice<'a>> {
    let name = tools.iter().map(|tool| tool.function.name).find(|known| *known == name)?;
    Some(ToolChoice::Function { kind: "function", function: ToolName { name } })
}

/// True for a schema without content, in one of the forms that typed clients send.
fn is_empty_schema(schema: &RawValue) -> bool {
    // A schema that is nested too deep to be parsed has content.
    let Ok(value) = serde_json::from_str::<serde_json::Value>(schema.get()) else { return false };
    let Some(members) = value.as_object() else { return true };
    members.is_empty() || members.get("properties").is_some_and(serde_json::Value::is_null)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(tools: &str, expected: &str) {
        let tools: Vec<OllamaTool<'_>> = serde_json::from_str(tools).expect("valid");
        let found = serde_json::to_string(&to_openai(&tools)).expect("serialisable");
        assert_eq!(found, expected);
    }

    #[test]
    fn schemas_are_passed_on_untouched() {
        check(
            r#"[{"type":"Function","function":{"name":"f","description":"d","parameters":{"type":"object","required":["b"],"properties":{"b":{"type":["string","null"],"default":1},"a":{"$ref":"x"}},"additionalProperties":false}}}]"#,
            r#"[{"type":"function","function":{"name":"f","description":"d","parameters":{"type":"object","required":["b"],"properties":{"b":{"type":["string","null"],"default":1},"a":{"$ref":"x"}},"additionalProperties":false}}}]"#,
        );
    }

    #[test]
    fn a_schema_nested_deeper_than_can_be_read_is_passed_on_too() {
        let deep = format!(r#"{{"default":{}1{}}}"#, "[".repeat(200), "]".repeat(200));
        let function = |parameters: &str| {
            format!(r#"{{"function":{{"name":"f","parameters":{parameters}}}}}"#)
        };
        let sent = format!(r#"[{{"type":"function",{}]"#, &function(&deep)[1..]);
        check(&format!("[{}]", function(&deep)), &sent);
    }

    #[test]
    fn absent_parameters_are_an_empty_object() {
        let expected = r#"[{"type":"function","function":{"name":"f","parameters":{"type":"object","properties":{}}}}]"#;
        check(r#"[{"function":{"name":"f"}}]"#, expected);
        check(r#"[{"function":{"name":"f","parameters":null}}]"#, expected);
        check(r#"[{"function":{"name":"f","parameters":{}}}]"#, expected);
        check(
            r#"[{"function":{"name":"f","parameters":{"type":"object","properties":null}}}]"#,
            expected,
        );
    }

    #[test]
    fn nameless_definitions_are_none() {
        check(r#"[{},{"function":{"name":""}},{"function":null}]"#, "[]");
    }
}
