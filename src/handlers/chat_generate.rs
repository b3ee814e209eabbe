//! `/api/chat` and `/api/generate`.
//!
//! Faults are told in Ollama's order (ollama-api.md 4.2): the body, `top_logprobs`, the name, whether
//! the model is there, what it cannot do, the options, the rest.

use std::sync::Arc;

use serde_json::{Map, Value};

use super::{
    App, Context, LoadOptions, ModelUse, ResolvedModel, empty_model_error, model_required_error,
    parse_keep_alive, relay,
};
use crate::api::ollama::decode;
use crate::api::ollama::decode::{GoInt, GoString};
use crate::api::ollama::request::{ChatRequest, GenerateRequest};
use crate::api::openai::request as openai;
use crate::api::wire::keep_alive::KeepAlive;
use crate::backends::names;
use crate::error::{Error, Result};
use crate::http::exchange::ContentType;
use crate::models::model::Capabilities;
use crate::models::virtual_model::VirtualModel;
use crate::observe::timestamp;
use crate::translate::chat::{self, ChatEncoder};
use crate::translate::context_codec::Conversation;
use crate::translate::generate::{self, GenerateEncoder, UpstreamRequest};
use crate::translate::think::ThinkMode;
use crate::translate::{infill, options, think};
use crate::upstream::UpstreamResponse;

/// What all such routes are asked first, and in the same order.
pub(super) struct ModelRequest {
    /// The name, without a source suffix.
    name: String,
    /// The name as the client sent it.
    requested_name: String,
    keep_alive: Option<KeepAlive>,
    pub(super) think: ThinkMode,
    /// Whether the model is to call functions.
    pub(super) uses_tools: bool,
    /// `chat` or `generate`.
    route: &'static str,
    /// The virtual model that the name means.
    pub(super) virtual_model: Option<Arc<VirtualModel>>,
}

/// Members of their requests.
#[derive(Default)]
pub(super) struct CommonFields<'a> {
    pub(super) model: Option<&'a GoString<'a>>,
    pub(super) keep_alive: Option<&'a Value>,
    pub(super) think: Option<&'a Value>,
    pub(super) top_logprobs: Option<GoInt>,
    pub(super) debug_render_only: Option<bool>,
}

/// An answer that has begun, and all that is kept of its request: a long answer need not hold a large
/// question.
struct PendingReply<'a> {
    answer: UpstreamResponse,
    stream_options: (ThinkMode, Option<usize>, Vec<String>),
    stream: bool,
    in_use: ModelUse<'a>,
    /// The model's name as the client sent it.
    requested_name: String,
    /// What `context` is to carry, where it is asked for.
    conversation: Option<Conversation>,
}

/// `POST /api/chat`.
#[inline(never)] // What other routes need of the stack is not to lie below a long answer.
pub(super) fn chat(context: &mut Context<'_>, body: Vec<u8>) -> Result<()> {
    let Some(begun) = start_chat(context, body)? else { return Ok(()) };
    let mut encoder = ChatEncoder { model: &begun.requested_name };
    relay::relay(
        context,
        begun.answer,
        &mut encoder,
        begun.stream_options,
        begun.stream,
        begun.in_use,
    )
}

