//! The program: reads the configuration, sets up log and signals, and runs the server.
//!
//! Never contains logic that a test needs: everything else is in the library. Invariant: errors go
//! to standard error, each line with `Error: ` unless the log is JSON, and the exit code is 1.

use std::env;
use std::io::{self, IsTerminal, Write};
use std::process::{self, ExitCode};
use std::thread;

use crossbeam_channel::{Receiver, bounded};
use ollama_openai_proxy::app::server::Server;
use ollama_openai_proxy::app::shutdown::Shutdown;
use ollama_openai_proxy::app::start_lines::StartLines;
use ollama_openai_proxy::app::{check, healthcheck};
use ollama_openai_proxy::config::{self, Command, Config};
use ollama_openai_proxy::net::sys;
use ollama_openai_proxy::observe::{logging, system_error};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

fn main() -> ExitCode {
    let code = run_command();
    logging::flush();
    code
}

fn run_command() -> ExitCode {
    // First, because a reload may be asked for as soon as the program runs.
    let signals = match Signals::new([SIGHUP]) {
        Ok(signals) => signals,
        Err(error) => return fail_signals(&error),
    };
    let (command, config) = match config::load(env::args_os().skip(1)) {
        Ok(loaded) => loaded,
        Err(error) => return fail(&error.to_string()),
    };
    match command {
        Command::Help => print_line(&config::help()),
        Command::Version => print_line(&config::version()),
        Command::Check | Command::CheckJson => {
            logging::init(log::LevelFilter::Off, config.redactor());
            let report = check::run(&config);
            let is_json = command == Command::CheckJson;
            print_line(&if is_json { report.to_json() } else { report.to_text() });
            if !report.is_ok() {
                return ExitCode::FAILURE;
            }
        }
        Command::Healthcheck => {
            if let Err(why) = healthcheck::run(&config) {
                return fail(&why);
            }
        }
        Command::Run => return run_server(config, signals),
    }
    ExitCode::SUCCESS
}

fn run_server(config: Config, signals: Signals) -> ExitCode {
    sys::configure_allocator();
    logging::set_format(config.log_format);
    logging::init(config.log_level, config.redactor());
    for warning in &config.warnings {
        log::warn!("{warning}");
    }
    let start_lines = StartLines::new(&config);
    let grace = config.shutdown_grace.as_secs_f64();
    let shutdown = Shutdown::default();
    let reloads = match handle_signals(signals, shutdown.clone()) {
        Ok(reloads) => reloads,
        Err(error) => return fail_signals(&error),
    };
    match Server::start(config, shutdown) {
        Ok(server) => {
            server.announce(&start_lines);
            if !server.run_with_reloads(&reloads, reload) {
                log::warn!(
                    "shutdown: some responses were cut off after {grace} s (SHUTDOWN_GRACE)"
                );
            }
            ExitCode::SUCCESS
        }
        Err(error) if logging::is_json() => {
            log::error!("{error}");
            ExitCode::FAILURE
        }
        Err(error) => fail(&error.to_string()),
    }
}

/// Reads the configuration anew. A mistake changes nothing.
fn reload(server: &Server) {
    match config::load(env::args_os().skip(1)) {
        Ok((_, config)) => {
            logging::set_format(config.log_format);
            logging::set_level(config.log_level);
            for warning in &config.warnings {
                log::warn!("{warning}");
            }
            server.reload(config);
        }
        Err(error) => server.reject_reload(&error),
    }
}

/// The first SIGINT or SIGTERM starts a graceful shutdown, the second exits at once. SIGHUP sends a message,
/// unless it says that the terminal is gone, which ends the program as ever.
fn handle_signals(mut signals: Signals, shutdown: Shutdown) -> io::Result<Receiver<()>> {
    let (sender, reloads) = bounded(1);
    let had_terminal = has_terminal();
    signals.add_signal(SIGINT)?;
    signals.add_signal(SIGTERM)?;
    thread::Builder::new().name("signals".into()).spawn(move || {
        for signal in signals.forever() {
            let is_hangup = had_terminal && !has_terminal();
            if signal == SIGHUP && !is_hangup {
                // If there is a message already, that reload is still to begin.
                let _ = sender.try_send(());
                continue;
            }
            if shutdown.is_triggered() {
                logging::flush();
                process::exit(128 + signal);
            }
            shutdown.trigger();
        }
    })?;
    Ok(reloads)
}

fn has_terminal() -> bool {
    io::stdin().is_terminal() || io::stdout().is_terminal() || io::stderr().is_terminal()
}

/// Prints to standard output. A closed pipe is no error.
fn print_line(text: &str) {
    let _ = writeln!(io::stdout(), "{text}");
}

fn fail_signals(error: &io::Error) -> ExitCode {
    fail(&format!("cannot install signal handlers: {}", system_error::describe(error)))
}

/// Prints to standard error, with the prefix of Ollama's own errors on each line.
fn fail(text: &str) -> ExitCode {
    // What was logged before comes first.
    logging::flush();
    for line in text.lines() {
        let _ = writeln!(io::stderr(), "Error: {line}");
    }
    ExitCode::FAILURE
}
