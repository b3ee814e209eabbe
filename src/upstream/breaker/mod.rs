//! A circuit breaker: which requests may try an upstream that cannot be reached. Reads no clock.
//!
//! ```text
//!             enough failures in a row, spread in time
//!   Closed ----------------------------------------------> Open <---------+
//!     ^                                                      |            |
//!     | any response                     the cooldown is over |            | the probe fails:
//!     |                                                      v            | a longer cooldown
//!     +-------------------------------------------------- HalfOpen -------+
//!                                            one attempt is let through
//! ```
//!
//! A failure counts when the upstream is unreachable: no connection, one closed without a byte, or no
//! response head in time. Any response with a status closes the circuit: a 503 while a model loads, a
//! 429, and a 502 of a reverse proxy, which holds no worker for long.
//!
//! A single user whose llama.cpp restarts must not be worse off than without a breaker:
//!
//! - The circuit opens after more failures than one request makes by default, and only if they span
//!   some time: many requests that fail in the same moment show only that moment.
//! - A request with retries left still waits its own backoff and then tries, however long the
//!   cooldown, unless another request is trying or tried a moment ago. For that it takes one of a few
//!   *retry slots*, an eighth of the workers and at least one. So a single request always gets a slot,
//!   and of many requests the others fail at once instead of each holding a worker.
//! - The cooldown never exceeds the time that connecting may take.
//!
//! Invariants: one response closes the circuit, whichever attempt got it. A probe is never lost: its
//! [`Permit`] gives it back when it is dropped, also by a panic. A probe that takes longer than
//! connecting may take does not keep others from trying, up to the number of slots.
//!
//! # Numbers
//!
//! - The circuit **opens** after 5 failures in a row that span at least 1 s. Failures are forgotten
//!   when none follows for 60 s.
//! - While it is **open**, new requests get 503 at once, with `Retry-After` (at least 1 s) and the
//!   text of the last failure. After a cooldown of 1 s one request is let through; the cooldown
//!   doubles with each failure, up to 10 s, and is shortened at random by up to a half.
//! - A request that holds a retry slot tries again 500 ms after the last attempt at the earliest.
//! - `/openai/health` is never refused.
//!
//! `/ready`, `/openai/health` and the metrics show the state.

#[cfg(test)]
mod tests;

use std::sync::Mutex;
use std::time::{Duration, Instant};

use crate::error::Retry;
use crate::observe::circuit_state::CircuitState;
use crate::observe::lock::lock;
use crate::upstream::backoff::RetryPolicy;

/// The thresholds and times of a breaker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Failures in a row that open the circuit.
    pub failure_threshold: u32,
    /// The shortest time that they must span.
    pub min_failure_span: Duration,
    /// Failures are forgotten when none follows for this long.
    pub forget_after: Duration,
    /// The first cooldown; it doubles with each probe that fails.
    pub cooldown: Duration,
    /// The longest cooldown.
    pub max_cooldown: Duration,
    /// The cooldown for a request that holds a retry slot.
    pub retry_cooldown: Duration,
    /// The longest time that a probe keeps others from trying.
    pub probe_timeout: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            // One more than the attempts of a request by default.
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

/// What asks for a permit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Caller {
    /// A request that has not waited yet.
    New,
    /// A request that has waited for its next attempt.
    Retrying,
    /// A health check, which is to find out and so always gets one.
    HealthCheck,
}

/// Why there is no permit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CircuitOpen {
    /// How the last attempt failed.
    pub reason: String,
    /// After which time a new request may try.
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
    /// Failures since the last response, while the circuit is closed.
    failures: u32,
    /// When the first of them began, and when the latest ended.
    failure_span: Option<(Instant, Instant)>,
    /// When the last response came.
    last_success_at: Option<Instant>,
    open: Option<OpenState>,
    retry_slots_in_use: usize,
    /// Permits of probes, also of those that no longer keep others from trying.
    running_probes: usize,
    last_probe_id: u64,
}

