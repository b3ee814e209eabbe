//! Writes a response of `/v1/responses`, as events or as one object.
//!
//! ```text
//! created, in_progress
//!    |
//!    v       text, reasoning            call
//!  nothing ------------------> item ----------------> nothing
//!  open    <------------------ open   whole item,
//!    |       another kind, the end    begun and ended
//!    v
//! completed, or failed at any time
//! ```
//!
//! Invariants: sequence numbers count from 0 without a gap; one item is open at a time, and each ends
//! before the next one begins; the output of the last event consists of the items as they ended. Text and
//! reasoning behind another item begin a new one, as in Ollama (`openai/responses.go`). An answer without
//! anything has an empty message, which clients look for in the first place.

use std::borrow::Cow;

use super::failure;
use super::output_item::{ItemKind, OutputItem, TextKind};
use super::response_object::{RequestEcho, ResponseIds, Stage, to_usage, unix_seconds};
use crate::api::openai::responses::{
    IncompleteDetails, Response, ResponseError, ResponseItem, StreamEvent,
};
use crate::api::wire::{ndjson, sse};
use crate::error::Error;
use crate::translate::stream::{Completion, Delta, Encoder};
use crate::translate::tool_calls::CompleteToolCall;
use crate::translate::tool_names::ToolNames;

/// Writes the events, or the object.
#[derive(Debug)]
pub struct ResponseEncoder {
    echo: RequestEcho,
    ids: ResponseIds,
    /// The tools as the client declared them.
    tools: ToolNames,
    /// When the response began, in Unix seconds.
    created_at: Option<u64>,
    sequence_number: u64,
    /// The items so far.
    output: Vec<OutputItem>,
    /// True while the last item is open.
    is_open: bool,
    /// White space behind a call, until text follows.
    held_blank: String,
}

impl ResponseEncoder {
    /// An encoder for the response to one request, which declared these tools.
    pub fn new(echo: RequestEcho, ids: ResponseIds, tools: ToolNames) -> Self {
        Self {
            echo,
            ids,
            tools,
            created_at: None,
            sequence_number: 0,
            output: Vec::new(),
            is_open: false,
            held_blank: String::new(),
        }
    }

    /// Writes the two events that come first, once.
    fn start_response(&mut self, out: &mut Vec<u8>, now: &str) {
        if self.created_at.is_some() {
            return;
        }
        self.created_at = Some(unix_seconds(now));
        for kind in ["response.created", "response.in_progress"] {
            self.write_response(out, kind, Stage::InProgress);
        }
    }

    /// Writes an event with the response object, without its output.
    fn write_response(&mut self, out: &mut Vec<u8>, kind: &str, stage: Stage<'_>) {
        let created_at = self.created_at.unwrap_or_default();
        let response = self.echo.build_response(&self.ids, created_at, stage, &[]);
        let event = StreamEvent { response: Some(&response), ..StreamEvent::default() };
        write_event(out, &mut self.sequence_number, kind, event);
    }

    fn append_text(&mut self, out: &mut Vec<u8>, kind: TextKind, text: &str) {
        let text = &*self.text_to_add(kind, text);
        if text.is_empty() {
            return;
        }
        if !self.is_last(kind) {
            self.close_item(out);
            let item = self.new_text_item(kind);
            self.open_item(out, item);
        }
        self.write_delta(out, text);
        if let Some(item) = self.output.last_mut() {
            item.text.push_str(text);
        }
    }

    /// Adds a text without an event.
    fn add_text(&mut self, kind: TextKind, text: &str) {
        let text = &*self.text_to_add(kind, text);
        if text.is_empty() {
            return;
        }
        if !self.is_last(kind) {
            self.output.push(self.new_text_item(kind));
        }
        if let Some(item) = self.output.last_mut() {
            item.text.push_str(text);
        }
    }

