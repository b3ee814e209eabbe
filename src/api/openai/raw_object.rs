//! JSON objects whose members stay as they were written.
//!
//! What is passed on is parsed no further than necessary: a [`RawObject`] knows the keys of one level
//! and the text of each value. Never reorders members or rewrites a number or an escape, and never
//! knows what a member means.

use std::borrow::Cow;
use std::fmt;
use std::ops::Range;

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

use crate::api::ollama::decode::GoString;

/// A JSON object, one level deep, in its own order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RawObject<'a>(Vec<(Cow<'a, str>, Cow<'a, str>)>);

impl<'a> RawObject<'a> {
    /// Parses an object; `None` if the text is not an object.
    pub fn parse(text: &'a str) -> Option<Self> {
        if text.trim_start().starts_with('{') { serde_json::from_str(text).ok() } else { None }
    }

    /// The keys and the texts of their values.
    pub fn members(&self) -> impl Iterator<Item = (&str, &Cow<'a, str>)> {
        self.0.iter().map(|(key, value)| (key.as_ref(), value))
    }

    /// The text of a value; of the last one if a key is repeated.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.0.iter().rfind(|(known, _)| known == key).map(|(_, value)| value.as_ref())
    }

    /// True if a member is present and not `null`.
    pub fn has_value(&self, key: &str) -> bool {
        self.get(key).is_some_and(|value| value != "null")
    }

    /// A value that is a string.
    pub fn get_string(&self, key: &str) -> Option<String> {
        serde_json::from_str(self.get(key)?).ok()
    }

    /// Replaces the value of a member, or appends a member.
    pub fn set(&mut self, key: &str, value: impl Into<Cow<'a, str>>) {
        match self.0.iter_mut().rfind(|(known, _)| known == key) {
            Some((_, old)) => *old = value.into(),
            None => self.0.push((Cow::Owned(key.to_owned()), value.into())),
        }
    }

    /// Replaces the values for which `change` returns another one; returns whether there were some.
    pub fn change_values(&mut self, change: &mut dyn FnMut(&str, &str) -> Option<String>) -> bool {
        let mut is_changed = false;
        for (key, value) in &mut self.0 {
            if let Some(changed) = change(key, value) {
                *value = Cow::Owned(changed);
                is_changed = true;
            }
        }
        is_changed
    }

    /// Takes the value of a member out and leaves an empty text in its place, which
    /// [`RawObject::to_json_with`] replaces.
    pub fn take(&mut self, key: &str) -> Option<Cow<'a, str>> {
        let (_, value) = self.0.iter_mut().rfind(|(known, _)| known == key)?;
        Some(std::mem::take(value))
    }

    /// The object without borrows.
    #[must_use]
    pub fn into_owned(self) -> RawObject<'static> {
        let members = self.0.into_iter();
        let owned = members
            .map(|(key, value)| (Cow::Owned(key.into_owned()), Cow::Owned(value.into_owned())));
        RawObject(owned.collect())
    }

    /// Removes a member; returns whether it was present.
    pub fn remove(&mut self, key: &str) -> bool {
        let before = self.0.len();
        self.0.retain(|(known, _)| known != key);
        self.0.len() < before
    }

    /// Renames a member in its place; returns whether it was present.
    pub fn rename(&mut self, from: &str, to: &str) -> bool {
        if self.get(from).is_none() {
            return false;
        }
        self.remove(to);
        for (key, _) in self.0.iter_mut().filter(|(key, _)| key == from) {
            *key = Cow::Owned(to.to_owned());
        }
        true
    }

    /// Joins the members whose keys equal `key` if case is ignored: keeps the last value that is not
    /// `null`, under `key` itself.
    pub fn canonicalize_key(&mut self, key: &'static str) {
        let same = |known: &str| known.eq_ignore_ascii_case(key);
        let said = |(known, value): &(Cow<'a, str>, Cow<'a, str>)| same(known) && value != "null";
        let Some(at) = self.0.iter().rposition(said) else { return };
        self.0[at].0 = Cow::Borrowed(key);
        let mut place = 0;
        self.0.retain(|(known, _)| {
            place += 1;
            place - 1 == at || !same(known)
        });
    }

    /// The object as text.
    pub fn to_json(&self) -> String {
        self.to_json_with("", "")
    }

    /// The object as text, with this value of the member `replaced`, if there is one.
    pub fn to_json_with(&self, replaced: &str, replacement: &str) -> String {
        let length = self.0.iter().map(|(_, it)| it.len() + 16).sum::<usize>() + replacement.len();
        let mut out = String::with_capacity(length);
        out.push('{');
        for (place, (key, value)) in self.0.iter().enumerate() {
            if place > 0 {
                out.push(',');
            }
            out.push_str(&quote_json(key));
            out.push(':');
            let is_replaced = !replacement.is_empty() && key == replaced;
            out.push_str(if is_replaced { replacement } else { value });
        }
        out.push('}');
        out
    }
}

