//! Keeps secrets out of everything that is printed, logged or sent to clients.
//!
//! [`Secret`] holds a key: it prints as asterisks, is compared in constant time, and gives its text
//! only to [`Secret::expose`], for request headers. [`Redactor`] masks keys in text from elsewhere,
//! above all in error messages of upstreams: OpenAI repeats part of a wrong key in its 401.
//! Invariant: redacting a redacted text changes nothing.
//!
//! Keys are masked in log lines, in errors of the upstream, in the output of `--check` and in
//! logged bodies; not inside responses that are passed through. Redaction protects no process: the
//! same user can read keys in the environment through `/proc`, everyone on the machine those in
//! flags, and all keys are in the memory of the process.

use std::borrow::Cow;
use std::cmp::Reverse;
use std::fmt;

use ring::digest::{SHA256, digest};

/// Replaces a secret.
const MASK: &str = "***";

/// Shortest run of key characters after `sk-` or `Bearer ` that counts as a key.
const MIN_KEY_LENGTH: usize = 6;

/// A run of this length counts as a key even without a digit: no prose has such long words.
const MIN_DIGITLESS_KEY_LENGTH: usize = 20;

/// A text that never prints itself.
#[derive(Clone)]
pub struct Secret(String);

impl Secret {
    /// Wraps a secret.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The secret itself. Call it only to write a request header.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// Whether the secret equals `text`. The time depends only on the lengths, because digests are
    /// compared, to their last byte.
    pub fn matches(&self, text: &str) -> bool {
        let (own, other) = (digest(&SHA256, self.0.as_bytes()), digest(&SHA256, text.as_bytes()));
        let pairs = own.as_ref().iter().zip(other.as_ref());
        pairs.fold(0, |differs, (one, other)| differs | (one ^ other)) == 0
    }
}

impl PartialEq for Secret {
    fn eq(&self, other: &Self) -> bool {
        self.matches(&other.0)
    }
}

impl Eq for Secret {}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(MASK)
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(MASK)
    }
}

/// Masks known keys, and text that looks like a key.
#[derive(Clone, Debug, Default)]
pub struct Redactor {
    /// Longest first, because one key may be part of another.
    keys: Vec<Secret>,
}

impl Redactor {
    /// A redactor of these keys.
    pub fn new(keys: impl IntoIterator<Item = Secret>) -> Self {
        let mut keys: Vec<_> = keys.into_iter().filter(|key| !key.0.is_empty()).collect();
        keys.sort_by_key(|key| Reverse(key.0.len()));
        Self { keys }
    }

    /// Masks known keys, `sk-...` words and `Bearer ...` values.
    pub fn redact<'a>(&self, text: &'a str) -> Cow<'a, str> {
        let mut text = Cow::Borrowed(text);
        for key in &self.keys {
            if text.contains(&key.0) {
                text = Cow::Owned(text.replace(&key.0, MASK));
            }
        }
        for prefix in ["sk-", "Bearer ", "bearer "] {
            if let Some(masked) = mask_after(&text, prefix) {
                text = Cow::Owned(masked);
            }
        }
        text
    }

    /// Redacts a text that was truncated, and removes the first part of a known key at its end.
    pub fn redact_truncated(&self, text: &str) -> String {
        let partial = |key: &Secret| {
            let key = key.0.as_bytes();
            (1..key.len()).rev().find(|length| text.as_bytes().ends_with(&key[..*length]))
        };
        let part = self.keys.iter().filter_map(partial).max().unwrap_or(0);
        // A key begins with a character, so this is a character boundary.
        self.redact(&text[..text.len() - part]).into_owned()
    }
}

/// Masks every key that follows `prefix`; `None` if there is none.
fn mask_after(text: &str, prefix: &str) -> Option<String> {
    let mut out = String::new();
    let mut rest = text;
    let mut changed = false;
    while let Some(at) = rest.find(prefix) {
        let (head, tail) = rest.split_at(at + prefix.len());
        let run = tail.find(|c: char| !is_key_character(c)).unwrap_or(tail.len());
        let inside_word = head[..at].ends_with(|c: char| c.is_ascii_alphanumeric());
        out.push_str(head);
        if looks_like_key(&tail[..run]) && !inside_word {
            out.push_str(MASK);
            changed = true;
        } else {
            out.push_str(&tail[..run]);
        }
        rest = &tail[run..];
    }
    out.push_str(rest);
    changed.then_some(out)
}

/// Whether a run is long enough and no plain word: keys contain digits, or asterisks in place of them.
fn looks_like_key(run: &str) -> bool {
    run.len() >= MIN_KEY_LENGTH
        && (run.len() >= MIN_DIGITLESS_KEY_LENGTH
            || run.contains(|c: char| c.is_ascii_digit() || c == '*'))
}

/// Whether keys contain this character; `*` because OpenAI shows `sk-ab****yz`.
fn is_key_character(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '*' | '.')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn redactor() -> Redactor {
        Redactor::new(["topsecret-1", "top", "", "topsecret-1-and-more"].map(Secret::new))
    }

    fn check(text: &str, expected: &str) {
        let redactor = Redactor::new(Some(Secret::new("topsecret-1")));
        assert_eq!(redactor.redact(text), expected);
        assert_eq!(redactor.redact(&redactor.redact(text)), expected, "cleaning twice");
    }

    #[test]
    fn keys_are_masked_and_ordinary_text_is_kept() {
        check("the key topsecret-1 is wrong", "the key *** is wrong");
        check("Incorrect API key provided: sk-ab****wxyz.", "Incorrect API key provided: sk-***");
        check("Authorization: Bearer abc.def-gh1", "Authorization: Bearer ***");
        check(
            "bearer tokens and disk-based risk-free things",
            "bearer tokens and disk-based risk-free things",
        );
        check("a model called task-1", "a model called task-1");
    }

    #[test]
    fn a_key_that_is_part_of_another_leaves_nothing_of_it() {
        let cleaned = redactor().redact("topsecret-1-and-more, topsecret-1, top").into_owned();
        assert_eq!(cleaned, "***, ***, ***");
    }

    #[test]
    fn the_first_part_of_a_key_at_a_cut_is_left_out() {
        for (text, expected) in [
            ("it is topsecre", "it is "),
            ("it is topsecret-1-and-mor", "it is "),
            ("topsecret-1 and to", "*** and "),
            ("it is", "it is"),
            ("to", ""),
            ("é", "é"),
        ] {
            assert_eq!(redactor().redact_truncated(text), expected, "{text}");
        }
        assert_eq!(Redactor::new([Secret::new("é1")]).redact_truncated("aé"), "a");
    }

    #[test]
    fn a_secret_never_prints_itself() {
        let secret = Secret::new("topsecret-1");
        assert_eq!(format!("{secret} {secret:?}"), "*** ***");
        assert_eq!(format!("{:?}", Redactor::new([secret])), "Redactor { keys: [***] }");
    }

    #[test]
    fn a_secret_is_itself_and_nothing_else() {
        let secret = Secret::new("topsecret-1");
        assert!(secret.matches("topsecret-1") && secret == Secret::new("topsecret-1"));
        for other in ["", "topsecret-", "topsecret-11", "topsecret-2", "Topsecret-1"] {
            assert!(!secret.matches(other) && secret != Secret::new(other), "{other}");
        }
    }
}
