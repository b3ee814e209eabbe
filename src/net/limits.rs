//! Limits of the system and of memory, and what fits into them.
//!
//! The configuration is fitted to the limits of open files, threads and memory at the start
//! ([`SystemLimits::fit`]). Limits of threads and memory are those of the control group, version 1 or 2;
//! without `/proc` or `/sys/fs/cgroup`, and on other systems than Linux, there are none. Changes no limit
//! except that of open files, which it raises.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::observe::proc_field;
use crate::observe::system_error;

const MIB: u64 = 1024 * 1024;

/// Open files that are not connections: standard streams, listening sockets, files.
const OTHER_DESCRIPTORS: u64 = 32;

/// Open files for each request: two for the client's connection, as tiny_http duplicates it, and one
/// for the upstream's.
const DESCRIPTORS_PER_REQUEST: u64 = 3;

/// Threads that serve neither requests nor connections.
const OTHER_THREADS: u64 = 24;

/// One thread for each worker and one for each connection: either may use half of the limit.
const THREADS_PER_REQUEST: u64 = 2;

/// Memory of the idle program.
const BASE_MEMORY: u64 = 10 * MIB;

/// Memory of one live stream, including the kernel's buffers (measured: 140 KiB).
const STREAM_MEMORY: u64 = 160 * 1024;

/// Memory of one of many connections, including the kernel's buffers.
const CONNECTION_MEMORY: u64 = 96 * 1024;

/// The memory limit below which no large pages are used: each of many answers would use up to 2 MiB more.
const MIN_HUGE_PAGE_MEMORY: u64 = 1024 * MIB;

/// The most bytes of earlier responses that are kept.
const MAX_KEPT_BYTES: u64 = 64 * MIB;

/// Workers, and connections, that are allowed even if they do not fit.
const MINIMUM: usize = 8;

/// The memory limit's file in control groups of version 2 and 1.
pub(super) const MEMORY_LIMIT_FILES: &[&str] = &["memory.max", "memory.limit_in_bytes"];

const CGROUP_ROOT: &str = "/sys/fs/cgroup";

/// Limits of the process; `None` for no limit, or an unknown one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SystemLimits {
    /// Open files.
    pub descriptors: Option<u64>,
    /// Threads and processes.
    pub threads: Option<u64>,
    /// Bytes of memory.
    pub memory: Option<u64>,
}

impl SystemLimits {
    /// Raises the limit of open files to its maximum and reads all limits.
    pub fn detect() -> Self {
        let lowest = |controller, names: &[&str]| {
            cgroup_dirs(controller).iter().filter_map(|dir| read_limit(dir, names)).min()
        };
        Self {
            descriptors: raise_descriptor_limit(),
            threads: lowest("pids", &["pids.max"]),
            memory: lowest("memory", MEMORY_LIMIT_FILES),
        }
    }

    /// The numbers of workers and connections that fit, at most those wanted. Logs a warning for each
    /// that has to be lower.
    pub fn fit(&self, workers: usize, connections: usize) -> (usize, usize) {
        let fit = |what, wanted, memory_each| {
            let (count, warning) = self.fit_one(what, wanted, memory_each);
            if let Some(warning) = warning {
                log::warn!("{warning}");
            }
            count
        };
        (fit("workers", workers, STREAM_MEMORY), fit("connections", connections, CONNECTION_MEMORY))
    }

    fn fit_one(&self, what: &str, wanted: usize, memory_each: u64) -> (usize, Option<String>) {
        let limits = [
            (
                self.descriptors,
                OTHER_DESCRIPTORS,
                DESCRIPTORS_PER_REQUEST,
                "limit of open files",
                1,
                "",
            ),
            (self.threads, OTHER_THREADS, THREADS_PER_REQUEST, "limit of threads", 1, ""),
            (self.memory, BASE_MEMORY, memory_each, "memory limit", MIB, " MiB"),
        ];
        let room = |(limit, base, each, name, unit, suffix): (Option<u64>, _, _, _, _, _)| {
            let limit = limit?;
            let room = limit.saturating_sub(base) / each;
            Some((room, format!("{name} ({}{suffix})", limit / unit)))
        };
        let Some((room, name)) = limits.into_iter().filter_map(room).min() else {
            return (wanted, None);
        };
        let room = usize::try_from(room).unwrap_or(usize::MAX).max(MINIMUM);
        if room >= wanted {
            return (wanted, None);
        }
        (room, Some(format!("using {room} {what} instead of {wanted}: the {name} allows no more")))
    }

