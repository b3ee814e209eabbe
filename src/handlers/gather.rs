//! Gathers the tokens of many streams while the machine is full.
//!
//! A token that travels alone wakes a thread and costs a receive and a send. Once the processors are
//! never idle because of that, each token comes late, and throughput falls with each further stream: at
//! 2,000 streams of 50 tokens/s to half. A long stream then sleeps for a moment after each write, so
//! that the next receive brings what has arrived meanwhile: a token that is late anyway travels with the
//! next one. The slower a stream, the less it is affected: a token that arrives after the pause does not wait.
//!
//! Never before the first tokens of a stream. Invariant: without [`MIN_STREAMS`] streams and a machine that was
//! full for half a second because of this process, nothing pauses; a pause is at most [`MAX_PAUSE_MS`].

use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::net::processor_load::{LoadMeter, ProcessorLoad};
use crate::observe::lock::lock;

/// Open streams below which nothing is measured: they cannot fill a machine by their tokens.
const MIN_STREAMS: u64 = 128;

/// The time between two samples of the load, in milliseconds: 20 ticks of two processors.
const SAMPLE_INTERVAL_MS: u64 = 100;

/// The part that a sample has in the average idle time, which counts about half a second.
const SAMPLE_WEIGHT: f64 = 0.2;

/// The average idle time below which the machine is full: what is left is lost between two processors. Measured
/// with two: 13 % of idle time at 1,000 streams, which all come in time, and 4 to 5 % at 1,500 and 2,000.
const FULL_IDLE: f64 = 0.06;

/// The average idle time above which pauses become shorter, and above which they end.
const ENOUGH_IDLE: f64 = 0.15;
const MUCH_IDLE: f64 = 0.25;

/// The share of the machine that this process uses if it is the reason, and that it uses if its own processors
/// (of a control group) are full.
const OWN_SHARE: f64 = 0.25;
const ALL_OF_OWN: f64 = 0.95;

/// The first pause, the shortest, and the longest, in milliseconds. A shorter one than the time between two
/// tokens would gather nothing and cost a timer.
const FIRST_PAUSE_MS: u32 = 60;
const MIN_PAUSE_MS: u32 = 40;
const MAX_PAUSE_MS: u32 = 100;

/// By how many milliseconds a pause grows and shrinks with each sample.
const STEP_UP_MS: u32 = 10;
const STEP_DOWN_MS: u32 = 2;

/// The longest write, in bytes, behind which a stream pauses: what comes faster is gathered already, and would
/// be slowed down.
const MAX_WRITE_BYTES: usize = 16 * 1024;

/// Whether a stream that has written so many bytes may gather more by a pause.
pub(super) fn is_worth_a_pause(written: usize) -> bool {
    (1..=MAX_WRITE_BYTES).contains(&written)
}

/// How long a stream pauses at the moment, for all streams of the process.
pub(super) struct Gatherer {
    /// A pause that does not depend on the load.
    fixed: Option<Duration>,
    /// The origin of `next_sample_ms`.
    started: Instant,
    next_sample_ms: AtomicU64,
    pause_ms: AtomicU32,
    control: Mutex<Control>,
}

/// What decides on the pause.
struct Control {
    sample: Sampler,
    pause: Pause,
}

/// Where the load comes from: that since the last call, if it is known.
type Sampler = Box<dyn FnMut() -> Option<ProcessorLoad> + Send>;

impl Gatherer {
    /// `fixed` is a pause that does not depend on the load.
    pub(super) fn new(fixed: Option<Duration>) -> Self {
        let mut meter = LoadMeter::default();
        Self { fixed, ..Self::with_sampler(Box::new(move || meter.sample())) }
    }

    fn with_sampler(sample: Sampler) -> Self {
        Self {
            fixed: None,
            started: Instant::now(),
            next_sample_ms: AtomicU64::new(0),
            pause_ms: AtomicU32::new(0),
            control: Mutex::new(Control { sample, pause: Pause::default() }),
        }
    }

    /// How long a stream is to sleep that has written what has arrived. `open_streams` is asked for at most
    /// once in [`SAMPLE_INTERVAL_MS`].
    pub(super) fn pause(&self, now: Instant, open_streams: impl FnOnce() -> u64) -> Duration {
        if let Some(pause) = self.fixed {
            return pause;
        }
        let millis = now.saturating_duration_since(self.started).as_millis() as u64;
        let due = self.next_sample_ms.load(Ordering::Relaxed);
        let next = millis + SAMPLE_INTERVAL_MS;
        let order = Ordering::Relaxed;
        if millis >= due && self.next_sample_ms.compare_exchange(due, next, order, order).is_ok() {
            self.update(open_streams());
        }
        Duration::from_millis(self.pause_ms.load(Ordering::Relaxed).into())
    }

    fn update(&self, open_streams: u64) {
        let mut control = lock(&self.control);
        let Control { sample, pause } = &mut *control;
        if open_streams < MIN_STREAMS {
            *pause = Pause::default();
        } else {
            pause.update(sample());
        }
        self.pause_ms.store(pause.millis, Ordering::Relaxed);
    }
}