    /// The text, after what was held back: many servers write line breaks between calls, which alone are no
    /// message.
    fn text_to_add<'t>(&mut self, kind: TextKind, text: &'t str) -> Cow<'t, str> {
        let is_behind_call = self.output.last().is_some_and(OutputItem::is_call);
        if kind == TextKind::Reasoning || !is_behind_call {
            return Cow::Borrowed(text);
        }
        self.held_blank.push_str(text);
        if self.held_blank.trim().is_empty() {
            return Cow::Borrowed("");
        }
        Cow::Owned(std::mem::take(&mut self.held_blank))
    }

    /// True if the last item is of this kind, and so still open.
    fn is_last(&self, kind: TextKind) -> bool {
        self.output.last().is_some_and(|item| item.is_text(kind))
    }

    /// A text that is still empty.
    fn new_text_item(&self, kind: TextKind) -> OutputItem {
        let place = self.output.len();
        let is_first = !self.output.iter().any(|item| item.is_text(kind));
        let id = match kind {
            TextKind::Reasoning => self.ids.reasoning_id(place, is_first),
            TextKind::Message => self.ids.message_id(place, is_first),
        };
        OutputItem { kind: ItemKind::Text(kind), id, text: String::new() }
    }

    fn new_call(&self, call: &CompleteToolCall) -> OutputItem {
        OutputItem::from_call(&self.ids, &self.tools, call)
    }

    /// Writes a call, which always comes whole.
    fn write_call(&mut self, out: &mut Vec<u8>, call: &CompleteToolCall) {
        self.close_item(out);
        let item = self.new_call(call);
        let text = item.text.clone();
        self.open_item(out, item);
        self.write_delta(out, &text);
        self.close_item(out);
    }

    /// Writes an item that is complete when it begins.
    pub fn write_whole_item(&mut self, out: &mut Vec<u8>, item: OutputItem) {
        self.close_item(out);
        self.open_item(out, item);
        self.close_item(out);
    }

    /// The items of a complete response as JSON, by their ids.
    pub fn output_json(&self) -> Vec<(String, String)> {
        let json = |item: &OutputItem| {
            String::from_utf8_lossy(&ndjson::to_vec(&item.to_item(true))).into_owned()
        };
        self.output.iter().map(|item| (item.id.clone(), json(item))).collect()
    }

    fn open_item(&mut self, out: &mut Vec<u8>, item: OutputItem) {
        let place = self.output.len();
        let event = item.item_event(place, false);
        write_event(out, &mut self.sequence_number, "response.output_item.added", event);
        if let (Some(names), Some(event)) = (item.event_names(), item.part_event(place)) {
            write_event(out, &mut self.sequence_number, names.part_added, event);
        }
        self.output.push(item);
        self.is_open = true;
    }

    /// Writes what is added to the open item.
    fn write_delta(&mut self, out: &mut Vec<u8>, text: &str) {
        let Some(item) = self.output.last().filter(|_| !text.is_empty()) else { return };
        let Some(names) = item.event_names() else { return };
        let event = item.delta_event(self.output.len() - 1, text);
        write_event(out, &mut self.sequence_number, names.delta, event);
    }

    /// Ends the open item, if there is one.
    fn close_item(&mut self, out: &mut Vec<u8>) {
        let place = self.output.len().saturating_sub(1);
        let is_open = std::mem::take(&mut self.is_open);
        let Some(item) = self.output.last().filter(|_| is_open) else { return };
        let number = &mut self.sequence_number;
        if let Some(names) = item.event_names() {
            write_event(out, number, names.done, item.whole_event(place));
            if let Some(event) = item.part_event(place) {
                write_event(out, number, names.part_done, event);
            }
        }
        write_event(out, number, "response.output_item.done", item.item_event(place, true));
    }

    fn output_items(&self) -> Vec<ResponseItem<'_>> {
        self.output.iter().map(|item| item.to_item(true)).collect()
    }

    /// The response that ended at `now`.
    fn completed_response<'a>(
        &'a self,
        output: &'a [ResponseItem<'a>],
        now: &str,
        outcome: &Completion,
    ) -> Response<'a> {
        let now = unix_seconds(now);
        let created_at = self.created_at.unwrap_or(now);
        let stage = Stage::Completed(now, to_usage(outcome));
        self.echo.build_response(&self.ids, created_at, stage, output)
    }
}

