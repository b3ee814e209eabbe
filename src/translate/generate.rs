//! Translates `/api/generate` to `chat/completions` or `completions`, and back.
//!
//! | member | translation |
//! | --- | --- |
//! | `prompt`, `system`, `context` | a conversation: system, earlier turns, the prompt as user |
//! | `raw` | `completions`, prompt verbatim |
//! | `suffix` | the upstream's endpoint for fill-in-the-middle, see `translate::infill` |
//! | `format`, `options`, `stream`, `think` | as in `translate::chat` |
//! | `template` | checked and not used: the upstream renders |
//! | `images` | parts of the prompt; refused with `raw` and `suffix` |

use std::borrow::Cow;

use serde_json::{Map, Value};

use crate::api::ollama::decode::non_empty;
use crate::api::ollama::request::{GenerateRequest, Message as OllamaMessage};
use crate::api::ollama::response::{GenerateResponse, Metrics};
use crate::api::ollama::text_line;
use crate::api::openai::request as openai;
use crate::api::openai::request::{Content, Message, ResponseEffects, StreamOptions};
use crate::api::wire::ndjson;
use crate::backends::fim_prompts;
use crate::backends::profiles::{FimEndpoint, Profile};
use crate::error::{Error, Result};
use crate::translate::chat::{ExtraOutputs, build_chat, top_logprobs, unsupported_error};
use crate::translate::context_codec::Conversation;
use crate::translate::stream::{Completion, Delta, Encoder};
use crate::translate::{context_codec, format, history, infill, media, options, template, think};

/// The request for the upstream, by its endpoint.
#[derive(Debug)]
pub enum UpstreamRequest<'a> {
    /// To `chat/completions`.
    Chat(openai::ChatRequest<'a>),
    /// To `completions`.
    Completion(openai::CompletionRequest<'a>),
    /// To `fim/completions`.
    Fim(openai::CompletionRequest<'a>),
    /// To `/infill`.
    Infill(openai::InfillRequest<'a>),
}

impl UpstreamRequest<'_> {
    /// True if the response is to be JSON.
    pub fn wants_json(&self) -> bool {
        match self {
            Self::Chat(request) => request.response_format.is_some(),
            Self::Completion(request) | Self::Fim(request) => request.response_format.is_some(),
            Self::Infill(request) => request.json_schema.is_some(),
        }
    }

    /// The model whose chat template is used; `None` where the prompt is sent as it is.
    pub fn templated_model(&self) -> Option<&str> {
        if let Self::Chat(request) = self { Some(request.model) } else { None }
    }

    /// Takes out what the proxy does to the response.
    pub fn take_effects(&mut self) -> ResponseEffects {
        match self {
            Self::Chat(request) => std::mem::take(&mut request.effects),
            Self::Completion(request) | Self::Fim(request) => std::mem::take(&mut request.effects),
            Self::Infill(_) => ResponseEffects::default(),
        }
    }
}

/// The request for the upstream. `stored` are the messages that a virtual model puts before each
/// conversation.
///
/// # Errors
/// [`Error::InvalidRequest`], [`Error::InvalidOption`] and [`Error::Unsupported`], in Ollama's words.
pub fn to_openai<'a>(
    request: &'a GenerateRequest<'a>,
    stored: &'a [OllamaMessage<'a>],
    model: (&'a str, Option<u64>),
    profile: &Profile,
) -> Result<UpstreamRequest<'a>> {
    to_openai_with_fim(request, stored, model, profile, profile.fim)
}