    /// Whether large pages, which are in memory as a whole, would take too much of it.
    pub fn is_small(&self) -> bool {
        self.memory.is_some_and(|limit| limit < MIN_HUGE_PAGE_MEMORY)
    }

    /// Bytes of earlier responses that may be kept: at most a quarter of the memory that the idle program
    /// leaves.
    pub fn max_kept_bytes(&self) -> usize {
        let quarter = self.memory.map(|limit| limit.saturating_sub(BASE_MEMORY) / 4);
        let bytes = quarter.map_or(MAX_KEPT_BYTES, |bytes| bytes.min(MAX_KEPT_BYTES));
        usize::try_from(bytes).unwrap_or(usize::MAX)
    }

    /// Bytes that requests, answers and kept state may hold at once: three fifths of the memory that the idle
    /// program leaves. The rest is for streams, connections and what the allocator keeps.
    pub fn max_held_memory(&self) -> usize {
        let bytes = match self.memory {
            Some(limit) => limit.saturating_sub(BASE_MEMORY) / 5 * 3,
            None => proc_field::read("/proc/meminfo", "MemTotal").map_or(u64::MAX, |kib| kib * 256),
        };
        usize::try_from(bytes).unwrap_or(usize::MAX)
    }
}

/// The directories of the process's control group and of the groups around it.
pub(super) fn cgroup_dirs(controller: &str) -> Vec<PathBuf> {
    let own = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let mut dirs = Vec::new();
    for (root, path) in own.lines().filter_map(|line| parse_cgroup_line(line, controller)) {
        // A container may see its own group at the root, whatever its path says.
        let below = Path::new(path.trim_start_matches('/'));
        dirs.extend(below.ancestors().map(|part| root.join(part)));
    }
    dirs
}

/// Root directory and path of a controller's group, from a line of `/proc/self/cgroup` (cgroups(7)).
fn parse_cgroup_line<'a>(line: &'a str, controller: &str) -> Option<(PathBuf, &'a str)> {
    let (_, rest) = line.split_once(':')?;
    let (controllers, path) = rest.split_once(':')?;
    let root = Path::new(CGROUP_ROOT);
    match controllers {
        "" => Some((root.to_owned(), path)),
        _ if controllers.split(',').any(|it| it == controller) => {
            Some((root.join(controller), path))
        }
        _ => None,
    }
}

/// A group's limit. Version 1 expresses "no limit" by a number close to the largest.
pub(super) fn read_limit(dir: &Path, names: &[&str]) -> Option<u64> {
    let read = |name: &&str| fs::read_to_string(dir.join(name)).ok();
    let number = names.iter().find_map(read)?.trim().parse::<u64>().ok()?;
    (number < 1 << 60).then_some(number)
}

#[cfg(target_os = "linux")]
fn raise_descriptor_limit() -> Option<u64> {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current != maximum {
        let raised = Rlimit { current: maximum, maximum };
        if let Err(error) = setrlimit(Resource::Nofile, raised).map_err(io::Error::from) {
            let text = |limit: Option<u64>| limit.map_or("unlimited".into(), |it| it.to_string());
            let (current_text, maximum) = (text(current), text(maximum));
            log::warn!(
                "cannot raise the limit of open files to {maximum}, keeping {current_text}: {}",
                system_error::describe(&error)
            );
            return current;
        }
    }
    maximum
}

