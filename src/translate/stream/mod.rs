//! An upstream's answer, event by event, to what a client is shown of it.
//!
//! [`ResponseTranslator`] is told each event and the time it came, and gives back what the event adds. It
//! writes nothing, so a test is a list in and a list out. Invariant: the added texts, put together,
//! are the upstream's texts put together; and [`ResponseTranslator::finish`] succeeds only when the
//! terminal event was seen (openai-wire.md 4.4, 4.8).

mod delta;

use std::borrow::Cow;
use std::time::Duration;

use serde_json::value::RawValue;

pub use self::delta::Delta;
use crate::api::ollama::response::Metrics;
use crate::api::openai::chunk::{
    Choice, Chunk, Content, Message, Timings, ToolCallDelta, Usage, VllmMetrics,
};
use crate::api::openai::chunk_template::{ChunkTemplate, TextDelta};
use crate::api::wire::sse::Event;
use crate::backends::errors;
use crate::error::{Error, Result};
use crate::observe::redact::Redactor;
use crate::translate::logprobs;
use crate::translate::response_metrics;
use crate::translate::response_metrics::{Timeline, UpstreamStats};
use crate::translate::stop_filter::StopFilter;
use crate::translate::think::ThinkMode;
use crate::translate::think_tags::{self, SplitText, ThinkTagSplitter};
use crate::translate::tool_calls::ToolCallAssembler;

/// What the client asked for that shapes its answer.
#[derive(Clone, Debug)]
pub struct ResponseOptions<'a> {
    /// Whether reasoning is shown.
    pub think: ThinkMode,
    /// How many alternatives each token has; `None` without log probabilities.
    pub logprobs: Option<usize>,
    /// What differs from answer to answer: the request's id.
    pub id_seed: &'a str,
    /// The model as the client named it, where errors are to name it.
    pub model: Option<&'a str>,
    /// Strings that end the text here, because the upstream refused the parameter: usually none.
    pub stop: Vec<String>,
}

/// How an answer ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Completion {
    /// Ollama's `done_reason`: `stop` or `length`.
    pub done_reason: &'static str,
    /// The counters.
    pub metrics: Metrics,
}

/// Turns deltas and outcomes into the objects of one route.
pub trait Encoder {
    /// Whether it writes server-sent events, which bring their ends along, in place of lines.
    const IS_SSE: bool = false;

    /// Appends the line, or the events, for a delta.
    fn encode_delta(&mut self, out: &mut Vec<u8>, created_at: &str, delta: &Delta<'_>);

    /// Appends the final object, without a newline, or the last events. `rest` is text that no line has carried yet: all
    /// of it for a whole answer, none at the end of a stream.
    fn encode_final(
        &mut self,
        out: &mut Vec<u8>,
        created_at: &str,
        rest: &Delta<'_>,
        outcome: &Completion,
    );

    /// Appends the one object of an answer that is no stream, where that is another one than ends a
    /// stream.
    fn encode_whole(
        &mut self,
        out: &mut Vec<u8>,
        created_at: &str,
        rest: &Delta<'_>,
        outcome: &Completion,
    ) {
        self.encode_final(out, created_at, rest, outcome);
    }
}

/// The state of one answer.
#[derive(Debug)]
pub struct ResponseTranslator<'r> {
    redactor: &'r Redactor,
    model: Option<&'r str>,
    think: ThinkMode,
    logprobs: Option<usize>,
    chunk_template: ChunkTemplate,
    stop_filter: Option<StopFilter>,
    tool_calls: ToolCallAssembler,
    think_tags: ThinkTagSplitter,
    usage: Option<Usage>,
    timings: Option<Timings>,
    latencies: Option<VllmMetrics>,
    finish_reason: Option<FinishReason>,
    done: bool,
    chunk_count: usize,
    first_at: Option<Duration>,
    last_at: Option<Duration>,
}

/// What a `finish_reason` means (openai-wire.md 4.8).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum FinishReason {
    Stop,
    Length,
    Failed,
    Exhausted,
}

impl<'r> ResponseTranslator<'r> {
    /// A fresh answer. The redactor cleans errors that come inside it.
    #[must_use]
    pub fn new(options: ResponseOptions<'r>, redactor: &'r Redactor) -> Self {
        Self {
            redactor,
            model: options.model,
            think: options.think,
            logprobs: options.logprobs,
            chunk_template: ChunkTemplate::default(),
            stop_filter: (!options.stop.is_empty()).then(|| StopFilter::new(options.stop)),
            tool_calls: ToolCallAssembler::new(options.id_seed),
            think_tags: ThinkTagSplitter::default(),
            usage: None,
            timings: None,
            latencies: None,
            finish_reason: None,
            done: false,
            chunk_count: 0,
            first_at: None,
            last_at: None,
        }
    }

