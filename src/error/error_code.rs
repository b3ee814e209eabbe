//! The codes by which clients of OpenAI's API know some errors.

/// What OpenAI's clients know an error by, beside its text (OpenAI API reference, errors).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ErrorCode {
    /// The status.
    pub status: u16,
    /// `error.code`.
    pub code: &'static str,
    /// `error.param`: the member of the request that is at fault.
    pub param: Option<&'static str>,
}

impl ErrorCode {
    /// An earlier response that is not, or no longer, kept.
    pub const PREVIOUS_RESPONSE_NOT_FOUND: &'static Self = &Self {
        status: 404,
        code: "previous_response_not_found",
        param: Some("previous_response_id"),
    };
    /// A conversation of Anthropic's API that is to be continued from what the server keeps.
    pub const THREAD_NOT_FOUND: &'static Self =
        &Self { status: 400, code: "thread_not_found", param: Some("thread") };
    /// A conversation that cannot be compacted because of the request.
    pub const INVALID_COMPACTION: &'static Self =
        &Self { status: 400, code: "invalid_request_error", param: None };
    /// A conversation of which the model wrote no summary.
    pub const COMPACTION_FAILED: &'static Self =
        &Self { status: 500, code: "compaction_failed", param: None };
}
