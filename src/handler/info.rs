//! What can be asked about the server and its models.

use std::cmp::Reverse;
use std::time::SystemTime;

use serde::Serialize;

use super::{Context, model_is_required};
use crate::catalog;
use crate::error::{Error, Result};
use crate::exchange::ContentType;
use crate::names;
use crate::ndjson;
use crate::ollama::answer::{List, VersionAnswer};
use crate::ollama::decode;
use crate::ollama::request::ShowRequest;
use crate::translate::models::Model;

/// The Ollama version whose API this is; clients compare it.
const OLLAMA_VERSION: &str = "0.32.15";

/// Our own version.
const VERSION: &str = env!("CARGO_PKG_VERSION");

/// `GET /api/version`.
pub(super) fn version(context: &mut Context<'_>) -> Result<()> {
    let body = ndjson::to_vec(&VersionAnswer { version: OLLAMA_VERSION });
    let ours = [("X-Ollama-OpenAI-Proxy-Version", VERSION)];
    context.exchange.answer_with(200, ContentType::Json, &ours, &body)
}

/// `GET /api/tags`.
pub(super) fn tags(context: &mut Context<'_>) -> Result<()> {
    let list = context.app.list(context.trace)?;
    let setting = context.app.setting();
    let mut models: Vec<&Model> = list.iter().collect();
    models.sort_by_key(|model| Reverse(model.modified(&setting)));
    let models = models.into_iter().map(|model| model.tag(&setting)).collect();
    context.answer_json(200, &List { models })
}

/// `GET /api/ps`.
pub(super) fn ps(context: &mut Context<'_>) -> Result<()> {
    let app = context.app;
    let list = app.catalog.at_hand();
    let known = list.as_deref().map_or(&[][..], Vec::as_slice);
    let process = |(id, expires): (String, SystemTime)| match catalog::find(known, &id) {
        Some(model) => model.process(&app.setting(), expires),
        None => Model::unlisted(&id).process(&app.setting(), expires),
    };
    let models = app.loaded.list(SystemTime::now()).into_iter().map(process).collect();
    context.answer_json(200, &List { models })
}

/// `POST /api/show`.
pub(super) fn show(context: &mut Context<'_>, body: Vec<u8>) -> Result<()> {
    let text = decode::text(body)?;
    let request: ShowRequest<'_> = decode::parse(&text, "ShowRequest")?;
    let model = request.model.as_deref().filter(|model| !model.is_empty());
    let name = context.name(model.or(request.name.as_deref()), model_is_required)?;
    let app = context.app;
    let mut list = app.list(context.trace)?;
    if catalog::find(&list, &name).is_none() {
        // It may be new: a miss is worth a fresh look.
        list = app.catalog.renew(|| app.client.list_models(context.trace))?;
    }
    let Some(model) = catalog::find(&list, &name) else {
        let shown = names::display(&name);
        return Err(Error::ModelNotFound { message: format!("model '{shown}' not found") });
    };
    let system = request.system.as_deref().unwrap_or_default();
    let answer = model.show(&app.setting(), &name, system);
    context.answer_json(200, &answer)
}

/// The answer of `GET /health`.
#[derive(Serialize)]
struct Health {
    status: &'static str,
    version: &'static str,
    configured: bool,
}

/// `GET /health`: the process is alive. The upstream is not asked.
pub(super) fn health(context: &mut Context<'_>) -> Result<()> {
    // A process whose configuration is not valid does not get here.
    let health = Health { status: "healthy", version: VERSION, configured: true };
    context.answer_json(200, &health)
}

/// The answer of `GET /openai/health`.
#[derive(Serialize)]
struct UpstreamHealth {
    status: &'static str,
    models_available: usize,
    request_count: u64,
    error_count: u64,
    error_rate: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

/// `GET /openai/health`: one quick attempt at the upstream's model list.
pub(super) fn upstream_health(context: &mut Context<'_>) -> Result<()> {
    let client = &context.app.client;
    let checked = client.health_check(context.trace);
    let (requests, errors) = (client.counters().requests(), client.counters().errors());
    #[allow(clippy::cast_precision_loss)] // A rate, not a count.
    let error_rate = if requests == 0 { 0.0 } else { errors as f64 / requests as f64 };
    let (status, word) = if checked.is_ok() { (200, "healthy") } else { (503, "unhealthy") };
    let health = UpstreamHealth {
        status: word,
        models_available: checked.as_ref().copied().unwrap_or(0),
        request_count: requests,
        error_count: errors,
        error_rate,
        error: checked.err().map(|error| error.message()),
    };
    context.answer_json(status, &health)
}
