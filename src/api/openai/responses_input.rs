//! The items, parts and tools of a request of `POST /v1/responses`.
//!
//! Agents send what they were sent, by this server, by another or by an older version, and one item that
//! cannot be read must not end their session. So an object is a list of [`Members`] of any type, and
//! [`text`] reads one as a text as far as it is one. Their names are those of OpenAI's API reference
//! (Responses, create) and of openai/codex (`ResponseItem`); `type` decides what the others mean.

use std::borrow::Cow;
use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

use crate::api::ollama::decode::GoString;

/// The members of an object, of any types.
#[derive(Clone, Debug, Default)]
pub struct Members<'a>(Vec<(Cow<'a, str>, &'a RawValue)>);

impl<'a> Members<'a> {
    /// The members of a value that is an object; `None` for other values.
    pub fn parse(raw: Option<&'a RawValue>) -> Option<Self> {
        let json = raw?.get();
        json.starts_with('{').then(|| serde_json::from_str(json).ok()).flatten()
    }

    /// An object with one member.
    pub fn single(name: &'static str, value: &'a RawValue) -> Self {
        Self(vec![(Cow::Borrowed(name), value)])
    }

    /// A member that is not `null`; its name in any case, of duplicates the last one.
    pub fn get(&self, name: &str) -> Option<&'a RawValue> {
        let is_meant = |(known, value): &&(Cow<'a, str>, &'a RawValue)| {
            known.eq_ignore_ascii_case(name) && value.get() != "null"
        };
        self.0.iter().rev().find(is_meant).map(|(_, value)| *value)
    }
}

impl<'de> Deserialize<'de> for Members<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct MembersVisitor;
        impl<'de> Visitor<'de> for MembersVisitor {
            type Value = Members<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Members<'de>, A::Error> {
                let mut members = Vec::new();
                while let Some(name) = map.next_key::<GoString<'de>>()? {
                    members.push((name.0, map.next_value()?));
                }
                Ok(Members(members))
            }
        }
        deserializer.deserialize_map(MembersVisitor)
    }
}

/// A value as a text: a string, or the digits of a number. `None` for `null`, lists and objects, and if
/// it is absent.
pub fn text<'a>(member: Option<&'a RawValue>) -> Option<Cow<'a, str>> {
    let json = member?.get();
    match json.as_bytes().first()? {
        b'"' => serde_json::from_str::<GoString<'a>>(json).ok().map(|text| text.0),
        b'[' | b'{' | b'n' => None,
        _ => Some(Cow::Borrowed(json)),
    }
}

/// A text that is not empty.
pub fn non_empty_text<'a>(member: Option<&'a RawValue>) -> Option<Cow<'a, str>> {
    text(member).filter(|text| !text.is_empty())
}

/// The elements of a list; an object counts as its only element, and other values as none.
pub fn elements(member: Option<&RawValue>) -> Vec<&RawValue> {
    let Some(raw) = member else { return Vec::new() };
    match raw.get().as_bytes().first() {
        Some(b'[') => serde_json::from_str(raw.get()).unwrap_or_default(),
        Some(b'{') => vec![raw],
        _ => Vec::new(),
    }
}

/// True for the value `true`.
pub fn is_true(member: Option<&RawValue>) -> bool {
    member.is_some_and(|raw| raw.get() == "true")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_of_any_type_are_read_as_far_as_they_go() {
        let raw = |json: &str| RawValue::from_string(json.to_owned()).expect("valid");
        let cases = [
            (r#""a\n""#, Some("a\n"), 0),
            ("5.0", Some("5.0"), 0),
            ("true", Some("true"), 0),
            ("null", None, 0),
            ("[1,[2]]", None, 2),
            (r#"{"a":1}"#, None, 1),
            (r#""""#, Some(""), 0),
        ];
        for (json, as_text, count) in cases {
            let value = raw(json);
            assert_eq!(text(Some(&value)).as_deref(), as_text, "{json}");
            assert_eq!(elements(Some(&value)).len(), count, "{json}");
            assert_eq!(is_true(Some(&value)), json == "true");
            assert_eq!(Members::parse(Some(&value)).is_some(), json.starts_with('{'), "{json}");
        }
        assert_eq!((text(None), elements(None).len()), (None, 0));
        assert_eq!(non_empty_text(Some(&raw(r#""""#))), None);
    }

    #[test]
    fn an_object_keeps_its_members_whatever_their_types() {
        let json =
            r#"{"TYPE":5,"role":null,"content":[{}],"id":1,"id":"x","Id":null,"n\u0061me":{}}"#;
        let raw = RawValue::from_string(json.to_owned()).expect("valid");
        let members = Members::parse(Some(&raw)).expect("an object");
        let found = |name: &str| members.get(name).map(RawValue::get);
        assert_eq!(
            (found("type"), found("role"), found("content")),
            (Some("5"), None, Some("[{}]"))
        );
        assert_eq!((found("id"), found("name"), found("other")), (Some("\"x\""), Some("{}"), None));
    }
}
