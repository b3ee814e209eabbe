//! One vector: from what arrived to what a client reads (openai-wire.md 7.1, 7.3).
//!
//! It arrives as a list of numbers or as base64, and only the JSON type that came decides which. Where
//! nothing about it must change, the digits that came are the digits that go: they are read to be
//! judged, and never printed again. What must change is worked out with 64 bits and printed with 32,
//! which is what Ollama's vectors have. Invariant: a list that comes out holds finite numbers, at
//! least one and no blanks.

use std::ops::Range;

use base64::Engine as _;

use super::float_text::{EXACT, Fraction, POWERS};
use super::scan::ListScan;
use crate::api::openai::chunk::BorrowedString;
use crate::api::wire::base64::BASE64;
use crate::api::wire::ndjson;
use crate::error::{Error, Result};

/// What Ollama says of a vector that is none (ollama-api.md 4.2).
const NON_FINITE_TEXT: &str = "embedding contains NaN or Inf values";

/// How far the sum of squares may be from 1 for a vector of unit length: its length is then within
/// half of this, and what a client rounds to 32 bits still within all of it.
const UNIT_TOLERANCE: f64 = 1e-6;

/// Ollama divides by no less than this (openai-wire.md 7.3).
const MIN_NORM: f64 = 1e-12;

/// What a route makes of a vector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum VectorFormat {
    /// `/api/embed`: of unit length, and no longer than so many numbers.
    Unit {
        /// How many; what is not positive means nothing.
        dimensions: Option<i64>,
    },
    /// `/api/embeddings`: as it came.
    Raw,
}

impl VectorFormat {
    /// How many numbers are kept at most.
    fn max_len(self) -> usize {
        match self {
            Self::Unit { dimensions: Some(most) } if most > 0 => {
                usize::try_from(most).unwrap_or(usize::MAX)
            }
            Self::Unit { .. } | Self::Raw => usize::MAX,
        }
    }

    /// Whether a list stays as it is, as far as a glance can tell.
    pub(super) fn accepts_unchanged(self, glance: &ListScan) -> bool {
        match self {
            Self::Unit { .. } => glance.numbers <= self.max_len() && glance.is_unit(UNIT_TOLERANCE),
            Self::Raw => true,
        }
    }

    /// The error for numbers that are none; the routes differ in its status (ollama-api.md 4.2).
    pub(super) fn non_finite_error(self) -> Error {
        let status = match self {
            Self::Unit { .. } => 400,
            Self::Raw => 500,
        };
        Error::UpstreamInBand { status, message: NON_FINITE_TEXT.to_owned() }
    }
}

/// Writes vectors, each as a JSON list.
#[derive(Default)]
pub(super) struct VectorWriter {
    /// The numbers of the vector at hand; one room for all.
    numbers: Vec<f64>,
}

impl VectorWriter {
    /// Appends a vector, given as JSON.
    ///
    /// # Errors
    /// [`Error::UpstreamProtocol`] for what is no vector, and Ollama's sentence for one with numbers
    /// that are not finite.
    pub(super) fn append(
        &mut self,
        out: &mut Vec<u8>,
        text: &str,
        form: VectorFormat,
    ) -> Result<()> {
        self.numbers.clear();
        out.push(b'[');
        match text.as_bytes().first() {
            Some(b'[') => self.append_list(out, &text[1..text.len() - 1], form)?,
            Some(b'"') => {
                let digits: BorrowedString<'_> =
                    serde_json::from_str(text).map_err(|_| bad_base64_error())?;
                let bytes = BASE64.decode(digits.as_bytes()).map_err(|_| bad_base64_error())?;
                self.append_float_bytes(out, &bytes, form)?;
            }
            _ => {
                return Err(Error::upstream_protocol("an embedding that is no list and no base64"));
            }
        }
        out.push(b']');
        Ok(())
    }

    /// Appends what stands in `list` with commas between its numbers, without its blanks: Ollama
    /// writes none, and some servers write one number a line.
    fn append_list(&mut self, out: &mut Vec<u8>, list: &str, form: VectorFormat) -> Result<()> {
        let (start, most, mut run) = (out.len(), form.max_len(), 0..0);
        for item in NumberIter::new(list) {
            let (number, place) = item?;
            self.numbers.push(number);
            if self.numbers.len() > most {
                continue;
            }
            if run.is_empty() {
                run = place;
            } else if place.start == run.end + 1 {
                run.end = place.end;
            } else {
                out.extend_from_slice(&list.as_bytes()[run]);
                out.push(b',');
                run = place;
            }
        }
        match self.compute_divisor(form)? {
            None => out.extend_from_slice(&list.as_bytes()[run]),
            Some(length) => {
                out.truncate(start);
                self.append_scaled(out, form, length);
            }
        }
        Ok(())
    }

