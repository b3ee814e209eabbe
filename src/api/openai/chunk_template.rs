//! Recognises a chunk that differs from an earlier one only in its text.
//!
//! Nearly all chunks of a stream do: the same id, model and members, and another token. One of them is
//! parsed in full; of those like it only the text is read, between the same bytes before it and the
//! same bytes behind it, in a tenth of the time. The result equals that of a full parse, because
//! nothing but the value of one string has changed. OpenAI pads its chunks with a meaningless string
//! (`obfuscation`), which may differ as well. Never decides what a chunk means: the full parse does.

use std::borrow::Cow;

use super::chunk::{Chunk, Content};

/// OpenAI's padding, which hides the length of the text.
const PADDING_KEY: &str = "\"obfuscation\":\"";

/// The text that a chunk adds, if it adds nothing else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TextDelta<'a> {
    /// The text.
    pub text: &'a str,
    /// True for reasoning.
    pub is_thinking: bool,
}

/// A chunk to compare others with; an empty one matches none.
#[derive(Clone, Debug, Default)]
pub struct ChunkTemplate {
    /// The event before the text.
    prefix: String,
    /// The event from the quote behind the text on, up to the padding if there is one.
    suffix: String,
    /// The event from the quote behind the padding on.
    after_padding: Option<String>,
    is_thinking: bool,
}

impl ChunkTemplate {
    /// Stores a chunk that adds nothing but text, and the `event` that it borrows from.
    pub fn capture(&mut self, event: &str, chunk: &Chunk<'_>) {
        self.prefix.clear();
        let Some(TextDelta { text, is_thinking }) = extract_text_delta(chunk) else { return };
        // The text borrows from the event, so this is its offset.
        let start = (text.as_ptr() as usize).wrapping_sub(event.as_ptr() as usize);
        let Some((front, rest)) = event.split_at_checked(start) else { return };
        let Some(behind) = rest.strip_prefix(text) else { return };
        if !front.ends_with('"') || !behind.starts_with('"') {
            return;
        }
        self.is_thinking = is_thinking;
        let cut = behind.find(PADDING_KEY).map(|at| behind.split_at(at + PADDING_KEY.len()));
        let (behind, end) = match cut.map(|(behind, rest)| (behind, split_plain_string(rest))) {
            Some((behind, Some((_, end)))) => (behind, Some(end.to_owned())),
            _ => (behind, None),
        };
        self.after_padding = end;
        self.suffix.clear();
        self.suffix.push_str(behind);
        self.prefix.push_str(front);
    }

    /// The text that an event adds, if the event matches the template.
    pub fn match_event<'a>(&self, event: &'a str) -> Option<TextDelta<'a>> {
        if self.prefix.is_empty() {
            return None;
        }
        let (text, rest) = split_plain_string(event.strip_prefix(self.prefix.as_str())?)?;
        let is_like = match &self.after_padding {
            None => rest == self.suffix,
            Some(end) => split_plain_string(rest.strip_prefix(self.suffix.as_str())?)?.1 == end,
        };
        // A chunk without text is of another kind.
        if !is_like || text.is_empty() {
            return None;
        }
        Some(TextDelta { text, is_thinking: self.is_thinking })
    }
}

/// Splits a text at the quote that ends a string, if the string contains no escape.
fn split_plain_string(text: &str) -> Option<(&str, &str)> {
    let special = |byte: &u8| matches!(byte, b'"' | b'\\' | 0..0x20);
    let end = text.as_bytes().iter().position(special)?;
    (text.as_bytes()[end] == b'"').then(|| text.split_at(end))
}

/// The text, or the reasoning, of a chunk that adds nothing else.
fn extract_text_delta<'a>(chunk: &Chunk<'a>) -> Option<TextDelta<'a>> {
    let says_more = chunk.usage.is_some()
        || chunk.timings.is_some()
        || chunk.metrics.is_some()
        || chunk.x_groq.is_some()
        || chunk.error.is_some()
        || chunk.object.as_deref() == Some("error");
    let [choice] = chunk.choices.as_slice() else { return None };
    let says_more = says_more
        || choice.index.unwrap_or(0) != 0
        || choice.message.is_some()
        || choice.finish_reason.is_some()
        || choice.logprobs.is_some()
        || choice.top_logprobs.is_some();
    if says_more {
        return None;
    }
    let Some(delta) = &choice.delta else {
        return single_borrowed_text([&choice.text], false);
    };
    if !delta.tool_calls.is_empty() || delta.function_call.is_some() || delta.refusal.is_some() {
        return None;
    }
    // They may have to be sent back, so that each is read.
    if delta.reasoning_details.is_some_and(|details| !matches!(details.get(), "null" | "[]")) {
        return None;
    }
    let reasoning = [&delta.reasoning_content, &delta.reasoning];
    let is_silent = reasoning.iter().all(|content| is_empty(content));
    if is_silent && is_empty(&choice.text) {
        return single_borrowed_text([&delta.content], false);
    }
    let is_thinking = is_empty(&delta.content) && is_empty(&choice.text);
    if is_thinking { single_borrowed_text(reasoning, true) } else { None }
}

fn is_empty(content: &Option<Content<'_>>) -> bool {
    content.as_ref().is_none_or(|it| it.text.is_empty() && it.thinking.is_empty())
}

