//! Clients that reset connections: counted, and no panic in the log.

use std::io::Write;
use std::net::TcpStream;
use std::time::{Duration, Instant};

use socket2::SockRef;

use crate::support::program::{Running, program};
use crate::support::*;

/// Connections that the program has counted as reset.
fn counted(program: &Running) -> u64 {
    let metrics = Client::connect(program.addr).get("/metrics").answer().body;
    let line =
        metrics.lines().find(|line| line.starts_with("ollama_proxy_connections_reset_total "));
    let count = line.and_then(|line| line.rsplit(' ').next());
    count.and_then(|count| count.parse().ok()).expect("a counter")
}

/// Sends a request and resets the connection at once.
fn reset(program: &Running) {
    let mut stream = TcpStream::connect(program.addr).expect("it listens");
    SockRef::from(&stream).set_linger(Some(Duration::ZERO)).expect("a socket");
    stream.write_all(b"GET /api/version HTTP/1.1\r\nHost: localhost\r\n\r\n").expect("it is open");
}

#[test]
fn a_connection_that_is_reset_before_its_request_is_taken_is_no_error() {
    let upstream = Upstream::start();
    let mut program = Running::start(program().env("OPENAI_BASE_URL", upstream.base_url()));
    let files = |program: &Running| {
        let open = std::fs::read_dir(format!("/proc/{}/fd", program.id())).expect("it lives");
        open.count()
    };
    let before = files(&program);
    assert_eq!(counted(&program), 0);
    let deadline = Instant::now() + HANG;
    // Whether the reset comes before tiny_http asks for the address is a matter of chance.
    while counted(&program) < 3 {
        assert!(Instant::now() < deadline, "no reset was counted");
        (0..50).for_each(|_| reset(&program));
    }
    while files(&program) > before + 8 {
        assert!(Instant::now() < deadline, "descriptors stay open");
        std::thread::yield_now();
    }
    program.signal("TERM");
    let (code, log) = program.end();
    assert_eq!(code, Some(0));
    assert!(!log.contains("panicked") && !log.contains("ERROR"), "{log}");
}