    /// Appends numbers that came as bytes.
    fn append_float_bytes(
        &mut self,
        out: &mut Vec<u8>,
        bytes: &[u8],
        form: VectorFormat,
    ) -> Result<()> {
        let (floats, rest) = bytes.as_chunks::<4>();
        if !rest.is_empty() {
            return Err(Error::upstream_protocol("base64 that holds no 32-bit floats"));
        }
        self.numbers.extend(floats.iter().map(|bytes| f64::from(f32::from_le_bytes(*bytes))));
        let length = self.compute_divisor(form)?.unwrap_or(1.0);
        self.append_scaled(out, form, length);
        Ok(())
    }

    /// By what each number is to be divided; nothing for a vector that stays as it is. All numbers
    /// are looked at, also those that are cut off, as Ollama does.
    fn compute_divisor(&self, form: VectorFormat) -> Result<Option<f64>> {
        if self.numbers.is_empty() {
            return Err(empty_vector_error());
        }
        #[allow(clippy::cast_possible_truncation)] // What is too large for 32 bits is infinite.
        if !self.numbers.iter().all(|number| (*number as f32).is_finite()) {
            return Err(form.non_finite_error());
        }
        if form == VectorFormat::Raw {
            return Ok(None);
        }
        let squares: f64 = self.output_numbers(form).map(|number| number * number).sum();
        let is_unit = (squares - 1.0).abs() <= UNIT_TOLERANCE;
        Ok((!is_unit).then(|| squares.sqrt().max(MIN_NORM)))
    }

    /// Appends each number divided by `length`, as the shortest digits that read back as the same 32
    /// bits.
    fn append_scaled(&self, out: &mut Vec<u8>, form: VectorFormat, length: f64) {
        for (place, number) in self.output_numbers(form).enumerate() {
            if place > 0 {
                out.push(b',');
            }
            #[allow(clippy::cast_possible_truncation)] // Ollama's vectors are 32 bits wide.
            ndjson::append(out, &((number / length) as f32));
        }
    }

    fn output_numbers(&self, form: VectorFormat) -> impl Iterator<Item = f64> {
        self.numbers.iter().copied().take(form.max_len())
    }
}

/// The numbers of a list, which is known to be JSON, and where each stands.
struct NumberIter<'a> {
    list: &'a str,
    at: usize,
}

impl<'a> NumberIter<'a> {
    fn new(list: &'a str) -> Self {
        Self { list, at: 0 }
    }

    fn skip_blanks(&mut self) {
        while self.list.as_bytes().get(self.at).is_some_and(u8::is_ascii_whitespace) {
            self.at += 1;
        }
    }
}

impl Iterator for NumberIter<'_> {
    type Item = Result<(f64, Range<usize>)>;

    fn next(&mut self) -> Option<Self::Item> {
        self.skip_blanks();
        let rest = self.list.as_bytes().get(self.at..).filter(|rest| !rest.is_empty())?;
        let fraction = rest.first_chunk().and_then(Fraction::at);
        let quick = fraction.and_then(|it| Some((it.value()?, it.length())));
        let (number, length) = match quick.or_else(|| parse_short_decimal(rest)) {
            Some((number, length)) => (Ok(number), length),
            None => {
                let ends = |byte: &u8| *byte == b',' || byte.is_ascii_whitespace();
                let length = rest.iter().position(ends).unwrap_or(rest.len());
                (parse_item(&self.list[self.at..self.at + length]), length)
            }
        };
        let place = self.at..self.at + length;
        self.at = place.end;
        self.skip_blanks();
        // Behind a comma there is a number, and nothing behind the last.
        self.at += 1;
        Some(number.map(|number| (number, place)))
    }
}

