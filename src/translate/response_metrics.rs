//! Counts and durations, told honestly (openai-wire.md 9, ollama-api.md 6.1).
//!
//! The upstream's own measurements come first, then our clock marks. A split between prompt and
//! answer is never invented: an answer that came in one piece has one duration. Each duration is at
//! least 1 ns, because clients divide by it and some refuse an answer that lacks one of the six.

use std::time::Duration;

use crate::api::ollama::response::Metrics;
use crate::api::openai::chunk::{Timings, Usage, VllmMetrics};

/// When things happened, all measured from the moment the request was there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Timeline {
    /// The upstream had been sent the request, on the attempt that succeeded.
    pub sent: Duration,
    /// The first piece of the answer came.
    pub first_chunk: Option<Duration>,
    /// The last piece of the answer came.
    pub last_chunk: Option<Duration>,
    /// The answer was complete.
    pub end: Duration,
}

/// What the upstream told of counts and times.
#[derive(Clone, Copy, Debug, Default)]
pub struct UpstreamStats<'a> {
    /// The counts, with the times of Groq and LocalAI.
    pub usage: Option<&'a Usage>,
    /// llama.cpp's times and counts.
    pub timings: Option<&'a Timings>,
    /// vLLM's times.
    pub latencies: Option<&'a VllmMetrics>,
}

/// The counters of a final object.
#[must_use]
pub fn compute(stats: UpstreamStats<'_>, timeline: &Timeline) -> Metrics {
    let measured = stats.durations();
    let (prompt, answer) = measured.unwrap_or_else(|| timeline.durations());
    Metrics {
        total_duration: to_nanos(timeline.end),
        load_duration: to_nanos(timeline.sent),
        prompt_eval_count: stats.prompt_tokens(),
        prompt_eval_duration: to_nanos(prompt),
        eval_count: stats.completion_tokens(),
        eval_duration: to_nanos(answer),
    }
}

impl UpstreamStats<'_> {
    /// Tokens of the prompt; 0 when the upstream says nothing, which is no guess.
    fn prompt_tokens(&self) -> u64 {
        let counted = self.usage.and_then(|usage| usage.prompt_tokens);
        let timed = || {
            let timings = self.timings?;
            Some(timings.prompt_n?.saturating_add(timings.cache_n.unwrap_or(0)))
        };
        counted.or_else(timed).unwrap_or(0)
    }

    /// Tokens of the answer, reasoning included; 0 when the upstream says nothing.
    fn completion_tokens(&self) -> u64 {
        // A count and a duration that are divided by each other come from one source.
        let timed = self.timings.and_then(|timings| timings.predicted_n);
        if let (Some(count), Some(_)) = (timed, self.timings.and_then(llama_durations)) {
            return count;
        }
        let Some(usage) = self.usage else { return timed.unwrap_or(0) };
        let completion = usage.completion_tokens.or(timed).unwrap_or(0);
        let reasoning = usage.completion_tokens_details.as_ref().and_then(|it| it.reasoning_tokens);
        match (usage.prompt_tokens, reasoning, usage.total_tokens) {
            // xAI counts reasoning apart, and only the total gives it away (openai-wire.md 4.10).
            (Some(prompt), Some(reasoning), Some(total))
                if reasoning > 0
                    && prompt
                        .checked_add(completion)
                        .and_then(|sum| sum.checked_add(reasoning))
                        == Some(total) =>
            {
                completion + reasoning
            }
            _ => completion,
        }
    }

    /// Time for the prompt and time for the answer, where the upstream measured both.
    fn durations(&self) -> Option<(Duration, Duration)> {
        let timings = self.timings.and_then(llama_durations);
        timings
            .or_else(|| self.usage.and_then(groq_durations))
            .or_else(|| self.latencies.and_then(vllm_durations))
            .or_else(|| self.usage.and_then(localai_durations))
    }
}

impl Timeline {
    /// Time for the prompt and time for the answer, by our own clock.
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

fn groq_durations(usage: &Usage) -> Option<(Duration, Duration)> {
    Some((duration_from_secs(usage.prompt_time)?, duration_from_secs(usage.completion_time)?))
}

/// The first token comes after the queue and the prompt.
fn vllm_durations(latencies: &VllmMetrics) -> Option<(Duration, Duration)> {
    let queue = duration_from_millis(latencies.queue_time_ms).unwrap_or_default();
    let prompt = duration_from_millis(latencies.time_to_first_token_ms)?.saturating_sub(queue);
    Some((prompt, duration_from_millis(latencies.generation_time_ms)?))
}

fn localai_durations(usage: &Usage) -> Option<(Duration, Duration)> {
    Some((
        duration_from_millis(usage.timing_prompt_processing)?,
        duration_from_millis(usage.timing_token_generation)?,
    ))
}

fn duration_from_millis(value: Option<f64>) -> Option<Duration> {
    duration_from_secs(value.map(|millis| millis / 1000.0))
}

fn duration_from_secs(value: Option<f64>) -> Option<Duration> {
    Duration::try_from_secs_f64(value?).ok()
}

/// A duration as Ollama writes it: nanoseconds, and never none.
#[must_use]
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
        let usage: Option<Usage> = serde_json::from_str(usage).expect("valid");
        let timings: Option<Timings> = serde_json::from_str(timings).expect("valid");
        let told =
            UpstreamStats { usage: usage.as_ref(), timings: timings.as_ref(), latencies: None };
        check_told(told, marks, expected);
    }

    fn check_told(told: UpstreamStats<'_>, marks: Timeline, expected: [u64; 6]) {
        let it = compute(told, &marks);
        let found = [
            it.total_duration,
            it.load_duration,
            it.prompt_eval_count,
            it.prompt_eval_duration,
            it.eval_count,
            it.eval_duration,
        ];
        assert_eq!(found, expected, "{told:?}");
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
            let latencies: VllmMetrics = serde_json::from_str(latencies).expect("valid");
            check_told(
                UpstreamStats { latencies: Some(&latencies), ..UpstreamStats::default() },
                MARKS,
                expected,
            );
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
    fn marks_out_of_order_never_underflow() {
        let marks = Timeline { sent: Duration::from_nanos(500), ..MARKS };
        check("null", "null", marks, [100, 500, 0, 1, 0, 40]);
    }
}
