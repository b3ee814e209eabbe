//! The rows of ollama-api.md 5.1 to 5.5 and 5.8, shared request fields, over real sockets. Messages
//! and tools (5.6, 5.7, 5.9) are in `rows_5_6.rs`.
//!
//! | row | held by |
//! | --- | --- |
//! | 5.1 request before model before default | `manage.rs` `a_chat_with_a_made_model_brings_all_that_it_was_made_with` |
//! | 5.1 each option, its type, `null`, fractions, former names | here |
//! | 5.1 what other families are sent | `golden/chat/request-options-*` |
//! | 5.2 every form, and the texts of bad ones | here; each digit of Go's grammar in `src/keep_alive.rs` |
//! | 5.2 `OLLAMA_KEEP_ALIVE` read from the environment | `environment.rs` `what_has_a_meaning_is_honoured_in_any_quotes` |
//! | 5.3 every form, and the texts of bad ones | here; other families in `src/translate/think.rs` |
//! | 5.3 reasoning shown unless `false` | here (generate), `rows_18_12.rs` `reasoning_is_shown_unless_think_is_false` (chat) |
//! | 5.4 every form, and the text of bad ones | here; a schema's `strict` in `golden/chat/request-format-schema-strict` |
//! | 5.4 the answer is text and never parsed | here |
//! | 5.5 forms and kinds | `media.rs`, `golden/chat/request-images`, `src/translate/media.rs` |
//! | 5.5 bad base64 | `catalogue.rs` `images_that_are_none` |
//! | 5.5 models without vision are sent images, too | `media.rs`: its model has no such capability |
//! | 5.8 `stream` on all five routes, `truncate` and `shift` of chat and generate | here |
//! | 5.8 `truncate` of embed | `routes.rs` `inputs_that_are_too_long_are_cut_unless_that_is_not_wanted` |
//! | 5.8 `logprobs`, `top_logprobs` | `golden/chat/request-logprobs*`, `tools.rs` `log_probabilities_come_only_when_asked_for` |
//! | 5.8 `top_logprobs` out of range | `catalogue.rs` `members_that_are_out_of_range` |
//! | 5.8 `_debug_render_only` (refused: the upstream renders) | `protocol.rs` `what_cannot_be_translated_is_refused_by_name` |

use std::time::{Duration, SystemTime};

use crate::support::bench::{Bench, CHAT, GENERATE, INFERENCE, LLAMA, TEXT, deltas};
use crate::support::proxy::Proxy;
use crate::support::upstream::{self, Upstream};
use ollama_openai_proxy::clock;
use ollama_openai_proxy::keep_alive::{KeepAlive, LONGEST};
use serde_json::{Value, json};

/// The type of an option, as its refusal calls it.
#[derive(Clone, Copy)]
enum Kind {
    Integer,
    Float,
    Bool,
    Strings,
}
use Kind::{Bool, Float, Integer, Strings};

