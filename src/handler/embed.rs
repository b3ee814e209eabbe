//! `/api/embed` and `/api/embeddings`.

use std::borrow::Cow;
use std::time::Duration;

use super::{Context, Resolved, keep_alive, model_is_required, no_model};
use crate::error::{Error, Result};
use crate::keep_alive::KeepAlive;
use crate::ollama::answer::{EmbedAnswer, EmbedMetrics, EmbeddingAnswer};
use crate::ollama::decode;
use crate::ollama::request::{EmbedRequest, EmbeddingRequest};
use crate::translate::{embed, options};

/// Ollama's sentence for an input that does not fit and must not be cut (ollama-api.md 4.2).
const TOO_LONG: &str = "the input length exceeds the context length";

/// `POST /api/embed`.
pub(super) fn embed(context: &mut Context<'_>, body: Vec<u8>) -> Result<()> {
    let text = decode::text(body)?;
    let request: EmbedRequest<'_> = decode::parse(&text, "EmbedRequest")?;
    let name = context.name(request.model.as_deref(), no_model)?;
    let keep_alive = keep_alive(request.keep_alive.as_ref())?;
    let model = request.model.as_deref().unwrap_or_default();
    let inputs = embed::inputs(request.input)?;
    options::read(request.options.as_ref())?;
    if inputs.is_empty() {
        return context.answer_json(200, &EmbedAnswer { model, embeddings: vec![], metrics: None });
    }
    let whole = request.truncate == Some(false);
    let (vectors, tokens) = vectors(context, &name, &inputs, keep_alive).map_err(|error| {
        let too_long = whole && embed::is_too_long(&error);
        if too_long { Error::invalid(TOO_LONG) } else { error }
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
    let name = context.name(request.model.as_deref(), model_is_required)?;
    let keep_alive = keep_alive(request.keep_alive.as_ref())?;
    options::read(request.options.as_ref())?;
    let prompt = request.prompt.as_deref().unwrap_or_default();
    if prompt.is_empty() {
        return context.answer_json(200, &EmbeddingAnswer { embedding: vec![] });
    }
    let (vectors, _) = vectors(context, &name, &[Cow::Borrowed(prompt)], keep_alive)?;
    let embedding = vectors.into_iter().next().unwrap_or_default();
    context.answer_json(200, &EmbeddingAnswer { embedding })
}

/// The upstream's vectors, in the order of the inputs, and the tokens it counted. More inputs than
/// one request may have are sent one batch after another, in smaller ones when the upstream says
/// that they are too large; one failure fails all.
fn vectors(
    context: &mut Context<'_>,
    name: &str,
    inputs: &[Cow<'_, str>],
    keep_alive: Option<KeepAlive>,
) -> Result<(Vec<Vec<f64>>, Option<u64>)> {
    let app = context.app;
    let Resolved { id, profile, used } = app.resolve(name, false, context.trace);
    let (mut vectors, mut most) = (Vec::with_capacity(inputs.len()), profile.embed_batch);
    let (mut tokens, mut first_sent) = (None, None);
    while vectors.len() < inputs.len() {
        let rest = &inputs[vectors.len()..];
        let batch = &rest[..embed::batch(rest, most)];
        let texts = batch.iter().map(|text| Cow::Borrowed(text.as_ref())).collect();
        match app.client.embed(&embed::to_openai(&id, texts), context.trace) {
            Ok(mut answer) => {
                first_sent = first_sent.or(context.trace.sent);
                let counted = answer.usage.take().and_then(|usage| usage.prompt_tokens);
                tokens =
                    counted.map_or(tokens, |count| Some(count.saturating_add(tokens.unwrap_or(0))));
                vectors.extend(embed::vectors(answer, batch.len())?);
            }
            Err(error) if batch.len() > 1 && embed::is_batch_too_large(&error) => {
                most = batch.len() / 2;
            }
            Err(error) => return Err(not_found(error, name)),
        }
    }
    // Where the work began is for the times to tell, not where its last batch did.
    context.trace.sent = first_sent.or(context.trace.sent);
    app.touch(&used, keep_alive);
    Ok((vectors, tokens))
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
    let nanos = |duration: Duration| u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX).max(1);
    let sent = context.trace.sent.map(|sent| sent.saturating_duration_since(context.received));
    let prompt_eval_count = tokens.unwrap_or(0);
    context.trace.tokens = (prompt_eval_count, 0);
    EmbedMetrics {
        total_duration: nanos(context.received.elapsed()),
        load_duration: nanos(sent.unwrap_or_default()),
        prompt_eval_count,
    }
}
