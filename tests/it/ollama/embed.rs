//! Embedding vectors: digits, order, unit length, dimensions, counts, and invalid vectors.

use crate::support::*;

/// A vector in standard, padded base64.
fn base64(vector: &[f32]) -> String {
    const DIGITS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let bytes: Vec<u8> = vector.iter().flat_map(|number| number.to_le_bytes()).collect();
    let group = |group: &[u8]| {
        let byte = |place| group.get(place).map_or(0, |byte: &u8| u32::from(*byte));
        let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
        let digit = |place: usize| match place <= group.len() {
            true => char::from(DIGITS[(bits >> (18 - 6 * place) & 63) as usize]),
            false => '=',
        };
        [digit(0), digit(1), digit(2), digit(3)]
    };
    bytes.chunks(3).flat_map(group).collect()
}

/// A whole answer of these items.
pub(super) fn items(items: &[Value]) -> Vec<Step> {
    vec![upstream::json(&json!({"data": items, "usage": {"prompt_tokens": 3}}).to_string())]
}

/// The vectors of an answer of either route, as clients with 32 and with 64 bits read them.
fn vectors(answer: &Answer) -> Vec<(Vec<f32>, Vec<f64>)> {
    #[derive(serde::Deserialize)]
    struct Vectors<T> {
        embeddings: Option<Vec<Vec<T>>>,
        embedding: Option<Vec<T>>,
    }
    fn read<T: serde::de::DeserializeOwned>(body: &str) -> Vec<Vec<T>> {
        let Vectors { embeddings, embedding } = serde_json::from_str(body).expect("vectors");
        embeddings.or(embedding.map(|vector| vec![vector])).expect("an answer of either route")
    }
    read(&answer.body).into_iter().zip(read(&answer.body)).collect()
}

/// Status and error of a response when the upstream plays this.
pub(super) fn failure(
    bench: &Bench,
    route: &str,
    change: &Value,
    steps: Vec<Step>,
) -> (u16, String) {
    bench.upstream.script(steps);
    let answer = bench.ask(route, change);
    bench.upstream.request();
    assert!(bench.upstream.is_idle(), "one attempt: {route} {change}");
    (answer.status(), answer.error())
}

#[test]
fn floats_and_base64_answer_the_same_vector() {
    let bench = Bench::new();
    for vector in [
        vec![1.0_f32],
        vec![0.6, -0.8],
        vec![3.0, -4.5, 0.1],
        vec![1e-7, 1.0, -0.0, 3.0e-39, f32::MIN_POSITIVE],
        (0..1536_u16).map(|place| (f32::from(place) * 0.7).sin()).collect(),
    ] {
        for route in [EMBED, EMBEDDINGS] {
            let told = [json!(vector), json!(base64(&vector))].map(|embedding| {
                let item = json!({"index": 0, "embedding": embedding});
                vectors(&bench.played(route, &json!({}), items(&[item]))).remove(0).0
            });
            assert_eq!(told[0], told[1], "{route}");
            if route == EMBEDDINGS {
                assert_eq!(told[0], vector, "the vector is unchanged");
            }
        }
    }
}

#[test]
fn the_form_that_came_counts_and_floats_are_asked_for() {
    // A known and an unknown family: the request is the same.
    for bench in [Bench::new(), Bench::over(LLAMA)] {
        let changes = json!({"dimensions": 1, "truncate": true});
        for (route, change) in [(EMBED, json!({})), (EMBED, changes.clone()), (EMBEDDINGS, changes)]
        {
            let sent = bench.sent(route, &change);
            let expected = json!({"model": "m", "input": ["Hi"], "encoding_format": "float"});
            assert_eq!(sent, expected, "{route} {change}");
        }
        let mixed = items(&[
            json!({"index": 0, "embedding": [0.6, 0.8]}),
            json!({"index": 1, "embedding": base64(&[0.8, 0.6]), "encoding_format": "base64"}),
        ]);
        let answer = bench.played(EMBED, &json!({"input": ["a", "b"]}), mixed).json();
        assert_eq!(answer["embeddings"], json!([[0.6, 0.8], [0.8, 0.6]]));
    }
}

#[test]
fn digits_that_need_no_change_are_those_that_came() {
    let bench = Bench::new();
    let check = |route: &str, change: Value, vector: &str, expected: &str| {
        let body = format!("{{\"data\":[\n{{\"embedding\": {vector}\n}} ]}}");
        let answer = bench.played(route, &change, vec![upstream::json(&body)]);
        let told = answer.body.split_once("\":[").map(|(_, rest)| rest).unwrap_or_default();
        let vector = told.trim_start_matches('[').split(']').next().unwrap_or_default();
        assert_eq!(format!("[{vector}]"), expected, "{route} {change}");
    };
    let unit = "[0.600000023841857900, -8.0E-1,\n 0.0,\r\n\t-0.0, 1e-400]";
    let digits = "[0.600000023841857900,-8.0E-1,0.0,-0.0,1e-400]";
    check(EMBED, json!({}), unit, digits);
    check(EMBED, json!({"dimensions": 5}), unit, digits);
    check(EMBED, json!({"dimensions": 2}), unit, "[0.600000023841857900,-8.0E-1]");
    check(EMBEDDINGS, json!({}), unit, digits);
    let other = "[3.0, 4.00,0.10000000149011612]";
    check(EMBEDDINGS, json!({}), other, "[3.0,4.00,0.10000000149011612]");
    check(EMBED, json!({}), other, "[0.59988004,0.79984003,0.019996002]");
}

