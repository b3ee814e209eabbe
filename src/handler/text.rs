//! `/api/chat` and `/api/generate`.

use serde_json::{Map, Value};

use super::{Context, Resolved, keep_alive, model_is_required, no_model, relay};
use crate::catalog;
use crate::clock;
use crate::error::{Error, Result};
use crate::exchange::ContentType;
use crate::keep_alive::KeepAlive;
use crate::ollama::decode::{self, Int};
use crate::ollama::request::{ChatRequest, GenerateRequest};
use crate::translate::chat::{self, ChatEncoder};
use crate::translate::generate::{self, Generate, GenerateEncoder};
use crate::translate::think::Think;
use crate::translate::{infill, options, think};
use crate::upstream::Answer;

/// `POST /api/chat`.
pub(super) fn chat(context: &mut Context<'_>, body: Vec<u8>) -> Result<()> {
    let text = decode::text(body)?;
    let mut request: ChatRequest<'_> = decode::parse(&text, "ChatRequest")?;
    // Ollama reads these two with the body, so what is wrong with them comes first.
    let keep_alive = keep_alive(request.keep_alive.as_ref())?;
    let think = think::read(request.think.as_ref())?;
    check_top_logprobs(request.top_logprobs)?;
    refuse_rendering(request._debug_render_only)?;
    let name = context.name(request.model.as_deref(), model_is_required)?;
    let shown = request.model.as_deref().unwrap_or_default().to_owned();
    let mut encoder = ChatEncoder { model: &shown };
    if request.messages.as_ref().is_none_or(Vec::is_empty) {
        let reason = load(context, &name, keep_alive, request.options.as_ref())?;
        return answer(context, |out, now| encoder.empty(out, now, reason));
    }
    let overlay = context.app.overlay(&name);
    overlay.iter().for_each(|model| model.lay_over_chat(&mut request));
    let need_family =
        options::read(request.options.as_ref())?.need_family() || think != Think::Unset;
    let Resolved { id, profile, used } = context.app.resolve(&name, need_family, context.trace);
    let upstream = chat::to_openai(&request, &id, profile)?;
    let client = &context.app.client;
    let answer = if upstream.stream {
        client.chat_stream(&upstream, context.trace)
    } else {
        client.chat(&upstream, context.trace)
    }?;
    context.app.touch(&used, keep_alive);
    let logprobs = chat::logprobs(request.logprobs, request.top_logprobs);
    relay::relay(context, answer, &mut encoder, (think, logprobs), upstream.stream)
}

/// `POST /api/generate`.
pub(super) fn generate(context: &mut Context<'_>, body: Vec<u8>) -> Result<()> {
    let text = decode::text(body)?;
    let mut request: GenerateRequest<'_> = decode::parse(&text, "GenerateRequest")?;
    let keep_alive = keep_alive(request.keep_alive.as_ref())?;
    let think = think::read(request.think.as_ref())?;
    check_top_logprobs(request.top_logprobs)?;
    refuse_rendering(request._debug_render_only)?;
    let name = context.name(request.model.as_deref(), no_model)?;
    let shown = request.model.as_deref().unwrap_or_default().to_owned();
    if request.prompt.as_deref().is_none_or(str::is_empty) {
        let encoder = GenerateEncoder::new(&shown, None);
        let reason = load(context, &name, keep_alive, request.options.as_ref())?;
        return answer(context, |out, now| encoder.empty(out, now, reason));
    }
    let overlay = context.app.overlay(&name);
    overlay.iter().for_each(|model| model.lay_over_generate(&mut request));
    let fills_in = generate::fills_in(&request);
    // What is wrong with the options is told in its turn, by the translation.
    let need_family = options::read(request.options.as_ref()).is_ok_and(|it| it.need_family())
        || fills_in
        || request.raw == Some(true)
        || think != Think::Unset;
    let Resolved { id, profile, used } = context.app.resolve(&name, need_family, context.trace);
    let upstream = generate::to_openai(&request, &id, profile)?;
    let stream = request.stream.unwrap_or(true);
    let answer = ask(context, &upstream, stream);
    let answer = if fills_in { infill::or_unsupported(answer, &shown) } else { answer }?;
    context.app.touch(&used, keep_alive);
    let mut encoder = GenerateEncoder::new(&shown, generate::remembered(&request));
    let logprobs = chat::logprobs(request.logprobs, request.top_logprobs);
    relay::relay(context, answer, &mut encoder, (think, logprobs), stream)
}

/// Sends a generate request to where it belongs.
fn ask(context: &mut Context<'_>, request: &Generate<'_>, stream: bool) -> Result<Answer> {
    let client = &context.app.client;
    match (request, stream) {
        (Generate::Chat(request), true) => client.chat_stream(request, context.trace),
        (Generate::Chat(request), false) => client.chat(request, context.trace),
        (Generate::Completion(request), true) => client.complete_stream(request, context.trace),
        (Generate::Completion(request), false) => client.complete(request, context.trace),
        (Generate::Fim(request), _) => client.fim(request, context.trace),
        (Generate::Infill(request), _) => client.infill(request, context.trace),
    }
}

/// Loads or unloads a model, which the proxy answers by itself: `load` or `unload`. A model that a
/// list is without is unknown.
fn load(
    context: &mut Context<'_>,
    name: &str,
    keep_alive: Option<KeepAlive>,
    options: Option<&Map<String, Value>>,
) -> Result<&'static str> {
    let app = context.app;
    let overlay = app.overlay(name);
    let base = overlay.as_ref().map_or(name, |model| &model.from);
    if let Some(list) = app.any_list(context.trace)
        && catalog::find(&list, base).is_none()
        && app.list(context.trace).is_ok_and(|list| catalog::find(&list, base).is_none())
    {
        return Err(Error::ModelNotFound { message: format!("model '{name}' not found") });
    }
    let unload = keep_alive.is_some_and(KeepAlive::is_zero);
    if !unload {
        options::read(options)?;
    }
    app.touch(&app.resolve(name, false, context.trace).used, keep_alive);
    Ok(if unload { "unload" } else { "load" })
}

/// Answers with one object that `write` makes.
fn answer(context: &mut Context<'_>, write: impl FnOnce(&mut Vec<u8>, &str)) -> Result<()> {
    let mut out = Vec::with_capacity(256);
    write(&mut out, &clock::rfc3339(std::time::SystemTime::now()));
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
