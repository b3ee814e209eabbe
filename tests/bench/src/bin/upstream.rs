//! `bench-upstream [--listen 127.0.0.1:0]`: prints `listening ADDRESS` and serves until `SIGTERM` or until
//! standard input ends.

use std::process::ExitCode;

use lexopt::ValueExt as _;

use bench::system;
use bench::upstream::server::Server;

fn listen() -> Result<String, lexopt::Error> {
    let mut parser = lexopt::Parser::from_env();
    let mut address = "127.0.0.1:0".to_owned();
    while let Some(arg) = parser.next()? {
        match arg {
            lexopt::Arg::Long("listen") => address = parser.value()?.string()?,
            _ => return Err(arg.unexpected()),
        }
    }
    Ok(address)
}

fn serve(address: &str) -> std::io::Result<()> {
    system::raise_open_files();
    let mut server = Server::bind(address)?;
    println!("listening {}", server.address()?);
    server.serve()
}

fn main() -> ExitCode {
    let address = match listen() {
        Ok(address) => address,
        Err(error) => {
            eprintln!("{error}\nusage: bench-upstream [--listen 127.0.0.1:0]");
            return ExitCode::from(2);
        }
    };
    match serve(&address) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{address}: {error}");
            ExitCode::FAILURE
        }
    }
}
