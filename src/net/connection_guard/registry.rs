//! Which connection has a request in hand, and how far it is.
//!
//! The server notes each request here when it arrives and when it is done; the guard reads it to tell
//! a connection that waits for us from one that we wait for. A [`RequestHandle`] is one request's entry;
//! dropping it ends it. All locks are held for a few instructions, but for a request's own one, under
//! which its answer is written.
//! Invariant: the guard's byte never lands inside a piece of an answer, because it is sent under the
//! lock under which each piece is written.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, TryLockError};
use std::time::Instant;

use crate::net::cancel::CancellationToken;
use crate::observe::lock::lock;

/// Keeps one connection's lock out of most others' way.
const SHARDS: usize = 16;

/// The first byte of whatever answer there will be: `HTTP/1.1 ...`.
const FIRST_BYTE: u8 = b'H';

/// A byte that changes nothing between two chunks: the length of the next one gets a leading zero.
const LEADING_ZERO: u8 = b'0';

/// All connections that had a request.
pub struct Registry {
    shards: [Mutex<HashMap<SocketAddr, ConnectionEntry>>; SHARDS],
    /// How many requests of one address may be in hand.
    max_per_client: Option<usize>,
    requests_per_client: Mutex<HashMap<IpAddr, usize>>,
    /// Whether somebody forgets the connections that are gone. Without, they are forgotten with
    /// their last request.
    guarded: AtomicBool,
    /// Whether each answer is the last one on its connection.
    stopping: AtomicBool,
}

/// A connection.
struct ConnectionEntry {
    /// Changes whenever a request begins or ends.
    generation: u64,
    in_flight: Vec<Arc<InFlight>>,
    closing: bool,
    created_at: Instant,
}

/// How far a request is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum RequestPhase {
    /// Its body was not asked for yet.
    Waiting,
    /// Its body is being read.
    Reading,
    /// All of it has been read.
    Working,
    /// It was answered before its body was read, whose rest is thrown away.
    Draining,
    /// That has been done, too.
    Drained,
}

impl RequestPhase {
    /// Whether its answer is still to come, or on its way.
    pub(super) fn is_active(self) -> bool {
        matches!(self, Self::Waiting | Self::Reading | Self::Working)
    }
}

/// How far its answer is, as the other side sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResponseState {
    /// Not begun.
    NotStarted,
    /// Only the very first byte was sent.
    FirstByteSent,
    /// Between two chunks.
    BetweenChunks,
    /// Between two chunks, the first zero of the next one's length sent.
    ZeroSent,
    /// Somewhere where no byte fits in.
    Other,
}

/// A request in hand.
pub struct InFlight {
    cancellation: Arc<CancellationToken>,
    phase: AtomicU8,
    /// Its body took too long.
    body_late: AtomicBool,
    /// Its connection was shut down by the guard, or is gone.
    closed: AtomicBool,
    response_state: Mutex<ResponseState>,
}

/// A request's entry in the registry.
pub struct RequestHandle {
    registry: Arc<Registry>,
    peer: SocketAddr,
    in_flight: Arc<InFlight>,
    counts_for_client: bool,
}

/// What the guard learns of a connection.
pub(super) struct ConnectionSnapshot {
    pub generation: u64,
    pub in_flight: Vec<Arc<InFlight>>,
    pub closing: bool,
}

/// Why a request is not served.
#[derive(Debug, PartialEq, Eq)]
pub enum Rejection {
    /// An earlier request ended its connection.
    Closing,
    /// Its address has as many requests in hand as it may.
    TooManyRequests,
}

impl Registry {
    /// A registry in which one address may have `per_client` requests in hand.
    #[must_use]
    pub fn new(max_per_client: Option<usize>) -> Arc<Self> {
        Arc::new(Self {
            shards: Default::default(),
            max_per_client,
            requests_per_client: Mutex::default(),
            guarded: AtomicBool::new(false),
            stopping: AtomicBool::new(false),
        })
    }

    /// Notes a request, and whether it may be served.
    #[must_use]
    pub fn begin_request(
        self: &Arc<Self>,
        peer: SocketAddr,
        now: Instant,
    ) -> (RequestHandle, Option<Rejection>) {
        let in_flight = Arc::new(InFlight::new());
        let closing = {
            let mut shard = self.shard(peer);
            let entry = shard.entry(peer).or_insert_with(|| ConnectionEntry::new(now));
            entry.generation += 1;
            entry.in_flight.push(in_flight.clone());
            entry.closing
        };
        let refused = match closing {
            true => Some(Rejection::Closing),
            false if self.acquire_client_slot(peer.ip()) => None,
            false => Some(Rejection::TooManyRequests),
        };
        let counts_for_client = self.max_per_client.is_some() && refused.is_none();
        (RequestHandle { registry: self.clone(), peer, in_flight, counts_for_client }, refused)
    }

