//! `/v1/models` and `/v1/models/{id}` (OpenAI API reference, models), and the same in the form of
//! Anthropic's API for its clients, which are known by their headers.
//!
//! Never alters the upstream's entries, which keep their ids and members. The models of the configuration
//! come first, then virtual models, then those of the upstreams; the former hide the latter of the same name. Invariant: an id is never listed with `:latest`, unless
//! the upstream's own id has it.

use std::time::UNIX_EPOCH;

use super::Context;
use super::model_lookup::AnyModel;
use crate::api::wire::ndjson;
use crate::backends::names;
use crate::error::{Error, Result};
use crate::http::error_format::ErrorFormat;
use crate::http::exchange::ContentType;
use crate::models::anthropic_list;
use crate::models::list::ModelList;
use crate::models::model::Model;
use crate::models::virtual_model::VirtualModel;

/// The form of a model: OpenAI's or Anthropic's.
#[derive(Clone, Copy)]
struct Form {
    is_anthropic: bool,
}

impl Form {
    /// The form that the client expects; errors have it, too.
    fn of(context: &mut Context<'_>) -> Self {
        let exchange = &mut context.exchange;
        let pages = || anthropic_list::parameter(exchange.target(), "limit").is_some();
        let is_anthropic = exchange.header("anthropic-version").is_some()
            || (exchange.header("x-api-key").is_some() && pages());
        if is_anthropic {
            exchange.set_error_format(ErrorFormat::Anthropic);
        }
        Self { is_anthropic }
    }

    fn upstream_model(self, list: &ModelList, model: &Model) -> String {
        let entry = list.openai_object(&model.id);
        if self.is_anthropic { anthropic_list::to_object(model, &entry).to_string() } else { entry }
    }

    fn virtual_model(self, model: &VirtualModel, id: &str) -> String {
        let created =
            model.modified_time().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        if self.is_anthropic {
            return anthropic_list::to_named_object(id, id, created).to_string();
        }
        let id = ndjson::to_vec(&id);
        let id = String::from_utf8_lossy(&id);
        format!(r#"{{"id":{id},"object":"model","created":{created},"owned_by":"library"}}"#)
    }
}

/// `GET /v1/models`.
pub(super) fn list(context: &mut Context<'_>) -> Result<()> {
    let form = Form::of(context);
    let app = context.app;
    let list = app.list_for_display(context.trace)?;
    let made = app.store.snapshot();
    let router = app.router;
    let configured = router.models().iter().filter(|it| !it.is_hidden).map(|it| &it.model);
    let made_here = made.values().filter(|it| router.find_configured(&it.name).is_none());
    let mut models: Vec<(String, String)> = Vec::new();
    let may_use = |name: &str| app.may_use(name, context.trace);
    for model in configured.chain(made_here).filter(|model| may_use(&model.name)) {
        let id = names::strip_latest_tag(&model.name).unwrap_or(&model.name);
        models.push((id.to_owned(), form.virtual_model(model, id)));
    }
    for model in list.iter().filter(|model| may_use(&model.id)) {
        let is_made = made.contains_key(&names::canonical_key(&model.id));
        if !is_made && router.find_configured(&model.id).is_none() {
            models.push((model.id.clone(), form.upstream_model(&list, model)));
        }
    }
    let body = if form.is_anthropic {
        anthropic_list::to_page(models, context.exchange.target())
    } else {
        let objects: Vec<String> = models.into_iter().map(|(_, object)| object).collect();
        format!("{{\"object\":\"list\",\"data\":[{}]}}", objects.join(","))
    };
    context.exchange.respond(200, ContentType::BARE_JSON, format!("{body}\n").as_bytes())
}

/// `GET /v1/models/{id}`.
pub(super) fn retrieve(context: &mut Context<'_>) -> Result<()> {
    let form = Form::of(context);
    let requested = context.route.decoded_parameter();
    let name = context.app.parse_full_model_name(
        Some(&requested),
        context.trace,
        super::empty_model_error,
    )?;
    let app = context.app;
    let body = match app.find_model(&name, context.trace)? {
        Some(AnyModel::Virtual(model)) => form.virtual_model(&model, &requested),
        Some(AnyModel::Upstream(model)) => {
            let list = app.list_for_display(context.trace)?;
            form.upstream_model(&list, &model)
        }
        None if form.is_anthropic => {
            return Err(Error::ModelNotFound(format!("model: {requested}")));
        }
        None => return Err(Error::model_not_found(&names::display_name(&name))),
    };
    context.exchange.respond(200, ContentType::BARE_JSON, format!("{body}\n").as_bytes())
}
