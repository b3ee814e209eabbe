//! OpenAI's own routes: request and response bodies pass through unchanged.

use crate::support::*;
use ruzstd::encoding::{CompressionLevel, compress_to_vec};

/// A body that a JSON library would not write in the same way.
pub(super) const ODD: &str = "{ \"zeta\" : 1.50,\n\t\"model\" :\"m\", \"messages\":[ {\"role\":\"user\",\
                   \"content\":\"\\u00e9 \\ud83d\"} ],\"tools\":[{\"z\":1,\"a\":{\"y\":2,\"b\":3}}],\
                   \"unknown\":{\"deep\":[null,1e2,{}]} }\n";

pub(super) fn posted(client: &mut Client, path: &str, headers: &str, body: &[u8]) {
    client.with("POST", path, headers, body);
}

/// The upstream request for a request; the response is `{}`.
pub(super) fn sent(proxy: &Proxy, upstream: &Upstream, path: &str, body: &str) -> Recorded {
    upstream.script(vec![json("{}")]);
    let answer = proxy.ask(path, body);
    assert_eq!((answer.status(), answer.body.as_str()), (200, "{}"), "{path} {body}");
    upstream.request()
}

#[test]
fn a_body_goes_up_as_the_very_same_bytes() {
    let (upstream, proxy) = pair();
    for path in ["/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/responses"] {
        let request = sent(&proxy, &upstream, path, ODD);
        assert_eq!((request.method.as_str(), request.path.as_str()), ("POST", path));
        assert_eq!(request.body, ODD, "{path}");
    }
}

#[test]
fn our_key_goes_up_and_only_what_is_meant_for_the_upstream() {
    let (upstream, proxy) = pair();
    upstream.script(vec![json("{}")]);
    let headers = "Authorization: Bearer theirs\r\nx-api-key: theirs\r\napi-key: theirs\r\n\
                   Cookie: a=b\r\nanthropic-version: 2023-06-01\r\nAccept: application/x-own\r\n\
                   Accept-Encoding: gzip\r\nOpenAI-Organization: org\r\nOpenAI-Project: proj\r\n\
                   OpenAI-Beta: beta\r\nContent-Type: text/plain\r\nTE: trailers\r\n";
    let mut client = proxy.client();
    posted(&mut client, "/v1/chat/completions", headers, ODD.as_bytes());
    assert_eq!(client.answer().status(), 200);
    let request = upstream.request();
    let header = |name: &str| request.header(name).unwrap_or_default().to_owned();
    assert_eq!(header("authorization"), format!("Bearer {KEY}"));
    assert_eq!(header("accept-encoding"), "identity");
    assert_eq!(header("accept"), "application/x-own");
    assert_eq!(header("content-type"), "application/json");
    assert_eq!(header("openai-organization"), "org");
    assert_eq!(header("openai-project"), "proj");
    assert_eq!(header("openai-beta"), "beta");
    assert_eq!(header("content-length"), ODD.len().to_string());
    for name in ["x-api-key", "api-key", "cookie", "anthropic-version", "te"] {
        assert_eq!(request.header(name), None, "{name}");
    }
    let hosts = request.headers.iter().filter(|(name, _)| name.eq_ignore_ascii_case("host"));
    assert_eq!(hosts.map(|(_, value)| value.as_str()).collect::<Vec<_>>().len(), 1);
    assert!(!header("host").contains("localhost"), "the upstream's own");
}

#[test]
fn only_the_name_of_the_model_changes_where_it_is_another() {
    let (upstream, proxy) = pair();
    for name in ["m:latest", "M", "library/m", " m ", "m:local"] {
        let asked = ODD.replace("\"m\"", &format!("\"{name}\""));
        assert_eq!(sent(&proxy, &upstream, "/v1/chat/completions", &asked).body, ODD, "{name}");
    }
    // Lists are often incomplete.
    let asked = ODD.replace("\"m\"", "\"org/other:8b\"");
    assert_eq!(sent(&proxy, &upstream, "/v1/chat/completions", &asked).body, asked);
}

