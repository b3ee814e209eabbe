//! The routes, each with what clients read of it (ollama-api.md 8 to 11, 18.12).

use crate::support::proxy::{Proxy, pair};
use crate::support::raw::{chat, chat_whole};
use crate::support::upstream::{self, MODELS, Upstream, answer, status};
use serde_json::{Value, json};

fn get(proxy: &Proxy, path: &str) -> Value {
    let answer = proxy.client().get(path).answer();
    assert_eq!(answer.status(), 200, "{path}: {}", answer.body);
    answer.json()
}

fn post(proxy: &Proxy, path: &str, body: &Value) -> crate::support::raw::Answer {
    proxy.client().post(path, body.to_string()).answer()
}

fn names(list: &Value) -> Vec<&str> {
    list["models"].as_array().expect("a list").iter().filter_map(|it| it["name"].as_str()).collect()
}

#[test]
fn the_root_says_what_monitors_look_for() {
    let proxy = Proxy::start(&Upstream::start());
    let answer = proxy.client().get("/").answer();
    assert_eq!((answer.status(), answer.body.as_str()), (200, "Ollama is running"));
}

#[test]
fn the_version_is_ollama_s_and_ours_is_in_a_header() {
    let proxy = Proxy::start(&Upstream::start());
    let answer = proxy.client().get("/api/version").answer();
    assert_eq!(answer.body, r#"{"version":"0.32.15"}"#);
    let ours = answer.head.header("x-ollama-openai-proxy-version");
    assert_eq!(ours, Some(env!("CARGO_PKG_VERSION")));
}

#[test]
fn tags_have_everything_that_clients_insist_on() {
    let proxy = Proxy::start(&Upstream::start());
    let list = get(&proxy, "/api/tags");
    // Newest first; what has no date counts as new as the process.
    assert_eq!(names(&list), ["text-embed:latest", "m:latest", "tagged:8b"]);
    let mut digests = vec![];
    for model in list["models"].as_array().expect("a list") {
        assert_eq!(model["name"], model["model"]);
        assert!(model["size"].as_u64().expect("a size") > 0);
        let digest = model["digest"].as_str().expect("a digest");
        assert!(digest.len() == 64 && digest.bytes().all(|byte| byte.is_ascii_hexdigit()));
        digests.push(digest.to_owned());
        assert!(model["modified_at"].as_str().expect("a time").ends_with('Z'));
        for name in ["format", "family", "parameter_size", "quantization_level"] {
            assert_ne!(model["details"][name].as_str().expect(name), "", "{name}");
        }
        assert!(model["details"]["families"].is_array() && model["capabilities"].is_array());
    }
    digests.dedup();
    assert_eq!(digests.len(), 3, "digests differ");
    assert_eq!(list["models"][2]["modified_at"], "2020-09-13T12:26:40Z");
    assert_eq!(list["models"][2]["details"]["context_length"], 8192);
    assert_eq!(list["models"][0]["capabilities"], json!(["embedding"]));
}

#[test]
fn an_upstream_without_models_has_an_empty_list() {
    let upstream = Upstream::start();
    upstream.list(r#"{"object":"list","data":[]}"#);
    let proxy = Proxy::start(&upstream);
    assert_eq!(proxy.client().get("/api/tags").answer().body, r#"{"models":[]}"#);
}

#[test]
fn the_list_is_kept_for_a_short_time_and_renewed_on_a_miss() {
    let upstream = Upstream::start();
    upstream.script_lists();
    upstream.script(vec![upstream::json(MODELS)]);
    let proxy = Proxy::with(&upstream, |config| {
        config.models_ttl = std::time::Duration::from_secs(3600);
    });
    get(&proxy, "/api/tags");
    get(&proxy, "/api/tags");
    upstream.request();
    assert!(upstream.is_idle(), "the second list was kept");
    upstream.script(vec![upstream::json(r#"{"data":[{"id":"new"}]}"#)]);
    assert_eq!(post(&proxy, "/api/show", &json!({"model": "new"})).status(), 200);
    upstream.request();
    assert_eq!(names(&get(&proxy, "/api/tags")), ["new:latest"]);
    assert!(upstream.is_idle());
}

#[test]
fn a_list_that_is_not_to_be_kept_is_not() {
    let upstream = Upstream::start();
    let proxy = Proxy::with(&upstream, |config| config.models_ttl = std::time::Duration::ZERO);
    get(&proxy, "/api/tags");
    upstream.list(r#"{"data":[{"id":"other"}]}"#);
    assert_eq!(names(&get(&proxy, "/api/tags")), ["other:latest"]);
}

#[test]
fn show_understands_every_spelling_of_a_name() {
    let proxy = Proxy::start(&Upstream::start());
    for body in [
        json!({"model": "m"}),
        json!({"model": "m:latest"}),
        json!({"model": "M:LATEST"}),
        json!({"name": "m"}),
        json!({"model": "", "name": "m", "system": "", "template": "", "options": null}),
        json!({"model": " m "}),
    ] {
        let answer = post(&proxy, "/api/show", &body);
        assert_eq!(answer.status(), 200, "{body}");
        let show = answer.json();
        let arch = show["model_info"]["general.architecture"].as_str().expect("a family");
        assert!(show["model_info"][format!("{arch}.context_length")].is_u64());
        assert_eq!(show["capabilities"], json!(["completion", "tools"]));
        for name in ["template", "modelfile", "modified_at"] {
            assert_ne!(show[name].as_str().expect(name), "", "{name}");
        }
    }
    let options = json!({"model": "m", "options": {"num_ctx": 8192, "stop": ["a", "b c "]}});
    let modelfile = post(&proxy, "/api/show", &options).json()["modelfile"].clone();
    let expected = "PARAMETER num_ctx 8192\nPARAMETER stop a\nPARAMETER stop \"b c \"\n";
    assert!(modelfile.as_str().expect("a text").ends_with(expected), "{modelfile}");
    let named = post(&proxy, "/api/show", &json!({"model": "m:latest"})).json();
    assert_eq!(named["model_info"]["general.basename"], "m:latest");
}

#[test]
fn show_of_an_unknown_model_is_not_found() {
    let proxy = Proxy::start(&Upstream::start());
    let answer = post(&proxy, "/api/show", &json!({"model": "nope"}));
    assert_eq!((answer.status(), answer.error().as_str()), (404, "model 'nope:latest' not found"));
}

#[test]
fn names_reach_the_upstream_as_its_own_ids() {
    let (upstream, proxy) = pair();
    let check = |name: &str, id: &str| {
        upstream.script(vec![answer("ok")]);
        let body = json!({"model": name, "stream": false, "messages": [{"role": "user"}]});
        let answer = post(&proxy, "/api/chat", &body);
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
    let upstream = Upstream::start();
    upstream.list(r#"{"data":[{"id":"x:latest"}]}"#);
    upstream.script(vec![answer("ok")]);
    let proxy = Proxy::start(&upstream);
    let body = json!({"model": "x:latest", "stream": false, "messages": [{"role": "user"}]});
    post(&proxy, "/api/chat", &body);
    assert_eq!(upstream.request().json()["model"], "x:latest");
}

#[test]
fn chat_works_without_any_model_list() {
    let upstream = Upstream::start();
    upstream.script_lists();
    upstream.script(vec![status(404, &[], "{}")]);
    upstream.script(vec![answer("ok")]).script(vec![answer("ok")]);
    let proxy = Proxy::start(&upstream);
    let body = json!({"model": "x:latest", "stream": false, "messages": [{"role": "user"}]});
    assert_eq!(post(&proxy, "/api/chat", &body).status(), 200);
    assert!(upstream.request().path.ends_with("/models"));
    assert_eq!(upstream.request().json()["model"], "x");
    assert_eq!(post(&proxy, "/api/chat", &body).status(), 200);
    assert!(upstream.request().path.ends_with("/chat/completions"), "the list is not asked again");
}

#[test]
fn parameters_travel_under_the_names_of_the_family() {
    let upstream = Upstream::start();
    upstream.list(r#"{"data":[{"id":"m","owned_by":"llamacpp"}]}"#);
    upstream.script(vec![answer("ok")]);
    let proxy = Proxy::start(&upstream);
    let body = json!({"model": "m", "stream": false, "messages": [{"role": "user"}],
        "options": {"top_k": 40, "repeat_penalty": 1.1, "num_predict": 5}});
    post(&proxy, "/api/chat", &body);
    let sent = upstream.request().json();
    assert_eq!((&sent["top_k"], &sent["repeat_penalty"]), (&40.into(), &1.1.into()));
    assert_eq!(sent["max_tokens"], 5);
}

#[test]
fn requests_have_the_headers_that_upstreams_want() {
    let upstream = Upstream::start();
    upstream.script(vec![answer("ok")]);
    let proxy = Proxy::start(&upstream);
    proxy.client().post("/api/chat", chat_whole("Hi")).answer();
    let request = upstream.request();
    assert_eq!((request.method.as_str(), request.path.as_str()), ("POST", "/v1/chat/completions"));
    assert_eq!(request.header("content-type"), Some("application/json"));
    assert_eq!(request.header("accept"), Some("application/json"));
    assert_eq!(request.header("accept-encoding"), Some("identity"));
    assert!(request.header("user-agent").expect("an agent").starts_with("ollama-openai-proxy/"));
}

#[test]
fn load_and_unload_are_answered_without_the_upstream() {
    let (upstream, proxy) = pair();
    let check = |path: &str, body: Value, reason: &str| {
        let answer = post(&proxy, path, &body);
        assert_eq!(answer.status(), 200, "{body}");
        let kind = answer.head.header("content-type");
        assert_eq!(
            kind,
            Some("application/json; charset=utf-8"),
            "also when a stream was asked for"
        );
        assert!(!answer.body.ends_with('\n'));
        let object = answer.json();
        assert_eq!((&object["done"], &object["done_reason"]), (&true.into(), &reason.into()));
        assert!(object.get("eval_count").is_none() && object.get("context").is_none());
        match path {
            "/api/chat" => {
                assert_eq!(object["message"], json!({"role": "assistant", "content": ""}));
            }
            _ => assert_eq!(object["response"], ""),
        }
    };
    check("/api/chat", json!({"model": "m"}), "load");
    check("/api/chat", json!({"model": "m", "messages": [], "stream": true}), "load");
    check("/api/chat", json!({"model": "m", "keep_alive": 0}), "unload");
    check("/api/generate", json!({"model": "m", "prompt": "", "suffix": "x"}), "load");
    check("/api/generate", json!({"model": "m", "keep_alive": "0s", "stream": false}), "unload");
    check(
        "/api/generate",
        json!({"model": "m", "keep_alive": "0", "options": {"seed": "x"}}),
        "unload",
    );
    let bad = post(&proxy, "/api/generate", &json!({"model": "m", "options": {"seed": "x"}}));
    assert_eq!(bad.status(), 500, "a load checks the options");
    let bad =
        post(&proxy, "/api/chat", &json!({"model": "", "think": "nonsense", "keep_alive": 0}));
    assert!(bad.error().starts_with("invalid think value"), "that is read with the body");
    let unknown = post(&proxy, "/api/generate", &json!({"model": "nope"}));
    assert_eq!((unknown.status(), unknown.error().as_str()), (404, "model 'nope' not found"));
    assert!(upstream.is_idle());
}

#[test]
fn ps_shows_what_was_used_until_it_is_unloaded() {
    let upstream = Upstream::start();
    upstream.script(vec![answer("ok")]).script(upstream::stream(&["ok"]));
    let proxy = Proxy::start(&upstream);
    assert_eq!(proxy.client().get("/api/ps").answer().body, r#"{"models":[]}"#);
    get(&proxy, "/api/tags");
    proxy.client().post("/api/chat", chat_whole("Hi")).answer();
    let keep = json!({"model": "tagged:8b", "prompt": "x", "keep_alive": -1});
    post(&proxy, "/api/generate", &keep);
    let list = get(&proxy, "/api/ps");
    assert_eq!(names(&list), ["tagged:8b", "m:latest"], "who stays longest comes first");
    let first = &list["models"][0];
    assert!(first["expires_at"].as_str().expect("a time").starts_with("231"), "for ever: {first}");
    assert_eq!((&first["context_length"], &first["size"]), (&8192.into(), &first["size_vram"]));
    let tags = get(&proxy, "/api/tags");
    assert_eq!(first["digest"], tags["models"][2]["digest"], "the same digest as in the tags");
    post(&proxy, "/api/generate", &json!({"model": "tagged:8b", "keep_alive": 0}));
    assert_eq!(names(&get(&proxy, "/api/ps")), ["m:latest"]);
}

#[test]
fn a_conversation_goes_on_from_its_context() {
    let upstream = Upstream::start();
    upstream.script(upstream::stream(&["Blue", "."])).script(vec![answer("Rayleigh.")]);
    let proxy = Proxy::start(&upstream);
    let first = json!({"model": "m", "prompt": "What colour?", "system": "Be brief."});
    let lines = post(&proxy, "/api/generate", &first).lines();
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
    post(&proxy, "/api/generate", &second);
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
    let upstream = Upstream::start();
    let text = r#"{"choices":[{"index":0,"text":" yes","finish_reason":"stop"}],"usage":{"prompt_tokens":1,"completion_tokens":1}}"#;
    upstream.script(vec![upstream::json(text)]);
    let proxy = Proxy::start(&upstream);
    let body = json!({"model": "m", "prompt": "<s>is it?", "raw": true, "stream": false});
    let answer = post(&proxy, "/api/generate", &body).json();
    assert_eq!(answer["response"], " yes");
    assert!(answer.get("context").is_none(), "never with raw");
    let request = upstream.request();
    assert_eq!(request.path, "/v1/completions");
    assert_eq!(request.json()["prompt"], "<s>is it?");
}

#[test]
fn embeddings_come_in_order_and_of_unit_length() {
    let upstream = Upstream::start();
    let vectors = r#"{"data":[{"index":1,"embedding":[0,2]},{"index":0,"embedding":[3,4]}],"usage":{"prompt_tokens":7,"total_tokens":7}}"#;
    upstream.script(vec![upstream::json(vectors)]);
    let proxy = Proxy::start(&upstream);
    let answer = post(&proxy, "/api/embed", &json!({"model": "e", "input": ["a", "b"]})).json();
    assert_eq!(answer["embeddings"], json!([[0.6, 0.8], [0, 1]]));
    assert_eq!(answer["prompt_eval_count"], 7);
    assert!(
        answer["total_duration"].as_u64() >= Some(1) && answer["load_duration"].as_u64() >= Some(1)
    );
    let sent = upstream.request().json();
    assert_eq!(sent, json!({"model": "e", "input": ["a", "b"], "encoding_format": "float"}));
    upstream.script(vec![upstream::json(vectors)]);
    let few = post(&proxy, "/api/embed", &json!({"model": "e", "input": "a"}));
    assert_eq!(few.status(), 502, "{}", few.body);
}

#[test]
fn inputs_that_are_too_long_are_cut_unless_that_is_not_wanted() {
    let (upstream, proxy) = pair();
    let too_long = || {
        let text = "input (1024 tokens) is too large to process. increase the physical batch size (current batch size: 512)";
        let body = json!({"error": {"code": 500, "message": text, "type": "server_error"}});
        vec![status(500, &[], &body.to_string())]
    };
    let one = |number: u64| {
        let body = json!({"data": [{"index": 0, "embedding": [number, 0]}], "usage": {"prompt_tokens": 3}});
        vec![upstream::json(&body.to_string())]
    };
    let long = "é".repeat(1000);
    // Both together, the first alone (long), cut, then the other.
    upstream.script(too_long()).script(too_long()).script(one(1)).script(one(2));
    let body = json!({"model": "e", "input": [long, "short"]});
    let answer = post(&proxy, "/api/embed", &body).json();
    assert_eq!(answer["embeddings"], json!([[1, 0], [1, 0]]));
    assert_eq!(answer["prompt_eval_count"], 6);
    let inputs: Vec<Value> = (0..4).map(|_| upstream.request().json()["input"].clone()).collect();
    let cut = inputs[2][0].as_str().expect("a text");
    assert!(cut.len() <= 950 && long.starts_with(cut) && !cut.is_empty(), "{} bytes", cut.len());
    assert_eq!((&inputs[1], &inputs[3]), (&json!([long]), &json!(["short"])));
    // Not cut, and cut in vain: the same sentence.
    upstream.script(too_long());
    for _ in 0..6 {
        upstream.script(too_long());
    }
    for (truncate, attempts) in [(false, 1), (true, 6)] {
        let body = json!({"model": "e", "input": long, "truncate": truncate});
        let answer = post(&proxy, "/api/embed", &body);
        let told = (answer.status(), answer.error());
        assert_eq!(told, (400, "the input length exceeds the context length".to_owned()));
        for _ in 0..attempts {
            upstream.request();
        }
        assert!(upstream.is_idle(), "{attempts} attempts");
    }
}

#[test]
fn the_old_embeddings_route_answers_the_bare_vector() {
    let upstream = Upstream::start();
    upstream.script(vec![upstream::json(r#"{"data":[{"embedding":[3,-4.5]}]}"#)]);
    let proxy = Proxy::start(&upstream);
    let answer = post(&proxy, "/api/embeddings", &json!({"model": "e", "prompt": "a"}));
    assert_eq!(answer.body, r#"{"embedding":[3,-4.5]}"#);
}

#[test]
fn nothing_to_embed_loads_or_unloads_the_model_without_the_upstream() {
    let (upstream, proxy) = pair();
    let embed = |more: Value| {
        let mut body = json!({"model": "text-embed"});
        body.as_object_mut().expect("an object").extend(more.as_object().expect("one").clone());
        post(&proxy, "/api/embed", &body)
    };
    let loaded = |expected: &[&str]| assert_eq!(names(&get(&proxy, "/api/ps")), expected);
    for input in [json!(null), json!(""), json!([])] {
        let answer = embed(json!({"input": input}));
        assert_eq!(answer.body, r#"{"model":"text-embed","embeddings":[]}"#);
        loaded(&["text-embed:latest"]);
        embed(json!({"keep_alive": 0}));
        loaded(&[]);
    }
    let answer = post(&proxy, "/api/embeddings", &json!({"model": "text-embed", "prompt": ""}));
    assert_eq!(answer.body, r#"{"embedding":[]}"#);
    loaded(&["text-embed:latest"]);
    for path in ["/api/embed", "/api/embeddings"] {
        let unknown = post(&proxy, path, &json!({"model": "nope"}));
        let text = "model \"nope\" not found, try pulling it first";
        assert_eq!((unknown.status(), unknown.error().as_str()), (404, text), "{path}");
    }
    assert!(upstream.is_idle());
}

#[test]
fn ps_shows_the_window_that_the_last_request_asked_for() {
    let (upstream, proxy) = pair();
    let window = |path: &str, body: Value| {
        upstream.script(vec![upstream::json(
            r#"{"choices":[{"message":{"content":"ok"},"finish_reason":"stop"}],"data":[{"embedding":[1]}]}"#,
        )]);
        assert_eq!(post(&proxy, path, &body).status(), 200, "{path} {body}");
        upstream.request();
        get(&proxy, "/api/ps")["models"][0]["context_length"].clone()
    };
    let chat = |options: Value| {
        let message = json!({"role": "user", "content": "Hi"});
        json!({"model": "tagged:8b", "messages": [message], "options": options})
    };
    assert_eq!(window("/api/chat", chat(json!({"num_ctx": 2048}))), 2048);
    assert_eq!(window("/api/chat", chat(json!({"num_ctx": 4096.7}))), 4096);
    assert_eq!(window("/api/chat", chat(json!({"num_ctx": 131_072}))), 8192, "the model's most");
    assert_eq!(window("/api/chat", chat(json!(null))), 8192, "that request asked for none");
    let prompt = |name: &str| json!({"model": name, "prompt": "Hi", "options": {"num_ctx": 512}});
    assert_eq!(window("/api/generate", prompt("tagged:8b")), 512);
    post(&proxy, "/api/generate", &json!({"model": "tagged:8b", "keep_alive": 0}));
    assert_eq!(window("/api/embeddings", prompt("text-embed")), 512);
    // A load asks for a window, too, and a made model brings its own.
    let load = json!({"model": "text-embed", "input": [], "options": {"num_ctx": 256}});
    post(&proxy, "/api/embed", &load);
    assert_eq!(get(&proxy, "/api/ps")["models"][0]["context_length"], 256);
    post(&proxy, "/api/embed", &json!({"model": "text-embed", "keep_alive": 0}));
    let small = json!({"model": "small", "from": "tagged:8b", "parameters": {"num_ctx": 1024}});
    post(&proxy, "/api/create", &small);
    post(&proxy, "/api/chat", &json!({"model": "small"}));
    assert_eq!(get(&proxy, "/api/ps")["models"][0]["context_length"], 1024);
}

#[test]
fn health_says_so_without_the_upstream() {
    let proxy = Proxy::at("http://127.0.0.1:1/v1", |_| {});
    let version = env!("CARGO_PKG_VERSION");
    assert_eq!(
        proxy.client().get("/health").answer().body,
        format!(r#"{{"status":"healthy","version":"{version}","configured":true}}"#)
    );
}

#[test]
fn a_null_stream_is_a_stream() {
    let upstream = Upstream::start();
    upstream.script(upstream::stream(&["a"])).script(upstream::stream(&["a"]));
    let proxy = Proxy::start(&upstream);
    let body = chat("Hi").replacen('{', "{\"stream\":null,", 1);
    let answer = proxy.client().post("/api/chat", body).answer();
    assert_eq!(answer.head.header("content-type"), Some("application/x-ndjson"));
}
