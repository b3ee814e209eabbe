//! Histories, and what an upstream is sent of them.

use serde_json::json;

use super::*;
use crate::backends::profiles;
use crate::translate::quirks;

fn check(history: Value, expected: Value) {
    let text = history.to_string();
    let history: Vec<OllamaMessage<'_>> = serde_json::from_str(&text).expect("valid");
    let found = match to_openai(&history) {
        Ok(mut messages) => {
            quirks::apply(&mut messages, &profiles::GENERIC, "m");
            serde_json::to_value(messages).expect("serialisable")
        }
        Err(error) => Value::from(error.message()),
    };
    assert_eq!(found, expected, "{text}");
}

fn call(id: &str, name: &str) -> Value {
    json!({"id": id, "type": "function", "function": {"name": name, "arguments": "{\"a\":1}"}})
}

fn asked(calls: Value) -> Value {
    json!({"role": "assistant", "content": "", "tool_calls": calls})
}

fn ollama_call(name: &str) -> Value {
    json!({"function": {"name": name, "arguments": {"a": 1}}})
}

fn result(id: &str, content: &str) -> Value {
    json!({"role": "tool", "content": content, "tool_call_id": id})
}

const IDS: [&str; 2] = ["c00000000", "c00000001"];

/// Sends two calls without ids, of the functions `names`, and two `results` without content: the
/// result at place n must answer call number `order[n]`.
fn check_matching(names: [&str; 2], order: [usize; 2], mut results: [Value; 2]) {
    for (result, place) in results.iter_mut().zip(order) {
        result["role"] = "tool".into();
        result["content"] = (place + 1).to_string().into();
    }
    let told = order.map(|place| result(IDS[place], &(place + 1).to_string()));
    let calls = json!([call(IDS[0], names[0]), call(IDS[1], names[1])]);
    check(
        json!([asked(json!(names.map(ollama_call))), results[0], results[1]]),
        json!([asked(calls), told[0], told[1]]),
    );
}

#[test]
fn results_without_id_and_name_answer_in_order() {
    check_matching(["f", "g"], [0, 1], [json!({}), json!({})]);
}

#[test]
fn results_with_a_name_answer_the_call_of_that_name() {
    check_matching(["f", "g"], [1, 0], ["g", "f"].map(|name| json!({ "tool_name": name })));
}

#[test]
fn two_calls_of_one_function_are_answered_one_after_the_other() {
    check_matching(["f", "f"], [0, 1], ["f", "f"].map(|name| json!({ "tool_name": name })));
}

#[test]
fn the_client_s_own_ids_are_kept() {
    check(
        json!([asked(json!([call("mine", "f"), call("yours", "f")])).as_object().map(|it| {
                let mut it = it.clone();
                it["tool_calls"][0]["function"]["arguments"] = json!({"a": 1});
                it["tool_calls"][1]["function"]["arguments"] = json!({"a": 1});
                it
            }),
            {"role": "tool", "content": "2", "tool_call_id": "yours"},
            {"role": "tool", "content": "1", "tool_call_id": "mine"}]),
        json!([
            asked(json!([call("mine", "f"), call("yours", "f")])),
            result("mine", "1"),
            result("yours", "2")
        ]),
    );
}

#[test]
fn an_id_that_matches_nothing_gives_way_to_name_and_order() {
    let named = json!({"tool_call_id": "nobody", "tool_name": "g"});
    check_matching(["f", "g"], [1, 0], [named, json!({"tool_call_id": "nobody"})]);
}

#[test]
fn a_result_without_a_call_becomes_a_user_s_message() {
    check(json!([{"role": "tool", "content": "1"}]), json!([{"role": "user", "content": "1"}]));
    let spoken = json!({"role": "assistant", "content": ""});
    check(
        json!([spoken, {"role": "tool", "content": "1"}]),
        json!([{"role": "user", "content": "1"}]),
    );
    check(
        json!([asked(json!([ollama_call("f")])), {"role": "tool", "content": "1"},
            {"role": "tool", "content": "2", "tool_name": "g"}]),
        json!([asked(json!([call(IDS[0], "f")])), result(IDS[0], "1"),
            {"role": "user", "content": "2"}]),
    );
    check(
        json!([spoken, {"role": "user", "content": "Hi"},
            {"role": "tool", "content": "2", "tool_name": "g"}]),
        json!([{"role": "user", "content": "Hi"}, {"role": "user", "content": "2"}]),
    );
}

