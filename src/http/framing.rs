//! Checks that a request's head has exactly one meaning, against request smuggling.
//!
//! tiny_http accepts heads that other servers read differently: two lengths, codings other than
//! `chunked` (CVE-2026-66752), line breaks inside values (CVE-2026-66753). Two servers that disagree
//! about the end of a request let a client hide a second request from the first server. Pure; knows
//! no socket. Invariant: every head is checked before its request is used, and a bad head is the
//! last one on its connection.
//!
//! A rejected head gets 400 before any handler runs (RFC 9112 sections 3 and 6). Rejected are:
//!
//! - a repeated, non-numeric or overflowing `Content-Length`;
//! - `Content-Length` together with `Transfer-Encoding`;
//! - a `Transfer-Encoding` other than a single `chunked`, or any in HTTP/1.0;
//! - control characters other than tab in a header value, and header names that are no tokens or longer
//!   than 256 bytes;
//! - several `Host` headers, more than 100 headers, a request line above 16 KiB.
//!
//! The thread that receives checks each head, so it looks at eight bytes of a value at once.
//!
//! One gap: tiny_http trims all white space around a header value, also a vertical tab or a bare
//! line feed, before this check sees it.

/// Most header lines of a request.
const MAX_HEADERS: usize = 100;

/// Longest name of a header, in bytes.
const MAX_NAME_BYTES: usize = 256;

/// Longest request line, in bytes.
const MAX_REQUEST_LINE: usize = 16 * 1024;

/// The fault of a head, for the log; `None` if it has none (RFC 9112 sections 3 and 6).
pub fn check_head<'a>(
    method: &str,
    target: &str,
    is_http10: bool,
    headers: impl Iterator<Item = (&'a str, &'a str)>,
) -> Option<&'static str> {
    // Two spaces and `HTTP/1.1`.
    if method.len() + target.len() + 10 > MAX_REQUEST_LINE {
        return Some("request line longer than 16 KiB");
    }
    let is_blank = |byte: u8| byte <= b' ' || byte == 0x7f;
    if !is_token(method) || holds(target.as_bytes(), b' ', is_blank) {
        return Some("malformed request line");
    }
    let (mut count, mut hosts, mut length, mut coding) = (0, 0, None, None);
    for (name, value) in headers {
        count += 1;
        if count > MAX_HEADERS {
            return Some("more than 100 headers");
        }
        // RFC 9110 section 5.5.
        let is_forbidden = |byte: u8| byte.is_ascii_control() && byte != b'\t';
        let is_name = name.len() <= MAX_NAME_BYTES && is_token(name);
        if !is_name || holds(value.as_bytes(), 0x1f, is_forbidden) {
            return Some("malformed header");
        }
        let (known, holds) = if name.eq_ignore_ascii_case("Content-Length") {
            (&mut length, is_content_length(value))
        } else if name.eq_ignore_ascii_case("Transfer-Encoding") {
            (&mut coding, value.eq_ignore_ascii_case("chunked") && !is_http10)
        } else {
            hosts += usize::from(name.eq_ignore_ascii_case("Host"));
            continue;
        };
        if known.replace(()).is_some() || !holds {
            return Some("ambiguous body length (Content-Length, Transfer-Encoding)");
        }
    }
    match (length, coding) {
        (Some(()), Some(())) => Some("ambiguous body length (Content-Length, Transfer-Encoding)"),
        _ if hosts > 1 => Some("more than one Host header"),
        _ => None,
    }
}

/// Digits only, within the range of `usize`.
fn is_content_length(value: &str) -> bool {
    value.bytes().all(|byte| byte.is_ascii_digit()) && value.parse::<usize>().is_ok()
}

/// True if one of the bytes `is_forbidden`, which only those up to `last`, DEL and those above ASCII may be.
/// Eight bytes are looked at in one step, and one by one only where they may hold such a byte.
fn holds(bytes: &[u8], last: u8, is_forbidden: impl Fn(u8) -> bool) -> bool {
    let has_forbidden = |bytes: &[u8]| bytes.iter().any(|byte| is_forbidden(*byte));
    let (least, ones) = (u64::from_ne_bytes([last + 1; 8]), u64::from_ne_bytes([1; 8]));
    let high_bits = u64::from_ne_bytes([0x80; 8]);
    let may_hold = |word: &[u8; 8]| {
        let word = u64::from_ne_bytes(*word);
        // The high bit of a byte is set if the byte is below `least`, or DEL, or above ASCII. A borrow or a
        // carry may set that of a neighbour, too, and never clears one of these.
        (word | word.wrapping_sub(least) | word.wrapping_add(ones)) & high_bits != 0
    };
    let (words, rest) = bytes.as_chunks::<8>();
    words.iter().any(|word| may_hold(word) && has_forbidden(word)) || has_forbidden(rest)
}

