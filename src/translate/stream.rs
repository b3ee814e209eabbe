//! An upstream's answer, event by event, to what a client is shown of it.
//!
//! [`AnswerStream`] is told each event and the time it came, and gives back what the event adds. It
//! writes nothing, so a test is a list in and a list out. Invariant: the added texts, put together,
//! are the upstream's texts put together; and [`AnswerStream::finish`] succeeds only when the
//! terminal event was seen (openai-wire.md 4.4, 4.8).

use std::borrow::Cow;
use std::time::Duration;

use crate::error::{Error, Result};
use crate::ollama::answer::Metrics;
use crate::openai::answer::{Choice, Chunk, Content, Message, Timings, Usage};
use crate::redact::Redactor;
use crate::sse::Event;
use crate::translate::metrics::{self, Marks};
use crate::translate::think::Think;
use crate::upstream_error;

/// What one event adds to the answer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Delta<'a> {
    /// Reasoning.
    pub thinking: Cow<'a, str>,
    /// Text.
    pub content: Cow<'a, str>,
}

impl Delta<'_> {
    fn is_empty(&self) -> bool {
        self.thinking.is_empty() && self.content.is_empty()
    }

    fn into_owned(self) -> Delta<'static> {
        Delta {
            thinking: Cow::Owned(self.thinking.into_owned()),
            content: Cow::Owned(self.content.into_owned()),
        }
    }
}

/// How an answer ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// Ollama's `done_reason`: `stop` or `length`.
    pub done_reason: &'static str,
    /// The counters.
    pub metrics: Metrics,
}

/// Turns deltas and outcomes into the objects of one route.
pub trait Encoder {
    /// Appends the line for a delta.
    fn delta(&mut self, out: &mut Vec<u8>, created_at: &str, delta: &Delta<'_>);

    /// Appends the final object, without a newline. `rest` is text that no line has carried yet: all
    /// of it for a whole answer, none at the end of a stream.
    fn last(&mut self, out: &mut Vec<u8>, created_at: &str, rest: &Delta<'_>, outcome: &Outcome);
}

/// The state of one answer.
#[derive(Debug)]
pub struct AnswerStream<'r> {
    redactor: &'r Redactor,
    think: Think,
    usage: Option<Usage>,
    timings: Option<Timings>,
    finish: Option<Finish>,
    done: bool,
    understood: usize,
    first: Option<Duration>,
    last: Option<Duration>,
}

/// What a `finish_reason` means (openai-wire.md 4.8).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Finish {
    Stop,
    Length,
    Failed,
    Exhausted,
}

impl<'r> AnswerStream<'r> {
    /// A fresh answer. The redactor cleans errors that come inside it.
    #[must_use]
    pub fn new(think: Think, redactor: &'r Redactor) -> Self {
        Self {
            redactor,
            think,
            usage: None,
            timings: None,
            finish: None,
            done: false,
            understood: 0,
            first: None,
            last: None,
        }
    }

