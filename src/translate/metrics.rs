//! Counts and durations, told honestly (openai-wire.md 9, ollama-api.md 6.1).
//!
//! The upstream's own measurements come first, then our clock marks. A split between prompt and
//! answer is never invented: an answer that came in one piece has one duration. Each duration is at
//! least 1 ns, because clients divide by it and some refuse an answer that lacks one of the six.

use std::time::Duration;

use crate::ollama::answer::Metrics;
use crate::openai::answer::{Timings, Usage};

/// When things happened, all measured from the moment the request was there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Marks {
    /// The upstream had been sent the request, on the attempt that succeeded.
    pub sent: Duration,
    /// The first piece of the answer came.
    pub first: Option<Duration>,
    /// The last piece of the answer came.
    pub last: Option<Duration>,
    /// The answer was complete.
    pub end: Duration,
}

/// The counters of a final object.
#[must_use]
pub fn metrics(usage: Option<&Usage>, timings: Option<&Timings>, marks: &Marks) -> Metrics {
    let (prompt, answer) = durations(usage, timings, marks);
    Metrics {
        total_duration: nanos(marks.end),
        load_duration: nanos(marks.sent),
        prompt_eval_count: prompt_tokens(usage, timings),
        prompt_eval_duration: nanos(prompt),
        eval_count: answer_tokens(usage, timings),
        eval_duration: nanos(answer),
    }
}

/// Tokens of the prompt; 0 when the upstream says nothing, which is no guess.
fn prompt_tokens(usage: Option<&Usage>, timings: Option<&Timings>) -> u64 {
    let counted = usage.and_then(|usage| usage.prompt_tokens);
    let timed = || {
        let timings = timings?;
        Some(timings.prompt_n?.saturating_add(timings.cache_n.unwrap_or(0)))
    };
    counted.or_else(timed).unwrap_or(0)
}

/// Tokens of the answer, reasoning included; 0 when the upstream says nothing.
fn answer_tokens(usage: Option<&Usage>, timings: Option<&Timings>) -> u64 {
    let Some(usage) = usage else {
        return timings.and_then(|timings| timings.predicted_n).unwrap_or(0);
    };
    let completion = usage
        .completion_tokens
        .or_else(|| timings.and_then(|timings| timings.predicted_n))
        .unwrap_or(0);
    let reasoning = usage.completion_tokens_details.as_ref().and_then(|it| it.reasoning_tokens);
    match (usage.prompt_tokens, reasoning, usage.total_tokens) {
        // xAI counts reasoning apart, and only the total gives it away (openai-wire.md 4.10).
        (Some(prompt), Some(reasoning), Some(total))
            if reasoning > 0
                && prompt.checked_add(completion).and_then(|sum| sum.checked_add(reasoning))
                    == Some(total) =>
        {
            completion + reasoning
        }
        _ => completion,
    }
}

/// Time for the prompt and time for the answer.
fn durations(
    usage: Option<&Usage>,
    timings: Option<&Timings>,
    marks: &Marks,
) -> (Duration, Duration) {
    let from_llama = timings
        .and_then(|timings| Some((millis(timings.prompt_ms)?, millis(timings.predicted_ms)?)));
    let from_groq = usage
        .and_then(|usage| Some((seconds(usage.prompt_time)?, seconds(usage.completion_time)?)));
    from_llama.or(from_groq).unwrap_or_else(|| match (marks.first, marks.last) {
        (Some(first), Some(last)) if last > first => {
            (first.saturating_sub(marks.sent), last.saturating_sub(first))
        }
        _ => (Duration::ZERO, marks.end.saturating_sub(marks.sent)),
    })
}

fn millis(value: Option<f64>) -> Option<Duration> {
    seconds(value.map(|millis| millis / 1000.0))
}

fn seconds(value: Option<f64>) -> Option<Duration> {
    Duration::try_from_secs_f64(value?).ok()
}

/// A duration as Ollama writes it: nanoseconds, and never none.
#[must_use]
pub fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MARKS: Marks = Marks {
        sent: Duration::from_nanos(10),
        first: Some(Duration::from_nanos(30)),
        last: Some(Duration::from_nanos(70)),
        end: Duration::from_nanos(100),
    };

    fn check(usage: &str, timings: &str, marks: Marks, expected: [u64; 6]) {
        let usage: Option<Usage> = serde_json::from_str(usage).expect("valid");
        let timings: Option<Timings> = serde_json::from_str(timings).expect("valid");
        let it = metrics(usage.as_ref(), timings.as_ref(), &marks);
        let found = [
            it.total_duration,
            it.load_duration,
            it.prompt_eval_count,
            it.prompt_eval_duration,
            it.eval_count,
            it.eval_duration,
        ];
        assert_eq!(found, expected, "{usage:?} {timings:?}");
    }

    #[test]
    fn our_clock_marks_split_prompt_from_answer() {
        let usage = r#"{"prompt_tokens":9,"completion_tokens":2,"total_tokens":11}"#;
        check(usage, "null", MARKS, [100, 10, 9, 20, 2, 40]);
    }

    #[test]
    fn an_answer_in_one_piece_has_one_duration() {
        let usage = r#"{"prompt_tokens":9,"completion_tokens":2}"#;
        check(usage, "null", Marks { last: MARKS.first, ..MARKS }, [100, 10, 9, 1, 2, 90]);
        check(usage, "null", Marks { first: None, last: None, ..MARKS }, [100, 10, 9, 1, 2, 90]);
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
    fn nothing_known_is_nothing_counted() {
        check("null", "null", Marks::default(), [1, 1, 0, 1, 0, 1]);
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
        let marks = Marks { sent: Duration::from_nanos(500), ..MARKS };
        check("null", "null", marks, [100, 500, 0, 1, 0, 40]);
    }
}
