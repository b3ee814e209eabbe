//! Requests of clients that the upstream understands as they are, and its answers as they come.
//!
//! The body of an answer is handed on in the pieces in which it arrives and never changed. What it
//! says is looked at only where nothing else tells whether it came to its end. An error keeps its status and its body, but for keys in it. Invariant: like everywhere,
//! nothing is tried again once a byte of an answer was handed on; and what streams into the upstream
//! out of a client is sent once, because nobody holds it.

use std::io::Read;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use ureq::http::Response;
use ureq::{Body, BodyReader, SendBody};

use super::response::OpenStreamGuard;
use super::transport::agent;
use super::transport::agent::{check_cancelled, header};
use super::transport::read_deadline::{ReadDeadline, fill_available};
use super::{Client, Trace};
use crate::api::openai::pass_head::PassHead;
use crate::api::openai::sse_end::EndDetector;
use crate::backends::errors;
use crate::error::{Error, Result};
use crate::observe::body_log::{BodyLogger, LineLogger};
use crate::observe::metrics::Metrics;
use crate::translate::pass_through::{Endpoint, PassBody};
use crate::upstream::breaker::Caller;

/// Whole answers up to this length are gathered, so that one that breaks off gets a real status.
const MAX_BUFFERED_BYTES: u64 = 64 * 1024;

/// Bytes of an error's body that are passed on.
const MAX_ERROR_BYTES: u64 = 1024 * 1024;

/// Bytes that one read takes from an answer.
const READ_BUFFER_BYTES: usize = 16 * 1024;

/// What ends a stream of events, with the blank line behind it.
const DONE_MARKERS: [&[u8]; 2] = [b"[DONE]\n\n", b"[DONE]\r\n\r\n"];

/// As many bytes as the longest of them has.
const TAIL_BYTES: usize = DONE_MARKERS[1].len();

/// Headers of the client that go along.
pub type PassHeaders = Vec<(&'static str, String)>;

/// An answer as the upstream sent it, an error included.
pub struct PassResponse {
    /// Its head.
    pub head: PassHead,
    /// Its body.
    pub body: PassResponseBody,
}

/// The body of a [`PassResponse`].
pub enum PassResponseBody {
    /// All of it.
    Whole(Vec<u8>),
    /// As it comes. Dropping it closes the upstream's connection.
    Stream(Box<PassStream>),
}

/// What a client's request needs beside its body.
struct PassRequest<'a> {
    operation: &'static str,
    path: &'static str,
    model: Option<&'a str>,
    headers: &'a PassHeaders,
}

impl Client {
    /// Passes a request on, adapted where the upstream refuses it as it is.
    ///
    /// # Errors
    /// What keeps the upstream from answering; its own errors are answers.
    pub fn pass(
        &self,
        endpoint: Endpoint,
        request: &mut PassBody<'_>,
        headers: &PassHeaders,
        trace: &mut Trace,
    ) -> Result<PassResponse> {
        let (operation, path) = ("pass", endpoint.path());
        let mut refused = None;
        let answer = self.with_repairs(operation, path, request, trace, |request, trace| {
            let passing = PassRequest { operation, path, model: Some(request.model()), headers };
            self.pass_buffered(&passing, &request.to_bytes(), trace, &mut refused)
        });
        prefer_upstream_error(answer, refused)
    }

    /// Passes on a body that is no JSON.
    ///
    /// # Errors
    /// As [`Client::pass`].
    pub fn pass_bytes(
        &self,
        path: &'static str,
        model: Option<&str>,
        headers: &PassHeaders,
        body: &[u8],
        trace: &mut Trace,
    ) -> Result<PassResponse> {
        let passing = PassRequest { operation: "pass", path, model, headers };
        let mut refused = None;
        let answer = self.pass_buffered(&passing, body, trace, &mut refused);
        prefer_upstream_error(answer, refused)
    }

    /// Passes on what `body` reads, of this length. It is sent once and is not mended: nobody holds
    /// it.
    ///
    /// # Errors
    /// As [`Client::pass`].
    pub fn pass_stream(
        &self,
        path: &'static str,
        model: Option<&str>,
        headers: &PassHeaders,
        (body, length): (&mut dyn Read, usize),
        trace: &mut Trace,
    ) -> Result<PassResponse> {
        let passing = PassRequest { operation: "pass_stream", path, model, headers };
        let mut refused = None;
        let mut headers = headers.clone();
        headers.push(("content-length", length.to_string()));
        let passing = PassRequest { headers: &headers, ..passing };
        let body = SendBody::from_reader(body);
        let answer = self.try_once(passing.operation, trace, |trace| {
            self.attempt_pass(&passing, body, trace, &mut refused)
        });
        prefer_upstream_error(answer, refused)
    }

