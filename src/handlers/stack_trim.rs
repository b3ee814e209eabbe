//! Gives unused stack back to the system while a stream is long.
//!
//! A thousand streams may wait, each on a thread of its own. A few pages of each stack were used by the
//! beginning of its request only. Never touches the pages that are in use.
//! Invariant: a short stream gives nothing back, because each return costs the other threads a little.

use std::time::Duration;

use crate::net::sys;

/// Waits after which a stream has done everything once (its first tokens have been read whole), and
/// the age of its request; both must be reached.
const LONG_STREAM_AFTER: (u32, Duration) = (4, Duration::from_millis(50));

/// Counts the waits of one stream.
#[derive(Debug, Default)]
pub struct StackTrimmer {
    waits: u32,
    is_long_stream: bool,
}

impl StackTrimmer {
    /// To be called before each wait, with the age of the request: gives the stack back once, when the
    /// stream has become a long one.
    pub(super) fn before_wait(&mut self, age: Duration) {
        self.waits = self.waits.saturating_add(1);
        if !self.is_long_stream && self.waits >= LONG_STREAM_AFTER.0 && age >= LONG_STREAM_AFTER.1 {
            self.is_long_stream = true;
            sys::trim_stack();
        }
    }

    /// Whether the first tokens were passed on some time ago.
    pub(super) fn is_long_stream(&self) -> bool {
        self.is_long_stream
    }

    /// To be called when a request has ended: after a long stream, the worker may rest for long, too.
    pub fn after_request(&self) {
        if self.is_long_stream {
            sys::trim_stack();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_is_long_after_some_waits_and_some_time() {
        let mut stack = StackTrimmer::default();
        // A burst, a slow beginning, and what follows it.
        for (waits, millis, expected) in [(100, 49, false), (1, 50, true), (1, 0, true)] {
            (0..waits).for_each(|_| stack.before_wait(Duration::from_millis(millis)));
            assert_eq!(stack.is_long_stream, expected, "{waits} waits after {millis} ms");
        }
        let mut stack = StackTrimmer::default();
        for expected in [false, false, false, true] {
            stack.before_wait(Duration::from_secs(3));
            assert_eq!(stack.is_long_stream, expected, "{}", stack.waits);
        }
    }
}
