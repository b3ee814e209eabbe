//! Translates the calls of earlier turns: the name of each as the upstream knows it, and its arguments
//! as the text of a JSON object.
//!
//! | item | function | arguments |
//! | --- | --- | --- |
//! | `function_call` | its name | its own; text that is no object is mended, or kept as `{"_raw": text}` |
//! | `custom_tool_call` | its name | `{"input": text}` |
//! | `tool_search_call` | `tool_search` | its own |
//! | `local_shell_call` | `local_shell` | `command`, `workdir`, `timeout_ms` and `env` of its action |
//!
//! Templates of many servers parse the arguments, and refuse the whole conversation where they are no
//! object. Never fails. Invariant: a call has the name under which its tool is declared, or would be.

use std::borrow::Cow;

use serde_json::value::RawValue;
use serde_json::{Value, json};

use crate::api::openai::responses_input::{Members, non_empty_text, text};
use crate::translate::options;
use crate::translate::tool_calls::{compact_json, mend_arguments};
use crate::translate::tool_names::{ToolForm, ToolNames};

/// The function that stands for the search for tools.
pub(super) const TOOL_SEARCH: &str = "tool_search";

/// The function that stands for the client's shell.
pub(super) const LOCAL_SHELL: &str = "local_shell";

/// A namespace that means none: that of functions which are in no namespace (openai/codex).
const NO_NAMESPACE: &str = "functions";

/// The call of a function.
pub(super) struct Call<'a> {
    /// The upstream's name of the function.
    pub name: String,
    /// The text of an object.
    pub arguments: Cow<'a, str>,
}

/// The call of an item; `None` if the item is none, or names no tool.
pub(super) fn read<'a>(kind: &str, item: &Members<'a>, names: &mut ToolNames) -> Option<Call<'a>> {
    let (form, arguments) = match kind {
        "function_call" => {
            (ToolForm::Function, to_arguments(item.get("arguments").or(item.get("input"))))
        }
        "custom_tool_call" => (ToolForm::Custom, to_input(item)),
        "tool_search_call" => {
            let name = names.declare(ToolForm::ToolSearch, None, TOOL_SEARCH).to_owned();
            return Some(Call { name, arguments: to_arguments(item.get("arguments")) });
        }
        "local_shell_call" => {
            let name = names.declare(ToolForm::LocalShell, None, LOCAL_SHELL).to_owned();
            return Some(Call { name, arguments: to_shell_arguments(item.get("action")).into() });
        }
        _ => return None,
    };
    let name = non_empty_text(item.get("name"))?;
    let name = upstream_name(names, form, namespace(item).as_deref(), &name);
    Some(Call { name, arguments })
}

/// The namespace of the tool that a call or a choice names, if it is in one.
pub(super) fn namespace<'a>(item: &Members<'a>) -> Option<Cow<'a, str>> {
    non_empty_text(item.get("namespace")).filter(|it| it != NO_NAMESPACE)
}

/// The upstream's name of a tool that a call or a choice names. One that is not declared gets the name
/// that it would have.
pub(super) fn upstream_name(
    names: &mut ToolNames,
    form: ToolForm,
    namespace: Option<&str>,
    name: &str,
) -> String {
    if let Some(known) = names.upstream_name(namespace, name) {
        return known.to_owned();
    }
    // An earlier version of this server joined the two with a dot.
    if let Some(known) = names.resolve(name).filter(|_| namespace.is_none()).cloned() {
        return names.declare(known.form, known.namespace.as_deref(), &known.name).to_owned();
    }
    names.declare(form, namespace, name).to_owned()
}

/// The arguments of a call as the text of an object.
fn to_arguments(raw: Option<&RawValue>) -> Cow<'_, str> {
    let Some(raw) = raw else { return Cow::Borrowed("{}") };
    if raw.get().starts_with('{') {
        return Cow::Owned(compact_json(raw.get()));
    }
    // A list is no text, but its JSON is.
    let text = text(Some(raw)).unwrap_or(Cow::Borrowed(raw.get()));
    mend_arguments(&text).map_or(text, Cow::Owned)
}

/// The free text of a custom tool's call, as the argument of the function that stands for the tool.
fn to_input<'a>(item: &Members<'a>) -> Cow<'a, str> {
    let raw = item.get("input").or(item.get("arguments"));
    let input = text(raw).or_else(|| raw.map(|raw| raw.get().into())).unwrap_or_default();
    Cow::Owned(json!({ "input": input }).to_string())
}

