//! `/api/embed` and `/api/embeddings`.

use std::borrow::Cow;

use super::{Context, Resolved, Stay, keep_alive, model_is_required, no_model};
use crate::error::{Error, Result};
use crate::ollama::answer::{EmbedAnswer, EmbedMetrics, EmbeddingAnswer};
use crate::ollama::decode;
use crate::ollama::request::{EmbedRequest, EmbeddingRequest};
use crate::openai::answer::Usage;
use crate::translate::metrics::nanos;
use crate::translate::{cut, embed, options};

/// Ollama's sentence for an input that does not fit and must not be cut (ollama-api.md 4.2).
const TOO_LONG: &str = "the input length exceeds the context length";

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
    if inputs.is_empty() {
        load(context, &name, stay)?;
        return context.answer_json(200, &EmbedAnswer { model, embeddings: vec![], metrics: None });
    }
    let may_cut = request.truncate != Some(false);
    let (vectors, tokens) = vectors(context, &name, inputs, stay, may_cut).map_err(|error| {
        if embed::is_too_long(&error) { Error::invalid(TOO_LONG) } else { error }
    })?;
    let dimensions = request.dimensions.map(|dimensions| dimensions.0);
    let embeddings = vectors.into_iter().map(|it| embed::normalised(it, dimensions)).collect();
    let metrics = Some(metrics(context, tokens));
    context.answer_json(200, &EmbedAnswer { model, embeddings, metrics })
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
    if prompt.is_empty() {
        load(context, &name, stay)?;
        return context.answer_json(200, &EmbeddingAnswer { embedding: vec![] });
    }
    let (vectors, _) = vectors(context, &name, vec![Cow::Borrowed(prompt)], stay, false)?;
    let embedding = vectors.into_iter().next().unwrap_or_default();
    context.answer_json(200, &EmbeddingAnswer { embedding })
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

/// The upstream's vectors, in the order of the inputs, and the tokens it counted. More inputs than
/// one request may have are sent one batch after another, in smaller ones when the upstream says
/// that they are too large; an input that is too long is cut where it `may_cut`. One failure fails
/// all.
fn vectors(
    context: &mut Context<'_>,
    name: &str,
    mut inputs: Vec<Cow<'_, str>>,
    stay: Stay,
    may_cut: bool,
) -> Result<(Vec<Vec<f64>>, Option<u64>)> {
    let app = context.app;
    let overlay = app.overlay(name);
    let Resolved { id, profile, used, .. } =
        app.resolve(name, overlay.as_deref(), false, context.trace);
    let mut in_use = app.begin(used, stay);
    let (mut vectors, mut most) = (Vec::with_capacity(inputs.len()), profile.embed_batch);
    let (mut tokens, mut first_sent, mut cuts) = (None, None, 0);
    while vectors.len() < inputs.len() {
        let place = vectors.len();
        let count = embed::batch(&inputs[place..], most);
        let texts = inputs[place..place + count].iter().map(|text| Cow::Borrowed(text.as_ref()));
        let mut request = embed::to_openai(&id, texts.collect());
        let error = match app.client.embed(&mut request, context.trace) {
            Ok(mut answer) => {
                first_sent = first_sent.or(context.trace.sent);
                tokens = sum(tokens, answer.usage.take());
                vectors.extend(embed::vectors(answer, count)?);
                if cuts > 0 {
                    // The one that was too long is through; the rest may go together again.
                    (cuts, most) = (0, profile.embed_batch);
                }
                continue;
            }
            Err(error) => error,
        };
        let too_long = may_cut && embed::is_too_long(&error);
        if count > 1 && (too_long || embed::is_batch_too_large(&error)) {
            most = count / 2;
            continue;
        }
        match cut::shorter(&inputs[place], &error).filter(|_| too_long && cuts < cut::TRIES) {
            Some(shorter) => inputs[place] = Cow::Owned(shorter.to_owned()),
            None => return Err(not_found(error, name)),
        }
        cuts += 1;
    }
    // Where the work began is for the times to tell, not where its last batch did.
    context.trace.sent = first_sent.or(context.trace.sent);
    in_use.answered();
    Ok((vectors, tokens))
}

/// The tokens so far and those of one more batch, where the upstream counts.
fn sum(tokens: Option<u64>, usage: Option<Usage>) -> Option<u64> {
    match usage.and_then(|usage| usage.prompt_tokens) {
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
