//! Translates instructions and input items of `/v1/responses` to messages of `/api/chat`.
//!
//! | item | translation |
//! | --- | --- |
//! | `message`, also without `type` | a message: its texts, then its images. System and `developer` messages in front of all others are one system message, with the instructions; later ones stay where they are |
//! | `agent_message` | a user's message that names its author and its recipient |
//! | `reasoning` | the reasoning of the next message or call of the assistant |
//! | `function_call`, `custom_tool_call`, `tool_search_call`, `local_shell_call` | a call, see `calls`: in the assistant's message before it, or in a new one, because an upstream expects parallel calls in one message |
//! | their outputs | a tool's message, which `translate::history` places behind its call; without any call of its id, a user's |
//! | `tool_search_output` | a tool's message that lists what was found; the tools are declared |
//! | `additional_tools` | nothing; the tools are declared |
//! | `item_reference` | refused: those of items that are kept were replaced before, see [`super::items`] |
//! | calls that OpenAI's servers ran, and their outputs | nothing |
//! | all others | left out, and told in the log |
//!
//! Members that are missing or of a wrong type are mended as far as they can be. Never fetches an image
//! and keeps nothing of an earlier request.

use std::borrow::Cow;
use std::collections::HashSet;

use serde_json::value::RawValue;

use super::calls;
use super::content::{self, InputContent, Joint};
use super::tools::{self, Declarations};
use crate::api::ollama::decode::{self, GoString, non_empty};
use crate::api::ollama::request::{FunctionCall, Message, ToolCall};
use crate::api::openai::responses::ResponsesRequest;
use crate::api::openai::responses_input::{Members, elements, non_empty_text, text};
use crate::error::{Error, Result};
use crate::translate::skipped::{Skipped, SkippedKind};
use crate::translate::tool_names::ToolNames;

/// Items that OpenAI's servers made, and that mean nothing to an upstream.
const SERVER_ITEMS: &[&str] = &[
    "web_search_call",
    "file_search_call",
    "image_generation_call",
    "code_interpreter_call",
    "computer_call",
    "computer_call_output",
    "mcp_call",
    "mcp_list_tools",
    "mcp_approval_request",
    "mcp_approval_response",
];

/// The shortest text without blanks that is opaque on its own.
const MIN_OPAQUE_LEN: usize = 20;

/// An item with its type.
pub(super) struct TypedItem<'a> {
    kind: Cow<'a, str>,
    item: Members<'a>,
}

/// The items of a request; those that are no objects are left out.
///
/// # Errors
/// [`Error::InvalidRequest`] in Ollama's words if the input is neither a text nor a list.
pub(super) fn parse_items<'a>(
    input: Option<&'a RawValue>,
    skipped: &mut Skipped,
) -> Result<Vec<TypedItem<'a>>> {
    let Some(input) = input else { return Ok(Vec::new()) };
    let list: Vec<&'a RawValue> = match decode::go_type_of(input.get()) {
        "string" => vec![input],
        "array" => decode::parse(input.get(), "openai.List")?,
        found => {
            return Err(Error::invalid_request(format!(
                "input must be a string or array: json: cannot unmarshal {found} into Go value of \
                 type []json.RawMessage"
            )));
        }
    };
    Ok(list.into_iter().filter_map(|raw| parse_item(raw, skipped)).collect())
}

fn parse_item<'a>(raw: &'a RawValue, skipped: &mut Skipped) -> Option<TypedItem<'a>> {
    if raw.get().starts_with('"') {
        // A bare text is what the user says.
        let item = Members::single("content", raw);
        return (raw.get() != "\"\"").then_some(TypedItem { kind: "message".into(), item });
    }
    let Some(item) = Members::parse(Some(raw)) else {
        skipped.note(SkippedKind::Item, "");
        return None;
    };
    let kind = non_empty_text(item.get("type")).unwrap_or_else(|| guess_type(&item).into());
    Some(TypedItem { kind, item })
}

