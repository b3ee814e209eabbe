//! What is done to a request after rejections: whatever an upstream says, in whatever words.
//!
//! What is sent next is JSON, no body goes out twice, the number of attempts is bounded, and the model, the
//! tools, the images and every word of the conversation stay.

use ollama_openai_proxy::backends::errors;
use ollama_openai_proxy::backends::errors::ErrorDetails;
use ollama_openai_proxy::upstream::repair::document::{Document, RouteTraits};
use ollama_openai_proxy::upstream::repair::memory::Known;
use ollama_openai_proxy::upstream::repair::plainest;
use ollama_openai_proxy::upstream::repair::session::{
    Change, MAX_ATTEMPTS, Session, describe_rejection,
};
use serde_json::{Map, Value, json};

use super::build::{Choices, Kind, any, arguments, id, name, text};
use super::items::texts;

/// Words of rejections, and of the requests that they are about.
pub const WORDS: &[&str] = &[
    "\n---\n",
    "{\"error\":{\"message\":\"",
    "\",\"param\":\"",
    "\",\"code\":\"",
    "\"}}",
    "{\"detail\":[{\"loc\":[\"body\",",
    "unsupported_parameter",
    "is not supported",
    "Unrecognized request argument",
    "Extra inputs are not permitted",
    "Input should be less than or equal to ",
    "maximum context length is 8192 tokens",
    "max_tokens",
    "max_completion_tokens",
    "reasoning_effort",
    "Supported values are: 'low', 'medium'",
    "temperature",
    "top_p",
    "stop",
    "tools",
    "tool_choice",
    "tool_calls",
    "tool_call_id",
    "messages.0.content",
    "messages[1].name",
    "system",
    "developer",
    "role",
    "must alternate",
    "conversation roles must alternate user/assistant",
    "must be followed by tool messages",
    "did not have response messages",
    "reasoning_content",
    "thought_signature",
    "response_format",
    "json_schema",
    "json_object",
    "strict",
    "'messages' must contain the word 'json'",
    "schema",
    "additionalProperties",
    "grammar",
    "stream",
    "only supports stream",
    "v1/responses",
    "not supported in the v1/chat/completions endpoint",
    "prefill",
    "last message",
    "empty",
    "cache_control",
    "arguments",
    "Expecting value",
    "must be a JSON object",
    "too long",
    "string_above_max_length",
    "pattern",
    "at most 4",
    "between 0 and 2",
    "0.00001",
    "16",
    "content_policy",
    "invalid_api_key",
    "insufficient_quota",
];

/// A word of the conversation that no log may hold.
const MARK: &str = "pl4nted-w0rd-0123456789";

const PARTS: &[Kind] = &[
    Kind { name: "text", members: &[("text", text), ("cache_control", any)] },
    Kind { name: "image_url", members: &[("image_url", image)] },
    Kind { name: "input_audio", members: &[("input_audio", any)] },
];

const CALLS: &[Kind] = &[
    Kind { name: "function", members: &[("id", id), ("function", function)] },
    Kind { name: "custom", members: &[("id", id), ("custom", any)] },
];

const MESSAGES: &[Kind] = &[
    Kind { name: "", members: &[("role", user), ("content", content), ("name", text)] },
    Kind { name: "", members: &[("role", instructor), ("content", content)] },
    Kind {
        name: "",
        members: &[
            ("role", assistant),
            ("content", content),
            ("tool_calls", calls),
            ("reasoning_content", text),
        ],
    },
    Kind { name: "", members: &[("role", tool), ("content", content), ("tool_call_id", id)] },
];

const TOOLS: &[Kind] = &[
    Kind { name: "function", members: &[("function", definition)] },
    Kind { name: "custom", members: &[("custom", any)] },
];

fn user(_: &mut Choices<'_>) -> Value {
    "user".into()
}

fn assistant(_: &mut Choices<'_>) -> Value {
    "assistant".into()
}

fn tool(_: &mut Choices<'_>) -> Value {
    "tool".into()
}

fn instructor(choices: &mut Choices<'_>) -> Value {
    (*choices.one(&["system", "developer"])).into()
}

fn content(choices: &mut Choices<'_>) -> Value {
    if choices.below(3) > 0 { choices.text().into() } else { choices.objects(PARTS) }
}

fn image(choices: &mut Choices<'_>) -> Value {
    json!({"url": choices.text()})
}

fn function(choices: &mut Choices<'_>) -> Value {
    json!({"name": name(choices), "arguments": arguments(choices)})
}

