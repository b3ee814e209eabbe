//! The guard's thread: look, judge, act, rest.
//!
//! Descriptors are looked at by their numbers, from 0 on: the kernel gives the lowest free one, so
//! that they mostly lie close together. Where others that lay between are closed again there is a gap;
//! so once a second all of them are searched, up to the last one that is open (`reach`), and always
//! where it matters at once: when a connection that has asked is not found, and at the end. Nothing of
//! `/proc` is needed, which an empty root lacks. It looks also while nobody is connected: nothing tells
//! us in time that somebody is, for whoever waits for the listening socket beside the accept thread
//! finds it empty again.

use std::collections::HashMap;
use std::io;
use std::mem;
use std::net::{Shutdown, SocketAddr};
use std::os::fd::RawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};

use super::fd_range;
use super::registry::{InFlight, Registry, RequestPhase};
use super::rules::{ConnectionState, CutReason, Limits, Observation, PeerState, Verdict};
use super::scan_interval::Load;
use super::socket::{AcceptedSocket, DupFd, FdKind};
use super::{Counters, OnScan, ScanReport};

/// How far beyond the highest number that was in use most searches go.
const SEARCH_MARGIN: RawFd = 64;

/// How often all numbers are searched.
const FULL_SCAN_INTERVAL: Duration = Duration::from_secs(1);

/// A connection and the look at it.
struct TrackedConnection {
    state: ConnectionState,
    observation: Observation,
    fd: RawFd,
    /// The round in which it was seen last.
    last_round: u64,
}

/// The state of the guard's thread.
pub(super) struct Scanner {
    port: u16,
    registry: Arc<Registry>,
    limits: Limits,
    counters: Arc<Counters>,
    on_scan: OnScan,
    /// `None` while a round uses it.
    dup_fd: Option<DupFd>,
    tracked: HashMap<SocketAddr, TrackedConnection>,
    highest_fd: RawFd,
    /// When all numbers were searched last.
    last_full_scan: Option<Instant>,
    round: u64,
    report: ScanReport,
    /// Connections of this round on which a request is on its way, or in hand.
    active: usize,
    /// Connections of this round whose requests are being answered, or wait for it.
    served: usize,
    /// Whether a head grows.
    head_growing: bool,
}

impl Scanner {
    pub(super) fn new(
        port: u16,
        registry: Arc<Registry>,
        limits: Limits,
        counters: Arc<Counters>,
        on_scan: OnScan,
    ) -> io::Result<Self> {
        Ok(Self {
            port,
            registry,
            limits,
            counters,
            on_scan,
            dup_fd: Some(DupFd::new()?),
            tracked: HashMap::new(),
            highest_fd: 0,
            last_full_scan: None,
            round: 0,
            report: ScanReport::default(),
            active: 0,
            served: 0,
            head_growing: false,
        })
    }

    /// Watches until it is told to stop.
    pub(super) fn run(mut self, stopping: &AtomicBool) {
        while !stopping.load(Ordering::SeqCst) {
            let before = clock_gettime(ClockId::ThreadCPUTime);
            self.scan(Instant::now());
            let cost = clock_gettime(ClockId::ThreadCPUTime) - before;
            thread::sleep(self.load().next_interval(cost.try_into().unwrap_or_default()));
        }
    }

    fn load(&self) -> Load {
        Load {
            connections: self.tracked.len(),
            served: self.served,
            max_connections: self.limits.max_connections,
            head_growing: self.head_growing,
        }
    }

    fn scan(&mut self, now: Instant) {
        // Taken out for the time of the round, since what it shows is judged by the rest of us.
        let Some(mut dup_fd) = self.dup_fd.take() else { return };
        self.round += 1;
        self.report = ScanReport::default();
        self.active = 0;
        self.served = 0;
        self.head_growing = false;
        let last = mem::take(&mut self.highest_fd);
        let next = self.scan_range(&mut dup_fd, 0, last, now);
        let has_missing = self.registry.has_missing(now, |peer| self.was_observed(peer));
        if has_missing || self.needs_full_scan(now) {
            self.last_full_scan = Some(now);
            self.scan_range(&mut dup_fd, next, fd_range::last_open_fd(next), now);
        }
        let round = self.round;
        self.tracked.retain(|_, known| known.last_round == round);
        if has_missing {
            self.expire(now);
        }
        self.shed_idle(&mut dup_fd);
        dup_fd.clear();
        self.dup_fd = Some(dup_fd);
        self.report.connections = self.tracked.len();
        self.counters.connections.store(self.tracked.len(), Ordering::Relaxed);
        self.counters.active_connections.store(self.active, Ordering::SeqCst);
        self.counters.scans.fetch_add(1, Ordering::SeqCst);
        self.log_cuts();
        (self.on_scan)(&self.report);
    }

