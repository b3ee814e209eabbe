//! The program's log: lines of this crate to standard error, and [`panics`] without their messages.
//!
//! Lines of other crates are left out: those of ureq would repeat URLs and headers. Keys are masked in every line: a client may send one as a model name.
//!
//! A thread of its own (`async_writer`) writes the lines, so that neither a slow reader of standard
//! error nor a system call for each request delays the workers. Each thread formats with a logger of
//! its own, so that no thread waits for another one's line.
//!
//! # What is logged
//!
//! - One line for each request: method, path without query, model, status, attempts, duration, the client's
//!   address, tokens, upstream, why access was refused, the error that ended it; one line for each failed attempt and for each repair, which names the upstream
//!   unless that is the one named `default`. No prompt and no response.
//! - A line has at most 4 KiB, unless it logs a body: names and errors of others may be of any length.
//! - Lines are written within 5 ms, and all of them before the process ends unless it is killed. If
//!   the reader of standard error stops reading, lines beyond 1 MiB are dropped; a request never
//!   waits.
//! - `LOG_BODIES=1` together with `LOG_LEVEL=trace` also logs what clients send, what goes upstream
//!   and what comes back; see [`crate::observe::body_log`].

mod async_writer;

use std::borrow::Cow;
use std::cell::OnceCell;
use std::io::{self, Write};
use std::sync::OnceLock;

use log::{LevelFilter, Log, Metadata, Record};
use simplelog::{Config, ConfigBuilder, WriteLogger};

use self::async_writer::AsyncWriter;
use crate::observe::panics;
use crate::observe::redact::Redactor;

/// The writer of the process; `None` inside if its thread could not be started.
static WRITER: OnceLock<Option<AsyncWriter>> = OnceLock::new();

/// Sets up the log for the whole process. Later calls change nothing.
pub fn init(level: LevelFilter, redactor: Redactor) {
    let config = ConfigBuilder::new()
        .add_filter_allow_str(env!("CARGO_CRATE_NAME"))
        .set_time_format_rfc3339()
        .set_target_level(LevelFilter::Off)
        .set_location_level(LevelFilter::Off)
        .set_thread_level(LevelFilter::Off)
        .build();
    // Only a test sets a second logger in one process.
    if log::set_boxed_logger(Box::new(PerThreadLogger { config, redactor })).is_ok() {
        set_level(level);
    }
    panics::install_hook();
}

/// Logs lines of this level and those that matter more from now on.
pub fn set_level(level: LevelFilter) {
    if level != LevelFilter::Off {
        WRITER.get_or_init(|| AsyncWriter::start(io::stderr()).ok());
    }
    log::set_max_level(level);
}

/// Waits until all lines logged so far are written, at most a second. Call it before the process ends.
pub fn flush() {
    if let Some(Some(writer)) = WRITER.get() {
        writer.flush();
    }
}

/// The longest line, in bytes, but for those of bodies, which have a limit of their own.
const MAX_LINE_BYTES: usize = 4096;

thread_local! {
    static LOGGER: OnceCell<WriteLogger<RedactingWriter>> = const { OnceCell::new() };
}

/// Formats each line with a logger of the calling thread.
struct PerThreadLogger {
    config: Config,
    redactor: Redactor,
}

impl Log for PerThreadLogger {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() <= log::max_level()
    }

    fn log(&self, record: &Record<'_>) {
        let new_logger = || {
            let out: Box<dyn Write + Send> = match WRITER.get() {
                Some(Some(writer)) => Box::new(writer),
                _ => Box::new(io::stderr()),
            };
            let writer = RedactingWriter::new(self.redactor.clone(), out);
            *WriteLogger::new(LevelFilter::Trace, self.config.clone(), writer)
        };
        // A thread that is ending has no logger any more: its last lines are dropped.
        let _ = LOGGER.try_with(|logger| logger.get_or_init(new_logger).log(record));
    }

    fn flush(&self) {
        flush();
    }
}

/// Masks keys in whole lines, because simplelog writes a line in several pieces.
struct RedactingWriter<W = Box<dyn Write + Send>> {
    redactor: Redactor,
    inner: W,
    line: Vec<u8>,
}

impl<W> RedactingWriter<W> {
    fn new(redactor: Redactor, inner: W) -> Self {
        Self { redactor, inner, line: Vec::new() }
    }
}

impl<W: Write> Write for RedactingWriter<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        for part in bytes.split_inclusive(|byte| *byte == b'\n') {
            self.line.extend_from_slice(part);
            if part.ends_with(b"\n") {
                let line = String::from_utf8_lossy(&self.line);
                let written =
                    self.inner.write_all(shorten(&self.redactor.redact(&line)).as_bytes());
                self.line.clear();
                written?;
            }
        }
        Ok(bytes.len())
    }

    /// Keeps an incomplete line.
    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

/// A line of at most [`MAX_LINE_BYTES`], and how much was cut off.
fn shorten(line: &str) -> Cow<'_, str> {
    let is_trace = || line.split(' ').nth(1) == Some("[TRACE]");
    if line.len() <= MAX_LINE_BYTES || is_trace() {
        return Cow::Borrowed(line);
    }
    let end = (0..MAX_LINE_BYTES - 40).rev().find(|at| line.is_char_boundary(*at)).unwrap_or(0);
    Cow::Owned(format!("{} ... ({} bytes more)\n", &line[..end], line.len() - end))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::redact::Secret;

    #[test]
    fn a_line_of_any_length_is_cut_and_one_with_a_body_is_not() {
        let long = format!("2026-11-30T18:00:00Z [WARN] {}\n", "é".repeat(9000));
        let short = shorten(&long);
        assert!(short.len() <= MAX_LINE_BYTES, "{}", short.len());
        assert!(short.ends_with("é ... (13975 bytes more)\n"), "{}", &short[short.len() - 40..]);
        assert_eq!(shorten(&short), short);
        let body = long.replacen("[WARN]", "[TRACE]", 1);
        assert_eq!(shorten(&body), body);
    }

    #[test]
    fn lines_are_cleaned_however_they_are_written() {
        let mut out = RedactingWriter::new(Redactor::new([Secret::new("topsecret-1")]), Vec::new());
        for piece in
            ["[INFO] model=\"topsec", "ret-1\"", "\nplain\nit is tops", "ecret-1 again\nrest"]
        {
            out.write_all(piece.as_bytes()).expect("a Vec");
        }
        out.flush().expect("a Vec");
        let written = String::from_utf8(out.inner).expect("UTF-8");
        assert_eq!(written, "[INFO] model=\"***\"\nplain\nit is *** again\n");
    }
}
