//! Counters of one server, for `/metrics`, `/openai/health` and `/ready`.
//!
//! Hand-written: the maintained library (`prometheus-client`) brings four crates and a macro, and
//! leaves bounded labels, the part that matters here, to its user. Counting costs a request one short
//! lock at its end, and a piece of a stream nothing.
//! Invariant: no client can make this grow without bound. A route is a row of the route table; a
//! model gets a label of its own only once the upstream's list or response has shown that it exists,
//! and only the first [`MAX_MODELS`] do; the number of series has a limit. All others count as `other`.
//!
//! # Labels
//!
//! The text is OpenMetrics, version 1.0; `scripts/deploy/README.md` lists the metrics.
//!
//! - `route` is a path of the route table, else `other`.
//! - `model` is the upstream's id, or the name of a virtual model, of the first 100 that were
//!   listed or have answered; names that only a client knows, and those above 128 bytes, are `other`.
//! - The combinations of route, model and status are limited to 2,000 series.
//! - `upstream` is a name of the configuration; `default` is the upstream that the environment defines.
//!   What a reload removed keeps its counters, up to 100 names; those of others are added up as `other`.
//! - `key` is the name of a client key of the configuration; keys without names are not counted.
//! - Status 0 is a request whose client disconnected before the response. A client that leaves, also in the
//!   middle of a response, is counted apart, and is no error.
//! - Tokens are counted as the upstream reports them, also in responses that pass through. Of a stream without
//!   such a report each piece of the answer counts as one.

mod condition;
mod histogram;
mod keys;
mod openmetrics;
mod process;
#[cfg(test)]
mod tests;
mod upstreams;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

pub use self::condition::{Condition, Trouble};
use self::histogram::Histogram;
pub use self::keys::KeyMetrics;
use self::openmetrics::Encoder;
use self::upstreams::UpstreamRegistry;
pub use self::upstreams::{MAX_UPSTREAMS, UpstreamMetrics, UpstreamState};
use crate::observe::board::Board;
use crate::observe::circuit_state::CircuitState;
use crate::observe::lock::lock;
use crate::observe::panics;

/// `Content-Type` of [`Metrics::render`].
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Most models that have a label of their own.
pub const MAX_MODELS: usize = 100;

/// Longest model name used as a label, in bytes.
const MAX_NAME_BYTES: usize = 128;

/// Most combinations of route, model and status that are counted separately.
const MAX_SERIES: usize = 2000;

/// Label of everything beyond these limits.
const OTHER: &str = "other";

/// Routes whose streams have a first token.
pub const GENERATION_ROUTES: &[&str] = &[
    "/api/chat",
    "/api/generate",
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/responses",
    "/v1/messages",
];

/// A number that goes up and down.
#[derive(Debug, Default)]
pub struct Gauge(AtomicI64);

impl Gauge {
    /// Adds one.
    pub fn inc(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    /// Subtracts one.
    pub fn dec(&self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }

    /// Sets the number.
    pub fn set(&self, number: usize) {
        self.0.store(i64::try_from(number).unwrap_or(i64::MAX), Ordering::Relaxed);
    }

    /// The number; 0 while concurrent changes make it negative for a moment.
    pub fn get(&self) -> u64 {
        u64::try_from(self.0.load(Ordering::Relaxed)).unwrap_or(0)
    }

    /// Adds one until the guard is dropped.
    #[must_use]
    pub fn track(&self) -> GaugeGuard<'_> {
        self.inc();
        GaugeGuard(self)
    }
}

/// One unit of a [`Gauge`].
#[derive(Debug)]
pub struct GaugeGuard<'a>(&'a Gauge);

