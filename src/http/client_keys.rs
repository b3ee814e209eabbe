//! The keys of those who may ask: how they are given, and whether a request brings one.
//!
//! Pure. A request may bring a key as `Authorization: Bearer`, as `x-api-key`, or as the password of
//! `Basic` (as its user, where there is no password). Each key counts by itself; nothing tells one
//! holder from another.
//! Invariants: what a request brings is compared with all keys, to the last one, in a time that tells
//! nothing of them; no key is ever printed, and no error repeats what was given.

use std::fmt;

use base64::Engine as _;

use crate::api::wire::base64::BASE64;
use crate::observe::redact::Secret;

/// Shorter ones could be guessed, and would be masked in ordinary words.
const MIN_KEY_LEN: usize = 8;

/// The longest key, in bytes.
const MAX_KEY_LEN: usize = 512;

/// Keys, at most: each request is compared with all of them.
const MAX_KEYS: usize = 256;

/// The keys that let a request in; none where everybody may ask.
#[derive(Clone, Default)]
pub struct ClientKeys(Vec<Secret>);

/// What a request brings to show that it may ask. It has no `Debug`: it holds a key.
#[derive(Clone, Copy, Default)]
pub struct Credentials<'a> {
    /// The header `Authorization`.
    pub authorization: Option<&'a str>,
    /// The header `x-api-key`.
    pub api_key: Option<&'a str>,
}

impl ClientKeys {
    /// Reads keys with commas between them.
    ///
    /// # Errors
    /// What is allowed, without what was given.
    pub fn parse(text: &str) -> Result<Self, String> {
        Self::from_texts(text.split(',').map(str::trim).filter(|key| !key.is_empty())).map_err(
            |_| format!("write 1 to {MAX_KEYS} keys with commas between them, {}", describe_key()),
        )
    }

    /// Reads a file with a key on each line. Lines that are empty or begin with `#` do not count.
    ///
    /// # Errors
    /// What is wrong with it, without what it says; also when there is no key in it.
    pub fn parse_file(bytes: &[u8]) -> Result<Self, String> {
        let text = std::str::from_utf8(bytes).map_err(|_| "it is no text".to_owned())?;
        let text = text.trim_start_matches('\u{feff}');
        let lines = (1..).zip(text.lines().map(str::trim));
        let keys = lines.filter(|(_, line)| !line.is_empty() && !line.starts_with('#'));
        Self::from_texts(keys.clone().map(|(_, key)| key)).map_err(|wrong| {
            match keys.clone().nth(wrong) {
                _ if wrong >= MAX_KEYS => format!("it holds more than {MAX_KEYS} keys"),
                Some((number, _)) => {
                    format!("line {number} is no key: write one a line, {}", describe_key())
                }
                None => "it holds no key".to_owned(),
            }
        })
    }

