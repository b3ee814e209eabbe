//! `/v1/messages`, Anthropic's protocol (ollama-api.md 15).
//!
//! Faults are told in Ollama's order: the body, what each request must have, its blocks and schemas,
//! then whatever `/api/chat` says of the name, the model and the upstream. Keys, versions and beta
//! features that clients send along are not looked at.

use super::chat_generate::{Asked, ask_chat, begin, confirm, resolve};
use super::{Context, model_is_required, relay};
use crate::api::anthropic::request::{MessagesRequest, NAME};
use crate::api::anthropic::response::Count;
use crate::api::ollama::decode;
use crate::api::wire::ndjson;
use crate::error::Result;
use crate::http::exchange::ContentType;
use crate::translate::anthropic::stream::MessageEncoder;
use crate::translate::anthropic::{self, check, estimate, to_ollama};
use crate::translate::think::{self, Think};

/// `POST /v1/messages`. `body` is decompressed.
pub(super) fn messages(context: &mut Context<'_>, body: Vec<u8>) -> Result<()> {
    let text = decode::text(body)?;
    let request: MessagesRequest<'_> = decode::parse(&text, NAME)?;
    check(&request, true)?;
    let mut chat = to_ollama(&request)?;
    let name = context.name(request.model.as_deref(), model_is_required)?;
    let shown = request.model.as_deref().unwrap_or_default().to_owned();
    let overlay = context.app.overlay(&name);
    overlay.iter().for_each(|model| model.lay_over_chat(&mut chat));
    let mut think = think::read(chat.think.as_ref())?;
    let tools = chat.tools.as_ref().is_some_and(|tools| !tools.is_empty());
    let asked = Asked::talk(name, shown, tools, overlay.clone());
    let family_matters = think != Think::Unset;
    let resolved = resolve(context, &asked, chat.options.as_ref(), family_matters)?;
    if resolved.abilities.thinking == Some(false) && think != Think::Off {
        // No error here: who does not think is not asked to (15.1).
        (think, chat.think) = (Think::Unset, None);
    }
    let in_use = begin(context.app, &resolved, &asked, chat.options.as_ref());
    let mut upstream = anthropic::to_openai(&request, &chat, &resolved.id, resolved.profile)?;
    let stream = request.stream.unwrap_or(false);
    let answer = ask_chat(context, &mut upstream, stream)?;
    confirm(context, &resolved, &asked)?;
    let seed = context.trace.request_id.clone();
    let mut encoder = MessageEncoder::new(asked.shown(), &seed, estimate(&chat));
    let wanted = (think, None, std::mem::take(&mut upstream.watched_stop));
    // A long answer need not hold a large question.
    drop(upstream);
    drop(chat);
    drop(request);
    drop(text);
    relay::relay(context, answer, &mut encoder, wanted, stream, in_use)
}

/// `POST /v1/messages/count_tokens`. `body` is decompressed. Nobody is asked: it is an estimate, of
/// what would be sent.
pub(super) fn count_tokens(context: &mut Context<'_>, body: Vec<u8>) -> Result<()> {
    let text = decode::text(body)?;
    let request: MessagesRequest<'_> = decode::parse(&text, NAME)?;
    check(&request, false)?;
    let mut chat = to_ollama(&request)?;
    let name = context.any_name(request.model.as_deref(), model_is_required)?;
    let overlay = context.app.overlay(&name);
    overlay.iter().for_each(|model| model.lay_over_chat(&mut chat));
    let mut out = ndjson::to_vec(&Count { input_tokens: estimate(&chat) });
    out.push(b'\n');
    context.exchange.answer(200, ContentType::BareJson, &out)
}
