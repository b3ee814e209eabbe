//! Signals that end the program.

use crate::support::program::{Running, program};
use crate::support::*;

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
