//! The numbers in an error's text.
//!
//! Pure. Invariant: the digits of a name or a decimal are no number.

/// The counts in a text with their places, `8,192` and `32k` among them. Not the digits of names such
/// as `gpt-4`, nor the decimals of a number.
pub fn numbers(text: &str) -> Vec<(usize, u64)> {
    let bytes = text.as_bytes();
    let is_name = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    let mut out = Vec::new();
    let mut at = 0;
    while at < bytes.len() {
        if !bytes[at].is_ascii_digit() {
            at += 1;
            continue;
        }
        let start = at;
        let mut digits = String::new();
        while let Some(byte) = bytes.get(at) {
            let is_group = *byte == b','
                && bytes.get(at + 1..at + 4).is_some_and(|it| it.iter().all(u8::is_ascii_digit))
                && !bytes.get(at + 4).is_some_and(u8::is_ascii_digit);
            match byte {
                b'0'..=b'9' => digits.push(char::from(*byte)),
                b',' if is_group => {}
                _ => break,
            }
            at += 1;
        }
        let is_thousands = bytes.get(at).is_some_and(|byte| matches!(byte, b'k' | b'K'));
        at += usize::from(is_thousands);
        let is_part = start.checked_sub(1).and_then(|at| bytes.get(at)).is_some_and(is_name)
            || bytes.get(at).is_some_and(|byte| byte.is_ascii_alphabetic() || *byte == b'_');
        if let (false, Ok(number)) = (is_part, digits.parse::<u64>()) {
            out.push((start, number.saturating_mul(if is_thousands { 1000 } else { 1 })));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_read_as_people_write_them() {
        let read = |text: &str| numbers(text).into_iter().map(|(_, it)| it).collect::<Vec<_>>();
        assert_eq!(
            read("a 1,234 b (5) [6, 7] 8,192, 9.5 10k -3"),
            [1234, 5, 6, 7, 8192, 9, 10_000]
        );
        assert_eq!(read("gpt-4o v2 x_3 claude-3-5-haiku-20241022 1st 32K."), [32_000]);
        assert_eq!(read("99999999999999999999999 é7"), [7]);
    }
}
