//! The steps that the four routes that generate text share: checks, model, call.
//!
//! `/api/chat`, `/api/generate`, `/v1/messages` and `/v1/responses` each decode and translate a request
//! of their own. From the name of the model to the head of the upstream's response they go the same
//! way: [`ModelRequest::parse`], [`ModelRequest::routing`], and for each candidate [`ModelRequest::begin`] and
//! [`ModelRequest::send`]. Never decodes a body or
//! encodes a reply.
//! Invariant: errors come in the order of Ollama's `server/routes.go` (v0.32.15): the body,
//! `top_logprobs`, the name, whether the model exists, what it cannot do, the options, the rest.

use std::sync::Arc;
use std::time::Instant;

use serde_json::{Map, Value};

use super::failover::{Outcome, Routing};
use super::model_lookup::ResolvedModel;
use super::{AppView, Context, ModelUse, load_options, parse_keep_alive};
use crate::api::ollama::decode::GoInt;
use crate::api::openai::request::ResponseEffects;
use crate::api::wire::keep_alive::KeepAlive;
use crate::backends::names;
use crate::backends::profiles::Profile;
use crate::error::{Error, Result};
use crate::models::model::Capabilities;
use crate::models::virtual_model::VirtualModel;
use crate::translate::generate::UpstreamRequest;
use crate::translate::think::ThinkMode;
use crate::translate::{chat, options, think};
use crate::upstream::router::rendezvous::ConversationKey;
use crate::upstream::{Operation, Trace, Upstream, UpstreamResponse};

/// The members of a request that concern its model, checked.
pub(super) struct ModelRequest {
    /// The name, without a source suffix.
    name: String,
    /// The name as the client sent it.
    pub requested_name: String,
    keep_alive: Option<KeepAlive>,
    pub think: ThinkMode<'static>,
    /// Whether the model may call functions.
    pub uses_tools: bool,
    /// `chat` or `generate`.
    route: &'static str,
    /// The virtual model that the name means.
    pub virtual_model: Option<Arc<VirtualModel>>,
}

/// The members that such requests share.
#[derive(Default)]
pub(super) struct CommonFields<'a> {
    pub model: Option<&'a str>,
    pub keep_alive: Option<&'a Value>,
    pub think: Option<&'a Value>,
    pub top_logprobs: Option<GoInt>,
    pub debug_render_only: Option<bool>,
}

impl CommonFields<'_> {
    /// Checks what Ollama checks before the name, and what only an Ollama can do.
    pub(super) fn check(&self) -> Result<(Option<KeepAlive>, ThinkMode<'static>)> {
        // Ollama reads these two with the body, so their errors come first.
        let keep_alive = parse_keep_alive(self.keep_alive)?;
        let think = think::parse(self.think)?.without_level();
        if self.top_logprobs.is_some_and(|number| !(0..=20).contains(&number.0)) {
            return Err(Error::invalid_request("top_logprobs must be between 0 and 20"));
        }
        // The upstream renders the prompt and does not return it.
        if self.debug_render_only == Some(true) {
            let text = "\"_debug_render_only\" is not supported by this proxy";
            return Err(Error::Unsupported(text.into()));
        }
        Ok((keep_alive, think))
    }
}

/// A candidate that a request is sent to.
pub(super) struct Begun<'a> {
    pub resolved: ResolvedModel,
    pub in_use: ModelUse<'a>,
    pub think: ThinkMode<'static>,
}

impl Begun<'_> {
    /// The upstream's id of the model, and its family.
    pub(super) fn model(&self) -> (String, &'static Profile) {
        (self.resolved.id.clone(), self.resolved.profile)
    }

    /// Replaces a level of thinking by what the model takes for it.
    pub(super) fn fit_think(&mut self, think: &mut Option<Value>) {
        self.think = self.resolved.fit_think(think);
    }
}

impl Outcome for PendingReply<'_> {}

/// A response that has begun, with the few values of its request that the response needs: a large
/// request is not kept in memory while its response lasts.
pub(super) struct PendingReply<'a> {
    pub response: UpstreamResponse,
    pub think: ThinkMode<'static>,
    /// How many alternatives each token has; `None` without log probabilities.
    pub logprobs: Option<usize>,
    /// What is done to it because of changes to the request.
    pub effects: ResponseEffects,
    /// Whether a format was asked for.
    pub wants_json: bool,
    /// The upstream's id of the model, if its chat template is used.
    pub templated_model: Option<String>,
    pub stream: bool,
    pub in_use: ModelUse<'a>,
}

impl ModelRequest {
    /// Checks what Ollama checks before it looks for the model.
    pub(super) fn parse(
        context: &mut Context<'_>,
        common: &CommonFields<'_>,
        route: &'static str,
        missing: fn() -> Error,
    ) -> Result<Self> {
        let (keep_alive, think) = common.check()?;
        let name = context.app.parse_model_name(common.model, context.trace, missing)?;
        let virtual_model = context.app.find_virtual(&name);
        let requested_name = common.model.unwrap_or_default().to_owned();
        let uses_tools = false;
        Ok(Self { name, requested_name, keep_alive, think, uses_tools, route, virtual_model })
    }

