//! TLS to the upstream, on top of a socket or of a tunnel through a proxy.
//!
//! ureq has a connector for this, but rustls does not tell a self-signed certificate from one of an unknown
//! authority, and only a verifier sees the certificate. [`Verifier`] asks rustls for all that rustls's own
//! verifier checks without revocation lists, against the compiled-in roots of public authorities and those
//! of [`TlsSettings`]. Invariant: a certificate that rustls rejects is rejected, unless the operator has
//! named this very certificate as an authority, or has turned the check off; that the server has the
//! certificate's key is checked in any case.

use std::fmt;
use std::io::{Read, Write};
use std::sync::{Arc, OnceLock};

use ring::digest::Digest;
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
use super::connect_failure::{connect_failure, is_closed};
use super::tls_errors::{SelfSigned, describe, find_tls_error, map_handshake_error, map_refusal};
use super::tls_files::{CLIENT_CERT_FILE, CLIENT_KEY_FILE, TlsFault, TlsFiles};
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
            connect_failure(format!("{setting}: {reason}"))
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
        let name = ServerName::try_from(bare.trim_end_matches('.'))
            .map_err(|_| connect_failure("no certificate can be for this host name"))?;
        let config = self.config()?;
        let shows_certificate = config.client_auth_cert_resolver.has_certs();
        let mut connection = ClientConnection::new(config, name.to_owned())
            .map_err(|error| connect_failure(describe(&error, shows_certificate)))?;
        let mut socket = TransportAdapter::new(socket, details.current_time.clone());
        socket.set_timeout(timeout);
        connection
            .complete_io(&mut socket)
            .map_err(|error| map_handshake_error(error, shows_certificate))?;
        Ok(Box::new(TlsTransport {
            buffers: LazyBuffers::new(BUFFER_BYTES, BUFFER_BYTES),
            stream: StreamOwned { conn: connection, sock: socket },
            shows_certificate,
        }))
    }
}

/// What is wrong with the files that the settings name: each setting, and the fault of its file.
pub fn check_tls_files(settings: &TlsSettings) -> Vec<TlsFault> {
    make_config(settings).err().unwrap_or_default()
}

/// The configuration of these settings, and the fingerprint of their files.
fn make_config(settings: &TlsSettings) -> Result<(Arc<ClientConfig>, Digest), Vec<TlsFault>> {
    let TlsFiles { roots, own_authorities, identity, fingerprint } = TlsFiles::read(settings)?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let algorithms = provider.signature_verification_algorithms;
    let accepts_any = !settings.verify;
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("ring has the ciphers of all versions")
        // What is dangerous is a verifier that accepts too much.
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Verifier {
            roots,
            own_authorities,
            accepts_any,
            algorithms,
        }));
    let config = match identity {
        Some((chain, key)) => {
            builder.with_client_auth_cert(chain, key).map_err(|error| vec![name_fault(&error)])?
        }
        None => builder.with_no_client_auth(),
    };
    Ok((Arc::new(config), fingerprint))
}

/// Why a certificate cannot be shown to a server.
fn name_fault(error: &rustls::Error) -> TlsFault {
    match error {
        rustls::Error::InconsistentKeys(_) => {
            (CLIENT_KEY_FILE, "the private key is not that of client_cert_file".to_owned())
        }
        rustls::Error::InvalidCertificate(_) => {
            (CLIENT_CERT_FILE, "its certificate is not a valid one of X.509, version 3".to_owned())
        }
        _ => (
            CLIENT_KEY_FILE,
            "the private key is of no supported type (RSA from 2048 bits, P-256, P-384, Ed25519)"
                .to_owned(),
        ),
    }
}

