//! What went wrong in a TLS handshake, in words that say what to do.
//!
//! Texts of rustls are for programmers (`Other(OtherError(CaUsedAsEndEntity))`). Of what the server sent,
//! only the names and dates of its certificate are repeated. Invariant: a text is on one line and has a
//! bounded length.

use std::fmt;
use std::io;
use std::time::{Duration, SystemTime};

use rustls::pki_types::UnixTime;
use rustls::{AlertDescription, CertificateError, InvalidMessage};
use ureq::Error;

use super::connect_failure::{connect_failure, is_closed};
use crate::observe::timestamp::to_rfc3339;

/// The most names of a certificate that are shown, and the most characters of each.
const MAX_NAMES: usize = 5;
const MAX_NAME_CHARS: usize = 80;

/// The end of the year 9999, the last one that certificates have a form for (RFC 5280 section 4.1.2.5).
const LAST_SECOND: u64 = 253_402_300_799;

const NO_TLS: &str = "this server does not speak TLS; did you mean http://?";

const CLOSED: &str =
    "the server closed the connection during the TLS handshake; did you mean http://?";

const UNCHECKED: &str = "(for tests, tls_verify or UPSTREAM_TLS_VERIFY turns the check off)";

const WANTS_CERTIFICATE: &str = "the server wants a client certificate: set client_cert_file and \
                                 client_key_file (UPSTREAM_CLIENT_CERT_FILE, UPSTREAM_CLIENT_KEY_FILE)";

const NO_CERTIFICATE: &str = "the server shows no certificate";

const INVALID_TLS: &str = "the server sent an invalid TLS message: does a firewall or a proxy on the way change the connection?";

const TOO_OLD: &str = "the server has no version or cipher of TLS that is supported (1.2 and 1.3)";

/// What a server that asks for the client's certificate gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ClientCertificate {
    /// The one of the configuration.
    Configured,
    /// None, and this server has asked for one.
    Missing,
    /// None, and this server has not asked.
    NotAsked,
}

/// A certificate that was issued by no authority.
#[derive(Debug)]
pub(super) struct SelfSigned;

impl fmt::Display for SelfSigned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("self-signed")
    }
}

impl std::error::Error for SelfSigned {}

/// Why a handshake failed: a reason in words, or the error of the connection beneath.
pub(super) fn map_handshake_error(error: io::Error, shown: ClientCertificate) -> Error {
    match Error::from(error) {
        Error::Io(error) => match find_tls_error(&error) {
            Some(error) => connect_failure(describe(error, shown)),
            None if is_closed(&error) => connect_failure(CLOSED),
            None => Error::Io(error),
        },
        error => error,
    }
}

/// What a server says of the client's certificate, which with TLS 1.3 comes after the handshake.
pub(super) fn map_refusal(error: &rustls::Error, shown: ClientCertificate) -> Option<Error> {
    let rustls::Error::AlertReceived(alert) = error else { return None };
    let is_refusal = *alert == AlertDescription::CertificateRequired || is_about_client(*alert);
    is_refusal.then(|| connect_failure(describe(error, shown)))
}

/// rustls's error inside one of reading or writing.
pub(super) fn find_tls_error(error: &io::Error) -> Option<&rustls::Error> {
    error.get_ref()?.downcast_ref()
}

/// An error of rustls in words.
pub(super) fn describe(error: &rustls::Error, shown: ClientCertificate) -> String {
    match error {
        rustls::Error::InvalidCertificate(error) => describe_certificate_error(error),
        rustls::Error::InvalidMessage(
            InvalidMessage::InvalidContentType
            | InvalidMessage::UnknownProtocolVersion
            | InvalidMessage::InvalidEmptyPayload
            | InvalidMessage::MessageTooLarge,
        ) => NO_TLS.to_owned(),
        rustls::Error::AlertReceived(alert) => describe_alert(*alert, shown),
        rustls::Error::PeerIncompatible(_) => TOO_OLD.to_owned(),
        rustls::Error::NoCertificatesPresented => NO_CERTIFICATE.to_owned(),
        rustls::Error::InappropriateMessage { .. }
        | rustls::Error::InappropriateHandshakeMessage { .. }
        | rustls::Error::InvalidMessage(_)
        | rustls::Error::PeerMisbehaved(_)
        | rustls::Error::PeerSentOversizedRecord
        | rustls::Error::DecryptError => INVALID_TLS.to_owned(),
        rustls::Error::General(reason) => format!("TLS: {reason}"),
        _ => "TLS: the handshake failed".to_owned(),
    }
}

