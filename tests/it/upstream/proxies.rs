//! `HTTP_PROXY`, `HTTPS_PROXY`, `ALL_PROXY` and `NO_PROXY`: how requests go through a proxy, and what is
//! told when it does not let them.

use crate::support::forward_proxy::ForwardProxy;
use crate::support::program::{Running, program, run};
use crate::support::reserved::Reserved;
use crate::support::tls_server::{SELF_SIGNED, TlsServer};
use crate::support::*;

use std::net::SocketAddr;
use std::time::Duration;

use ollama_openai_proxy::config::{self, Config};
use ollama_openai_proxy::upstream::base_url::BaseUrl;
use ollama_openai_proxy::upstream::proxy;

/// A name that only the proxy knows.
const HTTP: &str = "http://upstream.test:8000/v1";
const HTTPS: &str = "https://upstream.test/v1";

/// The program in front of an upstream that a proxy leads to.
fn through(url: &str, base: &str) -> Proxy {
    through_with(url, base, |_| {})
}

/// The same with a changed configuration.
fn through_with(url: &str, base: &str, change: impl FnOnce(&mut Config)) -> Proxy {
    let base_url = BaseUrl::parse(base).expect("a base URL");
    let find = |names: &[&'static str]| {
        let name = names.iter().find(|name| name.ends_with("ALL_PROXY"))?;
        Some((*name, url.to_owned()))
    };
    let chosen = proxy::Proxy::select(&base_url, &find).expect("a proxy's URL");
    assert!(chosen.is_some());
    Proxy::at(base, |config| {
        config.upstream.proxy = chosen;
        config.retry.max_retries = 0;
        change(config);
    })
}

/// Where an upstream listens.
fn addr(upstream: &Upstream) -> SocketAddr {
    let base = upstream.base_url();
    base.trim_start_matches("http://").trim_end_matches("/v1").parse().expect("an address")
}

#[test]
fn plain_http_goes_to_the_proxy_with_the_whole_url() {
    let upstream = Upstream::start();
    let base = format!("{HTTP}?a=b");
    let proxy = through(&format!("http://me:s3cret%21@{}", addr(&upstream)), &base);
    assert_eq!(proxy.names(), ["text-embed:latest", "m:latest", "tagged:8b"]);
    upstream.script(vec![answer("one")]).script(stream(&["two"])).script(vec![answer("three")]);
    // The last body is too long for one write.
    let long = "x".repeat(200_000);
    for body in [chat_whole("Hi"), chat("Hi"), chat_whole(&long)] {
        assert_eq!(proxy.ask("/api/chat", &body).status(), 200);
        let request = upstream.request();
        assert_eq!(request.path, "http://upstream.test:8000/v1/chat/completions?a=b");
        assert_eq!(request.header("host"), Some("upstream.test:8000"));
        // base64 of `me:s3cret!`.
        assert_eq!(request.header("proxy-authorization"), Some("Basic bWU6czNjcmV0IQ=="));
        assert_eq!(request.header("authorization"), Some(format!("Bearer {KEY}").as_str()));
        assert_eq!(request.json()["messages"][0]["role"], "user");
    }
    assert_eq!(upstream.connections(), 1, "the connection to the proxy is kept");
}

#[test]
fn the_password_of_the_base_url_is_not_the_proxy_s() {
    let upstream = Upstream::start();
    let base = "http://us3r:word@upstream.test/v1";
    let proxy = through(&format!("http://{}", addr(&upstream)), base);
    upstream.script(vec![answer("one")]);
    assert_eq!(proxy.ask("/api/chat", chat_whole("Hi")).status(), 200);
    let request = upstream.request();
    assert_eq!(request.path, "http://upstream.test/v1/chat/completions");
    assert_eq!(request.header("proxy-authorization"), None);
}

/// Streams arrive as they are sent, and a client that leaves ends the upstream's response.
fn check_streams(upstream: &Upstream, proxy: &Proxy) {
    let (go_on, steps) = halting();
    upstream.script(steps);
    let mut client = proxy.client();
    client.post("/api/chat", chat("Hi"));
    assert_eq!(client.head().status, 200);
    assert!(client.frame().is_some_and(|line| line.contains("one")));
    drop(go_on);
    assert!(client.frame().is_some_and(|line| line.contains("two")));
    upstream.request();
    let (closed, is_closed) = bounded(1);
    upstream.script(vec![stream_head(), delta("one"), Step::UntilClosed(closed)]);
    let mut client = proxy.client();
    client.post("/api/chat", chat("Hi"));
    assert_eq!(client.head().status, 200);
    drop(client);
    is_closed.recv_timeout(HANG).expect("the upstream's connection is closed");
}

