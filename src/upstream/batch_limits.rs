//! The batch sizes for embeddings that an upstream accepts.
//!
//! Learnt from rejections and shared by all requests. Never grows while the process lives: a smaller
//! batch costs some more requests, a rejected one costs every request an attempt.

use std::sync::atomic::{AtomicUsize, Ordering};

use crate::translate::embed::BatchBounds;

/// The largest batches that the upstream accepted after it had rejected larger ones.
pub(crate) struct BatchLimits {
    items: AtomicUsize,
    bytes: AtomicUsize,
}

impl Default for BatchLimits {
    fn default() -> Self {
        Self { items: AtomicUsize::new(usize::MAX), bytes: AtomicUsize::new(usize::MAX) }
    }
}

impl BatchLimits {
    /// The first bounds to try for a family that accepts `max_items` inputs.
    pub(crate) fn bounds(&self, max_items: usize) -> BatchBounds {
        let first = BatchBounds::with_max_items(max_items);
        BatchBounds {
            items: first.items.min(self.items.load(Ordering::Relaxed)),
            bytes: first.bytes.min(self.bytes.load(Ordering::Relaxed)),
        }
    }

    /// Notes bounds that worked after larger ones had failed.
    pub(crate) fn lower_to(&self, accepted: BatchBounds) {
        self.items.fetch_min(accepted.items, Ordering::Relaxed);
        self.bytes.fetch_min(accepted.bytes, Ordering::Relaxed);
    }
}
