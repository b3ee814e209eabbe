//! Which models a client key with a name may use, however they are named, and what lists show it.

use ollama_openai_proxy::config::Config;
use ollama_openai_proxy::http::client_keys::ClientKeys;
use ollama_openai_proxy::models::configured::Strategy;

use crate::support::fleet::{configured, fleet};
use crate::support::ollama::Ollama;
use crate::support::upstream::{answer, json as json_step};
use crate::support::*;

const ALICE: &str = "Authorization: Bearer alice-key-1\r\n";
const ADMIN: &str = "Authorization: Bearer admin-key-2\r\n";

/// A key that may use the models of these patterns, and one that may use all.
fn limited(patterns: &str) -> impl FnOnce(&mut Config) {
    let lines = format!("alice:alice-key-1 models={patterns}\nadmin-key-2\n");
    let keys = ClientKeys::parse_file(lines.as_bytes()).expect("keys");
    |config| config.proxy_api_keys = keys
}

fn ask(proxy: &Proxy, method: &str, path: &str, body: impl AsRef<[u8]>) -> Answer {
    proxy.client().with(method, path, ALICE, body).any_answer(method)
}

fn body_of(model: &str) -> String {
    json!({"model": model, "stream": false, "max_tokens": 9, "prompt": "Hi", "input": "Hi",
        "messages": [{"role": "user", "content": "Hi"}]})
    .to_string()
}

/// Refused in the shape of its protocol.
fn assert_refused(answer: &Answer, path: &str) {
    assert_eq!(answer.status(), 403, "{path} {}", answer.body);
    let told = answer.json();
    let text = match path {
        _ if path.starts_with("/v1/messages") => {
            assert_eq!(told["error"]["type"], "permission_error", "{path}");
            &told["error"]["message"]
        }
        _ if path.starts_with("/v1") => {
            assert_eq!(told["error"]["code"], "model_not_allowed", "{path}");
            &told["error"]["message"]
        }
        _ => &told["error"],
    };
    assert!(text.as_str().is_some_and(|it| it.contains("this key")), "{path} {told}");
}

const ASKING: &[&str] = &[
    "/api/chat",
    "/api/generate",
    "/api/embed",
    "/api/embeddings",
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/embeddings",
    "/v1/responses",
    "/v1/responses/compact",
    "/v1/messages",
    "/v1/messages/count_tokens",
    "/v1/rerank",
    "/v1/audio/speech",
    "/v1/moderations",
];

#[test]
fn a_model_that_no_pattern_matches_is_refused_before_anything_goes_up() {
    let (upstream, proxy) = pair_with(limited("tagged*,m2"));
    // No list either: not even that is asked for.
    upstream.script_lists();
    for path in ASKING {
        for name in [
            "m",
            "M",
            " m ",
            "m:latest",
            "m:local",
            "m:cloud",
            "default/m",
            "library/m",
            "registry.ollama.ai/library/m:latest",
            "models/m",
        ] {
            assert_refused(&ask(&proxy, "POST", path, body_of(name)), path);
        }
    }
    for (method, path) in [
        ("POST", "/api/show"),
        ("POST", "/api/pull"),
        ("POST", "/api/push"),
        ("DELETE", "/api/delete"),
    ] {
        for body in [r#"{"model":"m"}"#, r#"{"name":"M:latest"}"#, r#"{"MODEL":" m "}"#] {
            assert_refused(&ask(&proxy, method, path, body), path);
        }
    }
    for name in ["m", "m%3Alatest", "M"] {
        let path = format!("/v1/models/{name}");
        assert_refused(&ask(&proxy, "GET", &path, ""), &path);
    }
    let form = "--b\r\nContent-Disposition: form-data; name=\"model\"\r\n\r\nm\r\n--b--\r\n";
    for path in ["/v1/audio/transcriptions", "/v1/audio/translations", "/v1/images/edits"] {
        let lines = format!("{ALICE}Content-Type: multipart/form-data; boundary=b\r\n");
        let told = proxy.client().with("POST", path, &lines, form).answer();
        assert_refused(&told, path);
    }
    assert!(upstream.is_idle(), "nothing went up");
    let metrics = proxy.client().with("GET", "/metrics", ADMIN, "").answer().body;
    let line = "ollama_proxy_key_refused_total{key=\"alice\",reason=\"model_not_allowed\"} ";
    let count = metrics.lines().find_map(|it| it.strip_prefix(line)).expect("it counts");
    assert!(count.parse::<u64>().expect("a number") > 100, "{count}");
    assert!(metrics.contains("ollama_proxy_access_refused_total{reason=\"model_not_allowed\"} "));
}

