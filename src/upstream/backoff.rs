//! How long to wait before an attempt is repeated.
//!
//! Pure: [`RetryPolicy::next_delay`] turns what an error allows into a delay or into none. Never sleeps,
//! reads the clock or draws a random number: the jitter is passed in.
//! Invariant: a delay of our own never exceeds [`RetryPolicy::max_delay`] nor falls under half of what
//! it was before jitter, and no input makes the arithmetic overflow.

use std::time::Duration;

use crate::error::Retry;

/// The longest delay that an upstream may ask for; after a longer one the request is not repeated.
pub const MAX_SERVER_DELAY: Duration = Duration::from_secs(120);

/// The shortest delay that an upstream may ask for, so that `Retry-After: 0` is not a busy loop.
pub const MIN_SERVER_DELAY: Duration = Duration::from_millis(100);

/// The delay between requests to a server that is loading its model.
pub const POLL_INTERVAL: Duration = Duration::from_secs(1);

/// The most requests to such a server: five minutes, Ollama's default `OLLAMA_LOAD_TIMEOUT`.
pub const MAX_POLLS: u32 = 300;

/// The most that a request waits in all for delays that upstreams ask for: several calls of one request may
/// each wait.
pub const MAX_ASKED_WAIT: Duration = Duration::from_secs(300);

/// The most that a request waits in all between attempts.
pub const MAX_TOTAL_WAIT: Duration = Duration::from_secs(600);

/// A longer delay between two attempts counts as long: few requests at once may have one.
pub const LONG_DELAY: Duration = Duration::from_secs(5);

/// Doublings that bring any duration above zero to the largest one.
const MAX_DOUBLINGS: u32 = 96;

/// How often a failed attempt is repeated, and after what delays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetryPolicy {
    /// Retries after the first attempt; 0 turns retrying off.
    pub max_retries: u32,
    /// The delay before the first retry, without jitter.
    pub initial_delay: Duration,
    /// The longest delay that the upstream did not ask for.
    pub max_delay: Duration,
}

/// How long a request has waited between attempts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RetryWaits {
    /// For delays that upstreams asked for.
    pub asked: Duration,
    /// In all.
    pub total: Duration,
}

impl RetryWaits {
    /// Adds a delay, unless the request would then wait too long in all. `asked_by_call` is how long the call
    /// that it belongs to has waited for delays that its upstream asked for.
    #[must_use]
    pub fn try_add(&mut self, delay: Duration, retry: Retry, asked_by_call: &mut Duration) -> bool {
        let asked = if matches!(retry, Retry::After(_)) { delay } else { Duration::ZERO };
        let add = Duration::saturating_add;
        let sums = (add(*asked_by_call, asked), add(self.asked, asked), add(self.total, delay));
        let fits =
            sums.0 <= MAX_SERVER_DELAY && sums.1 <= MAX_ASKED_WAIT && sums.2 <= MAX_TOTAL_WAIT;
        if fits {
            (*asked_by_call, self.asked, self.total) = sums;
        }
        fits
    }
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            max_retries: 3,
            initial_delay: Duration::from_secs(1),
            max_delay: Duration::from_secs(30),
        }
    }
}

impl RetryPolicy {
    /// The delay before the next attempt; `None` if there is none.
    ///
    /// `jitter` is a random number from 0 up to 1: 0 gives the whole delay, 1 half of it. Other values
    /// are clamped, and NaN counts as 0. Polls are counted separately from other retries;
    /// `max_retries` 0 turns them off, too.
    pub fn next_delay(&self, retries_so_far: u32, jitter: f64, error: Retry) -> Option<Duration> {
        let most = match error {
            Retry::Poll if self.max_retries > 0 => MAX_POLLS,
            _ => self.max_retries,
        };
        if retries_so_far >= most {
            return None;
        }
        match error {
            Retry::Never => None,
            Retry::Immediate if retries_so_far == 0 => Some(Duration::ZERO),
            Retry::Immediate | Retry::Backoff => {
                Some(apply_jitter(self.exponential_delay(retries_so_far), jitter))
            }
            Retry::Poll => Some(POLL_INTERVAL),
            Retry::After(wanted) if wanted > MAX_SERVER_DELAY => None,
            Retry::After(wanted) => Some(wanted.max(MIN_SERVER_DELAY)),
        }
    }

    fn exponential_delay(&self, times: u32) -> Duration {
        (0..times.min(MAX_DOUBLINGS))
            .fold(self.initial_delay, |delay, _| delay.saturating_mul(2))
            .min(self.max_delay)
    }
}

