//! Lines of text, of which simplelog writes time and level.
//!
//! Each thread has a logger of its own, so that no thread waits for another one's line.

use std::cell::OnceCell;
use std::io::{self, Write};

use log::{Level, LevelFilter, Log, Record};
use simplelog::{Config, ConfigBuilder, WriteLogger};

/// What ends the colour of a level.
const RESET: &str = "\x1b[0m";

thread_local! {
    static LOGGER: OnceCell<WriteLogger<LineWriter>> = const { OnceCell::new() };
}

/// Writes a line that says `text`, which holds no key. A thread that is ending writes nothing any more.
pub(super) fn write(level: Level, text: &str) {
    let _ = LOGGER.try_with(|logger| {
        let new_logger = || *WriteLogger::new(LevelFilter::Trace, config(), LineWriter::default());
        let logger = logger.get_or_init(new_logger);
        logger.log(&Record::builder().level(level).args(format_args!("{text}")).build());
        logger.flush();
    });
}

/// Time and level, and nothing else before the text.
fn config() -> Config {
    ConfigBuilder::new()
        .set_time_format_rfc3339()
        .set_target_level(LevelFilter::Off)
        .set_location_level(LevelFilter::Off)
        .set_thread_level(LevelFilter::Off)
        .build()
}

/// The line with its level in colour, by control sequences of terminals (ECMA-48, SGR).
fn colored(line: &str) -> String {
    let level = |level: &Level| line.split(' ').nth(1) == Some(&format!("[{level}]"));
    let Some(level) = Level::iter().find(level) else { return line.to_owned() };
    let color = match level {
        Level::Error => "\x1b[31m",
        Level::Warn => "\x1b[33m",
        Level::Info => "\x1b[32m",
        Level::Debug => "\x1b[36m",
        Level::Trace => "\x1b[2m",
    };
    line.replacen(&format!("[{level}]"), &format!("{color}[{level}]{RESET}"), 1)
}

/// Passes on whole lines, because simplelog writes a line in several pieces.
#[derive(Default)]
struct LineWriter {
    line: String,
}

impl Write for LineWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.line.push_str(&String::from_utf8_lossy(bytes));
        Ok(bytes.len())
    }

    /// Called behind each line.
    fn flush(&mut self) -> io::Result<()> {
        let line = std::mem::take(&mut self.line);
        super::write(&if super::is_colored() { colored(&line) } else { line });
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_level_of_a_line_is_colored_and_nothing_else() {
        let line = "2026-11-30T18:00:00Z [WARN] said [WARN] twice\n";
        assert_eq!(colored(line), "2026-11-30T18:00:00Z \x1b[33m[WARN]\x1b[0m said [WARN] twice\n");
        assert_eq!(colored("no line of simplelog\n"), "no line of simplelog\n");
    }
}
