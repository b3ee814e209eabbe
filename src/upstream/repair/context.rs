//! Drops the oldest turns of a conversation that exceeds the context, as Ollama does by default
//! (`server/prompt.go`, v0.32.15).
//!
//! How much goes is estimated from characters and from the numbers of the rejection. Invariant: system
//! messages, the last turn and the last message stay, and no call is parted from its result.

use super::document::Document;
use super::numbers;
use super::turn::Turn;

/// Attempts at a shorter conversation.
pub(super) const MAX_ATTEMPTS: u32 = 4;

/// The part of the window that is used, in percent.
const FILL_PERCENT: usize = 90;

/// Smaller numbers are no counts of tokens.
const MIN_TOKENS: u64 = 16;

/// A conversation is cut before it is sent only if it is longer than the window by so much, in percent.
const CLEARLY_PERCENT: usize = 120;

/// Drops the oldest turns; returns how many messages went, 0 if nothing can go, and what the window has
/// room for in bytes, if the rejection tells. `text` is the rejection in lower case.
pub(super) fn drop_oldest(document: &mut Document<'_>, text: &str) -> (usize, Option<usize>) {
    let total: usize = document.turns().iter().map(weight).sum();
    let room = numbers::find_window_and_prompt(text, MIN_TOKENS).map(|(window, prompt)| {
        let room = total as u128 * u128::from(window) / u128::from(prompt);
        usize::try_from(room).unwrap_or(total)
    });
    (drop_to(document, room.map(fill)), room)
}

/// Drops the oldest turns of a conversation that is clearly longer than `room`, in bytes.
pub(super) fn fit(document: &mut Document<'_>, room: usize) -> bool {
    if !document.route.may_truncate {
        return false;
    }
    let total: usize = document.turns().iter().map(weight).sum();
    total > room.saturating_mul(CLEARLY_PERCENT) / 100 && drop_to(document, Some(fill(room))) > 0
}

fn fill(room: usize) -> usize {
    room.saturating_mul(FILL_PERCENT) / 100
}

/// Drops the oldest turns down to a number of bytes; returns how many messages went.
fn drop_to(document: &mut Document<'_>, target: Option<usize>) -> usize {
    let turns = document.turns();
    let before = turns.len();
    let starts: Vec<usize> = (0..turns.len()).filter(|place| turns[*place].is("user")).collect();
    if starts.len() > 1 {
        drop_units(turns, &starts, target);
    } else {
        drop_pairs(turns, target);
    }
    let dropped = before - turns.len();
    if dropped > 0 {
        document.mark_changed();
    }
    dropped
}

/// What a message adds to the prompt, in bytes.
fn weight(turn: &Turn<'_>) -> usize {
    turn.object.members().map(|(_, value)| value.len()).sum()
}

/// Drops units, each a user's message with what follows it, until the rest fits; half of them if nothing
/// tells how much is too much. The last one stays.
fn drop_units(turns: &mut Vec<Turn<'_>>, starts: &[usize], target: Option<usize>) {
    let last = *starts.last().unwrap_or(&0);
    let mut size: usize = turns.iter().map(weight).sum();
    let mut end = starts[starts.len().div_ceil(2).min(starts.len() - 1)];
    if let Some(target) = target {
        let ends = starts[1..].iter().copied();
        let mut begin = 0;
        for start in ends {
            let unit = turns[begin..start].iter().filter(|turn| !turn.is_system());
            size = size.saturating_sub(unit.map(weight).sum());
            (begin, end) = (start, start);
            if size <= target {
                break;
            }
        }
    }
    let end = end.min(last);
    keep(turns, |place, turn| place >= end || turn.is_system());
}

