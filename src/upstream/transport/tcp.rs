//! Sockets to the upstream, beneath ureq: the connection itself and its buffers.
//!
//! ureq's own would do, but for what they cost (measured): two writes for each request, three
//! system calls for each look whether a kept connection is still open, one more whenever a deadline
//! has moved, and two buffers of a fixed size, which make up most of what a live stream takes.
//! Here a head waits for the first piece of its body, a look is one call, deadlines may be late by a
//! sixteenth, and buffers are there only while they hold something.
//! Never decides what is sent, or when a call has failed.

use std::fmt;
use std::io::{self, Read, Write};
#[cfg(target_os = "linux")]
use std::mem::MaybeUninit;
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

#[cfg(target_os = "linux")]
use socket2::SockRef;
use ureq::unversioned::transport::{
    Buffers, ConnectionDetails, Connector, Either, NextTimeout, ShutdownHandle, Transport,
};
use ureq::{Error, Timeout};

use super::buffers::TcpBuffers;
use super::is_nonblocking;

/// The least time that each of several addresses gets.
const MIN_CONNECT_TIMEOUT: Duration = Duration::from_millis(10);

/// Makes connections, unless one was made before it.
#[derive(Debug, Default)]
pub(in crate::upstream) struct TcpConnector;

impl<In: Transport> Connector<In> for TcpConnector {
    type Out = Either<In, TcpTransport>;

    fn connect(
        &self,
        details: &ConnectionDetails<'_>,
        chained: Option<In>,
    ) -> Result<Option<Self::Out>, Error> {
        if chained.is_some() {
            return Ok(chained.map(Either::A));
        }
        let stream = connect(&details.addrs, details.timeout)?;
        let transport = TcpTransport::new(stream);
        let handle = Arc::downgrade(&transport.stream) as Weak<dyn ShutdownHandle>;
        (details.register_shutdown)(handle)?;
        Ok(Some(Either::B(transport)))
    }
}

/// Tries one address after the other. Each gets half of the time that is left, the last one all of
/// it, so that a silent one leaves time for the others.
fn connect(addresses: &[SocketAddr], timeout: NextTimeout) -> Result<TcpStream, Error> {
    let began = Instant::now();
    let mut failure = Error::Io(io::ErrorKind::ConnectionRefused.into());
    for (place, address) in addresses.iter().enumerate() {
        let left = timeout.after.saturating_sub(began.elapsed());
        if left.is_zero() {
            return Err(Error::Timeout(timeout.reason));
        }
        let is_last = place + 1 == addresses.len();
        let patience = if is_last { left } else { (left / 2).max(MIN_CONNECT_TIMEOUT) };
        match connect_to(*address, timeout.not_zero().map(|_| patience)) {
            Ok(stream) => return Ok(stream),
            Err(error) if is_timeout(&error) => failure = Error::Timeout(timeout.reason),
            Err(error) => failure = Error::Io(error),
        }
    }
    Err(failure)
}

fn connect_to(address: SocketAddr, patience: Option<Duration>) -> io::Result<TcpStream> {
    let stream = match patience {
        Some(patience) => TcpStream::connect_timeout(&address, patience)?,
        None => TcpStream::connect(address)?,
    };
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Whether a deadline has passed; a socket's own is told as one that would block.
fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock)
}

/// A socket that others may close.
struct SharedSocket(TcpStream);

impl ShutdownHandle for SharedSocket {
    fn shutdown(&self) {
        // It fails only where there is nothing left to close.
        let _ = self.0.shutdown(Shutdown::Both);
    }
}

/// A connection.
pub(in crate::upstream) struct TcpTransport {
    /// Others hold it weakly.
    stream: Arc<SharedSocket>,
    buffers: TcpBuffers,
    /// What the socket was told last.
    read_timeout: Option<Duration>,
    write_timeout: Option<Duration>,
    /// Whether a call uses it; else it is kept.
    is_checked_out: bool,
    /// Whether the other side answered and then took nothing more.
    peer_stopped_reading: bool,
}

