//! What one event of an answer adds to it.

use std::borrow::Cow;

use crate::api::ollama::response::Logprob;
use crate::translate::tool_calls::CompleteToolCall;

/// The longest text of one line, in bytes: even where each of them is escaped, the line stays below
/// the 8 MB that Go's clients read (ollama-api.md 7).
const MAX_LINE_TEXT: usize = 1 << 20;

/// What one event adds to the answer.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Delta<'a> {
    /// Reasoning.
    pub thinking: Cow<'a, str>,
    /// Text.
    pub content: Cow<'a, str>,
    /// Whole calls.
    pub calls: Vec<CompleteToolCall>,
    /// Log probabilities of the tokens.
    pub logprobs: Vec<Logprob>,
}

impl Delta<'_> {
    /// Whether it adds nothing that a client is shown.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.thinking.is_empty()
            && self.content.is_empty()
            && self.calls.is_empty()
            && self.logprobs.is_empty()
    }

    /// Its text, if it has nothing else.
    #[must_use]
    pub fn only_content(&self) -> Option<&str> {
        let has_more =
            !self.thinking.is_empty() || !self.calls.is_empty() || !self.logprobs.is_empty();
        (!has_more).then_some(&*self.content)
    }

    /// Whether its text fits into one line.
    #[must_use]
    pub fn fits_in_line(&self) -> bool {
        self.thinking.len() + self.content.len() <= MAX_LINE_TEXT
    }

    /// The same in pieces that fit, for the rare event that does not. Calls stay whole.
    #[must_use]
    pub fn split_into_lines(mut self) -> Vec<Delta<'static>> {
        let (thinking, content) = (split_text(&self.thinking), split_text(&self.content));
        let thinking = thinking.map(|it| Delta { thinking: it.into(), ..Delta::default() });
        let content = content.map(|it| Delta { content: it.into(), ..Delta::default() });
        let mut pieces: Vec<Delta<'static>> = thinking.chain(content).collect();
        if let Some(last) = pieces.last_mut() {
            last.logprobs = std::mem::take(&mut self.logprobs);
            last.calls = std::mem::take(&mut self.calls);
        }
        pieces
    }

    /// Adds another one behind it.
    pub fn append(&mut self, other: Delta<'_>) {
        // A borrowed text becomes a copy only when there is something to put behind it.
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

/// A text in pieces that fit into a line, cut between characters.
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
