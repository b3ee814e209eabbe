//! Model metadata: the endpoints that each upstream family is asked besides its list, what is shown
//! of them, and how a family is detected.

use crate::support::*;
use ollama_openai_proxy::backends::profiles;

/// A list that identifies no family.
const PLAIN: &str = r#"{"data":[{"id":"m","object":"model","created":5,"owned_by":"me"}]}"#;

const PROPS: &str = r#"{"default_generation_settings":{"n_ctx":1234},"model_ftype":"Q6_K",
    "modalities":{"vision":true}}"#;

/// An upstream with this list, and a proxy that never keeps it.
fn forgetful(family: Option<&str>, list: &str) -> (Upstream, Proxy) {
    let (upstream, proxy) = pair_with(|config| {
        config.models_ttl = std::time::Duration::ZERO;
        config.retry.max_retries = 0;
        config.upstream.profile =
            family.map(|name| profiles::find_by_name(name).expect("a known family"));
    });
    upstream.list(list);
    (upstream, proxy)
}

/// The places that were asked, each with the configured key.
fn places(upstream: &Upstream) -> Vec<String> {
    let asked = upstream.asides();
    for request in &asked {
        assert_eq!(request.method, "GET");
        assert_eq!(request.header("authorization"), Some(format!("Bearer {KEY}").as_str()));
    }
    asked.into_iter().map(|request| request.path).collect()
}

/// The sampling parameters that a chat sends upstream.
fn sampling(upstream: &Upstream, proxy: &Proxy) -> Value {
    let options = json!({"top_k": 7, "repeat_penalty": 1.5, "num_predict": 9});
    let body = request(CHAT, &json!({"options": options, "stream": false}));
    upstream.script(vec![upstream::answer("ok")]);
    let answer = proxy.post(CHAT, &body);
    assert_eq!(answer.status(), 200, "{}", answer.body);
    let mut sent = upstream.request().json();
    for name in ["model", "messages", "stream"] {
        sent.as_object_mut().expect("an object").remove(name);
    }
    sent
}

/// What an unknown server is sent of the same.
fn plain() -> Value {
    json!({"max_tokens": 9})
}

#[test]
fn each_family_is_asked_at_its_own_place_and_what_it_tells_is_shown() {
    let check = |family: Option<&str>, list: &str, place: &str, told: &str, shown: Value| {
        let (upstream, proxy) = forgetful(family, list);
        upstream.side(place, told);
        let listed = proxy.tags();
        let tag = listed.iter().find(|tag| tag["name"] == "m:latest").expect("listed");
        assert_eq!(places(&upstream), [place]);
        let found = json!([tag["details"]["context_length"], tag["capabilities"]]);
        assert_eq!(found, shown, "{place}");
    };
    let seen = |length: u64| json!([length, ["completion", "tools", "vision"]]);
    check(None, LLAMA, "/props", PROPS, seen(1234));
    let studio = r#"{"data":[{"id":"m","object":"model","owned_by":"organization_owner"}]}"#;
    let told = r#"{"data":[{"id":"m","type":"vlm","max_context_length":4321}]}"#;
    check(None, studio, "/api/v0/models", told, seen(4321));
    let told = r#"{"data":[{"model_name":"m","model_info":{"max_input_tokens":77,"mode":"chat",
        "supports_vision":true}}]}"#;
    check(Some("litellm"), PLAIN, "/model/info", told, seen(77));
    let local = r#"{"object":"list","data":[{"id":"m","object":"model"}]}"#;
    let told = r#"{"data":[{"id":"m","capabilities":["chat","vision"]}]}"#;
    let found = json!([null, ["completion", "tools", "vision"]]);
    check(None, local, "/v1/models/capabilities", told, found);
    let tgi = r#"{"data":[{"id":"m","object":"model","created":0,"owned_by":"m"}]}"#;
    let told = r#"{"router":"text-generation-router","max_total_tokens":99,
        "model_pipeline_tag":"image-text-to-text"}"#;
    check(None, tgi, "/info", told, seen(99));
    let told = r#"{"data":[{"id":"e","context_length":512}]}"#;
    let found = json!([null, ["completion", "tools"]]);
    check(Some("openrouter"), PLAIN, "/v1/embeddings/models", told, found);
}

