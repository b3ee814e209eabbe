//! One downstream request and its reply.
//!
//! ```text
//!             line() holds a line back        line(), flush()
//!   Waiting --------- flush() -----------> Streaming ------+
//!      |  answer(), fail(): status         |   ^-----------+
//!      |  and JSON                         |  end(): last frame
//!      |                                   |  fail(): error line, last frame
//!      +---------------> Done <------------+
//!                         ^--- any write error: the client is gone
//! ```
//!
//! Heads and chunked framing are written here, because tiny_http's own answers hold 8 KiB back. The
//! head goes out with the first lines, so that a failure before them still gets a real status. An
//! exchange ends exactly once: answered, ended, failed, or the client is gone. Several lines may
//! share one write; each is a frame of its own. What is said of lines here holds for events and for
//! the pieces of a body that is passed on, too; in which shape an error is told is the path's affair.

mod budgeted_reader;
mod coalesce;
mod content;
mod frame;
mod head;

use std::io::{self, Read, Write};
use std::sync::Arc;
use std::time::Instant;

use tiny_http::{HTTPVersion, Method, Request};

use self::budgeted_reader::Counted;
pub use self::content::ContentType;
use self::content::Stream;
use self::frame::frame;
use self::head::Body;
use crate::api::openai::pass_head::PassedHead;
use crate::error::{Error, Result, Retry};
use crate::http::cors::Headers;
use crate::http::error_format::{CHALLENGES, Shape};
use crate::http::unread_body;
use crate::net::cancel::Cancel;
use crate::net::connection_guard::{Phase, Ticket, Wire};
use crate::net::limits::{Lease, Spent};
use crate::net::worker_pool;

/// What stands in the place of a frame where a body breaks off. tiny_http leaves the connection open
/// when a writer is dropped, so that a client would wait for ever; at what is no frame its reader
/// fails at once, and never takes the part for the whole.
const BROKEN_FRAME: &[u8] = b"the upstream ended its answer early\r\n";

/// A request and where it stands.
pub struct Exchange {
    state: State,
    request_id: String,
    method: String,
    target: String,
    /// HEAD: heads as for GET, and no bodies.
    headless: bool,
    framing: Framing,
    /// What errors look like.
    shape: Shape,
    stream: Stream,
    /// The client, or the protocol's version, wants the connection closed afterwards.
    close: bool,
    /// Header lines of whatever answer there will be.
    extra: Headers,
    /// Lines that are not written yet.
    pending: Vec<u8>,
    status: Option<u16>,
    /// When the first line of a stream was written.
    first_line: Option<Instant>,
    body_read: bool,
    /// Its entry with those who watch over its connection.
    ticket: Option<Ticket>,
    /// What its body counts for as long as it is held.
    lease: Option<Lease>,
}

enum State {
    Waiting(Request),
    Streaming(Box<dyn Write + Send>),
    Done,
}

/// How lines are delimited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Framing {
    /// HTTP/1.1.
    Chunked,
    /// HTTP/1.0: the end of the connection is the end of the answer.
    UntilClose,
    /// HTTP/1.0 with keep-alive, where neither is possible: all lines at once, with their length.
    AtOnce,
}

impl Exchange {
    /// Takes a request over.
    #[must_use]
    pub fn new(request: Request, request_id: String) -> Self {
        let connection = header(&request, "Connection").unwrap_or_default().to_ascii_lowercase();
        let old = *request.http_version() < HTTPVersion(1, 1);
        let keep_alive = connection.contains("keep-alive");
        Self {
            request_id,
            method: request.method().as_str().to_owned(),
            target: request.url().to_owned(),
            shape: Shape::of(request.url()),
            stream: Stream::Lines,
            headless: *request.method() == Method::Head,
            framing: match (old, keep_alive) {
                (false, _) => Framing::Chunked,
                (true, false) => Framing::UntilClose,
                (true, true) => Framing::AtOnce,
            },
            close: connection.contains("close")
                || connection.contains("upgrade")
                || (old && !keep_alive),
            extra: Headers::new(),
            pending: Vec::new(),
            status: None,
            first_line: None,
            body_read: unread_body::has_none(&request),
            state: State::Waiting(request),
            ticket: None,
            lease: None,
        }
    }

    /// Lets the memory of its body count with that of all others, until the answer begins.
    pub fn account(&mut self, lease: Lease) {
        self.lease = Some(lease);
    }

    /// Lets those who watch over its connection know how far it is.
    pub fn attend(&mut self, ticket: Ticket) {
        if self.body_read {
            ticket.in_hand().is_now(Phase::Working);
        }
        self.ticket = Some(ticket);
    }

    /// The sign that the client has left, where anybody can tell.
    #[must_use]
    pub fn cancel(&self) -> Option<Arc<Cancel>> {
        self.ticket.as_ref().map(|ticket| ticket.cancel().clone())
    }

