//! The end of the program: running answers finish, new connections are refused.

mod support;

use std::net::TcpStream;
use std::thread;
use std::time::Duration;

use crossbeam_channel::bounded;
use support::proxy::Proxy;
use support::raw::chat;
use support::upstream::{Step, Upstream, delta, ending, stream_head};

/// A proxy with one live stream that goes on when `go_on` is dropped.
fn live(
    upstream: &Upstream,
    grace: Duration,
) -> (Proxy, support::raw::Client, crossbeam_channel::Sender<()>) {
    let (go_on, told) = bounded(0);
    let mut steps = vec![stream_head(), delta("one"), Step::Wait(told), delta("two")];
    steps.extend(ending());
    upstream.script(steps);
    let proxy = Proxy::with(upstream, |config| config.shutdown_grace = grace);
    let mut client = proxy.client();
    client.post("/api/chat", chat("Hi")).head();
    client.frame();
    (proxy, client, go_on)
}

#[test]
fn a_live_stream_is_finished_before_the_end() {
    let upstream = Upstream::start();
    let (proxy, mut client, go_on) = live(&upstream, support::HANG);
    let addr = proxy.addr();
    let Proxy { server, stop, .. } = proxy;
    let end = thread::spawn(move || server.run());
    stop.give();
    // New connections are refused before the old ones are through.
    while TcpStream::connect(addr).is_ok() {
        thread::yield_now();
    }
    drop(go_on);
    assert!(client.frame().expect("a line").contains("\"content\":\"two\""));
    assert!(client.frame().expect("a line").contains("\"done\":true"));
    assert_eq!(client.frame(), None);
    assert!(end.join().expect("no panic"), "everything was finished");
}

#[test]
fn what_takes_longer_than_the_grace_is_left() {
    let upstream = Upstream::start();
    let (proxy, _client, _go_on) = live(&upstream, Duration::ZERO);
    assert!(!proxy.server.drain());
}

#[test]
fn an_idle_server_ends_at_once() {
    let upstream = Upstream::start();
    let proxy = Proxy::start(&upstream);
    proxy.client().get("/").answer();
    assert!(proxy.server.drain());
}
