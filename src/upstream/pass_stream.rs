//! A body that is passed on, in the pieces in which the upstream sends it.
//!
//! Never changes a byte; a body is looked at only where nothing else tells whether it is complete or an error.
//! An error that it tells of behind its beginning is the client's, and is noted for log and metrics: an event
//! in a stream, however its bytes are split, and a whole body of up to 64 KiB.
//! Invariant: what was read to find an error is the first piece.

use std::sync::LazyLock;
use std::time::Instant;

use memchr::memmem;

use super::pass_response::{PassPieces, Piece};
use super::response::StreamedBody;
use super::{Patience, in_band};
use crate::api::openai::pass_head::PassHead;
use crate::api::openai::sse_end::EndDetector;
use crate::api::wire::sse::{Decoder, Event};
use crate::error::{Error, Result};
use crate::observe::body_log::LineLogger;

/// Whole responses up to this length are buffered: if the upstream cuts one short, the client still
/// gets an error status. No more is read of others to find an error.
pub(super) const MAX_BUFFERED_BYTES: u64 = 64 * 1024;

/// Bytes by which a whole body of unknown length shows whether it may be an error.
const MIN_BEGINNING_BYTES: usize = 256;

/// Bytes that one read takes from a response.
const READ_BUFFER_BYTES: usize = 16 * 1024;

/// What ends a stream of events, with the blank line behind it.
const DONE_MARKERS: [&[u8]; 2] = [b"[DONE]\n\n", b"[DONE]\r\n\r\n"];

/// The last bytes of a piece that are kept: the longest of these markers, and the beginnings of what reports
/// an error, see [`reports_error`].
const TAIL_BYTES: usize = 32;

/// Bytes of the next piece that are looked at together with them.
const OVERLAP_BYTES: usize = 64;

/// A body as the upstream sends it.
pub(super) struct PassStream {
    body: StreamedBody,
    buffer: Box<[u8]>,
    is_event_stream: bool,
    /// A stream of events or lines may go on for as long as each of its lines ends in time.
    has_lines: bool,
    /// What was read in advance.
    held: Vec<u8>,
    /// The last bytes of a stream of events; the first ones of a line of JSON.
    tail: Vec<u8>,
    /// Whether an event, or the whole body, reported an error.
    reports_error: bool,
    /// A body that is no stream, as long as it may be an error.
    whole: Option<Vec<u8>>,
    /// Finds the end of a stream of events that only the end of its connection delimits.
    end_detector: Option<Box<EndDetector>>,
    logger: Option<Box<LineLogger>>,
    early_failure: Option<Error>,
}

impl PassPieces for PassStream {
    fn next_piece(&mut self, wake_at: Option<Instant>) -> Result<Piece<'_>> {
        if !self.held.is_empty() {
            self.buffer = std::mem::take(&mut self.held).into_boxed_slice();
            return Ok(Piece::Bytes(&self.buffer));
        }
        if self.buffer.len() != READ_BUFFER_BYTES {
            self.buffer = vec![0; READ_BUFFER_BYTES].into_boxed_slice();
        }
        match self.body.read(&mut self.buffer, wake_at) {
            Ok(None) => Ok(Piece::Silence),
            Ok(Some(0)) => match &self.end_detector {
                Some(end) if !end.is_complete() => {
                    Err(self.body.count_failure(Error::IncompleteStream))
                }
                _ => {
                    let is_error = self.whole.take().is_some_and(|body| in_band::is_error(&body));
                    let is_line = self.has_lines && !self.is_event_stream;
                    self.reports_error |= is_error || is_line && is_error_line(&self.tail);
                    Ok(Piece::End)
                }
            },
            Ok(Some(first)) => {
                let length = self.take_piece(first);
                Ok(Piece::Bytes(&self.buffer[..length]))
            }
            // Nothing is missing behind the marker.
            Err(_) if self.is_done() => Ok(Piece::End),
            Err(error) => Err(self.body.count_failure(error)),
        }
    }

    fn reported_error(&self) -> Option<Error> {
        let error = Error::upstream_in_band(500, "");
        self.reports_error.then_some(error)
    }
}

