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
pub type Cause = Box<dyn StdError + Send + Sync>;

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
    AtOnce,
    /// After our own backoff.
    Backoff,
    /// Each second for as long as a model may take to load: the upstream is loading one.
    Poll,
    /// After the delay that the upstream asked for.
    After(Duration),
}

/// What the upstream was doing when its time ran out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
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
        feature: String,
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
    BodyBroken(io::Error),
    /// The body came too slowly (ours: Ollama waits for ever).
    BodyLate,
    /// The head cannot be understood safely, so that nothing else on its connection can.
    Malformed,
    /// The client left; nothing can be sent.
    DownstreamGone(io::Error),
    /// Workers and queue are full.
    Busy,
    /// The program is stopping and no longer waits for a retry.
    Stopping,
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
    State {
        /// What happened.
        reason: String,
    },
    /// No connection to the upstream: refused, no route, no such host, TLS failure.
    Connect {
        /// What happened, without any URL.
        reason: String,
    },
    /// The upstream closed the connection before it sent a byte of the answer.
    Disconnected(Cause),
    /// The same on a connection that had served before: it was closed while nobody used it.
    Stale(Cause),
    /// The upstream was not asked, because it has not been there for a while.
    UpstreamDown {
        /// How the last attempt failed.
        reason: String,
        /// When it may be worth asking again.
        retry_in: Duration,
    },
    /// The upstream took too long.
    UpstreamTimeout {
        /// At which point.
        phase: Phase,
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
        what: String,
    },
    /// The upstream ended a stream without its terminal event.
    UpstreamClosed,
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
    pub fn invalid(reason: impl Into<String>) -> Self {
        Self::InvalidRequest { reason: reason.into() }
    }

    /// The client has left while it waited.
    #[must_use]
    pub fn left() -> Self {
        Self::DownstreamGone(io::ErrorKind::ConnectionAborted.into())
    }

    /// An upstream answer that makes no sense.
    #[must_use]
    pub fn protocol(what: impl Into<String>) -> Self {
        Self::UpstreamProtocol { what: what.into() }
    }

    /// Whether the upstream refused the request as it stands, so that another one may do.
    #[must_use]
    pub fn is_refusal(&self) -> bool {
        matches!(self, Self::UpstreamStatus { status: 400 | 422, .. })
    }

    /// Whether it tells that the upstream is not there, rather than what it says.
    #[must_use]
    pub fn is_absence(&self) -> bool {
        matches!(
            self,
            Self::Connect { .. }
                | Self::Disconnected(_)
                | Self::UpstreamTimeout { phase: Phase::Connect | Phase::Head }
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
            | Self::BodyBroken(_)
            | Self::BodyLate
            | Self::Malformed
            | Self::ModelNotFound { .. }
            | Self::Unauthorized
            | Self::Forbidden { .. }
            | Self::DownstreamGone(_) => Side::Downstream,
            Self::Busy | Self::Stopping | Self::State { .. } | Self::Internal(_) => Side::Proxy,
            Self::Connect { .. }
            | Self::Disconnected(_)
            | Self::Stale(_)
            | Self::UpstreamDown { .. }
            | Self::UpstreamTimeout { .. }
            | Self::UpstreamStatus { .. }
            | Self::UpstreamProtocol { .. }
            | Self::UpstreamClosed
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
            | Self::Malformed
            | Self::BodyBroken(_) => 400,
            Self::Unauthorized => 401,
            Self::Forbidden { .. } => 403,
            Self::UnknownRoute | Self::ModelNotFound { .. } => 404,
            Self::MethodNotAllowed { .. } => 405,
            Self::BodyLate => 408,
            Self::BodyTooLarge { .. } => 413,
            Self::DownstreamGone(_) => return None,
            Self::InvalidOption { .. } | Self::State { .. } | Self::Internal(_) => 500,
            // Passing, and with a time at which to come back.
            Self::Busy | Self::Stopping | Self::UpstreamDown { .. } => 503,
            Self::Connect { .. }
            | Self::Disconnected(_)
            | Self::Stale(_)
            | Self::UpstreamProtocol { .. }
            | Self::UpstreamClosed => 502,
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
            Self::Unsupported { feature } => feature.clone(),
            Self::UnknownRoute => "404 page not found".to_owned(),
            Self::MethodNotAllowed { .. } => "405 method not allowed".to_owned(),
            Self::BodyTooLarge { limit } => {
                format!("request body too large: the limit is {limit} bytes")
            }
            Self::BodyBroken(_) => "unexpected EOF".to_owned(),
            Self::BodyLate => "request body took too long".to_owned(),
            // Go's own answer.
            Self::Malformed => "400 Bad Request".to_owned(),
            Self::DownstreamGone(_) => "client closed the connection".to_owned(),
            // The two blanks are Ollama's own (ollama-api.md 4.2).
            Self::Busy => {
                "server busy, please try again.  maximum pending requests exceeded".to_owned()
            }
            Self::Stopping => "server is shutting down".to_owned(),
            Self::ModelNotFound { message } => message.clone(),
            // Ollama's own word (ollama-api.md 4.1).
            Self::Unauthorized => "unauthorized".to_owned(),
            Self::Forbidden { reason } | Self::State { reason } => reason.clone(),
            Self::Connect { reason } => format!("cannot reach the upstream: {reason}"),
            Self::UpstreamDown { reason, .. } => format!("{reason} (not asked again yet)"),
            Self::Disconnected(_) | Self::Stale(_) => {
                "cannot reach the upstream: it closed the connection without an answer".to_owned()
            }
            Self::UpstreamTimeout { phase } => match phase {
                Phase::Connect => "timed out connecting to the upstream".to_owned(),
                Phase::Head => "timed out waiting for the upstream".to_owned(),
                Phase::Body => "timed out waiting for more of the upstream's answer".to_owned(),
            },
            Self::UpstreamStatus { message, .. } | Self::UpstreamInBand { message, .. } => {
                message.clone()
            }
            Self::UpstreamProtocol { what } => {
                format!("invalid response from the upstream: {what}")
            }
            Self::UpstreamClosed => "the upstream ended its answer early".to_owned(),
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
            | Self::BodyBroken(_)
            | Self::BodyLate
            | Self::Malformed
            | Self::DownstreamGone(_)
            | Self::Busy
            | Self::Stopping
            | Self::ModelNotFound { .. }
            | Self::Unauthorized
            | Self::Forbidden { .. }
            | Self::State { .. }
            | Self::UpstreamProtocol { .. }
            | Self::UpstreamClosed
            | Self::UpstreamInBand { .. }
            | Self::Internal(_) => Retry::Never,
            Self::Connect { .. } | Self::UpstreamDown { .. } => Retry::Backoff,
            Self::Disconnected(_) | Self::Stale(_) => Retry::AtOnce,
            Self::UpstreamTimeout { phase } => match phase {
                Phase::Connect | Phase::Head => Retry::Backoff,
                Phase::Body => Retry::Never,
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
            Self::BodyBroken(_) => "body_broken",
            Self::BodyLate => "body_late",
            Self::Malformed => "malformed",
            Self::DownstreamGone(_) => "client_gone",
            Self::Busy => "busy",
            Self::Stopping => "stopping",
            Self::ModelNotFound { .. } => "model_not_found",
            Self::Unauthorized => "unauthorized",
            Self::Forbidden { .. } => "forbidden",
            Self::State { .. } => "state",
            Self::Connect { .. } => "connect",
            Self::Disconnected(_) => "disconnected",
            Self::Stale(_) => "stale_connection",
            Self::UpstreamDown { .. } => "upstream_down",
            Self::UpstreamTimeout { .. } => "timeout",
            Self::UpstreamStatus { .. } => "upstream_status",
            Self::UpstreamProtocol { .. } => "upstream_protocol",
            Self::UpstreamClosed => "upstream_closed",
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
            Self::UpstreamProtocol { what } => {
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
            Self::DownstreamGone(source) | Self::BodyBroken(source) => Some(source),
            Self::Disconnected(source) | Self::Stale(source) => Some(source.as_ref()),
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
        use Retry::{AtOnce, Backoff, Never};
        use Side::{Downstream, Proxy, Upstream};
        let io = || io::Error::from(io::ErrorKind::BrokenPipe);
        let text = || "x".to_owned();
        check(Error::MissingBody, Downstream, Some(400), Never);
        check(Error::invalid("x"), Downstream, Some(400), Never);
        check(Error::InvalidOption { reason: text() }, Downstream, Some(500), Never);
        check(Error::Unsupported { feature: text() }, Downstream, Some(400), Never);
        check(Error::UnknownRoute, Downstream, Some(404), Never);
        check(Error::MethodNotAllowed { allow: "GET" }, Downstream, Some(405), Never);
        check(Error::BodyTooLarge { limit: 1 }, Downstream, Some(413), Never);
        check(Error::BodyBroken(io()), Downstream, Some(400), Never);
        check(Error::DownstreamGone(io()), Downstream, None, Never);
        check(Error::ModelNotFound { message: text() }, Downstream, Some(404), Never);
        check(Error::Unauthorized, Downstream, Some(401), Never);
        check(Error::Forbidden { reason: text() }, Downstream, Some(403), Never);
        check(Error::State { reason: text() }, Proxy, Some(500), Never);
        check(Error::Busy, Proxy, Some(503), Never);
        check(Error::Stopping, Proxy, Some(503), Never);
        check(Error::Internal("x"), Proxy, Some(500), Never);
        check(Error::Connect { reason: text() }, Upstream, Some(502), Backoff);
        check(Error::Disconnected(Box::new(io())), Upstream, Some(502), AtOnce);
        check(Error::Stale(Box::new(io())), Upstream, Some(502), AtOnce);
        let retry_in = Duration::ZERO;
        check(Error::UpstreamDown { reason: text(), retry_in }, Upstream, Some(503), Backoff);
        check(Error::UpstreamTimeout { phase: Phase::Connect }, Upstream, Some(504), Backoff);
        check(Error::UpstreamTimeout { phase: Phase::Head }, Upstream, Some(504), Backoff);
        check(Error::UpstreamTimeout { phase: Phase::Body }, Upstream, Some(504), Never);
        check(Error::protocol("x"), Upstream, Some(502), Never);
        check(Error::UpstreamClosed, Upstream, Some(502), Never);
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
        let error = Error::protocol("arguments for \"a secret\"");
        assert_eq!(error.to_string(), "upstream_protocol: arguments for");
    }
}
