//! What Ollama clients send (ollama-api.md 5, 8 to 11).
//!
//! Every member is optional here; what a missing one means is decided by `translate`.
//! Members that are passed on, or read by rules of their own, stay raw JSON. Members that Ollama
//! does not know on a route are skipped, such as `temperature` at the top level of `/api/chat`.

use serde_json::value::RawValue;
use serde_json::{Map, Value};

use super::decode::{GoInt, GoString, request};
use super::schema::Schema;

request! {
    /// `POST /api/chat` (8.1).
    pub struct ChatRequest<'a> {
        /// The model's name.
        pub model: GoString<'a>,
        /// The conversation.
        pub messages: Vec<Message<'a>>,
        /// Tool definitions (5.7).
        pub tools: Vec<Tool<'a>>,
        /// Free text, `"json"` or a schema (5.4).
        pub format: &'a RawValue,
        /// Sampling options (5.1).
        pub options: Map<String, Value>,
        /// Whether to stream; true unless said otherwise.
        pub stream: bool,
        /// How long the model stays loaded (5.2).
        pub keep_alive: Value,
        /// Whether to think (5.3).
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
}

request! {
    /// One turn of a conversation (5.6).
    pub struct Message<'a> {
        /// `system`, `user`, `assistant` or `tool`, in any case.
        pub role: GoString<'a>,
        /// The text.
        pub content: GoString<'a>,
        /// Reasoning of an earlier turn, which stays behind.
        pub thinking: GoString<'a>,
        /// Base64 images (5.5).
        pub images: Vec<&'a RawValue>,
        /// The calls an assistant made.
        pub tool_calls: Vec<ToolCall<'a>>,
        /// On a tool's message: which function it answers.
        pub tool_name: GoString<'a>,
        /// On a tool's message: which call it answers.
        pub tool_call_id: GoString<'a>,
    }
}

request! {
    /// A call that an assistant made (5.6).
    pub struct ToolCall<'a> {
        /// Its id; many clients send none.
        pub id: GoString<'a>,
        /// What was called.
        pub function: FunctionCall<'a>,
    }
}

request! {
    /// The function of a [`ToolCall`].
    pub struct FunctionCall<'a> {
        /// Its place among the calls, which their order tells, too.
        pub index: GoInt,
        /// Its name.
        pub name: GoString<'a>,
        /// An object; some clients send it as a string of JSON.
        pub arguments: &'a RawValue,
    }
}

request! {
    /// A tool that the model may call (5.7).
    pub struct Tool<'a> {
        /// What it is.
        pub function: FunctionDefinition<'a>,
    }
}

request! {
    /// The function of a [`Tool`].
    pub struct FunctionDefinition<'a> {
        /// Its name.
        pub name: GoString<'a>,
        /// What it is for.
        pub description: GoString<'a>,
        /// Its parameters as a JSON Schema, which is passed on untouched.
        pub parameters: Schema<'a>,
    }
}

request! {
    /// `POST /api/generate` (9.1).
    pub struct GenerateRequest<'a> {
        /// The model's name.
        pub model: GoString<'a>,
        /// The prompt; empty means load only.
        pub prompt: GoString<'a>,
        /// What follows the text to be filled in.
        pub suffix: GoString<'a>,
        /// The system prompt.
        pub system: GoString<'a>,
        /// A template in Go's syntax; checked and not used.
        pub template: GoString<'a>,
        /// What an earlier answer returned as `context`.
        pub context: Vec<GoInt>,
        /// Whether the prompt goes to the model verbatim.
        pub raw: bool,
        /// Base64 images (5.5).
        pub images: Vec<&'a RawValue>,
        /// Free text, `"json"` or a schema (5.4).
        pub format: &'a RawValue,
        /// Sampling options (5.1).
        pub options: Map<String, Value>,
        /// Whether to stream; true unless said otherwise.
        pub stream: bool,
        /// How long the model stays loaded (5.2).
        pub keep_alive: Value,
        /// Whether to think (5.3).
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
}

request! {
    /// `POST /api/embed` (10.1).
    pub struct EmbedRequest<'a> {
        /// The model's name.
        pub model: GoString<'a>,
        /// A string or a list of strings.
        pub input: &'a RawValue,
        /// Whether too long inputs are cut; true unless said otherwise.
        pub truncate: bool,
        /// To how many numbers each vector is cut.
        pub dimensions: GoInt,
        /// Sampling options, checked and not used.
        pub options: Map<String, Value>,
        /// How long the model stays loaded (5.2).
        pub keep_alive: Value,
    }
}

request! {
    /// `POST /api/embeddings` (10.2).
    pub struct EmbeddingRequest<'a> {
        /// The model's name.
        pub model: GoString<'a>,
        /// The one input.
        pub prompt: GoString<'a>,
        /// Sampling options, checked and not used.
        pub options: Map<String, Value>,
        /// How long the model stays loaded (5.2).
        pub keep_alive: Value,
    }
}

request! {
    /// `POST /api/show` (11.6).
    pub struct ShowRequest<'a> {
        /// The model's name.
        pub model: GoString<'a>,
        /// Its name from older clients; counts when `model` is empty.
        pub name: GoString<'a>,
        /// A system prompt to show instead of the model's own.
        pub system: GoString<'a>,
        /// Whether long arrays are shown.
        pub verbose: bool,
        /// Parameters to show in the modelfile beside the model's own.
        pub options: Map<String, Value>,
    }
}
