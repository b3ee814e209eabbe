//! The status and headers of an upstream's response that is passed on.
//!
//! Passes the status, the type of the body, and the headers by which a client counts its requests;
//! never cookies, framing or other headers that concern one hop only (RFC 9110 section 7.6.1).

/// Headers that clients read, beside those that begin with one of [`PASS_HEADER_PREFIXES`].
const PASS_HEADERS: &[&str] =
    &["content-type", "x-request-id", "retry-after", "retry-after-ms", "x-should-retry"];

/// Prefixes of headers that clients read.
const PASS_HEADER_PREFIXES: &[&str] = &["x-ratelimit-", "openai-"];

/// Tells the SDKs of OpenAI and Anthropic that a retry is useless (openai-python, _base_client.py,
/// `_should_retry`).
pub const RETRY_FORBIDDEN: (&str, &str) = ("x-should-retry", "false");

/// The part of a response's head that is passed on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PassHead {
    /// The status.
    pub status: u16,
    /// The headers.
    pub headers: Vec<(String, String)>,
}

impl PassHead {
    /// Selects what is passed on of a head whose header names are in lower case.
    pub fn from_headers<'a>(
        status: u16,
        headers: impl Iterator<Item = (&'a str, &'a str)>,
    ) -> Self {
        let is_passed = |name: &str| {
            PASS_HEADERS.contains(&name)
                || PASS_HEADER_PREFIXES.iter().any(|family| name.starts_with(family))
        };
        let passed = headers.filter(|(name, _)| is_passed(name));
        // `Content-Type` is spelled as in all other responses.
        let spelled = |name| if name == "content-type" { "Content-Type" } else { name };
        let headers = passed.map(|(name, value)| (spelled(name).to_owned(), value.to_owned()));
        Self { status, headers: headers.collect() }
    }

    /// The head of a success with a body of this type.
    pub fn of_type(content_type: &str) -> Self {
        let headers = vec![("Content-Type".to_owned(), content_type.to_owned())];
        Self { status: 200, headers }
    }

    /// A header's value.
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut headers = self.headers.iter();
        headers.find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    /// Makes `x-should-retry`, by which OpenAI's SDKs decide about a retry, say no.
    pub fn forbid_retry(&mut self) {
        let (name, value) = RETRY_FORBIDDEN;
        self.headers.retain(|(known, _)| !known.eq_ignore_ascii_case(name));
        self.headers.push((name.to_owned(), value.to_owned()));
    }

    /// True if the body is a stream of events.
    pub fn is_event_stream(&self) -> bool {
        self.has_type("text/event-stream")
    }

    /// True if the body is lines of JSON.
    pub fn is_ndjson(&self) -> bool {
        self.has_type("application/x-ndjson")
    }

    /// True if the body is JSON, as far as the type tells.
    pub fn may_be_json(&self) -> bool {
        self.has_type("application/json") || self.header("content-type").is_none()
    }

    fn has_type(&self, expected: &str) -> bool {
        let kind = self.header("content-type").unwrap_or_default();
        let kind = kind.split(';').next().unwrap_or_default();
        kind.trim().eq_ignore_ascii_case(expected)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_client_reads_is_passed_and_nothing_else() {
        let head = PassHead::from_headers(
            429,
            [
                ("content-type", "Text/Event-Stream; charset=utf-8"),
                ("content-length", "5"),
                ("transfer-encoding", "chunked"),
                ("connection", "keep-alive"),
                ("set-cookie", "a=b"),
                ("server", "x"),
                ("access-control-allow-origin", "*"),
                ("x-request-id", "req_u"),
                ("retry-after", "3"),
                ("retry-after-ms", "3000"),
                ("x-should-retry", "false"),
                ("x-ratelimit-remaining-tokens", "7"),
                ("openai-processing-ms", "9"),
                ("openai-organization", "o"),
            ]
            .into_iter(),
        );
        let names: Vec<&str> = head.headers.iter().map(|(name, _)| name.as_str()).collect();
        let expected = [
            "Content-Type",
            "x-request-id",
            "retry-after",
            "retry-after-ms",
            "x-should-retry",
            "x-ratelimit-remaining-tokens",
            "openai-processing-ms",
            "openai-organization",
        ];
        assert_eq!(names, expected);
        assert_eq!((head.status, head.header("X-Request-ID")), (429, Some("req_u")));
        assert!(head.is_event_stream());
        assert!(!PassHead::default().is_event_stream());
    }
}
