//! How often the upstreams of a model are asked, and what is told when all fail.

use std::time::Duration;

use crate::support::fleet::{Fleet, fleet};
use crate::support::*;

fn refusing(statuses: &[u16], retries: u32) -> Fleet {
    let lists: Vec<&[&str]> = statuses.iter().map(|_| &["m"][..]).collect();
    let fleet = fleet(&lists, |config| config.retry.max_retries = retries);
    for (upstream, code) in fleet.upstreams.iter().zip(statuses.to_vec()) {
        let body = format!(r#"{{"error":{{"message":"says {code}"}}}}"#);
        upstream.judge(move |_| Some(vec![status(code, &[], &body)]));
    }
    fleet
}

#[test]
fn one_budget_holds_for_all_candidates() {
    let fleet = refusing(&[503, 500, 502], 2);
    assert_eq!(fleet.chat("m"), "502 says 502 (3 upstreams tried)");
    assert_eq!(fleet.asked(), "aaabbbccc", "three rounds");
    let sleeps: Vec<Duration> = fleet.proxy.sleeps.try_iter().collect();
    assert_eq!(sleeps, [Duration::from_secs(1), Duration::from_secs(2)], "between the rounds");
}

#[test]
fn without_retries_each_candidate_is_asked_once() {
    let fleet = refusing(&[503, 500], 0);
    assert_eq!(fleet.chat("m"), "500 says 500 (2 upstreams tried)");
    assert_eq!((fleet.asked().as_str(), fleet.proxy.sleeps.is_empty()), ("ab", true));
}

#[test]
fn the_most_useful_error_is_told() {
    for (statuses, told) in [
        ([401, 500], "500 says 500 (2 upstreams tried)"),
        ([429, 500], "429 says 429 (2 upstreams tried)"),
        ([403, 401], "401 says 401 (2 upstreams tried)"),
    ] {
        assert_eq!(refusing(&statuses, 0).chat("m"), told, "{statuses:?}");
    }
}

#[test]
fn an_upstream_that_cannot_succeed_is_not_asked_again() {
    let fleet = refusing(&[401, 503], 1);
    assert_eq!(fleet.chat("m"), "503 says 503 (2 upstreams tried)");
    assert_eq!(fleet.asked(), "abb");
    let fleet = refusing(&[401, 403], 3);
    fleet.chat("m");
    assert_eq!((fleet.asked().as_str(), fleet.proxy.sleeps.is_empty()), ("ab", true));
}

#[test]
fn a_passed_on_error_is_the_upstream_s_own() {
    let fleet = refusing(&[401, 429], 0);
    let answer = fleet.proxy.post("/v1/chat/completions", &json!({"model": "m", "messages": []}));
    assert_eq!(
        (answer.status(), answer.body.as_str()),
        (429, r#"{"error":{"message":"says 429"}}"#)
    );
    assert_eq!(answer.head.header("x-upstream"), Some("b"));
}

#[test]
fn a_later_round_may_succeed() {
    let fleet = fleet(&[&["m"], &["m"]], |_| {});
    let (sender, receiver) = bounded(8);
    for upstream in &fleet.upstreams {
        let sender = sender.clone();
        upstream.judge(move |_| match sender.try_send(()) {
            Ok(()) if sender.len() <= 3 => {
                Some(vec![status(503, &[], r#"{"error":{"message":"loading"}}"#)])
            }
            _ => Some(vec![upstream::answer("at last")]),
        });
    }
    assert_eq!(fleet.chat("m"), "at last");
    assert_eq!((fleet.asked().as_str(), receiver.len()), ("aabb", 4));
}
