//! Requests of Ollama's clients.
//!
//! Every member is optional here; `translate` decides what a missing one means. Members that are
//! passed on, or read by rules of their own, stay raw JSON. Members that Ollama does not know on a
//! route are skipped, such as `temperature` at the top level of `/api/chat`.

use std::borrow::Cow;

use serde_json::value::RawValue;
use serde_json::{Map, Value};

use super::decode::{GoInt, GoString, request};
use super::schema::Schema;

request! {
    /// `POST /api/chat`.
    pub struct ChatRequest<'a> {
        /// The model's name.
        pub model: GoString<'a>,
        /// The conversation.
        pub messages: Vec<Message<'a>>,
        /// Tool definitions.
        pub tools: Vec<Tool<'a>>,
        /// Free text, `"json"` or a schema.
        pub format: &'a RawValue,
        /// Sampling options.
        pub options: Map<String, Value>,
        /// Whether to stream; the default is true.
        pub stream: bool,
        /// How long the model stays loaded.
        pub keep_alive: Value,
        /// Whether to think: a boolean or an effort.
        pub think: Value,
        /// Whether messages may be dropped to fit the context; the upstream decides.
        pub truncate: bool,
        /// Whether the context may slide when it is full; the upstream decides.
        pub shift: bool,
        /// Whether to add log probabilities.
        pub logprobs: bool,
        /// How many alternatives per token, 0 to 20.
        pub top_logprobs: GoInt,
        /// Asks for the rendered prompt, which only the upstream knows.
        pub _debug_render_only: bool,
    }

    /// One turn of a conversation.
    pub struct Message<'a> {
        /// `system`, `user`, `assistant` or `tool`, in any case.
        pub role: GoString<'a>,
        /// The text.
        pub content: GoString<'a>,
        /// Reasoning of an earlier turn, which is not sent to the upstream.
        pub thinking: GoString<'a>,
        /// Base64 images.
        pub images: Vec<&'a RawValue>,
        /// The calls an assistant made.
        pub tool_calls: Vec<ToolCall<'a>>,
        /// On a tool's message: which function it answers.
        pub tool_name: GoString<'a>,
        /// On a tool's message: which call it answers.
        pub tool_call_id: GoString<'a>,
    }
    and {
        /// The text and the images once more as parts, if any has a mark of a cache. Ollama's API has
        /// no marks; those of other APIs stand here.
        pub marked_parts: Vec<MarkedPart<'a>>,
        /// Media of other APIs that `images` has no form for.
        pub attachments: Vec<Attachment<'a>>,
    }

    /// A call that an assistant made.
    pub struct ToolCall<'a> {
        /// Its id; many clients send none.
        pub id: GoString<'a>,
        /// What was called.
        pub function: FunctionCall<'a>,
    }

    /// The function of a [`ToolCall`].
    pub struct FunctionCall<'a> {
        /// Its place among the calls, which equals its place in the list.
        pub index: GoInt,
        /// Its name.
        pub name: GoString<'a>,
        /// An object; some clients send it as a string of JSON.
        pub arguments: &'a RawValue,
    }
    and {
        /// The text of an object, instead of `arguments`. Ollama's API has none; those of other APIs
        /// stand here.
        pub arguments_text: Option<Cow<'a, str>>,
    }

    /// A tool that the model may call.
    pub struct Tool<'a> {
        /// What it is.
        pub function: FunctionDefinition<'a>,
    }
    and {
        /// The mark of a cache, as in [`Message::marked_parts`].
        pub cache_control: Option<&'a RawValue>,
    }

    /// The function of a [`Tool`].
    pub struct FunctionDefinition<'a> {
        /// Its name.
        pub name: GoString<'a>,
        /// What it is for.
        pub description: GoString<'a>,
        /// Its parameters as a JSON Schema, which is passed on untouched.
        pub parameters: Schema<'a>,
    }

    /// `POST /api/generate`.
    pub struct GenerateRequest<'a> {
        /// The model's name.
        pub model: GoString<'a>,
        /// The prompt; an empty one only loads the model.
        pub prompt: GoString<'a>,
        /// The text behind the gap to fill in.
        pub suffix: GoString<'a>,
        /// The system prompt.
        pub system: GoString<'a>,
        /// A template in Go's syntax; checked, not used.
        pub template: GoString<'a>,
        /// `context` of an earlier response.
        pub context: Vec<GoInt>,
        /// Whether the prompt goes to the model verbatim.
        pub raw: bool,
        /// Base64 images.
        pub images: Vec<&'a RawValue>,
        /// Free text, `"json"` or a schema.
        pub format: &'a RawValue,
        /// Sampling options.
        pub options: Map<String, Value>,
        /// Whether to stream; the default is true.
        pub stream: bool,
        /// How long the model stays loaded.
        pub keep_alive: Value,
        /// Whether to think: a boolean or an effort.
        pub think: Value,
        /// Whether messages may be dropped to fit the context; the upstream decides.
        pub truncate: bool,
        /// Whether the context may slide when it is full; the upstream decides.
        pub shift: bool,
        /// Whether to add log probabilities.
        pub logprobs: bool,
        /// How many alternatives per token, 0 to 20.
        pub top_logprobs: GoInt,
        /// Asks for the rendered prompt, which only the upstream knows.
        pub _debug_render_only: bool,
    }

    /// `POST /api/embed`.
    pub struct EmbedRequest<'a> {
        /// The model's name.
        pub model: GoString<'a>,
        /// A string or a list of strings.
        pub input: &'a RawValue,
        /// Whether inputs that are too long are cut; the default is true.
        pub truncate: bool,
        /// The most numbers of each vector.
        pub dimensions: GoInt,
        /// Sampling options; checked, not used.
        pub options: Map<String, Value>,
        /// How long the model stays loaded.
        pub keep_alive: Value,
    }

    /// `POST /api/embeddings`.
    pub struct EmbeddingRequest<'a> {
        /// The model's name.
        pub model: GoString<'a>,
        /// The one input.
        pub prompt: GoString<'a>,
        /// Sampling options; checked, not used.
        pub options: Map<String, Value>,
        /// How long the model stays loaded.
        pub keep_alive: Value,
    }

    /// `POST /api/show`.
    pub struct ShowRequest<'a> {
        /// The model's name.
        pub model: GoString<'a>,
        /// `model` of older clients; counts if `model` is empty.
        pub name: GoString<'a>,
        /// A system prompt to show instead of the model's own.
        pub system: GoString<'a>,
        /// Whether long arrays are shown.
        pub verbose: bool,
        /// Parameters to show in the modelfile beside the model's own.
        pub options: Map<String, Value>,
    }
}

/// A part of a [`Message`] that has marks.
#[derive(Clone, Debug)]
pub struct MarkedPart<'a> {
    /// The text; `None` for the next of the message's images.
    pub text: Option<Cow<'a, str>>,
    /// The mark, an object.
    pub cache_control: Option<&'a RawValue>,
}

/// A medium of another API that Ollama's API has no form for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Attachment<'a> {
    /// An image, by its address.
    ImageUrl {
        /// The address, or a data URL.
        url: Cow<'a, str>,
        /// How closely the model looks at it, in OpenAI's words.
        detail: Option<Cow<'a, str>>,
    },
    /// A document.
    File {
        /// Its name.
        name: Cow<'a, str>,
        /// The document itself, or its address.
        source: FileSource<'a>,
    },
}

/// Where a document is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FileSource<'a> {
    /// Here, as standard, padded base64.
    Base64 {
        /// The MIME type.
        mime: Cow<'a, str>,
        /// The base64.
        data: Cow<'a, str>,
    },
    /// At an address.
    Url(Cow<'a, str>),
}
