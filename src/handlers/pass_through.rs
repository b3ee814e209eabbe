//! A client's request to the upstream and the response back, both unchanged but for the model's name, and
//! for comments in a stream of completions that is silent.
//!
//! A small body is buffered, so that it can be sent again: after a failure, or repaired after a rejection.
//! A large body of which only the model's name must change streams through in bounded memory, and is sent
//! once (`upload`). Never interprets a response. Invariant: the body of a request that is passed on changes
//! only where the upstream would reject it.

use std::sync::Arc;
use std::time::Instant;

use super::failover::Routing;
use super::keepalive::KeepaliveSettings;
use super::model_lookup::ResolvedModel;
use super::passed_on::{Comments, LARGE_BODY_BYTES, Passed, relay_unchanged, select_headers};
use super::upload::{find_named_model, no_key, pass_streaming};
use super::{AppView, Context, LoadOptions, decompress, model_required_error, routing_key};
use crate::api::ollama::decode;
use crate::api::openai::raw_object::RawObject;
use crate::error::Result;
use crate::models::virtual_model::VirtualModel;
use crate::translate::options;
use crate::translate::pass_through::{Endpoint, PassBody, result_order};
use crate::upstream::router::candidates::Candidate;
use crate::upstream::{PassResponse, PassTarget, Patience, Upstream};

/// `POST /v1/chat/completions`, `/v1/completions` and `/v1/embeddings`: passes on a request of any size.
pub(super) fn pass(context: &mut Context<'_>, endpoint: Endpoint) -> Result<()> {
    let KeepaliveSettings { start_after, comment_after, .. } = context.app.settings.keepalive;
    // A comment is due a moment later.
    let in_silence = context.exchange.sends_at_once().then_some(comment_after * 7 / 8);
    context.trace.patience = Patience { in_silence, behind_bytes: start_after };
    let large = context.exchange.content_length().is_some_and(|length| length > LARGE_BODY_BYTES);
    // What follows could name another model.
    let large = large && !context.app.limits_models();
    let body = if large && !decompress::is_compressed(context) {
        let read = |app: AppView<'_>, prefix: &[u8], trace: &mut _| {
            find_named_model(app, endpoint, prefix, trace)
        };
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
    // Lists of places in the body, one for each message.
    context.exchange.charge(body.len() / 2)?;
    let text = decode::decode_body_verbatim(body)?;
    let request = PassBody::parse(&text, endpoint)?;
    context.app.check_members(text.as_bytes(), context.trace)?;
    let name = context.app.parse_model_name(
        request.requested_model(),
        context.trace,
        model_required_error,
    )?;
    let overlay = app.find_virtual(&name);
    let parameters = overlay.as_ref().map(|model| &model.parameters);
    let needs_profile = options::parse(parameters).is_ok_and(|options| {
        // The token limit has several names.
        options.needs_profile() || parameters.is_some_and(|it| it.contains_key("num_predict"))
    });
    let key = || routing_key::of_object(context, &request.object);
    let about = (name.as_str(), overlay.clone());
    let routing = Routing::new(app, about, needs_profile, key, context.trace);
    let mut parsed = Some(request);
    let Passed { answer, mut in_use, is_translatable } =
        routing.run((app, context.trace), &name, |trace, mut resolved| {
            resolved.check_exists(&name)?;
            let request = parsed.take().map_or_else(|| PassBody::parse(&text, endpoint), Ok)?;
            let overlay = overlay.as_deref();
            let request = fit_request(request, endpoint, &resolved, overlay)?;
            let in_use = resolved.begin_use(app, LoadOptions::default());
            let client = &resolved.upstream.client;
            let answer = client.pass(endpoint, &request, &headers, trace)?;
            resolved.recheck(app, &name, overlay, trace)?;
            let is_translatable = can_translate(&resolved.upstream, endpoint, &answer);
            Ok(Passed { answer, in_use: Some(in_use), is_translatable })
        })?;
    if is_translatable {
        return Ok(Some(text.into_bytes()));
    }
    in_use.iter_mut().for_each(|in_use| in_use.record_response(&answer));
    // The response may take long, and the request may be large.
    drop(parsed);
    drop(text);
    let comments = Comments::of(endpoint.path());
    relay_unchanged(context, answer, in_use, comments).map(|()| None)
}

/// The upstream that a request would go to first.
pub(super) fn first_upstream(context: &Context<'_>, body: &[u8]) -> Arc<Upstream> {
    let app = context.app;
    let upstreams = app.router.upstreams();
    if upstreams.len() == 1 {
        return upstreams[0].clone();
    }
    let text = std::str::from_utf8(body).unwrap_or_default();
    let object = RawObject::parse(text);
    let name = object.as_ref().and_then(|object| object.get_string("model")).unwrap_or_default();
    let about = (name.trim(), app.find_virtual(&name));
    let key = || object.as_ref().map_or_else(no_key, |it| routing_key::of_object(context, it));
    let candidates = Routing::new(app, about, false, key, context.trace).candidates.list;
    let is_able = |candidate: &&Candidate| !candidate.upstream.is_out();
    let first = candidates.iter().find(is_able).or(candidates.first());
    first.map_or_else(|| upstreams[0].clone(), |candidate| candidate.upstream.clone())
}

/// A request as it is sent to one upstream.
fn fit_request<'t>(
    mut request: PassBody<'t>,
    endpoint: Endpoint,
    resolved: &ResolvedModel,
    overlay: Option<&VirtualModel>,
) -> Result<PassBody<'t>> {
    request.set_model(&resolved.id);
    if let Some(model) = overlay {
        model.apply_to_body(&mut request, endpoint, resolved.profile)?;
    }
    if endpoint == Endpoint::Chat {
        resolved.upstream.client.tool_call_extras.restore_in_body(&mut request);
        result_order::sort_results(&mut request);
    }
    Ok(request)
}

/// True if a request that the upstream has no route for can be translated. An upstream that has
/// `responses` without `responses/compact` could not read a compaction of ours.
fn can_translate(upstream: &Upstream, endpoint: Endpoint, answer: &PassResponse) -> bool {
    let now = Instant::now();
    if endpoint == Endpoint::Responses && answer.head.status < 400 {
        upstream.has_responses.set(1, now);
    }
    let is_translatable = match endpoint {
        Endpoint::Responses => true,
        Endpoint::ResponsesCompact => !upstream.has_responses.is_known(now),
        Endpoint::Chat | Endpoint::Completions | Endpoint::Embeddings => false,
    };
    let is_translated = is_translatable && answer.is_unknown_route();
    // A missing `compact` says nothing of `responses`, which more servers have.
    if is_translated && endpoint == Endpoint::Responses {
        upstream.lacks_responses.set(1, now);
    }
    is_translated
}
