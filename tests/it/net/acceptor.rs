//! The acceptor: bursts of connections, an accept thread that dies, and a stop.
//!
//! Deadlines only catch a hang: without the acceptor's nudges the connections in question would wait
//! until another one closes, which none does before the end of its test.
//! `cargo test --release --test it burst_figures -- --ignored --nocapture` measures.

#![allow(clippy::unwrap_used, reason = "a failed step of a test may panic")]
#![allow(clippy::print_stdout, reason = "figures are for reading")]

use crate::support::*;
use std::fs;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use ollama_openai_proxy::net::acceptor::{Acceptor, OnRequest};
use socket2::{Domain, Socket, Type};
use tiny_http::{Request, Response};

use crate::support::reserved::Reserved;

const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: test\r\n\r\n";
const LAST_REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n";

/// A listener whose backlog holds the largest burst: a full one costs the client a second.
fn listener(ip: Ipv4Addr) -> TcpListener {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::from((ip, 0)).into()).unwrap();
    socket.listen(1024).unwrap();
    socket.into()
}

/// An acceptor that answers every request from its receiver thread.
fn answering() -> Acceptor {
    Acceptor::start(listener(Ipv4Addr::LOCALHOST), Arc::new(answer)).unwrap()
}

fn answer(request: Request) {
    // The client of a finished test may be gone.
    let _ = request.respond(Response::from_string("pong"));
}

fn connect(addr: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect_timeout(&addr, HANG).unwrap();
    stream.set_read_timeout(Some(HANG)).unwrap();
    stream.set_nodelay(true).unwrap();
    stream
}

/// Reads one answer.
fn receive(mut stream: &TcpStream) -> io::Result<()> {
    let mut answer = Vec::new();
    let mut buffer = [0; 1024];
    while !answer.ends_with(b"\r\n\r\npong") {
        match stream.read(&mut buffer)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            len => answer.extend_from_slice(&buffer[..len]),
        }
    }
    assert!(answer.starts_with(b"HTTP/1.1 200 "), "{:?}", String::from_utf8_lossy(&answer));
    Ok(())
}

fn ask(mut stream: &TcpStream) -> io::Result<()> {
    stream.write_all(REQUEST)?;
    receive(stream)
}

/// Opens `count` connections that each send a request at once and stay open; returns the connections
/// and when each was opened.
fn burst(addr: SocketAddr, count: usize) -> Vec<(TcpStream, Instant)> {
    let open = |_| {
        let opened = Instant::now();
        let mut stream = connect(addr);
        stream.write_all(REQUEST).unwrap();
        (stream, opened)
    };
    (0..count).map(open).collect()
}

/// Asserts that all of a burst are answered while all stay open; returns the longest wait.
fn longest_wait(connections: &[(TcpStream, Instant)]) -> Duration {
    let wait = |(index, (stream, opened)): (usize, &(TcpStream, Instant))| {
        receive(stream).unwrap_or_else(|error| panic!("connection {index}: {error}"));
        opened.elapsed()
    };
    connections.iter().enumerate().map(wait).max().unwrap()
}

fn check_burst(ip: Ipv4Addr, count: usize) {
    let acceptor = Acceptor::start(listener(ip), Arc::new(answer)).unwrap();
    let addr = SocketAddr::from((Ipv4Addr::LOCALHOST, acceptor.local_addr().port()));
    for _ in 0..3 {
        come_to_rest();
        longest_wait(&burst(addr, count));
    }
}

/// Lets pool threads become idle: tiny_http counts threads that start or work as not idle, and its
/// defect shows less.
fn come_to_rest() {
    thread::sleep(Duration::from_millis(100));
}

#[test]
fn a_burst_of_6_is_answered_while_all_stay_open() {
    check_burst(Ipv4Addr::LOCALHOST, 6);
}

#[test]
fn a_burst_of_64_is_answered_while_all_stay_open() {
    check_burst(Ipv4Addr::LOCALHOST, 64);
}

