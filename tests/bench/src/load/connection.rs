//! One connection of the load generator: connects without blocking, writes a request as far as the
//! socket takes it, reads the answer. Knows nothing of epoll or of when requests begin.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::OwnedFd;

use rustix::net::{self, AddressFamily, SocketFlags, SocketType};

use super::answer::{Answer, Expected, Reading};
use super::stats::{Kind, Stats};
use crate::http::{Parser, Side};
use crate::system;

/// What all connections of a run use.
pub struct Shared {
    /// The request of each conversation, head and body.
    pub requests: Vec<Vec<u8>>,
    /// What answers are held against.
    pub expected: Expected,
    /// What is counted.
    pub stats: Stats,
    /// Where reads go.
    pub buffer: Vec<u8>,
    /// Times count from when a request was due, not from when it was written.
    pub from_due: bool,
    /// The same for the requests that a connection is opened for.
    pub from_connect: bool,
}

/// What a connection does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Nothing; there may be no socket.
    Idle,
    /// It waits for the socket to be connected.
    Connecting,
    /// It writes the request and waits for the answer.
    Asking,
}

/// How far a connection got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// It waits for the socket.
    Wait,
    /// The answer is whole and right.
    Right,
    /// The request failed, and the socket is closed.
    Failed(Kind),
    /// The socket was closed while nothing was asked.
    Gone,
}

/// One connection, of which the socket may be opened anew many times.
pub struct Connection {
    /// Told apart from its earlier sockets.
    pub generation: u32,
    socket: Option<TcpStream>,
    phase: Phase,
    /// A socket was connected once.
    connected: bool,
    /// Which of the requests it sends; the next one after each answer.
    conversation: usize,
    parser: Parser,
    answer: Answer,
    due: u64,
    begun: u64,
    written: usize,
}

impl Default for Connection {
    fn default() -> Self {
        Self {
            generation: 0,
            socket: None,
            phase: Phase::Idle,
            connected: false,
            conversation: 0,
            parser: Parser::new(Side::Answer),
            answer: Answer::default(),
            due: 0,
            begun: 0,
            written: 0,
        }
    }
}

impl Connection {
    /// One that begins with the request of this conversation.
    pub fn new(conversation: usize) -> Self {
        Self { conversation, ..Self::default() }
    }

    /// A request is under way.
    pub fn busy(&self) -> bool {
        self.phase != Phase::Idle
    }

    /// It was connected at least once.
    pub fn connected(&self) -> bool {
        self.connected
    }

    /// Begins a request that was due then, on the socket there is.
    /// Gives none where there is none: then one is to be opened.
    pub fn ask(&mut self, due: u64, shared: &mut Shared) -> Option<Progress> {
        self.due = due;
        self.socket.as_ref()?;
        Some(self.start(shared))
    }

    /// Opens a socket for the request; it is to be watched.
    pub fn open(&mut self, address: SocketAddr) -> io::Result<&TcpStream> {
        let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let socket: OwnedFd = net::socket_with(family, SocketType::STREAM, flags, None)?;
        match net::connect(&socket, &address) {
            Ok(()) | Err(rustix::io::Errno::INPROGRESS) => {}
            Err(error) => return Err(error.into()),
        }
        let socket = TcpStream::from(socket);
        socket.set_nodelay(true)?;
        self.generation = self.generation.wrapping_add(1);
        self.phase = Phase::Connecting;
        self.parser = Parser::new(Side::Answer);
        Ok(self.socket.insert(socket))
    }

    /// Goes on after the socket has room or can be read.
    pub fn on_event(
        &mut self,
        (writable, readable, ending): (bool, bool, bool),
        shared: &mut Shared,
    ) -> Progress {
        let mut progress = Progress::Wait;
        if self.phase == Phase::Connecting {
            let error = self.socket.as_ref().map(TcpStream::take_error);
            if !matches!(error, Some(Ok(None))) {
                return self.fail(Kind::Connect, shared);
            }
            if !writable {
                return Progress::Wait;
            }
            progress = self.start(shared);
        } else if writable && self.phase == Phase::Asking && self.unwritten(shared) > 0 {
            if !shared.from_due && !shared.from_connect {
                self.answer.since = system::now();
            }
            progress = self.write(shared);
        }
        if progress == Progress::Wait && readable { self.read(ending, shared) } else { progress }
    }