#[test]
fn streams_and_cancellations_go_through_a_proxy() {
    let upstream = Upstream::start();
    check_streams(&upstream, &through(&format!("http://{}", addr(&upstream)), HTTP));
}

/// The program in front of `upstream`, through a proxy of each kind that needs no TLS.
fn each_way(upstream: &Upstream, change: fn(&mut Config)) -> [(Proxy, Option<ForwardProxy>); 2] {
    let forward = ForwardProxy::socks(&[NO_AUTH, OPEN], Some(addr(upstream)));
    let http = through_with(&format!("http://{}", addr(upstream)), HTTP, change);
    let socks = through_with(&format!("socks5h://{}", forward.addr()), HTTP, change);
    [(http, None), (socks, Some(forward))]
}

#[test]
fn a_connection_that_was_closed_in_the_pool_is_replaced() {
    let upstream = Upstream::start();
    for (proxy, _forward) in each_way(&upstream, |_| {}) {
        for _ in 0..3 {
            upstream.script(vec![answer("ok"), Step::Close]);
            assert_eq!(proxy.ask("/api/chat", chat_whole("Hi")).status(), 200);
        }
        assert!(proxy.sleeps.is_empty());
    }
    // Each on a connection of its own.
    let connections: Vec<_> = (0..6).map(|_| upstream.request().connection).collect();
    assert!(connections.is_sorted() && connections[0] < connections[5], "{connections:?}");
}

#[test]
fn silence_behind_a_proxy_is_a_timeout() {
    let upstream = Upstream::start();
    let change = |config: &mut Config| config.request_timeout = Duration::from_millis(500);
    for (proxy, _forward) in each_way(&upstream, change) {
        let (_go_on, told) = bounded(0);
        upstream.script(vec![Step::Wait(told)]);
        let late = "no response from the upstream within REQUEST_TIMEOUT";
        proxy.ask("/api/chat", chat("Hi")).assert_error(504, late);
        let (_go_on, told) = bounded(0);
        upstream.script(vec![stream_head(), delta("one"), Step::Wait(told)]);
        let lines = proxy.ask("/api/chat", chat("Hi")).lines();
        let late = "the upstream sent nothing for REQUEST_TIMEOUT in the middle of its response";
        assert_eq!(lines.last(), Some(&json!({ "error": late })));
    }
}

#[test]
fn a_client_that_leaves_ends_the_wait_for_a_silent_proxy() {
    for (scheme, base) in [("http", HTTP), ("http", HTTPS), ("socks5h", HTTP)] {
        let forward = ForwardProxy::silent();
        let proxy = through(&format!("{scheme}://{}", forward.addr()), base);
        let mut client = proxy.client();
        client.post("/api/chat", chat("Hi"));
        assert!(!forward.asked().is_empty(), "{scheme} {base}");
        drop(client);
        // Long before any timeout.
        forward.asked();
        assert!(proxy.sleeps.is_empty(), "{scheme} {base}: no other attempt");
    }
}

#[test]
fn a_tunnel_is_asked_for_with_the_password_and_led_to_the_server() {
    let server = TlsServer::answering(SELF_SIGNED);
    let forward = ForwardProxy::http(server.addr());
    let proxy = through(&format!("http://me:s3cret%21@{}", forward.addr()), HTTPS);
    // What the server's certificate is, could only be seen through the tunnel.
    let told = "the server's certificate is self-signed: set ca_file (UPSTREAM_CA_FILE) to it";
    let told = format!("cannot reach the upstream: {told}");
    proxy.ask("/api/chat", chat("Hi")).assert_error(502, &told);
    let head = forward.head();
    assert!(head.starts_with("CONNECT upstream.test:443 HTTP/1.1\r\n"), "{head}");
    for line in ["Host: upstream.test:443", "Proxy-Authorization: Basic bWU6czNjcmV0IQ=="] {
        assert!(head.contains(&format!("\r\n{line}\r\n")), "{head}");
    }
    assert!(!head.contains(KEY), "{head}");
    let proxy = through(&format!("http://{}", forward.addr()), "https://[2001:db8::1]:8443/v1");
    assert_eq!(proxy.ask("/api/chat", chat("Hi")).status(), 502);
    let head = forward.head();
    assert!(head.starts_with("CONNECT [2001:db8::1]:8443 HTTP/1.1\r\n"), "{head}");
    assert!(!head.to_ascii_lowercase().contains("authorization"), "{head}");
}

