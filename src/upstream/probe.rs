//! Probes of an upstream whose circuit is open, so that no user's request finds out whether it is back.
//!
//! Where there are several upstreams, a thread asks one that is out for its model list, after the cooldown of
//! the circuit breaker, which doubles with each failure and is shortened at random. A request that no other
//! upstream answers wakes it earlier, and waits a moment for what it finds. Any response closes the circuit.
//! With one upstream the requests themselves probe it, as [`super::breaker`] says: they have nowhere else to
//! go. Invariant: at most one thread probes an upstream, and it ends with the upstream.

use std::sync::{Arc, Condvar, Mutex, PoisonError, Weak};
use std::thread;
use std::time::{Duration, Instant};

use super::backoff::RetryPolicy;
use super::{Trace, Upstream};
use crate::error::Retry;
use crate::net::memory_budget;
use crate::observe::lock::lock;
use crate::observe::system_error;

/// Called when a circuit opens.
pub(super) type OnOpen = Box<dyn Fn() + Send + Sync>;

/// Begins the id of a probe in the log.
const TRACE_ID: &str = "probe";

/// How long a request waits for a probe that it asked for. A server that is well lists its models in less.
pub(crate) const PATIENCE: Duration = Duration::from_millis(500);

/// The thread that probes one upstream.
#[derive(Debug, Default)]
pub(crate) struct Prober {
    state: Mutex<ProberState>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct ProberState {
    is_running: bool,
    is_woken: bool,
    /// When the running probe began.
    began_at: Option<Instant>,
    /// Probes that ended so far, and when the last one did.
    finished: u64,
    finished_at: Option<Instant>,
}

impl Prober {
    /// Takes the turn of the one thread.
    fn begin(self: &Arc<Self>) -> Option<Running> {
        let mut state = lock(&self.state);
        let was_running = std::mem::replace(&mut state.is_running, true);
        (!was_running).then(|| Running(self.clone()))
    }

    /// Waits until a probe is due or a request asks for one.
    fn sleep(&self, delay: Duration) {
        let waiting =
            self.changed.wait_timeout_while(lock(&self.state), delay, |state| !state.is_woken);
        waiting.unwrap_or_else(PoisonError::into_inner).0.began_at = Some(Instant::now());
    }

    /// Notes that a probe has ended.
    fn finish(&self) {
        let mut state = lock(&self.state);
        state.finished += 1;
        (state.is_woken, state.began_at) = (false, None);
        state.finished_at = Some(Instant::now());
        self.changed.notify_all();
    }

    /// Asks for a probe now; the number of those before it, or `None` if one has just found nothing or one
    /// takes too long.
    fn wake(&self, min_pause: Duration) -> Option<u64> {
        let mut state = lock(&self.state);
        let is_recent = state.finished_at.is_some_and(|at| at.elapsed() < min_pause);
        let is_slow = state.began_at.is_some_and(|at| at.elapsed() > PATIENCE);
        if !state.is_running || is_recent || is_slow {
            return None;
        }
        state.is_woken = true;
        self.changed.notify_all();
        Some(state.finished)
    }

    /// Waits until a probe after that number has ended.
    fn wait(&self, number: u64, deadline: Instant) {
        let timeout = deadline.saturating_duration_since(Instant::now());
        let lasts = |state: &mut ProberState| state.is_running && state.finished == number;
        drop(self.changed.wait_timeout_while(lock(&self.state), timeout, lasts));
    }
}

/// Ends the turn of the one thread, also by a panic.
struct Running(Arc<Prober>);

impl Drop for Running {
    fn drop(&mut self) {
        *lock(&self.0.state) = ProberState::default();
        self.0.changed.notify_all();
    }
}

impl Upstream {
    /// Probes the upstream from now on whenever its circuit opens, and now if it is open.
    pub(super) fn probe_when_out(self: &Arc<Self>) {
        let upstream = Arc::downgrade(self);
        let on_open: OnOpen = Box::new(move || {
            let prober = upstream.upgrade().map(|upstream| upstream.prober.clone());
            let Some(running) = prober.and_then(|prober| prober.begin()) else { return };
            let upstream = upstream.clone();
            let probe = move || {
                let mut turn = Some(running);
                while let Some(running) = turn {
                    probe_until_closed(&upstream, &running);
                    drop(running);
                    // It may be out again since before the turn ended.
                    let upstream = upstream.upgrade().filter(|upstream| upstream.is_out());
                    turn = upstream.and_then(|upstream| upstream.prober.begin());
                }
            };
            let probe = memory_budget::inherit(probe);
            if let Err(error) = thread::Builder::new().name("circuit-probe".into()).spawn(probe) {
                log::warn!(
                    "cannot start a thread to probe an upstream: {}",
                    system_error::describe_spawn(&error)
                );
            }
        });
        // An upstream that a reload kept has it already.
        let _ = self.client.on_open.set(on_open);
        // It may have been the only one, which no thread probes, when its circuit opened.
        if self.is_out() {
            self.client.on_open.get().iter().for_each(|on_open| on_open());
        }
    }

    /// Asks for a probe of an upstream that is out. Each `retry_cooldown` has one at most.
    pub(crate) fn wake_probe(&self) -> Option<u64> {
        self.prober.wake(self.settings.breaker.retry_cooldown)
    }

    /// Waits for the probe that [`Self::wake_probe`] asked for; whether the upstream is well.
    pub(crate) fn is_found_well(&self, probe: Option<u64>, deadline: Instant) -> bool {
        if let Some(number) = probe {
            self.prober.wait(number, deadline);
        }
        !self.is_out()
    }

    fn probe_delay(&self, failed: u32) -> Duration {
        let breaker = &self.settings.breaker;
        let (initial_delay, max_delay) = (breaker.cooldown, breaker.max_cooldown);
        let policy = RetryPolicy { max_retries: u32::MAX, initial_delay, max_delay };
        let jitter = (self.client.retry_env.jitter)();
        policy.next_delay(failed, jitter, Retry::Backoff).unwrap_or(max_delay)
    }
}

fn probe_until_closed(upstream: &Weak<Upstream>, running: &Running) {
    for failed in 0.. {
        let Some(delay) = upstream.upgrade().map(|upstream| upstream.probe_delay(failed)) else {
            return;
        };
        running.0.sleep(delay);
        let Some(upstream) = upstream.upgrade() else { return };
        if !upstream.is_out() {
            // A request has found that out.
            upstream.slots.hand_over();
            return;
        }
        // Whatever it says, it is there; the breaker notes that.
        let _ = upstream.client.check_health(&mut Trace::new(TRACE_ID));
        running.0.finish();
        if !upstream.is_out() {
            // Without a list it would get no request for as long as a failed one keeps others from asking.
            if upstream.catalog.has_failed_lately() {
                let _ = upstream.refresh_model_list(&mut Trace::new(TRACE_ID));
            }
            upstream.slots.hand_over();
            return;
        }
    }
}
