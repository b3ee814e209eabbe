//! Routes that describe the server and its models: version, tags, ps and show.
//!
//! Never sends a prompt to the upstream; the model list is the only thing fetched from it. Invariant:
//! `/api/version` responds without a request to the upstream.

use std::borrow::Cow;
use std::time::SystemTime;

use super::model_lookup::AnyModel;
use super::{Context, key_access, model_required_error, native_manage};
use crate::api::ollama::decode;
use crate::api::ollama::request::ShowRequest;
use crate::api::ollama::response::{ListEntry, ListResponse, VersionResponse};
use crate::api::wire::ndjson;
use crate::backends::names;
use crate::error::{Error, Result};
use crate::http::exchange::ContentType;
use crate::models::catalog;
use crate::models::render::ShowOptions;
use crate::models::running_models::LoadState;

/// The version of Ollama whose API is served; clients compare it with the version they need.
const OLLAMA_VERSION: &str = "0.40.16";

/// The proxy's own version.
pub(super) const VERSION: &str = env!("CARGO_PKG_VERSION");

/// `GET /api/version`.
pub(super) fn version(context: &mut Context<'_>) -> Result<()> {
    let body = ndjson::to_vec(&VersionResponse { version: OLLAMA_VERSION });
    let headers = [("X-Ollama-OpenAI-Proxy-Version", VERSION)];
    context.exchange.respond_with_headers(200, ContentType::JSON, &headers, &body)
}

/// `GET /api/tags`.
pub(super) fn tags(context: &mut Context<'_>) -> Result<()> {
    let app = context.app;
    let list = app.list_for_display(context.trace)?;
    let render_context = app.render_context();
    let made = app.store.snapshot();
    let is_hidden = |id: &str| {
        made.contains_key(&names::canonical_key(id)) || app.router.find_configured(id).is_some()
    };
    let trace = &*context.trace;
    let may_use = |name: &str| app.may_use(name, trace);
    let configured =
        app.router.models().iter().filter(|it| !it.is_hidden && may_use(&it.model.name));
    let mut models: Vec<_> = configured
        .map(|configured| {
            let base = app.find_base_model(&configured.model, trace);
            ListEntry::Made(configured.model.render_tag(&base, &render_context))
        })
        .collect();
    let is_shown = |name: &str| app.router.find_configured(name).is_none() && may_use(name);
    let made = made.values().filter(|model| is_shown(&model.name));
    models.extend(newest_first(made.map(|model| {
        let base = app.find_base_model(model, trace);
        (model.modified_time(), ListEntry::Made(model.render_tag(&base, &render_context)))
    })));
    let unlisted = app.unlisted_running_models(&list);
    let of_upstreams = list
        .iter()
        .chain(&unlisted)
        .filter(|model| !is_hidden(&model.id) && may_use(&model.id))
        // Pickers show every entry, and nobody can chat with a model of speech, images or ranking.
        .filter(|model| model.own_tag.is_some() || !model.capability_names().is_empty())
        .map(|model| (model.modified_time(&render_context), model.list_entry(&render_context)));
    match app.router.only_upstream() {
        Some(_) => models.extend(newest_first(of_upstreams)),
        // In the order of the upstreams.
        None => models.extend(of_upstreams.map(|(_, tag)| tag)),
    }
    context.answer_json(200, &ListResponse { models })
}

fn newest_first<T>(models: impl Iterator<Item = (SystemTime, T)>) -> impl Iterator<Item = T> {
    let mut sorted: Vec<(SystemTime, T)> = Vec::new();
    for model in models {
        let place = sorted.partition_point(|(modified, _)| *modified >= model.0);
        sorted.insert(place, model);
    }
    sorted.into_iter().map(|(_, tag)| tag)
}

/// `GET /api/ps`: running models, of those that `/api/tags` shows. Those of an Ollama are shown as it tells
/// them.
pub(super) fn ps(context: &mut Context<'_>) -> Result<()> {
    let app = context.app;
    let native = native_manage::running(context);
    let mut running = app.running_models.list(SystemTime::now());
    running.retain(|(id, _)| app.find_virtual(id).is_some() || !native.knows(id));
    running.retain(|(id, _)| app.may_use(id, context.trace));
    // The list gives the same digests and context lengths as `/api/tags`.
    let list = if running.is_empty() { None } else { app.list_if_known(context.trace) };
    let list = list.as_deref().map_or(&[][..], |list| list);
    let render_context = app.render_context();
    let process = |(id, state): (String, LoadState)| {
        let (expires_at, num_ctx) = (state.expires_at, state.num_ctx);
        if let Some(model) = app.find_virtual(&id) {
            let base = app.find_base_model(&model, context.trace);
            return Some(model.render_process(&base, &render_context, expires_at, num_ctx));
        }
        let model = catalog::find_or_unlisted(list, &id);
        let is_shown = state.was_answered || matches!(model, Cow::Borrowed(_));
        let is_shown = is_shown && !model.capability_names().is_empty();
        is_shown.then(|| model.render_process(&render_context, expires_at, num_ctx))
    };
    let expiry = |(id, state): (String, LoadState)| {
        let expires_at = state.expires_at;
        process((id, state)).map(|model| (expires_at, ListEntry::Made(model)))
    };
    let own = running.into_iter().filter_map(expiry);
    let passed = native.entries.into_iter();
    let passed = passed.map(|(expires_at, entry)| {
        (expires_at.unwrap_or(SystemTime::UNIX_EPOCH), ListEntry::Passed(entry))
    });
    let models = newest_first(own.chain(passed)).collect();
    context.answer_json(200, &ListResponse { models })
}

/// `POST /api/show`.
pub(super) fn show(context: &mut Context<'_>, text: String) -> Result<()> {
    key_access::check_named(context, &text, &["model", "name"])?;
    if native_manage::show(context, &text)? {
        return Ok(());
    }
    let request: ShowRequest<'_> = decode::parse(&text, "ShowRequest")?;
    let model = request.model.as_deref().filter(|model| !model.is_empty());
    let name = context.app.parse_model_name(
        model.or(request.name.as_deref()),
        context.trace,
        model_required_error,
    );
    let name = name.map_err(|error| match error {
        // The wording of other routes differs.
        Error::Forbidden(_) => Error::Forbidden(
            "ollama cloud is disabled: remote model details are unavailable".into(),
        ),
        other => other,
    })?;
    let app = context.app;
    let show_options = ShowOptions {
        name: &name,
        system: request.system.as_deref().unwrap_or_default(),
        options: request.options.clone().unwrap_or_default(),
    };
    let render_context = app.render_context();
    let response = match app.find_model_or_unlisted(&name, context.trace)? {
        Some(AnyModel::Upstream(model)) => model.render_show(&render_context, &show_options),
        Some(AnyModel::Virtual(model)) => {
            let base = app.find_base_model(&model, context.trace);
            model.render_show(&base, &render_context, &show_options)
        }
        None if !names::is_valid(&name) => return Err(names::invalid_name_error()),
        None => return Err(Error::model_not_found(&names::display_name(&name))),
    };
    context.answer_json(200, &response)
}
