//! `/v1/audio/transcriptions`: a form that is passed on as it is (ollama-api.md 14.7).
//!
//! Only the name of the model is looked for, at the beginning of the form, and put in the upstream's
//! words where those are others. A large form streams through and is sent once.

use std::io::Read;

use super::pass::{self, BEGINNING, LARGE, Whole};
use super::{Context, InUse, model_is_required};
use crate::error::{Error, Result};
use crate::openai::form;
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
    let mut body = context.exchange.read_body(context.app.config.max_body_bytes)?;
    if !is_form {
        let text = "failed to parse multipart form: request Content-Type isn't multipart/form-data";
        return Err(Error::invalid(text));
    }
    if form::model_in(&body).is_none() {
        return Err(model_is_required());
    }
    let (id, mut in_use) = name(context.app, &mut body, context.trace)?;
    let (app, headers) = (context.app, pass::along(context));
    let answer = app.client.pass_bytes(PATH, id.as_deref(), &headers, &body, context.trace)?;
    in_use.iter_mut().for_each(|in_use| in_use.note(&answer));
    pass::relay(context, answer, in_use)
}

fn streamed(context: &mut Context<'_>) -> Result<()> {
    let headers = pass::along(context);
    let (app, trace) = (context.app, &mut *context.trace);
    let mut taken = None;
    let read = context.exchange.pass_body(app.config.max_body_bytes, |reader, length| {
        let mut beginning = Vec::new();
        (&mut *reader).take(BEGINNING).read_to_end(&mut beginning)?;
        let before = beginning.len();
        let (id, mut in_use) = match name(app, &mut beginning, trace) {
            Ok(named) => named,
            Err(error) => {
                taken = Some(Err(error));
                return Whole::new(&beginning, reader, length).end();
            }
        };
        let length = length - before + beginning.len();
        let mut body = Whole::new(&beginning, reader, length);
        let sent = (&mut body as _, length);
        let answer = app.client.pass_stream(PATH, id.as_deref(), &headers, sent, trace);
        let read = body.end().map(|read| read + before as u64 - beginning.len() as u64);
        taken = Some(answer.map(|answer| {
            in_use.iter_mut().for_each(|in_use| in_use.note(&answer));
            (answer, in_use)
        }));
        read
    });
    let (answer, in_use) = pass::told(read, taken)?;
    pass::relay(context, answer, in_use)
}

/// Puts the upstream's name for the model into the beginning of a form, if the name stands there.
fn name<'a>(
    app: &'a super::App,
    beginning: &mut Vec<u8>,
    trace: &mut Trace,
) -> Result<(Option<String>, Option<InUse<'a>>)> {
    let Some((sent, place)) = form::model_in(beginning) else { return Ok((None, None)) };
    let name = app.name(Some(&sent), trace, model_is_required)?;
    let resolved = app.resolve(&name, app.overlay(&name).as_deref(), false, trace);
    let id = resolved.id.clone();
    if id != sent {
        beginning.splice(place, id.bytes());
    }
    Ok((Some(id), Some(pass::in_use(app, resolved))))
}
