//! The items of `/v1/responses` and the blocks of `/v1/messages`: every type, with members that are there,
//! missing or of any type, in any order.
//!
//! Whatever they are, what goes upstream is a chat in which each call has its result directly behind it and
//! each result its call, and no text of a conversation is lost.

use std::collections::BTreeSet;

use ollama_openai_proxy::api::anthropic::request::{GO_TYPE_NAME, MessagesRequest};
use ollama_openai_proxy::api::ollama::decode;
use ollama_openai_proxy::api::openai::responses::ResponsesRequest;
use ollama_openai_proxy::error::Result;
use ollama_openai_proxy::translate::skipped::Skipped;
use ollama_openai_proxy::translate::{anthropic, responses};
use serde_json::{Value, json};

use super::build::{self, Choices, Kind, any, arguments, id, name, text};
use super::requests::{check_chat, sent};
use super::{check_refusal, profile_of};

/// Words of items and blocks.
pub const WORDS: &[&str] = &[
    "\"type\":\"message\"",
    "\"type\":\"function_call\"",
    "\"type\":\"function_call_output\"",
    "\"type\":\"custom_tool_call\"",
    "\"type\":\"reasoning\"",
    "\"type\":\"local_shell_call\"",
    "\"call_id\":\"call_1\"",
    "\"output\":",
    "\"arguments\":\"{}\"",
    "\"content\":[",
    "\"summary\":[",
    "\"type\":\"input_text\"",
    "\"type\":\"tool_use\"",
    "\"type\":\"tool_result\"",
    "\"tool_use_id\":",
    "\"type\":\"thinking\"",
    "\"type\":\"document\"",
    "\"source\":{",
    "\"media_type\":",
    "\"input\":{",
    "\"is_error\":true",
    "\"role\":\"user\"",
    "\"role\":\"assistant\"",
    "\"text\":",
    "null",
    "{",
    "}",
    "[",
    "]",
    ",",
];

/// The most that a translation may add to each byte of a request, and to all of it.
const MOST_FOR_A_BYTE: usize = 16;
const MOST: usize = 64 * 1024;

const PARTS: &[Kind] = &[
    Kind { name: "input_text", members: &[("text", text)] },
    Kind { name: "output_text", members: &[("text", text), ("annotations", any)] },
    Kind { name: "refusal", members: &[("refusal", text)] },
    Kind { name: "input_image", members: &[("image_url", text), ("detail", text)] },
    Kind {
        name: "input_file",
        members: &[("file_data", text), ("filename", text), ("file_id", text)],
    },
    Kind { name: "input_audio", members: &[("input_audio", any)] },
    Kind { name: "encrypted_content", members: &[("encrypted_content", text)] },
    Kind { name: "unheard_of", members: &[("text", text)] },
];

const SUMMARIES: &[Kind] = &[
    Kind { name: "summary_text", members: &[("text", text)] },
    Kind { name: "reasoning_text", members: &[("text", text)] },
];

const ITEMS: &[Kind] = &[
    Kind { name: "message", members: &[("role", role), ("content", content)] },
    Kind { name: "", members: &[("role", role), ("content", text)] },
    Kind {
        name: "function_call",
        members: &[("call_id", id), ("name", name), ("arguments", arguments), ("namespace", any)],
    },
    Kind { name: "function_call_output", members: &[("call_id", id), ("output", output)] },
    Kind { name: "custom_tool_call", members: &[("call_id", id), ("name", name), ("input", text)] },
    Kind { name: "custom_tool_call_output", members: &[("call_id", id), ("output", output)] },
    Kind { name: "tool_search_call", members: &[("call_id", id), ("arguments", any)] },
    Kind { name: "tool_search_output", members: &[("call_id", id), ("tools", any)] },
    Kind { name: "local_shell_call", members: &[("call_id", id), ("id", id), ("action", any)] },
    Kind { name: "local_shell_call_output", members: &[("id", id), ("output", output)] },
    Kind {
        name: "reasoning",
        members: &[
            ("id", id),
            ("summary", summaries),
            ("content", summaries),
            ("encrypted_content", text),
        ],
    },
    Kind { name: "web_search_call", members: &[("id", id), ("action", any), ("status", text)] },
    Kind { name: "mcp_call", members: &[("id", id), ("name", name), ("arguments", arguments)] },
    Kind { name: "computer_call_output", members: &[("call_id", id), ("output", any)] },
    Kind { name: "unheard_of", members: &[("call_id", id), ("content", any)] },
];

