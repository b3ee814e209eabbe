//! Facts about this process's threads, from files in `/proc`.
//!
//! They only save nudges, and let old generations end earlier: without `/proc`, or with one that is
//! empty, faked or cached (gVisor, LXCFS, hardened containers), nothing here fails and every fact is
//! unknown. Silence is never a fact: a source counts only after it was seen to change. Files stay open,
//! so that reading them works when no descriptor is free.

use std::fs::{self, File};
use std::io::{self, Read, Seek};
use std::path::{Path, PathBuf};
use std::thread;

/// Size of a read; the file is smaller.
const BUFFER_BYTES: usize = 4096;

/// New threads that a source must show, each at once. A cached file that is refreshed every now and then
/// may show one by chance.
const TRIALS: usize = 3;

/// Detects new threads of this process by a number. Threads of other processes may change it, too, so
/// only a number that does *not* change proves something.
pub(super) enum ThreadDetector {
    /// The id last assigned to any thread or process, in `/proc/loadavg`.
    LastId(File),
    /// The number of threads, which says less: another thread may end at the same time.
    Count(PathBuf),
}

impl ThreadDetector {
    /// The first source below `root` that shows new threads.
    pub(super) fn find(root: &Path) -> Option<Self> {
        let last_id = File::open(root.join("loadavg")).ok().map(Self::LastId);
        let count = Self::Count(root.join("self/task"));
        last_id.into_iter().chain([count]).find(|detector| shows_new_threads(|| detector.mark()))
    }

    /// A number that changes when a thread starts; `None` if it cannot be read.
    pub(super) fn mark(&self) -> Option<u64> {
        match self {
            Self::LastId(file) => parse_last_id(&read_proc_file(file).ok()?),
            Self::Count(tasks) => link_count(tasks),
        }
    }

    /// How often in a row the mark must stay the same to prove that no thread started.
    pub(super) fn required_repeats(&self) -> u32 {
        match self {
            Self::LastId(_) => 1,
            Self::Count(_) => 2,
        }
    }
}

/// Whether the mark changes with each of some threads.
fn shows_new_threads(mark: impl Fn() -> Option<u64>) -> bool {
    (0..TRIALS).all(|_| {
        let before = mark();
        let (release, wait) = crossbeam_channel::bounded::<()>(0);
        // The thread runs until it is released, so that `Count` sees it.
        let thread = thread::Builder::new().spawn(move || wait.iter().for_each(drop));
        let is_seen = before.is_some() && mark().is_some_and(|now| Some(now) != before);
        drop(release);
        thread.is_ok_and(|thread| thread.join().is_ok()) && is_seen
    })
}

/// The number of this process's threads of that name; `None` if they cannot be listed.
pub(super) fn count_threads(root: &Path, name: &str) -> Option<usize> {
    let tasks = fs::read_dir(root.join("self/task")).ok()?;
    // A thread that has ended meanwhile has no name and does not count.
    let has_name = |task: &fs::DirEntry| {
        fs::read_to_string(task.path().join("comm")).is_ok_and(|comm| comm.trim_end() == name)
    };
    Some(tasks.flatten().filter(has_name).count())
}

/// The last field of `/proc/loadavg`.
fn parse_last_id(loadavg: &str) -> Option<u64> {
    loadavg.split_whitespace().last()?.parse().ok()
}

/// The number of links of the directory of threads: one for each thread, and two of its own.
fn link_count(tasks: &Path) -> Option<u64> {
    #[cfg(unix)]
    return fs::metadata(tasks).ok().map(|it| std::os::unix::fs::MetadataExt::nlink(&it));
    #[cfg(not(unix))]
    {
        let _ = tasks;
        None
    }
}

/// Reads an open file of `/proc` from its start, which gives current values.
fn read_proc_file(mut file: &File) -> io::Result<String> {
    let mut buffer = [0; BUFFER_BYTES];
    file.rewind()?;
    let len = file.read(&mut buffer)?;
    String::from_utf8(buffer[..len].to_vec()).map_err(io::Error::other)
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[test]
    fn last_id_is_the_last_field() {
        let check = |text, expected| assert_eq!(parse_last_id(text), expected, "{text:?}");
        check("0.10 0.22 0.16 2/107 14161\n", Some(14161));
        check("0.10 0.22 0.16 2/107\n", None);
        check("", None);
    }

    #[test]
    fn a_source_counts_only_if_it_shows_every_new_thread() {
        // The answers to the readings before and after each of three threads.
        let check = |readings: [Option<u64>; 6], expected| {
            let next = Cell::new(0);
            let mark = || readings.get(next.replace(next.get() + 1)).copied().flatten();
            assert_eq!(shows_new_threads(mark), expected, "{readings:?}");
        };
        check([Some(1), Some(2), Some(2), Some(3), Some(9), Some(8)], true);
        check([Some(1); 6], false);
        check([None; 6], false);
        // A file that was refreshed at that moment, and one that can no longer be read.
        check([Some(1), Some(2), Some(2), Some(2), Some(2), Some(2)], false);
        check([Some(1), Some(2), Some(2), Some(3), Some(3), None], false);
    }

    #[test]
    fn nothing_is_concluded_from_a_faked_proc() {
        let root = std::env::temp_dir().join(format!("faked-proc-{}", std::process::id()));
        for files in [
            &[][..],
            &[("loadavg", "")],
            &[("loadavg", "0.00 0.00 0.00 0/0 0\n")],
            &[("loadavg", "0.00 0.00 0.00 1/1 17\n"), ("self/task/17/comm", "accept-0\n")],
            &[("self/task/x", "")],
        ] {
            for (name, text) in files {
                let path = root.join(name);
                fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
                fs::write(path, text).expect("a file");
            }
            assert!(ThreadDetector::find(&root).is_none(), "{files:?}");
            let _ = fs::remove_dir_all(&root);
        }
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn new_threads_are_noticed_and_threads_of_a_name_are_counted() {
        let root = Path::new("/proc");
        assert!(matches!(ThreadDetector::find(root), Some(ThreadDetector::LastId(_))));
        assert!(shows_new_threads(|| ThreadDetector::Count(root.join("self/task")).mark()));
        let (release, wait) = crossbeam_channel::bounded::<()>(0);
        let threads: Vec<_> = (0..3)
            .map(|_| {
                let wait = wait.clone();
                let named = thread::Builder::new().name("counted-thread".to_owned());
                named.spawn(move || wait.iter().for_each(drop)).expect("a thread")
            })
            .collect();
        // A thread names itself.
        while count_threads(root, "counted-thread") != Some(3) {
            thread::yield_now();
        }
        drop(release);
        threads.into_iter().for_each(|thread| thread.join().expect("no panic"));
        assert_eq!(count_threads(root, "counted-thread"), Some(0));
        assert_eq!(count_threads(Path::new("/nowhere"), "x"), None);
    }
}