#[derive(Debug)]
struct OpenState {
    /// When a new request may make an attempt, and when a request that holds a retry slot may.
    next_probe_at: Instant,
    next_retry_at: Instant,
    /// Probes that failed so far.
    failed_probes: u32,
    reason: String,
    /// The id of the latest running probe, and when it began.
    probe: Option<(u64, Instant)>,
}

impl Breaker {
    /// A closed circuit; an eighth of `workers` is the number of retry slots.
    pub fn new(settings: Settings, workers: usize) -> Self {
        Self { settings, retry_slots: (workers / 8).max(1), state: Mutex::default() }
    }

    /// Asks for a permit to make one attempt.
    ///
    /// # Errors
    /// [`CircuitOpen`] while the circuit is open.
    pub fn try_acquire(&self, caller: Caller, now: Instant) -> Result<Permit<'_>, CircuitOpen> {
        let mut state = lock(&self.state);
        let BreakerState { open, running_probes: probes, last_probe_id: next, .. } = &mut *state;
        let mut permit = Permit { breaker: self, started_at: now, probe_id: None };
        let Some(open) = open.as_mut().filter(|_| caller != Caller::HealthCheck) else {
            return Ok(permit);
        };
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
        permit.probe_id = Some(*next);
        Ok(permit)
    }

    /// The state of the circuit.
    pub fn circuit_state(&self, now: Instant) -> CircuitState {
        match &lock(&self.state).open {
            None => CircuitState::Closed,
            Some(open) if open.probe.is_some() || now >= open.next_probe_at => {
                CircuitState::HalfOpen
            }
            Some(_) => CircuitState::Open,
        }
    }

    /// The shortest wait of a request that holds a retry slot; `None` while the circuit is closed and
    /// no slot is needed.
    pub fn min_retry_delay(&self, now: Instant) -> Option<Duration> {
        lock(&self.state)
            .open
            .as_ref()
            .map(|open| open.next_retry_at.saturating_duration_since(now))
    }

    /// Takes a retry slot, if one is free.
    #[must_use]
    pub fn try_acquire_retry_slot(&self) -> Option<RetrySlot<'_>> {
        let mut state = lock(&self.state);
        (state.retry_slots_in_use < self.retry_slots).then(|| {
            state.retry_slots_in_use += 1;
            RetrySlot(self)
        })
    }

    fn new_open_state(&self, reason: &str, failed: u32, now: Instant, jitter: f64) -> OpenState {
        let Settings { cooldown: initial_delay, max_cooldown: max_delay, .. } = self.settings;
        let policy = RetryPolicy { max_retries: u32::MAX, initial_delay, max_delay };
        let cooldown = policy.next_delay(failed, jitter, Retry::Backoff).unwrap_or(max_delay);
        OpenState {
            next_probe_at: now + cooldown,
            next_retry_at: now + self.settings.retry_cooldown,
            failed_probes: failed,
            reason: reason.to_owned(),
            probe: None,
        }
    }
}

impl BreakerState {
    /// Counts a failure; returns whether the circuit opens.
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

/// A permit for one attempt. Dropped without an outcome, it says nothing of the upstream.
#[derive(Debug)]
pub struct Permit<'a> {
    breaker: &'a Breaker,
    started_at: Instant,
    probe_id: Option<u64>,
}

impl Permit<'_> {
    /// Records a response; returns whether that closed the circuit.
    pub fn record_success(self, now: Instant) -> bool {
        let mut state = lock(&self.breaker.state);
        state.failures = 0;
        state.last_success_at = Some(now);
        state.open.take().is_some()
    }

    /// Records that the upstream is unreachable, and why; returns whether that opened the circuit.
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
                // Other attempts began before the circuit opened.
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

/// A slot to wait in for an unreachable upstream.
#[derive(Debug)]
pub struct RetrySlot<'a>(&'a Breaker);

impl Drop for RetrySlot<'_> {
    fn drop(&mut self) {
        let mut state = lock(&self.0.state);
        state.retry_slots_in_use = state.retry_slots_in_use.saturating_sub(1);
    }
}
