//! The `context` of `/api/generate`: a conversation carried in a list of whole numbers.
//!
//! Ollama returns token ids there and takes them back to continue. The proxy keeps no state, so its
//! list carries the conversation itself: three numbers of header, then three bytes of JSON text in
//! each number, all of them positive and below 2^31, because clients read 32-bit integers
//! (ollama-api.md 18.12). A list that was not made here is ignored, never an error.

use crate::openai::request::Message;

/// The first number of every list: marks it as ours, with the version of the encoding.
const MAGIC: i32 = 0x0A11_A001;

/// Numbers before the text: magic, length in bytes, checksum.
const HEADER: usize = 3;

/// The list for a conversation.
#[must_use]
pub fn encode(turns: &[Message<'_>]) -> Vec<i32> {
    let pairs: Vec<(&str, &str)> =
        turns.iter().map(|turn| (turn.role.as_ref(), turn.as_text())).collect();
    let text = serde_json::to_vec(&pairs).expect("pairs of strings always serialise");
    let Ok(length) = i32::try_from(text.len()) else { return Vec::new() };
    let mut out = Vec::with_capacity(HEADER + text.len().div_ceil(3));
    out.extend([MAGIC, length, checksum(&text)]);
    out.extend(
        text.chunks(3).map(|bytes| {
            bytes.iter().rev().fold(0, |number, byte| (number << 8) | i32::from(*byte))
        }),
    );
    out
}

/// The conversation that a list carries; empty for a list of anybody else's.
#[must_use]
pub fn decode(list: &[i64]) -> Vec<Message<'static>> {
    conversation(list).unwrap_or_default()
}

fn conversation(list: &[i64]) -> Option<Vec<Message<'static>>> {
    let (header, numbers) = list.split_at_checked(HEADER)?;
    let length = usize::try_from(header[1]).ok()?;
    if header[0] != i64::from(MAGIC) || numbers.len() != length.div_ceil(3) {
        return None;
    }
    let mut text = Vec::with_capacity(numbers.len() * 3);
    for number in numbers {
        let number = u32::try_from(*number).ok()?;
        text.extend_from_slice(&number.to_le_bytes()[..3]);
    }
    text.truncate(length);
    if i64::from(checksum(&text)) != header[2] {
        return None;
    }
    let pairs: Vec<(String, String)> = serde_json::from_slice(&text).ok()?;
    Some(pairs.into_iter().map(|(role, content)| Message::text(role, content)).collect())
}

/// A checksum (FNV-1a, cut to 31 bits) that tells our lists from chance, not from malice: who can
/// send a context can send any conversation anyway.
fn checksum(text: &[u8]) -> i32 {
    let hash = text
        .iter()
        .fold(0x811C_9DC5_u32, |hash, byte| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193));
    i32::try_from(hash >> 1).unwrap_or(i32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(turns: &[(&str, &str)]) -> Vec<i64> {
        let messages: Vec<Message<'_>> =
            turns.iter().map(|(role, content)| Message::text(*role, *content)).collect();
        let list: Vec<i64> = encode(&messages).into_iter().map(i64::from).collect();
        assert!(list.iter().all(|number| (0..=i64::from(i32::MAX)).contains(number)), "{list:?}");
        let back = decode(&list);
        let back: Vec<(&str, &str)> =
            back.iter().map(|turn| (turn.role.as_ref(), turn.as_text())).collect();
        assert_eq!(back, turns);
        list
    }

    #[test]
    fn a_conversation_comes_back_whole() {
        for length in 0..12 {
            let content: String = "aé😀\n\"x\\".chars().cycle().take(length).collect();
            check(&[("user", "Hi"), ("assistant", &content)]);
        }
    }

    #[test]
    fn lists_of_anybody_else_are_ignored() {
        assert!(decode(&[]).is_empty());
        assert!(decode(&[1, 42, 7]).is_empty());
        assert!(decode(&[i64::from(MAGIC), i64::MAX, 0]).is_empty());
        let mut list = check(&[("user", "Hi")]);
        for at in 0..list.len() {
            list[at] ^= 1;
            assert!(decode(&list).is_empty(), "number {at} changed");
            list[at] ^= 1;
        }
        list.pop();
        assert!(decode(&list).is_empty());
    }
}
