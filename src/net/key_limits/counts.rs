//! What one key has used, and whether its limits allow another request.
//!
//! Pure: the time is an argument. The day is that of UTC; a minute begins with the first request in it.
//! Invariant: a refused request counts as refused and as nothing else.

use std::time::{Duration, Instant};

use crate::error::{KeyLimit, LimitReached};

/// The window of `requests_per_minute`.
const MINUTE: Duration = Duration::from_secs(60);

const SECONDS_PER_DAY: u64 = 86_400;

/// What a client is told to wait for another of its requests to end.
const PARALLEL_WAIT: Duration = Duration::from_secs(1);

/// How much a key may use; `None` for any number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rates {
    /// Requests in a minute.
    pub requests_per_minute: Option<u64>,
    /// Tokens of prompts and responses in a day of UTC.
    pub tokens_per_day: Option<u64>,
    /// Requests at the same time.
    pub max_parallel: Option<u64>,
}

impl Rates {
    /// Each limit with its name in the configuration.
    pub fn members(&self) -> [(&'static str, Option<u64>); 3] {
        [
            (KeyLimit::RequestsPerMinute.word(), self.requests_per_minute),
            (KeyLimit::TokensPerDay.word(), self.tokens_per_day),
            (KeyLimit::MaxParallel.word(), self.max_parallel),
        ]
    }
}

/// A moment by both clocks.
#[derive(Clone, Copy, Debug)]
pub struct Now {
    /// For the minute.
    pub instant: Instant,
    /// For the day: the time since 1970 in UTC.
    pub since_epoch: Duration,
}

/// What a key has used.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Requests that were let through.
    pub requests: u64,
    /// Refused requests in the order of [`KeyLimit`]; the last number is that of models it may not use.
    pub refused: [u64; 4],
    /// Tokens of prompts and of responses since the start.
    pub tokens: (u64, u64),
    /// Requests that have not ended.
    pub in_flight: u64,
    window: Option<(Instant, u64)>,
    day: u64,
    /// Tokens of the day in the state file, those of other processes included.
    saved: u64,
    /// Tokens of the day that the state file does not have yet.
    unsaved: u64,
}

/// The number of a day since 1970.
pub fn day_of(since_epoch: Duration) -> u64 {
    since_epoch.as_secs() / SECONDS_PER_DAY
}

impl Counts {
    /// Counts a request, or its refusal.
    ///
    /// # Errors
    /// Which limit refuses it.
    pub fn begin(&mut self, rates: &Rates, now: Now) -> Result<(), LimitReached> {
        let refusal = self.find_refusal(rates, now);
        if let Some(refusal) = refusal {
            self.refused[refusal.limit as usize] += 1;
            return Err(refusal);
        }
        if rates.requests_per_minute.is_some() {
            let window = self.window.get_or_insert((now.instant, 0));
            window.1 += 1;
        }
        self.requests += 1;
        self.in_flight += 1;
        Ok(())
    }

    /// The limit that the request meets; of several, the one that takes longest to pass.
    fn find_refusal(&mut self, rates: &Rates, now: Now) -> Option<LimitReached> {
        self.roll(day_of(now.since_epoch));
        let refuse = |limit, allowed, wait| Some(LimitReached { limit, allowed, wait });
        if let Some(allowed) = rates.tokens_per_day.filter(|it| self.tokens_today() >= *it) {
            let midnight = Duration::from_secs((day_of(now.since_epoch) + 1) * SECONDS_PER_DAY);
            return refuse(KeyLimit::TokensPerDay, allowed, midnight - now.since_epoch);
        }
        let passed = |start: Instant| now.instant.saturating_duration_since(start);
        if self.window.is_some_and(|(start, _)| passed(start) >= MINUTE) {
            self.window = None;
        }
        if let (Some(allowed), Some((start, count))) = (rates.requests_per_minute, self.window)
            && count >= allowed
        {
            return refuse(KeyLimit::RequestsPerMinute, allowed, MINUTE - passed(start));
        }
        let allowed = rates.max_parallel.filter(|allowed| self.in_flight >= *allowed)?;
        refuse(KeyLimit::MaxParallel, allowed, PARALLEL_WAIT)
    }

    /// Counts a model that the key may not use.
    pub fn refuse_model(&mut self) {
        self.refused[3] += 1;
    }

    /// A request has ended.
    pub fn end(&mut self) {
        self.in_flight = self.in_flight.saturating_sub(1);
    }

    /// Adds tokens of a prompt and of a response.
    pub fn add_tokens(&mut self, (prompt, response): (u64, u64), since_epoch: Duration) {
        self.roll(day_of(since_epoch));
        self.tokens.0 = self.tokens.0.saturating_add(prompt);
        self.tokens.1 = self.tokens.1.saturating_add(response);
        self.unsaved = self.unsaved.saturating_add(prompt.saturating_add(response));
    }

    /// Tokens of the current day.
    pub fn tokens_today(&self) -> u64 {
        self.saved.saturating_add(self.unsaved)
    }

    /// Begins another day. A clock that is set back does not end one.
    pub fn roll(&mut self, today: u64) {
        if today > self.day {
            (self.day, self.saved, self.unsaved) = (today, 0, 0);
        }
    }

    /// Tokens of this day that the state file does not have.
    pub fn unsaved(&self, day: u64) -> u64 {
        if day == self.day { self.unsaved } else { 0 }
    }

