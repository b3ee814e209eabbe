//! Builds the head of a response.
//!
//! Never writes it; [`super::Exchange`] does, together with the first bytes of the body. Invariant: a
//! header's value holds no control character, so that text from outside cannot add a header.

use std::io::Write;
use std::time::SystemTime;

use super::content::{ContentType, StreamFormat};
use super::{Exchange, Framing};
use crate::net::connection_guard::RequestHandle;

/// The body that a head describes.
#[derive(Clone, Copy)]
pub(super) enum BodyKind {
    /// A complete body: its type and length in bytes.
    Full(ContentType, usize),
    /// No body.
    Empty,
    /// A stream.
    Stream,
    /// A stream that is sent as one body of this length.
    Buffered(usize),
}

impl Exchange {
    /// Builds the head, and frees the memory that the request body held.
    pub(super) fn build_head(
        &mut self,
        status: u16,
        body: BodyKind,
        headers: &[(&str, &str)],
    ) -> Vec<u8> {
        self.status = Some(status);
        // The body itself has been dropped by now.
        self.reservation = None;
        if self.handle.as_ref().is_some_and(RequestHandle::is_last_response) {
            self.close_after_response();
        }
        let mut out = Vec::with_capacity(512);
        let reason = tiny_http::StatusCode(status).default_reason_phrase();
        let date = httpdate::fmt_http_date(SystemTime::now());
        // Writing to a Vec cannot fail.
        let _ = write!(out, "HTTP/1.1 {status} {reason}\r\nDate: {date}\r\n");
        self.write_body_headers(&mut out, status, body);
        let extra = self.extra_headers.iter().map(|(name, value)| (*name, value.as_str()));
        for (name, value) in headers.iter().copied().chain(extra) {
            write_header(&mut out, name, value);
        }
        if self.close_after {
            out.extend_from_slice(b"Connection: close\r\n");
        } else if self.framing == Framing::Buffered {
            out.extend_from_slice(b"Connection: keep-alive\r\n");
        }
        out.extend_from_slice(b"\r\n");
        out
    }

    fn write_body_headers(&self, out: &mut Vec<u8>, status: u16, body: BodyKind) {
        let is_stream = matches!(body, BodyKind::Stream | BodyKind::Buffered(_));
        if !is_stream || !self.stream_format.has_request_id() {
            write_header(out, "X-Request-Id", &self.request_id);
        }
        if let Some(name) = &self.upstream {
            write_header(out, "X-Upstream", name);
        }
        if is_stream {
            self.write_stream_headers(out);
        }
        match body {
            BodyKind::Full(kind, length) => {
                write_header(out, "Content-Type", kind.0);
                write_header(out, "Content-Length", &length.to_string());
            }
            BodyKind::Buffered(length) => {
                write_header(out, "Content-Length", &length.to_string());
            }
            // A 204 must not have a Content-Length, not even 0, and that of a 304 would be the length of the
            // body that it stands for (RFC 9110 section 8.6).
            BodyKind::Empty if matches!(status, 204 | 304) => {}
            BodyKind::Empty => write_header(out, "Content-Length", "0"),
            BodyKind::Stream if self.framing == Framing::Chunked => {
                write_header(out, "Transfer-Encoding", "chunked");
            }
            BodyKind::Stream => {}
        }
    }

    fn write_stream_headers(&self, out: &mut Vec<u8>) {
        match &self.stream_format {
            StreamFormat::Lines => write_header(out, "Content-Type", ContentType::LINES.0),
            StreamFormat::Events => {
                write_header(out, "Content-Type", ContentType::EVENTS.0);
                // As in Ollama's event streams.
                write_header(out, "Cache-Control", "no-cache");
                if !self.close_after && self.framing != Framing::Buffered {
                    write_header(out, "Connection", "keep-alive");
                }
            }
            StreamFormat::Passthrough(head) => {
                head.headers.iter().for_each(|(name, value)| write_header(out, name, value));
            }
        }
    }
}

/// Appends a header. The value may come from an upstream, so control characters are left out.
fn write_header(out: &mut Vec<u8>, name: &str, value: &str) {
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b": ");
    value.split(char::is_control).for_each(|part| out.extend_from_slice(part.as_bytes()));
    out.extend_from_slice(b"\r\n");
}
