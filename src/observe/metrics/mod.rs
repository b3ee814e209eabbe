//! What the program counts of itself, and whether it can serve.
//!
//! Written by everybody, read by `/metrics`, `/openai/health` and `/ready`. Our own few lines and no
//! library: the well-kept one (`prometheus-client`) brings four crates and a macro, and leaves the part
//! that matters here, bounded labels, to us all the same.
//! Invariant: no client can make this grow. A route is a row of the route table, a model gets a name
//! of its own only once an upstream has answered for it and only the first [`MAX_MODELS`] do, and the
//! number of series has a bound; what is beyond counts as `other`. Counting costs a request one short
//! lock at its end, and a piece of a stream nothing.

mod histogram;
mod openmetrics;
mod process;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use self::histogram::Histogram;
use self::openmetrics::Encoder;
use crate::observe::circuit_state::CircuitState;
use crate::observe::lock::lock;

/// The type of the text.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Models that are counted by their names.
pub const MAX_MODELS: usize = 100;

/// The longest name that is counted as such, in bytes.
const MAX_NAME_BYTES: usize = 128;

/// Sets of route, model and status that are counted apart.
const MAX_SERIES: usize = 2000;

/// What is beyond the bounds.
const OTHER: &str = "other";

/// Routes whose streams have a first token.
const GENERATION_ROUTES: &[&str] = &[
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
    /// One more.
    pub fn inc(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    /// One less.
    pub fn dec(&self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }

    /// This many.
    pub fn set(&self, number: usize) {
        self.0.store(i64::try_from(number).unwrap_or(i64::MAX), Ordering::Relaxed);
    }

    /// How many there are. Two that change it at once may be seen in the wrong order, never as fewer
    /// than none.
    #[must_use]
    pub fn get(&self) -> u64 {
        u64::try_from(self.0.load(Ordering::Relaxed)).unwrap_or(0)
    }

    /// One more until what is returned is dropped.
    #[must_use]
    pub fn track(&self) -> GaugeGuard<'_> {
        self.inc();
        GaugeGuard(self)
    }
}

/// One of a [`Gauge`].
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
    /// Connections of clients.
    pub connections: Gauge,
    /// Answers that are streaming out of the upstream.
    pub open_streams: Gauge,
    /// Requests that are worked on.
    pub busy_workers: Gauge,
    /// Requests that wait for a worker.
    pub queued_requests: Gauge,
    max_workers: AtomicUsize,
    max_queue: AtomicUsize,
    stopping: AtomicBool,
    attempts: AtomicU64,
    retries: AtomicU64,
    circuit_refusals: AtomicU64,
    upstream_failures: CounterVec,
    request_errors: CounterVec,
    connections_cut: CounterVec,
    requests: Mutex<RequestStats>,
}

/// Counts by a word of our own.
#[derive(Debug, Default)]
struct CounterVec(Mutex<BTreeMap<&'static str, u64>>);

impl CounterVec {
    fn inc(&self, word: &'static str) {
        self.add(word, 1);
    }

    fn add(&self, word: &'static str, count: u64) {
        *lock(&self.0).entry(word).or_default() += count;
    }

    fn snapshot(&self) -> BTreeMap<&'static str, u64> {
        lock(&self.0).clone()
    }
}

/// A request at its end.
#[derive(Clone, Copy, Debug)]
pub struct RequestRecord<'a> {
    /// The path of its row in the route table, if it has one.
    pub route: Option<&'static str>,
    /// The model's name as the client sent it.
    pub model: &'a str,
    /// Whether an upstream was asked.
    pub reached_upstream: bool,
    /// The status that was sent, if one was.
    pub status: Option<u16>,
    /// What kind of error ended it.
    pub error_kind: Option<&'static str>,
    /// From its arrival to its end.
    pub duration: Duration,
    /// From its arrival to the first line of a stream.
    pub time_to_first_line: Option<Duration>,
    /// Tokens of the prompt and of the answer.
    pub tokens: (u64, u64),
}

#[derive(Debug, Default)]
struct RequestStats {
    /// The models by their names; their place in `models`.
    model_indexes: HashMap<String, usize>,
    models: Vec<ModelStats>,
    /// The model that stands for all others.
    other_models: ModelStats,
    counts: HashMap<(&'static str, ModelLabel, u16), u64>,
    durations: BTreeMap<&'static str, Histogram>,
}

/// Which model a request was about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum ModelLabel {
    None,
    Index(usize),
    Other,
}

#[derive(Debug, Default)]
struct ModelStats {
    name: String,
    tokens: (u64, u64),
    time_to_first_token: Histogram,
}

