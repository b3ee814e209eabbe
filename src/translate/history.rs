//! Translates a conversation with tool calls to OpenAI's messages.
//!
//! An upstream requires an id on each call and, on each result, the id of its call. Ollama's clients
//! send both, one, or neither. So a call without an id gets one from its place in the conversation,
//! the same each time it is sent, and a result is matched with the calls of the last assistant
//! message by id, else by name, else by order. Some clients send the assistant's message without its
//! calls (n8n 1.x and Flowise 3, by an early version of `@langchain/ollama`): the calls are restored
//! from the results. Rules of single upstreams are in `translate::quirks`.
//! Invariant: no message is lost, and none is sent that an upstream must refuse for an id.

use std::borrow::Cow;

use serde_json::Value;
use serde_json::value::RawValue;

use crate::api::ollama::decode::non_empty;
use crate::api::ollama::request::{
    Message as OllamaMessage, Tool as OllamaTool, ToolCall as OllamaCall,
};
use crate::api::openai::request::{Content, ContentPart, FunctionCall, Message, ToolCall};
use crate::backends::profiles::{GENERIC, Profile};
use crate::error::{Error, Result};
use crate::translate::answered_tool::AnsweredTool;
use crate::translate::media::documents;
use crate::translate::pairs;
use crate::translate::pairs::{Links, Step};
use crate::translate::tool_calls::compact_json;
use crate::translate::{cache_marks, media, quirks};

/// A call whose result has not come yet.
struct PendingCall<'a> {
    id: Cow<'a, str>,
    name: Cow<'a, str>,
}

/// The messages for the upstream, of a conversation without tools.
///
/// # Errors
/// [`Error::InvalidRequest`] if the arguments of a call are not an object, and for invalid media.
pub fn to_openai<'a>(history: &'a [OllamaMessage<'a>]) -> Result<Vec<Message<'a>>> {
    to_openai_with_tools(history, &[], &GENERIC)
}

/// The messages for the upstream. `tools` are those of the request, in which the function of a result
/// without a call is looked for; the profile tells whether the upstream takes marks of a cache, and
/// documents.
///
/// # Errors
/// [`Error::InvalidRequest`] if the arguments of a call are not an object, and for invalid media.
pub fn to_openai_with_tools<'a>(
    history: &'a [OllamaMessage<'a>],
    tools: &'a [OllamaTool<'a>],
    profile: &Profile,
) -> Result<Vec<Message<'a>>> {
    let tools = AnsweredTool::new(tools);
    let mut out: Vec<Message<'a>> = Vec::with_capacity(history.len());
    let mut open: Vec<PendingCall<'a>> = Vec::new();
    // The place of an assistant message that came without calls, while only results follow it.
    let mut caller: Option<usize> = None;
    let mut media: Vec<ContentPart<'a>> = Vec::new();
    for (place, message) in history.iter().enumerate() {
        let mut turn = Message::text(lowercase_role(message), content(message));
        let attached = documents::to_parts(&message.attachments, profile);
        if turn.role != "tool" && !media.is_empty() {
            out.push(media_message(std::mem::take(&mut media)));
        }
        match turn.role.as_ref() {
            "user" => turn.content = to_user_content(message, attached.media.clone())?,
            "assistant" => {
                turn.tool_calls = to_calls(message, place)?;
                // `quirks::apply` removes it for upstreams that do not take it.
                turn.reasoning_content = non_empty(message.thinking.as_deref()).map(Cow::Borrowed);
                let pending = |call: &ToolCall<'a>| PendingCall {
                    id: call.id.clone(),
                    name: call.function.name.clone(),
                };
                open = turn.tool_calls.iter().map(pending).collect();
            }
            "tool" => {
                let restored = || restore_call(&history[..=place], &tools, out.get_mut(caller?)?);
                match take_matching_call(message, &mut open).or_else(restored) {
                    Some(id) => turn.tool_call_id = Some(id),
                    // The upstream would refuse a result without a call; a user may say the text.
                    None => {
                        turn.role = Cow::Borrowed("user");
                        turn.content = to_user_content(message, attached.media.clone())?;
                    }
                }
            }
            _ => {}
        }
        caller = match turn.role.as_ref() {
            "assistant" => turn.tool_calls.is_empty().then_some(out.len()),
            "tool" => caller,
            _ => None,
        };
        if turn.role != "user" {
            media.extend(parse_media(message)?);
            media.extend(attached.media);
        }
        if profile.takes_cache_marks && !message.marked_parts.is_empty() {
            turn.content = cache_marks::to_content(message, turn.content);
        }
        attached.lines.into_iter().for_each(|line| turn.content.push_line(line));
        out.push(turn);
    }
    if !media.is_empty() {
        out.push(media_message(media));
    }
    Ok(pair_calls(out))
}

/// Adds the results that are missing, such as of a call that the user interrupted.
fn pair_calls(messages: Vec<Message<'_>>) -> Vec<Message<'_>> {
    let is_linked = |it: &Message<'_>| !it.tool_calls.is_empty() || it.tool_call_id.is_some();
    if !messages.iter().any(is_linked) {
        return messages;
    }
    let links: Vec<Links> = messages.iter().map(links).collect();
    let Some(steps) = pairs::pair(&links) else { return messages };
    let mut all: Vec<Option<Message<'_>>> = messages.into_iter().map(Some).collect();
    let paired = steps.into_iter().filter_map(|step| match step {
        Step::Keep(place) => all[place].take(),
        Step::TellByUser(place) => all[place].take().map(|message| Message {
            role: Cow::Borrowed("user"),
            tool_call_id: None,
            ..message
        }),
        Step::Cancelled(id) => Some(Message {
            tool_call_id: Some(Cow::Owned(id)),
            ..Message::text("tool", pairs::CANCELLED)
        }),
    });
    paired.collect()
}

fn links(message: &Message<'_>) -> Links {
    let calls = message.tool_calls.iter().map(|call| call.id.to_string()).collect();
    let answers = message.tool_call_id.as_deref().map(str::to_owned);
    Links { calls, answers, is_result: message.role == "tool" }
}

fn parse_media<'a>(message: &'a OllamaMessage<'a>) -> Result<Vec<ContentPart<'a>>> {
    media::parse_parts(message.images.as_deref())
}

fn to_user_content<'a>(
    message: &'a OllamaMessage<'a>,
    attached: Vec<ContentPart<'a>>,
) -> Result<Content<'a>> {
    let mut media = parse_media(message)?;
    media.extend(attached);
    Ok(Content::with_media(content(message), media))
}

