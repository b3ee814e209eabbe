//! One vector: from what an upstream sends to what a client reads.
//!
//! A vector is a list of numbers or base64 of little-endian 32-bit floats (OpenAI API reference,
//! embeddings); its JSON type decides, whatever was asked for. A vector that needs no change keeps
//! its digits. Any other is computed in 64 bits and written in 32, the width of Ollama's vectors.
//! Invariant: a list that comes out holds finite numbers, at least one and no white space.

use base64::Engine as _;

use super::outline::NumberList;
use crate::api::ollama::decode::GoString;
use crate::api::wire::base64::BASE64;
use crate::api::wire::ndjson;
use crate::error::{Error, Result};

/// What Ollama says of a vector with such numbers.
const NON_FINITE_TEXT: &str = "embedding contains NaN or Inf values";

/// How far the sum of squares may be from 1 for a vector of unit length: its length is then within
/// half of this, and what a client rounds to 32 bits still within all of it.
const UNIT_TOLERANCE: f64 = 1e-6;

/// Ollama divides by no less than this (`normalize` in `server/routes.go`).
const MIN_NORM: f64 = 1e-12;

/// What a route makes of a vector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum VectorFormat {
    /// `/api/embed`: of unit length, and no longer than so many numbers.
    Unit {
        /// The most numbers; what is not positive means no bound.
        dimensions: Option<i64>,
    },
    /// `/api/embeddings`: as it came.
    Raw,
}

impl VectorFormat {
    /// How many numbers are kept at most.
    pub(super) fn max_len(self) -> usize {
        match self {
            Self::Unit { dimensions: Some(most) } if most > 0 => {
                usize::try_from(most).unwrap_or(usize::MAX)
            }
            Self::Unit { .. } | Self::Raw => usize::MAX,
        }
    }

    /// True if numbers with this sum of squares stay as they are.
    pub(super) fn accepts(self, squares: f64) -> bool {
        self == Self::Raw || (squares - 1.0).abs() <= UNIT_TOLERANCE
    }

    /// The error for numbers that are not finite; its status depends on the route.
    pub(super) fn non_finite_error(self) -> Error {
        let status = match self {
            Self::Unit { .. } => 400,
            Self::Raw => 500,
        };
        Error::upstream_in_band(status, NON_FINITE_TEXT)
    }
}

/// Appends the digits of a list, without white space: Ollama writes none.
pub(super) fn append_digits(out: &mut Vec<u8>, list: &NumberList<'_>) {
    out.push(b'[');
    if list.has_blanks {
        out.extend(list.kept.split_ascii_whitespace().flat_map(str::bytes));
    } else {
        out.extend_from_slice(list.kept.as_bytes());
    }
    out.push(b']');
}

/// Appends numbers in the form of a route, each as the shortest digits that read back as the same 32
/// bits.
///
/// # Errors
/// [`Error::UpstreamProtocol`] for an empty vector, and Ollama's sentence for a vector with numbers
/// that are not finite. Numbers beyond the dimensions count here, as they do in Ollama.
pub(super) fn append_numbers(
    out: &mut Vec<u8>,
    numbers: &[f64],
    format: VectorFormat,
) -> Result<()> {
    if numbers.is_empty() {
        return Err(empty_vector_error());
    }
    #[allow(clippy::cast_possible_truncation)] // What is too large for 32 bits is infinite.
    if !numbers.iter().all(|number| (*number as f32).is_finite()) {
        return Err(format.non_finite_error());
    }
    let kept = &numbers[..numbers.len().min(format.max_len())];
    let squares = kept.iter().map(|number| number * number).sum::<f64>();
    let norm = if format.accepts(squares) { 1.0 } else { squares.sqrt().max(MIN_NORM) };
    for (place, number) in kept.iter().enumerate() {
        out.push(if place == 0 { b'[' } else { b',' });
        #[allow(clippy::cast_possible_truncation)] // Ollama's vectors are 32 bits wide.
        ndjson::append(out, &((number / norm) as f32));
    }
    out.push(b']');
    Ok(())
}

/// The numbers of a vector, given as valid JSON. Those that are not finite are left in it.
///
/// # Errors
/// [`Error::UpstreamProtocol`] for anything but a list of numbers or base64 of 32-bit floats.
pub(super) fn parse_vector(json: &str) -> Result<Vec<f64>> {
    match json.as_bytes().first() {
        Some(b'[') => {
            let items = json[1..json.len() - 1].trim_ascii();
            let items = (!items.is_empty()).then(|| items.split(','));
            items.into_iter().flatten().map(|item| parse_item(item.trim_ascii())).collect()
        }
        Some(b'"') => parse_base64(json),
        _ => {
            let reason = "an embedding is neither a list of numbers nor base64";
            Err(Error::upstream_protocol(reason))
        }
    }
}

