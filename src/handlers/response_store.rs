//! Responses of `/v1/responses` that were translated, kept for requests that continue them by
//! `previous_response_id` or name their items by `item_reference` (OpenAI API reference, responses).
//!
//! In memory only, for half an hour after the last use, and bounded in bytes and number; the least
//! recently used response goes first. Clients send each turn of a conversation whole, so a text that
//! several responses share is held once. Each response belongs to the key that its client sent: with
//! another key it does not exist. Never reads the clock; no log or error shows what is kept.
//! Invariant: all that is held counts, also what belongs to a response that has not ended.

use std::collections::{HashMap, HashSet, VecDeque};
use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::net::memory_budget::KeptBytes;
use crate::observe::lock::lock;

/// How long a response is kept after its last use.
const TTL: Duration = Duration::from_secs(30 * 60);

/// The most responses that are kept.
const MAX_RESPONSES: usize = 1024;

/// Memory of a text beside its bytes: counters, its place in the table, and what the allocator adds.
const TEXT_OVERHEAD: usize = 96;

/// Memory of a response beside its texts and ids.
const RESPONSE_OVERHEAD: usize = 256;

/// Memory of an id beside its bytes.
const ID_OVERHEAD: usize = 64;

/// The client that a response belongs to, by a hash of its key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Owner(u64);

/// The responses that are kept. Cannot be printed, because it holds text of conversations.
pub(super) struct ResponseStore {
    kept: Mutex<Kept>,
    hasher: RandomState,
    max_bytes: usize,
}

#[derive(Default)]
struct Kept {
    /// The least recently used first.
    responses: VecDeque<KeptResponse>,
    /// Every text, with the number of its uses.
    texts: HashMap<Arc<str>, usize>,
    bytes: usize,
    /// The bytes as a part of the memory budget.
    counted: KeptBytes,
}

struct KeptResponse {
    owner: Owner,
    id: String,
    /// The items of the conversation up to the end of the response; `None` if they are too large.
    conversation: Option<Vec<Arc<str>>>,
    /// The items of the output, by their ids.
    output: Vec<(String, Arc<str>)>,
    used_at: Instant,
    /// False until the response has ended.
    is_complete: bool,
}

/// A response that has not ended. It is forgotten when this is dropped.
pub(super) struct PendingResponse<'s> {
    store: &'s ResponseStore,
    owner: Owner,
    id: String,
    is_complete: bool,
}

impl ResponseStore {
    /// An empty store for so many bytes.
    pub(super) fn new(max_bytes: usize) -> Self {
        Self { kept: Mutex::default(), hasher: RandomState::new(), max_bytes }
    }

    /// The client that sent these headers. All clients without a key are one.
    pub(super) fn owner(&self, authorization: Option<&str>, api_key: Option<&str>) -> Owner {
        Owner(self.hasher.hash_one((authorization, api_key)))
    }

