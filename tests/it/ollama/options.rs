//! Options: the type of each, its upstream parameter, and the values that are omitted.

use crate::support::*;

/// The type of an option, as the error for a wrong type names it.
#[derive(Clone, Copy)]
enum Kind {
    Integer,
    Float,
    Bool,
    Strings,
}
use Kind::{Bool, Float, Integer, Strings};

/// Every option: its type, a value, and the upstream parameters as JSON text, for llama.cpp and for an
/// unknown family.
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
    ("repeat_penalty", Float, "1.1", r#"{"repeat_penalty":1.1}"#, "{}"),
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
fn several_options_go_together() {
    let change = json!({"stream": false, "messages": [{"role": "user"}],
        "options": {"top_k": 40, "repeat_penalty": 1.1, "num_predict": 5}});
    let expected = json!({"top_k": 40, "repeat_penalty": 1.1, "max_tokens": 5});
    assert_eq!(Bench::over(LLAMA).added(CHAT, &change), expected);
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
        "mirostat", "mirostat_eta", "mirostat_tau", "tfs_z", "penalize_newline", "numa",
        "low_vram", "f16_kv", "vocab_only", "use_mlock", "logits_all", "embedding_only",
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

const SGLANG: &str = r#"{"data":[{"id":"m","owned_by":"sglang"}]}"#;

#[test]
fn neutral_values_are_left_out() {
    let llama = Bench::over(LLAMA);
    for (name, neutral) in [
        ("num_predict", json!(-1)),
        ("seed", json!(-1)),
        ("min_p", json!(0)),
        ("typical_p", json!(1)),
        ("presence_penalty", json!(0)),
        ("frequency_penalty", json!(0)),
        ("repeat_penalty", json!(1.0)),
        ("stop", json!([])),
        ("stop", json!([""])),
    ] {
        let change = json!({"options": {name: neutral}});
        assert_eq!(llama.added(CHAT, &change), json!({}), "{change}");
    }
    let change = json!({"options": {"temperature": 0, "top_k": 0, "repeat_last_n": 0, "seed": 0}});
    let kept = json!({"temperature": 0, "top_k": 0, "repeat_last_n": 0, "seed": 0});
    assert_eq!(llama.added(CHAT, &change), kept);
    let change = json!({"options": {"top_k": 0}});
    assert_eq!(Bench::over(SGLANG).added(CHAT, &change), json!({"top_k": -1}));
    assert_eq!(Bench::new().added(CHAT, &change), json!({}));
    let change = json!({"options": {"num_predict": -1, "temperature": 0, "seed": 0}});
    assert_eq!(Bench::new().added(CHAT, &change), json!({"temperature": 0, "seed": 0}));
}

#[test]
fn a_limit_is_sent_when_it_is_one_and_always_to_completions() {
    let bench = Bench::new();
    for (limit, expected) in
        [(-1, json!({})), (-2, json!({})), (0, json!({})), (1, json!({"max_tokens": 1}))]
    {
        let change = json!({"options": {"num_predict": limit}});
        assert_eq!(bench.added(CHAT, &change), expected, "{limit}");
        let raw = json!({"raw": true, "options": {"num_predict": limit}});
        let sent = bench.added(GENERATE, &raw);
        let explicit = if limit == 1 { 1 } else { 4096 };
        assert_eq!(sent, json!({"max_tokens": explicit}), "{limit}");
    }
}
