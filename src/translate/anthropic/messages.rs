//! Translates Anthropic's turns of blocks to Ollama's messages.
//!
//! | block | translation |
//! | --- | --- |
//! | a text, `text` | the message's text; several are concatenated, those of `system` with a blank line |
//! | `image` | the message's image, or its address; a file of Anthropic's store is named in a line |
//! | `document` | text below its title; a PDF as a file where the upstream takes it, else a line |
//! | `search_result` | its title, source and texts |
//! | `tool_use` | a call |
//! | `tool_result` | a tool's message; a failure is told in its text |
//! | `tool_reference` | a text that says that the tool is available |
//! | `server_tool_use`, `mcp_tool_use` | a call, if its result is there |
//! | `..._tool_result` | a tool's message with the texts that it holds |
//! | `thinking` | the message's thinking |
//! | `compaction` | a user's message with the summary |
//! | `mid_conv_system` | a system message at its place |
//! | `tool_addition`, `tool_removal` | no text; the tool is declared |
//! | `redacted_thinking`, `fallback`, `container_upload` | left out |
//! | all others | left out, and told in the log |
//!
//! A mark of a cache (`cache_control`) stays on its own text, image or result; those of other blocks are
//! left out. The line with which Claude Code tells its version (`x-anthropic-billing-header`) is left out:
//! it differs from session to session, and so spoils the upstream's cache from its first word on.
//!
//! The system messages before all turns become one; later ones stay at their place. The results in a
//! user's turn come before its text, because they answer the turn before. In an assistant's turn, the
//! blocks after a result become a turn of their own. A result without a call is told by the user; a
//! second call with the same id in one turn gets another one.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet, VecDeque};

use serde_json::value::RawValue;

use super::results::{self, reference_text};
use super::tools;
use super::turn::{TurnBuilder, text_of};
use crate::api::anthropic::request::{Content, ContentBlock, Message, MessagesRequest};
use crate::api::ollama::decode::{GoString, non_empty};
use crate::api::ollama::request::{FunctionCall, Message as OllamaMessage, ToolCall};
use crate::error::Result;
use crate::translate::skipped::{Skipped, SkippedKind};
use crate::translate::tool_names::{ToolForm, ToolNames};

/// What the first line of Claude Code's system prompt begins with, unless it is switched off.
const BILLING_LINE: &str = "x-anthropic-billing-header";

/// The role of a turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    System,
    User,
    Assistant,
}

impl Role {
    /// The role of a message; a missing or unknown one is the user's.
    fn of(message: &Message<'_>) -> Self {
        let role = message.role.as_deref().unwrap_or_default();
        let is = |name: &str| role.eq_ignore_ascii_case(name);
        match () {
            () if is("assistant") => Self::Assistant,
            () if is("system") || is("developer") => Self::System,
            () => Self::User,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::System => "system",
            Self::User => "user",
            Self::Assistant => "assistant",
        }
    }
}

/// The conversation, with the system prompt first.
///
/// # Errors
/// [`crate::error::Error::InvalidRequest`] for an invalid image.
pub(super) fn to_ollama_messages<'a>(
    request: &'a MessagesRequest<'a>,
    names: &mut ToolNames,
    skipped: &mut Skipped,
) -> Result<Vec<OllamaMessage<'a>>> {
    let messages = request.messages.as_deref().unwrap_or_default();
    let mut system = TurnBuilder::default();
    push_system(request.system.as_ref(), &mut system);
    let is_leading = |message: &&Message<'_>| Role::of(message) == Role::System;
    let leading = messages.iter().take_while(is_leading).count();
    messages[..leading].iter().for_each(|it| push_system(it.content.as_ref(), &mut system));
    let mut conversation = Conversation::new(messages, names, skipped);
    for message in &messages[leading..] {
        conversation.push_message(message)?;
    }
    let turns = conversation.out;
    let mut out = Vec::with_capacity(turns.len() + 1);
    if !system.is_empty() {
        out.push(system.finish("system"));
    }
    if turns.is_empty() && (leading == 0 || out.is_empty()) {
        // Nothing is left of the turns; an empty one stands for them.
        let text = Some(GoString::default());
        out.push(OllamaMessage { content: text, ..TurnBuilder::default().finish("user") });
    }
    out.extend(turns);
    Ok(out)
}

/// True if a system message stands behind the first turn.
pub fn has_late_system(request: &MessagesRequest<'_>) -> bool {
    let roles = request.messages.iter().flatten().map(Role::of);
    roles.skip_while(|role| *role == Role::System).any(|role| role == Role::System)
}

