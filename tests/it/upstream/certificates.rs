//! Certificates of a private authority, certificates that are shown to the server, and what is told where one
//! of them is missing or wrong.

use std::path::Path;
use std::sync::Arc;

use ollama_openai_proxy::upstream::TlsSettings;
use rustls::ServerConfig;
use rustls::version::{TLS12, TLS13};

use crate::support::program::{program, run};
use crate::support::tls_server::{
    AUTHORITY, EXPIRED, ISSUED, NOT_YET, OTHER_NAMES, SELF_SIGNED, TlsServer, asking_config,
    path_of, server_config,
};
use crate::support::*;

/// The proxy in front of an upstream with TLS.
fn in_front_of(
    upstream: &Upstream,
    config: Arc<ServerConfig>,
    tls: TlsSettings,
) -> (TlsServer, Proxy) {
    let server = TlsServer::in_front_of(upstream.addr(), config);
    let proxy = Proxy::at(&format!("https://localhost:{}/v1", server.addr().port()), |config| {
        config.upstream.tls = tls;
        config.retry.max_retries = 0;
    });
    (server, proxy)
}

/// Lists, whole answers, streams and what is passed on come through.
#[track_caller]
fn check_works(config: Arc<ServerConfig>, tls: TlsSettings) {
    let upstream = Upstream::start();
    let (_server, proxy) = in_front_of(&upstream, config, tls);
    assert_eq!(proxy.names(), ["text-embed:latest", "m:latest", "tagged:8b"]);
    upstream.script(vec![answer("one")]).script(stream(&["two"])).script(stream(&["three"]));
    let whole = proxy.ask("/api/chat", chat_whole("Hi"));
    assert_eq!(whole.json()["message"]["content"], "one");
    let lines = proxy.ask("/api/chat", chat("Hi")).lines();
    assert_eq!(lines[0]["message"]["content"], "two");
    assert!(proxy.ask("/v1/chat/completions", chat("Hi")).body.contains("three"));
}

/// A chat and the health answer tell this.
#[track_caller]
fn check_fails(config: Arc<ServerConfig>, tls: TlsSettings, told: &str) {
    let upstream = Upstream::start();
    let (_server, proxy) = in_front_of(&upstream, config, tls);
    let answer = proxy.ask("/api/chat", chat_whole("Hi"));
    answer.assert_error(502, &format!("cannot reach the upstream: {told}"));
    assert!(upstream.is_idle());
}

fn trusting(file: &str) -> TlsSettings {
    TlsSettings { ca_file: Some(path_of(file)), ..TlsSettings::default() }
}

/// Trusts the authority and shows this certificate.
fn showing(certificate: &str, key: Option<&str>) -> TlsSettings {
    TlsSettings {
        client_cert_file: Some(path_of(certificate)),
        client_key_file: key.map(path_of),
        ..trusting("authority.pem")
    }
}

#[test]
fn a_private_authority_is_trusted_once_it_is_named() {
    check_works(server_config(ISSUED), trusting("authority.pem"));
    // Certificates that are their own authority; the first one calls itself one.
    check_works(server_config(AUTHORITY), trusting("authority.pem"));
    check_works(server_config(SELF_SIGNED), trusting("self_signed.pem"));
}

#[test]
fn the_authorities_of_the_machine_are_trusted_and_what_is_none_is_skipped() {
    let file = TlsSettings {
        system_ca_file: Some(path_of("authority.pem")),
        system_ca_dir: Some(path_of("there_is_no_such_folder")),
        ..TlsSettings::default()
    };
    check_works(server_config(ISSUED), file);
    // Holds keys and a script beside certificates.
    let folder = TlsSettings {
        system_ca_file: Some(path_of("there_is_no_such_file")),
        system_ca_dir: Some(path_of("")),
        ..TlsSettings::default()
    };
    check_works(server_config(ISSUED), folder);
    let folders = std::env::join_paths([Path::new("/nowhere"), &path_of("")]).expect("no colons");
    let folders = TlsSettings { system_ca_dir: Some(folders.into()), ..TlsSettings::default() };
    check_works(server_config(ISSUED), folders);
}

