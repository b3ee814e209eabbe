//! Answers of an upstream (openai-wire.md 2, 4); those with vectors are in [`super::embeddings`].
//!
//! Everything is optional, and a member of an unexpected type counts as absent: a server that
//! writes `"created":"now"` must not cost an answer. Strings borrow from the event they came in
//! where they can, because chunks are the hot path.

use std::borrow::Cow;
use std::fmt;
use std::ops::Deref;

use serde::de::{Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, de};
use serde_json::Value;
use serde_json::value::RawValue;

/// A chunk of a stream, a whole answer of `chat/completions`, or one of `completions`: they differ
/// only in which member of a choice holds the text (openai-wire.md 4.1, 4.2, 4.11).
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Chunk<'a> {
    /// Usually one, sometimes none.
    #[serde(borrow, deserialize_with = "or_default")]
    pub choices: Vec<Choice<'a>>,
    /// The counts; on one chunk, or on several, of which the last counts.
    #[serde(deserialize_with = "lenient")]
    pub usage: Option<Usage>,
    /// llama.cpp's own times.
    #[serde(deserialize_with = "lenient")]
    pub timings: Option<Timings>,
    /// vLLM's own times.
    #[serde(deserialize_with = "lenient")]
    pub metrics: Option<VllmMetrics>,
    /// Groq's extras.
    #[serde(borrow, deserialize_with = "lenient")]
    pub x_groq: Option<GroqExtension<'a>>,
    /// An error inside a success.
    #[serde(borrow)]
    pub error: Option<&'a RawValue>,
    /// `error` on servers that do not wrap their errors.
    #[serde(borrow, deserialize_with = "lenient")]
    pub object: Option<Cow<'a, str>>,
}

/// One answer out of several.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Choice<'a> {
    /// Which one; only the first is used.
    #[serde(deserialize_with = "lenient")]
    pub index: Option<u64>,
    /// What a chunk adds.
    #[serde(borrow, deserialize_with = "lenient")]
    pub delta: Option<Message<'a>>,
    /// The whole message; some gateways send it in chunks too.
    #[serde(borrow, deserialize_with = "lenient")]
    pub message: Option<Message<'a>>,
    /// The text of `completions`.
    #[serde(borrow)]
    pub text: Option<Content<'a>>,
    /// Why it ended.
    #[serde(borrow, deserialize_with = "lenient")]
    pub finish_reason: Option<BorrowedString<'a>>,
    /// Log probabilities of the tokens in this chunk.
    #[serde(deserialize_with = "logprobs")]
    pub logprobs: Option<Logprobs>,
    /// The alternatives of the one token in this chunk (Together).
    #[serde(deserialize_with = "lenient")]
    pub top_logprobs: Option<serde_json::Map<String, Value>>,
}

/// A message, whole or in part.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Message<'a> {
    /// A string, null, or a list of parts.
    #[serde(borrow)]
    pub content: Option<Content<'a>>,
    /// Reasoning, by its first name.
    #[serde(borrow)]
    pub reasoning_content: Option<Content<'a>>,
    /// Reasoning, by its second name.
    #[serde(borrow)]
    pub reasoning: Option<Content<'a>>,
    /// Reasoning, by its third name, in parts.
    #[serde(borrow)]
    pub reasoning_details: Option<Content<'a>>,
    /// Why the model would not answer.
    #[serde(borrow)]
    pub refusal: Option<Content<'a>>,
    /// Calls, or pieces of calls.
    #[serde(borrow, deserialize_with = "or_default")]
    pub tool_calls: Vec<ToolCallDelta<'a>>,
    /// A call in the form that came before `tool_calls`.
    #[serde(borrow, deserialize_with = "lenient")]
    pub function_call: Option<FunctionCallDelta<'a>>,
}

/// A call, or a piece of one (openai-wire.md 4.6).
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct ToolCallDelta<'a> {
    /// Which call it belongs to; missing on some servers, 0 for all calls on others.
    #[serde(deserialize_with = "lenient")]
    pub index: Option<u64>,
    /// The call's id, on its first piece.
    #[serde(borrow, deserialize_with = "lenient")]
    pub id: Option<BorrowedString<'a>>,
    /// What is called.
    #[serde(borrow, deserialize_with = "lenient")]
    pub function: Option<FunctionCallDelta<'a>>,
    /// What is to come back with the call (Gemini).
    #[serde(borrow)]
    pub extra_content: Option<&'a RawValue>,
}

/// The function of a [`ToolCallDelta`].
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct FunctionCallDelta<'a> {
    /// Its name, on the first piece.
    #[serde(borrow, deserialize_with = "lenient")]
    pub name: Option<BorrowedString<'a>>,
    /// JSON as a string, or a piece of it; an object on some servers.
    #[serde(borrow)]
    pub arguments: Option<&'a RawValue>,
}

