//! The keys that are masked, found in a text whatever their number.
//!
//! A text is passed over once: at each place a filter tells whether a key may begin there, and a search in the
//! sorted keys whether one does. Never compares keys with what a client sends to be let in. Invariant: no
//! `Debug` output holds a key, or what was computed of it.

use std::fmt;

use super::secret::Secret;

/// A known key below this length may be a word, or a part of one (`x`, `token`), so it is masked only
/// where a text quotes it as a key.
pub(super) const MIN_UNIQUE_KEY_LENGTH: usize = 8;

/// Bits of the filter.
const FILTER_BITS: usize = 32 * 1024;

/// Known keys.
#[derive(Default)]
pub(super) struct KeyList {
    /// Those that may be words; the longest first, because one may be part of another.
    pub short: Vec<Secret>,
    /// All others, in the order of their bytes.
    long: Vec<Secret>,
    /// By the first three bytes of each of these, a bit; empty without keys.
    filter: Vec<u64>,
}

impl KeyList {
    /// Adds a key, if it is new and not empty.
    pub(super) fn add(&mut self, key: Secret) {
        let text = key.expose();
        if text.len() >= MIN_UNIQUE_KEY_LENGTH {
            self.filter.resize(FILTER_BITS / 64, 0);
            let bit = filter_bit(text.as_bytes());
            self.filter[bit / 64] |= 1 << (bit % 64);
            let place = self.long.binary_search_by(|other| other.expose().cmp(text));
            if let Err(place) = place {
                self.long.insert(place, key);
            }
        } else if !text.is_empty() && !self.short.iter().any(|other| other.expose() == text) {
            let is_longer = |other: &Secret| other.expose().len() >= text.len();
            let place = self.short.partition_point(is_longer);
            self.short.insert(place, key);
        }
    }

    /// All keys.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Secret> {
        self.long.iter().chain(&self.short)
    }

    /// The text with `mask` in place of each long key, and of keys that overlap; `None` if it has none.
    pub(super) fn mask(&self, text: &str, mask: &str) -> Option<String> {
        if self.long.is_empty() {
            return None;
        }
        let (mut out, mut copied, mut end) = (String::new(), 0, 0);
        let bytes = text.as_bytes();
        for at in 0..bytes.len().saturating_sub(MIN_UNIQUE_KEY_LENGTH - 1) {
            let Some(length) = self.longest_at(&bytes[at..]) else { continue };
            if at >= end {
                out.push_str(&text[copied..at]);
                out.push_str(mask);
            }
            end = end.max(at + length);
            copied = end;
        }
        (copied > 0).then(|| out + &text[copied..])
    }

    /// The length of the longest key with which a text begins.
    fn longest_at(&self, text: &[u8]) -> Option<usize> {
        let bit = filter_bit(text);
        if self.filter.get(bit / 64)? & (1 << (bit % 64)) == 0 {
            return None;
        }
        let mut rest = text;
        while rest.len() >= MIN_UNIQUE_KEY_LENGTH {
            // A key that the text begins with is not behind the text, and no longer than what it has in
            // common with the last key that is not behind it.
            let behind = self.long.partition_point(|key| key.expose().as_bytes() <= rest);
            let key = self.long[..behind].last()?.expose().as_bytes();
            let common = key.iter().zip(rest).take_while(|(one, other)| one == other).count();
            if common == key.len() {
                return Some(common);
            }
            rest = &rest[..common];
        }
        None
    }

    /// The length of the longest beginning of a long key, but not all of it, with which a text ends.
    pub(super) fn partial_at_end(&self, text: &str) -> usize {
        let text = text.as_bytes();
        let is_beginning = |end: &[u8]| {
            let place = self.long.partition_point(|key| key.expose().as_bytes() <= end);
            self.long.get(place).is_some_and(|key| key.expose().as_bytes().starts_with(end))
        };
        let longest = self.long.iter().map(|key| key.expose().len()).max().unwrap_or(0);
        let lengths = (1..longest.min(text.len() + 1)).rev();
        lengths.into_iter().find(|length| is_beginning(&text[text.len() - length..])).unwrap_or(0)
    }
}

/// The bit of a text by its first three bytes.
fn filter_bit(text: &[u8]) -> usize {
    let bytes = text.iter().take(3);
    bytes.fold(0, |hash: usize, byte| hash.wrapping_mul(131) + usize::from(*byte)) % FILTER_BITS
}

impl fmt::Debug for KeyList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list<'a>(keys: impl IntoIterator<Item = &'a str>) -> KeyList {
        let mut list = KeyList::default();
        keys.into_iter().for_each(|key| list.add(Secret::new(key)));
        list
    }

    #[test]
    fn keys_are_found_whole_also_where_they_share_a_beginning_or_overlap() {
        let keys =
            ["abcdefgh", "abcdefghij", "abcdefgz", "ghij-klmn", "\u{e9}t\u{e9}-key-1", "short"];
        let list = list(keys);
        for (text, expected) in [
            ("", None),
            ("abcdefg", None),
            ("a short text", None),
            ("abcdefgh", Some("*")),
            ("abcdefghi", Some("*i")),
            ("xabcdefghijx", Some("x*x")),
            ("abcdefgzabcdefgh", Some("**")),
            ("abcdefghij-klmn.", Some("*.")),
            ("\u{e9}\u{e9}t\u{e9}-key-1\u{e9}", Some("\u{e9}*\u{e9}")),
        ] {
            assert_eq!(list.mask(text, "*").as_deref(), expected, "{text}");
        }
    }

    #[test]
    fn each_of_many_keys_is_found() {
        let keys: Vec<String> =
            (0..3000).map(|number| format!("key-{number:05}-{number}")).collect();
        let list = list(keys.iter().rev().chain(&keys).map(String::as_str));
        assert_eq!(list.iter().count(), 3000);
        for key in &keys {
            assert_eq!(list.mask(&format!("<{key}>"), "*").as_deref(), Some("<*>"), "{key}");
        }
        assert_eq!(list.mask("key-03000-3000", "*"), None);
        assert_eq!(list.partial_at_end("it is key-0299"), "key-0299".len());
        assert_eq!(list.partial_at_end("key-00001-"), "key-00001-".len());
        assert_eq!(list.partial_at_end("it is"), 0);
    }
}
