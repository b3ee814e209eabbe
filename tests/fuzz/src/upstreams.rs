//! Upstream model lists, errors, and retry delays.

use std::time::{Duration, SystemTime};

use ollama_openai_proxy::api::ollama::decode;
use ollama_openai_proxy::api::ollama::request::ChatRequest;
use ollama_openai_proxy::api::ollama::response::ListResponse;
use ollama_openai_proxy::api::wire::ndjson;
use ollama_openai_proxy::backends::errors;
use ollama_openai_proxy::backends::errors::{RequestSummary, RetryHints};
use ollama_openai_proxy::backends::profiles::GENERIC;
use ollama_openai_proxy::backends::retry_after;
use ollama_openai_proxy::error::{Error, Retry};
use ollama_openai_proxy::http::error_format::ErrorFormat;
use ollama_openai_proxy::models::list;
use ollama_openai_proxy::models::model;
use ollama_openai_proxy::models::model::RenderContext;
use ollama_openai_proxy::models::probes::ModelFacts;
use ollama_openai_proxy::models::render::ShowOptions;
use ollama_openai_proxy::observe::redact::{Redactor, Secret};
use ollama_openai_proxy::translate::chat;
use ollama_openai_proxy::upstream::backoff;
use ollama_openai_proxy::upstream::backoff::{MAX_SERVER_DELAY, RetryPolicy};
use ollama_openai_proxy::upstream::repair::document::{Document, Repairable};
use ollama_openai_proxy::upstream::repair::session::{MAX_ATTEMPTS, Session};
use serde_json::Value;

use super::check_failure;
use super::mutate::Dice;

/// Words of errors.
pub const ERROR_WORDS: &[&str] = &[
    "{\"error\":",
    "\"message\":\"",
    "\"code\":",
    "\"type\":",
    "\"param\":",
    "\"detail\":[",
    "\"loc\":[\"body\",\"",
    "\"msg\":\"",
    "\"status\":\"",
    "\"fieldViolations\":[",
    "<html><title>",
    "</title>",
    "Unsupported parameter: 'max_tokens'",
    "'max_completion_tokens'",
    "model 'm' not found",
    "does not support tools",
    "maximum context length is 4096 tokens",
    "Extra inputs are not permitted",
    "reasoning_effort",
    "try again in 6m0s",
    "retry in 2.5s",
    "unknown_model",
    "sk-abcdef123456",
    "Bearer abcdef123456",
    "pl4nted-k3y-0123456789",
    "\"",
    "{",
    "}",
    "[",
    "]",
    ",",
    ":",
    "\n",
    "null",
    "404",
    "400",
];

/// Words of durations and dates.
pub const WAIT_WORDS: &[&str] = &[
    "1",
    "0",
    "-1",
    "1.5",
    "1e9",
    "1e308",
    "1e-300",
    "NaN",
    "inf",
    "9223372036854775807",
    "ms",
    "s",
    "m",
    "h",
    "ns",
    "us",
    "\u{b5}s",
    "try again in ",
    "retry in ",
    ".",
    " ",
    "\n",
    "Sun, 06 Nov 1994 08:49:37 GMT",
    "Fri, 31 Dec 9999 23:59:59 GMT",
    "+",
    "99999999999999999999",
];

/// The key that no error of an upstream may reveal.
const KEY: &str = "pl4nted-k3y-0123456789";

/// Model lists, and the metadata beside them.
pub fn models(data: &[u8]) {
    let body = String::from_utf8_lossy(data);
    let (list, side) = body.split_once("\n---\n").unwrap_or((&body, &body));
    let mut list = match list::parse_list(list) {
        Ok(list) => list,
        Err(error) => return check_failure(&error),
    };
    if let Some(told) = list.details_probe().and_then(|place| ModelFacts::parse(place, side)) {
        list.merge_facts(&told);
    }
    let setting = RenderContext {
        base_url: "http://localhost:8080/v1",
        started_at: SystemTime::UNIX_EPOCH + Duration::from_secs(1_767_323_045),
        default_context_length: model::DEFAULT_CONTEXT_LENGTH,
        utc_offset: |_| 0,
    };
    let list = list.with_defaults();
    let tags =
        ListResponse { models: list.iter().map(|model| model.render_tag(&setting)).collect() };
    let tags: Value = serde_json::from_slice(&ndjson::to_vec(&tags)).expect("JSON");
    for (model, tag) in list.iter().zip(tags["models"].as_array().expect("a list")) {
        assert!(!model.id.is_empty(), "a model without a name");
        assert!(tag["digest"].as_str().is_some_and(|digest| digest.len() == 64), "{tag}");
        let asked = ShowOptions { name: &model.id, ..ShowOptions::default() };
        let shown = ndjson::to_vec(&model.render_show(&setting, &asked));
        let shown: Value = serde_json::from_slice(&shown).expect("JSON");
        assert!(shown["capabilities"].is_array(), "{shown}");
        let process = ndjson::to_vec(&model.render_process(&setting, setting.started_at, None));
        assert!(serde_json::from_slice::<Value>(&process).is_ok());
    }
}

