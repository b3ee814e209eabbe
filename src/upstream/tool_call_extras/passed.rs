//! Extras in requests that are passed on.
//!
//! Never touches a message that lacks nothing. Invariant: a body of whose calls nothing is kept stays as
//! the client wrote it, and is not parsed any further if it has no calls.

use std::borrow::Cow;

use super::ToolCallExtras;
use crate::api::openai::raw_object::{self, RawObject};
use crate::translate::pass_through::PassBody;

const MESSAGES: &str = "messages";
const CALLS: &str = "tool_calls";
const EXTRA: &str = "extra_content";
const DETAILS: &str = "reasoning_details";

impl ToolCallExtras {
    /// Adds signatures and details to the calls of a conversation in OpenAI's own form that lack them.
    pub fn restore_in_body(&self, body: &mut PassBody<'_>) {
        if self.is_empty() {
            return;
        }
        let messages = body.object.get(MESSAGES).filter(|messages| messages.contains(CALLS));
        let Some(items) = messages.and_then(raw_object::parse_items) else { return };
        let mut is_changed = false;
        let restore = |item| match self.restore_in_message(item) {
            Some(restored) => {
                is_changed = true;
                Cow::Owned(restored)
            }
            None => Cow::Borrowed(item),
        };
        let items: Vec<Cow<'_, str>> = items.into_iter().map(restore).collect();
        if is_changed {
            let messages = raw_object::join_items(&items);
            body.object_mut().set(MESSAGES, messages);
        }
    }

    /// The reasoning that led to a call in OpenAI's own form.
    pub fn reasoning(&self, call: &RawObject<'_>) -> Option<String> {
        let [id, name, arguments] = identify(call);
        self.find_reasoning(&self.key(&id, &name, &arguments))
    }

    /// The message with what it lacks; `None` if it lacks nothing.
    fn restore_in_message(&self, message: &str) -> Option<String> {
        let mut message = RawObject::parse(message).filter(|_| message.contains(CALLS))?;
        let items = raw_object::parse_items(message.get(CALLS)?)?;
        let (mut is_changed, mut details) = (false, None);
        let wants_details = !message.has_value(DETAILS);
        let mut calls: Vec<Cow<'_, str>> = Vec::with_capacity(items.len());
        for item in items {
            let mut call = RawObject::parse(item)?;
            let [id, name, arguments] = identify(&call);
            let key = self.key(&id, &name, &arguments);
            if wants_details {
                details = details.or_else(|| self.find_details(&key, false));
            }
            let lacks_extra = !call.has_value(EXTRA);
            match lacks_extra.then(|| self.find_extra(&key, false)).flatten() {
                Some(extra) => {
                    is_changed = true;
                    call.set(EXTRA, extra);
                    calls.push(Cow::Owned(call.to_json()));
                }
                None => calls.push(Cow::Borrowed(item)),
            }
        }
        let calls = is_changed.then(|| raw_object::join_items(&calls));
        if calls.is_none() && details.is_none() {
            return None;
        }
        calls.into_iter().for_each(|calls| message.set(CALLS, calls));
        details.into_iter().for_each(|details| message.set(DETAILS, details));
        Some(message.to_json())
    }
}

/// The id, the function and the arguments of a call.
fn identify(call: &RawObject<'_>) -> [String; 3] {
    let function = call.get("function").and_then(RawObject::parse).unwrap_or_default();
    let text = |object: &RawObject<'_>, member| object.get_string(member).unwrap_or_default();
    [text(call, "id"), text(&function, "name"), text(&function, "arguments")]
}
