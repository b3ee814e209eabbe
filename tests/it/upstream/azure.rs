//! Azure OpenAI's dated API: the deployment in the path, the version in the query, and the key in
//! the `api-key` header.

use crate::support::*;
use ollama_openai_proxy::observe::redact::Secret;

const VERSION: &str = "?api-version=2024-10-21";

#[test]
fn the_model_is_the_deployment_and_the_key_has_its_own_header() {
    let upstream = Upstream::start();
    upstream.script(vec![answer("Hi")]);
    let base = upstream.base_url().replace("/v1", "/openai");
    let proxy = Proxy::at(&format!("{base}{VERSION}"), |_| {});
    assert_eq!(proxy.ask("/api/chat", chat_whole("Hi")).status(), 200);
    let asked = upstream.request();
    assert_eq!(asked.path, format!("/openai/deployments/m/chat/completions{VERSION}"));
    assert_eq!((asked.header("api-key"), asked.header("authorization")), (Some(KEY), None));
}

#[test]
fn a_deployment_in_the_base_serves_every_model_and_the_list_stands_beside_it() {
    let upstream = Upstream::start();
    upstream.script_lists();
    upstream.script(vec![upstream::json(r#"{"data":[{"id":"gpt-4o"}]}"#)]);
    upstream.script(vec![answer("Hi")]);
    let base = upstream.base_url().replace("/v1", "/openai/deployments/mine");
    let proxy = Proxy::at(&format!("{base}{VERSION}"), |_| {});
    let tags = proxy.fetch("/api/tags").json();
    assert_eq!(tags["models"][0]["name"], "gpt-4o:latest");
    let asked = upstream.request();
    assert_eq!(asked.path, format!("/openai/models{VERSION}"));
    assert_eq!(asked.header("api-key"), Some(KEY));
    proxy.ask("/api/chat", chat_whole("Hi"));
    assert_eq!(
        upstream.request().path,
        format!("/openai/deployments/mine/chat/completions{VERSION}")
    );
}

#[test]
fn a_token_of_the_directory_is_a_bearer_s() {
    let upstream = Upstream::start();
    upstream.script(vec![answer("Hi")]);
    let base = upstream.base_url().replace("/v1", "/openai");
    let proxy = Proxy::at(&format!("{base}{VERSION}"), |config| {
        config.upstream.api_key = Some(Secret::new("eyJ0eXAi"));
    });
    proxy.ask("/api/chat", chat_whole("Hi"));
    let asked = upstream.request();
    assert_eq!(
        (asked.header("authorization"), asked.header("api-key")),
        (Some("Bearer eyJ0eXAi"), None)
    );
}

/// A body that a JSON library would not write in the same way.
const ODD: &str = "{ \"zeta\" : 1.50,\n\t\"model\" :\"m\", \"messages\":[ {\"role\":\"user\",\
                   \"content\":\"\\u00e9 \\ud83d\"} ],\"tools\":[{\"z\":1,\"a\":{\"y\":2,\"b\":3}}],\
                   \"unknown\":{\"deep\":[null,1e2,{}]} }\n";

/// The upstream request for a request; the response is `{}`.
fn sent(proxy: &Proxy, upstream: &Upstream, path: &str, body: &str) -> Recorded {
    upstream.script(vec![json("{}")]);
    let answer = proxy.ask(path, body);
    assert_eq!((answer.status(), answer.body.as_str()), (200, "{}"), "{path} {body}");
    upstream.request()
}

#[test]
fn azure_gets_its_key_in_its_own_header_and_the_model_in_the_path() {
    let upstream = Upstream::start();
    let base = upstream.base_url().replace("/v1", "/openai?api-version=2024-10-21");
    let proxy = Proxy::at(&base, |_| {});
    let request = sent(&proxy, &upstream, "/v1/chat/completions", ODD);
    let path = "/openai/deployments/m/chat/completions?api-version=2024-10-21";
    assert_eq!(request.path, path);
    assert_eq!((request.header("api-key"), request.header("authorization")), (Some(KEY), None));
}