/// The pause, and the average idle time that it follows from.
#[derive(Debug)]
struct Pause {
    millis: u32,
    idle: f64,
}

impl Default for Pause {
    fn default() -> Self {
        Self { millis: 0, idle: ENOUGH_IDLE }
    }
}

impl Pause {
    fn update(&mut self, load: Option<ProcessorLoad>) {
        let Some(load) = load else { return *self = Self::default() };
        let idle = if load.own >= ALL_OF_OWN { 0.0 } else { load.idle };
        self.idle += SAMPLE_WEIGHT * (idle - self.idle);
        if self.idle < FULL_IDLE && load.own >= OWN_SHARE {
            let longer = self.millis + STEP_UP_MS;
            self.millis = if self.millis == 0 { FIRST_PAUSE_MS } else { longer.min(MAX_PAUSE_MS) };
        } else if self.idle > ENOUGH_IDLE {
            let shorter = self.millis.saturating_sub(STEP_DOWN_MS);
            let ends = self.idle > MUCH_IDLE || shorter < MIN_PAUSE_MS;
            self.millis = if ends { 0 } else { shorter };
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    const FULL: Option<ProcessorLoad> = Some(ProcessorLoad { idle: 0.0, own: 0.5 });
    const ROOM: Option<ProcessorLoad> = Some(ProcessorLoad { idle: 0.5, own: 0.5 });
    const BALANCE: Option<ProcessorLoad> = Some(ProcessorLoad { idle: 0.1, own: 0.5 });

    /// The pauses after each of these loads.
    fn pauses(loads: &[Option<ProcessorLoad>]) -> Vec<u32> {
        let mut pause = Pause::default();
        let pause_after = |load: &_| {
            pause.update(*load);
            pause.millis
        };
        loads.iter().map(pause_after).collect()
    }

    #[test]
    fn only_a_machine_that_stays_full_because_of_this_process_pauses() {
        assert_eq!(pauses(&[FULL; 7]), [0, 0, 0, 0, 60, 70, 80]);
        assert_eq!(pauses(&[FULL, FULL, FULL, ROOM, FULL]), [0; 5]);
        assert_eq!(pauses(&[FULL, FULL, BALANCE].repeat(3))[..6], [0; 6]);
        let busy_with_others = Some(ProcessorLoad { idle: 0.0, own: 0.2 });
        assert_eq!(pauses(&[busy_with_others; 9]), [0; 9]);
        assert_eq!(pauses(&[None; 5]), [0; 5]);
        // A quota of half a processor, on a machine that has more.
        let own_quota = Some(ProcessorLoad { idle: 0.8, own: 0.97 });
        assert_eq!(pauses(&[own_quota; 5]), [0, 0, 0, 0, 60]);
    }

    #[test]
    fn a_pause_has_a_bound_and_ends_when_there_is_room() {
        let mut loads = vec![FULL; 20];
        assert_eq!(pauses(&loads).last(), Some(&MAX_PAUSE_MS));
        loads.extend([BALANCE; 40]);
        assert_eq!(pauses(&loads).last(), Some(&MAX_PAUSE_MS), "it stays where it suffices");
        let some_room = Some(ProcessorLoad { idle: 0.2, own: 0.5 });
        let left = pauses(&[loads.clone(), vec![some_room; 60]].concat());
        assert_eq!(left[60..].iter().filter(|pause| **pause >= MIN_PAUSE_MS).count(), 33);
        assert_eq!(left.last(), Some(&0), "it becomes shorter until it is no use");
        loads.extend([ROOM; 4]);
        assert_eq!(pauses(&loads)[60..], [98, 96, 0, 0], "there is much room");
    }

    #[test]
    fn what_comes_fast_and_what_writes_nothing_is_not_slowed_down() {
        for (written, expected) in
            [(0, false), (1, true), (250, true), (16 * 1024, true), (16 * 1024 + 1, false)]
        {
            assert_eq!(is_worth_a_pause(written), expected, "{written}");
        }
    }

    #[test]
    fn the_load_is_sampled_now_and_then_and_for_many_streams_only() {
        // A machine that is full, and how often it was looked at.
        let samples = Arc::new(AtomicU32::new(0));
        let counted = samples.clone();
        let gatherer = Gatherer::with_sampler(Box::new(move || {
            counted.fetch_add(1, Ordering::Relaxed);
            FULL
        }));
        let pause = |millis, streams| {
            let now = gatherer.started + Duration::from_millis(millis);
            gatherer.pause(now, || streams).as_millis()
        };
        for millis in 0..10_000 {
            assert_eq!(pause(millis, MIN_STREAMS - 1), 0);
        }
        assert_eq!(samples.load(Ordering::Relaxed), 0);
        for (sample, expected) in [0, 0, 0, 0, 60].into_iter().enumerate() {
            let millis = 10_000 + 100 * sample as u64;
            assert_eq!(pause(millis, MIN_STREAMS), expected, "{millis}");
            assert_eq!(pause(millis + 99, MIN_STREAMS), expected, "{millis}");
        }
        assert_eq!(samples.load(Ordering::Relaxed), 5);
        // The streams have ended, but for some.
        assert_eq!((pause(10_499, 1), pause(10_500, 1)), (60, 0));
    }
}
