//! Models whose whole responses take long, and operations of a server that rejects streams.
//!
//! Decides whether a whole response is asked for as a stream, which is then collected. Never reads the
//! clock. Invariant: where streams are rejected, none is asked for.

use std::time::{Duration, Instant};

use super::recent_models::RecentModels;

/// A whole response that takes more than this part of the timeout is long.
const LONG_PART: u32 = 3;

/// What is known of all models.
#[derive(Debug)]
pub(super) struct LongAnswers {
    slow: RecentModels,
    /// Operations, each without a model and with each model that showed it.
    no_streams: RecentModels,
}

impl LongAnswers {
    /// Nothing; what is learnt is known for `ttl`.
    pub(super) fn new(ttl: Duration) -> Self {
        Self { slow: RecentModels::new(ttl), no_streams: RecentModels::new(ttl) }
    }

    /// Whether a whole response of a model is to be asked for as a stream.
    pub(super) fn wants_stream(&self, path: &'static str, model: &str, now: Instant) -> bool {
        self.slow.contains(path, model, now) && !self.rejects_streams(path, now)
    }

    /// Whether the server rejects streams of an operation.
    pub(super) fn rejects_streams(&self, path: &'static str, now: Instant) -> bool {
        self.no_streams.contains(path, "", now)
    }

    /// Notes how long a whole response took; `None` if it did not come in time.
    pub(super) fn record(
        &self,
        (path, model): (&'static str, &str),
        (took, timeout): (Option<Duration>, Duration),
        now: Instant,
    ) {
        if took.is_none_or(|took| took > timeout / LONG_PART) {
            self.slow.insert(path, model, now);
        }
    }

    /// Whether the server rejected a stream of this model.
    pub(super) fn rejects_stream_of(&self, path: &'static str, model: &str, now: Instant) -> bool {
        self.no_streams.contains(path, model, now)
    }

    /// Notes that the server rejects streams of an operation, as one of this model shows.
    pub(super) fn record_no_streams(&self, path: &'static str, model: &str, now: Instant) {
        self.no_streams.insert(path, "", now);
        self.no_streams.insert(path, model, now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATH: &str = "chat/completions";
    const TTL: Duration = Duration::from_secs(3600);
    const TIMEOUT: Duration = Duration::from_secs(300);

    #[test]
    fn a_third_of_the_timeout_is_long() {
        let now = Instant::now();
        let check = |took: Option<u64>, expected: bool| {
            let answers = LongAnswers::new(TTL);
            answers.record((PATH, "m"), (took.map(Duration::from_secs), TIMEOUT), now);
            assert_eq!(answers.wants_stream(PATH, "m", now), expected, "{took:?}");
            assert!(!answers.wants_stream(PATH, "n", now) && !answers.wants_stream("x", "m", now));
        };
        check(Some(1), false);
        check(Some(100), false);
        check(Some(101), true);
        check(None, true);
    }

    #[test]
    fn no_stream_is_wanted_where_streams_are_rejected() {
        let (answers, now) = (LongAnswers::new(TTL), Instant::now());
        answers.record((PATH, "m"), (None, TIMEOUT), now);
        answers.record_no_streams(PATH, "x", now);
        assert!(!answers.wants_stream(PATH, "m", now) && answers.rejects_streams(PATH, now));
        assert!(!answers.rejects_streams("completions", now));
        assert!(
            answers.rejects_stream_of(PATH, "x", now) && !answers.rejects_stream_of(PATH, "m", now)
        );
    }
}
