//! What an answer with calls holds that its upstream may want back: the reasoning that led to the calls,
//! and what OpenRouter sends in `reasoning_details` (OpenRouter documentation, reasoning tokens).
//!
//! Collected from the events of a stream or from a whole answer. Never decides whether it is sent back.
//! Invariant: bounded; what is too long is not kept at all, because a part of it would be a lie.

use std::borrow::Cow;

use crate::api::openai::chunk::Message;
use crate::api::openai::raw_object::{self, RawObject};
use crate::translate::tool_calls::CompleteToolCall;

/// The most bytes of reasoning, and of details, that are kept of one answer.
const MAX_BYTES: usize = 256 * 1024;

/// Members of a detail that come in pieces.
const PIECEWISE: &[&str] = &["text", "summary", "data"];

/// The kind of a detail that holds nothing readable.
const ENCRYPTED: &str = r#""reasoning.encrypted""#;

/// What is kept of one answer.
#[derive(Clone, Debug, Default)]
pub struct AnswerExtras {
    /// Its calls so far.
    pub calls: Vec<CompleteToolCall>,
    /// The reasoning; empty if there is none.
    reasoning: String,
    is_reasoning_too_long: bool,
    details: ReasoningDetails,
}

impl AnswerExtras {
    /// Adds a piece of reasoning.
    pub fn push_reasoning(&mut self, text: &str) {
        if self.is_reasoning_too_long || self.reasoning.len() + text.len() > MAX_BYTES {
            (self.is_reasoning_too_long, self.reasoning) = (true, String::new());
        } else {
            self.reasoning.push_str(text);
        }
    }

    /// Adds the details of a message, or of a piece of one.
    pub fn push_details(&mut self, message: &Message<'_>, is_whole: bool) {
        if let Some(details) = message.reasoning_details {
            self.details.push(details.get(), is_whole);
        }
    }

    /// The reasoning, if there is any.
    pub fn reasoning(&self) -> Option<&str> {
        (!self.reasoning.is_empty()).then_some(self.reasoning.as_str())
    }

    /// The details as a JSON list, and whether none of them can be read.
    pub fn details(&self) -> Option<(String, bool)> {
        self.details.to_json().map(|json| (json, self.details.is_opaque()))
    }

    /// True if there is something to keep beside the calls.
    pub fn has_reasoning(&self) -> bool {
        !self.reasoning.is_empty() || !self.details.entries.is_empty()
    }

    /// True if there is a call and something to keep with it.
    pub fn is_worth_keeping(&self) -> bool {
        let has_extra = || self.calls.iter().any(|call| call.extra_content.is_some());
        !self.calls.is_empty() && (self.has_reasoning() || has_extra())
    }
}

/// A list of details, as the upstream wrote them; pieces of one are joined.
#[derive(Clone, Debug, Default)]
struct ReasoningDetails {
    entries: Vec<RawObject<'static>>,
    length: usize,
    is_too_long: bool,
}

impl ReasoningDetails {
    /// Adds a list. The entries of a whole answer are complete.
    fn push(&mut self, list: &str, is_whole: bool) {
        let is_too_long = self.is_too_long || self.length + list.len() > MAX_BYTES;
        if is_too_long {
            *self = Self { is_too_long, ..Self::default() };
            return;
        }
        let pieces = raw_object::parse_items(list).unwrap_or_default().into_iter();
        for piece in pieces.filter_map(RawObject::parse) {
            self.length +=
                piece.members().map(|(key, value)| key.len() + value.len()).sum::<usize>();
            let begun = if is_whole { None } else { self.find_begun(&piece) };
            match begun {
                Some(place) => join(&mut self.entries[place], &piece),
                None => self.entries.push(piece.into_owned()),
            }
        }
    }

    /// The entry that a piece continues: that with the same type and index. Without an index, readable
    /// pieces that follow each other belong together. What belongs to different calls does not.
    fn find_begun(&self, piece: &RawObject<'_>) -> Option<usize> {
        let index = piece.get("index").filter(|index| *index != "null");
        let is_same = |entry: &RawObject<'_>| {
            let ids = [entry, piece].map(|it| it.get("id").filter(|id| *id != "null"));
            let is_other_call = matches!(ids, [Some(first), Some(second)] if first != second);
            let indexes = entry.get("index").filter(|index| *index != "null");
            entry.get("type") == piece.get("type") && indexes == index && !is_other_call
        };
        if index.is_some() {
            return self.entries.iter().rposition(is_same);
        }
        let last = self.entries.len().checked_sub(1)?;
        let is_readable = piece.get("type") != Some(ENCRYPTED);
        (is_readable && is_same(&self.entries[last])).then_some(last)
    }

    fn is_opaque(&self) -> bool {
        self.entries.iter().all(|entry| entry.get("type") == Some(ENCRYPTED))
    }

    fn to_json(&self) -> Option<String> {
        let entries: Vec<String> = self.entries.iter().map(RawObject::to_json).collect();
        (!entries.is_empty()).then(|| raw_object::join_items(&entries))
    }
}