    /// Makes its answer the last one on its connection: what follows on it is not to be trusted.
    pub fn condemn(&mut self) {
        self.close = true;
        if let Some(ticket) = &self.ticket {
            ticket.condemn();
        }
    }

    /// Ends without an answer, on a connection that had its last one.
    pub fn discard(mut self) {
        if let State::Waiting(request) = std::mem::replace(&mut self.state, State::Done) {
            unread_body::discard(request, self.body_read, self.ticket.take());
        }
    }

    /// The method as it stands in the request line.
    #[must_use]
    pub fn method(&self) -> &str {
        &self.method
    }

    /// Path and query as they stand in the request line.
    #[must_use]
    pub fn target(&self) -> &str {
        &self.target
    }

    /// A header of the request; `None` also once the answer has begun.
    #[must_use]
    pub fn header(&self, name: &'static str) -> Option<&str> {
        match &self.state {
            State::Waiting(request) => header(request, name),
            State::Streaming(_) | State::Done => None,
        }
    }

    /// Sends these headers with whatever answer there will be, a stream or an error included.
    pub fn add_headers(&mut self, headers: Headers) {
        self.extra.extend(headers);
    }

    /// `req_` and 8 hex digits.
    #[must_use]
    pub fn request_id(&self) -> &str {
        &self.request_id
    }

    /// The status that was sent, if one was.
    #[must_use]
    pub fn status(&self) -> Option<u16> {
        self.status
    }

    /// When the first line of a stream was written, if one was.
    #[must_use]
    pub fn first_line(&self) -> Option<Instant> {
        self.first_line
    }

    /// Whether nothing more can be sent.
    #[must_use]
    pub fn is_done(&self) -> bool {
        matches!(self.state, State::Done)
    }

    /// Reads the request's body; every request's, before it is answered, so that the connection can
    /// serve again.
    ///
    /// # Errors
    /// [`Error::BodyTooLarge`] above `limit` bytes, [`Error::BodyBroken`] when it breaks off,
    /// [`Error::BodyLate`] when it takes too long, [`Error::Busy`] when too many are held.
    pub fn read_body(&mut self, limit: usize) -> Result<Vec<u8>> {
        let mut body = Vec::new();
        let (mut lease, mut spent) = (self.lease.take(), None);
        let taken = self.take_body(limit, &mut |reader, length| {
            body.reserve(length);
            let mut reader = Counted { reader, lease: lease.as_mut(), spent: &mut spent };
            reader.read_to_end(&mut body).map(|read| read as u64)
        });
        // What was refused gives its part back at once.
        self.lease = lease.filter(|_| spent.is_none());
        match spent {
            Some(Spent::ByAll) => Err(Error::Busy),
            Some(Spent::Alone(limit)) => Err(Error::BodyTooLarge { limit }),
            None => taken.map(|()| body),
        }
    }

    /// As [`Exchange::read_body`], but hands the body on as it comes, so that it need not be held.
    ///
    /// # Errors
    /// As [`Exchange::read_body`], and never [`Error::Busy`]; `sink` is to take everything.
    pub fn copy_body(&mut self, limit: usize, mut sink: impl Write) -> Result<()> {
        self.take_body(limit, &mut |reader, _| io::copy(reader, &mut sink))
    }

    /// The length that the client claims for its body.
    #[must_use]
    pub fn claimed(&self) -> Option<usize> {
        match &self.state {
            State::Waiting(request) => request.body_length(),
            State::Streaming(_) | State::Done => None,
        }
    }

    /// As [`Exchange::read_body`], but lets `take` read it, who is told the length that the client
    /// claims and tells how much there was.
    ///
    /// # Errors
    /// As [`Exchange::read_body`].
    pub fn pass_body(
        &mut self,
        limit: usize,
        mut take: impl FnMut(&mut dyn Read, usize) -> io::Result<u64>,
    ) -> Result<()> {
        self.take_body(limit, &mut take)
    }