    /// Takes an event that came at `now`, measured from the start of the request. Events that add
    /// nothing to show give `None`; one that cannot be read is skipped.
    ///
    /// # Errors
    /// [`Error::UpstreamInBand`] for an error that came in place of an answer.
    pub fn on_event<'a>(&mut self, event: Event<'a>, now: Duration) -> Result<Option<Delta<'a>>> {
        let data = match event {
            Event::Data(data) => data,
            Event::Error(data) => return Err(self.in_band(&String::from_utf8_lossy(data))),
        };
        match String::from_utf8_lossy(data) {
            Cow::Borrowed(text) => self.on_text(text, now),
            Cow::Owned(text) => Ok(self.on_text(&text, now)?.map(Delta::into_owned)),
        }
    }

    fn on_text<'a>(&mut self, text: &'a str, now: Duration) -> Result<Option<Delta<'a>>> {
        let text = text.trim();
        if text.starts_with("[DONE]") {
            self.done = true;
        }
        if self.done || text.is_empty() {
            return Ok(None);
        }
        match Chunk::parse(text) {
            Ok(chunk) => {
                let delta = self.on_chunk(chunk, text, now)?;
                Ok((!delta.is_empty()).then_some(delta))
            }
            Err(error) => {
                log::warn!("an event of the upstream cannot be read, and is skipped: {error}");
                Ok(None)
            }
        }
    }

    /// Takes a whole answer, the body of a request that was not to be streamed.
    ///
    /// # Errors
    /// [`Error::UpstreamProtocol`] when it is no answer, [`Error::UpstreamInBand`] when it is an
    /// error.
    pub fn on_whole<'a>(&mut self, body: &'a str) -> Result<Delta<'a>> {
        // A byte-order mark is no white space; blank lines may come first (openai-wire.md 4.1).
        let text = body.trim_start_matches('\u{feff}').trim();
        let chunk = Chunk::parse(text).map_err(|_| not_an_answer(text))?;
        let has_choice = !chunk.choices.is_empty();
        let delta = self.on_chunk(chunk, text, Duration::ZERO)?;
        if !has_choice {
            return Err(Error::protocol("an answer without choices"));
        }
        (self.done, self.first, self.last) = (true, None, None);
        Ok(delta)
    }

    fn on_chunk<'a>(&mut self, chunk: Chunk<'a>, text: &str, now: Duration) -> Result<Delta<'a>> {
        self.refuse_errors(&chunk, text)?;
        self.understood += 1;
        let groq = chunk.x_groq.and_then(|groq| groq.usage);
        if let Some(usage) = chunk.usage.or(groq) {
            self.usage = Some(usage);
        }
        if chunk.timings.is_some() {
            self.timings = chunk.timings;
        }
        let mut choices = chunk.choices.into_iter();
        let Some(choice) = choices.find(|choice| choice.index.unwrap_or(0) == 0) else {
            return Ok(Delta::default());
        };
        if let Some(reason) = &choice.finish_reason {
            self.finish = finish(&reason.0).or(self.finish);
        }
        let mut delta = delta_of(choice);
        if !delta.is_empty() {
            self.first.get_or_insert(now);
            self.last = Some(now);
        }
        if self.think == Think::Off {
            delta.thinking = Cow::Borrowed("");
        }
        self.refuse_failures(&delta)?;
        Ok(delta)
    }

    /// An error may come inside a success, in several shapes (openai-wire.md 4.7).
    fn refuse_errors(&self, chunk: &Chunk<'_>, text: &str) -> Result<()> {
        let groq = chunk.x_groq.as_ref().and_then(|groq| groq.error);
        if let Some(error) = chunk.error.or(groq) {
            return Err(self.in_band(error.get()));
        }
        if chunk.object.as_deref() == Some("error") {
            return Err(self.in_band(text));
        }
        Ok(())
    }

    /// Some servers say only in `finish_reason` that they failed. Where text came before, that text
    /// is an answer.
    fn refuse_failures(&self, delta: &Delta<'_>) -> Result<()> {
        let failure =
            |status, message: &str| Error::UpstreamInBand { status, message: message.into() };
        match self.finish {
            Some(Finish::Exhausted) => Err(failure(503, "the upstream ran out of resources")),
            Some(Finish::Failed) if delta.is_empty() && self.first.is_none() => {
                Err(failure(502, "the upstream failed to answer"))
            }
            _ => Ok(()),
        }
    }

    fn in_band(&self, error: &str) -> Error {
        let (status, details) = upstream_error::in_band(error);
        let message = self.redactor.clean(&details.message).into_owned();
        Error::UpstreamInBand { status, message }
    }

    /// Whether the terminal event came, so that nothing more is worth waiting for.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.done
    }

    /// Whether the answer is complete, though its terminal event may be missing.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.done || self.finish.is_some()
    }

    /// Ends the answer at `end`; `sent` is when the upstream had the request.
    ///
    /// # Errors
    /// [`Error::UpstreamClosed`] when the answer broke off, [`Error::UpstreamProtocol`] when there
    /// was none.
    pub fn finish(&self, sent: Duration, end: Duration) -> Result<Outcome> {
        if self.understood == 0 {
            return Err(Error::protocol("an empty stream"));
        }
        if !self.is_complete() {
            return Err(Error::UpstreamClosed);
        }
        let marks = Marks { sent, first: self.first, last: self.last, end };
        Ok(Outcome {
            done_reason: if self.finish == Some(Finish::Length) { "length" } else { "stop" },
            metrics: metrics::metrics(self.usage.as_ref(), self.timings.as_ref(), &marks),
        })
    }
}

/// `None` for the empty reason that some servers send while they go on.
fn finish(reason: &str) -> Option<Finish> {
    match reason {
        "" => None,
        "length" | "max_tokens" | "model_length" => Some(Finish::Length),
        "error" | "abort" => Some(Finish::Failed),
        "insufficient_system_resource" => Some(Finish::Exhausted),
        _ => Some(Finish::Stop),
    }
}

/// What a choice adds: the first name of the reasoning that holds text, and the text, or what the
/// model said instead of it.
fn delta_of(choice: Choice<'_>) -> Delta<'_> {
    let Message { content, reasoning_content, reasoning, refusal } =
        choice.delta.or(choice.message).unwrap_or_default();
    let content = content.or(choice.text).unwrap_or_default();
    let thinking = [reasoning_content, reasoning]
        .into_iter()
        .flatten()
        .map(|Content { text, .. }| text)
        .find(|text| !text.is_empty())
        .unwrap_or(Cow::Owned(content.thinking));
    let text = match refusal {
        Some(refusal) if content.text.is_empty() => refusal.text,
        _ => content.text,
    };
    Delta { thinking, content: text }
}

/// What a body that is no JSON object was.
fn not_an_answer(text: &str) -> Error {
    Error::protocol(match text.chars().next() {
        None => "an empty answer",
        Some('<') => "HTML in place of an answer",
        Some(_) => "something that is no JSON object",
    })
}
