//! `/api/embed` and `/api/embeddings`.

use std::borrow::Cow;
use std::time::Duration;

use super::{Context, Resolved, keep_alive, model_is_required, no_model};
use crate::error::{Error, Result};
use crate::keep_alive::KeepAlive;
use crate::ollama::answer::{EmbedAnswer, EmbedMetrics, EmbeddingAnswer};
use crate::ollama::decode;
use crate::ollama::request::{EmbedRequest, EmbeddingRequest};
use crate::openai::answer::Usage;
use crate::translate::{embed, options};

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
    let (vectors, usage) = vectors(context, &name, inputs, keep_alive)?;
    let dimensions = request.dimensions.map(|dimensions| dimensions.0);
    let embeddings = vectors.into_iter().map(|it| embed::normalised(it, dimensions)).collect();
    let metrics = Some(metrics(context, usage.as_ref()));
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
    let (vectors, _) = vectors(context, &name, vec![Cow::Borrowed(prompt)], keep_alive)?;
    let embedding = vectors.into_iter().next().unwrap_or_default();
    context.answer_json(200, &EmbeddingAnswer { embedding })
}

/// The upstream's vectors, in the order of the inputs, and what it counted.
fn vectors(
    context: &mut Context<'_>,
    name: &str,
    inputs: Vec<Cow<'_, str>>,
    keep_alive: Option<KeepAlive>,
) -> Result<(Vec<Vec<f64>>, Option<Usage>)> {
    let app = context.app;
    let Resolved { id, used, .. } = app.resolve(name, false, context.trace);
    let count = inputs.len();
    let request = embed::to_openai(&id, inputs);
    let mut answer =
        app.client.embed(&request, context.trace).map_err(|error| not_found(error, name))?;
    app.touch(&used, keep_alive);
    let usage = answer.usage.take();
    Ok((embed::vectors(answer, count)?, usage))
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

fn metrics(context: &mut Context<'_>, usage: Option<&Usage>) -> EmbedMetrics {
    let nanos = |duration: Duration| u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX).max(1);
    let sent = context.trace.sent.map(|sent| sent.saturating_duration_since(context.received));
    let prompt_eval_count = usage.and_then(|usage| usage.prompt_tokens).unwrap_or(0);
    context.trace.tokens = (prompt_eval_count, 0);
    EmbedMetrics {
        total_duration: nanos(context.received.elapsed()),
        load_duration: nanos(sent.unwrap_or_default()),
        prompt_eval_count,
    }
}
