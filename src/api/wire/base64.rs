//! The base64 engine for what upstreams and clients send: the standard alphabet (RFC 4648 section 4).
//!
//! Padding is required and must be complete. Bits of the last digit that belong to no byte may be
//! set: some encoders leave them so. Nothing here accepts the URL-safe alphabet or white space.

use base64::alphabet;
use base64::engine::general_purpose::{GeneralPurpose, PAD};

/// Standard base64 with padding.
pub const BASE64: GeneralPurpose =
    GeneralPurpose::new(&alphabet::STANDARD, PAD.with_decode_allow_trailing_bits(true));

#[cfg(test)]
mod tests {
    use base64::Engine as _;

    use super::*;

    #[test]
    fn padded_standard_base64_is_decoded_and_nothing_else() {
        for (text, expected) in [
            ("", Some(&b""[..])),
            ("Zg==", Some(b"f")),
            ("Zh==", Some(b"f")),
            ("Zm8=", Some(b"fo")),
            ("Zm9v", Some(b"foo")),
            ("Zm9vYg==", Some(b"foob")),
            ("YW55OnB3Pz8/", Some(b"any:pw???")),
            ("/+8=", Some(b"\xff\xef")),
            ("Zg", None),
            ("Zg=", None),
            ("Z===", None),
            ("====", None),
            ("Zm9v=", None),
            ("Zg==Zg==", None),
            ("Z m9", None),
            ("Zm-_", None),
            ("Zm9v\n", None),
        ] {
            assert_eq!(BASE64.decode(text).ok().as_deref(), expected, "{text:?}");
        }
    }
}
