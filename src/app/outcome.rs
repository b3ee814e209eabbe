//! How a request ended: completes its response, counts it, and logs its one line.
//!
//! All requests end in [`finish`], so this is the one place that counts errors. A request has failed if its
//! handler returned an error, if the handler told of one in a response of its own or passed one on
//! ([`Trace::reported_error`]), or if its response has the status of an error. One whose client left before
//! the response was complete has not failed: it is counted as such, unless an error came before.
//!
//! # The line of a request
//!
//! ```text
//! req_1a2b3c4d POST "/api/chat" model="m" status=200 attempts=1 duration_ms=812 time_to_first_token_ms=90 client=10.0.0.7 route=/api/chat bytes=9817 tokens_cached=5 tokens=9+120 upstream_request_id=... upstream=default
//! ```
//!
//! `key=NAME` follows the client's address if its key has a name. `client_left=true`, `access=REASON` and
//! `error=KIND` follow where they apply, the last one at the end. The time to the first token is told of
//! streams, cached tokens where the upstream tells of them, `bytes` are those of the response's body. In JSON `message` is `request`, the members have the same names, and those of
//! what has no name here are `request_id`, `method`, `path`, `tokens_in` and `tokens_out`.
//!
//! Tokens are those that the upstream counted. Of a stream without counts they are the pieces of the answer; if
//! the client key has a name, also where the client left, and with an estimate of the prompt ([`end_key_use`]).
//!
//! Never logs a header but the origin or the host that is refused. Invariant: the log never quotes a panic,
//! which may hold a prompt.

use std::net::IpAddr;
use std::panic::{self, AssertUnwindSafe};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use crate::error::{Error, KeyLimit, Result};
use crate::handlers::Handler;
use crate::http::access::{AccessControl, Denial, EarlyResponse};
use crate::http::exchange::Exchange;
use crate::http::named_keys::ClientKey;
use crate::http::routes::{Lane, ResolvedRoute};
use crate::observe::board::{CLIENT_LEFT, EndedRequest};
use crate::observe::logging::{self, Fact, Value};
use crate::observe::metrics::{GENERATION_ROUTES, Metrics, RequestRecord};
use crate::upstream::Trace;

/// Characters of a path that are logged.
const MAX_LOGGED_PATH_CHARS: usize = 200;

/// A request on its way to a worker.
pub(super) struct Job {
    pub exchange: Exchange,
    pub route: ResolvedRoute<Handler>,
    /// The response that it gets without its handler.
    pub early_response: Option<EarlyResponse>,
    pub received: Instant,
    /// The address that it came from.
    pub client: Option<IpAddr>,
    /// Why it is refused, if access is.
    pub denial: Option<Denial>,
    /// The rules that let it pass.
    pub access: Arc<AccessControl>,
    /// The client key that it came with, if that has a name.
    pub key: Option<Arc<ClientKey>>,
}

/// How a request ended.
enum Outcome {
    /// Well.
    Served,
    /// Without its client.
    ClientLeft,
    /// In an error.
    Failed(Error),
}

impl Outcome {
    fn error(&self) -> Option<&Error> {
        match self {
            Self::Failed(error) => Some(error),
            Self::Served | Self::ClientLeft => None,
        }
    }
}

/// Gives the early response or runs `work`, completes the response, and records the request. The
/// exchange is used outside of the part that may panic.
pub(super) fn finish(
    metrics: &Metrics,
    mut job: Box<Job>,
    trace: &mut Trace,
    work: impl FnOnce(&ResolvedRoute<Handler>, &mut Exchange, &mut Trace) -> Result<()>,
) {
    let early_response = job.early_response.take();
    let exchange = &mut job.exchange;
    let result = panic::catch_unwind(AssertUnwindSafe(|| match early_response {
        None => work(&job.route, exchange, trace),
        Some(EarlyResponse::Empty(status)) => exchange.respond_empty(status),
        Some(EarlyResponse::Fail(error)) => Err(error),
    }));
    let result = result.unwrap_or(Err(Error::Internal("a handler panicked")));
    record(metrics, &mut job, trace, result);
}

