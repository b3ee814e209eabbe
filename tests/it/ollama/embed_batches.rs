//! Long lists of inputs: sent upstream in batches, and returned in order.

use crate::support::*;

/// Vectors for the inputs from `first` on: each holds its number, and they come in reverse order.
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

/// The numbers in the vectors of a response.
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
    let (upstream, proxy) = pair();
    let sizes: Vec<usize> = std::iter::repeat_n(256, 19).chain([136]).collect();
    let mut first = 0;
    for size in &sizes {
        upstream.script(vec![upstream::json(&vectors(first, *size))]);
        first += size;
    }
    let answer = proxy.ask("/api/embed", inputs(5000));
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
    let (upstream, proxy) = pair();
    let refused = r#"{"error":{"message":"input batch size N > maximum allowed batch size 4"}}"#;
    upstream.script(vec![status(422, &[], refused)]);
    let in_one = r#"{"error":{"message":"at most 4 requests can be in one batch"}}"#;
    upstream.script(vec![status(400, &[], in_one)]);
    for (first, count) in [(0, 2), (2, 2), (4, 2), (6, 2), (8, 2)] {
        upstream.script(vec![upstream::json(&vectors(first, count))]);
    }
    let answer = proxy.ask("/api/embed", inputs(10));
    assert_eq!(numbers(&answer), (0..10).collect::<Vec<_>>());
    let sizes: Vec<usize> = (0..7)
        .map(|_| upstream.request().json()["input"].as_array().expect("a list").len())
        .collect();
    assert_eq!(sizes, [10, 5, 2, 2, 2, 2, 2]);
    assert!(upstream.is_idle());
}