/// Every option: its type, a value of it, and what of that goes upstream as JSON text: to llama.cpp
/// and to a family that is not known.
const OPTIONS: &[(&str, Kind, &str, &str, &str)] = &[
    ("num_ctx", Integer, "8192.9", "{}", "{}"),
    ("num_predict", Integer, "7.9", r#"{"max_tokens":7}"#, r#"{"max_tokens":7}"#),
    ("num_keep", Integer, "4.9", r#"{"n_keep":4}"#, "{}"),
    ("seed", Integer, "42.9", r#"{"seed":42}"#, r#"{"seed":42}"#),
    ("temperature", Float, "0.5", r#"{"temperature":0.5}"#, r#"{"temperature":0.5}"#),
    ("top_k", Integer, "40.9", r#"{"top_k":40}"#, "{}"),
    ("top_p", Float, "0.25", r#"{"top_p":0.25}"#, r#"{"top_p":0.25}"#),
    ("min_p", Float, "0.05", r#"{"min_p":0.05}"#, "{}"),
    ("typical_p", Float, "0.75", r#"{"typical_p":0.75}"#, "{}"),
    ("repeat_last_n", Integer, "64.9", r#"{"repeat_last_n":64}"#, "{}"),
    ("repeat_penalty", Float, "1.5", r#"{"repeat_penalty":1.5}"#, "{}"),
    ("presence_penalty", Float, "1", r#"{"presence_penalty":1}"#, r#"{"presence_penalty":1}"#),
    (
        "frequency_penalty",
        Float,
        "-0.5",
        r#"{"frequency_penalty":-0.5}"#,
        r#"{"frequency_penalty":-0.5}"#,
    ),
    ("stop", Strings, r#"["a","b"]"#, r#"{"stop":["a","b"]}"#, r#"{"stop":["a","b"]}"#),
    ("num_batch", Integer, "512.9", "{}", "{}"),
    ("num_gpu", Integer, "-1.9", "{}", "{}"),
    ("main_gpu", Integer, "1", "{}", "{}"),
    ("use_mmap", Bool, "false", "{}", "{}"),
    ("num_thread", Integer, "8", "{}", "{}"),
    ("draft_num_predict", Integer, "4", "{}", "{}"),
];

fn value(text: &str) -> Value {
    serde_json::from_str(text).expect("JSON")
}

fn option(name: &str, value: &Value) -> Value {
    json!({"options": {name: value}})
}

#[test]
fn each_option_goes_where_it_is_known_with_its_fraction_cut() {
    let (llama, unknown) = (Bench::over(LLAMA), Bench::new());
    for (name, _, given, to_llama, to_unknown) in OPTIONS {
        let change = option(name, &value(given));
        for route in TEXT {
            assert_eq!(llama.added(route, &change), value(to_llama), "{route} {change}");
            assert_eq!(unknown.added(route, &change), value(to_unknown), "{route} {change}");
        }
    }
}

#[test]
fn an_option_that_is_null_or_not_set_is_left_to_the_upstream() {
    let llama = Bench::over(LLAMA);
    for (name, ..) in OPTIONS {
        for route in INFERENCE {
            let change = option(name, &Value::Null);
            assert_eq!(llama.added(route, &change), json!({}), "{route} {change}");
        }
    }
    for change in [json!({}), json!({"options": null}), json!({"options": {}})] {
        assert_eq!(llama.added(CHAT, &change), json!({}), "{change}");
    }
}

#[test]
fn an_option_of_a_wrong_type_is_refused_by_its_name() {
    let bench = Bench::new();
    let no_number = ["\"5\"", "true", "[1]", "{}"];
    for (name, kind, ..) in OPTIONS {
        let (right, wrong) = match kind {
            Integer => ("of type integer", no_number),
            Float => ("of type float32", no_number),
            Bool => ("of type boolean", ["\"true\"", "1", "[true]", "{}"]),
            Strings => ("of type array", ["\"a\"", "1", "true", "{}"]),
        };
        for (route, wrong) in INFERENCE.iter().flat_map(|route| wrong.map(|wrong| (route, wrong))) {
            let text = format!("option \"{name}\" must be {right}");
            bench.refused(route, &option(name, &value(wrong)), 500, &text);
        }
    }
    for wrong in ["[1]", "[null]", r#"["a",true]"#, "[[]]"] {
        let text = "option \"stop\" must be of an array of strings";
        bench.refused(CHAT, &option("stop", &value(wrong)), 500, text);
    }
}

#[test]
fn former_and_unknown_options_are_ignored_whatever_they_hold() {
    let (llama, unknown) = (Bench::over(LLAMA), Bench::new());
    for name in [
        "mirostat",
        "mirostat_eta",
        "mirostat_tau",
        "tfs_z",
        "penalize_newline",
        "numa",
        "low_vram",
        "f16_kv",
        "vocab_only",
        "use_mlock",
        "logits_all",
        "embedding_only",
        "no_such_option",
    ] {
        for held in [json!("x"), json!(2), json!(true), json!([1]), json!({"a": 1})] {
            let change = option(name, &held);
            assert_eq!(llama.added(CHAT, &change), json!({}), "{change}");
            assert_eq!(unknown.added(GENERATE, &change), json!({}), "{change}");
        }
    }
}

#[test]
fn any_negative_limit_is_open_and_a_seed_of_minus_one_is_random() {
    let (llama, unknown) = (Bench::over(LLAMA), Bench::new());
    for (name, open) in
        [("num_predict", -1.0), ("num_predict", -1.5), ("num_predict", -100.0), ("seed", -1.0)]
    {
        let change = option(name, &json!(open));
        assert_eq!(llama.added(CHAT, &change), json!({}), "{change}");
        assert_eq!(unknown.added(GENERATE, &change), json!({}), "{change}");
    }
}

/// Sees that the one loaded model stays for `time` from `used` on: the clock is read before and after,
/// and the end lies between the two ends that follow.
fn expires_after(bench: &Bench, time: Duration, used: impl FnOnce(), row: &str) {
    let before = SystemTime::now();
    used();
    let after = SystemTime::now();
    let running = bench.get("/api/ps");
    let expires = running["models"][0]["expires_at"].as_str().expect("it is loaded");
    let expires = clock::parse(expires).expect("a time");
    assert!((before + time..=after + time).contains(&expires), "{row}: {running}");
}

#[test]
fn a_model_stays_as_long_as_keep_alive_says() {
    let bench = Bench::new();
    let hour = Duration::from_secs(3600);
    for (given, time) in [
        (json!(3600), hour),
        (json!(5400.5), Duration::from_millis(5_400_500)),
        (json!("5m"), hour / 12),
        (json!("5m0s"), hour / 12),
        (json!("1h30m"), hour * 3 / 2),
        (json!("1.5h"), hour * 3 / 2),
        (json!("24h"), hour * 24),
        // Every unit.
        (json!("3600000000000ns"), hour),
        (json!("3600000000us"), hour),
        (json!("3600000000\u{b5}s"), hour),
        (json!("3600000ms"), hour),
        (json!("3600s"), hour),
        (json!("60m"), hour),
        (json!("1h"), hour),
        // For ever.
        (json!(-1), LONGEST),
        (json!(-0.5), LONGEST),
        (json!("-1m"), LONGEST),
        (json!("-1s"), LONGEST),
    ] {
        for route in TEXT {
            let load = json!({"prompt": "", "messages": [], "keep_alive": given});
            let load = || assert_eq!(bench.ask(route, &load).status(), 200, "{given}");
            expires_after(&bench, time, load, &format!("{route} {given}"));
        }
    }
}

#[test]
fn every_use_counts_and_without_a_word_the_default_does_for_a_model_that_is_loaded() {
    let upstream = Upstream::start();
    let minutes = |count: u64| Duration::from_secs(60 * count);
    let proxy = Proxy::with(&upstream, |config| config.keep_alive = KeepAlive::For(minutes(7)));
    let bench = Bench { upstream, proxy };
    for route in INFERENCE {
        for (change, time) in [
            (json!({}), minutes(7)),
            (json!({"keep_alive": null}), minutes(7)),
            (json!({"keep_alive": "9m"}), minutes(9)),
        ] {
            let ask = || drop(bench.sent(route, &change));
            expires_after(&bench, time, ask, &format!("{route} {change}"));
            bench.post(GENERATE, &json!({"model": "m", "keep_alive": 0}));
        }
    }
}

#[test]
fn a_loaded_model_keeps_its_time_until_another_one_is_said() {
    let bench = Bench::new();
    let hours = |count: u64| Duration::from_secs(3600 * count);
    for (change, time) in [
        (json!({"keep_alive": "3h"}), hours(3)),
        (json!({}), hours(3)),
        (json!({"keep_alive": null}), hours(3)),
        (json!({"keep_alive": "2h"}), hours(2)),
        (json!({}), hours(2)),
    ] {
        for route in INFERENCE {
            expires_after(&bench, time, || drop(bench.sent(route, &change)), &change.to_string());
        }
    }
}

#[test]
fn forever_shows_as_a_year_far_away() {
    let bench = Bench::new();
    bench.sent(CHAT, &json!({"keep_alive": -1}));
    let expires = bench.get("/api/ps")["models"][0]["expires_at"].clone();
    let year = expires.as_str().and_then(|time| time.get(..4)?.parse::<u32>().ok());
    // 292 years after the use, whenever in two centuries that is.
    assert!(year.is_some_and(|year| (2317..2517).contains(&year)), "{expires}");
}

#[test]
fn a_short_time_is_a_time_too() {
    let bench = Bench::new();
    bench.sent(CHAT, &json!({"keep_alive": -1}));
    bench.sent(CHAT, &json!({"keep_alive": "300ms"}));
    // It may be over by now; what is sure is that it is no longer for ever.
    let soon = SystemTime::now() + Duration::from_secs(60);
    for model in bench.get("/api/ps")["models"].as_array().expect("a list") {
        let expires = clock::parse(model["expires_at"].as_str().expect("a time"));
        assert!(expires.is_some_and(|expires| expires < soon), "{model}");
    }
}

#[test]
fn zero_unloads_after_the_answer() {
    let bench = Bench::new();
    for route in INFERENCE {
        for zero in [json!(0), json!(0.0), json!("0"), json!("0s"), json!("-0s")] {
            bench.sent(route, &json!({"keep_alive": "1h"}));
            assert_eq!(bench.get("/api/ps")["models"][0]["name"], "m:latest");
            // The upstream is asked all the same.
            bench.sent(route, &json!({"keep_alive": zero}));
            assert_eq!(bench.get("/api/ps"), json!({"models": []}), "{route} {zero}");
        }
    }
}

#[test]
fn a_keep_alive_that_is_none_is_refused_in_go_s_words() {
    let bench = Bench::new();
    for (given, text) in [
        (json!("10"), r#"time: missing unit in duration "10""#),
        (json!("-1"), r#"time: missing unit in duration "-1""#),
        (json!("abc"), r#"time: invalid duration "abc""#),
        (json!(""), r#"time: invalid duration """#),
        (json!("1d"), r#"time: unknown unit "d" in duration "1d""#),
        (json!(true), "Unsupported type: 'bool'"),
        (json!(["5m"]), "Unsupported type: '[]interface {}'"),
        (json!({"a": 1}), "Unsupported type: 'map[string]interface {}'"),
    ] {
        for route in INFERENCE {
            bench.refused(route, &json!({"keep_alive": given}), 400, text);
        }
    }
}

#[test]
fn each_form_of_think_is_told_as_the_family_understands_it() {
    let (llama, unknown) = (Bench::over(LLAMA), Bench::new());
    let level = |word: &str| json!({"reasoning_effort": word});
    let told = |kwargs: Value| json!({"chat_template_kwargs": kwargs});
    let llama_level = |word| told(json!({"enable_thinking": true, "reasoning_effort": word}));
    for (think, to_llama, to_unknown) in [
        (json!(null), json!({}), json!({})),
        (json!(true), told(json!({"enable_thinking": true})), json!({})),
        (json!(false), told(json!({"enable_thinking": false})), json!({})),
        (json!("low"), llama_level("low"), level("low")),
        (json!("medium"), llama_level("medium"), level("medium")),
        (json!("high"), llama_level("high"), level("high")),
        (json!("max"), llama_level("high"), level("high")),
    ] {
        for route in TEXT {
            let change = json!({"think": think});
            assert_eq!(llama.added(route, &change), to_llama, "{route} {think}");
            assert_eq!(unknown.added(route, &change), to_unknown, "{route} {think}");
        }
    }
}

#[test]
fn a_think_that_is_none_is_refused() {
    let bench = Bench::new();
    for route in TEXT {
        for word in ["foo", "", "true", "HIGH", "none"] {
            let text = format!(
                "invalid think value: {word:?} (must be \"high\", \"medium\", \"low\", \"max\", true, or false)"
            );
            bench.refused(route, &json!({"think": word}), 400, &text);
        }
        for other in [json!(1), json!(0), json!({}), json!([]), json!(["high"])] {
            let text = "think must be a boolean or string (\"high\", \"medium\", \"low\", \"max\", true, or false)";
            bench.refused(route, &json!({"think": other}), 400, text);
        }
    }
}

#[test]
fn generate_shows_reasoning_unless_think_is_false() {
    let bench = Bench::new();
    for (think, shown) in
        [(json!(null), "Hm."), (json!(true), "Hm."), (json!("low"), "Hm."), (json!(false), "")]
    {
        let steps = deltas(&[json!({"reasoning_content": "Hm."}), json!({"content": "Hi"})]);
        let lines = bench.played(GENERATE, &json!({"think": think}), steps).lines();
        let join = |name: &str| -> String {
            lines.iter().filter_map(|line| line[name].as_str()).collect()
        };
        assert_eq!(
            (join("thinking").as_str(), join("response").as_str()),
            (shown, "Hi"),
            "{think}"
        );
    }
}

#[test]
fn each_form_of_format_becomes_a_response_format() {
    let bench = Bench::new();
    let schema = json!({"type": "object", "properties": {"a": {"type": "integer", "title": "A"}}});
    let named = json!({"type": "json_schema", "json_schema": {"name": "schema", "schema": schema}});
    for (format, expected) in [
        (json!(null), json!(null)),
        (json!(""), json!(null)),
        (json!("json"), json!({"type": "json_object"})),
        (schema.clone(), named),
    ] {
        for route in TEXT {
            let added = bench.added(route, &json!({"format": format}));
            assert_eq!(added["response_format"], expected, "{route} {format}");
            assert!(added.get("format").is_none(), "{route} {format}");
        }
    }
}

#[test]
fn a_format_that_is_none_is_a_500_also_for_a_stream() {
    let bench = Bench::new();
    for (format, shown) in [
        (json!("xml"), r#""\"xml\"""#),
        (json!("JSON"), r#""\"JSON\"""#),
        (json!(5), r#""5""#),
        (json!(true), r#""true""#),
        (json!(["json"]), r#""[\"json\"]""#),
    ] {
        let text =
            format!("invalid format: {shown}; expected \"json\" or a valid JSON Schema object");
        for (route, stream) in TEXT.iter().flat_map(|route| [(route, true), (route, false)]) {
            bench.refused(route, &json!({"format": format, "stream": stream}), 500, &text);
        }
    }
}

#[test]
fn an_answer_in_json_stays_text() {
    let bench = Bench::new();
    let text = r#"{"age": 5}"#;
    let change = json!({"format": "json", "stream": false});
    let answer = bench.played(CHAT, &change, vec![upstream::answer(text)]).json();
    assert_eq!(answer["message"]["content"], text);
    let answer = bench.played(GENERATE, &change, vec![upstream::answer(text)]).json();
    assert_eq!(answer["response"], text);
}

#[test]
fn answers_are_streams_unless_stream_is_false() {
    let bench = Bench::new();
    for route in [CHAT, GENERATE, "/api/pull", "/api/push", "/api/create"] {
        for (stream, kind) in [
            (None, "application/x-ndjson"),
            (Some(json!(null)), "application/x-ndjson"),
            (Some(json!(true)), "application/x-ndjson"),
            (Some(json!(false)), "application/json"),
        ] {
            let mut body = json!({"model": "m", "prompt": "x", "from": "m",
                "messages": [{"role": "user", "content": "Hi"}]});
            if let Some(stream) = &stream {
                body["stream"] = stream.clone();
            }
            if TEXT.contains(&route) {
                bench.upstream.script(vec![upstream::answer("ok")]);
            }
            let answer = bench.post(route, &body);
            let found = answer.head.header("content-type").expect("a type");
            assert_eq!(found.split(';').next(), Some(kind), "{route} {stream:?}");
            let is_stream = answer.body.ends_with('\n');
            assert_eq!(is_stream, kind == "application/x-ndjson", "{route} {stream:?}");
        }
        let answer = bench.post(route, &json!({"model": "m", "stream": "no"}));
        assert_eq!(answer.status(), 400, "{route}: {}", answer.body);
        assert!(answer.error().ends_with("Request.stream of type bool"), "{}", answer.body);
    }
}

#[test]
fn the_upstream_decides_what_does_not_fit_its_context() {
    let bench = Bench::new();
    for (route, name) in TEXT.iter().zip(["ChatRequest", "GenerateRequest"]) {
        for member in ["truncate", "shift"] {
            for value in [json!(true), json!(false), json!(null)] {
                assert_eq!(bench.added(route, &json!({member: value})), json!({}), "{member}");
            }
            let text = format!(
                "json: cannot unmarshal string into Go struct field {name}.{member} of type bool"
            );
            bench.refused(route, &json!({member: "no"}), 400, &text);
        }
    }
}
