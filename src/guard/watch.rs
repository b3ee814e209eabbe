//! The guard's thread: look, judge, act, rest.
//!
//! Descriptors are looked at by their numbers, from 0 on: the kernel gives the lowest free one, so
//! that they lie close together, and nothing of `/proc` is needed, which an empty root lacks. It looks
//! also while nobody is connected: nothing tells us in time that somebody is, for whoever waits for the
//! listening socket beside the accept thread finds it empty again.

use std::collections::HashMap;
use std::io;
use std::net::{Shutdown, SocketAddr};
use std::os::fd::RawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Instant;

use rustix::time::{ClockId, clock_gettime};

use super::pace::Shown;
use super::registry::{InHand, Phase, Registry};
use super::rules::{Connection, Limits, Look, Peer, Reason, Verdict};
use super::socket::{Found, Slot, Socket};
use super::{Heed, Sight, Tally};
use crate::order;

/// How far beyond the highest number that was in use the search goes.
const BEYOND: RawFd = 64;

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
    round: u64,
    sight: Sight,
    /// Connections of this round on which a request is on its way.
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
        let (mut number, mut highest) = (0, 0);
        while number <= self.highest.max(highest) + BEYOND {
            match slot.look(number, self.port) {
                Found::Closed => {}
                Found::Other => highest = number,
                Found::Connection(socket) => {
                    highest = number;
                    self.meet(&socket, number, now);
                }
            }
            number += 1;
        }
        self.highest = highest;
        let round = self.round;
        self.known.retain(|_, known| known.seen == round);
        self.miss(now);
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
        if self.known.get(&peer).is_some_and(|known| known.seen == self.round) {
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
        self.asking += usize::from(known.connection.is_asking(&look, unread > 0, now));
        self.served += usize::from(matches!(phase, Some(Phase::Waiting | Phase::Working)));
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
