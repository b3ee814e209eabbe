//! Upstream failures: each request ends in time with the right error, and every worker becomes free
//! again.

use crate::support::*;
use std::io::Write;
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use crate::support::restarting::Restarting;
use ollama_openai_proxy::upstream::RetryEnv;
use ollama_openai_proxy::upstream::breaker;

const MS: fn(u64) -> Duration = Duration::from_millis;

/// How long an upstream may be silent here.
const TIMEOUT: Duration = Duration::from_millis(500);

/// Two workers, no retries, and no circuit that opens.
fn patient() -> (Upstream, Proxy) {
    pair_with(|config| {
        config.workers = 2;
        config.retry.max_retries = 0;
        config.request_timeout = TIMEOUT;
        config.breaker.failure_threshold = u32::MAX;
    })
}

/// Asserts that both workers serve at the same time.
fn both_serve(upstream: &Upstream, proxy: &Proxy) {
    let (go_on, told) = bounded::<()>(0);
    let mut clients: Vec<_> = (0..2).map(|_| proxy.client()).collect();
    for _ in 0..2 {
        // Comments, as the second request may take longer than the timeout on a busy machine.
        let comment = b"8\r\n: wait\n\n\r\n".to_vec();
        let wait = Step::WaitAlive(comment, MS(20), told.clone());
        upstream.script(ended(vec![stream_head(), wait, delta("ok")]));
    }
    for client in &mut clients {
        client.post("/api/chat", chat_whole("Hi"));
    }
    (0..2).for_each(|_| drop(upstream.request()));
    drop(go_on);
    for client in &mut clients {
        assert_eq!(client.answer().json()["message"]["content"], "ok");
    }
}

/// Asserts the error of a whole and of a streamed response, and that the workers become free.
fn check(name: &str, steps: fn() -> Vec<Step>, status: u16, error: &str) {
    let (upstream, proxy) = patient();
    for body in [chat_whole("Hi"), chat("Hi")] {
        for _ in 0..3 {
            upstream.script(steps());
            let answer = proxy.ask("/api/chat", &body);
            assert_eq!((answer.status(), answer.error().as_str()), (status, error), "{name}");
            upstream.request();
        }
    }
    assert!(upstream.is_idle(), "{name}");
    both_serve(&upstream, &proxy);
}

fn never() -> Step {
    let (sender, receiver) = bounded(0);
    // The sender must outlive the test.
    std::mem::forget(sender);
    Step::Wait(receiver)
}

fn head(text: &str) -> Step {
    Step::Send(text.as_bytes().to_vec())
}

#[test]
fn a_head_that_never_comes() {
    let closed = "the upstream closed the connection without a response; does it want https://?";
    let late = "no response from the upstream within REQUEST_TIMEOUT";
    check("closed", || vec![Step::Close], 502, closed);
    check("reset", || vec![Step::Reset], 502, closed);
    check("closed in the head", || vec![head("HTTP/1.1 200 OK\r\nCont"), Step::Close], 502, closed);
    check("reset in the head", || vec![head("HTTP/1.1 200 OK\r\nCont"), Step::Reset], 502, closed);
    check("black hole", || vec![never()], 504, late);
    let drip = || vec![head("HTTP/1.1 200 OK\r\nX: "), Step::Drip(b"x".to_vec(), MS(20))];
    check("a byte at a time", drip, 504, late);
    let not_http = "invalid response from the upstream: not an HTTP response (does this port expect https://?)";
    check("not HTTP", || vec![head("SSH-2.0-OpenSSH\r\n\r\n"), Step::Close], 502, not_http);
}

