//! Finds the message, code, type and parameter in whatever an upstream calls an error: the eleven
//! shapes of openai-wire.md 5.1. Judges nothing and hides nothing: the message may still hold a
//! key, and [`super::to_error`] cleans it before it goes anywhere.
//! Invariant: a message that was found is not blank.

use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

use super::{ErrorDetails, FieldError};

/// Where a text may be, the best place first.
const MESSAGE_KEYS: [&str; 7] =
    ["message", "msg", "detail", "error_description", "error", "errors", "title"];

/// What a body was.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum BodyFormat {
    /// JSON of any shape.
    Json,
    /// Plain text, or nothing.
    #[default]
    Text,
    /// Markup; its tags are gone.
    Html,
}

/// What was found in a body.
#[derive(Debug, Default)]
pub(super) struct ExtractedError {
    /// The texts, at their full length. The message is empty when only a code was sent.
    pub details: ErrorDetails,
    /// The `code`, if it is a number from 400 to 599.
    pub status: Option<u16>,
    /// What the body was.
    pub format: BodyFormat,
    /// The error was a string and nothing besides.
    pub is_bare_string: bool,
}

impl ExtractedError {
    /// Without a text, the code or the type must do; a bare number says nothing.
    fn fill_message(&mut self) {
        let ErrorDetails { message, code, kind, .. } = &mut self.details;
        if message.is_empty() {
            let code = code.clone().filter(|code| code.parse::<f64>().is_err());
            *message = code.or_else(|| kind.clone()).unwrap_or_default();
        }
    }
}

/// Reads an error body; `None` when it says nothing.
pub(super) fn extract(body: &[u8]) -> Option<ExtractedError> {
    let text = String::from_utf8_lossy(body);
    match serde_json::from_str::<Value>(&text) {
        Ok(value) => from_json(&value),
        Err(_) => from_text(&text),
    }
}

/// Reads the `error` member of an answer, or a whole answer that has one. Nothing is found in a
/// null, but that it stands there is for the caller to judge.
pub(super) fn extract_member(error: &[u8]) -> ExtractedError {
    let text = String::from_utf8_lossy(error);
    let Ok(value) = serde_json::from_str::<Value>(&text) else {
        return from_text(&text).unwrap_or_default();
    };
    let value = value.get(0).unwrap_or(&value);
    if value.get("error").is_some_and(|inner| !inner.is_null()) {
        return from_json(value).unwrap_or_default();
    }
    let mut found = from_error(value, value);
    found.fill_message();
    found
}

/// Whether a whole answer is an error. The rest of it, which may be long, is only skipped.
pub(super) fn is_error_body(answer: &[u8]) -> bool {
    #[derive(Deserialize)]
    struct Answer<'a> {
        #[serde(borrow)]
        error: Option<&'a RawValue>,
        #[serde(borrow)]
        object: Option<&'a RawValue>,
    }
    let answer = answer.trim_ascii();
    let in_list = answer.strip_prefix(b"[").map(<[u8]>::trim_ascii);
    // Serde would read a list of two as the two members.
    if !in_list.unwrap_or(answer).starts_with(b"{") {
        return false;
    }
    let parsed = match in_list {
        Some(_) => serde_json::from_slice::<(Answer<'_>,)>(answer).map(|(first,)| first),
        None => serde_json::from_slice(answer),
    };
    parsed.is_ok_and(|answer| {
        answer.error.is_some_and(is_error_value)
            || answer.object.is_some_and(|object| object.get() == r#""error""#)
    })
}

/// Whether an `error` member is one: some servers send an empty one with every answer.
pub(crate) fn is_error_value(error: &RawValue) -> bool {
    serde_json::from_str(error.get()).is_ok_and(|error| !is_blank(&error))
}

/// Null, false, zero and everything empty.
fn is_blank(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(is_error) => !is_error,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::String(text) => text.trim().is_empty(),
        Value::Array(items) => items.iter().all(is_blank),
        Value::Object(members) => members.is_empty(),
    }
}

