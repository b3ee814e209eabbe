//! Response objects: done reasons, counters, durations and log probabilities, and that a whole
//! response equals the sum of a stream.

use crate::support::upstream::json as whole;
use crate::support::*;

#[test]
fn all_counters_are_there() {
    let (upstream, proxy) = pair();
    for path in ["/api/chat", "/api/generate"] {
        upstream.script(stream(&["Hi"])).script(vec![answer("Hi")]);
        for is_stream in [true, false] {
            let body = json!({"model": "m", "prompt": "x", "stream": is_stream,
                              "messages": [{"role": "user", "content": "x"}]});
            let answer = proxy.post(path, &body);
            let last: Value = serde_json::from_str(answer.body.lines().last().expect("a line"))
                .expect("a JSON line");
            for name in COUNTERS {
                assert!(last[name].as_u64().is_some_and(|count| count > 0), "{name}: {last}");
            }
        }
    }
    let vectors = r#"{"data":[{"index":0,"embedding":[3.0,4.0]}],"usage":{"prompt_tokens":1}}"#;
    upstream.script(vec![upstream::json(vectors)]);
    let answer = proxy.post("/api/embed", &json!({"model": "text-embed", "input": "a"})).json();
    for name in ["total_duration", "load_duration", "prompt_eval_count"] {
        assert!(answer[name].as_u64().is_some_and(|count| count > 0), "{name}: {answer}");
    }
}

#[test]
fn durations_are_measured_converted_or_not_split() {
    let last = |list: &[Value]| {
        let lines = Bench::new().played(CHAT, &json!({}), chunks(list)).lines();
        lines.last().expect("lines").clone()
    };
    let text = |text: &str| json!({"choices": [{"index": 0, "delta": {"content": text}}]});
    let with = |name: &str, value: Value| json!({"choices": [], name: value});
    let check = |list: &[Value], prompt: u64, answer: u64| {
        let line = last(list);
        let found = (&line["prompt_eval_duration"], &line["eval_duration"]);
        assert_eq!(found, (&json!(prompt), &json!(answer)), "{list:?}");
    };
    let llama = json!({"prompt_ms": 1.5, "predicted_ms": 2.5, "prompt_n": 1, "predicted_n": 2});
    check(&[text("a"), with("timings", llama)], 1_500_000, 2_500_000);
    let vllm =
        json!({"time_to_first_token_ms": 3.5, "queue_time_ms": 1, "generation_time_ms": 4.25});
    check(&[text("a"), with("metrics", vllm)], 2_500_000, 4_250_000);
    // The whole response in one event: the time before it is unknown.
    let line = last(&[text("a")]);
    let number = |name: &str| line[name].as_u64().expect(name);
    assert_eq!(number("prompt_eval_duration"), 1);
    assert!(number("eval_duration") > 1 && number("eval_duration") <= number("total_duration"));
    let groq = json!({"usage": {"prompt_time": 0.25, "completion_time": 0.5, "prompt_tokens": 5, "completion_tokens": 2}});
    let answer = json!({"choices": [{"message": {"content": "a"}, "finish_reason": "stop"}], "x_groq": groq});
    let bench = Bench::new();
    let line =
        bench.played(CHAT, &json!({"stream": false}), vec![whole(&answer.to_string())]).json();
    let found = (&line["prompt_eval_duration"], &line["eval_duration"]);
    assert_eq!(found, (&json!(250_000_000), &json!(500_000_000)));
}

