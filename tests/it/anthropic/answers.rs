//! Answers of `/v1/messages`, whole and streamed: blocks, signatures, calls, counts and reasons to stop.

use super::messages::streamed;
use crate::support::*;

/// The chunk of a delta, with its reason to stop.
fn chunk(delta: Value, finish_reason: Value) -> Value {
    json!({"choices": [{"index": 0, "delta": delta, "finish_reason": finish_reason}]})
}

/// A call of `f` as a piece of a stream.
fn call(index: usize, id: &str, arguments: &str) -> Value {
    json!({"tool_calls": [{"index": index, "id": id, "type": "function",
        "function": {"name": "f", "arguments": arguments}}]})
}

/// A whole answer with this message.
fn whole(message: Value, finish_reason: &str) -> Vec<Step> {
    let choice = json!({"index": 0, "message": message, "finish_reason": finish_reason});
    let usage = json!({"prompt_tokens": 25, "completion_tokens": 9,
        "prompt_tokens_details": {"cached_tokens": 20}});
    vec![upstream::json(&json!({"choices": [choice], "usage": usage}).to_string())]
}

/// A stream that ends with the last of these chunks.
fn ending_so(said: &[Value]) -> Vec<Step> {
    let mut steps = vec![stream_head()];
    steps.extend(said.iter().map(|chunk| frame(&format!("data: {chunk}\n\n"))));
    steps.extend([frame("data: [DONE]\n\n"), last_frame()]);
    steps
}

/// What the blocks of a stream hold, and how it ended; checks what holds for each stream.
fn blocks(answer: &Answer) -> (Vec<Value>, Value) {
    let events = answer.events();
    let (mut blocks, mut end) = (Vec::new(), Value::Null);
    let mut open: Option<Value> = None;
    for event in &events {
        match event["type"].as_str().expect("a type") {
            "content_block_start" => {
                assert!(open.is_none(), "one block at a time: {}", answer.body);
                assert_eq!(event["index"], blocks.len());
                open = Some(event["content_block"].clone());
            }
            "content_block_delta" => {
                let block = open.as_mut().expect("an open block");
                let delta = event["delta"].as_object().expect("an object");
                for (name, piece) in delta.iter().filter(|(name, _)| *name != "type") {
                    let before = block[name].as_str().unwrap_or_default();
                    block[name] = format!("{before}{}", piece.as_str().expect("a text")).into();
                }
            }
            "content_block_stop" => blocks.push(open.take().expect("an open block")),
            "message_delta" => end = json!([event["delta"]["stop_reason"], event["usage"]]),
            _ => {}
        }
    }
    assert!(open.is_none(), "each block is closed: {}", answer.body);
    (blocks, end)
}

/// The kind of each block and what it holds.
fn shown(blocks: &[Value]) -> Vec<String> {
    let text = |block: &Value, name: &str| block[name].as_str().unwrap_or("?").to_owned();
    let show = |block: &Value| match block["type"].as_str().unwrap_or_default() {
        "thinking" => format!("({})", text(block, "thinking")),
        "text" => text(block, "text"),
        _ if block["partial_json"].is_string() => text(block, "id") + &text(block, "partial_json"),
        _ => text(block, "id") + &block["input"].to_string(),
    };
    blocks.iter().map(show).collect()
}

