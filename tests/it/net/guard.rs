//! The connection guard over real sockets: slow heads and bodies, idle connections, and the limits
//! on connections and memory.
//!
//! Limits are short, and tests wait for what the client sees, never for a time.

use crate::support::reserved::Reserved;
use crate::support::*;
use ollama_openai_proxy::config::Config;
use ollama_openai_proxy::net::connection_guard::CutReason;
use socket2::{Domain, Socket, Type};
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::Duration;

/// A timeout that never expires in a test.
pub(super) const NEVER: Duration = Duration::from_secs(3600);

const SOON: Duration = Duration::from_millis(100);

pub(super) fn patient(config: &mut Config) {
    let limits = &mut config.connection_limits;
    (limits.head_timeout, limits.idle_timeout, limits.body_rate_grace, limits.linger_timeout) =
        (NEVER, NEVER, NEVER, NEVER);
}

/// The bytes that arrive until the connection closes.
pub(super) fn rest(mut stream: &TcpStream) -> String {
    let mut bytes = Vec::new();
    stream.set_read_timeout(Some(HANG)).expect("a socket");
    match stream.read_to_end(&mut bytes) {
        Ok(_) => {}
        // Some bytes that were sent are still unread by the proxy, so the close is a reset.
        Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset),
    }
    String::from_utf8(bytes).expect("UTF-8")
}

pub(super) fn chats(proxy: &Proxy, upstream: &Upstream) {
    upstream.script(vec![upstream::answer("fine")]);
    let answer = proxy.ask("/api/chat", chat_whole("Hi"));
    assert_eq!(answer.json()["message"]["content"], "fine");
}

#[test]
fn a_head_that_takes_too_long_is_cut() {
    let (upstream, proxy) = pair_with(|config| {
        patient(config);
        config.connection_limits.head_timeout = SOON;
    });
    let mut silent = proxy.client();
    let mut slow: Vec<_> = (0..20).map(|_| proxy.client()).collect();
    for client in &mut slow {
        client.send("POST /api/chat HTTP/1.1\r\nHost: ");
    }
    for client in &slow {
        assert_eq!(rest(client.stream()), "");
    }
    assert_eq!(proxy.server.counters().cuts(CutReason::SlowHead), 20);
    assert_eq!(silent.get("/api/version").answer().status(), 200, "silence is no head");
    chats(&proxy, &upstream);
}

#[test]
fn a_small_body_counts_with_its_head() {
    let (_upstream, proxy) = pair_with(|config| {
        patient(config);
        config.connection_limits.head_timeout = SOON;
    });
    let mut client = proxy.client();
    client.send("POST /api/chat HTTP/1.1\r\nHost: localhost\r\nContent-Length: 500\r\n\r\n{");
    assert_eq!(rest(client.stream()), "");
}

#[test]
fn an_endless_head_is_cut() {
    let (upstream, proxy) = pair_with(patient);
    for piece in ["X: y\r\n", "y"] {
        let client = proxy.client();
        let mut stream = client.stream();
        stream.write_all(b"GET / HTTP/1.1\r\nX: ").expect("it reads");
        let flood = piece.repeat(64 * 1024);
        // Only the guard can end this loop.
        while stream.write_all(flood.as_bytes()).is_ok() {}
    }
    assert_eq!(proxy.server.counters().cuts(CutReason::LargeHead), 2);
    chats(&proxy, &upstream);
}

#[test]
fn a_silent_connection_is_closed_and_a_busy_one_is_not() {
    let (upstream, proxy) = pair_with(|config| {
        patient(config);
        // Longer than a busy machine needs between a connect and its request.
        config.connection_limits.idle_timeout = 10 * SOON;
    });
    let (go_on, told) = bounded(0);
    upstream.script(vec![stream_head(), delta("one"), Step::Wait(told), Step::Close]);
    let mut busy = proxy.client();
    busy.post("/api/chat", chat("Hi")).head();
    busy.frame();
    let (silent, mut used) = (proxy.client(), proxy.client());
    used.get("/").answer();
    assert_eq!((rest(silent.stream()), rest(used.stream())), (String::new(), String::new()));
    drop(go_on);
    assert!(busy.frame().expect("the end of a broken stream").contains("error"));
}

