//! Anthropic's turns of blocks to Ollama's messages (ollama-api.md 15.2).
//!
//! | block | what becomes of it |
//! | --- | --- |
//! | a text, `text` | the message's text; several stand behind one another |
//! | `image` | the message's image; only base64 |
//! | `tool_use`, `server_tool_use` | a call |
//! | `tool_result`, `web_search_tool_result` | a tool's message; of a failure it says so |
//! | `thinking` | the message's thinking |
//! | all others | left out |
//!
//! The results in a user's turn come before its text, because they answer the turn before. What
//! follows a result in an assistant's turn was said after it, and becomes a turn of its own.

use std::borrow::Cow;

use super::{concat_texts, missing_messages_error};
use crate::api::anthropic::request::{
    Content, ContentBlock, ImageSource, Message, MessagesRequest,
};
use crate::api::ollama::decode;
use crate::api::ollama::decode::{GoString, non_empty};
use crate::api::ollama::request::{FunctionCall, Message as OllamaMessage, ToolCall};
use crate::error::{Error, Result};
use crate::translate::media;

/// The conversation, the system prompt before it.
///
/// # Errors
/// [`Error::InvalidRequest`] for an image or a call that is none, and for a conversation of which
/// nothing is left.
pub(super) fn to_ollama_messages<'a>(
    request: &'a MessagesRequest<'a>,
) -> Result<Vec<OllamaMessage<'a>>> {
    let mut out = Vec::new();
    if let Some(system) = request.system.as_ref().and_then(content_text)
        && !system.is_empty()
    {
        let role = Some(GoString("system".into()));
        out.push(OllamaMessage { role, content: Some(system), ..OllamaMessage::default() });
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

/// What is gathered of one turn.
#[derive(Default)]
struct TurnBuilder<'a> {
    texts: Vec<&'a str>,
    thinking: Vec<&'a str>,
    images: Vec<&'a serde_json::value::RawValue>,
    calls: Vec<ToolCall<'a>>,
}

impl<'a> TurnBuilder<'a> {
    /// Adds a block that is no result; those of unknown kinds are left out.
    fn push_block(&mut self, block: &'a ContentBlock<'a>) -> Result<()> {
        match block_kind(block) {
            "text" => self.texts.extend(block.text.as_deref()),
            "thinking" => self.thinking.extend(block.thinking.as_deref()),
            "image" => self.images.push(image_data(block)?),
            "tool_use" => self.calls.push(parse_call(block)?),
            "server_tool_use" => self.calls.push(to_call(block)),
            _ => {}
        }
        Ok(())
    }

    /// The message, unless nothing is in it.
    fn finish(self, role: Option<&GoString<'a>>) -> Option<OllamaMessage<'a>> {
        let (content, thinking) = (concat_texts(&self.texts), concat_texts(&self.thinking));
        let holds = |text: &Option<GoString<'_>>| non_empty(text.as_deref()).is_some();
        let holds_something = holds(&content)
            || holds(&thinking)
            || !self.images.is_empty()
            || !self.calls.is_empty();
        holds_something.then(|| OllamaMessage {
            role: role.cloned(),
            content,
            thinking,
            images: Some(self.images),
            tool_calls: Some(self.calls),
            ..OllamaMessage::default()
        })
    }
}

/// Adds what a turn says.
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
    let goes_on = role.is_some_and(|role| role.eq_ignore_ascii_case("assistant"));
    let mut turn = TurnBuilder::default();
    for block in blocks {
        let Some(result) = parse_result(block)? else {
            turn.push_block(block)?;
            continue;
        };
        if goes_on {
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

/// The text of a content; blocks of other kinds do not count.
fn content_text<'a>(content: &'a Content<'a>) -> Option<GoString<'a>> {
    match content {
        Content::Text(text) => Some(text.clone()),
        Content::Blocks(blocks) => {
            let texts = blocks.iter().filter(|block| block_kind(block) == "text");
            concat_texts(&texts.filter_map(|block| block.text.as_deref()).collect::<Vec<_>>())
        }
    }
}

/// The base64 of an image, checked here so that what is wrong with it is told in this API's words.
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
    let function = FunctionCall { index: None, name, arguments: block.input };
    ToolCall { id: block.id.clone(), function: Some(function) }
}

/// A tool's message, if the block is a result.
fn parse_result<'a>(block: &'a ContentBlock<'a>) -> Result<Option<OllamaMessage<'a>>> {
    let mut turn = TurnBuilder::default();
    let text = match (block_kind(block), &block.content) {
        ("web_search_tool_result", content) => {
            GoString(Cow::Owned(search_results_text(content.as_ref())))
        }
        ("tool_result", None) => GoString::default(),
        ("tool_result", Some(Content::Text(text))) => text.clone(),
        ("tool_result", Some(Content::Blocks(blocks))) => {
            let shown = blocks.iter().filter(|block| matches!(block_kind(block), "text" | "image"));
            shown.into_iter().try_for_each(|block| turn.push_block(block))?;
            concat_texts(&turn.texts).unwrap_or_default()
        }
        _ => return Ok(None),
    };
    let failed = block.is_error == Some(true);
    let text = if failed { GoString(Cow::Owned(error_text(&text))) } else { text };
    Ok(Some(OllamaMessage {
        role: Some(GoString("tool".into())),
        content: Some(text),
        images: Some(turn.images),
        tool_call_id: block.tool_use_id.clone(),
        ..OllamaMessage::default()
    }))
}

/// What a tool says that failed: OpenAI's tool messages have no mark for it, so the words tell.
fn error_text(text: &str) -> String {
    if text.is_empty() { "Error".to_owned() } else { format!("Error: {text}") }
}

/// What a search found, one line each, or why it found nothing.
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
