//! The counters of the upstreams, each with its name as the label `upstream`.
//!
//! Each upstream's client holds its [`UpstreamMetrics`], so that counting looks nothing up. Invariant: the
//! counters of a name only grow, also over reloads; beyond [`MAX_UPSTREAMS`] names those of upstreams that
//! a reload removed are added up under the name `other`.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::condition::Condition;
use super::openmetrics::Encoder;
use super::{CounterVec, Gauge, OTHER};
use crate::observe::circuit_state::CircuitState;
use crate::observe::lock::lock;

/// The most names whose counters are kept, unless the configuration has more upstreams.
pub const MAX_UPSTREAMS: usize = 100;

/// The counters of one upstream.
#[derive(Debug, Default)]
pub struct UpstreamMetrics {
    name: Arc<str>,
    attempts: AtomicU64,
    retries: AtomicU64,
    failovers: AtomicU64,
    circuit_refusals: AtomicU64,
    /// Responses being streamed.
    pub open_streams: Gauge,
    /// Requests that were changed after a rejection, by the kind of change.
    pub repairs: CounterVec,
    /// Failures by their kind.
    pub failures: CounterVec,
    /// How it does, for the status page.
    pub condition: Condition,
}

/// What only an upstream itself knows at the moment.
#[derive(Clone, Copy, Debug)]
pub struct UpstreamState<'a> {
    /// Its name.
    pub name: &'a str,
    /// The state of its circuit breaker.
    pub circuit: CircuitState,
    /// Requests that it is working on.
    pub in_flight: usize,
    /// The age of its model list, if it has one.
    pub list_age: Option<Duration>,
}

impl UpstreamMetrics {
    fn new(name: &str) -> Arc<Self> {
        Arc::new(Self { name: name.into(), ..Self::default() })
    }

    /// The name of the upstream.
    pub fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// Counts a request sent to the upstream.
    pub fn count_attempt(&self, is_retry: bool) {
        self.attempts.fetch_add(1, Ordering::Relaxed);
        self.retries.fetch_add(u64::from(is_retry), Ordering::Relaxed);
    }

    /// Counts a request that failed here or passed this upstream over, where its model has several.
    pub fn count_failover(&self) {
        self.failovers.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a request that was not sent because the circuit breaker is open.
    pub fn count_circuit_refusal(&self) {
        self.circuit_refusals.fetch_add(1, Ordering::Relaxed);
    }

    fn counters(&self) -> [&AtomicU64; 4] {
        [&self.attempts, &self.retries, &self.failovers, &self.circuit_refusals]
    }

    /// Adds the counters of another upstream to these.
    fn absorb(&self, other: &Self) {
        for (own, others) in self.counters().into_iter().zip(other.counters()) {
            own.fetch_add(others.load(Ordering::Relaxed), Ordering::Relaxed);
        }
        self.repairs.absorb(&other.repairs);
        self.failures.absorb(&other.failures);
    }
}

/// The counters of all upstreams, in the order in which their names were first seen.
#[derive(Debug, Default)]
pub(super) struct UpstreamRegistry(Mutex<Vec<Arc<UpstreamMetrics>>>);

impl UpstreamRegistry {
    /// The counters of this name.
    pub(super) fn get(&self, name: &str) -> Arc<UpstreamMetrics> {
        let mut known = lock(&self.0);
        let found = known.iter().find(|upstream| &*upstream.name == name).cloned();
        let found = found.unwrap_or_else(|| {
            known.push(UpstreamMetrics::new(name));
            known[known.len() - 1].clone()
        });
        while known.len() > MAX_UPSTREAMS {
            // Nobody else holds the counters of an upstream that is gone.
            let is_gone =
                |it: &Arc<UpstreamMetrics>| Arc::strong_count(it) == 1 && &*it.name != OTHER;
            let Some(place) = known.iter().position(is_gone) else { break };
            let gone = known.remove(place);
            let other = known.iter().find(|it| &*it.name == OTHER).cloned();
            other
                .unwrap_or_else(|| {
                    known.push(UpstreamMetrics::new(OTHER));
                    known[known.len() - 1].clone()
                })
                .absorb(&gone);
        }
        found
    }

    /// Requests sent to all of them, and their failures.
    pub(super) fn totals(&self) -> (u64, u64) {
        lock(&self.0).iter().fold((0, 0), |(attempts, failures), upstream| {
            let sent = upstream.attempts.load(Ordering::Relaxed);
            (attempts + sent, failures + upstream.failures.total())
        })
    }

