//! Model names: tags, spellings, suffixes, and the upstream ids they resolve to.

use super::manage::{create, delete};
use crate::support::*;

#[test]
fn names_are_listed_with_a_tag_and_known_in_every_spelling() {
    let (_upstream, proxy) = pair();
    let list = proxy.get("/api/tags");
    for model in list["models"].as_array().expect("a list") {
        assert!(model["name"].as_str().is_some_and(|name| name.contains(':')), "{model}");
    }
    for (name, id) in [("m", "m"), ("m:latest", "m"), ("M:latest", "m"), ("tagged:8b", "tagged:8b")]
    {
        assert_eq!(Bench::new().sent(CHAT, &json!({"model": name}))["model"], id);
        assert!(proxy.show(name)["capabilities"].is_array(), "{name}");
    }
}

#[test]
fn name_counts_where_model_is_missing_or_empty() {
    let proxy = Proxy::start(&Upstream::start());
    for more in [json!({}), json!({"model": ""})] {
        let named = |name: &str, from: Option<&str>| {
            let mut body = more.clone();
            body["name"] = json!(name);
            body["from"] = json!(from);
            body["stream"] = json!(false);
            body
        };
        let shown = proxy.post("/api/show", &named("m", None)).json();
        assert_eq!(shown["model_info"]["general.basename"], "m");
        let success = json!({"status": "success"});
        assert_eq!(proxy.post("/api/pull", &named("m", None)).json(), success);
        assert_eq!(proxy.post("/api/create", &named("own", Some("m"))).json(), success);
        assert_eq!(delete(&proxy, &named("own", None)).status(), 200);
        assert_eq!(proxy.post("/api/show", &named("own", None)).status(), 404);
    }
}

#[test]
fn unlisted_names_are_forwarded_and_a_404_is_told_in_ollama_s_words() {
    let (upstream, proxy) = pair();
    let vectors = r#"{"data":[{"index":0,"embedding":[1.0]}],"usage":{"prompt_tokens":1}}"#;
    let missing =
        r#"{"error":{"message":"The model `x` does not exist","code":"model_not_found"}}"#;
    for path in ["/api/chat", "/api/generate", "/api/embed"] {
        let good = if path == "/api/embed" { upstream::json(vectors) } else { answer("Hi") };
        upstream.script(vec![good]);
        let body = json!({"model": "x:latest", "stream": false, "prompt": "x", "input": "x",
                          "messages": [{"role": "user", "content": "x"}]});
        assert_eq!(proxy.post(path, &body).status(), 200, "{path}");
        assert_eq!(upstream.request().json()["model"], "x", "{path}");
        upstream.script(vec![upstream::status(404, &[], missing)]);
        let answer = proxy.post(path, &body);
        assert_eq!(answer.status(), 404, "{path}");
        assert!(answer.error().contains("not found"), "{path}: {}", answer.body);
        upstream.request();
    }
    // It has answered, so it counts as loaded.
    assert_eq!(proxy.post("/api/show", &json!({"model": "x"})).status(), 200);
    let unloaded = proxy.post("/api/generate", &json!({"model": "x", "keep_alive": 0}));
    assert_eq!((unloaded.status(), &unloaded.json()["done_reason"]), (200, &json!("unload")));
    assert_eq!(proxy.post("/api/show", &json!({"model": "x"})).status(), 404);
}

#[test]
fn names_reach_the_upstream_as_its_own_ids() {
    let (upstream, proxy) = pair();
    let check = |name: &str, id: &str| {
        upstream.script(vec![answer("ok")]);
        let body = json!({"model": name, "stream": false, "messages": [{"role": "user"}]});
        let answer = proxy.post("/api/chat", &body);
        assert_eq!(answer.json()["model"], name, "the answer echoes the name");
        assert_eq!(upstream.request().json()["model"], id, "{name}");
    };
    check("unlisted", "unlisted");
    check("unlisted:latest", "unlisted");
    check("org/unlisted:1.5-x", "org/unlisted:1.5-x");
    check("m", "m");
    check("m:latest", "m");
    check("tagged:8b", "tagged:8b");
    check("TAGGED:8B", "tagged:8b");
}