/// Completes the response and records the request.
fn record(metrics: &Metrics, job: &mut Job, trace: &mut Trace, mut result: Result<()>) {
    let exchange = &mut job.exchange;
    if result.is_ok() && !exchange.is_done() {
        result = Err(Error::Internal("a handler returned without a response"));
    }
    if let Err(error) = &result {
        if let (Error::ModelNotAllowed(_), Some(key)) = (error, &job.key) {
            key.refuse_model();
            job.denial = Some(Denial::ModelNotAllowed);
        }
        if trace.retries_exhausted || never_helps_to_retry(error) {
            exchange.forbid_retry();
        }
        exchange.set_upstream(trace.upstream.clone());
        exchange.fail(error);
    }
    let outcome = judge(exchange, trace, result);
    end_key_use(exchange, trace);
    if trace.tokens == (0, 0) && matches!(outcome, Outcome::Served) {
        // The upstream did not tell; each piece of an answer is about a token.
        trace.tokens.1 = trace.live.counted();
    }
    metrics.record_request(&RequestRecord {
        route: job.route.pattern(),
        model: &trace.model,
        known_model: trace.known_model.as_deref(),
        status: exchange.status(),
        error_kind: outcome.error().map(Error::kind),
        client_left: matches!(outcome, Outcome::ClientLeft),
        denial: job.denial.as_ref().map(Denial::word),
        duration: job.received.elapsed(),
        time_to_first_line: exchange
            .first_line_at()
            .map(|first| first.saturating_duration_since(job.received)),
        tokens: trace.tokens,
    });
    show_request(metrics, job, trace, &outcome);
    log_request(job, trace, &outcome);
    log_advice(job);
}

/// Says once what to do about requests of a foreign host or origin: their clients get no text.
fn log_advice(job: &Job) {
    // The status page is for no other origin, whatever is allowed.
    let denial = job.denial.as_ref().filter(|_| !job.route.is_same_origin());
    if let Some(advice) = denial.and_then(|denial| job.access.first_advice(denial)) {
        log::warn!("{} {advice}", job.exchange.request_id());
    }
}

/// True where a client that sends the request once more, as the official ones do, gets the same.
fn never_helps_to_retry(error: &Error) -> bool {
    match error {
        Error::TooManyWrongKeys(_) => true,
        Error::KeyLimitReached(reached) => reached.limit == KeyLimit::TokensPerDay,
        _ => false,
    }
}

/// Counts what a request of a key with a name has used, and gives its place back. A stream whose upstream told
/// of no tokens, or whose client left before that, counts by its events.
fn end_key_use(exchange: &Exchange, trace: &mut Trace) {
    let Some(key_use) = exchange.key_use() else { return };
    if trace.tokens == (0, 0) && exchange.events() > 0 {
        trace.tokens = key_use.estimate(exchange.events());
    }
    key_use.count(trace.tokens);
    key_use.end();
}

/// Notes the request for the status page, unless it only asks how the server does, or before another one.
fn show_request(metrics: &Metrics, job: &Job, trace: &Trace, outcome: &Outcome) {
    let exchange = &job.exchange;
    let is_preflight = exchange.method() == "OPTIONS" && exchange.status() == Some(204);
    if job.route.lane() != Lane::Main || is_preflight {
        return;
    }
    let ended = EndedRequest {
        id: exchange.request_id(),
        time: SystemTime::now(),
        route: job.route.pattern().unwrap_or("other"),
        model: &trace.model,
        upstream: trace.upstream.as_deref().unwrap_or_default(),
        status: exchange.status().unwrap_or(0),
        attempts: trace.attempts,
        first_token: time_to_first_token(job),
        duration: job.received.elapsed(),
        tokens: match trace.tokens {
            (0, 0) => (0, trace.live.counted()),
            tokens => tokens,
        },
        error: match outcome {
            Outcome::Served => None,
            Outcome::ClientLeft => Some(CLIENT_LEFT),
            Outcome::Failed(error) => Some(error.kind()),
        },
        key: job.key.as_deref().map(ClientKey::name).unwrap_or_default(),
    };
    metrics.board.record(ended, Instant::now());
}

