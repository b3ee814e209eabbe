//! How the guard waits while no connection has a request, and what ends the wait.
//!
//! A connection that is accepted ([`crate::net::arrivals`]), a request that begins, and a shutdown each
//! wake the guard through a [`Waker`]; bytes and the end of an idle connection do through epoll. The
//! kernel may keep bytes to itself that tiny_http reads at once, so the guard also looks at its
//! connections every [`REST_INTERVAL`]; a flood does not go unnoticed, because reading it takes longer
//! than sending it. Never holds a connection open: the kernel forgets one whose descriptors are closed.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::buffer::spare_capacity;
use rustix::event::{EventfdFlags, Timespec, epoll, eventfd};

/// Longest time between two looks at idle connections.
pub(super) const REST_INTERVAL: Duration = Duration::from_secs(1);

/// Events that one call takes.
const EVENTS: usize = 64;

/// Most calls that drop earlier events; the next one then only ends a rest too early.
const MAX_DROPS: usize = 1000;

/// Ends the guard's rest. Cheap while the guard does not rest.
pub(super) struct Waker {
    is_resting: AtomicBool,
    event: OwnedFd,
}

impl Waker {
    /// Wakes the guard.
    pub(super) fn wake(&self) {
        if self.is_resting.load(Ordering::SeqCst) && self.is_resting.swap(false, Ordering::SeqCst) {
            // It cannot fail: the count is far from its limit.
            let _ = rustix::io::write(&self.event, &1_u64.to_ne_bytes());
        }
    }
}

/// What the guard waits on.
pub(super) struct Rest {
    waker: Arc<Waker>,
    epoll: OwnedFd,
}

impl Rest {
    /// # Errors
    /// If the system offers no epoll, or no descriptor is free.
    pub(super) fn new() -> io::Result<Self> {
        let event = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let is_edge = epoll::EventFlags::IN | epoll::EventFlags::ET;
        epoll::add(&epoll, &event, epoll::EventData::new_u64(0), is_edge)?;
        let waker = Arc::new(Waker { is_resting: AtomicBool::new(false), event });
        Ok(Self { waker, epoll })
    }

    pub(super) fn waker(&self) -> Arc<Waker> {
        self.waker.clone()
    }

    /// Begins a rest, and drops events that came before.
    pub(super) fn begin(&self) {
        self.waker.is_resting.store(true, Ordering::SeqCst);
        let _ = (0..MAX_DROPS).find(|_| !self.wait(Duration::ZERO));
    }

    /// Ends a rest that nobody has ended.
    pub(super) fn end(&self) {
        self.waker.is_resting.store(false, Ordering::SeqCst);
    }

    /// Lets bytes from a client, and its end, end this rest and later ones; `false` if the system refuses.
    pub(super) fn watch(&self, socket: &OwnedFd) -> bool {
        let flags = epoll::EventFlags::IN | epoll::EventFlags::RDHUP | epoll::EventFlags::ET;
        let added = epoll::add(&self.epoll, socket, epoll::EventData::new_u64(0), flags);
        added.is_ok() || added == Err(rustix::io::Errno::EXIST)
    }

    /// Waits; `true` if something happened.
    pub(super) fn wait(&self, timeout: Duration) -> bool {
        let mut events: Vec<epoll::Event> = Vec::with_capacity(EVENTS);
        let timeout = Timespec::try_from(timeout).ok();
        // After a signal the guard just looks.
        let count = epoll::wait(&self.epoll, spare_capacity(&mut events), timeout.as_ref());
        count.is_ok_and(|count| count > 0)
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};
    use std::thread;

    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    fn rest() -> Rest {
        Rest::new().expect("epoll")
    }

    /// A client, and a descriptor of the accepted side.
    fn connection() -> (TcpStream, OwnedFd) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let addr = listener.local_addr().expect("an address");
        let client = TcpStream::connect(addr).expect("it listens");
        (client, listener.accept().expect("a connection").0.into())
    }

    #[test]
    fn whoever_wakes_ends_one_rest() {
        let rest = rest();
        let waker = rest.waker();
        waker.wake();
        rest.begin();
        assert!(!rest.wait(Duration::ZERO), "it did not rest when it was woken");
        let other = thread::spawn(move || waker.wake());
        assert!(rest.wait(LONG));
        other.join().expect("no panic");
        rest.begin();
        assert!(!rest.wait(Duration::ZERO), "it was woken before");
        rest.end();
        rest.waker().wake();
        assert!(!rest.wait(Duration::ZERO));
    }

    #[test]
    fn bytes_and_the_end_of_a_connection_end_a_rest() {
        let rest = rest();
        let (mut client, accepted) = connection();
        assert!(rest.watch(&accepted) && rest.watch(&accepted));
        rest.begin();
        assert!(!rest.wait(Duration::ZERO));
        client.write_all(b"x").expect("it is open");
        assert!(rest.wait(LONG));
        rest.begin();
        assert!(!rest.wait(Duration::ZERO), "these bytes are known");
        drop(client);
        assert!(rest.wait(LONG));
    }

    #[test]
    fn a_watched_connection_is_not_kept_open() {
        let rest = rest();
        let (mut client, accepted) = connection();
        assert!(rest.watch(&accepted));
        drop(accepted);
        assert_eq!(client.read(&mut [0; 1]).expect("an end"), 0);
    }
}
