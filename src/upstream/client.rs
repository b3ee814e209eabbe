//! Calls of one upstream.
//!
//! A [`Client`] holds ureq's agent with its connection pool, the circuit breaker and the repairs that
//! helped before. Each call goes through [`retry`](super::retry). Prompts and responses are logged
//! through [`BodyLog`] only.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use ureq::Body;
use ureq::http::Response;

use super::model_list::ModelDetailsCache;
use super::retry::{AttemptError, AttemptResult, Call, count_failure};
use super::transport::agent::{Agent, Payload, Request};
use super::{ConnectionPolicy, Operation, RetryEnv, Settings, Trace, UpstreamResponse};
use crate::api::openai::request_body::{BorrowedParts, RequestBody};
use crate::backends::errors::ErrorDetails;
use crate::backends::profiles;
use crate::backends::profiles::Profile;
use crate::error::{Error, Result};
use crate::observe::body_log::{BodyLog, BodyLogger};
use crate::observe::circuit_state::CircuitState;
use crate::observe::metrics::Metrics;
use crate::observe::redact::Redactor;
use crate::upstream::backoff::RetryPolicy;
use crate::upstream::base_url::BaseUrl;
use crate::upstream::breaker::{Breaker, Caller};
use crate::upstream::repair;
use crate::upstream::repair::cache::RepairCache;
use crate::upstream::repair::{Repair, Repairable};

/// A client of one upstream, shared by all workers.
pub struct Client {
    pub(super) agent: Agent,
    pub(super) base_url: BaseUrl,
    pub(crate) redactor: Redactor,
    pub(crate) body_log: BodyLog,
    pub(super) retry_policy: RetryPolicy,
    pub(super) retry_env: RetryEnv,
    pub(super) metrics: Arc<Metrics>,
    pub(super) breaker: Breaker,
    repair_cache: RepairCache,
    /// True once any request was answered.
    pub(super) has_answered: AtomicBool,
    /// The upstream's family, where the operator or the base URL names it.
    pub(crate) configured_profile: Option<&'static Profile>,
    pub(super) model_details: ModelDetailsCache,
}

/// An error, and what the upstream said of the request, if it rejected it. The details are not
/// redacted: they are for decisions, and never shown.
pub struct Rejected {
    /// The error.
    pub error: Error,
    /// The details.
    pub rejection: Option<ErrorDetails>,
}

impl Client {
    /// A client with these settings.
    pub fn new(settings: Settings, retry_env: RetryEnv, metrics: Arc<Metrics>) -> Self {
        Self {
            agent: Agent::new(&settings),
            body_log: BodyLog::new(settings.log_bodies, settings.redactor.clone()),
            redactor: settings.redactor,
            retry_policy: settings.retry,
            retry_env,
            metrics,
            breaker: Breaker::new(settings.breaker, settings.workers),
            repair_cache: RepairCache::default(),
            has_answered: AtomicBool::new(false),
            configured_profile: settings
                .profile
                .or_else(|| profiles::find_by_host(settings.base_url.host())),
            base_url: settings.base_url,
            model_details: ModelDetailsCache::default(),
        }
    }