    /// Whether a request for this model is sent in another form than it came.
    #[must_use]
    pub fn has_cached_repairs(&self, path: &'static str, model: &str) -> bool {
        !self.repair_cache.get(path, model, Instant::now()).is_empty()
    }

    fn pass_buffered(
        &self,
        passing: &PassRequest<'_>,
        body: &[u8],
        trace: &mut Trace,
        refused: &mut Option<PassResponse>,
    ) -> Result<PassResponse> {
        let how = (self.retry_policy, Caller::New);
        self.retry(passing.operation, how, trace, |trace| {
            let mut reader = body;
            let length = body.len().to_string();
            let mut headers = passing.headers.clone();
            headers.push(("content-length", length));
            let passing = PassRequest { headers: &headers, ..*passing };
            self.body_log.log(&trace.request_id, "request to the upstream", body);
            self.attempt_pass(&passing, SendBody::from_reader(&mut reader), trace, refused)
        })
    }

    fn attempt_pass(
        &self,
        passing: &PassRequest<'_>,
        body: SendBody<'_>,
        trace: &mut Trace,
        refused: &mut Option<PassResponse>,
    ) -> Result<PassResponse> {
        *refused = None;
        let url = self.build_url(passing.path, passing.model);
        let request = self.build_request(&url, None, self.request_timeout, trace);
        let response = self.agent.pass(&request, passing.headers, body)?;
        let status = response.status().as_u16();
        let headers = response.headers().clone();
        let texts = headers.iter();
        let texts = texts.filter_map(|(name, value)| Some((name.as_str(), value.to_str().ok()?)));
        let mut head = PassHead::from_headers(status, texts);
        for (_, value) in &mut head.headers {
            *value = self.redactor.redact(value).into_owned();
        }
        if response.status().is_success() {
            let tap = self.body_log.logger(&trace.request_id);
            return PassResponse::from_response(
                head,
                response,
                (self.request_timeout, tap),
                &self.metrics,
            );
        }
        let body = agent::read_error_body(response, MAX_ERROR_BYTES);
        self.body_log.log(&trace.request_id, "error of the upstream", &body);
        trace.refusal = errors::parse_rejection(status, &body);
        let (method, url, now) = ("POST", url.as_str(), SystemTime::now());
        let model = Some(trace.model.as_str());
        let hint = agent::FailureHint { method, url, model, now };
        let error = agent::error_from_head(status, &headers, &body, &hint, &self.redactor);
        // A redirect is nothing that a client could follow.
        *refused = (status >= 400).then(|| PassResponse { head, body: self.redact_body(body) });
        Err(error)
    }

    fn redact_body(&self, body: Vec<u8>) -> PassResponseBody {
        let cleaned = match self.redactor.redact(&String::from_utf8_lossy(&body)) {
            std::borrow::Cow::Owned(cleaned) => Some(cleaned.into_bytes()),
            std::borrow::Cow::Borrowed(_) => None,
        };
        PassResponseBody::Whole(cleaned.unwrap_or(body))
    }
}

/// The upstream's own error is an answer.
fn prefer_upstream_error(
    answer: Result<PassResponse>,
    refused: Option<PassResponse>,
) -> Result<PassResponse> {
    match (answer, refused) {
        (Err(Error::ShuttingDown), _) => Err(Error::ShuttingDown),
        (Err(_), Some(refused)) => Ok(refused),
        (answer, _) => answer,
    }
}

