//! `/api/embed` and `/api/embeddings`.

use std::borrow::Cow;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::{
    Context, LoadOptions, ResolvedModel, empty_model_error, model_required_error, parse_keep_alive,
};
use crate::api::ollama::decode;
use crate::api::ollama::request::{EmbedRequest, EmbeddingRequest};
use crate::api::ollama::response::EmbedMetrics;
use crate::error::{Error, Result};
use crate::http::exchange::ContentType;
use crate::translate::embed::{self, BatchBounds, EmbedResponseBuilder, Pieces};
use crate::translate::response_metrics::to_nanos;
use crate::translate::{options, truncate};

/// Ollama's sentence for an input that does not fit and must not be cut (ollama-api.md 4.2).
const INPUT_TOO_LONG: &str = "the input length exceeds the context length";

/// The largest batches that the upstream took after it had refused larger ones. They never grow
/// again while the process lives: smaller batches cost some requests, a refused one costs a try of
/// all who ask.
pub(super) struct BatchLimits {
    items: AtomicUsize,
    bytes: AtomicUsize,
}

impl Default for BatchLimits {
    fn default() -> Self {
        Self { items: AtomicUsize::new(usize::MAX), bytes: AtomicUsize::new(usize::MAX) }
    }
}

impl BatchLimits {
    /// What a request may hold at first, of no more than `most` inputs.
    fn bounds(&self, most: usize) -> BatchBounds {
        let first = BatchBounds::with_max_items(most);
        BatchBounds {
            items: first.items.min(self.items.load(Ordering::Relaxed)),
            bytes: first.bytes.min(self.bytes.load(Ordering::Relaxed)),
        }
    }

    fn lower_to(&self, worked: BatchBounds) {
        self.items.fetch_min(worked.items, Ordering::Relaxed);
        self.bytes.fetch_min(worked.bytes, Ordering::Relaxed);
    }
}

/// `POST /api/embed`.
pub(super) fn embed(context: &mut Context<'_>, body: Vec<u8>) -> Result<()> {
    let text = decode::decode_body(body)?;
    let request: EmbedRequest<'_> = decode::parse(&text, "EmbedRequest")?;
    // Ollama reads it with the body.
    let keep_alive = parse_keep_alive(request.keep_alive.as_ref())?;
    let name = context.parse_model_name(request.model.as_deref(), empty_model_error)?;
    let model = request.model.as_deref().unwrap_or_default();
    let inputs = embed::parse_inputs(request.input)?;
    options::parse(request.options.as_ref())?;
    let stay = LoadOptions { keep_alive, num_ctx: options::num_ctx(request.options.as_ref()) };
    let mut answer =
        EmbedResponseBuilder::for_embed(model, request.dimensions.map(|dimensions| dimensions.0));
    if inputs.is_empty() {
        load_model(context, &name, stay)?;
        return send_answer(context, &answer.finish(None));
    }
    let may_cut = request.truncate != Some(false);
    let tokens =
        embed_inputs(context, &name, inputs, stay, may_cut, &mut answer).map_err(|error| {
            if embed::is_too_long(&error) { Error::invalid_request(INPUT_TOO_LONG) } else { error }
        })?;
    let metrics = build_metrics(context, tokens);
    send_answer(context, &answer.finish(Some(metrics)))
}

/// `POST /api/embeddings`.
pub(super) fn embeddings(context: &mut Context<'_>, body: Vec<u8>) -> Result<()> {
    let text = decode::decode_body(body)?;
    let request: EmbeddingRequest<'_> = decode::parse(&text, "EmbeddingRequest")?;
    let keep_alive = parse_keep_alive(request.keep_alive.as_ref())?;
    let name = context.parse_model_name(request.model.as_deref(), model_required_error)?;
    options::parse(request.options.as_ref())?;
    let prompt = request.prompt.as_deref().unwrap_or_default();
    let stay = LoadOptions { keep_alive, num_ctx: options::num_ctx(request.options.as_ref()) };
    let mut answer = EmbedResponseBuilder::for_embeddings();
    if prompt.is_empty() {
        load_model(context, &name, stay)?;
    } else {
        embed_inputs(context, &name, vec![Cow::Borrowed(prompt)], stay, false, &mut answer)?;
    }
    send_answer(context, &answer.finish(None))
}

fn send_answer(context: &mut Context<'_>, answer: &Pieces) -> Result<()> {
    context.exchange.respond_vectored(200, ContentType::Json, &answer.as_slices())
}

/// Loads or unloads a model: what a request without anything to embed does, once the model is known.
fn load_model(context: &mut Context<'_>, name: &str, stay: LoadOptions) -> Result<()> {
    let app = context.app;
    let overlay = app.find_virtual_model(name);
    if !app.may_exist(name, overlay.as_deref(), context.trace) {
        return Err(reword_not_found(Error::ModelNotFound { message: String::new() }, name));
    }
    let used = app.resolve_model(name, overlay.as_deref(), false, context.trace).running_name;
    app.mark_loaded(&used, stay);
    Ok(())
}

