//! Counts and durations of a response, as Ollama reports them.
//!
//! The upstream's own measurements come first, then the proxy's timeline. A split between prompt and
//! generation is never invented: a response in one piece has one duration. Tokens of the prompt that
//! the upstream's cache held are among the prompt's (OpenAI API reference, `prompt_tokens_details`). Each duration is at least
//! 1 ns, because clients divide by it, and some refuse a response that lacks one of the six members.

use std::time::Duration;

use crate::api::ollama::response::Metrics;
use crate::api::openai::chunk::{Timings, Usage, VllmMetrics};

/// The times of one request, all measured from its arrival.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Timeline {
    /// The request was sent upstream, on the attempt that succeeded.
    pub sent: Duration,
    /// The first piece of the response arrived.
    pub first_chunk: Option<Duration>,
    /// The last piece of the response arrived.
    pub last_chunk: Option<Duration>,
    /// The response was complete.
    pub end: Duration,
}

/// The counts and times that the upstream reports.
#[derive(Clone, Debug, Default)]
pub struct UpstreamStats {
    /// The counts, with the times of Groq and LocalAI.
    pub usage: Option<Usage>,
    /// llama.cpp's times and counts.
    pub timings: Option<Timings>,
    /// vLLM's times.
    pub latencies: Option<VllmMetrics>,
}

/// The counters of a final object.
pub fn compute(stats: &UpstreamStats, timeline: &Timeline) -> Metrics {
    let (prompt, generation) = stats.durations().unwrap_or_else(|| timeline.durations());
    Metrics {
        total_duration: to_nanos(timeline.end),
        load_duration: to_nanos(timeline.sent),
        prompt_eval_count: stats.prompt_tokens(),
        prompt_eval_cached_count: stats.cached_tokens(),
        prompt_cache_write_count: stats.cache_write_tokens(),
        reasoning_count: stats.reasoning_tokens(),
        prompt_eval_duration: to_nanos(prompt),
        eval_count: stats.completion_tokens(),
        eval_duration: to_nanos(generation),
    }
}

impl UpstreamStats {
    /// Tokens of the prompt; 0 if the upstream does not report them.
    fn prompt_tokens(&self) -> u64 {
        let counted = self.usage.as_ref().and_then(|usage| usage.prompt_tokens);
        let timed = || {
            let timings = self.timings.as_ref()?;
            Some(timings.prompt_n?.saturating_add(timings.cache_n.unwrap_or(0)))
        };
        counted.or_else(timed).unwrap_or(0)
    }

    /// Tokens of the prompt that the upstream found in its cache, if it tells.
    fn cached_tokens(&self) -> Option<u64> {
        let usage = self.usage.as_ref();
        let details = usage.and_then(|usage| usage.prompt_tokens_details.as_ref());
        details
            .and_then(|details| details.cached_tokens)
            .or_else(|| self.timings.as_ref()?.cache_n)
            .or_else(|| usage?.cache_read_input_tokens)
            .or_else(|| usage?.prompt_cache_hit_tokens)
            .or_else(|| usage?.cached_tokens)
    }

    /// Tokens of the prompt that the upstream wrote to its cache, if it tells.
    fn cache_write_tokens(&self) -> Option<u64> {
        let usage = self.usage.as_ref()?;
        let details = usage.prompt_tokens_details.as_ref();
        details
            .and_then(|details| details.cache_write_tokens.or(details.cache_creation_tokens))
            .or(usage.cache_creation_input_tokens)
    }

    /// Generated tokens, reasoning included; 0 if the upstream does not report them.
    fn completion_tokens(&self) -> u64 {
        // Clients divide the count by the duration, so both come from the same source.
        let timings = self.timings.as_ref();
        let timed = timings.and_then(|timings| timings.predicted_n);
        if let (Some(count), Some(_)) = (timed, timings.and_then(llama_durations)) {
            return count;
        }
        let Some(usage) = &self.usage else { return timed.unwrap_or(0) };
        let completion = usage.completion_tokens.or(timed).unwrap_or(0);
        match (usage.prompt_tokens, self.reasoning_tokens(), usage.total_tokens) {
            // xAI does not count reasoning in `completion_tokens`, which only the total shows.
            (Some(prompt), Some(reasoning), Some(total))
                if reasoning > 0
                    && [prompt, completion, reasoning].map(u128::from).iter().sum::<u128>()
                        == u128::from(total) =>
            {
                completion + reasoning
            }
            _ => completion,
        }
    }

    /// Generated tokens that were reasoning, if the upstream tells.
    fn reasoning_tokens(&self) -> Option<u64> {
        let usage = self.usage.as_ref()?;
        let details = usage.completion_tokens_details.as_ref();
        details.and_then(|details| details.reasoning_tokens).or(usage.reasoning_tokens)
    }

