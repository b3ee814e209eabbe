//! `/api/create`, `/api/copy` and `/api/delete`: virtual models come and go (ollama-api.md 12.3 to
//! 12.5).
//!
//! Nothing here changes the upstream: its models can be given other names and overlaid, never
//! deleted. A change is on the disk before the first line of its answer.

use std::time::{Duration, SystemTime};

use super::model_lookup::Known;
use super::transfer::{Ended, NO_MANIFEST, progress};
use super::{Context, model_is_required};
use crate::api::ollama::decode;
use crate::api::ollama::manage::{CopyRequest, CreateRequest, DeleteRequest, either};
use crate::api::wire::keep_alive::KeepAlive;
use crate::backends::names;
use crate::backends::names::Source;
use crate::error::{Error, Result};
use crate::http::exchange::ContentType;
use crate::models::model::Model;
use crate::models::virtual_model;
use crate::models::virtual_model::VirtualModel;

/// `POST /api/create`.
pub(super) fn create(context: &mut Context<'_>, body: Vec<u8>) -> Result<()> {
    let text = decode::text(body)?;
    let request: CreateRequest<'_> = decode::parse(&text, "CreateRequest")?;
    let name = either(request.model.as_ref(), request.name.as_ref());
    let name = context.any_name(Some(name), names::invalid)?;
    check_new(context, &name, names::invalid)?;
    virtual_model::check(&request)?;
    let stream = request.stream.unwrap_or(true);
    let from = request.from.as_deref().unwrap_or_default().trim();
    let Some((base, model)) = base(context, from, &name)? else {
        // Ollama would pull it first.
        return progress(context, stream, &["pulling manifest"], Ended::Error(NO_MANIFEST));
    };
    let model = model.changed(&request)?;
    let digest = base.tag(&context.app.setting()).digest;
    let lines = virtual_model::progress(&request, &digest, &model);
    context.app.store.put(model)?;
    let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
    progress(context, stream, &lines, Ended::Well)
}

/// `POST /api/copy`.
pub(super) fn copy(context: &mut Context<'_>, body: Vec<u8>) -> Result<()> {
    let text = decode::text(body)?;
    let request: CopyRequest<'_> = decode::parse(&text, "CopyRequest")?;
    let source = request.source.as_deref().unwrap_or_default();
    let destination = request.destination.as_deref().unwrap_or_default();
    let invalid = |what: &str, name: &str| Error::invalid(format!("{what} {name:?} is invalid"));
    let bad_source = || invalid("source", source);
    let from = context.any_name(Some(source), bad_source).map_err(|_| bad_source())?;
    let bad_destination = || invalid("destination", destination);
    let to = context.any_name(Some(destination), bad_destination);
    let to = to.map_err(|_| bad_destination())?;
    if !names::is_valid(&from) && !exists(context, &from)? {
        return Err(bad_source());
    }
    check_new(context, &to, bad_destination)?;
    if names::key(&from) == names::key(&to) {
        return done(context);
    }
    let now = SystemTime::now();
    let model = match context.app.known(&from, context.trace)? {
        Some(Known::Virtual(model)) => model.copied(&to, now),
        Some(Known::Upstream(model)) => VirtualModel::alias(&to, &model.id, now),
        None => {
            return Err(Error::ModelNotFound { message: format!("model {source:?} not found") });
        }
    };
    context.app.store.put(model)?;
    done(context)
}

/// `DELETE /api/delete`.
pub(super) fn delete(context: &mut Context<'_>, body: Vec<u8>) -> Result<()> {
    let text = decode::text(body)?;
    let request: DeleteRequest<'_> = decode::parse(&text, "DeleteRequest")?;
    let given = either(request.model.as_ref(), request.name.as_ref());
    let invalid = || Error::invalid(format!("name {given:?} is invalid"));
    let name = match context.any_name(Some(given), model_is_required) {
        Err(_) if !given.is_empty() => return Err(invalid()),
        name => name?,
    };
    if let Some(model) = context.app.overlay(&name)
        && context.app.store.remove(&name)?
    {
        let now = SystemTime::now();
        context.app.loaded.touch(&model.name, Some(KeepAlive::For(Duration::ZERO)), None, now);
        return done(context);
    }
    if context.app.listed(&name, context.trace)?.is_some() {
        let reason = format!(
            "model '{given}' belongs to the upstream, and this proxy cannot delete it: only models \
             made with create or copy can be deleted here"
        );
        return Err(Error::Forbidden { reason });
    }
    if names::is_valid(&name) {
        Err(Error::ModelNotFound { message: format!("model '{given}' not found") })
    } else {
        Err(invalid())
    }
}

/// The upstream's model that `from` means, and what is there before the request is laid over it;
/// `None` for an unknown one. Where no list can be had, the upstream will know.
fn base(
    context: &mut Context<'_>,
    from: &str,
    name: &str,
) -> Result<Option<(Model, VirtualModel)>> {
    let now = SystemTime::now();
    let from = context.name(Some(from), names::invalid)?;
    // The log is to name the model that is made.
    name.clone_into(&mut context.trace.model);
    let app = context.app;
    if let Some(model) = app.overlay(&from) {
        return Ok(Some((app.base(&model, context.trace), model.copied(name, now))));
    }
    let model = match app.listed(&from, context.trace) {
        Ok(Some(model)) => model,
        Ok(None) if !names::is_valid(&from) => return Err(names::invalid()),
        Ok(None) => return Ok(None),
        Err(_) => Model::unlisted(&app.resolve(&from, None, false, context.trace).id),
    };
    let alias = VirtualModel::alias(name, &model.id, now);
    Ok(Some((model, alias)))
}

/// Whether a new model may have this name: one of Ollama's grammar, or one that is there already.
fn check_new(context: &mut Context<'_>, name: &str, invalid: impl FnOnce() -> Error) -> Result<()> {
    let suffix = names::source(name).map_or(Source::Cloud, |(_, source)| source);
    let usual = names::is_valid(name) && suffix == Source::Unsaid;
    if usual || exists(context, name)? { Ok(()) } else { Err(invalid()) }
}

fn exists(context: &mut Context<'_>, name: &str) -> Result<bool> {
    Ok(context.app.known(name, context.trace)?.is_some())
}

/// Success without a body.
fn done(context: &mut Context<'_>) -> Result<()> {
    context.exchange.answer(200, ContentType::Text, b"")
}