    /// Keeps the items of a request until its response ends.
    pub(super) fn begin<'i>(
        &self,
        owner: Owner,
        id: &str,
        items: impl Iterator<Item = &'i str> + Clone,
        now: Instant,
    ) -> PendingResponse<'_> {
        let length: usize = items.clone().map(|item| item.len() + TEXT_OVERHEAD).sum();
        let mut kept = lock(&self.kept);
        let fits = length <= self.max_bytes / 2;
        let conversation = fits.then(|| items.map(|item| kept.intern(item)).collect());
        kept.push(KeptResponse {
            owner,
            id: id.to_owned(),
            conversation,
            output: Vec::new(),
            used_at: now,
            is_complete: false,
        });
        kept.evict(self.max_bytes, now);
        PendingResponse { store: self, owner, id: id.to_owned(), is_complete: false }
    }

    /// The items of the conversation that ended with this response; `None` if it is not kept.
    pub(super) fn conversation(
        &self,
        owner: Owner,
        id: &str,
        now: Instant,
    ) -> Option<Vec<Arc<str>>> {
        let mut kept = lock(&self.kept);
        kept.evict(self.max_bytes, now);
        let is_it = |it: &KeptResponse| it.owner == owner && it.is_complete && it.id == id;
        let place = kept.responses.iter().rposition(is_it)?;
        kept.touch(place, now);
        kept.responses.back()?.conversation.clone()
    }

    /// The output items with these ids, as far as they are kept.
    pub(super) fn items(
        &self,
        owner: Owner,
        ids: &HashSet<&str>,
        now: Instant,
    ) -> HashMap<String, Arc<str>> {
        let (mut kept, mut found) = (lock(&self.kept), HashMap::new());
        kept.evict(self.max_bytes, now);
        let mut place = kept.responses.len();
        let mut used = Vec::new();
        while place > 0 && found.len() < ids.len() {
            place -= 1;
            let response = &kept.responses[place];
            let before = found.len();
            let is_own = response.owner == owner && response.is_complete;
            for (id, text) in response.output.iter().filter(|_| is_own) {
                if ids.contains(id.as_str()) && !found.contains_key(id) {
                    found.insert(id.clone(), Arc::clone(text));
                }
            }
            if found.len() > before {
                used.push(place);
            }
        }
        // From the front, where each move shifts the places behind it by one.
        for (moved, place) in used.into_iter().rev().enumerate() {
            kept.touch(place - moved, now);
        }
        found
    }

    /// Forgets what has not been used for too long, also if no request comes.
    pub(super) fn forget_old(&self, now: Instant) {
        lock(&self.kept).evict(self.max_bytes, now);
    }

    /// Forgets everything, where memory is short.
    pub(super) fn clear(&self) {
        *lock(&self.kept) = Kept::default();
    }

    /// Forgets so many bytes, the least recently used response first; returns how many they were. Frees
    /// nothing while the store is in use, which may itself be what needs memory.
    pub(super) fn free(&self, bytes: usize) -> usize {
        let Ok(mut kept) = self.kept.try_lock() else { return 0 };
        let before = kept.bytes;
        while before - kept.bytes < bytes && kept.drop_oldest() {}
        let bytes = kept.bytes;
        // Less always fits.
        let _ = kept.counted.try_resize(bytes);
        before - kept.bytes
    }
}

impl PendingResponse<'_> {
    /// Adds the output, by the ids of its items; from now on the response is found.
    pub(super) fn complete(&mut self, output: Vec<(String, String)>, now: Instant) {
        self.is_complete = true;
        let max_bytes = self.store.max_bytes;
        let mut kept = lock(&self.store.kept);
        // A response that was dropped in the meantime lacks the conversation before its output.
        let conversation = kept.take(self.owner, &self.id).and_then(|it| it.conversation);
        let output: Vec<_> =
            output.into_iter().map(|(id, text)| (id, kept.intern(&text))).collect();
        let conversation = conversation.map(|mut items| {
            items.extend(output.iter().map(|(_, text)| kept.intern(text)));
            items
        });
        let id = std::mem::take(&mut self.id);
        let (owner, is_complete) = (self.owner, true);
        kept.push(KeptResponse { owner, id, conversation, output, used_at: now, is_complete });
        kept.evict(max_bytes, now);
    }
}

impl Drop for PendingResponse<'_> {
    fn drop(&mut self) {
        if !self.is_complete {
            let mut kept = lock(&self.store.kept);
            if let Some(response) = kept.take(self.owner, &self.id) {
                kept.release_texts(&response);
            }
        }
    }
}

impl KeptResponse {
    /// Its memory without its texts.
    fn overhead(&self) -> usize {
        let places = self.conversation.iter().flatten().count() * size_of::<Arc<str>>();
        let ids: usize = self.output.iter().map(|(id, _)| id.len() + ID_OVERHEAD).sum();
        self.id.len() + places + ids + RESPONSE_OVERHEAD
    }

    fn texts(&self) -> impl Iterator<Item = &Arc<str>> {
        self.conversation.iter().flatten().chain(self.output.iter().map(|(_, text)| text))
    }
}

impl Kept {
    /// The text as it is held, with one use more.
    fn intern(&mut self, text: &str) -> Arc<str> {
        if let Some((held, _)) = self.texts.get_key_value(text) {
            let held = Arc::clone(held);
            self.texts.entry(Arc::clone(&held)).and_modify(|uses| *uses += 1);
            return held;
        }
        let held: Arc<str> = text.into();
        self.bytes += held.len() + TEXT_OVERHEAD;
        self.texts.insert(Arc::clone(&held), 1);
        held
    }

    fn release_texts(&mut self, response: &KeptResponse) {
        for text in response.texts() {
            let Some(uses) = self.texts.get_mut(text) else { continue };
            *uses -= 1;
            if *uses == 0 {
                self.texts.remove(text);
                self.bytes -= text.len() + TEXT_OVERHEAD;
            }
        }
    }