impl Encoder for ResponseEncoder {
    const IS_SSE: bool = true;

    fn encode_start(&mut self, out: &mut Vec<u8>, created_at: &str) {
        self.start_response(out, created_at);
    }

    fn encode_keepalive(&mut self, out: &mut Vec<u8>) {
        // Clients pass over types that they do not know (openai/codex, `sse/responses.rs`).
        write_event(out, &mut self.sequence_number, "keepalive", StreamEvent::default());
    }

    /// The item that is open stays so: clients discard a response that failed.
    fn encode_failure(&mut self, out: &mut Vec<u8>, created_at: &str, error: &Error) -> bool {
        if self.created_at.is_none() {
            self.created_at = Some(unix_seconds(created_at));
            self.write_response(out, "response.created", Stage::InProgress);
        }
        let failure = failure::describe(error);
        let error = ResponseError { code: failure.code, message: &failure.message };
        self.write_response(out, "response.failed", Stage::Failed(error));
        true
    }

    fn encode_delta(&mut self, out: &mut Vec<u8>, created_at: &str, delta: &Delta<'_>) {
        self.start_response(out, created_at);
        self.append_text(out, TextKind::Reasoning, &delta.thinking);
        self.append_text(out, TextKind::Message, &delta.content);
        delta.calls.iter().for_each(|call| self.write_call(out, call));
    }

    fn encode_final(
        &mut self,
        out: &mut Vec<u8>,
        created_at: &str,
        rest: &Delta<'_>,
        outcome: &Completion,
    ) {
        self.encode_delta(out, created_at, rest);
        if self.output.is_empty() {
            let item = self.new_text_item(TextKind::Message);
            self.open_item(out, item);
        }
        self.close_item(out);
        let output = self.output_items();
        let response = self.completed_response(&output, created_at, outcome);
        let event = StreamEvent { response: Some(&response), ..StreamEvent::default() };
        let mut sequence_number = self.sequence_number;
        write_event(out, &mut sequence_number, "response.completed", event);
    }

    fn collect(&mut self, piece: &Delta<'_>) {
        self.add_text(TextKind::Reasoning, &piece.thinking);
        self.add_text(TextKind::Message, &piece.content);
        for call in &piece.calls {
            self.output.push(self.new_call(call));
        }
    }

    /// One object, of the same items as those of a stream.
    fn encode_whole(
        &mut self,
        out: &mut Vec<u8>,
        created_at: &str,
        whole: &Delta<'_>,
        outcome: &Completion,
    ) {
        if self.output.is_empty() {
            self.collect(whole);
        } else if whole.thinking.is_empty() {
            // It was the answer, and stands there.
            self.output.retain(|item| !item.is_text(TextKind::Reasoning));
        }
        if self.output.is_empty() {
            self.output.push(self.new_text_item(TextKind::Message));
        }
        let output = self.output_items();
        let mut response = self.completed_response(&output, created_at, outcome);
        // OpenAI's libraries look for it here. A stream ends with `response.completed`, as Ollama's:
        // Codex takes `response.incomplete` for an error and asks again.
        if outcome.done_reason == "length" {
            response.status = "incomplete";
            response.incomplete_details = Some(IncompleteDetails { reason: "max_output_tokens" });
        }
        ndjson::append(out, &response);
    }
}

/// Writes an event, which the caller has filled in but for its name and number.
fn write_event(out: &mut Vec<u8>, sequence: &mut u64, kind: &str, event: StreamEvent<'_>) {
    sse::append_event(out, kind, &StreamEvent { kind, sequence_number: *sequence, ..event });
    *sequence += 1;
}
