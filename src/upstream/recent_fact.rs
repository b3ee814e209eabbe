//! One fact that was learnt of an upstream, as a number, and when it was learnt.
//!
//! A fact that nothing confirms is forgotten after a while, so that a server that was updated, or another one
//! at the same address, is found out about anew. Never reads the clock.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use crate::observe::lock::lock;

/// A fact, or nothing.
#[derive(Debug)]
pub(crate) struct RecentFact {
    known: Mutex<Option<(usize, Instant)>>,
    ttl: Duration,
}

impl RecentFact {
    /// Nothing; what is set later is known for `ttl`.
    pub(crate) fn new(ttl: Duration) -> Self {
        Self { known: Mutex::new(None), ttl }
    }

    /// Its value, if it was set within the last `ttl`.
    pub(crate) fn get(&self, now: Instant) -> Option<usize> {
        let known = *lock(&self.known);
        known.filter(|(_, since)| now.duration_since(*since) < self.ttl).map(|(value, _)| value)
    }

    /// Whether it was set within the last `ttl`.
    pub(crate) fn is_known(&self, now: Instant) -> bool {
        self.get(now).is_some()
    }

    /// Notes what was learnt, or that it was seen again.
    pub(crate) fn set(&self, value: usize, now: Instant) {
        *lock(&self.known) = Some((value, now));
    }

    /// Notes a value, unless a lower one is known.
    pub(crate) fn lower_to(&self, value: usize, now: Instant) {
        if self.get(now).is_none_or(|known| value < known) {
            self.set(value, now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TTL: Duration = Duration::from_secs(3600);

    #[test]
    fn a_fact_is_known_until_it_was_not_seen_for_an_hour() {
        let (fact, now) = (RecentFact::new(TTL), Instant::now());
        assert!(!fact.is_known(now));
        fact.set(7, now);
        assert_eq!(fact.get(now + TTL / 2), Some(7));
        assert!(!fact.is_known(now + TTL));
        fact.set(7, now + TTL / 2);
        assert!(fact.is_known(now + TTL));
        assert!(!fact.is_known(now + TTL / 2 + TTL));
    }

    #[test]
    fn a_bound_is_lowered_and_rises_only_when_it_is_forgotten() {
        let (fact, now) = (RecentFact::new(TTL), Instant::now());
        fact.lower_to(8, now);
        fact.lower_to(16, now + TTL / 2);
        assert_eq!(fact.get(now), Some(8));
        assert!(!fact.is_known(now + TTL), "a higher bound is no sign of the lower one");
        fact.lower_to(16, now + TTL);
        fact.lower_to(4, now + TTL);
        assert_eq!(fact.get(now + TTL), Some(4));
    }
}
