//! TCP connections to the upstream, beneath ureq.
//!
//! ureq's own transport costs more (measured): two writes for each request, three system calls for each
//! check whether a pooled connection is open, another one whenever a deadline moves, and two buffers of a
//! fixed size, which are most of the memory of a live stream. Here a head waits for the beginning of its
//! body, a check is one system call, a deadline may be late by a sixteenth, and buffers are allocated only
//! while they hold bytes. Never decides what is sent, or when a call has failed.
//! Invariant: pending output is sent before input is awaited.

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
    Buffers, ConnectionDetails, NextTimeout, ShutdownHandle, Transport,
};
use ureq::{Error, Timeout};

use super::buffers::TcpBuffers;
use super::workarounds::{is_nonblocking, wake_at};

/// The least time for each of several addresses.
const MIN_CONNECT_TIMEOUT: Duration = Duration::from_millis(10);

/// Opens a connection to one of the addresses, and registers it for shutdown.
pub(super) fn open(details: &ConnectionDetails<'_>) -> Result<TcpTransport, Error> {
    let transport = TcpTransport::new(connect(&details.addrs, details.timeout)?);
    let handle = Arc::downgrade(&transport.stream) as Weak<dyn ShutdownHandle>;
    (details.register_shutdown)(handle)?;
    Ok(transport)
}

/// Tries one address after the other. Each gets half of the remaining time, the last one all of it, so
/// that a silent address leaves time for the others.
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
        match connect_to(*address, patience) {
            Ok(stream) => return Ok(stream),
            Err(error) if is_timeout(&error) => failure = Error::Timeout(timeout.reason),
            Err(error) => failure = Error::Io(error),
        }
    }
    Err(failure)
}

fn connect_to(address: SocketAddr, patience: Duration) -> io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&address, patience)?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Whether a deadline has passed; the socket's own is reported as `WouldBlock`.
fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock)
}

/// A socket that another thread can shut down.
struct SharedSocket(TcpStream);

impl ShutdownHandle for SharedSocket {
    fn shutdown(&self) {
        // It fails only if the connection has ended.
        let _ = self.0.shutdown(Shutdown::Both);
    }
}

/// One connection.
pub(in crate::upstream) struct TcpTransport {
    /// Shutdown handles hold it weakly.
    stream: Arc<SharedSocket>,
    buffers: TcpBuffers,
    /// The socket's timeouts as they were set last.
    read_timeout: Option<Duration>,
    write_timeout: Option<Duration>,
    /// Whether a call uses the connection; otherwise it is in the pool.
    is_checked_out: bool,
    /// Whether the peer has responded and stopped reading.
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

    /// Inserts bytes into the latest `amount` bytes of output, which were not transmitted yet.
    pub(super) fn insert_output(&mut self, amount: usize, at: usize, bytes: &[u8]) {
        self.buffers.insert_output(amount, at, bytes);
    }

    /// Sends the pending output. An upstream that has responded need not read the rest of the request:
    /// its response is used.
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

    /// Reads what has arrived, or waits for it.
    fn read(&mut self, timeout: NextTimeout) -> Result<usize, Error> {
        let timeout = timeout.for_read();
        let deadline = to_timeout(timeout)?;
        let began = Instant::now();
        let wake = wake_at().map(|at| at.saturating_duration_since(began));
        // Nothing has failed when the thread only wants to do something else in between.
        let wakes = wake.is_some_and(|wake| deadline.is_none_or(|deadline| wake < deadline));
        let limit = if wakes { wake } else { deadline };
        let mut left = limit;
        loop {
            if left.is_some_and(|left| left.is_zero()) {
                return Err(match wakes {
                    true => Error::Io(io::ErrorKind::WouldBlock.into()),
                    false => Error::Timeout(timeout.reason),
                });
            }
            if update_timeout(&mut self.read_timeout, left) {
                self.stream.0.set_read_timeout(left)?;
            }
            match (&self.stream.0).read(self.buffers.input_append_buf()) {
                Err(error) if is_timeout(&error) || error.kind() == io::ErrorKind::Interrupted => {
                    // The socket's own timeout may be a little shorter than this deadline.
                    left = limit.map(|limit| limit.saturating_sub(began.elapsed()));
                }
                Err(error) => return Err(map_io_error(error, timeout.reason)),
                Ok(length) => return Ok(length),
            }
        }
    }

    /// Reads what has arrived together with the last read, where the buffer was too small for all of it,
    /// so that all of it is passed on in one write.
    fn read_more(&mut self) -> io::Result<()> {
        if has_unread_bytes(&self.stream.0) {
            let length = (&self.stream.0).read(self.buffers.input_append_buf())?;
            self.buffers.input_appended(length);
        }
        Ok(())
    }
}

/// The time to wait; `None` for no limit.
fn to_timeout(timeout: NextTimeout) -> Result<Option<Duration>, Error> {
    if timeout.after.is_not_happening() {
        Ok(None)
    } else if timeout.after.is_zero() {
        Err(Error::Timeout(timeout.reason))
    } else {
        Ok(Some(*timeout.after))
    }
}

/// Whether the socket's timeout must be set: not if it differs by at most a sixteenth. Updates `known`
/// if so.
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

    /// ureq calls this when it puts a connection into its pool and when it takes one out. The socket is
    /// probed only then: that also finds what arrived, or ended, in between.
    fn is_open(&mut self) -> bool {
        if self.is_checked_out {
            self.is_checked_out = false;
            self.buffers.release_if_empty();
            return !self.peer_stopped_reading;
        }
        is_idle(&self.stream.0)
    }
}

/// Whether a connection is open and no unexpected bytes have arrived.
fn is_idle(stream: &TcpStream) -> bool {
    peek(stream).is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
}

/// Whether bytes can be read, even if the connection broke after them.
fn has_input(stream: &TcpStream) -> bool {
    peek(stream).is_ok_and(|length| length > 0)
}

/// Whether bytes can be read without waiting. An end or a failure behind them is left to the next read,
/// which would not see it otherwise.
#[cfg(target_os = "linux")]
fn has_unread_bytes(stream: &TcpStream) -> bool {
    rustix::io::ioctl_fionread(stream).is_ok_and(|length| length > 0)
}

#[cfg(not(target_os = "linux"))]
fn has_unread_bytes(_: &TcpStream) -> bool {
    false
}

/// Peeks at the next byte without waiting; 0 at the end.
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

    use super::super::workarounds::waking_at;
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
    fn input_is_what_can_be_read() {
        let (transport, other) = connected();
        assert!(!has_input(&transport.stream.0), "nothing has come");
        arrive(&transport, &other, b"x");
        assert!(has_input(&transport.stream.0));
        let (transport, other) = connected();
        drop(other);
        while is_idle(&transport.stream.0) {
            thread::yield_now();
        }
        assert!(!has_input(&transport.stream.0), "an end is no input");
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
    fn a_read_that_wakes_has_not_failed_and_loses_nothing() {
        let (mut transport, other) = connected();
        for _ in 0..2 {
            let at = Instant::now() + Duration::from_millis(2);
            let woken = waking_at(at, || transport.await_input(NextTimeout::default()));
            let would_block = |error: &io::Error| error.kind() == io::ErrorKind::WouldBlock;
            assert!(matches!(&woken, Err(Error::Io(error)) if would_block(error)), "{woken:?}");
            assert!(Instant::now() >= at);
        }
        arrive(&transport, &other, b"more");
        assert!(transport.await_input(NextTimeout::default()).expect("bytes"));
        assert_eq!(transport.buffers().input(), b"more");
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
