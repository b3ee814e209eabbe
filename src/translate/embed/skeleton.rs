//! The outline of an answer with vectors: the same JSON with a number in place of each list.
//!
//! Nearly all of such an answer is digits. They are looked at once, quickly; what is left is small and
//! is read as any JSON is. Invariant: where there is an outline, reading it tells what reading the
//! answer would; whatever is unusual has none, and is read in full.

use std::ops::Range;

use super::scan::{ListScan, count_whitespace, scan_list};
use crate::api::openai::embeddings::EmbeddingsResponse;

/// A list of numbers within an answer, its brackets included.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct NumberList {
    /// Where it stands.
    pub(super) range: Range<usize>,
    /// What was seen of it.
    pub(super) scan: ListScan,
}

/// An answer without its digits.
pub(super) struct Skeleton {
    text: String,
    lists: Vec<NumberList>,
}

impl Skeleton {
    /// Finds the lists that members named `embedding` are.
    pub(super) fn extract(answer: &str) -> Option<Self> {
        let bytes = answer.as_bytes();
        let mut outline = Self { text: String::new(), lists: Vec::new() };
        // What stands in `from..at` is still to be copied.
        let (mut from, mut at) = (0, 0);
        while let Some(byte) = bytes.get(at) {
            match byte {
                b'"' => {
                    let end = string_end(bytes, at)?;
                    let is_name = bytes[at..end] == *br#""embedding""#;
                    at = end;
                    if let Some(value) = member_value_start(bytes, at).filter(|_| is_name) {
                        (bytes.get(value) == Some(&b'[')).then_some(())?;
                        let seen = scan_list(bytes, value + 1)?;
                        outline.text.push_str(&answer[from..=value]);
                        outline.text.push_str(&outline.lists.len().to_string());
                        (from, at) = (seen.end, seen.end + 1);
                        outline.lists.push(NumberList { range: value..at, scan: seen });
                    }
                }
                // Other lists of numbers could be taken for what stands for one.
                b'[' if !is_object_list(bytes, at) => return None,
                _ => at += 1,
            }
        }
        outline.text.push_str(&answer[from..]);
        Some(outline)
    }

    /// Reads it; nothing where there is anything but a plain success.
    pub(super) fn parse(&self) -> Option<EmbeddingsResponse<'_>> {
        let read: Option<EmbeddingsResponse<'_>> = serde_json::from_str(&self.text).ok();
        read.filter(|answer| answer.error.is_none() && !answer.data.is_empty())
    }

    /// The list that stands behind what was read in place of it.
    pub(super) fn find_list(&self, read: &str) -> Option<&NumberList> {
        let number = read.strip_prefix('[')?.strip_suffix(']')?;
        self.lists.get(number.parse::<usize>().ok()?)
    }
}

/// Where the value of a member begins whose name ends before `at`.
fn member_value_start(bytes: &[u8], at: usize) -> Option<usize> {
    let colon = at + count_whitespace(&bytes[at..]);
    let value = colon + 1;
    (bytes.get(colon) == Some(&b':')).then(|| value + count_whitespace(&bytes[value..]))
}

fn is_object_list(bytes: &[u8], list: usize) -> bool {
    let first = list + 1;
    bytes.get(first + count_whitespace(&bytes[first..])) == Some(&b'{')
}

/// Behind the closing quote of the string that begins at `start`.
fn string_end(bytes: &[u8], start: usize) -> Option<usize> {
    let mut at = start + 1;
    loop {
        match bytes.get(at)? {
            b'"' => return Some(at + 1),
            b'\\' => at += 2,
            _ => at += 1,
        }
    }
}
