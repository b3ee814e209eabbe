//! Parsers for the values that describe an upstream and its models, whether an option or the file sets
//! them.
//!
//! Pure. As in `parsers.rs`, an error says what is expected and never quotes the value.

use serde_json::{Map, Value};

use crate::backends::names;
use crate::backends::profiles::{self, Profile};
use crate::observe::redact::Secret;

/// Headers that the program sets itself, or that belong to the connection (RFC 9110 section 7.6.1), in
/// lower case.
const RESERVED_HEADERS: &[&str] = &[
    "accept-encoding",
    "connection",
    "content-encoding",
    "content-length",
    "content-type",
    "expect",
    "host",
    "keep-alive",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// The longest name of an upstream.
const MAX_NAME_LENGTH: usize = 64;

/// A header, one per line as `Name: value`.
pub fn parse_headers(text: &str) -> Result<Vec<(String, Secret)>, String> {
    let expected = || "expected Name: value, one per line".to_owned();
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    let parse = |line: &str| {
        let (name, value) = line.split_once(':').ok_or_else(expected)?;
        parse_header(name.trim(), value)
    };
    lines.map(parse).collect()
}

/// A header of each request.
pub fn parse_header(name: &str, value: &str) -> Result<(String, Secret), String> {
    let is_token = |c: char| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c);
    if name.is_empty() || !name.chars().all(is_token) {
        return Err("expected header names of letters, digits and hyphens".to_owned());
    }
    if let Some(reserved) = RESERVED_HEADERS.iter().find(|it| it.eq_ignore_ascii_case(name)) {
        return Err(format!("the header {reserved} is set by the program"));
    }
    match parse_header_value(value) {
        Ok(value) => Ok((name.to_owned(), Secret::new(value))),
        Err(expected) => Err(format!("the value of the header {name}: {expected}")),
    }
}

/// The value of a header without white space around it (RFC 9110 section 5.5).
pub fn parse_header_value(text: &str) -> Result<String, String> {
    let text = text.trim_matches([' ', '\t']);
    if !text.is_empty() && text.chars().all(|c| c == '\t' || c == ' ' || c.is_ascii_graphic()) {
        return Ok(text.to_owned());
    }
    Err("expected visible ASCII without line breaks".to_owned())
}

/// Adds a header that is not there yet.
pub fn add_header(
    headers: &mut Vec<(String, Secret)>,
    (name, value): (String, Secret),
) -> Result<(), String> {
    if headers.iter().any(|(known, _)| known.eq_ignore_ascii_case(&name)) {
        return Err(format!("the header {name} is set twice"));
    }
    headers.push((name, value));
    Ok(())
}

/// Ids of models, with commas between them.
pub fn parse_ids(text: &str) -> Result<Vec<String>, String> {
    let ids: Vec<_> = text.split(',').map(str::trim).filter(|id| !id.is_empty()).collect();
    if !ids.is_empty() && ids.iter().all(|id| is_id(id)) {
        return Ok(ids.into_iter().map(str::to_owned).collect());
    }
    Err("expected the ids of models, such as qwen3-32b,llama3.2".to_owned())
}

/// Whether a text can be an upstream's id of a model. Ids that are the names of files may hold blanks.
pub fn is_id(text: &str) -> bool {
    !text.is_empty() && !text.contains('\u{fffd}') && !text.contains(char::is_control)
}

/// Whether a text can be a name of one's own for a model.
pub fn is_model_name(text: &str) -> bool {
    is_id(text) && !text.contains(char::is_whitespace) && names::validate(text).is_ok()
}

/// A JSON object.
pub fn parse_object(text: &str) -> Result<Map<String, Value>, String> {
    match serde_json::from_str(text) {
        Ok(Value::Object(members)) if !text.contains('\u{fffd}') => Ok(members),
        _ => Err("expected a JSON object, such as {\"provider\":{\"sort\":\"price\"}}".to_owned()),
    }
}

/// Names and what they stand for, as `name=id` with commas between them.
pub fn parse_aliases(text: &str) -> Result<Vec<(String, String)>, String> {
    let mut aliases: Vec<(String, String)> = Vec::new();
    for pair in text.split(',').map(str::trim).filter(|pair| !pair.is_empty()) {
        let (name, id) = pair.split_once('=').unwrap_or((pair, ""));
        let (name, id) = (name.trim(), id.trim());
        if !is_model_name(name) || !is_id(id) {
            return Err("expected NAME=MODEL, such as llama3.2=gpt-4o-mini,fast=groq-x".to_owned());
        }
        let key = names::canonical_key(name);
        if aliases.iter().any(|(known, _)| names::canonical_key(known) == key) {
            return Err("expected each name once".to_owned());
        }
        aliases.push((name.to_owned(), id.to_owned()));
    }
    Ok(aliases)
}

/// The name of an upstream.
pub fn parse_upstream_name(text: &str) -> Result<String, String> {
    let is_valid = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if (1..=MAX_NAME_LENGTH).contains(&text.len()) && text.chars().all(is_valid) {
        return Ok(text.to_owned());
    }
    Err(format!("expected 1 to {MAX_NAME_LENGTH} letters, digits, -, _ and ."))
}

