//! The chat request that asks a model for a summary, and what is kept word for word.
//!
//! The conversation goes up as text, in turns of the user and the assistant: no tools are declared, so
//! calls and their results are told in square brackets, and any model and any chat template takes it.
//! Several turns, and not one text, so that the oldest can go where all of them exceed the context.
//! Invariant: roles alternate, beginning and ending with the user.

use std::borrow::Cow;
use std::collections::HashMap;

use serde_json::Value;

use super::retained::{self, kind, role};
use super::{Expanded, is_system};
use crate::api::ollama::decode::GoString;
use crate::api::ollama::request::{ChatRequest, Message};
use crate::api::openai::responses::ResponsesRequest;

/// The first message.
const TASK: &str = "\
The conversation that follows, between a user and an assistant that works with tools, has become too long \
to go on. At its end you are asked for a summary that will take its place. Calls of tools and their results \
are told in square brackets. Do not continue the conversation, do not answer what is asked in it, and do not \
call tools.";

/// What stands before a conversation that the assistant begins.
const BEGINNING: &str = "[The conversation begins.]";

/// The end of the last message.
const QUESTION: &str = "\
[The conversation ends here.]

Write the summary now, for an assistant that will go on with the work and can see nothing but your summary, \
the last message of the user and calls that have no result yet. Say what the user wants, with all \
constraints and preferences; what was done, found out and decided, and why; the files, names, commands, \
values and excerpts that are still needed, word for word; errors and how they were solved; the state that \
the work is in; and what remains to be done. Keep instructions of the system that still hold. Write only \
the summary.";

/// A conversation that is to be summarised.
#[derive(Clone, Debug, Default)]
pub struct Conversation {
    /// Texts by turns; the first is of the user, the second of the assistant, and so on.
    turns: Vec<String>,
    /// Messages that are kept word for word, as JSON (`retained`).
    pub retained: Vec<String>,
}

impl Conversation {
    /// The conversation of these items; `None` if they hold nothing to summarise. Items are read one by
    /// one, because they may hold large images.
    pub fn new(input: &Expanded<'_>) -> Option<Self> {
        let (mut out, mut names) = (Self::default(), HashMap::new());
        let mut last_message = None;
        let mut open_calls: HashMap<String, Vec<usize>> = HashMap::new();
        for (place, item) in input.items.iter().enumerate() {
            let item: Value = serde_json::from_str(item).unwrap_or_default();
            out.push_item(&item, &mut names);
            let kind = kind(&item);
            let is_user = kind == "message" && role(&item).eq_ignore_ascii_case("user");
            if is_user && input.summary_at != Some(place) {
                last_message = Some(place);
            }
            let Some(id) = item["call_id"].as_str() else { continue };
            if is_call(kind) {
                open_calls.entry(id.to_owned()).or_default().push(place);
            } else if kind.ends_with("_output") {
                open_calls.remove(id);
            }
        }
        if out.turns.is_empty() {
            return None;
        }
        out.push(false, QUESTION);
        let mut places: Vec<usize> = open_calls.into_values().flatten().collect();
        places.extend(last_message);
        places.sort_unstable();
        out.retained =
            places.into_iter().map(|place| retained::write(&input.items[place])).collect();
        Some(out)
    }

    /// Appends a text, to the last turn if it has the same author.
    fn push(&mut self, is_assistant: bool, text: &str) {
        if text.is_empty() {
            return;
        }
        if self.turns.is_empty() && is_assistant {
            self.turns.push(BEGINNING.to_owned());
        }
        let is_of_last = self.turns.len().is_multiple_of(2) == is_assistant;
        match self.turns.last_mut().filter(|_| is_of_last) {
            Some(last) => {
                last.push_str("\n\n");
                last.push_str(text);
            }
            None => self.turns.push(text.to_owned()),
        }
    }

    /// Appends what an item says. `names` holds the functions of the calls so far.
    fn push_item(&mut self, item: &Value, names: &mut HashMap<String, String>) {
        let id = item["call_id"].as_str().unwrap_or_default();
        let name_of =
            |names: &HashMap<_, String>| names.get(id).cloned().unwrap_or("a tool".into());
        match kind(item) {
            "message" => self.push_message(item),
            "agent_message" => {
                let (from, to) = (text_of(&item["author"]), text_of(&item["recipient"]));
                let text = text_of(&item["content"]);
                self.push(false, &format!("[Message from {from} to {to}:]\n{text}"));
            }
            kind if is_call(kind) => {
                let (name, input) = name_and_input(kind, item);
                self.push(true, &format!("[Call of {name}: {input}]"));
                names.insert(id.to_owned(), name);
            }
            "tool_search_output" => {
                let found: Vec<String> =
                    item["tools"].as_array().into_iter().flatten().map(tool_name).collect();
                self.push(false, &format!("[Tools that were found: {}]", found.join(", ")));
            }
            "function_call_output" | "custom_tool_call_output" | "local_shell_call_output" => {
                let text = text_of(&item["output"]);
                self.push(false, &format!("[Result of {}:]\n{text}", name_of(names)));
            }
            _ => {}
        }
    }