impl PassStream {
    /// The pieces of a body.
    pub(super) fn new(
        body: StreamedBody,
        head: &PassHead,
        ends_with_connection: bool,
        logger: Option<LineLogger>,
    ) -> Self {
        let is_event_stream = head.is_event_stream();
        let has_lines = is_event_stream || head.is_ndjson();
        Self {
            body,
            buffer: vec![0; READ_BUFFER_BYTES].into_boxed_slice(),
            is_event_stream,
            has_lines,
            held: Vec::new(),
            tail: Vec::new(),
            reports_error: false,
            whole: (!has_lines && head.may_be_json()).then(Vec::new),
            end_detector: (is_event_stream && ends_with_connection).then(Box::default),
            logger: logger.map(Box::new),
            early_failure: None,
        }
    }

    /// Why the stream ended before its first event, so that another upstream may be asked.
    pub(super) fn early_failure(&mut self) -> Option<Error> {
        self.early_failure.take()
    }

    /// Waits for the first bytes, and keeps them: another upstream may still be asked.
    pub(super) fn wait_for_first(&mut self) -> Result<()> {
        match self.body.read(&mut self.buffer, None)? {
            None => Ok(()),
            Some(0) => Err(Error::IncompleteStream),
            Some(first) => {
                let length = self.take_piece(first);
                self.held.extend_from_slice(&self.buffer[..length]);
                Ok(())
            }
        }
    }

    /// Fills the buffer, of which the first bytes were read; returns the length of the piece.
    fn take_piece(&mut self, first: usize) -> usize {
        let length = self.body.fill(&mut self.buffer, first);
        // From the end, because the last byte is nearly always a line feed.
        let is_line_end = |byte: &u8| matches!(byte, b'\n' | b'\r');
        if self.has_lines && self.buffer[..length].iter().rev().any(is_line_end) {
            self.body.deadline.reset();
        }
        if self.is_event_stream {
            self.track_event_end(length);
        } else if self.has_lines {
            self.track_lines(length);
        } else if let Some(mut whole) = self.whole.take() {
            whole.extend_from_slice(&self.buffer[..length]);
            let is_short = whole.len() as u64 <= MAX_BUFFERED_BYTES;
            self.whole = Some(whole).filter(|whole| is_short && may_be_error(whole));
        }
        if let Some(logger) = &mut self.logger {
            logger.push(&self.buffer[..length]);
        }
        length
    }

    /// The error that the body is, or with which its events begin. Waits for the first event, but not for
    /// longer than `patience`; for the end of a body only if it may be an error. All bytes are kept.
    pub(super) fn find_error(&mut self, head: &PassHead, patience: &Patience) -> Option<Vec<u8>> {
        let mut decoder = self.is_event_stream.then(Decoder::new);
        if decoder.is_none() && !head.may_be_json() {
            return None;
        }
        let mut until = patience.silence_until();
        loop {
            match decoder.as_mut().map(Decoder::next_event) {
                Some(Ok(Some(Event::Error(data)))) => return Some(data.to_vec()),
                Some(Ok(Some(Event::Data(data)))) => {
                    return in_band::is_error(data).then(|| data.to_vec());
                }
                Some(Err(_)) => return None,
                None if !may_be_error(&self.held) => return None,
                _ => {}
            }
            if self.held.len() as u64 >= MAX_BUFFERED_BYTES {
                return None;
            }
            match self.body.read(&mut self.buffer, until) {
                Ok(None) => return None,
                Ok(Some(0)) if decoder.is_none() && in_band::is_error(&self.held) => {
                    return Some(std::mem::take(&mut self.held));
                }
                Ok(Some(0)) => {
                    self.early_failure = decoder.is_some().then_some(Error::IncompleteStream);
                    return None;
                }
                Ok(Some(first)) => {
                    let length = self.take_piece(first);
                    let piece = &self.buffer[..length];
                    if self.held.is_empty() && decoder.is_some() {
                        until = Some(Instant::now() + patience.behind_bytes);
                    }
                    self.held.extend_from_slice(piece);
                    decoder.iter_mut().for_each(|decoder| decoder.push(piece));
                }
                Err(error) => {
                    self.early_failure = decoder.is_some().then(|| error.clone());
                    self.body.postpone(error);
                    return None;
                }
            }
        }
    }

