//! Routes about the state of the server and of its upstreams: health, readiness and metrics.
//!
//! Never sends a prompt. Invariant: `/health`, `/ready` and `/metrics` respond without a request to an
//! upstream; `/openai/health` sends one to each, all at the same time.

use std::collections::HashSet;
use std::thread;
use std::time::{Duration, Instant};

use serde::Serialize;

use super::Context;
use super::info::VERSION;
use crate::error::{Error, Result};
use crate::http::exchange::ContentType;
use crate::http::named_keys::{KeySnapshot, REFUSAL_WORDS};
use crate::net::memory_budget;
use crate::observe::circuit_state::CircuitState;
use crate::observe::metrics::{KeyMetrics, UpstreamState};
use crate::observe::redact;
use crate::upstream::{Trace, Upstream};

/// What is wrong with an upstream whose certificate nobody checks.
const UNVERIFIED: &str = "tls_verify is false: the server's certificate is not checked";

/// `GET /health`: the process is running.
pub(super) fn health(context: &mut Context<'_>) -> Result<()> {
    // With an invalid configuration the process does not start.
    let health = format!(r#"{{"status":"healthy","version":"{VERSION}","configured":true}}"#);
    context.exchange.respond(200, ContentType::JSON, health.as_bytes())
}

/// The response of `GET /ready`.
#[derive(Serialize)]
struct Ready {
    status: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'static str>,
}

/// `GET /ready`: whether a request would be served now.
pub(super) fn ready(context: &mut Context<'_>) -> Result<()> {
    let reason = context.app.metrics.check_ready(&circuits(context)).err();
    let (status, word) = if reason.is_none() { (200, "ready") } else { (503, "not ready") };
    context.answer_json(status, &Ready { status: word, reason })
}

fn circuits(context: &Context<'_>) -> Vec<CircuitState> {
    context.app.router.upstreams().iter().map(|upstream| upstream.client.circuit_state()).collect()
}

/// `GET /metrics`.
pub(super) fn metrics(context: &mut Context<'_>) -> Result<()> {
    let states: Vec<_> = context.app.router.upstreams().iter().map(|it| state(it)).collect();
    let snapshots = context.app.keys.snapshots();
    let keys: Vec<_> = snapshots.iter().map(describe_key).collect();
    let text = context.app.metrics.render(&states, &keys, VERSION, context.app.started_at);
    context.exchange.respond(200, ContentType::METRICS, text.as_bytes())
}

fn describe_key(key: &KeySnapshot) -> KeyMetrics<'_> {
    let counts = &key.counts;
    KeyMetrics {
        name: &key.named.name,
        requests: counts.requests,
        refused: std::array::from_fn(|at| (REFUSAL_WORDS[at], counts.refused[at])),
        tokens: counts.tokens,
        in_flight: counts.in_flight,
        tokens_today: key.tokens_today(),
    }
}

fn state(upstream: &Upstream) -> UpstreamState<'_> {
    UpstreamState {
        name: upstream.name(),
        circuit: upstream.client.circuit_state(),
        in_flight: upstream.in_flight(),
        list_age: upstream.catalog.list_age().0,
    }
}

/// The response of `GET /openai/health`.
#[derive(Serialize)]
struct Health<'a> {
    status: &'static str,
    circuit: &'static str,
    models_available: usize,
    request_count: u64,
    error_count: u64,
    error_rate: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    upstreams: Vec<UpstreamHealth<'a>>,
}

/// One upstream in it.
#[derive(Serialize)]
struct UpstreamHealth<'a> {
    name: &'a str,
    status: &'static str,
    error: Option<String>,
    latency_ms: u64,
    models: usize,
    in_flight: usize,
    circuit: &'static str,
    list_age_s: Option<u64>,
    /// True while an earlier list is shown, because the upstream does not send a newer one.
    list_stale: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    warning: Option<&'static str>,
}

/// What one upstream answered.
struct Checked<'a> {
    upstream: &'a Upstream,
    ids: Result<Vec<String>>,
    took: Duration,
    attempts: u32,
}

