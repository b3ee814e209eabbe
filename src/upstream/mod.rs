//! The only module that speaks to the OpenAI server.
//!
//! A [`Client`] holds one ureq agent with its pool of connections. Each call is a bounded number of
//! attempts; an attempt is repeated only when [`Error::retry`](crate::error::Error::retry) says so,
//! and never once a byte of the answer's body was handed on: a [`call`](Client) ends with the
//! answer's head. The key goes into one header here and is never formatted anywhere else. No prompt
//! and no answer is logged but through [`BodyLog`].

pub mod backoff;
pub mod base_url;
pub mod breaker;
mod model_list;
mod pass_through;
pub mod repair;
mod response;
mod retry;
pub mod tool_call_extras;
mod transport;

use self::transport::agent;

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

pub use self::pass_through::{PassHeaders, PassResponse, PassResponseBody};
pub use self::response::{EventStream, UpstreamResponse};
use crate::api::openai::request::{
    ChatRequest, CompletionRequest, EmbeddingRequest, InfillRequest,
};
use crate::api::openai::request_body::{BorrowedParts, RequestBody};
use crate::backends::errors::ErrorDetails;
use crate::backends::profiles;
use crate::backends::profiles::Profile;
use crate::config::Config;
use crate::error::{Error, Result, Side};
use crate::observe::body_log::BodyLog;
use crate::observe::circuit_state::CircuitState;
use crate::observe::metrics::Metrics;
use crate::observe::redact::{Redactor, Secret};
use crate::translate::infill;
use crate::upstream::backoff::RetryPolicy;
use crate::upstream::base_url::BaseUrl;
use crate::upstream::breaker::{Breaker, Caller};
use crate::upstream::repair::cache::RepairCache;
use crate::upstream::repair::{Repair, Repairable};

/// Everything about waiting that a test wants to decide.
pub struct RetryEnv {
    /// Sleeps between attempts; `false` when the program is to end.
    pub sleep: Box<dyn Fn(Duration) -> bool + Send + Sync>,
    /// A random number from 0 up to, not including, 1.
    pub jitter: Box<dyn Fn() -> f64 + Send + Sync>,
}

/// What the log and the retry loop know of one request.
#[derive(Debug, Default)]
pub struct Trace {
    /// `req_` and 8 hex digits.
    pub request_id: String,
    /// The model's name as the client sent it.
    pub model: String,
    /// Attempts so far.
    pub attempts: u32,
    /// When the latest attempt began.
    pub last_attempt_at: Option<Instant>,
    /// Tokens of the prompt and of the answer, once they are known.
    pub tokens: (u64, u64),
    /// How often a streamed answer was waited for.
    pub wait_count: u32,
    /// Whether it was a long one.
    pub is_long_stream: bool,
    /// What the upstream said when it refused the latest attempt; not redacted, and never shown.
    pub refusal: Option<ErrorDetails>,
    /// Which connections the next attempt may use.
    pub connection_policy: ConnectionPolicy,
}

/// Which of the kept connections an attempt may use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ConnectionPolicy {
    /// Any, or a new one.
    #[default]
    Reuse,
    /// None; they are closed.
    Fresh,
    /// None; they stay for others.
    Dedicated,
}

/// A client of one upstream, shared by all workers.
pub struct Client {
    agent: agent::Agent,
    base_url: BaseUrl,
    api_key: Option<Secret>,
    redactor: Redactor,
    body_log: BodyLog,
    retry_policy: RetryPolicy,
    retry_env: RetryEnv,
    request_timeout: Duration,
    metrics: Arc<Metrics>,
    breaker: Breaker,
    repair_cache: RepairCache,
    configured_profile: Option<&'static Profile>,
    model_details: model_list::ModelDetails,
}

/// One call: what is asked for, and for how long.
struct Call<'a> {
    operation: &'static str,
    method: &'static str,
    /// Below the base URL; with a slash in front beside it, at the server's root.
    path: &'static str,
    /// The upstream's id of the model, where the request is about one.
    model: Option<&'a str>,
    body: Option<&'a RequestBody<'a>>,
    /// Whether a stream is asked for.
    stream: bool,
    retry_policy: RetryPolicy,
    caller: Caller,
    timeout: Duration,
}

impl Client {
    /// A client for the configured upstream.
    #[must_use]
    pub fn new(config: &Config, retry_env: RetryEnv, metrics: Arc<Metrics>) -> Self {
        Self {
            agent: agent::Agent::new(config),
            base_url: config.base_url.clone(),
            api_key: config.api_key.clone(),
            redactor: config.redactor(),
            body_log: BodyLog::new(config.log_bodies, config.redactor()),
            retry_policy: config.retry,
            retry_env,
            request_timeout: config.request_timeout,
            metrics,
            breaker: Breaker::new(config.breaker, config.workers),
            repair_cache: RepairCache::default(),
            configured_profile: config
                .profile
                .or_else(|| profiles::find_by_host(config.base_url.host())),
            model_details: model_list::ModelDetails::default(),
        }
    }

