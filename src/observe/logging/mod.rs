//! The program's log: lines of this crate to standard error, as text or as JSON, and [`panics`] without
//! their messages.
//!
//! Lines of other crates are left out: those of ureq would repeat URLs and headers. Keys are masked in every
//! line: a client may send one as a model name. `line` makes both forms of a line from the same facts;
//! simplelog writes those of text (`text_lines`).
//!
//! A thread of its own (`async_writer`) writes the lines, so that neither a slow reader of standard
//! error nor a system call for each request delays the workers.
//!
//! # What is logged
//!
//! - One line for each request: client's address, method, path without query, route, model, upstream, status,
//!   attempts, duration, time to the first token of a stream, bytes of the response's body, tokens, why access
//!   was refused, the error that ended it; one line for each failed attempt and for each repair, which names
//!   the upstream unless that is the one named `default`. No prompt and no response.
//! - A line has at most 4 KiB, unless it logs a body: names and errors of others may be of any length. The
//!   longest texts lose their ends; no fact is left out.
//! - Lines are written within 5 ms, and all of them before the process ends unless it is killed. If
//!   the reader of standard error stops reading, lines beyond 1 MiB are dropped; a request never
//!   waits.
//! - `LOG_BODIES=1` together with `LOG_LEVEL=trace` also logs what clients send, what goes upstream
//!   and what comes back; see [`crate::observe::body_log`].
//!
//! # Forms
//!
//! | `LOG_FORMAT` | on a terminal | elsewhere |
//! | --- | --- | --- |
//! | `text` | text, the level in colour | text |
//! | `json` | JSON | JSON |
//! | `auto` | text, the level in colour | JSON |
//!
//! No colours with a `NO_COLOR` that is not empty (no-color.org), or on a terminal named `dumb`. In JSON each line is one object with
//! `time` (RFC 3339), `level`, `message`, and the facts of a request as members of their own; what does not
//! apply to a request is left out. Errors in the configuration are text in any form: they end the program
//! before the form is known.

mod async_writer;
mod line;
mod text_lines;

use std::env;
use std::fmt;
use std::io::{self, IsTerminal, Write};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::SystemTime;

use log::{Level, LevelFilter, Log, Metadata, Record};

use self::async_writer::AsyncWriter;
use self::line::Line;
pub use self::line::{Fact, Value};
use crate::observe::panics;
use crate::observe::redact::Redactor;
use crate::observe::timestamp::to_rfc3339;

/// The writer of the process; `None` inside if its thread could not be started.
static WRITER: OnceLock<Option<AsyncWriter>> = OnceLock::new();

/// Masks keys in all lines.
static REDACTOR: OnceLock<Redactor> = OnceLock::new();

/// A [`Style`] as a number.
static STYLE: AtomicU8 = AtomicU8::new(Style::Text as u8);

/// The form of the lines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// Text.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
    /// Text on a terminal, and JSON elsewhere.
    Auto,
}

impl LogFormat {
    /// The forms with their names.
    pub const NAMES: [(&'static str, Self); 3] =
        [("text", Self::Text), ("json", Self::Json), ("auto", Self::Auto)];
}

/// How lines are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Style {
    /// For people and for `grep`.
    Text,
    /// The same with the level in colour, on a terminal.
    Colored,
    /// One object a line.
    Json,
}

impl fmt::Display for LogFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = Self::NAMES.iter().find(|(_, format)| format == self);
        f.write_str(name.map_or("", |(name, _)| name))
    }
}

