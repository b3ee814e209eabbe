//! A user name and a password in the base URL: they are sent as `Authorization: Basic`, and shown nowhere.

use crate::support::program::{program, run};
use crate::support::*;

/// A base URL with a user name and a password before its host.
fn with_password(base: &str) -> String {
    base.replace("http://", "http://m%C3%A9:s3cret%3Aword@")
}

/// base64 of `mé:s3cret:word`.
const SENT: &str = "Basic bcOpOnMzY3JldDp3b3Jk";

fn without_key(upstream: &Upstream) -> Proxy {
    Proxy::at(&with_password(&upstream.base_url()), |config| config.upstream.api_key = None)
}

#[test]
fn they_are_sent_with_every_request_and_stand_in_no_path_and_no_host() {
    let upstream = Upstream::start();
    upstream.script_lists();
    let proxy = without_key(&upstream);
    upstream.script(vec![json(MODELS)]).script(vec![answer("ok")]).script(vec![answer("ok")]);
    assert_eq!(proxy.fetch("/api/tags").status(), 200);
    assert_eq!(proxy.ask("/api/chat", chat_whole("Hi")).status(), 200);
    // The client's own key is not the upstream's.
    let mut client = proxy.client();
    client.with("POST", "/v1/chat/completions", "Authorization: Bearer x\r\n", chat_whole("Hi"));
    assert_eq!(client.answer().status(), 200);
    let host = upstream.base_url().replace("http://", "").replace("/v1", "");
    for path in ["/v1/models", "/v1/chat/completions", "/v1/chat/completions"] {
        let request = upstream.request();
        assert_eq!(request.path, path);
        assert_eq!(request.header("authorization"), Some(SENT));
        assert_eq!(request.header("host"), Some(host.as_str()));
    }
}

#[test]
fn an_upstream_that_repeats_them_is_masked() {
    let upstream = Upstream::start();
    let proxy = without_key(&upstream);
    for text in ["wrong password s3cret:word", "got bcOpOnMzY3JldDp3b3Jk", "s3cret%3Aword is wrong"]
    {
        upstream.script(vec![status(401, &[], &json!({"error": {"message": text}}).to_string())]);
        let told = proxy.ask("/api/chat", chat("Hi"));
        assert_eq!(told.status(), 401);
        assert!(told.body.contains("***"), "{}", told.body);
        assert!(!told.body.contains("s3cret") && !told.body.contains("bcOp"), "{}", told.body);
    }
    assert!(!proxy.fetch("/openai/health").body.contains("s3cret"));
}

#[test]
fn a_check_sends_them_and_shows_that_there_are_some() {
    let upstream = Upstream::start();
    upstream.script_lists();
    upstream.script(vec![json(MODELS)]);
    let base = with_password(&upstream.base_url());
    let (code, out, errors) = run(program().arg("--check").env("OPENAI_BASE_URL", base));
    assert_eq!(code, Some(0), "{out}{errors}");
    assert!(out.contains("OPENAI_API_BASE_URL=http://***@127.0.0.1:"), "{out}");
    assert!(!out.contains("s3cret") && !out.contains("bcOp"), "{out}");
    assert_eq!(upstream.request().header("authorization"), Some(SENT));
}

#[test]
fn a_key_beside_them_ends_the_start() {
    let base = with_password("http://127.0.0.1:9/v1");
    let mut command = program();
    command.arg("--check").env("OPENAI_BASE_URL", base).env("OPENAI_API_KEY", "k");
    let (code, out, errors) = run(&mut command);
    assert_eq!((code, out.as_str()), (Some(1), ""), "{errors}");
    assert!(errors.contains("OPENAI_API_KEY and a user name in OPENAI_API_BASE_URL"), "{errors}");
    assert!(!errors.contains("s3cret"), "{errors}");
}
