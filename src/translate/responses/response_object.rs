//! The response object of `/v1/responses`, in progress, complete or failed.
//!
//! [`RequestEcho`] holds the members that a response repeats from its request, so that a long
//! response need not keep a large request in memory. Never reads a clock: times come in as text.

use std::time::SystemTime;

use serde_json::Number;
use serde_json::value::RawValue;

use crate::api::ollama::decode::{GoString, non_empty};
use crate::api::openai::responses::{
    InputTokensDetails, Metadata, OutputTokensDetails, ReasoningConfig, Response, ResponseError,
    ResponseItem, ResponsesRequest, TextConfig, Usage,
};
use crate::observe::timestamp;
use crate::translate::stream::Completion;
use crate::translate::tool_calls::compact_json;

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

    /// The id of a compaction.
    pub fn compaction_id(&self) -> String {
        format!("cmp_{}", self.number)
    }

    /// The id of a response that holds nothing but a compaction.
    pub fn compact_response_id(&self) -> String {
        format!("resp_compact_{}", self.number)
    }

    /// The id of the call with this index.
    pub fn call_id(&self, index: usize) -> String {
        self.tool_call_id("fc", index)
    }

    /// The id of the call with this index; the prefix tells its form.
    pub(super) fn tool_call_id(&self, prefix: &str, index: usize) -> String {
        format!("{prefix}_{}_{index}", self.response_id)
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
        output_tokens_details: OutputTokensDetails {
            reasoning_tokens: outcome.metrics.reasoning_count.unwrap_or(0),
        },
    }
}

impl RequestEcho {
    /// The response that began at `created_at`, in Unix seconds.
    pub(super) fn build_response<'a>(
        &'a self,
        ids: &'a ResponseIds,
        created_at: u64,
        stage: Stage<'a>,
        output: &'a [ResponseItem<'a>],
    ) -> Response<'a> {
        let (completed_at, usage, error) = match stage {
            Stage::InProgress => (None, None, None),
            Stage::Completed(at, usage) => (Some(at), Some(usage), None),
            Stage::Failed(error) => (None, None, Some(error)),
        };
        Response {
            id: &ids.response_id,
            object: "response",
            created_at,
            completed_at,
            status: stage.status(),
            incomplete_details: None,
            model: &self.model,
            previous_response_id: self.previous_response_id.as_deref(),
            instructions: self.instructions.as_deref(),
            output,
            error,
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
            usage,
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

/// How far a response is.
#[derive(Clone, Copy, Debug)]
pub(super) enum Stage<'a> {
    InProgress,
    /// When it ended, in Unix seconds, and its counts.
    Completed(u64, Usage),
    Failed(ResponseError<'a>),
}

impl Stage<'_> {
    fn status(&self) -> &'static str {
        match self {
            Self::InProgress => "in_progress",
            Self::Completed(..) => "completed",
            Self::Failed(_) => "failed",
        }
    }
}
