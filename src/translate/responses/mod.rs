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
//! | `reasoning.effort` | `think`; `minimal` is `low`, `xhigh` and `ultra` are `max` |
//! | `text.format` | `format`; plain text is none |
//! | `tools` | functions; those of a namespace as `namespace.member`. Other kinds are left out: OpenAI runs web search and the like on its own servers, and a free-form tool would be called as a function, which its client does not expect |
//! | `tool_choice` | chat's form, if there are tools. `auto` is the default; a choice among several tools, or of a tool that was left out, is not sent |
//! | `stream` | events or one object, see [`stream`] |
//! | `truncation`, `background` | repeated in the response |
//! | `previous_response_id`, `conversation`, `store`, `include`, `metadata`, `parallel_tool_calls`, all else | ignored: the proxy stores nothing |
//!
//! # Protocol
//!
//! An upstream without `/v1/responses` (404 or 405, remembered until the process ends) is asked for
//! chat completions. The response, events included, is what Ollama's would be, except:
//!
//! - no response is stored, so `previous_response_id` has no effect;
//! - no temperature is sent unless requested;
//! - `tool_choice` and the format `json_object` are respected;
//! - calls have the form in which their tools were declared: free text, a member of a namespace, a search
//!   for tools, a command for the shell; so have texts beside and behind calls, and reasoning wherever it
//!   stands (OpenAI API reference, Responses);
//! - a stream that fails ends with `response.failed`, see [`failure`].
//!
//! Files and URLs of images are refused; images are accepted as data URLs.

pub mod failure;
mod free_text;
pub mod input;
mod output_item;
pub mod response_object;
pub mod stream;

use std::borrow::Cow;

use serde_json::value::RawValue;
use serde_json::{Map, Number, Value};

use crate::api::ollama::decode::{self, GoString, non_empty};
use crate::api::ollama::request::{ChatRequest, FunctionDefinition, Tool};
use crate::api::ollama::schema::Schema;
use crate::api::openai::request as openai;
use crate::api::openai::request::ToolChoice;
use crate::api::openai::responses::{ResponsesRequest, ResponsesTool, TextFormat};
use crate::backends::profiles::Profile;
use crate::error::{Error, Result};
use crate::translate::{chat, options, tools};

/// The request as one of `/api/chat`, without the model's name.
///
/// # Errors
/// [`Error::InvalidRequest`], in Ollama's words.
pub fn to_chat<'a>(request: &'a ResponsesRequest<'a>) -> Result<ChatRequest<'a>> {
    let effort = request.reasoning.as_ref().and_then(|it| it.effort.as_deref());
    Ok(ChatRequest {
        // Its clients shorten a conversation themselves when they are told.
        truncate: Some(false),
        messages: Some(input::to_ollama_messages(request)?),
        tools: Some(to_tools(request.tools.as_deref().unwrap_or_default())?),
        format: to_format(request)?,
        options: to_options(request),
        stream: Some(request.stream.unwrap_or(false)),
        think: to_think(effort)?,
        ..ChatRequest::default()
    })
}

/// The request for the upstream; `chat` is the result of [`to_chat`], with the defaults of a virtual
/// model.
///
/// # Errors
/// As for `/api/chat`.
pub fn to_openai<'a>(
    request: &ResponsesRequest<'_>,
    chat: &'a ChatRequest<'a>,
    model: &'a str,
    profile: &Profile,
) -> Result<openai::ChatRequest<'a>> {
    let mut chat = chat::to_openai(chat, model, profile)?;
    if !chat.tools.is_empty() {
        chat.tool_choice = request.tool_choice.and_then(|raw| to_tool_choice(raw, &chat.tools));
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

/// Whether to reason, and how much.
fn to_think(effort: Option<&str>) -> Result<Option<Value>> {
    Ok(Some(match effort {
        None | Some("") => return Ok(None),
        Some("none") => false.into(),
        Some("minimal") => "low".into(),
        Some(level @ ("low" | "medium" | "high" | "max")) => level.into(),
        Some("xhigh" | "ultra") => "max".into(),
        Some(other) => {
            return Err(Error::invalid_request(format!(
                "invalid reasoning value: {other:?} (must be \"minimal\", \"low\", \"medium\", \
                 \"high\", \"xhigh\", \"ultra\", \"max\", or \"none\")"
            )));
        }
    }))
}

fn to_format<'a>(request: &'a ResponsesRequest<'a>) -> Result<Option<&'a RawValue>> {
    let Some(raw) = request.text.as_ref().and_then(|text| text.format) else { return Ok(None) };
    let format: TextFormat<'a> = decode::parse(raw.get(), "openai.ResponsesRequest.text.format")?;
    Ok(match format.kind.as_deref() {
        Some("json_schema") => format.schema,
        // Ollama ignores this format, but a client that asks for JSON needs it.
        Some("json_object") => serde_json::from_str("\"json\"").ok(),
        _ => None,
    })
}

/// The functions among the tools.
fn to_tools<'a>(raw: &[&'a RawValue]) -> Result<Vec<Tool<'a>>> {
    let mut out = Vec::with_capacity(raw.len());
    for raw in raw {
        let tool: ResponsesTool<'a> = decode::parse(raw.get(), "openai.ResponsesRequest.tools")?;
        match (tool.kind.as_deref(), tool.tools) {
            (Some("function"), _) => {
                let name = tool.name.unwrap_or_default();
                out.push(new_tool(name, tool.description, tool.parameters));
            }
            (Some("namespace"), members) => {
                let namespace = tool.name.unwrap_or_default();
                let members = members.into_iter().flatten();
                for member in members.filter(|it| it.kind.as_deref() == Some("function")) {
                    let Some(name) = non_empty(member.name.as_deref()) else { continue };
                    let name = GoString(Cow::Owned(format!("{}.{name}", &*namespace)));
                    out.push(new_tool(name, member.description, member.parameters));
                }
            }
            _ => {}
        }
    }
    Ok(out)
}

fn new_tool<'a>(
    name: GoString<'a>,
    description: Option<GoString<'a>>,
    parameters: Option<Schema<'a>>,
) -> Tool<'a> {
    let function = FunctionDefinition { name: Some(name), description, parameters };
    Tool { function: Some(function), ..Tool::default() }
}

/// The choice in chat's form.
fn to_tool_choice<'a>(raw: &RawValue, tools: &[openai::Tool<'a>]) -> Option<ToolChoice<'a>> {
    let chosen: Value = serde_json::from_str(raw.get()).ok()?;
    match chosen.as_str() {
        Some("none") => Some(ToolChoice::Mode("none")),
        Some("required") => Some(ToolChoice::Mode("required")),
        None if chosen["type"] == "function" => tools::choose(tools, chosen["name"].as_str()?),
        _ => None,
    }
}
