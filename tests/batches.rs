//! Long lists of inputs: sent upstream in batches, and answered in order (ollama-api.md 10.1).

mod support;

use serde_json::{Value, json};
use support::proxy::Proxy;
use support::raw::Answer;
use support::upstream::{self, Upstream, status};

/// Vectors for the inputs from `first` on: each says its number, and they come in reverse.
fn vectors(first: usize, count: usize) -> String {
    let data: Vec<Value> = (0..count)
        .rev()
        .map(|index| json!({"index": index, "embedding": [first + index, 1]}))
        .collect();
    json!({"data": data, "usage": {"prompt_tokens": count, "total_tokens": count}}).to_string()
}

/// A list of numbered inputs.
fn inputs(count: usize) -> String {
    let inputs: Vec<String> = (0..count).map(|number| format!("input {number}")).collect();
    json!({"model": "e", "input": inputs}).to_string()
}

/// The numbers that the vectors of an answer say.
fn numbers(answer: &Answer) -> Vec<usize> {
    assert_eq!(answer.status(), 200, "{}", answer.body);
    let number = |vector: &Value| {
        let (x, y) = (vector[0].as_f64().expect("a number"), vector[1].as_f64().expect("a number"));
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // A small number.
        let number = (x / y).round() as usize;
        number
    };
    answer.json()["embeddings"].as_array().expect("a list").iter().map(number).collect()
}

#[test]
fn five_thousand_inputs_go_upstream_in_batches_and_come_back_in_order() {
    let upstream = Upstream::start();
    let sizes: Vec<usize> = std::iter::repeat_n(256, 19).chain([136]).collect();
    let mut first = 0;
    for size in &sizes {
        upstream.script(vec![upstream::json(&vectors(first, *size))]);
        first += size;
    }
    let proxy = Proxy::start(&upstream);
    let answer = proxy.client().post("/api/embed", inputs(5000)).answer();
    assert_eq!(numbers(&answer), (0..5000).collect::<Vec<_>>());
    assert_eq!(answer.json()["prompt_eval_count"], 5000, "the counts are summed");
    let mut next = 0;
    for size in sizes {
        let sent = upstream.request().json();
        let sent = sent["input"].as_array().expect("a list").clone();
        assert_eq!(sent.len(), size);
        assert_eq!(sent[0], format!("input {next}"));
        next += size;
    }
    assert!(upstream.is_idle());
}

#[test]
fn a_batch_that_is_too_large_is_halved_until_it_fits() {
    let upstream = Upstream::start();
    let refused = r#"{"error":{"message":"input batch size N > maximum allowed batch size 4"}}"#;
    upstream.script(vec![status(422, &[], refused)]);
    let in_one = r#"{"error":{"message":"at most 4 requests can be in one batch"}}"#;
    upstream.script(vec![status(400, &[], in_one)]);
    for (first, count) in [(0, 2), (2, 2), (4, 2), (6, 2), (8, 2)] {
        upstream.script(vec![upstream::json(&vectors(first, count))]);
    }
    let proxy = Proxy::start(&upstream);
    let answer = proxy.client().post("/api/embed", inputs(10)).answer();
    assert_eq!(numbers(&answer), (0..10).collect::<Vec<_>>());
    let sizes: Vec<usize> = (0..7)
        .map(|_| upstream.request().json()["input"].as_array().expect("a list").len())
        .collect();
    assert_eq!(sizes, [10, 5, 2, 2, 2, 2, 2]);
    assert!(upstream.is_idle());
}

#[test]
fn one_failing_batch_fails_all() {
    let upstream = Upstream::start();
    upstream.script(vec![upstream::json(&vectors(0, 256))]);
    upstream.script(vec![status(400, &[], r#"{"error":{"message":"no"}}"#)]);
    let proxy = Proxy::start(&upstream);
    let answer = proxy.client().post("/api/embed", inputs(300)).answer();
    assert_eq!((answer.status(), answer.error().as_str()), (400, "no"));
    // A single input that is too large for a batch cannot be split.
    let single = r#"{"error":{"message":"batch size 1 is too large"}}"#;
    upstream.script(vec![status(400, &[], single)]);
    let answer = proxy.client().post("/api/embed", inputs(1)).answer();
    assert_eq!((answer.status(), answer.error().as_str()), (400, "batch size 1 is too large"));
}

#[test]
fn inputs_that_are_long_together_are_sent_apart() {
    let upstream = Upstream::start();
    upstream.script(vec![upstream::json(&vectors(0, 1))]);
    upstream.script(vec![upstream::json(&vectors(1, 1))]);
    let proxy = Proxy::start(&upstream);
    let body = json!({"model": "e", "input": ["a".repeat(400_000), "b".repeat(400_000)]});
    let answer = proxy.client().post("/api/embed", body.to_string()).answer();
    assert_eq!(numbers(&answer), [0, 1]);
}
