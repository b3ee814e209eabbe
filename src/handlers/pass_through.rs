//! A client's request to the upstream and the answer back, both as they are.
//!
//! A small body is held, so that it can be sent again: after a failure, or adapted after a refusal. A
//! large one of which nothing but the name of the model must change streams through in bounded memory,
//! and is sent once.
//! Invariant: every piece of an answer is written before the next one is waited for.

use std::io::{self, Read};

use super::{App, Context, InUse, Resolved, Stay, decompress, model_is_required, stack_trim};
use crate::api::ollama::decode;
use crate::api::openai::raw_object;
use crate::error::{Error, Result};
use crate::models::virtual_model::VirtualModel;
use crate::translate::options;
use crate::translate::pass_through::{Endpoint, RawBody};
use crate::upstream::{PassedAnswer, PassedBody, PassedHeaders, Trace};

/// Bodies above this length are streamed if they can be.
pub(super) const LARGE: usize = 1024 * 1024;

/// How far into a body the model is looked for.
const BEGINNING: u64 = 64 * 1024;

/// Headers of the client that the upstream is to see.
const ALONG: &[(&str, &str)] = &[
    ("Content-Type", "content-type"),
    ("Accept", "accept"),
    ("OpenAI-Organization", "openai-organization"),
    ("OpenAI-Project", "openai-project"),
    ("OpenAI-Beta", "openai-beta"),
];

/// Passes a request on, however large it is.
pub(super) fn pass(context: &mut Context<'_>, endpoint: Endpoint) -> Result<()> {
    let large = context.exchange.claimed().is_some_and(|length| length > LARGE);
    let body = if large && !decompress::is_packed(context) {
        let read = |app, beginning: &mut _, trace: &mut _| renamed(app, endpoint, beginning, trace);
        match streamed(context, endpoint.path(), read)? {
            Taken::Passed(answer, in_use) => return relay(context, answer, in_use),
            Taken::Held(body) => body,
        }
    } else {
        decompress::read(context)?
    };
    held(context, endpoint, body).map(drop)
}

/// Passes on a request that is held. Gives it back where the upstream has no such route and the route
/// is one that can be had in another way.
pub(super) fn held(
    context: &mut Context<'_>,
    endpoint: Endpoint,
    body: Vec<u8>,
) -> Result<Option<Vec<u8>>> {
    let headers = along(context);
    let app = context.app;
    let text = decode::unmended(body)?;
    let mut request = RawBody::read(&text, endpoint)?;
    let name = context.name(request.sent(), model_is_required)?;
    let overlay = app.overlay(&name);
    let resolved = resolve(app, &name, overlay.as_deref(), context.trace);
    resolved.exists(&name)?;
    request.set_model(&resolved.id);
    if let Some(model) = &overlay {
        request.lay_over(model, endpoint, resolved.profile)?;
    }
    let unlooked = resolved.unlooked;
    let mut in_use = in_use(app, resolved);
    let answer = app.client.pass(endpoint, &mut request, &headers, context.trace)?;
    app.confirm(unlooked, (&name, &name), overlay.as_deref(), context.trace)?;
    drop(request);
    if endpoint == Endpoint::Responses && answer.lacks_route() {
        return Ok(Some(text.into_bytes()));
    }
    // A long answer need not hold a large question.
    drop(text);
    in_use.note(&answer);
    relay(context, answer, Some(in_use)).map(|()| None)
}

fn resolve(app: &App, name: &str, overlay: Option<&VirtualModel>, trace: &Trace) -> Resolved {
    let parameters = overlay.map(|model| &model.parameters);
    let need_family = options::read(parameters).is_ok_and(|options| {
        // The limit goes by several names.
        options.need_family() || parameters.is_some_and(|it| it.contains_key("num_predict"))
    });
    app.resolve(name, overlay, need_family, trace)
}

pub(super) fn in_use(app: &App, resolved: Resolved) -> InUse<'_> {
    app.begin(resolved.used, Stay { keep_alive: None, num_ctx: None })
}

impl InUse<'_> {
    /// Notes that the upstream has answered, if it did.
    pub(super) fn note(&mut self, answer: &PassedAnswer) {
        if answer.head.status < 400 {
            self.answered();
        }
    }
}

/// What became of a large body.
pub(super) enum Taken<'a> {
    Passed(PassedAnswer, Option<InUse<'a>>),
    Held(Vec<u8>),
}