fn describe_certificate_error(error: &CertificateError) -> String {
    match error {
        CertificateError::Other(error) if error.0.downcast_ref::<SelfSigned>().is_some() => {
            "the server's certificate is self-signed: set ca_file (UPSTREAM_CA_FILE) to it"
                .to_owned()
        }
        CertificateError::UnknownIssuer => {
            "the server's certificate comes from an unknown authority: set ca_file \
             (UPSTREAM_CA_FILE) to the certificate of that authority"
                .to_owned()
        }
        CertificateError::NotValidForNameContext { presented, .. } if presented.is_empty() => {
            "the server's certificate names no host (subjectAltName)".to_owned()
        }
        CertificateError::NotValidForNameContext { presented, .. } => {
            format!(
                "the server's certificate is for another host name: {}; use a name of it in base_url \
                 (OPENAI_API_BASE_URL)",
                list_names(presented)
            )
        }
        CertificateError::NotValidForName => {
            "the server's certificate is for another host name".to_owned()
        }
        CertificateError::ExpiredContext { not_after, .. } => {
            format!(
                "the server's certificate expired on {} (UTC): renew it {UNCHECKED}",
                format_date(*not_after)
            )
        }
        CertificateError::Expired => {
            format!("the server's certificate has expired: renew it {UNCHECKED}")
        }
        CertificateError::NotValidYetContext { not_before, .. } => format!(
            "the server's certificate is not valid before {} (UTC); is this machine's clock right?",
            format_date(*not_before)
        ),
        CertificateError::Revoked => "the server's certificate was revoked".to_owned(),
        CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => {
            "the server's certificate is not for servers (extendedKeyUsage)".to_owned()
        }
        CertificateError::BadSignature => {
            "the server's certificate has a wrong signature".to_owned()
        }
        CertificateError::BadEncoding | CertificateError::UnhandledCriticalExtension => {
            "the server's certificate is not valid (X.509 version 3)".to_owned()
        }
        // What a library says of other faults is for programmers.
        other => {
            let fault = format!("{other:?}");
            let name = fault.split(|c: char| !c.is_ascii_alphanumeric()).next().unwrap_or_default();
            format!("the server's certificate cannot be checked: {}", split_words(name))
        }
    }
}

/// Whether an alert is about the client's certificate: a server has no other that could be wrong.
fn is_about_client(alert: AlertDescription) -> bool {
    matches!(
        alert,
        AlertDescription::NoCertificate
            | AlertDescription::BadCertificate
            | AlertDescription::UnsupportedCertificate
            | AlertDescription::CertificateRevoked
            | AlertDescription::CertificateExpired
            | AlertDescription::CertificateUnknown
            | AlertDescription::UnknownCA
            | AlertDescription::AccessDenied
    )
}

/// What the server said when it ended the handshake.
fn describe_alert(alert: AlertDescription, shown: ClientCertificate) -> String {
    let text = match alert {
        AlertDescription::ProtocolVersion => TOO_OLD,
        AlertDescription::UnrecognisedName => "the server has no certificate for this host name",
        AlertDescription::CertificateRequired => WANTS_CERTIFICATE,
        // With TLS 1.2 there is no other word for one that is missing.
        alert if is_about_client(alert) && shown != ClientCertificate::Configured => {
            WANTS_CERTIFICATE
        }
        // OpenSSL's.
        AlertDescription::HandshakeFailure if shown == ClientCertificate::Missing => {
            WANTS_CERTIFICATE
        }
        alert if is_about_client(alert) => {
            return format!(
                "the server refused the client certificate ({}): check client_cert_file \
                 (UPSTREAM_CLIENT_CERT_FILE)",
                alert_words(alert)
            );
        }
        other => return format!("the server refused the TLS handshake ({})", alert_words(other)),
    };
    text.to_owned()
}

/// An alert in the words of RFC 8446 section 6.2, such as `handshake failure`.
fn alert_words(alert: AlertDescription) -> String {
    match alert {
        AlertDescription::Unknown(number) => format!("alert {number}"),
        AlertDescription::UnknownCA => "unknown authority".to_owned(),
        known => split_words(&format!("{known:?}")),
    }
}

/// A name in camel case as words in lower case.
fn split_words(name: &str) -> String {
    let mut words = String::new();
    for c in name.chars() {
        if c.is_ascii_uppercase() && !words.is_empty() {
            words.push(' ');
        }
        words.push(c.to_ascii_lowercase());
    }
    words
}

/// The names in a certificate, which rustls gives as `DnsName("a.example")` or `IpAddress(::1)`.
fn list_names(presented: &[String]) -> String {
    let plain = |name: &String| {
        let inside = name.split_once('(').map_or(name.as_str(), |(_, rest)| rest);
        let inside = inside.trim_end_matches(')').trim_matches('"');
        let is_shown = |c: &char| c.is_ascii_graphic() && *c != '"';
        inside.chars().filter(is_shown).take(MAX_NAME_CHARS).collect::<String>()
    };
    let names: Vec<_> = presented.iter().take(MAX_NAMES).map(plain).collect();
    match presented.len().saturating_sub(MAX_NAMES) {
        0 => format!("it names {}", names.join(", ")),
        more => format!("it names {} and {more} more", names.join(", ")),
    }
}

