//! Client keys: parses them, and checks the key of a request.
//!
//! A request sends its key as `Authorization: Bearer`, as `x-api-key`, or as the password of `Basic`
//! (as the user, if the password is empty). Pure; all keys have the same rights.
//! Invariant: a request's key is compared with every configured key in constant time, and no error
//! or `Debug` output holds a key.

use std::borrow::Cow;
use std::fmt;

use base64::Engine as _;

use crate::api::wire::base64::BASE64;
use crate::observe::redact::Secret;

/// Shortest key, in bytes. Shorter keys can be guessed, and masking them would garble the log.
const MIN_KEY_LEN: usize = 8;

/// Longest key, in bytes.
const MAX_KEY_LEN: usize = 512;

/// Most keys; each request is compared with all of them.
const MAX_KEYS: usize = 256;

/// The configured keys; without any, no key is needed.
#[derive(Clone, Default)]
pub struct ClientKeys(Vec<Secret>);

/// The headers that may hold a key. No `Debug`, because of the key.
#[derive(Clone, Copy, Default)]
pub struct Credentials<'a> {
    /// The header `Authorization`.
    pub authorization: Option<&'a str>,
    /// The header `x-api-key`.
    pub api_key: Option<&'a str>,
}

impl<'a> Credentials<'a> {
    /// What may be a key: as a bearer token, in a header of its own, as a password.
    fn candidates(self) -> [Option<Cow<'a, str>>; 3] {
        let api_key = self.api_key.map(|key| key.trim().into());
        let (scheme, rest) =
            self.authorization.and_then(|value| value.trim().split_once(' ')).unzip();
        let scheme = scheme.unwrap_or_default().to_ascii_lowercase();
        let bearer = rest.map(str::trim).filter(|_| scheme == "bearer").map(Cow::from);
        let basic = rest.map(str::trim).filter(|_| scheme == "basic").and_then(basic_password);
        [bearer, api_key, basic.map(Cow::from)]
    }
}

impl ClientKeys {
    /// Parses comma-separated keys.
    ///
    /// # Errors
    /// What is expected, without the text.
    pub fn parse(text: &str) -> Result<Self, String> {
        Self::from_texts(text.split(',').map(str::trim).filter(|key| !key.is_empty())).map_err(
            |_| {
                format!(
                    "expected 1 to {MAX_KEYS} keys with commas between them, {}",
                    describe_key()
                )
            },
        )
    }

    /// Parses a file with one key per line. Empty lines and lines that start with `#` are ignored.
    ///
    /// # Errors
    /// The fault, without the text; also if the file has no key.
    pub fn parse_file(bytes: &[u8]) -> Result<Self, String> {
        let text = std::str::from_utf8(bytes).map_err(|_| "not UTF-8 text".to_owned())?;
        let text = text.trim_start_matches('\u{feff}');
        let lines = (1..).zip(text.lines().map(str::trim));
        let keys = lines.filter(|(_, line)| !line.is_empty() && !line.starts_with('#'));
        Self::from_texts(keys.clone().map(|(_, key)| key)).map_err(|index| {
            match keys.clone().nth(index) {
                _ if index >= MAX_KEYS => format!("more than {MAX_KEYS} keys"),
                Some((number, _)) => {
                    format!("line {number}: invalid key; one key per line, {}", describe_key())
                }
                None => "no key in the file".to_owned(),
            }
        })
    }

