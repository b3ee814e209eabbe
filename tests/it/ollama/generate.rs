//! `/api/generate`: prompts, system prompts, raw prompts, and conversations that continue from a
//! `context`.

use super::answers::objects;
use crate::support::*;

#[test]
fn generate_ends_with_a_context_of_small_ints() {
    let (upstream, proxy) = pair();
    upstream.script(vec![answer("Hi")]);
    let body = json!({"model": "m", "prompt": "h\u{e9}llo \u{1f600}", "stream": false});
    let answer = proxy.post("/api/generate", &body).json();
    let context = answer["context"].as_array().expect("a list");
    assert!(!context.is_empty());
    let is_small = |item: &Value| item.as_i64().is_some_and(|item| i32::try_from(item).is_ok());
    assert!(context.iter().all(is_small), "{context:?}");
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

#[test]
fn a_conversation_goes_on_from_its_context() {
    let (upstream, proxy) = pair();
    upstream.script(upstream::stream(&["Blue", "."])).script(vec![answer("Rayleigh.")]);
    let first = json!({"model": "m", "prompt": "What colour?", "system": "Be brief."});
    let lines = proxy.post("/api/generate", &first).lines();
    let context = &lines.last().expect("lines")["context"];
    assert!(
        context
            .as_array()
            .expect("a list")
            .iter()
            .all(|number| number.as_i64().is_some_and(|it| i32::try_from(it).is_ok()))
    );
    assert!(lines[0].get("context").is_none(), "only in the final object");
    let second = json!({"model": "m", "prompt": "Why?", "context": context, "stream": false});
    proxy.post("/api/generate", &second);
    upstream.request();
    assert_eq!(
        upstream.request().json()["messages"],
        json!([
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "What colour?"},
            {"role": "assistant", "content": "Blue."},
            {"role": "user", "content": "Why?"},
        ])
    );
}

#[test]
fn raw_prompts_go_to_completions() {
    let (upstream, proxy) = pair();
    let text = r#"{"choices":[{"index":0,"text":" yes","finish_reason":"stop"}],"usage":{"prompt_tokens":1,"completion_tokens":1}}"#;
    upstream.script(vec![upstream::json(text)]);
    let body = json!({"model": "m", "prompt": "<s>is it?", "raw": true, "stream": false});
    let answer = proxy.post("/api/generate", &body).json();
    assert_eq!(answer["response"], " yes");
    assert!(answer.get("context").is_none(), "never with raw");
    let request = upstream.request();
    assert_eq!(request.path, "/v1/completions");
    assert_eq!(request.json()["prompt"], "<s>is it?");
}
