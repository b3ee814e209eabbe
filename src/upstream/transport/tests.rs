//! An agent, a proxy and a server with TLS that the agent trusts, on real sockets.

use std::io::{Read, Write};
use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, Instant};

use super::agent::{Agent, Payload, Request};
use super::read_deadline::ReadDeadline;
use crate::error::Error;
use crate::observe::metrics::Metrics;
use crate::observe::redact::{Redactor, Secret};
use crate::upstream::backoff::RetryPolicy;
use crate::upstream::base_url::BaseUrl;
use crate::upstream::proxy::Proxy;
use crate::upstream::router::Router;
use crate::upstream::{
    ConnectionPolicy, RetryEnv, ServerSettings, Settings, TlsSettings, Trace, breaker,
};

#[path = "../../../tests/support/forward_proxy.rs"]
#[allow(dead_code)] // Other tests use the rest.
mod forward_proxy;
#[path = "../../../tests/support/tls_server.rs"]
#[allow(dead_code)]
pub mod tls_server;

use forward_proxy::ForwardProxy;
use tls_server::{ISSUED, TlsServer, path_of};

fn settings(server: ServerSettings) -> Settings {
    Settings {
        server,
        request_timeout: Duration::from_secs(30),
        workers: 4,
        retry: RetryPolicy::default(),
        breaker: breaker::Settings::default(),
        experiment_interval: Duration::from_secs(60),
        learnt_ttl: crate::upstream::LEARNT_TTL,
        models_ttl: Duration::ZERO,
        log_bodies: false,
        redactor: Redactor::default(),
    }
}

/// An agent that trusts a private authority, and the base URL of its upstream behind a proxy.
fn agent(server: &TlsServer, proxy: &ForwardProxy) -> (Agent, BaseUrl) {
    // The proxy knows the name, and this machine need not.
    let base = format!("https://localhost:{}/v1", server.addr().port());
    let base_url = BaseUrl::parse(&base).expect("a base URL");
    let elsewhere = BaseUrl::parse("https://upstream.test").expect("a base URL");
    let url = format!("http://me:s3cret@{}", proxy.addr());
    let proxy = Proxy::select(&elsewhere, &|names| {
        Some((names[0], url.clone())).filter(|_| !names.contains(&"no_proxy"))
    });
    let settings = settings(ServerSettings {
        base_url: base_url.clone(),
        proxy: proxy.expect("a proxy's URL"),
        api_key: Some(Secret::new("k")),
        tls: TlsSettings { ca_file: Some(path_of("authority.pem")), ..TlsSettings::default() },
        ..ServerSettings::default()
    });
    (Agent::new(&settings), base_url)
}

/// Asks for the list of models.
fn ask(agent: &Agent, base_url: &BaseUrl) -> Result<impl Read, Error> {
    let mut request = Request {
        method: "GET",
        url: base_url.join("models"),
        pass_headers: None,
        payload: Payload::Empty,
        timeout: agent.timeout,
    };
    let response = agent.send(&mut request, &Trace::new("test"), ConnectionPolicy::Reuse)?;
    Ok(response.into_body().into_reader())
}

#[test]
fn a_tunnel_is_kept_and_used_again() {
    let server = TlsServer::answering(ISSUED);
    let proxy = ForwardProxy::http(server.addr());
    let (agent, base_url) = agent(&server, &proxy);
    for _ in 0..3 {
        let mut text = String::new();
        let mut body = ask(&agent, &base_url).expect("a response");
        body.read_to_string(&mut text).expect("a body");
        assert_eq!(text, "ok");
    }
    let head = proxy.head();
    assert!(head.starts_with(&format!("CONNECT localhost:{} ", server.addr().port())), "{head}");
    assert!(proxy.is_idle(), "one tunnel for all");
}

