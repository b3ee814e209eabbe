//! Parsers for the values of options, one small function per kind of value.
//!
//! Pure. An error says what is expected and never quotes the value: the caller knows the option's
//! name and whether its value may be shown.
//! Invariant: no parser accepts U+FFFD, which stands for bytes that are not UTF-8, and only paths
//! accept characters outside ASCII.

use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use log::LevelFilter;

use crate::api::wire::keep_alive::{KeepAlive, parse_go_duration};
use crate::observe::logging::LogFormat;
use crate::observe::redact::Secret;

/// The longest time an option may ask for, in seconds: a day.
const MAX_SECONDS: u64 = 24 * 60 * 60;

/// Longest duration in seconds; Ollama counts nanoseconds in 63 bits, and more means forever.
const MAX_KEEP_ALIVE_SECONDS: u64 = i64::MAX as u64 / 1_000_000_000;

/// The default of the state file, as shown to users; [`default_state_path`] resolves it.
pub const DEFAULT_STATE_FILE: &str = "~/.local/share/ollama-openai-proxy/state.json";

/// The state file, relative to the user's data folder.
const STATE_FILE_IN_DATA_HOME: &str = "ollama-openai-proxy/state.json";

/// A whole number within bounds.
pub fn parse_integer<T: TryFrom<u64>>(
    text: &str,
    allowed: RangeInclusive<u64>,
) -> Result<T, String> {
    parse_digits(text)
        .filter(|number| allowed.contains(number))
        .and_then(|number| T::try_from(number).ok())
        .ok_or_else(|| {
            format!("expected a whole number from {} to {}", allowed.start(), allowed.end())
        })
}

/// Whole milliseconds within bounds.
pub fn parse_millis(text: &str, allowed: RangeInclusive<u64>) -> Result<Duration, String> {
    parse_integer(text, allowed).map(Duration::from_millis)
}

/// Seconds with an optional fraction, from 0 to a day.
pub fn parse_seconds(text: &str) -> Result<Duration, String> {
    parse_decimal_seconds(text)
        .ok_or_else(|| format!("expected seconds from 0 to {MAX_SECONDS}, such as 30 or 0.5"))
}

/// As [`parse_seconds`], without 0.
pub fn parse_positive_seconds(text: &str) -> Result<Duration, String> {
    parse_decimal_seconds(text).filter(|time| !time.is_zero()).ok_or_else(|| {
        format!("expected seconds above 0 and up to {MAX_SECONDS}, such as 300 or 0.5")
    })
}

/// The largest size of a body. On other systems than Linux, tiny_http asks for a buffer of that size when
/// one breaks off (see [`crate::http::unread_body`]).
const MAX_BODY_SIZE: u64 = 1 << 30;

/// A size above zero in bytes, or with a suffix that counts in powers of 1024.
pub fn parse_size(text: &str) -> Result<usize, String> {
    let (number, suffix) =
        text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()));
    let shift = match suffix.to_ascii_lowercase().as_str() {
        "" => Some(0),
        "k" | "kib" => Some(10),
        "m" | "mib" => Some(20),
        "g" | "gib" => Some(30),
        _ => None,
    };
    shift
        .zip(parse_digits(number))
        .and_then(|(shift, number)| number.checked_mul(1_u64 << shift))
        .filter(|bytes| (1..=MAX_BODY_SIZE).contains(bytes))
        .and_then(|bytes| usize::try_from(bytes).ok())
        .ok_or_else(|| {
            "expected a size up to 1GiB in bytes, or with KiB, MiB, GiB, K, M or G, such as 100MiB"
                .to_owned()
        })
}

/// The path of the state file; `None` for the default.
pub fn parse_state_path(text: &str) -> Result<Option<PathBuf>, String> {
    parse_path(text).map(|path| (text != DEFAULT_STATE_FILE).then_some(path))
}

/// A path.
pub fn parse_path(text: &str) -> Result<PathBuf, String> {
    if text.contains('\u{fffd}') || text.chars().any(char::is_control) {
        return Err("expected the path of a file, such as /var/lib/proxy/state.json".to_owned());
    }
    Ok(PathBuf::from(text))
}

/// A boolean, in Go's spellings.
pub fn parse_bool(text: &str) -> Result<bool, String> {
    match text.to_ascii_lowercase().as_str() {
        "1" | "t" | "true" => Ok(true),
        "0" | "f" | "false" => Ok(false),
        _ => Err("expected true or false".to_owned()),
    }
}

