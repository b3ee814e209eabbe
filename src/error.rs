//! The one error type of the program.
//!
//! Every failure of an exchange becomes one [`Error`]. It decides the status that the client gets
//! ([`Error::status`]), the text that the client reads ([`Error::message`]), whether the attempt may
//! be retried ([`Error::retry`]) and the word for log and metrics ([`Error::kind`]).
//! It names no HTTP crate. Errors at start-up are not here; they belong to [`crate::config`].
//! Invariant: no message holds a key, because texts of the upstream are redacted before they get
//! here.
//!
//! # Statuses
//!
//! | cause | status |
//! | --- | --- |
//! | a request that cannot be understood, or asks for what cannot be served | 400 |
//! | an invalid option, `format` or `template`, as in Ollama | 500 |
//! | no client key or a wrong one, where keys are configured | 401, with `WWW-Authenticate` |
//! | too many wrong client keys of one address; a limit of a client key is reached | 429, with `Retry-After` |
//! | an origin or a host that is not allowed | 403, empty |
//! | a cloud model that is not listed; deleting a model of the upstream; a model that the client key may not use | 403 |
//! | unknown route, unknown model, an earlier response that is not kept | 404 |
//! | a known route with another method | 405, with `Allow` |
//! | a body that arrives too slowly | 408 |
//! | a WebSocket is to be opened | 426, with `Upgrade` |
//! | a body above `MAX_BODY_BYTES`, or whose handling takes more than the memory budget | 413 |
//! | an error status of the upstream | the same status and text, keys masked |
//! | the state file cannot be written (nothing was changed); a panic | 500 |
//! | no connection, an invalid response, a response that breaks off | 502 |
//! | a response that the memory budget has no room for; clients of `/v1` are told not to retry | 502 |
//! | the upstream redirects, or returns 404 for a route: the base URL is wrong | 502 |
//! | the circuit is open | 503, with `Retry-After` and the text of the last failure |
//! | workers and queue are full, or memory is short | 503, with `Retry-After` |
//! | the server is shutting down | 503 |
//! | an overload of the upstream, for clients of `/v1/messages` | 529 instead of 503 |
//! | no response in time | 504 |
//!
//! An error before the first byte of a response has one of these statuses. A later one is the last
//! line or event of the stream, and no `"done": true`, `[DONE]` or `message_stop` follows. A long
//! response without lines that breaks off ends with an invalid chunk, so that no client takes it
//! for complete. [`crate::http::error_format`] gives the form of the body.

mod error_code;
mod key_limit;

use std::error::Error as StdError;
use std::fmt;
use std::time::Duration;

pub use self::error_code::ErrorCode;
pub use self::key_limit::{KeyLimit, LimitReached};

/// `Result` with this crate's [`Error`].
pub type Result<T> = std::result::Result<T, Error>;

/// Whether an attempt may be retried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retry {
    /// Never.
    Never,
    /// Once, without a delay: the upstream had closed a pooled connection.
    Immediate,
    /// After the backoff of the retry policy.
    Backoff,
    /// Every second, for as long as a model may take to load: the upstream is loading one.
    Poll,
    /// After the delay that the upstream asks for.
    After(Duration),
}

/// The phase of an upstream call in which its time ran out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TimeoutPhase {
    /// Connecting, including the TLS handshake.
    Connect,
    /// Sending the request, or waiting for the head of the response.
    Head,
    /// Waiting for more of the body.
    Body,
    /// As `Head` for a list of models, which has this limit of its own.
    List(Duration),
    /// As `Head`, where the upstream has a time limit of its own.
    OwnHead,
    /// As `Body`, where the upstream has a time limit of its own.
    OwnBody,
}

/// What an upstream's error says beside its text: bounded, and with keys masked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UpstreamDetails {
    /// `code`, unless it is a number.
    pub code: Option<String>,
    /// `type`.
    pub kind: Option<String>,
    /// The member of the request that is to blame.
    pub param: Option<String>,
    /// When the request may be sent again, from headers or text.
    pub retry_after: Option<Duration>,
    /// The account has no credit left, so that no later request succeeds either.
    pub is_out_of_quota: bool,
    /// The prompt exceeds the context window.
    pub overflow: Option<ContextOverflow>,
}

