//! `POST /v1/responses`: requests, responses and events.
//!
//! The members of a request are read as leniently as Ollama's own, and its items, parts and tools more
//! leniently ([`super::responses_input`]). Responses and events only serialise themselves, in
//! the order of OpenAI's API reference, with `null` for absent members where the reference has it.

use serde::Serialize;
use serde_json::Number;
use serde_json::value::RawValue;

use crate::api::ollama::decode::{GoInt, GoString, request};

request! {
    in "openai";
    /// The request.
    pub struct ResponsesRequest<'a> {
        /// The model's name.
        pub model: GoString<'a>,
        /// A text, or a list of items.
        pub input: &'a RawValue,
        /// The first system message.
        pub instructions: GoString<'a>,
        /// Whether to stream; the default is false.
        pub stream: bool,
        /// Sampling.
        pub temperature: Number,
        /// Sampling.
        pub top_p: Number,
        /// The most tokens of the output.
        pub max_output_tokens: GoInt,
        /// Whether and how much to reason.
        pub reasoning: Reasoning<'a>,
        /// The format of the output.
        pub text: TextSettings<'a>,
        /// The tools that the model may call.
        pub tools: Vec<&'a RawValue>,
        /// Which tools the model must or must not call.
        pub tool_choice: &'a RawValue,
        /// Whether the model may call several tools at once; the default is true.
        pub parallel_tool_calls: &'a RawValue,
        /// Returned, not used.
        pub truncation: GoString<'a>,
        /// Refused if it is true.
        pub background: bool,
        /// The response that this request continues; empty counts as absent.
        pub previous_response_id: GoString<'a>,
        /// A conversation in OpenAI's storage, which is refused.
        pub conversation: &'a RawValue,
        /// Whether the response may be kept for a request that continues it; the default is true.
        pub store: bool,
    }

    /// How much to reason.
    pub struct Reasoning<'a> {
        /// `none`, `minimal`, `low` and so on; empty counts as absent.
        pub effort: GoString<'a>,
        /// Returned, not used.
        pub summary: GoString<'a>,
    }

    /// Settings of the output's text.
    pub struct TextSettings<'a> {
        /// `text`, `json_schema` with a schema, or `json_object`; returned as the client wrote it.
        pub format: &'a RawValue,
    }
}

/// The body of a response of `/v1/responses/compact`.
#[derive(Debug, Serialize)]
pub struct CompactedResponse<'a> {
    /// `resp_compact_` and a number.
    pub id: &'a str,
    /// Always `response.compaction`.
    pub object: &'static str,
    /// When the response started, in Unix seconds.
    pub created_at: u64,
    /// The compaction.
    pub output: &'a [ResponseItem<'a>],
    /// The counts.
    pub usage: Usage,
}

/// Why a response is incomplete.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct IncompleteDetails {
    /// `max_output_tokens`.
    pub reason: &'static str,
}

/// Why a response failed.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct ResponseError<'a> {
    /// What clients act by, such as `server_error`.
    pub code: &'a str,
    /// The text for people.
    pub message: &'a str,
}

/// The response object: the body of a whole response, and part of the first events and of the last.
#[derive(Debug, Serialize)]
pub struct Response<'a> {
    /// `resp_` and a number.
    pub id: &'a str,
    /// Always `response`.
    pub object: &'static str,
    /// When the response started, in Unix seconds.
    pub created_at: u64,
    /// When the response ended, in Unix seconds.
    pub completed_at: Option<u64>,
    /// `in_progress`, `completed`, `failed`, or, for a whole response that the token limit ended,
    /// `incomplete`.
    pub status: &'static str,
    /// Why the response is incomplete.
    pub incomplete_details: Option<IncompleteDetails>,
    /// The name as the client sent it.
    pub model: &'a str,
    /// As it was sent.
    pub previous_response_id: Option<&'a str>,
    /// As they were sent.
    pub instructions: Option<&'a str>,
    /// The items of the output.
    pub output: &'a [ResponseItem<'a>],
    /// Why the response failed.
    pub error: Option<ResponseError<'a>>,
    /// As they were sent.
    pub tools: &'a [Box<RawValue>],
    /// Always `auto`.
    pub tool_choice: &'static str,
    /// As it was sent; else `disabled`.
    pub truncation: &'a str,
    /// Always true.
    pub parallel_tool_calls: bool,
    /// As it was sent; else plain text.
    pub text: TextConfig<'a>,
    /// As it was sent; else 1.
    pub top_p: &'a Number,
    /// Always 0.
    pub presence_penalty: u8,
    /// Always 0.
    pub frequency_penalty: u8,
    /// Always 0.
    pub top_logprobs: u8,
    /// As it was sent; else 1.
    pub temperature: &'a Number,
    /// As it was sent.
    pub reasoning: Option<&'a ReasoningConfig>,
    /// The counts, as soon as they are known.
    pub usage: Option<Usage>,
    /// As it was sent.
    pub max_output_tokens: Option<i64>,
    /// Always null.
    pub max_tool_calls: (),
    /// As it was sent; else false, as in Ollama.
    pub store: bool,
    /// As it was sent.
    pub background: bool,
    /// Always `default`.
    pub service_tier: &'static str,
    /// Always empty.
    pub metadata: Metadata,
    /// Always null.
    pub safety_identifier: (),
    /// Always null.
    pub prompt_cache_key: (),
}

