//! The only module that speaks to the OpenAI server.
//!
//! A [`Client`] holds one ureq agent with its pool of connections. Each call is a bounded number of
//! attempts; an attempt is repeated only when [`Error::retry`](crate::error::Error::retry) says so,
//! and never once a byte of the answer's body was handed on: a [`call`](Client) ends with the
//! answer's head. The key goes into one header here and is never formatted anywhere else. No prompt
//! and no answer is logged but through [`Bodies`].

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

pub use self::pass_through::{PassedAnswer, PassedBody, PassedHeaders};
pub use self::response::{Answer, EventStream};
use crate::api::openai::request::{
    ChatRequest, CompletionRequest, EmbeddingRequest, InfillRequest,
};
use crate::api::openai::request_body::{Body, Lender};
use crate::backends::errors::Details;
use crate::backends::profiles;
use crate::backends::profiles::Profile;
use crate::config::Config;
use crate::error::{Error, Result, Side};
use crate::observe::body_log::Bodies;
use crate::observe::metrics::Metrics;
use crate::observe::redact::{Redactor, Secret};
use crate::translate::infill;
use crate::upstream::backoff::RetryPolicy;
use crate::upstream::base_url::BaseUrl;
use crate::upstream::breaker::{Breaker, Caller, Circuit};
use crate::upstream::repair::cache::Learnt;
use crate::upstream::repair::{Adaptable, Repair};

/// Everything about waiting that a test wants to decide.
pub struct Pacing {
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
    pub sent: Option<Instant>,
    /// Tokens of the prompt and of the answer, once they are known.
    pub tokens: (u64, u64),
    /// How often a streamed answer was waited for.
    pub waits: u32,
    /// Whether it was a long one.
    pub is_long: bool,
    /// What the upstream said when it refused the latest attempt; not redacted, and never shown.
    pub refusal: Option<Details>,
    /// Which connections the next attempt may use.
    pub pooled: Pooled,
}

/// Which of the kept connections an attempt may use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Pooled {
    /// Any, or a new one.
    #[default]
    Any,
    /// None; they are closed.
    Emptied,
    /// None; they stay for others.
    Apart,
}

/// A client of one upstream, shared by all workers.
pub struct Client {
    agent: agent::Agent,
    base: BaseUrl,
    key: Option<Secret>,
    redactor: Redactor,
    bodies: Bodies,
    policy: RetryPolicy,
    pacing: Pacing,
    request_timeout: Duration,
    metrics: Arc<Metrics>,
    breaker: Breaker,
    learnt: Learnt,
    profile: Option<&'static Profile>,
    asides: model_list::Asides,
}

/// One call: what is asked for, and for how long.
struct Call<'a> {
    operation: &'static str,
    method: &'static str,
    /// Below the base URL; with a slash in front beside it, at the server's root.
    path: &'static str,
    /// The upstream's id of the model, where the request is about one.
    model: Option<&'a str>,
    body: Option<&'a Body<'a>>,
    /// Whether a stream is asked for.
    stream: bool,
    policy: RetryPolicy,
    caller: Caller,
    timeout: Duration,
}

impl Client {
    /// A client for the configured upstream.
    #[must_use]
    pub fn new(config: &Config, pacing: Pacing, metrics: Arc<Metrics>) -> Self {
        Self {
            agent: agent::Agent::new(config),
            base: config.base_url.clone(),
            key: config.api_key.clone(),
            redactor: config.redactor(),
            bodies: Bodies::new(config.log_bodies, config.redactor()),
            policy: config.retry,
            pacing,
            request_timeout: config.request_timeout,
            metrics,
            breaker: Breaker::new(config.circuit, config.workers),
            learnt: Learnt::default(),
            profile: config.profile.or_else(|| profiles::by_host(config.base_url.host())),
            asides: model_list::Asides::default(),
        }
    }