/// A whole response and a stream that end for this reason.
fn ended(reason: &str) -> [Vec<Step>; 2] {
    let choice = |name: &str| json!({"index": 0, "finish_reason": reason, name: {"content": "Hi"}});
    let usage = json!({"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 7});
    let whole = json!({"choices": [choice("message")], "usage": usage});
    let event = json!({"choices": [choice("delta")], "usage": usage});
    let done = frame("data: [DONE]\n\n");
    let stream = vec![stream_head(), frame(&format!("data: {event}\n\n")), done, last_frame()];
    [vec![upstream::json(&whole.to_string())], stream]
}

/// The last object of a response, and those before it.
pub(super) fn objects(body: &str) -> (Value, Vec<Value>) {
    let mut objects: Vec<Value> =
        body.lines().map(|line| serde_json::from_str(line).expect("a JSON line")).collect();
    (objects.pop().expect("an object"), objects)
}

#[test]
fn an_answer_ends_with_stop_or_length_and_the_reason_is_in_its_last_object() {
    let bench = Bench::new();
    for (reason, expected) in [
        ("stop", "stop"),
        ("tool_calls", "stop"),
        ("function_call", "stop"),
        ("content_filter", "stop"),
        ("eos", "stop"),
        ("a new one", "stop"),
        ("length", "length"),
        ("max_tokens", "length"),
        ("model_length", "length"),
    ] {
        for (route, wants_stream) in TEXT.iter().flat_map(|route| [(route, true), (route, false)]) {
            for steps in ended(reason) {
                let answer = bench.played(route, &json!({"stream": wants_stream}), steps);
                let (last, before) = objects(&answer.body);
                assert_eq!(last["done_reason"], expected, "{route} {reason}: {}", answer.body);
                assert_eq!(last["done"], true, "{route} {reason}");
                assert_eq!(before.len(), usize::from(wants_stream), "{route} {reason}");
                for line in before {
                    assert_eq!((&line["done"], line.get("done_reason")), (&false.into(), None));
                }
            }
        }
    }
}

#[test]
fn counters_are_in_the_last_object_and_nowhere_else() {
    let bench = Bench::new();
    for (route, steps) in TEXT.iter().flat_map(|route| ended("stop").map(|steps| (route, steps))) {
        let (last, before) = objects(&bench.played(route, &json!({}), steps).body);
        assert_eq!((&last["prompt_eval_count"], &last["eval_count"]), (&5.into(), &2.into()));
        for name in COUNTERS {
            assert!(last[name].as_u64() >= Some(1), "{route} {name}: {last}");
            assert!(before.iter().all(|line| line.get(name).is_none()), "{route} {name}");
        }
    }
}

/// A token with its alternatives, as an upstream sends it.
fn token(text: &str, others: &[(&str, f64)]) -> Value {
    let others: Vec<Value> = others
        .iter()
        .map(|(text, logprob)| json!({"token": text, "logprob": logprob, "bytes": null}))
        .collect();
    json!({"token": text, "logprob": -0.5, "bytes": null, "top_logprobs": others})
}

#[test]
fn log_probabilities_are_a_flat_list_with_bytes_and_sorted_alternatives() {
    let bench = Bench::new();
    let tokens = [token(" Hé", &[("b", -3.5), (" Hé", -0.5), ("a", -2.5)]), token("!", &[])];
    let steps = || {
        let chunk = |token: &Value| {
            json!({"choices": [{"index": 0, "delta": {"content": token["token"]},
                "logprobs": {"content": [token]}}]})
        };
        chunks(&tokens.iter().map(chunk).collect::<Vec<_>>())
    };
    let alternative = |text: &str, logprob: f64| json!({"token": text, "logprob": logprob, "bytes": text.as_bytes()});
    let first = |count: usize| {
        let mut first = alternative(" Hé", -0.5);
        let all = [alternative(" Hé", -0.5), alternative("a", -2.5), alternative("b", -3.5)];
        if count > 0 {
            first["top_logprobs"] = json!(all[..count]);
        }
        first
    };
    for (route, count) in TEXT.iter().flat_map(|route| [0, 2, 3].map(|count| (route, count))) {
        let mut change = json!({"logprobs": true, "top_logprobs": count});
        let expected = [json!([first(count)]), json!([alternative("!", -0.5)]), json!(null)];
        let lines = bench.played(route, &change, steps()).lines();
        let found: Vec<&Value> = lines.iter().map(|line| &line["logprobs"]).collect();
        assert_eq!(found, expected.iter().collect::<Vec<_>>(), "{route} {count}");
        change["stream"] = false.into();
        let whole = bench.played(route, &change, steps()).json();
        assert_eq!(whole["logprobs"], json!([expected[0][0], expected[1][0]]), "{route} {count}");
    }
}

#[test]
fn a_whole_answer_is_all_of_a_stream_put_together() {
    let bench = Bench::new();
    let call = |index: u64, piece: &str| {
        json!({"tool_calls": [{"index": index, "id": format!("call_{index}"),
            "function": {"name": "f", "arguments": piece}}]})
    };
    let pieces = [
        json!({"reasoning_content": "Look "}),
        json!({"reasoning_content": "it up."}),
        json!({"content": "One "}),
        json!({"content": "moment."}),
        call(0, "{\"a\""),
        call(0, ":1}"),
        call(1, "{}"),
    ];
    let whole = bench.played(CHAT, &json!({"stream": false}), deltas(&pieces)).json();
    let told = |index: u64, arguments: Value| json!({"id": format!("call_{index}"), "function": {"index": index, "name": "f", "arguments": arguments}});
    let expected = json!({"role": "assistant", "content": "One moment.", "thinking": "Look it up.",
        "tool_calls": [told(0, json!({"a": 1})), told(1, json!({}))]});
    assert_eq!(whole["message"], expected);
    assert_eq!((&whole["eval_count"], &whole["done_reason"]), (&2.into(), &"stop".into()));
    let whole = bench.played(GENERATE, &json!({"stream": false}), deltas(&pieces[..4])).json();
    assert_eq!(
        (&whole["response"], &whole["thinking"]),
        (&"One moment.".into(), &"Look it up.".into())
    );
}
