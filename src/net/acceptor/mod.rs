//! Runs tiny_http's accept side, and repairs two defects of tiny_http 0.12.
//!
//! Every connection gets a thread within 250 ms, and a server that has stopped accepting starts again.
//! Knows tiny_http and sockets; never looks into a request, and connects only to its own port.
//!
//! **The defects.** tiny_http gives each connection a pool thread until the connection closes. It
//! queues a new connection whenever the count of idle threads is not 0, although connections queued
//! just before may have claimed those threads. What remains in the queue waits until another
//! connection closes: of 6 keep-alive connections opened at once on an idle server, 2 are never
//! answered. Besides, the accept thread ends at the first accept error, and panics without notice
//! when descriptors or threads run out.
//!
//! **The repair.** A *nudge* is a connection to the own port that sends one malformed line. Without
//! an idle thread it gets a new one, which answers 400 and then takes the oldest waiting connection.
//! With idle threads it is queued behind all waiting connections. So each answered nudge has brought one
//! waiting connection a thread, or shows that none waits; and after as many as connections were accepted
//! since the last proof, the queue is proven empty. A nudge that is answered *without a new thread*
//! proves it at once; whether a thread was started is read from `/proc` (`proc_stats`), where that
//! tells. The `supervisor` nudges until it has a proof, whenever a connection was accepted
//! (`net/arrivals`), so an idle process makes no connection and no system call. An accept thread
//! that has ended, or leaves nudges unanswered, is replaced by a new tiny_http server on the same
//! socket, a `generation`; the old one still receives from its open connections. Shutdown has two
//! steps: `drain` accepts the pending connections and refuses new ones; later nothing is received.
//!
//! **Invariant.** After each proof, every connection established before it is being served. On other
//! systems than Linux arrivals are not announced; a timer nudges instead, and nothing is proven.
//!
//! When descriptors or threads run out, the accept thread ends and is replaced as soon as the
//! process may open descriptors and start threads again; connections that waited meanwhile get 503.

mod drain;
mod generation;
mod nudge;
mod proc_stats;
pub mod reset_panic;
mod supervisor;

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::thread::{self, JoinHandle, Thread};
use std::time::Duration;

use tiny_http::Request;

use supervisor::Supervisor;

use crate::net::arrivals::Arrivals;
use crate::observe::lock::lock;

/// Called with each request, on a receiver thread. It must not block for long, because the requests of
/// all connections pass through one thread. After a panic in it tiny_http answers the request with
/// 500, and the thread continues.
pub type OnRequest = Arc<dyn Fn(Request) + Send + Sync>;

/// A listening tiny_http server under supervision. Dropping it stops it.
pub struct Acceptor {
    addr: SocketAddr,
    shared: Arc<Shared>,
    supervisor: Mutex<Option<JoinHandle<()>>>,
}

/// What the acceptor, its supervisor and the receiver threads share.
struct Shared {
    /// For starting further generations on the same socket; `None` once closed.
    listener: Mutex<Option<TcpListener>>,
    on_request: OnRequest,
    /// The supervisor's thread, to be woken after a change of the following fields.
    supervisor: OnceLock<Thread>,
    /// Whether a request was received since the supervisor last checked.
    request_noted: AtomicBool,
    /// Whether a connection was accepted since then.
    arrival_noted: AtomicBool,
    /// New connections are refused.
    closing: AtomicBool,
    /// Requests are no longer received.
    stopping: AtomicBool,
}

impl Acceptor {
    /// Serves `listener` and calls `on_request` with every request.
    ///
    /// # Errors
    /// The listener's errors, and those of starting a thread.
    pub fn start(listener: TcpListener, on_request: OnRequest) -> io::Result<Acceptor> {
        Self::start_with_proc(listener, on_request, Path::new("/proc"))
    }

    /// Like [`Acceptor::start`], with another folder in the place of `/proc`.
    ///
    /// # Errors
    /// Those of [`Acceptor::start`].
    pub fn start_with_proc(
        listener: TcpListener,
        on_request: OnRequest,
        proc_root: &Path,
    ) -> io::Result<Acceptor> {
        // A non-blocking listener would end the accept thread with `WouldBlock`.
        listener.set_nonblocking(false)?;
        let addr = listener.local_addr()?;
        let shared = Arc::new(Shared::new(listener, on_request));
        let arrivals = Arrivals::at_port(addr.port());
        let weak = Arc::downgrade(&shared);
        arrivals.subscribe(Box::new(move || {
            weak.upgrade().iter().for_each(|shared| shared.note(&shared.arrival_noted));
        }));
        let supervisor = Supervisor::new(Arc::clone(&shared), addr, arrivals, proc_root)?;
        let handle =
            thread::Builder::new().name("acceptor".to_owned()).spawn(move || supervisor.run())?;
        shared.supervisor.get_or_init(|| handle.thread().clone());
        Ok(Acceptor { addr, shared, supervisor: Mutex::new(Some(handle)) })
    }

    /// The address the listener is bound to, with its real port.
    pub fn local_addr(&self) -> SocketAddr {
        self.addr
    }

    /// Accepts connections that are pending, waiting up to `timeout` for it, and refuses new ones.
    /// Requests of accepted connections are delivered as before.
    pub fn close(&self, timeout: Duration) {
        self.shared.closing.store(true, Ordering::SeqCst);
        let listener = lock(&self.shared.listener).take();
        if let Some(listener) = listener {
            drain::close_listener(&listener, timeout);
        }
        self.shared.wake();
    }

    /// Refuses new connections, delivers the requests already received and ends the receiver threads.
    /// Delivered requests and their connections are not affected; a further request on such a
    /// connection is not delivered. Pending connections are reset, unless [`Acceptor::close`] was
    /// called before.
    ///
    /// Does not wait for open connections. May be called more than once, but not from `on_request`,
    /// whose thread it waits for (up to a second).
    pub fn stop(&self) {
        self.shared.stopping.store(true, Ordering::SeqCst);
        self.close(Duration::ZERO);
        let supervisor = lock(&self.supervisor).take();
        if supervisor.is_some_and(|handle| handle.join().is_err()) {
            log::error!("the acceptor's supervisor thread panicked");
        }
    }
}

impl Drop for Acceptor {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Shared {
    /// Of a listener on a free port, whose requests are dropped.
    #[cfg(test)]
    fn for_tests() -> Arc<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        Arc::new(Self::new(listener, Arc::new(drop)))
    }

    fn new(listener: TcpListener, on_request: OnRequest) -> Self {
        Self {
            listener: Mutex::new(Some(listener)),
            on_request,
            supervisor: OnceLock::new(),
            request_noted: AtomicBool::new(false),
            arrival_noted: AtomicBool::new(false),
            closing: AtomicBool::new(false),
            stopping: AtomicBool::new(false),
        }
    }

    fn is_closing(&self) -> bool {
        self.closing.load(Ordering::SeqCst)
    }

    fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::SeqCst)
    }

    /// A duplicate of the listening socket.
    fn clone_listener(&self) -> io::Result<TcpListener> {
        match &*lock(&self.listener) {
            Some(listener) => listener.try_clone(),
            None => Err(io::Error::other("the listening socket is closed")),
        }
    }

    /// Sets a flag for the supervisor and wakes it. Before its thread is known here it need not be woken,
    /// because it begins with a check.
    fn note(&self, flag: &AtomicBool) {
        if !flag.swap(true, Ordering::SeqCst) {
            self.wake();
        }
    }

    fn wake(&self) {
        if let Some(supervisor) = self.supervisor.get() {
            supervisor.unpark();
        }
    }
}