#[test]
fn thinking_behind_text_is_a_block_of_its_own_and_each_has_a_signature() {
    let bench = Bench::new();
    let said = [
        json!({"reasoning_content": "One."}),
        json!({"content": "A"}),
        json!({"reasoning_content": "Two."}),
        json!({"content": "B"}),
        call(0, "c1", "{}"),
        json!({"reasoning_content": "Three."}),
        json!({"content": "C"}),
    ];
    let answer = bench.played(MESSAGES, &streamed(), deltas(&said));
    let (blocks, _) = blocks(&answer);
    let texts: Vec<String> = shown(&blocks).into_iter().filter(|it| it != "c1{}").collect();
    assert_eq!(texts, ["(One.)", "A", "(Two.)", "B", "(Three.)", "C"]);
    for block in blocks.iter().filter(|block| block["type"] == "thinking") {
        assert!(block["signature"].as_str().is_some_and(|text| !text.is_empty()), "{block}");
    }
    let signatures = answer.body.matches(r#""type":"signature_delta""#).count();
    assert_eq!(signatures, 3, "one for each block");
    let message = json!({"role": "assistant", "reasoning_content": "Hm.", "content": "Hi"});
    let content =
        bench.played(MESSAGES, &json!({}), whole(message, "stop")).json()["content"].clone();
    assert_eq!(shown(content.as_array().expect("blocks")), ["(Hm.)", "Hi"]);
    assert!(content[0]["signature"].as_str().is_some_and(|text| !text.is_empty()), "{content}");
}

#[test]
fn the_first_event_has_all_members_and_the_counts_of_the_end_are_those_of_the_upstream() {
    let bench = Bench::new();
    let usage = json!({"choices": [], "usage": {"prompt_tokens": 25, "completion_tokens": 9,
        "prompt_tokens_details": {"cached_tokens": 20}}});
    let said = [chunk(json!({"content": "Hi"}), json!("stop")), usage];
    let answer = bench.played(MESSAGES, &streamed(), ending_so(&said));
    let start = &answer.events()[0]["message"];
    let members = start.as_object().expect("an object");
    for name in ["stop_reason", "stop_sequence"] {
        assert_eq!(members.get(name), Some(&Value::Null), "{name}");
    }
    assert_eq!(start["content"], json!([]));
    let counts = json!({"input_tokens": 5, "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": 20, "output_tokens": 9});
    assert_eq!(blocks(&answer).1, json!(["end_turn", counts]));
    let message = json!({"role": "assistant", "content": "Hi"});
    let message = bench.played(MESSAGES, &json!({}), whole(message, "stop")).json();
    assert_eq!(message["usage"], counts);
    let members = message.as_object().expect("an object");
    assert_eq!(members.get("stop_sequence"), Some(&Value::Null));
}

#[test]
fn a_call_that_the_limit_cut_is_left_out_and_the_message_ended_at_the_limit() {
    let bench = Bench::new();
    let cut = r#"{"path":"ab"#;
    let said = [
        chunk(json!({"content": "A"}), Value::Null),
        chunk(call(0, "c1", cut), Value::Null),
        chunk(json!({}), json!("length")),
    ];
    let (found, end) = blocks(&bench.played(MESSAGES, &streamed(), ending_so(&said)));
    assert_eq!((shown(&found), &end[0]), (vec!["A".to_owned()], &"max_tokens".into()));
    // A call before it is whole.
    let said =
        [chunk(call(0, "c1", "{}"), Value::Null), chunk(call(1, "c2", cut), json!("length"))];
    let (found, end) = blocks(&bench.played(MESSAGES, &streamed(), ending_so(&said)));
    assert_eq!((shown(&found), &end[0]), (vec!["c1{}".to_owned()], &"max_tokens".into()));
    let calls = call(0, "c1", cut)["tool_calls"].clone();
    let message = json!({"role": "assistant", "content": "A", "tool_calls": calls});
    let message = bench.played(MESSAGES, &json!({}), whole(message, "length")).json();
    assert_eq!(message["content"], json!([{"type": "text", "text": "A"}]));
    assert_eq!(message["stop_reason"], "max_tokens");
}

#[test]
fn arguments_that_are_no_object_are_mended_or_kept_as_text() {
    for (arguments, expected) in [
        (
            "{\"path\": \"a\nb\", \"text\": \"say \"hi\"\"}",
            json!({"path": "a\nb", "text": "say \"hi\""}),
        ),
        ("", json!({})),
        ("ls -l", json!({"_raw": "ls -l"})),
        ("[1,2]", json!({"_raw": "[1,2]"})),
    ] {
        let bench = Bench::new();
        let said =
            [chunk(call(0, "c1", arguments), Value::Null), chunk(json!({}), json!("tool_calls"))];
        let (found, end) = blocks(&bench.played(MESSAGES, &streamed(), ending_so(&said)));
        let input: Value =
            serde_json::from_str(found[0]["partial_json"].as_str().expect("a text")).expect("JSON");
        assert_eq!((input, &end[0]), (expected.clone(), &"tool_use".into()), "{arguments}");
        let calls = call(0, "c1", arguments)["tool_calls"].clone();
        let message = json!({"role": "assistant", "content": null, "tool_calls": calls});
        let message = bench.played(MESSAGES, &json!({}), whole(message, "tool_calls")).json();
        assert_eq!(message["content"][0]["input"], expected, "{arguments}");
    }
}

#[test]
fn both_calls_of_one_id_are_told_whole_and_streamed() {
    let bench = Bench::new();
    let said = [call(0, "same", r#"{"x":1}"#), call(1, "same", r#"{"x":2}"#)];
    let (found, _) = blocks(&bench.played(MESSAGES, &streamed(), deltas(&said)));
    assert_eq!(found.len(), 2, "{found:?}");
    assert_ne!(found[0]["id"], found[1]["id"]);
    let calls = json!([said[0]["tool_calls"][0], said[1]["tool_calls"][0]]);
    let message = json!({"role": "assistant", "content": null, "tool_calls": calls});
    let message = bench.played(MESSAGES, &json!({}), whole(message, "tool_calls")).json();
    let content = message["content"].as_array().expect("blocks");
    assert_eq!(content.len(), 2, "{message}");
    assert_ne!(content[0]["id"], content[1]["id"]);
}

#[test]
fn interleaved_calls_are_told_one_after_the_other() {
    let bench = Bench::new();
    let piece = |index: usize, text: &str| json!({"tool_calls": [{"index": index, "function": {"arguments": text}}]});
    let said = [
        json!({"content": "A"}),
        call(0, "c1", r#"{"x":"#),
        call(1, "c2", r#"{"x":"#),
        piece(0, "1}"),
        piece(1, "2}"),
    ];
    let (found, end) = blocks(&bench.played(MESSAGES, &streamed(), deltas(&said)));
    assert_eq!(shown(&found), ["A", r#"c1{"x":1}"#, r#"c2{"x":2}"#]);
    assert_eq!(end[0], "tool_use");
}

#[test]
fn a_filtered_or_refused_answer_is_a_refusal_with_its_text() {
    let bench = Bench::new();
    let said =
        [chunk(json!({"content": "Part"}), Value::Null), chunk(json!({}), json!("content_filter"))];
    let (found, end) = blocks(&bench.played(MESSAGES, &streamed(), ending_so(&said)));
    assert_eq!((shown(&found), &end[0]), (vec!["Part".to_owned()], &"refusal".into()));
    for (message, finish_reason, text) in [
        (json!({"role": "assistant", "content": "Part"}), "content_filter", "Part"),
        (
            json!({"role": "assistant", "content": null, "refusal": "I cannot."}),
            "stop",
            "I cannot.",
        ),
    ] {
        let message = bench.played(MESSAGES, &json!({}), whole(message, finish_reason)).json();
        assert_eq!(message["stop_reason"], "refusal", "{message}");
        assert_eq!(message["stop_details"]["type"], "refusal", "{message}");
        assert_eq!(message["content"][0]["text"], text, "{message}");
    }
}

#[test]
fn an_empty_answer_has_an_empty_text() {
    let bench = Bench::new();
    let message = json!({"role": "assistant", "content": null});
    let message = bench.played(MESSAGES, &json!({}), whole(message, "stop")).json();
    assert_eq!(message["content"], json!([{"type": "text", "text": ""}]));
    let said = [chunk(json!({}), json!("stop"))];
    let (found, _) = blocks(&bench.played(MESSAGES, &streamed(), ending_so(&said)));
    assert_eq!(found, [json!({"type": "text", "text": ""})]);
}
