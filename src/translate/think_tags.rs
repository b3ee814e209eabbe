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
    answer: &'static str,
}

impl Tags {
    const fn new(opening: &'static str, closing: &'static str) -> Self {
        Self { opening, closing, answer: "" }
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
        answer: "<|start|>assistant<|channel|>final<|message|>",
    },
];

/// The state of one answer.
#[derive(Debug, Default)]
pub struct Splitter {
    state: State,
    /// Text that may be part of a tag, or white space that may be dropped.
    held: String,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    /// Nothing but white space and the beginning of a tag was seen.
    #[default]
    Start,
    /// Within reasoning, until this tag; white space at its beginning is dropped.
    Inside { tags: &'static Tags, begun: bool },
    /// Behind the closing tag: white space is dropped, and this where it follows.
    Behind { answer: &'static str },
    /// In the text.
    Text,
}

/// What a piece of text was.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Split {
    /// Reasoning.
    pub thinking: String,
    /// Text.
    pub content: String,
}

impl Splitter {
    /// Whether text passes through as it is, so that nothing need be copied.
    #[must_use]
    pub fn is_through(&self) -> bool {
        self.state == State::Text
    }

    /// Stops looking: the server sends its reasoning apart. Gives back what was held.
    pub fn stop(&mut self) -> String {
        self.state = State::Text;
        std::mem::take(&mut self.held)
    }

    /// Takes a piece of text.
    pub fn push(&mut self, text: &str) -> Split {
        let mut out = Split::default();
        self.held.push_str(text);
        while self.step(&mut out) {}
        out
    }

    /// Ends the answer: what was held back was no tag.
    pub fn finish(&mut self) -> Split {
        let held = std::mem::take(&mut self.held);
        match self.state {
            State::Inside { .. } => Split { thinking: held, ..Split::default() },
            // White space alone is nothing.
            State::Behind { .. } => {
                Split { content: held.trim_start().to_owned(), ..Split::default() }
            }
            State::Start | State::Text => Split { content: held, ..Split::default() },
        }
    }

    /// One step forward; `false` when more text is needed.
    fn step(&mut self, out: &mut Split) -> bool {
        match self.state {
            State::Start => self.begin(),
            State::Inside { tags, begun } => self.inside(tags, begun, out),
            State::Behind { answer } => self.behind(answer),
            State::Text => {
                out.content.push_str(&std::mem::take(&mut self.held));
                false
            }
        }
    }

    fn begin(&mut self) -> bool {
        let text = self.held.trim_start();
        if let Some(tags) = TAGS.iter().find(|tags| text.starts_with(tags.opening)) {
            self.held = text[tags.opening.len()..].to_owned();
            self.state = State::Inside { tags, begun: false };
            return true;
        }
        // White space alone, or the beginning of a tag, has to wait.
        if text.is_empty() || TAGS.iter().any(|tags| tags.opening.starts_with(text)) {
            return false;
        }
        self.state = State::Text;
        true
    }

    fn behind(&mut self, answer: &'static str) -> bool {
        self.held = self.held.trim_start().to_owned();
        if self.held.is_empty() {
            return false;
        }
        if answer.is_empty() {
            self.state = State::Text;
        } else if let Some(text) = self.held.strip_prefix(answer) {
            self.held = text.to_owned();
            self.state = State::Behind { answer: "" };
        } else if answer.starts_with(&self.held) {
            return false;
        } else {
            self.state = State::Text;
        }
        true
    }

    fn inside(&mut self, tags: &'static Tags, begun: bool, out: &mut Split) -> bool {
        let closing = tags.closing;
        if !begun {
            self.held = self.held.trim_start().to_owned();
            if self.held.is_empty() {
                return false;
            }
            self.state = State::Inside { tags, begun: true };
        }
        if let Some(at) = self.held.find(closing) {
            out.thinking.push_str(self.held[..at].trim_end());
            self.held.drain(..at + closing.len());
            self.state = State::Behind { answer: tags.answer };
            return true;
        }
        let safe = self.held.len() - undecided(&self.held, closing);
        out.thinking.push_str(&self.held[..safe]);
        self.held.drain(..safe);
        false
    }
}

/// How many bytes at the end may be the beginning of the closing tag, or white space before it.
fn undecided(text: &str, closing: &str) -> usize {
    let tag = (1..closing.len()).rev().find(|&length| text.ends_with(&closing[..length]));
    let before = &text[..text.len() - tag.unwrap_or(0)];
    text.len() - before.trim_end().len()
}

/// Splits a whole answer, in which the opening tag may be missing because the template had it.
#[must_use]
pub fn whole(text: &str) -> Split {
    let mut splitter = Splitter::default();
    let first = splitter.push(text);
    let rest = splitter.finish();
    let split =
        Split { thinking: first.thinking + &rest.thinking, content: first.content + &rest.content };
    if !split.thinking.is_empty() || splitter.state != State::Text {
        return split;
    }
    match TAGS.iter().find_map(|tags| split.content.split_once(tags.closing)) {
        Some((thinking, content)) => {
            Split { thinking: thinking.trim().to_owned(), content: content.trim_start().to_owned() }
        }
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
                let mut splitter = Splitter::default();
                let (mut found, mut shown) = (Split::default(), 0);
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
                let expected = Split { thinking: thinking.into(), content: content.into() };
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
        let mut splitter = Splitter::default();
        assert_eq!(splitter.push("<think>one two").thinking, "one two");
        assert_eq!(splitter.push(" three ").thinking, " three");
    }

    #[test]
    fn a_whole_answer_may_lack_the_opening_tag() {
        let check = |text: &str, thinking: &str, content: &str| {
            let expected = Split { thinking: thinking.into(), content: content.into() };
            assert_eq!(whole(text), expected, "{text:?}");
        };
        check("hm\n</think>\n\nYes", "hm", "Yes");
        check("<think>hm</think>Yes </think>", "hm", "Yes </think>");
        check("Yes", "", "Yes");
    }

    #[test]
    fn what_was_held_comes_back_when_reasoning_comes_apart() {
        let mut splitter = Splitter::default();
        assert_eq!(splitter.push("<thi"), Split::default());
        assert_eq!(splitter.stop(), "<thi");
        assert_eq!(splitter.push("<think>").content, "<think>");
    }
}
