//! Signals, and the restart after clients have used up memory that cannot be returned.

use crate::support::program::{Running, program};
use crate::support::reserved::Reserved;
use crate::support::*;
use std::io::{Read, Write};

#[test]
fn a_signal_lets_running_answers_finish_and_ends_well() {
    for signal in ["TERM", "INT"] {
        let upstream = Upstream::start();
        let (go_on, steps) = upstream::halting();
        upstream.script(steps);
        let mut program = Running::start(program().env("OPENAI_BASE_URL", upstream.base_url()));
        let mut client = Client::connect(program.addr);
        client.post("/api/chat", chat("Hi")).head();
        client.frame();
        program.signal(signal);
        while std::net::TcpStream::connect(program.addr).is_ok() {
            std::thread::yield_now();
        }
        drop(go_on);
        assert!(client.frame().expect("a line").contains("two"));
        assert!(client.frame().expect("a line").contains("\"done\":true"));
        assert_eq!(client.frame(), None);
        let (code, log) = program.end();
        assert_eq!(code, Some(0), "{log}");
    }
}

#[test]
fn a_second_signal_ends_at_once() {
    let upstream = Upstream::start();
    let (_go_on, told) = bounded(0);
    upstream.script(vec![stream_head(), delta("one"), Step::Wait(told)]);
    let mut program = Running::start(program().env("OPENAI_BASE_URL", upstream.base_url()));
    let mut client = Client::connect(program.addr);
    client.post("/api/chat", chat("Hi")).head();
    client.frame();
    program.signal("TERM");
    while std::net::TcpStream::connect(program.addr).is_ok() {
        std::thread::yield_now();
    }
    program.signal("TERM");
    let (code, log) = program.end();
    assert_eq!(code, Some(128 + 15), "{log}");
}

#[test]
fn what_clients_cost_for_good_is_had_back_by_beginning_anew() {
    let upstream = Upstream::start();
    let reserved = Reserved::new();
    let addr = reserved.addr();
    let mut command = program();
    command.env("OPENAI_BASE_URL", upstream.base_url()).env("OLLAMA_HOST", addr.to_string());
    command.env("SHUTDOWN_GRACE", "1");
    let mut program = Running::start(&mut command);
    // tiny_http would try to allocate these sizes.
    for _ in 0..256 {
        let mut client = Client::connect(addr);
        client.send("POST /api/chat HTTP/1.1\r\nContent-Length: 1000000000000000\r\n\r\n{");
        assert_eq!(client.answer().status(), 413);
    }
    let serves = || {
        let mut stream = std::net::TcpStream::connect(addr).ok()?;
        stream.write_all(b"GET / HTTP/1.0\r\nHost: localhost\r\n\r\n").ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        answer.ends_with("Ollama is running").then_some(())
    };
    let threads = || {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", program.id())).expect("it lives");
        tasks.count()
    };
    // The first process has more than 256 threads.
    let deadline = std::time::Instant::now() + crate::support::HANG;
    while threads() > 200 || serves().is_none() {
        assert!(std::time::Instant::now() < deadline, "it never begins anew");
        std::thread::yield_now();
    }
    program.signal("TERM");
    let (code, log) = program.end();
    assert_eq!(code, Some(0));
    assert_eq!(log.matches("listening on").count(), 2, "{log}");
}
