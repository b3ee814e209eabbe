//! The rows of ollama-api.md 8, 9 and 10, chat, generate and embeddings, over real sockets.
//!
//! | row | held by |
//! | --- | --- |
//! | 8.1, 9.1 each member | `rows_5.rs`, `rows_5_6.rs` |
//! | 8.1 members of other routes are ignored | here |
//! | 8.1, 9.1 stored messages and system prompts of a model, and which win | `manage.rs` `a_chat_with_a_made_model_brings_all_that_it_was_made_with`, `src/translate/virtual_model/overlay.rs` |
//! | 8.2, 9.2 every member in its order | here (streams and whole answers), `golden/*/answer-logprobs`, `golden/generate/stream-raw-logprobs` |
//! | 8.2, 9.2 `created_at` of each object | here |
//! | 8.3, 9.3 the examples | here |
//! | 8.4, 9.4 load and unload | here, `routes.rs` `load_and_unload_are_answered_without_the_upstream` |
//! | 8.4 `keep_alive` 0 with messages | `rows_5.rs` `zero_unloads_after_the_answer` |
//! | 9.1 a model's name, missing or unknown | `catalogue.rs` |
//! | 9.1 `suffix` | `fill_in.rs`, `golden/generate/request-suffix*` |
//! | 9.1 `system`, `template` | here, `golden/generate/request-system` |
//! | 9.1 `context`: what came back, and any other list | `routes.rs` `a_conversation_goes_on_from_its_context`, here |
//! | 9.1 `raw` and what it excludes | `routes.rs` `raw_prompts_go_to_completions`, `catalogue.rs` `members_that_exclude_each_other` |
//! | 9.1 `raw` with `suffix` or `format` | `golden/generate/request-suffix-llamacpp-raw`, `golden/generate/request-raw-limit` |
//! | 9.1 `images` | `media.rs` |
//! | 9.2 `context` in the final object, not with `raw`, not of load | here |
//! | 10.1 forms of `input` | `golden/embed/*`, `catalogue.rs` `members_that_are_out_of_range`, `routes.rs` `nothing_to_embed_loads_or_unloads_the_model_without_the_upstream` |
//! | 10.1 `truncate` | `routes.rs` `inputs_that_are_too_long_are_cut_unless_that_is_not_wanted` |
//! | 10.1 `dimensions`, unit length, order of members, models for chat | here |
//! | 10.1 all or nothing | `batches.rs` `one_failing_batch_fails_all` |
//! | 10.1, 10.2 `keep_alive`, `options` | `rows_5.rs` |
//! | 10.2 the bare vector as the upstream made it, never cut to fit | here, `golden/embeddings/plain` |

use std::time::SystemTime;

use crate::support::bench::{Bench, CHAT, EMBED, EMBEDDINGS, GENERATE, TEXT, chunks, request};
use crate::support::upstream::{self, Step, ending, status};
use ollama_openai_proxy::clock;
use serde_json::{Value, json};

/// Members whose values differ from one time to the next.
const CHANGING: &[&str] = &[
    "created_at",
    "total_duration",
    "load_duration",
    "prompt_eval_duration",
    "eval_duration",
    "context",
];

/// The text of an answer with a `_` for each value that differs from one time to the next.
fn masked(body: &str) -> String {
    let mut out = body.to_owned();
    for name in CHANGING {
        let mark = format!("\"{name}\":");
        let mut pieces = out.split(&mark);
        let mut text = pieces.next().unwrap_or_default().to_owned();
        for piece in pieces {
            let end = match piece.strip_prefix('[') {
                Some(list) => list.find(']').map(|end| end + 2),
                None => piece.find([',', '}']),
            };
            text.extend([&mark, "_", &piece[end.expect("a value ends")..]]);
        }
        out = text;
    }
    out
}

const METRICS: &str = r#""total_duration":_,"load_duration":_,"prompt_eval_count":88,"prompt_eval_duration":_,"eval_count":31,"eval_duration":_}"#;

/// The end of an upstream's stream with the counts of [`METRICS`].
fn counted(mut pieces: Vec<Value>, reason: &str) -> Vec<Step> {
    pieces.push(json!({"choices": [{"index": 0, "delta": {}, "finish_reason": reason}],
        "usage": {"prompt_tokens": 88, "completion_tokens": 31, "total_tokens": 119}}));
    let mut steps = chunks(&pieces);
    // The counts are said already: what remains of the usual ending is the marker.
    let end = steps.len() - ending().len();
    steps.truncate(end);
    steps.extend([upstream::frame("data: [DONE]\n\n"), upstream::last_frame()]);
    steps
}

fn adds(delta: &Value) -> Value {
    json!({"choices": [{"index": 0, "delta": delta}]})
}