/// True for a `token` (RFC 9110 section 5.6.2).
fn is_token(text: &str) -> bool {
    let is_part = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    !text.is_empty() && text.bytes().all(is_part)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(headers: &[(&str, &str)], expected: Option<&str>) {
        let found = check_head("POST", "/api/chat?x=1", false, headers.iter().copied());
        assert_eq!(found, expected, "{headers:?}");
    }

    const BODY: Option<&str> = Some("ambiguous body length (Content-Length, Transfer-Encoding)");
    const HEADER: Option<&str> = Some("malformed header");

    #[test]
    fn a_length_or_chunks_are_accepted() {
        for headers in [
            &[][..],
            &[("Host", "h"), ("content-length", "0"), ("X", "")],
            &[("Content-Length", "18446744073709551615")],
            &[("Transfer-Encoding", "chunked"), ("Trailer", "x")],
            &[("transfer-encoding", "Chunked")],
        ] {
            check(headers, None);
        }
    }

    #[test]
    fn a_body_must_have_one_end() {
        check(&[("Content-Length", "5"), ("Transfer-Encoding", "chunked")], BODY);
        check(&[("Transfer-Encoding", "chunked"), ("Content-Length", "5")], BODY);
        check(&[("Content-Length", "5"), ("Content-Length", "5")], BODY);
        check(&[("Transfer-Encoding", "chunked"), ("Transfer-Encoding", "chunked")], BODY);
        for length in ["", "+5", "-5", "5, 5", "5 5", "0x5", "5.0", "18446744073709551616", "five"]
        {
            check(&[("Content-Length", length)], BODY);
        }
        for coding in ["", "gzip", "gzip, chunked", "chunked, chunked", "xchunked", "identity"] {
            check(&[("Transfer-Encoding", coding)], BODY);
        }
        let headers = [("Transfer-Encoding", "chunked")].into_iter();
        assert_eq!(check_head("POST", "/", true, headers), BODY);
    }

    #[test]
    fn names_and_values_have_only_allowed_characters() {
        check(&[("X", "a\tb \u{e9}")], None);
        for value in ["a\rb", "a\nb", "a\0b", "\r\nX: y", "\x7f", "\x1b[0m"] {
            check(&[("X", value)], HEADER);
        }
        for name in ["", "X Y", "X:", "Content-Length\t", "X\0", "\u{e9}", "(x)"] {
            check(&[(name, "v")], HEADER);
        }
        check(&[("Host", "a"), ("host", "a")], Some("more than one Host header"));
    }

    #[test]
    fn every_byte_is_found_at_every_place() {
        let is_forbidden = |byte: u8| byte.is_ascii_control() && byte != b'\t';
        for byte in 0..=u8::MAX {
            for place in 0..20 {
                for filler in *b" ~a\t" {
                    let mut bytes = [filler; 20];
                    bytes[place] = byte;
                    let found = holds(&bytes, 0x1f, is_forbidden);
                    assert_eq!(found, is_forbidden(byte), "{byte:#x} at {place} in {filler:#x}");
                }
            }
        }
    }

    #[test]
    fn a_head_has_100_lines() {
        check(&[("X", "y"); 100], None);
        check(&[("X", "y"); 101], Some("more than 100 headers"));
        check(&[(&"X".repeat(MAX_NAME_BYTES), "y")], None);
        check(&[(&"X".repeat(MAX_NAME_BYTES + 1), "y")], HEADER);
    }

    #[test]
    fn a_request_line_has_16_kib_and_no_odd_characters() {
        let line =
            |method: &str, target: &str| check_head(method, target, false, std::iter::empty());
        // `GET`, two spaces and the version have 13 bytes.
        assert_eq!(line("GET", &"x".repeat(MAX_REQUEST_LINE - 13)), None);
        let too_long = Some("request line longer than 16 KiB");
        assert_eq!(line("GET", &"x".repeat(MAX_REQUEST_LINE - 12)), too_long);
        assert_eq!(line(&"X".repeat(MAX_REQUEST_LINE), "/"), too_long);
        assert_eq!(line("OPTIONS", "*"), None);
        let malformed = Some("malformed request line");
        for (method, target) in
            [("", "/"), ("G T", "/"), ("G\nT", "/"), ("GET", "/\n"), ("GET", "/\0"), ("GET", "/ x")]
        {
            assert_eq!(line(method, target), malformed, "{method:?} {target:?}");
        }
    }
}