    /// Takes an event that came at `now`, measured from the start of the request. Events that add
    /// nothing to show give `None`; one that cannot be read is skipped.
    ///
    /// # Errors
    /// [`Error::UpstreamInBand`] for an error that came in place of an answer, or what it means for
    /// the client ([`errors::to_in_band_error`]).
    pub fn on_event<'a>(&mut self, event: Event<'a>, now: Duration) -> Result<Option<Delta<'a>>> {
        let data = match event {
            Event::Data(data) => data,
            Event::Error(data) => return Err(self.in_band_error(&String::from_utf8_lossy(data))),
        };
        match str::from_utf8(data) {
            Ok(text) => self.on_data(text, now),
            Err(_) => {
                let text = String::from_utf8_lossy(data);
                Ok(self.on_data(&text, now)?.map(Delta::into_owned))
            }
        }
    }

    fn on_data<'a>(&mut self, text: &'a str, now: Duration) -> Result<Option<Delta<'a>>> {
        let text = text.trim();
        if text.starts_with("[DONE]") {
            self.done = true;
        }
        if self.done || text.is_empty() {
            return Ok(None);
        }
        if let Some(added) = self.chunk_template.match_event(text) {
            let delta = self.on_text_chunk(added, now)?;
            return Ok((!delta.is_empty()).then_some(delta));
        }
        match Chunk::parse(text) {
            Ok(chunk) => {
                self.chunk_template.capture(text, &chunk);
                let delta = self.on_chunk(chunk, text, now, false)?;
                Ok((!delta.is_empty()).then_some(delta))
            }
            // Gemini puts its errors into a list.
            Err(_) if errors::find_in_band_error(text).is_some() => Err(self.in_band_error(text)),
            Err(error) => {
                // The error's own words may be those of the answer.
                let (what, column) = (error.classify(), error.column());
                log::warn!(
                    "an event of the upstream cannot be read, and is skipped: {what:?} at {column}"
                );
                Ok(None)
            }
        }
    }

    /// Takes a whole answer, the body of a request that was not to be streamed.
    ///
    /// # Errors
    /// [`Error::UpstreamProtocol`] when it is no answer, [`Error::UpstreamInBand`] when it is an
    /// error.
    pub fn on_body<'a>(&mut self, body: &'a str) -> Result<Delta<'a>> {
        // A byte-order mark is no white space; blank lines may come first (openai-wire.md 4.1).
        let text = body.trim_start_matches('\u{feff}').trim();
        let chunk = Chunk::parse(text).map_err(|_| match errors::find_in_band_error(text) {
            Some(_) => self.in_band_error(text),
            None => not_json_error(text),
        })?;
        let has_choice = !chunk.choices.is_empty();
        let mut delta = self.on_chunk(chunk, text, Duration::ZERO, true)?;
        if !has_choice {
            return Err(Error::upstream_protocol("an answer without choices"));
        }
        (self.done, self.first_at, self.last_at) = (true, None, None);
        delta.append(self.flush()?);
        Ok(delta)
    }

    fn on_chunk<'a>(
        &mut self,
        chunk: Chunk<'a>,
        text: &str,
        now: Duration,
        is_whole: bool,
    ) -> Result<Delta<'a>> {
        self.check_for_error(&chunk, text)?;
        self.chunk_count += 1;
        let groq = chunk.x_groq.and_then(|groq| groq.usage);
        if let Some(usage) = chunk.usage.or(groq) {
            self.usage = Some(usage);
        }
        self.timings = chunk.timings.or(self.timings.take());
        self.latencies = chunk.metrics.or(self.latencies.take());
        let mut choices = chunk.choices.into_iter();
        let Some(choice) = choices.find(|choice| choice.index.unwrap_or(0) == 0) else {
            return Ok(Delta::default());
        };
        if let Some(reason) = &choice.finish_reason {
            self.finish_reason = parse_finish_reason(reason).or(self.finish_reason);
        }
        let blank = choice.finish_reason.as_ref().is_some_and(|reason| reason.is_empty());
        let (delta, began) = self.extract_delta(choice, is_whole);
        if began || !delta.is_empty() {
            self.first_at.get_or_insert(now);
            self.last_at = Some(now);
        }
        // xAI ends an answer that calls tools with an empty reason.
        if blank && self.tool_calls.has_calls() {
            self.finish_reason.get_or_insert(FinishReason::Stop);
        }
        self.filter_delta(delta)
    }

    /// A chunk that adds only this text.
    fn on_text_chunk<'a>(&mut self, added: TextDelta<'a>, now: Duration) -> Result<Delta<'a>> {
        self.chunk_count += 1;
        let (thinking, text) = match added {
            TextDelta::Content(text) => ("", text),
            TextDelta::Thinking(text) => (text, ""),
        };
        self.first_at.get_or_insert(now);
        self.last_at = Some(now);
        let (thinking, content) =
            self.split_thinking(Cow::Borrowed(thinking), Cow::Borrowed(text), false);
        self.filter_delta(Delta { thinking, content, ..Delta::default() })
    }

    /// What the client is shown of it.
    fn filter_delta<'a>(&mut self, mut delta: Delta<'a>) -> Result<Delta<'a>> {
        if self.think == ThinkMode::Off {
            delta.thinking = Cow::Borrowed("");
        }
        self.check_for_failure(&delta)?;
        self.apply_stop(&mut delta);
        Ok(delta)
    }

    /// Ends the answer at the first stop string. Nothing behind it is shown, nor a call that it
    /// left unfinished.
    fn apply_stop(&mut self, delta: &mut Delta<'_>) {
        let Some(stop) = &mut self.stop_filter else { return };
        let (before, text) = (stop.pending_len(), std::mem::take(&mut delta.content));
        let shown = stop.push(&text);
        if stop.has_matched() {
            let unseen = text.len().min(before + text.len() - shown.len());
            logprobs::drop_hidden_tokens(&mut delta.logprobs, &text[text.len() - unseen..]);
            self.tool_calls.drop_incomplete();
            self.done = true;
        }
        delta.content = Cow::Owned(shown);
    }

    /// What a choice adds, and whether anything of the answer came with it, shown or not.
    fn extract_delta<'a>(&mut self, choice: Choice<'a>, is_whole: bool) -> (Delta<'a>, bool) {
        let mut message = choice.delta.or(choice.message).unwrap_or_default();
        let fragments = std::mem::take(&mut message.tool_calls);
        // Some servers send the same call in both forms.
        let legacy = message.function_call.take().filter(|_| fragments.is_empty());
        let legacy = legacy
            .map(|function| ToolCallDelta { function: Some(function), ..ToolCallDelta::default() });
        let mut began = false;
        for (place, mut fragment) in fragments.into_iter().chain(legacy).enumerate() {
            began = true;
            if is_whole {
                // Each entry of a whole message is a call of its own, whatever it is numbered.
                fragment.index = Some(place as u64);
            }
            self.tool_calls.push(fragment);
        }
        let (thinking, text) = extract_texts(message, choice.text);
        began |= !thinking.is_empty() || !text.is_empty();
        let logprobs = match (self.logprobs, choice.logprobs) {
            (Some(top), Some(mut given)) => {
                given.top_logprobs.extend(choice.top_logprobs.map(Some));
                logprobs::to_ollama(given, top, if text.is_empty() { &thinking } else { &text })
            }
            _ => Vec::new(),
        };
        let (thinking, content) = self.split_thinking(thinking, text, is_whole);
        (Delta { thinking, content, logprobs, calls: Vec::new() }, began)
    }

    /// Splits reasoning off the text, unless the server sends it apart.
    fn split_thinking<'a>(
        &mut self,
        thinking: Cow<'a, str>,
        text: Cow<'a, str>,
        is_whole: bool,
    ) -> (Cow<'a, str>, Cow<'a, str>) {
        if !thinking.is_empty() && !self.think_tags.is_pass_through() {
            let held = self.think_tags.disable();
            return (thinking, Cow::Owned(held + &text));
        }
        if text.is_empty() || self.think_tags.is_pass_through() {
            return (thinking, text);
        }
        let split =
            if is_whole { think_tags::split_whole(&text) } else { self.think_tags.push(&text) };
        if split.thinking.is_empty() && split.content.len() == text.len() {
            return (thinking, text);
        }
        (Cow::Owned(split.thinking), Cow::Owned(split.content))
    }

    /// Calls that have become whole, to be shown in a line of their own.
    ///
    /// # Errors
    /// [`Error::UpstreamProtocol`] when a call's arguments are no object.
    pub fn take_complete_calls(&mut self) -> Result<Option<Delta<'static>>> {
        let calls = self.tool_calls.take_complete(self.is_complete())?;
        Ok((!calls.is_empty()).then(|| Delta { calls, ..Delta::default() }))
    }

    /// What is left at the end of a complete answer: text that was held back, then calls.
    ///
    /// # Errors
    /// [`Error::UpstreamProtocol`] when a call's arguments are no object.
    pub fn flush(&mut self) -> Result<Delta<'static>> {
        let SplitText { thinking, mut content } = self.think_tags.finish();
        if let Some(stop) = &mut self.stop_filter {
            content = stop.push(&content) + &stop.finish();
        }
        let calls =
            if self.is_complete() { self.tool_calls.take_complete(true)? } else { Vec::new() };
        let thinking = if self.think == ThinkMode::Off { String::new() } else { thinking };
        let (thinking, content) = (Cow::Owned(thinking), Cow::Owned(content));
        Ok(Delta { thinking, content, calls, logprobs: Vec::new() })
    }

    /// An error may come inside a success, in several shapes (openai-wire.md 4.7).
    fn check_for_error(&self, chunk: &Chunk<'_>, text: &str) -> Result<()> {
        let said = |error: &&RawValue| errors::is_error_value(error);
        // Beside the error there may be what tells its kind.
        if chunk.error.as_ref().is_some_and(said) || chunk.object.as_deref() == Some("error") {
            return Err(self.in_band_error(text));
        }
        let groq = chunk.x_groq.as_ref().and_then(|groq| groq.error);
        groq.filter(said).map_or(Ok(()), |error| Err(self.in_band_error(error.get())))
    }

    /// Some servers say only in `finish_reason` that they failed. Where text came before, that text
    /// is an answer.
    fn check_for_failure(&self, delta: &Delta<'_>) -> Result<()> {
        let failure =
            |status, message: &str| Error::UpstreamInBand { status, message: message.into() };
        match self.finish_reason {
            Some(FinishReason::Exhausted) => Err(failure(503, "the upstream ran out of resources")),
            Some(FinishReason::Failed) if delta.is_empty() && self.first_at.is_none() => {
                Err(failure(502, "the upstream failed to answer"))
            }
            _ => Ok(()),
        }
    }

    fn in_band_error(&self, error: &str) -> Error {
        errors::to_in_band_error(error, self.model, self.redactor)
    }

    /// Whether the terminal event came, so that nothing more is worth waiting for.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.done
    }

    /// Whether a stop string ended the answer here: the upstream may still be writing, and its call
    /// should end.
    #[must_use]
    pub fn is_stopped(&self) -> bool {
        self.stop_filter.as_ref().is_some_and(StopFilter::has_matched)
    }

    /// Whether the answer is complete, though its terminal event may be missing.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.done || self.finish_reason.is_some()
    }

    /// Ends the answer at `end`; `sent` is when the upstream had the request.
    ///
    /// # Errors
    /// [`Error::IncompleteStream`] when the answer broke off, [`Error::UpstreamProtocol`] when there
    /// was none.
    pub fn finish(&self, sent: Duration, end: Duration) -> Result<Completion> {
        if self.chunk_count == 0 {
            return Err(Error::upstream_protocol("an empty stream"));
        }
        if !self.is_complete() {
            return Err(Error::IncompleteStream);
        }
        let timeline = Timeline { sent, first_chunk: self.first_at, last_chunk: self.last_at, end };
        let stats = UpstreamStats {
            usage: self.usage.as_ref(),
            timings: self.timings.as_ref(),
            latencies: self.latencies.as_ref(),
        };
        let is_long = self.finish_reason == Some(FinishReason::Length) && !self.is_stopped();
        let done_reason = if is_long { "length" } else { "stop" };
        Ok(Completion { done_reason, metrics: response_metrics::compute(stats, &timeline) })
    }
}

