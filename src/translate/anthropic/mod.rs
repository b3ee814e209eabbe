//! Translates Anthropic's `/v1/messages` to `chat/completions`, and back.
//!
//! A request becomes one of `/api/chat` first, so that options, reasoning, history, media, tools and
//! virtual models are translated in one place.
//!
//! | member | translation |
//! | --- | --- |
//! | `model` | the upstream's id, resolved by the caller |
//! | `max_tokens` | required; `num_predict` |
//! | `system`, `messages` | [`messages`] |
//! | `temperature`, `top_p`, `top_k`, `stop_sequences` | options, if present |
//! | `thinking`, `output_config.effort` | `think`, by any name |
//! | `output_config.format`, `output_format` | `response_format` |
//! | `tools` | functions, see `tools` |
//! | `tool_choice` | OpenAI's, as Ollama's API has none; `auto` is the default and not sent |
//! | `disable_parallel_tool_use` | `parallel_tool_calls` |
//! | `cache_control` of blocks and tools | the same, for families that take it |
//! | `stream` | false by default |
//! | `metadata`, `mcp_servers`, `context_management`, all others | ignored |
//!
//! # Protocol
//!
//! `/v1/messages` answers as Anthropic's API does (Anthropic API reference, messages), with the errors of
//! Ollama for members of the wrong type. `anthropic-version`, `anthropic-beta` and query parameters are
//! ignored. What is unknown is never refused: blocks, tools and types of tomorrow are left out.
//!
//! - `tool_choice` is sent, which Ollama ignores; an upstream that rejects it is asked again
//!   without. A choice of a tool that was left out is not sent.
//! - A tool result with `is_error` begins with `Error: `, because chat completions have no such
//!   mark.
//! - A model that is known not to think is not asked to; that is no error.
//! - `"thread": {"type": "continue"}` is refused with the code `thread_not_found`, because no conversation
//!   is stored: clients then send all of it.
//! - Thinking blocks have a `signature`, without which clients do not accept them; it is never checked when
//!   it comes back.
//! - `stop_reason` is `end_turn`, `max_tokens`, `tool_use` or `refusal`, never `stop_sequence`: upstreams do
//!   not report which stop sequence ended a response.
//! - `input_tokens` of `count_tokens`, and at the beginning of a stream whose upstream has sent no
//!   count, is an estimate: a quarter of the characters of system prompt, messages and tools, at
//!   least 1, plus 1,600 for each image and more for documents.
//! - `cache_read_input_tokens` and `cache_creation_input_tokens` are there if the upstream tells of its
//!   cache; `input_tokens` is the rest of the prompt (Anthropic API reference, prompt caching), so that
//!   the three add up to it. In a stream they are in `message_delta`, because nothing is known earlier.

pub mod errors;
pub mod messages;
mod results;
pub mod stream;
mod tools;
mod turn;

use serde_json::value::RawValue;
use serde_json::{Map, Number, Value};

pub use self::tools::tool_names;
use crate::api::anthropic::lenient::object;
use crate::api::anthropic::request::MessagesRequest;
use crate::api::ollama::decode::non_empty;
use crate::api::ollama::request::{Attachment, ChatRequest, FileSource};
use crate::api::openai::request as openai;
use crate::api::openai::request::ToolChoice;
use crate::backends::profiles::Profile;
use crate::error::{Error, ErrorCode, Result};
use crate::translate::skipped::Skipped;
use crate::translate::tool_names::ToolForm;
use crate::translate::{chat, options};

/// The estimate for an image: about the count that Anthropic documents for a large one.
const TOKENS_PER_IMAGE: u64 = 1600;

/// A rough number of characters in a token.
const CHARS_PER_TOKEN: u64 = 4;

/// A rough number of base64 digits of a document for each token that it takes.
const DIGITS_PER_TOKEN: u64 = 40;

/// The parameter that lets a model call one tool at a time.
const PARALLEL_CALLS: &str = "parallel_tool_calls";

/// True if the request marks what is to be cached, which only some families take.
pub fn has_cache_marks(chat: &ChatRequest<'_>) -> bool {
    let mut messages = chat.messages.iter().flatten();
    let mut tools = chat.tools.iter().flatten();
    messages.any(|it| !it.marked_parts.is_empty()) || tools.any(|it| it.cache_control.is_some())
}

/// Refuses a request without a required member, in Ollama's order. Counting tokens needs no
/// `max_tokens`.
///
/// # Errors
/// [`Error::InvalidRequest`].
pub fn validate(request: &MessagesRequest<'_>, needs_limit: bool) -> Result<()> {
    if request.model.as_deref().is_none_or(|name| name.trim().is_empty()) {
        return Err(Error::invalid_request("model is required"));
    }
    if needs_limit && request.max_tokens.is_none_or(|limit| limit.0 <= 0) {
        return Err(Error::invalid_request("max_tokens is required and must be positive"));
    }
    if request.messages.as_ref().is_none_or(Vec::is_empty) {
        return Err(Error::invalid_request("messages is required"));
    }
    // The proxy stores no conversation that could be continued.
    let thread = object(&request.thread).and_then(|thread| thread.kind.as_deref());
    if thread == Some("continue") {
        let reason = "this proxy keeps no threads: send all messages of the conversation";
        return Err(Error::Coded(ErrorCode::THREAD_NOT_FOUND, reason.to_owned()));
    }
    Ok(())
}

