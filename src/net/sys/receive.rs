//! How tiny_http's readers of bodies end: the C library's `recv`, which the standard library calls for
//! each read of a TCP stream, stands here.
//!
//! tiny_http's reader of a body hands its connection on only when it is dropped, and then allocates the
//! length that the client claimed less what was read; it is dropped as soon as a read finds the end. So
//! a body must not seem to end early ([`read_body`]), and what nobody reads must be counted down
//! ([`read_zeros`]). And a request that tiny_http would keep for ever ends its connection
//! ([`request_line`]). Never changes what other threads, or other readers of a
//! thread, receive. On other systems than Linux reads are as they are.

#[cfg(target_os = "linux")]
use std::cell::{Cell, RefCell};
use std::io::{self, Read};

#[cfg(target_os = "linux")]
use super::request_line::{self, HeadScanner};

/// How the names of the threads of tiny_http's servers begin.
pub const ACCEPTOR_THREADS: &str = "accept-";

/// tiny_http reads bodies up to this many bytes before it hands a request over.
pub const PREREAD_LIMIT: usize = 1024;

/// Bytes of the buffer of tiny_http's connections.
#[cfg(target_os = "linux")]
const BUFFER: usize = 1024;

/// What [`recv`] does in a thread.
#[cfg(target_os = "linux")]
#[derive(Clone, Copy)]
enum ReceiveMode {
    /// As the C library's.
    Plain,
    /// The end of the stream is an error, and no more is received than the body has left, so that what is
    /// behind it stays for the thread that reads the next head.
    Body { left: usize },
    /// As a body without an end, after the socket was shut down.
    Closing,
    /// Zeros instead of what arrives. The range holds zeros already.
    Zeros { start: usize, end: usize },
}

#[cfg(target_os = "linux")]
thread_local! {
    static RECEIVE_MODE: Cell<ReceiveMode> = const { Cell::new(ReceiveMode::Plain) };
    /// What a thread that reads heads has read of which connection.
    static HEADS: RefCell<Heads> = const { RefCell::new(Heads { identity: None, scanner: HeadScanner::new() }) };
}

/// Sets the mode of this thread until it is dropped.
#[cfg(target_os = "linux")]
struct ModeScope(ReceiveMode);

#[cfg(target_os = "linux")]
impl ModeScope {
    fn enter(mode: ReceiveMode) -> Self {
        Self(RECEIVE_MODE.replace(mode))
    }
}

#[cfg(target_os = "linux")]
impl Drop for ModeScope {
    fn drop(&mut self) {
        RECEIVE_MODE.set(self.0);
    }
}

/// Stands in the place of the C library's function of this name, and does the same except where this
/// module asks for something else.
///
/// # Safety
/// That of `recv(2)`: `length` bytes at `buffer` may be written.
#[cfg(target_os = "linux")]
#[unsafe(no_mangle)]
unsafe extern "C" fn recv(
    socket: libc::c_int,
    buffer: *mut libc::c_void,
    length: libc::size_t,
    flags: libc::c_int,
) -> libc::ssize_t {
    let mode = RECEIVE_MODE.get();
    let mut most = length;
    match mode {
        ReceiveMode::Plain => {}
        ReceiveMode::Body { left } => most = length.min(left.max(1)),
        ReceiveMode::Closing => {
            RECEIVE_MODE.set(ReceiveMode::Body { left: usize::MAX });
            // SAFETY: the call takes only numbers; the caller reads from this socket, so it is its own.
            let _ = unsafe { libc::shutdown(socket, libc::SHUT_RDWR) };
        }
        ReceiveMode::Zeros { start, end } => {
            if !(start..end).contains(&(buffer as usize)) {
                // SAFETY: the caller lets `length` bytes be written.
                unsafe { buffer.cast::<u8>().write_bytes(0, length) };
            }
            return length.cast_signed();
        }
    }
    let (no_address, no_length) = (std::ptr::null_mut(), std::ptr::null_mut());
    // SAFETY: the caller lets `length` bytes be written; without an address nothing else is.
    let received = unsafe { libc::recvfrom(socket, buffer, most, flags, no_address, no_length) };
    let bytes = match received {
        // SAFETY: the call has written so many bytes.
        1.. => unsafe { std::slice::from_raw_parts(buffer.cast(), received.cast_unsigned()) },
        _ => &[],
    };
    let is_wrong = match mode {
        ReceiveMode::Plain => reads_heads() && follow_heads(socket, bytes),
        // Only a buffer below the reader of chunks may take what is behind them.
        ReceiveMode::Body { left: usize::MAX } if !bytes.is_empty() && length <= BUFFER => {
            request_line::has_other_version_behind_chunks(bytes)
        }
        _ => received == 0 && length > 0,
    };
    if is_wrong {
        // SAFETY: the address is that of this thread's own error number.
        unsafe { *libc::__errno_location() = libc::ECONNABORTED };
        return -1;
    }
    received
}

