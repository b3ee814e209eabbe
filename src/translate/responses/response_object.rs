//! The response object, whole or on its way (ollama-api.md 14.6).
//!
//! [`RequestEcho`] keeps what a response tells back of its request, so that a long answer need not hold a
//! large question. Never reads a clock: the times come in as text.

use std::time::SystemTime;

use serde_json::Number;
use serde_json::value::RawValue;

use crate::api::ollama::decode::non_empty;
use crate::api::openai::responses::{
    FunctionCallItem, InputTokensDetails, MessageItem, Metadata, OutputText, OutputTokensDetails,
    ReasoningConfig, ReasoningItem, Response, ResponseItem, ResponsesRequest, SummaryText,
    TextConfig, Usage,
};
use crate::api::wire::ndjson;
use crate::observe::timestamp;
use crate::translate::stream::{Completion, Delta};
use crate::translate::tool_calls::{CompleteToolCall, compact_json};

/// What a response tells back of its request.
#[derive(Clone, Debug)]
pub struct RequestEcho {
    model: String,
    instructions: Option<String>,
    tools: Vec<Box<RawValue>>,
    truncation: String,
    format: Box<RawValue>,
    top_p: Number,
    temperature: Number,
    reasoning: Option<(Option<String>, Option<String>)>,
    max_output_tokens: Option<i64>,
    background: bool,
}

impl RequestEcho {
    /// Of this request, for the model of this name.
    #[must_use]
    pub fn from_request(request: &ResponsesRequest<'_>, model: &str) -> Self {
        let own = |text: &Option<crate::api::ollama::decode::GoString<'_>>| {
            non_empty(text.as_deref()).map(str::to_owned)
        };
        let float = |number: &Option<Number>| number.clone().unwrap_or_else(|| Number::from(1));
        let format = request.text.as_ref().and_then(|text| text.format);
        let reasoning = request.reasoning.as_ref().map(|it| (own(&it.effort), own(&it.summary)));
        Self {
            model: model.to_owned(),
            instructions: own(&request.instructions),
            tools: request
                .tools
                .iter()
                .flatten()
                .map(|tool| compact_raw_json(tool.get()))
                .collect(),
            truncation: own(&request.truncation).unwrap_or_else(|| "disabled".to_owned()),
            format: compact_raw_json(format.map_or(r#"{"type":"text"}"#, RawValue::get)),
            top_p: float(&request.top_p),
            temperature: float(&request.temperature),
            reasoning: reasoning.filter(|(effort, summary)| effort.is_some() || summary.is_some()),
            max_output_tokens: request.max_output_tokens.map(|most| most.0),
            background: request.background.unwrap_or(false),
        }
    }
}

/// JSON that holds no line break, which would end an event.
fn compact_raw_json(json: &str) -> Box<RawValue> {
    RawValue::from_string(compact_json(json)).unwrap_or_else(|_| RawValue::NULL.to_owned())
}

/// What tells one response from another.
#[derive(Clone, Debug)]
pub struct ResponseIds {
    /// `resp_` and the number.
    pub response_id: String,
    number: u64,
}

impl ResponseIds {
    /// Those of the response with this number.
    #[must_use]
    pub fn new(number: u64) -> Self {
        Self { response_id: format!("resp_{number}"), number }
    }

    /// Reasoning at this place; the first has Ollama's own id.
    #[must_use]
    pub fn reasoning_id(&self, place: usize, is_first: bool) -> String {
        let response = &self.response_id;
        if is_first { format!("rs_{response}") } else { format!("rs_{response}_{place}") }
    }

    /// A message at this place; the first has Ollama's own id.
    #[must_use]
    pub fn message_id(&self, place: usize, is_first: bool) -> String {
        let number = self.number;
        if is_first { format!("msg_{number}") } else { format!("msg_{number}_{place}") }
    }

