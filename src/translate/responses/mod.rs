//! `/v1/responses` to `chat/completions`, and back, for an upstream that lacks it (ollama-api.md
//! 14.6, 14.2).
//!
//! A request becomes one of `/api/chat` first, as in Ollama itself, so that all that is known of
//! histories, media, families and virtual models holds here, too.
//!
//! | member | what becomes of it |
//! | --- | --- |
//! | `model` | the upstream's id, resolved by the caller |
//! | `instructions`, `input` | messages, see [`input`] |
//! | `temperature`, `top_p`, `max_output_tokens` | options of the same meaning; nothing where they are absent, although Ollama sends a temperature of 1 |
//! | `reasoning.effort` | `think`; `minimal` is low, `xhigh` and `ultra` are the most |
//! | `text.format` | `format`; plain text is none |
//! | `tools` | functions; those of a namespace as `namespace.member`. All other kinds are left out: web search and the like run on OpenAI's servers only, and a free-form tool would be called as a function, which its client does not expect |
//! | `tool_choice` | the same in chat's form, where there are tools. `auto` is what comes without it; a choice among several, or of a tool that was left out, is none |
//! | `stream` | events or one object, see [`stream`] |
//! | `truncation`, `background` | told back |
//! | `previous_response_id`, `conversation`, `store`, `include`, `metadata`, `parallel_tool_calls`, all else | ignored: nothing is kept |

pub mod input;
pub mod response_object;
pub mod stream;

use std::borrow::Cow;

use serde_json::value::RawValue;
use serde_json::{Map, Value};

use crate::api::ollama::decode;
use crate::api::ollama::decode::{GoString, non_empty};
use crate::api::ollama::request::{ChatRequest, FunctionDefinition, Tool};
use crate::api::ollama::schema::Schema;
use crate::api::openai::request as openai;
use crate::api::openai::request::ToolChoice;
use crate::api::openai::responses::{ResponsesRequest, ResponsesTool, TextFormat};
use crate::backends::profiles::Profile;
use crate::error::{Error, Result};
use crate::translate::chat;

/// The same as a request of `/api/chat`, without the model's name.
///
/// # Errors
/// [`Error::InvalidRequest`], in Ollama's words.
pub fn to_chat<'a>(request: &'a ResponsesRequest<'a>) -> Result<ChatRequest<'a>> {
    let effort = request.reasoning.as_ref().and_then(|it| it.effort.as_deref());
    Ok(ChatRequest {
        messages: Some(input::to_ollama_messages(request)?),
        tools: Some(to_tools(request.tools.as_deref().unwrap_or_default())?),
        format: to_format(request)?,
        options: to_options(request),
        stream: Some(request.stream.unwrap_or(false)),
        think: to_think(effort)?,
        ..ChatRequest::default()
    })
}

/// The request for the upstream. `chat` is what [`to_chat`] gave, with a virtual model laid over it
/// where the name means one.
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
    let float = |number: &serde_json::Number| Value::Number(number.clone());
    let members = [
        ("temperature", request.temperature.as_ref().map(float)),
        ("top_p", request.top_p.as_ref().map(float)),
        ("num_predict", request.max_output_tokens.map(|most| most.0.into())),
    ];
    let set = members.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?)));
    let mut options = Map::new();
    options.extend(set);
    Some(options).filter(|options| !options.is_empty())
}

/// How much to reason (14.2).
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
        // Ollama passes this over; but that an answer is to be JSON is never dropped.
        Some("json_object") => serde_json::from_str("\"json\"").ok(),
        _ => None,
    })
}

/// The functions.
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
    Tool { function: Some(FunctionDefinition { name: Some(name), description, parameters }) }
}

/// The choice in chat's form, of one of these tools.
fn to_tool_choice<'a>(raw: &RawValue, tools: &[openai::Tool<'a>]) -> Option<ToolChoice<'a>> {
    let chosen: Value = serde_json::from_str(raw.get()).ok()?;
    match chosen.as_str() {
        Some("none") => Some(ToolChoice::Mode("none")),
        Some("required") => Some(ToolChoice::Mode("required")),
        None if chosen["type"] == "function" => {
            let names = tools.iter().map(|tool| tool.function.name);
            names.into_iter().find(|name| chosen["name"] == *name).map(ToolChoice::function)
        }
        _ => None,
    }
}