#[test]
fn a_whole_body_that_does_not_end() {
    const HEAD: &str =
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 100000\r\n\r\n{";
    let late = "the upstream sent nothing for REQUEST_TIMEOUT in the middle of its response";
    check("closed", || vec![head(HEAD), Step::Close], 502, CUT_SHORT);
    check("reset", || vec![head(HEAD), Step::Reset], 502, CUT_SHORT);
    check("silent", || vec![head(HEAD), never()], 504, late);
    check("a blank at a time", || vec![head(HEAD), Step::Drip(b" ".to_vec(), MS(20))], 504, late);
}

#[test]
fn the_body_of_an_error_that_does_not_end_costs_only_its_text() {
    let (upstream, proxy) = patient();
    let text =
        "HTTP/1.1 400 X\r\nContent-Type: text/plain\r\nContent-Length: 9999\r\n\r\nno such thing";
    upstream.script(vec![head(text), Step::Close]);
    proxy.ask("/api/chat", chat("Hi")).assert_error(400, "no such thing");
}

#[test]
fn what_is_passed_on_must_end_in_time_too() {
    let (upstream, proxy) = patient();
    let whole =
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n\r\n{";
    upstream.script(vec![head(whole), Step::Drip(b" ".to_vec(), MS(20))]);
    let late = "the upstream sent nothing for REQUEST_TIMEOUT in the middle of its response";
    let answer = proxy.ask("/v1/chat/completions", chat_whole("Hi"));
    assert_eq!((answer.status(), &answer.json()["error"]["message"]), (504, &late.into()));
    upstream.request();
    // A line that has begun, and goes on for ever.
    upstream.script(vec![
        stream_head(),
        delta("a"),
        frame("data: "),
        Step::Drip(b"1\r\nx\r\n".to_vec(), MS(20)),
    ]);
    let answer = proxy.ask("/v1/chat/completions", chat("Hi"));
    assert!(answer.body.contains(late) && !answer.body.contains("[DONE]"), "{}", answer.body);
    upstream.request();
    // Without events, nothing but the end of the connection can tell.
    let long =
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 1000000\r\n\r\n{";
    upstream.script(vec![head(long), Step::Drip(b" ".to_vec(), MS(20))]);
    let mut client = proxy.client();
    assert_eq!(client.post("/v1/chat/completions", chat_whole("Hi")).head().status, 200);
    // What is no frame makes a client's reader fail at once.
    assert!(std::iter::from_fn(|| client.line()).any(|line| line == CUT_SHORT));
    upstream.request();
    both_serve(&upstream, &proxy);
}

#[test]
fn a_stream_that_breaks_off_or_goes_silent_is_told_in_its_last_line() {
    let check = |name: &str, end: Vec<Step>, error: &str| {
        let (upstream, proxy) = patient();
        let steps = [stream_head(), delta("one")].into_iter().chain(end).collect();
        upstream.script(steps);
        let answer = proxy.ask("/api/chat", chat("Hi"));
        let lines = answer.lines();
        assert_eq!((answer.status(), lines.len()), (200, 2), "{name}");
        assert_eq!(lines[0]["message"]["content"], "one", "{name}");
        assert_eq!(lines[1], serde_json::json!({"error": error}), "{name}");
        upstream.request();
        both_serve(&upstream, &proxy);
    };
    let late = "the upstream sent nothing for REQUEST_TIMEOUT in the middle of its response";
    check("closed", vec![Step::Close], CUT_SHORT);
    check("reset", vec![Step::Reset], CUT_SHORT);
    check("ended without a terminal event", vec![upstream::last_frame()], CUT_SHORT);
    check("silent", vec![never()], late);
    let begun = frame("data: {\"choices\"");
    check("a byte at a time", vec![begun, Step::Drip(b"1\r\nx\r\n".to_vec(), MS(20))], late);
    let line = b"8\r\ndata: x\n\r\n".to_vec();
    check("lines without the blank one", vec![Step::Drip(line, MS(20))], late);
}

#[test]
fn comments_alone_keep_a_stream_alive() {
    let (upstream, proxy) = pair_with(|config| config.request_timeout = MS(2000));
    let mut steps = vec![stream_head()];
    // Longer in all than the deadline; each pause is far shorter, for a machine that is busy.
    for _ in 0..15 {
        steps.push(frame(": still here\n\n"));
        steps.push(Step::Pause(MS(150)));
    }
    steps.extend(upstream::stream(&["at last"]).into_iter().skip(1));
    upstream.script(steps);
    let lines = proxy.ask("/api/chat", chat("Hi")).lines();
    assert_eq!((lines.len(), &lines[0]["message"]["content"]), (2, &"at last".into()));
}

#[test]
fn a_refused_connection_costs_no_worker() {
    let upstream = Restarting::down();
    let proxy = Proxy::at(&upstream.base_url(), |config| {
        config.workers = 2;
        config.retry.max_retries = 0;
        config.breaker.failure_threshold = u32::MAX;
    });
    for _ in 0..6 {
        let answer = proxy.ask("/api/chat", chat("Hi"));
        let error = "cannot reach the upstream: connection refused";
        answer.assert_error(502, error);
    }
    upstream.start();
    let answer = proxy.ask("/api/chat", chat_whole("Hi"));
    assert_eq!(answer.json()["message"]["content"], "ok");
}

#[test]
fn an_upstream_that_does_not_speak_tls_is_told() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let base = format!("https://{}/v1", listener.local_addr().expect("bound"));
    std::thread::spawn(move || {
        for (number, stream) in listener.incoming().map_while(Result::ok).enumerate() {
            if number % 2 == 0 {
                let _ = (&stream).write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n");
            }
        }
    });
    let proxy = Proxy::at(&base, |config| config.retry.max_retries = 0);
    let closed =
        "cannot reach the upstream: the server closed the connection during the TLS handshake";
    for told in ["cannot reach the upstream: this server does not speak TLS", closed].repeat(2) {
        let answer = proxy.ask("/api/chat", chat("Hi"));
        assert_eq!(answer.status(), 502);
        let error = answer.error();
        assert!(error.starts_with(told), "{error}");
    }
}

/// How the connections of requests go: by the numbers of the connections that each took.
fn asked(upstream: &Upstream) -> Vec<usize> {
    let mut connections = Vec::new();
    while !upstream.is_idle() {
        connections.push(upstream.request().connection);
    }
    connections
}

#[test]
fn a_kept_connection_that_was_closed_costs_nobody_anything() {
    for end in [Step::Close, Step::Reset] {
        let (upstream, proxy) = patient();
        upstream.script(vec![answer("one")]).script(vec![end]).script(vec![answer("two")]);
        for text in ["one", "two"] {
            let answer = proxy.ask("/api/chat", chat_whole("Hi"));
            assert_eq!(answer.json()["message"]["content"], text);
        }
        assert_eq!(asked(&upstream), [0, 0, 1]);
        assert!(proxy.sleeps.is_empty());
    }
}

#[test]
fn only_once_and_only_on_a_connection_that_had_served() {
    let (upstream, proxy) = patient();
    upstream.script(vec![Step::Reset]).script(vec![answer("one")]);
    let ask = || proxy.ask("/api/chat", chat_whole("Hi"));
    assert_eq!(ask().status(), 502, "a new connection is not reused");
    assert_eq!(ask().status(), 200);
    upstream.script(vec![Step::Reset]).script(vec![Step::Reset]).script(vec![answer("never")]);
    assert_eq!(ask().status(), 502, "once is enough");
    assert_eq!(asked(&upstream), [0, 1, 1, 2]);
}

#[test]
fn what_else_is_kept_is_not_tried_either() {
    let (upstream, proxy) = patient();
    both_serve(&upstream, &proxy);
    upstream.script(vec![Step::Reset]).script(vec![answer("ok")]);
    assert_eq!(proxy.ask("/api/chat", chat_whole("Hi")).status(), 200);
    let connections = asked(&upstream);
    assert_eq!(connections.len(), 2);
    assert_eq!(connections[1], 2, "a new connection, not the other kept one");
}

#[test]
fn what_can_be_sent_only_once_goes_over_a_connection_of_its_own() {
    let (upstream, proxy) = patient();
    let large = chat_whole(&"x".repeat(1_500_000));
    for (path, body) in [
        ("/api/chat", chat_whole("Hi")),
        ("/v1/chat/completions", large),
        ("/api/chat", chat_whole("Hi")),
    ] {
        upstream.script(vec![answer("ok")]);
        assert_eq!(proxy.ask(path, body).status(), 200);
    }
    assert_eq!(asked(&upstream), [0, 1, 0]);
}

#[test]
fn a_lone_request_waits_for_an_upstream_that_restarts_also_while_others_are_turned_away() {
    // With each of its three retries the upstream may come back; and the circuit may have opened.
    for (back_at, threshold) in [(1, 1), (2, 1), (3, 1), (3, u32::MAX)] {
        let upstream = Arc::new(Restarting::down());
        let slept = AtomicUsize::new(0);
        let returning = upstream.clone();
        let sleep = move |_| {
            if slept.fetch_add(1, Ordering::SeqCst) + 1 == back_at {
                returning.start();
            }
            true
        };
        let pacing = RetryEnv { sleep: Box::new(sleep), jitter: Box::new(|| 0.0) };
        let change = |config: &mut ollama_openai_proxy::config::Config| {
            config.breaker = breaker::Settings {
                failure_threshold: threshold,
                min_failure_span: Duration::ZERO,
                cooldown: Duration::from_secs(3600),
                max_cooldown: Duration::from_secs(3600),
                retry_cooldown: Duration::ZERO,
                ..breaker::Settings::default()
            };
        };
        let (server, _stop) = proxy::start(&upstream.base_url(), change, pacing);
        let mut client = Client::connect(server.local_addr());
        let answer = client.post("/api/chat", chat_whole("Hi")).answer();
        assert_eq!(answer.status(), 200, "{back_at}: {}", answer.body);
    }
}

#[test]
fn an_upstream_that_comes_and_goes_under_load_loses_no_worker() {
    let upstream = Restarting::down();
    let pacing = RetryEnv { sleep: Box::new(|_| true), jitter: Box::new(|| 0.0) };
    let change = |config: &mut ollama_openai_proxy::config::Config| config.workers = 4;
    let (server, _stop) = proxy::start(&upstream.base_url(), change, pacing);
    let addr = server.local_addr();
    let done = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                for _ in 0..40 {
                    let answer = Client::connect(addr).post("/api/chat", chat_whole("Hi")).answer();
                    let text = &answer.body;
                    assert!(matches!(answer.status(), 200 | 502 | 503), "{text}");
                    assert_eq!(text.contains("\"done\":true"), answer.status() == 200, "{text}");
                    done.fetch_add(1, Ordering::SeqCst);
                }
            });
        }
        let mut running = false;
        while done.load(Ordering::SeqCst) < 320 {
            if running {
                upstream.stop()
            } else {
                upstream.start()
            }
            running = !running;
            std::thread::sleep(MS(10));
        }
        if !running {
            upstream.start();
        }
    });
    // A check is never turned away, and closes the circuit if it was open.
    assert_eq!(Client::connect(addr).get("/openai/health").answer().status(), 200);
    let mut clients: Vec<_> = (0..4).map(|_| Client::connect(addr)).collect();
    for client in &mut clients {
        client.post("/api/chat", chat_whole("Hi"));
    }
    for client in &mut clients {
        assert_eq!(client.answer().status(), 200);
    }
}
