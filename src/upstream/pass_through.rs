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

use super::response::OpenStream;
use super::transport::agent;
use super::transport::agent::{header, not_cancelled};
use super::transport::read_deadline::{Bound, gather};
use super::{Client, Trace};
use crate::api::openai::pass_head::PassedHead;
use crate::api::openai::sse_end::End;
use crate::backends::errors;
use crate::error::{Error, Result};
use crate::observe::body_log::{LineTap, Tap};
use crate::observe::metrics::Metrics;
use crate::translate::pass_through::{Endpoint, RawBody};
use crate::upstream::breaker::Caller;

/// Whole answers up to this length are gathered, so that one that breaks off gets a real status.
const SMALL_ANSWER: u64 = 64 * 1024;

/// Bytes of an error's body that are passed on.
const ERROR_BYTES: u64 = 1024 * 1024;

/// Bytes that one read takes from an answer.
const READ_BYTES: usize = 16 * 1024;

/// What ends a stream of events, with the blank line behind it.
const DONE: [&[u8]; 2] = [b"[DONE]\n\n", b"[DONE]\r\n\r\n"];

/// As many bytes as the longest of them has.
const TAIL_BYTES: usize = DONE[1].len();

/// Headers of the client that go along.
pub type PassedHeaders = Vec<(&'static str, String)>;

/// An answer as the upstream sent it, an error included.
pub struct PassedAnswer {
    /// Its head.
    pub head: PassedHead,
    /// Its body.
    pub body: PassedBody,
}

/// The body of a [`PassedAnswer`].
pub enum PassedBody {
    /// All of it.
    Whole(Vec<u8>),
    /// As it comes. Dropping it closes the upstream's connection.
    Stream(Box<PassedStream>),
}

/// What a client's request needs beside its body.
struct Passing<'a> {
    operation: &'static str,
    path: &'static str,
    model: Option<&'a str>,
    headers: &'a PassedHeaders,
}

impl Client {
    /// Passes a request on, adapted where the upstream refuses it as it is.
    ///
    /// # Errors
    /// What keeps the upstream from answering; its own errors are answers.
    pub fn pass(
        &self,
        endpoint: Endpoint,
        request: &mut RawBody<'_>,
        headers: &PassedHeaders,
        trace: &mut Trace,
    ) -> Result<PassedAnswer> {
        let (operation, path) = ("pass", endpoint.path());
        let mut refused = None;
        let answer = self.adapted(operation, path, request, trace, |request, trace| {
            let passing = Passing { operation, path, model: Some(request.model()), headers };
            self.pass_held(&passing, &request.bytes(), trace, &mut refused)
        });
        or_refused(answer, refused)
    }

    /// Passes on a body that is no JSON.
    ///
    /// # Errors
    /// As [`Client::pass`].
    pub fn pass_bytes(
        &self,
        path: &'static str,
        model: Option<&str>,
        headers: &PassedHeaders,
        body: &[u8],
        trace: &mut Trace,
    ) -> Result<PassedAnswer> {
        let passing = Passing { operation: "pass", path, model, headers };
        let mut refused = None;
        let answer = self.pass_held(&passing, body, trace, &mut refused);
        or_refused(answer, refused)
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
        headers: &PassedHeaders,
        (body, length): (&mut dyn Read, usize),
        trace: &mut Trace,
    ) -> Result<PassedAnswer> {
        let passing = Passing { operation: "pass_stream", path, model, headers };
        let mut refused = None;
        let mut headers = headers.clone();
        headers.push(("content-length", length.to_string()));
        let passing = Passing { headers: &headers, ..passing };
        let body = SendBody::from_reader(body);
        let answer = self.once(passing.operation, trace, |trace| {
            self.pass_once(&passing, body, trace, &mut refused)
        });
        or_refused(answer, refused)
    }

