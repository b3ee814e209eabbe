//! Streams that go on for long.
//!
//! There may be a thousand of them, all waiting, each on a thread of its own. What is not in use of
//! their stacks, some pages each, is given back to the system.

use crate::system;
use crate::upstream::Trace;

/// Waits after which a stream is one of them.
const LONG: u32 = 4;

/// To be told before each wait: once a stream has become a long one, what its beginning took of the
/// stack is given back.
pub(super) fn waits(trace: &mut Trace) {
    trace.waits = trace.waits.saturating_add(1);
    if trace.waits == LONG {
        system::give_stack_back();
    }
}

/// To be told when a request is done with: the worker of a long stream may rest for as long.
pub fn is_over(trace: &Trace) {
    if trace.waits >= LONG {
        system::give_stack_back();
    }
}