    /// The upstream's family, where the operator, the base URL or the responses so far have named it.
    pub fn current_profile(&self) -> Option<&'static Profile> {
        self.configured_profile.or_else(|| self.agent.detected_profile.get().copied())
    }

    /// Whether the upstream can be reached, as far as the latest attempts showed.
    pub fn circuit_state(&self) -> CircuitState {
        self.breaker.circuit_state(Instant::now())
    }

    /// Sends a request and waits for the head of the response, or for all of a response that is not a
    /// stream. Dropping a stream closes its connection.
    ///
    /// # Errors
    /// Those of the upstream.
    pub fn call(
        &self,
        operation: Operation,
        request: &mut (impl Repairable + BorrowedParts),
        trace: &mut Trace,
    ) -> Result<UpstreamResponse> {
        self.call_or_rejection(operation, request, trace).map_err(|rejected| rejected.error)
    }

    /// The same; what the upstream says of a request that it rejects comes with the error.
    ///
    /// # Errors
    /// Those of the upstream.
    pub fn call_or_rejection(
        &self,
        operation: Operation,
        request: &mut (impl Repairable + BorrowedParts),
        trace: &mut Trace,
    ) -> std::result::Result<UpstreamResponse, Box<Rejected>> {
        let result = self.with_repairs(operation, request, trace, |request, trace| {
            let body = RequestBody::from_request(request)
                .map_err(|_| Error::Internal("cannot serialise the request"))?;
            let mut call = self.new_call(operation, Some(request.model()), Payload::Pieces(&body));
            self.retry(&mut call, trace, Self::read_response)
        });
        self.log_result(operation, trace, result).map_err(|failure| {
            Box::new(Rejected { error: failure.error, rejection: failure.rejection })
        })
    }

    /// Whether the upstream has `chat/completions`, as a request shows that every such server rejects.
    pub fn has_chat_endpoint(&self, trace: &mut Trace) -> bool {
        let mut call = self.new_call(Operation::CHAT, None, Payload::Bytes(b"{}"));
        call.retry_policy = self.no_retry_policy();
        match self.retry(&mut call, trace, Self::read_response) {
            Ok(response) => {
                response.into_text().is_ok_and(|text| text.trim_start().starts_with('{'))
            }
            Err(failure) => match failure.error {
                Error::ModelNotFound(_) | Error::Unsupported(_) => true,
                // Servers of files reject the method.
                Error::UpstreamStatus { status, .. } => !matches!(status, 404 | 405 | 501),
                _ => false,
            },
        }
    }

    /// Parses the body of a response that cannot be a stream.
    ///
    /// # Errors
    /// Those of `parse`, which count as the upstream's.
    pub fn parse<T>(
        &self,
        response: UpstreamResponse,
        parse: impl FnOnce(String) -> Result<T>,
    ) -> Result<T> {
        response.into_text().and_then(parse).map_err(|mut error| {
            // The upstream wrote it into a success.
            if let Error::UpstreamInBand { message, .. } = &mut error {
                *message = self.redactor.redact(message).into_owned();
            }
            count_failure(&self.metrics, &error);
            error
        })
    }

    /// Whether a request for this model is sent in another form than it came.
    pub fn has_cached_repairs(&self, path: &'static str, model: &str) -> bool {
        !self.repair_cache.get(path, model, Instant::now()).is_empty()
    }

    /// A call as most are: all connections, all retries.
    pub(super) fn new_call<'a>(
        &self,
        operation: Operation,
        model: Option<&str>,
        payload: Payload<'a>,
    ) -> Call<'a> {
        let url = if operation.path.starts_with('/') {
            format!("{}{}", self.base_url.origin(), operation.path)
        } else {
            self.base_url.endpoint_url(operation.path, model)
        };
        Call {
            operation,
            request: Request { url, pass_headers: None, payload, timeout: self.agent.timeout },
            retry_policy: self.retry_policy,
            caller: Caller::New,
            connection_policy: ConnectionPolicy::Reuse,
            only_reconnects: false,
        }
    }

    pub(super) fn read_response(
        &self,
        call: &Call<'_>,
        response: Response<Body>,
        logger: Option<BodyLogger>,
    ) -> Result<UpstreamResponse> {
        let reading = (call.request.timeout, logger);
        UpstreamResponse::from_response(response, call.operation, reading, &self.metrics)
    }

    /// Sends a request, and sends it again at once when the upstream rejects a parameter that can be
    /// repaired. Repairs that the model needed before are made at the start.
    pub(super) fn with_repairs<R: Repairable, T>(
        &self,
        operation: Operation,
        request: &mut R,
        trace: &mut Trace,
        mut send: impl FnMut(&R, &mut Trace) -> AttemptResult<T>,
    ) -> AttemptResult<T> {
        let (path, model) = (operation.path, request.model().to_owned());
        for repair in self.repair_cache.get(path, &model, Instant::now()) {
            request.apply(&repair);
        }
        let mut repairs = Repairs::default();
        let mut rounds = 0;
        loop {
            let failure = match send(request, trace) {
                Ok(response) => {
                    repairs.made.retain(Repair::is_reusable);
                    self.repair_cache.insert(path, &model, &repairs.made, Instant::now());
                    return Ok(response);
                }
                Err(failure) => failure,
            };
            let AttemptError { error, rejection, .. } = &*failure;
            let may_repair = rounds < repair::MAX_ROUNDS && error.is_upstream_rejection();
            match rejection {
                Some(details) if may_repair && repairs.make(details, request, trace) => rounds += 1,
                _ => return Err(failure),
            }
        }
    }
}

/// The repairs of one call.
#[derive(Default)]
struct Repairs {
    /// All repairs so far; none is made twice.
    tried: Vec<Repair>,
    /// The repairs in force: without those that a later repair took back.
    made: Vec<Repair>,
}

impl Repairs {
    fn has_lowered_limit(&self) -> bool {
        self.tried.iter().any(|repair| matches!(repair, Repair::LowerLimit { .. }))
    }

    /// Repairs a request that was rejected; whether it is worth sending again.
    fn make(
        &mut self,
        rejection: &ErrorDetails,
        request: &mut impl Repairable,
        trace: &Trace,
    ) -> bool {
        let mut changed = false;
        for mut repair in repair::plan_repairs(rejection, request) {
            // A limit that is rejected again is left to the upstream.
            if matches!(repair, Repair::LowerLimit { .. }) && self.has_lowered_limit() {
                repair = repair::omit_limit(request);
            }
            if self.tried.contains(&repair) || !request.apply(&repair) {
                continue;
            }
            log::warn!(
                "{} upstream rejected a parameter, sending again: {repair}",
                trace.request_id
            );
            changed = true;
            self.tried.push(repair.clone());
            let before = self.made.len();
            self.made.retain(|known| !repair.is_inverse_of(known));
            if self.made.len() == before {
                self.made.push(repair);
            }
        }
        changed
    }
}
