//! Turns an upstream's error responses into [`Error`]: a status and a message for the client, and
//! whether the request may be sent again.
//!
//! [`parse_details`] reads an error body of any known shape, [`to_error`] classifies a response with
//! an error status, [`parse_in_band`], [`parse_in_band_rejection`] and [`find_in_band_error`] an error
//! inside a response with status 200. Pure: headers arrive parsed, and nothing is sent, retried or logged here.
//! Invariant: every message is bounded and not blank, and the messages of [`to_error`] and
//! [`to_in_band_error`] are redacted. Callers of the other functions redact before they pass a
//! message on.
//!
//! # What a client gets
//!
//! | error of the upstream | status and text |
//! | --- | --- |
//! | unknown model | 404 with the name that the client sent, in Ollama's words |
//! | redirect; 404 that concerns the route | 502: the base URL is wrong, or the endpoint is missing |
//! | plain HTTP on a port for TLS | 502: `https://` is meant |
//! | a model that only `responses` serves | 400, if that route does not answer either |
//! | tools rejected | 400 in Ollama's words |
//! | prompt too long, image rejected, or request invalid, with a 5xx | 400 |
//! | any other status of 400 to 599 | the same status and text |
//! | any other status | 502 |
//!
//! Keys are masked in every text. A text is at most 4,096 bytes long, or 200 characters if it is
//! plain text or HTML.

mod extract;
mod numbers;
mod overflow;
mod phrases;
mod quota;
#[cfg(test)]
mod tests;

use std::time::Duration;

use crate::backends::{names, retry_after};
use crate::error::{Error, Retry, UpstreamDetails};
use crate::observe::redact::Redactor;

pub(crate) use extract::is_error_value;
use extract::{BodyFormat, ExtractedError, extract, extract_member, is_error_body};
pub use numbers::numbers;
use phrases::ErrorClassifier;

/// The longest message passed on, in bytes: some servers include the whole prompt.
const MAX_MESSAGE_BYTES: usize = 4096;

/// The longest code, type or name of a member passed on, in bytes.
const MAX_WORD_BYTES: usize = 200;

/// The longest text of an HTML page or a plain-text body passed on, in characters.
const MAX_PLAIN_TEXT_CHARS: usize = 200;

/// The fields of an error response, not redacted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ErrorDetails {
    /// The human-readable message.
    pub message: String,
    /// `code`; a number is converted to text.
    pub code: Option<String>,
    /// `type`, `error_type` or Gemini's `status`.
    pub kind: Option<String>,
    /// The name of the offending request field.
    pub param: Option<String>,
    /// llama.cpp's `n_prompt_tokens`: the length of a prompt that exceeds the context.
    pub prompt_tokens: Option<u64>,
    /// llama.cpp's `n_ctx`: the size of that context.
    pub context_window: Option<u64>,
    /// Errors listed for each field, in the order sent; empty for all other shapes.
    pub field_errors: Vec<FieldError>,
}

/// One entry of FastAPI's `detail` list or of Gemini's `fieldViolations`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FieldError {
    /// The field's path in the request, such as `messages.0.content`, without a leading `body`.
    pub path: String,
    /// The entry's own `type`, such as `extra_forbidden`.
    pub kind: Option<String>,
}

/// What the headers of an error response say about sending the request again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RetryHints {
    /// The delay, as read by [`retry_after::parse_retry_after`].
    pub retry_after: Option<Duration>,
    /// The value of `x-should-retry`.
    pub should_retry: Option<bool>,
}

/// The facts about a failed request that an error message may name.
#[derive(Clone, Copy, Debug)]
pub struct RequestSummary<'a> {
    /// Such as `POST /v1/chat/completions`.
    pub method_and_path: &'a str,
    /// The endpoint's path below the base URL, such as `embeddings`.
    pub endpoint: &'a str,
    /// The model name that the client sent, for requests that name one.
    pub model: Option<&'a str>,
    /// True if the upstream has answered any request, so that the base URL is right.
    pub has_answered: bool,
}

