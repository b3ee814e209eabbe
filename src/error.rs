//! The one error type of the program.
//!
//! Every failure of an exchange becomes one [`Error`], and the edge asks it four things: whose
//! fault it is ([`Error::side`]), which status the client gets ([`Error::status`]), what the client
//! may read ([`Error::message`]) and whether the attempt may be repeated ([`Error::retry`]). Each
//! answer is a `match` without a catch-all arm, so that a new variant cannot be forgotten.
//! It names no HTTP crate, and no message holds a key: texts from upstream are cleaned before
//! they come here. Start-up errors are not here; they belong to [`crate::config`].

use std::error::Error as StdError;
use std::fmt;
use std::io;
use std::time::Duration;

/// `Result` with this crate's [`Error`].
pub type Result<T> = std::result::Result<T, Error>;

/// A cause from another crate.
pub type BoxError = Box<dyn StdError + Send + Sync>;

/// Whose fault an error is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The Ollama-speaking client.
    Downstream,
    /// This program.
    Proxy,
    /// The OpenAI-speaking server.
    Upstream,
}

/// Whether an attempt may be repeated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retry {
    /// Never.
    Never,
    /// Once, without waiting: a pooled connection had been closed by the upstream.
    Immediate,
    /// After our own backoff.
    Backoff,
    /// Each second for as long as a model may take to load: the upstream is loading one.
    Poll,
    /// After the delay that the upstream asked for.
    After(Duration),
}

/// What the upstream was doing when its time ran out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TimeoutPhase {
    /// Connecting, including the TLS handshake.
    Connect,
    /// Waiting for the head of the answer (or sending the request).
    Head,
    /// Waiting for more of the body.
    Body,
}

/// Everything that can go wrong with one exchange.
#[derive(Debug)]
#[non_exhaustive]
pub enum Error {
    /// The request has no body where one is needed (ollama-api.md 1.1).
    MissingBody,
    /// The request cannot be understood; `reason` is what the client reads.
    InvalidRequest {
        /// The sentence for the client, naming the field.
        reason: String,
    },
    /// An option, format or template that Ollama itself answers with 500 (ollama-api.md 5.1, 5.4,
    /// 9.1).
    InvalidOption {
        /// The sentence for the client.
        reason: String,
    },
    /// Something Ollama can do and this proxy, or this upstream, cannot.
    Unsupported {
        /// The sentence for the client.
        reason: String,
    },
    /// No such path.
    UnknownRoute,
    /// The path exists, the method does not.
    MethodNotAllowed {
        /// The value of the `Allow` header.
        allow: &'static str,
    },
    /// The body is larger than the configured limit.
    BodyTooLarge {
        /// The limit in bytes.
        limit: usize,
    },
    /// The body broke off or its framing is wrong.
    BodyReadFailed(io::Error),
    /// The body came too slowly (ours: Ollama waits for ever).
    BodyTimeout,
    /// The head cannot be understood safely, so that nothing else on its connection can.
    MalformedHead,
    /// The client left; nothing can be sent.
    ClientDisconnected(io::Error),
    /// Workers and queue are full.
    Busy,
    /// The program is stopping and no longer waits for a retry.
    ShuttingDown,
    /// The model is unknown; the wording differs by route (ollama-api.md 4.2).
    ModelNotFound {
        /// The sentence for the client.
        message: String,
    },
    /// The request brings no key, or a wrong one, where keys are asked for.
    Unauthorized,
    /// Something that must not be done here (ollama-api.md 4.2: 403).
    Forbidden {
        /// The sentence for the client.
        reason: String,
    },
    /// The state file cannot be written.
    StateFile {
        /// What happened.
        reason: String,
    },
    /// No connection to the upstream: refused, no route, no such host, TLS failure.
    Connect {
        /// What happened, without any URL.
        reason: String,
    },
    /// The upstream closed the connection before it sent a byte of the answer.
    ClosedBeforeResponse(BoxError),
    /// The same on a connection that had served before: it was closed while nobody used it.
    StaleConnection(BoxError),
    /// The upstream was not asked, because it has not been there for a while.
    UpstreamDown {
        /// How the last attempt failed.
        reason: String,
        /// When it may be worth asking again.
        retry_after: Duration,
    },
    /// The upstream took too long.
    UpstreamTimeout {
        /// At which point.
        phase: TimeoutPhase,
    },
    /// The upstream answered with an error.
    UpstreamStatus {
        /// The status, passed through.
        status: u16,
        /// The upstream's own message, unwrapped and redacted.
        message: String,
        /// Whether the attempt may be repeated, from status, code and headers.
        retry: Retry,
    },
    /// The upstream's answer makes no sense.
    UpstreamProtocol {
        /// What it sent, in our words.
        reason: String,
    },
    /// The upstream ended a stream without its terminal event.
    IncompleteStream,
    /// An error that the upstream reported inside a stream or inside a success.
    UpstreamInBand {
        /// A status for the case that no line was sent yet.
        status: u16,
        /// The upstream's own message, unwrapped and redacted.
        message: String,
    },
    /// A panic or a broken invariant.
    Internal(&'static str),
}

impl Error {
    /// A request that cannot be understood.
    #[must_use]
    pub fn invalid_request(reason: impl Into<String>) -> Self {
        Self::InvalidRequest { reason: reason.into() }
    }

