//! Separates reasoning that a server left in the text, between `<think>` and `</think>`.
//!
//! Looks for an opening tag only at the start of a response, after white space at most, and holds
//! back a beginning of one until it is known. After the closing tag, white space is dropped, and
//! the header with which gpt-oss begins its final message.
//!
//! Many chat templates write the opening tag themselves, so that the response has only `</think>`. A
//! whole response shows that. A stream does not until the tag comes, by when the text before it was
//! sent: [`ThinkTagSplitter::lone_closing_tag`] tells it, and the next response of the model is taken
//! to begin inside reasoning. If its tag does not come, there was no reasoning:
//! [`ThinkTagSplitter::take_unconfirmed`] is the text.
//! Invariant: all input comes out, as reasoning or as text, except the tags and the white space
//! around them, and the result does not depend on how the input was split.

use crate::translate::lone_tag::{self, LoneTagWatch};
use crate::translate::stop_filter::partial_match_len;

/// The longest text that is taken for reasoning before its closing tag has come, in bytes: about a
/// million tokens, more than any model writes.
pub(super) const MAX_REASONING_BYTES: usize = 4 << 20;

/// The longest name of a channel, in bytes.
const MAX_CHANNEL_NAME: usize = 32;

/// The marks around reasoning.
#[derive(Debug, PartialEq, Eq)]
struct Tags {
    opening: &'static str,
    closing: &'static str,
    /// A header before the text; empty if there is none.
    answer_prefix: &'static str,
    /// True if a name follows the opening mark, up to the end of its line.
    has_name: bool,
}

impl Tags {
    const fn new(opening: &'static str, closing: &'static str) -> Self {
        Self { opening, closing, answer_prefix: "", has_name: false }
    }

    /// Where the opening mark at the start of a text ends.
    fn find_opening(&self, text: &str) -> Opening {
        let Some(rest) = text.strip_prefix(self.opening) else {
            let may_follow = self.opening.starts_with(text);
            return if may_follow { Opening::Incomplete } else { Opening::None };
        };
        if !self.has_name {
            return Opening::EndsAt(self.opening.len());
        }
        // A thought may be empty, even without its line break.
        let name = [rest.find('\n').map(|at| at + 1), rest.find(self.closing)];
        match name.into_iter().flatten().min() {
            Some(end) if end <= MAX_CHANNEL_NAME => Opening::EndsAt(self.opening.len() + end),
            None if rest.len() < MAX_CHANNEL_NAME + self.closing.len() => Opening::Incomplete,
            _ => Opening::None,
        }
    }
}

/// What a text begins with.
enum Opening {
    /// Another text.
    None,
    /// Perhaps the mark: more text will tell.
    Incomplete,
    /// The mark, up to this place.
    EndsAt(usize),
}

/// The tags of most models.
static THINK: Tags = Tags::new("<think>", "</think>");

/// The tags that models are known to write.
static TAGS: [&Tags; 7] = [
    &THINK,
    &Tags::new("<thinking>", "</thinking>"),
    &Tags::new("<thought>", "</thought>"),
    &Tags::new("<reasoning>", "</reasoning>"),
    &Tags::new("[THINK]", "[/THINK]"),
    // gpt-oss (OpenAI cookbook, harmony format).
    &Tags {
        answer_prefix: "<|start|>assistant<|channel|>final<|message|>",
        ..Tags::new("<|channel|>analysis<|message|>", "<|end|>")
    },
    // Gemma 4 (Gemma documentation, prompt formatting).
    &Tags { has_name: true, ..Tags::new("<|channel>", "<channel|>") },
];

/// The state of one response.
#[derive(Debug, Default)]
pub struct ThinkTagSplitter {
    state: State,
    /// Text that may be part of a tag, or white space that may be dropped.
    pending: String,
    /// The text so far of a response that is taken to begin inside reasoning, until a tag comes.
    unconfirmed: Option<String>,
    watch: LoneTagWatch,
    /// True if the response was taken to begin inside reasoning, and did not.
    was_refuted: bool,
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
    /// For a response that may begin inside reasoning, as far as earlier ones of its model have shown.
    pub fn new(begins_in_thinking: bool) -> Self {
        Self { unconfirmed: begins_in_thinking.then(String::new), ..Self::default() }
    }

    /// True if text passes unchanged from here on, so that the caller need not copy it; the caller
    /// shows it to [`ThinkTagSplitter::watch`].
    pub fn is_pass_through(&self) -> bool {
        self.state == State::Content
    }

