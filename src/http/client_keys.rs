//! Client keys: parses them, and checks the key of a request.
//!
//! A request sends its key as `Authorization: Bearer`, as `x-api-key`, or as the password of `Basic`
//! (as the user, if the password is empty). A text that is longer than a key can be is refused unseen; any
//! other is digested once and looked up in the set of digests that was made when the keys were read, so
//! that neither the number of keys nor the length of what is sent matters.
//!
//! The lookup needs no constant time: what it compares are digests with a salt that nobody outside knows
//! and that is another one in each process. How far a comparison gets says nothing of the text to somebody
//! who cannot compute the digest of a guess.
//!
//! A key may have a name, with limits ([`NamedKey`]); [`crate::http::key_lines`] reads files of keys, and
//! [`crate::http::named_keys`] counts what keys with names use. All others have the same rights.
//!
//! Pure, but for the salt. Invariant: no key is compared with what a
//! request sends in any other way, and no error or `Debug` output holds a key.

use std::borrow::Cow;
use std::fmt;

use base64::Engine as _;

use crate::api::wire::base64::BASE64;
use crate::http::key_digests::{DigestSet, NO_NAME};
use crate::net::key_limits::counts::Rates;
use crate::observe::redact::Secret;

/// Shortest key, in bytes. Shorter keys can be guessed, and masking them would garble the log.
const MIN_KEY_LEN: usize = 8;

/// Longest key, in bytes.
pub(super) const MAX_KEY_LEN: usize = 512;

/// Most keys of one list. A key costs a request nothing, so this bounds only the memory and the time that it
/// takes to read them.
pub(super) const MAX_KEYS: usize = 10_000;

/// Longest key for an upstream that a client may send, in bytes: tokens of identity providers have some
/// kilobytes.
const MAX_FOREIGN_KEY_LEN: usize = 16 * 1024;

/// Longest user name and password of `Basic`, in base64: a key, and a user name of 2 KB.
const MAX_BASIC_LEN: usize = 4 * 1024;

/// The configured keys; without any, no key is needed.
#[derive(Clone, Default)]
pub struct ClientKeys {
    /// To mask them in what is written.
    keys: Vec<Secret>,
    /// What is known of those that have names.
    named: Vec<NamedKey>,
    digests: DigestSet,
}

/// What is known of a key with a name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NamedKey {
    /// For log, metrics and status.
    pub name: String,
    /// Patterns of the models that it may use; empty for all.
    pub models: Vec<String>,
    /// How much it may use.
    pub rates: Rates,
}

impl NamedKey {
    /// Whether anything is limited.
    pub fn has_limits(&self) -> bool {
        !self.models.is_empty() || self.rates != Rates::default()
    }
}

/// The key of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FoundKey {
    /// One without a name, or none where none is needed.
    Nameless,
    /// The one at this place of [`ClientKeys::named`].
    Named(usize),
}

/// The headers that may hold a key. No `Debug`, because of the key.
#[derive(Clone, Copy, Default)]
pub struct Credentials<'a> {
    /// The header `Authorization`.
    pub authorization: Option<&'a str>,
    /// The header `x-api-key`.
    pub api_key: Option<&'a str>,
}

impl<'a> Credentials<'a> {
    /// What may be a key of at most `max_len` bytes: as a bearer token, in a header of its own, as a password.
    fn candidates(self, max_len: usize) -> [Option<Cow<'a, str>>; 3] {
        let fits = |text: &&str| text.len() <= max_len;
        let api_key = self.api_key.map(str::trim).filter(fits).map(Cow::from);
        let bearer = self.parameter("bearer").filter(fits).map(Cow::from);
        let max_basic = MAX_BASIC_LEN.max(max_len.div_ceil(3) * 4);
        let basic = self.parameter("basic").filter(|text| text.len() <= max_basic);
        let password = basic.and_then(basic_password).filter(|text| text.len() <= max_len);
        [bearer, api_key, password.map(Cow::from)]
    }

