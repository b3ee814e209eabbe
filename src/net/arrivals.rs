//! Announces each connection that the process accepts, and the end of the threads that accept.
//!
//! tiny_http's accept thread tells nobody what it accepts, and the kernel tells nobody else: a thread
//! that watches the listening socket too (epoll, edge-triggered) finds it empty if the accept thread was
//! faster, and so misses about one connection in six. So `net/sys.rs` puts a function of its own in the
//! place of the C library's `accept4`, which calls [`before_accept`] and [`Arrivals::note_accepted`] on
//! the accept thread. This needs nothing of the system, so it works in any sandbox and without `/proc`.
//!
//! Subscribers are called on the accept thread and must not block. Invariant: a connection is counted
//! before any other thread of this process can read from it. On other systems than Linux nothing is
//! announced, and the count stays 0.

use std::cell::RefCell;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Weak};

use crate::observe::lock::lock;

/// Called after each change, on the thread that accepts.
type OnChange = Box<dyn Fn() + Send + Sync>;

/// The ports that somebody asked for.
static PORTS: Mutex<Vec<(u16, Weak<Arrivals>)>> = Mutex::new(Vec::new());

thread_local! {
    /// What this thread accepts for.
    static ACCEPTING: RefCell<Option<AcceptThread>> = const { RefCell::new(None) };
}

/// What was accepted on one port.
#[derive(Default)]
pub struct Arrivals {
    accepted: AtomicU64,
    started_threads: AtomicU64,
    ended_threads: AtomicU64,
    subscribers: Mutex<Vec<OnChange>>,
}

/// A thread that accepts; dropped when the thread ends.
struct AcceptThread(Arc<Arrivals>);

impl Arrivals {
    /// The arrivals of a port, shared by all that ask for it.
    pub fn at_port(port: u16) -> Arc<Self> {
        let mut ports = lock(&PORTS);
        ports.retain(|(_, known)| known.strong_count() > 0);
        let known = ports.iter().find(|(known, _)| *known == port);
        known.and_then(|(_, known)| known.upgrade()).unwrap_or_else(|| {
            let arrivals = Arc::<Self>::default();
            ports.push((port, Arc::downgrade(&arrivals)));
            arrivals
        })
    }

    /// Calls `on_change` after each connection, and when a thread that accepts ends.
    pub(super) fn subscribe(&self, on_change: OnChange) {
        lock(&self.subscribers).push(on_change);
    }

    /// Connections accepted so far; 0 where nothing is announced.
    pub(super) fn accepted(&self) -> u64 {
        self.accepted.load(Ordering::SeqCst)
    }

    /// Threads that began to accept, and how many of them have ended.
    pub(super) fn threads(&self) -> (u64, u64) {
        let count = |threads: &AtomicU64| threads.load(Ordering::SeqCst);
        (count(&self.started_threads), count(&self.ended_threads))
    }

    /// Counts a connection.
    pub(super) fn note_accepted(&self) {
        self.accepted.fetch_add(1, Ordering::SeqCst);
        self.notify();
    }

    fn notify(&self) {
        lock(&self.subscribers).iter().for_each(|on_change| on_change());
    }
}

/// Notes that this thread accepts on a port; `None` if nobody asked for that port.
pub(super) fn before_accept(port: u16) -> Option<Arc<Arrivals>> {
    let arrivals = {
        let ports = lock(&PORTS);
        let (_, known) = ports.iter().find(|(known, _)| *known == port)?;
        known.upgrade()?
    };
    // It fails only while the thread ends.
    let _ = ACCEPTING.try_with(|accepting| {
        let is_known = accepting.borrow().as_ref().is_some_and(|it| Arc::ptr_eq(&it.0, &arrivals));
        if !is_known {
            arrivals.started_threads.fetch_add(1, Ordering::SeqCst);
            drop(accepting.replace(Some(AcceptThread(arrivals.clone()))));
        }
    });
    Some(arrivals)
}

impl Drop for AcceptThread {
    fn drop(&mut self) {
        self.0.ended_threads.fetch_add(1, Ordering::SeqCst);
        self.0.notify();
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::net::{TcpListener, TcpStream};
    use std::thread;

    use super::*;

    fn listener() -> (TcpListener, u16) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("an address").port();
        (listener, port)
    }

    /// A connection to the listener.
    fn connect(listener: &TcpListener) -> TcpStream {
        TcpStream::connect(listener.local_addr().expect("an address")).expect("it listens")
    }

    #[test]
    fn a_connection_is_announced_by_the_thread_that_accepts_it_and_so_is_its_end() {
        let (listener, port) = listener();
        let arrivals = Arrivals::at_port(port);
        let (sender, changes) = crossbeam_channel::unbounded();
        arrivals.subscribe(Box::new(move || {
            let _ = sender.send(thread::current().id());
        }));
        let _clients = [connect(&listener), connect(&listener)];
        let accepting = thread::spawn(move || {
            for _ in 0..2 {
                listener.accept().expect("a connection");
            }
        });
        let id = accepting.thread().id();
        accepting.join().expect("no panic");
        assert_eq!(changes.try_iter().collect::<Vec<_>>(), [id; 3]);
        assert_eq!((arrivals.accepted(), arrivals.threads()), (2, (1, 1)));
    }

    #[test]
    fn a_panic_is_an_end_too() {
        let (listener, port) = listener();
        let arrivals = Arrivals::at_port(port);
        let _client = connect(&listener);
        let accepting = thread::spawn(move || {
            listener.accept().expect("a connection");
            panic!("this panic is part of the test");
        });
        assert!(accepting.join().is_err());
        assert_eq!((arrivals.accepted(), arrivals.threads()), (1, (1, 1)));
    }

    #[test]
    fn other_ports_do_not_count_and_a_failed_accept_keeps_its_error() {
        let ((first, port), (second, _)) = (listener(), listener());
        let arrivals = Arrivals::at_port(port);
        assert!(Arc::ptr_eq(&arrivals, &Arrivals::at_port(port)));
        let _client = connect(&second);
        second.accept().expect("a connection");
        first.set_nonblocking(true).expect("a socket");
        let error = first.accept().expect_err("no connection");
        assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock);
        assert_eq!(arrivals.accepted(), 0);
        let client = connect(&first);
        let (_, peer) = first.accept().expect("a connection");
        assert_eq!(peer, client.local_addr().expect("an address"));
        assert_eq!(arrivals.accepted(), 1);
    }
}
