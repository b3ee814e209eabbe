//! When each token of a paced stream is due, and what is due next. Pure: the time is passed in.
//!
//! Invariant: when a token is due depends on when its stream began and on nothing since, so that late
//! tokens do not make the later ones late.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use crate::poll::Key;
use crate::system::SECOND;

/// When something that happens so many times a second, for the first time at `start`, is due.
pub fn due(start: u64, index: u64, rate: f64) -> u64 {
    start + (index as f64 * SECOND as f64 / rate) as u64
}

/// Who is due when.
#[derive(Default)]
pub struct Timers {
    heap: BinaryHeap<Reverse<(u64, Key)>>,
}

impl Timers {
    /// Adds one.
    pub fn add(&mut self, due: u64, key: Key) {
        self.heap.push(Reverse((due, key)));
    }

    /// When the next one is due.
    pub fn next(&self) -> Option<u64> {
        self.heap.peek().map(|it| it.0.0)
    }

    /// Takes the next one if it is due by now.
    pub fn take(&mut self, now: u64) -> Option<Key> {
        (self.next()? <= now).then(|| self.heap.pop().map(|it| it.0.1))?
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_do_not_drift() {
        let start = 12_345_678_901_234;
        for rate in [1.0, 3.0, 7.0, 50.0, 999.0] {
            let second = rate as u64;
            for index in 0..second * 100 {
                let gap = due(start, index + 1, rate) - due(start, index, rate);
                assert!(gap.abs_diff((SECOND as f64 / rate) as u64) <= 1, "{rate}: {index}");
            }
            assert!(due(start, second * 100, rate).abs_diff(start + 100 * SECOND) <= 1, "{rate}");
        }
    }

    #[test]
    fn who_is_due_comes_in_the_order_of_time() {
        let mut timers = Timers::default();
        let key = |slot| Key { slot, generation: 1 };
        for (due, slot) in [(30, 3), (10, 1), (20, 2)] {
            timers.add(due, key(slot));
        }
        assert_eq!((timers.next(), timers.take(9)), (Some(10), None));
        assert_eq!((timers.take(20), timers.take(20)), (Some(key(1)), Some(key(2))));
        assert_eq!((timers.take(20), timers.take(30)), (None, Some(key(3))));
        assert_eq!((timers.next(), timers.take(u64::MAX)), (None, None));
    }
}
