//! Finds requests that tiny_http would never finish.
//!
//! tiny_http 0.12 reads a request of HTTP/2 or HTTP/3 in the text form of HTTP/1 and then waits for it
//! to be answered, while nobody but itself has it: its thread and two descriptors are lost. Clients that
//! expect HTTP/2 begin each connection with such a request (RFC 9113 section 3.4). Pure. Looks where
//! requests begin as clients send them: at the beginning of what arrives at once, and behind the empty
//! line that ends a head. A client that sends its request line in pieces, or a request directly behind a
//! body, is not found, because that takes a second parser of all that arrives.

/// Whether a request of another version than HTTP/1 begins in what arrived. `goes_on` says that its
/// beginning is none of a request.
pub(super) fn has_other_version(received: &[u8], goes_on: bool) -> bool {
    let (mut rest, mut is_beginning) = (received, !goes_on);
    loop {
        if is_beginning && is_other_version(rest) {
            return true;
        }
        match rest.windows(4).position(|bytes| bytes == b"\r\n\r\n") {
            Some(end) => (rest, is_beginning) = (&rest[end + 4..], true),
            None => return false,
        }
    }
}

/// Whether the first line is `METHOD TARGET VERSION` with such a version, as tiny_http splits it.
fn is_other_version(text: &[u8]) -> bool {
    let end = text.windows(2).position(|bytes| bytes == b"\r\n").unwrap_or(text.len());
    let version = text[..end].trim_ascii().split(|byte| *byte == b' ').nth(2);
    version.is_some_and(|version| matches!(version, b"HTTP/2.0" | b"HTTP/3.0"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_versions_are_found_where_requests_begin() {
        for text in [
            "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
            "GET / HTTP/3.0\r\nHost: h\r\n\r\n",
            "  GET / HTTP/2.0 x\r\n",
            "A: b HTTP/2.0\t\r\n",
            "GET / HTTP/2.0",
            "GET / HTTP/1.1\r\nHost: h\r\n\r\nGET / HTTP/2.0\r\n\r\n",
        ] {
            assert!(has_other_version(text.as_bytes(), false), "{text:?}");
        }
        for text in [
            "",
            "GET / HTTP/1.1\r\nHost: h\r\nVia: HTTP/2.0 proxy\r\nX-Request: GET / HTTP/2.0\r\n\r\n{}",
            "GET / HTTP/1.1\r\nUpgrade: TLS/1.0, HTTP/2.0\r\n\r\n",
            "GET HTTP/2.0\r\n\r\n",
            "POST / HTTP/1.1\r\nContent-Length: 20\r\n\r\n{\"a\": \"GET / HTTP/2.0\"}",
            "GET / HTTP/2.01\r\n",
            "HTTP/2.0 200 OK\r\n\r\n",
        ] {
            assert!(!has_other_version(text.as_bytes(), false), "{text:?}");
        }
        // The rest of a header.
        assert!(!has_other_version(b"GET / HTTP/2.0\r\n\r\n", true));
        assert!(has_other_version(b"x y HTTP/2.0\r\n\r\nGET / HTTP/2.0\r\n\r\n", true));
    }
}
