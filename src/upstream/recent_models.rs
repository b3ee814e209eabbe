//! Models of which something was learnt lately, by operation: that an upstream takes no `suffix` for
//! them, or that their whole responses take long.
//!
//! Bounded, and kept for an hour, so that an upstream that was updated is asked as before. Never reads
//! the clock. Invariant: while nothing is known, a look-up neither allocates nor waits for a writer.

use std::collections::HashMap;
use std::sync::RwLock;
use std::time::{Duration, Instant};

use crate::observe::lock;

/// The most models; beyond that the oldest is dropped.
const MAX_MODELS: usize = 1024;

/// A path below the base URL, such as `chat/completions`, and a model.
type Key = (&'static str, String);

/// The models, and since when they are known.
#[derive(Debug)]
pub(crate) struct RecentModels {
    known: RwLock<HashMap<Key, Instant>>,
    ttl: Duration,
}

impl RecentModels {
    /// No models; each is remembered for `ttl`.
    pub(crate) fn new(ttl: Duration) -> Self {
        Self { known: RwLock::default(), ttl }
    }

    /// True if a model was inserted within the last `ttl`.
    pub(crate) fn contains(&self, path: &'static str, model: &str, now: Instant) -> bool {
        let known = lock::read(&self.known);
        let found = if known.is_empty() { None } else { known.get(&(path, model.to_owned())) };
        found.is_some_and(|since| now.duration_since(*since) < self.ttl)
    }

    /// Forgets a model.
    pub(crate) fn remove(&self, path: &'static str, model: &str) {
        lock::write(&self.known).remove(&(path, model.to_owned()));
    }

    /// Remembers a model.
    pub(crate) fn insert(&self, path: &'static str, model: &str, now: Instant) {
        let (mut known, key) = (lock::write(&self.known), (path, model.to_owned()));
        known.retain(|_, since| now.duration_since(*since) < self.ttl);
        if known.len() >= MAX_MODELS && !known.contains_key(&key) {
            let oldest = known.iter().min_by_key(|(_, since)| **since);
            if let Some(oldest) = oldest.map(|(key, _)| key.clone()) {
                known.remove(&oldest);
            }
        }
        known.insert(key, now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATH: &str = "completions";
    const TTL: Duration = Duration::from_secs(3600);

    #[test]
    fn a_model_is_remembered_for_an_hour() {
        let (models, now) = (RecentModels::new(TTL), Instant::now());
        models.insert(PATH, "a", now);
        assert!(models.contains(PATH, "a", now + TTL / 2));
        assert!(!models.contains(PATH, "b", now) && !models.contains("chat", "a", now));
        assert!(!models.contains(PATH, "a", now + TTL));
        models.remove(PATH, "a");
        assert!(!models.contains(PATH, "a", now));
    }

    #[test]
    fn the_memory_is_bounded() {
        let (models, now) = (RecentModels::new(TTL), Instant::now());
        for number in 0..=MAX_MODELS as u64 {
            models.insert(PATH, &number.to_string(), now + Duration::from_millis(number));
        }
        let later = now + Duration::from_secs(9);
        assert!(!models.contains(PATH, "0", later) && models.contains(PATH, "1", later));
        assert_eq!(lock::read(&models.known).len(), MAX_MODELS);
    }
}