fn calls(choices: &mut Choices<'_>) -> Value {
    choices.objects(CALLS)
}

fn definition(choices: &mut Choices<'_>) -> Value {
    json!({"name": name(choices), "description": choices.text(), "parameters": schema(choices)})
}

fn schema(choices: &mut Choices<'_>) -> Value {
    let kinds = choices.any(0);
    json!({"type": *choices.one(&["object", "array", "string"]), "properties": {"a": kinds, "b": choices.any(0)},
        "required": ["a"], "additionalProperties": choices.any(1), "$defs": {"x": choices.any(1)}})
}

/// A chat that the bytes decide, with some of the members that upstreams reject.
fn generated(data: &[u8]) -> Value {
    let mut choices = Choices::new(data);
    let mut request = Map::new();
    request.insert("model".into(), "m".into());
    let others: &[(&str, Value)] = &[
        ("stream", true.into()),
        ("temperature", json!(0)),
        ("top_p", json!(1.5)),
        ("max_tokens", json!(100_000)),
        ("max_completion_tokens", json!(5)),
        ("stop", json!(["a", "b", "c", "d", "e"])),
        ("seed", json!(1)),
        ("reasoning_effort", "high".into()),
        ("tool_choice", "auto".into()),
        ("response_format", json!({"type": "json_object"})),
        (
            "response_format",
            json!({"type": "json_schema", "json_schema": {"name": "n", "strict": true,
            "schema": {"type": "array", "items": {"type": "string"}}}}),
        ),
        ("logprobs", true.into()),
        ("metadata", json!({"a": "b"})),
        ("unheard_of", json!([1])),
    ];
    for _ in 0..choices.below(6) {
        let (member, value) = choices.one(others);
        request.insert((*member).into(), value.clone());
    }
    if choices.below(2) == 0 {
        request.insert("tools".into(), choices.objects(TOOLS));
    }
    let mut messages = Vec::new();
    while choices.has_more() && messages.len() < 10 {
        messages.push(choices.object(MESSAGES));
    }
    request.insert("messages".into(), messages.into());
    Value::Object(request)
}

/// A request, and rejections of it one after the other, between lines of `---`; what is no JSON is a row of
/// choices, or the plain text of a rejection.
struct Case {
    request: Value,
    rejections: Vec<ErrorDetails>,
    route: RouteTraits,
}

impl Case {
    fn of(data: &[u8]) -> Self {
        let text = String::from_utf8_lossy(data);
        let mut pieces: Vec<&str> = text.split("\n---\n").collect();
        let is_request = |piece: &str| {
            serde_json::from_str::<Value>(piece).ok().filter(|it| it["messages"].is_array())
        };
        let found = is_request(pieces[0]);
        let request = found.clone().unwrap_or_else(|| generated(data));
        if found.is_some() {
            pieces.remove(0);
        }
        let rejections: Vec<ErrorDetails> = pieces.iter().map(|piece| rejection(piece)).collect();
        let flags = data.len();
        let route = RouteTraits {
            is_chat: !flags.is_multiple_of(8),
            rewrites_response: flags.is_multiple_of(2),
            may_truncate: flags.is_multiple_of(3),
            is_passed: !flags.is_multiple_of(2),
            can_collect: flags.is_multiple_of(2),
        };
        Self { request, rejections, route }
    }
}

/// What an upstream says, as it is read from a response's body.
fn rejection(piece: &str) -> ErrorDetails {
    errors::parse_details(piece.as_bytes()).unwrap_or_else(|| {
        let param = piece.split_whitespace().find(|word| word.contains('_')).map(str::to_owned);
        let message = if piece.trim().is_empty() { "rejected" } else { piece };
        ErrorDetails { message: message.to_owned(), param, ..ErrorDetails::default() }
    })
}

/// What must stay of a request.
struct Kept {
    words: Vec<String>,
    images: usize,
    tools: usize,
    model: Value,
}

/// A text without what separates words, which joining may change.
fn squeezed(text: &str) -> String {
    text.split_whitespace().collect()
}

impl Kept {
    fn of(request: &Value) -> Self {
        let messages = request["messages"].as_array();
        let said = messages.into_iter().flatten().filter(|message| {
            let roles = ["user", "assistant", "system", "developer", "tool"];
            message["role"].as_str().is_some_and(|role| roles.contains(&role))
        });
        let words = said.map(|message| squeezed(&texts(&json!([message]))));
        Self {
            words: words.filter(|words| !words.is_empty()).collect(),
            images: count_images(request),
            tools: request["tools"].as_array().map_or(0, Vec::len),
            model: request["model"].clone(),
        }
    }

