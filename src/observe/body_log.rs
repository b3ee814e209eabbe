//! The log of bodies, which the operator turns on to find a fault.
//!
//! Without `LOG_BODIES` and log level trace there is no [`BodyLogger`], and without a logger no body
//! can be logged. Invariants: a log line has a size limit, whatever the size of the body; and no line
//! contains a key, not even the first half of one.
//!
//! Of each body or event up to 16 KiB are logged, with keys masked. A warning at the start says
//! that bodies are logged.

use log::Level;

use crate::observe::redact::Redactor;

/// Logged bytes of a body, or of an event or line of a stream.
const MAX_LOGGED_BYTES: usize = 16 * 1024;

/// Makes the loggers of requests, if bodies are logged.
#[derive(Debug, Default)]
pub struct BodyLog(Option<Redactor>);

/// Logs the bodies of one request.
#[derive(Debug)]
pub struct BodyLogger {
    redactor: Redactor,
    request_id: String,
}

/// Logs a body that arrives in pieces line by line, because a piece may end inside a key.
#[derive(Debug)]
pub struct LineLogger {
    logger: BodyLogger,
    label: &'static str,
    /// The line so far.
    line: BoundedBuffer,
}

impl BodyLog {
    /// A log that masks keys; it logs nothing unless `enabled`.
    pub fn new(enabled: bool, redactor: Redactor) -> Self {
        Self(enabled.then_some(redactor))
    }

    /// The logger of a request; `None` if bodies are not logged.
    pub fn logger(&self, request_id: &str) -> Option<BodyLogger> {
        let redactor = self.0.as_ref().filter(|_| log::log_enabled!(Level::Trace))?;
        Some(BodyLogger { redactor: redactor.clone(), request_id: request_id.to_owned() })
    }

    /// Logs one body, which may be in pieces, if bodies are logged.
    pub fn log<'a>(
        &self,
        request_id: &str,
        what: &str,
        pieces: impl IntoIterator<Item = &'a [u8]>,
    ) {
        if let Some(logger) = self.logger(request_id) {
            logger.write(what, &BoundedBuffer::collect(pieces));
        }
    }
}

impl BodyLogger {
    /// Logs a body, or an event of a stream.
    pub fn log(&self, what: &str, body: &[u8]) {
        self.write(what, &BoundedBuffer::collect([body]));
    }

    /// A logger for a body that arrives in pieces.
    #[must_use]
    pub fn into_line_logger(self, label: &'static str) -> LineLogger {
        LineLogger { logger: self, label, line: BoundedBuffer::default() }
    }

    fn write(&self, what: &str, body: &BoundedBuffer) {
        if body.length > 0 {
            let text = body.render(&self.redactor);
            log::trace!("{} {what}, {} bytes: {text}", self.request_id, body.length);
        }
    }
}

impl LineLogger {
    /// Takes the next piece, and logs the lines that it completes.
    pub fn push(&mut self, piece: &[u8]) {
        for part in piece.split_inclusive(|byte| *byte == b'\n') {
            self.line.append(part);
            if part.ends_with(b"\n") {
                self.log_line();
            }
        }
    }

    fn log_line(&mut self) {
        let line = std::mem::take(&mut self.line);
        if !line.start.iter().all(u8::is_ascii_whitespace) {
            self.logger.write(self.label, &line);
        }
    }
}

impl Drop for LineLogger {
    fn drop(&mut self) {
        self.log_line();
    }
}

/// The part of a body that is logged, and the length of the whole body.
#[derive(Debug, Default)]
struct BoundedBuffer {
    /// One byte more than is logged, which shows where a character ends.
    start: Vec<u8>,
    length: usize,
}

impl BoundedBuffer {
    fn collect<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> Self {
        let mut buffer = Self::default();
        pieces.into_iter().for_each(|piece| buffer.append(piece));
        buffer
    }

