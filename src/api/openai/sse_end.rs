//! Detects the end of a stream of events that is passed on.
//!
//! Where the end of the connection ends the body, a truncated stream looks like a complete one; only
//! its content can tell. A stream is complete after `[DONE]`, or after an event that ends a response:
//! a choice with a `finish_reason`, a last event of Responses or of a transcription, an error.
//! `[DONE]` counts at once, an event only with its blank line, because clients drop one without. An
//! event that starts after such an event (usually the counts) must be complete too.
//!
//! Pure. Looks at each byte once, wherever the pieces were cut, and keeps at most one short word.

/// `type` in the last event of a stream.
const FINAL_EVENT_TYPES: &[&[u8]] = &[
    b"response.completed",
    b"response.incomplete",
    b"response.failed",
    b"transcript.text.done",
    b"error",
];

/// The field that holds the data of an event.
const DATA_FIELD: &[u8] = b"data:";

/// The data that ends a stream.
const DONE_MARKER: &[u8] = b"[DONE]";

/// The depth of a choice's members: `{"choices":[{`.
const CHOICE_DEPTH: usize = 3;

/// The length of the longest string that is compared.
const MAX_STRING_BYTES: usize = 24;

/// Follows a stream to its end.
#[derive(Debug, Default)]
pub struct EndDetector {
    line_state: LineState,
    /// The last byte was a CR, after which an LF is no line end of its own.
    after_cr: bool,
    json: JsonScanner,
    /// True after `[DONE]`.
    has_done_marker: bool,
    /// True after an event that ends a response.
    has_final_event: bool,
    /// True within an event.
    is_event_open: bool,
}

/// The position within a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum LineState {
    /// Behind so many bytes of `data:`; 0 at its start.
    Name(usize),
    /// At the value of `data:`, behind so many bytes of `[DONE]`.
    Value(usize),
    /// Within JSON.
    Json,
    /// In a line that is ignored.
    Other,
}

impl Default for LineState {
    fn default() -> Self {
        Self::Name(0)
    }
}

impl EndDetector {
    /// Scans the next piece.
    pub fn push(&mut self, piece: &[u8]) {
        for &byte in piece {
            if self.has_done_marker {
                return;
            }
            self.push_byte(byte);
        }
    }

    /// True if the stream is complete.
    pub fn is_complete(&self) -> bool {
        self.has_done_marker || (self.has_final_event && !self.is_event_open)
    }

    fn push_byte(&mut self, byte: u8) {
        let crlf = std::mem::replace(&mut self.after_cr, byte == b'\r') && byte == b'\n';
        if crlf {
            return;
        }
        if matches!(byte, b'\r' | b'\n') {
            if self.line_state == LineState::Name(0) {
                self.has_final_event |= self.json.is_final;
                (self.json, self.is_event_open) = (JsonScanner::default(), false);
            }
            self.line_state = LineState::Name(0);
            return;
        }
        self.line_state = match (self.line_state, byte) {
            // A byte order mark may precede the first line.
            (LineState::Name(0), 0xef | 0xbb | 0xbf) => LineState::Name(0),
            // Some servers omit the field's name.
            (LineState::Name(0), b'{') => LineState::Json,
            (LineState::Name(length), _) if byte != DATA_FIELD[length] => LineState::Other,
            (LineState::Name(length), _) if length + 1 < DATA_FIELD.len() => {
                LineState::Name(length + 1)
            }
            (LineState::Name(_), _) | (LineState::Value(0), b' ') => LineState::Value(0),
            (LineState::Value(length), _) if byte == DONE_MARKER[length] => {
                self.has_done_marker = length + 1 == DONE_MARKER.len();
                LineState::Value(length + 1)
            }
            (LineState::Value(_) | LineState::Json, _) => LineState::Json,
            (LineState::Other, _) => LineState::Other,
        };
        if matches!(self.line_state, LineState::Value(1..) | LineState::Json) {
            self.json.push_byte(byte);
        }
        self.is_event_open |= !matches!(self.line_state, LineState::Name(0) | LineState::Other);
    }
}

/// A member that may end a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Member {
    FinishReason,
    Type,
    Error,
}

/// The position within an event's JSON.
#[derive(Debug, Default)]
struct JsonScanner {
    depth: usize,
    in_string: bool,
    escaped: bool,
    /// The first bytes of the last string.
    string: [u8; MAX_STRING_BYTES],
    /// The length of the last string.
    string_len: usize,
    /// The member whose value follows.
    member: Option<Member>,
    /// True if the event ends the stream.
    is_final: bool,
}

impl JsonScanner {
    fn push_byte(&mut self, byte: u8) {
        match byte {
            _ if self.in_string => self.push_string_byte(byte),
            b'"' => (self.in_string, self.string_len) = (true, 0),
            b':' => self.member = self.member_of_string(),
            b',' => self.member = None,
            b'{' | b'[' => {
                self.is_final |= self.member == Some(Member::Error);
                (self.member, self.depth) = (None, self.depth + 1);
            }
            b'}' | b']' => {
                (self.member, self.depth) = (None, self.depth.saturating_sub(1));
            }
            _ => {}
        }
    }

    fn push_string_byte(&mut self, byte: u8) {
        if !self.escaped && byte == b'"' {
            self.in_string = false;
            self.is_final |= match self.member {
                Some(Member::FinishReason | Member::Error) => self.string_len > 0,
                Some(Member::Type) => FINAL_EVENT_TYPES.contains(&self.last_string()),
                None => false,
            };
            return;
        }
        self.escaped = !self.escaped && byte == b'\\';
        if let Some(place) = self.string.get_mut(self.string_len) {
            *place = byte;
        }
        self.string_len = self.string_len.saturating_add(1);
    }

