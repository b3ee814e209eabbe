//! An upstream that asks everybody to wait parks no more than half of the workers, and no request for ever.

use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, unbounded};
use ollama_openai_proxy::app::server::Server;
use ollama_openai_proxy::app::shutdown::Shutdown;
use ollama_openai_proxy::config::Config;
use ollama_openai_proxy::upstream::RetryEnv;

use crate::support::*;

/// A proxy whose requests sleep until the test lets them go on.
struct Sleepy {
    server: Server,
    stop: Shutdown,
    sleeps: Receiver<Duration>,
    wake: Option<Sender<()>>,
}

impl Sleepy {
    fn start(upstream: &Upstream, change: impl FnOnce(&mut Config)) -> Self {
        let (sender, sleeps) = unbounded();
        let (wake, woken) = bounded::<()>(0);
        let sleep = move |duration| {
            sender.send(duration).expect("the test listens");
            // The test wakes all of them by dropping its end.
            let _ = woken.recv();
            true
        };
        let pacing = RetryEnv { sleep: Box::new(sleep), jitter: Box::new(|| 0.0) };
        let (server, stop) = proxy::start(&upstream.base_url(), change, pacing);
        Self { server, stop, sleeps, wake: Some(wake) }
    }

    fn asking(&self, model: &str) -> Client {
        let mut client = Client::connect(self.server.local_addr());
        client.post("/v1/chat/completions", chat_of(model));
        client
    }

    fn wait_for_sleep(&self) -> Duration {
        self.sleeps.recv_timeout(HANG).expect("it sleeps")
    }
}

impl Drop for Sleepy {
    fn drop(&mut self) {
        self.wake = None;
        self.stop.trigger();
    }
}

fn chat_of(model: &str) -> String {
    json!({"model": model, "messages": [{"role": "user", "content": "Hi"}]}).to_string()
}

/// Answers `m`, and lets each first request for any other model wait.
fn letting_wait(delay: &'static str) -> Upstream {
    let upstream = Upstream::start();
    let limited = r#"{"error":{"message":"slow down","type":"rate_limit_error"}}"#;
    upstream.judge(move |request| {
        let is_limited = request.json()["model"] == "limited";
        Some(vec![if is_limited {
            status(429, &[("Retry-After", delay)], limited)
        } else {
            answer("ok")
        }])
    });
    upstream
}

#[test]
fn an_upstream_that_says_120_to_everybody_parks_half_of_the_workers_and_others_are_served() {
    let upstream = letting_wait("120");
    let mut proxy = Sleepy::start(&upstream, |config| {
        config.workers = 4;
        config.max_queue = 16;
    });
    let mut waiting = Vec::new();
    for _ in 0..2 {
        waiting.push(proxy.asking("limited"));
        assert_eq!(proxy.wait_for_sleep(), Duration::from_secs(120));
    }
    for _ in 0..6 {
        let refused = proxy.asking("limited").answer();
        assert_eq!(refused.status(), 429, "{}", refused.body);
        assert_eq!(refused.head.header("retry-after"), Some("120"), "the client waits instead");
        assert!(refused.body.contains("slow down"), "{}", refused.body);
    }
    assert!(proxy.sleeps.is_empty());
    // All four workers are there for the others.
    let mut others: Vec<_> = (0..4).map(|_| proxy.asking("m")).collect();
    others.iter_mut().for_each(|client| assert_eq!(client.answer().status(), 200));
    upstream.judge(|_| Some(vec![answer("at last")]));
    proxy.wake = None;
    for client in &mut waiting {
        let answer = client.answer();
        assert!(answer.status() == 200 && answer.body.contains("at last"), "{}", answer.body);
    }
}

#[test]
fn a_single_worker_serves_others_while_a_request_waits() {
    let upstream = letting_wait("60");
    let mut proxy = Sleepy::start(&upstream, |config| {
        config.workers = 1;
        config.max_queue = 4;
    });
    let mut waiting = proxy.asking("limited");
    proxy.wait_for_sleep();
    for _ in 0..3 {
        assert_eq!(proxy.asking("m").answer().status(), 200);
    }
    upstream.judge(|_| Some(vec![answer("ok")]));
    proxy.wake = None;
    assert_eq!(waiting.answer().status(), 200);
}

#[test]
fn a_request_waits_for_120_seconds_at_most_for_delays_that_are_asked_for() {
    for (delay, sleeps) in [("120", 1), ("61", 1), ("60", 2), ("7", 3), ("121", 0)] {
        let upstream = letting_wait(delay);
        let proxy = Proxy::start(&upstream);
        let answer = proxy.ask("/v1/chat/completions", chat_of("limited"));
        assert_eq!(answer.status(), 429);
        assert_eq!(answer.head.header("retry-after"), Some(delay));
        let slept: Vec<Duration> = proxy.sleeps.try_iter().collect();
        assert_eq!(slept.len(), sleeps, "{delay}: {slept:?}");
    }
}

#[test]
fn a_delay_of_any_size_is_told_as_a_day_at_most() {
    let upstream = letting_wait("1e300");
    let proxy = Proxy::start(&upstream);
    let body = chat_of("limited");
    let answer = proxy.ask("/api/chat", &body);
    assert_eq!((answer.status(), answer.head.header("retry-after")), (429, Some("86400")));
    assert!(proxy.sleeps.is_empty());
}