/// Log probabilities in both of OpenAI's shapes (openai-wire.md 4.9). One number, or a list of
/// them, is read as `token_logprobs` without their tokens.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Logprobs {
    /// The shape of `chat/completions`.
    #[serde(deserialize_with = "or_default")]
    pub content: Vec<TokenLogprob>,
    /// The shape of `completions`: tokens, ...
    #[serde(deserialize_with = "or_default")]
    pub tokens: Vec<String>,
    /// ... their log probabilities, ...
    #[serde(deserialize_with = "or_default")]
    pub token_logprobs: Vec<Option<f64>>,
    /// ... and the alternatives of each.
    #[serde(deserialize_with = "or_default")]
    pub top_logprobs: Vec<Option<serde_json::Map<String, Value>>>,
}

/// The log probability of a token.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct TokenLogprob {
    /// The token's text.
    #[serde(deserialize_with = "or_default")]
    pub token: String,
    /// Its log probability.
    #[serde(deserialize_with = "lenient")]
    pub logprob: Option<f64>,
    /// Its probability, which llama.cpp tells instead where it looks at them after sampling.
    #[serde(deserialize_with = "lenient")]
    pub prob: Option<f64>,
    /// The alternatives.
    #[serde(alias = "top_probs", deserialize_with = "or_default")]
    pub top_logprobs: Vec<TokenLogprob>,
}

/// A string that borrows where it can.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct BorrowedString<'a>(#[serde(borrow)] pub Cow<'a, str>);

impl Deref for BorrowedString<'_> {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

/// Text, or parts of text and reasoning (openai-wire.md 4.1).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Content<'a> {
    /// The text.
    pub text: Cow<'a, str>,
    /// Reasoning that came as parts of type `thinking`.
    pub thinking: String,
}

impl<'de: 'a, 'a> Deserialize<'de> for Content<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ContentVisitor)
    }
}

struct ContentVisitor;

impl<'de> Visitor<'de> for ContentVisitor {
    type Value = Content<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("text or parts")
    }

    fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Self::Value, E> {
        Ok(Content { text: Cow::Borrowed(text), thinking: String::new() })
    }

    fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
        Ok(Content { text: Cow::Owned(text.to_owned()), thinking: String::new() })
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut parts: A) -> Result<Self::Value, A::Error> {
        let mut content = Content::default();
        while let Some(part) = parts.next_element::<Value>()? {
            add_part(&part, &mut content);
        }
        Ok(content)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(Content::default())
    }

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(Content::default())
    }

    fn visit_bool<E>(self, _: bool) -> Result<Self::Value, E> {
        Ok(Content::default())
    }

    fn visit_i64<E>(self, _: i64) -> Result<Self::Value, E> {
        Ok(Content::default())
    }

    fn visit_u64<E>(self, _: u64) -> Result<Self::Value, E> {
        Ok(Content::default())
    }

    fn visit_f64<E>(self, _: f64) -> Result<Self::Value, E> {
        Ok(Content::default())
    }
}

/// Adds one part of a content list; parts of unknown type are skipped.
fn add_part(part: &Value, content: &mut Content<'_>) {
    match part.get("type").and_then(Value::as_str) {
        Some("thinking") => match part.get("thinking") {
            Some(Value::String(text)) => content.thinking.push_str(text),
            Some(Value::Array(inner)) => {
                for text in inner.iter().filter_map(|part| part.get("text")?.as_str()) {
                    content.thinking.push_str(text);
                }
            }
            _ => {}
        },
        _ => {
            if let Some(text) = part.get("text").and_then(Value::as_str) {
                content.text.to_mut().push_str(text);
            }
        }
    }
}

/// Token counts (openai-wire.md 4.10), with the times that Groq and LocalAI put beside them.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Usage {
    /// Tokens of the prompt, cached ones included.
    #[serde(deserialize_with = "lenient")]
    pub prompt_tokens: Option<u64>,
    /// Tokens of the answer.
    #[serde(deserialize_with = "lenient")]
    pub completion_tokens: Option<u64>,
    /// Their sum, by which a server that counts reasoning apart can be told.
    #[serde(deserialize_with = "lenient")]
    pub total_tokens: Option<u64>,
    /// The parts of `completion_tokens`.
    #[serde(deserialize_with = "lenient")]
    pub completion_tokens_details: Option<CompletionTokensDetails>,
    /// Seconds (Groq).
    #[serde(deserialize_with = "lenient")]
    pub prompt_time: Option<f64>,
    /// Seconds (Groq).
    #[serde(deserialize_with = "lenient")]
    pub completion_time: Option<f64>,
    /// Milliseconds (LocalAI).
    #[serde(deserialize_with = "lenient")]
    pub timing_prompt_processing: Option<f64>,
    /// Milliseconds (LocalAI).
    #[serde(deserialize_with = "lenient")]
    pub timing_token_generation: Option<f64>,
}

/// The parts of a token count.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct CompletionTokensDetails {
    /// Tokens of hidden or shown reasoning.
    #[serde(deserialize_with = "lenient")]
    pub reasoning_tokens: Option<u64>,
}

