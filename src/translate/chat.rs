//! `/api/chat` to `chat/completions`, and back (ollama-api.md 5.9, 8).
//!
//! | member | what becomes of it |
//! | --- | --- |
//! | `model` | the upstream's id, resolved by the caller |
//! | `messages` | role in lower case and content; a missing content is empty |
//! | `format`, `options` | `translate::format`, `translate::options` |
//! | `stream` | always said |
//! | `think` | decides whether reasoning is shown |
//! | `tools`, `images`, `tool_calls` | refused by name |
//! | `keep_alive`, `truncate`, `shift`, `logprobs` | not for the upstream |

use std::borrow::Cow;

use crate::error::{Error, Result};
use crate::ndjson;
use crate::ollama::answer::{AnswerMessage, ChatAnswer, Metrics};
use crate::ollama::request::{ChatRequest, Message as OllamaMessage};
use crate::openai::request::{self as openai, Message, StreamOptions};
use crate::profile::Profile;
use crate::translate::stream::{Delta, Encoder, Outcome};
use crate::translate::{format, options};

/// The request for the upstream.
///
/// # Errors
/// [`Error::InvalidOption`] and [`Error::Unsupported`], in Ollama's words.
pub fn to_openai<'a>(
    request: &'a ChatRequest<'a>,
    model: &'a str,
    profile: &Profile,
) -> Result<openai::ChatRequest<'a>> {
    if request.tools.as_ref().is_some_and(|tools| !tools.is_empty()) {
        return Err(unsupported(request.model.as_deref(), "tools"));
    }
    let messages = request
        .messages
        .iter()
        .flatten()
        .map(|message| to_message(message, request.model.as_deref()))
        .collect::<Result<Vec<_>>>()?;
    let options = options::read(request.options.as_ref())?;
    let format = format::response_format(request.format, profile)?;
    Ok(chat(model, messages, &options, format, request.stream.unwrap_or(true), profile))
}

/// A request from its parts; `/api/generate` makes one, too.
pub(super) fn chat<'a>(
    model: &'a str,
    mut messages: Vec<Message<'a>>,
    options: &options::Options,
    format: Option<openai::ResponseFormat<'a>>,
    stream: bool,
    profile: &Profile,
) -> openai::ChatRequest<'a> {
    let texts = messages.iter().map(|message| message.content.as_ref());
    if format::lacks_json_word(format.as_ref(), profile, texts) {
        messages.insert(0, Message { role: "system".into(), content: format::JSON_WORD.into() });
    }
    openai::ChatRequest {
        model,
        messages,
        stream,
        stream_options: StreamOptions::when(stream),
        sampling: options.for_chat(profile),
        response_format: format,
    }
}

fn to_message<'a>(message: &'a OllamaMessage<'a>, model: Option<&str>) -> Result<Message<'a>> {
    let filled = |list: &Option<Vec<_>>| list.as_ref().is_some_and(|list| !list.is_empty());
    if filled(&message.images) {
        return Err(unsupported(model, "images"));
    }
    if filled(&message.tool_calls) {
        return Err(unsupported(model, "tools"));
    }
    let role = message.role.as_deref().unwrap_or_default();
    Ok(Message {
        role: if role.bytes().any(|byte| byte.is_ascii_uppercase()) {
            Cow::Owned(role.to_ascii_lowercase())
        } else {
            Cow::Borrowed(role)
        },
        content: Cow::Borrowed(message.content.as_deref().unwrap_or_default()),
    })
}

/// Ollama's sentence for something a model cannot do.
pub(super) fn unsupported(model: Option<&str>, what: &str) -> Error {
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
        ChatAnswer {
            model: self.model,
            created_at,
            message: AnswerMessage { role: "assistant", content, thinking },
            done: done_reason.is_some(),
            done_reason,
            metrics,
        }
    }
}

impl Encoder for ChatEncoder<'_> {
    fn delta(&mut self, out: &mut Vec<u8>, created_at: &str, delta: &Delta<'_>) {
        ndjson::append_line(out, &self.object(created_at, delta, None, None));
    }

    fn last(&mut self, out: &mut Vec<u8>, created_at: &str, rest: &Delta<'_>, outcome: &Outcome) {
        let (reason, metrics) = (Some(outcome.done_reason), Some(outcome.metrics));
        ndjson::append(out, &self.object(created_at, rest, reason, metrics));
    }
}