    /// What stands behind a scheme in `Authorization`. Only as much as the scheme's name is looked at.
    fn parameter(self, scheme: &str) -> Option<&'a str> {
        let value = self.authorization?.trim_ascii();
        let (name, rest) = value.split_at_checked(scheme.len())?;
        let is_of = name.eq_ignore_ascii_case(scheme) && rest.starts_with(' ');
        is_of.then(|| rest.trim_ascii())
    }

    /// Whether neither header was sent.
    pub fn are_missing(self) -> bool {
        self.authorization.is_none() && self.api_key.is_none()
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

    /// Adds a key without a name, if it is new.
    pub fn add(&mut self, key: Secret) {
        if self.digests.insert(key.expose(), NO_NAME).is_ok() {
            self.keys.push(key);
        }
    }

    /// Adds a key of a name. Several keys may have one name, with the same limits. `whole` is another text
    /// that means the same key.
    ///
    /// # Errors
    /// What contradicts the keys that are there; it holds no key.
    pub fn add_named(
        &mut self,
        named: NamedKey,
        key: Secret,
        whole: Option<&str>,
    ) -> Result<(), &'static str> {
        let found = self.named.iter().position(|known| known.name == named.name);
        let place = match found {
            Some(place) => {
                let known = &mut self.named[place];
                if known.has_limits() && named.has_limits() && *known != named {
                    return Err("the same name has other limits in another place");
                }
                if named.has_limits() {
                    *known = named;
                }
                place
            }
            None => {
                self.named.push(named);
                self.named.len() - 1
            }
        };
        let owner = u16::try_from(place).map_err(|_| "too many names")?;
        if let Err(other) = self.digests.insert(key.expose(), owner)
            && other != owner
        {
            let other = self.named.get(usize::from(other));
            let is_limited = |it: &NamedKey| it.has_limits();
            if is_limited(&self.named[place]) || other.is_some_and(is_limited) {
                return Err("the same key is set under another name, or without one");
            }
        }
        self.keys.push(key);
        // Who has the text before the colon as a part of the key, has a key without limits.
        let _ = whole.map(|whole| self.digests.insert(whole, owner));
        Ok(())
    }

    /// Adds the keys of another list.
    ///
    /// # Errors
    /// As [`ClientKeys::add_named`].
    pub fn extend(&mut self, other: Self) -> Result<(), String> {
        let Self { keys, named, digests } = other;
        for key in keys {
            let owner = digests.find(key.expose()).and_then(|owner| named.get(usize::from(owner)));
            match owner {
                None => {
                    let known = self.find(key.expose());
                    if known.is_some_and(|it| it.has_limits()) {
                        return Err("the same key is set with a name and limits, too".to_owned());
                    }
                    self.add(key);
                }
                Some(owner) => {
                    let whole = format!("{}:{}", owner.name, key.expose());
                    let whole = digests.find(&whole).map(|_| whole.as_str());
                    let added = self.add_named(owner.clone(), key, whole);
                    added.map_err(|why| format!("key {:?}: {why}", owner.name))?;
                }
            }
        }
        Ok(())
    }

    /// The keys with names, in the order of their lines.
    pub fn named(&self) -> &[NamedKey] {
        &self.named
    }

    /// The limits of a key that is a text.
    fn find(&self, text: &str) -> Option<&NamedKey> {
        self.named.get(usize::from(self.digests.find(text)?))
    }

    /// True if no key is needed.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// All keys, to mask them.
    pub fn secrets(&self) -> impl Iterator<Item = &Secret> {
        self.keys.iter()
    }

    /// True if a request may proceed.
    pub fn authorize(&self, credentials: Credentials<'_>) -> bool {
        self.is_empty() || self.find_key(credentials).is_some()
    }

    /// The key with which a request comes; `None` for one that is none of these.
    pub fn find_key(&self, credentials: Credentials<'_>) -> Option<FoundKey> {
        let candidates = credentials.candidates(MAX_KEY_LEN);
        let owner = candidates.iter().flatten().find_map(|text| self.owner_of(text))?;
        Some(if owner == NO_NAME { FoundKey::Nameless } else { FoundKey::Named(owner.into()) })
    }

    /// The key of a request that is none of these: the one that it sends for the upstream.
    pub fn find_foreign(&self, credentials: Credentials<'_>) -> Option<Secret> {
        let candidates = credentials.candidates(MAX_FOREIGN_KEY_LEN);
        let is_foreign = |text: &&Cow<'_, str>| is_sendable(text) && !self.contains(text);
        candidates.iter().flatten().find(is_foreign).map(|text| Secret::new(text.as_ref()))
    }

    /// Whether a text is one of the keys.
    pub fn contains(&self, text: &str) -> bool {
        self.owner_of(text).is_some()
    }

    fn owner_of(&self, text: &str) -> Option<u16> {
        let is_key = (MIN_KEY_LEN..=MAX_KEY_LEN).contains(&text.len());
        is_key.then(|| self.digests.find(text)).flatten()
    }
}

