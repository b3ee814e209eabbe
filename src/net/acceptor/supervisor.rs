//! The thread that decides when to nudge, when the queue is proven empty, and when to listen again.
//!
//! A *look* is one round of nudges. It ends with a proof, or leaves the supervisor *restless*,
//! which means that the next look comes without being asked for. It makes no connection while the
//! accept thread rests.

use std::io::{self, Write};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::Receiver;

use super::generation::Generation;
use super::nudge::{NudgeResult, loopback_targets, nudge};
use super::proc_stats::{ProcCounters, ThreadMonitor, ThreadSample};
use super::{AcceptFailure, Shared};

/// How often the accept thread is looked at when nothing tells us to.
const CHECK_INTERVAL: Duration = Duration::from_millis(150);
/// How soon a look that proved nothing is repeated.
const UNPROVEN_INTERVAL: Duration = Duration::from_millis(25);
/// The least time between two looks, so that clients without keep-alive do not pay for nudges.
const MIN_INTERVAL: Duration = Duration::from_millis(10);
/// Most nudges of one look; each one but the last frees one connection.
const MAX_NUDGES: u64 = 512;
/// How long a nudge's answer is awaited at first, doubled with each one that stays away.
const ANSWER_TIMEOUT: Duration = Duration::from_millis(4);
/// The longest that one answer is awaited.
const MAX_ANSWER_TIMEOUT: Duration = Duration::from_millis(256);
/// Unanswered nudges in a row that confirm the end of an accept thread known to be gone (28 ms).
const MISSES_IF_GONE: u32 = 3;
/// Unanswered nudges in a row that show a server deaf whose accept thread cannot be seen (1 s).
const MISSES_IF_UNKNOWN: u32 = 9;
/// Unanswered nudges in a row after which we do not believe that the accept thread lives (5 s).
const MISSES_IF_ALIVE: u32 = 25;
/// Without proof, the nudges of one look.
const BLIND_NUDGES: u32 = 16;
/// Without a thread to watch, how long after a request every tick is a look.
const BLIND_ACTIVE_TIME: Duration = Duration::from_secs(5);
/// Without a thread to watch, the time between looks when no request comes.
const BLIND_INTERVAL: Duration = Duration::from_secs(1);
/// How often old generations are searched for some that can go.
const SWEEP_INTERVAL: Duration = Duration::from_secs(1);
/// Most generations kept. Beyond it the oldest goes although it may have live connections, whose
/// next request would then stay unanswered.
const MAX_GENERATIONS: usize = 64;
/// Descriptors that must be free before we listen again: one connection takes two.
const MIN_FREE_DESCRIPTORS: usize = 8;

