//! Which failures send a request to the next upstream, and which of several failures the client is told.
//!
//! Only failures before the first byte of a response come here. Pure: no clock and no randomness.
//! Invariant: a request that is the client's own mistake is not sent to a second upstream.
//!
//! | failure | next upstream |
//! | --- | --- |
//! | no connection, TLS and DNS failures, no head in time, an open circuit | yes |
//! | a response that ends before its first event | yes |
//! | 401, 402, 403, 404, 405, 408, 409, 424, 429, 5xx; an unknown model or endpoint | yes |
//! | 400, 413, 422 and all others; a prompt above the context window | no |

use crate::error::{Error, Retry, TimeoutPhase};

/// True if another upstream may succeed where this one failed.
pub fn may_succeed_elsewhere(error: &Error) -> bool {
    if error.context_overflow().is_some() {
        return false;
    }
    match error {
        Error::UpstreamStatus { status, .. } | Error::UpstreamInBand { status, .. } => {
            matches!(status, 401..=405 | 408 | 409 | 424 | 429 | 500..)
        }
        Error::ModelNotFound(_) | Error::Exhausted { .. } => true,
        other => other.is_upstream(),
    }
}

/// How much a failure tells a client that can do something about it; of two, the higher one is told.
fn usefulness(error: &Error) -> u32 {
    match error {
        Error::UpstreamStatus { status, .. } | Error::UpstreamInBand { status, .. } => match status
        {
            // The client can wait.
            429 => 9,
            408 | 409 | 424 | 500.. => 8,
            // The operator has to change something.
            _ => 7,
        },
        Error::UpstreamTimeout(TimeoutPhase::Connect) | Error::Connect(_) => 3,
        Error::UpstreamTimeout(_) => 6,
        Error::ClosedBeforeResponse { .. } | Error::StaleConnection => 4,
        Error::UpstreamDown { .. } => 2,
        // Another upstream may have the model.
        Error::ModelNotFound(_) => 1,
        _ => 5,
    }
}

/// The failures of one request at several upstreams.
#[derive(Debug, Default)]
pub struct Failures<T> {
    best: Option<(u32, Error, T)>,
    tried: usize,
    retry: Option<Retry>,
}

impl<T> Failures<T> {
    /// No failure yet.
    pub fn new() -> Self {
        Self { best: None, tried: 0, retry: None }
    }

    /// Adds a failure; `value` comes back with the error that is told. `is_first` is true at the first
    /// failure of an upstream. Returns whether this failure is the one to be told, so far.
    pub fn add(&mut self, error: Error, value: T, is_first: bool) -> bool {
        self.tried += usize::from(is_first);
        self.retry = sooner(self.retry, error.retry());
        let rank = usefulness(&error);
        let is_best = self.best.as_ref().is_none_or(|(best, ..)| rank >= *best);
        if is_best {
            self.best = Some((rank, error, value));
        }
        is_best
    }

    /// When another round may follow, by the failures since the last round.
    pub fn take_retry(&mut self) -> Retry {
        self.retry.take().unwrap_or(Retry::Never)
    }

    /// The failure that is told, with the number of upstreams that were tried.
    pub fn into_best(self) -> Option<(Error, T)> {
        let tried = self.tried;
        self.best.map(|(_, error, value)| (name_tried(error, tried), value))
    }
}

/// The one of two that allows the earlier attempt.
fn sooner(one: Option<Retry>, other: Retry) -> Option<Retry> {
    let rank = |retry: &Retry| match retry {
        Retry::Immediate => 0,
        Retry::Backoff => 1,
        Retry::Poll => 2,
        Retry::After(_) => 3,
        Retry::Never => 4,
    };
    match one {
        Some(Retry::After(delay)) if matches!(other, Retry::After(_)) => match other {
            Retry::After(shorter) if shorter < delay => Some(other),
            _ => one,
        },
        Some(one) if rank(&one) <= rank(&other) => Some(one),
        _ => Some(other),
    }
}

