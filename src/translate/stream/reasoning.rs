//! What a response shows of a model's reasoning, and reasoning that may turn out to be all of it.
//!
//! Some servers send the answer as reasoning where thinking is switched off or a format is enforced
//! (vLLM with a reasoning parser). Only the end of a response shows that nothing else came. Never
//! holds back reasoning that the client wants to see. Invariant: nothing is returned twice, or after a
//! text.

use std::borrow::Cow;

use serde::de::IgnoredAny;

use super::{Delta, FinishReason, ResponseTranslator};
use crate::api::openai::chunk::{Content, Message, ReasoningField};
use crate::translate::think::ThinkMode;
use crate::translate::think_tags::MAX_REASONING_BYTES;

/// The reasoning of a response that has no text so far.
#[derive(Debug)]
pub(super) struct KeptReasoning {
    text: String,
    /// True if it is an answer only if it is JSON.
    must_be_json: bool,
}

impl KeptReasoning {
    /// For a response whose reasoning can be the answer: the client wants no reasoning, or JSON.
    pub(super) fn new(think: ThinkMode<'_>, wants_json: bool) -> Option<Self> {
        let must_be_json = think != ThinkMode::Off;
        (!must_be_json || wants_json).then(|| Self { text: String::new(), must_be_json })
    }

    /// Adds reasoning; false if it has become too long to be kept.
    pub(super) fn push(&mut self, thinking: &str) -> bool {
        self.text.push_str(thinking);
        self.text.len() <= MAX_REASONING_BYTES
    }

    /// The answer, if this is one.
    pub(super) fn into_answer(self) -> Option<String> {
        let is_json = || serde_json::from_str::<IgnoredAny>(&self.text).is_ok();
        let is_answer = !self.text.trim().is_empty() && (!self.must_be_json || is_json());
        is_answer.then_some(self.text)
    }
}

impl ResponseTranslator<'_> {
    /// Separates reasoning from the text, unless the server sends it in a member of its own.
    pub(super) fn split_thinking<'a>(
        &mut self,
        thinking: Cow<'a, str>,
        text: Cow<'a, str>,
        is_whole: bool,
    ) -> (Cow<'a, str>, Cow<'a, str>) {
        if !thinking.is_empty() && !self.think_tags.is_pass_through() {
            let held = self.think_tags.disable();
            return (thinking, Cow::Owned(held + &text));
        }
        if text.is_empty() {
            return (thinking, text);
        }
        if self.think_tags.is_pass_through() {
            self.think_tags.watch(&text);
            return (thinking, text);
        }
        let split =
            if is_whole { self.think_tags.split_whole(&text) } else { self.think_tags.push(&text) };
        if split.thinking.is_empty() && split.content.len() == text.len() {
            return (thinking, text);
        }
        (Cow::Owned(split.thinking), Cow::Owned(split.content))
    }

    /// Keeps reasoning for the upstream, and as long as it may be the answer.
    pub(super) fn keep_reasoning(&mut self, delta: &Delta<'_>) {
        self.extras.push_reasoning(&delta.thinking);
        let Some(kept) = &mut self.kept_reasoning else { return };
        if !delta.content.trim().is_empty() || !kept.push(&delta.thinking) {
            self.kept_reasoning = None;
        }
    }

    /// The text that came as reasoning, or was taken for it, at the end of a response.
    pub(super) fn take_answer_from_reasoning(&mut self) -> Option<String> {
        let has_calls = self.tool_calls.has_calls();
        if !self.is_complete() || self.finish_reason == Some(FinishReason::Length) {
            return None;
        }
        let kept = self.kept_reasoning.take();
        if let Some(text) = self.think_tags.take_unconfirmed() {
            // What the client was shown as reasoning need not come again beside a call.
            return (!has_calls || self.options.think == ThinkMode::Off).then_some(text);
        }
        // A stream may end without a reason.
        let has_ended_well = matches!(self.finish_reason, None | Some(FinishReason::Stop));
        kept.filter(|_| has_ended_well && !has_calls)?.into_answer()
    }

    /// True if reasoning turned out to be the answer.
    pub fn has_answer_in_reasoning(&self) -> bool {
        self.has_answer_in_reasoning
    }

    /// The member in which reasoning came.
    pub fn reasoning_field(&self) -> Option<ReasoningField> {
        self.reasoning_field
    }

    /// Whether the response had a closing tag without an opening one, as the next response of the model
    /// will; `None` if it does not show it. Known once the response has ended.
    pub fn lone_closing_tag(&self) -> Option<bool> {
        let has_been_cut = self.finish_reason == Some(FinishReason::Length);
        self.think_tags.lone_closing_tag().filter(|is_lone| *is_lone || !has_been_cut)
    }
}

