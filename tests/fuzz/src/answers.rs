//! Whole answers of the upstream to what each kind of client reads.

use ollama_openai_proxy::api::ollama::response::EmbedMetrics;
use ollama_openai_proxy::api::openai::responses::ResponsesRequest;
use ollama_openai_proxy::error::Result;
use ollama_openai_proxy::observe::redact::Redactor;
use ollama_openai_proxy::translate::anthropic::stream::MessageEncoder;
use ollama_openai_proxy::translate::chat::ChatEncoder;
use ollama_openai_proxy::translate::embed::EmbedResponseBuilder;
use ollama_openai_proxy::translate::generate::GenerateEncoder;
use ollama_openai_proxy::translate::responses::response_object::{RequestEcho, ResponseIds};
use ollama_openai_proxy::translate::responses::stream::ResponseEncoder;
use ollama_openai_proxy::translate::stream::{Encoder, ResponseTranslator};
use ollama_openai_proxy::translate::tool_names::ToolNames;
use serde_json::Value;

use super::check_failure;
use super::streams::{END, NOW, SENT, wanted};

/// Words of answers with vectors.
pub const VECTOR_WORDS: &[&str] = &[
    "\"data\":[",
    "\"embedding\":[",
    "\"embedding\":\"",
    "\"index\":0",
    "\"index\":1",
    "0.5,",
    "-1e-7",
    "1e999",
    "null",
    "NaN",
    "AACAPwAAAAA=",
    "\"usage\":{\"prompt_tokens\":3}",
    "{",
    "}",
    "[",
    "]",
    ",",
    "\"error\":",
    "\"object\":\"list\"",
    "0",
    "1e38",
    "1e39",
];

fn whole(body: &str, data: &[u8], encoder: &mut impl Encoder) -> Option<Value> {
    let redactor = Redactor::default();
    let mut state = ResponseTranslator::new(wanted(data, false), &redactor);
    let mut write = || -> Result<Vec<u8>> {
        let rest = state.on_body(body)?;
        let mut out = Vec::new();
        encoder.encode_whole(&mut out, NOW, &rest, &state.finish(SENT, END)?);
        Ok(out)
    };
    match write() {
        Ok(out) => {
            assert!(!out.contains(&b'\n'), "an answer is one line");
            Some(serde_json::from_slice(&out).expect("an answer is JSON"))
        }
        Err(error) => {
            check_failure(&error);
            None
        }
    }
}

/// All four kinds of clients read an answer, or none does.
pub fn answer(data: &[u8]) {
    let body = String::from_utf8_lossy(data);
    let chat = whole(&body, data, &mut ChatEncoder { model: "m" });
    let generate = whole(&body, data, &mut GenerateEncoder::new("m", None));
    let messages = whole(&body, data, &mut MessageEncoder::new("m", "fuzz", 3));
    let echo = RequestEcho::from_request(&ResponsesRequest::default(), "m");
    let response = whole(
        &body,
        data,
        &mut ResponseEncoder::new(echo, ResponseIds::new(7), ToolNames::default()),
    );
    assert_eq!(chat.is_some(), generate.is_some());
    assert_eq!(chat.is_some(), messages.is_some());
    assert_eq!(chat.is_some(), response.is_some());
    let (Some(chat), Some(generate)) = (chat, generate) else { return };
    assert!(chat["done"] == true && generate["done"] == true);
    assert_eq!(chat["message"]["content"], generate["response"]);
}

/// Vectors: as many as there were inputs, each of numbers.
pub fn vectors(data: &[u8]) {
    let body = String::from_utf8_lossy(data);
    let inputs = data.len() % 3 + 1;
    let dimensions = data.len().is_multiple_of(5).then_some(2);
    let mut many = EmbedResponseBuilder::for_embed("m", dimensions);
    match many.add_response(&body, inputs) {
        Ok(tokens) => {
            assert_eq!(many.vector_count(), inputs);
            let metrics = EmbedMetrics {
                total_duration: 9,
                load_duration: 1,
                prompt_eval_count: tokens.unwrap_or(0),
            };
            let written: Value = serde_json::from_slice(&many.finish(Some(metrics))).expect("JSON");
            let vectors = written["embeddings"].as_array().expect("vectors");
            assert_eq!(vectors.len(), inputs);
            for vector in vectors {
                let numbers = vector.as_array().expect("a vector");
                assert!(numbers.iter().all(|it| it.as_f64().is_some_and(f64::is_finite)));
                let square: f64 = numbers.iter().filter_map(Value::as_f64).map(|it| it * it).sum();
                // A tiny one stays tiny, as in Ollama.
                assert!(square < 1.001, "a length of {square}");
            }
        }
        Err(error) => check_failure(&error),
    }
    let mut one = EmbedResponseBuilder::for_embeddings();
    match one.add_response(&body, 1) {
        Ok(_) => {
            let written: Value = serde_json::from_slice(&one.finish(None)).expect("JSON");
            assert!(written["embedding"].is_array());
        }
        Err(error) => check_failure(&error),
    }
}
