//! The memory budget: what requests and answers hold is reserved before it is held and returned afterwards;
//! what the budget has no room for is refused, or told as an error, in the form of each protocol.

use ruzstd::encoding::{CompressionLevel, compress_to_vec};

use crate::support::*;

const BUSY: &str = "server busy, please try again.  maximum pending requests exceeded";
const TOO_LARGE: &str =
    "the response of the upstream needs more memory than this proxy has at the moment";
const TOO_COMPLEX: &str =
    "request body too large: handling it takes more memory than this proxy may use";

/// llama.cpp's error for an unknown route.
const NO_ROUTE: &str = r#"{"error":{"code":404,"message":"File Not Found"}}"#;

/// Routes that generate text, and whether the request is translated.
const ROUTES: [(&str, bool); 5] = [
    ("/api/chat", true),
    ("/api/generate", true),
    ("/v1/messages", true),
    ("/v1/responses", true),
    ("/v1/chat/completions", false),
];

/// A proxy that may hold so many bytes, before an upstream without `responses`.
fn limited(bytes: usize) -> (Upstream, Proxy) {
    let (upstream, proxy) =
        pair_with(|config| config.connection_limits.max_held_memory = Some(bytes));
    upstream.script(vec![status(404, &[], NO_ROUTE)]).script(vec![answer("ok")]);
    assert_eq!(proxy.post("/v1/responses", &request("/v1/responses", "Hi", false)).status(), 200);
    upstream.request();
    upstream.request();
    (upstream, proxy)
}

/// A request with this text.
fn request(path: &str, text: &str, stream: bool) -> Value {
    let mut body = match path {
        "/api/generate" => json!({"prompt": text}),
        "/v1/responses" => json!({"input": text, "store": false}),
        _ => json!({"messages": [{"role": "user", "content": text}], "max_tokens": 9}),
    };
    (body["model"], body["stream"]) = (json!("m"), json!(stream));
    body
}

/// Bytes that are reserved once no request runs.
fn held(proxy: &Proxy) -> usize {
    while proxy.server.active_requests() > 0 {
        std::thread::yield_now();
    }
    proxy.server.held_memory()
}

/// The text of an error in any form.
fn error_text(answer: &Answer) -> String {
    let error = answer.json()["error"].take();
    error.as_str().or_else(|| error["message"].as_str()).expect("a text").to_owned()
}

/// A stream of a text and a call whose arguments come in so many pieces of so many bytes.
fn with_call(count: usize, bytes: usize) -> Vec<Step> {
    let piece = |id: &str, arguments: &str| {
        let call = json!({"index": 0, "id": id, "type": "function",
            "function": {"name": if id.is_empty() { "" } else { "f" }, "arguments": arguments}});
        let chunk = json!({"choices": [{"index": 0, "delta": {"tool_calls": [call]}}]});
        frame(&format!("data: {chunk}\n\n"))
    };
    let mut steps = vec![stream_head(), delta("one"), piece("call_1", "{\"a\":\"")];
    steps.extend((0..count).map(|_| piece("", &"x".repeat(bytes))));
    steps.push(piece("", "\"}"));
    steps
}

#[test]
fn what_large_requests_and_answers_hold_is_returned_on_every_route() {
    let (upstream, proxy) = limited(64 << 20);
    let (question, reply) = ("x\n".repeat(100_000), "y\n".repeat(100_000));
    for (path, _) in ROUTES {
        upstream.script(vec![answer(&reply)]);
        let body = request(path, &question, false);
        assert_eq!(proxy.post(path, &body).status(), 200, "{path}");
        upstream.request();
        assert_eq!(held(&proxy), 0, "{path}");
        upstream.script(stream(&[&reply]));
        let streamed = proxy.post(path, &request(path, "Hi", true));
        assert!(streamed.status() == 200 && streamed.body.len() > reply.len(), "{path}");
        upstream.request();
        assert_eq!(held(&proxy), 0, "{path}, as a stream");
    }
    for path in ["/api/embed", "/api/embeddings", "/v1/embeddings"] {
        let numbers = "0.5,".repeat(100_000);
        upstream.script(vec![json(&format!(
            r#"{{"data":[{{"index":0,"embedding":[{numbers}1]}}],"usage":{{"prompt_tokens":1}}}}"#
        ))]);
        let body = json!({"model": "m", "input": question, "prompt": question});
        assert_eq!(proxy.post(path, &body).status(), 200, "{path}");
        upstream.request();
        assert_eq!(held(&proxy), 0, "{path}");
    }
    let packed = compress_to_vec(
        request("/v1/messages", &question, false).to_string().as_bytes(),
        CompressionLevel::Fastest,
    );
    upstream.script(vec![answer("ok")]);
    let mut client = proxy.client();
    client.with("POST", "/v1/messages", "Content-Encoding: zstd\r\n", &packed);
    assert_eq!(client.answer().status(), 200);
    assert_eq!(held(&proxy), 0, "zstd");
}

