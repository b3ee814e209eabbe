//! `/api/embed` and `/api/embeddings`.
//!
//! More inputs than one request may have are sent in batches, which shrink when the upstream rejects one as
//! too large; an input that is too long is truncated where the client allows it. Never keeps vectors as
//! numbers. Invariant: one failure fails all inputs.

use std::borrow::Cow;
use std::time::Instant;

use super::failover::{Outcome, Routing};
use super::model_lookup::ResolvedModel;
use super::native::{self, NativeCall, Reply};
use super::{
    Context, LoadOptions, empty_model_error, load_options, model_required_error, parse_keep_alive,
};
use crate::api::ollama::decode;
use crate::api::ollama::request::{EmbedRequest, EmbeddingRequest};
use crate::api::ollama::response::EmbedMetrics;
use crate::error::{Error, Result};
use crate::http::exchange::ContentType;
use crate::models::virtual_model::NativeRoute;
use crate::net::sys;
use crate::translate::embed::{self, BatchBounds, EmbedResponseBuilder};
use crate::translate::response_metrics::to_nanos;
use crate::translate::{options, truncate};
use crate::upstream::router::rendezvous::ConversationKey;
use crate::upstream::{BatchLimits, Operation, Trace, Upstream};

/// Ollama's sentence for an input that is too long and must not be truncated.
const INPUT_TOO_LONG: &str = "the input length exceeds the context length";

/// `POST /api/embed`.
pub(super) fn embed(context: &mut Context<'_>, text: String) -> Result<()> {
    let native = find_native(context, "/api/embed", &text, || {
        let request = decode::parse::<EmbedRequest<'_>>(&text, "EmbedRequest").ok()?;
        parse_keep_alive(request.keep_alive.as_ref()).ok()?;
        options::parse(request.options.as_ref()).ok()?;
        embed::parse_inputs(request.input).ok()
    });
    let native = match native {
        Native::Only(call) => {
            let reply = call.run(context)?;
            return native::relay(context, reply);
        }
        Native::Also(call) => call,
    };
    let request: EmbedRequest<'_> = decode::parse(&text, "EmbedRequest")?;
    // Ollama reads this with the body, so its error comes first.
    let keep_alive = parse_keep_alive(request.keep_alive.as_ref())?;
    let name =
        context.app.parse_model_name(request.model.as_deref(), context.trace, empty_model_error)?;
    let model = request.model.as_deref().unwrap_or_default().to_owned();
    let inputs = embed::parse_inputs(request.input)?;
    options::parse(request.options.as_ref())?;
    let load = load_options(keep_alive, request.options.as_ref());
    let dimensions = request.dimensions.map(|dimensions| dimensions.0);
    let new_answer = || EmbedResponseBuilder::for_embed(&model, dimensions);
    let is_load = inputs.is_empty();
    let may_truncate = request.truncate != Some(false);
    let load = (load, may_truncate);
    let embedded = embed_inputs(context, (&name, native), inputs, load, &new_answer);
    let embedded = embedded.map_err(|error| {
        if embed::is_too_long(&error) { Error::invalid_request(INPUT_TOO_LONG) } else { error }
    })?;
    let Embedded { answer, tokens } = match embedded {
        Reply::Native(reply) => return native::relay(context, reply),
        Reply::Translated(embedded) => embedded,
    };
    let metrics = (!is_load).then(|| build_metrics(context, tokens));
    // The client may read slowly, and the request may be large.
    drop(text);
    context.name_upstream();
    context.exchange.respond(200, ContentType::JSON, &answer.finish(metrics))
}

/// `POST /api/embeddings`.
pub(super) fn embeddings(context: &mut Context<'_>, text: String) -> Result<()> {
    let native = find_native(context, "/api/embeddings", &text, || {
        let request = decode::parse::<EmbeddingRequest<'_>>(&text, "EmbeddingRequest").ok()?;
        parse_keep_alive(request.keep_alive.as_ref()).ok()?;
        options::parse(request.options.as_ref()).ok()?;
        let prompt = request.prompt.filter(|prompt| !prompt.is_empty());
        Some(prompt.map(|prompt| prompt.0).into_iter().collect())
    });
    let native = match native {
        Native::Only(call) => {
            let reply = call.run(context)?;
            return native::relay(context, reply);
        }
        Native::Also(call) => call,
    };
    let request: EmbeddingRequest<'_> = decode::parse(&text, "EmbeddingRequest")?;
    let keep_alive = parse_keep_alive(request.keep_alive.as_ref())?;
    let name = context.app.parse_model_name(
        request.model.as_deref(),
        context.trace,
        model_required_error,
    )?;
    options::parse(request.options.as_ref())?;
    let inputs = request.prompt.filter(|prompt| !prompt.is_empty()).map(|prompt| prompt.0);
    let load = load_options(keep_alive, request.options.as_ref());
    let (inputs, new_answer) = (inputs.into_iter().collect(), EmbedResponseBuilder::for_embeddings);
    let embedded = embed_inputs(context, (&name, native), inputs, (load, false), &new_answer)?;
    let embedded = match embedded {
        Reply::Native(reply) => return native::relay(context, reply),
        Reply::Translated(embedded) => embedded,
    };
    drop(text);
    if let (Some(tokens), true) = (embedded.tokens, context.trace.key_use.is_some()) {
        context.trace.set_tokens((tokens, 0));
    }
    context.name_upstream();
    context.exchange.respond(200, ContentType::JSON, &embedded.answer.finish(None))
}