/// llama.cpp's own measurements (openai-wire.md 9.2).
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Timings {
    /// Prompt tokens found in the cache.
    #[serde(deserialize_with = "lenient")]
    pub cache_n: Option<u64>,
    /// Prompt tokens worked through.
    #[serde(deserialize_with = "lenient")]
    pub prompt_n: Option<u64>,
    /// Milliseconds for them.
    #[serde(deserialize_with = "lenient")]
    pub prompt_ms: Option<f64>,
    /// Tokens made.
    #[serde(deserialize_with = "lenient")]
    pub predicted_n: Option<u64>,
    /// Milliseconds for them.
    #[serde(deserialize_with = "lenient")]
    pub predicted_ms: Option<f64>,
}

/// vLLM's own measurements, where its server was told to send them.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct VllmMetrics {
    /// Milliseconds until the first token, those in the queue included.
    #[serde(deserialize_with = "lenient")]
    pub time_to_first_token_ms: Option<f64>,
    /// Milliseconds in the queue.
    #[serde(deserialize_with = "lenient")]
    pub queue_time_ms: Option<f64>,
    /// Milliseconds for the answer.
    #[serde(deserialize_with = "lenient")]
    pub generation_time_ms: Option<f64>,
}

/// Groq's extras.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct GroqExtension<'a> {
    /// The counts, on the last chunk.
    #[serde(deserialize_with = "lenient")]
    pub usage: Option<Usage>,
    /// A failure inside the stream.
    #[serde(borrow)]
    pub error: Option<&'a RawValue>,
}

/// Takes a member of the right type and lets any other count as absent.
pub(super) fn lenient<'de, D, T>(deserializer: D) -> Result<Option<T>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    let raw = <Option<&'de RawValue>>::deserialize(deserializer)?;
    Ok(raw.and_then(|raw| serde_json::from_str(raw.get()).ok()))
}

/// Log probabilities of any shape: an object, numbers, or one number.
fn logprobs<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Logprobs>, D::Error> {
    let Some(raw) = <Option<&'de RawValue>>::deserialize(deserializer)? else { return Ok(None) };
    let numbers = |token_logprobs| Logprobs { token_logprobs, ..Logprobs::default() };
    Ok(match raw.get().as_bytes().first() {
        Some(b'{') => serde_json::from_str(raw.get()).ok(),
        Some(b'[') => serde_json::from_str(raw.get()).ok().map(numbers),
        _ => serde_json::from_str(raw.get()).ok().map(|number| numbers(vec![Some(number)])),
    })
}

/// As [`lenient`], with the type's default instead of nothing; for lists that may be `null`.
fn or_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de> + Default,
{
    lenient(deserializer).map(Option::unwrap_or_default)
}

impl<'a> Chunk<'a> {
    /// Reads an event or a whole body.
    ///
    /// # Errors
    /// When it is no JSON object. The error repeats no text of it.
    pub fn parse(data: &'a str) -> Result<Self, serde_json::Error> {
        if data.trim_start().starts_with('{') {
            serde_json::from_str(data)
        } else {
            // What is read for nothing would be repeated in the error.
            Err(de::Error::custom("not an object"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_of_unexpected_types_count_as_absent() {
        let text = r#"{"choices":[{"index":"a","delta":{"content":7,"reasoning":null},"finish_reason":5}],
            "usage":{"prompt_tokens":"x","completion_tokens":4},"timings":3,"error":null}"#;
        let chunk = Chunk::parse(text).expect("valid JSON");
        let choice = &chunk.choices[0];
        assert_eq!(choice.index, None);
        assert_eq!(choice.finish_reason, None);
        let delta = choice.delta.as_ref().expect("an object");
        assert_eq!(delta.content, Some(Content::default()));
        assert_eq!(chunk.usage.expect("an object").completion_tokens, Some(4));
        assert!(chunk.timings.is_none() && chunk.error.is_none());
    }

    #[test]
    fn null_and_absent_choices_are_none() {
        for text in [r#"{"choices":null}"#, "{}", r#"{"choices":[]}"#, r#"{"choices":{}}"#] {
            assert!(Chunk::parse(text).expect("valid JSON").choices.is_empty(), "{text}");
        }
    }

    #[test]
    fn content_may_come_in_parts() {
        let text = r#"{"choices":[{"delta":{"content":[{"type":"thinking","thinking":[{"type":"text","text":"hm"}]},
            {"type":"text","text":"a"},{"type":"image"},{"type":"text","text":"b"}]}}]}"#;
        let chunk = Chunk::parse(text).expect("valid JSON");
        let content = chunk.choices[0].delta.as_ref().and_then(|delta| delta.content.clone());
        let content = content.expect("present");
        assert_eq!((content.text.as_ref(), content.thinking.as_str()), ("ab", "hm"));
    }

    #[test]
    fn plain_text_is_borrowed() {
        let chunk = Chunk::parse(r#"{"choices":[{"delta":{"content":"Hi"}}]}"#).expect("valid");
        let delta = chunk.choices[0].delta.as_ref().expect("present");
        let content = delta.content.as_ref().expect("present");
        assert!(matches!(content.text, Cow::Borrowed("Hi")));
    }

    #[test]
    fn what_is_no_object_is_an_error() {
        assert!(Chunk::parse("[]").is_err());
        assert!(Chunk::parse("<html>").is_err());
    }
}
