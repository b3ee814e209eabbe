//! Marks that tell an upstream what to cache (`cache_control`).
//!
//! A request for Anthropic's API marks the end of what is to be cached. Without the marks, a long
//! conversation with one of Anthropic's models costs up to ten times as much. OpenRouter and LiteLLM
//! take them on the parts of a message and on tools (their documents on prompt caching); for all others
//! a content of text stays one string. Never adds a mark, and never changes a text.

use std::borrow::Cow;

use serde_json::value::RawValue;

use crate::api::ollama::request::{MarkedPart as OllamaPart, Message as OllamaMessage};
use crate::api::openai::request::{Content, ContentPart, MarkedContent, MarkedPart};

/// The content of a message that has marks; `plain` is the same content without them.
pub(super) fn to_content<'a>(message: &'a OllamaMessage<'a>, plain: Content<'a>) -> Content<'a> {
    let text = message.content.as_deref().unwrap_or_default();
    let media = match plain {
        Content::Parts(parts) => parts,
        Content::Text(_) | Content::Marked(_) => Vec::new(),
    };
    let mut media = media.into_iter().filter(ContentPart::is_media);
    let mut parts: Vec<_> = message
        .marked_parts
        .iter()
        .filter_map(|part| {
            let cache_control = part.cache_control;
            let part = match part.text.as_deref() {
                Some("") => return None,
                Some(text) => ContentPart::Text { text: text.into() },
                // The images of some roles go into a message of their own.
                None => media.next()?,
            };
            Some(MarkedPart { part, cache_control })
        })
        .collect();
    parts.extend(media.map(|part| MarkedPart { part, cache_control: None }));
    if parts.is_empty() {
        return Content::Text(text.into());
    }
    Content::Marked(MarkedContent { text: text.into(), parts })
}

/// The parts of a message in their order, and whether any has a mark.
#[derive(Default)]
pub(super) struct PartCollector<'a> {
    parts: Vec<OllamaPart<'a>>,
    has_mark: bool,
}

impl<'a> PartCollector<'a> {
    /// Adds a text, or with `None` an image.
    pub(super) fn push(&mut self, text: Option<Cow<'a, str>>, mark: Option<&'a RawValue>) {
        let cache_control = mark.filter(|mark| is_mark(mark));
        self.has_mark |= cache_control.is_some();
        self.parts.push(OllamaPart { text, cache_control });
    }

    /// Marks the last part, unless it has a mark of its own.
    pub(super) fn mark_last(&mut self, mark: Option<&'a RawValue>) {
        let last = self.parts.last_mut().filter(|last| last.cache_control.is_none());
        if let (Some(last), Some(mark)) = (last, mark.filter(|mark| is_mark(mark))) {
            last.cache_control = Some(mark);
            self.has_mark = true;
        }
    }

    /// The parts; none if no part has a mark.
    pub(super) fn finish(self) -> Vec<OllamaPart<'a>> {
        if self.has_mark { self.parts } else { Vec::new() }
    }
}

/// True for an object, the only form of a mark.
pub(super) fn is_mark(value: &RawValue) -> bool {
    value.get().starts_with('{')
}
