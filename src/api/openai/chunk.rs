//! Responses of an upstream, whole or in chunks; those with vectors are in [`super::embeddings`].
//!
//! Every member is optional, and one of an unexpected type counts as absent: a server that writes
//! `"created":"now"` must not cost a response. Strings borrow from the event where they can, because
//! chunks are the hot path.

use std::borrow::Cow;
use std::fmt;

use serde::de::{Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, de};
use serde_json::Value;
use serde_json::value::RawValue;

use super::lenient::{Member, lenient as lenient_types};
use crate::api::ollama::decode::GoString;

/// A chunk of a stream, or a whole response, of `chat/completions` or `completions`: they differ only
/// in which member of a choice holds the text.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Chunk<'a> {
    /// Usually one, sometimes none.
    #[serde(borrow, deserialize_with = "lenient")]
    pub choices: Vec<Choice<'a>>,
    /// The counts; the last chunk that has them counts.
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

/// One of several alternatives.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Choice<'a> {
    /// Its index; only the first choice is used.
    #[serde(deserialize_with = "lenient")]
    pub index: Option<u64>,
    /// What the chunk adds.
    #[serde(borrow, deserialize_with = "lenient")]
    pub delta: Option<Message<'a>>,
    /// The whole message; some gateways send it in chunks too.
    #[serde(borrow, deserialize_with = "lenient")]
    pub message: Option<Message<'a>>,
    /// The text of `completions`.
    #[serde(borrow)]
    pub text: Option<Content<'a>>,
    /// Why the model stopped.
    #[serde(borrow, deserialize_with = "lenient")]
    pub finish_reason: Option<GoString<'a>>,
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
    /// Reasoning (DeepSeek, vLLM and others).
    #[serde(borrow)]
    pub reasoning_content: Option<Content<'a>>,
    /// Reasoning (OpenRouter, Groq and others).
    #[serde(borrow)]
    pub reasoning: Option<Content<'a>>,
    /// Reasoning in parts, as it was written: it may have to be sent back (OpenRouter).
    #[serde(borrow)]
    pub reasoning_details: Option<&'a RawValue>,
    /// The text with which the model refuses.
    #[serde(borrow)]
    pub refusal: Option<Content<'a>>,
    /// Calls, or pieces of calls.
    #[serde(borrow, deserialize_with = "lenient")]
    pub tool_calls: Vec<ToolCallDelta<'a>>,
    /// A call in the deprecated form.
    #[serde(borrow, deserialize_with = "lenient")]
    pub function_call: Option<FunctionCallDelta<'a>>,
}

/// The member of a message that holds reasoning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReasoningField {
    /// [`Message::reasoning_content`].
    ReasoningContent,
    /// [`Message::reasoning`].
    Reasoning,
}

/// A call, or a piece of one.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct ToolCallDelta<'a> {
    /// Which call it belongs to; missing on some servers, 0 for all calls on others.
    #[serde(deserialize_with = "lenient")]
    pub index: Option<u64>,
    /// The call's id, on its first piece.
    #[serde(borrow, deserialize_with = "lenient")]
    pub id: Option<GoString<'a>>,
    /// The function that is called.
    #[serde(borrow, deserialize_with = "lenient")]
    pub function: Option<FunctionCallDelta<'a>>,
    /// Data that must be sent back with the call (Gemini).
    #[serde(borrow)]
    pub extra_content: Option<&'a RawValue>,
}

/// The function of a [`ToolCallDelta`].
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct FunctionCallDelta<'a> {
    /// Its name, on the first piece.
    #[serde(borrow, deserialize_with = "lenient")]
    pub name: Option<GoString<'a>>,
    /// JSON as a string, or a piece of it; an object on some servers.
    #[serde(borrow)]
    pub arguments: Option<&'a RawValue>,
}

/// Text, or parts of text and reasoning.
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
    if part["type"] != "thinking" {
        content.text.to_mut().push_str(part["text"].as_str().unwrap_or_default());
        return;
    }
    match &part["thinking"] {
        Value::String(text) => content.thinking.push_str(text),
        Value::Array(inner) => {
            content.thinking.extend(inner.iter().filter_map(|part| part["text"].as_str()));
        }
        _ => {}
    }
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

