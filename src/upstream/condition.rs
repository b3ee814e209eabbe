//! How an upstream does, as an attempt at it shows: for metrics and the status page.
//!
//! Invariant: what is noted of a failure holds no word of the upstream.

use std::time::Instant;

use ureq::http::HeaderMap;

use crate::error::Error;
use crate::observe::metrics::{Trouble, UpstreamMetrics};

/// Counts a failure, if it is the upstream's.
pub(super) fn count_failure(metrics: &UpstreamMetrics, error: &Error) {
    if error.is_upstream() {
        metrics.failures.add(error.kind(), 1);
        if matches!(error, Error::StaleConnection) {
            // It is sent again on a new connection.
            return;
        }
        let (what, trouble) = describe_failure(error);
        metrics.condition.record_failure(&what, trouble, Instant::now());
    }
}

/// Whether the head of a response begins a stream, so that it does not wait for all of the text.
pub(super) fn is_stream(headers: &HeaderMap) -> bool {
    let kind =
        headers.get("content-type").and_then(|value| value.to_str().ok()).unwrap_or_default();
    kind.starts_with("text/event-stream") || kind.starts_with("application/x-ndjson")
}

/// What failed, without a word of the upstream, and whether that is a trouble of the upstream.
fn describe_failure(error: &Error) -> (String, Trouble) {
    let is_own_fault = |status: u16| matches!(status, 400 | 404 | 405 | 413 | 415 | 422);
    let trouble = match error {
        Error::MissingEndpoint(_) => return ("no such route".to_owned(), Trouble::None),
        error if error.is_unreachable() => Trouble::Unreachable,
        Error::UpstreamStatus { status, .. } | Error::UpstreamInBand { status, .. }
            if is_own_fault(*status) =>
        {
            Trouble::None
        }
        _ => Trouble::Failing,
    };
    (error.log_text(), trouble)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::{Retry, TimeoutPhase};

    #[test]
    fn a_failure_is_a_trouble_unless_the_request_is_at_fault() {
        let status = |code| Error::upstream_status(code, "a secret", Retry::Never);
        for (error, trouble) in [
            (status(400), Trouble::None),
            (status(404), Trouble::None),
            (status(401), Trouble::Failing),
            (status(429), Trouble::Failing),
            (status(500), Trouble::Failing),
            (Error::MissingEndpoint("a secret".to_owned()), Trouble::None),
            (Error::upstream_protocol("\"a secret\""), Trouble::Failing),
            (Error::IncompleteStream, Trouble::Failing),
            (Error::Connect("connection refused".to_owned()), Trouble::Unreachable),
            (Error::UpstreamTimeout(TimeoutPhase::Head), Trouble::Unreachable),
        ] {
            let (text, found) = describe_failure(&error);
            assert_eq!(found, trouble, "{text}");
            assert!(!text.is_empty() && !text.contains("secret"), "{text}");
        }
    }
}
