//! When a client whose stream is silent is shown that the stream is alive.
//!
//! Many clients give up on a stream after some time without a byte, however long a model thinks or writes
//! a call that can only be shown whole. Never writes anything itself.
//! Invariant: nothing is due while bytes go to the client at least as often as the interval.

use std::time::{Duration, Instant};

/// The parts of an interval in which a wait ends, so that the timeout of the upstream's socket need not
/// be set again for each event that shows nothing.
const STEPS: u32 = 8;

/// How long a client waits in silence. Only tests change it.
#[derive(Clone, Copy, Debug)]
pub struct KeepaliveSettings {
    /// Until a translated stream begins without an event of the upstream: an error that comes instead of
    /// the first one still gets a status.
    pub start_after: Duration,
    /// Until the event of a translated stream that means nothing.
    pub event_after: Duration,
    /// Until a comment in a stream that is passed on.
    pub comment_after: Duration,
}

impl Default for KeepaliveSettings {
    fn default() -> Self {
        Self {
            start_after: Duration::from_millis(500),
            event_after: Duration::from_secs(10),
            comment_after: Duration::from_secs(15),
        }
    }
}

/// The silence of one stream. Times are measured from the arrival of its request.
#[derive(Debug)]
pub(super) struct SilenceTimer {
    received_at: Instant,
    /// `None` for a stream in which nothing shows silence.
    interval: Option<Duration>,
    last_write: Duration,
}

impl SilenceTimer {
    /// A timer that begins at `now`.
    pub(super) fn new(received_at: Instant, now: Duration, interval: Option<Duration>) -> Self {
        Self { received_at, interval, last_write: now }
    }

    /// Something was written; the next silence may last for `interval`.
    pub(super) fn restart(&mut self, now: Duration, interval: Duration) {
        self.last_write = now;
        if let Some(own) = &mut self.interval {
            *own = interval;
        }
    }

    /// Whether the silence has lasted for the interval.
    pub(super) fn is_due(&self, now: Duration) -> bool {
        self.interval.is_some_and(|interval| now.saturating_sub(self.last_write) >= interval)
    }

    /// When a wait that begins at `now` is to end; `None` for no such time.
    pub(super) fn wake_at(&self, now: Duration) -> Option<Instant> {
        let interval = self.interval?;
        let step = (interval / STEPS).max(Duration::from_nanos(1));
        let left = (self.last_write + interval).saturating_sub(now);
        let steps = left.as_nanos().div_ceil(step.as_nanos()).max(1);
        Some(self.received_at + now + step * u32::try_from(steps).unwrap_or(STEPS))
    }
}

/// Whether the bytes of a stream of events that were passed on end between two events (HTML Living
/// Standard, server-sent events).
#[derive(Debug, Default)]
pub(super) struct EventBoundary {
    /// The last bytes.
    tail: Vec<u8>,
}

/// What ends an event: the end of its last line, and that of a blank one.
const EVENT_ENDS: [&[u8]; 3] = [b"\n\n", b"\n\r\n", b"\r\r"];

impl EventBoundary {
    /// Takes the next bytes.
    pub(super) fn push(&mut self, piece: &[u8]) {
        let kept = EVENT_ENDS[1].len();
        self.tail.extend_from_slice(&piece[piece.len().saturating_sub(kept)..]);
        self.tail.drain(..self.tail.len().saturating_sub(kept));
    }

    /// True before the first byte, and behind the end of an event.
    pub(super) fn is_between_events(&self) -> bool {
        self.tail.is_empty() || EVENT_ENDS.iter().any(|end| self.tail.ends_with(end))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn a_wait_ends_when_the_silence_has_lasted_and_seldom_at_another_time() {
        let start = Instant::now();
        let mut timer = SilenceTimer::new(start, seconds(1), Some(seconds(8)));
        for (now, due, wake) in [(1, false, 9), (2, false, 9), (8, false, 9), (9, true, 10)] {
            let now = seconds(now);
            assert_eq!(timer.is_due(now), due, "{now:?}");
            assert_eq!(timer.wake_at(now), Some(start + seconds(wake)), "{now:?}");
        }
        // Rounded up to a step, so that the next wait lasts as long as this one.
        let now = Duration::from_millis(1_300);
        assert_eq!(timer.wake_at(now), Some(start + now + seconds(8)));
        timer.restart(seconds(9), seconds(16));
        assert!(!timer.is_due(seconds(24)) && timer.is_due(seconds(25)));
        assert_eq!(timer.wake_at(seconds(9)), Some(start + seconds(25)));
    }

    #[test]
    fn without_an_interval_nothing_is_due() {
        let mut timer = SilenceTimer::new(Instant::now(), seconds(0), None);
        timer.restart(seconds(1), seconds(2));
        assert!(!timer.is_due(seconds(1000)) && timer.wake_at(seconds(1)).is_none());
    }

    #[test]
    fn a_comment_fits_between_events_only() {
        for end in ["\n\n", "\r\n\r\n", "\r\r"] {
            let stream = format!("data: {{}}{end}");
            for cut in 0..=stream.len() {
                let mut boundary = EventBoundary::default();
                boundary.push(&stream.as_bytes()[..cut]);
                let expected = cut == 0 || cut == stream.len();
                assert_eq!(boundary.is_between_events(), expected, "{:?}", &stream[..cut]);
                boundary.push(&stream.as_bytes()[cut..]);
                assert!(boundary.is_between_events(), "{cut}: {stream:?}");
            }
            let mut boundary = EventBoundary::default();
            stream.bytes().for_each(|byte| boundary.push(&[byte]));
            assert!(boundary.is_between_events(), "{stream:?}");
        }
    }
}