/// `GET /openai/health`: tries once to fetch the list of each upstream. One that answers is enough.
pub(super) fn upstream_health(context: &mut Context<'_>) -> Result<()> {
    let mut checked = check_all(context);
    context.trace.attempts += checked.iter().map(|it| it.attempts).sum::<u32>();
    let upstreams: Vec<_> = checked.iter().map(Checked::describe).collect();
    let ids: HashSet<&str> =
        checked.iter().flat_map(|it| it.ids.iter().flatten()).map(String::as_str).collect();
    let models_available = ids.len();
    let (requests, errors) = context.app.metrics.attempts_and_failures();
    #[allow(clippy::cast_precision_loss)] // A rate, not a count.
    let error_rate = if requests == 0 { 0.0 } else { errors as f64 / requests as f64 };
    let is_healthy = checked.iter().any(|it| it.ids.is_ok());
    let error = (!is_healthy).then(|| join_errors(&upstreams));
    if !is_healthy {
        context.trace.reported_error = checked.swap_remove(0).ids.err();
    }
    let circuits = circuits(context);
    let (status, word) = if is_healthy { (200, "healthy") } else { (503, "unhealthy") };
    let health = Health {
        status: word,
        circuit: best_circuit(&circuits).name(),
        models_available,
        request_count: requests,
        error_count: errors,
        error_rate,
        error,
        upstreams,
    };
    context.answer_json(status, &health)
}

/// The state of the circuit that lets most through.
fn best_circuit(circuits: &[CircuitState]) -> CircuitState {
    let is_there = |state: &CircuitState| circuits.contains(state);
    CircuitState::ALL.into_iter().find(is_there).unwrap_or(CircuitState::Closed)
}

/// What is wrong with each; the only one has no name there.
fn join_errors(upstreams: &[UpstreamHealth<'_>]) -> String {
    let text = |it: &UpstreamHealth<'_>| it.error.clone().unwrap_or_default();
    match upstreams {
        [only] => text(only),
        all => {
            all.iter().map(|it| format!("{}: {}", it.name, text(it))).collect::<Vec<_>>().join("; ")
        }
    }
}

/// Asks all upstreams at the same time, each within the limit of its own time.
fn check_all<'a>(context: &Context<'a>) -> Vec<Checked<'a>> {
    let (router, trace) = (context.app.router, &*context.trace);
    let [first, others @ ..] = router.upstreams() else { return Vec::new() };
    thread::scope(|scope| {
        let start = |upstream| {
            let check = memory_budget::inherit(move || check(upstream, trace.clone()));
            let thread = thread::Builder::new().name("health-check".into());
            (upstream, thread.spawn_scoped(scope, check).ok())
        };
        let started: Vec<_> = others.iter().map(|upstream| start(upstream)).collect();
        let first = check(first, trace.clone());
        let rest = started.into_iter().map(|(upstream, thread)| {
            let checked = thread.and_then(|thread| thread.join().ok());
            // Without a thread, after the others.
            checked.unwrap_or_else(|| check(upstream, trace.clone()))
        });
        [first].into_iter().chain(rest).collect()
    })
}

fn check(upstream: &Upstream, mut trace: Trace) -> Checked<'_> {
    let (began, before) = (Instant::now(), trace.attempts);
    let key = trace.client_key.clone();
    // Also on a thread that is not the request's own.
    let listed =
        redact::with_request_key(key.as_ref(), || upstream.client.check_health(&mut trace));
    let ids = listed.map(|list| list.iter().map(|model| model.id.clone()).collect());
    let ids = match (&upstream.settings.server.list, ids) {
        // A server that need not have a list has only to answer, with whatever status.
        (Some(list), Err(error)) if !error.is_unreachable() => Ok(list.clone()),
        (Some(list), Ok(_)) => Ok(list.clone()),
        (_, ids) => ids,
    };
    Checked { upstream, ids, took: began.elapsed(), attempts: trace.attempts - before }
}

impl<'a> Checked<'a> {
    fn describe(&self) -> UpstreamHealth<'a> {
        let Upstream { client, catalog, settings, .. } = self.upstream;
        let (list_age, is_stale) = catalog.list_age();
        let error = self.ids.as_ref().err().map(Error::message);
        UpstreamHealth {
            name: self.upstream.name(),
            status: if error.is_none() { "healthy" } else { "unhealthy" },
            latency_ms: u64::try_from(self.took.as_millis()).unwrap_or(u64::MAX),
            models: self.ids.as_ref().map_or(0, Vec::len),
            in_flight: self.upstream.in_flight(),
            circuit: client.circuit_state().name(),
            list_age_s: list_age.map(|age| age.as_secs()),
            list_stale: is_stale || (list_age.is_some() && error.is_some()),
            warning: (!settings.server.tls.verify).then_some(UNVERIFIED),
            error,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_circuit_of_all_is_that_of_the_best() {
        use CircuitState::{Closed, HalfOpen, Open};
        for (circuits, best) in [
            (&[Open, Closed][..], Closed),
            (&[Open, HalfOpen], HalfOpen),
            (&[Open, Open], Open),
            (&[HalfOpen, Closed], Closed),
        ] {
            assert_eq!(best_circuit(circuits), best, "{circuits:?}");
        }
    }
}
