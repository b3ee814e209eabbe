//! Clients that leave: the upstream's call ends, the worker comes back.

use std::net::Shutdown;
use std::time::Duration;

use crate::support::HANG;
use crate::support::proxy::Proxy;
use crate::support::raw::chat;
use crate::support::upstream::{self, Step, Upstream, delta, stream_head};
use crossbeam_channel::bounded;
use socket2::SockRef;

/// A stream that goes on until the proxy closes the connection.
fn endless(
    closed: crossbeam_channel::Sender<()>,
    go_on: crossbeam_channel::Receiver<()>,
) -> Vec<Step> {
    let mut steps = vec![stream_head(), delta("one"), Step::Wait(go_on)];
    steps.extend((0..50_000).map(|_| delta("more of it, and then more")));
    steps.push(Step::UntilClosed(closed));
    steps
}

#[test]
fn the_upstream_s_call_ends_when_a_write_fails() {
    let upstream = Upstream::start();
    let (closed, is_closed) = bounded(1);
    let (go_on, told) = bounded(0);
    upstream.script(endless(closed.clone(), told));
    let proxy = Proxy::with(&upstream, |config| config.workers = 1);
    let mut client = proxy.client();
    client.post("/api/chat", chat("Hi")).head();
    client.frame();
    SockRef::from(client.stream()).set_linger(Some(Duration::ZERO)).expect("a socket");
    drop(client);
    drop(go_on);
    // The only worker serves again, which it can only do once it has let go of the stream.
    upstream.script(upstream::stream(&["next"]));
    let lines = proxy.client().post("/api/chat", chat("Hi")).answer().lines();
    assert_eq!(lines[0]["message"]["content"], "next");
    drop(closed);
    // Either the upstream's own writes failed, or it saw the close: both drop its end.
    assert_ne!(is_closed.recv_timeout(HANG), Err(crossbeam_channel::RecvTimeoutError::Timeout));
}

#[test]
fn a_half_closed_client_still_gets_its_answer() {
    let upstream = Upstream::start();
    upstream.script(upstream::stream(&["one", "two"]));
    let proxy = Proxy::start(&upstream);
    let mut client = proxy.client();
    client.post("/api/chat", chat("Hi")).stream().shutdown(Shutdown::Write).expect("a socket");
    assert_eq!(client.answer().lines().len(), 3);
}

#[test]
fn clients_that_leave_in_the_middle_of_a_body_cost_nothing() {
    let upstream = Upstream::start();
    let proxy = Proxy::with(&upstream, |config| config.workers = 1);
    for _ in 0..5 {
        let mut client = proxy.client();
        client.send("POST /api/chat HTTP/1.1\r\nContent-Length: 5000\r\n\r\n{\"model\"");
    }
    assert_eq!(proxy.client().get("/api/version").answer().status(), 200);
}

#[test]
fn a_client_that_stops_reading_does_not_stop_the_others() {
    let upstream = Upstream::start();
    let (closed, _is_closed) = bounded(1);
    let (go_on, told) = bounded(0);
    upstream.script(endless(closed, told)).script(upstream::stream(&["next"]));
    let proxy = Proxy::with(&upstream, |config| config.workers = 2);
    let mut stuck = proxy.client();
    stuck.post("/api/chat", chat("Hi")).head();
    drop(go_on);
    let lines = proxy.client().post("/api/chat", chat("Hi")).answer().lines();
    assert_eq!(lines[0]["message"]["content"], "next");
}
