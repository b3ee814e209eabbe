//! A client's request to the upstream and the response back, both unchanged but for the model's name, and
//! for comments in a stream of completions that is silent.
//!
//! A small body is buffered, so that it can be sent again: after a failure, or repaired after a rejection.
//! A large body of which only the model's name must change streams through in bounded memory, and is sent
//! once. Never interprets a response.
//! Invariant: every piece of a response is written before the next one is waited for.

use std::io::{self, Read};
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::keepalive::{EventBoundary, KeepaliveSettings, SilenceTimer};
use super::{App, Context, LoadOptions, ModelUse, decompress, model_required_error};
use crate::api::ollama::decode;
use crate::api::openai::raw_object;
use crate::error::{Error, Result};
use crate::http::exchange;
use crate::translate::options;
use crate::translate::pass_through::{Endpoint, PassBody, result_order};
use crate::upstream::{
    PassHeaders, PassPieces, PassResponse, PassResponseBody, PassTarget, Patience, Payload, Piece,
    Trace,
};

/// Bodies above this length, in bytes, are streamed if possible.
pub(super) const LARGE_BODY_BYTES: usize = 1024 * 1024;

/// Bytes at the beginning of a body in which the model is looked for.
const PREFIX_BYTES: u64 = 64 * 1024;

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
    fn of(path: &str) -> Self {
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

/// `POST /v1/chat/completions`, `/v1/completions` and `/v1/embeddings`: passes on a request of any size.
pub(super) fn pass(context: &mut Context<'_>, endpoint: Endpoint) -> Result<()> {
    let KeepaliveSettings { start_after, comment_after, .. } = context.app.settings.keepalive;
    // A comment is due a moment later.
    let in_silence = context.exchange.sends_at_once().then_some(comment_after * 7 / 8);
    context.trace.patience = Patience { in_silence, behind_bytes: start_after };
    let large = context.exchange.content_length().is_some_and(|length| length > LARGE_BODY_BYTES);
    let body = if large && !decompress::is_compressed(context) {
        let read = |app, prefix: &mut _, trace: &mut _| rewrite_model(app, endpoint, prefix, trace);
        let target = PassTarget::Known(endpoint.path());
        let Some(body) = pass_streaming(context, target, read)? else { return Ok(()) };
        body
    } else {
        decompress::read_body(context)?
    };
    pass_buffered(context, endpoint, body).map(drop)
}

/// Passes on a buffered request. Returns the body where the upstream has no routes of responses, so that
/// the request can be translated instead.
pub(super) fn pass_buffered(
    context: &mut Context<'_>,
    endpoint: Endpoint,
    body: Vec<u8>,
) -> Result<Option<Vec<u8>>> {
    let headers = select_headers(context);
    let app = context.app;
    let text = decode::decode_body_verbatim(body)?;
    let mut request = PassBody::parse(&text, endpoint)?;
    let name = context.app.parse_model_name(
        request.requested_model(),
        context.trace,
        model_required_error,
    )?;
    let overlay = app.store.get(&name);
    let parameters = overlay.as_ref().map(|model| &model.parameters);
    let needs_profile = options::parse(parameters).is_ok_and(|options| {
        // The token limit has several names.
        options.needs_profile() || parameters.is_some_and(|it| it.contains_key("num_predict"))
    });
    let mut resolved = app.resolve_model(&name, overlay.as_deref(), needs_profile, context.trace);
    resolved.check_exists(&name)?;
    request.set_model(&resolved.id);
    if let Some(model) = &overlay {
        model.apply_to_body(&mut request, endpoint, resolved.profile)?;
    }
    if endpoint == Endpoint::Chat {
        app.upstream.client.tool_call_extras.restore_in_body(&mut request);
        result_order::sort_results(&mut request);
    }
    let mut in_use = resolved.begin_use(app, LoadOptions::default());
    let answer = app.upstream.client.pass(endpoint, &request, &headers, context.trace)?;
    resolved.recheck(app, (&name, &name), overlay.as_deref(), context.trace)?;
    drop(request);
    if can_translate(app, endpoint, &answer) {
        return Ok(Some(text.into_bytes()));
    }
    // The response may take long, and the request may be large.
    drop(text);
    in_use.record_response(&answer);
    let comments = Comments::of(endpoint.path());
    relay_unchanged(context, answer, Some(in_use), comments).map(|()| None)
}

/// True if a request that the upstream has no route for can be translated. An upstream that has
/// `responses` without `responses/compact` could not read a compaction of ours.
fn can_translate(app: &App, endpoint: Endpoint, answer: &PassResponse) -> bool {
    let has_responses = &app.upstream.has_responses;
    if endpoint == Endpoint::Responses && answer.head.status < 400 {
        has_responses.store(true, Ordering::Relaxed);
    }
    let is_translatable = match endpoint {
        Endpoint::Responses => true,
        Endpoint::ResponsesCompact => !has_responses.load(Ordering::Relaxed),
        Endpoint::Chat | Endpoint::Completions | Endpoint::Embeddings => false,
    };
    is_translatable && answer.is_unknown_route()
}

impl ModelUse<'_> {
    /// Notes that the upstream has answered, unless with an error.
    pub(super) fn record_response(&mut self, answer: &PassResponse) {
        if answer.head.status < 400 {
            self.was_answered = true;
        }
    }
}

