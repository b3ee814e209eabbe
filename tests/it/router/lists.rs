//! The lists of several upstreams as one.

use ollama_openai_proxy::models::configured::Strategy;

use crate::support::fleet::{configured, fleet, list_of, server, several};
use crate::support::reserved::Reserved;
use crate::support::*;

fn v1_ids(proxy: &Proxy) -> Vec<String> {
    let list = proxy.get("/v1/models");
    let ids = list["data"].as_array().expect("a list").iter();
    ids.map(|model| model["id"].as_str().expect("an id").to_owned()).collect()
}

#[test]
fn lists_show_configured_then_made_then_the_models_of_all_upstreams_once() {
    let lists: [&[&str]; 2] = [&["m", "both", "hidden-by-name"], &["both", "n"]];
    let fleet = fleet(&lists, |config| {
        config.models = vec![
            configured("first", &["a/m"], Strategy::Order),
            configured("secret", &["a/m"], Strategy::Order),
            configured("hidden-by-name", &["b/n"], Strategy::Order),
        ];
        config.models[1].is_hidden = true;
    });
    let body = json!({"model": "made", "from": "a/m", "stream": false});
    assert_eq!(fleet.proxy.post("/api/create", &body).status(), 200);
    let ids = ["first", "hidden-by-name", "made", "m", "both", "n"];
    assert_eq!(v1_ids(&fleet.proxy), ids);
    assert_eq!(fleet.proxy.names(), ids.map(|id| format!("{id}:latest")));
    for name in ["first", "made", "secret", "both", "b/both", "hidden-by-name"] {
        fleet.proxy.show(name);
        assert_eq!(fleet.proxy.fetch(&format!("/v1/models/{name}")).status(), 200, "{name}");
    }
    assert_eq!(fleet.chat("secret"), "a", "a hidden model answers");
}

#[test]
fn an_upstream_that_hangs_hides_no_other_one() {
    let fleet = fleet(&[&["m"], &["late"]], |_| {});
    let (go_on, told) = bounded::<()>(0);
    fleet.upstreams[1].script_lists();
    fleet.upstreams[1].script(vec![Step::Wait(told), upstream::json(&list_of(&["late"]))]);
    assert_eq!(fleet.proxy.names(), ["m:latest"]);
    assert_eq!(fleet.chat("m"), "a");
    drop(go_on);
    // The fetch goes on behind the requests.
    while fleet.proxy.names().len() < 2 {}
    assert_eq!(fleet.proxy.names(), ["m:latest", "late:latest"]);
}

#[test]
fn the_last_list_of_an_upstream_stays_while_the_upstream_is_broken() {
    let fleet = fleet(&[&["m"], &["n"]], |config| config.models_ttl = std::time::Duration::ZERO);
    assert_eq!(fleet.proxy.names(), ["m:latest", "n:latest"]);
    fleet.upstreams[1].list("nonsense");
    assert_eq!(fleet.proxy.names(), ["m:latest", "n:latest"]);
    let health = fleet.proxy.get("/openai/health");
    assert_eq!(health["upstreams"][1]["list_stale"], true, "{health}");
    assert_eq!(health["upstreams"][0]["list_stale"], false, "{health}");
    fleet.upstreams[1].list(&list_of(&["new"]));
    assert_eq!(fleet.proxy.names(), ["m:latest", "new:latest"]);
}

#[test]
fn configured_models_are_listed_while_no_upstream_answers() {
    let (one, other) = (Reserved::new(), Reserved::new());
    let servers = vec![server("a", &one.base_url()), server("b", &other.base_url())];
    let proxy = several(servers, |config| {
        config.models = vec![configured("mine", &["a/m", "b/m"], Strategy::Order)];
        config.retry.max_retries = 0;
    });
    assert_eq!(proxy.names(), ["mine:latest"]);
    assert_eq!(v1_ids(&proxy), ["mine"]);
    proxy.show("mine");
    let answer =
        proxy.ask("/api/chat", r#"{"model":"mine","messages":[{"role":"user","content":"Hi"}]}"#);
    let error = answer.error();
    assert_eq!(answer.status(), 502);
    assert!(error.contains("(2 upstreams tried)"), "{error}");
}

#[test]
fn without_any_list_and_any_configured_model_the_error_is_the_first_upstream_s() {
    let (one, other) = (Reserved::new(), Reserved::new());
    let proxy =
        several(vec![server("a", &one.base_url()), server("b", &other.base_url())], |config| {
            config.retry.max_retries = 0
        });
    let answer = proxy.fetch("/api/tags");
    assert_eq!(answer.status(), 502, "{}", answer.body);
}
