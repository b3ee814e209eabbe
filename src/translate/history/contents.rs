//! Joins the contents of messages that become one.

use std::borrow::Cow;

use crate::api::openai::request::{Content, ContentPart, MarkedContent, MarkedPart};

/// A content, and media behind it.
pub(super) fn with_media<'a>(content: Content<'a>, media: Vec<ContentPart<'a>>) -> Content<'a> {
    if media.is_empty() {
        return content;
    }
    match content {
        Content::Text(text) => {
            let text = (!text.is_empty()).then_some(ContentPart::Text { text });
            Content::Parts(text.into_iter().chain(media).collect())
        }
        Content::Parts(parts) => Content::Parts(parts.into_iter().chain(media).collect()),
        Content::Marked(mut marked) => {
            marked.parts.extend(media.into_iter().map(unmarked));
            Content::Marked(marked)
        }
    }
}

/// A content, and another one behind it; texts have a blank line between them.
pub(super) fn join<'a>(first: Content<'a>, second: Content<'a>) -> Content<'a> {
    match (first, second) {
        (Content::Text(first), Content::Text(second)) => Content::Text(join_texts(first, second)),
        (first, second) => {
            let (first, second) = (into_marked(first), into_marked(second));
            let text = join_texts(first.text, second.text);
            let parts = first.parts.into_iter().chain(second.parts).collect();
            Content::Marked(MarkedContent { text, parts })
        }
    }
}

/// Two texts with a blank line between them.
pub(super) fn join_texts<'a>(first: Cow<'a, str>, second: Cow<'a, str>) -> Cow<'a, str> {
    match (&*first, &*second) {
        (_, "") => first,
        ("", _) => second,
        (first, second) => Cow::Owned(format!("{first}\n\n{second}")),
    }
}

fn unmarked(part: ContentPart<'_>) -> MarkedPart<'_> {
    MarkedPart { part, cache_control: None }
}

fn into_marked(content: Content<'_>) -> MarkedContent<'_> {
    let parts = match content {
        Content::Marked(marked) => return marked,
        Content::Text(text) => {
            let part = ContentPart::Text { text: text.clone() };
            let parts = (!text.is_empty()).then(|| unmarked(part)).into_iter().collect();
            return MarkedContent { text, parts };
        }
        Content::Parts(parts) => parts,
    };
    let text = parts.iter().find_map(|part| match part {
        ContentPart::Text { text } => Some(text.clone()),
        _ => None,
    });
    let parts = parts.into_iter().map(unmarked).collect();
    MarkedContent { text: text.unwrap_or_default(), parts }
}
