//! What clients send and are answered on the routes that manage models (ollama-api.md 12).
//!
//! As in [`super::request`], every member of a request is optional and what a missing one means is
//! for others to say. `name` is what older clients send for `model`; it counts when `model` is
//! empty. Members that Ollama has and a proxy has no use for are named, so that they can be refused.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value};

use super::decode::{GoString, request};

/// Names of files with the digests of their blobs.
pub type FileDigests<'a> = BTreeMap<String, Option<GoString<'a>>>;

request! {
    /// `POST /api/create` (12.3).
    pub struct CreateRequest<'a> {
        /// The name to create.
        pub model: GoString<'a>,
        /// Its name from older clients.
        pub name: GoString<'a>,
        /// The model to start from.
        pub from: GoString<'a>,
        /// The server of a stub; refused.
        pub remote_host: GoString<'a>,
        /// Uploaded model files by name; refused.
        pub files: FileDigests<'a>,
        /// Uploaded adapters by name; refused.
        pub adapters: FileDigests<'a>,
        /// Uploaded files of a draft model by name; refused.
        pub draft_files: FileDigests<'a>,
        /// A template in Go's syntax; checked, shown and not used.
        pub template: GoString<'a>,
        /// What renders the prompt in Ollama; shown and not used.
        pub renderer: GoString<'a>,
        /// What reads the answer in Ollama; shown and not used.
        pub parser: GoString<'a>,
        /// The oldest Ollama that can run it; shown and not used.
        pub requires: GoString<'a>,
        /// The system prompt.
        pub system: GoString<'a>,
        /// A text or a list of texts.
        pub license: &'a RawValue,
        /// Default options (5.1).
        pub parameters: Map<String, Value>,
        /// Messages that come before every conversation (5.6).
        pub messages: Vec<&'a RawValue>,
        /// The wanted quantisation; refused.
        pub quantize: GoString<'a>,
        /// Its older name; refused.
        pub quantization: GoString<'a>,
        /// The wanted quantisation of a draft model; refused.
        pub draft_quantize: GoString<'a>,
        /// Whether to tell of progress; true unless said otherwise.
        pub stream: bool,
    }
}

request! {
    /// One of the messages of a [`CreateRequest`], as it is checked and kept.
    pub struct MessageRequest<'a> {
        /// `system`, `user`, `assistant` or `tool`, in any case.
        pub role: GoString<'a>,
        /// The text.
        pub content: GoString<'a>,
        /// The reasoning of an assistant.
        pub thinking: GoString<'a>,
        /// Base64 images.
        pub images: Vec<&'a RawValue>,
        /// The calls an assistant made.
        pub tool_calls: Vec<&'a RawValue>,
        /// Which function a result came from.
        pub tool_name: GoString<'a>,
        /// Which call a result answers.
        pub tool_call_id: GoString<'a>,
    }
}

request! {
    /// `POST /api/copy` (12.4).
    pub struct CopyRequest<'a> {
        /// The model that is there.
        pub source: GoString<'a>,
        /// The name it gets, too.
        pub destination: GoString<'a>,
    }
}

request! {
    /// `DELETE /api/delete` (12.5).
    pub struct DeleteRequest<'a> {
        /// The model's name.
        pub model: GoString<'a>,
        /// Its name from older clients.
        pub name: GoString<'a>,
    }
}

request! {
    /// `POST /api/pull` (12.1) and `POST /api/push` (12.2).
    pub struct TransferRequest<'a> {
        /// The model's name.
        pub model: GoString<'a>,
        /// Its name from older clients.
        pub name: GoString<'a>,
        /// Whether a registry without TLS will do.
        pub insecure: bool,
        /// Whether to tell of progress; true unless said otherwise.
        pub stream: bool,
    }
}

/// The name that a request gives, in either of its two members.
#[must_use]
pub fn model_or_name<'a>(
    model: Option<&'a GoString<'_>>,
    name: Option<&'a GoString<'_>>,
) -> &'a str {
    let text = |text: Option<&'a GoString<'_>>| text.map_or("", |text| text.trim());
    match text(model) {
        "" => text(name),
        model => model,
    }
}

/// A line about how far something is.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct ProgressResponse<'a> {
    /// What happens now; `success` at the end.
    pub status: &'a str,
}

/// A message as `/api/create` keeps it and `/api/show` tells it: members in Ollama's order, those
/// that are empty left out.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct StoredMessage<'a> {
    /// Lower case.
    pub role: &'a str,
    /// The text; always there.
    pub content: &'a str,
    /// Reasoning.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub thinking: &'a str,
    /// Base64 images.
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    pub images: &'a [&'a RawValue],
    /// Calls.
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    pub tool_calls: &'a [&'a RawValue],
    /// Which function it came from.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub tool_name: &'a str,
    /// Which call it answers.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub tool_call_id: &'a str,
}
