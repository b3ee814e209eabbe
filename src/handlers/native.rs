//! `/api/chat`, `/api/generate`, `/api/embed` and `/api/embeddings` for the models of a real Ollama.
//!
//! Such a request goes to the Ollama as the client wrote it, and so does the response: only the model's name
//! changes, where the client has another one for it, and a virtual model adds its defaults. Nothing of the
//! request is checked but the name, because the Ollama's own errors are the client's. In one list of
//! candidates, an Ollama and other servers each get the request in their own form ([`Reply`]).
//! Invariant: each line of a stream is a chunk of its own, and is written before the next one is waited for.

use std::borrow::Cow;
use std::ops::Range;
use std::sync::Arc;

use serde_json::Value;

use super::failover::{Outcome, Routing};
use super::model_lookup::ResolvedModel;
use super::passed_on::select_headers;
use super::{AppView, Context, LoadOptions, ModelUse, model_required_error};
use crate::api::ollama::native::{
    LineSplitter, NameReplacer, find_member, find_name, read_counts, read_error, replace_names,
};
use crate::api::openai::pass_head::PassHead;
use crate::api::openai::raw_object::collect_members;
use crate::api::wire::keep_alive::KeepAlive;
use crate::backends::names;
use crate::error::{Error, Result};
use crate::models::virtual_model::NativeRoute;
use crate::upstream::router::candidates::Candidate;
use crate::upstream::router::rendezvous::ConversationKey;
use crate::upstream::settings::DEFAULT_NAME;
use crate::upstream::{
    NativeRequest, PassHeaders, PassPieces, PassResponse, PassResponseBody, Payload, Piece, Trace,
    Upstream,
};

/// The port on which Ollama listens unless it is told otherwise.
const OLLAMA_PORT: u16 = 11434;

/// The last bytes of a body that are looked at for its counts.
const TAIL_BYTES: usize = 4 * 1024;

/// What a candidate answers: in the form of its own API, or as the client gets it.
pub(super) enum Reply<'a, T> {
    /// To be translated.
    Translated(T),
    /// Of an Ollama.
    Native(NativeReply<'a>),
}

impl<T: Outcome> Outcome for Reply<'_, T> {
    fn error(&self) -> Option<&Error> {
        match self {
            Self::Translated(reply) => reply.error(),
            Self::Native(reply) => reply.error(),
        }
    }
}

/// A response of an Ollama that has begun.
pub(super) struct NativeReply<'a> {
    answer: PassResponse,
    in_use: Option<ModelUse<'a>>,
    /// The name that the client has for the model, where it is another one.
    client_name: Option<String>,
    /// The upstream that the request changes: its list is no longer true.
    changed: Option<Arc<Upstream>>,
}

impl Outcome for NativeReply<'_> {
    fn error(&self) -> Option<&Error> {
        self.answer.error.as_ref()
    }
}

/// A request that an Ollama may get as it is.
pub(super) struct NativeCall<'t> {
    path: &'static str,
    /// The request, with the defaults of a virtual model.
    body: Cow<'t, str>,
    /// The model's name in it, and its place.
    sent: String,
    place: Range<usize>,
    routing: Routing,
    load: LoadOptions,
    headers: PassHeaders,
}

/// The call of a request one of whose candidates is an Ollama.
pub(super) fn find_call<'t>(
    context: &mut Context<'_>,
    (path, route): (&'static str, NativeRoute),
    text: &'t str,
    key: impl FnOnce(&Context<'_>) -> ConversationKey,
) -> Option<NativeCall<'t>> {
    let app = context.app;
    let is_allowed = |(name, _): (String, _)| app.may_use(&name, context.trace);
    if app.limits_models() && !find_name(text.as_bytes(), &["model"]).is_some_and(is_allowed) {
        // The error is told where the request is translated.
        return None;
    }
    if let Some(only) = app.router.only_upstream() {
        look_once(only, context.trace);
    }
    let is_possible = match app.router.only_upstream() {
        Some(only) => only.client.is_ollama(),
        None => app.router.upstreams().iter().any(|it| it.client.may_be_ollama()),
    };
    if !is_possible {
        return None;
    }
    let (sent, _) = find_name(text.as_bytes(), &["model"])?;
    // What is wrong with the name is told where the request is translated.
    let name = app.parse_model_name(Some(&sent), context.trace, model_required_error).ok()?;
    let virtual_model = app.find_virtual(&name);
    // Most requests need nothing of what follows, with as many upstreams as there may be.
    let mut candidates = app.candidates(&name, virtual_model.as_deref(), context.trace);
    if !candidates.list.iter().any(is_native) {
        return None;
    }
    let body = match &virtual_model {
        Some(model) => Cow::Owned(model.apply_to_native(text, route)?),
        None => Cow::Borrowed(text),
    };
    let (sent, place) = find_name(body.as_bytes(), &["model"])?;
    candidates.sort(|| key(context));
    Some(NativeCall {
        path,
        load: read_load_options(&body),
        body,
        sent,
        place,
        routing: Routing { candidates, virtual_model, needs_profile: false },
        headers: native_headers(context),
    })
}

