//! Translates instructions and input items of `/v1/responses` to messages of `/api/chat`.
//!
//! | item | translation |
//! | --- | --- |
//! | `message`, also without `type` if it has a role | a message: its texts concatenated, then its images. `developer` becomes `system`, which every upstream knows |
//! | `function_call` | a call in the assistant's message before it, or in a new one: an upstream expects parallel calls in one message |
//! | `function_call_output` | a tool's message |
//! | `reasoning` | its `encrypted_content` is the reasoning of the next message or call of the assistant |
//! | `web_search_call` | nothing |
//!
//! All items are parsed before any is translated, so that errors come in Ollama's order; their texts
//! are Ollama's. Never fetches an image and keeps nothing of an earlier request.

use std::borrow::Cow;

use serde_json::value::RawValue;
use serde_json::{Map, Value};

use crate::api::ollama::decode::{self, GoString, non_empty};
use crate::api::ollama::request::{FunctionCall, Message, ToolCall};
use crate::api::openai::responses::{
    ItemKind, ResponsesContent, ResponsesFunctionCall, ResponsesFunctionCallOutput,
    ResponsesInputMessage, ResponsesReasoningInput, ResponsesRequest,
};
use crate::error::{Error, Result};
use crate::translate::media;

/// A parsed item.
enum InputItem<'a> {
    Message(Option<GoString<'a>>, Vec<InputPart<'a>>),
    Call(ResponsesFunctionCall<'a>),
    CallOutput(Option<GoString<'a>>, Vec<InputPart<'a>>),
    Reasoning(Option<GoString<'a>>),
    WebSearch,
}

/// A parsed part of a content.
enum InputPart<'a> {
    Text(GoString<'a>),
    /// The URL as JSON text.
    Image(&'a RawValue),
    File,
    /// An image by its id in OpenAI's storage.
    Ignored,
}

/// The beginnings of image URLs that Ollama accepts.
const DATA_URL_PREFIXES: &[&str] = &[
    "data:image/jpeg;base64,",
    "data:image/jpg;base64,",
    "data:image/png;base64,",
    "data:image/webp;base64,",
    "data:;base64,",
];

/// The messages of a request; none if it is empty.
///
/// # Errors
/// [`Error::InvalidRequest`] in Ollama's words.
pub fn to_ollama_messages<'a>(request: &'a ResponsesRequest<'a>) -> Result<Vec<Message<'a>>> {
    let mut out = Vec::new();
    if let Some(instructions) = non_empty(request.instructions.as_deref()) {
        out.push(new_message("system", Some(GoString(Cow::Borrowed(instructions)))));
    }
    let Some(input) = request.input else { return Ok(out) };
    if input.get().starts_with('"') {
        let text: GoString<'a> = decode::parse(input.get(), "openai.ResponsesInput")?;
        if !text.is_empty() {
            out.push(new_message("user", Some(text)));
        }
        return Ok(out);
    }
    let items = parse_list(input, "input", parse_item)?;
    MessageBuilder { messages: out, reasoning: None }.build(items)
}

/// The messages so far.
struct MessageBuilder<'a> {
    messages: Vec<Message<'a>>,
    /// Reasoning that belongs to the next message of the assistant.
    reasoning: Option<GoString<'a>>,
}

impl<'a> MessageBuilder<'a> {
    fn build(mut self, items: Vec<InputItem<'a>>) -> Result<Vec<Message<'a>>> {
        for item in items {
            match item {
                InputItem::Message(role, parts) => self.push_message(role, parts)?,
                InputItem::Call(call) => self.push_call(call)?,
                InputItem::CallOutput(id, parts) => {
                    let mut message = build_message("tool", parts)?;
                    message.tool_call_id = id;
                    self.messages.push(message);
                }
                InputItem::Reasoning(text) => self.reasoning = text.filter(|text| !text.is_empty()),
                InputItem::WebSearch => {}
            }
        }
        // In Ollama, reasoning at the end is a turn of its own. An upstream would get an empty turn,
        // because reasoning is not sent, and would continue that.
        Ok(self.messages)
    }

    fn push_message(
        &mut self,
        role: Option<GoString<'a>>,
        parts: Vec<InputPart<'a>>,
    ) -> Result<()> {
        let role = match role {
            Some(role) if role.eq_ignore_ascii_case("developer") => {
                GoString(Cow::Borrowed("system"))
            }
            role => role.unwrap_or_default(),
        };
        let mut message = build_message(role.0, parts)?;
        if is_assistant(&message) {
            message.thinking = self.reasoning.take();
        }
        self.messages.push(message);
        Ok(())
    }

    fn push_call(&mut self, call: ResponsesFunctionCall<'a>) -> Result<()> {
        let arguments = call.arguments.map(check_arguments).transpose()?.flatten();
        let function = FunctionCall { index: None, name: call.name, arguments };
        let call = ToolCall { id: call.call_id, function: Some(function) };
        if !self.messages.last().is_some_and(is_assistant) {
            self.messages.push(new_message("assistant", None));
        }
        if let Some(message) = self.messages.last_mut() {
            message.tool_calls.get_or_insert_default().push(call);
            if self.reasoning.is_some() {
                message.thinking = self.reasoning.take();
            }
        }
        Ok(())
    }
}

fn is_assistant(message: &Message<'_>) -> bool {
    message.role.as_deref().is_some_and(|role| role.eq_ignore_ascii_case("assistant"))
}

fn new_message<'a>(role: impl Into<Cow<'a, str>>, content: Option<GoString<'a>>) -> Message<'a> {
    Message { role: Some(GoString(role.into())), content, ..Message::default() }
}

fn build_message<'a>(
    role: impl Into<Cow<'a, str>>,
    parts: Vec<InputPart<'a>>,
) -> Result<Message<'a>> {
    let (mut text, mut images) = (Cow::Borrowed(""), Vec::new());
    for part in parts {
        match part {
            // A single text, the common case, is not copied.
            InputPart::Text(more) if text.is_empty() => text = more.0,
            InputPart::Text(more) => text.to_mut().push_str(&more),
            InputPart::Image(url) => images.push(check_image(url)?),
            InputPart::File => {
                return Err(Error::invalid_request("file inputs are not currently supported"));
            }
            InputPart::Ignored => {}
        }
    }
    let mut message = new_message(role, Some(GoString(text)));
    message.images = Some(images).filter(|images| !images.is_empty());
    Ok(message)
}

