//! Finds the token counts in a body that is passed on: its last `usage`, wherever the pieces were cut.
//!
//! A quote inside a string is escaped, so that no text of a model looks like a member. Where a stream has no
//! `usage`, each event that adds something to the answer counts as a token, as it does on routes that are
//! translated. Pure. Invariant: a piece is searched once for each member, and at most 2 KiB are kept.

use std::sync::LazyLock;

use memchr::memmem::Finder;

use super::raw_object::RawObject;

/// The longest object that is read: those of OpenAI have some 300 bytes.
const MAX_OBJECT_BYTES: usize = 2048;

const USAGE: &[u8] = b"\"usage\":";

static USAGE_FINDER: LazyLock<Finder<'_>> = LazyLock::new(|| Finder::new(USAGE));
/// A member of each event that adds to an answer: of a chat, an object; of `responses`, a text.
static DELTA_FINDER: LazyLock<Finder<'_>> = LazyLock::new(|| Finder::new(b"\"delta\":"));
/// The same of a text completion.
static TEXT_FINDER: LazyLock<Finder<'_>> = LazyLock::new(|| Finder::new(b"\"text\":\""));

/// The beginnings of deltas that add nothing.
const EMPTY_DELTAS: [&[u8]; 6] = [
    b"{}",
    b"\"\"",
    b"{\"role\":\"assistant\"}",
    b"{\"role\":\"assistant\",\"content\":\"\"",
    b"{\"role\":\"assistant\",\"content\":null}",
    b"{\"content\":\"\"}",
];

/// What a body says of its tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TokenUsage {
    /// Tokens of the prompt.
    pub prompt: u64,
    /// Tokens of the answer.
    pub completion: u64,
    /// Tokens of the prompt that the upstream had in its cache, if it tells.
    pub cached: Option<u64>,
}

/// Follows a body to its end.
#[derive(Debug, Default)]
pub struct UsageScanner {
    found: Option<TokenUsage>,
    /// From the beginning of a member that was cut.
    partial: Vec<u8>,
    has_deltas: bool,
}

impl UsageScanner {
    /// Looks for counts in the next piece, and returns the last ones in it.
    pub fn push(&mut self, piece: &[u8]) -> Option<TokenUsage> {
        self.found = None;
        self.push_piece(piece);
        self.found
    }

    fn push_piece(&mut self, piece: &[u8]) {
        if !self.partial.is_empty() {
            let mut joined = std::mem::take(&mut self.partial);
            // A member that began before may be followed by another one.
            let room = (MAX_OBJECT_BYTES + USAGE.len()).saturating_sub(joined.len());
            joined.extend_from_slice(&piece[..piece.len().min(room)]);
            let is_all = piece.len() <= room;
            self.search(&joined, is_all);
            if is_all {
                return;
            }
        }
        self.search(piece, true);
    }

    /// The events in a piece of a stream that add something to the answer.
    pub fn count_deltas(&mut self, piece: &[u8]) -> u64 {
        let adds = |at: usize| {
            let value = &piece[at + b"\"delta\":".len()..];
            let value = value.strip_prefix(b" ").unwrap_or(value);
            u64::from(!EMPTY_DELTAS.iter().any(|empty| value.starts_with(empty)))
        };
        let (mut count, mut is_any) = (0, false);
        for at in DELTA_FINDER.find_iter(piece) {
            (count, is_any) = (count + adds(at), true);
        }
        self.has_deltas |= is_any;
        if self.has_deltas {
            return count;
        }
        let is_said = |at: &usize| piece.get(at + b"\"text\":\"".len()) != Some(&b'"');
        TEXT_FINDER.find_iter(piece).filter(is_said).count() as u64
    }

    fn search(&mut self, bytes: &[u8], may_be_cut: bool) {
        for at in USAGE_FINDER.find_iter(bytes) {
            let value = bytes[at + USAGE.len()..].trim_ascii_start();
            match object_end(value) {
                Some(end) => self.found = read_usage(&value[..end]).or(self.found),
                None if may_be_cut && is_open(value) && value.len() <= MAX_OBJECT_BYTES => {
                    self.partial = bytes[at..].to_vec();
                    return;
                }
                None => {}
            }
        }
        let tail = &bytes[bytes.len().saturating_sub(USAGE.len() - 1)..];
        if let Some(quote) = memchr::memrchr(b'"', tail).filter(|_| may_be_cut) {
            // The last quote begins the name, or ends it.
            let begins = |place: usize| USAGE.starts_with(&tail[place..]);
            let before = memchr::memrchr(b'"', &tail[..quote]);
            let place =
                before.filter(|place| begins(*place)).or(Some(quote).filter(|it| begins(*it)));
            self.partial.extend(place.into_iter().flat_map(|place| &tail[place..]));
        }
    }
}

/// Whether more of a value may follow: of an object, or of what is not there yet.
fn is_open(value: &[u8]) -> bool {
    value.first().is_none_or(|first| *first == b'{')
}

/// The length of an object; `None` if it is none, or not complete.
fn object_end(value: &[u8]) -> Option<usize> {
    let (mut depth, mut in_string, mut is_escaped) = (0_usize, false, false);
    if value.first() != Some(&b'{') {
        return None;
    }
    for (at, byte) in value.iter().enumerate().take(MAX_OBJECT_BYTES) {
        match byte {
            _ if is_escaped => is_escaped = false,
            b'\\' if in_string => is_escaped = true,
            b'"' => in_string = !in_string,
            b'{' if !in_string => depth += 1,
            b'}' if !in_string => {
                depth -= 1;
                if depth == 0 {
                    return Some(at + 1);
                }
            }
            _ => {}
        }
    }
    None
}

