//! Large bodies that stream to an upstream while the client sends them.
//!
//! Only the beginning of a body is held: the model's name is found there, and replaced by the upstream's id.
//! Such a request is sent once; another candidate is asked only while nothing of the body was read. Never
//! changes another byte. Invariant: a body that broke off does not look complete to the upstream.

use std::cell::Cell;
use std::io::{self, Read};
use std::ops::Range;
use std::rc::Rc;

use super::failover::Routing;
use super::passed_on::{Comments, Passed, relay_unchanged, select_headers};
use super::{AppView, Context, LoadOptions, model_required_error};
use crate::api::openai::raw_object;
use crate::error::{Error, Result};
use crate::http::exchange::BudgetedReader;
use crate::translate::pass_through::Endpoint;
use crate::upstream::router::candidates::Candidate;
use crate::upstream::router::rendezvous::ConversationKey;
use crate::upstream::{PassHeaders, PassTarget, Payload, Trace};

/// Bytes at the beginning of a body in which the model is looked for.
const PREFIX_BYTES: u64 = 64 * 1024;

/// The key of requests that have no conversation.
pub(super) fn no_key() -> ConversationKey {
    ConversationKey::new([])
}

/// What to do with a large body, decided by its beginning.
pub(super) enum PrefixDecision {
    /// Stream it; it is about this model, if one was found.
    Stream(Option<NamedModel>),
    /// Buffer it.
    Buffer,
}

/// The model that a body names, where its name stands, and where the request may go.
pub(super) struct NamedModel {
    pub name: String,
    pub place: Range<usize>,
    /// A name as the body writes it.
    pub encode: fn(&str) -> Vec<u8>,
    pub routing: Routing,
}

impl NamedModel {
    /// The model of a name that was found in a body.
    pub(super) fn new(
        (app, trace): (AppView<'_>, &mut Trace),
        (sent, place): (String, Range<usize>),
        encode: fn(&str) -> Vec<u8>,
        key: impl FnOnce() -> ConversationKey,
    ) -> Result<Self> {
        let name = app.parse_model_name(Some(&sent), trace, model_required_error)?;
        let routing = Routing::new(app, (&name, app.find_virtual(&name)), false, key, trace);
        Ok(Self { name, place, encode, routing })
    }

    /// True if some upstream gets members that the client did not send.
    pub(super) fn gets_members(&self) -> bool {
        self.routing.candidates.list.iter().any(|it| it.upstream.client.adds_members())
    }

    /// Passes on a body that is held.
    pub(super) fn pass_whole<'a>(
        &self,
        (app, trace): (AppView<'a>, &mut Trace),
        target: PassTarget<'_>,
        headers: &PassHeaders,
        body: Vec<u8>,
    ) -> Result<Passed<'a>> {
        self.routing.run((app, trace), &self.name, |trace, mut resolved| {
            resolved.check_exists(&self.name)?;
            let mut body = body.clone();
            self.write_id(&mut body, &resolved.id);
            let mut in_use = resolved.begin_use(app, LoadOptions::default());
            let (client, id) = (&resolved.upstream.client, Some(resolved.id.as_str()));
            let payload = Payload::Bytes(&body);
            let answer = client.pass_unread(target, id, headers, payload, trace)?;
            in_use.record_response(&answer);
            Ok(Passed { answer, in_use: Some(in_use), is_translatable: false })
        })
    }

    /// Replaces the name by the id of the upstream.
    fn write_id(&self, body: &mut Vec<u8>, id: &str) {
        body.splice(self.place.clone(), (self.encode)(id));
    }
}

/// Streams a large body to an upstream, with the upstream's id of the model that `read` finds in its
/// beginning, and relays the response. Returns the body if `read` decides to buffer it.
pub(super) fn pass_streaming<'a>(
    context: &mut Context<'a>,
    target: PassTarget<'_>,
    read: impl Fn(AppView<'a>, &[u8], &mut Trace) -> Result<PrefixDecision>,
) -> Result<Option<Vec<u8>>> {
    let headers = select_headers(context);
    let (app, trace) = (context.app, &mut *context.trace);
    let (mut answer, mut buffered) = (Err(Error::Internal("the request body was not read")), None);
    let limit = app.max_body_bytes();
    let mut reservation = context.exchange.take_reservation();
    context.exchange.read_body_with(limit, &mut |reader, length| {
        let mut prefix = Vec::new();
        (&mut *reader).take(PREFIX_BYTES).read_to_end(&mut prefix)?;
        // Only the beginning of a body that is not buffered is logged.
        let body_log = &app.router.upstreams()[0].client.body_log;
        body_log.log(&trace.request_id, "start of the client request", [prefix.as_slice()]);
        let mut body = StreamedUpload::new(prefix, reader, length);
        match read(app, &body.prefix, trace) {
            Ok(PrefixDecision::Stream(named)) => {
                answer = stream_upload(&mut body, named, (app, trace), (target, &headers));
            }
            Ok(PrefixDecision::Buffer) => {
                let mut whole = Vec::with_capacity(length);
                let mut parts = body.as_reader(None);
                let mut reader = BudgetedReader::new(&mut parts, reservation.as_mut());
                let read = reader.read_to_end(&mut whole);
                match reader.finish() {
                    None => {
                        read?;
                        buffered = Some(whole);
                    }
                    Some(error) => {
                        answer = Err(error);
                        drop(whole);
                        reservation = None;
                    }
                }
            }
            Err(error) => answer = Err(error),
        }
        // Read what the upstream did not take, so that the client's connection can serve again. If the
        // client broke off, that is the error.
        body.drain()
    })?;
    if buffered.is_some() {
        context.exchange.set_reservation(reservation);
        return Ok(buffered);
    }
    let Passed { answer, in_use, .. } = answer?;
    let comments = match target {
        PassTarget::Known(path) => Comments::of(path),
        PassTarget::Other(_) => Comments::Never,
    };
    relay_unchanged(context, answer, in_use, comments).map(|()| None)
}