    /// Looks at the numbers from `number` to `last` and some beyond, also beyond those that are found;
    /// gives the first one that was not looked at.
    fn scan_range(
        &mut self,
        dup_fd: &mut DupFd,
        mut fd: RawFd,
        last: RawFd,
        now: Instant,
    ) -> RawFd {
        while fd <= self.highest_fd.max(last) + SEARCH_MARGIN {
            match dup_fd.inspect(fd, self.port) {
                FdKind::Closed => {}
                FdKind::Other => self.highest_fd = fd,
                FdKind::Connection(socket) => {
                    self.highest_fd = fd;
                    self.observe(&socket, fd, now);
                }
            }
            fd += 1;
        }
        fd
    }

    /// Whether connections beyond a gap are to be found though none is missed.
    fn needs_full_scan(&self, now: Instant) -> bool {
        let is_due = self
            .last_full_scan
            .is_none_or(|last| now.saturating_duration_since(last) >= FULL_SCAN_INTERVAL);
        is_due || self.registry.is_stopping()
    }

    fn was_observed(&self, peer: &SocketAddr) -> bool {
        self.tracked.get(peer).is_some_and(|known| known.last_round == self.round)
    }

    /// What was there before the round and was not seen in it is gone: a request in hand keeps its
    /// connection's descriptors open, and one that was reset has no other side any more.
    fn expire(&mut self, now: Instant) {
        let tracked = &self.tracked;
        let missed = self.registry.remove_missing(now, |peer| tracked.contains_key(peer));
        self.mark_disconnected(&missed);
    }

    fn mark_disconnected(&self, requests: &[Arc<InFlight>]) {
        for request in requests.iter().filter(|request| !request.is_disconnected()) {
            self.counters.disconnects.fetch_add(1, Ordering::Relaxed);
            request.mark_disconnected();
        }
    }

