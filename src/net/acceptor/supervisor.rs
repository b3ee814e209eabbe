//! The thread that decides when to nudge, when the queue is proven empty, and when to restart.
//!
//! A *check* is one round of nudges. It ends with the proof that the queue is empty, or the next check
//! follows without a reason of its own. Invariant: no nudge is sent while no connection was accepted
//! since the last check that ended with a proof.

use std::io::{self, Write};
use std::mem;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use super::Shared;
use super::generation::{Generation, THREADS_PER_GENERATION};
use super::nudge::{NudgeResult, loopback_targets, nudge};
use super::proc_stats::ThreadDetector;
use crate::net::arrivals::Arrivals;
use crate::observe::system_error;

/// Longest sleep where arrivals are announced.
const REST_INTERVAL: Duration = Duration::from_secs(10);
/// Longest sleep where they are not.
const CHECK_INTERVAL: Duration = Duration::from_millis(150);
/// Time until a check without proof is repeated.
const UNPROVEN_INTERVAL: Duration = Duration::from_millis(25);
/// Shortest time between two checks, so that clients without keep-alive do not cause many nudges.
const MIN_INTERVAL: Duration = Duration::from_millis(10);
/// The same while connections arrive and no request does.
const ARRIVAL_INTERVAL: Duration = Duration::from_millis(25);
/// Most nudges of one check; each but the last gives one waiting connection a thread.
const MAX_NUDGES: u64 = 512;
/// Time to wait for the answer to a nudge, doubled with each unanswered one.
const ANSWER_TIMEOUT: Duration = Duration::from_millis(4);
/// Longest time to wait for one answer.
const MAX_ANSWER_TIMEOUT: Duration = Duration::from_millis(256);
/// Unanswered nudges in a row that confirm the end of an accept thread that is gone (28 ms).
const MISSES_IF_GONE: u32 = 3;
/// Unanswered nudges in a row that prove that a server whose accept thread is not known to have begun
/// does not accept (1 s).
const MISSES_IF_UNKNOWN: u32 = 9;
/// Unanswered nudges in a row that prove the same although the accept thread runs (5 s).
const MISSES_IF_ALIVE: u32 = 25;
/// Nudges of a check where arrivals are not announced.
const BLIND_NUDGES: u64 = 16;
/// Where arrivals are not announced: how long after a request every interval has a check.
const BLIND_ACTIVE_TIME: Duration = Duration::from_secs(5);
/// Where arrivals are not announced: time between checks without requests.
const BLIND_INTERVAL: Duration = Duration::from_secs(1);
/// Shortest time between searches for old generations without connections.
const SWEEP_INTERVAL: Duration = Duration::from_secs(1);
/// Most generations. Beyond it the oldest is shut down although it may have open connections, whose
/// next request then stays unanswered.
const MAX_GENERATIONS: usize = 64;
/// Descriptors that must be free before a restart: one connection takes two.
const MIN_FREE_DESCRIPTORS: usize = 8;

