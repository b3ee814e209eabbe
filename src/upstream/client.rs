//! Calls of one upstream.
//!
//! A [`Client`] holds ureq's agent with its connection pool, the circuit breaker and the repairs that
//! helped before. Each call goes through [`retry`](super::retry). Prompts and responses are logged
//! through [`BodyLog`] only.

use std::cell::OnceCell;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use ureq::Body;
use ureq::http::Response;

use super::model_list::ModelDetailsCache;
use super::retry::{AttemptResult, Call, count_failure};
use super::transport::agent::{Agent, Payload, Request};
use super::{ConnectionPolicy, Operation, RetryEnv, Settings, Trace, UpstreamResponse};
use crate::api::openai::request::ResponseEffects;
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
use crate::upstream::repair::document::{Document, Repairable};
use crate::upstream::repair::memory::RepairMemory;
use crate::upstream::repair::session::{Change, Learnt, Session, describe_rejection};

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
    repair_memory: RepairMemory,
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
            repair_memory: RepairMemory::default(),
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
        let text = OnceCell::new();
        let make_document = || {
            let text = text.get_or_init(|| serde_json::to_string(request).unwrap_or_default());
            let mut document = Document::parse(text, request.route())?;
            document.effects = request.effects();
            Some(document.with_thinking(request.thinking()))
        };
        let model = request.model();
        let result =
            self.with_repairs((operation, model), trace, make_document, |document, trace| {
                match document {
                    None => self.send_request(operation, request, trace),
                    Some(document) => self.send_document(operation, model, document, trace),
                }
            });
        let result = self.log_result(operation, trace, result);
        let (response, effects) = result.map_err(|failure| {
            Box::new(Rejected { error: failure.error, rejection: failure.rejection })
        })?;
        if let (Some(effects), Some(own)) = (effects, request.effects_mut()) {
            *own = effects;
        }
        Ok(response)
    }

    #[inline(never)] // Not inlined, to keep its body off the stack of a long stream.
    fn send_request(
        &self,
        operation: Operation,
        request: &(impl Repairable + BorrowedParts),
        trace: &mut Trace,
    ) -> AttemptResult<UpstreamResponse> {
        let body = RequestBody::from_request(request)
            .map_err(|_| Error::Internal("cannot serialise the request"))?;
        let mut call = self.new_call(operation, Some(request.model()), Payload::Pieces(&body));
        self.retry(&mut call, trace, Self::read_response)
    }

    #[inline(never)]
    fn send_document(
        &self,
        operation: Operation,
        model: &str,
        document: &Document<'_>,
        trace: &mut Trace,
    ) -> AttemptResult<UpstreamResponse> {
        let body = document.to_json();
        let operation = operation.streaming(document.is_stream());
        let mut call = self.new_call(operation, Some(model), Payload::Bytes(body.as_bytes()));
        if document.is_last_resort {
            call.retry_policy = self.no_retry_policy();
        }
        self.retry(&mut call, trace, Self::read_response)
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
    pub fn has_known_repairs(&self, path: &'static str, model: &str) -> bool {
        self.repair_memory.knows(path, model, Instant::now())
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

    /// Sends a request, and sends it again at once when the upstream rejects it and it can be repaired.
    /// Repairs that the model needed before are made at the start. `send` gets the request as the repairs
    /// left it, or `None` for the request as it came. Returns what the response then needs, too.
    pub(super) fn with_repairs<'d, T>(
        &self,
        (operation, model): (Operation, &str),
        trace: &mut Trace,
        make_document: impl FnOnce() -> Option<Document<'d>>,
        mut send: impl FnMut(Option<&Document<'d>>, &mut Trace) -> AttemptResult<T>,
    ) -> AttemptResult<(T, Option<ResponseEffects>)> {
        let path = operation.path;
        let known = self.repair_memory.get(path, model, Instant::now());
        let mut make_document = Some(make_document);
        let mut make = || make_document.take().and_then(|make| make());
        let mut repaired = if known.is_empty() { None } else { make() }.map(|mut document| {
            let session = Session::begin(&known, &mut document);
            (document, session)
        });
        let mut first = None;
        loop {
            let document = repaired.as_ref().map(|(document, _)| document);
            let failure = match send(document.filter(|document| document.is_changed()), trace) {
                Ok(response) => {
                    let learnt = repaired.as_ref().map(|(_, session)| session.learnt());
                    learnt.into_iter().for_each(|learnt| self.remember(path, model, learnt));
                    return Ok((response, repaired.map(|(document, _)| document.effects)));
                }
                Err(failure) => failure,
            };
            let is_rejection = failure.error.is_upstream_rejection();
            let Some(details) = failure.rejection.as_ref().filter(|_| is_rejection) else {
                // Whatever became of the last attempt, the first rejection is about the client's request.
                let is_last = document.is_some_and(|document| document.is_last_resort);
                let is_gone =
                    matches!(failure.error, Error::ClientDisconnected | Error::ShuttingDown);
                return Err(first.filter(|_| is_last && !is_gone).unwrap_or(failure));
            };
            repaired = repaired.or_else(|| {
                let document = make()?;
                let session = Session::new(&document);
                Some((document, session))
            });
            let Some((document, session)) = &mut repaired else { return Err(failure) };
            let is_hopeless =
                |hash| self.repair_memory.is_hopeless(path, model, hash, Instant::now());
            let Some(change) = session.next(details, document, is_hopeless) else {
                if session.has_failed_plainly() {
                    let hash = session.rejection_hash();
                    self.repair_memory.mark_hopeless(path, model, hash, Instant::now());
                }
                // The first one is about what the client wrote.
                return Err(first.unwrap_or(failure));
            };
            self.report_change(&change, (details, document), trace);
            first.get_or_insert(failure);
        }
    }

    fn remember(&self, path: &'static str, model: &str, (repairs, groups, experiment): Learnt) {
        let now = Instant::now();
        self.repair_memory.insert(path, model, &repairs, now);
        if !groups.is_empty() {
            self.repair_memory.insert_groups(path, model, &groups, now);
        }
        if let Some(experiment) = experiment {
            self.repair_memory.record_experiment(path, model, experiment, now);
        }
    }

    /// Logs and counts what was done about a rejection.
    fn report_change(
        &self,
        change: &Change,
        (details, document): (&ErrorDetails, &Document<'_>),
        trace: &Trace,
    ) {
        // Masked before it is shortened: half a key would not be recognised.
        let reason = describe_rejection(&self.redactor.redact(&details.message), document);
        log::warn!(
            "{} upstream rejected a request for {:?} ({:?}), sending again: {change}",
            trace.request_id,
            trace.model,
            reason
        );
        change.kinds().into_iter().for_each(|kind| self.metrics.repairs.add(kind, 1));
    }
}