    /// Whether a request for this model is sent in another form than it came.
    #[must_use]
    pub fn adapts(&self, path: &'static str, model: &str) -> bool {
        !self.learnt.of(path, model, Instant::now()).is_empty()
    }

    fn pass_held(
        &self,
        passing: &Passing<'_>,
        body: &[u8],
        trace: &mut Trace,
        refused: &mut Option<PassedAnswer>,
    ) -> Result<PassedAnswer> {
        let how = (self.policy, Caller::New);
        self.retried(passing.operation, how, trace, |trace| {
            let mut reader = body;
            let length = body.len().to_string();
            let mut headers = passing.headers.clone();
            headers.push(("content-length", length));
            let passing = Passing { headers: &headers, ..*passing };
            self.bodies.log(&trace.request_id, "request to the upstream", body);
            self.pass_once(&passing, SendBody::from_reader(&mut reader), trace, refused)
        })
    }

    fn pass_once(
        &self,
        passing: &Passing<'_>,
        body: SendBody<'_>,
        trace: &mut Trace,
        refused: &mut Option<PassedAnswer>,
    ) -> Result<PassedAnswer> {
        *refused = None;
        let url = self.url(passing.path, passing.model);
        let request = self.request(&url, None, self.request_timeout, trace);
        let response = self.agent.pass(&request, passing.headers, body)?;
        let status = response.status().as_u16();
        let headers = response.headers().clone();
        let texts = headers.iter();
        let texts = texts.filter_map(|(name, value)| Some((name.as_str(), value.to_str().ok()?)));
        let mut head = PassedHead::of(status, texts);
        for (_, value) in &mut head.headers {
            *value = self.redactor.clean(value).into_owned();
        }
        if response.status().is_success() {
            let tap = self.bodies.tap(&trace.request_id);
            return PassedAnswer::of(head, response, (self.request_timeout, tap), &self.metrics);
        }
        let body = agent::error_body(response, ERROR_BYTES);
        self.bodies.log(&trace.request_id, "error of the upstream", &body);
        trace.refusal = errors::refusal(status, &body);
        let (method, url, now) = ("POST", url.as_str(), SystemTime::now());
        let model = Some(trace.model.as_str());
        let hint = agent::FailureHint { method, url, model, now };
        let error = agent::judge(status, &headers, &body, &hint, &self.redactor);
        // A redirect is nothing that a client could follow.
        *refused = (status >= 400).then(|| PassedAnswer { head, body: self.cleaned_body(body) });
        Err(error)
    }

    fn cleaned_body(&self, body: Vec<u8>) -> PassedBody {
        let cleaned = match self.redactor.clean(&String::from_utf8_lossy(&body)) {
            std::borrow::Cow::Owned(cleaned) => Some(cleaned.into_bytes()),
            std::borrow::Cow::Borrowed(_) => None,
        };
        PassedBody::Whole(cleaned.unwrap_or(body))
    }
}

/// The upstream's own error is an answer.
fn or_refused(answer: Result<PassedAnswer>, refused: Option<PassedAnswer>) -> Result<PassedAnswer> {
    match (answer, refused) {
        (Err(Error::Stopping), _) => Err(Error::Stopping),
        (Err(_), Some(refused)) => Ok(refused),
        (answer, _) => answer,
    }
}

impl PassedAnswer {
    fn of(
        head: PassedHead,
        response: Response<Body>,
        (timeout, tap): (Duration, Option<Tap>),
        metrics: &Arc<Metrics>,
    ) -> Result<Self> {
        let length = header(response.headers(), "content-length").and_then(|it| it.parse().ok());
        let small = length.is_some_and(|length: u64| length <= SMALL_ANSWER);
        let ends_alone = length.is_none() && !is_chunked(&response);
        let mut reader = response.into_body().into_reader();
        let mut bound = Bound::new(timeout);
        if !head.has_events() && small {
            let mut body = Vec::new();
            bound.read_all(&mut reader, (SMALL_ANSWER, length), &mut body)?;
            agent::not_cancelled()?;
            if let Some(tap) = tap {
                tap.log("answer of the upstream", &body);
            }
            return Ok(Self { head, body: PassedBody::Whole(body) });
        }
        let buffer = vec![0; READ_BYTES].into_boxed_slice();
        let tap = tap.map(|tap| Box::new(tap.lines("answer of the upstream")));
        let (events, open) = (head.has_events(), OpenStream::new(metrics.clone()));
        let end = (events && ends_alone).then(Box::default);
        let tail = Vec::new();
        let failure = None;
        let stream = PassedStream { reader, buffer, events, tail, end, failure, bound, open, tap };
        Ok(Self { head, body: PassedBody::Stream(Box::new(stream)) })
    }

