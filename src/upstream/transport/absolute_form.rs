//! Requests with the whole URL, as an HTTP proxy wants them for `http://`.
//!
//! ureq writes the path alone into the request line, and has no setting for this; its own way through a
//! proxy is a tunnel, which most proxies refuse for other ports than 443. So the upstream's origin is
//! inserted before the path when the beginning of a request is sent.
//! Invariant: nothing but the request line is changed.

use std::fmt;
use std::sync::Arc;

use ureq::Error;
use ureq::unversioned::transport::{Buffers, NextTimeout, Transport};

use super::tcp::TcpTransport;

/// A connection to a proxy that takes plain HTTP: requests name the whole URL (RFC 9112 section 3.2.2).
pub(super) struct AbsoluteForm {
    socket: TcpTransport,
    origin: Arc<str>,
    /// Whether the next output begins a request.
    begins_request: bool,
}

impl AbsoluteForm {
    /// `origin` is what goes before the path.
    pub(super) fn new(socket: TcpTransport, origin: Arc<str>) -> Self {
        Self { socket, origin, begins_request: true }
    }
}

impl Transport for AbsoluteForm {
    fn buffers(&mut self) -> &mut dyn Buffers {
        self.socket.buffers()
    }

    fn transmit_output(&mut self, mut amount: usize, timeout: NextTimeout) -> Result<(), Error> {
        if std::mem::take(&mut self.begins_request) {
            // ureq writes the whole request line at once. The path follows the first blank.
            let written = &self.socket.buffers().output()[..amount];
            if let Some(blank) = written.iter().position(|byte| *byte == b' ') {
                self.socket.insert_output(amount, blank + 1, self.origin.as_bytes());
                amount += self.origin.len();
            }
        }
        self.socket.transmit_output(amount, timeout)
    }

    fn await_input(&mut self, timeout: NextTimeout) -> Result<bool, Error> {
        self.socket.await_input(timeout)
    }

    /// ureq calls this before it puts a connection into its pool and when it takes one out.
    fn is_open(&mut self) -> bool {
        self.begins_request = true;
        self.socket.is_open()
    }
}

impl fmt::Debug for AbsoluteForm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AbsoluteForm").finish_non_exhaustive()
    }
}
