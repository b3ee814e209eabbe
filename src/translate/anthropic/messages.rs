//! Translates Anthropic's turns of blocks to Ollama's messages.
//!
//! | block | translation |
//! | --- | --- |
//! | a text, `text` | the message's text; several are concatenated |
//! | `image` | the message's image; base64 only |
//! | `tool_use`, `server_tool_use` | a call |
//! | `tool_result`, `web_search_tool_result` | a tool's message; a failure is told in its text |
//! | `thinking` | the message's thinking |
//! | all others | left out |
//!
//! A mark of a cache (`cache_control`) stays on its own text, image or result; those of other blocks are
//! left out.
//!
//! The results in a user's turn come before its text, because they answer the turn before. In an
//! assistant's turn, the blocks after a result become a turn of their own.

use std::borrow::Cow;

use super::{concat_texts, missing_messages_error};
use crate::api::anthropic::request::{
    Content, ContentBlock, ImageSource, Message, MessagesRequest,
};
use crate::api::ollama::decode::{self, GoString, non_empty};
use crate::api::ollama::request::{FunctionCall, MarkedPart, Message as OllamaMessage, ToolCall};
use crate::error::{Error, Result};
use crate::translate::cache_marks::PartCollector;
use crate::translate::media;

/// The conversation, with the system prompt first.
///
/// # Errors
/// [`Error::InvalidRequest`] for an invalid image or call, and for a conversation without messages.
pub(super) fn to_ollama_messages<'a>(
    request: &'a MessagesRequest<'a>,
) -> Result<Vec<OllamaMessage<'a>>> {
    let mut out = Vec::new();
    if let Some(system) = request.system.as_ref().and_then(content_text)
        && !system.is_empty()
    {
        let role = Some(GoString("system".into()));
        let marked_parts = request.system.as_ref().map(system_parts).unwrap_or_default();
        let content = Some(system);
        out.push(OllamaMessage { role, content, marked_parts, ..OllamaMessage::default() });
    }
    let system_count = out.len();
    for message in request.messages.iter().flatten() {
        push_message(message, &mut out)?;
    }
    if out.len() == system_count {
        return Err(missing_messages_error());
    }
    Ok(out)
}

/// The contents of one turn.
#[derive(Default)]
struct TurnBuilder<'a> {
    texts: Vec<&'a str>,
    thinking: Vec<&'a str>,
    images: Vec<&'a serde_json::value::RawValue>,
    calls: Vec<ToolCall<'a>>,
    parts: PartCollector<'a>,
}

impl<'a> TurnBuilder<'a> {
    /// Adds a block that is not a result; ignores unknown kinds.
    fn push_block(&mut self, block: &'a ContentBlock<'a>) -> Result<()> {
        match block_kind(block) {
            "text" => {
                self.texts.extend(block.text.as_deref());
                let text = block.text.as_deref().unwrap_or_default();
                self.parts.push(Some(text.into()), block.cache_control);
            }
            "thinking" => self.thinking.extend(block.thinking.as_deref()),
            "image" => {
                self.images.push(image_data(block)?);
                self.parts.push(None, block.cache_control);
            }
            "tool_use" => self.calls.push(parse_call(block)?),
            "server_tool_use" => self.calls.push(to_call(block)),
            _ => {}
        }
        Ok(())
    }

    /// The message; `None` if it is empty.
    fn finish(self, role: Option<&GoString<'a>>) -> Option<OllamaMessage<'a>> {
        let (content, thinking) = (concat_texts(&self.texts), concat_texts(&self.thinking));
        let is_empty = |text: &Option<GoString<'_>>| non_empty(text.as_deref()).is_none();
        let has_texts = !is_empty(&content) || !is_empty(&thinking);
        let has_content = has_texts || !self.images.is_empty() || !self.calls.is_empty();
        has_content.then(|| OllamaMessage {
            role: role.cloned(),
            content,
            thinking,
            images: Some(self.images),
            tool_calls: Some(self.calls),
            marked_parts: self.parts.finish(),
            ..OllamaMessage::default()
        })
    }
}

/// Adds the messages of a turn.
fn push_message<'a>(message: &'a Message<'a>, out: &mut Vec<OllamaMessage<'a>>) -> Result<()> {
    let role = message.role.as_ref();
    let blocks = match &message.content {
        Some(Content::Blocks(blocks)) => blocks,
        Some(Content::Text(text)) => {
            let (role, content) = (role.cloned(), Some(text.clone()));
            out.push(OllamaMessage { role, content, ..OllamaMessage::default() });
            return Ok(());
        }
        None => return Ok(()),
    };
    let is_assistant = role.is_some_and(|role| role.eq_ignore_ascii_case("assistant"));
    let mut turn = TurnBuilder::default();
    for block in blocks {
        let Some(result) = parse_result(block)? else {
            turn.push_block(block)?;
            continue;
        };
        if is_assistant {
            out.extend(std::mem::take(&mut turn).finish(role));
        }
        out.push(result);
    }
    out.extend(turn.finish(role));
    Ok(())
}

