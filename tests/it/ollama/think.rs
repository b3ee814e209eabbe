//! `think`: accepted forms, the upstream parameter of each family, and when reasoning is returned.

use crate::support::*;

#[test]
fn reasoning_is_shown_unless_think_is_false() {
    let ways = || {
        vec![
            deltas(&[json!({"reasoning_content": "Hm."}), json!({"content": "Hi"})]),
            deltas(&[json!({"reasoning": "Hm."}), json!({"content": "Hi"})]),
            stream(&["<thi", "nk>Hm.</th", "ink>Hi"]),
            stream(&["<th", "ink>H", "m.</think>", "\n\nHi"]),
        ]
    };
    for think in [Value::Null, json!(true), json!("low"), json!(false)] {
        for steps in ways() {
            let upstream = Upstream::start();
            upstream.script(steps);
            let body = json!({"model": "m", "think": think,
                              "messages": [{"role": "user", "content": "x"}]});
            let lines = Proxy::start(&upstream).post("/api/chat", &body).lines();
            let join = |name: &str| -> String {
                lines.iter().filter_map(|line| line["message"][name].as_str()).collect()
            };
            let thought = if think == json!(false) { "" } else { "Hm." };
            assert_eq!(
                (join("content").as_str(), join("thinking").as_str()),
                ("Hi", thought),
                "{lines:?}"
            );
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
fn a_think_that_is_neither_text_nor_switch_is_refused() {
    let bench = Bench::new();
    for route in TEXT {
        for other in [json!(1), json!(0), json!({}), json!([]), json!(["high"])] {
            let text = "think must be a boolean or string";
            bench.refused(route, &json!({"think": other}), 400, text);
        }
    }
}

#[test]
fn any_text_is_a_level_and_some_have_other_names() {
    let bench = Bench::new();
    for (text, expected) in [
        ("hyper", json!({"reasoning_effort": "hyper"})),
        ("minimal", json!({"reasoning_effort": "low"})),
        ("xhigh", json!({"reasoning_effort": "high"})),
        ("ultra", json!({"reasoning_effort": "high"})),
        ("true", json!({})),
        ("none", json!({})),
        ("", json!({})),
    ] {
        for route in TEXT {
            assert_eq!(bench.added(route, &json!({"think": text})), expected, "{route} {text}");
        }
    }
}

/// An upstream that tells of its models which levels they take (OpenRouter).
const LEVELS: &str = r#"{"data":[
    {"id":"levels","owned_by":"o","supported_parameters":["reasoning"],"reasoning":{"mandatory":false,
        "supported_efforts":["max","high","low"],"default_effort":"high"}},
    {"id":"switch","owned_by":"o","reasoning":{"mandatory":false,"default_enabled":false}},
    {"id":"plain","owned_by":"o","supported_parameters":["tools"]}]}"#;

#[test]
fn show_tells_which_values_of_think_a_model_takes() {
    let bench = Bench::over(LEVELS);
    let show = |name: &str| bench.post("/api/show", &json!({"model": name})).json();
    let check = |name: &str, expected: Value| {
        let shown = show(name);
        assert_eq!(shown.get("thinking").cloned().unwrap_or_default(), expected, "{name}");
        let thinks = shown["capabilities"].as_array().expect("a list").contains(&json!("thinking"));
        assert_eq!(thinks, !expected.is_null(), "{name}");
    };
    check("levels", json!({"values": [false, "low", "high", "max"], "default": "high"}));
    check("switch", json!({"values": [false, true], "default": false}));
    check("plain", Value::Null);
    // The names of families tell it where the server does not.
    let bench = Bench::over(r#"{"data":[{"id":"gpt-oss:20b"},{"id":"qwen3:8b"},{"id":"m"}]}"#);
    let show = |name: &str| bench.post("/api/show", &json!({"model": name})).json();
    let levels = json!({"values": ["low", "medium", "high"], "default": "medium"});
    assert_eq!(show("gpt-oss:20b")["thinking"], levels);
    assert_eq!(show("qwen3:8b")["thinking"], json!({"values": [false, true], "default": true}));
    assert!(show("m").get("thinking").is_none(), "of others nothing is promised");
    bench.post("/api/copy", &json!({"source": "gpt-oss:20b", "destination": "mine"}));
    assert_eq!(show("mine")["thinking"], levels, "a created model thinks as its base does");
}

#[test]
fn a_level_that_the_model_does_not_know_means_its_default() {
    let bench = Bench::over(LEVELS);
    for (model, think, expected) in [
        ("levels", "max", json!({"reasoning_effort": "high"})),
        ("levels", "low", json!({"reasoning_effort": "low"})),
        ("levels", "hyper", json!({})),
        ("levels", "medium", json!({"reasoning_effort": "high"})),
        ("switch", "hyper", json!({})),
        ("switch", "high", json!({"reasoning_effort": "high"})),
    ] {
        for route in TEXT {
            let added = bench.added(route, &json!({"model": model, "think": think}));
            assert_eq!(added, expected, "{route} {model} {think}");
        }
    }
}

#[test]
fn a_refused_level_is_left_out_and_that_is_remembered() {
    let bench = Bench::new();
    let refusal = r#"{"error":{"message":"Invalid value: 'hyper'. Supported values are: 'low' and 'high'.","type":"invalid_request_error","param":"reasoning_effort","code":"invalid_value"}}"#;
    bench.upstream.script(vec![status(400, &[], refusal)]);
    for round in 0..2 {
        bench.upstream.script(vec![answer("ok")]);
        let body = json!({"model": "m", "think": "hyper", "stream": false,
            "messages": [{"role": "user", "content": "x"}]});
        assert_eq!(bench.post(CHAT, &body).status(), 200, "{round}");
    }
    assert_eq!(bench.upstream.request().json()["reasoning_effort"], "hyper");
    for _ in 0..2 {
        assert_ne!(bench.upstream.request().json()["reasoning_effort"], "hyper");
    }
    assert!(bench.upstream.is_idle());
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