#[test]
fn a_body_that_stalls_is_told_so() {
    let (upstream, proxy) = pair_with(|config| {
        patient(config);
        (config.connection_limits.body_rate_grace, config.workers) = (SOON, 1);
    });
    for head in ["Content-Length: 5000", "Transfer-Encoding: chunked"] {
        let mut client = proxy.client();
        client.send(format!("POST /api/chat HTTP/1.1\r\nHost: localhost\r\n{head}\r\n\r\n1"));
        let answer = client.answer();
        answer.assert_error(408, "timed out reading the request body");
        assert_eq!(answer.head.header("connection"), Some("close"));
    }
    chats(&proxy, &upstream);
}

#[test]
fn a_body_has_its_time_however_it_comes() {
    let (_upstream, proxy) = pair_with(|config| {
        patient(config);
        config.connection_limits.min_body_rate = 0;
        config.request_timeout = SOON;
    });
    let mut client = proxy.client();
    client.send("POST /api/chat HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5000\r\n\r\n{");
    assert_eq!(client.answer().status(), 408);
}

#[test]
fn stalled_bodies_hold_no_worker() {
    let (upstream, proxy) = pair_with(|config| {
        patient(config);
        config.workers = 2;
    });
    let stalled: Vec<_> = (0..40)
        .map(|_| {
            let mut client = proxy.client();
            client.send("POST /api/chat HTTP/1.1\r\nContent-Length: 5000\r\n\r\n{");
            client
        })
        .collect();
    (0..5).for_each(|_| chats(&proxy, &upstream));
    for client in stalled {
        client.stream().shutdown(Shutdown::Write).expect("it is open");
        assert!(rest(client.stream()).contains("400 Bad Request"));
    }
    chats(&proxy, &upstream);
}

#[test]
fn of_too_many_connections_the_oldest_that_ask_nothing_go() {
    let (upstream, proxy) = pair_with(|config| {
        patient(config);
        config.connection_limits.max_connections = 8;
    });
    let (go_on, told) = bounded(0);
    upstream.script(vec![stream_head(), delta("one"), Step::Wait(told), Step::Close]);
    let mut busy = proxy.client();
    busy.post("/api/chat", chat("Hi")).head();
    busy.frame();
    let eldest = proxy.client();
    while proxy.server.counters().connections < 2 {
        std::thread::yield_now();
    }
    let silent: Vec<_> = (0..30).map(|_| proxy.client()).collect();
    assert_eq!(rest(eldest.stream()), "");
    while proxy.server.counters().cuts(CutReason::TooMany) < 24 {
        std::thread::yield_now();
    }
    assert_eq!(proxy.fetch("/api/version").status(), 200);
    drop(silent);
    drop(go_on);
    assert!(busy.frame().expect("the end of a broken stream").contains("error"));
}

#[test]
fn one_address_cannot_take_all_workers() {
    let (upstream, proxy) = pair_with(|config| {
        patient(config);
        config.max_per_client = Some(1);
    });
    let (go_on, told) = bounded(1);
    upstream.script(vec![Step::Wait(told), upstream::answer("first")]);
    let mut first = proxy.client();
    first.post("/api/chat", chat_whole("first"));
    upstream.request();
    let refused = proxy.ask("/api/chat", chat_whole("second"));
    assert_eq!(refused.status(), 503);
    assert_eq!(
        refused.error(),
        "server busy, please try again.  maximum pending requests exceeded"
    );
    assert_eq!(refused.head.header("retry-after"), Some("1"));
    upstream.script(vec![upstream::answer("elsewhere")]);
    let mut elsewhere = from([127, 0, 0, 2], proxy.addr());
    elsewhere.write_all(b"POST /api/chat HTTP/1.1\r\nHost: localhost\r\n").expect("it reads");
    let body = chat_whole("elsewhere");
    write!(elsewhere, "Connection: close\r\nContent-Length: {}\r\n\r\n{body}", body.len())
        .expect("it reads");
    assert!(rest(&elsewhere).contains("elsewhere"));
    go_on.send(()).expect("the upstream waits");
    assert_eq!(first.answer().status(), 200);
    // Consecutive requests on one connection never exceed the limit.
    for _ in 0..20 {
        assert_eq!(first.get("/api/version").answer().status(), 200);
    }
}

