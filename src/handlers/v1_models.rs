//! `/v1/models` and `/v1/models/{id}` (ollama-api.md 14.5).
//!
//! What the upstream lists comes as the upstream wrote it, under its own ids; our own models follow
//! it, and hide what has the same name. They are named without `:latest`, as the upstream's are.

use std::time::UNIX_EPOCH;

use serde::Serialize;

use super::Context;
use super::model_lookup::Known;
use crate::api::wire::ndjson;
use crate::backends::names;
use crate::error::{Error, Result};
use crate::http::exchange::ContentType;
use crate::http::routes;
use crate::models::virtual_model::VirtualModel;

/// A model of our own.
#[derive(Serialize)]
struct Own<'a> {
    id: &'a str,
    object: &'static str,
    created: u64,
    owned_by: &'static str,
}

impl<'a> Own<'a> {
    fn of(model: &VirtualModel, id: &'a str) -> Self {
        let modified = model.modified().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self { id, object: "model", created: modified.as_secs(), owned_by: "library" }
    }
}

/// `GET /v1/models`.
pub(super) fn list(context: &mut Context<'_>) -> Result<()> {
    let list = context.app.list(context.trace)?;
    let own = context.app.store.all();
    let mut models: Vec<String> = list
        .iter()
        .filter(|model| !own.contains_key(&names::key(&model.id)))
        .map(|model| list.object(&model.id))
        .collect();
    for model in own.values() {
        let id = names::without_latest(&model.name).unwrap_or(&model.name);
        models.push(text(&Own::of(model, id)));
    }
    let body = format!("{{\"object\":\"list\",\"data\":[{}]}}\n", models.join(","));
    context.exchange.answer(200, ContentType::BareJson, body.as_bytes())
}

/// `GET /v1/models/{id}`.
pub(super) fn one(context: &mut Context<'_>) -> Result<()> {
    let asked = routes::behind(context.exchange.target(), "/v1/models/");
    let name = context.any_name(Some(&asked), super::no_model)?;
    let app = context.app;
    let body = match app.known(&name, context.trace)? {
        Some(Known::Virtual(model)) => text(&Own::of(&model, &asked)),
        Some(Known::Upstream(model)) => app.list(context.trace)?.object(&model.id),
        None => {
            let message = format!("model '{}' not found", names::display(&name));
            return Err(Error::ModelNotFound { message });
        }
    };
    context.exchange.answer(200, ContentType::BareJson, format!("{body}\n").as_bytes())
}

fn text(model: &Own<'_>) -> String {
    String::from_utf8(ndjson::to_vec(model)).unwrap_or_default()
}