/// Appends the texts of a piece, and takes its other members over.
fn join(entry: &mut RawObject<'static>, piece: &RawObject<'_>) {
    for (key, value) in piece.members().filter(|(_, value)| *value != "null") {
        let is_text = |value: &str| value.starts_with('"');
        let is_appended =
            PIECEWISE.contains(&key) && is_text(value) && entry.get(key).is_some_and(is_text);
        let value = if is_appended {
            // In place and as it is escaped: an answer may come in thousands of pieces.
            let mut begun = entry.take(key).unwrap_or_default().into_owned();
            begun.pop();
            begun.push_str(&value[1..]);
            begun
        } else {
            value.to_string()
        };
        entry.set(key, Cow::<'static, str>::Owned(value));
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    /// The details of an answer that comes in these lists.
    fn joined(lists: &[Value], is_whole: bool) -> Value {
        let mut details = ReasoningDetails::default();
        for list in lists {
            details.push(&list.to_string(), is_whole);
        }
        details.to_json().map_or(Value::Null, |json| serde_json::from_str(&json).expect("JSON"))
    }

    #[test]
    fn reasoning_is_kept_whole_or_not_at_all() {
        let kept = |pieces: &[usize]| {
            let mut extras = AnswerExtras::default();
            pieces.iter().for_each(|length| extras.push_reasoning(&"x".repeat(*length)));
            extras.reasoning().map(str::len)
        };
        assert_eq!(kept(&[]), None);
        assert_eq!(kept(&[1000, 1000]), Some(2000));
        assert_eq!(kept(&[MAX_BYTES - 1, 1]), Some(MAX_BYTES));
        assert_eq!(kept(&[MAX_BYTES + 1]), None);
        assert_eq!(kept(&[MAX_BYTES, 1, 1]), None);
    }

    #[test]
    fn pieces_of_one_detail_are_joined() {
        let text = |text: &str, index: usize| json!([{"type": "reasoning.text", "text": text, "index": index, "format": "x"}]);
        let sealed = |id: &str, index: usize| json!([{"type": "reasoning.encrypted", "data": id, "id": id, "index": index}]);
        let found = joined(
            &[
                text("H\"", 0),
                text("m\u{1F600}", 0),
                json!([{"type": "reasoning.text", "signature": "sig", "text": null, "index": 0}]),
                text("other", 1),
                sealed("a", 0),
                sealed("b", 0),
                text("!", 0),
            ],
            false,
        );
        let expected = json!([
            {"type": "reasoning.text", "text": "H\"m\u{1F600}!", "index": 0, "format": "x", "signature": "sig"},
            text("other", 1)[0], sealed("a", 0)[0], sealed("b", 0)[0]]);
        assert_eq!(found, expected);
    }

    #[test]
    fn details_without_an_index_are_joined_while_they_can_be_read() {
        let text = |text: &str| json!([{"type": "reasoning.summary", "summary": text}]);
        let sealed = |data: &str| json!([{"type": "reasoning.encrypted", "data": data}]);
        let found = joined(&[text("a"), text("b"), sealed("x"), sealed("y"), text("c")], false);
        let expected = [text("ab"), sealed("x"), sealed("y"), text("c")];
        assert_eq!(found, expected.iter().map(|it| it[0].clone()).collect::<Value>());
    }

    #[test]
    fn the_list_of_a_whole_answer_stays_as_it_is() {
        let list = r#"[{"type":"reasoning.text","text":"\u00e9","index":0},{"index":0,"type":"reasoning.text","text":"b","n":1.0}]"#;
        let mut details = ReasoningDetails::default();
        details.push(list, true);
        assert_eq!(details.to_json().as_deref(), Some(list));
        for other in [json!(null), json!([]), json!("hm"), json!({"type": "x"}), json!([1])] {
            assert_eq!(joined(&[other], true), Value::Null);
        }
    }

    #[test]
    fn what_is_too_long_is_not_kept() {
        let mut extras = AnswerExtras::default();
        extras.push_reasoning("hm");
        assert_eq!(extras.reasoning(), Some("hm"));
        extras.push_reasoning(&"x".repeat(MAX_BYTES));
        extras.push_reasoning("hm");
        assert_eq!(extras.reasoning(), None);
        let long = json!([{"type": "reasoning.text", "text": "x".repeat(MAX_BYTES)}]);
        let short = json!([{"type": "reasoning.text", "text": "x"}]);
        assert_eq!(joined(&[short.clone(), long, short], false), Value::Null);
    }
}
