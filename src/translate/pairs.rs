//! Puts calls and their results in pairs, as OpenAI's API requires (OpenAI API reference, chat
//! completions): each call is followed by its result.
//!
//! Pure, and the same for all forms of a conversation: it says what to do with the messages by their
//! places. Invariant: no call and no result is lost.

use std::collections::{HashMap, HashSet};

/// Stands for the result of a call that has none.
pub const CANCELLED: &str = "(no result: the call was cancelled)";

/// What a message has to do with calls.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Links {
    /// The ids of the calls of an assistant.
    pub calls: Vec<String>,
    /// The id of the call that a result answers.
    pub answers: Option<String>,
    /// True for a result.
    pub is_result: bool,
}

/// A message of the paired conversation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// The message at this place.
    Keep(usize),
    /// The result at this place, told by the user: no call has its id.
    TellByUser(usize),
    /// A result for the call with this id, which has none.
    Cancelled(String),
}

/// The paired conversation; `None` if it is paired already.
pub fn pair(messages: &[Links]) -> Option<Vec<Step>> {
    let answered = match_results(messages);
    let paired: HashSet<usize> = answered.values().flatten().copied().collect();
    let mut steps = Vec::with_capacity(messages.len());
    for (place, message) in messages.iter().enumerate().filter(|(it, _)| !paired.contains(it)) {
        steps.push(if message.is_result { Step::TellByUser(place) } else { Step::Keep(place) });
        let calls = message.calls.iter().enumerate();
        let results = |number: usize| answered.get(&(place, number));
        let mut found: Vec<usize> =
            calls.clone().filter_map(|(number, _)| results(number)).flatten().copied().collect();
        // Results of one message stay in their order.
        found.sort_unstable();
        steps.extend(found.into_iter().map(Step::Keep));
        let missing = calls.filter(|(number, _)| results(*number).is_none());
        steps.extend(missing.map(|(_, id)| Step::Cancelled(id.clone())));
    }
    let is_kept = |(place, step): (usize, &Step)| *step == Step::Keep(place);
    (!steps.iter().enumerate().all(is_kept)).then_some(steps)
}

/// The places of the results of each call, which is known by the place of its message and its number
/// there. Some clients use the same ids again and again, so a result belongs to the last such call
/// before it that has no result yet.
fn match_results(messages: &[Links]) -> HashMap<(usize, usize), Vec<usize>> {
    let mut calls: HashMap<&String, Vec<(usize, usize)>> = HashMap::new();
    for (place, message) in messages.iter().enumerate() {
        for (number, id) in message.calls.iter().enumerate() {
            calls.entry(id).or_default().push((place, number));
        }
    }
    let mut answered: HashMap<(usize, usize), Vec<usize>> = HashMap::new();
    for (place, message) in messages.iter().enumerate().filter(|(_, message)| message.is_result) {
        let Some(known) = message.answers.as_ref().and_then(|id| calls.get(id)) else { continue };
        let before = known.partition_point(|(caller, _)| *caller < place);
        let is_open = |call: &&(usize, usize)| !answered.contains_key(call);
        let call = known[..before].iter().rev().find(is_open);
        let call = call.or(known[..before].last()).or(known.first());
        if let Some(call) = call.copied() {
            answered.entry(call).or_default().push(place);
        }
    }
    answered
}

#[cfg(test)]
mod tests {
    use super::*;

    fn calls(ids: &[&str]) -> Links {
        Links { calls: ids.iter().map(|id| (*id).to_owned()).collect(), ..Links::default() }
    }

    fn result(id: &str) -> Links {
        Links { answers: Some(id.to_owned()), is_result: true, ..Links::default() }
    }

    #[test]
    fn each_call_is_followed_by_its_results() {
        use Step::{Cancelled, Keep, TellByUser};
        let other = Links::default;
        assert_eq!(pair(&[other(), calls(&["a", "b"]), result("a"), result("b"), other()]), None);
        assert_eq!(pair(&[calls(&["a", "b"]), result("b"), result("a")]), None, "any order");
        let cut = pair(&[calls(&["a"]), other(), result("x")]);
        assert_eq!(cut, Some(vec![Keep(0), Cancelled("a".into()), Keep(1), TellByUser(2)]));
        let torn = pair(&[calls(&["a"]), other(), result("a"), calls(&["b"])]);
        let expected = vec![Keep(0), Keep(2), Keep(1), Keep(3), Cancelled("b".into())];
        assert_eq!(torn, Some(expected));
        // The same ids in each round.
        let rounds = [calls(&["a"]), result("a"), calls(&["a"]), result("a"), calls(&["a"])];
        let expected = vec![Keep(0), Keep(1), Keep(2), Keep(3), Keep(4), Cancelled("a".into())];
        assert_eq!(pair(&rounds), Some(expected));
        assert_eq!(pair(&rounds[..4]), None);
        assert_eq!(pair(&[calls(&["a", "a"]), result("a"), result("a")]), None);
    }
}
