//! Reads a file of client keys: one key on each line, which may have a name and limits.
//!
//! ```text
//! # a comment
//! KEY
//! name:KEY models=qwen*,gpt-4o requests_per_minute=60 tokens_per_day=1000000 max_parallel=2
//! ```
//!
//! A name has up to 64 letters, digits, `-`, `_` and `.`. Keys had colons before they had names: the whole of
//! `name:KEY` is accepted, too, and means the same key; where what stands before the colon is no name or what
//! follows it no key, the whole is a key without a name. Several lines may have one name, of which one or all
//! tell the same limits: keys that are replaced are both valid for a while. Pure. Invariant: no error holds a
//! part of a line.

use super::client_keys::{ClientKeys, MAX_KEYS, NamedKey, describe_key, is_valid_key};
use crate::observe::redact::Secret;

/// The longest name.
const MAX_NAME_LEN: usize = 64;

/// The limits of a line.
const MEMBERS: &str = "models=, requests_per_minute=, tokens_per_day= and max_parallel=";

/// The largest number of each limit.
pub const MAX_REQUESTS_PER_MINUTE: u64 = 1_000_000;
/// As above.
pub const MAX_TOKENS_PER_DAY: u64 = 1_000_000_000_000_000;
/// As above.
pub const MAX_PARALLEL: u64 = 65_536;

/// The longest list of patterns, and the longest pattern.
const MAX_PATTERNS: usize = 1_000;
const MAX_PATTERN_LEN: usize = 256;

impl ClientKeys {
    /// Parses a file. Empty lines and lines that start with `#` are ignored.
    ///
    /// # Errors
    /// The fault with its line, without the text; also if the file has no key.
    pub fn parse_file(bytes: &[u8]) -> Result<Self, String> {
        let text = std::str::from_utf8(bytes).map_err(|_| "not UTF-8 text".to_owned())?;
        let text = text.trim_start_matches('\u{feff}');
        let lines = (1..).zip(text.lines().map(str::trim));
        let mut keys = Self::default();
        let lines = lines.filter(|(_, line)| !line.is_empty() && !line.starts_with('#'));
        for (count, (number, line)) in lines.enumerate() {
            if count >= MAX_KEYS {
                return Err(format!("more than {MAX_KEYS} keys"));
            }
            add_line(&mut keys, line).map_err(|why| format!("line {number}: {why}"))?;
        }
        if keys.is_empty() { Err("no key in the file".to_owned()) } else { Ok(keys) }
    }
}

fn add_line(keys: &mut ClientKeys, line: &str) -> Result<(), String> {
    let mut words = line.split_ascii_whitespace();
    let first = words.next().unwrap_or_default();
    let words: Vec<&str> = words.collect();
    let named = first.split_once(':').filter(|(name, key)| is_name(name) && is_valid_key(key));
    let Some((name, key)) = named else {
        if words.is_empty() && is_valid_key(first) {
            keys.add(Secret::new(first));
            return Ok(());
        }
        // What a key is followed by can only be limits.
        let has_limits = !words.is_empty() && words.iter().all(|word| word.contains('='));
        return Err(match has_limits {
            true => format!(
                "a key with limits needs a name: write name:KEY, the name with up to {MAX_NAME_LEN} \
                 letters, digits, - _ . and the key {}",
                describe_key()
            ),
            false => format!("invalid key; one key per line, {}", describe_key()),
        });
    };
    let mut named = NamedKey { name: name.to_owned(), ..NamedKey::default() };
    let mut seen: Vec<&str> = Vec::new();
    for word in words {
        let (member, value) = word.split_once('=').ok_or_else(|| {
            format!("only limits may follow the key, without blanks around = and commas: {MEMBERS}")
        })?;
        if seen.contains(&member) {
            return Err("a limit is set twice".to_owned());
        }
        apply(&mut named, member, value)?;
        seen.push(member);
    }
    // The whole text was a key before keys had names.
    let whole = is_valid_key(first).then_some(first);
    keys.add_named(named, Secret::new(key), whole).map_err(str::to_owned)
}

