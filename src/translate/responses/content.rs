//! Translates the content of a message or the output of a call: texts, and the parts beside them.
//!
//! | part | translation |
//! | --- | --- |
//! | `input_text`, `output_text`, `text` and other texts, `refusal` | text |
//! | `input_image` | an image, by its data URL or its URL; `detail` `original` is `high` |
//! | `input_file` | the text of a text file, a PDF as a file, else a line that names it |
//! | `input_audio` | a sound, or a line |
//! | `encrypted_content` | nothing: only OpenAI's servers can read it |
//! | all others | left out, and told in the log |
//!
//! Never fails, because one part must not end a session. Invariant: what is left out of the user's own
//! words, images and files is named in the text, so that the model does not answer about nothing.

use std::borrow::Cow;

use serde_json::value::RawValue;

use crate::api::ollama::request::Attachment;
use crate::api::openai::request::ContentPart;
use crate::api::openai::responses_input::{Members, elements, non_empty_text, text};
use crate::translate::media;
use crate::translate::media::documents::{self, Document};
use crate::translate::skipped::{Skipped, SkippedKind};
use crate::translate::tool_calls::compact_json;

/// A content.
#[derive(Debug, Default)]
pub(super) struct InputContent<'a> {
    pub text: Cow<'a, str>,
    /// Sounds, in the form of Ollama's `images`.
    pub sounds: Vec<&'a RawValue>,
    pub attachments: Vec<Attachment<'a>>,
}

/// What stands between two texts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Joint {
    /// Nothing, as between the texts of a message in Ollama.
    Nothing,
    /// A line break, as between the texts of an output.
    LineBreak,
}

/// Reads a content: a text, a list of parts, or one part. Any other value is its JSON.
pub(super) fn read<'a>(
    raw: Option<&'a RawValue>,
    joint: Joint,
    skipped: &mut Skipped,
) -> InputContent<'a> {
    let mut out = Collector { content: InputContent::default(), joint, is_block: false, skipped };
    let Some(raw) = raw else { return out.content };
    match raw.get().as_bytes().first() {
        Some(b'[') => elements(Some(raw)).into_iter().for_each(|part| out.push_element(part)),
        Some(b'{') if has_type(raw) => out.push_element(raw),
        Some(b'{') => out.push_text(Cow::Owned(compact_json(raw.get()))),
        _ => out.push_text(text(Some(raw)).unwrap_or_default()),
    }
    out.content
}

fn has_type(raw: &RawValue) -> bool {
    let part = Members::parse(Some(raw));
    part.is_some_and(|part| non_empty_text(part.get("type")).is_some())
}

/// The content so far.
struct Collector<'a, 's> {
    content: InputContent<'a>,
    joint: Joint,
    /// True if the text ends with a block that stands in lines of its own.
    is_block: bool,
    skipped: &'s mut Skipped,
}