/// What a thread has read of one connection.
#[cfg(target_os = "linux")]
struct Heads {
    /// The connection's, once something of it was received and not finished.
    identity: Option<u64>,
    scanner: HeadScanner,
}

/// Follows what a thread that reads heads has received; true if tiny_http would keep a request in it.
/// Nothing was received at the end of a connection.
#[cfg(target_os = "linux")]
fn follow_heads(socket: libc::c_int, received: &[u8]) -> bool {
    HEADS.with_borrow_mut(|heads| {
        // A thread that was in the middle of a head may be at another connection by now.
        if heads.identity.take().is_none_or(|known| Some(known) != identity(socket)) {
            heads.scanner = HeadScanner::new();
        }
        let is_other = heads.scanner.has_other_version(received);
        if heads.scanner.is_inside() && !received.is_empty() {
            heads.identity = identity(socket);
        }
        is_other
    })
}

/// A number that no other open socket has.
#[cfg(target_os = "linux")]
fn identity(socket: libc::c_int) -> Option<u64> {
    let mut status = std::mem::MaybeUninit::<libc::stat>::uninit();
    // SAFETY: the call writes the structure, which is read only if it did.
    unsafe { (libc::fstat(socket, status.as_mut_ptr()) == 0).then(|| status.assume_init().st_ino) }
}

/// Whether this thread is one of tiny_http's, which read heads.
#[cfg(target_os = "linux")]
fn reads_heads() -> bool {
    thread_local! {
        static READS_HEADS: Cell<Option<bool>> = const { Cell::new(None) };
    }
    READS_HEADS.get().unwrap_or_else(|| {
        let mut name = [0_u8; 16];
        // SAFETY: the call writes at most 16 bytes.
        let result = unsafe { libc::prctl(libc::PR_GET_NAME, name.as_mut_ptr()) };
        let is_reader = result == 0 && name.starts_with(ACCEPTOR_THREADS.as_bytes());
        READS_HEADS.set(Some(is_reader));
        is_reader
    })
}

/// Reads from a reader over a client's connection, of whose body so many bytes are left
/// (`usize::MAX` if nobody knows). Where the connection ends before what it reads, that
/// is an error and not the end: tiny_http drops the reader of a body at its end.
///
/// # Errors
/// Those of `reader`, and `UnexpectedEof` for the end of the connection.
pub fn read_body(reader: &mut dyn Read, buffer: &mut [u8], left: usize) -> io::Result<usize> {
    #[cfg(target_os = "linux")]
    let _scope = ModeScope::enter(ReceiveMode::Body { left });
    #[cfg(not(target_os = "linux"))]
    let _ = left;
    reader.read(buffer).map_err(|error| match error.kind() {
        io::ErrorKind::ConnectionAborted => io::ErrorKind::UnexpectedEof.into(),
        _ => error,
    })
}

/// Shuts down the connection below a reader, and reads what has arrived on it. False if the connection
/// may still be open.
pub fn close_connection(reader: &mut dyn Read) -> bool {
    #[cfg(target_os = "linux")]
    {
        let _scope = ModeScope::enter(ReceiveMode::Closing);
        let mut buffer = [0; 4096];
        loop {
            match reader.read(&mut buffer) {
                Ok(0) => return true,
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return !matches!(RECEIVE_MODE.get(), ReceiveMode::Closing),
            }
        }
    }
    #[cfg(not(target_os = "linux"))]
    {
        let _ = reader;
        false
    }
}

/// Most reads of [`read_zeros`], which take less than a second.
#[cfg(target_os = "linux")]
const MAX_ZERO_READS: usize = 1 << 24;

/// Reads `length` zeros through a reader over a connection, or fewer if it ends before, without
/// receiving or storing them: afterwards a reader of a body of this length is at its end. False if that
/// is not possible; then dropping the reader may allocate `length` bytes.
pub fn read_zeros(reader: &mut dyn Read, length: usize) -> bool {
    if length == 0 {
        return true;
    }
    #[cfg(target_os = "linux")]
    {
        let Some(mut area) = ZeroArea::reserve() else { return false };
        let start = area.start as usize;
        let end = start + area.length;
        let _scope = ModeScope::enter(ReceiveMode::Zeros { start, end });
        let mut left = length;
        for _ in 0..MAX_ZERO_READS {
            match reader.read(area.first(left)) {
                Ok(0) => return true,
                Ok(read) => left = left.saturating_sub(read),
                Err(_) => return false,
            }
            if left == 0 {
                return true;
            }
        }
        false
    }
    #[cfg(not(target_os = "linux"))]
    {
        let _ = reader;
        Vec::<u8>::new().try_reserve_exact(length).is_ok()
    }
}

/// As many addresses as the system gives, all zero, without memory behind them. Only the beginning may
/// be written; writing elsewhere ends the process.
#[cfg(target_os = "linux")]
struct ZeroArea {
    start: *mut u8,
    length: usize,
}

