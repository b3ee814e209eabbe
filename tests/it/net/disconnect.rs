//! Clients that close the connection, or only stop sending: the upstream call is cancelled, or the
//! response is completed.

use super::guard::{chats, patient};
use crate::support::*;
use crossbeam_channel::{Receiver, Sender, bounded};
use ollama_openai_proxy::config::Config;
use socket2::SockRef;
use std::net::Shutdown;
use std::time::Duration;

/// A stream that continues until the proxy closes the connection.
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
    let (upstream, proxy) = pair_with(|config| config.workers = 1);
    let (closed, is_closed) = bounded(1);
    let (go_on, told) = bounded(0);
    upstream.script(endless(closed.clone(), told));
    let mut client = proxy.client();
    client.post("/api/chat", chat("Hi")).head();
    client.frame();
    SockRef::from(client.stream()).set_linger(Some(Duration::ZERO)).expect("a socket");
    drop(client);
    drop(go_on);
    // The only worker is free again, so it has ended the stream.
    upstream.script(upstream::stream(&["next"]));
    let lines = proxy.ask("/api/chat", chat("Hi")).lines();
    assert_eq!(lines[0]["message"]["content"], "next");
    drop(closed);
    // Either a write of the upstream failed, or it saw the close: both drop its sender.
    assert_ne!(is_closed.recv_timeout(HANG), Err(crossbeam_channel::RecvTimeoutError::Timeout));
}

#[test]
fn a_half_closed_client_still_gets_its_answer() {
    let (upstream, proxy) = pair();
    upstream.script(upstream::stream(&["one", "two"]));
    let mut client = proxy.client();
    client.post("/api/chat", chat("Hi")).stream().shutdown(Shutdown::Write).expect("a socket");
    assert_eq!(client.answer().lines().len(), 3);
}

#[test]
fn clients_that_leave_in_the_middle_of_a_body_cost_nothing() {
    let (_upstream, proxy) = pair_with(|config| config.workers = 1);
    for _ in 0..5 {
        let mut client = proxy.client();
        client.send("POST /api/chat HTTP/1.1\r\nContent-Length: 5000\r\n\r\n{\"model\"");
    }
    assert_eq!(proxy.fetch("/api/version").status(), 200);
}

#[test]
fn a_client_that_stops_reading_does_not_stop_the_others() {
    let (upstream, proxy) = pair_with(|config| config.workers = 2);
    let (closed, _is_closed) = bounded(1);
    let (go_on, told) = bounded(0);
    upstream.script(endless(closed, told)).script(upstream::stream(&["next"]));
    let mut stuck = proxy.client();
    stuck.post("/api/chat", chat("Hi")).head();
    drop(go_on);
    let lines = proxy.ask("/api/chat", chat("Hi")).lines();
    assert_eq!(lines[0]["message"]["content"], "next");
}

/// Ends a client's connection.
type Leave = fn(Client);

fn closes(client: Client) {
    drop(client);
}

fn resets(client: Client) {
    SockRef::from(client.stream()).set_linger(Some(Duration::ZERO)).expect("a socket");
}

/// Two clients send a request one after the other and disconnect by `leave`; each time the upstream must
/// see its connection closed before the next step.
fn check_leaving(before: impl Fn() -> Vec<Step>, leave: Leave, ask: impl Fn(&mut Client)) {
    let (upstream, proxy) = pair_with(|config| {
        patient(config);
        config.workers = 1;
    });
    for _ in 0..2 {
        let (closed, is_closed): (Sender<()>, Receiver<()>) = bounded(1);
        let mut steps = before();
        steps.push(Step::UntilClosed(closed));
        upstream.script(steps);
        let mut client = proxy.client();
        ask(&mut client);
        upstream.request();
        leave(client);
        is_closed.recv_timeout(HANG).expect("the upstream's call is cancelled");
    }
    chats(&proxy, &upstream);
    assert_eq!(proxy.server.counters().disconnects, 2);
    upstream.request();
    assert!(upstream.is_idle(), "no retry for a client that has disconnected");
}

