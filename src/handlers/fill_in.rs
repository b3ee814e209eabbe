//! Fill-in-the-middle (`suffix` of `/api/generate`) at upstreams that may have no `suffix`.
//!
//! A server that rejects `suffix` is asked once more, with the prompt of the model's family
//! ([`crate::backends::fim_prompts`]). What worked is remembered for the model for an hour. Never puts
//! a suffix into the prompt of a model whose family is unknown.
//! Invariant: if the second request is rejected, too, the client gets the first rejection.

use std::time::Instant;

use super::AppView;
use super::model_lookup::ResolvedModel;
use super::model_request::{Begun, ModelRequest, PendingReply, call};
use crate::backends::fim_prompts;
use crate::backends::profiles::FimEndpoint;
use crate::error::Result;
use crate::translate::generate::UpstreamRequest;
use crate::translate::infill;
use crate::upstream::{Operation, Rejected, Trace, Upstream, UpstreamResponse};

/// The operation that has `suffix`.
const PATH: &str = "completions";

/// Where a model fills in: as its family says, unless its upstream has rejected `suffix`.
pub(super) fn endpoint(resolved: &ResolvedModel) -> FimEndpoint {
    match resolved.profile.fim {
        FimEndpoint::CompletionsSuffix
            if resolved.upstream.suffix_refusals.contains(PATH, &resolved.id, Instant::now()) =>
        {
            FimEndpoint::CompletionsPrompt
        }
        fim => fim,
    }
}

/// Sends a request with a suffix; `rebuild` makes the same request for another endpoint.
pub(super) fn send<'a, 'r>(
    model_request: &ModelRequest,
    (app, trace): (AppView<'a>, &mut Trace),
    begun: Begun<'a>,
    mut request: UpstreamRequest<'r>,
    stream: bool,
    rebuild: impl FnOnce(FimEndpoint) -> Result<UpstreamRequest<'r>>,
) -> Result<PendingReply<'a>> {
    let name = &model_request.requested_name;
    let (upstream, id) = (begun.resolved.upstream.clone(), &begun.resolved.id);
    let response = match call_or_rejection(trace, &upstream, &mut request, stream) {
        Err(rejected) if is_about_suffix(&rejected) => {
            if !fim_prompts::is_known(id) {
                return Err(infill::suffix_error(rejected.error, name));
            }
            log::warn!(
                "{} upstream rejected suffix, sending again with the model's own prompt for it",
                trace.request_id
            );
            request = rebuild(FimEndpoint::CompletionsPrompt)?;
            let response = call(trace, &upstream, &mut request, stream).map_err(|error| {
                if error.is_upstream_rejection() { rejected.error } else { error }
            });
            let response = infill::map_unsupported(response, name)?;
            upstream.suffix_refusals.insert(PATH, id, Instant::now());
            response
        }
        response => infill::map_unsupported(response.map_err(|rejected| rejected.error), name)?,
    };
    model_request.begin_reply((app, trace), begun, response, request, stream)
}

fn call_or_rejection(
    trace: &mut Trace,
    upstream: &Upstream,
    request: &mut UpstreamRequest<'_>,
    stream: bool,
) -> std::result::Result<UpstreamResponse, Box<Rejected>> {
    match request {
        UpstreamRequest::Completion(completion) if completion.suffix.is_some() => {
            let operation = Operation::COMPLETION.streaming(stream);
            upstream.client.call_or_rejection(operation, completion, trace)
        }
        other => call(trace, upstream, other, stream)
            .map_err(|error| Box::new(Rejected { error, rejection: None })),
    }
}

fn is_about_suffix(rejected: &Rejected) -> bool {
    let may_be = rejected.error.is_upstream_rejection();
    may_be && rejected.rejection.as_ref().is_some_and(infill::is_about_suffix)
}
