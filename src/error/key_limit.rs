//! The limits of a client key, as errors tell them.

use std::time::Duration;

/// A limit of a client key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyLimit {
    /// Requests in a minute.
    RequestsPerMinute,
    /// Tokens of prompts and responses in a day.
    TokensPerDay,
    /// Requests at the same time.
    MaxParallel,
}

/// A limit that a request has met.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LimitReached {
    /// The limit.
    pub limit: KeyLimit,
    /// How much it allows.
    pub allowed: u64,
    /// The time after which the request may pass.
    pub wait: Duration,
}

impl KeyLimit {
    /// The word for the configuration, log and metrics.
    pub fn word(self) -> &'static str {
        match self {
            Self::RequestsPerMinute => "requests_per_minute",
            Self::TokensPerDay => "tokens_per_day",
            Self::MaxParallel => "max_parallel",
        }
    }
}

impl LimitReached {
    /// The text for the client.
    pub(super) fn message(&self) -> String {
        let Self { limit, allowed, wait } = self;
        let seconds = wait.as_secs_f64().ceil();
        let one_or_more = if *allowed == 1 { "" } else { "s" };
        let what = match limit {
            KeyLimit::RequestsPerMinute => format!("request{one_or_more} a minute"),
            KeyLimit::TokensPerDay => format!("token{one_or_more} a day (UTC)"),
            KeyLimit::MaxParallel => format!("request{one_or_more} at the same time"),
        };
        format!(
            "rate limit reached: this key is allowed {allowed} {what}; try again in {seconds} s"
        )
    }
}
