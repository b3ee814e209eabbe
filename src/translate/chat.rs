//! `/api/chat` to `chat/completions`, and back (ollama-api.md 5.9, 8).
//!
//! | member | what becomes of it |
//! | --- | --- |
//! | `model` | the upstream's id, resolved by the caller |
//! | `messages` | `translate::history` and `translate::media`; a missing content is empty |
//! | `tools` | `translate::tools` |
//! | `format`, `options`, `think` | `translate::format`, `translate::options`, `translate::think` |
//! | `stream` | always said |
//! | `logprobs`, `top_logprobs` | the same, with at least one alternative, in the family's way |
//! | `keep_alive` | LM Studio's `ttl`; not for others |
//! | `truncate`, `shift` | not for the upstream |

use crate::api::ollama::decode::Int;
use crate::api::ollama::request::ChatRequest;
use crate::api::ollama::response::{AnswerMessage, ChatAnswer, FunctionCall, Metrics, ToolCall};
use crate::api::ollama::text_line;
use crate::api::openai::request as openai;
use crate::api::openai::request::{Message, StreamOptions};
use crate::api::wire::ndjson;
use crate::backends::profiles::{Logprobs, Profile};
use crate::error::{Error, Result};
use crate::translate::stream::{Delta, Encoder, Outcome};
use crate::translate::think::{self, Think};
use crate::translate::tool_calls::Call;
use crate::translate::{format, history, options, quirks, tools};

/// What an upstream is asked to add to the text.
#[derive(Clone, Copy, Debug)]
pub(super) struct Extras {
    /// Whether to reason.
    pub think: Think,
    /// How many alternatives each token is to have.
    pub logprobs: Option<usize>,
}

/// The request for the upstream.
///
/// # Errors
/// [`Error::InvalidRequest`], [`Error::InvalidOption`] and [`Error::Unsupported`], in Ollama's words.
pub fn to_openai<'a>(
    request: &'a ChatRequest<'a>,
    model: &'a str,
    profile: &Profile,
) -> Result<openai::ChatRequest<'a>> {
    let messages = history::messages(request.messages.as_deref().unwrap_or_default())?;
    let options = options::read(request.options.as_ref())?;
    let format = format::response_format(request.format, profile)?;
    let stream = request.stream.unwrap_or(true);
    let extras = Extras {
        think: think::read(request.think.as_ref())?,
        logprobs: logprobs(request.logprobs, request.top_logprobs),
    };
    let mut chat = chat(model, messages, &options, format, stream, profile, extras);
    chat.tools = tools::definitions(request.tools.as_deref().unwrap_or_default());
    chat.sampling.append(&mut options::stay(request.keep_alive.as_ref(), profile));
    Ok(chat)
}

/// Refuses what Ollama refuses while it still reads the body: media and calls that are none.
///
/// # Errors
/// [`Error::InvalidRequest`].
pub fn check_body(request: &ChatRequest<'_>) -> Result<()> {
    history::messages(request.messages.as_deref().unwrap_or_default()).map(drop)
}

/// A request from its parts; `/api/generate` makes one, too.
pub(super) fn chat<'a>(
    model: &'a str,
    mut messages: Vec<Message<'a>>,
    options: &options::Options,
    format: Option<openai::ResponseFormat<'a>>,
    stream: bool,
    profile: &Profile,
    extras: Extras,
) -> openai::ChatRequest<'a> {
    quirks::suit(&mut messages, profile);
    let texts = messages.iter().map(Message::as_text);
    if format::lacks_json_word(format.as_ref(), profile, texts) {
        messages.insert(0, Message::text("system", format::JSON_WORD));
    }
    let mut sampling = options.for_chat(profile);
    sampling.append(&mut think::parameters(extras.think, profile, model));
    if let Some(top) = extras.logprobs {
        // Without a number, llama.cpp sends 20 (openai-wire.md 3.2).
        let top = top.max(1);
        match profile.logprobs {
            Logprobs::Flag(most) => {
                sampling.insert("logprobs".into(), true.into());
                sampling.insert("top_logprobs".into(), top.min(most).into());
            }
            Logprobs::Number => drop(sampling.insert("logprobs".into(), top.into())),
            Logprobs::Refused => {}
        }
    }
    let watched_stop = options.watched_stop(profile);
    // An answer that is watched is streamed, so that it can be ended.
    let stream = stream || !watched_stop.is_empty();
    openai::ChatRequest {
        model,
        messages,
        stream,
        stream_options: StreamOptions::when(stream),
        sampling,
        response_format: format,
        tools: Vec::new(),
        tool_choice: None,
        watched_stop,
    }
}

/// How many alternatives per token the client wants; `None` without log probabilities.
#[must_use]
pub fn logprobs(wanted: Option<bool>, top: Option<Int>) -> Option<usize> {
    let top = top.and_then(|top| usize::try_from(top.0).ok()).unwrap_or(0);
    wanted.unwrap_or(false).then_some(top)
}

/// Ollama's sentence for something a model cannot do.
#[must_use]
pub fn unsupported(model: Option<&str>, what: &str) -> Error {
    Error::Unsupported {
        feature: format!("{:?} does not support {what}", model.unwrap_or_default()),
    }
}

/// Writes the objects of `/api/chat`.
#[derive(Debug)]
pub struct ChatEncoder<'a> {
    /// The name as the client sent it.
    pub model: &'a str,
}

impl ChatEncoder<'_> {
    /// Appends the answer to a request without messages, `load` or `unload` (8.4).
    pub fn empty(&self, out: &mut Vec<u8>, created_at: &str, done_reason: &str) {
        ndjson::append(out, &self.object(created_at, &Delta::default(), Some(done_reason), None));
    }

    fn object<'a>(
        &'a self,
        created_at: &'a str,
        delta: &'a Delta<'_>,
        done_reason: Option<&'a str>,
        metrics: Option<Metrics>,
    ) -> ChatAnswer<'a> {
        let (content, thinking) = (delta.content.as_ref(), delta.thinking.as_ref());
        let tool_calls = delta.calls.iter().filter_map(tool_call).collect();
        ChatAnswer {
            model: self.model,
            created_at,
            message: AnswerMessage { role: "assistant", content, thinking, tool_calls },
            done: done_reason.is_some(),
            done_reason,
            logprobs: &delta.logprobs,
            metrics,
        }
    }
}

/// A call as the client sees it. Its arguments were checked when it became whole.
fn tool_call(call: &Call) -> Option<ToolCall<'_>> {
    let arguments = serde_json::from_str(&call.arguments).ok()?;
    let function = FunctionCall { index: call.index, name: &call.name, arguments };
    Some(ToolCall { id: &call.id, function })
}

impl Encoder for ChatEncoder<'_> {
    fn delta(&mut self, out: &mut Vec<u8>, created_at: &str, delta: &Delta<'_>) {
        match delta.only_content() {
            Some(content) => text_line::chat(out, self.model, created_at, content),
            None => ndjson::append_line(out, &self.object(created_at, delta, None, None)),
        }
    }

    fn last(&mut self, out: &mut Vec<u8>, created_at: &str, rest: &Delta<'_>, outcome: &Outcome) {
        let (reason, metrics) = (Some(outcome.done_reason), Some(outcome.metrics));
        ndjson::append(out, &self.object(created_at, rest, reason, metrics));
    }
}
