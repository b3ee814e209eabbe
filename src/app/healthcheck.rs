//! `--healthcheck`: asks the proxy of this machine whether it lives, for containers that hold
//! nothing but the program.
//!
//! It asks the address that the same configuration would listen on for `/health`, needs no key, and
//! never asks the upstream. Invariant: it ends within [`TIMEOUT`], whatever is at that address.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, ToSocketAddrs};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use crate::config::Config;

/// The longest that a check takes, name look-up included.
pub const TIMEOUT: Duration = Duration::from_secs(3);

/// The host is one that the gate lets in wherever the proxy listens.
const REQUEST: &[u8] = b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";

/// As much of the answer as holds the status.
const STATUS_LINE_LEN: usize = "HTTP/1.1 200".len();

/// Asks once.
///
/// # Errors
/// Why the proxy cannot be called healthy, on one line.
pub fn run(config: &Config) -> Result<(), String> {
    let (host, port) = config.listen_addr();
    if port == 0 {
        return Err("not healthy: port 0 is any free port, so nobody knows which to ask".into());
    }
    let (sender, receiver) = mpsc::channel();
    // On a thread of its own, because nothing bounds the look-up of a name.
    thread::Builder::new()
        .name("healthcheck".into())
        .spawn(move || sender.send(request_status(&host, port)))
        .map_err(|error| format!("not healthy: no thread to ask with: {error}"))?;
    match receiver.recv_timeout(TIMEOUT) {
        Ok(Ok(200)) => Ok(()),
        Ok(Ok(status)) => Err(format!("not healthy: /health was answered with status {status}")),
        Ok(Err(error)) => Err(format!("not healthy: port {port}: {error}")),
        Err(_) => Err(format!("not healthy: port {port}: no answer in {} s", TIMEOUT.as_secs())),
    }
}

/// The status from the first of the addresses that takes the connection.
fn request_status(host: &str, port: u16) -> io::Result<u16> {
    let mut failure = io::Error::from(io::ErrorKind::AddrNotAvailable);
    for address in resolve_addresses(host, port)? {
        match TcpStream::connect_timeout(&address, TIMEOUT) {
            Ok(stream) => return read_status(stream),
            Err(error) => failure = error,
        }
    }
    Err(failure)
}

/// Where the proxy is to be found: all interfaces mean the loopback one, of both kinds where the
/// proxy may listen on either.
fn resolve_addresses(host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
    let at = |ip: IpAddr| SocketAddr::new(ip, port);
    Ok(match host.parse::<IpAddr>() {
        Ok(IpAddr::V4(ip)) if ip.is_unspecified() => vec![at(Ipv4Addr::LOCALHOST.into())],
        Ok(IpAddr::V6(ip)) if ip.is_unspecified() => {
            vec![at(Ipv6Addr::LOCALHOST.into()), at(Ipv4Addr::LOCALHOST.into())]
        }
        Ok(ip) => vec![at(ip)],
        Err(_) => (host, port).to_socket_addrs()?.collect(),
    })
}

fn read_status(mut stream: TcpStream) -> io::Result<u16> {
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.set_write_timeout(Some(TIMEOUT))?;
    stream.write_all(REQUEST)?;
    let mut head = [0; STATUS_LINE_LEN];
    stream.read_exact(&mut head)?;
    let no_http = || io::Error::new(io::ErrorKind::InvalidData, "what answers is no HTTP server");
    let text = std::str::from_utf8(&head).map_err(|_| no_http())?;
    let code = text.strip_prefix("HTTP/1.").and_then(|rest| rest.get(2..));
    code.and_then(|code| code.parse().ok()).ok_or_else(no_http)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_interfaces_mean_the_loopback_one() {
        let check = |host: &str, expected: &[&str]| {
            let found = resolve_addresses(host, 7).expect("addresses");
            let found: Vec<_> = found.iter().map(ToString::to_string).collect();
            assert_eq!(found, expected, "{host}");
        };
        check("0.0.0.0", &["127.0.0.1:7"]);
        check("::", &["[::1]:7", "127.0.0.1:7"]);
        check("192.0.2.1", &["192.0.2.1:7"]);
        check("2001:db8::1", &["[2001:db8::1]:7"]);
    }
}
