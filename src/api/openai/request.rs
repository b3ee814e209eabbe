//! Requests to an upstream.
//!
//! Types only: which members are set is decided by `translate`, and how large texts are written by
//! [`super::request_body`]. Invariant: an absent member is not written.

use std::borrow::Cow;
use std::fmt;

use serde::{Serialize, Serializer};
use serde_json::value::RawValue;
use serde_json::{Map, Value};

/// What the proxy does to the response of a request, because the upstream does not take the request as
/// the client means it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ResponseEffects {
    /// Stop sequences that are applied to the text.
    pub watched_stop: Vec<String>,
    /// True if all of them were sent, too: then they count only at the end of the text, where some
    /// servers leave them.
    pub sent_stop: bool,
    /// The names of functions that were sent, with the client's own.
    pub tool_names: Vec<(String, String)>,
    /// The names of tools that take free text and were sent as functions.
    pub custom_tools: Vec<String>,
    /// True if the text is an object with the client's value in the member `value`.
    pub unwraps_value: bool,
    /// True if a Markdown fence around the whole text goes.
    pub strips_fence: bool,
    /// Tokens after which the response ends with `length`.
    pub token_limit: Option<u64>,
    /// The assistant's words at the end of the conversation. A whole response may begin with them
    /// (llama.cpp), and the client wants only what is new.
    pub continued_text: Option<String>,
}

/// `POST chat/completions`.
#[derive(Clone, Debug, Serialize)]
pub struct ChatRequest<'a> {
    /// The upstream's own id.
    pub model: &'a str,
    /// The conversation.
    pub messages: Vec<Message<'a>>,
    /// Always written: the defaults of the two APIs differ.
    pub stream: bool,
    /// Only with `stream`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stream_options: Option<StreamOptions>,
    /// Sampling parameters that the client set, by the upstream's names.
    #[serde(flatten)]
    pub sampling: Map<String, Value>,
    /// The format of the output.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub response_format: Option<ResponseFormat<'a>>,
    /// Functions the model may call; an empty list is refused by some servers.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tools: Vec<Tool<'a>>,
    /// Which functions the model may or must call; without it the model chooses.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tool_choice: Option<ToolChoice<'a>>,
    /// True if the oldest turns may go when the context is exceeded.
    #[serde(skip)]
    pub may_truncate: bool,
    /// What the proxy does to the response.
    #[serde(skip)]
    pub effects: ResponseEffects,
}

/// The parameters with which a server continues an assistant's message at the end of a conversation
/// instead of beginning a new turn (vLLM, SGLang and llama.cpp, chat completions).
pub const CONTINUE_FINAL_MESSAGE: [(&str, bool); 2] =
    [("continue_final_message", true), ("add_generation_prompt", false)];

/// One turn.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Message<'a> {
    /// Lower case.
    pub role: Cow<'a, str>,
    /// The text, or parts if there are media.
    pub content: Content<'a>,
    /// The reasoning that led to an assistant's calls, for the families that want it back.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reasoning_content: Option<Cow<'a, str>>,
    /// The same where it is sent only if the upstream asks for it.
    #[serde(skip)]
    pub thinking: Option<Cow<'a, str>>,
    /// The same for servers that send it under this name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reasoning: Option<Cow<'a, str>>,
    /// What came with an assistant's calls and is sent back with them (OpenRouter).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reasoning_details: Option<Box<RawValue>>,
    /// The calls of an assistant.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tool_calls: Vec<ToolCall<'a>>,
    /// Which call a tool's message answers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tool_call_id: Option<Cow<'a, str>>,
}

impl<'a> Message<'a> {
    /// A turn of text.
    pub fn text(role: impl Into<Cow<'a, str>>, text: impl Into<Cow<'a, str>>) -> Self {
        Self { role: role.into(), content: Content::Text(text.into()), ..Self::default() }
    }

    /// True if it holds words of the assistant that a server may continue.
    pub fn is_prefill(&self) -> bool {
        self.role == "assistant" && self.tool_calls.is_empty() && !self.as_text().trim().is_empty()
    }

    /// True if there is an image or a sound.
    pub fn has_media(&self) -> bool {
        match &self.content {
            Content::Text(_) => false,
            Content::Parts(_) => true,
            Content::Marked(marked) => marked.parts.iter().any(|it| it.part.is_media()),
        }
    }

