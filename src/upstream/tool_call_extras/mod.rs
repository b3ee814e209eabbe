//! What an upstream sends with tool calls and may expect back with them: Gemini's thought signatures, in
//! `extra_content` (Gemini API documentation, thought signatures); the `reasoning_details` of the answer
//! (OpenRouter documentation, reasoning tokens); and the reasoning that led to the calls, which some
//! servers want as `reasoning_content` (DeepSeek API documentation, thinking mode).
//!
//! Ollama's clients cannot carry the first two, and many clients drop the third, so all are kept here, in
//! memory only: no log, error or state file shows them. Signatures and details go back with each request
//! that has the calls, on whichever route; reasoning only where the upstream asks for it.
//!
//! | kept | goes back with |
//! | --- | --- |
//! | data that cannot be read | the call with the same id; on translated routes, where many clients send no ids back, otherwise that with the same function and arguments |
//! | text that can be read | the call with the same id, function and arguments |
//!
//! The second row is stricter because some servers count their ids from 0 in each conversation
//! (`functions.f:0`), and the text of one conversation must not get into another.
//! Invariant: bounded in number and size, the least recently used call goes first; nothing is invented,
//! and what the client sends itself stays.

mod passed;
#[cfg(test)]
mod tests;

use std::cell::OnceCell;
use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, Mutex};

use serde_json::Value;
use serde_json::value::RawValue;

use crate::api::openai::request::Message;
use crate::net::memory_budget::KeptBytes;
use crate::observe::lock::lock;
use crate::translate::answer_extras::AnswerExtras;
use crate::translate::quirks::PLACEHOLDER_REASONING;
use crate::translate::tool_calls::CompleteToolCall;

/// The most calls that are kept.
const MAX_CALLS: usize = 1024;

/// The most bytes that are kept.
const MAX_BYTES: usize = 16 * 1024 * 1024;

/// The largest extra of one call that is kept, in bytes.
const MAX_EXTRA_BYTES: usize = 64 * 1024;

/// The extras of recent calls. Cannot be printed, because it holds text of conversations.
#[derive(Default)]
pub struct ToolCallExtras {
    kept: Mutex<Kept>,
    hasher: RandomState,
}

#[derive(Default)]
struct Kept {
    calls: Vec<KeptCall>,
    bytes: usize,
    /// The bytes as a part of the memory budget.
    counted: KeptBytes,
    /// Counts saves and uses.
    clock: u64,
}

/// A call, by hashes.
struct KeptCall {
    id: u64,
    function: u64,
    model: u64,
    /// JSON.
    extra_content: Option<String>,
    answer: Arc<KeptAnswer>,
    saved_at: u64,
    used_at: u64,
}

/// What belongs to all calls of an answer.
#[derive(Default)]
struct KeptAnswer {
    reasoning: Option<String>,
    /// A JSON list.
    details: Option<String>,
    /// True if nothing in the details can be read.
    is_opaque: bool,
}

impl KeptCall {
    /// Its size. What belongs to several calls counts for each.
    fn length(&self) -> usize {
        let texts = [&self.extra_content, &self.answer.reasoning, &self.answer.details];
        texts.into_iter().flatten().map(String::len).sum::<usize>() + size_of::<Self>()
    }
}

impl Kept {
    /// The best of these calls: with the same arguments, else the one that was saved last. It now is the
    /// most recently used.
    fn find(&mut self, key: &CallKey<'_>, is_it: impl Fn(&KeptCall) -> bool) -> Option<&KeptCall> {
        let found = self.calls.iter_mut().filter(|call| is_it(call));
        let found = found.max_by_key(|call| (call.function == key.function(), call.saved_at))?;
        self.clock += 1;
        found.used_at = self.clock;
        Some(found)
    }

    fn insert(&mut self, mut call: KeptCall) {
        self.clock += 1;
        (call.saved_at, call.used_at) = (self.clock, self.clock);
        let is_same = |it: &KeptCall| (it.id, it.function) == (call.id, call.function);
        if let Some(place) = self.calls.iter().position(is_same) {
            self.remove(place);
        }
        self.bytes += call.length();
        self.calls.push(call);
        while (self.calls.len() > MAX_CALLS
            || self.bytes > MAX_BYTES
            || !self.counted.try_resize(self.bytes))
            && self.drop_oldest()
        {}
    }

    /// Drops the least recently used call.
    fn drop_oldest(&mut self) -> bool {
        let places = self.calls.iter().enumerate();
        let oldest = places.min_by_key(|(_, call)| call.used_at).map(|(place, _)| place);
        oldest.iter().for_each(|place| self.remove(*place));
        oldest.is_some()
    }

    fn remove(&mut self, place: usize) {
        self.bytes -= self.calls.swap_remove(place).length();
    }
}

/// A call of a conversation.
struct CallKey<'a> {
    extras: &'a ToolCallExtras,
    id: u64,
    name: &'a str,
    arguments: &'a str,
    function: OnceCell<u64>,
}

impl CallKey<'_> {
    /// The same for the same function and arguments, in whatever order the members are written.
    fn function(&self) -> u64 {
        *self.function.get_or_init(|| self.extras.hash_function(self.name, self.arguments))
    }
}

