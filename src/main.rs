//! The program: options to a configuration, log and signals set up, the server run.

use std::env;
use std::io::{self, Write};
use std::process::{self, ExitCode};
use std::thread;

use ollama_openai_proxy::app::server::Server;
use ollama_openai_proxy::app::shutdown::Stop;
use ollama_openai_proxy::app::{check, healthcheck};
use ollama_openai_proxy::config::{self, Command, Config};
use ollama_openai_proxy::net::sys;
use ollama_openai_proxy::observe::logging;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

fn main() -> ExitCode {
    let code = start();
    logging::flush();
    code
}

fn start() -> ExitCode {
    let command = match config::load(env::args_os().skip(1)) {
        Ok(command) => command,
        Err(error) => return fail(&error.to_string()),
    };
    match command {
        Command::Help => say(&config::help()),
        Command::Version => say(&config::version()),
        Command::Check(config) => {
            logging::start(log::LevelFilter::Off, config.redactor());
            let report = check::report(&config);
            say(&report.text);
            if !report.good {
                return ExitCode::FAILURE;
            }
        }
        Command::Healthcheck(config) => {
            if let Err(why) = healthcheck::ask(&config) {
                return fail(&why);
            }
        }
        Command::Run(config) => return run(config),
    }
    ExitCode::SUCCESS
}

fn run(config: Config) -> ExitCode {
    sys::give_memory_back();
    logging::start(config.log_level, config.redactor());
    for warning in &config.warnings {
        log::warn!("{warning}");
    }
    let base = config.base_url.to_string();
    let stop = Stop::default();
    if let Err(error) = watch_signals(stop.clone()) {
        return fail(&format!("cannot watch for signals: {error}"));
    }
    match Server::start(config, stop) {
        Ok(server) => {
            log::info!("listening on {}, upstream {base}", server.local_addr());
            if !server.run() {
                log::warn!("some answers were not finished in time");
            }
            if Server::is_worn() { begin_anew() } else { ExitCode::SUCCESS }
        }
        Err(error) => fail(&error.to_string()),
    }
}

/// Starts the same program in this process; returns only when that is not possible.
fn begin_anew() -> ExitCode {
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
fn watch_signals(stop: Stop) -> io::Result<()> {
    let mut signals = Signals::new([SIGINT, SIGTERM])?;
    thread::Builder::new().name("signals".into()).spawn(move || {
        for signal in signals.forever() {
            if stop.is_given() {
                logging::flush();
                process::exit(128 + signal);
            }
            stop.give();
        }
    })?;
    Ok(())
}

/// To standard output; a reader that left early is no error.
fn say(text: &str) {
    let _ = writeln!(io::stdout(), "{text}");
}

/// To standard error, each line as Ollama's own errors begin.
fn fail(text: &str) -> ExitCode {
    for line in text.lines() {
        let _ = writeln!(io::stderr(), "Error: {line}");
    }
    ExitCode::FAILURE
}
