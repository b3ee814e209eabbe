//! Finds what the upstream may want back with the calls of an answer that is passed on.
//!
//! Looks at the pieces of a body as they go by. Of a stream of events, a line is parsed when it may hold
//! reasoning; lines with calls wait, and are parsed at the end if there is something to keep with the
//! calls. Of other answers nothing is parsed but a whole body that holds both. Never changes or holds back
//! a piece. Pure. Invariant: memory is bounded; of an answer that exceeds the bounds nothing is kept.

use std::borrow::Cow;
use std::sync::LazyLock;

use memchr::{memmem, memrchr2};

use crate::api::openai::chunk::{Choice, Chunk, Message};
use crate::api::openai::chunk_template::ChunkTemplate;
use crate::translate::answer_extras::AnswerExtras;
use crate::translate::tool_calls::ToolCallAssembler;

/// The longest line, and the most bytes of lines with calls.
const MAX_LINE_BYTES: usize = 256 * 1024;

/// The longest answer that is no stream of events.
const MAX_WHOLE_BYTES: usize = 1024 * 1024;

/// A text that is searched for.
struct Needle(memmem::Finder<'static>);

impl Needle {
    fn new(text: &'static str) -> Self {
        Self(memmem::Finder::new(text))
    }

    fn is_in(&self, bytes: &[u8]) -> bool {
        self.0.find(bytes).is_some()
    }
}

static CALLS: LazyLock<Needle> = LazyLock::new(|| Needle::new("\"tool_calls\""));
static EXTRA: LazyLock<Needle> = LazyLock::new(|| Needle::new("extra_content"));
static REASONING: LazyLock<Needle> = LazyLock::new(|| Needle::new("\"reasoning"));
static DONE: LazyLock<Needle> = LazyLock::new(|| Needle::new("[DONE]"));
/// A reason, not `null`.
static REASONS: LazyLock<[Needle; 2]> =
    LazyLock::new(|| [Needle::new("\"finish_reason\":\""), Needle::new("\"finish_reason\": \"")]);

/// What has been seen of one answer.
#[derive(Debug)]
pub struct AnswerWatcher {
    is_event_stream: bool,
    /// The beginning of a line, or of a body that is no stream of events.
    pending: Vec<u8>,
    /// Lines with calls.
    calls: Vec<String>,
    calls_length: usize,
    template: ChunkTemplate,
    extras: AnswerExtras,
    /// True if there is something that was not returned yet.
    is_changed: bool,
    /// True once the answer has exceeded a bound.
    is_off: bool,
}

impl AnswerWatcher {
    /// Before the first piece.
    pub fn new(is_event_stream: bool) -> Self {
        Self {
            is_event_stream,
            pending: Vec::new(),
            calls: Vec::new(),
            calls_length: 0,
            template: ChunkTemplate::default(),
            extras: AnswerExtras::default(),
            is_changed: false,
            is_off: false,
        }
    }

    /// Looks at a piece. Returns what there is to keep where the client may take the answer for complete.
    pub fn push(&mut self, piece: &[u8]) -> Option<AnswerExtras> {
        if self.is_off {
            return None;
        }
        let found =
            if self.is_event_stream { self.push_events(piece) } else { self.push_body(piece) };
        if self.is_off {
            *self = Self { is_off: true, ..Self::new(self.is_event_stream) };
        }
        found
    }

    /// What there is to keep at the end that was not returned before.
    pub fn finish(&mut self) -> Option<AnswerExtras> {
        let rest = std::mem::take(&mut self.pending);
        if self.is_event_stream {
            self.read_lines(&rest);
        }
        self.collect()
    }

    fn push_body(&mut self, piece: &[u8]) -> Option<AnswerExtras> {
        self.is_off = self.pending.len() + piece.len() > MAX_WHOLE_BYTES;
        if self.is_off {
            return None;
        }
        self.pending.extend_from_slice(piece);
        let is_whole = piece.trim_ascii_end().ends_with(b"}");
        if is_whole { read_whole(&self.pending) } else { None }
    }

    fn push_events(&mut self, piece: &[u8]) -> Option<AnswerExtras> {
        let end = memrchr2(b'\n', b'\r', piece).map_or(0, |place| place + 1);
        let (ended, rest) = piece.split_at(end);
        let lines = if self.pending.is_empty() || ended.is_empty() {
            Cow::Borrowed(ended)
        } else {
            self.pending.extend_from_slice(ended);
            Cow::Owned(std::mem::take(&mut self.pending))
        };
        self.pending.extend_from_slice(rest);
        self.is_off = self.pending.len() > MAX_LINE_BYTES;
        self.read_lines(&lines);
        let may_end = !self.calls.is_empty()
            && (DONE.is_in(&lines) || REASONS.iter().any(|reason| reason.is_in(&lines)));
        if may_end { self.collect() } else { None }
    }

    /// Reads whole lines, most of which hold nothing to look at.
    fn read_lines(&mut self, lines: &[u8]) {
        if self.is_off || !(CALLS.is_in(lines) || REASONING.is_in(lines)) {
            return;
        }
        for line in lines.split(|byte| matches!(byte, b'\n' | b'\r')) {
            let Some(data) = line.strip_prefix(b"data:") else { continue };
            let Ok(data) = str::from_utf8(data.trim_ascii()) else { continue };
            if REASONING.is_in(data.as_bytes()) {
                self.read_reasoning(data);
            }
            if CALLS.is_in(data.as_bytes()) {
                self.calls_length += data.len();
                self.calls.push(data.to_owned());
                self.is_changed = true;
            }
        }
        self.is_off |= self.calls_length > MAX_LINE_BYTES;
    }

    fn read_reasoning(&mut self, data: &str) {
        if let Some(added) = self.template.match_event(data) {
            if added.is_thinking {
                self.extras.push_reasoning(added.text);
                self.is_changed = true;
            }
            return;
        }
        let Ok(chunk) = Chunk::parse(data) else { return };
        self.template.capture(data, &chunk);
        if let Some(message) = first_message(chunk, false) {
            self.is_changed |= push_message(&mut self.extras, &message, false);
        }
    }

    fn collect(&mut self) -> Option<AnswerExtras> {
        let has_extra = || self.calls.iter().any(|line| EXTRA.is_in(line.as_bytes()));
        let is_due = self.is_changed && !self.calls.is_empty() && !self.is_off;
        if !is_due || !(self.extras.has_reasoning() || has_extra()) {
            return None;
        }
        self.is_changed = false;
        let messages =
            self.calls.iter().filter_map(|line| first_message(Chunk::parse(line).ok()?, false));
        let extras = with_calls(self.extras.clone(), messages, false);
        extras.is_worth_keeping().then_some(extras)
    }
}

/// What there is to keep of a whole answer.
pub fn read_whole(body: &[u8]) -> Option<AnswerExtras> {
    if !CALLS.is_in(body) || !(EXTRA.is_in(body) || REASONING.is_in(body)) {
        return None;
    }
    let chunk = Chunk::parse(str::from_utf8(body).ok()?).ok()?;
    let message = first_message(chunk, true)?;
    let mut extras = AnswerExtras::default();
    push_message(&mut extras, &message, true);
    let extras = with_calls(extras, std::iter::once(message), true);
    extras.is_worth_keeping().then_some(extras)
}

/// The message of the first choice.
fn first_message(chunk: Chunk<'_>, is_whole: bool) -> Option<Message<'_>> {
    let choice = chunk.choices.into_iter().find(|choice| choice.index.unwrap_or(0) == 0)?;
    let Choice { delta, message, .. } = choice;
    if is_whole { message.or(delta) } else { delta.or(message) }
}

/// Adds the reasoning of a message; returns whether there was any.
fn push_message(extras: &mut AnswerExtras, message: &Message<'_>, is_whole: bool) -> bool {
    let texts = [&message.reasoning_content, &message.reasoning].into_iter().flatten();
    let text = texts.map(|content| content.text.as_ref()).find(|text| !text.is_empty());
    extras.push_reasoning(text.unwrap_or_default());
    extras.push_details(message, is_whole);
    text.is_some() || message.reasoning_details.is_some()
}

/// Adds the calls of an answer.
fn with_calls<'a>(
    mut extras: AnswerExtras,
    messages: impl Iterator<Item = Message<'a>>,
    is_whole: bool,
) -> AnswerExtras {
    let mut calls = ToolCallAssembler::new("");
    for message in messages {
        for (place, mut fragment) in message.tool_calls.into_iter().enumerate() {
            if is_whole {
                fragment.index = Some(place as u64);
            }
            calls.push(fragment);
        }
    }
    extras.calls = calls.take_complete(true);
    extras
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn event(delta: &Value, reason: &Value) -> String {
        let chunk = json!({"choices": [{"index": 0, "delta": delta, "finish_reason": reason}]});
        format!("data: {chunk}\r\n\r\n")
    }

    fn call(id: &str, arguments: &str, extra: Option<&str>) -> Value {
        let mut call = json!({"index": 0, "function": {"arguments": arguments}});
        if !id.is_empty() {
            call["id"] = id.into();
            call["function"]["name"] = "f".into();
        }
        extra.iter().for_each(|extra| call["extra_content"] = json!({ "s": extra }));
        json!({"tool_calls": [call]})
    }

    /// An answer with reasoning, details behind the calls, and an extra that comes apart from its call.
    fn full() -> String {
        let events = [
            event(&json!({"role": "assistant", "reasoning": "", "content": null}), &Value::Null),
            event(&json!({"reasoning": "I \"s"}), &Value::Null),
            event(&json!({"reasoning": "ee"}), &Value::Null),
            event(&json!({"reasoning": "!é"}), &Value::Null),
            event(&call("a", "{\"n\"", None), &Value::Null),
            event(&call("", ":1}", Some("1")), &Value::Null),
            event(&json!({}), &"tool_calls".into()),
            event(
                &json!({"reasoning_details": [{"type": "t", "text": "x", "index": 0}]}),
                &Value::Null,
            ),
            event(
                &json!({"reasoning_details": [{"type": "t", "text": "y", "index": 0}]}),
                &Value::Null,
            ),
            "data: [DONE]\r\n\r\n".to_owned(),
        ];
        events.concat()
    }

    fn check_full(found: &AnswerExtras) {
        let calls: Vec<_> = found
            .calls
            .iter()
            .map(|call| (call.id.as_str(), call.arguments.as_str(), call.extra_content.as_deref()))
            .collect();
        assert_eq!(calls, [("a", r#"{"n":1}"#, Some(r#"{"s":"1"}"#))]);
        assert_eq!(found.reasoning(), Some("I \"see!é"));
        let details = found.details().map(|(json, _)| json);
        assert_eq!(details.as_deref(), Some(r#"[{"index":0,"text":"xy","type":"t"}]"#));
    }

    #[test]
    fn a_stream_is_read_wherever_it_is_cut() {
        let text = full();
        for length in [1, 2, 7, 64, 1000, text.len()] {
            let mut watcher = AnswerWatcher::new(true);
            let found = text.as_bytes().chunks(length).filter_map(|piece| watcher.push(piece));
            // A blank line at the end makes no difference.
            check_full(&found.last().expect("the end was seen"));
            assert!(watcher.finish().is_none(), "nothing is new");
        }
        let cut = text.split("data: [DONE]").next().expect("a beginning");
        let mut watcher = AnswerWatcher::new(true);
        let early = watcher.push(cut.as_bytes()).expect("a finish reason is an end");
        check_full(&early);
        let mut watcher = AnswerWatcher::new(true);
        watcher.push(cut.trim_end().as_bytes());
        check_full(&watcher.finish().expect("the end is an end"));
    }

    #[test]
    fn a_whole_answer_is_read_once_it_is_whole() {
        let mut message = call("a", r#"{"n":1}"#, Some("1"));
        message["reasoning_content"] = "I \"see!é".into();
        message["reasoning_details"] = json!([{"type": "t", "text": "xy", "index": 0}]);
        let text = json!({"choices": [{"message": message}], "usage": {}}).to_string() + "\n";
        check_full(&read_whole(text.as_bytes()).expect("worth keeping"));
        for length in [1, 16, text.len()] {
            let mut watcher = AnswerWatcher::new(false);
            let found: Vec<_> =
                text.as_bytes().chunks(length).filter_map(|piece| watcher.push(piece)).collect();
            check_full(found.first().expect("the end was seen"));
            assert!(watcher.finish().is_none());
        }
    }

    #[test]
    fn nothing_is_parsed_without_something_to_keep() {
        let mut watcher = AnswerWatcher::new(true);
        let plain = event(&json!({"content": "extra_content \"reasoning\""}), &Value::Null);
        let calls = event(&call("a", "{}", None), &"tool_calls".into());
        for text in [plain.as_str(), &calls, "data: [DONE]\n\n"] {
            assert!(watcher.push(text.as_bytes()).is_none());
        }
        assert!(!watcher.extras.has_reasoning() && watcher.extras.calls.is_empty());
        let reasoning = event(&json!({"reasoning": "hm"}), &"stop".into());
        let mut watcher = AnswerWatcher::new(true);
        assert!(watcher.push(reasoning.as_bytes()).is_none() && watcher.finish().is_none());
        assert!(read_whole(br#"{"choices":[{"message":{"reasoning":"hm"}}]}"#).is_none());
        for odd in
            ["data: {\"tool_calls\" \"reasoning\"\n", "\"tool_calls\" extra_content\n", "\r\n"]
        {
            let mut watcher = AnswerWatcher::new(true);
            assert!(watcher.push(odd.as_bytes()).is_none() && watcher.finish().is_none(), "{odd}");
        }
    }

    #[test]
    fn memory_is_bounded() {
        for (is_event_stream, text) in [
            (true, "x".repeat(1024)),
            (true, event(&call("a", &"1".repeat(1024), Some("1")), &Value::Null)),
            (false, "x".repeat(1024)),
        ] {
            let mut watcher = AnswerWatcher::new(is_event_stream);
            let mut most = 0;
            for _ in 0..4 * MAX_WHOLE_BYTES / 1024 {
                watcher.push(text.as_bytes());
                most = most.max(watcher.pending.len() + watcher.calls_length);
            }
            assert!(watcher.is_off && watcher.pending.is_empty() && watcher.calls.is_empty());
            assert!(most <= MAX_WHOLE_BYTES, "{most}");
            assert!(watcher.push(full().as_bytes()).is_none() && watcher.finish().is_none());
        }
    }
}
