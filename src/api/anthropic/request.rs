//! Requests of Anthropic's clients.
//!
//! Every member is optional and unknown ones are skipped, as in [`crate::api::ollama::request`]:
//! `metadata`, `mcp_servers` and members that Anthropic adds later. A block has the members of all
//! kinds of block, because its `type` may stand behind them; a block of an unknown kind does not
//! invalidate the request.

use std::fmt;

use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;
use serde_json::{Number, Value};

use crate::api::ollama::decode::{GoInt, GoString, request};

/// Go's name of the request, for errors.
pub const GO_TYPE_NAME: &str = "anthropic.MessagesRequest";

request! {
    in "anthropic";
    /// `POST /v1/messages` and `POST /v1/messages/count_tokens`.
    pub struct MessagesRequest<'a> {
        /// The model's name.
        pub model: GoString<'a>,
        /// The most tokens of the response; required.
        pub max_tokens: GoInt,
        /// The conversation.
        pub messages: Vec<Message<'a>>,
        /// The system prompt.
        pub system: Content<'a>,
        /// Whether to stream; the default is false.
        pub stream: bool,
        /// A conversation that the server stores; refused.
        pub thread: Value,
        /// Sampling.
        pub temperature: Number,
        /// Sampling.
        pub top_p: Number,
        /// Sampling.
        pub top_k: GoInt,
        /// Stop sequences.
        pub stop_sequences: Vec<GoString<'a>>,
        /// Tool definitions.
        pub tools: Vec<Tool<'a>>,
        /// Which tools the model may or must call.
        pub tool_choice: ToolChoice<'a>,
        /// Whether to think.
        pub thinking: Thinking<'a>,
        /// How much to think.
        pub output_config: OutputConfig<'a>,
    }

    /// One turn of a conversation.
    pub struct Message<'a> {
        /// `user`, `assistant` or `system`.
        pub role: GoString<'a>,
        /// A text, or blocks.
        pub content: Content<'a>,
    }

    /// A block of a turn, of any kind.
    pub struct ContentBlock<'a> {
        /// Which kind it is.
        pub kind as "type": GoString<'a>,
        /// The text of a `text`.
        pub text: GoString<'a>,
        /// The source of an `image`, an [`ImageSource`]; other kinds have other sources.
        pub source: &'a RawValue,
        /// The id of a `tool_use`.
        pub id: GoString<'a>,
        /// The function of a `tool_use`.
        pub name: GoString<'a>,
        /// The arguments of a `tool_use`, an object.
        pub input: &'a RawValue,
        /// Which call a `tool_result` answers.
        pub tool_use_id: GoString<'a>,
        /// The content of a `tool_result` or `web_search_tool_result`.
        pub content: Content<'a>,
        /// Whether a `tool_result` reports a failure.
        pub is_error: bool,
        /// The reasoning of a `thinking`.
        pub thinking: GoString<'a>,
        /// The address of a `web_search_result`.
        pub url: GoString<'a>,
        /// The title of a `web_search_result`.
        pub title: GoString<'a>,
        /// Why a search failed.
        pub error_code: GoString<'a>,
        /// Marks the end of what is to be cached.
        pub cache_control: &'a RawValue,
    }

    /// Where an image comes from.
    pub struct ImageSource<'a> {
        /// Only `base64` is known.
        pub kind as "type": GoString<'a>,
        /// The base64.
        pub data: &'a RawValue,
    }

    /// A tool that the model may call.
    pub struct Tool<'a> {
        /// `web_search...` is a tool that the server runs itself.
        pub kind as "type": GoString<'a>,
        /// Its name.
        pub name: GoString<'a>,
        /// What it is for.
        pub description: GoString<'a>,
        /// Its parameters as a JSON Schema, checked and passed on unchanged.
        pub input_schema: &'a RawValue,
        /// Marks the end of what is to be cached.
        pub cache_control: &'a RawValue,
    }

    /// Which tools the model may or must call.
    pub struct ToolChoice<'a> {
        /// `auto`, `any`, `tool` or `none`.
        pub kind as "type": GoString<'a>,
        /// The name of the tool, with `tool`.
        pub name: GoString<'a>,
    }

    /// Whether to think; a budget is ignored.
    pub struct Thinking<'a> {
        /// `enabled` or `disabled`; others, such as `adaptive`, leave it to the model.
        pub kind as "type": GoString<'a>,
    }

    /// Settings of the output.
    pub struct OutputConfig<'a> {
        /// How much to think, where [`Thinking`] does not decide.
        pub effort: GoString<'a>,
    }
}

