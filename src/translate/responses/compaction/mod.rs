//! Compaction: a summary that takes the place of a conversation which became too long (OpenAI API
//! reference, compaction; Ollama `openai/responses_compact.go`).
//!
//! | item | meaning |
//! | --- | --- |
//! | `compaction`, `compaction_summary`, `context_compaction` | a summary with the items that are kept word for word, if its `encrypted_content` is Ollama's form (plain JSON); it replaces all that stood before it, except system messages at the beginning and declarations of tools |
//! | the same of another server | stays an item, which the translation leaves out with a warning: only that server can read it |
//! | a call of `ollama_compaction_summary` with its output | the same as a summary of Ollama's |
//! | `compaction_trigger`, at the end | asks for a compaction ([`request`], [`encoder`]) |
//!
//! Only the newest summary counts. It becomes a user's message, as the summaries that agents write
//! themselves, because text of tools must not speak with the authority of the system.

pub mod encoder;
pub mod request;
mod retained;

use std::borrow::Cow;
use std::collections::HashSet;

use super::items::Item;
use crate::api::openai::raw_object::{self, RawObject};
use crate::error::{Error, ErrorCode, Result};

/// Marks `encrypted_content` as readable.
const PAYLOAD_TYPE: &str = "ollama_compaction";

/// The function whose output is a summary in Ollama's translation of a compaction.
const SUMMARY_FUNCTION: &str = "ollama_compaction_summary";

/// What stands before a summary.
const SUMMARY_INTRODUCTION: &str =
    "The conversation before this point was replaced by this summary of it:\n\n";

/// The input after its compactions were read.
#[derive(Debug, Default)]
pub struct Expanded<'a> {
    /// The items that are left.
    pub items: Vec<Item<'a>>,
    /// Which of them is the summary.
    pub summary_at: Option<usize>,
}

/// What a compaction holds.
#[derive(Debug, PartialEq, Eq)]
struct Payload {
    summary: String,
    /// Items, as JSON.
    retained: Vec<String>,
}

/// An error about a compaction.
pub fn invalid(text: impl Into<String>) -> Error {
    Error::Coded(ErrorCode::INVALID_COMPACTION, text.into())
}

/// True if an item can be a compaction, or ask for one.
pub fn is_mentioned(item: &str) -> bool {
    item.contains("compaction")
}

