//! Which key goes to the upstream: its own, that of a file, which is read again after a 401, or the one that
//! the client sent.

use std::fs;
use std::path::PathBuf;

use ollama_openai_proxy::config::Config;
use ollama_openai_proxy::http::client_keys::ClientKeys;
use ollama_openai_proxy::observe::redact::Secret;
use ollama_openai_proxy::upstream::ServerSettings;

use crate::support::program::{Running, program};
use crate::support::*;

/// A key of the proxy's clients.
const DOOR: &str = "door-key-0f-the-proxy";

fn passing(config: &mut Config) {
    config.upstream.pass_client_key = true;
}

fn without_own(config: &mut Config) {
    passing(config);
    config.upstream.api_key = None;
}

/// What goes up as `Authorization` for a request with these header lines.
fn sent(upstream: &Upstream, proxy: &Proxy, lines: &str) -> Vec<Option<String>> {
    let paths = ["/api/chat", "/v1/chat/completions", "/v1/rerank"];
    let ask = |path: &str| {
        upstream.script(vec![answer("ok")]);
        let told = proxy.client().with("POST", path, lines, chat_whole("Hi")).answer();
        assert_eq!(told.status(), 200, "{path}: {}", told.body);
        let request = upstream.request();
        assert!(request.count("authorization") <= 1 && request.header("x-api-key").is_none());
        request.header("authorization").map(str::to_owned)
    };
    paths.map(ask).to_vec()
}

#[track_caller]
fn check(change: impl FnOnce(&mut Config), rows: &[(&str, Option<&str>)]) {
    let (upstream, proxy) = pair_with(change);
    for (lines, expected) in rows {
        let expected = vec![expected.map(|key| format!("Bearer {key}")); 3];
        assert_eq!(sent(&upstream, &proxy, lines), expected, "{lines:?}");
    }
}

#[test]
fn the_client_s_key_goes_up_where_the_upstream_is_to_get_it() {
    let rows = [
        ("Authorization: Bearer sk-client-1\r\n", Some("sk-client-1")),
        ("authorization: bearer sk-client-2\r\n", Some("sk-client-2")),
        ("X-Api-Key: sk-client-3\r\n", Some("sk-client-3")),
        // me:sk-client-4
        ("Authorization: Basic bWU6c2stY2xpZW50LTQ=\r\n", Some("sk-client-4")),
        ("Authorization: Bearer sk-client-1\r\nx-api-key: sk-client-3\r\n", Some("sk-client-1")),
    ];
    check(passing, &rows);
    check(without_own, &rows);
    // A client that sends none.
    check(passing, &[("", Some(KEY)), ("Authorization: Bearer\r\n", Some(KEY))]);
    check(without_own, &[("", None), ("Authorization: Bearer\r\n", None)]);
    // Where it is not to get it.
    check(|_| {}, &[("Authorization: Bearer sk-client-1\r\n", Some(KEY))]);
}

#[test]
fn a_key_of_the_proxy_never_goes_up() {
    let keyed = |config: &mut Config| {
        config.proxy_api_keys = ClientKeys::parse(DOOR).expect("a key");
        passing(config);
    };
    let both = format!("Authorization: Bearer {DOOR}\r\nx-api-key: sk-client-1\r\n");
    let other = format!("Authorization: Bearer sk-client-1\r\nx-api-key: {DOOR}\r\n");
    check(
        keyed,
        &[
            (&format!("Authorization: Bearer {DOOR}\r\n"), Some(KEY)),
            (&format!("x-api-key: {DOOR}\r\n"), Some(KEY)),
            (&both, Some("sk-client-1")),
            (&other, Some("sk-client-1")),
        ],
    );
}

#[test]
fn the_list_of_all_clients_is_asked_for_with_the_upstream_s_own_key_if_it_has_one() {
    for (change, expected) in
        [(passing as fn(&mut Config), KEY), (without_own as fn(&mut Config), "sk-client-1")]
    {
        let (upstream, proxy) = pair_with(change);
        upstream.script_lists();
        upstream.script(vec![json(MODELS)]);
        let lines = "Authorization: Bearer sk-client-1\r\n";
        let told = proxy.client().with("GET", "/api/tags", lines, "").answer();
        assert_eq!(told.status(), 200);
        let expected = format!("Bearer {expected}");
        assert_eq!(upstream.request().header("authorization"), Some(expected.as_str()));
    }
}

