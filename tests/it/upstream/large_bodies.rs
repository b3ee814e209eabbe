//! Requests with large images, which are sent in pieces: the upstream receives the same bytes on
//! every attempt, and may respond before it has read them all.

use crate::support::*;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::thread;
use std::time::Duration;

use crossbeam_channel::{Sender, bounded};

/// A PNG of this many characters of base64.
fn image(size: usize) -> String {
    let mut image = format!("iVBORw0KGgo{}", "Ab3+dE7/x".repeat(size / 9));
    image.truncate(size);
    image
}

/// Two turns with two images, another one in between that is small.
fn chat(images: [&str; 2]) -> Value {
    json!({"model": "m", "stream": false, "options": {"temperature": 0.5, "stop": ["\n"]},
    "messages": [
        {"role": "system", "content": "Look \"well\"."},
        {"role": "user", "content": "What is it?\n", "images": [images[0], "iVBORw0KGgo="]},
        {"role": "assistant", "content": "An \u{e9}t\u{e9}."},
        {"role": "user", "content": "", "images": [images[1]]},
    ]})
}

/// What the upstream gets in one piece for small images.
fn whole(body: impl Fn([&str; 2]) -> Value, route: &str) -> Recorded {
    let (upstream, proxy) = pair();
    upstream.script(vec![answer("ok")]);
    let body = body(["iVBORw0KGgoAAAAA", "iVBORw0KGgoBBBBB"]).to_string();
    assert_eq!(proxy.ask(route, body).status(), 200);
    upstream.request()
}

/// The body with these images in place of the small ones.
fn with(whole: &Recorded, images: [&str; 2]) -> String {
    let [first, second] = images;
    whole.body.replace("iVBORw0KGgoAAAAA", first).replace("iVBORw0KGgoBBBBB", second)
}

/// The headers except those that differ between calls. The one length must be right.
fn headers(request: &Recorded) -> Vec<(String, String)> {
    assert_eq!(request.header("transfer-encoding"), None);
    let is_length = |(name, _): &&(String, String)| name.eq_ignore_ascii_case("content-length");
    let lengths: Vec<_> = request.headers.iter().filter(is_length).collect();
    assert_eq!(lengths.len(), 1);
    assert_eq!(lengths[0].1, request.body.len().to_string());
    let mut headers = request.headers.clone();
    headers.retain(|(name, _)| !["content-length", "x-request-id", "host"].contains(&&**name));
    headers.sort();
    headers
}

#[test]
fn a_body_in_pieces_arrives_as_it_would_in_one() {
    let generate = |[first, second]: [&str; 2]| json!({"model": "m", "stream": false, "prompt": "What?", "images": [first, second]});
    let wholes = [
        ("/api/chat", whole(chat, "/api/chat")),
        ("/api/generate", whole(generate, "/api/generate")),
    ];
    for (route, whole) in &wholes {
        for sizes in [[65_536, 100_000], [65_532, 1_000_000], [16, 65_536], [1_000_004, 2_000_000]]
        {
            let images = sizes.map(image);
            let images = [images[0].as_str(), images[1].as_str()];
            let (upstream, proxy) = pair();
            upstream.script(vec![answer("ok")]);
            let body = if *route == "/api/chat" { chat(images) } else { generate(images) };
            let answer = proxy.post(route, &body);
            assert_eq!(answer.status(), 200, "{}", answer.body);
            let request = upstream.request();
            assert!(request.body == with(whole, images), "{route} {sizes:?}");
            assert_eq!(headers(&request), headers(whole), "{route} {sizes:?}");
        }
    }
}

#[test]
fn the_same_is_sent_again() {
    let images = [image(1_000_000), image(70_000)];
    let images = [images[0].as_str(), images[1].as_str()];
    let expected = with(&whole(chat, "/api/chat"), images);
    let (upstream, proxy) = pair();
    // A kept connection that turns out to be closed, a failure that passes, and one in the middle.
    upstream.script(vec![answer("first"), Step::Close]);
    upstream.script(vec![status(503, &[], "{}")]);
    upstream.script(vec![Step::Reset]);
    upstream.script(vec![answer("second")]);
    for said in ["first", "second"] {
        let answer = proxy.ask("/api/chat", chat(images).to_string());
        assert_eq!(answer.json()["message"]["content"], said);
    }
    for attempt in 0..4 {
        let request = upstream.request();
        headers(&request);
        assert!(request.body == expected, "{attempt}");
    }
    assert!(upstream.is_idle());
    assert_eq!(proxy.sleeps.len(), 1, "a kept connection may close");
}