/// Whether the input asks for a compaction, which its last item does.
///
/// # Errors
/// [`Error::Coded`] if another item does.
pub fn has_trigger(items: &[Item<'_>]) -> Result<bool> {
    let is_trigger = |item: &Item<'_>| kind_of(item).as_deref() == Some("compaction_trigger");
    match items.iter().position(is_trigger) {
        None => Ok(false),
        Some(place) if place + 1 == items.len() => Ok(true),
        Some(_) => Err(invalid("compaction_trigger must be the final and only compaction trigger")),
    }
}

/// Puts the newest summary in the place of what stood before it.
pub fn expand(items: Vec<Item<'_>>) -> Expanded<'_> {
    let calls: HashSet<String> = items.iter().filter_map(|item| summary_call_id(item)).collect();
    let newest = (0..items.len()).rev().find_map(|at| Some((at, read(&items[at], &calls)?)));
    let (mut out, mut rest) = (Expanded::default(), items);
    if let Some((place, payload)) = newest {
        let after = rest.split_off(place + 1);
        out.items = rest.split_off(0).into_iter().scan(true, keep_before).flatten().collect();
        out.summary_at = Some(out.items.len());
        out.items.push(Cow::Owned(summary_message(&payload.summary)));
        out.items.extend(payload.retained.into_iter().map(Cow::Owned));
        rest = after;
    }
    out.items.append(&mut rest);
    out
}

/// What stays of an item before a summary: system messages at the beginning, while `is_beginning`, and
/// declarations of tools.
fn keep_before<'a>(is_beginning: &mut bool, item: Item<'a>) -> Option<Option<Item<'a>>> {
    let Some(object) = RawObject::parse(&item) else { return Some(None) };
    let kind = object.get_string("type").unwrap_or_else(|| "message".to_owned());
    let role = object.get_string("role").unwrap_or_default();
    let kept = match kind.as_str() {
        "additional_tools" => true,
        "tool_search_output" => {
            let tools = object.get("tools").unwrap_or("[]");
            let item =
                format!(r#"{{"type":"additional_tools","role":"developer","tools":{tools}}}"#);
            return Some(Some(Cow::Owned(item)));
        }
        "message" => *is_beginning && is_system(&role),
        _ => false,
    };
    *is_beginning &= kept;
    drop(object);
    Some(kept.then_some(item))
}

fn is_system(role: &str) -> bool {
    role.eq_ignore_ascii_case("system") || role.eq_ignore_ascii_case("developer")
}

/// The `type` of an item.
fn kind_of(item: &str) -> Option<String> {
    RawObject::parse(item)?.get_string("type")
}

fn is_compaction(kind: &str) -> bool {
    matches!(kind, "compaction" | "compaction_summary" | "context_compaction")
}

/// The id of a call that stands for a summary.
fn summary_call_id(item: &str) -> Option<String> {
    if !item.contains(SUMMARY_FUNCTION) {
        return None;
    }
    let call = RawObject::parse(item)?;
    let is_it = call.get_string("name").as_deref() == Some(SUMMARY_FUNCTION);
    call.get_string("call_id").filter(|_| is_it)
}

/// The summary in an item; `None` for any other item, and for a summary of another server. `calls` are
/// those that stand for a summary.
fn read(item: &str, calls: &HashSet<String>) -> Option<Payload> {
    let object = RawObject::parse(item)?;
    let kind = object.get_string("type")?;
    if is_compaction(&kind) {
        return Payload::parse(&object.get_string("encrypted_content")?);
    }
    if kind != "function_call_output" || !calls.contains(&object.get_string("call_id")?) {
        return None;
    }
    let output = serde_json::from_str(object.get("output")?).ok()?;
    Some(Payload { summary: request::text_of(&output), retained: Vec::new() })
}

/// What is wrong with a compaction of ours that cannot be read, for a request that is about nothing else.
///
/// # Errors
/// [`Error::Coded`].
pub fn check(items: &[Item<'_>]) -> Result<()> {
    for item in items {
        let Some(object) = RawObject::parse(item) else { continue };
        let kind = object.get_string("type").unwrap_or_default();
        if !matches!(kind.as_str(), "compaction" | "compaction_summary") {
            continue;
        }
        let content = object.get_string("encrypted_content");
        let content = content.ok_or_else(|| invalid("invalid compaction item"))?;
        if Payload::claims(&content) && Payload::parse(&content).is_none() {
            return Err(invalid("invalid compaction item"));
        }
    }
    Ok(())
}

impl Payload {
    /// True if a content says that it is in Ollama's form.
    fn claims(content: &str) -> bool {
        let object = RawObject::parse(content);
        object.is_some_and(|it| it.get_string("type").as_deref() == Some(PAYLOAD_TYPE))
    }

    fn parse(content: &str) -> Option<Self> {
        let object = RawObject::parse(content)?;
        if object.get_string("type")? != PAYLOAD_TYPE {
            return None;
        }
        let summary = object.get_string("summary")?;
        let retained = object.get("retained").and_then(raw_object::parse_items);
        let retained = retained.unwrap_or_default().into_iter().flat_map(retained::read).collect();
        Some(Self { summary, retained })
    }
}

/// `encrypted_content` of a compaction.
fn encode_payload(summary: &str, retained: &[String]) -> String {
    let (kind, summary) = (raw_object::quote_json(PAYLOAD_TYPE), raw_object::quote_json(summary));
    let retained = raw_object::join_items(retained);
    format!(r#"{{"type":{kind},"version":1,"summary":{summary},"retained":{retained}}}"#)
}

fn summary_message(summary: &str) -> String {
    let text = raw_object::quote_json(&format!("{SUMMARY_INTRODUCTION}{summary}"));
    format!(
        r#"{{"type":"message","role":"user","content":[{{"type":"input_text","text":{text}}}]}}"#
    )
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn items(list: &Value) -> Vec<Item<'static>> {
        let list = list.as_array().expect("a list");
        list.iter().map(|item| Cow::Owned(item.to_string())).collect()
    }

    fn ours(summary: &str, retained: &[Value]) -> Value {
        let retained: Vec<String> = retained.iter().map(Value::to_string).collect();
        json!({"type": "compaction", "id": "cmp_1",
            "encrypted_content": encode_payload(summary, &retained)})
    }

    fn user(text: &str) -> Value {
        json!({"role": "user", "content": text})
    }

    fn system(text: &str) -> Value {
        json!({"type": "message", "role": "developer", "content": text})
    }

    fn summary(text: &str) -> Value {
        serde_json::from_str(&summary_message(text)).expect("JSON")
    }

    fn check_expanded(input: Value, expected: Value) {
        let found = expand(items(&input));
        let list: Vec<Value> =
            found.items.iter().map(|item| serde_json::from_str(item).expect("JSON")).collect();
        assert_eq!(Value::from(list), expected, "{input}");
        let place = found.summary_at.map(|place| found.items[place].contains("summary of it"));
        assert_ne!(place, Some(false));
    }

    #[test]
    fn only_the_newest_summary_counts_and_what_stood_before_it_is_dropped() {
        let kept = [user("last"), json!({"type": "function_call", "call_id": "c", "name": "f"})];
        let output = json!({"type": "function_call_output", "call_id": "c", "output": "o"});
        let message = json!({"type": "message", "role": "user", "content": "last"});
        check_expanded(
            json!([
                system("S"),
                user("one"),
                ours("old", &[user("dropped")]),
                user("two"),
                ours("new", &kept),
                output
            ]),
            json!([system("S"), summary("new"), message, kept[1], output]),
        );
        check_expanded(json!([ours("s", &[])]), json!([summary("s")]));
        check_expanded(json!([user("one"), user("two")]), json!([user("one"), user("two")]));
    }

    #[test]
    fn a_summary_has_three_names() {
        for kind in ["compaction", "compaction_summary", "context_compaction"] {
            let mut item = ours("s", &[]);
            item["type"] = kind.into();
            check_expanded(
                json!([user("one"), item, user("two")]),
                json!([summary("s"), user("two")]),
            );
        }
    }

    #[test]
    fn system_messages_at_the_beginning_and_tools_stay() {
        let tools = json!({"type": "additional_tools", "role": "developer", "tools": [{"a": 1}]});
        let search = json!({"type": "tool_search_output", "call_id": "c", "tools": [{"b": 2}]});
        let found = json!({"type": "additional_tools", "role": "developer", "tools": [{"b": 2}]});
        let upper = json!({"role": "System", "content": "T"});
        check_expanded(
            json!([
                tools,
                system("S"),
                upper,
                user("one"),
                system("late"),
                search,
                5,
                ours("s", &[])
            ]),
            json!([tools, system("S"), upper, found, summary("s")]),
        );
    }

    #[test]
    fn a_summary_of_another_server_drops_nothing() {
        for content in
            [json!("gAAAAAB"), json!("{}"), json!("{\"type\":\"other\"}"), json!(null), json!(5)]
        {
            let foreign = json!({"type": "compaction", "encrypted_content": content});
            check_expanded(
                json!([user("one"), foreign, user("two")]),
                json!([user("one"), foreign, user("two")]),
            );
            check_expanded(
                json!([user("one"), ours("s", &[]), user("two"), foreign]),
                json!([summary("s"), user("two"), foreign]),
            );
        }
        check_expanded(
            json!([{"type": "context_compaction"}]),
            json!([{"type": "context_compaction"}]),
        );
    }

    #[test]
    fn a_call_with_the_summary_as_its_output_is_one() {
        let call = json!({"type": "function_call", "call_id": "call_ollama_compaction_0123456789ab",
            "name": SUMMARY_FUNCTION, "arguments": "{}"});
        let output = |text: Value| {
            json!({"type": "function_call_output",
                "call_id": "call_ollama_compaction_0123456789ab", "output": text})
        };
        let parts = json!([{"type": "input_text", "text": "s"}]);
        for text in [json!("s"), parts] {
            check_expanded(
                json!([system("S"), user("one"), call, output(text), user("two")]),
                json!([system("S"), summary("s"), user("two")]),
            );
        }
        let other = json!({"type": "function_call_output", "call_id": "x", "output": "o"});
        check_expanded(json!([call, other]), json!([call, other]));
    }

    #[test]
    fn a_trigger_stands_at_the_end() {
        let trigger = json!({"type": "compaction_trigger"});
        let check = |input: Value, expected: Option<bool>| {
            assert_eq!(has_trigger(&items(&input)).ok(), expected, "{input}");
        };
        check(json!([user("one"), trigger]), Some(true));
        check(json!([user("one")]), Some(false));
        check(json!([trigger, user("one")]), None);
        check(json!([trigger, trigger]), None);
    }

    #[test]
    fn a_request_about_nothing_else_says_what_is_wrong_with_a_compaction() {
        let check = |item: Value, is_valid: bool| {
            assert_eq!(check(&items(&json!([item]))).is_ok(), is_valid, "{item}");
        };
        check(ours("s", &[]), true);
        check(json!({"type": "compaction", "encrypted_content": "gAAA"}), true);
        check(json!({"type": "context_compaction"}), true);
        check(json!({"type": "compaction"}), false);
        check(json!({"type": "compaction_summary", "encrypted_content": 5}), false);
        let broken = r#"{"type":"ollama_compaction","version":1}"#;
        check(json!({"type": "compaction", "encrypted_content": broken}), false);
    }
}
