//! The events of a streamed response, or its one object (ollama-api.md 14.6).
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
//! Invariants: sequence numbers count from 0 without a gap; one item is open at a time, and every one
//! that began ends before the response does, also a text before calls, whose item Ollama leaves open;
//! the output of the last event is what the items were. Text behind a call is dropped, as in Ollama.
//! Reasoning behind a text begins an item of its own, where Ollama adds to one that has ended.

use serde::Serialize;

use super::response_object::{
    OutputItem, RequestEcho, ResponseIds, ResponseStatus, function_call_item, message_item,
    output_text_part, reasoning_item, to_usage, unix_seconds, write_response,
};
use crate::api::openai::responses::{
    ContentPartEvent, ItemEvent, ResponseEvent, ResponseItem, StreamEvent, TextEvent,
};
use crate::api::wire::ndjson;
use crate::translate::stream::{Completion, Delta, Encoder};
use crate::translate::tool_calls::CompleteToolCall;

/// Writes the events, or the one object.
#[derive(Debug)]
pub struct ResponseEncoder {
    echo: RequestEcho,
    ids: ResponseIds,
    /// When the answer began, once it has.
    created_at: Option<u64>,
    sequence_number: u64,
    output: Vec<OutputItem>,
    open_item: Option<OpenItem>,
    has_calls: bool,
}

/// The item that is being written.
#[derive(Debug)]
struct OpenItem {
    kind: TextItemKind,
    id: String,
    text: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum TextItemKind {
    Reasoning,
    Message,
}

impl ResponseEncoder {
    /// For the answer to one request.
    #[must_use]
    pub fn new(echo: RequestEcho, ids: ResponseIds) -> Self {
        let (output, open_item) = (Vec::new(), None);
        Self {
            echo,
            ids,
            created_at: None,
            sequence_number: 0,
            output,
            open_item,
            has_calls: false,
        }
    }

    /// The two events that come before anything else.
    fn start_response(&mut self, out: &mut Vec<u8>, now: &str) -> u64 {
        if let Some(created_at) = self.created_at {
            return created_at;
        }
        let created_at = unix_seconds(now);
        self.created_at = Some(created_at);
        for kind in ["response.created", "response.in_progress"] {
            let state = ResponseStatus { created_at, completed: None };
            let response = self.echo.build_response(&self.ids, state, &[]);
            write_event(out, &mut self.sequence_number, kind, ResponseEvent { response });
        }
        created_at
    }

    fn append_text(&mut self, out: &mut Vec<u8>, kind: TextItemKind, text: &str) {
        if text.is_empty() || (kind == TextItemKind::Message && self.has_calls) {
            return;
        }
        if self.open_item.as_ref().is_none_or(|open| open.kind != kind) {
            self.close_item(out);
            self.open_item(out, kind);
        }
        let Some(open) = &mut self.open_item else { return };
        open.text.push_str(text);
        let delta = TextEvent { delta: Some(text), ..open.text_event(self.output.len()) };
        write_event(out, &mut self.sequence_number, kind.delta_event(), delta);
    }

    fn open_item(&mut self, out: &mut Vec<u8>, kind: TextItemKind) {
        let output_index = self.output.len();
        let is_first = !self.output.iter().any(|done| kind.matches(done));
        let id = match kind {
            TextItemKind::Reasoning => self.ids.reasoning_id(output_index, is_first),
            TextItemKind::Message => self.ids.message_id(output_index, is_first),
        };
        let open = OpenItem { kind, id, text: String::new() };
        let item = ItemEvent { output_index, item: open.to_item() };
        write_event(out, &mut self.sequence_number, "response.output_item.added", item);
        if kind == TextItemKind::Message {
            self.write_part(out, "response.content_part.added", &open);
        }
        self.open_item = Some(open);
    }

    /// Ends the item that is open, if one is.
    fn close_item(&mut self, out: &mut Vec<u8>) {
        let Some(open) = self.open_item.take() else { return };
        let of_text = TextEvent { text: Some(&open.text), ..open.text_event(self.output.len()) };
        write_event(out, &mut self.sequence_number, open.kind.done_event(), of_text);
        if open.kind == TextItemKind::Message {
            self.write_part(out, "response.content_part.done", &open);
        }
        let OpenItem { kind, id, text } = open;
        self.finish_item(
            out,
            match kind {
                TextItemKind::Reasoning => OutputItem::Reasoning { id, text },
                TextItemKind::Message => OutputItem::Message { id, text },
            },
        );
    }

