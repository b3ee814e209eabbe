//! What is said to a proxy before it opens a tunnel.
//!
//! Invariant: all of it together takes no longer than connecting may take, and an answer is no longer than
//! the head of a response.

use std::io;
use std::time::Instant;

use ureq::Error;
use ureq::unversioned::transport::{NextTimeout, Transport};

use super::BUFFER_BYTES;
use super::tcp::TcpTransport;

/// The beginning of a connection, on which a tunnel is asked for.
pub(super) struct Handshake {
    socket: TcpTransport,
    began: Instant,
    timeout: NextTimeout,
}

impl Handshake {
    /// `timeout` is for connecting and all that follows.
    pub(super) fn new(socket: TcpTransport, began: Instant, timeout: NextTimeout) -> Self {
        Self { socket, began, timeout }
    }

    /// The tunnel, once the proxy has opened it.
    pub(super) fn into_socket(self) -> TcpTransport {
        self.socket
    }

    fn remaining(&self) -> NextTimeout {
        let after = self.timeout.after.saturating_sub(self.began.elapsed()).into();
        NextTimeout { after, ..self.timeout }
    }

    /// Sends bytes, at the latest when an answer is awaited.
    pub(super) fn send(&mut self, mut bytes: &[u8]) -> Result<(), Error> {
        while !bytes.is_empty() {
            let output = self.socket.buffers().output();
            let (now, later) = bytes.split_at(bytes.len().min(output.len()));
            output[..now.len()].copy_from_slice(now);
            self.socket.transmit_output(now.len(), self.remaining())?;
            bytes = later;
        }
        Ok(())
    }

    /// Reads until `find_end` finds the end of an answer. What follows it is left to the tunnel.
    pub(super) fn receive(
        &mut self,
        find_end: impl Fn(&[u8]) -> Option<usize>,
    ) -> Result<Vec<u8>, Error> {
        loop {
            let input = self.socket.buffers().input();
            if let Some(end) = find_end(input) {
                let answer = input[..end].to_vec();
                self.socket.buffers().input_consume(end);
                return Ok(answer);
            }
            if input.len() > BUFFER_BYTES {
                return Err(io::Error::from(io::ErrorKind::InvalidData).into());
            }
            let timeout = self.remaining();
            if !self.socket.await_input(timeout)? {
                return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
            }
        }
    }
}
