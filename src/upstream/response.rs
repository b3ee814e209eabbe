//! The body of an upstream's answer: whole, or event by event.

use std::io::Read;
use std::sync::Arc;
use std::time::Duration;

use ureq::http::Response;
use ureq::{Body, BodyReader};

use super::failed;
use super::transport::agent::{header, not_cancelled};
use super::transport::read_deadline::{Bound, gather};
use super::transport::with_patience;
use crate::api::wire::sse::{Decoder, Event};
use crate::error::{Error, Result};
use crate::observe::body_log::Tap;
use crate::observe::metrics::Metrics;

/// The largest whole answer that is read, in bytes: some 5,000 embeddings.
const MAX_ANSWER_BYTES: u64 = 256 * 1024 * 1024;

/// Bytes that are waited for: an event at most servers. There may be a thousand threads that wait, each
/// with that much on its stack.
const FIRST_BYTES: usize = 512;

/// Bytes that one read takes of what has come besides.
const READ_BYTES: usize = 4 * 1024;

/// Bytes after which what has come is passed on, although more may be there already.
const MOST_AT_ONCE: usize = 64 * 1024;

/// How long, and for how many bytes, the end of a finished stream is waited for, so that its
/// connection can serve again.
const LINGER: Duration = Duration::from_millis(50);
const LINGER_BYTES: usize = 16 * 1024;

/// Makes an event of `completions` out of one of another endpoint.
type Map = fn(&str) -> Option<String>;

/// An answer whose head was good.
pub enum Answer {
    /// A whole body, as text.
    Whole(String),
    /// A stream of events.
    Stream(Box<EventStream>),
}

