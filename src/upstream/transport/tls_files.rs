//! The files that secure a connection: authorities beside the built-in ones, and the certificate that is
//! shown to the server.
//!
//! Authorities of the machine (`SSL_CERT_FILE`, `SSL_CERT_DIR`) are taken as they are: one that cannot be
//! read is skipped with a warning. Faults of the other files are errors. Invariant: no message holds the
//! content of a file, nor the path of one that a setting names, because a user may have put a key in its
//! place.

use std::env;
use std::fs::{self, File};
use std::io::Read;
use std::path::Path;

use ring::digest::{Context, Digest, SHA256, digest};
use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use crate::observe::system_error::{self, describe_read};
use crate::upstream::TlsSettings;

/// The largest file, in bytes; the bundle of a distribution has 200 KiB.
const MAX_FILE_BYTES: u64 = 4 * 1024 * 1024;

const NO_CERTIFICATE: &str =
    "the file holds no certificate in PEM (-----BEGIN CERTIFICATE-----, in base64)";

const NO_KEY: &str =
    "the file holds no private key in PEM (-----BEGIN PRIVATE KEY-----, in base64)";

const ENCRYPTED: &str = "the private key is encrypted, which is not supported; `openssl pkey` writes it without a password";

/// The settings that name files.
pub(super) const CA_FILE: &str = "ca_file";
pub(super) const CLIENT_CERT_FILE: &str = "client_cert_file";
pub(super) const CLIENT_KEY_FILE: &str = "client_key_file";

/// A setting, and what is wrong with its file.
pub type TlsFault = (&'static str, String);

/// A certificate with those of its issuers, and its private key.
pub(super) type Identity = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

/// What the files hold.
pub(super) struct TlsFiles {
    /// The authorities, as rustls takes them.
    pub roots: RootCertStore,
    /// The digests of those that are not public ones.
    pub own_authorities: Vec<Digest>,
    /// What is shown to a server that asks for it.
    pub identity: Option<Identity>,
    /// Of the content of all files.
    pub fingerprint: Digest,
}

impl TlsFiles {
    /// Reads all files; with the public authorities.
    ///
    /// # Errors
    /// Each setting whose file cannot be used.
    pub(super) fn read(settings: &TlsSettings) -> Result<Self, Vec<TlsFault>> {
        let (mut faults, mut hash) = (Vec::new(), Context::new(&SHA256));
        let mut roots = RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() };
        let mut authorities = Vec::new();
        if let Some(path) = &settings.ca_file {
            match read_authorities(path, &mut roots, &mut hash) {
                Ok(certificates) => authorities = certificates,
                Err(reason) => faults.push((CA_FILE, reason)),
            }
        }
        add_system_authorities(settings, &mut authorities, &mut roots, &mut hash);
        let identity = match read_identity(settings, &mut hash) {
            Ok(identity) => identity,
            Err(fault) => {
                faults.push(fault);
                None
            }
        };
        if !faults.is_empty() {
            return Err(faults);
        }
        let own_authorities = authorities.iter().map(|it| digest(&SHA256, it)).collect();
        Ok(Self { roots, own_authorities, identity, fingerprint: hash.finish() })
    }
}

/// The authorities of a file, which are added to the others.
fn read_authorities(
    path: &Path,
    roots: &mut RootCertStore,
    hash: &mut Context,
) -> Result<Vec<CertificateDer<'static>>, String> {
    let certificates = parse_certificates(&read_file(path, hash)?)?;
    for (number, certificate) in (1..).zip(&certificates) {
        roots.add(certificate.clone()).map_err(|_| {
            format!("certificate {number} of the file is not valid (X.509 version 3)")
        })?;
    }
    Ok(certificates)
}

