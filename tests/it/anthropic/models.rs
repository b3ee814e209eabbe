//! Anthropic's own list of models, for its clients.

use crate::support::*;

/// The header by which Anthropic's clients are known.
const VERSION: &str = "anthropic-version: 2023-06-01\r\n";

fn fetched(proxy: &Proxy, path: &str, lines: &str) -> Answer {
    proxy.client().with("GET", path, lines, "").answer()
}

fn listing() -> (Upstream, Proxy) {
    let (upstream, proxy) = pair();
    upstream.list(
        r#"{"data":[{"id":"org/a","created":1740000000,"display_name":"A","context_length":8192},
            {"id":"b","name":"Bee","owned_by":"x"},{"id":"c"}]}"#,
    );
    let made = proxy.ask("/api/create", r#"{"model":"mario","from":"c","stream":false}"#);
    assert_eq!(made.status(), 200, "{}", made.body);
    (upstream, proxy)
}

#[test]
fn clients_of_anthropic_get_anthropic_s_list_of_models() {
    let (_upstream, proxy) = listing();
    let answer = fetched(&proxy, "/v1/models?limit=1000", VERSION);
    assert_eq!(answer.head.header("content-type"), Some("application/json"));
    let mut list = answer.json();
    let mario = list["data"].as_array_mut().expect("a list").remove(0);
    let epoch = "1970-01-01T00:00:00Z";
    let expected = json!({"data": [
        {"type": "model", "id": "org/a", "display_name": "A", "created_at": "2025-02-19T21:20:00Z",
            "max_input_tokens": 8192},
        {"type": "model", "id": "b", "display_name": "Bee", "created_at": epoch},
        {"type": "model", "id": "c", "display_name": "c", "created_at": epoch},
    ], "has_more": false, "first_id": "mario", "last_id": "c"});
    assert_eq!(list, expected);
    assert_eq!((&mario["id"], &mario["type"]), (&"mario".into(), &"model".into()));
    let created = mario["created_at"].as_str().expect("a time");
    assert!(created.len() == 20 && created.ends_with('Z'), "{created}");
}

#[test]
fn the_list_of_models_comes_in_pages() {
    let (_upstream, proxy) = listing();
    let mut after = String::new();
    let mut ids = Vec::new();
    for _ in 0..9 {
        let page = fetched(&proxy, &format!("/v1/models?limit=2{after}"), VERSION).json();
        let data = page["data"].as_array().expect("a list");
        ids.extend(data.iter().map(|model| model["id"].as_str().expect("an id").to_owned()));
        assert_eq!((&page["first_id"], &page["last_id"]), (&data[0]["id"], &data[1]["id"]));
        if page["has_more"] == false {
            break;
        }
        after = format!("&after_id={}", page["last_id"].as_str().expect("an id"));
    }
    assert_eq!(ids, ["mario", "org/a", "b", "c"]);
}

#[test]
fn one_model_and_an_unknown_one_are_told_in_anthropic_s_form() {
    let (_upstream, proxy) = listing();
    for (path, name) in [("org/a", "A"), ("org%2Fa:latest", "A"), ("mario", "mario")] {
        let model = fetched(&proxy, &format!("/v1/models/{path}"), VERSION).json();
        assert_eq!((&model["type"], &model["display_name"]), (&"model".into(), &name.into()));
    }
    let answer = fetched(&proxy, "/v1/models/nope", VERSION);
    let told = super::messages::error(&answer);
    assert_eq!(told, (404, "not_found_error".into(), "model: nope".into()));
}

#[test]
fn anthropic_s_clients_are_known_by_their_version_or_by_key_and_limit() {
    let (_upstream, proxy) = listing();
    let is_anthropic = |path: &str, lines: &str| {
        let list = fetched(&proxy, path, lines).json();
        let is_anthropic = list["has_more"] == false;
        assert_eq!(list["object"] == "list", !is_anthropic, "{list}");
        is_anthropic
    };
    let key = "x-api-key: theirs\r\n";
    assert!(is_anthropic("/v1/models", VERSION));
    assert!(is_anthropic("/v1/models?limit=1000", key));
    assert!(!is_anthropic("/v1/models", key));
    assert!(!is_anthropic("/v1/models?limit=1000", "Authorization: Bearer theirs\r\n"));
    assert!(!is_anthropic("/v1/models", ""));
}
