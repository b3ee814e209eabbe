//! One nudge: a connection to our own port that makes a pool thread of tiny_http come round.
//!
//! It sends a line that no version of HTTP knows, so tiny_http answers 400 and closes; the answer
//! says that a thread took the nudge. It never becomes a request. Our end is reset rather than
//! closed, so that no socket is left in TIME_WAIT on either side. (A reset nudge cannot hurt
//! tiny_http, whose demand for the peer's address comes after a well-formed head.)

use std::io::{self, ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::time::Duration;

use socket2::SockRef;

/// No method, no path, no version: refused whatever a later tiny_http tolerates.
const MALFORMED_LINE: &[u8] = b"nudge\r\n";

/// How long a connect to ourselves may take; it hangs only if the backlog is full.
const CONNECT_TIMEOUT: Duration = Duration::from_millis(100);

/// What became of a nudge.
pub(super) enum NudgeResult {
    /// A pool thread took it and closed it.
    Answered,
    /// It was established, but not answered in time; it may still be taken later.
    Unanswered,
    /// It could not be established, or broke.
    Failed(io::Error),
}

/// Connects to the port and waits up to `patience` for the answer.
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

/// Where a listener bound to `addr` can be reached from this machine, best first.
pub(super) fn loopback_targets(addr: SocketAddr) -> Vec<SocketAddr> {
    let v4 = SocketAddr::from((Ipv4Addr::LOCALHOST, addr.port()));
    let v6 = SocketAddr::from((Ipv6Addr::LOCALHOST, addr.port()));
    match addr.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => vec![v4],
        // Machines without an IPv6 loopback still bind `[::]`, and serve IPv4 through it.
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
    // The first bytes are enough; the reset on drop throws the rest away.
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
        let patience = Duration::from_millis(1);
        assert!(matches!(nudge(&[addr], patience), NudgeResult::Unanswered));
        drop(listener);
        assert!(matches!(nudge(&[addr], patience), NudgeResult::Failed(_)));
    }
}
