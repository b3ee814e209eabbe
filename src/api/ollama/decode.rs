//! Reads request bodies as Go's `encoding/json` does, which Ollama uses.
//!
//! Keys match in any case, `null` counts as absent, unknown members are skipped, bytes that are not
//! UTF-8 become U+FFFD, text behind the first value is ignored, and errors have Go's wording. An error
//! never repeats text of a request, except for the one character at which the JSON is invalid.
//! Decoding borrows from the body: a 20 MB image is not copied here.

use std::borrow::Cow;
use std::fmt;
use std::ops::Deref;

use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};

use crate::error::{Error, Result};

/// The depth of nesting that Go accepts (`maxNestingDepth` in `encoding/json`).
const MAX_DEPTH: usize = 10_000;

/// Separates the names of nested fields in an error that propagates outwards. Cannot occur in serde's
/// messages about these types.
const FIELD_SEPARATOR: char = '\u{1}';

/// The body as text, ready for [`parse`].
///
/// # Errors
/// [`Error::MissingBody`] when it is empty, [`Error::InvalidRequest`] when it is nested too deep.
pub fn decode_body(body: Vec<u8>) -> Result<String> {
    let text = decode_body_verbatim(body)?;
    Ok(replace_lone_surrogates(&text).unwrap_or(text))
}

/// Like [`decode_body`], for a body that is passed on: its escapes stay as they are.
///
/// # Errors
/// As [`decode_body`].
pub fn decode_body_verbatim(body: Vec<u8>) -> Result<String> {
    if body.is_empty() {
        return Err(Error::MissingBody);
    }
    let text = String::from_utf8(body)
        .unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned());
    if exceeds_max_depth(text.as_bytes()) {
        return Err(Error::invalid_request("exceeded max depth"));
    }
    Ok(text)
}

/// Reads the first JSON value of `text` as a `T`; `name` is Go's name of the type, for errors, with
/// its package where that is not `api`.
///
/// # Errors
/// [`Error::InvalidRequest`] in Go's words.
pub fn parse<'a, T: Deserialize<'a>>(text: &'a str, name: &str) -> Result<T> {
    let mut deserializer = serde_json::Deserializer::from_str(text);
    T::deserialize(&mut deserializer)
        .map_err(|error| Error::invalid_request(go_error_text(&error, text, name)))
}

/// A string that borrows from the body where it can.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct GoString<'a>(#[serde(borrow)] pub Cow<'a, str>);

impl Deref for GoString<'_> {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

/// A whole number. Any JSON number is taken and its fraction cut, as clients send `33.0`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GoInt(pub i64);

impl<'de> Deserialize<'de> for GoInt {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        struct GoIntVisitor;
        impl Visitor<'_> for GoIntVisitor {
            type Value = GoInt;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("int")
            }

            fn visit_i64<E>(self, number: i64) -> std::result::Result<GoInt, E> {
                Ok(GoInt(number))
            }

            fn visit_u64<E>(self, number: u64) -> std::result::Result<GoInt, E> {
                Ok(GoInt(i64::try_from(number).unwrap_or(i64::MAX)))
            }

            fn visit_f64<E>(self, number: f64) -> std::result::Result<GoInt, E> {
                #[allow(clippy::cast_possible_truncation)] // Saturates, as it should.
                Ok(GoInt(number as i64))
            }
        }
        deserializer.deserialize_i64(GoIntVisitor)
    }
}

/// A text member that is not empty. Go's clients always write the key, so an empty text counts as
/// absent.
pub fn non_empty(member: Option<&str>) -> Option<&str> {
    member.filter(|text| !text.is_empty())
}

/// Go's name for the type of a JSON value, as in "cannot unmarshal number into".
pub fn go_type_of(json: &str) -> &'static str {
    match json.as_bytes().first() {
        Some(b'{') => "object",
        Some(b'[') => "array",
        Some(b'"') => "string",
        Some(b't' | b'f') => "bool",
        _ => "number",
    }
}

