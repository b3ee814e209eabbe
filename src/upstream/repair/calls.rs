//! Repairs of calls and results: ids, names, arguments, pairs, and the reasoning that led to a call.
//!
//! Invariant: no call and no result is lost. What the client is shown keeps the client's own names.

use std::collections::{HashMap, HashSet};

use super::document::{Document, TOOLS};
use super::turn::Turn;
use crate::api::openai::raw_object;
use crate::api::openai::raw_object::RawObject;
use crate::api::wire::digest::sha256_hex;
use crate::translate::pairs;
use crate::translate::pairs::{Links, Step};
use crate::translate::quirks::short_id;
use crate::translate::tool_calls;

/// The longest name that every upstream takes.
const MAX_NAME_LEN: usize = 64;
/// The items of a request to `responses`.
const INPUT: &str = "input";
/// Stands for reasoning that nobody kept.
const PLACEHOLDER_REASONING: &str = " ";
/// Stands for a signature that nobody kept (Gemini API documentation, thought signatures).
const ANY_SIGNATURE: &str =
    r#"{"google":{"thought_signature":"skip_thought_signature_validator"}}"#;

/// Replaces all ids of calls by nine letters and digits, which every upstream takes.
pub(super) fn shorten_ids(turns: &mut [Turn<'_>]) -> bool {
    let mut known: HashMap<String, String> = HashMap::new();
    let mut used: HashSet<String> = HashSet::new();
    let mut shorten = |id: String| {
        let short = known.entry(id.clone()).or_insert_with(|| {
            let mut salted = id;
            let mut short = short_id(&salted);
            while !used.insert(short.clone()) {
                salted.push('\n');
                short = short_id(&salted);
            }
            short
        });
        short.clone()
    };
    let mut changed = false;
    for turn in turns {
        changed |= change_calls(turn, |call| {
            let id = call.get_string("id").unwrap_or_default();
            let short = shorten(id.clone());
            call.set("id", raw_object::quote_json(&short));
            short != id
        });
        if let Some(id) = turn.answered_id() {
            let short = shorten(id.clone());
            changed |= short != id;
            turn.object.set("tool_call_id", raw_object::quote_json(&short));
        }
    }
    changed
}

/// Changes each call of a message; returns whether one changed.
fn change_calls(turn: &mut Turn<'_>, mut change: impl FnMut(&mut RawObject<'_>) -> bool) -> bool {
    let mut changed = false;
    let calls = turn.calls().into_iter().map(|mut call| {
        changed |= change(&mut call);
        call.to_json()
    });
    let calls: Vec<String> = calls.collect();
    if changed {
        turn.set_calls(&calls);
    }
    changed
}

/// The name as every upstream takes it: a letter, then letters, digits, `_` and `-`, at most 64.
fn legal_name(name: &str) -> String {
    let is_legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-');
    let mut legal: String = name.chars().map(|c| if is_legal(c) { c } else { '_' }).collect();
    if !legal.starts_with(|c: char| c.is_ascii_alphabetic()) {
        legal.insert_str(0, "f_");
    }
    if legal.len() > MAX_NAME_LEN { with_hash(&legal, name) } else { legal }
}

/// A name that ends in a part of the hash of `name`.
fn with_hash(legal: &str, name: &str) -> String {
    let hash = &sha256_hex(name.as_bytes())[..8];
    let start = &legal[..legal.len().min(MAX_NAME_LEN - 9)];
    format!("{start}_{hash}")
}

/// Gives functions names that every upstream takes; the response gets the client's own back.
pub(super) fn use_legal_names(document: &mut Document<'_>) -> bool {
    let names = function_names(document);
    let mut used: HashSet<String> =
        names.iter().filter(|name| legal_name(name) == **name).cloned().collect();
    let mut map: HashMap<String, String> = HashMap::new();
    for name in names {
        let legal = legal_name(&name);
        if legal == name || map.contains_key(&name) {
            continue;
        }
        let legal = if used.contains(&legal) { with_hash(&legal, &name) } else { legal };
        used.insert(legal.clone());
        map.insert(name, legal);
    }
    if map.is_empty() || !document.route.rewrites_response {
        return false;
    }
    rename_in_tools(document, &map);
    for turn in document.turns() {
        change_calls(turn, |call| rename_function(call, &map));
        rename_member(&mut turn.object, "name", &map);
    }
    document.mark_changed();
    document.effects.tool_names.extend(map.into_iter().map(|(name, legal)| (legal, name)));
    true
}

