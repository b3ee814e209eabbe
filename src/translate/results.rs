//! Finds the call that each result of a conversation answers, and the messages of an assistant that
//! are one turn.
//!
//! Pure, and about places alone. Ollama's clients name the call of a result by its id, by the name of
//! its function, or not at all. Some send each of several calls in a message of its own, and what the
//! assistant said beside them in another one, before or behind the calls (strands-agents,
//! `models/ollama.py`): the model said all that at once, so it becomes one message again.
//! Invariant: no two results answer the same call.

use std::collections::{HashMap, HashSet};
use std::ops::Range;

use super::pairs::{self, CallPlace, Ids};

/// How many rounds of calls before a result are looked at, if no id tells which one it answers.
const MAX_ROUNDS: usize = 16;

/// Who speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Speaker {
    Assistant,
    Tool,
    Other,
}

/// A call, as the client sent it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Call<'a> {
    pub id: Option<&'a str>,
    pub name: &'a str,
}

/// What a message has to do with calls, as the client sent it.
#[derive(Clone, Debug)]
pub(super) struct Turn<'a> {
    pub speaker: Speaker,
    /// The calls of an assistant.
    pub calls: Vec<Call<'a>>,
    /// The id of the call that a result answers.
    pub id: Option<&'a str>,
    /// The function of the call that a result answers.
    pub name: Option<&'a str>,
}

/// Calls of one round that have no result yet.
#[derive(Default)]
struct OpenCalls {
    calls: Vec<CallPlace>,
    /// Where those without a result begin.
    first: usize,
}

impl OpenCalls {
    fn next(&mut self, answered: &HashSet<CallPlace>) -> Option<CallPlace> {
        while self.calls.get(self.first).is_some_and(|call| answered.contains(call)) {
            self.first += 1;
        }
        self.calls.get(self.first).copied()
    }
}

/// The calls of adjacent messages of the assistant.
#[derive(Default)]
struct Round<'a> {
    all: OpenCalls,
    named: HashMap<&'a str, OpenCalls>,
}

impl<'a> Round<'a> {
    fn add(&mut self, place: usize, calls: &[Call<'a>]) {
        for (number, call) in calls.iter().enumerate() {
            self.all.calls.push((place, number));
            self.named.entry(call.name).or_default().calls.push((place, number));
        }
    }
}

/// A result whose id tells nothing, and the rounds whose calls it may answer.
struct Unmatched {
    place: usize,
    rounds: Range<usize>,
}

/// The call that each result answers: by id, then by name, then by order.
pub(super) fn find_calls(turns: &[Turn<'_>]) -> Vec<Option<CallPlace>> {
    let ids: Vec<Ids<'_>> = turns.iter().map(ids).collect();
    let mut answers = pairs::match_ids(&ids);
    let mut answered: HashSet<CallPlace> = answers.iter().flatten().copied().collect();
    let (mut rounds, unmatched) = find_rounds(turns, &answers);
    for by_name in [true, false] {
        for Unmatched { place, rounds: near } in &unmatched {
            if answers[*place].is_some() {
                continue;
            }
            let name = turns[*place].name.unwrap_or_default();
            let call = rounds[near.clone()].iter_mut().rev().take(MAX_ROUNDS).find_map(|round| {
                let open = if by_name { round.named.get_mut(name)? } else { &mut round.all };
                open.next(&answered)
            });
            answered.extend(call);
            answers[*place] = call;
        }
    }
    answers
}

fn ids<'a>(turn: &Turn<'a>) -> Ids<'a> {
    Ids { calls: turn.calls.iter().map(|call| call.id).collect(), answers: turn.id }
}