#[test]
fn a_virtual_model_brings_its_prompt_its_messages_and_its_options() {
    let (upstream, proxy) = pair();
    let mut client = proxy.client();
    client.post(
        "/api/create",
        r#"{"model":"mario","from":"m","system":"You are Mario.","stream":false,
            "messages":[{"role":"user","content":"Who?"},{"role":"assistant","content":"Me!"}],
            "parameters":{"num_predict":9,"temperature":0.5}}"#,
    );
    assert_eq!(client.answer().status(), 200);
    let body =
        r#"{"model":"mario","tools":[{"z":1,"a":2}],"messages":[{"content":"Hi","role":"user"}]}"#;
    let expected = r#"{"model":"m","tools":[{"z":1,"a":2}],"messages":[{"role":"system","content":"You are Mario."},{"role":"user","content":"Who?"},{"role":"assistant","content":"Me!"},{"content":"Hi","role":"user"}],"max_tokens":9,"temperature":0.5}"#;
    assert_eq!(sent(&proxy, &upstream, "/v1/chat/completions", body).body, expected);
    let body = r#"{"model":"mario:latest","input":"x","unknown":[1, 2]}"#;
    let expected = r#"{"model":"m","input":"x","unknown":[1, 2]}"#;
    assert_eq!(sent(&proxy, &upstream, "/v1/embeddings", body).body, expected);
}

#[test]
fn a_model_that_is_used_shows_as_loaded() {
    let (upstream, proxy) = pair();
    sent(&proxy, &upstream, "/v1/chat/completions", ODD);
    let loaded = proxy.fetch("/api/ps").json();
    assert_eq!(loaded["models"][0]["name"], "m:latest");
}

/// Streams that are valid, and odd.
fn odd_streams() -> Vec<Vec<u8>> {
    let long = format!("data: {{\"x\":\"{}\"}}\n\n", "é".repeat(512 * 1024));
    vec![
        b": comment\r\n\r\nevent: x\r\ndata: {\"a\":1}\r\n\r\ndata: [DONE]\r\n\r\n".to_vec(),
        "\u{feff}data:{\"usage\":null, \"x\" : \"é\u{2028}\"}\n\n\n\nid: 7\nretry: 10\n\n".into(),
        b"data: {}\n\ndata: {\"error\":{\"message\":\"in band\"}}\n\ndata: [DONE]\n\n".to_vec(),
        b"data: cut".to_vec(),
        b"data: \xff\xfe\n\n".to_vec(),
        [long.as_bytes(), b"data: [DONE]\n\n"].concat(),
        Vec::new(),
    ]
}

#[test]
fn a_stream_is_byte_for_byte_that_of_the_upstream() {
    let (upstream, proxy) = pair();
    let mut client = proxy.client();
    for stream in odd_streams() {
        for size in [1, 2, 3, 7, 4096, 100_000, 2_000_000] {
            if stream.len() / size > 10_000 {
                continue;
            }
            let mut steps = vec![stream_head()];
            for piece in stream.chunks(size) {
                let head = format!("{:x}\r\n", piece.len());
                steps.push(Step::Send([head.as_bytes(), piece, b"\r\n"].concat()));
            }
            steps.push(last_frame());
            upstream.script(steps);
            let head = client.post("/v1/chat/completions", ODD).head();
            assert_eq!(
                (head.status, head.header("content-type")),
                (200, Some("text/event-stream"))
            );
            let body: Vec<u8> = std::iter::from_fn(|| client.frame_bytes()).flatten().collect();
            assert!(body == stream, "{size}: {} of {} bytes", body.len(), stream.len());
            upstream.request();
        }
    }
    assert!(upstream.connections() <= 2, "one connection serves all streams");
}

#[test]
fn each_piece_is_passed_on_before_the_next_one_comes() {
    let (upstream, proxy) = pair();
    let (go, told) = bounded(1);
    upstream.script(vec![
        stream_head(),
        frame("data: fir"),
        Step::Wait(told.clone()),
        frame("st\n\n"),
        Step::Wait(told),
        last_frame(),
    ]);
    let mut client = proxy.client();
    let head = client.post("/v1/chat/completions", ODD).head();
    assert_eq!(head.status, 200);
    assert_eq!(client.frame().as_deref(), Some("data: fir"));
    go.send(()).expect("the upstream waits");
    assert_eq!(client.frame().as_deref(), Some("st\n\n"));
    go.send(()).expect("the upstream waits");
    assert_eq!(client.frame(), None);
}

#[test]
fn a_client_that_leaves_ends_the_upstream_s_work() {
    let (upstream, proxy) = pair();
    let (closed, is_closed) = bounded(1);
    let (go, told) = bounded(1);
    let mut steps = vec![stream_head(), frame("data: 1\n\n"), Step::Wait(told)];
    // A first write into a closed connection may still succeed.
    steps.extend((0..64).map(|_| frame(&"x".repeat(64 * 1024))));
    steps.push(Step::UntilClosed(closed));
    upstream.script(steps);
    let mut client = proxy.client();
    client.post("/v1/chat/completions", ODD).head();
    assert!(client.frame().is_some());
    drop(client);
    go.send(()).expect("the upstream waits");
    // Either a write of the upstream fails, which ends its script, or it sees the close.
    let ended = is_closed.recv_timeout(HANG / 2);
    assert!(!matches!(ended, Err(crossbeam_channel::RecvTimeoutError::Timeout)));
}

