//! One short function for each route: decode, translate, call, encode.
//!
//! A handler either ends the exchange or returns the error that ends it; the dispatcher tells the client.
//! Never opens a connection itself. Invariant: state that outlives a request is in [`App`] and nowhere
//! else.
//!
//! # Requests that pass through
//!
//! `/v1/chat/completions`, `/v1/completions`, `/v1/embeddings`, `/v1/responses`, `/v1/responses/compact`
//! and `/v1/audio/transcriptions` go to the upstream with all their members, and the response comes back as
//! it arrives, with its status, also if it is an error. Only these change:
//!
//! - the model's name: another spelling, `:latest`, a virtual model;
//! - the key, which is always the proxy's own;
//! - parameters that the upstream rejects, except `stop` (see [`crate::upstream::repair`]); not in
//!   forms of `/v1/audio/transcriptions`;
//! - keys in errors, which are masked; those inside streams are not;
//! - a stream of chat or text completions, which gets a comment (`: keepalive`) between two events after
//!   each 15 s of silence.
//!
//! Request headers that are sent: `Content-Type` (`application/json` unless it is a form),
//! `Accept`, `OpenAI-Organization`, `OpenAI-Project`, `OpenAI-Beta`. Response headers that are
//! returned: the content type, `x-request-id`, `retry-after`, `retry-after-ms`, `x-should-retry`,
//! `x-ratelimit-*`, `openai-*`. `X-Upstream` is the proxy's own: it names the upstream, also on other
//! routes. JSON may be compressed with zstd.
//!
//! A body above 1 MiB whose model is named in its first 64 KiB streams through; there is no retry
//! and no repair then. These bodies are held instead: of a virtual model, of a model that needs a
//! repair, without a length, compressed, or for `/v1/responses` and `/v1/responses/compact`.
//!
//! Any other `POST` below `/v1` whose body (JSON, or a multipart form) names a `model` goes to the
//! upstream in the same way, with its path and its query, and is sent again only where connecting
//! failed: `rerank`, `audio/speech`, `audio/translations`, `images/...`, `moderations` and whatever
//! else the upstream has. If it has no such route, its 404 is the
//! client's. Routes that manage the operator's account or store objects there are not passed on
//! ([`crate::api::openai::other_routes`]).
//!
//! # A full machine
//!
//! What has arrived is written at once. Only while 128 streams or more keep the processors busy without a
//! pause, a stream that has shown its first tokens sleeps up to 100 ms behind a write, and passes on together what
//! has arrived meanwhile: `gather`.
//!
//! # A real Ollama
//!
//! What comes in Ollama's protocol for a model of a real Ollama goes there as it is, and the response comes back
//! as it is, line by line: `native` (chat, generate, embeddings) and `native_manage` (the other routes). Only
//! the model's name changes, where the client has another one for it: with the upstream's name before it, or
//! one of the configuration. The defaults of a virtual model are inserted where the request has none; its first
//! messages have no place in a request of `/api/generate`, which is translated instead. Nothing is repaired.
//! The routes below `/v1` go to the Ollama's own `/v1`.
//!
//! # Models
//!
//! `/v1/models` lists the upstream's own entries and the virtual models; an id may contain slashes.
//! Clients of Anthropic's API, known by `anthropic-version`, get the list in its form.

mod account;
mod anthropic;
mod audio;
mod chat_generate;
mod client_stream;
mod decompress;
mod embed;
mod failover;
mod fill_in;
mod gather;
mod health;
mod info;
mod keepalive;
mod key_access;
mod manage;
mod model_lookup;
mod model_request;
mod native;
mod native_manage;
mod other_routes;
mod pass_through;
mod passed_on;
mod relay;
mod response_state;
mod response_store;
mod responses;
mod responses_compact;
mod route_table;
mod routing_key;
pub mod stack_trim;
mod status;
mod transfer;
mod upload;
mod v1_models;

#[doc(hidden)] // For tests that have no request.
pub use self::decompress::decompress_zstd;
pub use self::keepalive::KeepaliveSettings;
pub use self::route_table::{Handler, ROUTES, asks_models, handle, is_passed_on};

