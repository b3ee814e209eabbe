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
//! completed
//! ```
//!
//! Invariants: sequence numbers count from 0 without a gap; one item is open at a time, and each ends
//! before the response does; the output of the last event consists of the items as they ended.
//! Text after a call is dropped, as in Ollama (`openai/responses.go`). Two differences from Ollama: a
//! text before a call is ended, and reasoning after a text begins a new item.

use super::response_object::{
    ItemKind, OutputItem, RequestEcho, ResponseIds, output_text_part, to_usage, unix_seconds,
};
use crate::api::openai::responses::{IncompleteDetails, Response, ResponseItem, StreamEvent};
use crate::api::wire::{ndjson, sse};
use crate::translate::stream::{Completion, Delta, Encoder};
use crate::translate::tool_calls::CompleteToolCall;

/// Writes the events, or the object.
#[derive(Debug)]
pub struct ResponseEncoder {
    echo: RequestEcho,
    ids: ResponseIds,
    /// When the response began, in Unix seconds.
    created_at: Option<u64>,
    sequence_number: u64,
    /// The items so far.
    output: Vec<OutputItem>,
    /// True while the last item is open.
    is_open: bool,
}

impl ResponseEncoder {
    /// An encoder for the response to one request.
    pub fn new(echo: RequestEcho, ids: ResponseIds) -> Self {
        Self { echo, ids, created_at: None, sequence_number: 0, output: Vec::new(), is_open: false }
    }

    /// Writes the two events that come first, once.
    fn start_response(&mut self, out: &mut Vec<u8>, now: &str) {
        if self.created_at.is_some() {
            return;
        }
        let created_at = unix_seconds(now);
        self.created_at = Some(created_at);
        for kind in ["response.created", "response.in_progress"] {
            let response = self.echo.build_response(&self.ids, created_at, None, &[]);
            let event = StreamEvent { response: Some(&response), ..StreamEvent::default() };
            write_event(out, &mut self.sequence_number, kind, event);
        }
    }

    fn append_text(&mut self, out: &mut Vec<u8>, kind: ItemKind, text: &str) {
        let is_call = |item: &OutputItem| matches!(item.kind, ItemKind::Call { .. });
        if text.is_empty() || (kind == ItemKind::Message && self.output.iter().any(is_call)) {
            return;
        }
        if !self.is_open || self.output.last().is_none_or(|item| item.kind != kind) {
            self.close_item(out);
            let item = self.new_text_item(kind, String::new());
            self.open_item(out, item);
        }
        if let Some(item) = self.output.last_mut() {
            item.text.push_str(text);
        }
        self.write_delta(out, text);
    }

    fn new_text_item(&self, kind: ItemKind, text: String) -> OutputItem {
        let place = self.output.len();
        let is_first = !self.output.iter().any(|item| item.kind == kind);
        let id = match kind {
            ItemKind::Reasoning => self.ids.reasoning_id(place, is_first),
            _ => self.ids.message_id(place, is_first),
        };
        OutputItem { kind, id, text }
    }

    /// Writes a call, which always comes whole.
    fn write_call(&mut self, out: &mut Vec<u8>, call: &CompleteToolCall) {
        self.close_item(out);
        self.open_item(out, OutputItem::from_call(&self.ids, call));
        self.write_delta(out, &call.arguments);
        self.close_item(out);
    }

    fn open_item(&mut self, out: &mut Vec<u8>, item: OutputItem) {
        let place = self.output.len();
        let event = item.item_event(place, false);
        write_event(out, &mut self.sequence_number, "response.output_item.added", event);
        if let Some(event) = item.part_event(place) {
            write_event(out, &mut self.sequence_number, "response.content_part.added", event);
        }
        self.output.push(item);
        self.is_open = true;
    }

    /// Writes what was added to the open item.
    fn write_delta(&mut self, out: &mut Vec<u8>, text: &str) {
        let place = self.output.len().saturating_sub(1);
        let Some(item) = self.output.last() else { return };
        let event = StreamEvent { delta: Some(text), ..item.text_event(place) };
        write_event(out, &mut self.sequence_number, item.kind.text_event_names().0, event);
    }

