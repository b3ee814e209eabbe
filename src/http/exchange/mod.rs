//! One downstream request and its response.
//!
//! ```text
//!             push_line() buffers a line      push_line(), flush()
//!   Waiting --------- flush() -----------> Streaming ------+
//!      |  respond(), fail(): status        |   ^-----------+
//!      |  and JSON                         |  end(): last chunk
//!      |                                   |  fail(): error line, last chunk
//!      +---------------> Done <------------+
//!                         ^--- any write error: the client is gone
//! ```
//!
//! Writes heads and chunks itself, because tiny_http's responses buffer 8 KiB. A line may also be an
//! event, or a piece of a body that is passed through; several lines share one write, each as a chunk
//! of its own. Never knows what a line means. Invariant: an exchange ends exactly once, and its head
//! is written with the first line, so that an error before that gets a real status.

mod content;
mod failure;
mod frame;
mod head;
mod request_body;
mod request_head;

use std::io::Write;
use std::mem;
use std::sync::Arc;
use std::time::Instant;

pub use tiny_http::Request as IncomingRequest;
use tiny_http::{HTTPVersion, Request};

pub use self::content::ContentType;
use self::content::StreamFormat;
use self::frame::append_frame;
use self::head::BodyKind;
pub use self::request_body::{BudgetedReader, UNLIMITED};
pub use self::request_head::{ConnectionHeader, RequestHead};
use crate::api::openai::pass_head::PassHead;
use crate::error::{Error, Result};
use crate::http::cors::ResponseHeaders;
use crate::http::error_format::ErrorFormat;
use crate::http::unread_body;
use crate::net::cancel::CancellationToken;
use crate::net::connection_guard::{RequestHandle, RequestPhase, ResponseState};
use crate::net::key_limits::KeyUse;
use crate::net::memory_budget::{self, MemoryBudget, Reservation};

/// Bodies below this size are written together with their head; copying more costs more than a
/// second write.
const MAX_JOINED_BODY: usize = 64 * 1024;

/// The response to a request that was dropped, after a panic on the way to its handler.
const LAST_RESORT: &[u8] =
    b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";

/// A request and the state of its response.
pub struct Exchange {
    state: State,
    request_id: String,
    method: String,
    target: String,
    framing: Framing,
    error_format: ErrorFormat,
    stream_format: StreamFormat,
    /// The connection closes after the response.
    close_after: bool,
    /// A page of the proxy itself sent the request.
    is_from_own_page: bool,
    /// Headers that the response gets, be it a stream, a body or an error.
    extra_headers: ResponseHeaders,
    /// The name of the upstream that the response comes from.
    upstream: Option<Arc<str>>,
    /// Chunks that are not written yet.
    pending: Vec<u8>,
    status: Option<u16>,
    /// Bytes of the response's body so far.
    body_bytes: u64,
    /// Whether a line was buffered that is no filler.
    has_line: bool,
    /// When the first line of a stream was written.
    first_line_at: Option<Instant>,
    is_body_read: bool,
    /// Whether the client ended its connection before the body was complete.
    is_body_cut_off: bool,
    /// The request's entry at the connection guard.
    handle: Option<RequestHandle>,
    /// What the body, and what is made of it, may take of the memory budget, until the response begins.
    reservation: Option<Reservation>,
    /// The same for lines that wait for the end of the response.
    pending_reservation: Option<Reservation>,
    /// The request's place among those of its client key.
    key_use: Option<Arc<KeyUse>>,
    /// Lines that were pushed, or the events in what was passed on.
    events: u64,
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
    /// HTTP/1.0: the response ends with the connection.
    UntilClose,
    /// HTTP/1.0 with keep-alive, where neither is possible: all lines at once, with their length.
    Buffered,
}

