//! Translates one entry of an `images` list to a content part.
//!
//! Clients send base64 in every spelling, `data:` URLs and lists of byte values; the upstream gets a
//! data URL or an audio part in standard, padded base64. The kind is read from the first bytes, as
//! Ollama does. Never decodes more than those bytes, converts no image and fetches no URL.
//! Invariant: text is checked in one pass; standard base64 is borrowed from the request, and any
//! other is copied once, into an allocation of exactly the right size.

pub mod documents;
mod json_string;

use std::borrow::Cow;
use std::ops::Range;

use base64::Engine as _;
use base64::alphabet;
use base64::engine::general_purpose::{GeneralPurpose, NO_PAD, STANDARD as STRICT};
use serde_json::value::RawValue;

use crate::api::ollama::decode::{self, GoString};
use crate::api::openai::request::ContentPart;
use crate::api::wire::base64::BASE64;
use crate::error::{Error, Result};

/// Reads one entry of an `images` list.
///
/// # Errors
/// [`Error::InvalidRequest`] for invalid base64, in Go's words and with the offset that Go names; for
/// URLs, for kinds that upstreams do not take, and for entries that are neither a string nor a list
/// of bytes.
pub fn parse_part<'a>(entry: &'a RawValue) -> Result<ContentPart<'a>> {
    let json = entry.get();
    match decode::go_type_of(json) {
        "string" => match json_string::unescape(json) {
            Some(text) => from_text(text),
            None => {
                let GoString(text) =
                    serde_json::from_str(json).map_err(|_| type_error("string"))?;
                from_text(text)
            }
        },
        "array" => {
            let bytes: Vec<u8> = serde_json::from_str(json).map_err(|_| {
                Error::invalid_request("json: cannot unmarshal array into Go value of type uint8")
            })?;
            from_text(Cow::Owned(BASE64.encode(bytes)))
        }
        _ if json == "null" => Err(empty_media_error()),
        kind => Err(type_error(kind)),
    }
}

/// Reads an `images` list.
///
/// # Errors
/// As [`parse_part`].
pub fn parse_parts<'a>(entries: Option<&[&'a RawValue]>) -> Result<Vec<ContentPart<'a>>> {
    entries.unwrap_or_default().iter().map(|entry| parse_part(entry)).collect()
}

/// The kind of a medium.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum MediaKind<'a> {
    /// An image of this MIME type.
    Image(&'a str),
    /// Audio of this format.
    Audio(&'static str),
    /// A kind that upstreams do not take, by its name for the error.
    Unsupported(&'a str),
}

/// What Ollama takes unknown bytes for.
const DEFAULT_KIND: MediaKind<'static> = MediaKind::Image("image/jpeg");

/// The kinds that begin with fixed bytes. JPEG comes before MP3: both begin with `FF`.
const SIGNATURES: &[(&[u8], MediaKind<'static>)] = &[
    (b"\x89PNG\r\n\x1a\n", MediaKind::Image("image/png")),
    (b"\xff\xd8\xff", MediaKind::Image("image/jpeg")),
    (b"GIF87a", MediaKind::Image("image/gif")),
    (b"GIF89a", MediaKind::Image("image/gif")),
    (b"BM", MediaKind::Image("image/bmp")),
    (b"II*\0", MediaKind::Image("image/tiff")),
    (b"MM\0*", MediaKind::Image("image/tiff")),
    (b"\0\0\x01\0", MediaKind::Image("image/x-icon")),
    (b"ID3", MediaKind::Audio("mp3")),
    (b"fLaC", MediaKind::Unsupported("FLAC audio")),
    (b"OggS", MediaKind::Unsupported("Ogg media")),
    (b"\x1a\x45\xdf\xa3", MediaKind::Unsupported("WebM video")),
    (b"%PDF", MediaKind::Unsupported("a PDF document")),
];

/// Bytes that suffice to recognise every kind: a multiple of 3, to end with a whole group of digits.
const SNIFF_LEN: usize = 12;

/// The kind by its first bytes; `None` if they match no signature.
fn sniff(head: &[u8]) -> Option<MediaKind<'static>> {
    if let Some((_, kind)) = SIGNATURES.iter().find(|(signature, _)| head.starts_with(signature)) {
        return Some(*kind);
    }
    let word = |at: usize| head.get(at..at + 4).unwrap_or_default();
    match (word(0), word(4), word(8)) {
        (b"RIFF", _, b"WEBP") => Some(MediaKind::Image("image/webp")),
        (b"RIFF", _, b"WAVE") => Some(MediaKind::Audio("wav")),
        (_, b"ftyp", brand) => Some(match brand {
            b"heic" | b"heix" | b"hevc" | b"hevx" | b"heim" | b"heis" => {
                MediaKind::Image("image/heic")
            }
            b"mif1" | b"msf1" => MediaKind::Image("image/heif"),
            b"avif" | b"avis" => MediaKind::Image("image/avif"),
            _ => MediaKind::Unsupported("MP4 video"),
        }),
        _ => match head {
            [0xff, second, ..] if second & 0xe0 == 0xe0 => Some(MediaKind::Audio("mp3")),
            _ => None,
        },
    }
}

/// The kind by the MIME type of a data URL, for bytes that match no signature.
fn kind_from_mime(mime: &str) -> MediaKind<'_> {
    let (class, name) = mime.split_once('/').unwrap_or_default();
    let is_name = !name.is_empty()
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte));
    let is = |known: &[&str]| known.iter().any(|known| name.eq_ignore_ascii_case(known));
    match class.to_ascii_lowercase().as_str() {
        "image" if is_name => MediaKind::Image(mime),
        "audio" if is(&["wav", "x-wav", "wave", "vnd.wave"]) => MediaKind::Audio("wav"),
        "audio" if is(&["mpeg", "mp3"]) => MediaKind::Audio("mp3"),
        "audio" => MediaKind::Unsupported("this audio format"),
        "video" => MediaKind::Unsupported("video"),
        "application" if is(&["pdf"]) => MediaKind::Unsupported("a PDF document"),
        _ => DEFAULT_KIND,
    }
}

