//! The client keys that have names: what they may use, and what they have used.
//!
//! A [`ClientKey`] is one name with the limits of the configuration in force; what it has used
//! ([`KeyUsage`]) belongs to the name and survives a reload. Keys without names are not here, and cost nothing.
//! Invariant: nothing here knows a key.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, RwLock};
use std::time::Instant;

use crossbeam_channel::{Receiver, Sender, bounded};

use super::client_keys::{ClientKeys, MAX_KEYS, NamedKey};
use crate::backends::{glob, names};
use crate::error::{Error, Result};
use crate::net::key_limits::counts::Counts;
use crate::net::key_limits::{KeyUsage, KeyUse};
use crate::observe::lock;

/// The words of refusals of keys with names, in the order of [`Counts::refused`].
pub const REFUSAL_WORDS: [&str; 4] =
    ["requests_per_minute", "tokens_per_day", "max_parallel", "model_not_allowed"];

/// A key with a name.
pub struct ClientKey {
    named: NamedKey,
    usage: Arc<KeyUsage>,
}

impl ClientKey {
    /// Its name.
    pub fn name(&self) -> &str {
        &self.named.name
    }

    /// A place for a request that asks a model; `body_bytes` is the length of its body, if known.
    ///
    /// # Errors
    /// [`Error::KeyLimitReached`].
    pub fn begin(&self, received: Instant, body_bytes: usize) -> Result<Arc<KeyUse>> {
        let begun = self.usage.begin(&self.named.rates, received, body_bytes);
        begun.map_err(Error::KeyLimitReached)
    }

    /// Whether it may use some models only.
    pub fn limits_models(&self) -> bool {
        !self.named.models.is_empty()
    }

    /// Whether it may use a model by this name; `is_upstream` tells the names of upstreams, which may stand
    /// before a model's.
    pub fn allows(&self, name: &str, is_upstream: &dyn Fn(&str) -> bool) -> bool {
        if !self.limits_models() {
            return true;
        }
        let name = name.trim();
        let bare = name.split_once('/').filter(|(prefix, _)| is_upstream(prefix));
        self.allows_spelling(name) || bare.is_some_and(|(_, id)| self.allows_spelling(id))
    }

    /// Whether a pattern matches the name with `:latest` or without it.
    fn allows_spelling(&self, name: &str) -> bool {
        let short = names::strip_default_prefixes(name);
        let other = match names::strip_latest_tag(short) {
            Some(bare) => bare.to_owned(),
            None => names::display_name(short),
        };
        let matches = |pattern: &String| {
            [name, short, &other].iter().any(|name| glob::matches(pattern, name))
        };
        self.named.models.iter().any(matches)
    }

    /// The upstreams that its patterns name.
    pub fn pattern_prefixes(&self) -> impl Iterator<Item = &str> {
        let prefix = |pattern: &'_ String| pattern.split_once('/').map(|(prefix, _)| prefix.len());
        self.named.models.iter().filter_map(move |it| it.get(..prefix(it)?))
    }

    /// Counts that it asked for a model that it may not use.
    pub fn refuse_model(&self) {
        self.usage.with(Counts::refuse_model);
    }

    /// What it may use and has used.
    fn snapshot(&self) -> KeySnapshot {
        let counts = self.usage.with(|counts| {
            counts.roll(crate::net::key_limits::today());
            counts.clone()
        });
        KeySnapshot { named: self.named.clone(), counts }
    }
}

impl PartialEq for ClientKey {
    fn eq(&self, other: &Self) -> bool {
        self.named == other.named
    }
}

impl fmt::Debug for ClientKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What a key may use, and what it has used.
pub struct KeySnapshot {
    /// Its name and its limits.
    pub named: NamedKey,
    /// What it has used.
    pub counts: Counts,
}

impl KeySnapshot {
    /// Tokens of the day, of a key whose tokens have a limit.
    pub fn tokens_today(&self) -> Option<u64> {
        self.named.rates.tokens_per_day.map(|_| self.counts.tokens_today())
    }
}

/// All keys with names, and what each name has used.
pub struct KeyBook {
    /// In the order of the configuration.
    current: RwLock<Arc<[Arc<ClientKey>]>>,
    /// What each name has used, in the order of names; also those that a reload removed.
    usages: Mutex<Vec<(String, Arc<KeyUsage>)>>,
    /// Told when tokens of the day were added.
    changes: (Sender<()>, Receiver<()>),
    is_watched: AtomicBool,
    /// Held while counts are written, so that none is written twice.
    pub save_turn: Mutex<()>,
}

impl Default for KeyBook {
    fn default() -> Self {
        Self {
            current: RwLock::new(Arc::new([])),
            usages: Mutex::default(),
            changes: bounded(1),
            is_watched: AtomicBool::new(false),
            save_turn: Mutex::default(),
        }
    }
}

impl KeyBook {
    /// Takes the names and limits of a configuration; returns them in the order of [`ClientKeys::named`].
    pub fn apply(&self, keys: &ClientKeys) -> Arc<[Arc<ClientKey>]> {
        let mut usages = lock::lock(&self.usages);
        if usages.len() + keys.named().len() > 2 * MAX_KEYS {
            // Those of names that are gone, and that no request uses.
            usages.retain(|(_, usage)| Arc::strong_count(usage) > 1);
        }
        let mut usage_of = |name: &str| {
            let place = usages.binary_search_by(|(known, _)| known.as_str().cmp(name));
            let place = place.unwrap_or_else(|place| {
                usages.insert(place, (name.to_owned(), KeyUsage::new(self.changes.0.clone())));
                place
            });
            usages[place].1.clone()
        };
        let current: Arc<[_]> = keys
            .named()
            .iter()
            .map(|named| Arc::new(ClientKey { usage: usage_of(&named.name), named: named.clone() }))
            .collect();
        *lock::write(&self.current) = current.clone();
        current
    }

