//! Attempts: which may be made, what they show of the upstream, and when the next one follows.
//!
//! [`Client::retry`] loops, [`Client::attempt`] makes one attempt. All calls go through here, so this is
//! the one place that asks the [breaker](crate::upstream::breaker) and counts. A pooled connection that
//! turns out to be closed does not count as a failure: the request is sent again at once on a new
//! connection, whatever the retry policy says, because no byte of a response has come.

use std::time::{Duration, Instant};

use ureq::Body;
use ureq::http::Response;

use super::condition::{count_failure, is_stream};
use super::settings::DEFAULT_NAME;
use super::transport::agent;
use super::transport::agent::Payload;
use super::transport::errors::check_cancelled;
use super::{Client, ConnectionPolicy, Operation, PassResponse, Trace};
use crate::backends::errors;
use crate::backends::errors::{ErrorDetails, RequestSummary, RetryHints};
use crate::error::{Error, Retry, TimeoutPhase};
use crate::net::worker_pool;
use crate::observe::body_log::BodyLogger;
use crate::observe::system_error;
use crate::upstream::backoff::{LONG_DELAY, RetryPolicy};
use crate::upstream::breaker::{Caller, CircuitOpen, Permit};
use crate::upstream::repair::{has_malformed_arguments, read_arguments_rejection};

/// The shortest delay that a client is told to wait for an unreachable upstream.
const MIN_RETRY_AFTER: Duration = Duration::from_secs(1);

/// Bytes of an error's body that are read to understand it, and that are passed on.
const MAX_ERROR_BYTES: u64 = 64 * 1024;
const MAX_PASSED_ERROR_BYTES: u64 = 1024 * 1024;

/// One call: what each of its attempts sends, and how they are made.
pub(super) struct Call<'a> {
    pub operation: Operation,
    pub request: agent::Request<'a>,
    pub retry_policy: RetryPolicy,
    pub caller: Caller,
    pub connection_policy: ConnectionPolicy,
    /// Whether only an attempt that never reached the upstream is repeated.
    pub only_reconnects: bool,
    /// What follows when the response does not come in time.
    pub after_timeout: AfterTimeout<'a>,
}

/// What follows when a response does not come in time.
#[derive(Clone, Copy)]
pub(super) enum AfterTimeout<'a> {
    /// The same request, as often as others.
    Repeat,
    /// The same request, once.
    RepeatOnce,
    /// This body, once; it asks for a stream.
    Stream(&'a dyn Fn() -> &'a [u8]),
    /// Nothing: the upstream may still be generating the response.
    Fail,
}

impl<'a> Call<'a> {
    /// Whether an attempt that failed in this way may be repeated; `was_late` tells whether one before it
    /// did not get its response in time.
    fn allowed_retry(&self, error: &Error, was_late: bool) -> Retry {
        let never_arrived = matches!(
            error,
            Error::Connect(_)
                | Error::UpstreamDown { .. }
                | Error::UpstreamTimeout(TimeoutPhase::Connect)
        );
        let is_spent = matches!(self.after_timeout, AfterTimeout::Fail)
            && (is_late_head(error) || (was_late && is_gateway_timeout(error)));
        // Ollama's status for wrong options and formats, which no second attempt mends (server/routes.go).
        let is_ollama_s_own = self.operation.is_native()
            && matches!(error, Error::UpstreamStatus { status: 500, .. });
        let is_final = is_spent || is_ollama_s_own || (self.only_reconnects && !never_arrived);
        if is_final { Retry::Never } else { error.retry() }
    }

    /// What an error says of the arguments of calls; `None` if the request has none that are no object.
    pub(super) fn read_arguments_rejection(&self, error: &[u8]) -> Option<ErrorDetails> {
        let Payload::Bytes(sent) = self.request.payload else { return None };
        read_arguments_rejection(error).filter(|_| has_malformed_arguments(sent))
    }

