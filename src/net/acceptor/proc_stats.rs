//! What Linux tells about our threads and connections for the price of one short read each.
//!
//! Every fact is an `Option` or has an "unknown": where `/proc` is missing (other systems,
//! hardened containers) nothing here fails, and the supervisor falls back to its timer. The files
//! are held open, so reading works when descriptors have run out too.

use std::fs::{self, File};
use std::io;
use std::path::Path;
use std::thread;

/// Larger than each of the files read here; what lies beyond would be cut off.
const BUFFER_BYTES: usize = 4096;

/// Where the count of context switches starts in a thread's `status`; it is the end of the file.
const SWITCHES_FIELD: &str = "voluntary_ctxt_switches";

/// Counts of threads and connections. Others share them, so only their *not* changing proves
/// something.
pub(super) struct ProcCounters {
    threads: ThreadDetector,
    snmp: Option<File>,
}

/// How a new thread of this process can be noticed.
enum ThreadDetector {
    /// By the id given last to any thread or process: `/proc/loadavg`.
    LastId(File),
    /// By how many there are, which says less: another one may have ended at the same time.
    Count,
    /// Not at all.
    Unknown,
}

impl ProcCounters {
    pub(super) fn open() -> ProcCounters {
        let last_id =
            File::open("/proc/loadavg").map_or(ThreadDetector::Unknown, ThreadDetector::LastId);
        // Some containers show a made-up or cached file, hence the trial.
        let threads =
            [last_id, ThreadDetector::Count].into_iter().find(ThreadDetector::detects_new_thread);
        ProcCounters {
            threads: threads.unwrap_or(ThreadDetector::Unknown),
            snmp: File::open("/proc/net/snmp").ok(),
        }
    }

    /// A mark that changes when a thread is started; `None` where that cannot be noticed.
    pub(super) fn thread_mark(&self) -> Option<u64> {
        self.threads.mark()
    }

    /// How often in a row the mark must stay the same to prove that no thread was started.
    pub(super) fn required_repeats(&self) -> u32 {
        match self.threads {
            ThreadDetector::LastId(_) => 1,
            ThreadDetector::Count | ThreadDetector::Unknown => 2,
        }
    }

    /// How many connections were ever accepted by this network namespace, ours among them.
    pub(super) fn connection_count(&self) -> Option<u64> {
        parse_passive_opens(&read_proc_file(self.snmp.as_ref()?).ok()?)
    }

    /// Stops reading a count of connections that was seen to stand still.
    pub(super) fn stop_counting_connections(&mut self) {
        self.snmp = None;
    }
}

impl ThreadDetector {
    fn mark(&self) -> Option<u64> {
        match self {
            ThreadDetector::LastId(file) => parse_last_id(&read_proc_file(file).ok()?),
            ThreadDetector::Count => thread_count(),
            ThreadDetector::Unknown => None,
        }
    }

    fn detects_new_thread(&self) -> bool {
        let before = self.mark();
        let (release, wait) = crossbeam_channel::bounded::<()>(0);
        // The probe lives until it is released, so that it is counted too.
        let probe = thread::Builder::new().spawn(move || wait.iter().for_each(drop));
        let seen = before.is_some() && self.mark() != before;
        drop(release);
        probe.is_ok_and(|probe| probe.join().is_ok()) && seen
    }
}

/// A thread observed from outside.
pub(super) struct ThreadMonitor {
    status: File,
    /// The thread's context switches when everything up to then had been dealt with.
    baseline: String,
}

/// What a [`ThreadMonitor`] sees.
pub(super) enum ThreadSample {
    /// The thread has ended, or cannot be seen any more.
    Gone,
    /// Its count of context switches: changed if and only if it ran.
    Switches(String),
}

