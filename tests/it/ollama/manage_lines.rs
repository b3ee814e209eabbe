//! Model management (ollama-api.md 12), row by row over real sockets; lines are compared as bytes.
//! The table ends with the account routes (13), which have a file of their own.
//!
//! | row | held by |
//! | --- | --- |
//! | 12 order of a progress line's members, `success` at the end, only the last without a stream | here: `a_pull_is_told_in_ollama_s_lines`, `the_lines_of_create_are_ollama_s` |
//! | 12.1 `model` or `name`, `insecure`, `stream`; `username` and `password` ignored | here: `every_member_of_a_transfer_is_understood` |
//! | 12.1 the lines of success, of an unknown model, and status 500 without a stream | here: `a_pull_is_told_in_ollama_s_lines` |
//! | 12.1 an unknown model is looked for afresh | `manage.rs`: `a_pull_of_what_is_not_there_is_an_error_after_a_fresh_look` |
//! | 12.2 `model` or `name`, neither, an unknown model, plain http | `manage.rs`: `a_push_never_claims_success`; here, as bytes: `a_push_is_told_in_ollama_s_lines` |
//! | 12.3 `name`; whole answers | `manage.rs`: `progress_is_told_line_by_line_unless_it_is_not_wanted` |
//! | 12.3 a name that is there is overwritten | here: `create_overwrites` |
//! | 12.3 `from`, `template`, `system`, `parameters`, `messages` | `manage.rs`: `a_made_model_is_listed_and_shown_with_the_details_of_its_base`, `a_chat_with_a_made_model_brings_all_that_it_was_made_with` |
//! | 12.3 an unknown `from` | `manage.rs`: `a_model_from_an_unknown_one_is_not_made` |
//! | 12.3 `license` as a string or a list of strings | here: `a_license_is_a_text_or_several` |
//! | 12.3 `files`, `adapters`, `draft_files`, `quantize`, `quantization`, `draft_quantize`, `remote_host`: a clear 400 | here: `what_a_proxy_cannot_make_is_refused_by_name` |
//! | 12.3 errors: all 400, before any output, in Ollama's words | here: `errors_of_create_come_before_any_line`; the cases of each in `src/translate/virtual_model/mod.rs`: `what_ollama_refuses_is_refused_in_its_words` |
//! | 12.3 `invalid model name` | `manage.rs`: `what_cannot_be_managed_is_refused_as_ollama_does` |
//! | 12.3 status lines | here: `the_lines_of_create_are_ollama_s` |
//! | 12.4 200 without a body, the same name twice | `manage.rs`: `copies_are_other_names_for_what_was_copied` |
//! | 12.5 `model` or `name`, 200 without a body | here: `a_delete_by_either_member_is_an_empty_200` |
//! | 12.6 every row | `manage.rs`: `blobs_are_checked_and_known_by_their_digest`; here: `an_absent_blob_has_no_body_for_head` |
//! | 13.1 401 for who is not signed in; POST only | `account.rs`: `every_route_answers_as_a_server_without_an_account`, `other_methods_and_shorter_paths_are_answered_by_the_router` |
//! | 13.2 401 on both routes | `account.rs`: `every_route_answers_as_a_server_without_an_account` |
//! | 13.3 403 for the cloud is off, 400 for a blank body | `account.rs`: `web_search_and_fetch_are_off` |
//! | 13.4 an empty list | `account.rs`: `every_route_answers_as_a_server_without_an_account` |
//!
//! Not a proxy's: the errors about files that are converted, about adapters, drafts and remote hosts
//! (they are refused before), those of `info`, and progress with a digest (nothing is moved).

use crate::support::proxy::Proxy;
use crate::support::raw::Answer;
use crate::support::upstream::Upstream;
use serde_json::{Value, json};

fn call(proxy: &Proxy, method: &str, path: &str, body: &Value) -> Answer {
    proxy.client().call(method, path, body.to_string()).answer()
}

fn post(proxy: &Proxy, path: &str, body: &Value) -> Answer {
    call(proxy, "POST", path, body)
}

fn show(proxy: &Proxy, name: &str) -> Value {
    post(proxy, "/api/show", &json!({"model": name})).json()
}

/// A stream of exactly these lines.
#[track_caller]
fn assert_lines(answer: &Answer, lines: &[&str]) {
    let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
    assert_eq!((answer.status(), answer.body.as_str()), (200, text.as_str()));
    assert_eq!(answer.head.header("content-type"), Some("application/x-ndjson"));
}

/// An answer in one piece, without a newline.
#[track_caller]
fn assert_whole(answer: &Answer, status: u16, body: &str) {
    assert_eq!((answer.status(), answer.body.as_str()), (status, body));
    assert_eq!(answer.head.header("content-type"), Some("application/json"));
}

const SUCCESS: &str = r#"{"status":"success"}"#;

const PULLED: &[&str] = &[
    r#"{"status":"pulling manifest"}"#,
    r#"{"status":"verifying sha256 digest"}"#,
    r#"{"status":"writing manifest"}"#,
    SUCCESS,
];

