//! What the program counts of itself, and whether it can serve.
//!
//! Written by everybody, read by `/metrics`, `/openai/health` and `/ready`. Our own few lines and no
//! library: the well-kept one (`prometheus-client`) brings four crates and a macro, and leaves the part
//! that matters here, bounded labels, to us all the same.
//! Invariant: no client can make this grow. A route is a row of the route table, a model gets a name
//! of its own only once an upstream has answered for it and only the first [`MOST_MODELS`] do, and the
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
use self::openmetrics::Text;
use crate::observe::lock::lock;
use crate::observe::order;
use crate::upstream::breaker::Circuit;

/// The type of the text.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Models that are counted by their names.
pub const MOST_MODELS: usize = 100;

/// The longest name that is counted as such, in bytes.
const LONGEST_NAME: usize = 128;

/// Sets of route, model and status that are counted apart.
const MOST_SERIES: usize = 2000;

/// What is beyond the bounds.
const OTHER: &str = "other";

/// Routes whose streams have a first token.
const WRITING: &[&str] = &[
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
    pub fn up(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    /// One less.
    pub fn down(&self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }

    /// This many.
    pub fn set(&self, number: usize) {
        self.0.store(i64::try_from(number).unwrap_or(i64::MAX), Ordering::Relaxed);
    }

    /// How many there are. Two that change it at once may be seen in the wrong order, never as fewer
    /// than none.
    #[must_use]
    pub fn number(&self) -> u64 {
        u64::try_from(self.0.load(Ordering::Relaxed)).unwrap_or(0)
    }

    /// One more until what is returned is dropped.
    #[must_use]
    pub fn hold(&self) -> Held<'_> {
        self.up();
        Held(self)
    }
}

/// One of a [`Gauge`].
#[derive(Debug)]
pub struct Held<'a>(&'a Gauge);

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.0.down();
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
    pub busy: Gauge,
    /// Requests that wait for a worker.
    pub queued: Gauge,
    workers: AtomicUsize,
    queue: AtomicUsize,
    stopping: AtomicBool,
    attempts: AtomicU64,
    retries: AtomicU64,
    refused: AtomicU64,
    failures: Words,
    errors: Words,
    cut: Words,
    finished: Mutex<Finishes>,
}

/// Counts by a word of our own.
#[derive(Debug, Default)]
struct Words(Mutex<BTreeMap<&'static str, u64>>);

impl Words {
    fn count(&self, word: &'static str) {
        self.add(word, 1);
    }

    fn add(&self, word: &'static str, count: u64) {
        *lock(&self.0).entry(word).or_default() += count;
    }

    fn all(&self) -> BTreeMap<&'static str, u64> {
        lock(&self.0).clone()
    }
}

/// A request at its end.
#[derive(Clone, Copy, Debug)]
pub struct Finished<'a> {
    /// The path of its row in the route table, if it has one.
    pub route: Option<&'static str>,
    /// The model's name as the client sent it.
    pub model: &'a str,
    /// Whether an upstream was asked.
    pub asked: bool,
    /// The status that was sent, if one was.
    pub status: Option<u16>,
    /// What kind of error ended it.
    pub error: Option<&'static str>,
    /// From its arrival to its end.
    pub duration: Duration,
    /// From its arrival to the first line of a stream.
    pub first: Option<Duration>,
    /// Tokens of the prompt and of the answer.
    pub tokens: (u64, u64),
}

#[derive(Debug, Default)]
struct Finishes {
    /// The models by their names; their place in `models`.
    places: HashMap<String, usize>,
    models: Vec<Model>,
    /// The model that stands for all others.
    others: Model,
    requests: HashMap<(&'static str, Place, u16), u64>,
    durations: BTreeMap<&'static str, Histogram>,
}

/// Which model a request was about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Place {
    None,
    Known(usize),
    Other,
}

#[derive(Debug, Default)]
struct Model {
    name: String,
    tokens: (u64, u64),
    first: Histogram,
}

impl Metrics {
    /// Says how much there is room for.
    pub fn has_room_for(&self, workers: usize, queue: usize) {
        self.workers.store(workers, Ordering::Relaxed);
        self.queue.store(queue, Ordering::Relaxed);
    }

