//! Translates an upstream's response, event by event, to what a client is shown of it.
//!
//! [`ResponseTranslator`] takes each event with the time of its arrival and returns what the event
//! adds. It writes nothing: an [`Encoder`] turns the result into the objects of a route. Invariant:
//! the added texts, concatenated, are the upstream's texts; and [`ResponseTranslator::finish`]
//! succeeds only if the upstream said that its response is complete (a `finish_reason` or `[DONE]`).
//!
//! Reasoning is the answer, and is returned as text at the end, where a response that ended with
//! `stop` has neither text nor calls, and the client wanted no reasoning or asked for a format and the
//! reasoning is JSON. The same holds for text that was taken for reasoning
//! ([`ThinkTagSplitter::take_unconfirmed`]).

mod calls;
mod delta;
mod finish_reason;
mod reasoning;
mod text_filter;

use std::borrow::Cow;
use std::time::Duration;

use serde_json::value::RawValue;

pub use self::delta::Delta;
use self::finish_reason::FinishReason;
use self::reasoning::KeptReasoning;
use self::text_filter::TextFilter;
use crate::api::ollama::response::Metrics;
use crate::api::openai::chunk::{Choice, Chunk, ReasoningField, ToolCallDelta};
use crate::api::openai::chunk_template::{ChunkTemplate, TextDelta};
use crate::api::openai::request::ResponseEffects;
use crate::api::wire::sse::Event;
use crate::backends::errors;
use crate::error::{Error, Result};
use crate::observe::redact::Redactor;
use crate::translate::answer_extras::AnswerExtras;
use crate::translate::logprobs;
use crate::translate::response_metrics::{self, Timeline, UpstreamStats};
use crate::translate::stop_filter::StopFilter;
use crate::translate::think::ThinkMode;
use crate::translate::think_tags::{SplitText, ThinkTagSplitter};
use crate::translate::tool_calls::ToolCallAssembler;

/// The parts of a request that shape its response.
#[derive(Clone, Debug, Default)]
pub struct ResponseOptions<'a> {
    /// Whether reasoning is shown.
    pub think: ThinkMode<'static>,
    /// The number of alternatives for each token; `None` without log probabilities.
    pub logprobs: Option<usize>,
    /// Differs from response to response: the request's id.
    pub id_seed: &'a str,
    /// The model as the client named it, if errors are to name it.
    pub model: Option<&'a str>,
    /// What is done to the response because of changes to the request: usually nothing.
    pub effects: ResponseEffects,
    /// Whether the client asked for a format, which is JSON.
    pub wants_json: bool,
    /// Whether an earlier response of the model had a closing tag without an opening one.
    pub begins_in_thinking: bool,
}

/// How a response ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Completion {
    /// Ollama's `done_reason`: `stop` or `length`.
    pub done_reason: &'static str,
    /// True if the token limit cut off a call, which was left out.
    pub has_cut_off_call: bool,
    /// True if the upstream refused: by a filter, or with a text of its own, which is among the texts.
    pub is_refusal: bool,
    /// The counters.
    pub metrics: Metrics,
}

/// Writes deltas and completions as the objects of one route.
pub trait Encoder {
    /// True if it writes server-sent events, with the blank lines that end them, instead of lines.
    const IS_SSE: bool = false;

    /// True if the end of a stream repeats all of it.
    const KEEPS_ANSWER: bool = false;

    /// Appends what a stream begins with, as soon as the upstream has accepted the request.
    fn encode_start(&mut self, _out: &mut Vec<u8>, _created_at: &str) {}

    /// Appends what shows the client of a silent stream that it is alive; nothing where the protocol has
    /// no such event.
    fn encode_keepalive(&mut self, _out: &mut Vec<u8>) {}

    /// Appends the events that end a stream which fails; returns false where the error format of the
    /// route says all.
    fn encode_failure(&mut self, _out: &mut Vec<u8>, _created_at: &str, _error: &Error) -> bool {
        false
    }

