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
    Done, Echo, Ids, State, function_call, message, output_text, reasoning, seconds, usage,
    write_whole,
};
use crate::api::openai::responses::{Event, Item, OfItem, OfPart, OfResponse, OfText};
use crate::api::wire::ndjson;
use crate::translate::stream::{Delta, Encoder, Outcome};
use crate::translate::tool_calls::Call;

/// Writes the events, or the one object.
#[derive(Debug)]
pub struct ResponseEncoder {
    echo: Echo,
    ids: Ids,
    /// When the answer began, once it has.
    created_at: Option<u64>,
    sequence: u64,
    done: Vec<Done>,
    open: Option<Open>,
    has_called: bool,
}

/// The item that is being written.
#[derive(Debug)]
struct Open {
    kind: Kind,
    id: String,
    text: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Reasoning,
    Message,
}

impl ResponseEncoder {
    /// For the answer to one request.
    #[must_use]
    pub fn new(echo: Echo, ids: Ids) -> Self {
        let (done, open) = (Vec::new(), None);
        Self { echo, ids, created_at: None, sequence: 0, done, open, has_called: false }
    }

    /// The two events that come before anything else.
    fn begin(&mut self, out: &mut Vec<u8>, now: &str) -> u64 {
        if let Some(created_at) = self.created_at {
            return created_at;
        }
        let created_at = seconds(now);
        self.created_at = Some(created_at);
        for kind in ["response.created", "response.in_progress"] {
            let state = State { created_at, completed: None };
            let response = self.echo.response(&self.ids, state, &[]);
            write(out, &mut self.sequence, kind, OfResponse { response });
        }
        created_at
    }

    fn text(&mut self, out: &mut Vec<u8>, kind: Kind, text: &str) {
        if text.is_empty() || (kind == Kind::Message && self.has_called) {
            return;
        }
        if self.open.as_ref().is_none_or(|open| open.kind != kind) {
            self.close(out);
            self.open(out, kind);
        }
        let Some(open) = &mut self.open else { return };
        open.text.push_str(text);
        let delta = OfText { delta: Some(text), ..open.of_text(self.done.len()) };
        write(out, &mut self.sequence, kind.delta(), delta);
    }

    fn open(&mut self, out: &mut Vec<u8>, kind: Kind) {
        let output_index = self.done.len();
        let is_first = !self.done.iter().any(|done| kind.is_of(done));
        let id = match kind {
            Kind::Reasoning => self.ids.reasoning(output_index, is_first),
            Kind::Message => self.ids.message(output_index, is_first),
        };
        let open = Open { kind, id, text: String::new() };
        let item = OfItem { output_index, item: open.begun() };
        write(out, &mut self.sequence, "response.output_item.added", item);
        if kind == Kind::Message {
            self.part(out, "response.content_part.added", &open);
        }
        self.open = Some(open);
    }

    /// Ends the item that is open, if one is.
    fn close(&mut self, out: &mut Vec<u8>) {
        let Some(open) = self.open.take() else { return };
        let of_text = OfText { text: Some(&open.text), ..open.of_text(self.done.len()) };
        write(out, &mut self.sequence, open.kind.done(), of_text);
        if open.kind == Kind::Message {
            self.part(out, "response.content_part.done", &open);
        }
        let Open { kind, id, text } = open;
        self.finish(
            out,
            match kind {
                Kind::Reasoning => Done::Reasoning { id, text },
                Kind::Message => Done::Message { id, text },
            },
        );
    }

    fn part(&mut self, out: &mut Vec<u8>, kind: &str, open: &Open) {
        let (item_id, output_index) = (open.id.as_str(), self.done.len());
        let part = output_text(&open.text);
        let part = OfPart { item_id, output_index, content_index: 0, part };
        write(out, &mut self.sequence, kind, part);
    }

