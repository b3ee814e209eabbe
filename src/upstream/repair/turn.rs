//! One message of a [`Document`](super::document::Document).
//!
//! Its members keep their text until they are changed. Never knows which messages may follow each other.
//! Invariant: no text, image or call is lost by a change.

use std::borrow::Cow;

use crate::api::openai::raw_object;
use crate::api::openai::raw_object::RawObject;

/// A message.
#[derive(Clone, Debug)]
pub(super) struct Turn<'a> {
    pub object: RawObject<'a>,
    /// What the assistant thought, where the client sent it or it was kept; not a member.
    pub thinking: Option<String>,
}

impl<'a> Turn<'a> {
    /// The messages of a list; none if it is no list of objects.
    pub fn parse_list(text: &'a str) -> Vec<Self> {
        let items = raw_object::parse_items(text).unwrap_or_default();
        items.into_iter().filter_map(RawObject::parse).map(Self::from_object).collect()
    }

    fn from_object(object: RawObject<'a>) -> Self {
        Self { object, thinking: None }
    }

    /// A message of text.
    pub fn text(role: &str, text: &str) -> Self {
        let mut object = RawObject::default();
        object.set("role", raw_object::quote_json(role));
        object.set("content", raw_object::quote_json(text));
        Self::from_object(object)
    }

    /// The result of a call.
    pub fn result(id: &str, text: &str) -> Self {
        let mut turn = Self::text("tool", text);
        turn.object.set("tool_call_id", raw_object::quote_json(id));
        turn
    }

    pub fn into_owned(self) -> Turn<'static> {
        Turn { object: self.object.into_owned(), thinking: self.thinking }
    }

    pub fn to_json(&self) -> String {
        self.object.to_json()
    }

    pub fn role(&self) -> String {
        self.object.get_string("role").unwrap_or_default()
    }

    pub fn is(&self, role: &str) -> bool {
        self.role() == role
    }

    pub fn is_system(&self) -> bool {
        matches!(self.role().as_str(), "system" | "developer")
    }

    pub fn set_role(&mut self, role: &str) {
        self.object.set("role", raw_object::quote_json(role));
    }

    pub fn content(&self) -> Option<&str> {
        self.object.get("content").filter(|content| *content != "null")
    }

    /// The parts of a content that is a list.
    pub fn parts(&self) -> Option<Vec<&str>> {
        self.content().filter(|content| content.starts_with('[')).and_then(raw_object::parse_items)
    }

    /// Its text; that of several parts is joined by blank lines. Empty without any.
    pub fn as_text(&self) -> String {
        let Some(content) = self.content() else { return String::new() };
        if content.starts_with('"') {
            return serde_json::from_str(content).unwrap_or_default();
        }
        let parts = self.parts().unwrap_or_default();
        let texts = parts.iter().filter_map(|part| RawObject::parse(part)?.get_string("text"));
        texts.filter(|text| !text.is_empty()).collect::<Vec<_>>().join("\n\n")
    }

    /// True if it has a part that is no text.
    pub fn has_media(&self) -> bool {
        self.parts().is_some_and(|parts| parts.iter().any(|part| !is_text_part(part)))
    }

    /// The calls of an assistant.
    pub fn calls(&self) -> Vec<RawObject<'_>> {
        let calls = self.object.get("tool_calls").and_then(raw_object::parse_items);
        calls.unwrap_or_default().into_iter().filter_map(RawObject::parse).collect()
    }

    pub fn has_calls(&self) -> bool {
        !self.calls().is_empty()
    }

    /// True if the client sent what the assistant thought.
    pub fn has_reasoning(&self) -> bool {
        let says = |member| self.object.get_string(member).is_some_and(|text| !text.is_empty());
        self.thinking.is_some() || ["reasoning_content", "reasoning"].into_iter().any(says)
    }

    pub fn set_calls(&mut self, calls: &[String]) {
        if calls.is_empty() {
            self.object.remove("tool_calls");
        } else {
            self.object.set("tool_calls", raw_object::join_items(calls));
        }
    }

    /// The ids of its calls.
    pub fn call_ids(&self) -> Vec<String> {
        self.calls().iter().map(|call| call.get_string("id").unwrap_or_default()).collect()
    }

    /// The id of the call that it answers.
    pub fn answered_id(&self) -> Option<String> {
        self.object.get_string("tool_call_id")
    }

    /// True if it says nothing: no text but white space, no image, no call.
    pub fn is_empty(&self) -> bool {
        self.as_text().trim().is_empty() && !self.has_media() && !self.has_calls()
    }

    /// True if it holds words of the assistant that a server may continue.
    pub fn is_prefill(&self) -> bool {
        self.is("assistant") && !self.has_calls() && !self.as_text().trim().is_empty()
    }

    pub fn set_text(&mut self, text: &str) {
        self.object.set("content", raw_object::quote_json(text));
    }

    /// Puts a text before its own.
    pub fn prepend_text(&mut self, text: &str) {
        let content = join_contents(Some(&raw_object::quote_json(text)), self.content());
        self.object.set("content", content);
    }

    /// Puts a text behind its own.
    pub fn append_text(&mut self, text: &str) {
        let content = join_contents(self.content(), Some(&raw_object::quote_json(text)));
        self.object.set("content", content);
    }

    /// Adds the content and the calls of the message behind it.
    pub fn merge(&mut self, next: &Turn<'_>) {
        if next.content().is_some() || self.content().is_some() {
            let content = join_contents(self.content(), next.content());
            self.object.set("content", content);
        }
        let mut calls: Vec<String> = self.calls().iter().map(RawObject::to_json).collect();
        calls.extend(next.calls().iter().map(RawObject::to_json));
        self.set_calls(&calls);
        for member in ["reasoning_content", "reasoning_details"] {
            if let (None, Some(value)) = (self.object.get(member), next.object.get(member)) {
                self.object.set(member, value.to_owned());
            }
        }
        self.thinking = self.thinking.take().or_else(|| next.thinking.clone());
    }
}

/// Two contents as one: texts with a blank line between them, or the parts of both in order.
fn join_contents(first: Option<&str>, second: Option<&str>) -> Cow<'static, str> {
    let is_nothing = |content: &&str| matches!(*content, "\"\"" | "[]");
    let contents = [first, second].map(|it| it.filter(|it| !is_nothing(it)));
    let [Some(first), Some(second)] = contents else {
        return Cow::Owned(contents[0].or(contents[1]).unwrap_or("\"\"").to_owned());
    };
    let as_text = |content: &str| serde_json::from_str::<String>(content).ok();
    if let (Some(first), Some(second)) = (as_text(first), as_text(second)) {
        return Cow::Owned(raw_object::quote_json(&format!("{first}\n\n{second}")));
    }
    let parts = |content: &str| match as_text(content) {
        Some(text) => vec![text_part(&text)],
        None => {
            let parts = raw_object::parse_items(content).unwrap_or_default();
            parts.into_iter().map(str::to_owned).collect()
        }
    };
    let all: Vec<String> = parts(first).into_iter().chain(parts(second)).collect();
    Cow::Owned(raw_object::join_items(&all))
}

fn text_part(text: &str) -> String {
    format!("{{\"type\":\"text\",\"text\":{}}}", raw_object::quote_json(text))
}

pub(super) fn is_text_part(part: &str) -> bool {
    RawObject::parse(part).is_some_and(|part| part.get_string("text").is_some())
}
