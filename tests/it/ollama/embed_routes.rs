//! `/api/embed` and `/api/embeddings`: the members of their responses in order.

use crate::support::*;

/// An upstream response with these vectors and their usage.
fn vectors(vectors: &Value) -> Vec<Step> {
    let data: Vec<Value> = vectors
        .as_array()
        .expect("a list")
        .iter()
        .enumerate()
        .map(|(index, vector)| json!({"index": index, "embedding": vector}))
        .collect();
    let usage = json!({"prompt_tokens": 12, "total_tokens": 12});
    vec![upstream::json(&json!({"data": data, "usage": usage}).to_string())]
}

#[test]
fn embeddings_are_of_unit_length_and_told_in_ollama_s_order() {
    let bench = Bench::new();
    for (input, given, expected) in [
        (json!("a"), json!([[3, -4]]), "[[0.6,-0.8]]"),
        (json!(["a", "b"]), json!([[3, -4], [7, 0]]), "[[0.6,-0.8],[1,0]]"),
        // Ollama's numbers are 32-bit floats, so they have as many digits.
        (json!([""]), json!([[1, 1, 1]]), "[[0.57735026,0.57735026,0.57735026]]"),
    ] {
        let answer = bench.played(EMBED, &json!({"input": input}), vectors(&given));
        let expected = format!(
            r#"{{"model":"m","embeddings":{expected},"total_duration":_,"load_duration":_,"prompt_eval_count":12}}"#
        );
        assert_eq!(masked(&answer.body), expected, "{input}");
        let kind = answer.head.header("content-type");
        assert_eq!(kind, Some("application/json; charset=utf-8"));
    }
}

/// A model that is not in the list, items out of order, and a second response of the wrong length.
#[test]
fn vectors_of_an_unlisted_model_come_in_order_with_counts_and_durations() {
    let (upstream, proxy) = pair();
    let given = r#"{"data":[{"index":1,"embedding":[0,2]},{"index":0,"embedding":[3,4]}],"usage":{"prompt_tokens":7,"total_tokens":7}}"#;
    upstream.script(vec![upstream::json(given)]).script(vec![upstream::json(given)]);
    let answer = proxy.post(EMBED, &json!({"model": "e", "input": ["a", "b"]})).json();
    assert_eq!(answer["embeddings"], json!([[0.6, 0.8], [0, 1]]));
    assert_eq!(answer["prompt_eval_count"], 7);
    for name in ["total_duration", "load_duration"] {
        assert!(answer[name].as_u64() >= Some(1), "{name}: {answer}");
    }
    let sent = upstream.request().json();
    assert_eq!(sent, json!({"model": "e", "input": ["a", "b"], "encoding_format": "float"}));
    let few = proxy.post(EMBED, &json!({"model": "e", "input": "a"}));
    assert_eq!(few.status(), 502, "{}", few.body);
    upstream.script(vec![upstream::json(r#"{"data":[{"embedding":[3,-4.5]}]}"#)]);
    let answer = proxy.post(EMBEDDINGS, &json!({"model": "e", "prompt": "a"}));
    assert_eq!(answer.body, r#"{"embedding":[3,-4.5]}"#);
}

#[test]
fn the_old_route_answers_the_vector_alone_and_cuts_nothing() {
    let bench = Bench::new();
    let change = json!({"truncate": true, "dimensions": 1});
    let answer = bench.played(EMBEDDINGS, &change, vectors(&json!([[3, -4.5, 0.1]])));
    assert_eq!(answer.body, r#"{"embedding":[3,-4.5,0.1]}"#);
    let text = "This model's maximum context length is 8 tokens, however you requested 9";
    let error = json!({"error": {"message": text, "type": "invalid_request_error"}});
    bench.upstream.script(vec![status(400, &[], &error.to_string())]);
    bench.ask(EMBEDDINGS, &change).assert_error(400, text);
    assert_eq!(bench.upstream.request().json()["input"], json!(["Hi"]));
    assert!(bench.upstream.is_idle(), "a shorter prompt is not tried");
}