/// Adds a field's name to an error on its way out.
pub fn prefix_field<E: serde::de::Error>(field: &str, error: E) -> E {
    E::custom(format_args!("{field}{FIELD_SEPARATOR}{error}"))
}

/// Reads the value of a key into its field. Of duplicates the last one wins; null changes nothing.
///
/// Not inlined, so that there is one copy for each type of field instead of one for each field.
#[inline(never)]
pub(crate) fn read_member<'de, A: MapAccess<'de>, T: Deserialize<'de>>(
    map: &mut A,
    key: &'static str,
    field: &mut Option<T>,
) -> std::result::Result<(), A::Error> {
    if let Some(value) = map.next_value().map_err(|error| prefix_field(key, error))? {
        *field = Some(value);
    }
    Ok(())
}

/// A member's key: its field's name, unless that is a keyword of Rust.
macro_rules! key {
    ($field:ident) => {
        stringify!($field)
    };
    ($field:ident $key:literal) => {
        $key
    };
}
pub(crate) use key;

/// Defines request types: every member optional, keys in any case, unknown members skipped. A field
/// may have another name than its key (`pub kind as "type": ...`), and the types another package than
/// Ollama's `api` in errors (`in "anthropic";` before them). Fields in a block `and {...}` behind a type
/// are no members: a translation fills them.
macro_rules! request {
    (in $package:literal; $(
        $(#[$meta:meta])* pub struct $name:ident<$life:lifetime> {
            $($(#[$field_meta:meta])* pub $field:ident $(as $key:literal)?: $type:ty,)*
        }
        $(and { $($(#[$own_meta:meta])* pub $own:ident: $own_type:ty,)* })?
    )*) => {$(
        $(#[$meta])*
        #[derive(Clone, Debug, Default)]
        pub struct $name<$life> {
            $($(#[$field_meta])* pub $field: Option<$type>,)*
            $($($(#[$own_meta])* pub $own: $own_type,)*)?
        }

        impl<$life> serde::de::Deserialize<$life> for $name<$life> {
            fn deserialize<D: serde::de::Deserializer<$life>>(
                deserializer: D,
            ) -> std::result::Result<Self, D::Error> {
                struct Members;
                impl<$life> serde::de::Visitor<$life> for Members {
                    type Value = $name<$life>;

                    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                        f.write_str(concat!($package, ".", stringify!($name)))
                    }

                    // A body of `null` is an empty request.
                    fn visit_none<E>(self) -> std::result::Result<Self::Value, E> {
                        Ok($name::default())
                    }

                    // Not `deserialize_any`, which is large and would be there for each type.
                    fn visit_some<D: serde::de::Deserializer<$life>>(
                        self,
                        deserializer: D,
                    ) -> std::result::Result<Self::Value, D::Error> {
                        deserializer.deserialize_map(self)
                    }

                    fn visit_map<A: serde::de::MapAccess<$life>>(
                        self,
                        mut map: A,
                    ) -> std::result::Result<Self::Value, A::Error> {
                        use $crate::api::ollama::decode::{GoString, read_member};
                        let mut out = $name::default();
                        while let Some(key) = map.next_key::<GoString<'_>>()? {
                            $(
                                let name = $crate::api::ollama::decode::key!($field $($key)?);
                                if key.eq_ignore_ascii_case(name) {
                                    read_member(&mut map, name, &mut out.$field)?;
                                    continue;
                                }
                            )*
                            map.next_value::<serde::de::IgnoredAny>()?;
                        }
                        Ok(out)
                    }
                }
                deserializer.deserialize_option(Members)
            }
        }
    )*};
    ($($types:tt)*) => {
        $crate::api::ollama::decode::request! { in "api"; $($types)* }
    };
}
pub(crate) use request;

/// True if brackets nest deeper than Go allows. Texts with few brackets are not scanned.
fn exceeds_max_depth(text: &[u8]) -> bool {
    let opening = text.iter().filter(|&&byte| byte == b'[' || byte == b'{').count();
    if opening <= MAX_DEPTH {
        return false;
    }
    let (mut depth, mut in_string, mut escaped) = (0_usize, false, false);
    for &byte in text {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            b'[' | b'{' if !in_string => {
                depth += 1;
                if depth > MAX_DEPTH {
                    return true;
                }
            }
            b']' | b'}' if !in_string => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    false
}

/// Replaces escaped halves of a surrogate pair that stand alone by `\ufffd`, as Go reads them:
/// JavaScript clients send them when they cut a string inside an emoji. `None` if there are none.
fn replace_lone_surrogates(text: &str) -> Option<String> {
    if !text.contains("\\ud") && !text.contains("\\uD") {
        return None;
    }
    let bytes = text.as_bytes();
    let (mut replaced, mut copied, mut at) = (String::new(), 0, 0);
    while let Some(found) = text[at..].find('\\').map(|offset| at + offset) {
        let high = parse_surrogate(bytes, found);
        at = match high {
            Some(0xD800..0xDC00) if matches!(parse_surrogate(bytes, found + 6), Some(0xDC00..)) => {
                found + 12
            }
            Some(_) => {
                replaced.push_str(&text[copied..found]);
                replaced.push_str("\\ufffd");
                copied = found + 6;
                copied
            }
            // Two bytes of any other escape; a backslash at the very end is the parser's to report.
            None => (found + 2).min(bytes.len()),
        };
        while !text.is_char_boundary(at) {
            at += 1;
        }
    }
    if copied == 0 {
        return None;
    }
    replaced.push_str(&text[copied..]);
    Some(replaced)
}

/// The value of a `\uD8xx`..`\uDFxx` escape that starts at `at`.
fn parse_surrogate(bytes: &[u8], at: usize) -> Option<u32> {
    let escape = bytes.get(at..at + 6)?;
    let digits = std::str::from_utf8(escape.strip_prefix(b"\\u")?).ok()?;
    let value = u32::from_str_radix(digits, 16).ok()?;
    (0xD800..0xE000).contains(&value).then_some(value)
}

/// The error in the words of Go's `encoding/json`.
fn go_error_text(error: &serde_json::Error, text: &str, name: &str) -> String {
    use serde_json::error::Category;
    let message = error.to_string();
    // serde reports a syntax error inside of a field as a data error.
    let leaf = message.rsplit(FIELD_SEPARATOR).next().unwrap_or_default();
    let known = SYNTAX_ERRORS.iter().find(|(begin, _)| leaf.starts_with(begin));
    match error.classify() {
        Category::Eof | Category::Io => "unexpected EOF".to_owned(),
        Category::Data if leaf.starts_with("EOF while parsing") => "unexpected EOF".to_owned(),
        Category::Data if known.is_none() => type_error_text(&message, name),
        _ if leaf.starts_with("recursion limit") => "exceeded max depth".to_owned(),
        Category::Syntax | Category::Data => {
            syntax_error_text(error, known.map_or(BEFORE_VALUE, |(_, place)| place), text)
        }
    }
}

/// Where Go says that an invalid character is, unless it knows better.
const BEFORE_VALUE: &str = "looking for beginning of value";

/// The beginnings of serde_json's messages about syntax, and where Go says that the error is.
const SYNTAX_ERRORS: &[(&str, &str)] = &[
    ("expected `:`", "after object key"),
    ("expected `,` or `}`", "after object key:value pair"),
    ("expected `,` or `]`", "after array element"),
    ("expected `", BEFORE_VALUE),
    ("expected ident", "in literal"),
    ("expected value", BEFORE_VALUE),
    ("invalid escape", "in string escape code"),
    ("invalid number", "in numeric literal"),
    ("number out of range", "in numeric literal"),
    ("invalid unicode code point", "in string escape code"),
    ("control character", "in string literal"),
    ("key must be a string", "looking for beginning of object key string"),
    ("lone leading surrogate", BEFORE_VALUE),
    ("unexpected end of hex escape", BEFORE_VALUE),
    ("trailing comma", BEFORE_VALUE),
    ("recursion limit", BEFORE_VALUE),
];

/// `invalid character 'x' looking for ...`
fn syntax_error_text(error: &serde_json::Error, place: &str, text: &str) -> String {
    let line = text.lines().nth(error.line().saturating_sub(1)).unwrap_or_default();
    let column = error.column().saturating_sub(1).min(line.len());
    let start = (0..=column).rev().find(|&at| line.is_char_boundary(at)).unwrap_or(0);
    match line[start..].chars().next() {
        Some(character) => format!("invalid character {character:?} {place}"),
        None => format!("invalid character '\\n' {place}"),
    }
}

/// `json: cannot unmarshal number into Go struct field GenerateRequest.prompt of type string`
fn type_error_text(message: &str, name: &str) -> String {
    let message = message.split(" at line ").next().unwrap_or_default();
    let (path, leaf) = message.rsplit_once(FIELD_SEPARATOR).unwrap_or(("", message));
    let path = path.replace(FIELD_SEPARATOR, ".");
    let Some(mismatch) = leaf.strip_prefix("invalid type: ") else {
        return leaf.to_owned();
    };
    let value = match mismatch.split([' ', ',']).next().unwrap_or_default() {
        "integer" | "floating" | "number" => "number",
        "boolean" => "bool",
        "sequence" => "array",
        "map" => "object",
        other => other,
    };
    let expected = match mismatch.rsplit("expected ").next().unwrap_or_default() {
        "a string" => "string",
        "a boolean" => "bool",
        "a JSON number" => "float64",
        "a sequence" => "slice",
        "a map" => "map[string]interface {}",
        other => other,
    };
    // A type in place of the package is the one around it.
    let is_package = |(first, _): &(&str, &str)| first.starts_with(|c: char| c.is_lowercase());
    let (package, name) = name.split_once('.').filter(is_package).unwrap_or(("api", name));
    if path.is_empty() {
        format!("json: cannot unmarshal {value} into Go value of type {package}.{name}")
    } else {
        format!(
            "json: cannot unmarshal {value} into Go struct field {name}.{path} of type {expected}"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    request! {
        /// An inner structure.
        pub struct Inner<'a> {
            /// A text.
            pub content: GoString<'a>,
        }

        /// An outer structure.
        pub struct Outer<'a> {
            /// A text.
            pub model: GoString<'a>,
            /// A number.
            pub count: GoInt,
            /// A flag.
            pub stream: bool,
            /// A list.
            pub messages: Vec<Inner<'a>>,
        }
    }

    fn read(body: &str) -> String {
        let text = match decode_body(body.as_bytes().to_vec()) {
            Ok(text) => text,
            Err(error) => return error.message(),
        };
        match parse::<Outer<'_>>(&text, "Outer") {
            Ok(Outer { model, count, stream, messages }) => {
                let (model, count) = (model.as_deref(), count.map(|count| count.0));
                let content = |it: Inner<'_>| it.content.as_deref().unwrap_or("-").to_owned();
                let messages =
                    messages.map(|list| list.into_iter().map(content).collect::<Vec<_>>());
                format!("{model:?} {count:?} {stream:?} {messages:?}")
            }
            Err(error) => error.message(),
        }
    }

    #[test]
    fn go_s_leniency_is_kept() {
        let check = |body: &str, expected: &str| assert_eq!(read(body), expected, "{body}");
        check("{}", "None None None None");
        check("null", "None None None None");
        check(r#"{"Model":"x","STREAM":true}"#, r#"Some("x") None Some(true) None"#);
        check(r#"{"model":"x","model":"y"}"#, r#"Some("y") None None None"#);
        check(r#"{"model":"x","MODEL":null}"#, r#"Some("x") None None None"#);
        check(r#"{"model":null,"other":{"a":[1,{"b":2}]}}"#, "None None None None");
        check(r#"{"model":"x"} trailing"#, r#"Some("x") None None None"#);
        check(r#"{"count":33.0}"#, "None Some(33) None None");
        check(r#"{"count":33.9}"#, "None Some(33) None None");
        check(r#"{"messages":[{"CONTENT":"a\nb"},{}]}"#, r#"None None None Some(["a\nb", "-"])"#);
    }

    #[test]
    fn errors_are_worded_as_go_words_them() {
        let check = |body: &str, expected: &str| assert_eq!(read(body), expected, "{body}");
        check("", "missing request body");
        check("{bad", "invalid character 'b' looking for beginning of object key string");
        check("hello", "invalid character 'h' looking for beginning of value");
        check(r#"{"model":"x""#, "unexpected EOF");
        check(r#"{"model":"x"#, "unexpected EOF");
        check(r#"{"model":"#, "unexpected EOF");
        check(r#"{"messages":[{"content":"x"#, "unexpected EOF");
        check(r#"{"model":x}"#, "invalid character 'x' looking for beginning of value");
        let not_a_value = "invalid character 'x' looking for beginning of value";
        check(r#"{"messages":[{"content":x}]}"#, not_a_value);
        check(r#"{"model":"\q"}"#, "invalid character 'q' in string escape code");
        check(r#"{"model" "x"}"#, "invalid character '\"' after object key");
        check("[1]", "json: cannot unmarshal array into Go value of type api.Outer");
        check(&"[".repeat(100_000), "exceeded max depth");
        let check = |body: &str, found: &str, field: &str| {
            let text = format!("json: cannot unmarshal {found} into Go struct field Outer.{field}");
            assert_eq!(read(body), text, "{body}");
        };
        check(r#"{"model":5}"#, "number", "model of type string");
        check(r#"{"stream":"no"}"#, "string", "stream of type bool");
        check(r#"{"count":"5"}"#, "string", "count of type int");
        check(r#"{"messages":[{"content":[1]}]}"#, "array", "messages.content of type string");
        check(r#"{"messages":{"a":1}}"#, "object", "messages of type slice");
        let secret = r#"{"model":"secret prompt","stream":"secret"}"#;
        check(secret, "string", "stream of type bool");
    }

    #[test]
    fn bytes_that_are_no_text_become_replacement_characters() {
        let body = b"{\"model\":\"a\xff\xfeb\"}".to_vec();
        let text = decode_body(body).expect("never refused");
        let outer: Outer<'_> = parse(&text, "Outer").expect("valid JSON");
        assert_eq!(outer.model.as_deref(), Some("a\u{fffd}\u{fffd}b"));
    }

    #[test]
    fn lone_halves_of_a_surrogate_pair_become_replacement_characters() {
        let check = |body: &str, expected: &str| assert_eq!(read(body), expected, "{body}");
        check(r#"{"model":"a\ud83d"}"#, r#"Some("a�") None None None"#);
        check(r#"{"model":"\uDE00é\\ud83d"}"#, r#"Some("�é\\ud83d") None None None"#);
        check(r#"{"model":"\ud83d\ud83d\ude00"}"#, r#"Some("�😀") None None None"#);
    }

    #[test]
    fn plain_strings_are_borrowed_from_the_body() {
        let outer: Outer<'_> = parse(r#"{"model":"plain"}"#, "Outer").expect("valid JSON");
        assert!(matches!(outer.model, Some(GoString(Cow::Borrowed("plain")))));
    }

    #[test]
    fn only_brackets_outside_of_texts_are_depth() {
        let brackets = "[".repeat(MAX_DEPTH + 1);
        assert!(exceeds_max_depth(brackets.as_bytes()));
        assert!(!exceeds_max_depth(format!("\"{brackets}\"").as_bytes()));
        assert!(!exceeds_max_depth(format!("\"\\\"{brackets}\"").as_bytes()));
        assert!(exceeds_max_depth(format!("\"x\"{brackets}").as_bytes()));
        assert!(!exceeds_max_depth("[]".repeat(MAX_DEPTH + 1).as_bytes()));
    }
}
