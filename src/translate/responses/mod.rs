//! Translates `/v1/responses` to `chat/completions`, and back, for an upstream without the endpoint.
//!
//! A request becomes one of `/api/chat` first, as in Ollama itself, so that history, media, the rules
//! of upstreams and virtual models are translated in one place.
//!
//! | member | translation |
//! | --- | --- |
//! | `model` | the upstream's id, resolved by the caller |
//! | `instructions`, `input` | messages, see [`input`] |
//! | `temperature`, `top_p`, `max_output_tokens` | options; absent ones stay absent, although Ollama sends a temperature of 1 |
//! | `reasoning.effort` | `think`, by any name |
//! | `text.format` | `format`; plain text is none |
//! | `tools` | functions, see [`tools`] |
//! | `tool_choice` | chat's form, if there are tools. `auto` is the default; `allowed_tools` leaves only those tools; a choice of a tool that was left out is not sent |
//! | `parallel_tool_calls` | sent if it is false and there are tools |
//! | `stream` | events or one object, see [`stream`] |
//! | `truncation` | repeated in the response |
//! | `previous_response_id` | the items of that response, put in front of the input by the caller |
//! | `store` | false keeps nothing of the response |
//! | `conversation`, `background` | refused by the caller |
//! | `include`, `metadata`, all else | ignored |
//!
//! # Protocol
//!
//! An upstream without `/v1/responses` (404 or 405, remembered until the process ends) is asked for
//! chat completions. The response, events included, is what Ollama's would be, except:
//!
//! - responses are kept in memory for a short time, which `previous_response_id` and `item_reference`
//!   find ([`items`]);
//! - no temperature is sent unless requested;
//! - `tool_choice` and the format `json_object` are respected;
//! - calls have the form in which their tools were declared: free text, a member of a namespace, a search
//!   for tools, a command for the shell; texts beside and behind calls are messages, and reasoning stands
//!   where it came (OpenAI API reference, Responses);
//! - a stream that fails ends with `response.failed`, see [`failure`];
//! - items, parts and tools that are unknown or malformed are left out or mended instead of refused, and
//!   named once in the log ([`crate::translate::skipped`]), because agents send new kinds of them first.

mod calls;
pub mod compaction;
mod content;
pub mod failure;
mod free_text;
pub mod input;
pub mod items;
mod output_item;
pub mod response_object;
pub mod stream;
pub mod tools;

use serde_json::value::RawValue;
use serde_json::{Map, Number, Value};

pub(crate) use self::free_text::read_input;
use self::tools::{Choice, Declarations};
use crate::api::ollama::request::ChatRequest;
use crate::api::openai::request as openai;
use crate::api::openai::responses::ResponsesRequest;
use crate::api::openai::responses_input::{Members, text};
use crate::backends::profiles::Profile;
use crate::error::Result;
use crate::translate::skipped::Skipped;
use crate::translate::tool_names::ToolNames;
use crate::translate::{chat, options};

/// A request as one of `/api/chat`, and what that has no member for.
#[derive(Debug)]
pub struct TranslatedRequest<'a> {
    /// The request, without the model's name.
    pub chat: ChatRequest<'a>,
    /// The names of the tools, for the calls of the response.
    pub tool_names: ToolNames,
    /// What was left out, for the log.
    pub skipped: Skipped,
    choice: Choice,
    /// True if the model may call only one tool at once.
    is_sequential: bool,
}

/// The request as one of `/api/chat`.
///
/// # Errors
/// [`Error::InvalidRequest`](crate::error::Error::InvalidRequest) if the input is neither a text nor a
/// list, and for a reference to an item.
pub fn to_chat<'a>(request: &'a ResponsesRequest<'a>) -> Result<TranslatedRequest<'a>> {
    let (mut names, mut skipped) = (ToolNames::default(), Skipped::default());
    let items = input::parse_items(request.input, &mut skipped)?;
    let mut declared = Declarations::default();
    declared.add(request.tools.as_deref().unwrap_or_default(), &mut skipped);
    items.iter().for_each(|item| item.declare_tools(&mut declared, &mut skipped));
    // Declared tools come before those that were only called, and have the better right to a name.
    let mut tools = declared.finish(&mut names);
    let choice = tools::read_choice(request.tool_choice, &mut tools, &mut names);
    let messages = input::to_ollama_messages(request, items, &mut names, &mut skipped)?;
    let effort = request.reasoning.as_ref().and_then(|it| it.effort.as_deref());
    let chat = ChatRequest {
        // Its clients shorten a conversation themselves when they are told.
        truncate: Some(false),
        messages: Some(messages),
        tools: Some(tools),
        format: to_format(request),
        options: to_options(request),
        stream: Some(request.stream.unwrap_or(false)),
        think: effort.map(Value::from),
        ..ChatRequest::default()
    };
    let is_sequential = request.parallel_tool_calls.is_some_and(|raw| raw.get() == "false");
    Ok(TranslatedRequest { chat, tool_names: names, skipped, choice, is_sequential })
}

/// The request for the upstream; the chat of `translated` may have the defaults of a virtual model.
///
/// # Errors
/// As for `/api/chat`.
pub fn to_openai<'a>(
    translated: &'a TranslatedRequest<'a>,
    model: &'a str,
    profile: &Profile,
) -> Result<openai::ChatRequest<'a>> {
    let mut chat = chat::to_openai(&translated.chat, model, profile)?;
    if !chat.tools.is_empty() {
        chat.tool_choice = translated.choice.to_openai(&chat.tools);
        if translated.is_sequential {
            chat.sampling.insert("parallel_tool_calls".to_owned(), false.into());
        }
    }
    Ok(chat)
}

fn to_options(request: &ResponsesRequest<'_>) -> Option<Map<String, Value>> {
    let float = |number: &Number| Value::Number(number.clone());
    let options = options::from_members([
        ("temperature", request.temperature.as_ref().map(float)),
        ("top_p", request.top_p.as_ref().map(float)),
        ("num_predict", request.max_output_tokens.map(|most| most.0.into())),
    ]);
    Some(options).filter(|options| !options.is_empty())
}

fn to_format<'a>(request: &'a ResponsesRequest<'a>) -> Option<&'a RawValue> {
    let format = Members::parse(request.text.as_ref()?.format)?;
    match text(format.get("type")).as_deref() {
        Some("json_schema") => {
            // Chat completions has the schema in an object of its own.
            let inner = Members::parse(format.get("json_schema")).unwrap_or_default();
            let schema = format.get("schema").or(inner.get("schema"));
            schema.filter(|schema| schema.get().starts_with('{'))
        }
        // Ollama ignores this format, but a client that asks for JSON needs it.
        Some("json_object") => serde_json::from_str("\"json\"").ok(),
        _ => None,
    }
}
