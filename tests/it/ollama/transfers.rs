//! Pull, push and blobs: progress lines and errors, compared as bytes.

use super::manage::{create, lines, mario};
use crate::support::*;

/// A stream of exactly these lines.
#[track_caller]
fn assert_lines(answer: &Answer, lines: &[&str]) {
    let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
    answer.assert_body(200, text.as_str());
    assert_eq!(answer.head.header("content-type"), Some("application/x-ndjson"));
}

/// A response without a newline at its end.
#[track_caller]
pub(super) fn assert_whole(answer: &Answer, status: u16, body: &str) {
    answer.assert_body(status, body);
    assert_eq!(answer.head.header("content-type"), Some("application/json"));
}

pub(super) const SUCCESS: &str = r#"{"status":"success"}"#;

const PULLED: &[&str] = &[
    r#"{"status":"pulling manifest"}"#,
    r#"{"status":"verifying sha256 digest"}"#,
    r#"{"status":"writing manifest"}"#,
    SUCCESS,
];

#[test]
fn a_pull_is_told_in_ollama_s_lines() {
    let proxy = Proxy::start(&Upstream::start());
    let pull = |body: Value| proxy.post("/api/pull", &body);
    for stream in [json!(null), json!(true)] {
        assert_lines(&pull(json!({"model": "m", "stream": stream})), PULLED);
    }
    assert_whole(&pull(json!({"model": "m", "stream": false})), 200, SUCCESS);
    let unknown = r#"{"error":"pull model manifest: file does not exist"}"#;
    assert_lines(&pull(json!({"model": "nope"})), &[PULLED[0], unknown]);
    assert_whole(&pull(json!({"model": "nope", "stream": false})), 500, unknown);
}

#[test]
fn every_member_of_a_transfer_is_understood() {
    let proxy = Proxy::start(&Upstream::start());
    create(&proxy, mario());
    for body in [
        json!({"name": "m"}),
        json!({"model": "", "name": "m"}),
        json!({"model": "m", "name": "nope"}),
        json!({"model": "m", "insecure": true}),
        json!({"model": "m", "username": "somebody", "password": "something"}),
        json!({"MODEL": "m", "unknown": [1]}),
        json!({"name": "TAGGED:8B", "insecure": true}),
        json!({"model": "mario", "stream": true, "username": "x"}),
    ] {
        assert_lines(&proxy.post("/api/pull", &body), PULLED);
    }
}

#[test]
fn a_push_is_told_in_ollama_s_lines() {
    let proxy = Proxy::start(&Upstream::start());
    let retrieving = r#"{"status":"retrieving manifest"}"#;
    let unknown = [
        retrieving,
        r#"{"status":"couldn't retrieve manifest"}"#,
        r#"{"error":"open nope:latest: no such file or directory"}"#,
    ];
    for body in [json!({"model": "nope"}), json!({"model": "", "name": "nope", "stream": null})] {
        assert_lines(&proxy.post("/api/push", &body), &unknown);
    }
    let whole = proxy.post("/api/push", &json!({"model": "nope", "stream": false}));
    assert_whole(&whole, 500, unknown[2]);
    let plain = r#"{"error":"insecure protocol http"}"#;
    let body = |stream: bool| json!({"model": "http://h/n/m", "stream": stream});
    assert_lines(&proxy.post("/api/push", &body(true)), &[retrieving, plain]);
    assert_whole(&proxy.post("/api/push", &body(false)), 500, plain);
    let nowhere = r#"{"error":"push is not supported: this proxy has no registry to push to"}"#;
    assert_lines(&proxy.post("/api/push", &json!({"model": "m"})), &[retrieving, nowhere]);
    let whole = proxy.post("/api/push", &json!({"model": "m", "stream": false}));
    assert_whole(&whole, 500, nowhere);
    let insecure = json!({"model": "http://h/n/m", "insecure": true});
    assert_eq!(lines(&proxy.post("/api/push", &insecure)).len(), 3);
    for body in [json!({}), json!({"model": "", "name": " "})] {
        proxy.post("/api/push", &body).assert_error(400, "model is required");
    }
}

#[test]
fn an_absent_blob_has_no_body_for_head() {
    let digits = "0123456789abcdef".repeat(4);
    let proxy = Proxy::start(&Upstream::start());
    let mut client = proxy.client();
    let told = format!(r#"{{"error":"blob \"sha256:{digits}\" not found"}}"#);
    for form in [format!("sha256:{digits}"), format!("sha256-{digits}")] {
        let head = client.request("HEAD", &format!("/api/blobs/{form}")).head();
        assert_eq!(head.status, 404);
        // The length of the body that GET would send.
        assert_eq!(head.header("content-length"), Some(told.len().to_string().as_str()));
        // No body is left in the connection.
        assert_eq!(client.get("/").answer().body, "Ollama is running");
    }
}

#[test]
fn a_pull_of_what_is_not_there_is_an_error_after_a_fresh_look() {
    let (upstream, proxy) = pair();
    let unknown = r#"{"error":"pull model manifest: file does not exist"}"#;
    for name in ["nope", "gpt-oss:120b-cloud"] {
        assert_lines(&proxy.post("/api/pull", &json!({"model": name})), &[PULLED[0], unknown]);
    }
    proxy.post("/api/pull", &json!({})).assert_error(400, "invalid model name");
    proxy.post("/api/pull", &json!({"model": "a:b:c"})).assert_error(400, "invalid model name");
    upstream.list(r#"{"data":[{"id":"nope"}]}"#);
    assert_eq!(lines(&proxy.post("/api/pull", &json!({"model": "nope"}))).len(), 4);
}

#[test]
fn blobs_are_checked_and_known_by_their_digest() {
    const ABC: &str = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
    let proxy = Proxy::with(&Upstream::start(), |config| config.max_body_bytes = 100);
    let path = format!("/api/blobs/sha256:{ABC}");
    let mut client = proxy.client();
    let mut answer = |method: &str, path: &str, body: &str| {
        let answer = client.call(method, path, body).any_answer(method);
        (answer.status(), answer.body)
    };
    assert_eq!(answer("HEAD", &path, "").0, 404);
    let mismatch = format!(
        r#"{{"error":"digest mismatch, expected \"sha256:{ABC}\", got \"sha256:a52d159f262b2c6ddb724a61840befc36eb30c88877a4030b65cbe86298449c9\""}}"#
    );
    assert_eq!(answer("POST", &path, "abd"), (400, mismatch));
    assert_eq!(answer("HEAD", &path, "").0, 404);
    assert_eq!(answer("POST", &path, "abc"), (201, String::new()));
    assert_eq!(answer("POST", &path, "anything"), (200, String::new()));
    assert_eq!(answer("HEAD", &path.replace("sha256:ba", "sha256-BA"), "").0, 200);
    let invalid = r#"{"error":"invalid digest format"}"#.to_owned();
    assert_eq!(answer("POST", "/api/blobs/sha256:abc", "abc"), (400, invalid));
    assert_eq!(answer("HEAD", "/api/blobs/x", "").0, 400);
    let large = proxy.ask(&path.replace("ba78", "0000"), "x".repeat(101));
    assert_eq!(large.status(), 413);
}
