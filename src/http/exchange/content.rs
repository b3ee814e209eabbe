//! The content type of a response, and the kind of a stream.
//!
//! Never writes; [`super::head`] turns these into headers. Invariant: types and charsets are Ollama's
//! (server/routes.go, middleware/openai.go), except that of `/metrics`.

use crate::api::openai::pass_head::PassHead;
use crate::observe::metrics;

/// The content type of a response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ContentType {
    /// Single objects and errors.
    Json,
    /// pull, push and create without a stream, and single objects below `/v1`.
    BareJson,
    /// `/`.
    PlainUtf8,
    /// Errors of the router.
    Plain,
    /// Streams.
    Lines,
    /// Streams below `/v1`.
    Events,
    /// `/metrics`, which Ollama does not have.
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

/// What the lines of a stream are.
pub(super) enum StreamFormat {
    /// Lines of JSON, as on `/api`.
    Lines,
    /// Server-sent events that the proxy writes.
    Events,
    /// An upstream's body, in pieces of any size.
    Passthrough(PassHead),
}

impl StreamFormat {
    pub(super) fn status(&self) -> u16 {
        match self {
            Self::Lines | Self::Events => 200,
            Self::Passthrough(head) => head.status,
        }
    }

    /// True if only a cut connection can show that the stream is incomplete.
    pub(super) fn is_opaque(&self) -> bool {
        matches!(self, Self::Passthrough(head) if !head.is_event_stream())
    }

    /// True if the upstream sent a request id of its own.
    pub(super) fn has_request_id(&self) -> bool {
        matches!(self, Self::Passthrough(head) if head.header("x-request-id").is_some())
    }
}
