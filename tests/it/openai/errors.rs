//! Errors of the `/v1` routes: the upstream's are passed through unchanged, the proxy's own use
//! OpenAI's format.

use std::time::Duration;

use crate::support::reserved::Reserved;
use crate::support::*;

const CHAT: &str = "/v1/chat/completions";

const BODY: &str = r#"{"model":"m","messages":[{"role":"user","content":"Hi"}]}"#;

/// The text of an error in OpenAI's shape.
fn openai(message: &str, kind: &str) -> String {
    let message = serde_json::Value::from(message);
    format!(r#"{{"error":{{"message":{message},"type":"{kind}","param":null,"code":null}}}}"#)
}

#[test]
fn what_is_wrong_with_a_request_is_told_in_openai_s_shape() {
    let (upstream, proxy) = pair();
    let mut client = proxy.client();
    let mut check = |path: &str, body: &str, status: u16, message: &str, kind: &str| {
        let answer = client.post(path, body).answer();
        let told = (answer.status(), answer.body.trim_end().to_owned());
        assert_eq!(told, (status, openai(message, kind)), "{path} {body}");
        let type_ = answer.head.header("content-type").unwrap_or_default();
        assert!(type_.starts_with("application/json"), "{type_}");
    };
    let invalid = "invalid_request_error";
    for path in [CHAT, "/v1/completions", "/v1/embeddings", "/v1/responses"] {
        check(path, "", 400, "EOF", invalid);
        check(path, "{}", 400, "model is required", invalid);
        check(path, "null", 400, "model is required", invalid);
        check(path, r#"{"model":" "}"#, 400, "model is required", invalid);
        check(path, r#"{"model":"x"#, 400, "unexpected EOF", invalid);
        check(path, r#"{"model":"/x"}"#, 400, "invalid model name", invalid);
        let hello = "invalid character 'h' looking for beginning of value";
        check(path, "hello", 400, hello, invalid);
        let cloud = "ollama cloud is disabled: remote model is unavailable";
        check(path, r#"{"model":"x:cloud"}"#, 403, cloud, "api_error");
    }
    assert!(upstream.is_idle());
}

#[test]
fn a_body_above_the_limit_is_refused_in_each_shape() {
    let proxy = Proxy::with(&Upstream::start(), |config| config.max_body_bytes = 2000);
    let body = "x".repeat(2001);
    let message = "request body too large: the limit is 2000 bytes";
    let answer = proxy.ask(CHAT, &body);
    let told = openai(message, "api_error");
    assert_eq!((answer.status(), answer.body.trim_end()), (413, told.as_str()));
    let answer = proxy.ask("/v1/messages", &body);
    assert_eq!(answer.status(), 413);
    let json = answer.json();
    let kinds = (&json["type"], &json["error"]["type"]);
    assert_eq!(kinds, (&"error".into(), &"request_too_large".into()));
    assert_eq!(json["error"]["message"], message);
    let id = json["request_id"].as_str().expect("an id");
    let ours = answer.head.header("x-request-id").expect("an id").trim_start_matches("req_");
    assert!(id.len() == 28 && id.starts_with("req_") && id.ends_with(ours), "{id} {ours}");
}

#[test]
fn an_error_of_the_upstream_comes_as_it_was_sent() {
    let (upstream, proxy) = asking_once();
    for (code, kind, body) in [
        (400, "application/json", "{ \"error\" : {\"message\":\"bad\", \"code\": 7} }\n"),
        (401, "application/json", r#"{"error":"Unauthorized"}"#),
        (404, "application/json", r#"{"error":{"message":"The model `m` does not exist"}}"#),
        (404, "text/plain", "404 page not found"),
        (422, "application/json", r#"{"detail":[{"loc":["body","x"],"msg":"no"}]}"#),
        (429, "application/json", r#"{"error":{"message":"slow down","type":"requests"}}"#),
        (500, "text/html", "<html>broken</html>"),
        (503, "application/json", ""),
    ] {
        let headers = [
            ("x-request-id", "req_theirs"),
            ("retry-after", "7"),
            ("retry-after-ms", "7000"),
            ("x-ratelimit-limit-tokens", "9"),
            ("x-should-retry", "false"),
            ("set-cookie", "a=b"),
        ];
        upstream.script(vec![typed(code, kind, &headers, body)]);
        let answer = proxy.ask(CHAT, BODY);
        answer.assert_body(code, body);
        for (name, value) in [("content-type", kind)].iter().chain(&headers[..5]) {
            assert_eq!(answer.head.header(name), Some(*value), "{code} {name}");
        }
        assert_eq!(answer.head.header("set-cookie"), None);
    }
}

#[test]
fn keys_in_an_error_are_masked() {
    let (upstream, proxy) = pair();
    let told =
        |key: &str| format!("{{\"error\":{{\"message\":\"Incorrect API key {key} given\"}}}}");
    for key in [KEY, "sk-ab****wxyz"] {
        upstream.script(vec![status(401, &[], &told(key))]);
        let answer = proxy.ask(CHAT, BODY);
        let masked = if key == KEY { told("***") } else { told("sk-***") };
        assert_eq!((answer.status(), answer.body), (401, masked));
    }
}

#[test]
fn the_last_of_several_failures_is_told() {
    let (upstream, proxy) = pair_with(|config| config.retry.max_retries = 1);
    upstream.script(vec![status(503, &[], "first")]).script(vec![status(503, &[], "second")]);
    let answer = proxy.ask(CHAT, BODY);
    answer.assert_body(503, "second");
    assert_eq!(proxy.sleeps.len(), 1);
    // The connection broke, so the first response is discarded.
    upstream.script(vec![status(503, &[], "first")]).script(vec![Step::Close]);
    upstream.script(vec![Step::Close]);
    let answer = proxy.ask(CHAT, BODY);
    assert_eq!(answer.status(), 502);
    assert_eq!(answer.json()["error"]["type"], "api_error");
}

#[test]
fn an_upstream_that_cannot_be_reached_is_told_in_openai_s_shape() {
    let reserved = Reserved::new();
    let proxy = Proxy::at(&reserved.base_url(), |config| config.retry.max_retries = 0);
    let answer = proxy.ask(CHAT, BODY);
    assert_eq!(answer.status(), 502);
    assert_eq!(answer.json()["error"]["type"], "api_error");
}

#[test]
fn a_refused_parameter_is_mended_and_remembered_for_both_protocols() {
    let (upstream, proxy) = pair();
    let body = r#"{"seed":7, "model":"m","z":[1, 2],"messages":[{"content":"Hi","role":"user"}]}"#;
    let mended = r#"{"model":"m","z":[1, 2],"messages":[{"content":"Hi","role":"user"}]}"#;
    upstream.script(vec![unsupported("seed", "")]).script(vec![json("{}")]);
    let mut client = proxy.client();
    assert_eq!(client.post(CHAT, body).answer().body, "{}");
    let requests = [upstream.request(), upstream.request()].map(|it: Recorded| it.body);
    assert_eq!(requests, [body, mended]);
    upstream.script(vec![json("{}")]);
    assert_eq!(client.post(CHAT, body).answer().body, "{}");
    assert_eq!(upstream.request().body, mended, "remembered");
    upstream.script(vec![crate::support::upstream::answer("Hi")]);
    let chat = r#"{"model":"m","stream":false,"messages":[{"role":"user","content":"Hi"}],"options":{"seed":7}}"#;
    assert_eq!(client.post("/api/chat", chat).answer().status(), 200);
    let sent = upstream.request().json();
    assert_eq!(sent.get("seed"), None, "remembered for Ollama's clients as well");
}

#[test]
fn a_large_body_is_mended_by_what_was_learnt_before() {
    let (upstream, proxy) = pair();
    upstream.script(vec![unsupported("seed", "")]).script(vec![json("{}")]);
    let body = |text: &str| format!(r#"{{"model":"m","seed":7,"messages":"{text}"}}"#);
    assert_eq!(proxy.ask(CHAT, body("x")).status(), 200);
    upstream.request();
    upstream.request();
    upstream.script(vec![json("{}")]);
    let large = body(&"x".repeat(2_000_000));
    assert_eq!(proxy.ask(CHAT, &large).status(), 200);
    assert!(upstream.request().body == large.replace(r#","seed":7"#, ""));
}

#[test]
fn a_refused_stop_sequence_is_the_client_s_to_hear_of() {
    let (upstream, proxy) = pair();
    upstream.script(vec![unsupported("stop", "")]);
    let body = BODY.replacen('{', r#"{"stop":["a"],"#, 1);
    let answer = proxy.ask(CHAT, body);
    assert_eq!((answer.status(), answer.json()["error"]["param"].as_str()), (400, Some("stop")));
    upstream.request();
    assert!(upstream.is_idle());
}

#[test]
fn a_stream_that_breaks_off_ends_in_an_error_event() {
    let (upstream, proxy) = pair();
    upstream.script(vec![stream_head(), frame("data: {\"a\":1}\n\ndata: {\"cu"), Step::Close]);
    let mut client = proxy.client();
    let answer = client.post(CHAT, BODY).answer();
    let error = openai(CUT_SHORT, "api_error");
    assert_eq!(answer.body, format!("data: {{\"a\":1}}\n\ndata: {{\"cu\n\ndata: {error}\n\n"));
    // The connection serves again.
    upstream.script(vec![json("{}")]);
    assert_eq!(client.post(CHAT, BODY).answer().body, "{}");
}

#[test]
fn a_stream_that_breaks_off_before_its_first_byte_is_a_status() {
    let (upstream, proxy) = pair();
    upstream.script(vec![stream_head(), Step::Close]);
    let answer = proxy.ask(CHAT, BODY);
    assert_eq!(answer.status(), 502);
    assert_eq!(answer.json()["error"]["message"], CUT_SHORT);
}

#[test]
fn a_long_answer_that_breaks_off_never_looks_whole() {
    let (upstream, proxy) = pair();
    let head =
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 200000\r\n\r\n{";
    upstream.script(vec![Step::Send(head.into()), Step::Close]);
    let mut client = proxy.client();
    assert_eq!(client.post("/v1/embeddings", BODY).head().status, 200);
    assert_eq!(client.frame().as_deref(), Some("{"));
    let size = client.line().expect("something where a frame would begin");
    assert!(usize::from_str_radix(&size, 16).is_err(), "no frame, and not the last: {size}");
}

#[test]
fn a_short_answer_that_breaks_off_is_a_status() {
    let (upstream, proxy) = pair();
    let head = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 20\r\n\r\n{";
    upstream.script(vec![Step::Send(head.into()), Step::Close]);
    let answer = proxy.ask("/v1/embeddings", BODY);
    assert_eq!(answer.status(), 502);
}

#[test]
fn a_stream_of_responses_ends_without_done_where_the_upstream_s_does() {
    let (upstream, proxy) = pair();
    let events = "event: response.completed\ndata: {\"type\":\"response.completed\"}\n\n";
    upstream.script(vec![stream_head(), frame(events), last_frame()]);
    let answer = proxy.ask("/v1/responses", r#"{"model":"m","input":"Hi"}"#);
    assert_eq!(answer.body, events);
}

#[test]
fn origins_and_hosts_are_checked_as_everywhere() {
    let (upstream, proxy) = pair();
    let mut client = proxy.client();
    let mut ask = |headers: &str| {
        let head = format!("POST {CHAT} HTTP/1.1\r\n{headers}Content-Length: {}", BODY.len());
        client.send(format!("{head}\r\n\r\n{BODY}")).answer()
    };
    for headers in ["Host: localhost\r\nOrigin: https://evil.example\r\n", "Host: evil.example\r\n"]
    {
        let answer = ask(headers);
        assert_eq!((answer.status(), answer.body.as_str()), (403, ""), "{headers}");
    }
    assert!(upstream.is_idle());
    upstream.script(vec![stream_head(), frame("data: 1\n\n"), last_frame()]);
    let answer = ask("Host: localhost\r\nOrigin: http://localhost:3000\r\n");
    assert_eq!(answer.body, "data: 1\n\n");
    let allowed = answer.head.header("access-control-allow-origin");
    assert_eq!(allowed, Some("http://localhost:3000"));
}

#[test]
fn a_request_that_was_repeated_in_vain_after_a_timeout_is_not_to_be_repeated_again() {
    let (upstream, proxy) = pair_with(|config| {
        config.upstream.timeout = Some(Duration::from_millis(100));
        config.retry.max_retries = 3;
    });
    let (hold, held) = bounded::<()>(0);
    // A translated one is repeated once; one that is passed on is not, so the client may repeat it.
    for (path, attempts, expected) in [(MESSAGES, 2, Some("false")), (CHAT, 1, None)] {
        for _ in 0..attempts {
            upstream.script(vec![Step::Wait(held.clone())]);
        }
        let answer = proxy.ask(path, BODY.replacen('{', r#"{"max_tokens":5,"#, 1));
        assert_eq!(
            (answer.status(), answer.head.header("x-should-retry")),
            (504, expected),
            "{path}"
        );
        for _ in 0..attempts {
            upstream.request();
        }
    }
    drop(hold);
}

#[test]
fn sdks_do_not_repeat_attempts_that_are_used_up() {
    let (upstream, proxy) = pair_with(|config| config.retry.max_retries = 1);
    let header = |answer: &Answer| answer.head.header("x-should-retry").map(str::to_owned);
    let busy = || vec![status(503, &[("x-should-retry", "true")], "busy")];
    for path in [CHAT, "/v1/completions", "/v1/responses", "/v1/messages"] {
        let body = BODY.replacen('{', r#"{"prompt":"Hi","input":"Hi","max_tokens":5,"#, 1);
        upstream.script(busy()).script(busy());
        let answer = proxy.ask(path, &body);
        let told = if path == MESSAGES { 529 } else { 503 };
        assert_eq!((answer.status(), header(&answer).as_deref()), (told, Some("false")), "{path}");
        let headers = answer.head.headers.iter();
        assert_eq!(headers.filter(|(name, _)| name == "x-should-retry").count(), 1, "{path}");
        // The upstream does not answer at all: once on the old connection, and two attempts.
        for _ in 0..3 {
            upstream.script(vec![Step::Close]);
        }
        let answer = proxy.ask(path, &body);
        assert_eq!((answer.status(), header(&answer).as_deref()), (502, Some("false")), "{path}");
    }
    // Those that are passed on as they are, of which the last one is only repeated where nothing was sent.
    let form = "--b\r\nContent-Disposition: form-data; name=\"model\"\r\n\r\nm\r\n--b--\r\n";
    for (path, kind, body) in [
        ("/v1/embeddings", "application/json", r#"{"model":"m","input":"Hi"}"#),
        ("/v1/responses/compact", "application/json", r#"{"model":"m","input":"Hi"}"#),
        ("/v1/audio/transcriptions", "multipart/form-data; boundary=b", form),
        ("/v1/rerank", "application/json", r#"{"model":"m","query":"Hi"}"#),
    ] {
        let is_repeated = path != "/v1/rerank";
        upstream.script(busy());
        if is_repeated {
            upstream.script(busy());
        }
        let lines = format!("Content-Type: {kind}\r\n");
        let answer = proxy.client().with("POST", path, &lines, body).answer();
        let expected = if is_repeated { "false" } else { "true" };
        assert_eq!((answer.status(), header(&answer).as_deref()), (503, Some(expected)), "{path}");
    }
    // Ollama's own routes have no such header.
    upstream.script(busy()).script(busy());
    assert_eq!(header(&proxy.ask("/api/chat", BODY)), None);
    // Nor is there one where the client may do better.
    upstream.script(vec![status(429, &[("retry-after", "3600")], "later")]);
    assert_eq!(header(&proxy.ask(CHAT, BODY)), None);
    upstream.script(vec![status(400, &[], "no")]);
    assert_eq!(header(&proxy.ask(CHAT, BODY)), None);
    upstream.script(busy()).script(vec![upstream::answer("Hi")]);
    assert_eq!(header(&proxy.ask(CHAT, BODY)), None);
}
