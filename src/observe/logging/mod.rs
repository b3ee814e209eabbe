//! The log: this crate's lines to standard error, and panics without their messages.
//!
//! Lines of other crates are left out: ureq's would repeat URLs and headers. The text of a panic is
//! left out as well, because it can quote the string that could not be sliced, which may be a
//! prompt; its place in the source is enough to find it. Keys are masked in every line, whoever wrote
//! it: a client may have sent one as the name of a model.
//!
//! Lines are written by a thread of their own (`spool`), so that neither a slow reader of standard
//! error nor a system call for each request holds up the workers, who all write to one log. Each thread
//! has a logger of its own, so that none waits while another one's line is put together.

mod async_writer;

use std::cell::OnceCell;
use std::io::{self, Write};
use std::panic;
use std::sync::OnceLock;

use log::{LevelFilter, Log, Metadata, Record};
use simplelog::{ConfigBuilder, WriteLogger};

use self::async_writer::AsyncWriter;
use crate::observe::redact::Redactor;

/// Where lines go, once the log was set up.
static WRITER: OnceLock<AsyncWriter> = OnceLock::new();

/// Sets the log up for the whole process. Later calls change nothing.
pub fn init(level: LevelFilter, redactor: Redactor) {
    let config = ConfigBuilder::new()
        .add_filter_allow_str(env!("CARGO_CRATE_NAME"))
        .set_time_format_rfc3339()
        .set_target_level(LevelFilter::Off)
        .set_location_level(LevelFilter::Off)
        .set_thread_level(LevelFilter::Off)
        .build();
    let writer = WRITER.get_or_init(|| match level {
        LevelFilter::Off => AsyncWriter::new_unbuffered(io::stderr()),
        _ => AsyncWriter::start(io::stderr()),
    });
    let new_logger = move || {
        *WriteLogger::new(level, config.clone(), RedactingWriter::new(redactor.clone(), writer))
    };
    // A second logger in one process is a test's doing.
    if log::set_boxed_logger(Box::new(PerThreadLogger { level, new_logger: Box::new(new_logger) }))
        .is_ok()
    {
        log::set_max_level(level);
    }
    panic::set_hook(Box::new(|info| {
        let thread = std::thread::current();
        let place = info.location().map(ToString::to_string).unwrap_or_default();
        log::error!("thread {:?} panicked at {place}", thread.name().unwrap_or("unnamed"));
    }));
}

/// Waits until all lines so far are written; to be called before the process ends.
pub fn flush() {
    if let Some(spool) = WRITER.get() {
        spool.flush();
    }
}

/// What one thread logs with.
type ThreadLogger = WriteLogger<RedactingWriter<&'static AsyncWriter>>;

thread_local! {
    static LOGGER: OnceCell<ThreadLogger> = const { OnceCell::new() };
}

/// A logger for each thread that logs.
struct PerThreadLogger {
    level: LevelFilter,
    new_logger: Box<dyn Fn() -> ThreadLogger + Send + Sync>,
}

impl Log for PerThreadLogger {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() <= self.level
    }

    fn log(&self, record: &Record<'_>) {
        // A thread at its very end has none any more.
        let _ = LOGGER.try_with(|logger| logger.get_or_init(&self.new_logger).log(record));
    }

    fn flush(&self) {
        flush();
    }
}

/// Cleans what is written, line by line: the logger writes a line in several pieces.
struct RedactingWriter<W> {
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
                let written = self.inner.write_all(self.redactor.redact(&line).as_bytes());
                self.line.clear();
                written?;
            }
        }
        Ok(bytes.len())
    }

    /// What is no whole line yet stays here.
    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::redact::Secret;

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
