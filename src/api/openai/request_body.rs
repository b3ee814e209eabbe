//! The body of a request to an upstream, which need not be in one piece.
//!
//! serde writes the JSON, except for large base64 texts: those are most of the request and are
//! borrowed from it, because a copy would double its memory. A request without such texts is one
//! piece. Never decides what a request says. Invariant: the pieces, one after the other, are what
//! [`serde_json::to_vec`] makes of the request.

use std::borrow::Cow;
use std::io::{self, Read, Write};

use serde::Serialize;

use super::request::{
    ChatRequest, CompletionRequest, Content, ContentPart, EmbeddingRequest, InfillRequest, Message,
};

/// Texts of at least so many bytes are borrowed: below, a copy costs less than one more piece.
pub const MIN_BORROWED_BYTES: usize = 64 * 1024;

/// A request whose body borrows its large texts.
pub trait BorrowedParts: Serialize {
    /// The texts of at least [`MIN_BORROWED_BYTES`] bytes that need no escape in JSON. A text that is
    /// escaped nevertheless is copied.
    fn large_texts(&self) -> Vec<&str> {
        Vec::new()
    }
}

impl BorrowedParts for ChatRequest<'_> {
    fn large_texts(&self) -> Vec<&str> {
        let texts = self.messages.iter().flat_map(media_base64);
        texts.filter(|text| text.len() >= MIN_BORROWED_BYTES).collect()
    }
}

impl BorrowedParts for CompletionRequest<'_> {}
impl BorrowedParts for InfillRequest<'_> {}
impl BorrowedParts for EmbeddingRequest<'_> {}

/// The base64 of a message's images and sounds.
fn media_base64<'a>(message: &'a Message<'_>) -> impl Iterator<Item = &'a str> {
    let (parts, marked) = match &message.content {
        Content::Text(_) => (&[][..], &[][..]),
        Content::Parts(parts) => (parts.as_slice(), &[][..]),
        Content::Marked(marked) => (&[][..], marked.parts.as_slice()),
    };
    let parts = parts.iter().chain(marked.iter().map(|it| &it.part));
    parts.filter_map(ContentPart::base64).map(AsRef::as_ref)
}

/// The body of a request.
#[derive(Debug)]
pub struct RequestBody<'a>(
    /// Written JSON, with the borrowed texts where they stand in it.
    Vec<Cow<'a, [u8]>>,
);

impl<'a> RequestBody<'a> {
    /// The body of this request.
    ///
    /// # Errors
    /// Those of serde.
    pub fn from_request(request: &'a impl BorrowedParts) -> serde_json::Result<Self> {
        let large_texts = request.large_texts();
        if large_texts.is_empty() {
            return Ok(Self(vec![Cow::Owned(serde_json::to_vec(request)?)]));
        }
        let mut writer = BodyWriter { pieces: Vec::new(), large_texts };
        serde_json::to_writer(&mut writer, request)?;
        Ok(Self(writer.pieces))
    }

    /// The body, if it is in one piece.
    pub fn as_single_piece(&self) -> Option<&[u8]> {
        if let [piece] = self.0.as_slice() { Some(piece) } else { None }
    }

    /// The pieces of the body.
    pub fn pieces(&self) -> impl Iterator<Item = &[u8]> {
        self.0.iter().map(AsRef::as_ref)
    }

    /// The length in bytes.
    #[allow(clippy::len_without_is_empty)] // A request is never empty.
    pub fn len(&self) -> usize {
        self.pieces().map(<[u8]>::len).sum()
    }

    /// A reader of the body from its beginning.
    pub fn reader(&self) -> impl Read {
        PieceReader { piece: &[], rest: self.pieces() }
    }
}

/// Collects what serde writes, except for borrowed texts.
struct BodyWriter<'a> {
    pieces: Vec<Cow<'a, [u8]>>,
    large_texts: Vec<&'a str>,
}

impl Write for BodyWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // serde writes a text without escapes in one call, from its own memory.
        let is_held = |text: &&&str| std::ptr::eq(text.as_bytes(), bytes);
        let found = (bytes.len() >= MIN_BORROWED_BYTES)
            .then(|| self.large_texts.iter().find(is_held))
            .flatten();
        match (found, self.pieces.last_mut()) {
            (Some(text), _) => self.pieces.push(Cow::Borrowed(text.as_bytes())),
            (None, Some(Cow::Owned(written))) => written.extend_from_slice(bytes),
            (None, _) => self.pieces.push(Cow::Owned(bytes.to_owned())),
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Fills each buffer completely, across the pieces.
struct PieceReader<'a, I> {
    piece: &'a [u8],
    rest: I,
}