/// How Ollamas take part in a request.
enum Native<'t> {
    /// No other server is asked.
    Only(NativeCall<'t>),
    /// One or none is among other servers.
    Also(Option<NativeCall<'t>>),
}

/// The Ollamas that may get a request; `read_inputs` returns its inputs, if it can be read.
fn find_native<'t, 'i>(
    context: &mut Context<'_>,
    path: &'static str,
    text: &'t str,
    read_inputs: impl Fn() -> Option<Vec<Cow<'i, str>>>,
) -> Native<'t> {
    let key = |_: &Context<'_>| {
        let inputs = read_inputs().unwrap_or_default();
        ConversationKey::new(inputs.iter().map(|input| &**input))
    };
    let mut call = native::find_call(context, (path, NativeRoute::Embed), text, key);
    let is_translatable = || read_inputs().is_some_and(|inputs| !inputs.is_empty());
    match call.take_if(|call| call.is_only_native(is_translatable)) {
        Some(call) => Native::Only(call),
        None => Native::Also(call),
    }
}

/// The vectors of all inputs, and the tokens that the upstream counted.
struct Embedded {
    answer: EmbedResponseBuilder,
    tokens: Option<u64>,
}

impl Outcome for Embedded {}

/// Gets the vectors of the upstream. Without inputs, the model is loaded or unloaded.
fn embed_inputs<'a>(
    context: &mut Context<'a>,
    (name, native): (&str, Option<NativeCall<'_>>),
    inputs: Vec<Cow<'_, str>>,
    (load, may_truncate): (LoadOptions, bool),
    new_answer: &dyn Fn() -> EmbedResponseBuilder,
) -> Result<Reply<'a, Embedded>> {
    let result = if inputs.is_empty() {
        let loaded = load_model(context, name, load);
        loaded.map(|()| Reply::Translated(Embedded { answer: new_answer(), tokens: None }))
    } else {
        embed_anywhere(context, (name, native), &inputs, (load, may_truncate), new_answer)
    };
    result.map_err(|error| match error {
        // Ollama words an unknown model differently on these two routes.
        Error::ModelNotFound(_) => {
            Error::ModelNotFound(format!("model {name:?} not found, try pulling it first"))
        }
        other => other,
    })
}

/// Loads or unloads a model, for a request without inputs.
fn load_model(context: &mut Context<'_>, name: &str, load: LoadOptions) -> Result<()> {
    let app = context.app;
    let virtual_model = app.find_virtual(name);
    let virtual_model = virtual_model.as_deref();
    if !app.may_exist(name, virtual_model, context.trace) {
        return Err(Error::model_not_found(name));
    }
    let resolved = app.resolve_first((name, virtual_model), context.trace);
    resolved.ok_or_else(|| Error::model_not_found(name))?.mark_loaded(app.state, load);
    Ok(())
}

/// Gets all vectors from one upstream: those of different models cannot be compared.
fn embed_anywhere<'a>(
    context: &mut Context<'a>,
    (name, native): (&str, Option<NativeCall<'_>>),
    inputs: &[Cow<'_, str>],
    (load, may_truncate): (LoadOptions, bool),
    new_answer: &dyn Fn() -> EmbedResponseBuilder,
) -> Result<Reply<'a, Embedded>> {
    let app = context.app;
    let virtual_model = app.find_virtual(name);
    let key = || ConversationKey::new(inputs.iter().map(|input| &**input));
    let about = (name, virtual_model.clone());
    let routing = Routing::new(app, about, false, key, context.trace);
    routing.run((app, context.trace), name, |trace, mut resolved| {
        if let Some(call) = native.as_ref().filter(|call| call.is_for(&resolved)) {
            return call.send((app, trace), resolved).map(Reply::Native);
        }
        resolved.check_exists(name)?;
        let mut in_use = resolved.begin_use(app, load);
        let embedded = embed_batches(&resolved, inputs, may_truncate, new_answer(), trace)?;
        resolved.recheck(app, name, virtual_model.as_deref(), trace)?;
        in_use.was_answered = true;
        trace.known_model = Some(in_use.id.clone());
        Ok(Reply::Translated(embedded))
    })
}

