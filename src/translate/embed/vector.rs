//! One vector: from what arrived to what a client reads (openai-wire.md 7.1, 7.3).
//!
//! It arrives as a list of numbers or as base64, and only the JSON type that came decides which. Where
//! nothing about it must change, the digits that came are the digits that go: they are read to be
//! judged, and never printed again. What must change is worked out with 64 bits and printed with 32,
//! which is what Ollama's vectors have. Invariant: a list that comes out holds finite numbers, at
//! least one and no blanks.

use serde_json::value::RawValue;

use crate::error::{Error, Result};
use crate::ndjson;
use crate::openai::answer::Str;

/// What Ollama says of a vector that is none (ollama-api.md 4.2).
const NOT_FINITE: &str = "embedding contains NaN or Inf values";

/// How far the sum of squares may be from 1 for a vector of unit length: its length is then within
/// half of this, and what a client rounds to 32 bits still within all of it.
const UNIT: f64 = 1e-6;

/// Ollama divides by no less than this (openai-wire.md 7.3).
const LEAST_LENGTH: f64 = 1e-12;

/// Up to this, 64-bit floats hold every whole number.
const EXACT: u64 = 1 << 53;

/// The powers of ten that 64-bit floats hold exactly.
const POWERS: [f64; 23] = [
    1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15, 1e16,
    1e17, 1e18, 1e19, 1e20, 1e21, 1e22,
];

/// What a route makes of a vector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// `/api/embed`: of unit length, and no longer than so many numbers.
    Unit {
        /// How many; what is not positive means nothing.
        dimensions: Option<i64>,
    },
    /// `/api/embeddings`: as it came.
    Raw,
}

impl Form {
    /// How many numbers are kept at most.
    fn most(self) -> usize {
        match self {
            Self::Unit { dimensions: Some(most) } if most > 0 => {
                usize::try_from(most).unwrap_or(usize::MAX)
            }
            Self::Unit { .. } | Self::Raw => usize::MAX,
        }
    }

    /// The error for numbers that are none; the routes differ in its status (ollama-api.md 4.2).
    pub(super) fn not_finite(self) -> Error {
        let status = match self {
            Self::Unit { .. } => 400,
            Self::Raw => 500,
        };
        Error::UpstreamInBand { status, message: NOT_FINITE.to_owned() }
    }
}

/// Appends a vector as a JSON list.
///
/// # Errors
/// [`Error::UpstreamProtocol`] for what is no vector, and Ollama's sentence for one with numbers that
/// are not finite.
pub(super) fn append(out: &mut Vec<u8>, vector: &RawValue, form: Form) -> Result<()> {
    let text = vector.get();
    out.push(b'[');
    match text.as_bytes().first() {
        Some(b'[') => append_digits(out, &text[1..text.len() - 1], form)?,
        Some(b'"') => {
            let base64: Str<'_> = serde_json::from_str(text).map_err(|_| bad_base64())?;
            append_floats(out, &decode(base64.as_bytes())?, form)?;
        }
        _ => return Err(Error::protocol("an embedding that is no list and no base64")),
    }
    out.push(b']');
    Ok(())
}

/// Appends the numbers of a list, which stand in `list` with commas between them.
fn append_digits(out: &mut Vec<u8>, list: &str, form: Form) -> Result<()> {
    let mut numbers = Numbers::of(list);
    if let Some(length) = divisor(&mut numbers, form)? {
        append_divided(out, Numbers::of(list).take(form.most()).flatten(), length);
        return Ok(());
    }
    let end = match form.most() {
        usize::MAX => list.len(),
        most => list.match_indices(',').nth(most - 1).map_or(list.len(), |(at, _)| at),
    };
    if numbers.blanks {
        append_without_blanks(out, &list.as_bytes()[..end]);
    } else {
        out.extend_from_slice(&list.as_bytes()[..end]);
    }
    Ok(())
}

/// Appends what is no blank: Ollama writes none, and some servers write one number a line. It writes
/// each byte where the next is to stand, since a branch for each would cost more than all the rest.
fn append_without_blanks(out: &mut Vec<u8>, list: &[u8]) {
    let mut end = out.len();
    out.resize(end + list.len(), 0);
    for byte in list {
        out[end] = *byte;
        end += usize::from(!byte.is_ascii_whitespace());
    }
    out.truncate(end);
}

/// Appends numbers that came as bytes.
fn append_floats(out: &mut Vec<u8>, bytes: &[u8], form: Form) -> Result<()> {
    let (floats, rest) = bytes.as_chunks::<4>();
    if !rest.is_empty() {
        return Err(Error::protocol("base64 that holds no 32-bit floats"));
    }
    let numbers = || floats.iter().map(|bytes| f64::from(f32::from_le_bytes(*bytes)));
    let length = divisor(numbers().map(Ok), form)?.unwrap_or(1.0);
    append_divided(out, numbers().take(form.most()), length);
    Ok(())
}