    /// The keys without duplicates, or the index of the first bad one.
    fn from_texts<'a>(texts: impl Iterator<Item = &'a str>) -> Result<Self, usize> {
        let mut keys = Self::default();
        for (index, text) in texts.enumerate() {
            if !is_valid_key(text) || index >= MAX_KEYS {
                return Err(index);
            }
            keys.add(Secret::new(text));
        }
        if keys.is_empty() { Err(0) } else { Ok(keys) }
    }

    fn add(&mut self, key: Secret) {
        if !self.0.contains(&key) {
            self.0.push(key);
        }
    }

    /// Adds the keys of another list.
    pub fn extend(&mut self, other: Self) {
        other.0.into_iter().for_each(|key| self.add(key));
    }

    /// True if no key is needed.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// All keys, to mask them.
    pub fn secrets(&self) -> impl Iterator<Item = &Secret> {
        self.0.iter()
    }

    /// True if a request may proceed.
    pub fn authorize(&self, credentials: Credentials<'_>) -> bool {
        if self.is_empty() {
            return true;
        }
        let candidates = credentials.candidates();
        // No early return: the time must not depend on the keys.
        candidates.iter().flatten().fold(false, |found, text| found | self.contains(text))
    }

    /// The key of a request that is none of these: the one that it sends for the upstream.
    pub fn find_foreign(&self, credentials: Credentials<'_>) -> Option<Secret> {
        let candidates = credentials.candidates();
        let is_foreign = |text: &&Cow<'_, str>| is_sendable(text) && !self.contains(text);
        candidates.iter().flatten().find(is_foreign).map(|text| Secret::new(text.as_ref()))
    }

    fn contains(&self, text: &str) -> bool {
        self.0.iter().fold(false, |found, key| found | key.matches(text))
    }
}

impl fmt::Debug for ClientKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} keys", self.0.len())
    }
}

/// The password of `Basic` credentials, or the user if it is empty.
fn basic_password(credentials: &str) -> Option<String> {
    let text = String::from_utf8(BASE64.decode(credentials).ok()?).ok()?;
    let (user, password) = text.split_once(':')?;
    Some(if password.is_empty() { user } else { password }.to_owned())
}

/// True if a text can be a bearer token.
fn is_sendable(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic())
}

/// True if a text fits into a header and between commas.
fn is_valid_key(text: &str) -> bool {
    (MIN_KEY_LEN..=MAX_KEY_LEN).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_graphic() && byte != b',')
}

