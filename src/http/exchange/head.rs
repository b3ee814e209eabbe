//! The head of an answer.

use std::io::Write;
use std::time::SystemTime;

use super::content::{ContentType, Stream};
use super::{Exchange, Framing};
use crate::net::connection_guard::Ticket;

/// What the head of an answer tells of its body.
#[derive(Clone, Copy)]
pub(super) enum Body {
    /// Its type and length in bytes.
    Whole(ContentType, usize),
    /// There is none.
    None,
    /// The stream, as it comes.
    Stream,
    /// The stream, in one piece of this length.
    Gathered(usize),
}

impl Exchange {
    /// The head of an answer: with a length for a whole body, without one for a stream.
    pub(super) fn head(&mut self, status: u16, body: Body, headers: &[(&str, &str)]) -> Vec<u8> {
        self.status = Some(status);
        // Whoever answers has let go of the question, and whoever is answered may ask the next one.
        self.lease = None;
        if self.ticket.as_ref().is_some_and(Ticket::is_last) {
            self.condemn();
        }
        let mut out = Vec::with_capacity(512);
        let date = httpdate::fmt_http_date(SystemTime::now());
        // Writing to a Vec cannot fail.
        let _ = write!(out, "HTTP/1.1 {status} {}\r\nDate: {date}\r\n", reason(status));
        if !matches!(body, Body::Stream | Body::Gathered(_)) || !self.stream.has_request_id() {
            let _ = write!(out, "X-Request-Id: {}\r\n", self.request_id);
        }
        match body {
            Body::Whole(kind, length) => {
                let _ = write!(out, "Content-Type: {}\r\n", kind.value());
                let _ = write!(out, "Content-Length: {length}\r\n");
            }
            // A 204 has no length, not even 0 (RFC 9110, 8.6).
            Body::None if status == 204 => {}
            Body::None => out.extend_from_slice(b"Content-Length: 0\r\n"),
            Body::Stream => {
                self.stream_head(&mut out);
                if self.framing == Framing::Chunked {
                    out.extend_from_slice(b"Transfer-Encoding: chunked\r\n");
                }
            }
            Body::Gathered(length) => {
                self.stream_head(&mut out);
                let _ = write!(out, "Content-Length: {length}\r\n");
            }
        }
        let extra = self.extra.iter().map(|(name, value)| (*name, value.as_str()));
        for (name, value) in headers.iter().copied().chain(extra) {
            header_line(&mut out, name, value);
        }
        if self.close {
            out.extend_from_slice(b"Connection: close\r\n");
        } else if self.framing == Framing::AtOnce {
            out.extend_from_slice(b"Connection: keep-alive\r\n");
        }
        out.extend_from_slice(b"\r\n");
        out
    }

    /// What the head says of a stream's kind.
    fn stream_head(&self, out: &mut Vec<u8>) {
        match &self.stream {
            Stream::Lines => header_line(out, "Content-Type", ContentType::Lines.value()),
            Stream::Events => {
                header_line(out, "Content-Type", ContentType::Events.value());
                // As Ollama's streams of events have it (14.6, 15.4).
                header_line(out, "Cache-Control", "no-cache");
                if !self.close && self.framing != Framing::AtOnce {
                    header_line(out, "Connection", "keep-alive");
                }
            }
            Stream::Passed(head) => {
                head.headers.iter().for_each(|(name, value)| header_line(out, name, value));
            }
        }
    }
}

/// Appends a header. Part of it may be somebody else's text, which must not become a line of its own.
fn header_line(out: &mut Vec<u8>, name: &str, value: &str) {
    let value = value.replace(|character: char| character.is_control(), "");
    // Writing to a Vec cannot fail.
    let _ = write!(out, "{name}: {value}\r\n");
}

/// The reason phrase; clients ignore it.
fn reason(status: u16) -> &'static str {
    tiny_http::StatusCode(status).default_reason_phrase()
}
