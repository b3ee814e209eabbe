//! Whether a request's head can be understood in one way only.
//!
//! tiny_http takes what another server would take differently: two lengths, other codings than
//! `chunked` (CVE-2026-66752), line breaks inside values (CVE-2026-66753). Where two servers
//! disagree on where a request ends, somebody can smuggle a second one past the first. So every head
//! is checked here before anything else is done with it, and one that fails is the last on its
//! connection. Pure.

/// Header lines of a request.
const MAX_HEADERS: usize = 100;

/// Bytes of a request line.
const MAX_REQUEST_LINE: usize = 16 * 1024;

/// What is wrong with a head, for the log; `None` when nothing is (RFC 9112, 3 and 6).
#[must_use]
pub fn check_head<'a>(
    method: &str,
    target: &str,
    is_http10: bool,
    headers: impl Iterator<Item = (&'a str, &'a str)>,
) -> Option<&'static str> {
    // Two blanks and `HTTP/1.1`.
    if method.len() + target.len() + 10 > MAX_REQUEST_LINE {
        return Some("its request line is too long");
    }
    if !is_token(method) || target.bytes().any(|byte| byte <= b' ' || byte == 0x7f) {
        return Some("its request line is none");
    }
    let (mut count, mut hosts, mut length, mut coding) = (0, 0, None, None);
    for (name, value) in headers {
        count += 1;
        if !is_token(name) || value.bytes().any(is_forbidden_in_value) {
            return Some("a header is none");
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
            return Some("the end of its body is not certain");
        }
    }
    match (length, coding) {
        (Some(()), Some(())) => Some("the end of its body is not certain"),
        _ if count > MAX_HEADERS => Some("it has too many headers"),
        _ if hosts > 1 => Some("it has several hosts"),
        _ => None,
    }
}

/// Digits only, and not more than a length can have.
fn is_content_length(value: &str) -> bool {
    value.bytes().all(|byte| byte.is_ascii_digit()) && value.parse::<usize>().is_ok()
}

/// A character of a header's value that is none (RFC 9110, 5.5).
fn is_forbidden_in_value(byte: u8) -> bool {
    (byte < b' ' && byte != b'\t') || byte == 0x7f
}

/// RFC 9110, 5.6.2.
fn is_token(text: &str) -> bool {
    let is_part = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    !text.is_empty() && text.bytes().all(is_part)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(headers: &[(&str, &str)], expected: Option<&str>) {
        let (method, target, old) = ("POST", "/api/chat?x=1", false);
        let found = check_head(method, target, old, headers.iter().copied());
        assert_eq!(found, expected, "{headers:?}");
    }

    const BODY: Option<&str> = Some("the end of its body is not certain");
    const HEADER: Option<&str> = Some("a header is none");

    #[test]
    fn one_length_or_chunks_will_do() {
        check(&[], None);
        check(&[("Host", "h"), ("content-length", "0"), ("X", "")], None);
        check(&[("Content-Length", "18446744073709551615")], None);
        check(&[("Transfer-Encoding", "chunked"), ("Trailer", "x")], None);
        check(&[("transfer-encoding", "Chunked")], None);
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
    fn names_and_values_are_what_they_must_be() {
        check(&[("X", "a\tb \u{e9}")], None);
        for value in ["a\rb", "a\nb", "a\0b", "\r\nX: y", "\x7f", "\x1b[0m"] {
            check(&[("X", value)], HEADER);
        }
        for name in ["", "X Y", "X:", "Content-Length\t", "X\0", "\u{e9}", "(x)"] {
            check(&[(name, "v")], HEADER);
        }
        check(&[("Host", "a"), ("host", "a")], Some("it has several hosts"));
    }

    #[test]
    fn a_head_has_100_lines() {
        check(&[("X", "y"); 100], None);
        check(&[("X", "y"); 101], Some("it has too many headers"));
    }

    #[test]
    fn a_request_line_has_16_kib_and_no_odd_characters() {
        let line =
            |method: &str, target: &str| check_head(method, target, false, std::iter::empty());
        // `GET`, two blanks and the version are 13.
        assert_eq!(line("GET", &"x".repeat(MAX_REQUEST_LINE - 13)), None);
        let long = Some("its request line is too long");
        assert_eq!(line("GET", &"x".repeat(MAX_REQUEST_LINE - 12)), long);
        assert_eq!(line(&"X".repeat(MAX_REQUEST_LINE), "/"), long);
        assert_eq!(line("OPTIONS", "*"), None);
        let none = Some("its request line is none");
        for (method, target) in
            [("", "/"), ("G T", "/"), ("G\nT", "/"), ("GET", "/\n"), ("GET", "/\0"), ("GET", "/ x")]
        {
            assert_eq!(line(method, target), none, "{method:?} {target:?}");
        }
    }
}
