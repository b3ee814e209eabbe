//! Decodes a JSON string in one allocation that is no longer than the string.
//!
//! serde_json decodes into a buffer that doubles and copies the result, which takes twice the size of
//! an image whose slashes are escaped, as PHP does, or whose lines are wrapped. Knows the escapes for
//! ASCII only; base64 needs no others. Invariant: the result is that of serde_json.

use std::borrow::Cow;

/// The text of a JSON string; `None` if it must be left to serde_json.
pub(super) fn unescape(json: &str) -> Option<Cow<'_, str>> {
    let mut rest = json.strip_prefix('"')?.strip_suffix('"')?;
    let Some(first) = rest.find('\\') else { return Some(Cow::Borrowed(rest)) };
    let mut out = String::with_capacity(rest.len());
    let mut next = Some(first);
    while let Some(at) = next {
        out.push_str(&rest[..at]);
        let (character, length) = decode_escape(&rest[at..])?;
        out.push(character);
        rest = &rest[at + length..];
        next = rest.find('\\');
    }
    out.push_str(rest);
    Some(Cow::Owned(out))
}

/// The character for the escape at the beginning of `text`, and the length of the escape.
fn decode_escape(text: &str) -> Option<(char, usize)> {
    let character = match text.as_bytes().get(1)? {
        byte @ (b'/' | b'\\' | b'"') => char::from(*byte),
        b'n' => '\n',
        b'r' => '\r',
        b't' => '\t',
        b'f' => '\u{c}',
        b'b' => '\u{8}',
        b'u' => {
            let code = u8::from_str_radix(text.get(2..6)?, 16).ok().filter(u8::is_ascii)?;
            return Some((char::from(code), 6));
        }
        _ => return None,
    };
    Some((character, 2))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_told_is_what_serde_tells() {
        for json in [
            r#""""#,
            r#""AAAA""#,
            r#""é😀""#,
            r#""\/""#,
            r#""A\/B\/\/C""#,
            r#""\"\\\/\b\f\n\r\t""#,
            r#""\u002B\u002b\u003dA\u0000\u007f""#,
            r#""é\ué\n""#,
        ] {
            let expected: Option<String> = serde_json::from_str(json).ok();
            assert_eq!(unescape(json).as_deref(), expected.as_deref(), "{json}");
        }
        assert!(matches!(unescape(r#""AAAA""#), Some(Cow::Borrowed("AAAA"))), "nothing is copied");
    }

    #[test]
    fn the_rest_is_for_serde() {
        for json in [r#""\u00e9""#, r#""\ud83d\ude00""#, r#""\ud83d""#, r#""\x""#, "5", "\"", ""] {
            assert_eq!(unescape(json), None, "{json}");
        }
    }

    #[test]
    fn there_is_no_room_to_spare() {
        let json = format!("\"{}\"", "AAA\\/\\n".repeat(10_000));
        let Some(Cow::Owned(text)) = unescape(&json) else { panic!("it has escapes") };
        assert!(text.capacity() < json.len() && text.len() == 50_000);
    }
}