/// Adds the texts of a system prompt or message.
fn push_system<'a>(content: Option<&'a Content<'a>>, turn: &mut TurnBuilder<'a>) {
    match content {
        None => {}
        Some(Content::Text(text)) => turn.push_paragraph(without_billing_line(text).into(), None),
        Some(Content::Blocks(blocks)) => {
            for block in blocks {
                match (block.kind(), block.text.as_deref()) {
                    ("text", Some(text)) => {
                        turn.push_paragraph(without_billing_line(text).into(), block.cache_control);
                    }
                    ("mid_conv_system", _) => push_inner_system(block, turn),
                    _ => {}
                }
            }
        }
    }
}

/// Adds the texts inside of a `mid_conv_system`.
fn push_inner_system<'a>(block: &ContentBlock<'a>, turn: &mut TurnBuilder<'a>) {
    for inner in block.inner_blocks() {
        if inner.kind() == "text" {
            turn.push_paragraph(inner.text.unwrap_or_default().0, inner.cache_control);
        }
    }
}

fn without_billing_line(text: &str) -> &str {
    match text.trim_start().strip_prefix(BILLING_LINE) {
        Some(line) => line.split_once('\n').map_or("", |(_, rest)| rest.trim_start_matches('\n')),
        None => text,
    }
}

/// The messages so far.
struct Conversation<'a, 'n> {
    out: Vec<OllamaMessage<'a>>,
    names: &'n mut ToolNames,
    /// The ids that are sent for calls without a result, by the client's id.
    open: HashMap<String, VecDeque<Option<GoString<'a>>>>,
    /// The ids of results of tools that a server ran.
    server_results: HashSet<&'a str>,
    skipped: &'n mut Skipped,
}

