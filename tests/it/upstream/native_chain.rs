//! One proxy behind another gives the same answers as one.

use crate::support::ollama::*;
use crate::support::*;

/// A scripted server, a proxy in front of it, and one in front of that which takes it for an Ollama.
fn chain() -> (Upstream, Proxy, Proxy) {
    let (upstream, inner) = pair_with(|config| config.retry.max_retries = 0);
    let base = format!("http://{}/v1", inner.addr());
    let outer = Proxy::at(&base, |config| {
        is_ollama(config);
        config.retry.max_retries = 0;
    });
    (upstream, inner, outer)
}

/// An answer without what differs each time: times, durations, and ids.
fn comparable(answer: &Answer) -> (u16, Option<String>, String) {
    const VARIES: [&str; 7] = [
        "created_at", "total_duration", "load_duration", "prompt_eval_duration", "eval_duration",
        "expires_at", "modified_at",
    ];
    let line = |line: &str| {
        let Ok(mut value) = serde_json::from_str::<Value>(line) else { return line.to_owned() };
        let blank = |object: &mut Value| {
            for name in VARIES {
                if let Some(member) = object.get_mut(name) {
                    *member = Value::Null;
                }
            }
        };
        blank(&mut value);
        value["models"].as_array_mut().into_iter().flatten().for_each(blank);
        value.to_string()
    };
    let body: Vec<String> = answer.body.split_inclusive('\n').map(line).collect();
    let kind = answer.head.header("content-type").map(str::to_owned);
    (answer.status(), kind, body.join("|"))
}

/// Asks both for the same, with the same answer of the server behind, if it is asked.
fn check(
    (upstream, inner, outer): (&Upstream, &Proxy, &Proxy),
    (method, path, body): (&str, &str, &str),
    script: Option<&dyn Fn() -> Vec<Step>>,
) {
    let ask = |proxy: &Proxy| {
        if let Some(script) = script {
            upstream.script(script());
        }
        let answer = proxy.client().call(method, path, body).answer();
        let asked = script.map(|_| upstream.request().body);
        (comparable(&answer), asked)
    };
    let (alone, behind) = (ask(inner), ask(outer));
    assert_eq!(behind, alone, "{method} {path} {body}");
    assert!(upstream.is_idle());
}