/// The texts of a message.
pub(super) struct Texts<'a> {
    /// The reasoning, from the first of its members that holds text.
    pub thinking: Cow<'a, str>,
    /// The text, then the refusal.
    pub content: Cow<'a, str>,
    /// The member of the reasoning, if it is one that a request can have.
    pub field: Option<ReasoningField>,
    /// Whether the message refuses.
    pub is_refusal: bool,
}

/// Takes the texts out of a message, or of a piece of one; `text` stands beside it.
pub(super) fn extract_texts<'a>(message: Message<'a>, text: Option<Content<'a>>) -> Texts<'a> {
    let content = message.content.or(text).unwrap_or_default();
    let details = || serde_json::from_str::<Content<'a>>(message.reasoning_details?.get()).ok();
    let (thinking, field) = [
        (message.reasoning_content, Some(ReasoningField::ReasoningContent)),
        (message.reasoning, Some(ReasoningField::Reasoning)),
    ]
    .into_iter()
    .filter_map(|(content, field)| Some((content?.text, field)))
    .find(|(text, _)| !text.is_empty())
    .or_else(|| details().map(|content| (content.text, None)).filter(|it| !it.0.is_empty()))
    .unwrap_or((Cow::Owned(content.thinking), None));
    let refusal = message.refusal.map(|refusal| refusal.text).unwrap_or_default();
    let (is_refusal, text) = (!refusal.is_empty(), content.text);
    let content = match (text.is_empty(), is_refusal) {
        (_, false) => text,
        (true, true) => refusal,
        (false, true) => Cow::Owned(format!("{text}\n\n{refusal}")),
    };
    Texts { thinking, content, field, is_refusal }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(think: ThinkMode<'_>, wants_json: bool, texts: &[&str]) -> Option<String> {
        let mut kept = KeptReasoning::new(think, wants_json)?;
        texts.iter().for_each(|text| assert!(kept.push(text)));
        kept.into_answer()
    }

    #[test]
    fn reasoning_is_an_answer_if_none_was_wanted_or_if_it_is_the_json_that_was() {
        let json = ["\n{\"a\":", "1}"];
        assert_eq!(answer(ThinkMode::Off, false, &["Y", "es"]).as_deref(), Some("Yes"));
        assert_eq!(answer(ThinkMode::Off, true, &["Yes"]).as_deref(), Some("Yes"));
        for think in [ThinkMode::Unset, ThinkMode::On, ThinkMode::Level("low")] {
            assert_eq!(answer(think, true, &json).as_deref(), Some("\n{\"a\":1}"));
            assert_eq!(answer(think, true, &["So {\"a\":1}"]), None);
            assert_eq!(answer(think, true, &json[..1]), None);
            assert_eq!(answer(think, false, &json), None);
        }
        assert_eq!(answer(ThinkMode::Off, false, &[" \n"]), None);
    }

    #[test]
    fn no_more_is_kept_than_any_model_writes() {
        let mut kept = KeptReasoning::new(ThinkMode::Off, false).expect("kept");
        assert!(kept.push(&"x".repeat(MAX_REASONING_BYTES)));
        assert!(!kept.push("x"));
    }
}
