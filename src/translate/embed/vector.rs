//! One vector: from what arrived to what a client reads (openai-wire.md 7.1, 7.3).
//!
//! It arrives as a list of numbers or as base64, and only the JSON type that came decides which. Where
//! nothing about it must change, the digits that came are the digits that go: they are read to be
//! judged, and never printed again. What must change is worked out with 64 bits and printed with 32,
//! which is what Ollama's vectors have. Invariant: a list that comes out holds finite numbers, at
//! least one and no blanks.

use std::ops::Range;

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
pub(super) enum Form {
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

/// Writes vectors, each as a JSON list.
#[derive(Default)]
pub(super) struct Writer {
    /// The numbers of the vector at hand; one room for all.
    numbers: Vec<f64>,
}

impl Writer {
    /// Appends a vector.
    ///
    /// # Errors
    /// [`Error::UpstreamProtocol`] for what is no vector, and Ollama's sentence for one with numbers
    /// that are not finite.
    pub(super) fn append(
        &mut self,
        out: &mut Vec<u8>,
        vector: &RawValue,
        form: Form,
    ) -> Result<()> {
        let text = vector.get();
        self.numbers.clear();
        out.push(b'[');
        match text.as_bytes().first() {
            Some(b'[') => self.append_digits(out, &text[1..text.len() - 1], form)?,
            Some(b'"') => {
                let base64: Str<'_> = serde_json::from_str(text).map_err(|_| bad_base64())?;
                self.append_floats(out, &decode(base64.as_bytes())?, form)?;
            }
            _ => return Err(Error::protocol("an embedding that is no list and no base64")),
        }
        out.push(b']');
        Ok(())
    }

    /// Appends what stands in `list` with commas between its numbers, without its blanks: Ollama
    /// writes none, and some servers write one number a line.
    fn append_digits(&mut self, out: &mut Vec<u8>, list: &str, form: Form) -> Result<()> {
        let (start, most, mut run) = (out.len(), form.most(), 0..0);
        for item in Numbers::of(list) {
            let (number, place) = item?;
            self.numbers.push(number);
            if self.numbers.len() > most {
                continue;
            }
            if place.start > run.end + 1 {
                if !run.is_empty() {
                    out.extend_from_slice(&list.as_bytes()[run]);
                    out.push(b',');
                }
                run = place.clone();
            }
            run.end = place.end;
        }
        match self.divisor(form)? {
            None => out.extend_from_slice(&list.as_bytes()[run]),
            Some(length) => {
                out.truncate(start);
                self.append_divided(out, form, length);
            }
        }
        Ok(())
    }

    /// Appends numbers that came as bytes.
    fn append_floats(&mut self, out: &mut Vec<u8>, bytes: &[u8], form: Form) -> Result<()> {
        let (floats, rest) = bytes.as_chunks::<4>();
        if !rest.is_empty() {
            return Err(Error::protocol("base64 that holds no 32-bit floats"));
        }
        self.numbers.extend(floats.iter().map(|bytes| f64::from(f32::from_le_bytes(*bytes))));
        let length = self.divisor(form)?.unwrap_or(1.0);
        self.append_divided(out, form, length);
        Ok(())
    }

    /// By what each number is to be divided; nothing for a vector that stays as it is. All numbers
    /// are looked at, also those that are cut off, as Ollama does.
    fn divisor(&self, form: Form) -> Result<Option<f64>> {
        if self.numbers.is_empty() {
            return Err(without_numbers());
        }
        #[allow(clippy::cast_possible_truncation)] // What is too large for 32 bits is infinite.
        if !self.numbers.iter().all(|number| (*number as f32).is_finite()) {
            return Err(form.not_finite());
        }
        if form == Form::Raw {
            return Ok(None);
        }
        let squares: f64 = self.kept(form).map(|number| number * number).sum();
        let is_unit = (squares - 1.0).abs() <= UNIT;
        Ok((!is_unit).then(|| squares.sqrt().max(LEAST_LENGTH)))
    }

    /// Appends each number divided by `length`, as the shortest digits that read back as the same 32
    /// bits.
    fn append_divided(&self, out: &mut Vec<u8>, form: Form, length: f64) {
        for (place, number) in self.kept(form).enumerate() {
            if place > 0 {
                out.push(b',');
            }
            #[allow(clippy::cast_possible_truncation)] // Ollama's vectors are 32 bits wide.
            ndjson::append(out, &((number / length) as f32));
        }
    }

    fn kept(&self, form: Form) -> impl Iterator<Item = f64> {
        self.numbers.iter().copied().take(form.most())
    }
}

/// The numbers of a list, which is known to be JSON, and where each stands.
struct Numbers<'a> {
    list: &'a str,
    at: usize,
}

impl<'a> Numbers<'a> {
    fn of(list: &'a str) -> Self {
        Self { list, at: 0 }
    }

    fn skip_blanks(&mut self) {
        while self.list.as_bytes().get(self.at).is_some_and(u8::is_ascii_whitespace) {
            self.at += 1;
        }
    }
}

impl Iterator for Numbers<'_> {
    type Item = Result<(f64, Range<usize>)>;

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
    let mut wrong = 0;
    for (place, group) in groups.iter().enumerate() {
        let digits = if place == last { 4 - padding } else { 4 };
        let mut bits = 0;
        for byte in &group[..digits] {
            let sextet = SEXTETS[usize::from(*byte)];
            wrong |= sextet;
            bits = bits << 6 | u32::from(sextet);
        }
        bits <<= 6 * (4 - digits) + 8;
        bytes.extend_from_slice(&bits.to_be_bytes()[..digits - 1]);
    }
    if wrong > 63 { Err(bad_base64()) } else { Ok(bytes) }
}

/// The six bits that each digit of base64 stands for; more than six for what is no digit.
const SEXTETS: [u8; 256] = {
    let digits = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let (mut table, mut sextet) = ([u8::MAX; 256], 0);
    while sextet < 64 {
        table[digits[sextet as usize] as usize] = sextet;
        sextet += 1;
    }
    table
};

fn bad_base64() -> Error {
    Error::protocol("an embedding in bad base64")
}

fn without_numbers() -> Error {
    Error::protocol("an embedding without numbers")
}
