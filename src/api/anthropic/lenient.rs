//! Members that count as absent where they have the wrong type.
//!
//! Clients of `/v1/messages` send members that are newer than this program, and a member may change its
//! type with its owner's. What is read so never fails a request. Never reads deeper than it must: a value
//! of the wrong type is skipped. Invariant: a text of the wrong type is empty, a flag false, an object
//! absent.

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;
use std::ops::Deref;

use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

/// A text, or an empty one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LenientText<'a>(pub Cow<'a, str>);

impl Deref for LenientText<'_> {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

/// A flag, or false.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LenientFlag(pub bool);

/// An object, or nothing.
#[derive(Clone, Debug, Default)]
pub struct Lenient<T>(pub Option<T>);

/// What a value of each type means; without a method of its own it means nothing.
pub(super) trait FromAny<'de>: Default {
    fn from_text(_: Cow<'de, str>) -> Self {
        Self::default()
    }

    fn from_flag(_: bool) -> Self {
        Self::default()
    }

    fn from_object<A: MapAccess<'de>>(mut map: A) -> Result<Self, A::Error> {
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(Self::default())
    }
}

impl<'de> FromAny<'de> for LenientText<'de> {
    fn from_text(text: Cow<'de, str>) -> Self {
        Self(text)
    }
}

impl FromAny<'_> for LenientFlag {
    fn from_flag(flag: bool) -> Self {
        Self(flag)
    }
}

struct AnyVisitor<R>(PhantomData<R>);

impl<'de, R: FromAny<'de>> Visitor<'de> for AnyVisitor<R> {
    type Value = R;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("anything")
    }

    fn visit_borrowed_str<E>(self, text: &'de str) -> Result<R, E> {
        Ok(R::from_text(Cow::Borrowed(text)))
    }

    fn visit_str<E>(self, text: &str) -> Result<R, E> {
        Ok(R::from_text(Cow::Owned(text.to_owned())))
    }

    fn visit_bool<E>(self, flag: bool) -> Result<R, E> {
        Ok(R::from_flag(flag))
    }

    fn visit_i64<E>(self, _: i64) -> Result<R, E> {
        Ok(R::default())
    }

    fn visit_u64<E>(self, _: u64) -> Result<R, E> {
        Ok(R::default())
    }

    fn visit_f64<E>(self, _: f64) -> Result<R, E> {
        Ok(R::default())
    }

    fn visit_unit<E>(self) -> Result<R, E> {
        Ok(R::default())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<R, A::Error> {
        while list.next_element::<IgnoredAny>()?.is_some() {}
        Ok(R::default())
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<R, A::Error> {
        R::from_object(map)
    }
}

/// Reads a value of any type.
pub(super) fn deserialize_any<'de, D, R>(deserializer: D) -> Result<R, D::Error>
where
    D: Deserializer<'de>,
    R: FromAny<'de>,
{
    deserializer.deserialize_any(AnyVisitor(PhantomData))
}

impl<'de> Deserialize<'de> for LenientText<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserialize_any(deserializer)
    }
}

impl<'de> Deserialize<'de> for LenientFlag {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserialize_any(deserializer)
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Lenient<T> {
    /// Finds the end of the value first: one function for all types, where a visitor for each would be
    /// several times as large.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let raw = <&'de RawValue>::deserialize(deserializer)?.get();
        Ok(Self(if raw.starts_with('{') { serde_json::from_str(raw).ok() } else { None }))
    }
}

/// The object of a member.
pub fn object<T>(member: &Option<Lenient<T>>) -> Option<&T> {
    member.as_ref()?.0.as_ref()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::ollama::decode::request;

    request! {
        /// An object.
        pub struct Object<'a> {
            /// A text.
            pub text: LenientText<'a>,
            /// A flag.
            pub flag: LenientFlag,
        }
    }

    #[test]
    fn what_has_the_wrong_type_counts_as_absent() {
        for value in ["5", "-1.5", "true", r#""x""#, "[1,[2]]", r#"{"a":{"b":[]}}"#, "null"] {
            let object = format!(r#"{{"text":{value},"flag":{value}}}"#);
            let Lenient(read): Lenient<Object<'_>> = serde_json::from_str(&object).expect(value);
            let read = read.expect("an object");
            let text = if value == "\"x\"" { "x" } else { "" };
            assert_eq!(read.text.as_deref().unwrap_or_default(), text, "{value}");
            assert_eq!(read.flag.unwrap_or_default(), LenientFlag(value == "true"), "{value}");
            let Lenient(read): Lenient<Object<'_>> = serde_json::from_str(value).expect(value);
            assert_eq!(read.is_some(), value.starts_with('{'), "{value}");
        }
    }
}
