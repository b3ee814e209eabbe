//! Reads rejections of a conversation that ends with the assistant's words, which Ollama continues.
//!
//! Servers that can continue a message want to be told so, or do it only without reasoning; others are
//! asked to go on by a message behind it. Invariant: the assistant's words stay.

use super::{Repair, Repairable};
use crate::api::openai::request::CONTINUE_FINAL_MESSAGE;

/// The request for a continuation, where the upstream accepts no assistant's message at the end.
pub(in crate::upstream::repair) const GO_ON: &str =
    "Go on exactly where your last message stops. Repeat nothing of it.";

/// The variables of a chat template (vLLM, SGLang, llama.cpp).
pub(in crate::upstream::repair) const TEMPLATE_KWARGS: &str = "chat_template_kwargs";

/// Words about the last message of a conversation.
const LAST_MESSAGE_WORDS: &[&str] = &[
    "prefill",
    "last role",
    "last message",
    "final message",
    "last turn",
    "final turn",
    "must end with",
    "cannot end with",
    "can't end with",
    "should end with",
    "ends with an assistant",
    "end with a user",
];

/// The repair for a rejected continuation.
pub(super) fn plan_prefill_repair(text: &str, request: &impl Repairable) -> Option<Repair> {
    if !request.ends_with_assistant() {
        return None;
    }
    let mentions = |words: &[&str]| words.iter().any(|words| text.contains(words));
    let has_switch = request.has_field(CONTINUE_FINAL_MESSAGE[0].0);
    if mentions(&CONTINUE_FINAL_MESSAGE.map(|(name, _)| name)) && !has_switch {
        return Some(Repair::ContinueFinalMessage);
    }
    if mentions(&["thinking", "reasoning"])
        && mentions(LAST_MESSAGE_WORDS)
        && !is_thinking_disabled(request)
    {
        return Some(Repair::DisableThinkingForPrefill);
    }
    (mentions(LAST_MESSAGE_WORDS)
        || (has_switch && mentions(&CONTINUE_FINAL_MESSAGE.map(|(name, _)| name))))
    .then_some(Repair::AskToGoOn)
}

fn is_thinking_disabled(request: &impl Repairable) -> bool {
    let kwargs = request.sampling().and_then(|sampling| sampling.get(TEMPLATE_KWARGS));
    kwargs.is_some_and(|kwargs| kwargs["enable_thinking"] == false)
}
