//! Which connection has a request in hand, and how far it is.
//!
//! The server notes each request here when it arrives and when it is done; the guard reads it to tell
//! a connection that waits for us from one that we wait for. A [`Ticket`] is one request's entry;
//! dropping it ends it. All locks are held for a few instructions, but for a request's own one, under
//! which its answer is written.
//! Invariant: the guard's byte never lands inside a piece of an answer, because it is sent under the
//! lock under which each piece is written.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, TryLockError};
use std::time::Instant;

use crate::net::cancel::Cancel;
use crate::observe::lock::lock;

/// Keeps one connection's lock out of most others' way.
const SHARDS: usize = 16;

/// The first byte of whatever answer there will be: `HTTP/1.1 ...`.
const FIRST_BYTE: u8 = b'H';

/// A byte that changes nothing between two chunks: the length of the next one gets a leading zero.
const ZERO: u8 = b'0';

/// All connections that had a request.
pub struct Registry {
    shards: [Mutex<HashMap<SocketAddr, Entry>>; SHARDS],
    /// How many requests of one address may be in hand.
    per_client: Option<usize>,
    clients: Mutex<HashMap<IpAddr, usize>>,
    /// Whether somebody forgets the connections that are gone. Without, they are forgotten with
    /// their last request.
    watched: AtomicBool,
    /// Whether each answer is the last one on its connection.
    stopping: AtomicBool,
}

/// A connection.
struct Entry {
    /// Changes whenever a request begins or ends.
    moves: u64,
    in_hand: Vec<Arc<InHand>>,
    condemned: bool,
    since: Instant,
}

/// How far a request is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Phase {
    /// Its body was not asked for yet.
    Waiting,
    /// Its body is being read.
    Reading,
    /// All of it has been read.
    Working,
    /// It was answered before its body was read, whose rest is thrown away.
    Lingering,
    /// That has been done, too.
    Over,
}

impl Phase {
    /// Whether its answer is still to come, or on its way.
    pub(super) fn is_open(self) -> bool {
        matches!(self, Self::Waiting | Self::Reading | Self::Working)
    }
}

/// How far its answer is, as the other side sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wire {
    /// Not begun.
    Silent,
    /// Only the very first byte was sent.
    Begun,
    /// Between two chunks.
    Chunks,
    /// Between two chunks, the first zero of the next one's length sent.
    Padded,
    /// Somewhere where no byte fits in.
    Other,
}

/// A request in hand.
pub struct InHand {
    cancel: Arc<Cancel>,
    phase: AtomicU8,
    /// Its body took too long.
    late: AtomicBool,
    /// Its connection was shut down by the guard, or is gone.
    cut: AtomicBool,
    wire: Mutex<Wire>,
}

/// A request's entry in the registry.
pub struct Ticket {
    registry: Arc<Registry>,
    peer: SocketAddr,
    in_hand: Arc<InHand>,
    counted: bool,
}

/// What the guard learns of a connection.
pub(super) struct View {
    pub moves: u64,
    pub in_hand: Vec<Arc<InHand>>,
    pub condemned: bool,
}

/// Why a request is not served.
#[derive(Debug, PartialEq, Eq)]
pub enum Refused {
    /// An earlier request ended its connection.
    Condemned,
    /// Its address has as many requests in hand as it may.
    TooMany,
}

impl Registry {
    /// A registry in which one address may have `per_client` requests in hand.
    #[must_use]
    pub fn new(per_client: Option<usize>) -> Arc<Self> {
        Arc::new(Self {
            shards: Default::default(),
            per_client,
            clients: Mutex::default(),
            watched: AtomicBool::new(false),
            stopping: AtomicBool::new(false),
        })
    }

    /// Notes a request, and whether it may be served.
    #[must_use]
    pub fn begin(self: &Arc<Self>, peer: SocketAddr, now: Instant) -> (Ticket, Option<Refused>) {
        let in_hand = Arc::new(InHand::new());
        let condemned = {
            let mut shard = self.shard(peer);
            let entry = shard.entry(peer).or_insert_with(|| Entry::new(now));
            entry.moves += 1;
            entry.in_hand.push(in_hand.clone());
            entry.condemned
        };
        let refused = match condemned {
            true => Some(Refused::Condemned),
            false if self.admits(peer.ip()) => None,
            false => Some(Refused::TooMany),
        };
        let counted = self.per_client.is_some() && refused.is_none();
        (Ticket { registry: self.clone(), peer, in_hand, counted }, refused)
    }

