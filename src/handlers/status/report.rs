//! `GET /status.json`: what the status page shows, from what is known already.
//!
//! A list that nobody has asked for in the last minute is fetched behind the request, as other requests do;
//! nothing else goes to an upstream because somebody looks, and nothing is waited for. Invariant: no prompt,
//! no answer, no key and no text of an upstream that may hold one.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::models;
use crate::api::wire::json_writer::JsonWriter;
use crate::error::Result;
use crate::handlers::Context;
use crate::handlers::info::VERSION;
use crate::http::exchange::ContentType;
use crate::http::named_keys::KeySnapshot;
use crate::observe::board::shorten;
use crate::observe::circuit_state::CircuitState;
use crate::observe::metrics::Trouble;
use crate::observe::proc_field;
use crate::upstream::Upstream;

/// How old a list may be before looking at the page fetches another one.
const MAX_LIST_AGE: Duration = Duration::from_secs(60);

/// The most live requests that are listed.
const MAX_LIVE: usize = 100;

/// The most repairs that are listed.
const MAX_REPAIRS: usize = 200;

/// The most bytes of a text of the configuration, such as a list of origins.
const MAX_VALUE_BYTES: usize = 1000;

/// Sends all of it.
pub(in crate::handlers) fn serve(context: &mut Context<'_>) -> Result<()> {
    let upstreams = context.app.router.upstreams();
    for upstream in upstreams {
        upstream.refresh_if_older(MAX_LIST_AGE, context.trace);
    }
    let now = Instant::now();
    let mut json = JsonWriter::default();
    json.open_object();
    write_server(&mut json, context);
    json.open_list("upstreams");
    upstreams.iter().for_each(|upstream| write_upstream(&mut json, upstream, now));
    json.close_list();
    models::write(&mut json, context.app);
    write_requests(&mut json, context, now);
    write_repairs(&mut json, context, now);
    write_keys(&mut json, context);
    json.open_list("config");
    for (name, value) in context.app.configuration() {
        json.open_object();
        json.text("name", name);
        json.text("value", shorten(&value, MAX_VALUE_BYTES));
        json.close_object();
    }
    json.close_list();
    json.close_object();
    let headers = [("Cache-Control", "no-store")];
    let body = json.into_bytes();
    context.exchange.respond_with_headers(200, ContentType::JSON, &headers, &body)
}

fn write_server(json: &mut JsonWriter, context: &Context<'_>) {
    let (app, metrics) = (context.app, &context.app.metrics);
    let since_epoch = |time: SystemTime| time.duration_since(UNIX_EPOCH).unwrap_or_default();
    let now = since_epoch(SystemTime::now());
    json.text("version", VERSION);
    json.number("uptime_s", now.saturating_sub(since_epoch(app.started_at)).as_secs());
    json.number("time_s", now.as_secs());
    json.open_member("workers");
    json.number("busy", metrics.busy_workers.get());
    json.number("limit", metrics.max_workers());
    json.close_object();
    json.number("queue", metrics.queued_requests.get());
    json.number("connections", metrics.connections.get());
    let budget = context.exchange.memory_budget();
    json.open_member("memory");
    json.number("held", budget.as_ref().map_or(0, |budget| budget.used() as u64));
    json.number_or_null("limit", budget.as_ref().map(|budget| budget.limit() as u64));
    let resident = proc_field::read("/proc/self/status", "VmRSS");
    json.number_or_null("resident", resident.map(|kib| kib * 1024));
    json.close_object();
}

fn write_upstream(json: &mut JsonWriter, upstream: &Upstream, now: Instant) {
    let Upstream { client, catalog, settings, .. } = upstream;
    let (condition, (list_age, is_stale)) = (client.condition(), catalog.list_age());
    let circuit = client.circuit_state();
    let failure = condition.last_failure();
    let state = match (circuit, condition.trouble()) {
        (CircuitState::Open, _) | (_, Trouble::Unreachable) => "unreachable",
        (_, Trouble::Failing) => "failing",
        _ if is_stale || catalog.last_error().is_some() && list_age.is_none() => "list failed",
        _ => "ok",
    };
    json.open_object();
    json.text("name", upstream.name());
    json.text("base_url", &settings.server.base_url.without_secrets());
    json.text("circuit", circuit.name());
    json.text("state", state);
    json.number_or_null("latency_ms", condition.latency().map(to_millis));
    let models = catalog.get_cached().map(|list| list.len());
    let models = models.or_else(|| client.fixed_list().map(|list| list.len()));
    json.number("models", models.unwrap_or(0) as u64);
    json.number("in_flight", upstream.in_flight() as u64);
    json.number_or_null("list_age_s", list_age.map(|age| age.as_secs()));
    json.raw("list_stale", &is_stale);
    let what = failure.as_ref().map_or("", |(what, _)| what);
    json.text_or_null("last_error", &client.redactor.redact(what));
    json.number_or_null("last_error_age_s", failure.map(|(_, at)| age(at, now)));
    json.close_object();
}

