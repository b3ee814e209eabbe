//! What an error of the upstream means: for the client, and for a retry.
//!
//! [`details`] reads any of the error shapes of openai-wire.md 5.1, [`failure`] judges an error
//! status, and [`in_band`] and [`error_in`] an error inside a success. They know texts and codes,
//! not connections: headers come already parsed, and nothing is sent, repeated or logged here.
//! Invariant: every message is bounded and not blank, and what [`failure`] gives holds no key. The
//! other functions know no key; whoever passes their messages on cleans them first.

mod extract;
mod phrases;
#[cfg(test)]
mod tests;

use std::time::Duration;

use crate::backends::names;
use crate::error::{Error, Retry};
use crate::observe::redact::Redactor;
use crate::upstream::backoff;

pub(crate) use extract::is_said;
use extract::{Form, Found, extract, extract_member, is_error};
use phrases::Signs;

/// The longest message passed on, in bytes: some servers send the whole prompt back.
const LONGEST_MESSAGE: usize = 4096;

/// How much of a page or a plain text is passed on, in characters (openai-wire.md 5.1).
const LONGEST_PLAIN_TEXT: usize = 200;

/// What an upstream says about an error. Nothing is redacted here.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Details {
    /// The sentence for a reader.
    pub message: String,
    /// The `code`, as text even if it was a number.
    pub code: Option<String>,
    /// The `type`, or what stands for it (`error_type`, Gemini's `status`).
    pub kind: Option<String>,
    /// The request field that is to blame.
    pub param: Option<String>,
    /// Everything that a list of faults names, in its order; empty for all other shapes.
    pub faults: Vec<Fault>,
}

/// One entry of a list of faults: FastAPI's `detail`, or Gemini's `fieldViolations`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fault {
    /// The place in the request, such as `messages.0.content`, without the `body` in front.
    pub place: String,
    /// The entry's own `type`, such as `extra_forbidden`.
    pub kind: Option<String>,
    /// What is wrong there.
    pub message: String,
}

/// What the headers of an error answer say about repeating the request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Hints {
    /// The delay asked for, as [`crate::upstream::backoff::retry_after`] reads it.
    pub retry_after: Option<Duration>,
    /// The value of `x-should-retry`.
    pub should_retry: Option<bool>,
}

/// What a message may say about the request that failed.
#[derive(Clone, Copy, Debug)]
pub struct RequestHint<'a> {
    /// Such as `POST /v1/chat/completions`.
    pub method_and_path: &'a str,
    /// The model as the client named it, when the request is about one.
    pub model: Option<&'a str>,
}

/// Reads an error body of any shape; `None` when it says nothing.
///
/// The text of a page comes without its tags, and of it and of plain text only the beginning.
#[must_use]
pub fn details(body: &[u8]) -> Option<Details> {
    let mut found = extract(body).filter(Found::has_message)?;
    found.details.message = bounded(&found.details.message, found.form).to_owned();
    Some(found.details)
}

/// What a refusal of the request itself (400 or 422) says, for whoever can ask again without what
/// was refused (openai-wire.md 3.9); `None` for other statuses and for bodies that say nothing.
///
/// Each line of the message is a fault of its own where the server lists several, and
/// [`Details::faults`] has those that came with their places.
#[must_use]
pub fn refusal(status: u16, body: &[u8]) -> Option<Details> {
    matches!(status, 400 | 422).then(|| details(body)).flatten()
}

/// Whether the prompt did not fit: there is no common code for it, so texts decide
/// (openai-wire.md 5.3).
#[must_use]
pub fn is_context_overflow(details: &Details) -> bool {
    Signs::of(details).is_overflow()
}

/// Judges the `error` member of an answer with a success status, or of a stream chunk: an object, a
/// text or a number. A whole body or chunk with such a member will do as well. Call it only when
/// there is such a member and it is not null.
///
/// Gives a status for the case that no line was sent yet, and the details, not redacted.
#[must_use]
pub fn in_band(error: impl AsRef<[u8]>) -> (u16, Details) {
    let Found { mut details, status, form, is_bare } = extract_member(error.as_ref());
    let status = status.unwrap_or_else(|| match Signs::of(&details).status() {
        // A sentence alone, in place of an answer (openai-wire.md 5.4).
        500 if is_bare => 502,
        status => status,
    });
    if details.message.is_empty() {
        "the upstream reported an error".clone_into(&mut details.message);
    }
    details.message = bounded(&details.message, form).to_owned();
    (status, details)
}

/// What [`in_band`] finds, for the client: redacted, and in Ollama's words where `model`, as the
/// client named it, is unknown or cannot call tools.
#[must_use]
pub fn failure_in_band(error: impl AsRef<[u8]>, model: Option<&str>, redactor: &Redactor) -> Error {
    let (status, details) = in_band(error);
    let signs = Signs::of(&details);
    let worded = model.and_then(|model| in_ollama_s_words(&signs, status, model));
    worded.unwrap_or_else(|| {
        let message = redactor.clean(&details.message).into_owned();
        Error::UpstreamInBand { status, message }
    })
}

/// Errors for which Ollama has a sentence of its own.
fn in_ollama_s_words(signs: &Signs, status: u16, model: &str) -> Option<Error> {
    if signs.is_unknown_model(status) {
        return Some(Error::ModelNotFound { message: format!("model '{model}' not found") });
    }
    let tools = || never(400, format!("{} does not support tools", names::full(model)));
    signs.is_tools_refusal().then(tools)
}