/// A connection from another address of this machine.
fn from(address: [u8; 4], to: SocketAddr) -> TcpStream {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    socket.bind(&SocketAddr::from((address, 0)).into()).expect("a loopback address");
    socket.connect(&to.into()).expect("the proxy listens");
    socket.into()
}

#[test]
fn health_is_told_when_every_worker_is_busy() {
    let (proxy, busy) = full_queue("", patient);
    let mut client = proxy.client();
    assert_eq!(client.get("/api/tags").answer().status(), 503);
    for path in ["/", "/api/version", "/health", "/openai/health", "/health?x=1"] {
        assert_eq!(client.get(path).answer().status(), 200, "{path}");
    }
    assert_eq!(busy.answer().status(), 200);
}

fn is_answered(client: &Client) -> bool {
    client.stream().set_nonblocking(true).expect("a socket");
    let answered = client.stream().peek(&mut [0]).is_ok();
    client.stream().set_nonblocking(false).expect("a socket");
    answered
}

#[test]
fn bodies_that_are_held_have_a_common_bound() {
    let (upstream, proxy) = pair_with(|config| {
        patient(config);
        config.connection_limits.max_held_memory = Some(50_000);
    });
    let half = chat_whole(&"x".repeat(30_000));
    let length = half.len();
    let head = format!("POST /api/chat HTTP/1.1\r\nContent-Length: {length}\r\n\r\n");
    let asks = || {
        upstream.script(vec![upstream::answer("fine")]);
        proxy.ask("/api/chat", &half).status()
    };
    // Usually the second one is refused; while bytes of the first are still in transit it may be the
    // first, or both.
    loop {
        let mut first = proxy.client();
        first.send(head.clone() + &half[..length - 1]);
        while proxy.server.active_requests() < 1 {
            std::thread::yield_now();
        }
        let refused = loop {
            match asks() {
                503 => break true,
                status => assert_eq!(status, 200),
            }
            if is_answered(&first) {
                break false;
            }
        };
        if refused && first.send("}").answer().status() == 200 {
            break;
        }
    }
    chats(&proxy, &upstream);
    let alone = proxy.ask("/api/chat", chat_whole(&"x".repeat(60_000)));
    assert_eq!((alone.status(), alone.head.header("connection")), (413, Some("close")));
    assert_eq!(alone.error(), "request body too large: the limit is 50000 bytes");
}

#[test]
fn a_long_answer_does_not_hold_its_question() {
    let (upstream, proxy) = pair_with(|config| {
        patient(config);
        config.connection_limits.max_held_memory = Some(50_000);
    });
    let question = "x".repeat(30_000);
    let (go_on, told) = bounded::<()>(0);
    let steps = vec![stream_head(), delta("one"), Step::Wait(told)];
    upstream.script(steps.into_iter().chain(ending()).collect());
    let mut long = proxy.client();
    long.post("/api/chat", chat(&question)).head();
    upstream.script(vec![upstream::answer("fine")]);
    let answer = proxy.ask("/api/chat", chat_whole(&question));
    assert_eq!(answer.status(), 200, "{}", answer.body);
    drop(go_on);
    while long.frame().is_some() {}
}

#[test]
fn the_guard_ends_with_its_server() {
    let upstream = Upstream::start();
    let (sender, _sleeps) = bounded(0);
    let pacing = ollama_openai_proxy::upstream::RetryEnv {
        sleep: Box::new(move |pause| sender.send(pause).is_ok()),
        jitter: Box::new(|| 0.0),
    };
    let reserved = Reserved::new();
    let change = |config: &mut Config| {
        patient(config);
        config.port = reserved.addr().port();
    };
    let (server, _stop) = proxy::start(&upstream.base_url(), change, pacing);
    assert_eq!(server.local_addr(), reserved.addr());
    assert!(server.drain());
    while std::net::TcpListener::bind(reserved.addr()).is_err() {
        std::thread::yield_now();
    }
}
