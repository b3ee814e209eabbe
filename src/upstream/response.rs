//! The body of an upstream's response: whole, event by event, or as its bytes arrive.
//!
//! Everything that has arrived is passed on at once, and nothing is waited for while something can be.
//! Never interprets an event. Invariant: dropping a body closes the upstream's connection, which is how
//! a response is cancelled; only [`EventStream::drain`] keeps the connection.

use std::io::Read;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ureq::http::Response;
use ureq::{Body, BodyReader};

use super::condition::count_failure;
use super::operation::MAX_RESPONSE_BYTES;
use super::transport::agent::header;
use super::transport::errors::check_cancelled;
use super::transport::read_deadline::{ReadDeadline, fill_available};
use super::transport::workarounds::with_read_timeout;
use super::{Operation, in_band};
use crate::api::openai::chunk::Chunk;
use crate::api::wire::json_cost;
use crate::api::wire::sse::{Decoder, Event};
use crate::error::{Error, Result};
use crate::net::memory_budget::{self, Reservation};
use crate::observe::body_log::BodyLogger;
use crate::observe::metrics::UpstreamMetrics;
use crate::translate::responses_upstream::chunks::EventMapper;

/// Bytes that are waited for: one event of most servers. A thousand threads may wait, each with a
/// buffer of this size on its stack.
const FIRST_READ_BYTES: usize = 512;

/// Bytes that one read takes of what has arrived besides.
const READ_BUFFER_BYTES: usize = 4 * 1024;

/// Bytes after which events are passed on, although more bytes may have arrived.
const MAX_BATCH_BYTES: usize = 64 * 1024;

/// How often an event is in memory while it is translated: as it came, parsed, as the client gets it, and once
/// more where it was read in advance.
const EVENT_COPIES: usize = 5;

/// The same for what is held until a response is whole.
const HELD_COPIES: usize = 4;

/// Bytes of an event that are not held: members that are the same in all events.
const CHUNK_FRAME_BYTES: usize = 160;

/// Bytes that are held of any event.
const CHUNK_BYTES: usize = 16;

/// Events that add nothing, behind which an error is still the first event.
const MAX_HELD_EVENTS: usize = 4;

/// How long, and for how many bytes, the end of a finished stream is waited for, so that its
/// connection can serve again.
const DRAIN_TIMEOUT: Duration = Duration::from_millis(50);
const MAX_DRAIN_BYTES: usize = 16 * 1024;

/// A response with a good status.
pub enum UpstreamResponse {
    /// A whole body, as text.
    Whole(String),
    /// A stream of events.
    Stream(Box<EventStream>),
}

impl UpstreamResponse {
    /// Decides by the content type, because some servers stream unasked and some do not when asked;
    /// where the type says nothing, by what was asked for.
    pub(super) fn from_response(
        response: Response<Body>,
        operation: Operation,
        (timeout, logger): (Duration, Option<BodyLogger>),
        metrics: &Arc<UpstreamMetrics>,
    ) -> Result<Self> {
        let kind = header(response.headers(), "content-type").unwrap_or_default();
        let kind = kind.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
        let is_stream = match kind.as_str() {
            "text/html" => {
                let what = "an HTML page instead of JSON (is the base URL right?)";
                return Err(Error::upstream_protocol(what));
            }
            "text/event-stream" | "application/x-ndjson" => true,
            "application/json" => false,
            _ => operation.stream,
        };
        let mut mapper = operation.event_mapper.map(|make| make());
        if is_stream {
            let body = StreamedBody::new(response.into_body(), timeout, metrics.clone());
            return Ok(Self::Stream(Box::new(EventStream::new(body, mapper, logger))));
        }
        let text = read_whole(response.into_body(), timeout, operation.max_response_bytes())?;
        // Vectors are copied without being parsed.
        let is_parsed = operation.path != Operation::EMBEDDING.path;
        let parsed = if is_parsed { json_cost::parsed_bytes(text.as_bytes()) } else { text.len() };
        memory_budget::hold(parsed + text.len())?;
        if let Some(logger) = logger {
            logger.log("upstream response", text.as_bytes());
        }
        Ok(Self::Whole(mapper.as_mut().and_then(|map| map(&text)).unwrap_or(text)))
    }

    /// Notes that the upstream has a time limit of its own.
    pub(super) fn mark_own_limit(&mut self) {
        if let Self::Stream(events) = self {
            events.body.has_own_limit = true;
        }
    }

