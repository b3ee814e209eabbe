//! Ends requests whose body is not read: too large, too slow, cut short, or not to be trusted.
//!
//! tiny_http 0.12 reads the rest of a body when a request is dropped, into one buffer of the length
//! that the client *claimed*: a claim of a petabyte would end the process. So a request with an
//! unread body is never dropped as it is:
//!
//! 1. The response goes out first. tiny_http hands the connection over only behind an interim
//!    `100 Continue`, so the response follows that.
//! 2. Up to 16 threads drain up to 64 MiB of the body, so that a client that is still sending can
//!    read its response. Without a free thread the body waits for step 3.
//! 3. The guard shuts the connection down, or the client leaves; then dropping is safe.
//! 4. A request that cannot be dropped is leaked, for the price of a parked thread and two
//!    descriptors: if the claimed length cannot be allocated, or no guard closes the connection.
//!    The server restarts if there are too many.
//!
//! tiny_http drops the reader of a body as soon as the body ends, even too early, so a body whose
//! claimed length cannot be allocated is not drained either. Never parses a body. Invariant: no drop
//! allocates a length that a client chose.

use std::io::{self, Read, Write};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::Sender;
use tiny_http::{ReadWrite, Request, Response, StatusCode};

use crate::net::connection_guard::{RequestHandle, RequestPhase};
use crate::net::worker_pool::WorkerPool;

/// tiny_http reads bodies up to this many bytes before it hands the request over.
const PREREAD_LIMIT: usize = 1024;

/// Most threads that drain bodies.
const MAX_DRAIN_THREADS: usize = 16;

/// Most bytes of one body that are drained.
const MAX_DRAIN_BYTES: u64 = 64 * 1024 * 1024;

/// Longest wait for the guard to close a connection.
const GUARD_TIMEOUT: Duration = Duration::from_secs(10);

/// Interval at which a closed connection is looked for.
const POLL_INTERVAL: Duration = Duration::from_millis(10);

static LEAKED: AtomicUsize = AtomicUsize::new(0);

/// A request whose body is not read to its end.
struct UnreadBody {
    stream: Box<dyn ReadWrite + Send>,
    content_length: usize,
    handle: Option<RequestHandle>,
}

/// True if tiny_http has read the request's body, or there is none.
pub fn is_fully_read(request: &Request) -> bool {
    let chunked = request.headers().iter().any(|header| header.field.equiv("Transfer-Encoding"));
    let expects = request.headers().iter().any(|header| header.field.equiv("Expect"));
    !chunked && !expects && request.body_length().is_none_or(|length| length <= PREREAD_LIMIT)
}

/// The number of requests that this process has leaked; each holds a thread and two descriptors.
pub fn leaked_requests() -> usize {
    LEAKED.load(Ordering::Acquire)
}

/// Sends `response`, a head and body, to a request whose body stays unread.
pub fn reject(request: Request, response: &[u8], handle: Option<RequestHandle>) {
    let mut body = UnreadBody::new(request, handle);
    // Nothing is left to do for a client that is gone.
    let _ = body.stream.write_all(response).and_then(|()| body.stream.flush());
    body.drain();
}

/// Ends a request without a response. The guard must close its connection.
pub fn discard(request: Request, body_read: bool, handle: Option<RequestHandle>) {
    if body_read {
        drop(request.into_writer());
    } else {
        UnreadBody::new(request, handle).drain();
    }
}

impl UnreadBody {
    fn new(request: Request, handle: Option<RequestHandle>) -> Self {
        let content_length = request.body_length().unwrap_or(0);
        let interim = Response::new_empty(StatusCode(100));
        Self { stream: request.upgrade("close", interim), content_length, handle }
    }

    /// Drains the rest of the body on another thread.
    fn drain(self) {
        // tiny_http will allocate as much, and a failure would end the process.
        if Vec::<u8>::new().try_reserve_exact(self.content_length).is_err() {
            return self.leak();
        }
        if let Some(handle) = &self.handle {
            handle.in_flight().set_phase(RequestPhase::Draining);
        }
        static DRAINERS: OnceLock<Option<WorkerPool>> = OnceLock::new();
        let pool = DRAINERS.get_or_init(|| WorkerPool::start("unread", MAX_DRAIN_THREADS, 0).ok());
        match pool.as_ref().and_then(WorkerPool::try_reserve) {
            Some(permit) => permit.run(move || self.discard_remaining()),
            None => close_later(self),
        }
    }

    fn is_watched(&self) -> bool {
        self.handle.as_ref().is_some_and(RequestHandle::is_guarded)
    }

    /// Reads to the end of the body, and then leaves the connection to the guard: if it is still open
    /// when the body is dropped, tiny_http reads what follows as another request.
    fn discard_remaining(mut self) {
        let read = io::copy(&mut Read::take(&mut self.stream, MAX_DRAIN_BYTES), &mut io::sink());
        let ended = read.map_or(true, |length| length < MAX_DRAIN_BYTES);
        if let Some(handle) = self.handle.as_ref().filter(|_| ended) {
            // tiny_http may read another request from now on.
            handle.in_flight().set_phase(RequestPhase::Drained);
        }
        match (ended, self.is_watched()) {
            (_, true) => close_later(self),
            (true, false) => {}
            (false, false) => self.leak(),
        }
    }

    fn leak(self) {
        LEAKED.fetch_add(1, Ordering::AcqRel);
        log::warn!(
            "request with Content-Length {} cannot be read or dropped safely: leaking its thread",
            self.content_length
        );
        std::mem::forget(self.stream);
    }

    /// Waits until the connection is shut down, and drops the request.
    fn wait_for_guard(mut self) {
        let deadline = Instant::now() + GUARD_TIMEOUT;
        while self.is_watched() && Instant::now() < deadline {
            if self.handle.as_ref().is_some_and(|handle| handle.in_flight().is_closed()) {
                return;
            }
            thread::sleep(POLL_INTERVAL);
        }
        self.handle = None;
        self.leak();
    }
}

/// Hands the body to the one thread that waits for the guard. Waiting for one body does not delay the
/// others, because the guard shuts down each connection on its own.
fn close_later(body: UnreadBody) {
    static REAPER: OnceLock<Option<Sender<UnreadBody>>> = OnceLock::new();
    let reaper = REAPER.get_or_init(|| {
        let (sender, receiver) = crossbeam_channel::unbounded::<UnreadBody>();
        let work = move || receiver.into_iter().for_each(UnreadBody::wait_for_guard);
        thread::Builder::new().name("unread".into()).spawn(work).ok().map(|_| sender)
    });
    match reaper {
        Some(reaper) => {
            if let Err(error) = reaper.send(body) {
                error.0.leak();
            }
        }
        None => body.leak(),
    }
}