#[test]
fn a_burst_of_200_is_answered_while_all_stay_open() {
    let _crowd = crowd();
    check_burst(Ipv4Addr::LOCALHOST, 200);
}

#[test]
fn a_burst_on_an_unspecified_address_is_answered() {
    check_burst(Ipv4Addr::UNSPECIFIED, 20);
}

/// A folder in the place of `/proc`, with these files; removed at the end.
struct FakeProc(PathBuf);

impl FakeProc {
    fn new(name: &str, files: &[(&str, &str)]) -> Self {
        let root = std::env::temp_dir().join(format!("acceptor-{name}-{}", std::process::id()));
        for (file, text) in files {
            let path = root.join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        Self(root)
    }
}

impl Drop for FakeProc {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[test]
fn bursts_are_answered_whatever_proc_says_or_does_not() {
    let constant = ("loadavg", "0.00 0.00 0.00 1/100 4242\n");
    for (name, files) in [
        ("absent", &[][..]),
        ("constant", &[constant]),
        ("bare-threads", &[constant, ("self/task/1/x", ""), ("self/task/2/x", "")]),
        ("nonsense", &[("loadavg", "?"), ("self/task", "")]),
    ] {
        let root = FakeProc::new(name, files);
        let listener = listener(Ipv4Addr::LOCALHOST);
        let acceptor = Acceptor::start_with_proc(listener, Arc::new(answer), &root.0).unwrap();
        for count in [6, 6, 20, 6] {
            come_to_rest();
            longest_wait(&burst(acceptor.local_addr(), count));
        }
    }
}

#[test]
fn bursts_are_answered_while_a_faked_load_changes() {
    let root = FakeProc::new("cached", &[("loadavg", "0.00 0.00 0.00 1/100 4242\n")]);
    let listener = listener(Ipv4Addr::LOCALHOST);
    let acceptor = Acceptor::start_with_proc(listener, Arc::new(answer), &root.0).unwrap();
    for number in 0..5 {
        fs::write(root.0.join("loadavg"), format!("0.00 0.00 0.00 1/100 {number}\n")).unwrap();
        come_to_rest();
        longest_wait(&burst(acceptor.local_addr(), 6));
    }
}

#[test]
fn bursts_on_top_of_bursts_are_answered() {
    let _crowd = crowd();
    let acceptor = answering();
    let mut open = Vec::new();
    for count in [6, 7, 8, 9, 10, 20, 40] {
        let connections = burst(acceptor.local_addr(), count);
        longest_wait(&connections);
        open.extend(connections);
        // Close half of them, so that the next burst finds idle threads.
        open.truncate(open.len() / 2);
    }
}

#[test]
fn silent_connections_do_not_hold_up_those_behind_them() {
    let _crowd = crowd();
    let acceptor = answering();
    for count in [5, 20, 50] {
        let silent: Vec<_> = (0..count).map(|_| connect(acceptor.local_addr())).collect();
        // The last ones are those that tiny_http would have left waiting.
        for (index, stream) in silent.iter().enumerate().rev() {
            ask(stream).unwrap_or_else(|error| panic!("{index} of {count}: {error}"));
        }
    }
}

#[test]
fn a_burst_after_a_long_pause_is_answered() {
    let acceptor = answering();
    longest_wait(&burst(acceptor.local_addr(), 20));
    // All idle threads of the pool but four end after five seconds, which this pause waits for.
    thread::sleep(Duration::from_millis(5500));
    longest_wait(&burst(acceptor.local_addr(), 20));
}

#[test]
fn a_burst_amid_connections_that_come_and_go_is_answered() {
    let _crowd = crowd();
    let acceptor = answering();
    let addr = acceptor.local_addr();
    let (stop, stopped) = mpsc::channel::<()>();
    let churn = thread::spawn(move || {
        while stopped.try_recv() == Err(mpsc::TryRecvError::Empty) {
            let mut stream = connect(addr);
            stream.write_all(LAST_REQUEST).unwrap();
            receive(&stream).unwrap();
        }
    });
    let open: Vec<_> = (0..10).map(|_| burst(addr, 8)).collect();
    for connections in &open {
        longest_wait(connections);
    }
    drop(stop);
    churn.join().unwrap();
}

#[test]
fn a_delivery_that_panics_costs_its_request_only() {
    let deliver: OnRequest = Arc::new(|request| {
        assert_ne!(request.url(), "/panic", "this panic is part of the test");
        answer(request);
    });
    let acceptor = Acceptor::start(listener(Ipv4Addr::LOCALHOST), deliver).unwrap();
    let mut stream = connect(acceptor.local_addr());
    stream.write_all(b"GET /panic HTTP/1.0\r\n\r\n").unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    assert!(text.contains(" 500 "), "{text:?}");
    ask(&connect(acceptor.local_addr())).unwrap();
}

#[test]
fn a_stop_refuses_new_connections_and_lets_a_live_one_finish() {
    let (sender, requests) = mpsc::channel();
    let deliver: OnRequest = Arc::new(move |request| drop(sender.send(request)));
    let acceptor = Acceptor::start(listener(Ipv4Addr::LOCALHOST), deliver).unwrap();
    let addr = acceptor.local_addr();
    let mut live = connect(addr);
    live.write_all(REQUEST).unwrap();
    let request = requests.recv_timeout(HANG).unwrap();
    acceptor.stop();
    acceptor.stop();
    let refused = TcpStream::connect_timeout(&addr, HANG).unwrap_err();
    assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
    drop(acceptor);
    answer(request);
    receive(&live).unwrap();
    // The receivers have ended, and with them the only sender.
    assert_eq!(requests.recv_timeout(HANG).map(drop), Err(mpsc::RecvTimeoutError::Disconnected));
}

#[test]
fn a_dropped_acceptor_frees_its_port() {
    let reserved = Reserved::new();
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.set_reuse_address(true).unwrap();
    socket.bind(&reserved.addr().into()).unwrap();
    socket.listen(16).unwrap();
    let acceptor = Acceptor::start(socket.into(), Arc::new(answer)).unwrap();
    let addr = acceptor.local_addr();
    assert_eq!(addr, reserved.addr());
    drop(acceptor);
    let deadline = Instant::now() + HANG;
    // The accept thread closes its duplicate of the socket a moment later.
    while let Err(error) = TcpListener::bind(addr) {
        assert!(Instant::now() < deadline, "{error}");
        thread::yield_now();
    }
}

/// How many connections of a burst tiny_http alone leaves unanswered, and how long they wait here.
#[test]
#[ignore = "measures, for quoting; run it alone and in release mode"]
fn burst_figures() {
    const ROUNDS: usize = 20;
    println!("connections  unanswered by tiny_http alone  longest wait with the acceptor");
    for count in [6, 8, 16, 32, 64, 200] {
        let unanswered = (0..3).map(|_| unanswered_by_tiny_http(count)).max().unwrap();
        let acceptor = answering();
        let round = |_| longest_wait(&burst(acceptor.local_addr(), count));
        let mut waits: Vec<_> = (0..ROUNDS).map(round).collect();
        waits.sort();
        let (median, worst) = (waits[ROUNDS / 2], waits[ROUNDS - 1]);
        println!("{count:11}  {unanswered:29}  {worst:.1?} (median of {ROUNDS}: {median:.1?})");
    }
    let acceptor = answering();
    let silent = |_| {
        let opened = Instant::now();
        let silent: Vec<_> = (0..20).map(|_| connect(acceptor.local_addr())).collect();
        ask(&silent[19]).unwrap();
        opened.elapsed()
    };
    let worst = (0..ROUNDS).map(silent).max().unwrap();
    println!("the last of 20 that were opened silently: {worst:.1?}");
}

/// How many of a burst get no answer within a second from tiny_http alone.
fn unanswered_by_tiny_http(count: usize) -> usize {
    let server =
        Arc::new(tiny_http::Server::from_listener(listener(Ipv4Addr::LOCALHOST), None).unwrap());
    let addr = server.server_addr().to_ip().unwrap();
    let receiver = thread::spawn({
        let server = Arc::clone(&server);
        move || server.incoming_requests().for_each(answer)
    });
    come_to_rest();
    let connections = burst(addr, count);
    thread::sleep(Duration::from_secs(1));
    let unanswered = |(stream, _): &&(TcpStream, Instant)| {
        stream.set_nonblocking(true).unwrap();
        receive(stream).is_err()
    };
    let unanswered = connections.iter().filter(unanswered).count();
    server.unblock();
    receiver.join().unwrap();
    unanswered
}

#[cfg(target_os = "linux")]
mod death {
    //! What happens when descriptors run out. Each case runs in a process of its own, started by
    //! [`in_a_small_process`], with a limit of 40 descriptors.