#[test]
fn a_whole_answer_keeps_its_bytes_and_the_headers_that_clients_read() {
    let (upstream, proxy) = pair();
    let body = "{ \"b\":1.50,\n \"a\":\"\\u00e9\" }\n";
    let headers = [
        ("x-request-id", "req_theirs"),
        ("x-ratelimit-remaining-requests", "7"),
        ("openai-processing-ms", "12"),
        ("set-cookie", "a=b"),
        ("server", "theirs"),
        ("access-control-allow-origin", "*"),
    ];
    upstream.script(vec![crate::support::upstream::status(200, &headers, body)]);
    let answer = proxy.ask("/v1/chat/completions", ODD);
    assert_eq!(answer.body, body);
    let header = |name: &str| answer.head.header(name);
    assert_eq!(header("content-type"), Some("application/json"));
    assert_eq!(header("content-length"), Some(body.len().to_string().as_str()));
    assert_eq!(header("x-ratelimit-remaining-requests"), Some("7"));
    assert_eq!(header("openai-processing-ms"), Some("12"));
    let ids = answer.head.headers.iter().filter(|(it, _)| it.eq_ignore_ascii_case("x-request-id"));
    assert_eq!(ids.map(|(_, value)| value.as_str()).collect::<Vec<_>>(), ["req_theirs"]);
    for name in ["set-cookie", "server", "access-control-allow-origin", "transfer-encoding"] {
        assert_eq!(header(name), None, "{name}");
    }
}

#[test]
fn a_long_answer_is_passed_on_without_being_held() {
    let (upstream, proxy) = pair();
    let (go, told) = bounded(1);
    let (first, rest) = ("x".repeat(1000), "y".repeat(200_000));
    let head =
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 201000\r\n\r\n";
    let (head, second) = (format!("{head}{first}").into_bytes(), rest.clone().into_bytes());
    upstream.script(vec![Step::Send(head), Step::Wait(told), Step::Send(second)]);
    let mut client = proxy.client();
    assert_eq!(client.post("/v1/embeddings", ODD).head().status, 200);
    assert_eq!(client.frame(), Some(first));
    go.send(()).expect("the upstream waits");
    let body: String = std::iter::from_fn(|| client.frame()).collect();
    assert!(body == rest);
}

#[test]
fn a_packed_body_is_unpacked_and_passed_on() {
    let (upstream, proxy) = pair();
    let mut client = proxy.client();
    let packed = compress_to_vec(ODD.as_bytes(), CompressionLevel::Fastest);
    for path in ["/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/responses"] {
        upstream.script(vec![json("{}")]);
        posted(&mut client, path, "Content-Encoding: zstd\r\n", &packed);
        assert_eq!(client.answer().body, "{}");
        let request = upstream.request();
        assert_eq!((request.body.as_str(), request.header("content-encoding")), (ODD, None));
        posted(&mut client, path, "Content-Encoding: zstd\r\n", ODD.as_bytes());
        let answer = client.answer();
        assert_eq!(answer.status(), 400);
        assert_eq!(answer.json()["error"]["message"], "failed to decompress request body");
    }
    // No other route decompresses, and no other encoding is supported.
    for (path, encoding) in [("/api/chat", "zstd"), ("/v1/chat/completions", "gzip")] {
        posted(&mut client, path, &format!("Content-Encoding: {encoding}\r\n"), &packed);
        assert_eq!(client.answer().status(), 400, "{path} {encoding}");
    }
    assert!(upstream.is_idle());
}

#[test]
fn a_failure_is_tried_again_before_the_first_byte() {
    let (upstream, proxy) = pair();
    upstream.script(vec![Step::Close]).script(vec![json("{\"ok\":1}")]);
    proxy.ask("/v1/chat/completions", ODD).assert_body(200, "{\"ok\":1}");
    for _ in 0..2 {
        assert_eq!(upstream.request().body, ODD);
    }
}

#[test]
fn old_clients_get_the_same_bytes() {
    let (upstream, proxy) = pair();
    for connection in ["close", "keep-alive"] {
        upstream.script(vec![stream_head(), frame("data: 1\n\n"), frame("x"), last_frame()]);
        let mut client = proxy.client();
        let length = ODD.len();
        client.send(format!(
            "POST /v1/chat/completions HTTP/1.0\r\nConnection: {connection}\r\n\
             Content-Length: {length}\r\n\r\n{ODD}"
        ));
        assert_eq!(client.answer().body, "data: 1\n\nx", "{connection}");
    }
}
