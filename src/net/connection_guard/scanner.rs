//! The guard's thread: scan all connections, judge each, act, pause.
//!
//! A scan goes through the descriptors by number, from 0 on: the kernel assigns the lowest free one,
//! so that they are mostly close together. Closed files can leave a gap between them; so once a second
//! a scan covers all numbers up to the last open one (`fd_range`), and also whenever a connection with
//! a request is not found, and during shutdown. Scanning needs nothing of `/proc`, which an empty
//! root lacks. As long as no connection was accepted since the last search, a scan looks at the known
//! connections only, with one of the two descriptors that tiny_http has of each: of 2,000 streams, the
//! search took a tenth of this process's time.
//!
//! When nothing has happened for half a second the guard rests (`rest`): it looks at the known
//! connections only, once a second or when one is due, until something happens. It rests only where
//! arrivals are announced, which the first connection of all shows.

use std::collections::HashMap;
use std::mem;
use std::net::{Shutdown, SocketAddr};
use std::os::fd::RawFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};

use super::fd_range;
use super::registry::{InFlight, Registry, RequestPhase};
use super::rest::Rest;
use super::rules::{ConnectionState, CutReason, Limits, Observation, PeerState, Verdict};
use super::scan_interval::{REST_AFTER, is_quiet, next_interval, rest_interval};
use super::socket::{AcceptedSocket, DupFd, FdKind};
use super::{Counters, OnScan, ScanReport};
use crate::net::arrivals::Arrivals;
use crate::observe::lock::lock;

/// How far above the highest number of the last scan most scans search.
const SEARCH_MARGIN: RawFd = 64;

/// How often a scan covers all numbers, and during a rest.
const FULL_SCAN_INTERVAL: Duration = Duration::from_secs(1);
const RESTING_FULL_SCAN_INTERVAL: Duration = Duration::from_secs(10);

struct TrackedConnection {
    state: ConnectionState,
    /// Among the idle ones, the lowest is closed first; `None` while it has a request.
    shed_priority: Option<(bool, Instant)>,
    fd: RawFd,
    /// The round in which it was last seen.
    last_round: u64,
    /// Whether bytes on it end a rest.
    is_watched: bool,
}

/// The state of the guard's thread.
pub(super) struct Scanner {
    port: u16,
    registry: Arc<Registry>,
    limits: Limits,
    counters: Arc<Mutex<Counters>>,
    on_scan: OnScan,
    tracked: HashMap<SocketAddr, TrackedConnection>,
    highest_fd: RawFd,
    last_full_scan: Option<Instant>,
    /// Connections that had been accepted before the last search.
    searched_accepted: u64,
    /// When something last happened.
    last_active: Instant,
    /// Number of the current scan.
    round: u64,
    /// What the current scan has found so far.
    report: ScanReport,
}

impl Scanner {
    pub(super) fn new(
        port: u16,
        registry: Arc<Registry>,
        limits: Limits,
        counters: Arc<Mutex<Counters>>,
        on_scan: OnScan,
    ) -> Self {
        Self {
            port,
            registry,
            limits,
            counters,
            on_scan,
            tracked: HashMap::new(),
            highest_fd: 0,
            last_full_scan: None,
            searched_accepted: 0,
            last_active: Instant::now(),
            round: 0,
            report: ScanReport::default(),
        }
    }

    /// Scans until `stopping` is set.
    pub(super) fn run(
        mut self,
        mut dup_fd: DupFd,
        arrivals: &Arrivals,
        rest: Option<&Rest>,
        stopping: &AtomicBool,
    ) {
        while !stopping.load(Ordering::SeqCst) {
            let events = self.event_counts(arrivals);
            let now = Instant::now();
            let cost = self.timed_scan(&mut dup_fd, events.0, now);
            if !is_quiet(&self.report, self.limits.max_connections) {
                self.last_active = now;
            }
            match rest {
                Some(rest) if self.may_rest(now, events) => {
                    let has_new_events = |scanner: &Self| {
                        stopping.load(Ordering::SeqCst) || scanner.event_counts(arrivals) != events
                    };
                    self.rest(rest, &mut dup_fd, has_new_events);
                    self.last_active = Instant::now();
                }
                _ => thread::sleep(next_interval(&self.report, self.limits.max_connections, cost)),
            }
        }
    }