    use std::iter;
    use std::net::UdpSocket;
    use std::process::Command;
    use std::sync::Mutex;

    use super::*;

    static WARNINGS: Mutex<Vec<String>> = Mutex::new(Vec::new());

    struct Warnings;

    impl log::Log for Warnings {
        fn enabled(&self, _: &log::Metadata<'_>) -> bool {
            true
        }

        fn log(&self, record: &log::Record<'_>) {
            if record.level() <= log::Level::Warn && record.target().contains("acceptor") {
                WARNINGS.lock().unwrap().push(record.args().to_string());
            }
        }

        fn flush(&self) {}
    }

    fn collect_warnings() {
        log::set_logger(&Warnings).unwrap();
        log::set_max_level(log::LevelFilter::Warn);
    }

    fn deaths() -> usize {
        let died = |warning: &&String| warning.contains("accept thread stopped");
        WARNINGS.lock().unwrap().iter().filter(died).count()
    }

    fn in_a_small_process(test: &str) {
        let output = Command::new("sh")
            .args(["-c", r#"ulimit -n 40; exec "$0" --exact "$1" --ignored --nocapture"#])
            .arg(std::env::current_exe().unwrap())
            .arg(test)
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && text.contains("1 passed"), "{output:?}");
    }

    /// Leaves `spare` descriptors and connects, until one more accept thread has ended.
    fn starve(addr: SocketAddr, spare: usize) -> (Vec<UdpSocket>, Vec<TcpStream>) {
        let (before, deadline) = (deaths(), Instant::now() + HANG);
        let (mut fill, mut open) = (Vec::new(), Vec::new());
        while deaths() == before {
            assert!(Instant::now() < deadline, "the accept thread did not die");
            fill.extend(iter::from_fn(|| UdpSocket::bind("127.0.0.1:0").ok()));
            fill.truncate(fill.len().saturating_sub(spare));
            open.extend(TcpStream::connect_timeout(&addr, HANG));
            thread::sleep(Duration::from_millis(10));
        }
        (fill, open)
    }

    /// Sends requests on new connections until one is answered.
    fn answered_again(addr: SocketAddr) {
        let deadline = Instant::now() + HANG;
        while let Err(error) = ask(&connect(addr)) {
            assert!(Instant::now() < deadline, "{error}, {:?}", WARNINGS.lock().unwrap());
        }
    }

    #[test]
    fn an_accept_thread_that_died_is_replaced_and_live_connections_stay() {
        // The module path without the crate.
        let (_, here) = module_path!().split_once("::").unwrap();
        in_a_small_process(&format!("{here}::child_runs_out_of_descriptors"));
    }

    #[test]
    #[ignore = "runs in a process of its own"]
    fn child_runs_out_of_descriptors() {
        collect_warnings();
        let acceptor = answering();
        let addr = acceptor.local_addr();
        let live = connect(addr);
        ask(&live).unwrap();
        // A sleeping accept has its descriptor already. With one more, the test's end of the connection
        // takes it and tiny_http's duplication of the socket panics; with two, its next accept fails.
        for spare in [1, 2] {
            let starving = starve(addr, spare);
            ask(&live).unwrap();
            drop(starving);
            answered_again(addr);
            ask(&live).unwrap();
        }
        longest_wait(&burst(addr, 6));
        ask(&live).unwrap();
    }
}