impl Metrics {
    /// Says how much there is room for.
    pub fn set_limits(&self, workers: usize, queue: usize) {
        self.max_workers.store(workers, Ordering::Relaxed);
        self.max_queue.store(queue, Ordering::Relaxed);
    }

    /// Says that the program is to end.
    pub fn mark_stopping(&self) {
        self.stopping.store(true, Ordering::Relaxed);
    }

    /// Counts an attempt at the upstream; whether it is a repetition.
    pub fn count_attempt(&self, is_retry: bool) {
        self.attempts.fetch_add(1, Ordering::Relaxed);
        self.retries.fetch_add(u64::from(is_retry), Ordering::Relaxed);
    }

    /// Counts a failure of the upstream.
    pub fn count_upstream_failure(&self, kind: &'static str) {
        self.upstream_failures.inc(kind);
    }

    /// Counts an attempt that was not made, because the circuit is open.
    pub fn count_circuit_refusal(&self) {
        self.circuit_refusals.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts clients' connections that were cut.
    pub fn count_cut_connections(&self, reason: &'static str, count: u64) {
        self.connections_cut.add(reason, count);
    }

    /// Attempts at the upstream since the start.
    #[must_use]
    pub fn attempts(&self) -> u64 {
        self.attempts.load(Ordering::Relaxed)
    }

    /// Failures of the upstream since the start.
    #[must_use]
    pub fn failures(&self) -> u64 {
        self.upstream_failures.snapshot().values().sum()
    }

    /// Counts a request that has ended.
    pub fn record_request(&self, request: &RequestRecord<'_>) {
        if let Some(kind) = request.error_kind {
            self.request_errors.inc(kind);
        }
        lock(&self.requests).record(request);
    }

    /// Whether a request would be served now.
    ///
    /// # Errors
    /// Why not, in a few words.
    pub fn check_ready(&self, circuit: CircuitState) -> Result<(), &'static str> {
        let full = |gauge: &Gauge, bound: &AtomicUsize| {
            gauge.get() >= bound.load(Ordering::Relaxed) as u64
        };
        if self.stopping.load(Ordering::Relaxed) {
            Err("the server is shutting down")
        } else if circuit == CircuitState::Open {
            Err("the upstream does not answer")
        } else if full(&self.busy_workers, &self.max_workers)
            && full(&self.queued_requests, &self.max_queue)
        {
            Err("workers and queue are full")
        } else {
            Ok(())
        }
    }

    /// All of it in OpenMetrics' text format.
    #[must_use]
    pub fn render(&self, circuit: CircuitState, version: &str, started: SystemTime) -> String {
        let mut out = Encoder::default();
        self.write_requests(&mut out);
        self.write_upstream(&mut out, circuit);
        self.write_load(&mut out);
        out.begin_family("ollama_proxy_build", "info", "", "The running program.");
        out.write_sample("_info", &[("version", version)], 1);
        process::write_metrics(&mut out, started);
        out.finish()
    }

    fn write_requests(&self, out: &mut Encoder) {
        lock(&self.requests).write(out);
        let help = "Requests that ended in an error, also behind the first line.";
        out.write_counter_vec(
            "ollama_proxy_request_errors",
            "kind",
            help,
            &self.request_errors.snapshot(),
        );
    }

    fn write_upstream(&self, out: &mut Encoder, circuit: CircuitState) {
        let number = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let help = "Attempts at the upstream.";
        out.write_counter("ollama_proxy_upstream_attempts", help, number(&self.attempts));
        let help = "Those among them that were repetitions.";
        out.write_counter("ollama_proxy_upstream_retries", help, number(&self.retries));
        let help = "Failures of the upstream, also in the middle of an answer.";
        out.write_counter_vec(
            "ollama_proxy_upstream_failures",
            "kind",
            help,
            &self.upstream_failures.snapshot(),
        );
        let help = "Attempts that were not made, because the circuit was open.";
        out.write_counter("ollama_proxy_circuit_refusals", help, number(&self.circuit_refusals));
        let help = "1 for the state of the circuit to the upstream.";
        out.begin_family("ollama_proxy_circuit_state", "gauge", "", help);
        for state in CircuitState::ALL {
            out.write_sample("", &[("state", state.name())], u64::from(state == circuit));
        }
    }