#[test]
fn embedding_models_that_the_main_list_leaves_out_are_listed() {
    let (upstream, proxy) = forgetful(Some("openrouter"), PLAIN);
    upstream.side("/v1/embeddings/models", r#"{"data":[{"id":"a/vectors"}]}"#);
    let models = proxy.tags();
    let added = models.iter().find(|model| model["name"] == "a/vectors:latest").expect("listed");
    assert_eq!(added["capabilities"], json!(["embedding"]));
    assert_eq!(models.len(), 2);
}

#[test]
fn the_second_place_is_asked_where_the_first_tells_nothing() {
    let (upstream, proxy) = forgetful(Some("litellm"), PLAIN);
    let told = r#"{"data":[{"model_name":"m","model_info":{"max_input_tokens":77}}]}"#;
    upstream.side("/v1/model/info", told);
    assert_eq!(proxy.tags()[0]["details"]["context_length"], 77);
    assert_eq!(places(&upstream), ["/model/info", "/v1/model/info"]);
    assert_eq!(proxy.tags()[0]["details"]["context_length"], 77);
    assert_eq!(places(&upstream), ["/v1/model/info"], "the first endpoint is not asked again");
}

#[test]
fn a_place_that_tells_nothing_harms_nobody_and_is_left_alone() {
    for told in [None, Some("<html>"), Some("{}"), Some(r#"{"error":"Unexpected endpoint"}"#)] {
        let (upstream, proxy) = forgetful(None, LLAMA);
        told.iter().for_each(|told| upstream.side("/props", told));
        assert_eq!(proxy.tags()[0]["name"], "m:latest", "{told:?}");
        assert_eq!(places(&upstream), ["/props"], "one attempt: {told:?}");
        assert_eq!(proxy.tags()[0]["name"], "m:latest", "{told:?}");
        assert!(places(&upstream).is_empty(), "asked again: {told:?}");
        let health = proxy.fetch("/openai/health").json();
        assert_eq!((&health["status"], &health["error_count"]), (&json!("healthy"), &json!(0)));
        assert!(proxy.sleeps.is_empty(), "nothing is tried twice: {told:?}");
    }
}

#[test]
fn what_was_told_once_stays_while_the_place_fails() {
    let (upstream, proxy) = forgetful(None, LLAMA);
    upstream.side("/props", PROPS);
    let before = proxy.tags();
    assert_eq!(before[0]["details"]["quantization_level"], "Q6_K");
    upstream.side("/props", "<html>");
    for asked in [&["/props"; 2][..], &[]] {
        assert_eq!(proxy.tags(), before, "clients cache by the digest");
        // Two requests at first: one with and one without a result.
        assert_eq!(places(&upstream), asked);
    }
}

#[test]
fn a_kept_list_asks_nobody() {
    let (upstream, proxy) = pair();
    upstream.list(LLAMA);
    upstream.side("/props", PROPS);
    for asked in [&["/props"][..], &[]] {
        proxy.tags();
        assert_eq!(places(&upstream), asked);
    }
}

#[test]
fn a_sign_of_life_asks_nobody_but_the_list() {
    let (upstream, proxy) = pair();
    upstream.list(LLAMA);
    assert_eq!(proxy.fetch("/openai/health").status(), 200);
    assert!(places(&upstream).is_empty());
}

#[test]
fn unknown_servers_are_asked_for_a_version_once_and_servers_of_several_models_nothing() {
    let entry = |id: &str| json!({"id": id, "object": "model", "owned_by": "llamacpp"});
    let several = json!({"data": [entry("a"), entry("b")]}).to_string();
    for (list, asked) in [(PLAIN, &["/api/version"][..]), (&several, &[])] {
        let (upstream, proxy) = forgetful(None, list);
        for asked in [asked, &[]] {
            proxy.tags();
            assert_eq!(places(&upstream), asked, "{list}");
        }
    }
}

#[test]
fn a_family_is_known_by_the_headers_of_its_list() {
    let sent = |headers: &str| {
        let (upstream, proxy) = forgetful(None, PLAIN);
        upstream.list_with(headers, PLAIN);
        sampling(&upstream, &proxy)
    };
    assert_eq!(sent(""), plain());
    assert_eq!(sent("Server: nginx\r\n"), plain());
    let llama = json!({"max_tokens": 9, "top_k": 7, "repeat_penalty": 1.5});
    assert_eq!(sent("Server: llama.cpp\r\n"), llama);
    // A gateway that says so is one, whatever owner it lists.
    let (upstream, proxy) = forgetful(None, LLAMA);
    upstream.list_with("x-litellm-version: 1.80.0\r\n", LLAMA);
    assert_eq!(sampling(&upstream, &proxy), plain());
    assert_eq!(places(&upstream), ["/model/info", "/v1/model/info"]);
}

#[test]
fn a_family_is_known_by_the_shape_of_its_list() {
    let list = r#"[{"id":"m","type":"chat","organization":"us"}]"#;
    let (upstream, proxy) = forgetful(None, list);
    let together = json!({"max_tokens": 9, "top_k": 7, "repetition_penalty": 1.5});
    assert_eq!(sampling(&upstream, &proxy), together);
}

#[test]
fn the_operator_s_word_is_stronger_than_any_sign() {
    let sent = |family: &str| {
        let (upstream, proxy) = forgetful(Some(family), LLAMA);
        upstream.list_with("Server: llama.cpp\r\n", LLAMA);
        let sent = sampling(&upstream, &proxy);
        assert!(!places(&upstream).contains(&"/props".to_owned()), "{family}");
        sent
    };
    assert_eq!(sent("generic"), plain());
    assert_eq!(sent("openai"), json!({"max_completion_tokens": 9}));
    assert_eq!(sent("vllm"), json!({"max_tokens": 9, "top_k": 7, "repetition_penalty": 1.5}));
}

#[test]
fn a_family_stays_known_while_its_list_fails() {
    let (upstream, proxy) = forgetful(None, LLAMA);
    let llama = json!({"max_tokens": 9, "top_k": 7, "repeat_penalty": 1.5});
    assert_eq!(sampling(&upstream, &proxy), llama);
    upstream.script_lists();
    upstream.script(vec![status(500, &[], "{}")]);
    assert_eq!(proxy.fetch("/api/tags").status(), 200, "the last list is shown");
    assert_eq!(upstream.request().path, "/v1/models");
    upstream.script(vec![status(500, &[], "{}")]).script(vec![upstream::answer("ok")]);
    let options = json!({"top_k": 7});
    let body = request(CHAT, &json!({"options": options, "stream": false}));
    assert_eq!(proxy.post(CHAT, &body).status(), 200);
    assert_eq!(upstream.request().path, "/v1/models");
    assert_eq!(upstream.request().json()["top_k"], 7);
}

#[test]
fn a_format_is_said_to_tgi_and_lm_studio_in_their_own_way_from_the_first_request() {
    let sent = |list: &str, change: Value| {
        let (upstream, proxy) = forgetful(None, list);
        upstream.side("/info", r#"{"router":"text-generation-router"}"#);
        upstream.script(vec![upstream::answer("ok")]);
        let body = request(CHAT, &change);
        assert_eq!(proxy.post(CHAT, &body).status(), 200);
        upstream.request().json()
    };
    let tgi = r#"{"data":[{"id":"m","object":"model","created":0,"owned_by":"m"}]}"#;
    let json_mode = json!({"format": "json", "stream": false});
    let format = sent(tgi, json_mode.clone())["response_format"].clone();
    assert_eq!(format, json!({"type": "json", "value": {"type": "object"}}));
    let studio = r#"{"data":[{"id":"m","object":"model","owned_by":"organization-owner"}]}"#;
    let format = sent(studio, json_mode)["response_format"].clone();
    assert_eq!(format["type"], "json_schema");
    let tool = json!({"type": "function", "function": {"name": "f"}});
    let with_tools = sent(tgi, json!({"format": "json", "tools": [tool], "stream": false}));
    assert_eq!(
        with_tools["response_format"]["type"], "json",
        "it says itself that both exclude each other"
    );
    assert_eq!(with_tools["tools"][0]["function"]["name"], "f");
}

#[test]
fn the_stay_of_a_model_is_told_to_lm_studio() {
    let (upstream, proxy) = forgetful(Some("lmstudio"), MODELS);
    for (path, text) in [("/api/chat", "messages"), ("/api/generate", "prompt")] {
        upstream.script(vec![upstream::answer("ok")]);
        let body = request(path, &json!({"keep_alive": "2m", "stream": false}));
        assert!(body.get(text).is_some());
        assert_eq!(proxy.post(path, &body).status(), 200);
        assert_eq!(upstream.request().json()["ttl"], 120, "{path}");
    }
}

#[test]
fn a_well_known_model_is_shown_as_such_and_nothing_is_refused_for_it() {
    let (upstream, proxy) = pair();
    upstream.list(
        r#"{"data":[{"id":"gpt-4o","owned_by":"me"},{"id":"llama-2-7b","owned_by":"me"},
        {"id":"voyage-3-large","owned_by":"me"}]}"#,
    );
    let listed = proxy.tags();
    let of = |name: &str| listed.iter().find(|it| it["name"] == name).expect("listed").clone();
    assert_eq!(of("gpt-4o:latest")["details"]["context_length"], 128_000);
    assert_eq!(of("gpt-4o:latest")["capabilities"], json!(["completion", "tools", "vision"]));
    assert_eq!(of("llama-2-7b:latest")["capabilities"], json!(["completion"]));
    let ask = |model: &str, change: &Value| {
        let mut body = request(CHAT, change);
        body["model"] = model.into();
        proxy.post(CHAT, &body)
    };
    let tool = json!({"type": "function", "function": {"name": "f"}});
    for change in [json!({"think": true}), json!({"tools": [tool]})] {
        for model in ["gpt-4o", "llama-2-7b"] {
            upstream.script(vec![upstream::answer("ok")]);
            assert_eq!(ask(model, &change).status(), 200, "{model} {change}");
            upstream.request();
        }
    }
    let refused = ask("voyage-3-large", &json!({}));
    let expected = r#""voyage-3-large" does not support chat"#;
    refused.assert_error(400, expected);
}

#[test]
fn a_server_that_answers_to_any_name_is_found_out_by_its_first_answer() {
    let one = r#"{"data":[{"id":"m","owned_by":"llamacpp"}]}"#;
    let body = r#"{"choices":[{"message":{"content":"ok"},"finish_reason":"stop"}],"data":[{"embedding":[1]}]}"#;
    let ask = |path: &str, name: &str| {
        let upstream = Upstream::start();
        upstream.list(one);
        upstream.script(vec![status(200, &[("Server", "llama.cpp")], body)]);
        let request = json!({"model": name, "prompt": "Hi", "input": "Hi", "max_tokens": 5,
            "stream": false, "messages": [{"role": "user", "content": "Hi"}]});
        Proxy::start(&upstream).client().post(path, request.to_string()).answer()
    };
    for path in [
        "/api/chat", "/api/generate", "/api/embed", "/api/embeddings", "/v1/chat/completions",
        "/v1/embeddings", "/v1/messages",
    ] {
        assert_eq!(ask(path, "m").status(), 200, "{path}");
        let told = ask(path, "nope");
        assert_eq!(told.status(), 404, "{path}: {}", told.body);
        let text = if path == MESSAGES { "model: nope" } else { "not found" };
        assert!(told.body.contains("nope") && told.body.contains(text), "{}", told.body);
    }
}