/// True if a candidate is a model of an Ollama.
pub(super) fn is_native(candidate: &Candidate) -> bool {
    candidate.upstream.client.is_ollama()
}

/// Asks for the list of a single upstream of a file, or of one that listens where Ollama does, so that its
/// first request finds out what it is. It is asked once: it may have no list.
pub(super) fn look_once(upstream: &Arc<Upstream>, trace: &Trace) {
    let server = &upstream.settings.server;
    let is_likely = server.base_url.port() == OLLAMA_PORT || server.name != DEFAULT_NAME;
    if is_likely && upstream.catalog.get_cached().is_none() && upstream.client.begin_look() {
        upstream.try_get_model_list(trace);
    }
}

impl<'t> NativeCall<'t> {
    /// Whether no other server than an Ollama is to be asked: there is none among the candidates, or an Ollama
    /// is the first one and `is_translatable` finds nothing that another one could be asked for.
    pub(super) fn is_only_native(&self, is_translatable: impl FnOnce() -> bool) -> bool {
        let list = &self.routing.candidates.list;
        list.iter().all(is_native) || (list.first().is_some_and(is_native) && !is_translatable())
    }

    /// Asks the Ollamas among the candidates.
    pub(super) fn run<'a>(mut self, context: &mut Context<'a>) -> Result<NativeReply<'a>> {
        self.routing.candidates.list.retain(is_native);
        let app = context.app;
        self.routing.run((app, context.trace), &self.sent, |trace, resolved| {
            self.send((app, trace), resolved)
        })
    }

    /// Whether a candidate gets the request in this form.
    pub(super) fn is_for(&self, resolved: &ResolvedModel) -> bool {
        resolved.upstream.client.is_ollama()
    }

    /// Sends the request to one of them.
    pub(super) fn send<'a>(
        &self,
        (app, trace): (AppView<'a>, &mut Trace),
        mut resolved: ResolvedModel,
    ) -> Result<NativeReply<'a>> {
        let is_renamed = !is_same_name(&self.sent, &resolved.id);
        let body = self.body.as_bytes();
        let body = if is_renamed {
            Cow::Owned(replace_names(body, vec![(self.place.clone(), &resolved.id)]))
        } else {
            Cow::Borrowed(body)
        };
        let mut in_use = resolved.begin_use(app, self.load);
        let request = NativeRequest {
            method: "POST",
            path: self.path,
            payload: Payload::Bytes(&body),
            headers: &self.headers,
            is_change: false,
        };
        let answer = resolved.upstream.client.pass_native(request, trace)?;
        in_use.record_response(&answer);
        let client_name = is_renamed.then(|| self.sent.clone());
        Ok(NativeReply { answer, in_use: Some(in_use), client_name, changed: None })
    }
}

/// True if Ollama itself takes one name for the other.
pub(super) fn is_same_name(sent: &str, id: &str) -> bool {
    let sent = sent.trim();
    let bare = names::split_source(sent).map_or(sent, |(bare, _)| bare);
    let key = names::canonical_key(id);
    names::canonical_key(sent) == key || names::canonical_key(bare) == key
}

/// The client's headers for an Ollama, which shows some clients other names.
pub(super) fn native_headers(context: &Context<'_>) -> PassHeaders {
    let mut headers = select_headers(context);
    let user_agent = context.exchange.header("User-Agent");
    headers.extend(user_agent.map(|value| ("user-agent", value.to_owned())));
    headers
}

/// How a request wants its model to be loaded; what is wrong with it is Ollama's to say.
fn read_load_options(body: &str) -> LoadOptions {
    let members = collect_members(body.as_bytes());
    let get = |key: &str| {
        let (_, value) = find_member(&members, key)?;
        serde_json::from_str::<Value>(value).ok()
    };
    let keep_alive = get("keep_alive").and_then(|value| KeepAlive::from_json(&value).ok());
    LoadOptions {
        keep_alive: keep_alive.flatten(),
        num_ctx: get("options").and_then(|options| options["num_ctx"].as_u64()),
    }
}

