//! Who may still try an upstream that is not there: a circuit breaker, with the clock passed in.
//!
//! ```text
//!             enough failures in a row, spread in time
//!   Closed ----------------------------------------------> Open <---------+
//!     ^                                                      |            |
//!     | any attempt is answered            the pause is over |            | the probe fails:
//!     |                                                      v            | a longer pause
//!     +-------------------------------------------------- HalfOpen -------+
//!                                            one attempt is let through
//! ```
//!
//! A failure counts when the upstream is *not there*: no connection, one closed without a byte, no
//! head in time. Whatever has a status is an answer of something that lives and closes the circuit:
//! a 503 while a model loads, a 429, and a 502 of a reverse proxy, which holds no worker.
//!
//! What it must not do is make life worse for a single user whose llama.cpp restarts:
//!
//! - The circuit opens after more failures than one request makes by default, and never before they
//!   have gone on for a while: many requests that fail within the same moment have seen one moment.
//! - A request that fails while its retries last keeps its patience. It waits its own backoff and
//!   then tries, whatever the length of the pause, if nobody else is trying and nobody was a moment
//!   ago. For that it takes one of a few *seats*, an eighth of the workers, at least one. So a lone
//!   request always has its seat, and in a crowd the others are told at once instead of each holding
//!   a worker for as long as it takes to find out that nobody is there.
//! - The pause grows up to no more than what connecting may take.
//!
//! Invariants: one answered attempt closes the circuit, whoever made it. A probe is never lost: its
//! [`Pass`] gives it back when it is dropped, by a panic, too; and one that takes longer than a
//! connection may take no longer keeps others from trying, up to the number of seats.

#[cfg(test)]
mod tests;

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::error::Retry;
use crate::upstream::backoff::RetryPolicy;

/// The numbers of a breaker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Failures in a row that open the circuit.
    pub threshold: u32,
    /// For how long they must have gone on.
    pub spread: Duration,
    /// After a silence this long, earlier failures are forgotten.
    pub memory: Duration,
    /// The first pause; it doubles with each probe that fails.
    pub pause: Duration,
    /// The longest pause.
    pub longest_pause: Duration,
    /// The pause for a request that has waited already.
    pub short_pause: Duration,
    /// How long a probe keeps others from trying.
    pub lease: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            // One more than a request makes attempts by default.
            threshold: 5,
            spread: Duration::from_secs(1),
            memory: Duration::from_secs(60),
            pause: Duration::from_secs(1),
            // As long as connecting may take.
            longest_pause: Duration::from_secs(10),
            short_pause: Duration::from_millis(500),
            lease: Duration::from_secs(10),
        }
    }
}

/// Where a circuit stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Circuit {
    /// Everybody may try.
    Closed,
    /// The next one may try, or one is trying.
    HalfOpen,
    /// Nobody new may try.
    Open,
}

impl Circuit {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Closed, Self::HalfOpen, Self::Open];

    /// Its name for the outside.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::HalfOpen => "half_open",
            Self::Open => "open",
        }
    }
}

/// Who wants to try.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Caller {
    /// A request that has not waited yet.
    New,
    /// One that has waited for its next attempt.
    Returning,
    /// A check whose very purpose it is to find out; never refused.
    Check,
}

/// Why an attempt must not be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// How the last attempt failed.
    pub reason: String,
    /// When it may be worth asking again.
    pub retry_in: Duration,
}

/// The breaker of one upstream.
#[derive(Debug)]
pub struct Breaker {
    settings: Settings,
    seats: usize,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Failures since the last answer, while the circuit is closed.
    failures: u32,
    /// When the first of them began, and when the latest ended.
    span: Option<(Instant, Instant)>,
    /// The last answer.
    answered: Option<Instant>,
    open: Option<Open>,
    /// Seats that are taken.
    seated: usize,
    /// Probes that are running, and the number of the next one.
    probes: usize,
    next: u64,
}

#[derive(Debug)]
struct Open {
    /// When a new request may try, and when one that has waited.
    until: Instant,
    returning: Instant,
    /// Probes that failed so far.
    failed: u32,
    reason: String,
    /// The number of the running probe, and when it began.
    probe: Option<(u64, Instant)>,
}

impl Breaker {
    /// A closed circuit; `workers` decide how many may wait for an upstream that is not there.
    #[must_use]
    pub fn new(settings: Settings, workers: usize) -> Self {
        Self { settings, seats: (workers / 8).max(1), state: Mutex::default() }
    }

