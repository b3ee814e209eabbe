//! The headers that the operator adds to each request of an upstream.
//!
//! They win over the client's and over our own of the same name, so that none is sent twice. Headers that
//! the framing or the body of a request determines are not the operator's to set.

use ureq::RequestBuilder;
use ureq::http::{HeaderName, HeaderValue};

use crate::observe::redact::Secret;

/// Headers that each request has by itself, in lower case.
const RESERVED: [&str; 9] = [
    "accept-encoding",
    "connection",
    "content-length",
    "expect",
    "keep-alive",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

const CONTENT_TYPE: &str = "content-type";

/// The headers of one upstream.
#[derive(Default)]
pub(super) struct AddedHeaders(Vec<(HeaderName, HeaderValue)>);

impl AddedHeaders {
    /// Those that a request can have; a later one of the same name wins.
    pub(super) fn new(headers: &[(String, Secret)]) -> Self {
        let mut added: Vec<(HeaderName, HeaderValue)> = Vec::new();
        for (name, value) in headers {
            let name = HeaderName::from_bytes(name.as_bytes());
            let (Ok(name), Ok(mut value)) = (name, HeaderValue::from_str(value.expose())) else {
                continue;
            };
            if RESERVED.contains(&name.as_str()) {
                continue;
            }
            value.set_sensitive(true);
            added.retain(|(known, _)| *known != name);
            added.push((name, value));
        }
        Self(added)
    }

    /// Whether there is one of this name, which is in lower case.
    pub(super) fn contains(&self, name: &str) -> bool {
        self.0.iter().any(|(known, _)| known.as_str() == name)
    }

    /// Adds them to a request. The type of a body that is no JSON stays.
    pub(super) fn add<B>(&self, builder: RequestBuilder<B>, is_json: bool) -> RequestBuilder<B> {
        let added = self.0.iter().filter(|(name, _)| is_json || name.as_str() != CONTENT_TYPE);
        added.fold(builder, |builder, (name, value)| builder.header(name, value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_header_of_a_name_wins_and_impossible_ones_are_left_out() {
        let secret = |(name, value): (&str, &str)| (name.to_owned(), Secret::new(value));
        let headers = [("X-A", "1"), ("x-a", "2"), ("Host\n", "3"), ("Connection", "close")];
        let added = AddedHeaders::new(&headers.map(secret));
        let texts: Vec<_> = added.0.iter().map(|(name, value)| (name.as_str(), value)).collect();
        assert_eq!(texts, [("x-a", &HeaderValue::from_static("2"))]);
        assert!(added.contains("x-a") && !added.contains("host"));
    }
}
