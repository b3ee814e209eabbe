//! `/v1/responses` over an upstream that has only chat completions (ollama-api.md 14.6).
//!
//! Called by the pass-through once the upstream said that it has no such route, and from then on.
//! Faults are told in Ollama's order: the body and what it says, then what `/api/chat` looks at.

use super::chat_generate;
use super::chat_generate::{Asked, Common};
use super::{Context, model_is_required, relay};
use crate::api::ollama::decode;
use crate::api::openai::responses::ResponsesRequest;
use crate::error::{Error, Result};
use crate::translate::responses;
use crate::translate::responses::response_object::{Echo, Ids};
use crate::translate::responses::stream::ResponseEncoder;

/// Translates a request to chat completions and the answer back. `body` is decompressed.
pub(super) fn responses(context: &mut Context<'_>, body: Vec<u8>) -> Result<()> {
    let text = decode::text(body)?;
    let request: ResponsesRequest<'_> = decode::parse(&text, "openai.ResponsesRequest")?;
    let mut chat = responses::to_chat(&request)?;
    let common =
        Common { model: request.model.as_ref(), think: chat.think.as_ref(), ..Common::default() };
    let mut asked = Asked::read(context, &common, "chat", model_is_required)?;
    if chat.messages.as_ref().is_none_or(Vec::is_empty) {
        return Err(nothing_is_said());
    }
    asked.tools = chat.tools.as_ref().is_some_and(|tools| !tools.is_empty());
    let overlay = asked.overlay.clone();
    overlay.iter().for_each(|model| model.lay_over_chat(&mut chat));
    let family_matters = chat.format.is_some();
    let resolved = chat_generate::resolve(context, &asked, chat.options.as_ref(), family_matters)?;
    let in_use = chat_generate::begin(context.app, &resolved, &asked, chat.options.as_ref());
    let mut upstream = responses::to_openai(&request, &chat, &resolved.id, resolved.profile)?;
    let stream = request.stream.unwrap_or(false);
    let answer = chat_generate::ask_chat(context, &mut upstream, stream)?;
    chat_generate::confirm(context, &resolved, &asked)?;
    let wanted = (asked.think, None, std::mem::take(&mut upstream.watched_stop));
    let ids = Ids::new(number(&context.trace.request_id));
    let mut encoder = ResponseEncoder::new(Echo::of(&request, asked.shown()), ids);
    // A long answer need not hold a large question.
    drop(upstream);
    drop(chat);
    drop(request);
    drop(text);
    relay::relay(context, answer, &mut encoder, wanted, stream, in_use)
}

/// Ollama would load the model and answer with nothing, which tells nobody what is wrong.
fn nothing_is_said() -> Error {
    Error::invalid("[] is too short - 'input'")
}

/// The digits of a request's id as a number, which is in the log as well.
fn number(request_id: &str) -> u64 {
    u64::from_str_radix(request_id.trim_start_matches("req_"), 16).unwrap_or_default()
}
