//! One connection of the scripted upstream: requests are read, answers written as far as the socket
//! takes them, the rest when it has room again. Knows nothing of epoll.
//!
//! A request that comes before the last answer is out would have to be kept; nobody here sends one,
//! so it ends the connection.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::rc::Rc;

use super::answers::{Answer, Answers};
use super::request::{Needles, Reading, Request};
use crate::http::{Parser, Side};
use crate::pacing;
use crate::system;

/// What all connections use.
#[derive(Default)]
pub struct Shared {
    /// The answers.
    pub answers: Answers,
    /// What requests are searched for.
    pub needles: Needles,
    /// Where the frame of a token is made.
    pub frame: Vec<u8>,
}

/// What becomes of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// It waits for the socket.
    Wait,
    /// It has a token to write at this time.
    At(u64),
    /// It is over.
    Close,
}

/// A paced stream that is being written.
struct Pace {
    answer: Rc<Answer>,
    start: u64,
    written: u64,
}

/// One client.
pub struct Connection {
    stream: TcpStream,
    parser: Parser,
    request: Request,
    pace: Option<Pace>,
    output: Output,
}

impl Connection {
    /// Of a socket that does not block.
    pub fn new(stream: TcpStream) -> Self {
        Self {
            stream,
            parser: Parser::new(Side::Request),
            request: Request::default(),
            pace: None,
            output: Output::default(),
        }
    }

    /// What epoll watches.
    pub fn socket(&self) -> &TcpStream {
        &self.stream
    }

    /// Reads what there is and begins to answer.
    pub fn read(&mut self, buffer: &mut [u8], ending: bool, shared: &mut Shared) -> Next {
        let mut next = Next::Wait;
        loop {
            let count = match self.stream.read(buffer) {
                Ok(0) => return Next::Close,
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return next,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(_) => return Next::Close,
            };
            match self.take(&buffer[..count], shared) {
                Next::Wait => {}
                begun => next = begun,
            }
            if next == Next::Close || (count < buffer.len() && !ending) {
                return next;
            }
        }
    }

    /// Takes in bytes of a request; answers when it is whole.
    fn take(&mut self, bytes: &[u8], shared: &mut Shared) -> Next {
        if self.pace.is_some() || !self.output.is_empty() {
            return Next::Close;
        }
        let mut reading = Reading { request: &mut self.request, needles: &shared.needles };
        match self.parser.push(bytes, &mut reading) {
            Ok(None) => Next::Wait,
            Ok(Some(used)) if used == bytes.len() => {
                let answer = shared.answers.of(&self.request);
                self.answer(&answer)
            }
            _ => Next::Close,
        }
    }

    fn answer(&mut self, answer: &Rc<Answer>) -> Next {
        match &**answer {
            Answer::Whole(bytes) => {
                let sent = self.output.send_shared(&mut self.stream, bytes);
                self.after(sent)
            }
            Answer::Paced(paced) => {
                let start = system::now();
                let sent = self.output.send_shared(&mut self.stream, &paced.head);
                self.pace = Some(Pace { answer: Rc::clone(answer), start, written: 0 });
                match self.after(sent) {
                    Next::Wait => Next::At(pacing::due(start, 1, paced.rate)),
                    next => next,
                }
            }
        }
    }

    /// Writes the token that is due now.
    pub fn token(&mut self, shared: &mut Shared) -> Next {
        let Some(pace) = &mut self.pace else { return Next::Wait };
        let Answer::Paced(paced) = &*pace.answer else { return Next::Wait };
        paced.token(system::now(), &mut shared.frame);
        let mut sent = self.output.send(&mut self.stream, &shared.frame);
        pace.written += 1;
        if pace.written < paced.count && sent.is_ok() {
            return Next::At(pacing::due(pace.start, pace.written + 1, paced.rate));
        }
        if sent.is_ok() {
            sent = self.output.send(&mut self.stream, &paced.tail);
        }
        self.pace = None;
        self.after(sent)
    }

    /// Writes what was left.
    pub fn write(&mut self) -> Next {
        if self.output.is_empty() {
            return Next::Wait;
        }
        let sent = self.output.flush(&mut self.stream);
        self.after(sent)
    }

    fn after(&self, sent: io::Result<()>) -> Next {
        let over = self.pace.is_none() && self.output.is_empty() && self.parser.close();
        if sent.is_err() || over { Next::Close } else { Next::Wait }
    }
}

/// What the socket did not take yet: the rest of prepared bytes, then bytes of its own.
#[derive(Default)]
struct Output {
    shared: Option<(Rc<[u8]>, usize)>,
    own: Vec<u8>,
    at: usize,
}

impl Output {
    fn is_empty(&self) -> bool {
        self.shared.is_none() && self.own.is_empty()
    }

    /// Writes prepared bytes; what is left is not copied.
    fn send_shared(&mut self, stream: &mut TcpStream, bytes: &Rc<[u8]>) -> io::Result<()> {
        let at = written(stream, bytes)?;
        if at < bytes.len() {
            self.shared = Some((Rc::clone(bytes), at));
        }
        Ok(())
    }

    /// Writes bytes behind all that wait already.
    fn send(&mut self, stream: &mut TcpStream, bytes: &[u8]) -> io::Result<()> {
        let at = if self.is_empty() { written(stream, bytes)? } else { 0 };
        self.own.extend_from_slice(&bytes[at..]);
        Ok(())
    }

    fn flush(&mut self, stream: &mut TcpStream) -> io::Result<()> {
        if let Some((bytes, at)) = &mut self.shared {
            *at += written(stream, &bytes[*at..])?;
            if *at < bytes.len() {
                return Ok(());
            }
            self.shared = None;
        }
        self.at += written(stream, &self.own[self.at..])?;
        if self.at == self.own.len() {
            self.own.clear();
            self.at = 0;
        }
        Ok(())
    }
}

/// Writes as much as the socket takes.
fn written(stream: &mut TcpStream, bytes: &[u8]) -> io::Result<usize> {
    let mut at = 0;
    while at < bytes.len() {
        match stream.write(&bytes[at..]) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(count) => at += count,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(at)
}