/// The same for an upstream that fills in at `fim`, whatever its profile says.
///
/// # Errors
/// As [`to_openai`].
pub fn to_openai_with_fim<'a>(
    request: &'a GenerateRequest<'a>,
    stored: &'a [OllamaMessage<'a>],
    (model, context_length): (&'a str, Option<u64>),
    profile: &Profile,
    fim: FimEndpoint,
) -> Result<UpstreamRequest<'a>> {
    let name = request.model.as_deref();
    let has_suffix = has_suffix(request);
    if has_suffix && !fim_prompts::is_possible(fim, model) {
        return Err(infill::unsupported_error(name.unwrap_or_default()));
    }
    let media = media::parse_parts(request.images.as_deref())?;
    let options = options::parse(request.options.as_ref())?;
    check_template(request)?;
    let response_format = format::to_response_format(request.format, profile)?;
    let stream = request.stream.unwrap_or(true);
    let logprobs = top_logprobs(request.logprobs, request.top_logprobs);
    if has_suffix || is_raw(request) {
        if !media.is_empty() {
            return Err(unsupported_error(name, "images without a chat template"));
        }
        let (prompt, suffix) = prompt_and_suffix(request, model, fim);
        let sampling = options.for_completion(profile, &prompt, context_length);
        return Ok(build_completion(
            request,
            (model, prompt, suffix),
            (&options, sampling),
            response_format,
            logprobs,
            (profile, fim),
        ));
    }
    let extras = ExtraOutputs { think: think::parse(request.think.as_ref())?, logprobs };
    let mut turns = build_messages(request, stored)?;
    if let Some(prompt) = turns.last_mut() {
        let text = request.prompt.as_deref().unwrap_or_default();
        prompt.content = Content::with_media(text, media);
    }
    let mut chat = build_chat(model, turns, &options, response_format, stream, profile, extras);
    chat.sampling.extend(options::keep_alive_to_ttl(request.keep_alive.as_ref(), profile));
    chat.may_truncate = request.truncate.unwrap_or(true);
    Ok(UpstreamRequest::Chat(chat))
}

/// Refuses invalid media, which Ollama refuses while it reads the body.
///
/// # Errors
/// [`Error::InvalidRequest`].
pub fn check_body(request: &GenerateRequest<'_>) -> Result<()> {
    media::parse_parts(request.images.as_deref()).map(drop)
}

/// The prompt and the suffix, or both as the prompt of the model's family.
fn prompt_and_suffix<'a>(
    request: &'a GenerateRequest<'a>,
    model: &str,
    fim: FimEndpoint,
) -> (Cow<'a, str>, Option<&'a str>) {
    let prompt = request.prompt.as_deref().unwrap_or_default();
    let suffix = non_empty(request.suffix.as_deref());
    let uses_prompt = fim == FimEndpoint::CompletionsPrompt;
    let own = suffix.filter(|_| uses_prompt).and_then(|it| fim_prompts::build(model, prompt, it));
    own.map_or((Cow::Borrowed(prompt), suffix), |own| (Cow::Owned(own), None))
}

/// The request for a raw prompt, or for one with a suffix.
fn build_completion<'a>(
    request: &'a GenerateRequest<'a>,
    (model, prompt, suffix): (&'a str, Cow<'a, str>, Option<&'a str>),
    (options, mut sampling): (&options::Options, Map<String, Value>),
    response_format: Option<openai::ResponseFormat<'a>>,
    logprobs: Option<usize>,
    (profile, fim): (&Profile, FimEndpoint),
) -> UpstreamRequest<'a> {
    let stream = request.stream.unwrap_or(true);
    sampling.extend(options::keep_alive_to_ttl(request.keep_alive.as_ref(), profile));
    if let Some(top) = logprobs {
        // `completions` has one parameter: the number, at most 5 (OpenAI API reference).
        sampling.insert("logprobs".into(), top.clamp(1, 5).into());
    }
    let effects = options.stop_effects(profile);
    // A stream can be ended at a stop string.
    let stream = stream || !(effects.sent_stop || effects.watched_stop.is_empty());
    let completion = openai::CompletionRequest {
        model,
        prompt,
        suffix,
        stream,
        stream_options: StreamOptions::for_stream(stream),
        sampling,
        response_format,
        effects,
    };
    // These endpoints get neither the default limit nor log probabilities.
    let sampling = || options.for_chat(profile);
    match fim {
        FimEndpoint::MistralFim if suffix.is_some() => {
            UpstreamRequest::Fim(infill::to_fim(completion, sampling()))
        }
        FimEndpoint::LlamaCppInfill if suffix.is_some() => {
            UpstreamRequest::Infill(infill::to_infill(completion, sampling(), profile))
        }
        _ => UpstreamRequest::Completion(completion),
    }
}

/// The conversation with the prompt at its end. It begins with the turns in `context`, or else with
/// the `stored` messages; a system prompt replaces the one in `context`.
fn build_messages<'a>(
    request: &'a GenerateRequest<'a>,
    stored: &'a [OllamaMessage<'a>],
) -> Result<Vec<Message<'a>>> {
    let list: Vec<i64> = request.context.iter().flatten().map(|number| number.0).collect();
    let mut turns: Vec<Message<'a>> = context_codec::decode(&list);
    let system = non_empty(request.system.as_deref());
    if system.is_some() {
        turns.retain(|turn| turn.role != "system");
    }
    if list.is_empty() {
        turns = history::to_openai(stored)?;
    }
    if let Some(system) = system {
        turns.insert(0, Message::text("system", system));
    }
    let prompt = request.prompt.as_deref().unwrap_or_default();
    turns.push(Message::text("user", prompt));
    Ok(turns)
}

