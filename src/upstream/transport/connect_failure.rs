//! Failures to connect: the one that has a reason in our words, on its way through ureq, and what a closed
//! connection looks like.

use std::error::Error;
use std::fmt;
use std::io;

/// Why no connection was made, where a connector of ours can say so in words.
#[derive(Debug)]
pub(super) struct ConnectFailure {
    pub reason: String,
}

impl fmt::Display for ConnectFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.reason)
    }
}

impl Error for ConnectFailure {}

/// An error for ureq that becomes [`crate::error::Error::Connect`] with this reason.
pub(super) fn connect_failure(reason: impl Into<String>) -> ureq::Error {
    ureq::Error::Other(Box::new(ConnectFailure { reason: reason.into() }))
}

/// Whether the other side ended the connection.
pub(super) fn is_closed(error: &io::Error) -> bool {
    use io::ErrorKind::{
        BrokenPipe, ConnectionAborted, ConnectionReset, NotConnected, UnexpectedEof,
    };
    let kind = error.kind();
    matches!(kind, BrokenPipe | ConnectionAborted | ConnectionReset | NotConnected | UnexpectedEof)
}