/// What to do with a large body, decided by its beginning.
pub(super) enum PrefixDecision<'a> {
    /// Stream it; it is about this model, if one was found.
    Stream(Option<(String, ModelUse<'a>)>),
    /// Buffer it.
    Buffer,
}

/// Streams a large body to the upstream, with its beginning as `read` leaves it, and relays the
/// response. Returns the body if `read` decides to buffer it.
pub(super) fn pass_streaming<'a>(
    context: &mut Context<'a>,
    target: PassTarget<'_>,
    read: impl Fn(&'a App, &mut Vec<u8>, &mut Trace) -> Result<PrefixDecision<'a>>,
) -> Result<Option<Vec<u8>>> {
    let headers = select_headers(context);
    let (app, trace) = (context.app, &mut *context.trace);
    let (mut answer, mut buffered) = (Err(Error::Internal("the request body was not read")), None);
    let limit = app.settings.max_body_bytes;
    let mut reservation = context.exchange.take_reservation();
    context.exchange.read_body_with(limit, &mut |reader, length| {
        let mut prefix = Vec::new();
        (&mut *reader).take(PREFIX_BYTES).read_to_end(&mut prefix)?;
        let before = prefix.len();
        // Only the beginning of a body that is not buffered is logged.
        let client = &app.upstream.client;
        client.body_log.log(&trace.request_id, "start of the client request", [prefix.as_slice()]);
        let decision = read(app, &mut prefix, trace);
        let (rest, now) = (length.saturating_sub(before), prefix.len());
        let mut body =
            PrefixedBody { prefix: &prefix, rest: reader, length: now + rest, bytes_read: 0 };
        match decision {
            Ok(PrefixDecision::Stream(about)) => {
                let (id, mut in_use) = about.unzip();
                let payload = Payload::Stream(&mut body, now + rest);
                let passed = client.pass_unread(target, id.as_deref(), &headers, payload, trace);
                answer = passed.map(|answer| {
                    in_use.iter_mut().for_each(|in_use| in_use.record_response(&answer));
                    (answer, in_use)
                });
            }
            Ok(PrefixDecision::Buffer) => {
                let reserved = reservation.as_mut().map_or(Ok(()), |it| it.grow(length));
                match reserved {
                    Ok(()) => {
                        let buffered = buffered.insert(Vec::with_capacity(length));
                        body.read_to_end(buffered)?;
                    }
                    Err(exceeded) => answer = Err(exchange::budget_error(exceeded)),
                }
            }
            Err(error) => answer = Err(error),
        }
        // Read what the upstream did not take, so that the client's connection can serve again. If the
        // client broke off, that is the error.
        io::copy(&mut body, &mut io::sink())?;
        Ok((body.bytes_read + before - now) as u64)
    })?;
    if buffered.is_some() {
        context.exchange.set_reservation(reservation);
        return Ok(buffered);
    }
    let (answer, in_use) = answer?;
    let comments = match target {
        PassTarget::Known(path) => Comments::of(path),
        PassTarget::Other(_) => Comments::Never,
    };
    relay_unchanged(context, answer, in_use, comments).map(|()| None)
}

/// Finds the model of a large body, and replaces its name by the upstream's id.
fn rewrite_model<'a>(
    app: &'a App,
    endpoint: Endpoint,
    prefix: &mut Vec<u8>,
    trace: &mut Trace,
) -> Result<PrefixDecision<'a>> {
    let Some((sent, place)) = raw_object::find_model(prefix) else {
        return Ok(PrefixDecision::Buffer);
    };
    let name = app.parse_model_name(Some(&sent), trace, model_required_error)?;
    if app.store.get(&name).is_some() {
        return Ok(PrefixDecision::Buffer);
    }
    let mut resolved = app.resolve_model(&name, None, false, trace);
    resolved.check_exists(&name)?;
    let client = &app.upstream.client;
    let needs_extras =
        endpoint == Endpoint::Chat && client.tool_call_extras.has_some_for(&resolved.id);
    if needs_extras || client.has_known_repairs(endpoint.path(), &resolved.id) {
        return Ok(PrefixDecision::Buffer);
    }
    if resolved.id != sent {
        prefix.splice(place, raw_object::quote_json(&resolved.id).into_bytes());
    }
    let in_use = resolved.begin_use(app, LoadOptions::default());
    Ok(PrefixDecision::Stream(Some((resolved.id, in_use))))
}

/// A body whose beginning has been read.
struct PrefixedBody<'a> {
    prefix: &'a [u8],
    rest: &'a mut dyn Read,
    length: usize,
    bytes_read: usize,
}

impl Read for PrefixedBody<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = match self.prefix.read(buffer)? {
            0 => self.rest.read(buffer)?,
            read => read,
        };
        self.bytes_read += read;
        // A body that broke off must not look complete to the upstream.
        let cut = read == 0 && !buffer.is_empty() && self.bytes_read < self.length;
        if cut { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(read) }
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
    let takes_comments = comments == Comments::InSilence
        && answer.head.status < 300
        && answer.head.is_event_stream()
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
            return context.exchange.respond_started(&body);
        }
        PassResponseBody::Stream(stream) => stream,
    };
    let interval = takes_comments.then_some(context.app.settings.keepalive.comment_after);
    relay_pieces(context, stream.as_mut(), interval)?;
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
    interval: Option<Duration>,
) -> Result<()> {
    let (mut elapsed, mut boundary) = (context.received_at.elapsed(), EventBoundary::default());
    let mut timer = SilenceTimer::new(context.received_at, context.time_to_head(), interval);
    loop {
        let piece = stream.next_piece(timer.wake_at(elapsed))?;
        elapsed = context.received_at.elapsed();
        match piece {
            Piece::Bytes(piece) => {
                boundary.push(piece);
                context.exchange.push_line(piece);
            }
            Piece::Silence if timer.is_due(elapsed) && boundary.is_between_events() => {
                context.exchange.push_filler(COMMENT);
            }
            Piece::Silence => {}
            Piece::End => return Ok(()),
        }
        context.exchange.flush()?;
        if let Some(interval) = interval {
            timer.restart(elapsed, interval);
        }
        context.stack.before_wait(elapsed);
    }
}
