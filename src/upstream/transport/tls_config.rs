//! How a connection is secured: whose certificates are trusted, and which one is shown.
//!
//! rustls does not tell a self-signed certificate from one of an unknown authority, and only a verifier sees
//! the certificate. [`Verifier`] asks rustls for all that rustls's own verifier checks without revocation
//! lists, against the compiled-in roots of public authorities and those of [`TlsSettings`]. Invariant: a
//! certificate that rustls rejects is rejected, unless the operator has named this very certificate as an
//! authority, or has turned the check off; that the server has the certificate's key is checked in any case.

use std::cell::Cell;
use std::sync::Arc;

use ring::digest::{Digest, SHA256, digest};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{
    ResolvesClientCert, verify_server_cert_signed_by_trust_anchor, verify_server_name,
};
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::sign::CertifiedKey;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, OtherError, RootCertStore,
    SignatureScheme,
};

use super::tls_errors::{ClientCertificate, SelfSigned};
use super::tls_files::{CLIENT_CERT_FILE, CLIENT_KEY_FILE, TlsFault, TlsFiles};
use crate::upstream::TlsSettings;

/// What is wrong with the files that the settings name: each setting, and the fault of its file.
pub fn check_tls_files(settings: &TlsSettings) -> Vec<TlsFault> {
    make_config(settings).err().unwrap_or_default()
}

/// The configuration of these settings, and the fingerprint of their files.
pub(super) fn make_config(
    settings: &TlsSettings,
) -> Result<(Arc<ClientConfig>, Digest), Vec<TlsFault>> {
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
        None => builder.with_client_cert_resolver(Arc::new(NoCertificate)),
    };
    Ok((Arc::new(config), fingerprint))
}

thread_local! {
    /// Whether the server of this thread's handshake has asked for a certificate.
    static WAS_ASKED: Cell<bool> = const { Cell::new(false) };
}

/// Forgets that a server has asked, before a handshake.
pub(super) fn forget_request() {
    WAS_ASKED.set(false);
}

/// What the server of this thread's handshake knows of the client.
pub(super) fn shown_certificate(config: &ClientConfig) -> ClientCertificate {
    match (config.client_auth_cert_resolver.has_certs(), WAS_ASKED.get()) {
        (true, _) => ClientCertificate::Configured,
        (false, true) => ClientCertificate::Missing,
        (false, false) => ClientCertificate::NotAsked,
    }
}

/// Has no certificate for a server that asks for one, and notes that it does.
#[derive(Debug)]
struct NoCertificate;

impl ResolvesClientCert for NoCertificate {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        WAS_ASKED.set(true);
        None
    }

    fn has_certs(&self) -> bool {
        false
    }
}

/// Why a certificate cannot be shown to a server.
fn name_fault(error: &rustls::Error) -> TlsFault {
    match error {
        rustls::Error::InconsistentKeys(_) => {
            (CLIENT_KEY_FILE, "the private key is not that of client_cert_file".to_owned())
        }
        rustls::Error::InvalidCertificate(_) => {
            (CLIENT_CERT_FILE, "its certificate is not valid (X.509 version 3)".to_owned())
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
    /// The digests of those that are not public ones.
    own_authorities: Vec<Digest>,
    /// Whether the certificate is not checked.
    accepts_any: bool,
    algorithms: WebPkiSupportedAlgorithms,
}

impl Verifier {
    /// Whether the operator, or the machine, has named this very certificate.
    fn is_own_authority(&self, certificate: &CertificateDer<'_>) -> bool {
        let known = digest(&SHA256, certificate);
        self.own_authorities.iter().any(|it| it.as_ref() == known.as_ref())
    }
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
            Err(error) if is_authority(&error) && self.is_own_authority(end_entity) => {}
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

#[cfg(test)]
mod tests {
    use rustls::{ClientConnection, ServerConnection};

    use super::super::tests::tls_server;
    use super::super::tests::tls_server::{
        AUTHORITY, EXPIRED, EXPIRED_AUTHORITY, ISSUED, NOT_YET, OTHER_NAMES, SELF_SIGNED, path_of,
    };
    use super::super::tls_errors::describe;
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
            server
                .process_new_packets()
                .map_err(|error| describe(&error, ClientCertificate::NotAsked))?;
            bytes.clear();
            server.write_tls(&mut bytes).expect("memory");
            client.read_tls(&mut bytes.as_slice()).expect("memory");
            client
                .process_new_packets()
                .map_err(|error| describe(&error, ClientCertificate::NotAsked))?;
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
        let system = TlsSettings {
            system_ca_file: Some(path_of("authority.pem")),
            ..TlsSettings::default()
        };
        assert_eq!(handshake(system, AUTHORITY, "localhost"), Ok(()));
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
        check(
            settings(Some(""), None, None),
            &[("ca_file", "cannot read the file: it is a folder")],
        );
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
}
