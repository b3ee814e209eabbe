//! How close the control group is to its memory limit.
//!
//! What counts is the memory that is in use, by this process and whatever else is in the group, except for the
//! page cache, which the kernel can drop. Reads the files of version 1 and 2. Without a limit there is no
//! pressure. Invariant: files are read at most every 100 ms, or for each MiB that is reserved.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::limits::{MEMORY_LIMIT_FILES, cgroup_dirs, read_limit};
use super::sys;
use crate::observe::lock::lock;
use crate::observe::proc_field;

/// Shortest time between two readings of the memory in use, unless memory is to be reserved.
const MEMORY_CHECK_INTERVAL: Duration = Duration::from_millis(100);

/// Shortest time between two times at which freed memory is returned to the system, which stops the threads
/// that allocate for some milliseconds.
const TRIM_INTERVAL: Duration = Duration::from_millis(500);

/// Whether the control group is close to its memory limit.
#[derive(Debug)]
pub struct MemoryPressure {
    /// The lowest limit in bytes and its group; `None` without a limit.
    cgroup: Option<(u64, PathBuf)>,
    last_check: Mutex<Instant>,
    /// When freed memory was last returned to the system; `None` before the first time.
    last_trim: Mutex<Option<Instant>>,
    is_high: AtomicBool,
}

impl MemoryPressure {
    /// Finds the control group with the lowest memory limit.
    pub fn detect() -> Arc<Self> {
        let limit = |dir: PathBuf| Some((read_limit(&dir, MEMORY_LIMIT_FILES)?, dir));
        Self::of_group(cgroup_dirs("memory").into_iter().filter_map(limit).min())
    }

    fn of_group(cgroup: Option<(u64, PathBuf)>) -> Arc<Self> {
        let last_check = Mutex::new(Instant::now());
        Arc::new(Self { cgroup, last_check, last_trim: Mutex::default(), is_high: false.into() })
    }

    /// Whether so many more bytes would leave a sixteenth of the limit. Memory that was freed and not
    /// returned to the system is returned before the answer is no.
    pub fn has_room_for(&self, bytes: usize) -> bool {
        let Some((limit, cgroup)) = &self.cgroup else { return true };
        let most = (limit - limit / 16).saturating_sub(bytes as u64);
        let fits = || used_memory(cgroup).is_none_or(|used| used <= most);
        fits() || self.trim() && fits()
    }

    /// Returns freed memory to the system; `false` if that was done a moment ago.
    fn trim(&self) -> bool {
        let mut last_trim = lock(&self.last_trim);
        if last_trim.is_some_and(|last| last.elapsed() < TRIM_INTERVAL) {
            return false;
        }
        *last_trim = Some(Instant::now());
        drop(last_trim);
        sys::release_free_memory();
        true
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
        let is_low = || used_memory(cgroup).is_some_and(|used| used > limit - limit / 8);
        let is_high = is_low() && (!self.trim() || is_low());
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

#[cfg(test)]
mod tests {
    use super::*;

    /// A group with these files; it is removed when this is dropped.
    struct Group(PathBuf);

    impl Group {
        fn new(name: &str, files: &[(&str, &str)]) -> Self {
            let dir = std::env::temp_dir().join(format!("{name}-{}", std::process::id()));
            let _ = fs::remove_dir_all(&dir);
            fs::create_dir_all(&dir).expect("a folder");
            let group = Self(dir);
            files.iter().for_each(|(name, text)| group.write(name, text));
            group
        }

        fn write(&self, name: &str, text: &str) {
            fs::write(self.0.join(name), text).expect("a file");
        }

        fn pressure(&self) -> Arc<MemoryPressure> {
            let limit = read_limit(&self.0, MEMORY_LIMIT_FILES).expect("a limit");
            MemoryPressure::of_group(Some((limit, self.0.clone())))
        }
    }

    impl Drop for Group {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn room_is_what_is_left_of_a_limit_of_version_2() {
        let stat = "anon 100\nfile 500\nsock 9\ninactive_file 100\nactive_file 400\n";
        let files = [("memory.max", "1600\n"), ("memory.current", "1500\n"), ("memory.stat", stat)];
        let group = Group::new("room-v2", &files);
        let pressure = group.pressure();
        assert!(pressure.has_room_for(500) && !pressure.has_room_for(501));
        group.write("memory.current", "1501");
        assert!(pressure.has_room_for(499) && !pressure.has_room_for(500));
    }

    #[test]
    fn room_is_what_is_left_of_a_limit_of_version_1() {
        let stat = "inactive_file 7\ntotal_inactive_file 300\ntotal_active_file 200\n";
        let files = [
            ("memory.limit_in_bytes", "1600\n"),
            ("memory.usage_in_bytes", "1500\n"),
            ("memory.stat", stat),
        ];
        let pressure = Group::new("gone", &files).pressure();
        assert!(pressure.has_room_for(usize::MAX), "a group that is gone limits nothing");
        let group = Group::new("room-v1", &files);
        assert!(group.pressure().has_room_for(500) && !group.pressure().has_room_for(501));
    }

    #[test]
    fn a_group_without_a_limit_or_of_an_unlimited_size_has_room() {
        assert!(MemoryPressure::of_group(None).has_room_for(usize::MAX));
        let group = Group::new("no-limit", &[("memory.max", "max\n")]);
        assert_eq!(read_limit(&group.0, MEMORY_LIMIT_FILES), None);
    }

    #[test]
    fn freed_memory_is_returned_once_a_moment() {
        let pressure = MemoryPressure::of_group(None);
        assert!(pressure.trim());
        // However long that took.
        *lock(&pressure.last_trim) = Some(Instant::now() + Duration::from_secs(3600));
        assert!(!pressure.trim());
    }

    #[test]
    fn pages_of_files_do_not_count() {
        assert_eq!(page_cache_bytes("anon 5\nfile 9\ninactive_file 3\nactive_file 4\n"), 7);
        let total = "inactive_file 1\ntotal_inactive_file 30\ntotal_active_file 4\n";
        assert_eq!(page_cache_bytes(total), 34);
        assert_eq!(page_cache_bytes(""), 0);
    }
}
