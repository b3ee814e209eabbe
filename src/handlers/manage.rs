//! `/api/create`, `/api/copy` and `/api/delete`, which manage the virtual models.
//!
//! Never changes the upstream: its models can be copied and used as a base, but not deleted; a real Ollama's
//! are its own to change ([`super::native_manage`]).
//! Invariant: a change is on the disk before the first byte of its response is sent.

use std::time::{Duration, SystemTime};

use super::model_lookup::AnyModel;
use super::transfer::{no_manifest, send_progress};
use super::{AppView, Context, LoadOptions, key_access, model_required_error, native_manage};
use crate::api::ollama::decode;
use crate::api::ollama::manage::{CopyRequest, CreateRequest, DeleteRequest, model_or_name};
use crate::api::wire::keep_alive::KeepAlive;
use crate::backends::names;
use crate::backends::names::SourceSuffix;
use crate::error::{Error, Result};
use crate::http::exchange::ContentType;
use crate::models::model::Model;
use crate::models::virtual_model;
use crate::models::virtual_model::VirtualModel;

/// `POST /api/create`.
pub(super) fn create(context: &mut Context<'_>, text: String) -> Result<()> {
    key_access::check_create(context, &text)?;
    if native_manage::create(context, &text)? {
        return Ok(());
    }
    let request: CreateRequest<'_> = decode::parse(&text, "CreateRequest")?;
    let name = model_or_name(request.model.as_ref(), request.name.as_ref());
    let name =
        context.app.parse_full_model_name(Some(name), context.trace, names::invalid_name_error)?;
    check_new_name(context, &name, names::invalid_name_error)?;
    virtual_model::validate_request(&request)?;
    let stream = request.stream.unwrap_or(true);
    let from = request.from.as_deref().unwrap_or_default().trim();
    let Some((base, model)) = find_base(context, from, &name)? else {
        // Ollama would pull an unknown base model first.
        return send_progress(context, stream, &["pulling manifest"], Some(no_manifest()));
    };
    let model = model.apply_request(&request)?;
    let digest = base.render_tag(&context.app.render_context()).digest;
    let lines = virtual_model::progress_lines(&request, &digest, &model);
    context.app.store.put(model)?;
    let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
    send_progress(context, stream, &lines, None)
}

/// `POST /api/copy`.
pub(super) fn copy(context: &mut Context<'_>, text: String) -> Result<()> {
    key_access::check_named(context, &text, &["source"])?;
    key_access::check_named(context, &text, &["destination"])?;
    if native_manage::copy(context, &text)? {
        return Ok(());
    }
    let request: CopyRequest<'_> = decode::parse(&text, "CopyRequest")?;
    let source = request.source.as_deref().unwrap_or_default();
    let destination = request.destination.as_deref().unwrap_or_default();
    let invalid =
        |what: &str, name: &str| Error::invalid_request(format!("{what} {name:?} is invalid"));
    let bad_source = || invalid("source", source);
    let from = context
        .app
        .parse_full_model_name(Some(source), context.trace, bad_source)
        .map_err(|error| unless_refused(error, bad_source))?;
    let bad_destination = || invalid("destination", destination);
    let to = context.app.parse_full_model_name(Some(destination), context.trace, bad_destination);
    let to = to.map_err(|error| unless_refused(error, bad_destination))?;
    if !names::is_valid(&from) && !model_exists(context, &from)? {
        return Err(bad_source());
    }
    check_new_name(context, &to, bad_destination)?;
    if names::canonical_key(&from) == names::canonical_key(&to) {
        return send_empty_success(context);
    }
    let now = SystemTime::now();
    let model = match context.app.find_model_or_unlisted(&from, context.trace)? {
        Some(AnyModel::Virtual(model)) => context.app.copy(&model, &to),
        Some(AnyModel::Upstream(model)) => {
            VirtualModel::alias(&to, context.app.addressed_name(&from, &model.id), now)
        }
        None => {
            return Err(Error::ModelNotFound(format!("model {source:?} not found")));
        }
    };
    context.app.store.put(model)?;
    send_empty_success(context)
}

