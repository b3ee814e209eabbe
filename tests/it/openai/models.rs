//! `/v1/models`: the upstream's ids and the names of created models.

use crate::support::*;

fn made(proxy: &Proxy, body: &str) {
    let answer = proxy.ask("/api/create", body);
    assert_eq!(answer.status(), 200, "{}", answer.body);
}

const ODD: &str = "{ \"id\" : \"org/a\",\"created\":1.0, \"zeta\":{\"z\":1,\"a\":2} }";

#[test]
fn the_list_is_the_upstream_s_own_entries_and_our_models() {
    let (upstream, proxy) = pair();
    upstream.list(&format!("{{\"object\":\"list\",\"data\":[{ODD},{{\"id\":\"hidden\"}}]}}"));
    let answer = proxy.fetch("/v1/models");
    let expected = format!("{{\"object\":\"list\",\"data\":[{ODD},{{\"id\":\"hidden\"}}]}}\n");
    assert_eq!((answer.status(), answer.body), (200, expected));
    assert_eq!(answer.head.header("content-type"), Some("application/json"));
    made(&proxy, r#"{"model":"mario","from":"org/a","stream":false}"#);
    made(&proxy, r#"{"model":"hidden","from":"org/a","stream":false}"#);
    made(&proxy, r#"{"model":"luigi:8b","from":"org/a","stream":false}"#);
    let answer = proxy.fetch("/v1/models");
    assert!(answer.body.ends_with(&format!(",{ODD}]}}\n")), "the upstream's own come last");
    let data = answer.json()["data"].as_array().expect("a list").clone();
    let mut ids: Vec<&str> = data.iter().filter_map(|it| it["id"].as_str()).collect();
    assert_eq!(ids.pop(), Some("org/a"));
    ids.sort_unstable();
    assert_eq!(ids, ["hidden", "luigi:8b", "mario"]);
    for own in &data[..3] {
        assert_eq!((&own["object"], &own["owned_by"]), (&"model".into(), &"library".into()));
        assert!(own["created"].as_u64().is_some_and(|seconds| seconds > 1_700_000_000), "{own}");
    }
}

#[test]
fn lists_of_any_shape_become_openai_s() {
    let (upstream, proxy) = pair_with(|config| config.models_ttl = std::time::Duration::ZERO);
    let listed = |body: &str| -> Value {
        upstream.list(body);
        proxy.fetch("/v1/models").json()
    };
    assert_eq!(listed("[]").to_string(), r#"{"data":[],"object":"list"}"#);
    assert_eq!(listed(r#"[{"id":"a","x":1}]"#)["data"][0]["x"], 1);
    assert_eq!(listed(r#"{"models":[{"id":"a","x":2}]}"#)["data"][0]["x"], 2);
    let named = listed(r#"{"models":[{"name":"a"}]}"#)["data"][0].to_string();
    assert_eq!(named, r#"{"created":0,"id":"a","object":"model","owned_by":""}"#);
}

#[test]
fn one_model_is_found_by_any_of_its_names() {
    let (upstream, proxy) = pair();
    upstream.list(&format!("{{\"data\":[{ODD}]}}"));
    made(&proxy, r#"{"model":"mario","from":"org/a","stream":false}"#);
    let one = |path: &str| {
        let answer = proxy.fetch(&format!("/v1/models/{path}"));
        assert_eq!(answer.head.header("content-type"), Some("application/json"));
        (answer.status(), answer.body)
    };
    for path in ["org/a", "org%2Fa", "org%2fa", "org/a:latest", "ORG/A?x=1"] {
        assert_eq!(one(path), (200, format!("{ODD}\n")), "{path}");
    }
    for path in ["mario", "mario:latest"] {
        let (status, body) = one(path);
        assert_eq!(status, 200);
        assert!(
            body.starts_with(&format!("{{\"id\":\"{path}\",\"object\":\"model\",\"created\":"))
        );
        assert!(body.ends_with(",\"owned_by\":\"library\"}\n"), "{body}");
    }
    for (path, name) in [("m", "m:latest"), ("org/b", "org/b:latest"), ("c%3A8b", "c:8b")] {
        let (status, body) = one(path);
        let expected = format!(
            "{{\"error\":{{\"message\":\"model '{name}' not found\",\"type\":\"not_found_error\",\"param\":null,\"code\":null}}}}\n"
        );
        assert_eq!((status, body), (404, expected), "{path}");
    }
}

#[test]
fn a_list_that_cannot_be_had_is_told_in_openai_s_shape() {
    let (upstream, proxy) = pair();
    upstream.script_lists();
    upstream.script(vec![status(401, &[], r#"{"error":{"message":"no such key"}}"#)]);
    let answer = proxy.fetch("/v1/models");
    assert_eq!(answer.status(), 401);
    let expected =
        r#"{"error":{"message":"no such key","type":"api_error","param":null,"code":null}}"#;
    assert_eq!(answer.body, format!("{expected}\n"));
}
