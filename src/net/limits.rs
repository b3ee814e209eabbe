//! What this process may use: descriptors, threads, memory; and what fits into that.
//!
//! A program that is given too little is not to die of it: what was configured is fitted to the
//! limits at the start ([`SystemLimits::fit`]), bodies that are held have a common bound ([`MemoryBudget`]), and
//! near the limit of memory no new work is taken ([`MemoryPressure`]). Limits of memory and threads are
//! those of the control group, of whichever version; elsewhere than on Linux, and where `/proc` or
//! `/sys` is missing, there are none. Never changes any limit but that of descriptors, upwards.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

const MIB: u64 = 1024 * 1024;

/// Descriptors that are not for connections: standard streams, sockets, files.
const OTHER_DESCRIPTORS: u64 = 32;

/// Descriptors of one request: two of its client's connection, which tiny_http needs, one upstream.
const DESCRIPTORS_PER_REQUEST: u64 = 3;

/// Threads that are neither workers' nor connections'.
const OTHER_THREADS: u64 = 24;

/// Memory of the program when it has nothing to do.
const BASE_MEMORY: u64 = 10 * MIB;

/// Memory of one live stream, the kernel's part included (measured: 140 KiB).
const STREAM_MEMORY: u64 = 160 * 1024;

/// Memory of one connection, the kernel's part included, when there are many.
const CONNECTION_MEMORY: u64 = 96 * 1024;

/// What there is at least, however little fits.
const MINIMUM: usize = 8;

/// The limit of memory, by the names of both versions of control groups.
const MEMORY_LIMIT_FILES: &[&str] = &["memory.max", "memory.limit_in_bytes"];

/// Where control groups are.
const CGROUP_ROOT: &str = "/sys/fs/cgroup";

/// Limits; `None` where there is none, or where it is not told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SystemLimits {
    /// Descriptors.
    pub descriptors: Option<u64>,
    /// Threads and processes.
    pub threads: Option<u64>,
    /// Bytes of memory.
    pub memory: Option<u64>,
}

impl SystemLimits {
    /// Raises the limit of descriptors as far as it goes, and looks at all limits.
    #[must_use]
    pub fn detect() -> Self {
        let group = |controller, names: &[&str]| {
            cgroup_dirs(controller).iter().filter_map(|folder| read_limit(folder, names)).min()
        };
        Self {
            descriptors: raise_descriptor_limit(),
            threads: group("pids", &["pids.max"]),
            memory: group("memory", MEMORY_LIMIT_FILES),
        }
    }

    /// How many workers and connections fit, of those that are wished for.
    #[must_use]
    pub fn fit(&self, workers: usize, connections: usize) -> (usize, usize) {
        let most = |wish: usize, limits: [Option<u64>; 3]| {
            let least = limits.into_iter().flatten().min().unwrap_or(u64::MAX);
            wish.min(usize::try_from(least).unwrap_or(usize::MAX).max(MINIMUM.min(wish)))
        };
        let each = |room: u64, own: u64, each: u64| room.saturating_sub(own) / each;
        let descriptors =
            self.descriptors.map(|it| each(it, OTHER_DESCRIPTORS, DESCRIPTORS_PER_REQUEST));
        // Half for those who work, half for those who are connected.
        let threads = self.threads.map(|it| each(it, OTHER_THREADS, 2));
        let memory = |each_one| self.memory.map(|it| each(it, BASE_MEMORY, each_one));
        (
            most(workers, [descriptors, threads, memory(STREAM_MEMORY)]),
            most(connections, [descriptors, threads, memory(CONNECTION_MEMORY)]),
        )
    }

    /// Bytes of bodies that may be held at once: each is there twice when it is sent on.
    #[must_use]
    pub fn max_body_memory(&self) -> usize {
        let bytes = match self.memory {
            Some(limit) => limit.saturating_sub(BASE_MEMORY) / 3,
            None => total_memory().map_or(u64::MAX, |all| all / 4),
        };
        usize::try_from(bytes).unwrap_or(usize::MAX)
    }
}

/// A common bound for what many hold.
#[derive(Debug)]
pub struct MemoryBudget {
    limit: usize,
    used: AtomicUsize,
}

/// A part of a [`MemoryBudget`], given back when it is dropped.
#[derive(Debug)]
pub struct Reservation {
    budget: Arc<MemoryBudget>,
    bytes: usize,
}

/// There is no more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BudgetExceeded {
    /// There would be if others had given theirs back.
    Exhausted,
    /// It is more than all of it, which is this much.
    TooLarge(usize),
}

impl MemoryBudget {
    /// A bound of so many bytes.
    #[must_use]
    pub fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self { limit, used: AtomicUsize::new(0) })
    }

    /// Nothing yet.
    #[must_use]
    pub fn new_reservation(self: &Arc<Self>) -> Reservation {
        Reservation { budget: self.clone(), bytes: 0 }
    }
}

impl Reservation {
    /// Takes more.
    ///
    /// # Errors
    /// [`BudgetExceeded`]; then nothing more was taken.
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

/// How close the group is to its limit of memory.
#[derive(Debug)]
pub struct MemoryPressure {
    cgroup: PathBuf,
    limit: u64,
}

impl MemoryPressure {
    /// The group with the tightest limit; `None` where there is none.
    #[must_use]
    pub fn detect() -> Option<Self> {
        let limit = |folder: &PathBuf| read_limit(folder, MEMORY_LIMIT_FILES);
        let limits = cgroup_dirs("memory").into_iter().filter_map(|it| Some((limit(&it)?, it)));
        let (limit, cgroup) = limits.min()?;
        Some(Self { cgroup, limit })
    }

