//! A client's request to the upstream and the answer back, both as they are.
//!
//! A small body is held, so that it can be sent again: after a failure, or adapted after a refusal. A
//! large one of which nothing but the name of the model must change streams through in bounded memory,
//! and is sent once.
//! Invariant: every piece of an answer is written before the next one is waited for.

use std::io::{self, Read};

use super::{
    App, Context, LoadOptions, ModelUse, ResolvedModel, decompress, model_required_error,
    stack_trim,
};
use crate::api::ollama::decode;
use crate::api::openai::raw_object;
use crate::error::{Error, Result};
use crate::models::virtual_model::VirtualModel;
use crate::translate::options;
use crate::translate::pass_through::{Endpoint, PassBody};
use crate::upstream::{PassHeaders, PassResponse, PassResponseBody, Trace};

/// Bodies above this length are streamed if they can be.
pub(super) const LARGE_BODY_BYTES: usize = 1024 * 1024;

/// How far into a body the model is looked for.
const PREFIX_BYTES: u64 = 64 * 1024;

/// Headers of the client that the upstream is to see.
const FORWARDED_HEADERS: &[(&str, &str)] = &[
    ("Content-Type", "content-type"),
    ("Accept", "accept"),
    ("OpenAI-Organization", "openai-organization"),
    ("OpenAI-Project", "openai-project"),
    ("OpenAI-Beta", "openai-beta"),
];

/// Passes a request on, however large it is.
pub(super) fn pass(context: &mut Context<'_>, endpoint: Endpoint) -> Result<()> {
    let large = context.exchange.content_length().is_some_and(|length| length > LARGE_BODY_BYTES);
    let body = if large && !decompress::is_compressed(context) {
        let read =
            |app, beginning: &mut _, trace: &mut _| rewrite_model(app, endpoint, beginning, trace);
        match pass_streaming(context, endpoint.path(), read)? {
            LargeBodyOutcome::Passed(answer, in_use) => {
                return relay_unchanged(context, answer, in_use);
            }
            LargeBodyOutcome::Buffered(body) => body,
        }
    } else {
        decompress::read_body(context)?
    };
    pass_buffered(context, endpoint, body).map(drop)
}

/// Passes on a request that is held. Gives it back where the upstream has no such route and the route
/// is one that can be had in another way.
pub(super) fn pass_buffered(
    context: &mut Context<'_>,
    endpoint: Endpoint,
    body: Vec<u8>,
) -> Result<Option<Vec<u8>>> {
    let headers = select_headers(context);
    let app = context.app;
    let text = decode::decode_body_verbatim(body)?;
    let mut request = PassBody::parse(&text, endpoint)?;
    let name = context.parse_model_name(request.requested_model(), model_required_error)?;
    let overlay = app.find_virtual_model(&name);
    let resolved = resolve_for_pass(app, &name, overlay.as_deref(), context.trace);
    resolved.check_exists(&name)?;
    request.set_model(&resolved.id);
    if let Some(model) = &overlay {
        request.apply_defaults(model, endpoint, resolved.profile)?;
    }
    let unlooked = resolved.list_unavailable;
    let mut in_use = begin_use(app, resolved);
    let answer = app.client.pass(endpoint, &mut request, &headers, context.trace)?;
    app.recheck_model(unlooked, (&name, &name), overlay.as_deref(), context.trace)?;
    drop(request);
    if endpoint == Endpoint::Responses && answer.is_unknown_route() {
        return Ok(Some(text.into_bytes()));
    }
    // A long answer need not hold a large question.
    drop(text);
    in_use.record_response(&answer);
    relay_unchanged(context, answer, Some(in_use)).map(|()| None)
}

fn resolve_for_pass(
    app: &App,
    name: &str,
    overlay: Option<&VirtualModel>,
    trace: &Trace,
) -> ResolvedModel {
    let parameters = overlay.map(|model| &model.parameters);
    let need_family = options::parse(parameters).is_ok_and(|options| {
        // The limit goes by several names.
        options.needs_profile() || parameters.is_some_and(|it| it.contains_key("num_predict"))
    });
    app.resolve_model(name, overlay, need_family, trace)
}

pub(super) fn begin_use(app: &App, resolved: ResolvedModel) -> ModelUse<'_> {
    app.begin_use(resolved.running_name, LoadOptions { keep_alive: None, num_ctx: None })
}

impl ModelUse<'_> {
    /// Notes that the upstream has answered, if it did.
    pub(super) fn record_response(&mut self, answer: &PassResponse) {
        if answer.head.status < 400 {
            self.mark_answered();
        }
    }
}

/// What became of a large body.
pub(super) enum LargeBodyOutcome<'a> {
    Passed(PassResponse, Option<ModelUse<'a>>),
    Buffered(Vec<u8>),
}