    /// Looks at text that passes unchanged.
    pub fn watch(&mut self, text: &str) {
        self.watch.push(text);
    }

    /// Whether the response had a closing tag without an opening one: the model's next response begins
    /// inside reasoning. `None` if the response does not show it.
    pub fn lone_closing_tag(&self) -> Option<bool> {
        match self.watch {
            LoneTagWatch::Found => Some(true),
            _ => self.was_refuted.then_some(false),
        }
    }

    /// Stops the search, because the server sends reasoning separately, and returns the text that
    /// was not shown as such.
    pub fn disable(&mut self) -> String {
        self.state = State::Content;
        let held = std::mem::take(&mut self.pending);
        self.was_refuted |= self.unconfirmed.is_some();
        self.unconfirmed.take().unwrap_or(held)
    }

    /// Takes a piece of text.
    pub fn push(&mut self, text: &str) -> SplitText {
        let mut out = SplitText::default();
        self.pending.push_str(text);
        if let Some(unconfirmed) = &mut self.unconfirmed {
            unconfirmed.push_str(text);
            if unconfirmed.len() > MAX_REASONING_BYTES {
                out.content = self.disable();
                return out;
            }
        }
        while self.advance(&mut out) {}
        self.watch.push(&out.content);
        out
    }

    /// Ends the response: text that was held back is no tag.
    pub fn finish(&mut self) -> SplitText {
        let held = std::mem::take(&mut self.pending);
        if self.state == State::Start {
            // `held` is all of it.
            self.unconfirmed = None;
        }
        let (thinking, content) = match self.state {
            State::Thinking { .. } => (held, String::new()),
            State::AfterThinking { .. } => (String::new(), held.trim_start().to_owned()),
            State::Start | State::Content => (String::new(), held),
        };
        SplitText { thinking, content }
    }

    /// All text of a complete response that was taken to begin inside reasoning, if no tag has shown
    /// that it does: there was no reasoning.
    pub fn take_unconfirmed(&mut self) -> Option<String> {
        let text = self.unconfirmed.take()?;
        self.was_refuted = true;
        Some(text)
    }