    /// Counts a request of an address, if there may be one more.
    fn admits(&self, client: IpAddr) -> bool {
        let Some(most) = self.per_client else {
            return true;
        };
        let mut clients = lock(&self.clients);
        let count = clients.entry(client).or_default();
        let admits = *count < most;
        *count += usize::from(admits);
        admits
    }

    fn discount(&self, client: IpAddr) {
        let mut clients = lock(&self.clients);
        if let Some(count) = clients.get_mut(&client) {
            *count -= 1;
            if *count == 0 {
                clients.remove(&client);
            }
        }
    }

    /// From now on connections are forgotten by [`Registry::missed`] only.
    pub(super) fn watch(&self) {
        self.watched.store(true, Ordering::SeqCst);
    }

    /// From now on each answer is the last one on its connection, because the server is to end.
    pub fn stops(&self) {
        self.stopping.store(true, Ordering::SeqCst);
    }

    /// Whether the server is to end.
    #[must_use]
    pub fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::SeqCst)
    }

    /// What is known of a connection.
    pub(super) fn view(&self, peer: SocketAddr) -> Option<View> {
        let shard = self.shard(peer);
        let entry = shard.get(&peer)?;
        let (moves, condemned) = (entry.moves, entry.condemned);
        Some(View { moves, in_hand: entry.in_hand.clone(), condemned })
    }

    /// Whether a connection is known that is older than `before` and not alive.
    pub(super) fn misses(&self, before: Instant, is_alive: impl Fn(&SocketAddr) -> bool) -> bool {
        let misses = |(peer, entry): (&_, &Entry)| entry.is_older(before) && !is_alive(peer);
        self.shards.iter().any(|shard| lock(shard).iter().any(misses))
    }

    /// Forgets the connections that are older than `before` and not alive, but for those with a
    /// request in hand: gives these requests.
    pub(super) fn missed(
        &self,
        before: Instant,
        is_alive: impl Fn(&SocketAddr) -> bool,
    ) -> Vec<Arc<InHand>> {
        let mut missed = Vec::new();
        for shard in &self.shards {
            lock(shard).retain(|peer, entry| {
                if !entry.is_older(before) || is_alive(peer) {
                    return true;
                }
                missed.extend(entry.in_hand.iter().cloned());
                !entry.in_hand.is_empty()
            });
        }
        missed
    }

    /// How many connections are known.
    #[must_use]
    pub fn len(&self) -> usize {
        self.shards.iter().map(|shard| lock(shard).len()).sum()
    }

    /// Whether none is.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn shard(&self, peer: SocketAddr) -> MutexGuard<'_, HashMap<SocketAddr, Entry>> {
        lock(&self.shards[usize::from(peer.port()) % SHARDS])
    }

    fn end(&self, peer: SocketAddr, in_hand: &Arc<InHand>) {
        let mut shard = self.shard(peer);
        if let Some(entry) = shard.get_mut(&peer) {
            entry.moves += 1;
            entry.in_hand.retain(|known| !Arc::ptr_eq(known, in_hand));
            if entry.in_hand.is_empty() && !self.watched.load(Ordering::SeqCst) {
                shard.remove(&peer);
            }
        }
    }
}

impl Entry {
    fn new(since: Instant) -> Self {
        Self { moves: 0, in_hand: Vec::new(), condemned: false, since }
    }

    /// Whether it was known at that moment: a look that began then meets its connection, or it is gone.
    fn is_older(&self, than: Instant) -> bool {
        self.since < than
    }
}

impl Ticket {
    /// The sign that the client has left.
    #[must_use]
    pub fn cancel(&self) -> &Arc<Cancel> {
        &self.in_hand.cancel
    }

    /// Whether somebody shuts its connection down when it has to end.
    #[must_use]
    pub fn is_watched(&self) -> bool {
        self.registry.watched.load(Ordering::SeqCst)
    }

