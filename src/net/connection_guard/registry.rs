//! The requests in flight on each connection, and how far each is.
//!
//! The server registers each request when it arrives; its [`RequestHandle`] removes it when
//! dropped. The guard reads the registry to learn for each connection whether the client waits for
//! the proxy or the proxy for the client. Locks are held for a few instructions, except the lock of
//! a request's response, which is held while a piece of the response is written. Invariant: a byte
//! of the guard never lands inside a piece of a response, because both are written under that lock.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
#[cfg(target_os = "linux")]
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, TryLockError};
use std::time::Instant;

#[cfg(target_os = "linux")]
use super::rest::Waker;
use crate::net::cancel::CancellationToken;
use crate::observe::lock::lock;

/// Number of maps with a lock each, so that connections rarely wait for each other.
const SHARDS: usize = 16;

/// The first byte of every response: `HTTP/1.1 ...`.
const FIRST_BYTE: u8 = b'H';

/// A byte that changes nothing between two chunks: it becomes a leading zero of the next chunk length.
const LEADING_ZERO: u8 = b'0';

/// All connections that have had a request.
pub struct Registry {
    shards: [Mutex<HashMap<SocketAddr, ConnectionEntry>>; SHARDS],
    /// Most requests in flight from one address.
    max_per_client: Option<usize>,
    requests_per_client: Mutex<HashMap<IpAddr, usize>>,
    /// True if the guard removes closed connections; otherwise an entry is removed with its last
    /// request.
    guarded: bool,
    /// Whether each response is the last one on its connection.
    stopping: AtomicBool,
    /// Requests since the start.
    begun: AtomicU64,
    /// Ends the rest of the guard.
    #[cfg(target_os = "linux")]
    waker: OnceLock<Arc<Waker>>,
}

/// A connection.
#[derive(Clone)]
pub(super) struct ConnectionEntry {
    /// Changes whenever a request begins or ends.
    pub generation: u64,
    /// Oldest first.
    pub in_flight: Vec<Arc<InFlight>>,
    /// Whether the connection closes after the current response.
    pub closing: bool,
    created_at: Instant,
}

/// How far a request is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RequestPhase {
    /// Nothing has started to read its body.
    Waiting,
    /// Its body is being read.
    Reading,
    /// Its body is passed on while it is read, and may be of any length.
    Passing,
    /// Its body has been read.
    Working,
    /// It was answered before its body was read; the rest of the body is read and discarded.
    Draining,
    /// The rest of the body has been discarded.
    Drained,
}

impl RequestPhase {
    /// Whether its response is still to be finished.
    pub(super) fn is_active(self) -> bool {
        matches!(self, Self::Waiting | Self::Reading | Self::Passing | Self::Working)
    }
}

/// How much of a response the client has been sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResponseState {
    /// Nothing.
    NotStarted,
    /// Only the first byte, by the guard.
    FirstByteSent,
    /// A number of whole chunks.
    BetweenChunks,
    /// A number of whole chunks, and a leading zero of the next chunk length, by the guard.
    ZeroSent,
    /// Any other part, into which the guard cannot insert a byte.
    Other,
}

/// A request in flight.
pub struct InFlight {
    cancellation: Arc<CancellationToken>,
    phase: Mutex<RequestPhase>,
    /// Whether its body took too long.
    body_late: AtomicBool,
    /// Whether its connection is closed.
    closed: AtomicBool,
    response_state: Mutex<ResponseState>,
}

/// A request's entry in the registry, removed when the handle is dropped.
pub struct RequestHandle {
    registry: Arc<Registry>,
    peer: SocketAddr,
    in_flight: Arc<InFlight>,
    counts_for_client: bool,
}

/// Why a request is not served.
#[derive(Debug, PartialEq, Eq)]
pub enum Rejection {
    /// The response to an earlier request closes the connection.
    Closing,
    /// Its address has the most requests in flight that it may have.
    TooManyRequests,
}

impl Registry {
    /// A registry that allows each address `max_per_client` requests in flight. `guarded` says whether
    /// a guard removes closed connections.
    pub fn new(max_per_client: Option<usize>, guarded: bool) -> Arc<Self> {
        Arc::new(Self {
            shards: Default::default(),
            max_per_client,
            requests_per_client: Mutex::default(),
            guarded,
            stopping: AtomicBool::new(false),
            begun: AtomicU64::new(0),
            #[cfg(target_os = "linux")]
            waker: OnceLock::new(),
        })
    }

    /// Sets what ends the rest of the guard.
    #[cfg(target_os = "linux")]
    pub(super) fn set_waker(&self, waker: Arc<Waker>) {
        self.waker.get_or_init(|| waker);
    }

    /// Lets the guard scan soon.
    pub(super) fn wake_guard(&self) {
        #[cfg(target_os = "linux")]
        self.waker.get().iter().for_each(|waker| waker.wake());
    }

    /// Requests since the start.
    #[cfg(target_os = "linux")]
    pub(super) fn begun_requests(&self) -> u64 {
        self.begun.load(Ordering::SeqCst)
    }