fn describe_key() -> String {
    format!(
        "each {MIN_KEY_LEN} to {MAX_KEY_LEN} visible ASCII characters without spaces and commas"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys() -> ClientKeys {
        ClientKeys::parse("first-key-1, second-key-2").expect("two keys")
    }

    fn count(keys: Result<ClientKeys, String>) -> usize {
        keys.map_or(0, |keys| keys.secrets().count())
    }

    #[track_caller]
    fn check(authorization: Option<&str>, api_key: Option<&str>, expected: bool) {
        assert_eq!(keys().authorize(Credentials { authorization, api_key }), expected);
    }

    #[test]
    fn without_keys_every_request_is_authorized() {
        for authorization in [None, Some("Bearer x"), Some("nonsense")] {
            let credentials = Credentials { authorization, api_key: None };
            assert!(ClientKeys::default().authorize(credentials));
        }
    }

    #[test]
    fn a_key_may_come_in_each_of_three_ways() {
        for (authorization, api_key) in [
            (Some("Bearer first-key-1"), None),
            (Some("bearer   second-key-2 "), None),
            (None, Some("second-key-2")),
            (None, Some(" first-key-1 ")),
            // anybody:first-key-1, second-key-2: and :first-key-1
            (Some("Basic YW55Ym9keTpmaXJzdC1rZXktMQ=="), None),
            (Some("BASIC c2Vjb25kLWtleS0yOg=="), None),
            (Some("Basic OmZpcnN0LWtleS0x"), None),
            // One good key is enough: clients send both headers.
            (Some("Bearer nonsense"), Some("first-key-1")),
            (Some("Bearer first-key-1"), Some("nonsense")),
        ] {
            check(authorization, api_key, true);
        }
    }

    #[test]
    fn other_credentials_are_refused() {
        check(None, None, false);
        for api_key in ["", "first-key-", "first-key-11", "First-key-1", "first-key-1,second-key-2"]
        {
            check(None, Some(api_key), false);
            check(Some(&format!("Bearer {api_key}")), None, false);
        }
        // The last ones: first-key-1:x, first-key-1 without a colon, bytes that are not UTF-8, and
        // text that is not base64.
        for authorization in "|Bearer|Bearer |first-key-1|Basic first-key-1|Token first-key-1|\
                              Bearer Bearer first-key-1|Basic Zmlyc3Qta2V5LTE6eA==|\
                              Basic Zmlyc3Qta2V5LTE=|Basic /////w==|Basic ####"
            .split('|')
        {
            check(Some(authorization), None, false);
        }
    }

    #[test]
    fn a_key_for_the_upstream_is_the_first_one_that_is_none_of_ours() {
        let check = |authorization, api_key, expected: Option<&str>| {
            let found = keys().find_foreign(Credentials { authorization, api_key });
            assert_eq!(
                found.as_ref().map(Secret::expose),
                expected,
                "{authorization:?} {api_key:?}"
            );
        };
        check(None, None, None);
        check(Some("Bearer sk-1"), None, Some("sk-1"));
        check(Some("bearer  sk-1 "), Some("sk-2"), Some("sk-1"));
        check(None, Some(" sk-2 "), Some("sk-2"));
        // me:sk-3
        check(Some("Basic bWU6c2stMw=="), None, Some("sk-3"));
        check(Some("Basic bWU6c2stMw=="), Some("sk-2"), Some("sk-2"));
        check(Some("Bearer first-key-1"), None, None);
        check(Some("Bearer first-key-1"), Some("second-key-2"), None);
        check(Some("Bearer first-key-1"), Some("sk-2"), Some("sk-2"));
        check(Some("Bearer sk-1"), Some("first-key-1"), Some("sk-1"));
        for none in ["Bearer", "Bearer ", "sk-1", "Token sk-1", "Bearer two words", "Bearer \u{e9}"]
        {
            check(Some(none), None, None);
        }
    }

    #[test]
    fn a_list_has_commas() {
        let many = |number: usize| (0..number).map(|n| format!("key-number-{n},")).collect();
        let texts: [String; 3] = [many(MAX_KEYS), many(MAX_KEYS + 1), "x".repeat(MAX_KEY_LEN)];
        for (text, expected) in [
            ("first-key-1", 1),
            (" first-key-1 ,, second-key-2,first-key-1,", 2),
            (&texts[0], MAX_KEYS),
            (&texts[1], 0),
            (&texts[2], 1),
        ] {
            assert_eq!(count(ClientKeys::parse(text)), expected, "{text}");
        }
        let long = "x".repeat(MAX_KEY_LEN + 1);
        for bad in [",", " ", "s3cret1", "s3cret with blanks", "s3cr\u{e9}t-and-more", &long] {
            let error = ClientKeys::parse(bad).expect_err(bad);
            assert!(error.starts_with("expected 1 to 256 keys "), "{error}");
            assert!(!error.contains("s3cr"), "{error}");
        }
    }

    #[test]
    fn a_file_has_a_key_on_each_line() {
        let file = "\u{feff}# Who may come in\r\n\r\nfirst-key-1\r\n  second-key-2\n#third-key-3\n";
        assert_eq!(count(ClientKeys::parse_file(file.as_bytes())), 2);
        let many: String = (0..=MAX_KEYS).map(|number| format!("key-number-{number}\n")).collect();
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
            (many.as_bytes(), "more than 256 keys"),
        ] {
            let error = ClientKeys::parse_file(bytes).expect_err(expected);
            // An expected text that ends in a space is the start of the error.
            let is_start = expected.ends_with(' ') && error.starts_with(expected);
            assert!(is_start || error == expected, "{error}");
        }
    }

    #[test]
    fn extend_skips_duplicates_and_debug_hides_keys() {
        let mut keys = keys();
        keys.extend(ClientKeys::parse("third-key-3,first-key-1").expect("keys"));
        assert_eq!(keys.secrets().count(), 3);
        assert_eq!(format!("{keys:?}"), "3 keys");
    }
}