    /// Whether its answer is the last one on its connection, whatever it says.
    #[must_use]
    pub fn is_last(&self) -> bool {
        self.registry.is_stopping()
    }

    /// The request itself.
    #[must_use]
    pub fn in_hand(&self) -> &Arc<InHand> {
        &self.in_hand
    }

    /// This is the last answer on its connection, which is then shut down.
    pub fn condemn(&self) {
        if let Some(entry) = self.registry.shard(self.peer).get_mut(&self.peer) {
            entry.condemned = true;
        }
    }

    /// The last bytes of the answer are about to be written: the client may ask anew before we hear
    /// that they were.
    pub fn ending(&mut self) {
        if std::mem::take(&mut self.counted) {
            self.registry.discount(self.peer.ip());
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.ending();
        self.registry.end(self.peer, &self.in_hand);
    }
}

impl InHand {
    fn new() -> Self {
        Self {
            cancel: Cancel::new(),
            phase: AtomicU8::new(Phase::Waiting as u8),
            late: AtomicBool::new(false),
            cut: AtomicBool::new(false),
            wire: Mutex::new(Wire::Silent),
        }
    }

    /// Notes how far the request is.
    pub fn is_now(&self, phase: Phase) {
        self.phase.store(phase as u8, Ordering::SeqCst);
    }

    /// How far it is.
    #[must_use]
    pub fn phase(&self) -> Phase {
        const PHASES: [Phase; 5] =
            [Phase::Waiting, Phase::Reading, Phase::Working, Phase::Lingering, Phase::Over];
        PHASES[usize::from(self.phase.load(Ordering::SeqCst)) % PHASES.len()]
    }

    /// Writes a piece of the answer, after which it is at `next`. `write` is told how many of its
    /// first bytes were sent ahead.
    pub fn send<T>(&self, next: Wire, write: impl FnOnce(usize) -> T) -> T {
        let mut wire = lock(&self.wire);
        let written = write(usize::from(*wire == Wire::Begun));
        *wire = next;
        written
    }

    /// Sends a byte that does no harm, where there is one: only the answer to it tells a client that
    /// is gone from one that has nothing more to say.
    pub(super) fn poke(&self, poke: impl FnOnce(u8) -> bool) {
        // While a piece is written there is no need.
        let mut wire = match self.wire.try_lock() {
            Ok(wire) => wire,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return,
        };
        let (byte, next) = match *wire {
            Wire::Silent if self.phase() == Phase::Working => (FIRST_BYTE, Wire::Begun),
            Wire::Chunks => (ZERO, Wire::Padded),
            Wire::Silent | Wire::Begun | Wire::Padded | Wire::Other => return,
        };
        if poke(byte) {
            *wire = next;
        }
    }

    /// Whether it was told already.
    pub(super) fn has_left(&self) -> bool {
        self.cancel.is_given()
    }

    /// The client has left.
    pub(super) fn left(&self) {
        self.is_cut();
        self.cancel.give();
    }

    /// Its body took too long: reading it ends.
    pub(super) fn is_late(&self) {
        self.late.store(true, Ordering::SeqCst);
    }

    /// Whether its body took too long.
    #[must_use]
    pub fn was_late(&self) -> bool {
        self.late.load(Ordering::SeqCst)
    }

    /// Its connection was shut down.
    pub(super) fn is_cut(&self) {
        self.cut.store(true, Ordering::SeqCst);
    }