/// Sends an assistant message without calls between a question and `results`; returns the functions
/// of the calls that were restored, after checking that each result answers its call.
fn restored(tools: &[&str], question: &str, results: &[Value]) -> Vec<String> {
    let tool = |name: &&str| json!({"function": {"name": name}});
    let tools = Value::from_iter(tools.iter().map(tool)).to_string();
    let mut history = vec![
        json!({"role": "user", "content": question}),
        json!({"role": "assistant", "content": ""}),
    ];
    history.extend(results.iter().cloned());
    let history = Value::Array(history).to_string();
    let tools: Vec<OllamaTool<'_>> = serde_json::from_str(&tools).expect("valid");
    let history: Vec<OllamaMessage<'_>> = serde_json::from_str(&history).expect("valid");
    let sent = to_openai_with_tools(&history, &tools, &GENERIC).expect("valid");
    let calls = &sent[1].tool_calls;
    let answered: Vec<_> = sent[2..].iter().map(|it| it.tool_call_id.as_deref()).collect();
    assert_eq!(answered, calls.iter().map(|it| Some(it.id.as_ref())).collect::<Vec<_>>());
    assert!(sent[2..].iter().all(|message| message.role == "tool"));
    assert!(calls.iter().all(|call| call.function.arguments == "{}"));
    calls.iter().map(|call| call.function.name.to_string()).collect()
}

#[test]
fn calls_that_the_client_left_out_are_restored_from_their_results() {
    let result = |content: &str| json!({"role": "tool", "content": content});
    let named = json!({"role": "tool", "content": "1", "tool_name": "f", "tool_call_id": "x"});
    assert_eq!(restored(&[], "", &[named.clone(), named]), ["f", "f"]);
    assert_eq!(restored(&["only"], "", &[result("1"), result("2")]), ["only", "only"]);
    let tools = ["calculator", "weather"];
    assert_eq!(restored(&tools, "The weather?", &[result("Rain")]), ["weather"]);
    let both = [result("Weather: rain"), result("42")];
    assert_eq!(restored(&tools, "Weather and calculator", &both), ["weather", "calculator"]);
}