fn block_kind<'a>(block: &'a ContentBlock<'a>) -> &'a str {
    block.kind.as_deref().unwrap_or_default()
}

/// The text of a content, without blocks of other kinds.
fn content_text<'a>(content: &'a Content<'a>) -> Option<GoString<'a>> {
    match content {
        Content::Text(text) => Some(text.clone()),
        Content::Blocks(blocks) => {
            let texts = blocks.iter().filter(|block| block_kind(block) == "text");
            concat_texts(&texts.filter_map(|block| block.text.as_deref()).collect::<Vec<_>>())
        }
    }
}

fn system_parts<'a>(content: &'a Content<'a>) -> Vec<MarkedPart<'a>> {
    let Content::Blocks(blocks) = content else { return Vec::new() };
    let mut parts = PartCollector::default();
    for block in blocks.iter().filter(|block| block_kind(block) == "text") {
        let text = block.text.as_deref().unwrap_or_default();
        parts.push(Some(text.into()), block.cache_control);
    }
    parts.finish()
}

/// The base64 of an image. It is checked here for the error texts of this API.
fn image_data<'a>(block: &'a ContentBlock<'a>) -> Result<&'a serde_json::value::RawValue> {
    let invalid = || Error::invalid_request("invalid image source");
    let source = block.source.ok_or_else(invalid)?;
    let source: ImageSource<'a> =
        decode::parse(source.get(), "anthropic.ImageSource").map_err(|_| invalid())?;
    let kind = source.kind.as_deref().unwrap_or_default();
    if kind != "base64" {
        return Err(Error::invalid_request(format!(
            "invalid image source type: {kind}. Only base64 images are supported."
        )));
    }
    let data = source.data.ok_or_else(invalid)?;
    media::parse_part(data).map_err(|error| {
        Error::invalid_request(format!("invalid base64 image data: {}", error.message()))
    })?;
    Ok(data)
}

/// A call, which must have an id and a name.
fn parse_call<'a>(block: &'a ContentBlock<'a>) -> Result<ToolCall<'a>> {
    for (name, member) in [("id", &block.id), ("name", &block.name)] {
        if non_empty(member.as_deref()).is_none() {
            let reason = format!("tool_use block missing required '{name}' field");
            return Err(Error::invalid_request(reason));
        }
    }
    Ok(to_call(block))
}

fn to_call<'a>(block: &ContentBlock<'a>) -> ToolCall<'a> {
    let name = block.name.clone();
    let function = FunctionCall { name, arguments: block.input, ..FunctionCall::default() };
    ToolCall { id: block.id.clone(), function: Some(function) }
}

/// The tool's message for a result; `None` for other blocks.
fn parse_result<'a>(block: &'a ContentBlock<'a>) -> Result<Option<OllamaMessage<'a>>> {
    let mut turn = TurnBuilder::default();
    let text = match (block_kind(block), &block.content) {
        ("web_search_tool_result", content) => {
            GoString(Cow::Owned(search_results_text(content.as_ref())))
        }
        ("tool_result", None) => GoString::default(),
        ("tool_result", Some(Content::Text(text))) => {
            turn.parts.push(Some(Cow::Borrowed(text)), None);
            text.clone()
        }
        ("tool_result", Some(Content::Blocks(blocks))) => {
            let shown = blocks.iter().filter(|block| matches!(block_kind(block), "text" | "image"));
            shown.into_iter().try_for_each(|block| turn.push_block(block))?;
            concat_texts(&turn.texts).unwrap_or_default()
        }
        _ => return Ok(None),
    };
    let failed = block.is_error == Some(true);
    let text = if failed { GoString(Cow::Owned(error_text(&text))) } else { text };
    let mut parts = turn.parts;
    if failed {
        // The text has changed, so it is one part.
        parts = PartCollector::default();
        parts.push(Some(Cow::Owned(text.to_string())), None);
    }
    parts.mark_last(block.cache_control);
    Ok(Some(OllamaMessage {
        role: Some(GoString("tool".into())),
        content: Some(text),
        images: Some(turn.images),
        tool_call_id: block.tool_use_id.clone(),
        marked_parts: parts.finish(),
        ..OllamaMessage::default()
    }))
}

/// The text of a failed tool: OpenAI's tool messages have no member for a failure.
fn error_text(text: &str) -> String {
    if text.is_empty() { "Error".to_owned() } else { format!("Error: {text}") }
}

/// The results of a search, one in a line, or its error.
fn search_results_text(content: Option<&Content<'_>>) -> String {
    let Some(Content::Blocks(blocks)) = content else { return String::new() };
    let mut out = String::new();
    for block in blocks {
        if let Some(code) = &block.error_code {
            out.push_str(&error_text(code));
        } else if block_kind(block) == "web_search_result" {
            let text =
                |member: &Option<GoString<'_>>| member.as_deref().unwrap_or_default().to_owned();
            out.push_str(&format!("- {}: {}\n", text(&block.title), text(&block.url)));
        }
    }
    out
}
