//! Facts about this process's threads and connections, from single reads of files in `/proc`.
//!
//! Every fact is an `Option` or has an "unknown": without `/proc` (other systems, hardened containers)
//! nothing here fails, and the supervisor uses its timer. The files stay open, so that reading them
//! works when no descriptor is free.

use std::fs::{self, File};
use std::io::{self, Read, Seek};
use std::path::Path;
use std::thread;

/// Size of a read; each of the files is smaller.
const BUFFER_BYTES: usize = 4096;

/// Start of the counts of context switches, which end a thread's `status` file.
const SWITCHES_FIELD: &str = "voluntary_ctxt_switches";

/// Counts of threads and connections. They include those of other processes, so only a count that does
/// *not* change proves something.
pub(super) struct ProcCounters {
    threads: Option<ThreadDetector>,
    snmp: Option<File>,
}

/// How a new thread of this process is detected.
enum ThreadDetector {
    /// By the id last assigned to any thread or process, in `/proc/loadavg`.
    LastId(File),
    /// By the number of threads, which says less: another thread may end at the same time.
    Count,
}

impl ProcCounters {
    pub(super) fn open() -> ProcCounters {
        let last_id = File::open("/proc/loadavg").ok().map(ThreadDetector::LastId);
        // Some containers fake or cache the file, so each detector is tried.
        let mut detectors = last_id.into_iter().chain([ThreadDetector::Count]);
        ProcCounters {
            threads: detectors.find(ThreadDetector::detects_new_thread),
            snmp: File::open("/proc/net/snmp").ok(),
        }
    }

    /// A mark that changes when a thread starts; `None` if new threads cannot be detected.
    pub(super) fn thread_mark(&self) -> Option<u64> {
        self.threads.as_ref()?.mark()
    }

    /// How often in a row the mark must stay the same to prove that no thread started.
    pub(super) fn required_repeats(&self) -> u32 {
        match self.threads {
            Some(ThreadDetector::LastId(_)) => 1,
            Some(ThreadDetector::Count) | None => 2,
        }
    }

    /// Connections accepted in this network namespace since its start.
    pub(super) fn connection_count(&self) -> Option<u64> {
        parse_passive_opens(&read_proc_file(self.snmp.as_ref()?).ok()?)
    }

    /// Stops reading a count of connections that turned out not to count.
    pub(super) fn stop_counting_connections(&mut self) {
        self.snmp = None;
    }
}

impl ThreadDetector {
    fn mark(&self) -> Option<u64> {
        match self {
            ThreadDetector::LastId(file) => parse_last_id(&read_proc_file(file).ok()?),
            ThreadDetector::Count => thread_count(),
        }
    }

    fn detects_new_thread(&self) -> bool {
        let before = self.mark();
        let (release, wait) = crossbeam_channel::bounded::<()>(0);
        // The probe runs until it is released, so that `Count` sees it.
        let probe = thread::Builder::new().spawn(move || wait.iter().for_each(drop));
        let seen = before.is_some() && self.mark() != before;
        drop(release);
        probe.is_ok_and(|probe| probe.join().is_ok()) && seen
    }
}

/// Observes another thread.
pub(super) struct ThreadMonitor {
    status: File,
    /// The thread's context switches at the last proof that the queue was empty.
    baseline: String,
}

impl ThreadMonitor {
    /// Finds the accept thread that the thread `parent` started. It has inherited its parent's name,
    /// which must be unique in this process.
    pub(super) fn find_accept_thread(name: &str, parent: u32) -> Option<ThreadMonitor> {
        let candidates = find_threads(name)?.into_iter().filter(|&id| id != parent);
        // The accept thread is started before the pool threads, so its id follows its parent's. Ids
        // are assigned in ascending order and wrap around, so the distance is compared.
        let id = candidates.min_by_key(|id| id.wrapping_sub(parent))?;
        let status = File::open(format!("/proc/self/task/{id}/status")).ok()?;
        let monitor = ThreadMonitor { status, baseline: String::new() };
        monitor.sample().is_some().then_some(monitor)
    }

    /// The thread's counts of context switches, which change if and only if it runs; `None` if it has
    /// ended, or cannot be observed any more.
    pub(super) fn sample(&self) -> Option<String> {
        let text = read_proc_file(&self.status).ok()?;
        find_switches(&text).map(str::to_owned)
    }

    /// Whether the thread ran or ended since the baseline.
    pub(super) fn has_run(&self) -> bool {
        self.sample().as_ref() != Some(&self.baseline)
    }

    /// Whether no baseline has been set.
    pub(super) fn is_fresh(&self) -> bool {
        self.baseline.is_empty()
    }

    /// Sets the baseline; returns whether it changed.
    pub(super) fn set_baseline(&mut self, switches: String) -> bool {
        let moved = self.baseline != switches;
        self.baseline = switches;
        moved
    }
}

