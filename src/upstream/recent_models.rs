//! Models of which something was learnt lately, by operation: that an upstream takes no `suffix` for
//! them, that their whole responses take long, or that their responses begin inside reasoning.
//!
//! Bounded in number and by the memory budget, and kept for an hour, so that an upstream that was updated is
//! asked as before. Never reads the clock. Invariant: while nothing is known, a look-up neither allocates nor
//! waits for a writer.

use std::collections::HashMap;
use std::sync::RwLock;
use std::time::{Duration, Instant};

use crate::net::memory_budget::KeptBytes;
use crate::observe::lock;

/// The most models; beyond that the oldest is dropped.
const MAX_MODELS: usize = 1024;

/// Memory of a model beside its name: its place in the table, which is at least half full.
const MODEL_BYTES: usize = 2 * size_of::<(Key, Instant)>();

/// A path below the base URL, such as `chat/completions`, and a model.
type Key = (&'static str, String);

/// The models, and since when they are known.
#[derive(Debug)]
pub(crate) struct RecentModels {
    table: RwLock<Table>,
    ttl: Duration,
}

#[derive(Debug, Default)]
struct Table {
    since: HashMap<Key, Instant>,
    counted: KeptBytes,
}

impl Table {
    /// Drops the oldest models until the number and the memory budget allow the others.
    fn shrink(&mut self) {
        while self.since.len() > MAX_MODELS || !self.counted.try_resize(self.bytes()) {
            let oldest = self.since.iter().min_by_key(|(_, since)| **since);
            let Some(oldest) = oldest.map(|(key, _)| key.clone()) else { break };
            self.since.remove(&oldest);
        }
    }

    fn bytes(&self) -> usize {
        self.since.keys().map(|(_, model)| model.len() + MODEL_BYTES).sum()
    }
}

impl RecentModels {
    /// No models; each is remembered for `ttl`.
    pub(crate) fn new(ttl: Duration) -> Self {
        Self { table: RwLock::default(), ttl }
    }

    /// True if a model was inserted within the last `ttl`.
    pub(crate) fn contains(&self, path: &'static str, model: &str, now: Instant) -> bool {
        let known = &lock::read(&self.table).since;
        let found = if known.is_empty() { None } else { known.get(&(path, model.to_owned())) };
        found.is_some_and(|since| now.duration_since(*since) < self.ttl)
    }

    /// Forgets a model.
    pub(crate) fn remove(&self, path: &'static str, model: &str) {
        let mut table = lock::write(&self.table);
        table.since.remove(&(path, model.to_owned()));
        table.shrink();
    }

    /// Remembers a model.
    pub(crate) fn insert(&self, path: &'static str, model: &str, now: Instant) {
        let mut table = lock::write(&self.table);
        table.since.retain(|_, since| now.duration_since(*since) < self.ttl);
        table.since.insert((path, model.to_owned()), now);
        table.shrink();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::memory_budget::MemoryBudget;

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
        assert_eq!(lock::read(&models.table).since.len(), MAX_MODELS);
    }

    #[test]
    fn a_full_memory_budget_drops_the_oldest() {
        let (models, now) = (RecentModels::new(TTL), Instant::now());
        let budget = MemoryBudget::new(3 * (MODEL_BYTES + 1));
        budget.scope(|| {
            for (seconds, model) in ["a", "b", "c", "d"].into_iter().enumerate() {
                models.insert(PATH, model, now + Duration::from_secs(seconds as u64));
            }
            assert!(!models.contains(PATH, "a", now) && models.contains(PATH, "b", now));
            assert_eq!(budget.used(), 3 * (MODEL_BYTES + 1));
            let mut request = budget.new_reservation();
            models.remove(PATH, "b");
            request.grow(MODEL_BYTES + 1).expect("what was forgotten is free");
            models.insert(PATH, "e", now + Duration::from_secs(9));
            assert!(!models.contains(PATH, "c", now) && models.contains(PATH, "e", now));
        });
    }
}
