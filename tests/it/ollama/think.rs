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
