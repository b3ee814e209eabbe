//! Whole responses that take long: asked for as streams and collected, and no prompt is generated a
//! third time.

use crate::support::*;
use std::time::Duration;

use crossbeam_channel::Sender;

const TIMEOUT: Duration = Duration::from_secs(1);
const LATE: &str = "no response from the upstream within REQUEST_TIMEOUT";

fn impatient() -> (Upstream, Proxy) {
    pair_with(|config| {
        config.request_timeout = TIMEOUT;
        config.breaker.failure_threshold = u32::MAX;
    })
}

/// An upstream that does not begin to answer.
fn silence() -> (Sender<()>, Vec<Step>) {
    let (keep, never) = bounded(0);
    (keep, vec![Step::Wait(never)])
}

fn is_stream(request: &Recorded) -> bool {
    let body = request.json();
    assert_eq!(body["stream"] == true, body.get("stream_options").is_some(), "{body}");
    body["stream"] == true
}

/// Makes the model slow for chats.
fn make_slow(upstream: &Upstream, proxy: &Proxy) {
    let (_keep, silence) = silence();
    upstream.script(silence).script(stream(&["slow"]));
    assert_eq!(proxy.ask("/api/chat", chat_whole("Hi")).json()["message"]["content"], "slow");
    assert!(!is_stream(&upstream.request()) && is_stream(&upstream.request()));
    assert_eq!(proxy.sleeps.try_iter().count(), 1);
}