    /// Whether the route can send the response that ends with `rest`.
    ///
    /// # Errors
    /// What the client is told instead.
    fn check_complete(&self, _rest: &Delta<'_>) -> Result<()> {
        Ok(())
    }

    /// Appends the line, or the events, for a delta.
    fn encode_delta(&mut self, out: &mut Vec<u8>, created_at: &str, delta: &Delta<'_>);

    /// Appends the final object, without a newline, or the last events. `rest` is what no line has
    /// carried yet: everything for a whole response, nothing at the end of a stream.
    fn encode_final(
        &mut self,
        out: &mut Vec<u8>,
        created_at: &str,
        rest: &Delta<'_>,
        outcome: &Completion,
    );

    /// Takes a piece of a response that comes as a stream and goes out whole; for routes whose answers show
    /// the order of texts and calls.
    fn collect(&mut self, _piece: &Delta<'_>) {}

    /// Appends the object of a response that is not streamed, if it differs from the last one of a
    /// stream. `rest` is all of the response.
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

/// The state of one response.
#[derive(Debug)]
pub struct ResponseTranslator<'r> {
    redactor: &'r Redactor,
    options: ResponseOptions<'r>,
    chunk_template: ChunkTemplate,
    stop_filter: Option<StopFilter>,
    text_filter: Option<TextFilter>,
    /// Chunks of text or reasoning so far, each about a token, where a limit is applied here.
    shown_chunks: u64,
    is_cut_off: bool,
    tool_calls: ToolCallAssembler,
    extras: AnswerExtras,
    think_tags: ThinkTagSplitter,
    /// Until a text comes; `None` where reasoning is never the answer.
    kept_reasoning: Option<KeptReasoning>,
    has_answer_in_reasoning: bool,
    reasoning_field: Option<ReasoningField>,
    stats: UpstreamStats,
    timeline: Timeline,
    finish_reason: Option<FinishReason>,
    done: bool,
    chunk_count: usize,
    has_cut_off_call: bool,
    has_refusal: bool,
    /// True if the last event added text behind calls that are whole and were not shown yet.
    has_text_behind_calls: bool,
}

impl<'r> ResponseTranslator<'r> {
    /// A new response. The redactor cleans errors that the upstream sends within it.
    pub fn new(mut options: ResponseOptions<'r>, redactor: &'r Redactor) -> Self {
        let stop = std::mem::take(&mut options.effects.watched_stop);
        let effects = &options.effects;
        let fence = effects.strips_fence.then(TextFilter::fence);
        let text_filter = effects.unwraps_value.then(TextFilter::value).or(fence);
        Self {
            redactor,
            chunk_template: ChunkTemplate::default(),
            stop_filter: (!stop.is_empty()).then(|| match effects.sent_stop {
                true => StopFilter::at_end(stop),
                false => StopFilter::new(stop),
            }),
            text_filter,
            shown_chunks: 0,
            is_cut_off: false,
            tool_calls: ToolCallAssembler::new(options.id_seed),
            think_tags: ThinkTagSplitter::new(options.begins_in_thinking),
            kept_reasoning: KeptReasoning::new(options.think, options.wants_json),
            has_answer_in_reasoning: false,
            reasoning_field: None,
            extras: AnswerExtras::default(),
            options,
            stats: UpstreamStats::default(),
            timeline: Timeline::default(),
            finish_reason: None,
            done: false,
            chunk_count: 0,
            has_cut_off_call: false,
            has_refusal: false,
            has_text_behind_calls: false,
        }
    }

    /// Takes an event that arrived at `now`, measured from the arrival of the request. Returns
    /// `None` if the client is shown nothing of it; skips an event that is not valid JSON.
    ///
    /// # Errors
    /// [`Error::UpstreamInBand`] for an error in place of a chunk, or the error that it means for
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
        let delta = if let Some(added) = self.chunk_template.match_event(text) {
            self.on_text_chunk(added, now)?
        } else {
            match Chunk::parse(text) {
                Ok(chunk) => {
                    self.chunk_template.capture(text, &chunk);
                    self.on_chunk(chunk, text, now, false)?
                }
                // Gemini sends its errors as a list.
                Err(_) if errors::find_in_band_error(text).is_some() => {
                    return Err(self.in_band_error(text));
                }
                Err(error) => {
                    // The parser's own message may quote the response.
                    let column = error.column();
                    log::warn!(
                        "skipping an upstream event that is not valid JSON (error at column {column})"
                    );
                    return Ok(None);
                }
            }
        };
        Ok((!delta.is_empty()).then_some(delta))
    }

    /// Takes a whole response, the body for a request that is not streamed.
    ///
    /// # Errors
    /// [`Error::UpstreamProtocol`] for a body that is no response, [`Error::UpstreamInBand`] for an
    /// error.
    pub fn on_body<'a>(&mut self, body: &'a str) -> Result<Delta<'a>> {
        // `trim` leaves a byte-order mark, and some servers send blank lines while they work.
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
        (self.done, self.timeline) = (true, Timeline::default());
        delta.append(self.flush());
        if self.has_answer_in_reasoning {
            delta.thinking = Cow::Borrowed("");
        }
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
        let usage = chunk.usage.or(chunk.x_groq.and_then(|groq| groq.usage));
        self.stats.usage = usage.or(self.stats.usage.take());
        self.stats.timings = chunk.timings.or(self.stats.timings.take());
        self.stats.latencies = chunk.metrics.or(self.stats.latencies.take());
        let mut choices = chunk.choices.into_iter();
        let Some(choice) = choices.find(|choice| choice.index.unwrap_or(0) == 0) else {
            return Ok(Delta::default());
        };
        if let Some(reason) = &choice.finish_reason {
            self.finish_reason = FinishReason::parse(reason).or(self.finish_reason);
        }
        let is_blank = choice.finish_reason.as_ref().is_some_and(|reason| reason.is_empty());
        let (mut delta, has_begun, adds_calls) = self.extract_delta(choice, is_whole);
        if let Some(text) = self.options.effects.continued_text.as_deref().filter(|_| is_whole) {
            delta.remove_continued(text);
        }
        if has_begun || !delta.is_empty() {
            self.record_arrival(now);
        }
        // xAI ends a response that calls tools with an empty reason.
        if is_blank && self.tool_calls.has_calls() {
            self.finish_reason.get_or_insert(FinishReason::Stop);
        }
        self.filter_delta(delta, adds_calls)
    }

    /// Takes a chunk that adds nothing but this text.
    fn on_text_chunk<'a>(&mut self, added: TextDelta<'a>, now: Duration) -> Result<Delta<'a>> {
        self.chunk_count += 1;
        let (thinking, text) = if added.is_thinking { (added.text, "") } else { ("", added.text) };
        self.record_arrival(now);
        let (thinking, content) =
            self.split_thinking(Cow::Borrowed(thinking), Cow::Borrowed(text), false);
        self.filter_delta(Delta { thinking, content, ..Delta::default() }, false)
    }

    fn record_arrival(&mut self, now: Duration) {
        self.timeline.first_chunk.get_or_insert(now);
        self.timeline.last_chunk = Some(now);
    }

    /// Removes what the client is not shown. `adds_calls` tells of pieces of calls beside the texts.
    fn filter_delta<'a>(&mut self, mut delta: Delta<'a>, adds_calls: bool) -> Result<Delta<'a>> {
        if self.options.effects.token_limit.is_some() {
            self.apply_limit(&delta);
        }
        self.keep_reasoning(&delta);
        if self.options.think == ThinkMode::Off {
            delta.thinking = Cow::Borrowed("");
        }
        self.check_for_failure(&delta)?;
        self.apply_stop(&mut delta);
        // Servers write line breaks between calls that are no text of the model.
        let is_text = |text: &str| !text.trim().is_empty();
        self.has_text_behind_calls = !adds_calls
            && (is_text(&delta.content) || is_text(&delta.thinking))
            && self.tool_calls.are_whole();
        Ok(delta)
    }

    /// Ends the response at the first stop string. Text after it is dropped, and so is a call that
    /// is incomplete then.
    fn apply_stop(&mut self, delta: &mut Delta<'_>) {
        if let Some(filter) = &mut self.text_filter {
            delta.content = Cow::Owned(filter.push(&delta.content));
        }
        let Some(stop) = &mut self.stop_filter else { return };
        let (before, text) = (stop.pending_len(), std::mem::take(&mut delta.content));
        let shown = stop.push(&text);
        if stop.has_matched() {
            let hidden = text.len().min(before + text.len() - shown.len());
            logprobs::drop_hidden_tokens(&mut delta.logprobs, &text[text.len() - hidden..]);
            self.tool_calls.drop_incomplete();
            self.done = true;
        }
        delta.content = Cow::Owned(shown);
    }

    /// Ends the response where the limit is reached that the upstream did not take.
    fn apply_limit(&mut self, delta: &Delta<'_>) {
        self.shown_chunks += u64::from(!delta.content.is_empty() || !delta.thinking.is_empty());
        if Some(self.shown_chunks) >= self.options.effects.token_limit && !self.done {
            self.tool_calls.drop_incomplete();
            self.finish_reason = Some(FinishReason::Length);
            (self.done, self.is_cut_off) = (true, true);
        }
    }

    /// What a choice adds, whether it holds any part of the response, shown or not, and whether it holds
    /// pieces of calls.
    fn extract_delta<'a>(&mut self, choice: Choice<'a>, is_whole: bool) -> (Delta<'a>, bool, bool) {
        let mut message = choice.delta.or(choice.message).unwrap_or_default();
        self.extras.push_details(&message, is_whole);
        let fragments = std::mem::take(&mut message.tool_calls);
        // Some servers send the same call in both forms.
        let legacy = message.function_call.take().filter(|_| fragments.is_empty());
        let legacy = legacy
            .map(|function| ToolCallDelta { function: Some(function), ..ToolCallDelta::default() });
        let mut adds_calls = false;
        for (place, mut fragment) in fragments.into_iter().chain(legacy).enumerate() {
            adds_calls = true;
            if is_whole {
                // Each entry of a whole message is a call of its own, whatever its index says.
                fragment.index = Some(place as u64);
            }
            self.tool_calls.push(fragment);
        }
        let texts = reasoning::extract_texts(message, choice.text);
        let (thinking, text, field) = (texts.thinking, texts.content, texts.field);
        self.has_refusal |= texts.is_refusal;
        self.reasoning_field = field.or(self.reasoning_field);
        let has_begun = adds_calls || !thinking.is_empty() || !text.is_empty();
        let logprobs = match (self.options.logprobs, choice.logprobs) {
            (Some(top), Some(mut given)) => {
                given.top_logprobs.extend(choice.top_logprobs.map(Some));
                logprobs::to_ollama(given, top, if text.is_empty() { &thinking } else { &text })
            }
            _ => Vec::new(),
        };
        let (thinking, content) = self.split_thinking(thinking, text, is_whole);
        (Delta { thinking, content, logprobs, calls: Vec::new() }, has_begun, adds_calls)
    }

    /// The rest at the end of a complete response: text that was held back, then calls.
    pub fn flush(&mut self) -> Delta<'static> {
        let SplitText { thinking, content } = self.think_tags.finish();
        let rest = Delta { thinking: thinking.into(), content: content.into(), ..Delta::default() };
        self.keep_reasoning(&rest);
        let calls = if self.is_complete() { self.take_calls() } else { Vec::new() };
        let Delta { mut thinking, mut content, .. } = rest;
        if let Some(answer) = self.take_answer_from_reasoning() {
            content.to_mut().push_str(&answer);
            self.has_answer_in_reasoning = true;
        }
        if let Some(filter) = &mut self.text_filter {
            content = Cow::Owned(filter.push(&content) + &filter.finish());
        }
        if let Some(stop) = &mut self.stop_filter {
            content = Cow::Owned(stop.push(&content) + &stop.finish());
        }
        if self.options.think == ThinkMode::Off {
            thinking = Cow::Borrowed("");
        }
        Delta { thinking, content, calls, logprobs: Vec::new() }
    }

    /// Finds an error within a response of status 200.
    fn check_for_error(&self, chunk: &Chunk<'_>, text: &str) -> Result<()> {
        let is_error = |error: &&RawValue| errors::is_error_value(error);
        // Members beside `error` may tell its kind, so the whole text is analysed.
        if chunk.error.as_ref().is_some_and(is_error) || chunk.object.as_deref() == Some("error") {
            return Err(self.in_band_error(text));
        }
        let groq = chunk.x_groq.as_ref().and_then(|groq| groq.error);
        groq.filter(is_error).map_or(Ok(()), |error| Err(self.in_band_error(error.get())))
    }

    /// Finds a failure that the server tells in `finish_reason` only. If text came before it, that
    /// text is the response.
    fn check_for_failure(&self, delta: &Delta<'_>) -> Result<()> {
        let failure = |status, message: &str| Error::upstream_in_band(status, message);
        let is_empty = delta.is_empty() && self.timeline.first_chunk.is_none();
        match self.finish_reason {
            Some(FinishReason::Exhausted) => Err(failure(503, "the upstream ran out of resources")),
            Some(FinishReason::Failed) if is_empty => {
                Err(failure(502, "the upstream failed to answer"))
            }
            _ => Ok(()),
        }
    }

    fn in_band_error(&self, error: &str) -> Error {
        errors::to_in_band_error(error, self.options.model, self.redactor)
    }

    /// What the upstream may want back with the calls so far, shown to the client or not.
    pub fn extras(&self) -> &AnswerExtras {
        &self.extras
    }

    /// True if nothing more is to be read: the terminal event came, or a stop string matched.
    pub fn is_done(&self) -> bool {
        self.done
    }

    /// True if a stop string ended the response here: the upstream may still be generating, so the
    /// call to it must end.
    pub fn is_stopped(&self) -> bool {
        self.is_cut_off || self.stop_filter.as_ref().is_some_and(StopFilter::has_matched)
    }

    /// True if the response is complete, though its terminal event may be missing.
    pub fn is_complete(&self) -> bool {
        self.done || self.finish_reason.is_some()
    }

    /// Ends the response at `end`; at `sent` the upstream had received the request.
    ///
    /// # Errors
    /// [`Error::IncompleteStream`] if the response broke off, [`Error::UpstreamProtocol`] if there
    /// was none.
    pub fn finish(&self, sent: Duration, end: Duration) -> Result<Completion> {
        if self.chunk_count == 0 {
            return Err(Error::upstream_protocol("an empty stream"));
        }
        if !self.is_complete() {
            return Err(Error::IncompleteStream);
        }
        let metrics =
            response_metrics::compute(&self.stats, &Timeline { sent, end, ..self.timeline });
        let is_long = self.finish_reason == Some(FinishReason::Length)
            && (self.is_cut_off || !self.is_stopped());
        Ok(Completion {
            done_reason: if is_long { "length" } else { "stop" },
            has_cut_off_call: self.has_cut_off_call,
            is_refusal: self.has_refusal || self.finish_reason == Some(FinishReason::Filtered),
            metrics,
        })
    }
}

/// The error for a body that is not a JSON object.
fn not_json_error(text: &str) -> Error {
    Error::upstream_protocol(match text.chars().next() {
        None => "the body is empty",
        Some('<') => "an HTML page instead of JSON (is the base URL right?)",
        Some(_) => "the body is not a JSON object",
    })
}

#[cfg(test)]
mod tests;
