//! TLS to the upstream, on top of a socket or of a tunnel through a proxy.
//!
//! ureq has a connector for this, but rustls does not tell a self-signed certificate from one of an unknown
//! authority, and only a verifier sees the certificate. [`Verifier`] asks rustls for all that rustls's own
//! verifier checks without revocation lists, against the compiled-in roots of public authorities.
//! Invariant: a certificate that rustls rejects is rejected.

use std::fmt;
use std::io::{Read, Write};
use std::sync::{Arc, OnceLock};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{
    CertificateError, ClientConfig, ClientConnection, DigitallySignedStruct, OtherError,
    RootCertStore, SignatureScheme, StreamOwned,
};
use ureq::Error;
use ureq::unversioned::transport::{
    Buffers, ConnectionDetails, LazyBuffers, NextTimeout, Transport, TransportAdapter,
};

use super::BUFFER_BYTES;
use super::connect_failure::connect_failure;
use super::tls_errors::{SelfSigned, describe, map_handshake_error};

/// Makes TLS connections with one configuration.
#[derive(Debug, Default)]
pub(super) struct TlsConnector {
    /// Made for the first connection, as most upstreams on the same machine have none.
    config: OnceLock<Arc<ClientConfig>>,
}

impl TlsConnector {
    /// One that trusts these authorities.
    #[cfg(test)]
    pub(super) fn with_roots(roots: RootCertStore) -> Self {
        Self { config: Arc::new(config(roots)).into() }
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
        let name = ServerName::try_from(bare.trim_end_matches('.'))
            .map_err(|_| connect_failure("no certificate can be for this host name"))?;
        let config = self.config.get_or_init(|| Arc::new(config(public_roots()))).clone();
        let mut connection = ClientConnection::new(config, name.to_owned())
            .map_err(|error| connect_failure(describe(&error)))?;
        let mut socket = TransportAdapter::new(socket, details.current_time.clone());
        socket.set_timeout(timeout);
        connection.complete_io(&mut socket).map_err(map_handshake_error)?;
        Ok(Box::new(TlsTransport {
            buffers: LazyBuffers::new(BUFFER_BYTES, BUFFER_BYTES),
            stream: StreamOwned { conn: connection, sock: socket },
        }))
    }
}

fn public_roots() -> RootCertStore {
    RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() }
}

/// A configuration that trusts these authorities.
pub(super) fn config(roots: RootCertStore) -> ClientConfig {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let algorithms = provider.signature_verification_algorithms;
    ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("ring has the ciphers of all versions")
        // What is dangerous is a verifier that accepts too much.
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Verifier { roots, algorithms }))
        .with_no_client_auth()
}

/// Checks that an authority that is trusted issued a certificate for the server's name, and that it is
/// valid today; and that the server has its key.
#[derive(Debug)]
struct Verifier {
    roots: RootCertStore,
    algorithms: WebPkiSupportedAlgorithms,
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let certificate = ParsedCertificate::try_from(end_entity)?;
        let (roots, algorithms) = (&self.roots, self.algorithms.all);
        verify_server_cert_signed_by_trust_anchor(
            &certificate,
            roots,
            intermediates,
            now,
            algorithms,
        )
        .map_err(|error| match error {
            // `Other` is what rustls makes of a self-signed certificate that calls itself an authority's.
            rustls::Error::InvalidCertificate(
                CertificateError::UnknownIssuer | CertificateError::Other(_),
            ) if is_self_signed(end_entity) => {
                CertificateError::Other(OtherError(Arc::new(SelfSigned))).into()
            }
            error => error,
        })?;
        verify_server_name(&certificate, server_name)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signature, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

/// Whether a certificate names itself as its issuer.
fn is_self_signed(certificate: &CertificateDer<'_>) -> bool {
    webpki::EndEntityCert::try_from(certificate)
        .is_ok_and(|certificate| certificate.issuer() == certificate.subject())
}

/// A connection with TLS.
struct TlsTransport {
    buffers: LazyBuffers,
    stream: StreamOwned<ClientConnection, TransportAdapter>,
}

impl Transport for TlsTransport {
    fn buffers(&mut self) -> &mut dyn Buffers {
        &mut self.buffers
    }

    fn transmit_output(&mut self, amount: usize, timeout: NextTimeout) -> Result<(), Error> {
        self.stream.sock.set_timeout(timeout);
        self.stream.write_all(&self.buffers.output()[..amount])?;
        Ok(())
    }

    fn await_input(&mut self, timeout: NextTimeout) -> Result<bool, Error> {
        self.stream.sock.set_timeout(timeout);
        let amount = self.stream.read(self.buffers.input_append_buf())?;
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
    use rustls::ServerConnection;

    use super::super::tests::tls_server;
    use super::super::tests::tls_server::{
        AUTHORITY, EXPIRED, ISSUED, NOT_YET, OTHER_NAMES, SELF_SIGNED,
    };
    use super::*;

    /// What a client that trusts [`AUTHORITY`] says of a server's certificate.
    fn handshake(pem: &str, host: &'static str) -> Result<(), String> {
        let mut roots = RootCertStore::empty();
        roots.add(tls_server::certificate(AUTHORITY)).expect("a certificate");
        let name = ServerName::try_from(host).expect("a name");
        let mut client = ClientConnection::new(Arc::new(config(roots)), name).expect("a client");
        let mut server = ServerConnection::new(tls_server::server_config(pem)).expect("a server");
        while client.is_handshaking() || server.is_handshaking() {
            let mut bytes = Vec::new();
            client.write_tls(&mut bytes).expect("memory");
            server.read_tls(&mut bytes.as_slice()).expect("memory");
            server.process_new_packets().map_err(|error| describe(&error))?;
            bytes.clear();
            server.write_tls(&mut bytes).expect("memory");
            client.read_tls(&mut bytes.as_slice()).expect("memory");
            client.process_new_packets().map_err(|error| describe(&error))?;
        }
        Ok(())
    }

    #[test]
    fn a_trusted_authority_is_enough_and_every_fault_has_its_words() {
        assert_eq!(handshake(ISSUED, "localhost"), Ok(()));
        assert_eq!(handshake(ISSUED, "127.0.0.1"), Ok(()));
        assert_eq!(handshake(OTHER_NAMES, "x.b.example"), Ok(()));
        let fault = |pem, host| handshake(pem, host).expect_err("a fault");
        let names = "the server's certificate is for another host name: it names a.example, \
                     *.b.example, 10.0.0.1";
        assert_eq!(fault(OTHER_NAMES, "localhost"), names);
        assert_eq!(fault(OTHER_NAMES, "b.example"), names);
        assert_eq!(fault(OTHER_NAMES, "10.0.0.2"), names);
        let self_signed =
            "the server's certificate is self-signed, and only public authorities are trusted";
        assert_eq!(fault(SELF_SIGNED, "localhost"), self_signed);
        assert_eq!(
            fault(EXPIRED, "localhost"),
            "the server's certificate expired on 2024-02-29 (UTC)"
        );
        assert!(fault(NOT_YET, "localhost").contains("not valid before 2119-05-04 (UTC)"));
    }
}
