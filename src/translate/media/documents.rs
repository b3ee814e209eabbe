//! Documents of OpenAI's and Anthropic's APIs, and images by their address.
//!
//! | document | sent |
//! | --- | --- |
//! | text, by its type or its bytes | its text below its title |
//! | an image | an image |
//! | a PDF | a `file` part for the families that take it (OpenAI, Azure OpenAI, OpenRouter) |
//! | a PDF by its address | the same for OpenRouter |
//! | all others | a line that names what was left out |
//!
//! Never fetches an address. Invariant: a document is never left out without a word, because the model
//! would answer about nothing.

use std::borrow::Cow;

use base64::Engine as _;

use super::standard_base64;
use crate::api::ollama::request::{Attachment, FileSource};
use crate::api::openai::request::{ContentPart, DataUrl, FilePart, ImageUrl, MediaUrl};
use crate::api::wire::base64::BASE64;
use crate::backends::profiles::{FileParts, Profile};

const PDF: &str = "application/pdf";

/// What a message holds of a document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Document<'a> {
    /// A text for the message.
    Text(String),
    /// A medium for the message.
    Attachment(Attachment<'a>),
}

impl Document<'_> {
    /// The same without anything borrowed.
    #[must_use]
    pub fn into_owned(self) -> Document<'static> {
        let owned = |text: Cow<'_, str>| Cow::Owned(text.into_owned());
        match self {
            Self::Text(text) => Document::Text(text),
            Self::Attachment(Attachment::ImageUrl { url, detail }) => {
                let (url, detail) = (owned(url), detail.map(owned));
                Document::Attachment(Attachment::ImageUrl { url, detail })
            }
            Self::Attachment(Attachment::File { name, source }) => {
                let source = match source {
                    FileSource::Base64 { mime, data } => {
                        FileSource::Base64 { mime: owned(mime), data: owned(data) }
                    }
                    FileSource::Url(url) => FileSource::Url(owned(url)),
                };
                Document::Attachment(Attachment::File { name: owned(name), source })
            }
        }
    }
}

/// A document from base64 or from a data URL; `mime` is the type that the client names.
pub fn from_data<'a>(
    name: Option<&str>,
    mime: Option<&str>,
    data: impl Into<Cow<'a, str>>,
) -> Document<'a> {
    match data.into() {
        Cow::Borrowed(data) => read_data(name, mime, data),
        Cow::Owned(data) => read_data(name, mime, &data).into_owned(),
    }
}

fn read_data<'a>(name: Option<&str>, mime: Option<&str>, data: &'a str) -> Document<'a> {
    let (declared, base64) = split_data_url(data.trim());
    let mime = non_blank(mime).or(declared).unwrap_or_default().to_ascii_lowercase();
    let Some(base64) = standard_base64(Cow::Borrowed(base64)) else {
        return Document::Text(unavailable("document", name));
    };
    if base64.starts_with("JVBERi") || mime == PDF {
        let name = Cow::Owned(file_name(name));
        let source = FileSource::Base64 { mime: PDF.into(), data: base64 };
        return Document::Attachment(Attachment::File { name, source });
    }
    if mime.starts_with("image/") {
        let url = Cow::Owned(format!("data:{mime};base64,{base64}"));
        return Document::Attachment(Attachment::ImageUrl { url, detail: None });
    }
    let bytes = BASE64.decode(base64.as_bytes()).unwrap_or_default();
    let is_text = mime.starts_with("text/") || !bytes.contains(&0);
    match String::from_utf8(bytes) {
        Ok(text) if is_text => Document::Text(titled(name, None, &text)),
        Err(error) if mime.starts_with("text/") => {
            let text = String::from_utf8_lossy(error.as_bytes());
            Document::Text(titled(name, None, &text))
        }
        _ => Document::Text(unavailable("document", non_blank(name).or(non_blank(Some(&mime))))),
    }
}

