//! The response object, whole or on its way (ollama-api.md 14.6).
//!
//! [`Echo`] keeps what a response tells back of its request, so that a long answer need not hold a
//! large question. Never reads a clock: the times come in as text.

use std::time::SystemTime;

use serde_json::Number;
use serde_json::value::RawValue;

use crate::api::ollama::decode::said;
use crate::api::openai::responses::{
    CallItem, InputDetails, Item, MessageItem, Metadata, OutputDetails, OutputText, ReasoningField,
    ReasoningItem, Response, ResponsesRequest, SummaryText, TextField, Usage,
};
use crate::api::wire::ndjson;
use crate::observe::timestamp;
use crate::translate::stream::{Delta, Outcome};
use crate::translate::tool_calls::{Call, on_one_line};

/// What a response tells back of its request.
#[derive(Clone, Debug)]
pub struct Echo {
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

impl Echo {
    /// Of this request, for the model of this name.
    #[must_use]
    pub fn of(request: &ResponsesRequest<'_>, model: &str) -> Self {
        let own = |text: &Option<crate::api::ollama::decode::Text<'_>>| {
            said(text.as_deref()).map(str::to_owned)
        };
        let float = |number: &Option<crate::api::openai::responses::Float>| {
            number.as_ref().map_or_else(|| Number::from(1), |number| number.0.clone())
        };
        let format = request.text.as_ref().and_then(|text| text.format);
        let reasoning = request.reasoning.as_ref().map(|it| (own(&it.effort), own(&it.summary)));
        Self {
            model: model.to_owned(),
            instructions: own(&request.instructions),
            tools: request.tools.iter().flatten().map(|tool| in_one_line(tool.get())).collect(),
            truncation: own(&request.truncation).unwrap_or_else(|| "disabled".to_owned()),
            format: in_one_line(format.map_or(r#"{"type":"text"}"#, RawValue::get)),
            top_p: float(&request.top_p),
            temperature: float(&request.temperature),
            reasoning: reasoning.filter(|(effort, summary)| effort.is_some() || summary.is_some()),
            max_output_tokens: request.max_output_tokens.map(|most| most.0),
            background: request.background.unwrap_or(false),
        }
    }
}

/// JSON that holds no line break, which would end an event.
fn in_one_line(json: &str) -> Box<RawValue> {
    RawValue::from_string(on_one_line(json)).unwrap_or_else(|_| RawValue::NULL.to_owned())
}

/// What tells one response from another.
#[derive(Clone, Debug)]
pub struct Ids {
    /// `resp_` and the number.
    pub response: String,
    number: u64,
}

impl Ids {
    /// Those of the response with this number.
    #[must_use]
    pub fn new(number: u64) -> Self {
        Self { response: format!("resp_{number}"), number }
    }

    /// Reasoning at this place; the first has Ollama's own id.
    #[must_use]
    pub fn reasoning(&self, place: usize, is_first: bool) -> String {
        let response = &self.response;
        if is_first { format!("rs_{response}") } else { format!("rs_{response}_{place}") }
    }

    /// A message at this place; the first has Ollama's own id.
    #[must_use]
    pub fn message(&self, place: usize, is_first: bool) -> String {
        let number = self.number;
        if is_first { format!("msg_{number}") } else { format!("msg_{number}_{place}") }
    }

    /// The call of this number.
    #[must_use]
    pub fn call(&self, index: usize) -> String {
        format!("fc_{}_{index}", self.response)
    }
}

/// What is behind the times and the counts of a response.
#[derive(Clone, Copy, Debug, Default)]
pub struct State {
    /// When it began, in Unix seconds.
    pub created_at: u64,
    /// When it ended, and what was counted.
    pub completed: Option<(u64, Usage)>,
}

/// Unix seconds of a time in RFC 3339.
pub(super) fn seconds(time: &str) -> u64 {
    let since =
        timestamp::parse(time).and_then(|at| at.duration_since(SystemTime::UNIX_EPOCH).ok());
    since.map_or(0, |since| since.as_secs())
}

/// The counts of an answer.
pub(super) fn usage(outcome: &Outcome) -> Usage {
    let (input, output) = (outcome.metrics.prompt_eval_count, outcome.metrics.eval_count);
    Usage {
        input_tokens: input,
        output_tokens: output,
        total_tokens: input.saturating_add(output),
        input_tokens_details: InputDetails::default(),
        output_tokens_details: OutputDetails::default(),
    }
}

impl Echo {
    /// The response in this state.
    pub(super) fn response<'a>(
        &'a self,
        ids: &'a Ids,
        state: State,
        output: &'a [Item<'a>],
    ) -> Response<'a> {
        let reasoning = self.reasoning.as_ref().map(|(effort, summary)| ReasoningField {
            effort: effort.as_deref(),
            summary: summary.as_deref(),
        });
        Response {
            id: &ids.response,
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
            text: TextField { format: &self.format },
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
pub(super) enum Done {
    Reasoning { id: String, text: String },
    Message { id: String, text: String },
    Call { id: String, call: Call },
}

impl Done {
    pub(super) fn item(&self) -> Item<'_> {
        match self {
            Self::Reasoning { id, text } => reasoning(id, Some(text)),
            Self::Message { id, text } => message(id, Some(text)),
            Self::Call { id, call } => function_call(id, call, true),
        }
    }
}

/// Reasoning, whole where there is a text.
pub(super) fn reasoning<'a>(id: &'a str, text: Option<&'a str>) -> Item<'a> {
    let summary = text.map(|text| SummaryText { kind: "summary_text", text });
    Item::Reasoning(ReasoningItem {
        id,
        kind: "reasoning",
        summary: summary.into_iter().collect(),
        encrypted_content: text,
    })
}

/// A message, whole where there is a text.
pub(super) fn message<'a>(id: &'a str, text: Option<&'a str>) -> Item<'a> {
    Item::Message(MessageItem {
        id,
        kind: "message",
        status: if text.is_some() { "completed" } else { "in_progress" },
        role: "assistant",
        content: text.map(output_text).into_iter().collect(),
    })
}

pub(super) fn output_text(text: &str) -> OutputText<'_> {
    OutputText { kind: "output_text", text, annotations: [], logprobs: [] }
}

/// A call, whole or just begun.
pub(super) fn function_call<'a>(id: &'a str, call: &'a Call, is_whole: bool) -> Item<'a> {
    Item::Call(CallItem {
        id,
        kind: "function_call",
        status: if is_whole { "completed" } else { "in_progress" },
        call_id: &call.id,
        name: &call.name,
        arguments: if is_whole { &call.arguments } else { "" },
    })
}

/// Appends the whole answer in one object: reasoning, then calls or, without any, the message.
pub(super) fn write_whole(
    out: &mut Vec<u8>,
    (echo, ids): (&Echo, &Ids),
    now: u64,
    answer: &Delta<'_>,
    usage: Usage,
) {
    let calls: Vec<String> = answer.calls.iter().map(|call| ids.call(call.index)).collect();
    let (first, second) = (ids.reasoning(0, true), ids.message(0, true));
    let mut output = Vec::with_capacity(2 + calls.len());
    if !answer.thinking.is_empty() {
        output.push(reasoning(&first, Some(&answer.thinking)));
    }
    if calls.is_empty() {
        output.push(message(&second, Some(&answer.content)));
    }
    let called = calls.iter().zip(&answer.calls);
    output.extend(called.map(|(id, call)| function_call(id, call, true)));
    let state = State { created_at: now, completed: Some((now, usage)) };
    ndjson::append(out, &echo.response(ids, state, &output));
}