    /// Accepted connections and requests so far.
    fn event_counts(&self, arrivals: &Arrivals) -> (u64, u64) {
        (arrivals.accepted(), self.registry.begun_requests())
    }

    /// Whether nothing has happened for long enough. Without an announced connection, the first one might
    /// not be announced either.
    fn may_rest(&self, now: Instant, (accepted, _): (u64, u64)) -> bool {
        accepted > 0
            && !self.registry.is_stopping()
            && now.saturating_duration_since(self.last_active) >= REST_AFTER
    }

    /// Looks at the known connections rarely, until something happens.
    fn rest(&mut self, rest: &Rest, dup_fd: &mut DupFd, has_new_events: impl Fn(&Self) -> bool) {
        rest.begin();
        let mut cost = Duration::ZERO;
        // From here on, whoever changes something ends the wait.
        let is_watched = self.watch_all(rest, dup_fd);
        while is_watched && !has_new_events(self) && !self.registry.is_stopping() {
            let first = self.tracked.values().filter_map(|known| known.shed_priority).min();
            let due = first.map(|(_, since)| since + self.limits.idle_timeout);
            if rest.wait(rest_interval(due, Instant::now(), cost)) {
                break;
            }
            cost = self.timed_scan_known(dup_fd);
            if !is_quiet(&self.report, self.limits.max_connections) {
                break;
            }
        }
        rest.end();
    }

    /// Lets bytes on each connection end a rest; `false` if one cannot be watched.
    fn watch_all(&mut self, rest: &Rest, dup_fd: &mut DupFd) -> bool {
        let mut unwatched = self.tracked.iter_mut().filter(|(_, known)| !known.is_watched);
        let all = unwatched.all(|(peer, known)| {
            let found = match dup_fd.inspect(known.fd, self.port) {
                FdKind::Connection(socket) => socket.peer == *peer && rest.watch(socket.fd()),
                FdKind::Closed | FdKind::Other => false,
            };
            known.is_watched = found;
            found
        });
        dup_fd.clear();
        all
    }

    /// Searches for connections, unless all are known: `accepted` were accepted until now.
    fn timed_scan(&mut self, dup_fd: &mut DupFd, accepted: u64, now: Instant) -> Duration {
        cpu_time(|| {
            if !self.finds_all_known(dup_fd, accepted, now) {
                self.searched_accepted = accepted;
                self.scan(dup_fd, now);
            }
        })
    }

    /// Looks at the known connections where these are all, as far as was announced; `false` if a search is
    /// needed.
    fn finds_all_known(&mut self, dup_fd: &mut DupFd, accepted: u64, now: Instant) -> bool {
        accepted > 0
            && accepted == self.searched_accepted
            && !self.needs_full_scan(now)
            && self.scan_known(dup_fd, now)
    }

    /// Looks at the known connections, and every ten seconds at all descriptors.
    fn timed_scan_known(&mut self, dup_fd: &mut DupFd) -> Duration {
        cpu_time(|| {
            let now = Instant::now();
            let is_full = self.is_full_scan_due(now, RESTING_FULL_SCAN_INTERVAL);
            if is_full || !self.scan_known(dup_fd, now) {
                self.scan(dup_fd, now);
            }
        })
    }

    fn scan(&mut self, dup_fd: &mut DupFd, now: Instant) {
        self.begin_round();
        let last = mem::take(&mut self.highest_fd);
        let next = self.scan_range(dup_fd, 0, last, now);
        let has_missing = self.registry.has_missing(now, |peer| self.was_observed(peer));
        if has_missing || self.needs_full_scan(now) {
            self.last_full_scan = Some(now);
            let last_open = fd_range::last_open_fd(next, self.highest_fd);
            self.scan_range(dup_fd, next, last_open, now);
        }
        let round = self.round;
        self.tracked.retain(|_, known| known.last_round == round);
        if has_missing {
            self.expire(now);
        }
        self.shed_idle(dup_fd);
        self.end_round(dup_fd);
    }

    /// Scans only the connections that the last scan found; `false` if one of them is gone.
    fn scan_known(&mut self, dup_fd: &mut DupFd, now: Instant) -> bool {
        self.begin_round();
        let known: Vec<_> = self.tracked.iter().map(|(peer, known)| (*peer, known.fd)).collect();
        let all = known.into_iter().all(|(peer, fd)| match dup_fd.inspect(fd, self.port) {
            FdKind::Connection(socket) if socket.peer == peer => {
                self.observe(&socket, fd, now);
                true
            }
            _ => false,
        });
        if all {
            self.shed_idle(dup_fd);
        }
        self.end_round(dup_fd);
        all
    }

