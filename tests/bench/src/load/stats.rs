//! What was counted, and the report of it. Bounded memory.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::options::Options;
use crate::histogram::Histogram;
use crate::system::SECOND;
use crate::tokens::Api;

/// What went wrong with a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// No connection.
    Connect,
    /// The connection ended before the answer did.
    Closed,
    /// Another status than 200.
    Status(u16),
    /// The answer is not HTTP as we know it.
    Framing,
    /// The answer ended without all that belongs to it, or did not end in time.
    Incomplete,
    /// Tokens are doubled, out of order, too many, or not what was sent.
    Order,
}

impl Kind {
    fn name(self) -> String {
        match self {
            Self::Connect => "connect".into(),
            Self::Closed => "closed".into(),
            Self::Status(status) => format!("status_{status}"),
            Self::Framing => "framing".into(),
            Self::Incomplete => "incomplete".into(),
            Self::Order => "order".into(),
        }
    }
}

/// All counters of a run.
#[derive(Default)]
pub struct Stats {
    /// Answers that were whole and right.
    pub requests: u64,
    /// What went wrong, how often.
    pub errors: BTreeMap<Kind, u64>,
    /// Content tokens that came.
    pub tokens: u64,
    /// Content tokens that did not.
    pub lost: u64,
    /// Content tokens that were under way too long.
    pub late: u64,
    /// Bytes read.
    pub bytes: u64,
    /// To the first token.
    pub ttft: Histogram,
    /// Between tokens.
    pub gap: Histogram,
    /// From the upstream to here.
    pub transit: Histogram,
    /// To the end.
    pub total: Histogram,
}

impl Stats {
    /// Counts what went wrong.
    pub fn error(&mut self, kind: Kind, count: u64) {
        if count > 0 {
            *self.errors.entry(kind).or_default() += count;
        }
    }

    /// The report of a run of so many nanoseconds.
    pub fn report(&self, options: &Options, elapsed: u64, cpu_seconds: f64) -> Value {
        let seconds = elapsed as f64 / SECOND as f64;
        let errors: BTreeMap<String, u64> =
            self.errors.iter().map(|(kind, count)| (kind.name(), *count)).collect();
        json!({
            "api": match options.api { Api::Ollama => "ollama", Api::OpenAi => "openai" },
            "model": options.model,
            "connections": options.connections,
            "seconds": round(seconds),
            "requests": self.requests,
            "errors": errors,
            "rps": round(self.requests as f64 / seconds.max(1e-9)),
            "tokens": self.tokens,
            "lost": self.lost,
            "late": self.late,
            "bytes": self.bytes,
            "ttft_ms": percentiles(&self.ttft),
            "gap_ms": percentiles(&self.gap),
            "transit_ms": percentiles(&self.transit),
            "total_ms": percentiles(&self.total),
            "cpu_seconds": round(cpu_seconds),
        })
    }
}

/// In milliseconds; null where nothing was counted.
fn percentiles(histogram: &Histogram) -> Value {
    let ms = |value: Option<u64>| value.map(|it| round(it as f64 / 1e6));
    json!({
        "p50": ms(histogram.percentile(0.5)),
        "p90": ms(histogram.percentile(0.9)),
        "p99": ms(histogram.percentile(0.99)),
        "max": ms(histogram.max()),
    })
}

/// To six places, which is a nanosecond of a millisecond.
fn round(value: f64) -> f64 {
    (value * 1e6).round() / 1e6
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_report_has_what_was_counted() {
        let mut stats = Stats { requests: 10, tokens: 3, ..Stats::default() };
        stats.error(Kind::Status(503), 2);
        stats.error(Kind::Closed, 0);
        stats.ttft.record(1_500_000);
        let report = stats.report(&Options::default(), 2 * SECOND, 0.25);
        assert_eq!((&report["rps"], &report["seconds"]), (&json!(5.0), &json!(2.0)));
        assert_eq!(report["errors"], json!({"status_503": 2}));
        assert_eq!(report["ttft_ms"]["max"], 1.5);
        assert_eq!(report["gap_ms"]["p50"], Value::Null);
    }
}