    /// The text of its content.
    pub fn as_text(&self) -> &str {
        let parts = match &self.content {
            Content::Text(text) | Content::Marked(MarkedContent { text, .. }) => return text,
            Content::Parts(parts) => parts,
        };
        let text = parts.iter().find_map(|part| match part {
            ContentPart::Text { text } => Some(text.as_ref()),
            _ => None,
        });
        text.unwrap_or_default()
    }
}

/// Text, or parts: some servers accept lists only for content other than text.
#[derive(Clone, Debug, Serialize)]
#[serde(untagged)]
pub enum Content<'a> {
    /// Only text.
    Text(Cow<'a, str>),
    /// Text, unless it is empty, then media.
    Parts(Vec<ContentPart<'a>>),
    /// Texts and media with marks of a cache, for upstreams that take them.
    Marked(MarkedContent<'a>),
}

/// Parts of which some have marks.
#[derive(Clone, Debug)]
pub struct MarkedContent<'a> {
    /// All texts as one.
    pub text: Cow<'a, str>,
    /// The parts in order.
    pub parts: Vec<MarkedPart<'a>>,
}

impl Serialize for MarkedContent<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.parts.serialize(serializer)
    }
}

/// A part, perhaps with a mark.
#[derive(Clone, Debug, Serialize)]
pub struct MarkedPart<'a> {
    /// The part.
    #[serde(flatten)]
    pub part: ContentPart<'a>,
    /// Marks the end of what is to be cached; the client's own text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cache_control: Option<&'a RawValue>,
}

impl Default for Content<'_> {
    fn default() -> Self {
        Self::Text(Cow::Borrowed(""))
    }
}

impl<'a> Content<'a> {
    /// The content with another text.
    #[must_use]
    pub fn with_text(self, text: String) -> Self {
        let media = self.into_media();
        if media.is_empty() {
            return Self::Text(text.into());
        }
        let text = std::iter::once(ContentPart::Text { text: text.into() });
        Self::Parts(text.chain(media).collect())
    }

    /// The content without marks: its texts as one, and its media.
    #[must_use]
    pub fn without_marks(self) -> Self {
        let Self::Marked(MarkedContent { text, .. }) = &self else { return self };
        let text = text.clone();
        let media = self.into_media();
        if media.is_empty() {
            return Self::Text(text);
        }
        let text = (!text.is_empty()).then_some(ContentPart::Text { text });
        Self::Parts(text.into_iter().chain(media).collect())
    }

    fn into_media(self) -> Vec<ContentPart<'a>> {
        let mut parts = match self {
            Self::Text(_) => Vec::new(),
            Self::Parts(parts) => parts,
            Self::Marked(marked) => marked.parts.into_iter().map(|it| it.part).collect(),
        };
        parts.retain(ContentPart::is_media);
        parts
    }

    /// Adds a line to the text.
    pub fn push_line(&mut self, line: String) {
        let append = |text: &mut Cow<'a, str>| {
            let text = text.to_mut();
            if !text.is_empty() {
                text.push('\n');
            }
            text.push_str(&line);
        };
        match self {
            Self::Text(text) => append(text),
            Self::Parts(parts) => match parts.first_mut() {
                Some(ContentPart::Text { text }) => append(text),
                _ => parts.insert(0, ContentPart::Text { text: line.into() }),
            },
            Self::Marked(MarkedContent { text, parts }) => {
                append(text);
                let part = ContentPart::Text { text: line.into() };
                parts.push(MarkedPart { part, cache_control: None });
            }
        }
    }

    /// Text followed by media, which is Ollama's order.
    pub fn with_media(text: &'a str, media: Vec<ContentPart<'a>>) -> Self {
        if media.is_empty() {
            return Self::Text(Cow::Borrowed(text));
        }
        let text = (!text.is_empty()).then(|| ContentPart::Text { text: text.into() });
        Self::Parts(text.into_iter().chain(media).collect())
    }
}

/// A part of a message.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ContentPart<'a> {
    /// Text.
    Text {
        /// The text.
        text: Cow<'a, str>,
    },
    /// An image.
    ImageUrl {
        /// Where it is.
        image_url: ImageUrl<'a>,
    },
    /// A sound.
    InputAudio {
        /// The sound itself.
        input_audio: InputAudio<'a>,
    },
    /// A document.
    File {
        /// The document.
        file: FilePart<'a>,
    },
}

impl<'a> ContentPart<'a> {
    /// An image of a MIME type, from standard, padded base64.
    pub fn image(mime: String, data: Cow<'a, str>) -> Self {
        let url = MediaUrl::Data(DataUrl { mime, data });
        Self::ImageUrl { image_url: ImageUrl { url, detail: None } }
    }

