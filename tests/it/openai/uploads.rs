//! Large bodies and forms, which are forwarded while they arrive.

use super::pass_through::{posted, sent};
use crate::support::*;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::thread;

/// An upstream that reports when it has a part of the body, and then reads the rest.
fn counting_upstream(enough: usize) -> (String, crossbeam_channel::Receiver<usize>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let base = format!("http://{}/v1", listener.local_addr().expect("bound"));
    let (sender, receiver) = bounded(2);
    thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("the proxy comes");
        let mut reader = BufReader::new(stream.try_clone().expect("a socket"));
        let mut length = 0;
        loop {
            let mut line = String::new();
            reader.read_line(&mut line).expect("a head");
            let line = line.trim_end().to_ascii_lowercase();
            if let Some(value) = line.strip_prefix("content-length: ") {
                length = value.parse().expect("a length");
            }
            if line.is_empty() {
                break;
            }
        }
        reader.read_exact(&mut vec![0; enough]).expect("the beginning");
        sender.send(enough).expect("the test listens");
        let rest = std::io::copy(&mut reader.take(length - enough as u64), &mut std::io::sink());
        sender.send(enough + rest.expect("the rest") as usize).expect("the test listens");
        let answer =
            "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}";
        stream.write_all(answer.as_bytes()).expect("an answer");
    });
    (base, receiver)
}

/// Sends half of a body, waits until the upstream has a part of it, and sends the rest.
pub(super) fn streams_through(path: &str, headers: &str, body: &[u8], shorter: usize) {
    let (base, received) = counting_upstream(body.len() / 4);
    let proxy = Proxy::at(&base, |_| {});
    let mut client = proxy.client();
    let (first, rest) = body.split_at(body.len() / 2);
    let length = body.len();
    client.send(format!("POST {path} HTTP/1.1\r\nHost: localhost\r\n{headers}"));
    client.send(format!("Content-Length: {length}\r\n\r\n")).send(first);
    assert_eq!(received.recv_timeout(HANG), Ok(length / 4), "before the client has sent it all");
    client.send(rest);
    assert_eq!(received.recv_timeout(HANG), Ok(length - shorter));
    assert_eq!(client.answer().body, "{}");
}