#[test]
fn a_client_s_key_that_the_upstream_repeats_is_masked_for_that_client_alone() {
    let (upstream, proxy) = pair_with(passing);
    let error =
        r#"{"error":{"message":"Incorrect API key: client-word-1","code":"invalid_api_key"}}"#;
    let in_band = "data: {\"error\":{\"message\":\"lost client-word-1\",\"code\":500}}\n\n";
    let lines = "Authorization: Bearer client-word-1\r\n";
    let messages = json!([{"role": "user", "content": "Hi"}]);
    let body = json!({"model": "m", "max_tokens": 9, "messages": messages}).to_string();
    for path in ["/api/chat", "/v1/chat/completions", "/v1/messages", "/v1/rerank"] {
        upstream.script(vec![status(401, &[], error)]);
        let told = proxy.client().with("POST", path, lines, &body).answer();
        assert!(!told.body.contains("client-word") && told.body.contains("***"), "{}", told.body);
        // In a stream, after its beginning.
        if path == "/api/chat" {
            upstream.script(vec![stream_head(), delta("one"), frame(in_band), last_frame()]);
            let told = proxy.client().with("POST", path, lines, &body).answer();
            assert!(told.body.contains("lost ***"), "{}", told.body);
        }
        // To another one it is a word.
        upstream.script(vec![status(401, &[], error)]);
        let told = proxy.ask(path, &body);
        assert!(told.body.contains("client-word-1"), "{}", told.body);
    }
}

