//! `/api/ps`: running models, their expiry and their context length.

use super::tags::names;
use super::two_models::{DETAILS, entry, make, post, proxy, unknown_details};
use crate::support::shape::shape;
use crate::support::*;

#[test]
fn ps_shows_what_was_used_until_it_is_unloaded() {
    let (upstream, proxy) = pair();
    upstream.script(vec![answer("ok")]).script(upstream::stream(&["ok"]));
    assert_eq!(proxy.fetch("/api/ps").body, r#"{"models":[]}"#);
    proxy.get("/api/tags");
    proxy.ask("/api/chat", chat_whole("Hi"));
    let keep = json!({"model": "tagged:8b", "prompt": "x", "keep_alive": -1});
    proxy.post("/api/generate", &keep);
    let list = proxy.get("/api/ps");
    assert_eq!(names(&list), ["tagged:8b", "m:latest"], "the model that expires last comes first");
    let first = &list["models"][0];
    assert!(first["expires_at"].as_str().expect("a time").starts_with("231"), "for ever: {first}");
    assert_eq!((&first["context_length"], &first["size"]), (&8192.into(), &first["size_vram"]));
    let tags = proxy.get("/api/tags");
    assert_eq!(first["digest"], tags["models"][2]["digest"], "the same digest as in the tags");
    proxy.post("/api/generate", &json!({"model": "tagged:8b", "keep_alive": 0}));
    assert_eq!(names(&proxy.get("/api/ps")), ["m:latest"]);
}

#[test]
fn ps_shows_the_window_that_the_last_request_asked_for() {
    let (upstream, proxy) = pair();
    let window = |path: &str, body: Value| {
        upstream.script(vec![upstream::json(
            r#"{"choices":[{"message":{"content":"ok"},"finish_reason":"stop"}],"data":[{"embedding":[1]}]}"#,
        )]);
        assert_eq!(proxy.post(path, &body).status(), 200, "{path} {body}");
        upstream.request();
        proxy.get("/api/ps")["models"][0]["context_length"].clone()
    };
    let chat = |options: Value| {
        let message = json!({"role": "user", "content": "Hi"});
        json!({"model": "tagged:8b", "messages": [message], "options": options})
    };
    assert_eq!(window("/api/chat", chat(json!({"num_ctx": 2048}))), 2048);
    assert_eq!(window("/api/chat", chat(json!({"num_ctx": 4096.7}))), 4096);
    assert_eq!(window("/api/chat", chat(json!({"num_ctx": 131_072}))), 8192, "the model's most");
    assert_eq!(window("/api/chat", chat(json!(null))), 8192, "that request set no length");
    let prompt = |name: &str| json!({"model": name, "prompt": "Hi", "options": {"num_ctx": 512}});
    assert_eq!(window("/api/generate", prompt("tagged:8b")), 512);
    proxy.post("/api/generate", &json!({"model": "tagged:8b", "keep_alive": 0}));
    assert_eq!(window("/api/embeddings", prompt("text-embed")), 512);
    // A load sets the context length as well, and a created model has its own.
    let load = json!({"model": "text-embed", "input": [], "options": {"num_ctx": 256}});
    proxy.post("/api/embed", &load);
    assert_eq!(proxy.get("/api/ps")["models"][0]["context_length"], 256);
    proxy.post("/api/embed", &json!({"model": "text-embed", "keep_alive": 0}));
    let small = json!({"model": "small", "from": "tagged:8b", "parameters": {"num_ctx": 1024}});
    proxy.post("/api/create", &small);
    proxy.post("/api/chat", &json!({"model": "small"}));
    assert_eq!(proxy.get("/api/ps")["models"][0]["context_length"], 1024);
}

#[test]
fn a_running_model_has_ollama_s_members_in_order() {
    let (_upstream, proxy) = proxy();
    make(&proxy);
    for name in ["bare", "full:8b", "made"] {
        post(&proxy, "/api/generate", &json!({"model": name}));
    }
    let process = |details: &str| {
        format!(
            "{{name:text,model:text,size:int,digest:digest,details:{{{details}}},\
             expires_at:time,size_vram:int,context_length:int}}"
        )
    };
    for name in ["bare:latest", "full:8b", "made:latest"] {
        let unknown = unknown_details();
        let details = if name == "bare:latest" { &unknown } else { DETAILS };
        assert_eq!(shape(&entry(&proxy, "/api/ps", name)), process(details), "{name}");
    }
}

#[test]
fn a_model_in_use_is_listed() {
    let (upstream, proxy) = proxy();
    let (go_on, told) = bounded(0);
    upstream.script(ended(vec![stream_head(), delta("one"), Step::Wait(told)]));
    let mut client = proxy.client();
    client.post("/api/chat", chat("Hi").replace("\"m\"", "\"bare\"")).head();
    client.frame();
    entry(&proxy, "/api/ps", "bare:latest");
    drop(go_on);
    while client.frame().is_some() {}
    entry(&proxy, "/api/ps", "bare:latest");
}

#[test]
fn a_model_that_is_loading_or_to_be_unloaded_is_listed_while_it_is_used() {
    let (upstream, proxy) = proxy();
    let names = || {
        let list = proxy.fetch("/api/ps").json();
        list["models"].as_array().expect("a list").iter().map(|it| it["name"].to_string()).collect()
    };
    for keep_alive in [json!(0), json!("5m")] {
        let (go_on, told) = bounded(0);
        upstream.script(ended(vec![Step::Wait(told), stream_head(), delta("one")]));
        let mut client = proxy.client();
        let message = json!({"role": "user", "content": "Hi"});
        let body = json!({"model": "bare", "keep_alive": keep_alive, "messages": [message]});
        client.post("/api/chat", body.to_string());
        // The model counts as running once the request was sent upstream.
        upstream.request();
        let loading: Vec<String> = names();
        assert_eq!(loading, ["\"bare:latest\""], "{keep_alive}");
        drop(go_on);
        client.head();
        while client.frame().is_some() {}
        let after: Vec<String> = names();
        assert_eq!(after.len(), usize::from(keep_alive != 0), "{keep_alive}");
    }
    // A model that the upstream does not know was never loaded.
    upstream.script(vec![status(
        404,
        &[],
        r#"{"error":{"message":"no","code":"model_not_found"}}"#,
    )]);
    let body = chat("Hi").replace("\"m\"", "\"full:8b\"");
    assert_eq!(proxy.ask("/api/chat", body).status(), 404);
    let after: Vec<String> = names();
    assert_eq!(after, ["\"bare:latest\""]);
}

#[test]
fn ps_names_only_what_tags_shows() {
    let (upstream, proxy) = pair();
    let shown = || {
        let named = |path: &str| -> Vec<String> {
            names(&proxy.get(path)).into_iter().map(str::to_owned).collect()
        };
        let (mut running, tags) = (named("/api/ps"), named("/api/tags"));
        running.retain(|name| !tags.contains(name));
        assert!(running.is_empty(), "{running:?} is in ps only");
        tags
    };
    let before = shown();
    // The list of an upstream may be incomplete.
    upstream.script(vec![answer("ok")]);
    let chat = |extra: Value| {
        let body = json!({"model": "hidden", "stream": false,
            "messages": [{"role": "user", "content": "Hi"}]});
        with(body, &extra)
    };
    assert_eq!(proxy.post("/api/chat", &chat(json!({}))).status(), 200);
    assert_eq!(names(&proxy.get("/api/ps")), ["hidden:latest"]);
    assert!(shown().contains(&"hidden:latest".to_owned()), "it answered, so it is there");
    for name in ["hidden", "hidden:latest"] {
        let show = proxy.post("/api/show", &json!({"model": name}));
        assert_eq!(show.status(), 200, "clients ask this of each model: {}", show.body);
    }
    let pulled = proxy.post("/api/pull", &json!({"model": "hidden", "stream": false}));
    assert_eq!(pulled.json()["status"], "success", "what is listed can be pulled");
    let digest = |path: &str| {
        let list = proxy.get(path);
        let models = list["models"].as_array().expect("a list");
        let model = models.iter().find(|model| model["name"] == "hidden:latest");
        model.expect("listed")["digest"].clone()
    };
    assert_eq!(digest("/api/ps"), digest("/api/tags"));
    // Unloaded, it is in neither.
    upstream.script(vec![answer("ok")]);
    assert_eq!(proxy.post("/api/chat", &chat(json!({"keep_alive": 0}))).status(), 200);
    assert_eq!(names(&proxy.get("/api/ps")), [""; 0]);
    assert_eq!(shown(), before);
    proxy
        .post("/api/show", &json!({"model": "hidden"}))
        .assert_error(404, "model 'hidden:latest' not found");
    // The upstream knows no such model.
    let unknown =
        r#"{"error":{"message":"The model 'nobody' does not exist","code":"model_not_found"}}"#;
    upstream.script(vec![status(404, &[], unknown)]);
    let nobody = chat(json!({"model": "nobody"}));
    assert_eq!(proxy.post("/api/chat", &nobody).status(), 404);
    assert_eq!(shown(), before);
}

#[test]
fn a_model_that_is_in_no_picker_is_not_running_either() {
    let (upstream, proxy) = pair();
    upstream.list(r#"{"data":[{"id":"m"},{"id":"tts-1"}]}"#);
    upstream.script(vec![upstream::json("{}")]);
    let speech = json!({"model": "tts-1", "input": "Hi", "voice": "a"});
    assert_eq!(proxy.post("/v1/audio/speech", &speech).status(), 200);
    assert_eq!(proxy.fetch("/api/ps").body, r#"{"models":[]}"#);
    assert_eq!(names(&proxy.get("/api/tags")), ["m:latest"]);
}