fn role(choices: &mut Choices<'_>) -> Value {
    (*choices.one(&["user", "assistant", "system", "developer"])).into()
}

fn content(choices: &mut Choices<'_>) -> Value {
    if choices.below(2) == 0 { choices.text().into() } else { choices.objects(PARTS) }
}

fn output(choices: &mut Choices<'_>) -> Value {
    if choices.below(2) == 0 { choices.text().into() } else { choices.objects(PARTS) }
}

fn summaries(choices: &mut Choices<'_>) -> Value {
    choices.objects(SUMMARIES)
}

/// The input of `/v1/responses`, as a list of items.
pub fn responses_items(data: &[u8]) {
    let items = build::list(data, ITEMS);
    let body = json!({"model": "m", "input": items}).to_string();
    let translate = || -> Result<Value> {
        let request: ResponsesRequest<'_> = decode::parse(&body, "openai.ResponsesRequest")?;
        let translated = responses::to_chat(&request)?;
        Ok(sent(&responses::to_openai(&translated, "m", profile_of(data))?))
    };
    let said =
        items.iter().filter(|item| is_message(item)).filter_map(|item| text_of(&item["content"]));
    judge(&body, translate, said.collect());
}

/// Whether it is a message of a conversation, whose text must arrive.
fn is_message(item: &Value) -> bool {
    let is_typed = matches!(&item["type"], Value::Null) || item["type"] == "message";
    let known = ["user", "assistant", "system", "developer"];
    is_typed && item["role"].as_str().is_some_and(|role| known.contains(&role))
}

/// A content that is a plain text.
fn text_of(content: &Value) -> Option<String> {
    let text = content.as_str()?;
    (!text.trim().is_empty()).then(|| text.to_owned())
}

const SOURCES: &[Kind] = &[
    Kind { name: "base64", members: &[("media_type", text), ("data", text)] },
    Kind { name: "url", members: &[("url", text)] },
    Kind { name: "text", members: &[("media_type", text), ("data", text)] },
    Kind { name: "content", members: &[("content", text)] },
    Kind { name: "file", members: &[("file_id", text)] },
];

/// What may stand in a result.
const INNER: &[Kind] = &[
    Kind { name: "text", members: &[("text", text)] },
    Kind { name: "image", members: &[("source", source)] },
    Kind { name: "document", members: &[("source", source), ("title", text)] },
    Kind { name: "search_result", members: &[("source", text), ("title", text), ("content", any)] },
    Kind { name: "tool_reference", members: &[("tool_name", name)] },
];

const BLOCKS: &[Kind] = &[
    Kind { name: "text", members: &[("text", text), ("citations", any), ("cache_control", any)] },
    Kind { name: "image", members: &[("source", source)] },
    Kind { name: "document", members: &[("source", source), ("title", text), ("context", text)] },
    Kind {
        name: "search_result",
        members: &[("source", text), ("title", text), ("content", inner)],
    },
    Kind { name: "thinking", members: &[("thinking", text), ("signature", text)] },
    Kind { name: "redacted_thinking", members: &[("data", text)] },
    Kind { name: "tool_use", members: &[("id", id), ("name", name), ("input", any)] },
    Kind {
        name: "tool_result",
        members: &[("tool_use_id", id), ("content", inner_or_text), ("is_error", any)],
    },
    Kind { name: "server_tool_use", members: &[("id", id), ("name", name), ("input", any)] },
    Kind { name: "web_search_tool_result", members: &[("tool_use_id", id), ("content", any)] },
    Kind { name: "mcp_tool_use", members: &[("id", id), ("name", name), ("input", any)] },
    Kind { name: "mcp_tool_result", members: &[("tool_use_id", id), ("content", inner)] },
    Kind { name: "unheard_of", members: &[("content", any)] },
];