impl<'a, 'n> Conversation<'a, 'n> {
    fn new(
        messages: &'a [Message<'a>],
        names: &'n mut ToolNames,
        skipped: &'n mut Skipped,
    ) -> Self {
        let blocks = messages.iter().filter_map(|message| match &message.content {
            Some(Content::Blocks(blocks)) => Some(blocks),
            _ => None,
        });
        let results = blocks.flatten().filter(|block| is_server_result(block.kind()));
        let server_results = results.filter_map(|block| block.tool_use_id.as_deref()).collect();
        Self { out: Vec::new(), names, open: HashMap::new(), server_results, skipped }
    }

    /// Adds the messages of a turn.
    fn push_message(&mut self, message: &'a Message<'a>) -> Result<()> {
        let role = Role::of(message);
        let mut turn = TurnBuilder::default();
        match (&message.content, role) {
            (None, _) => {}
            (content, Role::System) => push_system(content.as_ref(), &mut turn),
            (Some(Content::Text(text)), _) => {
                let content = Some(GoString(Cow::Borrowed(&**text)));
                let role = Some(GoString(role.name().into()));
                self.out.push(OllamaMessage { role, content, ..OllamaMessage::default() });
            }
            (Some(Content::Blocks(blocks)), _) => {
                for block in blocks {
                    self.push_block(block, role, &mut turn)?;
                }
            }
        }
        self.end_turn(role, turn);
        Ok(())
    }

    fn end_turn(&mut self, role: Role, turn: TurnBuilder<'a>) {
        if !turn.is_empty() {
            self.out.push(turn.finish(role.name()));
        }
    }

    fn push_block(
        &mut self,
        block: &'a ContentBlock<'a>,
        role: Role,
        turn: &mut TurnBuilder<'a>,
    ) -> Result<()> {
        match block.kind() {
            "thinking" => turn.push_thinking(block.thinking.as_deref().unwrap_or_default().into()),
            "tool_use" if role == Role::Assistant => self.push_call(block, turn),
            "server_tool_use" | "mcp_tool_use" if role == Role::Assistant => {
                let id = block.id.as_deref().unwrap_or_default();
                if self.server_results.contains(id) {
                    self.push_call(block, turn);
                }
            }
            kind if kind == "tool_result" || is_server_result(kind) => {
                if role == Role::Assistant {
                    self.end_turn(role, std::mem::take(turn));
                }
                self.push_result(block, turn)?;
                if role == Role::Assistant {
                    // Only a result without a call is left.
                    self.end_turn(Role::User, std::mem::take(turn));
                }
            }
            "tool_reference" => self.push_reference(block, turn),
            "compaction" | "mid_conv_system" => {
                self.end_turn(role, std::mem::take(turn));
                self.push_turn_of(block);
            }
            _ => {
                if !turn.push_content(block.borrowed())? {
                    self.note_unknown(block.kind());
                }
            }
        }
        Ok(())
    }

    /// Adds the turn that a block is: a summary, or a system message.
    fn push_turn_of(&mut self, block: &ContentBlock<'a>) {
        let mut turn = TurnBuilder::default();
        if block.kind() == "mid_conv_system" {
            push_inner_system(block, &mut turn);
            return self.end_turn(Role::System, turn);
        }
        for inner in block.inner_blocks() {
            turn.push_paragraph(inner.text.unwrap_or_default().0, None);
        }
        self.end_turn(Role::User, turn);
    }

    /// Adds a call. One without a name is none; one without an id gets one from its place.
    fn push_call(&mut self, block: &'a ContentBlock<'a>, turn: &mut TurnBuilder<'a>) {
        let Some(name) = non_empty(block.name.as_deref()) else {
            return self.skipped.note(SkippedKind::Block, block.kind());
        };
        let name = self.names.declare(ToolForm::Function, None, name).to_owned();
        let id = block.id.as_deref().unwrap_or_default();
        let sent = non_empty(Some(id)).map(|id| GoString(turn.unique_id(id)));
        self.open.entry(id.to_owned()).or_default().push_back(sent.clone());
        let arguments = block.input.filter(|input| is_arguments(input));
        let name = Some(GoString(name.into()));
        let function = FunctionCall { name, arguments, ..FunctionCall::default() };
        turn.calls.push(ToolCall { id: sent, function: Some(function) });
    }

    /// Adds the tool's message for a result, or without a call its contents to the user's turn.
    fn push_result(
        &mut self,
        block: &'a ContentBlock<'a>,
        turn: &mut TurnBuilder<'a>,
    ) -> Result<()> {
        let id = block.tool_use_id.as_deref().unwrap_or_default();
        let answered = self.open.get_mut(id).and_then(VecDeque::pop_front);
        let mut result = TurnBuilder::default();
        let target = if answered.is_some() { &mut result } else { turn };
        if matches!(block.kind(), "tool_result" | "mcp_tool_result") {
            self.push_result_blocks(block, target)?;
        } else {
            let text = self.server_result_text(block);
            target.push_text(text.into(), None);
        }
        let Some(sent) = answered else { return Ok(()) };
        if block.is_error.is_some_and(|it| it.0) {
            result.prefix_text(results::error_text);
        }
        result.mark_last(block.cache_control);
        let mut message = result.finish("tool");
        message.content.get_or_insert_default();
        message.tool_call_id = sent;
        self.out.push(message);
        Ok(())
    }

    fn push_result_blocks(
        &mut self,
        block: &'a ContentBlock<'a>,
        turn: &mut TurnBuilder<'a>,
    ) -> Result<()> {
        for inner in block.inner_blocks() {
            if inner.kind() == "tool_reference" {
                self.push_reference(&inner, turn);
                continue;
            }
            let kind = inner.kind().to_owned();
            if !turn.push_content(inner)? {
                self.note_unknown(&kind);
            }
        }
        Ok(())
    }

    fn server_result_text(&mut self, block: &ContentBlock<'_>) -> String {
        let Some(content) = block.content.and_then(|raw| serde_json::from_str(raw.get()).ok())
        else {
            return String::new();
        };
        let mut rename = |name: &str| self.names.declare(ToolForm::Function, None, name).to_owned();
        results::to_text(&content, &mut rename)
    }

    fn push_reference(&mut self, block: &ContentBlock<'_>, turn: &mut TurnBuilder<'a>) {
        if let Some(name) = tools::referenced_tool(block) {
            let name = self.names.declare(ToolForm::Function, None, name);
            turn.push_paragraph(reference_text(name).into(), None);
        }
    }

    /// Notes a type that is not known, unless it is one of those that say nothing to a model.
    fn note_unknown(&mut self, kind: &str) {
        const SILENT: [&str; 5] =
            ["redacted_thinking", "fallback", "container_upload", "tool_addition", "tool_removal"];
        // A call of a server's tool in a turn of the user, or without a result, is left out, too.
        let is_call = kind.ends_with("tool_use");
        if !SILENT.contains(&kind) && !is_call {
            self.skipped.note(SkippedKind::Block, kind);
        }
    }
}

/// True for the result of a tool that a server ran, known or not.
fn is_server_result(kind: &str) -> bool {
    kind.ends_with("_tool_result")
}

/// True for arguments that can be sent: an object, or a text that holds one.
fn is_arguments(input: &RawValue) -> bool {
    let is_object = |text: &str| {
        serde_json::from_str::<serde_json::Value>(text).is_ok_and(|value| value.is_object())
    };
    input.get().starts_with('{') || is_object(&text_of(input))
}
