//! The program: options to a configuration, log and signals set up, the server run.

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
    let command = match config::load(env::args_os().skip(1)) {
        Ok(command) => command,
        Err(error) => return fail(&error.to_string()),
    };
    match command {
        Command::Help => print_line(&config::help()),
        Command::Version => print_line(&config::version()),
        Command::Check(config) => {
            logging::init(log::LevelFilter::Off, config.redactor());
            let report = check::run(&config);
            print_line(&report.text);
            if !report.is_ok {
                return ExitCode::FAILURE;
            }
        }
        Command::Healthcheck(config) => {
            if let Err(why) = healthcheck::run(&config) {
                return fail(&why);
            }
        }
        Command::Run(config) => return run_server(config),
    }
    ExitCode::SUCCESS
}

fn run_server(config: Config) -> ExitCode {
    sys::configure_allocator();
    logging::init(config.log_level, config.redactor());
    for warning in &config.warnings {
        log::warn!("{warning}");
    }
    let base = config.base_url.to_string();
    let shutdown = Shutdown::default();
    if let Err(error) = handle_signals(shutdown.clone()) {
        return fail(&format!("cannot watch for signals: {error}"));
    }
    match Server::start(config, shutdown) {
        Ok(server) => {
            log::info!("listening on {}, upstream {base}", server.local_addr());
            if !server.run() {
                log::warn!("some answers were not finished in time");
            }
            if Server::needs_restart() { restart() } else { ExitCode::SUCCESS }
        }
        Err(error) => fail(&error.to_string()),
    }
}

/// Starts the same program in this process; returns only when that is not possible.
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
    fail(&format!("the program cannot begin anew: {error}"))
}

/// The first signal asks for a clean end, the second ends at once.
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

/// To standard output; a reader that left early is no error.
fn print_line(text: &str) {
    let _ = writeln!(io::stdout(), "{text}");
}

/// To standard error, each line as Ollama's own errors begin.
fn fail(text: &str) -> ExitCode {
    for line in text.lines() {
        let _ = writeln!(io::stderr(), "Error: {line}");
    }
    ExitCode::FAILURE
}
