//! `/api/embed` and `/api/embeddings`.

use std::borrow::Cow;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::{Context, Resolved, Stay, keep_alive, model_is_required, no_model};
use crate::api::ollama::decode;
use crate::api::ollama::request::{EmbedRequest, EmbeddingRequest};
use crate::api::ollama::response::EmbedMetrics;
use crate::error::{Error, Result};
use crate::http::exchange::ContentType;
use crate::translate::embed::{self, Answer, Bounds, Whole};
use crate::translate::response_metrics::nanos;
use crate::translate::{options, truncate};

/// Ollama's sentence for an input that does not fit and must not be cut (ollama-api.md 4.2).
const TOO_LONG: &str = "the input length exceeds the context length";

/// The largest batches that the upstream took after it had refused larger ones. They never grow
/// again while the process lives: smaller batches cost some requests, a refused one costs a try of
/// all who ask.
pub(super) struct Learnt {
    items: AtomicUsize,
    bytes: AtomicUsize,
}

impl Default for Learnt {
    fn default() -> Self {
        Self { items: AtomicUsize::new(usize::MAX), bytes: AtomicUsize::new(usize::MAX) }
    }
}

impl Learnt {
    /// What a request may hold at first, of no more than `most` inputs.
    fn bounds(&self, most: usize) -> Bounds {
        let first = Bounds::of_items(most);
        Bounds {
            items: first.items.min(self.items.load(Ordering::Relaxed)),
            bytes: first.bytes.min(self.bytes.load(Ordering::Relaxed)),
        }
    }

    fn learn(&self, worked: Bounds) {
        self.items.fetch_min(worked.items, Ordering::Relaxed);
        self.bytes.fetch_min(worked.bytes, Ordering::Relaxed);
    }
}

/// `POST /api/embed`.
pub(super) fn embed(context: &mut Context<'_>, body: Vec<u8>) -> Result<()> {
    let text = decode::text(body)?;
    let request: EmbedRequest<'_> = decode::parse(&text, "EmbedRequest")?;
    // Ollama reads it with the body.
    let keep_alive = keep_alive(request.keep_alive.as_ref())?;
    let name = context.name(request.model.as_deref(), no_model)?;
    let model = request.model.as_deref().unwrap_or_default();
    let inputs = embed::inputs(request.input)?;
    options::read(request.options.as_ref())?;
    let stay = Stay { keep_alive, num_ctx: options::num_ctx(request.options.as_ref()) };
    let mut answer = Answer::embed(model, request.dimensions.map(|dimensions| dimensions.0));
    if inputs.is_empty() {
        load(context, &name, stay)?;
        return send(context, &answer.finish(None));
    }
    let may_cut = request.truncate != Some(false);
    let tokens = ask(context, &name, inputs, stay, may_cut, &mut answer).map_err(|error| {
        if embed::is_too_long(&error) { Error::invalid(TOO_LONG) } else { error }
    })?;
    let metrics = metrics(context, tokens);
    send(context, &answer.finish(Some(metrics)))
}

/// `POST /api/embeddings`.
pub(super) fn embeddings(context: &mut Context<'_>, body: Vec<u8>) -> Result<()> {
    let text = decode::text(body)?;
    let request: EmbeddingRequest<'_> = decode::parse(&text, "EmbeddingRequest")?;
    let keep_alive = keep_alive(request.keep_alive.as_ref())?;
    let name = context.name(request.model.as_deref(), model_is_required)?;
    options::read(request.options.as_ref())?;
    let prompt = request.prompt.as_deref().unwrap_or_default();
    let stay = Stay { keep_alive, num_ctx: options::num_ctx(request.options.as_ref()) };
    let mut answer = Answer::embeddings();
    if prompt.is_empty() {
        load(context, &name, stay)?;
    } else {
        ask(context, &name, vec![Cow::Borrowed(prompt)], stay, false, &mut answer)?;
    }
    send(context, &answer.finish(None))
}

fn send(context: &mut Context<'_>, answer: &Whole) -> Result<()> {
    context.exchange.answer_pieces(200, ContentType::Json, &answer.pieces())
}

/// Loads or unloads a model: what a request without anything to embed does, once the model is known.
fn load(context: &mut Context<'_>, name: &str, stay: Stay) -> Result<()> {
    let app = context.app;
    let overlay = app.overlay(name);
    if !app.may_exist(name, overlay.as_deref(), context.trace) {
        return Err(not_found(Error::ModelNotFound { message: String::new() }, name));
    }
    let used = app.resolve(name, overlay.as_deref(), false, context.trace).used;
    app.touch(&used, stay);
    Ok(())
}

