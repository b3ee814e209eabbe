//! Translates a conversation with tool calls to OpenAI's messages.
//!
//! An upstream requires an id on each call and, on each result, the id of its call; it requires the
//! results directly behind their calls, one for each. Ollama's clients send ids, names, both, or
//! neither, in many orders. So a call without an id gets one from its place in the conversation, the
//! same each time it is sent, and `translate::results` finds the call of each result and the messages
//! that are one turn. `translate::pairs` then puts the results behind their calls, adds those that are
//! missing, and lets the user tell the others. Results that match their calls one to one by ids of the
//! client's own are put in the order of the calls, as Ollama does, for templates that pair by place.
//! Some clients send the assistant's message without its calls (n8n 1.x and Flowise 3, by an early
//! version of `@langchain/ollama`): the calls are restored from the results. Rules of single upstreams
//! are in `translate::quirks`.
//! Invariant: no text, call or result is lost, and none is sent that an upstream must refuse for an id
//! or its place.

mod contents;

use std::borrow::Cow;
use std::collections::HashSet;

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
use crate::translate::pairs::{self, CallPlace, Role, Step};
use crate::translate::results::{self, Call, Speaker, Turn};
use crate::translate::tool_calls::compact_json;
use crate::translate::{cache_marks, media, quirks};

/// A message for the upstream, and what it is made of.
struct Draft<'a> {
    message: Message<'a>,
    /// Media that go up in a message of a user, because upstreams take none of this role.
    media: Vec<ContentPart<'a>>,
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
    let messages = history.iter().enumerate();
    let mut drafts = messages
        .map(|(place, message)| to_draft(message, place, profile).map(Some))
        .collect::<Result<Vec<_>>>()?;
    let mut turns: Vec<Turn<'_>> = history.iter().map(to_turn).collect();
    let mut roles = vec![Role::default(); history.len()];
    if turns.iter().any(|turn| turn.speaker == Speaker::Tool || !turn.calls.is_empty()) {
        let mut answers = results::find_calls(&turns);
        restore_calls(history, tools, (&mut turns, &mut drafts), &mut answers);
        roles = join(&turns, &mut drafts, &answers);
    }
    let steps = pairs::arrange(&roles);
    let steps = steps.unwrap_or_else(|| (0..roles.len()).map(Step::Keep).collect());
    Ok(write(drafts, steps))
}

/// The message alone. Its role is in lower case: Ollama ignores the case.
fn to_draft<'a>(
    message: &'a OllamaMessage<'a>,
    place: usize,
    profile: &Profile,
) -> Result<Draft<'a>> {
    let attached = documents::to_parts(&message.attachments, profile);
    let mut media = media::parse_parts(message.images.as_deref())?;
    media.extend(attached.media);
    let mut out = Message::text(lowercase_role(message), "");
    let own_media = if out.role == "user" { std::mem::take(&mut media) } else { Vec::new() };
    out.content = Content::with_media(content(message), own_media);
    if profile.takes_cache_marks && !message.marked_parts.is_empty() {
        out.content = cache_marks::to_content(message, out.content);
    }
    attached.lines.into_iter().for_each(|line| out.content.push_line(line));
    if out.role == "assistant" {
        out.tool_calls = to_calls(message, place)?;
        // `quirks::apply` removes it for upstreams that do not take it.
        out.reasoning_content = non_empty(message.thinking.as_deref()).map(Cow::Borrowed);
    }
    Ok(Draft { message: out, media })
}

fn to_turn<'a>(message: &'a OllamaMessage<'a>) -> Turn<'a> {
    let role = message.role.as_deref().unwrap_or_default();
    let speaker = match () {
        () if role.eq_ignore_ascii_case("assistant") => Speaker::Assistant,
        () if role.eq_ignore_ascii_case("tool") => Speaker::Tool,
        () => Speaker::Other,
    };
    let calls = message.tool_calls.iter().flatten().filter(|_| speaker == Speaker::Assistant);
    let calls = calls.map(|call| Call { id: non_empty(call.id.as_deref()), name: name(call) });
    let is_result = speaker == Speaker::Tool;
    Turn {
        speaker,
        calls: calls.collect(),
        id: non_empty(message.tool_call_id.as_deref()).filter(|_| is_result),
        name: non_empty(message.tool_name.as_deref()).filter(|_| is_result),
    }
}