/// Connections that are turned away at a time.
const MAX_REJECTED: usize = 2048;
/// What they are told.
const BUSY_RESPONSE: &[u8] =
    b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\n\
    Retry-After: 1\r\nConnection: close\r\nContent-Length: 77\r\n\r\n\
    {\"error\":\"server busy, please try again.  maximum pending requests exceeded\"}";

/// Threads of a generation: receiver, accept thread, and the least of tiny_http's pool.
const THREADS_PER_GENERATION: usize = 6;
/// Bytes of stack of a thread that does nothing.
const TRIAL_STACK_BYTES: usize = 16 * 1024;

/// The state of the supervising thread.
pub(super) struct Supervisor {
    shared: Arc<Shared>,
    failures: Receiver<AcceptFailure>,
    targets: Vec<SocketAddr>,
    counters: ProcCounters,
    /// Oldest first; the last one is current.
    generations: Vec<Generation>,
    /// Whether the last look proved nothing.
    unproven: bool,
    /// When to try to listen again, if the current generation's accept thread has died.
    relisten_at: Option<Instant>,
    backoff: Backoff,
    last_request: Instant,
    last_check: Instant,
    last_sweep: Instant,
    /// Whether a nudge was ever answered.
    reachable: bool,
    /// How many rounds in a row could not nudge.
    failed_rounds: u32,
}

/// What a round of nudges found out.
enum RoundResult {
    /// Every connection established before the last of so many nudges is being served.
    Proven(u64),
    /// Nothing certain.
    Unproven,
    /// Nobody accepts.
    NotAccepting,
    /// No nudge can be made here, so that the next look waits for an occasion.
    Unreachable,
}

impl Supervisor {
    pub(super) fn new(
        shared: Arc<Shared>,
        failures: Receiver<AcceptFailure>,
        addr: SocketAddr,
        first: Generation,
    ) -> Supervisor {
        let now = Instant::now();
        Supervisor {
            shared,
            failures,
            targets: loopback_targets(addr),
            counters: ProcCounters::open(),
            generations: vec![first],
            unproven: true,
            relisten_at: None,
            backoff: Backoff::default(),
            last_request: now,
            last_check: now,
            last_sweep: now,
            reachable: false,
            failed_rounds: 0,
        }
    }

    /// Runs until the acceptor stops, then ends all generations.
    pub(super) fn run(mut self) {
        while !self.shared.is_closing() {
            // Cleared before the look, so that a request after it is told anew.
            let asked = self.shared.request_noted.swap(false, Ordering::SeqCst);
            if asked {
                self.last_request = Instant::now();
            }
            self.handle_failures();
            self.tick();
            if asked {
                thread::sleep(MIN_INTERVAL);
            }
            // A wake-up since the last one makes this return at once.
            thread::park_timeout(self.wait_time());
        }
        while !self.shared.is_stopping() {
            thread::park();
        }
        self.generations.drain(..).for_each(Generation::shutdown);
    }

    /// How long to rest unless woken.
    fn wait_time(&self) -> Duration {
        match self.relisten_at {
            Some(due) => due.saturating_duration_since(Instant::now()),
            None if self.unproven => UNPROVEN_INTERVAL,
            None => CHECK_INTERVAL,
        }
    }

    fn handle_failures(&mut self) {
        while let Ok(failure) = self.failures.try_recv() {
            // An old generation's is late news.
            if self.relisten_at.is_none() && failure.generation == self.current().name {
                self.mark_dead(&failure.error.to_string());
            }
        }
    }

    fn tick(&mut self) {
        if let Some(due) = self.relisten_at {
            if Instant::now() >= due {
                self.listen_again();
            }
        } else if self.unproven || self.may_have_arrivals() {
            self.check_queue();
        } else {
            self.sweep();
        }
    }

    /// Whether a connection may have arrived since the last proof.
    fn may_have_arrivals(&self) -> bool {
        match &self.current().accept_monitor {
            Some(watch) => watch.has_run(),
            None => {
                self.last_request.elapsed() < BLIND_ACTIVE_TIME
                    || self.last_check.elapsed() >= BLIND_INTERVAL
            }
        }
    }

    /// Nudges until every connection is served, as far as that can be known.
    ///
    /// The order of the readings makes it exact: a connection that arrived during the round shows
    /// in the count of connections, one after it makes the accept thread run once more.
    fn check_queue(&mut self) {
        self.last_check = Instant::now();
        let before = self.counters.connection_count();
        let round = self.nudge_until_proven();
        let reading = self.current().accept_monitor.as_ref().map(ThreadMonitor::sample);
        let after = self.counters.connection_count();
        let arrived = before.zip(after).map(|(before, after)| after.saturating_sub(before));
        match round {
            RoundResult::Proven(nudges) => {
                if arrived == Some(0) {
                    self.counters.stop_counting_connections();
                }
                self.unproven = arrived.is_some_and(|arrived| arrived != nudges);
                if !self.unproven {
                    self.set_baseline(reading);
                }
            }
            RoundResult::Unproven => self.unproven = true,
            RoundResult::Unreachable => {
                self.unproven = false;
                if let (Some(watch), Some(ThreadSample::Switches(now))) =
                    (&mut self.current_mut().accept_monitor, reading)
                {
                    watch.set_baseline(now);
                }
            }
            RoundResult::NotAccepting => self.mark_dead("it does not answer"),
        }
    }

    /// Notes that everything up to this reading has been dealt with.
    fn set_baseline(&mut self, reading: Option<ThreadSample>) {
        let proven = self.counters.thread_mark().is_some();
        let current = self.current_mut();
        match (&mut current.accept_monitor, reading) {
            // Rest would be unfounded.
            _ if !proven => current.stop_monitoring(),
            (Some(watch), Some(ThreadSample::Switches(now))) => {
                // The second look shows whether the count moves at all: it must, for our nudges.
                let fresh = watch.is_fresh();
                if !watch.set_baseline(now) {
                    current.stop_monitoring();
                }
                self.unproven = fresh;
            }
            (None, _) => current.resume_monitoring(),
            _ => {}
        }
    }

    fn nudge_until_proven(&mut self) -> RoundResult {
        let (mut misses, mut quiet) = (0, 0);
        for count in 1..=MAX_NUDGES {
            if self.shared.is_closing() {
                return RoundResult::Unproven;
            }
            let threads = self.counters.thread_mark();
            let gone = self.is_accept_thread_gone();
            match nudge(&self.targets, answer_timeout(misses)) {
                NudgeResult::Answered => {
                    self.note_answer(gone);
                    misses = 0;
                    quiet = if threads == self.counters.thread_mark() { quiet + 1 } else { 0 };
                    let needed = threads.map_or(BLIND_NUDGES, |_| self.counters.required_repeats());
                    if quiet >= needed {
                        return RoundResult::Proven(count);
                    }
                }
                NudgeResult::Failed(error) if !gone => {
                    return self.note_failed_round(&error.to_string());
                }
                NudgeResult::Failed(_) | NudgeResult::Unanswered => {
                    misses += 1;
                    if let Some(round) = self.evaluate_misses(gone, misses) {
                        return round;
                    }
                }
            }
        }
        RoundResult::Unproven
    }

    fn is_accept_thread_gone(&self) -> bool {
        self.current()
            .accept_monitor
            .as_ref()
            .is_some_and(|watch| matches!(watch.sample(), ThreadSample::Gone))
    }

    fn note_answer(&mut self, gone: bool) {
        self.reachable = true;
        self.failed_rounds = 0;
        if gone {
            // Somebody accepts, so it was not the accept thread that we watched.
            self.current_mut().stop_monitoring();
        }
    }

    /// What so many nudges without an answer mean, if they are enough to mean anything.
    fn evaluate_misses(&mut self, gone: bool, misses: u32) -> Option<RoundResult> {
        let allowed = match self.current().accept_monitor {
            Some(_) if gone => MISSES_IF_GONE,
            Some(_) => MISSES_IF_ALIVE,
            None => MISSES_IF_UNKNOWN,
        };
        if misses < allowed {
            return None;
        }
        // Silence from the start may be a firewall's.
        Some(if gone || self.reachable {
            RoundResult::NotAccepting
        } else {
            self.note_failed_round("no answer")
        })
    }

    fn note_failed_round(&mut self, cause: &str) -> RoundResult {
        self.failed_rounds += 1;
        // The first one may be the last nudge of a dying accept thread, which is told elsewhere.
        if self.failed_rounds == 2 && !self.shared.is_closing() {
            log::warn!("cannot connect to our own port, connections may have to wait: {cause}");
        }
        // What was possible once will be again, say when there are descriptors.
        if self.reachable { RoundResult::Unproven } else { RoundResult::Unreachable }
    }

    /// Notes the death of the current accept thread and decides when to listen again.
    fn mark_dead(&mut self, cause: &str) {
        let delay = self.backoff.next_delay(Instant::now());
        log::warn!(
            "the accept thread has died ({cause}); listening again in {} ms",
            delay.as_millis()
        );
        self.relisten_at = Some(Instant::now() + delay);
        // Its descriptor is worth more than the view of a dead thread.
        self.current_mut().accept_monitor = None;
    }

    fn listen_again(&mut self) {
        if self.backoff.is_retrying() {
            self.reject_pending();
        }
        match self.start_generation() {
            Ok(()) => {
                log::info!("listening again");
                self.relisten_at = None;
                self.unproven = true;
                self.sweep();
            }
            Err(error) => {
                let delay = self.backoff.next_delay(Instant::now());
                log::debug!("cannot listen again, next attempt in {delay:?}: {error}");
                self.relisten_at = Some(Instant::now() + delay);
            }
        }
    }

    /// Answers whoever waits to be accepted that we are busy. Without, what waited while there was
    /// nothing to serve it with, most of it given up by now, would end the next accept thread, too.
    fn reject_pending(&self) {
        let Ok(listener) = self.shared.clone_listener() else { return };
        // It is the socket that is changed, not this handle; nobody else accepts at the moment.
        if listener.set_nonblocking(true).is_err() {
            return;
        }
        let accepted = || listener.accept().ok();
        let mut count = 0;
        for (mut stream, _) in std::iter::from_fn(accepted).take(MAX_REJECTED) {
            // A client that does not take it at once is not waited for.
            let _ = stream.set_nonblocking(true).and_then(|()| stream.write(BUSY_RESPONSE));
            count += 1;
        }
        if count > 0 {
            log::warn!("{count} connections were turned away");
        }
        if let Err(error) = listener.set_nonblocking(false) {
            log::error!("the listening socket cannot be waited on: {error}");
        }
    }

    /// Starts the next generation, if there are descriptors and threads for it to live on.
    fn start_generation(&mut self) -> io::Result<()> {
        let room: io::Result<Vec<_>> =
            (0..MIN_FREE_DESCRIPTORS).map(|_| self.shared.clone_listener()).collect();
        drop(room?);
        check_thread_headroom()?;
        self.generations.push(Generation::start(&self.shared)?);
        if self.generations.len() > MAX_GENERATIONS {
            self.generations.remove(0).shutdown();
        }
        Ok(())
    }

    /// Lets old generations go that have no connection left.
    fn sweep(&mut self) {
        if self.generations.len() < 2 || self.last_sweep.elapsed() < SWEEP_INTERVAL {
            return;
        }
        self.last_sweep = Instant::now();
        let newest = self.generations.len() - 1;
        for old in (0..newest).rev() {
            if self.generations[old].is_unused() {
                self.generations.remove(old).shutdown();
            }
        }
    }

    fn current(&self) -> &Generation {
        &self.generations[self.generations.len() - 1]
    }

    fn current_mut(&mut self) -> &mut Generation {
        let last = self.generations.len() - 1;
        &mut self.generations[last]
    }
}

/// Whether a generation's threads could be started. One that is started in part leaves threads behind
/// for 5 seconds, so that trying again and again would use up what becomes free.
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
    // They have nothing to panic about, and end at once.
    started.into_iter().for_each(|each| drop(each.join()));
    result
}

