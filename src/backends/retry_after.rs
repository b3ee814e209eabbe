//! Reads the delay that an upstream asks for before a request is sent again.
//!
//! [`parse_retry_after`] reads response headers, [`find_retry_delay`] error messages. Both are pure:
//! they receive the time and never wait. Whether the delay is acceptable is decided by
//! `upstream::retry`. Invariant: no input panics or overflows; a number that is too large becomes
//! [`Duration::MAX`].

use std::time::{Duration, SystemTime};

use crate::api::wire::keep_alive::{KeepAlive, parse_go_duration};

/// The delay named by the headers: `retry-after-ms` in milliseconds (an extension of OpenAI's),
/// otherwise `Retry-After` in seconds or as an HTTP date (RFC 9110 section 10.2.3). Fractions of a
/// second are accepted.
///
/// `None` if neither header holds a usable value: a negative, infinite or unreadable number, or a
/// date before `now`. The delay is not limited here.
pub fn parse_retry_after(
    retry_after: Option<&str>,
    retry_after_ms: Option<&str>,
    now: SystemTime,
) -> Option<Duration> {
    retry_after_ms
        .and_then(|text| parse_number(text, 1000.0))
        .or_else(|| retry_after.and_then(|text| parse_number(text, 1.0)))
        .or_else(|| httpdate::parse_http_date(retry_after?.trim()).ok()?.duration_since(now).ok())
}

/// The delay named in an error message: `Please try again in 6m0s.` (OpenAI, Groq) or
/// `Please retry in 23.5s.` (Gemini).
pub fn find_retry_delay(message: &str) -> Option<Duration> {
    let message = message.to_ascii_lowercase();
    let phrases = ["try again in ", "retry in "];
    let (_, rest) = phrases.iter().find_map(|phrase| message.split_once(phrase))?;
    let end = rest.find(|c: char| !(c.is_ascii_alphanumeric() || c == '.')).unwrap_or(rest.len());
    match parse_go_duration(rest[..end].trim_end_matches('.')) {
        Ok(KeepAlive::For(delay)) => Some(delay),
        _ => None,
    }
}

fn parse_number(text: &str, units_per_second: f64) -> Option<Duration> {
    let seconds = text.trim().parse::<f64>().ok()? / units_per_second;
    let is_usable = seconds.is_finite() && seconds >= 0.0;
    is_usable.then(|| Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 1994-11-06 08:49:37 UTC.
    const NOW: Duration = Duration::from_secs(784_111_777);

    fn check_headers(seconds: Option<&str>, millis: Option<&str>, expected_ms: Option<u64>) {
        let delay = parse_retry_after(seconds, millis, SystemTime::UNIX_EPOCH + NOW);
        assert_eq!(delay, expected_ms.map(Duration::from_millis), "{seconds:?} {millis:?}");
    }

    #[test]
    fn milliseconds_win_over_seconds_when_they_are_usable() {
        for (seconds, millis, expected) in [
            (Some("20"), "1500", 1500),
            (None, "0.25e3", 250),
            (Some("20"), "soon", 20_000),
            (Some("20"), "-5", 20_000),
            (Some("20"), "NaN", 20_000),
        ] {
            check_headers(seconds, Some(millis), Some(expected));
        }
    }

    #[test]
    fn seconds_may_have_a_fraction_and_any_length() {
        for (text, expected) in [("1.5", 1500), (" 20 ", 20_000), ("0", 0), ("3600", 3_600_000)] {
            check_headers(Some(text), None, Some(expected));
        }
        let longest = parse_retry_after(Some("1e300"), None, SystemTime::UNIX_EPOCH);
        assert_eq!(longest, Some(Duration::MAX));
    }

    #[test]
    fn a_date_counts_from_now() {
        for (date, expected) in [
            ("Sun, 06 Nov 1994 08:49:47 GMT", Some(10_000)),
            ("Sun, 06 Nov 1994 09:49:37 GMT", Some(3_600_000)),
            ("Sunday, 06-Nov-94 08:49:38 GMT", Some(1000)),
            ("Sun, 06 Nov 1994 08:49:37 GMT", Some(0)),
            ("Sun, 06 Nov 1994 08:49:36 GMT", None),
        ] {
            check_headers(Some(date), None, expected);
        }
    }

    #[test]
    fn headers_without_a_usable_delay_give_none() {
        check_headers(None, None, None);
        for text in ["", " ", "-1", "-0.001", "NaN", "inf", "-inf", "infinity", "1e999", "soon"] {
            check_headers(Some(text), None, None);
            check_headers(None, Some(text), None);
        }
        check_headers(None, Some("Sun, 06 Nov 1994 08:49:47 GMT"), None);
    }

    #[test]
    fn a_message_may_ask_for_a_delay() {
        for (message, expected_ms) in [
            ("Rate limit reached. Please try again in 1.2s. Visit https://x.", 1200),
            ("please try again in 350ms.", 350),
            ("Please Try Again in 6m0s", 360_000),
            ("Please try again in 1h2m3.5s, or pay", 3_723_500),
            ("Please retry in 23.5s.", 23_500),
            ("try again in 0s", 0),
        ] {
            let expected = Some(Duration::from_millis(expected_ms));
            assert_eq!(find_retry_delay(message), expected, "{message}");
        }
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
            assert_eq!(find_retry_delay(message), None, "{message}");
        }
    }
}