/// Adds the calls that a client left out to the message of the assistant before their results.
fn restore_calls<'a>(
    history: &'a [OllamaMessage<'a>],
    tools: &'a [OllamaTool<'a>],
    (turns, drafts): (&mut [Turn<'a>], &mut [Option<Draft<'a>>]),
    answers: &mut [Option<CallPlace>],
) {
    let tools = AnsweredTool::new(tools);
    // The message of the assistant that came without calls, while only results follow it.
    let mut caller: Option<usize> = None;
    let (mut restored, mut question) = (RestoredCalls::default(), "");
    for (place, message) in history.iter().enumerate() {
        match turns[place].speaker {
            Speaker::Other => {
                caller = None;
                if lowercase_role(message) == "user" {
                    question = content(message);
                }
            }
            Speaker::Assistant => {
                caller = turns[place].calls.is_empty().then_some(place);
                restored = RestoredCalls::default();
            }
            Speaker::Tool if answers[place].is_none() => {
                let Some((caller, draft)) = caller.zip(caller.and_then(|it| drafts[it].as_mut()))
                else {
                    continue;
                };
                let Some(name) = find_function(message, question, &tools, &restored) else {
                    continue;
                };
                draft.message.tool_calls.push(restored.add(message, name, place));
                answers[place] = Some((caller, turns[caller].calls.len()));
                turns[caller].calls.push(Call { id: None, name });
            }
            Speaker::Tool => {}
        }
    }
}

/// Makes one message of those that are one turn, and gives each result the id of its call; returns
/// what each message is, where those that became parts of others are gone from `drafts`.
fn join<'a>(
    turns: &[Turn<'a>],
    drafts: &mut Vec<Option<Draft<'a>>>,
    answers: &[Option<CallPlace>],
) -> Vec<Role> {
    let grouping = results::group(turns, answers);
    // The place of each message among those that stay, and the number of its first call there.
    let mut places: Vec<(usize, usize)> = Vec::with_capacity(turns.len());
    let mut kept: Vec<Option<Draft<'a>>> = Vec::with_capacity(turns.len());
    for (place, target) in grouping.targets.iter().enumerate() {
        let draft = drafts[place].take();
        let into = places.get(*target).map(|(kept, _)| *kept);
        match (into.and_then(|it| kept.get_mut(it)?.as_mut()), draft, into) {
            (Some(caller), Some(part), Some(into)) => {
                places.push((into, caller.message.tool_calls.len()));
                append(caller, part);
            }
            (_, draft, _) => {
                places.push((kept.len(), 0));
                kept.push(draft);
            }
        }
    }
    let mut roles = vec![Role::default(); kept.len()];
    for (place, turn) in turns.iter().enumerate() {
        let (own, _) = places[place];
        if grouping.targets[place] == place {
            roles[own].calls = kept[own].as_ref().map_or(0, |it| it.message.tool_calls.len());
            roles[own].orders_results = grouping.matches_by_id.contains(&place);
            roles[own].is_result = turn.speaker == Speaker::Tool;
            roles[own].answers = answers[place].map(|(caller, number)| {
                let (caller, first) = places[caller];
                (caller, first + number)
            });
        }
    }
    link(&mut kept, &roles);
    *drafts = kept;
    roles
}

/// Adds what the assistant said and called in another message.
fn append<'a>(draft: &mut Draft<'a>, part: Draft<'a>) {
    let Draft { message, media } = part;
    let own = &mut draft.message;
    own.content = contents::join(std::mem::take(&mut own.content), message.content);
    own.tool_calls.extend(message.tool_calls);
    own.reasoning_content = match (own.reasoning_content.take(), message.reasoning_content) {
        (Some(first), Some(second)) => Some(contents::join_texts(first, second)),
        (first, second) => first.or(second),
    };
    draft.media.extend(media);
}

