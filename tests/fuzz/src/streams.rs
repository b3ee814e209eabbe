//! The upstream's events to what each kind of client reads of a stream.

use std::time::Duration;

use ollama_openai_proxy::api::openai::request::ResponseEffects;
use ollama_openai_proxy::api::openai::responses::ResponsesRequest;
use ollama_openai_proxy::api::wire::sse::{Decoder, Event};
use ollama_openai_proxy::error::Result;
use ollama_openai_proxy::observe::redact::Redactor;
use ollama_openai_proxy::translate::anthropic::stream::MessageEncoder;
use ollama_openai_proxy::translate::chat::ChatEncoder;
use ollama_openai_proxy::translate::context_codec::Conversation;
use ollama_openai_proxy::translate::generate::GenerateEncoder;
use ollama_openai_proxy::translate::infill;
use ollama_openai_proxy::translate::responses::response_object::{RequestEcho, ResponseIds};
use ollama_openai_proxy::translate::responses::stream::ResponseEncoder;
use ollama_openai_proxy::translate::stream::{Delta, Encoder, ResponseOptions, ResponseTranslator};
use ollama_openai_proxy::translate::think::ThinkMode;
use ollama_openai_proxy::translate::tool_names::ToolNames;
use serde_json::Value;

use super::check_failure;

/// Words of streams.
pub const WORDS: &[&str] = &[
    "data: ",
    "\n\n",
    "data: [DONE]\n\n",
    "\"choices\":[{",
    "\"index\":0,",
    "\"delta\":{",
    "\"content\":\"",
    "\"reasoning_content\":\"",
    "\"reasoning\":\"",
    "\"tool_calls\":[{",
    "\"function\":{",
    "\"name\":\"f\",",
    "\"arguments\":\"{}\"",
    "\"id\":\"c\",",
    "\"finish_reason\":\"stop\"",
    "\"finish_reason\":\"length\"",
    "\"finish_reason\":null",
    "\"usage\":{\"prompt_tokens\":5,\"completion_tokens\":7}",
    "\"logprobs\":{\"content\":[",
    "\"error\":{\"message\":\"no\"}",
    "event: error\n",
    "<think>",
    "</think>",
    "<|channel>thought\\n",
    "<channel|>",
    "END",
    "<",
    "}",
    "]",
    "{",
    "\"",
    ",",
    "\\n",
    "\\u2028",
    "\\ud83d\\ude00",
    "\"timings\":{",
    "\"refusal\":\"no\"",
    "\"message\":{",
    "\"text\":\"",
    "null",
    "-1",
    "18446744073709551616",
    "1e999",
];

pub const NOW: &str = "2026-01-02T03:04:05.6Z";
pub const SENT: Duration = Duration::from_millis(1);
pub const END: Duration = Duration::from_secs(1);

/// What the client wants, chosen by the length of the input.
pub fn wanted(data: &[u8], stop: bool) -> ResponseOptions<'static> {
    let think = match data.len() % 3 {
        0 => ThinkMode::Unset,
        1 => ThinkMode::On,
        _ => ThinkMode::Off,
    };
    let logprobs = data.len().is_multiple_of(2).then_some(2);
    let watched_stop = if stop { vec!["END".to_owned(), "<|x".to_owned()] } else { Vec::new() };
    let effects = ResponseEffects { watched_stop, ..ResponseEffects::default() };
    let (wants_json, begins_in_thinking) = (data.len() % 5 == 1, data.len() % 7 == 1);
    ResponseOptions {
        think,
        logprobs,
        id_seed: "fuzz",
        model: Some("m"),
        effects,
        wants_json,
        begins_in_thinking,
    }
}

/// What one client reads, and the text and reasoning that the translation gave for it.
struct Played {
    out: Vec<u8>,
    content: String,
    thinking: String,
    ended: Result<()>,
}

fn play<E: Encoder>(data: &[u8], wanted: ResponseOptions<'_>, encoder: &mut E) -> Played {
    let redactor = Redactor::default();
    let mut state = ResponseTranslator::new(wanted, &redactor);
    let mut played =
        Played { out: Vec::new(), content: String::new(), thinking: String::new(), ended: Ok(()) };
    played.ended = step(data, &mut state, encoder, &mut played);
    played
}

