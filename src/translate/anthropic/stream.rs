//! An answer as Anthropic's clients read it, whole or in events (ollama-api.md 15.3, 15.4).
//!
//! ```text
//!   (nothing) -> message_start -> [block_start -> delta* -> block_stop]* -> message_delta -> message_stop
//! ```
//!
//! [`MessageEncoder`] writes nothing but to the buffer it is given and waits for nobody. Invariant:
//! one block is open at a time, each is closed before the next begins, and their indices rise by one.
//! Reasoning makes one block: what comes after that was closed is dropped, as Ollama drops it.

use serde_json::value::RawValue;

use crate::api::anthropic::response::{Block, Delta as Added, Ending, Event, Message, Usage};
use crate::api::wire::ndjson;
use crate::models::model::sha256;
use crate::translate::stream::{Delta, Encoder, Outcome};
use crate::translate::tool_calls::Call;

/// Hex digits of a message's id.
const ID_DIGITS: usize = 24;

/// What the open block holds. Calls are closed where they are opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Open {
    Thinking,
    Text,
}

/// Writes the objects of `/v1/messages`.
#[derive(Debug)]
pub struct MessageEncoder<'a> {
    model: &'a str,
    id: String,
    /// About how many tokens the prompt has, for as long as nobody counted.
    estimate: u64,
    begun: bool,
    open: Option<Open>,
    /// How many blocks were closed: the place of the open one, or of the next.
    index: usize,
    has_thought: bool,
    /// The ids of the calls that were shown.
    called: Vec<String>,
}

impl<'a> MessageEncoder<'a> {
    /// For one answer: the model as the client named it, what differs from answer to answer, and
    /// about how many tokens the prompt has.
    #[must_use]
    pub fn new(model: &'a str, seed: &str, estimate: u64) -> Self {
        Self {
            model,
            id: format!("msg_{}", &sha256(seed.as_bytes())[..ID_DIGITS]),
            estimate,
            begun: false,
            open: None,
            index: 0,
            has_thought: false,
            called: Vec::new(),
        }
    }

    fn message<'b>(
        &'b self,
        content: Vec<Block<'b>>,
        stop_reason: Option<&'static str>,
        usage: Usage,
    ) -> Message<'b> {
        let (kind, role) = ("message", "assistant");
        Message { id: &self.id, kind, role, model: self.model, content, stop_reason, usage }
    }

    /// The upstream's counts; what it does not tell of the prompt stays an estimate.
    fn usage(&self, outcome: &Outcome) -> Usage {
        let input = match outcome.metrics.prompt_eval_count {
            0 => self.estimate,
            counted => counted,
        };
        Usage { input_tokens: input, output_tokens: outcome.metrics.eval_count }
    }

    /// Begins the message, once.
    fn begin(&mut self, out: &mut Vec<u8>) {
        if !std::mem::replace(&mut self.begun, true) {
            let usage = Usage { input_tokens: self.estimate, output_tokens: 0 };
            let message = self.message(Vec::new(), None, usage);
            append(out, &Event::MessageStart { message });
        }
    }

    /// Adds to the open block, after opening one where another kind is open or none.
    fn add(&mut self, out: &mut Vec<u8>, kind: Open, text: &str) {
        if text.is_empty() {
            return;
        }
        if self.open != Some(kind) {
            if kind == Open::Thinking && std::mem::replace(&mut self.has_thought, true) {
                return;
            }
            self.close(out);
            let content_block = match kind {
                Open::Thinking => Block::Thinking { thinking: "" },
                Open::Text => Block::Text { text: "" },
            };
            append(out, &Event::ContentBlockStart { index: self.index, content_block });
            self.open = Some(kind);
        }
        let delta = match kind {
            Open::Thinking => Added::ThinkingDelta { thinking: text },
            Open::Text => Added::TextDelta { text },
        };
        append(out, &Event::ContentBlockDelta { index: self.index, delta });
    }

    /// Shows a call, unless one of its id was shown.
    fn call(&mut self, out: &mut Vec<u8>, call: &Call) {
        if self.called.contains(&call.id) {
            return;
        }
        self.close(out);
        let index = self.index;
        let (id, name) = (call.id.as_str(), call.name.as_str());
        let content_block = Block::ToolUse { id, name, input: no_input() };
        append(out, &Event::ContentBlockStart { index, content_block });
        let delta = Added::InputJsonDelta { partial_json: &call.arguments };
        append(out, &Event::ContentBlockDelta { index, delta });
        append(out, &Event::ContentBlockStop { index });
        self.index += 1;
        self.called.push(call.id.clone());
    }

    fn close(&mut self, out: &mut Vec<u8>) {
        if self.open.take().is_some() {
            append(out, &Event::ContentBlockStop { index: self.index });
            self.index += 1;
        }
    }
}

impl Encoder for MessageEncoder<'_> {
    const EVENTS: bool = true;

    fn delta(&mut self, out: &mut Vec<u8>, _: &str, delta: &Delta<'_>) {
        self.begin(out);
        self.add(out, Open::Thinking, &delta.thinking);
        self.add(out, Open::Text, &delta.content);
        delta.calls.iter().for_each(|call| self.call(out, call));
    }

    fn last(&mut self, out: &mut Vec<u8>, created_at: &str, rest: &Delta<'_>, outcome: &Outcome) {
        self.delta(out, created_at, rest);
        self.close(out);
        let stop_reason = stop_reason(outcome, !self.called.is_empty());
        let (delta, usage) = (Ending { stop_reason }, self.usage(outcome));
        append(out, &Event::MessageDelta { delta, usage });
        append(out, &Event::MessageStop);
    }

    fn whole(&mut self, out: &mut Vec<u8>, _: &str, rest: &Delta<'_>, outcome: &Outcome) {
        let (thinking, text) = (rest.thinking.as_ref(), rest.content.as_ref());
        let thinking = (!thinking.is_empty()).then_some(Block::Thinking { thinking });
        let text = (!text.is_empty()).then_some(Block::Text { text });
        let content = thinking.into_iter().chain(text).chain(rest.calls.iter().map(tool_use));
        let stop_reason = Some(stop_reason(outcome, !rest.calls.is_empty()));
        let message = self.message(content.collect(), stop_reason, self.usage(outcome));
        ndjson::append(out, &message);
    }
}

/// Which stop string ended an answer is not told by upstreams, so that it ends its turn.
fn stop_reason(outcome: &Outcome, calls: bool) -> &'static str {
    match outcome.done_reason {
        _ if calls => "tool_use",
        "length" => "max_tokens",
        _ => "end_turn",
    }
}

fn tool_use(call: &Call) -> Block<'_> {
    // The arguments were checked when the call became whole.
    let input = serde_json::from_str(&call.arguments).unwrap_or(no_input());
    Block::ToolUse { id: &call.id, name: &call.name, input }
}

/// An object without members.
fn no_input() -> &'static RawValue {
    serde_json::from_str("{}").expect("valid JSON")
}

/// Appends an event with the blank line that ends it.
fn append(out: &mut Vec<u8>, event: &Event<'_>) {
    out.extend_from_slice(b"event: ");
    out.extend_from_slice(event.name().as_bytes());
    out.extend_from_slice(b"\ndata: ");
    ndjson::append(out, event);
    out.extend_from_slice(b"\n\n");
}