use std::ops::Deref;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, RwLock};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use serde_json::{Map, Value};

use self::gather::Gatherer;
use self::keepalive::SilenceTimer;
use self::response_store::ResponseStore;
use self::stack_trim::StackTrimmer;
use crate::api::wire::keep_alive::KeepAlive;
use crate::api::wire::{json_cost, ndjson};
use crate::error::{Error, Result};
use crate::http::exchange::{ContentType, Exchange};
use crate::http::host_info;
use crate::http::named_keys::{ClientKey, KeyBook};
use crate::http::routes::ResolvedRoute;
use crate::models::model::{DEFAULT_CONTEXT_LENGTH, RenderContext};
use crate::models::running_models::{LoadOptions, RunningModels};
use crate::models::store::Store;
use crate::net::key_limits;
use crate::observe::first_times::FirstTimes;
use crate::observe::lock;
use crate::observe::metrics::Metrics;
use crate::translate::options;
use crate::translate::skipped::Skipped;
use crate::upstream::router::Router;
use crate::upstream::router::slots::Slot;
use crate::upstream::{Trace, Upstream};

/// The settings of the routes.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The upstream's base URL, as models show it.
    pub base_url: String,
    /// The largest request body, in bytes.
    pub max_body_bytes: usize,
    /// How long a model shows as loaded when no request says so.
    pub keep_alive: KeepAlive,
    /// The context length shown for a model of unknown context length; `None` for a built-in default.
    pub context_length: Option<u64>,
    /// When silent streams show that they are alive.
    pub keepalive: KeepaliveSettings,
    /// How long each long stream pauses behind a write; `None` for as long as the load of the machine asks
    /// for.
    pub stream_pause: Option<Duration>,
    /// Bytes of earlier responses that may be kept.
    pub max_kept_bytes: usize,
    /// Requests that may wait for their turn at an upstream.
    pub max_waiting: usize,
    /// The options in force and their values, without keys, for the status page.
    pub configuration: Vec<(&'static str, String)>,
}

/// The state that all requests share.
pub struct App {
    /// Those of the start; a reload changes `limits` and the default of `running_models`.
    settings: Settings,
    limits: Limits,
    /// The upstreams and models of the configuration; replaced by a reload.
    router: RwLock<Arc<Router>>,
    /// The counters of all requests.
    pub metrics: Arc<Metrics>,
    running_models: RunningModels,
    store: Store,
    blobs: transfer::BlobDigests,
    /// Earlier responses of `/v1/responses`.
    responses: ResponseStore,
    /// What the log said of the types that translations leave out.
    logged_types: FirstTimes,
    started_at: SystemTime,
    /// The client keys that have names, and what they have used.
    pub keys: KeyBook,
    /// When streams pause because the machine is full.
    gatherer: Gatherer,
    /// The options in force; replaced by a reload.
    configuration: RwLock<Vec<(&'static str, String)>>,
}

/// The state that all requests share, and the upstreams and models as they were when a request began.
#[derive(Clone, Copy)]
pub struct AppView<'a> {
    /// The state.
    pub state: &'a App,
    /// The upstreams and models.
    pub router: &'a Router,
    /// The client key of the request, if that has a name.
    pub key: Option<&'a ClientKey>,
}

impl Deref for AppView<'_> {
    type Target = App;

    fn deref(&self) -> &App {
        self.state
    }
}

/// The settings that a reload changes and that each request reads anew.
struct Limits {
    max_body_bytes: AtomicUsize,
    default_context_length: AtomicU64,
}

impl Limits {
    fn new(settings: &Settings) -> Self {
        let limits =
            Self { max_body_bytes: AtomicUsize::new(0), default_context_length: AtomicU64::new(0) };
        limits.set(settings);
        limits
    }

    fn set(&self, settings: &Settings) {
        let context_length = settings.context_length.unwrap_or(DEFAULT_CONTEXT_LENGTH);
        self.max_body_bytes.store(settings.max_body_bytes, Ordering::Relaxed);
        self.default_context_length.store(context_length, Ordering::Relaxed);
    }
}

