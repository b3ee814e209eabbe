//! Responses to Ollama's clients.
//!
//! Members stand in Ollama's order. `content`, `response` and `done` are always present. The counters
//! are in the final object only, and all six of them: a client that reads one reads all. The seventh,
//! of cached tokens, is absent where the upstream does not tell it.

use serde::Serialize;
use serde_json::value::RawValue;

/// The counters of a final object; durations in nanoseconds, at least 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Metrics {
    /// From the request to its end.
    pub total_duration: u64,
    /// Until the last attempt was sent to the upstream, retries included.
    pub load_duration: u64,
    /// Tokens of the prompt.
    pub prompt_eval_count: u64,
    /// How many of these the upstream found in its cache, if it tells.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prompt_eval_cached_count: Option<u64>,
    /// How many of these the upstream wrote to its cache, if it tells; Ollama has no member for it.
    #[serde(skip)]
    pub prompt_cache_write_count: Option<u64>,
    /// How many of the output's tokens are reasoning, if the upstream tells; Ollama has no member for it.
    #[serde(skip)]
    pub reasoning_count: Option<u64>,
    /// Until the first token.
    pub prompt_eval_duration: u64,
    /// Tokens of the output.
    pub eval_count: u64,
    /// From the first token to the last.
    pub eval_duration: u64,
}

/// A line of `/api/chat`, or its whole response.
#[derive(Clone, Debug, Serialize)]
pub struct ChatResponse<'a> {
    /// The name as the client sent it.
    pub model: &'a str,
    /// When this line was made, RFC 3339.
    pub created_at: &'a str,
    /// The message of the model.
    pub message: ResponseMessage<'a>,
    /// Whether this is the last object.
    pub done: bool,
    /// Why the model stopped; in the last object.
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

/// A call.
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
    /// The call's place among the calls of the response.
    pub index: usize,
    /// The function's name.
    pub name: &'a str,
    /// An object.
    pub arguments: &'a RawValue,
}

/// The log probability of a token.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Logprob {
    /// The token's text.
    pub token: String,
    /// Its log probability.
    pub logprob: f64,
    /// The bytes of the text.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub bytes: Vec<u8>,
    /// The alternatives, the most likely first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub top_logprobs: Vec<Logprob>,
}

/// A line of `/api/generate`, or its whole response.
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
    /// Why the model stopped; in the last object.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub done_reason: Option<&'a str>,
    /// Continues the conversation when sent back; in the last object.
    #[serde(skip_serializing_if = "<[i32]>::is_empty")]
    pub context: &'a [i32],
    /// The counters, in the last object.
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    pub metrics: Option<Metrics>,
    /// Log probabilities of this object's tokens.
    #[serde(skip_serializing_if = "<[Logprob]>::is_empty")]
    pub logprobs: &'a [Logprob],
}

/// The counters of `/api/embed`, whose vectors `translate::embed` writes as text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct EmbedMetrics {
    /// From the request to its end, in nanoseconds.
    pub total_duration: u64,
    /// Until the last attempt was sent to the upstream, in nanoseconds.
    pub load_duration: u64,
    /// Tokens of all inputs.
    pub prompt_eval_count: u64,
}

/// The response of `/api/tags` and `/api/ps`.
#[derive(Clone, Debug, Serialize)]
pub struct ListResponse<T> {
    /// The entries; never `null`.
    pub models: Vec<T>,
}

/// An entry of a list: made here, or as another server wrote it.
#[derive(Clone, Debug, Serialize)]
#[serde(untagged)]
pub enum ListEntry<T> {
    /// Made here.
    Made(T),
    /// As it is.
    Passed(Box<serde_json::value::RawValue>),
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
    /// Bytes; 0 if unknown.
    pub size: u64,
    /// 64 hex digits.
    pub digest: String,
    /// Details of the model.
    pub details: ListModelDetails,
    /// Its capabilities.
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

/// Details of a model; strings that clients require are always present, and empty if unknown.
#[derive(Clone, Debug, Default, Serialize)]
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
    /// Details of the model.
    pub details: ModelDetails,
    /// RFC 3339.
    pub expires_at: String,
    /// Bytes; equal to `size`, for which clients show "100% GPU". For 0 `ollama ps` shows "100% CPU"
    /// (cmd/cmd.go).
    pub size_vram: u64,
    /// The window in tokens.
    pub context_length: u64,
}

/// The response of `/api/show`.
#[derive(Clone, Debug, Default, Serialize)]
pub struct ShowResponse {
    /// Licences, separated by line breaks.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub license: String,
    /// As `ollama show --modelfile` prints it.
    pub modelfile: String,
    /// Default options, one value on each line.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub parameters: String,
    /// A template in Go's syntax.
    pub template: String,
    /// The system prompt.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub system: String,
    /// Details of the model.
    pub details: ModelDetails,
    /// Messages that come before every conversation.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub messages: Vec<Box<serde_json::value::RawValue>>,
    /// Metadata with GGUF's keys, sorted.
    pub model_info: serde_json::Map<String, serde_json::Value>,
    /// Its capabilities.
    pub capabilities: Vec<&'static str>,
    /// Which values of `think` it takes, if that is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub thinking: Option<ThinkingModes>,
    /// RFC 3339.
    pub modified_at: String,
    /// The oldest version of Ollama that can run the model.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub requires: String,
}

/// The values of `think` that a model takes.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ThinkingModes {
    /// `false` if it can be switched off, `true` if it can be on without a level, and the names of levels.
    pub values: Vec<serde_json::Value>,
    /// What holds without `think`.
    pub default: serde_json::Value,
}

/// The response of `/api/version`.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct VersionResponse {
    /// Digits and dots only.
    pub version: &'static str,
}

/// The response of `/`.
pub const IS_RUNNING: &str = "Ollama is running";

/// The body of an error response.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct ErrorResponse<'a> {
    /// The message.
    pub error: &'a str,
}
