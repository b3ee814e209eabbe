//! Gathers the tokens of many streams while the machine is full.
//!
//! A token that travels alone wakes a thread and costs a receive and a send. Once the processors are
//! never idle because of that, each token comes late, and throughput falls with each further stream: at
//! 2,000 streams of 50 tokens/s to less than half. A long stream then sleeps for a moment after each write, so
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

/// The time between two samples of the load, in milliseconds: 40 ticks of two processors.
const SAMPLE_INTERVAL_MS: u64 = 200;

/// Samples in a row that must find the machine full before the first pause.
const FULL_SAMPLES: u32 = 3;

/// The share of idle time below which the machine is full, and above which pauses become shorter.
const FULL_IDLE: f64 = 0.02;
const ENOUGH_IDLE: f64 = 0.08;

/// The share of the machine that this process uses if it is the reason, and that it uses if its own processors
/// (of a control group) are full.
const OWN_SHARE: f64 = 0.25;
const ALL_OF_OWN: f64 = 0.95;

/// The first pause, the shortest, and the longest, in milliseconds. A shorter one than the time between two
/// tokens would gather nothing and cost a timer.
const FIRST_PAUSE_MS: u32 = 50;
const MIN_PAUSE_MS: u32 = 40;
const MAX_PAUSE_MS: u32 = 80;

/// By how many milliseconds a pause grows and shrinks with each sample.
const STEP_UP_MS: u32 = 10;
const STEP_DOWN_MS: u32 = 5;

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
    meter: Box<dyn Meter>,
    pause: Pause,
}

/// Where the load comes from.
trait Meter: Send {
    fn sample(&mut self) -> Option<ProcessorLoad>;
    fn reset(&mut self);
}

impl Meter for LoadMeter {
    fn sample(&mut self) -> Option<ProcessorLoad> {
        LoadMeter::sample(self)
    }

    fn reset(&mut self) {
        LoadMeter::reset(self);
    }
}

impl Gatherer {
    /// `fixed` is a pause that does not depend on the load.
    pub(super) fn new(fixed: Option<Duration>) -> Self {
        Self { fixed, ..Self::with_meter(Box::new(LoadMeter::default())) }
    }

    fn with_meter(meter: Box<dyn Meter>) -> Self {
        Self {
            fixed: None,
            started: Instant::now(),
            next_sample_ms: AtomicU64::new(0),
            pause_ms: AtomicU32::new(0),
            control: Mutex::new(Control { meter, pause: Pause::default() }),
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
        let Control { meter, pause } = &mut *control;
        if open_streams < MIN_STREAMS {
            meter.reset();
            *pause = Pause::default();
        } else {
            pause.update(meter.sample());
        }
        self.pause_ms.store(pause.millis, Ordering::Relaxed);
    }
}

/// The pause, and how long the machine has been full.
#[derive(Debug, Default)]
struct Pause {
    millis: u32,
    full_samples: u32,
}

impl Pause {
    fn update(&mut self, load: Option<ProcessorLoad>) {
        let Some(load) = load else { return *self = Self::default() };
        let is_full = load.idle < FULL_IDLE && load.own >= OWN_SHARE || load.own >= ALL_OF_OWN;
        self.full_samples = if is_full { self.full_samples + 1 } else { 0 };
        if is_full && self.millis > 0 {
            self.millis = MAX_PAUSE_MS.min(self.millis + STEP_UP_MS);
        } else if self.full_samples >= FULL_SAMPLES {
            self.millis = FIRST_PAUSE_MS;
        } else if !is_full && load.idle > ENOUGH_IDLE {
            let shorter = self.millis.saturating_sub(STEP_DOWN_MS);
            self.millis = if shorter < MIN_PAUSE_MS { 0 } else { shorter };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FULL: Option<ProcessorLoad> = Some(ProcessorLoad { idle: 0.0, own: 0.5 });
    const ROOM: Option<ProcessorLoad> = Some(ProcessorLoad { idle: 0.2, own: 0.5 });
    const BALANCE: Option<ProcessorLoad> = Some(ProcessorLoad { idle: 0.05, own: 0.5 });

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
        assert_eq!(pauses(&[FULL; 5]), [0, 0, 50, 60, 70]);
        assert_eq!(pauses(&[FULL, FULL, BALANCE, FULL, FULL]), [0; 5]);
        let busy_with_others = Some(ProcessorLoad { idle: 0.0, own: 0.2 });
        assert_eq!(pauses(&[busy_with_others; 5]), [0; 5]);
        assert_eq!(pauses(&[None; 5]), [0; 5]);
        // A quota of half a processor, on a machine that has more.
        let own_quota = Some(ProcessorLoad { idle: 0.8, own: 0.97 });
        assert_eq!(pauses(&[own_quota; 3]), [0, 0, 50]);
    }

    #[test]
    fn a_pause_has_a_bound_and_ends_when_there_is_room() {
        let mut loads = vec![FULL; 20];
        assert_eq!(pauses(&loads).last(), Some(&MAX_PAUSE_MS));
        loads.extend([BALANCE; 5]);
        assert_eq!(pauses(&loads).last(), Some(&MAX_PAUSE_MS), "it stays where it suffices");
        loads.extend([ROOM; 8]);
        assert_eq!(pauses(&loads)[25..], [75, 70, 65, 60, 55, 50, 45, 40]);
        loads.push(ROOM);
        assert_eq!(pauses(&loads).last(), Some(&0));
    }

    #[test]
    fn what_comes_fast_and_what_writes_nothing_is_not_slowed_down() {
        for (written, expected) in
            [(0, false), (1, true), (250, true), (16 * 1024, true), (16 * 1024 + 1, false)]
        {
            assert_eq!(is_worth_a_pause(written), expected, "{written}");
        }
    }

    /// A machine that is full, and how often it was looked at.
    #[derive(Clone, Default)]
    struct FullMachine(std::sync::Arc<AtomicU32>);

    impl Meter for FullMachine {
        fn sample(&mut self) -> Option<ProcessorLoad> {
            self.0.fetch_add(1, Ordering::Relaxed);
            FULL
        }

        fn reset(&mut self) {}
    }

    #[test]
    fn the_load_is_sampled_now_and_then_and_for_many_streams_only() {
        let machine = FullMachine::default();
        let gatherer = Gatherer::with_meter(Box::new(machine.clone()));
        let pause = |millis, streams| {
            let now = gatherer.started + Duration::from_millis(millis);
            gatherer.pause(now, || streams).as_millis()
        };
        for millis in 0..10_000 {
            assert_eq!(pause(millis, MIN_STREAMS - 1), 0);
        }
        assert_eq!(machine.0.load(Ordering::Relaxed), 0);
        let expected = [(10_000, 0), (10_199, 0), (10_200, 0), (10_399, 0), (10_400, 50)];
        for (millis, expected) in expected {
            assert_eq!(pause(millis, MIN_STREAMS), expected, "{millis}");
        }
        assert_eq!(machine.0.load(Ordering::Relaxed), 3);
        // The streams have ended, but for some.
        assert_eq!((pause(10_599, 1), pause(10_600, 1)), (50, 0));
    }
}
