//! Metrics about the process that the Prometheus client libraries define; those that the system does
//! not tell (elsewhere than on Linux) are left out.

use std::fs;
use std::time::{SystemTime, UNIX_EPOCH};

use super::openmetrics::Encoder;
use crate::observe::proc_field;

/// Writes start time, memory and open files under the names that the Prometheus documentation
/// (Writing client libraries, process metrics) gives them.
pub(super) fn write_metrics(out: &mut Encoder, started: SystemTime) {
    let started = started.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
    let help = "Start time of the process, in seconds since the Unix epoch.";
    out.begin_family("process_start_time_seconds", "gauge", "seconds", help);
    out.write_sample("", &[], started);
    if let Some(kib) = proc_field::read("/proc/self/status", "VmRSS") {
        let name = "process_resident_memory_bytes";
        out.begin_family(name, "gauge", "bytes", "Resident memory size.");
        out.write_sample("", &[], kib * 1024);
    }
    if let Ok(entries) = fs::read_dir("/proc/self/fd") {
        // One of them is the descriptor of the directory itself.
        let open = (entries.count() as u64).saturating_sub(1);
        out.write_gauge("process_open_fds", "Open file descriptors.", open);
    }
}
