//! Candidates that are passed over first and asked after all, when no other one answers.

use ollama_openai_proxy::models::configured::Strategy;
use ollama_openai_proxy::upstream::breaker;
use std::time::Duration;

use super::strategies::halted;
use crate::support::fleet::{configured, fleet, says, server, several};
use crate::support::restarting::Restarting;
use crate::support::*;

const HOUR: Duration = Duration::from_secs(3600);
/// A probe has a time limit, which a busy machine may exceed.
const TRIES: usize = 100;

/// A proxy in front of `a` and `b`, whose circuits open at the first failure and stay so for an hour.
fn slow_to_recover(a: &str, b: &str) -> Proxy {
    several(vec![server("a", a), server("b", b)], |config| {
        config.models = vec![configured("mine", &["a/m", "b/m"], Strategy::Order)];
        config.retry.max_retries = 0;
        config.breaker = breaker::Settings {
            failure_threshold: 1,
            min_failure_span: Duration::ZERO,
            cooldown: HOUR,
            max_cooldown: HOUR,
            retry_cooldown: Duration::ZERO,
            ..breaker::Settings::default()
        };
    })
}

fn mine() -> String {
    chat_whole("Hi").replace("\"m\"", "\"mine\"")
}

fn is_answered_by_a(proxy: &Proxy) -> bool {
    (0..TRIES).any(|_| {
        let answer = proxy.ask("/api/chat", mine());
        answer.status() == 200 && answer.head.header("x-upstream") == Some("a")
    })
}

#[test]
fn an_upstream_that_is_back_is_asked_when_the_others_fail_although_its_circuit_is_open() {
    let (a, b) = (Restarting::down(), Upstream::start());
    b.judge(|request| Some(says("b", request)));
    let proxy = slow_to_recover(&a.base_url(), &b.base_url());
    assert_eq!(proxy.ask("/api/chat", mine()).head.header("x-upstream"), Some("b"));
    a.start();
    assert_eq!(proxy.ask("/api/chat", mine()).head.header("x-upstream"), Some("b"), "a is out");
    // A response, so the circuit of `b` stays closed.
    b.judge(|_| Some(vec![status(503, &[], "{}")]));
    assert!(is_answered_by_a(&proxy));
}

#[test]
fn an_upstream_that_is_back_is_asked_when_all_circuits_are_open() {
    let (a, b) = (Restarting::down(), Restarting::down());
    let proxy = slow_to_recover(&a.base_url(), &b.base_url());
    assert_eq!(proxy.ask("/api/chat", mine()).status(), 502);
    assert_eq!(proxy.ask("/api/chat", mine()).status(), 503, "both are out");
    a.start();
    assert!(is_answered_by_a(&proxy));
}

#[test]
fn a_request_waits_its_turn_at_a_full_upstream_when_the_others_fail() {
    let lists: [&[&str]; 2] = [&["m"], &["m"]];
    let fleet = fleet(&lists, |config| {
        config.upstreams[0].max_parallel = 1;
        config.retry.max_retries = 0;
        config.models = vec![configured("mine", &["a/m", "b/m"], Strategy::Order)];
    });
    let (mut first, go_on) = halted(&fleet, 0);
    fleet.upstreams[1].judge(|_| Some(vec![status(503, &[], "{}")]));
    let mut waiting = fleet.proxy.client();
    waiting.post("/api/chat", mine());
    fleet.upstreams[1].request();
    drop(go_on);
    first.rest_of_stream();
    assert_eq!(waiting.answer().json()["message"]["content"], "a");
}

#[test]
fn a_request_that_fails_where_it_waited_goes_on_to_the_next_full_upstream() {
    let lists: [&[&str]; 2] = [&["m"], &["m"]];
    let fleet = fleet(&lists, |config| {
        config.upstreams[0].max_parallel = 1;
        config.upstreams[1].max_parallel = 1;
        config.retry.max_retries = 0;
        config.models = vec![configured("mine", &["a/m", "b/m"], Strategy::Order)];
    });
    let (mut first, first_goes_on) = halted(&fleet, 0);
    let (mut second, second_goes_on) = halted(&fleet, 1);
    fleet.asked();
    fleet.upstreams[0].judge(|_| Some(vec![status(503, &[], "{}")]));
    let mut waiting = fleet.proxy.client();
    waiting.post("/api/chat", mine());
    // It has arrived, and no upstream is asked.
    while fleet.proxy.server.active_requests() < 3 {}
    drop(first_goes_on);
    first.rest_of_stream();
    fleet.upstreams[0].request();
    drop(second_goes_on);
    second.rest_of_stream();
    assert_eq!(waiting.answer().json()["message"]["content"], "b");
}

#[test]
fn a_request_that_waits_for_a_full_upstream_goes_to_one_that_comes_back_meanwhile() {
    let (a, b) = (Restarting::down(), Upstream::start());
    let (_halted, told) = bounded::<()>(0);
    b.script(ended(vec![stream_head(), delta("one"), Step::Wait(told), delta("two")]));
    let proxy = several(vec![server("a", &a.base_url()), server("b", &b.base_url())], |config| {
        config.models = vec![configured("mine", &["a/m", "b/m"], Strategy::Order)];
        config.upstreams[1].max_parallel = 1;
        config.retry.max_retries = 0;
        config.breaker = breaker::Settings {
            failure_threshold: 1,
            min_failure_span: Duration::ZERO,
            cooldown: Duration::from_millis(10),
            max_cooldown: Duration::from_millis(20),
            ..breaker::Settings::default()
        };
    });
    let mut first = proxy.client();
    first.post("/api/chat", chat("Hi").replace("\"m\"", "\"mine\""));
    assert_eq!(first.head().header("x-upstream"), Some("b"));
    first.frame();
    let mut waiting = proxy.client();
    waiting.post("/api/chat", mine());
    while proxy.server.active_requests() < 2 {}
    a.start();
    let answer = waiting.answer();
    assert_eq!((answer.status(), answer.head.header("x-upstream")), (200, Some("a")));
}