impl TcpTransport {
    fn new(stream: TcpStream) -> Self {
        Self {
            stream: Arc::new(SharedSocket(stream)),
            buffers: TcpBuffers::new(),
            read_timeout: None,
            write_timeout: None,
            is_checked_out: true,
            peer_stopped_reading: false,
        }
    }

    /// Sends what is held back.
    /// An upstream that has answered need not take the rest: its answer is what counts.
    fn flush(&mut self, timeout: NextTimeout) -> Result<(), Error> {
        if self.peer_stopped_reading {
            self.buffers.clear_pending();
            return Ok(());
        }
        let timeout = timeout.for_write();
        let deadline = to_timeout(timeout)?;
        if update_timeout(&mut self.write_timeout, deadline) {
            self.stream.0.set_write_timeout(deadline)?;
        }
        let written = (&self.stream.0).write_all(self.buffers.pending_output());
        self.buffers.clear_pending();
        self.peer_stopped_reading = written.is_err() && has_input(&self.stream.0);
        match written {
            Err(error) if !self.peer_stopped_reading => Err(map_io_error(error, timeout.reason)),
            _ => Ok(()),
        }
    }

    /// Takes what is there, or waits for it.
    fn read(&mut self, timeout: NextTimeout) -> Result<usize, Error> {
        let timeout = timeout.for_read();
        let deadline = to_timeout(timeout)?;
        let (began, mut left) = (Instant::now(), deadline);
        loop {
            if update_timeout(&mut self.read_timeout, left) {
                self.stream.0.set_read_timeout(left)?;
            }
            match (&self.stream.0).read(self.buffers.input_append_buf()) {
                Err(error) if is_timeout(&error) || error.kind() == io::ErrorKind::Interrupted => {
                    // The socket's own deadline may be a little short of this one.
                    left = deadline.map(|deadline| deadline.saturating_sub(began.elapsed()));
                    if left.is_some_and(|left| left.is_zero()) {
                        return Err(Error::Timeout(timeout.reason));
                    }
                }
                Err(error) => return Err(map_io_error(error, timeout.reason)),
                Ok(length) => return Ok(length),
            }
        }
    }

    /// Takes what came together with what was just read, where the buffer was too small for all of it:
    /// passed on in two writes it would cost two.
    fn read_more(&mut self) -> io::Result<()> {
        if has_unread_bytes(&self.stream.0) {
            let length = (&self.stream.0).read(self.buffers.input_append_buf())?;
            self.buffers.input_appended(length);
        }
        Ok(())
    }
}

/// How long to wait; `None` for ever.
fn to_timeout(timeout: NextTimeout) -> Result<Option<Duration>, Error> {
    if timeout.after.is_not_happening() {
        Ok(None)
    } else if timeout.after.is_zero() {
        Err(Error::Timeout(timeout.reason))
    } else {
        Ok(Some(*timeout.after))
    }
}

/// Whether the socket has to be told of a deadline: one that is as good as that which it knows, no
/// more than a sixteenth later or earlier, will do. Notes it if so.
fn update_timeout(known: &mut Option<Duration>, wanted: Option<Duration>) -> bool {
    let near = |known: Duration, wanted: Duration| known.abs_diff(wanted) <= wanted / 16;
    let is_known = match (*known, wanted) {
        (Some(known), Some(wanted)) => near(known, wanted),
        (known, wanted) => known == wanted,
    };
    if !is_known {
        *known = wanted;
    }
    !is_known
}

fn map_io_error(error: io::Error, reason: Timeout) -> Error {
    if is_timeout(&error) { Error::Timeout(reason) } else { Error::Io(error) }
}

impl Transport for TcpTransport {
    fn buffers(&mut self) -> &mut dyn Buffers {
        self.is_checked_out = true;
        &mut self.buffers
    }

    fn transmit_output(&mut self, amount: usize, timeout: NextTimeout) -> Result<(), Error> {
        if self.buffers.append_output(amount) { Ok(()) } else { self.flush(timeout) }
    }

