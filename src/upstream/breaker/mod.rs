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
//! [`Permit`] gives it back when it is dropped, by a panic, too; and one that takes longer than a
//! connection may take no longer keeps others from trying, up to the number of seats.

#[cfg(test)]
mod tests;

use std::sync::Mutex;
use std::time::{Duration, Instant};

use crate::error::Retry;
use crate::observe::circuit_state::CircuitState;
use crate::observe::lock::lock;
use crate::upstream::backoff::RetryPolicy;

/// The numbers of a breaker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Failures in a row that open the circuit.
    pub failure_threshold: u32,
    /// For how long they must have gone on.
    pub min_failure_span: Duration,
    /// After a silence this long, earlier failures are forgotten.
    pub forget_after: Duration,
    /// The first pause; it doubles with each probe that fails.
    pub cooldown: Duration,
    /// The longest pause.
    pub max_cooldown: Duration,
    /// The pause for a request that has waited already.
    pub retry_cooldown: Duration,
    /// How long a probe keeps others from trying.
    pub probe_timeout: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            // One more than a request makes attempts by default.
            failure_threshold: 5,
            min_failure_span: Duration::from_secs(1),
            forget_after: Duration::from_secs(60),
            cooldown: Duration::from_secs(1),
            // As long as connecting may take.
            max_cooldown: Duration::from_secs(10),
            retry_cooldown: Duration::from_millis(500),
            probe_timeout: Duration::from_secs(10),
        }
    }
}

/// Who wants to try.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Caller {
    /// A request that has not waited yet.
    New,
    /// One that has waited for its next attempt.
    Retrying,
    /// A check whose very purpose it is to find out; never refused.
    HealthCheck,
}

/// Why an attempt must not be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CircuitOpen {
    /// How the last attempt failed.
    pub reason: String,
    /// When it may be worth asking again.
    pub retry_in: Duration,
}

/// The breaker of one upstream.
#[derive(Debug)]
pub struct Breaker {
    settings: Settings,
    retry_slots: usize,
    state: Mutex<BreakerState>,
}

#[derive(Debug, Default)]
struct BreakerState {
    /// Failures since the last answer, while the circuit is closed.
    failures: u32,
    /// When the first of them began, and when the latest ended.
    failure_span: Option<(Instant, Instant)>,
    /// The last answer.
    last_success_at: Option<Instant>,
    open: Option<OpenState>,
    /// Seats that are taken.
    retry_slots_in_use: usize,
    /// Probes that are running, and the number of the next one.
    running_probes: usize,
    last_probe_id: u64,
}

#[derive(Debug)]
struct OpenState {
    /// When a new request may try, and when one that has waited.
    next_probe_at: Instant,
    next_retry_at: Instant,
    /// Probes that failed so far.
    failed_probes: u32,
    reason: String,
    /// The number of the running probe, and when it began.
    probe: Option<(u64, Instant)>,
}

impl Breaker {
    /// A closed circuit; `workers` decide how many may wait for an upstream that is not there.
    #[must_use]
    pub fn new(settings: Settings, workers: usize) -> Self {
        Self { settings, retry_slots: (workers / 8).max(1), state: Mutex::default() }
    }

