//! What a name means where there are several upstreams.

use ollama_openai_proxy::models::configured::Strategy;
use ollama_openai_proxy::models::virtual_model::VirtualModel;
use std::sync::Arc;

use crate::support::fleet::{Fleet, configured, fleet};
use crate::support::*;

fn made(fleet: &Fleet, body: &Value) {
    let answer = fleet.proxy.post("/api/create", body);
    assert_eq!(answer.status(), 200, "{}", answer.body);
}

#[test]
fn a_name_means_the_first_of_configured_made_listed_and_prefixed() {
    let lists: [&[&str]; 3] = [&["m", "both", "c/x"], &["both", "Org/B-7b", "a/m"], &["x", "m2"]];
    let fleet = fleet(&lists, |config| {
        config.models = vec![
            configured("both", &["c/m2"], Strategy::Order),
            configured("mine", &["b/both"], Strategy::Order),
        ];
    });
    made(&fleet, &json!({"model": "made", "from": "b/both", "stream": false}));
    made(&fleet, &json!({"model": "of-mine", "from": "mine", "stream": false}));
    for (name, expected) in [
        ("both", "c"), // A configured name hides an upstream's.
        ("both:latest", "c"),
        ("mine", "b"),
        ("made", "b"),
        ("of-mine", "b"),
        ("m", "a"),
        ("M:latest", "a"), // By the rules for names.
        ("org/b-7B", "b"),
        ("a/m", "b"),    // Listed with exactly this text.
        ("a/both", "a"), // Each replica can be addressed.
        ("b/both", "b"),
        ("b/Org/B-7b", "b"),
        ("c/x", "a"), // Listed with exactly this text by another one.
        ("c/m2", "c"),
        ("c/unlisted", "c"), // Lists are incomplete, and this one is asked for it.
    ] {
        assert_eq!(fleet.chat(name), expected, "{name}");
    }
    let sent = fleet.upstreams[1].request().json();
    assert_eq!(sent["model"], "both", "the prefix stays here");
}

#[test]
fn an_unknown_name_is_no_upstream_s_business() {
    let fleet = fleet(&[&["m"], &["n"]], |_| {});
    assert_eq!(fleet.chat("nowhere"), "404 model 'nowhere' not found");
    assert_eq!(fleet.chat("z/m"), "404 model 'z/m' not found");
    assert_eq!(fleet.asked(), "");
    let answer = fleet.proxy.post("/v1/chat/completions", &json!({"model": "nowhere"}));
    assert_eq!((answer.status(), fleet.asked().as_str()), (404, ""));
}

#[test]
fn an_unlisted_name_goes_to_upstreams_without_a_list_only() {
    let lists: [&[&str]; 3] = [&["m"], &[], &["n"]];
    let fleet = fleet(&lists, |config| config.upstreams[2].exclude = vec!["excl*".to_owned()]);
    fleet.upstreams[1].script_lists();
    fleet.upstreams[1].judge(|request| match request.path.ends_with("/models") {
        true => Some(vec![status(404, &[], r#"{"error":"no such route"}"#)]),
        false => Some(vec![upstream::answer("b")]),
    });
    assert_eq!(fleet.chat("unlisted"), "b");
    assert_eq!(fleet.asked().replace('b', ""), "", "others are not asked");
    fleet.asked();
    assert_eq!(fleet.chat("c/x"), "c", "what a prefix names goes there");
    assert_eq!(fleet.chat("c/excluded"), "404 model 'c/excluded' not found");
    assert_eq!(fleet.asked(), "c", "and nowhere else");
    assert_eq!(fleet.chat("m"), "a");
}

#[test]
fn globs_and_fixed_lists_say_which_models_an_upstream_has() {
    let lists: [&[&str]; 2] = [&["qwen3", "qwen3-base", "llama"], &["never-asked"]];
    let fleet = fleet(&lists, |config| {
        config.upstreams[0].models = vec!["qwen*".to_owned(), "*ama".to_owned()];
        config.upstreams[0].exclude = vec!["*-base".to_owned()];
        config.upstreams[1].list = Some(vec!["fixed".to_owned(), "llama".to_owned()]);
    });
    let names = ["qwen3:latest", "llama:latest", "fixed:latest"];
    assert_eq!(fleet.proxy.names(), names);
    assert_eq!(fleet.chat("fixed"), "b");
    assert_eq!(fleet.chat("qwen3-base"), "404 model 'qwen3-base' not found");
    assert_eq!(fleet.chat("a/qwen3-base"), "404 model 'a/qwen3-base' not found");
    assert_eq!(fleet.chat("b/llama"), "b");
    let loaded = |name: &str| fleet.proxy.post("/api/chat", &json!({"model": name})).status();
    assert_eq!((loaded("a/qwen3"), loaded("a/qwen3-base"), loaded("nowhere")), (200, 404, 404));
}

#[test]
fn a_configured_model_has_the_defaults_of_a_modelfile() {
    let mut pirate = configured("pirate", &["b/n"], Strategy::Order);
    let model = VirtualModel {
        system: "You are a pirate.".to_owned(),
        parameters: json!({"temperature": 0.25}).as_object().expect("an object").clone(),
        ..(*pirate.model).clone()
    };
    pirate.model = Arc::new(model);
    pirate.context_length = Some(4096);
    pirate.capabilities = Some(vec!["completion".to_owned(), "vision".to_owned()]);
    let fleet = fleet(&[&["m"], &["n"]], |config| config.models = vec![pirate]);
    assert_eq!(fleet.chat("pirate"), "b");
    let sent = fleet.upstreams[1].request().json();
    assert_eq!(sent["messages"][0], json!({"role": "system", "content": "You are a pirate."}));
    assert_eq!((&sent["temperature"], &sent["model"]), (&json!(0.25), &json!("n")));
    let body = json!({"model": "pirate", "messages": [{"role": "user", "content": "Hi"}]});
    assert_eq!(fleet.proxy.post("/v1/chat/completions", &body).status(), 200);
    let sent = fleet.upstreams[1].request().json();
    assert_eq!(sent["messages"][0]["content"], "You are a pirate.");
    let shown = fleet.proxy.show("pirate");
    assert_eq!(shown["capabilities"], json!(["completion", "vision"]));
    assert_eq!(shown["system"], "You are a pirate.");
    let length = shown["model_info"].as_object().expect("an object");
    let length = length.iter().find(|(key, _)| key.ends_with(".context_length"));
    assert_eq!(length.map(|(_, value)| value), Some(&json!(4096)));
    let body = json!({"model": "pirate", "messages": [{"role": "user", "content": "Hi"}],
        "tools": [{"type": "function", "function": {"name": "f"}}]});
    assert_eq!(fleet.proxy.post("/api/chat", &body).status(), 400, "no tools");
}