/// Asks the upstream; `None` where that was not needed and the client has its answer.
#[inline(never)] // What it needs of the stack is not needed as long as the answer goes on.
fn start_chat<'a>(context: &mut Context<'a>, body: Vec<u8>) -> Result<Option<PendingReply<'a>>> {
    let text = decode::decode_body(body)?;
    let mut request: ChatRequest<'_> = decode::parse(&text, "ChatRequest")?;
    let common = CommonFields {
        model: request.model.as_ref(),
        keep_alive: request.keep_alive.as_ref(),
        think: request.think.as_ref(),
        top_logprobs: request.top_logprobs,
        debug_render_only: request._debug_render_only,
    };
    // Ollama looks at images and calls with the body. Here it costs nothing where all is well.
    let first = |error, request: &_| chat::check_body(request).err().unwrap_or(error);
    let asked = ModelRequest::parse(context, &common, "chat", model_required_error);
    let mut asked = asked.map_err(|error| first(error, &request))?;
    asked.uses_tools = request.tools.as_ref().is_some_and(|tools| !tools.is_empty());
    let overlay = asked.virtual_model.clone();
    overlay.iter().for_each(|model| model.apply_to_options(&mut request.options));
    if request.messages.as_ref().is_none_or(Vec::is_empty) {
        let reason = load_or_unload(context, &asked, request.options.as_ref(), Ok(()))?;
        let encoder = ChatEncoder { model: &asked.requested_name };
        return send_object(context, |out, now| encoder.encode_empty(out, now, reason))
            .map(|()| None);
    }
    overlay.iter().for_each(|model| model.apply_to_chat(&mut request));
    // A format is said to some families in another way.
    let family_matters = request.format.is_some();
    let resolved = resolve_model(context, &asked, request.options.as_ref(), family_matters);
    let resolved = resolved.map_err(|error| first(error, &request))?;
    let in_use = begin_use(context.app, &resolved, &asked, request.options.as_ref());
    let mut upstream = chat::to_openai(&request, &resolved.id, resolved.profile)?;
    let stream = request.stream.unwrap_or(true);
    let answer = send_chat(context, &mut upstream, stream)?;
    recheck_model(context, &resolved, &asked)?;
    let logprobs = chat::top_logprobs(request.logprobs, request.top_logprobs);
    let wanted = (asked.think, logprobs, std::mem::take(&mut upstream.watched_stop));
    Ok(Some(PendingReply {
        answer,
        stream_options: wanted,
        stream,
        in_use,
        requested_name: asked.requested_name,
        conversation: None,
    }))
}

/// `POST /api/generate`.
#[inline(never)] // What other routes need of the stack is not to lie below a long answer.
pub(super) fn generate(context: &mut Context<'_>, body: Vec<u8>) -> Result<()> {
    let Some(begun) = start_generate(context, body)? else { return Ok(()) };
    let mut encoder = GenerateEncoder::new(&begun.requested_name, begun.conversation);
    relay::relay(
        context,
        begun.answer,
        &mut encoder,
        begun.stream_options,
        begun.stream,
        begun.in_use,
    )
}

/// Asks the upstream; `None` where that was not needed and the client has its answer.
#[inline(never)] // What it needs of the stack is not needed as long as the answer goes on.
fn start_generate<'a>(
    context: &mut Context<'a>,
    body: Vec<u8>,
) -> Result<Option<PendingReply<'a>>> {
    let text = decode::decode_body(body)?;
    let mut request: GenerateRequest<'_> = decode::parse(&text, "GenerateRequest")?;
    let common = CommonFields {
        model: request.model.as_ref(),
        keep_alive: request.keep_alive.as_ref(),
        think: request.think.as_ref(),
        top_logprobs: request.top_logprobs,
        debug_render_only: request._debug_render_only,
    };
    let first = |error, request: &_| generate::check_body(request).err().unwrap_or(error);
    let asked = ModelRequest::parse(context, &common, "generate", empty_model_error);
    let asked = asked.map_err(|error| first(error, &request))?;
    let overlay = asked.virtual_model.clone();
    overlay.iter().for_each(|model| model.apply_to_options(&mut request.options));
    let raw_conflict = generate::check_raw(&request);
    if request.prompt.as_deref().is_none_or(str::is_empty) {
        generate::check_body(&request)?;
        let encoder = GenerateEncoder::new(&asked.requested_name, None);
        let reason = load_or_unload(context, &asked, request.options.as_ref(), raw_conflict)?;
        return send_object(context, |out, now| encoder.encode_empty(out, now, reason))
            .map(|()| None);
    }
    raw_conflict.map_err(|error| first(error, &request))?;
    overlay.iter().for_each(|model| model.apply_to_generate(&mut request));
    let stored = overlay.iter().flat_map(|model| model.stored_messages()).collect::<Vec<_>>();
    let fills_in = generate::has_suffix(&request);
    let family_matters = fills_in || request.raw == Some(true) || request.format.is_some();
    let resolved = resolve_model(context, &asked, request.options.as_ref(), family_matters);
    let resolved = resolved.map_err(|error| first(error, &request))?;
    let in_use = begin_use(context.app, &resolved, &asked, request.options.as_ref());
    let mut upstream = generate::to_openai(&request, &stored, &resolved.id, resolved.profile)?;
    let stream = request.stream.unwrap_or(true);
    let answer = send_generate(context, &mut upstream, stream);
    let answer =
        if fills_in { infill::map_unsupported(answer, &asked.requested_name) } else { answer }?;
    recheck_model(context, &resolved, &asked)?;
    let memory = generate::build_conversation(&request, &stored)?;
    let logprobs = chat::top_logprobs(request.logprobs, request.top_logprobs);
    let wanted = (asked.think, logprobs, upstream.take_watched_stop());
    Ok(Some(PendingReply {
        answer,
        stream_options: wanted,
        stream,
        in_use,
        requested_name: asked.requested_name,
        conversation: memory,
    }))
}