/// The names of all functions, in the tools and in the calls so far.
fn function_names(document: &mut Document<'_>) -> Vec<String> {
    let name = |it: &RawObject<'_>| RawObject::parse(it.get("function")?)?.get_string("name");
    let tools = document.get(TOOLS).and_then(raw_object::parse_items).unwrap_or_default();
    let mut names: Vec<String> =
        tools.into_iter().filter_map(|tool| name(&RawObject::parse(tool)?)).collect();
    for turn in document.turns() {
        names.extend(turn.calls().iter().filter_map(name));
    }
    names
}

fn rename_in_tools(document: &mut Document<'_>, map: &HashMap<String, String>) {
    let renamed = document.get(TOOLS).and_then(raw_object::parse_items).map(|tools| {
        let tools = tools.into_iter().map(|tool| match RawObject::parse(tool) {
            Some(mut tool) => {
                rename_function(&mut tool, map);
                tool.to_json()
            }
            None => tool.to_owned(),
        });
        raw_object::join_items(&tools.collect::<Vec<_>>())
    });
    if let Some(tools) = renamed {
        document.set(TOOLS, tools);
    }
    let choice = document.get("tool_choice").and_then(RawObject::parse).map(|mut choice| {
        rename_function(&mut choice, map);
        choice.to_json()
    });
    if let Some(choice) = choice {
        document.set("tool_choice", choice);
    }
}

/// Renames the function of a tool, a call or a choice.
fn rename_function(object: &mut RawObject<'_>, map: &HashMap<String, String>) -> bool {
    let function = object.get("function").and_then(RawObject::parse);
    let renamed = function.and_then(|mut function| {
        rename_member(&mut function, "name", map).then(|| function.to_json())
    });
    renamed.map(|function| object.set("function", function)).is_some()
}

fn rename_member(object: &mut RawObject<'_>, member: &str, map: &HashMap<String, String>) -> bool {
    let legal = object.get_string(member).and_then(|name| map.get(&name));
    legal.map(|legal| object.set(member, raw_object::quote_json(legal))).is_some()
}

/// Makes the text of an object of the arguments of each call that has others; returns whether one had.
pub(super) fn mend_arguments(document: &mut Document<'_>) -> bool {
    let mended = mend_items(document.get(INPUT));
    let mut changed = mended.is_some();
    mended.into_iter().for_each(|items| document.set(INPUT, items));
    if document.route.is_chat && mend_calls(document.turns()) {
        document.mark_changed();
        changed = true;
    }
    changed
}

