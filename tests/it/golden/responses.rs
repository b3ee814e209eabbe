//! Golden pairs of `/v1/responses` over chat completions.
//!
//! Each folder `tests/golden/responses/<case>/` holds some of these pairs; `ollama.rs` tells of
//! `case.json` and of the clock:
//!
//! - `request.responses.json` and `request.openai.json` (compared as values), or
//!   `request.error.json`;
//! - `answer.openai.json` and `answer.responses.json` (compared as bytes), to the request beside it,
//!   else to one that says nothing;
//! - `stream.sse` and `stream.events` (compared as bytes, and checked against the rules of OpenAI's
//!   API reference, Responses, streaming).

use crate::support::golden::{Case, NOW, cases, to_value};
use crate::support::named_events;
use ollama_openai_proxy::api::ollama::decode;
use ollama_openai_proxy::api::openai::responses::ResponsesRequest;
use ollama_openai_proxy::error::{Error, Result};
use ollama_openai_proxy::http::error_format::ErrorFormat;
use ollama_openai_proxy::translate::responses;
use ollama_openai_proxy::translate::responses::response_object::{RequestEcho, ResponseIds};
use ollama_openai_proxy::translate::responses::stream::ResponseEncoder;
use ollama_openai_proxy::translate::stream::Encoder;
use serde_json::Value;

/// The cases whose names begin with this prefix.
fn those(begin: &str) -> Vec<Case> {
    let name = |case: &Case| case.folder.file_name().map(|it| it.to_string_lossy().into_owned());
    let mut those = cases("responses");
    those.retain(|case| name(case).is_some_and(|name| name.starts_with(begin)));
    assert!(!those.is_empty());
    those
}

fn request(text: &str) -> Result<ResponsesRequest<'_>> {
    decode::parse(text, "openai.ResponsesRequest")
}

fn translated(case: &Case, text: &str) -> Result<Value> {
    let request = request(text)?;
    let translated = responses::to_chat(&request)?;
    let id = case.setting("id").or(request.model.as_deref()).unwrap_or_default();
    Ok(to_value(&responses::to_openai(&translated, id, case.profile())?))
}

fn encoder(case: &Case) -> ResponseEncoder {
    let text = case.read("request.responses.json").unwrap_or_else(|| "{}".into());
    let request = request(&text).expect("valid");
    let tool_names = responses::to_chat(&request).expect("valid").tool_names;
    ResponseEncoder::new(RequestEcho::from_request(&request, "m"), ResponseIds::new(7), tool_names)
}

/// An error as a client reads it.
fn body(error: &Error) -> Vec<u8> {
    ErrorFormat::OpenAi.body(error, error.status().expect("a status"), "req_00000007")
}

#[test]
fn requests_become_chat_completions() {
    for case in those("request-") {
        case.request(translated(&case, &case.read("request.responses.json").expect("there")));
    }
}

#[test]
fn a_request_that_is_cut_off_or_damaged_is_refused_as_one_or_taken() {
    let statuses = |text: &str| match request(text).and_then(|it| responses::to_chat(&it).map(drop))
    {
        Ok(()) => None,
        Err(error) => error.status(),
    };
    for case in those("request-") {
        let text = case.read("request.responses.json").expect("there");
        assert!(text.is_ascii());
        let end = text.trim_end().len();
        for at in 0..end {
            assert_eq!(statuses(&text[..at]), Some(400), "{}: {at}", case.folder.display());
            for other in ["5", "\"", "{", "]", "null"] {
                let damaged = [&text[..at], other, &text[at + 1..]].concat();
                let status = statuses(&damaged);
                assert!(matches!(status, None | Some(400)), "{damaged}");
            }
        }
    }
}

#[test]
fn whole_answers_become_responses() {
    for case in those("answer-") {
        let answer = case.whole(&mut encoder(&case)).expect("an answer");
        case.bytes("answer.responses.json", &answer.unwrap_or_else(|error| body(&error)));
    }
}

#[test]
fn streams_become_events_that_keep_the_rules() {
    for case in those("stream-") {
        let mut encoder = encoder(&case);
        let (mut out, ended) = case.stream(&mut encoder).expect("a stream");
        if let Err(error) = &ended {
            assert!(encoder.encode_failure(&mut out, NOW, error));
        }
        let name = case.folder.display().to_string();
        let events = named_events(std::str::from_utf8(&out).expect("UTF-8"));
        check_order(&events, ended.is_ok(), &name);
        check_items(&events, ended.is_ok(), &name);
        case.bytes("stream.events", &out);
    }
}

