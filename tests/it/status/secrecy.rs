//! Neither prompts nor answers nor keys are ever in what the status page shows.

use super::{await_recent, await_status};
use crate::support::*;
use ollama_openai_proxy::http::client_keys::ClientKeys;
use ollama_openai_proxy::observe::redact::Secret;

const PROMPT: &str = "pr0mpt-w0rds-nobody-may-see";
const ANSWER: &str = "answ3r-w0rds-nobody-may-see";
const OWN: &str = "own-key-5ec2e7b2-of-a-client";
const UPSTREAM: &str = "upstream-key-77ab12cd";

fn fetch(proxy: &Proxy) -> Answer {
    let key = format!("x-api-key: {OWN}\r\n");
    proxy.client().with("GET", "/status.json", &key, "").answer()
}

#[test]
fn prompts_answers_and_keys_are_nowhere() {
    let (upstream, proxy) = pair_with(|config| {
        config.proxy_api_keys = ClientKeys::parse(OWN).expect("a key");
        config.upstream.api_key = Some(Secret::new(UPSTREAM));
        config.retry.max_retries = 0;
    });
    let key = format!("Authorization: Bearer {OWN}\r\n");
    let echo = format!(
        r#"{{"error":{{"message":"Unrecognized request argument supplied: seed {PROMPT} {OWN} {UPSTREAM}"}}}}"#
    );
    let post = |route: &str, body: &str, steps: Vec<Vec<Step>>| {
        upstream.clear();
        for steps in steps {
            upstream.script(steps);
        }
        proxy.client().with("POST", route, &key, body).any_answer("POST");
    };
    let messages = format!(r#""messages":[{{"role":"user","content":"{PROMPT}"}}]"#);
    for model in ["m", OWN, UPSTREAM, "sk-proj-0123456789abcdef"] {
        let chat = format!(r#"{{"model":"{model}",{messages}}}"#);
        let passed = format!(r#"{{"model":"{model}","stream":true,{messages}}}"#);
        post("/api/chat", &chat, vec![stream(&[ANSWER])]);
        post("/v1/chat/completions", &passed, vec![stream(&[ANSWER])]);
        for code in [400, 401, 404, 429, 500, 503] {
            let steps = || (0..6).map(|_| vec![status(code, &[], &echo)]).collect();
            post("/api/chat", &chat, steps());
            post("/v1/chat/completions", &passed, steps());
        }
        let refused = vec![vec![status(400, &[], &echo)], vec![answer(ANSWER)]];
        let seed = chat.replacen('{', r#"{"stream":false,"options":{"seed":1},"#, 1);
        post("/api/chat", &seed, refused);
        post("/api/embed", &format!(r#"{{"model":"{model}","input":"{PROMPT}"}}"#), vec![]);
    }
    post(&format!("/v1/{OWN}"), &format!(r#"{{"model":"{PROMPT}"}}"#), vec![]);
    upstream.clear();
    let (go_on, told) = bounded::<()>(0);
    upstream.script(ended(vec![stream_head(), delta(ANSWER), Step::Wait(told)]));
    let mut client = proxy.client();
    client.with("POST", "/api/chat", &key, format!(r#"{{"model":"{OWN}",{messages}}}"#));
    client.head();
    let shown = fetch(&proxy);
    assert_eq!((shown.status(), shown.json()["live_total"].as_u64()), (200, Some(1)));
    assert_eq!(shown.json()["live"][0]["model"], "***");
    assert!(shown.json()["recent"].as_array().is_some_and(|list| list.len() > 30));
    assert!(!shown.json()["repairs"].as_array().expect("a list").is_empty());
    for secret in [ANSWER, OWN, UPSTREAM, "0123456789abcdef", "5ec2e7b2", "77ab12cd"] {
        assert!(!shown.body.contains(secret), "{secret} is in {}", shown.body);
    }
    // The name of a model is what a client calls a model, also where it is a text.
    let is_told = |member: &str| shown.json()[member].to_string().contains(PROMPT);
    for member in ["upstreams", "live", "repairs", "config", "models", "minutes"] {
        assert!(!is_told(member), "{member}: {}", shown.json()[member]);
    }
    drop(go_on);
    client.rest_of_stream();
}

#[test]
fn hostile_names_are_cut_and_do_not_break_the_object() {
    let (upstream, proxy) = pair();
    let names = ["m-(a)/b#c,=+~".repeat(2000), "</script>\u{e9}\u{1f600}".repeat(2000)];
    for (count, name) in names.iter().enumerate() {
        upstream.script(stream(&["a"]));
        proxy.ask("/v1/chat/completions", format!(r#"{{"model":"{name}","messages":[]}}"#));
        let shown = await_recent(&proxy, count + 1);
        let model = shown["recent"][0]["model"].as_str().unwrap_or_default();
        assert!(model.len() <= 100 && name.starts_with(model), "{model}");
        assert!(proxy.fetch("/status.json").body.len() < 50_000);
    }
    await_status(&proxy, |it| it["live_total"] == 0);
}
