//! Streams: delivered without delay, in order and one line per chunk, and marked as broken when the
//! upstream's stream breaks.

use super::tools::{calls, chat_lines, tools};
use crate::support::*;

fn ask(steps: Vec<Step>) -> Answer {
    let (upstream, proxy) = pair();
    upstream.script(steps);
    proxy.ask("/api/chat", chat("Hi"))
}

fn texts(lines: &[Value]) -> Vec<&str> {
    lines.iter().filter_map(|line| line["message"]["content"].as_str()).collect()
}

#[test]
fn the_first_line_arrives_before_the_upstream_sends_the_second() {
    let (upstream, proxy) = pair();
    let (go_on, steps) = upstream::halting();
    upstream.script(steps);
    let mut client = proxy.client();
    let head = client.post("/api/chat", chat("Hi")).head();
    assert_eq!(head.status, 200);
    assert_eq!(head.header("content-type"), Some("application/x-ndjson"));
    let first = client.frame().expect("a line");
    assert!(first.contains("\"content\":\"one\""), "{first}");
    assert!(first.ends_with("\"done\":false}\n"), "{first}");
    drop(go_on);
    assert!(client.frame().expect("a line").contains("\"content\":\"two\""));
    assert!(client.frame().expect("a line").contains("\"done\":true"));
    assert_eq!(client.frame(), None);
}

#[test]
fn a_line_is_not_held_back_by_half_an_event_behind_it() {
    let (upstream, proxy) = pair();
    let (go_on, told) = bounded(0);
    let whole = text_event("one");
    upstream.script(ended(vec![
        stream_head(),
        frame(&format!("{whole}\n\n: comment\n\ndata: {{\"choices\":[{{\"ind")),
        Step::Wait(told),
        frame("ex\":0,\"delta\":{\"content\":\"two\"}}]}\n\n"),
    ]));
    let mut client = proxy.client();
    client.post("/api/chat", chat("Hi")).head();
    assert!(client.frame().expect("a line").contains("\"content\":\"one\""));
    drop(go_on);
    assert!(client.frame().expect("a line").contains("\"content\":\"two\""));
}

#[test]
fn the_done_line_comes_with_the_terminal_event_not_with_the_end_of_the_connection() {
    let (upstream, proxy) = pair();
    let (go_on, told) = bounded(0);
    let mut steps = vec![stream_head(), delta("one")];
    steps.extend(ending());
    steps.pop(); // The last frame stays out.
    steps.push(Step::Wait(told));
    upstream.script(steps);
    let answer = proxy.ask("/api/chat", chat("Hi"));
    assert_eq!(answer.lines().len(), 2);
    drop(go_on);
}

#[test]
fn one_line_is_one_frame_also_when_several_events_came_at_once() {
    let (upstream, proxy) = pair();
    let burst = ["a", "b", "c"].map(text_event).concat();
    upstream.script(ended(vec![stream_head(), frame(&burst)]));
    let mut client = proxy.client();
    client.post("/api/chat", chat("Hi")).head();
    for text in ["a", "b", "c"] {
        let line = client.frame().expect("a line");
        assert!(line.contains(&format!("\"content\":\"{text}\"")), "{line}");
        assert!(line.ends_with("}\n") && line.matches('\n').count() == 1, "{line}");
    }
}

/// A system call for each token would cost more than all else together.
#[cfg(target_os = "linux")]
#[test]
fn a_burst_goes_out_in_one_write_and_the_first_one_with_the_head() {
    let bench = Bench::new();
    for route in [CHAT, GENERATE, "/v1/chat/completions", MESSAGES] {
        // Each text is longer than half the buffer of tiny_http, which joins shorter writes.
        let texts = ["a", "b", "c"].map(|letter| letter.repeat(600));
        let burst = || frame(&texts.each_ref().map(|text| text_event(text)).concat());
        let (go_on, told) = bounded(0);
        let (first, second) = (Step::Wait(told.clone()), Step::Wait(told));
        bench.upstream.script(ended(vec![stream_head(), burst(), first, burst(), second]));
        let mut client = bench.proxy.client();
        let body = request(
            route,
            &json!({"stream": true, "messages": [{"role": "user", "content": "Hi"}]}),
        );
        client.post(route, body.to_string()).head();
        for writes in [1, 2] {
            while !client.frame().expect("a frame").contains(&texts[2]) {}
            assert_eq!(client.segments_received(), writes, "{route}");
            go_on.send(()).expect("the upstream waits");
        }
    }
}

