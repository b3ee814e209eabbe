//! Requests of Anthropic's clients.
//!
//! Every member is optional and unknown ones are skipped, as in [`crate::api::ollama::request`]:
//! `metadata`, `mcp_servers` and members that Anthropic adds later. The members that hold for the whole
//! request have the types of Ollama's own route, and its errors; what stands inside of blocks, tools and
//! settings is read leniently ([`super::lenient`]). A block has the members of all kinds of block, because
//! its `type` may stand behind them; a block of an unknown kind does not invalidate the request. Blocks
//! inside of blocks are read when they are needed.

use std::borrow::Cow;
use std::fmt;

use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::Number;
use serde_json::value::RawValue;

use super::lenient::{self, FromAny, Lenient, LenientFlag, LenientText};
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
        /// A conversation that the server stores; only a new one is accepted.
        pub thread: Lenient<Typed<'a>>,
        /// Sampling.
        pub temperature: Number,
        /// Sampling.
        pub top_p: Number,
        /// Sampling.
        pub top_k: GoInt,
        /// Stop sequences.
        pub stop_sequences: Vec<GoString<'a>>,
        /// Tool definitions.
        pub tools: Vec<Lenient<Tool<'a>>>,
        /// Which tools the model may or must call.
        pub tool_choice: Lenient<ToolChoice<'a>>,
        /// Whether to think; a budget is ignored.
        pub thinking: Lenient<Typed<'a>>,
        /// How much to think, and the format of the text.
        pub output_config: Lenient<OutputConfig<'a>>,
        /// The older name of the format.
        pub output_format: Lenient<OutputFormat<'a>>,
    }

    /// One turn of a conversation.
    pub struct Message<'a> {
        /// `user`, `assistant` or `system`.
        pub role: LenientText<'a>,
        /// A text, or blocks.
        pub content: Content<'a>,
    }

    /// A block of a turn, of any kind.
    pub struct ContentBlock<'a> {
        /// Which kind it is.
        pub kind as "type": LenientText<'a>,
        /// The text of a `text`.
        pub text: LenientText<'a>,
        /// The source of an `image` or a `document`, a [`Source`], or of a `search_result`, a text.
        pub source: &'a RawValue,
        /// The id of a call.
        pub id: LenientText<'a>,
        /// The function of a call.
        pub name: LenientText<'a>,
        /// The arguments of a call, an object.
        pub input: &'a RawValue,
        /// Which call a result answers.
        pub tool_use_id: LenientText<'a>,
        /// The content of a result, a `search_result`, a `compaction` or a `mid_conv_system`, a
        /// [`Content`].
        pub content: &'a RawValue,
        /// Whether a result reports a failure.
        pub is_error: LenientFlag,
        /// The reasoning of a `thinking`.
        pub thinking: LenientText<'a>,
        /// The title of a `document` or a `search_result`.
        pub title: LenientText<'a>,
        /// What is to be known of a `document`.
        pub context: LenientText<'a>,
        /// The tool of a `tool_reference`.
        pub tool_name: LenientText<'a>,
        /// The tool of a `tool_addition` or `tool_removal`.
        pub tool: Lenient<ToolReference<'a>>,
        /// Marks the end of what is to be cached.
        pub cache_control: &'a RawValue,
    }

    /// Where an image or a document comes from.
    pub struct Source<'a> {
        /// `base64`, `url`, `text`, `content` or `file`.
        pub kind as "type": LenientText<'a>,
        /// The MIME type.
        pub media_type: LenientText<'a>,
        /// The base64, or the text.
        pub data: &'a RawValue,
        /// The address.
        pub url: LenientText<'a>,
        /// The blocks, a [`Content`].
        pub content: &'a RawValue,
    }

    /// A tool that the model may call.
    pub struct Tool<'a> {
        /// `custom`, or a tool of Anthropic's API.
        pub kind as "type": LenientText<'a>,
        /// Its name.
        pub name: LenientText<'a>,
        /// What it is for.
        pub description: LenientText<'a>,
        /// Its parameters as a JSON Schema, passed on unchanged.
        pub input_schema: &'a RawValue,
        /// Arguments that show how it is called.
        pub input_examples: &'a RawValue,
        /// Whether the model learns of it only by a search.
        pub defer_loading: LenientFlag,
        /// Marks the end of what is to be cached.
        pub cache_control: &'a RawValue,
    }

    /// A tool by its name.
    pub struct ToolReference<'a> {
        /// The name.
        pub name: LenientText<'a>,
        /// The same in some versions.
        pub tool_name: LenientText<'a>,
    }

    /// Which tools the model may or must call.
    pub struct ToolChoice<'a> {
        /// `auto`, `any`, `tool` or `none`.
        pub kind as "type": LenientText<'a>,
        /// The name of the tool, with `tool`.
        pub name: LenientText<'a>,
        /// Whether the model calls one tool at a time.
        pub disable_parallel_tool_use: LenientFlag,
    }

    /// An object that is known by its type.
    pub struct Typed<'a> {
        /// The type.
        pub kind as "type": LenientText<'a>,
    }

    /// Settings of the output.
    pub struct OutputConfig<'a> {
        /// How much to think, where `thinking` does not decide.
        pub effort: LenientText<'a>,
        /// The format of the text.
        pub format: Lenient<OutputFormat<'a>>,
    }

    /// The format of the text.
    pub struct OutputFormat<'a> {
        /// `json_schema`.
        pub kind as "type": LenientText<'a>,
        /// The schema.
        pub schema: &'a RawValue,
    }
}