/// The value for an upstream family that is detected.
pub const AUTO: &str = "auto";

/// The name of a family of upstreams; `None` for [`AUTO`].
pub fn parse_profile(text: &str) -> Result<Option<&'static Profile>, String> {
    match profiles::find_by_name(text) {
        None if text.eq_ignore_ascii_case(AUTO) => Ok(None),
        None => Err(format!("expected {AUTO} or one of {}", profiles::names().join(", "))),
        known => Ok(known),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_lines_of_name_and_value() {
        let check = |text: &str, expected: &[(&str, &str)]| {
            let found = parse_headers(text).unwrap_or_else(|why| panic!("{text:?}: {why}"));
            let found: Vec<_> =
                found.iter().map(|(name, it)| (name.as_str(), it.expose())).collect();
            assert_eq!(found, expected, "{text:?}");
        };
        check("X-Team: ml", &[("X-Team", "ml")]);
        check("X-Team:ml\n\n  X-B :  a: b \r\n", &[("X-Team", "ml"), ("X-B", "a: b")]);
        check("Authorization: Token abc", &[("Authorization", "Token abc")]);
    }

    #[test]
    fn headers_that_cannot_be_sent_are_refused_unseen() {
        for (text, word) in [
            ("s3cret", "Name: value"),
            ("X Team: s3cret", "letters"),
            (": s3cret", "letters"),
            ("X-Tëam: s3cret", "letters"),
            ("X-Team:", "visible ASCII"),
            ("X-Team: s3crét", "visible ASCII"),
            ("X-Team: s3cret\u{0}", "visible ASCII"),
            ("Host: s3cret", "set by the program"),
            ("content-LENGTH: s3cret", "set by the program"),
            ("Transfer-Encoding: s3cret", "set by the program"),
            ("Connection: s3cret", "set by the program"),
        ] {
            let why = parse_headers(text).expect_err(text);
            assert!(why.contains(word) && !why.contains("s3"), "{text}: {why}");
        }
        assert!(parse_header("X-Team", "a\r\nX-B: b").is_err(), "a line break");
        let mut headers = Vec::new();
        add_header(&mut headers, ("X-Team".to_owned(), Secret::new("a"))).expect("new");
        let twice = add_header(&mut headers, ("x-team".to_owned(), Secret::new("s3cret")));
        assert_eq!(twice, Err("the header x-team is set twice".to_owned()));
    }

    #[test]
    fn aliases_are_pairs_with_commas_between_them() {
        let pair = |(name, id): (&str, &str)| (name.to_owned(), id.to_owned());
        let check = |text: &str, expected: &[(&str, &str)]| {
            let expected: Vec<_> = expected.iter().copied().map(pair).collect();
            assert_eq!(parse_aliases(text), Ok(expected), "{text}");
        };
        check("llama3.2=gpt-4o-mini", &[("llama3.2", "gpt-4o-mini")]);
        check(" a = b , c:7b=lab/d=e,", &[("a", "b"), ("c:7b", "lab/d=e")]);
        for bad in ["a", "a=", "=b", "a=b,c", "a:=b", "a=b,A:latest=c", "a b=c", "a=\u{fffd}"] {
            assert!(parse_aliases(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn families_have_names_in_any_case() {
        for (text, expected) in [
            ("auto", None),
            ("vLLM", profiles::find_by_name("vllm")),
            ("generic", Some(&profiles::GENERIC)),
        ] {
            assert_eq!(parse_profile(text), Ok(expected), "{text}");
        }
        for bad in ["", "openai.com", "vllm "] {
            assert!(parse_profile(bad).is_err(), "{bad}");
        }
        let told = parse_profile("nonsense").expect_err("no family");
        for name in profiles::names() {
            assert!(told.contains(name), "{told}");
        }
    }

    #[test]
    fn ids_objects_and_names_are_checked() {
        assert_eq!(parse_ids(" a , b/c:d,"), Ok(vec!["a".to_owned(), "b/c:d".to_owned()]));
        assert_eq!(parse_ids("My Model.gguf"), Ok(vec!["My Model.gguf".to_owned()]));
        for bad in ["", ",", "a\u{fffd}", "a\nb"] {
            assert!(parse_ids(bad).is_err(), "{bad:?}");
        }
        assert_eq!(parse_object("{\"a\":{\"b\":1}}").map(|it| it.len()), Ok(1));
        for bad in ["", "[]", "1", "{\"a\":", "s3cret"] {
            assert!(!parse_object(bad).expect_err(bad).contains("s3cret"), "{bad}");
        }
        for good in ["lab", "a", "A-b_c.9"] {
            assert_eq!(parse_upstream_name(good).as_deref(), Ok(good));
        }
        for bad in ["", "a/b", "a b", "é", &"x".repeat(65)] {
            assert!(parse_upstream_name(bad).is_err(), "{bad}");
        }
    }
}
