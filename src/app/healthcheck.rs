//! `--healthcheck`: requests `/health` of the proxy on this machine, for containers without `curl`.
//!
//! It connects to the address that the same configuration listens on, needs no key and never calls
//! the upstream. Invariant: it ends within [`TIMEOUT`], whatever listens there.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, ToSocketAddrs};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use crate::config::Config;
use crate::observe::system_error;

/// Longest duration of a check, with the resolution of the host name.
pub const TIMEOUT: Duration = Duration::from_secs(3);

/// Access control allows this `Host` on every listen address.
const REQUEST: &[u8] = b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";

/// Bytes of the response up to the status.
const STATUS_LINE_LEN: usize = "HTTP/1.1 200".len();

/// The most bytes of a response that are read.
const MAX_RESPONSE_BYTES: u64 = 4096;

/// A member of the response to `/health` that no other server has.
const HEALTH_MEMBER: &str = "\"configured\":true";

/// Sends one request.
///
/// # Errors
/// The reason why the proxy is not healthy, on one line.
pub fn run(config: &Config) -> Result<(), String> {
    let (host, port) = config.listen_addr();
    if port == 0 {
        return Err("cannot check: the configured port is 0 (any free port)".into());
    }
    let address = display_address(&host, port);
    match request(host, port, read_status_line).and_then(|line| parse_status(&line)) {
        Ok(200) => Ok(()),
        Ok(status) => Err(format!("not healthy: /health returned status {status}")),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            Err(format!("not healthy: nothing listens on {address}"))
        }
        Err(error) if error.kind() == io::ErrorKind::TimedOut => {
            let seconds = TIMEOUT.as_secs();
            Err(format!("not healthy: no response from {address} within {seconds} s"))
        }
        Err(error) if error.kind() == io::ErrorKind::InvalidData => {
            Err(format!("not healthy: {address}: not an HTTP response"))
        }
        Err(error) if is_closed(&error) => {
            Err(format!("not healthy: {address} closed the connection without a response"))
        }
        Err(error) => Err(format!("not healthy: {address}: {}", system_error::describe(&error))),
    }
}

/// Whether a proxy of this kind listens on the address of this configuration.
pub(super) fn is_proxy_running(config: &Config) -> bool {
    let (host, port) = config.listen_addr();
    request(host, port, read_response)
        .is_ok_and(|response| String::from_utf8_lossy(&response).contains(HEALTH_MEMBER))
}

/// The address that is checked, for messages.
fn display_address(host: &str, port: u16) -> String {
    match host.parse::<IpAddr>() {
        Ok(ip) if ip.is_unspecified() => format!("127.0.0.1:{port}"),
        Ok(ip) => SocketAddr::new(ip, port).to_string(),
        Err(_) => format!("{host}:{port}"),
    }
}

/// The addresses of the proxy. All interfaces mean loopback: both kinds if the proxy may listen on
/// either.
fn resolve_addresses(host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
    let v4 = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let v6 = SocketAddr::from((Ipv6Addr::LOCALHOST, port));
    match host.parse::<IpAddr>() {
        Ok(IpAddr::V4(ip)) if ip.is_unspecified() => Ok(vec![v4]),
        Ok(IpAddr::V6(ip)) if ip.is_unspecified() => Ok(vec![v6, v4]),
        _ => Ok((host, port).to_socket_addrs()?.collect()),
    }
}

/// Sends the request, and reads the response within [`TIMEOUT`].
fn request(
    host: String,
    port: u16,
    read: fn(TcpStream) -> io::Result<Vec<u8>>,
) -> io::Result<Vec<u8>> {
    let (sender, receiver) = mpsc::channel();
    let request = move || {
        let mut stream = TcpStream::connect(&resolve_addresses(&host, port)?[..])?;
        stream.set_read_timeout(Some(TIMEOUT))?;
        stream.set_write_timeout(Some(TIMEOUT))?;
        stream.write_all(REQUEST)?;
        read(stream)
    };
    // On a thread of its own, because name resolution has no timeout.
    thread::Builder::new().name("healthcheck".into()).spawn(move || sender.send(request()))?;
    receiver.recv_timeout(TIMEOUT).unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

/// Whether the server ended the connection before its status was read.
fn is_closed(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof};
    matches!(error.kind(), BrokenPipe | ConnectionAborted | ConnectionReset | UnexpectedEof)
}

fn read_status_line(mut stream: TcpStream) -> io::Result<Vec<u8>> {
    let mut line = vec![0; STATUS_LINE_LEN];
    stream.read_exact(&mut line)?;
    Ok(line)
}

fn parse_status(line: &[u8]) -> io::Result<u16> {
    let text = std::str::from_utf8(line).ok();
    let code = text.and_then(|text| text.strip_prefix("HTTP/1.")).and_then(|rest| rest.get(2..));
    code.and_then(|code| code.parse().ok()).ok_or_else(|| io::ErrorKind::InvalidData.into())
}

fn read_response(stream: TcpStream) -> io::Result<Vec<u8>> {
    let mut response = Vec::new();
    stream.take(MAX_RESPONSE_BYTES).read_to_end(&mut response)?;
    Ok(response)
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