/// Decides how a request ended whose response is complete.
fn judge(exchange: &Exchange, trace: &mut Trace, result: Result<()>) -> Outcome {
    let reported = trace.reported_error.take();
    match result {
        // The client may have left because of the error.
        Err(Error::ClientDisconnected) => reported.map_or(Outcome::ClientLeft, Outcome::Failed),
        Err(_) if exchange.is_body_cut_off() => Outcome::ClientLeft,
        Err(error) => Outcome::Failed(error),
        Ok(()) => match (reported, exchange.status()) {
            (Some(error), _) => Outcome::Failed(error),
            // A refused origin or host has no body, hence no text.
            (None, Some(403)) => Outcome::Failed(Error::Forbidden(String::new())),
            (None, Some(status @ 400..)) => Outcome::Failed(Error::OwnStatus(status)),
            (None, _) => Outcome::Served,
        },
    }
}

/// The level of a request's line: a response that the upstream broke off after its status was sent, or
/// after its head had come, was not logged as a failed call.
fn log_level(exchange: &Exchange, error: Option<&Error>) -> log::Level {
    let is_cut = |error: &Error| {
        let is_partial = exchange.status().is_some_and(|status| status < 400);
        error.is_upstream() && is_partial || error.is_cut_response()
    };
    if error.is_some_and(is_cut) { log::Level::Warn } else { log::Level::Info }
}

/// Logs the one line about a request.
fn log_request(job: &Job, trace: &Trace, outcome: &Outcome) {
    use Value::{Number, Text, Word, Yes};
    let (exchange, error) = (&job.exchange, outcome.error());
    let level = log_level(exchange, error);
    if level > log::max_level() {
        return;
    }
    let path = exchange.target().split('?').next().unwrap_or_default();
    let path: String = path.chars().take(MAX_LOGGED_PATH_CHARS).collect();
    let client = job.client.map_or_else(|| "unknown".to_owned(), |client| client.to_string());
    let error = error.map(Error::to_string);
    let denial = job.denial.as_ref();
    let is_told = trace.attempts > 0;
    let facts = [
        Some(Fact::with_prefix("request_id", "", Word(exchange.request_id()))),
        Some(Fact::with_prefix("method", " ", Word(exchange.method()))),
        Some(Fact::with_prefix("path", " ", Text(&path))),
        Some(Fact::new("model", Text(&trace.model))),
        Some(Fact::new("status", Number(exchange.status().unwrap_or(0).into()))),
        Some(Fact::new("attempts", Number(trace.attempts.into()))),
        Some(Fact::new("duration_ms", Number(to_millis(job.received.elapsed())))),
        time_to_first_token(job)
            .map(|time| Fact::new("time_to_first_token_ms", Number(to_millis(time)))),
        Some(Fact::new("client", Word(&client))),
        job.key.as_deref().map(|key| Fact::new("key", Word(key.name()))),
        job.route.pattern().map(|route| Fact::new("route", Word(route))),
        Some(Fact::new("bytes", Number(exchange.body_bytes()))),
        trace.cached_tokens.map(|count| Fact::new("tokens_cached", Number(count))),
        Some(Fact::with_prefix("tokens_in", " tokens=", Number(trace.tokens.0))),
        Some(Fact::with_prefix("tokens_out", "+", Number(trace.tokens.1))),
        is_told.then(|| Fact::new("upstream_request_id", Word(&trace.upstream_request_id))),
        trace.upstream.as_deref().map(|name| Fact::new("upstream", Word(name))),
        matches!(outcome, Outcome::ClientLeft).then(|| Fact::new("client_left", Yes)),
        denial.map(|denial| Fact::new("access", Word(denial.word()))),
        denial.and_then(|denial| Some(Fact::new(denial.word(), Text(denial.value()?)))),
        error.as_deref().map(|error| Fact::new("error", Word(error))),
    ];
    let facts: Vec<Fact<'_>> = facts.into_iter().flatten().collect();
    logging::log_facts(level, "request", &facts);
}

/// The time to the first line of a response that a model writes, if it is a stream.
fn time_to_first_token(job: &Job) -> Option<Duration> {
    let is_generation = job.route.pattern().is_some_and(|it| GENERATION_ROUTES.contains(&it));
    let first = job.exchange.first_line_at().filter(|_| is_generation)?;
    Some(first.saturating_duration_since(job.received))
}

fn to_millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