#[test]
fn a_large_body_streams_through() {
    for model in ["m", "library/m"] {
        let body = format!(r#"{{"model":"{model}","input":"{}"}}"#, "x".repeat(4_000_000));
        streams_through("/v1/embeddings", "", body.as_bytes(), model.len() - 1);
    }
}

#[test]
fn a_large_body_that_breaks_off_is_never_whole_for_the_upstream() {
    let (base, received) = counting_upstream(1_000_000);
    let proxy = Proxy::at(&base, |_| {});
    let mut client = proxy.client();
    let beginning = format!(r#"{{"model":"m","input":"{}"#, "x".repeat(2_000_000));
    client.send("POST /v1/embeddings HTTP/1.1\r\nHost: localhost\r\n");
    client.send("Content-Length: 4000000\r\n\r\n").send(beginning);
    assert_eq!(received.recv_timeout(HANG), Ok(1_000_000));
    client.stream().shutdown(std::net::Shutdown::Write).expect("connected");
    let answer = client.answer();
    assert_eq!(answer.status(), 400);
    assert_eq!(answer.json()["error"]["message"], "unexpected EOF");
    let whole = received.recv_timeout(HANG).unwrap_or_default();
    assert!(whole < 4_000_000, "{whole}");
}

/// A form as the OpenAI clients send it.
pub(super) fn form(model: &str, size: usize) -> Vec<u8> {
    let part = |name: &str| format!("--b\r\nContent-Disposition: form-data; name=\"{name}\"");
    let file = format!("{}; filename=\"a.wav\"\r\nContent-Type: audio/wav", part("file"));
    let sound = "RIFF".repeat(size / 4);
    format!("{}\r\n\r\n{model}\r\n{file}\r\n\r\n{sound}\r\n--b--\r\n", part("model")).into_bytes()
}

pub(super) const FORM: &str = "Content-Type: multipart/form-data; boundary=b\r\n";

#[test]
fn a_large_form_streams_through() {
    streams_through("/v1/audio/transcriptions", FORM, &form("m", 4_000_000), 0);
}

#[test]
fn a_large_body_whose_model_has_another_name_is_sent_all_the_same() {
    let (upstream, proxy) = pair();
    let body =
        |model: &str| format!(r#"{{"model":"{model}","input":"{}"}}"#, "x".repeat(2_000_000));
    let request = sent(&proxy, &upstream, "/v1/embeddings", &body("m:latest"));
    assert!(request.body == body("m"));
    let late = format!(r#"{{"input":"{}","model":"m:latest"}}"#, "x".repeat(2_000_000));
    let request = sent(&proxy, &upstream, "/v1/embeddings", &late);
    assert!(request.body == late.replace("m:latest", "m"));
}

#[test]
fn a_form_is_passed_on_with_the_upstream_s_name_in_it() {
    let (upstream, proxy) = pair();
    let mut client = proxy.client();
    for size in [4, 2_000_000] {
        upstream.script(vec![json("{\"text\":\"Hi\"}")]);
        posted(&mut client, "/v1/audio/transcriptions", FORM, &form("m:latest", size));
        assert_eq!(client.answer().body, "{\"text\":\"Hi\"}");
        let request = upstream.request();
        assert!(request.body.as_bytes() == form("m", size), "{size}");
        let kind = request.header("content-type");
        assert_eq!(kind, Some("multipart/form-data; boundary=b"));
        assert_eq!(request.path, "/v1/audio/transcriptions");
    }
    let unnamed = b"--b\r\nContent-Disposition: form-data; name=\"file\"\r\n\r\nx\r\n--b--\r\n";
    posted(&mut client, "/v1/audio/transcriptions", FORM, unnamed);
    let answer = client.answer();
    assert_eq!(answer.status(), 400);
    assert_eq!(answer.json()["error"]["message"], "model is required");
}

#[test]
fn fifty_megabytes_are_taken_on_each_route_and_more_than_is_allowed_is_refused() {
    const BYTES: usize = 50_000_000;
    let (upstream, proxy) = pair();
    upstream.judge(|request| {
        if request.path.ends_with("/responses") {
            return Some(vec![status(404, &[], r#"{"detail":"Not Found"}"#)]);
        }
        Some(vec![answer("ok")])
    });
    let small = Proxy::with(&upstream, |config| config.max_body_bytes = BYTES);
    let request = |route: &str, text: &str| match route {
        "/api/generate" => format!(r#"{{"model":"m","stream":false,"prompt":"{text}"}}"#),
        "/v1/responses" => format!(r#"{{"model":"m","input":"{text}"}}"#),
        _ => format!(
            r#"{{"model":"m","stream":false,"max_tokens":9,"messages":[{{"role":"user","content":"{text}"}}]}}"#
        ),
    };
    // Where the upstream has no such route, it is asked for it once.
    proxy.ask("/v1/responses", request("/v1/responses", "Hi"));
    while !upstream.is_idle() {
        upstream.request();
    }
    let text = "x".repeat(BYTES);
    for route in
        ["/api/chat", "/api/generate", "/v1/chat/completions", "/v1/messages", "/v1/responses"]
    {
        let body = request(route, &text);
        let told = proxy.ask(route, &body);
        assert_eq!(told.status(), 200, "{route}: {}", told.body);
        assert!(upstream.request().body.contains(&text), "{route}: nothing is cut off");
        let refused = small.ask(route, &body);
        assert_eq!(refused.status(), 413, "{route}: {}", refused.body);
        assert!(refused.json()["error"].is_object() || refused.json()["error"].is_string());
        assert!(upstream.is_idle(), "{route}");
    }
}
