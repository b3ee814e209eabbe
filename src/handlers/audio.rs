//! `/v1/audio/transcriptions`: a multipart form that is passed on.
//!
//! Only the name of the model is read, at the beginning of the form, and replaced by the upstream's id.
//! Never buffers a large form: it streams through and is sent once. Invariant: no other byte of the form
//! changes.

use super::pass_through;
use super::pass_through::{Comments, LARGE_BODY_BYTES, PrefixDecision};
use super::{App, Context, LoadOptions, ModelUse, model_required_error};
use crate::api::openai::multipart;
use crate::error::{Error, Result};
use crate::upstream::{PassTarget, Payload, Trace};

const TARGET: PassTarget<'static> = PassTarget::Known("audio/transcriptions");

/// `POST /v1/audio/transcriptions`.
pub(super) fn transcriptions(context: &mut Context<'_>) -> Result<()> {
    let kind = context.exchange.header("Content-Type").unwrap_or_default();
    let is_form = kind.trim_start().to_ascii_lowercase().starts_with("multipart/form-data");
    let length = context.exchange.content_length();
    if is_form && length.is_some_and(|length| length > LARGE_BODY_BYTES) {
        let read = |app, prefix: &mut _, trace: &mut _| {
            rewrite_model(app, prefix, trace).map(PrefixDecision::Stream)
        };
        return match pass_through::pass_streaming(context, TARGET, read)? {
            None => Ok(()),
            Some(_) => Err(Error::Internal("a multipart form was buffered unexpectedly")),
        };
    }
    let mut body = context.read_body()?;
    if !is_form {
        let text = "failed to parse multipart form: request Content-Type isn't multipart/form-data";
        return Err(Error::invalid_request(text));
    }
    if multipart::find_model(&body).is_none() {
        return Err(model_required_error());
    }
    let (id, mut in_use) = rewrite_model(context.app, &mut body, context.trace)?.unzip();
    let (app, headers) = (context.app, pass_through::select_headers(context));
    let payload = Payload::Bytes(&body);
    let client = &app.upstream.client;
    let answer = client.pass_unread(TARGET, id.as_deref(), &headers, payload, context.trace)?;
    in_use.iter_mut().for_each(|in_use| in_use.record_response(&answer));
    pass_through::relay_unchanged(context, answer, in_use, Comments::Never)
}

/// Replaces the model's name at the beginning of a form by the upstream's id, if it is there.
fn rewrite_model<'a>(
    app: &'a App,
    prefix: &mut Vec<u8>,
    trace: &mut Trace,
) -> Result<Option<(String, ModelUse<'a>)>> {
    let Some((sent, place)) = multipart::find_model(prefix) else { return Ok(None) };
    let name = app.parse_model_name(Some(&sent), trace, model_required_error)?;
    let mut resolved = app.resolve_model(&name, app.store.get(&name).as_deref(), false, trace);
    if resolved.id != sent {
        prefix.splice(place, resolved.id.bytes());
    }
    let in_use = resolved.begin_use(app, LoadOptions::default());
    Ok(Some((resolved.id, in_use)))
}