/// A text, or blocks.
#[derive(Clone, Debug)]
pub enum Content<'a> {
    /// A text, equivalent to one block of text.
    Text(GoString<'a>),
    /// Blocks.
    Blocks(Vec<ContentBlock<'a>>),
}

impl<'de> Deserialize<'de> for Content<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ContentVisitor;
        impl<'de> Visitor<'de> for ContentVisitor {
            type Value = Content<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("[]anthropic.ContentBlock")
            }

            fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Self::Value, E> {
                Ok(Content::Text(GoString(text.into())))
            }

            fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
                Ok(Content::Text(GoString(text.to_owned().into())))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
                let mut blocks = Vec::new();
                // A block of `null` has no kind.
                while let Some(block) = list.next_element::<Option<ContentBlock<'de>>>()? {
                    blocks.push(block.unwrap_or_default());
                }
                Ok(Content::Blocks(blocks))
            }

            // The results of some tools are one block instead of a list.
            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
                let block = ContentBlock::deserialize(MapAccessDeserializer::new(map))?;
                Ok(Content::Blocks(vec![block]))
            }
        }
        deserializer.deserialize_any(ContentVisitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::ollama::decode;

    fn error(body: &str) -> String {
        let read = decode::parse::<MessagesRequest<'_>>(body, GO_TYPE_NAME);
        read.expect_err("refused").message()
    }

    #[test]
    fn content_is_a_text_or_blocks_or_one_block() {
        let body = r#"{"messages":[{"content":"a"},{"content":[{"type":"text","text":"b"},null]},
            {"content":{"type":"text","text":"c"}},{"content":null},{"CONTENT":"d\n"}]}"#;
        let read: MessagesRequest<'_> = decode::parse(body, GO_TYPE_NAME).expect("valid");
        let shown = read.messages.iter().flatten().map(|message| match &message.content {
            None => "none".to_owned(),
            Some(Content::Text(text)) => text.to_string(),
            Some(Content::Blocks(blocks)) => blocks
                .iter()
                .map(|block| block.text.as_deref().unwrap_or("-").to_owned())
                .collect::<Vec<_>>()
                .join("+"),
        });
        assert_eq!(shown.collect::<Vec<_>>(), ["a", "b+-", "c", "none", "d\n"]);
    }

    #[test]
    fn errors_are_worded_as_go_words_them() {
        let wrong = "json: cannot unmarshal";
        assert_eq!(error("[]"), format!("{wrong} array into Go value of type {GO_TYPE_NAME}"));
        let field = "into Go struct field MessagesRequest";
        let check = |body: &str, found: &str, place: &str| {
            assert_eq!(error(body), format!("{wrong} {found} {field}.{place}"), "{body}");
        };
        check(r#"{"model":5}"#, "number", "model of type string");
        check(r#"{"temperature":"warm"}"#, "string", "temperature of type float64");
        check(r#"{"max_tokens":"9"}"#, "string", "max_tokens of type int");
        check(r#"{"system":true}"#, "bool", "system of type []anthropic.ContentBlock");
        check(r#"{"messages":[5]}"#, "number", "messages of type anthropic.Message");
        check(
            r#"{"messages":[{"content":[{"type":{}}]}]}"#,
            "object",
            "messages.content.type of type string",
        );
        check(r#"{"thinking":"on"}"#, "string", "thinking of type anthropic.Thinking");
    }

    #[test]
    fn numbers_keep_their_digits() {
        let read: MessagesRequest<'_> =
            decode::parse(r#"{"temperature":1,"top_p":0.10}"#, GO_TYPE_NAME).expect("valid");
        let shown = |float: Option<Number>| float.map(|float| float.to_string());
        assert_eq!(shown(read.temperature).as_deref(), Some("1"));
        assert_eq!(shown(read.top_p).as_deref(), Some("0.1"));
    }
}
