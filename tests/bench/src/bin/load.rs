//! `bench-load`: asks a server as [`USAGE`] says and prints one JSON object of what it saw. Exit 0 when
//! it could measure, 1 when nothing could be reached, 2 for bad usage.

use std::process::ExitCode;

use bench::load::options::{Options, USAGE};
use bench::load::run;
use bench::system;

fn main() -> ExitCode {
    let options = match Options::parse(lexopt::Parser::from_env()) {
        Ok(options) => options,
        Err(error) => {
            eprintln!("{error}\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    system::raise_open_files();
    let outcome = match run::run(&options) {
        Ok(outcome) => outcome,
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::FAILURE;
        }
    };
    println!("{}", outcome.stats.report(&options, outcome.elapsed, system::cpu_seconds()));
    if outcome.reached {
        return ExitCode::SUCCESS;
    }
    eprintln!("{} cannot be reached", options.address);
    ExitCode::FAILURE
}