    fn member_of_string(&self) -> Option<Member> {
        match (self.depth, self.last_string()) {
            (CHOICE_DEPTH, b"finish_reason") => Some(Member::FinishReason),
            (1, b"type") => Some(Member::Type),
            (1, b"error") => Some(Member::Error),
            _ => None,
        }
    }

    /// The last string; empty if it is longer than any that is compared.
    fn last_string(&self) -> &[u8] {
        self.string.get(..self.string_len).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_seen<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> bool {
        let mut end = EndDetector::default();
        pieces.into_iter().for_each(|piece| end.push(piece));
        end.is_complete()
    }

    /// The shortest beginning of a stream that is whole is this long, however it is cut.
    #[track_caller]
    fn check(stream: &str, whole: Option<usize>) {
        let bytes = stream.as_bytes();
        for at in 0..=bytes.len() {
            let expected = whole.is_some_and(|whole| at >= whole);
            assert_eq!(is_seen([&bytes[..at]]), expected, "{:?}", &stream.get(..at));
            assert_eq!(is_seen(bytes[..at].chunks(1)), expected, "{:?}", &stream.get(..at));
            let (first, second) = bytes.split_at(at);
            assert_eq!(is_seen([first, second]), whole.is_some(), "{at}: {stream}");
        }
    }

    #[track_caller]
    fn ends(stream: &str) {
        check(stream, Some(stream.len()));
    }

    const TEXT: &str =
        r#"data: {"choices":[{"index":0,"delta":{"content":"x"},"finish_reason":null}]}"#;

    #[test]
    fn the_mark_ends_a_stream() {
        ends("data: [DONE]");
        ends("data:[DONE]");
        ends(&format!("\u{feff}{TEXT}\r\n\r\n: comment\rdata:  [DONE]"));
        let usage = "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":5}}";
        ends(&format!("{TEXT}\n\n{usage}\n\ndata: [DONE]"));
    }

    #[test]
    fn an_event_that_ends_an_answer_ends_a_stream() {
        let reason = TEXT.replace("null", " \"stop\"");
        for blank in ["\n\n", "\r\r", "\r\n\n", "\r\n\r"] {
            ends(&format!("{TEXT}\n\nid: 7\n{reason}{blank}"));
        }
        ends(&format!("{}\n\n", &reason["data: ".len()..]));
        ends(
            "event: x\ndata: {\"choices\":[{\"text\":\"x\",\ndata: \"finish_reason\":\"length\"}]}\n\n",
        );
        for last in FINAL_EVENT_TYPES {
            let last = String::from_utf8_lossy(last);
            ends(&format!(
                "event: {last}\ndata: {{\"sequence_number\":9,\"type\":\"{last}\"}}\n\n"
            ));
        }
        ends("data: {\"error\":{\"message\":\"m\"}}\n\n");
        ends("data: {\"error\":\"m\"}\n\n");
        ends("data: {\"error\":[\"m\"]}\n\n");
    }

    #[test]
    fn what_was_begun_behind_the_end_has_to_be_whole() {
        let whole = format!("{}\n\n", TEXT.replace("null", "\"stop\""));
        let usage = "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":5}}\n\n";
        for at in 0..=usage.len() {
            let stream = format!("{whole}{}", &usage[..at]);
            let expected = at == 0 || at == usage.len();
            assert_eq!(is_seen([stream.as_bytes()]), expected, "{stream}");
            assert_eq!(is_seen(stream.as_bytes().chunks(1)), expected, "{stream}");
        }
        assert!(is_seen([format!("{whole}: a comment\n\ndata: [DONE]").as_bytes()]));
        assert!(is_seen([format!("{whole}: a comment").as_bytes()]));
    }

    #[test]
    fn nothing_else_does() {
        let said =
            |text: &str| TEXT.replace("\"x\"", &serde_json::Value::from(text).to_string()) + "\n\n";
        for text in [
            "[DONE]",
            "data: [DONE]\n\n",
            "\"finish_reason\":\"stop\"",
            "\\\"finish_reason\":\"stop\"",
            "{\"type\":\"response.completed\"}",
            "}]}\n\n",
        ] {
            check(&said(text), None);
        }
        let data = |data: &str| check(&format!("data: {data}\n\n"), None);
        data("[DON]");
        data("[[DONE]]");
        data(r#"["[DONE]"]"#);
        data(r#"{"finish_reason":"stop"}"#);
        data(r#"{"choices":[{"delta":{"finish_reason":"stop"}}]}"#);
        data(r#"{"choices":[{"finish_reason":""}],"error":null}"#);
        data(r#"{"choices":[{"finish_reason":null,"x":"stop"}]}"#);
        data(r#"{"type":"response.output_text.done","response":{"type":"response.completed"}}"#);
        data(r#"{"type":"response.created","response":{"error":{}},"x":"error"}"#);
        data(&format!(r#"{{"type":"response.completed{}"}}"#, "x".repeat(99)));
        check("event: response.completed\ndata: {}\n\n: data: [DONE]\n\nxdata: [DONE]\n\n", None);
        check(&format!("{}\n", TEXT.replace("null", "\"stop\"")), None);
    }
}
