//! The items of a response's output: reasoning, messages, calls and compactions.
//!
//! A call has the form in which the client declared its tool: Codex ends a turn whose call has another one,
//! and does not know a member of a namespace by a joined name (openai/codex, `core/src/tools/router.rs`).
//! [`super::free_text`] reads the arguments that are no JSON for the client. Never writes an event.

use serde_json::value::RawValue;

use super::free_text;
use super::response_object::ResponseIds;
use crate::api::openai::responses::{
    ItemPart, OutputText, ResponseItem, ShellAction, StreamEvent, SummaryText,
};
use crate::translate::tool_calls::CompleteToolCall;
use crate::translate::tool_names::{ToolForm, ToolNames, bare_name};

/// An item of the output.
#[derive(Clone, Debug)]
pub struct OutputItem {
    pub(super) kind: ItemKind,
    pub(super) id: String,
    /// The text so far; the arguments of a function, or the input of a tool that takes free text.
    pub(super) text: String,
}

#[derive(Clone, Debug)]
pub(super) enum ItemKind {
    Text(TextKind),
    Function(CallHead),
    Custom(CallHead),
    ToolSearch { call_id: String, arguments: Box<RawValue> },
    LocalShell { call_id: String, action: ShellAction },
    Compaction,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TextKind {
    Reasoning,
    Message,
}

/// Which tool is called.
#[derive(Clone, Debug)]
pub(super) struct CallHead {
    call_id: String,
    namespace: Option<String>,
    name: String,
}

impl OutputItem {
    /// A call of one of the tools. One that is not among them is a function of that name.
    pub(super) fn from_call(ids: &ResponseIds, tools: &ToolNames, call: &CompleteToolCall) -> Self {
        let tool = tools.resolve(&call.name);
        let (call_id, arguments) = (call.id.clone(), call.arguments.as_str());
        let head = CallHead {
            call_id: call_id.clone(),
            namespace: tool.and_then(|tool| tool.namespace.clone()),
            name: tool.map_or(bare_name(&call.name), |tool| &tool.name).to_owned(),
        };
        let none = String::new();
        let (prefix, kind, text) = match tool.map_or(ToolForm::Function, |tool| tool.form) {
            ToolForm::Function => ("fc", ItemKind::Function(head), arguments.to_owned()),
            ToolForm::Custom => ("ctc", ItemKind::Custom(head), free_text::read_input(arguments)),
            ToolForm::ToolSearch => {
                let arguments = free_text::read_search(arguments);
                ("tsc", ItemKind::ToolSearch { call_id, arguments }, none)
            }
            ToolForm::LocalShell => {
                let action = free_text::read_action(arguments);
                ("lsh", ItemKind::LocalShell { call_id, action }, none)
            }
        };
        Self { kind, id: ids.tool_call_id(prefix, call.index), text }
    }

    pub(super) fn is_text(&self, kind: TextKind) -> bool {
        matches!(self.kind, ItemKind::Text(it) if it == kind)
    }

    pub(super) fn is_call(&self) -> bool {
        !matches!(self.kind, ItemKind::Text(_))
    }

    /// The item as clients read it: without its text until it is complete.
    pub(super) fn to_item(&self, is_complete: bool) -> ResponseItem<'_> {
        let id = self.id.as_str();
        let status = if is_complete { "completed" } else { "in_progress" };
        let text = if is_complete { self.text.as_str() } else { "" };
        match &self.kind {
            ItemKind::Text(TextKind::Reasoning) => ResponseItem::Reasoning {
                id,
                kind: "reasoning",
                summary: is_complete.then(|| summary_text(text)).into_iter().collect(),
                encrypted_content: is_complete.then_some(text),
            },
            ItemKind::Text(TextKind::Message) => ResponseItem::Message {
                id,
                kind: "message",
                status,
                role: "assistant",
                content: is_complete.then(|| output_text(text)).into_iter().collect(),
            },
            ItemKind::Function(CallHead { call_id, namespace, name }) => {
                let namespace = namespace.as_deref();
                let (kind, arguments) = ("function_call", text);
                ResponseItem::FunctionCall { id, kind, status, call_id, namespace, name, arguments }
            }
            ItemKind::Custom(CallHead { call_id, namespace, name }) => {
                let namespace = namespace.as_deref();
                let (kind, input) = ("custom_tool_call", text);
                ResponseItem::CustomToolCall { id, kind, status, call_id, namespace, name, input }
            }
            ItemKind::ToolSearch { call_id, arguments } => {
                let (kind, execution) = ("tool_search_call", "client");
                ResponseItem::ToolSearchCall { id, kind, call_id, status, execution, arguments }
            }
            ItemKind::LocalShell { call_id, action } => {
                let kind = "local_shell_call";
                ResponseItem::LocalShellCall { id, kind, status, call_id, action }
            }
            ItemKind::Compaction => {
                ResponseItem::Compaction { id, kind: "compaction", encrypted_content: &self.text }
            }
        }
    }

