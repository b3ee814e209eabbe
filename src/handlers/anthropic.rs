//! `/v1/messages`, Anthropic's protocol.
//!
//! Never looks at the keys, versions and beta features that clients send along. Invariant: errors come in
//! Ollama's order: the body, what each request must have, its blocks and schemas, then what `/api/chat`
//! says of the name, the model and the upstream.

use super::model_request::{CommonFields, ModelRequest, PendingReply};
use super::{Context, model_required_error, relay};
use crate::api::anthropic::request::{GO_TYPE_NAME, MessagesRequest};
use crate::api::anthropic::response::CountTokensResponse;
use crate::api::ollama::decode;
use crate::api::wire::ndjson;
use crate::backends::errors;
use crate::backends::errors::ErrorDetails;
use crate::error::{Error, Result};
use crate::http::exchange::ContentType;
use crate::translate::anthropic::stream::MessageEncoder;
use crate::translate::anthropic::{self, estimate_tokens, has_cache_marks, to_ollama, validate};
use crate::translate::chat::is_family_specific;
use crate::translate::generate::UpstreamRequest;
use crate::translate::think::{self, ThinkMode};
use crate::upstream::repair::find_window_and_prompt;

/// Anthropic's words for a prompt that exceeds the context.
const OVERFLOW: &str = "prompt is too long";

/// `POST /v1/messages`.
pub(super) fn messages(context: &mut Context<'_>, text: String) -> Result<()> {
    let (reply, name, input_tokens) = start_messages(context, text).map_err(name_overflow)?;
    let mut encoder = MessageEncoder::new(&name, &context.trace.request_id, input_tokens);
    relay::relay(context, &mut encoder, reply).map_err(name_overflow)
}

/// Says in Anthropic's words that a prompt exceeds the context: clients shorten the conversation when an
/// error begins with these, and are stuck otherwise (Anthropic API reference, errors).
fn name_overflow(mut error: Error) -> Error {
    let (Error::UpstreamStatus { message, .. } | Error::UpstreamInBand { message, .. }) =
        &mut error
    else {
        return error;
    };
    let details = ErrorDetails { message: message.clone(), ..ErrorDetails::default() };
    let begins_so =
        message.get(..OVERFLOW.len()).is_some_and(|it| it.eq_ignore_ascii_case(OVERFLOW));
    if errors::is_context_overflow(&details) && !begins_so {
        let counts = find_window_and_prompt(message)
            .map(|(window, prompt)| format!("{prompt} tokens > {window} maximum"));
        *message = format!("{OVERFLOW}: {}", counts.as_deref().unwrap_or(message));
    }
    error
}

/// Asks the upstream, and returns the model's name as the client sent it and an estimate of the tokens.
#[inline(never)] // Not inlined, so that its stack is free while the response is relayed.
fn start_messages<'a>(
    context: &mut Context<'a>,
    text: String,
) -> Result<(PendingReply<'a>, String, u64)> {
    let request: MessagesRequest<'_> = decode::parse(&text, GO_TYPE_NAME)?;
    validate(&request, true)?;
    let mut chat = to_ollama(&request)?;
    let common = CommonFields { model: request.model.as_deref(), ..CommonFields::default() };
    let mut model_request = ModelRequest::parse(context, &common, "chat", model_required_error)?;
    model_request.virtual_model.iter().for_each(|model| model.apply_to_chat(&mut chat));
    let think = think::parse(chat.think.as_ref())?;
    model_request.uses_tools = chat.tools.as_ref().is_some_and(|tools| !tools.is_empty());
    let needs_profile =
        think != ThinkMode::Unset || is_family_specific(&chat) || has_cache_marks(&chat);
    let (resolved, in_use) = model_request.begin(context, chat.options.as_ref(), needs_profile)?;
    if resolved.capabilities.thinking == Some(false) && think != ThinkMode::Off {
        // Not an error on this route: a model that cannot think is not asked to.
        chat.think = None;
    } else {
        model_request.think = think;
    }
    let upstream = anthropic::to_openai(&request, &chat, &resolved.id, resolved.profile)?;
    let upstream = UpstreamRequest::Chat(upstream);
    let stream = request.stream.unwrap_or(false);
    let reply = model_request.send(context, (&resolved, in_use), upstream, stream)?;
    Ok((reply, model_request.requested_name, estimate_tokens(&chat)))
}

/// `POST /v1/messages/count_tokens`. The upstream is not asked: this is an
/// estimate of what would be sent.
pub(super) fn count_tokens(context: &mut Context<'_>, text: String) -> Result<()> {
    let request: MessagesRequest<'_> = decode::parse(&text, GO_TYPE_NAME)?;
    validate(&request, false)?;
    let mut chat = to_ollama(&request)?;
    let app = context.app;
    let name =
        app.parse_full_model_name(request.model.as_deref(), context.trace, model_required_error)?;
    let virtual_model = context.app.store.get(&name);
    virtual_model.iter().for_each(|model| model.apply_to_chat(&mut chat));
    let mut out = ndjson::to_vec(&CountTokensResponse { input_tokens: estimate_tokens(&chat) });
    out.push(b'\n');
    context.exchange.respond(200, ContentType::BARE_JSON, &out)
}