#[test]
fn an_id_that_ends_in_latest_is_kept() {
    let (upstream, proxy) = pair();
    upstream.list(r#"{"data":[{"id":"x:latest"}]}"#);
    upstream.script(vec![answer("ok")]);
    let body = json!({"model": "x:latest", "stream": false, "messages": [{"role": "user"}]});
    proxy.post("/api/chat", &body);
    assert_eq!(upstream.request().json()["model"], "x:latest");
}

#[test]
fn chat_works_without_any_model_list() {
    let (upstream, proxy) = pair();
    upstream.script_lists();
    upstream.script(vec![status(404, &[], "{}")]);
    upstream.script(vec![answer("ok")]).script(vec![answer("ok")]);
    let body = json!({"model": "x:latest", "stream": false, "messages": [{"role": "user"}]});
    assert_eq!(proxy.post("/api/chat", &body).status(), 200);
    assert!(upstream.request().path.ends_with("/models"));
    assert_eq!(upstream.request().json()["model"], "x");
    assert_eq!(proxy.post("/api/chat", &body).status(), 200);
    assert!(upstream.request().path.ends_with("/chat/completions"), "the list is not asked again");
}

#[test]
fn source_suffixes_are_understood_where_no_model_is_called_so() {
    let (upstream, proxy) = pair();
    upstream.list(r#"{"data":[{"id":"m"},{"id":"t:8b"},{"id":"real:20b-cloud"}]}"#);
    let body = |model: &str| {
        json!({"model": model, "stream": false, "messages": [{"role": "user", "content": "x"}],
            "prompt": "x", "input": "x"})
    };
    for (name, id) in [
        ("m:local", "m"),
        ("t:8b:LOCAL", "t:8b"),
        ("real:20b-cloud", "real:20b-cloud"),
        ("new:local", "new"),
    ] {
        upstream.script(vec![answer("ok")]);
        let chatted = proxy.post("/api/chat", &body(name)).json();
        assert_eq!(chatted["model"], name, "the name is echoed");
        assert_eq!(upstream.request().json()["model"], id, "{name}");
    }
    let both = "use either :local or :cloud, not both: \"x:local:cloud\"";
    for path in ["/api/chat", "/api/generate", "/api/embed", "/api/embeddings"] {
        for name in ["gpt-oss:120b-cloud", "m:cloud"] {
            let text = "ollama cloud is disabled: remote model is unavailable";
            proxy.post(path, &body(name)).assert_error(403, text);
        }
        proxy.post(path, &body("x:local:cloud")).assert_error(400, both);
        proxy.post(path, &body("a b")).assert_error(400, "invalid model name");
    }
    let text = "ollama cloud is disabled: remote model details are unavailable";
    proxy.post("/api/show", &body("m:cloud")).assert_error(403, text);
    proxy.post("/api/show", &body("x:local:cloud")).assert_error(400, both);
    proxy.post("/api/show", &body("a:b:c")).assert_error(400, "invalid model name");
    delete(&proxy, &body("m:cloud")).assert_error(404, "model 'm:cloud' not found");
    assert!(upstream.is_idle());
}

#[test]
fn ids_that_break_the_grammar_are_found_as_they_are() {
    let (upstream, proxy) = pair();
    upstream.list(
        r#"{"data":[{"id":"models/gemini-2.0-flash"},{"id":"a:b:c"},{"id":"accounts/x/models/y"},
            {"id":"my model"}]}"#,
    );
    assert!(proxy.names().contains(&"models/gemini-2.0-flash:latest".to_owned()));
    for (name, id) in [
        ("gemini-2.0-flash", "models/gemini-2.0-flash"),
        ("Gemini-2.0-Flash:latest", "models/gemini-2.0-flash"),
        ("models/gemini-2.0-flash:latest", "models/gemini-2.0-flash"),
        ("A:B:C", "a:b:c"),
        ("accounts/x/models/y:latest", "accounts/x/models/y"),
        ("my model", "my model"),
        ("unlisted/x/y/z:1:2", "unlisted/x/y/z:1:2"),
    ] {
        upstream.script(vec![answer("ok")]);
        let chat = json!({"model": name, "stream": false, "messages": [{"role": "user"}]});
        assert_eq!(proxy.post("/api/chat", &chat).status(), 200, "{name}");
        assert_eq!(upstream.request().json()["model"], id, "{name}");
    }
    create(&proxy, json!({"model": "a:b:c", "from": "my model", "system": "x"}));
    assert_eq!(proxy.show("a:b:c")["system"], "x", "a listed name may be replaced");
}