/// A text as JSON.
pub fn quote_json(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// An object as text with those of the members that it lacks at its end; `None` if it lacks none, or if the
/// text is no object.
pub fn append_missing<'m>(
    text: &str,
    members: impl Iterator<Item = &'m (String, String)>,
) -> Option<String> {
    let object = RawObject::parse(text)?;
    let mut out = text.trim_end().strip_suffix('}')?.to_owned();
    let (before, mut is_first) = (out.len(), object.0.is_empty());
    for (member, value) in members.filter(|(member, _)| object.get(member).is_none()) {
        out.push_str(if is_first { "" } else { "," });
        out.extend([quote_json(member).as_str(), ":", value]);
        is_first = false;
    }
    (out.len() > before).then(|| out + "}")
}

/// The items of a list; `None` if the text is not a list.
pub fn parse_items(text: &str) -> Option<Vec<&str>> {
    let items: Vec<&RawValue> = serde_json::from_str(text).ok()?;
    Some(items.into_iter().map(RawValue::get).collect())
}

/// A list of these items as text.
pub fn join_items<T: AsRef<str>>(items: &[T]) -> String {
    let items: Vec<&str> = items.iter().map(AsRef::as_ref).collect();
    format!("[{}]", items.join(","))
}

/// The name of the model and the range of its value, if it is complete in the first bytes of a body.
pub fn find_model(beginning: &[u8]) -> Option<(String, Range<usize>)> {
    let members = collect_members(beginning);
    let (_, value) = members
        .iter()
        .find(|(key, _)| key.eq_ignore_ascii_case("model"))
        .filter(|(key, _)| key == "model")?;
    let range = subslice_range(beginning, value);
    let is_followed = beginning[range.end..].trim_ascii_start().starts_with(b",");
    let name = is_followed.then(|| serde_json::from_str(value).ok()).flatten()?;
    Some((name, range))
}

/// The keys of an object and the texts of their values, which borrow from it; of an object that is broken off
/// or invalid, those before that place. What follows the object does not count.
pub fn collect_members(object: &[u8]) -> Vec<(Cow<'_, str>, Cow<'_, str>)> {
    let mut members = Vec::new();
    let mut deserializer = serde_json::Deserializer::from_slice(object);
    let _ = deserializer.deserialize_any(MemberCollector(&mut members));
    members
}

/// The range of `part`, a slice of `whole`, in `whole`.
pub fn subslice_range(whole: &[u8], part: &str) -> Range<usize> {
    let start = part.as_ptr().addr() - whole.as_ptr().addr();
    start..start + part.len()
}

/// Collects the members of an object; those before an error, too.
struct MemberCollector<'m, 'de>(&'m mut Vec<(Cow<'de, str>, Cow<'de, str>)>);

impl<'de> Visitor<'de> for MemberCollector<'_, 'de> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    // A body of `null` is an empty request.
    fn visit_unit<E>(self) -> std::result::Result<(), E> {
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<(), A::Error> {
        while let Some((GoString(key), value)) = map.next_entry::<GoString<'de>, &RawValue>()? {
            self.0.push((key, Cow::Borrowed(value.get())));
        }
        Ok(())
    }
}

