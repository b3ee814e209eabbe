//! Bodies of a claimed length that nobody can hold: refused or broken off, they cost nothing for good.
//!
//! tiny_http allocates what is left of a claimed body when it drops its reader. That would end the
//! process, and with it these tests.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::{Duration, Instant};

use ollama_openai_proxy::http::error_format::ErrorFormat;
use ollama_openai_proxy::http::exchange::{ConnectionHeader, Exchange};
use ollama_openai_proxy::net::memory_budget::MemoryBudget;

use super::guard::patient;
use crate::support::ollama::*;
use crate::support::program::{Running, program};
use crate::support::*;

const PETABYTE: u64 = 1 << 50;

const DIGEST: &str = "sha256:00000000000000000000000000000000000000000000000000000000000000aa";

/// Requests with bodies that claim too much, each with the beginning of its body.
fn claims() -> Vec<String> {
    let claim = |lines: &str, length: u64| {
        format!(
            "POST /api/chat HTTP/1.1\r\nHost: localhost\r\n{lines}Content-Length: {length}\r\n\r\n{{"
        )
    };
    let mut claims: Vec<String> =
        [1 << 31, 1 << 40, (1 << 47) - 1, PETABYTE, u64::MAX >> 1, u64::MAX]
            .map(|length| claim("", length))
            .into();
    claims.extend(
        [
            "Expect: 100-continue\r\n", "Connection: close\r\n", "Connection: upgrade\r\n",
            "Te: q=NaN\r\n",
        ]
        .map(|lines| claim(lines, PETABYTE)),
    );
    claims.push(claim("", PETABYTE).replace("HTTP/1.1", "HTTP/1.0"));
    claims.push(claim("", PETABYTE) + &"x".repeat(20_000));
    claims.push(claim("Host: another\r\n", PETABYTE));
    claims.push(claim("Origin: http://elsewhere.example\r\n", PETABYTE));
    for path in
        ["/nowhere", "/v1/chat/completions", "/v1/messages", "/v1/audio/transcriptions", "/"]
    {
        claims.push(claim("", PETABYTE).replace("/api/chat", path));
    }
    claims.push(format!("GET / HTTP/1.1\r\nHost: localhost\r\n\r\n{}", claim("", PETABYTE)));
    claims
}

/// Sends a request, and reads until the proxy closes the connection. A pipelined request comes before.
fn refused(addr: std::net::SocketAddr, claim: &str) -> String {
    let mut stream = TcpStream::connect(addr).expect("it listens");
    stream.write_all(claim.as_bytes()).expect("it reads");
    stream.set_read_timeout(Some(HANG)).expect("a socket");
    let mut said = Vec::new();
    // The end may be a reset.
    let _ = stream.read_to_end(&mut said);
    String::from_utf8(said).expect("UTF-8")
}

/// The threads of tiny_http and the descriptors of a process.
fn resources(process: u32) -> (usize, usize) {
    let list = |what: &str| {
        std::fs::read_dir(format!("/proc/{process}/{what}")).expect("it lives").flatten()
    };
    let is_reader = |thread: &std::fs::DirEntry| {
        let name = std::fs::read_to_string(thread.path().join("comm"));
        name.is_ok_and(|name| name.starts_with("accept-"))
    };
    (list("task").filter(is_reader).count(), list("fd").count())
}