/// The counts of an object, under the names of either API; `None` if it has none.
fn read_usage(object: &[u8]) -> Option<TokenUsage> {
    let usage = RawObject::parse(std::str::from_utf8(object).ok()?)?;
    let number = |names: [&str; 2]| names.iter().find_map(|name| usage.get(name)?.parse().ok());
    let (prompt, completion): (Option<u64>, Option<u64>) =
        (number(["prompt_tokens", "input_tokens"]), number(["completion_tokens", "output_tokens"]));
    prompt.or(completion)?;
    let details = ["prompt_tokens_details", "input_tokens_details"];
    let details = details.iter().find_map(|name| RawObject::parse(usage.get(name)?));
    let in_details = details.and_then(|details| details.get("cached_tokens")?.parse().ok());
    let names = ["cache_read_input_tokens", "prompt_cache_hit_tokens", "cached_tokens"];
    let cached = in_details.or_else(|| names.iter().find_map(|it| usage.get(it)?.parse().ok()));
    let (prompt, completion) = (prompt.unwrap_or(0), completion.unwrap_or(0));
    Some(TokenUsage { prompt, completion, cached })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn usage(prompt: u64, completion: u64, cached: Option<u64>) -> Option<TokenUsage> {
        Some(TokenUsage { prompt, completion, cached })
    }

    #[test]
    fn counts_are_found_wherever_a_body_is_cut() {
        let chat = "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":9,\"completion_tokens\":12,\
                    \"prompt_tokens_details\":{\"cached_tokens\":4}}}\n\ndata: [DONE]\n\n";
        let responses = "event: response.completed\ndata: {\"response\":{\"output\":[{\"text\":\
                         \"\\\"usage\\\":{\\\"input_tokens\\\":1}\"}],\"tools\":[{\"usage\":{\"type\":1}}],\
                         \"usage\": {\"input_tokens\":5,\"input_tokens_details\":{\"cached_tokens\":0},\
                         \"output_tokens\":6,\"x\":\"}\\\"{\"}}}\n\n";
        let none = "data: {\"choices\":[{\"delta\":{\"content\":\"\\\"usage\\\":{\"}}],\"usage\":null}\n\n";
        let twice = "{\"usage\":{\"prompt_tokens\":1,\"completion_tokens\":1}}\n\n\
                     {\"usage\":{\"prompt_tokens\":1,\"completion_tokens\":2}}\n\n{\"usage\":null}";
        let vectors = "{\"data\":[{\"embedding\":[0.1,0.2]}],\"usage\":{\"prompt_tokens\":8,\"total_tokens\":8}}";
        for (body, expected) in [
            (chat, usage(9, 12, Some(4))),
            (responses, usage(5, 6, Some(0))),
            (none, None),
            (twice, usage(1, 2, None)),
            (vectors, usage(8, 0, None)),
            ("{\"usage\":{\"prompt_tokens\":-1,\"completion_tokens\":\"x\"}}", None),
            ("{\"usage\":{\"prompt_tokens\":1", None),
            ("", None),
        ] {
            for place in 0..=body.len() {
                let mut scanner = UsageScanner::default();
                let first = scanner.push(&body.as_bytes()[..place]);
                let found = scanner.push(&body.as_bytes()[place..]).or(first);
                assert_eq!(found, expected, "{body} at {place}");
            }
            let mut scanner = UsageScanner::default();
            let found = body.as_bytes().iter().filter_map(|byte| scanner.push(&[*byte])).last();
            assert_eq!(found, expected, "{body}");
        }
    }

    #[test]
    fn an_object_without_end_is_not_kept() {
        let mut scanner = UsageScanner::default();
        scanner.push(b"{\"usage\":{\"a\":\"");
        for _ in 0..100 {
            scanner.push(&[b'x'; 1000]);
            assert!(scanner.partial.len() <= MAX_OBJECT_BYTES + USAGE.len());
        }
        assert_eq!(scanner.push(b"\"usage\":{\"prompt_tokens\":3}"), usage(3, 0, None));
    }

    #[test]
    fn events_that_add_something_count_as_tokens() {
        let count = |stream: &str| UsageScanner::default().count_deltas(stream.as_bytes());
        let chat = [
            r#"{"choices":[{"delta":{"role":"assistant","content":""}}]}"#,
            r#"{"choices":[{"delta":{"content":"\"delta\":"}}]}"#,
            r#"{"choices":[{"delta":{"content":null,"reasoning_content":"x"}}]}"#,
            r#"{"choices":[{"delta":{"tool_calls":[{"index":0}]}}]}"#,
            r#"{"choices":[{"delta": {"content":"x"}}]}"#,
            r#"{"choices":[{"delta":{},"finish_reason":"stop"}]}"#,
            r#"{"choices":[{"delta":{"content":""},"finish_reason":"stop"}]}"#,
            r#"{"choices":[],"usage":null}"#,
        ];
        assert_eq!(count(&chat.join("\n\n")), 4);
        let responses = [
            r#"{"type":"response.output_text.delta","delta":"Hel"}"#,
            r#"{"type":"response.output_text.delta","delta":""}"#,
            r#"{"type":"response.output_text.done","text":"Hello"}"#,
        ];
        assert_eq!(count(&responses.join("\n\n")), 1);
        let completions = [r#"{"choices":[{"text":"a"}]}"#, r#"{"choices":[{"text":""}]}"#];
        assert_eq!(count(&completions.join("\n\n")), 1);
    }
}
