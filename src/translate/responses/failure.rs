//! How a failure is told to a client that streams.
//!
//! Codex acts by the code of `response.failed`: it compacts a conversation that exceeds the context, waits
//! as long as the text of a rate limit says, gives up on an account without credit, and repeats the request
//! otherwise; it does none of this for the same errors as a status (openai/codex, `sse/responses.rs`).
//! Invariant: a code that makes a client give up is only told of an error that lasts.

use std::time::Duration;

use crate::error::{Error, UpstreamDetails};

/// Codes of OpenAI that clients take for final, which are kept.
const FINAL_CODES: [&str; 4] =
    ["invalid_prompt", "cyber_policy", "bio_policy", "usage_not_included"];

/// OpenAI's words for a prompt that exceeds the context, by which Copilot CLI shortens a conversation.
const OVERFLOW_WORDS: &str = "Your input exceeds the context window of this model.";

/// What clients read a delay behind.
const DELAY_WORDS: &str = "try again in";

/// The delay after a rate limit that names none.
const DEFAULT_DELAY: Duration = Duration::from_secs(5);

/// What `response.failed` says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// What clients act by.
    pub code: &'static str,
    /// The text for people.
    pub message: String,
}

/// True if a client that streams is to be told of an error by an event, though nothing was sent yet.
pub fn is_told_by_event(error: &Error) -> bool {
    matches!(
        find_code(error),
        "context_length_exceeded" | "insufficient_quota" | "rate_limit_exceeded"
    )
}

/// The failure for an error.
pub fn describe(error: &Error) -> Failure {
    let (code, message) = (find_code(error), error.message());
    if code == "context_length_exceeded" && !message.contains(OVERFLOW_WORDS) {
        return Failure { code, message: format!("{OVERFLOW_WORDS} {message}") };
    }
    if code != "rate_limit_exceeded" || names_delay(&message) {
        return Failure { code, message };
    }
    let delay = error.details().and_then(|it| it.retry_after).unwrap_or(DEFAULT_DELAY);
    // In milliseconds, rounded up.
    let seconds = (delay.as_secs_f64() * 1000.0).ceil() / 1000.0;
    let end = if message.ends_with(['.', '!', '?']) { "" } else { "." };
    Failure { code, message: format!("{message}{end} Please {DELAY_WORDS} {seconds}s.") }
}

fn find_code(error: &Error) -> &'static str {
    let no_details = UpstreamDetails::default();
    let details = error.details().unwrap_or(&no_details);
    let own = || {
        let code = details.code.as_deref()?;
        let is_content = code.starts_with("content_filter") || code.starts_with("content_policy");
        FINAL_CODES.into_iter().find(|it| *it == code || (is_content && *it == "invalid_prompt"))
    };
    let status = error.status().unwrap_or_default();
    let is_upstream = matches!(error, Error::UpstreamStatus { .. } | Error::UpstreamInBand { .. });
    if details.overflow.is_some() {
        "context_length_exceeded"
    } else if details.is_out_of_quota {
        "insufficient_quota"
    } else if status == 429 {
        "rate_limit_exceeded"
    } else if let Some(code) = own() {
        code
    } else if is_upstream && matches!(status, 400..408 | 410..425) {
        "invalid_prompt"
    } else if let Error::Coded(code, _) = error {
        code.code
    } else {
        "server_error"
    }
}

/// True if a text names a delay as Codex reads it: a number of seconds or milliseconds.
fn names_delay(text: &str) -> bool {
    let text = text.to_ascii_lowercase();
    text.match_indices(DELAY_WORDS).any(|(at, words)| {
        let number = text[at + words.len()..].trim_start();
        let digits = number.bytes().take_while(u8::is_ascii_digit).count();
        let decimals = number[digits..].strip_prefix('.').unwrap_or(&number[digits..]);
        let unit = decimals.trim_start_matches(|c: char| c.is_ascii_digit()).trim_start();
        digits > 0 && (unit.starts_with('s') || unit.starts_with("ms"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::{ContextOverflow, Retry};

    fn error(status: u16, message: &str, details: UpstreamDetails) -> Error {
        let (message, details) = (message.to_owned(), Some(Box::new(details)));
        Error::UpstreamStatus { status, message, retry: Retry::Never, details }
    }

    fn check(error: &Error, code: &str, message: &str, is_event: bool) {
        let found = describe(error);
        assert_eq!((found.code, found.message.as_str()), (code, message));
        assert_eq!(is_told_by_event(error), is_event, "{message}");
    }

    #[test]
    fn what_clients_act_by_is_told_by_an_event() {
        let details = UpstreamDetails::default;
        let overflow = Some(ContextOverflow::default());
        let long = error(400, "too long", UpstreamDetails { overflow, ..details() });
        let told = format!("{OVERFLOW_WORDS} too long");
        check(&long, "context_length_exceeded", &told, true);
        let long = error(400, &told, UpstreamDetails { overflow, ..details() });
        check(&long, "context_length_exceeded", &told, true);
        let broke = UpstreamDetails { is_out_of_quota: true, ..details() };
        check(&error(429, "no credit", broke.clone()), "insufficient_quota", "no credit", true);
        check(&error(402, "no credit", broke), "insufficient_quota", "no credit", true);
        let said = "Limit reached. Please try again in 1.5s.";
        check(&error(429, said, details()), "rate_limit_exceeded", said, true);
    }

    #[test]
    fn all_else_keeps_its_status_and_may_be_repeated() {
        let plain = |status| Error::upstream_status(status, "no", Retry::Never);
        for status in [408, 409, 425, 500, 502, 503, 529] {
            check(&plain(status), "server_error", "no", false);
        }
        for status in [400, 401, 403, 404, 413, 422] {
            check(&plain(status), "invalid_prompt", "no", false);
        }
        let full = UpstreamDetails { code: Some("slow_down".into()), ..UpstreamDetails::default() };
        check(&error(503, "no", full), "server_error", "no", false);
        let cut = Error::IncompleteStream;
        check(&cut, "server_error", &cut.message(), false);
        check(&Error::invalid_request("no"), "server_error", "no", false);
        for (code, expected) in [
            ("cyber_policy", "cyber_policy"),
            ("content_policy_violation", "invalid_prompt"),
            ("content_filter", "invalid_prompt"),
            ("other", "server_error"),
        ] {
            let details = UpstreamDetails { code: Some(code.into()), ..Default::default() };
            check(&error(500, "no", details), expected, "no", false);
        }
    }

    #[test]
    fn a_rate_limit_names_a_delay() {
        let limit = |message: &str, delay: Option<Duration>| {
            let details = UpstreamDetails { retry_after: delay, ..UpstreamDetails::default() };
            describe(&error(429, message, details)).message
        };
        let millis = |millis| Some(Duration::from_millis(millis));
        assert_eq!(limit("slow", None), "slow. Please try again in 5s.");
        assert_eq!(limit("slow.", millis(7000)), "slow. Please try again in 7s.");
        assert_eq!(limit("slow", millis(1500)), "slow. Please try again in 1.5s.");
        for said in ["Try again in 20ms", "try again in 35 seconds.", "try again in 1.898s"] {
            assert_eq!(limit(said, millis(1)), said);
        }
        for said in ["Please try again in 6m0s", "try again in a while", "try again in"] {
            assert!(limit(said, millis(9000)).ends_with(" Please try again in 9s."), "{said}");
        }
    }
}
