//! `/api/tags`: members in order, digests, and how long the list is cached.

use super::two_models::{DETAILS, entry, make, proxy, unknown_details};
use crate::support::shape::shape;
use crate::support::*;

#[test]
fn digests_differ_are_stable_and_follow_the_capabilities() {
    let upstream = Upstream::start();
    let digests = || {
        let list = Proxy::start(&upstream).get("/api/tags");
        let models = list["models"].as_array().expect("a list").clone();
        let mut digests: Vec<(Value, String)> = models
            .into_iter()
            .map(|it| (it["name"].clone(), it["digest"].as_str().expect("a digest").to_owned()))
            .collect();
        digests.sort_by_key(|(name, _)| name.to_string());
        digests
    };
    upstream.list(r#"{"data":[{"id":"a"},{"id":"b"}]}"#);
    let before = digests();
    assert_eq!(before, digests());
    assert_ne!(before[0].1, before[1].1);
    for (_, digest) in &before {
        assert!(digest.len() == 64 && digest.bytes().all(|byte| byte.is_ascii_hexdigit()));
    }
    upstream.list(r#"{"data":[{"id":"a","type":"embedding"},{"id":"b"}]}"#);
    let after = digests();
    assert_ne!(after[0].1, before[0].1, "the capabilities changed");
    assert_eq!(after[1].1, before[1].1);
}

#[test]
fn details_are_strings_and_entries_are_dated() {
    const DETAILS: &[&str] = &["format", "family", "parameter_size", "quantization_level"];
    let proxy = Proxy::start(&Upstream::start());
    let is_text = |value: &Value| value.as_str().is_some_and(|text| !text.is_empty());
    // Applications print what is there, so that an unknown detail is empty.
    let is_detail = |value: &Value| value.as_str().is_some_and(|text| text != "unknown");
    for model in proxy.get("/api/tags")["models"].as_array().expect("a list") {
        assert!(is_text(&model["modified_at"]) && is_text(&model["digest"]), "{model}");
        assert!(model["size"].is_u64(), "{model}");
        let shown = proxy.show(model["name"].as_str().expect("a name"));
        for name in DETAILS {
            assert!(is_detail(&model["details"][name]), "{name}: {model}");
            assert!(is_detail(&shown["details"][name]), "{name}: {shown}");
        }
    }
}

pub(super) fn names(list: &Value) -> Vec<&str> {
    list["models"].as_array().expect("a list").iter().filter_map(|it| it["name"].as_str()).collect()
}

#[test]
fn tags_have_everything_that_clients_insist_on() {
    let proxy = Proxy::start(&Upstream::start());
    let list = proxy.get("/api/tags");
    // Newest first; a model without a date is as old as the process.
    assert_eq!(names(&list), ["text-embed:latest", "m:latest", "tagged:8b"]);
    let mut digests = vec![];
    for model in list["models"].as_array().expect("a list") {
        assert_eq!(model["name"], model["model"]);
        assert_eq!(model["size"], 0, "nobody knows it");
        let digest = model["digest"].as_str().expect("a digest");
        assert!(digest.len() == 64 && digest.bytes().all(|byte| byte.is_ascii_hexdigit()));
        digests.push(digest.to_owned());
        assert!(model["modified_at"].as_str().expect("a time").ends_with('Z'));
        for name in ["format", "family", "parameter_size", "quantization_level"] {
            assert!(model["details"][name].is_string(), "{name}");
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
fn models_that_neither_complete_nor_embed_are_in_no_picker() {
    let (upstream, proxy) = pair();
    upstream.list(
        r#"{"data":[{"id":"gpt-4o"},{"id":"whisper-1"},{"id":"dall-e-3"},{"id":"tts-1-hd"},
            {"id":"bge-reranker-v2-m3"},{"id":"x","capabilities":["rerank"]},
            {"id":"e","capabilities":["embed"]}]}"#,
    );
    let mut shown = proxy.names();
    shown.sort();
    assert_eq!(shown, ["e:latest", "gpt-4o:latest"]);
    // OpenAI's list is the upstream's own.
    assert_eq!(proxy.get("/v1/models")["data"].as_array().map(Vec::len), Some(7));
    assert_eq!(proxy.get("/v1/models/whisper-1")["id"], "whisper-1");
}

#[test]
fn an_upstream_without_models_has_an_empty_list() {
    let (upstream, proxy) = pair();
    upstream.list(r#"{"object":"list","data":[]}"#);
    assert_eq!(proxy.fetch("/api/tags").body, r#"{"models":[]}"#);
}

#[test]
fn the_list_is_kept_for_a_short_time_and_renewed_on_a_miss() {
    let (upstream, proxy) = pair_with(|config| {
        config.models_ttl = std::time::Duration::from_secs(3600);
    });
    upstream.script_lists();
    upstream.script(vec![upstream::json(MODELS)]);
    proxy.get("/api/tags");
    proxy.get("/api/tags");
    upstream.request();
    assert!(upstream.is_idle(), "the second list was kept");
    upstream.script(vec![upstream::json(r#"{"data":[{"id":"new"}]}"#)]);
    assert_eq!(proxy.post("/api/show", &json!({"model": "new"})).status(), 200);
    upstream.request();
    assert_eq!(names(&proxy.get("/api/tags")), ["new:latest"]);
    assert!(upstream.is_idle());
}

/// A proxy that knows the list [`MODELS`], which is no longer fresh.
fn with_stale_list() -> (Upstream, Proxy) {
    let (upstream, proxy) = pair_with(|config| {
        config.models_ttl = std::time::Duration::from_nanos(1);
        config.retry.max_retries = 0;
    });
    assert_eq!(proxy.names().len(), 3);
    (upstream, proxy)
}

#[test]
fn the_last_list_is_shown_while_the_upstream_says_nothing() {
    const NEW: &str = r#"{"data":[{"id":"new"}]}"#;
    let (upstream, proxy) = with_stale_list();
    upstream.script_lists();
    let (go_on, told) = bounded::<()>(0);
    upstream.script(vec![Step::Wait(told), upstream::json(NEW)]);
    assert_eq!(proxy.names().len(), 3);
    upstream.request();
    for path in ["/api/tags", "/v1/models"] {
        assert_eq!(proxy.fetch(path).status(), 200, "{path}");
    }
    assert_eq!(proxy.show("tagged:8b")["details"]["parent_model"], "");
    assert!(upstream.is_idle(), "one request for a list at a time");
    upstream.list(NEW);
    drop(go_on);
    let deadline = std::time::Instant::now() + HANG;
    while proxy.names() != ["new:latest"] {
        assert!(std::time::Instant::now() < deadline, "the new list is shown");
    }
}

#[test]
fn the_last_list_is_shown_while_the_upstream_fails() {
    let (upstream, proxy) = with_stale_list();
    upstream.script_lists();
    for failure in [Step::Close, Step::Reset, upstream::status(500, &[], "{}")] {
        // A connection that was closed is tried once more.
        upstream.script(vec![failure]).script(vec![Step::Close]).script(vec![Step::Close]);
        assert_eq!(proxy.names().len(), 3);
        assert_eq!(proxy.get("/v1/models")["data"].as_array().map(Vec::len), Some(3));
    }
    assert_eq!(proxy.fetch("/openai/health").json()["status"], "unhealthy");
}

#[test]
fn a_list_that_is_not_to_be_kept_is_not() {
    let (upstream, proxy) = pair_with(|config| config.models_ttl = std::time::Duration::ZERO);
    proxy.get("/api/tags");
    upstream.list(r#"{"data":[{"id":"other"}]}"#);
    assert_eq!(names(&proxy.get("/api/tags")), ["other:latest"]);
}

#[test]
fn an_entry_of_the_list_has_ollama_s_members_in_order() {
    let (_upstream, proxy) = proxy();
    make(&proxy);
    let tag = |details: &str| {
        format!(
            "{{name:text,model:text,modified_at:time,size:int,digest:digest,details:{{{details}}},\
             capabilities:[text]}}"
        )
    };
    let check = |name: &str, details: &str| {
        assert_eq!(shape(&entry(&proxy, "/api/tags", name)), tag(details), "{name}");
    };
    check("bare:latest", &unknown_details());
    check("full:8b", &format!("{DETAILS},context_length:int,embedding_length:int"));
    let made = DETAILS.replacen("\"\"", "text", 1);
    check("made:latest", &format!("{made},context_length:int,embedding_length:int"));
    let full = entry(&proxy, "/api/tags", "full:8b");
    assert!(full.contains(
        r#""details":{"parent_model":"","format":"gguf","family":"full","families":["full"],"parameter_size":"8.0B","quantization_level":"Q4_K_M","context_length":8192,"embedding_length":4096}"#
    ), "{full}");
    assert!(full.contains(r#","size":4900000000,"#), "{full}");
}
