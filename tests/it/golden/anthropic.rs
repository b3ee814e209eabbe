//! Golden pairs of Anthropic's protocol: `tests/golden/anthropic/<case>/`.
//!
//! - `request.anthropic.json` and `request.openai.json` (compared as values), or `request.error.json`;
//! - `answer.openai.json` and `answer.anthropic.json` (compared as bytes);
//! - `stream.sse` and `stream.events` (compared as bytes, and checked against the rules of
//!   Anthropic's API reference, streaming messages).
//!
//! `case.json` and the clock are those of `ollama.rs`. Where a case has no request, the one of
//! the answer is `Hi` to `m`; its id comes from the driver.

use crate::support::golden::{Case, cases, to_value};
use crate::support::{kinds, named_events};
use ollama_openai_proxy::api::anthropic::request::{GO_TYPE_NAME, MessagesRequest};
use ollama_openai_proxy::api::ollama::decode;
use ollama_openai_proxy::error::Result;
use ollama_openai_proxy::http::error_format::ErrorFormat;
use ollama_openai_proxy::translate::anthropic::stream::MessageEncoder;
use ollama_openai_proxy::translate::anthropic::{estimate_tokens, to_ollama, to_openai, validate};
use ollama_openai_proxy::translate::skipped::Skipped;
use serde_json::{Value, json};

const HI: &str = r#"{"model":"m","max_tokens":9,"messages":[{"role":"user","content":"Hi"}]}"#;

/// The upstream request, and the estimated number of tokens of its prompt.
fn translated(case: &Case, body: &str) -> Result<(Value, u64)> {
    let request: MessagesRequest<'_> = decode::parse(body, GO_TYPE_NAME)?;
    validate(&request, true)?;
    let chat = to_ollama(&request, &mut Skipped::default())?;
    let id = case.setting("id").or(request.model.as_deref()).unwrap_or_default();
    let upstream = to_openai(&request, &chat, id, case.profile())?;
    Ok((to_value(&upstream), estimate_tokens(&chat)))
}

fn shape(error: &ollama_openai_proxy::error::Error) -> (ErrorFormat, u16) {
    (ErrorFormat::Anthropic, error.status().expect("somebody is there"))
}

#[test]
fn anthropic_cases() {
    for case in cases("anthropic") {
        let body = case.read("request.anthropic.json");
        let translated = translated(&case, body.as_deref().unwrap_or(HI));
        let estimate = translated.as_ref().map_or(1, |(_, estimate)| *estimate);
        if body.is_some() {
            case.request(translated.map(|(request, _)| request));
        }
        let encoder = || MessageEncoder::new("m", "golden", estimate);
        if let Some(written) = case.whole(&mut encoder()) {
            let written = written.unwrap_or_else(|error| {
                let (shape, status) = shape(&error);
                shape.body(&error, status, "req_01234567")
            });
            case.bytes("answer.anthropic.json", &written);
        }
        if let Some((mut out, ended)) = case.stream(&mut encoder()) {
            if let Err(error) = &ended {
                let (shape, status) = shape(error);
                out.extend(shape.event(error, status));
            }
            check_rules(&case, &String::from_utf8_lossy(&out), ended.is_ok());
            case.bytes("stream.events", &out);
        }
    }
}

/// The rules that hold for every stream (Anthropic API reference, streaming messages).
fn check_rules(case: &Case, stream: &str, is_whole: bool) {
    let events = named_events(stream);
    let name = case.folder.display();
    let kinds = kinds(&events);
    let count = |kind: &str| kinds.iter().filter(|known| **known == kind).count();
    let begun = count("message_start") == 1 && kinds[0] == "message_start";
    let begun_or_refused = begun || (kinds == ["error"] && !is_whole);
    assert!(begun_or_refused, "{name}: {kinds:?}");
    if is_whole {
        assert_eq!(kinds[kinds.len() - 2..], ["message_delta", "message_stop"], "{name}");
        assert_eq!((count("message_delta"), count("message_stop"), count("error")), (1, 1, 0));
        assert_eq!(count("content_block_start"), count("content_block_stop"), "{name}");
    } else {
        assert_eq!(kinds.last(), Some(&"error"), "{name}");
        assert_eq!((count("message_delta"), count("message_stop"), count("error")), (0, 0, 1));
    }
    let (mut open, mut next) = (None, 0);
    for event in &events {
        let index = &event["index"];
        match event["type"].as_str().unwrap_or_default() {
            "content_block_start" => {
                assert_eq!(open, None, "{name}: one block at a time");
                assert_eq!(index, &json!(next), "{name}: places rise by one");
                (open, next) = (index.as_u64(), next + 1);
            }
            "content_block_delta" => {
                assert_eq!(index.as_u64(), open, "{name}: into the open block")
            }
            "content_block_stop" => {
                assert_eq!(index.as_u64(), open, "{name}: the open block is closed");
                open = None;
            }
            "message_start" | "error" => {}
            _ => assert_eq!(open, None, "{name}: the message ends behind its blocks"),
        }
    }
}
