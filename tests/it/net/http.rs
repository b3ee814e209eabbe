//! HTTP framing, correct and broken: the connection stays usable where it can, and nothing crashes
//! or grows.

use crate::support::*;

/// Takes bodies up to 100,000 bytes.
fn limited() -> (Upstream, Proxy) {
    pair_with(|config| config.max_body_bytes = 100_000)
}

#[test]
fn bad_bodies_are_refused_in_ollama_s_words_and_the_connection_stays_usable() {
    let (upstream, proxy) = limited();
    let mut client = proxy.client();
    let mut check = |path: &str, body: &[u8], status: u16, error: &str| {
        let answer = client.post(path, body).answer();
        let found = (answer.status(), answer.error());
        assert_eq!(found, (status, error.to_owned()), "{path} {}", String::from_utf8_lossy(body));
        assert_eq!(answer.head.header("content-type"), Some("application/json; charset=utf-8"));
    };
    for path in ["/api/chat", "/api/generate", "/api/embed", "/api/embeddings", "/api/show"] {
        check(path, b"", 400, "missing request body");
        let no_key = "invalid character 'b' looking for beginning of object key string";
        check(path, b"{bad", 400, no_key);
        check(path, b"hello", 400, "invalid character 'h' looking for beginning of value");
        check(path, b"{\"model\":\"m\"", 400, "unexpected EOF");
        check(path, "[".repeat(90_000).as_bytes(), 400, "exceeded max depth");
    }
    for (path, body, kind, field) in [
        (CHAT, r#"{"messages":{}}"#, "object", "ChatRequest.messages of type slice"),
        (
            CHAT,
            r#"{"messages":[{"content":[]}]}"#,
            "array",
            "ChatRequest.messages.content of type string",
        ),
        (GENERATE, r#"{"prompt":5}"#, "number", "GenerateRequest.prompt of type string"),
        (GENERATE, r#"{"stream":"no"}"#, "string", "GenerateRequest.stream of type bool"),
    ] {
        let error = format!("json: cannot unmarshal {kind} into Go struct field {field}");
        check(path, body.as_bytes(), 400, &error);
    }
    check("/api/chat", br#"{"model":"x:","messages":[{}]}"#, 400, "invalid model name");
    check("/api/embed", br#"{"model":"m","input":[1]}"#, 400, "invalid input type");
    assert_eq!(client.get("/").answer().body, "Ollama is running");
    assert!(upstream.is_idle(), "the upstream gets no request");
}

#[test]
fn what_cannot_be_translated_is_refused_by_name() {
    let (upstream, proxy) = limited();
    let mut client = proxy.client();
    let mut check = |path: &str, body: &str, error: &str| {
        client.post(path, body).answer().assert_error(400, error);
    };
    let image = r#"{"model":"m","prompt":"x","raw":true,"images":["iVBORw0KGgo="]}"#;
    check(GENERATE, image, "\"m\" does not support images without a chat template");
    let image = r#"{"model":"m","messages":[{"role":"user","images":["data!"]}]}"#;
    check(CHAT, image, "illegal base64 data at input byte 4");
    let debug = r#"{"model":"m","_debug_render_only":true}"#;
    for path in [CHAT, GENERATE] {
        check(path, debug, "\"_debug_render_only\" is not supported by this proxy");
    }
    assert!(upstream.is_idle(), "the upstream gets no request");
}

#[test]
fn bodies_in_any_form_and_of_any_type_are_read() {
    let (upstream, proxy) = limited();
    let mut client = proxy.client();
    let body = chat_whole("Hi");
    let length = body.len();
    let plain = format!("Content-Length: {length}\r\n\r\n{body}");
    let requests = [
        format!("Content-Type: application/x-www-form-urlencoded\r\n{plain}"),
        format!("Content-Type: application/octet-stream\r\n{plain}"),
        format!("Authorization: Bearer \r\n{plain}"),
        format!("Content-Type: text/plain;charset=UTF-8\r\n{plain}"),
        format!("Authorization: Bearer a-users-key\r\n{plain}"),
        format!("Transfer-Encoding: chunked\r\n\r\n{length:x}\r\n{body}\r\n0\r\n\r\n"),
        format!("Expect: 100-continue\r\n{plain}"),
        plain.clone(),
    ];
    for request in requests {
        upstream.script(vec![upstream::answer("ok")]);
        let head = "POST /api/chat HTTP/1.1\r\nHost: localhost\r\n";
        let answer = client.send(format!("{head}{request}")).answer();
        assert_eq!(answer.json()["message"]["content"], "ok", "{request}");
        let (sent, key) = (upstream.request(), format!("Bearer {KEY}"));
        assert_eq!(sent.header("authorization"), Some(key.as_str()), "{request}");
    }
}

#[test]
fn offers_to_upgrade_are_ignored() {
    let (upstream, proxy) = limited();
    let body = chat_whole("Hi");
    let length = body.len();
    let framings = [
        format!("Content-Length: {length}\r\n\r\n{body}"),
        format!("Transfer-Encoding: chunked\r\n\r\n{length:x}\r\n{body}\r\n0\r\n\r\n"),
    ];
    for framing in framings {
        upstream.script(vec![upstream::answer("ok")]);
        let offer =
            "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAEA\r\n";
        let head = format!("POST /api/chat HTTP/1.1\r\nHost: localhost\r\n{offer}");
        let answer = proxy.client().send(head + &framing).answer();
        assert_eq!(answer.json()["message"]["content"], "ok");
        assert_eq!(answer.head.header("connection"), Some("close"));
    }
}

#[test]
fn bytes_that_are_no_text_are_replaced_as_go_does() {
    let (upstream, proxy) = limited();
    upstream.script(vec![upstream::answer("ok")]);
    let body = b"{\"model\":\"m\",\"stream\":false,\"messages\":[{\"role\":\"user\",\"content\":\"a\xffb\"}]}";
    assert_eq!(proxy.ask("/api/chat", body).status(), 200);
    assert_eq!(upstream.request().json()["messages"][0]["content"], "a\u{fffd}b");
}

#[test]
fn bodies_above_the_limit_are_refused_unread() {
    let (_upstream, proxy) = limited();
    let refused = "request body too large: the limit is 100000 bytes";
    let check = |request: String| {
        let mut client = proxy.client();
        let answer = client.send(&request).answer();
        assert_eq!((answer.status(), answer.error().as_str()), (413, refused), "{request:.90}");
        assert_eq!(answer.head.header("connection"), Some("close"));
    };
    for claim in [
        "100001", "1073741824", "99999999999", "1000000000000000", "9223372036854775807",
        "18446744073709551615",
    ] {
        check(format!("POST /api/chat HTTP/1.1\r\nContent-Length: {claim}\r\n\r\n{{"));
        check(format!("GET /nowhere HTTP/1.1\r\nContent-Length: {claim}\r\n\r\n"));
    }
    let chunk = "x".repeat(60_000);
    let chunks = format!("ea60\r\n{chunk}\r\nea60\r\n{chunk}\r\n");
    check(format!("POST /api/chat HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n{chunks}"));
    assert_eq!(proxy.fetch("/").status(), 200);
}

#[test]
fn a_body_at_the_limit_is_taken() {
    let (upstream, proxy) = limited();
    upstream.script(vec![upstream::answer("ok")]);
    let body = chat_whole("");
    let content = "x".repeat(100_000 - body.len());
    let body = chat_whole(&content);
    assert_eq!(body.len(), 100_000);
    assert_eq!(proxy.ask("/api/chat", body).status(), 200);
}

#[test]
fn a_body_that_breaks_off_is_an_error_and_costs_no_worker() {
    let (_upstream, proxy) = pair_with(|config| config.workers = 1);
    for _ in 0..3 {
        let mut client = proxy.client();
        client.send("POST /api/chat HTTP/1.1\r\nContent-Length: 5000\r\n\r\n{\"model\"");
        client.stream().shutdown(std::net::Shutdown::Write).expect("a socket");
        let answer = client.answer();
        answer.assert_error(400, "unexpected EOF");
    }
    assert_eq!(proxy.fetch("/").status(), 200);
}

#[test]
fn unknown_paths_and_methods_are_answered_as_ollama_does() {
    let (_upstream, proxy) = limited();
    let mut client = proxy.client();
    let mut check =
        |method: &str, path: &str, status: u16, body: &str, header: Option<(&str, &str)>| {
            let answer = client.request(method, path).answer();
            assert_eq!((answer.status(), answer.body.as_str()), (status, body), "{method} {path}");
            if let Some((name, value)) = header {
                assert_eq!(answer.head.header(name), Some(value), "{method} {path}");
            }
        };
    let text = ("content-type", "text/plain; charset=utf-8");
    let plain = ("content-type", "text/plain");
    check("GET", "/nothing", 404, "404 page not found", Some(plain));
    check("GET", "/api/chat", 405, "405 method not allowed", Some(plain));
    check("GET", "/api/chat", 405, "405 method not allowed", Some(("allow", "POST")));
    check("DELETE", "/api/tags", 405, "405 method not allowed", Some(("allow", "HEAD, GET")));
    check("GET", "/api/tags/", 301, "", Some(("location", "/api/tags")));
    check("POST", "/api/chat/", 307, "", Some(("location", "/api/chat")));
    check("GET", "//", 200, "Ollama is running", Some(text));
}

#[test]
fn what_a_client_sends_does_not_become_a_header_line() {
    let (_upstream, proxy) = limited();
    // For tiny_http only CR LF ends a line.
    for sent in ["a\nSet-Cookie:b", "a\rSet-Cookie:b"] {
        let mut client = proxy.client();
        client.send(format!("GET /api/tags/?{sent} HTTP/1.1\r\nHost: localhost\r\n\r\n"));
        let head = client.answer().head;
        assert_eq!((head.status, head.header("set-cookie")), (400, None));
        assert_eq!((head.header("location"), head.header("connection")), (None, Some("close")));
    }
}

#[test]
fn head_has_the_head_of_get_and_no_body() {
    let (_upstream, proxy) = limited();
    let mut client = proxy.client();
    for path in ["/", "/api/version", "/api/tags"] {
        let get = client.get(path).answer();
        let head = client.request("HEAD", path).head();
        assert_eq!(head.status, 200);
        for name in ["content-type", "content-length"] {
            assert_eq!(head.header(name), get.head.header(name));
        }
    }
    // No body is left in the connection.
    assert_eq!(client.get("/").answer().body, "Ollama is running");
}

#[test]
fn every_answer_carries_the_request_s_id_and_a_uuid_goes_upstream() {
    let (upstream, proxy) = limited();
    upstream.script(upstream::stream(&["Hi"]));
    let mut client = proxy.client();
    let head = client.post("/api/chat", chat("Hi")).answer().head;
    let id = head.header("x-request-id").expect("an id").to_owned();
    let digits = id.strip_prefix("req_").expect("the prefix");
    assert!(digits.len() == 8 && digits.bytes().all(|byte| byte.is_ascii_hexdigit()), "{id}");
    let sent = upstream.request().header("x-request-id").expect("an id").to_owned();
    // The form that starlette-context, among others, insists on (RFC 9562 section 5.4).
    let groups: Vec<&str> = sent.split('-').collect();
    assert_eq!(groups.iter().map(|group| group.len()).collect::<Vec<_>>(), [8, 4, 4, 4, 12]);
    let is_hex = |c: char| c.is_ascii_digit() || ('a'..='f').contains(&c);
    assert!(groups.iter().all(|group| group.chars().all(is_hex)), "{sent}");
    assert!(groups[2].starts_with('4') && groups[3].starts_with(['8', '9', 'a', 'b']), "{sent}");
    let other = client.get("/nothing").answer().head;
    assert_ne!(other.header("x-request-id"), Some(id.as_str()));
}

#[test]
fn requests_sent_in_one_go_are_answered_in_order() {
    let (_upstream, proxy) = limited();
    let mut client = proxy.client();
    let requests = "GET /api/version HTTP/1.1\r\nHost: localhost\r\n\r\nGET / HTTP/1.1\r\nHost: localhost\r\n\r\nGET /nothing HTTP/1.1\r\nHost: localhost\r\n\r\n";
    client.send(requests);
    assert!(client.answer().body.starts_with("{\"version\""));
    assert_eq!(client.answer().body, "Ollama is running");
    assert_eq!(client.answer().status(), 404);
}

#[test]
fn a_connection_that_is_to_close_closes() {
    let (_upstream, proxy) = limited();
    let mut client = proxy.client();
    client.send("GET / HTTP/1.1\r\nConnection: close\r\n\r\n");
    let answer = client.answer();
    assert_eq!(answer.head.header("connection"), Some("close"));
    assert_eq!(client.rest(), "");
}

#[test]
fn a_body_that_waits_to_be_asked_for_is_asked_for() {
    let (upstream, proxy) = pair();
    let body = chat_whole("x");
    let length = body.len();
    upstream.script(vec![answer("Hi")]);
    let head = format!(
        "POST /api/chat HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\nContent-Length: {length}\r\n\r\n"
    );
    let mut client = proxy.client();
    client.send(head);
    // The body follows only after `100 Continue`.
    let mut interim = Vec::new();
    while !interim.ends_with(b"\r\n\r\n") {
        interim.push(client.byte());
    }
    assert!(interim.starts_with(b"HTTP/1.1 100 "), "{interim:?}");
    client.send(body);
    assert_eq!(client.answer().status(), 200);
}
