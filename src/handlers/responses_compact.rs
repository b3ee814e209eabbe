//! Compaction of a conversation: `/v1/responses/compact`, and `/v1/responses` with a trigger.
//!
//! Passed on to an upstream that has the routes of responses; otherwise one chat request asks the model for
//! a summary. Never declares a tool, because many models would call one instead. Invariant: a
//! conversation that exceeds the context is compacted without its oldest turns instead of being refused.

use std::time::Instant;

use super::model_request::{CommonFields, ModelRequest};
use super::response_state::{KeepingEncoder, References, Started};
use super::response_store::PendingResponse;
use super::{Context, decompress, model_required_error, pass_through, relay, routing_key};
use crate::api::ollama::decode::{self, non_empty};
use crate::api::openai::responses::ResponsesRequest;
use crate::error::{Error, Result};
use crate::translate::chat;
use crate::translate::chat::is_family_specific;
use crate::translate::generate::UpstreamRequest;
use crate::translate::pass_through::Endpoint;
use crate::translate::responses::compaction::encoder::CompactionEncoder;
use crate::translate::responses::compaction::request::{self, Conversation};
use crate::translate::responses::compaction::{self, Expanded, invalid};
use crate::translate::responses::items;
use crate::translate::responses::response_object::{RequestEcho, ResponseIds};
use crate::translate::responses::stream::ResponseEncoder;
use crate::translate::tool_names::ToolNames;

/// `POST /v1/responses/compact`.
pub(super) fn compact(context: &mut Context<'_>) -> Result<()> {
    pass_or_compact(context).map_err(name_error)
}

/// Gives the errors of a request the code that Ollama's have on this route.
fn name_error(error: Error) -> Error {
    match error {
        Error::InvalidRequest(text) => invalid(text),
        Error::MissingBody => invalid(error.message()),
        error => error,
    }
}

fn pass_or_compact(context: &mut Context<'_>) -> Result<()> {
    let body = decompress::read_body(context);
    let mut body = body.map_err(|error| match error {
        Error::InvalidRequest(_) => invalid("failed to decompress zstd body"),
        error => error,
    })?;
    let first = pass_through::first_upstream(context, &body);
    if !first.lacks_responses.is_known(Instant::now()) {
        let rejected = pass_through::pass_buffered(context, Endpoint::ResponsesCompact, body)?;
        let Some(rejected) = rejected else { return Ok(()) };
        body = rejected;
    }
    let Started { reply, mut encoder, .. } = start_whole(context, body)?;
    relay::relay(context, &mut encoder, reply?)
}

#[inline(never)] // Not inlined, so that its stack is free while the model writes.
fn start_whole<'a>(context: &mut Context<'a>, body: Vec<u8>) -> Result<Started<'a>> {
    context.charge_parsed(&body)?;
    let text = decode::decode_body(body)?;
    let request: ResponsesRequest<'_> = decode::parse(&text, "openai.ResponsesCompactRequest")?;
    if non_empty(request.model.as_deref()).is_none() {
        return Err(model_required_error());
    }
    let references = References::find(context, &request)?;
    if request.input.is_none() && !references.has_previous() {
        return Err(invalid("input is required"));
    }
    let input = references.resolve(request.input)?.ok_or_else(|| wrong_input(&request))?;
    if input.has_trigger {
        return Err(invalid("compaction_trigger is only valid on POST /v1/responses"));
    }
    compaction::check(&items::split(request.input).unwrap_or_default())?;
    input.account(context, true)?;
    start(context, &request, &input.expanded, (new_ids(), None), false)
}

fn wrong_input(request: &ResponsesRequest<'_>) -> Error {
    let found = request.input.map_or("null", |input| decode::go_type_of(input.get()));
    Error::invalid_request(format!("input must be a string or array, got {found}"))
}

/// The ids of a response that nobody can guess.
pub(super) fn new_ids() -> ResponseIds {
    ResponseIds::new(rand::random())
}

/// Asks the upstream for a summary of a conversation.
pub(super) fn start<'a>(
    context: &mut Context<'a>,
    request: &ResponsesRequest<'_>,
    input: &Expanded<'_>,
    (ids, pending): (ResponseIds, Option<PendingResponse<'a>>),
    stream: bool,
) -> Result<Started<'a>> {
    let conversation =
        Conversation::new(input).ok_or_else(|| invalid("compaction input is empty"))?;
    let mut chat = request::to_chat(request, &conversation, stream);
    let common = CommonFields {
        model: request.model.as_deref(),
        think: chat.think.as_ref(),
        ..CommonFields::default()
    };
    let model_request = ModelRequest::parse(context, &common, "chat", model_required_error)?;
    let virtual_model = &model_request.virtual_model;
    // Its prompt and its messages are no part of this conversation.
    virtual_model.iter().for_each(|model| model.apply_to_options(&mut chat.options));
    let options = chat.options.as_ref();
    let key = || routing_key::of_chat(context, &chat);
    let routing = model_request.routing(context, options, is_family_specific(&chat), key);
    context.allow_early_start(stream);
    let (app, name) = (context.app, &model_request.requested_name);
    let reply = routing.run((context.app, context.trace), name, |trace, resolved| {
        let begun = model_request.begin(app, resolved, chat.options.as_ref())?;
        let (id, profile) = begun.model();
        let upstream = UpstreamRequest::Chat(chat::to_openai(&chat, &id, profile)?);
        model_request.send((app, trace), begun, upstream, stream)
    });
    let echo = RequestEcho::from_request(request, &model_request.requested_name);
    let events = ResponseEncoder::new(echo, ids.clone(), ToolNames::default());
    let compaction = CompactionEncoder::new(ids, conversation.retained);
    Ok(Started { reply, encoder: KeepingEncoder::new(events, Some(compaction), pending), stream })
}