/// The calling thread's id.
pub(super) fn current_thread_id() -> Option<u32> {
    fs::read_link("/proc/thread-self").ok()?.file_name()?.to_str()?.parse().ok()
}

/// The ids of this process's threads of that name; `None` if they cannot be listed.
pub(super) fn find_threads(name: &str) -> Option<Vec<u32>> {
    let tasks = fs::read_dir("/proc/self/task").ok()?;
    let ids = tasks.flatten().filter(|task| has_name(&task.path(), name));
    Some(ids.filter_map(|task| task.file_name().to_str()?.parse().ok()).collect())
}

fn has_name(task: &Path, name: &str) -> bool {
    // A thread that has ended meanwhile has no name and does not count.
    fs::read_to_string(task.join("comm")).is_ok_and(|comm| comm.trim_end() == name)
}

/// The last field of `/proc/loadavg`.
fn parse_last_id(loadavg: &str) -> Option<u64> {
    loadavg.split_whitespace().last()?.parse().ok()
}

/// The number of links of the directory of threads: one for each thread, and two of its own.
fn thread_count() -> Option<u64> {
    #[cfg(unix)]
    return fs::metadata("/proc/self/task")
        .ok()
        .map(|it| std::os::unix::fs::MetadataExt::nlink(&it));
    #[cfg(not(unix))]
    None
}

/// The field `PassiveOpens` of `/proc/net/snmp`: a line of names, then a line of values.
fn parse_passive_opens(snmp: &str) -> Option<u64> {
    let mut lines = snmp.lines().filter(|line| line.starts_with("Tcp:"));
    let position = lines.next()?.split_whitespace().position(|name| name == "PassiveOpens")?;
    lines.next()?.split_whitespace().nth(position)?.parse().ok()
}

fn find_switches(status: &str) -> Option<&str> {
    status.find(SWITCHES_FIELD).map(|start| &status[start..])
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
    use super::*;

    #[test]
    fn last_id_is_the_last_field() {
        let check = |text, expected| assert_eq!(parse_last_id(text), expected, "{text:?}");
        check("0.10 0.22 0.16 2/107 14161\n", Some(14161));
        check("0.10 0.22 0.16 2/107\n", None);
        check("", None);
    }

    #[test]
    fn passive_opens_is_found_by_its_name() {
        let check = |text, expected| assert_eq!(parse_passive_opens(text), expected, "{text:?}");
        check("Ip: A PassiveOpens\nIp: 1 2\nTcp: A PassiveOpens B\nTcp: 1 31 4\n", Some(31));
        check("Tcp: A B\nTcp: 1 31\n", None);
        check("Tcp: A PassiveOpens\n", None);
        check("Tcp: A PassiveOpens\nTcp: 1\n", None);
        check("", None);
    }

    #[test]
    fn switches_are_the_rest_of_the_status() {
        let check = |text, expected| assert_eq!(find_switches(text), expected, "{text:?}");
        let tail = "voluntary_ctxt_switches:\t2\nnonvoluntary_ctxt_switches:\t0\n";
        let status = format!("Name:\thead\nVmRSS:\t1 kB\n{tail}");
        check(&status, Some(tail));
        check("Name:\thead\n", None);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_new_thread_is_noticed_if_anything_is_known() {
        let loadavg = File::open("/proc/loadavg").expect("every Linux has it");
        assert!(ThreadDetector::LastId(loadavg).detects_new_thread());
        let constant = File::open("/proc/version").expect("every Linux has it");
        assert!(!ThreadDetector::LastId(constant).detects_new_thread());
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_thread_is_seen_to_run_and_to_end() {
        let (go, wait) = crossbeam_channel::bounded::<()>(0);
        let owner = thread::Builder::new().name("monitor-test".to_owned()).spawn(move || {
            let child = thread::spawn(move || wait.iter().for_each(drop));
            (
                current_thread_id()
                    .and_then(|id| ThreadMonitor::find_accept_thread("monitor-test", id)),
                child,
            )
        });
        let (monitor, child) = owner.expect("a thread").join().expect("no panic");
        let mut monitor = monitor.expect("the child is found");
        // The child may still be on its way to sleep, so its count can rise once more.
        while let (true, Some(now)) = (monitor.has_run(), monitor.sample()) {
            monitor.set_baseline(now);
        }
        go.send(()).expect("the child receives");
        wait_until("it ran", || monitor.has_run());
        drop(go);
        child.join().expect("no panic");
        wait_until("it ended", || monitor.sample().is_none());
    }

    #[cfg(target_os = "linux")]
    fn wait_until(what: &str, condition: impl Fn() -> bool) {
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
        while !condition() {
            assert!(std::time::Instant::now() < deadline, "never seen: {what}");
            thread::yield_now();
        }
    }
}
