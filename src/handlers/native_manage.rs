//! The other routes of Ollama's API, for a real Ollama: show, copy, delete, ps, pull, push, create and blobs.
//!
//! | route | goes to |
//! | --- | --- |
//! | show, copy, delete | the Ollama that is first among the candidates of the model's name |
//! | pull, push, create | the Ollama that `upstream/model` names, or that lists the model, else the only one |
//! | `HEAD` of a blob | each Ollama in turn, until one has it |
//! | `POST` of a blob | the only Ollama, or the first one of several: a blob names no model |
//! | ps | every Ollama that can be reached; what runs elsewhere is added |
//!
//! All else is answered as without an Ollama ([`super::manage`], [`super::transfer`]): virtual models and those
//! of the configuration, models of other servers, and names without an upstream where there are several
//! Ollamas. `pull`, `push` and `create` of a model that only another server lists are answered so, too. A
//! blob streams through in bounded memory. Invariant: a list is fetched anew after a change.

use std::collections::HashSet;
use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::time::SystemTime;

use serde_json::value::RawValue;

use super::failover::{Outcome, Routing};
use super::model_lookup::ResolvedModel;
use super::native::{is_native, is_same_name, look_once, native_headers, relay_plain};
use super::{AppView, Context, model_required_error};
use crate::api::ollama::native::{find_name, replace_names};
use crate::api::openai::raw_object::{self, RawObject};
use crate::backends::names;
use crate::error::{Error, Result};
use crate::http::exchange::UNLIMITED;
use crate::models::catalog;
use crate::models::configured::ConfiguredModel;
use crate::models::virtual_model::VirtualModel;
use crate::observe::timestamp;
use crate::upstream::router::rendezvous::ConversationKey;
use crate::upstream::{NativeRequest, PassResponse, Payload, Upstream};

/// The members that name the model of most of these requests.
const NAME_KEYS: &[&str] = &["model", "name"];

/// A response of an Ollama, and which one it was.
struct Answer {
    answer: PassResponse,
    upstream: Arc<Upstream>,
}

impl Outcome for Answer {
    fn error(&self) -> Option<&Error> {
        self.answer.error.as_ref()
    }
}

/// A name in a request, and its place.
type Name = (String, Range<usize>);

/// Passes `/api/show` on; `false` where the proxy answers by itself.
pub(super) fn show(context: &mut Context<'_>, text: &str) -> Result<bool> {
    let Some(name) = find_name(text.as_bytes(), NAME_KEYS) else { return Ok(false) };
    let Some(routing) = native_routing(context, &name.0, &|app, model| {
        let configured = app.router.find_configured(&model.name);
        let is_plain =
            |it: &ConfiguredModel| it.capabilities.is_none() && it.context_length.is_none();
        model.is_alias() && configured.is_none_or(is_plain)
    }) else {
        return Ok(false);
    };
    let change = |resolved: &ResolvedModel| rename(text, vec![(name.clone(), &resolved.id)]);
    match ask(context, &routing, ("POST", "/api/show"), &name.0, &change) {
        // What is known of the model is shown all the same.
        Err(error) if error.is_upstream() => Ok(false),
        answer => relay_plain(context, answer?.answer, None).map(|()| true),
    }
}

/// Passes `/api/delete` on; `false` where the proxy answers by itself.
pub(super) fn delete(context: &mut Context<'_>, text: &str) -> Result<bool> {
    let Some(name) = find_name(text.as_bytes(), NAME_KEYS) else { return Ok(false) };
    let Some(routing) = native_routing(context, &name.0, &|_, _| false) else { return Ok(false) };
    let change = |resolved: &ResolvedModel| rename(text, vec![(name.clone(), &resolved.id)]);
    let answer = ask(context, &routing, ("DELETE", "/api/delete"), &name.0, &change)?;
    relay_change(context, answer).map(|()| true)
}

/// Passes `/api/copy` on; `false` where the proxy answers by itself.
pub(super) fn copy(context: &mut Context<'_>, text: &str) -> Result<bool> {
    let Some(source) = find_name(text.as_bytes(), &["source"]) else { return Ok(false) };
    let destination = find_name(text.as_bytes(), &["destination"]);
    let Some(routing) = native_routing(context, &source.0, &|_, _| false) else {
        return Ok(false);
    };
    let new_name = destination.as_ref().map_or("", |(name, _)| name.trim());
    if is_ours(context.app, new_name) {
        return Ok(false);
    }
    let change = |resolved: &ResolvedModel| {
        let mut names = vec![(source.clone(), resolved.id.as_str())];
        if let Some(destination) = &destination {
            names.push((destination.clone(), strip_prefix(new_name, &resolved.upstream)));
        }
        rename(text, names)
    };
    let answer = ask(context, &routing, ("POST", "/api/copy"), &source.0, &change)?;
    relay_change(context, answer).map(|()| true)
}