#[test]
fn an_authority_does_not_make_up_for_a_wrong_name_or_a_wrong_date() {
    check_fails(
        server_config(OTHER_NAMES),
        trusting("authority.pem"),
        "the server's certificate is for another host name: it names a.example, *.b.example, 10.0.0.1; \
         use a name of it in base_url (OPENAI_API_BASE_URL)",
    );
    check_fails(
        server_config(EXPIRED),
        trusting("expired.pem"),
        "the server's certificate expired on 2024-02-29 (UTC): renew it (for tests, tls_verify or \
         UPSTREAM_TLS_VERIFY turns the check off)",
    );
    check_fails(
        server_config(ISSUED),
        trusting("self_signed.pem"),
        "the server's certificate comes from an unknown authority: set ca_file (UPSTREAM_CA_FILE) to the \
         certificate of that authority",
    );
}

#[test]
fn without_the_check_every_certificate_will_do() {
    for pem in [SELF_SIGNED, ISSUED, OTHER_NAMES, EXPIRED, NOT_YET] {
        check_works(server_config(pem), TlsSettings { verify: false, ..TlsSettings::default() });
    }
}

#[test]
fn a_server_that_asks_for_a_certificate_gets_it_whatever_form_its_key_has() {
    for version in [&TLS12, &TLS13] {
        for tls in [
            showing("client.pem", Some("client_key.pem")),
            showing("client.pem", Some("client_key_pkcs1.pem")),
            showing("client_and_key.pem", None),
            showing("issued.pem", Some("key.pem")),
            showing("issued.pem", Some("key_sec1.pem")),
        ] {
            check_works(asking_config(ISSUED, version), tls);
        }
    }
    // A server that does not ask is not told who we are.
    check_works(server_config(ISSUED), showing("client.pem", Some("client_key.pem")));
}

#[test]
fn a_certificate_that_is_missing_or_refused_is_told() {
    for version in [&TLS12, &TLS13] {
        check_fails(
            asking_config(ISSUED, version),
            trusting("authority.pem"),
            "the server wants a client certificate: set client_cert_file and client_key_file \
             (UPSTREAM_CLIENT_CERT_FILE, UPSTREAM_CLIENT_KEY_FILE)",
        );
        check_fails(
            asking_config(ISSUED, version),
            showing("self_signed.pem", Some("key.pem")),
            "the server refused the client certificate (unknown authority): check client_cert_file \
             (UPSTREAM_CLIENT_CERT_FILE)",
        );
    }
}

#[test]
fn the_variables_name_the_files() {
    let upstream = Upstream::start();
    let server = TlsServer::in_front_of(upstream.addr(), asking_config(ISSUED, &TLS13));
    let base = format!("https://localhost:{}/v1", server.addr().port());
    let check = |variables: &[(&str, &str)]| {
        let mut command = program();
        command.arg("--check").env("OPENAI_BASE_URL", &base).env("RETRY_MAX", "0");
        for (variable, file) in variables {
            command.env(variable, path_of(file));
        }
        let (code, out, errors) = run(&mut command);
        (code, out + &errors)
    };
    let shown = [
        ("UPSTREAM_CLIENT_CERT_FILE", "client.pem"),
        ("UPSTREAM_CLIENT_KEY_FILE", "client_key.pem"),
    ];
    for trusted in [
        ("UPSTREAM_CA_FILE", "authority.pem"),
        ("SSL_CERT_FILE", "authority.pem"),
        ("SSL_CERT_DIR", ""),
    ] {
        let (code, told) = check(&[trusted, shown[0], shown[1]]);
        assert_eq!(code, Some(0), "{trusted:?}: {told}");
        let (code, told) = check(&[trusted]);
        assert!(code == Some(1) && told.contains("wants a client certificate"), "{told}");
    }
    let (code, told) = check(&shown);
    assert!(code == Some(1) && told.contains("unknown authority"), "{told}");
    let (code, told) = check(&[("UPSTREAM_CA_FILE", "none.pem")]);
    assert!(code == Some(1) && told.contains("UPSTREAM_CA_FILE: no such file"), "{told}");
}