/// A path with `~/` replaced by the home folder.
pub fn expand_home(path: PathBuf, home: Option<String>) -> PathBuf {
    match (path.strip_prefix("~"), home.filter(|home| !home.is_empty())) {
        (Ok(rest), Some(home)) => PathBuf::from(home).join(rest),
        _ => path,
    }
}

/// The default state file, below the user's data folder; `None` if the environment names no such
/// folder, as in many containers.
pub fn default_state_path(env: &dyn Fn(&str) -> Option<String>) -> Option<PathBuf> {
    // The XDG Base Directory Specification says to ignore relative paths.
    let folder = |name| env(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let data = folder("XDG_DATA_HOME").or_else(|| Some(folder("HOME")?.join(".local/share")))?;
    let path = data.join(STATE_FILE_IN_DATA_HOME);
    (!path.to_string_lossy().contains('\u{fffd}')).then_some(path)
}

/// A log level by its name.
pub fn parse_log_level(text: &str) -> Result<LevelFilter, String> {
    text.parse()
        .ok()
        .filter(|level| *level != LevelFilter::Off)
        .ok_or_else(|| "expected error, warn, info, debug or trace".to_owned())
}

/// A form of the log by its name.
pub fn parse_log_format(text: &str) -> Result<LogFormat, String> {
    let mut formats = LogFormat::NAMES.iter();
    let found = formats.find(|(name, _)| name.eq_ignore_ascii_case(text));
    found.map(|(_, format)| *format).ok_or_else(|| "expected text, json or auto".to_owned())
}

/// The level for a value of `OLLAMA_DEBUG`, as in Ollama (envconfig/config.go): a boolean, or the
/// number of levels below info; other text means true.
pub fn parse_debug_level(text: &str) -> LevelFilter {
    match text.parse::<i64>() {
        Err(_) if matches!(text, "f" | "F" | "false" | "False" | "FALSE") => LevelFilter::Info,
        Ok(..=-2) => LevelFilter::Error,
        Ok(-1) => LevelFilter::Warn,
        Ok(0) => LevelFilter::Info,
        Ok(1) | Err(_) => LevelFilter::Debug,
        Ok(2..) => LevelFilter::Trace,
    }
}

/// A key that fits into a header. The error does not quote it.
pub fn parse_api_key(text: &str) -> Result<Secret, String> {
    if text.bytes().all(|b| b.is_ascii_graphic()) {
        return Ok(Secret::new(text));
    }
    Err("expected the bare key: no spaces, control characters or letters outside ASCII".to_owned())
}

/// Whole seconds or a Go duration; negative means forever, as in Ollama.
pub fn parse_keep_alive(text: &str) -> Result<KeepAlive, String> {
    match text.parse::<i64>().map(u64::try_from) {
        Ok(Ok(seconds)) if seconds <= MAX_KEEP_ALIVE_SECONDS => {
            Ok(KeepAlive::For(Duration::from_secs(seconds)))
        }
        Ok(_) => Ok(KeepAlive::Forever),
        Err(_) => parse_go_duration(text).map_err(|_| "not a duration (like 5m or 300)".to_owned()),
    }
}

/// Digits only: no sign, no space.
fn parse_digits(text: &str) -> Option<u64> {
    text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse().ok()).flatten()
}

/// Seconds up to [`MAX_SECONDS`] in plain decimal writing: no sign, no exponent, no `inf`.
fn parse_decimal_seconds(text: &str) -> Option<Duration> {
    let plain = text.bytes().all(|b| b.is_ascii_digit() || b == b'.');
    let seconds: f64 = plain.then(|| text.parse().ok()).flatten()?;
    Duration::try_from_secs_f64(seconds)
        .ok()
        .filter(|time| *time <= Duration::from_secs(MAX_SECONDS))
}

#[cfg(test)]
mod tests {
    use std::fmt::Debug;

    use super::*;

    /// `None` stands for a refusal.
    #[track_caller]
    fn check<T: PartialEq + Debug>(result: Result<T, String>, expected: Option<T>) {
        match (result, expected) {
            (Ok(value), Some(expected)) => assert_eq!(value, expected),
            (Err(error), None) => assert!(error.starts_with("expected "), "{error}"),
            (result, expected) => panic!("{result:?} where {expected:?} was expected"),
        }
    }

    #[test]
    fn whole_numbers_keep_their_bounds() {
        check(parse_integer("1", 1..=65535), Some(1_u16));
        check(parse_integer("065535", 1..=65535), Some(65535_u16));
        for bad in ["0", "65536", "-1", "+1", "1.0", "", "1 ", "x", "١", "99999999999999999999"] {
            check(parse_integer::<u16>(bad, 1..=65535), None);
        }
        check(parse_integer::<u16>("70000", 0..=100_000), None);
    }