/// The request as one of `/api/chat`. It must have passed [`validate`]. `skipped` gets what is left out.
///
/// # Errors
/// [`Error::InvalidRequest`] for an invalid block or schema.
pub fn to_ollama<'a>(
    request: &'a MessagesRequest<'a>,
    skipped: &mut Skipped,
) -> Result<ChatRequest<'a>> {
    let mut names = tool_names(request);
    let messages = messages::to_ollama_messages(request, &mut names, skipped)?;
    let tools = tools::to_functions(request, &mut names, skipped);
    Ok(ChatRequest {
        // Its clients shorten a conversation themselves when they are told.
        truncate: Some(false),
        model: request.model.clone(),
        messages: Some(messages),
        tools: Some(tools),
        format: to_format(request),
        options: Some(to_options(request)),
        stream: Some(request.stream.unwrap_or(false)),
        think: to_think(request),
        ..ChatRequest::default()
    })
}

/// The request for the upstream; `chat` is the result of [`to_ollama`], with the defaults of a
/// virtual model.
///
/// # Errors
/// As [`chat::to_openai`].
pub fn to_openai<'a>(
    request: &'a MessagesRequest<'a>,
    chat: &'a ChatRequest<'a>,
    model: &'a str,
    profile: &Profile,
) -> Result<openai::ChatRequest<'a>> {
    let mut upstream = chat::to_openai(chat, model, profile)?;
    upstream.tool_choice = to_tool_choice(request, &upstream.tools);
    let is_serial = object(&request.tool_choice)
        .and_then(|choice| choice.disable_parallel_tool_use)
        .is_some_and(|flag| flag.0);
    if is_serial && !upstream.tools.is_empty() {
        upstream.sampling.insert(PARALLEL_CALLS.to_owned(), false.into());
    }
    Ok(upstream)
}

/// An estimate of the tokens in a prompt: a quarter of its characters, at least 1, and a fixed number
/// for each image.
pub fn estimate_tokens(chat: &ChatRequest<'_>) -> u64 {
    let length = |text: Option<&str>| text.map_or(0, |text| text.chars().count());
    let mut characters = 0;
    let mut tokens = 0;
    for message in chat.messages.iter().flatten() {
        characters += length(message.content.as_deref()) + length(message.thinking.as_deref());
        for function in message.tool_calls.iter().flatten().filter_map(|it| it.function.as_ref()) {
            let arguments = function.arguments.map(|arguments| arguments.get());
            characters += length(function.name.as_deref()) + length(arguments);
        }
        tokens += TOKENS_PER_IMAGE * message.images.iter().flatten().count() as u64;
        tokens += message.attachments.iter().map(attachment_tokens).sum::<u64>();
    }
    for function in chat.tools.iter().flatten().filter_map(|tool| tool.function.as_ref()) {
        let parameters = function.parameters.map(|schema| schema.0.get());
        characters += length(function.name.as_deref()) + length(parameters);
        characters += length(function.description.as_deref());
    }
    (characters as u64 / CHARS_PER_TOKEN).max(1) + tokens
}

fn attachment_tokens(attachment: &Attachment<'_>) -> u64 {
    match attachment {
        Attachment::File { source: FileSource::Base64 { data, .. }, .. } => {
            TOKENS_PER_IMAGE + data.len() as u64 / DIGITS_PER_TOKEN
        }
        Attachment::File { .. } | Attachment::ImageUrl { .. } => TOKENS_PER_IMAGE,
    }
}

/// The schema of the text, if one is asked for.
fn to_format<'a>(request: &'a MessagesRequest<'a>) -> Option<&'a RawValue> {
    let config = object(&request.output_config).and_then(|config| object(&config.format));
    let formats = [config, object(&request.output_format)].into_iter().flatten();
    let schemas = formats.filter_map(|format| format.schema);
    schemas.into_iter().find(|schema| schema.get().starts_with('{'))
}

fn to_options(request: &MessagesRequest<'_>) -> Map<String, Value> {
    let float = |number: &Number| Value::Number(number.clone());
    let stop = request.stop_sequences.as_ref();
    let stop = stop.map(|stop| stop.iter().map(|text| Value::from(&**text)).collect());
    options::from_members([
        ("num_predict", request.max_tokens.map(|limit| limit.0.into())),
        ("temperature", request.temperature.as_ref().map(float)),
        ("top_p", request.top_p.as_ref().map(float)),
        ("top_k", request.top_k.map(|number| number.0.into())),
        ("stop", stop.map(Value::Array)),
    ])
}

/// Whether to reason, and how much.
fn to_think(request: &MessagesRequest<'_>) -> Option<Value> {
    match object(&request.thinking).and_then(|thinking| thinking.kind.as_deref()) {
        Some("enabled") => return Some(true.into()),
        Some("disabled") => return Some(false.into()),
        _ => {}
    }
    let effort = object(&request.output_config).and_then(|it| non_empty(it.effort.as_deref()));
    effort.map(Value::from)
}

/// The choice of tools. Upstreams refuse one without tools, or of a tool that is not among them.
fn to_tool_choice<'a>(
    request: &MessagesRequest<'_>,
    tools: &[openai::Tool<'a>],
) -> Option<ToolChoice<'a>> {
    let choice = object(&request.tool_choice).filter(|_| !tools.is_empty())?;
    match choice.kind.as_deref()? {
        "any" => Some(ToolChoice::Mode("required")),
        "none" => Some(ToolChoice::Mode("none")),
        "tool" => {
            let name = non_empty(choice.name.as_deref())?;
            let mut names = tool_names(request);
            let name = names.declare(ToolForm::Function, None, name);
            crate::translate::tools::choose(tools, name)
        }
        _ => None,
    }
}
