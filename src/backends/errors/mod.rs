//! What an error of the upstream means: for the client, and for a retry.
//!
//! [`parse_details`] reads any of the error shapes of openai-wire.md 5.1, [`to_error`] judges an error
//! status, and [`parse_in_band`] and [`find_in_band_error`] an error inside a success. They know texts and codes,
//! not connections: headers come already parsed, and nothing is sent, repeated or logged here.
//! Invariant: every message is bounded and not blank, and what [`to_error`] gives holds no key. The
//! other functions know no key; whoever passes their messages on cleans them first.

mod extract;
mod phrases;
#[cfg(test)]
mod tests;

use std::time::Duration;

use crate::backends::{names, retry_after};
use crate::error::{Error, Retry};
use crate::observe::redact::Redactor;

pub(crate) use extract::is_error_value;
use extract::{BodyFormat, ExtractedError, extract, extract_member, is_error_body};
use phrases::ErrorClassifier;

/// The longest message passed on, in bytes: some servers send the whole prompt back.
const MAX_MESSAGE_BYTES: usize = 4096;

/// How much of a page or a plain text is passed on, in characters (openai-wire.md 5.1).
const MAX_PLAIN_TEXT_CHARS: usize = 200;

/// What an upstream says about an error. Nothing is redacted here.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ErrorDetails {
    /// The sentence for a reader.
    pub message: String,
    /// The `code`, as text even if it was a number.
    pub code: Option<String>,
    /// The `type`, or what stands for it (`error_type`, Gemini's `status`).
    pub kind: Option<String>,
    /// The request field that is to blame.
    pub param: Option<String>,
    /// Everything that a list of faults names, in its order; empty for all other shapes.
    pub field_errors: Vec<FieldError>,
}

/// One entry of a list of faults: FastAPI's `detail`, or Gemini's `fieldViolations`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FieldError {
    /// The place in the request, such as `messages.0.content`, without the `body` in front.
    pub path: String,
    /// The entry's own `type`, such as `extra_forbidden`.
    pub kind: Option<String>,
    /// What is wrong there.
    pub message: String,
}

/// What the headers of an error answer say about repeating the request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RetryHints {
    /// The delay asked for, as [`retry_after::parse_retry_after`] reads it.
    pub retry_after: Option<Duration>,
    /// The value of `x-should-retry`.
    pub should_retry: Option<bool>,
}

/// What a message may say about the request that failed.
#[derive(Clone, Copy, Debug)]
pub struct RequestSummary<'a> {
    /// Such as `POST /v1/chat/completions`.
    pub method_and_path: &'a str,
    /// The model as the client named it, when the request is about one.
    pub model: Option<&'a str>,
}

/// Reads an error body of any shape; `None` when it says nothing.
///
/// The text of a page comes without its tags, and of it and of plain text only the beginning.
#[must_use]
pub fn parse_details(body: &[u8]) -> Option<ErrorDetails> {
    let mut found = extract(body).filter(ExtractedError::has_message)?;
    found.details.message = truncate_message(&found.details.message, found.format).to_owned();
    Some(found.details)
}

/// What a refusal of the request itself (400 or 422) says, for whoever can ask again without what
/// was refused (openai-wire.md 3.9); `None` for other statuses and for bodies that say nothing.
///
/// Each line of the message is a fault of its own where the server lists several, and
/// [`ErrorDetails::field_errors`] has those that came with their places.
#[must_use]
pub fn parse_rejection(status: u16, body: &[u8]) -> Option<ErrorDetails> {
    matches!(status, 400 | 422).then(|| parse_details(body)).flatten()
}

/// Whether the prompt did not fit: there is no common code for it, so texts decide
/// (openai-wire.md 5.3).
#[must_use]
pub fn is_context_overflow(details: &ErrorDetails) -> bool {
    ErrorClassifier::new(details).is_context_overflow()
}

/// Judges the `error` member of an answer with a success status, or of a stream chunk: an object, a
/// text or a number. A whole body or chunk with such a member will do as well. Call it only when
/// there is such a member and it is not null.
///
/// Gives a status for the case that no line was sent yet, and the details, not redacted.
#[must_use]
pub fn parse_in_band(error: impl AsRef<[u8]>) -> (u16, ErrorDetails) {
    let ExtractedError { mut details, status, format: form, is_bare_string: is_bare } =
        extract_member(error.as_ref());
    let status = status.unwrap_or_else(|| match ErrorClassifier::new(&details).infer_status() {
        // A sentence alone, in place of an answer (openai-wire.md 5.4).
        500 if is_bare => 502,
        status => status,
    });
    if details.message.is_empty() {
        "the upstream reported an error".clone_into(&mut details.message);
    }
    details.message = truncate_message(&details.message, form).to_owned();
    (status, details)
}

/// What [`parse_in_band`] finds, for the client: redacted, and in Ollama's words where `model`, as the
/// client named it, is unknown or cannot call tools.
#[must_use]
pub fn to_in_band_error(
    error: impl AsRef<[u8]>,
    model: Option<&str>,
    redactor: &Redactor,
) -> Error {
    let (status, details) = parse_in_band(error);
    let classifier = ErrorClassifier::new(&details);
    let worded = model.and_then(|model| to_ollama_error(&classifier, status, model));
    worded.unwrap_or_else(|| {
        let message = redactor.redact(&details.message).into_owned();
        Error::UpstreamInBand { status, message }
    })
}