/// The only text among these, if it borrows from the event.
fn single_borrowed_text<'a, const N: usize>(
    contents: [&Option<Content<'a>>; N],
    is_thinking: bool,
) -> Option<TextDelta<'a>> {
    let mut texts = contents.into_iter().filter(|content| !is_empty(content)).flatten();
    match (texts.next(), texts.next()) {
        (Some(Content { text: Cow::Borrowed(text), thinking }), None) if thinking.is_empty() => {
            Some(TextDelta { text, is_thinking })
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OPENAI: &str = r#"{"id":"c-1","object":"chat.completion.chunk","created":1,"model":"m","system_fingerprint":null,"choices":[{"index":0,"delta":{"content":" Hi"},"logprobs":null,"finish_reason":null}],"usage":null,"obfuscation":"x9Kd"}"#;
    const DEEPSEEK: &str = r#"{"id":"1","choices":[{"index":0,"delta":{"content":null,"reasoning_content":"hm"},"finish_reason":null}]}"#;
    const COMPLETION: &str = r#"{"choices":[{"text":"é","index":0,"logprobs":null}]}"#;
    const OPENROUTER: &str = r#"{"choices":[{"index":0,"delta":{"role":"assistant","content":"","reasoning":"a"},"finish_reason":null,"native_finish_reason":null}]}"#;
    const LEARNABLE: [&str; 4] = [OPENAI, DEEPSEEK, COMPLETION, OPENROUTER];

    fn learnt(event: &str) -> ChunkTemplate {
        let mut repeated = ChunkTemplate::default();
        repeated.capture(event, &Chunk::parse(event).expect("valid JSON"));
        repeated
    }

    /// What reading it in full gives.
    fn in_full(event: &str) -> Option<TextDelta<'_>> {
        extract_text_delta(&Chunk::parse(event).ok()?)
    }

    #[test]
    fn chunks_that_differ_in_their_text_are_recognised() {
        for event in LEARNABLE {
            let repeated = learnt(event);
            let own = in_full(event).expect("it adds text");
            assert_eq!(repeated.match_event(event), Some(own), "{event}");
            let quoted = format!("\"{}\"", own.text);
            for other in [" world", "😀", "}", "[DONE]", "<b>&", "a,b:c"] {
                let changed = event.replacen(&quoted, &format!("\"{other}\""), 1);
                let expected = TextDelta { text: other, ..own };
                assert_eq!(repeated.match_event(&changed), Some(expected), "{changed}");
            }
        }
        let padded = OPENAI.replace("x9Kd", "").replace(" Hi", "longer");
        let expected = TextDelta { text: "longer", is_thinking: false };
        assert_eq!(learnt(OPENAI).match_event(&padded), Some(expected));
    }

    /// One byte is taken out, put in or changed, at each place; and each end is cut off.
    fn mutations(event: &str) -> Vec<String> {
        let mut found = Vec::new();
        for at in 0..event.len() {
            let bytes = event.as_bytes();
            found.push([&bytes[..at], &bytes[at + 1..]].concat());
            found.push(bytes[..at].to_vec());
            for byte in [b'"', b'\\', b'a', b'1', b'}', b',', b' ', b'\n', 0x01] {
                found.push([&bytes[..at], &[byte], &bytes[at..]].concat());
                found.push([&bytes[..at], &[byte], &bytes[at + 1..]].concat());
            }
        }
        found.into_iter().filter_map(|bytes| String::from_utf8(bytes).ok()).collect()
    }

    #[test]
    fn what_is_recognised_is_what_reading_in_full_gives() {
        let mut recognised = 0;
        for event in LEARNABLE {
            let repeated = learnt(event);
            for changed in mutations(event) {
                if let Some(added) = repeated.match_event(&changed) {
                    assert_eq!(Some(added), in_full(&changed), "{changed}");
                    recognised += 1;
                }
            }
        }
        assert!(recognised > 20, "{recognised}");
    }

    #[test]
    fn a_chunk_that_says_more_is_not_learnt() {
        let choice = |rest: &str| format!(r#"{{"choices":[{{"delta":{{"content":"a"}}{rest}}}]}}"#);
        let expected = TextDelta { text: "a", is_thinking: false };
        assert_eq!(learnt(&choice("")).match_event(&choice("")), Some(expected));
        for more in [
            choice(r#","finish_reason":"stop""#),
            choice(r#","finish_reason":"""#),
            choice(r#","index":1"#),
            choice(r#","logprobs":{"content":[]}"#),
            choice(r#","message":{"content":"b"}"#),
            choice(r#","text":"b""#),
            r#"{"choices":[{"delta":{"content":"a"}},{"delta":{"content":"b"}}]}"#.into(),
            r#"{"choices":[{"delta":{"content":"a"}}],"usage":{"prompt_tokens":1}}"#.into(),
            r#"{"choices":[{"delta":{"content":"a"}}],"error":{"message":"no"}}"#.into(),
            r#"{"choices":[{"delta":{"content":"a"}}],"object":"error"}"#.into(),
            r#"{"choices":[{"delta":{"content":"a","reasoning":"b"}}]}"#.into(),
            r#"{"choices":[{"delta":{"content":"a","refusal":"b"}}]}"#.into(),
            r#"{"choices":[{"delta":{"content":"a","reasoning_details":[{"data":"b"}]}}]}"#.into(),
            r#"{"choices":[{"delta":{"content":"a","tool_calls":[{"id":"1"}]}}]}"#.into(),
            r#"{"choices":[{"delta":{"content":"a\n"}}]}"#.into(),
            r#"{"choices":[{"delta":{"content":""}}]}"#.into(),
            r#"{"choices":[{"delta":{"content":[{"type":"text","text":"a"}]}}]}"#.into(),
            r#"{"choices":[]}"#.into(),
        ] {
            assert_eq!(learnt(&more).match_event(&more), None, "{more}");
        }
        assert_eq!(ChunkTemplate::default().match_event("\"\""), None);
    }
}