/// The decimal at the beginning of `text` and its length, where one division gives what the standard
/// library would: its digits and the power of ten are then exact, and only the quotient is rounded.
/// This is for speed, and most numbers are such.
fn parse_short_decimal(text: &[u8]) -> Option<(f64, usize)> {
    let sign = usize::from(text.first() == Some(&b'-'));
    let (mut digits, mut point, mut at) = (0_u64, None, sign);
    let end = loop {
        match text.get(at) {
            Some(digit @ b'0'..=b'9') => digits = digits * 10 + u64::from(digit - b'0'),
            Some(b'.') if point.is_none() => point = Some(at),
            Some(b',' | b' ' | b'\n' | b'\r' | b'\t') | None => break at,
            Some(_) => return None,
        }
        if digits > EXACT {
            return None;
        }
        at += 1;
    };
    let places = point.map_or(0, |point| end - point - 1);
    #[allow(clippy::cast_precision_loss)] // Not below the bound.
    let number = digits as f64 / POWERS.get(places).filter(|_| end > sign)?;
    Some((if sign == 1 { -number } else { number }, end))
}

/// An item of a list. llama.cpp writes null for a number that is none.
fn parse_item(token: &str) -> Result<f64> {
    match token.as_bytes().first() {
        // JSON's numbers are among those that the standard library reads.
        Some(b'-' | b'0'..=b'9') => token.parse().map_err(|_| empty_vector_error()),
        Some(b'n') => Ok(f64::NAN),
        _ => Err(Error::upstream_protocol("an embedding of something else than numbers")),
    }
}

fn bad_base64_error() -> Error {
    Error::upstream_protocol("an embedding in bad base64")
}

fn empty_vector_error() -> Error {
    Error::upstream_protocol("an embedding without numbers")
}

#[cfg(test)]
mod tests {
    use super::super::scan::scan_list;
    use super::*;

    const UNCUT: VectorFormat = VectorFormat::Unit { dimensions: None };

