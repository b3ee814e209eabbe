//! Models of which something was learnt lately, by operation: that an upstream takes no `suffix` for
//! them, that their whole responses take long, or that their responses begin inside reasoning.
//!
//! Bounded in number and by the memory budget, and kept for an hour, so that an upstream that was updated is
//! asked as before. Never reads the clock. Invariant: while nothing is known, a look-up neither allocates nor
//! waits for a writer.

use std::sync::RwLock;
use std::time::{Duration, Instant};

use super::model_table::ModelTable;
use crate::observe::lock;

/// The models, and since when they are known.
#[derive(Debug)]
pub(crate) struct RecentModels {
    table: RwLock<ModelTable<Instant>>,
    ttl: Duration,
}

impl RecentModels {
    /// No models; each is remembered for `ttl`.
    pub(crate) fn new(ttl: Duration) -> Self {
        Self { table: RwLock::default(), ttl }
    }

    /// True if a model was inserted within the last `ttl`.
    pub(crate) fn contains(&self, path: &'static str, model: &str, now: Instant) -> bool {
        let table = lock::read(&self.table);
        table.get(path, model).is_some_and(|since| now.duration_since(*since) < self.ttl)
    }

    /// The models that were inserted within the last `ttl`, and when.
    pub(crate) fn list(&self, now: Instant) -> Vec<(String, Instant)> {
        let table = lock::read(&self.table);
        let entries = table.entries.iter().map(|((_, model), since)| (model.clone(), *since));
        entries.filter(|(_, since)| now.duration_since(*since) < self.ttl).collect()
    }

    /// Forgets a model.
    pub(crate) fn remove(&self, path: &'static str, model: &str) {
        let mut table = lock::write(&self.table);
        table.entries.remove(&(path, model.to_owned()));
        table.shrink();
    }

    /// Remembers a model.
    pub(crate) fn insert(&self, path: &'static str, model: &str, now: Instant) {
        let mut table = lock::write(&self.table);
        table.entries.retain(|_, since| now.duration_since(*since) < self.ttl);
        table.entries.insert((path, model.to_owned()), now);
        table.shrink();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::memory_budget::MemoryBudget;
    use crate::upstream::model_table::MAX_MODELS;

    const PATH: &str = "completions";
    const TTL: Duration = Duration::from_secs(3600);
    const PLACE_BYTES: usize = ModelTable::<Instant>::PLACE_BYTES;

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
        assert_eq!(lock::read(&models.table).entries.len(), MAX_MODELS);
    }

    #[test]
    fn a_full_memory_budget_drops_the_oldest() {
        let (models, now) = (RecentModels::new(TTL), Instant::now());
        let budget = MemoryBudget::new(3 * (PLACE_BYTES + 1));
        budget.scope(|| {
            for (seconds, model) in ["a", "b", "c", "d"].into_iter().enumerate() {
                models.insert(PATH, model, now + Duration::from_secs(seconds as u64));
            }
            assert!(!models.contains(PATH, "a", now) && models.contains(PATH, "b", now));
            assert_eq!(budget.used(), 3 * (PLACE_BYTES + 1));
            let mut request = budget.new_reservation();
            models.remove(PATH, "b");
            request.grow(PLACE_BYTES + 1).expect("what was forgotten is free");
            models.insert(PATH, "e", now + Duration::from_secs(9));
            assert!(!models.contains(PATH, "c", now) && models.contains(PATH, "e", now));
        });
    }
}
