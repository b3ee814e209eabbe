//! The routes for an account at ollama.com, which answer as a server without an account.

use crate::support::*;

const JSON: Option<&str> = Some("application/json; charset=utf-8");

#[track_caller]
fn check(client: &mut Client, request: (&str, &str, &str), status: u16, body: &str) {
    let (method, path, sent) = request;
    let answer = client.call(method, path, sent).answer();
    assert_eq!((answer.status(), answer.body.as_str()), (status, body), "{request:?}");
    assert_eq!(answer.head.header("content-type"), JSON, "{request:?}");
}

#[test]
fn every_route_answers_as_a_server_without_an_account() {
    let (upstream, proxy) = pair();
    let client = &mut proxy.client();
    let mut check = |method, path, sent, status, body| {
        check(client, (method, path, sent), status, body);
    };
    let signed_out = r#"{"error":"you are not currently signed in"}"#;
    check("GET", "/api/status", "", 200, r#"{"cloud":{"disabled":true,"source":"config"}}"#);
    check("POST", "/api/me", "", 401, r#"{"error":"unauthorized"}"#);
    check("POST", "/api/me", "{}", 401, r#"{"error":"unauthorized"}"#);
    check("POST", "/api/signout", "", 401, signed_out);
    check("DELETE", "/api/user/keys/c3NoLWVkMjU1MTk", "", 401, signed_out);
    check("DELETE", "/api/user/keys/c3No%2BQ==?x=1", "", 401, signed_out);
    let list = "/api/experimental/model-recommendations";
    check("GET", list, "", 200, r#"{"recommendations":[]}"#);
    assert!(upstream.is_idle(), "the upstream is not asked");
}

#[test]
fn web_search_and_fetch_are_off() {
    let proxy = Proxy::start(&Upstream::start());
    let client = &mut proxy.client();
    let mut check = |path, sent, status, body| check(client, ("POST", path, sent), status, body);
    let (search, fetch) = ("/api/experimental/web_search", "/api/experimental/web_fetch");
    let off = r#"{"error":"ollama cloud is disabled: web search is unavailable"}"#;
    check(search, r#"{"query":"x","max_results":5}"#, 403, off);
    check(search, "{bad", 403, off);
    let off = r#"{"error":"ollama cloud is disabled: web fetch is unavailable"}"#;
    check(fetch, r#"{"url":"http://127.0.0.1:1/"}"#, 403, off);
    for path in [search, fetch] {
        for blank in ["", " \r\n\t"] {
            check(path, blank, 400, r#"{"error":"missing request body"}"#);
        }
    }
}

#[test]
fn shorter_and_longer_paths_are_answered_by_the_router() {
    let proxy = Proxy::start(&Upstream::start());
    let mut client = proxy.client();
    for path in ["/api/user/keys", "/api/user/keys/", "/api/user/keys/a/b", "/api/web_search"] {
        assert_eq!(client.request("DELETE", path).answer().status(), 404, "{path}");
    }
    let answer = client.request("DELETE", "/api/user/keys/a/").answer();
    assert_eq!((answer.status(), answer.head.header("location")), (307, Some("/api/user/keys/a")));
}