impl Drop for GaugeGuard<'_> {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// All counters of one server.
#[derive(Debug, Default)]
pub struct Metrics {
    /// Open client connections.
    pub connections: Gauge,
    /// Workers handling a request.
    pub busy_workers: Gauge,
    /// Requests in the queue.
    pub queued_requests: Gauge,
    max_workers: u64,
    max_queue: u64,
    stopping: AtomicBool,
    upstreams: UpstreamRegistry,
    request_errors: CounterVec,
    /// Client connections that the connection guard closed, by the reason.
    pub connections_cut: CounterVec,
    /// Reloads of the configuration by their result: `ok`, or `failed` for a mistake.
    pub reloads: CounterVec,
    /// Requests whose client left before the response was complete.
    clients_left: AtomicU64,
    /// Requests that did not get to their route, by the reason.
    access_refused: CounterVec,
    requests: Mutex<RequestStats>,
    /// What the status page shows of requests.
    pub board: Arc<Board>,
}

/// Counters by the value of one label.
#[derive(Debug, Default)]
pub struct CounterVec(Mutex<BTreeMap<&'static str, u64>>);

impl CounterVec {
    /// Adds to the counter of one label.
    pub fn add(&self, label: &'static str, count: u64) {
        *lock(&self.0).entry(label).or_default() += count;
    }

    /// Adds what another one has counted.
    fn absorb(&self, other: &Self) {
        let counts = lock(&other.0).clone();
        counts.into_iter().for_each(|(label, count)| self.add(label, count));
    }

    /// The sum of all counters.
    fn total(&self) -> u64 {
        lock(&self.0).values().sum()
    }

    fn write(&self, out: &mut Encoder, name: &str, label: &str, help: &str) {
        out.begin_family(name, "counter", "", help);
        self.write_samples(out, &[], label);
    }

    /// Writes samples into the current family, with these labels before that of each counter.
    fn write_samples(&self, out: &mut Encoder, labels: &[(&str, &str)], label: &str) {
        for (value, count) in lock(&self.0).iter() {
            let labels = [labels, &[(label, *value)]].concat();
            out.write_sample("_total", &labels, count);
        }
    }
}

/// A request that has ended.
#[derive(Clone, Copy, Debug)]
pub struct RequestRecord<'a> {
    /// The path of its row in the route table, if it has one.
    pub route: Option<&'static str>,
    /// The model's name as the client sent it.
    pub model: &'a str,
    /// The model by its canonical name, if the upstream's list or response has shown that it exists.
    pub known_model: Option<&'a str>,
    /// The status of the response, if one was sent.
    pub status: Option<u16>,
    /// The kind of the error that ended it.
    pub error_kind: Option<&'static str>,
    /// Whether its client left before the response was complete.
    pub client_left: bool,
    /// The word of why it did not get to its route.
    pub denial: Option<&'static str>,
    /// Time from its arrival to the end of its response.
    pub duration: Duration,
    /// Time from its arrival to the first line of its stream.
    pub time_to_first_line: Option<Duration>,
    /// Tokens of the prompt and of the response.
    pub tokens: (u64, u64),
}