    #[test]
    fn seconds_are_plain_decimals_up_to_a_day() {
        check(parse_seconds("0"), Some(Duration::ZERO));
        check(parse_seconds("30"), Some(Duration::from_secs(30)));
        check(parse_positive_seconds("0.25"), Some(Duration::from_millis(250)));
        check(parse_positive_seconds("86400"), Some(Duration::from_secs(86_400)));
        for bad in ["86400.1", "-1", "1e3", "inf", "nan", "NaN", ".", "", "1s", "1.2.3", "+1"] {
            check(parse_seconds(bad), None);
            check(parse_positive_seconds(bad), None);
        }
        for zero in ["0", "0.0", "0.0000000001"] {
            check(parse_positive_seconds(zero), None);
        }
    }

    #[test]
    fn forms_of_the_log_have_names() {
        for (text, format) in [("text", LogFormat::Text), ("JSON", LogFormat::Json)] {
            check(parse_log_format(text), Some(format));
        }
        check(parse_log_format("auto"), Some(LogFormat::Auto));
        for bad in ["", "logfmt", "json ", "true"] {
            check(parse_log_format(bad), None);
        }
    }

    #[test]
    fn sizes_count_in_powers_of_1024() {
        check(parse_size("104857600"), Some(104_857_600));
        check(parse_size("1k"), Some(1024));
        check(parse_size("1KiB"), Some(1024));
        check(parse_size("100mib"), Some(104_857_600));
        check(parse_size("2M"), Some(2 << 20));
        check(parse_size("1g"), Some(1 << 30));
        check(parse_size("1GIB"), Some(1 << 30));
        for bad in
            ["0", "0K", "", "K", "1KB", "1 K", "-1", "1.5M", "99999999999G", "1ü", "1073741825"]
        {
            check(parse_size(bad), None);
        }
    }

    #[test]
    fn switches_are_on_or_off() {
        for (text, expected) in [("1", true), ("TRUE", true), ("0", false), ("False", false)] {
            check(parse_bool(text), Some(expected));
        }
        for bad in ["yes", "2", "on", "tru"] {
            check(parse_bool(bad), None);
        }
    }

    #[test]
    fn levels_have_names_in_any_case() {
        check(parse_log_level("INFO"), Some(LevelFilter::Info));
        check(parse_log_level("Trace"), Some(LevelFilter::Trace));
        for bad in ["off", "warning", "2", ""] {
            check(parse_log_level(bad), None);
        }
    }

    #[test]
    fn ollamas_debug_switch_counts_levels() {
        let cases = [
            ("true", LevelFilter::Debug),
            ("1", LevelFilter::Debug),
            ("yes", LevelFilter::Debug),
            ("2", LevelFilter::Trace),
            ("9", LevelFilter::Trace),
            ("0", LevelFilter::Info),
            ("False", LevelFilter::Info),
            ("-1", LevelFilter::Warn),
            ("-2", LevelFilter::Error),
            ("-9", LevelFilter::Error),
        ];
        for (text, expected) in cases {
            assert_eq!(parse_debug_level(text), expected, "{text}");
        }
    }

    #[test]
    fn keys_can_stand_in_a_header_or_are_refused_unseen() {
        check(parse_api_key("sk-Proj_1.2/3+4="), Some(Secret::new("sk-Proj_1.2/3+4=")));
        for bad in ["s3cret key", "s3cret\nkey", "s3cret\u{7f}", "s3crét", "s3cret\u{fffd}"] {
            check(parse_api_key(bad), None);
            assert!(!parse_api_key(bad).expect_err(bad).contains("s3cr"));
        }
    }

    #[test]
    fn keep_alive_is_a_duration_or_seconds() {
        let lasting = |seconds| KeepAlive::For(Duration::from_secs(seconds));
        check(parse_keep_alive("5m"), Some(lasting(300)));
        check(parse_keep_alive("300"), Some(lasting(300)));
        check(parse_keep_alive("0"), Some(lasting(0)));
        check(parse_keep_alive("-1"), Some(KeepAlive::Forever));
        check(parse_keep_alive("-1m"), Some(KeepAlive::Forever));
        check(parse_keep_alive("9223372036"), Some(lasting(9_223_372_036)));
        check(parse_keep_alive("9223372037"), Some(KeepAlive::Forever));
        assert!(parse_keep_alive("soon").is_err());
        assert!(parse_keep_alive("99999999999999999999").is_err());
    }
}
