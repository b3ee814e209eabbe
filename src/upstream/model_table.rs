//! What was learnt of models, by operation and model: bounded in number and by the memory budget.
//!
//! Never reads the clock. Invariant: while the table is empty, a look-up does not allocate.

use std::collections::HashMap;
use std::time::Instant;

use crate::net::memory_budget::KeptBytes;

/// The most models; beyond that the one that is known longest is dropped.
pub(super) const MAX_MODELS: usize = 1024;

/// A path below the base URL, such as `chat/completions`, and a model: what one path rejects, another may
/// accept.
pub(super) type Key = (&'static str, String);

/// What is known of one model.
pub(super) trait ModelEntry {
    /// Since when; `None` for nothing.
    fn known_since(&self) -> Option<Instant>;

    /// Bytes of memory beside its own size.
    fn heap_bytes(&self) -> usize;
}

impl ModelEntry for Instant {
    fn known_since(&self) -> Option<Instant> {
        Some(*self)
    }

    fn heap_bytes(&self) -> usize {
        0
    }
}

/// The models, and what is known of each.
#[derive(Debug)]
pub(super) struct ModelTable<V> {
    /// After a change [`ModelTable::shrink`] must follow.
    pub(super) entries: HashMap<Key, V>,
    counted: KeptBytes,
}

impl<V> Default for ModelTable<V> {
    fn default() -> Self {
        Self { entries: HashMap::new(), counted: KeptBytes::default() }
    }
}

impl<V: ModelEntry> ModelTable<V> {
    /// Memory of a model beside its name and what its entry holds: its place in the table, which is at least
    /// half full.
    pub(super) const PLACE_BYTES: usize = 2 * size_of::<(Key, V)>();

    /// What is known of a model.
    pub(super) fn get(&self, path: &'static str, model: &str) -> Option<&V> {
        if self.entries.is_empty() {
            return None;
        }
        self.entries.get(&(path, model.to_owned()))
    }

    /// Drops the models that are known longest until the number and the memory budget allow the others.
    pub(super) fn shrink(&mut self) {
        while self.entries.len() > MAX_MODELS || !self.counted.try_resize(self.bytes()) {
            let oldest = self.entries.iter().min_by_key(|(_, entry)| entry.known_since());
            let Some(oldest) = oldest.map(|(key, _)| key.clone()) else { break };
            self.entries.remove(&oldest);
        }
    }

    /// Bytes of memory that it takes, about.
    pub(super) fn bytes(&self) -> usize {
        let entries = self.entries.iter();
        entries.map(|((_, model), it)| model.len() + Self::PLACE_BYTES + it.heap_bytes()).sum()
    }
}
