//! Writes a response of Anthropic's `/v1/messages`, as events or as one object.
//!
//! ```text
//!   (nothing) -> message_start -> [block_start -> delta* -> block_stop]* -> message_delta -> message_stop
//! ```
//!
//! Invariant: one block is open at a time, each is closed before the next begins, and their indexes
//! rise by one. A block of reasoning gets its signature before it is closed; a message without content
//! has an empty text, because clients take a message without blocks for a failure.

use serde_json::value::RawValue;

use crate::api::anthropic::response::{
    ContentBlock, ContentDelta as BlockDelta, Message, StopDetails, StopReason, StreamEvent, Usage,
};
use crate::api::wire::digest::sha256_hex;
use crate::api::wire::{ndjson, sse};
use crate::translate::stream::{Completion, Delta, Encoder};
use crate::translate::tool_calls::CompleteToolCall;
use crate::translate::tool_names::ToolNames;

/// Stands for the signature of reasoning, which no upstream has: clients require one.
const SIGNATURE: &str = "b2xsYW1hLW9wZW5haS1wcm94eQ==";

/// The number of hex digits in a message's id.
const ID_DIGITS: usize = 24;

/// The kind of the open block. A call is never left open: it comes whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum BlockKind {
    Thinking,
    Text,
}

/// Writes the objects of `/v1/messages`.
#[derive(Debug)]
pub struct MessageEncoder<'a> {
    model: &'a str,
    id: String,
    /// An estimate of the tokens in the prompt, until the upstream reports their number.
    estimate: u64,
    has_started: bool,
    open_block: Option<BlockKind>,
    /// The number of closed blocks, which is the index of the open block or of the next one.
    block_index: usize,
    has_calls: bool,
    /// The client's names of its tools.
    names: ToolNames,
}

impl<'a> MessageEncoder<'a> {
    /// An encoder for one response. `model` is the name of the client, `seed` differs from response
    /// to response, `estimate` is the likely number of tokens in the prompt.
    pub fn new(model: &'a str, seed: &str, estimate: u64) -> Self {
        Self {
            model,
            id: format!("msg_{}", &sha256_hex(seed.as_bytes())[..ID_DIGITS]),
            estimate,
            has_started: false,
            open_block: None,
            block_index: 0,
            has_calls: false,
            names: ToolNames::default(),
        }
    }

    /// The same for a request with tools.
    #[must_use]
    pub fn with_tool_names(self, names: ToolNames) -> Self {
        Self { names, ..self }
    }

    /// The client's name of the tool that is called.
    fn client_name<'b>(&'b self, call: &'b CompleteToolCall) -> &'b str {
        self.names.resolve(&call.name).map_or(&call.name, |tool| &tool.name)
    }

    fn build_message<'b>(
        &'b self,
        content: Vec<ContentBlock<'b>>,
        stop: StopReason,
        usage: Usage,
    ) -> Message<'b> {
        let (kind, role) = ("message", "assistant");
        Message { id: &self.id, kind, role, model: self.model, content, stop, usage }
    }

    /// The upstream's counts, or the estimate if it reports none for the prompt. Clients add the three
    /// counts of the prompt, so what the cache concerns is taken from the rest; a gateway that counts
    /// it apart, and so more than the prompt, leaves no rest.
    fn usage(&self, outcome: &Completion) -> Usage {
        let metrics = &outcome.metrics;
        let prompt = match metrics.prompt_eval_count {
            0 => self.estimate,
            counted => counted,
        };
        let (read, written) = (metrics.prompt_eval_cached_count, metrics.prompt_cache_write_count);
        let tells_of_cache = read.is_some() || written.is_some();
        let (read, written) = (read.unwrap_or(0), written.unwrap_or(0));
        Usage {
            input_tokens: prompt.saturating_sub(read).saturating_sub(written),
            cache_creation_input_tokens: tells_of_cache.then_some(written),
            cache_read_input_tokens: tells_of_cache.then_some(read),
            output_tokens: metrics.eval_count,
        }
    }

    /// Writes the first event, once.
    fn start_message(&mut self, out: &mut Vec<u8>) {
        if !std::mem::replace(&mut self.has_started, true) {
            let usage = Usage { input_tokens: self.estimate, ..Usage::default() };
            let message = self.build_message(Vec::new(), StopReason::default(), usage);
            write_event(out, &StreamEvent::MessageStart { message });
        }
    }

    /// Adds to the open block; opens one first if there is none of this kind.
    fn append_text(&mut self, out: &mut Vec<u8>, kind: BlockKind, text: &str) {
        if text.is_empty() {
            return;
        }
        if self.open_block != Some(kind) {
            self.open_block(out, kind);
        }
        let delta = match kind {
            BlockKind::Thinking => BlockDelta::ThinkingDelta { thinking: text },
            BlockKind::Text => BlockDelta::TextDelta { text },
        };
        write_event(out, &StreamEvent::ContentBlockDelta { index: self.block_index, delta });
    }

    fn open_block(&mut self, out: &mut Vec<u8>, kind: BlockKind) {
        self.close_block(out);
        let content_block = match kind {
            BlockKind::Thinking => ContentBlock::Thinking { thinking: "", signature: "" },
            BlockKind::Text => ContentBlock::Text { text: "" },
        };
        let index = self.block_index;
        write_event(out, &StreamEvent::ContentBlockStart { index, content_block });
        self.open_block = Some(kind);
    }

    fn write_call(&mut self, out: &mut Vec<u8>, call: &CompleteToolCall) {
        self.close_block(out);
        let index = self.block_index;
        let (id, name) = (call.id.as_str(), self.client_name(call));
        let content_block = ContentBlock::ToolUse { id, name, input: empty_object() };
        write_event(out, &StreamEvent::ContentBlockStart { index, content_block });
        let delta = BlockDelta::InputJsonDelta { partial_json: call.arguments_object() };
        write_event(out, &StreamEvent::ContentBlockDelta { index, delta });
        write_event(out, &StreamEvent::ContentBlockStop { index });
        self.block_index += 1;
        self.has_calls = true;
    }

    fn close_block(&mut self, out: &mut Vec<u8>) {
        let Some(kind) = self.open_block.take() else { return };
        let index = self.block_index;
        if kind == BlockKind::Thinking {
            let delta = BlockDelta::SignatureDelta { signature: SIGNATURE };
            write_event(out, &StreamEvent::ContentBlockDelta { index, delta });
        }
        write_event(out, &StreamEvent::ContentBlockStop { index });
        self.block_index += 1;
    }
}

