//! What a request of `/v1/responses` or `/v1/messages` holds that the translation does not know and leaves
//! out.
//!
//! New kinds of items, parts, blocks and tools appear with each version of a client, and none may end a
//! session: they are left out, and the log names each kind once. Keeps no content.
//! Invariant: at most `MAX_KINDS` kinds are kept, and of each only letters that names of types have.

use std::collections::BTreeSet;
use std::fmt;

/// The most kinds that the log names for one request.
const MAX_KINDS: usize = 8;

/// The longest name of a type that the log shows.
const MAX_NAME_LEN: usize = 40;

/// What was left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum SkippedKind {
    /// An item of the input.
    Item,
    /// A part of a message or of an output.
    Part,
    /// A block of a message or of a result.
    Block,
    /// A tool.
    Tool,
}

/// The kinds that were left out of one request.
#[derive(Clone, Debug, Default)]
pub struct Skipped(BTreeSet<(SkippedKind, String)>);

impl Skipped {
    /// Notes that something of this type was left out.
    pub(super) fn note(&mut self, kind: SkippedKind, type_name: &str) {
        if self.0.len() < MAX_KINDS {
            self.0.insert((kind, loggable_name(type_name)));
        }
    }

    /// A text for the log for each kind.
    pub fn warnings(&self) -> impl Iterator<Item = String> {
        self.0.iter().map(|(kind, name)| match name.is_empty() {
            true => format!("left out {kind} that cannot be read"),
            false => format!("left out {kind} of the type {name:?}"),
        })
    }
}

impl fmt::Display for SkippedKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Item => "an input item",
            Self::Part => "a part of an input item",
            Self::Block => "a block of a message",
            Self::Tool => "a tool",
        })
    }
}

/// The name of a type as the log may show it; a text that is no such name may be part of a conversation.
fn loggable_name(name: &str) -> String {
    let is_sign = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    match name.len() <= MAX_NAME_LEN && name.bytes().all(is_sign) {
        true => name.to_owned(),
        false => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_is_told_once_and_no_content_is() {
        let mut skipped = Skipped::default();
        for _ in 0..3 {
            skipped.note(SkippedKind::Item, "from_the_future");
            skipped.note(SkippedKind::Part, "Dear diary,");
            skipped.note(SkippedKind::Block, "a\nb");
            skipped.note(SkippedKind::Block, "x".repeat(MAX_NAME_LEN + 1).as_str());
            skipped.note(SkippedKind::Tool, "");
        }
        let told: Vec<String> = skipped.warnings().collect();
        assert_eq!(
            told,
            [
                "left out an input item of the type \"from_the_future\"",
                "left out a part of an input item that cannot be read",
                "left out a block of a message that cannot be read",
                "left out a tool that cannot be read"
            ]
        );
        (0..100).for_each(|number| skipped.note(SkippedKind::Item, &format!("t{number}")));
        assert_eq!(skipped.warnings().count(), MAX_KINDS);
    }
}
