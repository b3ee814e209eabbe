//! Upstream streams in all their variants: line ends, cuts, usage, reasoning, tool calls, errors.

use crate::support::upstream::json as whole;
use crate::support::*;

const FINISH: &str = r#"{"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}"#;

/// One frame of bytes, which need not be text.
fn piece(bytes: impl AsRef<[u8]>) -> Step {
    let bytes = bytes.as_ref();
    Step::Send([format!("{:x}\r\n", bytes.len()).as_bytes(), bytes, b"\r\n"].concat())
}

/// A stream of this body.
fn body(text: impl AsRef<[u8]>) -> Vec<Step> {
    vec![stream_head(), piece(text), last_frame()]
}

fn event(text: &str) -> String {
    json!({"choices": [{"index": 0, "delta": {"content": text}}]}).to_string()
}

/// What a client gets for what the upstream plays, of any status.
fn answered(steps: Vec<Step>) -> Answer {
    let bench = Bench::new();
    bench.upstream.script(steps);
    bench.ask(CHAT, &json!({}))
}

/// The texts of the lines before the last one, which must be the end of a complete answer.
fn texts(answer: &Answer) -> Vec<String> {
    let lines = answer.lines();
    let (last, before) = lines.split_last().expect("lines");
    assert_eq!(last["done"], true, "{}", answer.body);
    let text = |line: &Value| line["message"]["content"].as_str().expect("a text").to_owned();
    before.iter().map(text).collect()
}

fn check_body(text: impl AsRef<[u8]>, expected: &[&str]) {
    let text = text.as_ref();
    let answer = answered(body(text));
    assert_eq!(texts(&answer), expected, "{}", String::from_utf8_lossy(text));
}

/// The last line of a complete stream of these chunks.
fn last(list: &[Value]) -> Value {
    let answer = answered(chunks(list));
    let line = answer.lines().pop().expect("lines");
    assert_eq!(line["done"], true, "{}", answer.body);
    line
}

#[test]
fn every_line_end_is_understood() {
    for end in ["\n", "\r", "\r\n"] {
        let events = [event("é"), event("b"), FINISH.to_owned(), "[DONE]".to_owned()];
        let text: String = events.iter().map(|it| format!("data: {it}{end}{end}")).collect();
        check_body(text, &["é", "b"]);
    }
}