    /// Looks at a connection, once a round: tiny_http has two descriptors of each.
    fn observe(&mut self, socket: &AcceptedSocket<'_>, fd: RawFd, now: Instant) {
        let peer = socket.peer;
        if self.was_observed(&peer) {
            return;
        }
        let view = self.registry.snapshot(peer);
        let in_flight = view.as_ref().map_or(&[][..], |view| &view.in_flight);
        let phase = in_flight.first().map(|oldest| oldest.phase());
        let reads = phase == Some(RequestPhase::Reading);
        // While a head is awaited, what was not taken yet may be a body that we are late with.
        let unread = if reads || phase.is_none() { socket.unread_bytes() } else { 0 };
        let observation = Observation {
            peer: socket.info.peer,
            received: socket.info.received.saturating_sub(unread),
            has_unread: reads && unread > 0,
            generation: view.as_ref().map_or(0, |view| view.generation),
            phase,
            closing: view.as_ref().is_some_and(|view| view.closing),
        };
        self.report.stalled_requests += usize::from(reads && !observation.has_unread);
        let new = || TrackedConnection {
            state: ConnectionState::new(&observation, now),
            observation,
            fd,
            last_round: 0,
        };
        let tracked = self.tracked.entry(peer).or_insert_with(new);
        (tracked.observation, tracked.fd, tracked.last_round) = (observation, fd, self.round);
        // One that nobody reads may have asked, and gets a thread as soon as others end.
        let ends = self.registry.is_stopping() && unread == 0;
        let limits = if ends { self.limits.for_shutdown() } else { self.limits };
        let verdict = tracked.state.judge(&observation, now, &limits);
        let in_work = phase.is_some_and(RequestPhase::is_active);
        let asks = tracked.state.is_active(&observation, unread > 0, now);
        self.active += usize::from(in_work || asks);
        self.served += usize::from(in_work && !reads);
        self.head_growing |= tracked.state.is_head_growing(&observation);
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
                // The answer still goes out.
                socket.shutdown(Shutdown::Read);
            }
            Verdict::HalfClose => socket.shutdown(Shutdown::Write),
            Verdict::Disconnected => self.mark_disconnected(in_flight),
            Verdict::Probe => {
                // Of several requests only the oldest may be in the middle of its answer.
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
        self.counters.cuts[reason as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// Cuts what is above the limit: those that ask nothing, the oldest first.
    fn shed_idle(&mut self, dup_fd: &mut DupFd) {
        let Some(above) = self.tracked.len().checked_sub(self.limits.max_connections) else {
            return;
        };
        let spare = |(peer, known): (&SocketAddr, &TrackedConnection)| {
            Some((known.state.shed_priority(&known.observation)?, *peer, known.fd))
        };
        let mut spares: Vec<_> = self.tracked.iter().filter_map(spare).collect();
        // Of those that were met in one round, the lower number was accepted earlier.
        spares.sort_by_key(|spare| (spare.0, spare.2));
        for (_, peer, number) in spares.into_iter().take(above) {
            let FdKind::Connection(socket) = dup_fd.inspect(number, self.port) else { continue };
            // Its number may be somebody else's by now, and it may have asked by now.
            let asked = self.registry.snapshot(peer).is_some_and(|view| !view.in_flight.is_empty());
            if socket.peer == peer && !asked && socket.info.peer != PeerState::Closed {
                self.cut(CutReason::TooMany, &socket, &[]);
                if let Some(known) = self.tracked.get_mut(&peer) {
                    known.state.mark_cut();
                }
            }
        }
    }

    /// One line about a round in which somebody misbehaved.
    fn log_cuts(&self) {
        let loud = |(reason, _): &(CutReason, u64)| {
            !matches!(reason, CutReason::Idle | CutReason::Answered)
        };
        let word = |(reason, count): (CutReason, u64)| format!(" {}={count}", reason.as_str());
        let words: String = self.report.cuts().filter(loud).map(word).collect();
        if !words.is_empty() {
            log::warn!("connections cut:{words}; {} are left", self.tracked.len());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::net::{TcpListener, TcpStream};

    use super::*;

    /// A watch, its registry, and what opens a connection.
    fn watch() -> (Scanner, Arc<Registry>, TcpListener) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let registry = Registry::new(None);
        registry.set_guarded();
        let (tally, heed) = (Arc::default(), Box::new(|_: &ScanReport| {}));
        let watch = Scanner::new(port, registry.clone(), Limits::default(), tally, heed);
        (watch.expect("a descriptor"), registry, listener)
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
        let (mut watch, registry, listener) = watch();
        watch.scan(Instant::now());
        let (_client, _accepted, peer) = behind_a_gap(&listener);
        let (ticket, refused) = registry.begin_request(peer, Instant::now());
        assert_eq!(refused, None);
        watch.scan(Instant::now());
        assert!(!ticket.cancellation().is_cancelled() && watch.tracked.contains_key(&peer));
        assert_eq!(watch.counters.disconnects(), 0);
    }

    #[test]
    fn who_asks_nothing_behind_a_gap_is_found_within_a_second() {
        let (mut watch, _registry, listener) = watch();
        let start = Instant::now();
        watch.scan(start);
        let (_client, _accepted, peer) = behind_a_gap(&listener);
        watch.scan(start + FULL_SCAN_INTERVAL);
        assert!(watch.tracked.contains_key(&peer));
    }

    #[test]
    fn at_the_end_nobody_is_overlooked() {
        let (mut watch, registry, listener) = watch();
        let start = Instant::now();
        watch.scan(start);
        let (_client, _accepted, peer) = behind_a_gap(&listener);
        registry.mark_stopping();
        watch.scan(start);
        assert!(watch.tracked.contains_key(&peer));
        assert_eq!(watch.counters.active_connections(), 1);
    }

    #[test]
    fn a_request_that_no_worker_has_yet_is_something_going_on() {
        let (mut watch, registry, listener) = watch();
        let (_client, _accepted, peer) = behind_a_gap(&listener);
        let asking = |watch: &mut Scanner| {
            watch.scan(Instant::now());
            watch.counters.active_connections()
        };
        let (ticket, _) = registry.begin_request(peer, Instant::now());
        for (phase, expected) in [
            (RequestPhase::Waiting, 1),
            (RequestPhase::Reading, 1),
            (RequestPhase::Working, 1),
            (RequestPhase::Draining, 0),
            (RequestPhase::Drained, 0),
        ] {
            ticket.in_flight().set_phase(phase);
            assert_eq!(asking(&mut watch), expected, "{phase:?}");
        }
        ticket.in_flight().set_phase(RequestPhase::Working);
        drop(ticket);
        assert_eq!(asking(&mut watch), 0);
    }
}
