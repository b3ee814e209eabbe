//! The operations of an upstream's API: method, path, and name in the log.

use crate::translate::infill;
use crate::translate::responses_upstream::chunks::{self, EventMapper};

/// The largest model list that is read, in bytes: those of large gateways have some.
const MAX_LIST_BYTES: u64 = 16 * 1024 * 1024;

/// The largest whole response, in bytes: some 5,000 embeddings.
pub(super) const MAX_RESPONSE_BYTES: u64 = 256 * 1024 * 1024;

/// One operation.
#[derive(Clone, Copy, Debug)]
pub struct Operation {
    /// For the log.
    pub(super) name: &'static str,
    pub(super) method: &'static str,
    /// Below the base URL; with a leading slash, at the server's root.
    pub(super) path: &'static str,
    /// True if Azure's dated API has it below a deployment.
    pub(super) has_deployment: bool,
    /// Whether a stream is asked for.
    pub(super) stream: bool,
    /// Makes what makes events of `completions` or `chat/completions` out of the operation's own.
    pub(super) event_mapper: Option<fn() -> EventMapper>,
}

impl Operation {
    /// `POST chat/completions`.
    pub const CHAT: Self = Self::post("chat", "chat/completions");
    /// `POST completions`.
    pub const COMPLETION: Self = Self::post("completion", "completions");
    /// `POST embeddings`.
    pub const EMBEDDING: Self = Self::post("embedding", "embeddings");
    /// Mistral's `POST fim/completions`.
    pub const FIM: Self = Self::post("fill-in", "fim/completions");
    /// llama.cpp's `POST /infill`, whose response is made into one of `completions`.
    pub const INFILL: Self = Self {
        event_mapper: Some(|| Box::new(infill::to_chunk)),
        ..Self::post("fill-in", "/infill")
    };
    /// `POST responses`, whose response is made into one of `chat/completions`.
    pub(super) const RESPONSES: Self = Self {
        event_mapper: Some(chunks::event_mapper),
        has_deployment: false,
        ..Self::post("responses", "responses")
    };
    /// The same, with the response as it is.
    pub(super) const PASS_RESPONSES: Self = Self { event_mapper: None, ..Self::RESPONSES };
    pub(super) const LIST_MODELS: Self = Self::get("model list", "models");

    /// The largest whole response that is read, in bytes: lists and what belongs to them are small.
    pub(super) fn max_response_bytes(self) -> u64 {
        if self.method == "GET" { MAX_LIST_BYTES } else { MAX_RESPONSE_BYTES }
    }

    /// A request for what a family tells of its models beside the list.
    pub(super) const fn model_details(path: &'static str) -> Self {
        Self::get("model details", path)
    }

    /// A client's request that is passed on.
    pub(super) const fn pass(path: &'static str) -> Self {
        Self::post("passed-on request", path)
    }

    /// A client's request for a route that only the upstream has; the client named the path.
    pub(super) const PASS_OTHER: Self = Self::pass("such");

    /// A request of Ollama's own API; its path is not below the base URL.
    pub(super) const fn native(method: &'static str) -> Self {
        Self { method, has_deployment: false, ..Self::post("Ollama request", "") }
    }

    /// True if the upstream is asked in Ollama's own protocol, whose errors are passed as they are.
    pub(super) fn is_native(self) -> bool {
        self.name == Self::native("").name
    }

    /// True if a model generates the response, so that a request that was read may have its cost.
    pub(super) fn generates(self) -> bool {
        self.method == "POST" && self.path != Self::EMBEDDING.path
    }

    /// True if a response with a good status may be an error, or begin with one, which is then handled as
    /// an error status is. Not so on routes whose responses this program does not know.
    pub(super) fn reports_errors_in_band(self) -> bool {
        let is_known = matches!(self.path, "chat/completions" | "completions");
        self.generates() && !self.is_native() && (is_known || self.name != Self::PASS_OTHER.name)
    }

    /// The same operation, for a stream or for a whole response.
    #[must_use]
    pub const fn streaming(self, stream: bool) -> Self {
        Self { stream, ..self }
    }

    const fn post(name: &'static str, path: &'static str) -> Self {
        let (stream, has_deployment, event_mapper) = (false, true, None);
        Self { name, method: "POST", path, has_deployment, stream, event_mapper }
    }

    const fn get(name: &'static str, path: &'static str) -> Self {
        Self { method: "GET", ..Self::post(name, path) }
    }
}