/// Sets up the log for the whole process. Later calls change nothing.
pub fn init(level: LevelFilter, redactor: Redactor) {
    REDACTOR.get_or_init(|| redactor);
    // Only a test sets a second logger in one process.
    if log::set_logger(&Logger).is_ok() {
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

/// Writes lines in this form from now on.
pub fn set_format(format: LogFormat) {
    let has_variable = |name| env::var_os(name).is_some_and(|value| !value.is_empty());
    let is_dumb = env::var_os("TERM").is_some_and(|name| name == "dumb");
    let has_colors = !has_variable("NO_COLOR") && !is_dumb;
    let style = choose_style(format, io::stderr().is_terminal(), has_colors);
    STYLE.store(style as u8, Ordering::Relaxed);
}

fn choose_style(format: LogFormat, is_terminal: bool, has_colors: bool) -> Style {
    match (format, is_terminal) {
        (LogFormat::Json, _) | (LogFormat::Auto, false) => Style::Json,
        (LogFormat::Text | LogFormat::Auto, true) if has_colors => Style::Colored,
        (LogFormat::Text, _) | (LogFormat::Auto, true) => Style::Text,
    }
}

fn style() -> Style {
    let styles = [Style::Text, Style::Colored, Style::Json];
    let number = STYLE.load(Ordering::Relaxed);
    styles.into_iter().find(|style| *style as u8 == number).unwrap_or(Style::Text)
}

/// Whether lines are JSON objects.
pub fn is_json() -> bool {
    style() == Style::Json
}

/// Whether levels are coloured.
fn is_colored() -> bool {
    style() == Style::Colored
}

/// Whether a person reads the lines as they come: text on a terminal, of level info at least.
pub fn is_for_people() -> bool {
    !is_json() && io::stderr().is_terminal() && log::max_level() >= LevelFilter::Info
}

/// Writes lines for a person, without time and level: a label and a text each. Does nothing before [`init`].
pub fn print(lines: &[(&str, String)]) {
    let width = lines.iter().map(|(label, _)| label.len()).max().unwrap_or(0) + 1;
    for (label, text) in lines {
        let Some(redactor) = REDACTOR.get() else { return };
        let text = redactor.redact(text);
        write(&format!("{label:width$}{}\n", line::to_printable(&text)));
    }
}

/// Waits until all lines logged so far are written, at most a second. Call it before the process ends.
pub fn flush() {
    if let Some(Some(writer)) = WRITER.get() {
        writer.flush();
    }
}

/// Logs a line of facts: in text one after the other, in JSON as members beside `message`.
pub fn log_facts(level: Level, message: &str, facts: &[Fact<'_>]) {
    if level <= log::max_level()
        && let Some(redactor) = REDACTOR.get()
    {
        if is_json() {
            let time = to_rfc3339(SystemTime::now());
            write(&Line { level, message, facts }.to_json(&time, redactor));
        } else {
            text_lines::write(level, &Line { level, message, facts }.to_text(redactor));
        }
    }
}

/// Writes a whole line.
fn write(line: &str) {
    // If standard error cannot be written, there is no other place to report it.
    let _ = match WRITER.get() {
        Some(Some(writer)) => {
            let mut out: &AsyncWriter = writer;
            out.write_all(line.as_bytes())
        }
        _ => io::stderr().write_all(line.as_bytes()),
    };
}

/// The line that tells of lines which were dropped.
fn dropped_lines(count: usize) -> String {
    let text = format!("{count} log lines dropped: standard error was not read fast enough");
    if !is_json() {
        return format!("[WARN] {text}\n");
    }
    let time = to_rfc3339(SystemTime::now());
    let line = Line { level: Level::Warn, message: &text, facts: &[] };
    line.to_json(&time, &Redactor::default())
}

/// Takes the lines of this crate.
struct Logger;

impl Log for Logger {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() <= log::max_level()
            && metadata.target().starts_with(env!("CARGO_CRATE_NAME"))
    }

    fn log(&self, record: &Record<'_>) {
        if self.enabled(record.metadata()) {
            match record.args().as_str() {
                Some(text) => log_facts(record.level(), text, &[]),
                None => log_facts(record.level(), &record.args().to_string(), &[]),
            }
        }
    }

    fn flush(&self) {
        flush();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_form_follows_the_option_and_the_terminal() {
        use LogFormat::{Auto, Json, Text};
        for (format, on_terminal, elsewhere) in [
            (Text, Style::Text, Style::Text),
            (Json, Style::Json, Style::Json),
            (Auto, Style::Text, Style::Json),
        ] {
            assert_eq!(choose_style(format, true, false), on_terminal, "{format}");
            for has_colors in [false, true] {
                assert_eq!(choose_style(format, false, has_colors), elsewhere, "{format}");
            }
            let colored = if on_terminal == Style::Json { Style::Json } else { Style::Colored };
            assert_eq!(choose_style(format, true, true), colored, "{format}");
        }
    }
}