    /// The upstream's family, where the operator or the base URL names it.
    #[must_use]
    pub fn profile(&self) -> Option<&'static Profile> {
        self.profile
    }

    /// The same, or as its answers have told so far.
    #[must_use]
    pub fn family(&self) -> Option<&'static Profile> {
        self.profile.or_else(|| self.agent.family())
    }

    /// Where its calls are counted.
    #[must_use]
    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// Whether the upstream is there, as far as the latest attempts told.
    #[must_use]
    pub fn circuit(&self) -> Circuit {
        self.breaker.circuit(Instant::now())
    }

    /// What cleans texts of this upstream.
    #[must_use]
    pub fn redactor(&self) -> &Redactor {
        &self.redactor
    }

    /// What logs bodies, where the operator wants that.
    #[must_use]
    pub fn bodies(&self) -> &Bodies {
        &self.bodies
    }

    /// `POST chat/completions` for a whole answer.
    ///
    /// # Errors
    /// Those of the upstream.
    pub fn chat(&self, request: &mut ChatRequest<'_>, trace: &mut Trace) -> Result<Answer> {
        self.post("chat", "chat/completions", request, trace)
    }

    /// `POST chat/completions` for a stream. Dropping the stream closes the upstream connection.
    ///
    /// # Errors
    /// Those of the upstream, up to the head of its answer.
    pub fn chat_stream(&self, request: &mut ChatRequest<'_>, trace: &mut Trace) -> Result<Answer> {
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
    ) -> Result<Answer> {
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
    ) -> Result<Answer> {
        self.post("complete_stream", "completions", request, trace)
    }

    /// `POST fim/completions` of Mistral, for a stream where the request says so.
    ///
    /// # Errors
    /// Those of the upstream.
    pub fn fim(&self, request: &mut CompletionRequest<'_>, trace: &mut Trace) -> Result<Answer> {
        let operation = if request.stream { "fim_stream" } else { "fim" };
        self.post(operation, "fim/completions", request, trace)
    }

    /// `POST /infill` of llama.cpp, for a stream where the request says so. The answer comes as one
    /// of `completions` would.
    ///
    /// # Errors
    /// Those of the upstream.
    pub fn infill(&self, request: &mut InfillRequest<'_>, trace: &mut Trace) -> Result<Answer> {
        let operation = if request.stream { "infill_stream" } else { "infill" };
        Ok(self.post(operation, "/infill", request, trace)?.mapped(infill::to_chunk))
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
        read(text).map_err(|error| self.failed(self.cleaned(error)))
    }

    fn post(
        &self,
        operation: &'static str,
        path: &'static str,
        request: &mut (impl Adaptable + Lender),
        trace: &mut Trace,
    ) -> Result<Answer> {
        self.adapted(operation, path, request, trace, |request, trace| {
            let body = Body::of(request)
                .map_err(|_| Error::Internal("a request that cannot be serialised"))?;
            let (policy, timeout) = (self.policy, self.request_timeout);
            let (body, stream) = (Some(&body), operation.ends_with("_stream"));
            let (method, model) = ("POST", Some(request.model()));
            let caller = Caller::New;
            let call =
                Call { operation, method, path, model, body, stream, policy, caller, timeout };
            self.send(&call, trace)
        })
    }

    /// Sends a request, and sends it again at once when the upstream refuses a parameter that can be
    /// mended; what was learnt of the model before is done at the start.
    fn adapted<R: Adaptable, T>(
        &self,
        operation: &'static str,
        path: &'static str,
        request: &mut R,
        trace: &mut Trace,
        mut send: impl FnMut(&R, &mut Trace) -> Result<T>,
    ) -> Result<T> {
        let id = request.model().to_owned();
        for repair in self.learnt.of(path, &id, Instant::now()) {
            request.apply(&repair);
        }
        let (mut tried, mut made) = (Vec::new(), Vec::new());
        for round in 0.. {
            let error = match send(request, trace) {
                Ok(answer) => {
                    self.learnt.keep(path, &id, &made, Instant::now());
                    return Ok(answer);
                }
                Err(error) => error,
            };
            let may_mend = round < repair::MOST_ROUNDS && error.is_refusal();
            match trace.refusal.take() {
                Some(it) if may_mend && mend(&it, request, &mut tried, &mut made, trace) => {}
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

    fn send(&self, call: &Call<'_>, trace: &mut Trace) -> Result<Answer> {
        let how = (call.policy, call.caller);
        self.retried(call.operation, how, trace, |trace| self.attempt(call, trace))
    }

    fn attempt(&self, call: &Call<'_>, trace: &mut Trace) -> Result<Answer> {
        let url = self.url(call.path, call.model);
        if let Some(body) = call.body {
            self.bodies.log_pieces(&trace.request_id, "request to the upstream", body.pieces());
        }
        let request = self.request(&url, call.body, call.timeout, trace);
        let response = self.agent.send(&request)?;
        let hint = agent::FailureHint {
            method: call.method,
            url: &url,
            model: (call.body.is_some()).then_some(trace.model.as_str()),
            now: SystemTime::now(),
        };
        let mut refusal = None;
        let tap = self.bodies.tap(&trace.request_id);
        let checked = agent::check(response, &hint, &self.redactor, (&mut refusal, tap.as_ref()));
        // Only what was sent can be mended.
        trace.refusal = refusal.filter(|_| call.body.is_some());
        Answer::of(checked?, call.stream, (call.timeout, tap), &self.metrics)
    }

    fn url(&self, path: &str, model: Option<&str>) -> String {
        if path.starts_with('/') {
            format!("{}{path}", self.base.origin())
        } else {
            self.base.endpoint(path, model)
        }
    }

    fn request<'a>(
        &'a self,
        url: &'a str,
        body: Option<&'a Body<'a>>,
        timeout: Duration,
        trace: &'a Trace,
    ) -> agent::Request<'a> {
        let (key, azure) = (self.key.as_ref(), self.base.is_azure_dated());
        let (request_id, pooled) = (trace.request_id.as_str(), trace.pooled);
        agent::Request { url, key, azure, request_id, body, timeout, pooled }
    }

    /// Texts of the upstream that were found inside a success are cleaned like all others.
    fn cleaned(&self, error: Error) -> Error {
        match error {
            Error::UpstreamInBand { status, message } => {
                let message = self.redactor.clean(&message).into_owned();
                Error::UpstreamInBand { status, message }
            }
            other => other,
        }
    }
}

/// Counts a failure, if it is the upstream's.
fn failed(metrics: &Metrics, error: Error) -> Error {
    if error.side() == Side::Upstream {
        metrics.upstream_failed(error.kind());
    }
    error
}

/// Mends a request that was refused; whether it is worth sending again. `tried` are all repairs so
/// far, none of which is made twice, and `made` those that count in the end.
fn mend(
    refusal: &Details,
    request: &mut impl Adaptable,
    tried: &mut Vec<Repair>,
    made: &mut Vec<Repair>,
    trace: &Trace,
) -> bool {
    let mut mended = false;
    for repair in repair::repairs(refusal, request) {
        if tried.contains(&repair) || !request.apply(&repair) {
            continue;
        }
        log::warn!("{} the upstream refused a parameter: {repair}", trace.request_id);
        mended = true;
        tried.push(repair.clone());
        let before = made.len();
        made.retain(|known| !repair.undoes(known));
        if made.len() == before {
            made.push(repair);
        }
    }
    mended
}
