//! `/api/chat` and `/api/generate`.
//!
//! Faults are told in Ollama's order (ollama-api.md 4.2): the body, `top_logprobs`, the name, whether
//! the model is there, what it cannot do, the options, the rest.

use std::sync::Arc;

use serde_json::{Map, Value};

use super::{App, Context, InUse, Resolved, Stay, keep_alive, model_is_required, no_model, relay};
use crate::api::ollama::decode;
use crate::api::ollama::decode::{Int, Text};
use crate::api::ollama::request::{ChatRequest, GenerateRequest};
use crate::api::openai::request as openai;
use crate::api::wire::keep_alive::KeepAlive;
use crate::backends::names;
use crate::error::{Error, Result};
use crate::http::exchange::ContentType;
use crate::models::model::Abilities;
use crate::models::virtual_model::VirtualModel;
use crate::observe::timestamp;
use crate::translate::chat::{self, ChatEncoder};
use crate::translate::context_codec::Memory;
use crate::translate::generate::{self, Generate, GenerateEncoder};
use crate::translate::think::Think;
use crate::translate::{infill, options, think};
use crate::upstream::Answer;

/// What all such routes are asked first, and in the same order.
pub(super) struct Asked {
    /// The name, without a source suffix.
    name: String,
    /// The name as the client sent it.
    shown: String,
    keep_alive: Option<KeepAlive>,
    pub(super) think: Think,
    /// Whether the model is to call functions.
    pub(super) tools: bool,
    /// `chat` or `generate`.
    route: &'static str,
    /// The virtual model that the name means.
    pub(super) overlay: Option<Arc<VirtualModel>>,
}

/// Members of their requests.
#[derive(Default)]
pub(super) struct Common<'a> {
    pub(super) model: Option<&'a Text<'a>>,
    pub(super) keep_alive: Option<&'a Value>,
    pub(super) think: Option<&'a Value>,
    pub(super) top_logprobs: Option<Int>,
    pub(super) debug: Option<bool>,
}

/// An answer that has begun, and all that is kept of its request: a long answer need not hold a large
/// question.
struct Begun<'a> {
    answer: Answer,
    wanted: (Think, Option<usize>, Vec<String>),
    stream: bool,
    in_use: InUse<'a>,
    /// The model's name as the client sent it.
    shown: String,
    /// What `context` is to carry, where it is asked for.
    memory: Option<Memory>,
}

/// `POST /api/chat`.
#[inline(never)] // What other routes need of the stack is not to lie below a long answer.
pub(super) fn chat(context: &mut Context<'_>, body: Vec<u8>) -> Result<()> {
    let Some(begun) = begin_chat(context, body)? else { return Ok(()) };
    let mut encoder = ChatEncoder { model: &begun.shown };
    relay::relay(context, begun.answer, &mut encoder, begun.wanted, begun.stream, begun.in_use)
}

/// Asks the upstream; `None` where that was not needed and the client has its answer.
#[inline(never)] // What it needs of the stack is not needed as long as the answer goes on.
fn begin_chat<'a>(context: &mut Context<'a>, body: Vec<u8>) -> Result<Option<Begun<'a>>> {
    let text = decode::text(body)?;
    let mut request: ChatRequest<'_> = decode::parse(&text, "ChatRequest")?;
    let common = Common {
        model: request.model.as_ref(),
        keep_alive: request.keep_alive.as_ref(),
        think: request.think.as_ref(),
        top_logprobs: request.top_logprobs,
        debug: request._debug_render_only,
    };
    // Ollama looks at images and calls with the body. Here it costs nothing where all is well.
    let first = |error, request: &_| chat::check_body(request).err().unwrap_or(error);
    let asked = Asked::read(context, &common, "chat", model_is_required);
    let mut asked = asked.map_err(|error| first(error, &request))?;
    asked.tools = request.tools.as_ref().is_some_and(|tools| !tools.is_empty());
    let overlay = asked.overlay.clone();
    overlay.iter().for_each(|model| model.lay_over_options(&mut request.options));
    if request.messages.as_ref().is_none_or(Vec::is_empty) {
        let reason = load(context, &asked, request.options.as_ref(), Ok(()))?;
        let encoder = ChatEncoder { model: &asked.shown };
        return answer(context, |out, now| encoder.empty(out, now, reason)).map(|()| None);
    }
    overlay.iter().for_each(|model| model.lay_over_chat(&mut request));
    // A format is said to some families in another way.
    let family_matters = request.format.is_some();
    let resolved = resolve(context, &asked, request.options.as_ref(), family_matters);
    let resolved = resolved.map_err(|error| first(error, &request))?;
    let in_use = begin(context.app, &resolved, &asked, request.options.as_ref());
    let mut upstream = chat::to_openai(&request, &resolved.id, resolved.profile)?;
    let stream = request.stream.unwrap_or(true);
    let answer = ask_chat(context, &mut upstream, stream)?;
    confirm(context, &resolved, &asked)?;
    let logprobs = chat::logprobs(request.logprobs, request.top_logprobs);
    let wanted = (asked.think, logprobs, std::mem::take(&mut upstream.watched_stop));
    Ok(Some(Begun { answer, wanted, stream, in_use, shown: asked.shown, memory: None }))
}

