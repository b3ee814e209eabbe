//! The circuit breaker: when it opens, which requests it refuses, and what closes it. Tests set its
//! delays, so none waits.

use crate::support::*;
use std::time::Duration;

use crate::support::restarting::Restarting;
use crossbeam_channel::{bounded, unbounded};
use ollama_openai_proxy::config::Config;
use ollama_openai_proxy::upstream::RetryEnv;
use ollama_openai_proxy::upstream::breaker::Settings;

const HOUR: Duration = Duration::from_secs(3600);
const REFUSED: &str = "cannot reach the upstream: connection refused";

/// Opens after this many failures, for an hour; a retry may try at once.
fn opens_after(threshold: u32) -> impl Fn(&mut Config) {
    move |config| {
        config.breaker = Settings {
            failure_threshold: threshold,
            min_failure_span: Duration::ZERO,
            cooldown: HOUR,
            max_cooldown: HOUR,
            retry_cooldown: Duration::ZERO,
            ..Settings::default()
        };
    }
}

/// The same for a proxy that makes one attempt for each request.
fn asks_once(threshold: u32) -> impl Fn(&mut Config) {
    move |config| {
        opens_after(threshold)(config);
        config.retry.max_retries = 0;
    }
}

fn ask(proxy: &Proxy) -> Answer {
    proxy.ask("/api/chat", chat_whole("Hi"))
}

fn get(proxy: &Proxy, path: &str) -> (u16, Value) {
    let answer = proxy.fetch(path);
    (answer.status(), answer.json())
}

fn metric(proxy: &Proxy, line: &str) -> bool {
    proxy.fetch("/metrics").body.lines().any(|it| it == line)
}

#[test]
fn it_opens_after_failures_in_a_row_and_a_check_closes_it() {
    let upstream = Restarting::down();
    let proxy = Proxy::at(&upstream.base_url(), asks_once(3));
    for _ in 0..3 {
        ask(&proxy).assert_error(502, REFUSED);
    }
    let answer = ask(&proxy);
    let told = format!("{REFUSED} (upstream marked as down; next attempt in 3600 s)");
    answer.assert_error(503, &told);
    assert_eq!(answer.head.header("retry-after"), Some("3600"));
    let answer = proxy.ask("/v1/chat/completions", chat("Hi"));
    assert_eq!((answer.status(), answer.head.header("retry-after")), (503, Some("3600")));
    let (code, health) = get(&proxy, "/openai/health");
    assert_eq!((code, &health["circuit"]), (503, &"open".into()));
    assert_eq!(health["error"], REFUSED);
    let (code, ready) = get(&proxy, "/ready");
    assert_eq!((code, &ready["reason"]), (503, &"the upstream does not answer".into()));
    assert_eq!(get(&proxy, "/health").0, 200, "the process is alive");
    assert!(metric(&proxy, "ollama_proxy_circuit_state{upstream=\"default\",state=\"open\"} 1"));
    assert!(metric(&proxy, "ollama_proxy_circuit_refusals_total{upstream=\"default\"} 2"));
    assert!(metric(
        &proxy,
        "ollama_proxy_upstream_failures_total{upstream=\"default\",kind=\"connect\"} 4"
    ));
    upstream.start();
    assert_eq!(ask(&proxy).status(), 503, "no check has run yet");
    let (code, health) = get(&proxy, "/openai/health");
    assert_eq!((code, &health["circuit"]), (200, &"closed".into()));
    assert_eq!(get(&proxy, "/ready"), (200, serde_json::json!({"status": "ready"})));
    assert!(metric(&proxy, "ollama_proxy_circuit_state{upstream=\"default\",state=\"closed\"} 1"));
    assert_eq!(ask(&proxy).status(), 200);
}

#[test]
fn after_the_pause_the_next_request_finds_out() {
    let upstream = Restarting::down();
    let proxy = Proxy::at(&upstream.base_url(), |config| {
        asks_once(1)(config);
        config.breaker.cooldown = Duration::ZERO;
    });
    for _ in 0..3 {
        assert_eq!(ask(&proxy).status(), 502);
        assert!(metric(
            &proxy,
            "ollama_proxy_circuit_state{upstream=\"default\",state=\"half_open\"} 1"
        ));
        // A request must reach the proxy to close the circuit.
        assert_eq!(get(&proxy, "/ready").0, 200);
    }
    upstream.start();
    assert_eq!(ask(&proxy).status(), 200);
    assert!(metric(&proxy, "ollama_proxy_circuit_state{upstream=\"default\",state=\"closed\"} 1"));
}

