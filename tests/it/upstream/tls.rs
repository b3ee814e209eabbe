//! TLS to the upstream: what is told of a bad certificate, and of `https://` and `http://` that were taken
//! for each other.

use crate::support::program::{Running, program};
use crate::support::tls_server::{AUTHORITY, EXPIRED, ISSUED, NOT_YET, SELF_SIGNED, TlsServer};
use crate::support::*;

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener};

const SELF_SIGNED_TOLD: &str =
    "the server's certificate is self-signed: set ca_file (UPSTREAM_CA_FILE) to it";

const EXPIRED_TOLD: &str = "the server's certificate expired on 2024-02-29 (UTC): renew it (for tests, \
                            tls_verify or UPSTREAM_TLS_VERIFY turns the check off)";

const WANTS_CERTIFICATE: &str = "the server wants a client certificate: set client_cert_file and client_key_file \
     (UPSTREAM_CLIENT_CERT_FILE, UPSTREAM_CLIENT_KEY_FILE)";

/// The error of a chat, whole, streamed and passed on; all the same.
#[track_caller]
fn check(base: &str, told: &str) {
    for (path, body) in [
        ("/api/chat", chat("Hi")),
        ("/api/chat", chat_whole("Hi")),
        ("/v1/chat/completions", chat("Hi")),
    ] {
        // A new one each, that has not learnt from the others.
        let proxy = Proxy::at(base, |config| config.retry.max_retries = 0);
        let answer = proxy.ask(path, body);
        let error = answer.json()["error"].clone();
        let error =
            error["message"].as_str().or_else(|| error.as_str()).expect("a text").to_owned();
        assert_eq!((answer.status(), error.as_str()), (502, told), "{base} {path}");
    }
}

#[test]
fn what_is_wrong_with_a_certificate_is_told_in_words() {
    for (certificate, told) in [
        (AUTHORITY, SELF_SIGNED_TOLD),
        (SELF_SIGNED, SELF_SIGNED_TOLD),
        (
            ISSUED,
            "the server's certificate comes from an unknown authority: set ca_file (UPSTREAM_CA_FILE) to \
             the certificate of that authority",
        ),
        (EXPIRED, EXPIRED_TOLD),
        (
            NOT_YET,
            "the server's certificate is not valid before 2119-05-04 (UTC); is this machine's clock \
             right?",
        ),
    ] {
        let server = TlsServer::answering(certificate);
        let told = format!("cannot reach the upstream: {told}");
        check(&format!("https://localhost:{}/v1", server.addr().port()), &told);
        check(&format!("https://{}/v1", server.addr()), &told);
    }
}

#[test]
fn the_log_has_the_same_words() {
    let server = TlsServer::answering(SELF_SIGNED);
    let mut command = program();
    command.env("OPENAI_BASE_URL", format!("https://{}/v1", server.addr()));
    let running = Running::start(command.env("RETRY_MAX", "0"));
    let answer = Client::connect(running.addr).post("/api/chat", chat_whole("Hi")).answer();
    assert_eq!(answer.status(), 502);
    let log = running.stop();
    assert!(log.contains(&format!("failed: {SELF_SIGNED_TOLD}")), "{log}");
}

/// A server that reads once, answers each connection with these bytes, and closes it.
fn answering(bytes: &'static [u8]) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let addr = listener.local_addr().expect("bound");
    std::thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            let _ = stream.read(&mut [0; 4096]);
            let _ = stream.write_all(bytes);
            let _ = stream.shutdown(Shutdown::Write);
            let _ = stream.read_to_end(&mut Vec::new());
        }
    });
    addr
}

#[test]
fn a_server_without_tls_is_told_from_one_with_a_bad_certificate() {
    for bytes in [
        &b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n"[..],
        b"<!DOCTYPE HTML>\n<html>",
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"{\"error\":\"no\"}",
    ] {
        let told = "this server does not speak TLS; did you mean http://?";
        check(
            &format!("https://{}/v1", answering(bytes)),
            &format!("cannot reach the upstream: {told}"),
        );
    }
    let told = "the server closed the connection during the TLS handshake; did you mean http://?";
    check(&format!("https://{}/v1", answering(b"")), &format!("cannot reach the upstream: {told}"));
}

#[test]
fn what_a_server_says_when_it_ends_the_handshake_is_told_in_words() {
    for (alert, told) in [
        (
            &b"\x15\x03\x03\x00\x02\x02\x46"[..],
            "the server has no version or cipher of TLS that is supported (1.2 and 1.3)",
        ),
        (b"\x15\x03\x03\x00\x02\x02\x70", "the server has no certificate for this host name"),
        (b"\x15\x03\x03\x00\x02\x02\x74", WANTS_CERTIFICATE),
        (b"\x15\x03\x03\x00\x02\x02\x2a", WANTS_CERTIFICATE),
        (
            b"\x15\x03\x03\x00\x02\x02\x28",
            "the server refused the TLS handshake (handshake failure)",
        ),
    ] {
        check(
            &format!("https://{}/v1", answering(alert)),
            &format!("cannot reach the upstream: {told}"),
        );
    }
}

#[test]
fn plain_http_on_a_port_for_tls_is_told() {
    // rustls, as OpenSSL and others, answers with an alert.
    let server = TlsServer::answering(SELF_SIGNED);
    let told = "this server speaks TLS; did you mean https://?";
    check(&format!("http://{}/v1", server.addr()), &format!("cannot reach the upstream: {told}"));
    for bytes in [
        // nginx 1.24.
        &b"HTTP/1.1 400 Bad Request\r\nServer: nginx/1.24.0\r\nContent-Type: text/html\r\n\
           Content-Length: 97\r\nConnection: close\r\n\r\n<html><head><title>400 The plain HTTP \
           request was sent to HTTPS port</title></head></html>\r\n    "[..],
        // Go, and so Caddy and Traefik.
        b"HTTP/1.0 400 Bad Request\r\n\r\nClient sent an HTTP request to an HTTPS server.\n",
    ] {
        let told = format!("invalid response from the upstream: {told}");
        check(&format!("http://{}/v1", answering(bytes)), &told);
    }
    let told = "the upstream closed the connection without a response; does it want https://?";
    check(&format!("http://{}/v1", answering(b"")), told);
}

#[test]
fn a_server_that_responded_before_is_not_suspected_of_tls() {
    let (upstream, proxy) = asking_once();
    upstream.script(vec![Step::Close]).script(vec![answer("ok")]);
    // A connection that was kept is tried again on a new one.
    upstream.script(vec![Step::Close]).script(vec![Step::Close]);
    let told = "the upstream closed the connection without a response; does it want https://?";
    proxy.ask("/api/chat", chat("Hi")).assert_error(502, told);
    assert_eq!(proxy.ask("/api/chat", chat_whole("Hi")).status(), 200);
    let told = "the upstream closed the connection without a response";
    proxy.ask("/api/chat", chat("Hi")).assert_error(502, told);
}
