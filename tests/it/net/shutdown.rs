//! Shutdown: open connections get one more response each, and new connections are refused.

use crate::support::*;
use std::net::{SocketAddr, TcpStream};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crate::support::reserved::Reserved;
use crossbeam_channel::Sender;

/// A proxy with one live stream that continues when `go_on` is dropped, at a reserved address that no
/// other test gets after the proxy has closed it.
fn live(upstream: &Upstream, grace: Duration) -> (Proxy, Client, Sender<()>, Reserved) {
    let reserved = Reserved::new();
    let proxy = Proxy::with(upstream, |config| {
        (config.shutdown_grace, config.port) = (grace, reserved.addr().port());
    });
    let (client, go_on) = live_on(&proxy, upstream);
    (proxy, client, go_on, reserved)
}

/// A live stream of this proxy.
fn live_on(proxy: &Proxy, upstream: &Upstream) -> (Client, Sender<()>) {
    let (go_on, steps) = halting();
    upstream.script(steps);
    let mut client = proxy.client();
    client.post("/api/chat", chat("Hi")).head();
    client.frame();
    (client, go_on)
}

/// Triggers the shutdown, and waits until new connections are refused.
fn stopped(proxy: Proxy) -> JoinHandle<bool> {
    let addr = proxy.addr();
    let Proxy { server, stop, .. } = proxy;
    let end = thread::spawn(move || server.run());
    stop.trigger();
    while !is_refused(addr) {
        thread::yield_now();
    }
    end
}

/// Whether a new connection is refused. The short timeout avoids the client's retransmission delay of one
/// second for a connection that arrives while the port closes.
fn is_refused(addr: SocketAddr) -> bool {
    TcpStream::connect_timeout(&addr, Duration::from_millis(20))
        .is_err_and(|error| error.kind() == std::io::ErrorKind::ConnectionRefused)
}

#[test]
fn a_live_stream_is_finished_before_the_end() {
    let upstream = Upstream::start();
    let (proxy, mut client, go_on, _reserved) = live(&upstream, HANG);
    // New connections are refused while the open ones are still served.
    let end = stopped(proxy);
    drop(go_on);
    assert!(client.frame().expect("a line").contains("\"content\":\"two\""));
    assert!(client.frame().expect("a line").contains("\"done\":true"));
    assert_eq!(client.frame(), None);
    assert!(end.join().expect("no panic"), "everything was finished");
}

#[test]
fn what_takes_longer_than_the_grace_is_left() {
    let upstream = Upstream::start();
    let (proxy, _client, _go_on, _reserved) = live(&upstream, Duration::ZERO);
    assert!(!proxy.server.drain());
}

#[test]
fn an_idle_server_ends_at_once() {
    let (_upstream, proxy) = pair();
    proxy.fetch("/");
    assert!(proxy.server.drain());
}

#[test]
fn who_has_connected_is_served_once_more() {
    let upstream = Upstream::start();
    let (proxy, mut live, go_on, _reserved) = live(&upstream, HANG);
    let (mut other, other_goes_on) = live_on(&proxy, &upstream);
    let (mut kept, mut new) = (proxy.client(), proxy.client());
    let before = kept.get("/ready").answer();
    assert_eq!((before.status(), before.head.header("connection")), (200, None));
    let end = stopped(proxy);
    let last = |client: &mut Client, path: &str, status: u16| {
        let answer = client.get(path).answer();
        let connection = answer.head.header("connection");
        assert_eq!((answer.status(), connection), (status, Some("close")), "{}", answer.body);
        assert_eq!(client.rest(), "", "the server closes the connection");
        answer.body
    };
    assert!(last(&mut kept, "/ready", 503).contains("the server is shutting down"));
    last(&mut new, "/api/version", 200);
    drop(go_on);
    while live.frame().is_some() {}
    // Its head was sent before the shutdown, so it does not say `Connection: close`.
    last(&mut live, "/api/version", 200);
    drop(other_goes_on);
    while other.frame().is_some() {}
    assert!(end.join().expect("no panic"), "everything was finished");
}

#[test]
fn a_stream_that_begins_at_the_end_is_the_last_on_its_connection() {
    let upstream = Upstream::start();
    let (proxy, mut live, go_on, _reserved) = live(&upstream, HANG);
    let mut client = proxy.client();
    client.get("/").answer();
    let end = stopped(proxy);
    upstream.script([vec![stream_head(), delta("one")], ending()].into_iter().flatten().collect());
    assert_eq!(client.post("/api/chat", chat("Hi")).head().header("connection"), Some("close"));
    while client.frame().is_some() {}
    assert_eq!(client.rest(), "");
    drop(go_on);
    while live.frame().is_some() {}
    assert!(end.join().expect("no panic"), "everything was finished");
}

#[test]
fn none_of_those_who_wait_to_be_accepted_is_lost() {
    let upstream = Upstream::start();
    let _crowd = crowd();
    for _ in 0..4 {
        let reserved = Reserved::new();
        let proxy = Proxy::with(&upstream, |config| {
            config.port = reserved.addr().port();
            (config.shutdown_grace, config.max_queue) = (HANG, 1000);
        });
        let ask = |_| {
            let mut client = proxy.client();
            // Not a health route: their queue is shorter.
            client.get("/api/ps");
            client
        };
        let clients: Vec<Client> = (0..200).map(ask).collect();
        let end = stopped(proxy);
        for mut client in clients {
            let answer = client.answer();
            assert_eq!(answer.status(), 200, "{}", answer.body);
        }
        assert!(end.join().expect("no panic"), "everything was finished");
    }
}
