//! What responses have shown of an upstream's reasoning: the models whose chat template opens it, and
//! the member in which it comes.
//!
//! Never reads the clock. Invariant: bounded, and a model is forgotten after an hour, or with the first
//! response that shows the contrary.

use std::time::{Duration, Instant};

use super::recent_fact::RecentFact;
use super::recent_models::RecentModels;
use crate::api::openai::chunk::ReasoningField;
use crate::api::openai::request::Message;

/// The chat template of a model is the same on every path.
const ANY_PATH: &str = "";

/// The memory of one upstream.
#[derive(Debug)]
pub struct ThinkingMemory {
    /// When a model's response had a closing tag without an opening one.
    lone_tags: RecentModels,
    /// Whether reasoning comes in `reasoning`; otherwise it is sent back in `reasoning_content`.
    uses_reasoning: RecentFact,
}

impl ThinkingMemory {
    /// Nothing; what is learnt is known for `ttl`.
    pub fn new(ttl: Duration) -> Self {
        Self { lone_tags: RecentModels::new(ttl), uses_reasoning: RecentFact::new(ttl) }
    }

    /// True if the next response of a model is taken to begin inside reasoning.
    pub fn begins_in_thinking(&self, model: &str, now: Instant) -> bool {
        self.lone_tags.contains(ANY_PATH, model, now)
    }

    /// Notes whether a response of the model had a closing tag without an opening one.
    pub fn record_lone_tag(&self, model: &str, is_lone: bool, now: Instant) {
        if is_lone {
            self.lone_tags.insert(ANY_PATH, model, now);
        } else if self.lone_tags.contains(ANY_PATH, model, now) {
            // Most responses have no such tag, and readers do not wait for each other.
            self.lone_tags.remove(ANY_PATH, model);
        }
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
