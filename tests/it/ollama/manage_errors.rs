//! Errors of model management, one row each.

use crate::support::*;

/// The rows of model management: method, path, body, status, text.
const MANAGEMENT: &[(&str, &str, &str, u16, &str)] = &[
    ("POST", "/api/pull", "", 400, "missing request body"),
    ("POST", "/api/pull", "{}", 400, "invalid model name"),
    ("POST", "/api/pull", r#"{"model":"m:"}"#, 400, "invalid model name"),
    (
        "POST",
        "/api/pull",
        r#"{"model":"nope","stream":false}"#,
        500,
        "pull model manifest: file does not exist",
    ),
    ("POST", "/api/push", "", 400, "missing request body"),
    ("POST", "/api/push", "{}", 400, "model is required"),
    ("POST", "/api/create", "", 400, "missing request body"),
    ("POST", "/api/create", r#"{"model":"m:"}"#, 400, "invalid model name"),
    (
        "POST",
        "/api/create",
        r#"{"model":"new","from":"m","files":{"a":5}}"#,
        400,
        "json: cannot unmarshal number into Go struct field CreateRequest.files of type string",
    ),
    ("POST", "/api/create", r#"{"model":"new"}"#, 400, "neither 'from' or 'files' was specified"),
    (
        "POST",
        "/api/create",
        r#"{"model":"new","from":"m","template":"{{ .Prompt }"}"#,
        400,
        "template error: template: :1: unexpected \"}\" in operand",
    ),
    // A file that is refused comes first, other parts that are wrong come later.
    (
        "POST",
        "/api/create",
        r#"{"model":"new","from":"m","template":"{{","files":{"/a":"sha256:0"}}"#,
        400,
        "file path must be relative",
    ),
    (
        "POST",
        "/api/create",
        r#"{"model":"new","template":"{{"}"#,
        400,
        "neither 'from' or 'files' was specified",
    ),
    (
        "POST",
        "/api/create",
        r#"{"model":"new","from":"m","stream":false,"template":"{{","license":5,
            "parameters":{"seed":"x"},"messages":[{"role":"user","content":"a","images":["illegal!"]}]}"#,
        400,
        "template error: template: :1: unclosed action",
    ),
    (
        "POST",
        "/api/create",
        r#"{"model":"new","from":"m","renderer":5}"#,
        400,
        "json: cannot unmarshal number into Go struct field CreateRequest.renderer of type string",
    ),
    ("POST", "/api/copy", "", 400, "missing request body"),
    ("POST", "/api/copy", r#"{"source":"m:","destination":"n"}"#, 400, "source \"m:\" is invalid"),
    (
        "POST",
        "/api/copy",
        r#"{"source":"m","destination":"n:"}"#,
        400,
        "destination \"n:\" is invalid",
    ),
    (
        "POST",
        "/api/copy",
        r#"{"source":"nope","destination":"n"}"#,
        404,
        "model \"nope\" not found",
    ),
    ("DELETE", "/api/delete", "", 400, "missing request body"),
    ("DELETE", "/api/delete", "{}", 400, "model is required"),
    ("DELETE", "/api/delete", r#"{"model":"m:"}"#, 400, "name \"m:\" is invalid"),
    ("DELETE", "/api/delete", r#"{"model":"nope"}"#, 404, "model 'nope' not found"),
    ("POST", "/api/blobs/sha256:0", "x", 400, "invalid digest format"),
];

#[test]
fn faults_of_model_management() {
    for (method, path, body, code, text) in MANAGEMENT {
        let (upstream, length) = (Upstream::start(), body.len());
        let head = format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\n");
        let request = format!("{head}Content-Length: {length}\r\n\r\n{body}");
        let answer = Proxy::start(&upstream).client().send(request).answer();
        assert_eq!(answer.status(), *code, "{method} {path} {body}: {}", answer.body);
        assert_eq!(&answer.error(), text, "{method} {path} {body}");
    }
}
