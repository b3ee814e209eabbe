//! Inputs longer than the context of an embedding model: truncated, or refused.

use super::embed::{failure, items};
use crate::support::*;

const TOO_LONG: &str = "the input length exceeds the context length";

/// Upstream errors for an input that is too long: status, text, and how many of its 3,000 bytes are
/// sent next.
const TEXTS: &[(&str, u16, &str, usize)] = &[
    ("OpenAI", 400, OPENAI, 1425),
    // It does not tell the number of tokens that were sent.
    ("OpenAI, newer", 400, "Invalid 'input[0]': maximum input length is 512 tokens.", 1536),
    ("vLLM", 400, VLLM, 1425),
    ("llama.cpp", 500, LLAMA_CPP, 1425),
    ("text-embeddings-inference", 413, TEI, 1425),
    ("no number at all", 400, "the prompt is too long", 1500),
    // The input keeps this limit already, at three bytes to a token.
    ("a limit that is kept", 400, "maximum input length is 8192 tokens", 1500),
];

const OPENAI: &str = "This model's maximum context length is 512 tokens, however you requested 1024 \
    tokens (1024 in your prompt; 0 for the completion). Please reduce your prompt; or completion \
    length.";

const VLLM: &str = "This model's maximum context length is 512 tokens. However, you requested 1024 \
    tokens in the input for embedding generation. Please reduce the length of the input.";

const LLAMA_CPP: &str = "input (1024 tokens) is too large to process. increase the physical batch \
    size (current batch size: 512)";

const TEI: &str = "Input validation error: `inputs` must have less than 512 tokens. Given: 1024";

/// A response with this error.
fn refused(code: u16, text: &str) -> Vec<Step> {
    vec![status(code, &[], &json!({"error": {"message": text}}).to_string())]
}

#[test]
fn an_input_that_is_too_long_is_cut_by_what_the_upstream_says() {
    let bench = Bench::new();
    let long = "x".repeat(3000);
    for (name, code, text, expected) in TEXTS {
        for change in [json!({"input": long}), json!({"input": [long], "truncate": true})] {
            bench.upstream.script(refused(*code, text));
            bench.upstream.script(items(&[json!({"embedding": [1]})]));
            let answer = bench.ask(EMBED, &change);
            assert_eq!(answer.json()["embeddings"], json!([[1]]), "{name}");
            assert_eq!(bench.upstream.request().json()["input"], json!([long]), "{name}");
            let cut = bench.upstream.request().json()["input"].clone();
            assert_eq!(cut, json!(["x".repeat(*expected)]), "{name}");
            assert!(bench.upstream.is_idle(), "{name}");
        }
    }
}

#[test]
fn an_input_that_is_too_long_fails_where_it_must_not_be_cut() {
    let bench = Bench::new();
    let long = "x".repeat(3000);
    for (name, code, text, _) in TEXTS {
        for input in [json!(long), json!(["short", long])] {
            let change = json!({"input": input, "truncate": false});
            let told = failure(&bench, EMBED, &change, refused(*code, text));
            assert_eq!(told, (400, TOO_LONG.to_owned()), "{name}");
        }
        // `/api/embeddings` passes the upstream's error on.
        let told = failure(&bench, EMBEDDINGS, &json!({"prompt": long}), refused(*code, text));
        assert_eq!(told, (*code, (*text).to_owned()), "{name}");
    }
}

#[test]
fn an_input_is_cut_five_times_at_most_and_between_characters() {
    let bench = Bench::new();
    let long = "é😀".repeat(500);
    for tries in 0..=6 {
        for _ in 0..tries {
            bench.upstream.script(refused(400, "the prompt is too long"));
        }
        bench.upstream.script(items(&[json!({"embedding": [1]})]));
        let answer = bench.ask(EMBED, &json!({"input": long}));
        let mut before = long.len() + 1;
        for _ in 0..=tries.min(5) {
            let sent = bench.upstream.request().json()["input"][0].clone();
            let sent = sent.as_str().expect("a text");
            assert!(long.starts_with(sent) && sent.len() < before && !sent.is_empty());
            assert!(before > long.len() || sent.len() + 4 > before / 2, "the cut is not too short");
            before = sent.len();
        }
        assert!(bench.upstream.is_idle(), "{tries}");
        if tries <= 5 {
            assert_eq!(answer.json()["embeddings"], json!([[1]]), "{tries}");
        } else {
            answer.assert_error(400, TOO_LONG);
            // Consumes the scripted response that was not requested.
            bench.ask(EMBED, &json!({}));
            bench.upstream.request();
        }
    }
}

#[test]
fn of_a_batch_only_the_input_that_is_too_long_is_cut() {
    let bench = Bench::new();
    let long = "x".repeat(3000);
    let (_, code, text, cut) = TEXTS[0];
    for place in 0..4 {
        let mut inputs = [json!("a"), json!("b"), json!("c"), json!("d")];
        inputs[place] = json!(long);
        // The script follows the known order of the requests.
        let half = place / 2 * 2;
        let good = |first: usize, count: usize| {
            let vectors: Vec<Value> = (first..first + count)
                .map(|number| json!({"embedding": if number == place { [-1, 0] } else { [1, 0] }}))
                .collect();
            items(&vectors)
        };
        let mut good_answers = 1 + usize::from(half == 2) + usize::from(place > half);
        good_answers += usize::from(place < 3);
        let mut expected = vec![(0, 4, false)];
        bench.upstream.script(refused(code, text));
        let mut play = |first: usize, count: usize, is_cut: bool, steps: Vec<Step>| {
            bench.upstream.script(steps);
            expected.push((first, count, is_cut));
        };
        if half == 2 {
            play(0, 2, false, good(0, 2));
        }
        play(half, 2, false, refused(code, text));
        if place > half {
            play(half, 1, false, good(half, 1));
        }
        play(place, 1, false, refused(code, text));
        play(place, 1, true, good(place, 1));
        // The remaining inputs are sent together again.
        if place < 3 {
            play(place + 1, 3 - place, false, good(place + 1, 3 - place));
        }
        let answer = bench.ask(EMBED, &json!({"input": inputs})).json();
        let told: Vec<bool> =
            (0..4).map(|number| answer["embeddings"][number] == json!([-1, 0])).collect();
        assert_eq!(told, [0, 1, 2, 3].map(|number| number == place), "{answer}");
        // Each successful response counts three tokens.
        assert_eq!(answer["prompt_eval_count"], 3 * good_answers, "{place}");
        for (first, count, is_cut) in expected {
            let mut sent = inputs[first..first + count].to_vec();
            if is_cut {
                sent = vec![json!("x".repeat(cut))];
            }
            let found = bench.upstream.request().json()["input"].clone();
            assert_eq!(found, json!(sent), "{place}: {first} {count}");
        }
        assert!(bench.upstream.is_idle());
    }
}
