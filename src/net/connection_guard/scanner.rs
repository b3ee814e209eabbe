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
use super::registry::{InHand, Phase, Registry};
use super::rules::{Connection, Limits, Look, Peer, Reason, Verdict};
use super::scan_interval::Shown;
use super::socket::{Found, Slot, Socket};
use super::{Heed, Sight, Tally};
use crate::observe::order;

/// How far beyond the highest number that was in use most searches go.
const BEYOND: RawFd = 64;

/// How often all numbers are searched.
const WIDE: Duration = Duration::from_secs(1);

/// A connection and the look at it.
struct Known {
    connection: Connection,
    look: Look,
    number: RawFd,
    /// The round in which it was seen last.
    seen: u64,
}

/// The state of the guard's thread.
pub(super) struct Watch {
    port: u16,
    registry: Arc<Registry>,
    limits: Limits,
    tally: Arc<Tally>,
    heed: Heed,
    /// `None` while a round uses it.
    slot: Option<Slot>,
    known: HashMap<SocketAddr, Known>,
    highest: RawFd,
    /// When all numbers were searched last.
    widely: Option<Instant>,
    round: u64,
    sight: Sight,
    /// Connections of this round on which a request is on its way, or in hand.
    asking: usize,
    /// Connections of this round whose requests are being answered, or wait for it.
    served: usize,
    /// Whether a head grows.
    hurry: bool,
}

impl Watch {
    pub(super) fn new(
        port: u16,
        registry: Arc<Registry>,
        limits: Limits,
        tally: Arc<Tally>,
        heed: Heed,
    ) -> io::Result<Self> {
        Ok(Self {
            port,
            registry,
            limits,
            tally,
            heed,
            slot: Some(Slot::new()?),
            known: HashMap::new(),
            highest: 0,
            widely: None,
            round: 0,
            sight: Sight::default(),
            asking: 0,
            served: 0,
            hurry: false,
        })
    }

    /// Watches until it is told to stop.
    pub(super) fn run(mut self, stopping: &AtomicBool) {
        while !stopping.load(Ordering::SeqCst) {
            let before = clock_gettime(ClockId::ThreadCPUTime);
            self.round(Instant::now());
            let cost = clock_gettime(ClockId::ThreadCPUTime) - before;
            thread::sleep(self.shown().rest(cost.try_into().unwrap_or_default()));
        }
    }

    fn shown(&self) -> Shown {
        Shown {
            connections: self.known.len(),
            served: self.served,
            limit: self.limits.connections,
            hurry: self.hurry,
        }
    }

    fn round(&mut self, now: Instant) {
        // Taken out for the time of the round, since what it shows is judged by the rest of us.
        let Some(mut slot) = self.slot.take() else { return };
        self.round += 1;
        self.sight = Sight::default();
        self.asking = 0;
        self.served = 0;
        self.hurry = false;
        let last = mem::take(&mut self.highest);
        let next = self.search(&mut slot, 0, last, now);
        let misses = self.registry.misses(now, |peer| self.was_met(peer));
        if misses || self.is_to_search_all(now) {
            self.widely = Some(now);
            self.search(&mut slot, next, fd_range::last_open(next), now);
        }
        let round = self.round;
        self.known.retain(|_, known| known.seen == round);
        if misses {
            self.miss(now);
        }
        self.spare_some(&mut slot);
        slot.clear();
        self.slot = Some(slot);
        self.sight.connections = self.known.len();
        self.tally.connections.store(self.known.len(), Ordering::Relaxed);
        self.tally.asking.store(self.asking, Ordering::SeqCst);
        self.tally.looks.fetch_add(1, Ordering::SeqCst);
        self.tell();
        (self.heed)(&self.sight);
    }

    /// Looks at the numbers from `number` to `last` and some beyond, also beyond those that are found;
    /// gives the first one that was not looked at.
    fn search(&mut self, slot: &mut Slot, mut number: RawFd, last: RawFd, now: Instant) -> RawFd {
        while number <= self.highest.max(last) + BEYOND {
            match slot.look(number, self.port) {
                Found::Closed => {}
                Found::Other => self.highest = number,
                Found::Connection(socket) => {
                    self.highest = number;
                    self.meet(&socket, number, now);
                }
            }
            number += 1;
        }
        number
    }

