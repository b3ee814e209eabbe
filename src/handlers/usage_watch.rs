//! Reads the tokens that an upstream counted out of a response that passes through unread.
//!
//! Only for requests whose client key is counted. Holds the last bytes of a body, between which the counts may
//! be split. Invariant: the counts are noted before the bytes that tell them go to the client.

use memchr::memmem;

use crate::api::openai::raw_object::RawObject;
use crate::upstream::Trace;

/// The longest counts, with what precedes them: as much of earlier bytes is held.
const TAIL_BYTES: usize = 4 * 1024;

/// What the object of the counts follows.
const USAGE: &[u8] = b"\"usage\"";

/// The members of the counts, of chat and of responses.
const PROMPT: [&str; 2] = ["prompt_tokens", "input_tokens"];
const RESPONSE: [&str; 2] = ["completion_tokens", "output_tokens"];

/// Watches one response.
#[derive(Default)]
pub(super) struct UsageWatch {
    tail: Vec<u8>,
    /// Events of a stream.
    events: u64,
}

impl UsageWatch {
    /// A watch for a request whose key is counted.
    pub(super) fn new(trace: &Trace) -> Option<Self> {
        trace.key_use.as_ref().map(|_| Self::default())
    }

    /// Looks at the next bytes of the body, and notes the counts if they are complete.
    pub(super) fn push(&mut self, bytes: &[u8], trace: &mut Trace) {
        self.events += memmem::find_iter(bytes, b"data:").count() as u64;
        self.tail.drain(..self.tail.len().saturating_sub(TAIL_BYTES));
        self.tail.extend_from_slice(bytes);
        // The counts are an object, which a brace ends.
        if memchr::memchr(b'}', bytes).is_some()
            && let Some(tokens) = find_usage(&self.tail)
        {
            trace.set_tokens(tokens);
        }
    }

    /// Notes the counts of a whole body.
    pub(super) fn note(body: &[u8], trace: &mut Trace) {
        let tokens = trace.key_use.as_ref().and_then(|_| find_usage(body));
        tokens.into_iter().for_each(|tokens| trace.set_tokens(tokens));
    }

    /// Events so far.
    pub(super) fn events(&self) -> u64 {
        self.events
    }
}

/// The counts that stand last in a text.
fn find_usage(text: &[u8]) -> Option<(u64, u64)> {
    let mut places = memmem::rfind_iter(text, USAGE);
    places.find_map(|at| read_usage(&text[at + USAGE.len()..]))
}

/// The counts of an object, behind a colon.
fn read_usage(text: &[u8]) -> Option<(u64, u64)> {
    let text = text.trim_ascii_start().strip_prefix(b":")?.trim_ascii_start();
    let end = object_end(text)?;
    let members = RawObject::parse(std::str::from_utf8(&text[..end]).ok()?)?;
    let count = |names: [&str; 2]| {
        let mut values = names.iter().filter_map(|name| members.get(name)?.parse::<u64>().ok());
        values.next()
    };
    let (prompt, response) = (count(PROMPT), count(RESPONSE));
    if prompt.is_none() && response.is_none() {
        return None;
    }
    Some((prompt.unwrap_or_default(), response.unwrap_or_default()))
}

/// The length of the object that a text begins with; counts have no braces in texts.
fn object_end(text: &[u8]) -> Option<usize> {
    let mut depth = 0_usize;
    for (at, byte) in text.iter().enumerate() {
        match byte {
            b'{' => depth += 1,
            b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth == 0 {
            return (*byte == b'}').then_some(at + 1);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_counts_of_a_text_are_found() {
        for (text, expected) in [
            (r#"{"choices":[],"usage":{"prompt_tokens":7,"completion_tokens":3}}"#, Some((7, 3))),
            (
                r#"data: {"usage": {"input_tokens":7,"input_tokens_details":{"cached_tokens":1},"output_tokens":2}}"#,
                Some((7, 2)),
            ),
            (r#"{"data":[],"usage":{"prompt_tokens":4,"total_tokens":4}}"#, Some((4, 0))),
            ("{\"usage\":null}{\"usage\":{\"prompt_tokens\":1}}{\"usage\":null}", Some((1, 0))),
            (r#"{"usage":{"prompt_tokens":7,"completion_tokens":3"#, None),
            (r#"{"usage":{"seconds":3}}"#, None),
            (r#"{"usage":"much"}"#, None),
            ("\"usage\"", None),
            ("", None),
        ] {
            assert_eq!(find_usage(text.as_bytes()), expected, "{text}");
        }
    }

    #[test]
    fn counts_are_found_however_the_bytes_are_split() {
        let text = "data: {\"a\":1}\n\ndata: {\"usage\":{\"prompt_tokens\":7,\"completion_tokens\":3}}\n\n";
        for size in 1..text.len() {
            let (mut watch, mut trace) = (UsageWatch::default(), Trace::default());
            text.as_bytes().chunks(size).for_each(|bytes| watch.push(bytes, &mut trace));
            assert_eq!(trace.tokens, (7, 3), "{size}");
        }
        let (mut watch, mut trace) = (UsageWatch::default(), Trace::default());
        (0..100).for_each(|_| watch.push(&[b'x'; 10_000], &mut trace));
        assert!(watch.tail.len() <= TAIL_BYTES + 10_000);
        watch.push(text.as_bytes(), &mut trace);
        assert_eq!((trace.tokens, watch.events()), ((7, 3), 2));
    }
}
