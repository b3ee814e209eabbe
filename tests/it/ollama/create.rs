//! `/api/create` and `/api/delete`: progress lines and errors, compared as bytes.

use super::manage::{delete, mario};
use super::transfers::{SUCCESS, assert_whole};
use crate::support::*;

/// The lines with `*` for each digest.
fn starred(answer: &Answer) -> Vec<String> {
    assert_eq!(answer.head.header("content-type"), Some("application/x-ndjson"));
    let star = |line: &str| match line.split_once("sha256:") {
        Some((before, rest)) => {
            let digest = rest.strip_suffix("\"}").expect("nothing behind the digest");
            let hex = digest.bytes().all(|byte| byte.is_ascii_hexdigit());
            assert!(digest.len() == 64 && hex, "{line}");
            format!("{before}sha256:*\"}}")
        }
        None => line.to_owned(),
    };
    assert!(answer.body.ends_with('\n'));
    answer.body.lines().map(star).collect()
}

#[test]
fn the_lines_of_create_are_ollama_s() {
    const EXISTING: &str = r#"{"status":"using existing layer sha256:*"}"#;
    const NEW: &str = r#"{"status":"creating new layer sha256:*"}"#;
    const WRITING: &str = r#"{"status":"writing manifest"}"#;
    let proxy = Proxy::start(&Upstream::start());
    let create = |more: Value| {
        proxy.post("/api/create", &with(json!({"model": "made", "from": "m"}), &more))
    };
    assert_eq!(starred(&create(json!({}))), [EXISTING, WRITING, SUCCESS]);
    let system = create(json!({"system": "x", "stream": null}));
    assert_eq!(starred(&system), [EXISTING, NEW, WRITING, SUCCESS]);
    let two = create(json!({"parameters": {"seed": 1}, "license": "MIT", "stream": true}));
    assert_eq!(starred(&two), [EXISTING, NEW, NEW, WRITING, SUCCESS]);
    let five = [&[EXISTING][..], &[NEW; 5], &[WRITING, SUCCESS]].concat();
    assert_eq!(starred(&proxy.post("/api/create", &mario())), five);
    assert_whole(&create(json!({"system": "x", "stream": false})), 200, SUCCESS);
    let named = json!({"name": "b", "from": "m", "stream": false});
    assert_whole(&proxy.post("/api/create", &named), 200, SUCCESS);
}

#[test]
fn create_overwrites() {
    let proxy = Proxy::start(&Upstream::start());
    let first = json!({"model": "made", "from": "m", "system": "One.", "license": "MIT",
        "stream": false});
    assert_whole(&proxy.post("/api/create", &first), 200, SUCCESS);
    let second = json!({"model": "MADE:latest", "from": "tagged:8b", "template": "x",
        "stream": false});
    assert_whole(&proxy.post("/api/create", &second), 200, SUCCESS);
    let shown = proxy.show("made");
    assert_eq!(shown["details"]["parent_model"], "tagged:8b");
    assert_eq!(shown["template"], "x");
    for gone in ["system", "license"] {
        assert_eq!(shown.get(gone), None, "{gone}");
    }
    let list = proxy.fetch("/api/tags").json();
    assert_eq!(list["models"].as_array().map(Vec::len), Some(4), "one more than the upstream's");
}

#[test]
fn a_license_is_a_text_or_several() {
    let proxy = Proxy::start(&Upstream::start());
    for (license, shown) in [
        (json!("MIT"), json!("MIT")),
        (json!(["MIT", "See <LICENSE>."]), json!("MIT\nSee <LICENSE>.")),
        (json!(""), Value::Null),
        (json!([]), Value::Null),
        (json!(null), Value::Null),
    ] {
        let body = json!({"model": "made", "from": "m", "license": license, "stream": false});
        assert_whole(&proxy.post("/api/create", &body), 200, SUCCESS);
        assert_eq!(proxy.show("made")["license"], shown, "{license}");
    }
}

/// A create request that is refused before any line, stream or not, and makes nothing.
#[track_caller]
fn assert_refused(proxy: &Proxy, more: &Value, text: &str) {
    for stream in [json!(null), json!(false)] {
        let body = with(json!({"model": "made", "stream": stream}), more);
        let answer = proxy.post("/api/create", &body);
        assert_eq!((answer.status(), answer.error().as_str()), (400, text), "{body}");
        let kind = answer.head.header("content-type");
        assert_eq!(kind, Some("application/json; charset=utf-8"), "{body}");
        let shown = proxy.post("/api/show", &json!({"model": "made"}));
        assert_eq!(shown.status(), 404, "no model was created: {body}");
    }
}

#[test]
fn what_a_proxy_cannot_make_is_refused_by_name() {
    let proxy = Proxy::start(&Upstream::start());
    let file = || json!({"a.gguf": "sha256:00"});
    for (name, body) in [
        ("files", json!({"files": file()})),
        ("files", json!({"from": "m", "files": file()})),
        ("adapters", json!({"from": "m", "adapters": file()})),
        ("draft_files", json!({"from": "m", "draft_files": file()})),
        ("draft_files", json!({"from": "m", "draft_files": file(), "draft_quantize": "q8_0"})),
        ("quantize", json!({"from": "m", "quantize": "q4_K_M"})),
        ("quantization", json!({"from": "m", "quantization": "q4_K_M"})),
        ("remote_host", json!({"from": "m", "remote_host": "http://localhost:11434"})),
    ] {
        let text = format!(
            "{name:?} is not supported: this proxy stores no model files; create the model \
             \"from\" one of the upstream's"
        );
        assert_refused(&proxy, &body, &text);
    }
}

#[test]
fn errors_of_create_come_before_any_line() {
    let proxy = Proxy::start(&Upstream::start());
    let check = |body: Value, text: &str| assert_refused(&proxy, &body, text);
    check(json!({}), "neither 'from' or 'files' was specified");
    check(
        json!({"system": "x", "from": "", "files": {}}),
        "neither 'from' or 'files' was specified",
    );
    for path in ["/a.gguf", "../a.gguf", "a/../../b"] {
        let files = json!({path: "sha256:00"});
        check(json!({"files": files}), "file path must be relative");
        check(json!({"from": "m", "adapters": files}), "file path must be relative");
    }
    check(json!({"files": {"a.gguf": ""}}), "invalid digest format");
    check(json!({"from": "m", "draft_files": {"a.gguf": ""}}), "invalid digest format");
    let draft = json!({"from": "m", "draft_quantize": "q8_0"});
    check(draft, "--draft-quantize requires a DRAFT model");
    let parameters = json!({"temperature": "hot"});
    let text = "option \"temperature\" must be of type float32";
    check(json!({"from": "m", "parameters": parameters}), text);
    check(json!({"model": "a:b:c", "from": "m"}), "invalid model name");
}

#[test]
fn a_delete_by_either_member_is_an_empty_200() {
    let proxy = Proxy::start(&Upstream::start());
    for body in [
        json!({"model": "made"}),
        json!({"name": "made"}),
        json!({"model": "", "name": "MADE:latest"}),
        json!({"model": "made", "name": "nobody"}),
    ] {
        let copy = json!({"source": "m", "destination": "made"});
        proxy.post("/api/copy", &copy).assert_body(200, "");
        let deleted = delete(&proxy, &body);
        assert_eq!((deleted.status(), deleted.body.as_str()), (200, ""), "{body}");
        assert_eq!(deleted.head.header("content-length"), Some("0"));
        let again = delete(&proxy, &body);
        assert_eq!(again.status(), 404, "it is gone: {body}");
    }
}
