//! A histogram of durations with fixed buckets.
//!
//! Pure. Invariant: all histograms have the same bounds.

use std::time::Duration;

use super::openmetrics::Encoder;

/// Upper bounds of the buckets, in seconds: from responses without an upstream to client timeouts.
const BOUNDS: [f64; 16] = [
    0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0,
];

/// Counts of durations by bucket.
#[derive(Clone, Debug, Default)]
pub(super) struct Histogram {
    /// Each duration counts in one bucket, the last of which has no upper bound.
    buckets: [u64; BOUNDS.len() + 1],
    sum: f64,
}

impl Histogram {
    pub(super) fn observe(&mut self, duration: Duration) {
        let seconds = duration.as_secs_f64();
        let bucket = BOUNDS.iter().position(|bound| seconds <= *bound);
        self.buckets[bucket.unwrap_or(BOUNDS.len())] += 1;
        self.sum += seconds;
    }

    pub(super) fn is_empty(&self) -> bool {
        self.buckets.iter().all(|count| *count == 0)
    }

    /// Writes the samples of this histogram into the current family, told apart by `label`.
    pub(super) fn write(&self, out: &mut Encoder, label: (&str, &str)) {
        let mut total = 0;
        for (place, count) in self.buckets.iter().enumerate() {
            total += count;
            let bound = BOUNDS.get(place).map_or_else(|| "+Inf".to_owned(), |it| format!("{it:?}"));
            out.write_sample("_bucket", &[label, ("le", &bound)], total);
        }
        out.write_sample("_sum", &[label], self.sum);
        out.write_sample("_count", &[label], total);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_counts_in_its_bucket_and_all_above() {
        let mut histogram = Histogram::default();
        assert!(histogram.is_empty());
        for millis in [5, 6, 1000, 700_000] {
            histogram.observe(Duration::from_millis(millis));
        }
        let mut out = Encoder::default();
        out.begin_family("d", "histogram", "", "Of durations.");
        histogram.write(&mut out, ("route", "/"));
        let text = out.finish();
        for line in [
            "d_bucket{route=\"/\",le=\"0.005\"} 1",
            "d_bucket{route=\"/\",le=\"0.01\"} 2",
            "d_bucket{route=\"/\",le=\"0.5\"} 2",
            "d_bucket{route=\"/\",le=\"1.0\"} 3",
            "d_bucket{route=\"/\",le=\"600.0\"} 3",
            "d_bucket{route=\"/\",le=\"+Inf\"} 4",
            "d_sum{route=\"/\"} 701.011",
            "d_count{route=\"/\"} 4",
        ] {
            assert!(text.contains(&format!("{line}\n")), "{line} is not in {text}");
        }
    }
}