fn from_json(value: &Value) -> Option<ExtractedError> {
    let mut found = from_entry(value.get(0).unwrap_or(value))?;
    // Of a list the first error counts; what the others say is a line each.
    for other in value.as_array().into_iter().flatten().skip(1).filter_map(from_entry) {
        found.details.message = format!("{}\n{}", found.details.message, other.details.message);
        found.details.field_errors.extend(other.details.field_errors);
    }
    Some(found)
}

fn from_entry(value: &Value) -> Option<ExtractedError> {
    let error = value.get("error").filter(|error| !error.is_null());
    let mut found = from_error(error.unwrap_or(value), value);
    if error.is_none() && found.details.message.is_empty() {
        return None;
    }
    found.fill_message();
    Some(found)
}

/// Reads an error whose fields are in `error`, or next to it in `whole`.
fn from_error(error: &Value, whole: &Value) -> ExtractedError {
    let code = scalar_member(error, "code")
        .or_else(|| scalar_member(whole, "code"))
        .or_else(|| error.as_number().map(ToString::to_string));
    let first_detail = error.get("detail").and_then(|detail| detail.get(0));
    let kind = scalar_member(error, "type")
        .or_else(|| scalar_member(whole, "type"))
        .or_else(|| scalar_member(error, "error_type"))
        .or_else(|| scalar_member(whole, "error_type"))
        .or_else(|| scalar_member(error.get("metadata")?, "error_type"))
        .or_else(|| scalar_member(error, "status"))
        .or_else(|| scalar_member(first_detail?, "type"));
    let param = scalar_member(error, "param").or_else(|| last_location(first_detail?));
    let status = code.as_deref().and_then(parse_status);
    let message = find_text(error).or_else(|| find_text(whole)).unwrap_or_default();
    let details =
        ErrorDetails { message, code, kind, param, field_errors: parse_field_errors(error) };
    let is_bare = error.is_string() && details.code.is_none() && details.kind.is_none();
    let mut found =
        ExtractedError { details, status, format: BodyFormat::Json, is_bare_string: is_bare };
    let raw = error.get("metadata").and_then(|metadata| metadata.get("raw"));
    if let Some(inner) = raw.and_then(parse_embedded).and_then(|raw| from_json(&raw)) {
        prefer_inner(&mut found, inner);
    }
    found
}

/// The entries of a list of faults: FastAPI's beside nothing else, Gemini's within its details.
fn parse_field_errors(error: &Value) -> Vec<FieldError> {
    let list = |value: &Value, key: &str| value.get(key).and_then(Value::as_array).cloned();
    let violations = list(error, "details").unwrap_or_default();
    let violations = violations.iter().filter_map(|it| list(it, "fieldViolations")).flatten();
    // Mistral has the list one step further in.
    let entries = list(error, "detail").or_else(|| list(error.get("message")?, "detail"));
    let entries = entries.into_iter().flatten();
    entries.chain(violations).filter_map(|entry| parse_field_error(&entry)).collect()
}

fn parse_field_error(entry: &Value) -> Option<FieldError> {
    let place = match entry.get("loc") {
        Some(loc) => join_location(loc)?,
        None => scalar_member(entry, "field")?,
    };
    let message = find_text(entry.get("msg").or_else(|| entry.get("description"))?)?;
    Some(FieldError { path: place, kind: scalar_member(entry, "type"), message })
}

/// `x.0` for `["body", "x", 0]`.
fn join_location(loc: &Value) -> Option<String> {
    let parts = loc.as_array()?.iter().map(|part| match part {
        Value::String(name) => name.clone(),
        other => other.to_string(),
    });
    let parts: Vec<String> = parts.collect();
    let inner = parts.strip_prefix(&["body".to_owned()]).unwrap_or(&parts);
    Some(inner.join("."))
}

