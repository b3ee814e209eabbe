//! The repairs that models needed, so that a rejection is paid for once.
//!
//! Bounded, and kept for an hour, so that a corrected upstream gets requests as they are again. Never
//! reads the clock. Invariant: the lock is never held while a request is sent.

use std::collections::HashMap;
use std::sync::RwLock;
use std::time::{Duration, Instant};

use super::Repair;

use crate::observe::lock;

/// How long a repair is made before the request is tried as it is again.
const TTL: Duration = Duration::from_secs(3600);

/// Models in the cache; beyond that the oldest entry is dropped.
const MAX_MODELS: usize = 1024;

/// The most repairs of one model.
const MAX_REPAIRS_PER_MODEL: usize = 32;

/// Repairs by operation and model.
#[derive(Debug, Default)]
pub struct RepairCache(RwLock<HashMap<Key, Vec<(Repair, Instant)>>>);

/// A path, such as `chat/completions`, and a model: what one path rejects, another may accept.
type Key = (&'static str, String);

impl RepairCache {
    /// The repairs that a model needs, in the order in which they were found.
    pub fn get(&self, path: &'static str, model: &str, now: Instant) -> Vec<Repair> {
        let known = lock::read(&self.0);
        if known.is_empty() {
            return Vec::new();
        }
        let repairs = known.get(&(path, model.to_owned())).into_iter().flatten();
        let fresh = repairs.filter(|(_, since)| now.duration_since(*since) < TTL);
        fresh.map(|(repair, _)| repair.clone()).collect()
    }

    /// Remembers the repairs with which a request was accepted.
    pub fn insert(&self, path: &'static str, model: &str, repairs: &[Repair], now: Instant) {
        if repairs.is_empty() {
            return;
        }
        let mut known = lock::write(&self.0);
        for list in known.values_mut() {
            list.retain(|(_, since)| now.duration_since(*since) < TTL);
        }
        known.retain(|_, list| !list.is_empty());
        let key = (path, model.to_owned());
        if known.len() >= MAX_MODELS && !known.contains_key(&key) {
            let first = known.iter().min_by_key(|(_, list)| list.first().map(|(_, since)| *since));
            if let Some(first) = first.map(|(key, _)| key.clone()) {
                known.remove(&first);
            }
        }
        let list = known.entry(key).or_default();
        for repair in repairs {
            list.retain(|(known, _)| known != repair && !repair.is_inverse_of(known));
            if list.len() < MAX_REPAIRS_PER_MODEL {
                list.push((repair.clone(), now));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHAT: &str = "chat/completions";

    #[test]
    fn what_was_learnt_of_a_model_is_known_for_an_hour() {
        let learnt = RepairCache::default();
        let now = Instant::now();
        assert!(learnt.get(CHAT, "a", now).is_empty());
        let seed = [Repair::Omit("seed")];
        let both = [Repair::Omit("seed"), Repair::Omit("top_k")];
        learnt.insert(CHAT, "a", &seed, now);
        learnt.insert(CHAT, "a", &[], now);
        learnt.insert(CHAT, "a", &both[1..], now + TTL / 2);
        assert_eq!(learnt.get(CHAT, "a", now + TTL / 2), both);
        assert_eq!(learnt.get(CHAT, "a", now + TTL), both[1..]);
        assert!(learnt.get(CHAT, "b", now).is_empty(), "another model");
        assert!(learnt.get("completions", "a", now).is_empty(), "another path");
    }

    #[test]
    fn nothing_is_known_twice_and_the_last_word_counts() {
        let learnt = RepairCache::default();
        let now = Instant::now();
        let (old, new) = ("max_tokens", "max_completion_tokens");
        let there = Repair::Rename { from: old, to: new };
        let back = Repair::Rename { from: new, to: old };
        let (there, back) = ([there], [back]);
        learnt.insert(CHAT, "a", &there, now);
        learnt.insert(CHAT, "a", &there, now);
        assert_eq!(learnt.get(CHAT, "a", now), there);
        learnt.insert(CHAT, "a", &back, now);
        assert_eq!(learnt.get(CHAT, "a", now), back, "the upstream has changed its mind");
    }

    #[test]
    fn the_memory_is_bounded() {
        let learnt = RepairCache::default();
        let now = Instant::now();
        for number in 0..MAX_MODELS as u64 + 5 {
            let later = now + Duration::from_millis(number);
            learnt.insert(CHAT, &number.to_string(), &[Repair::FoldSystemIntoUser], later);
        }
        assert!(learnt.get(CHAT, "4", now).is_empty());
        assert!(!learnt.get(CHAT, "5", now).is_empty());
        assert_eq!(learnt.0.read().expect("no panic").len(), MAX_MODELS);
    }
}