impl Exchange {
    /// An exchange that has not responded yet.
    pub fn new(
        request: IncomingRequest,
        request_id: String,
        error_format: ErrorFormat,
        reservation: Reservation,
        connection: ConnectionHeader,
    ) -> Self {
        let is_http10 = *request.http_version() < HTTPVersion(1, 1);
        let ConnectionHeader { keep_alive, close } = connection;
        Self {
            request_id,
            method: request.method().as_str().to_owned(),
            target: request.url().to_owned(),
            error_format,
            stream_format: StreamFormat::Lines,
            framing: match (is_http10, keep_alive) {
                (false, _) => Framing::Chunked,
                (true, false) => Framing::UntilClose,
                (true, true) => Framing::Buffered,
            },
            close_after: close || (is_http10 && !keep_alive),
            is_from_own_page: false,
            extra_headers: ResponseHeaders::new(),
            upstream: None,
            pending: Vec::new(),
            status: None,
            body_bytes: 0,
            has_line: false,
            first_line_at: None,
            is_body_read: unread_body::is_fully_read(&request),
            is_body_cut_off: false,
            state: State::Waiting(request),
            handle: None,
            reservation: Some(reservation),
            pending_reservation: None,
            key_use: None,
            events: 0,
        }
    }

    /// Gives the place of the request among those of its client key back with the end of the response:
    /// before the client can know that it ended.
    pub fn set_key_use(&mut self, key_use: Option<Arc<KeyUse>>) {
        self.key_use = key_use;
    }

    /// The request's place among those of its client key, if that is counted.
    pub fn key_use(&self) -> Option<&Arc<KeyUse>> {
        self.key_use.as_ref()
    }

    /// How many lines or events the response has so far.
    pub fn events(&self) -> u64 {
        self.events
    }

    /// Tells how many events are in what was passed on.
    pub fn set_events(&mut self, events: u64) {
        self.events = events;
    }

    /// Reports the progress of the exchange to the connection guard.
    pub fn attach(&mut self, handle: RequestHandle) {
        if self.is_body_read {
            handle.in_flight().set_phase(RequestPhase::Working);
        }
        self.handle = Some(handle);
    }

    /// Tells that the client has disconnected; `None` on a connection without a guard.
    pub fn cancel_token(&self) -> Option<Arc<CancellationToken>> {
        self.handle.as_ref().map(|handle| handle.cancellation().clone())
    }

    /// Makes the response the last one on its connection.
    pub fn close_after_response(&mut self) {
        self.close_after = true;
        if let Some(handle) = &self.handle {
            handle.close_after_response();
        }
    }

    /// Ends without a response, on a connection that had its last one.
    pub fn discard(mut self) {
        self.abandon();
    }

    /// Sends nothing more.
    fn abandon(&mut self) {
        if let State::Waiting(request) = mem::replace(&mut self.state, State::Done) {
            unread_body::discard(request, self.is_body_read, self.handle.take());
        }
    }

    /// The budget that the request's memory is counted against.
    pub fn memory_budget(&self) -> Option<Arc<MemoryBudget>> {
        self.reservation.as_ref()?.budget().cloned()
    }

    /// The method as it stands in the request line.
    pub fn method(&self) -> &str {
        &self.method
    }

    /// Path and query as they stand in the request line.
    pub fn target(&self) -> &str {
        &self.target
    }

    /// A header of the request; `None` also once the response has begun.
    pub fn header(&self, name: &'static str) -> Option<&str> {
        self.request().and_then(|request| find_header(request, name))
    }

    /// Tells errors in the format of another protocol than the path is for.
    pub fn set_error_format(&mut self, format: ErrorFormat) {
        self.error_format = format;
    }

    /// Says whether a page of the proxy itself sent the request: its browser must not ask for a password.
    pub fn set_from_own_page(&mut self, is_from_own_page: bool) {
        self.is_from_own_page = is_from_own_page;
    }

    /// Adds headers to the response, be it a stream or an error.
    pub fn add_headers(&mut self, headers: ResponseHeaders) {
        self.extra_headers.extend(headers);
    }

    /// Names the upstream that the response comes from, in its head.
    pub fn set_upstream(&mut self, name: Option<Arc<str>>) {
        self.upstream = name;
    }