    /// Checks what is sent next; `is_cut` where the oldest turns had to go.
    fn check(&self, text: &str, is_cut: bool, about: &str) {
        let sent: Value = serde_json::from_str(text).expect("what is sent is JSON");
        assert_eq!(sent["model"], self.model, "{about}");
        if is_cut {
            return;
        }
        let tools = sent["tools"].as_array().map_or(0, Vec::len);
        assert_eq!(tools, self.tools, "a tool is lost: {about}\n{text}");
        assert!(count_images(&sent) >= self.images, "an image is lost: {about}\n{text}");
        let told = squeezed(&texts(&sent["messages"]));
        for words in &self.words {
            assert!(told.contains(words.as_str()), "{words:?} is lost: {about}\n{text}");
        }
    }
}

fn count_images(request: &Value) -> usize {
    // Instructions are texts (OpenAI API reference, chat completions).
    let shows = |message: &&Value| message["role"] == "user" || message["role"] == "tool";
    let messages = request["messages"].as_array().into_iter().flatten().filter(shows);
    let parts = messages.filter_map(|message| message["content"].as_array()).flatten();
    parts.filter(|part| part["type"] == "image_url").count()
}

/// All rejections of one request, one after the other; then the next request of the same model.
pub fn repair(data: &[u8]) {
    let Case { request, rejections, route } = Case::of(data);
    let text = request.to_string();
    let Some(mut document) = Document::parse(&text, route) else { return };
    let kept = Kept::of(&request);
    let mut session = Session::new(&document);
    let mut sent = vec![(document.to_json(), document.is_for_responses())];
    let mut is_cut = false;
    // Some upstreams say the same for ever.
    let most = if data.len().is_multiple_of(4) { MAX_ATTEMPTS + 2 } else { rejections.len() };
    let told = rejections.iter().cycle().take(most);
    for details in told {
        check_description(details, &document);
        let Some(change) = session.next(details, &mut document, |_| false) else { break };
        is_cut |= matches!(change, Change::Truncated(_));
        assert!(!change.kinds().is_empty(), "{change}");
        let next = (document.to_json(), document.is_for_responses());
        let about = format!("{change} after {:?}", details.message);
        assert!(!sent.contains(&next), "the same body goes out twice: {about}");
        kept.check(&next.0, is_cut, &about);
        sent.push(next);
    }
    assert!(sent.len() <= MAX_ATTEMPTS, "{} attempts", sent.len());
    let (repairs, groups, _) = session.learnt();
    let known = Known { repairs, groups, left_out: None };
    let is_cut = is_cut || known.repairs.iter().any(|(it, _)| it.kind() == "fit_window");
    let begun = || {
        let mut again = Document::parse(&text, route).expect("it was an object before");
        Session::begin(&known, &mut again);
        again.to_json()
    };
    let next = begun();
    kept.check(&next, is_cut, "the next request");
    assert_eq!(next, begun(), "what is known has another effect the second time");
}

/// A description for the log is short, is one line, and holds no word of the conversation.
fn check_description(details: &ErrorDetails, document: &Document<'_>) {
    let text = json!({"messages": [{"role": "user", "content": MARK}]}).to_string();
    let marked = Document::parse(&text, RouteTraits::default()).expect("an object");
    let told =
        describe_rejection(&format!("{} {MARK} {}", details.message, details.message), &marked);
    assert!(!told.contains(MARK), "a word of the conversation is told: {told}");
    let told = describe_rejection(&details.message, document);
    assert!(told.chars().count() <= 1024 && !told.contains('\n'), "{told:?}");
}

/// The plainest form of a request; nothing is lost when it is made of a request that has it already.
pub fn plainest_form(data: &[u8]) {
    let Case { request, rejections, route } = Case::of(data);
    let text = request.to_string();
    let said = rejections.first().map_or(String::new(), |it| it.message.to_ascii_lowercase());
    let Some(mut document) = Document::parse(&text, route) else { return };
    let kept = Kept::of(&request);
    let groups = plainest::apply_all(&mut document, &said);
    let plain = document.to_json();
    kept.check(&plain, false, &format!("the plainest form, {groups:?}"));
    assert!(plain.len() <= 16 * text.len() + 64 * 1024, "{} bytes of {}", plain.len(), text.len());
    let mut again = Document::parse(&plain, route).expect("an object");
    let groups = plainest::apply_all(&mut again, &said);
    kept.check(&again.to_json(), false, &format!("made again, {groups:?}"));
}
