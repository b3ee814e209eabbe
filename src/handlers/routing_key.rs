//! What a conversation is known by, so that it can stay at one replica: the id of its session where the client
//! names one, else its system prompt and its first user message. Only read where a strategy needs it.
//!
//! Names of sessions: `prompt_cache_key` (OpenAI API reference), `session_id` (OpenRouter API reference),
//! the headers `session-id` and `session_id` (openai/codex), and `x-claude-code-session-id` (Claude Code).

use super::Context;
use crate::api::ollama::request::{ChatRequest, GenerateRequest};
use crate::api::openai::raw_object::{self, RawObject};
use crate::api::openai::request::Content;
use crate::translate::context_codec;
use crate::upstream::router::rendezvous::ConversationKey;

const SESSION_HEADERS: [&str; 3] = ["x-claude-code-session-id", "session-id", "session_id"];

const SESSION_MEMBERS: [&str; 2] = ["prompt_cache_key", "session_id"];

/// The key of the session that the client names in a header.
fn of_session(context: &Context<'_>) -> Option<ConversationKey> {
    let header = |name: &&'static str| context.exchange.header(name);
    let id = SESSION_HEADERS.iter().find_map(header).filter(|id| !id.is_empty())?;
    Some(ConversationKey::new([id]))
}

/// The key of a conversation of `/api/chat`, or of one that was translated to it.
pub(super) fn of_chat(context: &Context<'_>, chat: &ChatRequest<'_>) -> ConversationKey {
    of_session(context).unwrap_or_else(|| {
        let messages = chat.messages.as_deref().unwrap_or_default();
        let first = |wanted: &[&str]| {
            let has_role = |role: &str| wanted.iter().any(|it| role.eq_ignore_ascii_case(it));
            let mut all = messages.iter();
            let message = all.find(|it| it.role.as_deref().is_some_and(has_role));
            message.and_then(|message| message.content.as_deref()).unwrap_or_default()
        };
        ConversationKey::new([first(&["system", "developer"]), first(&["user"])])
    })
}

/// The key of a conversation of `/api/generate`, which `context` continues.
pub(super) fn of_generate(request: &GenerateRequest<'_>) -> ConversationKey {
    let numbers: Vec<i64> = request.context.iter().flatten().map(|number| number.0).collect();
    let earlier = context_codec::decode(&numbers);
    let first = earlier.iter().find(|it| it.role == "user");
    let earlier = first.and_then(|message| match &message.content {
        Content::Text(text) => Some(&**text),
        _ => None,
    });
    let prompt = earlier.or(request.prompt.as_deref()).unwrap_or_default();
    ConversationKey::new([request.system.as_deref().unwrap_or_default(), prompt])
}

/// The key of a request in one of OpenAI's forms.
pub(super) fn of_object(context: &Context<'_>, object: &RawObject<'_>) -> ConversationKey {
    let session = SESSION_MEMBERS.iter().find_map(|name| object.get_string(name));
    if let Some(session) = session.filter(|session| !session.is_empty()) {
        return ConversationKey::new([session.as_str()]);
    }
    of_session(context).unwrap_or_else(|| {
        let member = |name: &str| object.get(name).unwrap_or_default();
        let items = member(if object.has_value("messages") { "messages" } else { "input" });
        let Some(items) = raw_object::parse_items(items) else {
            return ConversationKey::new([member("instructions"), items, member("prompt")]);
        };
        let first = |wanted: &[&str]| {
            let is_wanted = |item: &&&str| {
                let role = RawObject::parse(item).and_then(|item| item.get_string("role"));
                role.is_some_and(|role| wanted.contains(&role.as_str()))
            };
            items.iter().find(is_wanted).copied().unwrap_or_default()
        };
        let parts = [member("instructions"), first(&["system", "developer"]), first(&["user"])];
        let is_list_of_texts = parts.iter().all(|part| part.is_empty());
        ConversationKey::new(if is_list_of_texts { items } else { parts.to_vec() })
    })
}
