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
//! req_1a2b3c4d POST "/api/chat" model="m" status=200 attempts=1 duration_ms=812 client=10.0.0.7 tokens=9+120 upstream_request_id=... upstream=default
//! ```
//!
//! `client_left=true`, `access=REASON` and `error=KIND` follow where they apply, the last one at the end.
//! Never logs a header but the origin or the host that is refused. Invariant: the log never quotes a panic,
//! which may hold a prompt.

use std::fmt::{Display, Write as _};
use std::net::IpAddr;
use std::panic::{self, AssertUnwindSafe};
use std::sync::Arc;
use std::time::Instant;

use crate::error::{Error, Result};
use crate::handlers::Handler;
use crate::http::access::{AccessControl, Denial, EarlyResponse};
use crate::http::exchange::Exchange;
use crate::http::routes::ResolvedRoute;
use crate::observe::metrics::{Metrics, RequestRecord};
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
        if trace.retries_exhausted || matches!(error, Error::TooManyWrongKeys(_)) {
            exchange.forbid_retry();
        }
        exchange.set_upstream(trace.upstream.clone());
        exchange.fail(error);
    }
    let outcome = judge(exchange, trace, result);
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
    log_request(job, trace, &outcome);
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
    let (exchange, error) = (&job.exchange, outcome.error());
    let path = exchange.target().split('?').next().unwrap_or_default();
    let path: String = path.chars().take(MAX_LOGGED_PATH_CHARS).collect();
    let client = job.client.map_or_else(|| "unknown".to_owned(), |client| client.to_string());
    // What applies to some requests only.
    let mut rest = String::new();
    let mut add = |name: &str, value: Option<&dyn Display>| {
        if let Some(value) = value {
            // Writing to a String cannot fail.
            let _ = write!(rest, " {name}={value}");
        }
    };
    let id = (trace.attempts > 0).then_some(&trace.upstream_request_id);
    add("upstream_request_id", id.map(|id| id as _));
    add("upstream", trace.upstream.as_ref().map(|name| name as _));
    let has_left = matches!(outcome, Outcome::ClientLeft);
    add("client_left", has_left.then_some(&true));
    add("access", job.denial.as_ref().map(|denial| denial as _));
    add("error", error.map(|error| error as _));
    log::log!(
        log_level(exchange, error),
        "{} {} {path:?} model={:?} status={} attempts={} duration_ms={} client={client} tokens={}+{}{rest}",
        exchange.request_id(),
        exchange.method(),
        trace.model,
        exchange.status().unwrap_or(0),
        trace.attempts,
        job.received.elapsed().as_millis(),
        trace.tokens.0,
        trace.tokens.1,
    );
}