/// Checks that an image's URL holds an image.
fn check_image(raw: &RawValue) -> Result<&RawValue> {
    const URL_NOT_SUPPORTED: &str =
        "image URLs are not currently supported, please use base64 encoded data instead";
    let url: GoString<'_> = decode::parse(raw.get(), "openai.ResponsesContent")?;
    if url.starts_with("http://") || url.starts_with("https://") {
        return Err(Error::invalid_request(URL_NOT_SUPPORTED));
    }
    let is_data = DATA_URL_PREFIXES.iter().any(|begin| url.starts_with(begin));
    if !is_data || media::parse_part(raw).is_err() {
        return Err(Error::invalid_request("invalid image input"));
    }
    Ok(raw)
}

/// Checks that the arguments of a call are an object; `None` if they are empty.
fn check_arguments(raw: &RawValue) -> Result<Option<&RawValue>> {
    if raw.get().starts_with('{') {
        return Ok(Some(raw));
    }
    let text: GoString<'_> = decode::parse(raw.get(), "openai.ResponsesFunctionCall.arguments")?;
    if text.is_empty() {
        return Ok(None);
    }
    let name = "api.ToolCallFunctionArguments";
    let object: Result<Map<String, Value>> = decode::parse(&text, name);
    // Go ignores text after the object, but here it would be sent along.
    if object.is_ok() && serde_json::from_str::<Map<String, Value>>(&text).is_err() {
        return Err(arguments_error("invalid character after top-level value"));
    }
    object.map(|_| Some(raw)).map_err(|error| arguments_error(&error.message()))
}