    /// `req_` and 8 hex digits.
    pub fn request_id(&self) -> &str {
        &self.request_id
    }

    /// The status of the response, if its head was built.
    pub fn status(&self) -> Option<u16> {
        self.status
    }

    /// Bytes of the response's body, without their framing.
    pub fn body_bytes(&self) -> u64 {
        self.body_bytes
    }

    /// When the first line of a stream was written, if one was.
    pub fn first_line_at(&self) -> Option<Instant> {
        self.first_line_at
    }

    /// Whether the client ended its connection before the request's body was complete.
    pub fn is_body_cut_off(&self) -> bool {
        self.is_body_cut_off
    }

    /// Whether nothing more can be sent.
    pub fn is_done(&self) -> bool {
        matches!(self.state, State::Done)
    }

    /// Sends a complete response.
    ///
    /// # Errors
    /// [`Error::ClientDisconnected`].
    pub fn respond(&mut self, status: u16, kind: ContentType, body: &[u8]) -> Result<()> {
        self.respond_with_headers(status, kind, &[], body)
    }

    /// Like [`Exchange::respond`], with additional headers.
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
        self.send_response(status, BodyKind::Full(kind, body.len()), headers, body)
    }

    /// Sends a complete response without a body.
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
        body: &[u8],
    ) -> Result<()> {
        if !self.is_body_read {
            // What follows on the connection is the rest of the body, not a request.
            self.close_after_response();
        }
        let mut out = self.build_head(status, kind, headers);
        let body = if self.method == "HEAD" { &[] } else { body };
        self.body_bytes = body.len() as u64;
        let State::Waiting(request) = mem::replace(&mut self.state, State::Done) else {
            return Err(Error::Internal("second response to one request"));
        };
        let is_separate = self.is_body_read && body.len() >= MAX_JOINED_BODY;
        let (joined, body) = if is_separate { (&[][..], body) } else { (body, &[][..]) };
        out.extend_from_slice(joined);
        if !self.is_body_read {
            unread_body::reject(request, &out, self.handle.take());
            return Ok(());
        }
        self.write(request.into_writer().as_mut(), [&out, body], ResponseState::Other)
    }

    /// Makes the lines that follow server-sent events. Nothing is written yet.
    pub fn start_events(&mut self) {
        self.stream_format = StreamFormat::Events;
    }

    /// Makes the lines that follow an upstream's body with this head. Nothing is written yet.
    pub fn start_passthrough(&mut self, head: PassHead) {
        self.stream_format = StreamFormat::Passthrough(head);
    }

    /// Sends a complete response of the kind that was started.
    ///
    /// # Errors
    /// [`Error::ClientDisconnected`].
    pub fn respond_started(&mut self, body: &[u8]) -> Result<()> {
        let kind = BodyKind::Buffered(body.len());
        self.send_response(self.stream_format.status(), kind, &[], body)
    }

    /// Buffers a line until [`Exchange::flush`]. The line ends in its only newline.
    pub fn push_line(&mut self, line: &[u8]) {
        self.has_line |= !line.is_empty();
        self.events += 1;
        self.push_filler(line);
    }

    /// Buffers what a stream begins with, or what only shows that it is alive: it does not count as its
    /// first line.
    pub fn push_filler(&mut self, line: &[u8]) {
        self.body_bytes += line.len() as u64;
        match self.framing {
            // An empty chunk would end the response.
            _ if line.is_empty() => {}
            Framing::Chunked => append_frame(&mut self.pending, line),
            Framing::UntilClose | Framing::Buffered => self.pending.extend_from_slice(line),
        }
    }

    /// Whether the client gets what is flushed at once, and not only when the response is complete.
    pub fn sends_at_once(&self) -> bool {
        self.framing != Framing::Buffered
    }

    /// Whether lines are buffered that [`Exchange::flush`] would write.
    pub fn has_unsent(&self) -> bool {
        !self.pending.is_empty()
    }

    /// Bytes that [`Exchange::flush`] would write.
    pub fn unsent_bytes(&self) -> usize {
        self.pending.len()
    }

    /// Whether a part of a stream was sent or is about to be, so that no status can tell of an error.
    pub fn has_begun(&self) -> bool {
        matches!(self.state, State::Streaming(_)) || self.has_unsent()
    }

    /// Writes all buffered lines in one write, with the head before the first.
    ///
    /// # Errors
    /// [`Error::ClientDisconnected`]; [`Error::ResponseTooLarge`] if the lines have to wait for the end, and
    /// the memory budget has no room for them.
    pub fn flush(&mut self) -> Result<()> {
        match self.framing {
            _ if self.pending.is_empty() => Ok(()),
            Framing::Buffered => {
                let reservation =
                    self.pending_reservation.get_or_insert_with(memory_budget::reserve);
                reservation.cover(self.pending.len())
            }
            Framing::Chunked => self.write_pending(ResponseState::BetweenChunks),
            Framing::UntilClose => self.write_pending(ResponseState::Other),
        }
    }

    /// Ends a stream: writes buffered lines and the last chunk.
    ///
    /// # Errors
    /// [`Error::ClientDisconnected`].
    pub fn end(&mut self) -> Result<()> {
        if self.framing == Framing::Buffered {
            let body = mem::take(&mut self.pending);
            return self.respond_started(&body);
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

    fn write_pending(&mut self, next: ResponseState) -> Result<()> {
        if self.has_line && self.first_line_at.is_none() {
            self.first_line_at = Some(Instant::now());
        }
        if matches!(self.state, State::Waiting(_)) {
            let mut out = self.build_head(self.stream_format.status(), BodyKind::Stream, &[]);
            out.append(&mut self.pending);
            self.pending = out;
        }
        let mut writer = match mem::replace(&mut self.state, State::Done) {
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
        let pending = mem::take(&mut self.pending);
        let sent = self.write(writer.as_mut(), [&pending, &[]], next);
        self.pending = pending;
        self.pending.clear();
        if sent.is_ok() {
            self.state = State::Streaming(writer);
        }
        sent
    }

    /// Writes `first` in one write, and `rest` in another one if there is any. Afterwards the
    /// response is in the state `next`.
    fn write(
        &mut self,
        writer: &mut dyn Write,
        [first, rest]: [&[u8]; 2],
        next: ResponseState,
    ) -> Result<()> {
        // The guard may have sent the first byte already, to see whether the client is there.
        let mut write = |already_sent: usize| {
            writer.write_all(&first[already_sent..])?;
            writer.write_all(rest)?;
            writer.flush()
        };
        if next == ResponseState::Other
            && self.framing != Framing::UntilClose
            && let Some(key_use) = &self.key_use
        {
            key_use.count_events(self.events);
            key_use.end();
        }
        let written = match &mut self.handle {
            Some(handle) => {
                if next == ResponseState::Other {
                    handle.release_client_slot();
                }
                handle.in_flight().write_response(next, write)
            }
            None => write(0),
        };
        written.map_err(|_| Error::ClientDisconnected)
    }

    /// The request; `None` once the response has begun.
    fn request(&self) -> Option<&Request> {
        match &self.state {
            State::Waiting(request) => Some(request),
            State::Streaming(_) | State::Done => None,
        }
    }
}

impl Drop for Exchange {
    /// Answers a request that nobody has answered. One with an unread body must not be dropped as it is.
    fn drop(&mut self) {
        if let State::Waiting(request) = mem::replace(&mut self.state, State::Done) {
            if self.is_body_read {
                // Nothing is left to do for a client that is gone.
                let mut writer = request.into_writer();
                let _ = self.write(writer.as_mut(), [LAST_RESORT, &[]], ResponseState::Other);
            } else {
                unread_body::reject(request, LAST_RESORT, self.handle.take());
            }
        }
    }
}

fn find_header<'a>(request: &'a Request, name: &'static str) -> Option<&'a str> {
    let mut headers = request.headers().iter();
    headers.find(|header| header.field.equiv(name)).map(|header| header.value.as_str())
}