#[test]
fn the_final_line_has_all_six_counters_and_an_empty_text() {
    let lines = ask(upstream::stream(&["Hel", "lo"])).lines();
    assert_eq!(texts(&lines), ["Hel", "lo", ""]);
    let last = lines.last().expect("lines");
    assert_eq!((&last["done"], &last["done_reason"]), (&Value::Bool(true), &Value::from("stop")));
    assert_eq!((&last["prompt_eval_count"], &last["eval_count"]), (&5.into(), &2.into()));
    for name in ["total_duration", "load_duration", "prompt_eval_duration", "eval_duration"] {
        assert!(last[name].as_u64().expect(name) >= 1);
    }
    assert!(
        lines[..2].iter().all(|line| line["done"] == false && line.get("done_reason").is_none())
    );
}

#[test]
fn text_that_came_together_with_an_error_is_not_lost() {
    let both = text_event("one") + "data: {\"error\":{\"message\":\"out of memory\"}}\n\n";
    let lines = ask(vec![stream_head(), frame(&both), last_frame()]).lines();
    assert_eq!(texts(&lines), ["one"]);
    assert_eq!(lines[1], serde_json::json!({"error": "out of memory"}));
}

#[test]
fn an_error_before_the_first_line_has_a_status() {
    let check = |event: &str, status: u16, message: &str| {
        let answer = ask(vec![stream_head(), frame(event), last_frame()]);
        answer.assert_error(status, message);
        let kind = answer.head.header("content-type");
        assert_eq!(kind, Some("application/json; charset=utf-8"));
    };
    check("data: {\"error\":{\"message\":\"slow down\",\"code\":429}}\n\n", 429, "slow down");
    check("event: error\ndata: {\"message\":\"no\",\"code\":400}\n\n", 400, "no");
    check("error: {\"code\":503,\"message\":\"loading\"}\n\n", 503, "loading");
    check("", 502, "invalid response from the upstream: an empty stream");
}

#[test]
fn an_answer_without_done_marker_is_complete_when_its_reason_was_seen() {
    let finish =
        frame("data: {\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"length\"}]}\n\n");
    for end in [last_frame(), Step::Close, Step::Reset] {
        let finish = match &finish {
            Step::Send(bytes) => Step::Send(bytes.clone()),
            _ => unreachable!("a frame is sent"),
        };
        let lines = ask(vec![stream_head(), delta("one"), finish, end]).lines();
        let last = lines.last().expect("lines");
        assert_eq!((&last["done"], &last["done_reason"]), (&true.into(), &"length".into()));
    }
}

#[test]
fn upstreams_that_stream_unasked_or_not_when_asked_are_understood() {
    let (upstream, proxy) = pair();
    upstream.script(vec![upstream::answer("whole")]).script(upstream::stream(&["pie", "ces"]));
    let mut client = proxy.client();
    let lines = client.post("/api/chat", chat("Hi")).answer().lines();
    assert_eq!(texts(&lines), ["whole", ""]);
    let answer = client.post("/api/chat", chat_whole("Hi")).answer().json();
    assert_eq!(answer["message"]["content"], "pieces");
    assert_eq!(answer["eval_count"], 2);
}

#[test]
fn a_stream_without_a_content_type_is_still_a_stream() {
    let (upstream, proxy) = pair();
    let (go_on, told) = bounded(0);
    let head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
    upstream.script(ended(vec![Step::Send(head.into()), delta("one"), Step::Wait(told)]));
    let mut client = proxy.client();
    client.post("/api/chat", chat("Hi")).head();
    assert!(client.frame().expect("a line").contains("\"content\":\"one\""));
    drop(go_on);
}

