//! Calls of one upstream.
//!
//! A [`Client`] holds ureq's agent with its connection pool, the circuit breaker and the repairs that
//! helped before. Each call goes through [`retry`](super::retry). Prompts and responses are logged
//! through [`BodyLog`] only.

use std::cell::OnceCell;
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use serde_json::{Map, Value};
use ureq::Body;
use ureq::http::Response;

use super::condition::count_failure;
use super::long_answers::LongAnswers;
use super::model_list::ModelDetailsCache;
use super::probe::OnOpen;
use super::recent_models::RecentModels;
use super::retry::{AfterTimeout, AttemptResult, Call};
use super::transport::agent::{Agent, Payload, Request};
use super::{
    ConnectionPolicy, Operation, RecentFact, RetryEnv, ServerSettings, Settings, ToolCallExtras,
    Trace, UpstreamResponse,
};
use crate::api::openai::pass_head::PassHead;
use crate::api::openai::raw_object;
use crate::api::openai::request_body::{BorrowedParts, RequestBody};
use crate::backends::errors::ErrorDetails;
use crate::backends::profiles;
use crate::backends::profiles::Profile;
use crate::error::{Error, Result};
use crate::net::memory_budget;
use crate::observe::body_log::{BodyLog, BodyLogger};
use crate::observe::circuit_state::CircuitState;
use crate::observe::metrics::{Condition, UpstreamMetrics};
use crate::observe::redact::Redactor;
use crate::translate::responses_upstream::request;
use crate::upstream::backoff::RetryPolicy;
use crate::upstream::base_url::BaseUrl;
use crate::upstream::breaker::{Breaker, Caller};
use crate::upstream::call_repairs::{HeldBody, Target};
use crate::upstream::repair::document::{Document, Repairable, as_stream};
use crate::upstream::repair::memory::{LearntChange, RepairMemory};
use crate::upstream::repair::session::RESPONSES_ROUTE;

/// A client of one upstream, shared by all workers.
pub struct Client {
    pub(super) agent: Agent,
    /// What is known of the server before it was asked.
    pub(super) settings: ServerSettings,
    pub(super) base_url: BaseUrl,
    pub(crate) redactor: Redactor,
    pub(crate) body_log: BodyLog,
    pub(super) retry_policy: RetryPolicy,
    pub(super) retry_env: Arc<RetryEnv>,
    pub(super) metrics: Arc<UpstreamMetrics>,
    pub(super) breaker: Breaker,
    /// Called when the circuit opens.
    pub(super) on_open: OnceLock<OnOpen>,
    pub(super) repair_memory: RepairMemory,
    pub(super) long_answers: LongAnswers,
    /// What the upstream may want back with earlier tool calls.
    pub(crate) tool_call_extras: Arc<ToolCallExtras>,
    /// The models that only `responses` serves.
    pub(super) responses_models: RecentModels,
    /// Whether any request was answered.
    pub(super) has_answered: RecentFact,
    /// The members that requests get which lack them, and their values in JSON.
    pub(super) extra_body: Vec<(String, String)>,
    /// Whether the upstream has a time limit of its own.
    pub(super) has_own_limit: bool,
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
    pub fn new(
        settings: Settings,
        retry_env: Arc<RetryEnv>,
        metrics: Arc<UpstreamMetrics>,
    ) -> Self {
        let ttl = settings.learnt_ttl;
        Self {
            agent: Agent::new(&settings),
            settings: settings.server.clone(),
            body_log: BodyLog::new(settings.log_bodies, settings.redactor.clone()),
            redactor: settings.redactor,
            retry_policy: settings.retry,
            retry_env,
            metrics,
            breaker: Breaker::new(settings.breaker, settings.workers),
            on_open: OnceLock::new(),
            repair_memory: RepairMemory::new(settings.experiment_interval),
            long_answers: LongAnswers::new(ttl),
            tool_call_extras: Arc::default(),
            responses_models: RecentModels::new(ttl),
            has_answered: RecentFact::new(ttl),
            has_own_limit: settings.server.timeout.is_some(),
            extra_body: to_members(&settings.server.extra_body),
            configured_profile: settings
                .server
                .profile
                .or_else(|| profiles::find_by_host(settings.server.base_url.host())),
            base_url: settings.server.base_url,
            model_details: ModelDetailsCache::new(ttl),
        }
    }