    /// A call comes whole.
    fn call(&mut self, out: &mut Vec<u8>, call: &Call) {
        self.close(out);
        self.has_called = true;
        let (output_index, id) = (self.done.len(), self.ids.call(call.index));
        let item = OfItem { output_index, item: function_call(&id, call, false) };
        write(out, &mut self.sequence, "response.output_item.added", item);
        let arguments = Some(call.arguments.as_str());
        let of_text = || OfText { item_id: &id, output_index, ..OfText::default() };
        let delta = OfText { delta: arguments, ..of_text() };
        write(out, &mut self.sequence, "response.function_call_arguments.delta", delta);
        let done = OfText { arguments, ..of_text() };
        write(out, &mut self.sequence, "response.function_call_arguments.done", done);
        self.finish(out, Done::Call { id, call: call.clone() });
    }

    fn finish(&mut self, out: &mut Vec<u8>, done: Done) {
        let item = OfItem { output_index: self.done.len(), item: done.item() };
        write(out, &mut self.sequence, "response.output_item.done", item);
        self.done.push(done);
    }
}

impl Encoder for ResponseEncoder {
    const EVENTS: bool = true;

    fn delta(&mut self, out: &mut Vec<u8>, created_at: &str, delta: &Delta<'_>) {
        self.begin(out, created_at);
        self.text(out, Kind::Reasoning, &delta.thinking);
        self.text(out, Kind::Message, &delta.content);
        delta.calls.iter().for_each(|call| self.call(out, call));
    }

    fn last(&mut self, out: &mut Vec<u8>, created_at: &str, rest: &Delta<'_>, outcome: &Outcome) {
        self.delta(out, created_at, rest);
        self.close(out);
        let output: Vec<Item<'_>> = self.done.iter().map(Done::item).collect();
        let now = seconds(created_at);
        let created_at = self.created_at.unwrap_or(now);
        let state = State { created_at, completed: Some((now, usage(outcome))) };
        let response = self.echo.response(&self.ids, state, &output);
        write(out, &mut self.sequence, "response.completed", OfResponse { response });
    }

    fn whole(&mut self, out: &mut Vec<u8>, created_at: &str, rest: &Delta<'_>, outcome: &Outcome) {
        write_whole(out, (&self.echo, &self.ids), seconds(created_at), rest, usage(outcome));
    }
}

impl Open {
    fn begun(&self) -> Item<'_> {
        match self.kind {
            Kind::Reasoning => reasoning(&self.id, None),
            Kind::Message => message(&self.id, None),
        }
    }

    /// An event of its text, which says nothing yet.
    fn of_text(&self, output_index: usize) -> OfText<'_> {
        let of_text = OfText { item_id: &self.id, output_index, ..OfText::default() };
        match self.kind {
            Kind::Reasoning => OfText { summary_index: Some(0), ..of_text },
            Kind::Message => OfText { content_index: Some(0), logprobs: Some([]), ..of_text },
        }
    }
}

impl Kind {
    fn delta(self) -> &'static str {
        match self {
            Self::Reasoning => "response.reasoning_summary_text.delta",
            Self::Message => "response.output_text.delta",
        }
    }

    fn done(self) -> &'static str {
        match self {
            Self::Reasoning => "response.reasoning_summary_text.done",
            Self::Message => "response.output_text.done",
        }
    }

    fn is_of(self, done: &Done) -> bool {
        match done {
            Done::Reasoning { .. } => self == Self::Reasoning,
            Done::Message { .. } => self == Self::Message,
            Done::Call { .. } => false,
        }
    }
}

/// Appends one event.
fn write(out: &mut Vec<u8>, sequence: &mut u64, kind: &str, body: impl Serialize) {
    out.extend_from_slice(b"event: ");
    out.extend_from_slice(kind.as_bytes());
    out.extend_from_slice(b"\ndata: ");
    ndjson::append(out, &Event { kind, sequence_number: *sequence, body });
    out.extend_from_slice(b"\n\n");
    *sequence += 1;
}