/// Error bodies: bounded, without the key; a repaired request keeps its content.
pub fn errors(data: &[u8]) {
    const STATUSES: [u16; 8] = [400, 401, 404, 422, 429, 500, 503, 302];
    let status = STATUSES[data.len() % STATUSES.len()];
    let redactor = Redactor::new(Some(Secret::new(KEY)));
    let hint = RequestSummary {
        method_and_path: "POST /v1/chat/completions",
        endpoint: "chat/completions",
        has_answered: data.len().is_multiple_of(3),
        model: data.len().is_multiple_of(2).then_some("m"),
    };
    let whole = errors::to_error(status, data, RetryHints::default(), hint, &redactor);
    check_told(&whole);
    if let Some(error) = errors::find_in_band_error(data) {
        check_failure(&error);
    }
    check_told(&errors::to_in_band_error(data, hint.model, &redactor));
    let (in_band, details) = errors::parse_in_band(data);
    assert!((400..600).contains(&in_band), "{in_band}");
    assert!(!details.message.trim().is_empty());
    assert!(!errors::is_unknown_route(500, data), "a 500 is about no route");
    if let Some(details) = errors::parse_details(data) {
        assert!(!errors::is_context_overflow(&details) || !details.message.is_empty());
        mend(&details);
    }
}

fn check_told(error: &Error) {
    check_failure(error);
    let status = error.status().expect("a status");
    for shape in [ErrorFormat::Ollama, ErrorFormat::OpenAi, ErrorFormat::Anthropic] {
        for told in [shape.body(error, status, "req_0000002a"), shape.event(error, status)] {
            let told = String::from_utf8(told).expect("text");
            assert!(!told.contains(KEY), "the key is told");
            let json = told.rsplit_once("data: ").map_or(told.as_str(), |(_, data)| data);
            assert!(serde_json::from_str::<Value>(json).is_ok(), "{told}");
        }
    }
}

/// A request with every kind of parameter is repaired as the error asks; no content is lost.
fn mend(details: &errors::ErrorDetails) {
    let text = r#"{"model":"m","messages":[{"role":"system","content":"Be brief."},
        {"role":"user","content":"Hi"}],"tools":[{"type":"function","function":{"name":"f",
        "parameters":{"type":"object"}}}],"format":{"type":"object"},"think":"high","logprobs":true,
        "options":{"stop":["END"],"num_predict":5,"temperature":0.5,"top_k":3,"seed":1}}"#;
    let request: ChatRequest<'_> = decode::parse(text, "ChatRequest").expect("a good request");
    let request = chat::to_openai(&request, "m", &GENERIC).expect("a good request");
    let text = serde_json::to_string(&request).expect("JSON");
    let mut document = Document::parse(&text, request.route()).expect("an object");
    let mut session = Session::default();
    let mut sent = vec![text.clone()];
    while session.next(details, &mut document, |_| false).is_some() {
        let next = document.to_json();
        assert!(!sent.contains(&next), "the same again");
        sent.push(next);
        assert!(sent.len() <= MAX_ATTEMPTS, "too many attempts");
    }
    let after: Value = serde_json::from_str(&document.to_json()).expect("JSON");
    assert_eq!(after["tools"].as_array().map(Vec::len), Some(1), "a tool is lost");
    let said = after["messages"].to_string();
    assert!(
        after.get("response_format").is_some() || said.contains("JSON"),
        "the form of the answer is lost"
    );
    assert!(said.contains("Be brief.") && said.contains("Hi"), "a message is lost: {said}");
}

/// Delays that an upstream asks for, and those of our own: in bounds whatever is written.
pub fn backoff(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let (seconds, millis) = text.split_once('\n').unwrap_or((&text, ""));
    let now = SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_777);
    let mut dice = Dice::of(data);
    let asked = [
        retry_after::parse_retry_after(Some(seconds), None, now),
        retry_after::parse_retry_after(Some(seconds), Some(millis), now),
        retry_after::parse_retry_after(None, Some(millis), now),
        retry_after::find_retry_delay(&text),
    ];
    let policy = RetryPolicy {
        max_retries: dice.below(6) as u32,
        initial_delay: Duration::from_millis(dice.next()),
        max_delay: Duration::from_millis(dice.next()),
    };
    for wanted in asked.into_iter().flatten() {
        for tries in 0..7 {
            let delay = policy.next_delay(tries, 0.5, Retry::After(wanted));
            assert_eq!(delay.is_some(), tries < policy.max_retries && wanted <= MAX_SERVER_DELAY);
            let bounds = backoff::MIN_SERVER_DELAY..=MAX_SERVER_DELAY;
            assert!(delay.is_none_or(|delay| bounds.contains(&delay)), "{delay:?}");
        }
    }
    for error in [Retry::Backoff, Retry::Immediate, Retry::Poll, Retry::Never] {
        let tries = dice.next() as u32;
        let jitter = f64::from_bits(dice.next());
        let delay = policy.next_delay(tries, jitter, error);
        assert!(
            delay.is_none_or(|delay| delay <= policy.max_delay.max(backoff::POLL_INTERVAL)),
            "{delay:?}"
        );
        assert!(delay.is_none() || tries < policy.max_retries.max(backoff::MAX_POLLS));
    }
}
