//! Repairs of the order and the roles of messages.
//!
//! Chat templates and providers have rules that Ollama does not have: one system message in front, roles
//! that alternate, no user behind a result. Invariant: every text, image, call and result stays, and
//! so does the order in which they were said.

use super::turn::{Turn, is_text_part};
use crate::api::openai::raw_object;
use crate::translate::quirks::ACKNOWLEDGEMENT;

/// A user's message before an assistant's that comes first.
const GREETING: &str = "Hi.";
/// A user's message where there is none.
const PROMPT: &str = "Continue.";
/// A result without text, where a text is required.
const NO_OUTPUT: &str = "(no output)";

/// One system message in front of all others; later ones are told by the user at their place.
pub(super) fn put_system_first(turns: &mut Vec<Turn<'_>>) -> bool {
    let before = turns.len();
    let leading = turns.iter().take_while(|turn| turn.is_system()).count();
    while turns.len() > 1 && turns[0].is_system() && turns[1].is_system() {
        let next = turns.remove(1);
        turns[0].append_text(&next.as_text());
    }
    let mut changed = turns.len() != before;
    let mut place = leading.min(1);
    while place < turns.len() {
        if turns[place].is_system() {
            tell_by_user(turns, place);
            changed = true;
        } else {
            place += 1;
        }
    }
    changed
}

/// Moves the text of a system message into the user's message that follows, else into the one before it,
/// else into one of its own, which never stands between a call and its result.
fn tell_by_user(turns: &mut Vec<Turn<'_>>, place: usize) {
    // Several in a row are told together.
    let count = turns[place..].iter().take_while(|turn| turn.is_system()).count();
    let texts: Vec<String> = turns.drain(place..place + count).map(|it| it.as_text()).collect();
    let text = texts.join("\n\n");
    if turns.get(place).is_some_and(|next| next.is("user")) {
        turns[place].prepend_text(&text);
    } else if place > 0 && turns[place - 1].is("user") {
        turns[place - 1].append_text(&text);
    } else {
        let results = turns[place..].iter().take_while(|turn| turn.is("tool")).count();
        turns.insert(place + results, Turn::text("user", &text));
    }
}

/// Moves all instructions to the beginning of the first user's message.
pub(super) fn fold_system_into_user(turns: &mut Vec<Turn<'_>>) -> bool {
    let texts: Vec<String> =
        turns.iter().filter(|turn| turn.is_system()).map(Turn::as_text).collect();
    if texts.is_empty() {
        return false;
    }
    turns.retain(|turn| !turn.is_system());
    let text = texts.join("\n\n");
    match turns.iter_mut().find(|turn| turn.is("user")) {
        Some(user) => user.prepend_text(&text),
        None => turns.insert(0, Turn::text("user", &text)),
    }
    true
}

