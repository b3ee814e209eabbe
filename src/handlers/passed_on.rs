//! What all passed-on requests share: the client's headers that go up, and the response as it arrives.
//!
//! Never changes a response, and looks only for the counts in it (`usage`), for log and metrics. Invariant: every piece of a response is written before the next one is
//! waited for.

use std::time::Duration;

use super::failover::Outcome;
use super::keepalive::EventBoundary;
use super::{Context, ModelUse};
use crate::api::openai::usage_scan::UsageScanner;
use crate::error::{Error, Result};
use crate::translate::pass_through::Endpoint;
use crate::upstream::{PassHeaders, PassPieces, PassResponse, PassResponseBody, Piece, Trace};

/// Bodies above this length, in bytes, are streamed if possible.
pub(super) const LARGE_BODY_BYTES: usize = 1024 * 1024;

/// What shows in a silent stream that it is alive.
const COMMENT: &[u8] = b": keepalive\n\n";

/// Whether a stream of events gets comments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Comments {
    /// Not one byte is added.
    Never,
    /// While it is silent.
    InSilence,
}

impl Comments {
    /// Of a route: streams of completions.
    pub(super) fn of(path: &str) -> Self {
        let completions = [Endpoint::Chat, Endpoint::Completions];
        match completions.iter().any(|endpoint| endpoint.path() == path) {
            true => Self::InSilence,
            false => Self::Never,
        }
    }
}

/// Headers of the client that are sent to the upstream.
const FORWARDED_HEADERS: &[&str] =
    &["content-type", "accept", "openai-organization", "openai-project", "openai-beta"];

/// A response that is passed on, and the use of the model.
pub(super) struct Passed<'a> {
    pub answer: PassResponse,
    pub in_use: Option<ModelUse<'a>>,
    /// Whether the request is translated, because the upstream has no such route.
    pub is_translatable: bool,
}

impl Outcome for Passed<'_> {
    fn error(&self) -> Option<&Error> {
        self.answer.error.as_ref().filter(|_| !self.is_translatable)
    }
}

impl ModelUse<'_> {
    /// Notes that the upstream has answered, unless with an error.
    pub(super) fn record_response(&mut self, answer: &PassResponse) {
        if answer.head.status < 400 {
            self.was_answered = true;
        }
    }
}

/// The client's headers that are sent to the upstream.
pub(super) fn select_headers(context: &Context<'_>) -> PassHeaders {
    let header = |name| context.exchange.header(name);
    let mut headers: PassHeaders = FORWARDED_HEADERS
        .iter()
        .filter_map(|name| Some((*name, header(name)?.to_owned())))
        .collect();
    if !is_multipart(header("Content-Type")) {
        // `curl -d` sends another type, and some servers reject it.
        headers.retain(|(name, _)| *name != "content-type");
        headers.push(("content-type", "application/json".to_owned()));
    }
    headers
}

/// True for the content type of a form (RFC 7578).
pub(super) fn is_multipart(content_type: Option<&str>) -> bool {
    let kind = content_type.unwrap_or_default().trim_start();
    kind.get(..10).is_some_and(|start| start.eq_ignore_ascii_case("multipart/"))
}

/// Passes a response on, piece by piece.
pub(super) fn relay_unchanged(
    context: &mut Context<'_>,
    mut answer: PassResponse,
    in_use: Option<ModelUse<'_>>,
    comments: Comments,
) -> Result<()> {
    let is_event_stream = answer.head.is_event_stream();
    let takes_comments = comments == Comments::InSilence
        && answer.head.status < 300
        && is_event_stream
        && context.exchange.sends_at_once();
    if context.trace.retries_exhausted {
        answer.head.forbid_retry();
    }
    let known_model = in_use.as_ref().map(|in_use| in_use.id.clone());
    let known_model = known_model.filter(|_| answer.head.status < 400 && answer.error.is_none());
    context.trace.reported_error = answer.error;
    context.name_upstream();
    context.exchange.start_passthrough(answer.head);
    let mut stream = match answer.body {
        PassResponseBody::Whole(body) => {
            context.trace.known_model = known_model.or(context.trace.known_model.take());
            // The use of the model ends before the client can know that the response did.
            drop(in_use);
            note_usage(context.trace, &mut UsageScanner::default(), &body);
            return context.exchange.respond_started(&body);
        }
        PassResponseBody::Stream(stream) => stream,
    };
    let interval = takes_comments.then_some(context.app.settings.keepalive.comment_after);
    relay_pieces(context, stream.as_mut(), is_event_stream, interval)?;
    drop(in_use);
    context.trace.reported_error = context.trace.reported_error.take().or(stream.reported_error());
    let known_model = known_model.filter(|_| context.trace.reported_error.is_none());
    context.trace.known_model = known_model.or(context.trace.known_model.take());
    context.exchange.end()
}

/// Writes each piece as it arrives; after a silence of `interval`, and between events, a comment, which
/// clients pass over (HTML Living Standard, server-sent events).
fn relay_pieces(
    context: &mut Context<'_>,
    stream: &mut dyn PassPieces,
    is_event_stream: bool,
    interval: Option<Duration>,
) -> Result<()> {
    let (mut elapsed, mut boundary) = (context.received_at.elapsed(), EventBoundary::default());
    let (mut usage, mut events) = (UsageScanner::default(), 0);
    let mut timer = context.silence_timer(interval);
    loop {
        let piece = stream.next_piece(timer.wake_at(elapsed))?;
        elapsed = context.received_at.elapsed();
        match piece {
            Piece::Bytes(piece) => {
                boundary.push(piece);
                note_usage(context.trace, &mut usage, piece);
                context.exchange.push_line(piece);
                if is_event_stream {
                    let deltas = usage.count_deltas(piece);
                    context.trace.live.count(deltas);
                    events += deltas;
                    context.exchange.set_events(events);
                }
            }
            Piece::Silence if timer.is_due(elapsed) && boundary.is_between_events() => {
                context.exchange.push_filler(COMMENT);
            }
            Piece::Silence => {}
            Piece::End => return Ok(()),
        }
        let written = if is_event_stream { context.exchange.unsent_bytes() } else { 0 };
        context.exchange.flush()?;
        if let Some(interval) = interval {
            timer.restart(elapsed, interval);
        }
        context.before_wait(elapsed, written);
    }
}

/// Notes what the upstream counted, before the client can know that the response ended. Where it does not count,
/// the pieces of a stream count instead.
fn note_usage(trace: &mut Trace, usage: &mut UsageScanner, piece: &[u8]) {
    if let Some(found) = usage.push(piece) {
        trace.set_tokens((found.prompt, found.completion));
        trace.cached_tokens = found.cached;
    }
}
