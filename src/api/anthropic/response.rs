//! Responses to Anthropic's clients.
//!
//! Members stand in Ollama's order. `content` is never `null`; `stop_reason` and `stop_sequence` are there
//! even if they are (Anthropic API reference, messages).

use serde::Serialize;
use serde_json::value::RawValue;

/// A whole message, or the message in the first event of a stream.
#[derive(Clone, Debug, Serialize)]
pub struct Message<'a> {
    /// `msg_` and 24 hex digits.
    pub id: &'a str,
    /// Always `message`.
    #[serde(rename = "type")]
    pub kind: &'static str,
    /// Always `assistant`.
    pub role: &'static str,
    /// The name as the client sent it.
    pub model: &'a str,
    /// The output of the model.
    pub content: Vec<ContentBlock<'a>>,
    /// Why the model stopped, and nothing until it did.
    #[serde(flatten)]
    pub stop: StopReason,
    /// The counts.
    pub usage: Usage,
}

/// Why a message ended.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct StopReason {
    /// The reason.
    pub stop_reason: Option<&'static str>,
    /// The stop sequence that ended it, which is not known.
    pub stop_sequence: Option<&'static str>,
    /// More of a refusal.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stop_details: Option<StopDetails>,
}

/// More of a refusal.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct StopDetails {
    /// Always `refusal`.
    #[serde(rename = "type")]
    pub kind: &'static str,
    /// The policy, which is not known.
    pub category: Option<&'static str>,
    /// The reason, which is not known.
    pub explanation: Option<&'static str>,
}

impl StopDetails {
    /// What is said of each refusal.
    pub fn refusal() -> Self {
        Self { kind: "refusal", category: None, explanation: None }
    }
}

/// Token counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Usage {
    /// Tokens of the prompt, without those that the cache concerns.
    pub input_tokens: u64,
    /// Tokens of the prompt that were written to the cache, if the upstream tells of its cache.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cache_creation_input_tokens: Option<u64>,
    /// Tokens of the prompt that were found in the cache, if the upstream tells of its cache.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cache_read_input_tokens: Option<u64>,
    /// Tokens of the output.
    pub output_tokens: u64,
}

/// A block of the output.
#[derive(Clone, Copy, Debug, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ContentBlock<'a> {
    /// Reasoning.
    Thinking {
        /// The reasoning.
        thinking: &'a str,
        /// Required by clients, which send it back.
        signature: &'a str,
    },
    /// Text.
    Text {
        /// The text.
        text: &'a str,
    },
    /// A call.
    ToolUse {
        /// Its id.
        id: &'a str,
        /// The function.
        name: &'a str,
        /// An object.
        input: &'a RawValue,
    },
}

/// An event of a stream.
#[derive(Clone, Debug, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum StreamEvent<'a> {
    /// The first one.
    MessageStart {
        /// The message, without content.
        message: Message<'a>,
    },
    /// Nothing: the stream is alive.
    Ping,
    /// A block begins.
    ContentBlockStart {
        /// Its place among the blocks, from 0.
        index: usize,
        /// The block, without content.
        content_block: ContentBlock<'a>,
    },
    /// Content is added to the open block.
    ContentBlockDelta {
        /// The block's place.
        index: usize,
        /// What is added.
        delta: ContentDelta<'a>,
    },
    /// A block ends.
    ContentBlockStop {
        /// Its place.
        index: usize,
    },
    /// How the message ended.
    MessageDelta {
        /// Why.
        delta: StopReason,
        /// The counts.
        usage: Usage,
    },
    /// The last one.
    MessageStop,
}

impl StreamEvent<'_> {
    /// The event's name, equal to `type` in its data.
    pub fn name(&self) -> &'static str {
        match self {
            Self::MessageStart { .. } => "message_start",
            Self::Ping => "ping",
            Self::ContentBlockStart { .. } => "content_block_start",
            Self::ContentBlockDelta { .. } => "content_block_delta",
            Self::ContentBlockStop { .. } => "content_block_stop",
            Self::MessageDelta { .. } => "message_delta",
            Self::MessageStop => "message_stop",
        }
    }
}

/// What is added to a block.
#[derive(Clone, Copy, Debug, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ContentDelta<'a> {
    /// Reasoning.
    ThinkingDelta {
        /// The reasoning.
        thinking: &'a str,
    },
    /// The signature of reasoning.
    SignatureDelta {
        /// The signature.
        signature: &'a str,
    },
    /// Text.
    TextDelta {
        /// The text.
        text: &'a str,
    },
    /// The whole arguments of a call.
    InputJsonDelta {
        /// An object as a string of JSON.
        partial_json: &'a str,
    },
}

/// The response of `/v1/messages/count_tokens`.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct CountTokensResponse {
    /// Tokens of the prompt.
    pub input_tokens: u64,
}
