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
pub mod stack_trim;
mod transfer;
mod v1_models;

#[doc(hidden)] // For tests that have no request.
pub use self::decompress::unfold;

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
use crate::http::routes;
use crate::http::routes::{Route, Target, V1};
use crate::models::catalog;
use crate::models::catalog::{Catalog, List};
use crate::models::model::{Abilities, DEFAULT_CONTEXT_LENGTH, Model, Setting};
use crate::models::running_models::Loaded;
use crate::models::store::Store;
use crate::models::virtual_model::VirtualModel;
use crate::observe::metrics::Metrics;
use crate::upstream::tool_call_extras::Keepsakes;
use crate::upstream::{Client, Trace};

/// What all requests share.
pub struct App {
    config: Config,
    client: Client,
    catalog: Catalog,
    loaded: Loaded,
    learnt: embed::Learnt,
    store: Store,
    keepsakes: Keepsakes,
    blobs: transfer::Blobs,
    started: SystemTime,
    base: String,
    /// The upstream said that it has no `responses`.
    lacks_responses: AtomicBool,
}

/// One request on its way through.
pub struct Context<'a> {
    /// What all requests share.
    pub app: &'a App,
    /// The request and its reply.
    pub exchange: &'a mut Exchange,
    /// What the log is to know.
    pub trace: &'a mut Trace,
    /// When the request was there.
    pub received: Instant,
}

/// The upstream's model that a name means, and what it takes.
struct Resolved {
    id: String,
    profile: &'static Profile,
    /// The name under which it counts as loaded: the id, or that of the virtual model.
    used: String,
    /// What it can do, as far as is known.
    abilities: Abilities,
    /// Whether the upstream has no such model and would not say so.
    unknown: bool,
    /// Whether there was no list to look into.
    unlooked: bool,
}

impl Resolved {
    /// Refuses a model that the upstream has not, in the words of most routes; `name` is what the
    /// client sent.
    fn exists(&self, name: &str) -> Result<()> {
        if !self.unknown {
            return Ok(());
        }
        Err(Error::ModelNotFound { message: format!("model '{name}' not found") })
    }
}

impl App {
    /// An application over one upstream.
    #[must_use]
    pub fn new(config: Config, client: Client, store: Store, started: SystemTime) -> Self {
        let base = config.base_url.to_string();
        let catalog = Catalog::new(config.models_ttl);
        let (loaded, blobs) = (Loaded::new(config.keep_alive), transfer::Blobs::default());
        let (learnt, keepsakes) = (embed::Learnt::default(), Keepsakes::default());
        let lacks_responses = AtomicBool::new(false);
        Self {
            config,
            client,
            catalog,
            loaded,
            learnt,
            store,
            keepsakes,
            blobs,
            started,
            base,
            lacks_responses,
        }
    }

    /// What is counted of the requests.
    #[must_use]
    pub fn metrics(&self) -> &Metrics {
        self.client.metrics()
    }