/// Reads an error body of any shape; `None` if it holds no message.
///
/// HTML tags are removed, and HTML and plain text are truncated.
pub fn parse_details(body: &[u8]) -> Option<ErrorDetails> {
    let mut found = extract(body).filter(ExtractedError::has_message)?;
    found.details.message = truncate_message(&found.details.message, found.format).to_owned();
    Some(found.details)
}

/// Reads the body of a response that rejects the request itself, so that the request can be repaired: 400
/// or 422, a validation error with status 500, a 404 that names another route for the model, or a failure
/// of a template or a grammar with any status; `None` for others and for bodies without a message.
///
/// If the server lists several errors, each is a line of the message, and
/// [`ErrorDetails::field_errors`] holds those that name a field.
pub fn parse_rejection(status: u16, body: &[u8]) -> Option<ErrorDetails> {
    if !matches!(status, 400 | 422 | 404 | 500) {
        return None;
    }
    let is_rejection = |found: &ErrorDetails| {
        let classifier = ErrorClassifier::new(found);
        matches!(status, 400 | 422)
            || classifier.is_template_failure()
            || (status == 404 && classifier.names_responses_route())
            || (status == 500 && classifier.is_validation_error())
    };
    parse_details(body).filter(is_rejection)
}

/// The rejection of a request inside a response with status 200, as [`parse_rejection`] reads one with the
/// status that the error names; `None` for errors that are none. Where nothing but the text can tell, the
/// second value is true: the error may as well be the server's own.
pub fn parse_in_band_rejection(error: &[u8]) -> Option<(ErrorDetails, bool)> {
    let found = extract_member(error);
    let classifier = ErrorClassifier::new(&found.details);
    let status = found.status.unwrap_or_else(|| classifier.infer_status());
    // Route and model, key and money have a status that is inferred.
    let is_unclear = found.status.is_none() && status == 500;
    let is_certain = classifier.is_template_failure() || classifier.is_validation_error();
    let rejection = parse_rejection(if is_unclear { 400 } else { status }, error)?;
    Some((rejection, is_unclear && !is_certain))
}

/// True if a rejection says that the model is served by the `responses` route only.
pub fn names_responses_route(details: &ErrorDetails) -> bool {
    ErrorClassifier::new(details).names_responses_route()
}

/// True if a rejection is not about the form of the request: the key, money, the model, a policy, an
/// image that cannot be read, or a value out of its range.
pub fn is_final(details: &ErrorDetails) -> bool {
    ErrorClassifier::new(details).is_final()
}

/// True if a server rejects a request because it came without TLS.
pub fn wants_tls(status: u16, body: &[u8]) -> bool {
    (400..500).contains(&status) && phrases::says_plain_http_on_tls_port(body)
}

/// True if the prompt exceeds the context window. Servers share no code for this error, so codes and
/// message texts are compared.
pub fn is_context_overflow(details: &ErrorDetails) -> bool {
    ErrorClassifier::new(details).is_context_overflow()
}

/// Reads the `error` member of a stream chunk or of a response with a success status: an object, a
/// string or a number. The whole chunk or response is accepted as well. The member must exist and
/// must not be null.
///
/// Returns the status to send if no line has been sent yet, and the details, not redacted.
pub fn parse_in_band(error: impl AsRef<[u8]>) -> (u16, ErrorDetails) {
    let ExtractedError { mut details, status, format, is_bare_string } =
        extract_member(error.as_ref());
    let status = status.unwrap_or_else(|| match ErrorClassifier::new(&details).infer_status() {
        // A bare string in place of a completion.
        500 if is_bare_string => 502,
        status => status,
    });
    if details.message.is_empty() {
        "the upstream reported an error without a message".clone_into(&mut details.message);
    }
    details.message = truncate_message(&details.message, format).to_owned();
    (status, details)
}