/// A user message for the media of other roles, which upstreams do not take. It comes after all
/// results of a turn, because results must follow their calls.
fn media_message(media: Vec<ContentPart<'_>>) -> Message<'_> {
    Message { content: Content::with_media("", media), ..Message::text("user", "") }
}

/// The role in lower case: Ollama ignores the case.
fn lowercase_role<'a>(message: &'a OllamaMessage<'a>) -> Cow<'a, str> {
    let role = message.role.as_deref().unwrap_or_default();
    if role.bytes().any(|byte| byte.is_ascii_uppercase()) {
        Cow::Owned(role.to_ascii_lowercase())
    } else {
        Cow::Borrowed(role)
    }
}

fn content<'a>(message: &'a OllamaMessage<'a>) -> &'a str {
    message.content.as_deref().unwrap_or_default()
}

fn to_calls<'a>(message: &'a OllamaMessage<'a>, place: usize) -> Result<Vec<ToolCall<'a>>> {
    let calls = message.tool_calls.iter().flatten().enumerate();
    calls.map(|(number, call)| to_call(call, place, number)).collect()
}

fn to_call<'a>(call: &'a OllamaCall<'a>, place: usize, number: usize) -> Result<ToolCall<'a>> {
    let function = call.function.as_ref();
    let name = function.and_then(|function| function.name.as_deref()).unwrap_or_default();
    let id = match non_empty(call.id.as_deref()) {
        Some(id) => Cow::Borrowed(id),
        None => Cow::Owned(invent_id(place, number)),
    };
    let arguments = to_arguments(function.and_then(|function| function.arguments))?;
    let function = FunctionCall { name: Cow::Borrowed(name), arguments };
    Ok(ToolCall { id, kind: "function", function, extra_content: None })
}

/// The id of a call from its place in the conversation, in a form that every upstream takes.
fn invent_id(place: usize, number: usize) -> String {
    quirks::short_id(&format!("c{place:04x}{number:04x}"))
}

/// The arguments as JSON text. Ollama's API has them as an object; a string that holds an object is
/// accepted, too.
fn to_arguments(raw: Option<&RawValue>) -> Result<Cow<'_, str>> {
    let text = raw.map_or("{}", RawValue::get);
    match text.as_bytes().first() {
        Some(b'{') => Ok(Cow::Owned(compact_json(text))),
        Some(b'"') => match serde_json::from_str::<String>(text) {
            Ok(inner) if inner.trim().is_empty() => Ok(Cow::Borrowed("{}")),
            Ok(inner) if serde_json::from_str::<Value>(&inner).is_ok_and(|it| it.is_object()) => {
                Ok(Cow::Owned(inner))
            }
            _ => Err(arguments_error()),
        },
        _ => Err(arguments_error()),
    }
}

fn arguments_error() -> Error {
    Error::invalid_request("Value looks like object, but can't find closing '}' symbol")
}

/// Adds the call that the last message of `history` answers to the assistant message before it;
/// returns the call's id, or `None` if nothing tells which function it was. What the model passed to it
/// is not known.
fn restore_call<'a>(
    history: &'a [OllamaMessage<'a>],
    tools: &AnsweredTool<'a>,
    caller: &mut Message<'a>,
) -> Option<Cow<'a, str>> {
    let (result, earlier) = history.split_last()?;
    let question = earlier.iter().rev().find(|message| lowercase_role(message) == "user");
    let name = non_empty(result.tool_name.as_deref()).or_else(|| {
        let called = |name: &str| caller.tool_calls.iter().any(|it| it.function.name == name);
        tools.find(content(result), question.map_or("", content), called)
    })?;
    let id = match non_empty(result.tool_call_id.as_deref()) {
        Some(id) if caller.tool_calls.iter().all(|call| call.id != id) => Cow::Borrowed(id),
        _ => Cow::Owned(invent_id(earlier.len(), 0)),
    };
    let function = FunctionCall { name: Cow::Borrowed(name), arguments: Cow::Borrowed("{}") };
    let call = ToolCall { id: id.clone(), kind: "function", function, extra_content: None };
    caller.tool_calls.push(call);
    Some(id)
}

/// Takes the call that a result belongs to out of `open`; returns its id.
fn take_matching_call<'a>(
    message: &'a OllamaMessage<'a>,
    open: &mut Vec<PendingCall<'a>>,
) -> Option<Cow<'a, str>> {
    let id = non_empty(message.tool_call_id.as_deref());
    let name = non_empty(message.tool_name.as_deref());
    let place = open
        .iter()
        .position(|call| Some(call.id.as_ref()) == id)
        .or_else(|| open.iter().position(|call| Some(call.name.as_ref()) == name))
        .or((!open.is_empty()).then_some(0))?;
    Some(open.remove(place).id)
}

#[cfg(test)]
mod tests {
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
                result("yours", "2"),
                result("mine", "1")
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
        let image = json!({"type": "image_url", "image_url": {"url": format!("data:image/png;base64,{png}")}});
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
}