/// Appends each number divided by `length`, as the shortest digits that read back as the same 32
/// bits.
fn append_divided(out: &mut Vec<u8>, numbers: impl Iterator<Item = f64>, length: f64) {
    for (place, number) in numbers.enumerate() {
        if place > 0 {
            out.push(b',');
        }
        #[allow(clippy::cast_possible_truncation)] // Ollama's vectors are 32 bits wide.
        ndjson::append(out, &((number / length) as f32));
    }
}

/// By what each number is to be divided; nothing for a vector that stays as it is. All numbers are
/// looked at, also those that are cut off, as Ollama does.
fn divisor(numbers: impl Iterator<Item = Result<f64>>, form: Form) -> Result<Option<f64>> {
    let most = form.most();
    let (mut squares, mut count) = (0.0, 0);
    for number in numbers {
        let number = number?;
        #[allow(clippy::cast_possible_truncation)] // What is too large for 32 bits is infinite.
        if !(number as f32).is_finite() {
            return Err(form.not_finite());
        }
        if count < most {
            squares += number * number;
        }
        count += 1;
    }
    if count == 0 {
        return Err(without_numbers());
    }
    let is_unit = form == Form::Raw || f64::abs(squares - 1.0) <= UNIT;
    Ok((!is_unit).then(|| squares.sqrt().max(LEAST_LENGTH)))
}

/// The numbers of a list of JSON, which is known to be JSON.
struct Numbers<'a> {
    list: &'a str,
    at: usize,
    /// Whether there were blanks so far.
    blanks: bool,
}

impl<'a> Numbers<'a> {
    fn of(list: &'a str) -> Self {
        Self { list, at: 0, blanks: false }
    }

    fn skip_blanks(&mut self) {
        while self.list.as_bytes().get(self.at).is_some_and(u8::is_ascii_whitespace) {
            self.at += 1;
            self.blanks = true;
        }
    }
}

impl Iterator for Numbers<'_> {
    type Item = Result<f64>;

    fn next(&mut self) -> Option<Self::Item> {
        self.skip_blanks();
        let rest = self.list.as_bytes().get(self.at..).filter(|rest| !rest.is_empty())?;
        let (number, length) = match plain(rest) {
            Some((number, length)) => (Ok(number), length),
            None => {
                let ends = |byte: &u8| *byte == b',' || byte.is_ascii_whitespace();
                let length = rest.iter().position(ends).unwrap_or(rest.len());
                (number(&self.list[self.at..self.at + length]), length)
            }
        };
        self.at += length;
        self.skip_blanks();
        // Behind a comma there is a number, and nothing behind the last.
        self.at += 1;
        Some(number)
    }
}

/// The decimal at the beginning of `text` and its length, where one division gives what the standard
/// library would: its digits and the power of ten are then exact, and only the quotient is rounded.
/// This is for speed, and most numbers are such.
fn plain(text: &[u8]) -> Option<(f64, usize)> {
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
fn number(token: &str) -> Result<f64> {
    match token.as_bytes().first() {
        // JSON's numbers are among those that the standard library reads.
        Some(b'-' | b'0'..=b'9') => token.parse().map_err(|_| without_numbers()),
        Some(b'n') => Ok(f64::NAN),
        _ => Err(Error::protocol("an embedding of something else than numbers")),
    }
}

/// The bytes of standard, padded base64.
fn decode(text: &[u8]) -> Result<Vec<u8>> {
    let (groups, rest) = text.as_chunks::<4>();
    let padding = text.iter().rev().take_while(|byte| **byte == b'=').count();
    if !rest.is_empty() || padding > 2 {
        return Err(bad_base64());
    }
    let mut bytes = Vec::with_capacity(groups.len() * 3);
    let last = groups.len().saturating_sub(1);
    for (place, group) in groups.iter().enumerate() {
        let digits = if place == last { 4 - padding } else { 4 };
        let mut bits = 0_u32;
        for byte in &group[..digits] {
            bits = bits << 6 | u32::from(sextet(*byte).ok_or_else(bad_base64)?);
        }
        bits <<= 6 * (4 - digits) + 8;
        bytes.extend_from_slice(&bits.to_be_bytes()[..digits - 1]);
    }
    Ok(bytes)
}

/// The six bits that a digit of base64 stands for.
fn sextet(byte: u8) -> Option<u8> {
    Some(match byte {
        b'A'..=b'Z' => byte - b'A',
        b'a'..=b'z' => byte - b'a' + 26,
        b'0'..=b'9' => byte - b'0' + 52,
        b'+' => 62,
        b'/' => 63,
        _ => return None,
    })
}

fn bad_base64() -> Error {
    Error::protocol("an embedding in bad base64")
}

fn without_numbers() -> Error {
    Error::protocol("an embedding without numbers")
}