#[test]
fn arguments_become_strings() {
    let arguments = |value: Value| {
        let history = json!([asked(json!([{"function": {"name": "f", "arguments": value}}]))]);
        let text = history.to_string();
        let history: Vec<OllamaMessage<'_>> = serde_json::from_str(&text).expect("valid");
        to_openai(&history).map(|it| it[0].tool_calls[0].function.arguments.to_string())
    };
    let nested = arguments(json!({"b": [1, {"c": null}]}));
    assert_eq!(nested.expect("valid"), r#"{"b":[1,{"c":null}]}"#);
    assert_eq!(arguments(json!("{\"b\":1}")).expect("valid"), r#"{"b":1}"#);
    assert_eq!(arguments(json!("")).expect("valid"), "{}");
    assert_eq!(arguments(json!(null)).expect("valid"), "{}");
    assert!(arguments(json!([1])).is_err() && arguments(json!("x")).is_err());
}

#[test]
fn images_go_with_their_text_and_those_of_others_with_a_user() {
    let png = "iVBORw0KGgo=";
    let image =
        json!({"type": "image_url", "image_url": {"url": format!("data:image/png;base64,{png}")}});
    check(
        json!([{"role": "user", "content": "Hi", "images": [png, png]}, {"role": "user", "images": [png]}]),
        json!([{"role": "user", "content": [{"type": "text", "text": "Hi"}, image, image]},
            {"role": "user", "content": [image]}]),
    );
    check(
        json!([asked(json!([ollama_call("f"), ollama_call("g")])),
            {"role": "tool", "content": "1", "images": [png]}, {"role": "tool", "content": "2"},
            {"role": "user", "content": "Well?"}]),
        json!([asked(json!([call("c00000000", "f"), call("c00000001", "g")])),
            result("c00000000", "1"), result("c00000001", "2"),
            {"role": "user", "content": [image]}, {"role": "user", "content": "Well?"}]),
    );
    check(
        json!([{"role": "system", "content": "s", "images": [png]}]),
        json!([{"role": "system", "content": "s"}, {"role": "user", "content": [image]}]),
    );
}

#[test]
fn roles_are_lower_case_and_thinking_stays_behind() {
    check(
        json!([{"role": "USER", "content": "Hi"}, {"role": "Assistant", "thinking": "hm", "content": "Yes"}]),
        json!([{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yes"}]),
    );
}

/// A history in short: `a` to `e` are calls (`f=1` of the function `f` with the id `1`, `f` without one),
/// `=1 x` is a result with an id, `@f x` one with a name, `= x` one with neither, `> x` the assistant's
/// words, `? x` a question, `! x` of the system.
fn history(text: &str) -> Value {
    let message = |line: &str| {
        let (mark, said) = line.split_once(' ').unwrap_or((line, ""));
        let said = said.trim();
        match (&mark[..1], &mark[1..]) {
            ("?", _) => json!({"role": "user", "content": said}),
            ("!", _) => json!({"role": "system", "content": said}),
            (">", _) => json!({"role": "assistant", "content": said}),
            ("=", "") => json!({"role": "tool", "content": said}),
            ("=", id) => json!({"role": "tool", "content": said, "tool_call_id": id}),
            ("@", name) => json!({"role": "tool", "content": said, "tool_name": name}),
            _ => {
                let calls = line.split_whitespace().map(|call| {
                    let (name, id) = call.split_once('=').unwrap_or((call, ""));
                    json!({"id": id, "function": {"name": name, "arguments": {}}})
                });
                json!({"role": "assistant", "content": "", "tool_calls": calls.collect::<Vec<_>>()})
            }
        }
    };
    text.split('|').map(|line| message(line.trim())).collect()
}

fn sent(history: &Value) -> Vec<Value> {
    let text = history.to_string();
    let history: Vec<OllamaMessage<'_>> = serde_json::from_str(&text).expect("valid");
    let messages = to_openai(&history).expect("valid").into_iter();
    messages.map(|it| serde_json::to_value(it).expect("serialisable")).collect()
}

/// The messages in short: the names of calls are in brackets, and a result has that of its call.
fn shown(messages: &[Value]) -> String {
    let mut calls: Vec<(String, String)> = Vec::new();
    let shown = messages.iter().map(|message| {
        let said = message["content"].as_str().unwrap_or_default();
        let said = said.replace("\n\n", "+").replace(pairs::CANCELLED, "-");
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        match message["role"].as_str().unwrap_or_default() {
            "tool" => {
                let id = text(&message["tool_call_id"]);
                let name = calls.iter().find(|(known, _)| *known == id).map_or("?", |it| &it.1);
                format!("{name}:{said}")
            }
            "assistant" if message["tool_calls"].is_array() => {
                let made = message["tool_calls"].as_array().into_iter().flatten();
                calls = made.map(|it| (text(&it["id"]), text(&it["function"]["name"]))).collect();
                let names: Vec<&str> = calls.iter().map(|(_, name)| name.as_str()).collect();
                format!("{said}[{}]", names.join(" "))
            }
            "assistant" => format!(">{said}"),
            "user" => format!("?{said}"),
            _ => format!("!{said}"),
        }
    });
    shown.collect::<Vec<_>>().join(" ")
}

#[test]
fn calls_and_results_in_any_order_become_turns_with_their_results() {
    for (given, expected) in [
        // Each call in a message of its own, and what was said beside them before or behind.
        ("? q | f | g | = 1 | = 2", "?q [f g] f:1 g:2"),
        ("? q | > t | f | g | = 1 | = 2", "?q t[f g] f:1 g:2"),
        ("? q | f | g | > t | = 1 | = 2", "?q t[f g] f:1 g:2"),
        ("? q | f | > t | g | = 1 | = 2", "?q t[f g] f:1 g:2"),
        ("? q | > t | f | > u | = 1", "?q t+u[f] f:1"),
        ("? q | f g | > t | = 1 | = 2 | > done", "?q t[f g] f:1 g:2 >done"),
        ("? q | f g | = 1 | > t | = 2", "?q t[f g] f:1 g:2"),
        ("? q | f | = 1 | g | = 2", "?q [f] f:1 [g] g:2"),
        ("? q | f | = 1 | > t | g | = 2", "?q [f] f:1 t[g] g:2"),
        ("? q | f | > t | = 1 | g | > u | = 2", "?q t[f] f:1 u[g] g:2"),
        // By id, then by name, then by order.
        ("f=1 | g=2 | =2 x | =1 y", "[f g] f:y g:x"),
        ("f g | @g x | @f y", "[f g] g:x f:y"),
        ("f | g | @g x | = y", "[f g] g:x f:y"),
        ("f=1 | g=2 | = x | =1 y", "[f g] g:x f:y"),
        ("f=1 g=2 | @f x | =1 y", "[f g] g:x f:y"),
        ("f=1 g=2 | =9 x | =1 y", "[f g] g:x f:y"),
        ("f=1 g=2 | =1 x | h=3 | =2 y | =3 z", "[f g] f:x g:y [h] h:z"),
        ("f f | @f x | @f y", "[f f] f:x f:y"),
        // Calls without a result, and results without a call.
        ("f g | = 1 | ? q", "[f g] f:1 g:- ?q"),
        ("f | ? q | > t", "[f] f:- ?q >t"),
        ("f | > t | ? q", "[f] f:- >t ?q"),
        ("f=1 | g=2 | =2 x", "[f g] g:x f:-"),
        ("= x", "?x"),
        ("? q | = x", "?q ?x"),
        ("f=1 | =1 x | =1 y", "[f] f:x ?y"),
        ("f=1 g=2 | =1 x | =1 y | =2 z", "[f g] f:x g:z ?y"),
        ("f | = x | = y", "[f] f:x ?y"),
        // Somebody else spoke before the result came.
        ("f=1 | ? q | =1 x", "[f] f:x ?q"),
        ("f | ? q | = x", "[f] f:x ?q"),
        ("f=1 | ! s | =1 x", "[f] f:x !s"),
        ("f=1 | ! s | > t | =1 x", "[f] f:x !s >t"),
        ("=1 x | f=1", "[f] f:x"),
        // The same ids again.
        ("f=1 | =1 x | f=1 | =1 y", "[f] f:x [f] f:y"),
        ("f=1 | g=1 | =1 x | =1 y", "[f g] f:x g:y"),
        // Words alone stay as they are.
        ("> t | > u", ">t >u"),
        ("? q | > t", "?q >t"),
    ] {
        assert_eq!(shown(&sent(&history(given))), expected, "{given}");
    }
}

#[test]
fn results_that_match_their_calls_by_id_come_in_the_order_of_the_calls() {
    for (given, expected) in [
        ("f=a g=b | =b 2 | =a 1", "[f g] f:1 g:2"),
        ("f=a g=b | =a 1 | =b 2", "[f g] f:1 g:2"),
        ("f=a g=b h=c | =c 3 | =a 1 | =b 2", "[f g h] f:1 g:2 h:3"),
        ("f g=b | =b 2 | = 1", "[f g] g:2 f:1"),
        ("f=a g=b | =b 2 | = 1", "[f g] g:2 f:1"),
        ("f=a g=b | =b 2 | =x 1", "[f g] g:2 f:1"),
        ("f=a g=b h=c | =b 2 | =a 1 | =b 3", "[f g h] g:2 f:1 h:- ?3"),
        ("f=a g=b h=a | =b 2 | =a 1 | =a 3", "[f g h] g:2 f:1 h:3"),
        ("f=a g=b h=c | =b 2 | =a 1", "[f g h] g:2 f:1 h:-"),
        ("f=a g=b | =b 2 | =a 1 | =c 3", "[f g] g:2 f:1 ?3"),
        ("=b 2 | =a 1", "?2 ?1"),
        ("f=a g=b | =b 2 | ? go on | =a 1", "[f g] g:2 f:1 ?go on"),
        ("f=a g=b | =b 2 | =a 1 | h=c i=d | =d 4 | =c 3", "[f g] f:1 g:2 [h i] h:3 i:4"),
    ] {
        assert_eq!(shown(&sent(&history(given))), expected, "{given}");
    }
}

/// A linear congruential generator, so that each run tries the same.
struct Random(u64);

impl Random {
    fn below(&mut self, end: u64) -> u64 {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % end
    }

    /// A history of any shape. Each text and each call holds a number of its own, in angle brackets.
    fn history(&mut self) -> Value {
        let mut number = 0;
        let mut mark = || {
            number += 1;
            format!("<{number}>")
        };
        let length = 1 + self.below(10);
        let messages = (0..length).map(|_| match self.below(9) {
            0 => json!({"role": "user", "content": mark()}),
            1 if self.below(3) == 0 => json!({"role": "system", "content": mark()}),
            1 | 2 => json!({"role": "assistant", "content": mark()}),
            3..=5 => {
                let calls = (0..=self.below(3)).map(|_| {
                    let name = ["f", "g", "h"][usize::try_from(self.below(3)).unwrap_or_default()];
                    let mut call = json!({"function": {"name": name, "arguments": {"n": mark()}}});
                    if self.below(2) == 0 {
                        call["id"] = json!(format!("i{}", self.below(5)));
                    }
                    call
                });
                let calls: Vec<Value> = calls.collect();
                let content = if self.below(2) == 0 { mark() } else { String::new() };
                json!({"role": "assistant", "content": content, "tool_calls": calls})
            }
            _ => {
                let mut result = json!({"role": "tool", "content": mark()});
                if self.below(2) == 0 {
                    result["tool_call_id"] = json!(format!("i{}", self.below(6)));
                }
                if self.below(3) == 0 {
                    result["tool_name"] =
                        json!(["f", "g", "x"][usize::try_from(self.below(3)).unwrap_or_default()]);
                }
                result
            }
        });
        messages.collect()
    }
}

#[test]
fn no_text_no_call_and_no_result_is_lost_and_each_call_has_one_result_behind_it() {
    let mut random = Random(17);
    for _ in 0..4000 {
        let history = random.history();
        let sent = sent(&history);
        let (given, told) = (history.to_string(), Value::from(sent.clone()).to_string());
        for number in 1.. {
            let mark = format!("<{number}>");
            let expected = given.matches(&mark).count();
            assert_eq!(told.matches(&mark).count(), expected, "{mark} of {history} in {told}");
            if expected == 0 {
                break;
            }
        }
        check_pairs(&sent);
    }
}

/// Checks that each call has one result directly behind it, and that there are no other results.
fn check_pairs(messages: &[Value]) {
    let mut open: Vec<&Value> = Vec::new();
    for message in messages {
        if message["role"] == "tool" {
            let id = &message["tool_call_id"];
            let place = open.iter().position(|it| *it == id);
            open.remove(place.unwrap_or_else(|| panic!("{message} in {messages:?}")));
            continue;
        }
        assert!(open.is_empty(), "{open:?} in {messages:?}");
        let calls = message["tool_calls"].as_array();
        open = calls.into_iter().flatten().map(|call| &call["id"]).collect();
        let distinct: HashSet<String> = open.iter().map(|id| id.to_string()).collect();
        assert_eq!(distinct.len(), open.len(), "{messages:?}");
    }
    assert!(open.is_empty(), "{open:?} in {messages:?}");
}

#[test]
fn media_of_results_that_move_come_behind_all_results() {
    let png = "iVBORw0KGgo=";
    let mut history = history("f=1 g=2 | =2 x | =1 y | ? q");
    history[1]["images"] = json!([png]);
    let sent = sent(&history);
    assert_eq!(shown(&sent), "[f g] f:y g:x ? ?q");
    assert_eq!(sent[3]["content"][0]["type"], "image_url");
    let orphan = json!([{"role": "tool", "content": "x", "images": [png]}]);
    let sent = super::tests::sent(&orphan);
    assert_eq!((sent.len(), &sent[0]["role"]), (1, &json!("user")));
    assert_eq!(sent[0]["content"][0], json!({"type": "text", "text": "x"}));
    assert_eq!(sent[0]["content"][1]["type"], "image_url");
}

#[test]
fn marks_of_a_cache_survive_a_merge() {
    let mark = serde_json::from_str(r#"{"type":"ephemeral"}"#).expect("valid");
    let part = |text: &'static str| crate::api::ollama::request::MarkedPart {
        text: Some(text.into()),
        cache_control: Some(mark),
    };
    let text = history("f=1 | > t | =1 x").to_string();
    let mut history: Vec<OllamaMessage<'_>> = serde_json::from_str(&text).expect("valid");
    history[1].marked_parts = vec![part("t")];
    let profile = profiles::find_by_name("openrouter").expect("known");
    let sent = to_openai_with_tools(&history, &[], profile).expect("valid");
    let content = serde_json::to_value(&sent[0].content).expect("serialisable");
    assert_eq!(
        content,
        json!([{"type": "text", "text": "t", "cache_control": {"type": "ephemeral"}}])
    );
    assert_eq!((sent.len(), sent[0].tool_calls.len()), (2, 1));
}

#[test]
fn what_was_thought_beside_several_calls_is_one_thought() {
    let mut history = history("f | g | = 1 | = 2");
    for (place, thinking) in [(0, "a"), (1, "b")] {
        history[place]["thinking"] = json!(thinking);
    }
    assert_eq!(sent(&history)[0]["reasoning_content"], "a\n\nb");
}

#[test]
fn many_results_without_calls_and_many_calls_without_results_take_no_longer_each() {
    const COUNT: usize = 20_000;
    let named = |place: usize| with_name(result(&format!("i{place}"), "x"), "f");
    let mut restored = vec![json!({"role": "assistant", "content": ""})];
    restored.extend((0..COUNT).map(named));
    let calls: Vec<Value> = (0..COUNT).map(|_| ollama_call("f")).collect();
    for history in [json!(restored), json!([asked(json!(calls))])] {
        let sent = sent(&history);
        assert_eq!(sent.len(), 1 + COUNT);
        let calls = sent[0]["tool_calls"].as_array().expect("calls");
        let last = (&calls[COUNT - 1]["id"], calls.len());
        assert_eq!(last, (&sent[COUNT]["tool_call_id"], COUNT));
    }
}

fn with_name(mut result: Value, name: &str) -> Value {
    result["tool_name"] = name.into();
    result
}
