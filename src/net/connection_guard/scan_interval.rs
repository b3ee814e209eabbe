//! The pause between two scans.
//!
//! Pure: what a scan found and cost comes in, the pause before the next scan comes out.
//! Invariant: unless many connections are idle, scanning takes about 1/60 of a core.

use std::time::{Duration, Instant};

use super::ScanReport;
use super::rest::REST_INTERVAL;

/// Shortest interval: a client can send 2 to 4 MiB in it.
const MIN_INTERVAL: Duration = Duration::from_millis(20);

/// Interval while a large head arrives, which may exceed its limit soon.
const HEAD_INTERVAL: Duration = Duration::from_millis(2);

/// Longest interval.
const MAX_INTERVAL: Duration = Duration::from_millis(250);

/// Longest interval when more than half of `MAX_CONNECTIONS` are open, so that new connections cannot
/// exceed the limit by many.
const MAX_BUSY_INTERVAL: Duration = Duration::from_millis(100);

/// The pause after a scan, as a multiple of the CPU time of the scan.
const REST_FACTOR: u32 = 60;

/// The pause after a scan that took `cost` of CPU time. While more than half of the connections that
/// requests leave free are idle, it is short. Connections that are being served do not count as idle:
/// scanning all the time would cost a thousand streams a fifth of a core.
pub(super) fn next_interval(
    report: &ScanReport,
    max_connections: usize,
    cost: Duration,
) -> Duration {
    if report.head_growing {
        return HEAD_INTERVAL;
    }
    let idle = report.connections.saturating_sub(report.served);
    if idle > max_connections.saturating_sub(report.served) / 2 {
        return MIN_INTERVAL.max(cost);
    }
    let is_busy = report.connections > max_connections / 2;
    let longest = if is_busy { MAX_BUSY_INTERVAL } else { MAX_INTERVAL };
    (cost * REST_FACTOR).clamp(MIN_INTERVAL, longest)
}

/// How long nothing must have happened before the guard rests.
pub(super) const REST_AFTER: Duration = Duration::from_millis(500);

/// Whether nothing happens on any connection.
pub(super) fn is_quiet(report: &ScanReport, max_connections: usize) -> bool {
    report.active == 0
        && report.at_rest == report.connections
        && report.connections <= max_connections
}

/// How long to rest, until the first idle connection is `due` to be closed. `cost` is that of one look at
/// all connections.
pub(super) fn rest_interval(due: Option<Instant>, now: Instant, cost: Duration) -> Duration {
    let left = due.map_or(REST_INTERVAL, |due| due.saturating_duration_since(now));
    left.min(REST_INTERVAL).max(MIN_INTERVAL).max(cost * REST_FACTOR)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(connections: usize, served: usize, cost_us: u64, expected_ms: u64) {
        let report = ScanReport { connections, served, ..ScanReport::default() };
        let pause = next_interval(&report, 1000, Duration::from_micros(cost_us));
        assert_eq!(pause, Duration::from_millis(expected_ms), "{report:?}");
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
        let report = ScanReport { connections: 1, head_growing: true, ..ScanReport::default() };
        assert_eq!(next_interval(&report, 1000, Duration::ZERO), Duration::from_millis(2));
    }

    #[test]
    fn a_rest_ends_when_a_connection_is_due_but_is_paid_for_first() {
        let now = Instant::now();
        let check = |due_ms: Option<u64>, cost_ms, expected_ms| {
            let due = due_ms.map(|millis| now + Duration::from_millis(millis));
            let rest = rest_interval(due, now, Duration::from_millis(cost_ms));
            assert_eq!(rest.as_millis(), expected_ms, "{due_ms:?}");
        };
        check(None, 0, 1000);
        check(Some(70_000), 1, 1000);
        check(Some(300), 1, 300);
        check(Some(0), 0, 20);
        check(Some(0), 5, 300);
        check(None, 30, 1800);
    }

    #[test]
    fn quiet_is_only_where_nothing_happens_at_all() {
        let check = |connections, at_rest, active, expected| {
            let report = ScanReport { connections, at_rest, active, ..ScanReport::default() };
            assert_eq!(is_quiet(&report, 10), expected, "{report:?}");
        };
        check(0, 0, 0, true);
        check(10, 10, 0, true);
        check(10, 9, 0, false);
        check(10, 10, 1, false);
        check(11, 11, 0, false);
    }
}
