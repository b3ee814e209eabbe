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
use super::nudge::{Nudge, nudge, targets};
use super::proc_stats::{Counters, Reading, Watch};
use super::{Failure, Shared};

/// How often the accept thread is looked at when nothing tells us to.
const TICK: Duration = Duration::from_millis(150);
/// How soon a look that proved nothing is repeated.
const RESTLESS_TICK: Duration = Duration::from_millis(25);
/// The least time between two looks, so that clients without keep-alive do not pay for nudges.
const PACE: Duration = Duration::from_millis(10);
/// Most nudges of one look; each one but the last frees one connection.
const MAX_NUDGES: u64 = 512;
/// How long a nudge's answer is awaited at first, doubled with each one that stays away.
const PATIENCE: Duration = Duration::from_millis(4);
/// The longest that one answer is awaited.
const MAX_PATIENCE: Duration = Duration::from_millis(256);
/// Unanswered nudges in a row that confirm the end of an accept thread known to be gone (28 ms).
const MISSES_IF_GONE: u32 = 3;
/// Unanswered nudges in a row that show a server deaf whose accept thread cannot be seen (1 s).
const MISSES_IF_UNKNOWN: u32 = 9;
/// Unanswered nudges in a row after which we do not believe that the accept thread lives (5 s).
const MISSES_IF_ALIVE: u32 = 25;
/// Without proof, the nudges of one look.
const BLIND_NUDGES: u32 = 16;
/// Without a thread to watch, how long after a request every tick is a look.
const BLIND_ACTIVITY: Duration = Duration::from_secs(5);
/// Without a thread to watch, the time between looks when no request comes.
const BLIND_REST: Duration = Duration::from_secs(1);
/// How often old generations are searched for some that can go.
const SWEEP: Duration = Duration::from_secs(1);
/// Most generations kept. Beyond it the oldest goes although it may have live connections, whose
/// next request would then stay unanswered.
const MAX_GENERATIONS: usize = 64;
/// Descriptors that must be free before we listen again: one connection takes two.
const HEADROOM: usize = 8;

