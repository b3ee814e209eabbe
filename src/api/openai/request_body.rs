//! The body of a request to an upstream, which need not be in one piece.
//!
//! It is JSON that is written here, but for the images: their base64 is most of a large request and
//! is lent by whoever holds it, because a copy would double what the request costs. A small request
//! is one piece, as it comes from serde. Never decides what a request says: that is what serde writes.
//! Invariant: the pieces, one after the other, are what [`serde_json::to_vec`] makes of the request.

use std::io::{self, Read, Write};

use serde::Serialize;

use super::request::{
    ChatRequest, CompletionRequest, Content, ContentPart, EmbeddingRequest, InfillRequest, Message,
};
use crate::translate::media::Part;

/// Bytes from which on a text is lent: below, a copy costs less than one more piece.
pub const LARGE: usize = 64 * 1024;

/// A request that lends its large texts to its body.
pub trait Lender: Serialize {
    /// The texts of at least [`LARGE`] bytes that are written as they stand, without an escape. One
    /// that is written in another way after all is copied.
    fn large_texts(&self) -> Vec<&str> {
        Vec::new()
    }
}

impl Lender for ChatRequest<'_> {
    fn large_texts(&self) -> Vec<&str> {
        let texts = self.messages.iter().flat_map(media);
        texts.filter(|text| text.len() >= LARGE).collect()
    }
}

impl Lender for CompletionRequest<'_> {}
impl Lender for InfillRequest<'_> {}
impl Lender for EmbeddingRequest<'_> {}

/// The base64 of a message's images and sounds.
fn media<'a>(message: &'a Message<'_>) -> impl Iterator<Item = &'a str> {
    let parts = match &message.content {
        Content::Text(_) => &[],
        Content::Parts(parts) => parts.as_slice(),
    };
    parts.iter().filter_map(|part| match part {
        ContentPart::Text(_) => None,
        ContentPart::Media(Part::Image { data, .. } | Part::Audio { data, .. }) => Some(&**data),
    })
}

/// The body of a request.
#[derive(Debug)]
pub struct Body<'a> {
    /// What is written here.
    text: Vec<u8>,
    /// What is lent, in its order.
    lent: Vec<Lent<'a>>,
}

/// A text that stays where it is.
#[derive(Debug)]
struct Lent<'a> {
    /// Before which byte of what is written it stands.
    before: usize,
    text: &'a str,
}

impl<'a> Body<'a> {
    /// The body of this request.
    ///
    /// # Errors
    /// Those of serde.
    pub fn of(request: &'a impl Lender) -> serde_json::Result<Self> {
        let large = request.large_texts();
        if large.is_empty() {
            return Ok(Self { text: serde_json::to_vec(request)?, lent: Vec::new() });
        }
        let mut writer = Writer { body: Self { text: Vec::new(), lent: Vec::new() }, large };
        serde_json::to_writer(&mut writer, request)?;
        Ok(writer.body)
    }

    /// All of it, if it is in one piece.
    #[must_use]
    pub fn whole(&self) -> Option<&[u8]> {
        self.lent.is_empty().then_some(self.text.as_slice())
    }

    /// All of it.
    pub fn pieces(&self) -> impl Iterator<Item = &[u8]> {
        let starts = std::iter::once(0).chain(self.lent.iter().map(|lent| lent.before));
        let ends = self.lent.iter().map(|lent| lent.before).chain([self.text.len()]);
        let lent = self.lent.iter().map(|lent| lent.text.as_bytes()).chain([[].as_slice()]);
        let pieces = starts.zip(ends).zip(lent);
        pieces.flat_map(|((start, end), lent)| [&self.text[start..end], lent])
    }

    /// How many bytes it has.
    #[must_use]
    #[allow(clippy::len_without_is_empty)] // A request is never empty.
    pub fn len(&self) -> usize {
        self.pieces().map(<[u8]>::len).sum()
    }

    /// Reads it, from its beginning.
    pub fn reader(&self) -> impl Read {
        Reader { piece: &[], rest: self.pieces() }
    }
}

/// Takes what serde writes, but for what is lent.
struct Writer<'a> {
    body: Body<'a>,
    large: Vec<&'a str>,
}

impl Write for Writer<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // A text without an escape comes as it is held: at this place, with this length.
        let is_held = |text: &&&str| std::ptr::eq(text.as_bytes(), bytes);
        let found = (bytes.len() >= LARGE).then(|| self.large.iter().find(is_held)).flatten();
        match found {
            Some(text) => self.body.lent.push(Lent { before: self.body.text.len(), text }),
            None => self.body.text.extend_from_slice(bytes),
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Fills whatever it is given, across the pieces.
struct Reader<'a, I> {
    piece: &'a [u8],
    rest: I,
}

