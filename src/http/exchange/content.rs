//! What an answer's head says of its body: types, and what a stream is made of.
//!
//! Writes nothing; the exchange does.

use crate::api::openai::pass_head::PassedHead;
use crate::observe::metrics;

/// The content types of Ollama's answers (ollama-api.md 1.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ContentType {
    /// Single answers and errors.
    Json,
    /// What pull, push and create answer in one object, and the answers below `/v1`.
    BareJson,
    /// `/`.
    Text,
    /// The router's own answers.
    Plain,
    /// Streams.
    Lines,
    /// Streams below `/v1`.
    Events,
    /// `/metrics`, ours.
    Metrics,
}

impl ContentType {
    pub(super) fn value(self) -> &'static str {
        match self {
            Self::Json => "application/json; charset=utf-8",
            Self::BareJson => "application/json",
            Self::Text => "text/plain; charset=utf-8",
            Self::Plain => "text/plain",
            Self::Lines => "application/x-ndjson",
            Self::Events => "text/event-stream",
            Self::Metrics => metrics::CONTENT_TYPE,
        }
    }
}

/// What a stream is made of.
pub(super) enum Stream {
    /// Ollama's lines.
    Lines,
    /// Server-sent events of our own making.
    Events,
    /// An upstream's body, in whatever pieces it comes.
    Passed(PassedHead),
}

impl Stream {
    pub(super) fn status(&self) -> u16 {
        match self {
            Self::Lines | Self::Events => 200,
            Self::Passed(head) => head.status,
        }
    }

    /// Whether nothing but the end of the connection could tell that it broke off.
    pub(super) fn is_opaque(&self) -> bool {
        matches!(self, Self::Passed(head) if !head.has_events())
    }

    /// Whether the upstream's own id of the request is among its headers.
    pub(super) fn has_request_id(&self) -> bool {
        matches!(self, Self::Passed(head) if head.header("x-request-id").is_some())
    }
}