    fn push(&mut self, response: KeptResponse) {
        self.bytes += response.overhead();
        self.responses.push_back(response);
    }

    /// Takes out a response whose texts stay in use.
    fn take_at(&mut self, place: usize) -> Option<KeptResponse> {
        let response = self.responses.remove(place)?;
        self.bytes -= response.overhead();
        Some(response)
    }

    /// Takes out a response that has not ended.
    fn take(&mut self, owner: Owner, id: &str) -> Option<KeptResponse> {
        let is_it = |it: &KeptResponse| !it.is_complete && it.owner == owner && it.id == id;
        let place = self.responses.iter().rposition(is_it)?;
        self.take_at(place)
    }

    /// Makes a response the most recently used one.
    fn touch(&mut self, place: usize, now: Instant) {
        if let Some(mut response) = self.take_at(place) {
            response.used_at = now;
            self.push(response);
        }
    }

    fn evict(&mut self, max_bytes: usize, now: Instant) {
        let is_old = |it: &KeptResponse| now.saturating_duration_since(it.used_at) >= TTL;
        while self.responses.front().is_some_and(is_old)
            || self.responses.len() > MAX_RESPONSES
            || self.bytes > max_bytes
        {
            if !self.drop_oldest() {
                break;
            }
        }
        // Requests need the memory more.
        while !self.counted.try_resize(self.bytes) && self.drop_oldest() {}
    }

