//! How much memory JSON takes beside its text once it is parsed and written again.
//!
//! Many small members cost much more than text: an object of one member is 7 bytes of JSON and some 650 bytes
//! of a tree. Never parses; counts what begins values in one pass. Pure. Invariant: an upper bound for what
//! this program makes of a request or a whole response, by measurement, except that texts in another form than
//! JSON or standard base64 may be copied once more.

use memchr::{memchr, memchr2};

/// An object with members: the first node of its tree.
const OBJECT_BYTES: usize = 720;

/// A list with elements: its first allocation.
const LIST_BYTES: usize = 160;

/// One more element or member.
const ELEMENT_BYTES: usize = 40;

/// A text, beside its bytes.
const TEXT_BYTES: usize = 40;

/// Base64 of at least so many bytes is borrowed from the request.
const MIN_MEDIA_BYTES: usize = 64 * 1024;

/// The members that hold base64.
const MEDIA_KEYS: [&[u8]; 5] = [b"images", b"url", b"image_url", b"data", b"file_data"];

/// Bytes that parsing a text, and writing it in another form, may take beside the text itself.
pub fn parsed_bytes(text: &[u8]) -> usize {
    let (mut bytes, mut at, mut is_media) = (0_usize, 0, false);
    while let Some(byte) = text.get(at) {
        at += 1;
        bytes += match byte {
            b'"' => {
                let (length, has_escape) = measure_string(&text[at..]);
                let string = &text[at..at + length];
                at = (at + length + 1).min(text.len());
                let is_key = first_byte(&text[at..]) == Some(b':');
                let is_borrowed = is_media && !is_key && is_standard_base64(string);
                if is_key {
                    is_media = MEDIA_KEYS.contains(&string);
                }
                match (is_borrowed, has_escape) {
                    (true, false) => TEXT_BYTES,
                    (_, false) => TEXT_BYTES + length,
                    // Parsed to a text of its own, and escaped again.
                    (_, true) => TEXT_BYTES + 2 * length,
                }
            }
            b'{' if first_byte(&text[at..]) != Some(b'}') => OBJECT_BYTES,
            b'[' if first_byte(&text[at..]) != Some(b']') => LIST_BYTES,
            b',' => ELEMENT_BYTES,
            _ => 1,
        };
    }
    bytes
}

fn first_byte(text: &[u8]) -> Option<u8> {
    text.iter().copied().find(|byte| !byte.is_ascii_whitespace())
}

/// The length of a string from behind its quotation mark, and whether it has escapes.
fn measure_string(text: &[u8]) -> (usize, bool) {
    let (mut at, mut has_escape) = (0, false);
    while let Some(place) = memchr2(b'"', b'\\', &text[at..]) {
        if text[at + place] == b'"' {
            return (at + place, has_escape);
        }
        has_escape = true;
        at = (at + place + 2).min(text.len());
    }
    (text.len(), has_escape)
}

/// Whether a text may be base64 that is sent as it is: not of the alphabet for URLs.
fn is_standard_base64(text: &[u8]) -> bool {
    text.len() >= MIN_MEDIA_BYTES
        && memchr2(b'-', b'_', text).is_none()
        && memchr(b' ', text).is_none()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What was measured: bytes of memory beside the text, for each byte of the text.
    #[test]
    fn the_bound_is_above_what_was_measured_and_not_far_above() {
        let check = |unit: &str, measured: f64| {
            let text = format!("[{}]", unit.repeat(10_000));
            let factor = parsed_bytes(text.as_bytes()) as f64 / text.len() as f64;
            assert!(factor >= measured && factor < measured * 2.0 + 1.0, "{unit}: {factor}");
        };
        check("1,", 16.0);
        check("{\"a\":1},", 88.0);
        check("[[[1]]],", 58.0);
        check("{},", 10.7);
        check("{\"abcdef\":\"ghijkl\",\"mnop\":[true,null]},", 23.6);
        check("{\"role\":\"user\",\"content\":\"x\"},", 28.1);
        check("\"x\",", 20.1);
    }

    #[test]
    fn a_text_is_copied_once_and_twice_with_escapes_and_base64_not_at_all() {
        let cost = |text: &str| parsed_bytes(text.as_bytes());
        let long = "QUJD".repeat(MIN_MEDIA_BYTES / 4);
        let near = |found: usize, expected: usize| {
            assert!((expected..expected + 2000).contains(&found), "{found}, {expected}");
        };
        near(cost(&format!("{{\"content\":\"{long}\"}}")), long.len());
        near(cost(&format!("{{\"content\":\"\\n{long}\"}}")), 2 * long.len());
        for key in MEDIA_KEYS.map(|key| String::from_utf8_lossy(key).into_owned()) {
            near(cost(&format!("{{\"{key}\" : [\"{long}\"]}}")), 0);
            near(cost(&format!("{{\"{key}\":\"{long}-\"}}")), long.len());
            near(cost(&format!("{{\"{key}\":\"\",\"content\":\"{long}\"}}")), long.len());
        }
        near(cost(&format!("\"images\",\"{long}\"")), long.len());
    }

    #[test]
    fn any_bytes_have_a_cost() {
        for text in ["", "\"", "\"\\", "\"\\\"", "{", "[", "\\", "nonsense", "\"a\\", "\u{fffd}\""]
        {
            assert!(parsed_bytes(text.as_bytes()) < 2000, "{text}");
        }
    }
}