impl<'a, I: Iterator<Item = &'a [u8]>> Read for PieceReader<'a, I> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut filled = 0;
        while filled < buffer.len() {
            if self.piece.is_empty() {
                let Some(next) = self.rest.next() else { break };
                self.piece = next;
            }
            filled += self.piece.read(&mut buffer[filled..])?;
        }
        Ok(filled)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::openai::request::{MarkedContent, MarkedPart, ResponseEffects, StreamOptions};
    use serde_json::Value;
    use serde_json::value::RawValue;

    fn image(data: &str) -> ContentPart<'_> {
        ContentPart::image("image/png".to_owned(), data.into())
    }

    fn request<'a>(messages: Vec<Message<'a>>) -> ChatRequest<'a> {
        let sampling = [("temperature", Value::from(0.5)), ("stop", Value::from(vec!["\n"]))];
        ChatRequest {
            model: "m",
            messages,
            stream: true,
            stream_options: StreamOptions::for_stream(true),
            sampling: sampling.map(|(name, value)| (name.to_owned(), value)).into_iter().collect(),
            response_format: None,
            tools: Vec::new(),
            tool_choice: None,
            may_truncate: false,
            effects: ResponseEffects::default(),
        }
    }

    fn turn<'a>(text: &'a str, media: Vec<ContentPart<'a>>) -> Message<'a> {
        let content = Content::with_media(text, media);
        Message { content, ..Message::text("user", "") }
    }

    /// How many texts are borrowed; the body is what serde makes of the request.
    fn borrowed_count(request: &impl BorrowedParts) -> usize {
        let body = RequestBody::from_request(request).expect("it can be serialised");
        let expected = serde_json::to_vec(request).expect("it can be serialised");
        assert!(body.pieces().collect::<Vec<_>>().concat() == expected);
        assert_eq!(body.len(), expected.len());
        let borrowed = body.0.iter().filter(|piece| matches!(piece, Cow::Borrowed(_))).count();
        assert_eq!(body.as_single_piece().is_some(), borrowed == 0);
        assert!(body.as_single_piece().is_none_or(|whole| whole == expected));
        for size in
            [1, 3, 8 * 1024, MIN_BORROWED_BYTES, expected.len() - 1, expected.len(), 1 << 20]
        {
            let (mut reader, mut read, mut buffer) = (body.reader(), Vec::new(), vec![0; size]);
            loop {
                let length = reader.read(&mut buffer).expect("it reads memory");
                read.extend_from_slice(&buffer[..length]);
                // Each write to the upstream is as large as it can be.
                if length < size {
                    break;
                }
            }
            assert!(read == expected, "{size}");
        }
        borrowed
    }

    #[test]
    fn large_media_are_borrowed_and_nothing_else_is() {
        let (large, larger, small) = (
            "A".repeat(MIN_BORROWED_BYTES),
            "b+/=".repeat(MIN_BORROWED_BYTES),
            "C".repeat(MIN_BORROWED_BYTES - 1),
        );
        let sound = || ContentPart::audio(large.as_str().into(), "wav");
        let check = |messages: Vec<Message<'_>>, expected: usize| {
            assert_eq!(borrowed_count(&request(messages)), expected);
        };
        check(vec![], 0);
        check(vec![Message::text("user", "Hi \"you\" \u{1}😀")], 0);
        check(vec![Message::text("user", large.as_str())], 0);
        check(vec![turn("What?", vec![image(&small)])], 0);
        check(vec![turn("What?", vec![image(&large)])], 1);
        check(vec![turn("", vec![image(&large)])], 1);
        check(vec![turn("a", vec![image(&larger), image(&small), sound()])], 2);
        // The same text twice, and with another in between that has its length.
        let other = "D".repeat(MIN_BORROWED_BYTES);
        let images = || vec![image(&large), image(&other), image(&large)];
        check(vec![turn("a\n", images()), Message::text("assistant", "b"), turn("c", images())], 6);
        // Parts with marks.
        let parts = [image(&large), image(&small), image(&larger)];
        let parts = parts.map(|part| MarkedPart { part, cache_control: Some(RawValue::NULL) });
        let content = Content::Marked(MarkedContent { text: "".into(), parts: parts.into() });
        check(vec![Message { content, ..Message::text("user", "") }], 2);
        // A text that is only the beginning of a part.
        check(vec![turn("a", vec![image(&larger), image(&larger[..MIN_BORROWED_BYTES])])], 2);
    }

    #[test]
    fn what_is_not_written_as_it_stands_is_copied() {
        for odd in ["\"", "\\", "\n", "\u{1}"] {
            let data = format!("{0}{odd}{0}", "A".repeat(MIN_BORROWED_BYTES));
            assert_eq!(borrowed_count(&request(vec![turn("a", vec![image(&data)])])), 0);
        }
    }

    #[test]
    fn an_image_costs_its_body_nothing() {
        let large = "A".repeat(1 << 20);
        let request = request(vec![turn("What?", vec![image(&large)])]);
        let body = RequestBody::from_request(&request).expect("it can be serialised");
        for piece in &body.0 {
            assert!(
                matches!(piece, Cow::Owned(written) if written.capacity() < 1024)
                    || **piece == *large.as_bytes()
            );
        }
        assert!(body.pieces().any(|piece| std::ptr::eq(piece, large.as_bytes())));
    }

    #[test]
    fn other_requests_are_in_one_piece() {
        let long = "A".repeat(MIN_BORROWED_BYTES);
        let sampling = serde_json::Map::new();
        assert_eq!(
            borrowed_count(&CompletionRequest {
                model: "m",
                prompt: long.as_str().into(),
                suffix: Some("b"),
                stream: false,
                stream_options: None,
                sampling: sampling.clone(),
                response_format: None,
                effects: ResponseEffects::default(),
            }),
            0
        );
        assert_eq!(
            borrowed_count(&InfillRequest {
                model: "m",
                input_prefix: long.as_str().into(),
                input_suffix: "",
                stream: false,
                sampling,
                json_schema: None,
            }),
            0
        );
        let input = vec![long.as_str().into(), "b".into()];
        assert_eq!(
            borrowed_count(&EmbeddingRequest { model: "m", input, encoding_format: None }),
            0
        );
    }
}