#[test]
fn a_whole_answer_equals_the_end_of_the_stream() {
    for case in those("stream-") {
        let (streamed, ended) = case.stream(&mut encoder(&case)).expect("a stream");
        let whole = case.collected(&mut encoder(&case)).expect("a stream");
        assert_eq!(ended.is_ok(), whole.is_ok());
        let Ok(whole) = whole else { continue };
        let mut whole: Value = serde_json::from_slice(&whole).expect("JSON");
        let events = named_events(std::str::from_utf8(&streamed).expect("UTF-8"));
        let mut end = events.last().expect("events")["response"].clone();
        // Only a whole answer says that it is cut off.
        whole["status"] = end["status"].clone();
        whole["incomplete_details"] = Value::Null;
        // Reasoning that turned out to be the answer was shown before.
        let is_reasoning = |item: &Value| item["type"] == "reasoning";
        let items =
            |response: &mut Value| response["output"].as_array_mut().expect("items").clone();
        if !items(&mut whole).iter().any(is_reasoning) {
            let kept = items(&mut end).into_iter().filter(|item| !is_reasoning(item));
            end["output"] = kept.collect();
        }
        assert_eq!(whole, end, "{}", case.folder.display());
    }
}

/// The first events, the last one, and the numbers of all.
pub(super) fn check_order(events: &[Value], is_whole: bool, case: &str) {
    for (place, event) in events.iter().enumerate() {
        assert_eq!(event["sequence_number"], place, "{case}: no number is left out");
    }
    assert_eq!(events[0]["type"], "response.created", "{case}");
    assert_eq!(events[1]["type"], "response.in_progress", "{case}");
    for event in &events[..2] {
        let response = &event["response"];
        assert_eq!(response["status"], "in_progress", "{case}");
        assert_eq!(response["output"].as_array().map(Vec::len), Some(0), "{case}");
        assert!(response["usage"].is_null() && response["completed_at"].is_null(), "{case}");
    }
    let ends = ["response.completed", "response.failed"];
    let mut ends = events.iter().filter(|event| ends.iter().any(|end| event["type"] == *end));
    assert_eq!(ends.next(), events.last(), "{case}: nothing follows the end");
    let end = events.last().expect("an end");
    assert_eq!(end["type"] == "response.completed", is_whole, "{case}");
    assert_eq!(end["response"]["error"].is_null(), is_whole, "{case}");
}

/// One item is open at a time, each that was added is done, its deltas are its text, and all of them
/// are the output.
pub(super) fn check_items(events: &[Value], is_whole: bool, case: &str) {
    let (mut open, mut text, mut done) = (None::<Value>, String::new(), Vec::new());
    for event in events {
        let kind = event["type"].as_str().expect("a type");
        let within = event.get("output_index").is_some();
        assert!(!within || event["output_index"] == done.len(), "{case}: {event}");
        match kind {
            "response.output_item.added" => {
                assert!(open.is_none(), "{case}: two items at once");
                text.clear();
                open = Some(event["item"]["id"].clone());
            }
            "response.output_item.done" => {
                assert_eq!(open.take().as_ref(), Some(&event["item"]["id"]), "{case}");
                assert_eq!(said(&event["item"]), text, "{case}");
                done.push(event["item"].clone());
            }
            _ if within => {
                assert_eq!(open.as_ref(), Some(&event["item_id"]), "{case}: {event}");
                text.push_str(event["delta"].as_str().unwrap_or_default());
                let part = &event["part"]["text"];
                for whole in [&event["text"], &event["arguments"], &event["input"], part] {
                    let whole = whole.as_str().filter(|_| kind.ends_with(".done"));
                    assert!(whole.is_none_or(|whole| whole == text), "{case}: {event}");
                }
            }
            _ => {}
        }
    }
    if is_whole {
        assert!(open.is_none(), "{case}: an item is left open");
        assert_eq!(events.last().map(|it| &it["response"]["output"]), Some(&done.into()), "{case}");
    }
}

/// The text of an item; empty for a call whose arguments only the item itself has.
pub(super) fn said(item: &Value) -> &str {
    let said = match item["type"].as_str().expect("a type") {
        "reasoning" => &item["summary"][0]["text"],
        "message" => &item["content"][0]["text"],
        "function_call" => &item["arguments"],
        "custom_tool_call" => &item["input"],
        "tool_search_call" | "local_shell_call" => return "",
        other => panic!("an item of type {other}"),
    };
    said.as_str().expect("a text")
}

#[test]
fn ids_differ_within_an_answer_and_between_answers() {
    let ids = |number: u64| {
        let ids = ResponseIds::new(number);
        let places = [(0, true), (2, false)];
        let reasoning = places.map(|(place, is_first)| ids.reasoning_id(place, is_first));
        let messages = places.map(|(place, is_first)| ids.message_id(place, is_first));
        let calls = [ids.call_id(0), ids.call_id(1)];
        [reasoning, messages, calls, [ids.response_id.clone(), String::new()]].concat()
    };
    let mut all = [ids(7), ids(8)].concat();
    all.retain(|id| !id.is_empty());
    let count = all.len();
    all.sort();
    all.dedup();
    assert_eq!(all.len(), count);
}
