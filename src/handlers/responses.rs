//! `/v1/responses` over an upstream that has only chat completions (ollama-api.md 14.6).
//!
//! Called by the pass-through once the upstream said that it has no such route, and from then on.
//! Faults are told in Ollama's order: the body and what it says, then what `/api/chat` looks at.

use super::chat_generate;
use super::chat_generate::{CommonFields, ModelRequest};
use super::{Context, model_required_error, relay};
use crate::api::ollama::decode;
use crate::api::openai::responses::ResponsesRequest;
use crate::error::{Error, Result};
use crate::translate::responses;
use crate::translate::responses::response_object::{RequestEcho, ResponseIds};
use crate::translate::responses::stream::ResponseEncoder;

/// Translates a request to chat completions and the answer back. `body` is decompressed.
pub(super) fn responses(context: &mut Context<'_>, body: Vec<u8>) -> Result<()> {
    let text = decode::decode_body(body)?;
    let request: ResponsesRequest<'_> = decode::parse(&text, "openai.ResponsesRequest")?;
    let mut chat = responses::to_chat(&request)?;
    let common = CommonFields {
        model: request.model.as_ref(),
        think: chat.think.as_ref(),
        ..CommonFields::default()
    };
    let mut asked = ModelRequest::parse(context, &common, "chat", model_required_error)?;
    if chat.messages.as_ref().is_none_or(Vec::is_empty) {
        return Err(empty_input_error());
    }
    asked.uses_tools = chat.tools.as_ref().is_some_and(|tools| !tools.is_empty());
    let overlay = asked.virtual_model.clone();
    overlay.iter().for_each(|model| model.apply_to_chat(&mut chat));
    let family_matters = chat.format.is_some();
    let resolved =
        chat_generate::resolve_model(context, &asked, chat.options.as_ref(), family_matters)?;
    let in_use = chat_generate::begin_use(context.app, &resolved, &asked, chat.options.as_ref());
    let mut upstream = responses::to_openai(&request, &chat, &resolved.id, resolved.profile)?;
    let stream = request.stream.unwrap_or(false);
    let answer = chat_generate::send_chat(context, &mut upstream, stream)?;
    chat_generate::recheck_model(context, &resolved, &asked)?;
    let wanted = (asked.think, None, std::mem::take(&mut upstream.watched_stop));
    let ids = ResponseIds::new(parse_request_number(&context.trace.request_id));
    let mut encoder =
        ResponseEncoder::new(RequestEcho::from_request(&request, asked.requested_name()), ids);
    // A long answer need not hold a large question.
    drop(upstream);
    drop(chat);
    drop(request);
    drop(text);
    relay::relay(context, answer, &mut encoder, wanted, stream, in_use)
}

/// Ollama would load the model and answer with nothing, which tells nobody what is wrong.
fn empty_input_error() -> Error {
    Error::invalid_request("[] is too short - 'input'")
}

/// The digits of a request's id as a number, which is in the log as well.
fn parse_request_number(request_id: &str) -> u64 {
    u64::from_str_radix(request_id.trim_start_matches("req_"), 16).unwrap_or_default()
}