/// The error of [`parse_in_band`] for the client: redacted, and in Ollama's wording if `model`, the
/// name that the client sent, is unknown or cannot call tools.
pub fn to_in_band_error(
    error: impl AsRef<[u8]>,
    model: Option<&str>,
    redactor: &Redactor,
) -> Error {
    let (status, details) = parse_in_band(error);
    let classifier = ErrorClassifier::new(&details);
    let status = downstream_status(status, &classifier);
    let known = model.and_then(|model| to_ollama_error(&classifier, status, model));
    known.unwrap_or_else(|| {
        let message = redactor.redact(&details.message).into_owned();
        let retry_after = retry_after::find_retry_delay(&details.message);
        let details = to_upstream_details(&details, status, retry_after, redactor);
        Error::UpstreamInBand { status, message, details }
    })
}

/// Rewords errors for which Ollama has a fixed text (server/routes.go).
fn to_ollama_error(classifier: &ErrorClassifier, status: u16, model: &str) -> Option<Error> {
    if classifier.is_unknown_model(status) {
        return Some(Error::model_not_found(model));
    }
    classifier.rejects_tools().then(|| {
        permanent_error(400, format!("{} does not support tools", names::full_name(model)))
    })
}

/// The error in a whole response with a success status, not redacted; `None` if its `error` is
/// absent, null, false, zero or empty.
pub fn find_in_band_error(response: impl AsRef<[u8]>) -> Option<Error> {
    let response = response.as_ref();
    is_error_body(response).then(|| {
        let (status, details) = parse_in_band(response);
        Error::upstream_in_band(status, details.message)
    })
}

/// True if an error response means that the server lacks the route, as opposed to the model.
pub fn is_unknown_route(status: u16, body: &[u8]) -> bool {
    let found = extract(body).unwrap_or_default();
    status == 405 || (status == 404 && is_missing_route(&found))
}

/// True if a 404 can only be about the route.
fn is_missing_route(found: &ExtractedError) -> bool {
    let classifier = ErrorClassifier::new(&found.details);
    let unknown_model = found.format != BodyFormat::Html && classifier.is_unknown_model(404);
    let is_explained =
        found.format == BodyFormat::Json && found.has_message() && !classifier.is_route_error();
    !unknown_model && !is_explained
}

/// Classifies a response with an error status.
///
/// - An unknown model becomes [`Error::ModelNotFound`] with the name that the client sent.
/// - A redirect, or a 404 for the route itself, means a wrong base URL: 502. Once the upstream has
///   answered, a 404 means that it lacks the endpoint: 502, too.
/// - Rejected tools become 400 in Ollama's wording.
/// - A prompt that is too long, or an image for a model without vision, is never a 5xx.
/// - Every other error keeps its status and its text, and says whether the request may be sent again.
pub fn to_error(
    status: u16,
    body: &[u8],
    hints: RetryHints,
    request: RequestSummary<'_>,
    redactor: &Redactor,
) -> Error {
    if (300..400).contains(&status) {
        return permanent_error(
            502,
            "the upstream answered with a redirect; correct the base URL".to_owned(),
        );
    }
    let found = extract(body).unwrap_or_default();
    let classifier = ErrorClassifier::new(&found.details);
    let is_page = found.format == BodyFormat::Html;
    let model = request.model.filter(|_| !is_page);
    // The model exists, whatever the status.
    let names_route = matches!(status, 400..500) && classifier.names_responses_route();
    let is_template_failure = matches!(status, 404 | 500) && classifier.is_template_failure();
    let known = model.filter(|_| !is_template_failure && !names_route);
    if let Some(error) = known.and_then(|model| to_ollama_error(&classifier, status, model)) {
        return error;
    }
    if status == 404 && !is_template_failure && !names_route && is_missing_route(&found) {
        let route = redactor.redact(request.method_and_path);
        let message = if request.has_answered {
            let endpoint = request.endpoint.trim_start_matches('/');
            format!("this upstream has no {endpoint} endpoint (404 for {route})")
        } else {
            format!("upstream returned 404 for {route}; check the base URL")
        };
        return Error::MissingEndpoint(message);
    }
    let message = if found.has_message() {
        found.redacted_message(redactor)
    } else {
        format!("upstream returned HTTP {status}")
    };
    let retry = match hints.to_retry(status, &found.details.message) {
        _ if is_template_failure
            || names_route
            || classifier.is_permanent(status)
            || classifier.is_unknown_model(status) =>
        {
            Retry::Never
        }
        // Requests without a model, such as for the model list, do not wait for a model to load.
        Retry::Backoff if request.model.is_some() && classifier.is_loading(status) => Retry::Poll,
        retry => retry,
    };
    let delay = hints.delay(&found.details.message);
    let details = to_upstream_details(&found.details, status, delay, redactor);
    let status = downstream_status(status, &classifier);
    Error::UpstreamStatus { status, message, retry, details }
}