    fn append(&mut self, piece: &[u8]) {
        let free = (MAX_LOGGED_BYTES + 1).saturating_sub(self.start.len());
        self.start.extend_from_slice(&piece[..piece.len().min(free)]);
        self.length += piece.len();
    }

    /// The body as the log shows it: on one line, within the size limit, without keys.
    fn render(&self, redactor: &Redactor) -> String {
        if self.length <= MAX_LOGGED_BYTES {
            return format!("{:?}", redactor.redact(&String::from_utf8_lossy(&self.start)));
        }
        let mut end = MAX_LOGGED_BYTES;
        // Cut between two characters.
        while end > 0 && self.start[end] & 0xc0 == 0x80 {
            end -= 1;
        }
        format!("{:?}...", redactor.redact_truncated(&String::from_utf8_lossy(&self.start[..end])))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::redact::Secret;

    fn redactor() -> Redactor {
        Redactor::new([Secret::new("topsecret-1")])
    }

    fn render(pieces: &[&str]) -> String {
        let pieces = pieces.iter().map(|piece| piece.as_bytes());
        BoundedBuffer::collect(pieces).render(&redactor())
    }

    #[test]
    fn a_line_has_a_bound_and_no_key() {
        let shown = |body: &str| render(&[body]);
        assert_eq!(shown("a \"b\"\n"), r#""a \"b\"\n""#);
        assert_eq!(shown("it is topsecret-1"), "\"it is ***\"");
        assert_eq!(
            shown(&"é".repeat(MAX_LOGGED_BYTES)),
            format!("\"{}\"...", "é".repeat(MAX_LOGGED_BYTES / 2))
        );
        let odd = format!("x{}", "é".repeat(MAX_LOGGED_BYTES));
        assert_eq!(shown(&odd), format!("\"x{}\"...", "é".repeat(MAX_LOGGED_BYTES / 2 - 1)));
        // What the documentation promises.
        assert!(
            shown(&"x".repeat(16_384)).ends_with("x\"")
                && shown(&"x".repeat(16_385)).ends_with("...")
        );
        // The cut goes through the key.
        let cut = format!("{}topsecret-1 and more", "x".repeat(MAX_LOGGED_BYTES - 5));
        assert_eq!(shown(&cut), format!("\"{}\"...", "x".repeat(MAX_LOGGED_BYTES - 5)));
    }

    #[test]
    fn a_body_in_pieces_is_logged_as_a_whole_one() {
        let check = |pieces: &[&str]| {
            let whole = pieces.concat();
            let parts = pieces.iter().map(|piece| piece.as_bytes());
            assert_eq!(BoundedBuffer::collect(parts).length, whole.len());
            assert!(render(pieces) == render(&[&whole]));
        };
        check(&[]);
        check(&["a ", "topsec", "ret-1"]);
        let (most, more) = ("x".repeat(MAX_LOGGED_BYTES), "é".repeat(MAX_LOGGED_BYTES));
        check(&[&most]);
        check(&["a", &most, "b"]);
        check(&["a", &more, "b", &more]);
        check(&[&most[2..], &more]);
        check(&[&most[5..], "topsecret-1", &most]);
    }

    #[test]
    fn pieces_are_put_together_to_lines_of_bounded_size() {
        let logger = BodyLogger { redactor: redactor(), request_id: String::new() };
        let mut lines = logger.into_line_logger("answer");
        lines.push(b"it is topsec");
        assert_eq!(
            (lines.line.start.as_slice(), lines.line.length),
            (b"it is topsec".as_slice(), 12)
        );
        lines.push(b"ret-1\nnext");
        assert_eq!((lines.line.start.as_slice(), lines.line.length), (b"next".as_slice(), 4));
        for _ in 0..10 {
            lines.push(&[b'x'; MAX_LOGGED_BYTES]);
        }
        assert_eq!(
            (lines.line.start.len(), lines.line.length),
            (MAX_LOGGED_BYTES + 1, 10 * MAX_LOGGED_BYTES + 4)
        );
    }
}
