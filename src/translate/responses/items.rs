//! The items of a request's input as JSON texts, before they are translated: those of an earlier response
//! that the request continues, and those that it names by `item_reference` (OpenAI API reference,
//! responses).
//!
//! Never reads what is in an item beyond its kind and id. Invariant: an item that is neither a reference
//! nor a compaction stays as the client wrote it.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use serde_json::value::RawValue;

use crate::api::openai::raw_object::{self, RawObject};
use crate::error::{Error, Result};

/// An item, as JSON.
pub type Item<'a> = Cow<'a, str>;

/// The items of an input: a text is a message of the user. `None` for an input that is neither a text nor
/// a list, which the translation refuses.
pub fn split(input: Option<&RawValue>) -> Option<Vec<Item<'_>>> {
    let Some(text) = input.map(RawValue::get) else { return Some(Vec::new()) };
    if text == "\"\"" {
        return Some(Vec::new());
    }
    if text.starts_with('"') {
        let message = format!(r#"{{"type":"message","role":"user","content":{text}}}"#);
        return Some(vec![Cow::Owned(message)]);
    }
    let items = raw_object::parse_items(text)?;
    Some(items.into_iter().map(Cow::Borrowed).collect())
}

/// The input that consists of these items.
pub fn join(items: &[Item<'_>]) -> Option<Box<RawValue>> {
    RawValue::from_string(raw_object::join_items(items)).ok()
}

/// True if the text of an input can hold a reference.
pub fn may_have_references(input: &RawValue) -> bool {
    // A reference needs no type, but then it has neither a role nor a text, so it is short.
    input.get().contains("\"id\"")
}

/// The id in a reference; `None` for any other item.
fn referenced_id(item: &str) -> Option<String> {
    // Longer ones hold more than a type and an id.
    if item.len() > 512 {
        return None;
    }
    let object = RawObject::parse(item)?;
    let is_reference = match object.get("type").filter(|kind| *kind != "null") {
        Some(kind) => kind == "\"item_reference\"",
        None => object.members().all(|(key, _)| matches!(key, "id" | "type")),
    };
    object.get_string("id").filter(|_| is_reference)
}

/// The references among the items: their places and ids.
pub fn references(items: &[Item<'_>]) -> Vec<(usize, String)> {
    let found = items.iter().enumerate();
    found.filter_map(|(place, item)| Some((place, referenced_id(item)?))).collect()
}

/// Puts the items themselves in the place of references to them.
///
/// # Errors
/// [`Error::InvalidRequest`] for an item that is not kept.
pub fn resolve<'a>(
    items: &mut [Item<'a>],
    references: &[(usize, String)],
    kept: &'a HashMap<String, Arc<str>>,
) -> Result<()> {
    for (place, id) in references {
        let text = kept.get(id).ok_or_else(|| unknown_item_error(id))?;
        items[*place] = Cow::Borrowed(text);
    }
    Ok(())
}

/// The ids of references, each once.
pub fn distinct_ids(references: &[(usize, String)]) -> HashSet<&str> {
    references.iter().map(|(_, id)| id.as_str()).collect()
}

fn unknown_item_error(id: &str) -> Error {
    let id: String = id.chars().filter(|c| !c.is_control()).take(64).collect();
    Error::invalid_request(format!(
        "Item with id '{id}' not found. Items of earlier responses are kept for a short time only: \
         with `store: false`, send them whole instead of by reference."
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn raw(text: &str) -> Box<RawValue> {
        RawValue::from_string(text.to_owned()).expect("JSON")
    }

    #[test]
    fn an_input_is_a_list_or_a_text() {
        let check = |input: &str, expected: Option<&[&str]>| {
            let input = raw(input);
            let items = split(Some(&input));
            let found = items.as_ref().map(|it| it.iter().map(|it| &**it).collect::<Vec<_>>());
            assert_eq!(found.as_deref(), expected, "{input}");
        };
        check("[]", Some(&[]));
        check(r#"[{"a":1}, 5]"#, Some(&[r#"{"a":1}"#, "5"]));
        check(r#""Hi""#, Some(&[r#"{"type":"message","role":"user","content":"Hi"}"#]));
        check(r#""""#, Some(&[]));
        check("5", None);
        check("{}", None);
        assert_eq!(split(None).map(|items| items.len()), Some(0));
        assert_eq!(join(&[]).expect("a list").get(), "[]");
        assert_eq!(join(&["1".into(), "2".into()]).expect("a list").get(), "[1,2]");
    }

    #[test]
    fn a_reference_has_a_type_or_nothing_but_its_id() {
        for (item, expected) in [
            (r#"{"type":"item_reference","id":"msg_1"}"#, Some("msg_1")),
            (r#"{"id":"msg_1"}"#, Some("msg_1")),
            (r#"{"type":null,"id":"msg_1"}"#, Some("msg_1")),
            (r#"{"type":"item_reference"}"#, None),
            (r#"{"type":"item_reference","id":5}"#, None),
            (r#"{"type":"message","id":"msg_1"}"#, None),
            (r#"{"role":"user","id":"msg_1"}"#, None),
            (r#"{"id":"fco_1","call_id":"a","output":"o"}"#, None),
            (r#"{"type":5,"id":"msg_1"}"#, None),
            ("5", None),
            ("null", None),
        ] {
            assert_eq!(referenced_id(item).as_deref(), expected, "{item}");
        }
    }

    #[test]
    fn references_become_the_items_that_are_kept() {
        let text = r#"[1,{"type":"item_reference","id":"a"},2,{"id":"b"}]"#;
        let input = raw(text);
        let kept = HashMap::from([("a".to_owned(), "A".into()), ("b".to_owned(), "B".into())]);
        let mut items = split(Some(&input)).expect("a list");
        let found = references(&items);
        assert_eq!(distinct_ids(&found).len(), 2);
        resolve(&mut items, &found, &kept).expect("both are kept");
        assert_eq!(items, ["1", "A", "2", "B"]);
        let error = resolve(&mut items, &[(0, "c".into())], &kept).expect_err("not kept");
        assert!(error.message().contains("'c' not found"), "{}", error.message());
        assert!(error.message().contains("store: false"));
    }
}
