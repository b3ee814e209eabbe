//! Limits of the system and of memory, and what fits into them.
//!
//! The configuration is fitted to the limits of open files, threads and memory at the start
//! ([`SystemLimits::fit`]); request bodies share one memory budget ([`MemoryBudget`]); close to the
//! memory limit new requests are refused ([`MemoryPressure`]). Limits of threads and memory are those
//! of the control group, version 1 or 2; without `/proc` or `/sys/fs/cgroup`, and on other systems
//! than Linux, there are none. Changes no limit except that of open files, which it raises.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::observe::lock::lock;
use crate::observe::proc_field;

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

/// The most bytes of earlier responses that are kept.
const MAX_KEPT_BYTES: u64 = 64 * MIB;

/// Workers, and connections, that are allowed even if they do not fit.
const MINIMUM: usize = 8;

/// The memory limit's file in control groups of version 2 and 1.
const MEMORY_LIMIT_FILES: &[&str] = &["memory.max", "memory.limit_in_bytes"];

const CGROUP_ROOT: &str = "/sys/fs/cgroup";

/// Shortest time between two readings of the memory in use.
const MEMORY_CHECK_INTERVAL: Duration = Duration::from_millis(100);

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

    /// Bytes of earlier responses that may be kept: at most a quarter of the memory that the idle program
    /// leaves.
    pub fn max_kept_bytes(&self) -> usize {
        let quarter = self.memory.map(|limit| limit.saturating_sub(BASE_MEMORY) / 4);
        let bytes = quarter.map_or(MAX_KEPT_BYTES, |bytes| bytes.min(MAX_KEPT_BYTES));
        usize::try_from(bytes).unwrap_or(usize::MAX)
    }

    /// Bytes of request bodies that may be held at once: a third of the memory limit, because a body
    /// is in memory twice while it is sent on.
    pub fn max_body_memory(&self) -> usize {
        let bytes = match self.memory {
            Some(limit) => limit.saturating_sub(BASE_MEMORY) / 3,
            None => proc_field::read("/proc/meminfo", "MemTotal").map_or(u64::MAX, |kib| kib * 256),
        };
        usize::try_from(bytes).unwrap_or(usize::MAX)
    }
}

/// A number of bytes that many reservations share.
#[derive(Debug)]
pub struct MemoryBudget {
    limit: usize,
    used: AtomicUsize,
}

/// A part of a [`MemoryBudget`], returned when it is dropped.
#[derive(Debug)]
pub struct Reservation {
    budget: Arc<MemoryBudget>,
    bytes: usize,
}

/// The budget does not allow a reservation to grow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BudgetExceeded {
    /// Other reservations hold too much at the moment.
    Exhausted,
    /// The reservation would exceed the whole budget, which is this many bytes.
    TooLarge(usize),
}

impl MemoryBudget {
    /// A budget of `limit` bytes.
    pub fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self { limit, used: AtomicUsize::new(0) })
    }

    /// A reservation of 0 bytes.
    #[must_use]
    pub fn new_reservation(self: &Arc<Self>) -> Reservation {
        Reservation { budget: self.clone(), bytes: 0 }
    }
}

impl Reservation {
    /// Reserves `by` more bytes.
    ///
    /// # Errors
    /// [`BudgetExceeded`]; the reservation then stays as it is.
    pub fn grow(&mut self, by: usize) -> Result<(), BudgetExceeded> {
        let all = self.budget.used.fetch_add(by, Ordering::AcqRel).saturating_add(by);
        if all > self.budget.limit {
            self.budget.used.fetch_sub(by, Ordering::AcqRel);
            let alone = self.bytes.saturating_add(by) > self.budget.limit;
            return Err(if alone {
                BudgetExceeded::TooLarge(self.budget.limit)
            } else {
                BudgetExceeded::Exhausted
            });
        }
        self.bytes += by;
        Ok(())
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.budget.used.fetch_sub(self.bytes, Ordering::AcqRel);
    }
}

/// Whether the control group is close to its memory limit.
#[derive(Debug)]
pub struct MemoryPressure {
    /// The lowest limit in bytes and its group; `None` without a limit.
    cgroup: Option<(u64, PathBuf)>,
    last_check: Mutex<Instant>,
    is_high: AtomicBool,
}