#[derive(Debug)]
struct RequestStats {
    /// By label; [`OTHER`] is always one of them.
    models: BTreeMap<Arc<str>, ModelStats>,
    /// By route, model and status.
    counts: BTreeMap<(&'static str, Option<Arc<str>>, u16), u64>,
    durations: BTreeMap<&'static str, Histogram>,
}

#[derive(Debug, Default)]
struct ModelStats {
    tokens: (u64, u64),
    time_to_first_token: Histogram,
}

impl Metrics {
    /// Counters at 0, for a server with these limits.
    /// `denials` are the reasons for which access is refused.
    pub fn new(max_workers: usize, max_queue: usize, denials: &[&'static str]) -> Self {
        let (max_workers, max_queue) = (max_workers as u64, max_queue as u64);
        let metrics = Self { max_workers, max_queue, ..Self::default() };
        denials.iter().for_each(|denial| metrics.access_refused.add(denial, 0));
        metrics
    }

    /// The same, with what the status page shows of requests.
    #[must_use]
    pub fn with_board(self, board: Board) -> Self {
        Self { board: Arc::new(board), ..self }
    }

    /// The number of workers.
    pub fn max_workers(&self) -> u64 {
        self.max_workers
    }

    /// Makes [`Metrics::check_ready`] report the shutdown.
    pub fn mark_stopping(&self) {
        self.stopping.store(true, Ordering::Relaxed);
    }

    /// The counters of the upstream of this name.
    pub fn upstream(&self, name: &str) -> Arc<UpstreamMetrics> {
        self.upstreams.get(name)
    }

    /// Requests sent to all upstreams since the start, and their failures.
    pub fn attempts_and_failures(&self) -> (u64, u64) {
        self.upstreams.totals()
    }

    /// Counts a request that has ended.
    pub fn record_request(&self, request: &RequestRecord<'_>) {
        if let Some(kind) = request.error_kind {
            self.request_errors.add(kind, 1);
        }
        self.clients_left.fetch_add(u64::from(request.client_left), Ordering::Relaxed);
        request.denial.iter().for_each(|denial| self.access_refused.add(denial, 1));
        lock(&self.requests).record(request);
    }

    /// Checks whether a request would be served now; `circuits` are those of all upstreams.
    ///
    /// # Errors
    /// The reason, in a few words, if it would not.
    pub fn check_ready(&self, circuits: &[CircuitState]) -> Result<(), &'static str> {
        let is_full = self.busy_workers.get() >= self.max_workers
            && self.queued_requests.get() >= self.max_queue;
        if self.stopping.load(Ordering::Relaxed) {
            Err("the server is shutting down")
        } else if circuits.iter().all(|circuit| *circuit == CircuitState::Open) {
            Err(if circuits.len() > 1 {
                "no upstream answers"
            } else {
                "the upstream does not answer"
            })
        } else if is_full {
            Err("workers and queue are full")
        } else {
            Ok(())
        }
    }

