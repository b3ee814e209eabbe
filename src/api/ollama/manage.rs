//! Requests and responses of the routes that manage models.
//!
//! As in [`super::request`], every member of a request is optional, and other modules decide what a
//! missing one means. Older clients send `name` for `model`; it counts if `model` is empty. Members
//! that Ollama supports and a proxy cannot are named here, so that they can be refused.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value};

use super::decode::{GoString, request};

/// File names with the digests of their blobs.
pub type FileDigests<'a> = BTreeMap<String, Option<GoString<'a>>>;

request! {
    /// `POST /api/create`.
    pub struct CreateRequest<'a> {
        /// The name to create.
        pub model: GoString<'a>,
        /// `model` of older clients.
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
        /// A template in Go's syntax; checked and shown, not used.
        pub template: GoString<'a>,
        /// The renderer of the prompt in Ollama; shown, not used.
        pub renderer: GoString<'a>,
        /// The parser of the output in Ollama; shown, not used.
        pub parser: GoString<'a>,
        /// The oldest version of Ollama that can run the model; shown, not used.
        pub requires: GoString<'a>,
        /// The system prompt.
        pub system: GoString<'a>,
        /// A text or a list of texts.
        pub license: &'a RawValue,
        /// Default options.
        pub parameters: Map<String, Value>,
        /// Messages that come before every conversation.
        pub messages: Vec<&'a RawValue>,
        /// The wanted quantisation; refused.
        pub quantize: GoString<'a>,
        /// Its older name; refused.
        pub quantization: GoString<'a>,
        /// The wanted quantisation of a draft model; refused.
        pub draft_quantize: GoString<'a>,
        /// Whether to stream progress; the default is true.
        pub stream: bool,
    }

    /// One of the messages of a [`CreateRequest`].
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

    /// `POST /api/copy`.
    pub struct CopyRequest<'a> {
        /// The existing model.
        pub source: GoString<'a>,
        /// The new name.
        pub destination: GoString<'a>,
    }

    /// `DELETE /api/delete`.
    pub struct DeleteRequest<'a> {
        /// The model's name.
        pub model: GoString<'a>,
        /// `model` of older clients.
        pub name: GoString<'a>,
    }

    /// `POST /api/pull` and `POST /api/push`.
    pub struct TransferRequest<'a> {
        /// The model's name.
        pub model: GoString<'a>,
        /// `model` of older clients.
        pub name: GoString<'a>,
        /// Whether a registry without TLS is accepted.
        pub insecure: bool,
        /// Whether to stream progress; the default is true.
        pub stream: bool,
    }
}

/// The name that a request gives, in either of its two members.
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

/// A line about progress.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct ProgressResponse<'a> {
    /// The current step; `success` at the end.
    pub status: &'a str,
}

/// A message as `/api/create` stores it and `/api/show` returns it: members in Ollama's order, without
/// empty ones.
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
