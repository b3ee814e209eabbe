//! Attempts: who may make one, what it tells of the upstream, and when the next one follows.
//!
//! All calls go through here, so this is the one place that asks the [breaker](crate::upstream::breaker) and
//! counts. A kept connection that turns out to be closed is no failure of anybody: the request is sent
//! again at once on a new one, whatever the retry policy says, because no byte was answered.

use std::time::{Duration, Instant};

use super::transport::agent;
use super::{Client, ConnectionPolicy, Trace};
use crate::error::{Error, Result, Retry, Side};
use crate::upstream::backoff::RetryPolicy;
use crate::upstream::breaker::{Caller, CircuitOpen, Permit};

/// Who tells a client when to come back tells it no less than this.
const MIN_RETRY_AFTER: Duration = Duration::from_secs(1);

impl Client {
    /// Makes attempts until one has a good head or none may follow. While the circuit is open, only
    /// who finds a seat waits for another one.
    pub(super) fn retry<T>(
        &self,
        operation: &'static str,
        (policy, mut caller): (RetryPolicy, Caller),
        trace: &mut Trace,
        mut attempt: impl FnMut(&mut Trace) -> Result<T>,
    ) -> Result<T> {
        log::debug!("{} {operation} begins: model={:?}", trace.request_id, trace.model);
        let (mut retries, mut polls) = (0, 0);
        let mut seat = None;
        loop {
            let again = retries + polls > 0;
            let error = match self.guarded((caller, again), trace, &mut attempt) {
                Ok(answer) => return Ok(answer),
                Err(error) => error,
            };
            if let Error::ClientDisconnected(_) = error {
                return Err(error);
            }
            let made = if error.retry() == Retry::Poll { &mut polls } else { &mut retries };
            let mut delay = policy.next_delay(*made, (self.retry_env.jitter)(), error.retry());
            *made += 1;
            if let (Some(_), Some(wait)) = (delay, self.breaker.min_retry_delay(Instant::now())) {
                seat = seat.or_else(|| self.breaker.try_acquire_retry_slot());
                delay = delay.filter(|_| seat.is_some()).map(|delay| delay.max(wait));
            }
            // A refusal is told by whoever cannot mend the request.
            if trace.refusal.is_none() || delay.is_some() {
                self.log_failure(operation, trace, &error, delay);
            }
            let Some(delay) = delay else { return Err(error) };
            if !(self.retry_env.sleep)(delay) {
                agent::check_cancelled()?;
                return Err(Error::ShuttingDown);
            }
            caller = Caller::Retrying;
        }
    }

    /// Makes one attempt, if the circuit lets it through, and tells the breaker how it went.
    fn guarded<T>(
        &self,
        (caller, again): (Caller, bool),
        trace: &mut Trace,
        attempt: &mut impl FnMut(&mut Trace) -> Result<T>,
    ) -> Result<T> {
        let pass = self.acquire_permit(caller)?;
        let mut result = self.counted(again, trace, &mut *attempt);
        if let Err(Error::StaleConnection(_)) = result {
            log::debug!("{} a kept connection was closed: once more", trace.request_id);
            // What else is kept is as old.
            trace.connection_policy = ConnectionPolicy::Fresh;
            result = self.counted(true, trace, attempt);
            trace.connection_policy = ConnectionPolicy::Reuse;
        }
        self.record_outcome(pass, &result);
        result
    }

    /// Makes one attempt that can be made only once, on a connection of its own.
    pub(super) fn try_once<T>(
        &self,
        operation: &'static str,
        trace: &mut Trace,
        attempt: impl FnOnce(&mut Trace) -> Result<T>,
    ) -> Result<T> {
        let result = self.acquire_permit(Caller::New).and_then(|pass| {
            trace.connection_policy = ConnectionPolicy::Dedicated;
            let result = self.counted(false, trace, attempt);
            trace.connection_policy = ConnectionPolicy::Reuse;
            self.record_outcome(pass, &result);
            result
        });
        result.inspect_err(|error| self.log_failure(operation, trace, error, None))
    }

    fn acquire_permit(&self, caller: Caller) -> Result<Permit<'_>> {
        self.breaker.try_acquire(caller, Instant::now()).map_err(
            |CircuitOpen { reason, retry_in }| {
                self.metrics.count_circuit_refusal();
                Error::UpstreamDown { reason, retry_after: retry_in.max(MIN_RETRY_AFTER) }
            },
        )
    }

    fn counted<T>(
        &self,
        again: bool,
        trace: &mut Trace,
        attempt: impl FnOnce(&mut Trace) -> Result<T>,
    ) -> Result<T> {
        trace.attempts += 1;
        trace.last_attempt_at = Some(Instant::now());
        trace.refusal = None;
        self.metrics.count_attempt(again);
        attempt(trace).map_err(|error| self.count_failure(error))
    }

    /// Tells the breaker of an attempt. A client that left, and we ourselves, say nothing of the
    /// upstream.
    fn record_outcome<T>(&self, pass: Permit<'_>, result: &Result<T>) {
        let now = Instant::now();
        match result {
            Err(error) if error.is_unreachable() => {
                if pass.record_failure(&error.message(), now, (self.retry_env.jitter)()) {
                    log::warn!("the upstream is not there and is left alone for a while: {error}");
                }
            }
            Err(error) if error.side() != Side::Upstream => {}
            Err(Error::StaleConnection(_)) => {}
            Ok(_) | Err(_) => {
                if pass.record_success(now) {
                    log::info!("the upstream is there again");
                }
            }
        }
    }

    pub(super) fn log_failure(
        &self,
        operation: &str,
        trace: &Trace,
        error: &Error,
        delay: Option<Duration>,
    ) {
        let next = match delay {
            Some(delay) => format!("next attempt in {} ms", delay.as_millis()),
            None => "no further attempt".to_owned(),
        };
        // That the circuit is open was told once.
        let known = matches!(error, Error::UpstreamDown { .. });
        log::log!(
            if known { log::Level::Debug } else { log::Level::Warn },
            "{} {operation} failed: error={} attempt={} {next}",
            trace.request_id,
            self.redactor.redact(&error.to_string()),
            trace.attempts,
        );
    }

    pub(super) fn count_failure(&self, error: Error) -> Error {
        super::count_failure(&self.metrics, error)
    }
}
