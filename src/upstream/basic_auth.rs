//! The user name and password in a URL, and the header value that they become.
//!
//! Pure. RFC 7617: `Basic`, and the base64 of `user:password`. Both parts are percent-decoded first
//! (RFC 3986 section 3.2.1). Invariant: neither `Debug` nor an error shows any part of them.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use percent_encoding::percent_decode_str;

use crate::observe::redact::Secret;

/// A user name and a password, decoded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BasicAuth {
    user: Secret,
    password: Secret,
    header_value: Secret,
    /// As it stands in the URL.
    encoded_password: Secret,
}

impl BasicAuth {
    /// Parses `user:password` or `user`.
    ///
    /// # Errors
    /// What is wrong; repeats no part of `text`.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (user, encoded_password) = text.split_once(':').unwrap_or((text, ""));
        let decode = |part| percent_decode_str(part).decode_utf8().map(|text| text.into_owned());
        let (Ok(user), Ok(password)) = (decode(user), decode(encoded_password)) else {
            return Err("user name and password must be UTF-8".to_owned());
        };
        if user.contains(':') {
            return Err("the user name must not hold a colon".to_owned());
        }
        if format!("{user}{password}").contains(char::is_control) {
            return Err("user name and password must not hold control characters".to_owned());
        }
        let header_value = format!("Basic {}", STANDARD.encode(format!("{user}:{password}")));
        Ok(Self {
            user: Secret::new(user),
            password: Secret::new(password),
            header_value: Secret::new(header_value),
            encoded_password: Secret::new(encoded_password),
        })
    }

    /// The value of `Authorization` or `Proxy-Authorization`.
    pub fn header_value(&self) -> &Secret {
        &self.header_value
    }

    /// The user name.
    pub fn user(&self) -> &Secret {
        &self.user
    }

    /// The password; empty if there is none.
    pub fn password(&self) -> &Secret {
        &self.password
    }

    /// What must be masked in texts: the password in all its spellings. A user name without a password is
    /// a token.
    pub fn secrets(&self) -> impl Iterator<Item = &Secret> {
        let is_token = self.password.expose().is_empty();
        let password = if is_token { &self.user } else { &self.password };
        [password, &self.encoded_password, &self.header_value].into_iter()
    }

    /// The base64 of both parts alone, which a text may show without `Basic`.
    pub fn token(&self) -> Secret {
        Secret::new(self.header_value.expose().trim_start_matches("Basic "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_parts_are_decoded_and_become_a_header() {
        let check = |text: &str, expected: &str| {
            let auth = BasicAuth::parse(text).unwrap_or_else(|error| panic!("{text}: {error}"));
            let sent = auth.header_value().expose().strip_prefix("Basic ").expect("the scheme");
            let sent = STANDARD.decode(sent).expect("base64");
            assert_eq!(String::from_utf8(sent).as_deref(), Ok(expected), "{text}");
            assert_eq!(auth.token().expose(), STANDARD.encode(expected));
        };
        // The example of RFC 7617 section 2.
        let auth = BasicAuth::parse("Aladdin:open%20sesame").expect("both parts");
        assert_eq!(auth.header_value().expose(), "Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==");
        check("me:a%40b%3A%2F%25", "me:a@b:/%");
        check("me:a:b+c", "me:a:b+c");
        check("me", "me:");
        check("me:", "me:");
        check(":x", ":x");
        check("%c3%bc:%C3%BC", "ü:ü");
    }

    #[test]
    fn what_no_header_can_hold_is_refused() {
        for text in ["a%3Ab:s3cret", "a:s3cret%ff", "%ff:s3cret", "a:s3cret%0d%0a", "a%00:s3cret"] {
            let error = BasicAuth::parse(text).expect_err(text);
            assert!(!error.contains("s3cret"), "{error}");
        }
    }

    #[test]
    fn nothing_of_it_is_shown() {
        let auth = BasicAuth::parse("us3r:s3cret%21").expect("both parts");
        let shown = format!("{auth:?}");
        assert!(!shown.contains("s3") && !shown.contains("dXMzc"), "{shown}");
        let secrets: Vec<_> = auth.secrets().map(Secret::expose).collect();
        assert_eq!(secrets[..2], ["s3cret!", "s3cret%21"]);
        let token = BasicAuth::parse("t0ken").expect("one part");
        assert_eq!(token.secrets().next().map(Secret::expose), Some("t0ken"));
    }
}
