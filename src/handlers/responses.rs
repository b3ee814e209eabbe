//! `/v1/responses`, passed on or translated for an upstream that has only chat completions.
//!
//! The first rejection by the upstream decides, and holds for an hour. What a request refers to is put
//! into it before it is translated (`response_state`). An error that clients of a stream only act by as an
//! event is one, see [`failure`]; all others have their status. Invariant: errors of a translated request
//! come in Ollama's order, first the body and what it says, then what `/api/chat` checks.

use std::time::{Instant, SystemTime};

use super::model_request::{CommonFields, ModelRequest};
use super::response_state::{KeepingEncoder, References, Started};
use super::{
    Context, decompress, model_required_error, pass_through, relay, responses_compact, routing_key,
};
use crate::api::ollama::decode;
use crate::api::openai::raw_object::RawObject;
use crate::api::openai::responses::ResponsesRequest;
use crate::error::{Error, Result};
use crate::observe::timestamp;
use crate::translate::chat::is_family_specific;
use crate::translate::generate::UpstreamRequest;
use crate::translate::pass_through::Endpoint;
use crate::translate::responses;
use crate::translate::responses::compaction::invalid;
use crate::translate::responses::failure;
use crate::translate::responses::response_object::RequestEcho;
use crate::translate::responses::stream::ResponseEncoder;
use crate::translate::stream::Encoder;

/// `POST /v1/responses`: passed on until the upstream says that it has no such route, translated to chat
/// completions then.
pub(super) fn responses(context: &mut Context<'_>) -> Result<()> {
    let mut body = decompress::read_body(context)?;
    // Where one upstream of several lacks the route, the request is translated for all of them.
    let first = pass_through::first_upstream(context, &body);
    if !first.lacks_responses.is_known(Instant::now()) {
        let rejected = pass_through::pass_buffered(context, Endpoint::Responses, body)?;
        let Some(rejected) = rejected else { return Ok(()) };
        body = rejected;
    }
    let Started { reply, mut encoder, stream } = start_translated(context, body)?;
    let result = reply.and_then(|reply| relay::relay(context, &mut encoder, reply));
    match result {
        Err(error) if stream && failure::is_told_by_event(&error) => {
            fail_by_event(context, &mut encoder, error)
        }
        result => result,
    }
}

/// Answers with a stream that only tells of a failure, unless something else was sent before.
fn fail_by_event(
    context: &mut Context<'_>,
    encoder: &mut KeepingEncoder<'_>,
    error: Error,
) -> Result<()> {
    if context.exchange.has_begun() || context.exchange.is_done() {
        return Err(error);
    }
    let mut events = Vec::new();
    encoder.encode_failure(&mut events, &timestamp::to_rfc3339(SystemTime::now()), &error);
    context.name_upstream();
    context.exchange.start_events();
    context.exchange.push_line(&events);
    context.trace.reported_error = Some(error);
    context.exchange.end()
}

/// True for an attempt to open a WebSocket on the route of responses, which only OpenAI's servers have.
/// Codex sends HTTP requests at once after a 426, and repeats the attempt after any other error.
pub(super) fn wants_websocket(context: &Context<'_>, pattern: &str) -> bool {
    let upgrade = context.exchange.header("Upgrade").unwrap_or_default();
    let mut protocols = upgrade.split(',').map(|protocol| protocol.split('/').next());
    pattern == "/v1/responses"
        && context.exchange.method() == "GET"
        && protocols.any(|name| name.is_some_and(|it| it.trim().eq_ignore_ascii_case("websocket")))
}

#[inline(never)] // Not inlined, so that its stack is free while the response is relayed.
fn start_translated<'a>(context: &mut Context<'a>, body: Vec<u8>) -> Result<Started<'a>> {
    context.charge_parsed(&body)?;
    let text = decode::decode_body(body)?;
    let mut request: ResponsesRequest<'_> = decode::parse(&text, "openai.ResponsesRequest")?;
    let references = References::find(context, &request)?;
    let (ids, mut pending, mut joined) = (responses_compact::new_ids(), None, None);
    if let Some(input) = references.resolve(request.input)? {
        input.account(context, false)?;
        pending = references.keep(context.app.state, &request, &input, &ids.response_id);
        if input.has_trigger {
            if request.stream != Some(true) {
                return Err(invalid("compaction_trigger requires stream=true"));
            }
            let input = &input.expanded;
            return responses_compact::start(context, &request, input, (ids, pending), true);
        }
        joined = input.join();
    }
    request.input = joined.as_deref().or(request.input);
    let mut translated = responses::to_chat(&request)?;
    context.log_skipped(&translated.skipped);
    let chat = &mut translated.chat;
    let common = CommonFields { model: request.model.as_deref(), ..CommonFields::default() };
    let mut model_request = ModelRequest::parse(context, &common, "chat", model_required_error)?;
    if chat.messages.as_ref().is_none_or(Vec::is_empty) {
        // Ollama instead loads the model and sends an empty response, which does not show the client
        // its mistake.
        return Err(Error::invalid_request("[] is too short - 'input'"));
    }
    model_request.uses_tools = chat.tools.as_ref().is_some_and(|tools| !tools.is_empty());
    model_request.virtual_model.iter().for_each(|model| model.apply_to_chat(chat));
    let needs_profile = chat.think.is_some() || chat.format.is_some() || is_family_specific(chat);
    let key = || match RawObject::parse(&text) {
        Some(object) => routing_key::of_object(context, &object),
        None => routing_key::of_chat(context, chat),
    };
    let routing = model_request.routing(context, chat.options.as_ref(), needs_profile, key);
    let (stream, think) = (request.stream.unwrap_or(false), chat.think.clone());
    context.allow_early_start(stream);
    let (app, name) = (context.app, &model_request.requested_name);
    let reply = routing.run((context.app, context.trace), name, |trace, resolved| {
        let chat = &mut translated.chat;
        let mut begun = model_request.begin(app, resolved, chat.options.as_ref())?;
        chat.think.clone_from(&think);
        begun.fit_think(&mut chat.think);
        let (id, profile) = begun.model();
        let upstream = UpstreamRequest::Chat(responses::to_openai(&translated, &id, profile)?);
        model_request.send((app, trace), begun, upstream, stream)
    });
    let echo = RequestEcho::from_request(&request, &model_request.requested_name);
    let events = ResponseEncoder::new(echo, ids, translated.tool_names);
    Ok(Started { reply, encoder: KeepingEncoder::new(events, None, pending), stream })
}