    /// Says that the program is to end.
    pub fn stops(&self) {
        self.stopping.store(true, Ordering::Relaxed);
    }

    /// Counts an attempt at the upstream; whether it is a repetition.
    pub fn attempt(&self, again: bool) {
        self.attempts.fetch_add(1, Ordering::Relaxed);
        self.retries.fetch_add(u64::from(again), Ordering::Relaxed);
    }

    /// Counts a failure of the upstream.
    pub fn upstream_failed(&self, kind: &'static str) {
        self.failures.count(kind);
    }

    /// Counts an attempt that was not made, because the circuit is open.
    pub fn refused(&self) {
        self.refused.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts clients' connections that were cut.
    pub fn connections_cut(&self, reason: &'static str, count: u64) {
        self.cut.add(reason, count);
    }

    /// Attempts at the upstream since the start.
    #[must_use]
    pub fn attempts(&self) -> u64 {
        self.attempts.load(Ordering::Relaxed)
    }

    /// Failures of the upstream since the start.
    #[must_use]
    pub fn failures(&self) -> u64 {
        self.failures.all().values().sum()
    }

    /// Counts a request that has ended.
    pub fn finished(&self, request: &Finished<'_>) {
        if let Some(kind) = request.error {
            self.errors.count(kind);
        }
        lock(&self.finished).count(request);
    }

    /// Whether a request would be served now.
    ///
    /// # Errors
    /// Why not, in a few words.
    pub fn ready(&self, circuit: Circuit) -> Result<(), &'static str> {
        let full = |gauge: &Gauge, bound: &AtomicUsize| {
            gauge.number() >= bound.load(Ordering::Relaxed) as u64
        };
        if self.stopping.load(Ordering::Relaxed) {
            Err("the server is shutting down")
        } else if circuit == Circuit::Open {
            Err("the upstream does not answer")
        } else if full(&self.busy, &self.workers) && full(&self.queued, &self.queue) {
            Err("workers and queue are full")
        } else {
            Ok(())
        }
    }

    /// All of it in OpenMetrics' text format.
    #[must_use]
    pub fn text(&self, circuit: Circuit, version: &str, started: SystemTime) -> String {
        let mut out = Text::default();
        self.tell_requests(&mut out);
        self.tell_upstream(&mut out, circuit);
        self.tell_load(&mut out);
        out.family("ollama_proxy_build", "info", "", "The running program.");
        out.sample("_info", &[("version", version)], 1);
        process::tell(&mut out, started);
        out.end()
    }

    fn tell_requests(&self, out: &mut Text) {
        lock(&self.finished).tell(out);
        let help = "Requests that ended in an error, also behind the first line.";
        out.words("ollama_proxy_request_errors", "kind", help, &self.errors.all());
    }

    fn tell_upstream(&self, out: &mut Text, circuit: Circuit) {
        let number = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let help = "Attempts at the upstream.";
        out.counter("ollama_proxy_upstream_attempts", help, number(&self.attempts));
        let help = "Those among them that were repetitions.";
        out.counter("ollama_proxy_upstream_retries", help, number(&self.retries));
        let help = "Failures of the upstream, also in the middle of an answer.";
        out.words("ollama_proxy_upstream_failures", "kind", help, &self.failures.all());
        let help = "Attempts that were not made, because the circuit was open.";
        out.counter("ollama_proxy_circuit_refusals", help, number(&self.refused));
        let help = "1 for the state of the circuit to the upstream.";
        out.family("ollama_proxy_circuit_state", "gauge", "", help);
        for state in Circuit::ALL {
            out.sample("", &[("state", state.name())], u64::from(state == circuit));
        }
    }

