//! A nudge: a connection to the own port that makes one pool thread of tiny_http take its next task.
//!
//! It sends a line of no HTTP version, so tiny_http answers 400 and closes the connection; the answer
//! shows that a thread took the nudge. A nudge never becomes a request. It resets its connection, so
//! that no socket stays in TIME_WAIT on either side. (The reset cannot disturb tiny_http, which asks
//! for the peer's address only after a well-formed head.)

use std::io::{self, ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::time::Duration;

use socket2::SockRef;

/// Without method, path and version, so that no tiny_http accepts it.
const MALFORMED_LINE: &[u8] = b"nudge\r\n";

/// Longest time to connect, which takes long only if the backlog is full.
const CONNECT_TIMEOUT: Duration = Duration::from_millis(100);

/// The outcome of a nudge.
pub(super) enum NudgeResult {
    /// A pool thread answered it.
    Answered,
    /// It was established and not answered in time; a thread may still take it later.
    Unanswered,
    /// It could not be established, or failed later.
    Failed(io::Error),
}

/// Connects to the first reachable target and waits up to `timeout` for the answer.
pub(super) fn nudge(targets: &[SocketAddr], timeout: Duration) -> NudgeResult {
    match connect(targets).and_then(|stream| send_and_wait(stream, timeout)) {
        Ok(()) => NudgeResult::Answered,
        Err(error) => match error.kind() {
            ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted => {
                NudgeResult::Unanswered
            }
            _ => NudgeResult::Failed(error),
        },
    }
}

/// The addresses at which this machine reaches a listener bound to `addr`, best first.
pub(super) fn loopback_targets(addr: SocketAddr) -> Vec<SocketAddr> {
    let v4 = SocketAddr::from((Ipv4Addr::LOCALHOST, addr.port()));
    let v6 = SocketAddr::from((Ipv6Addr::LOCALHOST, addr.port()));
    match addr.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => vec![v4],
        // A machine without an IPv6 loopback address still binds `[::]`, and serves IPv4 through it.
        IpAddr::V6(ip) if ip.is_unspecified() => vec![v6, v4],
        _ => vec![addr],
    }
}

fn connect(targets: &[SocketAddr]) -> io::Result<TcpStream> {
    let mut result = Err(ErrorKind::AddrNotAvailable.into());
    for target in targets {
        result = TcpStream::connect_timeout(target, CONNECT_TIMEOUT);
        if result.is_ok() {
            break;
        }
    }
    result
}

fn send_and_wait(mut stream: TcpStream, timeout: Duration) -> io::Result<()> {
    SockRef::from(&stream).set_linger(Some(Duration::ZERO))?;
    stream.set_read_timeout(Some(timeout))?;
    stream.write_all(MALFORMED_LINE)?;
    // The first bytes suffice; the reset on drop discards the rest.
    stream.read(&mut [0; 16]).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unspecified_addresses_are_reached_over_loopback() {
        let check = |addr: &str, expected: &[&str]| {
            let targets = loopback_targets(addr.parse().expect("an address"));
            let texts: Vec<String> = targets.iter().map(SocketAddr::to_string).collect();
            assert_eq!(texts, expected, "{addr}");
        };
        check("0.0.0.0:11434", &["127.0.0.1:11434"]);
        check("[::]:11434", &["[::1]:11434", "127.0.0.1:11434"]);
        check("127.0.0.1:80", &["127.0.0.1:80"]);
        check("192.0.2.7:80", &["192.0.2.7:80"]);
        check("[2001:db8::1]:80", &["[2001:db8::1]:80"]);
    }

    #[test]
    fn a_refused_nudge_has_failed_and_a_silent_one_is_unanswered() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let addr = listener.local_addr().expect("an address");
        let timeout = Duration::from_millis(1);
        assert!(matches!(nudge(&[addr], timeout), NudgeResult::Unanswered));
        drop(listener);
        assert!(matches!(nudge(&[addr], timeout), NudgeResult::Failed(_)));
    }
}