    /// A sound, from standard, padded base64.
    pub fn audio(data: Cow<'a, str>, format: &'static str) -> Self {
        Self::InputAudio { input_audio: InputAudio { data, format } }
    }

    /// True if it is not a text.
    pub fn is_media(&self) -> bool {
        !matches!(self, Self::Text { .. })
    }

    /// The base64 of an image, a sound or a document that is not given by its address.
    pub fn base64(&self) -> Option<&Cow<'a, str>> {
        let url = match self {
            Self::Text { .. } => return None,
            Self::InputAudio { input_audio } => return Some(&input_audio.data),
            Self::ImageUrl { image_url } => &image_url.url,
            Self::File { file } => &file.file_data,
        };
        match url {
            MediaUrl::Data(url) => Some(&url.data),
            MediaUrl::Remote(_) => None,
        }
    }
}

/// The image of a [`ContentPart`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ImageUrl<'a> {
    /// The image itself, or its address.
    pub url: MediaUrl<'a>,
    /// How closely the model looks at it: `auto`, `low` or `high`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detail: Option<Cow<'a, str>>,
}

/// The document of a [`ContentPart`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct FilePart<'a> {
    /// Required beside the data.
    pub filename: Cow<'a, str>,
    /// The document itself; OpenRouter takes its address, too.
    pub file_data: MediaUrl<'a>,
}

/// A medium itself, or where it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum MediaUrl<'a> {
    /// The medium.
    Data(DataUrl<'a>),
    /// Its address, which the upstream fetches.
    Remote(Cow<'a, str>),
}

/// A `data:` URL. It is put together only while it is written: as one text it would be a copy of the
/// image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DataUrl<'a> {
    /// The MIME type, in lower case.
    pub mime: String,
    /// Standard base64, padded.
    pub data: Cow<'a, str>,
}

impl fmt::Display for DataUrl<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "data:{};base64,{}", self.mime, self.data)
    }
}

impl Serialize for DataUrl<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// The sound of a [`ContentPart`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct InputAudio<'a> {
    /// Standard base64, padded.
    pub data: Cow<'a, str>,
    /// `wav` or `mp3`.
    pub format: &'static str,
}

/// A call that an assistant made.
#[derive(Clone, Debug, Serialize)]
pub struct ToolCall<'a> {
    /// Required; the tool message with the result repeats it.
    pub id: Cow<'a, str>,
    /// Always `function`.
    #[serde(rename = "type")]
    pub kind: &'static str,
    /// The function that was called.
    pub function: FunctionCall<'a>,
    /// Data that came with the call and must be sent back with it (Gemini).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub extra_content: Option<Box<RawValue>>,
}

/// The function of a [`ToolCall`].
#[derive(Clone, Debug, Serialize)]
pub struct FunctionCall<'a> {
    /// Its name.
    pub name: Cow<'a, str>,
    /// JSON as a string.
    pub arguments: Cow<'a, str>,
}

/// A function that the model may call.
#[derive(Clone, Debug, Serialize)]
pub struct Tool<'a> {
    /// Always `function`, whatever the client wrote.
    #[serde(rename = "type")]
    pub kind: &'static str,
    /// What it is.
    pub function: FunctionDefinition<'a>,
    /// Marks the end of what is to be cached; the client's own text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cache_control: Option<&'a RawValue>,
}

/// The function of a [`Tool`].
#[derive(Clone, Debug, Serialize)]
pub struct FunctionDefinition<'a> {
    /// Its name.
    pub name: &'a str,
    /// What it is for.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub description: &'a str,
    /// Its parameters; the caller's own text where nothing had to be added.
    pub parameters: Cow<'a, RawValue>,
}

/// Which tools a model may or must call.
#[derive(Clone, Debug, Serialize)]
#[serde(untagged)]
pub enum ToolChoice<'a> {
    /// `none` or `required`.
    Mode(&'static str),
    /// One function.
    Function {
        /// Always `function`.
        #[serde(rename = "type")]
        kind: &'static str,
        /// Which one.
        function: ToolName<'a>,
    },
}

/// The name of a function that must be called.
#[derive(Clone, Debug, Serialize)]
pub struct ToolName<'a> {
    /// As it stands in the list of tools.
    pub name: &'a str,
}

/// Requests token counts at the end of a stream.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct StreamOptions {
    /// Always true.
    pub include_usage: bool,
}

