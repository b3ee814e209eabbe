//! Inspects and shuts down sockets that tiny_http has accepted.
//!
//! tiny_http keeps its sockets private, and only through a socket can another thread end a read that
//! waits on it. So the guard finds sockets by descriptor number. A number may be closed and assigned
//! again at any moment; therefore each descriptor is duplicated first, and only the duplicate is
//! inspected and acted on. All duplicates go into one descriptor ([`DupFd`]), so that inspecting works
//! when no descriptor is free.
//! Never reads from a socket, and keeps no duplicate after a scan: it would keep a connection open.

use std::io;
use std::net::{Shutdown, SocketAddr};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::time::Duration;

use socket2::{Domain, SockRef, Type};

use super::rules::PeerState;
use crate::net::sys;

/// Position of `tcpi_bytes_received` in the kernel's `struct tcp_info`, since Linux 4.1.
const BYTES_RECEIVED_RANGE: std::ops::Range<usize> = 128..136;

/// A descriptor that is made a duplicate of one other descriptor at a time.
pub(super) struct DupFd {
    fd: OwnedFd,
    /// What `fd` duplicates while nothing is inspected.
    placeholder: OwnedFd,
}

/// A connection that was accepted on the port.
pub(super) struct AcceptedSocket<'a> {
    fd: &'a OwnedFd,
    /// The client's address.
    pub peer: SocketAddr,
    pub state: PeerState,
    /// Bytes received since it was opened.
    pub received: u64,
}

/// What a descriptor number stands for.
pub(super) enum FdKind<'a> {
    /// Nothing.
    Closed,
    /// Not a client connection, or a client connection that was reset and so has no peer address.
    Other,
    /// A client connection.
    Connection(AcceptedSocket<'a>),
}

impl DupFd {
    pub(super) fn new() -> io::Result<Self> {
        let placeholder = OwnedFd::from(socket2::Socket::new(Domain::UNIX, Type::STREAM, None)?);
        Ok(Self { fd: placeholder.try_clone()?, placeholder })
    }

    /// Finds out whether a descriptor is a connection that was accepted on `port`.
    pub(super) fn inspect(&mut self, fd: RawFd, port: u16) -> FdKind<'_> {
        let own = [self.fd.as_raw_fd(), self.placeholder.as_raw_fd()].contains(&fd);
        if !own && !sys::duplicate_into(fd, &mut self.fd) {
            return FdKind::Closed;
        }
        let socket = if own { None } else { identify_connection(&self.fd, port) };
        socket.map_or(FdKind::Other, FdKind::Connection)
    }

    /// Closes the duplicate of the last inspection.
    pub(super) fn clear(&mut self) {
        let _ = sys::duplicate_into(self.placeholder.as_raw_fd(), &mut self.fd);
    }
}

impl AcceptedSocket<'_> {
    /// A descriptor of the connection; the next inspection makes it one of another.
    pub(super) fn fd(&self) -> &OwnedFd {
        self.fd
    }

    /// Shuts the connection down, which ends reads and writes that wait on it.
    pub(super) fn shutdown(&self, how: Shutdown) {
        // It fails only if the connection is down already.
        let _ = SockRef::from(self.fd).shutdown(how);
    }

    /// Makes closing the connection reset it, without waiting for data in transit.
    pub(super) fn reset_on_close(&self) {
        let _ = SockRef::from(self.fd).set_linger(Some(Duration::ZERO));
    }

    /// Received bytes that have not been read.
    pub(super) fn unread_bytes(&self) -> u64 {
        rustix::io::ioctl_fionread(self.fd).unwrap_or(0)
    }

    /// Sends a byte if that is possible without waiting; returns whether it did.
    pub(super) fn send_byte(&self, byte: u8) -> bool {
        let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
        SockRef::from(self.fd).send_with_flags(&[byte], flags).is_ok()
    }
}

