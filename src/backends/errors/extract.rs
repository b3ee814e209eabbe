//! Extracts message, code, type and parameter from an error body in any of the shapes that
//! OpenAI-compatible servers send: OpenAI's object, flat objects, strings, FastAPI's `detail`,
//! Gemini's arrays, gateways that embed another server's error, HTML and plain text.
//!
//! Neither classifies nor redacts: the message may hold a key. Invariant: an extracted message is
//! not blank.

use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

use super::{ErrorDetails, FieldError};
use crate::api::wire::json_cost;

/// Members that may hold the message, the most specific first.
const MESSAGE_KEYS: [&str; 7] =
    ["message", "msg", "detail", "error_description", "error", "errors", "title"];

/// The most bytes of an error's parsed form: some 10,000 entries.
const MAX_TREE_BYTES: usize = 8 << 20;

/// The format of an error body.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum BodyFormat {
    /// JSON of any shape.
    Json,
    /// Plain text, or an empty body.
    #[default]
    Text,
    /// HTML or XML; the tags are removed from the message.
    Html,
}

/// The contents of an error body.
#[derive(Debug, Default)]
pub(super) struct ExtractedError {
    /// The fields, not truncated. The message is empty if the body holds neither a text nor a code
    /// that can replace it.
    pub details: ErrorDetails,
    /// `code`, if it is a number from 400 to 599.
    pub status: Option<u16>,
    pub format: BodyFormat,
    /// True if the error is a string without code and type.
    pub is_bare_string: bool,
}

impl ExtractedError {
    /// Replaces an empty message by the code, unless that is a number, or by the type.
    fn fill_message(&mut self) {
        let ErrorDetails { message, code, kind, .. } = &mut self.details;
        if message.is_empty() {
            let code = code.clone().filter(|code| code.parse::<f64>().is_err());
            *message = code.or_else(|| kind.clone()).unwrap_or_default();
        }
    }
}

/// Reads an error body; `None` if it is blank or JSON without an error.
pub(super) fn extract(body: &[u8]) -> Option<ExtractedError> {
    let text = String::from_utf8_lossy(body);
    match parse(&text) {
        Some(value) => from_json(&value),
        None => from_text(&text),
    }
}

/// A body as JSON, unless its tree would be much larger than any error's.
fn parse(text: &str) -> Option<Value> {
    if json_cost::parsed_bytes(text.as_bytes()) > MAX_TREE_BYTES {
        return None;
    }
    serde_json::from_str(text).ok()
}

/// Reads the `error` member of a response, or a whole response that has one.
pub(super) fn extract_member(error: &[u8]) -> ExtractedError {
    let text = String::from_utf8_lossy(error);
    let Some(value) = parse(&text) else {
        return from_text(&text).unwrap_or_default();
    };
    let mut found = from_error(value.get(0).unwrap_or(&value));
    found.fill_message();
    found
}

/// True if a whole response is an error. Other members are skipped without being parsed into
/// values.
pub(super) fn is_error_body(response: &[u8]) -> bool {
    #[derive(Deserialize)]
    struct Response<'a> {
        #[serde(borrow)]
        error: Option<&'a RawValue>,
        #[serde(borrow)]
        object: Option<&'a RawValue>,
    }
    let response = response.trim_ascii();
    let in_array = response.strip_prefix(b"[").map(<[u8]>::trim_ascii);
    // Serde would accept an array of two values as this struct.
    if !in_array.unwrap_or(response).starts_with(b"{") {
        return false;
    }
    let parsed = match in_array {
        Some(_) => serde_json::from_slice::<(Response<'_>,)>(response).map(|(first,)| first),
        None => serde_json::from_slice(response),
    };
    parsed.is_ok_and(|response| {
        response.error.is_some_and(is_error_value)
            || response.object.is_some_and(|object| object.get() == r#""error""#)
    })
}

/// True if an `error` member reports an error: some servers send a null or empty one with every
/// response.
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
    // In an array, the first error gives code and type; each further one adds a line.
    for other in value.as_array().into_iter().flatten().skip(1).filter_map(from_entry) {
        found.details.message = format!("{}\n{}", found.details.message, other.details.message);
        found.details.field_errors.extend(other.details.field_errors);
    }
    Some(found)
}

fn from_entry(value: &Value) -> Option<ExtractedError> {
    let mut found = from_error(value);
    if found.details.message.is_empty() && value.get("error").is_none_or(Value::is_null) {
        return None;
    }
    found.fill_message();
    Some(found)
}

