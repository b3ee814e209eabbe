//! What the receiving thread needs of a request's head, found in one pass over its headers.
//!
//! Never looks at more of a value than its framing check does. Invariant: the first header of a name counts.

use tiny_http::{HTTPVersion, Request};

use crate::http::client_keys::Credentials;
use crate::http::framing;

/// Longest `Connection` header that is read; a longer one closes the connection.
const MAX_CONNECTION_BYTES: usize = 256;

/// The headers of a request by which it is decided whether it is served, and the fault of the head.
#[derive(Default)]
pub struct RequestHead<'a> {
    /// The fault, for the log; `None` if it has none. Behind a fault nothing was looked at.
    pub fault: Option<&'static str>,
    /// `Origin`.
    pub origin: Option<&'a str>,
    /// `Host`.
    pub host: Option<&'a str>,
    /// `Sec-Fetch-Site`.
    pub fetch_site: Option<&'a str>,
    /// The headers that may hold a key.
    pub credentials: Credentials<'a>,
    /// What becomes of the connection.
    pub connection: ConnectionHeader,
}

/// What the header `Connection` asks for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ConnectionHeader {
    /// The connection is kept, which HTTP/1.0 does not do by itself.
    pub keep_alive: bool,
    /// The response is the last one.
    pub close: bool,
}

impl<'a> RequestHead<'a> {
    /// Checks and reads the head of a request.
    pub fn read(request: &'a Request) -> Self {
        let mut head = Self::default();
        let headers = request.headers().iter().map(|header| {
            let (name, value) = (header.field.as_str().as_str(), header.value.as_str());
            head.note(name, value);
            (name, value)
        });
        let is_http10 = *request.http_version() < HTTPVersion(1, 1);
        let (method, target) = (request.method().as_str(), request.url());
        head.fault = framing::check_head(method, target, is_http10, headers);
        head
    }

    fn note(&mut self, name: &str, value: &'a str) {
        if name.eq_ignore_ascii_case("Host") {
            self.host.get_or_insert(value);
        } else if name.eq_ignore_ascii_case("Origin") {
            self.origin.get_or_insert(value);
        } else if name.eq_ignore_ascii_case("Sec-Fetch-Site") {
            self.fetch_site.get_or_insert(value);
        } else if name.eq_ignore_ascii_case("Authorization") {
            self.credentials.authorization.get_or_insert(value);
        } else if name.eq_ignore_ascii_case("x-api-key") {
            self.credentials.api_key.get_or_insert(value);
        } else if name.eq_ignore_ascii_case("Connection")
            && self.connection == ConnectionHeader::default()
        {
            self.connection = ConnectionHeader::parse(value);
        }
    }
}

impl ConnectionHeader {
    fn parse(value: &str) -> Self {
        if value.len() > MAX_CONNECTION_BYTES {
            return Self { keep_alive: false, close: true };
        }
        let value = value.to_ascii_lowercase();
        let close = value.contains("close") || value.contains("upgrade");
        Self { keep_alive: value.contains("keep-alive"), close }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_header_connection_says_what_becomes_of_the_connection() {
        for (value, keep_alive, close) in [
            ("", false, false),
            ("Keep-Alive", true, false),
            ("close", false, true),
            ("keep-alive, Upgrade", true, true),
            (&"keep-alive,".repeat(100), false, true),
        ] {
            let expected = ConnectionHeader { keep_alive, close };
            assert_eq!(ConnectionHeader::parse(value), expected, "{value}");
        }
    }
}