    /// The body of a response that cannot be a stream.
    pub(super) fn into_text(self) -> Result<String> {
        match self {
            Self::Whole(text) => Ok(text),
            Self::Stream(_) => Err(Error::upstream_protocol("an event stream instead of JSON")),
        }
    }
}

/// True for a chunk of which no client gets anything, such as one with a role only.
fn is_blank_chunk(data: &[u8]) -> bool {
    let text = str::from_utf8(data).unwrap_or_default();
    text.trim().is_empty() || Chunk::parse(text).is_ok_and(|chunk| chunk.is_blank())
}

fn too_large_error(limit: u64) -> Error {
    Error::upstream_protocol(match limit {
        MAX_RESPONSE_BYTES => "a response above 256 MiB",
        _ => "a list above 16 MiB",
    })
}

fn read_whole(body: Body, timeout: Duration, limit: u64) -> Result<String> {
    // Before what it counts, so that it is dropped behind it.
    let mut held = memory_budget::reserve();
    let mut bytes = Vec::new();
    let bounds = (limit + 1, body.content_length());
    let mut reserve = |bytes| held.cover(bytes);
    let (mut deadline, mut reader) = (ReadDeadline::new(timeout), body.into_reader());
    deadline.read_to_end(&mut reader, bounds, &mut bytes, &mut reserve)?;
    held.hold();
    check_cancelled()?;
    if bytes.len() as u64 > limit {
        return Err(too_large_error(limit));
    }
    Ok(match String::from_utf8(bytes) {
        Ok(text) => text,
        Err(error) => String::from_utf8_lossy(error.as_bytes()).into_owned(),
    })
}

/// A body that is read as it arrives. It counts as an open stream as long as it lives.
pub(super) struct StreamedBody {
    reader: BodyReader<'static>,
    /// For each piece that must arrive whole in time.
    pub deadline: ReadDeadline,
    /// What failed behind the bytes that have arrived.
    pending_error: Option<Error>,
    /// Whether the upstream has a time limit of its own.
    pub has_own_limit: bool,
    metrics: Arc<UpstreamMetrics>,
}

impl StreamedBody {
    pub(super) fn new(body: Body, timeout: Duration, metrics: Arc<UpstreamMetrics>) -> Self {
        metrics.open_streams.inc();
        Self {
            reader: body.into_reader(),
            deadline: ReadDeadline::new(timeout),
            pending_error: None,
            has_own_limit: false,
            metrics,
        }
    }

    /// Waits for bytes, but not longer than until `wake_at`, which is `None`; 0 at the end.
    pub(super) fn read(
        &mut self,
        buffer: &mut [u8],
        wake_at: Option<Instant>,
    ) -> Result<Option<usize>> {
        let length = match self.pending_error.take() {
            Some(error) => return Err(error),
            None => self.deadline.read_until(&mut self.reader, buffer, wake_at)?,
        };
        if length == Some(0) {
            check_cancelled()?;
        }
        Ok(length)
    }

    /// Fills a buffer, of which the first `filled` bytes were just read, with what has arrived
    /// together with them; returns how many bytes it holds. Never waits.
    pub(super) fn fill(&mut self, buffer: &mut [u8], filled: usize) -> usize {
        let (filled, error) = fill_available(&mut self.reader, buffer, filled);
        self.pending_error = error;
        filled
    }

    /// Lets the next read fail.
    pub(super) fn postpone(&mut self, error: Error) {
        self.pending_error = Some(error);
    }

    /// Counts a failure that breaks the stream off.
    pub(super) fn count_failure(&self, error: Error) -> Error {
        count_failure(&self.metrics, &error);
        if self.has_own_limit { error.with_own_limit() } else { error }
    }
}

impl Drop for StreamedBody {
    fn drop(&mut self) {
        self.metrics.open_streams.dec();
    }
}

/// How a wait for events ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Waited {
    /// More bytes have come: [`EventStream::try_next`] may have events.
    Data,
    /// The time has come until which was waited.
    Silence,
    /// There is nothing more.
    End,
}