/// Waits until a process has no more of them than before, but for a few.
#[track_caller]
fn assert_given_back(process: u32, before: (usize, usize)) {
    let deadline = Instant::now() + HANG;
    loop {
        // Idle threads of tiny_http's pool end after 5 s, but for some.
        let now = resources(process);
        if now.0 <= before.0 + 4 && now.1 <= before.1 + 8 {
            return;
        }
        assert!(Instant::now() < deadline, "{now:?} after {before:?}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn no_number_of_claims_costs_anything_for_good_or_restarts_the_program() {
    let upstream = Upstream::start();
    let (go_on, steps) = upstream::halting();
    upstream.script(steps);
    let mut program = Running::start(program().env("OPENAI_BASE_URL", upstream.base_url()));
    let mut stream = Client::connect(program.addr);
    stream.post("/api/chat", chat("Hi")).head();
    stream.frame();
    let before = resources(program.id());
    let addr = program.addr;
    let clients: Vec<_> = (0..12)
        .map(|_| {
            std::thread::spawn(move || {
                let said = claims().into_iter().map(|claim| (refused(addr, &claim), claim));
                said.collect::<Vec<_>>()
            })
        })
        .collect();
    for client in clients {
        for (said, claim) in client.join().expect("no panic") {
            let status = said.rsplit("HTTP/1.1 ").next().and_then(|rest| rest.get(..3));
            let status = status.and_then(|status| status.parse::<u16>().ok());
            assert!(status.is_some_and(|it| (400..500).contains(&it)), "{claim:.200}: {said}");
        }
    }
    assert_given_back(program.id(), before);
    assert_eq!(Client::connect(addr).get("/").answer().body, "Ollama is running");
    drop(go_on);
    assert!(stream.frame().expect("a line").contains("two"), "the stream goes on");
    program.signal("TERM");
    let (code, log) = program.end();
    assert_eq!(code, Some(0));
    assert_eq!(log.matches("listening on").count(), 1, "{log}");
    assert!(!log.contains("cannot be read or dropped") && !log.contains("ERROR"), "{log}");
}

#[test]
fn a_body_of_any_length_may_break_off_while_it_is_passed_on() {
    // The scripted upstream would hold it.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let base = format!("http://{}/v1", listener.local_addr().expect("bound"));
    let proxy = Proxy::at(&base, is_ollama);
    for _ in 0..2 {
        let mut client = proxy.client();
        let head = format!("POST /api/blobs/{DIGEST} HTTP/1.1\r\nHost: localhost\r\n");
        client.send(format!("{head}Content-Length: {PETABYTE}\r\n\r\n{}", "x".repeat(50_000)));
        let (mut upstream, _) = listener.accept().expect("the proxy connects");
        let reader = std::thread::spawn(move || {
            let mut received = Vec::new();
            let _ = upstream.read_to_end(&mut received);
            received.len()
        });
        client.stream().shutdown(Shutdown::Write).expect("it is open");
        assert_eq!(client.answer().status(), 400);
        assert!(reader.join().expect("no panic") > 50_000);
    }
    assert_eq!(proxy.fetch("/").status(), 200);
}

#[test]
fn a_claim_whose_client_left_in_the_queue_is_dropped_without_its_length() {
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
    second.send(format!("POST /api/chat HTTP/1.1\r\nContent-Length: {PETABYTE}\r\n\r\n{{"));
    while proxy.server.active_requests() < 2 {
        std::thread::yield_now();
    }
    socket2::SockRef::from(second.stream()).set_linger(Some(Duration::ZERO)).expect("a socket");
    drop(second);
    while proxy.server.counters().disconnects == 0 {
        std::thread::yield_now();
    }
    go_on.send(()).expect("the upstream waits");
    assert_eq!(first.answer().status(), 200);
    assert_eq!(proxy.fetch("/").status(), 200);
}

#[test]
fn a_request_behind_the_last_one_of_its_connection_delays_no_other() {
    let (upstream, proxy) = pair_with(|config| {
        patient(config);
        config.workers = 1;
    });
    let (go_on, told) = bounded(1);
    upstream.script(vec![Step::Wait(told), upstream::answer("first")]);
    let mut first = proxy.client();
    first.post("/api/chat", chat_whole("first"));
    upstream.request();
    // Its malformed request is the last one there, so the one behind it gets no response.
    let mut second = proxy.client();
    second.send("POST /api/chat HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n");
    second.send(format!("POST /api/chat HTTP/1.1\r\nContent-Length: {PETABYTE}\r\n\r\n{{"));
    for _ in 0..5 {
        assert_eq!(proxy.fetch("/").status(), 200);
    }
    go_on.send(()).expect("the upstream waits");
    assert_eq!(first.answer().status(), 200);
    assert_eq!(second.answer().status(), 400);
}

#[test]
fn a_request_of_http_2_ends_its_connection_and_costs_no_thread() {
    let upstream = Upstream::start();
    let mut program = Running::start(program().env("OPENAI_BASE_URL", upstream.base_url()));
    let before = resources(program.id());
    for _ in 0..10 {
        for text in [
            "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
            "GET / HTTP/3.0\r\nHost: localhost\r\n\r\n",
            "POST /api/chat HTTP/2.0\r\nContent-Length: 1125899906842624\r\n\r\n{",
            "POST /api/show HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n\
             2\r\n{}\r\n0\r\n\r\nGET / HTTP/2.0\r\n\r\n",
        ] {
            assert_eq!(refused(program.addr, text), "");
        }
        let mut client = Client::connect(program.addr);
        let answer = client
            .send("GET / HTTP/1.1\r\nVia: HTTP/2.0 proxy\r\nHost: localhost\r\n\r\n")
            .answer();
        assert_eq!(answer.body, "Ollama is running");
        for byte in b"GET / HTTP/2.0\r\n" {
            client.send([*byte]);
        }
        assert_eq!(client.rest(), "");
    }
    assert_given_back(program.id(), before);
    program.signal("TERM");
    assert_eq!(program.end().0, Some(0));
}

#[test]
fn a_body_that_speaks_of_http_2_is_a_body() {
    let (_upstream, proxy) = pair();
    let body = r#"{"model":"none","system":"what is HTTP/2.0 for"}"#;
    let mut client = proxy.client();
    for pieces in [1, 5] {
        client.send(format!(
            "POST /api/show HTTP/1.1\r\nHost: localhost\r\nContent-Length: {}\r\n\r\n",
            body.len()
        ));
        for piece in body.as_bytes().chunks(body.len() / pieces) {
            client.send(piece);
        }
        assert_eq!(client.answer().status(), 404);
    }
}

#[test]
fn a_request_that_nobody_answers_is_answered_500() {
    let server = tiny_http::Server::http("127.0.0.1:0").expect("a free port");
    let addr = server.server_addr().to_ip().expect("an address");
    for body in
        ["Content-Length: 2\r\n\r\n{}".to_owned(), format!("Content-Length: {PETABYTE}\r\n\r\n{{")]
    {
        let mut client = Client::connect(addr);
        client.send(format!("POST / HTTP/1.1\r\nHost: localhost\r\n{body}"));
        let request = server.recv().expect("a request");
        let reservation = MemoryBudget::new(1000).new_reservation();
        let (id, connection) = ("req_1".to_owned(), ConnectionHeader::default());
        drop(Exchange::new(request, id, ErrorFormat::Ollama, reservation, connection));
        assert_eq!(client.answer().status(), 500);
    }
}
