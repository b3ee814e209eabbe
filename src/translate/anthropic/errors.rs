//! Errors in the words by which Anthropic's clients know them (Anthropic API reference, errors).
//!
//! A client shortens the conversation, or lowers its limit, only where an error says so in these words; all
//! other texts of an upstream are left as they are. Invariant: a count that the upstream tells is kept.

use crate::error::{ContextOverflow, Error};

/// What a client does without when a gateway does not take it: system messages behind the first turn.
const SYSTEM_ROLE_REFUSED: &str = "messages: role 'system' is not supported";

/// What is known of a request.
#[derive(Clone, Debug, Default)]
pub struct RequestFacts {
    /// The model as the client named it.
    pub model: String,
    /// An estimate of the tokens in the prompt.
    pub prompt_tokens: u64,
    /// The context length of the model, as far as it is known.
    pub context_length: Option<u64>,
    /// The limit of generated tokens.
    pub max_tokens: u64,
    /// True if a system message stands behind the first turn.
    pub has_late_system: bool,
}

/// The error for the client. `refuses_system` tells whether a text says that a system message is refused.
#[must_use]
pub fn reword(error: Error, facts: &RequestFacts, refuses_system: fn(&str) -> bool) -> Error {
    let overflow = error.context_overflow();
    match error {
        Error::ModelNotFound(_) => Error::ModelNotFound(format!("model: {}", facts.model)),
        Error::UpstreamStatus { status, message, retry, details } => {
            let (status, message) = match overflow {
                Some(overflow) => (400, overflow_text(overflow, facts)),
                // Some servers tell an exception of a template as a failure of their own.
                None if facts.has_late_system
                    && matches!(status, 400 | 422 | 500)
                    && refuses_system(&message) =>
                {
                    (400, SYSTEM_ROLE_REFUSED.to_owned())
                }
                None => (status, message),
            };
            Error::UpstreamStatus { status, message, retry, details }
        }
        Error::UpstreamInBand { status, message, details } => {
            let (status, message) = match overflow {
                Some(overflow) => (400, overflow_text(overflow, facts)),
                None => (status, message),
            };
            Error::UpstreamInBand { status, message, details }
        }
        other => other,
    }
}

/// The text for a prompt that exceeds the context, or for one that does so only with the limit of generated
/// tokens. A number that the upstream does not tell is an estimate, and the prompt is the larger one.
fn overflow_text(overflow: ContextOverflow, facts: &RequestFacts) -> String {
    let limit = facts.max_tokens;
    if let (Some(prompt), Some(window)) = (overflow.prompt_tokens, overflow.context_window)
        && prompt <= window
    {
        return format!(
            "input length and `max_tokens` exceed context limit: {prompt} + {limit} > {window}"
        );
    }
    let prompt = overflow.prompt_tokens.unwrap_or(facts.prompt_tokens);
    let window = overflow.context_window.or(facts.context_length);
    let window = window.unwrap_or_else(|| prompt.saturating_sub(1)).max(1);
    let prompt = prompt.max(window.saturating_add(1));
    format!("prompt is too long: {prompt} tokens > {window} maximum")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::{Retry, UpstreamDetails};

    fn facts() -> RequestFacts {
        RequestFacts {
            model: "m".to_owned(),
            prompt_tokens: 500,
            max_tokens: 64,
            has_late_system: true,
            ..RequestFacts::default()
        }
    }

    #[test]
    fn missing_numbers_are_estimated_and_the_prompt_is_the_larger_one() {
        let text = |prompt_tokens, context_window, context_length| {
            let facts = RequestFacts { context_length, ..facts() };
            overflow_text(ContextOverflow { prompt_tokens, context_window }, &facts)
        };
        let long =
            |prompt, window| format!("prompt is too long: {prompt} tokens > {window} maximum");
        assert_eq!(text(Some(946), Some(256), None), long(946, 256));
        assert_eq!(text(Some(946), None, Some(400)), long(946, 400));
        assert_eq!(text(None, Some(256), Some(999)), long(500, 256));
        assert_eq!(text(None, Some(8192), None), long(8193, 8192));
        assert_eq!(text(None, None, Some(8192)), long(8193, 8192));
        assert_eq!(text(None, None, None), long(500, 499));
        let both = "input length and `max_tokens` exceed context limit: 200 + 64 > 256";
        assert_eq!(text(Some(200), Some(256), None), both);
    }

    #[test]
    fn only_overflows_unknown_models_and_refused_system_messages_are_reworded() {
        let refused = |status, message: &str| Error::upstream_status(status, message, Retry::Never);
        let told = |error| reword(error, &facts(), |text| text.contains("system"));
        assert_eq!(told(refused(400, "No system here")), refused(400, SYSTEM_ROLE_REFUSED));
        assert_eq!(told(refused(500, "No system here")), refused(400, SYSTEM_ROLE_REFUSED));
        assert_eq!(told(refused(429, "No system here")), refused(429, "No system here"));
        let thinking = refused(400, "thinking: Input should be 'enabled'");
        assert_eq!(told(thinking.clone()), thinking);
        let unknown = Error::model_not_found("x");
        assert_eq!(told(unknown), Error::ModelNotFound("model: m".to_owned()));
        let overflow = Some(ContextOverflow::default());
        let details = Some(Box::new(UpstreamDetails { overflow, ..UpstreamDetails::default() }));
        let error = Error::UpstreamInBand { status: 500, message: "x".to_owned(), details };
        let error = told(error);
        assert_eq!(error.status(), Some(400));
        assert_eq!(error.message(), "prompt is too long: 500 tokens > 499 maximum");
    }
}