    /// Counts a request of an address, if there may be one more.
    fn acquire_client_slot(&self, client: IpAddr) -> bool {
        let Some(most) = self.max_per_client else {
            return true;
        };
        let mut clients = lock(&self.requests_per_client);
        let count = clients.entry(client).or_default();
        let admits = *count < most;
        *count += usize::from(admits);
        admits
    }

    fn release_client_slot(&self, client: IpAddr) {
        let mut clients = lock(&self.requests_per_client);
        if let Some(count) = clients.get_mut(&client) {
            *count -= 1;
            if *count == 0 {
                clients.remove(&client);
            }
        }
    }

    /// From now on connections are forgotten by [`Registry::remove_missing`] only.
    pub(super) fn set_guarded(&self) {
        self.guarded.store(true, Ordering::SeqCst);
    }

    /// From now on each answer is the last one on its connection, because the server is to end.
    pub fn mark_stopping(&self) {
        self.stopping.store(true, Ordering::SeqCst);
    }

    /// Whether the server is to end.
    #[must_use]
    pub fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::SeqCst)
    }

    /// What is known of a connection.
    pub(super) fn snapshot(&self, peer: SocketAddr) -> Option<ConnectionSnapshot> {
        let shard = self.shard(peer);
        let entry = shard.get(&peer)?;
        let (generation, closing) = (entry.generation, entry.closing);
        Some(ConnectionSnapshot { generation, in_flight: entry.in_flight.clone(), closing })
    }

    /// Whether a connection is known that is older than `before` and not alive.
    pub(super) fn has_missing(
        &self,
        before: Instant,
        is_alive: impl Fn(&SocketAddr) -> bool,
    ) -> bool {
        let misses =
            |(peer, entry): (&_, &ConnectionEntry)| entry.is_older(before) && !is_alive(peer);
        self.shards.iter().any(|shard| lock(shard).iter().any(misses))
    }

    /// Forgets the connections that are older than `before` and not alive, but for those with a
    /// request in hand: gives these requests.
    pub(super) fn remove_missing(
        &self,
        before: Instant,
        is_alive: impl Fn(&SocketAddr) -> bool,
    ) -> Vec<Arc<InFlight>> {
        let mut missing = Vec::new();
        for shard in &self.shards {
            lock(shard).retain(|peer, entry| {
                if !entry.is_older(before) || is_alive(peer) {
                    return true;
                }
                missing.extend(entry.in_flight.iter().cloned());
                !entry.in_flight.is_empty()
            });
        }
        missing
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

    fn shard(&self, peer: SocketAddr) -> MutexGuard<'_, HashMap<SocketAddr, ConnectionEntry>> {
        lock(&self.shards[usize::from(peer.port()) % SHARDS])
    }

    fn end_request(&self, peer: SocketAddr, in_flight: &Arc<InFlight>) {
        let mut shard = self.shard(peer);
        if let Some(entry) = shard.get_mut(&peer) {
            entry.generation += 1;
            entry.in_flight.retain(|known| !Arc::ptr_eq(known, in_flight));
            if entry.in_flight.is_empty() && !self.guarded.load(Ordering::SeqCst) {
                shard.remove(&peer);
            }
        }
    }
}

impl ConnectionEntry {
    fn new(created_at: Instant) -> Self {
        Self { generation: 0, in_flight: Vec::new(), closing: false, created_at }
    }

    /// Whether it was known at that moment: a look that began then meets its connection, or it is gone.
    fn is_older(&self, than: Instant) -> bool {
        self.created_at < than
    }
}

impl RequestHandle {
    /// The sign that the client has left.
    #[must_use]
    pub fn cancellation(&self) -> &Arc<CancellationToken> {
        &self.in_flight.cancellation
    }

    /// Whether somebody shuts its connection down when it has to end.
    #[must_use]
    pub fn is_guarded(&self) -> bool {
        self.registry.guarded.load(Ordering::SeqCst)
    }

