//! Reports an error to the client of an exchange.
//!
//! Before the first byte of the response an error has its own status and headers; in a stream it is
//! the last line or event; a stream without lines is cut. Never decides what an error means: status
//! and text come from [`Error`], the format from the exchange's `ErrorFormat`. Invariant: the
//! exchange is done afterwards.

use std::time::Duration;

use super::{ContentType, Exchange, State, StreamFormat};
use crate::api::openai::pass_head::RETRY_FORBIDDEN;
use crate::error::{Error, LimitReached, Result, Retry};
use crate::http::error_format::{AUTH_CHALLENGES, BEARER_CHALLENGE, ErrorFormat};

/// Sent instead of a chunk where a stream without lines breaks off. tiny_http leaves the connection
/// open when a writer is dropped, and the client would wait forever; at an invalid chunk its parser
/// fails at once, and never takes the part for the whole.
const INVALID_FRAME: &[u8] =
    b"the upstream closed the connection before its response was complete\r\n";

/// The longest delay that a client is told: what an upstream asks for may be any number.
const MAX_TOLD_DELAY: Duration = Duration::from_secs(86_400);

impl Exchange {
    /// Tells clients of `/v1` not to retry: their SDKs would repeat all attempts that were made here.
    pub fn forbid_retry(&mut self) {
        if self.error_format != ErrorFormat::Ollama {
            let (name, value) = RETRY_FORBIDDEN;
            self.add_headers(vec![(name, value.to_owned())]);
        }
    }

    /// Reports `error` to the client, unless the response is complete or the client is gone.
    pub fn fail(&mut self, error: &Error) {
        if matches!(error, Error::ResponseTooLarge) {
            // The model has written the response, and would only write it once more.
            self.forbid_retry();
        }
        let sent = self.error_format.status(error).map(|status| self.send_error(error, status));
        if !matches!(sent, Some(Ok(()))) {
            // The client is gone.
            self.abandon();
        }
    }

    fn send_error(&mut self, error: &Error, status: u16) -> Result<()> {
        let opaque = self.stream_format.is_opaque();
        match &self.state {
            State::Done => Ok(()),
            State::Waiting(_) if self.pending.is_empty() || opaque => {
                self.pending.clear();
                self.respond_with_error(error, status)
            }
            State::Waiting(_) | State::Streaming(_) if opaque => {
                self.close_after_response();
                self.end_with_frame(INVALID_FRAME)
            }
            // Lines that are not written yet are part of the response, too.
            State::Waiting(_) | State::Streaming(_) => {
                if matches!(self.stream_format, StreamFormat::Passthrough(_)) {
                    // The last event may be incomplete.
                    self.push_line(b"\n\n");
                }
                self.push_line(&self.error_format.event(error, status));
                self.end()
            }
        }
    }

    fn respond_with_error(&mut self, error: &Error, status: u16) -> Result<()> {
        // The upstream's head does not belong to this response.
        self.stream_format = StreamFormat::Lines;
        let (kind, body) = match error {
            // Ollama's router (gin) answers these in plain text.
            Error::UnknownRoute | Error::MalformedHead | Error::MethodNotAllowed(_) => {
                (ContentType::PLAIN, error.message().into_bytes())
            }
            _ => {
                let bare = self.error_format.has_bare_json(error);
                let kind = if bare { ContentType::BARE_JSON } else { ContentType::JSON };
                (kind, self.error_format.body(error, status, &self.request_id))
            }
        };
        let told = match error {
            Error::Exhausted { last, .. } => last,
            error => error,
        };
        let retry_after = match told {
            Error::Busy => Some(1.0),
            Error::TooManyWrongKeys(wait) | Error::KeyLimitReached(LimitReached { wait, .. }) => {
                Some(wait.as_secs_f64().ceil().max(1.0))
            }
            Error::UpstreamStatus { retry: Retry::After(delay), .. }
            | Error::UpstreamDown { retry_after: delay, .. } => {
                Some((*delay).min(MAX_TOLD_DELAY).as_secs_f64().ceil())
            }
            _ => None,
        };
        let retry_after = retry_after.map(|seconds| seconds.to_string());
        let headers: &[(&str, &str)] = match (error, &retry_after) {
            (Error::MethodNotAllowed(allow), _) => &[("Allow", *allow)],
            // What is spoken here instead; such a response must name it (RFC 9110 section 15.5.22).
            (Error::UpgradeRequired, _) => &[("Upgrade", "HTTP/1.1"), ("Connection", "Upgrade")],
            (Error::Unauthorized, _) if self.is_from_own_page => BEARER_CHALLENGE,
            (Error::Unauthorized, _) => AUTH_CHALLENGES,
            (_, Some(seconds)) => &[("Retry-After", seconds)],
            _ => &[],
        };
        self.respond_with_headers(status, kind, headers, &body)
    }
}
