//! What an answer's head says of its body: types, and what a stream is made of.
//!
//! Writes nothing; the exchange does.

use crate::api::openai::pass_head::PassHead;
use crate::observe::metrics;

/// The content types of Ollama's answers (ollama-api.md 1.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ContentType {
    /// Single answers and errors.
    Json,
    /// What pull, push and create answer in one object, and the answers below `/v1`.
    BareJson,
    /// `/`.
    PlainUtf8,
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
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Json => "application/json; charset=utf-8",
            Self::BareJson => "application/json",
            Self::PlainUtf8 => "text/plain; charset=utf-8",
            Self::Plain => "text/plain",
            Self::Lines => "application/x-ndjson",
            Self::Events => "text/event-stream",
            Self::Metrics => metrics::CONTENT_TYPE,
        }
    }
}

/// What a stream is made of.
pub(super) enum StreamFormat {
    /// Ollama's lines.
    Lines,
    /// Server-sent events of our own making.
    Events,
    /// An upstream's body, in whatever pieces it comes.
    Passthrough(PassHead),
}

impl StreamFormat {
    pub(super) fn status(&self) -> u16 {
        match self {
            Self::Lines | Self::Events => 200,
            Self::Passthrough(head) => head.status,
        }
    }

    /// Whether nothing but the end of the connection could tell that it broke off.
    pub(super) fn is_opaque(&self) -> bool {
        matches!(self, Self::Passthrough(head) if !head.is_event_stream())
    }

    /// Whether the upstream's own id of the request is among its headers.
    pub(super) fn has_request_id(&self) -> bool {
        matches!(self, Self::Passthrough(head) if head.header("x-request-id").is_some())
    }
}