#[cfg(target_os = "linux")]
impl ZeroArea {
    /// Half of the addresses of a process with four levels of page tables.
    const MOST: usize = 1 << 46;

    /// Fewer would take too many reads.
    const LEAST: usize = 1 << 20;

    /// Bytes that may be written: more than any buffer below a reader, from which it may copy.
    const WRITABLE: usize = 64 * 1024;

    fn reserve() -> Option<Self> {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        let mut length = Self::MOST;
        while length >= Self::LEAST {
            // SAFETY: the kernel chooses addresses that nothing else uses. Without the right to write
            // they count against no limit of memory.
            let start =
                unsafe { libc::mmap(std::ptr::null_mut(), length, libc::PROT_READ, flags, -1, 0) };
            if start != libc::MAP_FAILED {
                let area = Self { start: start.cast(), length };
                let access = libc::PROT_READ | libc::PROT_WRITE;
                // SAFETY: the range is the beginning of the area, which nothing else uses.
                let result = unsafe { libc::mprotect(start, Self::WRITABLE, access) };
                return (result == 0).then_some(area);
            }
            length /= 2;
        }
        None
    }

    /// Its first bytes, at most `length`.
    fn first(&mut self, length: usize) -> &mut [u8] {
        // SAFETY: the area is mapped and zero as far as its length, and borrowed mutably. A reader
        // writes only what it copies from a buffer of its own, to the beginning; `recv` writes nothing.
        unsafe { std::slice::from_raw_parts_mut(self.start, length.min(self.length)) }
    }
}

#[cfg(target_os = "linux")]
impl Drop for ZeroArea {
    fn drop(&mut self) {
        // SAFETY: the range is that of the area, of which no reference is left.
        let _ = unsafe { libc::munmap(self.start.cast(), self.length) };
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    /// A connection, and the client's end of it.
    fn connection() -> (std::net::TcpStream, std::net::TcpStream) {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let client = std::net::TcpStream::connect(listener.local_addr().expect("bound"));
        (listener.accept().expect("a connection").0, client.expect("it listens"))
    }

    #[test]
    fn only_where_a_body_is_read_the_end_of_a_connection_is_an_error() {
        use std::io::Write;

        let (mut stream, mut client) = connection();
        client.write_all(b"ab").expect("it is open");
        drop(client);
        let mut buffer = [0; 8];
        assert_eq!(read_body(&mut stream, &mut buffer[..1], usize::MAX).expect("a byte"), 1);
        assert_eq!(read_body(&mut stream, &mut [], usize::MAX).expect("nothing was asked for"), 0);
        assert_eq!(stream.read(&mut buffer[1..]).expect("the other byte"), 1);
        assert_eq!(&buffer[..2], b"ab");
        let error = read_body(&mut stream, &mut buffer, usize::MAX).expect_err("the end");
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
        assert_eq!(stream.read(&mut buffer).expect("the end"), 0);
    }

    /// Counts down as tiny_http does, over a buffer.
    struct Countdown(std::io::BufReader<std::net::TcpStream>, usize);

    impl Read for Countdown {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let most = self.1.min(buffer.len());
            let read = self.0.read(&mut buffer[..most])?;
            self.1 -= read;
            Ok(read)
        }
    }

    #[test]
    fn a_body_of_any_length_is_counted_down_without_memory() {
        use std::io::{BufReader, Write};

        for length in
            [1, 1023, 1024, 1025, 70_000, 1 << 47, (1 << 50) + 7, usize::MAX >> 1, usize::MAX]
        {
            for buffered in [0, 1, 900] {
                let (stream, mut client) = connection();
                client.write_all(&[b'x'; 900]).expect("it is open");
                let mut reader = BufReader::with_capacity(1024, stream);
                // Some of the body waits in the buffer, and some on the connection.
                let mut byte = vec![0; buffered];
                reader.read_exact(&mut byte).expect("it was sent");
                let mut reader = Countdown(reader, length);
                assert!(read_zeros(&mut reader, length), "{length}");
                assert_eq!(reader.1, 0, "{length} after {buffered}");
            }
        }
        let (stream, _client) = connection();
        let mut reader = Countdown(BufReader::with_capacity(1024, stream), 5000);
        assert!(read_zeros(&mut reader, 1 << 50) && reader.1 == 0, "the rest of a body");
        assert!(read_zeros(&mut io::empty(), 0));
    }

    #[test]
    fn a_connection_is_closed_through_its_reader() {
        use std::io::Write;

        let (mut stream, mut client) = connection();
        client.write_all(&[b'x'; 5000]).expect("it is open");
        assert!(close_connection(&mut stream));
        assert_eq!(stream.read(&mut [0; 8]).expect("the end"), 0);
        assert!(matches!(client.read(&mut [0; 8]), Ok(0) | Err(_)));
        assert!(!close_connection(&mut Failing), "nothing was shut down");
    }

    /// Fails before it reads from a connection.
    struct Failing;

    impl Read for Failing {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            Err(io::ErrorKind::InvalidData.into())
        }
    }
}