    /// Whether connections beyond a gap are to be found though none is missed.
    fn is_to_search_all(&self, now: Instant) -> bool {
        let is_due = self.widely.is_none_or(|last| now.saturating_duration_since(last) >= WIDE);
        is_due || self.registry.is_stopping()
    }

    fn was_met(&self, peer: &SocketAddr) -> bool {
        self.known.get(peer).is_some_and(|known| known.seen == self.round)
    }

    /// What was there before the round and was not seen in it is gone: a request in hand keeps its
    /// connection's descriptors open, and one that was reset has no other side any more.
    fn miss(&mut self, now: Instant) {
        let known = &self.known;
        let missed = self.registry.missed(now, |peer| known.contains_key(peer));
        self.have_left(&missed);
    }

    fn have_left(&self, requests: &[Arc<InHand>]) {
        for request in requests.iter().filter(|request| !request.has_left()) {
            self.tally.left.fetch_add(1, Ordering::Relaxed);
            request.left();
        }
    }

    /// Looks at a connection, once a round: tiny_http has two descriptors of each.
    fn meet(&mut self, socket: &Socket<'_>, number: RawFd, now: Instant) {
        let peer = socket.peer;
        if self.was_met(&peer) {
            return;
        }
        let view = self.registry.view(peer);
        let in_hand = view.as_ref().map_or(&[][..], |view| &view.in_hand);
        let phase = in_hand.first().map(|oldest| oldest.phase());
        let reads = phase == Some(Phase::Reading);
        // While a head is awaited, what was not taken yet may be a body that we are late with.
        let unread = if reads || phase.is_none() { socket.unread() } else { 0 };
        let look = Look {
            peer: socket.facts.peer,
            received: socket.facts.received.saturating_sub(unread),
            waiting: reads && unread > 0,
            moves: view.as_ref().map_or(0, |view| view.moves),
            phase,
            condemned: view.as_ref().is_some_and(|view| view.condemned),
        };
        self.sight.stalled += usize::from(reads && !look.waiting);
        let new = || Known { connection: Connection::new(&look, now), look, number, seen: 0 };
        let known = self.known.entry(peer).or_insert_with(new);
        (known.look, known.number, known.seen) = (look, number, self.round);
        // One that nobody reads may have asked, and gets a thread as soon as others end.
        let ends = self.registry.is_stopping() && unread == 0;
        let limits = if ends { self.limits.at_the_end() } else { self.limits };
        let verdict = known.connection.judge(&look, now, &limits);
        let in_work = phase.is_some_and(Phase::is_open);
        let asks = known.connection.is_asking(&look, unread > 0, now);
        self.asking += usize::from(in_work || asks);
        self.served += usize::from(in_work && !reads);
        self.hurry |= known.connection.is_growing(&look);
        self.act(verdict, socket, in_hand);
    }

    fn act(&mut self, verdict: Verdict, socket: &Socket<'_>, in_hand: &[Arc<InHand>]) {
        match verdict {
            Verdict::Keep => {}
            Verdict::Cut(reason) => self.cut(reason, socket, in_hand),
            Verdict::Late => {
                self.count(Reason::SlowBody);
                in_hand.iter().for_each(|request| request.is_late());
                // The answer still goes out.
                socket.shut(Shutdown::Read);
            }
            Verdict::Close => socket.shut(Shutdown::Write),
            Verdict::Left => self.have_left(in_hand),
            Verdict::Ask => {
                // Of several requests only the oldest may be in the middle of its answer.
                if let Some(oldest) = in_hand.first() {
                    oldest.poke(|byte| socket.poke(byte));
                }
            }
        }
    }

    fn cut(&mut self, reason: Reason, socket: &Socket<'_>, in_hand: &[Arc<InHand>]) {
        self.count(reason);
        if !matches!(reason, Reason::Idle | Reason::TooMany) {
            socket.will_reset();
        }
        socket.shut(Shutdown::Both);
        in_hand.iter().for_each(|request| request.is_cut());
    }

