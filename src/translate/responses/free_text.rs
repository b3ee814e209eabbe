//! Reads the arguments of calls whose tools the client did not declare as functions.
//!
//! Upstreams know functions only, so a tool that takes free text is one with the member `input`. Models write
//! other members, a bare text, or JSON that is none. Invariant: nothing is refused, and a text that is not
//! understood is the input itself.

use serde_json::value::RawValue;
use serde_json::{Map, Value, json};

use crate::api::openai::responses::{Metadata, ShellAction};
use crate::translate::lenient_json;
use crate::translate::tool_calls::compact_json;

/// The member that holds a text.
const INPUT: &str = "input";

/// Names of the folder in which a command runs.
const FOLDER_MEMBERS: [&str; 3] = ["workdir", "working_directory", "cwd"];

/// The text for a tool that takes one: the member `input`, the only text among the members, or a text as
/// JSON.
pub(crate) fn read_input(arguments: &str) -> String {
    let input = match serde_json::from_str(arguments) {
        Ok(Value::Object(members)) => only_text(&members),
        // Some models encode the arguments twice.
        Ok(Value::String(text)) => Some(member_input(&text).unwrap_or(text)),
        Ok(_) => None,
        Err(_) => lenient_json::repair_object(arguments).and_then(|json| member_input(&json)),
    };
    input.unwrap_or_else(|| arguments.to_owned())
}

/// The member `input` of an object.
fn member_input(json: &str) -> Option<String> {
    let mut object: Map<String, Value> = serde_json::from_str(json).ok()?;
    match object.remove(INPUT)? {
        Value::String(text) => Some(text),
        _ => None,
    }
}

fn only_text(members: &Map<String, Value>) -> Option<String> {
    let text = |value: &Value| value.as_str().map(str::to_owned);
    members.get(INPUT).and_then(text).or_else(|| {
        let mut texts = members.values().filter_map(text);
        texts.next().filter(|_| texts.next().is_none())
    })
}

/// The arguments of a search, which clients read as an object.
pub(super) fn read_search(arguments: &str) -> Box<RawValue> {
    let object = read_object(arguments).unwrap_or_else(|| json!({"query": arguments}).to_string());
    RawValue::from_string(compact_json(&object)).unwrap_or_else(|_| RawValue::NULL.to_owned())
}

/// An object as it stands, or as a lenient reader finds it.
fn read_object(arguments: &str) -> Option<String> {
    let is_object = serde_json::from_str::<Map<String, Value>>(arguments).is_ok();
    if is_object { Some(arguments.to_owned()) } else { lenient_json::repair_object(arguments) }
}

/// What a shell is to do. A command in one text is one for a shell, as Codex's own are.
pub(super) fn read_action(arguments: &str) -> ShellAction {
    let object = read_object(arguments).and_then(|it| serde_json::from_str(&it).ok());
    let members: Map<String, Value> = object.unwrap_or_default();
    let command = members.get("command").or_else(|| members.get("cmd"));
    let fallback = || serde_json::from_str(arguments).unwrap_or_else(|_| arguments.into());
    let command = to_command(&command.cloned().unwrap_or_else(fallback), arguments);
    let folder = FOLDER_MEMBERS.iter().find_map(|name| members.get(*name)?.as_str());
    ShellAction {
        kind: "exec",
        command,
        working_directory: folder.map(str::to_owned),
        timeout_ms: members.get("timeout_ms").and_then(Value::as_u64),
        env: Metadata {},
    }
}

fn to_command(value: &Value, arguments: &str) -> Vec<String> {
    let word = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    match value {
        Value::Array(words) => words.iter().map(word).collect(),
        // Text that was meant to be JSON is no command.
        Value::String(text) if !text.trim_start().starts_with('{') => {
            ["bash", "-lc", text].map(str::to_owned).to_vec()
        }
        _ => vec![arguments.to_owned()],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn free_text_is_found_however_the_model_wraps_it() {
        let check = |arguments: &str, expected: &str| {
            assert_eq!(read_input(arguments), expected, "{arguments}");
        };
        check(r#"{"input":"a\nb"}"#, "a\nb");
        check(r#"{"input":"a","other":"b"}"#, "a");
        check(r#"{"patch":"a"}"#, "a");
        check(r#"{"cmd":"a","timeout":5,"dry":false}"#, "a");
        check(r#""a\nb""#, "a\nb");
        check(r#""{\"input\":\"a\"}""#, "a");
        check("*** Begin Patch\n+\"x\"", "*** Begin Patch\n+\"x\"");
        check("{\"input\":\"a\nsay \"hi\" b\"}", "a\nsay \"hi\" b");
        check(r#"{"input":""}"#, "");
        for unread in [
            "",
            "{}",
            r#"{"input":5}"#,
            r#"{"a":"x","b":"y"}"#,
            r#"["a"]"#,
            "5",
            "{ return `x`; }",
            r#"{"input":"no end"#,
        ] {
            check(unread, unread);
        }
    }

    #[test]
    fn a_search_has_an_object_as_arguments() {
        let check = |arguments: &str, expected: &str| {
            assert_eq!(read_search(arguments).get(), expected, "{arguments}");
        };
        check(r#"{ "query": "mail", "limit": 2 }"#, r#"{"query":"mail","limit":2}"#);
        check("{'query': 'mail',}", r#"{"query":"mail"}"#);
        check("mail", r#"{"query":"mail"}"#);
        check("[1]", r#"{"query":"[1]"}"#);
    }

    #[test]
    fn a_command_is_a_list_of_words() {
        let check = |arguments: &str, expected: &[&str]| {
            assert_eq!(read_action(arguments).command, expected, "{arguments}");
        };
        check(r#"{"command":["ls","-l",5]}"#, &["ls", "-l", "5"]);
        check(r#"{"command":"ls | wc"}"#, &["bash", "-lc", "ls | wc"]);
        check(r#"{"cmd":"ls"}"#, &["bash", "-lc", "ls"]);
        check(r#"["ls"]"#, &["ls"]);
        check("ls -l", &["bash", "-lc", "ls -l"]);
        check(r#"{"command":["ls"#, &[r#"{"command":["ls"#]);
        check("{}", &["{}"]);
        let action = read_action(r#"{"command":["ls"],"workdir":"/tmp","timeout_ms":9}"#);
        assert_eq!(
            serde_json::to_string(&action).expect("JSON"),
            r#"{"type":"exec","command":["ls"],"working_directory":"/tmp","timeout_ms":9,"env":{}}"#
        );
    }
}