    fn begin_round(&mut self) {
        self.round += 1;
        self.report = ScanReport::default();
    }

    fn end_round(&mut self, dup_fd: &mut DupFd) {
        dup_fd.clear();
        self.report.connections = self.tracked.len();
        {
            let mut counters = lock(&self.counters);
            counters.connections = self.report.connections;
            counters.active_connections = self.report.active;
            counters.scans += 1;
        }
        self.log_cuts();
        (self.on_scan)(&self.report);
    }

    /// Inspects the numbers from `fd` to `last` and a margin above, and above each one found open;
    /// returns the first number that it did not inspect.
    fn scan_range(
        &mut self,
        dup_fd: &mut DupFd,
        mut fd: RawFd,
        last: RawFd,
        now: Instant,
    ) -> RawFd {
        while fd <= self.highest_fd.max(last) + SEARCH_MARGIN {
            let kind = dup_fd.inspect(fd, self.port);
            if !matches!(kind, FdKind::Closed) {
                self.highest_fd = fd;
            }
            if let FdKind::Connection(socket) = kind {
                self.observe(&socket, fd, now);
            }
            fd += 1;
        }
        fd
    }

    /// Whether this scan has to find idle connections behind a gap.
    fn needs_full_scan(&self, now: Instant) -> bool {
        self.is_full_scan_due(now, FULL_SCAN_INTERVAL) || self.registry.is_stopping()
    }

    fn is_full_scan_due(&self, now: Instant, interval: Duration) -> bool {
        self.last_full_scan.is_none_or(|last| now.saturating_duration_since(last) >= interval)
    }

    fn was_observed(&self, peer: &SocketAddr) -> bool {
        self.tracked.get(peer).is_some_and(|known| known.last_round == self.round)
    }

    /// Handles registered connections that this scan did not find: the client has disconnected,
    /// because a request in flight keeps its connection's descriptors open, and a socket that was reset
    /// has no peer address.
    fn expire(&mut self, now: Instant) {
        let tracked = &self.tracked;
        let missing = self.registry.remove_missing(now, |peer| tracked.contains_key(peer));
        self.mark_disconnected(&missing);
    }

    fn mark_disconnected(&self, requests: &[Arc<InFlight>]) {
        for request in requests.iter().filter(|request| !request.is_disconnected()) {
            lock(&self.counters).disconnects += 1;
            request.mark_disconnected();
        }
    }

    /// Judges a connection, once a scan: tiny_http has two descriptors of each.
    fn observe(&mut self, socket: &AcceptedSocket<'_>, fd: RawFd, now: Instant) {
        let peer = socket.peer;
        if self.was_observed(&peer) {
            return;
        }
        let snapshot = self.registry.snapshot(peer);
        let in_flight = snapshot.as_ref().map_or(&[][..], |entry| &entry.in_flight);
        let phase = in_flight.first().map(|oldest| oldest.phase());
        let is_reading = matches!(phase, Some(RequestPhase::Reading | RequestPhase::Passing));
        // Between requests, unread bytes may belong to a body that this proxy is slow to read.
        let unread = if is_reading || phase.is_none() { socket.unread_bytes() } else { 0 };
        let observation = Observation {
            peer: socket.state,
            received: socket.received.saturating_sub(unread),
            has_unread: is_reading && unread > 0,
            generation: snapshot.as_ref().map_or(0, |entry| entry.generation),
            phase,
            closing: snapshot.as_ref().is_some_and(|entry| entry.closing),
        };
        let new = || TrackedConnection {
            state: ConnectionState::new(&observation, now),
            shed_priority: None,
            fd,
            last_round: 0,
            is_watched: false,
        };
        let tracked = self.tracked.entry(peer).or_insert_with(new);
        // Unread bytes may be a request that gets a thread as soon as other connections end.
        let is_ending = self.registry.is_stopping() && unread == 0;
        let limits = if is_ending { self.limits.for_shutdown() } else { self.limits };
        let verdict = tracked.state.judge(&observation, now, &limits);
        (tracked.fd, tracked.last_round) = (fd, self.round);
        tracked.shed_priority = tracked.state.shed_priority(&observation);
        let is_served = phase.is_some_and(RequestPhase::is_active);
        let is_arriving = tracked.state.is_active(&observation, unread > 0, now);
        let report = &mut self.report;
        report.stalled_requests += usize::from(is_reading && !observation.has_unread);
        report.active += usize::from(is_served || is_arriving);
        report.served += usize::from(is_served && !is_reading);
        report.at_rest += usize::from(unread == 0 && tracked.state.is_at_rest(&observation));
        report.head_growing |= tracked.state.is_head_growing(&observation);
        self.apply(verdict, socket, in_flight);
    }