/// The type of an item that has none, from its other members.
fn guess_type(item: &Members<'_>) -> &'static str {
    let has = |name: &str| item.get(name).is_some();
    match () {
        () if has("role") || has("content") => "message",
        () if has("output") => "function_call_output",
        () if has("name") && has("input") => "custom_tool_call",
        () if has("name") && has("arguments") => "function_call",
        () if has("summary") => "reasoning",
        () if has("id") => "item_reference",
        () => "",
    }
}

impl<'a> TypedItem<'a> {
    /// The id of a call, if the item is one.
    fn call_id(&self) -> Option<Cow<'a, str>> {
        match &*self.kind {
            "function_call" | "custom_tool_call" | "tool_search_call" => {
                non_empty_text(self.item.get("call_id"))
            }
            // OpenAI's own form has only an id of the item, and its output names that.
            "local_shell_call" => non_empty_text(self.item.get("call_id"))
                .or_else(|| non_empty_text(self.item.get("id"))),
            _ => None,
        }
    }

    /// Adds the tools that the item declares, or that it shows the model to know.
    pub(super) fn declare_tools(&self, declared: &mut Declarations<'a>, skipped: &mut Skipped) {
        match &*self.kind {
            "additional_tools" => declared.add(&elements(self.item.get("tools")), skipped),
            "tool_search_output" => declared.add_found(&elements(self.item.get("tools")), skipped),
            "function_call" | "custom_tool_call" => {
                let namespace = calls::namespace(&self.item);
                if let Some(name) = non_empty_text(self.item.get("name")) {
                    declared.mark_called(namespace.as_deref(), &name);
                }
            }
            _ => {}
        }
    }
}

/// The messages of a request; none if it is empty.
///
/// # Errors
/// [`Error::InvalidRequest`] for a reference to an item.
pub(super) fn to_ollama_messages<'a>(
    request: &'a ResponsesRequest<'a>,
    items: Vec<TypedItem<'a>>,
    names: &mut ToolNames,
    skipped: &mut Skipped,
) -> Result<Vec<Message<'a>>> {
    let call_ids = items.iter().filter_map(TypedItem::call_id).collect();
    let mut builder = MessageBuilder {
        call_ids,
        names,
        skipped,
        messages: Vec::new(),
        reasoning: None,
        server_calls: HashSet::new(),
        open_search: None,
    };
    if let Some(instructions) = non_empty(request.instructions.as_deref()) {
        let text = Cow::Borrowed(instructions);
        builder.push_system(InputContent { text, ..InputContent::default() });
    }
    for (place, item) in items.iter().enumerate() {
        builder.push(place, item)?;
    }
    if builder.messages.is_empty() && !items.is_empty() {
        // Nothing that the client sends has a meaning here, which is no reason to refuse it.
        builder.push_user(InputContent::default());
    }
    // In Ollama, reasoning at the end is a turn of its own. An upstream would get an empty turn, because
    // reasoning is not sent, and would continue that.
    Ok(builder.messages)
}

/// The messages so far.
struct MessageBuilder<'a, 'n> {
    /// The ids of all calls that have one.
    call_ids: HashSet<Cow<'a, str>>,
    names: &'n mut ToolNames,
    skipped: &'n mut Skipped,
    messages: Vec<Message<'a>>,
    /// Reasoning that belongs to the next message of the assistant.
    reasoning: Option<Cow<'a, str>>,
    /// The ids of calls that OpenAI's servers ran.
    server_calls: HashSet<Cow<'a, str>>,
    /// The id of a search without an id of its own.
    open_search: Option<String>,
}