    /// The upstream's family, where the operator, the base URL or the responses so far have named it.
    pub fn current_profile(&self) -> Option<&'static Profile> {
        self.configured_profile.or_else(|| self.agent.family.get(Instant::now()))
    }

    /// How the upstream does, as its latest responses and failures show.
    pub(crate) fn condition(&self) -> &Condition {
        &self.metrics.condition
    }

    /// At most `most` of the changes that requests of its models need, for people.
    pub(crate) fn learnt_changes(&self, most: usize) -> Vec<LearntChange> {
        let now = Instant::now();
        let mut changes = self.repair_memory.list(most, now);
        let routed = self.responses_models.list(now).into_iter().map(|(model, since)| {
            let (change, reason) = (RESPONSES_ROUTE.to_owned(), None);
            LearntChange { model, change, reason, since }
        });
        changes.extend(routed.take(most - changes.len()));
        changes
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
        let to_json =
            || text.get_or_init(|| serde_json::to_string(request).unwrap_or_default()).as_str();
        let make_document = || {
            let mut document = Document::parse(to_json(), request.route())?;
            document.effects = request.effects();
            Some(document.with_thinking(request.thinking()))
        };
        let target = Target::of_request(operation, request);
        let result =
            self.with_repairs(&target, trace, make_document, |document, trace| match document {
                None => self.send_request(&target, request, &to_json, trace),
                Some(document) => self.send_document(&target, document, trace),
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
    fn send_request<'t>(
        &self,
        target: &Target<'_>,
        request: &(impl Repairable + BorrowedParts),
        to_json: &dyn Fn() -> &'t str,
        trace: &mut Trace,
    ) -> AttemptResult<UpstreamResponse> {
        let body = RequestBody::from_request(request)
            .map_err(|_| Error::Internal("cannot serialise the request"))?;
        let operation = target.operation.streaming(request.is_stream());
        let payload = (operation, HeldBody::Pieces(&body));
        self.send_in_time(target, payload, self.retry_policy, &|| as_stream(to_json()), trace)
    }

    #[inline(never)]
    fn send_document(
        &self,
        target: &Target<'_>,
        document: &Document<'_>,
        trace: &mut Trace,
    ) -> AttemptResult<UpstreamResponse> {
        // Before what it counts, so that it is dropped behind it.
        let mut reservation = memory_budget::reserve();
        let (body, is_for_responses) = (self.document_body(document), document.is_for_responses());
        // The request, its document and this body.
        reservation.cover_request(3 * body.len())?;
        let operation = if is_for_responses { Operation::RESPONSES } else { target.operation };
        let operation = operation.streaming(document.is_stream());
        let to_stream =
            || if is_for_responses { request::as_stream(&body) } else { as_stream(&body) };
        let payload = (operation, HeldBody::Bytes(body.as_bytes()));
        let is_last = document.is_last_resort;
        let retry_policy = if is_last { self.no_retry_policy() } else { self.retry_policy };
        self.send_in_time(target, payload, retry_policy, &to_stream, trace)
    }

    /// What is sent of a repaired request. The conversion to `responses` knows nothing of the members that the
    /// operator adds.
    pub(super) fn document_body(&self, document: &Document<'_>) -> String {
        let body = document.to_json();
        let is_for_responses = document.is_for_responses();
        let Some(converted) = is_for_responses.then(|| request::from_chat(&body)).flatten() else {
            return body;
        };
        let members = self.extra_body.iter().filter(|(member, _)| document.has_member(member));
        raw_object::append_missing(&converted, members).unwrap_or(converted)
    }

    /// Whether the upstream has `chat/completions`, as a request shows that every such server rejects.
    pub fn has_chat_endpoint(&self, trace: &mut Trace) -> bool {
        match self.probe_chat(trace) {
            Ok(()) => true,
            Err(Error::ModelNotFound(_) | Error::Unsupported(_)) => true,
            Err(Error::UpstreamInBand { .. }) => true,
            // Servers of files reject the method.
            Err(Error::UpstreamStatus { status, .. }) => !matches!(status, 404 | 405 | 501),
            Err(_) => false,
        }
    }

    /// Sends a request to `chat/completions` that asks for nothing.
    ///
    /// # Errors
    /// The upstream's, which every server has for such a request.
    pub fn probe_chat(&self, trace: &mut Trace) -> Result<()> {
        let mut call = self.new_call(Operation::CHAT, None, Payload::Bytes(b"{}"));
        call.retry_policy = self.no_retry_policy();
        let response = self.retry(&mut call, trace, Self::read_response);
        let text = response.map_err(|failure| failure.error)?.into_text()?;
        if text.trim_start().starts_with('{') {
            return Ok(());
        }
        Err(Error::upstream_protocol("not JSON"))
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

    /// Whether each request of JSON gets members that it lacks.
    pub fn adds_members(&self) -> bool {
        !self.extra_body.is_empty()
    }

    /// Whether a request for this model is sent in another form than it came.
    pub fn has_known_repairs(&self, path: &'static str, model: &str) -> bool {
        let now = Instant::now();
        self.adds_members()
            || self.repair_memory.knows(path, model, now)
            || self.responses_models.contains(path, model, now)
    }

    /// A call as most are: all connections, all retries.
    pub(super) fn new_call<'a>(
        &self,
        operation: Operation,
        model: Option<&str>,
        payload: Payload<'a>,
    ) -> Call<'a> {
        let url = if operation.path.starts_with('/') {
            self.base_url.root_url(operation.path)
        } else {
            self.base_url.endpoint_url(operation.path, model.filter(|_| operation.has_deployment))
        };
        Call {
            operation,
            request: Request {
                method: operation.method,
                url,
                pass_headers: None,
                payload,
                timeout: self.agent.timeout,
            },
            retry_policy: self.retry_policy,
            caller: Caller::New,
            connection_policy: ConnectionPolicy::Reuse,
            only_reconnects: false,
            after_timeout: if operation.generates() {
                AfterTimeout::Fail
            } else {
                AfterTimeout::Repeat
            },
        }
    }

    pub(super) fn read_response(
        &self,
        call: &Call<'_>,
        response: Response<Body>,
        (logger, trace): (Option<BodyLogger>, &Trace),
    ) -> AttemptResult<UpstreamResponse> {
        let head = call.request.pass_headers.is_some().then(PassHead::default);
        let reading = (call.request.timeout, logger);
        let mut response =
            UpstreamResponse::from_response(response, call.operation, reading, &self.metrics)?;
        if self.has_own_limit {
            response.mark_own_limit();
        }
        let may_fail = call.operation.reports_errors_in_band();
        match if may_fail { response.find_error(&trace.patience) } else { None } {
            Some(error) => Err(self.in_band_failure(call, error, head, trace)),
            None if trace.is_single_attempt => match response.early_failure() {
                Some(error) => Err(error.into()),
                None => Ok(response),
            },
            None => Ok(response),
        }
    }
}

/// The members of an object, and their values in JSON. The form of the response is the client's to choose.
fn to_members(object: &Map<String, Value>) -> Vec<(String, String)> {
    let members = object.iter().filter(|(name, _)| *name != "stream");
    members.map(|(name, value)| (name.clone(), value.to_string())).collect()
}