/// `POST /api/generate`.
#[inline(never)] // What other routes need of the stack is not to lie below a long answer.
pub(super) fn generate(context: &mut Context<'_>, body: Vec<u8>) -> Result<()> {
    let Some(begun) = begin_generate(context, body)? else { return Ok(()) };
    let mut encoder = GenerateEncoder::new(&begun.shown, begun.memory);
    relay::relay(context, begun.answer, &mut encoder, begun.wanted, begun.stream, begun.in_use)
}

/// Asks the upstream; `None` where that was not needed and the client has its answer.
#[inline(never)] // What it needs of the stack is not needed as long as the answer goes on.
fn begin_generate<'a>(context: &mut Context<'a>, body: Vec<u8>) -> Result<Option<Begun<'a>>> {
    let text = decode::text(body)?;
    let mut request: GenerateRequest<'_> = decode::parse(&text, "GenerateRequest")?;
    let common = Common {
        model: request.model.as_ref(),
        keep_alive: request.keep_alive.as_ref(),
        think: request.think.as_ref(),
        top_logprobs: request.top_logprobs,
        debug: request._debug_render_only,
    };
    let first = |error, request: &_| generate::check_body(request).err().unwrap_or(error);
    let asked = Asked::read(context, &common, "generate", no_model);
    let asked = asked.map_err(|error| first(error, &request))?;
    let overlay = asked.overlay.clone();
    overlay.iter().for_each(|model| model.lay_over_options(&mut request.options));
    let raw_conflict = generate::check_raw(&request);
    if request.prompt.as_deref().is_none_or(str::is_empty) {
        generate::check_body(&request)?;
        let encoder = GenerateEncoder::new(&asked.shown, None);
        let reason = load(context, &asked, request.options.as_ref(), raw_conflict)?;
        return answer(context, |out, now| encoder.empty(out, now, reason)).map(|()| None);
    }
    raw_conflict.map_err(|error| first(error, &request))?;
    overlay.iter().for_each(|model| model.lay_over_generate(&mut request));
    let stored = overlay.iter().flat_map(|model| model.stored()).collect::<Vec<_>>();
    let fills_in = generate::fills_in(&request);
    let family_matters = fills_in || request.raw == Some(true) || request.format.is_some();
    let resolved = resolve(context, &asked, request.options.as_ref(), family_matters);
    let resolved = resolved.map_err(|error| first(error, &request))?;
    let in_use = begin(context.app, &resolved, &asked, request.options.as_ref());
    let mut upstream = generate::to_openai(&request, &stored, &resolved.id, resolved.profile)?;
    let stream = request.stream.unwrap_or(true);
    let answer = ask(context, &mut upstream, stream);
    let answer = if fills_in { infill::or_unsupported(answer, &asked.shown) } else { answer }?;
    confirm(context, &resolved, &asked)?;
    let memory = generate::remembered(&request, &stored)?;
    let logprobs = chat::logprobs(request.logprobs, request.top_logprobs);
    let wanted = (asked.think, logprobs, upstream.take_watched_stop());
    Ok(Some(Begun { answer, wanted, stream, in_use, shown: asked.shown, memory }))
}

impl Asked {
    /// What is asked of a model that is to talk, in another protocol that came to the same: nothing
    /// of how long it stays, and to think only where it can.
    pub(super) fn talk(
        name: String,
        shown: String,
        tools: bool,
        overlay: Option<Arc<VirtualModel>>,
    ) -> Self {
        let (keep_alive, think, route) = (None, Think::Unset, "chat");
        Self { name, shown, keep_alive, think, tools, route, overlay }
    }

    /// The name as the client sent it.
    pub(super) fn shown(&self) -> &str {
        &self.shown
    }

    /// Checks what Ollama checks before it looks for the model.
    pub(super) fn read(
        context: &mut Context<'_>,
        common: &Common<'_>,
        route: &'static str,
        missing: fn() -> Error,
    ) -> Result<Self> {
        // Ollama reads these two with the body, so what is wrong with them comes first.
        let keep_alive = keep_alive(common.keep_alive)?;
        let think = think::read(common.think)?;
        check_top_logprobs(common.top_logprobs)?;
        refuse_rendering(common.debug)?;
        let model = common.model.map(|model| &**model);
        let name = context.name(model, missing)?;
        let overlay = context.app.overlay(&name);
        let shown = model.unwrap_or_default().to_owned();
        Ok(Self { name, shown, keep_alive, think, tools: false, route, overlay })
    }

    /// Refuses what the model is known not to do; what is unknown is tried.
    fn check(&self, abilities: &Abilities) -> Result<()> {
        let name = Some(self.shown.as_str());
        if self.route == "generate" && abilities.draws() {
            let feature = "image generation models are not currently supported".to_owned();
            return Err(Error::Unsupported { feature });
        }
        let thinks = matches!(self.think, Think::On | Think::Level(_));
        if thinks && abilities.thinking == Some(false) {
            return Err(chat::unsupported(name, "thinking"));
        }
        if !abilities.talks() {
            return Err(chat::unsupported(name, self.route));
        }
        if self.tools && abilities.tools == Some(false) {
            let feature = format!("{} does not support tools", names::full(&self.shown));
            return Err(Error::Unsupported { feature });
        }
        Ok(())
    }

