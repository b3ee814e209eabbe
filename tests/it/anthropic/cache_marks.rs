//! `cache_control` of Anthropic's API: sent to the families that take it, and to no other.

use crate::support::*;
use ollama_openai_proxy::backends::profiles;

const MARK: &str = r#"{"type":"ephemeral"}"#;

/// What the upstream is sent for a request with a mark on the second of two texts.
fn sent(upstream: &Upstream, proxy: &Proxy) -> Value {
    let body = format!(
        r#"{{"model":"m","max_tokens":9,"messages":[{{"role":"user","content":[
            {{"type":"text","text":"a"}},{{"type":"text","text":"b","cache_control":{MARK}}}]}}]}}"#
    );
    upstream.script(vec![answer("ok")]);
    let answer = proxy.ask("/v1/messages", body);
    assert_eq!(answer.status(), 200, "{}", answer.body);
    upstream.request().json()["messages"][0]["content"].clone()
}

fn kept() -> Value {
    let mark: Value = serde_json::from_str(MARK).expect("valid");
    json!([{"type": "text", "text": "a"}, {"type": "text", "text": "b", "cache_control": mark}])
}

#[test]
fn each_family_gets_what_it_takes() {
    for name in profiles::names() {
        let (upstream, proxy) =
            pair_with(|config| config.upstream.profile = profiles::find_by_name(name));
        let expected = match name {
            "openrouter" | "litellm" => kept(),
            _ => json!("ab"),
        };
        assert_eq!(sent(&upstream, &proxy), expected, "{name}");
    }
}

#[test]
fn a_family_that_only_its_list_shows_gets_the_marks_of_the_first_request() {
    let (upstream, proxy) = pair();
    upstream.list(r#"{"data":[{"id":"m","architecture":{},"top_provider":{},"pricing":{}}]}"#);
    assert_eq!(sent(&upstream, &proxy), kept());
    let (upstream, proxy) = pair();
    assert_eq!(sent(&upstream, &proxy), json!("ab"));
}
