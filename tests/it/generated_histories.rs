//! Generated histories on three routes: each call has its result directly behind it, each result its
//! call, and no text is lost (OpenAI API reference, chat completions). The chance is always the same.

use std::collections::HashMap;

use ollama_openai_proxy::api::anthropic::request::MessagesRequest;
use ollama_openai_proxy::api::ollama::decode;
use ollama_openai_proxy::api::ollama::request::ChatRequest;
use ollama_openai_proxy::api::openai::responses::ResponsesRequest;
use ollama_openai_proxy::backends::profiles::GENERIC;
use ollama_openai_proxy::translate::skipped::Skipped;
use ollama_openai_proxy::translate::{anthropic, chat, responses};

use crate::support::*;

const HISTORIES: u64 = 2_000;

/// The number of a call that the client left out.
const RESTORED: u64 = u64::MAX;

/// A chance that is the same in each run.
struct Chance(u64);

impl Chance {
    fn below(&mut self, most: u64) -> u64 {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % most
    }
}

/// One step of a history.
enum Event {
    User(String),
    Says(String),
    /// Calls that one message makes: their ids and functions. Each has its number as argument.
    Calls(Vec<(Option<String>, String, usize)>),
    /// A result: the id and the function that it names, and its text.
    Result(Option<String>, Option<String>, String),
}

/// A history in which calls and results come in any order, with ids, names, both or neither. `with_ids` for
/// protocols in which ids are required.
fn generate(chance: &mut Chance, with_ids: bool) -> Vec<Event> {
    let mut out = vec![Event::User("word0".into())];
    let mut calls: Vec<(Option<String>, String)> = Vec::new();
    // Some clients use the same ids in each round, some have none.
    let ids = chance.below(if with_ids { 2 } else { 3 });
    for step in 1..=2 + chance.below(12) {
        let word = format!("word{step}x");
        out.push(match chance.below(8) {
            0 => Event::User(word),
            1 => Event::Says(word),
            2..=4 => {
                let first = calls.len();
                for number in 0..=chance.below(3) {
                    let place = first as u64 + number;
                    let id = match ids {
                        0 => Some(format!("call_{place}_end")),
                        1 => Some(format!("call_{number}")),
                        _ => None,
                    };
                    calls.push((id, format!("f{}", chance.below(3))));
                }
                let made = calls[first..].iter().enumerate();
                let made =
                    made.map(|(number, (id, name))| (id.clone(), name.clone(), first + number));
                Event::Calls(made.collect())
            }
            _ => {
                let known = (!calls.is_empty() && chance.below(10) > 0).then(|| {
                    calls[calls.len() - 1 - chance.below(calls.len().min(4) as u64) as usize]
                        .clone()
                });
                let (id, name) = known.unwrap_or_else(|| (Some("nobody".into()), "f9".into()));
                let name = (chance.below(2) == 0).then_some(name);
                Event::Result(id, name, word)
            }
        });
    }
    out
}

fn to_ollama(history: &[Event]) -> Value {
    let messages = history.iter().map(|event| match event {
        Event::User(text) => json!({"role": "user", "content": text}),
        Event::Says(text) => json!({"role": "assistant", "content": text}),
        Event::Calls(calls) => {
            let calls = calls.iter().map(|(id, name, number)| {
                let mut call = json!({"function": {"name": name, "arguments": {"n": number}}});
                id.iter().for_each(|id| call["id"] = id.as_str().into());
                call
            });
            json!({"role": "assistant", "content": "", "tool_calls": calls.collect::<Vec<_>>()})
        }
        Event::Result(id, name, text) => {
            let mut message = json!({"role": "tool", "content": text});
            id.iter().for_each(|id| message["tool_call_id"] = id.as_str().into());
            name.iter().for_each(|name| message["tool_name"] = name.as_str().into());
            message
        }
    });
    json!({"model": "m", "messages": messages.collect::<Vec<_>>()})
}

fn to_anthropic(history: &[Event]) -> Value {
    let messages = history.iter().map(|event| match event {
        Event::User(text) => json!({"role": "user", "content": text}),
        Event::Says(text) => {
            json!({"role": "assistant", "content": [{"type": "text", "text": text}]})
        }
        Event::Calls(calls) => {
            let calls = calls.iter().map(|(id, name, number)| {
                json!({"type": "tool_use", "id": id, "name": name, "input": {"n": number}})
            });
            json!({"role": "assistant", "content": calls.collect::<Vec<_>>()})
        }
        Event::Result(id, _, text) => {
            let result = json!({"type": "tool_result", "tool_use_id": id, "content": text});
            json!({"role": "user", "content": [result]})
        }
    });
    json!({"model": "m", "max_tokens": 9, "messages": messages.collect::<Vec<_>>()})
}