    /// Registers a request, and says why it may not be served, if so.
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
        // Counted first: either the guard sees the count before it rests, or it is woken.
        self.begun.fetch_add(1, Ordering::SeqCst);
        self.wake_guard();
        let refused = match closing {
            true => Some(Rejection::Closing),
            false if self.acquire_client_slot(peer.ip()) => None,
            false => Some(Rejection::TooManyRequests),
        };
        let counts_for_client = self.max_per_client.is_some() && refused.is_none();
        (RequestHandle { registry: self.clone(), peer, in_flight, counts_for_client }, refused)
    }

    /// Counts one more request of an address, if it may have one more.
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

    /// Makes each response from now on the last one on its connection, because the server stops.
    pub fn mark_stopping(&self) {
        self.stopping.store(true, Ordering::SeqCst);
        self.wake_guard();
    }

    /// Whether the server stops.
    pub fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::SeqCst)
    }

    /// A copy of a connection's entry.
    pub(super) fn snapshot(&self, peer: SocketAddr) -> Option<ConnectionEntry> {
        self.shard(peer).get(&peer).cloned()
    }

    /// Whether any connection registered before `before` is not alive.
    pub(super) fn has_missing(
        &self,
        before: Instant,
        is_alive: impl Fn(&SocketAddr) -> bool,
    ) -> bool {
        let misses =
            |(peer, entry): (&_, &ConnectionEntry)| entry.is_older(before) && !is_alive(peer);
        self.shards.iter().any(|shard| lock(shard).iter().any(misses))
    }

    /// Removes connections registered before `before` that are not alive and have no request in
    /// flight; returns the requests of those that have one.
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

    fn shard(&self, peer: SocketAddr) -> MutexGuard<'_, HashMap<SocketAddr, ConnectionEntry>> {
        lock(&self.shards[usize::from(peer.port()) % SHARDS])
    }

    fn end_request(&self, peer: SocketAddr, in_flight: &Arc<InFlight>) {
        let mut shard = self.shard(peer);
        if let Some(entry) = shard.get_mut(&peer) {
            entry.generation += 1;
            entry.in_flight.retain(|known| !Arc::ptr_eq(known, in_flight));
            if entry.in_flight.is_empty() && !self.guarded {
                shard.remove(&peer);
            }
        }
    }
}

impl ConnectionEntry {
    fn new(created_at: Instant) -> Self {
        Self { generation: 0, in_flight: Vec::new(), closing: false, created_at }
    }

    /// Whether it was registered before that moment: a scan that began then meets the connection, or
    /// the connection is closed.
    fn is_older(&self, than: Instant) -> bool {
        self.created_at < than
    }
}

impl RequestHandle {
    /// Cancelled when the client disconnects.
    pub fn cancellation(&self) -> &Arc<CancellationToken> {
        &self.in_flight.cancellation
    }

    /// Whether a guard shuts its connection down when its time is over.
    pub fn is_guarded(&self) -> bool {
        self.registry.guarded
    }

    /// Whether its response must be the last one on its connection, because the server stops.
    pub fn is_last_response(&self) -> bool {
        self.registry.is_stopping()
    }

    /// The request.
    pub fn in_flight(&self) -> &Arc<InFlight> {
        &self.in_flight
    }

    /// Closes the connection after the response; a later request on it is refused.
    pub fn close_after_response(&self) {
        if let Some(entry) = self.registry.shard(self.peer).get_mut(&self.peer) {
            entry.closing = true;
        }
    }