/// In a single unit, drops the oldest messages with calls, and their results.
fn drop_pairs(turns: &mut Vec<Turn<'_>>, target: Option<usize>) {
    let mut size: usize = turns.iter().map(weight).sum();
    let callers: Vec<usize> = (0..turns.len()).filter(|place| turns[*place].has_calls()).collect();
    let most = callers.len().div_ceil(2);
    let mut dropped = Vec::new();
    for (count, caller) in callers.into_iter().enumerate() {
        let results = turns[caller + 1..].iter().take_while(|turn| turn.is("tool")).count();
        let end = caller + 1 + results;
        let is_enough = target.map_or(count >= most, |target| size <= target);
        // The last message stays.
        if is_enough || end >= turns.len() {
            break;
        }
        size = size.saturating_sub(turns[caller..end].iter().map(weight).sum());
        dropped.push(caller..end);
    }
    keep(turns, |place, _| !dropped.iter().any(|range| range.contains(&place)));
}

fn keep(turns: &mut Vec<Turn<'_>>, mut test: impl FnMut(usize, &Turn<'_>) -> bool) {
    let mut place = 0;
    turns.retain(|turn| {
        place += 1;
        test(place - 1, turn)
    });
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::upstream::repair::document::RouteTraits;

    /// The texts that are left.
    fn left(messages: &Value, text: &str) -> Vec<String> {
        let body = json!({"model": "m", "messages": messages}).to_string();
        let route = RouteTraits {
            is_chat: true,
            rewrites_response: true,
            may_truncate: true,
            is_passed: false,
            can_collect: true,
        };
        let mut document = Document::parse(&body, route).expect("an object");
        let before = messages.as_array().expect("a list").len();
        let (dropped, _) = drop_oldest(&mut document, text);
        let left: Vec<String> = document.turns().iter().map(Turn::as_text).collect();
        assert_eq!(before - left.len(), dropped);
        left
    }

    fn history(turns: usize) -> Value {
        let text = |name: &str, turn: usize| format!("{name}{turn}{}", "x".repeat(100));
        let mut list = vec![json!({"role": "system", "content": "S"})];
        for turn in 0..turns {
            list.push(json!({"role": "user", "content": text("u", turn)}));
            list.push(json!({"role": "assistant", "content": text("a", turn)}));
        }
        list.push(json!({"role": "user", "content": "last"}));
        list.into()
    }

    #[test]
    fn the_oldest_turns_go_until_the_rest_fits() {
        let text = "request (2000 tokens) exceeds the available context size (1000 tokens), try \
                    increasing it";
        let rest = left(&history(10), text);
        assert_eq!((rest[0].as_str(), rest.last().map(String::as_str)), ("S", Some("last")));
        assert!(rest[1].starts_with('u') && (8..=11).contains(&rest.len()), "{}", rest.len());
        let openai = "this model's maximum context length is 1000 tokens. however, your messages \
                      resulted in 4000 tokens.";
        assert!((3..=7).contains(&left(&history(10), openai).len()));
    }

    #[test]
    fn half_goes_where_nothing_tells_how_much() {
        assert_eq!(left(&history(4), "prompt is too long").len(), 4);
        assert_eq!(left(&history(1), "prompt is too long"), ["S", "last"]);
        assert_eq!(left(&history(0), "prompt is too long"), ["S", "last"], "nothing can go");
    }

    #[test]
    fn a_long_loop_of_tools_loses_its_oldest_pairs() {
        let call = |id: &str| json!({"role": "assistant", "content": "", "tool_calls": [{"id": id, "function": {"name": "f"}}]});
        let result =
            |id: &str| json!({"role": "tool", "tool_call_id": id, "content": id.repeat(50)});
        let list = json!([{"role": "system", "content": "S"}, {"role": "user", "content": "Do"},
            call("a"), result("a"), call("b"), result("b"), call("c"), result("c")]);
        let rest = left(&list, "prompt is too long");
        assert_eq!(rest.len(), 4, "{rest:?}");
        assert_eq!((rest[1].as_str(), rest[3].as_str()), ("Do", "c".repeat(50).as_str()));
    }
}
