//! How much memory a JSON text takes once it is parsed, for texts of upstreams that are to be parsed whole.
//!
//! An object of one member is 7 bytes of text and some 700 bytes of a tree, so a bound of the text is none of
//! the memory. Pure. Invariant: one pass, which never parses.

/// An object with members, a list with elements, and each further member or element.
const OBJECT_BYTES: usize = 720;
const LIST_BYTES: usize = 160;
const ELEMENT_BYTES: usize = 40;

/// The most bytes that the tree of a text takes beside the text's own. Signs within strings count as well.
pub fn tree_bytes(text: &[u8]) -> usize {
    let bytes = |byte: &u8| match byte {
        b'{' => OBJECT_BYTES,
        b'[' => LIST_BYTES,
        b',' => ELEMENT_BYTES,
        _ => 0,
    };
    text.iter().map(bytes).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_begins_values_is_counted() {
        assert_eq!(tree_bytes(b""), 0);
        assert_eq!(tree_bytes(br#"{"a":[1,2]}"#), OBJECT_BYTES + LIST_BYTES + ELEMENT_BYTES);
    }
}