    fn write_load(&self, out: &mut Encoder) {
        let bound = |bound: &AtomicUsize| bound.load(Ordering::Relaxed) as u64;
        out.write_gauge(
            "ollama_proxy_workers",
            "Requests that can be worked on.",
            bound(&self.max_workers),
        );
        let help = "Requests that are worked on.";
        out.write_gauge("ollama_proxy_workers_busy", help, self.busy_workers.get());
        let help = "Requests that wait for a worker.";
        out.write_gauge("ollama_proxy_queue_length", help, self.queued_requests.get());
        let help = "Requests that may wait for a worker.";
        out.write_gauge("ollama_proxy_queue_limit", help, bound(&self.max_queue));
        let help = "Open connections of clients.";
        out.write_gauge("ollama_proxy_connections", help, self.connections.get());
        let help = "Connections of clients that were cut.";
        out.write_counter_vec(
            "ollama_proxy_connections_cut",
            "reason",
            help,
            &self.connections_cut.snapshot(),
        );
        let help = "Answers that are streaming out of the upstream.";
        out.write_gauge("ollama_proxy_open_streams", help, self.open_streams.get());
    }
}

impl RequestStats {
    fn record(&mut self, request: &RequestRecord<'_>) {
        let route = request.route.unwrap_or(OTHER);
        let label = self.assign_label(request);
        let status = request.status.unwrap_or(0);
        let series = (route, label, status);
        let room = self.counts.len() < MAX_SERIES || self.counts.contains_key(&series);
        let series = if room { series } else { (route, ModelLabel::Other, status / 100 * 100) };
        *self.counts.entry(series).or_default() += 1;
        self.durations.entry(route).or_default().observe(request.duration);
        let model = match label {
            ModelLabel::Index(place) => {
                self.models.get_mut(place).unwrap_or(&mut self.other_models)
            }
            ModelLabel::None | ModelLabel::Other => &mut self.other_models,
        };
        model.tokens.0 = model.tokens.0.saturating_add(request.tokens.0);
        model.tokens.1 = model.tokens.1.saturating_add(request.tokens.1);
        if let Some(first) =
            request.time_to_first_line.filter(|_| GENERATION_ROUTES.contains(&route))
        {
            model.time_to_first_token.observe(first);
        }
    }

    /// Where the model of a request is, or will be from now on.
    fn assign_label(&mut self, request: &RequestRecord<'_>) -> ModelLabel {
        // One model, two spellings.
        let name = request.model.strip_suffix(":latest").unwrap_or(request.model);
        if name.is_empty() {
            return ModelLabel::None;
        }
        if let Some(place) = self.model_indexes.get(name) {
            return ModelLabel::Index(*place);
        }
        let real = request.reached_upstream && request.status.is_some_and(|status| status < 400);
        let fits = name.len() <= MAX_NAME_BYTES && name != OTHER;
        if !real || !fits || self.models.len() >= MAX_MODELS {
            return ModelLabel::Other;
        }
        let place = self.models.len();
        self.models.push(ModelStats { name: name.to_owned(), ..ModelStats::default() });
        self.model_indexes.insert(name.to_owned(), place);
        ModelLabel::Index(place)
    }

    fn label_text(&self, label: ModelLabel) -> &str {
        match label {
            ModelLabel::None => "",
            ModelLabel::Index(place) => self.models.get(place).map_or(OTHER, |model| &model.name),
            ModelLabel::Other => OTHER,
        }
    }

    fn write(&self, out: &mut Encoder) {
        let help = "Requests by what became of them; status 0: the client left before.";
        out.begin_family("ollama_proxy_requests", "counter", "", help);
        let mut requests: Vec<_> = self.counts.iter().collect();
        requests.sort();
        for ((route, place, status), count) in requests {
            let status = status.to_string();
            let labels =
                [("route", *route), ("model", self.label_text(*place)), ("status", &status)];
            out.write_sample("_total", &labels, *count);
        }
        let name = "ollama_proxy_request_duration_seconds";
        out.begin_family(name, "histogram", "seconds", "From a request's arrival to its end.");
        for (route, histogram) in &self.durations {
            histogram.write(out, ("route", route));
        }
        let models = || {
            let known = self.models.iter().map(|model| (model.name.as_str(), model));
            known.chain([(OTHER, &self.other_models)])
        };
        let name = "ollama_proxy_time_to_first_token_seconds";
        out.begin_family(
            name,
            "histogram",
            "seconds",
            "From a request's arrival to its first line.",
        );
        for (name, model) in models().filter(|(_, model)| !model.time_to_first_token.is_empty()) {
            model.time_to_first_token.write(out, ("model", name));
        }
        out.begin_family(
            "ollama_proxy_tokens",
            "counter",
            "",
            "Tokens as the upstream counted them.",
        );
        for (name, model) in models().filter(|(_, model)| model.tokens != (0, 0)) {
            out.write_sample("_total", &[("model", name), ("kind", "prompt")], model.tokens.0);
            out.write_sample("_total", &[("model", name), ("kind", "completion")], model.tokens.1);
        }
    }
}