    /// Lets `take` read the body to its end; it is told the length that the client claims, and tells
    /// how much there was.
    fn take_body(
        &mut self,
        limit: usize,
        take: &mut dyn FnMut(&mut dyn Read, usize) -> io::Result<u64>,
    ) -> Result<()> {
        let State::Waiting(request) = &mut self.state else {
            return Err(Error::Internal("a body read after the answer"));
        };
        let length = request.body_length();
        if length.is_some_and(|length| length > limit) {
            return Err(Error::BodyTooLarge { limit });
        }
        let chunked = header(request, "Transfer-Encoding").is_some();
        let upgrade = header(request, "Connection")
            .is_some_and(|value| value.to_ascii_lowercase().contains("upgrade"));
        // One byte more than the limit tells a body at the limit from one above it.
        let most = limit as u64 + 1;
        let reader = request.as_reader();
        // tiny_http hands the bare connection over when the client offers an upgrade, which Java's
        // clients do on every first request.
        let claimed = length.unwrap_or(0);
        let in_hand = self.ticket.as_ref().map(Ticket::in_hand);
        let is_now = |phase| in_hand.iter().for_each(|request| request.is_now(phase));
        is_now(Phase::Reading);
        // A slow client must not keep a worker from others.
        let taken = worker_pool::lend(|| match (upgrade, chunked) {
            (true, true) => take(&mut chunked_transfer::Decoder::new(reader).take(most), claimed),
            (true, false) => take(&mut reader.take(claimed as u64), claimed),
            (false, _) => take(&mut reader.take(most), claimed),
        });
        is_now(Phase::Waiting);
        if in_hand.is_some_and(|request| request.was_late()) {
            return Err(Error::BodyLate);
        }
        let taken = taken.map_err(Error::BodyBroken)?;
        if taken >= most {
            return Err(Error::BodyTooLarge { limit });
        }
        match length {
            Some(length) if taken < length as u64 => {
                Err(Error::BodyBroken(io::ErrorKind::UnexpectedEof.into()))
            }
            _ => {
                is_now(Phase::Working);
                self.body_read = true;
                Ok(())
            }
        }
    }

    /// Answers with a whole body and ends.
    ///
    /// # Errors
    /// [`Error::DownstreamGone`].
    pub fn answer(&mut self, status: u16, kind: ContentType, body: &[u8]) -> Result<()> {
        self.answer_with(status, kind, &[], body)
    }