    /// Asks to make an attempt.
    ///
    /// # Errors
    /// [`CircuitOpen`] while the circuit is open.
    pub fn try_acquire(&self, caller: Caller, now: Instant) -> Result<Permit<'_>, CircuitOpen> {
        let mut state = lock(&self.state);
        let BreakerState { open, running_probes: probes, last_probe_id: next, .. } = &mut *state;
        let mut pass = Permit { breaker: self, started_at: now, probe_id: None };
        let Some(open) = open else { return Ok(pass) };
        if caller == Caller::HealthCheck {
            return Ok(pass);
        }
        let due = if caller == Caller::Retrying { open.next_retry_at } else { open.next_probe_at };
        let lasts = |began: Instant| {
            now.saturating_duration_since(began) < self.settings.probe_timeout
                || *probes >= self.retry_slots
        };
        if now < due || open.probe.is_some_and(|(_, began)| lasts(began)) {
            let retry_in = open.next_probe_at.saturating_duration_since(now);
            return Err(CircuitOpen { reason: open.reason.clone(), retry_in });
        }
        *probes += 1;
        *next += 1;
        open.probe = Some((*next, now));
        pass.probe_id = Some(*next);
        Ok(pass)
    }

    /// Where the circuit stands.
    #[must_use]
    pub fn circuit_state(&self, now: Instant) -> CircuitState {
        match &lock(&self.state).open {
            None => CircuitState::Closed,
            Some(open) if open.probe.is_some() || now >= open.next_probe_at => {
                CircuitState::HalfOpen
            }
            Some(_) => CircuitState::Open,
        }
    }

    /// How long one must wait at least who has a seat; `None` when the circuit is closed and nobody
    /// needs one.
    #[must_use]
    pub fn min_retry_delay(&self, now: Instant) -> Option<Duration> {
        lock(&self.state)
            .open
            .as_ref()
            .map(|open| open.next_retry_at.saturating_duration_since(now))
    }

    /// Takes a seat, if one is free.
    #[must_use]
    pub fn try_acquire_retry_slot(&self) -> Option<RetrySlot<'_>> {
        let mut state = lock(&self.state);
        (state.retry_slots_in_use < self.retry_slots).then(|| {
            state.retry_slots_in_use += 1;
            RetrySlot(self)
        })
    }

    fn cooldown(&self, failed: u32, jitter: f64) -> Duration {
        let Settings { cooldown: pause, max_cooldown: longest_pause, .. } = self.settings;
        let policy =
            RetryPolicy { max_retries: u32::MAX, initial_delay: pause, max_delay: longest_pause };
        policy.next_delay(failed, jitter, Retry::Backoff).unwrap_or(longest_pause)
    }

    fn new_open_state(&self, reason: &str, failed: u32, now: Instant, jitter: f64) -> OpenState {
        OpenState {
            next_probe_at: now + self.cooldown(failed, jitter),
            next_retry_at: now + self.settings.retry_cooldown,
            failed_probes: failed,
            reason: reason.to_owned(),
            probe: None,
        }
    }
}

impl BreakerState {
    /// Counts a failure; whether there are enough of them.
    fn count_failure(&mut self, settings: &Settings, began: Instant, now: Instant) -> bool {
        let began = self.last_success_at.map_or(began, |answered| began.max(answered));
        let known = self.failure_span.filter(|(_, last)| {
            now.saturating_duration_since(*last) <= settings.forget_after && self.failures > 0
        });
        self.failures = if known.is_some() { self.failures.saturating_add(1) } else { 1 };
        let first = known.map_or(began, |(first, _)| first.min(began));
        self.failure_span = Some((first, now));
        let long_enough = now.saturating_duration_since(first) >= settings.min_failure_span;
        self.failures >= settings.failure_threshold && long_enough
    }
}

/// Leave to make one attempt. Dropped without a word, it says nothing of the upstream.
#[derive(Debug)]
pub struct Permit<'a> {
    breaker: &'a Breaker,
    started_at: Instant,
    probe_id: Option<u64>,
}

impl Permit<'_> {
    /// The upstream has answered; whether that closed an open circuit.
    pub fn record_success(self, now: Instant) -> bool {
        let mut state = lock(&self.breaker.state);
        state.failures = 0;
        state.last_success_at = Some(now);
        state.open.take().is_some()
    }

    /// The upstream is not there, for this reason; whether that opened the circuit.
    pub fn record_failure(self, reason: &str, now: Instant, jitter: f64) -> bool {
        let breaker = self.breaker;
        let mut state = lock(&breaker.state);
        match &mut state.open {
            None => {
                let opens = state.count_failure(&breaker.settings, self.started_at, now);
                if opens {
                    state.open = Some(breaker.new_open_state(reason, 0, now, jitter));
                }
                opens
            }
            Some(open) => {
                // Others began before the circuit opened, and their failures are no news.
                if open.probe.is_some_and(|(number, _)| Some(number) == self.probe_id) {
                    let failed = open.failed_probes.saturating_add(1);
                    *open = breaker.new_open_state(reason, failed, now, jitter);
                }
                false
            }
        }
    }
}

impl Drop for Permit<'_> {
    fn drop(&mut self) {
        let Some(mine) = self.probe_id else { return };
        let mut state = lock(&self.breaker.state);
        state.running_probes = state.running_probes.saturating_sub(1);
        if let Some(open) = &mut state.open
            && open.probe.is_some_and(|(number, _)| number == mine)
        {
            open.probe = None;
        }
    }
}

/// Leave to wait for an upstream that is not there.
#[derive(Debug)]
pub struct RetrySlot<'a>(&'a Breaker);

impl Drop for RetrySlot<'_> {
    fn drop(&mut self) {
        let mut state = lock(&self.0.state);
        state.retry_slots_in_use = state.retry_slots_in_use.saturating_sub(1);
    }
}
