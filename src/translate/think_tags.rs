//! Separates reasoning that a server left in the text, between `<think>` and `</think>`.
//!
//! Looks for an opening tag only at the start of a response, after white space at most, and holds
//! back a beginning of one until it is known. After the closing tag, white space is dropped, and
//! the header with which gpt-oss begins its final message.
//! Invariant: all input comes out, as reasoning or as text, except the tags and the white space
//! around them, and the result does not depend on how the input was split.

use crate::translate::stop_filter::partial_match_len;

/// The marks around reasoning.
#[derive(Debug, PartialEq, Eq)]
struct Tags {
    opening: &'static str,
    closing: &'static str,
    /// A header before the text; empty if there is none.
    answer_prefix: &'static str,
}

impl Tags {
    const fn new(opening: &'static str, closing: &'static str) -> Self {
        Self { opening, closing, answer_prefix: "" }
    }
}

/// The tags that models are known to write.
const TAGS: &[Tags] = &[
    Tags::new("<think>", "</think>"),
    Tags::new("<thinking>", "</thinking>"),
    Tags::new("<thought>", "</thought>"),
    Tags::new("<reasoning>", "</reasoning>"),
    Tags::new("[THINK]", "[/THINK]"),
    Tags {
        opening: "<|channel|>analysis<|message|>",
        closing: "<|end|>",
        answer_prefix: "<|start|>assistant<|channel|>final<|message|>",
    },
];

/// The state of one response.
#[derive(Debug, Default)]
pub struct ThinkTagSplitter {
    state: State,
    /// Text that may be part of a tag, or white space that may be dropped.
    pending: String,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    /// Only white space and the beginning of a tag were seen.
    #[default]
    Start,
    /// Within reasoning, until the closing tag; white space before its first text is dropped.
    Thinking { tags: &'static Tags, has_text: bool },
    /// After the closing tag: white space and `answer_prefix` are dropped.
    AfterThinking { answer_prefix: &'static str },
    /// In the text.
    Content,
}

/// The parts of a piece of text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SplitText {
    /// Reasoning.
    pub thinking: String,
    /// Text.
    pub content: String,
}

impl ThinkTagSplitter {
    /// True if text passes unchanged from here on, so that the caller need not copy it.
    pub fn is_pass_through(&self) -> bool {
        self.state == State::Content
    }

    /// Stops the search, because the server sends reasoning separately, and returns the text that
    /// was held back.
    pub fn disable(&mut self) -> String {
        self.state = State::Content;
        std::mem::take(&mut self.pending)
    }

    /// Takes a piece of text.
    pub fn push(&mut self, text: &str) -> SplitText {
        let mut out = SplitText::default();
        self.pending.push_str(text);
        while self.advance(&mut out) {}
        out
    }

    /// Ends the response: text that was held back is no tag.
    pub fn finish(&mut self) -> SplitText {
        let held = std::mem::take(&mut self.pending);
        let (thinking, content) = match self.state {
            State::Thinking { .. } => (held, String::new()),
            State::AfterThinking { .. } => (String::new(), held.trim_start().to_owned()),
            State::Start | State::Content => (String::new(), held),
        };
        SplitText { thinking, content }
    }

    /// Takes one step; `false` if it needs more text.
    fn advance(&mut self, out: &mut SplitText) -> bool {
        match self.state {
            State::Start => self.find_opening(),
            State::Thinking { tags, has_text } => self.consume_thinking(tags, has_text, out),
            State::AfterThinking { answer_prefix } => self.skip_answer_prefix(answer_prefix),
            State::Content => {
                out.content.push_str(&std::mem::take(&mut self.pending));
                false
            }
        }
    }

    fn find_opening(&mut self) -> bool {
        let text = self.pending.trim_start();
        if let Some(tags) = TAGS.iter().find(|tags| text.starts_with(tags.opening)) {
            self.pending = text[tags.opening.len()..].to_owned();
            self.state = State::Thinking { tags, has_text: false };
            return true;
        }
        if text.is_empty() || TAGS.iter().any(|tags| tags.opening.starts_with(text)) {
            return false;
        }
        self.state = State::Content;
        true
    }

    fn skip_answer_prefix(&mut self, answer_prefix: &'static str) -> bool {
        self.pending = self.pending.trim_start().to_owned();
        if self.pending.is_empty() {
            return false;
        }
        if answer_prefix.is_empty() {
            self.state = State::Content;
        } else if let Some(text) = self.pending.strip_prefix(answer_prefix) {
            self.pending = text.to_owned();
            self.state = State::AfterThinking { answer_prefix: "" };
        } else if answer_prefix.starts_with(&self.pending) {
            return false;
        } else {
            self.state = State::Content;
        }
        true
    }

