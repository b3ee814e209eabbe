//! Which of several upstreams gets a request: strategies, limits, and circuits.

use ollama_openai_proxy::models::configured::Strategy;
use ollama_openai_proxy::upstream::breaker;
use std::time::Duration;

use crate::support::fleet::{Fleet, configured, fleet, server, several};
use crate::support::restarting::Restarting;
use crate::support::*;

fn replicas(strategy: Strategy) -> Fleet {
    let lists: [&[&str]; 3] = [&["m"], &["m"], &["m"]];
    fleet(&lists, |config| {
        config.models = vec![configured("mine", &["a/m", "b/m", "c/m"], strategy)];
    })
}

/// A stream of `mine` that has begun and halts until the sender is dropped.
pub(super) fn halted(fleet: &Fleet, at: usize) -> (Client, crossbeam_channel::Sender<()>) {
    let (go_on, told) = bounded(0);
    fleet.upstreams[at].judge(move |_| {
        let steps = vec![stream_head(), delta("one"), Step::Wait(told.clone()), delta("two")];
        Some(upstream::ended(steps))
    });
    let mut client = fleet.proxy.client();
    client.post("/api/chat", chat("Hi").replace("\"m\"", "\"mine\""));
    client.head();
    client.frame();
    let name = ["a", "b", "c"][at].to_owned();
    fleet.upstreams[at].judge(move |request| Some(crate::support::fleet::says(&name, request)));
    (client, go_on)
}

#[test]
fn in_order_the_first_that_is_able_gets_all() {
    let fleet = replicas(Strategy::Order);
    for _ in 0..3 {
        assert_eq!(fleet.chat("mine"), "a");
    }
    assert_eq!(fleet.asked(), "aaa");
}

#[test]
fn the_least_busy_has_the_fewest_requests_in_flight() {
    let fleet = replicas(Strategy::LeastBusy);
    let (_first, first_goes_on) = halted(&fleet, 0);
    let (_second, _second_goes_on) = halted(&fleet, 1);
    assert_eq!(fleet.chat("mine"), "c");
    let (mut third, third_goes_on) = halted(&fleet, 2);
    drop(third_goes_on);
    third.rest_of_stream();
    assert_eq!(fleet.chat("mine"), "c", "it is free again");
    drop(first_goes_on);
}

#[test]
fn a_sticky_conversation_stays_at_its_replica() {
    let fleet = replicas(Strategy::Sticky);
    let turn = |first: &str, more: &[Value]| {
        let mut messages = vec![json!({"role": "user", "content": first})];
        messages.extend(more.iter().cloned());
        let body = json!({"model": "mine", "stream": false, "messages": messages});
        let answer = fleet.proxy.post("/v1/chat/completions", &body);
        answer.head.header("x-upstream").expect("an upstream").to_owned()
    };
    let mut used = std::collections::BTreeSet::new();
    for number in 0..24 {
        let first = format!("question {number}");
        let replica = turn(&first, &[]);
        let more =
            [json!({"role": "assistant", "content": "x"}), json!({"role": "user", "content": "y"})];
        assert_eq!(turn(&first, &more), replica, "{first}");
        used.insert(replica);
    }
    assert_eq!(used.len(), 3, "conversations spread");
}

#[test]
fn a_session_that_the_client_names_is_the_conversation() {
    let fleet = replicas(Strategy::Sticky);
    let body = |text: &str| json!({"model": "mine", "messages": [{"role": "user", "content": text}], "max_tokens": 9});
    let served = |path: &str, lines: &str, body: &Value| {
        let answer = fleet.proxy.client().with("POST", path, lines, body.to_string()).answer();
        answer.head.header("x-upstream").expect("an upstream").to_owned()
    };
    let mut used = std::collections::BTreeSet::new();
    for number in 0..12 {
        for header in ["X-Claude-Code-Session-Id", "session-id", "session_id"] {
            let lines = format!("{header}: session-{number}\r\n");
            let one = served("/v1/messages", &lines, &body("one"));
            assert_eq!(served("/v1/messages", &lines, &body("two")), one, "{header}");
            assert_eq!(served("/v1/chat/completions", &lines, &body("three")), one, "{header}");
            used.insert(one);
        }
        let mut keyed = body("one");
        keyed["prompt_cache_key"] = json!(format!("key-{number}"));
        let one = served("/v1/chat/completions", "", &keyed);
        keyed["messages"] = body("two")["messages"].clone();
        assert_eq!(served("/v1/chat/completions", "", &keyed), one);
    }
    assert_eq!(used.len(), 3);
}