    /// Asks to make an attempt.
    ///
    /// # Errors
    /// [`Refused`] while the circuit is open.
    pub fn enter(&self, caller: Caller, now: Instant) -> Result<Pass<'_>, Refused> {
        let mut state = self.state();
        let State { open, probes, next, .. } = &mut *state;
        let mut pass = Pass { breaker: self, began: now, probe: None };
        let Some(open) = open else { return Ok(pass) };
        if caller == Caller::Check {
            return Ok(pass);
        }
        let due = if caller == Caller::Returning { open.returning } else { open.until };
        let lasts = |began: Instant| {
            now.saturating_duration_since(began) < self.settings.lease || *probes >= self.seats
        };
        if now < due || open.probe.is_some_and(|(_, began)| lasts(began)) {
            let retry_in = open.until.saturating_duration_since(now);
            return Err(Refused { reason: open.reason.clone(), retry_in });
        }
        *probes += 1;
        *next += 1;
        open.probe = Some((*next, now));
        pass.probe = Some(*next);
        Ok(pass)
    }

    /// Where the circuit stands.
    #[must_use]
    pub fn circuit(&self, now: Instant) -> Circuit {
        match &self.state().open {
            None => Circuit::Closed,
            Some(open) if open.probe.is_some() || now >= open.until => Circuit::HalfOpen,
            Some(_) => Circuit::Open,
        }
    }

    /// How long one must wait at least who has a seat; `None` when the circuit is closed and nobody
    /// needs one.
    #[must_use]
    pub fn wait(&self, now: Instant) -> Option<Duration> {
        self.state().open.as_ref().map(|open| open.returning.saturating_duration_since(now))
    }

    /// Takes a seat, if one is free.
    #[must_use]
    pub fn seat(&self) -> Option<Seat<'_>> {
        let mut state = self.state();
        (state.seated < self.seats).then(|| {
            state.seated += 1;
            Seat(self)
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // No code can panic half-way through a change.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn pause(&self, failed: u32, jitter: f64) -> Duration {
        let Settings { pause, longest_pause, .. } = self.settings;
        let policy = RetryPolicy { max: u32::MAX, initial: pause, cap: longest_pause };
        policy.delay(failed, jitter, Retry::Backoff).unwrap_or(longest_pause)
    }

    fn opened(&self, reason: &str, failed: u32, now: Instant, jitter: f64) -> Open {
        Open {
            until: now + self.pause(failed, jitter),
            returning: now + self.settings.short_pause,
            failed,
            reason: reason.to_owned(),
            probe: None,
        }
    }
}

impl State {
    /// Counts a failure; whether there are enough of them.
    fn count(&mut self, settings: &Settings, began: Instant, now: Instant) -> bool {
        let began = self.answered.map_or(began, |answered| began.max(answered));
        let known = self.span.filter(|(_, last)| {
            now.saturating_duration_since(*last) <= settings.memory && self.failures > 0
        });
        self.failures = if known.is_some() { self.failures.saturating_add(1) } else { 1 };
        let first = known.map_or(began, |(first, _)| first.min(began));
        self.span = Some((first, now));
        let long_enough = now.saturating_duration_since(first) >= settings.spread;
        self.failures >= settings.threshold && long_enough
    }
}

/// Leave to make one attempt. Dropped without a word, it says nothing of the upstream.
#[derive(Debug)]
pub struct Pass<'a> {
    breaker: &'a Breaker,
    began: Instant,
    probe: Option<u64>,
}

impl Pass<'_> {
    /// The upstream has answered; whether that closed an open circuit.
    pub fn answered(self, now: Instant) -> bool {
        let mut state = self.breaker.state();
        state.failures = 0;
        state.answered = Some(now);
        state.open.take().is_some()
    }

    /// The upstream is not there, for this reason; whether that opened the circuit.
    pub fn failed(self, reason: &str, now: Instant, jitter: f64) -> bool {
        let breaker = self.breaker;
        let mut state = breaker.state();
        match &mut state.open {
            None => {
                let opens = state.count(&breaker.settings, self.began, now);
                if opens {
                    state.open = Some(breaker.opened(reason, 0, now, jitter));
                }
                opens
            }
            Some(open) => {
                // Others began before the circuit opened, and their failures are no news.
                if open.probe.is_some_and(|(number, _)| Some(number) == self.probe) {
                    let failed = open.failed.saturating_add(1);
                    *open = breaker.opened(reason, failed, now, jitter);
                }
                false
            }
        }
    }
}

impl Drop for Pass<'_> {
    fn drop(&mut self) {
        let Some(mine) = self.probe else { return };
        let mut state = self.breaker.state();
        state.probes = state.probes.saturating_sub(1);
        if let Some(open) = &mut state.open
            && open.probe.is_some_and(|(number, _)| number == mine)
        {
            open.probe = None;
        }
    }
}

/// Leave to wait for an upstream that is not there.
#[derive(Debug)]
pub struct Seat<'a>(&'a Breaker);

impl Drop for Seat<'_> {
    fn drop(&mut self) {
        let mut state = self.0.state();
        state.seated = state.seated.saturating_sub(1);
    }
}
