//! Streams that go on for long.

use crate::system;

/// Waits after which a stream is one of them.
const LONG: u32 = 16;

/// Counts the waits of a stream. What its beginning took of the stack, some twenty kilobytes, is given
/// back once it has become a long one: there may be a thousand of them, all waiting.
#[derive(Default)]
pub(super) struct Lasting(u32);

impl Lasting {
    /// To be told before each wait.
    pub(super) fn waits(&mut self) {
        self.0 = self.0.saturating_add(1);
        if self.0 == LONG {
            system::give_stack_back();
        }
    }
}