/// A document at an address, which only some upstreams fetch.
pub fn from_url<'a>(name: Option<&str>, url: impl Into<Cow<'a, str>>) -> Document<'a> {
    let url = url.into();
    if url.trim_start().get(..5).is_some_and(|it| it.eq_ignore_ascii_case("data:")) {
        return from_data(name, None, url);
    }
    let last_segment = || url.split(['?', '#']).next()?.rsplit('/').next();
    let name = file_name(non_blank(name).or_else(last_segment));
    if url.trim().is_empty() {
        return Document::Text(unavailable("document", Some(&name)));
    }
    Document::Attachment(Attachment::File { name: name.into(), source: FileSource::Url(url) })
}

/// A text below its title and its context.
pub fn titled(title: Option<&str>, context: Option<&str>, text: &str) -> String {
    let title = non_blank(title).map(|title| format!("Document: {title}"));
    let head: Vec<&str> = title.as_deref().into_iter().chain(non_blank(context)).collect();
    match head.is_empty() {
        true => text.to_owned(),
        false => format!("{}\n\n{text}", head.join("\n")),
    }
}

/// The line that stands for what was left out.
pub fn unavailable(kind: &str, name: Option<&str>) -> String {
    match non_blank(name) {
        Some(name) => format!("[{kind} not available: {name}]"),
        None => format!("[{kind} not available]"),
    }
}

/// The attachments of a message for one upstream.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AttachedParts<'a> {
    /// Those that the upstream takes.
    pub media: Vec<ContentPart<'a>>,
    /// A line for each of the others.
    pub lines: Vec<String>,
}

/// Sorts attachments by what the upstream takes.
pub fn to_parts<'a>(attachments: &'a [Attachment<'a>], profile: &Profile) -> AttachedParts<'a> {
    let mut out = AttachedParts::default();
    for attachment in attachments {
        match attachment {
            Attachment::ImageUrl { url, detail } => {
                let detail = detail.as_deref().map(Cow::Borrowed);
                out.media.push(ContentPart::ImageUrl {
                    image_url: ImageUrl { url: to_image_url(url), detail },
                });
            }
            Attachment::File { name, source } => match to_file_data(source, profile.file_parts) {
                Some(file_data) => {
                    let file = FilePart { filename: Cow::Borrowed(name.as_ref()), file_data };
                    out.media.push(ContentPart::File { file });
                }
                None => out.lines.push(unavailable("document", Some(&describe(name, source)))),
            },
        }
    }
    out
}

/// The URL of an image; one that holds the image itself is brought into its standard form.
fn to_image_url(url: &str) -> MediaUrl<'_> {
    match super::from_text(Cow::Borrowed(url)) {
        Ok(ContentPart::ImageUrl { image_url }) => image_url.url,
        _ => MediaUrl::Remote(Cow::Borrowed(url)),
    }
}

fn to_file_data<'a>(source: &'a FileSource<'a>, takes: FileParts) -> Option<MediaUrl<'a>> {
    match (source, takes) {
        (FileSource::Base64 { mime, data }, FileParts::Data | FileParts::DataAndUrl) => {
            let data = Cow::Borrowed(data.as_ref());
            Some(MediaUrl::Data(DataUrl { mime: mime.to_string(), data }))
        }
        (FileSource::Url(url), FileParts::DataAndUrl) => {
            Some(MediaUrl::Remote(Cow::Borrowed(url.as_ref())))
        }
        _ => None,
    }
}

fn describe(name: &str, source: &FileSource<'_>) -> String {
    match source {
        FileSource::Base64 { mime, .. } => format!("{name} ({mime})"),
        FileSource::Url(url) => format!("{name} ({url})"),
    }
}

/// The type that a data URL declares, and the base64 behind it.
fn split_data_url(text: &str) -> (Option<&str>, &str) {
    let is_data_url = text.get(..5).is_some_and(|it| it.eq_ignore_ascii_case("data:"));
    match text.split_once(',') {
        Some((head, data)) if is_data_url => (non_blank(head[5..].split(';').next()), data),
        _ => (None, text),
    }
}