    /// The keys of a list, each once; else the place of what is wrong.
    fn from_texts<'a>(texts: impl Iterator<Item = &'a str>) -> Result<Self, usize> {
        let mut keys = Self::default();
        for (place, text) in texts.enumerate() {
            if !is_valid_key(text) || place >= MAX_KEYS {
                return Err(place);
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

    /// Takes the keys of another list in.
    pub fn extend(&mut self, other: Self) {
        other.0.into_iter().for_each(|key| self.add(key));
    }

    /// Whether there are none, so that everybody may ask.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// All of them, for whoever masks them.
    pub fn secrets(&self) -> impl Iterator<Item = &Secret> {
        self.0.iter()
    }

    /// Whether a request may come in.
    #[must_use]
    pub fn authorize(&self, credentials: Credentials<'_>) -> bool {
        if self.is_empty() {
            return true;
        }
        let own = credentials.api_key.map(str::trim);
        let (scheme, rest) =
            credentials.authorization.and_then(|it| it.trim().split_once(' ')).unzip();
        let scheme = scheme.unwrap_or_default().to_ascii_lowercase();
        let bearer = rest.map(str::trim).filter(|_| scheme == "bearer");
        let basic = rest.map(str::trim).filter(|_| scheme == "basic").and_then(basic_password);
        let candidates = [own, bearer, basic.as_deref()];
        // Every key is looked at, whatever was found before.
        candidates.into_iter().flatten().fold(false, |found, text| found | self.contains(text))
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

/// The password of `Basic` credentials, or the user where that is empty.
fn basic_password(credentials: &str) -> Option<String> {
    let text = String::from_utf8(BASE64.decode(credentials).ok()?).ok()?;
    let (user, password) = text.split_once(':')?;
    Some(if password.is_empty() { user } else { password }.to_owned())
}

/// Whether a text can be a key: it has to fit into a header and between commas.
fn is_valid_key(text: &str) -> bool {
    (MIN_KEY_LEN..=MAX_KEY_LEN).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_graphic() && byte != b',')
}

fn describe_key() -> String {
    format!(
        "each {MIN_KEY_LEN} to {MAX_KEY_LEN} visible ASCII characters without blanks and commas"
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
    fn without_keys_everybody_may_ask() {
        for authorization in [None, Some("Bearer x"), Some("nonsense")] {
            assert!(
                ClientKeys::default()
                    .authorize(Credentials { authorization, ..Credentials::default() })
            );
        }
    }

    #[test]
    fn a_key_may_come_in_each_of_three_ways() {
        check(Some("Bearer first-key-1"), None, true);
        check(Some("bearer   second-key-2 "), None, true);
        check(None, Some("second-key-2"), true);
        check(None, Some(" first-key-1 "), true);
        // anybody:first-key-1, second-key-2: and :first-key-1
        check(Some("Basic YW55Ym9keTpmaXJzdC1rZXktMQ=="), None, true);
        check(Some("BASIC c2Vjb25kLWtleS0yOg=="), None, true);
        check(Some("Basic OmZpcnN0LWtleS0x"), None, true);
        // One good key is enough: clients send both headers.
        check(Some("Bearer nonsense"), Some("first-key-1"), true);
        check(Some("Bearer first-key-1"), Some("nonsense"), true);
    }

    #[test]
    fn whatever_is_no_key_stays_outside() {
        check(None, None, false);
        for api_key in ["", "first-key-", "first-key-11", "First-key-1", "first-key-1,second-key-2"]
        {
            check(None, Some(api_key), false);
            check(Some(&format!("Bearer {api_key}")), None, false);
        }
        for authorization in [
            "",
            "Bearer",
            "Bearer ",
            "first-key-1",
            "Basic first-key-1",
            "Token first-key-1",
            "Bearer Bearer first-key-1",
            // first-key-1:x, first-key-1 without a colon, and bytes that are no text
            "Basic Zmlyc3Qta2V5LTE6eA==",
            "Basic Zmlyc3Qta2V5LTE=",
            "Basic /////w==",
            "Basic ####",
        ] {
            check(Some(authorization), None, false);
        }
    }

    #[test]
    fn a_list_has_commas() {
        assert_eq!(count(ClientKeys::parse("first-key-1")), 1);
        assert_eq!(count(ClientKeys::parse(" first-key-1 ,, second-key-2,first-key-1,")), 2);
        let many = |number: usize| (0..number).map(|n| format!("key-number-{n},")).collect();
        let many: [String; 2] = [many(MAX_KEYS), many(MAX_KEYS + 1)];
        assert_eq!(
            [count(ClientKeys::parse(&many[0])), count(ClientKeys::parse(&many[1]))],
            [MAX_KEYS, 0]
        );
        assert_eq!(count(ClientKeys::parse(&"x".repeat(MAX_KEY_LEN))), 1);
        let long = "x".repeat(MAX_KEY_LEN + 1);
        for bad in [",", " ", "s3cret1", "s3cret with blanks", "s3crét-and-more", &long] {
            let told = ClientKeys::parse(bad).expect_err(bad);
            assert!(told.starts_with("write 1 to 256 keys ") && !told.contains("s3cr"), "{told}");
        }
    }

    #[test]
    fn a_file_has_a_key_on_each_line() {
        let file = "\u{feff}# Who may come in\r\n\r\nfirst-key-1\r\n  second-key-2\n#third-key-3\n";
        assert_eq!(count(ClientKeys::parse_file(file.as_bytes())), 2);
        let told = |bytes: &[u8]| ClientKeys::parse_file(bytes).expect_err("no keys");
        for empty in ["", "\n", "# nothing\n \n"] {
            assert_eq!(told(empty.as_bytes()), "it holds no key");
        }
        assert_eq!(told(b"\xff\xfe"), "it is no text");
        let two = told(b"# one\nfirst-key-1\ns3cret one\n");
        assert!(two.starts_with("line 3 is no key: write one a line, each 8 to 512 "), "{two}");
        assert!(told(b"first-key-1,second-key-2").starts_with("line 1 is no key: "));
        let many: String = (0..=MAX_KEYS).map(|number| format!("key-number-{number}\n")).collect();
        assert_eq!(told(many.as_bytes()), "it holds more than 256 keys");
    }

    #[test]
    fn two_lists_make_one_and_none_prints_its_keys() {
        let mut keys = keys();
        keys.extend(ClientKeys::parse("third-key-3,first-key-1").expect("keys"));
        assert_eq!(keys.secrets().count(), 3);
        assert_eq!(format!("{keys:?}"), "3 keys");
    }
}