impl ToolCallExtras {
    /// Keeps what an answer of a model holds for its calls.
    pub fn save(&self, model: &str, answer: &AnswerExtras) {
        let extra = |call: &CompleteToolCall| {
            call.extra_content.clone().filter(|extra| extra.len() <= MAX_EXTRA_BYTES)
        };
        if !answer.has_reasoning() && !answer.calls.iter().any(|call| extra(call).is_some()) {
            return;
        }
        let (details, is_opaque) = answer.details().unzip();
        let shared = Arc::new(KeptAnswer {
            reasoning: answer.reasoning().map(str::to_owned),
            details,
            is_opaque: is_opaque.unwrap_or_default(),
        });
        let model = self.hasher.hash_one(model);
        for call in &answer.calls {
            let kept = KeptCall {
                id: self.hasher.hash_one(call.id.as_str()),
                function: self.hash_function(&call.name, &call.arguments),
                model,
                extra_content: extra(call),
                answer: Arc::clone(&shared),
                saved_at: 0,
                used_at: 0,
            };
            lock(&self.kept).insert(kept);
        }
    }

    /// Adds signatures and details to the calls of a translated conversation. Reasoning only replaces the
    /// blank that stands for what the client did not keep.
    pub fn restore(&self, messages: &mut [Message<'_>]) {
        if self.is_empty() {
            return;
        }
        for message in messages.iter_mut().filter(|message| !message.tool_calls.is_empty()) {
            let (mut details, mut reasoning) = (None, None);
            let is_blank = message.reasoning_content.as_deref() == Some(PLACEHOLDER_REASONING);
            for call in &mut message.tool_calls {
                let key = self.key(&call.id, &call.function.name, &call.function.arguments);
                let extra = self.find_extra(&key, true);
                details = details.or_else(|| self.find_details(&key, true));
                reasoning = reasoning.or_else(|| is_blank.then(|| self.find_reasoning(&key))?);
                call.extra_content = extra.and_then(|extra| RawValue::from_string(extra).ok());
            }
            message.reasoning_details = details.and_then(|it| RawValue::from_string(it).ok());
            if let Some(reasoning) = reasoning {
                message.reasoning_content = Some(reasoning.into());
            }
        }
    }

    /// Drops so many bytes, the least recently used call first. Drops nothing while the calls are in use.
    pub(crate) fn free(&self, bytes: usize) {
        let Ok(mut kept) = self.kept.try_lock() else { return };
        let before = kept.bytes;
        while before - kept.bytes < bytes && kept.drop_oldest() {}
        let bytes = kept.bytes;
        // Less always fits.
        let _ = kept.counted.try_resize(bytes);
    }

    /// True if nothing is kept.
    pub fn is_empty(&self) -> bool {
        lock(&self.kept).calls.is_empty()
    }

    /// True if something must go back to this model.
    pub fn has_some_for(&self, model: &str) -> bool {
        let model = self.hasher.hash_one(model);
        let must = |call: &KeptCall| call.extra_content.is_some() || call.answer.details.is_some();
        lock(&self.kept).calls.iter().any(|call| call.model == model && must(call))
    }

    fn key<'a>(&'a self, id: &str, name: &'a str, arguments: &'a str) -> CallKey<'a> {
        let id = self.hasher.hash_one(id);
        CallKey { extras: self, id, name, arguments, function: OnceCell::new() }
    }

    fn hash_function(&self, name: &str, arguments: &str) -> u64 {
        // Those of a function without parameters may be empty.
        let arguments = if arguments.trim().is_empty() { "{}" } else { arguments };
        let arguments = serde_json::from_str::<Value>(arguments).map_or_else(
            |_| arguments.to_owned(),
            // Sorts the members.
            |arguments| arguments.to_string(),
        );
        self.hasher.hash_one((name, arguments))
    }

    /// The extra of a call; `by_function` allows another id.
    fn find_extra(&self, key: &CallKey<'_>, by_function: bool) -> Option<String> {
        let mut kept = lock(&self.kept);
        if let Some(found) = kept.find(key, |call| call.id == key.id) {
            return found.extra_content.clone();
        }
        let is_it = |call: &KeptCall| call.function == key.function();
        if by_function { kept.find(key, is_it)?.extra_content.clone() } else { None }
    }

    /// The details of the answer with a call; `by_function` allows another id.
    fn find_details(&self, key: &CallKey<'_>, by_function: bool) -> Option<String> {
        let mut kept = lock(&self.kept);
        let is_opaque = |call: &KeptCall| call.answer.is_opaque;
        let has_id = |call: &KeptCall| {
            call.id == key.id && (is_opaque(call) || call.function == key.function())
        };
        if let Some(found) = kept.find(key, has_id) {
            return found.answer.details.clone();
        }
        let is_it = |call: &KeptCall| is_opaque(call) && call.function == key.function();
        if by_function { kept.find(key, is_it)?.answer.details.clone() } else { None }
    }

    fn find_reasoning(&self, key: &CallKey<'_>) -> Option<String> {
        let is_it = |call: &KeptCall| call.id == key.id && call.function == key.function();
        lock(&self.kept).find(key, is_it)?.answer.reasoning.clone()
    }
}
