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

pub use tiny_http::Request as IncomingRequest;
use tiny_http::{HTTPVersion, Method, Request};

use self::budgeted_reader::BudgetedReader;
pub use self::content::ContentType;
use self::content::StreamFormat;
use self::frame::append_frame;
use self::head::BodyKind;
use crate::api::openai::pass_head::PassHead;
use crate::error::{Error, Result, Retry};
use crate::http::cors::ResponseHeaders;
use crate::http::error_format::{AUTH_CHALLENGES, ErrorFormat};
use crate::http::{framing, unread_body};
use crate::net::cancel::CancellationToken;
use crate::net::connection_guard::{RequestHandle, RequestPhase, ResponseState};
use crate::net::limits::{BudgetExceeded, Reservation};
use crate::net::worker_pool;

/// What stands in the place of a frame where a body breaks off. tiny_http leaves the connection open
/// when a writer is dropped, so that a client would wait for ever; at what is no frame its reader
/// fails at once, and never takes the part for the whole.
const INVALID_FRAME: &[u8] =
    b"the upstream closed the connection before its response was complete\r\n";

/// A request and where it stands.
pub struct Exchange {
    state: State,
    request_id: String,
    method: String,
    target: String,
    /// HEAD: heads as for GET, and no bodies.
    is_head_request: bool,
    framing: Framing,
    /// What errors look like.
    error_format: ErrorFormat,
    stream_format: StreamFormat,
    /// The client, or the protocol's version, wants the connection closed afterwards.
    close_after: bool,
    /// Header lines of whatever answer there will be.
    extra_headers: ResponseHeaders,
    /// Lines that are not written yet.
    pending: Vec<u8>,
    status: Option<u16>,
    /// When the first line of a stream was written.
    first_line_at: Option<Instant>,
    is_body_read: bool,
    /// Its entry with those who watch over its connection.
    handle: Option<RequestHandle>,
    /// What its body counts for as long as it is held.
    reservation: Option<Reservation>,
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
    Buffered,
}

impl Exchange {
    /// Takes a request over; its errors have the given format.
    #[must_use]
    pub fn new(request: IncomingRequest, request_id: String, error_format: ErrorFormat) -> Self {
        let connection =
            find_header(&request, "Connection").unwrap_or_default().to_ascii_lowercase();
        let is_http10 = *request.http_version() < HTTPVersion(1, 1);
        let keep_alive = connection.contains("keep-alive");
        Self {
            request_id,
            method: request.method().as_str().to_owned(),
            target: request.url().to_owned(),
            error_format,
            stream_format: StreamFormat::Lines,
            is_head_request: *request.method() == Method::Head,
            framing: match (is_http10, keep_alive) {
                (false, _) => Framing::Chunked,
                (true, false) => Framing::UntilClose,
                (true, true) => Framing::Buffered,
            },
            close_after: connection.contains("close")
                || connection.contains("upgrade")
                || (is_http10 && !keep_alive),
            extra_headers: ResponseHeaders::new(),
            pending: Vec::new(),
            status: None,
            first_line_at: None,
            is_body_read: unread_body::is_fully_read(&request),
            state: State::Waiting(request),
            handle: None,
            reservation: None,
        }
    }

    /// Lets the memory of its body count with that of all others, until the answer begins.
    pub fn set_reservation(&mut self, reservation: Reservation) {
        self.reservation = Some(reservation);
    }

    /// Lets those who watch over its connection know how far it is.
    pub fn attach(&mut self, handle: RequestHandle) {
        if self.is_body_read {
            handle.in_flight().set_phase(RequestPhase::Working);
        }
        self.handle = Some(handle);
    }

    /// The sign that the client has left, where anybody can tell.
    #[must_use]
    pub fn cancel_token(&self) -> Option<Arc<CancellationToken>> {
        self.handle.as_ref().map(|ticket| ticket.cancellation().clone())
    }

    /// Makes its answer the last one on its connection: what follows on it is not to be trusted.
    pub fn close_after_response(&mut self) {
        self.close_after = true;
        if let Some(ticket) = &self.handle {
            ticket.close_after_response();
        }
    }

    /// Ends without an answer, on a connection that had its last one.
    pub fn discard(mut self) {
        if let State::Waiting(request) = std::mem::replace(&mut self.state, State::Done) {
            unread_body::discard(request, self.is_body_read, self.handle.take());
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
            State::Waiting(request) => find_header(request, name),
            State::Streaming(_) | State::Done => None,
        }
    }