#[test]
fn a_client_that_leaves_says_nothing_about_the_upstream() {
    let (upstream, proxy) = pair_with(|config| {
        asks_once(1)(config);
        config.breaker.cooldown = Duration::ZERO;
    });
    upstream.script(vec![Step::Close]);
    assert_eq!(ask(&proxy).status(), 502);
    let (_keep, never) = bounded(0);
    upstream.script(vec![Step::Wait(never)]);
    let mut client = proxy.client();
    client.post("/api/chat", chat_whole("Hi"));
    upstream.request();
    upstream.request();
    drop(client);
    while proxy.server.counters().disconnects == 0 || proxy.server.active_requests() > 0 {
        std::thread::yield_now();
    }
    let open = "ollama_proxy_circuit_state{upstream=\"default\",state=\"half_open\"} 1";
    assert!(metric(&proxy, open), "nothing has answered");
}

#[test]
fn whatever_has_a_status_is_an_answer_of_something_that_lives() {
    let loading = r#"{"error":{"code":503,"message":"Loading model","type":"unavailable_error"}}"#;
    let (upstream, proxy) = pair_with(asks_once(1));
    for code in [503, 429, 502, 504, 500] {
        upstream.script(vec![status(code, &[], loading)]);
        assert_eq!(ask(&proxy).status(), code);
    }
    // An answer that breaks off is one, too.
    upstream.script(vec![
        Step::Send(b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{".to_vec()),
        Step::Close,
    ]);
    assert_eq!(ask(&proxy).status(), 502);
    upstream.script(vec![answer("ok")]);
    assert_eq!(ask(&proxy).status(), 200);
}

#[test]
fn one_answer_forgets_the_failures_before_it() {
    let (upstream, proxy) = pair_with(asks_once(3));
    for _ in 0..4 {
        for _ in 0..2 {
            upstream.script(vec![Step::Close]);
            assert_eq!(ask(&proxy).status(), 502);
        }
        // On a connection that is closed afterwards, so that none is kept.
        upstream.script(vec![answer("ok"), Step::Close]);
        assert_eq!(ask(&proxy).status(), 200);
    }
}

#[test]
fn few_wait_and_the_others_are_told_at_once() {
    let upstream = Restarting::down();
    let (sleeping, sleeps) = unbounded();
    let (go_on, told) = bounded::<()>(0);
    let sleep = move |duration: Duration| {
        sleeping.send(duration).expect("the test listens");
        told.recv_timeout(HANG).is_ok()
    };
    let pacing = RetryEnv { sleep: Box::new(sleep), jitter: Box::new(|| 0.0) };
    let change = |config: &mut Config| {
        opens_after(1)(config);
        config.workers = 8;
    };
    let (server, _stop) = proxy::start(&upstream.base_url(), change, pacing);
    let mut first = Client::connect(server.local_addr());
    first.post("/api/chat", chat_whole("Hi"));
    assert_eq!(sleeps.recv_timeout(HANG), Ok(Duration::from_secs(1)), "it has the only retry slot");
    for _ in 0..20 {
        let answer =
            Client::connect(server.local_addr()).post("/api/chat", chat_whole("Hi")).answer();
        assert_eq!(answer.status(), 503);
    }
    assert!(sleeps.is_empty(), "no other request waits");
    go_on.send(()).expect("it sleeps");
    assert_eq!(sleeps.recv_timeout(HANG), Ok(Duration::from_secs(2)), "it has tried in vain");
    upstream.start();
    go_on.send(()).expect("it sleeps");
    assert_eq!(first.answer().status(), 200);
    let mut other = Client::connect(server.local_addr());
    assert_eq!(other.post("/api/chat", chat_whole("Hi")).answer().status(), 200);
}

#[test]
fn an_upload_that_cannot_be_repeated_is_turned_away_too() {
    let upstream = Restarting::down();
    let proxy = Proxy::at(&upstream.base_url(), asks_once(1));
    let large = chat_whole(&"x".repeat(1_500_000));
    for code in [502, 503] {
        let answer = proxy.ask("/v1/chat/completions", &large);
        assert_eq!(answer.status(), code, "{}", answer.body);
    }
}

#[test]
fn a_black_hole_holds_few_workers() {
    let (upstream, proxy) = pair_with(|config| {
        asks_once(2)(config);
        config.workers = 4;
        config.request_timeout = Duration::from_millis(100);
    });
    let (_keep, never) = bounded::<()>(0);
    for _ in 0..2 {
        upstream.script(vec![Step::Wait(never.clone())]);
        assert_eq!(ask(&proxy).status(), 504);
        upstream.request();
    }
    for _ in 0..20 {
        assert_eq!(ask(&proxy).status(), 503);
    }
    assert!(upstream.is_idle(), "the upstream is not asked any more");
}
