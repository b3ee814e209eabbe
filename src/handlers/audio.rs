//! `/v1/audio/transcriptions`: a form that is passed on as it is (ollama-api.md 14.7).
//!
//! Only the name of the model is looked for, at the beginning of the form, and put in the upstream's
//! words where those are others. A large form streams through and is sent once.

use super::pass_through;
use super::pass_through::{LARGE_BODY_BYTES, LargeBodyOutcome, PrefixDecision};
use super::{App, Context, ModelUse, model_required_error};
use crate::api::openai::multipart;
use crate::error::{Error, Result};
use crate::upstream::Trace;

const PATH: &str = "audio/transcriptions";

/// `POST /v1/audio/transcriptions`.
pub(super) fn transcriptions(context: &mut Context<'_>) -> Result<()> {
    let kind = context.exchange.header("Content-Type").unwrap_or_default();
    let is_form = kind.trim_start().to_ascii_lowercase().starts_with("multipart/form-data");
    let length = context.exchange.content_length();
    if is_form && length.is_some_and(|length| length > LARGE_BODY_BYTES) {
        return transcribe_streaming(context);
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
    let answer = app.client.pass_bytes(PATH, id.as_deref(), &headers, &body, context.trace)?;
    in_use.iter_mut().for_each(|in_use| in_use.record_response(&answer));
    pass_through::relay_unchanged(context, answer, in_use)
}

fn transcribe_streaming(context: &mut Context<'_>) -> Result<()> {
    let read = |app, beginning: &mut _, trace: &mut _| {
        rewrite_model(app, beginning, trace).map(PrefixDecision::Stream)
    };
    match pass_through::pass_streaming(context, PATH, read)? {
        LargeBodyOutcome::Passed(answer, in_use) => {
            pass_through::relay_unchanged(context, answer, in_use)
        }
        LargeBodyOutcome::Buffered(_) => Err(Error::Internal("a form that was held")),
    }
}

/// Puts the upstream's name for the model into the beginning of a form, if the name stands there.
fn rewrite_model<'a>(
    app: &'a App,
    beginning: &mut Vec<u8>,
    trace: &mut Trace,
) -> Result<Option<(String, ModelUse<'a>)>> {
    let Some((sent, place)) = multipart::find_model(beginning) else { return Ok(None) };
    let name = app.parse_model_name(Some(&sent), trace, model_required_error)?;
    let resolved = app.resolve_model(&name, app.find_virtual_model(&name).as_deref(), false, trace);
    let id = resolved.id.clone();
    if id != sent {
        beginning.splice(place, id.bytes());
    }
    Ok(Some((id, pass_through::begin_use(app, resolved))))
}
