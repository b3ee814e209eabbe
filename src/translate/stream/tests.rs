//! All streams of a few pieces of reasoning and text: the result does not depend on how they were cut, no
//! text is lost or invented, and reasoning is the answer only where nothing else came.

use serde_json::{Value, json};

use super::*;

/// A piece of a stream.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Piece {
    Reasoning(&'static str),
    Text(&'static str),
    Call,
}

const PIECES: [Piece; 8] = [
    Piece::Reasoning("{\"a\":"),
    Piece::Reasoning("1}"),
    Piece::Text("<think>hm "),
    Piece::Text("hm "),
    Piece::Text("</think>"),
    Piece::Text("\nYes"),
    Piece::Text("<|channel>thought\n"),
    Piece::Call,
];

/// All streams of up to `MAX_PIECES` pieces.
fn streams() -> impl Iterator<Item = Vec<Piece>> {
    const MAX_PIECES: u32 = 3;
    (0..=MAX_PIECES).flat_map(|length| {
        (0..PIECES.len().pow(length)).map(move |number| {
            let piece = |place: u32| PIECES[number / PIECES.len().pow(place) % PIECES.len()];
            (0..length).map(piece).collect()
        })
    })
}

/// Cuts the texts into pieces of so many bytes; neighbours of one kind are joined first.
fn cut(stream: &[Piece], size: usize) -> Vec<Value> {
    let mut joined: Vec<(&str, String)> = Vec::new();
    for piece in stream {
        let (kind, text) = match piece {
            Piece::Reasoning(text) => ("reasoning_content", *text),
            Piece::Text(text) => ("content", *text),
            Piece::Call => ("call", ""),
        };
        match joined.last_mut() {
            Some((last, before)) if *last == kind && kind != "call" => before.push_str(text),
            _ => joined.push((kind, text.to_owned())),
        }
    }
    let mut calls = 0;
    let mut deltas = Vec::new();
    for (kind, text) in joined {
        if kind == "call" {
            let function = json!({"name": "f", "arguments": "{}"});
            deltas.push(json!({"tool_calls": [
                {"index": calls, "id": format!("c{calls}"), "function": function}]}));
            calls += 1;
        }
        let bytes = text.as_bytes().chunks(size);
        deltas.extend(bytes.map(|part| json!({ kind: String::from_utf8_lossy(part) })));
    }
    deltas
}

/// What a client is shown of a stream: reasoning, text, and the number of calls.
fn play(options: &ResponseOptions<'_>, deltas: &[Value], reason: &str) -> (String, String, usize) {
    let redactor = Redactor::default();
    let mut state = ResponseTranslator::new(options.clone(), &redactor);
    let mut shown = Delta::default();
    let end = json!({"choices": [{"delta": {}, "finish_reason": reason}]}).to_string();
    let chunks = deltas.iter().map(|delta| json!({"choices": [{ "delta": delta }]}).to_string());
    for chunk in chunks.chain([end]) {
        let event = Event::Data(chunk.as_bytes());
        if let Some(delta) = state.on_event(event, Duration::ZERO).expect("no error") {
            shown.append(delta.into_owned());
        }
        shown.calls.extend(state.take_complete_calls().into_iter().flat_map(|it| it.calls));
    }
    shown.append(state.flush());
    assert!(state.flush().is_empty(), "nothing comes twice");
    (shown.thinking.into_owned(), shown.content.into_owned(), shown.calls.len())
}

fn all_options() -> impl Iterator<Item = ResponseOptions<'static>> {
    let thinks = [ThinkMode::Unset, ThinkMode::Off];
    thinks.into_iter().flat_map(|think| {
        [(false, false), (true, false), (false, true)].map(|(wants_json, begins_in_thinking)| {
            ResponseOptions { think, wants_json, begins_in_thinking, ..ResponseOptions::default() }
        })
    })
}

#[test]
fn the_result_does_not_depend_on_the_cuts() {
    for stream in streams() {
        for options in all_options() {
            let whole = play(&options, &cut(&stream, usize::MAX), "stop");
            for size in [1, 3] {
                let found = play(&options, &cut(&stream, size), "stop");
                assert_eq!(found, whole, "{stream:?} {options:?} in pieces of {size}");
            }
        }
    }
}