/// The day, in UTC.
fn format_date(time: UnixTime) -> String {
    if time.as_secs() > LAST_SECOND {
        return "a day after the year 9999".to_owned();
    }
    let text = to_rfc3339(SystemTime::UNIX_EPOCH + Duration::from_secs(time.as_secs()));
    text.split('T').next().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_a_certificate_are_bounded_and_on_one_line() {
        let list =
            |names: &[&str]| list_names(&names.iter().map(ToString::to_string).collect::<Vec<_>>());
        assert_eq!(list(&["DnsName(\"a.example\")"]), "it names a.example");
        assert_eq!(list(&["DnsName(\"a\\nb \u{1b}[0mc\")"]), "it names a\\nb[0mc");
        let many: Vec<_> = (0..9).map(|n| format!("DnsName(\"{n}{}\")", "x".repeat(300))).collect();
        let shown = list_names(&many);
        assert!(shown.len() < 500 && shown.ends_with(" and 4 more"), "{shown}");
    }

    #[test]
    fn an_alert_is_about_the_client_s_certificate_where_it_can_be() {
        use ClientCertificate::{Configured, Missing, NotAsked};
        let told = |alert, shown| describe_alert(alert, shown);
        for alert in [AlertDescription::CertificateRequired, AlertDescription::BadCertificate] {
            assert_eq!(told(alert, Missing), WANTS_CERTIFICATE);
        }
        let (failure, unknown) = (AlertDescription::HandshakeFailure, AlertDescription::UnknownCA);
        assert_eq!(told(failure, Missing), WANTS_CERTIFICATE);
        let plain = "the server refused the TLS handshake (handshake failure)";
        assert_eq!(
            (told(failure, NotAsked).as_str(), told(failure, Configured).as_str()),
            (plain, plain)
        );
        assert!(told(unknown, Configured).starts_with("the server refused the client certificate"));
    }

    #[test]
    fn no_fault_is_told_in_the_names_of_the_library() {
        use rustls::{InconsistentKeys, PeerIncompatible, PeerMisbehaved};
        let certificates = [
            CertificateError::BadEncoding,
            CertificateError::Expired,
            CertificateError::NotValidYet,
            CertificateError::Revoked,
            CertificateError::UnhandledCriticalExtension,
            CertificateError::UnknownIssuer,
            CertificateError::UnknownRevocationStatus,
            CertificateError::ExpiredRevocationList,
            CertificateError::BadSignature,
            CertificateError::NotValidForName,
            CertificateError::InvalidPurpose,
            CertificateError::InvalidOcspResponse,
            CertificateError::ApplicationVerificationFailure,
        ];
        let others = [
            rustls::Error::NoCertificatesPresented,
            rustls::Error::UnsupportedNameType,
            rustls::Error::DecryptError,
            rustls::Error::EncryptError,
            rustls::Error::PeerSentOversizedRecord,
            rustls::Error::HandshakeNotComplete,
            rustls::Error::NoApplicationProtocol,
            rustls::Error::FailedToGetCurrentTime,
            rustls::Error::FailedToGetRandomBytes,
            rustls::Error::BadMaxFragmentSize,
            rustls::Error::InvalidMessage(InvalidMessage::InvalidContentType),
            rustls::Error::InvalidMessage(InvalidMessage::TrailingData("Finished")),
            rustls::Error::PeerIncompatible(PeerIncompatible::NoCipherSuitesInCommon),
            rustls::Error::PeerMisbehaved(PeerMisbehaved::IllegalMiddleboxChangeCipherSpec),
            rustls::Error::InconsistentKeys(InconsistentKeys::KeyMismatch),
            rustls::Error::General("a reason".to_owned()),
        ];
        let alerts = (0..=255).map(|code| rustls::Error::AlertReceived(code.into()));
        let certificates = certificates.map(rustls::Error::InvalidCertificate);
        for error in certificates.into_iter().chain(others).chain(alerts) {
            let text = describe(&error, ClientCertificate::NotAsked);
            // Two capitals in one word, or one inside a word: a name of a type.
            let is_name = |word: &str| {
                let inner = word.trim_start_matches('(').chars().skip(1).any(char::is_uppercase);
                let known =
                    ["TLS", "UTC", "X.509", "UPSTREAM_", "subjectAltName", "extendedKeyUsage"];
                inner && !known.iter().any(|known| word.contains(known))
            };
            let name = text.split_whitespace().find(|word| is_name(word));
            assert!(name.is_none() && !text.contains(['{', '[']), "{error:?}: {text}");
        }
    }

    #[test]
    fn dates_far_away_are_no_panic() {
        let date = |seconds| format_date(UnixTime::since_unix_epoch(Duration::from_secs(seconds)));
        assert_eq!(date(0), "1970-01-01");
        assert_eq!(date(1_709_208_000), "2024-02-29");
        assert_eq!(date(LAST_SECOND), "9999-12-31");
        assert_eq!(date(LAST_SECOND + 1), "a day after the year 9999");
        assert_eq!(date(u64::MAX), "a day after the year 9999");
    }
}