/// How long to wait for the answer of the next nudge.
fn answer_timeout(misses: u32) -> Duration {
    (ANSWER_TIMEOUT * 2_u32.pow(misses.min(8))).min(MAX_ANSWER_TIMEOUT)
}

/// The delays between attempts to listen: none after a quiet time, then doubling.
#[derive(Default)]
struct Backoff {
    delay: Duration,
    last_attempt: Option<Instant>,
}

impl Backoff {
    const FIRST_DELAY: Duration = Duration::from_millis(250);
    /// Short: what it ran out of, descriptors above all, the guard frees within a moment.
    const MAX_DELAY: Duration = Duration::from_millis(500);
    /// An attempt this long after the last one starts anew.
    const RESET_AFTER: Duration = Duration::from_secs(10);

    /// Whether the last attempt was not the first one.
    fn is_retrying(&self) -> bool {
        !self.delay.is_zero()
    }

    fn next_delay(&mut self, now: Instant) -> Duration {
        let quiet =
            self.last_attempt.is_none_or(|last| now.duration_since(last) >= Self::RESET_AFTER);
        self.delay = match self.delay {
            _ if quiet => Duration::ZERO,
            Duration::ZERO => Self::FIRST_DELAY,
            delay => (delay * 2).min(Self::MAX_DELAY),
        };
        self.last_attempt = Some(now);
        self.delay
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
