//! The content type of a response, and the kind of a stream.
//!
//! Never writes; [`super::head`] turns these into headers. Invariant: types and charsets are Ollama's
//! (server/routes.go, middleware/openai.go), except those of `/metrics` and the status page.

use crate::api::openai::pass_head::PassHead;
use crate::observe::metrics;

/// The content type of a response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ContentType(pub(super) &'static str);

impl ContentType {
    /// Single objects and errors.
    pub const JSON: Self = Self("application/json; charset=utf-8");
    /// pull, push and create without a stream, and single objects below `/v1`.
    pub const BARE_JSON: Self = Self("application/json");
    /// `/`.
    pub const PLAIN_UTF8: Self = Self("text/plain; charset=utf-8");
    /// Errors of the router.
    pub const PLAIN: Self = Self("text/plain");
    /// Streams.
    pub const LINES: Self = Self("application/x-ndjson");
    /// Streams below `/v1`.
    pub const EVENTS: Self = Self("text/event-stream");
    /// `/metrics`, which Ollama does not have.
    pub const METRICS: Self = Self(metrics::CONTENT_TYPE);
    /// The status page, which Ollama does not have.
    pub const HTML: Self = Self("text/html; charset=utf-8");
    /// Its style.
    pub const CSS: Self = Self("text/css; charset=utf-8");
    /// Its script.
    pub const JAVASCRIPT: Self = Self("text/javascript; charset=utf-8");
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