/// Sends a body while it is read. The next candidate is asked only while nothing of the body was read.
fn stream_upload<'a>(
    body: &mut StreamedUpload<'_>,
    named: Option<NamedModel>,
    (app, trace): (AppView<'a>, &mut Trace),
    (target, headers): (PassTarget<'_>, &PassHeaders),
) -> Result<Passed<'a>> {
    let Some(named) = named else {
        let upstream = &app.router.upstreams()[0];
        trace.upstream = Some(upstream.shared_name());
        let mut reader = body.as_reader(None);
        let length = reader.length;
        let payload = Payload::Stream(&mut reader, Some(length));
        let answer = upstream.client.pass_unread(target, None, headers, payload, trace)?;
        return Ok(Passed { answer, in_use: None, is_translatable: false });
    };
    let bytes_read = body.bytes_read.clone();
    let is_unread = || bytes_read.get() == 0;
    named.routing.run_while(&is_unread, (app, trace), &named.name, |trace, mut resolved| {
        resolved.check_exists(&named.name)?;
        let mut prefix = body.prefix.clone();
        named.write_id(&mut prefix, &resolved.id);
        let mut in_use = resolved.begin_use(app, LoadOptions::default());
        let mut reader = body.as_reader(Some(&prefix));
        let length = reader.length;
        let payload = Payload::Stream(&mut reader, Some(length));
        let (client, id) = (&resolved.upstream.client, Some(resolved.id.as_str()));
        let answer = client.pass_unread(target, id, headers, payload, trace)?;
        in_use.record_response(&answer);
        Ok(Passed { answer, in_use: Some(in_use), is_translatable: false })
    })
}

/// Finds the model of a large body.
pub(super) fn find_named_model(
    app: AppView<'_>,
    endpoint: Endpoint,
    prefix: &[u8],
    trace: &mut Trace,
) -> Result<PrefixDecision> {
    let Some(found) = raw_object::find_model(prefix) else { return Ok(PrefixDecision::Buffer) };
    let encode = |id: &str| raw_object::quote_json(id).into_bytes();
    // The beginning of a large body may be that of a long conversation, but not the whole of a message.
    let key = || ConversationKey::new([&*String::from_utf8_lossy(prefix)]);
    let named = NamedModel::new((app, trace), found, encode, key)?;
    let needs_change = |candidate: &Candidate| {
        let (client, id) = (&candidate.upstream.client, candidate.name.as_str());
        let needs_extras = endpoint == Endpoint::Chat && client.tool_call_extras.has_some_for(id);
        needs_extras || client.has_known_repairs(endpoint.path(), id)
    };
    let must_hold = named.routing.virtual_model.is_some()
        || named.routing.candidates.list.iter().any(needs_change);
    Ok(if must_hold { PrefixDecision::Buffer } else { PrefixDecision::Stream(Some(named)) })
}

/// A body of which only the beginning is held.
struct StreamedUpload<'a> {
    prefix: Vec<u8>,
    rest: &'a mut dyn Read,
    /// The length of the whole body as the client sends it.
    length: usize,
    /// Bytes that were read by an upstream.
    bytes_read: Rc<Cell<usize>>,
    /// Bytes of them that are not the beginning.
    rest_read: usize,
}

impl<'a> StreamedUpload<'a> {
    fn new(prefix: Vec<u8>, rest: &'a mut dyn Read, length: usize) -> Self {
        Self { prefix, rest, length, bytes_read: Rc::default(), rest_read: 0 }
    }

    /// The body from its beginning, with another one in place of its own if there is one.
    fn as_reader<'r>(&'r mut self, prefix: Option<&'r [u8]>) -> PrefixedBody<'r> {
        let rest = self.length.saturating_sub(self.prefix.len());
        let prefix = prefix.unwrap_or(&self.prefix);
        let length = prefix.len() + rest;
        let (rest, rest_read) = (&mut *self.rest, &mut self.rest_read);
        PrefixedBody { prefix, rest, length, bytes_read: &self.bytes_read, rest_read }
    }

    /// Reads the rest; returns the length of the whole body.
    fn drain(&mut self) -> io::Result<u64> {
        let left = self.length.saturating_sub(self.prefix.len() + self.rest_read);
        let drained = io::copy(&mut self.rest, &mut io::sink())?;
        if drained < left as u64 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok((self.prefix.len() + self.rest_read) as u64 + drained)
    }
}

/// A body whose beginning has been read.
struct PrefixedBody<'a> {
    prefix: &'a [u8],
    rest: &'a mut dyn Read,
    length: usize,
    bytes_read: &'a Cell<usize>,
    rest_read: &'a mut usize,
}

impl Read for PrefixedBody<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = match self.prefix.read(buffer)? {
            0 => {
                let read = self.rest.read(buffer)?;
                *self.rest_read += read;
                read
            }
            read => read,
        };
        self.bytes_read.set(self.bytes_read.get() + read);
        // A body that broke off must not look complete to the upstream.
        let cut = read == 0 && !buffer.is_empty() && self.bytes_read.get() < self.length;
        if cut { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(read) }
    }
}