/// A server that sends half of its response at once, and the rest as soon as the sender is dropped.
fn server_of_two_halves() -> (TlsServer, mpsc::Sender<()>) {
    let (go_on, told) = mpsc::channel::<()>();
    let told = Arc::new(Mutex::new(told));
    let server = TlsServer::start(ISSUED, move |stream| {
        let mut send = |bytes: &[u8]| {
            stream.get_mut().write_all(bytes).expect("the client reads");
            stream.get_mut().flush().expect("the client reads");
        };
        send(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\none");
        let _ = told.lock().expect("no panic").recv_timeout(Duration::from_secs(30));
        send(b"two");
    });
    (server, go_on)
}

#[test]
fn a_read_under_tls_wakes_and_continues_at_the_same_byte() {
    let (server, go_on) = server_of_two_halves();
    let proxy = ForwardProxy::http(server.addr());
    let (agent, base_url) = agent(&server, &proxy);
    let mut body = ask(&agent, &base_url).expect("a response");
    let (mut deadline, mut text) = (ReadDeadline::new(Duration::from_secs(30)), Vec::new());
    let mut read = |body: &mut _, wakes: bool| {
        let mut piece = [0; 64];
        let wake_at = wakes.then(|| Instant::now() + Duration::from_millis(2));
        let length = deadline.read_until(body, &mut piece, wake_at).expect("no failure");
        text.extend_from_slice(&piece[..length.unwrap_or(0)]);
        length
    };
    assert_eq!(read(&mut body, false), Some(3));
    for _ in 0..3 {
        assert_eq!(read(&mut body, true), None);
    }
    drop(go_on);
    while read(&mut body, true) != Some(0) {}
    assert_eq!(text, b"onetwo");
}

#[test]
fn what_comes_through_a_tunnel_arrives_at_once() {
    let (server, go_on) = server_of_two_halves();
    let proxy = ForwardProxy::http(server.addr());
    let (agent, base_url) = agent(&server, &proxy);
    let mut body = ask(&agent, &base_url).expect("a response");
    let mut piece = [0; 64];
    assert_eq!(
        body.read(&mut piece).map(|length| piece[..length].to_vec()).ok(),
        Some(b"one".into())
    );
    drop(go_on);
    let mut rest = String::new();
    body.read_to_string(&mut rest).expect("the rest");
    assert_eq!(rest, "two");
}

#[test]
fn a_reload_keeps_an_upstream_unless_its_key_or_a_file_of_it_has_changed() {
    let folder = std::env::temp_dir().join(format!("reload-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("a folder");
    let (key_file, ca_file) = (folder.join("key"), folder.join("ca.pem"));
    let copy = |file: &str| std::fs::copy(path_of(file), &ca_file).expect("a file");
    copy("authority.pem");
    std::fs::write(&key_file, "second-key-2").expect("a file");
    let server = TlsServer::answering(ISSUED);
    let base = format!("https://localhost:{}/v1", server.addr().port());
    let base_url = BaseUrl::parse(&base).expect("a base URL");
    let with_key = |key: &str| {
        settings(ServerSettings {
            base_url: base_url.clone(),
            api_key: Some(Secret::new(key)),
            api_key_file: Some(key_file.clone()),
            tls: TlsSettings { ca_file: Some(ca_file.clone()), ..TlsSettings::default() },
            ..ServerSettings::default()
        })
    };
    let env = Arc::new(RetryEnv { sleep: Box::new(|_| true), jitter: Box::new(|| 0.0) });
    let metrics = Arc::new(Metrics::default());
    let router = |key: &str, previous: Option<&Router>| {
        Router::new(vec![with_key(key)], Vec::new(), (&env, &metrics), previous)
    };
    let is_kept =
        |old: &Router, new: &Router| Arc::ptr_eq(&old.upstreams()[0], &new.upstreams()[0]);
    let first = router("first-key-1", None);
    let agent = &first.upstreams()[0].client.agent;
    ask(agent, &base_url).expect("a response");
    assert!(is_kept(&first, &router("first-key-1", Some(&first))));
    assert!(!is_kept(&first, &router("second-key-2", Some(&first))));
    // The one that a 401 made it read is what a reload finds.
    assert!(agent.key.renew(0));
    assert!(is_kept(&first, &router("second-key-2", Some(&first))));
    assert!(!is_kept(&first, &router("first-key-1", Some(&first))));
    copy("self_signed.pem");
    assert!(!is_kept(&first, &router("second-key-2", Some(&first))));
    let _ = std::fs::remove_dir_all(folder);
}