/// The error that a whole answer with a success status is, if it is one; its message is not
/// redacted. An `error` that is null, false, zero or empty is none.
#[must_use]
pub fn error_in(answer: impl AsRef<[u8]>) -> Option<Error> {
    let answer = answer.as_ref();
    is_error(answer).then(|| {
        let (status, details) = in_band(answer);
        Error::UpstreamInBand { status, message: details.message }
    })
}

/// Whether an error says that the server has no such route, and not only no such model.
#[must_use]
pub fn is_unknown_route(status: u16, body: &[u8]) -> bool {
    let found = extract(body).unwrap_or_default();
    status == 405 || (status == 404 && is_unexplained(&found))
}

/// Whether a 404 can only be about the route.
fn is_unexplained(found: &Found) -> bool {
    let signs = Signs::of(&found.details);
    let unknown_model = found.form != Form::Html && signs.is_unknown_model(404);
    let is_explained = found.form == Form::Json && found.has_message() && !signs.names_a_route();
    !unknown_model && !is_explained
}

/// Judges an answer with an error status.
///
/// - An unknown model is [`Error::ModelNotFound`], with the name that the client used.
/// - A redirect, or a 404 for the route itself, is a wrong base URL: 502.
/// - A refusal of tools is 400, worded as Ollama does.
/// - A prompt that is too long, or an image for a model that sees none, is never a 5xx.
/// - All else keeps its status and its text (openai-wire.md 5.4), and says whether the attempt may
///   be repeated (6.2).
#[must_use]
pub fn failure(
    status: u16,
    body: &[u8],
    hints: Hints,
    request: RequestHint<'_>,
    redactor: &Redactor,
) -> Error {
    if (300..400).contains(&status) {
        return never(502, "upstream redirects; fix the base URL".to_owned());
    }
    let found = extract(body).unwrap_or_default();
    let signs = Signs::of(&found.details);
    let is_page = found.form == Form::Html;
    let worded = request.model.filter(|_| !is_page);
    if let Some(error) = worded.and_then(|model| in_ollama_s_words(&signs, status, model)) {
        return error;
    }
    if status == 404 && is_unexplained(&found) {
        let place = redactor.clean(request.method_and_path);
        return never(502, format!("upstream returned 404 for {place}; check the base URL"));
    }
    let message = if found.has_message() {
        found.clean_message(redactor)
    } else {
        format!("upstream returned HTTP {status}")
    };
    let hints = hints.or_told_in(&found.details.message);
    let retry = match hints.retry(status) {
        _ if signs.are_permanent(status) => Retry::Never,
        // A list is asked for in passing; only a prompt is worth the time that loading takes.
        Retry::Backoff if request.model.is_some() && signs.is_loading(status) => Retry::Poll,
        retry => retry,
    };
    Error::UpstreamStatus { status: told_status(status, &signs), message, retry }
}

/// The status for the client.
fn told_status(status: u16, signs: &Signs) -> u16 {
    match status {
        // llama.cpp calls its own fault what is wrong with the request (openai-wire.md 5.3).
        500..600 if signs.is_overflow() || signs.is_image_refusal() => 400,
        400..600 => status,
        // A number that is no error status is the upstream's fault too.
        _ => 502,
    }
}

impl Hints {
    /// Without a delay in the headers, the one that the message asks for.
    fn or_told_in(self, message: &str) -> Self {
        Self { retry_after: self.retry_after.or_else(|| backoff::asked_for(message)), ..self }
    }

    /// Whether an attempt that got `status` may be repeated, as far as numbers tell.
    fn retry(self, status: u16) -> Retry {
        let by_status = matches!(status, 408 | 409 | 424 | 429 | 500 | 502 | 503 | 504 | 524 | 529);
        match self.retry_after {
            _ if !self.should_retry.unwrap_or(by_status) => Retry::Never,
            Some(delay) => Retry::After(delay),
            None => Retry::Backoff,
        }
    }
}

impl Found {
    fn has_message(&self) -> bool {
        !self.details.message.is_empty()
    }

    /// The message for a client. It is cleaned first and cut then, since half a key would not be
    /// recognised.
    fn clean_message(&self, redactor: &Redactor) -> String {
        bounded(&redactor.clean(&self.details.message), self.form).to_owned()
    }
}

fn never(status: u16, message: String) -> Error {
    Error::UpstreamStatus { status, message, retry: Retry::Never }
}

/// The beginning of a message, as long as its form allows, without a word cut in half: that could
/// be half a key, which nobody would recognise later.
fn bounded(message: &str, form: Form) -> &str {
    let allowed = match form {
        Form::Json => message.char_indices().find(|(at, c)| at + c.len_utf8() > LONGEST_MESSAGE),
        Form::Text | Form::Html => message.char_indices().nth(LONGEST_PLAIN_TEXT),
    };
    let Some((end, next)) = allowed else { return message };
    let cut = &message[..end];
    match cut.rfind(char::is_whitespace) {
        Some(blank) if !next.is_whitespace() => cut[..blank].trim_end(),
        _ => cut.trim_end(),
    }
}