    /// Prepares the attempt that follows a response that did not come in time.
    fn use_repetition(&mut self) {
        if let AfterTimeout::Stream(body) = self.after_timeout {
            self.request.payload = Payload::Bytes(body());
            self.operation.stream = true;
        }
        if !matches!(self.after_timeout, AfterTimeout::Repeat) {
            self.after_timeout = AfterTimeout::Fail;
        }
    }
}

/// True if the upstream has the request and did not begin a response in time.
fn is_late_head(error: &Error) -> bool {
    matches!(error, Error::UpstreamTimeout(TimeoutPhase::Head | TimeoutPhase::OwnHead))
}

/// True if a gateway before the upstream waited in vain: it bounds its wait as this program does.
fn is_gateway_timeout(error: &Error) -> bool {
    matches!(error, Error::UpstreamStatus { status: 504 | 524, .. })
}

/// True if the upstream has the request and did not send a whole response in time, so that it may have
/// generated one in vain.
pub(super) fn is_late(error: &Error) -> bool {
    is_late_head(error)
        || is_gateway_timeout(error)
        || matches!(error, Error::UpstreamTimeout(TimeoutPhase::Body | TimeoutPhase::OwnBody))
}

/// Why an attempt failed, with what the upstream said.
pub(super) struct AttemptError {
    pub error: Error,
    /// The details of the upstream's rejection; not redacted, and never shown.
    pub rejection: Option<ErrorDetails>,
    /// The response, where the client gets the upstream's own.
    pub response: Option<PassResponse>,
    /// True if the request had become a stream, because the whole response did not come in time.
    pub became_stream: bool,
    /// True if the rejection may as well be a failure of the upstream: only a known one is repaired.
    pub is_unclear: bool,
}