/// Adds the upstream's vectors to the answer, and gives the tokens that it counted. More inputs than
/// one request may have are sent one batch after another, in smaller ones when the upstream says
/// that they are too large; an input that is too long is cut where it `may_cut`. One failure fails
/// all.
fn embed_inputs(
    context: &mut Context<'_>,
    name: &str,
    mut inputs: Vec<Cow<'_, str>>,
    stay: LoadOptions,
    may_cut: bool,
    answer: &mut EmbedResponseBuilder,
) -> Result<Option<u64>> {
    let app = context.app;
    let overlay = app.find_virtual_model(name);
    let resolved = app.resolve_model(name, overlay.as_deref(), false, context.trace);
    resolved.check_exists(name).map_err(|error| reword_not_found(error, name))?;
    let ResolvedModel { id, profile, running_name: used, list_unavailable: unlooked, .. } =
        resolved;
    let mut in_use = app.begin_use(used, stay);
    let (mut tokens, mut first_sent) = (None, None);
    let mut pace = BatchPlan::new(app.batch_limits.bounds(profile.max_embed_inputs));
    while answer.vector_count() < inputs.len() {
        let rest = &mut inputs[answer.vector_count()..];
        let count = pace.next_bounds.count_fitting(rest);
        let texts = rest[..count].iter().map(|text| Cow::Borrowed(text.as_ref()));
        let mut request = embed::to_openai(&id, texts.collect());
        match app.client.embed(&mut request, context.trace, |text| answer.add_response(text, count))
        {
            Ok(counted) => {
                first_sent = first_sent.or(context.trace.last_attempt_at);
                tokens = add_tokens(tokens, counted);
                pace.record_success(&app.batch_limits);
            }
            Err(error) => pace
                .handle_failure(error, &mut rest[..count], may_cut)
                .map_err(|error| reword_not_found(error, name))?,
        }
    }
    let confirmed = app.recheck_model(unlooked, (name, name), overlay.as_deref(), context.trace);
    confirmed.map_err(|error| reword_not_found(error, name))?;
    // Where the work began is for the times to tell, not where its last batch did.
    context.trace.last_attempt_at = first_sent.or(context.trace.last_attempt_at);
    in_use.mark_answered();
    Ok(tokens)
}

/// How the work goes on: with what batches, and how often the next input was cut.
struct BatchPlan {
    /// What the next request may hold.
    next_bounds: BatchBounds,
    /// What any may hold, as far as is known.
    max_bounds: BatchBounds,
    /// Whether that was learnt in this work, and not yet tried.
    is_unproven: bool,
    truncations: u32,
}

impl BatchPlan {
    fn new(max_bounds: BatchBounds) -> Self {
        Self { next_bounds: max_bounds, max_bounds, is_unproven: false, truncations: 0 }
    }

    /// A batch is through.
    fn record_success(&mut self, learnt: &BatchLimits) {
        if std::mem::take(&mut self.is_unproven) {
            learnt.lower_to(self.max_bounds);
        }
        if std::mem::take(&mut self.truncations) > 0 {
            // So is the one that was too long; the rest may go together again.
            self.next_bounds = self.max_bounds;
        }
    }

    /// A batch failed: makes the next one smaller, or its only input shorter.
    ///
    /// # Errors
    /// The same error, where nothing is left to be tried.
    fn handle_failure(
        &mut self,
        error: Error,
        batch: &mut [Cow<'_, str>],
        may_cut: bool,
    ) -> Result<()> {
        let is_too_long = may_cut && embed::is_too_long(&error);
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

/// The tokens so far and those of one more batch, where the upstream counts.
fn add_tokens(tokens: Option<u64>, counted: Option<u64>) -> Option<u64> {
    match counted {
        Some(count) => Some(count.saturating_add(tokens.unwrap_or(0))),
        None => tokens,
    }
}

/// These two routes word it differently (ollama-api.md 4.2).
fn reword_not_found(error: Error, name: &str) -> Error {
    match error {
        Error::ModelNotFound { .. } => Error::ModelNotFound {
            message: format!("model {name:?} not found, try pulling it first"),
        },
        other => other,
    }
}

fn build_metrics(context: &mut Context<'_>, tokens: Option<u64>) -> EmbedMetrics {
    let prompt_eval_count = tokens.unwrap_or(0);
    context.trace.tokens = (prompt_eval_count, 0);
    EmbedMetrics {
        total_duration: to_nanos(context.received_at.elapsed()),
        load_duration: to_nanos(context.time_to_last_attempt()),
        prompt_eval_count,
    }
}
