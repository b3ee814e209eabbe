//! What can be asked about the server and its models.

use std::time::SystemTime;

use serde::Serialize;

use super::model_lookup::Known;
use super::{Context, model_is_required};
use crate::api::ollama::decode;
use crate::api::ollama::request::ShowRequest;
use crate::api::ollama::response::{List, VersionAnswer};
use crate::api::wire::ndjson;
use crate::backends::names;
use crate::error::{Error, Result};
use crate::http::exchange::ContentType;
use crate::models::catalog;
use crate::models::model::{Asked, Model};
use crate::models::running_models::Stay;
use crate::models::virtual_model::VirtualModel;
use crate::observe::order;

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
    let own = context.app.store.all();
    let hidden = |model: &&Model| own.contains_key(&names::key(&model.id));
    let listed = list.iter().filter(|model| !hidden(model));
    let base = |model: &VirtualModel| match catalog::find(&list, &model.from) {
        Some(base) => model.tag(base, &setting),
        None => model.tag(&Model::unlisted(&model.from), &setting),
    };
    let mut models: Vec<_> =
        listed.map(|model| (model.modified(&setting), model.tag(&setting))).collect();
    models.extend(own.values().map(|model| (model.modified(), base(model))));
    order::sort_by(&mut models, |(a, _), (b, _)| b.cmp(a));
    let models = models.into_iter().map(|(_, tag)| tag).collect();
    context.answer_json(200, &List { models })
}

/// `GET /api/ps`.
pub(super) fn ps(context: &mut Context<'_>) -> Result<()> {
    let app = context.app;
    let loaded = app.loaded.list(SystemTime::now());
    // Digests and windows are to be those of the tags; nothing loaded needs none.
    let list = if loaded.is_empty() { None } else { app.any_list(context.trace) };
    let known = list.as_deref().map_or(&[][..], |list| list);
    let model = |id: &str| match catalog::find(known, id) {
        Some(model) => model.clone(),
        None => Model::unlisted(id),
    };
    let process = |(id, stay): (String, Stay)| match app.overlay(&id) {
        Some(own) => own.process(&model(&own.from), &app.setting(), stay.expires, stay.num_ctx),
        None => model(&id).process(&app.setting(), stay.expires, stay.num_ctx),
    };
    let models = loaded.into_iter().map(process).collect();
    context.answer_json(200, &List { models })
}

/// `POST /api/show`.
pub(super) fn show(context: &mut Context<'_>, body: Vec<u8>) -> Result<()> {
    let text = decode::text(body)?;
    let request: ShowRequest<'_> = decode::parse(&text, "ShowRequest")?;
    let model = request.model.as_deref().filter(|model| !model.is_empty());
    let name = context.name(model.or(request.name.as_deref()), model_is_required);
    let name = name.map_err(no_details)?;
    let app = context.app;
    let asked = Asked {
        name: &name,
        system: request.system.as_deref().unwrap_or_default(),
        options: request.options.clone().unwrap_or_default(),
    };
    let answer = match app.known(&name, context.trace)? {
        Some(Known::Upstream(model)) => model.show(&app.setting(), &asked),
        Some(Known::Virtual(model)) => {
            model.show(&app.base(&model, context.trace), &app.setting(), &asked)
        }
        None if !names::is_valid(&name) => return Err(names::invalid()),
        None => {
            let shown = names::display(&name);
            return Err(Error::ModelNotFound { message: format!("model '{shown}' not found") });
        }
    };
    context.answer_json(200, &answer)
}

/// This route words it differently where a cloud model is asked for (ollama-api.md 4.2).
fn no_details(error: Error) -> Error {
    match error {
        Error::Forbidden { .. } => Error::Forbidden {
            reason: "ollama cloud is disabled: remote model details are unavailable".into(),
        },
        other => other,
    }
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

/// The answer of `GET /ready`.
#[derive(Serialize)]
struct Ready {
    status: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'static str>,
}

/// `GET /ready`: whether a request would be served now. The upstream is not asked.
pub(super) fn ready(context: &mut Context<'_>) -> Result<()> {
    let reason = context.app.metrics().ready(context.app.client.circuit()).err();
    let (status, word) = if reason.is_none() { (200, "ready") } else { (503, "not ready") };
    context.answer_json(status, &Ready { status: word, reason })
}

/// `GET /metrics`.
pub(super) fn metrics(context: &mut Context<'_>) -> Result<()> {
    let app = context.app;
    let text = app.metrics().text(app.client.circuit(), VERSION, app.started);
    context.exchange.answer(200, ContentType::Metrics, text.as_bytes())
}

/// The answer of `GET /openai/health`.
#[derive(Serialize)]
struct UpstreamHealth {
    status: &'static str,
    circuit: &'static str,
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
    let (requests, errors) = (client.metrics().attempts(), client.metrics().failures());
    #[allow(clippy::cast_precision_loss)] // A rate, not a count.
    let error_rate = if requests == 0 { 0.0 } else { errors as f64 / requests as f64 };
    let (status, word) = if checked.is_ok() { (200, "healthy") } else { (503, "unhealthy") };
    let health = UpstreamHealth {
        status: word,
        circuit: client.circuit().name(),
        models_available: checked.as_ref().copied().unwrap_or(0),
        request_count: requests,
        error_count: errors,
        error_rate,
        error: checked.err().map(|error| error.message()),
    };
    context.answer_json(status, &health)
}
