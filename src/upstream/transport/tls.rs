//! TLS to the upstream, on top of a socket or of a tunnel through a proxy.
//!
//! ureq has a connector for this, which cannot say what is wrong with a certificate; [`super::tls_config`]
//! can. Invariant: a connection without TLS is never made instead.

use std::fmt;
use std::io::{Read, Write};
use std::sync::{Arc, OnceLock};

use ring::digest::Digest;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, StreamOwned};
use ureq::Error;
use ureq::unversioned::transport::{
    Buffers, ConnectionDetails, LazyBuffers, NextTimeout, Transport, TransportAdapter,
};

use super::BUFFER_BYTES;
use super::connect_failure::{connect_failure, is_closed};
use super::tls_config::{forget_request, make_config, shown_certificate};
use super::tls_errors::{
    ClientCertificate, describe, find_tls_error, map_handshake_error, map_refusal,
};
use super::tls_files::TlsFiles;
use crate::upstream::TlsSettings;

/// Makes TLS connections with one configuration.
#[derive(Debug)]
pub(super) struct TlsConnector {
    settings: TlsSettings,
    /// Made for the first connection, as most upstreams on the same machine have none.
    config: OnceLock<(Arc<ClientConfig>, Digest)>,
}

impl TlsConnector {
    pub(super) fn new(settings: TlsSettings) -> Self {
        Self { settings, config: OnceLock::new() }
    }

    /// The configuration. Its files were read at the start, too; a failure is not kept.
    fn config(&self) -> Result<Arc<ClientConfig>, Error> {
        if let Some((config, _)) = self.config.get() {
            return Ok(config.clone());
        }
        let made = make_config(&self.settings).map_err(|faults| {
            let (setting, reason) = faults.into_iter().next().unwrap_or_default();
            connect_failure(format!(
                "{setting} (UPSTREAM_{}): {reason}",
                setting.to_ascii_uppercase()
            ))
        })?;
        Ok(self.config.get_or_init(|| made).0.clone())
    }

    /// Whether the files hold something else now. Files that cannot be used are no reason to let go of what
    /// they held before.
    pub(super) fn has_changed_files(&self) -> bool {
        let Some((_, known)) = self.config.get() else { return false };
        TlsFiles::read(&self.settings)
            .is_ok_and(|files| files.fingerprint.as_ref() != known.as_ref())
    }

    /// Makes the handshake.
    #[inline(never)] // Not inlined, to keep its buffers off the stack of plain connections.
    pub(super) fn connect(
        &self,
        socket: Box<dyn Transport>,
        details: &ConnectionDetails<'_>,
        timeout: NextTimeout,
    ) -> Result<Box<dyn Transport>, Error> {
        let host = details.uri.host().unwrap_or_default();
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        let name = ServerName::try_from(bare.trim_end_matches('.')).map_err(|_| {
            connect_failure(
                "TLS needs a host name or address that a certificate can hold: check the base URL",
            )
        })?;
        let config = self.config()?;
        forget_request();
        let shown = || shown_certificate(&config);
        let mut connection = ClientConnection::new(config.clone(), name.to_owned())
            .map_err(|error| connect_failure(describe(&error, shown())))?;
        let mut socket = TransportAdapter::new(socket, details.current_time.clone());
        socket.set_timeout(timeout);
        connection.complete_io(&mut socket).map_err(|error| map_handshake_error(error, shown()))?;
        Ok(Box::new(TlsTransport {
            buffers: LazyBuffers::new(BUFFER_BYTES, BUFFER_BYTES),
            stream: StreamOwned { conn: connection, sock: socket },
            shown: shown(),
        }))
    }
}

/// A connection with TLS.
struct TlsTransport {
    buffers: LazyBuffers,
    stream: StreamOwned<ClientConnection, TransportAdapter>,
    /// What the server knows of the client.
    shown: ClientCertificate,
}

impl Transport for TlsTransport {
    fn buffers(&mut self) -> &mut dyn Buffers {
        &mut self.buffers
    }

    fn transmit_output(&mut self, amount: usize, timeout: NextTimeout) -> Result<(), Error> {
        self.stream.sock.set_timeout(timeout);
        let written = self.stream.write_all(&self.buffers.output()[..amount]);
        match written {
            // With TLS 1.3 the server looks at the client's certificate after the handshake, and may have
            // said what is wrong with it before it closed the connection.
            Err(error) if is_closed(&error) => {
                let StreamOwned { conn, sock } = &mut self.stream;
                let said = conn.read_tls(sock).ok().and_then(|_| conn.process_new_packets().err());
                let refusal = said.and_then(|error| map_refusal(&error, self.shown));
                Err(refusal.unwrap_or(Error::Io(error)))
            }
            written => Ok(written?),
        }
    }

    fn await_input(&mut self, timeout: NextTimeout) -> Result<bool, Error> {
        self.stream.sock.set_timeout(timeout);
        let amount = self.stream.read(self.buffers.input_append_buf());
        let amount = amount.map_err(|error| {
            let refusal = find_tls_error(&error);
            let refusal = refusal.and_then(|error| map_refusal(error, self.shown));
            refusal.unwrap_or_else(|| error.into())
        })?;
        self.buffers.input_appended(amount);
        Ok(amount > 0)
    }

    fn is_open(&mut self) -> bool {
        self.stream.sock.get_mut().is_open()
    }

    fn is_tls(&self) -> bool {
        true
    }
}

impl fmt::Debug for TlsTransport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsTransport").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::tls_server::{AUTHORITY, SELF_SIGNED};
    use super::*;

    #[test]
    fn a_change_of_a_file_is_noticed_and_a_broken_one_is_none() {
        let folder = std::env::temp_dir().join(format!("tls-files-{}", std::process::id()));
        std::fs::create_dir_all(&folder).expect("a folder");
        let file = folder.join("ca.pem");
        let write = |text: &str| std::fs::write(&file, text).expect("a file");
        write(AUTHORITY);
        let settings = TlsSettings { ca_file: Some(file.clone()), ..TlsSettings::default() };
        let connector = TlsConnector::new(settings);
        assert!(!connector.has_changed_files(), "it was not read yet");
        assert!(connector.config().is_ok());
        assert!(!connector.has_changed_files());
        write("no certificate");
        assert!(!connector.has_changed_files());
        write(SELF_SIGNED);
        assert!(connector.has_changed_files());
        let _ = std::fs::remove_dir_all(folder);
    }
}
