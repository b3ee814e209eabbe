//! Requests that load or unload a model and are not sent upstream.

use super::tags::names;
use crate::support::*;

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
        json!({"suffix": "x"}),
        json!({"images": ["iVBORw0KGgo="], "suffix": "x"}),
        json!({"system": "x", "format": "xml"}),
    ];
    let reasons = [
        (json!({}), "load"),
        (json!({"keep_alive": null}), "load"),
        (json!({"keep_alive": 300}), "load"),
        (json!({"keep_alive": 33.0}), "load"),
        (json!({"keep_alive": "5m"}), "load"),
        (json!({"keep_alive": "5m0s"}), "load"),
        (json!({"keep_alive": -1}), "load"),
        (json!({"keep_alive": "-1m"}), "load"),
        (json!({"keep_alive": 0}), "unload"),
        (json!({"keep_alive": "0"}), "unload"),
        (json!({"keep_alive": "0s"}), "unload"),
    ];
    for (route, text) in
        [(CHAT, r#""message":{"role":"assistant","content":""}"#), (GENERATE, r#""response":"""#)]
    {
        for (empty, more) in empty.iter().flat_map(|empty| more.iter().map(move |it| (empty, it))) {
            for (keep_alive, reason) in &reasons {
                let body = [empty, more, keep_alive].into_iter().fold(json!({"model": "m"}), with);
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
fn nothing_to_embed_loads_or_unloads_the_model_without_the_upstream() {
    let (upstream, proxy) = pair();
    let embed = |more: Value| {
        let mut body = json!({"model": "text-embed"});
        body.as_object_mut().expect("an object").extend(more.as_object().expect("one").clone());
        proxy.post("/api/embed", &body)
    };
    let loaded = |expected: &[&str]| assert_eq!(names(&proxy.get("/api/ps")), expected);
    for input in [json!(null), json!(""), json!([])] {
        let answer = embed(json!({"input": input}));
        assert_eq!(answer.body, r#"{"model":"text-embed","embeddings":[]}"#);
        loaded(&["text-embed:latest"]);
        embed(json!({"keep_alive": 0}));
        loaded(&[]);
    }
    let answer = proxy.post("/api/embeddings", &json!({"model": "text-embed", "prompt": ""}));
    assert_eq!(answer.body, r#"{"embedding":[]}"#);
    loaded(&["text-embed:latest"]);
    for path in ["/api/embed", "/api/embeddings"] {
        let unknown = proxy.post(path, &json!({"model": "nope"}));
        let text = "model \"nope\" not found, try pulling it first";
        assert_eq!((unknown.status(), unknown.error().as_str()), (404, text), "{path}");
    }
    assert!(upstream.is_idle());
}

#[test]
fn a_load_checks_its_members_and_an_unload_only_what_is_read_with_the_body() {
    let (upstream, proxy) = pair();
    let options = json!({"model": "m", "options": {"seed": "x"}});
    assert_eq!(proxy.post("/api/generate", &options).status(), 500, "a load checks the options");
    let unload = json!({"model": "m", "keep_alive": "0", "options": {"seed": "x"}});
    let unloaded = proxy.post("/api/generate", &unload);
    let expected =
        r#"{"model":"m","created_at":_,"response":"","done":true,"done_reason":"unload"}"#;
    assert_eq!((unloaded.status(), masked(&unloaded.body).as_str()), (200, expected));
    assert_eq!(unloaded.head.header("content-type"), Some("application/json; charset=utf-8"));
    for (wrong, text) in [
        (json!({"top_logprobs": 21}), "top_logprobs must be between 0 and 20"),
        (json!({"keep_alive": "10"}), "time: missing unit in duration \"10\""),
    ] {
        proxy.post("/api/chat", &with(json!({"model": "m"}), &wrong)).assert_error(400, text);
    }
    let think = json!({"model": "", "think": 1, "keep_alive": 0});
    let bad = proxy.post("/api/chat", &think);
    assert!(bad.error().starts_with("think must be"), "that is read with the body");
    proxy
        .post("/api/generate", &json!({"model": "nope"}))
        .assert_error(404, "model 'nope' not found");
    assert!(upstream.is_idle());
}