    /// Time for the prompt and for the generation, if the upstream measured both.
    fn durations(&self) -> Option<(Duration, Duration)> {
        let (usage, latencies) = (self.usage.as_ref(), self.latencies.as_ref());
        let groq = |usage: &Usage| {
            let generation = duration_from_secs(usage.completion_time);
            duration_from_secs(usage.prompt_time).zip(generation)
        };
        let localai = |usage: &Usage| {
            let generation = duration_from_millis(usage.timing_token_generation);
            duration_from_millis(usage.timing_prompt_processing).zip(generation)
        };
        let timings = self.timings.as_ref().and_then(llama_durations);
        timings
            .or_else(|| usage.and_then(groq))
            .or_else(|| latencies.and_then(vllm_durations))
            .or_else(|| usage.and_then(localai))
    }
}

impl Timeline {
    /// Time for the prompt and for the generation, by the proxy's clock.
    fn durations(&self) -> (Duration, Duration) {
        match (self.first_chunk, self.last_chunk) {
            (Some(first), Some(last)) if last > first => {
                (first.saturating_sub(self.sent), last.saturating_sub(first))
            }
            _ => (Duration::ZERO, self.end.saturating_sub(self.sent)),
        }
    }
}

fn llama_durations(timings: &Timings) -> Option<(Duration, Duration)> {
    Some((duration_from_millis(timings.prompt_ms)?, duration_from_millis(timings.predicted_ms)?))
}

/// vLLM measures the first token from the arrival, so its time includes the queue.
fn vllm_durations(latencies: &VllmMetrics) -> Option<(Duration, Duration)> {
    let queue = duration_from_millis(latencies.queue_time_ms).unwrap_or_default();
    let prompt = duration_from_millis(latencies.time_to_first_token_ms)?.saturating_sub(queue);
    Some((prompt, duration_from_millis(latencies.generation_time_ms)?))
}

fn duration_from_millis(value: Option<f64>) -> Option<Duration> {
    duration_from_secs(value.map(|millis| millis / 1000.0))
}

fn duration_from_secs(value: Option<f64>) -> Option<Duration> {
    Duration::try_from_secs_f64(value?).ok()
}

