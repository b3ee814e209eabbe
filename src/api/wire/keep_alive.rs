//! `keep_alive`: how long a model stays loaded, in requests and settings, with the grammar and the
//! error texts of Go's `time.ParseDuration`.
//!
//! Parses only: other modules keep time. Invariant: no duration is longer than [`MAX_DURATION`]; a
//! longer one, which Go calls invalid in a string, becomes that.

use std::time::Duration;

use serde_json::Value;

/// The longest duration in Go's 64-bit nanoseconds, about 292 years.
pub const MAX_DURATION: Duration = Duration::from_nanos(i64::MAX.unsigned_abs());

/// Go's units in nanoseconds; micro is U+00B5, U+03BC or `u`.
const UNITS: [(&str, u64); 8] = [
    ("ns", 1),
    ("us", 1_000),
    ("\u{B5}s", 1_000),
    ("\u{3BC}s", 1_000),
    ("ms", 1_000_000),
    ("s", NANOS_PER_SECOND),
    ("m", 60 * NANOS_PER_SECOND),
    ("h", 3_600 * NANOS_PER_SECOND),
];

const NANOS_PER_SECOND: u64 = 1_000_000_000;

/// How long a model stays loaded after its last use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeepAlive {
    /// For this time.
    For(Duration),
    /// Until it is unloaded by name: any negative time.
    Forever,
}

impl KeepAlive {
    /// The value of a request's field: seconds, or a Go duration. `None` for null, which means the
    /// default.
    ///
    /// # Errors
    ///
    /// Ollama's text about a string that is not a duration, or about a wrong type.
    pub fn from_json(value: &Value) -> Result<Option<Self>, String> {
        let wrong_type = |name| Err(format!("Unsupported type: '{name}'"));
        match value {
            Value::Null => Ok(None),
            Value::Number(number) => {
                // Without serde_json's arbitrary precision, every number converts to a float.
                Ok(Some(Self::from_seconds(number.as_f64().unwrap_or(f64::MAX))))
            }
            Value::String(text) => parse_go_duration(text).map(Some),
            Value::Bool(_) => wrong_type("bool"),
            Value::Array(_) => wrong_type("[]interface {}"),
            Value::Object(_) => wrong_type("map[string]interface {}"),
        }
    }

    /// True if the model is unloaded as soon as it is idle.
    #[must_use]
    pub fn is_zero(self) -> bool {
        self == Self::For(Duration::ZERO)
    }

    fn from_seconds(seconds: f64) -> Self {
        if seconds < 0.0 {
            return Self::Forever;
        }
        // The cast saturates.
        Self::from_nanos((seconds * NANOS_PER_SECOND as f64) as u64)
    }

    fn from_nanos(nanos: u64) -> Self {
        Self::For(Duration::from_nanos(nanos).min(MAX_DURATION))
    }
}

/// Parses a duration in Go's grammar: a sign, and numbers with fractions and units, such as `1h30m`.
/// A negative duration means forever; zero needs no unit; a duration above [`MAX_DURATION`] becomes
/// that.
///
/// # Errors
///
/// Go's error text.
pub fn parse_go_duration(text: &str) -> Result<KeepAlive, String> {
    let invalid = || format!("time: invalid duration {}", go_quote(text));
    let unsigned = text.strip_prefix(['-', '+']).unwrap_or(text);
    if unsigned == "0" {
        return Ok(KeepAlive::For(Duration::ZERO));
    }
    if unsigned.is_empty() {
        return Err(invalid());
    }
    let mut nanos = 0_u64;
    let mut rest = unsigned;
    while !rest.is_empty() {
        let (whole, after) = split_digits(rest);
        let (fraction, after) = after.strip_prefix('.').map_or(("", after), split_digits);
        if whole.is_empty() && fraction.is_empty() {
            return Err(invalid());
        }
        let end = after.find(|c: char| c == '.' || c.is_ascii_digit()).unwrap_or(after.len());
        let (name, after) = after.split_at(end);
        if name.is_empty() {
            return Err(format!("time: missing unit in duration {}", go_quote(text)));
        }
        let (_, unit) = UNITS.iter().find(|(known, _)| *known == name).ok_or_else(|| {
            format!("time: unknown unit {} in duration {}", go_quote(name), go_quote(text))
        })?;
        nanos = nanos.saturating_add(to_nanos(whole, fraction, *unit));
        rest = after;
    }
    if text.starts_with('-') && nanos > 0 {
        return Ok(KeepAlive::Forever);
    }
    Ok(KeepAlive::from_nanos(nanos))
}

