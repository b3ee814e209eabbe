//! Translates `/api/chat` to `chat/completions`, and back.
//!
//! | member | translation |
//! | --- | --- |
//! | `model` | the upstream's id, resolved by the caller |
//! | `messages` | `translate::history` and `translate::media`; a missing content is empty |
//! | `tools` | `translate::tools` |
//! | `format`, `options`, `think` | `translate::format`, `translate::options`, `translate::think` |
//! | `stream` | always sent |
//! | `logprobs`, `top_logprobs` | the same, with at least one alternative, as the upstream takes them |
//! | an assistant's message at the end | continued, with `continue_final_message` where it is needed |
//! | `keep_alive` | `ttl` for LM Studio; ignored for others |
//! | `truncate` | whether the oldest turns may go when the upstream says that the context is exceeded |
//! | `shift` | ignored: it configures Ollama's own engine |

use serde_json::{Map, Value};

use crate::api::ollama::decode::{GoInt, non_empty};
use crate::api::ollama::request::{Attachment, ChatRequest};
use crate::api::ollama::response::{
    ChatResponse, FunctionCall, Metrics, ResponseMessage, ToolCall,
};
use crate::api::ollama::text_line;
use crate::api::openai::request as openai;
use crate::api::openai::request::{Message, StreamOptions};
use crate::api::wire::ndjson;
use crate::backends::profiles::{LogprobsParam, Profile};
use crate::error::{Error, Result};
use crate::translate::stream::{Completion, Delta, Encoder};
use crate::translate::think::{self, ThinkMode};
use crate::translate::tool_calls::CompleteToolCall;
use crate::translate::{format, history, options, quirks, tools};

/// The outputs beside the text that a request asks for.
#[derive(Clone, Copy, Debug)]
pub(super) struct ExtraOutputs<'a> {
    /// Whether to reason.
    pub think: ThinkMode<'a>,
    /// The number of alternatives for each token; `None` without log probabilities.
    pub logprobs: Option<usize>,
}

/// The request for the upstream.
///
/// # Errors
/// [`Error::InvalidRequest`], [`Error::InvalidOption`] and [`Error::Unsupported`], in Ollama's words.
pub fn to_openai<'a>(
    request: &'a ChatRequest<'a>,
    model: &'a str,
    profile: &Profile,
) -> Result<openai::ChatRequest<'a>> {
    let tools = request.tools.as_deref().unwrap_or_default();
    let messages = request.messages.as_deref().unwrap_or_default();
    let messages = history::to_openai_with_tools(messages, tools, profile)?;
    let options = options::parse(request.options.as_ref())?;
    let format = format::to_response_format(request.format, profile)?;
    let stream = request.stream.unwrap_or(true);
    let extras = ExtraOutputs {
        think: think::parse(request.think.as_ref())?,
        logprobs: top_logprobs(request.logprobs, request.top_logprobs),
    };
    let mut chat = build_chat(model, messages, &options, format, stream, profile, extras);
    chat.tools = tools::to_openai(tools);
    if !profile.takes_cache_marks {
        chat.tools.iter_mut().for_each(|tool| tool.cache_control = None);
    }
    chat.may_truncate = request.truncate.unwrap_or(true);
    chat.sampling.extend(options::keep_alive_to_ttl(request.keep_alive.as_ref(), profile));
    Ok(chat)
}

/// Refuses invalid media and calls, which Ollama refuses while it reads the body.
///
/// # Errors
/// [`Error::InvalidRequest`].
pub fn check_body(request: &ChatRequest<'_>) -> Result<()> {
    history::to_openai(request.messages.as_deref().unwrap_or_default()).map(drop)
}

/// Builds a request from its parts; `/api/generate` does, too.
pub(super) fn build_chat<'a>(
    model: &'a str,
    mut messages: Vec<Message<'a>>,
    options: &options::Options,
    format: Option<openai::ResponseFormat<'a>>,
    stream: bool,
    profile: &Profile,
    extras: ExtraOutputs<'_>,
) -> openai::ChatRequest<'a> {
    quirks::apply(&mut messages, profile, model);
    let texts = messages.iter().map(Message::as_text);
    if format::needs_json_instruction(format.as_ref(), profile, texts) {
        messages.insert(0, Message::text("system", format::JSON_INSTRUCTION));
    }
    let mut sampling = options.for_chat(profile);
    if profile.has_continue_final_message && messages.last().is_some_and(Message::is_prefill) {
        let switches = openai::CONTINUE_FINAL_MESSAGE.into_iter();
        sampling.extend(switches.map(|(name, value)| (name.to_owned(), value.into())));
    }
    sampling.append(&mut think::to_parameters(extras.think, profile, model));
    if let Some(top) = extras.logprobs {
        sampling.append(&mut logprobs_parameters(top, profile));
    }
    let mut effects = options.stop_effects(profile);
    // A stream can be ended at a stop string.
    let stream = stream || !(effects.sent_stop || effects.watched_stop.is_empty());
    let continued = messages.last().filter(|message| !stream && message.is_prefill());
    effects.continued_text = continued.map(|message| message.as_text().to_owned());
    openai::ChatRequest {
        model,
        messages,
        stream,
        stream_options: StreamOptions::for_stream(stream),
        sampling,
        response_format: format,
        tools: Vec::new(),
        tool_choice: None,
        may_truncate: false,
        effects,
    }
}