/// What the beginning of a large body tells.
pub(super) enum Told<'a> {
    /// It can go on, about this model.
    Go(Option<(String, InUse<'a>)>),
    /// It must be held and read.
    Hold,
}

/// Streams a large body to the upstream, with its beginning as `read` leaves it, or holds it.
pub(super) fn streamed<'a>(
    context: &mut Context<'a>,
    path: &'static str,
    read: impl Fn(&'a App, &mut Vec<u8>, &mut Trace) -> Result<Told<'a>>,
) -> Result<Taken<'a>> {
    let headers = along(context);
    let (app, trace) = (context.app, &mut *context.trace);
    let mut taken = Err(Error::Internal("a body that nobody read"));
    let limit = app.config.max_body_bytes;
    context.exchange.pass_body(limit, |reader, length| {
        let mut beginning = Vec::new();
        (&mut *reader).take(BEGINNING).read_to_end(&mut beginning)?;
        let before = beginning.len();
        // Of a body that is not held no more is logged.
        app.client.bodies().log(&trace.request_id, "beginning of the client's request", &beginning);
        let told = read(app, &mut beginning, trace);
        let (rest, now) = (length.saturating_sub(before), beginning.len());
        let mut body = Whole { beginning: &beginning, rest: reader, length: now + rest, read: 0 };
        match told {
            Ok(Told::Go(about)) => {
                let (id, mut in_use) = about.unzip();
                let sent = (&mut body as _, now + rest);
                let answer = app.client.pass_stream(path, id.as_deref(), &headers, sent, trace);
                taken = answer.map(|answer| {
                    in_use.iter_mut().for_each(|in_use| in_use.note(&answer));
                    Taken::Passed(answer, in_use)
                });
            }
            Ok(Told::Hold) => {
                let mut held = Vec::with_capacity(length);
                body.read_to_end(&mut held)?;
                taken = Ok(Taken::Held(held));
            }
            Err(error) => taken = Err(error),
        }
        // What the upstream did not take is read away: the connection is to serve again. A client that
        // broke off is the first to hear of it.
        io::copy(&mut body, &mut io::sink())?;
        Ok((body.read + before - now) as u64)
    })?;
    taken
}

/// Looks for the model of a large body, and puts the upstream's name in its place.
fn renamed<'a>(
    app: &'a App,
    endpoint: Endpoint,
    beginning: &mut Vec<u8>,
    trace: &mut Trace,
) -> Result<Told<'a>> {
    let Some((sent, place)) = raw_object::model_in(beginning) else { return Ok(Told::Hold) };
    let name = app.name(Some(&sent), trace, model_is_required)?;
    if app.overlay(&name).is_some() {
        return Ok(Told::Hold);
    }
    let resolved = app.resolve(&name, None, false, trace);
    resolved.exists(&name)?;
    if app.client.adapts(endpoint.path(), &resolved.id) {
        return Ok(Told::Hold);
    }
    if resolved.id != sent {
        beginning.splice(place, raw_object::quoted(&resolved.id).into_bytes());
    }
    Ok(Told::Go(Some((resolved.id.clone(), in_use(app, resolved)))))
}

/// A body of which the beginning is already read.
struct Whole<'a> {
    beginning: &'a [u8],
    rest: &'a mut dyn Read,
    length: usize,
    read: usize,
}

impl Read for Whole<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = match self.beginning.read(buffer)? {
            0 => self.rest.read(buffer)?,
            read => read,
        };
        self.read += read;
        // What is cut off must not look whole to the upstream.
        let cut = read == 0 && !buffer.is_empty() && self.read < self.length;
        if cut { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(read) }
    }
}

/// The client's headers that go along.
pub(super) fn along(context: &Context<'_>) -> PassedHeaders {
    let header = |name| context.exchange.header(name);
    let mut headers: PassedHeaders =
        ALONG.iter().filter_map(|(name, ours)| Some((*ours, header(name)?.to_owned()))).collect();
    if header("Content-Type").is_none_or(|kind| !kind.starts_with("multipart/")) {
        // `curl -d` says something else, and some servers insist (openai-wire.md 1.2).
        headers.retain(|(name, _)| *name != "content-type");
        headers.push(("content-type", "application/json".to_owned()));
    }
    headers
}

/// Passes an answer on, piece by piece.
pub(super) fn relay(
    context: &mut Context<'_>,
    answer: PassedAnswer,
    in_use: Option<InUse<'_>>,
) -> Result<()> {
    let mut stream = match answer.body {
        PassedBody::Whole(body) => {
            // The use of the model ends before the client can know that the answer did.
            drop(in_use);
            return context.exchange.answer_passed(answer.head, &body);
        }
        PassedBody::Stream(stream) => stream,
    };
    context.exchange.begin_passed(answer.head);
    while let Some(piece) = stream.next()? {
        context.exchange.line(piece);
        context.exchange.flush()?;
        stack_trim::waits(context.trace, context.received.elapsed());
    }
    drop(in_use);
    context.exchange.end()
}