    fn tell_load(&self, out: &mut Text) {
        let bound = |bound: &AtomicUsize| bound.load(Ordering::Relaxed) as u64;
        out.gauge("ollama_proxy_workers", "Requests that can be worked on.", bound(&self.workers));
        let help = "Requests that are worked on.";
        out.gauge("ollama_proxy_workers_busy", help, self.busy.number());
        let help = "Requests that wait for a worker.";
        out.gauge("ollama_proxy_queue_length", help, self.queued.number());
        let help = "Requests that may wait for a worker.";
        out.gauge("ollama_proxy_queue_limit", help, bound(&self.queue));
        let help = "Open connections of clients.";
        out.gauge("ollama_proxy_connections", help, self.connections.number());
        let help = "Connections of clients that were cut.";
        out.words("ollama_proxy_connections_cut", "reason", help, &self.cut.all());
        let help = "Answers that are streaming out of the upstream.";
        out.gauge("ollama_proxy_open_streams", help, self.open_streams.number());
    }
}

impl Finishes {
    fn count(&mut self, request: &Finished<'_>) {
        let route = request.route.unwrap_or(OTHER);
        let place = self.place(request);
        let status = request.status.unwrap_or(0);
        let series = (route, place, status);
        let room = self.requests.len() < MOST_SERIES || self.requests.contains_key(&series);
        let series = if room { series } else { (route, Place::Other, status / 100 * 100) };
        *self.requests.entry(series).or_default() += 1;
        self.durations.entry(route).or_default().observe(request.duration);
        let model = match place {
            Place::Known(place) => self.models.get_mut(place).unwrap_or(&mut self.others),
            Place::None | Place::Other => &mut self.others,
        };
        model.tokens.0 = model.tokens.0.saturating_add(request.tokens.0);
        model.tokens.1 = model.tokens.1.saturating_add(request.tokens.1);
        if let Some(first) = request.first.filter(|_| WRITING.contains(&route)) {
            model.first.observe(first);
        }
    }

    /// Where the model of a request is, or will be from now on.
    fn place(&mut self, request: &Finished<'_>) -> Place {
        // One model, two spellings.
        let name = request.model.strip_suffix(":latest").unwrap_or(request.model);
        if name.is_empty() {
            return Place::None;
        }
        if let Some(place) = self.places.get(name) {
            return Place::Known(*place);
        }
        let real = request.asked && request.status.is_some_and(|status| status < 400);
        let fits = name.len() <= LONGEST_NAME && name != OTHER;
        if !real || !fits || self.models.len() >= MOST_MODELS {
            return Place::Other;
        }
        let place = self.models.len();
        self.models.push(Model { name: name.to_owned(), ..Model::default() });
        self.places.insert(name.to_owned(), place);
        Place::Known(place)
    }

    fn name(&self, place: Place) -> &str {
        match place {
            Place::None => "",
            Place::Known(place) => self.models.get(place).map_or(OTHER, |model| &model.name),
            Place::Other => OTHER,
        }
    }

    fn tell(&self, out: &mut Text) {
        let help = "Requests by what became of them; status 0: the client left before.";
        out.family("ollama_proxy_requests", "counter", "", help);
        let mut requests: Vec<_> = self.requests.iter().collect();
        order::sort_by(&mut requests, Ord::cmp);
        for ((route, place, status), count) in requests {
            let status = status.to_string();
            let labels = [("route", *route), ("model", self.name(*place)), ("status", &status)];
            out.sample("_total", &labels, *count);
        }
        let name = "ollama_proxy_request_duration_seconds";
        out.family(name, "histogram", "seconds", "From a request's arrival to its end.");
        for (route, histogram) in &self.durations {
            histogram.tell(out, ("route", route));
        }
        let models = || {
            let known = self.models.iter().map(|model| (model.name.as_str(), model));
            known.chain([(OTHER, &self.others)])
        };
        let name = "ollama_proxy_time_to_first_token_seconds";
        out.family(name, "histogram", "seconds", "From a request's arrival to its first line.");
        for (name, model) in models().filter(|(_, model)| !model.first.is_empty()) {
            model.first.tell(out, ("model", name));
        }
        out.family("ollama_proxy_tokens", "counter", "", "Tokens as the upstream counted them.");
        for (name, model) in models().filter(|(_, model)| model.tokens != (0, 0)) {
            out.sample("_total", &[("model", name), ("kind", "prompt")], model.tokens.0);
            out.sample("_total", &[("model", name), ("kind", "completion")], model.tokens.1);
        }
    }
}
