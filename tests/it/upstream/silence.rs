//! Silent upstreams: a translated stream begins before the first token and shows that it is alive, one
//! that is passed on gets comments between its events, and silence still ends.

use std::time::Duration;

use crate::support::*;
use crossbeam_channel::Receiver;
use ollama_openai_proxy::config::Config;

const COMPLETIONS: &str = "/v1/chat/completions";
const RESPONSES: &str = "/v1/responses";
const COMMENT: &str = ": keepalive\n\n";

/// Shows silence at once.
fn impatient(config: &mut Config) {
    config.keepalive.start_after = Duration::from_millis(1);
    config.keepalive.event_after = Duration::from_millis(5);
    config.keepalive.comment_after = Duration::from_millis(5);
}

/// A proxy that shows silence at once, in front of an upstream without `/v1/responses`.
fn chat_only() -> (Upstream, Proxy) {
    let (upstream, proxy) = pair_with(impatient);
    upstream.judge(|request| {
        let is_responses = request.path.ends_with("/responses");
        is_responses.then(|| vec![status(404, &[], r#"{"detail":"Not Found"}"#)])
    });
    (upstream, proxy)
}

/// A request for a stream.
fn streamed(route: &str) -> Value {
    match route {
        MESSAGES => request(route, &json!({"stream": true})),
        RESPONSES => json!({"model": "m", "input": "Hi", "stream": true}),
        _ => json!({"model": "m", "stream": true,
            "messages": [{"role": "user", "content": "Hi"}]}),
    }
}

/// The event that means nothing on a translated route.
fn keepalive(route: &str) -> &'static str {
    if route == MESSAGES { "event: ping\n" } else { "event: keepalive\n" }
}

/// Reads frames until one begins with `beginning`.
fn read_until(client: &mut Client, beginning: &str) -> String {
    let frames = std::iter::from_fn(|| client.frame());
    let found = frames.take(5_000).find(|frame| frame.starts_with(beginning));
    found.expect("such a frame")
}

/// Sees another stream be silent for twice the time after which silence is shown.
fn see_silence(upstream: &Upstream, proxy: &Proxy) {
    let (go_on, told) = bounded(0);
    upstream.script(ended(vec![stream_head(), Step::Wait(told)]));
    let mut client = proxy.client();
    client.post(MESSAGES, streamed(MESSAGES).to_string()).head();
    (0..2).for_each(|_| drop(read_until(&mut client, "event: ping\n")));
    drop(go_on);
    client.rest_of_stream();
}

#[test]
fn a_translated_stream_begins_before_the_first_token_and_shows_that_it_is_alive() {
    let (upstream, proxy) = chat_only();
    for (route, first) in
        [(MESSAGES, "event: message_start\n"), (RESPONSES, "event: response.created\n")]
    {
        let (go_on, told) = bounded(0);
        upstream.script(ended(vec![stream_head(), Step::Wait(told), delta("word")]));
        let mut client = proxy.client();
        let head = client.post(route, streamed(route).to_string()).head();
        assert_eq!((head.status, head.header("content-type")), (200, Some("text/event-stream")));
        let begun = client.frame().expect("a frame");
        assert!(begun.starts_with(first), "{begun}");
        (0..3).for_each(|_| drop(read_until(&mut client, keepalive(route))));
        drop(go_on);
        let rest = client.rest_of_stream();
        assert!(rest.contains("word") && !rest.contains(first), "{rest}");
    }
}

#[test]
fn a_compaction_begins_before_the_first_token_and_shows_that_it_is_alive() {
    let (upstream, proxy) = chat_only();
    let (go_on, told) = bounded(0);
    upstream.script(ended(vec![stream_head(), Step::Wait(told), delta("summary")]));
    let input = json!([{"role": "user", "content": "Hi"}, {"type": "compaction_trigger"}]);
    let mut client = proxy.client();
    let body = json!({"model": "m", "stream": true, "input": input});
    client.post(RESPONSES, body.to_string()).head();
    assert!(client.frame().expect("a frame").starts_with("event: response.created\n"));
    (0..2).for_each(|_| drop(read_until(&mut client, keepalive(RESPONSES))));
    drop(go_on);
    assert!(client.rest_of_stream().contains("event: response.completed\n"));
}

#[test]
fn the_events_of_a_stream_with_silence_are_whole_and_in_order() {
    let (upstream, proxy) = chat_only();
    let (go_on, told) = bounded(0);
    upstream.script(ended(vec![stream_head(), delta("one"), Step::Wait(told), delta("two")]));
    let mut client = proxy.client();
    client.post(RESPONSES, streamed(RESPONSES).to_string()).head();
    let mut text = String::new();
    while text.matches("event: keepalive\n").count() < 2 {
        text += &client.frame().expect("a frame");
    }
    drop(go_on);
    text += &client.rest_of_stream();
    let events = named_events(&text);
    for (number, event) in events.iter().enumerate() {
        assert_eq!(event["sequence_number"], number, "{event}");
    }
    assert_eq!(events.last().expect("events")["type"], "response.completed");
}

#[test]
fn a_long_call_that_is_still_being_written_is_no_silence_of_the_stream() {
    let (upstream, proxy) = chat_only();
    for route in [MESSAGES, RESPONSES] {
        let (go_on, told) = bounded(0);
        let fragment = |text: &str| {
            let call = json!({"index": 0, "id": "call_1", "type": "function",
                "function": {"name": "f", "arguments": text}});
            let delta = json!({"choices": [{"index": 0, "delta": {"tool_calls": [call]}}]});
            format!("data: {delta}\n\n")
        };
        let Step::Send(space) = frame(&fragment(" ")) else { unreachable!("it is sent") };
        let alive = Step::WaitAlive(space, Duration::from_millis(1), told);
        let steps = vec![stream_head(), frame(&fragment("{\"a\":")), alive, frame(&fragment("1}"))];
        upstream.script(ended(steps));
        let mut client = proxy.client();
        client.post(route, streamed(route).to_string()).head();
        (0..2).for_each(|_| drop(read_until(&mut client, keepalive(route))));
        drop(go_on);
        let rest = client.rest_of_stream();
        assert!(rest.contains("\\\"a\\\":"), "{rest}");
    }
}

#[test]
fn a_client_of_ollama_gets_nothing_before_the_first_token() {
    let (upstream, proxy) = chat_only();
    let (go_on, told) = bounded(0);
    upstream.script(ended(vec![stream_head(), Step::Wait(told), delta("word")]));
    let mut client = proxy.client();
    client.post(CHAT, chat("Hi"));
    upstream.request();
    see_silence(&upstream, &proxy);
    drop(go_on);
    let answer = client.answer();
    assert_eq!(answer.lines()[0]["message"]["content"], "word");
    assert_eq!(answer.lines().len(), 2);
}

#[test]
fn an_error_that_comes_with_the_head_has_a_status() {
    let (upstream, proxy) = pair_with(|config| {
        impatient(config);
        config.keepalive.start_after = HANG;
        config.retry.max_retries = 0;
    });
    for error in [
        "data: {\"error\":{\"message\":\"slow down\",\"code\":429}}\n\n",
        "event: error\ndata: {\"message\":\"slow down\",\"code\":429}\n\n",
        ": a comment\n\ndata: {\"error\":{\"message\":\"slow down\",\"code\":429}}\n\n",
    ] {
        upstream.script(vec![stream_head(), frame(error), last_frame()]);
        let answer = proxy.post(MESSAGES, &streamed(MESSAGES));
        assert_eq!(answer.status(), 429, "{}", answer.body);
        assert!(answer.body.contains("slow down"), "{}", answer.body);
    }
}

#[test]
fn a_stream_that_fails_after_it_began_ends_with_a_failure_and_is_counted() {
    let (upstream, proxy) = chat_only();
    for route in [MESSAGES, RESPONSES] {
        let (go_on, told) = bounded(0);
        upstream.script(vec![stream_head(), Step::Wait(told), Step::Close]);
        let mut client = proxy.client();
        client.post(route, streamed(route).to_string()).head();
        read_until(&mut client, keepalive(route));
        drop(go_on);
        let rest = client.rest_of_stream();
        assert!(rest.contains("before its response was complete"), "{route}: {rest}");
        // The connection serves on.
        assert_eq!(client.get("/api/version").answer().status(), 200);
    }
    let metrics = proxy.fetch("/metrics").body;
    let failures = metrics.lines().filter(|line| line.contains("upstream_closed"));
    assert!(failures.count() > 0, "{metrics}");
}

/// The body of a stream that is passed on, without comments, and how many there were.
fn without_comments(body: &str) -> (String, usize) {
    (body.replace(COMMENT, ""), body.matches(COMMENT).count())
}

#[test]
fn a_stream_that_is_passed_on_gets_comments_between_its_events() {
    let (upstream, proxy) = pair_with(impatient);
    for (route, body) in [
        (COMPLETIONS, streamed(COMPLETIONS)),
        ("/v1/completions", json!({"model": "m", "prompt": "Hi", "stream": true})),
    ] {
        let (go_on, told): (_, Receiver<()>) = bounded(0);
        let steps = |wait: fn(&Receiver<()>) -> Option<Step>| {
            let mut steps = vec![stream_head()];
            steps.extend(wait(&told));
            steps.push(delta("one"));
            steps.extend(wait(&told));
            ended(steps)
        };
        upstream.script(steps(|told| Some(Step::Wait(told.clone()))));
        let mut client = proxy.client();
        let head = client.post(route, body.to_string()).head();
        assert_eq!(head.header("content-type"), Some("text/event-stream"), "{route}");
        let mut text = String::new();
        for comments in [2, 4] {
            while without_comments(&text).1 < comments {
                text += &client.frame().expect("a frame");
            }
            go_on.send(()).expect("the upstream waits");
        }
        text += &client.rest_of_stream();
        upstream.script(steps(|_| None));
        let expected = proxy.post(route, &body).body;
        assert_eq!(without_comments(&text).0, without_comments(&expected).0, "{route}");
    }
}

#[test]
fn a_comment_never_comes_inside_an_event_and_never_in_another_content_type() {
    let half = r#"data: {"choices":[{"index":0,"del"#;
    let rest = "ta\":{\"content\":\"one\"}}]}\n\n";
    let head = |kind: &str| {
        let head = format!("HTTP/1.1 200 X\r\nContent-Type: {kind}\r\n");
        Step::Send(format!("{head}Transfer-Encoding: chunked\r\n\r\n").into_bytes())
    };
    let events = "text/event-stream";
    for (kind, before, after) in [
        (events, half.to_owned(), rest.to_owned()),
        (events, format!("{half}{}", &rest[..rest.len() - 1]), "\n".to_owned()),
        (events, "data: {\"a\":1}\n".to_owned(), "data: 2\n\n".to_owned()),
        ("application/json", "{\"choices\":[]\n\n".to_owned(), "}".to_owned()),
        ("application/x-ndjson", "{}\n\n".to_owned(), "{}\n".to_owned()),
    ] {
        let (upstream, proxy) = pair_with(impatient);
        let (go_on, told) = bounded(0);
        let steps = vec![
            head(kind),
            frame(&before),
            Step::Wait(told),
            frame(&format!("{after}data: [DONE]\n\n")),
            last_frame(),
        ];
        upstream.script(steps);
        let mut client = proxy.client();
        client.post(COMPLETIONS, streamed(COMPLETIONS).to_string()).head();
        assert_eq!(client.frame().as_deref(), Some(before.as_str()), "{kind}");
        see_silence(&upstream, &proxy);
        drop(go_on);
        let text = client.rest_of_stream();
        assert!(text.starts_with(&format!("{after}data: [DONE]\n\n")), "{kind}: {text:?}");
    }
}

#[test]
fn other_routes_that_are_passed_on_get_no_comment() {
    let (upstream, proxy) = pair_with(impatient);
    let body = json!({"model": "m", "input": "Hi", "stream": true});
    for route in [RESPONSES, "/v1/audio/speech", "/v1/something/else"] {
        let (go_on, told) = bounded(0);
        upstream.script(ended(vec![stream_head(), delta("one"), Step::Wait(told)]));
        let mut client = proxy.client();
        client.post(route, body.to_string()).head();
        let mut text = client.frame().expect("a frame");
        see_silence(&upstream, &proxy);
        drop(go_on);
        text += &client.rest_of_stream();
        assert_eq!(without_comments(&text).1, 0, "{route}: {text}");
    }
}

#[test]
fn silence_that_is_shown_still_ends_the_stream() {
    for route in [MESSAGES, RESPONSES, COMPLETIONS] {
        let (upstream, proxy) = pair_with(|config| {
            impatient(config);
            config.request_timeout = Duration::from_secs(1);
        });
        if route == RESPONSES {
            upstream.script(vec![status(404, &[], r#"{"detail":"Not Found"}"#)]);
        }
        let (closed, is_closed) = bounded(1);
        upstream.script(vec![stream_head(), delta("one"), Step::UntilClosed(closed)]);
        let answer = proxy.post(route, &streamed(route));
        assert_eq!(answer.status(), 200, "{route}");
        assert!(answer.body.contains("error"), "{route}: {}", answer.body);
        is_closed.recv_timeout(HANG).expect("the upstream's call is ended");
    }
}