    /// Ends the open item, if there is one.
    fn close_item(&mut self, out: &mut Vec<u8>) {
        let place = self.output.len().saturating_sub(1);
        let is_open = std::mem::take(&mut self.is_open);
        let Some(item) = self.output.last().filter(|_| is_open) else { return };
        let mut event = item.text_event(place);
        match item.kind {
            ItemKind::Call { .. } => event.arguments = Some(&item.text),
            _ => event.text = Some(&item.text),
        }
        write_event(out, &mut self.sequence_number, item.kind.text_event_names().1, event);
        if let Some(event) = item.part_event(place) {
            write_event(out, &mut self.sequence_number, "response.content_part.done", event);
        }
        let event = item.item_event(place, true);
        write_event(out, &mut self.sequence_number, "response.output_item.done", event);
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
        self.echo.build_response(&self.ids, created_at, Some((now, to_usage(outcome))), output)
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

    fn encode_delta(&mut self, out: &mut Vec<u8>, created_at: &str, delta: &Delta<'_>) {
        self.start_response(out, created_at);
        self.append_text(out, ItemKind::Reasoning, &delta.thinking);
        self.append_text(out, ItemKind::Message, &delta.content);
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
        self.close_item(out);
        let output = self.output_items();
        let response = self.completed_response(&output, created_at, outcome);
        let event = StreamEvent { response: Some(&response), ..StreamEvent::default() };
        let mut sequence_number = self.sequence_number;
        write_event(out, &mut sequence_number, "response.completed", event);
    }

    /// One object: reasoning, then the calls or, without any, the message.
    fn encode_whole(
        &mut self,
        out: &mut Vec<u8>,
        created_at: &str,
        rest: &Delta<'_>,
        outcome: &Completion,
    ) {
        let mut output = Vec::with_capacity(2 + rest.calls.len());
        if !rest.thinking.is_empty() {
            output.push(self.new_text_item(ItemKind::Reasoning, rest.thinking.to_string()));
        }
        if rest.calls.is_empty() {
            output.push(self.new_text_item(ItemKind::Message, rest.content.to_string()));
        }
        output.extend(rest.calls.iter().map(|call| OutputItem::from_call(&self.ids, call)));
        self.output = output;
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

impl OutputItem {
    /// An event about the item itself, which stands at this place of the output.
    fn item_event(&self, place: usize, is_complete: bool) -> StreamEvent<'_> {
        let item = Some(self.to_item(is_complete));
        StreamEvent { output_index: Some(place), item, ..StreamEvent::default() }
    }

    /// An event about the text, which the caller adds.
    fn text_event(&self, place: usize) -> StreamEvent<'_> {
        let (item_id, output_index) = (Some(self.id.as_str()), Some(place));
        let event = StreamEvent { item_id, output_index, ..StreamEvent::default() };
        match self.kind {
            ItemKind::Reasoning => StreamEvent { summary_index: Some(0), ..event },
            ItemKind::Message => {
                StreamEvent { content_index: Some(0), logprobs: Some([]), ..event }
            }
            ItemKind::Call { .. } => event,
        }
    }

    /// An event about the part of a message; other items have no parts.
    fn part_event(&self, place: usize) -> Option<StreamEvent<'_>> {
        let part = Some(output_text_part(&self.text));
        let event = StreamEvent { part, logprobs: None, ..self.text_event(place) };
        (self.kind == ItemKind::Message).then_some(event)
    }
}

impl ItemKind {
    /// The names of the events about the text: a piece of it, and the whole.
    fn text_event_names(&self) -> (&'static str, &'static str) {
        match self {
            Self::Reasoning => {
                ("response.reasoning_summary_text.delta", "response.reasoning_summary_text.done")
            }
            Self::Message => ("response.output_text.delta", "response.output_text.done"),
            Self::Call { .. } => {
                ("response.function_call_arguments.delta", "response.function_call_arguments.done")
            }
        }
    }
}

/// Writes an event, which the caller has filled in but for its name and number.
fn write_event(out: &mut Vec<u8>, sequence: &mut u64, kind: &str, event: StreamEvent<'_>) {
    sse::append_event(out, kind, &StreamEvent { kind, sequence_number: *sequence, ..event });
    *sequence += 1;
}