pub(super) fn use_developer_role(turns: &mut [Turn<'_>]) -> bool {
    let system = turns.iter_mut().filter(|turn| turn.is("system"));
    system.map(|turn| turn.set_role("developer")).count() > 0
}

/// Joins neighbours of one role, and begins with the user.
pub(super) fn merge_neighbours(turns: &mut Vec<Turn<'_>>) -> bool {
    let before = turns.len();
    let mut merged: Vec<Turn<'_>> = Vec::with_capacity(before);
    for turn in turns.drain(..) {
        let role = turn.role();
        match merged.last_mut().filter(|last| last.role() == role && role != "tool") {
            Some(last) => last.merge(&turn),
            None => merged.push(turn),
        }
    }
    *turns = merged;
    begin_with_user(turns) | (turns.len() != before)
}

/// Puts a short user's message before an assistant's that comes first.
pub(super) fn begin_with_user(turns: &mut Vec<Turn<'_>>) -> bool {
    let first = turns.iter().position(|turn| !turn.is_system());
    let is_assistant = first.is_some_and(|first| turns[first].is("assistant"));
    if let (Some(first), true) = (first, is_assistant) {
        turns.insert(first, Turn::text("user", GREETING));
    }
    is_assistant
}

/// Puts an assistant's message between each result and a user's message behind it.
pub(super) fn separate_results(turns: &mut Vec<Turn<'_>>) -> bool {
    let before = turns.len();
    let mut place = 1;
    while place < turns.len() {
        if turns[place].is("user") && turns[place - 1].is("tool") {
            turns.insert(place, Turn::text("assistant", ACKNOWLEDGEMENT));
        }
        place += 1;
    }
    turns.len() != before
}

/// Makes sure that a user asks.
pub(super) fn add_user(turns: &mut Vec<Turn<'_>>) -> bool {
    if turns.is_empty() || turns.iter().any(|turn| turn.is("user")) {
        return false;
    }
    match turns.iter().position(|turn| !turn.is_system()) {
        Some(first) => turns.insert(first, Turn::text("user", PROMPT)),
        None => turns.iter_mut().next_back().into_iter().for_each(|turn| turn.set_role("user")),
    }
    true
}

/// Takes out messages and parts that say nothing; a result without text says so.
pub(super) fn drop_empty_turns(turns: &mut Vec<Turn<'_>>) -> bool {
    let before = turns.len();
    turns.retain(|turn| !(turn.is("assistant") && turn.is_empty()));
    let users = turns.iter().filter(|turn| turn.is("user")).count();
    let empty = turns.iter().filter(|turn| turn.is("user") && turn.is_empty()).count();
    if empty < users {
        turns.retain(|turn| !(turn.is("user") && turn.is_empty()));
    }
    turns.retain(|turn| !(turn.is_system() && turn.is_empty()));
    let mut changed = turns.len() != before;
    for turn in turns.iter_mut() {
        if turn.is("tool") && turn.is_empty() {
            turn.set_text(NO_OUTPUT);
            changed = true;
        }
        changed |= drop_empty_parts(turn);
    }
    changed
}

/// Takes out text parts without text that stand beside others.
fn drop_empty_parts(turn: &mut Turn<'_>) -> bool {
    let Some(parts) = turn.parts() else { return false };
    let is_empty = |part: &&str| {
        is_text_part(part)
            && raw_object::RawObject::parse(part)
                .and_then(|part| part.get_string("text"))
                .is_some_and(|text| text.trim().is_empty())
    };
    let kept: Vec<&str> = parts.iter().copied().filter(|part| !is_empty(part)).collect();
    if kept.is_empty() || kept.len() == parts.len() {
        return false;
    }
    let kept = raw_object::join_items(&kept);
    turn.object.set("content", kept);
    true
}

/// Makes one text of each content that is a list of texts.
pub(super) fn flatten_texts(turns: &mut [Turn<'_>]) -> bool {
    let mut changed = false;
    for turn in turns {
        if turn.parts().is_some() && !turn.has_media() {
            let text = turn.as_text();
            turn.set_text(&text);
            changed = true;
        }
    }
    changed
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    /// What a repair makes of messages, each as `role:text`; `None` if it changes nothing.
    fn repaired(
        repair: impl Fn(&mut Vec<Turn<'_>>) -> bool,
        messages: &[(&str, &str)],
    ) -> Option<String> {
        let list = messages.iter().map(|(role, text)| json!({"role": role, "content": text}));
        let text = Value::from_iter(list).to_string();
        let mut turns = Turn::parse_list(&text);
        let changed = repair(&mut turns);
        let told = turns.iter().map(|turn| format!("{}:{}", turn.role(), turn.as_text()));
        let told = told.collect::<Vec<_>>().join("|");
        let untouched = messages.iter().map(|(role, text)| format!("{role}:{text}"));
        assert_eq!(changed, told != untouched.collect::<Vec<_>>().join("|"), "{told}");
        assert!(!repair(&mut turns), "once is enough: {told}");
        changed.then_some(told)
    }

    #[track_caller]
    fn check(
        repair: impl Fn(&mut Vec<Turn<'_>>) -> bool,
        messages: &[(&str, &str)],
        expected: Option<&str>,
    ) {
        assert_eq!(repaired(repair, messages).as_deref(), expected, "{messages:?}");
    }

    #[test]
    fn later_system_messages_are_told_by_the_user() {
        let check =
            |messages: &[(&str, &str)], expected| check(put_system_first, messages, expected);
        check(&[("system", "S"), ("user", "U")], None);
        check(&[("system", "S"), ("developer", "T"), ("user", "U")], Some("system:S\n\nT|user:U"));
        check(
            &[("system", "S"), ("user", "U"), ("assistant", "A"), ("system", "R"), ("user", "V")],
            Some("system:S|user:U|assistant:A|user:R\n\nV"),
        );
        check(
            &[("user", "U"), ("system", "R"), ("assistant", "A")],
            Some("user:U\n\nR|assistant:A"),
        );
        check(
            &[("user", "U"), ("assistant", "A"), ("system", "R"), ("system", "Q")],
            Some("user:U|assistant:A|user:R\n\nQ"),
        );
        check(
            &[
                ("user", "U"),
                ("assistant", "A"),
                ("system", "R"),
                ("tool", "T"),
                ("assistant", "B"),
            ],
            Some("user:U|assistant:A|tool:T|user:R|assistant:B"),
        );
    }

    #[test]
    fn neighbours_of_one_role_become_one() {
        let check =
            |messages: &[(&str, &str)], expected| check(merge_neighbours, messages, expected);
        check(&[("system", "S"), ("user", "U"), ("assistant", "A"), ("user", "V")], None);
        check(&[("user", "U"), ("user", "V"), ("assistant", "A")], Some("user:U\n\nV|assistant:A"));
        check(&[("tool", "T"), ("tool", "V")], None);
        check(
            &[("system", "S"), ("assistant", "A"), ("assistant", "")],
            Some("system:S|user:Hi.|assistant:A"),
        );
    }

    #[test]
    fn images_and_calls_of_neighbours_stay() {
        let image = json!({"type": "image_url", "image_url": {"url": "u"}});
        let call = |id: &str| json!({"id": id, "type": "function", "function": {"name": "f"}});
        let text = json!([
            {"role": "user", "content": [image, {"type": "text", "text": "What?"}]},
            {"role": "user", "content": "Well?"},
            {"role": "assistant", "content": null, "tool_calls": [call("a")]},
            {"role": "assistant", "content": "x", "tool_calls": [call("b")]},
        ])
        .to_string();
        let mut turns = Turn::parse_list(&text);
        assert!(merge_neighbours(&mut turns));
        let told: Vec<Value> =
            turns.iter().map(|turn| serde_json::from_str(&turn.to_json()).expect("JSON")).collect();
        let texts =
            [json!({"type": "text", "text": "What?"}), json!({"type": "text", "text": "Well?"})];
        assert_eq!(told[0]["content"], json!([image, texts[0], texts[1]]));
        assert_eq!(told[1]["content"], "x");
        assert_eq!(told[1]["tool_calls"], json!([call("a"), call("b")]));
    }

    #[test]
    fn a_user_speaks_where_one_is_needed() {
        check(add_user, &[("user", "U")], None);
        check(add_user, &[("system", "S"), ("system", "T")], Some("system:S|user:T"));
        check(
            add_user,
            &[("system", "S"), ("assistant", "A")],
            Some("system:S|user:Continue.|assistant:A"),
        );
        check(
            separate_results,
            &[("tool", "T"), ("user", "U"), ("user", "V")],
            Some("tool:T|assistant:OK.|user:U|user:V"),
        );
        check(separate_results, &[("user", "U"), ("tool", "T"), ("assistant", "A")], None);
    }

    #[test]
    fn what_says_nothing_goes() {
        let check =
            |messages: &[(&str, &str)], expected| check(drop_empty_turns, messages, expected);
        check(&[("user", "U"), ("assistant", " \n"), ("user", "V")], Some("user:U|user:V"));
        check(&[("user", ""), ("assistant", "A")], None);
        check(&[("user", ""), ("user", "U"), ("tool", "")], Some("user:U|tool:(no output)"));
        let text = json!([{"role": "user", "content": [{"type": "text", "text": ""},
            {"type": "image_url", "image_url": {"url": "u"}}]},
            {"role": "assistant", "content": "", "tool_calls": [{"id": "a"}]}])
        .to_string();
        let mut turns = Turn::parse_list(&text);
        assert!(drop_empty_turns(&mut turns));
        assert_eq!((turns.len(), turns[0].parts().map(|parts| parts.len())), (2, Some(1)));
    }

    #[test]
    fn instructions_move_where_the_upstream_takes_them() {
        check(
            fold_system_into_user,
            &[("system", "S"), ("user", "U"), ("developer", "T")],
            Some("user:S\n\nT\n\nU"),
        );
        check(fold_system_into_user, &[("system", "S")], Some("user:S"));
        check(|turns| use_developer_role(turns), &[("system", "S")], Some("developer:S"));
    }
}
