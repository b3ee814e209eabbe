//! Requests whose body is not read: too large, too slow, broken off, or not to be trusted.
//!
//! tiny_http 0.12 reads the rest of a body when a request is dropped, in one buffer as large as the
//! length that the client *claimed*: a claim of a petabyte ends the process. So a request with an
//! unread body is never dropped as it is. The answer goes out first (tiny_http offers that only for
//! an interim `100 Continue`, behind which ours follows). Then a few threads read the rest away, so
//! that a client that is still sending comes to read its answer, until it leaves or the guard shuts
//! the connection down; those for whom there is no thread wait for that. After it, dropping is safe,
//! unless the claim is more than the process may allocate: then the request is let go of without
//! being dropped, which costs a parked thread, and is logged. Without a guard the same is done to all
//! that do not leave by themselves. Where there are too many of them, the server begins anew. (tiny_http drops the reader of a body as soon as that sees its end,
//! also its early end: a claim that cannot be allocated must not be read from either.)

use std::io::{Read, Write};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::Sender;
use tiny_http::{ReadWrite, Request, Response, StatusCode};

use crate::net::connection_guard::{RequestHandle, RequestPhase};

/// Bodies below this are read by tiny_http itself, before we see the request.
const PREREAD_LIMIT: usize = 1024;

/// Threads that read bodies away, at most.
const MAX_DRAIN_THREADS: usize = 16;

/// Bytes that are read away.
const MAX_DRAIN_BYTES: usize = 64 * 1024 * 1024;

/// How long the guard is waited for.
const GUARD_TIMEOUT: Duration = Duration::from_secs(10);

/// How often it is looked whether it has acted.
const POLL_INTERVAL: Duration = Duration::from_millis(10);

static DRAIN_THREADS: AtomicUsize = AtomicUsize::new(0);

static LEAKED: AtomicUsize = AtomicUsize::new(0);

/// A request whose body is not read to its end.
struct UnreadBody {
    stream: Box<dyn ReadWrite + Send>,
    content_length: usize,
    handle: Option<RequestHandle>,
}

/// Whether nothing of the request's body can be unread.
#[must_use]
pub fn is_fully_read(request: &Request) -> bool {
    let chunked = request.headers().iter().any(|header| header.field.equiv("Transfer-Encoding"));
    let expects = request.headers().iter().any(|header| header.field.equiv("Expect"));
    !chunked && !expects && request.body_length().is_none_or(|length| length <= PREREAD_LIMIT)
}

/// How many requests this process has let go of; each keeps a thread and two descriptors.
#[must_use]
pub fn leaked_requests() -> usize {
    LEAKED.load(Ordering::Acquire)
}

/// Sends `answer`, a whole head and body, to a request whose body stays unread.
pub fn reject(request: Request, response: &[u8], handle: Option<RequestHandle>) {
    let mut body = UnreadBody::new(request, handle);
    // A client that is gone cannot be told.
    let _ = body.stream.write_all(response).and_then(|()| body.stream.flush());
    body.drain();
}

/// Ends a request without an answer. Its connection must be condemned.
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

    /// Sees to the rest of the body on another thread.
    fn drain(self) {
        // tiny_http will ask for as much, and the process ends where it is not given.
        if Vec::<u8>::new().try_reserve_exact(self.content_length).is_err() {
            return self.leak();
        }
        if let Some(ticket) = &self.handle {
            ticket.in_flight().set_phase(RequestPhase::Draining);
        }
        if DRAIN_THREADS.fetch_add(1, Ordering::AcqRel) >= MAX_DRAIN_THREADS {
            DRAIN_THREADS.fetch_sub(1, Ordering::AcqRel);
            return close_later(self);
        }
        let (sender, receiver) = crossbeam_channel::bounded::<Self>(1);
        let spawned = thread::Builder::new().name("unread".into()).spawn(move || {
            if let Ok(rest) = receiver.recv() {
                rest.discard_remaining();
            }
            DRAIN_THREADS.fetch_sub(1, Ordering::AcqRel);
        });
        match spawned {
            // There is room for it, and the thread waits for it.
            Ok(_) => sender.send(self).unwrap_or_else(|error| close_later(error.0)),
            Err(_) => {
                DRAIN_THREADS.fetch_sub(1, Ordering::AcqRel);
                close_later(self);
            }
        }
    }

    fn is_watched(&self) -> bool {
        self.handle.as_ref().is_some_and(RequestHandle::is_guarded)
    }

    /// Reads until the end, which is not the end of the connection where the body is whole or wrong:
    /// then tiny_http would look for a request behind it as soon as it is dropped.
    fn discard_remaining(mut self) {
        let mut buffer = [0; 16 * 1024];
        let mut read = 0;
        let mut ended = false;
        while !ended && read < MAX_DRAIN_BYTES {
            match self.stream.read(&mut buffer) {
                Ok(0) | Err(_) => ended = true,
                Ok(length) => read += length,
            }
        }
        if let Some(ticket) = self.handle.as_ref().filter(|_| ended) {
            // tiny_http may look for a request behind it from now on.
            ticket.in_flight().set_phase(RequestPhase::Drained);
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

    /// Waits until its connection was shut down, and drops it.
    fn wait_for_guard(mut self) {
        let deadline = Instant::now() + GUARD_TIMEOUT;
        while self.is_watched() && Instant::now() < deadline {
            if self.handle.as_ref().is_some_and(|ticket| ticket.in_flight().is_closed()) {
                return;
            }
            thread::sleep(POLL_INTERVAL);
        }
        self.handle = None;
        self.leak();
    }
}

/// Gives it to the one thread that waits for the guard. All of them wait at the same time: the guard
/// shuts down each on its own.
fn close_later(body: UnreadBody) {
    static REAPER: OnceLock<Option<Sender<UnreadBody>>> = OnceLock::new();
    let reaper = REAPER.get_or_init(|| {
        let (sender, receiver) = crossbeam_channel::unbounded::<UnreadBody>();
        let work = move || receiver.into_iter().for_each(UnreadBody::wait_for_guard);
        thread::Builder::new().name("unread".into()).spawn(work).ok().map(|_| sender)
    });
    match reaper {
        Some(undertaker) => {
            if let Err(error) = undertaker.send(body) {
                error.0.leak();
            }
        }
        None => body.leak(),
    }
}
