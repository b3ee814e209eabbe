//! The body of an upstream's answer: whole, or event by event.

use std::io::Read;
use std::sync::Arc;
use std::time::Duration;

use ureq::http::Response;
use ureq::{Body, BodyReader};

use super::count_failure;
use super::transport::agent::{check_cancelled, header};
use super::transport::read_deadline::{ReadDeadline, fill_available};
use super::transport::with_read_timeout;
use crate::api::wire::sse::{Decoder, Event};
use crate::error::{Error, Result};
use crate::observe::body_log::BodyLogger;
use crate::observe::metrics::Metrics;

/// The largest whole answer that is read, in bytes: some 5,000 embeddings.
const MAX_RESPONSE_BYTES: u64 = 256 * 1024 * 1024;

/// Bytes that are waited for: an event at most servers. There may be a thousand threads that wait, each
/// with that much on its stack.
const FIRST_READ_BYTES: usize = 512;

/// Bytes that one read takes of what has come besides.
const READ_BUFFER_BYTES: usize = 4 * 1024;

/// Bytes after which what has come is passed on, although more may be there already.
const MAX_BATCH_BYTES: usize = 64 * 1024;

/// How long, and for how many bytes, the end of a finished stream is waited for, so that its
/// connection can serve again.
const DRAIN_TIMEOUT: Duration = Duration::from_millis(50);
const MAX_DRAIN_BYTES: usize = 16 * 1024;

/// Makes an event of `completions` out of one of another endpoint.
type EventMapper = fn(&str) -> Option<String>;

/// An answer whose head was good.
pub enum UpstreamResponse {
    /// A whole body, as text.
    Whole(String),
    /// A stream of events.
    Stream(Box<EventStream>),
}

impl UpstreamResponse {
    /// Decides by the content type: some servers stream unasked, some do not when asked. `asked` is
    /// whether a stream was asked for, and decides where the type says nothing.
    pub(super) fn from_response(
        response: Response<Body>,
        stream_requested: bool,
        (timeout, tap): (Duration, Option<BodyLogger>),
        metrics: &Arc<Metrics>,
    ) -> Result<Self> {
        let kind = header(response.headers(), "content-type").unwrap_or_default();
        let kind = kind.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
        let streams = match kind.as_str() {
            "text/html" => return Err(Error::upstream_protocol("HTML in place of an answer")),
            "text/event-stream" | "application/x-ndjson" => true,
            "application/json" => false,
            _ => stream_requested,
        };
        if streams {
            let body = response.into_body();
            let stream = EventStream::new(body, (timeout, tap), metrics.clone());
            Ok(Self::Stream(Box::new(stream)))
        } else {
            let text = read_whole(response.into_body(), timeout)?;
            if let Some(tap) = tap {
                tap.log("answer of the upstream", text.as_bytes());
            }
            Ok(Self::Whole(text))
        }
    }

    /// The same answer with each event, or the whole body, as `map` makes it; what `map` has
    /// nothing for stays as it is.
    pub(super) fn map_events(self, map: EventMapper) -> Self {
        match self {
            Self::Whole(text) => Self::Whole(map(&text).unwrap_or(text)),
            Self::Stream(mut events) => {
                events.mapper = Some(map);
                Self::Stream(events)
            }
        }
    }

    /// The body of an answer that cannot be a stream.
    pub(super) fn into_text(self) -> Result<String> {
        match self {
            Self::Whole(text) => Ok(text),
            Self::Stream(_) => Err(Error::upstream_protocol("a stream in place of an answer")),
        }
    }
}

fn read_whole(body: Body, timeout: Duration) -> Result<String> {
    let mut bytes = Vec::new();
    let bounds = (MAX_RESPONSE_BYTES + 1, body.content_length());
    ReadDeadline::new(timeout).read_to_end(&mut body.into_reader(), bounds, &mut bytes)?;
    check_cancelled()?;
    if bytes.len() as u64 > MAX_RESPONSE_BYTES {
        return Err(Error::upstream_protocol("an answer without end"));
    }
    Ok(match String::from_utf8(bytes) {
        Ok(text) => text,
        Err(error) => String::from_utf8_lossy(error.as_bytes()).into_owned(),
    })
}

/// The events of a body. Dropping it closes the upstream's connection, which is how an answer is
/// cancelled; [`EventStream::drain`] keeps the connection.
pub struct EventStream {
    reader: BodyReader<'static>,
    decoder: Decoder,
    mapper: Option<EventMapper>,
    /// The event that `map` made last.
    mapped_event: String,
    is_ended: bool,
    /// What went wrong behind the events that have come.
    pending_error: Option<Error>,
    read_deadline: ReadDeadline,
    open_guard: OpenStreamGuard,
    logger: Option<BodyLogger>,
}