/// Passes `/api/pull` or `/api/push` on; `false` where the proxy answers by itself.
pub(super) fn transfer(context: &mut Context<'_>, path: &'static str, text: &str) -> Result<bool> {
    let Some(name) = find_name(text.as_bytes(), NAME_KEYS) else { return Ok(false) };
    if !detect(context) {
        return Ok(false);
    }
    let sent = name.0.trim().to_owned();
    let Some((upstream, id)) = find_owner(context, &sent) else { return Ok(false) };
    context.trace.model.clone_from(&sent);
    let body = rename(text, vec![(name, &id)]);
    let answer = send(context, upstream, ("POST", path), &body)?;
    relay_change(context, answer).map(|()| true)
}

/// Passes `/api/create` on; `false` where the proxy answers by itself.
pub(super) fn create(context: &mut Context<'_>, text: &str) -> Result<bool> {
    let Some(name) = find_name(text.as_bytes(), NAME_KEYS) else { return Ok(false) };
    if !detect(context) {
        return Ok(false);
    }
    let (app, new_name) = (context.app, name.0.trim().to_owned());
    if is_ours(app, &new_name) {
        return Ok(false);
    }
    let from = find_name(text.as_bytes(), &["from"]);
    // A model of a model is made where that one is.
    let owner = from.as_ref().map(|(from, _)| find_owner(context, from.trim()));
    let named = split_prefix(app, &new_name).map(|(upstream, _)| upstream.clone());
    let upstream = match (named, &owner) {
        (Some(named), _) if named.client.is_ollama() => named,
        (Some(_), _) | (None, Some(None)) => return Ok(false),
        (None, Some(Some((owner, _)))) => owner.clone(),
        (None, None) => match only_ollama(app) {
            Some(only) => only.clone(),
            None => return Ok(false),
        },
    };
    context.trace.model.clone_from(&new_name);
    let stripped = strip_prefix(&new_name, &upstream).to_owned();
    let base = owner.flatten().filter(|(owner, _)| Arc::ptr_eq(owner, &upstream));
    let mut names = vec![(name, stripped.as_str())];
    if let (Some(from), Some((_, id))) = (from, &base) {
        names.push((from, id.as_str()));
    }
    let body = rename(text, names);
    let answer = send(context, upstream, ("POST", "/api/create"), &body)?;
    relay_change(context, answer).map(|()| true)
}

/// Passes `HEAD` or `POST /api/blobs/:digest` on; `false` where the proxy answers by itself.
pub(super) fn blob(context: &mut Context<'_>) -> Result<bool> {
    if !detect(context) {
        return Ok(false);
    }
    let digest = context.route.parameter();
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b':' | b'-');
    if !digest.bytes().all(is_plain) {
        return Ok(false);
    }
    let path = format!("/api/blobs/{digest}");
    let is_upload = context.exchange.method() != "HEAD";
    let mut ollamas: Vec<Arc<Upstream>> = ollamas(context.app).cloned().collect();
    if is_upload {
        ollamas.truncate(1);
    } else {
        context.read_body()?;
    }
    let mut answer = Err(Error::Internal("no Ollama"));
    for upstream in ollamas {
        context.trace.upstream = Some(upstream.shared_name());
        answer = if is_upload {
            upload(context, &upstream, &path)
        } else {
            let headers = native_headers(context);
            let request = NativeRequest {
                method: "HEAD",
                path: &path,
                payload: Payload::Empty,
                headers: &headers,
                is_change: false,
            };
            upstream.client.pass_native(request, context.trace)
        };
        if answer.as_ref().is_ok_and(|answer| answer.head.status < 300) {
            break;
        }
    }
    relay_plain(context, answer?, None).map(|()| true)
}

/// Streams a blob of any length to an Ollama.
fn upload(context: &mut Context<'_>, upstream: &Upstream, path: &str) -> Result<PassResponse> {
    let headers = native_headers(context);
    let known_length = context.exchange.content_length();
    let trace = &mut *context.trace;
    let mut answer = Err(Error::Internal("the request body was not read"));
    // Nothing of it is held, so no limit holds for it.
    context.exchange.read_body_with(UNLIMITED, &mut |reader, _| {
        let mut body = CountedBody { reader, length: known_length, count: 0 };
        let payload = Payload::Stream(&mut body, known_length);
        let headers = &headers;
        let request = NativeRequest { method: "POST", path, payload, headers, is_change: true };
        answer = upstream.client.pass_native(request, trace);
        // Read what the Ollama did not take, so that the client's connection can serve again.
        io::copy(&mut body, &mut io::sink())?;
        Ok(body.count)
    })?;
    answer
}