#[test]
fn a_request_that_does_not_fit_beside_another_is_busy_and_nothing_is_sent_upstream() {
    for (path, _) in ROUTES {
        let (upstream, proxy) = limited(1_500_000);
        let (go_on, told) = bounded::<()>(0);
        upstream.script(vec![Step::Wait(told), answer("ok")]);
        let body = request(path, &"x".repeat(600_000), false).to_string();
        let mut first = proxy.client();
        first.post("/api/chat", request("/api/chat", &"x".repeat(600_000), false).to_string());
        upstream.request();
        let refused = proxy.ask(path, &body);
        assert_eq!(refused.status(), 503, "{path}: {}", refused.body);
        assert_eq!(refused.head.header("retry-after"), Some("1"), "{path}");
        assert_eq!(error_text(&refused), BUSY, "{path}");
        upstream.script(vec![answer("small")]);
        assert_eq!(proxy.post(path, &request(path, "Hi", false)).status(), 200, "{path}");
        upstream.request();
        assert!(upstream.is_idle(), "{path}");
        drop(go_on);
        assert_eq!(first.answer().status(), 200);
        upstream.script(vec![answer("ok")]);
        assert_eq!(proxy.ask(path, &body).status(), 200, "{path}: there is room again");
        assert_eq!(held(&proxy), 0, "{path}");
    }
}

#[test]
fn a_request_whose_parts_never_fit_is_too_large_whatever_its_length() {
    let (upstream, proxy) = limited(2_000_000);
    let parts = format!("[{}{{}}]", "{\"a\":1},".repeat(20_000));
    for path in ["/api/chat", "/v1/messages"] {
        let schema = format!(r#"{{"type":"object","x":{parts}}}"#);
        let body = match path {
            "/api/chat" => format!(
                r#"{{"model":"m","messages":[{{"role":"user","content":"x"}}],"tools":[{{"type":"function",
                "function":{{"name":"f","parameters":{schema}}}}}]}}"#
            ),
            _ => format!(
                r#"{{"model":"m","max_tokens":9,"messages":[{{"role":"user","content":"x"}}],
                "tools":[{{"name":"f","input_schema":{schema}}}]}}"#
            ),
        };
        assert!(body.len() < 200_000);
        let refused = proxy.ask(path, &body);
        assert_eq!((refused.status(), error_text(&refused).as_str()), (413, TOO_COMPLEX), "{path}");
    }
    // A body of zeros unfolds to much more than it is.
    let packed = compress_to_vec(&vec![b' '; 4_000_000][..], CompressionLevel::Fastest);
    let mut client = proxy.client();
    client.with("POST", "/v1/messages", "Content-Encoding: zstd\r\n", &packed);
    assert_eq!(client.answer().status(), 413);
    assert!(upstream.is_idle() && held(&proxy) == 0);
}

#[test]
fn a_whole_answer_that_does_not_fit_is_an_error_and_no_reason_to_ask_again() {
    for (path, is_translated) in ROUTES {
        let (upstream, proxy) = limited(1_000_000);
        upstream.script(vec![answer(&"x".repeat(900_000))]);
        let found = proxy.post(path, &request(path, "Hi", false));
        upstream.request();
        if !is_translated {
            assert_eq!(found.status(), 200, "{path} passes it on in pieces");
            continue;
        }
        assert_eq!((found.status(), error_text(&found).as_str()), (502, TOO_LARGE), "{path}");
        let is_told = path.starts_with("/v1").then_some("false");
        assert_eq!(found.head.header("x-should-retry"), is_told, "{path}");
        assert!(upstream.is_idle() && held(&proxy) == 0, "{path}");
        upstream.script(vec![answer("small")]);
        assert_eq!(proxy.post(path, &request(path, "Hi", false)).status(), 200, "{path}");
    }
}