/// A stream that counts as open as long as it lives.
pub(super) struct OpenStreamGuard(Arc<Metrics>);

impl OpenStreamGuard {
    pub(super) fn new(metrics: Arc<Metrics>) -> Self {
        metrics.open_streams.inc();
        Self(metrics)
    }

    /// Counts the failure that broke it off.
    pub(super) fn count_failure(&self, error: Error) -> Error {
        count_failure(&self.0, error)
    }
}

impl Drop for OpenStreamGuard {
    fn drop(&mut self) {
        self.0.open_streams.dec();
    }
}

impl EventStream {
    fn new(
        body: Body,
        (timeout, logger): (Duration, Option<BodyLogger>),
        metrics: Arc<Metrics>,
    ) -> Self {
        Self {
            reader: body.into_reader(),
            decoder: Decoder::new(),
            mapper: None,
            mapped_event: String::new(),
            is_ended: false,
            pending_error: None,
            read_deadline: ReadDeadline::new(timeout),
            open_guard: OpenStreamGuard::new(metrics),
            logger,
        }
    }

    /// The next event that has already arrived. Never waits.
    ///
    /// # Errors
    /// [`Error::UpstreamProtocol`] for an event without end.
    pub fn try_next(&mut self) -> Result<Option<Event<'_>>> {
        let event = self.decoder.next_event()?;
        if event.is_some() {
            self.read_deadline.reset();
        }
        if let (Some(tap), Some(Event::Data(data) | Event::Error(data))) = (&self.logger, event) {
            tap.log("event of the upstream", data);
        }
        if let (Some(map), Some(Event::Data(data))) = (self.mapper, event)
            && let Some(mapped) = map(&String::from_utf8_lossy(data))
        {
            self.mapped_event = mapped;
            return Ok(Some(Event::Data(self.mapped_event.as_bytes())));
        }
        Ok(event)
    }

    /// Waits for more bytes. After `true`, [`EventStream::try_next`] may have events; after `false`
    /// there is nothing more. An event that has begun must be complete in time, too; between events
    /// a sign of life is enough.
    ///
    /// # Errors
    /// [`Error::UpstreamTimeout`] after too long a silence, [`Error::IncompleteStream`] when the
    /// connection broke.
    pub fn wait_for_data(&mut self) -> Result<bool> {
        if self.is_ended {
            return Ok(false);
        }
        if !self.decoder.has_pending() {
            self.read_deadline.reset();
        }
        let mut buffer = [0; FIRST_READ_BYTES];
        let read = match self.pending_error.take() {
            Some(error) => Err(error),
            None => self.read_deadline.read(&mut self.reader, &mut buffer),
        };
        match read {
            Ok(0) => {
                self.is_ended = true;
                check_cancelled()?;
                self.decoder.finish();
            }
            Ok(length) => self.decode_available(&mut buffer, length),
            Err(error) => {
                self.is_ended = true;
                return Err(self.open_guard.count_failure(error));
            }
        }
        Ok(true)
    }

    /// Takes what was just read, and what came together with it, so that all of it is passed on at
    /// once. Never waits.
    fn decode_available(&mut self, buffer: &mut [u8], filled: usize) {
        if self.decode_buffer(buffer, filled) {
            self.decode_more();
        }
    }

    /// Takes a buffer that is filled as far as may be; tells whether there may be more.
    fn decode_buffer(&mut self, buffer: &mut [u8], filled: usize) -> bool {
        let (filled, failure) = fill_available(&mut self.reader, buffer, filled);
        self.pending_error = failure;
        self.decoder.push(&buffer[..filled]);
        filled == buffer.len() && self.pending_error.is_none()
    }

    #[inline(never)] // Its buffer is not to lie on the stack of all who wait.
    fn decode_more(&mut self) {
        let mut buffer = [0; READ_BUFFER_BYTES];
        let mut buffers = 0..MAX_BATCH_BYTES / READ_BUFFER_BYTES;
        while buffers.next().is_some() && self.decode_buffer(&mut buffer, 0) {}
    }

    /// Reads what little follows the last event, so that the connection can serve again. A server
    /// that goes on sending, or does not end, loses its connection instead.
    pub fn drain(mut self) {
        with_read_timeout(DRAIN_TIMEOUT, || {
            let (mut read, mut buffer) = (0, [0; READ_BUFFER_BYTES]);
            while !self.is_ended && read < MAX_DRAIN_BYTES {
                match self.reader.read(&mut buffer) {
                    Ok(0) | Err(_) => self.is_ended = true,
                    Ok(length) => read += length,
                }
            }
        });
    }
}
