//! Other people's sockets, looked at and shut down.
//!
//! tiny_http keeps the sockets that it accepts to itself, and they are all that can end a connection
//! whose thread waits in a read. So they are found by their descriptors' numbers. A number may be
//! closed and given out again at any moment; therefore a descriptor is duplicated first, everything
//! is asked of the duplicate, and only the duplicate is acted upon: whatever happens to the number
//! meanwhile, it is this socket that is meant. All duplicates go into one [`Slot`], a descriptor of
//! our own, so that it works when there is no other left.
//! Never reads from a socket, and keeps no duplicate beyond a look: it would keep a connection open.

use std::io;
use std::net::{Shutdown, SocketAddr};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::time::Duration;

use socket2::{Domain, SockRef, Type};

use super::rules::Peer;
use crate::net::sys;

/// Where the `tcpi_bytes_received` of `tcp_info` lies, which Linux has since 4.1.
const RECEIVED: std::ops::Range<usize> = 128..136;

/// What the kernel knows of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Facts {
    pub peer: Peer,
    /// Bytes that came in since it was opened.
    pub received: u64,
}

/// The place for one duplicate at a time.
pub(super) struct Slot {
    fd: OwnedFd,
    /// What is in the slot while nothing is looked at.
    nothing: OwnedFd,
}

/// A connection that was accepted on the port, for the time of one look.
pub(super) struct Socket<'a> {
    fd: &'a OwnedFd,
    /// The other side's address.
    pub peer: SocketAddr,
    pub facts: Facts,
}

/// What a descriptor's number stands for.
pub(super) enum Found<'a> {
    /// Nothing.
    Closed,
    /// Something that is none of ours, or a connection that was reset, which has no other side.
    Other,
    /// A connection.
    Connection(Socket<'a>),
}

impl Slot {
    pub(super) fn new() -> io::Result<Self> {
        let nothing = OwnedFd::from(socket2::Socket::new(Domain::UNIX, Type::STREAM, None)?);
        Ok(Self { fd: nothing.try_clone()?, nothing })
    }

    /// Looks at a descriptor, for a connection that was accepted on `port`.
    pub(super) fn look(&mut self, number: RawFd, port: u16) -> Found<'_> {
        let own = [self.fd.as_raw_fd(), self.nothing.as_raw_fd()].contains(&number);
        if !own && !sys::duplicate_into(number, &mut self.fd) {
            return Found::Closed;
        }
        let facts = if own { None } else { facts(&self.fd) };
        match facts.and_then(|facts| accepted(&self.fd, facts, port)) {
            Some(socket) => Found::Connection(socket),
            None => Found::Other,
        }
    }

    /// Lets go of what was looked at last.
    pub(super) fn clear(&mut self) {
        let _ = sys::duplicate_into(self.nothing.as_raw_fd(), &mut self.fd);
    }
}

impl Socket<'_> {
    /// Shuts the connection down, whoever waits on it.
    pub(super) fn shut(&self, how: Shutdown) {
        // One that is down already is as wanted.
        let _ = SockRef::from(self.fd).shutdown(how);
    }

    /// From now on, the connection's end is a reset: what is still on its way to us, or waits to be
    /// sent by the other side, is not waited for.
    pub(super) fn will_reset(&self) {
        let _ = SockRef::from(self.fd).set_linger(Some(Duration::ZERO));
    }

    /// Bytes that came in and were not taken yet.
    pub(super) fn unread(&self) -> u64 {
        rustix::io::ioctl_fionread(self.fd).unwrap_or(0)
    }

    /// Sends a byte, if that is possible without waiting.
    pub(super) fn poke(&self, byte: u8) -> bool {
        let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
        SockRef::from(self.fd).send_with_flags(&[byte], flags).is_ok()
    }
}

fn accepted(fd: &OwnedFd, facts: Facts, port: u16) -> Option<Socket<'_>> {
    let socket = SockRef::from(fd);
    if socket.local_addr().ok()?.as_socket()?.port() != port {
        return None;
    }
    let peer = socket.peer_addr().ok()?.as_socket()?;
    Some(Socket { fd, peer, facts })
}

