//! Looks for a `</think>` whose opening tag the chat template wrote, in text that is passed on.
//!
//! By then the text is on its way to the client, so this changes nothing: it shows how the next
//! response of the model begins. A text that has `<think>` before it, or a quote right before the tag,
//! speaks of tags and is no sign.
//! Invariant: allocates nothing, because every piece of an ordinary text passes through.

use memchr::memchr;

const OPENING: &[u8] = b"<think>";
const CLOSING: &[u8] = b"</think>";

/// The state of one response.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum LoneTagWatch {
    /// Nothing is looked for: the response has tags of its own, or sends reasoning separately.
    #[default]
    Off,
    /// The text so far ends with so many bytes of one of the tags, of which `<` begins both; or, where
    /// there are none, with `last`.
    Watching { matched: usize, is_closing: bool, last: u8 },
    /// The tag was found.
    Found,
}

impl LoneTagWatch {
    pub(super) const START: Self = Self::Watching { matched: 0, is_closing: false, last: b' ' };

    /// Takes a piece of text.
    pub(super) fn push(&mut self, text: &str) {
        if let (Self::Watching { matched: 0, last, .. }, Some(end)) =
            (&mut *self, text.bytes().last())
            && !text.as_bytes().contains(&b'<')
        {
            *last = end;
            return;
        }
        for byte in text.bytes() {
            self.step(byte);
        }
    }

    fn step(&mut self, byte: u8) {
        let Self::Watching { matched, is_closing, last } = *self else { return };
        // Neither tag has a second `<`, so a match that fails can only begin anew.
        let is_closing = if matched == 1 { byte == b'/' } else { is_closing };
        let tag = if is_closing { CLOSING } else { OPENING };
        let (matched, last) = match byte {
            b'<' if matched == 0 && is_quote(last) => (0, byte),
            b'<' => (1, byte),
            _ if matched > 0 && tag[matched] == byte => (matched + 1, byte),
            _ => (0, byte),
        };
        *self = match (matched == tag.len(), is_closing) {
            (false, _) => Self::Watching { matched, is_closing, last },
            (true, false) => Self::Off,
            (true, true) => Self::Found,
        };
    }
}

/// Where the text has a closing tag that is not quoted.
pub(super) fn find_unquoted(text: &str, tag: &str) -> Option<usize> {
    // Most texts have no tag at all.
    let first = memchr(*tag.as_bytes().first()?, text.as_bytes())?;
    let is_quoted = |at: usize| text.as_bytes()[..at].last().is_some_and(|byte| is_quote(*byte));
    let mut places = text[first..].match_indices(tag).map(|(at, _)| first + at);
    places.find(|&at| !is_quoted(at))
}

fn is_quote(byte: u8) -> bool {
    matches!(byte, b'`' | b'"' | b'\'')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_closing_tag_without_an_opening_one_is_found_wherever_it_is_cut() {
        let check = |text: &str, expected: bool| {
            for first in 0..=text.len() {
                for second in first..=text.len() {
                    let mut watch = LoneTagWatch::START;
                    for piece in [&text[..first], &text[first..second], &text[second..]] {
                        watch.push(piece);
                    }
                    assert_eq!(watch == LoneTagWatch::Found, expected, "{text} {first} {second}");
                }
            }
        };
        check("hm</think>Yes", true);
        check("</think>", true);
        check("a<b</think>", true);
        check("<</think>", true);
        check("</</think>", true);
        check("<thin</think>", true);
        check("hm</think", false);
        check("</thinking>", false);
        check("the tags <think> and </think>", false);
        check("</think> and <think>", true);
        check("the tag `</think>` ends it", false);
        check("\"</think>\"", false);
        check("`</think>`: hm</think>Yes", true);
        check("'<think>'</think>", false);
        check("a ` </think>", true);
        check("a < b", false);
        check("", false);
    }

    #[test]
    fn nothing_is_looked_for_until_it_is_asked_for() {
        let mut watch = LoneTagWatch::default();
        watch.push("</think>");
        assert_eq!(watch, LoneTagWatch::Off);
    }
}