#[test]
fn a_pull_is_told_in_ollama_s_lines() {
    let proxy = Proxy::start(&Upstream::start());
    let pull = |body: Value| post(&proxy, "/api/pull", &body);
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
    for body in [
        json!({"name": "m"}),
        json!({"model": "", "name": "m"}),
        json!({"model": "m", "name": "nope"}),
        json!({"model": "m", "insecure": true}),
        json!({"model": "m", "username": "somebody", "password": "something"}),
        json!({"MODEL": "m", "unknown": [1]}),
    ] {
        assert_lines(&post(&proxy, "/api/pull", &body), PULLED);
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
        assert_lines(&post(&proxy, "/api/push", &body), &unknown);
    }
    let whole = post(&proxy, "/api/push", &json!({"model": "nope", "stream": false}));
    assert_whole(&whole, 500, unknown[2]);
    let plain = r#"{"error":"insecure protocol http"}"#;
    let body = |stream: bool| json!({"model": "http://h/n/m", "stream": stream});
    assert_lines(&post(&proxy, "/api/push", &body(true)), &[retrieving, plain]);
    assert_whole(&post(&proxy, "/api/push", &body(false)), 500, plain);
    for body in [json!({}), json!({"model": "", "name": " "})] {
        let answer = post(&proxy, "/api/push", &body);
        assert_eq!((answer.status(), answer.error().as_str()), (400, "model is required"));
    }
}

/// The lines with stars for digests.
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
        let mut body = json!({"model": "made", "from": "m"});
        let members = more.as_object().expect("an object");
        members.iter().for_each(|(name, value)| body[name] = value.clone());
        post(&proxy, "/api/create", &body)
    };
    assert_eq!(starred(&create(json!({}))), [EXISTING, WRITING, SUCCESS]);
    let system = create(json!({"system": "x", "stream": null}));
    assert_eq!(starred(&system), [EXISTING, NEW, WRITING, SUCCESS]);
    let two = create(json!({"parameters": {"seed": 1}, "license": "MIT", "stream": true}));
    assert_eq!(starred(&two), [EXISTING, NEW, NEW, WRITING, SUCCESS]);
    assert_whole(&create(json!({"system": "x", "stream": false})), 200, SUCCESS);
}

#[test]
fn create_overwrites() {
    let proxy = Proxy::start(&Upstream::start());
    let first = json!({"model": "made", "from": "m", "system": "One.", "license": "MIT",
        "stream": false});
    assert_whole(&post(&proxy, "/api/create", &first), 200, SUCCESS);
    let second = json!({"model": "MADE:latest", "from": "tagged:8b", "template": "x",
        "stream": false});
    assert_whole(&post(&proxy, "/api/create", &second), 200, SUCCESS);
    let shown = show(&proxy, "made");
    assert_eq!(shown["details"]["parent_model"], "tagged:8b");
    assert_eq!(shown["template"], "x");
    for gone in ["system", "license"] {
        assert_eq!(shown.get(gone), None, "{gone}");
    }
    let list = proxy.client().get("/api/tags").answer().json();
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
        assert_whole(&post(&proxy, "/api/create", &body), 200, SUCCESS);
        assert_eq!(show(&proxy, "made")["license"], shown, "{license}");
    }
}

/// A create request that is refused before any line, stream or not, and makes nothing.
#[track_caller]
fn assert_refused(proxy: &Proxy, more: &Value, text: &str) {
    for stream in [json!(null), json!(false)] {
        let mut body = json!({"model": "made", "stream": stream});
        let members = more.as_object().expect("an object");
        members.iter().for_each(|(name, value)| body[name] = value.clone());
        let answer = post(proxy, "/api/create", &body);
        assert_eq!((answer.status(), answer.error().as_str()), (400, text), "{body}");
        let kind = answer.head.header("content-type");
        assert_eq!(kind, Some("application/json; charset=utf-8"), "{body}");
        let shown = post(proxy, "/api/show", &json!({"model": "made"}));
        assert_eq!(shown.status(), 404, "nothing was made: {body}");
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
            "{name:?} is not supported: this proxy holds no model files, it only makes models \
             \"from\" those of its upstream"
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
        let copied = post(&proxy, "/api/copy", &copy);
        assert_eq!((copied.status(), copied.body.as_str()), (200, ""));
        let deleted = call(&proxy, "DELETE", "/api/delete", &body);
        assert_eq!((deleted.status(), deleted.body.as_str()), (200, ""), "{body}");
        assert_eq!(deleted.head.header("content-length"), Some("0"));
        let again = call(&proxy, "DELETE", "/api/delete", &body);
        assert_eq!(again.status(), 404, "it is gone: {body}");
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
        // Told of the body that is not sent.
        assert_eq!(head.header("content-length"), Some(told.len().to_string().as_str()));
        assert_eq!(client.get("/").answer().body, "Ollama is running", "no body was left over");
    }
}