/// One request on its way through.
pub struct Context<'a> {
    /// The state that all requests share, and the upstreams.
    pub app: AppView<'a>,
    /// The route of the request.
    pub route: &'a ResolvedRoute<Handler>,
    /// The request and its reply.
    pub exchange: &'a mut Exchange,
    /// The facts about the request that its log line shows.
    pub trace: &'a mut Trace,
    /// Gives back the stack of a long stream.
    pub stack: &'a mut StackTrimmer,
    /// When the request arrived.
    pub received_at: Instant,
}

impl App {
    /// An application over these upstreams.
    pub fn new(
        settings: Settings,
        router: Router,
        store: Store,
        metrics: Arc<Metrics>,
        started_at: SystemTime,
    ) -> Self {
        let running_models = RunningModels::new(settings.keep_alive);
        let limits = Limits::new(&settings);
        let blobs = transfer::BlobDigests::default();
        let responses = ResponseStore::new(settings.max_kept_bytes);
        let gatherer = Gatherer::new(settings.stream_pause);
        let router = RwLock::new(Arc::new(router));
        let configuration = RwLock::new(settings.configuration.clone());
        Self {
            configuration,
            settings,
            limits,
            router,
            metrics,
            running_models,
            store,
            blobs,
            responses,
            logged_types: FirstTimes::default(),
            started_at,
            gatherer,
            keys: KeyBook::default(),
        }
    }

    /// The upstreams and models that new requests use.
    pub fn router(&self) -> Arc<Router> {
        lock::read(&self.router).clone()
    }

    /// Replaces the upstreams and models, which requests that run keep, and all settings but the base URL,
    /// which models would show as a change of themselves, and the memory for earlier responses.
    pub fn reload(&self, settings: &Settings, router: Router) {
        self.limits.set(settings);
        self.running_models.set_default_keep_alive(settings.keep_alive);
        *lock::write(&self.router) = Arc::new(router);
        lock::write(&self.configuration).clone_from(&settings.configuration);
    }

    /// The options in force and their values, without keys.
    pub fn configuration(&self) -> Vec<(&'static str, String)> {
        lock::read(&self.configuration).clone()
    }

    /// Takes over what the state file says that keys have used today.
    pub fn load_key_counts(&self) {
        if let Some((day, totals)) = self.store.key_tokens() {
            self.keys.set_saved(day, &totals, &[]);
        }
    }

    /// Whether there is a file that keeps what keys have used.
    pub fn keeps_key_counts(&self) -> bool {
        self.store.has_file()
    }

    /// Writes what keys have used today into the state file, if it has not all of that.
    ///
    /// # Errors
    /// [`Error::StateFile`].
    pub fn save_key_counts(&self) -> Result<()> {
        let _turn = lock::lock(&self.keys.save_turn);
        let day = key_limits::today();
        let unsaved = self.keys.unsaved(day);
        if !unsaved.is_empty() && self.keeps_key_counts() {
            let totals = self.store.add_key_tokens(day, &unsaved)?;
            self.keys.set_saved(day, &totals, &unsaved);
        }
        Ok(())
    }

    /// The largest request body, in bytes.
    fn max_body_bytes(&self) -> usize {
        self.limits.max_body_bytes.load(Ordering::Relaxed)
    }

    /// Drops what is kept of earlier responses: all of it where memory is short, else what is too old.
    pub fn free_memory(&self, is_short: bool) {
        if is_short {
            self.responses.clear();
        } else {
            self.responses.forget_old(Instant::now());
        }
    }

    /// Drops so many bytes of what is kept of earlier responses, and then of tool calls.
    pub fn free_kept(&self, bytes: usize) {
        let freed = self.responses.free(bytes);
        for upstream in self.router().upstreams().iter().filter(|_| freed < bytes) {
            upstream.client.tool_call_extras.free(bytes - freed);
        }
    }

