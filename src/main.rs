//! The program: reads the configuration, sets up log and signals, and runs the server.
//!
//! Never contains logic that a test needs: everything else is in the library. Invariant: errors go
//! to standard error, each line with `Error: `, and the exit code is 1.

use std::env;
use std::io::{self, Write};
use std::process::{self, ExitCode};
use std::thread;

use ollama_openai_proxy::app::server::Server;
use ollama_openai_proxy::app::shutdown::Shutdown;
use ollama_openai_proxy::app::{check, healthcheck};
use ollama_openai_proxy::config::{self, Command, Config};
use ollama_openai_proxy::net::sys;
use ollama_openai_proxy::observe::logging;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

fn main() -> ExitCode {
    let code = run_command();
    logging::flush();
    code
}

fn run_command() -> ExitCode {
    let (command, config) = match config::load(env::args_os().skip(1)) {
        Ok(loaded) => loaded,
        Err(error) => return fail(&error.to_string()),
    };
    match command {
        Command::Help => print_line(&config::help()),
        Command::Version => print_line(&config::version()),
        Command::Check => {
            logging::init(log::LevelFilter::Off, config.redactor());
            let (text, is_ok) = check::run(&config);
            print_line(&text);
            if !is_ok {
                return ExitCode::FAILURE;
            }
        }
        Command::Healthcheck => {
            if let Err(why) = healthcheck::run(&config) {
                return fail(&why);
            }
        }
        Command::Run => return run_server(config),
    }
    ExitCode::SUCCESS
}

fn run_server(config: Config) -> ExitCode {
    sys::configure_allocator();
    logging::init(config.log_level, config.redactor());
    for warning in &config.warnings {
        log::warn!("{warning}");
    }
    let mut upstream = config.upstream.base_url.to_string();
    if let Some(proxy) = &config.upstream.proxy {
        upstream += &format!(" through the proxy {proxy} ({})", proxy.variable);
    }
    let shutdown = Shutdown::default();
    if let Err(error) = handle_signals(shutdown.clone()) {
        return fail(&format!("cannot install signal handlers: {error}"));
    }
    match Server::start(config, shutdown) {
        Ok(server) => {
            log::info!("listening on {}, upstream {upstream}", server.local_addr());
            if !server.run() {
                log::warn!("shutdown: some responses were cut off after SHUTDOWN_GRACE");
            }
            if Server::needs_restart() { restart() } else { ExitCode::SUCCESS }
        }
        Err(error) => fail(&error.to_string()),
    }
}

/// Replaces the process with a new run of the same program; returns only on failure.
fn restart() -> ExitCode {
    logging::flush();
    let mut args = env::args_os();
    let name = args.next().unwrap_or_default();
    let program = env::current_exe().unwrap_or_else(|_| name.into());
    let mut program = process::Command::new(program);
    #[cfg(unix)]
    let error = std::os::unix::process::CommandExt::exec(program.args(args));
    #[cfg(not(unix))]
    let error = match program.args(args).spawn() {
        Ok(_) => return ExitCode::SUCCESS,
        Err(error) => error,
    };
    fail(&format!("cannot restart: {error}"))
}

/// The first signal starts a graceful shutdown, the second exits at once.
fn handle_signals(shutdown: Shutdown) -> io::Result<()> {
    let mut signals = Signals::new([SIGINT, SIGTERM])?;
    thread::Builder::new().name("signals".into()).spawn(move || {
        for signal in signals.forever() {
            if shutdown.is_triggered() {
                logging::flush();
                process::exit(128 + signal);
            }
            shutdown.trigger();
        }
    })?;
    Ok(())
}

/// Prints to standard output. A closed pipe is no error.
fn print_line(text: &str) {
    let _ = writeln!(io::stdout(), "{text}");
}

/// Prints to standard error, with the prefix of Ollama's own errors on each line.
fn fail(text: &str) -> ExitCode {
    for line in text.lines() {
        let _ = writeln!(io::stderr(), "Error: {line}");
    }
    ExitCode::FAILURE
}