/// The numbers of a prompt that exceeds the context window, as far as the upstream tells them. If the prompt
/// is the smaller one, only the limit of generated tokens was too much.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ContextOverflow {
    /// Tokens of the prompt.
    pub prompt_tokens: Option<u64>,
    /// Tokens that the context window holds.
    pub context_window: Option<u64>,
}

/// Everything that can go wrong with one exchange. A variant with a `String` holds the text for the
/// client, unless it says otherwise.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Error {
    /// The route needs a body and the request has none.
    MissingBody,
    /// The request is malformed; the text names the field.
    InvalidRequest(String),
    /// An option, format or template for which Ollama itself returns status 500.
    InvalidOption(String),
    /// A feature of Ollama that this proxy, or this upstream, lacks.
    Unsupported(String),
    /// An error that clients of OpenAI's API know by its code, with its text.
    Coded(&'static ErrorCode, String),
    /// The client wants to speak another protocol than HTTP on this path.
    UpgradeRequired,
    /// No such path.
    UnknownRoute,
    /// The path exists and does not allow the method; holds the value of the `Allow` header.
    MethodNotAllowed(&'static str),
    /// The body is larger than this limit, in bytes.
    BodyTooLarge(usize),
    /// The body fits, but what has to be made of it never does.
    RequestTooLarge,
    /// The body ends early or its framing is malformed.
    BodyReadFailed,
    /// The body arrived too slowly. Ollama has no such limit.
    BodyTimeout,
    /// The head is malformed or ambiguous, so nothing after it on its connection can be trusted.
    MalformedHead,
    /// The client closed the connection; nothing can be sent.
    ClientDisconnected,
    /// No worker and no place in the queue, or no memory, is left.
    Busy,
    /// The program is shutting down.
    ShuttingDown,
    /// The model is unknown. The wording differs by route, as in Ollama.
    ModelNotFound(String),
    /// The request has no client key, or a wrong one, and needs one.
    Unauthorized,
    /// The request has a wrong client key, and its address has sent too many; holds the time to wait.
    TooManyWrongKeys(Duration),
    /// The client key has reached one of its limits.
    KeyLimitReached(LimitReached),
    /// The client key may not use the model.
    ModelNotAllowed(String),
    /// The proxy does not allow the operation.
    Forbidden(String),
    /// A response of the proxy's own has this status, and a body that tells why.
    OwnStatus(u16),
    /// The state file cannot be written.
    StateFile(String),
    /// No connection to the upstream: refused, no route, unknown host, TLS failure. Holds the cause,
    /// without any URL.
    Connect(String),
    /// The upstream closed the connection before it sent a byte of the response.
    ClosedBeforeResponse {
        /// It never responded to plain HTTP, so it may speak TLS.
        suggests_tls: bool,
    },
    /// The same on a pooled connection, which the upstream had closed while it was idle.
    StaleConnection,
    /// The circuit breaker is open: the upstream was not called.
    UpstreamDown {
        /// The message of the last failed attempt.
        reason: String,
        /// The time until the next attempt.
        retry_after: Duration,
    },
    /// The upstream took too long in this phase.
    UpstreamTimeout(TimeoutPhase),
    /// The upstream returned an error status.
    UpstreamStatus {
        /// The status, passed through.
        status: u16,
        /// The upstream's own message, unwrapped and redacted.
        message: String,
        /// Whether the attempt may be retried, from status, code and headers.
        retry: Retry,
        /// What else it says, if anything.
        details: Option<Box<UpstreamDetails>>,
    },
    /// The upstream does not have the endpoint. Holds what to check.
    MissingEndpoint(String),
    /// The upstream's response is invalid. Holds what it is or lacks.
    UpstreamProtocol(String),
    /// The upstream ended a response without its terminal event.
    IncompleteStream,
    /// The memory budget has no room for a response, or for a part of it that is needed whole.
    ResponseTooLarge,
    /// An error that the upstream reports inside a stream or a response with status 200.
    UpstreamInBand {
        /// The status for the client, if no line was sent yet.
        status: u16,
        /// The upstream's own message, unwrapped and redacted.
        message: String,
        /// What else it says, if anything.
        details: Option<Box<UpstreamDetails>>,
    },
    /// Several upstreams failed, and this is the failure that is told.
    Exhausted {
        /// The failure.
        last: Box<Error>,
        /// How many upstreams were asked.
        tried: usize,
    },
    /// A panic or a violated invariant; the text is for the log only.
    Internal(&'static str),
}

impl Error {
    /// A malformed request.
    pub fn invalid_request(reason: impl Into<String>) -> Self {
        Self::InvalidRequest(reason.into())
    }

    /// Ollama's text for an unknown model.
    pub fn model_not_found(name: &str) -> Self {
        Self::ModelNotFound(format!("model '{name}' not found"))
    }

    /// An invalid response of the upstream.
    pub fn upstream_protocol(what: impl Into<String>) -> Self {
        Self::UpstreamProtocol(what.into())
    }

    /// An error status of the upstream with nothing but a text.
    pub fn upstream_status(status: u16, message: impl Into<String>, retry: Retry) -> Self {
        Self::UpstreamStatus { status, message: message.into(), retry, details: None }
    }

    /// An error inside an upstream's response with nothing but a text.
    pub fn upstream_in_band(status: u16, message: impl Into<String>) -> Self {
        Self::UpstreamInBand { status, message: message.into(), details: None }
    }

    /// What an upstream's error says beside its text.
    pub fn details(&self) -> Option<&UpstreamDetails> {
        match self {
            Self::UpstreamStatus { details, .. } | Self::UpstreamInBand { details, .. } => {
                details.as_deref()
            }
            _ => None,
        }
    }

    /// The numbers of a context overflow; `None` for every other error.
    pub fn context_overflow(&self) -> Option<ContextOverflow> {
        self.details()?.overflow
    }

    /// True if the upstream rejected the request itself, so that a changed request may succeed.
    pub fn is_upstream_rejection(&self) -> bool {
        matches!(self, Self::UpstreamStatus { status: 400 | 422, .. })
    }

    /// True if the upstream answered with an error that says nothing of the request: of the key, of the
    /// rate or of the server.
    pub fn is_answer_to_any_request(&self) -> bool {
        let (Self::UpstreamStatus { status, .. } | Self::UpstreamInBand { status, .. }) = self
        else {
            return false;
        };
        matches!(status, 401 | 408 | 429 | 500..)
    }

    /// True if a request to an endpoint showed that the upstream does not have it: the endpoint is
    /// unknown, or something else answers there.
    pub fn is_missing_endpoint(&self) -> bool {
        matches!(
            self,
            Self::MissingEndpoint(_)
                | Self::UpstreamProtocol(_)
                | Self::UpstreamStatus { status: 405 | 501, .. }
        )
    }

    /// True if the upstream could not be reached or did not respond.
    pub fn is_unreachable(&self) -> bool {
        matches!(
            self,
            Self::Connect(_)
                | Self::ClosedBeforeResponse { .. }
                | Self::UpstreamTimeout(
                    TimeoutPhase::Connect
                        | TimeoutPhase::Head
                        | TimeoutPhase::OwnHead
                        | TimeoutPhase::List(_)
                )
        )
    }

    /// True if the upstream began a response and did not complete it.
    pub fn is_cut_response(&self) -> bool {
        matches!(
            self,
            Self::IncompleteStream
                | Self::UpstreamTimeout(TimeoutPhase::Body | TimeoutPhase::OwnBody)
        )
    }

    /// The same for an upstream with a time limit of its own, which REQUEST_TIMEOUT does not set.
    #[must_use]
    pub fn with_own_limit(self) -> Self {
        match self {
            Self::UpstreamTimeout(TimeoutPhase::Head) => {
                Self::UpstreamTimeout(TimeoutPhase::OwnHead)
            }
            Self::UpstreamTimeout(TimeoutPhase::Body) => {
                Self::UpstreamTimeout(TimeoutPhase::OwnBody)
            }
            error => error,
        }
    }

    /// True if the upstream, not the client or this program, caused the error.
    pub fn is_upstream(&self) -> bool {
        matches!(
            self,
            Self::Connect(_)
                | Self::ClosedBeforeResponse { .. }
                | Self::StaleConnection
                | Self::UpstreamDown { .. }
                | Self::UpstreamTimeout(_)
                | Self::UpstreamStatus { .. }
                | Self::MissingEndpoint(_)
                | Self::UpstreamProtocol(_)
                | Self::IncompleteStream
                | Self::UpstreamInBand { .. }
                | Self::Exhausted { .. }
        )
    }

    /// The status for the client; `None` if the client is gone.
    pub fn status(&self) -> Option<u16> {
        self.kind_and_status().1
    }

    /// The word for log and metrics.
    pub fn kind(&self) -> &'static str {
        self.kind_and_status().0
    }

    /// One row per variant.
    fn kind_and_status(&self) -> (&'static str, Option<u16>) {
        let (kind, status) = match self {
            Self::MissingBody => ("missing_body", 400),
            Self::InvalidRequest(_) => ("invalid_request", 400),
            Self::InvalidOption(_) => ("invalid_option", 500),
            Self::Unsupported(_) => ("unsupported", 400),
            Self::Coded(code, _) => (code.code, code.status),
            Self::UpgradeRequired => ("upgrade_required", 426),
            Self::UnknownRoute => ("unknown_route", 404),
            Self::MethodNotAllowed(_) => ("method_not_allowed", 405),
            Self::BodyTooLarge(_) | Self::RequestTooLarge => ("body_too_large", 413),
            Self::BodyReadFailed => ("body_broken", 400),
            Self::BodyTimeout => ("body_late", 408),
            Self::MalformedHead => ("malformed", 400),
            Self::ClientDisconnected => return ("client_gone", None),
            Self::Busy => ("busy", 503),
            Self::ShuttingDown => ("stopping", 503),
            Self::ModelNotFound(_) => ("model_not_found", 404),
            Self::Unauthorized => ("unauthorized", 401),
            Self::TooManyWrongKeys(_) => ("too_many_wrong_keys", 429),
            Self::KeyLimitReached(reached) => (reached.limit.word(), 429),
            Self::ModelNotAllowed(_) => ("model_not_allowed", 403),
            Self::Forbidden(_) => ("forbidden", 403),
            Self::OwnStatus(status) => ("status", *status),
            Self::StateFile(_) => ("state", 500),
            Self::Connect(_) => ("connect", 502),
            Self::ClosedBeforeResponse { .. } => ("disconnected", 502),
            Self::StaleConnection => ("stale_connection", 502),
            Self::UpstreamDown { .. } => ("upstream_down", 503),
            Self::UpstreamTimeout(_) => ("timeout", 504),
            Self::UpstreamStatus { status, .. } => ("upstream_status", *status),
            Self::MissingEndpoint(_) => ("upstream_status", 502),
            Self::UpstreamProtocol(_) => ("upstream_protocol", 502),
            Self::IncompleteStream => ("upstream_closed", 502),
            Self::ResponseTooLarge => ("response_too_large", 502),
            Self::UpstreamInBand { status, .. } => ("upstream_in_band", *status),
            Self::Exhausted { last, .. } => return last.kind_and_status(),
            Self::Internal(_) => ("internal", 500),
        };
        (kind, Some(status))
    }

    /// The text for the client.
    pub fn message(&self) -> String {
        let text = match self {
            Self::InvalidRequest(text)
            | Self::InvalidOption(text)
            | Self::Unsupported(text)
            | Self::ModelNotFound(text)
            | Self::ModelNotAllowed(text)
            | Self::Forbidden(text)
            | Self::StateFile(text)
            | Self::Coded(_, text)
            | Self::UpstreamStatus { message: text, .. }
            | Self::MissingEndpoint(text)
            | Self::UpstreamInBand { message: text, .. } => text,
            Self::BodyTooLarge(limit) => {
                return format!("request body too large: the limit is {limit} bytes");
            }
            Self::Exhausted { last, tried } => {
                return format!("{} ({tried} upstreams tried)", last.message());
            }
            Self::Connect(reason) => return format!("cannot reach the upstream: {reason}"),
            Self::UpstreamDown { reason, retry_after } => {
                let seconds = retry_after.as_secs_f64().ceil();
                return format!("{reason} (upstream marked as down; next attempt in {seconds} s)");
            }
            Self::UpstreamProtocol(reason) => {
                return format!("invalid response from the upstream: {reason}");
            }
            Self::OwnStatus(_) => "see the response",
            Self::MissingBody => "missing request body",
            Self::RequestTooLarge => {
                "request body too large: handling it takes more memory than this proxy may use"
            }
            Self::UpgradeRequired => {
                "WebSocket connections are not supported: send requests over HTTP"
            }
            Self::UnknownRoute => "404 page not found",
            Self::MethodNotAllowed(_) => "405 method not allowed",
            Self::BodyReadFailed => "unexpected EOF",
            Self::BodyTimeout => "timed out reading the request body",
            // The text of Go's net/http.
            Self::MalformedHead => "400 Bad Request",
            Self::ClientDisconnected => "client closed the connection",
            // Ollama's text (server/sched.go), with its two spaces.
            Self::Busy => "server busy, please try again.  maximum pending requests exceeded",
            Self::ShuttingDown => "server is shutting down",
            Self::TooManyWrongKeys(wait) => {
                let seconds = wait.as_secs_f64().ceil();
                return format!("too many wrong keys from this address: wait {seconds} s");
            }
            Self::KeyLimitReached(reached) => return reached.message(),
            Self::Unauthorized => {
                "unauthorized: send one of this proxy's keys as \"Authorization: Bearer KEY\" or \
                 \"x-api-key: KEY\""
            }
            Self::ClosedBeforeResponse { suggests_tls: true } => {
                "the upstream closed the connection without a response; does it want https://?"
            }
            Self::ClosedBeforeResponse { .. } | Self::StaleConnection => {
                "the upstream closed the connection without a response"
            }
            Self::UpstreamTimeout(TimeoutPhase::List(limit)) => {
                let seconds = limit.as_secs_f64();
                return format!("no list of models from the upstream within {seconds} s");
            }
            Self::UpstreamTimeout(TimeoutPhase::Connect) => "timed out connecting to the upstream",
            Self::UpstreamTimeout(TimeoutPhase::Head) => {
                "no response from the upstream within REQUEST_TIMEOUT"
            }
            Self::UpstreamTimeout(TimeoutPhase::Body) => {
                "the upstream sent nothing for REQUEST_TIMEOUT in the middle of its response"
            }
            Self::UpstreamTimeout(TimeoutPhase::OwnHead) => {
                "no response from the upstream within its timeout"
            }
            Self::UpstreamTimeout(TimeoutPhase::OwnBody) => {
                "the upstream sent nothing for its timeout in the middle of its response"
            }
            Self::IncompleteStream => {
                "the upstream closed the connection before its response was complete"
            }
            Self::ResponseTooLarge => {
                "the response of the upstream needs more memory than this proxy has at the moment"
            }
            Self::Internal(_) => "internal error",
        };
        text.to_owned()
    }

    /// Whether the failed attempt may be retried, provided that no byte of a response was passed on.
    pub fn retry(&self) -> Retry {
        match self {
            Self::Connect(_)
            | Self::UpstreamDown { .. }
            | Self::UpstreamTimeout(
                TimeoutPhase::Connect
                | TimeoutPhase::Head
                | TimeoutPhase::OwnHead
                | TimeoutPhase::List(_),
            ) => Retry::Backoff,
            Self::ClosedBeforeResponse { .. } | Self::StaleConnection => Retry::Immediate,
            Self::UpstreamStatus { retry, .. } => *retry,
            Self::Exhausted { last, .. } => last.retry(),
            _ => Retry::Never,
        }
    }
}

/// For the log: the kind, and details of our own. Texts of the upstream or the client are left out:
/// they can hold parts of a prompt.
impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Self::Exhausted { last, .. } = self {
            return last.fmt(f);
        }
        f.write_str(self.kind())?;
        match self {
            Self::Connect(reason) => write!(f, ": {reason}"),
            Self::UpstreamTimeout(phase) => f.write_str(match phase {
                TimeoutPhase::Connect => ": connect",
                TimeoutPhase::Head | TimeoutPhase::OwnHead | TimeoutPhase::List(_) => {
                    ": no response head"
                }
                TimeoutPhase::Body | TimeoutPhase::OwnBody => ": body",
            }),
            Self::MissingEndpoint(_) => f.write_str(": 404"),
            Self::UpstreamStatus { status, .. }
            | Self::UpstreamInBand { status, .. }
            | Self::OwnStatus(status) => write!(f, ": {status}"),
            // Quoted parts are the upstream's text.
            Self::UpstreamProtocol(reason) => {
                write!(f, ": {}", reason.split('"').next().unwrap_or_default().trim_end())
            }
            Self::Internal(what) => write!(f, ": {what}"),
            _ => Ok(()),
        }
    }
}