impl<'a> MessageBuilder<'a, '_> {
    fn push(&mut self, place: usize, typed: &TypedItem<'a>) -> Result<()> {
        let item = &typed.item;
        match &*typed.kind {
            "message" => self.push_message(item),
            "agent_message" => self.push_agent_message(item),
            "reasoning" => self.push_reasoning(item),
            "function_call" | "custom_tool_call" | "tool_search_call" | "local_shell_call" => {
                self.push_call(place, typed);
            }
            "function_call_output" | "custom_tool_call_output" => {
                self.push_output(item.get("output"), text(item.get("call_id")));
            }
            "local_shell_call_output" => {
                self.push_output(item.get("output"), text(item.get("call_id").or(item.get("id"))))
            }
            "tool_search_output" => self.push_found_tools(item),
            "additional_tools" => {}
            "item_reference" if item.get("id").is_some() => return Err(reference_error()),
            kind if SERVER_ITEMS.contains(&kind) => {
                self.server_calls.extend(text(item.get("call_id").or(item.get("id"))));
            }
            other => {
                self.server_calls.extend(text(item.get("call_id")));
                self.skipped.note(SkippedKind::Item, other);
            }
        }
        Ok(())
    }

    fn push_message(&mut self, item: &Members<'a>) {
        let content = content::read(item.get("content"), Joint::Nothing, self.skipped);
        let role = text(item.get("role")).unwrap_or_default().to_ascii_lowercase();
        match role.as_str() {
            "system" | "developer" => self.push_system(content),
            "assistant" => self.push_assistant(content),
            // A result in the form of chat completions.
            "tool" => {
                let id = text(item.get("tool_call_id").or(item.get("call_id")));
                self.push_output(item.get("content"), id);
            }
            _ => self.push_user(content),
        }
    }

    fn push_user(&mut self, content: InputContent<'a>) {
        // Reasoning of a turn that was stopped.
        self.reasoning = None;
        let message = new_message("user", content);
        // Upstreams refuse a turn that says nothing, such as one whose parts are all unknown.
        match self.messages.last_mut().filter(|last| has_role(last, "user")) {
            Some(_) if is_empty(&message) => {}
            Some(last) if is_empty(last) => *last = message,
            _ => self.messages.push(message),
        }
    }

    /// Adds to the system message in front of all others, or tells the model something in between.
    fn push_system(&mut self, content: InputContent<'a>) {
        if content.text.is_empty() && content.attachments.is_empty() {
            return;
        }
        match self.messages.as_mut_slice() {
            [first] if has_role(first, "system") => {
                let before = first.content.get_or_insert_default();
                append(&mut before.0, "\n\n", content.text);
                first.attachments.extend(content.attachments);
            }
            _ => self.messages.push(new_message("system", content)),
        }
    }

    /// Adds what the assistant said. Beside calls without their outputs it is part of their message, as
    /// the calls are part of the message before them.
    fn push_assistant(&mut self, content: InputContent<'a>) {
        let has_open_calls =
            |last: &&mut Message<'_>| has_role(last, "assistant") && last.tool_calls.is_some();
        match self.messages.last_mut().filter(has_open_calls) {
            Some(last) => {
                append(&mut last.content.get_or_insert_default().0, "\n\n", content.text);
                last.attachments.extend(content.attachments);
            }
            None => self.messages.push(new_message("assistant", content)),
        }
        self.attach_reasoning();
    }

    fn push_call(&mut self, place: usize, typed: &TypedItem<'a>) {
        let kind = &*typed.kind;
        let Some(call) = calls::read(kind, &typed.item, self.names) else {
            return self.skipped.note(SkippedKind::Item, kind);
        };
        // Any id will do: nothing names it, but for the output of a search.
        let id = typed.call_id().unwrap_or_else(|| format!("call_{place}").into());
        self.call_ids.insert(id.clone());
        if kind == "tool_search_call" {
            self.open_search = Some(id.to_string());
        }
        let function = FunctionCall {
            name: Some(GoString(call.name.into())),
            arguments_text: Some(call.arguments),
            ..FunctionCall::default()
        };
        let call = ToolCall { id: Some(GoString(id)), function: Some(function) };
        if !self.messages.last().is_some_and(|last| has_role(last, "assistant")) {
            self.messages.push(new_message("assistant", InputContent::default()));
        }
        if let Some(message) = self.messages.last_mut() {
            message.tool_calls.get_or_insert_default().push(call);
        }
        self.attach_reasoning();
    }

    /// Gives the reasoning so far to the last message, which is the assistant's.
    fn attach_reasoning(&mut self) {
        if let (Some(message), Some(reasoning)) = (self.messages.last_mut(), self.reasoning.take())
        {
            append(&mut message.thinking.get_or_insert_default().0, "\n\n", reasoning);
        }
    }

    fn push_output(&mut self, output: Option<&'a RawValue>, id: Option<Cow<'a, str>>) {
        let id = id.filter(|id| !id.is_empty());
        if id.as_ref().is_some_and(|id| self.server_calls.contains(id)) {
            return;
        }
        let content = content::read(output, Joint::LineBreak, self.skipped);
        self.push_result(content, id);
    }

    /// Adds the output of a call. If its call is gone, the user tells it.
    fn push_result(&mut self, content: InputContent<'a>, id: Option<Cow<'a, str>>) {
        let Some(id) = id.filter(|id| self.call_ids.contains(id)) else {
            return self.push_user(content);
        };
        let mut message = new_message("tool", content);
        message.tool_call_id = Some(GoString(id));
        self.messages.push(message);
    }

    fn push_found_tools(&mut self, item: &Members<'a>) {
        let found = elements(item.get("tools")).into_iter();
        let found: Vec<_> = found.flat_map(|raw| tools::list_found(raw, self.names)).collect();
        let text = serde_json::Value::from(found).to_string().into();
        let id = non_empty_text(item.get("call_id"));
        let id = id.or_else(|| self.open_search.take().map(Cow::Owned));
        self.push_result(InputContent { text, ..InputContent::default() }, id);
    }

    fn push_agent_message(&mut self, item: &Members<'a>) {
        let mut content = content::read(item.get("content"), Joint::LineBreak, self.skipped);
        let name = |member: Option<&'a RawValue>| non_empty_text(member).unwrap_or("?".into());
        let (author, recipient) = (name(item.get("author")), name(item.get("recipient")));
        let head = format!("Message from {author} to {recipient}:\n");
        content.text = Cow::Owned(head + &content.text);
        self.push_user(content);
    }

    fn push_reasoning(&mut self, item: &Members<'a>) {
        let read = |member| content::read(member, Joint::LineBreak, self.skipped).text;
        let mut readable = [item.get("content"), item.get("summary")].map(read).into_iter();
        let readable = readable.find(|text| !text.trim().is_empty());
        // This server sends the reasoning itself, as Ollama does.
        let own = non_empty_text(item.get("encrypted_content"));
        let own =
            own.filter(|text| !text.trim().is_empty() && !is_opaque(text, readable.is_some()));
        if let Some(text) = own.or(readable) {
            append(self.reasoning.get_or_insert_default(), "\n\n", text);
        }
    }
}