    /// Ollama's text for an unknown model.
    #[must_use]
    pub fn model_not_found(name: &str) -> Self {
        Self::ModelNotFound { message: format!("model '{name}' not found") }
    }

    /// The client has left while it waited.
    #[must_use]
    pub fn client_disconnected() -> Self {
        Self::ClientDisconnected(io::ErrorKind::ConnectionAborted.into())
    }

    /// An upstream answer that makes no sense.
    #[must_use]
    pub fn upstream_protocol(what: impl Into<String>) -> Self {
        Self::UpstreamProtocol { reason: what.into() }
    }

    /// Whether the upstream refused the request as it stands, so that another one may do.
    #[must_use]
    pub fn is_upstream_rejection(&self) -> bool {
        matches!(self, Self::UpstreamStatus { status: 400 | 422, .. })
    }

    /// Whether it tells that the upstream is not there, rather than what it says.
    #[must_use]
    pub fn is_unreachable(&self) -> bool {
        matches!(
            self,
            Self::Connect { .. }
                | Self::ClosedBeforeResponse(_)
                | Self::UpstreamTimeout { phase: TimeoutPhase::Connect | TimeoutPhase::Head }
        )
    }

    /// Whose fault it is.
    #[must_use]
    pub fn side(&self) -> Side {
        match self {
            Self::MissingBody
            | Self::InvalidRequest { .. }
            | Self::InvalidOption { .. }
            | Self::Unsupported { .. }
            | Self::UnknownRoute
            | Self::MethodNotAllowed { .. }
            | Self::BodyTooLarge { .. }
            | Self::BodyReadFailed(_)
            | Self::BodyTimeout
            | Self::MalformedHead
            | Self::ModelNotFound { .. }
            | Self::Unauthorized
            | Self::Forbidden { .. }
            | Self::ClientDisconnected(_) => Side::Downstream,
            Self::Busy | Self::ShuttingDown | Self::StateFile { .. } | Self::Internal(_) => {
                Side::Proxy
            }
            Self::Connect { .. }
            | Self::ClosedBeforeResponse(_)
            | Self::StaleConnection(_)
            | Self::UpstreamDown { .. }
            | Self::UpstreamTimeout { .. }
            | Self::UpstreamStatus { .. }
            | Self::UpstreamProtocol { .. }
            | Self::IncompleteStream
            | Self::UpstreamInBand { .. } => Side::Upstream,
        }
    }

    /// The status for the client; `None` when nobody is there to read it.
    #[must_use]
    pub fn status(&self) -> Option<u16> {
        Some(match self {
            Self::MissingBody
            | Self::InvalidRequest { .. }
            | Self::Unsupported { .. }
            | Self::MalformedHead
            | Self::BodyReadFailed(_) => 400,
            Self::Unauthorized => 401,
            Self::Forbidden { .. } => 403,
            Self::UnknownRoute | Self::ModelNotFound { .. } => 404,
            Self::MethodNotAllowed { .. } => 405,
            Self::BodyTimeout => 408,
            Self::BodyTooLarge { .. } => 413,
            Self::ClientDisconnected(_) => return None,
            Self::InvalidOption { .. } | Self::StateFile { .. } | Self::Internal(_) => 500,
            // Passing, and with a time at which to come back.
            Self::Busy | Self::ShuttingDown | Self::UpstreamDown { .. } => 503,
            Self::Connect { .. }
            | Self::ClosedBeforeResponse(_)
            | Self::StaleConnection(_)
            | Self::UpstreamProtocol { .. }
            | Self::IncompleteStream => 502,
            Self::UpstreamTimeout { .. } => 504,
            Self::UpstreamStatus { status, .. } | Self::UpstreamInBand { status, .. } => *status,
        })
    }