    /// The call of this number.
    #[must_use]
    pub fn call_id(&self, index: usize) -> String {
        format!("fc_{}_{index}", self.response_id)
    }
}

/// What is behind the times and the counts of a response.
#[derive(Clone, Copy, Debug, Default)]
pub struct ResponseStatus {
    /// When it began, in Unix seconds.
    pub created_at: u64,
    /// When it ended, and what was counted.
    pub completed: Option<(u64, Usage)>,
}

/// Unix seconds of a time in RFC 3339.
pub(super) fn unix_seconds(time: &str) -> u64 {
    let since = timestamp::parse_rfc3339(time)
        .and_then(|at| at.duration_since(SystemTime::UNIX_EPOCH).ok());
    since.map_or(0, |since| since.as_secs())
}

/// The counts of an answer.
pub(super) fn to_usage(outcome: &Completion) -> Usage {
    let (input, output) = (outcome.metrics.prompt_eval_count, outcome.metrics.eval_count);
    Usage {
        input_tokens: input,
        output_tokens: output,
        total_tokens: input.saturating_add(output),
        input_tokens_details: InputTokensDetails::default(),
        output_tokens_details: OutputTokensDetails::default(),
    }
}

impl RequestEcho {
    /// The response in this state.
    pub(super) fn build_response<'a>(
        &'a self,
        ids: &'a ResponseIds,
        state: ResponseStatus,
        output: &'a [ResponseItem<'a>],
    ) -> Response<'a> {
        let reasoning = self.reasoning.as_ref().map(|(effort, summary)| ReasoningConfig {
            effort: effort.as_deref(),
            summary: summary.as_deref(),
        });
        Response {
            id: &ids.response_id,
            object: "response",
            created_at: state.created_at,
            completed_at: state.completed.map(|(at, _)| at),
            status: if state.completed.is_some() { "completed" } else { "in_progress" },
            incomplete_details: (),
            model: &self.model,
            previous_response_id: (),
            instructions: self.instructions.as_deref(),
            output,
            error: (),
            tools: &self.tools,
            tool_choice: "auto",
            truncation: &self.truncation,
            parallel_tool_calls: true,
            text: TextConfig { format: &self.format },
            top_p: &self.top_p,
            presence_penalty: 0,
            frequency_penalty: 0,
            top_logprobs: 0,
            temperature: &self.temperature,
            reasoning,
            usage: state.completed.map(|(_, usage)| usage),
            max_output_tokens: self.max_output_tokens,
            max_tool_calls: (),
            store: false,
            background: self.background,
            service_tier: "default",
            metadata: Metadata {},
            safety_identifier: (),
            prompt_cache_key: (),
        }
    }
}

/// An item that is whole.
#[derive(Clone, Debug)]
pub(super) enum OutputItem {
    Reasoning { id: String, text: String },
    Message { id: String, text: String },
    Call { id: String, call: CompleteToolCall },
}

impl OutputItem {
    pub(super) fn to_item(&self) -> ResponseItem<'_> {
        match self {
            Self::Reasoning { id, text } => reasoning_item(id, Some(text)),
            Self::Message { id, text } => message_item(id, Some(text)),
            Self::Call { id, call } => function_call_item(id, call, true),
        }
    }
}

/// Reasoning, whole where there is a text.
pub(super) fn reasoning_item<'a>(id: &'a str, text: Option<&'a str>) -> ResponseItem<'a> {
    let summary = text.map(|text| SummaryText { kind: "summary_text", text });
    ResponseItem::Reasoning(ReasoningItem {
        id,
        kind: "reasoning",
        summary: summary.into_iter().collect(),
        encrypted_content: text,
    })
}

/// A message, whole where there is a text.
pub(super) fn message_item<'a>(id: &'a str, text: Option<&'a str>) -> ResponseItem<'a> {
    ResponseItem::Message(MessageItem {
        id,
        kind: "message",
        status: if text.is_some() { "completed" } else { "in_progress" },
        role: "assistant",
        content: text.map(output_text_part).into_iter().collect(),
    })
}

pub(super) fn output_text_part(text: &str) -> OutputText<'_> {
    OutputText { kind: "output_text", text, annotations: [], logprobs: [] }
}

/// A call, whole or just begun.
pub(super) fn function_call_item<'a>(
    id: &'a str,
    call: &'a CompleteToolCall,
    is_whole: bool,
) -> ResponseItem<'a> {
    ResponseItem::FunctionCall(FunctionCallItem {
        id,
        kind: "function_call",
        status: if is_whole { "completed" } else { "in_progress" },
        call_id: &call.id,
        name: &call.name,
        arguments: if is_whole { &call.arguments } else { "" },
    })
}

/// Appends the whole answer in one object: reasoning, then calls or, without any, the message.
pub(super) fn write_response(
    out: &mut Vec<u8>,
    (echo, ids): (&RequestEcho, &ResponseIds),
    now: u64,
    answer: &Delta<'_>,
    usage: Usage,
) {
    let calls: Vec<String> = answer.calls.iter().map(|call| ids.call_id(call.index)).collect();
    let (first, second) = (ids.reasoning_id(0, true), ids.message_id(0, true));
    let mut output = Vec::with_capacity(2 + calls.len());
    if !answer.thinking.is_empty() {
        output.push(reasoning_item(&first, Some(&answer.thinking)));
    }
    if calls.is_empty() {
        output.push(message_item(&second, Some(&answer.content)));
    }
    let called = calls.iter().zip(&answer.calls);
    output.extend(called.map(|(id, call)| function_call_item(id, call, true)));
    let state = ResponseStatus { created_at: now, completed: Some((now, usage)) };
    ndjson::append(out, &echo.build_response(ids, state, &output));
}