fn apply(named: &mut NamedKey, member: &str, value: &str) -> Result<(), String> {
    let number = |name: &str, most: u64| {
        let number = value.parse().ok().filter(|number| (1..=most).contains(number));
        let is_plain = value.bytes().all(|byte| byte.is_ascii_digit());
        let number = number.filter(|_| is_plain).map(Some);
        number.ok_or_else(|| format!("{name}: expected a whole number from 1 to {most}"))
    };
    let rates = &mut named.rates;
    match member {
        "models" => named.models = parse_patterns(value.split(','))?,
        "requests_per_minute" => {
            rates.requests_per_minute = number("requests_per_minute", MAX_REQUESTS_PER_MINUTE)?;
        }
        "tokens_per_day" => rates.tokens_per_day = number("tokens_per_day", MAX_TOKENS_PER_DAY)?,
        "max_parallel" => rates.max_parallel = number("max_parallel", MAX_PARALLEL)?,
        _ => return Err(format!("unknown limit: known limits are {MEMBERS}")),
    }
    Ok(())
}

/// The patterns of models that a key may use.
///
/// # Errors
/// What is expected.
pub fn parse_patterns<'a>(texts: impl Iterator<Item = &'a str>) -> Result<Vec<String>, String> {
    let patterns: Vec<String> = texts.map(|text| text.trim().to_owned()).collect();
    let is_pattern = |text: &String| {
        let is_visible = |c: char| !c.is_control() && !c.is_whitespace();
        (1..=MAX_PATTERN_LEN).contains(&text.len()) && text.chars().all(is_visible)
    };
    if patterns.is_empty() || patterns.len() > MAX_PATTERNS || !patterns.iter().all(is_pattern) {
        return Err("models: expected patterns of models with commas between them, such as \
                    qwen*,gpt-4o"
            .to_owned());
    }
    Ok(patterns)
}

/// True for a text that may be the name of a key.
fn is_name(text: &str) -> bool {
    let is_letter = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    (1..=MAX_NAME_LEN).contains(&text.len()) && text.bytes().all(is_letter)
}

/// The name of a key.
///
/// # Errors
/// What is expected.
pub fn parse_name(text: &str) -> Result<String, String> {
    let name = text.trim();
    let expected = || format!("expected up to {MAX_NAME_LEN} letters, digits, - _ .");
    is_name(name).then(|| name.to_owned()).ok_or_else(expected)
}