    /// All metrics in the OpenMetrics text format.
    pub fn render(
        &self,
        upstreams: &[UpstreamState<'_>],
        keys: &[KeyMetrics<'_>],
        version: &str,
        started: SystemTime,
    ) -> String {
        let mut out = Encoder::default();
        let refusals = keys.iter().flat_map(|key| key.refused);
        refusals.for_each(|(reason, _)| self.access_refused.add(reason, 0));
        self.write_requests(&mut out);
        keys::write(&mut out, keys);
        self.upstreams.write(&mut out, upstreams);
        self.write_load(&mut out);
        let help = "Version of the running program.";
        out.begin_family("ollama_proxy_build", "info", "", help);
        out.write_sample("_info", &[("version", version)], 1);
        process::write_metrics(&mut out, started);
        out.finish()
    }

    fn write_requests(&self, out: &mut Encoder) {
        lock(&self.requests).write(out);
        let help = "Requests that ended in an error, including after streaming began.";
        self.request_errors.write(out, "ollama_proxy_request_errors", "kind", help);
        let help = "Requests whose client left before the response was complete; no errors.";
        out.begin_family("ollama_proxy_clients_left", "counter", "", help);
        out.write_sample("_total", &[], self.clients_left.load(Ordering::Relaxed));
        let help = "Requests that did not get to their route.";
        self.access_refused.write(out, "ollama_proxy_access_refused", "reason", help);
    }

    fn write_load(&self, out: &mut Encoder) {
        for (name, help, value) in [
            ("ollama_proxy_workers", "Worker limit.", self.max_workers),
            ("ollama_proxy_workers_busy", "Workers handling a request.", self.busy_workers.get()),
            ("ollama_proxy_queue_length", "Requests in the queue.", self.queued_requests.get()),
            ("ollama_proxy_queue_limit", "Queue limit.", self.max_queue),
            ("ollama_proxy_connections", "Open client connections.", self.connections.get()),
        ] {
            out.write_gauge(name, help, value);
        }
        let help = "Client connections closed by the connection guard.";
        self.connections_cut.write(out, "ollama_proxy_connections_cut", "reason", help);
        let help = "Client connections reset before their first request was taken.";
        out.begin_family("ollama_proxy_connections_reset", "counter", "", help);
        out.write_sample("_total", &[], panics::connections_reset());
        let help = "Reloads of the configuration by their result.";
        self.reloads.write(out, "ollama_proxy_reloads", "result", help);
    }
}

impl Default for RequestStats {
    fn default() -> Self {
        let mut models = BTreeMap::new();
        models.insert(Arc::from(OTHER), ModelStats::default());
        Self { models, counts: BTreeMap::new(), durations: BTreeMap::new() }
    }
}

impl RequestStats {
    fn record(&mut self, request: &RequestRecord<'_>) {
        let route = request.route.unwrap_or(OTHER);
        let label = self.model_label(request);
        let status = request.status.unwrap_or(0);
        let model = self.models.entry(label.clone().unwrap_or_else(|| OTHER.into())).or_default();
        model.tokens.0 = model.tokens.0.saturating_add(request.tokens.0);
        model.tokens.1 = model.tokens.1.saturating_add(request.tokens.1);
        if let Some(first) = request.time_to_first_line
            && GENERATION_ROUTES.contains(&route)
        {
            model.time_to_first_token.observe(first);
        }
        let mut series = (route, label, status);
        if self.counts.len() >= MAX_SERIES && !self.counts.contains_key(&series) {
            series = (route, Some(OTHER.into()), status / 100 * 100);
        }
        *self.counts.entry(series).or_default() += 1;
        self.durations.entry(route).or_default().observe(request.duration);
    }

    /// The label under which a request's model is counted; `None` for a request without a model.
    fn model_label(&self, request: &RequestRecord<'_>) -> Option<Arc<str>> {
        if request.model.is_empty() {
            return None;
        }
        // Both spellings are one model.
        let name = request.known_model.unwrap_or(request.model);
        let name = name.strip_suffix(":latest").unwrap_or(name);
        if let Some((label, _)) = self.models.get_key_value(name) {
            return Some(label.clone());
        }
        let fits = name.len() <= MAX_NAME_BYTES && self.models.len() <= MAX_MODELS;
        Some(if request.known_model.is_some() && fits { name } else { OTHER }.into())
    }

    fn write(&self, out: &mut Encoder) {
        let help = "Requests by route, model and status; \
                    status 0: the client disconnected before the response.";
        out.begin_family("ollama_proxy_requests", "counter", "", help);
        for ((route, model, status), count) in &self.counts {
            let (model, status) = (model.as_deref().unwrap_or_default(), status.to_string());
            let labels = [("route", *route), ("model", model), ("status", status.as_str())];
            out.write_sample("_total", &labels, count);
        }
        let name = "ollama_proxy_request_duration_seconds";
        let help = "Time from a request's arrival to the end of its response.";
        out.begin_family(name, "histogram", "seconds", help);
        for (route, histogram) in &self.durations {
            histogram.write(out, ("route", route));
        }
        let name = "ollama_proxy_time_to_first_token_seconds";
        let help = "Time from a request's arrival to the first line of its stream.";
        out.begin_family(name, "histogram", "seconds", help);
        for (name, model) in &self.models {
            if !model.time_to_first_token.is_empty() {
                model.time_to_first_token.write(out, ("model", name));
            }
        }
        let help = "Tokens, as reported by the upstream.";
        out.begin_family("ollama_proxy_tokens", "counter", "", help);
        for (name, model) in &self.models {
            if model.tokens != (0, 0) {
                out.write_sample("_total", &[("model", name), ("kind", "prompt")], model.tokens.0);
                let labels = [("model", name.as_ref()), ("kind", "completion")];
                out.write_sample("_total", &labels, model.tokens.1);
            }
        }
    }
}