#[cfg(not(target_os = "linux"))]
fn raise_descriptor_limit() -> Option<u64> {
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_fits_is_not_touched() {
        assert_eq!(SystemLimits::default().fit(256, 1024), (256, 1024));
        let memory = Some(1024 * MIB);
        let ample = SystemLimits { descriptors: Some(20_000), threads: Some(32_768), memory };
        assert_eq!(ample.fit(256, 1024), (256, 1024));
        assert_eq!(ample.fit(1, 8), (1, 8));
    }

    #[test]
    fn large_pages_are_for_a_gibibyte_and_more() {
        let is_small = |memory| SystemLimits { memory, ..SystemLimits::default() }.is_small();
        assert!(is_small(Some(1024 * MIB - 1)) && is_small(Some(32 * MIB)));
        assert!(!is_small(Some(1024 * MIB)) && !is_small(Some(u64::MAX)) && !is_small(None));
    }

    #[test]
    fn the_tightest_limit_counts_and_something_is_left() {
        let check =
            |room: SystemLimits, expected| assert_eq!(room.fit(256, 1024), expected, "{room:?}");
        let none = SystemLimits::default();
        check(SystemLimits { descriptors: Some(64), ..none }, (10, 10));
        check(SystemLimits { descriptors: Some(1), ..none }, (MINIMUM, MINIMUM));
        check(SystemLimits { threads: Some(100), ..none }, (38, 38));
        check(SystemLimits { memory: Some(32 * MIB), ..none }, (140, 234));
        check(SystemLimits { memory: Some(32 * MIB), threads: Some(50), ..none }, (13, 13));
        let tiny = SystemLimits { memory: Some(MIB), ..none };
        assert_eq!(tiny.fit(2, 1024), (2, MINIMUM), "never more than what was wished for");
    }

    #[test]
    fn a_warning_names_the_limit_that_allows_no_more() {
        let check = |limits: SystemLimits, expected: Option<&str>| {
            let warning = limits.fit_one("workers", 256, STREAM_MEMORY).1;
            assert_eq!(warning.as_deref(), expected);
        };
        let none = SystemLimits::default();
        check(none, None);
        let check = |limits, workers: u64, limit: &str| {
            let told = format!("using {workers} workers instead of 256: {limit} allows no more");
            check(limits, Some(&told));
        };
        let files = SystemLimits { descriptors: Some(452), threads: Some(700), ..none };
        check(files, 140, "the limit of open files (452)");
        check(SystemLimits { threads: Some(100), ..files }, 38, "the limit of threads (100)");
        check(SystemLimits { memory: Some(32 * MIB), ..none }, 140, "the memory limit (32 MiB)");
    }

    #[test]
    fn what_is_held_gets_three_fifths_of_what_is_left() {
        let limits = |mib| SystemLimits { memory: Some(mib * MIB), ..SystemLimits::default() };
        let held = |mib| limits(mib).max_held_memory() as u64;
        assert_eq!((held(35), held(110), held(1)), (15 * MIB, 60 * MIB, 0));
        assert!(SystemLimits::default().max_held_memory() > 0);
    }

    #[test]
    fn earlier_responses_get_a_quarter_of_what_is_left_but_never_much() {
        let limits = |mib| SystemLimits { memory: Some(mib * MIB), ..SystemLimits::default() };
        let kept = |mib| limits(mib).max_kept_bytes() as u64;
        assert_eq!((kept(32), kept(1), kept(9000)), (11 * MIB / 2, 0, MAX_KEPT_BYTES));
        assert_eq!(SystemLimits::default().max_kept_bytes() as u64, MAX_KEPT_BYTES);
    }

    #[test]
    fn groups_of_both_versions_are_found() {
        let check = |line, expected: Option<(&str, &str)>| {
            let found = parse_cgroup_line(line, "memory");
            let expected = expected.map(|(root, path)| (PathBuf::from(root), path));
            assert_eq!(found, expected, "{line}");
        };
        check("0::/user.slice/x", Some(("/sys/fs/cgroup", "/user.slice/x")));
        check("4:memory:/docker/1", Some(("/sys/fs/cgroup/memory", "/docker/1")));
        check("4:cpu,memory:/", Some(("/sys/fs/cgroup/memory", "/")));
        for line in ["4:cpuset:/", "1:name=systemd:/x", "", "nonsense"] {
            check(line, None);
        }
    }
}