impl fmt::Debug for ClientKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} keys", self.keys.len())
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
pub(super) fn is_valid_key(text: &str) -> bool {
    (MIN_KEY_LEN..=MAX_KEY_LEN).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_graphic() && byte != b',')
}

pub(super) fn describe_key() -> String {
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
        let many = (0..5000).map(|n| format!("key-number-{n},")).collect::<String>();
        let longest = "x".repeat(MAX_KEY_LEN);
        for (text, expected) in [
            ("first-key-1", 1),
            (" first-key-1 ,, second-key-2,first-key-1,", 2),
            (&many, 5000),
            (&longest, 1),
        ] {
            assert_eq!(count(ClientKeys::parse(text)), expected, "{text}");
        }
        let long = "x".repeat(MAX_KEY_LEN + 1);
        for bad in [",", " ", "s3cret1", "s3cret with blanks", "s3cr\u{e9}t-and-more", &long] {
            let error = ClientKeys::parse(bad).expect_err(bad);
            assert!(error.starts_with("expected 1 to 10000 keys "), "{error}");
            assert!(!error.contains("s3cr"), "{error}");
        }
    }

    #[test]
    fn each_of_many_keys_is_known_and_nothing_else() {
        let key = |number: usize| format!("key-number-{number}");
        let many: String = (0..10_000).map(|number| key(number) + "\n").collect();
        let keys = ClientKeys::parse_file(many.as_bytes()).expect("keys");
        let knows = |text: &str| {
            keys.authorize(Credentials { api_key: Some(text), ..Credentials::default() })
        };
        assert!((0..10_000).all(|number| knows(&key(number))));
        assert!(!(10_000..20_000).any(|number| knows(&key(number))));
        assert!(!knows("") && !knows("key-number-"));
    }

    #[test]
    fn what_is_longer_than_a_key_can_be_is_refused_whatever_it_begins_with() {
        let key = "k".repeat(MAX_KEY_LEN);
        let keys = ClientKeys::parse(&key).expect("a key");
        let check = |text: &str, user: &str, expected: bool| {
            let basic = format!("Basic {}", BASE64.encode(format!("{user}:{text}")));
            let bearer = format!("Bearer {text}");
            for (authorization, api_key) in
                [(Some(&*bearer), None), (Some(&*basic), None), (None, Some(text))]
            {
                let found = keys.authorize(Credentials { authorization, api_key });
                assert_eq!(found, expected, "{} {}", text.len(), user.len());
            }
        };
        check(&key, "me", true);
        check(&key, &"u".repeat(2048), true);
        check(&format!("{key}k"), "me", false);
        check(&key.repeat(100), "me", false);
        let too_long = format!("Basic {}", BASE64.encode(format!("{}:{key}", "u".repeat(4096))));
        let authorization = Some(&*too_long);
        assert!(!keys.authorize(Credentials { authorization, api_key: None }));
    }

    #[test]
    fn a_key_for_the_upstream_may_be_longer_than_one_of_ours() {
        let find = |length: usize| {
            let token = "t".repeat(length);
            let bearer = format!("Bearer {token}");
            let authorization = Some(&*bearer);
            let found = keys().find_foreign(Credentials { authorization, api_key: None });
            found.is_some_and(|found| found.expose() == token)
        };
        assert!(find(MAX_KEY_LEN + 1) && find(MAX_FOREIGN_KEY_LEN));
        assert!(!find(MAX_FOREIGN_KEY_LEN + 1));
    }

    #[test]
    fn extend_skips_duplicates_and_debug_hides_keys() {
        let mut keys = keys();
        keys.extend(ClientKeys::parse("third-key-3,first-key-1").expect("keys")).expect("no name");
        assert_eq!(keys.secrets().count(), 3);
        assert_eq!(format!("{keys:?}"), "3 keys");
    }
}