#[test]
fn lines_that_clients_would_split_are_escaped() {
    let answer = ask(upstream::stream(&["a\u{2028}b\u{2029}c\u{85}d"]));
    assert!(answer.body.contains("a\\u2028b\\u2029c\\u0085d"), "{}", answer.body);
    assert!(!answer.body.contains(['\u{2028}', '\u{2029}', '\u{85}']), "{:?}", answer.body);
    assert_eq!(texts(&answer.lines())[0], "a\u{2028}b\u{2029}c\u{85}d");
}

#[test]
fn connections_serve_again_after_a_stream_on_both_sides() {
    // With two workers the second could send before the first has returned its connection to the pool.
    let (upstream, proxy) = pair_with(|config| config.workers = 1);
    let mut client = proxy.client();
    for _ in 0..5 {
        upstream.script(upstream::stream(&["Hi"]));
        assert_eq!(client.post("/api/chat", chat("Hi")).answer().lines().len(), 2);
        upstream.request();
    }
    assert_eq!(upstream.connections(), 1);
}

#[test]
fn a_long_stream_comes_through_whole() {
    let words: Vec<String> = (0..2000).map(|number| format!("word {number} ")).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let lines = ask(upstream::stream(&words)).lines();
    assert_eq!(texts(&lines).concat(), words.concat());
}

