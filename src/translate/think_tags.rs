//! Reasoning that a server left in the text, between `<think>` and `</think>` (openai-wire.md 4.5).
//!
//! Only at the very start of an answer, after white space at most, an opening tag is looked for; a
//! part of one is held back until it is known. Behind the closing tag white space is dropped, and
//! what gpt-oss writes to begin its answer.
//! Invariant: what goes in comes out, as reasoning or as text, but for the tags and the white space
//! around them; and it does not depend on how it was cut.

/// What stands around reasoning.
#[derive(Debug, PartialEq, Eq)]
struct Tags {
    opening: &'static str,
    closing: &'static str,
    /// What may begin the text; empty where nothing does.
    answer_prefix: &'static str,
}

impl Tags {
    const fn new(opening: &'static str, closing: &'static str) -> Self {
        Self { opening, closing, answer_prefix: "" }
    }
}

/// What models are known to write.
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

/// The state of one answer.
#[derive(Debug, Default)]
pub struct ThinkTagSplitter {
    state: State,
    /// Text that may be part of a tag, or white space that may be dropped.
    pending: String,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    /// Nothing but white space and the beginning of a tag was seen.
    #[default]
    Start,
    /// Within reasoning, until this tag; white space at its beginning is dropped.
    Thinking { tags: &'static Tags, has_text: bool },
    /// Behind the closing tag: white space is dropped, and this where it follows.
    AfterThinking { answer_prefix: &'static str },
    /// In the text.
    Content,
}

/// What a piece of text was.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SplitText {
    /// Reasoning.
    pub thinking: String,
    /// Text.
    pub content: String,
}

impl ThinkTagSplitter {
    /// Whether text passes through as it is, so that nothing need be copied.
    #[must_use]
    pub fn is_pass_through(&self) -> bool {
        self.state == State::Content
    }

    /// Stops looking: the server sends its reasoning apart. Gives back what was held.
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

    /// Ends the answer: what was held back was no tag.
    pub fn finish(&mut self) -> SplitText {
        let held = std::mem::take(&mut self.pending);
        match self.state {
            State::Thinking { .. } => SplitText { thinking: held, ..SplitText::default() },
            // White space alone is nothing.
            State::AfterThinking { .. } => {
                SplitText { content: held.trim_start().to_owned(), ..SplitText::default() }
            }
            State::Start | State::Content => SplitText { content: held, ..SplitText::default() },
        }
    }

    /// One step forward; `false` when more text is needed.
    fn advance(&mut self, out: &mut SplitText) -> bool {
        match self.state {
            State::Start => self.find_opening(),
            State::Thinking { tags, has_text: begun } => self.consume_thinking(tags, begun, out),
            State::AfterThinking { answer_prefix: answer } => self.skip_answer_prefix(answer),
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
        // White space alone, or the beginning of a tag, has to wait.
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
        let closing = tags.closing;
        if !has_text {
            self.pending = self.pending.trim_start().to_owned();
            if self.pending.is_empty() {
                return false;
            }
            self.state = State::Thinking { tags, has_text: true };
        }
        if let Some(at) = self.pending.find(closing) {
            out.thinking.push_str(self.pending[..at].trim_end());
            self.pending.drain(..at + closing.len());
            self.state = State::AfterThinking { answer_prefix: tags.answer_prefix };
            return true;
        }
        let safe = self.pending.len() - partial_match_len(&self.pending, closing);
        out.thinking.push_str(&self.pending[..safe]);
        self.pending.drain(..safe);
        false
    }
}

/// How many bytes at the end may be the beginning of the closing tag, or white space before it.
fn partial_match_len(text: &str, closing: &str) -> usize {
    let tag = (1..closing.len()).rev().find(|&length| text.ends_with(&closing[..length]));
    let before = &text[..text.len() - tag.unwrap_or(0)];
    text.len() - before.trim_end().len()
}

/// Splits a whole answer, in which the opening tag may be missing because the template had it.
#[must_use]
pub fn split_whole(text: &str) -> SplitText {
    let mut splitter = ThinkTagSplitter::default();
    let first = splitter.push(text);
    let rest = splitter.finish();
    let split = SplitText {
        thinking: first.thinking + &rest.thinking,
        content: first.content + &rest.content,
    };
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