    /// Answers with extra headers, a whole body, and ends.
    ///
    /// # Errors
    /// [`Error::DownstreamGone`].
    pub fn answer_with(
        &mut self,
        status: u16,
        kind: ContentType,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Result<()> {
        self.reply(status, Body::Whole(kind, body.len()), headers, &[body])
    }

    /// Answers with a whole body that is in pieces, and ends.
    ///
    /// # Errors
    /// [`Error::DownstreamGone`].
    pub fn answer_pieces(&mut self, status: u16, kind: ContentType, body: &[&[u8]]) -> Result<()> {
        let length = body.iter().map(|piece| piece.len()).sum();
        self.reply(status, Body::Whole(kind, length), &[], body)
    }

    /// Answers with a status, without a body or a type, and ends.
    ///
    /// # Errors
    /// [`Error::DownstreamGone`].
    pub fn answer_empty(&mut self, status: u16) -> Result<()> {
        self.reply(status, Body::None, &[], &[])
    }

    fn reply(
        &mut self,
        status: u16,
        kind: Body,
        headers: &[(&str, &str)],
        body: &[&[u8]],
    ) -> Result<()> {
        if !self.body_read {
            // What follows an unread body on its connection cannot be told from it.
            self.condemn();
        }
        let mut out = self.head(status, kind, headers);
        let mut body = if self.headless { &[] } else { body };
        if coalesce::is_small(body) {
            body.iter().for_each(|piece| out.extend_from_slice(piece));
            body = &[];
        }
        let whole = (out.as_slice(), body);
        match std::mem::replace(&mut self.state, State::Done) {
            State::Waiting(request) if self.body_read => {
                self.send(request.into_writer().as_mut(), whole, Wire::Other)
            }
            State::Waiting(request) => {
                out.extend_from_slice(&body.concat());
                unread_body::refuse(request, &out, self.ticket.take());
                Ok(())
            }
            State::Streaming(_) | State::Done => Err(Error::Internal("a second answer")),
        }
    }

    /// Makes the stream that will follow one of server-sent events.
    pub fn begin_events(&mut self) {
        self.stream = Stream::Events;
    }

    /// Makes the stream that will follow an upstream's body with this head.
    pub fn begin_passed(&mut self, head: PassedHead) {
        self.stream = Stream::Passed(head);
    }

    /// Answers with an upstream's head and its whole body, and ends.
    ///
    /// # Errors
    /// [`Error::DownstreamGone`].
    pub fn answer_passed(&mut self, head: PassedHead, body: &[u8]) -> Result<()> {
        let status = head.status;
        self.stream = Stream::Passed(head);
        self.reply(status, Body::Gathered(body.len()), &[], &[body])
    }

    /// Holds a line back until [`Exchange::flush`]. The line ends in its only newline.
    pub fn line(&mut self, line: &[u8]) {
        match self.framing {
            // A frame of no length would be the last one.
            _ if line.is_empty() => {}
            Framing::Chunked => {
                frame(&mut self.pending, line);
            }
            Framing::UntilClose | Framing::AtOnce => self.pending.extend_from_slice(line),
        }
    }

    /// Writes the lines held back, in one write, the head before the first of them.
    ///
    /// # Errors
    /// [`Error::DownstreamGone`].
    pub fn flush(&mut self) -> Result<()> {
        if self.pending.is_empty() || self.framing == Framing::AtOnce {
            return Ok(());
        }
        let between = if self.framing == Framing::Chunked { Wire::Chunks } else { Wire::Other };
        self.write_pending(between)
    }

    /// Ends a stream: what is held back, then the last frame.
    ///
    /// # Errors
    /// [`Error::DownstreamGone`].
    pub fn end(&mut self) -> Result<()> {
        if self.framing == Framing::AtOnce {
            let body = std::mem::take(&mut self.pending);
            return self.reply(self.stream.status(), Body::Gathered(body.len()), &[], &[&body]);
        }
        self.end_with(b"0\r\n\r\n")
    }

    fn end_with(&mut self, last_frame: &[u8]) -> Result<()> {
        if self.framing == Framing::Chunked {
            self.pending.extend_from_slice(last_frame);
        }
        let written = self.write_pending(Wire::Other);
        self.state = State::Done;
        written
    }

    /// Tells the client of an error: with a status before the first line, in a last line after it,
    /// by a body that breaks off where it has no lines, not at all when the client is gone.
    pub fn fail(&mut self, error: &Error) {
        let Some(status) = error.status() else {
            self.state = State::Done;
            return;
        };
        let opaque = self.stream.is_opaque();
        let told = match &self.state {
            State::Done => Ok(()),
            State::Waiting(_) if self.pending.is_empty() || opaque => {
                self.pending.clear();
                self.fail_at_once(error, status)
            }
            State::Waiting(_) | State::Streaming(_) if opaque => {
                self.condemn();
                self.end_with(BROKEN_FRAME)
            }
            // Lines that are held back are part of the answer, too.
            State::Waiting(_) | State::Streaming(_) => {
                if matches!(self.stream, Stream::Passed(_)) {
                    // The last event may have come in part.
                    self.line(b"\n\n");
                }
                self.line(&self.shape.event(error, status));
                self.end()
            }
        };
        if told.is_err() {
            // A client that is gone by now cannot be told.
            self.state = State::Done;
        }
    }

    fn fail_at_once(&mut self, error: &Error, status: u16) -> Result<()> {
        // The answer is ours, whatever was to be passed on.
        self.stream = Stream::Lines;
        let text = self.shape.body(error, status, &self.request_id);
        let bare = self.shape.is_bare(error);
        let kind = if bare { ContentType::BareJson } else { ContentType::Json };
        match error {
            // The router's own answers are plain text (1.5).
            Error::UnknownRoute | Error::Malformed => {
                self.answer(status, ContentType::Plain, error.message().as_bytes())
            }
            Error::MethodNotAllowed { allow } => {
                let allow = [("Allow", *allow)];
                self.answer_with(status, ContentType::Plain, &allow, error.message().as_bytes())
            }
            Error::Unauthorized => self.answer_with(status, kind, CHALLENGES, &text),
            Error::Busy => self.answer_with(status, kind, &[("Retry-After", "1")], &text),
            Error::UpstreamStatus { retry: Retry::After(delay), .. }
            | Error::UpstreamDown { retry_in: delay, .. } => {
                let seconds = delay.as_secs_f64().ceil().to_string();
                self.answer_with(status, kind, &[("Retry-After", &seconds)], &text)
            }
            _ => self.answer(status, kind, &text),
        }
    }

    fn write_pending(&mut self, next: Wire) -> Result<()> {
        if matches!(self.state, State::Waiting(_)) {
            self.first_line = Some(Instant::now());
            let mut out = self.head(self.stream.status(), Body::Stream, &[]);
            out.append(&mut self.pending);
            self.pending = out;
        }
        let mut writer = match std::mem::replace(&mut self.state, State::Done) {
            State::Waiting(request) if self.body_read => request.into_writer(),
            State::Waiting(request) => {
                self.state = State::Waiting(request);
                return Err(Error::Internal("a stream before the body was read"));
            }
            State::Streaming(writer) => writer,
            State::Done => return Err(Error::Internal("a line after the end")),
        };
        let pending = std::mem::take(&mut self.pending);
        let sent = self.send(writer.as_mut(), (&pending, &[]), next);
        self.pending = pending;
        self.pending.clear();
        if sent.is_ok() {
            self.state = State::Streaming(writer);
        }
        sent
    }
}

/// A request's header.
fn header<'a>(request: &'a Request, name: &'static str) -> Option<&'a str> {
    let mut headers = request.headers().iter();
    headers.find(|header| header.field.equiv(name)).map(|header| header.value.as_str())
}
