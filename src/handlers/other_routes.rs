//! Routes below `/v1` that only the upstream has: passed on if the request names a model.
//!
//! A request that is not passed on gets what any unknown path gets. Never changes a byte of a body but
//! the model's name, and never interprets a response. Which paths are passed on is decided by
//! [`OtherRoute`].

use std::borrow::Cow;
use std::ops::Range;

use super::pass_through::{Comments, LARGE_BODY_BYTES, PrefixDecision};
use super::{App, Context, LoadOptions, ModelUse, decompress, model_required_error, pass_through};
use crate::api::openai::multipart;
use crate::api::openai::other_routes::OtherRoute;
use crate::api::openai::raw_object::{self, RawObject};
use crate::error::{Error, Result};
use crate::upstream::{PassTarget, Payload, Trace};

/// The name of a model in a body, and the range of its value.
type FoundModel = Option<(String, Range<usize>)>;

/// How a body is written.
#[derive(Clone, Copy, PartialEq, Eq)]
enum BodyFormat {
    Json,
    Multipart,
}

/// Passes on a request for a path that is none of ours.
///
/// # Errors
/// [`Error::UnknownRoute`] for one that is not passed on.
pub(super) fn pass_or_reject(context: &mut Context<'_>) -> Result<()> {
    let target = context.exchange.target().to_owned();
    match OtherRoute::parse(&target) {
        Some(route) if context.exchange.method() == "POST" => pass(context, route),
        _ => context.read_body().and(Err(Error::UnknownRoute)),
    }
}

fn pass(context: &mut Context<'_>, route: OtherRoute<'_>) -> Result<()> {
    let (format, target) = (BodyFormat::of(context), PassTarget::Other(route));
    let large = context.exchange.content_length().is_some_and(|length| length > LARGE_BODY_BYTES);
    let mut body = if large && !decompress::is_compressed(context) {
        let is_changed = format == BodyFormat::Json && context.app.upstream.client.adds_members();
        let read = |app, prefix: &mut Vec<u8>, trace: &mut _| match format.find_in_prefix(prefix) {
            Some(found) if !is_changed => {
                let about = rewrite_model(app, format, prefix, found, trace)?;
                Ok(PrefixDecision::Stream(Some(about)))
            }
            _ => Ok(PrefixDecision::Buffer),
        };
        let Some(body) = pass_through::pass_streaming(context, target, read)? else {
            return Ok(());
        };
        body
    } else {
        decompress::read_body(context)?
    };
    let found = format.find_in_whole(&body).ok_or(Error::UnknownRoute)?;
    let app = context.app;
    let (id, mut in_use) = rewrite_model(app, format, &mut body, found, context.trace)?;
    let (headers, payload) = (pass_through::select_headers(context), Payload::Bytes(&body));
    let client = &app.upstream.client;
    let answer = client.pass_unread(target, Some(&id), &headers, payload, context.trace)?;
    drop(body);
    in_use.record_response(&answer);
    pass_through::relay_unchanged(context, answer, Some(in_use), Comments::Never)
}

impl BodyFormat {
    fn of(context: &Context<'_>) -> Self {
        let is_form = pass_through::is_multipart(context.exchange.header("Content-Type"));
        if is_form { Self::Multipart } else { Self::Json }
    }

    fn find_in_prefix(self, prefix: &[u8]) -> FoundModel {
        let found = match self {
            Self::Json => raw_object::find_model(prefix),
            Self::Multipart => multipart::find_model(prefix),
        };
        found.filter(is_named)
    }

    fn find_in_whole(self, body: &[u8]) -> FoundModel {
        let found = match self {
            Self::Json => find_in_object(std::str::from_utf8(body).ok()?),
            Self::Multipart => multipart::find_model(body),
        };
        found.filter(is_named)
    }

    /// A name as this format writes it.
    fn encode(self, name: &str) -> Vec<u8> {
        match self {
            Self::Json => raw_object::quote_json(name).into_bytes(),
            Self::Multipart => name.as_bytes().to_vec(),
        }
    }
}

fn is_named((name, _): &(String, Range<usize>)) -> bool {
    !name.trim().is_empty()
}

fn find_in_object(text: &str) -> FoundModel {
    let object = RawObject::parse(text)?;
    let (_, value) = object.members().filter(|(key, _)| *key == "model").last()?;
    let Cow::Borrowed(value) = value else { return None };
    let range = raw_object::subslice_range(text.as_bytes(), value);
    Some((serde_json::from_str(value).ok()?, range))
}

/// Replaces the model's name in a body, or in its beginning, by the upstream's id.
fn rewrite_model<'a>(
    app: &'a App,
    format: BodyFormat,
    body: &mut Vec<u8>,
    (sent, range): (String, Range<usize>),
    trace: &mut Trace,
) -> Result<(String, ModelUse<'a>)> {
    let name = app.parse_model_name(Some(&sent), trace, model_required_error)?;
    let mut resolved = app.resolve_model(&name, app.store.get(&name).as_deref(), false, trace);
    resolved.check_exists(&name)?;
    if resolved.id != sent {
        body.splice(range, format.encode(&resolved.id));
    }
    let in_use = resolved.begin_use(app, LoadOptions::default());
    Ok((resolved.id, in_use))
}