impl StdError for Error {}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(error: Error, is_upstream: bool, status: Option<u16>, retry: Retry) {
        assert_eq!(error.is_upstream(), is_upstream, "{error}");
        assert_eq!(error.status(), status, "{error}");
        assert_eq!(error.retry(), retry, "{error}");
        assert!(!error.message().is_empty(), "{error}");
    }

    #[test]
    fn every_variant_has_its_side_status_and_retry() {
        use Retry::{Backoff, Immediate, Never};
        let text = || "x".to_owned();
        check(Error::MissingBody, false, Some(400), Never);
        check(Error::invalid_request("x"), false, Some(400), Never);
        check(Error::InvalidOption(text()), false, Some(500), Never);
        check(Error::Unsupported(text()), false, Some(400), Never);
        check(Error::UnknownRoute, false, Some(404), Never);
        check(Error::UpgradeRequired, false, Some(426), Never);
        let coded = Error::Coded(ErrorCode::COMPACTION_FAILED, text());
        check(coded, false, Some(500), Never);
        check(Error::MethodNotAllowed("GET"), false, Some(405), Never);
        check(Error::BodyTooLarge(1), false, Some(413), Never);
        check(Error::RequestTooLarge, false, Some(413), Never);
        check(Error::BodyReadFailed, false, Some(400), Never);
        check(Error::ClientDisconnected, false, None, Never);
        check(Error::ModelNotFound(text()), false, Some(404), Never);
        check(Error::Unauthorized, false, Some(401), Never);
        check(Error::TooManyWrongKeys(Duration::ZERO), false, Some(429), Never);
        check(Error::Forbidden(text()), false, Some(403), Never);
        check(Error::ModelNotAllowed(text()), false, Some(403), Never);
        let limit = KeyLimit::RequestsPerMinute;
        let reached = LimitReached { limit, allowed: 1, wait: Duration::ZERO };
        check(Error::KeyLimitReached(reached), false, Some(429), Never);
        check(Error::OwnStatus(401), false, Some(401), Never);
        check(Error::StateFile(text()), false, Some(500), Never);
        check(Error::Busy, false, Some(503), Never);
        check(Error::ShuttingDown, false, Some(503), Never);
        check(Error::Internal("x"), false, Some(500), Never);
        check(Error::Connect(text()), true, Some(502), Backoff);
        let closed = |suggests_tls| Error::ClosedBeforeResponse { suggests_tls };
        check(closed(true), true, Some(502), Immediate);
        check(closed(false), true, Some(502), Immediate);
        check(Error::StaleConnection, true, Some(502), Immediate);
        let retry_in = Duration::ZERO;
        check(
            Error::UpstreamDown { reason: text(), retry_after: retry_in },
            true,
            Some(503),
            Backoff,
        );
        check(Error::UpstreamTimeout(TimeoutPhase::Connect), true, Some(504), Backoff);
        check(Error::UpstreamTimeout(TimeoutPhase::Head), true, Some(504), Backoff);
        check(Error::UpstreamTimeout(TimeoutPhase::Body), true, Some(504), Never);
        check(Error::UpstreamTimeout(TimeoutPhase::OwnHead), true, Some(504), Backoff);
        check(Error::UpstreamTimeout(TimeoutPhase::OwnBody), true, Some(504), Never);
        let list = Error::UpstreamTimeout(TimeoutPhase::List(Duration::from_secs(30)));
        assert!(list.is_unreachable() && list.message().ends_with(" within 30 s"));
        check(list, true, Some(504), Backoff);
        check(Error::upstream_protocol("x"), true, Some(502), Never);
        check(Error::IncompleteStream, true, Some(502), Never);
        check(Error::ResponseTooLarge, false, Some(502), Never);
        check(Error::upstream_in_band(500, "x"), true, Some(500), Never);
        check(Error::upstream_status(429, "x", Backoff), true, Some(429), Backoff);
        let last = Box::new(Error::UpstreamTimeout(TimeoutPhase::Head));
        check(Error::Exhausted { last, tried: 2 }, true, Some(504), Backoff);
    }

    #[test]
    fn the_error_is_small_and_crosses_threads() {
        fn crosses<T: Send + Sync + 'static>() {}
        crosses::<Error>();
        assert!(size_of::<Error>() <= 56, "{} bytes", size_of::<Error>());
    }

    #[test]
    fn the_log_form_holds_no_foreign_text() {
        let error = Error::upstream_status(400, "prompt: tell me a secret", Retry::Never);
        assert_eq!(error.to_string(), "upstream_status: 400");
        let error = Error::upstream_protocol("arguments for \"a secret\"");
        assert_eq!(error.to_string(), "upstream_protocol: arguments for");
    }
}