#[test]
fn any_id_that_the_list_shows_can_be_asked_for() {
    // vLLM, SGLang and transformers list the path of a model; LM Studio on Windows, one with other
    // separators; gateways whatever their users write.
    let ids = [
        "/models/x",
        "/srv/models/Qwen3-0.6B-Q8_0.gguf",
        "./models/x/",
        "C:\\models\\x.gguf",
        "models/a b",
        ":x:",
        "a:b:c",
        "émile/ünï [v2]{x}|*&?%41",
        "x:cloud",
        "x:local:cloud",
    ];
    let list: Vec<Value> = ids.iter().map(|id| json!({"id": id})).collect();
    let (upstream, proxy) = pair();
    upstream.list(&json!({"data": list}).to_string());
    let asked = |path: &str, name: &str, id: &str| {
        let body = json!({"model": name, "stream": false, "prompt": "x", "max_tokens": 9,
                          "messages": [{"role": "user", "content": "x"}]});
        upstream.script(vec![answer("ok")]);
        let answer = proxy.post(path, &body);
        assert_eq!(answer.status(), 200, "{path} {name}: {}", answer.body);
        assert_eq!(upstream.request().json()["model"], id, "{path} {name}");
    };
    for id in ids {
        for name in [id.to_owned(), format!("{id}:latest")] {
            for path in ["/api/chat", "/api/generate", "/v1/chat/completions", "/v1/messages"] {
                asked(path, &name, id);
            }
            assert!(proxy.show(&name)["model_info"].is_object(), "{name}");
        }
        let escaped: String = id.bytes().map(|byte| format!("%{byte:02x}")).collect();
        assert_eq!(proxy.get(&format!("/v1/models/{escaped}"))["id"], id);
    }
    for shown in proxy.names() {
        assert!(proxy.show(&shown)["model_info"].is_object(), "{shown}");
    }
    assert_eq!(proxy.get("/v1/models//models/x")["id"], "/models/x");
    // Names that are made keep to Ollama's rules.
    let copied = json!({"source": "/models/x", "destination": "own"});
    assert_eq!(proxy.post("/api/copy", &copied).status(), 200);
    asked("/api/chat", "own", "/models/x");
    create(&proxy, json!({"model": "made", "from": "/models/x"}));
    asked("/api/chat", "made", "/models/x");
    let bad = json!({"source": "m", "destination": "/models/x"});
    proxy.post("/api/copy", &bad).assert_error(400, "destination \"/models/x\" is invalid");
    let unlisted = json!({"model": "/models/y", "messages": []});
    proxy.post("/api/chat", &unlisted).assert_error(400, "invalid model name");
}

#[test]
fn models_that_were_made_are_listed_without_the_upstream_s_list() {
    for (status, body) in [(404, "{}"), (405, "no"), (501, ""), (200, "<html>"), (200, "{}")] {
        let (upstream, proxy) = asking_once();
        upstream.script_lists();
        upstream.script(vec![upstream::status(status, &[], body)]);
        assert!(proxy.fetch("/api/tags").status() >= 400, "nothing is known at all");
        for _ in 0..9 {
            upstream.script(vec![upstream::status(status, &[], body)]);
        }
        create(&proxy, json!({"model": "made", "from": "gpt-x"}));
        assert_eq!(proxy.names(), ["made:latest"], "{status}");
        assert_eq!(proxy.get("/v1/models")["data"][0]["id"], "made", "{status}");
        let copied = |source: &str| json!({"source": source, "destination": "copy"});
        for source in ["made", "gpt-y"] {
            assert_eq!(proxy.post("/api/copy", &copied(source)).status(), 200, "{source}");
        }
        assert!(proxy.show("gpt-y")["capabilities"].is_array());
        assert_eq!(proxy.fetch("/openai/health").json()["status"], "unhealthy", "{status}");
    }
}