/// What the beginning of a large body tells.
pub(super) enum PrefixDecision<'a> {
    /// It can go on, about this model.
    Stream(Option<(String, ModelUse<'a>)>),
    /// It must be held and read.
    Buffer,
}

/// Streams a large body to the upstream, with its beginning as `read` leaves it, or holds it.
pub(super) fn pass_streaming<'a>(
    context: &mut Context<'a>,
    path: &'static str,
    read: impl Fn(&'a App, &mut Vec<u8>, &mut Trace) -> Result<PrefixDecision<'a>>,
) -> Result<LargeBodyOutcome<'a>> {
    let headers = select_headers(context);
    let (app, trace) = (context.app, &mut *context.trace);
    let mut taken = Err(Error::Internal("a body that nobody read"));
    let limit = app.config.max_body_bytes;
    context.exchange.read_body_with(limit, |reader, length| {
        let mut beginning = Vec::new();
        (&mut *reader).take(PREFIX_BYTES).read_to_end(&mut beginning)?;
        let before = beginning.len();
        // Of a body that is not held no more is logged.
        app.client.body_log().log(
            &trace.request_id,
            "beginning of the client's request",
            &beginning,
        );
        let told = read(app, &mut beginning, trace);
        let (rest, now) = (length.saturating_sub(before), beginning.len());
        let mut body =
            PrefixedBody { prefix: &beginning, rest: reader, length: now + rest, bytes_read: 0 };
        match told {
            Ok(PrefixDecision::Stream(about)) => {
                let (id, mut in_use) = about.unzip();
                let sent = (&mut body as _, now + rest);
                let answer = app.client.pass_stream(path, id.as_deref(), &headers, sent, trace);
                taken = answer.map(|answer| {
                    in_use.iter_mut().for_each(|in_use| in_use.record_response(&answer));
                    LargeBodyOutcome::Passed(answer, in_use)
                });
            }
            Ok(PrefixDecision::Buffer) => {
                let mut held = Vec::with_capacity(length);
                body.read_to_end(&mut held)?;
                taken = Ok(LargeBodyOutcome::Buffered(held));
            }
            Err(error) => taken = Err(error),
        }
        // What the upstream did not take is read away: the connection is to serve again. A client that
        // broke off is the first to hear of it.
        io::copy(&mut body, &mut io::sink())?;
        Ok((body.bytes_read + before - now) as u64)
    })?;
    taken
}

/// Looks for the model of a large body, and puts the upstream's name in its place.
fn rewrite_model<'a>(
    app: &'a App,
    endpoint: Endpoint,
    beginning: &mut Vec<u8>,
    trace: &mut Trace,
) -> Result<PrefixDecision<'a>> {
    let Some((sent, place)) = raw_object::find_model(beginning) else {
        return Ok(PrefixDecision::Buffer);
    };
    let name = app.parse_model_name(Some(&sent), trace, model_required_error)?;
    if app.find_virtual_model(&name).is_some() {
        return Ok(PrefixDecision::Buffer);
    }
    let resolved = app.resolve_model(&name, None, false, trace);
    resolved.check_exists(&name)?;
    if app.client.has_cached_repairs(endpoint.path(), &resolved.id) {
        return Ok(PrefixDecision::Buffer);
    }
    if resolved.id != sent {
        beginning.splice(place, raw_object::quote_json(&resolved.id).into_bytes());
    }
    Ok(PrefixDecision::Stream(Some((resolved.id.clone(), begin_use(app, resolved)))))
}

/// A body of which the beginning is already read.
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
        // What is cut off must not look whole to the upstream.
        let cut = read == 0 && !buffer.is_empty() && self.bytes_read < self.length;
        if cut { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(read) }
    }
}

/// The client's headers that go along.
pub(super) fn select_headers(context: &Context<'_>) -> PassHeaders {
    let header = |name| context.exchange.header(name);
    let mut headers: PassHeaders = FORWARDED_HEADERS
        .iter()
        .filter_map(|(name, ours)| Some((*ours, header(name)?.to_owned())))
        .collect();
    if header("Content-Type").is_none_or(|kind| !kind.starts_with("multipart/")) {
        // `curl -d` says something else, and some servers insist (openai-wire.md 1.2).
        headers.retain(|(name, _)| *name != "content-type");
        headers.push(("content-type", "application/json".to_owned()));
    }
    headers
}

/// Passes an answer on, piece by piece.
pub(super) fn relay_unchanged(
    context: &mut Context<'_>,
    answer: PassResponse,
    in_use: Option<ModelUse<'_>>,
) -> Result<()> {
    let mut stream = match answer.body {
        PassResponseBody::Whole(body) => {
            // The use of the model ends before the client can know that the answer did.
            drop(in_use);
            return context.exchange.respond_passthrough(answer.head, &body);
        }
        PassResponseBody::Stream(stream) => stream,
    };
    context.exchange.start_passthrough(answer.head);
    while let Some(piece) = stream.next_piece()? {
        context.exchange.push_line(piece);
        context.exchange.flush()?;
        stack_trim::trim_before_wait(context.trace, context.received_at.elapsed());
    }
    drop(in_use);
    context.exchange.end()
}