fn source(choices: &mut Choices<'_>) -> Value {
    choices.object(SOURCES)
}

fn inner(choices: &mut Choices<'_>) -> Value {
    choices.objects(INNER)
}

fn inner_or_text(choices: &mut Choices<'_>) -> Value {
    if choices.below(2) == 0 { choices.text().into() } else { choices.objects(INNER) }
}

fn blocks(choices: &mut Choices<'_>) -> Value {
    if choices.below(4) == 0 { choices.text().into() } else { choices.objects(BLOCKS) }
}

fn role_of_messages(choices: &mut Choices<'_>) -> Value {
    (*choices.one(&["user", "assistant"])).into()
}

const MESSAGES: &[Kind] =
    &[Kind { name: "", members: &[("role", role_of_messages), ("content", blocks)] }];

/// The messages of `/v1/messages`, as a list.
pub fn message_blocks(data: &[u8]) {
    let messages = build::list(data, MESSAGES);
    let body = json!({"model": "m", "max_tokens": 9, "messages": messages}).to_string();
    let translate = || -> Result<Value> {
        let request: MessagesRequest<'_> = decode::parse(&body, GO_TYPE_NAME)?;
        anthropic::validate(&request, true)?;
        let chat = anthropic::to_ollama(&request, &mut Skipped::default())?;
        assert!(anthropic::estimate_tokens(&chat) > 0);
        Ok(sent(&anthropic::to_openai(&request, &chat, "m", profile_of(data))?))
    };
    let texts = messages.iter().flat_map(|message| {
        let content = &message["content"];
        let blocks = content.as_array().into_iter().flatten();
        let texts = blocks.filter(|it| it["type"] == "text").filter_map(|it| text_of(&it["text"]));
        text_of(content).into_iter().chain(texts)
    });
    judge(&body, translate, texts.collect());
}

/// Checks what is sent, and that it is always the same.
fn judge(body: &str, translate: impl Fn() -> Result<Value>, said: Vec<String>) {
    let value = match translate() {
        Ok(value) => value,
        Err(error) => return check_refusal(&error),
    };
    assert_eq!(Some(&value), translate().ok().as_ref(), "the same request gives another one");
    check_chat(&value, "m");
    if value.is_null() {
        return;
    }
    let length = value.to_string().len();
    assert!(length <= MOST + MOST_FOR_A_BYTE * body.len(), "{length} bytes of {}", body.len());
    check_pairs(&value["messages"]);
    let told = texts(&value["messages"]);
    for text in said {
        assert!(told.contains(text.trim()), "what was said is lost: {text:?} in {told}");
    }
}

/// All text of the messages.
pub fn texts(messages: &Value) -> String {
    let mut out = String::new();
    for message in messages.as_array().into_iter().flatten() {
        match &message["content"] {
            Value::String(text) => out.push_str(text),
            content => {
                let parts = content.as_array().into_iter().flatten();
                parts.filter_map(|part| part["text"].as_str()).for_each(|text| out.push_str(text));
            }
        }
        out.push('\n');
    }
    out
}

/// Each call has its result directly behind it, and each result its call (OpenAI API reference, chat
/// completions).
pub fn check_pairs(messages: &Value) {
    let mut open = BTreeSet::new();
    for message in messages.as_array().expect("a list") {
        if message["role"] == "tool" {
            let id = message["tool_call_id"].as_str().expect("each result names a call");
            assert!(open.remove(id), "no call {id} before its result: {messages}");
            continue;
        }
        assert!(open.is_empty(), "a call without its result directly behind it: {messages}");
        for call in message["tool_calls"].as_array().into_iter().flatten() {
            let id = call["id"].as_str().expect("an id").to_owned();
            assert!(open.insert(id), "two calls with one id: {messages}");
        }
    }
    assert!(open.is_empty(), "the last calls have no results: {messages}");
}