/// The events of a body.
pub struct EventStream {
    body: StreamedBody,
    decoder: Decoder,
    mapper: Option<EventMapper>,
    /// Events that were read in advance, each with whether it is an error.
    held: Vec<(bool, Vec<u8>)>,
    /// What failed behind them.
    held_failure: Option<Error>,
    /// True if the stream ended before an event that adds anything.
    ended_early: bool,
    /// The event that was held, or that `mapper` made, last.
    own_event: Vec<u8>,
    is_ended: bool,
    /// True while a wait goes on that was interrupted.
    is_waiting: bool,
    /// Bytes of the events so far.
    event_bytes: u64,
    /// What a response that is collected holds of them.
    collected_bytes: usize,
    /// The memory for the largest event so far, and for what is held of all.
    reservation: Reservation,
    largest_bytes: usize,
    held_bytes: usize,
    logger: Option<BodyLogger>,
}

impl EventStream {
    fn new(body: StreamedBody, mapper: Option<EventMapper>, logger: Option<BodyLogger>) -> Self {
        Self {
            body,
            decoder: Decoder::new(),
            mapper,
            held: Vec::new(),
            held_failure: None,
            ended_early: false,
            own_event: Vec::new(),
            is_ended: false,
            is_waiting: false,
            event_bytes: 0,
            collected_bytes: 0,
            reservation: memory_budget::reserve(),
            largest_bytes: 0,
            held_bytes: 0,
            logger,
        }
    }