    fn drop_oldest(&mut self) -> bool {
        let oldest = self.take_at(0);
        oldest.iter().for_each(|response| self.release_texts(response));
        oldest.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MANY: usize = 1 << 20;

    fn keep(store: &ResponseStore, owner: Owner, id: &str, items: &[&str], now: Instant) {
        let mut pending = store.begin(owner, id, items.iter().copied(), now);
        pending.complete(vec![(format!("msg_{id}"), format!("output of {id}"))], now);
    }

    fn found(store: &ResponseStore, owner: Owner, id: &str, now: Instant) -> Option<Vec<String>> {
        let items = store.conversation(owner, id, now)?;
        Some(items.iter().map(|item| item.to_string()).collect())
    }

    fn item(store: &ResponseStore, owner: Owner, id: &str, now: Instant) -> Option<String> {
        let found = store.items(owner, &HashSet::from([id]), now);
        found.get(id).map(|text| text.to_string())
    }

    #[test]
    fn a_response_is_found_by_its_id_and_its_items_by_theirs() {
        let (store, now) = (ResponseStore::new(MANY), Instant::now());
        let owner = store.owner(None, None);
        keep(&store, owner, "a", &["one", "two"], now);
        let expected = ["one", "two", "output of a"].map(str::to_owned).to_vec();
        assert_eq!(found(&store, owner, "a", now), Some(expected));
        assert_eq!(item(&store, owner, "msg_a", now).as_deref(), Some("output of a"));
        assert_eq!(found(&store, owner, "b", now), None);
        assert_eq!(item(&store, owner, "msg_b", now), None);
        let both = store.items(owner, &HashSet::from(["msg_a", "msg_b"]), now);
        assert_eq!(both.len(), 1);
    }

    #[test]
    fn another_key_sees_nothing() {
        let (store, now) = (ResponseStore::new(MANY), Instant::now());
        let owners = [
            store.owner(Some("Bearer a"), None),
            store.owner(Some("Bearer b"), None),
            store.owner(None, Some("Bearer a")),
            store.owner(None, None),
        ];
        keep(&store, owners[0], "a", &["one"], now);
        for other in &owners[1..] {
            assert_eq!(found(&store, *other, "a", now), None);
            assert_eq!(item(&store, *other, "msg_a", now), None);
        }
        assert!(found(&store, store.owner(Some("Bearer a"), None), "a", now).is_some());
    }

    #[test]
    fn half_an_hour_after_its_last_use_a_response_is_gone() {
        let (store, now) = (ResponseStore::new(MANY), Instant::now());
        let owner = store.owner(None, None);
        keep(&store, owner, "a", &["one"], now);
        keep(&store, owner, "b", &["one"], now);
        let later = now + TTL - Duration::from_secs(1);
        assert!(item(&store, owner, "msg_a", later).is_some(), "a use");
        let end = later + Duration::from_secs(2);
        assert!(found(&store, owner, "b", end).is_none());
        assert!(found(&store, owner, "a", end).is_some(), "that was a use, too");
        store.forget_old(end + TTL);
        assert_eq!(lock(&store.kept).bytes, 0);
        assert!(item(&store, owner, "msg_a", end).is_none());
    }

    #[test]
    fn the_bytes_that_are_kept_have_a_bound_and_the_oldest_go_first() {
        let (store, now) = (ResponseStore::new(20_000), Instant::now());
        let owner = store.owner(None, None);
        for number in 0..100 {
            let text = format!("{number}{}", "x".repeat(2_000));
            keep(&store, owner, &number.to_string(), &[&text], now);
            let kept = lock(&store.kept);
            let texts: usize = kept.texts.keys().map(|text| text.len()).sum();
            assert!(kept.bytes <= 20_000 && texts < kept.bytes, "{}", kept.bytes);
        }
        assert!(found(&store, owner, "99", now).is_some());
        assert!(found(&store, owner, "95", now).is_some());
        assert!(found(&store, owner, "80", now).is_none());
    }

    #[test]
    fn a_response_that_has_not_ended_counts_and_is_not_found() {
        let (store, now) = (ResponseStore::new(20_000), Instant::now());
        let owner = store.owner(None, None);
        let pending = store.begin(owner, "a", std::iter::once("one"), now);
        assert!(lock(&store.kept).bytes > 0);
        assert_eq!(found(&store, owner, "a", now), None);
        drop(pending);
        let kept = lock(&store.kept);
        assert_eq!((kept.bytes, kept.texts.len()), (0, 0));
    }

    #[test]
    fn what_is_freed_is_told() {
        let (store, now) = (ResponseStore::new(MANY), Instant::now());
        let owner = store.owner(None, None);
        ["a", "b"].iter().for_each(|id| keep(&store, owner, id, &["one"], now));
        let before = lock(&store.kept).bytes;
        let freed = store.free(1);
        assert!(freed > 0 && freed == before - lock(&store.kept).bytes);
        assert_eq!(store.free(usize::MAX), before - freed);
        assert_eq!((store.free(1), lock(&store.kept).bytes), (0, 0));
    }

    #[test]
    fn the_number_of_responses_has_a_bound() {
        let (store, now) = (ResponseStore::new(16 * MANY), Instant::now());
        let owner = store.owner(None, None);
        for number in 0..=MAX_RESPONSES {
            keep(&store, owner, &number.to_string(), &["same"], now);
        }
        assert_eq!(lock(&store.kept).responses.len(), MAX_RESPONSES);
        assert!(found(&store, owner, "0", now).is_none());
        assert!(found(&store, owner, "1", now).is_some());
    }

    #[test]
    fn a_text_of_many_responses_is_held_once() {
        let (store, now) = (ResponseStore::new(MANY), Instant::now());
        let owner = store.owner(None, None);
        let text = "x".repeat(MANY / 4);
        for id in ["a", "b", "c", "d", "e", "f", "g", "h"] {
            keep(&store, owner, id, &[&text], now);
        }
        assert!(found(&store, owner, "a", now).is_some());
        assert!(lock(&store.kept).bytes < MANY / 2);
        store.clear();
        assert_eq!((found(&store, owner, "a", now), lock(&store.kept).bytes), (None, 0));
    }

    #[test]
    fn of_a_conversation_that_is_too_large_the_output_is_kept() {
        let (store, now) = (ResponseStore::new(MANY), Instant::now());
        let owner = store.owner(None, None);
        keep(&store, owner, "a", &["one"], now);
        keep(&store, owner, "b", &[&"x".repeat(MANY)], now);
        assert!(found(&store, owner, "b", now).is_none());
        assert!(item(&store, owner, "msg_b", now).is_some());
        assert!(found(&store, owner, "a", now).is_some(), "the others stay");
    }

    #[test]
    fn what_was_dropped_before_its_end_keeps_its_output() {
        let (store, now) = (ResponseStore::new(MANY), Instant::now());
        let owner = store.owner(None, None);
        let mut pending = store.begin(owner, "a", std::iter::once("one"), now);
        store.clear();
        pending.complete(vec![("msg_a".into(), "text".into())], now);
        assert!(found(&store, owner, "a", now).is_none());
        assert_eq!(item(&store, owner, "msg_a", now).as_deref(), Some("text"));
    }
}