/// An object without members, such as `metadata` of a [`Response`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Metadata {}

/// `text` of a [`Response`].
#[derive(Clone, Copy, Debug, Serialize)]
pub struct TextConfig<'a> {
    /// The format of the text.
    pub format: &'a RawValue,
}

/// `reasoning` of a [`Response`].
#[derive(Clone, Debug, Serialize)]
pub struct ReasoningConfig {
    /// As it was sent.
    pub effort: Option<String>,
    /// As it was sent.
    pub summary: Option<String>,
}

/// The counts.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Usage {
    /// Tokens of the prompt.
    pub input_tokens: u64,
    /// Tokens of the answer.
    pub output_tokens: u64,
    /// Both together.
    pub total_tokens: u64,
    /// The parts of `input_tokens`.
    pub input_tokens_details: InputTokensDetails,
    /// The parts of `output_tokens`.
    pub output_tokens_details: OutputTokensDetails,
}

/// Part of the [`Usage`].
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct InputTokensDetails {
    /// Tokens that the upstream found in its cache; 0 if it does not tell.
    pub cached_tokens: u64,
}

/// Part of the [`Usage`].
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct OutputTokensDetails {
    /// Tokens of reasoning; 0 if the upstream does not tell.
    pub reasoning_tokens: u64,
}

/// One item of the output.
#[derive(Debug, Serialize)]
#[serde(untagged)]
pub enum ResponseItem<'a> {
    /// Reasoning.
    Reasoning {
        /// `rs_` and the response's id.
        id: &'a str,
        /// Always `reasoning`.
        #[serde(rename = "type")]
        kind: &'static str,
        /// The text, as soon as it is complete.
        summary: Vec<SummaryText<'a>>,
        /// The same text, for clients that send it back.
        #[serde(skip_serializing_if = "Option::is_none")]
        encrypted_content: Option<&'a str>,
    },
    /// Text.
    Message {
        /// `msg_` and a number.
        id: &'a str,
        /// Always `message`.
        #[serde(rename = "type")]
        kind: &'static str,
        /// `in_progress` or `completed`.
        status: &'static str,
        /// Always `assistant`.
        role: &'static str,
        /// The text, as soon as it is complete.
        content: Vec<OutputText<'a>>,
    },
    /// A call of a function.
    FunctionCall {
        /// `fc_`, the response's id, and the call's place.
        id: &'a str,
        /// Always `function_call`.
        #[serde(rename = "type")]
        kind: &'static str,
        /// `in_progress` or `completed`.
        status: &'static str,
        /// The id that the client's output of the call repeats.
        call_id: &'a str,
        /// The namespace that the function is a member of.
        #[serde(skip_serializing_if = "Option::is_none")]
        namespace: Option<&'a str>,
        /// The function's name.
        name: &'a str,
        /// An object, as a string of JSON; empty until it is complete.
        arguments: &'a str,
    },
    /// A call of a tool that takes free text.
    CustomToolCall {
        /// `ctc_`, the response's id, and the call's place.
        id: &'a str,
        /// Always `custom_tool_call`.
        #[serde(rename = "type")]
        kind: &'static str,
        /// `in_progress` or `completed`.
        status: &'static str,
        /// The id that the client's output of the call repeats.
        call_id: &'a str,
        /// The namespace that the tool is a member of.
        #[serde(skip_serializing_if = "Option::is_none")]
        namespace: Option<&'a str>,
        /// The tool's name.
        name: &'a str,
        /// The text; empty until it is complete.
        input: &'a str,
    },
    /// A search for tools that the client runs.
    ToolSearchCall {
        /// `tsc_`, the response's id, and the call's place.
        id: &'a str,
        /// Always `tool_search_call`.
        #[serde(rename = "type")]
        kind: &'static str,
        /// The id that the client's output of the call repeats.
        call_id: &'a str,
        /// `in_progress` or `completed`.
        status: &'static str,
        /// Always `client`.
        execution: &'static str,
        /// An object.
        arguments: &'a RawValue,
    },
    /// A command for the client's shell.
    LocalShellCall {
        /// `lsh_`, the response's id, and the call's place.
        id: &'a str,
        /// Always `local_shell_call`.
        #[serde(rename = "type")]
        kind: &'static str,
        /// `in_progress` or `completed`.
        status: &'static str,
        /// The id that the client's output of the call repeats.
        call_id: &'a str,
        /// A [`ShellAction`].
        action: &'a ShellAction,
    },
    /// A summary of the conversation.
    Compaction {
        /// `cmp_` and a number.
        id: &'a str,
        /// Always `compaction`.
        #[serde(rename = "type")]
        kind: &'static str,
        /// The summary, as JSON.
        encrypted_content: &'a str,
    },
}

