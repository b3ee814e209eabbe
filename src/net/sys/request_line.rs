//! Finds requests that tiny_http would never finish.
//!
//! tiny_http 0.12 reads a request of HTTP/2 or HTTP/3 in the text form of HTTP/1 and then waits for it
//! to be answered, while nobody but itself has it: its thread and two descriptors are lost. Clients that
//! expect HTTP/2 begin each connection with such a request (RFC 9113 section 3.4).
//!
//! A [`HeadScanner`] follows what a thread of tiny_http reads: request lines, headers, and the short bodies
//! that it reads itself, however they are cut into segments. A longer body, or one in chunks, is read by
//! others, who leave what is behind it; the next request then begins with what the thread receives next.
//! Pure. Keeps a few bytes of a line and no more. One gap: a request that was sent before the response to
//! the one before it, in one segment with the end of that one's chunks.

use super::PREREAD_LIMIT;

/// Bytes of a header line that are kept: more than `Content-Length` and its value need.
const KEPT: usize = 64;

/// Ends a body in chunks.
const LAST_CHUNK: &[u8] = b"0\r\n\r\n";

/// Where the thread is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    RequestLine,
    Header,
    /// In a body that has so many bytes left.
    Body(usize),
    /// In a body that others read; what is received next begins a request.
    OthersBody,
}

/// What of a body the headers have told.
#[derive(Clone, Copy, Debug, Default)]
struct BodyHeaders {
    length: Option<usize>,
    is_chunked: bool,
    /// Others read it, whatever its length.
    is_others: bool,
}

/// What a thread has read of a connection.
#[derive(Clone, Copy, Debug)]
pub(super) struct HeadScanner {
    place: Place,
    body: BodyHeaders,
    /// The beginning of the line, and how long it is.
    line: [u8; KEPT],
    length: usize,
    last: u8,
    /// Spaces before the current word of the request line, once it has begun.
    spaces: Option<usize>,
    /// The third word, and how long it is.
    version: [u8; 8],
    version_length: usize,
}

impl HeadScanner {
    /// At the beginning of a connection.
    pub(super) const fn new() -> Self {
        Self {
            place: Place::RequestLine,
            body: BodyHeaders { length: None, is_chunked: false, is_others: false },
            line: [0; KEPT],
            length: 0,
            last: 0,
            spaces: None,
            version: [0; 8],
            version_length: 0,
        }
    }

    /// Whether it is in the middle of something; otherwise a request begins with what is received next.
    pub(super) fn is_inside(&self) -> bool {
        self.place != Place::OthersBody && (self.place != Place::RequestLine || self.length > 0)
    }

    /// Follows what was received; true if a request line of another version than HTTP/1 ends in it.
    pub(super) fn has_other_version(&mut self, mut received: &[u8]) -> bool {
        if self.place == Place::OthersBody {
            *self = Self::new();
        }
        while !received.is_empty() {
            if let Place::Body(left) = self.place {
                let read = left.min(received.len());
                received = &received[read..];
                self.place = Place::Body(left - read);
                if left == read {
                    *self = Self::new();
                }
                continue;
            }
            let end = memchr::memchr(b'\n', received).map_or(received.len(), |end| end + 1);
            let (part, rest) = received.split_at(end);
            received = rest;
            if !self.push(part) {
                continue;
            }
            if self.place == Place::RequestLine && self.is_other_version() {
                return true;
            }
            self.end_line();
            if self.place == Place::OthersBody {
                return self.body.is_chunked && has_other_version_behind_chunks(received);
            }
        }
        false
    }

    /// Adds a part without a line feed, but perhaps at its end, to the line; true if that ends the line.
    fn push(&mut self, part: &[u8]) -> bool {
        if self.place == Place::RequestLine {
            part.iter().for_each(|byte| self.push_word(*byte));
        }
        let kept = self.line.get_mut(self.length..).unwrap_or_default();
        for (place, byte) in kept.iter_mut().zip(part) {
            *place = *byte;
        }
        self.length += part.len();
        let before = part.len().checked_sub(2).map_or(self.last, |place| part[place]);
        self.last = part.last().copied().unwrap_or(self.last);
        before == b'\r' && self.last == b'\n'
    }

    /// tiny_http splits at each space what is left without white space around it.
    fn push_word(&mut self, byte: u8) {
        match (self.spaces, byte) {
            (None, byte) if byte.is_ascii_whitespace() => {}
            (None, _) => self.spaces = Some(0),
            (Some(spaces), b' ') => self.spaces = Some(spaces + 1),
            (Some(2), byte) if !byte.is_ascii_whitespace() => {
                if let Some(place) = self.version.get_mut(self.version_length) {
                    *place = byte;
                }
                self.version_length += 1;
            }
            (Some(_), _) => {}
        }
    }

    fn is_other_version(&self) -> bool {
        self.version_length == 8 && matches!(&self.version, b"HTTP/2.0" | b"HTTP/3.0")
    }

    /// Goes on behind a line.
    fn end_line(&mut self) {
        let (mut next, body) = (Self::new(), self.body);
        (next.place, next.body) = match self.place {
            // An empty one is no request: tiny_http closes the connection.
            Place::RequestLine => (Place::Header, BodyHeaders::default()),
            _ if self.length > b"\r\n".len() => (Place::Header, self.with_header(body)),
            _ => (place_behind_head(body), body),
        };
        *self = next;
    }