#[test]
fn answers_of_models_are_the_same() {
    let (upstream, inner, outer) = chain();
    let all = (&upstream, &inner, &outer);
    let whole = || vec![answer("Hi \u{2028}<b>")];
    let streamed = || stream(&["one", "\u{e9}\u{2028}", "two"]);
    let calls = || {
        let call = r#"data: {"choices":[{"index":0,"delta":{"reasoning":"hm","tool_calls":[{"index":0,"id":"c1","type":"function","function":{"name":"f","arguments":"{\"a\":[1]}"}}]}}]}"#;
        ended(vec![stream_head(), frame(&format!("{call}\n\n"))])
    };
    for model in ["m", "M", "m:latest", "tagged:8b"] {
        let chat = json!({"model": model, "messages": [{"role": "user", "content": "Hi"}]});
        check(all, ("POST", "/api/chat", &chat.to_string()), Some(&streamed));
        check(all, ("POST", "/api/chat", &chat.to_string()), Some(&calls));
        let mut whole_chat = chat.clone();
        whole_chat["stream"] = json!(false);
        check(all, ("POST", "/api/chat", &whole_chat.to_string()), Some(&whole));
        let generate = json!({"model": model, "prompt": "Hi", "options": {"seed": 5}});
        check(all, ("POST", "/api/generate", &generate.to_string()), Some(&streamed));
    }
    let vectors = || {
        vec![json(r#"{"data":[{"index":0,"embedding":[0.6,-0.8]}],"usage":{"prompt_tokens":3}}"#)]
    };
    let embed = r#"{"model":"text-embed","input":"a","prompt":"a"}"#;
    check(all, ("POST", "/api/embed", embed), Some(&vectors));
    check(all, ("POST", "/api/embeddings", embed), Some(&vectors));
}

#[test]
fn lists_and_descriptions_are_the_same() {
    let (upstream, inner, outer) = chain();
    let all = (&upstream, &inner, &outer);
    for path in ["/api/tags", "/api/ps", "/api/version", "/v1/models"] {
        check(all, ("GET", path, ""), None);
    }
    let streamed = || stream(&["one"]);
    let chat = chat("Hi");
    check(all, ("POST", "/api/chat", &chat), Some(&streamed));
    check(all, ("GET", "/api/ps", ""), None);
    for name in ["m", "m:latest", "tagged:8b", "text-embed", "nobody"] {
        let body = json!({ "model": name }).to_string();
        check(all, ("POST", "/api/show", &body), None);
    }
    // What is loaded by one request is unloaded by another one.
    check(all, ("POST", "/api/generate", r#"{"model":"tagged:8b","keep_alive":"1h"}"#), None);
    check(all, ("GET", "/api/ps", ""), None);
    check(all, ("POST", "/api/generate", r#"{"model":"tagged:8b","keep_alive":0}"#), None);
    check(all, ("GET", "/api/ps", ""), None);
    // A copy is made behind both.
    check(all, ("POST", "/api/copy", r#"{"source":"m","destination":"mine"}"#), None);
    check(all, ("GET", "/api/tags", ""), None);
    check(all, ("POST", "/api/show", r#"{"model":"mine"}"#), None);
    check(all, ("POST", "/api/create", r#"{"model":"mario","from":"m","system":"s"}"#), None);
    check(all, ("POST", "/api/pull", r#"{"model":"nobody"}"#), None);
}

#[test]
fn a_proxy_is_found_out_to_speak_ollama_s_protocol() {
    let (upstream, inner) = pair();
    let outer = Proxy::at(&format!("http://{}/v1", inner.addr()), |_| {});
    outer.tags();
    upstream.script(stream(&["one"]));
    assert_eq!(outer.ask("/api/chat", chat("Hi")).lines()[0]["message"]["content"], "one");
    // Only what came in Ollama's protocol is passed with the options that it has.
    let body = json!({"model": "m", "prompt": "a", "keep_alive": "1h"});
    upstream.script(stream(&["one"]));
    assert_eq!(outer.post("/api/generate", &body).status(), 200);
    let expiry = |proxy: &Proxy| proxy.get("/api/ps")["models"][0]["expires_at"].clone();
    assert_eq!(expiry(&outer), expiry(&inner));
}

#[test]
fn errors_are_the_same() {
    let (upstream, inner, outer) = chain();
    let all = (&upstream, &inner, &outer);
    for (path, body) in [
        ("/api/chat", ""),
        ("/api/chat", "{bad"),
        ("/api/chat", "{}"),
        ("/api/chat", r#"{"model":""}"#),
        ("/api/chat", r#"{"model":"m","messages":5}"#),
        ("/api/chat", r#"{"model":"m","messages":[],"keep_alive":"1d"}"#),
        ("/api/chat", r#"{"model":"m","messages":[{"role":"user","content":"a"}],"think":5}"#),
        ("/api/chat", r#"{"model":"a:b:c:","messages":[{"role":"user","content":"a"}]}"#),
        ("/api/generate", r#"{"model":"m","prompt":"a","options":{"seed":"x"}}"#),
        ("/api/generate", r#"{"model":"m","prompt":"a","raw":true,"system":"s"}"#),
        ("/api/embed", r#"{"model":"m","input":{}}"#),
        ("/api/embed", "{}"),
        ("/api/show", "{}"),
        ("/api/delete", r#"{"model":"nobody"}"#),
        ("/api/copy", r#"{"source":"nobody","destination":"x"}"#),
        ("/api/pull", "{}"),
        ("/api/push", r#"{"model":"nobody"}"#),
        ("/api/nothing", "{}"),
    ] {
        let method = if path == "/api/delete" { "DELETE" } else { "POST" };
        check(all, (method, path, body), None);
    }
    let chat = chat("Hi");
    for code in [401, 404, 429, 500, 503] {
        let refused = || vec![status(code, &[], r#"{"error":{"message":"no"}}"#)];
        check(all, ("POST", "/api/chat", &chat), Some(&refused));
    }
    let broken = || vec![stream_head(), delta("one"), Step::Close];
    check(all, ("POST", "/api/chat", &chat), Some(&broken));
}
