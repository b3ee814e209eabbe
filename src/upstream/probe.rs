//! Probes of an upstream whose circuit is open, so that no user's request finds out whether it is back.
//!
//! Where there are several upstreams, a thread asks one that is out for its model list, after the cooldown of
//! the circuit breaker, which doubles with each failure and is shortened at random. Any response closes the
//! circuit. With one upstream the requests themselves probe it, as [`super::breaker`] says: they have nowhere
//! else to go. Invariant: at most one thread probes an upstream, and it ends with the upstream.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::thread;
use std::time::Duration;

use super::backoff::RetryPolicy;
use super::{Trace, Upstream};
use crate::error::Retry;

/// Called when a circuit opens.
pub(super) type OnOpen = Box<dyn Fn() + Send + Sync>;

/// Begins the id of a probe in the log.
const TRACE_ID: &str = "probe";

/// Ends the turn of the one thread, also by a panic.
struct Running(Arc<AtomicBool>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}

impl Upstream {
    /// Probes the upstream from now on whenever its circuit opens, and now if it is open.
    pub(super) fn probe_when_out(self: &Arc<Self>) {
        let (upstream, is_running) = (Arc::downgrade(self), Arc::new(AtomicBool::new(false)));
        let on_open: OnOpen = Box::new(move || {
            if is_running.swap(true, Ordering::AcqRel) {
                return;
            }
            let (upstream, running) = (upstream.clone(), Running(is_running.clone()));
            let probe = move || {
                let _running = running;
                probe_until_closed(&upstream);
            };
            if let Err(error) = thread::Builder::new().name("circuit-probe".into()).spawn(probe) {
                log::warn!("cannot start a thread to probe an upstream: {error}");
            }
        });
        // An upstream that a reload kept has it already.
        let _ = self.client.on_open.set(on_open);
        // It may have been the only one, which no thread probes, when its circuit opened.
        if self.is_out() {
            self.client.on_open.get().iter().for_each(|on_open| on_open());
        }
    }
}

fn probe_until_closed(upstream: &Weak<Upstream>) {
    for failed in 0.. {
        let Some(delay) = upstream.upgrade().map(|upstream| upstream.probe_delay(failed)) else {
            return;
        };
        thread::sleep(delay);
        let Some(upstream) = upstream.upgrade().filter(|upstream| upstream.is_out()) else {
            return;
        };
        // Whatever it says, it is there; the breaker notes that.
        let _ = upstream.client.check_health(&mut Trace::new(TRACE_ID));
        if !upstream.is_out() {
            // Without a list it would get no request for as long as a failed one keeps others from asking.
            if upstream.catalog.has_failed_lately() {
                let _ = upstream.refresh_model_list(&mut Trace::new(TRACE_ID));
            }
            return;
        }
    }
}

impl Upstream {
    fn probe_delay(&self, failed: u32) -> Duration {
        let breaker = &self.settings.breaker;
        let (initial_delay, max_delay) = (breaker.cooldown, breaker.max_cooldown);
        let policy = RetryPolicy { max_retries: u32::MAX, initial_delay, max_delay };
        let jitter = (self.client.retry_env.jitter)();
        policy.next_delay(failed, jitter, Retry::Backoff).unwrap_or(max_delay)
    }
}