/// `delay` times a factor from a half (jitter 1) to one (jitter 0).
fn apply_jitter(delay: Duration, jitter: f64) -> Duration {
    let jitter = if jitter.is_nan() { 0.0 } else { jitter.clamp(0.0, 1.0) };
    let factor = 1.0 - jitter / 2.0;
    // Near the largest duration, a rounded float is out of range.
    let shorter = Duration::try_from_secs_f64(delay.as_secs_f64() * factor).unwrap_or(delay);
    shorter.clamp(delay / 2, delay)
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLICY: RetryPolicy = RetryPolicy {
        max_retries: 9,
        initial_delay: Duration::from_secs(1),
        max_delay: Duration::from_secs(30),
    };

    fn check(retries_so_far: u32, jitter: f64, error: Retry, expected_ms: Option<u64>) {
        let got = POLICY.next_delay(retries_so_far, jitter, error);
        let case = format!("{retries_so_far} {jitter} {error:?}");
        assert_eq!(got, expected_ms.map(Duration::from_millis), "{case}");
    }

    #[test]
    fn the_default_is_three_retries_from_one_second_to_thirty() {
        let expected = RetryPolicy {
            max_retries: 3,
            initial_delay: Duration::from_secs(1),
            max_delay: Duration::from_secs(30),
        };
        assert_eq!(RetryPolicy::default(), expected);
    }

    #[test]
    fn our_own_wait_doubles_up_to_the_cap() {
        for (retries, seconds) in [(0, 1), (1, 2), (2, 4), (3, 8), (4, 16), (5, 30), (8, 30)] {
            check(retries, 0.0, Retry::Backoff, Some(seconds * 1000));
        }
    }

    #[test]
    fn jitter_shortens_by_at_most_a_half() {
        check(1, 0.5, Retry::Backoff, Some(1500));
        check(1, 1.0, Retry::Backoff, Some(1000));
        check(1, 7.0, Retry::Backoff, Some(1000));
        check(1, -7.0, Retry::Backoff, Some(2000));
        check(1, f64::NAN, Retry::Backoff, Some(2000));
        check(1, f64::INFINITY, Retry::Backoff, Some(1000));
        check(1, f64::NEG_INFINITY, Retry::Backoff, Some(2000));
    }

    #[test]
    fn at_once_holds_for_the_first_retry_only() {
        check(0, 0.5, Retry::Immediate, Some(0));
        check(1, 0.0, Retry::Immediate, Some(2000));
        check(3, 1.0, Retry::Immediate, Some(4000));
    }

    #[test]
    fn the_upstreams_delay_is_kept_within_reason() {
        check(0, 0.9, Retry::After(Duration::from_secs(7)), Some(7000));
        check(4, 0.9, Retry::After(Duration::from_secs(120)), Some(120_000));
        check(0, 0.0, Retry::After(Duration::from_millis(120_001)), None);
        check(0, 0.0, Retry::After(Duration::MAX), None);
        check(0, 0.0, Retry::After(Duration::ZERO), Some(100));
    }

    #[test]
    fn never_and_a_spent_budget_give_no_retry() {
        check(0, 0.0, Retry::Never, None);
        for error in [Retry::Immediate, Retry::Backoff, Retry::After(Duration::from_secs(1))] {
            assert!(POLICY.next_delay(8, 0.0, error).is_some(), "{error:?}");
            check(9, 0.0, error, None);
            check(u32::MAX, 0.0, error, None);
            let off = RetryPolicy { max_retries: 0, ..POLICY };
            assert_eq!(off.next_delay(0, 0.0, error), None, "{error:?}");
        }
    }

    #[test]
    fn no_extreme_overflows_or_leaves_its_bounds() {
        let waits = [
            Duration::ZERO,
            Duration::from_nanos(1),
            Duration::from_secs(1),
            Duration::from_secs(u64::from(u32::MAX)),
            Duration::MAX,
        ];
        let jitters = [0.0, -0.0, 0.25, 0.999_999_999, 1.0, f64::MIN_POSITIVE, f64::NAN, -f64::MAX];
        for (initial, cap) in waits.into_iter().flat_map(|i| waits.map(|cap| (i, cap))) {
            let policy =
                RetryPolicy { max_retries: u32::MAX, initial_delay: initial, max_delay: cap };
            for retries in [0, 1, 30, 31, 32, 63, 64, 94, 95, 96, 97, 128, u32::MAX - 1] {
                let whole =
                    policy.next_delay(retries, 0.0, Retry::Backoff).expect("retries are left");
                assert!(whole <= cap && whole >= initial.min(cap), "{policy:?} {retries}");
                if retries >= 94 && initial > Duration::ZERO {
                    assert_eq!(whole, cap, "{policy:?} {retries}");
                }
                for jitter in jitters {
                    let wait =
                        policy.next_delay(retries, jitter, Retry::Backoff).expect("as above");
                    assert!(wait <= whole && wait >= whole / 2, "{policy:?} {retries} {jitter}");
                }
            }
        }
    }

    #[test]
    fn what_a_request_waits_in_all_is_bounded() {
        let seconds = Duration::from_secs;
        let after = |wait: u64| (seconds(wait), Retry::After(seconds(wait)));
        let (mut waited, mut call) = (RetryWaits::default(), Duration::ZERO);
        let mut add = |(delay, retry): (Duration, Retry), call: &mut Duration| {
            waited.try_add(delay, retry, call)
        };
        let other = || Duration::ZERO;
        assert!(add(after(100), &mut call) && !add(after(21), &mut call));
        assert!(add(after(20), &mut call) && !add(after(1), &mut call), "120 s for a call");
        assert!(add((seconds(30), Retry::Backoff), &mut call), "a delay of our own");
        assert!(add(after(120), &mut other()), "another call");
        assert!(!add(after(61), &mut other()) && add(after(60), &mut other()));
        assert!(!add(after(1), &mut other()), "300 s for a request");
        for _ in 0..270 {
            assert!(add((POLL_INTERVAL, Retry::Poll), &mut call));
        }
        assert!(!add((POLL_INTERVAL, Retry::Poll), &mut call), "600 s in all");
        assert!(!add((Duration::MAX / 2, Retry::Backoff), &mut call));
    }

    #[test]
    fn a_server_that_loads_is_polled_each_second_for_five_minutes() {
        for polls in [0, 1, 9, 299] {
            check(polls, 0.9, Retry::Poll, Some(1000));
        }
        check(300, 0.0, Retry::Poll, None);
        let off = RetryPolicy { max_retries: 0, ..POLICY };
        assert_eq!(off.next_delay(0, 0.0, Retry::Poll), None);
    }
}
