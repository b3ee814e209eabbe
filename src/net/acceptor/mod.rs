//! Keeps the accept side of tiny_http healthy: every connection gets a thread within 250 ms, and
//! a server that stopped accepting listens again. Knows tiny_http and sockets, nothing of our
//! handlers; never looks into a request, and never connects anywhere but to its own port.
//!
//! **The flaw.** tiny_http gives each connection a pool thread until the connection closes. Its
//! pool queues a new connection whenever the count of idle threads is not 0, although those
//! threads may already be spoken for by connections queued a moment before. What is left in that
//! queue waits until some other connection closes: of 6 keep-alive connections opened at once on
//! an idle server 2 are never answered. Besides, the accept thread ends at the first accept error,
//! and dies by a panic (which nobody is told) when descriptors or threads run out.
//!
//! **The cure.** A *nudge* is a connection to our own port that sends one malformed line. If no
//! thread is idle it gets a new one, which answers 400, is free at once and takes the oldest
//! waiting connection along. If threads are idle it goes through the queue, behind everything that
//! waited: a nudge answered *without a new thread* proves the queue empty. So the
//! `supervisor` nudges until that proof, then rests. It looks when a request arrives and at a
//! slow tick, and only if the accept thread has run since the last proof (`facts`): an idle
//! process makes no connection at all. An accept thread that is gone, or whose nudges stay
//! unanswered, is replaced by a new tiny_http server on the same socket, a `generation`; the
//! old one goes on receiving from its live connections. The end has two steps: the `door` closes
//! behind those who have come, and later nothing is received any more.
//!
//! **Invariant.** After every proof, each connection that was established before it is being
//! served. Elsewhere than on Linux there is no proof, and a timer nudges instead.

mod drain;
mod generation;
mod nudge;
mod proc_stats;
mod supervisor;

use std::fmt;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::thread::{self, JoinHandle, Thread};
use std::time::Duration;

use crossbeam_channel::Sender;
use tiny_http::Request;

use generation::Generation;
use supervisor::Supervisor;

use crate::observe::lock::lock;

/// What is called with each request, on a receiver thread; it must not block for long, because the
/// requests of all connections pass through it one after the other. A panic in it costs the
/// request (tiny_http then answers 500), not the thread.
pub type OnRequest = Arc<dyn Fn(Request) + Send + Sync>;

/// A listening tiny_http server under supervision. Dropping it stops it.
pub struct Acceptor {
    addr: SocketAddr,
    shared: Arc<Shared>,
    supervisor: Mutex<Option<JoinHandle<()>>>,
}

/// What the acceptor, its supervisor and the receiver threads hold in common.
struct Shared {
    /// Kept to start further generations on the same socket; `None` once closed.
    listener: Mutex<Option<TcpListener>>,
    on_request: OnRequest,
    /// The supervisor's thread, which any of the following wakes.
    supervisor: OnceLock<Thread>,
    /// Whether a request was received since the supervisor asked last.
    request_noted: AtomicBool,
    failures: Sender<AcceptFailure>,
    /// Nobody is let in any more.
    closing: AtomicBool,
    /// Nothing is received any more.
    stopping: AtomicBool,
}

/// The accept thread of a generation ended with this error.
struct AcceptFailure {
    generation: String,
    error: io::Error,
}

impl Acceptor {
    /// Serves `listener` and calls `deliver` with every request.
    ///
    /// # Errors
    ///
    /// The listener's own errors, and those of starting a thread.
    pub fn start(listener: TcpListener, on_request: OnRequest) -> io::Result<Acceptor> {
        // A listener that may not block would end the accept thread with `WouldBlock`.
        listener.set_nonblocking(false)?;
        let addr = listener.local_addr()?;
        let (sender, failures) = crossbeam_channel::unbounded();
        let shared = Arc::new(Shared {
            listener: Mutex::new(Some(listener)),
            on_request,
            supervisor: OnceLock::new(),
            request_noted: AtomicBool::new(false),
            failures: sender,
            closing: AtomicBool::new(false),
            stopping: AtomicBool::new(false),
        });
        let first = Generation::start(&shared)?;
        let supervisor = Supervisor::new(Arc::clone(&shared), failures, addr, first);
        let handle =
            thread::Builder::new().name("acceptor".to_owned()).spawn(move || supervisor.run())?;
        shared.supervisor.get_or_init(|| handle.thread().clone());
        Ok(Acceptor { addr, shared, supervisor: Mutex::new(Some(handle)) })
    }

    /// The address the listener is bound to, with its real port.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.addr
    }

    /// Takes in who has connected by now, for which it waits up to `patience`, and refuses whoever
    /// comes later. Requests of those who are in are delivered as before.
    pub fn close(&self, timeout: Duration) {
        self.shared.closing.store(true, Ordering::SeqCst);
        let listener = lock(&self.shared.listener).take();
        if let Some(listener) = listener {
            drain::close_listener(&listener, timeout);
        }
        self.shared.wake();
    }

    /// Refuses new connections from now on, delivers the requests already received and ends the
    /// receiver threads. Requests that were delivered, and their connections, are untouched; a
    /// further request on such a connection is not delivered any more. Who waits to be accepted is
    /// broken off, unless [`Acceptor::close`] was called before.
    ///
    /// Does not wait for live connections. May be called more than once, but not from `deliver`,
    /// whose thread it waits for (one second at most).
    pub fn stop(&self) {
        self.shared.stopping.store(true, Ordering::SeqCst);
        self.close(Duration::ZERO);
        let supervisor = lock(&self.supervisor).take();
        if supervisor.is_some_and(|handle| handle.join().is_err()) {
            log::error!("the acceptor's supervisor panicked");
        }
    }
}

impl Drop for Acceptor {
    fn drop(&mut self) {
        self.stop();
    }
}

impl fmt::Debug for Acceptor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Acceptor").field("addr", &self.addr).finish_non_exhaustive()
    }
}

impl Shared {
    fn is_closing(&self) -> bool {
        self.closing.load(Ordering::SeqCst)
    }

    fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::SeqCst)
    }

    /// Another handle of the listening socket.
    fn clone_listener(&self) -> io::Result<TcpListener> {
        match &*lock(&self.listener) {
            Some(listener) => listener.try_clone(),
            None => Err(io::Error::other("the acceptor was closed")),
        }
    }

    /// Tells the supervisor of a request. Before its thread is known here there is no need to wake
    /// it: it begins with a look.
    fn note_request(&self) {
        if !self.request_noted.swap(true, Ordering::SeqCst) {
            self.wake();
        }
    }

    fn note_failure(&self, failure: AcceptFailure) {
        // Fails only once the supervisor has ended, and then nobody listens again.
        let _ = self.failures.send(failure);
        self.wake();
    }

    fn wake(&self) {
        if let Some(supervisor) = self.supervisor.get() {
            supervisor.unpark();
        }
    }
}