/// `None` for the empty reason that some servers send while they go on.
fn parse_finish_reason(reason: &str) -> Option<FinishReason> {
    match reason {
        "" => None,
        "length" | "max_tokens" | "model_length" => Some(FinishReason::Length),
        "error" | "abort" => Some(FinishReason::Failed),
        "insufficient_system_resource" => Some(FinishReason::Exhausted),
        _ => Some(FinishReason::Stop),
    }
}

/// Reasoning, by the first of its names that holds text, and the text, or what the model said
/// instead of it.
fn extract_texts<'a>(
    message: Message<'a>,
    text: Option<Content<'a>>,
) -> (Cow<'a, str>, Cow<'a, str>) {
    let content = message.content.or(text).unwrap_or_default();
    let thinking = [message.reasoning_content, message.reasoning, message.reasoning_details]
        .into_iter()
        .flatten()
        .map(|Content { text, .. }| text)
        .find(|text| !text.is_empty())
        .unwrap_or(Cow::Owned(content.thinking));
    match message.refusal {
        Some(refusal) if content.text.is_empty() => (thinking, refusal.text),
        _ => (thinking, content.text),
    }
}

/// What a body that is no JSON object was.
fn not_json_error(text: &str) -> Error {
    Error::upstream_protocol(match text.chars().next() {
        None => "an empty answer",
        Some('<') => "HTML in place of an answer",
        Some(_) => "something that is no JSON object",
    })
}