impl ThreadMonitor {
    /// Finds the accept thread that the thread `parent` started. It inherited its parent's name,
    /// as threads without a name of their own do; the name must be unique in this process.
    pub(super) fn find_accept_thread(name: &str, parent: u32) -> Option<ThreadMonitor> {
        let candidates = find_threads(name)?.into_iter().filter(|&id| id != parent);
        // The accept thread starts the pool threads, so it is the next one after its parent. Ids
        // are given in ascending order and wrap around, hence the distance.
        let id = candidates.min_by_key(|id| id.wrapping_sub(parent))?;
        let status = File::open(format!("/proc/self/task/{id}/status")).ok()?;
        let watch = ThreadMonitor { status, baseline: String::new() };
        matches!(watch.sample(), ThreadSample::Switches(_)).then_some(watch)
    }

    pub(super) fn sample(&self) -> ThreadSample {
        let text = read_proc_file(&self.status).ok();
        match text.as_deref().and_then(find_switches) {
            Some(switches) => ThreadSample::Switches(switches.to_owned()),
            None => ThreadSample::Gone,
        }
    }

    /// Whether the thread ran or ended since the baseline.
    pub(super) fn has_run(&self) -> bool {
        !matches!(self.sample(), ThreadSample::Switches(now) if now == self.baseline)
    }

    /// Whether no baseline was set yet.
    pub(super) fn is_fresh(&self) -> bool {
        self.baseline.is_empty()
    }

    /// Sets the baseline; gives whether it moved.
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

/// The ids of this process's threads of that name; `None` where they cannot be listed.
pub(super) fn find_threads(name: &str) -> Option<Vec<u32>> {
    let tasks = fs::read_dir("/proc/self/task").ok()?;
    let ids = tasks.flatten().filter(|task| has_name(&task.path(), name));
    Some(ids.filter_map(|task| task.file_name().to_str()?.parse().ok()).collect())
}

fn has_name(task: &Path, name: &str) -> bool {
    // A thread that ended meanwhile has no name, which is right.
    fs::read_to_string(task.join("comm")).is_ok_and(|comm| comm.trim_end() == name)
}

/// The last field of `/proc/loadavg`.
fn parse_last_id(loadavg: &str) -> Option<u64> {
    loadavg.split_whitespace().last()?.parse().ok()
}

/// The links of the directory of threads: one for each, and two of its own.
#[cfg(unix)]
fn thread_count() -> Option<u64> {
    fs::metadata("/proc/self/task").ok().map(|task| std::os::unix::fs::MetadataExt::nlink(&task))
}

#[cfg(not(unix))]
fn thread_count() -> Option<u64> {
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

/// Reads an open file of `/proc` anew from its start.
fn read_proc_file(file: &File) -> io::Result<String> {
    let mut buffer = [0; BUFFER_BYTES];
    let len = read_at_start(file, &mut buffer)?;
    String::from_utf8(buffer[..len].to_vec()).map_err(io::Error::other)
}

#[cfg(unix)]
fn read_at_start(file: &File, buffer: &mut [u8]) -> io::Result<usize> {
    std::os::unix::fs::FileExt::read_at(file, buffer, 0)
}

#[cfg(not(unix))]
fn read_at_start(_: &File, _: &mut [u8]) -> io::Result<usize> {
    Err(io::ErrorKind::Unsupported.into())
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
        assert!(!ThreadDetector::Unknown.detects_new_thread());
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_thread_is_seen_to_run_and_to_end() {
        let (go, wait) = crossbeam_channel::bounded::<()>(0);
        let owner = thread::Builder::new().name("facts-test".to_owned()).spawn(move || {
            let child = thread::spawn(move || wait.iter().for_each(drop));
            (
                current_thread_id()
                    .and_then(|id| ThreadMonitor::find_accept_thread("facts-test", id)),
                child,
            )
        });
        let (watch, child) = owner.expect("a thread").join().expect("no panic");
        let mut watch = watch.expect("the child is found");
        // The child may still be on its way to sleep, so its count can rise once more.
        while let (true, ThreadSample::Switches(now)) = (watch.has_run(), watch.sample()) {
            watch.set_baseline(now);
        }
        go.send(()).expect("the child receives");
        wait_until("it ran", || watch.has_run());
        drop(go);
        child.join().expect("no panic");
        wait_until("it ended", || matches!(watch.sample(), ThreadSample::Gone));
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