    /// The sentence for the client: never a key, never a URL with credentials.
    #[must_use]
    pub fn message(&self) -> String {
        match self {
            Self::MissingBody => "missing request body".to_owned(),
            Self::InvalidRequest { reason } | Self::InvalidOption { reason } => reason.clone(),
            Self::Unsupported { reason: feature } => feature.clone(),
            Self::UnknownRoute => "404 page not found".to_owned(),
            Self::MethodNotAllowed { .. } => "405 method not allowed".to_owned(),
            Self::BodyTooLarge { limit } => {
                format!("request body too large: the limit is {limit} bytes")
            }
            Self::BodyReadFailed(_) => "unexpected EOF".to_owned(),
            Self::BodyTimeout => "request body took too long".to_owned(),
            // Go's own answer.
            Self::MalformedHead => "400 Bad Request".to_owned(),
            Self::ClientDisconnected(_) => "client closed the connection".to_owned(),
            // The two blanks are Ollama's own (ollama-api.md 4.2).
            Self::Busy => {
                "server busy, please try again.  maximum pending requests exceeded".to_owned()
            }
            Self::ShuttingDown => "server is shutting down".to_owned(),
            Self::ModelNotFound { message } => message.clone(),
            // Ollama's own word (ollama-api.md 4.1).
            Self::Unauthorized => "unauthorized".to_owned(),
            Self::Forbidden { reason } | Self::StateFile { reason } => reason.clone(),
            Self::Connect { reason } => format!("cannot reach the upstream: {reason}"),
            Self::UpstreamDown { reason, .. } => format!("{reason} (not asked again yet)"),
            Self::ClosedBeforeResponse(_) | Self::StaleConnection(_) => {
                "cannot reach the upstream: it closed the connection without an answer".to_owned()
            }
            Self::UpstreamTimeout { phase } => match phase {
                TimeoutPhase::Connect => "timed out connecting to the upstream".to_owned(),
                TimeoutPhase::Head => "timed out waiting for the upstream".to_owned(),
                TimeoutPhase::Body => {
                    "timed out waiting for more of the upstream's answer".to_owned()
                }
            },
            Self::UpstreamStatus { message, .. } | Self::UpstreamInBand { message, .. } => {
                message.clone()
            }
            Self::UpstreamProtocol { reason: what } => {
                format!("invalid response from the upstream: {what}")
            }
            Self::IncompleteStream => "the upstream ended its answer early".to_owned(),
            Self::Internal(_) => "internal error".to_owned(),
        }
    }

    /// Whether the attempt that ended so may be repeated. Whoever asks must also know that no byte
    /// of an answer was passed on.
    #[must_use]
    pub fn retry(&self) -> Retry {
        match self {
            Self::MissingBody
            | Self::InvalidRequest { .. }
            | Self::InvalidOption { .. }
            | Self::Unsupported { .. }
            | Self::UnknownRoute
            | Self::MethodNotAllowed { .. }
            | Self::BodyTooLarge { .. }
            | Self::BodyReadFailed(_)
            | Self::BodyTimeout
            | Self::MalformedHead
            | Self::ClientDisconnected(_)
            | Self::Busy
            | Self::ShuttingDown
            | Self::ModelNotFound { .. }
            | Self::Unauthorized
            | Self::Forbidden { .. }
            | Self::StateFile { .. }
            | Self::UpstreamProtocol { .. }
            | Self::IncompleteStream
            | Self::UpstreamInBand { .. }
            | Self::Internal(_) => Retry::Never,
            Self::Connect { .. } | Self::UpstreamDown { .. } => Retry::Backoff,
            Self::ClosedBeforeResponse(_) | Self::StaleConnection(_) => Retry::Immediate,
            Self::UpstreamTimeout { phase } => match phase {
                TimeoutPhase::Connect | TimeoutPhase::Head => Retry::Backoff,
                TimeoutPhase::Body => Retry::Never,
            },
            Self::UpstreamStatus { retry, .. } => *retry,
        }
    }

    /// A word for the log: which kind of failure this was.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::MissingBody => "missing_body",
            Self::InvalidRequest { .. } => "invalid_request",
            Self::InvalidOption { .. } => "invalid_option",
            Self::Unsupported { .. } => "unsupported",
            Self::UnknownRoute => "unknown_route",
            Self::MethodNotAllowed { .. } => "method_not_allowed",
            Self::BodyTooLarge { .. } => "body_too_large",
            Self::BodyReadFailed(_) => "body_broken",
            Self::BodyTimeout => "body_late",
            Self::MalformedHead => "malformed",
            Self::ClientDisconnected(_) => "client_gone",
            Self::Busy => "busy",
            Self::ShuttingDown => "stopping",
            Self::ModelNotFound { .. } => "model_not_found",
            Self::Unauthorized => "unauthorized",
            Self::Forbidden { .. } => "forbidden",
            Self::StateFile { .. } => "state",
            Self::Connect { .. } => "connect",
            Self::ClosedBeforeResponse(_) => "disconnected",
            Self::StaleConnection(_) => "stale_connection",
            Self::UpstreamDown { .. } => "upstream_down",
            Self::UpstreamTimeout { .. } => "timeout",
            Self::UpstreamStatus { .. } => "upstream_status",
            Self::UpstreamProtocol { .. } => "upstream_protocol",
            Self::IncompleteStream => "upstream_closed",
            Self::UpstreamInBand { .. } => "upstream_in_band",
            Self::Internal(_) => "internal",
        }
    }
}