/// The same for messages.
pub(super) fn mend_calls(turns: &mut [Turn<'_>]) -> bool {
    let mut changed = false;
    for turn in turns {
        changed |= change_calls(turn, |call| mend_function(call, "function"));
        changed |= mend_function(&mut turn.object, "function_call");
    }
    changed
}

/// The same for the items of a request to `responses`; `None` if there is nothing to mend.
fn mend_items(input: Option<&str>) -> Option<String> {
    let items = raw_object::parse_items(input.filter(|it| it.contains("\"function_call\""))?)?;
    let mut changed = false;
    let mended = items.into_iter().map(|item| {
        let call = RawObject::parse(item);
        let call = call.filter(|it| it.get_string("type").as_deref() == Some("function_call"));
        let mended = call.and_then(with_mended_arguments);
        changed |= mended.is_some();
        mended.unwrap_or_else(|| item.to_owned())
    });
    let mended: Vec<String> = mended.collect();
    changed.then(|| raw_object::join_items(&mended))
}

fn mend_function(object: &mut RawObject<'_>, member: &str) -> bool {
    let function = object.get(member).and_then(RawObject::parse);
    let mended = function.and_then(with_mended_arguments);
    mended.map(|function| object.set(member, function)).is_some()
}

/// A function with arguments that are the text of an object; `None` if they are that.
fn with_mended_arguments(mut function: RawObject<'_>) -> Option<String> {
    let sent = function.get("arguments").unwrap_or_default();
    let text = serde_json::from_str::<String>(sent);
    let is_text = text.is_ok();
    let text = text.unwrap_or_else(|_| sent.to_owned());
    let mended = tool_calls::mend_arguments(&text);
    let mended = mended.or((!is_text).then_some(text))?;
    function.set("arguments", raw_object::quote_json(&mended));
    Some(function.to_json())
}

/// Puts each result right behind its call, adds results that are missing, and lets a user tell a result
/// without a call.
pub(super) fn pair_calls(turns: &mut Vec<Turn<'_>>) -> bool {
    let links: Vec<Links> = turns.iter().map(links).collect();
    let Some(steps) = pairs::pair(&links) else { return false };
    let mut all: Vec<Option<Turn<'_>>> = turns.drain(..).map(Some).collect();
    turns.extend(steps.into_iter().filter_map(|step| match step {
        Step::Keep(place) => all[place].take(),
        Step::TellByUser(place) => all[place].take().map(|mut turn| {
            turn.set_role("user");
            turn.object.remove("tool_call_id");
            turn.object.remove("name");
            turn
        }),
        Step::Cancelled((place, number)) => {
            Some(Turn::result(&links[place].calls[number], pairs::CANCELLED))
        }
    }));
    true
}

fn links(turn: &Turn<'_>) -> Links {
    let is_result = turn.is("tool");
    let calls = if turn.is("assistant") { turn.call_ids() } else { Vec::new() };
    Links { calls, answers: turn.answered_id().filter(|_| is_result), is_result }
}

/// Sends the reasoning of each message with calls: the client's own, else what was kept, else a blank.
pub(super) fn echo_reasoning(turns: &mut [Turn<'_>]) -> bool {
    let mut changed = false;
    for turn in turns.iter_mut().filter(|turn| turn.is("assistant") && turn.has_calls()) {
        let own = turn.object.get_string("reasoning_content").filter(|text| !text.is_empty());
        if own.is_some() {
            continue;
        }
        let other = turn.object.get_string("reasoning").filter(|text| !text.is_empty());
        let text = turn.thinking.clone().or(other);
        let text = text.unwrap_or_else(|| PLACEHOLDER_REASONING.to_owned());
        turn.object.set("reasoning_content", raw_object::quote_json(&text));
        changed = true;
    }
    changed
}

/// Removes reasoning that an upstream does not take.
pub(super) fn drop_reasoning(turns: &mut [Turn<'_>]) -> bool {
    let members = ["reasoning_content", "reasoning", "reasoning_details"];
    let mut changed = false;
    for turn in turns {
        for member in members {
            changed |= turn.object.remove(member);
        }
    }
    changed
}

/// Adds a signature to calls that lack one.
pub(super) fn skip_thought_signatures(turns: &mut [Turn<'_>]) -> bool {
    let mut changed = false;
    for turn in turns {
        changed |= change_calls(turn, |call| {
            let lacks = !call.has_value("extra_content");
            if lacks {
                call.set("extra_content", ANY_SIGNATURE);
            }
            lacks
        });
    }
    changed
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::upstream::repair::document::RouteTraits;

    fn call(id: &str, name: &str) -> Value {
        json!({"id": id, "type": "function", "function": {"name": name, "arguments": "{}"}})
    }

    fn asked(calls: &[Value]) -> Value {
        json!({"role": "assistant", "content": "", "tool_calls": calls})
    }

    fn result(id: &str) -> Value {
        json!({"role": "tool", "content": "r", "tool_call_id": id})
    }

    fn user(text: &str) -> Value {
        json!({"role": "user", "content": text})
    }

    /// What a repair makes of messages; `None` if it changes nothing.
    fn repaired(repair: impl Fn(&mut Vec<Turn<'_>>) -> bool, messages: &Value) -> Option<Value> {
        let text = messages.to_string();
        let mut turns = Turn::parse_list(&text);
        let changed = repair(&mut turns);
        assert!(!repair(&mut turns), "once is enough");
        let told = turns.iter().map(|turn| serde_json::from_str::<Value>(&turn.to_json()));
        changed.then(|| told.map(|turn| turn.expect("JSON")).collect())
    }

    #[test]
    fn ids_become_short_and_stay_linked_and_distinct() {
        let long = "x".repeat(200);
        let history = json!([
            asked(&[call(&long, "f"), call("functions.f:0", "f")]),
            result("functions.f:0"),
            result(&long),
            asked(&[call("abc123XYZ", "f")]),
            result("abc123XYZ")
        ]);
        let repair = |turns: &mut Vec<Turn<'_>>| shorten_ids(turns);
        let told = repaired(repair, &history).expect("changed");
        let id = |place: usize, call: usize| told[place]["tool_calls"][call]["id"].clone();
        assert_eq!(told[1]["tool_call_id"], id(0, 1));
        assert_eq!(told[2]["tool_call_id"], id(0, 0));
        assert_eq!(id(3, 0), "abc123XYZ", "it is legal everywhere");
        for id in [id(0, 0), id(0, 1)] {
            let id = id.as_str().expect("a text");
            assert!(id.len() == 9 && id.bytes().all(|b| b.is_ascii_alphanumeric()), "{id}");
        }
        assert_ne!(id(0, 0), id(0, 1));
        assert_eq!(repaired(repair, &history), Some(told), "the same each time");
        assert_eq!(repaired(repair, &json!([user("Hi")])), None);
    }

    #[test]
    fn names_become_legal_and_are_known_for_the_way_back() {
        let odd = ["mcp.server/tool", "mcp_server_tool", "9lives", "名前"];
        let long = "n".repeat(80);
        let tools: Vec<Value> = odd
            .iter()
            .chain([&long.as_str()])
            .map(|name| json!({"type": "function", "function": {"z": 1, "name": name, "a": 2}}))
            .collect();
        let body = json!({"model": "m", "tools": tools,
            "tool_choice": {"type": "function", "function": {"name": "9lives"}},
            "messages": [asked(&[call("a", "9lives"), call("b", "gone.by")]),
                {"role": "tool", "name": "9lives", "content": "r", "tool_call_id": "a"}]})
        .to_string();
        let route = RouteTraits {
            is_chat: true,
            rewrites_response: true,
            may_truncate: false,
            is_passed: false,
            can_collect: true,
        };
        let mut document = Document::parse(&body, route).expect("an object");
        assert!(use_legal_names(&mut document));
        let sent: Value = serde_json::from_str(&document.to_json()).expect("JSON");
        let back: HashMap<_, _> = document.effects.tool_names.iter().cloned().collect();
        let mut seen = HashSet::new();
        for (tool, name) in sent["tools"].as_array().expect("a list").iter().zip(odd) {
            let legal = tool["function"]["name"].as_str().expect("a name");
            assert!(seen.insert(legal.to_owned()), "{legal} twice");
            assert!(legal.len() <= 64 && legal.starts_with(|c: char| c.is_ascii_alphabetic()));
            assert_eq!(back.get(legal).map_or(legal, String::as_str), name);
        }
        assert_eq!(sent["tools"][4]["function"]["name"].as_str().map(str::len), Some(64));
        assert_eq!(sent["tool_choice"]["function"]["name"], "f_9lives");
        assert_eq!(sent["messages"][0]["tool_calls"][0]["function"]["name"], "f_9lives");
        assert_eq!(sent["messages"][0]["tool_calls"][1]["function"]["name"], "gone_by");
        assert_eq!(sent["messages"][1]["name"], "f_9lives");
        let passed = RouteTraits { rewrites_response: false, ..route };
        let mut document = Document::parse(&body, passed).expect("an object");
        assert!(!use_legal_names(&mut document), "nothing could give the names back");
    }

    #[test]
    fn calls_and_results_are_paired() {
        let pair = |turns: &mut Vec<Turn<'_>>| pair_calls(turns);
        let good = json!([asked(&[call("a", "f"), call("b", "g")]), result("a"), result("b")]);
        assert_eq!(repaired(pair, &good), None);
        let cancelled =
            |id: &str| json!({"role": "tool", "content": pairs::CANCELLED, "tool_call_id": id});
        let cut = json!([user("U"), asked(&[call("a", "f")]), user("V")]);
        let told = json!([user("U"), asked(&[call("a", "f")]), cancelled("a"), user("V")]);
        assert_eq!(repaired(pair, &cut), Some(told));
        let torn = json!([asked(&[call("a", "f")]), user("U"), result("a"), result("x")]);
        let told = json!([asked(&[call("a", "f")]), result("a"), user("U"), user("r")]);
        assert_eq!(repaired(pair, &torn), Some(told));
    }

    #[test]
    fn reasoning_and_signatures_come_back() {
        let history = json!([asked(&[call("a", "f")]), {"role": "assistant", "content": "x"},
            {"role": "assistant", "content": "", "reasoning": "hm", "tool_calls": [call("b", "f")]}]);
        let echo = |turns: &mut Vec<Turn<'_>>| echo_reasoning(turns);
        let told = repaired(echo, &history).expect("changed");
        assert_eq!(told[0]["reasoning_content"], " ");
        assert_eq!(told[1].get("reasoning_content"), None);
        assert_eq!(told[2]["reasoning_content"], "hm");
        let text = history.to_string();
        let mut turns = Turn::parse_list(&text);
        turns[0].thinking = Some("I see".to_owned());
        assert!(echo_reasoning(&mut turns) && turns[0].to_json().contains("\"I see\""));
        assert!(drop_reasoning(&mut turns) && !turns[0].to_json().contains("I see"));
        let sign = |turns: &mut Vec<Turn<'_>>| skip_thought_signatures(turns);
        let told = repaired(sign, &history).expect("changed");
        let signature = &told[0]["tool_calls"][0]["extra_content"]["google"]["thought_signature"];
        assert_eq!(signature, "skip_thought_signature_validator");
    }
}