fn write_requests(json: &mut JsonWriter, context: &Context<'_>, now: Instant) {
    let board = &context.app.metrics.board;
    let (live, total) = board.live(MAX_LIVE);
    json.open_list("live");
    for request in live {
        if !context.app.may_see(&request.model, (&request.upstream(), &request.model)) {
            continue;
        }
        json.open_object();
        json.text("id", &request.id);
        json.text("route", request.route);
        json.text("model", &request.model);
        json.text("upstream", &request.upstream());
        json.thousandths("seconds", to_millis(now.saturating_duration_since(request.since)));
        json.number("tokens", request.tokens());
        json.close_object();
    }
    json.close_list();
    json.number("live_total", total as u64);
    json.open_list("minutes");
    for minute in board.minutes(now) {
        json.open_object();
        json.number("requests", minute.requests);
        json.number("errors", minute.errors);
        json.number_or_null("first_token_ms", minute.first_token().map(to_millis));
        match minute.tokens_per_second() {
            Some(rate) => json.raw("tokens_per_second", &format_args!("{rate:.1}")),
            None => json.raw("tokens_per_second", &"null"),
        }
        json.close_object();
    }
    json.close_list();
    json.open_list("recent");
    for request in board.recent() {
        let (model, upstream) = (&*request.model, &*request.upstream);
        if !model.is_empty() && !context.app.may_see(model, (upstream, model)) {
            continue;
        }
        let time = request.time.duration_since(UNIX_EPOCH).unwrap_or_default();
        json.open_object();
        json.text("id", &request.id);
        json.thousandths("time", to_millis(time));
        json.text("route", request.route);
        json.text_or_null("model", &request.model);
        json.text_or_null("upstream", &request.upstream);
        json.number("status", request.status.into());
        json.number("attempts", request.attempts.into());
        json.number_or_null("first_token_ms", request.first_token.map(to_millis));
        json.number("duration_ms", to_millis(request.duration));
        json.number("tokens_in", request.tokens.0);
        json.number("tokens_out", request.tokens.1);
        json.text_or_null("error", request.error.unwrap_or_default());
        json.text_or_null("key", &request.key);
        json.close_object();
    }
    json.close_list();
}

/// The keys that have names; a key that may use some models only sees itself.
fn write_keys(json: &mut JsonWriter, context: &Context<'_>) {
    let own = context.app.key.filter(|key| key.limits_models());
    json.open_list("keys");
    for KeySnapshot { named, counts } in &context.app.keys.snapshots() {
        if own.is_some_and(|own| own.name() != named.name) {
            continue;
        }
        json.open_object();
        json.text("name", &named.name);
        json.number("requests", counts.requests);
        json.number("refused", counts.refused.iter().sum());
        json.number("tokens_in", counts.tokens.0);
        json.number("tokens_out", counts.tokens.1);
        let tokens_today = named.rates.tokens_per_day.map(|_| counts.tokens_today());
        json.number_or_null("tokens_today", tokens_today);
        for (name, limit) in named.rates.members() {
            json.number_or_null(name, limit);
        }
        json.number("in_flight", counts.in_flight);
        json.open_list("models");
        named.models.iter().for_each(|pattern| json.item(pattern));
        json.close_list();
        json.close_object();
    }
    json.close_list();
}

fn write_repairs(json: &mut JsonWriter, context: &Context<'_>, now: Instant) {
    json.open_list("repairs");
    let mut room = MAX_REPAIRS;
    for upstream in context.app.router.upstreams() {
        for learnt in upstream.client.learnt_changes(room) {
            room -= 1;
            if !context.app.may_see(&learnt.model, (upstream.name(), &learnt.model)) {
                continue;
            }
            json.open_object();
            json.text("upstream", upstream.name());
            json.text("model", &upstream.client.redactor.redact(&learnt.model));
            json.text("repair", &learnt.change);
            json.text_or_null("reason", learnt.reason.as_deref().unwrap_or_default());
            json.number("age_s", age(learnt.since, now));
            json.close_object();
        }
    }
    json.close_list();
}

fn age(since: Instant, now: Instant) -> u64 {
    now.saturating_duration_since(since).as_secs()
}

fn to_millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
