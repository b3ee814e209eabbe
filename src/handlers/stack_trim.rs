//! Streams that go on for long.
//!
//! There may be a thousand of them, all waiting, each on a thread of its own. What is not in use of
//! their stacks, some pages each, is given back to the system.

use std::time::Duration;

use crate::net::sys;
use crate::upstream::Trace;

/// Waits after which all that a stream does was done once (its first tokens are read in full), and
/// how long ago its request came: to give something back costs the other threads a little, too, so a
/// short one keeps what it has.
const LONG_STREAM_AFTER: (u32, Duration) = (4, Duration::from_millis(50));

/// To be told before each wait, with the time since the request was there: once a stream has become a
/// long one, what its beginning took of the stack is given back.
pub(super) fn trim_before_wait(trace: &mut Trace, after: Duration) {
    trace.wait_count = trace.wait_count.saturating_add(1);
    if !trace.is_long_stream
        && trace.wait_count >= LONG_STREAM_AFTER.0
        && after >= LONG_STREAM_AFTER.1
    {
        trace.is_long_stream = true;
        sys::trim_stack();
    }
}

/// To be told when a request is done with: the worker of a long stream may rest for as long.
pub fn trim_after_request(trace: &Trace) {
    if trace.is_long_stream {
        sys::trim_stack();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_is_long_after_some_waits_and_some_time() {
        let mut trace = Trace::default();
        // A burst, a slow beginning, and what follows on it.
        for (waits, millis, expected) in [(100, 49, false), (1, 50, true), (1, 0, true)] {
            (0..waits)
                .for_each(|_| super::trim_before_wait(&mut trace, Duration::from_millis(millis)));
            assert_eq!(trace.is_long_stream, expected, "{waits} waits after {millis} ms");
        }
        let mut trace = Trace::default();
        for expected in [false, false, false, true] {
            super::trim_before_wait(&mut trace, Duration::from_secs(3));
            assert_eq!(trace.is_long_stream, expected, "{}", trace.wait_count);
        }
    }
}
