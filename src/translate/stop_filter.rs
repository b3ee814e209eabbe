//! Applies stop strings here, for an upstream that refuses the parameter or takes fewer.
//!
//! [`StopFilter`] passes text on until it contains one of the strings, and holds back only the
//! longest end of the text that a string begins with. It knows neither events nor clients.
//! Invariant: the output is the text before the first match, or all of it without a match, however
//! the text was split. The first match is the match that ends first, as on a server that checks the
//! text after each token; if two end at the same place, it is the longer one.

/// The filter of one response.
#[derive(Clone, Debug)]
pub struct StopFilter {
    /// None of them is empty: an empty string would match everywhere.
    stops: Vec<String>,
    /// The end of the text that is held back.
    pending: String,
    has_matched: bool,
    /// True if a string counts only at the very end of the text.
    only_at_end: bool,
}

impl StopFilter {
    /// A filter for these strings; empty ones are left out.
    pub fn new(mut stops: Vec<String>) -> Self {
        stops.retain(|stop| !stop.is_empty());
        Self { stops, pending: String::new(), has_matched: false, only_at_end: false }
    }

    /// A filter for strings that the upstream applies itself, and may leave at the end of the text.
    pub fn at_end(stops: Vec<String>) -> Self {
        Self { only_at_end: true, ..Self::new(stops) }
    }

    /// Takes a piece of text and returns what may be shown now: nothing after a match.
    pub fn push(&mut self, text: &str) -> String {
        if self.has_matched {
            return String::new();
        }
        self.pending.push_str(text);
        if self.only_at_end {
            let held = |stop: &String| match self.pending.ends_with(stop.as_str()) {
                true => stop.len(),
                false => partial_match_len(&self.pending, stop),
            };
            let held = self.stops.iter().map(held).max().unwrap_or(0);
            let rest = self.pending.split_off(self.pending.len() - held);
            return std::mem::replace(&mut self.pending, rest);
        }
        let matched = self.find_match();
        let end = matched.unwrap_or_else(|| {
            let partial = |stop: &String| partial_match_len(&self.pending, stop);
            self.pending.len() - self.stops.iter().map(partial).max().unwrap_or(0)
        });
        let rest = self.pending.split_off(end);
        let shown = std::mem::replace(&mut self.pending, rest);
        if matched.is_some() {
            self.has_matched = true;
            self.pending.clear();
        }
        shown
    }

    /// Ends the text and returns what was held back.
    pub fn finish(&mut self) -> String {
        let pending = std::mem::take(&mut self.pending);
        let ends_with = |stop: &&String| pending.ends_with(stop.as_str());
        match self.stops.iter().filter(ends_with).map(String::len).max() {
            Some(length) if self.only_at_end => pending[..pending.len() - length].to_owned(),
            _ => pending,
        }
    }

    /// True once a stop string was found.
    pub fn has_matched(&self) -> bool {
        self.has_matched
    }

    /// The number of bytes that are held back.
    pub fn pending_len(&self) -> usize {
        self.pending.len()
    }

    /// Where the first match begins.
    fn find_match(&self) -> Option<usize> {
        let matches = self.stops.iter().filter_map(|stop| {
            let at = self.pending.find(stop.as_str())?;
            Some((at + stop.len(), at))
        });
        matches.min().map(|(_, at)| at)
    }
}