    fn consume_thinking(
        &mut self,
        tags: &'static Tags,
        has_text: bool,
        out: &mut SplitText,
    ) -> bool {
        if !has_text {
            self.pending = self.pending.trim_start().to_owned();
            if self.pending.is_empty() {
                return false;
            }
            self.state = State::Thinking { tags, has_text: true };
        }
        if let Some(at) = self.pending.find(tags.closing) {
            out.thinking.push_str(self.pending[..at].trim_end());
            self.pending.drain(..at + tags.closing.len());
            self.state = State::AfterThinking { answer_prefix: tags.answer_prefix };
            return true;
        }
        // Hold back a beginning of the closing tag, and the white space before it.
        let partial = partial_match_len(&self.pending, tags.closing);
        let safe = self.pending[..self.pending.len() - partial].trim_end().len();
        out.thinking.push_str(&self.pending[..safe]);
        self.pending.drain(..safe);
        false
    }
}

/// Splits a whole response, which may lack the opening tag because the chat template wrote it.
pub fn split_whole(text: &str) -> SplitText {
    let mut splitter = ThinkTagSplitter::default();
    let mut split = splitter.push(text);
    let rest = splitter.finish();
    split.thinking += &rest.thinking;
    split.content += &rest.content;
    if !split.thinking.is_empty() || splitter.state != State::Content {
        return split;
    }
    match TAGS.iter().find_map(|tags| split.content.split_once(tags.closing)) {
        Some((thinking, content)) => SplitText {
            thinking: thinking.trim().to_owned(),
            content: content.trim_start().to_owned(),
        },
        None => split,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Splits a text cut at every pair of places, and compares with the expectation.
    fn check(text: &str, thinking: &str, content: &str) {
        let places: Vec<usize> = (0..=text.len()).filter(|&at| text.is_char_boundary(at)).collect();
        for &first in &places {
            for &second in places.iter().filter(|&&second| second >= first) {
                let mut splitter = ThinkTagSplitter::default();
                let (mut found, mut shown) = (SplitText::default(), 0);
                for piece in [&text[..first], &text[first..second], &text[second..]] {
                    let split = splitter.push(piece);
                    found.thinking.push_str(&split.thinking);
                    found.content.push_str(&split.content);
                    shown += 1;
                }
                let rest = splitter.finish();
                found.thinking.push_str(&rest.thinking);
                found.content.push_str(&rest.content);
                assert_eq!(shown, 3);
                let expected = SplitText { thinking: thinking.into(), content: content.into() };
                assert_eq!(found, expected, "{text:?} cut at {first} and {second}");
            }
        }
    }

    #[test]
    fn reasoning_is_split_off_wherever_it_was_cut() {
        check("<think>\nhm, é\n</think>\n\nYes <b>.", "hm, é", "Yes <b>.");
        check("<think>hm</think>Yes", "hm", "Yes");
        check("\n <think>a </thin b</think> Yes", "a </thin b", "Yes");
        check("[THINK]hm[/THINK]Yes", "hm", "Yes");
        check("<thinking>hm</thinking>Yes", "hm", "Yes");
        check("<thought>hm</thought>Yes", "hm", "Yes");
        check("<reasoning>hm</reasoning>Yes", "hm", "Yes");
        check("<think>\n\n</think>\n\nYes", "", "Yes");
        check("<think>only", "only", "");
    }

    #[test]
    fn the_channels_of_gpt_oss_are_told_apart() {
        let start = "<|start|>assistant<|channel|>final<|message|>";
        let hm = "<|channel|>analysis<|message|>hm<|end|>";
        check(&format!("{hm}{start} Yes"), "hm", "Yes");
        check(&format!("{hm}Yes"), "hm", "Yes");
        check(&format!("{hm}<|start|>Yes"), "hm", "<|start|>Yes");
        check(&format!("{hm}<|sta"), "hm", "<|sta");
        check("<|channel|>final<|message|>Yes", "", "<|channel|>final<|message|>Yes");
    }

    #[test]
    fn other_text_is_left_alone() {
        check("Yes", "", "Yes");
        check("  Yes <think>no</think>", "", "  Yes <think>no</think>");
        check("<thin air", "", "<thin air");
        check("<thi", "", "<thi");
        check(" ", "", " ");
        check("", "", "");
    }

    #[test]
    fn reasoning_is_shown_before_its_end_is_known() {
        let mut splitter = ThinkTagSplitter::default();
        assert_eq!(splitter.push("<think>one two").thinking, "one two");
        assert_eq!(splitter.push(" three ").thinking, " three");
    }

    #[test]
    fn a_whole_answer_may_lack_the_opening_tag() {
        let check = |text: &str, thinking: &str, content: &str| {
            let expected = SplitText { thinking: thinking.into(), content: content.into() };
            assert_eq!(split_whole(text), expected, "{text:?}");
        };
        check("hm\n</think>\n\nYes", "hm", "Yes");
        check("<think>hm</think>Yes </think>", "hm", "Yes </think>");
        check("Yes", "", "Yes");
    }

    #[test]
    fn what_was_held_comes_back_when_reasoning_comes_apart() {
        let mut splitter = ThinkTagSplitter::default();
        assert_eq!(splitter.push("<thi"), SplitText::default());
        assert_eq!(splitter.disable(), "<thi");
        assert_eq!(splitter.push("<think>").content, "<think>");
    }
}
