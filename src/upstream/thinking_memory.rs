//! What responses have shown of an upstream's reasoning: the models whose chat template opens it, and
//! the member in which it comes.
//!
//! Never reads the clock. Invariant: bounded, and a model is forgotten after an hour, or with the first
//! response that shows the contrary.

use std::collections::HashMap;
use std::sync::RwLock;
use std::time::{Duration, Instant};

use super::recent_fact::RecentFact;
use crate::api::openai::chunk::ReasoningField;
use crate::api::openai::request::Message;
use crate::observe::lock;

/// Models that are remembered; beyond that the oldest one is dropped.
const MAX_MODELS: usize = 1024;

/// The memory of one upstream.
#[derive(Debug)]
pub struct ThinkingMemory {
    /// When a model's response had a closing tag without an opening one.
    lone_tags: RwLock<HashMap<String, Instant>>,
    /// Whether reasoning comes in `reasoning`; otherwise it is sent back in `reasoning_content`.
    uses_reasoning: RecentFact,
    ttl: Duration,
}

impl ThinkingMemory {
    /// Nothing; what is learnt is known for `ttl`.
    pub fn new(ttl: Duration) -> Self {
        Self { lone_tags: RwLock::default(), uses_reasoning: RecentFact::new(ttl), ttl }
    }

    /// True if the next response of a model is taken to begin inside reasoning.
    pub fn begins_in_thinking(&self, model: &str, now: Instant) -> bool {
        let known = lock::read(&self.lone_tags);
        known.get(model).is_some_and(|since| now.duration_since(*since) < self.ttl)
    }

    /// Notes whether a response of the model had a closing tag without an opening one.
    pub fn record_lone_tag(&self, model: &str, is_lone: bool, now: Instant) {
        // Most responses have no such tag, and readers do not wait for each other.
        if !is_lone && !lock::read(&self.lone_tags).contains_key(model) {
            return;
        }
        let mut known = lock::write(&self.lone_tags);
        if !is_lone {
            known.remove(model);
            return;
        }
        if known.len() >= MAX_MODELS && !known.contains_key(model) {
            let oldest = known.iter().min_by_key(|(_, since)| **since);
            if let Some(oldest) = oldest.map(|(model, _)| model.clone()) {
                known.remove(&oldest);
            }
        }
        known.insert(model.to_owned(), now);
    }

    /// Notes in which member reasoning came.
    pub fn record_field(&self, field: ReasoningField, now: Instant) {
        self.uses_reasoning.set(usize::from(field == ReasoningField::Reasoning), now);
    }

    /// Moves reasoning that is sent back to the member in which the upstream sends it.
    pub fn apply_field(&self, messages: &mut [Message<'_>], now: Instant) {
        if self.uses_reasoning.get(now) == Some(1) {
            for message in messages {
                message.reasoning = message.reasoning_content.take();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TTL: Duration = Duration::from_secs(3600);

    #[test]
    fn a_model_is_known_for_an_hour_or_until_the_contrary_is_seen() {
        let memory = ThinkingMemory::new(TTL);
        let now = Instant::now();
        assert!(!memory.begins_in_thinking("a", now));
        memory.record_lone_tag("a", true, now);
        memory.record_lone_tag("b", true, now);
        assert!(memory.begins_in_thinking("a", now + TTL / 2));
        assert!(!memory.begins_in_thinking("a", now + TTL));
        memory.record_lone_tag("a", false, now);
        assert!(!memory.begins_in_thinking("a", now) && memory.begins_in_thinking("b", now));
    }

    #[test]
    fn the_number_of_models_is_bounded() {
        let memory = ThinkingMemory::new(TTL);
        let now = Instant::now();
        for number in 0..MAX_MODELS as u64 + 2 {
            let later = now + Duration::from_millis(number);
            memory.record_lone_tag(&number.to_string(), true, later);
        }
        assert_eq!(lock::read(&memory.lone_tags).len(), MAX_MODELS);
        assert!(!memory.begins_in_thinking("1", now) && memory.begins_in_thinking("2", now));
    }

    #[test]
    fn reasoning_goes_back_in_the_member_in_which_it_came() {
        let memory = ThinkingMemory::new(TTL);
        let now = Instant::now();
        let sent_at = |memory: &ThinkingMemory, now: Instant| {
            let reasoning_content = Some("hm".into());
            let mut messages = [Message { reasoning_content, ..Message::text("assistant", "") }];
            memory.apply_field(&mut messages, now);
            let [message] = messages;
            (message.reasoning_content.is_some(), message.reasoning.is_some())
        };
        let sent = |memory: &ThinkingMemory| sent_at(memory, now);
        assert_eq!(sent(&memory), (true, false));
        memory.record_field(ReasoningField::Reasoning, now);
        assert_eq!(sent(&memory), (false, true));
        assert_eq!(sent_at(&memory, now + TTL), (true, false), "forgotten after an hour");
        memory.record_field(ReasoningField::ReasoningContent, now);
        assert_eq!(sent(&memory), (true, false));
    }
}