/// Passes a response of an Ollama on.
#[inline(never)] // Not inlined, to keep other handlers' stack frames out of long streams.
pub(super) fn relay(context: &mut Context<'_>, reply: NativeReply<'_>) -> Result<()> {
    let NativeReply { answer, in_use, client_name, changed } = reply;
    let PassResponse { head, body, error } = answer;
    let known_model = in_use.as_ref().map(|in_use| in_use.id.clone());
    let known_model = known_model.filter(|_| head.status < 400 && error.is_none());
    context.trace.reported_error = error;
    context.name_upstream();
    let has_lines = head.is_ndjson();
    let replacer = client_name.map(|name| NameReplacer::new("model", &name, has_lines));
    // Before the client can know of the change, and ask for the list.
    let on_piece = || changed.iter().for_each(|upstream| upstream.catalog.expire());
    match body {
        PassResponseBody::Whole(body) => {
            on_piece();
            // The use of the model ends before the client can know that the response did.
            drop(in_use);
            context.trace.known_model = known_model.or(context.trace.known_model.take());
            relay_whole(context, head, body, replacer)
        }
        PassResponseBody::Stream(mut stream) => {
            relay_stream(context, (head, stream.as_mut()), replacer, &on_piece)?;
            drop(in_use);
            let reported = context.trace.reported_error.take();
            context.trace.reported_error = reported.or(stream.reported_error());
            let known_model = known_model.filter(|_| context.trace.reported_error.is_none());
            context.trace.known_model = known_model.or(context.trace.known_model.take());
            context.exchange.end()
        }
    }
}

fn relay_whole(
    context: &mut Context<'_>,
    head: PassHead,
    body: Vec<u8>,
    replacer: Option<NameReplacer>,
) -> Result<()> {
    note_counts(context.trace, &body);
    let body = match replacer {
        None => body,
        Some(mut replacer) => {
            let mut out = Vec::with_capacity(body.len() + 64);
            replacer.push(&body, &mut out);
            replacer.finish(&mut out);
            out
        }
    };
    context.exchange.start_passthrough(head);
    context.exchange.respond_started(&body)
}

/// Writes what arrives at once: whole lines of a stream of lines, and pieces of any other body.
fn relay_stream(
    context: &mut Context<'_>,
    (head, stream): (PassHead, &mut dyn PassPieces),
    mut replacer: Option<NameReplacer>,
    on_piece: &dyn Fn(),
) -> Result<()> {
    let has_lines = head.is_ndjson();
    // A stream of lines that breaks off ends with a line that tells why, as Ollama's own do.
    if !(has_lines && head.status == 200) {
        context.exchange.start_passthrough(head);
    }
    let (mut splitter, mut out, mut tail) = (LineSplitter::default(), Vec::new(), Vec::new());
    loop {
        let piece = match stream.next_piece(None) {
            Ok(piece) => piece,
            Err(error) => {
                if splitter.is_cut() {
                    context.exchange.push_line(b"\n");
                }
                return Err(error);
            }
        };
        let is_end = matches!(piece, Piece::End);
        on_piece();
        out.clear();
        match (piece, &mut replacer) {
            (Piece::Bytes(bytes), Some(replacer)) => replacer.push(bytes, &mut out),
            (Piece::Bytes(bytes), None) => out.extend_from_slice(bytes),
            (Piece::Silence, _) | (Piece::End, None) => {}
            (Piece::End, Some(replacer)) => replacer.finish(&mut out),
        }
        if has_lines {
            let (exchange, trace) = (&mut *context.exchange, &mut *context.trace);
            let mut on_line = |line: &[u8]| {
                note_line(trace, line);
                trace.live.count(1);
                exchange.push_line(line);
            };
            splitter.push(&out, &mut on_line);
            if is_end {
                splitter.finish(&mut on_line);
            }
        } else {
            keep_tail(&mut tail, &out);
            context.exchange.push_line(&out);
        }
        let written = if has_lines { context.exchange.unsent_bytes() } else { 0 };
        context.exchange.flush()?;
        if is_end {
            note_counts(context.trace, &tail);
            return Ok(());
        }
        context.before_wait(context.received_at.elapsed(), written);
    }
}

/// Notes what a line tells of the request, for the log.
fn note_line(trace: &mut Trace, line: &[u8]) {
    note_counts(trace, &line[line.len().saturating_sub(TAIL_BYTES)..]);
    if let Some(text) = read_error(line) {
        trace.reported_error = Some(Error::upstream_in_band(500, &text));
    }
}

fn note_counts(trace: &mut Trace, end: &[u8]) {
    if let Some(counts) = read_counts(end) {
        trace.set_tokens(counts);
    }
}

/// Keeps the last bytes of a body.
fn keep_tail(tail: &mut Vec<u8>, bytes: &[u8]) {
    tail.extend_from_slice(&bytes[bytes.len().saturating_sub(TAIL_BYTES)..]);
    tail.drain(..tail.len().saturating_sub(TAIL_BYTES));
}

/// Passes on what is no answer of a model; `changed` is the upstream that the request changes.
pub(super) fn relay_plain(
    context: &mut Context<'_>,
    answer: PassResponse,
    changed: Option<Arc<Upstream>>,
) -> Result<()> {
    relay(context, NativeReply { answer, in_use: None, client_name: None, changed })
}
