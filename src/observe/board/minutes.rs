//! The last hour by the minute.
//!
//! Minutes count from the start of the server. Invariant: a minute without requests is all zeros, also after
//! a silence of any length.

use std::time::{Duration, Instant};

use super::{CLIENT_LEFT, Recent};

/// How many minutes are kept.
const MINUTES: usize = 60;

/// What ended in one minute.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Minute {
    /// Requests.
    pub requests: u64,
    /// Those that ended in an error.
    pub errors: u64,
    /// Streams with a first token, and the sum of the times to it.
    first_tokens: (u64, Duration),
    /// Tokens of answers, and the time in which they were written.
    tokens: (u64, Duration),
}

impl Minute {
    /// The mean time to the first token of a stream.
    pub fn first_token(&self) -> Option<Duration> {
        let (count, sum) = self.first_tokens;
        sum.checked_div(u32::try_from(count).ok()?)
    }

    /// The tokens of a second, as an answer has them while it is written.
    pub fn tokens_per_second(&self) -> Option<f64> {
        let (count, time) = self.tokens;
        #[allow(clippy::cast_precision_loss)] // A rate, not a count.
        let rate = count as f64 / time.as_secs_f64();
        (count > 0 && !time.is_zero()).then_some(rate)
    }

    fn add(&mut self, request: &Recent) {
        self.requests += 1;
        self.errors += u64::from(request.error.is_some_and(|it| it != CLIENT_LEFT));
        if let Some(first) = request.first_token {
            self.first_tokens.0 += 1;
            self.first_tokens.1 = self.first_tokens.1.saturating_add(first);
        }
        let before = request.first_token.unwrap_or_default();
        let time = request.duration.saturating_sub(before);
        if request.tokens.1 > 0 && !time.is_zero() {
            self.tokens.0 = self.tokens.0.saturating_add(request.tokens.1);
            self.tokens.1 = self.tokens.1.saturating_add(time);
        }
    }
}

/// A ring of minutes.
#[derive(Debug)]
pub(super) struct Minutes {
    started_at: Instant,
    ring: [Minute; MINUTES],
    /// The number of the latest minute that is in the ring.
    latest: u64,
}

impl Minutes {
    pub(super) fn new(started_at: Instant) -> Self {
        Self { started_at, ring: [Minute::default(); MINUTES], latest: 0 }
    }

    /// Notes a request that ended now.
    pub(super) fn add(&mut self, request: &Recent, now: Instant) {
        self.advance(now);
        self.ring[place(self.latest)].add(request);
    }

    /// The minutes, the oldest first.
    pub(super) fn last_hour(&mut self, now: Instant) -> Vec<Minute> {
        self.advance(now);
        (1..=MINUTES as u64).map(|it| self.ring[place(self.latest + it)]).collect()
    }

    /// Empties the minutes that have begun since.
    fn advance(&mut self, now: Instant) {
        let current = now.saturating_duration_since(self.started_at).as_secs() / 60;
        let begun = current.saturating_sub(self.latest).min(MINUTES as u64);
        (0..begun).for_each(|back| self.ring[place(current - back)] = Minute::default());
        self.latest = self.latest.max(current);
    }
}

#[allow(clippy::cast_possible_truncation)] // Below 60.
fn place(minute: u64) -> usize {
    (minute % MINUTES as u64) as usize
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;

    fn request(first: Option<u64>, milliseconds: u64, tokens: u64) -> Recent {
        Recent {
            id: "r".into(),
            time: SystemTime::UNIX_EPOCH,
            route: "/api/chat",
            model: "m".into(),
            upstream: "u".into(),
            status: 200,
            attempts: 1,
            first_token: first.map(Duration::from_millis),
            duration: Duration::from_millis(milliseconds),
            tokens: (1, tokens),
            error: first.is_none().then_some("busy"),
            key: "".into(),
        }
    }

    #[test]
    fn a_request_counts_in_the_minute_of_its_end_for_an_hour() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut minutes = Minutes::new(start);
        let counts = |minutes: &mut Minutes, seconds| {
            let hour = minutes.last_hour(at(seconds));
            assert_eq!(hour.len(), 60);
            let counts = hour.iter().enumerate().filter(|(_, minute)| minute.requests > 0);
            counts.map(|(place, minute)| (place, minute.requests)).collect::<Vec<_>>()
        };
        minutes.add(&request(None, 1, 0), at(0));
        minutes.add(&request(None, 1, 0), at(59));
        minutes.add(&request(None, 1, 0), at(60));
        assert_eq!(counts(&mut minutes, 60), [(58, 2), (59, 1)]);
        assert_eq!(counts(&mut minutes, 59 * 60), [(0, 2), (1, 1)]);
        assert_eq!(counts(&mut minutes, 60 * 60), [(0, 1)]);
        minutes.add(&request(None, 1, 0), at(100 * 60));
        assert_eq!(counts(&mut minutes, 100 * 60), [(59, 1)]);
        // A clock of another thread may be a moment behind.
        minutes.add(&request(None, 1, 0), at(99 * 60));
        assert_eq!(counts(&mut minutes, 100 * 60), [(59, 2)]);
        assert_eq!(counts(&mut minutes, 1_000_000), []);
    }

    #[test]
    fn times_are_means_and_rates_are_of_the_time_of_writing() {
        let mut minute = Minute::default();
        assert_eq!((minute.first_token(), minute.tokens_per_second()), (None, None));
        minute.add(&request(Some(100), 1100, 20));
        minute.add(&request(Some(300), 1300, 40));
        minute.add(&request(None, 2000, 60));
        assert_eq!((minute.requests, minute.errors), (3, 1));
        assert_eq!(minute.first_token(), Some(Duration::from_millis(200)));
        assert_eq!(minute.tokens_per_second(), Some(30.0));
        minute.add(&request(Some(5), 5, 1));
        assert_eq!(minute.tokens_per_second(), Some(30.0), "written in no time");
    }
}