/// A duration in nanoseconds, at least 1.
pub fn to_nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MARKS: Timeline = Timeline {
        sent: Duration::from_nanos(10),
        first_chunk: Some(Duration::from_nanos(30)),
        last_chunk: Some(Duration::from_nanos(70)),
        end: Duration::from_nanos(100),
    };

    fn check(usage: &str, timings: &str, marks: Timeline, expected: [u64; 6]) {
        let usage = serde_json::from_str(usage).expect("valid");
        let timings = serde_json::from_str(timings).expect("valid");
        check_stats(&UpstreamStats { usage, timings, latencies: None }, marks, expected);
    }

    fn check_stats(stats: &UpstreamStats, marks: Timeline, expected: [u64; 6]) {
        let it = compute(stats, &marks);
        let found = [
            it.total_duration,
            it.load_duration,
            it.prompt_eval_count,
            it.prompt_eval_duration,
            it.eval_count,
            it.eval_duration,
        ];
        assert_eq!(found, expected, "{stats:?}");
    }

    #[test]
    fn our_clock_marks_split_prompt_from_answer() {
        let usage = r#"{"prompt_tokens":9,"completion_tokens":2,"total_tokens":11}"#;
        check(usage, "null", MARKS, [100, 10, 9, 20, 2, 40]);
    }

    #[test]
    fn an_answer_in_one_piece_has_one_duration() {
        let usage = r#"{"prompt_tokens":9,"completion_tokens":2}"#;
        check(
            usage,
            "null",
            Timeline { last_chunk: MARKS.first_chunk, ..MARKS },
            [100, 10, 9, 1, 2, 90],
        );
        check(
            usage,
            "null",
            Timeline { first_chunk: None, last_chunk: None, ..MARKS },
            [100, 10, 9, 1, 2, 90],
        );
    }

    #[test]
    fn the_upstream_s_own_times_come_first() {
        let timings =
            r#"{"cache_n":3,"prompt_n":4,"prompt_ms":1.5,"predicted_n":5,"predicted_ms":2}"#;
        check("null", timings, MARKS, [100, 10, 7, 1_500_000, 5, 2_000_000]);
        let usage =
            r#"{"prompt_tokens":9,"completion_tokens":2,"prompt_time":0.25,"completion_time":0.5}"#;
        check(usage, "null", MARKS, [100, 10, 9, 250_000_000, 2, 500_000_000]);
    }

    #[test]
    fn times_of_vllm_and_localai_are_milliseconds() {
        let check_vllm = |latencies: &str, expected: [u64; 6]| {
            let latencies = serde_json::from_str(latencies).expect("valid");
            check_stats(&UpstreamStats { latencies, ..UpstreamStats::default() }, MARKS, expected);
        };
        let whole = r#"{"time_to_first_token_ms":3.5,"queue_time_ms":1,"generation_time_ms":8}"#;
        check_vllm(whole, [100, 10, 0, 2_500_000, 0, 8_000_000]);
        let backwards = r#"{"time_to_first_token_ms":1,"queue_time_ms":2,"generation_time_ms":8}"#;
        check_vllm(backwards, [100, 10, 0, 1, 0, 8_000_000]);
        check_vllm(r#"{"time_to_first_token_ms":1}"#, [100, 10, 0, 20, 0, 40]);
        let localai = r#"{"prompt_tokens":9,"completion_tokens":2,
            "timing_prompt_processing":1.5,"timing_token_generation":2}"#;
        check(localai, "null", MARKS, [100, 10, 9, 1_500_000, 2, 2_000_000]);
    }

    #[test]
    fn a_count_comes_from_where_its_duration_comes() {
        let usage = r#"{"prompt_tokens":9,"completion_tokens":7}"#;
        let timings = r#"{"prompt_ms":1,"predicted_n":5,"predicted_ms":2}"#;
        check(usage, timings, MARKS, [100, 10, 9, 1_000_000, 5, 2_000_000]);
        check(usage, r#"{"predicted_n":5}"#, MARKS, [100, 10, 9, 20, 7, 40]);
    }

    #[test]
    fn nothing_known_is_nothing_counted() {
        check("null", "null", Timeline::default(), [1, 1, 0, 1, 0, 1]);
        check("{}", r#"{"prompt_ms":-1,"predicted_ms":5}"#, MARKS, [100, 10, 0, 20, 0, 40]);
    }

    #[test]
    fn reasoning_that_is_counted_apart_is_added() {
        let apart = r#"{"prompt_tokens":10,"completion_tokens":5,"total_tokens":22,
            "completion_tokens_details":{"reasoning_tokens":7}}"#;
        check(apart, "null", MARKS, [100, 10, 10, 20, 12, 40]);
        let within = r#"{"prompt_tokens":10,"completion_tokens":12,"total_tokens":22,
            "completion_tokens_details":{"reasoning_tokens":7}}"#;
        check(within, "null", MARKS, [100, 10, 10, 20, 12, 40]);
    }

    #[test]
    fn cached_tokens_have_many_names() {
        let check = |usage: &str, timings: &str, expected: (Option<u64>, Option<u64>)| {
            let usage = serde_json::from_str(usage).expect("valid");
            let timings = serde_json::from_str(timings).expect("valid");
            let it = compute(&UpstreamStats { usage, timings, latencies: None }, &MARKS);
            let found = (it.prompt_eval_cached_count, it.prompt_cache_write_count);
            assert_eq!(found, expected, "{it:?}");
        };
        check("null", "null", (None, None));
        check(r#"{"prompt_tokens":9,"prompt_tokens_details":null}"#, "null", (None, None));
        check(r#"{"prompt_tokens_details":{"cached_tokens":"x"}}"#, "null", (None, None));
        check(r#"{"prompt_tokens_details":{"cached_tokens":0}}"#, "null", (Some(0), None));
        let both = r#"{"prompt_tokens_details":{"cached_tokens":4,"cache_write_tokens":3},"prompt_cache_hit_tokens":7}"#;
        check(both, r#"{"cache_n":5}"#, (Some(4), Some(3)));
        check(r#"{"prompt_tokens_details":{"cache_creation_tokens":3}}"#, "null", (None, Some(3)));
        check(
            r#"{"prompt_cache_hit_tokens":7,"prompt_cache_miss_tokens":2}"#,
            "null",
            (Some(7), None),
        );
        check(r#"{"cached_tokens":6}"#, "null", (Some(6), None));
        check("null", r#"{"cache_n":5,"prompt_n":1}"#, (Some(5), None));
        let anthropic = r#"{"cache_read_input_tokens":2,"cache_creation_input_tokens":1}"#;
        check(anthropic, "null", (Some(2), Some(1)));
    }

    #[test]
    fn marks_out_of_order_never_underflow() {
        let marks = Timeline { sent: Duration::from_nanos(500), ..MARKS };
        check("null", "null", marks, [100, 500, 0, 1, 0, 40]);
    }
}