/// The decimal number times `unit`, rounded down. The fraction is computed as Go does, so that the
/// last nanosecond is the same: digits up to 63 bits as an integer, the rest as floats.
fn to_nanos(whole: &str, fraction: &str, unit: u64) -> u64 {
    // Only digits: parsing fails only for too many of them, and no digit means zero.
    let whole = if whole.is_empty() { 0 } else { whole.parse().unwrap_or(u64::MAX) };
    let mut part = 0_u64;
    let mut scale = 1.0;
    for digit in fraction.bytes() {
        let more = part.checked_mul(10).and_then(|ten| ten.checked_add(u64::from(digit - b'0')));
        let Some(more) = more.filter(|more| *more <= 1 << 63) else { break };
        part = more;
        scale *= 10.0;
    }
    let fraction = (part as f64 * (unit as f64 / scale)) as u64;
    whole.saturating_mul(unit).saturating_add(fraction)
}

fn split_digits(text: &str) -> (&str, &str) {
    text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()))
}

/// `text` quoted as in Go's `time` package: control characters and bytes that are not ASCII become
/// hexadecimal escapes.
fn go_quote(text: &str) -> String {
    let mut out = String::from('"');
    for byte in text.bytes() {
        match byte {
            b'"' | b'\\' => out.extend(['\\', char::from(byte)]),
            b' '..=0x7F => out.push(char::from(byte)),
            _ => out.push_str(&format!("\\x{byte:02x}")),
        }
    }
    out.push('"');
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const FOREVER: Result<Option<KeepAlive>, String> = Ok(Some(KeepAlive::Forever));

    fn nanos(nanos: u64) -> Result<Option<KeepAlive>, String> {
        Ok(Some(KeepAlive::For(Duration::from_nanos(nanos))))
    }

    fn seconds(seconds: u64) -> Result<Option<KeepAlive>, String> {
        Ok(Some(KeepAlive::For(Duration::from_secs(seconds))))
    }

    #[allow(clippy::needless_pass_by_value, reason = "the cases read better without references")]
    fn check(value: Value, expected: Result<Option<KeepAlive>, String>) {
        assert_eq!(KeepAlive::from_json(&value), expected, "{value}");
        if let Value::String(text) = value {
            assert_eq!(parse_go_duration(&text).map(Some), expected, "{text:?}");
        }
    }

    fn check_error(value: Value, expected: &str) {
        check(value, Err(expected.to_owned()));
    }

    #[test]
    fn null_means_the_default() {
        check(Value::Null, Ok(None));
    }

    #[test]
    fn numbers_are_seconds_and_negative_ones_mean_for_ever() {
        check(json!(0), seconds(0));
        check(json!(-0.0), seconds(0));
        check(json!(300), seconds(300));
        check(json!(0.5), nanos(500_000_000));
        check(json!(1.000_000_001_5), nanos(1_000_000_001));
        check(json!(-1), FOREVER);
        check(json!(-0.001), FOREVER);
        check(json!(i64::MIN), FOREVER);
    }

    #[test]
    fn strings_are_go_durations() {
        check(json!("5m"), seconds(300));
        check(json!("1h30m"), seconds(5400));
        check(json!("1.5h"), seconds(5400));
        check(json!("300ms"), nanos(300_000_000));
        check(json!("24h"), seconds(86_400));
        check(json!("5m0s"), seconds(300));
        check(json!("+5m"), seconds(300));
        check(json!("1h1m1s1ms1us1ns"), nanos(3_661_001_001_001));
        check(json!("1\u{B5}s"), nanos(1000));
        check(json!("1\u{3BC}s"), nanos(1000));
        check(json!("1s1s1s"), seconds(3));
        check(json!("1m2h"), seconds(7260));
        check(json!(".5s"), nanos(500_000_000));
        check(json!("5.s"), seconds(5));
        check(json!("0.000000001s"), nanos(1));
        check(json!("0.9ns"), nanos(0));
        check(json!("1.9ns"), nanos(1));
        check(json!("0.3333333333333333333h"), seconds(1200));
        check(json!("0.830103483285477580700h"), nanos(2_988_372_539_827));
        check(json!("0.1224570270811111111111h"), nanos(440_845_297_492));
        check(json!("9007199254.740993s"), nanos(9_007_199_254_740_993_000));
        check(json!("007m"), seconds(420));
    }

    #[test]
    fn zero_needs_no_unit() {
        for text in ["0", "0s", "+0", "-0", "-0s", "0h0m0.0s", "0.s", "-0.1ns"] {
            check(json!(text), seconds(0));
        }
    }

    #[test]
    fn negative_strings_mean_for_ever() {
        for text in ["-1m", "-1s", "-1ns", "-1h30m", "-.5s", "-99999999999999999999999h"] {
            check(json!(text), FOREVER);
        }
    }

    #[test]
    fn durations_end_where_go_ends() {
        let longest = nanos(9_223_372_036_854_775_807);
        for text in [
            "2562047h47m16.854775807s",
            "2562048h",
            "106751991167h",
            "18446744073709551615ns",
            "18446744073709551616ns",
            "99999999999999999999999999999999h",
            "9223372036s1s1s",
            "18446744073709551615ns2ns",
            "18446744073.9s",
        ] {
            check(json!(text), longest.clone());
        }
        for number in [json!(9_223_372_037_u64), json!(u64::MAX), json!(1e300), json!(f64::MAX)] {
            check(number, longest.clone());
        }
        check(json!("2562047h47m16.854775806s"), nanos(9_223_372_036_854_775_806));
        check(json!("9223372036s"), seconds(9_223_372_036));
    }

    #[test]
    fn a_number_without_a_unit_is_refused() {
        for text in ["10", "-1", "+1", "0.5", "00", "1h5", "1.", "0.0", "1.5.5s"] {
            check_error(json!(text), &format!("time: missing unit in duration \"{text}\""));
        }
    }

    #[test]
    fn what_is_no_duration_is_refused() {
        for text in ["abc", "", "-", "+", ".", "-.", ".s", "m5", "--1s", "-+1s", " 5m", "∞"] {
            let shown = text.replace('∞', r"\xe2\x88\x9e");
            check_error(json!(text), &format!("time: invalid duration \"{shown}\""));
        }
        check_error(
            json!("a\"\\\n\u{7F}é"),
            "time: invalid duration \"a\\\"\\\\\\x0a\u{7F}\\xc3\\xa9\"",
        );
    }

    #[test]
    fn unknown_units_are_named() {
        check_error(json!("1d"), r#"time: unknown unit "d" in duration "1d""#);
        check_error(json!("5m "), r#"time: unknown unit "m " in duration "5m ""#);
        check_error(json!("1h2w3s"), r#"time: unknown unit "w" in duration "1h2w3s""#);
        check_error(json!("5M"), r#"time: unknown unit "M" in duration "5M""#);
        check_error(json!("5 m"), r#"time: unknown unit " m" in duration "5 m""#);
        check_error(json!("1e3s"), r#"time: unknown unit "e" in duration "1e3s""#);
        check_error(json!("1-1s"), r#"time: unknown unit "-" in duration "1-1s""#);
        check_error(json!("1é"), r#"time: unknown unit "\xc3\xa9" in duration "1\xc3\xa9""#);
    }

    #[test]
    fn other_types_are_refused() {
        check_error(json!(true), "Unsupported type: 'bool'");
        check_error(json!(["5m"]), "Unsupported type: '[]interface {}'");
        check_error(json!({}), "Unsupported type: 'map[string]interface {}'");
    }

    #[test]
    fn only_zero_is_zero() {
        assert!(KeepAlive::For(Duration::ZERO).is_zero());
        assert!(!KeepAlive::For(Duration::from_nanos(1)).is_zero());
        assert!(!KeepAlive::Forever.is_zero());
    }
}