#[test]
fn a_client_s_key_is_masked_in_the_error_of_a_list_too() {
    for list in [
        status(401, &[], r#"{"error":{"message":"bad key: client-word-1"}}"#),
        json(r#"{"error":{"message":"bad key: client-word-1","code":401}}"#),
    ] {
        let Step::Send(list) = list else { unreachable!("an answer is sent at once") };
        let upstream = Upstream::start();
        upstream.script_lists();
        // Lists of several upstreams are fetched on threads that serve no request.
        let proxy = Proxy::with(&upstream, |config| {
            without_own(config);
            config.retry.max_retries = 0;
            let other = ServerSettings { name: "other".into(), ..config.upstream.clone() };
            config.upstreams = vec![config.upstream.clone(), other];
        });
        upstream.judge(move |_| Some(vec![Step::Send(list.clone())]));
        let lines = "Authorization: Bearer client-word-1\r\n";
        let told = proxy.client().with("GET", "/api/tags", lines, "").answer();
        assert!(told.status() >= 400 && told.body.contains("bad key: ***"), "{}", told.body);
    }
}

#[test]
fn the_log_holds_no_key_of_a_client() {
    let upstream = Upstream::start();
    let mut command = program();
    command.env("OPENAI_BASE_URL", upstream.base_url()).env("PASS_CLIENT_KEY", "true");
    let running = Running::start(command.env("LOG_LEVEL", "trace").env("LOG_BODIES", "true"));
    let error =
        r#"{"error":{"message":"Incorrect API key: client-word-1","code":"invalid_api_key"}}"#;
    let lines = "Authorization: Bearer client-word-1\r\n";
    for path in ["/api/chat", "/v1/chat/completions", "/v1/rerank"] {
        upstream.script(vec![status(401, &[], error)]);
        let told = Client::connect(running.addr).with("POST", path, lines, chat("Hi")).answer();
        assert_eq!(told.status(), 401);
        let request = upstream.request();
        assert_eq!(request.header("authorization"), Some("Bearer client-word-1"));
    }
    let log = running.stop();
    assert!(log.contains("Incorrect API key: ***"), "{log}");
    assert!(!log.contains("client-word-1"), "{log}");
}

/// A folder of a test's own, with the file of a key.
struct KeyFile(PathBuf);

impl KeyFile {
    fn new(name: &str) -> Self {
        let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
        fs::create_dir_all(&folder).expect("a folder");
        Self(folder)
    }

    fn write(&self, key: &str) {
        fs::write(self.0.join("key"), key).expect("a file");
    }

    fn proxy(&self, upstream: &Upstream, change: impl FnOnce(&mut Config)) -> Proxy {
        Proxy::with(upstream, |config| {
            config.upstream.api_key = Some(Secret::new("first-key-1"));
            config.upstream.api_key_file = Some(self.0.join("key"));
            change(config);
        })
    }
}

impl Drop for KeyFile {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

const REFUSED: &str =
    r#"{"error":{"message":"Incorrect API key provided: first-key-1, not second-key-2"}}"#;

#[track_caller]
fn check_key(request: &Recorded, key: &str) {
    assert_eq!(request.header("authorization"), Some(format!("Bearer {key}").as_str()));
}

#[test]
fn a_key_of_a_file_is_read_again_after_a_401_and_the_request_sent_once_more() {
    let file = KeyFile::new("key-renewed");
    for (path, body) in [
        ("/api/chat", chat_whole("Hi")),
        ("/v1/chat/completions", chat_whole("Hi")),
        ("/v1/rerank", chat_whole("Hi")),
    ] {
        let upstream = Upstream::start();
        file.write("first-key-1\n");
        let proxy = file.proxy(&upstream, |config| config.retry.max_retries = 0);
        file.write("second-key-2\n");
        upstream.script(vec![status(401, &[], REFUSED)]).script(vec![answer("ok")]);
        assert_eq!(proxy.ask(path, &body).status(), 200);
        let (first, second) = (upstream.request(), upstream.request());
        check_key(&first, "first-key-1");
        check_key(&second, "second-key-2");
        assert_eq!(first.body, second.body);
        assert!(proxy.sleeps.is_empty(), "at once");
        upstream.script(vec![answer("ok")]);
        assert_eq!(proxy.ask(path, &body).status(), 200);
        check_key(&upstream.request(), "second-key-2");
        // Both keys are masked from then on, and a key that stays is not tried twice.
        upstream.script(vec![status(401, &[], REFUSED)]);
        let told = proxy.ask(path, &body);
        assert_eq!(told.status(), 401);
        assert!(told.body.contains("***, not ***"), "{}", told.body);
        check_key(&upstream.request(), "second-key-2");
        assert!(upstream.is_idle());
    }
}

#[test]
fn a_file_that_cannot_be_read_or_has_the_same_key_changes_nothing() {
    let file = KeyFile::new("key-unchanged");
    let upstream = Upstream::start();
    let proxy = file.proxy(&upstream, |_| {});
    for content in [None, Some("first-key-1"), Some(""), Some("two words")] {
        content.iter().for_each(|content| file.write(content));
        upstream.script(vec![status(401, &[], REFUSED)]);
        assert_eq!(proxy.ask("/api/chat", chat("Hi")).status(), 401, "{content:?}");
        check_key(&upstream.request(), "first-key-1");
        assert!(upstream.is_idle(), "{content:?}");
    }
}

#[test]
fn a_body_that_streams_up_is_sent_once_and_the_next_one_has_the_new_key() {
    let file = KeyFile::new("key-streamed");
    file.write("second-key-2");
    let upstream = Upstream::start();
    let proxy = file.proxy(&upstream, |_| {});
    let body = chat_whole(&"x".repeat(2_000_000));
    upstream.script(vec![status(401, &[], REFUSED)]);
    assert_eq!(proxy.ask("/v1/chat/completions", &body).status(), 401);
    check_key(&upstream.request(), "first-key-1");
    assert!(upstream.is_idle());
    upstream.script(vec![answer("ok")]);
    assert_eq!(proxy.ask("/v1/chat/completions", &body).status(), 200);
    check_key(&upstream.request(), "second-key-2");
}

#[test]
fn the_list_is_asked_for_with_the_new_key_too() {
    let file = KeyFile::new("key-list");
    file.write("second-key-2");
    let upstream = Upstream::start();
    upstream.script_lists();
    let proxy = file.proxy(&upstream, |config| config.retry.max_retries = 0);
    upstream.script(vec![status(401, &[], REFUSED)]).script(vec![json(MODELS)]);
    assert_eq!(proxy.names().len(), 3);
    check_key(&upstream.request(), "first-key-1");
    check_key(&upstream.request(), "second-key-2");
}
