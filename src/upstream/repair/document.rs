//! A request as the repairs see it: a JSON object whose members keep their text until a repair changes them.
//!
//! The same for translated and for passed-on requests. It is made when the upstream first rejects a
//! request, when something is known of the model, or where the operator adds members; other requests never
//! become one. Messages come apart only for a repair that needs them.
//! Invariant: members that no repair names keep their text and their place.

use std::borrow::Cow;

use serde_json::{Map, Value};

use super::turn::Turn;
use crate::api::openai::raw_object;
use crate::api::openai::raw_object::RawObject;
use crate::api::openai::request::{
    ChatRequest, CompletionRequest, EmbeddingRequest, InfillRequest, ResponseEffects,
};

pub(super) const MESSAGES: &str = "messages";
pub(super) const TOOLS: &str = "tools";
pub(super) const RESPONSE_FORMAT: &str = "response_format";

/// Members that are never parameters, and may be long.
const LONG_FIELDS: &[&str] =
    &[MESSAGES, TOOLS, "input", "prompt", "suffix", "functions", RESPONSE_FORMAT];

/// What asks for a stream with its token counts.
const STREAM_MEMBERS: [(&str, &str); 2] =
    [("stream", "true"), ("stream_options", r#"{"include_usage":true}"#)];

/// A request, in JSON, as one for a stream.
pub fn as_stream(json: &str) -> String {
    let Some(mut object) = RawObject::parse(json) else { return json.to_owned() };
    STREAM_MEMBERS.iter().for_each(|(member, value)| object.set(member, *value));
    object.to_json()
}

/// What may be done to a request and to its response, by the route that it came from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RouteTraits {
    /// True for a chat with messages.
    pub is_chat: bool,
    /// True if the response is translated, so that a repair can be taken back in it.
    pub rewrites_response: bool,
    /// True if the oldest turns may go when the context is exceeded, as Ollama's `truncate` allows.
    pub may_truncate: bool,
    /// True if the client wrote it for OpenAI's API.
    pub is_passed: bool,
    /// True if a whole response may be asked for as a stream, which is then collected.
    pub can_collect: bool,
}

/// A translated request that can be repaired.
pub trait Repairable {
    /// The upstream's id of the model.
    fn model(&self) -> &str;

    /// What may be done to it.
    fn route(&self) -> RouteTraits;

    /// Whether it asks for a stream.
    fn is_stream(&self) -> bool {
        false
    }

    /// The reasoning of the assistant's messages that is not sent, by the place of each.
    fn thinking(&self) -> Vec<(usize, String)> {
        Vec::new()
    }

    /// What the proxy does to its response, where it can do something.
    fn effects_mut(&mut self) -> Option<&mut ResponseEffects> {
        None
    }

    /// The same, to be read.
    fn effects(&self) -> ResponseEffects {
        ResponseEffects::default()
    }
}

impl Repairable for ChatRequest<'_> {
    fn model(&self) -> &str {
        self.model
    }

    fn route(&self) -> RouteTraits {
        let may_truncate = self.may_truncate;
        let traits = RouteTraits { is_chat: true, may_truncate, ..RouteTraits::default() };
        RouteTraits { rewrites_response: true, can_collect: true, ..traits }
    }

    fn is_stream(&self) -> bool {
        self.stream
    }

    fn thinking(&self) -> Vec<(usize, String)> {
        let places = self.messages.iter().enumerate();
        places.filter_map(|(place, it)| Some((place, it.thinking.as_ref()?.to_string()))).collect()
    }

    fn effects_mut(&mut self) -> Option<&mut ResponseEffects> {
        Some(&mut self.effects)
    }

    fn effects(&self) -> ResponseEffects {
        self.effects.clone()
    }
}

impl Repairable for CompletionRequest<'_> {
    fn model(&self) -> &str {
        self.model
    }

    fn route(&self) -> RouteTraits {
        RouteTraits { rewrites_response: true, can_collect: true, ..RouteTraits::default() }
    }

    fn is_stream(&self) -> bool {
        self.stream
    }

    fn effects_mut(&mut self) -> Option<&mut ResponseEffects> {
        Some(&mut self.effects)
    }

    fn effects(&self) -> ResponseEffects {
        self.effects.clone()
    }
}

/// llama.cpp accepts stop sequences here, and nothing would watch for them.
impl Repairable for InfillRequest<'_> {
    fn model(&self) -> &str {
        self.model
    }

    fn route(&self) -> RouteTraits {
        RouteTraits { can_collect: true, ..RouteTraits::default() }
    }

    fn is_stream(&self) -> bool {
        self.stream
    }
}

impl Repairable for EmbeddingRequest<'_> {
    fn model(&self) -> &str {
        self.model
    }

    fn route(&self) -> RouteTraits {
        RouteTraits::default()
    }
}

/// A request that can be repaired.
#[derive(Debug)]
pub struct Document<'a> {
    object: RawObject<'a>,
    /// The messages once they have come apart; `object` has a placeholder in their place.
    turns: Option<Vec<Turn<'a>>>,
    pub(super) route: RouteTraits,
    /// What the response needs because of the repairs.
    pub effects: ResponseEffects,
    /// True if this is the last attempt, which is not retried.
    pub is_last_resort: bool,
    /// True if the server is known to reject streams.
    pub rejects_streams: bool,
    is_changed: bool,
    is_for_responses: bool,
}

impl<'a> Document<'a> {
    /// A request whose members are these.
    pub fn new(object: RawObject<'a>, route: RouteTraits) -> Self {
        Self {
            object,
            turns: None,
            route,
            effects: ResponseEffects::default(),
            is_last_resort: false,
            rejects_streams: false,
            is_changed: false,
            is_for_responses: false,
        }
    }

