//! The response object of `/v1/responses`, in progress or complete.
//!
//! [`RequestEcho`] holds the members that a response repeats from its request, so that a long
//! response need not keep a large request in memory. Never reads a clock: times come in as text.

use std::time::SystemTime;

use serde_json::Number;
use serde_json::value::RawValue;

use crate::api::ollama::decode::{GoString, non_empty};
use crate::api::openai::responses::{
    InputTokensDetails, Metadata, OutputText, OutputTokensDetails, ReasoningConfig, Response,
    ResponseItem, ResponsesRequest, SummaryText, TextConfig, Usage,
};
use crate::observe::timestamp;
use crate::translate::stream::Completion;
use crate::translate::tool_calls::{CompleteToolCall, compact_json};

/// The members that a response repeats from its request.
#[derive(Clone, Debug)]
pub struct RequestEcho {
    model: String,
    instructions: Option<String>,
    tools: Vec<Box<RawValue>>,
    truncation: String,
    format: Box<RawValue>,
    top_p: Number,
    temperature: Number,
    reasoning: Option<ReasoningConfig>,
    max_output_tokens: Option<i64>,
    background: bool,
    previous_response_id: Option<String>,
    store: bool,
}

impl RequestEcho {
    /// Copies the members of `request`; `model` is the name of the client.
    pub fn from_request(request: &ResponsesRequest<'_>, model: &str) -> Self {
        let own = |text: &Option<GoString<'_>>| non_empty(text.as_deref()).map(str::to_owned);
        let float = |number: &Option<Number>| number.clone().unwrap_or_else(|| Number::from(1));
        let format = request.text.as_ref().and_then(|text| text.format);
        let reasoning = request.reasoning.as_ref();
        let reasoning = reasoning
            .map(|it| ReasoningConfig { effort: own(&it.effort), summary: own(&it.summary) });
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
            reasoning: reasoning.filter(|it| it.effort.is_some() || it.summary.is_some()),
            max_output_tokens: request.max_output_tokens.map(|most| most.0),
            background: request.background.unwrap_or(false),
            previous_response_id: own(&request.previous_response_id),
            store: request.store.unwrap_or(false),
        }
    }
}

/// JSON without line breaks, which would end an event.
fn compact_raw_json(json: &str) -> Box<RawValue> {
    RawValue::from_string(compact_json(json)).unwrap_or_else(|_| RawValue::NULL.to_owned())
}

/// The ids of a response and its items.
#[derive(Clone, Debug)]
pub struct ResponseIds {
    /// `resp_` and the number.
    pub response_id: String,
    number: u64,
}

impl ResponseIds {
    /// The ids of the response with this number.
    pub fn new(number: u64) -> Self {
        Self { response_id: format!("resp_{number}"), number }
    }

    /// The id of reasoning at this place of the output; the first has the id that Ollama gives it.
    pub fn reasoning_id(&self, place: usize, is_first: bool) -> String {
        let response = &self.response_id;
        if is_first { format!("rs_{response}") } else { format!("rs_{response}_{place}") }
    }

    /// The id of a message at this place of the output; the first has the id that Ollama gives it.
    pub fn message_id(&self, place: usize, is_first: bool) -> String {
        let number = self.number;
        if is_first { format!("msg_{number}") } else { format!("msg_{number}_{place}") }
    }

    /// The id of the call with this index.
    pub fn call_id(&self, index: usize) -> String {
        format!("fc_{}_{index}", self.response_id)
    }
}

/// The Unix seconds of a time in RFC 3339.
pub(super) fn unix_seconds(time: &str) -> u64 {
    let since = timestamp::parse_rfc3339(time)
        .and_then(|at| at.duration_since(SystemTime::UNIX_EPOCH).ok());
    since.map_or(0, |since| since.as_secs())
}

/// The token counts of a response.
pub(super) fn to_usage(outcome: &Completion) -> Usage {
    let (input, output) = (outcome.metrics.prompt_eval_count, outcome.metrics.eval_count);
    Usage {
        input_tokens: input,
        output_tokens: output,
        total_tokens: input.saturating_add(output),
        input_tokens_details: InputTokensDetails {
            cached_tokens: outcome.metrics.prompt_eval_cached_count.unwrap_or(0),
        },
        output_tokens_details: OutputTokensDetails::default(),
    }
}

impl RequestEcho {
    /// The response that began at `created_at`; `completed` holds the time of its end and its counts.
    /// Times are Unix seconds.
    pub(super) fn build_response<'a>(
        &'a self,
        ids: &'a ResponseIds,
        created_at: u64,
        completed: Option<(u64, Usage)>,
        output: &'a [ResponseItem<'a>],
    ) -> Response<'a> {
        Response {
            id: &ids.response_id,
            object: "response",
            created_at,
            completed_at: completed.map(|(at, _)| at),
            status: status(completed.is_some()),
            incomplete_details: None,
            model: &self.model,
            previous_response_id: self.previous_response_id.as_deref(),
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
            reasoning: self.reasoning.as_ref(),
            usage: completed.map(|(_, usage)| usage),
            max_output_tokens: self.max_output_tokens,
            max_tool_calls: (),
            store: self.store,
            background: self.background,
            service_tier: "default",
            metadata: Metadata {},
            safety_identifier: (),
            prompt_cache_key: (),
        }
    }
}

/// An item of the output.
#[derive(Clone, Debug)]
pub(super) struct OutputItem {
    pub(super) kind: ItemKind,
    pub(super) id: String,
    /// The text so far; the arguments of a call.
    pub(super) text: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum ItemKind {
    Reasoning,
    Message,
    Call { call_id: String, name: String },
}

impl OutputItem {
    pub(super) fn from_call(ids: &ResponseIds, call: &CompleteToolCall) -> Self {
        Self {
            kind: ItemKind::Call { call_id: call.id.clone(), name: call.name.clone() },
            id: ids.call_id(call.index),
            text: call.arguments.clone(),
        }
    }

    /// The item as clients read it: without its text until it is complete.
    pub(super) fn to_item(&self, is_complete: bool) -> ResponseItem<'_> {
        let (id, status) = (self.id.as_str(), status(is_complete));
        let text = is_complete.then_some(self.text.as_str());
        match &self.kind {
            ItemKind::Reasoning => ResponseItem::Reasoning {
                id,
                kind: "reasoning",
                summary: text
                    .map(|text| SummaryText { kind: "summary_text", text })
                    .into_iter()
                    .collect(),
                encrypted_content: text,
            },
            ItemKind::Message => ResponseItem::Message {
                id,
                kind: "message",
                status,
                role: "assistant",
                content: text.map(output_text_part).into_iter().collect(),
            },
            ItemKind::Call { call_id, name } => ResponseItem::FunctionCall {
                id,
                kind: "function_call",
                status,
                call_id,
                name,
                arguments: text.unwrap_or_default(),
            },
        }
    }
}

pub(super) fn output_text_part(text: &str) -> OutputText<'_> {
    OutputText { kind: "output_text", text, annotations: [], logprobs: [] }
}

fn status(is_complete: bool) -> &'static str {
    if is_complete { "completed" } else { "in_progress" }
}