/// The conversation that the response's `context` continues; `None` if Ollama sends no `context`.
///
/// # Errors
/// As [`to_openai`], which is called first.
pub fn build_conversation(
    request: &GenerateRequest<'_>,
    stored: &[OllamaMessage<'_>],
) -> Result<Option<Conversation>> {
    if is_raw(request) || has_suffix(request) {
        return Ok(None);
    }
    build_messages(request, stored).map(|turns| Some(Conversation::from_messages(&turns)))
}

/// Writes the objects of `/api/generate`.
#[derive(Debug)]
pub struct GenerateEncoder<'a> {
    model: &'a str,
    conversation: Option<Conversation>,
    answer: String,
}

impl<'a> GenerateEncoder<'a> {
    /// An encoder for one response. `model` is the name as the client sent it, `conversation` the
    /// result of [`build_conversation`].
    pub fn new(model: &'a str, conversation: Option<Conversation>) -> Self {
        Self { model, conversation, answer: String::new() }
    }

    /// Appends the response to a request without a prompt, which loads or unloads the model.
    pub fn encode_empty(&self, out: &mut Vec<u8>, created_at: &str, done_reason: &str) {
        let (nothing, reason) = (Delta::default(), Some(done_reason));
        ndjson::append(out, &build_object(self.model, created_at, &nothing, reason, None, &[]));
    }

    /// The list for the conversation with the response at its end.
    fn encode_context(&mut self, rest: &str) -> Vec<i32> {
        let Some(mut conversation) = self.conversation.take() else { return Vec::new() };
        self.answer.push_str(rest);
        conversation.push(&Message::text("assistant", self.answer.as_str()));
        conversation.encode()
    }
}

impl Encoder for GenerateEncoder<'_> {
    fn encode_delta(&mut self, out: &mut Vec<u8>, created_at: &str, delta: &Delta<'_>) {
        if self.conversation.is_some() {
            self.answer.push_str(&delta.content);
        }
        match delta.only_content() {
            Some(content) => text_line::append_generate(out, self.model, created_at, content),
            None => {
                let object = build_object(self.model, created_at, delta, None, None, &[]);
                ndjson::append_line(out, &object);
            }
        }
    }

    fn encode_final(
        &mut self,
        out: &mut Vec<u8>,
        created_at: &str,
        rest: &Delta<'_>,
        outcome: &Completion,
    ) {
        let context = self.encode_context(&rest.content);
        let (reason, metrics) = (Some(outcome.done_reason), Some(outcome.metrics));
        ndjson::append(out, &build_object(self.model, created_at, rest, reason, metrics, &context));
    }
}

fn build_object<'a>(
    model: &'a str,
    created_at: &'a str,
    delta: &'a Delta<'_>,
    done_reason: Option<&'a str>,
    metrics: Option<Metrics>,
    context: &'a [i32],
) -> GenerateResponse<'a> {
    GenerateResponse {
        model,
        created_at,
        response: &delta.content,
        thinking: &delta.thinking,
        done: done_reason.is_some(),
        done_reason,
        context,
        metrics,
        logprobs: &delta.logprobs,
    }
}

/// True for a request to fill in the middle.
pub fn has_suffix(request: &GenerateRequest<'_>) -> bool {
    non_empty(request.suffix.as_deref()).is_some()
}

fn is_raw(request: &GenerateRequest<'_>) -> bool {
    request.raw == Some(true)
}

/// Refuses members that a raw prompt excludes. Ollama checks them before the model's capabilities.
///
/// # Errors
/// [`Error::InvalidRequest`].
pub fn check_raw(request: &GenerateRequest<'_>) -> Result<()> {
    let conflict = non_empty(request.template.as_deref()).is_some()
        || non_empty(request.system.as_deref()).is_some()
        || request.context.as_ref().is_some_and(|context| !context.is_empty());
    if is_raw(request) && conflict {
        return Err(Error::invalid_request(
            "raw mode does not support template, system, or context",
        ));
    }
    Ok(())
}

fn check_template(request: &GenerateRequest<'_>) -> Result<()> {
    let template = non_empty(request.template.as_deref()).unwrap_or_default();
    template::check(template).map_err(Error::InvalidOption)
}
