//! How busy the processors are, and how much of that is this process.
//!
//! Reads `/proc/stat`, whose first line counts the time of all processors (proc_stat(5)), and the clock of
//! this process's CPU time. The standard library's number of processors respects affinity and the quota of a
//! control group, of which `/proc/stat` knows nothing. Where one of them is missing, as on other systems
//! than Linux, nothing is known.

use std::time::{Duration, Instant};

/// The age from which the last sample is too old to compare with: nothing was sampled meanwhile.
const MAX_AGE: Duration = Duration::from_secs(1);

/// The processors in the time between two samples.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ProcessorLoad {
    /// The share of the machine's time in which a processor had nothing to do, or did work of low priority,
    /// which gives way; from 0 to 1.
    pub idle: f64,
    /// The share of its processors' time that this process used, from 0 to 1.
    pub own: f64,
}

/// What was read at one time.
#[derive(Clone, Copy, Debug)]
struct Reading {
    at: Instant,
    own: Duration,
    ticks: Ticks,
}

/// Ticks of all processors since the start of the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Ticks {
    idle: u64,
    total: u64,
}

/// Compares each sample with the one before.
#[derive(Debug, Default)]
pub struct LoadMeter {
    last: Option<Reading>,
}

impl LoadMeter {
    /// The load since the last sample; `None` for the first one of a second, and where nothing is known. Costs
    /// some microseconds.
    pub fn sample(&mut self) -> Option<ProcessorLoad> {
        let now = Reading::now();
        let last = std::mem::replace(&mut self.last, now)?;
        now?.since(&last)
    }
}

impl Reading {
    #[cfg(target_os = "linux")]
    fn now() -> Option<Self> {
        use std::fs::File;
        use std::io::Read;

        use rustix::time::{ClockId, clock_gettime};

        // The first line is enough; the file has one for each processor and interrupt.
        let mut start = [0; 256];
        let length = File::open("/proc/stat").ok()?.read(&mut start).ok()?;
        let ticks = Ticks::parse(str::from_utf8(&start[..length]).ok()?)?;
        let own = clock_gettime(ClockId::ProcessCPUTime);
        let own = Duration::new(own.tv_sec.try_into().ok()?, own.tv_nsec.try_into().ok()?);
        Some(Self { at: Instant::now(), own, ticks })
    }

    #[cfg(not(target_os = "linux"))]
    fn now() -> Option<Self> {
        None
    }

    fn since(&self, before: &Self) -> Option<ProcessorLoad> {
        let total = self.ticks.total.checked_sub(before.ticks.total).filter(|total| *total > 0)?;
        let idle = self.ticks.idle.saturating_sub(before.ticks.idle);
        let processors = std::thread::available_parallelism().ok()?.get();
        let passed = self.at.saturating_duration_since(before.at);
        if passed > MAX_AGE {
            return None;
        }
        let time = passed.mul_f64(processors as f64);
        let own = self.own.saturating_sub(before.own);
        Some(ProcessorLoad {
            idle: idle as f64 / total as f64,
            own: own.as_secs_f64() / time.as_secs_f64().max(f64::MIN_POSITIVE),
        })
    }
}

impl Ticks {
    /// Reads the first line of `/proc/stat`: user, nice (work of low priority), system, idle, iowait, irq,
    /// softirq, steal, and two that are contained in the first ones.
    fn parse(stat: &str) -> Option<Self> {
        let line = stat.lines().next()?.strip_prefix("cpu ")?;
        let ticks =
            line.split_whitespace().take(8).map(str::parse).collect::<Result<Vec<u64>, _>>();
        let ticks = ticks.ok().filter(|ticks| ticks.len() >= 5)?;
        Some(Self { idle: ticks[1] + ticks[3] + ticks[4], total: ticks.iter().sum() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_line_counts_all_processors() {
        let check = |stat, expected: Option<(u64, u64)>| {
            let expected = expected.map(|(idle, total)| Ticks { idle, total });
            assert_eq!(Ticks::parse(stat), expected, "{stat:?}");
        };
        check("cpu  10 1 5 100 4 0 2 3 7 7\ncpu0 1 1 1 1 1 1 1 1 1 1\n", Some((105, 125)));
        check("cpu  10 1 5 100 4\n", Some((105, 120)));
        check("cpu  10 1 5 100\n", None);
        check("cpu  10 1 x 100 4\n", None);
        check("cpu0 10 1 5 100 4\n", None);
        check("", None);
    }

    #[test]
    fn a_load_is_that_of_the_time_between() {
        let at = Instant::now();
        let reading = |millis, own, idle, total| Reading {
            at: at + Duration::from_millis(millis),
            own: Duration::from_millis(own),
            ticks: Ticks { idle, total },
        };
        let processors = std::thread::available_parallelism().expect("Linux").get();
        let own = 50 * processors as u64;
        let (before, after) = (reading(0, 7, 100, 500), reading(200, 7 + own, 110, 600));
        let load = after.since(&before).expect("time has passed");
        assert_eq!(load.idle, 0.1);
        assert!((load.own - 0.25).abs() < 1e-9, "{load:?}");
        assert_eq!(before.since(&after), None, "a counter went back");
        assert_eq!(before.since(&before), None, "no tick has passed");
        assert!(reading(1000, 57, 110, 600).since(&before).is_some());
        assert_eq!(reading(1001, 57, 110, 600).since(&before), None, "it is too old");
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn the_first_sample_has_nothing_to_compare_with() {
        for _ in 0..2 {
            let mut meter = LoadMeter::default();
            assert_eq!(meter.sample(), None);
            let load = loop {
                if let Some(load) = meter.sample() {
                    break load;
                }
            };
            assert!((0.0..=1.0).contains(&load.idle) && load.own >= 0.0, "{load:?}");
        }
    }
}
