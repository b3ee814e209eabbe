//! The rows of ollama-api.md 6 and 7, shared response fields and the streaming protocol, over real
//! sockets.
//!
//! | row | held by |
//! | --- | --- |
//! | 6.1 the six counters, in the final object only | here, `rows_18_12.rs` `all_counters_are_there`, `golden/*/stream-plain` |
//! | 6.1 never 0 for a duration; reasoning counted | `src/translate/metrics.rs`, `golden/chat/answer-no-usage` |
//! | 6.2 `stop`, `length`, and nothing else for an answer | here |
//! | 6.2 `load`, `unload` | `rows_8.rs` |
//! | 6.3 `index`, arguments, ids, no `type` | `golden/chat/answer-tools`, `golden/chat/answer-tools-no-ids`, `tools.rs` `made_up_ids_differ_from_answer_to_answer` |
//! | 6.3 `{}` when there are no arguments | `golden/chat/answer-tools`, `src/translate/calls.rs` `arguments_come_in_every_form` |
//! | 6.4 place, bytes, order and number of alternatives | here; an empty token in `src/translate/logprobs.rs` |
//! | 6.4 each line has its own, also without text | `golden/chat/stream-logprobs` |
//! | 6.4 a whole answer has all | here |
//! | 7.1 type, a frame for each line, none blank | `rows_18_12.rs` `every_line_is_a_frame_of_its_own`, `no_line_is_blank_and_none_has_an_error_key` |
//! | 7.1 flushed line by line | `stream.rs` `the_first_line_arrives_before_the_upstream_sends_the_second` |
//! | 7.1 no head before the first line | here |
//! | 7.2, 7.3 `done`, and the last line | `golden.rs` `check_rules` for every stream, `stream.rs` `the_final_line_has_all_six_counters_and_an_empty_text` |
//! | 7.4 reasoning first | `golden/chat/stream-reasoning`, `golden/generate/stream-reasoning` |
//! | 7.5 whole calls in lines of their own | here, `tools.rs` `a_whole_call_is_shown_before_the_next_one_is_complete`, `golden/chat/stream-tools-*` |
//! | 7.6 an error before the first line | `stream.rs` `an_error_before_the_first_line_has_a_status` |
//! | 7.7 an error after it | here, `stream.rs` `an_error_after_the_first_line_is_sent_in_band` |
//! | 7.8 never an end without `done` or `error` | here, `stream.rs` `a_stream_that_breaks_off_ends_with_an_error_line_and_no_done` |
//! | 7.9 lines below 8 MB | here, for a conversation of 2.5 MB in a `context` |
//! | 7.10 load and unload are one object | `routes.rs` `load_and_unload_are_answered_without_the_upstream` |
//! | 7 `stream:false` puts all of it together | here |

use crate::support::bench::{Bench, CHAT, GENERATE, TEXT, chunks, deltas};
use crate::support::raw::COUNTERS;
use crate::support::upstream::{self, Step, delta, ending, frame, last_frame, stream_head};
use serde_json::{Value, json};

/// A whole answer that ended for this reason, and a stream that did.
fn ended(reason: &str) -> [Vec<Step>; 2] {
    let choice = |name: &str| json!({"index": 0, "finish_reason": reason, name: {"content": "Hi"}});
    let usage = json!({"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 7});
    let whole = json!({"choices": [choice("message")], "usage": usage});
    let event = json!({"choices": [choice("delta")], "usage": usage});
    let done = frame("data: [DONE]\n\n");
    let stream = vec![stream_head(), frame(&format!("data: {event}\n\n")), done, last_frame()];
    [vec![upstream::json(&whole.to_string())], stream]
}

/// The last object of an answer, and those before it.
fn objects(body: &str) -> (Value, Vec<Value>) {
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

/// A token with its alternatives, as an upstream tells of it.
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

#[test]
fn calls_have_a_line_of_their_own_also_when_all_came_at_once() {
    let bench = Bench::new();
    let said = json!({"content": "One moment.", "reasoning": "Hm.", "tool_calls": [
        {"index": 0, "id": "a", "function": {"name": "f", "arguments": "{}"}},
        {"index": 1, "id": "b", "function": {"name": "g", "arguments": "{}"}}]});
    let whole = json!({"choices": [{"message": said, "finish_reason": "tool_calls"}]});
    for steps in [deltas(&[said]), vec![upstream::json(&whole.to_string())]] {
        let (last, before) = objects(&bench.played(CHAT, &json!({}), steps).body);
        assert!(before.iter().all(|line| line["done"] == false), "{before:?}");
        let (text, calls) = before.split_first().expect("a line before the last");
        let expected = json!({"role": "assistant", "content": "One moment.", "thinking": "Hm."});
        assert_eq!(text["message"], expected);
        // Together or one after the other.
        let mut told = vec![];
        for line in calls {
            let message = &line["message"];
            assert_eq!((&message["content"], message.get("thinking")), (&"".into(), None));
            told.extend(message["tool_calls"].as_array().expect("calls").iter().cloned());
        }
        let call = |index: u64, id: &str, name: &str| json!({"id": id, "function": {"index": index, "name": name, "arguments": {}}});
        assert_eq!(told, [call(0, "a", "f"), call(1, "b", "g")]);
        assert_eq!(last["message"], json!({"role": "assistant", "content": ""}));
    }
}

/// Until the first piece of the answer is there, nothing is said: what comes then may still be an
/// error with a status.
#[test]
fn a_stream_s_head_waits_for_its_first_line() {
    let bench = Bench::new();
    for route in TEXT {
        let role =
            json!({"choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}}]});
        bench.upstream.script(vec![
            stream_head(),
            frame(&format!("data: {role}\n\n")),
            frame("data: {\"error\":{\"message\":\"too late\",\"code\":429}}\n\n"),
            last_frame(),
        ]);
        let answer = bench.ask(route, &json!({}));
        assert_eq!((answer.status(), answer.error().as_str()), (429, "too late"), "{route}");
        let kind = answer.head.header("content-type");
        assert_eq!(kind, Some("application/json; charset=utf-8"), "{route}");
        bench.upstream.request();
    }
}

#[test]
fn an_error_after_the_first_line_is_one_more_line_and_the_last() {
    let bench = Bench::new();
    let error = "data: {\"error\":{\"message\":\"out of <memory>\"}}\n\n";
    let early = "{\"error\":\"the upstream ended its answer early\"}\n";
    for route in TEXT {
        // What would have ended it well comes too late.
        let failed = std::iter::once(frame(error)).chain(ending()).collect();
        for (end, expected) in [
            (failed, "{\"error\":\"out of \\u003cmemory\\u003e\"}\n"),
            (vec![last_frame()], early),
            (vec![Step::Close], early),
        ] {
            let steps = [stream_head(), delta("One")].into_iter().chain(end).collect();
            let answer = bench.played(route, &json!({}), steps);
            let (first, rest) = answer.body.split_once('\n').expect("two lines");
            assert!(first.ends_with("\"done\":false}"), "{route}: {first}");
            assert_eq!(rest, expected, "{route}");
        }
    }
}

#[test]
fn the_last_line_of_a_long_conversation_fits_what_go_s_client_reads() {
    const MOST: usize = 8_000_000;
    let bench = Bench::new();
    let prompt = json!({"prompt": "long ".repeat(500_000)});
    let answer = bench.played(GENERATE, &prompt, upstream::stream(&["ok"]));
    let (last, _) = objects(&answer.body);
    assert!(last["context"].as_array().is_some_and(|context| !context.is_empty()));
    let longest = answer.body.lines().map(str::len).max();
    assert!(longest < Some(MOST), "{longest:?}");
}
