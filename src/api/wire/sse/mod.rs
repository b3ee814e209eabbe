//! Splits an upstream body into server-sent events (HTML Living Standard, server-sent events).
//!
//! Bytes go in through [`Decoder::push`] in pieces of any size; events come out of
//! [`Decoder::next_event`], each as soon as its last line end has arrived. More lenient than the
//! standard where servers need it. Knows nothing of OpenAI: the `[DONE]` marker is data like any
//! other, and the JSON is not parsed here. Invariant: the events do not depend on where the input was
//! cut. An event above the limit is an error, never a larger buffer. Every byte is searched once, and
//! an event of one data line is a slice of the buffer, without a copy.

#[cfg(test)]
mod tests;

use std::mem;
use std::ops::Range;

use serde::Serialize;

use super::ndjson;
use crate::error::{Error, Result};

/// The longest line and the longest event, in bytes: a tool call or an image may be one line of
/// megabytes, but an endless line must not take all memory.
pub const MAX_EVENT_BYTES: usize = 64 * 1024 * 1024;

/// The byte order mark, which may precede the first line.
const BYTE_ORDER_MARK: &[u8] = b"\xEF\xBB\xBF";

/// One event. The bytes are as the server sent them: not trimmed, and not necessarily UTF-8.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event<'a> {
    /// The data lines of an event, joined with `\n`; or a line of JSON without a field name.
    Data(&'a [u8]),
    /// The same under `event: error`; or the value of an `error` field, which old llama-servers
    /// send instead of data.
    Error(&'a [u8]),
}

/// The decoder of one body.
#[derive(Debug)]
pub struct Decoder {
    /// Bytes that were pushed: a consumed part, then those that are still needed.
    buffer: Vec<u8>,
    /// The start of the first line that is not consumed yet.
    line_start: usize,
    /// There is no line end between `start` and this offset.
    scanned_to: usize,
    /// True if the last line ended with CR: an LF at `start` belongs to it.
    after_cr: bool,
    /// True until something is consumed: a byte order mark may be at `start`.
    at_beginning: bool,
    /// True after the end of the body.
    is_finished: bool,
    /// The data of the current event.
    data: DataLocation,
    /// True if the current event is of type `error`.
    is_error: bool,
    /// The text behind [`DataLocation::Joined`].
    joined: Vec<u8>,
    /// The longest line and the longest event.
    limit: usize,
}

/// The place of an event's data.
#[derive(Debug, Default)]
enum DataLocation {
    #[default]
    None,
    /// One line, in the buffer.
    Line(Range<usize>),
    /// In `joined`.
    Joined,
}

/// The meaning of a line. Numbers are the length of the value at the line's end.
enum LineKind {
    Blank,
    Data(usize),
    /// An event in itself.
    Standalone {
        value: usize,
        is_error: bool,
    },
    EventType {
        is_error: bool,
    },
    Ignored,
}

impl Default for Decoder {
    fn default() -> Self {
        Self::new()
    }
}

impl Decoder {
    /// A decoder with the limit [`MAX_EVENT_BYTES`].
    pub fn new() -> Self {
        Self::with_limit(MAX_EVENT_BYTES)
    }

    /// A decoder for lines and events of up to `limit` bytes.
    pub fn with_limit(limit: usize) -> Self {
        Self {
            buffer: Vec::new(),
            line_start: 0,
            scanned_to: 0,
            after_cr: false,
            at_beginning: true,
            is_finished: false,
            data: DataLocation::None,
            is_error: false,
            joined: Vec::new(),
            limit,
        }
    }

    /// Appends the next bytes of the body. Call [`Decoder::next_event`] until it returns `None` before
    /// the next push, or the buffer grows.
    pub fn push(&mut self, bytes: &[u8]) {
        self.drop_consumed();
        self.buffer.extend_from_slice(bytes);
    }

    /// Bytes that are held.
    pub fn buffered(&self) -> usize {
        self.buffer.len() + self.joined.len()
    }

    /// Ends the body: a line without a line end, or an event without a blank line, now counts as
    /// complete. Nothing may be pushed afterwards.
    pub fn finish(&mut self) {
        self.is_finished = true;
    }

    /// The next event; `None` if more bytes are needed, or at the end after [`Decoder::finish`].
    ///
    /// # Errors
    ///
    /// [`Error::UpstreamProtocol`] if a line or an event is above the limit. Every later call fails
    /// too.
    pub fn next_event(&mut self) -> Result<Option<Event<'_>>> {
        let Some((place, is_error)) = self.read_event()? else { return Ok(None) };
        let data = match place {
            DataLocation::None => return Ok(None),
            DataLocation::Line(line) => &self.buffer[line],
            DataLocation::Joined => self.joined.as_slice(),
        };
        Ok(Some(if is_error { Event::Error(data) } else { Event::Data(data) }))
    }

    /// True if bytes are buffered that were not returned as an event: an incomplete line, an event
    /// without its blank line, or bytes that [`Decoder::next_event`] has not reached.
    pub fn has_pending(&self) -> bool {
        self.line_start < self.buffer.len() || !matches!(self.data, DataLocation::None)
    }

    /// How many bytes are buffered, for tests of the limit.
    #[doc(hidden)]
    pub fn buffered_len(&self) -> usize {
        self.buffer.len() + self.joined.len()
    }

    /// Reads lines until one of them completes an event. Returns the place of the data, and whether
    /// the event is an error.
    fn read_event(&mut self) -> Result<Option<(DataLocation, bool)>> {
        while let Some(line) = self.next_line()? {
            match LineKind::parse(&self.buffer[line.clone()]) {
                LineKind::Data(value) => self.add_data(line.end - value..line.end)?,
                LineKind::EventType { is_error } => self.is_error = is_error,
                LineKind::Ignored => {}
                LineKind::Standalone { value, is_error } => {
                    if let Some(earlier) = self.dispatch() {
                        // The next call reads the line again.
                        return Ok(Some(earlier));
                    }
                    let is_error = mem::take(&mut self.is_error) || is_error;
                    self.consume(line.end);
                    return Ok(Some((DataLocation::Line(line.end - value..line.end), is_error)));
                }
                LineKind::Blank => {
                    self.consume(line.end);
                    let event = self.dispatch();
                    self.is_error = false;
                    if event.is_some() {
                        return Ok(event);
                    }
                    continue;
                }
            }
            self.consume(line.end);
        }
        Ok(if self.is_finished { self.dispatch() } else { None })
    }

    /// The next complete line, without its end and not yet consumed.
    fn next_line(&mut self) -> Result<Option<Range<usize>>> {
        if !self.skip_line_prefix() {
            return Ok(None);
        }
        let end = find_line_end(&self.buffer[self.scanned_to..]).map(|at| self.scanned_to + at);
        self.scanned_to = end.unwrap_or(self.buffer.len());
        let line = self.line_start..self.scanned_to;
        if line.len() > self.limit {
            return Err(self.too_large_error());
        }
        let is_last = self.is_finished && !line.is_empty();
        Ok((end.is_some() || is_last).then_some(line))
    }

    /// Skips bytes before a line that are not part of it. Returns false if more bytes are needed to
    /// decide.
    fn skip_line_prefix(&mut self) -> bool {
        let rest = &self.buffer[self.line_start..];
        let mut skipped = 0;
        if self.at_beginning {
            if rest.len() < BYTE_ORDER_MARK.len() && BYTE_ORDER_MARK.starts_with(rest) {
                if !self.is_finished {
                    return false;
                }
            } else if rest.starts_with(BYTE_ORDER_MARK) {
                skipped = BYTE_ORDER_MARK.len();
            }
            self.at_beginning = false;
        } else if self.after_cr && !rest.is_empty() {
            skipped = usize::from(rest[0] == b'\n');
            self.after_cr = false;
        }
        self.line_start += skipped;
        self.scanned_to = self.scanned_to.max(self.line_start);
        true
    }

    /// Consumes the line that ends at `end`.
    fn consume(&mut self, end: usize) {
        self.after_cr = self.buffer.get(end) == Some(&b'\r');
        self.line_start = self.buffer.len().min(end + 1);
        self.scanned_to = self.line_start;
    }

    /// Adds a data line to the event.
    fn add_data(&mut self, value: Range<usize>) -> Result<()> {
        let before = match &self.data {
            DataLocation::None => {
                self.data = DataLocation::Line(value);
                return Ok(());
            }
            DataLocation::Line(first) => first.len(),
            DataLocation::Joined => self.joined.len(),
        };
        if before + 1 + value.len() > self.limit {
            return Err(self.too_large_error());
        }
        self.move_to_joined();
        self.joined.push(b'\n');
        self.joined.extend_from_slice(&self.buffer[value]);
        Ok(())
    }

    /// Ends the event; `None` if it has no data.
    fn dispatch(&mut self) -> Option<(DataLocation, bool)> {
        match mem::take(&mut self.data) {
            DataLocation::None => None,
            data => Some((data, mem::take(&mut self.is_error))),
        }
    }

    /// Copies data that is still in the buffer, so that the buffer need not keep it.
    fn move_to_joined(&mut self) {
        if let DataLocation::Line(line) = &self.data {
            self.joined.clear();
            self.joined.extend_from_slice(&self.buffer[line.clone()]);
            self.data = DataLocation::Joined;
        }
    }

    /// Drops the consumed part of the buffer, if that is worth moving the rest.
    fn drop_consumed(&mut self) {
        let keep_from = match &self.data {
            // Only the line end, at most two bytes, was consumed since.
            DataLocation::Line(line) if self.line_start <= line.end + 2 => line.start,
            // Many other lines may follow the data before the blank line.
            _ => {
                self.move_to_joined();
                self.line_start
            }
        };
        if keep_from < self.buffer.len() - keep_from {
            return;
        }
        self.buffer.drain(..keep_from);
        self.line_start -= keep_from;
        self.scanned_to -= keep_from;
        if let DataLocation::Line(line) = &mut self.data {
            *line = line.start - keep_from..line.end - keep_from;
        }
    }

    fn too_large_error(&self) -> Error {
        Error::upstream_protocol(format!("a server-sent event is larger than {} bytes", self.limit))
    }
}

