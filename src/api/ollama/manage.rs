//! What clients send and are answered on the routes that manage models (ollama-api.md 12).
//!
//! As in [`super::request`], every member of a request is optional and what a missing one means is
//! for others to say. `name` is what older clients send for `model`; it counts when `model` is
//! empty. Members that Ollama has and a proxy has no use for are named, so that they can be refused.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value};

use super::decode::{Text, request};

/// Names of files with the digests of their blobs.
pub type Files<'a> = BTreeMap<String, Option<Text<'a>>>;

request! {
    /// `POST /api/create` (12.3).
    pub struct CreateRequest<'a> {
        /// The name to create.
        pub model: Text<'a>,
        /// Its name from older clients.
        pub name: Text<'a>,
        /// The model to start from.
        pub from: Text<'a>,
        /// The server of a stub; refused.
        pub remote_host: Text<'a>,
        /// Uploaded model files by name; refused.
        pub files: Files<'a>,
        /// Uploaded adapters by name; refused.
        pub adapters: Files<'a>,
        /// Uploaded files of a draft model by name; refused.
        pub draft_files: Files<'a>,
        /// A template in Go's syntax; checked, shown and not used.
        pub template: Text<'a>,
        /// What renders the prompt in Ollama; shown and not used.
        pub renderer: Text<'a>,
        /// What reads the answer in Ollama; shown and not used.
        pub parser: Text<'a>,
        /// The oldest Ollama that can run it; shown and not used.
        pub requires: Text<'a>,
        /// The system prompt.
        pub system: Text<'a>,
        /// A text or a list of texts.
        pub license: &'a RawValue,
        /// Default options (5.1).
        pub parameters: Map<String, Value>,
        /// Messages that come before every conversation (5.6).
        pub messages: Vec<&'a RawValue>,
        /// The wanted quantisation; refused.
        pub quantize: Text<'a>,
        /// Its older name; refused.
        pub quantization: Text<'a>,
        /// The wanted quantisation of a draft model; refused.
        pub draft_quantize: Text<'a>,
        /// Whether to tell of progress; true unless said otherwise.
        pub stream: bool,
    }
}

request! {
    /// One of the messages of a [`CreateRequest`], as it is checked and kept.
    pub struct MessageRequest<'a> {
        /// `system`, `user`, `assistant` or `tool`, in any case.
        pub role: Text<'a>,
        /// The text.
        pub content: Text<'a>,
        /// The reasoning of an assistant.
        pub thinking: Text<'a>,
        /// Base64 images.
        pub images: Vec<&'a RawValue>,
        /// The calls an assistant made.
        pub tool_calls: Vec<&'a RawValue>,
        /// Which function a result came from.
        pub tool_name: Text<'a>,
        /// Which call a result answers.
        pub tool_call_id: Text<'a>,
    }
}

request! {
    /// `POST /api/copy` (12.4).
    pub struct CopyRequest<'a> {
        /// The model that is there.
        pub source: Text<'a>,
        /// The name it gets, too.
        pub destination: Text<'a>,
    }
}

request! {
    /// `DELETE /api/delete` (12.5).
    pub struct DeleteRequest<'a> {
        /// The model's name.
        pub model: Text<'a>,
        /// Its name from older clients.
        pub name: Text<'a>,
    }
}

request! {
    /// `POST /api/pull` (12.1) and `POST /api/push` (12.2).
    pub struct TransferRequest<'a> {
        /// The model's name.
        pub model: Text<'a>,
        /// Its name from older clients.
        pub name: Text<'a>,
        /// Whether a registry without TLS will do.
        pub insecure: bool,
        /// Whether to tell of progress; true unless said otherwise.
        pub stream: bool,
    }
}

/// The name that a request gives, in either of its two members.
#[must_use]
pub fn either<'a>(model: Option<&'a Text<'_>>, name: Option<&'a Text<'_>>) -> &'a str {
    let text = |text: Option<&'a Text<'_>>| text.map_or("", |text| text.trim());
    match text(model) {
        "" => text(name),
        model => model,
    }
}

/// A line about how far something is.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Progress<'a> {
    /// What happens now; `success` at the end.
    pub status: &'a str,
}

/// A message as `/api/create` keeps it and `/api/show` tells it: members in Ollama's order, those
/// that are empty left out.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct KeptMessage<'a> {
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