#[test]
fn many_vectors_pass_byte_for_byte_in_the_order_of_their_index() {
    let bench = Bench::new();
    // Each of unit length, and unique by the position of its number that is not 0.
    let vector = |place: usize| {
        let number = |at: usize| if at == place { "-1.00000000" } else { "0.000000000" };
        (0..1_536).map(number).collect::<Vec<_>>().join(",")
    };
    let item = |place| format!("{{\"index\":{place},\"embedding\":[{}]}}", vector(place));
    let items: Vec<String> = (0..40).rev().map(item).collect();
    let body = format!("{{\"data\":[{}],\"usage\":{{\"prompt_tokens\":9}}}}", items.join(","));
    let input = json!({"input": vec!["x"; 40]});
    let head =
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n";
    let (some, rest) = body.split_at(100_000);
    let chunks = [
        Step::Send(head.into()),
        upstream::frame(some),
        upstream::frame(rest),
        upstream::frame(""),
    ];
    for steps in [vec![upstream::json(&body)], chunks.into()] {
        let answer = bench.played(EMBED, &input, steps);
        let vectors: Vec<String> = (0..40).map(|place| format!("[{}]", vector(place))).collect();
        let expected = format!("\"embeddings\":[{}],\"total_duration\"", vectors.join(","));
        assert!(answer.body.contains(&expected), "{}", answer.body.len());
        let length = answer.head.header("content-length").and_then(|it| it.parse().ok());
        assert_eq!(length, Some(answer.body.len()));
        assert_eq!(answer.json()["prompt_eval_count"], 9);
    }
}

#[test]
fn vectors_come_in_the_order_of_their_index() {
    let bench = Bench::new();
    let change = json!({"input": ["a", "b", "c"]});
    let expected = json!([[1, 0], [0, 1], [-1, 0]]);
    let first = || json!([1, 0]);
    for (name, given) in [
        ("index", [(0, first()), (1, json!([0, 1])), (2, json!([-1, 0]))]),
        ("index", [(2, json!([-1, 0])), (0, first()), (1, json!([0, 1]))]),
        ("index", [(1, json!(base64(&[0.0, 1.0]))), (2, json!([-1, 0])), (0, first())]),
        // Without usable indices the vectors are in order.
        ("place", [(9, first()), (9, json!([0, 1])), (9, json!([-1, 0]))]),
    ] {
        let given = given.map(|(index, vector)| json!({name: index, "embedding": vector}));
        let answer = bench.played(EMBED, &change, items(&given)).json();
        assert_eq!(answer["embeddings"], expected, "{given:?}");
    }
    for (indices, told) in [
        ([json!(0), json!(0), json!(1)], "two embeddings have the same index"),
        ([json!(1), json!(2), json!(3)], "the index of an embedding is out of range"),
        ([json!(0), json!(1), json!(null)], "the index of an embedding is out of range"),
    ] {
        let given = indices.map(|index| json!({"index": index, "embedding": [1, 0]}));
        let text = format!("invalid response from the upstream: {told}");
        assert_eq!(failure(&bench, EMBED, &change, items(&given)), (502, text), "{given:?}");
    }
}

#[test]
fn a_wrong_count_is_told_in_numbers() {
    let bench = Bench::new();
    let item = json!({"embedding": [1, 0]});
    for (route, change, given, inputs) in [
        (EMBED, json!({"input": ["a", "b"]}), 1, 2),
        (EMBED, json!({"input": ["a", "b"]}), 3, 2),
        (EMBED, json!({}), 0, 1),
        (EMBEDDINGS, json!({}), 2, 1),
    ] {
        let text = format!("backend returned {given} embeddings for {inputs} inputs");
        let told = failure(&bench, route, &change, items(&vec![item.clone(); given]));
        assert_eq!(told, (502, text), "{route}");
    }
}

#[test]
fn an_empty_text_in_a_list_has_its_vector() {
    let bench = Bench::new();
    let given = [[1, 0], [0, 1], [-1, 0]].map(|vector| json!({"embedding": vector}));
    bench.upstream.script(items(&given));
    let answer = bench.ask(EMBED, &json!({"input": ["a", "", "c"]})).json();
    assert_eq!(answer["embeddings"], json!([[1, 0], [0, 1], [-1, 0]]));
    assert_eq!(bench.upstream.request().json()["input"], json!(["a", " ", "c"]));
}

