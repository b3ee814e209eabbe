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
    if list.trim_ascii().is_empty() {
        return Err(without_numbers());
    }
    let numbers = || list.split(',').map(|token| number(token.trim_ascii()));
    if let Some(length) = divisor(numbers(), form)? {
        append_divided(out, numbers().take(form.most()).flatten(), length);
        return Ok(());
    }
    let end = list.match_indices(',').nth(form.most() - 1).map_or(list.len(), |(at, _)| at);
    // Some servers write one number a line.
    for piece in list[..end].split_ascii_whitespace() {
        out.extend_from_slice(piece.as_bytes());
    }
    Ok(())
}

/// Appends numbers that came as bytes.
fn append_floats(out: &mut Vec<u8>, bytes: &[u8], form: Form) -> Result<()> {
    let (floats, rest) = bytes.as_chunks::<4>();
    if !rest.is_empty() {
        return Err(Error::protocol("base64 that holds no 32-bit floats"));
    }
    if floats.is_empty() {
        return Err(without_numbers());
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
    let mut squares = 0.0;
    for (place, number) in numbers.enumerate() {
        let number = number?;
        #[allow(clippy::cast_possible_truncation)] // What is too large for 32 bits is infinite.
        if !(number as f32).is_finite() {
            return Err(form.not_finite());
        }
        if place < most {
            squares += number * number;
        }
    }
    let is_unit = form == Form::Raw || f64::abs(squares - 1.0) <= UNIT;
    Ok((!is_unit).then(|| squares.sqrt().max(LEAST_LENGTH)))
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