impl MemoryPressure {
    /// Finds the control group with the lowest memory limit.
    pub fn detect() -> Arc<Self> {
        let limit = |dir: PathBuf| Some((read_limit(&dir, MEMORY_LIMIT_FILES)?, dir));
        let cgroup = cgroup_dirs("memory").into_iter().filter_map(limit).min();
        let (last_check, is_high) = (Mutex::new(Instant::now()), AtomicBool::new(false));
        Arc::new(Self { cgroup, last_check, is_high })
    }

    /// Whether less than an eighth of the limit was left when [`MemoryPressure::update`] last read it.
    pub fn is_high(&self) -> bool {
        self.is_high.load(Ordering::Relaxed)
    }

    /// Reads the memory in use, at most every 100 ms, and logs when it becomes low or sufficient.
    pub fn update(&self) {
        let Some((limit, cgroup)) = &self.cgroup else { return };
        let mut last_check = lock(&self.last_check);
        if last_check.elapsed() < MEMORY_CHECK_INTERVAL {
            return;
        }
        *last_check = Instant::now();
        let is_high = used_memory(cgroup).is_some_and(|used| used > limit - limit / 8);
        match (self.is_high.swap(is_high, Ordering::Relaxed), is_high) {
            (false, true) => log::warn!("memory is low: new requests are refused"),
            (true, false) => log::warn!("memory is sufficient again"),
            (true, true) | (false, false) => {}
        }
    }
}

/// Bytes of memory that a control group uses, without the page cache, which the kernel can drop.
fn used_memory(cgroup: &Path) -> Option<u64> {
    let read = |name| fs::read_to_string(cgroup.join(name)).ok();
    let used = read("memory.current").or_else(|| read("memory.usage_in_bytes"))?;
    let cached = read("memory.stat").map_or(0, |stat| page_cache_bytes(&stat));
    Some(used.trim().parse::<u64>().ok()?.saturating_sub(cached))
}

/// Bytes of the page cache. Where version 1 has fields that include child groups, those count.
fn page_cache_bytes(stat: &str) -> u64 {
    let field = |name: &&str| {
        let total = proc_field::parse(stat, &format!("total_{name}"));
        total.or_else(|| proc_field::parse(stat, name))
    };
    ["inactive_file", "active_file"].iter().filter_map(field).sum()
}

/// The directories of the process's control group and of the groups around it.
fn cgroup_dirs(controller: &str) -> Vec<PathBuf> {
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
fn read_limit(dir: &Path, names: &[&str]) -> Option<u64> {
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
                "cannot raise the limit of open files to {maximum}, keeping {current_text}: {error}"
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
    fn bodies_get_a_third_of_what_is_left() {
        let limits = |mib| SystemLimits { memory: Some(mib * MIB), ..SystemLimits::default() };
        let bodies = |mib| limits(mib).max_body_memory() as u64;
        assert_eq!((bodies(32), bodies(190), bodies(1)), (22 * MIB / 3, 60 * MIB, 0));
        assert!(SystemLimits::default().max_body_memory() > 0);
    }

    #[test]
    fn earlier_responses_get_a_quarter_of_what_is_left_but_never_much() {
        let limits = |mib| SystemLimits { memory: Some(mib * MIB), ..SystemLimits::default() };
        let kept = |mib| limits(mib).max_kept_bytes() as u64;
        assert_eq!((kept(32), kept(1), kept(9000)), (11 * MIB / 2, 0, MAX_KEPT_BYTES));
        assert_eq!(SystemLimits::default().max_kept_bytes() as u64, MAX_KEPT_BYTES);
    }

    #[test]
    fn a_budget_has_one_limit_for_all() {
        let budget = MemoryBudget::new(10);
        let (mut first, mut second) = (budget.new_reservation(), budget.new_reservation());
        assert_eq!((first.grow(6), second.grow(4)), (Ok(()), Ok(())));
        assert_eq!([first.grow(1), second.grow(1)], [Err(BudgetExceeded::Exhausted); 2]);
        assert_eq!(second.grow(7), Err(BudgetExceeded::TooLarge(10)));
        drop(first);
        assert_eq!((second.grow(6), second.grow(1)), (Ok(()), Err(BudgetExceeded::TooLarge(10))));
        drop(second);
        assert_eq!(budget.used.load(Ordering::Acquire), 0);
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

    #[test]
    fn pages_of_files_do_not_count() {
        assert_eq!(page_cache_bytes("anon 5\nfile 9\ninactive_file 3\nactive_file 4\n"), 7);
        let total = "inactive_file 1\ntotal_inactive_file 30\ntotal_active_file 4\n";
        assert_eq!(page_cache_bytes(total), 34);
        assert_eq!(page_cache_bytes(""), 0);
    }
}