    /// Whether the upstream says that it has no such route, and not only no such model.
    #[must_use]
    pub fn lacks_route(&self) -> bool {
        match &self.body {
            PassedBody::Whole(body) => errors::is_unknown_route(self.head.status, body),
            PassedBody::Stream(_) => false,
        }
    }
}

/// Whether the end of a body is marked by its coding.
fn is_chunked(response: &Response<Body>) -> bool {
    let coding = header(response.headers(), "transfer-encoding").unwrap_or_default();
    coding.to_ascii_lowercase().contains("chunked")
}

/// The pieces of a body.
pub struct PassedStream {
    reader: BodyReader<'static>,
    buffer: Box<[u8]>,
    /// Whether it may go on for as long as each of its lines ends in time.
    events: bool,
    /// The last bytes that came, of events only.
    tail: Vec<u8>,
    /// What was seen of its end, of events only whose end is that of their connection.
    end: Option<Box<End>>,
    /// What went wrong behind what has come.
    failure: Option<Error>,
    bound: Bound,
    open: OpenStream,
    tap: Option<Box<LineTap>>,
}

impl PassedStream {
    /// Waits for the next piece; `None` at the end.
    ///
    /// # Errors
    /// [`Error::UpstreamTimeout`] after too long a silence or for a line, or a body without lines,
    /// that takes too long, [`Error::UpstreamClosed`] when the connection broke, or ended
    /// before events did that only their connection delimits.
    #[allow(clippy::should_implement_trait)] // It lends what it reads.
    pub fn next(&mut self) -> Result<Option<&[u8]>> {
        let read = match self.failure.take() {
            Some(error) => Err(error),
            None => self.bound.read(&mut self.reader, &mut self.buffer),
        };
        match read {
            Ok(0) => {
                not_cancelled()?;
                match &self.end {
                    Some(end) if !end.is_seen() => Err(self.open.broken(Error::UpstreamClosed)),
                    _ => Ok(None),
                }
            }
            Ok(first) => {
                let length;
                (length, self.failure) = gather(&mut self.reader, &mut self.buffer, first);
                if self.events {
                    self.came(length);
                }
                let piece = &self.buffer[..length];
                if let Some(tap) = &mut self.tap {
                    tap.push(piece);
                }
                Ok(Some(piece))
            }
            // Behind the mark nothing is missing.
            Err(_) if self.is_done() => Ok(None),
            Err(error) => Err(self.open.broken(error)),
        }
    }

    /// Notes what a piece of events, of this length, has at its end.
    fn came(&mut self, length: usize) {
        let piece = &self.buffer[..length];
        // Mostly the last byte is one.
        if piece.iter().rev().any(|byte| matches!(byte, b'\n' | b'\r')) {
            self.bound.renew();
        }
        if let Some(end) = &mut self.end {
            end.see(piece);
        }
        self.tail.extend_from_slice(&piece[length.saturating_sub(TAIL_BYTES)..]);
        self.tail.drain(..self.tail.len().saturating_sub(TAIL_BYTES));
    }

    /// Whether the mark that ends a stream has come.
    fn is_done(&self) -> bool {
        DONE.iter().any(|mark| self.tail.ends_with(mark))
    }
}
