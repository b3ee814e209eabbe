//! What client keys with names have used, and what they may use.
//!
//! [`counts`] decides and is pure; here are the shared state of a key and the place of one request. Never
//! knows a key, only its name's use. Invariant: a request has one place, which it gives back once, whatever
//! ends it.

pub mod counts;

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use crossbeam_channel::Sender;

use self::counts::{Counts, Now, Rates};
use crate::error::LimitReached;
use crate::observe::lock::lock;

/// The largest number of tokens that a prompt is taken for whose upstream tells none.
const MAX_ESTIMATED_PROMPT: u64 = 128 * 1024;

/// Bytes of a request for each token of its prompt, where the upstream tells none.
const BYTES_PER_TOKEN: u64 = 4;

/// What one key has used. Survives a reload.
pub struct KeyUsage {
    counts: Mutex<Counts>,
    /// Told when tokens of the day were added.
    changes: Sender<()>,
}

impl KeyUsage {
    /// Of a key that has used nothing; `changes` is told when tokens are added.
    pub fn new(changes: Sender<()>) -> Arc<Self> {
        Arc::new(Self { counts: Mutex::default(), changes })
    }

    /// Reads or changes the counts.
    pub fn with<T>(&self, work: impl FnOnce(&mut Counts) -> T) -> T {
        work(&mut lock(&self.counts))
    }

    /// A place for a request that came at this time; `body_bytes` is the length of its body, if known.
    ///
    /// # Errors
    /// Which limit refuses it.
    pub fn begin(
        self: &Arc<Self>,
        rates: &Rates,
        received: Instant,
        body_bytes: usize,
    ) -> Result<Arc<KeyUse>, LimitReached> {
        let now = Now { instant: received, since_epoch: since_epoch() };
        self.with(|counts| counts.begin(rates, now))?;
        let prompt = (body_bytes as u64 / BYTES_PER_TOKEN).min(MAX_ESTIMATED_PROMPT);
        Ok(Arc::new(KeyUse {
            usage: self.clone(),
            is_saved: rates.tokens_per_day.is_some(),
            estimated_prompt: prompt,
            counted: Mutex::default(),
            has_ended: AtomicBool::new(false),
        }))
    }
}

/// The place of one request.
pub struct KeyUse {
    usage: Arc<KeyUsage>,
    /// Whether its tokens are kept in the state file.
    is_saved: bool,
    estimated_prompt: u64,
    /// The tokens that are counted already.
    counted: Mutex<(u64, u64)>,
    has_ended: AtomicBool,
}

impl KeyUse {
    /// Counts the tokens that the request has used so far: those that were not counted before.
    pub fn count(&self, (prompt, response): (u64, u64)) {
        let mut counted = lock(&self.counted);
        let added = (prompt.saturating_sub(counted.0), response.saturating_sub(counted.1));
        if added == (0, 0) {
            return;
        }
        *counted = (prompt.max(counted.0), response.max(counted.1));
        self.usage.with(|counts| counts.add_tokens(added, since_epoch()));
        if self.is_saved {
            // One that waits already stands for this one, too.
            let _ = self.usage.changes.try_send(());
        }
    }

    /// What a response of so many events has used, if the upstream told of no tokens.
    pub fn estimate(&self, events: u64) -> (u64, u64) {
        (self.estimated_prompt, events)
    }

    /// Counts what a response of so many events has used, unless its tokens were told.
    pub fn count_events(&self, events: u64) {
        let is_told = *lock(&self.counted) != (0, 0);
        if events > 0 && !is_told {
            self.count(self.estimate(events));
        }
    }

    /// Gives the place back, if that was not done before.
    pub fn end(&self) {
        if !self.has_ended.swap(true, Ordering::Relaxed) {
            self.usage.with(Counts::end);
        }
    }
}

impl Drop for KeyUse {
    fn drop(&mut self) {
        self.end();
    }
}

impl fmt::Debug for KeyUse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeyUse")
    }
}

/// The time since 1970 in UTC.
pub fn since_epoch() -> Duration {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default()
}

/// The number of the current day in UTC, since 1970.
pub fn today() -> u64 {
    counts::day_of(since_epoch())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crossbeam_channel::bounded;

    #[test]
    fn a_place_is_given_back_once_and_tokens_are_counted_once() {
        let (changes, told) = bounded(1);
        let usage = KeyUsage::new(changes);
        let rates =
            Rates { max_parallel: Some(1), tokens_per_day: Some(1_000), ..Rates::default() };
        let begin = |bytes| usage.begin(&rates, Instant::now(), bytes);
        let first = begin(400).expect("a place");
        assert!(begin(0).is_err());
        first.count((7, 2));
        first.count((7, 5));
        first.count((7, 5));
        assert_eq!(usage.with(|counts| counts.tokens), (7, 5));
        assert_eq!((told.len(), first.estimate(9)), (1, (100, 9)));
        // The tokens were told.
        first.count_events(9);
        assert_eq!(usage.with(|counts| counts.tokens), (7, 5));
        first.end();
        let second = begin(usize::MAX).expect("a place");
        assert_eq!(second.estimate(0), (MAX_ESTIMATED_PROMPT, 0));
        drop(first);
        assert!(begin(0).is_err(), "the place of the second one");
        second.count_events(0);
        assert_eq!(usage.with(|counts| counts.tokens), (7, 5));
        second.count_events(2);
        second.count_events(2);
        assert_eq!(usage.with(|counts| counts.tokens), (7 + MAX_ESTIMATED_PROMPT, 7));
        drop(second);
        assert_eq!(usage.with(|counts| counts.in_flight), 0);
    }

    #[test]
    fn without_a_limit_of_tokens_nobody_is_told() {
        let (changes, told) = bounded(1);
        let usage = KeyUsage::new(changes);
        usage.begin(&Rates::default(), Instant::now(), 0).expect("a place").count((1, 1));
        assert!(told.is_empty());
    }
}
