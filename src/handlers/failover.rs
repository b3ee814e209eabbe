//! Runs a request over its candidates until one answers.
//!
//! With one candidate its client retries by itself, as [`crate::upstream`] says. With several, each is asked
//! once in a round, without a delay between them; after a round in which all failed, the next one follows
//! after the backoff, up to `RETRY_MAX` times. A candidate that is out (its circuit is open, or it has
//! `max_parallel` requests in flight) is passed over while another one is able; if all are full, the request
//! waits for its turn. Invariant: after the first byte of a response nothing is sent again, because the
//! attempt has returned by then.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::AppView;
use super::model_lookup::ResolvedModel;
use crate::error::{Error, Result, Retry};
use crate::models::virtual_model::VirtualModel;
use crate::upstream::Trace;
use crate::upstream::probe::PATIENCE;
use crate::upstream::router::candidates::{Candidate, Candidates};
use crate::upstream::router::failover::{Failures, may_succeed_elsewhere};
use crate::upstream::router::rendezvous::ConversationKey;
use crate::upstream::router::slots::{Slot, Slots};

/// What a request is about, for its candidates.
pub(super) struct Routing {
    pub candidates: Candidates,
    /// The virtual model that the name means.
    pub virtual_model: Option<Arc<VirtualModel>>,
    pub needs_profile: bool,
}

/// The outcome of an attempt that may have an error inside, as a passed-on response of the upstream has.
pub(super) trait Outcome {
    /// The upstream's error.
    fn error(&self) -> Option<&Error> {
        None
    }
}

impl Routing {
    /// The candidates of a name, in the order in which they are asked.
    pub(super) fn new(
        app: AppView<'_>,
        (name, virtual_model): (&str, Option<Arc<VirtualModel>>),
        needs_profile: bool,
        key: impl FnOnce() -> ConversationKey,
        trace: &Trace,
    ) -> Self {
        let mut candidates = app.candidates(name, virtual_model.as_deref(), trace);
        candidates.sort(key);
        Self { candidates, virtual_model, needs_profile }
    }