/// For the log: the kind, the status, and details only where they are ours. Texts that came from
/// the upstream or the client are left out: they can hold parts of a prompt.
impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.kind())?;
        match self {
            Self::Connect { reason } => write!(f, ": {reason}"),
            Self::UpstreamTimeout { phase } => write!(f, ": {phase:?}"),
            Self::UpstreamStatus { status, .. } | Self::UpstreamInBand { status, .. } => {
                write!(f, ": {status}")
            }
            // What is quoted is the upstream's.
            Self::UpstreamProtocol { reason: what } => {
                write!(f, ": {}", what.split('"').next().unwrap_or_default().trim_end())
            }
            Self::Internal(what) => write!(f, ": {what}"),
            _ => Ok(()),
        }
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        match self {
            Self::ClientDisconnected(source) | Self::BodyReadFailed(source) => Some(source),
            Self::ClosedBeforeResponse(source) | Self::StaleConnection(source) => {
                Some(source.as_ref())
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(error: Error, side: Side, status: Option<u16>, retry: Retry) {
        assert_eq!(error.side(), side, "{error}");
        assert_eq!(error.status(), status, "{error}");
        assert_eq!(error.retry(), retry, "{error}");
        assert!(!error.message().is_empty(), "{error}");
    }

    #[test]
    fn every_variant_knows_its_side_status_and_retry() {
        use Retry::{Backoff, Immediate, Never};
        use Side::{Downstream, Proxy, Upstream};
        let io = || io::Error::from(io::ErrorKind::BrokenPipe);
        let text = || "x".to_owned();
        check(Error::MissingBody, Downstream, Some(400), Never);
        check(Error::invalid_request("x"), Downstream, Some(400), Never);
        check(Error::InvalidOption { reason: text() }, Downstream, Some(500), Never);
        check(Error::Unsupported { reason: text() }, Downstream, Some(400), Never);
        check(Error::UnknownRoute, Downstream, Some(404), Never);
        check(Error::MethodNotAllowed { allow: "GET" }, Downstream, Some(405), Never);
        check(Error::BodyTooLarge { limit: 1 }, Downstream, Some(413), Never);
        check(Error::BodyReadFailed(io()), Downstream, Some(400), Never);
        check(Error::ClientDisconnected(io()), Downstream, None, Never);
        check(Error::ModelNotFound { message: text() }, Downstream, Some(404), Never);
        check(Error::Unauthorized, Downstream, Some(401), Never);
        check(Error::Forbidden { reason: text() }, Downstream, Some(403), Never);
        check(Error::StateFile { reason: text() }, Proxy, Some(500), Never);
        check(Error::Busy, Proxy, Some(503), Never);
        check(Error::ShuttingDown, Proxy, Some(503), Never);
        check(Error::Internal("x"), Proxy, Some(500), Never);
        check(Error::Connect { reason: text() }, Upstream, Some(502), Backoff);
        check(Error::ClosedBeforeResponse(Box::new(io())), Upstream, Some(502), Immediate);
        check(Error::StaleConnection(Box::new(io())), Upstream, Some(502), Immediate);
        let retry_in = Duration::ZERO;
        check(
            Error::UpstreamDown { reason: text(), retry_after: retry_in },
            Upstream,
            Some(503),
            Backoff,
        );
        check(
            Error::UpstreamTimeout { phase: TimeoutPhase::Connect },
            Upstream,
            Some(504),
            Backoff,
        );
        check(Error::UpstreamTimeout { phase: TimeoutPhase::Head }, Upstream, Some(504), Backoff);
        check(Error::UpstreamTimeout { phase: TimeoutPhase::Body }, Upstream, Some(504), Never);
        check(Error::upstream_protocol("x"), Upstream, Some(502), Never);
        check(Error::IncompleteStream, Upstream, Some(502), Never);
        check(Error::UpstreamInBand { status: 500, message: text() }, Upstream, Some(500), Never);
        let status = Error::UpstreamStatus { status: 429, message: text(), retry: Backoff };
        check(status, Upstream, Some(429), Backoff);
    }

    #[test]
    fn the_error_is_small_and_crosses_threads() {
        fn crosses<T: Send + Sync + 'static>() {}
        crosses::<Error>();
        assert!(size_of::<Error>() <= 56, "{} bytes", size_of::<Error>());
    }

    #[test]
    fn the_log_form_holds_no_foreign_text() {
        let error = Error::UpstreamStatus {
            status: 400,
            message: "prompt: tell me a secret".into(),
            retry: Retry::Never,
        };
        assert_eq!(error.to_string(), "upstream_status: 400");
        let error = Error::upstream_protocol("arguments for \"a secret\"");
        assert_eq!(error.to_string(), "upstream_protocol: arguments for");
    }
}