/// Adds the authorities of the machine to those that are known. A bundle and its parts are often in the same
/// folder.
fn add_system_authorities(
    settings: &TlsSettings,
    known: &mut Vec<CertificateDer<'static>>,
    roots: &mut RootCertStore,
    hash: &mut Context,
) {
    let mut add = |label: &str, path: &Path, needs_one: bool| {
        let certificates = match read_file(path, hash).map(|bytes| parse_certificates(&bytes)) {
            Ok(Ok(certificates)) => certificates,
            // Folders of certificates also hold other files.
            Ok(Err(_)) if !needs_one => return,
            Ok(Err(reason)) | Err(reason) => {
                log::warn!("{label} is skipped: {reason}");
                return;
            }
        };
        let mut unusable = 0;
        for certificate in certificates {
            if !known.contains(&certificate) {
                unusable += usize::from(roots.add(certificate.clone()).is_err());
                known.push(certificate);
            }
        }
        if unusable > 0 {
            log::warn!(
                "{label}: certificates skipped because they are not valid (X.509): {unusable}"
            );
        }
    };
    if let Some(path) = &settings.system_ca_file {
        add("SSL_CERT_FILE", path, true);
    }
    // As OpenSSL reads it: a list of folders.
    for folder in settings.system_ca_dir.iter().flat_map(env::split_paths) {
        let entries = match fs::read_dir(&folder) {
            Ok(entries) => entries,
            Err(error) => {
                log::warn!("SSL_CERT_DIR is skipped: {}", system_error::describe(&error));
                continue;
            }
        };
        let paths: Vec<_> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
        // A pipe would be waited for.
        for path in paths.iter().filter(|path| !path.is_dir() && !is_special(path)) {
            let name = path.file_name().unwrap_or_default();
            add(&format!("SSL_CERT_DIR: {name:?}"), path, false);
        }
    }
}

/// Whether a path leads to a pipe, a socket or a device.
fn is_special(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|metadata| !metadata.is_file())
}

/// The certificate that is shown to the server, if there is one. Its key may stand in the same file.
fn read_identity(settings: &TlsSettings, hash: &mut Context) -> Result<Option<Identity>, TlsFault> {
    let Some(path) = &settings.client_cert_file else {
        return match settings.client_key_file {
            Some(_) => Err((CLIENT_CERT_FILE, "is needed for client_key_file".to_owned())),
            None => Ok(None),
        };
    };
    let in_certificate = |reason| (CLIENT_CERT_FILE, reason);
    let bytes = read_file(path, hash).map_err(in_certificate)?;
    let certificates = parse_certificates(&bytes).map_err(in_certificate)?;
    let key = match &settings.client_key_file {
        Some(path) => read_file(path, hash).and_then(|bytes| parse_key(&bytes)),
        None => parse_key(&bytes).map_err(|reason| match reason.as_str() {
            NO_KEY => "is needed: client_cert_file holds no private key".to_owned(),
            _ => reason,
        }),
    };
    Ok(Some((certificates, key.map_err(|reason| (CLIENT_KEY_FILE, reason))?)))
}

fn read_file(path: &Path, hash: &mut Context) -> Result<Vec<u8>, String> {
    let bytes = read_bounded(path, MAX_FILE_BYTES)?;
    hash.update(&bytes.len().to_le_bytes());
    hash.update(&bytes);
    Ok(bytes)
}

/// The bytes of a file that may hold at most `max_bytes`.
///
/// # Errors
/// Why it cannot be read, without its path and its content.
pub(in crate::upstream) fn read_bounded(path: &Path, max_bytes: u64) -> Result<Vec<u8>, String> {
    let file = File::open(path).map_err(|error| describe_read(&error))?;
    let mut bytes = Vec::new();
    file.take(max_bytes + 1).read_to_end(&mut bytes).map_err(|error| describe_read(&error))?;
    if bytes.len() as u64 > max_bytes {
        return Err(format!("the file is larger than {} KiB", max_bytes / 1024));
    }
    Ok(bytes)
}

/// The certificates of a file. What else it holds does not count.
fn parse_certificates(bytes: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    match CertificateDer::pem_slice_iter(bytes).collect::<Result<Vec<_>, _>>() {
        Ok(certificates) if certificates.is_empty() => Err(NO_CERTIFICATE.to_owned()),
        Ok(certificates) => Ok(certificates),
        // The error may quote the file.
        Err(_) => Err("the file is damaged: not valid PEM".to_owned()),
    }
}

/// The first private key of a file: PKCS #8, PKCS #1 or SEC 1.
fn parse_key(bytes: &[u8]) -> Result<PrivateKeyDer<'static>, String> {
    let is_encrypted = String::from_utf8_lossy(bytes)
        .lines()
        .any(|line| line.contains("ENCRYPTED") && !line.starts_with('#'));
    match PrivateKeyDer::pem_slice_iter(bytes).next() {
        Some(Ok(key)) => Ok(key),
        _ if is_encrypted => Err(ENCRYPTED.to_owned()),
        Some(Err(_)) => Err("the file is damaged: not valid PEM".to_owned()),
        None => Err(NO_KEY.to_owned()),
    }
}