/// True for reasoning that only the server can read that made it: base64 or a token. A short one may be
/// a word, unless the reasoning stands beside it in words.
fn is_opaque(text: &str, is_readable_elsewhere: bool) -> bool {
    let is_sign = |byte: u8| byte.is_ascii_alphanumeric() || b"+/=-_.:".contains(&byte);
    let is_long = text.len() >= MIN_OPAQUE_LEN;
    (is_long || is_readable_elsewhere) && text.bytes().all(is_sign)
}

fn has_role(message: &Message<'_>, role: &str) -> bool {
    message.role.as_deref() == Some(role)
}

fn is_empty(message: &Message<'_>) -> bool {
    let has_text = non_empty(message.content.as_deref()).is_some();
    !has_text && message.images.is_none() && message.attachments.is_empty()
}

fn new_message<'a>(role: &'static str, content: InputContent<'a>) -> Message<'a> {
    Message {
        role: Some(GoString(Cow::Borrowed(role))),
        content: Some(GoString(content.text)),
        images: Some(content.sounds).filter(|sounds| !sounds.is_empty()),
        attachments: content.attachments,
        ..Message::default()
    }
}

/// Adds to a text, with a joint if there is something on both of its sides.
fn append<'a>(text: &mut Cow<'a, str>, joint: &str, more: Cow<'a, str>) {
    if text.is_empty() {
        *text = more;
    } else if !more.is_empty() {
        let text = text.to_mut();
        text.push_str(joint);
        text.push_str(&more);
    }
}

fn reference_error() -> Error {
    Error::invalid_request(
        "item_reference: this server does not know the item, send the item itself; clients do with \
         \"store\": false",
    )
}