/// An item of a list. llama.cpp writes null for a number that is not finite.
fn parse_item(item: &str) -> Result<f64> {
    match item.as_bytes().first() {
        // JSON's numbers are among those that the standard library reads.
        Some(b'-' | b'0'..=b'9') => item.parse().map_err(|_| empty_vector_error()),
        Some(b'n') => Ok(f64::NAN),
        _ => Err(Error::upstream_protocol("an embedding contains something other than numbers")),
    }
}

fn parse_base64(json: &str) -> Result<Vec<f64>> {
    // Some servers escape the slash.
    let text: Option<GoString<'_>> = serde_json::from_str(json).ok();
    let bytes = text.and_then(|text| BASE64.decode(text.as_bytes()).ok());
    let bytes =
        bytes.ok_or_else(|| Error::upstream_protocol("an embedding is not valid base64"))?;
    let (floats, rest) = bytes.as_chunks::<4>();
    if !rest.is_empty() {
        let reason = "the base64 of an embedding is not a sequence of 32-bit floats";
        return Err(Error::upstream_protocol(reason));
    }
    Ok(floats.iter().map(|bytes| f64::from(f32::from_le_bytes(*bytes))).collect())
}

fn empty_vector_error() -> Error {
    Error::upstream_protocol("an embedding is empty")
}

#[cfg(test)]
mod tests {
    use super::super::append_vector;
    use super::super::outline::scan_list;
    use super::*;

    const UNCUT: VectorFormat = VectorFormat::Unit { dimensions: None };

    /// What is written for a vector, or the status and the text of the error.
    fn written(vector: &str, form: VectorFormat) -> std::result::Result<String, (u16, String)> {
        serde_json::from_str::<serde::de::IgnoredAny>(vector).expect("valid JSON");
        let mut out = b"before".to_vec();
        let list = scan_list(vector, form.max_len());
        match append_vector(&mut out, vector, list, form) {
            Ok(()) => {
                let out = String::from_utf8(out).expect("UTF-8");
                Ok(out.strip_prefix("before").expect("what stood there").to_owned())
            }
            Err(error) => Err((error.status().unwrap_or(0), error.message())),
        }
    }

    fn check(vector: &str, form: VectorFormat, expected: &str) {
        assert_eq!(written(vector, form).as_deref(), Ok(expected), "{vector} {form:?}");
    }

    fn cut(dimensions: i64) -> VectorFormat {
        VectorFormat::Unit { dimensions: Some(dimensions) }
    }

    #[test]
    fn digits_of_a_unit_vector_pass_untouched() {
        for vector in [
            "[1]",
            "[1.0,-0.0,0e0]",
            "[0.600000000000000000,-8.0E-1]",
            "[0.6000003,-0.8]",
            "[0.5999997,0.8]",
            "[0.10000000149011612,0.99498743710661997,1e-7,1e-400]",
        ] {
            check(vector, UNCUT, vector);
            check(vector, VectorFormat::Raw, vector);
        }
    }

    #[test]
    fn digits_of_any_vector_pass_the_old_route_untouched() {
        for vector in
            ["[3,-4.5,1E2,0.10000000149011612]", "[0]", "[1e-400,-0,123456789012345678901]"]
        {
            check(vector, VectorFormat::Raw, vector);
        }
    }

    #[test]
    fn blanks_are_left_out() {
        check("[ 0.60 ,\n\t-0.80\r\n]", UNCUT, "[0.60,-0.80]");
        check("[1, 2,3,  4,5 ]", VectorFormat::Raw, "[1,2,3,4,5]");
        check("[\n 0.6,\n 0.8,\n 0]", cut(2), "[0.6,0.8]");
        check("[\n 3,\n 4\n]", UNCUT, "[0.6,0.8]");
    }

    #[test]
    fn other_vectors_are_brought_to_unit_length() {
        check("[3,-4]", UNCUT, "[0.6,-0.8]");
        check("[0.600002,-0.8]", UNCUT, "[0.6000013,-0.79999906]");
        check("[1,1,1]", UNCUT, "[0.57735026,0.57735026,0.57735026]");
        check("[3e30,4e30]", UNCUT, "[0.6,0.8]");
        // Ollama divides by no less than 1e-12.
        check("[0,0]", UNCUT, "[0,0]");
        check("[1e-13]", UNCUT, "[0.1]");
    }

