//! Standard, padded base64 (RFC 4648, 4) to bytes: embeddings and `Basic` credentials come so.
//!
//! Pure. What clients write in other spellings of it, and never needs decoding, is the affair of
//! [`crate::translate::media`]. Invariant: one pass, one allocation of the right size.

/// The digits in the order of their values.
pub const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// The six bits that each digit stands for; more than six for what is no digit.
const SEXTETS: [u8; 256] = {
    let (mut table, mut sextet) = ([u8::MAX; 256], 0);
    while sextet < 64 {
        table[ALPHABET[sextet as usize] as usize] = sextet;
        sextet += 1;
    }
    table
};

/// The bytes that `text` stands for; `None` when it is not standard base64 with its padding.
#[must_use]
pub fn decode(text: &[u8]) -> Option<Vec<u8>> {
    let (groups, rest) = text.as_chunks::<4>();
    let padding = text.iter().rev().take_while(|byte| **byte == b'=').count();
    if !rest.is_empty() || padding > 2 {
        return None;
    }
    let mut bytes = Vec::with_capacity(groups.len() * 3);
    let last = groups.len().saturating_sub(1);
    let mut wrong = 0;
    for (place, group) in groups.iter().enumerate() {
        let digits = if place == last { 4 - padding } else { 4 };
        let mut bits = 0;
        for byte in &group[..digits] {
            let sextet = SEXTETS[usize::from(*byte)];
            wrong |= sextet;
            bits = bits << 6 | u32::from(sextet);
        }
        bits <<= 6 * (4 - digits) + 8;
        bytes.extend_from_slice(&bits.to_be_bytes()[..digits - 1]);
    }
    (wrong < 64).then_some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_of_every_length_are_read() {
        for (text, expected) in [
            ("", ""),
            ("Zg==", "f"),
            ("Zm8=", "fo"),
            ("Zm9v", "foo"),
            ("Zm9vYg==", "foob"),
            ("YW55OnB3Pz8/", "any:pw???"),
        ] {
            assert_eq!(decode(text.as_bytes()).as_deref(), Some(expected.as_bytes()), "{text}");
        }
        assert_eq!(decode(b"/+8="), Some(vec![0xff, 0xef]));
    }

    #[test]
    fn what_is_no_standard_base64_is_nothing() {
        for text in ["Zg", "Zg=", "Z===", "====", "Zm9v=", "Zg==Zg==", "Z m9", "Zm-_", "Zm9v\n"] {
            assert_eq!(decode(text.as_bytes()), None, "{text:?}");
        }
    }
}