fn step<E: Encoder>(
    data: &[u8],
    state: &mut ResponseTranslator<'_>,
    encoder: &mut E,
    played: &mut Played,
) -> Result<()> {
    let mut decoder = Decoder::new();
    decoder.push(data);
    decoder.finish();
    let mut now = Duration::ZERO;
    let mut show = |delta: &Delta<'_>, encoder: &mut E| {
        played.content += &delta.content;
        played.thinking += &delta.thinking;
        encoder.encode_delta(&mut played.out, NOW, delta);
    };
    while let Some(event) = decoder.next_event()? {
        now += Duration::from_millis(10);
        let deltas = state.take_pieces(event, now)?;
        for delta in deltas.iter().flatten().filter(|delta| !delta.is_empty()) {
            show(delta, encoder);
        }
        if state.is_done() {
            break;
        }
    }
    let outcome = state.finish(SENT, END)?;
    let rest = state.flush();
    if !rest.is_empty() {
        show(&rest, encoder);
    }
    encoder.encode_final(&mut played.out, NOW, &Delta::default(), &outcome);
    if !E::IS_SSE {
        played.out.push(b'\n');
    }
    Ok(())
}

/// All four encoders, with and without stop strings.
pub fn stream(data: &[u8]) {
    let chat = play(data, wanted(data, false), &mut ChatEncoder { model: "m" });
    if let Err(error) = &chat.ended {
        check_failure(error);
    }
    let seen = check_lines(&chat, |line| {
        let message = &line["message"];
        (message["content"].as_str(), message["thinking"].as_str())
    });
    // Text that is taken for reasoning is text only once the stream has ended well.
    if let Some(plain) = plain_text(data).filter(|_| !wanted(data, false).begins_in_thinking) {
        assert_eq!(seen.0, plain, "the text is not what the upstream sent");
    }
    let memory = Some(Conversation::default());
    let generate = play(data, wanted(data, false), &mut GenerateEncoder::new("m", memory));
    let other =
        check_lines(&generate, |line| (line["response"].as_str(), line["thinking"].as_str()));
    assert_eq!(seen, other, "the two routes differ");

    let cut = play(data, wanted(data, true), &mut ChatEncoder { model: "m" });
    assert!(seen.0.starts_with(&cut.content), "a stop string changes what comes before it");
    assert!(!cut.content.contains("END") && !cut.content.contains("<|x"), "a stop string is shown");

    let messages = play(data, wanted(data, false), &mut MessageEncoder::new("m", "fuzz", 3));
    check_messages(&messages);
    let echo = RequestEcho::from_request(&ResponsesRequest::default(), "m");
    let mut encoder = ResponseEncoder::new(echo, ResponseIds::new(7), ToolNames::default());
    check_responses(&play(data, wanted(data, false), &mut encoder));

    if let Some(chunk) = std::str::from_utf8(data).ok().and_then(infill::to_chunk) {
        assert!(serde_json::from_str::<Value>(&chunk).is_ok());
    }
}

/// Each line is JSON, only the last one is done, and the lines hold the text of the deltas.
fn check_lines(
    played: &Played,
    texts: fn(&Value) -> (Option<&str>, Option<&str>),
) -> (String, String) {
    let text = std::str::from_utf8(&played.out).expect("text");
    assert!(text.is_empty() || text.ends_with('\n'));
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), text.matches('\n').count(), "a line break that clients see as one");
    let (mut content, mut thinking) = (String::new(), String::new());
    for (place, line) in lines.iter().enumerate() {
        let value: Value = serde_json::from_str(line).expect("a line is JSON");
        let is_last = played.ended.is_ok() && place + 1 == lines.len();
        assert_eq!(value["done"], is_last, "{line}");
        assert_eq!(value.get("done_reason").is_some(), is_last, "{line}");
        let (text, thought) = texts(&value);
        content += text.unwrap_or_default();
        thinking += thought.unwrap_or_default();
    }
    assert!(played.ended.is_err() || !lines.is_empty(), "no last line");
    assert_eq!(content, played.content);
    assert_eq!(thinking, played.thinking);
    (content, thinking)
}