fn arguments_error(why: &str) -> Error {
    Error::invalid_request(format!("failed to parse function call arguments: {why}"))
}

fn parse_item(raw: &RawValue) -> Result<InputItem<'_>> {
    let text = raw.get();
    let ItemKind { kind, role } = decode::parse(text, "openai.ResponsesInputItem")?;
    let has_role = non_empty(role.as_deref()).is_some();
    match non_empty(kind.as_deref()) {
        Some("message") => parse_message(text),
        None if has_role => parse_message(text),
        Some("function_call") => {
            Ok(InputItem::Call(decode::parse(text, "openai.ResponsesFunctionCall")?))
        }
        Some("function_call_output") => {
            let read: ResponsesFunctionCallOutput<'_> =
                decode::parse(text, "openai.ResponsesFunctionCallOutput")?;
            Ok(InputItem::CallOutput(read.call_id, parse_parts(read.output, "output")?))
        }
        Some("reasoning") => {
            let read: ResponsesReasoningInput<'_> =
                decode::parse(text, "openai.ResponsesReasoningInput")?;
            Ok(InputItem::Reasoning(read.encrypted_content))
        }
        Some("web_search_call") => Ok(InputItem::WebSearch),
        Some(other) => Err(Error::invalid_request(format!("unknown input item type: {other:?}"))),
        None => Err(Error::invalid_request("input item missing required 'type' field")),
    }
}

fn parse_message(text: &str) -> Result<InputItem<'_>> {
    let read: ResponsesInputMessage<'_> = decode::parse(text, "openai.ResponsesInputMessage")?;
    Ok(InputItem::Message(read.role, parse_parts(read.content, "content")?))
}

/// Parses a content: a text, a list of parts, or nothing.
fn parse_parts<'a>(raw: Option<&'a RawValue>, name: &str) -> Result<Vec<InputPart<'a>>> {
    let Some(raw) = raw else { return Ok(Vec::new()) };
    if raw.get().starts_with('"') {
        let text = decode::parse(raw.get(), "openai.ResponsesContent")?;
        return Ok(vec![InputPart::Text(text)]);
    }
    parse_list(raw, name, parse_part)
}

fn parse_part(raw: &RawValue) -> Result<InputPart<'_>> {
    let part: ResponsesContent<'_> = decode::parse(raw.get(), "openai.ResponsesContent")?;
    let kind = part.kind.unwrap_or_default();
    match &*kind {
        "input_text" | "output_text" => Ok(InputPart::Text(part.text.unwrap_or_default())),
        "input_image" => match part.image_url {
            Some(url) if url.get().starts_with('"') => {
                Ok(if url.get() == "\"\"" { InputPart::Ignored } else { InputPart::Image(url) })
            }
            Some(url) => {
                let name = "openai.ResponsesImageContent.image_url";
                decode::parse::<GoString<'_>>(url.get(), name).map(InputPart::Text)
            }
            None => Ok(InputPart::Ignored),
        },
        "input_file" => Ok(InputPart::File),
        other => Err(Error::invalid_request(format!("unknown content type: {other}"))),
    }
}

/// Parses the elements of the list `name`; an error names the index of its element.
fn parse_list<'a, T>(
    raw: &'a RawValue,
    name: &str,
    parse: fn(&'a RawValue) -> Result<T>,
) -> Result<Vec<T>> {
    let found = decode::go_type_of(raw.get());
    if found != "array" {
        return Err(Error::invalid_request(format!(
            "{name} must be a string or array: json: cannot unmarshal {found} into Go value of type \
             []json.RawMessage"
        )));
    }
    let elements: Vec<&'a RawValue> = decode::parse(raw.get(), "openai.List")?;
    let with_index =
        |at, error: Error| Error::invalid_request(format!("{name}[{at}]: {}", error.message()));
    let elements = elements.into_iter().enumerate();
    elements.map(|(at, raw)| parse(raw).map_err(|error| with_index(at, error))).collect()
}
