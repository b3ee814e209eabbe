//! Why a response ended, as servers tell it.
//!
//! Never decides what a client is told.

/// The meaning of a `finish_reason`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FinishReason {
    Stop,
    /// Calls: nothing more comes, and what came need not be an answer.
    Calls,
    /// A filter cut the response off, or kept all of it back.
    Filtered,
    Length,
    Failed,
    Exhausted,
}

impl FinishReason {
    /// Reads a `finish_reason`; `None` for the empty one that some servers send with every chunk.
    pub(super) fn parse(reason: &str) -> Option<Self> {
        match reason {
            "" => None,
            "length" | "max_tokens" | "model_length" => Some(Self::Length),
            "error" | "abort" => Some(Self::Failed),
            "insufficient_system_resource" => Some(Self::Exhausted),
            "tool_calls" | "function_call" => Some(Self::Calls),
            "content_filter" | "refusal" | "safety" | "SAFETY" => Some(Self::Filtered),
            _ => Some(Self::Stop),
        }
    }
}