#[test]
fn a_model_that_a_pattern_matches_is_served_in_each_spelling() {
    let (upstream, proxy) = pair_with(limited("m,tagged*"));
    for name in ["m", "M", " m ", "m:latest", "default/m", "library/m", "tagged:8b"] {
        upstream.script(vec![answer("ok")]);
        let told = ask(&proxy, "POST", "/api/chat", body_of(name));
        assert_eq!(told.status(), 200, "{name} {}", told.body);
        upstream.script(vec![answer("ok")]);
        let told = ask(&proxy, "POST", "/v1/chat/completions", body_of(name));
        assert_eq!(told.status(), 200, "{name} {}", told.body);
    }
}

#[test]
fn another_model_in_the_same_request_is_found() {
    let (upstream, proxy) = pair_with(limited("tagged*"));
    for body in [
        r#"{"model":"tagged:8b","model":"m","messages":[]}"#,
        r#"{"model":"m","model":"tagged:8b","messages":[]}"#,
        r#"{"model":"tagged:8b","Model":"m","messages":[]}"#,
        r#"{"model":"tagged:8b","models":["tagged:8b","m"],"messages":[]}"#,
        r#"{"model":"tagged:8b","fallbacks":[{"model":"m"}],"messages":[]}"#,
        r#"{"model":"tagged:8b","context_window_fallbacks":[{"tagged:8b":["m"]}],"messages":[]}"#,
        r#"{"model":"tagged:8b","Models":["m"],"messages":[]}"#,
        r#"{"mod\u0065l":"m","messages":[]}"#,
    ] {
        for path in ["/v1/chat/completions", "/v1/embeddings", "/v1/rerank"] {
            assert_refused(&ask(&proxy, "POST", path, body), path);
        }
    }
    // Behind the beginning of a body that would stream through.
    let padding = "x".repeat(2 << 20);
    let large = format!(
        r#"{{"model":"tagged:8b","messages":[{{"role":"user","content":"{padding}"}}],"model":"m"}}"#
    );
    for path in ["/v1/chat/completions", "/v1/rerank"] {
        assert_refused(&ask(&proxy, "POST", path, &large), path);
    }
    let part = |head: &str, value: &str| {
        format!("--b\r\nContent-Disposition: form-data; {head}\r\n\r\n{value}\r\n")
    };
    let lines = format!("{ALICE}Content-Type: multipart/form-data; boundary=b\r\n");
    for second in ["name=\"model\"", "name=model", "NAME=\"Model\"", "name*=utf-8''mod%65l"] {
        for file in ["RIFF", &padding] {
            let form = [
                part("name=\"model\"", "tagged:8b"),
                part("name=\"file\"", file),
                part(second, "m"),
                "--b--\r\n".to_owned(),
            ]
            .concat();
            for path in ["/v1/audio/transcriptions", "/v1/audio/translations"] {
                let told = proxy.client().with("POST", path, &lines, &form).answer();
                assert_refused(&told, path);
            }
        }
    }
    for target in ["/v1/rerank?model=m", "/v1/engines/m/rerank", "/v1/rerank?mod%65l=m"] {
        assert_refused(&ask(&proxy, "POST", target, body_of("tagged:8b")), target);
    }
    assert!(upstream.is_idle(), "nothing went up");
    // One model is served, also in a large form, whatever the file is called.
    upstream.script(vec![json_step(r#"{"text":"ok"}"#)]);
    let form = [
        part("name=\"model\"", "tagged:8b"),
        part("name=\"file\"; filename=\"model.wav\"; filename*=utf-8''m", &padding),
        "--b--\r\n".to_owned(),
    ]
    .concat();
    let told = proxy.client().with("POST", "/v1/audio/transcriptions", &lines, form).answer();
    assert_eq!(told.status(), 200, "{}", told.body);
}

#[test]
fn no_model_is_made_of_one_that_the_key_may_not_use() {
    let (upstream, proxy) = pair_with(limited("tagged*,mine-*"));
    for (path, body) in [
        ("/api/create", r#"{"model":"mine-1","from":"m"}"#),
        ("/api/create", r#"{"model":"mine-1","FROM":"m:latest"}"#),
        ("/api/create", r#"{"model":"other","from":"tagged:8b"}"#),
        ("/api/create", r#"{"model":"mine-1","files":{"a":"sha256:00"}}"#),
        ("/api/create", r#"{"model":"mine-1","modelfile":"FROM m"}"#),
        ("/api/copy", r#"{"source":"m","destination":"mine-1"}"#),
        ("/api/copy", r#"{"source":"tagged:8b","destination":"other"}"#),
        ("/api/blobs/sha256:00", "GGUF"),
    ] {
        assert_refused(&ask(&proxy, "POST", path, body), path);
    }
    let made = ask(
        &proxy,
        "POST",
        "/api/create",
        r#"{"model":"mine-1","from":"tagged:8b","stream":false}"#,
    );
    assert_eq!(made.status(), 200, "{}", made.body);
    let copied = ask(&proxy, "POST", "/api/copy", r#"{"source":"mine-1","destination":"mine-2"}"#);
    assert_eq!(copied.status(), 200, "{}", copied.body);
    // The name that is asked for decides: who may make it, has decided what it stands for.
    let body = r#"{"model":"mine-3","from":"m","stream":false}"#;
    assert_eq!(proxy.client().with("POST", "/api/create", ADMIN, body).answer().status(), 200);
    upstream.script(vec![answer("ok")]);
    assert_eq!(ask(&proxy, "POST", "/api/chat", body_of("mine-3")).status(), 200);
    assert_eq!(upstream.request().json()["model"], "m");
}

#[test]
fn a_real_ollama_is_not_reached_around_it_either() {
    let ollama = Ollama::start();
    let proxy = Proxy::with(&ollama, |config| {
        crate::support::ollama::is_ollama(config);
        limited("llama3.2,mine")(config);
    });
    for (method, path, body) in [
        ("POST", "/api/chat", body_of("qwen/qwen3:8b")),
        ("POST", "/api/chat", r#"{"model":"llama3.2","MODEL":"qwen/qwen3:8b"}"#.to_owned()),
        ("POST", "/api/generate", body_of("QWEN/qwen3:8b")),
        ("POST", "/api/embed", body_of("qwen/qwen3:8b")),
        ("POST", "/api/show", body_of("qwen/qwen3:8b")),
        ("POST", "/api/pull", r#"{"model":"qwen3"}"#.to_owned()),
        ("POST", "/api/push", r#"{"name":"qwen3"}"#.to_owned()),
        ("DELETE", "/api/delete", r#"{"model":"qwen/qwen3:8b"}"#.to_owned()),
        ("POST", "/api/copy", r#"{"source":"qwen/qwen3:8b","destination":"mine"}"#.to_owned()),
        ("POST", "/api/copy", r#"{"source":"llama3.2","destination":"theirs"}"#.to_owned()),
        ("POST", "/api/create", r#"{"model":"mine","from":"qwen/qwen3:8b"}"#.to_owned()),
        ("POST", "/api/create", r#"{"model":"mine","files":{"a":"sha256:00"}}"#.to_owned()),
        (
            "POST",
            "/api/create",
            r#"{"model":"mine","from":"llama3.2","adapters":{"a":"b"}}"#.to_owned(),
        ),
        ("POST", "/api/blobs/sha256:00", "GGUF".to_owned()),
    ] {
        assert_refused(&ask(&proxy, method, path, &body), path);
    }
    assert!(ollama.is_idle(), "nothing went up");
    let names = |path: &str, list: &str, name: &str| -> Vec<String> {
        let told = ask(&proxy, "GET", path, "").json();
        let all = told[list].as_array().expect("a list").clone();
        all.iter().map(|it| it[name].as_str().expect("a name").to_owned()).collect()
    };
    ollama.side("/api/ps", r#"{"models":[{"name":"qwen/qwen3:8b","model":"qwen/qwen3:8b"},{"name":"llama3.2:latest","model":"llama3.2:latest"}]}"#);
    assert_eq!(names("/api/tags", "models", "name"), ["llama3.2:latest"]);
    assert_eq!(names("/api/ps", "models", "name"), ["llama3.2:latest"]);
    assert_eq!(names("/v1/models", "data", "id"), ["llama3.2:latest"]);
}

#[test]
fn lists_show_what_the_key_may_use() {
    let (_upstream, proxy) = pair_with(limited("tagged*,mine"));
    for name in ["mine", "theirs"] {
        let body = json!({"model": name, "from": "m", "stream": false}).to_string();
        assert_eq!(proxy.client().with("POST", "/api/create", ADMIN, body).answer().status(), 200);
    }
    for name in ["m", "tagged:8b", "mine", "theirs"] {
        let body = json!({"model": name, "messages": []}).to_string();
        assert_eq!(proxy.client().with("POST", "/api/chat", ADMIN, body).answer().status(), 200);
    }
    let names = |lines: &str, path: &str, list: &str, name: &str| -> Vec<String> {
        let told = proxy.client().with("GET", path, lines, "").answer().json();
        let all = told[list].as_array().expect("a list").clone();
        let mut names: Vec<String> =
            all.iter().map(|it| it[name].as_str().expect("a name").to_owned()).collect();
        names.sort();
        names
    };
    assert_eq!(names(ALICE, "/api/tags", "models", "name"), ["mine:latest", "tagged:8b"]);
    assert_eq!(names(ALICE, "/api/ps", "models", "name"), ["mine:latest", "tagged:8b"]);
    assert_eq!(names(ALICE, "/v1/models", "data", "id"), ["mine", "tagged:8b"]);
    let anthropic = format!("{ALICE}anthropic-version: 2023-06-01\r\n");
    assert_eq!(names(&anthropic, "/v1/models", "data", "id"), ["mine", "tagged:8b"]);
    assert_eq!(names(ADMIN, "/v1/models", "data", "id").len(), 5);
    let told = proxy.client().with("GET", "/v1/models/m", &anthropic, "").answer();
    assert_eq!((told.status(), &told.json()["error"]["type"]), (403, &json!("permission_error")));
    assert_eq!(ask(&proxy, "GET", "/v1/models/tagged:8b", "").status(), 200);
    assert_eq!(ask(&proxy, "POST", "/api/show", r#"{"model":"mine"}"#).status(), 200);
}

#[test]
fn a_pattern_may_name_the_only_upstream() {
    let (upstream, proxy) = pair_with(limited("default/tagged*"));
    for (name, expected) in [
        ("tagged:8b", 200),
        ("default/tagged:8b", 200),
        ("Tagged:8B", 200),
        ("m", 403),
        ("default/m", 403),
        ("other/tagged", 403),
    ] {
        upstream.clear();
        upstream.script(vec![answer("ok")]);
        assert_eq!(ask(&proxy, "POST", "/api/chat", body_of(name)).status(), expected, "{name}");
    }
    let told = ask(&proxy, "GET", "/v1/models", "").json();
    assert_eq!(
        (told["data"].as_array().map(Vec::len), &told["data"][0]["id"]),
        (Some(1), &json!("tagged:8b"))
    );
}

#[test]
fn a_pattern_may_name_an_upstream() {
    let fleet = fleet(&[&["one", "both"], &["two", "both"]], |config| {
        config.models = vec![configured("team", &["b/two"], Strategy::Order)];
        limited("a/*,team")(config);
    });
    let status = |name: &str| ask(&fleet.proxy, "POST", "/api/chat", body_of(name)).status();
    for (name, expected) in [
        ("one", 200),
        ("a/one", 200),
        ("a/both", 200),
        ("team", 200),
        ("team:latest", 200),
        // It could be answered by the other one.
        ("both", 403),
        ("two", 403),
        ("b/two", 403),
        ("b/both", 403),
        ("none", 403),
    ] {
        assert_eq!(status(name), expected, "{name}");
    }
    let told = ask(&fleet.proxy, "GET", "/v1/models", "").json();
    let ids: Vec<_> = told["data"].as_array().expect("a list").iter().map(|it| &it["id"]).collect();
    assert_eq!(ids, ["team", "one"]);
}
