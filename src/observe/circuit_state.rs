//! The state of the upstream's circuit breaker, as metrics and `/ready` report it.
//!
//! Only the names: the rules by which the state changes belong to `upstream/breaker`.

/// State of a circuit breaker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CircuitState {
    /// Every request is sent.
    Closed,
    /// One probe may be sent, or is under way.
    HalfOpen,
    /// No new request is sent.
    Open,
}

impl CircuitState {
    /// All states, in the order in which `/metrics` lists them.
    pub const ALL: [Self; 3] = [Self::Closed, Self::HalfOpen, Self::Open];

    /// The state's name in `/metrics` and JSON.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::HalfOpen => "half_open",
            Self::Open => "open",
        }
    }
}
