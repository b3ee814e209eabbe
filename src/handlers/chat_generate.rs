//! `/api/chat` and `/api/generate`.
//!
//! A request without a message or prompt loads or unloads the model, which the proxy answers by itself, unless
//! the model is a real Ollama's ([`super::native`]).
//! Never checks a body before the model unless Ollama does. Invariant: a function that asks the upstream
//! returns before the response is relayed, so that its stack does not lie below a long stream.

use super::model_request::{CommonFields, ModelRequest, PendingReply};
use super::native::{self, Reply};
use super::upload::no_key;
use super::{Context, empty_model_error, fill_in, model_required_error, relay, routing_key};
use crate::api::ollama::decode;
use crate::api::ollama::request::{ChatRequest, GenerateRequest};
use crate::error::{Error, Result};
use crate::http::exchange::ContentType;
use crate::models::virtual_model::NativeRoute;
use crate::observe::timestamp;
use crate::translate::chat::{self, ChatEncoder};
use crate::translate::context_codec::Conversation;
use crate::translate::generate::{self, GenerateEncoder, UpstreamRequest};

/// `POST /api/chat`.
#[inline(never)] // Not inlined, to keep other handlers' stack frames out of long streams.
pub(super) fn chat(context: &mut Context<'_>, text: String) -> Result<()> {
    match start_chat(context, text)? {
        None => Ok(()),
        Some((Reply::Native(reply), _)) => native::relay(context, reply),
        Some((Reply::Translated(reply), name)) => {
            relay::relay(context, &mut ChatEncoder { model: &name }, reply)
        }
    }
}

/// Asks the upstream, and returns the model's name as the client sent it; `None` where the proxy has
/// answered by itself.
#[inline(never)] // Not inlined, so that its stack is free while the response is relayed.
fn start_chat<'a>(
    context: &mut Context<'a>,
    text: String,
) -> Result<Option<(Reply<'a, PendingReply<'a>>, String)>> {
    let parse = || decode::parse::<ChatRequest<'_>>(&text, "ChatRequest");
    let key = |context: &Context<'_>| {
        parse().map_or_else(|_| no_key(), |request| routing_key::of_chat(context, &request))
    };
    let route = ("/api/chat", NativeRoute::Chat);
    let mut native = native::find_call(context, route, &text, key);
    let is_translatable = || {
        let has_messages =
            |it: &ChatRequest<'_>| it.messages.as_ref().is_some_and(|it| !it.is_empty());
        parse().is_ok_and(|it| has_messages(&it) && chat_fields(&it).check().is_ok())
    };
    if let Some(call) = native.take_if(|call| call.is_only_native(is_translatable)) {
        return Ok(Some((Reply::Native(call.run(context)?), String::new())));
    }
    let mut request = parse()?;
    let common = chat_fields(&request);
    // Ollama checks images and calls with the body. Here it is only done where there is an error.
    let first = |error, request: &_| chat::check_body(request).err().unwrap_or(error);
    let model_request = ModelRequest::parse(context, &common, "chat", model_required_error);
    let mut model_request = model_request.map_err(|error| first(error, &request))?;
    model_request.uses_tools = request.tools.as_ref().is_some_and(|tools| !tools.is_empty());
    let virtual_model = &model_request.virtual_model;
    virtual_model.iter().for_each(|model| model.apply_to_options(&mut request.options));
    if request.messages.as_ref().is_none_or(Vec::is_empty) {
        let reason = model_request.load_or_unload(context, request.options.as_ref(), Ok(()))?;
        let encoder = ChatEncoder { model: &model_request.requested_name };
        return send_object(context, |out, now| encoder.encode_empty(out, now, reason))
            .map(|()| None);
    }
    virtual_model.iter().for_each(|model| model.apply_to_chat(&mut request));
    // Some families express a format, or that a message is to be continued, in another way.
    let needs_profile = request.format.is_some() || chat::is_family_specific(&request);
    let key = || routing_key::of_chat(context, &request);
    let routing = model_request.routing(context, request.options.as_ref(), needs_profile, key);
    let (stream, think) = (request.stream.unwrap_or(true), request.think.clone());
    let (app, name) = (context.app, &model_request.requested_name);
    let reply = routing.run((context.app, context.trace), name, |trace, resolved| {
        if let Some(call) = native.as_ref().filter(|call| call.is_for(&resolved)) {
            return call.send((app, trace), resolved).map(Reply::Native);
        }
        let begun = model_request.begin(app, resolved, request.options.as_ref());
        let mut begun = begun.map_err(|error| first(error, &request))?;
        request.think.clone_from(&think);
        begun.fit_think(&mut request.think);
        let (id, profile) = begun.model();
        let upstream = UpstreamRequest::Chat(chat::to_openai(&request, &id, profile)?);
        model_request.send((app, trace), begun, upstream, stream).map(Reply::Translated)
    });
    let mut reply =
        reply.map_err(|error| unknown_model_last(error, |error| first(error, &request)))?;
    if let Reply::Translated(reply) = &mut reply {
        reply.logprobs = chat::top_logprobs(request.logprobs, request.top_logprobs);
    }
    Ok(Some((reply, model_request.requested_name)))
}

/// `POST /api/generate`.
#[inline(never)] // Not inlined, to keep other handlers' stack frames out of long streams.
pub(super) fn generate(context: &mut Context<'_>, text: String) -> Result<()> {
    match start_generate(context, text)? {
        None => Ok(()),
        Some((Reply::Native(reply), ..)) => native::relay(context, reply),
        Some((Reply::Translated(reply), name, conversation)) => {
            relay::relay(context, &mut GenerateEncoder::new(&name, conversation), reply)
        }
    }
}