#[test]
fn members_of_other_routes_are_ignored_whatever_they_hold() {
    let bench = Bench::new();
    for held in [json!("x"), json!(5), json!(true), json!([1]), json!({"a": "b"})] {
        for (route, others) in [
            (
                CHAT,
                &["system", "template", "tool_choice", "prompt", "suffix", "context", "raw"][..],
            ),
            (CHAT, &["images", "input", "dimensions", "temperature", "name", "response_format"]),
            (GENERATE, &["messages", "tools", "tool_choice", "input", "dimensions", "temperature"]),
            (EMBED, &["prompt", "messages", "stream", "format", "think", "encoding_format"]),
            (EMBEDDINGS, &["input", "truncate", "dimensions", "stream", "messages", "logprobs"]),
        ] {
            let plain = bench.sent(route, &json!({}));
            for other in others {
                let change = json!({*other: held});
                assert_eq!(bench.sent(route, &change), plain, "{route} {change}");
            }
        }
    }
}

#[test]
fn a_chat_with_thinking_and_a_call_is_streamed_as_the_example_shows() {
    let bench = Bench::new();
    let call = json!({"tool_calls": [{"index": 0, "id": "call_a1b2c3d4", "type": "function",
        "function": {"name": "get_time", "arguments": "{\"city\": \"Bonn\"}"}}]});
    let steps = counted(
        vec![adds(&json!({"reasoning_content": "Look it up."})), adds(&call)],
        "tool_calls",
    );
    let found = masked(&bench.played(CHAT, &json!({"model": "M:latest"}), steps).body);
    let line = |message: &str, rest: &str| {
        format!(
            r#"{{"model":"M:latest","created_at":_,"message":{{"role":"assistant","content":""{message}}},{rest}"#
        ) + "\n"
    };
    let call = r#","tool_calls":[{"id":"call_a1b2c3d4","function":{"index":0,"name":"get_time","arguments":{"city":"Bonn"}}}]"#;
    let expected = [
        line(r#","thinking":"Look it up.""#, r#""done":false}"#),
        line(call, r#""done":false}"#),
        line("", &format!(r#""done":true,"done_reason":"stop",{METRICS}"#)),
    ];
    assert_eq!(found, expected.concat());
}

#[test]
fn whole_answers_are_as_the_examples_show() {
    let bench = Bench::new();
    let answer = json!({"choices": [{"message": {"content": "Hello.", "reasoning": "Hm."},
            "finish_reason": "length"}],
        "usage": {"prompt_tokens": 88, "completion_tokens": 31, "total_tokens": 119}});
    let change = json!({"stream": false});
    let told = |route: &str| {
        let steps = vec![upstream::json(&answer.to_string())];
        masked(&bench.played(route, &change, steps).body)
    };
    let chat = r#"{"model":"m","created_at":_,"message":{"role":"assistant","content":"Hello.","thinking":"Hm."},"done":true,"done_reason":"length","#;
    assert_eq!(told(CHAT), chat.to_owned() + METRICS);
    let generate = r#"{"model":"m","created_at":_,"response":"Hello.","thinking":"Hm.","done":true,"done_reason":"length","context":_,"#;
    assert_eq!(told(GENERATE), generate.to_owned() + METRICS);
}

#[test]
fn a_prompt_is_answered_as_the_example_shows() {
    let bench = Bench::new();
    let steps =
        || counted(["Blue", "."].map(|text| adds(&json!({"content": text}))).to_vec(), "stop");
    let line = |text: &str, rest: &str| {
        format!(r#"{{"model":"m","created_at":_,"response":"{text}",{rest}"#) + "\n"
    };
    let (one, two) = (line("Blue", r#""done":false}"#), line(".", r#""done":false}"#));
    let end = |context: &str| {
        line("", &format!(r#""done":true,"done_reason":"stop",{context}{METRICS}"#))
    };
    let found = masked(&bench.played(GENERATE, &json!({}), steps()).body);
    assert_eq!(found, [&one, &two, &end(r#""context":_,"#)].map(String::as_str).concat());
    // Without a chat template there is nothing to go on from.
    let raw = masked(&bench.played(GENERATE, &json!({"raw": true}), steps()).body);
    assert_eq!(raw, [&one, &two, &end("")].map(String::as_str).concat());
}

#[test]
fn each_object_has_the_time_at_which_it_was_made() {
    let bench = Bench::new();
    for route in TEXT {
        let (go_on, steps) = upstream::halting();
        bench.upstream.script(steps);
        let mut client = bench.proxy.client();
        let before = SystemTime::now();
        client.post(route, request(route, &json!({})).to_string()).head();
        let mut time = || {
            let line: Value = serde_json::from_str(&client.frame().expect("a line")).expect("JSON");
            let text = line["created_at"].as_str().expect("a time").to_owned();
            assert!(text.ends_with('Z'), "{text}");
            clock::parse(&text).expect("RFC 3339")
        };
        let first = time();
        let between = SystemTime::now();
        drop(go_on);
        assert!(before <= first && first <= between && between <= time(), "{route}");
    }
}

#[test]
fn loading_and_unloading_are_one_object_without_counters() {
    let bench = Bench::new();
    let empty = [
        json!({}),
        json!({"prompt": null, "messages": null}),
        json!({"prompt": "", "messages": []}),
    ];
    let more = [
        json!({}),
        json!({"stream": true}),
        json!({"stream": false}),
        json!({"images": ["iVBORw0KGgo="], "suffix": "x"}),
        json!({"system": "x", "format": "xml"}),
    ];
    let reasons = [
        (json!(null), "load"),
        (json!("5m"), "load"),
        (json!(-1), "load"),
        (json!(0), "unload"),
        (json!("0"), "unload"),
        (json!("0s"), "unload"),
        (json!(0), "unload"),
    ];
    for (route, text) in
        [(CHAT, r#""message":{"role":"assistant","content":""}"#), (GENERATE, r#""response":"""#)]
    {
        for (empty, more) in empty.iter().flat_map(|empty| more.iter().map(move |it| (empty, it))) {
            for (keep_alive, reason) in &reasons {
                let mut body = json!({"model": "m", "keep_alive": keep_alive});
                for (name, value) in
                    [empty, more].into_iter().filter_map(Value::as_object).flatten()
                {
                    body[name] = value.clone();
                }
                let answer = bench.post(route, &body);
                let expected = format!(
                    r#"{{"model":"m","created_at":_,{text},"done":true,"done_reason":"{reason}"}}"#
                );
                assert_eq!(
                    (answer.status(), masked(&answer.body)),
                    (200, expected),
                    "{route} {body}"
                );
                let kind = answer.head.header("content-type");
                assert_eq!(kind, Some("application/json; charset=utf-8"), "{route} {body}");
                let running = bench.get("/api/ps")["models"].as_array().map(Vec::len);
                assert_eq!(running, Some(usize::from(*reason == "load")), "{route} {body}");
            }
        }
    }
    assert!(bench.upstream.is_idle());
}

#[test]
fn a_prompt_is_one_message_behind_its_system_prompt() {
    let bench = Bench::new();
    let user = json!({"role": "user", "content": "Hi"});
    let system = json!({"role": "system", "content": "Be brief."});
    for (change, expected) in [
        (json!({}), json!([user])),
        (json!({"system": "Be brief."}), json!([system, user])),
        (json!({"system": "", "template": "", "suffix": "", "raw": false}), json!([user])),
        (json!({"system": "Be brief.", "context": [1, 2.0, -3]}), json!([system, user])),
        (json!({"context": []}), json!([user])),
    ] {
        assert_eq!(bench.sent(GENERATE, &change)["messages"], expected, "{change}");
    }
}

#[test]
fn a_conversation_keeps_its_system_prompt_until_another_one_is_given() {
    let bench = Bench::new();
    let first = bench.played(
        GENERATE,
        &json!({"system": "Be brief.", "stream": false}),
        vec![upstream::answer("Hello.")],
    );
    let context = first.json()["context"].clone();
    let turns = |system: &str| {
        json!([{"role": "system", "content": system}, {"role": "user", "content": "Hi"},
            {"role": "assistant", "content": "Hello."}, {"role": "user", "content": "Why?"}])
    };
    let mut change = json!({"prompt": "Why?", "context": context});
    assert_eq!(bench.sent(GENERATE, &change)["messages"], turns("Be brief."));
    change["system"] = "Be long.".into();
    assert_eq!(bench.sent(GENERATE, &change)["messages"], turns("Be long."));
}

/// Vectors with their count, as an upstream tells of them.
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
        // Ollama's numbers are 32 bits wide, and so are their digits.
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

#[test]
fn dimensions_cut_and_bring_to_unit_length_again() {
    let bench = Bench::new();
    for (dimensions, expected) in [
        (json!(1), json!([1])),
        (json!(2), json!([0.6, 0.8])),
        (json!(2.9), json!([0.6, 0.8])),
        (json!(3), json!([0.6, 0.8, 0])),
        (json!(4), json!([0.6, 0.8, 0])),
        (json!(0), json!([0.6, 0.8, 0])),
        (json!(-1), json!([0.6, 0.8, 0])),
        (json!(null), json!([0.6, 0.8, 0])),
    ] {
        let change = json!({"dimensions": dimensions});
        let answer = bench.played(EMBED, &change, vectors(&json!([[3, 4, 0]]))).json();
        assert_eq!(answer["embeddings"], json!([expected]), "{dimensions}");
        assert_eq!(bench.added(EMBED, &change), json!({}), "the upstream cuts nothing");
    }
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
    let answer = bench.ask(EMBEDDINGS, &change);
    assert_eq!((answer.status(), answer.error().as_str()), (400, text));
    assert_eq!(bench.upstream.request().json()["input"], json!(["Hi"]));
    assert!(bench.upstream.is_idle(), "a shorter prompt is not tried");
}