    /// The keys with names, in the order of the configuration.
    pub fn snapshots(&self) -> Vec<KeySnapshot> {
        let current = lock::read(&self.current).clone();
        current.iter().map(|key| key.snapshot()).collect()
    }

    /// True once for the first caller, if some key has a limit of tokens, whose counts are to be saved.
    pub fn begin_watch(&self) -> Option<Receiver<()>> {
        let current = lock::read(&self.current);
        let is_needed = current.iter().any(|key| key.named.rates.tokens_per_day.is_some());
        let is_first = is_needed && !self.is_watched.swap(true, Ordering::Relaxed);
        is_first.then(|| self.changes.1.clone())
    }

    /// The names whose tokens of the day are to be saved, each with what was used since it was saved last.
    pub fn unsaved(&self, day: u64) -> Vec<(String, u64)> {
        let current = lock::read(&self.current).clone();
        let saved = current.iter().filter(|key| key.named.rates.tokens_per_day.is_some());
        let unsaved = |key: &Arc<ClientKey>| key.usage.with(|counts| counts.unsaved(day));
        let all = saved.map(|key| (key.name().to_owned(), unsaved(key)));
        all.filter(|(_, tokens)| *tokens > 0).collect()
    }

    /// Takes over the tokens of a day that the state file has; `written` are those that were added to it.
    pub fn set_saved(&self, day: u64, totals: &[(String, u64)], written: &[(String, u64)]) {
        let usages = lock::lock(&self.usages);
        for (name, total) in totals {
            let added = written.iter().find(|(known, _)| known == name).map_or(0, |it| it.1);
            if let Ok(place) = usages.binary_search_by(|(known, _)| known.cmp(name)) {
                usages[place].1.with(|counts| counts.set_saved(day, *total, added));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(models: &[&str]) -> ClientKey {
        let models = models.iter().map(|it| (*it).to_owned()).collect();
        let named = NamedKey { name: "me".into(), models, ..NamedKey::default() };
        ClientKey { named, usage: KeyUsage::new(bounded(1).0) }
    }

    #[test]
    fn a_pattern_means_a_name_in_each_of_its_spellings() {
        for (pattern, name, expected) in [
            ("qwen*", "qwen3-32b", true),
            ("qwen*", " QWEN3:Latest ", true),
            ("qwen3", "qwen3:latest", true),
            ("qwen3:latest", "qwen3", true),
            ("qwen3:*", "qwen3", true),
            ("qwen3", "lab/qwen3", true),
            ("qwen3", "lab/qwen3:latest", true),
            ("lab/*", "lab/qwen3", true),
            ("qwen3", "library/qwen3", true),
            ("qwen3", "registry.ollama.ai/library/qwen3:latest", true),
            ("qwen3", "other/qwen3", false),
            ("lab/*", "qwen3", false),
            ("qwen3", "qwen3:8b", false),
            ("qwen3", "qwen33", false),
            ("qwen*", "gpt-4o", false),
            ("qwen*", "lab/gpt-4o", false),
            ("qwen*", "", false),
            ("qwen*", "my/qwen3", false),
        ] {
            let found = key(&[pattern, "never"]).allows(name, &|name| name == "lab");
            assert_eq!(found, expected, "{pattern} {name}");
        }
        assert!(key(&[]).allows("whatever", &|_| false) && !key(&[]).limits_models());
    }

    #[test]
    fn what_a_name_has_used_survives_a_change_of_its_limits() {
        let book = KeyBook::default();
        let read = |text: &str| ClientKeys::parse_file(text.as_bytes()).expect("keys");
        let before = book.apply(&read("b:second-key-2\na:first-key-1 requests_per_minute=2\n"));
        let first = before[1].begin(Instant::now(), 0).expect("a place");
        first.count((3, 4));
        let after = book.apply(&read("a:other-key-1 max_parallel=1 tokens_per_day=9\n"));
        let refused = after[0].begin(Instant::now(), 0).expect_err("one is running");
        assert_eq!(refused.kind(), "max_parallel");
        drop(first);
        after[0].begin(Instant::now(), 0).expect("a place").count((1, 1));
        let snapshots = book.snapshots();
        let [found] = &snapshots[..] else { panic!("one key") };
        assert_eq!((found.counts.requests, found.counts.tokens), (2, (4, 5)));
        assert_eq!(found.tokens_today(), Some(9));
        assert_eq!(found.counts.refused, [0, 0, 1, 0]);
    }

    #[test]
    fn tokens_are_watched_where_they_have_a_limit_and_saved_once() {
        let book = KeyBook::default();
        let read = |text: &str| ClientKeys::parse_file(text.as_bytes()).expect("keys");
        book.apply(&read("a:first-key-1\n"));
        assert!(book.begin_watch().is_none());
        let keys = book.apply(&read("a:first-key-1 tokens_per_day=50\nb:second-key-2\n"));
        assert!(book.begin_watch().is_some() && book.begin_watch().is_none());
        keys.iter().for_each(|key| key.begin(Instant::now(), 0).expect("a place").count((5, 5)));
        let today = crate::net::key_limits::today();
        let unsaved = book.unsaved(today);
        assert_eq!(unsaved, [("a".to_owned(), 10)]);
        book.set_saved(today, &[("a".into(), 30), ("gone".into(), 1)], &unsaved);
        assert!(book.unsaved(today).is_empty());
        assert_eq!(book.snapshots()[0].tokens_today(), Some(30));
    }
}