/// A body that counts what was read of it.
struct CountedBody<'a> {
    reader: &'a mut dyn io::Read,
    length: Option<usize>,
    count: u64,
}

impl io::Read for CountedBody<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.reader.read(buffer)?;
        self.count += read as u64;
        // A body that broke off must not look complete.
        let is_cut = read == 0
            && !buffer.is_empty()
            && self.length.is_some_and(|length| self.count < length as u64);
        if is_cut { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(read) }
    }
}

/// The running models of the Ollamas.
pub(super) struct Running {
    /// The Ollamas that told theirs.
    pub upstreams: Vec<Arc<Upstream>>,
    /// Each name once: when it expires, and the entry.
    pub entries: Vec<(Option<SystemTime>, Box<RawValue>)>,
}

impl Running {
    /// True if one of these Ollamas lists the model, so that only it knows whether the model is running.
    pub(super) fn knows(&self, id: &str) -> bool {
        let lists = |upstream: &Arc<Upstream>| {
            let list = upstream.catalog.get_cached();
            list.is_some_and(|list| catalog::find_model(&list, id).is_some())
        };
        self.upstreams.iter().any(lists)
    }
}

/// The running models of each Ollama that is reached, as it tells them.
pub(super) fn running(context: &Context<'_>) -> Running {
    let (mut upstreams, mut entries) = (Vec::new(), Vec::new());
    if !detect(context) {
        return Running { upstreams, entries };
    }
    let mut known = HashSet::new();
    for upstream in ollamas(context.app).filter(|upstream| !upstream.is_out()) {
        let Some(body) = upstream.client.fetch_running(context.trace) else { continue };
        let Some(found) = read_running(&body) else { continue };
        let server = &upstream.settings.server;
        for (name, expires_at, entry) in found {
            let is_shown = server.allows(&name) && context.app.may_use(&name, context.trace);
            if is_shown && known.insert(names::canonical_key(&name)) {
                entries.push((expires_at, entry));
            }
        }
        upstreams.push(upstream.clone());
    }
    Running { upstreams, entries }
}

/// Name, expiry and text of a running model.
type RunningEntry = (String, Option<SystemTime>, Box<RawValue>);

fn read_running(body: &str) -> Option<Vec<RunningEntry>> {
    let members = RawObject::parse(body)?;
    let entries = raw_object::parse_items(members.get("models")?)?;
    let read = |json: &str| {
        let entry = RawObject::parse(json)?;
        let name = entry.get_string("model").or_else(|| entry.get_string("name"))?;
        let expires_at = entry.get_string("expires_at");
        let expires_at = expires_at.and_then(|text| timestamp::parse_rfc3339(&text));
        Some((name, expires_at, RawValue::from_string(json.to_owned()).ok()?))
    };
    Some(entries.into_iter().filter_map(read).collect())
}

/// Whether one of the upstreams is an Ollama. Of several, those that are not known yet are asked.
fn detect(context: &Context<'_>) -> bool {
    let app = context.app;
    let is_unsure = |upstream: &Arc<Upstream>| {
        upstream.client.may_be_ollama()
            && !upstream.client.is_ollama()
            && upstream.catalog.get_cached().is_none()
    };
    match app.router.only_upstream() {
        Some(only) => look_once(only, context.trace),
        None if app.router.upstreams().iter().any(is_unsure) => {
            app.router.lists(context.trace);
        }
        None => {}
    }
    ollamas(app).next().is_some()
}

fn ollamas<'a>(app: AppView<'a>) -> impl Iterator<Item = &'a Arc<Upstream>> {
    app.router.upstreams().iter().filter(|upstream| upstream.client.is_ollama())
}

fn only_ollama(app: AppView<'_>) -> Option<&Arc<Upstream>> {
    let mut all = ollamas(app);
    all.next().filter(|_| all.next().is_none())
}

/// Whether a name is that of a virtual model, or of one of the configuration.
fn is_ours(app: AppView<'_>, name: &str) -> bool {
    app.find_virtual(name).is_some()
}

/// The upstream that `upstream/model` names, and the model.
fn split_prefix<'n, 'a>(app: AppView<'a>, name: &'n str) -> Option<(&'a Arc<Upstream>, &'n str)> {
    let (prefix, id) = name.split_once('/')?;
    app.router.find_upstream(prefix).map(|upstream| (upstream, id)).filter(|_| !id.is_empty())
}

