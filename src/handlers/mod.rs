//! One short function for each route: decode, translate, call, encode.
//!
//! A handler either leaves the exchange ended or returns the error with which it is to end; telling
//! the client is the server's part. State that outlives a request is in [`App`] and nowhere else.

mod account;
mod anthropic;
mod audio;
mod chat_generate;
mod decompress;
mod embed;
mod info;
mod manage;
mod model_lookup;
mod openai;
mod pass_through;
mod relay;
mod responses;
mod route_table;
pub mod stack_trim;
mod transfer;
mod v1_models;

#[doc(hidden)] // For tests that have no request.
pub use self::decompress::decompress_zstd;
pub use self::route_table::{Handler, ROUTES, handle};

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant, SystemTime};

use crate::api::wire::keep_alive::KeepAlive;
use crate::api::wire::ndjson;
use crate::backends::names;
use crate::backends::profiles::{GENERIC, Profile};
use crate::config::Config;
use crate::error::{Error, Result};
use crate::http::exchange::{ContentType, Exchange};
use crate::http::host_info;
use crate::http::routes::ResolvedRoute;
use crate::models::catalog;
use crate::models::catalog::{Catalog, SharedModelList};
use crate::models::model::{Capabilities, DEFAULT_CONTEXT_LENGTH, Model, RenderContext};
use crate::models::running_models::RunningModels;
use crate::models::store::Store;
use crate::models::virtual_model::VirtualModel;
use crate::observe::metrics::Metrics;
use crate::upstream::tool_call_extras::ToolCallExtras;
use crate::upstream::{Client, Trace};

/// What all requests share.
pub struct App {
    config: Config,
    client: Client,
    catalog: Catalog,
    running_models: RunningModels,
    batch_limits: embed::BatchLimits,
    store: Store,
    tool_call_extras: ToolCallExtras,
    blobs: transfer::BlobDigests,
    started_at: SystemTime,
    base_url: String,
    /// The upstream said that it has no `responses`.
    lacks_responses: AtomicBool,
}

/// One request on its way through.
pub struct Context<'a> {
    /// What all requests share.
    pub app: &'a App,
    /// Where the request leads.
    pub route: &'a ResolvedRoute<Handler>,
    /// The request and its reply.
    pub exchange: &'a mut Exchange,
    /// What the log is to know.
    pub trace: &'a mut Trace,
    /// When the request was there.
    pub received_at: Instant,
}

/// The upstream's model that a name means, and what it takes.
struct ResolvedModel {
    id: String,
    profile: &'static Profile,
    /// The name under which it counts as loaded: the id, or that of the virtual model.
    running_name: String,
    /// What it can do, as far as is known.
    capabilities: Capabilities,
    /// Whether the upstream has no such model and would not say so.
    is_missing: bool,
    /// Whether there was no list to look into.
    list_unavailable: bool,
}

impl ResolvedModel {
    /// Refuses a model that the upstream has not, in the words of most routes; `name` is what the
    /// client sent.
    fn check_exists(&self, name: &str) -> Result<()> {
        if !self.is_missing {
            return Ok(());
        }
        Err(Error::ModelNotFound { message: format!("model '{name}' not found") })
    }
}

impl App {
    /// An application over one upstream.
    #[must_use]
    pub fn new(config: Config, client: Client, store: Store, started_at: SystemTime) -> Self {
        let base_url = config.base_url.to_string();
        let catalog = Catalog::new(config.models_ttl);
        let (running_models, blobs) =
            (RunningModels::new(config.keep_alive), transfer::BlobDigests::default());
        let (batch_limits, tool_call_extras) =
            (embed::BatchLimits::default(), ToolCallExtras::default());
        let lacks_responses = AtomicBool::new(false);
        Self {
            config,
            client,
            catalog,
            running_models,
            batch_limits,
            store,
            tool_call_extras,
            blobs,
            started_at,
            base_url,
            lacks_responses,
        }
    }

    /// What is counted of the requests.
    #[must_use]
    pub fn metrics(&self) -> &Metrics {
        self.client.metrics()
    }