    /// Whether its connection was shut down.
    #[must_use]
    pub fn was_cut(&self) -> bool {
        self.cut.load(Ordering::SeqCst)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(port: u16) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], port))
    }

    #[track_caller]
    fn begin(registry: &Arc<Registry>, port: u16) -> Ticket {
        let (ticket, refused) = registry.begin(peer(port), Instant::now());
        assert_eq!(refused, None);
        ticket
    }

    #[track_caller]
    fn refused(registry: &Arc<Registry>, port: u16, expected: Refused) {
        assert_eq!(registry.begin(peer(port), Instant::now()).1, Some(expected));
    }

    #[test]
    fn a_request_is_in_hand_until_its_ticket_is_dropped() {
        let registry = Registry::new(None);
        registry.watch();
        assert!(registry.view(peer(1)).is_none());
        let ticket = begin(&registry, 1);
        let view = registry.view(peer(1)).expect("an entry");
        assert_eq!((view.moves, view.in_hand.len(), view.condemned), (1, 1, false));
        let second = begin(&registry, 1);
        drop(ticket);
        let view = registry.view(peer(1)).expect("an entry");
        assert_eq!((view.moves, view.in_hand.len()), (3, 1));
        assert!(Arc::ptr_eq(&view.in_hand[0], second.in_hand()));
        drop(second);
        assert_eq!(registry.view(peer(1)).expect("an entry").moves, 4);
    }

    #[test]
    fn connections_are_forgotten_when_they_are_gone_idle_and_old() {
        let registry = Registry::new(None);
        registry.watch();
        let now = Instant::now();
        let held = begin(&registry, 1);
        (2..4).for_each(|port| drop(begin(&registry, port)));
        assert!(registry.missed(now, |_| false).is_empty());
        assert_eq!(registry.len(), 3, "they are younger than the look");
        let later = now + std::time::Duration::from_secs(60);
        let missed = registry.missed(later, |known| *known == peer(2));
        assert!(missed.len() == 1 && Arc::ptr_eq(&missed[0], held.in_hand()));
        assert!(registry.view(peer(1)).is_some() && registry.view(peer(2)).is_some());
        assert!(registry.view(peer(3)).is_none());
        drop(held);
        assert!(registry.missed(later, |_| false).is_empty());
        assert!(registry.is_empty());
        let unwatched = Registry::new(None);
        drop(begin(&unwatched, 1));
        assert!(unwatched.is_empty(), "nobody else would forget it");
    }

    #[test]
    fn one_address_gets_its_share_and_no_more() {
        let registry = Registry::new(Some(2));
        let (mut first, second) = (begin(&registry, 1), begin(&registry, 2));
        refused(&registry, 3, Refused::TooMany);
        let elsewhere = SocketAddr::from(([127, 0, 0, 2], 3));
        assert_eq!(registry.begin(elsewhere, Instant::now()).1, None);
        first.ending();
        let third = begin(&registry, 1);
        drop(first);
        refused(&registry, 3, Refused::TooMany);
        drop((second, third));
        drop(begin(&registry, 3));
        assert!(lock(&registry.clients).is_empty());
    }

    #[test]
    fn nothing_follows_on_a_condemned_connection() {
        let registry = Registry::new(None);
        registry.watch();
        let ticket = begin(&registry, 1);
        ticket.condemn();
        refused(&registry, 1, Refused::Condemned);
        drop(begin(&registry, 2));
        drop(ticket);
        refused(&registry, 1, Refused::Condemned);
    }

    /// The bytes of two pokes, each tried twice.
    fn pokes(in_hand: &InHand) -> Vec<u8> {
        let mut sent = Vec::new();
        for _ in 0..2 {
            in_hand.poke(|byte| {
                sent.push(byte);
                true
            });
        }
        sent
    }

    #[test]
    fn a_byte_is_sent_ahead_only_where_it_fits() {
        let in_hand = InHand::new();
        assert_eq!(pokes(&in_hand), b"", "the body is still to come");
        in_hand.is_now(Phase::Reading);
        assert_eq!(pokes(&in_hand), b"");
        in_hand.is_now(Phase::Working);
        in_hand.poke(|_| false);
        assert_eq!(pokes(&in_hand), b"H", "once, and again after one that was not sent");
        in_hand.send(Wire::Chunks, |ahead| assert_eq!(ahead, 1));
        assert_eq!(pokes(&in_hand), b"0");
        in_hand.send(Wire::Chunks, |ahead| {
            assert_eq!(ahead, 0, "a zero is part of the next length");
            assert_eq!(pokes(&in_hand), b"", "a piece is being written");
        });
        assert_eq!(pokes(&in_hand), b"0");
        in_hand.send(Wire::Other, |_| ());
        assert_eq!(pokes(&in_hand), b"");
    }
}