/// The error with the number of upstreams that were tried, if there were several.
fn name_tried(error: Error, tried: usize) -> Error {
    if tried < 2 {
        return error;
    }
    let add = |text: String| format!("{text} ({tried} upstreams tried)");
    match error {
        Error::UpstreamStatus { status, message, retry, details } => {
            Error::UpstreamStatus { status, message: add(message), retry, details }
        }
        Error::UpstreamInBand { status, message, details } => {
            Error::UpstreamInBand { status, message: add(message), details }
        }
        Error::MissingEndpoint(text) => Error::MissingEndpoint(add(text)),
        // Clients know Ollama's sentence.
        Error::ModelNotFound(_) => error,
        last if last.is_upstream() => Error::Exhausted { last: Box::new(last), tried },
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::error::UpstreamDetails;

    fn status(status: u16) -> Error {
        Error::upstream_status(status, format!("says {status}"), Retry::Backoff)
    }

    #[test]
    fn what_may_succeed_elsewhere_goes_on_and_a_client_s_mistake_does_not() {
        for code in [401, 402, 403, 404, 408, 409, 424, 429, 500, 502, 503, 504, 529] {
            assert!(may_succeed_elsewhere(&status(code)), "{code}");
            assert!(may_succeed_elsewhere(&Error::upstream_in_band(code, "x")), "{code}");
        }
        for code in [400, 413, 415, 422] {
            assert!(!may_succeed_elsewhere(&status(code)), "{code}");
            assert!(!may_succeed_elsewhere(&Error::upstream_in_band(code, "x")), "{code}");
        }
        for phase in [TimeoutPhase::Connect, TimeoutPhase::Head, TimeoutPhase::Body] {
            assert!(may_succeed_elsewhere(&Error::UpstreamTimeout(phase)));
        }
        assert!(may_succeed_elsewhere(&Error::Connect("refused".into())));
        assert!(may_succeed_elsewhere(&Error::ClosedBeforeResponse { suggests_tls: false }));
        assert!(may_succeed_elsewhere(&Error::IncompleteStream));
        assert!(may_succeed_elsewhere(&Error::model_not_found("m")));
        for own in [
            Error::ClientDisconnected,
            Error::ShuttingDown,
            Error::Busy,
            Error::invalid_request("x"),
            Error::Unsupported("x".into()),
            Error::Internal("x"),
        ] {
            assert!(!may_succeed_elsewhere(&own), "{own:?}");
        }
        let details = UpstreamDetails {
            overflow: Some(crate::error::ContextOverflow::default()),
            ..UpstreamDetails::default()
        };
        let overflow = Error::UpstreamStatus {
            status: 500,
            message: String::new(),
            retry: Retry::Never,
            details: Some(Box::new(details)),
        };
        assert!(!may_succeed_elsewhere(&overflow), "the prompt is too long, whatever the status");
    }

    fn told(errors: &[Error]) -> String {
        let mut failures = Failures::new();
        for error in errors {
            failures.add(error.clone(), (), true);
        }
        failures.into_best().expect("a failure").0.message()
    }

    #[test]
    fn the_most_useful_failure_is_told_and_names_how_many_were_tried() {
        let refused = Error::Connect("connection refused".into());
        let late = Error::UpstreamTimeout(TimeoutPhase::Head);
        assert_eq!(told(&[status(401)]), "says 401");
        assert_eq!(told(&[status(401), refused.clone()]), "says 401 (2 upstreams tried)");
        assert_eq!(
            told(&[status(429), status(500), status(401), refused.clone()]),
            "says 429 (4 upstreams tried)"
        );
        assert_eq!(told(&[status(500), status(503)]), "says 503 (2 upstreams tried)");
        let text = told(&[refused.clone(), refused.clone()]);
        assert_eq!(text, "cannot reach the upstream: connection refused (2 upstreams tried)");
        for worse in [Error::UpstreamTimeout(TimeoutPhase::Connect), refused.clone()] {
            let closed = Error::ClosedBeforeResponse { suggests_tls: false };
            assert!(usefulness(&worse) < usefulness(&closed), "{worse:?}");
            assert!(usefulness(&worse) > usefulness(&Error::model_not_found("m")), "{worse:?}");
        }
        assert!(told(&[refused, late]).ends_with("within REQUEST_TIMEOUT (2 upstreams tried)"));
        let unknown = Error::model_not_found("m");
        assert_eq!(told(&[unknown.clone(), unknown]), "model 'm' not found");
    }

    #[test]
    fn the_next_round_follows_as_soon_as_one_failure_allows() {
        let after = |seconds| Retry::After(Duration::from_secs(seconds));
        let next = |retries: &[Retry]| {
            retries.iter().fold(None, |one, other| sooner(one, *other)).expect("a failure")
        };
        assert_eq!(next(&[Retry::Never, Retry::Backoff]), Retry::Backoff);
        assert_eq!(next(&[after(9), after(3), after(5)]), after(3));
        assert_eq!(next(&[Retry::Backoff, after(3)]), Retry::Backoff);
        assert_eq!(next(&[Retry::Never, Retry::Never]), Retry::Never);
    }
}
