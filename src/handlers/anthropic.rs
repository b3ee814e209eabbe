//! `/v1/messages`, Anthropic's protocol.
//!
//! Never looks at the keys, versions and beta features that clients send along. Invariant: errors come in
//! Ollama's order: the body, what each request must have, its blocks and schemas, then what `/api/chat`
//! says of the name, the model and the upstream.

use super::model_request::{CommonFields, ModelRequest, PendingReply};
use super::{Context, model_required_error, relay, routing_key};
use crate::api::anthropic::request::{GO_TYPE_NAME, MessagesRequest};
use crate::api::anthropic::response::CountTokensResponse;
use crate::api::ollama::decode;
use crate::api::ollama::request::ChatRequest;
use crate::api::wire::ndjson;
use crate::error::{Error, Result};
use crate::http::exchange::ContentType;
use crate::translate::anthropic::errors::{RequestFacts, reword};
use crate::translate::anthropic::messages::has_late_system;
use crate::translate::anthropic::stream::MessageEncoder;
use crate::translate::anthropic::{self, estimate_tokens, has_cache_marks, to_ollama, validate};
use crate::translate::chat::is_family_specific;
use crate::translate::generate::UpstreamRequest;
use crate::translate::skipped::Skipped;
use crate::translate::tool_names::ToolNames;
use crate::upstream::repair::refuses_system;

/// `POST /v1/messages`.
pub(super) fn messages(context: &mut Context<'_>, text: String) -> Result<()> {
    let mut facts = RequestFacts::default();
    let started = start_messages(context, text, &mut facts);
    let tell = |error: Error| reword(error, &facts, refuses_system);
    let (reply, names) = started.map_err(tell)?;
    let encoder = MessageEncoder::new(&facts.model, &context.trace.request_id, facts.prompt_tokens);
    relay::relay(context, &mut encoder.with_tool_names(names), reply).map_err(tell)
}

/// Asks the upstream, and returns the names of the tools. `facts` is what errors say of the request.
#[inline(never)] // Not inlined, so that its stack is free while the response is relayed.
fn start_messages<'a>(
    context: &mut Context<'a>,
    text: String,
    facts: &mut RequestFacts,
) -> Result<(PendingReply<'a>, ToolNames)> {
    let request: MessagesRequest<'_> = decode::parse(&text, GO_TYPE_NAME)?;
    validate(&request, true)?;
    let mut chat = to_chat(context, &request)?;
    let common = CommonFields { model: request.model.as_deref(), ..CommonFields::default() };
    let mut model_request = ModelRequest::parse(context, &common, "chat", model_required_error)?;
    model_request.virtual_model.iter().for_each(|model| model.apply_to_chat(&mut chat));
    facts.model.clone_from(&model_request.requested_name);
    facts.prompt_tokens = estimate_tokens(&chat);
    facts.max_tokens = request.max_tokens.map_or(0, |limit| limit.0.unsigned_abs());
    facts.has_late_system = has_late_system(&request);
    model_request.uses_tools = chat.tools.as_ref().is_some_and(|tools| !tools.is_empty());
    let needs_profile = chat.think.is_some()
        || chat.format.is_some()
        || is_family_specific(&chat)
        || has_cache_marks(&chat);
    let key = || routing_key::of_chat(context, &chat);
    let routing = model_request.routing(context, chat.options.as_ref(), needs_profile, key);
    let (stream, think) = (request.stream.unwrap_or(false), chat.think.clone());
    context.allow_early_start(stream);
    let (app, name) = (context.app, &model_request.requested_name);
    let reply = routing.run((context.app, context.trace), name, |trace, resolved| {
        let mut begun = model_request.begin(app, resolved, chat.options.as_ref())?;
        facts.context_length = begun.resolved.context_length;
        chat.think.clone_from(&think);
        begun.fit_think(&mut chat.think);
        let (id, profile) = begun.model();
        let upstream = anthropic::to_openai(&request, &chat, &id, profile)?;
        model_request.send((app, trace), begun, UpstreamRequest::Chat(upstream), stream)
    })?;
    Ok((reply, anthropic::tool_names(&request)))
}

/// The request as one of `/api/chat`; the log names what is left out.
fn to_chat<'a>(context: &Context<'_>, request: &'a MessagesRequest<'a>) -> Result<ChatRequest<'a>> {
    let mut skipped = Skipped::default();
    let chat = to_ollama(request, &mut skipped);
    context.log_skipped(&skipped);
    chat
}

/// `POST /v1/messages/count_tokens`. The upstream is not asked: this is an estimate of what would be sent.
pub(super) fn count_tokens(context: &mut Context<'_>, text: String) -> Result<()> {
    let request: MessagesRequest<'_> = decode::parse(&text, GO_TYPE_NAME)?;
    validate(&request, false)?;
    let mut chat = to_chat(context, &request)?;
    let app = context.app;
    let name =
        app.parse_full_model_name(request.model.as_deref(), context.trace, model_required_error)?;
    let virtual_model = context.app.find_virtual(&name);
    virtual_model.iter().for_each(|model| model.apply_to_chat(&mut chat));
    let mut out = ndjson::to_vec(&CountTokensResponse { input_tokens: estimate_tokens(&chat) });
    out.push(b'\n');
    context.exchange.respond(200, ContentType::BARE_JSON, &out)
}
