//! The contents of one turn or of one result.
//!
//! Invariant: the texts stand in the order in which they came; a paragraph is apart from its neighbours
//! by a blank line.

use std::borrow::Cow;
use std::collections::HashMap;

use serde_json::value::RawValue;

use crate::api::anthropic::request::{ContentBlock, Source, parse_blocks};
use crate::api::ollama::decode::{GoString, non_empty};
use crate::api::ollama::request::{Attachment, Message as OllamaMessage, ToolCall};
use crate::error::{Error, Result};
use crate::translate::cache_marks::PartCollector;
use crate::translate::media;
use crate::translate::media::documents::{self, Document, titled, unavailable};

/// The contents of one turn or of one result.
#[derive(Default)]
pub(super) struct TurnBuilder<'a> {
    texts: Vec<Cow<'a, str>>,
    /// True if the last text is a paragraph.
    ends_paragraph: bool,
    thinking: Vec<Cow<'a, str>>,
    images: Vec<&'a RawValue>,
    attachments: Vec<Attachment<'a>>,
    pub calls: Vec<ToolCall<'a>>,
    /// The ids of the calls, each with the last number that was put behind it.
    call_ids: HashMap<String, u32>,
    parts: PartCollector<'a>,
}

impl<'a> TurnBuilder<'a> {
    /// Adds a text right behind the one before.
    pub fn push_text(&mut self, text: Cow<'a, str>, mark: Option<&'a RawValue>) {
        self.add_text(text, false, mark);
    }

    /// Adds a text that is apart from its neighbours.
    pub fn push_paragraph(&mut self, text: Cow<'a, str>, mark: Option<&'a RawValue>) {
        self.add_text(text, true, mark);
    }

    fn add_text(&mut self, text: Cow<'a, str>, is_paragraph: bool, mark: Option<&'a RawValue>) {
        if text.is_empty() {
            return;
        }
        let is_apart = is_paragraph || self.ends_paragraph;
        self.ends_paragraph = is_paragraph;
        let breaks = self.texts.last().map_or(0, |before| missing_breaks(before, &text));
        let text = match breaks {
            0 => text,
            _ if !is_apart => text,
            _ => Cow::Owned(format!("{}{text}", &"\n\n"[..breaks])),
        };
        self.parts.push(Some(text.clone()), mark);
        self.texts.push(text);
    }

    /// Adds the reasoning of an assistant.
    pub fn push_thinking(&mut self, thinking: Cow<'a, str>) {
        self.thinking.push(thinking);
    }