/// The name of a document; OpenAI refuses a file without one.
fn file_name(name: Option<&str>) -> String {
    non_blank(name).unwrap_or("document.pdf").to_owned()
}

fn non_blank(text: Option<&str>) -> Option<&str> {
    text.map(str::trim).filter(|text| !text.is_empty())
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::backends::profiles;

    fn sent(document: Document<'_>, family: &str) -> Value {
        let attachment = match document {
            Document::Text(text) => return text.into(),
            Document::Attachment(attachment) => [attachment],
        };
        let profile = profiles::find_by_name(family).expect("known");
        let AttachedParts { media, lines } = to_parts(&attachment, profile);
        json!([media, lines])
    }

    #[test]
    fn text_comes_below_its_title() {
        let data = BASE64.encode("a,b\n1,2");
        let plain = "Document: t.csv\n\na,b\n1,2";
        for mime in [Some("text/csv"), Some("application/json"), None] {
            assert_eq!(sent(from_data(Some("t.csv"), mime, data.as_str()), "generic"), plain);
        }
        let url = format!("data:text/plain;base64,{data}");
        assert_eq!(sent(from_data(None, None, url.as_str()), "generic"), "a,b\n1,2");
        let latin = BASE64.encode(b"caf\xe9");
        assert_eq!(
            sent(from_data(None, Some("text/plain"), latin.as_str()), "generic"),
            "caf\u{fffd}"
        );
        assert_eq!(titled(Some("T"), Some("c"), "x"), "Document: T\nc\n\nx");
    }

    #[test]
    fn a_pdf_goes_to_the_families_that_take_it_and_is_named_to_others() {
        let data = BASE64.encode("%PDF-1.7 x");
        let part = json!({"type": "file", "file": {"filename": "r.pdf",
            "file_data": format!("data:application/pdf;base64,{data}")}});
        for family in ["openai", "azure", "openrouter"] {
            for mime in [Some("application/pdf"), Some("application/octet-stream"), None] {
                let found = sent(from_data(Some("r.pdf"), mime, data.as_str()), family);
                assert_eq!(found, json!([[part], []]), "{family}");
            }
        }
        let line = "[document not available: r.pdf (application/pdf)]";
        let found = sent(from_data(Some("r.pdf"), None, data.as_str()), "vllm");
        assert_eq!(found, json!([[], [line]]));
    }

    #[test]
    fn an_address_goes_where_it_is_fetched() {
        let url = "https://x.test/a/r.pdf?y=1";
        let part = json!({"type": "file", "file": {"filename": "r.pdf", "file_data": url}});
        assert_eq!(sent(from_url(None, url), "openrouter"), json!([[part], []]));
        let line = format!("[document not available: Report ({url})]");
        assert_eq!(sent(from_url(Some("Report"), url), "openai"), json!([[], [line]]));
        let data = format!("data:text/plain;base64,{}", BASE64.encode("Hi"));
        assert_eq!(sent(from_url(None, data.as_str()), "openai"), "Hi");
    }

    #[test]
    fn images_are_images_and_the_rest_is_named() {
        let image = sent(from_data(None, Some("image/PNG"), "iVBORw0KGgo="), "generic");
        let url = "data:image/png;base64,iVBORw0KGgo=";
        let part = json!({"type": "image_url", "image_url": {"url": url}});
        assert_eq!(image, json!([[part], []]));
        let zip = BASE64.encode(b"PK\x03\x04\0\0");
        let found = sent(from_data(Some("a.zip"), Some("application/zip"), zip.as_str()), "openai");
        assert_eq!(found, "[document not available: a.zip]");
        assert_eq!(sent(from_data(None, None, "?!"), "openai"), "[document not available]");
    }
}