    /// What is known of the body behind this header, too.
    fn with_header(&self, mut body: BodyHeaders) -> BodyHeaders {
        let line = &self.line[..self.length.min(KEPT)];
        let Some(colon) = line.iter().position(|byte| *byte == b':') else { return body };
        let (name, value) = (line[..colon].trim_ascii(), line[colon + 1..].trim_ascii());
        let is = |expected: &[u8]| name.eq_ignore_ascii_case(expected);
        if is(b"Content-Length") {
            let number = std::str::from_utf8(value).ok().and_then(|value| value.parse().ok());
            body.length = body.length.or(number);
            body.is_others |= self.length > KEPT;
        } else if is(b"Transfer-Encoding") {
            body.is_chunked = true;
        } else if is(b"Expect") {
            body.is_others = true;
        } else if is(b"Connection") {
            let upgrade = b"upgrade";
            let is_upgrade = |part: &[u8]| part.eq_ignore_ascii_case(upgrade);
            body.is_others |= self.length > KEPT || value.windows(upgrade.len()).any(is_upgrade);
        }
        body
    }
}

fn place_behind_head(body: BodyHeaders) -> Place {
    match body.length {
        _ if body.is_chunked || body.is_others => Place::OthersBody,
        None | Some(0) => Place::RequestLine,
        Some(length) if length <= PREREAD_LIMIT => Place::Body(length),
        Some(_) => Place::OthersBody,
    }
}

/// Whether a request line of such a version follows the last chunk in what arrived with it.
pub(super) fn has_other_version_behind_chunks(received: &[u8]) -> bool {
    // A request line of HTTP/1.0 or HTTP/2.0 may look like a last chunk, too.
    let parts = received.windows(LAST_CHUNK.len()).enumerate();
    let mut last_chunks = parts.filter(|(_, part)| *part == LAST_CHUNK);
    last_chunks
        .any(|(at, _)| HeadScanner::new().has_other_version(&received[at + LAST_CHUNK.len()..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether it is found when the text arrives in segments of this length.
    fn is_found(text: &str, segment: usize) -> bool {
        let mut scanner = HeadScanner::new();
        text.as_bytes().chunks(segment).any(|bytes| scanner.has_other_version(bytes))
    }

    #[test]
    fn other_versions_are_found_however_they_arrive() {
        for text in [
            "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
            "GET / HTTP/3.0\r\nHost: h\r\n\r\n",
            "  GET / HTTP/2.0 x\r\n",
            "A: b HTTP/2.0\t\r\n",
            "GET / HTTP/1.1\r\nHost: h\r\n\r\nGET / HTTP/2.0\r\n\r\n",
            "POST / HTTP/1.1\r\ncontent-length : 7 \r\n\r\n{\"a\":1}GET / HTTP/2.0\r\n",
            "POST / HTTP/1.1\r\nContent-Length: 9\r\n\r\na b c\r\n\r\nGET / HTTP/2.0\r\n",
            "POST / HTTP/1.1\r\nContent-Length: 0\r\n\r\nGET / HTTP/2.0\r\n",
            &format!("GET /{} HTTP/2.0\r\n", "x".repeat(5000)),
        ] {
            for segment in [1, 2, 3, 7, 1024, 8192] {
                assert!(is_found(text, segment), "{text:?} in {segment}");
            }
        }
    }

    #[test]
    fn nothing_else_is_taken_for_one() {
        for text in [
            "",
            "GET / HTTP/1.1\r\nHost: h\r\nVia: HTTP/2.0 proxy\r\nX-Request: GET / HTTP/2.0\r\n\r\n{}",
            "GET / HTTP/1.1\r\nUpgrade: TLS/1.0, HTTP/2.0\r\n\r\n",
            "GET HTTP/2.0\r\n\r\n",
            "POST / HTTP/1.1\r\nContent-Length: 18\r\n\r\na b HTTP/2.0 c\r\n\r\nGET / HTTP/1.1\r\n\r\n",
            "POST / HTTP/1.1\r\nContent-Length: 27\r\n\r\n{\"a\":\"what is HTTP/2.0 for\"}",
            "GET / HTTP/2.01\r\n",
            "GET / HTTP/2.0",
            "GET  / HTTP/2.0\r\n",
            "HTTP/2.0 200 OK\r\n\r\n",
        ] {
            for segment in [1, 2, 3, 7, 1024, 8192] {
                assert!(!is_found(text, segment), "{text:?} in {segment}");
            }
        }
    }

    #[test]
    fn a_body_that_others_read_is_not_looked_at() {
        let long = format!("Content-Length: {}5", " ".repeat(KEPT));
        for header in [
            "Content-Length: 1025",
            "Transfer-Encoding: chunked",
            "Content-Length: 5\r\nExpect: 100-continue",
            "Content-Length: 5\r\nconnection: keep-alive, Upgrade",
            &long,
        ] {
            let mut scanner = HeadScanner::new();
            let head = format!("POST / HTTP/1.1\r\n{header}\r\n\r\na b HTTP/2.0\r\n");
            assert!(!scanner.has_other_version(head.as_bytes()), "{header}");
            assert!(!scanner.is_inside());
            assert!(scanner.has_other_version(b"GET / HTTP/2.0\r\n"), "the next request");
        }
    }

    #[test]
    fn a_request_behind_the_last_chunk_is_found() {
        let head = "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n";
        assert!(is_found(&format!("{head}GET / HTTP/3.0\r\n"), 8192));
        assert!(is_found(&format!("{head}GET / HTTP/2.0\r\n\r\n"), 8192));
        assert!(!is_found(&format!("{head}GET / HTTP/1.1\r\n"), 8192));
        assert!(has_other_version_behind_chunks(b"{}\r\n0\r\n\r\nGET / HTTP/2.0\r\n"));
        assert!(!has_other_version_behind_chunks(b"GET / HTTP/2.0\r\n"));
    }
}