    #[test]
    fn dimensions_cut_and_what_is_left_has_unit_length() {
        check("[3,-4,12]", cut(2), "[0.6,-0.8]");
        check("[3,-4,12]", cut(1), "[1]");
        check("[0.6,-0.8]", cut(1), "[1]");
        check("[0.60,-0.80]", cut(2), "[0.60,-0.80]");
        check("[0.60,-0.80]", cut(3), "[0.60,-0.80]");
        check("[0.60,-0.80]", cut(0), "[0.60,-0.80]");
        check("[0.60,-0.80]", cut(-1), "[0.60,-0.80]");
        // Nothing must change in what is left.
        check("[0.60,-0.80,0.0]", cut(2), "[0.60,-0.80]");
        check("[0.60,-0.80]", cut(i64::MAX), "[0.60,-0.80]");
    }

    /// Base64 of 32-bit floats, by the definition: six bits at a time.
    fn base64(numbers: &[f32]) -> String {
        let bits: Vec<bool> = numbers
            .iter()
            .flat_map(|number| number.to_le_bytes())
            .flat_map(|byte| (0..8).rev().map(move |bit| byte >> bit & 1 == 1))
            .collect();
        let digit = |bits: &[bool]| {
            let value = (0..6).fold(0, |sum, bit| sum * 2 + u8::from(bits.get(bit) == Some(&true)));
            char::from(match value {
                0..26 => b'A' + value,
                26..52 => b'a' + value - 26,
                52..62 => b'0' + value - 52,
                62 => b'+',
                _ => b'/',
            })
        };
        let mut text: String = bits.chunks(6).map(digit).collect();
        while !text.len().is_multiple_of(4) {
            text.push('=');
        }
        format!("\"{text}\"")
    }

    #[test]
    fn base64_is_read_as_the_floats_that_it_holds() {
        check("\"AACAPw==\"", VectorFormat::Raw, "[1]");
        check(&base64(&[0.6, -0.8]), UNCUT, "[0.6,-0.8]");
        check(&base64(&[3.0, -4.0]), UNCUT, "[0.6,-0.8]");
        check(&base64(&[3.0, -4.5, 0.1]), VectorFormat::Raw, "[3,-4.5,0.1]");
        check(&base64(&[3.0, -4.0, 12.0]), cut(2), "[0.6,-0.8]");
        // One number to seven leave every kind of padding.
        for count in 1..8_u8 {
            let numbers: Vec<f32> = (0..count).map(|number| f32::from(number) / 7.0).collect();
            let expected: Vec<f32> = serde_json::from_str(
                &written(&base64(&numbers), VectorFormat::Raw).expect("a vector"),
            )
            .expect("a list");
            assert_eq!(expected, numbers, "the digits read back as the same floats");
        }
        // Some servers escape the slash.
        let slashes = base64(&[f32::from_bits(0x3fff_ffff)]);
        assert!(slashes.contains('/'), "{slashes}");
        check(&slashes.replace('/', "\\/"), VectorFormat::Raw, "[1.9999999]");
    }

    #[test]
    fn what_is_no_vector_is_told() {
        let check = |vector: &str, expected: &str| {
            for form in [UNCUT, VectorFormat::Raw, cut(1)] {
                let text = format!("invalid response from the upstream: {expected}");
                assert_eq!(written(vector, form), Err((502, text)), "{vector}");
            }
        };
        for vector in ["[]", "[ ]", "\"\""] {
            check(vector, "an embedding is empty");
        }
        for vector in ["[[1]]", "[\"1\"]", "[1,true]", "[{}]", "[1,[2]]"] {
            check(vector, "an embedding contains something other than numbers");
        }
        for vector in ["5", "{}", "true"] {
            check(vector, "an embedding is neither a list of numbers nor base64");
        }
        // No whole groups, foreign digits, padding inside, too much padding, the alphabet of URLs.
        for text in
            ["AACAPw=", "AACAPw", "AACA!w==", "AA==AACA", "AACAP===", "====", "AAC_Pw==", "é"]
        {
            check(&format!("\"{text}\""), "an embedding is not valid base64");
        }
        for text in ["AACA", "AACAPwA=", "AACAPwAA"] {
            check(
                &format!("\"{text}\""),
                "the base64 of an embedding is not a sequence of 32-bit floats",
            );
        }
    }

    #[test]
    fn numbers_that_are_none_are_told_as_ollama_does_wherever_they_stand() {
        let text = "embedding contains NaN or Inf values".to_owned();
        let vectors = [
            "[null]".to_owned(),
            "[0.6,0.8,null]".to_owned(),
            "[1e400]".to_owned(),
            "[0.6,0.8,-1e39]".to_owned(),
            base64(&[0.6, 0.8, f32::NAN]),
            base64(&[f32::INFINITY]),
            base64(&[0.6, 0.8, f32::NEG_INFINITY]),
        ];
        for vector in &vectors {
            for (form, status) in [(UNCUT, 400), (cut(2), 400), (VectorFormat::Raw, 500)] {
                assert_eq!(written(vector, form), Err((status, text.clone())), "{vector}");
            }
        }
    }
}
