//! `/v1/messages`, Anthropic's protocol (ollama-api.md 15).
//!
//! Faults are told in Ollama's order: the body, what each request must have, its blocks and schemas,
//! then whatever `/api/chat` says of the name, the model and the upstream. Keys, versions and beta
//! features that clients send along are not looked at.

use super::chat_generate::{ModelRequest, begin_use, recheck_model, resolve_model, send_chat};
use super::{Context, model_required_error, relay};
use crate::api::anthropic::request::{GO_TYPE_NAME, MessagesRequest};
use crate::api::anthropic::response::CountTokensResponse;
use crate::api::ollama::decode;
use crate::api::wire::ndjson;
use crate::error::Result;
use crate::http::exchange::ContentType;
use crate::translate::anthropic::stream::MessageEncoder;
use crate::translate::anthropic::{self, estimate_tokens, to_ollama, validate};
use crate::translate::think::{self, ThinkMode};

/// `POST /v1/messages`. `body` is decompressed.
pub(super) fn messages(context: &mut Context<'_>, body: Vec<u8>) -> Result<()> {
    let text = decode::decode_body(body)?;
    let request: MessagesRequest<'_> = decode::parse(&text, GO_TYPE_NAME)?;
    validate(&request, true)?;
    let mut chat = to_ollama(&request)?;
    let name = context.parse_model_name(request.model.as_deref(), model_required_error)?;
    let shown = request.model.as_deref().unwrap_or_default().to_owned();
    let overlay = context.app.find_virtual_model(&name);
    overlay.iter().for_each(|model| model.apply_to_chat(&mut chat));
    let mut think = think::parse(chat.think.as_ref())?;
    let tools = chat.tools.as_ref().is_some_and(|tools| !tools.is_empty());
    let asked = ModelRequest::for_chat(name, shown, tools, overlay.clone());
    let family_matters = think != ThinkMode::Unset;
    let resolved = resolve_model(context, &asked, chat.options.as_ref(), family_matters)?;
    if resolved.capabilities.thinking == Some(false) && think != ThinkMode::Off {
        // No error here: who does not think is not asked to (15.1).
        (think, chat.think) = (ThinkMode::Unset, None);
    }
    let in_use = begin_use(context.app, &resolved, &asked, chat.options.as_ref());
    let mut upstream = anthropic::to_openai(&request, &chat, &resolved.id, resolved.profile)?;
    let stream = request.stream.unwrap_or(false);
    let answer = send_chat(context, &mut upstream, stream)?;
    recheck_model(context, &resolved, &asked)?;
    let seed = context.trace.request_id.clone();
    let mut encoder = MessageEncoder::new(asked.requested_name(), &seed, estimate_tokens(&chat));
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
    let text = decode::decode_body(body)?;
    let request: MessagesRequest<'_> = decode::parse(&text, GO_TYPE_NAME)?;
    validate(&request, false)?;
    let mut chat = to_ollama(&request)?;
    let name = context.parse_full_model_name(request.model.as_deref(), model_required_error)?;
    let overlay = context.app.find_virtual_model(&name);
    overlay.iter().for_each(|model| model.apply_to_chat(&mut chat));
    let mut out = ndjson::to_vec(&CountTokensResponse { input_tokens: estimate_tokens(&chat) });
    out.push(b'\n');
    context.exchange.respond(200, ContentType::BareJson, &out)
}
