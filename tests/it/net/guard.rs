//! The guard over real sockets: who is cut, who is not, and who has left.
//!
//! Limits are made short and ended by what the client sees, never by a clock of the test.
#![cfg(target_os = "linux")]

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::Duration;

use crate::support::HANG;
use crate::support::proxy::{Proxy, start};
use crate::support::raw::{Client, chat, chat_whole};
use crate::support::reserved::Reserved;
use crate::support::upstream::{self, Step, Upstream, delta, ending, stream_head};
use crossbeam_channel::{Receiver, Sender, bounded};
use ollama_openai_proxy::config::Config;
use ollama_openai_proxy::guard::Reason;
use socket2::{Domain, SockRef, Socket, Type};

/// Long enough that nobody is cut by it in a test.
const NEVER: Duration = Duration::from_secs(3600);
const SOON: Duration = Duration::from_millis(100);

fn patient(config: &mut Config) {
    let limits = &mut config.limits;
    (limits.head_time, limits.idle, limits.grace, limits.linger) = (NEVER, NEVER, NEVER, NEVER);
}

/// What the connection still gives until it closes.
fn rest(mut stream: &TcpStream) -> String {
    let mut bytes = Vec::new();
    stream.set_read_timeout(Some(HANG)).expect("a socket");
    match stream.read_to_end(&mut bytes) {
        Ok(_) => {}
        // What we sent was not all taken, so the close is a reset.
        Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset),
    }
    String::from_utf8(bytes).expect("UTF-8")
}

fn chats(proxy: &Proxy, upstream: &Upstream) {
    upstream.script(vec![upstream::answer("fine")]);
    let answer = proxy.client().post("/api/chat", chat_whole("Hi")).answer();
    assert_eq!(answer.json()["message"]["content"], "fine");
}

#[test]
fn a_head_that_takes_too_long_is_cut() {
    let upstream = Upstream::start();
    let proxy = Proxy::with(&upstream, |config| {
        patient(config);
        config.limits.head_time = SOON;
    });
    let mut silent = proxy.client();
    let mut slow: Vec<_> = (0..20).map(|_| proxy.client()).collect();
    for client in &mut slow {
        client.send("POST /api/chat HTTP/1.1\r\nHost: ");
    }
    for client in &slow {
        assert_eq!(rest(client.stream()), "");
    }
    assert_eq!(proxy.server.tally().cuts(Reason::SlowHead), 20);
    assert_eq!(silent.get("/api/version").answer().status(), 200, "silence is no head");
    chats(&proxy, &upstream);
}

#[test]
fn a_small_body_counts_with_its_head() {
    let upstream = Upstream::start();
    let proxy = Proxy::with(&upstream, |config| {
        patient(config);
        config.limits.head_time = SOON;
    });
    let mut client = proxy.client();
    client.send("POST /api/chat HTTP/1.1\r\nHost: localhost\r\nContent-Length: 500\r\n\r\n{");
    assert_eq!(rest(client.stream()), "");
}

#[test]
fn an_endless_head_is_cut() {
    let upstream = Upstream::start();
    let proxy = Proxy::with(&upstream, patient);
    for piece in ["X: y\r\n", "y"] {
        let client = proxy.client();
        let mut stream = client.stream();
        stream.write_all(b"GET / HTTP/1.1\r\nX: ").expect("it reads");
        let flood = piece.repeat(64 * 1024);
        // Ended by the guard, which nothing else here can do.
        while stream.write_all(flood.as_bytes()).is_ok() {}
    }
    assert_eq!(proxy.server.tally().cuts(Reason::LargeHead), 2);
    chats(&proxy, &upstream);
}

#[test]
fn a_silent_connection_is_closed_and_a_busy_one_is_not() {
    let upstream = Upstream::start();
    let (go_on, told) = bounded(0);
    upstream.script(vec![stream_head(), delta("one"), Step::Wait(told), Step::Close]);
    let proxy = Proxy::with(&upstream, |config| {
        patient(config);
        config.limits.idle = SOON;
    });
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
    let upstream = Upstream::start();
    let proxy = Proxy::with(&upstream, |config| {
        patient(config);
        (config.limits.grace, config.workers) = (SOON, 1);
    });
    for head in ["Content-Length: 5000", "Transfer-Encoding: chunked"] {
        let mut client = proxy.client();
        client.send(format!("POST /api/chat HTTP/1.1\r\nHost: localhost\r\n{head}\r\n\r\n1"));
        let answer = client.answer();
        assert_eq!((answer.status(), answer.error().as_str()), (408, "request body took too long"));
        assert_eq!(answer.head.header("connection"), Some("close"));
    }
    chats(&proxy, &upstream);
}