    fn count(&mut self, reason: Reason) {
        self.sight.cuts[reason as usize] += 1;
        self.tally.cuts[reason as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// Cuts what is above the limit: those that ask nothing, the oldest first.
    fn spare_some(&mut self, slot: &mut Slot) {
        let Some(above) = self.known.len().checked_sub(self.limits.connections) else {
            return;
        };
        let spare = |(peer, known): (&SocketAddr, &Known)| {
            Some((known.connection.spare(&known.look)?, *peer, known.number))
        };
        let mut spares: Vec<_> = self.known.iter().filter_map(spare).collect();
        // Of those that were met in one round, the lower number was accepted earlier.
        order::sort_by(&mut spares, |a, b| (a.0, a.2).cmp(&(b.0, b.2)));
        for (_, peer, number) in spares.into_iter().take(above) {
            let Found::Connection(socket) = slot.look(number, self.port) else { continue };
            // Its number may be somebody else's by now, and it may have asked by now.
            let asked = self.registry.view(peer).is_some_and(|view| !view.in_hand.is_empty());
            if socket.peer == peer && !asked && socket.facts.peer != Peer::Gone {
                self.cut(Reason::TooMany, &socket, &[]);
                if let Some(known) = self.known.get_mut(&peer) {
                    known.connection.is_too_many();
                }
            }
        }
    }

    /// One line about a round in which somebody misbehaved.
    fn tell(&self) {
        let loud = |(reason, _): &(Reason, u64)| !matches!(reason, Reason::Idle | Reason::Answered);
        let word = |(reason, count): (Reason, u64)| format!(" {}={count}", reason.word());
        let words: String = self.sight.cuts().filter(loud).map(word).collect();
        if !words.is_empty() {
            log::warn!("connections cut:{words}; {} are left", self.known.len());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::net::{TcpListener, TcpStream};

    use super::*;

    /// A watch, its registry, and what opens a connection.
    fn watch() -> (Watch, Arc<Registry>, TcpListener) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let registry = Registry::new(None);
        registry.watch();
        let (tally, heed) = (Arc::default(), Box::new(|_: &Sight| {}));
        let watch = Watch::new(port, registry.clone(), Limits::default(), tally, heed);
        (watch.expect("a descriptor"), registry, listener)
    }

    /// A connection, whose accepted end lies behind a gap of descriptors; and its peer.
    fn behind_a_gap(listener: &TcpListener) -> (TcpStream, TcpStream, SocketAddr) {
        let null = |_| File::open("/dev/null").expect("it is there");
        let addr = listener.local_addr().expect("an address");
        let client = TcpStream::connect(addr).expect("it listens");
        let _gap: Vec<File> = (0..2 * BEYOND).map(null).collect();
        let (accepted, peer) = listener.accept().expect("a connection");
        (client, accepted, peer)
    }

    #[test]
    fn whose_descriptor_lies_behind_a_gap_has_not_left() {
        let (mut watch, registry, listener) = watch();
        watch.round(Instant::now());
        let (_client, _accepted, peer) = behind_a_gap(&listener);
        let (ticket, refused) = registry.begin(peer, Instant::now());
        assert_eq!(refused, None);
        watch.round(Instant::now());
        assert!(!ticket.cancel().is_given() && watch.known.contains_key(&peer));
        assert_eq!(watch.tally.left(), 0);
    }

    #[test]
    fn who_asks_nothing_behind_a_gap_is_found_within_a_second() {
        let (mut watch, _registry, listener) = watch();
        let start = Instant::now();
        watch.round(start);
        let (_client, _accepted, peer) = behind_a_gap(&listener);
        watch.round(start + WIDE);
        assert!(watch.known.contains_key(&peer));
    }

    #[test]
    fn at_the_end_nobody_is_overlooked() {
        let (mut watch, registry, listener) = watch();
        let start = Instant::now();
        watch.round(start);
        let (_client, _accepted, peer) = behind_a_gap(&listener);
        registry.stops();
        watch.round(start);
        assert!(watch.known.contains_key(&peer));
        assert_eq!(watch.tally.asking(), 1);
    }

    #[test]
    fn a_request_that_no_worker_has_yet_is_something_going_on() {
        let (mut watch, registry, listener) = watch();
        let (_client, _accepted, peer) = behind_a_gap(&listener);
        let asking = |watch: &mut Watch| {
            watch.round(Instant::now());
            watch.tally.asking()
        };
        let (ticket, _) = registry.begin(peer, Instant::now());
        for (phase, expected) in [
            (Phase::Waiting, 1),
            (Phase::Reading, 1),
            (Phase::Working, 1),
            (Phase::Lingering, 0),
            (Phase::Over, 0),
        ] {
            ticket.in_hand().is_now(phase);
            assert_eq!(asking(&mut watch), expected, "{phase:?}");
        }
        ticket.in_hand().is_now(Phase::Working);
        drop(ticket);
        assert_eq!(asking(&mut watch), 0);
    }
}