#[test]
fn a_refusal_of_the_proxy_is_told_as_its_own() {
    const ASKS: &[u8] = b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n";
    let check = |answer: &'static [u8], auth: &str, base: &str, told: &str| {
        let forward = ForwardProxy::answering(answer);
        let proxy = through(&format!("http://{auth}{}", forward.addr()), base);
        let told = format!("cannot reach the upstream: the proxy (ALL_PROXY) {told}");
        proxy.ask("/api/chat", chat("Hi")).assert_error(502, &told);
        assert!(!forward.is_idle());
    };
    for base in [HTTP, HTTPS] {
        let wants = "wants a user name and a password: http://USER:PASSWORD@HOST:PORT";
        check(ASKS, "", base, wants);
        check(ASKS, "me:x@", base, "refused its user name or password (407)");
    }
    // Squid 5.7 and tinyproxy 1.11.
    let squid = b"HTTP/1.1 503 Service Unavailable\r\nServer: squid/5.7\r\nContent-Length: 0\r\n\
                  X-Squid-Error: ERR_CONNECT_FAIL 111\r\nVia: 1.1 p (squid/5.7)\r\n\r\n";
    check(squid, "", HTTP, "cannot reach the upstream (503)");
    let tinyproxy = b"HTTP/1.1 401 Unauthorized\r\nServer: tinyproxy/1.11.1\r\n\r\n<html>";
    check(tinyproxy, "me:x@", HTTP, "refused its user name or password (401)");
    check(tinyproxy, "me:x@", HTTPS, "refused its user name or password (401)");
    let forbidden = b"HTTP/1.1 403 Forbidden\r\nContent-Length: 6\r\n\r\ns3cret";
    check(forbidden, "", HTTPS, "does not allow this connection (403)");
    check(b"HTTP/1.0 503 x\r\n\r\n", "", HTTPS, "cannot reach the upstream (503)");
    check(b"HTTP/1.0 400 x\r\n\r\n", "", HTTPS, "refused the connection (400)");
    check(b"SSH-2.0-OpenSSH\r\n\r\n", "", HTTPS, "does not answer like an HTTP proxy");
    check(b"HTTP/1.1 200 OK\r\n", "", HTTPS, "closed the connection without an answer");
    check(b"", "", HTTPS, "closed the connection without an answer");
}

