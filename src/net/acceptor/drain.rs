//! Closing a listening socket without breaking off those who have come already.
//!
//! A listening socket that goes resets the connections that wait to be accepted; their clients
//! believe them made and have sent their requests. So on Linux nobody new is let in first, by a
//! packet filter that lets no first packet of a connection through. What has begun to connect then
//! gets through, the accept thread takes all of it, and only then is the socket shut down. Whoever
//! came meanwhile sends that packet again a second later, and is refused by then: a load balancer
//! goes elsewhere, which it does not for a connection that was reset.
//!
//! Never waits longer than it is told. Where there are no such filters nothing is held up.

use std::net::{Shutdown, TcpListener};
use std::time::Duration;

use socket2::SockRef;

/// Shuts the socket down, after up to `patience` for those who have come already.
pub(super) fn close_listener(listener: &TcpListener, timeout: Duration) {
    #[cfg(target_os = "linux")]
    linux::drain_backlog(listener, timeout);
    #[cfg(not(target_os = "linux"))]
    let _ = timeout;
    // Closing alone would not do: the accept thread holds a clone and sleeps in `accept`. Where a
    // listening socket cannot be shut down, dropping the servers wakes that thread.
    if let Err(error) = SockRef::from(listener).shutdown(Shutdown::Both) {
        log::debug!("the listening socket cannot be shut down: {error}");
    }
}

#[cfg(target_os = "linux")]
mod linux {
    use std::net::TcpListener;
    use std::thread;
    use std::time::{Duration, Instant};

    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    use socket2::{SockFilter, SockRef};

    /// How long a connection that has begun may take until it is made: a few round trips of a near
    /// network. Whoever comes meanwhile loses a second, so it is short.
    const HANDSHAKE_TIME: Duration = Duration::from_millis(5);

    /// Between two looks at the queue.
    const POLL_INTERVAL: Duration = Duration::from_millis(1);

    /// Where TCP's flags lie in a packet.
    const FLAGS_OFFSET: u32 = 13;
    const SYN: u32 = 0x02;
    const ACK: u32 = 0x10;

    /// Drops what has SYN without ACK and keeps all else, as a program of the kernel's classic
    /// packet filter; it sees packets from TCP's header on.
    const DROP_SYN: [SockFilter; 5] = [
        SockFilter::new(0x30, 0, 0, FLAGS_OFFSET), // Load a byte.
        SockFilter::new(0x54, 0, 0, SYN | ACK),    // Keep these bits of it.
        SockFilter::new(0x15, 0, 1, SYN),          // Skip the next line unless only SYN is left.
        SockFilter::new(0x06, 0, 0, 0),            // Drop.
        SockFilter::new(0x06, 0, 0, u32::MAX),     // Keep.
    ];

    /// Lets nobody new in, and waits until all who had come are accepted.
    pub(super) fn drain_backlog(listener: &TcpListener, timeout: Duration) {
        let deadline = Instant::now() + timeout;
        // Without the filter those who are in the queue are still taken in.
        if let Err(error) = SockRef::from(listener).attach_filter(&DROP_SYN) {
            log::debug!("no filter on the listening socket: {error}");
        }
        thread::sleep(HANDSHAKE_TIME.min(timeout));
        while has_pending_connection(listener) && Instant::now() < deadline {
            thread::sleep(POLL_INTERVAL);
        }
    }

    fn has_pending_connection(listener: &TcpListener) -> bool {
        const NO_WAIT: Timespec = Timespec { tv_sec: 0, tv_nsec: 0 };
        let mut waits = [PollFd::new(listener, PollFlags::IN)];
        poll(&mut waits, Some(&NO_WAIT)).is_ok() && waits[0].revents().contains(PollFlags::IN)
    }

    #[cfg(test)]
    mod tests {
        use std::io::{ErrorKind, Read, Write};
        use std::net::{SocketAddr, TcpStream};

        use super::*;

        #[test]
        fn who_came_is_taken_in_and_who_comes_later_is_refused() {
            let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
            let addr = listener.local_addr().expect("an address");
            let mut early = TcpStream::connect(addr).expect("it listens");
            early.write_all(b"x").expect("it is made");
            drain_backlog(&listener, Duration::ZERO);
            assert!(has_pending_connection(&listener));
            // Not refused, so that it comes again.
            let late = |addr: &SocketAddr| {
                TcpStream::connect_timeout(addr, Duration::from_millis(20))
                    .expect_err("late")
                    .kind()
            };
            assert_eq!(late(&addr), ErrorKind::TimedOut);
            let (mut accepted, _) = listener.accept().expect("the early one");
            assert!(!has_pending_connection(&listener));
            super::super::close_listener(&listener, Duration::from_secs(60));
            assert_eq!(late(&addr), ErrorKind::ConnectionRefused);
            let mut byte = [0];
            accepted.read_exact(&mut byte).expect("what it sent");
            accepted.write_all(b"y").expect("it still goes both ways");
            early.read_exact(&mut byte).expect("an answer");
            assert_eq!(byte, *b"y");
        }
    }
}