#[test]
fn one_failing_batch_fails_all() {
    let (upstream, proxy) = pair();
    upstream.script(vec![upstream::json(&vectors(0, 256))]);
    upstream.script(vec![status(400, &[], r#"{"error":{"message":"no"}}"#)]);
    proxy.ask("/api/embed", inputs(300)).assert_error(400, "no");
    // A single input that is too large for a batch cannot be split.
    let single = r#"{"error":{"message":"batch size 1 is too large"}}"#;
    upstream.script(vec![status(400, &[], single)]);
    proxy.ask("/api/embed", inputs(1)).assert_error(400, "batch size 1 is too large");
}

#[test]
fn inputs_that_are_long_together_are_sent_apart() {
    let (upstream, proxy) = pair();
    upstream.script(vec![upstream::json(&vectors(0, 1))]);
    upstream.script(vec![upstream::json(&vectors(1, 1))]);
    let body = json!({"model": "e", "input": ["a".repeat(400_000), "b".repeat(400_000)]});
    let answer = proxy.post("/api/embed", &body);
    assert_eq!(numbers(&answer), [0, 1]);
}

/// How many inputs each of the next requests had.
fn sizes(upstream: &Upstream, requests: usize) -> Vec<usize> {
    let size = |request: Value| request["input"].as_array().expect("a list").len();
    let sizes = (0..requests).map(|_| size(upstream.request().json())).collect();
    assert!(upstream.is_idle(), "no more than {requests} requests");
    sizes
}

/// An error for a batch that is too large.
fn refusal(code: u16, text: &str) -> Vec<upstream::Step> {
    vec![status(code, &[], &json!({"error": {"message": text}}).to_string())]
}

/// Scripts answers for batches of these sizes, one after another.
fn take(upstream: &Upstream, sizes: &[usize]) {
    let mut first = 0;
    for size in sizes {
        upstream.script(vec![upstream::json(&vectors(first, *size))]);
        first += size;
    }
}

#[test]
fn the_next_request_begins_with_the_batch_that_worked() {
    for (code, text) in [
        (422, "input batch size 10 > maximum allowed batch size 4"),
        (400, "BatchEmbedContentsRequest.requests: at most 4 requests can be in one batch"),
    ] {
        let (upstream, proxy) = pair();
        let ask = |count| numbers(&proxy.ask("/api/embed", inputs(count)));
        upstream.script(refusal(code, text)).script(refusal(code, text));
        take(&upstream, &[2, 2, 2, 2, 2]);
        assert_eq!(ask(10), (0..10).collect::<Vec<_>>());
        assert_eq!(sizes(&upstream, 7), [10, 5, 2, 2, 2, 2, 2]);
        for count in [1, 3, 10] {
            let expected: Vec<usize> = (0..count).step_by(2).map(|at| 2.min(count - at)).collect();
            take(&upstream, &expected);
            assert_eq!(ask(count), (0..count).collect::<Vec<_>>());
            assert_eq!(sizes(&upstream, expected.len()), expected, "{text}");
        }
    }
}

#[test]
fn a_batch_with_too_many_tokens_is_halved_by_its_length() {
    for (code, text) in [
        (400, "Requested 313102 tokens, max 300000 tokens per request"),
        (400, "max_tokens_per_request"),
        (413, "length limit exceeded"),
    ] {
        let (upstream, proxy) = pair();
        let ask = |texts: Vec<String>| {
            let body = json!({"model": "e", "input": texts}).to_string();
            let answer = proxy.ask("/api/embed", body);
            assert_eq!(numbers(&answer), (0..texts.len()).collect::<Vec<_>>());
        };
        let long = || vec!["x".repeat(1000); 4];
        upstream.script(refusal(code, text));
        take(&upstream, &[2, 2]);
        ask(long());
        assert_eq!(sizes(&upstream, 3), [4, 2, 2], "{text}");
        take(&upstream, &[2, 2]);
        ask(long());
        assert_eq!(sizes(&upstream, 2), [2, 2], "{text}: not tried again");
        // The number of inputs was not the cause.
        take(&upstream, &[200]);
        ask(vec!["x".repeat(10); 200]);
        assert_eq!(sizes(&upstream, 1), [200], "{text}");
    }
}

#[test]
fn what_was_learnt_of_batches_holds_after_an_input_was_cut() {
    let (upstream, proxy) = pair();
    let batch = "input batch size 8 > maximum allowed batch size 4";
    let long =
        "This model's maximum context length is 512 tokens, however you requested 1024 tokens";
    // Eight are too many; of the first four the first is too long even alone.
    upstream.script(refusal(422, batch));
    for _ in 0..3 {
        upstream.script(refusal(400, long));
    }
    take(&upstream, &[1, 4, 3]);
    let answer = proxy.ask("/api/embed", inputs(8));
    assert_eq!(numbers(&answer), (0..8).collect::<Vec<_>>());
    assert_eq!(sizes(&upstream, 7), [8, 4, 2, 1, 1, 4, 3]);
    // An input that is too long does not change the batch size.
    take(&upstream, &[4, 4]);
    let answer = proxy.ask("/api/embed", inputs(8));
    assert_eq!(numbers(&answer), (0..8).collect::<Vec<_>>());
    assert_eq!(sizes(&upstream, 2), [4, 4]);
}

#[test]
fn a_size_that_never_worked_is_not_learnt() {
    let (upstream, proxy) = pair();
    upstream.script(refusal(422, "batch size 4 is too large"));
    upstream.script(refusal(400, "no"));
    let answer = proxy.ask("/api/embed", inputs(4));
    answer.assert_error(400, "no");
    assert_eq!(sizes(&upstream, 2), [4, 2]);
    take(&upstream, &[4]);
    assert_eq!(numbers(&proxy.ask("/api/embed", inputs(4))), [0, 1, 2, 3]);
    assert_eq!(sizes(&upstream, 1), [4]);
}

#[test]
fn batches_that_nobody_counted_add_nothing() {
    let (upstream, proxy) = pair();
    let uncounted = vectors(0, 256).replace("prompt_tokens", "tokens");
    upstream.script(vec![upstream::json(&uncounted)]);
    upstream.script(vec![upstream::json(&vectors(256, 44))]);
    let answer = proxy.ask("/api/embed", inputs(300));
    assert_eq!(numbers(&answer), (0..300).collect::<Vec<_>>());
    assert_eq!(answer.json()["prompt_eval_count"], 44);
}
