//! Go's constants: which are good, what the bad ones are called, and how texts are quoted.

use std::fmt::Write as _;

use super::lexer::is_alphanumeric;

/// What Go says of a broken quotation.
const INVALID: &str = "invalid syntax";

/// The length of the number that a text begins with, signs and an imaginary unit included; when a
/// letter or digit follows at once, the length with that as an error.
pub(super) fn number_length(text: &str) -> Result<usize, usize> {
    let bytes = text.as_bytes();
    let accept = |at: &mut usize, wanted: &[u8]| {
        let found = bytes.get(*at).is_some_and(|byte| wanted.contains(byte));
        *at += usize::from(found);
        found
    };
    let run = |at: &mut usize, wanted: &[u8]| while accept(at, wanted) {};
    let mut at = 0;
    accept(&mut at, b"+-");
    let (mut digits, mut exponent): (&[u8], &[u8]) = (b"0123456789_", b"eE");
    if accept(&mut at, b"0") {
        if accept(&mut at, b"xX") {
            (digits, exponent) = (b"0123456789abcdefABCDEF_", b"pP");
        } else if accept(&mut at, b"oO") {
            (digits, exponent) = (b"01234567_", b"");
        } else if accept(&mut at, b"bB") {
            (digits, exponent) = (b"01_", b"");
        }
    }
    run(&mut at, digits);
    if accept(&mut at, b".") {
        run(&mut at, digits);
    }
    if accept(&mut at, exponent) {
        accept(&mut at, b"+-");
        run(&mut at, b"0123456789_");
    }
    accept(&mut at, b"i");
    match text[at..].chars().next().filter(|next| is_alphanumeric(*next)) {
        Some(next) => Err(at + next.len_utf8()),
        None => Ok(at),
    }
}

/// Whether Go can read a number that is none of two parts.
pub(super) fn number(text: &str) -> Result<(), String> {
    let imaginary = text.strip_suffix('i').is_some_and(is_float);
    if imaginary || is_integer(text) {
        return Ok(());
    }
    if !is_float(text) {
        return Err(format!("illegal number syntax: {}", quote(text)));
    }
    // A float that looks like an integer is one too large to be one.
    if text.contains(['.', 'e', 'E', 'p', 'P']) {
        Ok(())
    } else {
        Err(format!("integer overflow: {}", quote(text)))
    }
}

/// Whether a text is an integer of 64 bits in any base.
fn is_integer(text: &str) -> bool {
    let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
    let (base, digits) = match unsigned.as_bytes() {
        [b'0', b'x' | b'X', _, ..] => (16, &unsigned[2..]),
        [b'0', b'o' | b'O', _, ..] => (8, &unsigned[2..]),
        [b'0', b'b' | b'B', _, ..] => (2, &unsigned[2..]),
        [b'0', _, ..] => (8, &unsigned[1..]),
        _ => (10, unsigned),
    };
    if !digits.starts_with(|first: char| first == '_' || first.is_ascii_hexdigit()) {
        return false;
    }
    let value = u64::from_str_radix(&digits.replace('_', ""), base);
    let limit = match text.as_bytes().first() {
        Some(b'-') => 1 << 63,
        Some(b'+') => (1 << 63) - 1,
        _ => u64::MAX,
    };
    value.is_ok_and(|value| value <= limit) && underscores_part_digits(unsigned)
}

/// Whether a text is a floating-point number that is not too large.
fn is_float(text: &str) -> bool {
    let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
    if !underscores_part_digits(unsigned) {
        return false;
    }
    let digits = unsigned.replace('_', "");
    let Some(hexadecimal) = digits.strip_prefix("0x").or_else(|| digits.strip_prefix("0X")) else {
        let number = digits.starts_with(|first: char| first == '.' || first.is_ascii_digit());
        return number && digits.parse::<f64>().is_ok_and(f64::is_finite);
    };
    let Some((mantissa, exponent)) = hexadecimal.split_once(['p', 'P']) else { return false };
    let exponent = exponent.strip_prefix(['+', '-']).unwrap_or(exponent);
    let digits = mantissa.replacen('.', "", 1);
    let all = |text: &str, is: fn(&char) -> bool| !text.is_empty() && text.chars().all(|c| is(&c));
    all(&digits, char::is_ascii_hexdigit) && all(exponent, char::is_ascii_digit)
}