impl<'a> ContentBlock<'a> {
    /// Which kind it is.
    pub fn kind(&self) -> &str {
        self.kind.as_deref().unwrap_or_default()
    }

    /// The same block without `tool`, whose texts are borrowed.
    pub fn borrowed(&'a self) -> Self {
        let text = |member: &'a Option<LenientText<'a>>| {
            member.as_deref().map(|text| LenientText(Cow::Borrowed(text)))
        };
        Self {
            kind: text(&self.kind),
            text: text(&self.text),
            id: text(&self.id),
            name: text(&self.name),
            tool_use_id: text(&self.tool_use_id),
            thinking: text(&self.thinking),
            title: text(&self.title),
            context: text(&self.context),
            tool_name: text(&self.tool_name),
            source: self.source,
            input: self.input,
            content: self.content,
            is_error: self.is_error,
            tool: None,
            cache_control: self.cache_control,
        }
    }

    /// The blocks inside of it; a text is one block.
    pub fn inner_blocks(&self) -> Vec<ContentBlock<'a>> {
        self.content.map(parse_blocks).unwrap_or_default()
    }
}

/// The blocks of a content; none where it is no content.
pub fn parse_blocks(content: &RawValue) -> Vec<ContentBlock<'_>> {
    match serde_json::from_str(content.get()) {
        Ok(Content::Text(text)) => vec![text_block(text.0)],
        Ok(Content::Blocks(blocks)) => blocks,
        Err(_) => Vec::new(),
    }
}

fn text_block(text: Cow<'_, str>) -> ContentBlock<'_> {
    let kind = Some(LenientText(Cow::Borrowed("text")));
    ContentBlock { kind, text: Some(LenientText(text)), ..ContentBlock::default() }
}

/// An element of a list of blocks. A text stands for a block of text; all else that is no object has no
/// kind.
#[derive(Default)]
struct Element<'a>(ContentBlock<'a>);

impl<'de> FromAny<'de> for Element<'de> {
    fn from_text(text: Cow<'de, str>) -> Self {
        Self(text_block(text))
    }

    fn from_object<A: MapAccess<'de>>(map: A) -> Result<Self, A::Error> {
        ContentBlock::deserialize(MapAccessDeserializer::new(map)).map(Self)
    }
}

impl<'de> Deserialize<'de> for Element<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        lenient::deserialize_any(deserializer)
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
                while let Some(Element(block)) = list.next_element()? {
                    blocks.push(block);
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
            r#"{"messages":[{"content":5}]}"#,
            "number",
            "messages.content of type []anthropic.ContentBlock",
        );
    }

    #[test]
    fn blocks_tools_and_settings_are_read_leniently() {
        let body = r#"{"thinking":"on","tools":[5,{"name":{},"defer_loading":"x"}],"tool_choice":[],
            "messages":[{"role":5,"content":["a",5,true,[1],{"type":{},"text":[1],"tool":5},{"text":"b"}]}]}"#;
        let read: MessagesRequest<'_> = decode::parse(body, GO_TYPE_NAME).expect("valid");
        assert!(read.thinking.is_some_and(|it| it.0.is_none()));
        let named = read.tools.iter().flatten().map(|tool| tool.0.is_some());
        assert_eq!(named.collect::<Vec<_>>(), [false, true]);
        let Some(Content::Blocks(blocks)) = &read.messages.as_ref().expect("one")[0].content else {
            panic!("blocks");
        };
        let texts = blocks.iter().map(|block| block.text.as_deref().unwrap_or("-"));
        assert_eq!(texts.collect::<Vec<_>>(), ["a", "-", "-", "-", "", "b"]);
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