    fn apply(
        &mut self,
        verdict: Verdict,
        socket: &AcceptedSocket<'_>,
        in_flight: &[Arc<InFlight>],
    ) {
        match verdict {
            Verdict::Keep => {}
            Verdict::Cut(reason) => self.cut(reason, socket, in_flight),
            Verdict::LateBody => {
                self.count_cut(CutReason::SlowBody);
                in_flight.iter().for_each(|request| request.mark_body_late());
                // The write side stays open for the response.
                socket.shutdown(Shutdown::Read);
            }
            Verdict::HalfClose => socket.shutdown(Shutdown::Write),
            Verdict::Disconnected => self.mark_disconnected(in_flight),
            Verdict::Probe => {
                // Of several requests only the oldest can have a response in progress.
                if let Some(oldest) = in_flight.first() {
                    oldest.probe_peer(|byte| socket.send_byte(byte));
                }
            }
        }
    }

    fn cut(&mut self, reason: CutReason, socket: &AcceptedSocket<'_>, in_flight: &[Arc<InFlight>]) {
        self.count_cut(reason);
        if !matches!(reason, CutReason::Idle | CutReason::TooMany) {
            socket.reset_on_close();
        }
        socket.shutdown(Shutdown::Both);
        in_flight.iter().for_each(|request| request.mark_closed());
    }

    fn count_cut(&mut self, reason: CutReason) {
        self.report.cuts[reason as usize] += 1;
        lock(&self.counters).cuts[reason as usize] += 1;
    }

    /// Closes idle connections above `MAX_CONNECTIONS`, the one idle for longest first.
    fn shed_idle(&mut self, dup_fd: &mut DupFd) {
        let Some(above) = self.tracked.len().checked_sub(self.limits.max_connections) else {
            return;
        };
        let idle = |(peer, known): (&SocketAddr, &TrackedConnection)| {
            Some((known.shed_priority?, known.fd, *peer))
        };
        let mut idle: Vec<_> = self.tracked.iter().filter_map(idle).collect();
        // Of connections first seen in one scan, the lower descriptor was accepted earlier.
        idle.sort_by_key(|(priority, fd, _)| (*priority, *fd));
        for (_, fd, peer) in idle.into_iter().take(above) {
            let FdKind::Connection(socket) = dup_fd.inspect(fd, self.port) else { continue };
            // The number may stand for another connection by now, or a request may have arrived.
            let is_idle =
                self.registry.snapshot(peer).is_none_or(|entry| entry.in_flight.is_empty());
            if socket.peer == peer && is_idle && socket.state != PeerState::Closed {
                self.cut(CutReason::TooMany, &socket, &[]);
                if let Some(known) = self.tracked.get_mut(&peer) {
                    known.state.mark_cut();
                }
            }
        }
    }

    /// Logs one line about a scan that closed misbehaving connections.
    fn log_cuts(&self) {
        let is_logged = |(reason, _): &(CutReason, u64)| {
            !matches!(reason, CutReason::Idle | CutReason::Answered)
        };
        let word = |(reason, count): (CutReason, u64)| format!(" {}={count}", reason.as_str());
        let words: String = self.report.cuts().filter(is_logged).map(word).collect();
        if !words.is_empty() {
            log::warn!("connections closed:{words}; {} open", self.tracked.len());
        }
    }
}

