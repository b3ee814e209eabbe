//! RFC 3339 timestamps.
//!
//! Pure: the time comes in as an argument.

use std::time::SystemTime;

use time::format_description::well_known::Rfc3339;
use time::{OffsetDateTime, UtcOffset};

/// A time in UTC with `Z`, with up to nine fractional digits and without trailing zeros, as Go's
/// `time.RFC3339Nano` has it.
pub fn to_rfc3339(time: SystemTime) -> String {
    OffsetDateTime::from(time)
        .format(&Rfc3339)
        // Years above 9999 cannot be formatted. Go's zero time then stands in.
        .unwrap_or_else(|_| "0001-01-01T00:00:00Z".to_owned())
}

/// A time in a zone that is `offset` seconds ahead of UTC; `Z` if that is 0.
pub fn to_rfc3339_with_offset(time: SystemTime, offset: i32) -> String {
    let whole_minutes = offset / 60 * 60;
    let shifted = UtcOffset::from_whole_seconds(whole_minutes)
        .ok()
        .and_then(|offset| OffsetDateTime::from(time).checked_to_offset(offset))
        .and_then(|time| time.format(&Rfc3339).ok());
    shifted.unwrap_or_else(|| to_rfc3339(time))
}

/// Parses an RFC 3339 timestamp of any zone.
pub fn parse_rfc3339(text: &str) -> Option<SystemTime> {
    OffsetDateTime::parse(text, &Rfc3339).ok().map(SystemTime::from)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn fractions_lose_their_trailing_zeros() {
        let check = |nanos: u64, expected: &str| {
            let time = SystemTime::UNIX_EPOCH
                + Duration::from_secs(1_787_307_303)
                + Duration::from_nanos(nanos);
            assert_eq!(to_rfc3339(time), expected);
            assert_eq!(parse_rfc3339(expected), Some(time));
        };
        check(123_456_789, "2026-08-21T10:15:03.123456789Z");
        check(500_000_000, "2026-08-21T10:15:03.5Z");
        check(0, "2026-08-21T10:15:03Z");
    }

    #[test]
    fn times_are_shown_in_a_zone() {
        let time = SystemTime::UNIX_EPOCH + Duration::from_millis(1_787_307_303_500);
        let check = |offset: i32, expected: &str| {
            assert_eq!(to_rfc3339_with_offset(time, offset), expected);
            assert_eq!(parse_rfc3339(expected), Some(time));
        };
        check(0, "2026-08-21T10:15:03.5Z");
        check(7200, "2026-08-21T12:15:03.5+02:00");
        check(-12_600, "2026-08-21T06:45:03.5-03:30");
        // An offset in RFC 3339 has no seconds, and no time zone differs from UTC by a day or more.
        check(7210, "2026-08-21T12:15:03.5+02:00");
        check(i32::MAX, "2026-08-21T10:15:03.5Z");
    }

    #[test]
    fn times_are_read_in_any_zone() {
        assert_eq!(
            parse_rfc3339("1970-01-01T02:00:01+02:00"),
            parse_rfc3339("1970-01-01T00:00:01Z")
        );
        assert_eq!(parse_rfc3339("yesterday"), None);
    }
}