fn to_responses(history: &[Event]) -> Value {
    let items = history.iter().flat_map(|event| match event {
        Event::User(text) => vec![json!({"role": "user", "content": text})],
        Event::Says(text) => vec![json!({"role": "assistant", "content": text})],
        Event::Calls(calls) => {
            let calls = calls.iter().map(|(id, name, number)| {
                let arguments = json!({"n": number}).to_string();
                json!({"type": "function_call", "call_id": id, "name": name, "arguments": arguments})
            });
            calls.collect()
        }
        Event::Result(id, _, text) => {
            vec![json!({"type": "function_call_output", "call_id": id, "output": text})]
        }
    });
    json!({"model": "m", "input": items.collect::<Vec<_>>()})
}

/// The messages that go upstream.
fn translate(route: &str, body: &Value) -> Value {
    let text = body.to_string();
    let sent = match route {
        CHAT => {
            let request: ChatRequest<'_> = decode::parse(&text, "ChatRequest").expect("a request");
            serde_json::to_value(chat::to_openai(&request, "m", &GENERIC).expect("taken"))
        }
        MESSAGES => {
            let request: MessagesRequest<'_> = decode::parse(&text, "M").expect("a request");
            anthropic::validate(&request, true).expect("valid");
            let chat = anthropic::to_ollama(&request, &mut Skipped::default()).expect("taken");
            let sent = anthropic::to_openai(&request, &chat, "m", &GENERIC).expect("taken");
            serde_json::to_value(sent)
        }
        _ => {
            let request: ResponsesRequest<'_> = decode::parse(&text, "R").expect("a request");
            let translated = responses::to_chat(&request).expect("taken");
            serde_json::to_value(responses::to_openai(&translated, "m", &GENERIC).expect("taken"))
        }
    };
    sent.expect("serialisable")["messages"].clone()
}

/// Checks what OpenAI requires of a history, and returns which call each result stands behind: the call's
/// number by the result's text.
fn check_pairs(messages: &Value, about: &str) -> HashMap<String, u64> {
    let mut pairs = HashMap::new();
    let mut open: HashMap<String, u64> = HashMap::new();
    for message in messages.as_array().expect("a list") {
        if message["role"] == "tool" {
            let id = message["tool_call_id"].as_str().expect("each result names a call");
            let number = open.remove(id);
            let number =
                number.unwrap_or_else(|| panic!("no call {id} before its result: {about}"));
            pairs.insert(message["content"].as_str().expect("a text").to_owned(), number);
            continue;
        }
        assert!(open.is_empty(), "a call without its result directly behind it: {about}");
        for call in message["tool_calls"].as_array().into_iter().flatten() {
            let arguments = call["function"]["arguments"].as_str().expect("a text");
            let arguments: Value = serde_json::from_str(arguments).expect("JSON");
            // A call that the client left out is restored from its result, without arguments.
            let number = arguments["n"].as_u64().unwrap_or(RESTORED);
            let id = call["id"].as_str().expect("an id").to_owned();
            assert!(open.insert(id, number).is_none(), "two calls with one id: {about}");
        }
    }
    assert!(open.is_empty(), "the last calls have no results: {about}");
    pairs
}

fn check(route: &str, history: &[Event], body: &Value) {
    let messages = translate(route, body);
    let about = format!("{route}\n{body}\n{messages}");
    let pairs = check_pairs(&messages, &about);
    let sent = messages.to_string();
    let (mut made, mut ids) = (0, HashMap::new());
    for event in history {
        match event {
            Event::User(text) | Event::Says(text) | Event::Result(_, _, text) => {
                assert_eq!(
                    sent.matches(text.as_str()).count(),
                    1,
                    "{text} is lost or doubled: {about}"
                );
            }
            Event::Calls(calls) => {
                made += calls.len();
                for (id, _, number) in calls {
                    ids.extend(
                        id.clone().filter(|id| id.ends_with("_end")).map(|id| (id, *number as u64)),
                    );
                }
            }
        }
    }
    assert_eq!(sent.matches(r#"\"n\":"#).count(), made, "a call is lost or doubled: {about}");
    // A result whose id is that of one call only stands behind that one. A second one may have got a call
    // of its own.
    for event in history {
        let Event::Result(Some(id), _, text) = event else { continue };
        if let (Some(expected), Some(found)) = (ids.get(id), pairs.get(text)) {
            let is_right = [*expected, RESTORED].contains(found);
            assert!(is_right, "{text} stands behind another call: {about}");
        }
    }
}

#[test]
fn each_call_of_a_chat_has_its_result_behind_it() {
    let mut chance = Chance(1);
    for _ in 0..HISTORIES {
        let history = generate(&mut chance, false);
        check(CHAT, &history, &to_ollama(&history));
    }
}

#[test]
fn each_tool_use_of_messages_has_its_result_behind_it() {
    let mut chance = Chance(2);
    for _ in 0..HISTORIES {
        let history = generate(&mut chance, true);
        check(MESSAGES, &history, &to_anthropic(&history));
    }
}

#[test]
fn each_call_of_responses_has_its_output_behind_it() {
    let mut chance = Chance(3);
    for _ in 0..HISTORIES {
        let history = generate(&mut chance, true);
        check("/v1/responses", &history, &to_responses(&history));
    }
}