    fn push_message(&mut self, item: &Value) {
        let (role, text) = (role(item), text_of(&item["content"]));
        match role {
            role if role.eq_ignore_ascii_case("assistant") => self.push(true, &text),
            role if is_system(role) && !text.is_empty() => {
                self.push(false, &format!("[Instructions of the system:]\n{text}"));
            }
            _ => self.push(false, &text),
        }
    }
}

/// The request as one of `/api/chat`, without the model's name.
pub fn to_chat<'a>(
    request: &'a ResponsesRequest<'a>,
    conversation: &'a Conversation,
    stream: bool,
) -> ChatRequest<'a> {
    let text = |text: &'a str| Some(GoString(Cow::Borrowed(text)));
    let message = |role, content| Message { role: text(role), content, ..Message::default() };
    let turns = conversation.turns.iter().enumerate().map(|(place, turn)| {
        message(if place % 2 == 0 { "user" } else { "assistant" }, text(turn))
    });
    let effort = request.reasoning.as_ref().and_then(|it| it.effort.as_deref());
    ChatRequest {
        // The request is not the client's own, which therefore cannot shorten it.
        truncate: Some(true),
        messages: Some(std::iter::once(message("system", text(TASK))).chain(turns).collect()),
        stream: Some(stream),
        think: effort.map(Value::from),
        ..ChatRequest::default()
    }
}

fn is_call(kind: &str) -> bool {
    matches!(kind, "function_call" | "custom_tool_call" | "tool_search_call" | "local_shell_call")
}

/// What is called, and with what.
fn name_and_input(kind: &str, item: &Value) -> (String, String) {
    let (name, input) = match kind {
        "custom_tool_call" => (item["name"].as_str(), &item["input"]),
        "tool_search_call" => (Some("tool_search"), &item["arguments"]),
        "local_shell_call" => (Some("local_shell"), &item["action"]),
        _ => (item["name"].as_str(), &item["arguments"]),
    };
    let name = name.unwrap_or("a tool");
    let name = match item["namespace"].as_str() {
        Some(namespace) if !namespace.is_empty() => format!("{namespace}.{name}"),
        _ => name.to_owned(),
    };
    (name, text_of(input))
}

fn tool_name(tool: &Value) -> String {
    text_of(&tool["name"])
}

/// A content as text: a text, or a list of parts, of which those that are no text are named.
pub(super) fn text_of(content: &Value) -> String {
    match content {
        Value::String(text) => text.clone(),
        Value::Array(parts) => {
            let texts = parts.iter().map(part_text);
            texts.filter(|text| !text.is_empty()).collect::<Vec<_>>().join("\n")
        }
        Value::Null => String::new(),
        other => other.to_string(),
    }
}