lenient_types! {
    /// Log probabilities in both of OpenAI's shapes. One number, or a list of
    /// them, is read as `token_logprobs` without their tokens.
    pub struct Logprobs {
        /// The shape of `chat/completions`.
        pub content: Vec<TokenLogprob>,
        /// The shape of `completions`: tokens, ...
        pub tokens: Vec<String>,
        /// ... their log probabilities, ...
        pub token_logprobs: Vec<Option<f64>>,
        /// ... and the alternatives of each.
        pub top_logprobs: Vec<Option<serde_json::Map<String, Value>>>,
    }

    /// The log probability of a token.
    pub struct TokenLogprob {
        /// The token's text.
        pub token: String,
        /// Its log probability.
        pub logprob: Option<f64>,
        /// Its probability, which llama.cpp sends instead for probabilities after sampling.
        pub prob: Option<f64>,
        /// The alternatives.
        pub top_logprobs or "top_probs": Vec<TokenLogprob>,
    }

    /// Token counts, with the times that Groq and LocalAI put beside them.
    pub struct Usage {
        /// Tokens of the prompt, cached ones included.
        pub prompt_tokens: Option<u64>,
        /// Tokens of the output.
        pub completion_tokens: Option<u64>,
        /// Their sum, which reveals a server that counts reasoning separately.
        pub total_tokens: Option<u64>,
        /// The parts of `completion_tokens`.
        pub completion_tokens_details: Option<CompletionTokensDetails>,
        /// The parts of `prompt_tokens`.
        pub prompt_tokens_details: Option<PromptTokensDetails>,
        /// Generated tokens that were reasoning (SGLang).
        pub reasoning_tokens: Option<u64>,
        /// Prompt tokens found in the cache (DeepSeek).
        pub prompt_cache_hit_tokens: Option<u64>,
        /// Prompt tokens found in the cache (Moonshot).
        pub cached_tokens: Option<u64>,
        /// Prompt tokens found in the cache (gateways, by Anthropic's name).
        pub cache_read_input_tokens: Option<u64>,
        /// Prompt tokens written to the cache (gateways, by Anthropic's name).
        pub cache_creation_input_tokens: Option<u64>,
        /// Seconds (Groq).
        pub prompt_time: Option<f64>,
        /// Seconds (Groq).
        pub completion_time: Option<f64>,
        /// Milliseconds (LocalAI).
        pub timing_prompt_processing: Option<f64>,
        /// Milliseconds (LocalAI).
        pub timing_token_generation: Option<f64>,
    }

    /// The parts of a token count.
    pub struct CompletionTokensDetails {
        /// Tokens of hidden or shown reasoning.
        pub reasoning_tokens: Option<u64>,
    }

    /// The parts of a token count.
    pub struct PromptTokensDetails {
        /// Tokens found in the cache.
        pub cached_tokens: Option<u64>,
        /// Tokens written to the cache (OpenRouter).
        pub cache_write_tokens: Option<u64>,
        /// The same (LiteLLM).
        pub cache_creation_tokens: Option<u64>,
    }

    /// llama.cpp's own measurements.
    pub struct Timings {
        /// Prompt tokens found in the cache.
        pub cache_n: Option<u64>,
        /// Prompt tokens processed.
        pub prompt_n: Option<u64>,
        /// Milliseconds for these tokens.
        pub prompt_ms: Option<f64>,
        /// Tokens generated.
        pub predicted_n: Option<u64>,
        /// Milliseconds for these tokens.
        pub predicted_ms: Option<f64>,
    }

    /// vLLM's own measurements, if its server is configured to send them.
    pub struct VllmMetrics {
        /// Milliseconds until the first token, time in the queue included.
        pub time_to_first_token_ms: Option<f64>,
        /// Milliseconds in the queue.
        pub queue_time_ms: Option<f64>,
        /// Milliseconds for the output.
        pub generation_time_ms: Option<f64>,
    }
}

/// Reads a member. A value that is `null` or of another type counts as absent, which is the default
/// of `T`.
pub(super) fn lenient<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de> + Default,
{
    let raw = <Option<&'de RawValue>>::deserialize(deserializer)?;
    Ok(raw.and_then(|raw| serde_json::from_str(raw.get()).ok()).unwrap_or_default())
}

/// Log probabilities of any shape: an object, numbers, or one number.
fn logprobs<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Logprobs>, D::Error> {
    let value = Value::deserialize(deserializer)?;
    let numbers = |token_logprobs| Logprobs { token_logprobs, ..Logprobs::default() };
    Ok(match &value {
        Value::Object(_) => Member::read(&value),
        Value::Array(_) => Member::read(&value).map(numbers),
        _ => value.as_f64().map(|number| numbers(vec![Some(number)])),
    })
}

impl<'a> Chunk<'a> {
    /// Reads an event or a whole body.
    ///
    /// # Errors
    /// If the text is not a JSON object. The error repeats none of the text.
    pub fn parse(data: &'a str) -> Result<Self, serde_json::Error> {
        if data.trim_start().starts_with('{') {
            serde_json::from_str(data)
        } else {
            // What is read for nothing would be repeated in the error.
            Err(de::Error::custom("not an object"))
        }
    }

    /// True if it adds nothing to a response and does not end it.
    pub fn is_blank(&self) -> bool {
        let has_text = |content: &Option<Content<'_>>| {
            content.as_ref().is_some_and(|it| !it.text.is_empty() || !it.thinking.is_empty())
        };
        let adds = |message: &Message<'_>| {
            let Message { content, reasoning_content, reasoning, refusal, .. } = message;
            [content, reasoning_content, reasoning, refusal].into_iter().any(has_text)
                || message.reasoning_details.is_some()
                || message.function_call.is_some()
                || !message.tool_calls.is_empty()
        };
        self.error.is_none()
            && self.choices.iter().all(|choice| {
                choice.finish_reason.is_none()
                    && !has_text(&choice.text)
                    && ![&choice.delta, &choice.message].into_iter().flatten().any(adds)
            })
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
