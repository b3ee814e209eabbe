//! Lines of a stream, and the content tokens in them, in both shapes: Ollama's NDJSON lines and OpenAI's
//! server-sent events. Pure. A line is searched for the few words that matter, not parsed.
//!
//! Invariant: the lines do not depend on where the stream was cut.

use memchr::{memchr, memmem::Finder};

/// No line is longer than this.
const MAX_LINE: usize = 1 << 20;

/// Which API is spoken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Api {
    /// NDJSON; the last line has `"done":true`.
    Ollama,
    /// Server-sent events; the last one is `[DONE]`.
    OpenAi,
}

/// Puts together the lines that were cut.
#[derive(Debug, Default)]
pub struct Lines {
    carry: Vec<u8>,
}

impl Lines {
    /// Gives each line that ends in the piece, without its end. False where a line is too long.
    pub fn push(&mut self, piece: &[u8], mut line: impl FnMut(&[u8])) -> bool {
        let mut rest = piece;
        if !self.carry.is_empty() {
            let Some(end) = memchr(b'\n', rest) else { return self.keep(rest) };
            self.carry.extend_from_slice(&rest[..end]);
            line(&self.carry);
            self.carry.clear();
            rest = &rest[end + 1..];
        }
        while let Some(end) = memchr(b'\n', rest) {
            line(&rest[..end]);
            rest = &rest[end + 1..];
        }
        self.keep(rest)
    }

    /// Forgets what was kept of a line.
    pub fn clear(&mut self) {
        self.carry.clear();
    }

    fn keep(&mut self, rest: &[u8]) -> bool {
        self.carry.extend_from_slice(rest);
        self.carry.len() <= MAX_LINE
    }
}

/// What a line holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Found<'a> {
    /// A content token: its text, as JSON spells it, and what follows it in the line.
    pub token: Option<&'a [u8]>,
    /// It is the line that ends the stream.
    pub end: bool,
}

/// Searches lines.
pub struct Search {
    api: Api,
    content: Finder<'static>,
    done: Finder<'static>,
}

impl Search {
    /// For one API.
    pub fn new(api: Api) -> Self {
        Self { api, content: Finder::new(b"\"content\":\""), done: Finder::new(b"\"done\":true") }
    }

    /// What the line holds. Empty content is no token.
    pub fn line<'a>(&self, line: &'a [u8]) -> Found<'a> {
        if line.len() < b"data: [DONE]".len() {
            return Found::default();
        }
        let text = self.content.find(line).map(|at| &line[at + self.content.needle().len()..]);
        let token = text.filter(|text| text.first().is_some_and(|&byte| byte != b'"'));
        let end = match self.api {
            Api::Ollama => self.done.find(text.unwrap_or(line)).is_some(),
            Api::OpenAi => token.is_none() && line.trim_ascii_end() == b"data: [DONE]",
        };
        Found { token, end }
    }
}

/// The number that the text begins with.
pub fn number(text: &[u8]) -> Option<u64> {
    let digits = text.iter().take_while(|byte| byte.is_ascii_digit()).take(19);
    let mut any = false;
    let number = digits.fold(0, |number, &byte| {
        any = true;
        number * 10 + u64::from(byte - b'0')
    });
    any.then_some(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    const OLLAMA: &str = "{\"model\":\"m\",\"message\":{\"role\":\"assistant\",\"content\":\" w0\"},\"done\":false}\n\
        {\"model\":\"m\",\"message\":{\"role\":\"assistant\",\"content\":\"\\\"\"},\"done\":false}\n\
        {\"model\":\"m\",\"message\":{\"role\":\"assistant\",\"content\":\"\"},\"done\":true}\n";
    const OPENAI: &str = "data: {\"choices\":[{\"delta\":{\"role\":\"assistant\",\"content\":\"\"}}]}\n\n\
        data: {\"choices\":[{\"delta\":{\"content\":\" w0\"}}]}\n\n\
        data: {\"choices\":[{\"delta\":{\"content\":\"\\\"\"}}]}\r\n\r\n\
        data: {\"choices\":[{\"delta\":{},\"finish_reason\":\"stop\"}]}\n\ndata: [DONE]\n\n";

    /// The tokens up to the next quote, and how many lines ended the stream.
    fn read(api: Api, pieces: &[&str]) -> (Vec<String>, usize) {
        let (search, mut lines) = (Search::new(api), Lines::default());
        let (mut tokens, mut ends) = (Vec::new(), 0);
        for piece in pieces {
            assert!(lines.push(piece.as_bytes(), |line| {
                let found = search.line(line);
                let text = found.token.map(|it| String::from_utf8_lossy(&it[..3]).into_owned());
                tokens.extend(text);
                ends += usize::from(found.end);
            }));
        }
        (tokens, ends)
    }

    #[test]
    fn streams_cut_at_every_pair_of_bytes_have_the_same_tokens() {
        for (api, text) in [(Api::Ollama, OLLAMA), (Api::OpenAi, OPENAI)] {
            let expected = (vec![" w0".to_owned(), "\\\"\"".to_owned()], 1);
            for first in 0..=text.len() {
                for second in first..=text.len() {
                    let pieces = [&text[..first], &text[first..second], &text[second..]];
                    assert_eq!(read(api, &pieces), expected, "{api:?} {first} {second}");
                }
            }
        }
    }

    #[test]
    fn a_line_without_end_is_bounded() {
        let mut lines = Lines::default();
        assert!(lines.push(&vec![b'x'; MAX_LINE], |_| panic!("no line ended")));
        assert!(!lines.push(b"x", |_| panic!("no line ended")));
    }

    #[test]
    fn an_ollama_line_may_hold_a_token_and_end_the_stream() {
        let line = b"{\"message\":{\"content\":\"x\"},\"done\":true}";
        let found = Search::new(Api::Ollama).line(line);
        assert_eq!((found.token.map(|it| it[0]), found.end), (Some(b'x'), true));
    }

    #[test]
    fn numbers_end_where_digits_do() {
        assert_eq!(number(b"123 \"}"), Some(123));
        assert_eq!((number(b""), number(b"x1")), (None, None));
        assert_eq!(number(&[b'9'; 40]), Some(9_999_999_999_999_999_999));
    }
}