#[test]
fn a_cut_within_a_line_end_or_a_character_changes_nothing() {
    let first = format!("data: {}\r\n\r\n", event("one"));
    let rest = format!("data: {}\r\n\r\ndata: {FINISH}\r\n\r\n", event("😀é"));
    let stream = first.clone() + &rest;
    let face = stream.find('😀').expect("a face");
    let accent = stream.find('é').expect("an accent");
    // The first line of the response shows that the bytes before the cut have been read.
    for at in [first.len() - 1, face + 1, face + 2, face + 3, accent + 1, stream.len() - 3] {
        let (upstream, proxy) = pair();
        let (go_on, told) = bounded(0);
        let (before, behind) = stream.as_bytes().split_at(at);
        let steps =
            vec![stream_head(), piece(before), Step::Wait(told), piece(behind), last_frame()];
        upstream.script(steps);
        let mut client = proxy.client();
        client.post(CHAT, chat("Hi")).head();
        assert!(client.frame().expect("a line").contains(r#""content":"one""#), "{at}");
        drop(go_on);
        assert!(client.frame().expect("a line").contains(r#""content":"😀é""#), "{at}");
        assert!(client.frame().expect("a line").contains(r#""done":true"#), "{at}");
    }
}

#[test]
fn blanks_marks_comments_and_other_fields_mean_nothing() {
    let (a, b) = (event("a"), event("b"));
    check_body(format!("data:{a}\n\ndata:{b}\n\ndata:{FINISH}\n\n"), &["a", "b"]);
    check_body(format!("\u{feff}data: {a}\n\ndata: {FINISH}\n\n"), &["a"]);
    let comments = ": OPENROUTER PROCESSING\n\n:\n\n: ping\n";
    check_body(format!("{comments}data: {a}\n:\n\n{comments}data: {FINISH}\n\n"), &["a"]);
    let fields = "event: message\nid: 1\nretry: 3000\nother: x\n";
    check_body(format!("{fields}data: {a}\n\n{fields}data: {FINISH}\n\n"), &["a"]);
    check_body(format!("{a}\n{b}\n{FINISH}\n"), &["a", "b"]);
}

#[test]
fn events_of_two_lines_of_5_megabytes_and_without_an_end_are_whole() {
    let two = r#"data: {"choices":[{"index":0,
data: "delta":{"content":"a"}}]}"#;
    check_body(format!("{two}\n\ndata: {FINISH}\n\n"), &["a"]);
    check_body(format!("data: {}\n\ndata: {FINISH}", event("a")), &["a"]);
    check_body(format!("data: {}\n\ndata: {FINISH}\n", event("a")), &["a"]);
    let large = "x".repeat(5 << 20);
    let answer = answered(body(format!("data: {}\n\ndata: {FINISH}\n\n", event(&large))));
    assert_eq!(texts(&answer).concat(), large);
}

#[test]
fn counts_are_found_wherever_they_are() {
    let text = json!({"choices": [{"index": 0, "delta": {"content": "a"}}]});
    let finish = json!({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]});
    let counts = |answer: u64| json!({"prompt_tokens": 9, "completion_tokens": answer});
    let with = |chunk: &Value, usage: Value| {
        let mut chunk = chunk.clone();
        chunk["usage"] = usage;
        chunk
    };
    let apart = json!({"choices": [], "usage": counts(3)});
    let groq = json!({"choices": [], "x_groq": {"usage": counts(3)}});
    for (name, list) in [
        ("extra", vec![with(&text, Value::Null), with(&finish, Value::Null), apart]),
        ("finish", vec![text.clone(), with(&finish, counts(3))]),
        ("every", vec![with(&text, counts(1)), with(&finish, counts(3))]),
        ("groq", vec![text.clone(), finish.clone(), groq]),
    ] {
        // Counts of the bench's own ending must not cover them.
        let mut steps = vec![stream_head()];
        steps.extend(list.iter().map(|chunk| piece(format!("data: {chunk}\n\n"))));
        steps.extend([piece("data: [DONE]\n\n"), last_frame()]);
        let line = answered(steps).lines().pop().expect("lines");
        let found = (&line["done"], &line["prompt_eval_count"], &line["eval_count"]);
        assert_eq!(found, (&json!(true), &json!(9), &json!(3)), "{name}");
    }
    let line = answered(body(format!("data: {text}\n\ndata: {finish}\n\n"))).lines().pop();
    let line = line.expect("lines");
    assert_eq!((&line["done"], line["eval_count"].as_u64().unwrap_or(0)), (&json!(true), 0));
    assert!(line["eval_duration"].as_u64().expect("a duration") >= 1);
}

#[test]
fn the_last_counts_win() {
    let counted = |count: u64| json!({"choices": [], "usage": {"prompt_tokens": count, "completion_tokens": count}});
    // The ending adds its own: 5 and 2.
    let line = last(&[counted(70), counted(80)]);
    assert_eq!((&line["prompt_eval_count"], &line["eval_count"]), (&json!(5), &json!(2)));
}

#[test]
fn chunks_without_choices_are_no_end_and_no_line() {
    let azure = r#"{"id":"","model":"","created":0,"choices":[],"prompt_filter_results":[{"prompt_index":0}]}"#;
    let filter = r#"{"choices":[{"index":0,"content_filter_results":{},"finish_reason":null}]}"#;
    let a = event("a");
    check_body(
        format!("data: {azure}\n\ndata: {a}\n\ndata: {filter}\n\ndata: {FINISH}\n\n"),
        &["a"],
    );
    let timings = r#"{"choices":[],"timings":{"cache_n":3,"prompt_n":4,"prompt_ms":1.5,"predicted_n":5,"predicted_ms":2.5}}"#;
    let steps = body(format!("data: {a}\n\ndata: {FINISH}\n\ndata: {timings}\n\ndata: [DONE]\n\n"));
    let line = answered(steps).lines().pop().expect("lines");
    for (name, expected) in [
        ("prompt_eval_count", 7),
        ("prompt_eval_duration", 1_500_000),
        ("eval_count", 5),
        ("eval_duration", 2_500_000),
    ] {
        assert_eq!(line[name], expected, "{name}");
    }
}

#[test]
fn content_may_be_anything() {
    for delta in [
        json!({"content": null}),
        json!({"content": ""}),
        json!({"role": "assistant", "content": "", "reasoning_content": null, "tool_calls": null}),
        json!({}),
        json!(null),
    ] {
        let odd = json!({"choices": [{"index": 0, "delta": delta, "finish_reason": null}]});
        let text = format!("data: {odd}\n\ndata: {}\n\ndata: {FINISH}\n\n", event("a"));
        check_body(text, &["a"]);
        check_body(format!("data: {odd}\n\ndata: {FINISH}\n\n"), &[]);
    }
    let parts = json!({"choices": [{"index": 0, "delta": {"content": [
        {"type": "text", "text": "a"}, {"type": "odd"}, {"type": "text", "text": "b"}]}}]});
    check_body(format!("data: {parts}\n\ndata: {FINISH}\n\n"), &["ab"]);
    check_body(format!("data: {{\"choices\":[{{\"index\":0}}]}}\n\ndata: {FINISH}\n\n"), &[]);
}

#[test]
fn reasoning_is_shown_once_under_whichever_name_it_comes() {
    let deltas = |think: Value, deltas: &[Value]| {
        let list = deltas.iter().map(|it| json!({"choices": [{"index": 0, "delta": it}]}));
        let bench = Bench::new();
        let steps = chunks(&list.collect::<Vec<_>>());
        let lines = bench.played(CHAT, &json!({"think": think}), steps).lines();
        let join = |name: &str| {
            let texts = lines.iter().filter_map(|line| line["message"][name].as_str());
            texts.collect::<String>()
        };
        (join("thinking"), join("content"))
    };
    let yes = json!({"content": "Yes"});
    let hm = json!([{"type": "reasoning.text", "text": "hm"}]);
    let tags = ["<thi", "nk>\nh", "m\n</th", "ink>", "\n\n\nYes"].map(|it| json!({"content": it}));
    for (name, reasoning) in [
        ("first", vec![json!({"reasoning_content": "hm"}), yes.clone()]),
        ("second", vec![json!({"reasoning": "hm"}), yes.clone()]),
        ("both", vec![json!({"reasoning_content": "hm", "reasoning": "hm"}), yes.clone()]),
        ("third", vec![json!({"reasoning_details": hm}), yes.clone()]),
        ("all", vec![json!({"reasoning": "hm", "reasoning_details": hm}), yes]),
        ("tags", tags.to_vec()),
    ] {
        let (thinking, content) = deltas(Value::Null, &reasoning);
        assert_eq!((thinking.as_str(), content.as_str()), ("hm", "Yes"), "{name}");
        let (thinking, content) = deltas(json!(false), &reasoning);
        assert_eq!((thinking.as_str(), content.as_str()), ("", "Yes"), "{name}");
    }
}

/// The names and arguments of the calls that a client gets for these fragments.
fn calls(fragments: &[Value], reason: &str) -> Result<Vec<(String, String)>, String> {
    let delta = |it: &Value| json!({"choices": [{"index": 0, "delta": {"tool_calls": [it]}}]});
    let mut list: Vec<Value> = fragments.iter().map(delta).collect();
    list.push(json!({"choices": [{"index": 0, "delta": {}, "finish_reason": reason}]}));
    let answer = answered(chunks(&list));
    let mut found = Vec::new();
    let mut ids = Vec::new();
    for line in answer.body.lines() {
        let line: Value = serde_json::from_str(line).expect("JSON");
        if let Some(error) = line["error"].as_str() {
            return Err(error.to_owned());
        }
        for call in line["message"]["tool_calls"].as_array().into_iter().flatten() {
            let function = &call["function"];
            assert_eq!(function["index"], found.len(), "{line}");
            let name = function["name"].as_str().expect("a name").to_owned();
            found.push((name, function["arguments"].to_string()));
            ids.push(call["id"].as_str().filter(|id| !id.is_empty()).expect("an id").to_owned());
        }
    }
    let count = ids.len();
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), count, "ids differ");
    Ok(found)
}