    /// Stops counting the request for its address. To be called before the last bytes of the response
    /// are written, because the client may send its next request as soon as it has them.
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
            phase: Mutex::new(RequestPhase::Waiting),
            body_late: AtomicBool::new(false),
            closed: AtomicBool::new(false),
            response_state: Mutex::new(ResponseState::NotStarted),
        }
    }

    /// Sets how far the request is.
    pub fn set_phase(&self, phase: RequestPhase) {
        *lock(&self.phase) = phase;
    }

    /// How far the request is.
    pub fn phase(&self) -> RequestPhase {
        *lock(&self.phase)
    }

    /// Writes a piece of the response, after which it is in state `next`. `write` receives the number
    /// of the piece's first bytes that the guard has sent already.
    pub fn write_response<T>(&self, next: ResponseState, write: impl FnOnce(usize) -> T) -> T {
        let mut response_state = lock(&self.response_state);
        let written = write(usize::from(*response_state == ResponseState::FirstByteSent));
        *response_state = next;
        written
    }

    /// Sends the client a byte that does not change the response, if the response is in a state that
    /// has one: the client's kernel resets the connection if the client is gone. `send_byte` returns
    /// whether it sent the byte.
    pub(super) fn probe_peer(&self, send_byte: impl FnOnce(u8) -> bool) {
        // While a piece is being written, the write itself will fail.
        let mut response_state = match self.response_state.try_lock() {
            Ok(state) => state,
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
        if send_byte(byte) {
            *response_state = next;
        }
    }

    /// Whether the client's disconnect has been noted.
    pub(super) fn is_disconnected(&self) -> bool {
        self.cancellation.is_cancelled()
    }

    /// Notes that the client disconnected, and cancels the request.
    pub(super) fn mark_disconnected(&self) {
        self.mark_closed();
        self.cancellation.cancel();
    }

    /// Notes that its body took too long.
    pub(super) fn mark_body_late(&self) {
        self.body_late.store(true, Ordering::SeqCst);
    }

    /// Whether its body took too long.
    pub fn is_body_late(&self) -> bool {
        self.body_late.load(Ordering::SeqCst)
    }

    /// Notes that its connection is closed.
    pub(super) fn mark_closed(&self) {
        self.closed.store(true, Ordering::SeqCst);
    }

    /// Whether its connection is closed.
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

    /// How many connections the registry has.
    fn count(registry: &Registry) -> usize {
        registry.shards.iter().map(|shard| lock(shard).len()).sum()
    }

    #[track_caller]
    fn begin(registry: &Arc<Registry>, port: u16) -> RequestHandle {
        let (handle, refused) = registry.begin_request(peer(port), Instant::now());
        assert_eq!(refused, None);
        handle
    }

    #[track_caller]
    fn refused(registry: &Arc<Registry>, port: u16, expected: Rejection) {
        assert_eq!(registry.begin_request(peer(port), Instant::now()).1, Some(expected));
    }

    #[test]
    fn a_request_is_in_flight_until_its_handle_is_dropped() {
        let registry = Registry::new(None, true);
        assert!(registry.snapshot(peer(1)).is_none());
        let handle = begin(&registry, 1);
        let view = registry.snapshot(peer(1)).expect("an entry");
        assert_eq!((view.generation, view.in_flight.len(), view.closing), (1, 1, false));
        let second = begin(&registry, 1);
        drop(handle);
        let view = registry.snapshot(peer(1)).expect("an entry");
        assert_eq!((view.generation, view.in_flight.len()), (3, 1));
        assert!(Arc::ptr_eq(&view.in_flight[0], second.in_flight()));
        drop(second);
        assert_eq!(registry.snapshot(peer(1)).expect("an entry").generation, 4);
    }

    #[test]
    fn connections_are_forgotten_when_they_are_gone_idle_and_old() {
        let registry = Registry::new(None, true);
        let now = Instant::now();
        let held = begin(&registry, 1);
        (2..4).for_each(|port| drop(begin(&registry, port)));
        assert!(!registry.has_missing(now, |_| false), "they are younger than the look");
        assert!(registry.remove_missing(now, |_| false).is_empty());
        assert_eq!(count(&registry), 3, "they are younger than the look");
        let later = now + std::time::Duration::from_secs(60);
        assert!(!registry.has_missing(later, |_| true));
        assert!(registry.has_missing(later, |known| *known == peer(2)));
        let missed = registry.remove_missing(later, |known| *known == peer(2));
        assert!(missed.len() == 1 && Arc::ptr_eq(&missed[0], held.in_flight()));
        assert!(registry.snapshot(peer(1)).is_some() && registry.snapshot(peer(2)).is_some());
        assert!(registry.snapshot(peer(3)).is_none());
        drop(held);
        assert!(registry.remove_missing(later, |_| false).is_empty());
        assert_eq!(count(&registry), 0);
        let unguarded = Registry::new(None, false);
        drop(begin(&unguarded, 1));
        assert_eq!(count(&unguarded), 0, "no guard would remove it");
    }

    #[test]
    fn one_address_gets_its_share_and_no_more() {
        let registry = Registry::new(Some(2), true);
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
    fn nothing_follows_on_a_connection_that_closes() {
        let registry = Registry::new(None, true);
        let handle = begin(&registry, 1);
        handle.close_after_response();
        refused(&registry, 1, Rejection::Closing);
        drop(begin(&registry, 2));
        drop(handle);
        refused(&registry, 1, Rejection::Closing);
    }

    /// The bytes that two probes send.
    fn probes(in_flight: &InFlight) -> Vec<u8> {
        let mut sent = Vec::new();
        for _ in 0..2 {
            in_flight.probe_peer(|byte| {
                sent.push(byte);
                true
            });
        }
        sent
    }

    #[test]
    fn a_byte_is_sent_ahead_only_where_it_fits() {
        let in_flight = InFlight::new();
        assert_eq!(probes(&in_flight), b"", "the body is still to come");
        in_flight.set_phase(RequestPhase::Reading);
        assert_eq!(probes(&in_flight), b"");
        in_flight.set_phase(RequestPhase::Working);
        in_flight.probe_peer(|_| false);
        assert_eq!(probes(&in_flight), b"H", "once, and again after a byte that was not sent");
        in_flight.write_response(ResponseState::BetweenChunks, |ahead| assert_eq!(ahead, 1));
        assert_eq!(probes(&in_flight), b"0");
        in_flight.write_response(ResponseState::BetweenChunks, |ahead| {
            assert_eq!(ahead, 0, "a zero is part of the next length");
            assert_eq!(probes(&in_flight), b"", "a piece is being written");
        });
        assert_eq!(probes(&in_flight), b"0");
        in_flight.write_response(ResponseState::Other, |_| ());
        assert_eq!(probes(&in_flight), b"");
    }
}
