//! `/v1/audio/transcriptions`: a form that is passed on as it is (ollama-api.md 14.7).
//!
//! Only the name of the model is looked for, at the beginning of the form, and put in the upstream's
//! words where those are others. A large form streams through and is sent once.

use super::pass_through;
use super::pass_through::{LARGE, Taken, Told};
use super::{App, Context, InUse, model_is_required};
use crate::api::openai::multipart;
use crate::error::{Error, Result};
use crate::upstream::Trace;

const PATH: &str = "audio/transcriptions";

/// `POST /v1/audio/transcriptions`.
pub(super) fn transcriptions(context: &mut Context<'_>) -> Result<()> {
    let kind = context.exchange.header("Content-Type").unwrap_or_default();
    let is_form = kind.trim_start().to_ascii_lowercase().starts_with("multipart/form-data");
    let length = context.exchange.claimed();
    if is_form && length.is_some_and(|length| length > LARGE) {
        return streamed(context);
    }
    let mut body = context.body()?;
    if !is_form {
        let text = "failed to parse multipart form: request Content-Type isn't multipart/form-data";
        return Err(Error::invalid(text));
    }
    if multipart::model_in(&body).is_none() {
        return Err(model_is_required());
    }
    let (id, mut in_use) = named(context.app, &mut body, context.trace)?.unzip();
    let (app, headers) = (context.app, pass_through::along(context));
    let answer = app.client.pass_bytes(PATH, id.as_deref(), &headers, &body, context.trace)?;
    in_use.iter_mut().for_each(|in_use| in_use.note(&answer));
    pass_through::relay(context, answer, in_use)
}

fn streamed(context: &mut Context<'_>) -> Result<()> {
    let read = |app, beginning: &mut _, trace: &mut _| named(app, beginning, trace).map(Told::Go);
    match pass_through::streamed(context, PATH, read)? {
        Taken::Passed(answer, in_use) => pass_through::relay(context, answer, in_use),
        Taken::Held(_) => Err(Error::Internal("a form that was held")),
    }
}

/// Puts the upstream's name for the model into the beginning of a form, if the name stands there.
fn named<'a>(
    app: &'a App,
    beginning: &mut Vec<u8>,
    trace: &mut Trace,
) -> Result<Option<(String, InUse<'a>)>> {
    let Some((sent, place)) = multipart::model_in(beginning) else { return Ok(None) };
    let name = app.name(Some(&sent), trace, model_is_required)?;
    let resolved = app.resolve(&name, app.overlay(&name).as_deref(), false, trace);
    let id = resolved.id.clone();
    if id != sent {
        beginning.splice(place, id.bytes());
    }
    Ok(Some((id, pass_through::in_use(app, resolved))))
}
