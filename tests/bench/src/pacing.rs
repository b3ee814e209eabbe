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

/// A point from 0 to 1 for each index: any run of them is spread evenly, and they follow no period,
/// so that streams that begin at them do not fall into step with each other.
pub fn spread(index: u64) -> f64 {
    const GOLDEN: f64 = 0.618_033_988_749_894_9;
    (index as f64 * GOLDEN).fract()
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
    fn streams_are_spread_evenly_and_not_in_step() {
        for count in [100, 1000] {
            for period in [1.0, 0.02, 0.05, 0.1] {
                let mut tenths = [0u64; 10];
                for index in 0..count {
                    tenths[(spread(index) % period / period * 10.0) as usize % 10] += 1;
                }
                let even = count / 10;
                assert!(
                    tenths.iter().all(|it| it.abs_diff(even) <= even / 2),
                    "{period}: {tenths:?}"
                );
            }
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
