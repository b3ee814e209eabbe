//! Requests to an upstream (openai-wire.md 3 and 7).

use std::borrow::Cow;

use serde::Serialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value};

/// `POST chat/completions`.
#[derive(Clone, Debug, Serialize)]
pub struct ChatRequest<'a> {
    /// The upstream's own id.
    pub model: &'a str,
    /// The conversation.
    pub messages: Vec<Message<'a>>,
    /// Always said: the defaults of the two APIs differ.
    pub stream: bool,
    /// Only with `stream`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stream_options: Option<StreamOptions>,
    /// Sampling parameters that the caller set, by the upstream's names.
    #[serde(flatten)]
    pub sampling: Map<String, Value>,
    /// The form of the answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub response_format: Option<ResponseFormat<'a>>,
}

/// One turn.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Message<'a> {
    /// Lower case.
    pub role: Cow<'a, str>,
    /// The text.
    pub content: Cow<'a, str>,
}

/// Asks for the counts at the end of a stream.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct StreamOptions {
    /// Always true.
    pub include_usage: bool,
}

impl StreamOptions {
    /// What goes with `stream`: nothing for a whole answer.
    #[must_use]
    pub fn when(stream: bool) -> Option<Self> {
        stream.then_some(Self { include_usage: true })
    }
}

/// `response_format` (openai-wire.md 3.5).
#[derive(Clone, Debug, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ResponseFormat<'a> {
    /// Any JSON object.
    JsonObject,
    /// What a schema allows.
    JsonSchema {
        /// The schema with its name.
        json_schema: JsonSchema<'a>,
    },
}

/// A named schema.
#[derive(Clone, Debug, Serialize)]
pub struct JsonSchema<'a> {
    /// Required by OpenAI.
    pub name: &'static str,
    /// The caller's schema, untouched.
    pub schema: &'a RawValue,
    /// Only where the schema meets OpenAI's rules for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub strict: Option<bool>,
}

/// `POST completions`.
#[derive(Clone, Debug, Serialize)]
pub struct CompletionRequest<'a> {
    /// The upstream's own id.
    pub model: &'a str,
    /// The prompt, verbatim.
    pub prompt: &'a str,
    /// What follows the gap.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub suffix: Option<&'a str>,
    /// Always said.
    pub stream: bool,
    /// Only with `stream`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stream_options: Option<StreamOptions>,
    /// Sampling parameters that the caller set, by the upstream's names.
    #[serde(flatten)]
    pub sampling: Map<String, Value>,
    /// The form of the answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub response_format: Option<ResponseFormat<'a>>,
}

/// `POST embeddings`.
#[derive(Clone, Debug, Serialize)]
pub struct EmbeddingRequest<'a> {
    /// The upstream's own id.
    pub model: &'a str,
    /// Always a list of strings: not every server takes one string.
    pub input: Vec<Cow<'a, str>>,
    /// Said, because servers differ in what they send otherwise.
    pub encoding_format: &'static str,
}
