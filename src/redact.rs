//! Keeps secrets out of everything that is printed, logged or answered.
//!
//! [`Secret`] holds the upstream key: it prints as asterisks and gives its text only to
//! [`Secret::expose`], which the module that writes the `Authorization` header calls. [`Redactor`]
//! cleans text that came from elsewhere, above all upstream error messages: OpenAI repeats part of
//! a wrong key in its 401 (openai-wire.md 5.1). It never needs to be asked twice: cleaning clean
//! text changes nothing.

use std::borrow::Cow;
use std::fmt;

/// What stands where a secret stood.
const MASK: &str = "***";

/// The shortest run of key characters behind `sk-` or `Bearer ` that counts as a key.
const SHORTEST_KEY: usize = 6;

/// A run of this length is a key even without a digit: no prose has such words.
const LONGEST_WORD: usize = 20;

/// A text that never prints itself.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Wraps a secret.
    #[must_use]
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The secret itself. Call it only to write a request header.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

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

/// Masks the configured key, and whatever looks like one.
#[derive(Clone, Debug, Default)]
pub struct Redactor {
    key: Option<Secret>,
}

impl Redactor {
    /// A redactor that knows the configured key, if there is one.
    #[must_use]
    pub fn new(key: Option<Secret>) -> Self {
        Self { key }
    }

    /// `text` without the key, without `sk-...` words and without `Bearer ...` values.
    #[must_use]
    pub fn clean<'a>(&self, text: &'a str) -> Cow<'a, str> {
        let mut text = Cow::Borrowed(text);
        if let Some(key) = &self.key {
            let key = key.expose();
            if !key.is_empty() && text.contains(key) {
                text = Cow::Owned(text.replace(key, MASK));
            }
        }
        for prefix in ["sk-", "Bearer ", "bearer "] {
            if let Some(masked) = mask_after(&text, prefix) {
                text = Cow::Owned(masked);
            }
        }
        text
    }
}

/// Masks every run of key characters that follows `prefix`; `None` when there is nothing to mask.
fn mask_after(text: &str, prefix: &str) -> Option<String> {
    let mut out = String::new();
    let mut rest = text;
    let mut changed = false;
    while let Some(at) = rest.find(prefix) {
        let (head, tail) = rest.split_at(at + prefix.len());
        let run = tail.find(|c: char| !is_key_character(c)).unwrap_or(tail.len());
        let inside_word = head[..at].ends_with(|c: char| c.is_ascii_alphanumeric());
        out.push_str(head);
        if looks_like_a_key(&tail[..run]) && !inside_word {
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

/// Long enough, and not a plain word: keys hold digits, or stars where a server hid some.
fn looks_like_a_key(run: &str) -> bool {
    run.len() >= SHORTEST_KEY
        && (run.len() >= LONGEST_WORD || run.contains(|c: char| c.is_ascii_digit() || c == '*'))
}

/// Characters that keys are made of; `*` because OpenAI shows `sk-ab****yz`.
fn is_key_character(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '*' | '.')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: &str) {
        let redactor = Redactor::new(Some(Secret::new("topsecret-1")));
        assert_eq!(redactor.clean(text), expected);
        assert_eq!(redactor.clean(&redactor.clean(text)), expected, "cleaning twice");
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
    fn a_secret_never_prints_itself() {
        let secret = Secret::new("topsecret-1");
        assert_eq!(format!("{secret} {secret:?}"), "*** ***");
    }
}
