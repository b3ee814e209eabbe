//! The models whose upstream takes no `suffix` on `completions`, so that a refusal is paid for once.
//!
//! Bounded, and kept for an hour, so that an upstream that was updated is asked as before. Never reads
//! the clock.

use std::collections::HashMap;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use crate::observe::lock::lock;

/// How long a model is remembered.
const TTL: Duration = Duration::from_secs(3600);

/// The most models; beyond that the oldest is dropped.
const MAX_MODELS: usize = 1024;

/// The models, and since when they are known.
#[derive(Debug, Default)]
pub(crate) struct SuffixRefusals(Mutex<HashMap<String, Instant>>);

impl SuffixRefusals {
    /// True if a model is known to have no `suffix`.
    pub(crate) fn contains(&self, model: &str, now: Instant) -> bool {
        let known = lock(&self.0).get(model).copied();
        known.is_some_and(|since| now.duration_since(since) < TTL)
    }

    /// Remembers a model that answered without `suffix` and not with it.
    pub(crate) fn insert(&self, model: &str, now: Instant) {
        let mut known = lock(&self.0);
        known.retain(|_, since| now.duration_since(*since) < TTL);
        if known.len() >= MAX_MODELS && !known.contains_key(model) {
            let oldest = known.iter().min_by_key(|(_, since)| **since);
            if let Some(oldest) = oldest.map(|(model, _)| model.clone()) {
                known.remove(&oldest);
            }
        }
        known.insert(model.to_owned(), now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_is_remembered_for_an_hour() {
        let (refusals, now) = (SuffixRefusals::default(), Instant::now());
        refusals.insert("a", now);
        assert!(refusals.contains("a", now + TTL / 2) && !refusals.contains("b", now));
        assert!(!refusals.contains("a", now + TTL));
    }

    #[test]
    fn the_memory_is_bounded() {
        let (refusals, now) = (SuffixRefusals::default(), Instant::now());
        for number in 0..=MAX_MODELS as u64 {
            refusals.insert(&number.to_string(), now + Duration::from_millis(number));
        }
        let later = now + Duration::from_secs(9);
        assert!(!refusals.contains("0", later) && refusals.contains("1", later));
        assert_eq!(lock(&refusals.0).len(), MAX_MODELS);
    }
}
