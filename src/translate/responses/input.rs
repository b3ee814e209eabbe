//! Instructions and input items to messages of `/api/chat` (ollama-api.md 14.6).
//!
//! | item | what becomes of it |
//! | --- | --- |
//! | `message`, also without `type` where it has a role | a message; texts put together, images behind them. `developer` becomes `system`, which every upstream knows |
//! | `function_call` | a call of the assistant's message before it, or of a new one: calls made at once are one message to an upstream |
//! | `function_call_output` | a tool's message |
//! | `reasoning` | its `encrypted_content` is the reasoning of the next message or call of the assistant |
//! | `web_search_call` | nothing |
//!
//! Everything is read before anything is judged, so that errors come in Ollama's order; their texts
//! are Ollama's. Never fetches an image and never keeps anything of an earlier request.

use std::borrow::Cow;

use serde_json::value::RawValue;
use serde_json::{Map, Value};

use crate::api::ollama::decode;
use crate::api::ollama::decode::{Text, said};
use crate::api::ollama::request::{FunctionCall, Message, ToolCall};
use crate::api::openai::responses::{
    ItemKind, ResponsesContent, ResponsesFunctionCall, ResponsesFunctionCallOutput,
    ResponsesInputMessage, ResponsesReasoningInput, ResponsesRequest,
};
use crate::error::{Error, Result};
use crate::translate::media;

