//! `/v1/audio/transcriptions`: a multipart form that is passed on.
//!
//! Only the name of the model is read, at the beginning of the form, and replaced by the upstream's id.
//! Never buffers a large form: it streams through and is sent once. Invariant: no other byte of the form
//! changes.

use super::passed_on::{self, Comments, LARGE_BODY_BYTES};
use super::upload::{NamedModel, PrefixDecision, no_key, pass_streaming};
use super::{AppView, Context, model_required_error};
use crate::api::openai::multipart;
use crate::error::{Error, Result};
use crate::upstream::PassTarget;

const TARGET: PassTarget<'static> = PassTarget::Known("audio/transcriptions");

/// `POST /v1/audio/transcriptions`.
pub(super) fn transcriptions(context: &mut Context<'_>) -> Result<()> {
    let kind = context.exchange.header("Content-Type").unwrap_or_default();
    let is_form = kind.trim_start().to_ascii_lowercase().starts_with("multipart/form-data");
    let length = context.exchange.content_length();
    // What follows could name another model.
    let streams = !context.app.limits_models();
    if streams && is_form && length.is_some_and(|length| length > LARGE_BODY_BYTES) {
        let read = |app: AppView<'_>, prefix: &[u8], trace: &mut _| {
            let found = multipart::find_model(prefix);
            let named = found.map(|found| NamedModel::new((app, trace), found, encode, no_key));
            named.transpose().map(PrefixDecision::Stream)
        };
        return match pass_streaming(context, TARGET, read)? {
            None => Ok(()),
            Some(_) => Err(Error::Internal("a multipart form was buffered unexpectedly")),
        };
    }
    let body = context.read_body()?;
    if !is_form {
        let text = "failed to parse multipart form: request Content-Type isn't multipart/form-data";
        return Err(Error::invalid_request(text));
    }
    let found = multipart::find_model(&body).ok_or_else(model_required_error)?;
    context.app.check_form(&body)?;
    let (app, headers) = (context.app, passed_on::select_headers(context));
    let named = NamedModel::new((app, context.trace), found, encode, no_key)?;
    let passed = named.pass_whole((app, context.trace), TARGET, &headers, body)?;
    passed_on::relay_unchanged(context, passed.answer, passed.in_use, Comments::Never)
}

/// A name as a form writes it.
fn encode(name: &str) -> Vec<u8> {
    name.as_bytes().to_vec()
}