/// Checks that an authority that is trusted issued a certificate for the server's name, and that it is
/// valid today; and that the server has its key.
#[derive(Debug)]
struct Verifier {
    roots: RootCertStore,
    /// Those of the operator, as they are written.
    own_authorities: Vec<CertificateDer<'static>>,
    /// Whether the certificate is not checked.
    accepts_any: bool,
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
        if self.accepts_any {
            return Ok(ServerCertVerified::assertion());
        }
        let certificate = ParsedCertificate::try_from(end_entity)?;
        let (roots, algorithms) = (&self.roots, self.algorithms.all);
        let verified = verify_server_cert_signed_by_trust_anchor(
            &certificate,
            roots,
            intermediates,
            now,
            algorithms,
        );
        match verified {
            Ok(()) => {}
            // What `openssl req -x509` makes: it calls itself an authority's. The dates were checked first.
            Err(error) if is_authority(&error) && self.own_authorities.contains(end_entity) => {}
            Err(rustls::Error::InvalidCertificate(
                CertificateError::UnknownIssuer | CertificateError::Other(_),
            )) if is_self_signed(end_entity) => {
                return Err(CertificateError::Other(OtherError(Arc::new(SelfSigned))).into());
            }
            Err(error) => return Err(error),
        }
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

/// Whether the only fault of a certificate is that it is one for issuing others.
fn is_authority(error: &rustls::Error) -> bool {
    let rustls::Error::InvalidCertificate(CertificateError::Other(error)) = error else {
        return false;
    };
    matches!(error.0.downcast_ref(), Some(webpki::Error::CaUsedAsEndEntity))
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
    /// Whether there is a certificate that a server which asks for one gets.
    shows_certificate: bool,
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
                let refusal = said.and_then(|error| map_refusal(&error, self.shows_certificate));
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
            let refusal = refusal.and_then(|error| map_refusal(error, self.shows_certificate));
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
    use rustls::ServerConnection;

    use super::super::tests::tls_server;
    use super::super::tests::tls_server::{
        AUTHORITY, EXPIRED, EXPIRED_AUTHORITY, ISSUED, NOT_YET, OTHER_NAMES, SELF_SIGNED, path_of,
    };
    use super::*;

    /// What a client that trusts the authorities of a file says of a server's certificate.
    fn handshake(settings: TlsSettings, pem: &str, host: &'static str) -> Result<(), String> {
        let (config, _) = make_config(&settings).expect("files that can be used");
        let name = ServerName::try_from(host).expect("a name");
        let mut client = ClientConnection::new(config, name).expect("a client");
        let mut server = ServerConnection::new(tls_server::server_config(pem)).expect("a server");
        while client.is_handshaking() || server.is_handshaking() {
            let mut bytes = Vec::new();
            client.write_tls(&mut bytes).expect("memory");
            server.read_tls(&mut bytes.as_slice()).expect("memory");
            server.process_new_packets().map_err(|error| describe(&error, false))?;
            bytes.clear();
            server.write_tls(&mut bytes).expect("memory");
            client.read_tls(&mut bytes.as_slice()).expect("memory");
            client.process_new_packets().map_err(|error| describe(&error, false))?;
        }
        Ok(())
    }

    fn trusting(file: &str) -> TlsSettings {
        TlsSettings { ca_file: Some(path_of(file)), ..TlsSettings::default() }
    }

    #[test]
    fn a_trusted_authority_is_enough_and_every_fault_has_its_words() {
        let handshake = |pem, host| handshake(trusting("authority.pem"), pem, host);
        assert_eq!(handshake(ISSUED, "localhost"), Ok(()));
        assert_eq!(handshake(ISSUED, "127.0.0.1"), Ok(()));
        assert_eq!(handshake(OTHER_NAMES, "x.b.example"), Ok(()));
        let fault = |pem, host| handshake(pem, host).expect_err("a fault");
        let names = "the server's certificate is for another host name: it names a.example, \
                     *.b.example, 10.0.0.1; use a name of it in base_url (OPENAI_API_BASE_URL)";
        assert_eq!(fault(OTHER_NAMES, "localhost"), names);
        assert_eq!(fault(OTHER_NAMES, "b.example"), names);
        assert_eq!(fault(OTHER_NAMES, "10.0.0.2"), names);
        let self_signed =
            "the server's certificate is self-signed: set ca_file (UPSTREAM_CA_FILE) to it";
        assert_eq!(fault(SELF_SIGNED, "localhost"), self_signed);
        assert_eq!(
            fault(EXPIRED, "localhost"),
            "the server's certificate expired on 2024-02-29 (UTC): renew it (for tests, tls_verify or \
             UPSTREAM_TLS_VERIFY turns the check off)"
        );
        assert!(fault(NOT_YET, "localhost").contains("not valid before 2119-05-04 (UTC)"));
    }

    #[test]
    fn a_certificate_that_is_its_own_authority_is_trusted_once_it_is_named() {
        // Whether it calls itself a server's or, as `openssl req -x509` makes them, an authority's.
        assert_eq!(handshake(trusting("self_signed.pem"), SELF_SIGNED, "localhost"), Ok(()));
        assert_eq!(handshake(trusting("authority.pem"), AUTHORITY, "localhost"), Ok(()));
        let fault = |file, pem, host| handshake(trusting(file), pem, host).expect_err("a fault");
        assert!(fault("authority.pem", AUTHORITY, "other").contains("another host name"));
        let expired = fault("expired_authority.pem", EXPIRED_AUTHORITY, "localhost");
        assert!(expired.contains("expired on 2024-02-29"), "{expired}");
        // Another one with the same key and the same name.
        assert!(fault("self_signed.pem", AUTHORITY, "localhost").contains("self-signed"));
    }

    #[test]
    fn without_the_check_any_certificate_is_accepted() {
        for pem in [AUTHORITY, SELF_SIGNED, ISSUED, OTHER_NAMES, EXPIRED, NOT_YET] {
            let settings = TlsSettings { verify: false, ..TlsSettings::default() };
            assert_eq!(handshake(settings, pem, "localhost"), Ok(()));
        }
    }

    #[test]
    fn every_file_that_cannot_be_used_is_named_with_its_fault() {
        let pem = |file: &str| Some(path_of(file));
        let settings = |ca: Option<&str>, cert: Option<&str>, key: Option<&str>| TlsSettings {
            ca_file: ca.and_then(pem),
            client_cert_file: cert.and_then(pem),
            client_key_file: key.and_then(pem),
            ..TlsSettings::default()
        };
        let check = |settings: TlsSettings, expected: &[(&str, &str)]| {
            let faults = check_tls_files(&settings);
            assert_eq!(faults.len(), expected.len(), "{faults:?}");
            for ((setting, reason), (expected, words)) in faults.iter().zip(expected) {
                assert!(setting == expected && reason.contains(words), "{setting}: {reason}");
            }
        };
        check(settings(None, None, None), &[]);
        check(settings(Some("authority.pem"), Some("client.pem"), Some("client_key.pem")), &[]);
        check(settings(None, Some("client.pem"), Some("client_key_pkcs1.pem")), &[]);
        check(settings(None, Some("issued.pem"), Some("key_sec1.pem")), &[]);
        check(settings(None, Some("client_and_key.pem"), None), &[]);
        check(
            settings(Some("none.pem"), Some("none.pem"), Some("client_key.pem")),
            &[("ca_file", "no such file"), ("client_cert_file", "no such file")],
        );
        check(settings(Some("key.pem"), None, None), &[("ca_file", "no certificate")]);
        check(settings(Some("make"), None, None), &[("ca_file", "no certificate")]);
        check(settings(Some(""), None, None), &[("ca_file", "cannot read the file: is a dir")]);
        check(settings(None, None, Some("key.pem")), &[("client_cert_file", "is needed")]);
        check(settings(None, Some("client.pem"), None), &[("client_key_file", "is needed")]);
        check(
            settings(None, Some("client.pem"), Some("issued.pem")),
            &[("client_key_file", "no private key")],
        );
        check(
            settings(None, Some("client.pem"), Some("key.pem")),
            &[("client_key_file", "not that of client_cert_file")],
        );
        check(
            settings(None, Some("client.pem"), Some("client_key_encrypted.pem")),
            &[("client_key_file", "is encrypted")],
        );
    }

    #[test]
    fn authorities_of_the_machine_and_of_the_operator_are_trusted_beside_the_public_ones() {
        let count = |settings: &TlsSettings| {
            TlsFiles::read(settings).map(|files| files.roots.len()).map_err(|faults| faults.len())
        };
        let public = webpki_roots::TLS_SERVER_ROOTS.len();
        assert!(public > 50);
        assert_eq!(count(&TlsSettings::default()), Ok(public));
        assert_eq!(count(&trusting("authority.pem")), Ok(public + 1));
        let system = |file: &str, folder: &str| TlsSettings {
            system_ca_file: Some(path_of(file)),
            system_ca_dir: Some(path_of(folder)),
            ..TlsSettings::default()
        };
        assert_eq!(count(&system("authority.pem", "none")), Ok(public + 1));
        // Keys and scripts are no certificates, and one that stands in two files counts once.
        let all = count(&system("none.pem", ""));
        assert!(all.is_ok_and(|all| all >= public + 8), "{all:?}");
        assert_eq!(count(&system("authority.pem", "")), all);
        assert_eq!(count(&system("key.pem", "none")), Ok(public));
    }

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