#[test]
fn numbers_that_are_none_fail_as_ollama_fails() {
    let bench = Bench::new();
    let text = "embedding contains NaN or Inf values";
    let nan = json!(base64(&[0.6, f32::NAN])).to_string();
    let infinite = json!(base64(&[f32::NEG_INFINITY, 0.6])).to_string();
    for vector in
        ["[0.6,null]", "[1e400,0.6]", "[0.6,-1e39]", "[NaN, 0.6]", "[-Infinity]", &nan, &infinite]
    {
        for (route, code) in [(EMBED, 400), (EMBEDDINGS, 500)] {
            let body = format!(r#"{{"data":[{{"index":0,"embedding":{vector}}}]}}"#);
            let told = failure(&bench, route, &json!({}), vec![upstream::json(&body)]);
            assert_eq!(told, (code, text.to_owned()), "{route} {vector}");
        }
    }
}

#[test]
fn what_is_no_vector_is_a_bad_gateway() {
    let bench = Bench::new();
    for (vector, told) in [
        (json!([]), "an embedding is empty"),
        (json!(null), "an embedding is empty"),
        (json!([[1]]), "an embedding contains something other than numbers"),
        (json!(5), "an embedding is neither a list of numbers nor base64"),
        (json!("AACAPw="), "an embedding is not valid base64"),
        (json!("AAC_Pw=="), "an embedding is not valid base64"),
        (json!("AACA"), "the base64 of an embedding is not a sequence of 32-bit floats"),
    ] {
        for route in [EMBED, EMBEDDINGS] {
            let steps = items(&[json!({"index": 0, "embedding": vector})]);
            let text = format!("invalid response from the upstream: {told}");
            assert_eq!(failure(&bench, route, &json!({}), steps), (502, text), "{vector}");
        }
    }
}

#[test]
fn tokens_that_nobody_counted_are_none() {
    let bench = Bench::new();
    for (usage, expected) in [
        (json!({"prompt_tokens": 7, "total_tokens": 9}), 7),
        (json!({"prompt_tokens": "seven"}), 0),
        (json!(null), 0),
    ] {
        let body = json!({"data": [{"embedding": [1]}], "usage": usage}).to_string();
        let answer = bench.played(EMBED, &json!({}), vec![upstream::json(&body)]).json();
        assert_eq!(answer["prompt_eval_count"], expected, "{usage}");
    }
}

#[test]
fn dimensions_that_are_smaller_cut_and_others_do_nothing() {
    let bench = Bench::new();
    for (dimensions, expected) in [
        (json!(1), json!([1])),
        (json!(2), json!([0.6, -0.8])),
        (json!(3), json!([0.6, -0.8, 0])),
        (json!(4), json!([0.6, -0.8, 0])),
        (json!(1_000_000), json!([0.6, -0.8, 0])),
        (json!(2.9), json!([0.6, -0.8])),
        (json!(null), json!([0.6, -0.8, 0])),
        (json!(0), json!([0.6, -0.8, 0])),
        (json!(-2), json!([0.6, -0.8, 0])),
    ] {
        for vector in [json!([3, -4, 0]), json!(base64(&[3.0, -4.0, 0.0]))] {
            let steps = items(&[json!({"embedding": vector})]);
            let change = json!({"dimensions": dimensions});
            let answer = bench.played(EMBED, &change, steps).json();
            assert_eq!(answer["embeddings"], json!([expected]), "{dimensions} {vector}");
            assert_eq!(bench.added(EMBED, &change), json!({}), "the upstream cuts nothing");
        }
    }
}

#[test]
fn every_vector_has_unit_length_by_the_digits_that_are_printed() {
    let bench = Bench::new();
    let mut passed = 0;
    for count in [1, 2, 3, 100, 1536_u16] {
        let plain: Vec<f64> = (0..count).map(|place| (f64::from(place) + 0.7).sin()).collect();
        let length = plain.iter().map(|number| number * number).sum::<f64>().sqrt();
        for off in [0.0, 1e-8, 3e-7, 4.9e-7, 5.1e-7, 9e-7, 1.1e-6, 1e-3, 0.5, 7.0, 1e20, 1e-9] {
            let of_length = if off == 1e-9 { off } else { 1.0 + off };
            let vector: Vec<f64> = plain.iter().map(|it| it / length * of_length).collect();
            #[allow(clippy::cast_possible_truncation)] // What base64 holds.
            let floats: Vec<f32> = vector.iter().map(|number| *number as f32).collect();
            for embedding in [json!(vector), json!(floats), json!(base64(&floats))] {
                let printed = embedding.to_string();
                for dimensions in [json!(null), json!(1), json!(count / 2 + 1), json!(count)] {
                    let steps = items(&[json!({"embedding": embedding})]);
                    let change = json!({"dimensions": dimensions});
                    let answer = bench.played(EMBED, &change, steps);
                    passed += u32::from(answer.body.contains(&printed));
                    for (narrow, wide) in vectors(&answer) {
                        let narrow: Vec<f64> = narrow.into_iter().map(f64::from).collect();
                        for vector in [narrow, wide] {
                            let length = vector.iter().map(|it| it * it).sum::<f64>().sqrt();
                            let what = format!("{count} {off} {dimensions} {length}");
                            assert!((length - 1.0).abs() <= 1e-6, "{what}");
                        }
                    }
                }
            }
        }
    }
    assert!(passed > 100, "some pass as they came: {passed}");
}