    /// The next event that has already arrived. Never waits.
    ///
    /// # Errors
    /// [`Error::UpstreamProtocol`] for an event above its limit.
    pub fn try_next(&mut self) -> Result<Option<Event<'_>>> {
        if !self.held.is_empty() {
            let (is_error, data) = self.held.remove(0);
            self.own_event = data;
            let data = self.own_event.as_slice();
            return Ok(Some(if is_error { Event::Error(data) } else { Event::Data(data) }));
        }
        let event = self.decoder.next_event()?;
        if let Some(Event::Data(data) | Event::Error(data)) = event {
            self.body.deadline.reset();
            self.event_bytes += data.len() as u64;
            self.collected_bytes += data.len().saturating_sub(CHUNK_FRAME_BYTES) + CHUNK_BYTES;
        }
        if let (Some(logger), Some(Event::Data(data) | Event::Error(data))) = (&self.logger, event)
        {
            logger.log("upstream event", data);
        }
        if let (Some(map), Some(Event::Data(data))) = (&mut self.mapper, event)
            && let Some(mapped) = map(&String::from_utf8_lossy(data))
        {
            self.own_event = mapped.into_bytes();
            return Ok(Some(Event::Data(&self.own_event)));
        }
        Ok(event)
    }

    /// Waits for the first event that adds anything, but not longer than until `until`, and returns its
    /// data if it is an error. All other events are kept.
    pub(super) fn find_first_error(&mut self, until: Option<Instant>) -> Option<Vec<u8>> {
        let mut held = Vec::new();
        let error = loop {
            match self.try_next() {
                Ok(Some(event)) => {
                    let (is_named, data) = match event {
                        Event::Data(data) => (false, data.to_vec()),
                        Event::Error(data) => (true, data.to_vec()),
                    };
                    if is_named || in_band::is_error(&data) {
                        break Some(data);
                    }
                    let adds_nothing = is_blank_chunk(&data) && held.len() < MAX_HELD_EVENTS;
                    held.push((false, data));
                    if !adds_nothing {
                        break None;
                    }
                }
                Ok(None) => match self.wait_until(until) {
                    Ok(Waited::Data) => {}
                    Ok(Waited::Silence) => break None,
                    Ok(Waited::End) => {
                        self.ended_early = held.iter().all(|(_, data)| is_blank_chunk(data));
                        break None;
                    }
                    Err(error) => {
                        self.held_failure = Some(error);
                        break None;
                    }
                },
                // The decoder fails again.
                Err(_) => break None,
            }
        };
        self.held = held;
        error
    }

    /// Why the stream ended before it said anything, so that another upstream may be asked.
    pub(super) fn early_failure(&mut self) -> Option<Error> {
        if !self.held.iter().all(|(_, data)| is_blank_chunk(data)) {
            return None;
        }
        self.held_failure.take().or_else(|| self.ended_early.then_some(Error::IncompleteStream))
    }

    /// Checks the bounds of a stream that is collected into a whole response.
    ///
    /// # Errors
    /// [`Error::UpstreamProtocol`] for more than a whole response may have, [`Error::ResponseTooLarge`] for
    /// more than the memory budget has room for.
    pub fn check_size(&mut self) -> Result<()> {
        if self.event_bytes > MAX_RESPONSE_BYTES {
            return Err(too_large_error(MAX_RESPONSE_BYTES));
        }
        self.hold_collected()
    }

    /// Counts the memory of a stream whose texts are held until its end.
    ///
    /// # Errors
    /// [`Error::ResponseTooLarge`].
    pub fn hold_collected(&mut self) -> Result<()> {
        self.hold(self.collected_bytes)
    }

    /// Counts the memory of so many bytes that are held of the events so far, and are written once more at
    /// the end.
    ///
    /// # Errors
    /// [`Error::ResponseTooLarge`].
    pub fn hold(&mut self, bytes: usize) -> Result<()> {
        self.held_bytes = HELD_COPIES * bytes;
        self.reservation.cover(self.held_bytes + self.largest_bytes)
    }

    /// Waits for more bytes. After `true`, [`EventStream::try_next`] may have events; after `false`
    /// there is nothing more. An event that has begun must be complete within the timeout; between
    /// events any byte is enough.
    ///
    /// # Errors
    /// [`Error::UpstreamTimeout`] after too long a silence, [`Error::IncompleteStream`] when the
    /// connection broke.
    pub fn wait_for_data(&mut self) -> Result<bool> {
        self.wait_until(None).map(|waited| waited != Waited::End)
    }

    /// The same, but not longer than until `wake_at`. A silence that is waited for in parts is as long as
    /// one that is not.
    ///
    /// # Errors
    /// As [`EventStream::wait_for_data`].
    pub fn wait_until(&mut self, wake_at: Option<Instant>) -> Result<Waited> {
        if let Some(error) = self.held_failure.take() {
            return Err(error);
        }
        if self.is_ended {
            return Ok(Waited::End);
        }
        if !self.decoder.has_pending() && !self.is_waiting {
            self.body.deadline.reset();
        }
        let mut buffer = [0; FIRST_READ_BYTES];
        let read = self.body.read(&mut buffer, wake_at);
        self.is_waiting = matches!(read, Ok(None));
        match read {
            Ok(None) => return Ok(Waited::Silence),
            Ok(Some(0)) => {
                self.is_ended = true;
                self.decoder.finish();
            }
            Ok(Some(length)) => {
                if self.decode(&mut buffer, length) {
                    self.decode_more();
                }
            }
            Err(error) => {
                self.is_ended = true;
                return Err(self.body.count_failure(error));
            }
        }
        Ok(Waited::Data)
    }

    /// Decodes a buffer that is filled as far as possible; returns whether more may have arrived.
    fn decode(&mut self, buffer: &mut [u8], filled: usize) -> bool {
        let filled = self.body.fill(buffer, filled);
        if let Err(error) = self.reserve_event(filled) {
            (self.held_failure, self.is_ended) = (Some(error), true);
            return false;
        }
        self.decoder.push(&buffer[..filled]);
        filled == buffer.len() && self.body.pending_error.is_none()
    }

    /// Counts the memory of an event that has grown large.
    fn reserve_event(&mut self, more: usize) -> Result<()> {
        let length = self.decoder.buffered() + more;
        if length <= 2 * MAX_BATCH_BYTES || EVENT_COPIES * length <= self.largest_bytes {
            return Ok(());
        }
        self.largest_bytes = EVENT_COPIES * length;
        self.reservation.cover(self.held_bytes + self.largest_bytes)
    }

    #[inline(never)] // Not inlined, to keep its buffer off the stacks of the streams that wait.
    fn decode_more(&mut self) {
        let mut buffer = [0; READ_BUFFER_BYTES];
        let mut buffers = 0..MAX_BATCH_BYTES / READ_BUFFER_BYTES;
        while buffers.next().is_some() && self.decode(&mut buffer, 0) {}
    }

    /// Reads the few bytes behind the last event, so that the connection can serve again. If the
    /// server keeps sending, or does not end, the connection is closed instead.
    pub fn drain(mut self) {
        with_read_timeout(DRAIN_TIMEOUT, || {
            let (mut read, mut buffer) = (0, [0; READ_BUFFER_BYTES]);
            while !self.is_ended && read < MAX_DRAIN_BYTES {
                match self.body.reader.read(&mut buffer) {
                    Ok(0) | Err(_) => self.is_ended = true,
                    Ok(length) => read += length,
                }
            }
        });
    }
}
