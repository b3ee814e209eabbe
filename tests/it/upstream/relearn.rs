//! What was learnt of an upstream is forgotten after a while, and learnt anew. The hour that it takes is none
//! in these tests; that it is an hour is tested where each fact is kept.

use std::time::{Duration, Instant};

use crate::support::ollama::{Ollama, object};
use crate::support::*;

const NO_ROUTE: &str = r#"{"error":{"code":404,"message":"File Not Found"}}"#;
const RESPONSES: &str = r#"{"model":"m","input":"Hi"}"#;
const CHAT: &str = r#"{"model":"m","messages":[{"role":"user","content":"Hi"}],"stream":false}"#;

/// A proxy that remembers, and one that has forgotten when the next request comes.
fn both(mut check: impl FnMut(&Upstream, &Proxy, bool)) {
    for remembers in [true, false] {
        let (upstream, proxy) = pair_with(|config| {
            if !remembers {
                config.learnt_ttl = Duration::ZERO;
            }
        });
        check(&upstream, &proxy, remembers);
    }
}

fn paths(upstream: &Upstream) -> Vec<String> {
    let mut paths = Vec::new();
    while !upstream.is_idle() {
        paths.push(upstream.request().path);
    }
    paths
}

#[test]
fn a_route_that_was_missing_is_tried_again() {
    both(|upstream, proxy, remembers| {
        for _ in 0..2 {
            upstream.judge(|request| {
                let is_chat = request.path == "/v1/chat/completions";
                Some(vec![if is_chat { answer("ok") } else { status(404, &[], NO_ROUTE) }])
            });
            assert_eq!(proxy.ask("/v1/responses", RESPONSES).status(), 200);
        }
        let asked = paths(upstream);
        let tried = asked.iter().filter(|path| *path == "/v1/responses").count();
        assert_eq!(tried, if remembers { 1 } else { 2 }, "{asked:?}");
        // The upstream was updated.
        upstream.judge(|_| Some(vec![json(r#"{"object":"response","id":"resp_up"}"#)]));
        let answer = proxy.ask("/v1/responses", RESPONSES);
        assert_eq!(answer.body.contains("resp_up"), !remembers, "{}", answer.body);
    });
}

#[test]
fn the_size_of_batches_grows_again() {
    both(|upstream, proxy, remembers| {
        let inputs: Vec<String> = (0..6).map(|number| format!("input {number}")).collect();
        let body = json!({"model": "e", "input": inputs}).to_string();
        upstream.judge(|request| {
            let count = request.json()["input"].as_array().map_or(1, Vec::len);
            let vectors = |index| json!({"index": index, "embedding": [1, 0]});
            let vectors: Vec<Value> = (0..count).map(vectors).collect();
            let refused = r#"{"error":{"message":"at most 4 requests can be in one batch"}}"#;
            Some(vec![if count > 4 {
                status(422, &[], refused)
            } else {
                json(&json!({ "data": vectors }).to_string())
            }])
        });
        let counts = || {
            assert_eq!(proxy.ask("/api/embed", &body).status(), 200);
            let mut counts = Vec::new();
            while !upstream.is_idle() {
                counts.push(upstream.request().json()["input"].as_array().map_or(1, Vec::len));
            }
            counts
        };
        assert_eq!(counts(), [6, 3, 3]);
        assert_eq!(counts(), if remembers { vec![3, 3] } else { vec![6, 3, 3] });
    });
}

#[test]
fn the_member_of_reasoning_is_forgotten() {
    let model = "openai/gpt-oss-20b";
    both(|upstream, proxy, remembers| {
        upstream.list(&json!({"data": [{"id": model, "owned_by": "vllm"}]}).to_string());
        upstream.judge(|_| {
            Some(vec![json(
                r#"{"choices":[{"message":{"role":"assistant","content":"a","reasoning":"hm"}}]}"#,
            )])
        });
        let call = json!([{"function": {"name": "f", "arguments": {}}}]);
        let body = json!({"model": model, "stream": false, "messages": [
            {"role": "user", "content": "a"},
            {"role": "assistant", "content": "", "thinking": "hm", "tool_calls": call},
            {"role": "tool", "tool_name": "f", "content": "c"}]});
        let sent = || {
            assert_eq!(proxy.post("/api/chat", &body).status(), 200);
            let turn = upstream.request().json()["messages"][1].clone();
            let has = |name: &str| turn.get(name).is_some();
            (has("reasoning"), has("reasoning_content"))
        };
        assert_eq!(sent(), (false, true), "nothing is known");
        assert_eq!(sent(), (remembers, !remembers));
    });
}

#[test]
fn a_server_that_is_no_ollama_any_more_is_asked_as_any_other() {
    let ollama = Ollama::start();
    let proxy = Proxy::with(&ollama, |config| config.learnt_ttl = Duration::ZERO);
    proxy.tags();
    ollama.script(object("{}"));
    let chat = CHAT.replacen("\"m\"", "\"llama3.2\"", 1);
    proxy.ask("/api/chat", &chat).assert_body(200, "{}");
    assert_eq!(ollama.request().path, "/api/chat");
    // Another server takes its place; a request finds out behind itself, so that none waits.
    ollama.judge(|request| (request.path != "/api/chat").then(|| vec![answer("ok")]));
    ollama.side("/api/version", r#"{"version":"b4567"}"#);
    let began = Instant::now();
    loop {
        ollama.script(object("{}"));
        assert_eq!(proxy.ask("/api/chat", &chat).status(), 200);
        if ollama.request().path == "/v1/chat/completions" {
            break;
        }
        assert!(began.elapsed() < HANG, "it still counts as an Ollama");
    }
}

#[test]
fn a_family_that_a_head_named_makes_room_for_another_one() {
    let server = |headers: &'static str| {
        move |request: &Recorded| {
            request.path.ends_with("/completions").then(|| {
                let body = r#"{"choices":[{"message":{"role":"assistant","content":"a"}}]}"#;
                let length = body.len();
                let head = format!("HTTP/1.1 200 OK\r\n{headers}Content-Length: {length}\r\n");
                vec![Step::Send(format!("{head}\r\n{body}").into_bytes())]
            })
        }
    };
    // Only llama.cpp fills the middle by a route of its own.
    let fills = r#"{"model":"m","prompt":"a","suffix":"b","stream":false}"#;
    both(|upstream, proxy, remembers| {
        upstream.judge(server("Server: llama.cpp\r\n"));
        assert_eq!(proxy.ask("/api/chat", CHAT).status(), 200);
        upstream.judge(|_| Some(vec![json(r#"{"content":"x","choices":[{"text":"x"}]}"#)]));
        proxy.ask("/api/generate", fills);
        let asked = paths(upstream);
        let is_infill = asked.last().is_some_and(|path| path.ends_with("/infill"));
        assert_eq!(is_infill, remembers, "{asked:?}");
    });
}

#[test]
fn an_upstream_whose_settings_change_begins_with_nothing() {
    let (upstream, proxy) = pair();
    upstream.judge(|request| {
        let is_chat = request.path == "/v1/chat/completions";
        Some(vec![if is_chat { answer("ok") } else { status(404, &[], NO_ROUTE) }])
    });
    let ask = || {
        assert_eq!(proxy.ask("/v1/responses", RESPONSES).status(), 200);
        paths(&upstream)
    };
    let (route, chat) = ("/v1/responses", "/v1/chat/completions");
    assert_eq!(ask(), [route, chat]);
    assert_eq!(ask(), [chat]);
    let config = |timeout: u64| {
        let mut config = ollama_openai_proxy::config::Config::for_base_url(&upstream.base_url())
            .expect("a base URL");
        config.request_timeout = Duration::from_secs(timeout);
        config
    };
    proxy.server.reload(config(77));
    assert_eq!(ask(), [route, chat], "another timeout");
    proxy.server.reload(config(77));
    assert_eq!(ask(), [chat], "the same settings");
}