/// Reads a response with a good status.
pub(super) type ReadResponse<T> =
    fn(&Client, &Call<'_>, Response<Body>, (Option<BodyLogger>, &Trace)) -> AttemptResult<T>;

pub(super) type AttemptResult<T> = std::result::Result<T, Box<AttemptError>>;

impl AttemptError {
    /// The rejection, if a changed request may be accepted.
    pub(super) fn read_rejection(&self) -> Option<&ErrorDetails> {
        let is_in_band = matches!(self.error, Error::UpstreamInBand { .. });
        self.rejection.as_ref().filter(|_| is_in_band || self.error.is_upstream_rejection())
    }
}

impl From<Error> for Box<AttemptError> {
    fn from(error: Error) -> Self {
        let (rejection, response) = (None, None);
        Box::new(AttemptError {
            error,
            rejection,
            response,
            became_stream: false,
            is_unclear: false,
        })
    }
}

impl Client {
    /// Makes attempts until one succeeds or none may follow. While the circuit is open, only a call
    /// that gets a retry slot waits for another attempt.
    pub(super) fn retry<T>(
        &self,
        call: &mut Call<'_>,
        trace: &mut Trace,
        read: ReadResponse<T>,
    ) -> AttemptResult<T> {
        let name = call.operation.name;
        log::debug!("{} {name} started: model={:?}", trace.request_id, trace.model);
        let (mut retries, mut polls) = (0, 0);
        let (mut slot, mut last_response, mut was_late) = (None, None, false);
        let mut asked = Duration::ZERO;
        loop {
            let mut failure = match self.attempt(call, trace, read) {
                Ok(response) => {
                    trace.retries_exhausted = false;
                    return Ok(response);
                }
                Err(failure) => failure,
            };
            if let Error::UpstreamDown { .. } = failure.error {
                // Nothing was sent, so the response before still counts.
                failure.response = last_response;
            }
            let error = &failure.error;
            if let Error::ClientDisconnected = error {
                return Err(failure);
            }
            let allowed = call.allowed_retry(error, was_late);
            let count = if allowed == Retry::Poll { &mut polls } else { &mut retries };
            let jitter = (self.retry_env.jitter)();
            // Another upstream may be asked at once.
            let policy = match trace.is_single_attempt {
                true => self.no_retry_policy(),
                false => call.retry_policy,
            };
            let mut delay = policy.next_delay(*count, jitter, allowed);
            *count += 1;
            if let (Some(_), Some(wait)) = (delay, self.breaker.min_retry_delay(Instant::now())) {
                slot = slot.or_else(|| self.breaker.try_acquire_retry_slot());
                delay = delay.filter(|_| slot.is_some()).map(|delay| delay.max(wait));
            }
            delay = delay.filter(|delay| trace.waited.try_add(*delay, allowed, &mut asked));
            let Some(delay) = delay else {
                // The one repetition after a response that did not come in time counts, too. A request in
                // another form that fails later, after these attempts, does not make up for them.
                let may_repeat = allowed != Retry::Never || was_late && is_late(error);
                trace.retries_exhausted |= retries + polls > 1 && may_repeat;
                return Err(failure);
            };
            // A server that loads a model is asked again until a time limit.
            let is_counted = allowed != Retry::Poll;
            let limit = is_counted.then_some((retries, call.retry_policy.max_retries + 1));
            let log = || self.log_failure(call.operation, trace, error, Some((delay, limit)));
            if !self.sleep(delay, &log)? {
                return Err(failure);
            }
            if is_late(&failure.error) {
                was_late = true;
                call.use_repetition();
            }
            last_response = failure.response;
            call.caller = Caller::Retrying;
        }
    }

    /// The delay before all upstreams of a request are asked again; `None` if they are not.
    pub(crate) fn retry_delay(&self, retries_so_far: u32, retry: Retry) -> Option<Duration> {
        self.retry_policy.next_delay(retries_so_far, (self.retry_env.jitter)(), retry)
    }

    /// Calls `log` and waits between two attempts, while others use this worker; `false`, without either, if too
    /// many requests wait already.
    ///
    /// # Errors
    /// [`Error::ClientDisconnected`] and [`Error::ShuttingDown`].
    pub(crate) fn sleep(&self, delay: Duration, log: &dyn Fn()) -> Result<bool, Error> {
        let sleep = || {
            log();
            (self.retry_env.sleep)(delay)
        };
        let slept = match delay {
            Duration::ZERO => Some(sleep()),
            _ => worker_pool::sleep_yielding(delay > LONG_DELAY, sleep),
        };
        match slept {
            None => Ok(false),
            Some(true) => Ok(true),
            Some(false) => {
                check_cancelled()?;
                Err(Error::ShuttingDown)
            }
        }
    }

    /// Makes one attempt, if the circuit lets it through, and records how it went.
    fn attempt<T>(
        &self,
        call: &mut Call<'_>,
        trace: &mut Trace,
        read: ReadResponse<T>,
    ) -> AttemptResult<T> {
        let permit = self.breaker.try_acquire(call.caller, Instant::now()).map_err(
            |CircuitOpen { reason, retry_in }| {
                self.metrics.count_circuit_refusal();
                Error::UpstreamDown { reason, retry_after: retry_in.max(MIN_RETRY_AFTER) }
            },
        )?;
        if call.operation.method != "GET" {
            // A list only helps to understand the request.
            trace.begin_attempt(self.metrics.name());
        }
        let (first_policy, is_retry) = (call.connection_policy, call.caller == Caller::Retrying);
        let is_held = !matches!(call.request.payload, Payload::Stream(..));
        let mut exchange = |trace: &mut Trace, policy, is_retry| {
            trace.attempts += 1;
            trace.last_attempt_at = Some(Instant::now());
            self.metrics.count_attempt(is_retry);
            let result = self.exchange(call, policy, trace, read);
            result.inspect_err(|failure| count_failure(&self.metrics, &failure.error))
        };
        let key = self.agent.key.generation();
        let mut result = exchange(trace, first_policy, is_retry);
        if result.as_ref().is_err_and(|failure| matches!(failure.error, Error::StaleConnection)) {
            log::debug!(
                "{} the upstream had closed a pooled connection: sending again on a new one",
                trace.request_id
            );
            // The other idle connections are as old.
            result = exchange(trace, ConnectionPolicy::Fresh, true);
        }
        // The file of the key may hold another one by now. A body that streams is sent once.
        let is_refused = result.as_ref().is_err_and(|failure| failure.error.status() == Some(401));
        if is_refused && self.agent.key.renew(key) && is_held {
            result = exchange(trace, first_policy, true);
        }
        self.record_outcome(permit, &result);
        result
    }

    /// Sends a request once and reads its response. Counts nowhere.
    pub(super) fn exchange<T>(
        &self,
        call: &mut Call<'_>,
        policy: ConnectionPolicy,
        trace: &mut Trace,
        read: ReadResponse<T>,
    ) -> AttemptResult<T> {
        let (id, label) = (trace.request_id.as_str(), "upstream request");
        match &call.request.payload {
            Payload::Pieces(body) => self.body_log.log(id, label, body.pieces()),
            Payload::Bytes(body) => self.body_log.log(id, label, [*body]),
            // The beginning of a stream was logged when it was read.
            Payload::Empty | Payload::Stream(..) => {}
        }
        let response = self.agent.send(&mut call.request, trace, policy)?;
        let now = Instant::now();
        trace.head_at = Some(now);
        if !call.operation.generates() || is_stream(response.headers()) {
            let began = trace.last_attempt_at.unwrap_or(now);
            self.metrics.condition.record_latency(now.saturating_duration_since(began));
        }
        if response.status().is_success() {
            let logger = self.body_log.logger(&trace.request_id);
            let response = read(self, call, response, (logger, trace))?;
            self.has_answered.set(1, Instant::now());
            self.metrics.condition.record_success();
            Ok(response)
        } else {
            Err(self.read_error(call, response, trace))
        }
    }

    /// Reads a response with another status than success.
    #[inline(never)] // Not inlined, to keep its buffers off the stack of a successful call.
    fn read_error(
        &self,
        call: &Call<'_>,
        response: Response<Body>,
        trace: &Trace,
    ) -> Box<AttemptError> {
        let status = response.status().as_u16();
        let headers = response.headers().clone();
        let passed = call.request.pass_headers.is_some();
        let limit = if passed { MAX_PASSED_ERROR_BYTES } else { MAX_ERROR_BYTES };
        let body = agent::read_error_body(response, limit);
        self.body_log.log(&trace.request_id, "upstream error response", [body.as_slice()]);
        if call.request.url.starts_with("http://") && errors::wants_tls(status, &body) {
            let what = "this server speaks TLS; did you mean https://?";
            return Error::upstream_protocol(what).into();
        }
        // A history that cannot be read is no failure of the server, whatever the status.
        let is_native = call.operation.is_native();
        let is_unreadable = !is_native
            && matches!(status, 400 | 404 | 422 | 500..)
            && call.read_arguments_rejection(&body).is_some();
        let status = if is_unreadable && status != 422 { 400 } else { status };
        let has_body = !matches!(call.request.payload, Payload::Empty);
        let method_and_path =
            format!("{} {}", call.operation.method, agent::url_path(&call.request.url));
        let request = RequestSummary {
            method_and_path: &method_and_path,
            endpoint: call.operation.path,
            // The text may repeat arguments that look like a word on the model.
            model: (has_body && !is_unreadable).then_some(trace.model.as_str()),
            has_answered: self.has_answered.is_known(Instant::now()),
        };
        let hints =
            if is_unreadable { RetryHints::default() } else { agent::retry_hints(&headers) };
        let error = errors::to_error(status, &body, hints, request, &self.redactor);
        // Only what was sent can be repaired.
        let rejection = errors::parse_rejection(status, &body).filter(|_| has_body);
        // A template that fails is the request's fault, whatever the status.
        let shown = error.status().filter(|_| rejection.is_some() && !is_native).unwrap_or(status);
        Box::new(AttemptError {
            error,
            rejection,
            // A redirect is nothing that a client could follow.
            response: (passed && status >= 400)
                .then(|| PassResponse::head(shown, &headers, &self.redactor))
                .map(|head| PassResponse::whole(head, body, &self.redactor)),
            became_stream: false,
            is_unclear: false,
        })
    }

    /// Tells the breaker how an attempt went. A failure of the client, or of this program, says nothing
    /// of the upstream.
    fn record_outcome<T>(&self, permit: Permit<'_>, result: &AttemptResult<T>) {
        let now = Instant::now();
        match result.as_ref().map_err(|failure| &failure.error) {
            Err(error) if error.is_unreachable() => {
                if permit.record_failure(&error.message(), now, (self.retry_env.jitter)()) {
                    log::warn!(
                        "upstream{} unreachable ({}): new requests fail at once until it answers \
                         again",
                        self.log_name(),
                        self.describe_failure(error)
                    );
                    self.on_open.get().iter().for_each(|on_open| on_open());
                }
            }
            Err(error) if !error.is_upstream() => {}
            Err(Error::StaleConnection) => {}
            Ok(_) | Err(_) => {
                if permit.record_success(now) {
                    log::info!("upstream{} reachable again", self.log_name());
                }
            }
        }
    }

    /// Logs the failure of a call, unless the call ended because its client disconnected.
    pub(super) fn log_result<T>(
        &self,
        operation: Operation,
        trace: &Trace,
        result: AttemptResult<T>,
    ) -> AttemptResult<T> {
        let result = result.inspect_err(|failure| match &failure.error {
            Error::ClientDisconnected | Error::ShuttingDown => {}
            error => self.log_failure(operation, trace, error, None),
        });
        result.map_err(|mut failure| {
            if self.has_own_limit {
                failure.error = failure.error.with_own_limit();
            }
            failure
        })
    }

    fn log_failure(
        &self,
        operation: Operation,
        trace: &Trace,
        error: &Error,
        delay: Option<(Duration, Option<(u32, u32)>)>,
    ) {
        let next = match delay {
            Some((delay, Some((attempt, limit)))) => {
                format!("attempt {attempt} of {limit}, retrying in {} ms", delay.as_millis())
            }
            Some((delay, None)) => {
                format!("attempt {}, retrying in {} ms", trace.attempts, delay.as_millis())
            }
            // The next upstream follows, if there is one.
            None if trace.is_single_attempt => format!("attempt {}", trace.attempts),
            None => format!("attempt {}, giving up", trace.attempts),
        };
        // An open circuit was logged when it opened.
        let (is_known, name) = (matches!(error, Error::UpstreamDown { .. }), self.log_name());
        log::log!(
            if is_known { log::Level::Debug } else { log::Level::Warn },
            "{} {} failed: {}{}, {next}",
            trace.request_id,
            operation.name,
            if name.is_empty() { name } else { format!("upstream{name}: ") },
            self.redactor.redact(&self.describe(operation, error)),
        );
    }

    /// What follows the word `upstream` in log lines: the name, unless it is the one that the environment
    /// defines.
    pub(super) fn log_name(&self) -> String {
        match &**self.metrics.name() {
            DEFAULT_NAME => String::new(),
            name => format!(" {name:?}"),
        }
    }

    /// What happened, in words where they can be written without texts of the upstream.
    fn describe(&self, operation: Operation, error: &Error) -> String {
        match error {
            // The model list has limits of its own.
            Error::UpstreamTimeout(TimeoutPhase::Head) if operation.method != "GET" => {
                let limit = self.agent.timeout.as_secs_f64();
                let name = if self.has_own_limit { "its timeout" } else { "REQUEST_TIMEOUT" };
                format!("no response within {limit} s ({name})")
            }
            Error::UpstreamTimeout(TimeoutPhase::Head) => "no response in time".to_owned(),
            _ => self.describe_failure(error),
        }
    }

    /// The same, whatever the operation.
    fn describe_failure(&self, error: &Error) -> String {
        system_error::name_host(error.log_text(), self.base_url.host())
    }
}