#[test]
fn who_leaves_before_the_first_byte_is_not_waited_for() {
    let bodies = [
        ("/api/chat", chat("Hi")),
        ("/api/chat", chat_whole("Hi")),
        ("/api/embed", r#"{"model":"m","input":"Hi"}"#.to_owned()),
        ("/v1/chat/completions", chat("Hi")),
        ("/v1/messages", chat("Hi").replacen('{', "{\"max_tokens\":5,", 1)),
    ];
    for (path, body) in bodies {
        for leave in [closes as Leave, resets] {
            check_leaving(Vec::new, leave, |client| {
                client.post(path, &body);
            });
        }
    }
}

#[test]
fn who_leaves_while_the_upstream_is_silent_is_not_waited_for() {
    for path in ["/api/chat", "/v1/chat/completions"] {
        for leave in [closes as Leave, resets] {
            let before = || vec![stream_head(), delta("one")];
            check_leaving(before, leave, |client| {
                let body = chat("Hi").replacen('{', "{\"stream\":true,", 1);
                client.post(path, body).head();
                client.frame();
            });
        }
    }
}

#[test]
fn who_leaves_in_the_middle_of_a_whole_answer_is_not_waited_for() {
    let head = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n";
    for delimited in ["Content-Length: 500\r\n", "Transfer-Encoding: chunked\r\n", ""] {
        for leave in [closes as Leave, resets] {
            let begun = format!("{head}{delimited}\r\n10\r\n{{\"choices\":[");
            let before = || vec![Step::Send(begun.clone().into_bytes())];
            check_leaving(before, leave, |client| {
                client.post("/api/chat", chat_whole("Hi"));
            });
        }
    }
}

#[test]
fn who_leaves_before_the_first_token_or_behind_it_frees_the_worker_on_each_route() {
    let compact = "/v1/responses/compact";
    for (route, has_token) in [CHAT, "/v1/chat/completions", MESSAGES, "/v1/responses"]
        .into_iter()
        .flat_map(|route| [(route, false), (route, true)])
        .chain([(compact, false)])
    {
        let (upstream, proxy) = pair_with(|config| {
            patient(config);
            config.workers = 1;
        });
        upstream.judge(|request| {
            let is_responses = request.path.contains("/responses");
            is_responses.then(|| vec![status(404, &[], r#"{"detail":"Not Found"}"#)])
        });
        let (closed, is_closed) = bounded(1);
        let begun = has_token.then(|| delta("one"));
        let end = [Step::UntilClosed(closed)];
        upstream.script([stream_head()].into_iter().chain(begun).chain(end).collect());
        let message = json!([{"role": "user", "content": "Hi"}]);
        let body = json!({"model": "m", "stream": true, "max_tokens": 9, "messages": message,
            "input": "Hi"});
        let mut client = proxy.client();
        client.post(route, body.to_string());
        while upstream.request().path.contains("/responses") {}
        if has_token {
            client.head();
            client.frame();
        }
        drop(client);
        is_closed.recv_timeout(HANG).expect("the upstream's call is cancelled");
        upstream.script(upstream::stream(&["next"]));
        let answer = proxy.post(route, &body);
        let is_told = route == compact || answer.body.contains("next");
        assert!(answer.status() == 200 && is_told, "{route} {has_token}: {}", answer.body);
        assert_eq!(proxy.server.counters().disconnects, 1, "{route} {has_token}");
    }
}

#[test]
fn who_has_only_stopped_sending_gets_every_byte() {
    let (upstream, proxy) = pair_with(patient);
    let (go_on, told) = bounded(1);
    let mut steps = vec![Step::Wait(told.clone()), stream_head(), delta("one"), Step::Wait(told)];
    steps.push(delta("two"));
    steps.extend(ending());
    upstream.script(steps);
    let mut client = proxy.client();
    client.post("/api/chat", chat("Hi"));
    client.stream().shutdown(Shutdown::Write).expect("it is open");
    // The byte that probes the connection is the first byte of the response.
    assert_eq!(client.byte(), b'H');
    go_on.send(()).expect("the upstream waits");
    assert_eq!(client.line().as_deref(), Some("TTP/1.1 200 OK"));
    while client.line().is_some_and(|line| !line.is_empty()) {}
    assert!(client.frame().expect("a line").contains("one"));
    // Between two chunks it is a leading zero of the next chunk's length.
    assert_eq!(client.byte(), b'0');
    go_on.send(()).expect("the upstream waits");
    assert!(client.frame().expect("a line").contains("two"));
    assert!(client.frame().expect("a line").contains("\"done\":true"));
    assert_eq!(client.frame(), None);
    assert_eq!(proxy.server.counters().disconnects, 0);
}

#[test]
fn who_has_stopped_sending_gets_a_whole_answer_too() {
    let (upstream, proxy) = pair_with(patient);
    let (go_on, told) = bounded(1);
    upstream.script(vec![Step::Wait(told), upstream::answer("whole")]);
    let mut client = proxy.client();
    client.post("/api/chat", chat_whole("Hi"));
    client.stream().shutdown(Shutdown::Write).expect("it is open");
    assert_eq!(client.byte(), b'H');
    go_on.send(()).expect("the upstream waits");
    let answer = format!("H{}", client.rest());
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.contains("\"whole\""), "{answer}");
}

#[test]
fn nobody_is_asked_for_a_client_that_left_in_the_queue() {
    let (upstream, proxy) = pair_with(|config| {
        patient(config);
        config.workers = 1;
    });
    let (go_on, told) = bounded(1);
    upstream.script(vec![Step::Wait(told), upstream::answer("first")]);
    let mut first = proxy.client();
    first.post("/api/chat", chat_whole("first"));
    upstream.request();
    let mut second = proxy.client();
    second.post("/api/chat", chat_whole("second"));
    while proxy.server.active_requests() < 2 {
        std::thread::yield_now();
    }
    resets(second);
    while proxy.server.counters().disconnects == 0 {
        std::thread::yield_now();
    }
    upstream.script(vec![upstream::answer("third")]);
    let mut third = proxy.client();
    third.post("/api/chat", chat_whole("third"));
    go_on.send(()).expect("the upstream waits");
    assert_eq!(first.answer().status(), 200);
    assert_eq!(third.answer().json()["message"]["content"], "third");
    assert!(upstream.request().body.contains("third"));
}

#[test]
fn a_pause_between_attempts_ends_with_its_client() {
    let upstream = Upstream::start();
    upstream.script(vec![upstream::status(503, &[("Retry-After", "100")], "{}")]);
    let mut config = Config::for_base_url(&upstream.base_url()).expect("a base URL");
    patient(&mut config);
    config.workers = 1;
    let stop = ollama_openai_proxy::app::shutdown::Shutdown::default();
    // With the real sleep function.
    let server = ollama_openai_proxy::app::server::Server::start(config, stop).expect("it starts");
    let mut client = Client::connect(server.local_addr());
    client.post("/api/chat", chat_whole("Hi"));
    upstream.request();
    resets(client);
    upstream.script(vec![upstream::answer("next")]);
    let mut next = Client::connect(server.local_addr());
    let answer = next.post("/api/chat", chat_whole("Hi")).answer();
    assert_eq!(answer.json()["message"]["content"], "next", "the only worker is back");
}

#[test]
fn a_sign_that_comes_late_hits_nobody_else() {
    let (upstream, proxy) = pair_with(patient);
    for round in 0..20 {
        upstream.script(vec![upstream::answer("short")]);
        let mut client = proxy.client();
        client.post("/api/chat", chat_whole("Hi")).answer();
        resets(client);
        assert_eq!(upstream.request().connection, upstream.connections() - 1, "round {round}");
    }
    assert_eq!(upstream.connections(), 1, "its connection served all of them");
}