/// Makes the ids of a message's calls different, and gives each result the id of its call.
fn link(drafts: &mut [Option<Draft<'_>>], roles: &[Role]) {
    for (place, draft) in drafts.iter_mut().enumerate() {
        let mut known: HashSet<String> = HashSet::new();
        let calls = draft.iter_mut().flat_map(|draft| &mut draft.message.tool_calls);
        for (number, call) in calls.enumerate() {
            if !known.insert(call.id.to_string()) {
                call.id = Cow::Owned(quirks::short_id(&format!("d{place:04x}{number:04x}")));
            }
        }
    }
    for (place, role) in roles.iter().enumerate() {
        let Some((caller, number)) = role.answers else { continue };
        let calls = drafts[caller].as_ref().map(|draft| &draft.message.tool_calls);
        let id = calls.and_then(|calls| calls.get(number)).map(|call| call.id.clone());
        if let Some(draft) = &mut drafts[place] {
            draft.message.tool_call_id = id;
        }
    }
}

/// The messages in their final order.
fn write<'a>(drafts: Vec<Option<Draft<'a>>>, steps: Vec<Step>) -> Vec<Message<'a>> {
    let mut drafts = drafts;
    let mut out: Vec<Message<'a>> = Vec::with_capacity(steps.len());
    let mut media: Vec<ContentPart<'a>> = Vec::new();
    let mut caller = 0;
    for step in steps {
        let draft = match step {
            Step::Keep(place) => drafts[place].take(),
            Step::TellByUser(place) => drafts[place].take().map(tell_by_user),
            Step::Cancelled((_, number)) => {
                let call = out.get(caller).and_then(|message| message.tool_calls.get(number));
                let tool_call_id = call.map(|call| call.id.clone());
                let message = Message { tool_call_id, ..Message::text("tool", pairs::CANCELLED) };
                Some(Draft { message, media: Vec::new() })
            }
        };
        let Some(draft) = draft else { continue };
        if draft.message.role != "tool" && !media.is_empty() {
            out.push(media_message(std::mem::take(&mut media)));
        }
        media.extend(draft.media);
        if draft.message.role == "assistant" {
            caller = out.len();
        }
        out.push(draft.message);
    }
    if !media.is_empty() {
        out.push(media_message(media));
    }
    out
}

/// The upstream would refuse a result without a call; a user may say the text.
fn tell_by_user(draft: Draft<'_>) -> Draft<'_> {
    let content = contents::with_media(draft.message.content, draft.media);
    let message = Message { content, ..Message::text("user", "") };
    Draft { message, media: Vec::new() }
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

/// The function of a call.
fn name<'a>(call: &'a OllamaCall<'a>) -> &'a str {
    let function = call.function.as_ref();
    function.and_then(|function| function.name.as_deref()).unwrap_or_default()
}

fn to_calls<'a>(message: &'a OllamaMessage<'a>, place: usize) -> Result<Vec<ToolCall<'a>>> {
    let calls = message.tool_calls.iter().flatten().enumerate();
    calls.map(|(number, call)| to_call(call, place, number)).collect()
}

fn to_call<'a>(call: &'a OllamaCall<'a>, place: usize, number: usize) -> Result<ToolCall<'a>> {
    let function = call.function.as_ref();
    let id = match non_empty(call.id.as_deref()) {
        Some(id) => Cow::Borrowed(id),
        None => Cow::Owned(invent_id(place, number)),
    };
    let text = function.and_then(|function| function.arguments_text.as_deref());
    let arguments = match text {
        Some(text) => Cow::Borrowed(text),
        None => to_arguments(function.and_then(|function| function.arguments))?,
    };
    let function = FunctionCall { name: Cow::Borrowed(name(call)), arguments };
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

/// The calls that were restored in one message.
#[derive(Default)]
struct RestoredCalls<'a> {
    names: HashSet<&'a str>,
    ids: HashSet<&'a str>,
}

impl<'a> RestoredCalls<'a> {
    /// The call that a result answers. What the model passed to the function is not known.
    fn add(&mut self, result: &'a OllamaMessage<'a>, name: &'a str, place: usize) -> ToolCall<'a> {
        self.names.insert(name);
        let id = non_empty(result.tool_call_id.as_deref()).filter(|id| self.ids.insert(id));
        let id = id.map_or_else(|| Cow::Owned(invent_id(place, 0)), Cow::Borrowed);
        let function = FunctionCall { name: Cow::Borrowed(name), arguments: Cow::Borrowed("{}") };
        ToolCall { id, kind: "function", function, extra_content: None }
    }
}

/// The function that gave a result whose call is missing; `None` if nothing tells which one it was.
fn find_function<'a>(
    result: &'a OllamaMessage<'a>,
    question: &str,
    tools: &AnsweredTool<'a>,
    restored: &RestoredCalls<'_>,
) -> Option<&'a str> {
    let named = non_empty(result.tool_name.as_deref());
    let called = |name: &str| restored.names.contains(name);
    named.or_else(|| tools.find(content(result), question, called))
}

#[cfg(test)]
mod tests;