impl PassResponse {
    fn from_response(
        head: PassHead,
        response: Response<Body>,
        (timeout, tap): (Duration, Option<BodyLogger>),
        metrics: &Arc<Metrics>,
    ) -> Result<Self> {
        let length = header(response.headers(), "content-length").and_then(|it| it.parse().ok());
        let small = length.is_some_and(|length: u64| length <= MAX_BUFFERED_BYTES);
        let ends_alone = length.is_none() && !is_chunked(&response);
        let mut reader = response.into_body().into_reader();
        let mut bound = ReadDeadline::new(timeout);
        if !head.is_event_stream() && small {
            let mut body = Vec::new();
            bound.read_to_end(&mut reader, (MAX_BUFFERED_BYTES, length), &mut body)?;
            agent::check_cancelled()?;
            if let Some(tap) = tap {
                tap.log("answer of the upstream", &body);
            }
            return Ok(Self { head, body: PassResponseBody::Whole(body) });
        }
        let buffer = vec![0; READ_BUFFER_BYTES].into_boxed_slice();
        let tap = tap.map(|tap| Box::new(tap.into_line_logger("answer of the upstream")));
        let (events, open) = (head.is_event_stream(), OpenStreamGuard::new(metrics.clone()));
        let end = (events && ends_alone).then(Box::default);
        let tail = Vec::new();
        let failure = None;
        let stream = PassStream {
            reader,
            buffer,
            is_event_stream: events,
            tail,
            end_detector: end,
            pending_error: failure,
            read_deadline: bound,
            open_guard: open,
            logger: tap,
        };
        Ok(Self { head, body: PassResponseBody::Stream(Box::new(stream)) })
    }

    /// Whether the upstream says that it has no such route, and not only no such model.
    #[must_use]
    pub fn is_unknown_route(&self) -> bool {
        match &self.body {
            PassResponseBody::Whole(body) => errors::is_unknown_route(self.head.status, body),
            PassResponseBody::Stream(_) => false,
        }
    }
}

/// Whether the end of a body is marked by its coding.
fn is_chunked(response: &Response<Body>) -> bool {
    let coding = header(response.headers(), "transfer-encoding").unwrap_or_default();
    coding.to_ascii_lowercase().contains("chunked")
}

/// The pieces of a body.
pub struct PassStream {
    reader: BodyReader<'static>,
    buffer: Box<[u8]>,
    /// Whether it may go on for as long as each of its lines ends in time.
    is_event_stream: bool,
    /// The last bytes that came, of events only.
    tail: Vec<u8>,
    /// What was seen of its end, of events only whose end is that of their connection.
    end_detector: Option<Box<EndDetector>>,
    /// What went wrong behind what has come.
    pending_error: Option<Error>,
    read_deadline: ReadDeadline,
    open_guard: OpenStreamGuard,
    logger: Option<Box<LineLogger>>,
}

impl PassStream {
    /// Waits for the next piece; `None` at the end.
    ///
    /// # Errors
    /// [`Error::UpstreamTimeout`] after too long a silence or for a line, or a body without lines,
    /// that takes too long, [`Error::IncompleteStream`] when the connection broke, or ended
    /// before events did that only their connection delimits.
    #[allow(clippy::should_implement_trait)] // It lends what it reads.
    pub fn next_piece(&mut self) -> Result<Option<&[u8]>> {
        let read = match self.pending_error.take() {
            Some(error) => Err(error),
            None => self.read_deadline.read(&mut self.reader, &mut self.buffer),
        };
        match read {
            Ok(0) => {
                check_cancelled()?;
                match &self.end_detector {
                    Some(end) if !end.is_complete() => {
                        Err(self.open_guard.count_failure(Error::IncompleteStream))
                    }
                    _ => Ok(None),
                }
            }
            Ok(first) => {
                let length;
                (length, self.pending_error) =
                    fill_available(&mut self.reader, &mut self.buffer, first);
                if self.is_event_stream {
                    self.track_event_end(length);
                }
                let piece = &self.buffer[..length];
                if let Some(tap) = &mut self.logger {
                    tap.push(piece);
                }
                Ok(Some(piece))
            }
            // Behind the mark nothing is missing.
            Err(_) if self.is_done() => Ok(None),
            Err(error) => Err(self.open_guard.count_failure(error)),
        }
    }

    /// Notes what a piece of events, of this length, has at its end.
    fn track_event_end(&mut self, length: usize) {
        let piece = &self.buffer[..length];
        // Mostly the last byte is one.
        if piece.iter().rev().any(|byte| matches!(byte, b'\n' | b'\r')) {
            self.read_deadline.reset();
        }
        if let Some(end) = &mut self.end_detector {
            end.push(piece);
        }
        self.tail.extend_from_slice(&piece[length.saturating_sub(TAIL_BYTES)..]);
        self.tail.drain(..self.tail.len().saturating_sub(TAIL_BYTES));
    }

    /// Whether the mark that ends a stream has come.
    fn is_done(&self) -> bool {
        DONE_MARKERS.iter().any(|mark| self.tail.ends_with(mark))
    }
}