impl StreamOptions {
    /// The options for a stream; none for a whole response.
    pub fn for_stream(stream: bool) -> Option<Self> {
        stream.then_some(Self { include_usage: true })
    }
}

/// `response_format`.
#[derive(Clone, Debug, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ResponseFormat<'a> {
    /// Any JSON object.
    JsonObject,
    /// JSON that conforms to a schema.
    JsonSchema {
        /// The schema with its name.
        json_schema: JsonSchema<'a>,
    },
    /// The same in TGI's own form.
    Json {
        /// The client's schema, unchanged.
        value: &'a RawValue,
    },
}

/// A named schema.
#[derive(Clone, Debug, Serialize)]
pub struct JsonSchema<'a> {
    /// Required by OpenAI.
    pub name: &'static str,
    /// The client's schema, unchanged.
    pub schema: &'a RawValue,
    /// Only if the schema meets OpenAI's rules for strict schemas.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub strict: Option<bool>,
}

/// `POST completions`.
#[derive(Clone, Debug, Serialize)]
pub struct CompletionRequest<'a> {
    /// The upstream's own id.
    pub model: &'a str,
    /// The prompt, verbatim.
    pub prompt: Cow<'a, str>,
    /// The text behind the gap.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub suffix: Option<&'a str>,
    /// Always written.
    pub stream: bool,
    /// Only with `stream`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stream_options: Option<StreamOptions>,
    /// Sampling parameters that the client set, by the upstream's names.
    #[serde(flatten)]
    pub sampling: Map<String, Value>,
    /// The format of the output.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub response_format: Option<ResponseFormat<'a>>,
    /// What the proxy does to the response.
    #[serde(skip)]
    pub effects: ResponseEffects,
}

/// `POST /infill` of llama.cpp.
#[derive(Clone, Debug, Serialize)]
pub struct InfillRequest<'a> {
    /// The upstream's own id, which only a server with several models reads.
    pub model: &'a str,
    /// The text before the gap.
    pub input_prefix: Cow<'a, str>,
    /// The text behind the gap.
    pub input_suffix: &'a str,
    /// Always written.
    pub stream: bool,
    /// Sampling parameters that the client set, by llama.cpp's names.
    #[serde(flatten)]
    pub sampling: Map<String, Value>,
    /// The format of the output.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub json_schema: Option<&'a RawValue>,
}

/// `POST embeddings`.
#[derive(Clone, Debug, Serialize)]
pub struct EmbeddingRequest<'a> {
    /// The upstream's own id.
    pub model: &'a str,
    /// Always a list: some servers do not accept a single string.
    pub input: Vec<Cow<'a, str>>,
    /// Written, because defaults differ, except for servers that do not know it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub encoding_format: Option<&'static str>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn marked(parts: Vec<ContentPart<'_>>) -> Content<'_> {
        let mark = serde_json::from_str(r#"{"type":"ephemeral"}"#).expect("valid");
        let text = Cow::Borrowed("ab");
        let parts =
            parts.into_iter().map(|part| MarkedPart { part, cache_control: Some(mark) }).collect();
        Content::Marked(MarkedContent { text, parts })
    }

    fn text(text: &str) -> ContentPart<'_> {
        ContentPart::Text { text: text.into() }
    }

    #[test]
    fn a_content_without_its_marks_says_the_same() {
        let image = || ContentPart::image("image/png".to_owned(), "x".into());
        let shown = |content: Content<'_>| serde_json::to_string(&content).expect("serialisable");
        let only_text = || marked(vec![text("a"), text("b")]);
        let expected = r#"[{"type":"text","text":"a","cache_control":{"type":"ephemeral"}},{"type":"text","text":"b","cache_control":{"type":"ephemeral"}}]"#;
        assert_eq!(shown(only_text()), expected);
        assert_eq!(shown(only_text().without_marks()), r#""ab""#);
        assert_eq!(shown(only_text().with_text("c".to_owned())), r#""c""#);
        let mixed = || marked(vec![text("a"), image(), text("b")]);
        let url = r#"{"type":"image_url","image_url":{"url":"data:image/png;base64,x"}}"#;
        let expected = format!(r#"[{{"type":"text","text":"ab"}},{url}]"#);
        assert_eq!(shown(mixed().without_marks()), expected);
        assert_eq!(shown(mixed().with_text("ab".to_owned())), expected);
        for (content, has_media) in [(only_text(), false), (mixed(), true)] {
            let message = Message { content, ..Message::text("user", "") };
            assert_eq!((message.as_text(), message.has_media()), ("ab", has_media));
        }
    }
}