/// The first request does not come in time and is repeated as a stream; the next one is a stream at once.
fn check_route(path: &str, body: &Value, before: &[Step], text: impl Fn(&Value) -> Value) {
    let (upstream, proxy) = impatient();
    if !before.is_empty() {
        upstream.script(vec![status(404, &[], r#"{"detail":"Not Found"}"#)]);
    }
    let (_keep, silence) = silence();
    upstream.script(silence).script(stream(&["o", "ne"])).script(stream(&["t", "wo"]));
    let first = proxy.post(path, body);
    assert_eq!((first.status(), text(&first.json())), (200, "one".into()), "{}", first.body);
    if !before.is_empty() {
        upstream.request();
    }
    assert!(!is_stream(&upstream.request()) && is_stream(&upstream.request()), "{path}");
    assert_eq!(proxy.sleeps.try_iter().count(), 1, "after the backoff");
    let second = proxy.post(path, body);
    assert_eq!(text(&second.json()), "two", "{}", second.body);
    assert!(is_stream(&upstream.request()) && upstream.is_idle(), "{path}");
    assert!(proxy.sleeps.is_empty());
}

#[test]
fn a_chat_is_repeated_as_a_stream() {
    let body =
        json!({"model": "m", "stream": false, "messages": [{"role": "user", "content": "x"}]});
    check_route("/api/chat", &body, &[], |answer| answer["message"]["content"].clone());
}

#[test]
fn a_prompt_is_repeated_as_a_stream() {
    let body = json!({"model": "m", "stream": false, "prompt": "x"});
    check_route("/api/generate", &body, &[], |answer| answer["response"].clone());
}

#[test]
fn a_raw_prompt_is_repeated_as_a_stream() {
    let body = json!({"model": "m", "stream": false, "raw": true, "prompt": "x"});
    check_route("/api/generate", &body, &[], |answer| answer["response"].clone());
}

#[test]
fn anthropic_s_messages_are_repeated_as_a_stream() {
    let body =
        json!({"model": "m", "max_tokens": 9, "messages": [{"role": "user", "content": "x"}]});
    check_route("/v1/messages", &body, &[], |answer| answer["content"][0]["text"].clone());
}

#[test]
fn translated_responses_are_repeated_as_a_stream() {
    let body = json!({"model": "m", "input": "x"});
    check_route("/v1/responses", &body, &[Step::Close], |answer| {
        answer["output"][0]["content"][0]["text"].clone()
    });
}

#[test]
fn a_chat_that_goes_to_responses_is_repeated_as_a_stream_there() {
    let (upstream, proxy) = impatient();
    let refusal = r#"{"error":{"message":"This model is only supported in v1/responses and not in v1/chat/completions.","param":"model"}}"#;
    upstream.judge(|request| {
        request.path.ends_with("/chat/completions").then(|| vec![status(404, &[], refusal)])
    });
    let (_keep, silence) = silence();
    let done = json!({"type": "response.completed", "response": {"status": "completed", "output": [
        {"type": "message", "role": "assistant",
            "content": [{"type": "output_text", "text": "late"}]}]}});
    let text = json!({"type": "response.output_text.delta", "output_index": 0, "delta": "late"});
    let events = [text, done].map(|event| frame(&format!("data: {event}\n\n")));
    upstream.script(silence);
    upstream.script([stream_head()].into_iter().chain(events).chain([last_frame()]).collect());
    let answer = proxy.ask("/api/chat", chat_whole("Hi"));
    assert_eq!(answer.json()["message"]["content"], "late", "{}", answer.body);
    upstream.request();
    let (whole, repeated) = (upstream.request(), upstream.request());
    assert!(whole.path.ends_with("/responses") && repeated.path == whole.path);
    let mut expected = whole.json();
    assert_ne!(expected["stream"], true);
    expected["stream"] = true.into();
    assert_eq!(repeated.json(), expected);
    assert!(upstream.is_idle());
}

#[test]
fn there_is_no_second_repetition() {
    let (upstream, proxy) = impatient();
    let (_keep, first) = silence();
    let (_keep_too, second) = silence();
    upstream.script(first).script(second);
    proxy.ask("/api/chat", chat_whole("Hi")).assert_error(504, LATE);
    assert!(!is_stream(&upstream.request()) && is_stream(&upstream.request()));
    assert!(upstream.is_idle());
    assert_eq!(proxy.sleeps.len(), 1);
    // A stream is not repeated at all, whoever wanted it.
    for body in [chat_whole("Hi"), chat("Hi")] {
        let (_keep, silence) = silence();
        upstream.script(silence);
        proxy.ask("/api/chat", body).assert_error(504, LATE);
        assert!(is_stream(&upstream.request()) && upstream.is_idle());
    }
    assert_eq!(proxy.sleeps.len(), 1);
}

#[test]
fn the_timeout_of_a_gateway_is_one_too() {
    for code in [504, 524] {
        let late = || vec![status(code, &[], r#"{"error":{"message":"upstream timed out"}}"#)];
        for (route, body, is_repeated_as_stream) in [
            ("/api/chat", chat_whole("Hi"), true),
            ("/api/chat", chat("Hi"), true),
            ("/v1/chat/completions", chat_whole("Hi"), false),
        ] {
            let (upstream, proxy) = pair();
            upstream.script(late()).script(late()).script(vec![answer("never")]);
            let told = proxy.ask(route, &body);
            assert!(told.status() == code && told.body.contains("timed out"), "{}", told.body);
            upstream.request();
            assert_eq!(upstream.request().json()["stream"] == true, is_repeated_as_stream);
            assert!(upstream.is_idle(), "not a third time: {code} {route}");
            assert_eq!(proxy.sleeps.len(), 1);
        }
        let (upstream, proxy) = pair();
        upstream.script(late()).script(stream(&["one"])).script(stream(&["two"]));
        for text in ["one", "two"] {
            assert_eq!(proxy.ask("/api/chat", chat_whole("Hi")).json()["message"]["content"], text);
        }
        let sent: Vec<bool> = (0..3).map(|_| is_stream(&upstream.request())).collect();
        assert_eq!(sent, [false, true, true], "the model is slow from then on");
    }
}

#[test]
fn an_answer_that_has_begun_is_not_repeated() {
    let (upstream, proxy) = impatient();
    let (_keep, never) = bounded(0);
    let head = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 999\r\n\r\n{";
    upstream.script(vec![Step::Send(head.into()), Step::Wait(never)]);
    let late = "the upstream sent nothing for REQUEST_TIMEOUT in the middle of its response";
    proxy.ask("/api/chat", chat_whole("Hi")).assert_error(504, late);
    assert!(!is_stream(&upstream.request()) && upstream.is_idle() && proxy.sleeps.is_empty());
    // It ran into the timeout, so the next one is a stream; its silence is bounded, too.
    let (_keep, never) = bounded(0);
    upstream.script(vec![stream_head(), delta("one"), Step::Wait(never)]);
    proxy.ask("/api/chat", chat_whole("Hi")).assert_error(504, late);
    assert!(is_stream(&upstream.request()) && upstream.is_idle() && proxy.sleeps.is_empty());
}

#[test]
fn without_retries_there_is_no_repetition_but_the_next_one_is_a_stream() {
    let (upstream, proxy) = pair_with(|config| {
        config.request_timeout = TIMEOUT;
        config.retry.max_retries = 0;
    });
    let (_keep, silence) = silence();
    upstream.script(silence).script(stream(&["one"]));
    proxy.ask("/api/chat", chat_whole("Hi")).assert_error(504, LATE);
    assert_eq!(proxy.ask("/api/chat", chat_whole("Hi")).json()["message"]["content"], "one");
    assert!(!is_stream(&upstream.request()) && is_stream(&upstream.request()));
    assert!(upstream.is_idle() && proxy.sleeps.is_empty());
}

#[test]
fn an_answer_of_more_than_a_third_of_the_timeout_is_long() {
    let (upstream, proxy) = pair_with(|config| config.request_timeout = 3 * TIMEOUT);
    // If the machine is so slow that this runs into the timeout, the stream is its repetition.
    upstream.script(vec![Step::Pause(TIMEOUT + Duration::from_millis(50)), answer("one")]);
    upstream.script(stream(&["one"])).script(stream(&["one"]));
    for _ in 0..2 {
        assert_eq!(proxy.ask("/api/chat", chat_whole("Hi")).json()["message"]["content"], "one");
    }
    assert!(!is_stream(&upstream.request()) && is_stream(&upstream.request()));
}

#[test]
fn a_collected_answer_has_all_that_the_stream_had() {
    let (upstream, proxy) = impatient();
    make_slow(&upstream, &proxy);
    let call = |index: u32, more: &str| {
        frame(&format!(
            "data: {{\"choices\":[{{\"index\":0,\"delta\":{{\"tool_calls\":[{{\"index\":{index},{more}}}]}}}}]}}\n\n"
        ))
    };
    let thought =
        "data: {\"choices\":[{\"index\":0,\"delta\":{\"reasoning_content\":\"hm\"}}]}\n\n";
    upstream.script(ended(vec![
        stream_head(),
        frame(thought),
        delta("text"),
        call(0, r#""id":"a","function":{"name":"f","arguments":"{\"x\""}"#),
        call(0, r#""function":{"arguments":":1}"}"#),
        call(1, r#""id":"b","function":{"name":"g","arguments":"{}"}"#),
    ]));
    let told = proxy.ask("/api/chat", chat_whole("Hi")).json();
    assert_eq!(told["message"]["thinking"], "hm");
    assert_eq!(told["message"]["content"], "text");
    let calls = told["message"]["tool_calls"].as_array().expect("calls");
    assert_eq!(calls[0]["function"]["arguments"], json!({"x": 1}));
    assert_eq!(calls[1]["function"]["name"], "g");
    assert_eq!((&told["prompt_eval_count"], &told["eval_count"]), (&5.into(), &2.into()));
}

#[test]
fn a_server_that_rejects_streams_is_asked_for_whole_answers() {
    for words in [
        r#"{"error":{"message":"Streaming is not available on this deployment.","type":"invalid_request_error"}}"#,
        r#"{"error":{"message":"Your organization must be verified.","param":"stream","code":"unsupported_value"}}"#,
        r#"{"detail":"only application/json replies are produced here"}"#,
    ] {
        let (upstream, proxy) = impatient();
        make_slow(&upstream, &proxy);
        upstream.script(vec![status(400, &[], words)]).script(vec![answer("whole")]);
        upstream.script(vec![answer("again")]);
        let text = || proxy.ask("/api/chat", chat_whole("Hi")).json()["message"]["content"].clone();
        assert_eq!(text(), "whole", "{words}");
        assert!(is_stream(&upstream.request()) && !is_stream(&upstream.request()), "{words}");
        assert_eq!(text(), "again");
        assert!(!is_stream(&upstream.request()) && upstream.is_idle(), "remembered: {words}");
        assert!(proxy.sleeps.is_empty());
    }
}

#[test]
fn what_was_wrong_with_something_else_says_nothing_of_streams() {
    let (upstream, proxy) = impatient();
    make_slow(&upstream, &proxy);
    let words = || vec![status(400, &[], r#"{"error":{"message":"flux capacitor misaligned"}}"#)];
    upstream.script(words()).script(words()).script(vec![answer("plain")]);
    upstream.script(stream(&["slow"]));
    let body = json!({"model": "m", "stream": false, "options": {"temperature": 0.5},
        "messages": [{"role": "user", "content": "x"}]});
    for (text, forms) in [("plain", vec![true, false, false]), ("slow", vec![true])] {
        assert_eq!(proxy.post("/api/chat", &body).json()["message"]["content"], text);
        let sent: Vec<bool> = forms.iter().map(|_| is_stream(&upstream.request())).collect();
        assert_eq!(sent, forms, "{text}");
    }
    assert!(upstream.is_idle());
}

#[test]
fn a_client_that_wants_a_stream_gets_the_whole_answer_as_one() {
    for (route, end) in [
        ("/api/chat", "\"done\":true"),
        ("/api/generate", "\"done\":true"),
        ("/v1/messages", "message_stop"),
    ] {
        let (upstream, proxy) = pair();
        let words = r#"{"error":{"message":"Streams are off on this server."}}"#;
        upstream.script(vec![status(400, &[], words)]);
        upstream.script(vec![answer("whole")]).script(vec![answer("again")]);
        let body = json!({"model": "m", "stream": true, "prompt": "x", "max_tokens": 9,
            "messages": [{"role": "user", "content": "x"}]});
        for (text, forms) in [("whole", vec![true, false]), ("again", vec![false])] {
            let told = proxy.post(route, &body);
            assert!(told.body.contains(text) && told.body.contains(end), "{route}: {}", told.body);
            let sent: Vec<bool> = forms.iter().map(|_| is_stream(&upstream.request())).collect();
            assert_eq!(sent, forms, "{route}");
        }
        // Another model may stream.
        upstream.script(stream(&["other"]));
        let told = proxy.post(route, &with(body, &json!({"model": "tagged:8b"})));
        assert!(told.body.contains("other") && is_stream(&upstream.request()), "{}", told.body);
        assert!(upstream.is_idle());
    }
}

#[test]
fn where_streams_are_rejected_a_timeout_is_repeated_once_and_whole() {
    let (upstream, proxy) = impatient();
    let (_keep, first) = silence();
    let (_keep_too, second) = silence();
    let no_streams = r#"{"error":{"message":"stream: not supported"}}"#;
    upstream.script(first).script(vec![status(400, &[], no_streams)]).script(second);
    proxy.ask("/api/chat", chat_whole("Hi")).assert_error(504, LATE);
    let sent: Vec<bool> = (0..3).map(|_| is_stream(&upstream.request())).collect();
    assert_eq!(sent, [false, true, false], "the rejected stream generated nothing");
    assert!(upstream.is_idle());
}

#[test]
fn another_rejection_of_a_collected_stream_is_the_client_s() {
    let (upstream, proxy) = impatient();
    make_slow(&upstream, &proxy);
    let text = "Invalid 'temperature': decimal above maximum value. Expected a value <= 2, but got 3 instead.";
    let refusal = json!({"error": {"message": text, "type": "invalid_request_error",
        "param": "temperature", "code": "decimal_above_max_value"}})
    .to_string();
    upstream.script(vec![status(400, &[], &refusal)]);
    let body = json!({"model": "m", "stream": false, "options": {"temperature": 3},
        "messages": [{"role": "user", "content": "x"}]});
    proxy.post("/api/chat", &body).assert_error(400, text);
    assert!(is_stream(&upstream.request()) && upstream.is_idle());
}

#[test]
fn who_leaves_ends_the_collecting() {
    let (upstream, proxy) = impatient();
    make_slow(&upstream, &proxy);
    let (closed, is_closed) = bounded(1);
    upstream.script(vec![stream_head(), delta("one"), Step::UntilClosed(closed)]);
    let mut client = proxy.client();
    client.post("/api/chat", chat_whole("Hi"));
    assert!(is_stream(&upstream.request()));
    drop(client);
    is_closed.recv_timeout(HANG).expect("the upstream's call is cancelled");
    assert!(upstream.is_idle() && proxy.sleeps.is_empty());
}

#[test]
fn what_is_passed_on_is_asked_for_as_the_client_wants_it_and_once() {
    let (upstream, proxy) = impatient();
    for _ in 0..2 {
        let (_keep, silence) = silence();
        upstream.script(silence);
        let answer = proxy.ask("/v1/chat/completions", chat_whole("Hi"));
        assert_eq!((answer.status(), &answer.json()["error"]["message"]), (504, &LATE.into()));
        assert_eq!(upstream.request().json()["stream"], false);
        assert!(upstream.is_idle() && proxy.sleeps.is_empty());
    }
    // What is slow on a translated route is passed on as it came, too.
    make_slow(&upstream, &proxy);
    upstream.script(vec![answer("whole")]);
    proxy.ask("/v1/chat/completions", chat_whole("Hi"));
    assert_eq!(upstream.request().json()["stream"], false);
}

#[test]
fn embeddings_are_repeated_as_before() {
    let (upstream, proxy) = impatient();
    let (_keep, silence) = silence();
    upstream.script(silence).script(vec![upstream::json(r#"{"data":[{"embedding":[1]}]}"#)]);
    let body = r#"{"model":"text-embed","input":"x"}"#;
    assert_eq!(proxy.ask("/api/embed", body).status(), 200);
    assert_eq!(proxy.sleeps.len(), 1);
}
