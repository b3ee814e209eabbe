//! Puts results in the order of their calls, in requests that are passed on.
//!
//! Templates that do not read ids pair them by place. As in Ollama (`openai/openai.go`, order of tool
//! results), only where each call of a message and each result directly behind it has its own id, and they
//! match one to one. Invariant: any other body stays as the client wrote it.

use std::collections::HashMap;

use crate::api::openai::raw_object::{self, RawObject};
use crate::translate::pass_through::PassBody;

const MESSAGES: &str = "messages";
const CALLS: &str = "tool_calls";
const ANSWERED: &str = "tool_call_id";

/// Sorts the results of a conversation.
pub fn sort_results(body: &mut PassBody<'_>) {
    let messages = body.object.get(MESSAGES).filter(|it| it.matches(ANSWERED).nth(1).is_some());
    let Some(sorted) = messages.and_then(sort_messages) else { return };
    body.object_mut().set(MESSAGES, sorted);
}

/// The messages with their results in order; `None` if nothing changes.
fn sort_messages(text: &str) -> Option<String> {
    let mut items = raw_object::parse_items(text)?;
    let mut is_changed = false;
    for place in 0..items.len() {
        let Some(calls) = parse_call_ids(items[place]).filter(|calls| calls.len() > 1) else {
            continue;
        };
        let results: Vec<String> =
            items[place + 1..].iter().map_while(|it| parse_result(it)).collect();
        let Some(order) = find_order(&calls, &results) else { continue };
        let behind = place + 1..place + 1 + results.len();
        let sorted: Vec<&str> = order.iter().map(|number| items[place + 1 + number]).collect();
        is_changed |= items[behind.clone()] != sorted[..];
        items[behind].copy_from_slice(&sorted);
    }
    is_changed.then(|| raw_object::join_items(&items))
}

/// For each call the number of its result; `None` unless they match one to one.
fn find_order(calls: &[String], results: &[String]) -> Option<Vec<usize>> {
    let numbered = results.iter().enumerate().map(|(number, id)| (id.as_str(), number));
    let mut open: HashMap<&str, usize> = numbered.collect();
    if open.len() != results.len() || calls.len() != results.len() {
        return None;
    }
    calls.iter().map(|id| open.remove(id.as_str())).collect()
}

/// The ids of the calls of a message; `None` if it has no calls, or one of them no id. A result has none,
/// so that no message is read again for each one before it.
fn parse_call_ids(message: &str) -> Option<Vec<String>> {
    let message = RawObject::parse(message).filter(|_| message.contains(CALLS))?;
    if message.get_string("role").is_some_and(|role| role == "tool") {
        return None;
    }
    let calls = raw_object::parse_items(message.get(CALLS)?)?;
    let id = |call| RawObject::parse(call)?.get_string("id").filter(|id| !id.is_empty());
    calls.into_iter().map(id).collect()
}

/// The id of the call that a message answers; `None` for a message that is no result.
fn parse_result(message: &str) -> Option<String> {
    let message = RawObject::parse(message).filter(|_| message.contains(ANSWERED))?;
    message.get_string("role").filter(|role| role == "tool")?;
    message.get_string(ANSWERED)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Messages from words: `call:a,b`, `result:a`, or a user's text. Returns the same form.
    fn sorted(words: &str) -> Option<String> {
        let message = |word: &str| {
            if let Some(ids) = word.strip_prefix("call:") {
                let call = |id: &str| format!(r#"{{"id":"{id}","type":"function"}}"#);
                let calls = ids.split(',').map(call).collect::<Vec<_>>().join(",");
                format!(r#"{{"role":"assistant","tool_calls":[{calls}]}}"#)
            } else if let Some(id) = word.strip_prefix("result:") {
                format!(r#"{{"role":"tool","tool_call_id":"{id}","content":"tool_calls"}}"#)
            } else {
                format!(r#"{{"role":"user","content":"{word}"}}"#)
            }
        };
        let messages = words.split(' ').map(message).collect::<Vec<_>>();
        let sorted = sort_messages(&raw_object::join_items(&messages))?;
        let places = raw_object::parse_items(&sorted).expect("a list").into_iter().map(|item| {
            let place = messages.iter().position(|message| message == item).expect("unchanged");
            words.split(' ').nth(place).expect("a word")
        });
        Some(places.collect::<Vec<_>>().join(" "))
    }

    #[test]
    fn results_come_in_the_order_of_the_calls() {
        let check = |words: &str, expected: &str| {
            assert_eq!(sorted(words).as_deref(), Some(expected), "{words}");
        };
        check("hi call:a,b result:b result:a bye", "hi call:a,b result:a result:b bye");
        check(
            "call:a,b,c result:c result:a result:b call:d,e result:e result:d",
            "call:a,b,c result:a result:b result:c call:d,e result:d result:e",
        );
    }

    #[test]
    fn what_does_not_match_one_to_one_stays() {
        for words in [
            "hi",
            "call:a,b result:a result:b",
            "call:a result:a",
            "call:a,a result:a result:a",
            "call:a,b result:b",
            "call:a,b result:b result:a result:a",
            "call:a,b result:b result:c",
            "call:a,b result:b hi result:a",
            "call:a, result: result:a",
            "call:a,b,c result:b result:a result:b",
        ] {
            assert_eq!(sorted(words), None, "{words}");
        }
        let both = r#"{"role":"tool","tool_call_id":"b","tool_calls":[{"id":"a"},{"id":"b"}]}"#;
        let result = r#"{"role":"tool","tool_call_id":"a"}"#;
        assert_eq!(sort_messages(&format!("[{both},{both},{result}]")), None);
        assert_eq!(sort_messages("5"), None);
        assert_eq!(sort_messages(r#"[5,{"tool_calls":5},{"tool_calls":[5,6]}]"#), None);
    }
}
