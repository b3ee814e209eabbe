//! What one event adds to a response.

use std::borrow::Cow;

use crate::api::ollama::response::Logprob;
use crate::translate::tool_calls::CompleteToolCall;

/// The longest text of one line, in bytes: even if JSON escapes each byte, the line stays below the
/// 8 MB that Ollama's Go client reads (`api/client.go`).
const MAX_LINE_TEXT: usize = 1 << 20;

/// What one event adds to a response.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Delta<'a> {
    /// Reasoning.
    pub thinking: Cow<'a, str>,
    /// Text.
    pub content: Cow<'a, str>,
    /// Complete calls.
    pub calls: Vec<CompleteToolCall>,
    /// Log probabilities of the tokens.
    pub logprobs: Vec<Logprob>,
}

impl Delta<'_> {
    /// True if a client is shown nothing of it.
    pub fn is_empty(&self) -> bool {
        self.only_content().is_some_and(str::is_empty)
    }

    /// The text, if the delta holds nothing else.
    pub fn only_content(&self) -> Option<&str> {
        let has_more =
            !self.thinking.is_empty() || !self.calls.is_empty() || !self.logprobs.is_empty();
        (!has_more).then_some(&*self.content)
    }

    /// True if the text fits into one line.
    pub fn fits_in_line(&self) -> bool {
        self.thinking.len() + self.content.len() <= MAX_LINE_TEXT
    }

    /// The same in pieces that fit, for the rare event that does not. Calls stay whole.
    #[must_use]
    pub fn split_into_lines(self) -> Vec<Delta<'static>> {
        let (thinking, content) = (split_text(&self.thinking), split_text(&self.content));
        let thinking = thinking.map(|text| Delta { thinking: text.into(), ..Delta::default() });
        let content = content.map(|text| Delta { content: text.into(), ..Delta::default() });
        let mut pieces: Vec<Delta<'static>> = thinking.chain(content).collect();
        if let Some(last) = pieces.last_mut() {
            (last.logprobs, last.calls) = (self.logprobs, self.calls);
        }
        pieces
    }

    /// Takes the text that the response continues from its beginning, if it is there.
    pub(super) fn remove_continued(&mut self, text: &str) {
        let rest = self.content.strip_prefix(text);
        let rest = rest.or_else(|| self.content.strip_prefix(text.trim_end()));
        if let Some(rest) = rest {
            self.content = Cow::Owned(rest.to_owned());
        }
    }

    /// Appends another delta.
    pub fn append(&mut self, other: Delta<'_>) {
        // `to_mut` copies a borrowed text, so it is called only if there is something to append.
        for (text, more) in
            [(&mut self.thinking, other.thinking), (&mut self.content, other.content)]
        {
            if !more.is_empty() {
                text.to_mut().push_str(&more);
            }
        }
        self.calls.extend(other.calls);
        self.logprobs.extend(other.logprobs);
    }

    pub(super) fn into_owned(self) -> Delta<'static> {
        Delta {
            thinking: Cow::Owned(self.thinking.into_owned()),
            content: Cow::Owned(self.content.into_owned()),
            ..self
        }
    }
}

/// A text in pieces that fit into a line, split between characters.
fn split_text(text: &str) -> impl Iterator<Item = String> {
    let mut rest = text;
    std::iter::from_fn(move || {
        let end =
            (0..=MAX_LINE_TEXT.min(rest.len())).rev().find(|&at| rest.is_char_boundary(at))?;
        let piece = &rest[..end];
        rest = &rest[end..];
        (!piece.is_empty()).then(|| piece.to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_that_is_too_long_for_a_line_comes_in_pieces() {
        let (thinking, content) = ("é".repeat(MAX_LINE_TEXT), "x".repeat(MAX_LINE_TEXT + 1));
        let delta = Delta {
            thinking: thinking.as_str().into(),
            content: content.as_str().into(),
            logprobs: vec![Logprob::default()],
            ..Delta::default()
        };
        assert!(!delta.fits_in_line());
        let pieces = delta.split_into_lines();
        assert!(pieces.iter().all(|piece| piece.fits_in_line() && !piece.is_empty()));
        assert_eq!(pieces.iter().map(|it| it.thinking.as_ref()).collect::<String>(), thinking);
        assert_eq!(pieces.iter().map(|it| it.content.as_ref()).collect::<String>(), content);
        assert_eq!(pieces.iter().map(|it| it.logprobs.len()).sum::<usize>(), 1);
        let odd = format!("x{}", "é".repeat(MAX_LINE_TEXT / 2));
        assert_eq!(split_text(&odd).map(|it| it.len()).collect::<Vec<_>>(), [MAX_LINE_TEXT - 1, 2]);
    }
}
