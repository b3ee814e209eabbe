//! The outline of an answer with vectors: the same JSON with a number in place of each list.
//!
//! Nearly all of such an answer is digits. They are looked at once, quickly; what is left is small and
//! is read as any JSON is. Invariant: where there is an outline, reading it tells what reading the
//! answer would; whatever is unusual has none, and is read in full.

use std::ops::Range;

use super::scan::{Glance, blanks, glance};
use crate::api::openai::embeddings::Embeddings;

/// A list of numbers within an answer, its brackets included.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct List {
    /// Where it stands.
    pub(super) place: Range<usize>,
    /// What was seen of it.
    pub(super) glance: Glance,
}

/// An answer without its digits.
pub(super) struct Outline {
    text: String,
    lists: Vec<List>,
}

impl Outline {
    /// Finds the lists that members named `embedding` are.
    pub(super) fn of(answer: &str) -> Option<Self> {
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
                    if let Some(value) = member(bytes, at).filter(|_| is_name) {
                        (bytes.get(value) == Some(&b'[')).then_some(())?;
                        let seen = glance(bytes, value + 1)?;
                        outline.text.push_str(&answer[from..=value]);
                        outline.text.push_str(&outline.lists.len().to_string());
                        (from, at) = (seen.end, seen.end + 1);
                        outline.lists.push(List { place: value..at, glance: seen });
                    }
                }
                // Other lists of numbers could be taken for what stands for one.
                b'[' if !holds_objects(bytes, at) => return None,
                _ => at += 1,
            }
        }
        outline.text.push_str(&answer[from..]);
        Some(outline)
    }

    /// Reads it; nothing where there is anything but a plain success.
    pub(super) fn read(&self) -> Option<Embeddings<'_>> {
        let read: Option<Embeddings<'_>> = serde_json::from_str(&self.text).ok();
        read.filter(|answer| answer.error.is_none() && !answer.data.is_empty())
    }

    /// The list that stands behind what was read in place of it.
    pub(super) fn list(&self, read: &str) -> Option<&List> {
        let number = read.strip_prefix('[')?.strip_suffix(']')?;
        self.lists.get(number.parse::<usize>().ok()?)
    }
}

/// Where the value of a member begins whose name ends before `at`.
fn member(bytes: &[u8], at: usize) -> Option<usize> {
    let colon = at + blanks(&bytes[at..]);
    let value = colon + 1;
    (bytes.get(colon) == Some(&b':')).then(|| value + blanks(&bytes[value..]))
}

fn holds_objects(bytes: &[u8], list: usize) -> bool {
    let first = list + 1;
    bytes.get(first + blanks(&bytes[first..])) == Some(&b'{')
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
