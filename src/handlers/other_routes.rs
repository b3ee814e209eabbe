//! Routes below `/v1` that only the upstream has: passed on if the request names a model.
//!
//! A request that is not passed on gets what any unknown path gets. Never changes a byte of a body but
//! the model's name, and never interprets a response. Which paths are passed on is decided by
//! [`OtherRoute`].

use std::borrow::Cow;
use std::ops::Range;

use percent_encoding::percent_decode_str;

use super::passed_on::{self, Comments, LARGE_BODY_BYTES};
use super::upload::{NamedModel, PrefixDecision, no_key, pass_streaming};
use super::{AppView, Context, decompress};
use crate::api::openai::multipart;
use crate::api::openai::other_routes::OtherRoute;
use crate::api::openai::raw_object::{self, RawObject};
use crate::error::{Error, Result};
use crate::upstream::PassTarget;

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
    // What follows could name another model.
    let large = large && !context.app.limits_models();
    let body = if large && !decompress::is_compressed(context) {
        let read =
            |app: AppView<'_>, prefix: &[u8], trace: &mut _| match format.find_in_prefix(prefix) {
                Some(found) => {
                    let named = NamedModel::new((app, trace), found, format.encoder(), no_key)?;
                    let is_changed = format == BodyFormat::Json && named.gets_members();
                    Ok(match is_changed {
                        true => PrefixDecision::Buffer,
                        false => PrefixDecision::Stream(Some(named)),
                    })
                }
                None => Ok(PrefixDecision::Buffer),
            };
        let Some(body) = pass_streaming(context, target, read)? else {
            return Ok(());
        };
        body
    } else {
        decompress::read_body(context)?
    };
    let found = format.find_in_whole(&body).ok_or(Error::UnknownRoute)?;
    match format {
        BodyFormat::Json => context.app.check_members(&body, context.trace)?,
        BodyFormat::Multipart => context.app.check_form(&body)?,
    }
    check_path(context, route)?;
    let (app, headers) = (context.app, passed_on::select_headers(context));
    let named = NamedModel::new((app, context.trace), found, format.encoder(), no_key)?;
    // The body is copied to write the name.
    context.exchange.charge(body.len())?;
    let passed = named.pass_whole((app, context.trace), target, &headers, body)?;
    passed_on::relay_unchanged(context, passed.answer, passed.in_use, Comments::Never)
}

/// Some servers take a model from the path or the query.
fn check_path(context: &Context<'_>, route: OtherRoute<'_>) -> Result<()> {
    let names_model = route.path.split('/').any(|segment| segment == "engines")
        || percent_decode_str(route.query).decode_utf8_lossy().contains("model");
    if names_model && context.app.limits_models() {
        let text = "this key may use some models only: the body must name the model";
        return Err(Error::ModelNotAllowed(text.to_owned()));
    }
    Ok(())
}

impl BodyFormat {
    fn of(context: &Context<'_>) -> Self {
        let is_form = passed_on::is_multipart(context.exchange.header("Content-Type"));
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

    /// Writes a name as this format does.
    fn encoder(self) -> fn(&str) -> Vec<u8> {
        match self {
            Self::Json => |name| raw_object::quote_json(name).into_bytes(),
            Self::Multipart => |name| name.as_bytes().to_vec(),
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