#[test]
fn a_mended_request_has_the_same_images() {
    let images = [image(100_000), image(1_000_000)];
    let images = [images[0].as_str(), images[1].as_str()];
    let expected = with(&whole(chat, "/api/chat"), images);
    let (upstream, proxy) = pair();
    let refusal = json!({"error": {"message": "Unknown parameter: 'temperature'.",
        "type": "invalid_request_error", "param": "temperature", "code": "unknown_parameter"}});
    upstream.script(vec![status(400, &[], &refusal.to_string())]).script(vec![answer("ok")]);
    let answer = proxy.ask("/api/chat", chat(images).to_string());
    assert_eq!(answer.status(), 200, "{}", answer.body);
    assert!(upstream.request().body == expected);
    let mended = upstream.request();
    headers(&mended);
    assert!(mended.body == expected.replacen(",\"temperature\":0.5", "", 1));
}

/// What an upstream does with a body once it has refused it.
#[derive(Clone, Copy, Debug)]
enum Rest {
    /// Reads it.
    Read,
    /// Closes the connection, which resets it.
    Closed,
    /// Leaves it where it is.
    Left,
}

/// An upstream that refuses each request when it has read its head. It goes on until the test ends.
fn refusing(rest: Rest) -> (String, Sender<()>) {
    const ANSWER: &str = r#"{"error":{"message":"too much","type":"x","code":null}}"#;
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let base = format!("http://{}/v1", listener.local_addr().expect("bound"));
    let (ended, end) = bounded::<()>(0);
    thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let mut reader = BufReader::with_capacity(1024, &stream);
            let mut lines = reader.by_ref().lines().map_while(Result::ok);
            let asked = lines.next().unwrap_or_default();
            lines.find(String::is_empty);
            let code = if asked.starts_with("POST") { 413 } else { 404 };
            let length = ANSWER.len();
            let head = format!("HTTP/1.1 {code} X\r\nContent-Length: {length}\r\n\r\n");
            let _ = (&stream).write_all([head.as_bytes(), ANSWER.as_bytes()].concat().as_slice());
            match rest {
                _ if code == 404 => {}
                Rest::Read => {
                    let _ = std::io::copy(&mut reader, &mut std::io::sink());
                }
                Rest::Closed => {}
                Rest::Left => {
                    let _ = end.recv_timeout(HANG);
                }
            }
        }
    });
    (base, ended)
}

#[test]
fn an_upstream_that_answers_early_is_heard() {
    // More than what fits into the buffers of sockets.
    let large = image(6_000_000);
    let asked = chat([&large, "iVBORw0KGgo="]).to_string();
    let text = "x".repeat(6_000_000);
    let told = json!({"model": "m", "messages": [{"role": "user", "content": text}]}).to_string();
    for (rest, route, body) in [
        (Rest::Read, "/api/chat", &asked),
        (Rest::Closed, "/api/chat", &asked),
        (Rest::Closed, "/api/chat", &told),
        (Rest::Closed, "/v1/chat/completions", &told),
        (Rest::Left, "/api/chat", &asked),
    ] {
        let (base, _end) = refusing(rest);
        let proxy = Proxy::at(&base, |config| {
            config.max_body_bytes = 32_000_000;
            // Ends the wait for an upstream that reads nothing.
            config.request_timeout = Duration::from_secs(1);
        });
        let answer = proxy.ask(route, body);
        assert_eq!(answer.status(), 413, "{rest:?} {route}: {}", answer.body);
        assert!(answer.body.contains("too much"), "{rest:?} {route}: {}", answer.body);
        assert!(proxy.sleeps.is_empty(), "{rest:?} {route}: nothing is tried again");
    }
}

#[test]
fn an_upstream_that_takes_nothing_is_not_waited_for_for_ever() {
    // The kernel accepts the connection, and nothing reads from it.
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let base = format!("http://{}/v1", listener.local_addr().expect("bound"));
    let proxy = Proxy::at(&base, |config| {
        config.request_timeout = Duration::from_secs(1);
        config.retry.max_retries = 0;
    });
    let large = image(6_000_000);
    let answer = proxy.ask("/api/chat", chat([&large, "iVBORw0KGgo="]).to_string());
    assert_eq!(answer.status(), 504, "{}", answer.body);
}