    /// Splits a whole response, which shows whether it lacks the opening tag.
    pub fn split_whole(&mut self, text: &str) -> SplitText {
        let mut splitter = Self::default();
        let mut split = splitter.push(text);
        let rest = splitter.finish();
        split.thinking += &rest.thinking;
        split.content += &rest.content;
        let is_expected = self.unconfirmed.take().is_some();
        self.watch = splitter.watch;
        if !split.thinking.is_empty() || splitter.state != State::Content {
            return split;
        }
        let lone = |tags: &&Tags| {
            let (thinking, rest) =
                split.content.split_at(lone_tag::find_unquoted(&split.content, tags.closing)?);
            // A text with both of them speaks of tags.
            let is_lone = lone_tag::find_unquoted(thinking, tags.opening).is_none();
            is_lone.then(|| (thinking, &rest[tags.closing.len()..]))
        };
        match TAGS.iter().find_map(lone) {
            Some((thinking, content)) => SplitText {
                thinking: thinking.trim().to_owned(),
                content: content.trim_start().to_owned(),
            },
            None => {
                self.was_refuted = is_expected && !split.content.trim().is_empty();
                split
            }
        }
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
        let is_lone = text.starts_with(THINK.closing);
        let mut is_incomplete = !is_lone && THINK.closing.starts_with(text);
        for tags in TAGS {
            match tags.find_opening(text) {
                Opening::EndsAt(end) => {
                    self.pending = text[end..].to_owned();
                    self.state = State::Thinking { tags, has_text: false };
                    self.was_refuted |= self.unconfirmed.take().is_some();
                    return true;
                }
                Opening::Incomplete => is_incomplete = true,
                Opening::None => {}
            }
        }
        if is_incomplete {
            return false;
        }
        if is_lone {
            // The reasoning is empty.
            self.unconfirmed.get_or_insert_default();
        }
        if self.unconfirmed.is_some() {
            self.state = State::Thinking { tags: &THINK, has_text: false };
        } else {
            self.state = State::Content;
            self.watch = LoneTagWatch::START;
        }
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
            if self.unconfirmed.take().is_some() {
                self.watch = LoneTagWatch::Found;
            }
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Splits a text cut at every pair of places, and compares with the expectation.
    fn check(text: &str, thinking: &str, content: &str) {
        check_from(false, text, thinking, content);
    }

    /// The same for a response that may be taken to begin inside reasoning.
    fn check_from(begins_in_thinking: bool, text: &str, thinking: &str, content: &str) {
        let places: Vec<usize> = (0..=text.len()).filter(|&at| text.is_char_boundary(at)).collect();
        for &first in &places {
            for &second in places.iter().filter(|&&second| second >= first) {
                let mut splitter = ThinkTagSplitter::new(begins_in_thinking);
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
    fn the_channel_of_gemma_is_told_apart_wherever_it_was_cut() {
        check("<|channel>thought\nhm, é\n<channel|>Yes", "hm, é", "Yes");
        check("<|channel>thought\n<channel|>Yes", "", "Yes");
        check("<|channel>thought\n\n<channel|>\nYes", "", "Yes");
        check("<|channel>thought<channel|>Yes", "", "Yes");
        check("\n<|channel>thought\na <chan<channel|>Yes", "a <chan", "Yes");
        check("<|channel>thought\nonly", "only", "");
        check("<|channel>thou", "", "<|channel>thou");
        let long = "<|channel>no name has so many letters and no line break";
        check(long, "", long);
        check("<|channel", "", "<|channel");
    }

    #[test]
    fn a_whole_answer_may_lack_the_opening_tag() {
        let check = |text: &str, thinking: &str, content: &str, is_lone: Option<bool>| {
            for begins_in_thinking in [false, true] {
                let mut splitter = ThinkTagSplitter::new(begins_in_thinking);
                let expected = SplitText { thinking: thinking.into(), content: content.into() };
                assert_eq!(splitter.split_whole(text), expected, "{text:?}");
                let is_lone = is_lone.or(begins_in_thinking.then_some(false));
                assert_eq!(splitter.lone_closing_tag(), is_lone, "{text:?}");
                assert_eq!(splitter.take_unconfirmed(), None);
            }
        };
        check("hm\n</think>\n\nYes", "hm", "Yes", Some(true));
        check("</think>\n\nYes", "", "Yes", Some(true));
        check("Yes", "", "Yes", None);
        let both = "The tags are <think> and </think>.";
        check(both, "", both, None);
        let quoted = "It ends with `</think>`.";
        check(quoted, "", quoted, None);
        let mut splitter = ThinkTagSplitter::default();
        assert_eq!(splitter.split_whole("<think>hm</think>Yes </think>").content, "Yes </think>");
        assert_eq!(splitter.lone_closing_tag(), None);
    }

    #[test]
    fn a_stream_shows_whether_the_next_one_begins_inside_reasoning() {
        let check = |begins: bool, text: &str, expected: Option<bool>| {
            for cut in (0..=text.len()).filter(|&at| text.is_char_boundary(at)) {
                let mut splitter = ThinkTagSplitter::new(begins);
                for piece in [&text[..cut], &text[cut..]] {
                    if splitter.is_pass_through() {
                        splitter.watch(piece);
                    } else {
                        splitter.push(piece);
                    }
                }
                splitter.finish();
                splitter.take_unconfirmed();
                assert_eq!(splitter.lone_closing_tag(), expected, "{text:?} cut at {cut}");
            }
        };
        for begins in [false, true] {
            check(begins, "hm</think>Yes", Some(true));
            check(begins, "</think>Yes", Some(true));
            check(begins, "", None);
            check(begins, " \n", None);
        }
        check(false, "<think>hm</think>Yes", None);
        check(true, "<think>hm</think>Yes", Some(false));
        check(false, "Yes", None);
        check(true, "Yes", Some(false));
    }

    #[test]
    fn a_response_that_begins_inside_reasoning_is_split_at_the_closing_tag() {
        check_from(true, "hm, é\n</think>\n\nYes </think>", "hm, é", "Yes </think>");
        check_from(true, "\n</think>Yes", "", "Yes");
        check_from(true, "<think>hm</think>Yes", "hm", "Yes");
        check_from(true, "<|channel>thought\nhm<channel|>Yes", "hm", "Yes");
        check_from(true, "a <b> </thin", "a <b> </thin", "");
        check_from(false, "</think>\nYes", "", "Yes");
    }

    #[test]
    fn without_the_tag_all_of_the_text_comes_back() {
        let text = " \n So it is.\n";
        for cut in 0..=text.len() {
            let mut splitter = ThinkTagSplitter::new(true);
            let mut thinking = splitter.push(&text[..cut]).thinking;
            thinking += &splitter.push(&text[cut..]).thinking;
            thinking += &splitter.finish().thinking;
            assert_eq!(thinking, "So it is.\n");
            assert_eq!(splitter.take_unconfirmed().as_deref(), Some(text));
            assert_eq!(splitter.take_unconfirmed(), None, "once");
        }
        let mut splitter = ThinkTagSplitter::new(true);
        splitter.push("So");
        assert_eq!((splitter.disable().as_str(), splitter.lone_closing_tag()), ("So", Some(false)));
    }

    #[test]
    fn reasoning_without_an_end_is_bounded() {
        let mut splitter = ThinkTagSplitter::new(true);
        let piece = "x".repeat(MAX_REASONING_BYTES / 2);
        assert_eq!(splitter.push(&piece).content, "");
        assert_eq!(splitter.push(&piece).content, "");
        assert_eq!(splitter.push("y").content.len(), MAX_REASONING_BYTES + 1, "it is text");
        assert!(splitter.is_pass_through() && splitter.take_unconfirmed().is_none());
    }

    /// All texts of a few words, some of which are tags.
    fn texts() -> impl Iterator<Item = String> {
        const WORDS: [&str; 9] =
            ["<think>", "</think>", "<|channel>", "thought\n", "<channel|>", "a", " ", "<", "é"];
        let count = WORDS.len().pow(4);
        (0..count).map(|number| {
            (0..4).map(|place| WORDS[number / WORDS.len().pow(place) % WORDS.len()]).collect()
        })
    }

    /// What a splitter makes of these pieces: both texts, what is taken back, and what it has learnt.
    fn split<'a>(
        begins_in_thinking: bool,
        pieces: impl Iterator<Item = &'a str>,
    ) -> (SplitText, Option<String>, Option<bool>) {
        let mut splitter = ThinkTagSplitter::new(begins_in_thinking);
        let mut found = SplitText::default();
        let mut add = |more: SplitText| {
            found.thinking += &more.thinking;
            found.content += &more.content;
        };
        for piece in pieces {
            if splitter.is_pass_through() {
                splitter.watch(piece);
                add(SplitText { content: piece.to_owned(), ..SplitText::default() });
            } else {
                add(splitter.push(piece));
            }
        }
        add(splitter.finish());
        let unconfirmed = splitter.take_unconfirmed();
        (found, unconfirmed, splitter.lone_closing_tag())
    }

    #[test]
    fn every_split_of_every_text_gives_the_same_and_loses_nothing() {
        let blank = |c: &char| !c.is_whitespace();
        for text in texts() {
            for begins_in_thinking in [false, true] {
                let whole = split(begins_in_thinking, std::iter::once(text.as_str()));
                let letters = split(begins_in_thinking, text.split_inclusive(|_| true));
                assert_eq!(whole, letters, "{text:?}");
                let half = (text.len() / 2..).find(|&at| text.is_char_boundary(at)).unwrap_or(0);
                let halves = [&text[..half], &text[half..]];
                assert_eq!(whole, split(begins_in_thinking, halves.into_iter()), "{text:?}");
                // Only tags are missing: what is left can be read off the text in its order.
                let (found, unconfirmed, _) = whole;
                if let Some(unconfirmed) = unconfirmed {
                    assert_eq!((unconfirmed, found.content.as_str()), (text.clone(), ""));
                    continue;
                }
                let mut rest = text.chars().filter(blank);
                let out = found.thinking.chars().chain(found.content.chars()).filter(blank);
                let mut missing: usize = 0;
                for expected in out {
                    missing += rest.by_ref().take_while(|&c| c != expected).count();
                }
                missing += rest.count();
                // No tag, a closing one, both, or those of a channel with its name.
                let has_channel = text.trim_start().starts_with("<|channel>");
                let is_right = [0, 8, 7, 15].contains(&missing)
                    || (has_channel && (10..=20 + MAX_CHANNEL_NAME).contains(&missing));
                assert!(is_right, "{text:?}: {missing} characters are missing");
            }
        }
    }

    #[test]
    fn what_was_held_comes_back_when_reasoning_comes_apart() {
        let mut splitter = ThinkTagSplitter::default();
        assert_eq!(splitter.push("<thi"), SplitText::default());
        assert_eq!(splitter.disable(), "<thi");
        assert_eq!(splitter.push("<think>").content, "<think>");
    }
}