    /// Takes over what the state file has of a day, after `written` more were added to it.
    pub fn set_saved(&mut self, day: u64, total: u64, written: u64) {
        self.roll(day);
        if day == self.day {
            self.saved = total;
            self.unsaved = self.unsaved.saturating_sub(written);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use KeyLimit::{MaxParallel, RequestsPerMinute, TokensPerDay};

    /// A moment so many seconds after noon of a day.
    fn at(start: Instant, seconds: f64) -> Now {
        let passed = Duration::from_secs_f64(seconds);
        let noon = Duration::from_secs(20_000 * SECONDS_PER_DAY + SECONDS_PER_DAY / 2);
        Now { instant: start + passed, since_epoch: noon + passed }
    }

    /// What a request gets: the limit that refuses it, and the seconds to wait.
    fn ask(counts: &mut Counts, rates: Rates, now: Now) -> Option<(KeyLimit, f64)> {
        let refused = counts.begin(&rates, now).err()?;
        Some((refused.limit, refused.wait.as_secs_f64()))
    }

    #[test]
    fn a_minute_begins_with_its_first_request_and_allows_so_many() {
        let rates = Rates { requests_per_minute: Some(2), ..Rates::default() };
        let (mut counts, start) = (Counts::default(), Instant::now());
        for (seconds, expected) in [
            (0.0, None),
            (10.0, None),
            (10.0, Some(50.0)),
            (59.5, Some(0.5)),
            // Refused requests do not prolong it.
            (60.0, None),
            (60.0, None),
            (61.0, Some(59.0)),
            (500.0, None),
            (559.0, None),
            (559.0, Some(1.0)),
        ] {
            let expected = expected.map(|wait| (RequestsPerMinute, wait));
            assert_eq!(ask(&mut counts, rates, at(start, seconds)), expected, "at {seconds}");
        }
        assert_eq!((counts.requests, counts.refused), (6, [4, 0, 0, 0]));
    }

    #[test]
    fn a_day_of_utc_allows_requests_until_its_tokens_are_used() {
        let rates = Rates { tokens_per_day: Some(100), ..Rates::default() };
        let (mut counts, start) = (Counts::default(), Instant::now());
        let noon = at(start, 0.0);
        assert_eq!(ask(&mut counts, rates, noon), None);
        counts.add_tokens((60, 39), noon.since_epoch);
        // The request that exceeds the limit is served to its end.
        assert_eq!(ask(&mut counts, rates, noon), None);
        counts.add_tokens((500, 1), at(start, 0.0).since_epoch);
        assert_eq!(counts.tokens_today(), 600);
        assert_eq!(ask(&mut counts, rates, noon), Some((TokensPerDay, 43_200.0)));
        assert_eq!(ask(&mut counts, rates, at(start, 43_199.25)), Some((TokensPerDay, 0.75)));
        assert_eq!(ask(&mut counts, rates, at(start, 43_200.0)), None);
        // A clock that is set back does not bring the old day back.
        assert_eq!(ask(&mut counts, rates, noon), None);
        assert_eq!((counts.tokens, counts.tokens_today()), ((560, 40), 0));
    }

    #[test]
    fn a_request_at_once_has_its_place_until_it_ends() {
        let rates = Rates { max_parallel: Some(2), ..Rates::default() };
        let (mut counts, start) = (Counts::default(), Instant::now());
        let next = |counts: &mut Counts| ask(counts, rates, at(start, 0.0));
        assert_eq!((next(&mut counts), next(&mut counts)), (None, None));
        assert_eq!(next(&mut counts), Some((MaxParallel, 1.0)));
        counts.end();
        assert_eq!(next(&mut counts), None);
        assert_eq!(counts.in_flight, 2);
        (0..5).for_each(|_| counts.end());
        assert_eq!(counts.in_flight, 0);
    }

    #[test]
    fn the_longest_wait_is_told_and_what_is_refused_takes_nothing() {
        let rates =
            Rates { requests_per_minute: Some(1), tokens_per_day: Some(1), max_parallel: Some(1) };
        let (mut counts, start) = (Counts::default(), Instant::now());
        assert_eq!(ask(&mut counts, rates, at(start, 0.0)), None);
        assert_eq!(ask(&mut counts, rates, at(start, 1.0)), Some((RequestsPerMinute, 59.0)));
        assert_eq!(ask(&mut counts, rates, at(start, 60.0)), Some((MaxParallel, 1.0)));
        counts.end();
        // The request that was refused for its place did not take the minute.
        assert_eq!(ask(&mut counts, rates, at(start, 61.0)), None);
        counts.add_tokens((1, 0), at(start, 61.0).since_epoch);
        assert_eq!(ask(&mut counts, rates, at(start, 61.0)).map(|it| it.0), Some(TokensPerDay));
        assert_eq!(counts.refused, [1, 1, 1, 0]);
        assert_eq!(ask(&mut counts, Rates::default(), at(start, 61.0)), None);
    }

    #[test]
    fn what_the_file_has_and_what_it_has_not_is_counted_once() {
        let day = 20_000;
        let time = at(Instant::now(), 0.0).since_epoch;
        let mut counts = Counts::default();
        counts.set_saved(day, 40, 0);
        counts.add_tokens((1, 2), time);
        assert_eq!((counts.tokens_today(), counts.unsaved(day)), (43, 3));
        let written = counts.unsaved(day);
        // While it was written, more was used; another process had added 7.
        counts.add_tokens((5, 0), time);
        counts.set_saved(day, 50, written);
        assert_eq!((counts.tokens_today(), counts.unsaved(day)), (55, 5));
        // What the file has of an earlier day is over.
        counts.set_saved(day - 1, 1_000, 0);
        assert_eq!((counts.tokens_today(), counts.unsaved(day - 1)), (55, 0));
        counts.set_saved(day + 1, 2, 0);
        assert_eq!((counts.tokens_today(), counts.unsaved(day)), (2, 0));
    }
}