    fn write_part(&mut self, out: &mut Vec<u8>, kind: &str, open: &OpenItem) {
        let (item_id, output_index) = (open.id.as_str(), self.output.len());
        let part = output_text_part(&open.text);
        let part = ContentPartEvent { item_id, output_index, content_index: 0, part };
        write_event(out, &mut self.sequence_number, kind, part);
    }

    /// A call comes whole.
    fn write_call(&mut self, out: &mut Vec<u8>, call: &CompleteToolCall) {
        self.close_item(out);
        self.has_calls = true;
        let (output_index, id) = (self.output.len(), self.ids.call_id(call.index));
        let item = ItemEvent { output_index, item: function_call_item(&id, call, false) };
        write_event(out, &mut self.sequence_number, "response.output_item.added", item);
        let arguments = Some(call.arguments.as_str());
        let of_text = || TextEvent { item_id: &id, output_index, ..TextEvent::default() };
        let delta = TextEvent { delta: arguments, ..of_text() };
        write_event(
            out,
            &mut self.sequence_number,
            "response.function_call_arguments.delta",
            delta,
        );
        let done = TextEvent { arguments, ..of_text() };
        write_event(out, &mut self.sequence_number, "response.function_call_arguments.done", done);
        self.finish_item(out, OutputItem::Call { id, call: call.clone() });
    }

    fn finish_item(&mut self, out: &mut Vec<u8>, done: OutputItem) {
        let item = ItemEvent { output_index: self.output.len(), item: done.to_item() };
        write_event(out, &mut self.sequence_number, "response.output_item.done", item);
        self.output.push(done);
    }
}

impl Encoder for ResponseEncoder {
    const IS_SSE: bool = true;

    fn encode_delta(&mut self, out: &mut Vec<u8>, created_at: &str, delta: &Delta<'_>) {
        self.start_response(out, created_at);
        self.append_text(out, TextItemKind::Reasoning, &delta.thinking);
        self.append_text(out, TextItemKind::Message, &delta.content);
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
        let output: Vec<ResponseItem<'_>> = self.output.iter().map(OutputItem::to_item).collect();
        let now = unix_seconds(created_at);
        let created_at = self.created_at.unwrap_or(now);
        let state = ResponseStatus { created_at, completed: Some((now, to_usage(outcome))) };
        let response = self.echo.build_response(&self.ids, state, &output);
        write_event(
            out,
            &mut self.sequence_number,
            "response.completed",
            ResponseEvent { response },
        );
    }

    fn encode_whole(
        &mut self,
        out: &mut Vec<u8>,
        created_at: &str,
        rest: &Delta<'_>,
        outcome: &Completion,
    ) {
        write_response(
            out,
            (&self.echo, &self.ids),
            unix_seconds(created_at),
            rest,
            to_usage(outcome),
        );
    }
}

impl OpenItem {
    fn to_item(&self) -> ResponseItem<'_> {
        match self.kind {
            TextItemKind::Reasoning => reasoning_item(&self.id, None),
            TextItemKind::Message => message_item(&self.id, None),
        }
    }

    /// An event of its text, which says nothing yet.
    fn text_event(&self, output_index: usize) -> TextEvent<'_> {
        let of_text = TextEvent { item_id: &self.id, output_index, ..TextEvent::default() };
        match self.kind {
            TextItemKind::Reasoning => TextEvent { summary_index: Some(0), ..of_text },
            TextItemKind::Message => {
                TextEvent { content_index: Some(0), logprobs: Some([]), ..of_text }
            }
        }
    }
}

impl TextItemKind {
    fn delta_event(self) -> &'static str {
        match self {
            Self::Reasoning => "response.reasoning_summary_text.delta",
            Self::Message => "response.output_text.delta",
        }
    }

    fn done_event(self) -> &'static str {
        match self {
            Self::Reasoning => "response.reasoning_summary_text.done",
            Self::Message => "response.output_text.done",
        }
    }

    fn matches(self, done: &OutputItem) -> bool {
        match done {
            OutputItem::Reasoning { .. } => self == Self::Reasoning,
            OutputItem::Message { .. } => self == Self::Message,
            OutputItem::Call { .. } => false,
        }
    }
}

/// Appends one event.
fn write_event(out: &mut Vec<u8>, sequence: &mut u64, kind: &str, body: impl Serialize) {
    out.extend_from_slice(b"event: ");
    out.extend_from_slice(kind.as_bytes());
    out.extend_from_slice(b"\ndata: ");
    ndjson::append(out, &StreamEvent { kind, sequence_number: *sequence, body });
    out.extend_from_slice(b"\n\n");
    *sequence += 1;
}