fn part_text(part: &Value) -> String {
    let kind = part["type"].as_str().unwrap_or_default();
    let text = part["text"].as_str().or(part["refusal"].as_str());
    match (text, kind) {
        (Some(text), _) => text.to_owned(),
        (None, "input_image") => "[An image was here.]".to_owned(),
        (None, "input_file") => match part["filename"].as_str() {
            Some(name) => format!("[The file {name} was here.]"),
            None => "[A file was here.]".to_owned(),
        },
        (None, "input_audio") => "[An audio recording was here.]".to_owned(),
        (None, _) => part.as_str().unwrap_or_default().to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::translate::responses::compaction::expand;

    fn conversation(items: &Value) -> Option<Conversation> {
        let list = items.as_array().expect("a list");
        Conversation::new(&expand(list.iter().map(|it| Cow::Owned(it.to_string())).collect()))
    }

    fn turns(items: Value) -> Vec<String> {
        let mut turns = conversation(&items).expect("something to summarise").turns;
        let last = turns.last_mut().expect("a turn");
        *last = last.strip_suffix(QUESTION).expect("the question at the end").trim_end().to_owned();
        turns
    }

    fn kept(items: Value) -> Vec<Value> {
        let kept = conversation(&items).expect("something to summarise").retained;
        kept.iter().map(|item| serde_json::from_str(item).expect("JSON")).collect()
    }

    #[test]
    fn a_conversation_becomes_turns_of_text() {
        let found = turns(json!([
            {"role": "developer", "content": "Be short."},
            {"role": "user", "content": [{"type": "input_text", "text": "Look"},
                {"type": "input_image", "image_url": "data:image/png;base64,AAAA"},
                {"type": "input_file", "filename": "a.pdf", "file_data": "AAAA"}]},
            {"type": "reasoning", "summary": [{"type": "summary_text", "text": "secret"}]},
            {"type": "message", "role": "assistant",
                "content": [{"type": "output_text", "text": "I look."}]},
            {"type": "function_call", "call_id": "a", "namespace": "fs", "name": "read",
                "arguments": "{\"p\":1}"},
            {"type": "custom_tool_call", "call_id": "b", "name": "patch", "input": "*** Begin"},
            {"type": "function_call_output", "call_id": "a", "output": [
                {"type": "input_text", "text": "one"}, {"type": "input_image", "image_url": "data:"}]},
            {"type": "custom_tool_call_output", "call_id": "b", "output": "done"},
            {"type": "function_call_output", "call_id": "gone", "output": "x"},
            {"type": "from_the_future", "text": "unseen"}
        ]));
        assert_eq!(
            found,
            [
                "[Instructions of the system:]\nBe short.\n\nLook\n[An image was here.]\n\
                 [The file a.pdf was here.]",
                "I look.\n\n[Call of fs.read: {\"p\":1}]\n\n[Call of patch: *** Begin]",
                "[Result of fs.read:]\none\n[An image was here.]\n\n[Result of patch:]\ndone\n\n\
                 [Result of a tool:]\nx"
            ]
        );
    }

    #[test]
    fn turns_alternate_and_the_user_has_the_first_and_the_last() {
        let message = |role: &str| json!({"role": role, "content": role});
        assert_eq!(turns(json!([message("assistant")])), [BEGINNING, "assistant", ""]);
        assert_eq!(turns(json!([message("user"), message("user")])), ["user\n\nuser"]);
        let found = turns(json!([message("user"), message("assistant"), message("user")]));
        assert_eq!(found, ["user", "assistant", "user"]);
    }

    #[test]
    fn nothing_is_no_conversation() {
        for items in [
            json!([]),
            json!([{"role": "user", "content": ""}]),
            json!([{"type": "compaction", "encrypted_content": "foreign"}]),
            json!([{"type": "reasoning", "summary": []}, 5, null, "text"]),
        ] {
            assert!(conversation(&items).is_none(), "{items}");
        }
    }

    #[test]
    fn the_last_message_of_the_user_and_open_calls_are_kept_word_for_word() {
        let user = |text: &str| json!({"type": "message", "role": "user", "content": text});
        let call = |kind: &str, id: &str| json!({"type": kind, "call_id": id, "name": "f"});
        let output = |kind: &str, id: &str| json!({"type": kind, "call_id": id, "output": "o"});
        let (open, custom) = (call("function_call", "c"), call("custom_tool_call", "d"));
        let found = kept(json!([user("one"), user("two"), call("function_call", "a"),
            output("function_call_output", "a"), call("custom_tool_call", "b"), open, custom,
            output("custom_tool_call_output", "b"), {"role": "assistant", "content": "x"}]));
        assert_eq!(found, [json!({"role": "user", "content": "two"}), open, custom]);
    }

    #[test]
    fn an_earlier_summary_is_no_message_of_the_user_but_what_it_kept_is() {
        let user = json!({"role": "user", "content": "the task"});
        let payload = |retained: &[String]| {
            json!({"type": "compaction",
                "encrypted_content": super::super::encode_payload("earlier", retained)})
        };
        assert_eq!(kept(json!([payload(&[user.to_string()])])), [user]);
        assert!(kept(json!([payload(&[])])).is_empty());
        assert!(turns(json!([payload(&[])]))[0].ends_with("earlier"));
    }

    #[test]
    fn members_of_any_type_are_taken() {
        for member in [json!(5), json!(null), json!({}), json!([5, null, {}]), json!(true)] {
            for kind in [
                "message",
                "function_call",
                "function_call_output",
                "agent_message",
                "tool_search_output",
                "tool_search_call",
                "local_shell_call",
                "custom_tool_call",
            ] {
                let item = json!({"type": kind, "role": member, "content": member, "name": member,
                    "namespace": member, "call_id": member, "arguments": member, "tools": member,
                    "output": member, "author": member, "action": member, "input": member});
                conversation(&json!([item]));
            }
        }
    }
}