fn embed_batches(
    resolved: &ResolvedModel,
    inputs: &[Cow<'_, str>],
    may_truncate: bool,
    mut answer: EmbedResponseBuilder,
    trace: &mut Trace,
) -> Result<Embedded> {
    let Upstream { client, batch_limits, .. } = &*resolved.upstream;
    let mut inputs: Vec<Cow<'_, str>> = inputs.iter().map(|it| Cow::Borrowed(&**it)).collect();
    let (mut tokens, mut first_sent) = (None, None);
    let max_items = resolved.profile.max_embed_inputs;
    let mut plan = BatchPlan::new(batch_limits.bounds(max_items, Instant::now()));
    while answer.vector_count() < inputs.len() {
        let rest = &mut inputs[answer.vector_count()..];
        let count = plan.next_bounds.count_fitting(rest);
        let texts = rest[..count].iter().map(|text| Cow::Borrowed(text.as_ref()));
        let mut request = embed::to_openai(&resolved.id, texts.collect());
        let response = client.call(Operation::EMBEDDING, &mut request, trace);
        let added = response.and_then(|response| {
            client.parse(response, |text| {
                // The vectors are mostly copied: without large pages, page faults cost more than that.
                sys::advise_huge_pages(answer.reserve(text.len()));
                answer.add_response(&text, count)
            })
        });
        match added {
            Ok(counted) => {
                first_sent = first_sent.or(trace.last_attempt_at);
                tokens = [tokens, counted].into_iter().flatten().reduce(u64::saturating_add);
                plan.record_success(batch_limits);
            }
            Err(error) => plan.handle_failure(error, &mut rest[..count], may_truncate)?,
        }
    }
    // `load_duration` ends when the first batch was sent.
    trace.last_attempt_at = first_sent.or(trace.last_attempt_at);
    Ok(Embedded { answer, tokens })
}

/// The size of the next batch, and how often its input was truncated.
struct BatchPlan {
    /// Bounds of the next batch.
    next_bounds: BatchBounds,
    /// Bounds of any batch, as far as is known.
    max_bounds: BatchBounds,
    /// Whether these bounds are new and no batch has succeeded with them.
    is_unproven: bool,
    truncations: u32,
}

impl BatchPlan {
    fn new(max_bounds: BatchBounds) -> Self {
        Self { next_bounds: max_bounds, max_bounds, is_unproven: false, truncations: 0 }
    }

    /// A batch was accepted.
    fn record_success(&mut self, learnt: &BatchLimits) {
        if std::mem::take(&mut self.is_unproven) {
            learnt.lower_to(self.max_bounds, Instant::now());
        }
        if std::mem::take(&mut self.truncations) > 0 {
            // That was the truncated input; the rest may go together again.
            self.next_bounds = self.max_bounds;
        }
    }

    /// A batch failed: makes the next one smaller, or its only input shorter.
    ///
    /// # Errors
    /// The same error, if nothing is left to try.
    fn handle_failure(
        &mut self,
        error: Error,
        batch: &mut [Cow<'_, str>],
        may_truncate: bool,
    ) -> Result<()> {
        let is_too_long = may_truncate && embed::is_too_long(&error);
        let refusal = embed::classify_rejection(&error);
        match batch {
            [only] if is_too_long && self.truncations < truncate::MAX_ATTEMPTS => {
                let shorter = truncate::shorten(only, &error).map(str::to_owned);
                *only = Cow::Owned(shorter.ok_or(error)?);
                self.truncations += 1;
            }
            [_] => return Err(error),
            _ if is_too_long => self.next_bounds.items = batch.len() / 2,
            _ => {
                self.max_bounds = self.next_bounds.halve(refusal.ok_or(error)?, batch);
                self.next_bounds = self.max_bounds;
                self.is_unproven = true;
            }
        }
        Ok(())
    }
}

fn build_metrics(context: &mut Context<'_>, tokens: Option<u64>) -> EmbedMetrics {
    let prompt_eval_count = tokens.unwrap_or(0);
    context.trace.set_tokens((prompt_eval_count, 0));
    EmbedMetrics {
        total_duration: to_nanos(context.received_at.elapsed()),
        load_duration: to_nanos(context.trace.time_to_last_attempt(context.received_at)),
        prompt_eval_count,
    }
}