    /// An id that no other call of the turn has: the same, or with a number behind it.
    pub fn unique_id(&mut self, id: &'a str) -> Cow<'a, str> {
        let mut unique = Cow::Borrowed(id);
        let mut number = self.call_ids.get(id).copied().unwrap_or(1);
        while self.call_ids.contains_key(&*unique) {
            number += 1;
            unique = Cow::Owned(format!("{id}_{number}"));
        }
        self.call_ids.insert(unique.to_string(), 1);
        self.call_ids.insert(id.to_owned(), number);
        unique
    }

    /// Adds the mark of a cache to the last part.
    pub fn mark_last(&mut self, mark: Option<&'a RawValue>) {
        self.parts.mark_last(mark);
    }

    /// Adds a block of content, which is of a text, an image, a document or a search result; returns
    /// false for all others.
    pub fn push_content(&mut self, block: ContentBlock<'a>) -> Result<bool> {
        let mark = block.cache_control;
        match block.kind() {
            "text" => self.push_text(block.text.unwrap_or_default().0, mark),
            "image" => self.push_image(&block)?,
            "document" => self.push_document(&block)?,
            "search_result" => self.push_paragraph(search_result(&block).into(), mark),
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// The base64 is checked here for the error texts of this API.
    fn push_image(&mut self, block: &ContentBlock<'a>) -> Result<()> {
        let source = source(block);
        match (source.kind.as_deref().unwrap_or_default(), source.data, source.url) {
            ("base64", Some(data), _) if data.get().starts_with('"') => {
                media::parse_part(data).map_err(|error| {
                    let reason = format!("invalid base64 image data: {}", error.message());
                    Error::invalid_request(reason)
                })?;
                self.images.push(data);
            }
            ("url", _, Some(url)) if !url.is_empty() => {
                self.attachments.push(Attachment::ImageUrl { url: url.0, detail: None });
            }
            _ => {
                self.push_paragraph(unavailable("image", None).into(), block.cache_control);
                return Ok(());
            }
        }
        self.parts.push(None, block.cache_control);
        Ok(())
    }

    fn push_document(&mut self, block: &ContentBlock<'a>) -> Result<()> {
        let source = source(block);
        let title = block.title.as_deref();
        let context = block.context.as_deref();
        let mark = block.cache_control;
        let text = source.data.map(text_of).unwrap_or_default();
        let document = match source.kind.as_deref().unwrap_or_default() {
            "text" => {
                self.push_paragraph(titled(title, context, &text).into(), mark);
                return Ok(());
            }
            "content" => return self.push_blocks_of_document(block, source.content),
            "base64" => documents::from_data(title, source.media_type.as_deref(), text),
            "url" => documents::from_url(title, source.url.unwrap_or_default().0),
            _ => Document::Text(unavailable("document", title)),
        };
        if let Some(context) = non_empty(context) {
            self.push_paragraph(Cow::Owned(context.to_owned()), None);
        }
        match document {
            Document::Text(text) => self.push_paragraph(text.into(), mark),
            Document::Attachment(attachment) => {
                self.attachments.push(attachment);
                self.parts.push(None, mark);
            }
        }
        Ok(())
    }

    /// A document that consists of texts and images.
    fn push_blocks_of_document(
        &mut self,
        block: &ContentBlock<'a>,
        content: Option<&'a RawValue>,
    ) -> Result<()> {
        let (mut texts, mut images) = (Vec::new(), Vec::new());
        for inner in content.map(parse_blocks).unwrap_or_default() {
            match inner.kind() {
                "text" => texts.extend(inner.text.map(|text| text.0)),
                "image" => images.push(inner),
                _ => {}
            }
        }
        let text = titled(block.title.as_deref(), block.context.as_deref(), &texts.concat());
        self.push_paragraph(text.into(), block.cache_control);
        images.iter().try_for_each(|image| self.push_image(image))
    }

    /// The texts as one, before all else.
    pub fn prefix_text(&mut self, prefix: impl Fn(&str) -> String) {
        let text = prefix(&std::mem::take(&mut self.texts).concat());
        // The text has changed, so it is one part.
        self.parts = PartCollector::default();
        self.parts.push(Some(Cow::Owned(text.clone())), None);
        self.texts.push(text.into());
    }

    /// True if nothing was added.
    pub fn is_empty(&self) -> bool {
        let is_silent = |texts: &[Cow<'_, str>]| texts.iter().all(|text| text.is_empty());
        is_silent(&self.texts)
            && is_silent(&self.thinking)
            && self.images.is_empty()
            && self.attachments.is_empty()
            && self.calls.is_empty()
    }

    /// The message.
    pub fn finish(self, role: &'static str) -> OllamaMessage<'a> {
        OllamaMessage {
            role: Some(GoString(role.into())),
            content: concat(self.texts),
            thinking: concat(self.thinking),
            images: Some(self.images),
            tool_calls: Some(self.calls),
            marked_parts: self.parts.finish(),
            attachments: self.attachments,
            ..OllamaMessage::default()
        }
    }
}

/// The number of line breaks that are missing for a blank line between two texts.
fn missing_breaks(before: &str, after: &str) -> usize {
    let ends = before.len() - before.trim_end_matches('\n').len();
    let begins = after.len() - after.trim_start_matches('\n').len();
    2_usize.saturating_sub(ends + begins)
}

/// Several texts as one.
fn concat<'a>(mut texts: Vec<Cow<'a, str>>) -> Option<GoString<'a>> {
    match texts.len() {
        0 | 1 => texts.pop().map(GoString),
        _ => Some(GoString(texts.concat().into())),
    }
}

/// The source of an image or a document.
fn source<'a>(block: &ContentBlock<'a>) -> Source<'a> {
    let read = block.source.map(|source| serde_json::from_str(source.get()));
    read.and_then(std::result::Result::ok).unwrap_or_default()
}

/// The text that a JSON value is; empty for other values.
pub(super) fn text_of(raw: &RawValue) -> Cow<'_, str> {
    let json = raw.get();
    match json.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')) {
        Some(text) if !text.contains('\\') => Cow::Borrowed(text),
        Some(_) => Cow::Owned(serde_json::from_str(json).unwrap_or_default()),
        None => Cow::Borrowed(""),
    }
}

/// A search result as text: its title, where it is from, and what it says.
fn search_result(block: &ContentBlock<'_>) -> String {
    let mut lines = Vec::new();
    if let Some(title) = non_empty(block.title.as_deref()) {
        lines.push(format!("Search result: {title}"));
    }
    let source = block.source.map(text_of).unwrap_or_default();
    if !source.is_empty() {
        lines.push(format!("Source: {source}"));
    }
    let texts = block.inner_blocks().into_iter().filter_map(|inner| inner.text);
    lines.extend(texts.map(|text| text.0.into_owned()));
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_with_one_id_get_different_ones_however_many_there_are() {
        let mut turn = TurnBuilder::default();
        let found = ["a", "a_3", "a", "a", "b", "a"].map(|id| turn.unique_id(id));
        assert_eq!(found, ["a", "a_3", "a_2", "a_4", "b", "a_5"]);
        let last = (0..20_000).map(|_| turn.unique_id("c")).last();
        assert_eq!(last.as_deref(), Some("c_20000"));
    }
}
