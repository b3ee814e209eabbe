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
//! | `thinking`, `output_config.effort` | `think` |
//! | `tools` | functions; server tools (`web_search...`) are left out |
//! | `tool_choice` | OpenAI's, as Ollama's API has none; `auto` is the default and not sent |
//! | `cache_control` of blocks and tools | the same, for families that take it |
//! | `stream` | false by default |
//! | `metadata`, `mcp_servers`, all others | ignored |
//!
//! # Protocol
//!
//! `/v1/messages` answers as Ollama does, streams included. `anthropic-version`, `anthropic-beta`
//! and query parameters are ignored.
//!
//! - `tool_choice` is sent, which Ollama ignores; an upstream that rejects it is asked again
//!   without.
//! - A tool result with `is_error` begins with `Error: `, because chat completions have no such
//!   mark.
//! - A model that is known not to think is not asked to; that is no error.
//! - `"thread": {"type": "continue"}` is refused with 400, because no conversation is stored.
//! - `stop_reason` is `end_turn`, `max_tokens` or `tool_use`, never `stop_sequence`: upstreams do
//!   not report which stop sequence ended a response.
//! - `input_tokens` of `count_tokens`, and at the beginning of a stream whose upstream has sent no
//!   count, is an estimate: a quarter of the characters of system prompt, messages and tools, at
//!   least 1, plus 1,600 for each image.
//! - `cache_read_input_tokens` and `cache_creation_input_tokens` are there if the upstream tells of its
//!   cache; `input_tokens` is the rest of the prompt (Anthropic API reference, prompt caching), so that
//!   the three add up to it. In a stream they are in `message_delta`, because nothing is known earlier.

pub mod messages;
pub mod stream;

use serde_json::{Map, Number, Value};

use crate::api::anthropic::request::{MessagesRequest, Tool};
use crate::api::ollama::decode::{self, GoString};
use crate::api::ollama::request::{ChatRequest, FunctionDefinition, Tool as OllamaTool};
use crate::api::ollama::schema::Schema;
use crate::api::openai::request as openai;
use crate::api::openai::request::ToolChoice;
use crate::backends::profiles::Profile;
use crate::error::{Error, Result};
use crate::translate::{cache_marks, chat, options, think, tools};

/// The estimate for an image: about the count that Anthropic documents for a large one.
const TOKENS_PER_IMAGE: u64 = 1600;

/// A rough number of characters in a token.
const CHARS_PER_TOKEN: u64 = 4;

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
        return Err(missing_messages_error());
    }
    // The proxy stores no conversation that could be continued.
    if request.thread.as_ref().is_some_and(|thread| thread["type"] == "continue") {
        let feature =
            "\"thread\" is not supported: no conversation is kept here, send all its messages";
        return Err(Error::Unsupported(feature.into()));
    }
    Ok(())
}

fn missing_messages_error() -> Error {
    Error::invalid_request("messages is required")
}

/// The request as one of `/api/chat`. It must have passed [`validate`].
///
/// # Errors
/// [`Error::InvalidRequest`] for an invalid block or schema.
pub fn to_ollama<'a>(request: &'a MessagesRequest<'a>) -> Result<ChatRequest<'a>> {
    let messages = messages::to_ollama_messages(request)?;
    // The proxy has no web search, which the server would run itself.
    let is_server_tool =
        |tool: &&Tool<'_>| tool.kind.as_deref().is_some_and(|kind| kind.starts_with("web_search"));
    let functions = request.tools.iter().flatten().filter(|tool| !is_server_tool(tool));
    let tools = functions.map(to_tool).collect::<Result<Vec<_>>>()?;
    Ok(ChatRequest {
        // Its clients shorten a conversation themselves when they are told.
        truncate: Some(false),
        model: request.model.clone(),
        messages: Some(messages),
        tools: Some(tools),
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
    Ok(upstream)
}

/// An estimate of the tokens in a prompt: a quarter of its characters, at least 1, and a fixed number
/// for each image.
pub fn estimate_tokens(chat: &ChatRequest<'_>) -> u64 {
    let length = |text: Option<&str>| text.map_or(0, |text| text.chars().count());
    let mut characters = 0;
    let mut images = 0;
    for message in chat.messages.iter().flatten() {
        characters += length(message.content.as_deref()) + length(message.thinking.as_deref());
        for function in message.tool_calls.iter().flatten().filter_map(|it| it.function.as_ref()) {
            let arguments = function.arguments.map(|arguments| arguments.get());
            characters += length(function.name.as_deref()) + length(arguments);
        }
        images += message.images.iter().flatten().count() as u64;
    }
    for function in chat.tools.iter().flatten().filter_map(|tool| tool.function.as_ref()) {
        let parameters = function.parameters.map(|schema| schema.0.get());
        characters += length(function.name.as_deref()) + length(parameters);
        characters += length(function.description.as_deref());
    }
    (characters as u64 / CHARS_PER_TOKEN).max(1) + images * TOKENS_PER_IMAGE
}

fn to_tool<'a>(tool: &'a Tool<'a>) -> Result<OllamaTool<'a>> {
    let parameters = tool.input_schema.map(|schema| {
        decode::parse::<Option<Schema<'_>>>(schema.get(), "ToolFunctionParameters").map_err(
            |error| {
                let name = tool.name.as_deref().unwrap_or_default();
                Error::invalid_request(format!(
                    "invalid input_schema for tool {name:?}: {}",
                    error.message()
                ))
            },
        )
    });
    let function = FunctionDefinition {
        name: tool.name.clone(),
        description: tool.description.clone(),
        parameters: parameters.transpose()?.flatten(),
    };
    let cache_control = tool.cache_control.filter(|mark| cache_marks::is_mark(mark));
    Ok(OllamaTool { function: Some(function), cache_control })
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
    match request.thinking.as_ref().and_then(|thinking| thinking.kind.as_deref()) {
        Some("enabled") => return Some(true.into()),
        Some("disabled") => return Some(false.into()),
        _ => {}
    }
    let effort = request.output_config.as_ref().and_then(|config| config.effort.as_deref());
    match effort? {
        "xhigh" => Some("high".into()),
        effort => Some(effort.into()).filter(|level| think::parse(Some(level)).is_ok()),
    }
}

/// The choice of tools. Upstreams refuse one without tools, or of a tool that is not among them.
fn to_tool_choice<'a>(
    request: &MessagesRequest<'_>,
    tools: &[openai::Tool<'a>],
) -> Option<ToolChoice<'a>> {
    let choice = request.tool_choice.as_ref().filter(|_| !tools.is_empty())?;
    match choice.kind.as_deref()? {
        "any" => Some(ToolChoice::Mode("required")),
        "none" => Some(ToolChoice::Mode("none")),
        "tool" => tools::choose(tools, choice.name.as_deref()?),
        _ => None,
    }
}

/// Several texts as one, without separators.
fn concat_texts<'a>(texts: &[&'a str]) -> Option<GoString<'a>> {
    match texts {
        [] => None,
        [text] => Some(GoString((*text).into())),
        texts => Some(GoString(texts.concat().into())),
    }
}