    /// Writes the counters of all, and the states of those that are in use.
    pub(super) fn write(&self, out: &mut Encoder, states: &[UpstreamState<'_>]) {
        let known = lock(&self.0).clone();
        let families = [
            ("ollama_proxy_upstream_attempts", "Requests sent to the upstream, retries included."),
            ("ollama_proxy_upstream_retries", "Requests to the upstream that were retries."),
            (
                "ollama_proxy_upstream_failovers",
                "Requests that failed here or passed this upstream over, where their model has several.",
            ),
            (
                "ollama_proxy_circuit_refusals",
                "Requests not sent because the circuit breaker was open.",
            ),
        ];
        for (place, (name, help)) in families.into_iter().enumerate() {
            out.begin_family(name, "counter", "", help);
            for upstream in &known {
                let count = upstream.counters()[place].load(Ordering::Relaxed);
                out.write_sample("_total", &[label(&upstream.name)], count);
            }
        }
        let help = "Upstream failures, including in the middle of a response.";
        out.begin_family("ollama_proxy_upstream_failures", "counter", "", help);
        known.iter().for_each(|it| it.failures.write_samples(out, &[label(&it.name)], "kind"));
        let help = "Changes to requests that the upstream had rejected.";
        out.begin_family("ollama_proxy_repairs", "counter", "", help);
        known.iter().for_each(|it| it.repairs.write_samples(out, &[label(&it.name)], "kind"));
        let is_current = |name: &str| states.iter().any(|state| state.name == name);
        let help = "Upstream responses being streamed.";
        out.begin_family("ollama_proxy_open_streams", "gauge", "", help);
        for upstream in &known {
            let open = upstream.open_streams.get();
            // Streams of an upstream that a reload removed run to their end.
            if open > 0 || is_current(&upstream.name) {
                out.write_sample("", &[label(&upstream.name)], open);
            }
        }
        write_states(out, states);
    }
}

fn write_states(out: &mut Encoder, states: &[UpstreamState<'_>]) {
    let help = "State of the circuit breaker: 1 for the current state, 0 for the others.";
    out.begin_family("ollama_proxy_circuit_state", "gauge", "", help);
    for upstream in states {
        for state in CircuitState::ALL {
            let labels = [label(upstream.name), ("state", state.name())];
            out.write_sample("", &labels, u64::from(state == upstream.circuit));
        }
    }
    let help = "Requests that the upstream is working on.";
    out.begin_family("ollama_proxy_upstream_in_flight", "gauge", "", help);
    for upstream in states {
        out.write_sample("", &[label(upstream.name)], upstream.in_flight);
    }
    let help = "Age of the upstream's model list.";
    out.begin_family("ollama_proxy_model_list_age_seconds", "gauge", "seconds", help);
    for upstream in states {
        if let Some(age) = upstream.list_age {
            out.write_sample("", &[label(upstream.name)], age.as_secs());
        }
    }
}

fn label(name: &str) -> (&str, &str) {
    ("upstream", name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(registry: &UpstreamRegistry, states: &[UpstreamState<'_>]) -> String {
        let mut out = Encoder::default();
        registry.write(&mut out, states);
        out.finish()
    }

    #[track_caller]
    fn has(text: &str, line: &str) {
        assert!(text.lines().any(|it| it == line), "{line} is not in\n{text}");
    }

    #[test]
    fn each_upstream_counts_under_its_name_whoever_holds_its_counters() {
        let registry = UpstreamRegistry::default();
        let lab = registry.get("lab");
        lab.count_attempt(false);
        registry.get("lab").count_attempt(true);
        registry.get("cellar").count_circuit_refusal();
        lab.count_failover();
        lab.failures.add("connect", 2);
        lab.repairs.add("parameter_removed", 1);
        lab.open_streams.inc();
        let state = UpstreamState {
            name: "cellar",
            circuit: CircuitState::Open,
            in_flight: 3,
            list_age: Some(Duration::from_millis(7900)),
        };
        let text = write(&registry, &[state]);
        for line in [
            "ollama_proxy_upstream_attempts_total{upstream=\"lab\"} 2",
            "ollama_proxy_upstream_attempts_total{upstream=\"cellar\"} 0",
            "ollama_proxy_upstream_retries_total{upstream=\"lab\"} 1",
            "ollama_proxy_upstream_failovers_total{upstream=\"lab\"} 1",
            "ollama_proxy_circuit_refusals_total{upstream=\"cellar\"} 1",
            "ollama_proxy_upstream_failures_total{upstream=\"lab\",kind=\"connect\"} 2",
            "ollama_proxy_repairs_total{upstream=\"lab\",kind=\"parameter_removed\"} 1",
            "ollama_proxy_open_streams{upstream=\"lab\"} 1",
            "ollama_proxy_open_streams{upstream=\"cellar\"} 0",
            "ollama_proxy_circuit_state{upstream=\"cellar\",state=\"open\"} 1",
            "ollama_proxy_upstream_in_flight{upstream=\"cellar\"} 3",
            "ollama_proxy_model_list_age_seconds{upstream=\"cellar\"} 7",
        ] {
            has(&text, line);
        }
        assert_eq!(registry.totals(), (2, 2));
        lab.open_streams.dec();
        let text = write(&registry, &[]);
        assert!(!text.contains("open_streams{") && !text.contains("circuit_state{"), "{text}");
        has(&text, "ollama_proxy_upstream_attempts_total{upstream=\"lab\"} 2");
    }

    #[test]
    fn upstreams_that_come_and_go_end_up_under_one_name() {
        let registry = UpstreamRegistry::default();
        let kept = registry.get("kept");
        kept.count_attempt(false);
        for number in 0..1000 {
            let upstream = registry.get(&format!("gone-{number}"));
            upstream.count_attempt(true);
            upstream.failures.add("connect", 1);
        }
        assert_eq!(lock(&registry.0).len(), MAX_UPSTREAMS);
        assert_eq!(registry.totals(), (1001, 1000), "and yet all are counted");
        let text = write(&registry, &[]);
        has(&text, "ollama_proxy_upstream_attempts_total{upstream=\"kept\"} 1");
        has(&text, "ollama_proxy_upstream_retries_total{upstream=\"other\"} 902");
        let held: Vec<_> = (0..300).map(|number| registry.get(&format!("here-{number}"))).collect();
        held.iter().for_each(|upstream| upstream.count_attempt(false));
        assert_eq!(registry.totals().0, 1301, "all that are in use have a name of their own");
        assert!(write(&registry, &[]).contains("{upstream=\"here-299\"} 1"));
    }
}
