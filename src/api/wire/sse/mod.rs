//! Splits an upstream body into server-sent events.
//!
//! Bytes go in through [`Decoder::push`] in pieces of any size; events come out of
//! [`Decoder::next_event`], each as soon as its last line end has arrived. The rules are the
//! tolerant ones of openai-wire.md 4.4. Knows nothing of OpenAI: the `[DONE]` marker is data like
//! any other, and nobody here looks into the JSON.
//! Invariant: the events do not depend on where the input was cut. An event above the limit is an
//! error, never a larger buffer. Every byte is searched once, and an event of one data line is
//! handed out as a slice of the buffer, without a copy.

#[cfg(test)]
mod tests;

use std::mem;
use std::ops::Range;

use crate::error::{Error, Result};

/// The longest line, and the longest event, in bytes: a tool call or an image may be one line of
/// megabytes, an endless line may not take all memory.
pub const MAX_EVENT_BYTES: usize = 64 * 1024 * 1024;

/// What may stand before the first line, and means nothing.
const BYTE_ORDER_MARK: &[u8] = b"\xEF\xBB\xBF";

/// One event. The bytes are as they were sent: not trimmed, and perhaps not even UTF-8.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event<'a> {
    /// The data lines of an event, joined with `\n`; or one bare line of JSON.
    Data(&'a [u8]),
    /// The same under `event: error`; or the value of an `error` field, which old llama-servers
    /// send instead of data.
    Error(&'a [u8]),
}

/// The decoder of one body.
#[derive(Debug)]
pub struct Decoder {
    /// What was pushed and is still needed, after a consumed part that awaits dropping.
    buffer: Vec<u8>,
    /// Where the first line begins that was not consumed yet.
    start: usize,
    /// No line end stands between `start` and here.
    searched: usize,
    /// The last line ended with CR: an LF at `start` belongs to it.
    after_cr: bool,
    /// Nothing was consumed yet: a byte-order mark may stand at `start`.
    at_beginning: bool,
    /// No more bytes will come.
    finished: bool,
    /// The data of the event that is being gathered.
    data: Data,
    /// Whether that event is of type `error`.
    is_error: bool,
    /// The text behind [`Data::Joined`].
    joined: Vec<u8>,
    /// The longest line and the longest event.
    limit: usize,
}

/// Where the data of an event is.
#[derive(Debug, Default)]
enum Data {
    #[default]
    None,
    /// One line, in the buffer.
    Line(Range<usize>),
    /// In `joined`.
    Joined,
}

/// What one line asks for. Numbers are the length of the value, which is the end of the line.
enum Line {
    Blank,
    Data(usize),
    /// An event in itself.
    Alone {
        value: usize,
        is_error: bool,
    },
    Type {
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
    #[must_use]
    pub fn new() -> Self {
        Self::with_limit(MAX_EVENT_BYTES)
    }

    /// A decoder for lines and events of up to `limit` bytes.
    #[must_use]
    pub fn with_limit(limit: usize) -> Self {
        Self {
            buffer: Vec::new(),
            start: 0,
            searched: 0,
            after_cr: false,
            at_beginning: true,
            finished: false,
            data: Data::None,
            is_error: false,
            joined: Vec::new(),
            limit,
        }
    }

    /// Takes the next bytes of the body. Call [`Decoder::next_event`] until it gives `None` before
    /// the next push, or the buffer grows.
    pub fn push(&mut self, bytes: &[u8]) {
        self.drop_consumed();
        self.buffer.extend_from_slice(bytes);
    }

    /// Says that the body has ended: what has no line end or no blank line behind it now counts as
    /// whole. Nothing may be pushed afterwards.
    pub fn finish(&mut self) {
        self.finished = true;
    }

    /// The next event, or `None` when more bytes are needed, or when all is done after
    /// [`Decoder::finish`].
    ///
    /// # Errors
    ///
    /// [`Error::UpstreamProtocol`] when a line or an event is above the limit. The decoder stays at
    /// that place: every later call fails too.
    pub fn next_event(&mut self) -> Result<Option<Event<'_>>> {
        let Some((place, is_error)) = self.advance()? else { return Ok(None) };
        let data = match place {
            Data::None => return Ok(None),
            Data::Line(line) => &self.buffer[line],
            Data::Joined => self.joined.as_slice(),
        };
        Ok(Some(if is_error { Event::Error(data) } else { Event::Data(data) }))
    }

    /// Whether something is buffered that has not come out as an event: an unfinished line, an
    /// event without its blank line, or bytes that [`Decoder::next_event`] was not asked for yet.
    #[must_use]
    pub fn has_pending(&self) -> bool {
        self.start < self.buffer.len() || !matches!(self.data, Data::None)
    }

    /// How many bytes are kept, for tests of the bound.
    #[doc(hidden)]
    #[must_use]
    pub fn held(&self) -> usize {
        self.buffer.len() + self.joined.len()
    }

    /// Reads lines until one of them completes an event: where its data is, and whether it is an
    /// error.
    fn advance(&mut self) -> Result<Option<(Data, bool)>> {
        while let Some(line) = self.next_line()? {
            match Line::read(&self.buffer[line.clone()]) {
                Line::Data(value) => self.add(line.end - value..line.end)?,
                Line::Type { is_error } => self.is_error = is_error,
                Line::Ignored => {}
                Line::Alone { value, is_error } => {
                    if let Some(earlier) = self.dispatch() {
                        // The line is read again by the next call.
                        return Ok(Some(earlier));
                    }
                    let is_error = mem::take(&mut self.is_error) || is_error;
                    self.consume(line.end);
                    return Ok(Some((Data::Line(line.end - value..line.end), is_error)));
                }
                Line::Blank => {
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
        Ok(if self.finished { self.dispatch() } else { None })
    }

    /// The next whole line, without its end and not yet consumed.
    fn next_line(&mut self) -> Result<Option<Range<usize>>> {
        if !self.skip_marks() {
            return Ok(None);
        }
        let end = line_end(&self.buffer[self.searched..]).map(|at| self.searched + at);
        self.searched = end.unwrap_or(self.buffer.len());
        let line = self.start..self.searched;
        if line.len() > self.limit {
            return Err(self.too_large());
        }
        let is_last = self.finished && !line.is_empty();
        Ok((end.is_some() || is_last).then_some(line))
    }

    /// Steps over what stands before a line and is no part of it. False when more bytes must come
    /// before that can be told.
    fn skip_marks(&mut self) -> bool {
        let rest = &self.buffer[self.start..];
        let mut skipped = 0;
        if self.at_beginning {
            if rest.len() < BYTE_ORDER_MARK.len() && BYTE_ORDER_MARK.starts_with(rest) {
                if !self.finished {
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
        self.start += skipped;
        self.searched = self.searched.max(self.start);
        true
    }

    /// Moves on to what follows the line that ends at `end`.
    fn consume(&mut self, end: usize) {
        self.after_cr = self.buffer.get(end) == Some(&b'\r');
        self.start = self.buffer.len().min(end + 1);
        self.searched = self.start;
    }

    /// Adds a data line to the event.
    fn add(&mut self, value: Range<usize>) -> Result<()> {
        let before = match &self.data {
            Data::None => {
                self.data = Data::Line(value);
                return Ok(());
            }
            Data::Line(first) => first.len(),
            Data::Joined => self.joined.len(),
        };
        if before + 1 + value.len() > self.limit {
            return Err(self.too_large());
        }
        self.move_to_joined();
        self.joined.push(b'\n');
        self.joined.extend_from_slice(&self.buffer[value]);
        Ok(())
    }

    /// Ends the event; `None` when it had no data.
    fn dispatch(&mut self) -> Option<(Data, bool)> {
        match mem::take(&mut self.data) {
            Data::None => None,
            data => Some((data, mem::take(&mut self.is_error))),
        }
    }

    /// Copies data that still lies in the buffer, so that the buffer need not keep it.
    fn move_to_joined(&mut self) {
        if let Data::Line(line) = &self.data {
            self.joined.clear();
            self.joined.extend_from_slice(&self.buffer[line.clone()]);
            self.data = Data::Joined;
        }
    }

    /// Frees the consumed part of the buffer once that is worth moving the rest.
    fn drop_consumed(&mut self) {
        let keep_from = match &self.data {
            // Only its line end, of two bytes at most, was consumed since.
            Data::Line(line) if self.start <= line.end + 2 => line.start,
            // Other lines follow the data; they may be many before the blank one comes.
            _ => {
                self.move_to_joined();
                self.start
            }
        };
        if keep_from < self.buffer.len() - keep_from {
            return;
        }
        self.buffer.drain(..keep_from);
        self.start -= keep_from;
        self.searched -= keep_from;
        if let Data::Line(line) = &mut self.data {
            *line = line.start - keep_from..line.end - keep_from;
        }
    }

    fn too_large(&self) -> Error {
        Error::protocol(format!("an event of more than {} bytes", self.limit))
    }
}

impl Line {
    fn read(line: &[u8]) -> Self {
        if line.is_empty() {
            Self::Blank
        } else if let Some(value) = value_of(b"data", line) {
            Self::Data(value.len())
        } else if line[0] == b'{' {
            Self::Alone { value: line.len(), is_error: false }
        } else if let Some(value) = value_of(b"error", line) {
            Self::Alone { value: value.len(), is_error: true }
        } else if let Some(value) = value_of(b"event", line) {
            Self::Type { is_error: value.trim_ascii() == b"error" }
        } else {
            Self::Ignored
        }
    }
}

/// The value of the field `name`, without the one blank that may follow the colon.
fn value_of<'a>(name: &[u8], line: &'a [u8]) -> Option<&'a [u8]> {
    match line.strip_prefix(name)? {
        [] => Some(&[]),
        [b':', b' ', value @ ..] | [b':', value @ ..] => Some(value),
        _ => None,
    }
}

/// The place of the first CR or LF.
fn line_end(bytes: &[u8]) -> Option<usize> {
    memchr::memchr2(b'\n', b'\r', bytes)
}