    fn setting(&self) -> Setting<'_> {
        Setting {
            base: &self.base,
            started: self.started,
            context_length: self.config.context_length.unwrap_or(DEFAULT_CONTEXT_LENGTH),
            zone: host_info::zone,
        }
    }

    /// A list that is fresh enough.
    fn list(&self, trace: &mut Trace) -> Result<List> {
        self.catalog.fresh(|| self.client.list_models(trace))
    }

    /// Whatever list can be had quickly, in one short attempt. Lists help to understand a request;
    /// it does not fail without one, and the attempt does not count as the request's own.
    fn any_list(&self, trace: &Trace) -> Option<List> {
        let mut aside = Trace {
            request_id: trace.request_id.clone(),
            model: trace.model.clone(),
            ..Trace::default()
        };
        self.catalog.any(|| self.client.list_models_once(&mut aside))
    }

    /// Finds the upstream's id for a name and the family that serves it; `overlay` is the virtual
    /// model that the name means. The list is asked for only where it can change the request: for a
    /// name that ends in `:latest`, which may be part of the id or not, for what only some families
    /// know or some models can do. A name that no list shows is forwarded all the same, because lists
    /// are often incomplete (ollama-api.md 18.12), except to a family that would answer as if it had the
    /// model.
    fn resolve(
        &self,
        name: &str,
        overlay: Option<&VirtualModel>,
        need_family: bool,
        trace: &Trace,
    ) -> Resolved {
        let name = overlay.map_or(name, |model| &model.from);
        let named = self.client.profile();
        let at_hand = self.catalog.at_hand();
        let unsure = names::without_latest(name).is_some()
            || (at_hand.is_none() && self.client.family().is_some_and(|it| it.ignores_model))
            || (need_family && named.is_none_or(|profile| profile.lists_abilities));
        let lacks = |list: &List| catalog::find(list, name).is_none();
        // A server of several models says itself which it has not.
        let ignores = |list: &List| {
            let profile = named.or(list.profile_of(list.first()));
            list.len() == 1 && profile.is_some_and(|profile| profile.ignores_model)
        };
        let list = match at_hand {
            _ if unsure => self.any_list(trace),
            // The kept list may be an old one.
            Some(list) if ignores(&list) && lacks(&list) => self.any_list(trace),
            kept => kept,
        };
        let found = list.as_deref().and_then(|list| catalog::find(list, name));
        let listed = list.as_deref().and_then(|list| list.profile_of(found));
        let id = found.map_or_else(
            || {
                let name = names::without_defaults(name);
                names::without_latest(name).unwrap_or(name).to_owned()
            },
            |model| model.id.clone(),
        );
        Resolved {
            unknown: found.is_none() && list.as_ref().is_some_and(ignores),
            unlooked: list.is_none(),
            used: overlay.map_or_else(|| id.clone(), |model| model.name.clone()),
            abilities: found.map_or_else(|| Model::unlisted(&id).abilities, |it| it.abilities),
            id,
            profile: named.or(listed).unwrap_or(&GENERIC),
        }
    }

    /// Looks for the model once more when the first answer of an upstream has told that it would
    /// answer to any name. `shown` is what the client sent.
    ///
    /// # Errors
    /// [`Error::ModelNotFound`].
    fn confirm(
        &self,
        unlooked: bool,
        (name, shown): (&str, &str),
        overlay: Option<&VirtualModel>,
        trace: &Trace,
    ) -> Result<()> {
        if !unlooked || !self.client.family().is_some_and(|it| it.ignores_model) {
            return Ok(());
        }
        self.resolve(name, overlay, false, trace).exists(shown)
    }

    /// Whether a model can be there: a list that has others and not this one says no. Without a list
    /// nobody knows.
    fn may_exist(&self, name: &str, overlay: Option<&VirtualModel>, trace: &mut Trace) -> bool {
        let name = overlay.map_or(name, |model| &model.from);
        let lacks = |list: &List| catalog::find(list, name).is_none();
        match self.any_list(trace) {
            // The kept list may be an old one: a miss is worth a fresh look.
            Some(list) if lacks(&list) => !self.list(trace).is_ok_and(|list| lacks(&list)),
            _ => true,
        }
    }

    /// The virtual model that a name means, if it means one: those hide the upstream's.
    fn overlay(&self, name: &str) -> Option<Arc<VirtualModel>> {
        self.store.get(name)
    }

    /// Notes that a model was loaded, and with what window.
    fn touch(&self, id: &str, stay: Stay) {
        self.loaded.touch(id, stay.keep_alive, stay.num_ctx, SystemTime::now());
    }

    /// Notes that a model is in use until the value that is returned is dropped.
    fn begin(&self, id: String, stay: Stay) -> InUse<'_> {
        self.loaded.begin(&id, stay.keep_alive, stay.num_ctx, SystemTime::now());
        InUse { app: self, id, answered: false }
    }
}

/// What a request says of how its model is loaded.
#[derive(Clone, Copy)]
struct Stay {
    /// How long it stays, if the request says so.
    keep_alive: Option<KeepAlive>,
    /// The window that it gets.
    num_ctx: Option<u64>,
}

/// A model in use, so that `/api/ps` shows it. A panic ends the use, too.
struct InUse<'a> {
    app: &'a App,
    id: String,
    answered: bool,
}

impl InUse<'_> {
    /// The upstream has answered: the model is there.
    fn answered(&mut self) {
        self.answered = true;
    }
}

impl Drop for InUse<'_> {
    fn drop(&mut self) {
        self.app.loaded.end(&self.id, self.answered, SystemTime::now());
    }
}

