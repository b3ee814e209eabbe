//! The log: this crate's lines to standard error, and panics without their messages.
//!
//! Lines of other crates are left out: ureq's would repeat URLs and headers. The text of a panic is
//! left out as well, because it can quote the string that could not be sliced, which may be a
//! prompt; its place in the source is enough to find it.

use std::io;
use std::panic;

use log::LevelFilter;
use simplelog::{ConfigBuilder, WriteLogger};

/// Sets the log up for the whole process. Later calls change nothing.
pub fn start(level: LevelFilter) {
    let config = ConfigBuilder::new()
        .add_filter_allow_str(env!("CARGO_CRATE_NAME"))
        .set_time_format_rfc3339()
        .set_target_level(LevelFilter::Off)
        .set_location_level(LevelFilter::Off)
        .set_thread_level(LevelFilter::Off)
        .build();
    // A second logger in one process is a test's doing.
    let _ = WriteLogger::init(level, config, io::stderr());
    panic::set_hook(Box::new(|info| {
        let thread = std::thread::current();
        let place = info.location().map(ToString::to_string).unwrap_or_default();
        log::error!("thread {:?} panicked at {place}", thread.name().unwrap_or("unnamed"));
    }));
}