/// What a gateway passes on from the server behind it is better than what it says itself.
fn prefer_inner(found: &mut ExtractedError, inner: ExtractedError) {
    if inner.details.message.is_empty() {
        return;
    }
    let outer = &mut found.details;
    outer.message = inner.details.message;
    outer.code = inner.details.code.or(outer.code.take());
    outer.kind = inner.details.kind.or(outer.kind.take());
    outer.param = inner.details.param.or(outer.param.take());
    outer.field_errors = inner.details.field_errors;
    found.status = found.status.or(inner.status);
}

/// The text in a value: itself, that of its list items, or that of its most telling member.
fn find_text(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => {
            let inner = parse_embedded(value).and_then(|inner| find_text(&inner));
            inner.or_else(|| Some(text.trim().to_owned()).filter(|text| !text.is_empty()))
        }
        Value::Array(items) => {
            let texts: Vec<_> = items.iter().filter_map(find_text).collect();
            Some(texts.join("; ")).filter(|text| !text.is_empty())
        }
        Value::Object(members) => {
            let text = MESSAGE_KEYS.iter().find_map(|key| find_text(members.get(*key)?))?;
            Some(match last_location(value) {
                Some(place) => format!("{place}: {text}"),
                None => text,
            })
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => None,
    }
}

/// The JSON object that a string holds, or the object itself.
fn parse_embedded(value: &Value) -> Option<Value> {
    match value {
        Value::String(text) if text.trim_start().starts_with(['{', '[']) => {
            serde_json::from_str(text).ok()
        }
        Value::Object(_) => Some(value.clone()),
        _ => None,
    }
}

/// The last part of the place that a validation error names: `x` of `["body", "x"]`.
fn last_location(detail: &Value) -> Option<String> {
    match detail.get("loc")?.as_array()?.last()? {
        Value::String(name) => Some(name.clone()),
        other => Some(other.to_string()),
    }
}

/// A member that is a word or a number.
fn scalar_member(value: &Value, key: &str) -> Option<String> {
    match value.get(key)? {
        Value::String(word) if !word.trim().is_empty() => Some(word.trim().to_owned()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    }
}

fn parse_status(code: &str) -> Option<u16> {
    code.parse().ok().filter(|status| (400..600).contains(status))
}

fn from_text(text: &str) -> Option<ExtractedError> {
    let message = strip_tags(text).split_whitespace().collect::<Vec<_>>().join(" ");
    if message.is_empty() {
        return None;
    }
    let form = if text.trim_start().starts_with('<') { BodyFormat::Html } else { BodyFormat::Text };
    Some(ExtractedError {
        details: ErrorDetails { message, ..ErrorDetails::default() },
        format: form,
        ..ExtractedError::default()
    })
}

/// `text` with a blank for each tag, and without comments, scripts and style sheets.
fn strip_tags(text: &str) -> String {
    let lower = text.to_ascii_lowercase();
    let last_end = text.rfind('>').unwrap_or(0);
    let mut out = String::new();
    let mut at = 0;
    while let Some(tag) = text[at..].find('<').map(|n| at + n).filter(|tag| *tag < last_end) {
        out.push_str(&text[at..tag]);
        let length = tag_length(&lower[tag..]);
        out.push(if length.is_some() { ' ' } else { '<' });
        at = tag + length.unwrap_or(1);
    }
    out.push_str(&text[at..]);
    out
}

/// The length of the tag that `text`, in lower case, begins with, and of what it encloses that is
/// not for readers. `None` when that `<` is only a sign in a sentence.
fn tag_length(text: &str) -> Option<usize> {
    let is_tag = |c: char| c.is_ascii_alphabetic() || matches!(c, '/' | '!' | '?');
    if !text[1..].starts_with(is_tag) {
        return None;
    }
    let end = [("<!--", "-->"), ("<script", "</script>"), ("<style", "</style>")]
        .into_iter()
        .find(|(start, _)| text.starts_with(start))
        .map_or(">", |(_, end)| end);
    // What never ends encloses all the rest.
    Some(text.find(end).map_or(text.len(), |at| at + end.len()))
}