    /// Whether its answer is the last one on its connection, whatever it says.
    #[must_use]
    pub fn is_last_response(&self) -> bool {
        self.registry.is_stopping()
    }

    /// The request itself.
    #[must_use]
    pub fn in_flight(&self) -> &Arc<InFlight> {
        &self.in_flight
    }

    /// This is the last answer on its connection, which is then shut down.
    pub fn close_after_response(&self) {
        if let Some(entry) = self.registry.shard(self.peer).get_mut(&self.peer) {
            entry.closing = true;
        }
    }

    /// The last bytes of the answer are about to be written: the client may ask anew before we hear
    /// that they were.
    pub fn release_client_slot(&mut self) {
        if std::mem::take(&mut self.counts_for_client) {
            self.registry.release_client_slot(self.peer.ip());
        }
    }
}

impl Drop for RequestHandle {
    fn drop(&mut self) {
        self.release_client_slot();
        self.registry.end_request(self.peer, &self.in_flight);
    }
}

impl InFlight {
    fn new() -> Self {
        Self {
            cancellation: CancellationToken::new(),
            phase: AtomicU8::new(RequestPhase::Waiting as u8),
            body_late: AtomicBool::new(false),
            closed: AtomicBool::new(false),
            response_state: Mutex::new(ResponseState::NotStarted),
        }
    }

    /// Notes how far the request is.
    pub fn set_phase(&self, phase: RequestPhase) {
        self.phase.store(phase as u8, Ordering::SeqCst);
    }

    /// How far it is.
    #[must_use]
    pub fn phase(&self) -> RequestPhase {
        const PHASES: [RequestPhase; 5] = [
            RequestPhase::Waiting,
            RequestPhase::Reading,
            RequestPhase::Working,
            RequestPhase::Draining,
            RequestPhase::Drained,
        ];
        PHASES[usize::from(self.phase.load(Ordering::SeqCst)) % PHASES.len()]
    }

    /// Writes a piece of the answer, after which it is at `next`. `write` is told how many of its
    /// first bytes were sent ahead.
    pub fn write_response<T>(&self, next: ResponseState, write: impl FnOnce(usize) -> T) -> T {
        let mut response_state = lock(&self.response_state);
        let written = write(usize::from(*response_state == ResponseState::FirstByteSent));
        *response_state = next;
        written
    }

    /// Sends a byte that does no harm, where there is one: only the answer to it tells a client that
    /// is gone from one that has nothing more to say.
    pub(super) fn probe_peer(&self, poke: impl FnOnce(u8) -> bool) {
        // While a piece is written there is no need.
        let mut response_state = match self.response_state.try_lock() {
            Ok(wire) => wire,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return,
        };
        let (byte, next) = match *response_state {
            ResponseState::NotStarted if self.phase() == RequestPhase::Working => {
                (FIRST_BYTE, ResponseState::FirstByteSent)
            }
            ResponseState::BetweenChunks => (LEADING_ZERO, ResponseState::ZeroSent),
            ResponseState::NotStarted
            | ResponseState::FirstByteSent
            | ResponseState::ZeroSent
            | ResponseState::Other => return,
        };
        if poke(byte) {
            *response_state = next;
        }
    }

    /// Whether it was told already.
    pub(super) fn is_disconnected(&self) -> bool {
        self.cancellation.is_cancelled()
    }

    /// The client has left.
    pub(super) fn mark_disconnected(&self) {
        self.mark_closed();
        self.cancellation.cancel();
    }

    /// Its body took too long: reading it ends.
    pub(super) fn mark_body_late(&self) {
        self.body_late.store(true, Ordering::SeqCst);
    }

    /// Whether its body took too long.
    #[must_use]
    pub fn is_body_late(&self) -> bool {
        self.body_late.load(Ordering::SeqCst)
    }

    /// Its connection was shut down.
    pub(super) fn mark_closed(&self) {
        self.closed.store(true, Ordering::SeqCst);
    }