#[test]
fn old_clients_get_their_stream_until_the_connection_closes() {
    let (upstream, proxy) = pair();
    upstream.script(upstream::stream(&["one", "two"]));
    let body = chat("Hi");
    let request =
        format!("POST /api/chat HTTP/1.0\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    let answer = proxy.client().send(request).answer();
    assert_eq!(answer.head.header("transfer-encoding"), None);
    assert_eq!(answer.head.header("connection"), Some("close"));
    assert_eq!(texts(&answer.lines()), ["one", "two", ""]);
}

#[test]
fn old_clients_that_keep_the_connection_get_a_length() {
    let (upstream, proxy) = pair();
    upstream.script(upstream::stream(&["one"])).script(upstream::stream(&["two"]));
    let mut client = proxy.client();
    for text in ["one", "two"] {
        let body = chat("Hi");
        let length = body.len();
        let head = format!(
            "POST /api/chat HTTP/1.0\r\nConnection: keep-alive\r\nContent-Length: {length}\r\n\r\n"
        );
        let answer = client.send(head + &body).answer();
        assert!(answer.head.header("content-length").is_some());
        assert_eq!(texts(&answer.lines()), [text, ""]);
    }
}

#[test]
fn a_huge_event_becomes_lines_that_every_client_can_read() {
    // Each character is six characters of JSON.
    let text = "\u{1}".repeat(3 << 20);
    let answer = ask(upstream::stream(&[&text]));
    assert!(answer.body.lines().count() > 3);
    assert!(answer.body.lines().all(|line| line.len() < 8_000_000));
    assert_eq!(texts(&answer.lines()).concat(), text);
}

#[test]
fn every_line_is_a_frame_of_its_own() {
    let (upstream, proxy) = pair();
    for path in ["/api/chat", "/api/generate"] {
        upstream.script(stream(&["one", " two", " three"]));
        let body = json!({"model": "m", "prompt": "x",
                          "messages": [{"role": "user", "content": "x"}]});
        let mut client = proxy.client();
        client.post(path, body.to_string()).head();
        let frames: Vec<String> = std::iter::from_fn(|| client.frame()).collect();
        assert_eq!(frames.len(), 4, "{frames:?}");
        for frame in frames {
            assert_eq!(frame.find('\n'), Some(frame.len() - 1), "{frame:?}");
            assert!(serde_json::from_str::<Value>(&frame).is_ok(), "{frame:?}");
        }
    }
}

#[test]
fn no_line_is_blank_and_none_has_an_error_key() {
    for steps in [stream(&["Hi", ""]), calls()] {
        let upstream = Upstream::start();
        upstream.script(steps);
        let body = json!({"model": "m", "messages": [{"role": "user", "content": "x"}],
                          "tools": tools()});
        let answer = Proxy::start(&upstream).post("/api/chat", &body);
        assert!(answer.body.ends_with('\n') && !answer.body.contains("\n\n"), "{:?}", answer.body);
        assert!(answer.lines().iter().all(|line| line.get("error").is_none()));
    }
}

#[test]
fn content_is_always_a_string() {
    let thinking = deltas(&[json!({"reasoning_content": "Hm."}), json!({"content": "Hi"})]);
    for steps in [stream(&["Hi"]), calls(), thinking, stream(&[])] {
        for line in chat_lines(steps) {
            assert!(line["message"]["content"].is_string(), "{line}");
        }
    }
    let upstream = Upstream::start();
    upstream.script(vec![upstream::json(
        r#"{"choices":[{"message":{"role":"assistant","content":null,"tool_calls":[{"id":"c","type":"function","function":{"name":"f","arguments":"{}"}}]},"finish_reason":"tool_calls"}]}"#,
    )]);
    let answer = Proxy::start(&upstream).client().post("/api/chat", chat_whole("x")).answer();
    assert_eq!(answer.json()["message"]["content"], "");
}

#[test]
fn answers_are_streams_unless_stream_is_false() {
    let bench = Bench::new();
    for route in [CHAT, GENERATE, "/api/pull", "/api/push", "/api/create"] {
        for (stream, kind) in [
            (None, "application/x-ndjson"),
            (Some(json!(null)), "application/x-ndjson"),
            (Some(json!(true)), "application/x-ndjson"),
            (Some(json!(false)), "application/json"),
        ] {
            let mut body = json!({"model": "m", "prompt": "x", "from": "m",
                "messages": [{"role": "user", "content": "Hi"}]});
            if let Some(stream) = &stream {
                body["stream"] = stream.clone();
            }
            if TEXT.contains(&route) {
                bench.upstream.script(vec![upstream::answer("ok")]);
            }
            let answer = bench.post(route, &body);
            let found = answer.head.header("content-type").expect("a type");
            assert_eq!(found.split(';').next(), Some(kind), "{route} {stream:?}");
            let is_stream = answer.body.ends_with('\n');
            assert_eq!(is_stream, kind == "application/x-ndjson", "{route} {stream:?}");
        }
        let answer = bench.post(route, &json!({"model": "m", "stream": "no"}));
        assert_eq!(answer.status(), 400, "{route}: {}", answer.body);
        assert!(answer.error().ends_with("Request.stream of type bool"), "{}", answer.body);
    }
}

/// The head is not sent before the first content, because an error before it still gets a status.
#[test]
fn a_stream_s_head_waits_for_its_first_line() {
    let bench = Bench::new();
    for route in TEXT {
        let role =
            json!({"choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}}]});
        bench.upstream.script(vec![
            stream_head(),
            frame(&format!("data: {role}\n\n")),
            frame("data: {\"error\":{\"message\":\"too late\",\"code\":429}}\n\n"),
            last_frame(),
        ]);
        let answer = bench.ask(route, &json!({}));
        assert_eq!((answer.status(), answer.error().as_str()), (429, "too late"), "{route}");
        let kind = answer.head.header("content-type");
        assert_eq!(kind, Some("application/json; charset=utf-8"), "{route}");
        bench.upstream.request();
    }
}

#[test]
fn an_error_after_the_first_line_is_one_more_line_and_the_last() {
    let bench = Bench::new();
    let error = "data: {\"error\":{\"message\":\"out of <memory>\"}}\n\n";
    let early = format!("{{\"error\":\"{CUT_SHORT}\"}}\n");
    for route in TEXT {
        // The regular end after the error is ignored.
        let failed = std::iter::once(frame(error)).chain(ending()).collect();
        for (end, expected) in [
            (failed, "{\"error\":\"out of \\u003cmemory\\u003e\"}\n"),
            (vec![last_frame()], early.as_str()),
            (vec![Step::Close], &early),
        ] {
            let steps = [stream_head(), delta("One")].into_iter().chain(end).collect();
            let answer = bench.played(route, &json!({}), steps);
            let (first, rest) = answer.body.split_once('\n').expect("two lines");
            assert!(first.ends_with("\"done\":false}"), "{route}: {first}");
            assert_eq!(rest, expected, "{route}");
        }
    }
}