#[test]
fn a_body_has_its_time_however_it_comes() {
    let upstream = Upstream::start();
    let proxy = Proxy::with(&upstream, |config| {
        patient(config);
        config.limits.floor = 0;
        config.request_timeout = SOON;
    });
    let mut client = proxy.client();
    client.send("POST /api/chat HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5000\r\n\r\n{");
    assert_eq!(client.answer().status(), 408);
}

#[test]
fn stalled_bodies_hold_no_worker() {
    let upstream = Upstream::start();
    let proxy = Proxy::with(&upstream, |config| {
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
    let upstream = Upstream::start();
    let (go_on, told) = bounded(0);
    upstream.script(vec![stream_head(), delta("one"), Step::Wait(told), Step::Close]);
    let proxy = Proxy::with(&upstream, |config| {
        patient(config);
        config.limits.connections = 8;
    });
    let mut busy = proxy.client();
    busy.post("/api/chat", chat("Hi")).head();
    busy.frame();
    let eldest = proxy.client();
    while proxy.server.tally().connections() < 2 {
        std::thread::yield_now();
    }
    let silent: Vec<_> = (0..30).map(|_| proxy.client()).collect();
    assert_eq!(rest(eldest.stream()), "");
    while proxy.server.tally().cuts(Reason::TooMany) < 24 {
        std::thread::yield_now();
    }
    assert_eq!(proxy.client().get("/api/version").answer().status(), 200);
    drop(silent);
    drop(go_on);
    assert!(busy.frame().expect("the end of a broken stream").contains("error"));
}

/// Ends a client's connection.
type Leave = fn(Client);

fn closes(client: Client) {
    drop(client);
}

fn resets(client: Client) {
    SockRef::from(client.stream()).set_linger(Some(Duration::ZERO)).expect("a socket");
}

/// Two clients ask, one after the other; each leaves as told, and each time the upstream has to see
/// its connection closed before anything else happens.
fn check_leaving(before: impl Fn() -> Vec<Step>, leave: Leave, ask: impl Fn(&mut Client)) {
    let upstream = Upstream::start();
    let proxy = Proxy::with(&upstream, |config| {
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
    assert_eq!(proxy.server.tally().left(), 2);
    upstream.request();
    assert!(upstream.is_idle(), "nobody asks again for a client that has left");
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
fn who_has_only_stopped_sending_gets_every_byte() {
    let upstream = Upstream::start();
    let (go_on, told) = bounded(1);
    let mut steps = vec![Step::Wait(told.clone()), stream_head(), delta("one"), Step::Wait(told)];
    steps.push(delta("two"));
    steps.extend(ending());
    upstream.script(steps);
    let proxy = Proxy::with(&upstream, patient);
    let mut client = proxy.client();
    client.post("/api/chat", chat("Hi"));
    client.stream().shutdown(Shutdown::Write).expect("it is open");
    // The byte that asks whether we are there is the first one of our answer.
    let mut byte = [0; 1];
    client.stream().read_exact(&mut byte).expect("a byte");
    assert_eq!(&byte, b"H");
    go_on.send(()).expect("the upstream waits");
    assert_eq!(client.line().as_deref(), Some("TTP/1.1 200 OK"));
    while client.line().is_some_and(|line| !line.is_empty()) {}
    assert!(client.frame().expect("a line").contains("one"));
    // Between two chunks it is a zero in front of the next one's length.
    client.stream().read_exact(&mut byte).expect("a byte");
    assert_eq!(&byte, b"0");
    go_on.send(()).expect("the upstream waits");
    assert!(client.frame().expect("a line").contains("two"));
    assert!(client.frame().expect("a line").contains("\"done\":true"));
    assert_eq!(client.frame(), None);
    assert_eq!(proxy.server.tally().left(), 0);
}

#[test]
fn who_has_stopped_sending_gets_a_whole_answer_too() {
    let upstream = Upstream::start();
    let (go_on, told) = bounded(1);
    upstream.script(vec![Step::Wait(told), upstream::answer("whole")]);
    let proxy = Proxy::with(&upstream, patient);
    let mut client = proxy.client();
    client.post("/api/chat", chat_whole("Hi"));
    client.stream().shutdown(Shutdown::Write).expect("it is open");
    let mut byte = [0; 1];
    client.stream().read_exact(&mut byte).expect("a byte");
    go_on.send(()).expect("the upstream waits");
    let answer = format!("H{}", client.rest());
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.contains("\"whole\""), "{answer}");
}

#[test]
fn nobody_is_asked_for_a_client_that_left_in_the_queue() {
    let upstream = Upstream::start();
    let (go_on, told) = bounded(1);
    upstream.script(vec![Step::Wait(told), upstream::answer("first")]);
    let proxy = Proxy::with(&upstream, |config| {
        patient(config);
        config.workers = 1;
    });
    let mut first = proxy.client();
    first.post("/api/chat", chat_whole("first"));
    upstream.request();
    let mut second = proxy.client();
    second.post("/api/chat", chat_whole("second"));
    while proxy.server.load() < 2 {
        std::thread::yield_now();
    }
    resets(second);
    while proxy.server.tally().left() == 0 {
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
    let stop = ollama_openai_proxy::stop::Stop::default();
    // With its own pacing, which really sleeps.
    let server = ollama_openai_proxy::server::Server::start(config, stop).expect("it starts");
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
    let upstream = Upstream::start();
    let proxy = Proxy::with(&upstream, patient);
    for round in 0..20 {
        upstream.script(vec![upstream::answer("short")]);
        let mut client = proxy.client();
        client.post("/api/chat", chat_whole("Hi")).answer();
        resets(client);
        assert_eq!(upstream.request().connection, upstream.connections() - 1, "round {round}");
    }
    assert_eq!(upstream.connections(), 1, "its connection served all of them");
}

#[test]
fn one_address_cannot_take_all_workers() {
    let upstream = Upstream::start();
    let (go_on, told) = bounded(1);
    upstream.script(vec![Step::Wait(told), upstream::answer("first")]);
    let proxy = Proxy::with(&upstream, |config| {
        patient(config);
        config.max_per_client = Some(1);
    });
    let mut first = proxy.client();
    first.post("/api/chat", chat_whole("first"));
    upstream.request();
    let refused = proxy.client().post("/api/chat", chat_whole("second")).answer();
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
    // One after the other on one connection is never too many.
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
    let upstream = Upstream::start();
    let (go_on, told) = bounded(1);
    upstream.script(vec![Step::Wait(told), upstream::answer("busy")]);
    let proxy = Proxy::with(&upstream, |config| {
        patient(config);
        (config.workers, config.max_queue) = (1, 0);
    });
    let mut busy = proxy.client();
    busy.post("/api/chat", chat_whole("Hi"));
    upstream.request();
    let mut client = proxy.client();
    assert_eq!(client.get("/api/tags").answer().status(), 503);
    for path in ["/", "/api/version", "/health", "/openai/health", "/health?x=1"] {
        assert_eq!(client.get(path).answer().status(), 200, "{path}");
    }
    go_on.send(()).expect("the upstream waits");
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
    let upstream = Upstream::start();
    let proxy = Proxy::with(&upstream, |config| {
        patient(config);
        config.limits.bodies = Some(50_000);
    });
    let half = chat_whole(&"x".repeat(30_000));
    let length = half.len();
    let head = format!("POST /api/chat HTTP/1.1\r\nContent-Length: {length}\r\n\r\n");
    let asks = || {
        upstream.script(vec![upstream::answer("fine")]);
        proxy.client().post("/api/chat", &half).answer().status()
    };
    // It is the second one that is refused; while the first one's bytes are still on their way it may
    // be that one, or both.
    loop {
        let mut first = proxy.client();
        first.send(head.clone() + &half[..length - 1]);
        while proxy.server.load() < 1 {
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
    let alone = proxy.client().post("/api/chat", chat_whole(&"x".repeat(60_000))).answer();
    assert_eq!((alone.status(), alone.head.header("connection")), (413, Some("close")));
    assert_eq!(alone.error(), "request body too large: the limit is 50000 bytes");
}

#[test]
fn a_long_answer_does_not_hold_its_question() {
    let upstream = Upstream::start();
    let proxy = Proxy::with(&upstream, |config| {
        patient(config);
        config.limits.bodies = Some(50_000);
    });
    let question = "x".repeat(30_000);
    let (go_on, told) = bounded::<()>(0);
    let steps = vec![stream_head(), delta("one"), Step::Wait(told)];
    upstream.script(steps.into_iter().chain(ending()).collect());
    let mut long = proxy.client();
    long.post("/api/chat", chat(&question)).head();
    upstream.script(vec![upstream::answer("fine")]);
    let answer = proxy.client().post("/api/chat", chat_whole(&question)).answer();
    assert_eq!(answer.status(), 200, "{}", answer.body);
    drop(go_on);
    while long.frame().is_some() {}
}

#[test]
fn the_guard_ends_with_its_server() {
    let upstream = Upstream::start();
    let (sender, _sleeps) = bounded(0);
    let pacing = ollama_openai_proxy::upstream::Pacing {
        sleep: Box::new(move |pause| sender.send(pause).is_ok()),
        jitter: Box::new(|| 0.0),
    };
    let reserved = Reserved::new();
    let change = |config: &mut Config| {
        patient(config);
        config.port = reserved.addr().port();
    };
    let (server, _stop) = start(&upstream.base_url(), change, pacing);
    assert_eq!(server.local_addr(), reserved.addr());
    assert!(server.drain());
    while std::net::TcpListener::bind(reserved.addr()).is_err() {
        std::thread::yield_now();
    }
}
