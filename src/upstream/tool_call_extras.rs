//! What an upstream sends with a tool call and expects back with the same call: Gemini's thought
//! signatures, in `extra_content` (Gemini API docs, thought signatures).
//!
//! Ollama's clients cannot carry it, so it is kept here. A call is found by its id, otherwise by its
//! function and arguments, because many clients send no ids back. Never invents an extra.
//! Invariant: bounded in number and size; the oldest entry is dropped first.

use std::collections::VecDeque;
use std::sync::Mutex;

use serde_json::Value;
use serde_json::value::RawValue;

use crate::api::openai::request::Message;
use crate::observe::lock::lock;
use crate::translate::tool_calls::CompleteToolCall;

/// The most calls that are kept.
const MAX_CALLS: usize = 1024;

/// The largest extra that is kept, in bytes.
const MAX_EXTRA_BYTES: usize = 64 * 1024;

/// The extras of recent calls.
#[derive(Debug, Default)]
pub struct ToolCallExtras(Mutex<VecDeque<ToolCallExtra>>);

#[derive(Debug)]
struct ToolCallExtra {
    id: String,
    fingerprint: String,
    /// JSON.
    extra: String,
}

impl ToolCallExtras {
    /// Keeps the extras of these calls.
    pub fn save(&self, calls: &[CompleteToolCall]) {
        for call in calls {
            let Some(extra) =
                call.extra_content.as_ref().filter(|extra| extra.len() <= MAX_EXTRA_BYTES)
            else {
                continue;
            };
            let function = fingerprint(&call.name, &call.arguments);
            let mut kept = lock(&self.0);
            if kept.len() >= MAX_CALLS {
                kept.pop_front();
            }
            kept.push_back(ToolCallExtra {
                id: call.id.clone(),
                fingerprint: function,
                extra: extra.clone(),
            });
        }
    }

    /// Adds the extras to the calls of a conversation.
    pub fn restore(&self, messages: &mut [Message<'_>]) {
        let kept = lock(&self.0);
        if kept.is_empty() {
            return;
        }
        for call in messages.iter_mut().flat_map(|message| &mut message.tool_calls) {
            let by_id = kept.iter().rev().find(|known| known.id == call.id);
            let found = by_id.or_else(|| {
                let function = fingerprint(&call.function.name, &call.function.arguments);
                kept.iter().rev().find(|known| known.fingerprint == function)
            });
            call.extra_content =
                found.and_then(|known| RawValue::from_string(known.extra.clone()).ok());
        }
    }
}

/// The same text for the same function and arguments, in whatever order the members are written.
fn fingerprint(name: &str, arguments: &str) -> String {
    let arguments = serde_json::from_str::<Value>(arguments).map_or_else(
        |_| arguments.to_owned(),
        // Sorts the members.
        |arguments| arguments.to_string(),
    );
    format!("{name}\n{arguments}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::openai::request::{FunctionCall, ToolCall};

    fn call(id: &str, arguments: &str, extra: Option<&str>) -> CompleteToolCall {
        let (id, name, extra) = (id.to_owned(), "f".to_owned(), extra.map(str::to_owned));
        CompleteToolCall {
            id,
            index: 0,
            name,
            arguments: arguments.to_owned(),
            extra_content: extra,
        }
    }

    fn given_back(kept: &ToolCallExtras, id: &str, arguments: &str) -> Option<String> {
        let function = FunctionCall { name: "f".into(), arguments: arguments.into() };
        let call = ToolCall { id: id.into(), kind: "function", function, extra_content: None };
        let mut message = Message::text("assistant", "");
        message.tool_calls.push(call);
        let mut messages = [message];
        kept.restore(&mut messages);
        messages[0].tool_calls[0].extra_content.as_ref().map(|extra| extra.get().to_owned())
    }

    #[test]
    fn a_call_is_found_by_its_id_else_by_what_it_says() {
        let kept = ToolCallExtras::default();
        kept.save(&[call("a", r#"{"x":1,"y":2}"#, Some(r#"{"s":"1"}"#)), call("b", "{}", None)]);
        assert_eq!(given_back(&kept, "a", "{}").as_deref(), Some(r#"{"s":"1"}"#));
        let other_order = r#"{ "y": 2, "x": 1 }"#;
        assert_eq!(given_back(&kept, "made up", other_order).as_deref(), Some(r#"{"s":"1"}"#));
        assert_eq!(given_back(&kept, "b", "{}"), None, "it never had any");
        assert_eq!(given_back(&kept, "c", r#"{"x":2}"#), None);
        kept.save(&[call("c", r#"{"x":1,"y":2}"#, Some(r#"{"s":"2"}"#))]);
        assert_eq!(given_back(&kept, "", other_order).as_deref(), Some(r#"{"s":"2"}"#), "the last");
    }

    #[test]
    fn number_and_size_are_bounded() {
        let kept = ToolCallExtras::default();
        kept.save(&[call("long", "{}", Some(&format!("\"{}\"", "x".repeat(MAX_EXTRA_BYTES))))]);
        assert!(lock(&kept.0).is_empty());
        for number in 0..=MAX_CALLS {
            kept.save(&[call(&number.to_string(), &format!("{{\"n\":{number}}}"), Some("1"))]);
        }
        assert_eq!(lock(&kept.0).len(), MAX_CALLS);
        assert_eq!(given_back(&kept, "0", "{}"), None);
        assert!(given_back(&kept, "1", "{}").is_some());
    }
}