impl<'a> Collector<'a, '_> {
    fn push_element(&mut self, raw: &'a RawValue) {
        if let Some(text) = text(Some(raw)) {
            return self.push_text(text);
        }
        let Some(part) = Members::parse(Some(raw)) else {
            return self.skipped.note(SkippedKind::Part, "");
        };
        let kind = non_empty_text(part.get("type"));
        match kind.as_deref().unwrap_or_else(|| guess_type(&part)) {
            "input_text" | "output_text" | "text" | "summary_text" | "reasoning_text" => {
                self.push_text(text(part.get("text")).unwrap_or_default());
            }
            "refusal" => {
                self.push_text(text(part.get("refusal").or(part.get("text"))).unwrap_or_default())
            }
            "input_image" | "image_url" => self.push_image(&part),
            "input_file" | "file" => self.push_file(&part),
            "input_audio" => self.push_sound(&part),
            "encrypted_content" => {}
            other => self.skipped.note(SkippedKind::Part, other),
        }
    }

    fn push_text(&mut self, more: Cow<'a, str>) {
        let is_new_line = self.joint == Joint::LineBreak || self.is_block;
        self.is_block = false;
        self.append(more, is_new_line);
    }

    /// Adds lines that no other text may touch.
    fn push_block(&mut self, lines: String) {
        self.append(Cow::Owned(lines), true);
        self.is_block = true;
    }

    fn append(&mut self, more: Cow<'a, str>, is_new_line: bool) {
        let text = &mut self.content.text;
        if text.is_empty() {
            // A single text, the common case, is not copied.
            *text = more;
        } else if !more.is_empty() {
            let text = text.to_mut();
            if is_new_line && !text.ends_with('\n') {
                text.push('\n');
            }
            text.push_str(&more);
        }
    }

    fn push_image(&mut self, part: &Members<'a>) {
        let nested = Members::parse(part.get("image_url"));
        let (url, detail) = match &nested {
            Some(nested) => {
                (text(nested.get("url")), text(nested.get("detail").or(part.get("detail"))))
            }
            None => (text(part.get("image_url")), text(part.get("detail"))),
        };
        match url.filter(|url| !url.trim().is_empty()) {
            Some(url) => self.push_image_url(url, detail.as_deref()),
            // An image in OpenAI's storage.
            None if part.get("file_id").is_some() => self.push_unavailable("image", None),
            None => {}
        }
    }

    fn push_image_url(&mut self, url: Cow<'a, str>, detail: Option<&str>) {
        if has_prefix(&url, "data:") {
            let is_image = matches!(mime_class(&url), "" | "image");
            if !is_image && !has_prefix(&url, "data:application/octet-stream") {
                return self.push_document(None, url);
            }
            let part = media::from_text(Cow::Borrowed(&url));
            if !matches!(part, Ok(ContentPart::ImageUrl { .. })) {
                return self.push_unavailable("image", None);
            }
        } else if !["http://", "https://"].iter().any(|scheme| has_prefix(&url, scheme)) {
            return self.push_unavailable("image", None);
        }
        let detail = match detail {
            Some("low") => Some("low".into()),
            // The full resolution, which only `responses` has a word for.
            Some("high" | "original") => Some("high".into()),
            _ => None,
        };
        self.content.attachments.push(Attachment::ImageUrl { url, detail });
    }

    fn push_file(&mut self, part: &Members<'a>) {
        let nested = Members::parse(part.get("file")).unwrap_or_default();
        let name = non_empty_text(part.get("filename").or(nested.get("filename")));
        let name = name.as_deref();
        let data = non_empty_text(part.get("file_data").or(nested.get("file_data")));
        let url = non_empty_text(part.get("file_url").or(nested.get("file_url")));
        match (data, url) {
            (Some(data), _) => self.push_document(name, data),
            (None, Some(url)) => self.push_read_document(documents::from_url(name, url)),
            (None, None) => {
                let id = text(part.get("file_id").or(nested.get("file_id")));
                self.push_unavailable("document", name.or(id.as_deref()));
            }
        }
    }

    /// A document as a data URL or in base64.
    fn push_document(&mut self, name: Option<&str>, data: Cow<'a, str>) {
        self.push_read_document(documents::from_data(name, None, data));
    }

    fn push_read_document(&mut self, document: Document<'a>) {
        match document {
            Document::Text(text) => self.push_block(text),
            Document::Attachment(attachment) => self.content.attachments.push(attachment),
        }
    }

    fn push_sound(&mut self, part: &Members<'a>) {
        let nested = Members::parse(part.get("input_audio"));
        let sound = part.get("audio_url").or(nested.and_then(|nested| nested.get("data")));
        let is_sound =
            |raw: &&RawValue| matches!(media::parse_part(raw), Ok(ContentPart::InputAudio { .. }));
        match sound.filter(is_sound) {
            Some(sound) => self.content.sounds.push(sound),
            None => self.push_unavailable("sound", None),
        }
    }

    fn push_unavailable(&mut self, kind: &str, name: Option<&str>) {
        self.push_block(documents::unavailable(kind, name));
    }
}

/// The type of a part that has none, from its other members.
fn guess_type(part: &Members<'_>) -> &'static str {
    if part.get("text").is_some() {
        "input_text"
    } else if part.get("image_url").is_some() {
        "input_image"
    } else if part.get("file_data").is_some() || part.get("file_url").is_some() {
        "input_file"
    } else {
        ""
    }
}

fn has_prefix(text: &str, prefix: &str) -> bool {
    let start = text.trim_start().get(..prefix.len());
    start.is_some_and(|start| start.eq_ignore_ascii_case(prefix))
}

/// The first half of a data URL's MIME type, such as `image`.
fn mime_class(url: &str) -> &str {
    let declared = url.trim_start().get("data:".len()..).unwrap_or_default();
    let end = declared.find(['/', ';', ',']).unwrap_or(declared.len());
    declared[..end].trim()
}