/// `DELETE /api/delete`.
pub(super) fn delete(context: &mut Context<'_>, text: String) -> Result<()> {
    key_access::check_named(context, &text, &["model", "name"])?;
    if native_manage::delete(context, &text)? {
        return Ok(());
    }
    let request: DeleteRequest<'_> = decode::parse(&text, "DeleteRequest")?;
    let given = model_or_name(request.model.as_ref(), request.name.as_ref());
    let invalid = || Error::invalid_request(format!("name {given:?} is invalid"));
    let name =
        match context.app.parse_full_model_name(Some(given), context.trace, model_required_error) {
            Err(error) if !given.is_empty() => return Err(unless_refused(error, invalid)),
            name => name?,
        };
    if let Some(model) = context.app.store.get(&name)
        && context.app.store.remove(&name)?
    {
        let keep_alive = Some(KeepAlive::For(Duration::ZERO));
        let unload = LoadOptions { keep_alive, num_ctx: None };
        context.app.running_models.mark_loaded(&model.name, unload, SystemTime::now());
        return send_empty_success(context);
    }
    if context.app.find_listed_model(&name, context.trace)?.is_some() {
        let reason = format!(
            "model '{given}' belongs to the upstream, and this proxy cannot delete it: only models \
             made with create or copy can be deleted here"
        );
        return Err(Error::Forbidden(reason));
    }
    if names::is_valid(&name) { Err(Error::model_not_found(given)) } else { Err(invalid()) }
}

/// The error of a name on a route with words of its own.
fn unless_refused(error: Error, invalid: impl FnOnce() -> Error) -> Error {
    if matches!(error, Error::ModelNotAllowed(_)) { error } else { invalid() }
}

/// The upstream model that `from` means, and the virtual model before the request is applied to it;
/// `None` for an unknown model. Without a model list, any name is accepted.
fn find_base(
    context: &mut Context<'_>,
    from: &str,
    name: &str,
) -> Result<Option<(Model, VirtualModel)>> {
    let now = SystemTime::now();
    let from =
        context.app.parse_model_name(Some(from), context.trace, names::invalid_name_error)?;
    // Log the created model instead of its base.
    name.clone_into(&mut context.trace.model);
    let app = context.app;
    if let Some(model) = app.find_virtual(&from) {
        return Ok(Some((app.find_base_model(&model, context.trace), app.copy(&model, name))));
    }
    let model = match app.find_listed_model(&from, context.trace) {
        Ok(Some(model)) => model,
        Ok(None) if !names::is_valid(&from) => return Err(names::invalid_name_error()),
        Ok(None) => return Ok(None),
        Err(_) => app.unlisted_model(&from, context.trace),
    };
    // Not the model that is created.
    context.trace.known_model = None;
    let alias = VirtualModel::alias(name, app.addressed_name(&from, &model.id), now);
    Ok(Some((model, alias)))
}

impl AppView<'_> {
    /// A copy of a virtual model. One of a model of the configuration goes where that one goes.
    fn copy(&self, model: &VirtualModel, name: &str) -> VirtualModel {
        let copy = model.copy_as(name, SystemTime::now());
        match self.router.find_configured(&model.name) {
            Some(_) => VirtualModel { from: model.name.clone(), ..copy },
            None => copy,
        }
    }
}

/// Accepts names that follow Ollama's grammar, and names of existing models that a file can hold.
fn check_new_name(
    context: &mut Context<'_>,
    name: &str,
    invalid: impl FnOnce() -> Error,
) -> Result<()> {
    let suffix = names::split_source(name).map_or(SourceSuffix::Cloud, |(_, source)| source);
    let is_regular = names::is_valid(name) && suffix == SourceSuffix::None;
    let is_new_name = is_regular || names::validate(name).is_ok() && model_exists(context, name)?;
    if is_new_name { Ok(()) } else { Err(invalid()) }
}

fn model_exists(context: &mut Context<'_>, name: &str) -> Result<bool> {
    Ok(context.app.find_model(name, context.trace)?.is_some())
}

fn send_empty_success(context: &mut Context<'_>) -> Result<()> {
    context.exchange.respond(200, ContentType::PLAIN_UTF8, b"")
}