/// The action of the shell, with the members of the function that stands for it.
fn to_shell_arguments(raw: Option<&RawValue>) -> String {
    let action = Members::parse(raw).unwrap_or_default();
    let members = [
        ("command", action.get("command")),
        ("workdir", action.get("working_directory")),
        ("timeout_ms", action.get("timeout_ms")),
        ("env", action.get("env")),
    ];
    let value = |raw: &RawValue| serde_json::from_str::<Value>(raw.get()).ok();
    let members =
        members.map(|(name, raw)| (name, raw.and_then(value).filter(|it| *it != json!({}))));
    Value::Object(options::from_members(members)).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(kind: &str, item: &str, expected: Option<(&str, &str)>) {
        let mut names = ToolNames::default();
        names.declare(ToolForm::Function, Some("mcp__fs"), "read");
        names.declare(ToolForm::Custom, None, "apply_patch");
        let item: Members<'_> = serde_json::from_str(item).expect("valid");
        let call = read(kind, &item, &mut names);
        let call = call.as_ref().map(|call| (call.name.as_str(), call.arguments.as_ref()));
        assert_eq!(call, expected, "{kind}");
    }

    #[test]
    fn calls_have_the_upstream_s_names() {
        let named = |item: &str, name: &str| check("function_call", item, Some((name, "{}")));
        named(r#"{"name":"read","namespace":"mcp__fs"}"#, "mcp__fs__read");
        named(r#"{"name":"mcp__fs.read"}"#, "mcp__fs__read");
        named(r#"{"name":"read","namespace":"mcp__other"}"#, "mcp__other__read");
        named(r#"{"name":"gone.since","namespace":"functions"}"#, "gone_since");
        named(r#"{"name":"apply_patch","namespace":null}"#, "apply_patch");
        check("function_call", r#"{"namespace":"x"}"#, None);
        check("message", r#"{"name":"read"}"#, None);
    }

    #[test]
    fn arguments_are_the_text_of_an_object() {
        let check = |arguments: &str, expected: &str| {
            let item = format!(r#"{{"name":"f","arguments":{arguments}}}"#);
            check("function_call", &item, Some(("f", expected)));
        };
        check(r#""{\"a\": 1}""#, r#"{"a": 1}"#);
        check(r#"{"a": 1}"#, r#"{"a":1}"#);
        check(r#""\"{\\\"a\\\":1}\"""#, r#"{"a":1}"#);
        check("null", "{}");
        check(r#"" ""#, "{}");
        check(r#""null""#, "{}");
        check(r#""{\"a\":\"x\ny\"}""#, r#"{"a":"x\ny"}"#);
        check(r#""rm -rf""#, r#"{"_raw":"rm -rf"}"#);
        check(r#""{\"a\":\"cut""#, r#"{"_raw":"{\"a\":\"cut"}"#);
        check(r#""[1]""#, r#"{"_raw":"[1]"}"#);
        check("[1]", r#"{"_raw":"[1]"}"#);
        check("5", r#"{"_raw":"5"}"#);
    }

    #[test]
    fn calls_of_other_tools_become_functions() {
        check(
            "custom_tool_call",
            r#"{"name":"apply_patch","input":"*** Begin\n\"x\""}"#,
            Some(("apply_patch", r#"{"input":"*** Begin\n\"x\""}"#)),
        );
        check("custom_tool_call", r#"{"name":"f"}"#, Some(("f", r#"{"input":""}"#)));
        check("custom_tool_call", r#"{"name":"f","input":[1]}"#, Some(("f", r#"{"input":"[1]"}"#)));
        check(
            "tool_search_call",
            r#"{"execution":"client","arguments":{"query":"mail"}}"#,
            Some(("tool_search", r#"{"query":"mail"}"#)),
        );
        let action = r#"{"type":"exec","command":["ls","-l"],"timeout_ms":5,"working_directory":"/a","env":{},"user":null}"#;
        check(
            "local_shell_call",
            &format!(r#"{{"action":{action}}}"#),
            Some(("local_shell", r#"{"command":["ls","-l"],"timeout_ms":5,"workdir":"/a"}"#)),
        );
        check("local_shell_call", r#"{"action":5}"#, Some(("local_shell", "{}")));
    }
}