/// The name without the upstream's, if that stands before it.
fn strip_prefix<'n>(name: &'n str, upstream: &Upstream) -> &'n str {
    let rest = name.strip_prefix(upstream.name()).and_then(|rest| rest.strip_prefix('/'));
    rest.filter(|rest| !rest.is_empty()).unwrap_or(name)
}

/// The candidates of a name, if an Ollama is the first of them; only the Ollamas are left. `takes_virtual` says
/// whether a virtual model is passed on.
fn native_routing(
    context: &mut Context<'_>,
    sent: &str,
    takes_virtual: &dyn Fn(AppView<'_>, &VirtualModel) -> bool,
) -> Option<Routing> {
    if !detect(context) {
        return None;
    }
    let app = context.app;
    // What is wrong with the name is told where the proxy answers by itself.
    let name = app.parse_model_name(Some(sent), context.trace, model_required_error).ok()?;
    let virtual_model = app.find_virtual(&name);
    if virtual_model.as_deref().is_some_and(|model| !takes_virtual(app, model)) {
        return None;
    }
    let key = || ConversationKey::new([]);
    let mut routing = Routing::new(app, (&name, virtual_model), false, key, context.trace);
    if !routing.candidates.list.first().is_some_and(is_native) {
        return None;
    }
    routing.candidates.list.retain(is_native);
    Some(routing)
}

/// The Ollama that a name belongs to, and the model's name there; `None` if it belongs to another server, or
/// to none of several Ollamas.
fn find_owner(context: &Context<'_>, name: &str) -> Option<(Arc<Upstream>, String)> {
    let app = context.app;
    let own = |upstream: &Arc<Upstream>, id: &str| {
        upstream.client.is_ollama().then(|| (upstream.clone(), id.to_owned()))
    };
    if let Some(configured) = app.router.find_configured(name) {
        let candidates = app.router.targets(configured, context.trace).list;
        return candidates.first().and_then(|it| own(&it.upstream, &it.name));
    }
    if app.store.get(name).is_some() {
        return None;
    }
    // With one upstream there is nothing to choose.
    if app.router.only_upstream().is_none() {
        app.list_if_known(context.trace);
    }
    let lists = |upstream: &&Arc<Upstream>| {
        let list = upstream.catalog.get_cached();
        list.is_some_and(|list| catalog::find_model(&list, name).is_some())
    };
    let mut listing = app.router.upstreams().iter().filter(lists);
    if let Some(first) = listing.next() {
        // The Ollama's own, if it has one of this name, too.
        let others = listing.find(|it| it.client.is_ollama());
        let owner = if first.client.is_ollama() { Some(first) } else { others };
        return owner.and_then(|owner| own(owner, name));
    }
    if let Some((upstream, id)) = split_prefix(app, name) {
        return own(upstream, id);
    }
    only_ollama(app).and_then(|only| own(only, name))
}

/// A body with other names for those that Ollama would not take for the same.
fn rename(text: &str, names: Vec<(Name, &str)>) -> Vec<u8> {
    let is_changed = |((sent, _), id): &(Name, &str)| !is_same_name(sent, id);
    let changed = names.into_iter().filter(is_changed);
    replace_names(text.as_bytes(), changed.map(|((_, place), id)| (place, id)).collect())
}

/// Asks the Ollamas of a routing with the body that `change` makes for each.
fn ask(
    context: &mut Context<'_>,
    routing: &Routing,
    (method, path): (&'static str, &'static str),
    requested_name: &str,
    change: &dyn Fn(&ResolvedModel) -> Vec<u8>,
) -> Result<Answer> {
    let headers = native_headers(context);
    let is_change = path != "/api/show";
    routing.run((context.app, context.trace), requested_name, |trace, resolved| {
        let body = change(&resolved);
        let (payload, headers) = (Payload::Bytes(&body), &headers);
        let request = NativeRequest { method, path, payload, headers, is_change };
        let answer = resolved.upstream.client.pass_native(request, trace)?;
        Ok(Answer { answer, upstream: resolved.upstream })
    })
}

/// Asks one Ollama for a change.
fn send(
    context: &mut Context<'_>,
    upstream: Arc<Upstream>,
    (method, path): (&'static str, &'static str),
    body: &[u8],
) -> Result<Answer> {
    context.trace.upstream = Some(upstream.shared_name());
    let headers = native_headers(context);
    let (payload, headers) = (Payload::Bytes(body), &headers);
    let request = NativeRequest { method, path, payload, headers, is_change: true };
    let answer = upstream.client.pass_native(request, context.trace)?;
    Ok(Answer { answer, upstream })
}

/// Passes the response to a change on.
fn relay_change(context: &mut Context<'_>, answer: Answer) -> Result<()> {
    relay_plain(context, answer.answer, Some(answer.upstream))
}