    /// Notes the end of a piece of events, which has this length.
    fn track_event_end(&mut self, length: usize) {
        let piece = &self.buffer[..length];
        if let Some(end) = &mut self.end_detector {
            end.push(piece);
        }
        if !self.reports_error {
            let beginning = &piece[..length.min(OVERLAP_BYTES)];
            self.reports_error = reports_error(&[&self.tail, beginning].concat());
            self.reports_error |= length > OVERLAP_BYTES && reports_error(piece);
        }
        self.tail.extend_from_slice(&piece[length.saturating_sub(TAIL_BYTES)..]);
        self.tail.drain(..self.tail.len().saturating_sub(TAIL_BYTES));
    }

    /// Notes the beginnings of the lines in a piece, which has this length.
    fn track_lines(&mut self, length: usize) {
        for part in self.buffer[..length].split_inclusive(|byte| *byte == b'\n') {
            let room = OVERLAP_BYTES.saturating_sub(self.tail.len());
            self.tail.extend_from_slice(&part[..part.len().min(room)]);
            if part.ends_with(b"\n") {
                self.reports_error |= is_error_line(&self.tail);
                self.tail.clear();
            }
        }
    }

    /// Whether the marker that ends a stream has come.
    fn is_done(&self) -> bool {
        DONE_MARKERS.iter().any(|marker| self.tail.ends_with(marker))
    }
}

