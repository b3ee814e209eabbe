//! ureq's errors, and those of the sockets beneath it, as ours.
//!
//! Never repeats a text that may hold an address or a URL. Invariant: while this thread's request is
//! cancelled, every failure is [`Error::ClientDisconnected`], because the cancellation caused it.

use std::io;

use ureq::Timeout;

use super::connect_failure::{ConnectFailure, is_closed};
use super::tls_errors::{self, ClientCertificate};
use crate::error::{Error, Result, TimeoutPhase};
use crate::net::cancel;
use crate::observe::system_error;

/// A failure before the head of the response.
pub(super) fn map_send_error(error: ureq::Error) -> Error {
    if cancel::is_cancelled() {
        return Error::ClientDisconnected;
    }
    match error {
        ureq::Error::Timeout(Timeout::Resolve | Timeout::Connect) => {
            Error::UpstreamTimeout(TimeoutPhase::Connect)
        }
        ureq::Error::Timeout(_) => Error::UpstreamTimeout(TimeoutPhase::Head),
        ureq::Error::HostNotFound => {
            Error::Connect("cannot resolve the host name: the name has no address".into())
        }
        ureq::Error::Io(error) => map_io_error(error),
        ureq::Error::Other(error) => match error.downcast::<ConnectFailure>() {
            Ok(failure) => Error::Connect(failure.reason),
            Err(_) => Error::Internal("unknown failure of a connection"),
        },
        ureq::Error::ConnectionFailed => Error::Connect("connection failed".into()),
        ureq::Error::LargeResponseHeader(..) => {
            Error::upstream_protocol("response headers above 16 KiB")
        }
        ureq::Error::Protocol(_) | ureq::Error::Http(_) => {
            Error::upstream_protocol("not an HTTP response (does this port expect https://?)")
        }
        _ => Error::Internal("cannot build the upstream request"),
    }
}

fn map_io_error(error: io::Error) -> Error {
    match error.kind() {
        _ if is_closed(&error) => Error::ClosedBeforeResponse { suggests_tls: false },
        io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock => {
            Error::UpstreamTimeout(TimeoutPhase::Connect)
        }
        _ => Error::Connect(describe_io_error(&error)),
    }
}

/// Why no connection was made. Only texts that are known to name no address are repeated.
pub(super) fn describe_io_error(error: &io::Error) -> String {
    if let Some(error) = tls_errors::find_tls_error(error) {
        return tls_errors::describe(error, ClientCertificate::Configured);
    }
    system_error::describe(error)
}

/// Fails if this thread's request was cancelled: then the end of a body is not the upstream's.
///
/// # Errors
/// [`Error::ClientDisconnected`].
pub(in crate::upstream) fn check_cancelled() -> Result<()> {
    if cancel::is_cancelled() { Err(Error::ClientDisconnected) } else { Ok(()) }
}

/// A failure while the body is read.
pub(in crate::upstream) fn map_body_error(error: io::Error) -> Error {
    if cancel::is_cancelled() {
        return Error::ClientDisconnected;
    }
    match ureq::Error::from(error) {
        ureq::Error::Timeout(_) => Error::UpstreamTimeout(TimeoutPhase::Body),
        ureq::Error::Io(_) => Error::IncompleteStream,
        _ => Error::upstream_protocol("invalid HTTP framing in the response body"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_library_says_is_told_and_of_the_system_its_kind() {
        let told = |error| map_io_error(error).to_string();
        let tls = rustls::Error::General("a reason".to_owned());
        let tls = io::Error::new(io::ErrorKind::InvalidData, tls);
        assert!(told(tls).contains("TLS: a reason"));
        // 101 is ENETUNREACH.
        assert!(told(io::Error::from_raw_os_error(101)).contains("network unreachable"));
    }
}