/// The CPU time that this thread needs for something.
fn cpu_time(work: impl FnOnce()) -> Duration {
    let before = clock_gettime(ClockId::ThreadCPUTime);
    work();
    let cost = clock_gettime(ClockId::ThreadCPUTime) - before;
    cost.try_into().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::net::{TcpListener, TcpStream};

    use super::*;

    /// A scanner with the descriptor that its thread would have.
    struct Bench {
        scanner: Scanner,
        dup_fd: DupFd,
    }

    impl Bench {
        fn scan(&mut self, now: Instant) {
            self.scanner.scan(&mut self.dup_fd, now);
        }

        fn is_tracked(&self, peer: &SocketAddr) -> bool {
            self.scanner.tracked.contains_key(peer)
        }

        fn counters(&self) -> Counters {
            *lock(&self.scanner.counters)
        }
    }

    /// A scanner, its registry, and what opens a connection.
    fn bench() -> (Bench, Arc<Registry>, TcpListener) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let registry = Registry::new(None, true);
        let (counters, on_scan) = (Arc::default(), Box::new(|_: &ScanReport| {}));
        let limits = Limits::default();
        let scanner = Scanner::new(port, registry.clone(), limits, counters, on_scan);
        (Bench { scanner, dup_fd: DupFd::new().expect("a descriptor") }, registry, listener)
    }

    /// A connection, whose accepted end lies behind a gap of descriptors; and its peer.
    fn behind_a_gap(listener: &TcpListener) -> (TcpStream, TcpStream, SocketAddr) {
        let null = |_| File::open("/dev/null").expect("it is there");
        let addr = listener.local_addr().expect("an address");
        let client = TcpStream::connect(addr).expect("it listens");
        let _gap: Vec<File> = (0..2 * SEARCH_MARGIN).map(null).collect();
        let (accepted, peer) = listener.accept().expect("a connection");
        (client, accepted, peer)
    }

    #[test]
    fn whose_descriptor_lies_behind_a_gap_has_not_left() {
        let (mut bench, registry, listener) = bench();
        bench.scan(Instant::now());
        let (_client, _accepted, peer) = behind_a_gap(&listener);
        let (handle, refused) = registry.begin_request(peer, Instant::now());
        assert_eq!(refused, None);
        bench.scan(Instant::now());
        assert!(!handle.cancellation().is_cancelled() && bench.is_tracked(&peer));
        assert_eq!(bench.counters().disconnects, 0);
    }

    #[test]
    fn who_asks_nothing_behind_a_gap_is_found_within_a_second() {
        let (mut bench, _registry, listener) = bench();
        let start = Instant::now();
        bench.scan(start);
        let (_client, _accepted, peer) = behind_a_gap(&listener);
        bench.scan(start + FULL_SCAN_INTERVAL);
        assert!(bench.is_tracked(&peer));
    }

    #[test]
    fn at_the_end_nobody_is_overlooked() {
        let (mut bench, registry, listener) = bench();
        let start = Instant::now();
        bench.scan(start);
        let (_client, _accepted, peer) = behind_a_gap(&listener);
        registry.mark_stopping();
        bench.scan(start);
        assert!(bench.is_tracked(&peer));
        assert_eq!(bench.counters().active_connections, 1);
    }

    #[test]
    fn known_connections_are_looked_at_without_a_search() {
        let (mut bench, registry, listener) = bench();
        let (_client, accepted, peer) = behind_a_gap(&listener);
        registry.mark_stopping();
        let start = Instant::now();
        bench.scan(start);
        let idle = Limits::default().idle_timeout;
        let mut known = |at| bench.scanner.scan_known(&mut bench.dup_fd, at);
        assert!(known(start + Duration::from_secs(1)));
        assert!(known(start + idle), "it is closed, and still there");
        assert_eq!(bench.counters().cuts(CutReason::Idle), 1);
        assert!(bench.is_tracked(&peer));
        drop(accepted);
        assert!(!bench.scanner.scan_known(&mut bench.dup_fd, start));
    }

    #[test]
    fn a_search_needs_a_new_connection_or_one_that_is_gone() {
        let (mut bench, registry, listener) = bench();
        let (_client, accepted, _) = behind_a_gap(&listener);
        let start = Instant::now();
        let knows_all = |bench: &mut Bench, accepted, millis| {
            let now = start + Duration::from_millis(millis);
            bench.scanner.finds_all_known(&mut bench.dup_fd, accepted, now)
        };
        assert!(!knows_all(&mut bench, 1, 0), "nothing was searched");
        bench.scanner.timed_scan(&mut bench.dup_fd, 1, start);
        assert!(!knows_all(&mut bench, 0, 1), "nothing is announced here");
        assert!(knows_all(&mut bench, 1, 1));
        assert!(!knows_all(&mut bench, 2, 2), "one more was accepted");
        assert!(!knows_all(&mut bench, 1, 1000), "there is a search once a second");
        assert!(knows_all(&mut bench, 1, 999));
        drop(accepted);
        assert!(!knows_all(&mut bench, 1, 3), "one is gone");
        bench.scanner.timed_scan(&mut bench.dup_fd, 1, start);
        assert!(knows_all(&mut bench, 1, 4));
        registry.mark_stopping();
        assert!(!knows_all(&mut bench, 1, 5));
    }

    #[test]
    fn idle_ones_above_the_limit_are_closed_without_a_search() {
        let (mut bench, _registry, listener) = bench();
        let (mut client, _accepted, _) = behind_a_gap(&listener);
        let now = Instant::now();
        bench.scan(now + FULL_SCAN_INTERVAL);
        bench.scanner.limits.max_connections = 0;
        assert!(bench.scanner.scan_known(&mut bench.dup_fd, now));
        assert_eq!(bench.counters().cuts(CutReason::TooMany), 1);
        assert_eq!(std::io::Read::read(&mut client, &mut [0]).expect("an end"), 0);
    }

    /// Lets the guard rest until something ends that; returns the scans of the rest.
    fn rested(bench: &mut Bench, rest: &Rest, has_new_events: bool) -> u64 {
        let before = bench.counters().scans;
        bench.scanner.rest(rest, &mut bench.dup_fd, |_| has_new_events);
        bench.counters().scans - before
    }

    #[test]
    fn a_rest_ends_with_bytes_of_a_known_connection_and_does_not_begin_amid_events() {
        use std::io::Write;

        let (mut bench, _registry, listener) = bench();
        let addr = listener.local_addr().expect("an address");
        let mut client = TcpStream::connect(addr).expect("it listens");
        let _accepted = listener.accept().expect("a connection");
        bench.scan(Instant::now());
        let rest = Rest::new().expect("epoll");
        assert_eq!(rested(&mut bench, &rest, true), 0);
        let other = thread::spawn(move || {
            client.write_all(b"G").expect("it is open");
            client
        });
        rested(&mut bench, &rest, false);
        let _client = other.join().expect("no panic");
        bench.scan(Instant::now());
        let report = bench.scanner.report;
        assert_eq!((report.connections, report.at_rest), (1, 0));
    }

    #[test]
    fn a_rest_ends_with_a_request_and_with_a_shutdown() {
        let (mut bench, registry, _listener) = bench();
        let rest = Rest::new().expect("epoll");
        registry.set_waker(rest.waker());
        let begun = registry.begun_requests();
        bench.scan(Instant::now());
        let other = thread::spawn({
            let registry = registry.clone();
            move || registry.begin_request(SocketAddr::from(([127, 0, 0, 1], 9)), Instant::now())
        });
        bench
            .scanner
            .rest(&rest, &mut bench.dup_fd, |scanner| scanner.registry.begun_requests() != begun);
        let _request = other.join().expect("no panic");
        registry.mark_stopping();
        assert_eq!(rested(&mut bench, &rest, false), 0);
    }

    #[test]
    fn the_guard_rests_only_after_a_pause_and_an_announced_connection() {
        let (bench, registry, _listener) = bench();
        let scanner = &bench.scanner;
        let later = scanner.last_active + REST_AFTER;
        assert!(scanner.may_rest(later, (1, 0)));
        assert!(!scanner.may_rest(later, (0, 5)), "nothing is announced here");
        assert!(!scanner.may_rest(scanner.last_active, (1, 0)));
        registry.mark_stopping();
        assert!(!scanner.may_rest(later, (1, 0)));
    }

    #[test]
    fn a_request_that_no_worker_has_yet_is_something_going_on() {
        let (mut bench, registry, listener) = bench();
        let (_client, _accepted, peer) = behind_a_gap(&listener);
        let asking = |bench: &mut Bench| {
            bench.scan(Instant::now());
            bench.counters().active_connections
        };
        let (handle, _) = registry.begin_request(peer, Instant::now());
        for (phase, expected) in [
            (RequestPhase::Waiting, 1),
            (RequestPhase::Reading, 1),
            (RequestPhase::Passing, 1),
            (RequestPhase::Working, 1),
            (RequestPhase::Draining, 0),
            (RequestPhase::Drained, 0),
        ] {
            handle.in_flight().set_phase(phase);
            assert_eq!(asking(&mut bench), expected, "{phase:?}");
        }
        handle.in_flight().set_phase(RequestPhase::Working);
        drop(handle);
        assert_eq!(asking(&mut bench), 0);
    }
}