    /// The upstreams that the request may go to; `key` is what the conversation is known by.
    pub(super) fn routing(
        &self,
        context: &Context<'_>,
        options: Option<&Map<String, Value>>,
        needs_profile: bool,
        key: impl FnOnce() -> ConversationKey,
    ) -> Routing {
        let needs_profile = needs_profile
            || self.think != ThinkMode::Unset
            || self.uses_tools
            // The translation reports an error in the options.
            || options::parse(options).is_ok_and(|options| options.needs_profile());
        let about = (self.name.as_str(), self.virtual_model.clone());
        Routing::new(context.app, about, needs_profile, key, context.trace)
    }

    /// Checks what the model is asked for, and notes that it is in use.
    pub(super) fn begin<'a>(
        &self,
        app: AppView<'a>,
        mut resolved: ResolvedModel,
        options: Option<&Map<String, Value>>,
    ) -> Result<Begun<'a>> {
        resolved.check_exists(&self.requested_name)?;
        self.check_capabilities(&resolved.capabilities)?;
        let in_use = resolved.begin_use(app, load_options(self.keep_alive, options));
        Ok(Begun { resolved, in_use, think: self.think })
    }

    /// Sends the translated request and waits for the head of the response.
    pub(super) fn send<'a>(
        &self,
        (app, trace): (AppView<'a>, &mut Trace),
        begun: Begun<'a>,
        mut request: UpstreamRequest<'_>,
        stream: bool,
    ) -> Result<PendingReply<'a>> {
        // A format that the upstream refuses may be asked for in words.
        let wants_json = request.wants_json();
        let response = call(trace, &begun.resolved.upstream, &mut request, stream)?;
        let reply = self.begin_reply((app, trace), begun, response, request, stream)?;
        Ok(PendingReply { wants_json, ..reply })
    }

    /// What the response of a request needs of it.
    pub(super) fn begin_reply<'a>(
        &self,
        (app, trace): (AppView<'a>, &mut Trace),
        Begun { resolved, in_use, think }: Begun<'a>,
        response: UpstreamResponse,
        mut request: UpstreamRequest<'_>,
        stream: bool,
    ) -> Result<PendingReply<'a>> {
        let (name, virtual_model) = (&self.requested_name, self.virtual_model.as_deref());
        resolved.recheck(app, name, virtual_model, trace)?;
        let effects = request.take_effects();
        Ok(PendingReply {
            response,
            think,
            logprobs: None,
            effects,
            wants_json: request.wants_json(),
            templated_model: request.templated_model().map(str::to_owned),
            stream,
            in_use,
        })
    }

    /// Loads or unloads a model, which the proxy answers by itself: `load` or `unload`. Loading checks
    /// what a request would check, `conflict` included; unloading only that the model exists.
    pub(super) fn load_or_unload(
        &self,
        context: &mut Context<'_>,
        options: Option<&Map<String, Value>>,
        conflict: Result<()>,
    ) -> Result<&'static str> {
        let (app, virtual_model) = (context.app, self.virtual_model.as_deref());
        if !app.may_exist(&self.name, virtual_model, context.trace) {
            return Err(Error::model_not_found(&self.requested_name));
        }
        let unload = self.keep_alive.is_some_and(KeepAlive::is_zero);
        let resolved = app.resolve_first((&self.name, virtual_model), context.trace);
        let resolved = resolved.ok_or_else(|| Error::model_not_found(&self.requested_name))?;
        if !unload {
            conflict?;
            self.check_capabilities(&resolved.capabilities)?;
            options::parse(options)?;
        }
        resolved.mark_loaded(app.state, load_options(self.keep_alive, options));
        Ok(if unload { "unload" } else { "load" })
    }

    /// Rejects a request that needs a capability that the model is known to lack; an unknown capability
    /// is tried.
    fn check_capabilities(&self, capabilities: &Capabilities) -> Result<()> {
        let name = Some(self.requested_name.as_str());
        if self.route == "generate" && capabilities.is_image_only() {
            let reason = "image generation models are not currently supported".to_owned();
            return Err(Error::Unsupported(reason));
        }
        let thinks = matches!(self.think, ThinkMode::On | ThinkMode::Level(_));
        if thinks && capabilities.thinking == Some(false) {
            return Err(chat::unsupported_error(name, "thinking"));
        }
        if !capabilities.can_complete() {
            return Err(chat::unsupported_error(name, self.route));
        }
        if self.uses_tools && capabilities.tools == Some(false) {
            let name = names::full_name(&self.requested_name);
            return Err(Error::Unsupported(format!("{name} does not support tools")));
        }
        Ok(())
    }
}

/// Sends a request to the endpoint that it is for.
pub(super) fn call(
    trace: &mut Trace,
    upstream: &Upstream,
    request: &mut UpstreamRequest<'_>,
    stream: bool,
) -> Result<UpstreamResponse> {
    let Upstream { client, thinking_memory, .. } = upstream;
    match request {
        UpstreamRequest::Chat(request) => {
            client.tool_call_extras.restore(&mut request.messages);
            thinking_memory.apply_field(&mut request.messages, Instant::now());
            client.call(Operation::CHAT.streaming(stream), request, trace)
        }
        UpstreamRequest::Completion(request) => {
            client.call(Operation::COMPLETION.streaming(stream), request, trace)
        }
        UpstreamRequest::Fim(request) => {
            client.call(Operation::FIM.streaming(stream), request, trace)
        }
        UpstreamRequest::Infill(request) => {
            client.call(Operation::INFILL.streaming(stream), request, trace)
        }
    }
}