impl Encoder for MessageEncoder<'_> {
    const IS_SSE: bool = true;

    fn encode_start(&mut self, out: &mut Vec<u8>, _: &str) {
        self.start_message(out);
    }

    fn encode_keepalive(&mut self, out: &mut Vec<u8>) {
        write_event(out, &StreamEvent::Ping);
    }

    fn encode_delta(&mut self, out: &mut Vec<u8>, _: &str, delta: &Delta<'_>) {
        self.start_message(out);
        self.append_text(out, BlockKind::Thinking, &delta.thinking);
        self.append_text(out, BlockKind::Text, &delta.content);
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
        if self.block_index == 0 && self.open_block.is_none() {
            self.open_block(out, BlockKind::Text);
        }
        self.close_block(out);
        let (delta, usage) = (stop_reason(outcome, self.has_calls), self.usage(outcome));
        write_event(out, &StreamEvent::MessageDelta { delta, usage });
        write_event(out, &StreamEvent::MessageStop);
    }

    fn encode_whole(&mut self, out: &mut Vec<u8>, _: &str, rest: &Delta<'_>, outcome: &Completion) {
        let (thinking, text) = (rest.thinking.as_ref(), rest.content.as_ref());
        let signature = SIGNATURE;
        let calls = rest.calls.iter().map(|call| {
            let input = serde_json::from_str(call.arguments_object()).unwrap_or(empty_object());
            ContentBlock::ToolUse { id: &call.id, name: self.client_name(call), input }
        });
        let is_empty = thinking.is_empty() && rest.calls.is_empty();
        let thinking =
            (!thinking.is_empty()).then_some(ContentBlock::Thinking { thinking, signature });
        let text = (!text.is_empty() || is_empty).then_some(ContentBlock::Text { text });
        let content = thinking.into_iter().chain(text).chain(calls).collect();
        let stop = stop_reason(outcome, !rest.calls.is_empty());
        let message = self.build_message(content, stop, self.usage(outcome));
        ndjson::append(out, &message);
    }
}

/// Never `stop_sequence`: upstreams do not say which stop string ended a response.
fn stop_reason(outcome: &Completion, has_calls: bool) -> StopReason {
    let reason = match outcome.done_reason {
        _ if has_calls && !outcome.has_cut_off_call => "tool_use",
        _ if outcome.is_refusal => "refusal",
        "length" => "max_tokens",
        _ => "end_turn",
    };
    StopReason {
        stop_reason: Some(reason),
        stop_details: (reason == "refusal").then(StopDetails::refusal),
        ..StopReason::default()
    }
}

fn empty_object() -> &'static RawValue {
    serde_json::from_str("{}").expect("valid JSON")
}

fn write_event(out: &mut Vec<u8>, event: &StreamEvent<'_>) {
    sse::append_event(out, event.name(), event);
}