    fn render_context(&self) -> RenderContext<'_> {
        RenderContext {
            base_url: &self.settings.base_url,
            started_at: self.started_at,
            default_context_length: self.limits.default_context_length.load(Ordering::Relaxed),
            utc_offset: host_info::utc_offset,
        }
    }
}

/// How a request that has `options` wants its model to be loaded.
fn load_options(
    keep_alive: Option<KeepAlive>,
    options: Option<&Map<String, Value>>,
) -> LoadOptions {
    LoadOptions { keep_alive, num_ctx: options::num_ctx(options) }
}

/// A model in use, so that `/api/ps` shows it. A panic ends the use, too.
struct ModelUse<'a> {
    app: &'a App,
    id: String,
    was_answered: bool,
    /// The upstream that serves it, and the request's place there.
    upstream: Arc<Upstream>,
    _slot: Option<Slot>,
}

impl Drop for ModelUse<'_> {
    fn drop(&mut self) {
        self.app.running_models.end_use(&self.id, self.was_answered, SystemTime::now());
    }
}

impl Context<'_> {
    /// To be called between a write of a stream and its next wait, `elapsed` after the request arrived;
    /// `written` are the bytes of tokens that were written.
    fn before_wait(&mut self, elapsed: Duration, written: usize) {
        self.stack.before_wait(elapsed);
        if self.stack.is_long_stream() && gather::is_worth_a_pause(written) {
            let open_streams = || self.app.router.open_streams();
            let pause = self.app.gatherer.pause(self.received_at + elapsed, open_streams);
            if !pause.is_zero() {
                thread::sleep(pause);
            }
        }
    }

    /// A timer of silences that begins with the head of the upstream's response.
    fn silence_timer(&self, interval: Option<Duration>) -> SilenceTimer {
        SilenceTimer::new(self.received_at, self.trace.time_to_head(self.received_at), interval)
    }

    /// Lets a stream of events begin before it is known whether the upstream's begins with an error.
    fn allow_early_start(&mut self, stream: bool) {
        if stream && self.exchange.sends_at_once() {
            // The stream begins a moment later.
            self.trace.patience.in_silence = Some(self.app.settings.keepalive.start_after * 7 / 8);
        }
    }

    /// Names in the log what a translation left out, each kind once.
    fn log_skipped(&self, skipped: &Skipped) {
        let logged = &self.app.logged_types;
        for warning in skipped.warnings().filter(|warning| logged.is_first(warning)) {
            log::warn!("{} {warning}", self.trace.request_id);
        }
    }

    /// The request's body.
    fn read_body(&mut self) -> Result<Vec<u8>> {
        let body = self.exchange.read_body(self.app.max_body_bytes())?;
        self.log_body(&body);
        Ok(body)
    }

    /// Counts the memory that is needed to parse a body and to write it in another form.
    fn charge_parsed(&mut self, body: &[u8]) -> Result<()> {
        self.exchange.charge(json_cost::parsed_bytes(body))
    }

    /// Logs what the client sent, where bodies are logged.
    fn log_body(&self, body: &[u8]) {
        let client = &self.app.router.upstreams()[0].client;
        client.body_log.log(&self.trace.request_id, "client request", [body]);
    }

    /// Names the upstream that was asked in the head of the response.
    fn name_upstream(&mut self) {
        self.exchange.set_upstream(self.trace.upstream.clone());
    }

    fn answer_json(&mut self, status: u16, value: &impl serde::Serialize) -> Result<()> {
        self.exchange.respond(status, ContentType::JSON, &ndjson::to_vec(value))
    }
}

/// The error for a missing name on routes that answer with 400.
fn model_required_error() -> Error {
    Error::invalid_request("model is required")
}

/// The error for a missing name on routes that answer with 404.
fn empty_model_error() -> Error {
    Error::model_not_found("")
}

/// Reads `keep_alive`.
fn parse_keep_alive(value: Option<&Value>) -> Result<Option<KeepAlive>> {
    let keep_alive = value.map(KeepAlive::from_json).transpose();
    keep_alive.map(Option::flatten).map_err(Error::invalid_request)
}