/// A part from base64 or from a data URL, as of an entry of an `images` list.
///
/// # Errors
/// As [`parse_part`].
pub fn from_text(text: Cow<'_, str>) -> Result<ContentPart<'_>> {
    // White space at the end is cut off first, so that a final newline costs no copy.
    let end = text.trim_ascii_end().len();
    let (start, mime) = split_data_url(&text[..end])?;
    let scan = scan_base64(&text.as_bytes()[..end], start, text.len()).map_err(illegal_base64)?;
    if scan.digits == 0 {
        return Err(empty_media_error());
    }
    let head = decode_head(&text.as_bytes()[start..end]);
    match sniff(&head).unwrap_or_else(|| kind_from_mime(mime)) {
        MediaKind::Image(mime) => {
            let mime = mime.to_ascii_lowercase();
            Ok(ContentPart::image(mime, to_standard(text, start..end, &scan)?))
        }
        MediaKind::Audio(format) => {
            Ok(ContentPart::audio(to_standard(text, start..end, &scan)?, format))
        }
        MediaKind::Unsupported(name) => Err(Error::invalid_request(format!(
            "{name} is not supported: send an image (PNG, JPEG, ...) or WAV or MP3 audio"
        ))),
    }
}

/// The checked base64 at `range` in its standard form: borrowed if it has that form already, moved
/// within its own memory if the text is owned.
fn to_standard<'a>(
    text: Cow<'a, str>,
    range: Range<usize>,
    scan: &Base64Scan,
) -> Result<Cow<'a, str>> {
    let mut owned = match text {
        Cow::Borrowed(text) if scan.is_standard => return Ok(Cow::Borrowed(&text[range])),
        Cow::Borrowed(text) => text[range].to_owned(),
        Cow::Owned(mut text) => {
            text.truncate(range.end);
            text.drain(..range.start);
            text
        }
    };
    if !scan.is_standard {
        owned = normalize(owned)?;
    }
    owned.shrink_to_fit();
    Ok(Cow::Owned(owned))
}