/// Adds the upstream's vectors to the answer, and gives the tokens that it counted. More inputs than
/// one request may have are sent one batch after another, in smaller ones when the upstream says
/// that they are too large; an input that is too long is cut where it `may_cut`. One failure fails
/// all.
fn ask(
    context: &mut Context<'_>,
    name: &str,
    mut inputs: Vec<Cow<'_, str>>,
    stay: Stay,
    may_cut: bool,
    answer: &mut Answer,
) -> Result<Option<u64>> {
    let app = context.app;
    let overlay = app.overlay(name);
    let resolved = app.resolve(name, overlay.as_deref(), false, context.trace);
    resolved.exists(name).map_err(|error| not_found(error, name))?;
    let Resolved { id, profile, used, unlooked, .. } = resolved;
    let mut in_use = app.begin(used, stay);
    let (mut tokens, mut first_sent) = (None, None);
    let mut pace = Pace::new(app.learnt.bounds(profile.embed_batch));
    while answer.count() < inputs.len() {
        let rest = &mut inputs[answer.count()..];
        let count = pace.bounds.count(rest);
        let texts = rest[..count].iter().map(|text| Cow::Borrowed(text.as_ref()));
        let mut request = embed::to_openai(&id, texts.collect());
        match app.client.embed(&mut request, context.trace, |text| answer.add(text, count)) {
            Ok(counted) => {
                first_sent = first_sent.or(context.trace.sent);
                tokens = sum(tokens, counted);
                pace.worked(&app.learnt);
            }
            Err(error) => pace
                .failed(error, &mut rest[..count], may_cut)
                .map_err(|error| not_found(error, name))?,
        }
    }
    let confirmed = app.confirm(unlooked, (name, name), overlay.as_deref(), context.trace);
    confirmed.map_err(|error| not_found(error, name))?;
    // Where the work began is for the times to tell, not where its last batch did.
    context.trace.sent = first_sent.or(context.trace.sent);
    in_use.answered();
    Ok(tokens)
}

/// How the work goes on: with what batches, and how often the next input was cut.
struct Pace {
    /// What the next request may hold.
    bounds: Bounds,
    /// What any may hold, as far as is known.
    known: Bounds,
    /// Whether that was learnt in this work, and not yet tried.
    untried: bool,
    cuts: u32,
}

impl Pace {
    fn new(known: Bounds) -> Self {
        Self { bounds: known, known, untried: false, cuts: 0 }
    }

    /// A batch is through.
    fn worked(&mut self, learnt: &Learnt) {
        if std::mem::take(&mut self.untried) {
            learnt.learn(self.known);
        }
        if std::mem::take(&mut self.cuts) > 0 {
            // So is the one that was too long; the rest may go together again.
            self.bounds = self.known;
        }
    }

    /// A batch failed: makes the next one smaller, or its only input shorter.
    ///
    /// # Errors
    /// The same error, where nothing is left to be tried.
    fn failed(&mut self, error: Error, batch: &mut [Cow<'_, str>], may_cut: bool) -> Result<()> {
        let is_too_long = may_cut && embed::is_too_long(&error);
        let refusal = embed::refusal(&error);
        match batch {
            [only] if is_too_long && self.cuts < truncate::TRIES => {
                let shorter = truncate::shorter(only, &error).map(str::to_owned);
                *only = Cow::Owned(shorter.ok_or(error)?);
                self.cuts += 1;
            }
            [_] => return Err(error),
            _ if is_too_long => self.bounds.items = batch.len() / 2,
            _ => {
                self.known = self.bounds.halved(refusal.ok_or(error)?, batch);
                self.bounds = self.known;
                self.untried = true;
            }
        }
        Ok(())
    }
}

/// The tokens so far and those of one more batch, where the upstream counts.
fn sum(tokens: Option<u64>, counted: Option<u64>) -> Option<u64> {
    match counted {
        Some(count) => Some(count.saturating_add(tokens.unwrap_or(0))),
        None => tokens,
    }
}

/// These two routes word it differently (ollama-api.md 4.2).
fn not_found(error: Error, name: &str) -> Error {
    match error {
        Error::ModelNotFound { .. } => Error::ModelNotFound {
            message: format!("model {name:?} not found, try pulling it first"),
        },
        other => other,
    }
}

fn metrics(context: &mut Context<'_>, tokens: Option<u64>) -> EmbedMetrics {
    let prompt_eval_count = tokens.unwrap_or(0);
    context.trace.tokens = (prompt_eval_count, 0);
    EmbedMetrics {
        total_duration: nanos(context.received.elapsed()),
        load_duration: nanos(context.sent_after()),
        prompt_eval_count,
    }
}
