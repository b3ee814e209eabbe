//! How long to wait before an attempt is repeated.
//!
//! Three pure functions: [`RetryPolicy::next_delay`] turns what an error allows into a wait or a refusal,
//! [`parse_retry_after`] reads the upstream's own wish from its headers (openai-wire.md 6.1), and
//! [`find_retry_delay`] from a message.
//! Nothing here sleeps, asks the time or rolls dice: the clock and the jitter are passed in.
//! Invariant: a delay of our own never exceeds [`RetryPolicy::max_delay`] nor falls under half of what
//! it was before jitter, and no input makes the arithmetic overflow.

use std::time::{Duration, SystemTime};

use crate::error::Retry;

/// The longest delay asked for by an upstream that is still waited for; a longer one means that
/// there is no point in trying (openai-wire.md 6.1).
pub const MAX_SERVER_DELAY: Duration = Duration::from_secs(120);

/// The shortest wait for an upstream that asked for a delay: a `Retry-After: 0` must not become a
/// hot loop.
pub const MIN_SERVER_DELAY: Duration = Duration::from_millis(100);

/// The wait before a server is asked again that is still loading its model (openai-wire.md 6.2).
pub const POLL_INTERVAL: Duration = Duration::from_secs(1);

/// How often such a server is asked again: for five minutes, as long as Ollama waits for a model.
pub const MAX_POLLS: u32 = 300;

/// More doublings than this bring any non-zero duration to the largest one.
const MAX_DOUBLINGS: u32 = 96;

/// How often, and how patiently, a failed attempt is repeated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetryPolicy {
    /// Retries after the first attempt; 0 turns retrying off.
    pub max_retries: u32,
    /// The wait before the first retry, without jitter.
    pub initial_delay: Duration,
    /// The longest wait of our own choice.
    pub max_delay: Duration,
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
    /// The wait before the next attempt, or `None` when there must not be one.
    ///
    /// `jitter` is a random number from 0 up to 1 and only shortens: 0 gives the whole wait, 1 half
    /// of it. Anything else is moved into that range, and NaN counts as 0.
    ///
    /// Polls are counted apart from all other retries; turning retries off turns them off too.
    #[must_use]
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
            .fold(self.initial_delay, |wait, _| wait.saturating_mul(2))
            .min(self.max_delay)
    }
}

/// The delay that the upstream asks for: `retry-after-ms` in milliseconds, else `Retry-After` in
/// seconds or as an HTTP date (openai-wire.md 6.1).
///
/// `None` when neither header holds something usable: a negative, infinite or unreadable number, or
/// a date before `now`. However long, a delay is returned as it is; [`RetryPolicy::next_delay`] refuses
/// those above [`MAX_SERVER_DELAY`].
#[must_use]
pub fn parse_retry_after(
    retry_after: Option<&str>,
    retry_after_ms: Option<&str>,
    now: SystemTime,
) -> Option<Duration> {
    retry_after_ms
        .and_then(|text| parse_duration(text, 1000.0))
        .or_else(|| retry_after.and_then(|text| parse_duration(text, 1.0)))
        .or_else(|| httpdate::parse_http_date(retry_after?.trim()).ok()?.duration_since(now).ok())
}

/// The delay that a message asks for, as OpenAI and Groq word it: `Please try again in 6m0s.`, and
/// Gemini: `Please retry in 23.5s.`
#[must_use]
pub fn find_retry_delay(message: &str) -> Option<Duration> {
    let message = message.to_ascii_lowercase();
    let (_, wish) = ["try again in ", "retry in "].iter().find_map(|it| message.split_once(it))?;
    let length = wish.find(|c: char| !(c.is_ascii_alphanumeric() || c == '.'));
    parse_go_duration(wish[..length.unwrap_or(wish.len())].trim_end_matches('.'))
}

/// A duration as Go writes it: `350ms`, `1.2s`, `6m0s`, `1h2m3.5s`.
fn parse_go_duration(text: &str) -> Option<Duration> {
    let mut sum = Duration::ZERO;
    let mut rest = text;
    while !rest.is_empty() {
        let value = rest.find(|c: char| c.is_ascii_alphabetic())?;
        let unit = &rest[value..];
        let unit = &unit[..unit.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(unit.len())];
        let per_second = match unit {
            "ms" => 1000.0,
            "s" => 1.0,
            "m" => 1.0 / 60.0,
            "h" => 1.0 / 3600.0,
            _ => return None,
        };
        sum = sum.checked_add(parse_duration(&rest[..value], per_second)?)?;
        rest = &rest[value + unit.len()..];
    }
    (!text.is_empty()).then_some(sum)
}

