//! Puts calls and their results in pairs, as OpenAI's API requires (OpenAI API reference, chat
//! completions): each call is followed by its result.
//!
//! Pure, and the same for all forms of a conversation: it says what to do with the messages by their
//! places. Invariant: no call and no result is lost, and each call has exactly one result.

use std::collections::HashMap;

/// Stands for the result of a call that has none.
pub const CANCELLED: &str = "(no result: the call was cancelled)";

/// A call: the place of its message, and its number there.
pub type CallPlace = (usize, usize);

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

/// What a message is for [`arrange`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Role {
    /// The number of its calls.
    pub calls: usize,
    /// True for a result.
    pub is_result: bool,
    /// The call that a result answers.
    pub answers: Option<CallPlace>,
    /// True if the results of its calls are put in the order of the calls; otherwise they keep theirs.
    pub orders_results: bool,
}

/// A message of the paired conversation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// The message at this place.
    Keep(usize),
    /// The result at this place, told by the user: it is not the result of any call, or a second one.
    TellByUser(usize),
    /// A result for this call, which has none.
    Cancelled(CallPlace),
}

/// The paired conversation, by the ids alone; `None` if it is paired already.
pub fn pair(messages: &[Links]) -> Option<Vec<Step>> {
    let ids = messages.iter().map(|message| Ids {
        calls: message.calls.iter().map(|id| Some(id.as_str())).collect(),
        answers: message.answers.as_deref().filter(|_| message.is_result),
    });
    let answers = match_ids(&ids.collect::<Vec<_>>());
    let roles = messages.iter().zip(answers).map(|(message, answers)| Role {
        calls: message.calls.len(),
        is_result: message.is_result,
        answers,
        orders_results: false,
    });
    arrange(&roles.collect::<Vec<_>>())
}

/// The conversation in which each call is followed by its result; `None` if it is that already. No two
/// results may answer the same call.
pub fn arrange(messages: &[Role]) -> Option<Vec<Step>> {
    let answers = messages.iter().enumerate();
    let answered: HashMap<CallPlace, usize> =
        answers.filter_map(|(place, message)| Some((message.answers?, place))).collect();
    let mut steps = Vec::with_capacity(messages.len());
    for (place, message) in messages.iter().enumerate() {
        if message.answers.is_some() {
            continue;
        }
        steps.push(if message.is_result { Step::TellByUser(place) } else { Step::Keep(place) });
        let calls = (0..message.calls).map(|number| (place, number));
        let mut found: Vec<usize> =
            calls.clone().filter_map(|call| answered.get(&call)).copied().collect();
        if !message.orders_results {
            found.sort_unstable();
        }
        steps.extend(found.into_iter().map(Step::Keep));
        steps.extend(calls.filter(|call| !answered.contains_key(call)).map(Step::Cancelled));
    }
    let is_kept = |(place, step): (usize, &Step)| *step == Step::Keep(place);
    (!steps.iter().enumerate().all(is_kept)).then_some(steps)
}

/// The ids of a message: those of its calls, and that of the call which a result answers.
#[derive(Debug, Default)]
pub(super) struct Ids<'a> {
    pub calls: Vec<Option<&'a str>>,
    pub answers: Option<&'a str>,
}

/// The call that each result answers. Some clients use the same ids again and again, so a result
/// belongs to the last such call before it that has no result yet, else to one behind it.
pub(super) fn match_ids(messages: &[Ids<'_>]) -> Vec<Option<CallPlace>> {
    let mut open: HashMap<&str, Vec<CallPlace>> = HashMap::new();
    let mut answers = vec![None; messages.len()];
    let mut pushed = 0;
    for (place, message) in messages.iter().enumerate() {
        if place >= pushed {
            // Of adjacent messages with calls, the first call is taken first.
            let with_calls = messages[place..].iter().take_while(|it| !it.calls.is_empty());
            pushed = place + with_calls.count();
            for caller in (place..pushed).rev() {
                for (number, id) in messages[caller].calls.iter().enumerate().rev() {
                    if let Some(id) = id {
                        open.entry(id).or_default().push((caller, number));
                    }
                }
            }
        }
        answers[place] = message.answers.and_then(|id| open.get_mut(id)?.pop());
    }
    // What is open now lies behind every result with the same id.
    for (place, message) in messages.iter().enumerate().rev() {
        if answers[place].is_none() {
            answers[place] = message.answers.and_then(|id| open.get_mut(id)?.pop());
        }
    }
    answers
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
    fn each_call_is_followed_by_its_result() {
        use Step::{Cancelled, Keep, TellByUser};
        let other = Links::default;
        assert_eq!(pair(&[other(), calls(&["a", "b"]), result("a"), result("b"), other()]), None);
        assert_eq!(pair(&[calls(&["a", "b"]), result("b"), result("a")]), None, "any order");
        let cut = pair(&[calls(&["a"]), other(), result("x")]);
        assert_eq!(cut, Some(vec![Keep(0), Cancelled((0, 0)), Keep(1), TellByUser(2)]));
        let torn = pair(&[calls(&["a"]), other(), result("a"), calls(&["b"])]);
        let expected = vec![Keep(0), Keep(2), Keep(1), Keep(3), Cancelled((3, 0))];
        assert_eq!(torn, Some(expected));
        // The same ids in each round.
        let rounds = [calls(&["a"]), result("a"), calls(&["a"]), result("a"), calls(&["a"])];
        let expected = vec![Keep(0), Keep(1), Keep(2), Keep(3), Keep(4), Cancelled((4, 0))];
        assert_eq!(pair(&rounds), Some(expected));
        assert_eq!(pair(&rounds[..4]), None);
        assert_eq!(pair(&[calls(&["a", "a"]), result("a"), result("a")]), None);
        let twice = pair(&[calls(&["a", "b"]), result("a"), result("a"), result("b")]);
        assert_eq!(twice, Some(vec![Keep(0), Keep(1), Keep(3), TellByUser(2)]));
        let before = pair(&[result("a"), calls(&["a"])]);
        assert_eq!(before, Some(vec![Keep(1), Keep(0)]));
    }

    #[test]
    fn results_are_put_in_the_order_of_the_calls_where_that_is_asked_for() {
        let result =
            |call: usize| Role { is_result: true, answers: Some((0, call)), ..Role::default() };
        let messages = |orders_results: bool| {
            [Role { calls: 2, orders_results, ..Role::default() }, result(1), result(0)]
        };
        assert_eq!(arrange(&messages(false)), None);
        assert_eq!(
            arrange(&messages(true)),
            Some(vec![Step::Keep(0), Step::Keep(2), Step::Keep(1)])
        );
    }
}