/// What an error says beside its text, if anything.
fn to_upstream_details(
    details: &ErrorDetails,
    status: u16,
    retry_after: Option<Duration>,
    redactor: &Redactor,
) -> Option<Box<UpstreamDetails>> {
    let classifier = ErrorClassifier::new(details);
    let word = |text: &Option<String>| {
        let text = redactor.redact(text.as_deref()?).into_owned();
        // LiteLLM writes Python's word for an absent one.
        (text != "None" && text.len() <= MAX_WORD_BYTES).then_some(text)
    };
    let found = UpstreamDetails {
        // vLLM and LiteLLM repeat the status here.
        code: word(&details.code).filter(|code| code.parse::<f64>().is_err()),
        kind: word(&details.kind),
        param: word(&details.param),
        retry_after,
        is_out_of_quota: classifier.is_out_of_quota(status, retry_after.is_some()),
        overflow: classifier.is_context_overflow().then(|| overflow::find_counts(details)),
    };
    (found != UpstreamDetails::default()).then(|| Box::new(found))
}

fn downstream_status(status: u16, classifier: &ErrorClassifier) -> u16 {
    match status {
        // llama.cpp reports these errors of the request with status 500.
        500..600 if classifier.is_context_overflow() || classifier.rejects_images() => 400,
        // mlx_lm.server reports a template that raises with status 404.
        404 | 500 if classifier.is_template_failure() => 400,
        // A client would take it for an unknown model.
        404 if classifier.names_responses_route() => 400,
        // llama-cpp-python reports a member of the request that it refuses with status 500.
        500 if classifier.is_validation_error() => 400,
        400..600 => status,
        _ => 502,
    }
}

impl RetryHints {
    /// The retry decision by status, headers and a delay named in the message. `x-should-retry`
    /// overrides the status, a delay in the headers overrides one in the message.
    fn to_retry(self, status: u16, message: &str) -> Retry {
        let by_status = matches!(status, 408 | 409 | 424 | 429 | 500 | 502 | 503 | 504 | 524 | 529);
        if !self.should_retry.unwrap_or(by_status) {
            return Retry::Never;
        }
        self.delay(message).map_or(Retry::Backoff, Retry::After)
    }

    /// The delay that the headers ask for, or the message.
    fn delay(self, message: &str) -> Option<Duration> {
        self.retry_after.or_else(|| retry_after::find_retry_delay(message))
    }
}

impl ExtractedError {
    fn has_message(&self) -> bool {
        !self.details.message.is_empty()
    }

    /// The message for the client: redacted before it is truncated, since half a key would not be
    /// recognised.
    fn redacted_message(&self, redactor: &Redactor) -> String {
        truncate_message(&redactor.redact(&self.details.message), self.format).to_owned()
    }
}

fn permanent_error(status: u16, message: String) -> Error {
    Error::upstream_status(status, message, Retry::Never)
}

/// Truncates a message at a word boundary: half a word could be half a key, which the redactor
/// would not recognise later.
fn truncate_message(message: &str, format: BodyFormat) -> &str {
    let end = match format {
        BodyFormat::Json => {
            message.char_indices().find(|(at, c)| at + c.len_utf8() > MAX_MESSAGE_BYTES)
        }
        BodyFormat::Text | BodyFormat::Html => message.char_indices().nth(MAX_PLAIN_TEXT_CHARS),
    };
    let Some((end, next)) = end else { return message };
    let cut = &message[..end];
    match cut.rfind(char::is_whitespace) {
        Some(blank) if !next.is_whitespace() => cut[..blank].trim_end(),
        _ => cut.trim_end(),
    }
}
