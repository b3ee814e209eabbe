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

use crate::net::connection_guard::{Phase, Ticket};

/// Bodies below this are read by tiny_http itself, before we see the request.
const SMALL: usize = 1024;

/// Threads that read bodies away, at most.
const LINGERERS: usize = 16;

/// Bytes that are read away.
const LINGER_BYTES: usize = 64 * 1024 * 1024;

/// How long the guard is waited for.
const GUARD_TIME: Duration = Duration::from_secs(10);

/// How often it is looked whether it has acted.
const LOOK: Duration = Duration::from_millis(10);

static LINGERING: AtomicUsize = AtomicUsize::new(0);

static LET_GO: AtomicUsize = AtomicUsize::new(0);

/// A request whose body is not read to its end.
struct Rest {
    stream: Box<dyn ReadWrite + Send>,
    claim: usize,
    ticket: Option<Ticket>,
}

/// Whether nothing of the request's body can be unread.
#[must_use]
pub fn has_none(request: &Request) -> bool {
    let chunked = request.headers().iter().any(|header| header.field.equiv("Transfer-Encoding"));
    let expects = request.headers().iter().any(|header| header.field.equiv("Expect"));
    !chunked && !expects && request.body_length().is_none_or(|length| length <= SMALL)
}

/// How many requests this process has let go of; each keeps a thread and two descriptors.
#[must_use]
pub fn let_go() -> usize {
    LET_GO.load(Ordering::Acquire)
}

/// Sends `answer`, a whole head and body, to a request whose body stays unread.
pub fn refuse(request: Request, answer: &[u8], ticket: Option<Ticket>) {
    let mut rest = Rest::of(request, ticket);
    // A client that is gone cannot be told.
    let _ = rest.stream.write_all(answer).and_then(|()| rest.stream.flush());
    rest.linger();
}

/// Ends a request without an answer. Its connection must be condemned.
pub fn discard(request: Request, body_read: bool, ticket: Option<Ticket>) {
    if body_read {
        drop(request.into_writer());
    } else {
        Rest::of(request, ticket).linger();
    }
}

impl Rest {
    fn of(request: Request, ticket: Option<Ticket>) -> Self {
        let claim = request.body_length().unwrap_or(0);
        let interim = Response::new_empty(StatusCode(100));
        Self { stream: request.upgrade("close", interim), claim, ticket }
    }

    /// Sees to the rest of the body on another thread.
    fn linger(self) {
        // tiny_http will ask for as much, and the process ends where it is not given.
        if Vec::<u8>::new().try_reserve_exact(self.claim).is_err() {
            return self.let_go();
        }
        if let Some(ticket) = &self.ticket {
            ticket.in_hand().is_now(Phase::Lingering);
        }
        if LINGERING.fetch_add(1, Ordering::AcqRel) >= LINGERERS {
            LINGERING.fetch_sub(1, Ordering::AcqRel);
            return bury(self);
        }
        let (sender, receiver) = crossbeam_channel::bounded::<Self>(1);
        let spawned = thread::Builder::new().name("unread".into()).spawn(move || {
            if let Ok(rest) = receiver.recv() {
                rest.read_away();
            }
            LINGERING.fetch_sub(1, Ordering::AcqRel);
        });
        match spawned {
            // There is room for it, and the thread waits for it.
            Ok(_) => sender.send(self).unwrap_or_else(|error| bury(error.0)),
            Err(_) => {
                LINGERING.fetch_sub(1, Ordering::AcqRel);
                bury(self);
            }
        }
    }

    fn is_watched(&self) -> bool {
        self.ticket.as_ref().is_some_and(Ticket::is_watched)
    }

    /// Reads until the end, which is not the end of the connection where the body is whole or wrong:
    /// then tiny_http would look for a request behind it as soon as it is dropped.
    fn read_away(mut self) {
        let mut buffer = [0; 16 * 1024];
        let mut read = 0;
        let mut ended = false;
        while !ended && read < LINGER_BYTES {
            match self.stream.read(&mut buffer) {
                Ok(0) | Err(_) => ended = true,
                Ok(length) => read += length,
            }
        }
        if let Some(ticket) = self.ticket.as_ref().filter(|_| ended) {
            // tiny_http may look for a request behind it from now on.
            ticket.in_hand().is_now(Phase::Over);
        }
        match (ended, self.is_watched()) {
            (_, true) => bury(self),
            (true, false) => {}
            (false, false) => self.let_go(),
        }
    }

    fn let_go(self) {
        LET_GO.fetch_add(1, Ordering::AcqRel);
        log::warn!("a request of {} bytes is let go of: its thread stays behind", self.claim);
        std::mem::forget(self.stream);
    }

    /// Waits until its connection was shut down, and drops it.
    fn wait(mut self) {
        let deadline = Instant::now() + GUARD_TIME;
        while self.is_watched() && Instant::now() < deadline {
            if self.ticket.as_ref().is_some_and(|ticket| ticket.in_hand().was_cut()) {
                return;
            }
            thread::sleep(LOOK);
        }
        self.ticket = None;
        self.let_go();
    }
}

/// Gives it to the one thread that waits for the guard. All of them wait at the same time: the guard
/// shuts down each on its own.
fn bury(rest: Rest) {
    static UNDERTAKER: OnceLock<Option<Sender<Rest>>> = OnceLock::new();
    let undertaker = UNDERTAKER.get_or_init(|| {
        let (sender, receiver) = crossbeam_channel::unbounded::<Rest>();
        let work = move || receiver.into_iter().for_each(Rest::wait);
        thread::Builder::new().name("unread".into()).spawn(work).ok().map(|_| sender)
    });
    match undertaker {
        Some(undertaker) => {
            if let Err(error) = undertaker.send(rest) {
                error.0.let_go();
            }
        }
        None => rest.let_go(),
    }
}