#[test]
fn an_error_of_a_server_behind_a_proxy_is_the_server_s() {
    let upstream = Upstream::start();
    let proxy = through(&format!("http://{}", addr(&upstream)), HTTP);
    let headers = [("Via", "1.1 p (squid/5.7)"), ("Server", "nginx")];
    upstream.script(vec![status(401, &headers, r#"{"error":"wrong key"}"#)]);
    proxy.ask("/api/chat", chat("Hi")).assert_error(401, "wrong key");
}

#[test]
fn a_proxy_that_is_not_there_is_told_from_an_upstream_that_is_not_there() {
    let nothing = Reserved::new();
    for scheme in ["http", "socks5h"] {
        let proxy = through(&format!("{scheme}://{}", nothing.addr()), HTTP);
        let told = "the proxy (ALL_PROXY) cannot be reached: connection refused";
        let told = format!("cannot reach the upstream: {told}");
        proxy.ask("/api/chat", chat("Hi")).assert_error(502, &told);
    }
}

const NO_AUTH: &[u8] = b"\x05\x00";
const WANTS_AUTH: &[u8] = b"\x05\x02";
const OPEN: &[u8] = b"\x05\x00\x00\x01\x7f\x00\x00\x01\x12\x34";

#[test]
fn socks_5_opens_a_tunnel_by_name_or_by_address() {
    let upstream = Upstream::start();
    let forward = ForwardProxy::socks(&[NO_AUTH, OPEN], Some(addr(&upstream)));
    let proxy = through(&format!("socks5h://{}", forward.addr()), HTTP);
    check_streams(&upstream, &proxy);
    assert_eq!(upstream.request().path, "/v1/chat/completions");
    assert_eq!(forward.asked(), b"\x05\x01\x00");
    assert_eq!(forward.asked(), b"\x05\x01\x00\x03\x0dupstream.test\x1f\x40");
    // The name is resolved here, or there.
    for (scheme, base, asked) in [
        ("socks5", "http://0.0.0.0:9/v1", &b"\x05\x01\x00\x01\x00\x00\x00\x00\x00\x09"[..]),
        ("socks5h", "http://0.0.0.0:9/v1", b"\x05\x01\x00\x01\x00\x00\x00\x00\x00\x09"),
    ] {
        let forward = ForwardProxy::socks(&[NO_AUTH, OPEN], Some(addr(&upstream)));
        let proxy = through(&format!("{scheme}://{}", forward.addr()), base);
        upstream.script(vec![answer("ok")]);
        assert_eq!(proxy.ask("/api/chat", chat_whole("Hi")).status(), 200);
        forward.asked();
        assert_eq!(forward.asked(), asked, "{scheme}");
    }
    let proxy = through(&format!("socks5://{}", forward.addr()), "http://nowhere.invalid/v1");
    let error = proxy.ask("/api/chat", chat("Hi")).error();
    assert!(error.contains("cannot resolve the host name"), "{error}");
}

#[test]
fn socks_5_gets_the_password_when_it_asks_for_it() {
    let upstream = Upstream::start();
    let answers: &[&[u8]] = &[WANTS_AUTH, b"\x01\x00", OPEN];
    let forward = ForwardProxy::socks(answers, Some(addr(&upstream)));
    let proxy = through(&format!("socks5h://me:s3cret%21@{}", forward.addr()), HTTP);
    upstream.script(vec![answer("ok")]);
    assert_eq!(proxy.ask("/api/chat", chat_whole("Hi")).status(), 200);
    assert_eq!(forward.asked(), b"\x05\x02\x00\x02");
    assert_eq!(forward.asked(), b"\x01\x02me\x07s3cret!");
    assert_eq!(upstream.request().header("proxy-authorization"), None);
}

#[test]
fn a_refusal_of_socks_5_is_told() {
    let check = |answers: &'static [&'static [u8]], auth: &str, told: &str| {
        let forward = ForwardProxy::socks(answers, None);
        let proxy = through(&format!("socks5h://{auth}{}", forward.addr()), HTTP);
        let told = format!("cannot reach the upstream: the proxy (ALL_PROXY) {told}");
        proxy.ask("/api/chat", chat("Hi")).assert_error(502, &told);
    };
    check(&[b"\x05\xff"], "", "wants a user name and a password");
    check(&[b"\x05\xff"], "me:x@", "takes no user name and password");
    check(&[WANTS_AUTH, b"\x01\x01"], "me:x@", "refused its user name or password");
    let refused: &[&[u8]] = &[NO_AUTH, b"\x05\x05\x00\x01\0\0\0\0\0\0"];
    check(refused, "", "cannot reach the upstream: connection refused");
    check(&[NO_AUTH, b"\x05\x02\x00\x01\0\0\0\0\0\0"], "", "does not allow this connection");
    check(&[NO_AUTH, b"\x05\x63\x00\x01\0\0\0\0\0\0"], "", "refused the connection");
    check(&[b"HTTP/1.1 400 Bad Request\r\n\r\n"], "", "does not answer like a SOCKS 5 proxy");
    check(&[NO_AUTH, b"\x05"], "", "closed the connection without an answer");
    check(&[], "", "closed the connection without an answer");
}

/// An upstream of this machine by an address that is not loopback: loopback is never reached through a
/// proxy.
fn elsewhere(upstream: &Upstream) -> String {
    format!("http://0.0.0.0:{}/v1", addr(upstream).port())
}

#[test]
fn a_check_says_which_proxy_is_used() {
    let (upstream, forward) = (Upstream::start(), Upstream::start());
    let through = addr(&forward).to_string();
    let url = format!("http://me:s3cret@{through}");
    for (variable, value, spared, used) in [
        ("HTTP_PROXY", url.as_str(), "", true),
        ("http_proxy", &url, "other.test", true),
        ("ALL_PROXY", &url, "", true),
        ("HTTPS_PROXY", &url, "", false),
        ("HTTP_PROXY", &url, " a.test , 0.0.0.0/8", false),
        ("HTTP_PROXY", "", "", false),
        // What does not apply need not be right.
        ("HTTPS_PROXY", "socks4://p:1", "", false),
        ("HTTP_PROXY", "socks4://p:1", "*", false),
    ] {
        let mut command = program();
        command.arg("--check").env("OPENAI_BASE_URL", elsewhere(&upstream));
        command.env(variable, value).env("NO_PROXY", spared);
        let before = (upstream.connections(), forward.connections());
        let (code, out, errors) = run(&mut command);
        assert_eq!(code, Some(0), "{out}{errors}");
        let came = (upstream.connections() - before.0, forward.connections() - before.1);
        assert_eq!(came, if used { (0, 1) } else { (1, 0) }, "{variable} {spared}: {out}");
        let line = format!("\nproxy: {through} ({variable})\n");
        let line = if used { line.as_str() } else { "\nproxy: none\n" };
        assert!(out.contains(line), "{variable} {spared}: {out}");
        assert!(!out.contains("s3cret") && !errors.contains("s3cret"), "{out}{errors}");
    }
}

#[test]
fn the_variables_may_stand_in_the_env_file_below_the_environment() {
    let check = |env: &[(&str, &str)], file: &[(&str, &str)], expected: Option<&str>| {
        let value = |name: &str| {
            let base = ("OPENAI_BASE_URL", HTTP);
            env.iter().chain([&base]).find(|it| it.0 == name).map(|(_, text)| (*text).to_owned())
        };
        let pairs: Vec<_> = file.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect();
        let args = Vec::<std::ffi::OsString>::new();
        let (_, config) = config::from_sources(args, &value, &pairs).expect("a configuration");
        assert_eq!(
            config.upstream.proxy.map(|proxy| proxy.to_string()).as_deref(),
            expected,
            "{env:?} {file:?}"
        );
    };
    check(&[], &[("HTTP_PROXY", "f:1")], Some("f:1"));
    check(&[("HTTP_PROXY", "e:1")], &[("http_proxy", "f:1")], Some("e:1"));
    check(&[("HTTP_PROXY", " ")], &[("HTTP_PROXY", "f:1")], Some("f:1"));
    check(&[("ALL_PROXY", "e:1")], &[("HTTP_PROXY", "f:1")], Some("f:1"));
    check(&[("HTTP_PROXY", "e:1")], &[("no_proxy", "upstream.test:8000")], None);
    check(&[("HTTP_PROXY", "e:1"), ("NO_PROXY", "h")], &[("no_proxy", "*")], Some("e:1"));
}

#[test]
fn a_proxy_that_cannot_be_used_ends_the_start() {
    let upstream = Upstream::start();
    for value in [
        "socks4://p:1", "socks4a://p:1", "https://p:1", "ftp://p:1", "http://p:x", "http://",
        "http://me:s3/cret@p:1", "socks5://me:s3cret@p q",
    ] {
        for arg in ["--check", "--port=0"] {
            let mut command = program();
            command.arg(arg).env("OPENAI_BASE_URL", elsewhere(&upstream)).env("ALL_PROXY", value);
            let (code, out, errors) = run(&mut command);
            assert_eq!((code, out.as_str()), (Some(1), ""), "{value}: {errors}");
            assert!(errors.contains("ALL_PROXY: "), "{value}: {errors}");
            assert!(!errors.contains("s3"), "{errors}");
        }
    }
    assert_eq!(upstream.connections(), 0);
}

#[test]
fn a_running_program_logs_the_proxy_without_its_password() {
    let forward = Upstream::start();
    let mut command = program();
    command.env("OPENAI_BASE_URL", HTTP).env("LOG_LEVEL", "trace").env("PROXY_STATE", "none");
    command.env("HTTP_PROXY", format!("http://me:s3cret@{}", addr(&forward)));
    let running = Running::start(&mut command);
    forward.script(vec![answer("ok")]);
    let answer = Client::connect(running.addr).post("/api/chat", chat_whole("Hi")).answer();
    assert_eq!(answer.status(), 200);
    let log = running.stop();
    let line = format!("through the proxy {} (HTTP_PROXY)", addr(&forward));
    assert!(log.contains(&line), "{log}");
    assert!(!log.contains("s3cret") && !log.contains("bWU6czNjcmV0"), "{log}");
}