#[test]
fn calls_become_whole_in_whatever_form_they_come() {
    let check = |fragments: &[Value], expected: &[(&str, &str)]| {
        let found = calls(fragments, "stop").expect("calls");
        let found: Vec<(&str, &str)> = found.iter().map(|(a, b)| (&**a, &**b)).collect();
        assert_eq!(found, expected, "{fragments:?}");
    };
    let call = |index: Value, id: Value, name: &str, arguments: Value| json!({"index": index, "id": id, "type": "function", "function": {"name": name, "arguments": arguments}});
    let more =
        |index: u64, arguments: &str| json!({"index": index, "function": {"arguments": arguments}});
    let (zero, one) = (json!(0), json!(1));
    let (x, empty) = (json!(r#"{"x":1}"#), json!(""));
    let (f, g) = (("f", r#"{"x":1}"#), ("g", r#"{"x":1}"#));
    let pieces =
        [call(zero.clone(), json!("a"), "f", empty.clone()), more(0, "{\"x\""), more(0, ":1}")];
    check(&pieces, &[f]);
    let a = |index: &Value, id: Value| call(index.clone(), id, "f", x.clone());
    let b = |index: &Value, id: Value| call(index.clone(), id, "g", x.clone());
    check(&[a(&zero, json!("a")), b(&one, json!("b"))], &[f, g]);
    check(&[a(&zero, json!("a")), b(&zero, json!("b"))], &[f, g]);
    check(&[a(&Value::Null, json!("a")), b(&Value::Null, json!("b"))], &[f, g]);
    for none in [json!(null), json!(""), json!("null")] {
        check(&[a(&zero, none.clone()), b(&one, none.clone())], &[f, g]);
        check(&[a(&zero, none.clone()), b(&zero, none)], &[f, g]);
    }
    let with = |arguments: Value| [call(zero.clone(), json!("a"), "f", arguments)];
    check(&with(json!({"x": 1})), &[f]);
    check(&with(json!(r#""{\"x\":1}""#)), &[f]);
    check(&with(json!(r#"{"x":1}}"#)), &[f]);
    check(&with(empty), &[("f", "{}")]);
    check(&with(Value::Null), &[("f", "{}")]);
    let half = [b(&one, json!("b")), with(json!(r#"{"x":"#))[0].clone()];
    assert_eq!(calls(&half, "length").map(|calls| calls.len()), Ok(1), "the whole call only");
    // What is no object is handed on, in one that keeps it.
    check(&with(json!(r#"{"x":"#)), &[("f", r#"{"_raw":"{\"x\":"}"#)]);
    check(&with(json!("{\"x\":\"a\nb\"}")), &[("f", r#"{"x":"a\nb"}"#)]);
}

#[test]
fn an_error_has_a_status_first_and_is_the_last_line_after_text() {
    for (error, status, message) in [
        (r#"data: {"error":{"message":"m","type":"t","code":429}}"#, 429, "m"),
        (r#"data: {"error":{"object":"error","message":"m","code":500}}"#, 500, "m"),
        (
            r#"data: {"error":{"code":502,"message":"m"},"choices":[{"index":0,"delta":{"content":""},"finish_reason":"error"}]}"#,
            502,
            "m",
        ),
        (r#"data: {"object":"error","message":"m","code":400}"#, 400, "m"),
        (r#"data: {"error":"m","error_type":"overloaded"}"#, 503, "m"),
        (r#"error: {"code":503,"message":"m","type":"unavailable_error"}"#, 503, "m"),
        (r#"data: {"choices":[],"x_groq":{"error":"m"}}"#, 502, "m"),
        (r#"data: [{"error":{"code":429,"message":"m","status":"RESOURCE_EXHAUSTED"}}]"#, 429, "m"),
        ("event: error\ndata: {\"type\":\"invalid_request_error\",\"message\":\"m\"}", 400, "m"),
    ] {
        for end in ["", "data: [DONE]\n\n"] {
            let first = answered(body(format!("{error}\n\n{end}")));
            assert_eq!((first.status(), first.error().as_str()), (status, message), "{error}");
            let later = answered(body(format!("data: {}\n\n{error}\n\n{end}", event("a"))));
            let lines = later.lines();
            assert_eq!((later.status(), lines.len()), (200, 2), "{error}");
            assert_eq!(lines[0]["message"]["content"], "a", "{error}");
            assert_eq!(lines[1], json!({"error": message}), "{error}");
        }
    }
}

#[test]
fn a_cut_connection_is_an_error_with_and_without_text() {
    for end in [Step::Close, Step::Reset] {
        let answer = answered(vec![stream_head(), piece(format!("data: {}\n\n", event("a"))), end]);
        let lines = answer.lines();
        assert_eq!(lines.len(), 2, "{}", answer.body);
        assert_eq!(lines[1], json!({"error": CUT_SHORT}));
    }
    let answer = answered(vec![stream_head(), piece(": nothing yet\n\n"), Step::Close]);
    assert_eq!(answer.status(), 502);
}

#[test]
fn a_body_that_is_no_stream_is_an_answer_or_an_error() {
    let good = r#"{"choices":[{"index":0,"message":{"content":"a"},"finish_reason":"length"}]}"#;
    for blank in ["", "\n\n  \n"] {
        let answer = answered(vec![whole(&format!("{blank}{good}"))]);
        assert_eq!(texts(&answer), ["a"]);
        assert_eq!(answer.lines()[1]["done_reason"], "length");
    }
    answered(vec![whole(r#"{"error":{"message":"m","code":429}}"#)]).assert_error(429, "m");
    answered(vec![whole(r#"[{"error":{"message":"m","code":429}}]"#)]).assert_error(429, "m");
    let answer = answered(vec![typed(200, "text/html", &[], "<html>Gateway</html>")]);
    let page =
        "invalid response from the upstream: an HTML page instead of JSON (is the base URL right?)";
    answer.assert_error(502, page);
}