/// A number of units as a duration; a finite one that is too large becomes the largest duration.
fn parse_duration(text: &str, units_per_second: f64) -> Option<Duration> {
    let seconds = text.trim().parse::<f64>().ok()? / units_per_second;
    let usable = seconds.is_finite() && seconds >= 0.0;
    usable.then(|| Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX))
}

/// `wait` times a factor from a half (jitter 1) to one (jitter 0).
fn apply_jitter(wait: Duration, jitter: f64) -> Duration {
    let jitter = if jitter.is_nan() { 0.0 } else { jitter.clamp(0.0, 1.0) };
    let factor = 1.0 - jitter / 2.0;
    // Near the largest duration the rounding of a float leaves the range; then nothing is taken off.
    Duration::try_from_secs_f64(wait.as_secs_f64() * factor).unwrap_or(wait).clamp(wait / 2, wait)
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

    /// The clock of these cases stands at Sun, 06 Nov 1994 08:49:37 GMT.
    fn check_header(seconds: Option<&str>, millis: Option<&str>, expected_ms: Option<u64>) {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_777);
        let expected = expected_ms.map(Duration::from_millis);
        assert_eq!(parse_retry_after(seconds, millis, now), expected, "{seconds:?} {millis:?}");
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
    fn milliseconds_win_over_seconds_when_they_are_usable() {
        check_header(Some("20"), Some("1500"), Some(1500));
        check_header(None, Some("0.25e3"), Some(250));
        check_header(Some("20"), Some("soon"), Some(20_000));
        check_header(Some("20"), Some("-5"), Some(20_000));
        check_header(Some("20"), Some("NaN"), Some(20_000));
    }

    #[test]
    fn seconds_may_have_a_fraction_and_any_length() {
        check_header(Some("1.5"), None, Some(1500));
        check_header(Some(" 20 "), None, Some(20_000));
        check_header(Some("0"), None, Some(0));
        check_header(Some("3600"), None, Some(3_600_000));
        let now = SystemTime::UNIX_EPOCH;
        assert_eq!(parse_retry_after(Some("1e300"), None, now), Some(Duration::MAX));
    }

    #[test]
    fn a_date_counts_from_now() {
        check_header(Some("Sun, 06 Nov 1994 08:49:47 GMT"), None, Some(10_000));
        check_header(Some("Sun, 06 Nov 1994 09:49:37 GMT"), None, Some(3_600_000));
        check_header(Some("Sunday, 06-Nov-94 08:49:38 GMT"), None, Some(1000));
        check_header(Some("Sun, 06 Nov 1994 08:49:37 GMT"), None, Some(0));
        check_header(Some("Sun, 06 Nov 1994 08:49:36 GMT"), None, None);
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

    #[test]
    fn a_message_may_ask_for_a_delay() {
        let check = |message: &str, expected_ms: Option<u64>| {
            assert_eq!(
                find_retry_delay(message),
                expected_ms.map(Duration::from_millis),
                "{message}"
            );
        };
        check("Rate limit reached. Please try again in 1.2s. Visit https://x.", Some(1200));
        check("please try again in 350ms.", Some(350));
        check("Please Try Again in 6m0s", Some(360_000));
        check("Please try again in 1h2m3.5s, or pay", Some(3_723_500));
        check("Please retry in 23.5s.", Some(23_500));
        check("try again in 0s", Some(0));
        for message in [
            "Please try again in a moment",
            "try again in s",
            "try again in 5",
            "try again in 5 s",
            "try again in 1..2s",
            "try again in 5d",
            "try again in -5s",
            "try again in ",
            "try again in 5é",
            "in 5s",
            "",
        ] {
            check(message, None);
        }
    }

    #[test]
    fn headers_without_a_usable_delay_give_none() {
        check_header(None, None, None);
        for text in ["", " ", "-1", "-0.001", "NaN", "inf", "-inf", "infinity", "1e999", "soon"] {
            check_header(Some(text), None, None);
            check_header(None, Some(text), None);
        }
        check_header(None, Some("Sun, 06 Nov 1994 08:49:47 GMT"), None);
    }
}