impl ModelRequest {
    /// What is asked of a model that is to talk, in another protocol that came to the same: nothing
    /// of how long it stays, and to think only where it can.
    pub(super) fn for_chat(
        name: String,
        requested_name: String,
        uses_tools: bool,
        virtual_model: Option<Arc<VirtualModel>>,
    ) -> Self {
        let (keep_alive, think, route) = (None, ThinkMode::Unset, "chat");
        Self { name, requested_name, keep_alive, think, uses_tools, route, virtual_model }
    }

    /// The name as the client sent it.
    pub(super) fn requested_name(&self) -> &str {
        &self.requested_name
    }

    /// Checks what Ollama checks before it looks for the model.
    pub(super) fn parse(
        context: &mut Context<'_>,
        common: &CommonFields<'_>,
        route: &'static str,
        missing: fn() -> Error,
    ) -> Result<Self> {
        // Ollama reads these two with the body, so what is wrong with them comes first.
        let keep_alive = parse_keep_alive(common.keep_alive)?;
        let think = think::parse(common.think)?;
        check_top_logprobs(common.top_logprobs)?;
        reject_debug_render(common.debug_render_only)?;
        let model = common.model.map(|model| &**model);
        let name = context.parse_model_name(model, missing)?;
        let overlay = context.app.find_virtual_model(&name);
        let shown = model.unwrap_or_default().to_owned();
        Ok(Self {
            name,
            requested_name: shown,
            keep_alive,
            think,
            uses_tools: false,
            route,
            virtual_model: overlay,
        })
    }

    /// Refuses what the model is known not to do; what is unknown is tried.
    fn check_capabilities(&self, abilities: &Capabilities) -> Result<()> {
        let name = Some(self.requested_name.as_str());
        if self.route == "generate" && abilities.is_image_only() {
            let feature = "image generation models are not currently supported".to_owned();
            return Err(Error::Unsupported { reason: feature });
        }
        let thinks = matches!(self.think, ThinkMode::On | ThinkMode::Level(_));
        if thinks && abilities.thinking == Some(false) {
            return Err(chat::unsupported_error(name, "thinking"));
        }
        if !abilities.can_complete() {
            return Err(chat::unsupported_error(name, self.route));
        }
        if self.uses_tools && abilities.tools == Some(false) {
            let feature =
                format!("{} does not support tools", names::full_name(&self.requested_name));
            return Err(Error::Unsupported { reason: feature });
        }
        Ok(())
    }

    fn load_options(&self, options: Option<&Map<String, Value>>) -> LoadOptions {
        LoadOptions { keep_alive: self.keep_alive, num_ctx: options::num_ctx(options) }
    }

    /// Whether what is asked for is not in every model.
    fn needs_capabilities(&self) -> bool {
        self.think != ThinkMode::Unset || self.uses_tools
    }
}

/// The model behind the name, once it is known to do what is asked for.
pub(super) fn resolve_model(
    context: &Context<'_>,
    asked: &ModelRequest,
    options: Option<&Map<String, Value>>,
    family_matters: bool,
) -> Result<ResolvedModel> {
    // What is wrong with the options is told in its turn, by the translation.
    let need_family = family_matters
        || asked.needs_capabilities()
        || options::parse(options).is_ok_and(|options| options.needs_profile());
    let app = context.app;
    let resolved =
        app.resolve_model(&asked.name, asked.virtual_model.as_deref(), need_family, context.trace);
    resolved.check_exists(&asked.requested_name)?;
    asked.check_capabilities(&resolved.capabilities)?;
    Ok(resolved)
}