/// Reads an error whose fields are members of `whole`, or of its member `error`.
fn from_error(whole: &Value) -> ExtractedError {
    let error = whole.get("error").filter(|error| !error.is_null()).unwrap_or(whole);
    let either = |key| scalar_member(error, key).or_else(|| scalar_member(whole, key));
    let code = either("code").or_else(|| error.as_number().map(ToString::to_string));
    let first_detail = error.get("detail").and_then(|detail| detail.get(0));
    let kind = either("type")
        .or_else(|| either("error_type"))
        .or_else(|| scalar_member(error.get("metadata")?, "error_type"))
        .or_else(|| scalar_member(error, "status"))
        .or_else(|| scalar_member(first_detail?, "type"));
    let param = scalar_member(error, "param").or_else(|| last_location(first_detail?));
    let status = code.as_deref().and_then(parse_status);
    let message = find_text(error).or_else(|| find_text(whole)).unwrap_or_default();
    let count = |key| error.get(key).or_else(|| whole.get(key))?.as_u64();
    let details = ErrorDetails {
        message,
        code,
        kind,
        param,
        prompt_tokens: count("n_prompt_tokens"),
        context_window: count("n_ctx"),
        field_errors: parse_field_errors(error),
    };
    let is_bare_string = error.is_string() && details.code.is_none() && details.kind.is_none();
    let mut found = ExtractedError { details, status, format: BodyFormat::Json, is_bare_string };
    let raw = error.get("metadata").and_then(|metadata| metadata.get("raw"));
    if let Some(inner) = raw.and_then(parse_embedded).and_then(|raw| from_json(&raw)) {
        prefer_inner(&mut found, inner);
    }
    found
}

/// The entries of FastAPI's `detail`, which Mistral sends inside `message`, and those of Gemini's
/// `details`.
fn parse_field_errors(error: &Value) -> Vec<FieldError> {
    fn array<'a>(value: &'a Value, key: &str) -> Option<&'a Vec<Value>> {
        value.get(key)?.as_array()
    }
    let details = array(error, "details").into_iter().flatten();
    let violations = details.filter_map(|detail| array(detail, "fieldViolations")).flatten();
    let entries = array(error, "detail").or_else(|| array(error.get("message")?, "detail"));
    entries.into_iter().flatten().chain(violations).filter_map(parse_field_error).collect()
}

fn parse_field_error(entry: &Value) -> Option<FieldError> {
    let path = match entry.get("loc") {
        Some(location) => join_location(location)?,
        None => scalar_member(entry, "field")?,
    };
    // An entry without a text is no error.
    find_text(entry.get("msg").or_else(|| entry.get("description"))?)?;
    Some(FieldError { path, kind: scalar_member(entry, "type") })
}

/// `x.0` for `["body", "x", 0]`.
fn join_location(location: &Value) -> Option<String> {
    let parts: Vec<String> = location.as_array()?.iter().map(location_part).collect();
    let inner = parts.strip_prefix(&["body".to_owned()]).unwrap_or(&parts);
    Some(inner.join("."))
}

/// `x` for `{"loc": ["body", "x"]}`.
fn last_location(detail: &Value) -> Option<String> {
    detail.get("loc")?.as_array()?.last().map(location_part)
}

fn location_part(part: &Value) -> String {
    part.as_str().map_or_else(|| part.to_string(), str::to_owned)
}

/// Prefers the error of the server behind a gateway over the gateway's own.
fn prefer_inner(found: &mut ExtractedError, inner: ExtractedError) {
    if inner.details.message.is_empty() {
        return;
    }
    let outer = &mut found.details;
    outer.message = inner.details.message;
    outer.code = inner.details.code.or(outer.code.take());
    outer.kind = inner.details.kind.or(outer.kind.take());
    outer.param = inner.details.param.or(outer.param.take());
    outer.prompt_tokens = inner.details.prompt_tokens.or(outer.prompt_tokens);
    outer.context_window = inner.details.context_window.or(outer.context_window);
    outer.field_errors = inner.details.field_errors;
    found.status = found.status.or(inner.status);
}

/// The text in a value: a string itself, the texts of an array's items, or the text of an object's
/// most specific member.
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
                Some(field) => format!("{field}: {text}"),
                None => text,
            })
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => None,
    }
}

/// The JSON object or array encoded in a string, or the object itself.
fn parse_embedded(value: &Value) -> Option<Value> {
    match value {
        Value::String(text) if text.trim_start().starts_with(['{', '[']) => {
            serde_json::from_str(text).ok()
        }
        Value::Object(_) => Some(value.clone()),
        _ => None,
    }
}

/// A member that is a number or a string that is not blank.
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
    let is_html = text.trim_start().starts_with('<');
    Some(ExtractedError {
        details: ErrorDetails { message, ..ErrorDetails::default() },
        format: if is_html { BodyFormat::Html } else { BodyFormat::Text },
        ..ExtractedError::default()
    })
}

/// Replaces each tag by a space and removes comments, scripts and style sheets.
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

/// The length of the tag at the start of `text`, which is in lower case, including the contents of a
/// comment, script or style sheet. `None` if the `<` does not open a tag.
fn tag_length(text: &str) -> Option<usize> {
    let is_tag = |c: char| c.is_ascii_alphabetic() || matches!(c, '/' | '!' | '?');
    if !text[1..].starts_with(is_tag) {
        return None;
    }
    let end = [("<!--", "-->"), ("<script", "</script>"), ("<style", "</style>")]
        .into_iter()
        .find(|(start, _)| text.starts_with(start))
        .map_or(">", |(_, end)| end);
    // A tag without an end extends to the end of the text.
    Some(text.find(end).map_or(text.len(), |at| at + end.len()))
}