/// The text of a stream of nothing but plain chunks, read in the simplest way; `None` for others.
fn plain_text(data: &[u8]) -> Option<String> {
    let mut decoder = Decoder::new();
    decoder.push(data);
    decoder.finish();
    let mut text = String::new();
    while let Ok(Some(event)) = decoder.next_event() {
        let Event::Data(data) = event else { return None };
        let data = std::str::from_utf8(data).ok()?.trim();
        if data.starts_with("[DONE]") {
            break;
        }
        // Of two members of one name readers may take either; no server sends such.
        let names = ["choices", "index", "delta", "content", "finish_reason"];
        if names.iter().any(|name| data.matches(&format!("\"{name}\"")).count() > 1) {
            return None;
        }
        let value: Value = serde_json::from_str(data).ok()?;
        let [choice] = value["choices"].as_array()?.as_slice() else { return None };
        let known = ["index", "delta", "finish_reason"];
        let is_plain = choice.as_object()?.keys().all(|key| known.contains(&key.as_str()))
            && value.as_object()?.keys().all(|key| key == "choices")
            && choice["index"].as_u64()? == 0
            && matches!(choice["finish_reason"].as_str(), None | Some("stop" | "length"));
        let delta = choice["delta"].as_object()?;
        if !is_plain || delta.keys().any(|key| key != "content") {
            return None;
        }
        text += delta.get("content")?.as_str()?;
    }
    (!text.contains('<') && text.trim_start().len() == text.len()).then_some(text)
}

/// The events of a stream of named events, whose data repeat the name.
fn events(played: &Played) -> Vec<Value> {
    let text = std::str::from_utf8(&played.out).expect("text");
    assert!(text.is_empty() || text.ends_with("\n\n"));
    let read = |event: &str| {
        let (kind, data) = event.split_once('\n').expect("two lines");
        let data = data.strip_prefix("data: ").expect("data");
        let data: Value = serde_json::from_str(data).expect("JSON on one line");
        assert_eq!(kind.strip_prefix("event: "), data["type"].as_str());
        data
    };
    text.split_terminator("\n\n").map(read).collect()
}

/// Anthropic's order: one block at a time, all of them closed, and one end.
fn check_messages(played: &Played) {
    let events = events(played);
    let (mut open, mut next, mut content) = (None, 0, String::new());
    for (place, event) in events.iter().enumerate() {
        let is_end = place + 1 == events.len() && played.ended.is_ok();
        assert_eq!(event["type"] == "message_stop", is_end, "{event}");
        match event["type"].as_str().expect("a type") {
            "message_start" => assert_eq!(place, 0),
            "content_block_start" => {
                assert_eq!((open, event["index"].as_u64()), (None, Some(next)));
                (open, next) = (Some(next), next + 1);
            }
            "content_block_delta" => {
                assert_eq!(event["index"].as_u64(), open);
                content += event["delta"]["text"].as_str().unwrap_or_default();
                let partial = event["delta"]["partial_json"].as_str().unwrap_or("{}");
                assert!(serde_json::from_str::<Value>(partial).is_ok() || partial.is_empty());
            }
            "content_block_stop" => assert_eq!(open.take(), event["index"].as_u64()),
            "message_delta" | "message_stop" | "ping" => assert_eq!(open, None),
            other => panic!("an event {other}"),
        }
    }
    assert_eq!(content, played.content);
}

/// The order of a response: numbered without a gap, items closed, one end that has them all.
fn check_responses(played: &Played) {
    let events = events(played);
    let (mut done, mut content) = (Vec::new(), String::new());
    for (place, event) in events.iter().enumerate() {
        assert_eq!(event["sequence_number"].as_u64(), Some(place as u64));
        let is_end = place + 1 == events.len() && played.ended.is_ok();
        assert_eq!(event["type"] == "response.completed", is_end, "{event}");
        match event["type"].as_str().expect("a type") {
            "response.output_item.done" => done.push(event["item"].clone()),
            "response.output_text.delta" => content += event["delta"].as_str().expect("a text"),
            "response.completed" => {
                assert_eq!(event["response"]["output"], Value::Array(done.clone()));
            }
            _ => {}
        }
    }
    // White space behind a call is no message.
    let rest = played.content.strip_prefix(content.as_str());
    assert!(rest.is_some_and(|rest| rest.trim().is_empty()), "{} {content}", played.content);
}