/// Where the base64 of a text or data URL begins, and the MIME type declared before it.
fn split_data_url(text: &str) -> Result<(usize, &str)> {
    let blanks = text.len() - text.trim_ascii_start().len();
    let rest = &text[blanks..];
    let begins =
        |with: &str| rest.get(..with.len()).is_some_and(|start| start.eq_ignore_ascii_case(with));
    if begins("http://") || begins("https://") {
        let colon = text.find(':').unwrap_or(blanks);
        let reason = format!(
            "illegal base64 data at input byte {colon}: image URLs are not fetched, \
             send the image as base64"
        );
        return Err(Error::invalid_request(reason));
    }
    if !begins("data:") {
        return Ok((blanks, ""));
    }
    let declaration = &rest["data:".len()..];
    // A data URL without base64: Ollama decodes it as a whole and fails at the colon.
    let Some((declaration, _)) = declaration.split_once(',') else {
        return Err(illegal_base64(blanks + 4));
    };
    let (mime, encoding) = match declaration.rsplit_once(';') {
        Some((before, last)) => (before.split(';').next().unwrap_or_default(), last),
        None => ("", declaration),
    };
    if !encoding.trim().eq_ignore_ascii_case("base64") {
        return Err(illegal_base64(blanks + 4));
    }
    Ok((blanks + "data:".len() + declaration.len() + 1, mime.trim()))
}

/// The result of a pass over base64.
struct Base64Scan {
    /// The number of digits.
    digits: usize,
    /// True if the text is standard, padded base64 as it is.
    is_standard: bool,
}

/// Checks the base64 in `text` from `start` on: standard or URL-safe, with white space anywhere,
/// with or without its padding. `Err` is the offset at which Go's decoder stops; `len` is the length
/// of the text before its end was trimmed.
fn scan_base64(text: &[u8], start: usize, len: usize) -> std::result::Result<Base64Scan, usize> {
    let (mut digits, mut padding, mut clean) = (0_usize, 0_usize, true);
    for (at, &byte) in text.iter().enumerate().skip(start) {
        match (STANDARD_DIGITS[usize::from(byte)], byte) {
            (digit @ 1.., _) if padding == 0 => {
                digits += 1;
                clean &= digit == byte;
            }
            (_, b' ' | b'\t' | b'\n' | b'\r' | b'\x0c') => clean = false,
            (_, b'=') if digits % 4 + padding < 4 && digits % 4 > 1 => padding += 1,
            // Go names the padding if half of it is missing, else the byte in its place.
            _ if padding == 1 && digits % 4 == 2 => return Err(at - 1),
            _ => return Err(at),
        }
    }
    if digits % 4 == 1 {
        return Err(len - 1);
    }
    // Strict decoders insist on padding, and on zero for bits that belong to no byte.
    let last_group = text.last_chunk::<4>().is_none_or(|group| STRICT.decode(group).is_ok());
    let is_standard = clean && (digits + padding) % 4 == 0 && last_group;
    Ok(Base64Scan { digits, is_standard })
}

