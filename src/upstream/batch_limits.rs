//! The batch sizes for embeddings that an upstream accepts.
//!
//! Learnt from rejections and shared by all requests. A smaller batch costs some more requests, a rejected one
//! costs every request an attempt; so a limit holds until it was not needed for an hour. Never reads the clock.

use std::time::{Duration, Instant};

use super::recent_fact::RecentFact;
use crate::translate::embed::BatchBounds;

/// The largest batches that the upstream accepted after it had rejected larger ones.
pub(crate) struct BatchLimits {
    items: RecentFact,
    bytes: RecentFact,
}

impl BatchLimits {
    /// No limits; those that are learnt hold for `ttl`.
    pub(crate) fn new(ttl: Duration) -> Self {
        Self { items: RecentFact::new(ttl), bytes: RecentFact::new(ttl) }
    }

    /// The first bounds to try for a family that accepts `max_items` inputs.
    pub(crate) fn bounds(&self, max_items: usize, now: Instant) -> BatchBounds {
        let first = BatchBounds::with_max_items(max_items);
        BatchBounds {
            items: first.items.min(self.items.get(now).unwrap_or(usize::MAX)),
            bytes: first.bytes.min(self.bytes.get(now).unwrap_or(usize::MAX)),
        }
    }

    /// Notes bounds that worked after larger ones had failed.
    pub(crate) fn lower_to(&self, accepted: BatchBounds, now: Instant) {
        self.items.lower_to(accepted.items, now);
        self.bytes.lower_to(accepted.bytes, now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TTL: Duration = Duration::from_secs(3600);

    #[test]
    fn a_limit_holds_for_an_hour_after_it_was_learnt() {
        let (limits, now) = (BatchLimits::new(TTL), Instant::now());
        let first = limits.bounds(64, now);
        assert_eq!(first.items, 64);
        limits.lower_to(BatchBounds { items: 16, ..first }, now);
        assert_eq!(limits.bounds(64, now + TTL / 2).items, 16);
        assert_eq!(limits.bounds(64, now + TTL).items, 64);
        limits.lower_to(BatchBounds { items: 32, bytes: 1000 }, now + TTL);
        let learnt = limits.bounds(64, now + TTL);
        assert_eq!((learnt.items, learnt.bytes), (32, 1000));
    }
}