/// Handles one request.
///
/// # Errors
/// Whatever the client is to be told, and [`Error::DownstreamGone`].
pub fn handle(mut context: Context<'_>) -> Result<()> {
    let target = routes::find(context.exchange.method(), context.exchange.target());
    // The body is read whatever the route, so that the connection can serve again; by its own
    // function where it need not be kept.
    let body = match target {
        Ok(Target::Route(Route::Blob)) => Vec::new(),
        Ok(Target::Route(Route::V1(
            V1::Chat | V1::Completions | V1::Embeddings | V1::Transcriptions,
        ))) => Vec::new(),
        Ok(Target::Route(Route::V1(V1::Responses | V1::Messages | V1::CountTokens))) => {
            decompress::read(&mut context)?
        }
        _ => context.body()?,
    };
    match target? {
        Target::Redirect { status, location } => {
            let location = [("Location", location.as_str())];
            context.exchange.answer_with(status, ContentType::Text, &location, b"")
        }
        Target::Route(route) => dispatch(route, &mut context, body),
    }
}

fn dispatch(route: Route, context: &mut Context<'_>, body: Vec<u8>) -> Result<()> {
    match route {
        Route::Root => context.exchange.answer(200, ContentType::Text, b"Ollama is running"),
        Route::Version => info::version(context),
        Route::Tags => info::tags(context),
        Route::Ps => info::ps(context),
        Route::Show => info::show(context, body),
        Route::Chat => chat_generate::chat(context, body),
        Route::Generate => chat_generate::generate(context, body),
        Route::Embed => embed::embed(context, body),
        Route::Embeddings => embed::embeddings(context, body),
        Route::Status => account::status(context),
        Route::Me => account::me(context),
        Route::SignOut | Route::UserKey => account::sign_out(context),
        Route::WebSearch => account::web(context, &body, "web search"),
        Route::WebFetch => account::web(context, &body, "web fetch"),
        Route::Recommendations => account::recommendations(context),
        Route::Create => manage::create(context, body),
        Route::Copy => manage::copy(context, body),
        Route::Delete => manage::delete(context, body),
        Route::Pull => transfer::pull(context, body),
        Route::Push => transfer::push(context, body),
        Route::Blob => transfer::blob(context),
        Route::V1(route) => dispatch_v1(route, context, body),
        Route::Health => info::health(context),
        Route::Ready => info::ready(context),
        Route::UpstreamHealth => info::upstream_health(context),
        Route::Metrics => info::metrics(context),
    }
}

fn dispatch_v1(route: V1, context: &mut Context<'_>, body: Vec<u8>) -> Result<()> {
    match route {
        V1::Models => v1_models::list(context),
        V1::Model => v1_models::one(context),
        V1::Chat => openai::chat(context),
        V1::Completions => openai::completions(context),
        V1::Embeddings => openai::embeddings(context),
        V1::Responses => openai::responses(context, body),
        V1::Transcriptions => audio::transcriptions(context),
        V1::Messages => anthropic::messages(context, body),
        V1::CountTokens => anthropic::count_tokens(context, body),
    }
}

impl Context<'_> {
    /// From the request to the attempt that the upstream answered.
    fn sent_after(&self) -> Duration {
        let sent = self.trace.sent.map(|sent| sent.saturating_duration_since(self.received));
        sent.unwrap_or_default()
    }

    /// The request's body.
    fn body(&mut self) -> Result<Vec<u8>> {
        let body = self.exchange.read_body(self.app.config.max_body_bytes)?;
        self.log_body(&body);
        Ok(body)
    }

    /// Logs what the client sent, where bodies are logged.
    fn log_body(&self, body: &[u8]) {
        self.app.client.bodies().log(&self.trace.request_id, "request of the client", body);
    }

    fn answer_json(&mut self, status: u16, value: &impl serde::Serialize) -> Result<()> {
        self.exchange.answer(status, ContentType::Json, &ndjson::to_vec(value))
    }
}

/// A missing name on routes that answer 400.
fn model_is_required() -> Error {
    Error::invalid("model is required")
}

/// A missing name on routes that answer 404.
fn no_model() -> Error {
    Error::ModelNotFound { message: "model '' not found".into() }
}

/// Reads `keep_alive`.
fn keep_alive(value: Option<&serde_json::Value>) -> Result<Option<KeepAlive>> {
    match value {
        Some(value) => KeepAlive::from_json(value).map_err(Error::invalid),
        None => Ok(None),
    }
}