    /// Whether less than an eighth of it is left, what the kernel can drop at once not counted.
    #[must_use]
    pub fn is_high(&self) -> bool {
        let read = |name| fs::read_to_string(self.cgroup.join(name)).ok();
        let number = |text: String| text.trim().parse::<u64>().ok();
        let used = read("memory.current").or_else(|| read("memory.usage_in_bytes"));
        let Some(used) = used.and_then(number) else { return false };
        let reclaimable = read("memory.stat").map_or(0, |stat| page_cache_bytes(&stat));
        used.saturating_sub(reclaimable) > self.limit - self.limit / 8
    }
}

/// Pages of files, by the names of both versions; those of version 1 that count children, too, where
/// they are told.
fn page_cache_bytes(stat: &str) -> u64 {
    let value = |wanted: &str| {
        let mut lines = stat.lines().filter_map(|line| line.split_once(' '));
        lines
            .find(|(name, _)| *name == wanted)
            .and_then(|(_, text)| text.trim().parse::<u64>().ok())
    };
    ["inactive_file", "active_file"]
        .iter()
        .filter_map(|name| value(&format!("total_{name}")).or_else(|| value(name)))
        .sum()
}

/// The folders of this process's group and of those around it.
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

/// Where a line of `/proc/self/cgroup` says that a controller's group is: its root, and the path
/// below it.
fn parse_cgroup_line<'a>(line: &'a str, controller: &str) -> Option<(PathBuf, &'a str)> {
    let (_, rest) = line.split_once(':')?;
    let (controllers, path) = rest.split_once(':')?;
    let groups = Path::new(CGROUP_ROOT);
    match controllers {
        "" => Some((groups.to_owned(), path)),
        _ if controllers.split(',').any(|it| it == controller) => {
            Some((groups.join(controller), path))
        }
        _ => None,
    }
}

/// A group's limit. What is beyond an exbibyte is version 1's way to say that there is none.
fn read_limit(folder: &Path, names: &[&str]) -> Option<u64> {
    let read = |name: &&str| fs::read_to_string(folder.join(name)).ok();
    let number = names.iter().find_map(read)?.trim().parse::<u64>().ok()?;
    (number < 1 << 60).then_some(number)
}

/// All memory of this machine.
fn total_memory() -> Option<u64> {
    let meminfo = fs::read_to_string("/proc/meminfo").ok()?;
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok().map(|kib| kib * 1024)
}

#[cfg(target_os = "linux")]
fn raise_descriptor_limit() -> Option<u64> {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

    let now = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: now.maximum, maximum: now.maximum };
    if now.current != now.maximum {
        let set = setrlimit(Resource::Nofile, raised).map_err(io::Error::from);
        if let Err(error) = set {
            log::warn!("the limit of descriptors cannot be raised: {error}");
            return now.current;
        }
    }
    now.maximum
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
        let ample = SystemLimits {
            descriptors: Some(20_000),
            threads: Some(32_768),
            memory: Some(1024 * MIB),
        };
        assert_eq!(ample.fit(256, 1024), (256, 1024));
        assert_eq!(ample.fit(1, 8), (1, 8));
    }

    #[test]
    fn the_tightest_limit_counts_and_something_is_left() {
        let check =
            |room: SystemLimits, expected| assert_eq!(room.fit(256, 1024), expected, "{room:?}");
        check(SystemLimits { descriptors: Some(64), ..SystemLimits::default() }, (10, 10));
        check(SystemLimits { descriptors: Some(1), ..SystemLimits::default() }, (MINIMUM, MINIMUM));
        check(SystemLimits { threads: Some(100), ..SystemLimits::default() }, (38, 38));
        check(SystemLimits { memory: Some(32 * MIB), ..SystemLimits::default() }, (140, 234));
        check(
            SystemLimits { memory: Some(32 * MIB), threads: Some(50), descriptors: None },
            (13, 13),
        );
        let tiny = SystemLimits { memory: Some(MIB), ..SystemLimits::default() };
        assert_eq!(tiny.fit(2, 1024), (2, MINIMUM), "never more than what was wished for");
    }

    #[test]
    fn bodies_get_a_third_of_what_is_left() {
        let bodies = |mib| {
            SystemLimits { memory: Some(mib * MIB), ..SystemLimits::default() }.max_body_memory()
                as u64
        };
        assert_eq!((bodies(32), bodies(190), bodies(1)), (22 * MIB / 3, 60 * MIB, 0));
        assert!(SystemLimits::default().max_body_memory() > 0);
    }

    #[test]
    fn a_ledger_has_one_bound_for_all() {
        let ledger = MemoryBudget::new(10);
        let (mut first, mut second) = (ledger.new_reservation(), ledger.new_reservation());
        assert_eq!((first.grow(6), second.grow(4)), (Ok(()), Ok(())));
        assert_eq!(
            (first.grow(1), second.grow(1)),
            (Err(BudgetExceeded::Exhausted), Err(BudgetExceeded::Exhausted))
        );
        assert_eq!(second.grow(7), Err(BudgetExceeded::TooLarge(10)));
        drop(first);
        assert_eq!((second.grow(6), second.grow(1)), (Ok(()), Err(BudgetExceeded::TooLarge(10))));
        drop(second);
        assert_eq!(ledger.used.load(Ordering::Acquire), 0);
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
        assert_eq!(
            page_cache_bytes("inactive_file 1\ntotal_inactive_file 30\ntotal_active_file 4\n"),
            34
        );
        assert_eq!(page_cache_bytes(""), 0);
    }
}