    /// Sends these headers with whatever answer there will be, a stream or an error included.
    pub fn add_headers(&mut self, headers: ResponseHeaders) {
        self.extra_headers.extend(headers);
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
    pub fn first_line_at(&self) -> Option<Instant> {
        self.first_line_at
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
    /// [`Error::BodyTooLarge`] above `limit` bytes, [`Error::BodyReadFailed`] when it breaks off,
    /// [`Error::BodyTimeout`] when it takes too long, [`Error::Busy`] when too many are held.
    pub fn read_body(&mut self, limit: usize) -> Result<Vec<u8>> {
        let mut body = Vec::new();
        let (mut reservation, mut exceeded) = (self.reservation.take(), None);
        let taken = self.read_body_dyn(limit, &mut |reader, length| {
            body.reserve(length);
            let mut reader = BudgetedReader {
                reader,
                reservation: reservation.as_mut(),
                exceeded: &mut exceeded,
            };
            reader.read_to_end(&mut body).map(|read| read as u64)
        });
        // What was refused gives its part back at once.
        self.reservation = reservation.filter(|_| exceeded.is_none());
        match exceeded {
            Some(BudgetExceeded::Exhausted) => Err(Error::Busy),
            Some(BudgetExceeded::TooLarge(limit)) => Err(Error::BodyTooLarge { limit }),
            None => taken.map(|()| body),
        }
    }

    /// As [`Exchange::read_body`], but hands the body on as it comes, so that it need not be held.
    ///
    /// # Errors
    /// As [`Exchange::read_body`], and never [`Error::Busy`]; `sink` is to take everything.
    pub fn copy_body(&mut self, limit: usize, mut sink: impl Write) -> Result<()> {
        self.read_body_dyn(limit, &mut |reader, _| io::copy(reader, &mut sink))
    }

    /// The length that the client claims for its body.
    #[must_use]
    pub fn content_length(&self) -> Option<usize> {
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
    pub fn read_body_with(
        &mut self,
        limit: usize,
        mut take: impl FnMut(&mut dyn Read, usize) -> io::Result<u64>,
    ) -> Result<()> {
        self.read_body_dyn(limit, &mut take)
    }

    /// Lets `take` read the body to its end; it is told the length that the client claims, and tells
    /// how much there was.
    fn read_body_dyn(
        &mut self,
        limit: usize,
        take: &mut dyn FnMut(&mut dyn Read, usize) -> io::Result<u64>,
    ) -> Result<()> {
        let State::Waiting(request) = &mut self.state else {
            return Err(Error::Internal("request body read after the response"));
        };
        let length = request.body_length();
        if length.is_some_and(|length| length > limit) {
            return Err(Error::BodyTooLarge { limit });
        }
        let chunked = find_header(request, "Transfer-Encoding").is_some();
        let upgrade = find_header(request, "Connection")
            .is_some_and(|value| value.to_ascii_lowercase().contains("upgrade"));
        // One byte more than the limit tells a body at the limit from one above it.
        let most = limit as u64 + 1;
        let reader = request.as_reader();
        // tiny_http hands the bare connection over when the client offers an upgrade, which Java's
        // clients do on every first request.
        let content_length = length.unwrap_or(0);
        let in_hand = self.handle.as_ref().map(RequestHandle::in_flight);
        let is_now = |phase| in_hand.iter().for_each(|request| request.set_phase(phase));
        is_now(RequestPhase::Reading);
        // A slow client must not keep a worker from others.
        let taken = worker_pool::yield_slot(|| match (upgrade, chunked) {
            (true, true) => {
                take(&mut chunked_transfer::Decoder::new(reader).take(most), content_length)
            }
            (true, false) => take(&mut reader.take(content_length as u64), content_length),
            (false, _) => take(&mut reader.take(most), content_length),
        });
        is_now(RequestPhase::Waiting);
        if in_hand.is_some_and(|request| request.is_body_late()) {
            return Err(Error::BodyTimeout);
        }
        let taken = taken.map_err(Error::BodyReadFailed)?;
        if taken >= most {
            return Err(Error::BodyTooLarge { limit });
        }
        match length {
            Some(length) if taken < length as u64 => {
                Err(Error::BodyReadFailed(io::ErrorKind::UnexpectedEof.into()))
            }
            _ => {
                is_now(RequestPhase::Working);
                self.is_body_read = true;
                Ok(())
            }
        }
    }

    /// Answers with a whole body and ends.
    ///
    /// # Errors
    /// [`Error::ClientDisconnected`].
    pub fn respond(&mut self, status: u16, kind: ContentType, body: &[u8]) -> Result<()> {
        self.respond_with_headers(status, kind, &[], body)
    }

    /// Answers with extra headers, a whole body, and ends.
    ///
    /// # Errors
    /// [`Error::ClientDisconnected`].
    pub fn respond_with_headers(
        &mut self,
        status: u16,
        kind: ContentType,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Result<()> {
        self.send_response(status, BodyKind::Full(kind, body.len()), headers, &[body])
    }

    /// Answers with a status, without a body or a type, and ends.
    ///
    /// # Errors
    /// [`Error::ClientDisconnected`].
    pub fn respond_empty(&mut self, status: u16) -> Result<()> {
        self.send_response(status, BodyKind::Empty, &[], &[])
    }

    fn send_response(
        &mut self,
        status: u16,
        kind: BodyKind,
        headers: &[(&str, &str)],
        body: &[&[u8]],
    ) -> Result<()> {
        if !self.is_body_read {
            // What follows an unread body on its connection cannot be told from it.
            self.close_after_response();
        }
        let mut out = self.build_head(status, kind, headers);
        let mut body = if self.is_head_request { &[] } else { body };
        if coalesce::fits_one_write(body) {
            body.iter().for_each(|piece| out.extend_from_slice(piece));
            body = &[];
        }
        let whole = (out.as_slice(), body);
        match std::mem::replace(&mut self.state, State::Done) {
            State::Waiting(request) if self.is_body_read => {
                self.send_pieces(request.into_writer().as_mut(), whole, ResponseState::Other)
            }
            State::Waiting(request) => {
                out.extend_from_slice(&body.concat());
                unread_body::reject(request, &out, self.handle.take());
                Ok(())
            }
            State::Streaming(_) | State::Done => {
                Err(Error::Internal("second response to one request"))
            }
        }
    }

    /// Makes the stream that will follow one of server-sent events.
    pub fn start_events(&mut self) {
        self.stream_format = StreamFormat::Events;
    }

    /// Makes the stream that will follow an upstream's body with this head.
    pub fn start_passthrough(&mut self, head: PassHead) {
        self.stream_format = StreamFormat::Passthrough(head);
    }

    /// Answers with an upstream's head and its whole body, and ends.
    ///
    /// # Errors
    /// [`Error::ClientDisconnected`].
    pub fn respond_passthrough(&mut self, head: PassHead, body: &[u8]) -> Result<()> {
        let status = head.status;
        self.stream_format = StreamFormat::Passthrough(head);
        self.send_response(status, BodyKind::Buffered(body.len()), &[], &[body])
    }

    /// Holds a line back until [`Exchange::flush`]. The line ends in its only newline.
    pub fn push_line(&mut self, line: &[u8]) {
        match self.framing {
            // A frame of no length would be the last one.
            _ if line.is_empty() => {}
            Framing::Chunked => {
                append_frame(&mut self.pending, line);
            }
            Framing::UntilClose | Framing::Buffered => self.pending.extend_from_slice(line),
        }
    }

    /// Writes the lines held back, in one write, the head before the first of them.
    ///
    /// # Errors
    /// [`Error::ClientDisconnected`].
    pub fn flush(&mut self) -> Result<()> {
        if self.pending.is_empty() || self.framing == Framing::Buffered {
            return Ok(());
        }
        let next = if self.framing == Framing::Chunked {
            ResponseState::BetweenChunks
        } else {
            ResponseState::Other
        };
        self.write_pending(next)
    }

    /// Ends a stream: what is held back, then the last frame.
    ///
    /// # Errors
    /// [`Error::ClientDisconnected`].
    pub fn end(&mut self) -> Result<()> {
        if self.framing == Framing::Buffered {
            let body = std::mem::take(&mut self.pending);
            return self.send_response(
                self.stream_format.status(),
                BodyKind::Buffered(body.len()),
                &[],
                &[&body],
            );
        }
        self.end_with_frame(b"0\r\n\r\n")
    }

    fn end_with_frame(&mut self, last_frame: &[u8]) -> Result<()> {
        if self.framing == Framing::Chunked {
            self.pending.extend_from_slice(last_frame);
        }
        let written = self.write_pending(ResponseState::Other);
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
        let opaque = self.stream_format.is_opaque();
        let sent = match &self.state {
            State::Done => Ok(()),
            State::Waiting(_) if self.pending.is_empty() || opaque => {
                self.pending.clear();
                self.respond_with_error(error, status)
            }
            State::Waiting(_) | State::Streaming(_) if opaque => {
                self.close_after_response();
                self.end_with_frame(INVALID_FRAME)
            }
            // Lines that are held back are part of the answer, too.
            State::Waiting(_) | State::Streaming(_) => {
                if matches!(self.stream_format, StreamFormat::Passthrough(_)) {
                    // The last event may have come in part.
                    self.push_line(b"\n\n");
                }
                self.push_line(&self.error_format.event(error, status));
                self.end()
            }
        };
        if sent.is_err() {
            // A client that is gone by now cannot be told.
            self.state = State::Done;
        }
    }

    fn respond_with_error(&mut self, error: &Error, status: u16) -> Result<()> {
        // The answer is ours, whatever was to be passed on.
        self.stream_format = StreamFormat::Lines;
        let text = self.error_format.body(error, status, &self.request_id);
        let bare = self.error_format.has_bare_json(error);
        let kind = if bare { ContentType::BareJson } else { ContentType::Json };
        match error {
            // The router's own answers are plain text (1.5).
            Error::UnknownRoute | Error::MalformedHead => {
                self.respond(status, ContentType::Plain, error.message().as_bytes())
            }
            Error::MethodNotAllowed { allow } => {
                let allow = [("Allow", *allow)];
                self.respond_with_headers(
                    status,
                    ContentType::Plain,
                    &allow,
                    error.message().as_bytes(),
                )
            }
            Error::Unauthorized => self.respond_with_headers(status, kind, AUTH_CHALLENGES, &text),
            Error::Busy => self.respond_with_headers(status, kind, &[("Retry-After", "1")], &text),
            Error::UpstreamStatus { retry: Retry::After(delay), .. }
            | Error::UpstreamDown { retry_after: delay, .. } => {
                let seconds = delay.as_secs_f64().ceil().to_string();
                self.respond_with_headers(status, kind, &[("Retry-After", &seconds)], &text)
            }
            _ => self.respond(status, kind, &text),
        }
    }

    fn write_pending(&mut self, next: ResponseState) -> Result<()> {
        if matches!(self.state, State::Waiting(_)) {
            self.first_line_at = Some(Instant::now());
            let mut out = self.build_head(self.stream_format.status(), BodyKind::Stream, &[]);
            out.append(&mut self.pending);
            self.pending = out;
        }
        let mut writer = match std::mem::replace(&mut self.state, State::Done) {
            State::Waiting(request) if self.is_body_read => request.into_writer(),
            State::Waiting(request) => {
                self.state = State::Waiting(request);
                return Err(Error::Internal("stream started before the request body was read"));
            }
            State::Streaming(writer) => writer,
            State::Done => {
                return Err(Error::Internal("line written after the end of the response"));
            }
        };
        let pending = std::mem::take(&mut self.pending);
        let sent = self.send_pieces(writer.as_mut(), (&pending, &[]), next);
        self.pending = pending;
        self.pending.clear();
        if sent.is_ok() {
            self.state = State::Streaming(writer);
        }
        sent
    }
}

/// What is wrong with a request's head; `None` when nothing is.
#[must_use]
pub fn check_head(request: &IncomingRequest) -> Option<&'static str> {
    let headers = request.headers().iter();
    framing::check_head(
        request.method().as_str(),
        request.url(),
        *request.http_version() < HTTPVersion(1, 1),
        headers.map(|header| (header.field.as_str().as_str(), header.value.as_str())),
    )
}

/// A request's header.
fn find_header<'a>(request: &'a Request, name: &'static str) -> Option<&'a str> {
    let mut headers = request.headers().iter();
    headers.find(|header| header.field.equiv(name)).map(|header| header.value.as_str())
}
