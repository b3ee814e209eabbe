//! Encodes a conversation as the `context` of `/api/generate`, a list of integers.
//!
//! Ollama returns token ids there and takes them back to continue. The proxy keeps no state, so its
//! list holds the conversation itself: a header of three numbers, then three bytes of JSON text in
//! each number. All are positive and below 2^31, because clients read 32-bit integers. Texts, calls
//! and results are encoded; images and audio are not, as in Ollama's tokens. A list of another origin
//! is ignored, never an error. Invariant: a list stays below what a client takes in one line; the
//! oldest turns are dropped to make room.

use std::borrow::Cow;

use serde::Serialize;
use serde_json::Value;

use crate::api::openai::request::{FunctionCall, Message, ToolCall};

/// The first number of every list: marks the encoding and its version.
const MAGIC: i32 = 0x0A11_A001;

/// Numbers before the text: magic, length of the text in bytes, checksum.
const HEADER_LEN: usize = 3;

/// The limit on the text in a list, in bytes. A number takes up to 9 characters of JSON and holds 3
/// bytes, and Ollama's Go client reads lines of up to 8 MB.
const MAX_BYTES: usize = 2 << 20;

/// A turn as it is encoded: a list of two or three values.
#[derive(Debug, Serialize)]
#[serde(untagged)]
enum TurnRecord<'a> {
    /// Role and text.
    Text(Cow<'a, str>, Cow<'a, str>),
    /// Role, text and calls of an assistant: id, name and arguments of each.
    Calls(Cow<'a, str>, Cow<'a, str>, Vec<(Cow<'a, str>, Cow<'a, str>, Cow<'a, str>)>),
    /// Role and text of a result, and the id of its call.
    ToolResult(Cow<'a, str>, Cow<'a, str>, Cow<'a, str>),
}

/// A conversation ready to be encoded, without media. Borrows nothing from the request.
#[derive(Clone, Debug, Default)]
pub struct Conversation(Vec<EncodedTurn>);

#[derive(Clone, Debug)]
struct EncodedTurn {
    is_system: bool,
    is_result: bool,
    json: String,
}

impl Conversation {
    /// Takes over these turns.
    pub fn from_messages(turns: &[Message<'_>]) -> Self {
        let mut conversation = Self::default();
        turns.iter().for_each(|turn| conversation.push(turn));
        conversation
    }

    /// Adds a turn at the end.
    pub fn push(&mut self, turn: &Message<'_>) {
        let json = to_record(turn).and_then(|record| serde_json::to_string(&record).ok());
        let (is_system, is_result) = (turn.role == "system", turn.tool_call_id.is_some());
        self.0.extend(json.map(|json| EncodedTurn { is_system, is_result, json }));
    }

    /// The list for the conversation.
    #[must_use]
    pub fn encode(self) -> Vec<i32> {
        let text = self.into_json(MAX_BYTES);
        let Ok(length) = i32::try_from(text.len()) else { return Vec::new() };
        let mut out = Vec::with_capacity(HEADER_LEN + text.len().div_ceil(3));
        out.extend([MAGIC, length, checksum(text.as_bytes())]);
        let number = |bytes: &[u8]| {
            bytes.iter().rev().fold(0, |number, byte| (number << 8) | i32::from(*byte))
        };
        out.extend(text.as_bytes().chunks(3).map(number));
        out
    }

    /// The conversation as JSON of at most `most` bytes. Drops the oldest turns until it fits, and the
    /// results of dropped calls; drops the system prompt last, as Ollama does if a conversation exceeds
    /// the context length.
    fn into_json(mut self, most: usize) -> String {
        let brackets = 2;
        let mut length = brackets + self.0.iter().map(|turn| turn.json.len() + 1).sum::<usize>();
        let mut was_dropped = false;
        self.0.retain(|turn| {
            let is_dropped = !turn.is_system && (length > most || (was_dropped && turn.is_result));
            if is_dropped {
                length -= turn.json.len() + 1;
            }
            was_dropped = is_dropped || (was_dropped && turn.is_system);
            !is_dropped
        });
        if length > most {
            self.0.clear();
        }
        let turns: Vec<String> = self.0.into_iter().map(|turn| turn.json).collect();
        format!("[{}]", turns.join(","))
    }
}

/// The record of a turn; `None` for a turn that holds only media.
fn to_record<'a>(turn: &'a Message<'_>) -> Option<TurnRecord<'a>> {
    let (role, text) = (Cow::Borrowed(turn.role.as_ref()), Cow::Borrowed(turn.as_text()));
    if let Some(id) = &turn.tool_call_id {
        return Some(TurnRecord::ToolResult(role, text, Cow::Borrowed(id)));
    }
    if turn.tool_calls.is_empty() {
        return (!turn.has_media() || !text.is_empty()).then_some(TurnRecord::Text(role, text));
    }
    let calls = turn.tool_calls.iter().map(|call| {
        let FunctionCall { name, arguments } = &call.function;
        (
            Cow::Borrowed(call.id.as_ref()),
            Cow::Borrowed(name.as_ref()),
            Cow::Borrowed(arguments.as_ref()),
        )
    });
    Some(TurnRecord::Calls(role, text, calls.collect()))
}

/// The conversation in a list; empty for a list of another origin.
pub fn decode(list: &[i64]) -> Vec<Message<'static>> {
    try_decode(list).unwrap_or_default()
}

fn try_decode(list: &[i64]) -> Option<Vec<Message<'static>>> {
    let (header, numbers) = list.split_at_checked(HEADER_LEN)?;
    let length = usize::try_from(header[1]).ok()?;
    if header[0] != i64::from(MAGIC) || numbers.len() != length.div_ceil(3) {
        return None;
    }
    let mut text = Vec::with_capacity(numbers.len() * 3);
    for number in numbers {
        let number = u32::try_from(*number).ok()?;
        text.extend_from_slice(&number.to_le_bytes()[..3]);
    }
    text.truncate(length);
    if i64::from(checksum(&text)) != header[2] {
        return None;
    }
    let turns: Vec<Value> = serde_json::from_slice(&text).ok()?;
    turns.into_iter().map(to_message).collect()
}

/// A message from the value of a [`TurnRecord`].
fn to_message(record: Value) -> Option<Message<'static>> {
    let Value::Array(mut values) = record else { return None };
    let last = if values.len() == 3 { values.pop() } else { None };
    let [role, text] = to_texts(values)?;
    let message = Message::text(role, text);
    Some(match last {
        None => message,
        Some(Value::String(id)) => Message { tool_call_id: Some(id.into()), ..message },
        Some(Value::Array(calls)) => {
            let tool_calls = calls.into_iter().map(to_call).collect::<Option<_>>()?;
            Message { tool_calls, ..message }
        }
        Some(_) => return None,
    })
}