    /// The upstream's family, where the operator or the base URL names it.
    #[must_use]
    pub fn configured_profile(&self) -> Option<&'static Profile> {
        self.configured_profile
    }

    /// The same, or as its answers have told so far.
    #[must_use]
    pub fn current_profile(&self) -> Option<&'static Profile> {
        self.configured_profile.or_else(|| self.agent.detected_profile())
    }

    /// Where its calls are counted.
    #[must_use]
    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// Whether the upstream is there, as far as the latest attempts told.
    #[must_use]
    pub fn circuit_state(&self) -> CircuitState {
        self.breaker.circuit_state(Instant::now())
    }

    /// What cleans texts of this upstream.
    #[must_use]
    pub fn redactor(&self) -> &Redactor {
        &self.redactor
    }

    /// What logs bodies, where the operator wants that.
    #[must_use]
    pub fn body_log(&self) -> &BodyLog {
        &self.body_log
    }

    /// `POST chat/completions` for a whole answer.
    ///
    /// # Errors
    /// Those of the upstream.
    pub fn chat(
        &self,
        request: &mut ChatRequest<'_>,
        trace: &mut Trace,
    ) -> Result<UpstreamResponse> {
        self.post("chat", "chat/completions", request, trace)
    }

    /// `POST chat/completions` for a stream. Dropping the stream closes the upstream connection.
    ///
    /// # Errors
    /// Those of the upstream, up to the head of its answer.
    pub fn chat_stream(
        &self,
        request: &mut ChatRequest<'_>,
        trace: &mut Trace,
    ) -> Result<UpstreamResponse> {
        self.post("chat_stream", "chat/completions", request, trace)
    }

    /// `POST completions` for a whole answer.
    ///
    /// # Errors
    /// Those of the upstream.
    pub fn complete(
        &self,
        request: &mut CompletionRequest<'_>,
        trace: &mut Trace,
    ) -> Result<UpstreamResponse> {
        self.post("complete", "completions", request, trace)
    }

    /// `POST completions` for a stream. Dropping the stream closes the upstream connection.
    ///
    /// # Errors
    /// Those of the upstream, up to the head of its answer.
    pub fn complete_stream(
        &self,
        request: &mut CompletionRequest<'_>,
        trace: &mut Trace,
    ) -> Result<UpstreamResponse> {
        self.post("complete_stream", "completions", request, trace)
    }

    /// `POST fim/completions` of Mistral, for a stream where the request says so.
    ///
    /// # Errors
    /// Those of the upstream.
    pub fn fim(
        &self,
        request: &mut CompletionRequest<'_>,
        trace: &mut Trace,
    ) -> Result<UpstreamResponse> {
        let operation = if request.stream { "fim_stream" } else { "fim" };
        self.post(operation, "fim/completions", request, trace)
    }

    /// `POST /infill` of llama.cpp, for a stream where the request says so. The answer comes as one
    /// of `completions` would.
    ///
    /// # Errors
    /// Those of the upstream.
    pub fn infill(
        &self,
        request: &mut InfillRequest<'_>,
        trace: &mut Trace,
    ) -> Result<UpstreamResponse> {
        let operation = if request.stream { "infill_stream" } else { "infill" };
        Ok(self.post(operation, "/infill", request, trace)?.map_events(infill::to_chunk))
    }

    /// `POST embeddings`. The whole answer goes to `read`, which makes something of it; a failure of
    /// that is the upstream's.
    ///
    /// # Errors
    /// Those of the upstream, and those of `read`.
    pub fn embed<T>(
        &self,
        request: &mut EmbeddingRequest<'_>,
        trace: &mut Trace,
        read: impl FnOnce(String) -> Result<T>,
    ) -> Result<T> {
        let text = self.post("embed", "embeddings", request, trace)?.into_text()?;
        read(text).map_err(|error| self.count_failure(self.redact_error(error)))
    }

    fn post(
        &self,
        operation: &'static str,
        path: &'static str,
        request: &mut (impl Repairable + BorrowedParts),
        trace: &mut Trace,
    ) -> Result<UpstreamResponse> {
        self.with_repairs(operation, path, request, trace, |request, trace| {
            let body = RequestBody::from_request(request)
                .map_err(|_| Error::Internal("a request that cannot be serialised"))?;
            let (policy, timeout) = (self.retry_policy, self.request_timeout);
            let (body, stream) = (Some(&body), operation.ends_with("_stream"));
            let (method, model) = ("POST", Some(request.model()));
            let caller = Caller::New;
            let call = Call {
                operation,
                method,
                path,
                model,
                body,
                stream,
                retry_policy: policy,
                caller,
                timeout,
            };
            self.send(&call, trace)
        })
    }

    /// Sends a request, and sends it again at once when the upstream refuses a parameter that can be
    /// mended; what was learnt of the model before is done at the start.
    fn with_repairs<R: Repairable, T>(
        &self,
        operation: &'static str,
        path: &'static str,
        request: &mut R,
        trace: &mut Trace,
        mut send: impl FnMut(&R, &mut Trace) -> Result<T>,
    ) -> Result<T> {
        let id = request.model().to_owned();
        for repair in self.repair_cache.get(path, &id, Instant::now()) {
            request.apply(&repair);
        }
        let (mut tried, mut made) = (Vec::new(), Vec::new());
        for round in 0.. {
            let error = match send(request, trace) {
                Ok(answer) => {
                    self.repair_cache.insert(path, &id, &made, Instant::now());
                    return Ok(answer);
                }
                Err(error) => error,
            };
            let may_mend = round < repair::MAX_ROUNDS && error.is_upstream_rejection();
            match trace.refusal.take() {
                Some(it)
                    if may_mend && repair_request(&it, request, &mut tried, &mut made, trace) => {}
                Some(_) => {
                    // Which was left to us to tell.
                    self.log_failure(operation, trace, &error, None);
                    return Err(error);
                }
                None => return Err(error),
            }
        }
        Err(Error::Internal("repairs without end"))
    }

    fn send(&self, call: &Call<'_>, trace: &mut Trace) -> Result<UpstreamResponse> {
        let how = (call.retry_policy, call.caller);
        self.retry(call.operation, how, trace, |trace| self.attempt(call, trace))
    }

    fn attempt(&self, call: &Call<'_>, trace: &mut Trace) -> Result<UpstreamResponse> {
        let url = self.build_url(call.path, call.model);
        if let Some(body) = call.body {
            self.body_log.log_pieces(&trace.request_id, "request to the upstream", body.pieces());
        }
        let request = self.build_request(&url, call.body, call.timeout, trace);
        let response = self.agent.send(&request)?;
        let hint = agent::FailureHint {
            method: call.method,
            url: &url,
            model: (call.body.is_some()).then_some(trace.model.as_str()),
            now: SystemTime::now(),
        };
        let mut refusal = None;
        let tap = self.body_log.logger(&trace.request_id);
        let checked =
            agent::check_status(response, &hint, &self.redactor, (&mut refusal, tap.as_ref()));
        // Only what was sent can be mended.
        trace.refusal = refusal.filter(|_| call.body.is_some());
        UpstreamResponse::from_response(checked?, call.stream, (call.timeout, tap), &self.metrics)
    }

    fn build_url(&self, path: &str, model: Option<&str>) -> String {
        if path.starts_with('/') {
            format!("{}{path}", self.base_url.origin())
        } else {
            self.base_url.endpoint_url(path, model)
        }
    }

    fn build_request<'a>(
        &'a self,
        url: &'a str,
        body: Option<&'a RequestBody<'a>>,
        timeout: Duration,
        trace: &'a Trace,
    ) -> agent::Request<'a> {
        let (key, azure) = (self.api_key.as_ref(), self.base_url.is_azure_versioned());
        let (request_id, pooled) = (trace.request_id.as_str(), trace.connection_policy);
        agent::Request {
            url,
            key,
            azure_key_header: azure,
            request_id,
            body,
            timeout,
            connection_policy: pooled,
        }
    }

    /// Texts of the upstream that were found inside a success are cleaned like all others.
    fn redact_error(&self, error: Error) -> Error {
        match error {
            Error::UpstreamInBand { status, message } => {
                let message = self.redactor.redact(&message).into_owned();
                Error::UpstreamInBand { status, message }
            }
            other => other,
        }
    }
}

/// Counts a failure, if it is the upstream's.
fn count_failure(metrics: &Metrics, error: Error) -> Error {
    if error.side() == Side::Upstream {
        metrics.count_upstream_failure(error.kind());
    }
    error
}

/// Mends a request that was refused; whether it is worth sending again. `tried` are all repairs so
/// far, none of which is made twice, and `made` those that count in the end.
fn repair_request(
    refusal: &ErrorDetails,
    request: &mut impl Repairable,
    tried: &mut Vec<Repair>,
    made: &mut Vec<Repair>,
    trace: &Trace,
) -> bool {
    let mut mended = false;
    for repair in repair::plan_repairs(refusal, request) {
        if tried.contains(&repair) || !request.apply(&repair) {
            continue;
        }
        log::warn!("{} the upstream refused a parameter: {repair}", trace.request_id);
        mended = true;
        tried.push(repair.clone());
        let before = made.len();
        made.retain(|known| !repair.is_inverse_of(known));
        if made.len() == before {
            made.push(repair);
        }
    }
    mended
}
