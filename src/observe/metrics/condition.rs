//! How an upstream does, as its latest responses and failures show: for the status page.
//!
//! Reads no clock. Invariant: the text of a failure is the caller's own, and no upstream's.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::observe::lock::lock;

/// Each new latency counts as a quarter of the mean.
const WEIGHT: u64 = 4;

/// What is wrong with an upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// Nothing.
    None,
    /// It answers with errors that are its own.
    Failing,
    /// It does not answer.
    Unreachable,
}

/// The latest responses and failures of an upstream.
#[derive(Debug, Default)]
pub struct Condition {
    /// The mean time to the head of a response, in microseconds; 0 before the first.
    latency: AtomicU64,
    trouble: AtomicU8,
    last_failure: Mutex<Option<(Box<str>, Instant)>>,
}

impl Condition {
    /// Notes how long the head of a response took that needs no text to be generated first.
    pub fn record_latency(&self, took: Duration) {
        let took = u64::try_from(took.as_micros()).unwrap_or(u64::MAX / WEIGHT).max(1);
        let mean = match self.latency.load(Ordering::Relaxed) {
            0 => took,
            before => (before / WEIGHT * (WEIGHT - 1)).saturating_add(took / WEIGHT).max(1),
        };
        self.latency.store(mean, Ordering::Relaxed);
    }

    /// Notes a response that is no error of the upstream.
    pub fn record_success(&self) {
        if self.trouble.load(Ordering::Relaxed) != 0 {
            self.trouble.store(0, Ordering::Relaxed);
        }
    }

    /// Notes a failure, in words of this program. One that is the request's own fault is no trouble.
    pub fn record_failure(&self, what: &str, trouble: Trouble, now: Instant) {
        *lock(&self.last_failure) = Some((what.into(), now));
        self.trouble.store(trouble as u8, Ordering::Relaxed);
    }

    /// The mean of the latest latencies.
    pub fn latency(&self) -> Option<Duration> {
        let mean = self.latency.load(Ordering::Relaxed);
        (mean > 0).then(|| Duration::from_micros(mean))
    }

    /// What is wrong, as far as the latest attempt showed.
    pub fn trouble(&self) -> Trouble {
        match self.trouble.load(Ordering::Relaxed) {
            0 => Trouble::None,
            1 => Trouble::Failing,
            _ => Trouble::Unreachable,
        }
    }

    /// The last failure and its time.
    pub fn last_failure(&self) -> Option<(Box<str>, Instant)> {
        lock(&self.last_failure).clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_success_ends_the_trouble_and_the_last_failure_stays() {
        let (condition, now) = (Condition::default(), Instant::now());
        assert_eq!((condition.trouble(), condition.last_failure()), (Trouble::None, None));
        condition.record_failure("connection refused", Trouble::Unreachable, now);
        assert_eq!(condition.trouble(), Trouble::Unreachable);
        condition.record_failure("status 503", Trouble::Failing, now);
        assert_eq!(condition.trouble(), Trouble::Failing);
        condition.record_success();
        assert_eq!(condition.trouble(), Trouble::None);
        assert_eq!(condition.last_failure(), Some(("status 503".into(), now)));
    }

    #[test]
    fn the_latency_follows_the_latest_responses() {
        let condition = Condition::default();
        assert_eq!(condition.latency(), None);
        condition.record_latency(Duration::from_millis(100));
        assert_eq!(condition.latency(), Some(Duration::from_millis(100)));
        condition.record_latency(Duration::from_millis(200));
        assert_eq!(condition.latency(), Some(Duration::from_millis(125)));
        (0..50).for_each(|_| condition.record_latency(Duration::from_millis(10)));
        assert!(condition.latency().is_some_and(|mean| mean < Duration::from_millis(12)));
        condition.record_latency(Duration::ZERO);
        assert!(condition.latency().is_some());
        condition.record_latency(Duration::MAX);
    }
}