    /// Asks the candidates; `attempt` gets each with a place among its requests.
    ///
    /// # Errors
    /// The most useful one of those of the candidates; [`Error::ModelNotFound`] if there are none.
    pub(super) fn run<T: Outcome>(
        &self,
        scope: (AppView<'_>, &mut Trace),
        requested_name: &str,
        attempt: impl FnMut(&mut Trace, ResolvedModel) -> Result<T>,
    ) -> Result<T> {
        self.run_while(&|| true, scope, requested_name, attempt)
    }

    /// The same; another attempt follows only while `may_repeat` allows it.
    pub(super) fn run_while<T: Outcome>(
        &self,
        may_repeat: &dyn Fn() -> bool,
        (app, trace): (AppView<'_>, &mut Trace),
        requested_name: &str,
        mut attempt: impl FnMut(&mut Trace, ResolvedModel) -> Result<T>,
    ) -> Result<T> {
        match &self.candidates.list[..] {
            [] => Err(Error::model_not_found(requested_name)),
            [only] => {
                let slot = self.take_slot(app, only)?;
                let resolved = self.resolve((app, trace), only, slot);
                attempt(trace, resolved)
            }
            _ => {
                let mut attempts = TypedAttempts { attempt, last: None, told: None };
                trace.is_single_attempt = true;
                let mut run =
                    Run { routing: self, app, trace, may_repeat, attempts: &mut attempts };
                let result = run.run_rounds();
                trace.is_single_attempt = false;
                match result? {
                    None => attempts.last.ok_or(Error::Internal("an attempt left no answer")),
                    Some(error) => attempts.told.ok_or(error),
                }
            }
        }
    }

    fn resolve(
        &self,
        (app, trace): (AppView<'_>, &mut Trace),
        candidate: &Candidate,
        slot: Slot,
    ) -> ResolvedModel {
        let about = (self.virtual_model.as_deref(), self.needs_profile);
        let mut resolved = app.resolve_at(candidate, about, trace);
        resolved.slot = Some(slot);
        resolved
    }

    fn take_slot(&self, app: AppView<'_>, candidate: &Candidate) -> Result<Slot> {
        let slots = &candidate.upstream.slots;
        slots
            .try_acquire()
            .map_or_else(|| wait_for_slot(app, (vec![slots.clone()], Vec::new()), candidate), Ok)
    }
}

/// Waits for a place at one of several upstreams, which are full or out, as long as a request may take at
/// one of them.
fn wait_for_slot(
    app: AppView<'_>,
    slots: (Vec<Arc<Slots>>, Vec<Arc<Slots>>),
    candidate: &Candidate,
) -> Result<Slot> {
    let timeout = candidate.upstream.settings.request_timeout;
    app.router.wait_for_slot(slots, app.settings.max_waiting, timeout)
}

/// Sends the request to one candidate after the other. Not generic, so that the rounds are compiled once.
trait Attempts {
    /// Sends it, and waits for the head of the response; the upstream's error, if the response has one.
    fn send(&mut self, trace: &mut Trace, resolved: ResolvedModel) -> Result<Option<Error>>;

    /// Keeps the last response, if there is one: its error is the one that is told.
    fn keep_last(&mut self);
}

/// Attempts with what they return.
struct TypedAttempts<T, F> {
    attempt: F,
    /// The response to the last attempt.
    last: Option<T>,
    /// The response whose error is told.
    told: Option<T>,
}

impl<T: Outcome, F: FnMut(&mut Trace, ResolvedModel) -> Result<T>> Attempts
    for TypedAttempts<T, F>
{
    fn send(&mut self, trace: &mut Trace, resolved: ResolvedModel) -> Result<Option<Error>> {
        self.last = None;
        let answer = (self.attempt)(trace, resolved)?;
        let error = answer.error().cloned();
        self.last = Some(answer);
        Ok(error)
    }

    fn keep_last(&mut self) {
        self.told = self.last.take();
    }
}

/// A request on its way over several candidates.
struct Run<'r, 'a> {
    routing: &'r Routing,
    app: AppView<'a>,
    trace: &'r mut Trace,
    may_repeat: &'r dyn Fn() -> bool,
    attempts: &'r mut dyn Attempts,
}

/// Failures so far, and which candidates cannot succeed any more.
struct State {
    failures: Failures<Arc<str>>,
    /// By candidate: whether it failed, and whether it may be asked again.
    outcomes: Vec<(bool, bool)>,
}

impl Run<'_, '_> {
    /// Asks until one answers; otherwise returns the error that is told.
    fn run_rounds(&mut self) -> Result<Option<Error>> {
        let outcomes = vec![(false, true); self.routing.candidates.list.len()];
        let mut state = State { failures: Failures::new(), outcomes };
        let client = &self.routing.candidates.list[0].upstream.client;
        let (mut retries, mut polls, mut asked) = (0, 0, Duration::ZERO);
        loop {
            if self.run_round(&mut state)? {
                return Ok(None);
            }
            // The next candidate was asked at once; another round is no resending on a new connection.
            let retry = match state.failures.take_retry() {
                Retry::Immediate => Retry::Backoff,
                retry => retry,
            };
            let count = if retry == Retry::Poll { &mut polls } else { &mut retries };
            let delay = client.retry_delay(*count, retry).filter(|_| (self.may_repeat)());
            let waited = &mut self.trace.waited;
            let delay = delay.filter(|delay| waited.try_add(*delay, retry, &mut asked));
            let Some(delay) = delay else {
                self.trace.retries_exhausted |= retries + polls > 0;
                break;
            };
            *count += 1;
            let log = || {
                log::warn!(
                    "{} all upstreams of the model failed, asking them again in {} ms",
                    self.trace.request_id,
                    delay.as_millis()
                );
            };
            if !client.sleep(delay, &log)? {
                break;
            }
        }
        let (error, upstream) = state.failures.into_best().ok_or(Error::Busy)?;
        // The one whose error is told.
        self.trace.upstream = Some(upstream);
        Ok(Some(error))
    }

    /// Asks each candidate that is able. If none of these answers, those whose circuits are open are probed,
    /// and those that are well after all are asked; then the request waits for its turn at those that are full.
    /// If all circuits stay open, their breakers decide, as with one upstream.
    fn run_round(&mut self, state: &mut State) -> Result<bool> {
        let candidates = &self.routing.candidates.list;
        let (mut full, mut out) = (Vec::new(), Vec::new());
        let mut was_asked = false;
        for (at, candidate) in candidates.iter().enumerate() {
            if !state.outcomes[at].1 {
                continue;
            }
            if candidate.upstream.is_out() {
                candidate.upstream.count_failover();
                out.push(at);
                continue;
            }
            let Some(slot) = candidate.upstream.slots.try_acquire() else {
                full.push(at);
                continue;
            };
            was_asked = true;
            if self.ask(state, (at, slot))? {
                return Ok(true);
            }
        }
        while !self.ask_out(state, (&mut out, &mut full), was_asked)? {
            let Some(first) = full.first() else { return Ok(false) };
            let slots = |list: &[usize]| -> Vec<_> {
                list.iter().map(|at| candidates[*at].upstream.slots.clone()).collect()
            };
            let both = (slots(&full), slots(&out));
            let slot = match wait_for_slot(self.app, both, &candidates[*first]) {
                // What another candidate said is more useful.
                Err(Error::Busy) if was_asked => return Ok(false),
                slot => slot?,
            };
            let is_its_own = |at: &usize| slot.is_of(&candidates[*at].upstream.slots);
            let at = match out.iter().position(is_its_own) {
                Some(place) => out.remove(place),
                None => full.remove(full.iter().position(is_its_own).unwrap_or(0)),
            };
            was_asked = true;
            if self.ask(state, (at, slot))? {
                break;
            }
        }
        Ok(true)
    }

    /// Asks candidates whose circuits were open and that are well; those that are full join the other full
    /// ones. All are asked if there is no other candidate.
    fn ask_out(
        &mut self,
        state: &mut State,
        (out, full): (&mut Vec<usize>, &mut Vec<usize>),
        was_asked: bool,
    ) -> Result<bool> {
        let candidates = &self.routing.candidates.list;
        let only_well = was_asked || !full.is_empty();
        let probes: Vec<_> = out.iter().map(|at| candidates[*at].upstream.wake_probe()).collect();
        let deadline = Instant::now() + PATIENCE;
        for (at, probe) in std::mem::take(out).into_iter().zip(probes) {
            let upstream = &candidates[at].upstream;
            let is_well = upstream.is_found_well(probe, deadline);
            if !is_well && only_well {
                out.push(at);
            } else if let Some(slot) = upstream.slots.try_acquire() {
                if self.ask(state, (at, slot))? {
                    return Ok(true);
                }
            } else if is_well {
                full.push(at);
            }
        }
        Ok(false)
    }

    /// Asks one candidate; `false` if another one may succeed.
    fn ask(&mut self, state: &mut State, (at, slot): (usize, Slot)) -> Result<bool> {
        let candidate = &self.routing.candidates.list[at];
        let resolved = self.routing.resolve((self.app, self.trace), candidate, slot);
        let goes_on = |error: &Error| may_succeed_elsewhere(error) && (self.may_repeat)();
        let error = match self.attempts.send(self.trace, resolved) {
            Ok(None) => return Ok(true),
            Ok(Some(error)) if !goes_on(&error) => return Ok(true),
            Err(error) if !goes_on(&error) => return Err(error),
            Ok(Some(error)) | Err(error) => error,
        };
        log::debug!(
            "{} upstream {:?} failed: {}",
            self.trace.request_id,
            candidate.upstream.name(),
            error.log_text()
        );
        candidate.upstream.count_failover();
        let (failed_before, may_be_asked) = &mut state.outcomes[at];
        *may_be_asked = error.retry() != Retry::Never;
        let is_told = state.failures.add(error, candidate.upstream.shared_name(), !*failed_before);
        *failed_before = true;
        if is_told {
            self.attempts.keep_last();
        }
        Ok(false)
    }
}