/// Most waiting connections that are refused before one restart.
const MAX_REJECTED: usize = 2048;
/// The response that they get: Ollama's own when its queue is full (server/sched.go).
const BUSY_RESPONSE: &[u8] =
    b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\n\
    Retry-After: 1\r\nConnection: close\r\nContent-Length: 77\r\n\r\n\
    {\"error\":\"server busy, please try again.  maximum pending requests exceeded\"}";

/// Bytes of stack of a thread that is only started to see whether it can be.
const TRIAL_STACK_BYTES: usize = 16 * 1024;

/// The state of the supervisor's thread.
pub(super) struct Supervisor {
    shared: Arc<Shared>,
    targets: Vec<SocketAddr>,
    arrivals: Arc<Arrivals>,
    proc_root: PathBuf,
    thread_detector: Option<ThreadDetector>,
    /// The generation that accepts.
    current: Generation,
    /// Threads that had begun to accept, and had ended, before the current generation.
    earlier_threads: (u64, u64),
    /// Earlier generations that may have open connections, oldest first.
    old_generations: Vec<Generation>,
    /// Whether the last check ended without a proof.
    unproven: bool,
    /// Accepted connections that were counted, and how many of them may be waiting for a thread.
    counted: u64,
    waiting: u64,
    /// When to restart, after the current accept thread has ended.
    restart_at: Option<Instant>,
    backoff: Backoff,
    last_request: Instant,
    last_check: Instant,
    last_sweep: Instant,
    /// Whether a nudge has ever been answered.
    reachable: bool,
    /// Checks in a row that could not send a nudge.
    failed_rounds: u32,
}

/// The outcome of a round of nudges.
enum RoundResult {
    /// Every connection accepted before the round is being served.
    Proven,
    /// Nothing is certain.
    Unproven,
    /// Nothing accepts connections.
    NotAccepting,
    /// No nudge can be sent, so the next check waits for a request.
    Unreachable,
}

impl Supervisor {
    pub(super) fn new(
        shared: Arc<Shared>,
        addr: SocketAddr,
        arrivals: Arc<Arrivals>,
        proc_root: &Path,
    ) -> io::Result<Supervisor> {
        let now = Instant::now();
        let (counted, earlier_threads) = (arrivals.accepted(), arrivals.threads());
        Ok(Supervisor {
            targets: loopback_targets(addr),
            thread_detector: ThreadDetector::find(proc_root),
            proc_root: proc_root.to_owned(),
            current: Generation::start(&shared)?,
            earlier_threads,
            old_generations: Vec::new(),
            unproven: true,
            counted,
            waiting: 0,
            shared,
            arrivals,
            restart_at: None,
            backoff: Backoff::default(),
            last_request: now,
            last_check: now,
            last_sweep: now,
            reachable: false,
            failed_rounds: 0,
        })
    }

    /// Runs until the acceptor stops, then shuts all generations down.
    pub(super) fn run(mut self) {
        while !self.shared.is_closing() {
            // Cleared before the check, so that later ones cause another one.
            let has_request = self.shared.request_noted.swap(false, Ordering::SeqCst);
            let has_arrival = self.shared.arrival_noted.swap(false, Ordering::SeqCst);
            if has_request {
                self.last_request = Instant::now();
            }
            self.tick();
            if has_request || has_arrival {
                thread::sleep(MIN_INTERVAL);
            }
            // A crowd that asks nothing is not worth as many nudges as requests are.
            if has_arrival && !has_request && !self.shared.request_noted.load(Ordering::SeqCst) {
                thread::sleep(ARRIVAL_INTERVAL - MIN_INTERVAL);
            }
            // Returns at once if the thread was woken since the last time.
            thread::park_timeout(self.wait_time());
        }
        while !self.shared.is_stopping() {
            thread::park();
        }
        self.old_generations.into_iter().chain([self.current]).for_each(Generation::shutdown);
    }

    /// How long to sleep unless woken.
    fn wait_time(&self) -> Duration {
        match self.restart_at {
            Some(due) => due.saturating_duration_since(Instant::now()),
            None if self.unproven => UNPROVEN_INTERVAL,
            None if self.has_announcements() => REST_INTERVAL,
            None => CHECK_INTERVAL,
        }
    }

    /// Whether arrivals are announced: the first nudge shows it.
    fn has_announcements(&self) -> bool {
        self.arrivals.accepted() > 0
    }

    fn tick(&mut self) {
        let accept_error = self.current.accept_error().map(str::to_owned);
        if let Some(error) = accept_error.filter(|_| self.restart_at.is_none()) {
            self.mark_dead(&error);
        }
        if let Some(due) = self.restart_at {
            if Instant::now() >= due {
                self.restart();
            }
        } else if self.unproven || self.may_have_arrivals() {
            self.check_queue();
        } else {
            self.sweep();
        }
    }

    /// Whether a connection may have arrived since the last proof, or the accept thread has ended.
    fn may_have_arrivals(&self) -> bool {
        if self.has_announcements() {
            return self.arrivals.accepted() != self.counted || self.is_accept_thread_gone();
        }
        self.last_request.elapsed() < BLIND_ACTIVE_TIME
            || self.last_check.elapsed() >= BLIND_INTERVAL
    }

    /// Nudges until every connection is served, as far as that can be proven.
    fn check_queue(&mut self) {
        self.last_check = Instant::now();
        let accepted = self.arrivals.accepted();
        self.waiting += accepted - mem::replace(&mut self.counted, accepted);
        let (result, answered) = self.nudge_until_proven();
        self.waiting = match result {
            RoundResult::Proven | RoundResult::Unreachable => 0,
            RoundResult::Unproven | RoundResult::NotAccepting => {
                self.waiting.saturating_sub(answered)
            }
        };
        // Without the answered nudges: what arrived during the round may wait.
        let accepted = self.arrivals.accepted();
        let arrived = accepted - mem::replace(&mut self.counted, accepted);
        self.waiting += arrived.saturating_sub(answered);
        match result {
            RoundResult::Proven => self.unproven = self.waiting > 0,
            RoundResult::Unproven => self.unproven = true,
            RoundResult::Unreachable => (self.unproven, self.waiting) = (false, 0),
            RoundResult::NotAccepting => self.mark_dead("it accepted no connection"),
        }
    }

    /// One round of nudges: its result, and how many of them were answered.
    fn nudge_until_proven(&mut self) -> (RoundResult, u64) {
        let needed = match self.has_announcements() {
            true => self.waiting.max(1),
            false => BLIND_NUDGES,
        };
        let (mut answered, mut misses, mut quiet) = (0, 0, 0);
        for _ in 0..MAX_NUDGES {
            if self.shared.is_closing() {
                break;
            }
            let threads = self.thread_mark();
            let gone = self.is_accept_thread_gone();
            match nudge(&self.targets, answer_timeout(misses)) {
                NudgeResult::Answered => {
                    self.note_answer(gone);
                    (answered, misses) = (answered + 1, 0);
                    let is_quiet = threads.is_some() && threads == self.thread_mark();
                    quiet = if is_quiet { quiet + 1 } else { 0 };
                    let detector = self.thread_detector.as_ref();
                    let no_thread_started =
                        detector.is_some_and(|it| quiet >= it.required_repeats());
                    if answered >= needed || no_thread_started {
                        return (RoundResult::Proven, answered);
                    }
                }
                NudgeResult::Failed(error) if !gone => {
                    return (self.note_failed_round(&error.to_string()), answered);
                }
                NudgeResult::Failed(_) | NudgeResult::Unanswered => {
                    misses += 1;
                    if let Some(result) = self.evaluate_misses(gone, misses) {
                        return (result, answered);
                    }
                }
            }
        }
        (RoundResult::Unproven, answered)
    }

    fn thread_mark(&self) -> Option<u64> {
        self.thread_detector.as_ref()?.mark()
    }

    /// Whether the current generation's accept thread is known to have begun.
    fn has_begun(&self) -> bool {
        self.arrivals.threads().0 > self.earlier_threads.0
    }

    fn is_accept_thread_gone(&self) -> bool {
        self.has_begun() && self.arrivals.threads().1 > self.earlier_threads.1
    }

    fn note_answer(&mut self, gone: bool) {
        self.reachable = true;
        self.failed_rounds = 0;
        if gone {
            // A thread accepts, so that of an earlier generation has ended.
            self.earlier_threads.1 = self.arrivals.threads().1;
        }
    }

    /// What this many unanswered nudges in a row prove; `None` if they are too few.
    fn evaluate_misses(&mut self, gone: bool, misses: u32) -> Option<RoundResult> {
        let allowed = match self.has_begun() {
            _ if gone => MISSES_IF_GONE,
            true => MISSES_IF_ALIVE,
            false => MISSES_IF_UNKNOWN,
        };
        if misses < allowed {
            return None;
        }
        // If no nudge was ever answered, a firewall may drop them.
        Some(if gone || self.reachable {
            RoundResult::NotAccepting
        } else {
            self.note_failed_round("no answer")
        })
    }

    fn note_failed_round(&mut self, cause: &str) -> RoundResult {
        self.failed_rounds += 1;
        // The first failure may be that of an accept thread that is ending, which is logged elsewhere.
        if self.failed_rounds == 2 && !self.shared.is_closing() {
            log::warn!(
                "cannot connect to this proxy's own port ({cause}): new connections may be served late"
            );
        }
        // After an earlier success the cause is temporary, such as a lack of descriptors.
        if self.reachable { RoundResult::Unproven } else { RoundResult::Unreachable }
    }

    /// Notes that the current accept thread has ended, and plans the restart.
    fn mark_dead(&mut self, cause: &str) {
        let delay = self.backoff.next_delay(Instant::now());
        log::warn!("accept thread stopped ({cause}); accepting again in {} ms", delay.as_millis());
        self.restart_at = Some(Instant::now() + delay);
    }

    fn restart(&mut self) {
        if self.backoff.is_retrying() {
            self.reject_pending();
        }
        match self.start_generation() {
            Ok(()) => {
                log::info!("accepting connections again");
                self.restart_at = None;
                self.unproven = true;
                self.sweep();
            }
            Err(error) => {
                let delay = self.backoff.next_delay(Instant::now());
                let millis = delay.as_millis();
                let why = system_error::describe_spawn(&error);
                log::debug!("cannot start an accept thread, retrying in {millis} ms: {why}");
                self.restart_at = Some(Instant::now() + delay);
            }
        }
    }

    /// Accepts all pending connections and answers them 503. Otherwise the connections that piled up
    /// while descriptors or threads were lacking, most of them abandoned by their clients, would use up
    /// those of the next generation.
    fn reject_pending(&self) {
        let Ok(listener) = self.shared.clone_listener() else { return };
        // This changes the socket for all its duplicates; no accept thread runs at the moment.
        if listener.set_nonblocking(true).is_err() {
            return;
        }
        let accepted = || listener.accept().ok();
        let mut count = 0;
        for (mut stream, _) in std::iter::from_fn(accepted).take(MAX_REJECTED) {
            // Do not wait for a client that does not read at once.
            let _ = stream.set_nonblocking(true).and_then(|()| stream.write(BUSY_RESPONSE));
            count += 1;
        }
        if count > 0 {
            log::warn!("{count} waiting connections answered 503: no thread accepted them");
        }
        if let Err(error) = listener.set_nonblocking(false) {
            let why = system_error::describe(&error);
            log::error!("cannot set the listening socket back to blocking: {why}");
        }
    }

    /// Starts the next generation, if enough descriptors and threads are available.
    fn start_generation(&mut self) -> io::Result<()> {
        let duplicates = (0..MIN_FREE_DESCRIPTORS).map(|_| self.shared.clone_listener());
        drop(duplicates.collect::<io::Result<Vec<_>>>()?);
        check_thread_headroom()?;
        self.earlier_threads = self.arrivals.threads();
        let old = mem::replace(&mut self.current, Generation::start(&self.shared)?);
        self.old_generations.push(old);
        if self.old_generations.len() >= MAX_GENERATIONS {
            self.old_generations.remove(0).shutdown();
        }
        Ok(())
    }

    /// Shuts down old generations without open connections.
    fn sweep(&mut self) {
        if !self.old_generations.is_empty() && self.last_sweep.elapsed() >= SWEEP_INTERVAL {
            self.last_sweep = Instant::now();
            // A list without the threads that are certain to run proves nothing about others.
            if self.current.is_listed(&self.proc_root) {
                let is_unused = |old: &mut Generation| old.is_unused(&self.proc_root);
                let unused = self.old_generations.extract_if(.., is_unused);
                unused.for_each(Generation::shutdown);
            }
        }
    }
}

/// Checks that a generation's threads can be started. One that starts in part leaves threads behind for
/// 5 seconds, so that repeated attempts would use up the threads that become available.
fn check_thread_headroom() -> io::Result<()> {
    let (release, wait) = crossbeam_channel::bounded::<()>(0);
    let start = |_| {
        let wait = wait.clone();
        thread::Builder::new()
            .stack_size(TRIAL_STACK_BYTES)
            .spawn(move || wait.iter().for_each(drop))
    };
    let mut started = Vec::new();
    let result =
        (0..THREADS_PER_GENERATION).map(start).try_for_each(|each| each.map(|it| started.push(it)));
    drop(release);
    // They end at once and cannot panic.
    started.into_iter().for_each(|each| drop(each.join()));
    result
}

/// How long to wait for the answer to the next nudge.
fn answer_timeout(misses: u32) -> Duration {
    (ANSWER_TIMEOUT * 2_u32.pow(misses.min(8))).min(MAX_ANSWER_TIMEOUT)
}

/// The delays before restarts: none after a quiet time, then growing.
#[derive(Default)]
struct Backoff {
    /// Attempts since the last quiet time.
    attempts: usize,
    last_attempt: Option<Instant>,
}

impl Backoff {
    /// Short, because the guard frees lacking descriptors within a moment.
    const DELAYS: [Duration; 3] =
        [Duration::ZERO, Duration::from_millis(250), Duration::from_millis(500)];
    /// How long after an attempt the delays start anew.
    const RESET_AFTER: Duration = Duration::from_secs(10);

    fn is_retrying(&self) -> bool {
        self.attempts > 1
    }

    fn next_delay(&mut self, now: Instant) -> Duration {
        let since = self.last_attempt.map(|last| now.duration_since(last));
        if since.is_none_or(|since| since >= Self::RESET_AFTER) {
            self.attempts = 0;
        }
        let delay = Self::DELAYS[self.attempts.min(Self::DELAYS.len() - 1)];
        self.attempts += 1;
        self.last_attempt = Some(now);
        delay
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wait_depends_on_what_is_known() {
        let (shared, root) = (Shared::for_tests(), Path::new("/nonexistent"));
        let addr = SocketAddr::from(([127, 0, 0, 1], 1));
        let mut supervisor =
            Supervisor::new(shared, addr, Arrivals::at_port(0), root).expect("threads");
        assert_eq!(supervisor.wait_time(), UNPROVEN_INTERVAL, "nothing is known at the start");
        supervisor.unproven = false;
        assert_eq!(supervisor.wait_time(), CHECK_INTERVAL, "no arrival was announced");
        supervisor.restart_at = Some(Instant::now());
        assert_eq!(supervisor.wait_time(), Duration::ZERO);
        supervisor.current.shutdown();
    }

    #[test]
    fn delays_double_up_to_a_limit_and_start_anew_after_a_quiet_time() {
        let start = Instant::now();
        let mut backoff = Backoff::default();
        let mut check = |at_seconds, expected_millis| {
            let delay = backoff.next_delay(start + Duration::from_secs(at_seconds));
            assert_eq!(delay.as_millis(), expected_millis, "at {at_seconds} s");
        };
        check(0, 0);
        check(0, 250);
        check(1, 500);
        check(2, 500);
        check(11, 500);
        check(21, 0);
        check(22, 250);
    }

    #[test]
    fn patience_doubles_up_to_a_limit() {
        let check =
            |misses, millis| assert_eq!(answer_timeout(misses).as_millis(), millis, "{misses}");
        check(0, 4);
        check(1, 8);
        check(6, 256);
        check(7, 256);
        check(1000, 256);
    }
}