/// What the kernel knows; `None` where it is no connection.
fn facts(fd: &OwnedFd) -> Option<Facts> {
    let (info, length) = sys::tcp_info(fd)?;
    if length < RECEIVED.end {
        return None;
    }
    // The kernel's numbers of TCP's states.
    let peer = match info[0] {
        1..=5 => Peer::Sends,
        8 => Peer::SentAll,
        6 | 7 | 9 | 11 => Peer::Gone,
        _ => return None,
    };
    let received = info[RECEIVED].try_into().ok()?;
    Some(Facts { peer, received: u64::from_ne_bytes(received) })
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
    fn found<T>(stream: &TcpStream, port: u16, see: impl FnOnce(&Socket<'_>) -> T) -> T {
        let mut slot = Slot::new().expect("a descriptor");
        match slot.look(stream.as_raw_fd(), port) {
            Found::Connection(socket) => see(&socket),
            Found::Closed | Found::Other => panic!("it is a connection"),
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
        let mut slot = Slot::new().expect("a descriptor");
        let slots = [slot.fd.as_raw_fd(), slot.nothing.as_raw_fd()];
        for (number, port) in [
            (client.as_raw_fd(), port),
            (server.as_raw_fd(), port ^ 1),
            (listener.as_raw_fd(), own),
            (file.as_raw_fd(), port),
            (slots[0], port),
            (slots[1], port),
        ] {
            assert!(matches!(slot.look(number, port), Found::Other));
        }
        assert!(matches!(slot.look(RawFd::MAX, port), Found::Closed));
        assert!(matches!(slot.look(-1, port), Found::Closed));
    }

    #[test]
    fn a_slot_keeps_nothing_open_once_it_is_cleared() {
        let (port, mut client, server) = connection();
        let mut slot = Slot::new().expect("a descriptor");
        assert!(matches!(slot.look(server.as_raw_fd(), port), Found::Connection(_)));
        drop(server);
        slot.clear();
        assert_eq!(client.read(&mut [0; 1]).expect("an end"), 0);
    }

    #[test]
    fn bytes_are_counted_and_those_that_wait_too() {
        let (port, mut client, mut server) = connection();
        client.write_all(&[b'x'; 1000]).expect("it is open");
        // Reading one byte proves that all have come.
        server.read_exact(&mut [0; 1]).expect("a byte");
        let (facts, unread) = found(&server, port, |socket| (socket.facts, socket.unread()));
        assert_eq!(facts, Facts { peer: Peer::Sends, received: 1000 });
        assert_eq!(unread, 999);
    }

    #[test]
    fn a_peer_that_sends_no_more_is_told_from_one_that_is_gone_by_a_byte() {
        let (port, client, mut server) = connection();
        client.shutdown(Shutdown::Write).expect("it is open");
        assert_eq!(server.read(&mut [0; 1]).expect("an end"), 0);
        let poke = |byte| found(&server, port, |socket| (socket.facts.peer, socket.poke(byte)));
        assert_eq!(poke(b'H'), (Peer::SentAll, true));
        let mut byte = [0; 1];
        (&client).read_exact(&mut byte).expect("a byte");
        assert_eq!(byte, [b'H']);
        assert_eq!(found(&server, port, |socket| socket.facts.peer), Peer::SentAll);
        drop(client);
        assert!(found(&server, port, |socket| socket.poke(b'0')));
        // The answer to it is on its way; after it the connection has no other side any more.
        let mut slot = Slot::new().expect("a descriptor");
        while matches!(slot.look(server.as_raw_fd(), port), Found::Connection(_)) {
            std::thread::yield_now();
        }
    }

    #[test]
    fn a_shut_socket_ends_the_read_that_waits_on_it() {
        let (port, _client, mut server) = connection();
        let mut slot = Slot::new().expect("a descriptor");
        let Found::Connection(socket) = slot.look(server.as_raw_fd(), port) else {
            panic!("it is a connection");
        };
        let reader = std::thread::spawn(move || server.read(&mut [0; 1]));
        socket.shut(Shutdown::Both);
        assert_eq!(reader.join().expect("no panic").expect("an end"), 0);
    }
}
