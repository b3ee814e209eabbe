//! The program as its users start it: options, environment, log, signals.

mod check;
mod command_line;
mod config_file;
mod environment;
mod failures;
mod healthcheck;
mod key_counts;
mod log;
mod log_format;
mod manual;
mod metrics;
mod mistakes;
mod reload;
mod reload_upstreams;
mod resets;
mod scripts;
mod secrets;
mod signals;
mod state;
#[cfg(target_os = "linux")]
mod terminal;
mod troubleshooting;
mod upstreams;