/// True if families differ in how they take this conversation: it ends with words of the assistant,
/// or it holds reasoning, which some of them want back, or documents.
pub fn is_family_specific(request: &ChatRequest<'_>) -> bool {
    let mut messages = request.messages.iter().flatten();
    ends_with_prefill(request)
        || messages.any(|message| {
            let is_file = |it: &Attachment<'_>| matches!(it, Attachment::File { .. });
            let has_thinking = non_empty(message.thinking.as_deref()).is_some();
            has_thinking || message.attachments.iter().any(is_file)
        })
}

/// True if a conversation ends with words of the assistant, which Ollama continues.
fn ends_with_prefill(request: &ChatRequest<'_>) -> bool {
    let last = request.messages.as_deref().unwrap_or_default().last();
    last.is_some_and(|message| {
        message.role.as_deref().is_some_and(|role| role.eq_ignore_ascii_case("assistant"))
            && message.tool_calls.as_ref().is_none_or(Vec::is_empty)
    })
}

/// The parameters for log probabilities, as the upstream takes them.
fn logprobs_parameters(top: usize, profile: &Profile) -> Map<String, Value> {
    // Without a number, llama.cpp sends 20.
    let top = top.max(1);
    let (flag, count) = match profile.logprobs {
        LogprobsParam::FlagAndCount(most) => (Some(true.into()), Some(top.min(most).into())),
        LogprobsParam::Count => (Some(top.into()), None),
        LogprobsParam::Unsupported => (None, None),
    };
    options::from_members([("logprobs", flag), ("top_logprobs", count)])
}

/// The number of alternatives for each token; `None` without log probabilities.
pub fn top_logprobs(logprobs: Option<bool>, top: Option<GoInt>) -> Option<usize> {
    let top = top.and_then(|top| usize::try_from(top.0).ok()).unwrap_or(0);
    logprobs.unwrap_or(false).then_some(top)
}

/// Ollama's error for a capability that a model lacks.
pub fn unsupported_error(model: Option<&str>, what: &str) -> Error {
    Error::Unsupported(format!("{:?} does not support {what}", model.unwrap_or_default()))
}

/// Writes the objects of `/api/chat`.
#[derive(Debug)]
pub struct ChatEncoder<'a> {
    /// The name as the client sent it.
    pub model: &'a str,
}

impl ChatEncoder<'_> {
    /// Appends the response to a request without messages, which loads or unloads the model.
    pub fn encode_empty(&self, out: &mut Vec<u8>, created_at: &str, done_reason: &str) {
        ndjson::append(
            out,
            &self.build_object(created_at, &Delta::default(), Some(done_reason), None),
        );
    }

    fn build_object<'a>(
        &'a self,
        created_at: &'a str,
        delta: &'a Delta<'_>,
        done_reason: Option<&'a str>,
        metrics: Option<Metrics>,
    ) -> ChatResponse<'a> {
        let (content, thinking) = (delta.content.as_ref(), delta.thinking.as_ref());
        let tool_calls = delta.calls.iter().filter_map(to_tool_call).collect();
        ChatResponse {
            model: self.model,
            created_at,
            message: ResponseMessage { role: "assistant", content, thinking, tool_calls },
            done: done_reason.is_some(),
            done_reason,
            logprobs: &delta.logprobs,
            metrics,
        }
    }
}

/// A call for the client, whose arguments are always an object.
fn to_tool_call(call: &CompleteToolCall) -> Option<ToolCall<'_>> {
    let arguments = serde_json::from_str(call.arguments_object()).ok()?;
    let function = FunctionCall { index: call.index, name: &call.name, arguments };
    Some(ToolCall { id: &call.id, function })
}

impl Encoder for ChatEncoder<'_> {
    fn encode_delta(&mut self, out: &mut Vec<u8>, created_at: &str, delta: &Delta<'_>) {
        match delta.only_content() {
            Some(content) => text_line::append_chat(out, self.model, created_at, content),
            None => ndjson::append_line(out, &self.build_object(created_at, delta, None, None)),
        }
    }

    fn encode_final(
        &mut self,
        out: &mut Vec<u8>,
        created_at: &str,
        rest: &Delta<'_>,
        outcome: &Completion,
    ) {
        let (reason, metrics) = (Some(outcome.done_reason), Some(outcome.metrics));
        ndjson::append(out, &self.build_object(created_at, rest, reason, metrics));
    }
}