    fn stay(&self, options: Option<&Map<String, Value>>) -> Stay {
        Stay { keep_alive: self.keep_alive, num_ctx: options::num_ctx(options) }
    }

    /// Whether what is asked for is not in every model.
    fn is_special(&self) -> bool {
        self.think != Think::Unset || self.tools
    }
}

/// The model behind the name, once it is known to do what is asked for.
pub(super) fn resolve(
    context: &Context<'_>,
    asked: &Asked,
    options: Option<&Map<String, Value>>,
    family_matters: bool,
) -> Result<Resolved> {
    // What is wrong with the options is told in its turn, by the translation.
    let need_family = family_matters
        || asked.is_special()
        || options::read(options).is_ok_and(|options| options.need_family());
    let app = context.app;
    let resolved = app.resolve(&asked.name, asked.overlay.as_deref(), need_family, context.trace);
    resolved.exists(&asked.shown)?;
    asked.check(&resolved.abilities)?;
    Ok(resolved)
}

/// Makes sure that the model which has answered is the one that was asked for.
pub(super) fn confirm(context: &Context<'_>, resolved: &Resolved, asked: &Asked) -> Result<()> {
    let (names, overlay) = ((asked.name.as_str(), asked.shown.as_str()), asked.overlay.as_deref());
    context.app.confirm(resolved.unlooked, names, overlay, context.trace)
}

/// Notes that the model is in use.
pub(super) fn begin<'a>(
    app: &'a App,
    resolved: &Resolved,
    asked: &Asked,
    options: Option<&Map<String, Value>>,
) -> InUse<'a> {
    app.begin(resolved.used.clone(), asked.stay(options))
}

/// Sends a chat request, with what the upstream wants back with earlier calls.
pub(super) fn ask_chat(
    context: &mut Context<'_>,
    request: &mut openai::ChatRequest<'_>,
    stream: bool,
) -> Result<Answer> {
    context.app.keepsakes.give_back(&mut request.messages);
    let client = &context.app.client;
    if stream {
        client.chat_stream(request, context.trace)
    } else {
        client.chat(request, context.trace)
    }
}

/// Sends a generate request to where it belongs.
fn ask(context: &mut Context<'_>, request: &mut Generate<'_>, stream: bool) -> Result<Answer> {
    let client = &context.app.client;
    match (request, stream) {
        (Generate::Chat(request), stream) => ask_chat(context, request, stream),
        (Generate::Completion(request), true) => client.complete_stream(request, context.trace),
        (Generate::Completion(request), false) => client.complete(request, context.trace),
        (Generate::Fim(request), _) => client.fim(request, context.trace),
        (Generate::Infill(request), _) => client.infill(request, context.trace),
    }
}

/// Loads or unloads a model, which the proxy answers by itself: `load` or `unload`. Loading checks
/// what a request would check, `conflict` included; unloading only that the model is there (8.4).
fn load(
    context: &mut Context<'_>,
    asked: &Asked,
    options: Option<&Map<String, Value>>,
    conflict: Result<()>,
) -> Result<&'static str> {
    let app = context.app;
    if !app.may_exist(&asked.name, asked.overlay.as_deref(), context.trace) {
        let message = format!("model '{}' not found", asked.shown);
        return Err(Error::ModelNotFound { message });
    }
    let unload = asked.keep_alive.is_some_and(KeepAlive::is_zero);
    let resolved = app.resolve(&asked.name, asked.overlay.as_deref(), false, context.trace);
    if !unload {
        conflict?;
        asked.check(&resolved.abilities)?;
        options::read(options)?;
    }
    app.touch(&resolved.used, asked.stay(options));
    Ok(if unload { "unload" } else { "load" })
}

/// Answers with one object that `write` makes.
fn answer(context: &mut Context<'_>, write: impl FnOnce(&mut Vec<u8>, &str)) -> Result<()> {
    let mut out = Vec::with_capacity(256);
    write(&mut out, &timestamp::rfc3339(std::time::SystemTime::now()));
    context.exchange.answer(200, ContentType::Json, &out)
}

/// The prompt is rendered upstream, which shows it to nobody; an answer would be something else.
fn refuse_rendering(asked: Option<bool>) -> Result<()> {
    match asked {
        Some(true) => Err(Error::Unsupported {
            feature: "\"_debug_render_only\" is not supported by this proxy".into(),
        }),
        _ => Ok(()),
    }
}

fn check_top_logprobs(top_logprobs: Option<Int>) -> Result<()> {
    match top_logprobs {
        Some(Int(number)) if !(0..=20).contains(&number) => {
            Err(Error::invalid("top_logprobs must be between 0 and 20"))
        }
        _ => Ok(()),
    }
}