    /// A request from its JSON; `None` if it is no object.
    pub fn parse(text: &'a str, route: RouteTraits) -> Option<Self> {
        RawObject::parse(text).map(|object| Self::new(object, route))
    }

    /// The reasoning of the assistant's messages, by the place of each; it is sent only where the upstream
    /// wants it back.
    #[must_use]
    pub fn with_thinking(mut self, thinking: Vec<(usize, String)>) -> Self {
        if !thinking.is_empty() {
            let turns = self.turns();
            for (place, text) in thinking {
                if let Some(turn) = turns.get_mut(place) {
                    turn.thinking = Some(text);
                }
            }
        }
        self
    }

    /// The same with reasoning that was kept for the calls of messages that come without any, found by
    /// `find`.
    #[must_use]
    pub fn with_kept_reasoning(mut self, find: impl Fn(&RawObject<'_>) -> Option<String>) -> Self {
        if self.get(MESSAGES).is_some_and(|messages| messages.contains("tool_calls")) {
            for turn in self.turns().iter_mut().filter(|turn| !turn.has_reasoning()) {
                let kept = turn.calls().iter().find_map(&find);
                turn.thinking = kept;
            }
        }
        self
    }

    /// Adds the members that it lacks. From then on they are as good as the client's: a repair may drop them.
    /// Options of a stream are for requests that ask for one.
    pub fn add_missing(&mut self, members: &[(String, String)]) {
        for (member, value) in members {
            let is_for_streams = member == "stream_options";
            if !self.has_member(member) && (!is_for_streams || self.is_stream()) {
                self.set(member, value.clone());
            }
        }
    }

    /// True if a repair has changed it.
    pub fn is_changed(&self) -> bool {
        self.is_changed
    }

    /// Whether it has a member, be it `null`.
    pub fn has_member(&self, member: &str) -> bool {
        self.get(member).is_some()
    }

    /// The text of a member.
    pub(super) fn get(&self, member: &str) -> Option<&str> {
        self.object.get(member)
    }

    pub(super) fn has(&self, member: &str) -> bool {
        self.object.has_value(member)
    }

    pub(super) fn set(&mut self, member: &str, value: impl Into<Cow<'a, str>>) {
        self.is_changed = true;
        self.object.set(member, value);
    }

    /// Removes a member; returns whether it was there.
    pub(super) fn remove(&mut self, member: &str) -> bool {
        let removed = self.object.remove(member);
        self.is_changed |= removed;
        removed
    }

    pub(super) fn rename(&mut self, from: &str, to: &str) -> bool {
        let renamed = self.object.rename(from, to);
        self.is_changed |= renamed;
        renamed
    }

    /// A short member as a value; `None` for messages and the like.
    pub(super) fn value(&self, member: &str) -> Option<Value> {
        if LONG_FIELDS.contains(&member) {
            return None;
        }
        serde_json::from_str(self.get(member)?).ok()
    }

    /// The names of all members.
    pub(super) fn names(&self) -> Vec<String> {
        self.object.members().map(|(name, _)| name.to_owned()).collect()
    }

    /// The members that may be parameters.
    pub(super) fn parameters(&self) -> Map<String, Value> {
        let mut out = Map::new();
        for name in self.names() {
            if let Some(value) = self.value(&name) {
                out.insert(name, value);
            }
        }
        out
    }

    /// True if there are tools.
    pub(super) fn has_tools(&self) -> bool {
        let tools = self.get(TOOLS).and_then(raw_object::parse_items);
        tools.is_some_and(|tools| !tools.is_empty())
    }

    /// Whether a stream is asked for.
    pub fn is_stream(&self) -> bool {
        self.get("stream") == Some("true")
    }

    /// Asks for a stream with its token counts; returns whether that changed anything.
    pub fn use_stream(&mut self) -> bool {
        let changes = !self.is_stream();
        if changes {
            STREAM_MEMBERS.iter().for_each(|(member, value)| self.set(member, *value));
        }
        changes
    }

    /// Asks for a whole response.
    pub fn use_whole(&mut self) {
        self.set("stream", "false");
        self.remove("stream_options");
    }

    /// True if it goes to `responses`.
    pub fn is_for_responses(&self) -> bool {
        self.is_for_responses
    }

    /// Sends it to `responses`. It keeps its form until then.
    pub(super) fn use_responses(&mut self) {
        (self.is_changed, self.is_for_responses) = (true, true);
    }

    /// The messages, to be read or changed; a caller that changes some calls [`Document::mark_changed`].
    pub(super) fn turns(&mut self) -> &mut Vec<Turn<'a>> {
        let object = &mut self.object;
        self.turns.get_or_insert_with(|| match object.take(MESSAGES) {
            Some(Cow::Borrowed(text)) => Turn::parse_list(text),
            Some(Cow::Owned(text)) => {
                Turn::parse_list(&text).into_iter().map(Turn::into_owned).collect()
            }
            None => Vec::new(),
        })
    }

    pub(super) fn mark_changed(&mut self) {
        self.is_changed = true;
    }

    /// The request as JSON.
    pub fn to_json(&self) -> String {
        match &self.turns {
            None => self.object.to_json(),
            Some(turns) => {
                let list: Vec<String> = turns.iter().map(Turn::to_json).collect();
                let messages = raw_object::join_items(&list);
                self.object.to_json_with(MESSAGES, &messages)
            }
        }
    }
}