#[test]
fn a_sticky_conversation_moves_only_while_its_replica_is_out() {
    let fleet = replicas(Strategy::Sticky);
    let home = fleet.say("mine", "where am I?");
    let at = usize::from(home.as_bytes()[0] - b'a');
    fleet.upstreams[at].judge(|_| Some(vec![Step::Close]));
    let away = fleet.say("mine", "where am I?");
    assert_ne!(away, home);
    assert_eq!(fleet.say("mine", "where am I?"), away);
    fleet.upstreams[at].judge({
        let home = home.clone();
        move |request| Some(crate::support::fleet::says(&home, request))
    });
    assert_eq!(fleet.say("mine", "where am I?"), home);
}

#[test]
fn a_full_upstream_is_passed_over_and_if_all_are_full_requests_wait_their_turn() {
    let lists: [&[&str]; 2] = [&["m"], &["m"]];
    let fleet = fleet(&lists, |config| {
        config.upstreams[0].max_parallel = 1;
        config.upstreams[1].max_parallel = 1;
        config.models = vec![configured("mine", &["a/m", "b/m"], Strategy::Order)];
    });
    let (mut first, first_goes_on) = halted(&fleet, 0);
    assert_eq!(fleet.chat("mine"), "b", "a is full");
    let (_second, _second_goes_on) = halted(&fleet, 1);
    fleet.asked();
    let mut waiting = fleet.proxy.client();
    waiting.post("/api/chat", chat_whole("Hi").replace("\"m\"", "\"mine\""));
    // It has arrived, and no upstream is asked.
    while fleet.proxy.server.active_requests() < 3 {}
    assert_eq!(fleet.asked(), "");
    drop(first_goes_on);
    first.rest_of_stream();
    assert_eq!(waiting.answer().json()["message"]["content"], "a", "its turn");
}

#[test]
fn the_wait_for_an_upstream_is_bounded() {
    let lists: [&[&str]; 2] = [&["m"], &["n"]];
    let fleet = fleet(&lists, |config| {
        config.upstreams[0].max_parallel = 1;
        config.max_queue = 0;
        config.models = vec![configured("mine", &["a/m"], Strategy::Order)];
    });
    let (_first, _goes_on) = halted(&fleet, 0);
    let told = fleet.chat("mine");
    assert!(told.starts_with("503 server busy"), "{told}");
    assert_eq!(fleet.chat("n"), "b", "others are not affected");
}

#[test]
fn an_upstream_that_is_out_is_passed_over_and_probed_behind_the_requests() {
    let (down, other) = (Restarting::down(), Upstream::start());
    other.judge(|request| Some(crate::support::fleet::says("b", request)));
    let servers = vec![server("a", &down.base_url()), server("b", &other.base_url())];
    let proxy = several(servers, |config| {
        config.models = vec![configured("mine", &["a/m", "b/m"], Strategy::Order)];
        config.breaker = breaker::Settings {
            failure_threshold: 2,
            min_failure_span: Duration::ZERO,
            cooldown: Duration::from_millis(10),
            max_cooldown: Duration::from_millis(20),
            ..breaker::Settings::default()
        };
    });
    let body = chat_whole("Hi").replace("\"m\"", "\"mine\"");
    for _ in 0..4 {
        let answer = proxy.ask("/api/chat", &body);
        assert_eq!((answer.status(), answer.head.header("x-upstream")), (200, Some("b")));
    }
    let circuit = || {
        let health = proxy.fetch("/metrics").body;
        health.contains("circuit_state{upstream=\"a\",state=\"closed\"} 1")
    };
    assert!(!circuit(), "the circuit is open");
    down.start();
    // No request but the probe's reaches it meanwhile.
    while !circuit() {}
    let answer = proxy.ask("/api/chat", &body);
    assert_eq!((answer.status(), answer.head.header("x-upstream")), (200, Some("a")));
}
