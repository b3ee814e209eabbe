//! The `Host` check of a server that listens on loopback only.

use super::cors::{FAR, NEAR, assert_empty, from, send};
use crate::support::*;

#[test]
fn on_loopback_only_near_hosts_are_served() {
    let (upstream, proxy) = pair();
    let mut client = proxy.client();
    // The status of a GET, and of a plain OPTIONS to a known and to an unknown path.
    let mut check = |host: &str, expected: [u16; 3]| {
        let lines = [format!("Host: {host}")];
        let asked = [("GET", "/api/version"), ("OPTIONS", "/api/chat"), ("OPTIONS", "/nothing")];
        let found = asked.map(|(method, path)| {
            let answer = send(&mut client, method, path, &lines);
            match answer.status() {
                status @ (403 | 204) => assert_empty(&answer, status),
                405 => assert_eq!(answer.head.header("allow"), Some("POST")),
                _ => assert_ne!(answer.body, ""),
            }
            answer.status()
        });
        assert_eq!(found, expected, "{host:?}");
    };
    for address in [
        "127.0.0.1", "127.0.0.1:11434", "[::1]:11434", "10.0.0.7:11434", "172.20.1.1",
        "192.168.1.5", "[fd12::1]:80", "0.0.0.0:11434", "[::]:11434",
    ] {
        check(address, [200, 405, 404]);
    }
    let hostname = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    for name in [
        "",
        "localhost",
        "LOCALHOST:11434",
        "a.localhost",
        "box.local:11434",
        "host.docker.internal:11434",
        hostname.trim(),
    ] {
        check(name, [200, 204, 204]);
    }
    for foreign in [
        "evil.test", "evil.test:11434", "localhost.evil.test", "ollama.com", "203.0.113.77:11434",
        "[2001:db8::77]:11434",
    ] {
        check(foreign, [403, 403, 403]);
    }
    assert_empty(&send(&mut client, "GET", "http://evil.test/", &["Host: localhost".into()]), 403);
    assert!(upstream.is_idle());
}

#[test]
fn elsewhere_than_on_loopback_every_host_is_served() {
    let proxy = Proxy::with(&Upstream::start(), |config| config.host = "0.0.0.0".into());
    let mut client = Client::connect(([127, 0, 0, 1], proxy.addr().port()).into());
    for host in ["evil.test", "ollama.example.com:80", "localhost", "203.0.113.77"] {
        let lines = [format!("Host: {host}")];
        assert_eq!(send(&mut client, "GET", "/api/version", &lines).status(), 200, "{host}");
        assert_eq!(send(&mut client, "OPTIONS", "/api/chat", &lines).status(), 405, "{host}");
        assert_eq!(send(&mut client, "OPTIONS", "/nothing", &lines).status(), 404, "{host}");
    }
    assert_empty(&from(&mut client, FAR, "GET", "/"), 403);
    assert_empty(&from(&mut client, NEAR, "OPTIONS", "/"), 204);
}
