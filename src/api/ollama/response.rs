//! What Ollama clients are answered (ollama-api.md 6, 8 to 11).
//!
//! Members stand in Ollama's order. `content`, `response` and `done` are always present, the
//! counters only in the final object, and there all six: a client that reads them reads all
//! (ollama-api.md 18.12).

use serde::Serialize;
use serde_json::value::RawValue;

/// The counters of a final object; durations in nanoseconds, at least 1 (ollama-api.md 6.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Metrics {
    /// From the request to its end.
    pub total_duration: u64,
    /// Until the upstream had the request: our own work and any retries.
    pub load_duration: u64,
    /// Tokens of the prompt.
    pub prompt_eval_count: u64,
    /// Until the first token.
    pub prompt_eval_duration: u64,
    /// Tokens of the answer.
    pub eval_count: u64,
    /// From the first token to the last.
    pub eval_duration: u64,
}

/// A line of `/api/chat`, or its whole answer (8.2).
#[derive(Clone, Debug, Serialize)]
pub struct ChatResponse<'a> {
    /// The name as the client sent it.
    pub model: &'a str,
    /// When this line was made, RFC 3339.
    pub created_at: &'a str,
    /// What the model said.
    pub message: ResponseMessage<'a>,
    /// Whether this is the last object.
    pub done: bool,
    /// Why it is the last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub done_reason: Option<&'a str>,
    /// Log probabilities of this object's tokens.
    #[serde(skip_serializing_if = "<[Logprob]>::is_empty")]
    pub logprobs: &'a [Logprob],
    /// The counters, in the last object.
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    pub metrics: Option<Metrics>,
}

/// The message of a [`ChatResponse`].
#[derive(Clone, Debug, Serialize)]
pub struct ResponseMessage<'a> {
    /// Always `assistant`.
    pub role: &'static str,
    /// The text; never absent.
    pub content: &'a str,
    /// Reasoning, if any.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub thinking: &'a str,
    /// Whole calls, if any.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tool_calls: Vec<ToolCall<'a>>,
}

/// A call (6.3).
#[derive(Clone, Debug, Serialize)]
pub struct ToolCall<'a> {
    /// Never empty.
    pub id: &'a str,
    /// What is called.
    pub function: FunctionCall<'a>,
}

/// The function of a [`ToolCall`].
#[derive(Clone, Debug, Serialize)]
pub struct FunctionCall<'a> {
    /// The call's place among those of the answer.
    pub index: usize,
    /// The function's name.
    pub name: &'a str,
    /// An object.
    pub arguments: &'a RawValue,
}

/// The log probability of a token (6.4).
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Logprob {
    /// The token's text.
    pub token: String,
    /// Its log probability.
    pub logprob: f64,
    /// The bytes of the text.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub bytes: Vec<u8>,
    /// The alternatives, the likeliest first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub top_logprobs: Vec<Logprob>,
}

/// A line of `/api/generate`, or its whole answer (9.2).
#[derive(Clone, Debug, Serialize)]
pub struct GenerateResponse<'a> {
    /// The name as the client sent it.
    pub model: &'a str,
    /// When this line was made, RFC 3339.
    pub created_at: &'a str,
    /// The text; never absent.
    pub response: &'a str,
    /// Reasoning, if any.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub thinking: &'a str,
    /// Whether this is the last object.
    pub done: bool,
    /// Why it is the last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub done_reason: Option<&'a str>,
    /// From which the conversation can be continued; in the last object.
    #[serde(skip_serializing_if = "<[i32]>::is_empty")]
    pub context: &'a [i32],
    /// The counters, in the last object.
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    pub metrics: Option<Metrics>,
    /// Log probabilities of this object's tokens.
    #[serde(skip_serializing_if = "<[Logprob]>::is_empty")]
    pub logprobs: &'a [Logprob],
}

/// The counters of `/api/embed` (10.1), whose vectors pass through
/// `translate::embed` as text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct EmbedMetrics {
    /// From the request to its end, in nanoseconds.
    pub total_duration: u64,
    /// Until the upstream had the request, in nanoseconds.
    pub load_duration: u64,
    /// Tokens of all inputs.
    pub prompt_eval_count: u64,
}

/// The answer of `/api/tags` (11.4) and `/api/ps` (11.5).
#[derive(Clone, Debug, Serialize)]
pub struct ListResponse<T> {
    /// The entries; never `null`.
    pub models: Vec<T>,
}

/// An entry of `/api/tags`.
#[derive(Clone, Debug, Serialize)]
pub struct ListModelResponse {
    /// The name, with its tag.
    pub name: String,
    /// The same.
    pub model: String,
    /// RFC 3339.
    pub modified_at: String,
    /// Bytes.
    pub size: u64,
    /// 64 hex digits.
    pub digest: String,
    /// What kind of model it is.
    pub details: ListModelDetails,
    /// What it can do.
    pub capabilities: Vec<&'static str>,
}

/// The details of a [`ListModelResponse`]: those of [`ModelDetails`] and two lengths.
#[derive(Clone, Debug, Serialize)]
pub struct ListModelDetails {
    /// The details.
    #[serde(flatten)]
    pub details: ModelDetails,
    /// Tokens.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub context_length: Option<u64>,
    /// Numbers in a vector.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub embedding_length: Option<u64>,
}

/// What kind of model it is; strings are never empty where clients insist on them.
#[derive(Clone, Debug, Serialize)]
pub struct ModelDetails {
    /// Always empty.
    pub parent_model: String,
    /// The file format.
    pub format: String,
    /// The family.
    pub family: String,
    /// The same, as a list.
    pub families: Vec<String>,
    /// Such as `8.0B`.
    pub parameter_size: String,
    /// Such as `Q4_K_M`.
    pub quantization_level: String,
}

/// An entry of `/api/ps`.
#[derive(Clone, Debug, Serialize)]
pub struct ProcessModelResponse {
    /// The name, with its tag.
    pub name: String,
    /// The same.
    pub model: String,
    /// Bytes.
    pub size: u64,
    /// 64 hex digits.
    pub digest: String,
    /// What kind of model it is.
    pub details: ModelDetails,
    /// RFC 3339.
    pub expires_at: String,
    /// Bytes; equal to `size`, so that clients show "100% GPU".
    pub size_vram: u64,
    /// The window in tokens.
    pub context_length: u64,
}

/// The answer of `/api/show` (11.6).
#[derive(Clone, Debug, Serialize)]
pub struct ShowResponse {
    /// Licences, a line break between two.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub license: String,
    /// As `ollama show --modelfile` prints it.
    pub modelfile: String,
    /// Default options, one value a line.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub parameters: String,
    /// A template in Go's syntax.
    pub template: String,
    /// The system prompt.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub system: String,
    /// What kind of model it is.
    pub details: ModelDetails,
    /// Messages that come before every conversation.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub messages: Vec<Box<serde_json::value::RawValue>>,
    /// GGUF-like metadata, keys sorted.
    pub model_info: serde_json::Map<String, serde_json::Value>,
    /// What it can do.
    pub capabilities: Vec<&'static str>,
    /// RFC 3339.
    pub modified_at: String,
    /// The oldest Ollama that can run it.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub requires: String,
}

/// The answer of `/api/version` (11.2).
#[derive(Clone, Copy, Debug, Serialize)]
pub struct VersionResponse {
    /// Digits and dots only.
    pub version: &'static str,
}

/// Every error (4.1).
#[derive(Clone, Copy, Debug, Serialize)]
pub struct ErrorResponse<'a> {
    /// The sentence.
    pub error: &'a str,
}