/// Errors for which Ollama has a sentence of its own.
fn to_ollama_error(classifier: &ErrorClassifier, status: u16, model: &str) -> Option<Error> {
    if classifier.is_unknown_model(status) {
        return Some(Error::ModelNotFound { message: format!("model '{model}' not found") });
    }
    let tools =
        || permanent_error(400, format!("{} does not support tools", names::full_name(model)));
    classifier.is_tools_refusal().then(tools)
}

/// The error that a whole answer with a success status is, if it is one; its message is not
/// redacted. An `error` that is null, false, zero or empty is none.
#[must_use]
pub fn find_in_band_error(answer: impl AsRef<[u8]>) -> Option<Error> {
    let answer = answer.as_ref();
    is_error_body(answer).then(|| {
        let (status, details) = parse_in_band(answer);
        Error::UpstreamInBand { status, message: details.message }
    })
}

/// Whether an error says that the server has no such route, and not only no such model.
#[must_use]
pub fn is_unknown_route(status: u16, body: &[u8]) -> bool {
    let found = extract(body).unwrap_or_default();
    status == 405 || (status == 404 && is_missing_route(&found))
}

/// Whether a 404 can only be about the route.
fn is_missing_route(found: &ExtractedError) -> bool {
    let classifier = ErrorClassifier::new(&found.details);
    let unknown_model = found.format != BodyFormat::Html && classifier.is_unknown_model(404);
    let is_explained =
        found.format == BodyFormat::Json && found.has_message() && !classifier.is_route_error();
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
pub fn to_error(
    status: u16,
    body: &[u8],
    hints: RetryHints,
    request: RequestSummary<'_>,
    redactor: &Redactor,
) -> Error {
    if (300..400).contains(&status) {
        return permanent_error(502, "upstream redirects; fix the base URL".to_owned());
    }
    let found = extract(body).unwrap_or_default();
    let classifier = ErrorClassifier::new(&found.details);
    let is_page = found.format == BodyFormat::Html;
    let worded = request.model.filter(|_| !is_page);
    if let Some(error) = worded.and_then(|model| to_ollama_error(&classifier, status, model)) {
        return error;
    }
    if status == 404 && is_missing_route(&found) {
        let place = redactor.redact(request.method_and_path);
        return permanent_error(
            502,
            format!("upstream returned 404 for {place}; check the base URL"),
        );
    }
    let message = if found.has_message() {
        found.redacted_message(redactor)
    } else {
        format!("upstream returned HTTP {status}")
    };
    let hints = hints.or_from_message(&found.details.message);
    let retry = match hints.to_retry(status) {
        _ if classifier.is_permanent(status) => Retry::Never,
        // A list is asked for in passing; only a prompt is worth the time that loading takes.
        Retry::Backoff if request.model.is_some() && classifier.is_loading(status) => Retry::Poll,
        retry => retry,
    };
    Error::UpstreamStatus { status: downstream_status(status, &classifier), message, retry }
}

/// The status for the client.
fn downstream_status(status: u16, classifier: &ErrorClassifier) -> u16 {
    match status {
        // llama.cpp calls its own fault what is wrong with the request (openai-wire.md 5.3).
        500..600 if classifier.is_context_overflow() || classifier.is_image_refusal() => 400,
        400..600 => status,
        // A number that is no error status is the upstream's fault too.
        _ => 502,
    }
}

impl RetryHints {
    /// Without a delay in the headers, the one that the message asks for.
    fn or_from_message(self, message: &str) -> Self {
        Self {
            retry_after: self.retry_after.or_else(|| retry_after::find_retry_delay(message)),
            ..self
        }
    }

    /// Whether an attempt that got `status` may be repeated, as far as numbers tell.
    fn to_retry(self, status: u16) -> Retry {
        let by_status = matches!(status, 408 | 409 | 424 | 429 | 500 | 502 | 503 | 504 | 524 | 529);
        match self.retry_after {
            _ if !self.should_retry.unwrap_or(by_status) => Retry::Never,
            Some(delay) => Retry::After(delay),
            None => Retry::Backoff,
        }
    }
}

impl ExtractedError {
    fn has_message(&self) -> bool {
        !self.details.message.is_empty()
    }

    /// The message for a client. It is cleaned first and cut then, since half a key would not be
    /// recognised.
    fn redacted_message(&self, redactor: &Redactor) -> String {
        truncate_message(&redactor.redact(&self.details.message), self.format).to_owned()
    }
}

fn permanent_error(status: u16, message: String) -> Error {
    Error::UpstreamStatus { status, message, retry: Retry::Never }
}

/// The beginning of a message, as long as its form allows, without a word cut in half: that could
/// be half a key, which nobody would recognise later.
fn truncate_message(message: &str, form: BodyFormat) -> &str {
    let allowed = match form {
        BodyFormat::Json => {
            message.char_indices().find(|(at, c)| at + c.len_utf8() > MAX_MESSAGE_BYTES)
        }
        BodyFormat::Text | BodyFormat::Html => message.char_indices().nth(MAX_PLAIN_TEXT_CHARS),
    };
    let Some((end, next)) = allowed else { return message };
    let cut = &message[..end];
    match cut.rfind(char::is_whitespace) {
        Some(blank) if !next.is_whitespace() => cut[..blank].trim_end(),
        _ => cut.trim_end(),
    }
}