    /// Whether its connection was shut down.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.closed.load(Ordering::SeqCst)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(port: u16) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], port))
    }

    #[track_caller]
    fn begin(registry: &Arc<Registry>, port: u16) -> RequestHandle {
        let (ticket, refused) = registry.begin_request(peer(port), Instant::now());
        assert_eq!(refused, None);
        ticket
    }

    #[track_caller]
    fn refused(registry: &Arc<Registry>, port: u16, expected: Rejection) {
        assert_eq!(registry.begin_request(peer(port), Instant::now()).1, Some(expected));
    }

    #[test]
    fn a_request_is_in_hand_until_its_ticket_is_dropped() {
        let registry = Registry::new(None);
        registry.set_guarded();
        assert!(registry.snapshot(peer(1)).is_none());
        let ticket = begin(&registry, 1);
        let view = registry.snapshot(peer(1)).expect("an entry");
        assert_eq!((view.generation, view.in_flight.len(), view.closing), (1, 1, false));
        let second = begin(&registry, 1);
        drop(ticket);
        let view = registry.snapshot(peer(1)).expect("an entry");
        assert_eq!((view.generation, view.in_flight.len()), (3, 1));
        assert!(Arc::ptr_eq(&view.in_flight[0], second.in_flight()));
        drop(second);
        assert_eq!(registry.snapshot(peer(1)).expect("an entry").generation, 4);
    }

    #[test]
    fn connections_are_forgotten_when_they_are_gone_idle_and_old() {
        let registry = Registry::new(None);
        registry.set_guarded();
        let now = Instant::now();
        let held = begin(&registry, 1);
        (2..4).for_each(|port| drop(begin(&registry, port)));
        assert!(registry.remove_missing(now, |_| false).is_empty());
        assert_eq!(registry.len(), 3, "they are younger than the look");
        let later = now + std::time::Duration::from_secs(60);
        let missed = registry.remove_missing(later, |known| *known == peer(2));
        assert!(missed.len() == 1 && Arc::ptr_eq(&missed[0], held.in_flight()));
        assert!(registry.snapshot(peer(1)).is_some() && registry.snapshot(peer(2)).is_some());
        assert!(registry.snapshot(peer(3)).is_none());
        drop(held);
        assert!(registry.remove_missing(later, |_| false).is_empty());
        assert!(registry.is_empty());
        let unwatched = Registry::new(None);
        drop(begin(&unwatched, 1));
        assert!(unwatched.is_empty(), "nobody else would forget it");
    }

    #[test]
    fn one_address_gets_its_share_and_no_more() {
        let registry = Registry::new(Some(2));
        let (mut first, second) = (begin(&registry, 1), begin(&registry, 2));
        refused(&registry, 3, Rejection::TooManyRequests);
        let elsewhere = SocketAddr::from(([127, 0, 0, 2], 3));
        assert_eq!(registry.begin_request(elsewhere, Instant::now()).1, None);
        first.release_client_slot();
        let third = begin(&registry, 1);
        drop(first);
        refused(&registry, 3, Rejection::TooManyRequests);
        drop((second, third));
        drop(begin(&registry, 3));
        assert!(lock(&registry.requests_per_client).is_empty());
    }

    #[test]
    fn nothing_follows_on_a_condemned_connection() {
        let registry = Registry::new(None);
        registry.set_guarded();
        let ticket = begin(&registry, 1);
        ticket.close_after_response();
        refused(&registry, 1, Rejection::Closing);
        drop(begin(&registry, 2));
        drop(ticket);
        refused(&registry, 1, Rejection::Closing);
    }

    /// The bytes of two pokes, each tried twice.
    fn pokes(in_hand: &InFlight) -> Vec<u8> {
        let mut sent = Vec::new();
        for _ in 0..2 {
            in_hand.probe_peer(|byte| {
                sent.push(byte);
                true
            });
        }
        sent
    }

    #[test]
    fn a_byte_is_sent_ahead_only_where_it_fits() {
        let in_hand = InFlight::new();
        assert_eq!(pokes(&in_hand), b"", "the body is still to come");
        in_hand.set_phase(RequestPhase::Reading);
        assert_eq!(pokes(&in_hand), b"");
        in_hand.set_phase(RequestPhase::Working);
        in_hand.probe_peer(|_| false);
        assert_eq!(pokes(&in_hand), b"H", "once, and again after one that was not sent");
        in_hand.write_response(ResponseState::BetweenChunks, |ahead| assert_eq!(ahead, 1));
        assert_eq!(pokes(&in_hand), b"0");
        in_hand.write_response(ResponseState::BetweenChunks, |ahead| {
            assert_eq!(ahead, 0, "a zero is part of the next length");
            assert_eq!(pokes(&in_hand), b"", "a piece is being written");
        });
        assert_eq!(pokes(&in_hand), b"0");
        in_hand.write_response(ResponseState::Other, |_| ());
        assert_eq!(pokes(&in_hand), b"");
    }
}
