//! When requests begin: in a closed loop as soon as a connection is free, in an open one at a fixed
//! rate whatever the answers take. Pure: the time is passed in.

use super::options::Options;
use crate::pacing;
use crate::system::SECOND;

/// How long answers may take after the last request was due.
const GRACE: u64 = 30 * SECOND;
/// How long a run with a number of requests and no time may take.
const LONGEST: u64 = 120 * SECOND;

/// Hands out the requests of a run.
#[derive(Debug)]
pub struct Arrivals {
    start: u64,
    end: u64,
    deadline: u64,
    rate: Option<f64>,
    left: u64,
    begun: u64,
}

impl Arrivals {
    /// Of a run that starts now.
    pub fn new(options: &Options, start: u64) -> Self {
        let nanoseconds = |seconds: f64| (seconds * SECOND as f64) as u64;
        let length = options.seconds.map(nanoseconds);
        let timed = match (options.seconds, options.rate) {
            (Some(seconds), Some(rate)) => (seconds * rate) as u64,
            _ => u64::MAX,
        };
        Self {
            start,
            end: start.saturating_add(length.unwrap_or(LONGEST)),
            deadline: start.saturating_add(length.map_or(LONGEST, |it| it.saturating_add(GRACE))),
            rate: options.rate,
            left: options.requests.unwrap_or(u64::MAX).min(timed),
            begun: 0,
        }
    }

    /// When the run ends, whatever is still under way.
    pub fn deadline(&self) -> u64 {
        self.deadline
    }

    /// When the next request is due; none where no more are begun.
    pub fn next(&self, now: u64) -> Option<u64> {
        match self.rate {
            _ if self.left == 0 => None,
            Some(rate) => Some(pacing::due(self.start, self.begun, rate)),
            None => (now < self.end).then_some(now),
        }
    }

    /// Takes the next request if it is due by now, and tells when it was.
    pub fn take(&mut self, now: u64) -> Option<u64> {
        let due = self.next(now).filter(|due| *due <= now)?;
        self.left -= 1;
        self.begun += 1;
        Some(due)
    }

    /// How many requests of an open loop were due by the deadline and never begun.
    pub fn never_begun(&self) -> u64 {
        if self.rate.is_some() && self.left < u64::MAX / 2 { self.left } else { 0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_closed_loop_begins_when_it_can_until_its_end() {
        let options = Options { seconds: Some(2.0), ..Options::default() };
        let mut arrivals = Arrivals::new(&options, 100);
        assert_eq!((arrivals.take(100), arrivals.take(2 * SECOND)), (Some(100), Some(2 * SECOND)));
        assert_eq!(arrivals.take(2 * SECOND + 100), None);
        assert_eq!(arrivals.deadline(), 32 * SECOND + 100);
        let options = Options { requests: Some(2), ..Options::default() };
        let mut arrivals = Arrivals::new(&options, 0);
        assert_eq!(
            (arrivals.take(1), arrivals.take(2), arrivals.take(3)),
            (Some(1), Some(2), None)
        );
        assert_eq!((arrivals.deadline(), arrivals.never_begun()), (120 * SECOND, 0));
    }

    #[test]
    fn an_open_loop_begins_at_its_rate_and_catches_up() {
        let options = Options { seconds: Some(1.0), rate: Some(4.0), ..Options::default() };
        let mut arrivals = Arrivals::new(&options, 0);
        let quarter = SECOND / 4;
        assert_eq!((arrivals.take(0), arrivals.take(1)), (Some(0), None));
        assert_eq!(arrivals.next(1), Some(quarter));
        let late: Vec<u64> = std::iter::from_fn(|| arrivals.take(9 * SECOND)).collect();
        assert_eq!(late, [quarter, 2 * quarter, 3 * quarter]);
        assert_eq!((arrivals.next(0), arrivals.never_begun()), (None, 0));
    }
}