/// Connections that are turned away at a time.
const MOST_TURNED_AWAY: usize = 2048;
/// What they are told.
const BUSY: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\n\
    Retry-After: 1\r\nConnection: close\r\nContent-Length: 77\r\n\r\n\
    {\"error\":\"server busy, please try again.  maximum pending requests exceeded\"}";

/// Threads of a generation: receiver, accept thread, and the least of tiny_http's pool.
const THREADS: usize = 6;
/// Bytes of stack of a thread that does nothing.
const TRIAL_STACK: usize = 16 * 1024;

/// The state of the supervising thread.
pub(super) struct Supervisor {
    shared: Arc<Shared>,
    failures: Receiver<Failure>,
    targets: Vec<SocketAddr>,
    counters: Counters,
    /// Oldest first; the last one is current.
    generations: Vec<Generation>,
    /// Whether the last look proved nothing.
    restless: bool,
    /// When to try to listen again, if the current generation's accept thread has died.
    deaf_until: Option<Instant>,
    backoff: Backoff,
    last_request: Instant,
    last_look: Instant,
    last_sweep: Instant,
    /// Whether a nudge was ever answered.
    reachable: bool,
    /// How many rounds in a row could not nudge.
    failed_rounds: u32,
}

/// What a round of nudges found out.
enum Round {
    /// Every connection established before the last of so many nudges is being served.
    Served(u64),
    /// Nothing certain.
    Unproven,
    /// Nobody accepts.
    Deaf,
    /// No nudge can be made here, so that the next look waits for an occasion.
    Unreachable,
}

impl Supervisor {
    pub(super) fn new(
        shared: Arc<Shared>,
        failures: Receiver<Failure>,
        addr: SocketAddr,
        first: Generation,
    ) -> Supervisor {
        let now = Instant::now();
        Supervisor {
            shared,
            failures,
            targets: targets(addr),
            counters: Counters::open(),
            generations: vec![first],
            restless: true,
            deaf_until: None,
            backoff: Backoff::default(),
            last_request: now,
            last_look: now,
            last_sweep: now,
            reachable: false,
            failed_rounds: 0,
        }
    }

    /// Runs until the acceptor stops, then ends all generations.
    pub(super) fn run(mut self) {
        while !self.shared.is_closing() {
            // Cleared before the look, so that a request after it is told anew.
            let asked = self.shared.noted.swap(false, Ordering::SeqCst);
            if asked {
                self.last_request = Instant::now();
            }
            self.hear_failures();
            self.tick();
            if asked {
                thread::sleep(PACE);
            }
            // A wake-up since the last one makes this return at once.
            thread::park_timeout(self.rest());
        }
        while !self.shared.is_stopping() {
            thread::park();
        }
        self.generations.drain(..).for_each(Generation::end);
    }

    /// How long to rest unless woken.
    fn rest(&self) -> Duration {
        match self.deaf_until {
            Some(due) => due.saturating_duration_since(Instant::now()),
            None if self.restless => RESTLESS_TICK,
            None => TICK,
        }
    }

    fn hear_failures(&mut self) {
        while let Ok(failure) = self.failures.try_recv() {
            // An old generation's is late news.
            if self.deaf_until.is_none() && failure.generation == self.current().name {
                self.bury(&failure.error.to_string());
            }
        }
    }

    fn tick(&mut self) {
        if let Some(due) = self.deaf_until {
            if Instant::now() >= due {
                self.listen_again();
            }
        } else if self.restless || self.stirred() {
            self.look();
        } else {
            self.sweep();
        }
    }

    /// Whether a connection may have arrived since the last proof.
    fn stirred(&self) -> bool {
        match &self.current().watch {
            Some(watch) => watch.stirred(),
            None => {
                self.last_request.elapsed() < BLIND_ACTIVITY
                    || self.last_look.elapsed() >= BLIND_REST
            }
        }
    }

    /// Nudges until every connection is served, as far as that can be known.
    ///
    /// The order of the readings makes it exact: a connection that arrived during the round shows
    /// in the count of connections, one after it makes the accept thread run once more.
    fn look(&mut self) {
        self.last_look = Instant::now();
        let before = self.counters.connections();
        let round = self.round();
        let reading = self.current().watch.as_ref().map(Watch::read);
        let after = self.counters.connections();
        let arrived = before.zip(after).map(|(before, after)| after.saturating_sub(before));
        match round {
            Round::Served(nudges) => {
                if arrived == Some(0) {
                    self.counters.distrust_connections();
                }
                self.restless = arrived.is_some_and(|arrived| arrived != nudges);
                if !self.restless {
                    self.set_baseline(reading);
                }
            }
            Round::Unproven => self.restless = true,
            Round::Unreachable => {
                self.restless = false;
                if let (Some(watch), Some(Reading::Switches(now))) =
                    (&mut self.current_mut().watch, reading)
                {
                    watch.renew(now);
                }
            }
            Round::Deaf => self.bury("it does not answer"),
        }
    }

    /// Notes that everything up to this reading has been dealt with.
    fn set_baseline(&mut self, reading: Option<Reading>) {
        let proven = self.counters.threads().is_some();
        let current = self.current_mut();
        match (&mut current.watch, reading) {
            // Rest would be unfounded.
            _ if !proven => current.stop_watching(),
            (Some(watch), Some(Reading::Switches(now))) => {
                // The second look shows whether the count moves at all: it must, for our nudges.
                let fresh = watch.is_fresh();
                if !watch.renew(now) {
                    current.stop_watching();
                }
                self.restless = fresh;
            }
            (None, _) => current.watch_again(),
            _ => {}
        }
    }

    fn round(&mut self) -> Round {
        let (mut misses, mut quiet) = (0, 0);
        for count in 1..=MAX_NUDGES {
            if self.shared.is_closing() {
                return Round::Unproven;
            }
            let threads = self.counters.threads();
            let gone = self.is_gone();
            match nudge(&self.targets, patience(misses)) {
                Nudge::Answered => {
                    self.answered(gone);
                    misses = 0;
                    quiet = if threads == self.counters.threads() { quiet + 1 } else { 0 };
                    let needed = threads.map_or(BLIND_NUDGES, |_| self.counters.proof());
                    if quiet >= needed {
                        return Round::Served(count);
                    }
                }
                Nudge::Failed(error) if !gone => return self.failed(&error.to_string()),
                Nudge::Failed(_) | Nudge::Unanswered => {
                    misses += 1;
                    if let Some(round) = self.missed(gone, misses) {
                        return round;
                    }
                }
            }
        }
        Round::Unproven
    }

    fn is_gone(&self) -> bool {
        self.current().watch.as_ref().is_some_and(|watch| matches!(watch.read(), Reading::Gone))
    }

    fn answered(&mut self, gone: bool) {
        self.reachable = true;
        self.failed_rounds = 0;
        if gone {
            // Somebody accepts, so it was not the accept thread that we watched.
            self.current_mut().stop_watching();
        }
    }

    /// What so many nudges without an answer mean, if they are enough to mean anything.
    fn missed(&mut self, gone: bool, misses: u32) -> Option<Round> {
        let allowed = match self.current().watch {
            Some(_) if gone => MISSES_IF_GONE,
            Some(_) => MISSES_IF_ALIVE,
            None => MISSES_IF_UNKNOWN,
        };
        if misses < allowed {
            return None;
        }
        // Silence from the start may be a firewall's.
        Some(if gone || self.reachable { Round::Deaf } else { self.failed("no answer") })
    }

    fn failed(&mut self, cause: &str) -> Round {
        self.failed_rounds += 1;
        // The first one may be the last nudge of a dying accept thread, which is told elsewhere.
        if self.failed_rounds == 2 && !self.shared.is_closing() {
            log::warn!("cannot connect to our own port, connections may have to wait: {cause}");
        }
        // What was possible once will be again, say when there are descriptors.
        if self.reachable { Round::Unproven } else { Round::Unreachable }
    }

    /// Notes the death of the current accept thread and decides when to listen again.
    fn bury(&mut self, cause: &str) {
        let delay = self.backoff.next(Instant::now());
        log::warn!(
            "the accept thread has died ({cause}); listening again in {} ms",
            delay.as_millis()
        );
        self.deaf_until = Some(Instant::now() + delay);
        // Its descriptor is worth more than the view of a dead thread.
        self.current_mut().watch = None;
    }

    fn listen_again(&mut self) {
        if self.backoff.is_waiting() {
            self.turn_away();
        }
        match self.succeed() {
            Ok(()) => {
                log::info!("listening again");
                self.deaf_until = None;
                self.restless = true;
                self.sweep();
            }
            Err(error) => {
                let delay = self.backoff.next(Instant::now());
                log::debug!("cannot listen again, next attempt in {delay:?}: {error}");
                self.deaf_until = Some(Instant::now() + delay);
            }
        }
    }

    /// Answers whoever waits to be accepted that we are busy. Without, what waited while there was
    /// nothing to serve it with, most of it given up by now, would end the next accept thread, too.
    fn turn_away(&self) {
        let Ok(listener) = self.shared.listener() else { return };
        // It is the socket that is changed, not this handle; nobody else accepts at the moment.
        if listener.set_nonblocking(true).is_err() {
            return;
        }
        let accepted = || listener.accept().ok();
        let mut count = 0;
        for (mut stream, _) in std::iter::from_fn(accepted).take(MOST_TURNED_AWAY) {
            // A client that does not take it at once is not waited for.
            let _ = stream.set_nonblocking(true).and_then(|()| stream.write(BUSY));
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
    fn succeed(&mut self) -> io::Result<()> {
        let room: io::Result<Vec<_>> = (0..HEADROOM).map(|_| self.shared.listener()).collect();
        drop(room?);
        threads_are_to_be_had()?;
        self.generations.push(Generation::start(&self.shared)?);
        if self.generations.len() > MAX_GENERATIONS {
            self.generations.remove(0).end();
        }
        Ok(())
    }

    /// Lets old generations go that have no connection left.
    fn sweep(&mut self) {
        if self.generations.len() < 2 || self.last_sweep.elapsed() < SWEEP {
            return;
        }
        self.last_sweep = Instant::now();
        let newest = self.generations.len() - 1;
        for old in (0..newest).rev() {
            if self.generations[old].is_deserted() {
                self.generations.remove(old).end();
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
fn threads_are_to_be_had() -> io::Result<()> {
    let (release, wait) = crossbeam_channel::bounded::<()>(0);
    let start = |_| {
        let wait = wait.clone();
        thread::Builder::new().stack_size(TRIAL_STACK).spawn(move || wait.iter().for_each(drop))
    };
    let mut started = Vec::new();
    let result = (0..THREADS).map(start).try_for_each(|each| each.map(|it| started.push(it)));
    drop(release);
    // They have nothing to panic about, and end at once.
    started.into_iter().for_each(|each| drop(each.join()));
    result
}

/// How long to wait for the answer of the next nudge.
fn patience(misses: u32) -> Duration {
    (PATIENCE * 2_u32.pow(misses.min(8))).min(MAX_PATIENCE)
}

/// The delays between attempts to listen: none after a quiet time, then doubling.
#[derive(Default)]
struct Backoff {
    delay: Duration,
    last: Option<Instant>,
}

impl Backoff {
    const FIRST: Duration = Duration::from_millis(250);
    /// Short: what it ran out of, descriptors above all, the guard frees within a moment.
    const MAX: Duration = Duration::from_millis(500);
    /// An attempt this long after the last one starts anew.
    const QUIET: Duration = Duration::from_secs(10);

    /// Whether the last attempt was not the first one.
    fn is_waiting(&self) -> bool {
        !self.delay.is_zero()
    }

    fn next(&mut self, now: Instant) -> Duration {
        let quiet = self.last.is_none_or(|last| now.duration_since(last) >= Self::QUIET);
        self.delay = match self.delay {
            _ if quiet => Duration::ZERO,
            Duration::ZERO => Self::FIRST,
            delay => (delay * 2).min(Self::MAX),
        };
        self.last = Some(now);
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
            let delay = backoff.next(start + Duration::from_secs(at_seconds));
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
        let check = |misses, millis| assert_eq!(patience(misses).as_millis(), millis, "{misses}");
        check(0, 4);
        check(1, 8);
        check(6, 256);
        check(7, 256);
        check(1000, 256);
    }
}
