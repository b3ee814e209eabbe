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
//! 3. The guard shuts the connection down, or the client leaves. What has arrived until then is read.
//! 4. The rest is counted down: the reader is given zeros that nobody sent, without memory for them
//!    ([`crate::net::sys::read_zeros`]). At its end it can be dropped; tiny_http finds the end of the
//!    connection, and thread and descriptors are free.
//!
//! For the same reason no body may end early while a handler reads it
//! ([`crate::net::sys::read_body`]), and every request that is dropped comes here ([`discard`]).
//!
//! A request is leaked, for the price of a thread and two descriptors, only where nothing else is
//! possible: its claim is above a hundred million times the addresses that the process may still use
//! (`RLIMIT_AS`), the guard is stuck and the chunks of the body are invalid, or, on other systems than
//! Linux, the claim cannot be allocated.
//!
//! Never parses a body. Invariant: no drop allocates a length that a client chose.

use std::io::{self, Read, Write};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::Sender;
use tiny_http::{ReadWrite, Request, Response, StatusCode};

use crate::net::connection_guard::{RequestHandle, RequestPhase};
use crate::net::sys;
use crate::net::worker_pool::WorkerPool;

/// Most threads that drain bodies.
const MAX_DRAIN_THREADS: usize = 16;

/// Most bytes of one body that are drained.
const MAX_DRAIN_BYTES: u64 = 64 * 1024 * 1024;

/// Longest wait for the guard to close a connection.
const GUARD_TIMEOUT: Duration = Duration::from_secs(10);

/// Interval at which a closed connection is looked for.
const POLL_INTERVAL: Duration = Duration::from_millis(10);

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
    !chunked && !expects && request.body_length().is_none_or(|length| length <= sys::PREREAD_LIMIT)
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
    static DISCARDER: Queue<(Request, Option<RequestHandle>)> = Queue::new();
    if body_read {
        return drop(request.into_writer());
    }
    // Not here, because its reader is had only after the responses before it on its connection.
    let work = |(request, handle)| UnreadBody::new(request, handle).drain();
    if let Err(unsent) = DISCARDER.push((request, handle), work) {
        work(unsent);
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
        // Elsewhere tiny_http allocates as much when the body ends, and a failure would end the process.
        let can_end = cfg!(target_os = "linux")
            || Vec::<u8>::new().try_reserve_exact(self.content_length).is_ok();
        if !can_end {
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
        let mut reader = BodyReader::new(&mut self.stream, None).take(MAX_DRAIN_BYTES);
        let read = io::copy(&mut reader, &mut io::sink());
        let ended = read.map_or(true, |length| length < MAX_DRAIN_BYTES);
        if let Some(handle) = self.handle.as_ref().filter(|_| ended) {
            // tiny_http may read another request from now on.
            handle.in_flight().set_phase(RequestPhase::Drained);
        }
        if self.is_watched() { close_later(self) } else { self.release(ended) }
    }

    /// Waits until the connection is shut down, and releases it.
    fn wait_for_guard(self) {
        let deadline = Instant::now() + GUARD_TIMEOUT;
        let is_open = || {
            let handle = self.handle.as_ref().filter(|handle| handle.is_guarded());
            handle.is_some_and(|handle| !handle.in_flight().is_closed())
        };
        while is_open() && Instant::now() < deadline {
            thread::sleep(POLL_INTERVAL);
        }
        let is_closed = !is_open();
        self.release(is_closed);
    }

    /// Drops the body without an allocation of its length, so that tiny_http has its connection back,
    /// which is at its end unless `is_over` says that the body is.
    fn release(mut self, is_over: bool) {
        let is_over = sys::close_connection(&mut self.stream) || is_over;
        if !(is_over && sys::read_zeros(&mut self.stream, self.content_length)) {
            self.leak();
        }
    }

    fn leak(self) {
        static LEAKED: AtomicUsize = AtomicUsize::new(0);
        let count = LEAKED.fetch_add(1, Ordering::Relaxed) + 1;
        // A client that repeats it must not fill the log.
        if count.is_power_of_two() {
            log::warn!(
                "request with Content-Length {} cannot be read or dropped safely: \
                 its thread is lost, {count} in all",
                self.content_length
            );
        }
        std::mem::forget(self.stream);
    }
}

/// Hands the body to the one thread that waits for the guard. Waiting for one body does not delay the
/// others, because the guard shuts down each connection on its own.
fn close_later(body: UnreadBody) {
    static REAPER: Queue<UnreadBody> = Queue::new();
    if let Err(body) = REAPER.push(body, UnreadBody::wait_for_guard) {
        body.release(false);
    }
}

/// Reads a body whose early end is an error, and nothing of what is behind it.
pub(super) struct BodyReader<'a, R> {
    reader: &'a mut R,
    left: usize,
}

impl<'a, R> BodyReader<'a, R> {
    /// A reader of a body of this length, if that is known.
    pub(super) fn new(reader: &'a mut R, length: Option<usize>) -> Self {
        Self { reader, left: length.unwrap_or(usize::MAX) }
    }
}

impl<R: Read> Read for BodyReader<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = sys::read_body(self.reader, buffer, self.left)?;
        if self.left != usize::MAX {
            self.left = self.left.saturating_sub(read);
        }
        Ok(read)
    }
}

/// A queue with a thread of its own, which starts with the first item.
struct Queue<T>(OnceLock<Option<Sender<T>>>);

impl<T: Send + 'static> Queue<T> {
    const fn new() -> Self {
        Self(OnceLock::new())
    }

    /// Has the thread do `work` with an item; gives the item back without a thread.
    fn push(&self, item: T, work: fn(T)) -> Result<(), T> {
        let sender = self.0.get_or_init(|| {
            let (sender, receiver) = crossbeam_channel::unbounded::<T>();
            let run = move || receiver.into_iter().for_each(work);
            thread::Builder::new().name("unread".into()).spawn(run).ok().map(|_| sender)
        });
        match sender {
            Some(sender) => sender.send(item).map_err(|unsent| unsent.0),
            None => Err(item),
        }
    }
}
