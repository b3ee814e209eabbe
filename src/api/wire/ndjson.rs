//! Serialises values to JSON as Ollama writes it, and to NDJSON lines.
//!
//! Compact, with the escapes of Go's `encoding/json` and three more: U+2028, U+2029 and U+0085, at
//! which HTTP libraries of clients split lines. Appends to a buffer and never changes what it holds.
//! Invariant: a line contains one `\n`, its last byte.

use std::io;

use serde::Serialize;
use serde_json::ser::{CompactFormatter, Formatter, Serializer};

/// Appends `value` as JSON, without a newline.
pub fn append(out: &mut Vec<u8>, value: &impl Serialize) {
    let mut serializer = Serializer::with_formatter(&mut *out, GoFormatter);
    value
        .serialize(&mut serializer)
        .expect("the types have string keys, and writing to a Vec cannot fail");
}

/// Appends a text as JSON. The usual one, of printable ASCII without an escape, is copied as it is, in a
/// fifth of the time: each token of a stream is such a text.
pub fn append_text(out: &mut Vec<u8>, text: &str) {
    if !text.bytes().all(is_plain) {
        return append(out, &text);
    }
    out.push(b'"');
    out.extend_from_slice(text.as_bytes());
    out.push(b'"');
}

/// Whether a byte stands for itself in a JSON string of this module.
fn is_plain(byte: u8) -> bool {
    (b' '..=b'~').contains(&byte) && !matches!(byte, b'"' | b'\\') && !may_need_escape(byte)
}

/// Appends `value` as one NDJSON line.
pub fn append_line(out: &mut Vec<u8>, value: &impl Serialize) {
    append(out, value);
    out.push(b'\n');
}

/// `value` as JSON, without a newline.
pub fn to_vec(value: &impl Serialize) -> Vec<u8> {
    let mut out = Vec::with_capacity(256);
    append(&mut out, value);
    out
}

/// serde_json's compact form with the escapes of this module.
struct GoFormatter;

impl Formatter for GoFormatter {
    fn write_string_fragment<W: ?Sized + io::Write>(
        &mut self,
        writer: &mut W,
        fragment: &str,
    ) -> io::Result<()> {
        let mut rest = fragment;
        // In the common case nothing needs an escape, which one pass over the bytes decides.
        while let Some(at) = rest.bytes().position(may_need_escape) {
            let Some(character) = rest[at..].chars().next() else { break };
            let end = at + character.len_utf8();
            match escape_sequence(character) {
                Some(escaped) => {
                    writer.write_all(&rest.as_bytes()[..at])?;
                    writer.write_all(escaped)?;
                }
                None => writer.write_all(&rest.as_bytes()[..end])?,
            }
            rest = &rest[end..];
        }
        writer.write_all(rest.as_bytes())
    }

    // Go writes integral floats without a point.
    fn write_f64<W: ?Sized + io::Write>(&mut self, writer: &mut W, value: f64) -> io::Result<()> {
        match exact_integer(value) {
            Some(number) => self.write_i64(writer, number),
            None => CompactFormatter.write_f64(writer, value),
        }
    }

    fn write_f32<W: ?Sized + io::Write>(&mut self, writer: &mut W, value: f32) -> io::Result<()> {
        match exact_integer(f64::from(value)) {
            Some(number) => self.write_i64(writer, number),
            None => CompactFormatter.write_f32(writer, value),
        }
    }
}

/// The number as an integer, if it is one and small enough to be exact; negative zero is not.
fn exact_integer(value: f64) -> Option<i64> {
    const MAX_EXACT: f64 = 9_007_199_254_740_992.0;
    let fits = value.trunc() == value
        && value.abs() <= MAX_EXACT
        && (value != 0.0 || value.is_sign_positive());
    #[allow(clippy::cast_possible_truncation)] // Checked above.
    fits.then_some(value as i64)
}

/// True for the first byte of `<`, `>`, `&`, U+0085 and U+2028/2029, and of others.
fn may_need_escape(byte: u8) -> bool {
    matches!(byte, b'<' | b'>' | b'&' | 0xC2 | 0xE2)
}

/// The escape of a character, if it has one.
fn escape_sequence(character: char) -> Option<&'static [u8]> {
    Some(match character {
        '<' => b"\\u003c",
        '>' => b"\\u003e",
        '&' => b"\\u0026",
        '\u{85}' => b"\\u0085",
        '\u{2028}' => b"\\u2028",
        '\u{2029}' => b"\\u2029",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: &str) {
        let written = String::from_utf8(to_vec(&text)).expect("JSON is UTF-8");
        let mut copied = b"x".to_vec();
        append_text(&mut copied, text);
        assert_eq!(copied[1..], *written.as_bytes(), "{text:?}");
        assert_eq!(written, format!("\"{expected}\""));
        let back: String = serde_json::from_str(&written).expect("valid JSON");
        assert_eq!(back, text, "reads back as it was");
    }

    #[test]
    fn characters_at_which_clients_stumble_are_escaped() {
        check("plain é 😀", "plain é 😀");
        check("a<b>&c", "a\\u003cb\\u003e\\u0026c");
        check("\u{85}x\u{2028}y\u{2029}", "\\u0085x\\u2028y\\u2029");
        check("â\u{80}Â–—", "â\u{80}Â–—");
        check("\"\\\n\t\u{1}", "\\\"\\\\\\n\\t\\u0001");
        check("<", "\\u003c");
        check("", "");
    }

    #[test]
    fn numbers_are_written_as_go_writes_them() {
        let check = |value: f64, expected: &str| {
            assert_eq!(String::from_utf8(to_vec(&value)).expect("JSON is UTF-8"), expected);
        };
        check(1.0, "1");
        check(-3.0, "-3");
        check(0.0, "0");
        check(-0.0, "-0.0");
        check(0.5, "0.5");
        check(1e300, "1e+300");
        check(1e-7, "1e-7");
        assert_eq!(to_vec(&[0.6_f32, 1.0]), b"[0.6,1]");
    }

    #[test]
    fn a_line_ends_in_its_only_newline() {
        let mut out = b"before".to_vec();
        append_line(&mut out, &"two\nlines\u{2028}");
        assert_eq!(out, b"before\"two\\nlines\\u2028\"\n");
    }
}
