//! Members of messages, parts, calls and tools that an upstream does not know, removed by their place.
//!
//! Clients put notes of their own into a history, and strict servers name the first one that they meet.
//! Invariant: what a conversation consists of stays.

use super::document::Document;
use super::kinds;
use crate::api::openai::raw_object;
use crate::api::openai::raw_object::RawObject;

/// Members without which a message, part, call or tool means something else.
const NEEDED: &[&str] = &[
    "role",
    "content",
    "type",
    "text",
    "refusal",
    "url",
    "image_url",
    "input_audio",
    "data",
    "format",
    "file",
    "file_data",
    "filename",
    "tool_calls",
    "tool_call_id",
    "id",
    "function",
    "custom",
    "name",
    "arguments",
    "input",
    "parameters",
    "description",
];

/// The place of a member that may go, such as `messages.content.cache_control`.
pub(super) fn find_place(path: &str) -> Option<String> {
    let place = kinds::bare_path(path);
    let (root, inner) = place.split_once('.')?;
    let last = inner.rsplit('.').next()?;
    (matches!(root, "messages" | "tools") && !NEEDED.contains(&last)).then_some(place)
}

/// Removes a member from everything at its place; returns whether it was there.
pub(super) fn omit(document: &mut Document<'_>, place: &str) -> bool {
    let names: Vec<String> = place.split('.').map(squeeze).collect();
    let [root, inner @ ..] = names.as_slice() else { return false };
    if root == "tools" {
        let reduced = document.get("tools").and_then(|tools| without(tools, inner));
        return reduced.is_some_and(|tools| {
            document.set("tools", tools);
            true
        });
    }
    let is_chat = document.route.is_chat;
    let turns = if is_chat { document.turns() } else { return false };
    let removed =
        turns.iter_mut().filter_map(|turn| omit_in(&mut turn.object, inner).then_some(()));
    let is_changed = removed.count() > 0;
    if is_changed {
        document.mark_changed();
    }
    is_changed
}

fn omit_in(object: &mut RawObject<'_>, names: &[String]) -> bool {
    let [name, rest @ ..] = names else { return false };
    let found = object.members().map(|(key, _)| key.to_owned()).find(|key| squeeze(key) == *name);
    let Some(key) = found else {
        // Some servers name the types of messages and parts on the way.
        return !rest.is_empty() && omit_in(object, rest);
    };
    if rest.is_empty() {
        return object.remove(&key);
    }
    let reduced = object.get(&key).and_then(|value| without(value, rest));
    reduced.is_some_and(|value| {
        object.set(&key, value);
        true
    })
}

/// A list or an object without the member; `None` if it is not there.
fn without(value: &str, names: &[String]) -> Option<String> {
    let Some(items) = raw_object::parse_items(value) else {
        let mut object = RawObject::parse(value)?;
        return omit_in(&mut object, names).then(|| object.to_json());
    };
    let reduced: Vec<Option<String>> = items.iter().map(|item| without(item, names)).collect();
    let is_changed = reduced.iter().any(Option::is_some);
    let all =
        reduced.into_iter().zip(items).map(|(new, item)| new.unwrap_or_else(|| item.to_owned()));
    is_changed.then(|| raw_object::join_items(&all.collect::<Vec<_>>()))
}

/// A name as it is compared: upper case may have become an underline in a rejection.
fn squeeze(name: &str) -> String {
    name.chars().filter(|c| *c != '_').map(|c| c.to_ascii_lowercase()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_may_go_has_a_place() {
        let place = |path| find_place(path).unwrap_or_default();
        assert_eq!(place("messages[3].__copilot_source"), "messages.__copilot_source");
        assert_eq!(place("messages.0.content.1.cache"), "messages.content.cache");
        assert_eq!(place("tools[0].function.defer_loading"), "tools.function.defer_loading");
        for path in ["messages", "messages[0].content", "tools[1].function.name", "seed", "user.x"]
        {
            assert_eq!(place(path), "", "{path}");
        }
    }

    #[test]
    fn a_member_goes_from_all_items_however_it_is_spelt() {
        let check = |value: &str, place: &str, expected: Option<&str>| {
            let names: Vec<String> = place.split('.').map(squeeze).collect();
            assert_eq!(without(value, &names).as_deref(), expected, "{value}");
        };
        check(r#"[{"a":1,"__bC":2},{"a":3}]"#, "__b_c", Some(r#"[{"a":1},{"a":3}]"#));
        check(r#"[{"f":{"x":1,"y":1.0}}]"#, "f.x", Some(r#"[{"f":{"y":1.0}}]"#));
        check(r#"[{"f":{"x":1}}]"#, "function_tool.f.x", Some(r#"[{"f":{}}]"#));
        check(r#"[{"f":"x"},1,null]"#, "f.x", None);
    }
}