impl Answer {
    /// Decides by the content type: some servers stream unasked, some do not when asked. `asked` is
    /// whether a stream was asked for, and decides where the type says nothing.
    pub(super) fn of(
        response: Response<Body>,
        asked: bool,
        (timeout, tap): (Duration, Option<Tap>),
        metrics: &Arc<Metrics>,
    ) -> Result<Self> {
        let kind = header(response.headers(), "content-type").unwrap_or_default();
        let kind = kind.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
        let streams = match kind.as_str() {
            "text/html" => return Err(Error::protocol("HTML in place of an answer")),
            "text/event-stream" | "application/x-ndjson" => true,
            "application/json" => false,
            _ => asked,
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
    pub(super) fn mapped(self, map: Map) -> Self {
        match self {
            Self::Whole(text) => Self::Whole(map(&text).unwrap_or(text)),
            Self::Stream(mut events) => {
                events.map = Some(map);
                Self::Stream(events)
            }
        }
    }

    /// The body of an answer that cannot be a stream.
    pub(super) fn into_text(self) -> Result<String> {
        match self {
            Self::Whole(text) => Ok(text),
            Self::Stream(_) => Err(Error::protocol("a stream in place of an answer")),
        }
    }
}

fn read_whole(body: Body, timeout: Duration) -> Result<String> {
    let mut bytes = Vec::new();
    let bounds = (MAX_ANSWER_BYTES + 1, body.content_length());
    Bound::new(timeout).read_all(&mut body.into_reader(), bounds, &mut bytes)?;
    not_cancelled()?;
    if bytes.len() as u64 > MAX_ANSWER_BYTES {
        return Err(Error::protocol("an answer without end"));
    }
    Ok(match String::from_utf8(bytes) {
        Ok(text) => text,
        Err(error) => String::from_utf8_lossy(error.as_bytes()).into_owned(),
    })
}

/// The events of a body. Dropping it closes the upstream's connection, which is how an answer is
/// cancelled; [`EventStream::finish`] keeps the connection.
pub struct EventStream {
    reader: BodyReader<'static>,
    decoder: Decoder,
    map: Option<Map>,
    /// The event that `map` made last.
    mapped: String,
    ended: bool,
    /// What went wrong behind the events that have come.
    failure: Option<Error>,
    bound: Bound,
    open: OpenStream,
    tap: Option<Tap>,
}

/// A stream that counts as open as long as it lives.
pub(super) struct OpenStream(Arc<Metrics>);

impl OpenStream {
    pub(super) fn new(metrics: Arc<Metrics>) -> Self {
        metrics.open_streams.up();
        Self(metrics)
    }

    /// Counts the failure that broke it off.
    pub(super) fn broken(&self, error: Error) -> Error {
        failed(&self.0, error)
    }
}

impl Drop for OpenStream {
    fn drop(&mut self) {
        self.0.open_streams.down();
    }
}

impl EventStream {
    fn new(body: Body, (timeout, tap): (Duration, Option<Tap>), metrics: Arc<Metrics>) -> Self {
        Self {
            reader: body.into_reader(),
            decoder: Decoder::new(),
            map: None,
            mapped: String::new(),
            ended: false,
            failure: None,
            bound: Bound::new(timeout),
            open: OpenStream::new(metrics),
            tap,
        }
    }

    /// The next event that has already arrived. Never waits.
    ///
    /// # Errors
    /// [`Error::UpstreamProtocol`] for an event without end.
    pub fn ready(&mut self) -> Result<Option<Event<'_>>> {
        let event = self.decoder.next_event()?;
        if event.is_some() {
            self.bound.renew();
        }
        if let (Some(tap), Some(Event::Data(data) | Event::Error(data))) = (&self.tap, event) {
            tap.log("event of the upstream", data);
        }
        if let (Some(map), Some(Event::Data(data))) = (self.map, event)
            && let Some(mapped) = map(&String::from_utf8_lossy(data))
        {
            self.mapped = mapped;
            return Ok(Some(Event::Data(self.mapped.as_bytes())));
        }
        Ok(event)
    }

    /// Waits for more bytes. After `true`, [`EventStream::ready`] may have events; after `false`
    /// there is nothing more. An event that has begun must be complete in time, too; between events
    /// a sign of life is enough.
    ///
    /// # Errors
    /// [`Error::UpstreamTimeout`] after too long a silence, [`Error::UpstreamClosed`] when the
    /// connection broke.
    pub fn wait(&mut self) -> Result<bool> {
        if self.ended {
            return Ok(false);
        }
        if !self.decoder.has_pending() {
            self.bound.renew();
        }
        let mut buffer = [0; FIRST_BYTES];
        let read = match self.failure.take() {
            Some(error) => Err(error),
            None => self.bound.read(&mut self.reader, &mut buffer),
        };
        match read {
            Ok(0) => {
                self.ended = true;
                not_cancelled()?;
                self.decoder.finish();
            }
            Ok(length) => self.take(&mut buffer, length),
            Err(error) => {
                self.ended = true;
                return Err(self.open.broken(error));
            }
        }
        Ok(true)
    }

    /// Takes what was just read, and what came together with it, so that all of it is passed on at
    /// once. Never waits.
    fn take(&mut self, buffer: &mut [u8], filled: usize) {
        if self.take_one(buffer, filled) {
            self.take_more();
        }
    }

    /// Takes a buffer that is filled as far as may be; tells whether there may be more.
    fn take_one(&mut self, buffer: &mut [u8], filled: usize) -> bool {
        let (filled, failure) = gather(&mut self.reader, buffer, filled);
        self.failure = failure;
        self.decoder.push(&buffer[..filled]);
        filled == buffer.len() && self.failure.is_none()
    }

    #[inline(never)] // Its buffer is not to lie on the stack of all who wait.
    fn take_more(&mut self) {
        let mut buffer = [0; READ_BYTES];
        let mut buffers = 0..MOST_AT_ONCE / READ_BYTES;
        while buffers.next().is_some() && self.take_one(&mut buffer, 0) {}
    }

    /// Reads what little follows the last event, so that the connection can serve again. A server
    /// that goes on sending, or does not end, loses its connection instead.
    pub fn finish(mut self) {
        with_patience(LINGER, || {
            let (mut read, mut buffer) = (0, [0; READ_BYTES]);
            while !self.ended && read < LINGER_BYTES {
                match self.reader.read(&mut buffer) {
                    Ok(0) | Err(_) => self.ended = true,
                    Ok(length) => read += length,
                }
            }
        });
    }
}
