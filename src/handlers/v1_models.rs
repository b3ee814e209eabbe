//! `/v1/models` and `/v1/models/{id}` (OpenAI API reference, models).
//!
//! Never alters the upstream's entries, which keep their ids and members. Virtual models follow them
//! and hide upstream models of the same name. Invariant: an id is never listed with `:latest`, unless
//! the upstream's own id has it.

use std::time::UNIX_EPOCH;

use super::Context;
use super::model_lookup::AnyModel;
use crate::api::wire::ndjson;
use crate::backends::names;
use crate::error::{Error, Result};
use crate::http::exchange::ContentType;
use crate::models::virtual_model::VirtualModel;

/// `GET /v1/models`.
pub(super) fn list(context: &mut Context<'_>) -> Result<()> {
    let list = context.app.list_for_display(context.trace)?;
    let virtual_models = context.app.store.snapshot();
    let mut models: Vec<String> = list
        .iter()
        .filter(|model| !virtual_models.contains_key(&names::canonical_key(&model.id)))
        .map(|model| list.openai_object(&model.id))
        .collect();
    for model in virtual_models.values() {
        let id = names::strip_latest_tag(&model.name).unwrap_or(&model.name);
        models.push(openai_object(model, id));
    }
    let body = format!("{{\"object\":\"list\",\"data\":[{}]}}\n", models.join(","));
    context.exchange.respond(200, ContentType::BARE_JSON, body.as_bytes())
}

/// `GET /v1/models/{id}`.
pub(super) fn retrieve(context: &mut Context<'_>) -> Result<()> {
    let requested = context.route.decoded_parameter();
    let name = context.app.parse_full_model_name(
        Some(&requested),
        context.trace,
        super::empty_model_error,
    )?;
    let app = context.app;
    let body = match app.find_model(&name, context.trace)? {
        Some(AnyModel::Virtual(model)) => openai_object(&model, &requested),
        Some(AnyModel::Upstream(model)) => {
            app.upstream.get_model_list(context.trace)?.openai_object(&model.id)
        }
        None => return Err(Error::model_not_found(&names::display_name(&name))),
    };
    context.exchange.respond(200, ContentType::BARE_JSON, format!("{body}\n").as_bytes())
}

/// A virtual model as OpenAI's model object.
fn openai_object(model: &VirtualModel, id: &str) -> String {
    let created = model.modified_time().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let id = ndjson::to_vec(&id);
    let id = String::from_utf8_lossy(&id);
    format!(r#"{{"id":{id},"object":"model","created":{created},"owned_by":"library"}}"#)
}