/// The key itself.
///
/// # Errors
/// What is expected, without the text.
pub fn parse_key(text: &str) -> Result<Secret, String> {
    let key = text.trim();
    let expected = || format!("expected a key, {}", describe_key());
    is_valid_key(key).then(|| Secret::new(key)).ok_or_else(expected)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::client_keys::{Credentials, FoundKey};
    use crate::net::key_limits::counts::Rates;

    fn find(keys: &ClientKeys, text: &str) -> Option<String> {
        let credentials = Credentials { api_key: Some(text), ..Credentials::default() };
        Some(match keys.find_key(credentials)? {
            FoundKey::Nameless => String::new(),
            FoundKey::Named(place) => keys.named()[place].name.clone(),
        })
    }

    #[track_caller]
    fn check_error(text: &str, expected: &str) {
        let error = ClientKeys::parse_file(text.as_bytes()).expect_err(text);
        assert!(error.starts_with(expected), "{text}: {error}");
        assert!(!error.contains("s3cr") && error.len() < 256, "{error}");
    }

    #[test]
    fn a_file_has_a_key_on_each_line() {
        let file = "\u{feff}# Who may come in\r\n\r\nfirst-key-1\r\n  second-key-2\n#third-key-3\n";
        let keys = ClientKeys::parse_file(file.as_bytes()).expect("keys");
        assert_eq!((keys.secrets().count(), keys.named().len()), (2, 0));
        let many: String = (0..=MAX_KEYS).map(|number| format!("key-{number:06}\n")).collect();
        for (bytes, expected) in [
            (&b""[..], "no key in the file"),
            (b"\n", "no key in the file"),
            (b"# nothing\n \n", "no key in the file"),
            (b"\xff\xfe", "not UTF-8 text"),
            (
                b"# one\nfirst-key-1\ns3cret one\n",
                "line 3: invalid key; one key per line, each 8 to 512 ",
            ),
            (b"first-key-1,second-key-2", "line 1: invalid key; "),
            (many.as_bytes(), "more than 10000 keys"),
        ] {
            let error = ClientKeys::parse_file(bytes).expect_err(expected);
            // An expected text that ends in a space is the start of the error.
            let is_start = expected.ends_with(' ') && error.starts_with(expected);
            assert!(is_start || error == expected, "{error}");
        }
    }

    #[test]
    fn a_line_may_have_a_name_and_limits_in_any_order() {
        let file = "alice:first-key-1\n\
                    bob:sk:2nd:key\tmax_parallel=3  models=qwen*,lab/*  tokens_per_day=5000\n\
                    c.d-e_f:third-key-3 requests_per_minute=1000000\n";
        let keys = ClientKeys::parse_file(file.as_bytes()).expect("keys");
        let [alice, bob, other] = keys.named() else { panic!("{:?}", keys.named()) };
        assert!(!alice.has_limits() && bob.has_limits());
        assert_eq!(bob.models, ["qwen*", "lab/*"]);
        let (tokens_per_day, max_parallel) = (Some(5000), Some(3));
        assert_eq!(bob.rates, Rates { requests_per_minute: None, tokens_per_day, max_parallel });
        assert_eq!(other.rates.requests_per_minute, Some(1_000_000));
        for (text, name) in [
            ("first-key-1", Some("alice")),
            ("alice:first-key-1", Some("alice")),
            ("sk:2nd:key", Some("bob")),
            ("bob:sk:2nd:key", Some("bob")),
            ("third-key-3", Some("c.d-e_f")),
            ("2nd:key", None),
            ("alice:sk:2nd:key", None),
        ] {
            assert_eq!(find(&keys, text).as_deref(), name, "{text}");
        }
        assert_eq!(keys.secrets().count(), 3);
    }

    #[test]
    fn an_old_key_with_a_colon_is_still_accepted_as_it_is() {
        for (line, part) in [
            ("abc:short1", "short1"),
            (":nameless-key", "nameless-key"),
            ("a/b+c=:and-more-of-it", "and-more-of-it"),
            ("12345678:", ""),
            ("::::::::::", "::::::::"),
        ] {
            let keys = ClientKeys::parse_file(line.as_bytes()).expect(line);
            assert_eq!((find(&keys, line).as_deref(), keys.named().len()), (Some(""), 0), "{line}");
            assert_eq!(find(&keys, part), None, "{line}");
        }
        // Of one kind, and with one part.
        let file = "urn:uuid:0001-0002\nurn:uuid:0003-0004\nother:uuid:0001-0002\n";
        let keys = ClientKeys::parse_file(file.as_bytes()).expect("an old file");
        assert!(file.lines().all(|line| find(&keys, line).is_some()));
    }

    #[test]
    fn a_mistake_in_a_limit_is_told_with_its_line_and_without_the_key() {
        let prefix = "\n# a comment\ngood-key-1\nme:s3cret-key ";
        for (limits, expected) in [
            ("requests_per_minute=0", "requests_per_minute: expected a whole number from 1 to "),
            ("requests_per_minute=1000001", "requests_per_minute: "),
            ("tokens_per_day=-1", "tokens_per_day: expected a whole number from 1 to "),
            ("tokens_per_day=", "tokens_per_day: "),
            ("tokens_per_day=+5", "tokens_per_day: "),
            ("tokens_per_day=1e6", "tokens_per_day: "),
            ("max_parallel=many", "max_parallel: expected a whole number from 1 to 65536"),
            ("max_parallel=99999999999999999999", "max_parallel: "),
            ("models=", "models: expected patterns of models "),
            ("models=a,,b", "models: "),
            ("models=a models=b", "a limit is set twice"),
            ("speed=7", "unknown limit: known limits are models=, "),
            ("s3cret", "only limits may follow the key"),
            ("models=a, b", "models: "),
            ("models = a", "only limits may follow the key"),
        ] {
            check_error(&format!("{prefix}{limits}"), &format!("line 4: {expected}"));
        }
        check_error("s3cret-key-1 max_parallel=1", "line 1: a key with limits needs a name");
        check_error("me:s3crt max_parallel=1", "line 1: a key with limits needs a name");
        check_error("a b:s3cret-key", "line 1: invalid key; ");
    }

    #[test]
    fn one_name_may_have_several_keys_with_the_same_limits() {
        let file =
            "me:first-key-1\nme:second-key-2 max_parallel=2\nme:third-key-3 max_parallel=2\n";
        let keys = ClientKeys::parse_file(file.as_bytes()).expect("keys");
        assert_eq!(keys.named().len(), 1);
        assert_eq!(keys.named()[0].rates.max_parallel, Some(2));
        for key in ["first-key-1", "second-key-2", "third-key-3"] {
            assert_eq!(find(&keys, key).as_deref(), Some("me"), "{key}");
        }
        let other = "me:s3cret-1 max_parallel=2\nme:s3cret-2 max_parallel=3";
        check_error(other, "line 2: the same name has other limits in another place");
        let twice = "me:s3cret-1\nyou:s3cret-1 max_parallel=3";
        check_error(twice, "line 2: the same key is set under another name");
        check_error(
            "s3cret-1\nyou:s3cret-1 models=a",
            "line 2: the same key is set under another name",
        );
    }
}