    /// What is written for a vector, or the status and the text of the error.
    fn written(vector: &str, form: VectorFormat) -> std::result::Result<String, (u16, String)> {
        serde_json::from_str::<serde::de::IgnoredAny>(vector).expect("valid JSON");
        let mut out = b"before".to_vec();
        match VectorWriter::default().append(&mut out, vector, form) {
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
            check(vector, "an embedding without numbers");
        }
        for vector in ["[[1]]", "[\"1\"]", "[1,true]", "[{}]", "[1,[2]]"] {
            check(vector, "an embedding of something else than numbers");
        }
        for vector in ["5", "{}", "true"] {
            check(vector, "an embedding that is no list and no base64");
        }
        // No whole groups, foreign digits, padding inside, too much padding, the alphabet of URLs.
        for text in
            ["AACAPw=", "AACAPw", "AACA!w==", "AA==AACA", "AACAP===", "====", "AAC_Pw==", "é"]
        {
            check(&format!("\"{text}\""), "an embedding in bad base64");
        }
        for text in ["AACA", "AACAPwA=", "AACAPwAA"] {
            check(&format!("\"{text}\""), "base64 that holds no 32-bit floats");
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

    /// Numbers without a pattern, from a seed.
    fn random(state: &mut u64) -> u64 {
        *state ^= *state << 13;
        *state ^= *state >> 7;
        *state ^= *state << 17;
        *state
    }

    /// A number of JSON in some spelling.
    fn spelled(state: &mut u64) -> String {
        let bits = random(state);
        let digits = |count: u64| {
            let all = bits.to_string();
            all[..usize::try_from(count).unwrap_or(1).min(all.len())].to_owned()
        };
        match random(state) % 8 {
            0 => format!("{}", f32::from_bits(u32::try_from(bits >> 32).unwrap_or(0))),
            1 => format!("{}", f64::from_bits(bits)),
            2 => format!("{:e}", f64::from_bits(bits)),
            3 => format!(
                "{}0.{:0width$}",
                if bits & 1 == 0 { "-" } else { "" },
                bits >> (20 + bits % 40),
                width = usize::try_from(bits % 30).unwrap_or(0)
            ),
            4 => format!("{}.{}", bits >> 40, bits % 1_000_000),
            5 => format!("{}{}", if bits & 1 == 0 { "-" } else { "" }, digits(1 + bits % 19)),
            6 => format!(
                "0.{}E{}",
                digits(1 + bits % 19),
                i64::try_from(bits % 80).unwrap_or(0) - 40
            ),
            // The digits of a unit vector.
            _ => format!("{}", f64::from_bits(bits >> 2 | 0x3f00_0000_0000_0000)),
        }
    }

    /// A vector with this sum of squares, but for the rounding of its digits.
    fn vector_of(state: &mut u64, size: u64, squares: f64) -> Vec<f64> {
        #[allow(clippy::cast_precision_loss)] // Any number will do.
        let draw = |_| random(state) as f64 / u64::MAX as f64 * 2.0 - 1.0;
        let numbers: Vec<f64> = (0..size).map(draw).collect();
        let sum: f64 = numbers.iter().map(|number| number * number).sum();
        numbers.iter().map(|number| number * (squares / sum).sqrt()).collect()
    }

    /// The same number, spelled in one of several ways; for some the eighth digit is the last one that
    /// counts, for some what follows it weighs as much as it can.
    fn spelled_as(number: f64, way: u64) -> String {
        match way {
            0 => format!("{number}"),
            1 => format!("{number:e}"),
            2..=12 => format!("{number:.*}", usize::try_from(way).unwrap_or(0) + 4),
            13 => format!("{number:.8}99999999"),
            #[allow(clippy::cast_possible_truncation)] // As a server with 32 bits has it.
            _ => format!("{}", number as f32),
        }
    }

    #[test]
    fn what_passes_at_a_glance_is_what_passes() {
        let mut state = 0x2545_f491_4f6c_dd1d;
        let (mut passed, mut quick) = (0, 0);
        for round in 0..2_400_u64 {
            let size = [1, 2, 3, 17, 300, 1_536][usize::try_from(round % 6).unwrap_or(0)];
            let offset =
                [0.0, 1e-9, 3e-7, 7e-7, 9.9e-7, 9.99e-7, 1e-6, 1.001e-6, 1.01e-6, 1.3e-6, 1e-3]
                    [usize::try_from(random(&mut state) % 11).unwrap_or(0)];
            let sign = if random(&mut state) & 1 == 0 { 1.0 } else { -1.0 };
            let way = random(&mut state) % 16;
            let numbers = vector_of(&mut state, size, 1.0 + sign * offset);
            let spelled = numbers.iter().map(|number| {
                spelled_as(*number, if way < 15 { way } else { random(&mut state) % 15 })
            });
            let list = format!("[{}]", spelled.collect::<Vec<_>>().join(","));
            let seen = scan_list(list.as_bytes(), 1).expect("numbers");
            assert_eq!((seen.end, seen.numbers as u64), (list.len() - 1, size), "{list}");
            for form in [UNCUT, cut(2), VectorFormat::Raw] {
                let exact = written(&list, form).expect("a vector") == list;
                assert!(exact || !form.accepts_unchanged(&seen), "{form:?} {list}");
                if form == UNCUT {
                    passed += u32::from(exact);
                    quick += u32::from(form.accepts_unchanged(&seen));
                }
            }
        }
        assert!(passed > 800, "many pass: {passed}");
        assert!(quick > passed / 2, "most of them at a glance: {quick} of {passed}");
    }

    #[test]
    fn numbers_are_read_as_the_standard_parser_reads_them() {
        let mut state = 0x9e37_79b9_7f4a_7c15;
        let mut spellings: Vec<String> = [
            "0",
            "-0",
            "-0.0",
            "0.0000000000000000000001",
            "0.00000000000000000000001",
            "9007199254740992",
            "9007199254740993",
            "-9007199254740993.0",
            "0.9007199254740992",
            "0.9007199254740993",
            "90071992547409920",
            "18446744073709551615",
            "18446744073709551616",
            "184467440737095516160.5",
            "1e23",
            "1E+2",
            "-1e-2",
            "1e-400",
            "2.2250738585072011e-308",
            "5e-324",
            "0.1000000000000000055511151231257827021181583404541015625",
        ]
        .map(str::to_owned)
        .into();
        spellings.extend((0..50_000).map(|_| spelled(&mut state)));
        spellings.retain(|text| serde_json::from_str::<f64>(text).is_ok());
        assert!(spellings.len() > 45_000, "nearly all are JSON");
        for blanks in ["", " ", "\n  "] {
            let list = spellings.join(&format!("{blanks},{blanks}"));
            let mut numbers = NumberIter::new(&list);
            for text in &spellings {
                let (number, place) = numbers.next().expect("a number").expect("a good one");
                let expected: f64 = text.parse().expect("a number");
                assert_eq!(number.to_bits(), expected.to_bits(), "{text}");
                let by_serde: f64 = serde_json::from_str(text).expect("a number");
                assert_eq!(number.to_bits(), by_serde.to_bits(), "{text}");
                assert_eq!(&list[place], text);
            }
            assert!(numbers.next().is_none());
        }
        let fast =
            spellings.iter().filter(|text| parse_short_decimal(text.as_bytes()).is_some()).count();
        assert!((5_000..45_000).contains(&fast), "both ways are taken: {fast}");
    }
}