/// A connection to `port`, and what the kernel knows of it; `None` for anything else.
fn identify_connection(fd: &OwnedFd, port: u16) -> Option<AcceptedSocket<'_>> {
    let (info, length) = sys::tcp_info(fd)?;
    if length < BYTES_RECEIVED_RANGE.end {
        return None;
    }
    // TCP states as in the kernel's include/net/tcp_states.h.
    let state = match info[0] {
        1..=5 => PeerState::Open,
        8 => PeerState::HalfClosed,
        6 | 7 | 9 | 11 => PeerState::Closed,
        _ => return None,
    };
    let received = u64::from_ne_bytes(info[BYTES_RECEIVED_RANGE].try_into().ok()?);
    let socket = SockRef::from(fd);
    if socket.local_addr().ok()?.as_socket()?.port() != port {
        return None;
    }
    let peer = socket.peer_addr().ok()?.as_socket()?;
    Some(AcceptedSocket { fd, peer, state, received })
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};

    use super::*;

    /// A listener's port and both ends of a connection to it.
    fn connection() -> (u16, TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let addr = listener.local_addr().expect("an address");
        let client = TcpStream::connect(addr).expect("it listens");
        let (server, _) = listener.accept().expect("a connection");
        (addr.port(), client, server)
    }

    /// Looks at one end of a connection.
    #[track_caller]
    fn found<T>(
        stream: &TcpStream,
        port: u16,
        inspect: impl FnOnce(&AcceptedSocket<'_>) -> T,
    ) -> T {
        let mut dup_fd = DupFd::new().expect("a descriptor");
        match dup_fd.inspect(stream.as_raw_fd(), port) {
            FdKind::Connection(socket) => inspect(&socket),
            FdKind::Closed | FdKind::Other => panic!("it is a connection"),
        }
    }

    #[test]
    fn only_accepted_sockets_of_the_port_are_ours() {
        let (port, client, server) = connection();
        let peer = found(&server, port, |socket| socket.peer);
        assert_eq!(peer, client.local_addr().expect("an address"));
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let own = listener.local_addr().expect("an address").port();
        let file = std::fs::File::open("/proc/self/stat").expect("a file");
        let mut dup_fd = DupFd::new().expect("a descriptor");
        let own_fds = [dup_fd.fd.as_raw_fd(), dup_fd.placeholder.as_raw_fd()];
        for (number, port) in [
            (client.as_raw_fd(), port),
            (server.as_raw_fd(), port ^ 1),
            (listener.as_raw_fd(), own),
            (file.as_raw_fd(), port),
            (own_fds[0], port),
            (own_fds[1], port),
        ] {
            assert!(matches!(dup_fd.inspect(number, port), FdKind::Other));
        }
        assert!(matches!(dup_fd.inspect(RawFd::MAX, port), FdKind::Closed));
        assert!(matches!(dup_fd.inspect(-1, port), FdKind::Closed));
    }

    #[test]
    fn a_duplicate_keeps_nothing_open_once_it_is_cleared() {
        let (port, mut client, server) = connection();
        let mut dup_fd = DupFd::new().expect("a descriptor");
        assert!(matches!(dup_fd.inspect(server.as_raw_fd(), port), FdKind::Connection(_)));
        drop(server);
        dup_fd.clear();
        assert_eq!(client.read(&mut [0; 1]).expect("an end"), 0);
    }

    #[test]
    fn bytes_are_counted_and_those_that_wait_too() {
        let (port, mut client, mut server) = connection();
        client.write_all(&[b'x'; 1000]).expect("it is open");
        // Reading one byte proves that all have come.
        server.read_exact(&mut [0; 1]).expect("a byte");
        let (info, unread) =
            found(&server, port, |socket| ((socket.state, socket.received), socket.unread_bytes()));
        assert_eq!(info, (PeerState::Open, 1000));
        assert_eq!(unread, 999);
    }

    #[test]
    fn a_peer_that_sends_no_more_is_told_from_one_that_is_gone_by_a_byte() {
        let (port, client, mut server) = connection();
        client.shutdown(Shutdown::Write).expect("it is open");
        assert_eq!(server.read(&mut [0; 1]).expect("an end"), 0);
        let probe = |byte| found(&server, port, |socket| (socket.state, socket.send_byte(byte)));
        assert_eq!(probe(b'H'), (PeerState::HalfClosed, true));
        let mut byte = [0; 1];
        (&client).read_exact(&mut byte).expect("a byte");
        assert_eq!(byte, [b'H']);
        assert_eq!(found(&server, port, |socket| socket.state), PeerState::HalfClosed);
        drop(client);
        assert!(found(&server, port, |socket| socket.send_byte(b'0')));
        // The answer to it is on its way; after it the connection has no other side any more.
        let mut dup_fd = DupFd::new().expect("a descriptor");
        while matches!(dup_fd.inspect(server.as_raw_fd(), port), FdKind::Connection(_)) {
            std::thread::yield_now();
        }
    }

    #[test]
    fn a_shut_socket_ends_the_read_that_waits_on_it() {
        let (port, _client, mut server) = connection();
        let mut dup_fd = DupFd::new().expect("a descriptor");
        let FdKind::Connection(socket) = dup_fd.inspect(server.as_raw_fd(), port) else {
            panic!("it is a connection");
        };
        let reader = std::thread::spawn(move || server.read(&mut [0; 1]));
        socket.shutdown(Shutdown::Both);
        assert_eq!(reader.join().expect("no panic").expect("an end"), 0);
    }
}
