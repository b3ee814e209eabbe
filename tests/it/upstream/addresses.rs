//! Addresses of upstreams: IPv6, path prefixes, and queries that belong to each request.

use std::time::Duration;

use crate::support::*;

/// The paths of a list, of details beside it, and of three requests.
fn paths(upstream: &Upstream, base: &str) -> Vec<String> {
    upstream.script_lists();
    let proxy = Proxy::at(base, |_| {});
    upstream.script(vec![json(r#"{"data":[{"id":"m","owned_by":"llamacpp"}]}"#)]);
    assert_eq!(proxy.names(), ["m:latest"]);
    let mut paths = vec![upstream.request().path];
    // Details that stand behind a prefix take a script.
    while !upstream.is_idle() {
        paths.push(upstream.request().path);
    }
    paths.extend(upstream.asides().into_iter().map(|request| request.path));
    for path in ["/api/chat", "/v1/chat/completions", "/v1/rerank?top=3"] {
        upstream.script(vec![answer("ok")]);
        assert_eq!(proxy.ask(path, chat_whole("Hi")).status(), 200);
        paths.push(upstream.request().path);
    }
    paths
}

#[test]
fn an_address_of_ipv6_stands_in_brackets() {
    let upstream = Upstream::start_at("[::1]:0");
    let base = upstream.base_url();
    assert!(base.starts_with("http://[::1]:"), "{base}");
    let proxy = Proxy::at(&base, |_| {});
    upstream.script(vec![answer("ok")]).script(stream(&["ok"]));
    assert_eq!(proxy.ask("/api/chat", chat_whole("Hi")).status(), 200);
    assert_eq!(proxy.ask("/v1/chat/completions", chat("Hi")).status(), 200);
    let host = base.replace("http://", "").replace("/v1", "");
    assert_eq!(upstream.request().header("host"), Some(host.as_str()));
}

#[test]
fn a_prefix_of_the_path_is_kept() {
    let upstream = Upstream::start();
    let base = upstream.base_url().replace("/v1", "/team/llama/v1/");
    let expected = [
        "/team/llama/v1/models",
        "/team/llama/props",
        "/team/llama/v1/chat/completions",
        "/team/llama/v1/chat/completions",
        "/team/llama/v1/rerank?top=3",
    ];
    assert_eq!(paths(&upstream, &base), expected);
}

#[test]
fn a_query_of_the_base_url_is_kept_on_each_request() {
    let upstream = Upstream::start();
    let base = format!("{}?key=s3cret-1&v=2", upstream.base_url());
    let expected = [
        "/v1/models?key=s3cret-1&v=2",
        "/props?key=s3cret-1&v=2",
        "/v1/chat/completions?key=s3cret-1&v=2",
        "/v1/chat/completions?key=s3cret-1&v=2",
        "/v1/rerank?key=s3cret-1&v=2&top=3",
    ];
    assert_eq!(paths(&upstream, &base), expected);
}

#[test]
fn an_upstream_may_have_a_time_limit_of_its_own() {
    let (upstream, proxy) = pair_with(|config| {
        config.upstream.timeout = Some(Duration::from_millis(200));
        config.request_timeout = Duration::from_secs(3600);
        config.retry.max_retries = 0;
    });
    let (_go_on, told) = bounded(0);
    upstream.script(vec![Step::Wait(told)]);
    let late = "no response from the upstream within its timeout";
    proxy.ask("/api/chat", chat("Hi")).assert_error(504, late);
    let (_go_on, told) = bounded(0);
    upstream.script(vec![stream_head(), delta("one"), Step::Wait(told)]);
    let lines = proxy.ask("/api/chat", chat("Hi")).lines();
    let late = "the upstream sent nothing for its timeout in the middle of its response";
    assert_eq!(lines.last(), Some(&json!({ "error": late })));
    let (_go_on, told) = bounded(0);
    upstream.script(vec![stream_head(), delta("one"), Step::Wait(told)]);
    assert!(proxy.ask("/v1/chat/completions", chat("Hi")).body.contains(late));
}