impl<'de> Deserialize<'de> for RawObject<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        let mut members = Vec::new();
        deserializer.deserialize_any(MemberCollector(&mut members))?;
        Ok(Self(members))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = r#"{ "b": 1.50, "a": {"z":1,"y":"\u00e9"}, "b" : [1, 2] ,"c":null}"#;

    #[test]
    fn members_keep_their_order_and_their_text() {
        let object = RawObject::parse(TEXT).expect("an object");
        let expected = r#"{"b":1.50,"a":{"z":1,"y":"\u00e9"},"b":[1, 2],"c":null}"#;
        assert_eq!(object.to_json(), expected);
        assert_eq!(object.get("b"), Some("[1, 2]"), "the last one counts");
        assert!(object.has_value("a") && !object.has_value("c") && !object.has_value("d"));
        assert_eq!(RawObject::parse("[1]"), None);
        assert_eq!(RawObject::parse("{\"a\":"), None);
    }

    #[test]
    fn members_are_changed_in_their_place() {
        let mut object = RawObject::parse(r#"{"a":1,"b":2,"c":3}"#).expect("an object");
        object.set("b", "4");
        object.set("d", quote_json("x\"y"));
        assert!(object.rename("a", "c") && !object.rename("a", "e"));
        assert!(object.remove("b") && !object.remove("b"));
        assert_eq!(object.to_json(), r#"{"c":1,"d":"x\"y"}"#);
        let mut raise = |key: &str, value: &str| (key == "c").then(|| format!("{value}0"));
        assert!(object.change_values(&mut raise) && !object.change_values(&mut |_, _| None));
        assert_eq!(object.to_json(), r#"{"c":10,"d":"x\"y"}"#);
    }

    #[test]
    fn members_that_are_missing_are_appended_and_the_rest_of_the_text_stays() {
        let members = [("b", "9"), ("x\"", "{\"z\":[1]}")];
        let members = members.map(|(member, value)| (member.to_owned(), value.to_owned()));
        let append = |text: &str| append_missing(text, members.iter());
        let appended = "{ \"b\" : 1.50,\n \"c\":2 ,\"x\\\"\":{\"z\":[1]}}";
        assert_eq!(append("{ \"b\" : 1.50,\n \"c\":2 } \n").as_deref(), Some(appended));
        assert_eq!(append(appended), None);
        assert_eq!(append("{}").as_deref(), Some("{\"b\":9,\"x\\\"\":{\"z\":[1]}}"));
        assert_eq!(append("{\"b\":null}").as_deref(), Some("{\"b\":null,\"x\\\"\":{\"z\":[1]}}"));
        for other in ["[1]", "", "{", "\"}\"", "{\"a\":1} x"] {
            assert_eq!(append(other), None, "{other}");
        }
    }

    #[test]
    fn one_spelling_of_a_key_is_left() {
        let settled = |text: &str| {
            let mut object = RawObject::parse(text).expect("an object");
            object.canonicalize_key("model");
            object.to_json()
        };
        assert_eq!(settled(r#"{"Model":"a","x":1}"#), r#"{"model":"a","x":1}"#);
        assert_eq!(settled(r#"{"model":"a","x":1,"MODEL":"b"}"#), r#"{"x":1,"model":"b"}"#);
        assert_eq!(settled(r#"{"model":"a","MODEL":null}"#), r#"{"model":"a"}"#);
        assert_eq!(settled(r#"{"x":1}"#), r#"{"x":1}"#);
    }

    #[test]
    fn the_model_is_found_at_the_beginning_of_a_body() {
        let check = |beginning: &str, expected: Option<&str>| {
            let found = find_model(beginning.as_bytes());
            let name = found.as_ref().map(|(name, _)| name.as_str());
            assert_eq!(name, expected, "{beginning}");
            if let (Some((_, place)), Some(name)) = (&found, expected) {
                assert_eq!(beginning[place.clone()], quote_json(name), "{beginning}");
            }
        };
        check(r#"{"model":"m","messages":[{"ro"#, Some("m"));
        check(r#" { "stream" : true , "model" : "a\"b" , "#, Some("a\"b"));
        check(r#"{"x":{"model":"no","y":["}"]},"z":-1.5e3,"model":"m","#, Some("m"));
        check(r#"{"x":"\\","model":"m","#, Some("m"));
        check(r#"{"messages":[{"content":"long"#, None);
        check(r#"{"model":"m"#, None);
        check(r#"{"model":"m""#, None);
        check(r#"{"model":5,"x":1"#, None);
        check(r#"{"Model":"m","x":1"#, None);
        check(r#"{"x":,"model":"m","#, None);
        check("[1,", None);
        check("", None);
        check(r#"{"x" 1,"#, None);
    }

    #[test]
    fn lists_come_apart_and_together() {
        let parts = parse_items(r#"[ {"b":1,"a":2}, "x" ,3]"#).expect("a list");
        assert_eq!(parts, [r#"{"b":1,"a":2}"#, r#""x""#, "3"]);
        assert_eq!(join_items(&parts), r#"[{"b":1,"a":2},"x",3]"#);
        assert_eq!(parse_items("{}"), None);
        assert_eq!(join_items::<&str>(&[]), "[]");
    }
}