/// Base64 in its standard form, without white space around it; `None` if it is invalid or empty.
fn standard_base64(text: Cow<'_, str>) -> Option<Cow<'_, str>> {
    let scan = scan_base64(text.as_bytes(), 0, text.len()).ok().filter(|scan| scan.digits > 0)?;
    let range = 0..text.len();
    to_standard(text, range, &scan).ok()
}

/// Brings checked base64 into its standard form, in its own memory.
fn normalize(text: String) -> Result<String> {
    let standard = |byte: u8| STANDARD_DIGITS[usize::from(byte)];
    let mut digits = text.into_bytes();
    digits.retain_mut(|byte| {
        *byte = standard(*byte);
        *byte != 0
    });
    // Decoding and encoding the last group clears its unused bits and adds the padding.
    let last_group = decode_group(&digits.split_off(digits.len() / 4 * 4));
    let mut text =
        String::from_utf8(digits).map_err(|_| Error::Internal("normalized base64 is not UTF-8"))?;
    text.reserve_exact(4);
    BASE64.encode_string(last_group, &mut text);
    Ok(text)
}

/// The first bytes of checked base64, enough to tell every kind.
fn decode_head(base64: &[u8]) -> Vec<u8> {
    let digits = base64.iter().map(|byte| STANDARD_DIGITS[usize::from(*byte)]);
    let head: Vec<u8> = digits.filter(|digit| *digit != 0).take(SNIFF_LEN / 3 * 4).collect();
    decode_group(&head)
}

/// The bytes of checked base64 without padding.
fn decode_group(digits: &[u8]) -> Vec<u8> {
    UNPADDED.decode(digits).unwrap_or_default()
}

/// Base64 without padding, whose last digit may have bits that belong to no byte.
const UNPADDED: GeneralPurpose =
    GeneralPurpose::new(&alphabet::STANDARD, NO_PAD.with_decode_allow_trailing_bits(true));

/// The standard spelling of each digit of base64, standard or URL-safe; 0 for all other bytes.
const STANDARD_DIGITS: [u8; 256] = {
    let mut digits = [0; 256];
    let mut byte = 0_u8;
    while byte < 128 {
        digits[byte as usize] = match byte {
            b'-' => b'+',
            b'_' => b'/',
            b'+' | b'/' | b'0'..=b'9' | b'A'..=b'Z' | b'a'..=b'z' => byte,
            _ => 0,
        };
        byte += 1;
    }
    digits
};

fn illegal_base64(at: usize) -> Error {
    Error::invalid_request(format!("illegal base64 data at input byte {at}"))
}

fn empty_media_error() -> Error {
    Error::invalid_request("image data is empty")
}

fn type_error(kind: &str) -> Error {
    Error::invalid_request(format!(
        "json: cannot unmarshal {kind} into Go value of type api.ImageData"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn raw(json: &str) -> Box<RawValue> {
        RawValue::from_string(json.to_owned()).expect("valid JSON")
    }

    /// The part for a JSON value, as JSON; or the error.
    fn read(json: &str) -> String {
        match parse_part(&raw(json)) {
            Ok(part) => {
                let part = serde_json::to_value(&part).expect("serialisable");
                let audio = &part["input_audio"];
                match part["image_url"]["url"].as_str() {
                    Some(url) => url.to_owned(),
                    None => format!(
                        "{} {}",
                        audio["format"].as_str().expect("a format"),
                        audio["data"].as_str().expect("data")
                    ),
                }
            }
            Err(error) => {
                assert_eq!(error.status(), Some(400), "{json}");
                error.message()
            }
        }
    }

    #[track_caller]
    fn check(text: &str, expected: &str) {
        assert_eq!(read(&serde_json::Value::from(text).to_string()), expected, "{text:?}");
    }

    fn base64(bytes: &[u8]) -> String {
        BASE64.encode(bytes)
    }

    const PNG: &str = "iVBORw0KGgoAAAANSUhEUg==";

    #[test]
    fn parts_are_written_as_upstreams_read_them() {
        let image = part_of(PNG);
        assert_eq!(
            serde_json::to_string(&image).expect("serialisable"),
            format!(
                r#"{{"type":"image_url","image_url":{{"url":"data:image/png;base64,{PNG}"}}}}"#
            )
        );
        let audio = part_of("SUQzAw==");
        assert_eq!(
            serde_json::to_string(&audio).expect("serialisable"),
            r#"{"type":"input_audio","input_audio":{"data":"SUQzAw==","format":"mp3"}}"#
        );
    }

    fn part_of(text: &str) -> ContentPart<'_> {
        from_text(text.into()).expect("valid")
    }

    #[test]
    fn every_signature_tells_its_kind() {
        let check = |bytes: &[u8], expected: &str| {
            let data = base64(bytes);
            let expected = if expected.starts_with("image/") {
                format!("data:{expected};base64,{data}")
            } else {
                format!("{expected} {data}")
            };
            assert_eq!(read(&format!("{data:?}")), expected);
            let numbers = serde_json::to_string(bytes).expect("numbers");
            assert_eq!(read(&numbers), expected, "the same as a list of bytes");
        };
        check(b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "image/png");
        check(b"\x89PNG\r\n\x1a\n", "image/png");
        check(b"\xff\xd8\xff\xe0\0\x10JFIF", "image/jpeg");
        check(b"\xff\xd8\xff", "image/jpeg");
        check(b"GIF87a\x01", "image/gif");
        check(b"GIF89a\x01", "image/gif");
        check(b"RIFF\x24\0\0\0WEBPVP8 ", "image/webp");
        check(b"BM\x36\0", "image/bmp");
        check(b"II*\0\x08", "image/tiff");
        check(b"MM\0*\0", "image/tiff");
        check(b"\0\0\x01\0\x01", "image/x-icon");
        for brand in ["heic", "heix", "hevc", "hevx", "heim", "heis"] {
            check(format!("\0\0\0\x18ftyp{brand}\0").as_bytes(), "image/heic");
        }
        check(b"\0\0\0\x18ftypmif1\0", "image/heif");
        check(b"\0\0\0\x18ftypmsf1\0", "image/heif");
        check(b"\0\0\0\x18ftypavif", "image/avif");
        check(b"\0\0\0\x18ftypavis\0", "image/avif");
        check(b"RIFF\x24\0\0\0WAVEfmt ", "wav");
        check(b"ID3\x03", "mp3");
        check(b"\xff\xfb\x90\x64", "mp3");
        check(b"\xff\xe3", "mp3");
        // All else is what Ollama takes it for.
        check(b"hello, world!", "image/jpeg");
        check(b"RIFF\x24\0\0\0AVI LIST", "image/jpeg");
        check(b"RIFF", "image/jpeg");
        check(b"\xff\xd8\0", "image/jpeg");
        check(b"\xff", "image/jpeg");
        check(b"x", "image/jpeg");
    }

    #[test]
    fn kinds_without_a_meaning_are_refused_by_name() {
        let check = |bytes: &[u8], name: &str| {
            let expected = format!(
                "{name} is not supported: send an image (PNG, JPEG, ...) or WAV or MP3 audio"
            );
            assert_eq!(read(&format!("{:?}", base64(bytes))), expected);
            assert_eq!(read(&serde_json::to_string(bytes).expect("numbers")), expected);
        };
        check(b"fLaC\0", "FLAC audio");
        check(b"OggS\0", "Ogg media");
        check(b"\0\0\0\x18ftypisom\0", "MP4 video");
        check(b"\0\0\0\x18ftypmp42\0", "MP4 video");
        check(b"\x1a\x45\xdf\xa3\x01", "WebM video");
        check(b"%PDF-1.7", "a PDF document");
    }

    #[test]
    fn every_spelling_of_base64_becomes_the_standard_one() {
        let png = format!("data:image/png;base64,{PNG}");
        let check_png = |text: &str| check(text, &png);
        check_png(PNG);
        check_png("iVBORw0KGgoAAAANSUhEUg");
        check_png("iVBORw0KGgoAAAANSUhEUg=");
        check_png("iVBORw0KGgoAAAANSUhEUg= =");
        check_png("iVBORw0KGgoAAAANSUhEUh==");
        check_png(" \tiVBORw0K\r\nGgoAAAAN\nSUhE Ug==\r\n");
        check_png("i\nV\nBORw0KGgoAAAANSUhEUg=\n=");
        let jpeg = |data: &str| format!("data:image/jpeg;base64,{data}");
        check("_9j_4AAQ-_8", &jpeg("/9j/4AAQ+/8="));
        check("/9j_4AAQ+-8=", &jpeg("/9j/4AAQ++8="));
        check("/9j/", &jpeg("/9j/"));
        check("/9j/4AB", &jpeg("/9j/4AA="));
        // Escapes of PHP and of Gson.
        assert_eq!(read(r#""\/9j\/4AAQ+\/8\u003d""#), jpeg("/9j/4AAQ+/8="));
        assert_eq!(read(r#""SUQz\nAw=="  "#), "mp3 SUQzAw==");
        assert_eq!(read(r#""SUQzAw\u003d\u003d""#), "mp3 SUQzAw==");
    }

    #[test]
    fn data_urls_are_taken_and_their_bytes_believed_first() {
        let png = format!("data:image/png;base64,{PNG}");
        check(&png, &png);
        check(&format!("data:image/jpeg;base64,{PNG}"), &png);
        check(&format!("DATA:Image/PNG;Base64,{PNG}"), &png);
        check(&format!(" data:image/png;name=a.png;base64, {PNG}\n"), &png);
        check(&format!("data:;base64,{PNG}"), &png);
        check(&format!("data:base64,{PNG}"), &png);
        check(&format!("data:video/mp4;base64,{PNG}"), &png);
        check("data:image/svg+xml;base64,PHN2Zz4=", "data:image/svg+xml;base64,PHN2Zz4=");
        check("data:image/SVG+xml;base64,PHN2Zz4", "data:image/svg+xml;base64,PHN2Zz4=");
        check("data:image/a\"b;base64,PHN2Zz4=", "data:image/jpeg;base64,PHN2Zz4=");
        check("data:image/;base64,PHN2Zz4=", "data:image/jpeg;base64,PHN2Zz4=");
        check("data:text/plain;base64,PHN2Zz4=", "data:image/jpeg;base64,PHN2Zz4=");
        check("data:audio/wav;base64,SUQzAw==", "mp3 SUQzAw==");
        check("data:audio/x-wav;base64,PHN2Zz4=", "wav PHN2Zz4=");
        check("data:audio/mpeg;base64,PHN2Zz4", "mp3 PHN2Zz4=");
        let refused = |name: &str| {
            format!("{name} is not supported: send an image (PNG, JPEG, ...) or WAV or MP3 audio")
        };
        check("data:audio/ogg;base64,PHN2Zz4=", &refused("this audio format"));
        check("data:video/mp4;base64,PHN2Zz4=", &refused("video"));
        check("data:application/pdf;base64,PHN2Zz4=", &refused("a PDF document"));
    }

    #[test]
    fn bad_base64_names_the_byte_that_go_would_name() {
        let check_at =
            |text: &str, at: usize| check(text, &format!("illegal base64 data at input byte {at}"));
        check_at("!", 0);
        check_at("not base64!", 10);
        check_at("AAAA?AAA", 4);
        check_at("AA\nAA\n?", 6);
        check_at("AAAé", 3);
        check_at("A", 0);
        check_at("AAAAA", 4);
        check_at("AAAAA\n", 5);
        check_at("=", 0);
        check_at("A=", 1);
        check_at("AAAA=", 4);
        check_at("AA=A", 2);
        check_at("AA=!", 2);
        check_at("AA===", 4);
        check_at("AA==A", 4);
        check_at("AAA==", 4);
        check_at("AAA=A", 4);
        check_at("AAA=\nA", 5);
        check_at("data:image/png,abc", 4);
        check_at("data:image/png;base64", 4);
        check_at("data:;charset=utf-8,abc", 4);
        check_at("data:image/png;base64,AA!A", 24);
        check_at("file:///x.png", 4);
        let url = |at| {
            format!(
                "illegal base64 data at input byte {at}: image URLs are not fetched, \
                 send the image as base64"
            )
        };
        check("http://localhost/a.png", &url(4));
        check("HTTPS://localhost/a.png", &url(5));
    }

    #[test]
    fn entries_of_other_types_are_refused() {
        let check = |json: &str, expected: &str| assert_eq!(read(json), expected, "{json}");
        let wrong = |kind: &str| {
            format!("json: cannot unmarshal {kind} into Go value of type api.ImageData")
        };
        for empty in [r#""""#, "null", "[]", r#"" \n""#, r#""data:image/png;base64,""#] {
            check(empty, "image data is empty");
        }
        check("5", &wrong("number"));
        check("-5", &wrong("number"));
        check("true", &wrong("bool"));
        check("false", &wrong("bool"));
        check(r#"{"url":"x"}"#, &wrong("object"));
        for list in ["[256]", "[-1]", "[1.5]", r#"["a"]"#, "[[1]]", "[1,null]"] {
            check(list, "json: cannot unmarshal array into Go value of type uint8");
        }
    }

    #[test]
    fn bytes_of_every_length_survive() {
        let bytes: Vec<u8> = (0..=250).rev().collect();
        for length in 0..bytes.len() {
            let text = base64(&bytes[..length]);
            assert_eq!(text.len(), length.div_ceil(3) * 4);
            let bare = text.trim_end_matches('=').replace('+', "-").replace('/', "_");
            if length > 0 {
                check(&bare, &format!("data:image/jpeg;base64,{text}"));
            }
            assert_eq!(decode_head(bare.as_bytes()), bytes[..length.min(SNIFF_LEN)]);
        }
    }

    #[test]
    fn nothing_is_allocated_that_is_not_needed() {
        let exact = |json: &str| match parse_part(&raw(json)).expect("valid").base64() {
            Some(Cow::Owned(text)) => assert_eq!(text.capacity(), text.len(), "{json}"),
            other => panic!("{json} is borrowed: {other:?}"),
        };
        exact(r#""_9j_4AAQ-_8""#);
        exact(r#""i V B O R w""#);
        exact(r#""SUQz Aw""#);
        exact(r#""\/9j\/4AAQ""#);
        exact(r#""data:image\/png;base64,iVBO\nRw""#);
        exact("[137,80,78,71]");
        exact("[73,68,51,3]");
        let url = format!("data:image/png;base64,{PNG}");
        for (sent, borrowed) in [(PNG, PNG), (url.as_str(), PNG), ("SUQzAw==", "SUQzAw==")] {
            let json = raw(&format!("{sent:?}"));
            let inside = json.get().as_bytes().as_ptr_range();
            match parse_part(&json).expect("valid").base64() {
                Some(Cow::Borrowed(text)) => {
                    assert_eq!(*text, borrowed);
                    assert!(inside.contains(&text.as_ptr()), "it lies in the request");
                }
                other => panic!("copied: {other:?}"),
            }
        }
    }
}