/// The length of the longest end of `text` that is a beginning of `pattern`, but not all of it.
pub(super) fn partial_match_len(text: &str, pattern: &str) -> usize {
    let lengths = (1..pattern.len()).rev().filter(|&length| pattern.is_char_boundary(length));
    lengths.into_iter().find(|&length| text.ends_with(&pattern[..length])).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Cuts `text` at every place and every pair of places, and compares with the expectation.
    fn check(text: &str, stops: &[&str], expected: &str) {
        let stops: Vec<String> = stops.iter().map(|stop| (*stop).to_owned()).collect();
        let places: Vec<usize> = (0..=text.len()).filter(|&at| text.is_char_boundary(at)).collect();
        for (number, &first) in places.iter().enumerate() {
            for &second in &places[number..] {
                let mut filter = StopFilter::new(stops.clone());
                let mut shown = String::new();
                for piece in [&text[..first], &text[first..second], &text[second..]] {
                    shown += &filter.push(piece);
                    assert!(expected.starts_with(&shown), "{text:?} {stops:?} {first} {second}");
                }
                assert_eq!(filter.has_matched(), expected != text, "{text:?} {stops:?}");
                shown += &filter.finish();
                assert_eq!(shown, expected, "{text:?} {stops:?} cut at {first} and {second}");
                assert_eq!(filter.pending_len(), 0);
            }
        }
    }

    #[test]
    fn a_string_that_counts_only_at_the_end_is_cut_off_there() {
        for (text, expected) in [
            ("One.END", "One."),
            ("{\"stop\":[\"END\"]}", "{\"stop\":[\"END\"]}"),
            ("One.ENDEND", "One.END"),
            ("One.EN", "One.EN"),
            ("ENDé", "ENDé"),
            ("", ""),
        ] {
            for size in 1..=text.len().max(1) {
                let mut filter = StopFilter::at_end(vec!["END".to_owned(), "zz".to_owned()]);
                let chars: Vec<char> = text.chars().collect();
                let mut shown = String::new();
                for piece in chars.chunks(size) {
                    shown += &filter.push(&piece.iter().collect::<String>());
                }
                shown += &filter.finish();
                assert_eq!(shown, expected, "{text} in pieces of {size}");
                assert!(!filter.has_matched());
            }
        }
    }

    #[test]
    fn text_is_cut_before_the_first_match_wherever_it_was_cut() {
        check("one\n\ntwo\n\nthree", &["\n\n"], "one");
        check("User: a User: b", &["User:"], "");
        check("ab<|im_end|>cd", &["<|im_end|>", "</s>"], "ab");
        check("aXbYc", &["Y", "X"], "a");
        check("é😀né", &["😀n"], "é");
        check("aaab", &["aab"], "a");
        check("ababac", &["abac"], "ab");
    }

    #[test]
    fn text_without_a_match_comes_out_whole() {
        check("one two", &["three"], "one two");
        check("one tw", &["two"], "one tw");
        check("a<|im_en", &["<|im_end|>"], "a<|im_en");
        check("eé", &["éé"], "eé");
        check("any", &[], "any");
        check("any", &[""], "any");
        check("", &["x"], "");
    }

    #[test]
    fn the_match_that_is_complete_first_counts_and_of_equals_the_longer() {
        check("abcd", &["abcd", "c"], "ab");
        check("abc", &["bc", "c"], "a");
        check("abc", &["c", "bc"], "a");
    }

    #[test]
    fn every_text_of_three_letters_is_cut_as_a_plain_search_would_cut_it() {
        let stops = ["aba", "bb", "cab"];
        for number in 0..3_usize.pow(7) {
            let letter = |place: u32| ['a', 'b', 'c'][number / 3_usize.pow(place) % 3];
            let text: String = (0..7).map(letter).collect();
            let ends = (0..=text.len()).find_map(|end| {
                let stop = stops.iter().filter(|stop| text[..end].ends_with(**stop));
                stop.map(|stop| end - stop.len()).min()
            });
            check(&text, &stops, &text[..ends.unwrap_or(text.len())]);
        }
    }

    #[test]
    fn no_more_is_held_back_than_may_become_a_stop_string() {
        let mut filter = StopFilter::new(vec!["abac".into(), "\n\n".into()]);
        assert_eq!(filter.push("x\nab"), "x\n");
        assert_eq!(filter.push("a"), "");
        assert_eq!(filter.push("ba"), "ab");
        assert_eq!((filter.push("d\n"), filter.pending_len()), ("abad".to_owned(), 1));
        assert_eq!(filter.push("\n"), "");
        assert_eq!(
            (filter.has_matched(), filter.push("more"), filter.finish()),
            (true, String::new(), String::new())
        );
    }
}