/// Whether every underscore of a number stands between two digits, or behind a base's prefix.
fn underscores_part_digits(unsigned: &str) -> bool {
    let bytes = unsigned.as_bytes();
    let (hexadecimal, start) = match bytes {
        [b'0', b'x' | b'X', ..] => (true, 2),
        [b'0', b'o' | b'O' | b'b' | b'B', ..] => (false, 2),
        _ => (false, 0),
    };
    let is_digit = |byte: &u8| byte.is_ascii_digit() || hexadecimal && byte.is_ascii_hexdigit();
    let digit_at = |at: usize| bytes.get(at).is_some_and(is_digit);
    (start..bytes.len()).filter(|at| bytes[*at] == b'_').all(|at| {
        let prefixed = start == 2 && at == 2;
        (prefixed || at > start && digit_at(at - 1)) && digit_at(at + 1)
    })
}

/// Whether a constant in single quotes is one character.
pub(super) fn character(text: &str) -> Result<(), String> {
    let (_, rest) = unescape(text.get(1..).unwrap_or_default(), '\'').ok_or(INVALID)?;
    if rest == "'" { Ok(()) } else { Err(format!("malformed character constant: {text}")) }
}

/// What a text constant means. Escapes can make bytes that are no text.
pub(super) fn unquote(text: &str) -> Result<Vec<u8>, String> {
    if text.starts_with('`') {
        return Ok(text.trim_matches('`').replace('\r', "").into_bytes());
    }
    let mut rest = text.get(1..).unwrap_or_default();
    let mut out = Vec::with_capacity(rest.len());
    while !matches!(rest, "\"" | "") {
        let (meant, behind) = unescape(rest, '"').ok_or(INVALID)?;
        match meant {
            Meant::Byte(byte) => out.push(byte),
            Meant::Char(character) => {
                out.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes());
            }
        }
        rest = behind;
    }
    Ok(out)
}

/// What a character, or an escape, stands for.
enum Meant {
    Byte(u8),
    Char(char),
}

/// The first character of a constant's inside, and what is behind it; `None` where Go finds none.
fn unescape(text: &str, quote: char) -> Option<(Meant, &str)> {
    let mut chars = text.chars();
    let first = chars.next()?;
    if first == quote {
        return None;
    }
    if first != '\\' {
        return Some((Meant::Char(first), chars.as_str()));
    }
    let escape = chars.next()?;
    let rest = chars.as_str();
    let meant = match escape {
        'a' => Meant::Byte(7),
        'b' => Meant::Byte(8),
        'f' => Meant::Byte(12),
        'n' => Meant::Byte(b'\n'),
        'r' => Meant::Byte(b'\r'),
        't' => Meant::Byte(b'\t'),
        'v' => Meant::Byte(11),
        '\\' => Meant::Byte(b'\\'),
        '\'' | '"' if escape == quote => Meant::Char(quote),
        'x' => return code(rest, 2, 16),
        'u' => return code(rest, 4, 16),
        'U' => return code(rest, 8, 16),
        '0'..='7' => return code(&text[1..], 3, 8),
        _ => return None,
    };
    Some((meant, rest))
}

/// An escape by number, of so many digits: a byte if they are two or three.
fn code(text: &str, length: usize, base: u32) -> Option<(Meant, &str)> {
    let digits = text.get(..length).filter(|it| it.chars().all(|digit| digit.is_digit(base)))?;
    let code = u32::from_str_radix(digits, base).ok()?;
    let meant = match length {
        2 | 3 => Meant::Byte(code.try_into().ok()?),
        _ => Meant::Char(char::from_u32(code)?),
    };
    Some((meant, &text[length..]))
}

/// A text in double quotes, as Go's `%q` writes it.
pub(super) fn quote(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for character in text.chars() {
        // Writing to a string cannot fail.
        let _ = match character {
            '"' | '\\' => write!(out, "\\{character}"),
            '\u{7}' => write!(out, "\\a"),
            '\u{8}' => write!(out, "\\b"),
            '\u{b}' => write!(out, "\\v"),
            '\u{c}' => write!(out, "\\f"),
            '\n' => write!(out, "\\n"),
            '\r' => write!(out, "\\r"),
            '\t' => write!(out, "\\t"),
            shown if is_shown(shown) => write!(out, "{shown}"),
            other => match u32::from(other) {
                code @ ..0x80 => write!(out, "\\x{code:02x}"),
                code @ ..0x1_0000 => write!(out, "\\u{code:04x}"),
                code => write!(out, "\\U{code:08x}"),
            },
        };
    }
    out.push('"');
    out
}

/// A character's number, and itself where it can be seen: Go's `%#U`.
pub(super) fn code_point(character: char) -> String {
    let code = format!("U+{:04X}", u32::from(character));
    if is_shown(character) { format!("{code} '{character}'") } else { code }
}

fn is_shown(character: char) -> bool {
    match character {
        ' '..='~' => true,
        '\0'..='\u{7f}' => false,
        // Rust escapes what cannot be printed.
        other => other.escape_debug().count() == 1,
    }
}