fn to_call(record: Value) -> Option<ToolCall<'static>> {
    let Value::Array(values) = record else { return None };
    let [id, name, arguments] = to_texts(values)?;
    let function = FunctionCall { name, arguments };
    Some(ToolCall { id, kind: "function", function, extra_content: None })
}

/// `None` unless the list holds as many values, and each is a text.
fn to_texts<const N: usize>(values: Vec<Value>) -> Option<[Cow<'static, str>; N]> {
    let text = |value| match value {
        Value::String(text) => Some(Cow::Owned(text)),
        _ => None,
    };
    values.into_iter().map(text).collect::<Option<Vec<_>>>()?.try_into().ok()
}

/// The FNV-1a hash, cut to 31 bits. Detects lists of another origin by accident, not forged ones: a
/// client may send any conversation anyway.
fn checksum(text: &[u8]) -> i32 {
    let hash = text
        .iter()
        .fold(0x811C_9DC5_u32, |hash, byte| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193));
    i32::try_from(hash >> 1).unwrap_or(i32::MAX)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::translate::history;

    /// The messages that a chat with this history would send.
    fn turns(history: &Value) -> Value {
        let text = history.to_string();
        let history: Vec<_> = serde_json::from_str(&text).expect("valid");
        serde_json::to_value(history::to_openai(&history).expect("valid")).expect("JSON")
    }

    fn list(history: &Value) -> Vec<i64> {
        let text = history.to_string();
        let history: Vec<_> = serde_json::from_str(&text).expect("valid");
        let memory = Conversation::from_messages(&history::to_openai(&history).expect("valid"));
        memory.encode().into_iter().map(i64::from).collect()
    }

    fn check(history: &Value) -> Vec<i64> {
        let list = list(history);
        assert!(list.iter().all(|number| (0..=i64::from(i32::MAX)).contains(number)), "{list:?}");
        assert_eq!(serde_json::to_value(decode(&list)).expect("JSON"), turns(history), "{history}");
        list
    }

    #[test]
    fn a_conversation_comes_back_whole() {
        for length in 0..12 {
            let content: String = "aé😀\n\"x\\".chars().cycle().take(length).collect();
            check(&json!([{"role": "user", "content": "Hi"},
                {"role": "assistant", "content": content}]));
        }
    }

    #[test]
    fn calls_and_their_results_come_back_linked() {
        let call = |name: &str| json!({"function": {"name": name, "arguments": {"é": [1, "\""]}}});
        check(&json!([
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "Time?"},
            {"role": "assistant", "content": "", "tool_calls": [call("f"), call("g")]},
            {"role": "tool", "content": "2", "tool_name": "g"},
            {"role": "tool", "content": "", "tool_name": "f"},
            {"role": "assistant", "content": "Done."},
        ]));
    }

    #[test]
    fn media_stay_behind_and_their_text_does_not() {
        let image = "iVBORw0KGgo=";
        let list = list(&json!([{"role": "user", "content": "Look", "images": [image]},
            {"role": "user", "images": [image]}, {"role": "assistant", "content": ""}]));
        let back = serde_json::to_value(decode(&list)).expect("JSON");
        assert_eq!(
            back,
            json!([{"role": "user", "content": "Look"},
            {"role": "assistant", "content": ""}])
        );
    }

    #[test]
    fn the_oldest_turns_make_room_and_take_their_results_along() {
        let call = json!({"id": "c", "function": {"name": "f", "arguments": {}}});
        let history =
            json!([{"role": "system", "content": "S"}, {"role": "user", "content": "one"},
            {"role": "assistant", "content": "", "tool_calls": [call]},
            {"role": "tool", "content": "1", "tool_call_id": "c"},
            {"role": "assistant", "content": "two"}, {"role": "user", "content": "three"}])
            .to_string();
        let history: Vec<_> = serde_json::from_str(&history).expect("valid");
        let messages = history::to_openai(&history).expect("valid");
        let text = |most: usize| Conversation::from_messages(&messages).into_json(most);
        let whole = text(usize::MAX);
        assert_eq!(text(whole.len() + 1), whole);
        let check = |most: usize, expected: &str| assert_eq!(text(most), expected);
        let end = r#"["assistant","two"],["user","three"]]"#;
        let one = r#"["user","one"],"#.len();
        let calls = r#"[["system","S"],["assistant","",[["c","f","{}"]]],["tool","1","c"],"#;
        check(whole.len() + 1 - one, &format!("{calls}{end}"));
        check(whole.len() - one, &format!(r#"[["system","S"],{end}"#));
        check(45, r#"[["system","S"],["user","three"]]"#);
        check(20, r#"[["system","S"]]"#);
        check(10, "[]");
    }

    #[test]
    fn a_list_fits_into_a_line() {
        let long = "\u{7f}".repeat(MAX_BYTES);
        let turns = [Message::text("user", "old"), Message::text("user", &long[..MAX_BYTES - 30])];
        let list = Conversation::from_messages(&turns).encode();
        let line = serde_json::to_string(&list).expect("JSON");
        assert!(list.len() > MAX_BYTES / 4 && line.len() < 8_000_000, "{}", line.len());
    }

    #[test]
    fn lists_of_anybody_else_are_ignored() {
        assert!(decode(&[]).is_empty());
        assert!(decode(&[1, 42, 7]).is_empty());
        assert!(decode(&[i64::from(MAGIC), i64::MAX, 0]).is_empty());
        let mut list = check(&json!([{"role": "user", "content": "Hi"}]));
        for at in 0..list.len() {
            list[at] ^= 1;
            assert!(decode(&list).is_empty(), "number {at} changed");
            list[at] ^= 1;
        }
        list.pop();
        assert!(decode(&list).is_empty());
    }
}