/// The rounds of calls, and the results that are still without a call. A second result of one call is
/// not among them.
fn find_rounds<'a>(
    turns: &[Turn<'a>],
    answers: &[Option<CallPlace>],
) -> (Vec<Round<'a>>, Vec<Unmatched>) {
    let known_ids: HashSet<&str> =
        turns.iter().flat_map(|turn| turn.calls.iter().filter_map(|call| call.id)).collect();
    let (mut rounds, mut unmatched) = (Vec::<Round<'a>>::new(), Vec::new());
    // The first round since somebody else spoke, whether the assistant has spoken since then, and
    // whether its next calls belong to the last round.
    let (mut first, mut has_spoken, mut is_open) = (0, false, false);
    for (place, turn) in turns.iter().enumerate() {
        match turn.speaker {
            Speaker::Other => (has_spoken, is_open) = (false, false),
            Speaker::Tool => {
                is_open = false;
                if answers[place].is_none() && !turn.id.is_some_and(|id| known_ids.contains(id)) {
                    unmatched.push(Unmatched { place, rounds: first..rounds.len() });
                }
            }
            Speaker::Assistant => {
                if !has_spoken {
                    (first, has_spoken) = (rounds.len(), true);
                }
                if !is_open && !turn.calls.is_empty() {
                    rounds.push(Round::default());
                    is_open = true;
                }
                if let Some(round) = rounds.last_mut() {
                    round.add(place, &turn.calls);
                }
            }
        }
    }
    (rounds, unmatched)
}

/// How the messages of a conversation become turns of the assistant and results.
#[derive(Debug, Default)]
pub(super) struct Grouping {
    /// The message that each message becomes a part of: an earlier one, or itself.
    pub targets: Vec<usize>,
    /// The messages whose calls and results match one to one by ids of the client's own.
    pub matches_by_id: HashSet<usize>,
}

/// Joins the messages with which the assistant made calls at once, and what it said between them and
/// their results.
pub(super) fn group(turns: &[Turn<'_>], answers: &[Option<CallPlace>]) -> Grouping {
    let has_calls = |place: usize| !turns[place].calls.is_empty();
    let mut targets: Vec<usize> = (0..turns.len()).collect();
    let is_assistant = |place: usize| turns[place].speaker == Speaker::Assistant;
    let last_results = last_results(turns, answers);
    // The message that made the last calls, and where the last of their results is.
    let mut caller: Option<(usize, usize)> = None;
    let mut place = 0;
    while place < turns.len() {
        if !is_assistant(place) {
            caller = caller.filter(|_| turns[place].speaker == Speaker::Tool);
            place += 1;
            continue;
        }
        let end = (place..turns.len()).find(|it| !is_assistant(*it)).unwrap_or(turns.len());
        let last_call = (place..end).rev().find(|it| has_calls(*it));
        if let Some(last_call) = last_call {
            targets[place..=last_call].fill(place);
            let reach = last_results[place..=last_call].iter().copied().max().unwrap_or(0);
            caller = Some((place, reach));
        }
        let said = last_call.map_or(place, |it| it + 1)..end;
        if let Some((caller, _)) = caller.filter(|(_, reach)| *reach >= end) {
            targets[said].fill(caller);
        }
        place = end;
    }
    let matches_by_id = matches_by_id(turns, answers, &targets);
    Grouping { targets, matches_by_id }
}

/// The place of the last result of each message's calls, before anybody else speaks; 0 without one.
fn last_results(turns: &[Turn<'_>], answers: &[Option<CallPlace>]) -> Vec<usize> {
    let mut last = vec![0; turns.len()];
    let mut first = 0;
    for (place, turn) in turns.iter().enumerate() {
        match answers[place] {
            Some((caller, _)) if (first..place).contains(&caller) => last[caller] = place,
            _ if turn.speaker == Speaker::Other => first = place,
            _ => {}
        }
    }
    last
}

/// The messages of which each call and each result, up to the next calls or words of others, has its
/// own id and which match one to one (Ollama `openai/openai.go`, order of tool results).
fn matches_by_id(
    turns: &[Turn<'_>],
    answers: &[Option<CallPlace>],
    targets: &[usize],
) -> HashSet<usize> {
    let mut ids: HashMap<usize, Option<HashSet<&str>>> = HashMap::new();
    for (turn, target) in turns.iter().zip(targets) {
        for call in &turn.calls {
            let known = ids.entry(*target).or_insert_with(|| Some(HashSet::new()));
            let is_new = known.as_mut().zip(call.id).is_some_and(|(known, id)| known.insert(id));
            *known = known.take().filter(|_| is_new);
        }
    }
    let mut caller = None;
    for (place, turn) in turns.iter().enumerate() {
        match turn.speaker {
            Speaker::Other => caller = None,
            Speaker::Assistant if !turn.calls.is_empty() => caller = Some(targets[place]),
            Speaker::Assistant => {}
            Speaker::Tool => {
                let Some(open) = caller.and_then(|it| ids.get_mut(&it)) else { continue };
                let answers_it = answers[place].map(|call| targets[call.0]) == caller;
                let is_its = answers_it
                    && open.as_mut().zip(turn.id).is_some_and(|(open, id)| open.remove(id));
                *open = open.take().filter(|_| is_its);
            }
        }
    }
    let matched = ids.into_iter().filter(|(_, open)| open.as_ref().is_some_and(HashSet::is_empty));
    matched.map(|(target, _)| target).collect()
}