/// Whether the beginning of a whole body may be that of an error: a response to a chat has choices.
fn may_be_error(beginning: &[u8]) -> bool {
    if !matches!(beginning.trim_ascii_start().first(), None | Some(b'{' | b'[')) {
        return false;
    }
    let is_short = beginning.len() < MIN_BEGINNING_BYTES;
    let has = |member: &[u8]| memmem::find(beginning, member).is_some();
    is_short || (has(br#""error""#) && !has(br#""choices""#))
}

/// Whether a piece of events holds a member `error` with an object or a text in it, or an event whose type
/// or name is `error`. Quotes and line feeds inside the model's text are escaped, so that no text looks like
/// these.
fn reports_error(piece: &[u8]) -> bool {
    static WORD: LazyLock<memmem::Finder<'_>> = LazyLock::new(|| memmem::Finder::new(b"error"));
    WORD.find_iter(piece).any(|place| {
        let (before, after) = (&piece[..place], &piece[place + b"error".len()..]);
        is_error_member(before, after) || is_error_event(before, after)
    })
}

/// Whether a line of JSON is an error, by its beginning.
fn is_error_line(line: &[u8]) -> bool {
    let member = line.trim_ascii_start().strip_prefix(b"{").map(<[u8]>::trim_ascii_start);
    let rest = member.and_then(|member| member.strip_prefix(b"\"error"));
    rest.is_some_and(|rest| is_error_member(b"\"", rest))
}

/// Whether `error` between these is a member whose value says something.
fn is_error_member(before: &[u8], after: &[u8]) -> bool {
    let value = after.strip_prefix(b"\"").map(<[u8]>::trim_ascii_start);
    let value = value.and_then(|rest| rest.strip_prefix(b":")).map(<[u8]>::trim_ascii_start);
    let Some(value) = value.filter(|_| before.ends_with(b"\"")) else { return false };
    // Of a value that is split, the rest is looked at with the next piece.
    let is_blank = value.starts_with(br#""""#) || value.starts_with(b"{}") || value.len() < 2;
    !is_blank && matches!(value.first(), Some(b'{' | b'"'))
}

/// Whether `error` between these is the name of an event, or its type, as the first member of its data.
fn is_error_event(before: &[u8], after: &[u8]) -> bool {
    let field = |name: &[u8]| {
        let rest = before.trim_ascii_end().strip_suffix(b":")?.strip_suffix(name)?;
        Some(rest.is_empty() || rest.ends_with(b"\n") || rest.ends_with(b"\r"))
    };
    let is_name = matches!(after.first(), Some(b'\n' | b'\r')) && field(b"event") == Some(true);
    let data = before.strip_suffix(b"\"").map(<[u8]>::trim_ascii_end);
    let data = data.and_then(|it| it.strip_suffix(b":")).map(<[u8]>::trim_ascii_end);
    let data = data.and_then(|it| it.strip_suffix(b"\"type\"")).map(<[u8]>::trim_ascii_end);
    let data = data.and_then(|it| it.strip_suffix(b"{")).map(<[u8]>::trim_ascii_end);
    let is_type = after.starts_with(b"\"") && data.is_some_and(|it| it.ends_with(b"data:"));
    is_name || is_type
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_error_that_says_something_is_one() {
        for event in [
            r#"data: {"error":{"message":"overloaded"}}"#,
            r#"data: {"id":"x","error": "overloaded"}"#,
            r#"data: {"x_groq":{"error":"overloaded"}}"#,
            r#"data: {"type":"error","code":"server_error","message":"overloaded"}"#,
            r#"data:{ "type" : "error" ,"message":"overloaded"}"#,
            "event: error\ndata: overloaded",
            "data: {}\n\nevent:error\r\ndata: {}",
        ] {
            assert!(reports_error(event.as_bytes()), "{event}");
        }
        for event in [
            r#"data: {"error":null,"choices":[]}"#,
            r#"data: {"error":{},"choices":[]}"#,
            r#"data: {"error":"","choices":[]}"#,
            r#"data: {"error":false}"#,
            r#"data: {"type":"response.created","tools":[{"type":"error","name":"error"}]}"#,
            r#"data: {"choices":[{"delta":{"content":"event: error\nerror"}}]}"#,
            "event: errors\ndata: {}",
            ": error\n\nevent: message\ndata: error",
            "data: an event: error\n",
            r#"data: {"choices":[{"delta":{"content":"{\"error\":\"x\"}"}}]}"#,
        ] {
            assert!(!reports_error(event.as_bytes()), "{event}");
        }
    }

    #[test]
    fn a_line_is_an_error_if_it_begins_with_one() {
        for (line, expected) in [
            ("{\"error\":\"overloaded\"}\n", true),
            (" { \"error\" : {\"message\":\"x\"}}", true),
            ("{\"error\":\"\"}\n", false),
            ("{\"message\":{\"tool_calls\":[{\"arguments\":{\"error\":\"x\"}}]}}\n", false),
            ("", false),
        ] {
            assert_eq!(is_error_line(line.as_bytes()), expected, "{line}");
        }
    }

    #[test]
    fn an_error_is_seen_wherever_it_is_split() {
        for event in [
            "data: {\"id\":\"x\", \"error\": {\"message\":\"overloaded\"}}\n\n",
            "data: {\"type\":\"error\",\"message\":\"overloaded\"}\n\n",
            "event: error\ndata: overloaded\n\n",
        ] {
            for place in 0..event.len() {
                let (first, second) = event.as_bytes().split_at(place);
                let tail = &first[first.len().saturating_sub(TAIL_BYTES)..];
                let beginning = &second[..second.len().min(OVERLAP_BYTES)];
                let is_seen = reports_error(first) || reports_error(&[tail, beginning].concat());
                assert!(is_seen, "{event} at {place}");
            }
        }
        let blank = br#"data: {"error":{},"choices":[]}"#;
        for place in 0..blank.len() {
            assert!(!reports_error(&blank[..place]), "{place}");
        }
    }
}