    fn start(&mut self, shared: &mut Shared) -> Progress {
        let opened = self.phase == Phase::Connecting;
        let from_due = shared.from_due || (shared.from_connect && opened);
        self.phase = Phase::Asking;
        self.connected = true;
        self.written = 0;
        self.begun = if from_due { self.due } else { system::now() };
        self.answer.begin(self.begun);
        self.write(shared)
    }

    /// How many bytes of the request the socket has not taken.
    fn unwritten(&self, shared: &Shared) -> usize {
        shared.requests[self.conversation].len() - self.written
    }

    /// Writes as much of the request as the socket takes.
    fn write(&mut self, shared: &mut Shared) -> Progress {
        let Some(socket) = &mut self.socket else { return Progress::Wait };
        let request = &shared.requests[self.conversation];
        let mut error = None;
        while self.written < request.len() && error.is_none() {
            match socket.write(&request[self.written..]) {
                Ok(count) if count > 0 => self.written += count,
                Err(it) if it.kind() == io::ErrorKind::WouldBlock => return Progress::Wait,
                Err(it) if it.kind() == io::ErrorKind::Interrupted => {}
                other => error = Some(other),
            }
        }
        if error.is_some() {
            return self.fail(Kind::Closed, shared);
        }
        Progress::Wait
    }

    /// Reads what there is.
    fn read(&mut self, ending: bool, shared: &mut Shared) -> Progress {
        loop {
            let Some(socket) = &mut self.socket else { return Progress::Wait };
            let count = match socket.read(&mut shared.buffer) {
                Ok(0) => return self.closed(shared),
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Progress::Wait,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(_) => return self.closed(shared),
            };
            let progress = self.take(count, ending, shared);
            if progress != Progress::Wait || (count < shared.buffer.len() && !ending) {
                return progress;
            }
        }
    }

    /// Takes in what was read.
    fn take(&mut self, count: usize, ending: bool, shared: &mut Shared) -> Progress {
        let now = system::now();
        shared.stats.bytes += count as u64;
        if !self.busy() {
            return self.fail(Kind::Framing, shared);
        }
        let (stats, expected) = (&mut shared.stats, &shared.expected);
        let mut reading = Reading { answer: &mut self.answer, expected, stats, now };
        match self.parser.push(&shared.buffer[..count], &mut reading) {
            Ok(None) => Progress::Wait,
            Ok(Some(used)) if used == count => self.end(now, ending, shared),
            _ => self.fail(Kind::Framing, shared),
        }
    }

    /// The answer is at its end.
    fn end(&mut self, now: u64, ending: bool, shared: &mut Shared) -> Progress {
        if let Err(kind) = self.answer.verdict(&shared.expected) {
            return self.fail(kind, shared);
        }
        let whole = self.unwritten(shared) == 0;
        self.conversation = (self.conversation + 1) % shared.requests.len();
        shared.stats.requests += 1;
        shared.stats.total.record(now.saturating_sub(self.begun));
        self.phase = Phase::Idle;
        if ending || self.parser.close() || !whole {
            self.socket = None;
        }
        Progress::Right
    }

    fn closed(&mut self, shared: &mut Shared) -> Progress {
        if self.busy() {
            return self.fail(Kind::Closed, shared);
        }
        self.socket = None;
        Progress::Gone
    }

    /// Gives the request up.
    pub fn fail(&mut self, kind: Kind, shared: &mut Shared) -> Progress {
        if self.phase == Phase::Asking {
            shared.stats.lost += self.answer.lost(&shared.expected);
        }
        shared.stats.error(kind, 1);
        self.socket = None;
        self.phase = Phase::Idle;
        Progress::Failed(kind)
    }
}