/// An item, read.
enum Item<'a> {
    Message(Option<Text<'a>>, Vec<Part<'a>>),
    Call(ResponsesFunctionCall<'a>),
    Output(Option<Text<'a>>, Vec<Part<'a>>),
    Reasoning(Option<Text<'a>>),
    Search,
}

/// A part of a content, read.
enum Part<'a> {
    Text(Text<'a>),
    /// The URL as it was written.
    Image(&'a RawValue),
    File,
    /// An image that only OpenAI has.
    Nothing,
}

/// What an image's URL may begin with.
const DATA_URLS: &[&str] = &[
    "data:image/jpeg;base64,",
    "data:image/jpg;base64,",
    "data:image/png;base64,",
    "data:image/webp;base64,",
    "data:;base64,",
];

/// The messages of a request; none where it says nothing.
///
/// # Errors
/// [`Error::InvalidRequest`] in Ollama's words.
pub fn messages<'a>(request: &'a ResponsesRequest<'a>) -> Result<Vec<Message<'a>>> {
    let mut out = Vec::new();
    if let Some(instructions) = said(request.instructions.as_deref()) {
        out.push(turn("system", Some(Text(Cow::Borrowed(instructions)))));
    }
    let Some(input) = request.input else { return Ok(out) };
    if input.get().starts_with('"') {
        let text: Text<'a> = decode::parse(input.get(), "openai.ResponsesInput")?;
        if !text.is_empty() {
            out.push(turn("user", Some(text)));
        }
        return Ok(out);
    }
    let items = list(input, "input")?.into_iter().enumerate();
    let items = items.map(|(at, raw)| item(raw).map_err(|error| within("input", at, &error)));
    Conversation { messages: out, reasoning: None }.with(items.collect::<Result<Vec<_>>>()?)
}

/// The messages so far.
struct Conversation<'a> {
    messages: Vec<Message<'a>>,
    /// Reasoning whose message has not come yet.
    reasoning: Option<Text<'a>>,
}

impl<'a> Conversation<'a> {
    fn with(mut self, items: Vec<Item<'a>>) -> Result<Vec<Message<'a>>> {
        for item in items {
            match item {
                Item::Message(role, parts) => self.message(role, parts)?,
                Item::Call(call) => self.call(call)?,
                Item::Output(id, parts) => {
                    let mut message = message("tool", parts)?;
                    message.tool_call_id = id;
                    self.messages.push(message);
                }
                Item::Reasoning(text) => self.reasoning = text.filter(|text| !text.is_empty()),
                Item::Search => {}
            }
        }
        // Reasoning that led to nothing would be a turn of its own in Ollama. To an upstream, which
        // gets none of it, that were an empty turn to be continued.
        Ok(self.messages)
    }

    fn message(&mut self, role: Option<Text<'a>>, parts: Vec<Part<'a>>) -> Result<()> {
        let role = match role {
            Some(role) if role.eq_ignore_ascii_case("developer") => Text(Cow::Borrowed("system")),
            role => role.unwrap_or_default(),
        };
        let mut message = message(role.0, parts)?;
        if is_assistant(&message) {
            message.thinking = self.reasoning.take();
        }
        self.messages.push(message);
        Ok(())
    }

    fn call(&mut self, call: ResponsesFunctionCall<'a>) -> Result<()> {
        let arguments = call.arguments.map(arguments).transpose()?.flatten();
        let function = FunctionCall { index: None, name: call.name, arguments };
        let call = ToolCall { id: call.call_id, function: Some(function) };
        if !self.messages.last().is_some_and(is_assistant) {
            self.messages.push(turn("assistant", None));
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

fn turn<'a>(role: impl Into<Cow<'a, str>>, content: Option<Text<'a>>) -> Message<'a> {
    Message { role: Some(Text(role.into())), content, ..Message::default() }
}

fn message<'a>(role: impl Into<Cow<'a, str>>, parts: Vec<Part<'a>>) -> Result<Message<'a>> {
    let (mut text, mut images) = (Cow::Borrowed(""), Vec::new());
    for part in parts {
        match part {
            // One text, which is the rule, is not copied.
            Part::Text(more) if text.is_empty() => text = more.0,
            Part::Text(more) => text.to_mut().push_str(&more),
            Part::Image(url) => images.push(image(url)?),
            Part::File => return Err(Error::invalid("file inputs are not currently supported")),
            Part::Nothing => {}
        }
    }
    let mut message = turn(role, Some(Text(text)));
    message.images = Some(images).filter(|images| !images.is_empty());
    Ok(message)
}

/// The image, once its URL is known to hold one.
fn image(raw: &RawValue) -> Result<&RawValue> {
    const FETCHED: &str =
        "image URLs are not currently supported, please use base64 encoded data instead";
    let url: Text<'_> = decode::parse(raw.get(), "openai.ResponsesContent")?;
    if url.starts_with("http://") || url.starts_with("https://") {
        return Err(Error::invalid(FETCHED));
    }
    let is_data = DATA_URLS.iter().any(|begin| url.starts_with(begin));
    if !is_data || media::part(raw).is_err() {
        return Err(Error::invalid("invalid image input"));
    }
    Ok(raw)
}

/// The arguments of a call, once they are known to be an object; nothing where they are empty.
fn arguments(raw: &RawValue) -> Result<Option<&RawValue>> {
    if raw.get().starts_with('{') {
        return Ok(Some(raw));
    }
    let text: Text<'_> = decode::parse(raw.get(), "openai.ResponsesFunctionCall.arguments")?;
    if text.is_empty() {
        return Ok(None);
    }
    let name = "api.ToolCallFunctionArguments";
    let object: Result<Map<String, Value>> = decode::parse(&text, name);
    // What stands behind the object would be passed on with it.
    if object.is_ok() && serde_json::from_str::<Map<String, Value>>(&text).is_err() {
        return Err(unreadable("invalid character after top-level value"));
    }
    object.map(|_| Some(raw)).map_err(|error| unreadable(&error.message()))
}

fn unreadable(why: &str) -> Error {
    Error::invalid(format!("failed to parse function call arguments: {why}"))
}

/// Reads an item.
fn item(raw: &RawValue) -> Result<Item<'_>> {
    let text = raw.get();
    let ItemKind { kind, role } = decode::parse(text, "openai.ResponsesInputItem")?;
    let has_role = said(role.as_deref()).is_some();
    match said(kind.as_deref()) {
        Some("message") => read_message(text),
        None if has_role => read_message(text),
        Some("function_call") => {
            Ok(Item::Call(decode::parse(text, "openai.ResponsesFunctionCall")?))
        }
        Some("function_call_output") => {
            let read: ResponsesFunctionCallOutput<'_> =
                decode::parse(text, "openai.ResponsesFunctionCallOutput")?;
            Ok(Item::Output(read.call_id, parts(read.output, "output")?))
        }
        Some("reasoning") => {
            let read: ResponsesReasoningInput<'_> =
                decode::parse(text, "openai.ResponsesReasoningInput")?;
            Ok(Item::Reasoning(read.encrypted_content))
        }
        Some("web_search_call") => Ok(Item::Search),
        Some(other) => Err(Error::invalid(format!("unknown input item type: {other:?}"))),
        None => Err(Error::invalid("input item missing required 'type' field")),
    }
}

fn read_message(text: &str) -> Result<Item<'_>> {
    let read: ResponsesInputMessage<'_> = decode::parse(text, "openai.ResponsesInputMessage")?;
    Ok(Item::Message(read.role, parts(read.content, "content")?))
}

/// Reads a content: a text, a list of parts, or nothing.
fn parts<'a>(raw: Option<&'a RawValue>, name: &str) -> Result<Vec<Part<'a>>> {
    let Some(raw) = raw else { return Ok(Vec::new()) };
    if raw.get().starts_with('"') {
        let text = decode::parse(raw.get(), "openai.ResponsesContent")?;
        return Ok(vec![Part::Text(text)]);
    }
    let parts = list(raw, name)?.into_iter().enumerate();
    parts.map(|(at, raw)| part(raw).map_err(|error| within(name, at, &error))).collect()
}

fn part(raw: &RawValue) -> Result<Part<'_>> {
    let part: ResponsesContent<'_> = decode::parse(raw.get(), "openai.ResponsesContent")?;
    let kind = part.kind.unwrap_or_default();
    match &*kind {
        "input_text" | "output_text" => Ok(Part::Text(part.text.unwrap_or_default())),
        "input_image" => match part.image_url {
            Some(url) if url.get().starts_with('"') => {
                Ok(if url.get() == "\"\"" { Part::Nothing } else { Part::Image(url) })
            }
            Some(url) => {
                let name = "openai.ResponsesImageContent.image_url";
                decode::parse::<Text<'_>>(url.get(), name).map(Part::Text)
            }
            None => Ok(Part::Nothing),
        },
        "input_file" => Ok(Part::File),
        other => Err(Error::invalid(format!("unknown content type: {other}"))),
    }
}

/// The elements of a list.
fn list<'a>(raw: &'a RawValue, name: &str) -> Result<Vec<&'a RawValue>> {
    let found = match raw.get().as_bytes().first() {
        Some(b'[') => return decode::parse(raw.get(), "openai.List"),
        Some(b'{') => "object",
        Some(b't' | b'f') => "bool",
        _ => "number",
    };
    Err(Error::invalid(format!(
        "{name} must be a string or array: json: cannot unmarshal {found} into Go value of type \
         []json.RawMessage"
    )))
}

/// Puts the place in front of an error.
fn within(name: &str, at: usize, error: &Error) -> Error {
    Error::invalid(format!("{name}[{at}]: {}", error.message()))
}