#[test]
fn reasoning_is_the_answer_only_where_nothing_else_came() {
    let joined = |stream: &[Piece], pick: fn(&Piece) -> &'static str| -> String {
        stream.iter().map(pick).collect()
    };
    for stream in streams() {
        let reasoning =
            joined(&stream, |it| if let Piece::Reasoning(text) = it { text } else { "" });
        let text = joined(&stream, |it| if let Piece::Text(text) = it { text } else { "" });
        let has_call = stream.contains(&Piece::Call);
        // Tags are the matter of the splitter.
        if text.contains(['<', '>']) {
            continue;
        }
        let is_alone = text.trim().is_empty() && !has_call && !reasoning.is_empty();
        for options in all_options().filter(|options| !options.begins_in_thinking) {
            let is_off = options.think == ThinkMode::Off;
            let is_json = options.wants_json && reasoning == "{\"a\":1}";
            for reason in ["stop", "length"] {
                let found = play(&options, &cut(&stream, usize::MAX), reason);
                let is_answer = is_alone && reason == "stop" && (is_off || is_json);
                let content = if is_answer { reasoning.clone() } else { text.clone() };
                let thinking = if is_off { "" } else { &reasoning };
                let expected = (thinking, content.as_str());
                assert_eq!((found.0.as_str(), found.1.as_str()), expected, "{stream:?} {reason}");
            }
        }
    }
}

#[test]
fn text_that_was_taken_for_reasoning_comes_back_whole() {
    for stream in streams() {
        let is_text = |piece: &Piece| matches!(piece, Piece::Text("hm " | "\nYes"));
        if stream.is_empty() || !stream.iter().all(is_text) {
            continue;
        }
        for options in all_options().filter(|options| options.begins_in_thinking) {
            let text: String = stream
                .iter()
                .map(|it| if let Piece::Text(text) = it { text } else { "" })
                .collect();
            let (thinking, content, _) = play(&options, &cut(&stream, 2), "stop");
            assert_eq!(content, text);
            let shown = if options.think == ThinkMode::Off { "" } else { text.trim_start() };
            assert_eq!(thinking, shown);
            let (thinking, content, _) = play(&options, &cut(&stream, 2), "length");
            assert_eq!((thinking.as_str(), content.as_str()), (shown, ""), "it was cut off");
        }
    }
}

#[test]
fn text_beside_a_call_is_not_lost_where_reasoning_is_hidden() {
    let stream = [Piece::Text("hm "), Piece::Call];
    for options in all_options().filter(|options| options.begins_in_thinking) {
        let (thinking, content, calls) = play(&options, &cut(&stream, 1), "tool_calls");
        let expected = if options.think == ThinkMode::Off { ("", "hm ") } else { ("hm ", "") };
        assert_eq!((thinking.as_str(), content.as_str(), calls), (expected.0, expected.1, 1));
    }
}

/// How a stream of these chunks ended.
fn completion(chunks: &[Value]) -> Completion {
    let redactor = Redactor::default();
    let mut state = ResponseTranslator::new(ResponseOptions::default(), &redactor);
    for chunk in chunks {
        state
            .on_event(Event::Data(chunk.to_string().as_bytes()), Duration::ZERO)
            .expect("no error");
    }
    state.finish(Duration::ZERO, Duration::ZERO).expect("complete")
}

#[test]
fn a_filter_and_a_text_of_refusal_are_told_at_the_end() {
    let ended = |delta: &Value, reason: &str| {
        completion(&[json!({"choices": [{"delta": delta, "finish_reason": reason}]})]).is_refusal
    };
    for reason in ["content_filter", "refusal", "safety"] {
        assert!(ended(&json!({"content": "So"}), reason), "{reason}");
    }
    assert!(ended(&json!({"refusal": "I can not"}), "stop"));
    for delta in [json!({"content": "So"}), json!({"content": "So", "refusal": null})] {
        assert!(!ended(&delta, "stop"), "{delta}");
    }
    assert!(!ended(&json!({"refusal": ""}), "length"));
}

#[test]
fn tokens_of_reasoning_are_counted_where_the_upstream_tells_them() {
    let counted = |usage: &Value| {
        let choice = json!({"delta": {"content": "x"}, "finish_reason": "stop"});
        completion(&[json!({"choices": [choice], "usage": usage})]).metrics.reasoning_count
    };
    let details = json!({"reasoning_tokens": 7});
    assert_eq!(counted(&json!({"completion_tokens_details": details})), Some(7));
    assert_eq!(counted(&json!({"reasoning_tokens": 7})), Some(7));
    assert_eq!(counted(&json!({"completion_tokens": 9})), None);
}
