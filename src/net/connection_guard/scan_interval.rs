//! How often the guard looks.
//!
//! Pure: what a look has shown and taken comes in, the time to rest until the next one comes out.
//! Invariant: without a crowd of those that ask nothing, looking takes a small part of one core.

use std::time::Duration;

/// The least time between two looks: a client that floods us gets through 2 to 4 MiB in it.
const MIN_INTERVAL: Duration = Duration::from_millis(20);

/// The most time between two looks,
const MAX_INTERVAL: Duration = Duration::from_millis(250);

/// and where most connections are taken, so that new ones cannot get far beyond their limit.
const MAX_BUSY_INTERVAL: Duration = Duration::from_millis(100);

/// The rest after a look, in times of what the look took.
const REST_FACTOR: u32 = 60;

/// What a look has shown.
#[derive(Clone, Copy, Debug)]
pub(super) struct Load {
    /// Connections.
    pub connections: usize,
    /// Those of them whose requests are being answered, or wait for it.
    pub served: usize,
    /// How many connections there may be.
    pub max_connections: usize,
    /// Whether a head is on its way that may become too large.
    pub head_growing: bool,
}

impl Load {
    /// How long to rest after a look that took `cost` of a core, however long it had to wait for one.
    /// Under a crowd there is no time to rest; but a thousand streams are no crowd: looking all the
    /// time would take them a fifth of a core.
    pub(super) fn next_interval(self, cost: Duration) -> Duration {
        if self.head_growing {
            return MIN_INTERVAL / 10;
        }
        let others = self.connections.saturating_sub(self.served);
        if others > self.max_connections.saturating_sub(self.served) / 2 {
            return MIN_INTERVAL.max(cost);
        }
        let most = if self.connections > self.max_connections / 2 {
            MAX_BUSY_INTERVAL
        } else {
            MAX_INTERVAL
        };
        (cost * REST_FACTOR).clamp(MIN_INTERVAL, most)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(connections: usize, served: usize, cost_us: u64, expected_ms: u64) {
        let shown = Load { connections, served, max_connections: 1000, head_growing: false };
        let rest = shown.next_interval(Duration::from_micros(cost_us));
        assert_eq!(rest, Duration::from_millis(expected_ms), "{shown:?}");
    }

    #[test]
    fn a_look_is_paid_for_with_rest() {
        check(0, 0, 10, 20);
        check(10, 0, 1_000, 60);
        check(500, 0, 2_000, 120);
        check(500, 500, 30_000, 250);
    }

    #[test]
    fn a_crowd_that_asks_nothing_is_watched_all_the_time() {
        check(501, 0, 2_000, 20);
        check(900, 0, 2_000, 20);
        check(900, 0, 30_000, 30);
        // They have the places that the others leave.
        check(900, 700, 4_000, 20);
        check(5_000, 1_000, 4_000, 20);
        check(1_001, 1_000, 4_000, 20);
    }

    #[test]
    fn many_that_are_served_are_no_crowd() {
        check(900, 900, 4_000, 100);
        check(900, 800, 4_000, 100);
        check(1_000, 1_000, 500, 30);
    }

    #[test]
    fn a_head_that_grows_is_not_let_out_of_sight() {
        let shown = Load { connections: 1, served: 0, max_connections: 1000, head_growing: true };
        assert_eq!(shown.next_interval(Duration::ZERO), Duration::from_millis(2));
    }
}
