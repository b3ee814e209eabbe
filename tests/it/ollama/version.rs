//! The root, the version and `/health`.

use crate::support::*;

#[test]
fn the_root_says_what_monitors_look_for() {
    let proxy = Proxy::start(&Upstream::start());
    proxy.fetch("/").assert_body(200, "Ollama is running");
}

#[test]
fn the_version_is_ollama_s_and_ours_is_in_a_header() {
    let proxy = Proxy::start(&Upstream::start());
    let answer = proxy.fetch("/api/version");
    assert_eq!(answer.body, r#"{"version":"0.40.16"}"#);
    let ours = answer.head.header("x-ollama-openai-proxy-version");
    assert_eq!(ours, Some(env!("CARGO_PKG_VERSION")));
}

#[test]
fn health_says_so_without_the_upstream() {
    let proxy = Proxy::at("http://127.0.0.1:1/v1", |_| {});
    let version = env!("CARGO_PKG_VERSION");
    assert_eq!(
        proxy.fetch("/health").body,
        format!(r#"{{"status":"healthy","version":"{version}","configured":true}}"#)
    );
}