    fn await_input(&mut self, timeout: NextTimeout) -> Result<bool, Error> {
        if is_nonblocking() {
            return Err(Error::Io(io::ErrorKind::WouldBlock.into()));
        }
        if !self.buffers.pending_output().is_empty() {
            self.flush(timeout)?;
        }
        self.buffers.begin_read();
        let length = self.read(timeout)?;
        self.buffers.input_appended(length);
        if self.buffers.is_short_of_room() {
            self.read_more()?;
        }
        Ok(length > 0)
    }

    /// ureq asks this before it keeps a connection and before it uses a kept one. Once will do: what
    /// comes, or ends, in between is seen by the second look.
    fn is_open(&mut self) -> bool {
        if self.is_checked_out {
            self.is_checked_out = false;
            self.buffers.release_if_empty();
            return !self.peer_stopped_reading;
        }
        is_idle(&self.stream.0)
    }
}

/// Whether a connection is open, and nothing has come that nobody asked for.
fn is_idle(stream: &TcpStream) -> bool {
    peek(stream).is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
}

/// Whether something has come that can be read, though the connection may be broken since.
fn has_input(stream: &TcpStream) -> bool {
    peek(stream).is_ok_and(|length| length > 0)
}

/// Whether there are bytes to be read at once. What is behind them, an end or a failure, is left to
/// the next read to tell, who else would never hear of it.
#[cfg(target_os = "linux")]
fn has_unread_bytes(stream: &TcpStream) -> bool {
    rustix::io::ioctl_fionread(stream).is_ok_and(|length| length > 0)
}

#[cfg(not(target_os = "linux"))]
fn has_unread_bytes(_: &TcpStream) -> bool {
    false
}

/// Looks for the next byte, and neither takes it nor waits for it; 0 at the end.
#[cfg(target_os = "linux")]
fn peek(stream: &TcpStream) -> io::Result<usize> {
    let mut byte = [MaybeUninit::uninit()];
    let flags = libc::MSG_DONTWAIT | libc::MSG_PEEK;
    SockRef::from(stream).recv_with_flags(&mut byte, flags)
}

#[cfg(not(target_os = "linux"))]
fn peek(stream: &TcpStream) -> io::Result<usize> {
    stream.set_nonblocking(true)?;
    let looked = stream.peek(&mut [0]);
    stream.set_nonblocking(false)?;
    looked
}

impl fmt::Debug for TcpTransport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TcpTransport").finish_non_exhaustive()
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::net::TcpListener;
    use std::thread;

    use super::*;

    /// A connection, and its other side.
    fn connected() -> (TcpTransport, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let stream = TcpStream::connect(listener.local_addr().expect("bound")).expect("it listens");
        let (other, _) = listener.accept().expect("it is there");
        (TcpTransport::new(stream), other)
    }

    /// Sends bytes and waits until they are all there.
    fn arrive(transport: &TcpTransport, mut other: &TcpStream, bytes: &[u8]) {
        other.write_all(bytes).expect("it is open");
        while rustix::io::ioctl_fionread(&transport.stream.0) != Ok(bytes.len() as u64) {
            thread::yield_now();
        }
    }

    #[test]
    fn what_came_together_is_taken_together() {
        let (mut transport, other) = connected();
        let bytes: Vec<u8> = (0..50_000_u32).map(|number| (number % 251) as u8).collect();
        arrive(&transport, &other, &bytes);
        assert!(transport.await_input(NextTimeout::default()).expect("bytes"));
        assert!(transport.buffers().input() == bytes);
    }

    #[test]
    fn a_failure_behind_a_full_buffer_is_not_lost() {
        let (mut transport, other) = connected();
        let room = transport.buffers().input_append_buf().len();
        arrive(&transport, &other, &vec![b'x'; room]);
        SockRef::from(&other).set_linger(Some(Duration::ZERO)).expect("a socket");
        drop(other);
        assert!(transport.await_input(NextTimeout::default()).expect("bytes"));
        assert_eq!(transport.buffers().input().len(), room);
        transport.buffers().input_consume(room);
        let failed = transport.await_input(NextTimeout::default());
        let is_reset = |error: &io::Error| error.kind() == io::ErrorKind::ConnectionReset;
        assert!(matches!(&failed, Err(Error::Io(error)) if is_reset(error)), "{failed:?}");
    }
}
