//! Keeps secrets out of everything that is printed, logged or sent to clients.
//!
//! [`Secret`] holds a key: it prints as asterisks, is compared in constant time, and gives its text
//! only to [`Secret::expose`], for request headers. [`Redactor`] masks keys in text from elsewhere,
//! above all in error messages of upstreams: OpenAI repeats part of a wrong key in its 401.
//! Invariant: redacting a redacted text changes nothing.
//!
//! The keys of the configuration are known to all redactors. A key that a client sends for its own request is
//! known only to the thread that serves it ([`with_request_key`]), so that clients can neither fill the
//! memory with keys nor mask words in the texts of others.
//!
//! Keys are masked in log lines, in errors of the upstream, in the output of `--check` and in
//! logged bodies; not inside responses that are passed through. Redaction protects no process: the
//! same user can read keys in the environment through `/proc`, everyone on the machine those in
//! flags, and all keys are in the memory of the process.

use std::borrow::Cow;
use std::cell::RefCell;
use std::sync::{Arc, LazyLock, RwLock};

use memchr::memmem;

use crate::observe::key_list::{KeyList, MIN_UNIQUE_KEY_LENGTH};
use crate::observe::lock;
use crate::observe::secret::MASK;
pub use crate::observe::secret::Secret;

/// Shortest run of key characters after `sk-` or `Bearer ` that counts as a key.
const MIN_KEY_LENGTH: usize = 6;

/// Words before a quoted key, in lower case.
const KEY_WORDS: [&str; 6] = ["key", "token", "bearer", "authorization", "credential", "secret"];

/// The most words between such a word and the key, as in `key was provided: "x"`.
const MAX_WORDS_BETWEEN: usize = 2;

/// The most characters before a short key that are searched for such a word.
const MAX_INTRODUCTION_CHARS: usize = 256;

/// A run of this length counts as a key even without a digit: no prose has such long words.
const MIN_DIGITLESS_KEY_LENGTH: usize = 20;

/// What stands before a key. Prepared once: a search by the standard library begins with some hundred
/// instructions, and each line of the log is searched.
static PREFIXES: LazyLock<[memmem::Finder<'static>; 3]> =
    LazyLock::new(|| ["sk-", "Bearer ", "bearer "].map(memmem::Finder::new));

thread_local! {
    /// The key of the request that this thread serves.
    static REQUEST_KEY: RefCell<Option<Secret>> = const { RefCell::new(None) };
}

/// Runs `work`, in which this thread's redactors mask a key of the request, too.
pub fn with_request_key<T>(key: Option<&Secret>, work: impl FnOnce() -> T) -> T {
    struct Restore(Option<Secret>);
    impl Drop for Restore {
        fn drop(&mut self) {
            REQUEST_KEY.set(self.0.take());
        }
    }
    let Some(key) = key else { return work() };
    let _restore = Restore(REQUEST_KEY.replace(Some(key.clone())));
    work()
}

/// The key of this thread's request, unless the thread is ending.
fn request_key() -> Option<Secret> {
    REQUEST_KEY.try_with(|key| key.borrow().clone()).ok().flatten()
}

/// Masks known keys, and text that looks like a key. Clones share their keys.
#[derive(Clone, Debug, Default)]
pub struct Redactor {
    keys: Arc<RwLock<KeyList>>,
}

impl Redactor {
    /// A redactor of these keys.
    pub fn new(keys: impl IntoIterator<Item = Secret>) -> Self {
        let redactor = Self::default();
        redactor.add(keys);
        redactor
    }

    /// Masks these keys from now on, too. A key that was replaced stays masked: a server may still name it.
    pub fn add(&self, keys: impl IntoIterator<Item = Secret>) {
        let mut known = lock::write(&self.keys);
        keys.into_iter().for_each(|key| known.add(key));
    }

    /// Masks known keys, `sk-...` words and `Bearer ...` values.
    pub fn redact<'a>(&self, text: &'a str) -> Cow<'a, str> {
        let mut text = Cow::Borrowed(text);
        let (own, keys) = (request_key(), lock::read(&self.keys));
        let (long, short): (Vec<_>, Vec<_>) =
            own.iter().partition(|key| key.expose().len() >= MIN_UNIQUE_KEY_LENGTH);
        if let Some(key) = long.first().filter(|key| text.contains(key.expose())) {
            text = Cow::Owned(text.replace(key.expose(), MASK));
        }
        if let Some(masked) = keys.mask(&text, MASK) {
            text = Cow::Owned(masked);
        }
        for key in short.into_iter().chain(&keys.short) {
            if let Some(masked) = mask_quoted_key(&text, key.expose()) {
                text = Cow::Owned(masked);
            }
        }
        for prefix in PREFIXES.iter() {
            if let Some(masked) = mask_after(&text, prefix) {
                text = Cow::Owned(masked);
            }
        }
        text
    }

    /// Whether a key is known that is masked only behind a word that introduces it, which may stand in
    /// another text.
    pub fn has_short_keys(&self) -> bool {
        let is_short = |key: Secret| key.expose().len() < MIN_UNIQUE_KEY_LENGTH;
        !lock::read(&self.keys).short.is_empty() || request_key().is_some_and(is_short)
    }

    /// Redacts the value of an option, which is no prose: a short key is masked wherever it stands.
    pub fn redact_value(&self, value: &str) -> String {
        let replace = |text: String, key: &Secret| text.replace(key.expose(), MASK);
        let masked = lock::read(&self.keys).iter().fold(value.to_owned(), replace);
        self.redact(&masked).into_owned()
    }

    /// Redacts a text that was truncated, and removes the first part of a known key at its end.
    pub fn redact_truncated(&self, text: &str) -> String {
        let partial = |key: &Secret| {
            let key = key.expose().as_bytes();
            (1..key.len()).rev().find(|length| text.as_bytes().ends_with(&key[..*length]))
        };
        let own = request_key().filter(|key| key.expose().len() >= MIN_UNIQUE_KEY_LENGTH);
        let own = own.as_ref().and_then(partial).unwrap_or(0);
        let part = own.max(lock::read(&self.keys).partial_at_end(text));
        // A key begins with a character, so this is a character boundary.
        self.redact(&text[..text.len() - part]).into_owned()
    }
}

