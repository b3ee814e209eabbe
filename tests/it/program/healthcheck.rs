//! `--healthcheck` against a running server, no server, and servers that respond with something
//! else.

use crate::support::*;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::process::{Command, Stdio};
use std::thread;

use crate::support::reserved::Reserved;

/// The exit status and standard error of a health check of `host`.
fn check(host: &str) -> (Option<i32>, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_ollama-openai-proxy"))
        .env_clear()
        .env("OLLAMA_HOST", host)
        // Neither a key nor another server: the upstream is not called.
        .current_dir(env!("CARGO_TARGET_TMPDIR"))
        .arg("--healthcheck")
        .stdin(Stdio::null())
        .output()
        .expect("it starts");
    assert!(output.stdout.is_empty());
    (output.status.code(), String::from_utf8(output.stderr).expect("UTF-8"))
}

/// A server that reads a request, sends `answer` and closes.
fn says(answer: &'static [u8]) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let addr = listener.local_addr().expect("bound");
    thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("a connection");
        let mut head = [0; 16];
        stream.read_exact(&mut head).expect("a request");
        assert_eq!(&head, b"GET /health HTTP");
        stream.write_all(answer).expect("written");
    });
    addr
}

const PORT_0: &str = "Error: cannot check: the configured port is 0";

#[track_caller]
fn fails(host: &str, why: &str) {
    let (code, err) = check(host);
    assert_eq!(code, Some(1), "{err}");
    assert!(
        (err.starts_with("Error: not healthy: ") || why == PORT_0) && err.contains(why),
        "{err}"
    );
    assert_eq!(err.lines().count(), 1, "{err}");
}

#[test]
fn a_running_proxy_is_healthy_by_each_of_its_addresses() {
    let (upstream, proxy) = pair();
    let port = proxy.addr().port();
    for host in ["127.0.0.1", "0.0.0.0", "localhost", "", "[::]"] {
        assert_eq!(check(&format!("{host}:{port}")), (Some(0), String::new()), "{host}");
    }
    assert!(upstream.connections() == 0, "the upstream was asked");
}

#[test]
fn a_proxy_on_all_interfaces_is_healthy() {
    let upstream = Upstream::start();
    for host in ["", "0.0.0.0"] {
        let proxy = Proxy::with(&upstream, |config| config.host = host.to_owned());
        let host = format!("{host}:{}", proxy.addr().port());
        assert_eq!(check(&host), (Some(0), String::new()), "{host}");
    }
}

#[test]
fn nobody_there_is_not_healthy() {
    let address = Reserved::new().addr().to_string();
    fails(&address, &format!("nothing listens on {address}"));
    fails("127.0.0.1:0", PORT_0);
}

#[test]
fn another_status_and_no_http_are_not_healthy() {
    let bad = says(b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n");
    fails(&bad.to_string(), "status 503");
    fails(&says(b"220 mail.example.com ESMTP\r\n").to_string(), "not an HTTP response");
    let address = says(b"HTTP/1.1 2").to_string();
    fails(&address, &format!("{address} closed the connection without a response"));
}

#[test]
fn one_that_takes_the_connection_and_says_nothing_is_not_healthy() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("bound").to_string();
    fails(&address, &format!("no response from {address} within 3 s"));
}