impl LineKind {
    fn parse(line: &[u8]) -> Self {
        if line.is_empty() {
            Self::Blank
        } else if let Some(value) = field_value(b"data", line) {
            Self::Data(value.len())
        } else if line[0] == b'{' {
            Self::Standalone { value: line.len(), is_error: false }
        } else if let Some(value) = field_value(b"error", line) {
            Self::Standalone { value: value.len(), is_error: true }
        } else if let Some(value) = field_value(b"event", line) {
            Self::EventType { is_error: value.trim_ascii() == b"error" }
        } else {
            Self::Ignored
        }
    }
}

/// The value of the field `name`, without the one space that may follow the colon.
fn field_value<'a>(name: &[u8], line: &'a [u8]) -> Option<&'a [u8]> {
    match line.strip_prefix(name)? {
        [] => Some(&[]),
        [b':', b' ', value @ ..] | [b':', value @ ..] => Some(value),
        _ => None,
    }
}

/// Appends an event of this name with `data` as JSON on one line.
pub fn append_event(out: &mut Vec<u8>, name: &str, data: &impl Serialize) {
    out.extend_from_slice(b"event: ");
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b"\ndata: ");
    ndjson::append(out, data);
    out.extend_from_slice(b"\n\n");
}

/// The offset of the first CR or LF.
fn find_line_end(bytes: &[u8]) -> Option<usize> {
    memchr::memchr2(b'\n', b'\r', bytes)
}