/// Masks a short key where it is a whole word behind one of [`KEY_WORDS`], in quotes or behind a colon,
/// an equals sign or a blank; `None` if there is none.
fn mask_quoted_key(text: &str, key: &str) -> Option<String> {
    let is_quoted = |at: &usize| {
        let (before, after) = (&text[..*at], &text[at + key.len()..]);
        !before.ends_with(is_word_part)
            && !after.starts_with(is_word_part)
            && introduces_key(before)
    };
    let (mut out, mut copied) = (String::new(), 0);
    for at in text.match_indices(key).map(|(at, _)| at).filter(is_quoted) {
        out.push_str(&text[copied..at]);
        out.push_str(MASK);
        copied = at + key.len();
    }
    (copied > 0).then(|| out + &text[copied..])
}

/// True if what stands before a short key says that a key follows. Only the end of it is looked at, as
/// the key may stand in thousands of places of a long text.
fn introduces_key(before: &str) -> bool {
    let start = before.char_indices().rev().nth(MAX_INTRODUCTION_CHARS).map_or(0, |(at, _)| at);
    let clause = before[start..].rsplit(['.', ',', ';', '\n']).next().unwrap_or_default();
    let clause = clause.to_lowercase();
    let is_marked = clause.ends_with([':', '=', '"', '\'', '`', '(', '<'])
        || clause.ends_with(' ') && clause.trim_end().ends_with([':', '=', 'r']);
    let is_near = |word: &&str| {
        let Some(at) = clause.rfind(word) else { return false };
        let between = &clause[at + word.len()..];
        let words = between.split(|c: char| !c.is_alphabetic()).filter(|it| !it.is_empty());
        !between.starts_with(is_word_part) && words.count() <= MAX_WORDS_BETWEEN
    };
    is_marked && KEY_WORDS.iter().any(is_near)
}

fn is_word_part(c: char) -> bool {
    c.is_alphanumeric() || matches!(c, '-' | '_' | '*')
}

/// Masks every key that follows a prefix; `None` if there is none.
fn mask_after(text: &str, prefix: &memmem::Finder<'static>) -> Option<String> {
    let mut out = String::new();
    let mut rest = text;
    let mut changed = false;
    while let Some(at) = prefix.find(rest.as_bytes()) {
        let (head, tail) = rest.split_at(at + prefix.needle().len());
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
    fn a_short_key_is_masked_only_where_it_is_quoted_as_a_key() {
        let check = |key: &str, text: &str, expected: &str| {
            assert_eq!(Redactor::new([Secret::new(key)]).redact(text), expected, "{key}");
        };
        for text in [
            "maximum context length exceeded: x tokens, next index",
            "the token limit is 5 tokens; token by token",
            "a token was expected before \"x\", in the text",
            "no such model: x",
        ] {
            check("x", text, text);
            check("token", text, text);
        }
        check(
            "x",
            "Incorrect API key provided: x. See x.com",
            "Incorrect API key provided: ***. See x.com",
        );
        check(
            "token",
            "invalid key \"token\" for this token",
            "invalid key \"***\" for this token",
        );
        check("x", "{\"api_key\":\"x\",\"model\":\"x\"}", "{\"api_key\":\"***\",\"model\":\"x\"}");
        check("abc", "Authorization: Bearer abc", "Authorization: Bearer ***");
        check("é", "key: é", "key: ***");
        check("longenough", "xlongenoughx", "x***x");
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
        assert_eq!(cleaned, "***, ***, top", "a short word is kept");
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
        assert_eq!(Redactor::new([Secret::new("é1234567")]).redact_truncated("aé"), "a");
    }

    #[test]
    fn the_key_of_a_request_is_masked_while_it_is_served_and_on_its_thread_alone() {
        let redactor = Redactor::new(Some(Secret::new("topsecret-1")));
        let text = "neither topsecret-1 nor client-key-9";
        let key = Secret::new("client-key-9");
        let masked = with_request_key(Some(&key), || {
            let elsewhere = std::thread::scope(|scope| {
                scope.spawn(|| redactor.redact(text).into_owned()).join().expect("no panic")
            });
            assert_eq!(elsewhere, "neither *** nor client-key-9");
            assert_eq!(redactor.redact_truncated("it is client-k"), "it is ");
            with_request_key(None, || redactor.redact(text).into_owned())
        });
        assert_eq!(masked, "neither *** nor ***");
        assert_eq!(redactor.redact(text), "neither *** nor client-key-9");
        let panicked =
            std::panic::catch_unwind(|| with_request_key(Some(&key), || panic!("on purpose")));
        assert!(panicked.is_err());
        assert_eq!(redactor.redact(text), "neither *** nor client-key-9");
    }

    #[test]
    fn a_secret_never_prints_itself() {
        let secret = Secret::new("topsecret-1");
        assert_eq!(format!("{secret} {secret:?}"), "*** ***");
        let redactor = Redactor::new([secret]);
        let shown = format!("{redactor:?}");
        assert!(shown.contains("***") && !shown.contains("topsecret"), "{shown}");
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