#[test]
fn an_event_or_a_call_of_a_stream_that_does_not_fit_ends_the_stream_with_an_error() {
    for (path, _) in ROUTES.iter().filter(|(_, is_translated)| *is_translated) {
        for steps in
            [vec![stream_head(), delta("one"), delta(&"x".repeat(900_000))], with_call(40, 20_000)]
        {
            let (upstream, proxy) = limited(1_000_000);
            upstream.script(ended(steps));
            let found = proxy.post(path, &request(path, "Hi", true));
            assert_eq!(found.status(), 200, "{path}: {}", found.body);
            assert!(found.body.contains("one"), "what came before is there: {path}");
            assert!(found.body.contains(TOO_LARGE), "{path}: {}", found.body);
            for end in ["\"done\":true", "message_stop", "response.completed"] {
                assert!(!found.body.contains(end), "{path}: {end}");
            }
            upstream.request();
            assert_eq!(held(&proxy), 0, "{path}");
        }
    }
}

#[test]
fn an_event_counts_while_it_arrives() {
    for (path, _) in ROUTES.iter().filter(|(_, is_translated)| *is_translated) {
        let (upstream, proxy) = limited(1_000_000);
        let (_keep, never) = bounded(0);
        let begun = frame(&format!("data: {{\"x\":\"{}", "x".repeat(500_000)));
        upstream.script(vec![stream_head(), delta("one"), begun, Step::Wait(never)]);
        let found = proxy.post(path, &request(path, "Hi", true));
        assert!(found.body.contains("one") && found.body.contains(TOO_LARGE), "{path}");
        assert_eq!(held(&proxy), 0, "{path}");
        let (upstream, proxy) = limited(10_000_000);
        upstream.script(ended(vec![stream_head(), delta("one"), delta(&"x".repeat(500_000))]));
        let found = proxy.post(path, &request(path, "Hi", true));
        assert!(found.body.len() > 500_000 && !found.body.contains(TOO_LARGE), "{path}");
    }
}

#[test]
fn a_stream_that_is_collected_counts_as_what_is_held_of_it() {
    let (upstream, proxy) = limited(1_000_000);
    let texts = vec!["x".repeat(10_000); 60];
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    // For a client of HTTP/1.0 that keeps its connection, all lines wait for the end.
    let body = request("/api/chat", "Hi", true).to_string();
    let ask = |proxy: &Proxy| {
        let mut client = proxy.client();
        client.send(format!(
            "POST /api/chat HTTP/1.0\r\nConnection: keep-alive\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        ));
        client.answer()
    };
    upstream.script(stream(&texts[..20]));
    assert!(!ask(&proxy).body.contains(TOO_LARGE));
    let many = texts.repeat(3);
    upstream.script(stream(&many));
    let found = ask(&proxy);
    assert!(found.body.contains(TOO_LARGE) && !found.body.contains("\"done\":true"));
    // A server that streams although a whole response was asked for.
    upstream.script(stream(&texts));
    let found = proxy.post("/api/chat", &request("/api/chat", "Hi", false));
    assert_eq!((found.status(), found.error().as_str()), (502, TOO_LARGE));
    upstream.script(stream(&texts));
    assert_eq!(proxy.post("/api/chat", &request("/api/chat", "Hi", true)).status(), 200);
    assert_eq!(held(&proxy), 0);
}

#[test]
fn kept_responses_count_and_give_way_to_requests() {
    let (upstream, proxy) = limited(2_000_000);
    let ask = |text: &str| {
        upstream.script(vec![answer("ok")]);
        let mut body = request("/v1/responses", text, false);
        body["store"] = json!(true);
        let answer = proxy.post("/v1/responses", &body);
        assert_eq!(answer.status(), 200, "{}", answer.body);
        answer.json()["id"].as_str().expect("an id").to_owned()
    };
    let id = ask(&"x".repeat(200_000));
    let kept = held(&proxy);
    assert!((200_000..300_000).contains(&kept), "{kept} bytes");
    let goes_on = || {
        upstream.script(vec![answer("ok")]);
        let mut body = request("/v1/responses", "and?", false);
        body["previous_response_id"] = json!(id);
        proxy.post("/v1/responses", &body).status()
    };
    assert_eq!(goes_on(), 200);
    upstream.script(vec![answer("ok")]);
    let large = request("/api/chat", &"x".repeat(960_000), false);
    assert_eq!(proxy.post("/api/chat", &large).status(), 200);
    assert_eq!(held(&proxy), 0, "nothing is kept any more");
}
