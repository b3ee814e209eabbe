//! The clocks and limits of the system. Knows nothing of sockets.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::time::{ClockId, clock_gettime};

/// Nanoseconds of one second.
pub const SECOND: u64 = 1_000_000_000;

/// CLOCK_MONOTONIC in nanoseconds: the same for every process of the machine.
pub fn now() -> u64 {
    nanoseconds(ClockId::Monotonic)
}

/// What this process has used of the processor, user and system, in seconds.
pub fn cpu_seconds() -> f64 {
    nanoseconds(ClockId::ProcessCPUTime) as f64 / SECOND as f64
}

fn nanoseconds(clock: ClockId) -> u64 {
    let time = clock_gettime(clock);
    time.tv_sec.unsigned_abs() * SECOND + time.tv_nsec.unsigned_abs()
}

/// Allows as many open files as the hard limit does. A failure shows later, when files run out.
pub fn raise_open_files() {
    let limit = getrlimit(Resource::Nofile);
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit });
}