/// Makes sure that the model which has answered is the one that was asked for.
pub(super) fn recheck_model(
    context: &Context<'_>,
    resolved: &ResolvedModel,
    asked: &ModelRequest,
) -> Result<()> {
    let (names, overlay) =
        ((asked.name.as_str(), asked.requested_name.as_str()), asked.virtual_model.as_deref());
    context.app.recheck_model(resolved.list_unavailable, names, overlay, context.trace)
}

/// Notes that the model is in use.
pub(super) fn begin_use<'a>(
    app: &'a App,
    resolved: &ResolvedModel,
    asked: &ModelRequest,
    options: Option<&Map<String, Value>>,
) -> ModelUse<'a> {
    app.begin_use(resolved.running_name.clone(), asked.load_options(options))
}

/// Sends a chat request, with what the upstream wants back with earlier calls.
pub(super) fn send_chat(
    context: &mut Context<'_>,
    request: &mut openai::ChatRequest<'_>,
    stream: bool,
) -> Result<UpstreamResponse> {
    context.app.tool_call_extras.restore(&mut request.messages);
    let client = &context.app.client;
    if stream {
        client.chat_stream(request, context.trace)
    } else {
        client.chat(request, context.trace)
    }
}

/// Sends a generate request to where it belongs.
fn send_generate(
    context: &mut Context<'_>,
    request: &mut UpstreamRequest<'_>,
    stream: bool,
) -> Result<UpstreamResponse> {
    let client = &context.app.client;
    match (request, stream) {
        (UpstreamRequest::Chat(request), stream) => send_chat(context, request, stream),
        (UpstreamRequest::Completion(request), true) => {
            client.complete_stream(request, context.trace)
        }
        (UpstreamRequest::Completion(request), false) => client.complete(request, context.trace),
        (UpstreamRequest::Fim(request), _) => client.fim(request, context.trace),
        (UpstreamRequest::Infill(request), _) => client.infill(request, context.trace),
    }
}

/// Loads or unloads a model, which the proxy answers by itself: `load` or `unload`. Loading checks
/// what a request would check, `conflict` included; unloading only that the model is there (8.4).
fn load_or_unload(
    context: &mut Context<'_>,
    asked: &ModelRequest,
    options: Option<&Map<String, Value>>,
    conflict: Result<()>,
) -> Result<&'static str> {
    let app = context.app;
    if !app.may_exist(&asked.name, asked.virtual_model.as_deref(), context.trace) {
        let message = format!("model '{}' not found", asked.requested_name);
        return Err(Error::ModelNotFound { message });
    }
    let unload = asked.keep_alive.is_some_and(KeepAlive::is_zero);
    let resolved =
        app.resolve_model(&asked.name, asked.virtual_model.as_deref(), false, context.trace);
    if !unload {
        conflict?;
        asked.check_capabilities(&resolved.capabilities)?;
        options::parse(options)?;
    }
    app.mark_loaded(&resolved.running_name, asked.load_options(options));
    Ok(if unload { "unload" } else { "load" })
}

/// Answers with one object that `write` makes.
fn send_object(context: &mut Context<'_>, write: impl FnOnce(&mut Vec<u8>, &str)) -> Result<()> {
    let mut out = Vec::with_capacity(256);
    write(&mut out, &timestamp::to_rfc3339(std::time::SystemTime::now()));
    context.exchange.respond(200, ContentType::Json, &out)
}

/// The prompt is rendered upstream, which shows it to nobody; an answer would be something else.
fn reject_debug_render(asked: Option<bool>) -> Result<()> {
    match asked {
        Some(true) => Err(Error::Unsupported {
            reason: "\"_debug_render_only\" is not supported by this proxy".into(),
        }),
        _ => Ok(()),
    }
}

fn check_top_logprobs(top_logprobs: Option<GoInt>) -> Result<()> {
    match top_logprobs {
        Some(GoInt(number)) if !(0..=20).contains(&number) => {
            Err(Error::invalid_request("top_logprobs must be between 0 and 20"))
        }
        _ => Ok(()),
    }
}