    /// An event about the item itself, which stands at this place of the output.
    pub(super) fn item_event(&self, place: usize, is_complete: bool) -> StreamEvent<'_> {
        let item = Some(self.to_item(is_complete));
        StreamEvent { output_index: Some(place), item, ..StreamEvent::default() }
    }

    /// An event about a piece of the text.
    pub(super) fn delta_event<'a>(&'a self, place: usize, delta: &'a str) -> StreamEvent<'a> {
        StreamEvent { delta: Some(delta), ..self.text_event(place) }
    }

    /// An event about the whole text.
    pub(super) fn whole_event(&self, place: usize) -> StreamEvent<'_> {
        let (event, text) = (self.text_event(place), Some(self.text.as_str()));
        match self.kind {
            ItemKind::Function(_) => StreamEvent { arguments: text, ..event },
            ItemKind::Custom(_) => StreamEvent { input: text, ..event },
            _ => StreamEvent { text, ..event },
        }
    }

    fn text_event(&self, place: usize) -> StreamEvent<'_> {
        let (item_id, output_index) = (Some(self.id.as_str()), Some(place));
        let event = StreamEvent { item_id, output_index, ..StreamEvent::default() };
        match self.kind {
            ItemKind::Text(TextKind::Reasoning) => StreamEvent { summary_index: Some(0), ..event },
            ItemKind::Text(TextKind::Message) => {
                StreamEvent { content_index: Some(0), logprobs: Some([]), ..event }
            }
            _ => event,
        }
    }

    /// An event about the only part of a message or of reasoning; calls have no parts.
    pub(super) fn part_event(&self, place: usize) -> Option<StreamEvent<'_>> {
        let part = match &self.kind {
            ItemKind::Text(TextKind::Reasoning) => ItemPart::Summary(summary_text(&self.text)),
            ItemKind::Text(TextKind::Message) => ItemPart::Text(output_text(&self.text)),
            _ => return None,
        };
        Some(StreamEvent { part: Some(part), logprobs: None, ..self.text_event(place) })
    }

    /// The names of the events about the item's text and part; `None` if only the item itself is told.
    pub(super) fn event_names(&self) -> Option<&'static EventNames> {
        match &self.kind {
            ItemKind::Text(TextKind::Reasoning) => Some(&REASONING_EVENTS),
            ItemKind::Text(TextKind::Message) => Some(&MESSAGE_EVENTS),
            ItemKind::Function(_) => Some(&FUNCTION_EVENTS),
            ItemKind::Custom(_) => Some(&CUSTOM_EVENTS),
            ItemKind::ToolSearch { .. } | ItemKind::LocalShell { .. } | ItemKind::Compaction => {
                None
            }
        }
    }
}

/// The names of the events between an item's first and last.
#[derive(Debug)]
pub(super) struct EventNames {
    pub(super) part_added: &'static str,
    pub(super) delta: &'static str,
    pub(super) done: &'static str,
    pub(super) part_done: &'static str,
}

const REASONING_EVENTS: EventNames = EventNames {
    part_added: "response.reasoning_summary_part.added",
    delta: "response.reasoning_summary_text.delta",
    done: "response.reasoning_summary_text.done",
    part_done: "response.reasoning_summary_part.done",
};

const MESSAGE_EVENTS: EventNames = EventNames {
    part_added: "response.content_part.added",
    delta: "response.output_text.delta",
    done: "response.output_text.done",
    part_done: "response.content_part.done",
};

const FUNCTION_EVENTS: EventNames = EventNames {
    part_added: "",
    delta: "response.function_call_arguments.delta",
    done: "response.function_call_arguments.done",
    part_done: "",
};

const CUSTOM_EVENTS: EventNames = EventNames {
    part_added: "",
    delta: "response.custom_tool_call_input.delta",
    done: "response.custom_tool_call_input.done",
    part_done: "",
};

fn output_text(text: &str) -> OutputText<'_> {
    OutputText { kind: "output_text", text, annotations: [], logprobs: [] }
}

fn summary_text(text: &str) -> SummaryText<'_> {
    SummaryText { kind: "summary_text", text }
}
