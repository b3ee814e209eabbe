//! What the system knows of this process; nothing where it does not say (elsewhere than on Linux).

use std::fs;
use std::time::{SystemTime, UNIX_EPOCH};

use super::openmetrics::Encoder;

/// Writes the families that every program has by these names.
pub(super) fn write_metrics(out: &mut Encoder, started: SystemTime) {
    let started = started.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
    let name = "process_start_time_seconds";
    out.begin_family(name, "gauge", "seconds", "When the process began, in Unix time.");
    out.write_sample("", &[], started);
    if let Some(bytes) =
        fs::read_to_string("/proc/self/status").ok().and_then(|it| resident_bytes(&it))
    {
        let name = "process_resident_memory_bytes";
        out.begin_family(name, "gauge", "bytes", "Memory that the process has in use.");
        out.write_sample("", &[], bytes);
    }
    if let Ok(entries) = fs::read_dir("/proc/self/fd") {
        // One of them is that of the folder itself.
        let open = (entries.count() as u64).saturating_sub(1);
        out.write_gauge("process_open_fds", "Descriptors that the process has open.", open);
    }
}

/// Bytes in memory, from a `status` file.
fn resident_bytes(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.split_whitespace().next()?.parse::<u64>().ok()?.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_read_where_it_stands() {
        assert_eq!(resident_bytes("Name:\tx\nVmRSS:\t    2048 kB\nThreads:\t3\n"), Some(2_097_152));
        assert_eq!(resident_bytes("Name:\tx\n"), None);
        assert_eq!(resident_bytes("VmRSS:\tmuch\n"), None);
    }
}