    fn render_context(&self) -> RenderContext<'_> {
        RenderContext {
            base_url: &self.base_url,
            started_at: self.started_at,
            default_context_length: self.config.context_length.unwrap_or(DEFAULT_CONTEXT_LENGTH),
            utc_offset: host_info::utc_offset,
        }
    }

    /// A list that is fresh enough.
    fn get_model_list(&self, trace: &mut Trace) -> Result<SharedModelList> {
        self.catalog.get_or_fetch(|| self.client.list_models(trace))
    }

    /// Whatever list can be had quickly, in one short attempt. Lists help to understand a request;
    /// it does not fail without one, and the attempt does not count as the request's own.
    fn try_get_model_list(&self, trace: &Trace) -> Option<SharedModelList> {
        let mut aside = Trace {
            request_id: trace.request_id.clone(),
            model: trace.model.clone(),
            ..Trace::default()
        };
        self.catalog.try_get(|| self.client.list_models_quickly(&mut aside))
    }

    /// Finds the upstream's id for a name and the family that serves it; `overlay` is the virtual
    /// model that the name means. The list is asked for only where it can change the request: for a
    /// name that ends in `:latest`, which may be part of the id or not, for what only some families
    /// know or some models can do. A name that no list shows is forwarded all the same, because lists
    /// are often incomplete (ollama-api.md 18.12), except to a family that would answer as if it had the
    /// model.
    fn resolve_model(
        &self,
        name: &str,
        overlay: Option<&VirtualModel>,
        need_family: bool,
        trace: &Trace,
    ) -> ResolvedModel {
        let name = overlay.map_or(name, |model| &model.from);
        let named = self.client.configured_profile();
        let at_hand = self.catalog.get_cached();
        let unsure = names::strip_latest_tag(name).is_some()
            || (at_hand.is_none()
                && self.client.current_profile().is_some_and(|it| it.ignores_model))
            || (need_family && named.is_none_or(|profile| profile.lists_capabilities));
        let lacks = |list: &SharedModelList| catalog::find_model(list, name).is_none();
        // A server of several models says itself which it has not.
        let ignores = |list: &SharedModelList| {
            let profile = named.or(list.profile_for(list.first()));
            list.len() == 1 && profile.is_some_and(|profile| profile.ignores_model)
        };
        let list = match at_hand {
            _ if unsure => self.try_get_model_list(trace),
            // The kept list may be an old one.
            Some(list) if ignores(&list) && lacks(&list) => self.try_get_model_list(trace),
            kept => kept,
        };
        let found = list.as_deref().and_then(|list| catalog::find_model(list, name));
        let listed = list.as_deref().and_then(|list| list.profile_for(found));
        let id = found.map_or_else(
            || {
                let name = names::strip_default_prefixes(name);
                names::strip_latest_tag(name).unwrap_or(name).to_owned()
            },
            |model| model.id.clone(),
        );
        ResolvedModel {
            is_missing: found.is_none() && list.as_ref().is_some_and(ignores),
            list_unavailable: list.is_none(),
            running_name: overlay.map_or_else(|| id.clone(), |model| model.name.clone()),
            capabilities: found
                .map_or_else(|| Model::from_id(&id).capabilities, |it| it.capabilities),
            id,
            profile: named.or(listed).unwrap_or(&GENERIC),
        }
    }

    /// Looks for the model once more when the first answer of an upstream has told that it would
    /// answer to any name. `shown` is what the client sent.
    ///
    /// # Errors
    /// [`Error::ModelNotFound`].
    fn recheck_model(
        &self,
        unlooked: bool,
        (name, shown): (&str, &str),
        overlay: Option<&VirtualModel>,
        trace: &Trace,
    ) -> Result<()> {
        if !unlooked || !self.client.current_profile().is_some_and(|it| it.ignores_model) {
            return Ok(());
        }
        self.resolve_model(name, overlay, false, trace).check_exists(shown)
    }

    /// Whether a model can be there: a list that has others and not this one says no. Without a list
    /// nobody knows.
    fn may_exist(&self, name: &str, overlay: Option<&VirtualModel>, trace: &mut Trace) -> bool {
        let name = overlay.map_or(name, |model| &model.from);
        let lacks = |list: &SharedModelList| catalog::find_model(list, name).is_none();
        match self.try_get_model_list(trace) {
            // The kept list may be an old one: a miss is worth a fresh look.
            Some(list) if lacks(&list) => {
                !self.get_model_list(trace).is_ok_and(|list| lacks(&list))
            }
            _ => true,
        }
    }

    /// The virtual model that a name means, if it means one: those hide the upstream's.
    fn find_virtual_model(&self, name: &str) -> Option<Arc<VirtualModel>> {
        self.store.get(name)
    }

    /// Notes that a model was loaded, and with what window.
    fn mark_loaded(&self, id: &str, stay: LoadOptions) {
        self.running_models.mark_loaded(id, stay.keep_alive, stay.num_ctx, SystemTime::now());
    }

    /// Notes that a model is in use until the value that is returned is dropped.
    fn begin_use(&self, id: String, stay: LoadOptions) -> ModelUse<'_> {
        self.running_models.begin_use(&id, stay.keep_alive, stay.num_ctx, SystemTime::now());
        ModelUse { app: self, id, was_answered: false }
    }
}

/// What a request says of how its model is loaded.
#[derive(Clone, Copy)]
struct LoadOptions {
    /// How long it stays, if the request says so.
    keep_alive: Option<KeepAlive>,
    /// The window that it gets.
    num_ctx: Option<u64>,
}

/// A model in use, so that `/api/ps` shows it. A panic ends the use, too.
struct ModelUse<'a> {
    app: &'a App,
    id: String,
    was_answered: bool,
}

impl ModelUse<'_> {
    /// The upstream has answered: the model is there.
    fn mark_answered(&mut self) {
        self.was_answered = true;
    }
}

impl Drop for ModelUse<'_> {
    fn drop(&mut self) {
        self.app.running_models.end_use(&self.id, self.was_answered, SystemTime::now());
    }
}

impl Context<'_> {
    /// From the request to the attempt that the upstream answered.
    fn time_to_last_attempt(&self) -> Duration {
        let sent =
            self.trace.last_attempt_at.map(|sent| sent.saturating_duration_since(self.received_at));
        sent.unwrap_or_default()
    }

    /// The request's body.
    fn read_body(&mut self) -> Result<Vec<u8>> {
        let body = self.exchange.read_body(self.app.config.max_body_bytes)?;
        self.log_body(&body);
        Ok(body)
    }

    /// Logs what the client sent, where bodies are logged.
    fn log_body(&self, body: &[u8]) {
        self.app.client.body_log().log(&self.trace.request_id, "request of the client", body);
    }

    fn answer_json(&mut self, status: u16, value: &impl serde::Serialize) -> Result<()> {
        self.exchange.respond(status, ContentType::Json, &ndjson::to_vec(value))
    }
}

/// A missing name on routes that answer 400.
fn model_required_error() -> Error {
    Error::invalid_request("model is required")
}

/// A missing name on routes that answer 404.
fn empty_model_error() -> Error {
    Error::ModelNotFound { message: "model '' not found".into() }
}

/// Reads `keep_alive`.
fn parse_keep_alive(value: Option<&serde_json::Value>) -> Result<Option<KeepAlive>> {
    match value {
        Some(value) => KeepAlive::from_json(value).map_err(Error::invalid_request),
        None => Ok(None),
    }
}