impl<'a, I: Iterator<Item = &'a [u8]>> Read for Reader<'a, I> {
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
    use crate::api::openai::request::StreamOptions;
    use serde_json::Value;

    fn image(data: &str) -> Part<'_> {
        Part::Image { mime: "image/png".to_owned(), data: data.into() }
    }

    fn request<'a>(messages: Vec<Message<'a>>) -> ChatRequest<'a> {
        let sampling = [("temperature", Value::from(0.5)), ("stop", Value::from(vec!["\n"]))];
        ChatRequest {
            model: "m",
            messages,
            stream: true,
            stream_options: StreamOptions::when(true),
            sampling: sampling.map(|(name, value)| (name.to_owned(), value)).into_iter().collect(),
            response_format: None,
            tools: Vec::new(),
            tool_choice: None,
            watched_stop: Vec::new(),
        }
    }

    fn turn<'a>(text: &'a str, media: Vec<Part<'a>>) -> Message<'a> {
        let content = Content::with_media(text, media);
        Message { content, ..Message::text("user", "") }
    }

    /// How many texts are lent; the body is what serde makes of the request.
    fn lent(request: &impl Lender) -> usize {
        let body = Body::of(request).expect("it can be serialised");
        let expected = serde_json::to_vec(request).expect("it can be serialised");
        assert!(body.pieces().collect::<Vec<_>>().concat() == expected);
        assert_eq!(body.len(), expected.len());
        assert_eq!(body.whole().is_some(), body.lent.is_empty());
        assert!(body.whole().is_none_or(|whole| whole == expected));
        for size in [1, 3, 8 * 1024, LARGE, expected.len() - 1, expected.len(), 1 << 20] {
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
        body.lent.len()
    }

    #[test]
    fn large_media_are_lent_and_nothing_else_is() {
        let (large, larger, small) =
            ("A".repeat(LARGE), "b+/=".repeat(LARGE), "C".repeat(LARGE - 1));
        let sound = || Part::Audio { data: large.as_str().into(), format: "wav" };
        let check = |messages: Vec<Message<'_>>, expected: usize| {
            assert_eq!(lent(&request(messages)), expected);
        };
        check(vec![], 0);
        check(vec![Message::text("user", "Hi \"you\" \u{1}😀")], 0);
        check(vec![Message::text("user", large.as_str())], 0);
        check(vec![turn("What?", vec![image(&small)])], 0);
        check(vec![turn("What?", vec![image(&large)])], 1);
        check(vec![turn("", vec![image(&large)])], 1);
        check(vec![turn("a", vec![image(&larger), image(&small), sound()])], 2);
        // The same text twice, and with another in between that has its length.
        let other = "D".repeat(LARGE);
        let images = || vec![image(&large), image(&other), image(&large)];
        check(vec![turn("a\n", images()), Message::text("assistant", "b"), turn("c", images())], 6);
        // A text that a part only begins with.
        check(vec![turn("a", vec![image(&larger), image(&larger[..LARGE])])], 2);
    }

    #[test]
    fn what_is_not_written_as_it_stands_is_copied() {
        for odd in ["\"", "\\", "\n", "\u{1}"] {
            let data = format!("{0}{odd}{0}", "A".repeat(LARGE));
            assert_eq!(lent(&request(vec![turn("a", vec![image(&data)])])), 0);
        }
    }

    #[test]
    fn an_image_costs_its_body_nothing() {
        let large = "A".repeat(1 << 20);
        let request = request(vec![turn("What?", vec![image(&large)])]);
        let body = Body::of(&request).expect("it can be serialised");
        assert!(body.text.capacity() < 1024, "{}", body.text.capacity());
        assert!(body.pieces().any(|piece| std::ptr::eq(piece, large.as_bytes())));
    }

    #[test]
    fn other_requests_are_in_one_piece() {
        let long = "A".repeat(LARGE);
        let sampling = serde_json::Map::new();
        assert_eq!(
            lent(&CompletionRequest {
                model: "m",
                prompt: &long,
                suffix: Some("b"),
                stream: false,
                stream_options: None,
                sampling: sampling.clone(),
                response_format: None,
                watched_stop: Vec::new(),
            }),
            0
        );
        assert_eq!(
            lent(&InfillRequest {
                model: "m",
                input_prefix: &long,
                input_suffix: "",
                stream: false,
                sampling,
                json_schema: None,
            }),
            0
        );
        let input = vec![long.as_str().into(), "b".into()];
        assert_eq!(lent(&EmbeddingRequest { model: "m", input, encoding_format: None }), 0);
    }
}