/// A response that has begun, the model's name as the client sent it, and what `context` is to carry.
type StartedGenerate<'a> = (Reply<'a, PendingReply<'a>>, String, Option<Conversation>);

/// As [`start_chat`]; also returns what `context` is to carry, where it is asked for.
#[inline(never)] // Not inlined, so that its stack is free while the response is relayed.
fn start_generate<'a>(
    context: &mut Context<'a>,
    text: String,
) -> Result<Option<StartedGenerate<'a>>> {
    let parse = || decode::parse::<GenerateRequest<'_>>(&text, "GenerateRequest");
    let key = |_: &Context<'_>| {
        parse().map_or_else(|_| no_key(), |request| routing_key::of_generate(&request))
    };
    let route = ("/api/generate", NativeRoute::Generate);
    let mut native = native::find_call(context, route, &text, key);
    let is_translatable = || {
        let has_prompt =
            |it: &GenerateRequest<'_>| it.prompt.as_deref().is_some_and(|it| !it.is_empty());
        let is_plain =
            |it: &_| generate::check_raw(it).is_ok() && generate_fields(it).check().is_ok();
        parse().is_ok_and(|it| has_prompt(&it) && is_plain(&it))
    };
    if let Some(call) = native.take_if(|call| call.is_only_native(is_translatable)) {
        return Ok(Some((Reply::Native(call.run(context)?), String::new(), None)));
    }
    let mut request = parse()?;
    let common = generate_fields(&request);
    let first = |error, request: &_| generate::check_body(request).err().unwrap_or(error);
    let model_request = ModelRequest::parse(context, &common, "generate", empty_model_error);
    let model_request = model_request.map_err(|error| first(error, &request))?;
    let virtual_model = &model_request.virtual_model;
    virtual_model.iter().for_each(|model| model.apply_to_options(&mut request.options));
    let raw_conflict = generate::check_raw(&request);
    if request.prompt.as_deref().is_none_or(str::is_empty) {
        generate::check_body(&request)?;
        let encoder = GenerateEncoder::new(&model_request.requested_name, None);
        let reason =
            model_request.load_or_unload(context, request.options.as_ref(), raw_conflict)?;
        return send_object(context, |out, now| encoder.encode_empty(out, now, reason))
            .map(|()| None);
    }
    raw_conflict.map_err(|error| first(error, &request))?;
    virtual_model.iter().for_each(|model| model.apply_to_generate(&mut request));
    let stored = virtual_model.iter().flat_map(|model| model.stored_messages()).collect::<Vec<_>>();
    let fills_in = generate::has_suffix(&request);
    let needs_profile = fills_in || request.raw == Some(true) || request.format.is_some();
    let key = || routing_key::of_generate(&request);
    let routing = model_request.routing(context, request.options.as_ref(), needs_profile, key);
    let (stream, think) = (request.stream.unwrap_or(true), request.think.clone());
    let (app, name) = (context.app, &model_request.requested_name);
    let reply = routing.run((context.app, context.trace), name, |trace, resolved| {
        if let Some(call) = native.as_ref().filter(|call| call.is_for(&resolved)) {
            return call.send((app, trace), resolved).map(Reply::Native);
        }
        let begun = model_request.begin(app, resolved, request.options.as_ref());
        let mut begun = begun.map_err(|error| first(error, &request))?;
        request.think.clone_from(&think);
        begun.fit_think(&mut request.think);
        let (profile, fim) = (begun.resolved.profile, fill_in::endpoint(&begun.resolved));
        let (id, context_length) = (begun.resolved.id.clone(), begun.resolved.context_length);
        let model = (id.as_str(), context_length);
        let build = |fim| generate::to_openai_with_fim(&request, &stored, model, profile, fim);
        let upstream = build(fim)?;
        let reply = if fills_in {
            fill_in::send(&model_request, (app, trace), begun, upstream, stream, build)
        } else {
            model_request.send((app, trace), begun, upstream, stream)
        };
        reply.map(Reply::Translated)
    });
    let mut reply =
        reply.map_err(|error| unknown_model_last(error, |error| first(error, &request)))?;
    let conversation = generate::build_conversation(&request, &stored)?;
    if let Reply::Translated(reply) = &mut reply {
        reply.logprobs = chat::top_logprobs(request.logprobs, request.top_logprobs);
    }
    Ok(Some((reply, model_request.requested_name, conversation)))
}

fn chat_fields<'r>(request: &'r ChatRequest<'_>) -> CommonFields<'r> {
    CommonFields {
        model: request.model.as_deref(),
        keep_alive: request.keep_alive.as_ref(),
        think: request.think.as_ref(),
        top_logprobs: request.top_logprobs,
        debug_render_only: request._debug_render_only,
    }
}

fn generate_fields<'r>(request: &'r GenerateRequest<'_>) -> CommonFields<'r> {
    CommonFields {
        model: request.model.as_deref(),
        keep_alive: request.keep_alive.as_ref(),
        think: request.think.as_ref(),
        top_logprobs: request.top_logprobs,
        debug_render_only: request._debug_render_only,
    }
}

/// What is wrong with a body comes before an unknown model, as in Ollama.
fn unknown_model_last(error: Error, first: impl FnOnce(Error) -> Error) -> Error {
    if matches!(error, Error::ModelNotFound(_)) { first(error) } else { error }
}

/// Answers with one object that `write` makes.
fn send_object(context: &mut Context<'_>, write: impl FnOnce(&mut Vec<u8>, &str)) -> Result<()> {
    let mut out = Vec::with_capacity(256);
    write(&mut out, &timestamp::to_rfc3339(std::time::SystemTime::now()));
    context.exchange.respond(200, ContentType::JSON, &out)
}
