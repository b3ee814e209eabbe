//! The log of bodies: what clients ask and the upstream answers, for operators who look for a fault.
//!
//! Nothing of it happens unless `LOG_BODIES` is on and the log level is trace: without both there is
//! no [`BodyLogger`], and whoever holds none cannot log a body. Invariants: a line has a bound, whatever the
//! body; and no key stands in it, not even the first half of one.

use log::Level;

use crate::observe::redact::Redactor;

/// Bytes of a body, or of an event or line of one, that are logged.
const MAX_LOGGED_BYTES: usize = 16 * 1024;

/// Whether bodies are logged, and how they are cleaned.
#[derive(Debug, Default)]
pub struct BodyLog {
    enabled: bool,
    redactor: Redactor,
}

/// Logs the bodies of one request.
#[derive(Debug)]
pub struct BodyLogger {
    redactor: Redactor,
    request_id: String,
}

/// Logs a body that comes in pieces line by line, because a piece may end inside a key.
#[derive(Debug)]
pub struct LineLogger {
    logger: BodyLogger,
    label: &'static str,
    /// The line so far.
    line: BoundedBuffer,
}

impl BodyLog {
    /// A log that is written only when `on`.
    #[must_use]
    pub fn new(enabled: bool, redactor: Redactor) -> Self {
        Self { enabled, redactor }
    }

    /// What logs the bodies of a request; `None` when they are not to be logged.
    #[must_use]
    pub fn logger(&self, request_id: &str) -> Option<BodyLogger> {
        let on = self.enabled && log::log_enabled!(Level::Trace);
        let tap =
            || BodyLogger { redactor: self.redactor.clone(), request_id: request_id.to_owned() };
        on.then(tap)
    }

    /// Logs one body, if bodies are to be logged.
    pub fn log(&self, request_id: &str, what: &str, body: &[u8]) {
        if let Some(tap) = self.logger(request_id) {
            tap.log(what, body);
        }
    }

    /// The same for a body that is held in pieces.
    pub fn log_pieces<'a>(
        &self,
        request_id: &str,
        what: &str,
        pieces: impl Iterator<Item = &'a [u8]>,
    ) {
        if let Some(tap) = self.logger(request_id) {
            tap.log_pieces(what, pieces);
        }
    }
}

impl BodyLogger {
    /// Logs a body that is held in pieces.
    fn log_pieces<'a>(&self, what: &str, pieces: impl Iterator<Item = &'a [u8]>) {
        let mut held = BoundedBuffer::default();
        pieces.for_each(|piece| held.append(piece));
        self.write(what, &held.bytes, held.total_length);
    }

    /// Logs a body, or an event of one.
    pub fn log(&self, what: &str, body: &[u8]) {
        self.write(what, body, body.len());
    }

    /// For a body that comes in pieces.
    #[must_use]
    pub fn into_line_logger(self, label: &'static str) -> LineLogger {
        LineLogger { logger: self, label, line: BoundedBuffer::default() }
    }

    fn write(&self, what: &str, held: &[u8], length: usize) {
        if length > 0 {
            let text = render(&self.redactor, held, length);
            log::trace!("{} {what}, {length} bytes: {text}", self.request_id);
        }
    }
}

impl LineLogger {
    /// Takes the next piece.
    pub fn push(&mut self, piece: &[u8]) {
        for part in piece.split_inclusive(|byte| *byte == b'\n') {
            self.line.append(part);
            if part.ends_with(b"\n") {
                self.log_line();
            }
        }
    }

    /// Logs what is held.
    fn log_line(&mut self) {
        let held = std::mem::take(&mut self.line);
        let blank = held.bytes.iter().all(u8::is_ascii_whitespace);
        self.logger.write(self.label, &held.bytes, if blank { 0 } else { held.total_length });
    }
}

impl Drop for LineLogger {
    fn drop(&mut self) {
        self.log_line();
    }
}

/// As much of a body as is logged, and how long all of it is.
#[derive(Debug, Default)]
struct BoundedBuffer {
    bytes: Vec<u8>,
    /// Bytes of all of it, those included that are not held.
    total_length: usize,
}

impl BoundedBuffer {
    fn append(&mut self, piece: &[u8]) {
        // One byte more than is logged tells where a character ends.
        let room = (MAX_LOGGED_BYTES + 1).saturating_sub(self.bytes.len());
        self.bytes.extend_from_slice(&piece[..piece.len().min(room)]);
        self.total_length += piece.len();
    }
}

/// A body as the log shows it: on one line, within its bound, without keys.
fn render(redactor: &Redactor, held: &[u8], length: usize) -> String {
    if length <= MAX_LOGGED_BYTES {
        return format!("{:?}", redactor.redact(&String::from_utf8_lossy(held)));
    }
    let mut end = MAX_LOGGED_BYTES.min(held.len());
    // The cut is not to make a mark of half a character.
    while end > 0 && held.get(end).is_some_and(|byte| byte & 0xc0 == 0x80) {
        end -= 1;
    }
    format!("{:?}...", redactor.redact_truncated(&String::from_utf8_lossy(&held[..end])))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::redact::Secret;

    fn redactor() -> Redactor {
        Redactor::new([Secret::new("topsecret-1")])
    }

    #[test]
    fn a_line_has_a_bound_and_no_key() {
        let shown = |body: &str| render(&redactor(), body.as_bytes(), body.len());
        assert_eq!(shown("a \"b\"\n"), r#""a \"b\"\n""#);
        assert_eq!(shown("it is topsecret-1"), "\"it is ***\"");
        assert_eq!(
            shown(&"é".repeat(MAX_LOGGED_BYTES)),
            format!("\"{}\"...", "é".repeat(MAX_LOGGED_BYTES / 2))
        );
        let odd = format!("x{}", "é".repeat(MAX_LOGGED_BYTES));
        assert_eq!(shown(&odd), format!("\"x{}\"...", "é".repeat(MAX_LOGGED_BYTES / 2 - 1)));
        // The cut goes through the key.
        let cut = format!("{}topsecret-1 and more", "x".repeat(MAX_LOGGED_BYTES - 5));
        assert_eq!(shown(&cut), format!("\"{}\"...", "x".repeat(MAX_LOGGED_BYTES - 5)));
    }

    #[test]
    fn a_body_in_pieces_is_logged_as_a_whole_one() {
        let check = |pieces: &[&str]| {
            let whole = pieces.concat();
            let mut held = BoundedBuffer::default();
            pieces.iter().for_each(|piece| held.append(piece.as_bytes()));
            assert_eq!(held.total_length, whole.len());
            let whole = render(&redactor(), whole.as_bytes(), whole.len());
            assert!(render(&redactor(), &held.bytes, held.total_length) == whole);
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
        let tap = BodyLogger { redactor: redactor(), request_id: String::new() };
        let mut lines = tap.into_line_logger("answer");
        lines.push(b"it is topsec");
        assert_eq!(
            (lines.line.bytes.as_slice(), lines.line.total_length),
            (b"it is topsec".as_slice(), 12)
        );
        lines.push(b"ret-1\nnext");
        assert_eq!((lines.line.bytes.as_slice(), lines.line.total_length), (b"next".as_slice(), 4));
        for _ in 0..10 {
            lines.push(&[b'x'; MAX_LOGGED_BYTES]);
        }
        assert_eq!(
            (lines.line.bytes.len(), lines.line.total_length),
            (MAX_LOGGED_BYTES + 1, 10 * MAX_LOGGED_BYTES + 4)
        );
    }
}
