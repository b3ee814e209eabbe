//! Closes a listening socket without resetting connections that wait to be accepted.
//!
//! The kernel resets pending connections when their listening socket closes, although their clients
//! consider them established and have sent requests. So on Linux a packet filter first drops each
//! packet that opens a new connection. Handshakes in progress then complete, the accept thread accepts
//! all pending connections, and only then is the socket shut down. A client whose packet was dropped
//! sends it again a second later and is refused; a load balancer then tries another server, which it
//! does not do after a reset.
//!
//! Never waits longer than its caller allows; without packet filters there is no wait.

use std::net::{Shutdown, TcpListener};
use std::time::Duration;

use socket2::SockRef;

use crate::observe::system_error;

/// Shuts the socket down, after waiting up to `timeout` until pending connections are accepted.
pub(super) fn close_listener(listener: &TcpListener, timeout: Duration) {
    #[cfg(target_os = "linux")]
    linux::drain_backlog(listener, timeout);
    #[cfg(not(target_os = "linux"))]
    let _ = timeout;
    // Closing it would not suffice: the accept thread holds a duplicate and waits in `accept`. Where a
    // listening socket cannot be shut down, dropping the servers wakes that thread.
    if let Err(error) = SockRef::from(listener).shutdown(Shutdown::Both) {
        let why = system_error::describe(&error);
        log::debug!("cannot shut down the listening socket: {why}");
    }
}

#[cfg(target_os = "linux")]
mod linux {
    use std::net::TcpListener;
    use std::thread;
    use std::time::{Duration, Instant};

    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    use socket2::{SockFilter, SockRef};

    /// Time for handshakes in progress: a few round trips of a near network. It is short, because a
    /// client that connects meanwhile loses a second.
    const HANDSHAKE_TIME: Duration = Duration::from_millis(5);

    /// Time between two checks of the queue.
    const POLL_INTERVAL: Duration = Duration::from_millis(1);

    /// Position of the flags in a TCP header (RFC 9293 section 3.1).
    const FLAGS_OFFSET: u32 = 13;
    const SYN: u32 = 0x02;
    const ACK: u32 = 0x10;

    /// Drops packets with SYN and without ACK, as a program of the classic BSD packet filter, which sees
    /// packets from the TCP header on.
    const DROP_SYN: [SockFilter; 5] = [
        SockFilter::new(0x30, 0, 0, FLAGS_OFFSET), // Load the flags.
        SockFilter::new(0x54, 0, 0, SYN | ACK),    // Keep these two.
        SockFilter::new(0x15, 0, 1, SYN),          // Skip the next line unless only SYN is left.
        SockFilter::new(0x06, 0, 0, 0),            // Drop.
        SockFilter::new(0x06, 0, 0, u32::MAX),     // Keep.
    ];

    /// Drops new connections and waits until the pending ones are accepted.
    pub(super) fn drain_backlog(listener: &TcpListener, timeout: Duration) {
        let deadline = Instant::now() + timeout;
        // Without the filter, the connections that are pending now are still accepted.
        if let Err(error) = SockRef::from(listener).attach_filter(&DROP_SYN) {
            log::debug!(
                "cannot attach a packet filter to the listening socket, clients that connect during \
                 shutdown may be reset: {}",
                super::system_error::describe(&error)
            );
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
            // Not refused, so that the client tries again.
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