/// What a shell is to do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ShellAction {
    /// Always `exec`.
    #[serde(rename = "type")]
    pub kind: &'static str,
    /// The program and its arguments.
    pub command: Vec<String>,
    /// The folder.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub working_directory: Option<String>,
    /// How long it may take.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout_ms: Option<u64>,
    /// Always empty.
    pub env: Metadata,
}

/// The text of a [`ResponseItem::Reasoning`].
#[derive(Clone, Copy, Debug, Serialize)]
pub struct SummaryText<'a> {
    /// Always `summary_text`.
    #[serde(rename = "type")]
    pub kind: &'static str,
    /// The text.
    pub text: &'a str,
}

/// The text of a [`ResponseItem::Message`].
#[derive(Clone, Copy, Debug, Serialize)]
pub struct OutputText<'a> {
    /// Always `output_text`.
    #[serde(rename = "type")]
    pub kind: &'static str,
    /// The text.
    pub text: &'a str,
    /// Always empty.
    pub annotations: [u8; 0],
    /// Always empty.
    pub logprobs: [u8; 0],
}

/// A part of an item.
#[derive(Clone, Copy, Debug, Serialize)]
#[serde(untagged)]
pub enum ItemPart<'a> {
    /// Of a message.
    Text(OutputText<'a>),
    /// Of reasoning.
    Summary(SummaryText<'a>),
}

/// One event, with the members that its kind has.
#[derive(Debug, Default, Serialize)]
pub struct StreamEvent<'a> {
    /// The event's name.
    #[serde(rename = "type")]
    pub kind: &'a str,
    /// Its place among the events, from 0.
    pub sequence_number: u64,
    /// The response at that time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub response: Option<&'a Response<'a>>,
    /// The id of the item that an event about its text concerns.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub item_id: Option<&'a str>,
    /// The item's place in the output.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub output_index: Option<usize>,
    /// The item, when it starts or ends.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub item: Option<ResponseItem<'a>>,
    /// 0 for a message.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub content_index: Option<u8>,
    /// 0 for reasoning.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub summary_index: Option<u8>,
    /// The part of a message or of reasoning, when it starts or ends.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub part: Option<ItemPart<'a>>,
    /// What is added to the text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub delta: Option<&'a str>,
    /// The whole text of a message, or of reasoning.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub text: Option<&'a str>,
    /// The whole arguments of a call.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub arguments: Option<&'a str>,
    /// The whole text of a call that takes free text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub input: Option<&'a str>,
    /// Empty for a message.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub logprobs: Option<[u8; 0]>,
}
