//! The body of an embeddings response, parsed without its numbers.
//!
//! Nearly all of such a body is digits. One pass over the body validates each list of numbers, sums
//! the squares and notes where the list is; serde then parses the small rest. Never decides what
//! happens with a vector. Invariant: parsing the outline and resolving its vectors gives the same
//! lists as parsing the body; a list with anything but finite numbers stays in the outline.

use std::borrow::Cow;

use memchr::memchr2;

/// Most bytes of a number that is read here: its digits fit into 64 bits. The standard library reads
/// longer numbers.
const MAX_DIGITS: usize = 19;

/// The most digits behind the point of a number that [`scan_fraction`] reads.
const MAX_FRACTION_DIGITS: u32 = 15;

/// The weight of the last digit of such a number, by the number of its decimal places.
const WEIGHTS: [f64; MAX_DIGITS] = [
    1e0, 1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6, 1e-7, 1e-8, 1e-9, 1e-10, 1e-11, 1e-12, 1e-13, 1e-14,
    1e-15, 1e-16, 1e-17, 1e-18,
];

/// A valid JSON list of at least one number, each finite as 32 bits.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct NumberList<'a> {
    /// The list with its brackets.
    pub(super) text: &'a str,
    /// The numbers that are kept, with the commas between them.
    pub(super) kept: &'a str,
    /// True if there is white space between the brackets.
    pub(super) has_blanks: bool,
    /// The sum of the squares of the numbers that are kept, to within rounding.
    pub(super) squares: f64,
}

/// A body whose vectors are replaced by empty lists.
pub(super) struct Outline<'a> {
    pub(super) text: Cow<'a, str>,
    /// The vectors and their offsets in `text`, in ascending order.
    lists: Vec<(usize, NumberList<'a>)>,
}

impl<'a> Outline<'a> {
    /// Replaces the number lists of all members named `embedding`; of each list the first `max_len`
    /// numbers are kept.
    pub(super) fn extract(body: &'a str, max_len: usize) -> Self {
        let (mut text, mut lists) = (String::new(), Vec::new());
        let (mut copied, mut at) = (0, 0);
        while let Some(length) = memchr2(b'"', b'[', &body.as_bytes()[at..]) {
            at += length;
            if body.as_bytes()[at] == b'"' {
                at = string_end(body, at);
                continue;
            }
            let list =
                is_embedding_member(&body[copied..at]).then(|| scan_list(&body[at..], max_len));
            if let Some(list) = list.flatten() {
                text.push_str(&body[copied..at]);
                lists.push((text.len(), list));
                text.push_str("[]");
                at += list.text.len();
                copied = at;
            } else {
                at += 1;
            }
        }
        if lists.is_empty() {
            return Self { text: Cow::Borrowed(body), lists };
        }
        text.push_str(&body[copied..]);
        Self { text: Cow::Owned(text), lists }
    }

    /// The list that was replaced at `vector`, a part of the outline's text.
    pub(super) fn resolve(&self, vector: &str) -> Option<NumberList<'a>> {
        let offset = vector.as_ptr().addr().checked_sub(self.text.as_ptr().addr())?;
        let found = self.lists.binary_search_by_key(&offset, |(offset, _)| *offset).ok()?;
        Some(self.lists[found].1)
    }
}

/// True if a body up to a value ends with the name of a member `embedding`.
fn is_embedding_member(before: &str) -> bool {
    let name = before.trim_ascii_end().strip_suffix(':').map(str::trim_ascii_end);
    name.is_some_and(|name| name.ends_with("\"embedding\""))
}

/// The offset behind the string that starts at `start`; the body's length if it never ends.
fn string_end(body: &str, start: usize) -> usize {
    let bytes = body.as_bytes();
    let mut at = start + 1;
    while let Some(length) = memchr2(b'"', b'\\', &bytes[at.min(bytes.len())..]) {
        at += length;
        if bytes[at] == b'"' {
            return at + 1;
        }
        at += 2;
    }
    bytes.len()
}

/// The list of numbers at the start of `body`, of which the first `max_len` are kept.
pub(super) fn scan_list(body: &str, max_len: usize) -> Option<NumberList<'_>> {
    let bytes = body.as_bytes();
    let (mut at, mut kept_end, mut squares, mut has_blanks) = (1, 1, 0.0, false);
    let skip_blanks = |at: &mut usize| {
        let start = *at;
        while let Some(b' ' | b'\n' | b'\r' | b'\t') = bytes.get(*at) {
            *at += 1;
        }
        *at > start
    };
    for count in 1.. {
        has_blanks |= skip_blanks(&mut at);
        let (number, length) =
            scan_fraction(&bytes[at..]).or_else(|| scan_number(body.get(at..)?))?;
        at += length;
        if count <= max_len {
            squares += number * number;
            kept_end = at;
        }
        has_blanks |= skip_blanks(&mut at);
        match bytes.get(at)? {
            b',' => at += 1,
            b']' => break,
            _ => return None,
        }
    }
    Some(NumberList {
        text: &body[..=at],
        kept: body[1..kept_end].trim_ascii_start(),
        has_blanks,
        squares,
    })
}

/// As [`scan_number`], for an optional sign, `0.` and at most 15 digits: most numbers of most vectors.
///
/// Nothing depends on the sign or on how many digits there are by a branch, which would be predicted
/// wrong for every other number. 16 digits are converted at once: those that are missing become zeros
/// in front.
fn scan_fraction(bytes: &[u8]) -> Option<(f64, usize)> {
    /// A sign, `0.`, the digits and the byte that ends them.
    const WINDOW: usize = 3 + 16;
    const ZEROS: u128 = u128::from_le_bytes([b'0'; 16]);
    let window = bytes.first_chunk::<WINDOW>()?;
    let start = usize::from(window[0] == b'-');
    let digits = u128::from_le_bytes(*window[start + 2..].first_chunk()?) ^ ZEROS;
    // The high bit of each byte that is no digit; above the lowest such byte it may be wrong.
    let others = (digits.wrapping_add(u128::from_le_bytes([0x76; 16])) | digits)
        & u128::from_le_bytes([0x80; 16]);
    let count = others.trailing_zeros() / 8;
    let end = start + 2 + count as usize;
    if window[start..start + 2] != *b"0." || !(1..=MAX_FRACTION_DIGITS).contains(&count) {
        return None;
    }
    let aligned = (digits << (8 * (16 - count))).to_le_bytes();
    let (halves, _) = aligned.as_chunks::<8>();
    let [high, low] = [halves[0], halves[1]].map(|half| eight_digits(u64::from_le_bytes(half)));
    #[allow(clippy::cast_precision_loss)] // Below 2^53.
    let number = (high * 100_000_000 + low) as f64 * WEIGHTS[count as usize];
    (window[end] | 0x20 != b'e').then_some((number, end))
}

/// The number of eight digits, the first in the lowest byte: joins pairs, then fours, then all.
fn eight_digits(digits: u64) -> u64 {
    let pairs = digits.wrapping_mul(10 << 8 | 1) >> 8 & 0x00ff_00ff_00ff_00ff;
    let fours = pairs.wrapping_mul(100 << 16 | 1) >> 16 & 0x0000_ffff_0000_ffff;
    fours.wrapping_mul(10_000 << 32 | 1) >> 32
}

/// The absolute value of the JSON number at the start of `text`, to within rounding, and its length.
fn scan_number(text: &str) -> Option<(f64, usize)> {
    let bytes = text.as_bytes();
    let mut digits = 0;
    let start = usize::from(bytes.first() == Some(&b'-'));
    let point = read_digits(bytes, start, &mut digits);
    let has_point = bytes.get(point) == Some(&b'.');
    let mut end = if has_point { read_digits(bytes, point + 1, &mut digits) } else { point };
    let places = end - point - usize::from(has_point);
    let leading_zero = bytes.get(start) == Some(&b'0') && point > start + 1;
    if point == start || leading_zero || has_point && places == 0 {
        return None;
    }
    let has_exponent = matches!(bytes.get(end), Some(b'e' | b'E'));
    if !has_exponent && end - start <= MAX_DIGITS {
        #[allow(clippy::cast_precision_loss)] // Rounding does not matter.
        return Some((digits as f64 * WEIGHTS[places], end));
    }
    if has_exponent {
        let sign = usize::from(matches!(bytes.get(end + 1), Some(b'+' | b'-')));
        let exponent = end + 1 + sign;
        end = read_digits(bytes, exponent, &mut 0);
        (end > exponent).then_some(())?;
    }
    let number: f64 = text[..end].parse().ok()?;
    #[allow(clippy::cast_possible_truncation)] // What is too large for 32 bits is infinite.
    (number as f32).is_finite().then_some((number.abs(), end))
}

/// Appends the digits from `at` on to `value`, and returns their end.
fn read_digits(bytes: &[u8], mut at: usize, value: &mut u64) -> usize {
    while let Some(digit @ b'0'..=b'9') = bytes.get(at) {
        *value = value.wrapping_mul(10).wrapping_add(u64::from(digit - b'0'));
        at += 1;
    }
    at
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scanned(list: &str) -> Option<(usize, usize, bool, f64)> {
        let body = format!("{list} and more text that follows");
        let list = scan_list(&body, usize::MAX)?;
        let count = list.kept.split(',').count();
        Some((list.text.len(), count, list.has_blanks, list.squares))
    }

    #[test]
    fn number_lists_are_scanned_in_every_spelling() {
        let check = |list: &str, numbers: usize, has_blanks: bool, sum: f64| {
            let (length, count, blanks, squares) = scanned(list).expect(list);
            assert_eq!((length, count, blanks), (list.len(), numbers, has_blanks), "{list}");
            assert!((squares - sum).abs() <= sum * 1e-14, "{list}: {squares}");
        };
        check("[1]", 1, false, 1.0);
        check("[0]", 1, false, 0.0);
        check("[-0.5,0.5]", 2, false, 0.5);
        check("[3,-4.5,1E2,-1e-2,2.5e+1]", 5, false, 9.0 + 20.25 + 10_000.0 + 1e-4 + 625.0);
        check("[0.5e1,-0.25E-1,0.12345678e-05]", 3, false, 25.000_625_000_001_524);
        check("[0.12345678901234567890123456789]", 1, false, 0.015_241_578_753_238_84);
        check("[ 0.5 ,\n\t-0.5\r\n]", 2, true, 0.5);
        check("[0.5, 0.5]", 2, true, 0.5);
        check("[1e-400,-0]", 2, false, 0.0);
        // Eight digits are all there is, or more than there are.
        for digits in 1..23 {
            let number = format!("0.{}", "98765432123456789012345".split_at(digits).0);
            let square = number.parse::<f64>().expect("a number").powi(2);
            check(&format!("[{number}]"), 1, false, square);
            check(&format!("[-{number},-{number}]"), 2, false, square * 2.0);
        }
    }

    #[test]
    fn lists_of_anything_but_finite_numbers_are_not_scanned() {
        for list in [
            "[]",
            "[ ]",
            "[1,]",
            "[,1]",
            "[1,,1]",
            "[1 1]",
            "[null]",
            "[NaN]",
            "[\"1\"]",
            "[[1]]",
            "[-]",
            "[+1]",
            "[01]",
            "[-01]",
            "[00.5]",
            "[0.]",
            "[-0.]",
            "[.5]",
            "[0.5.5]",
            "[0.5-]",
            "[1.]",
            "[1e]",
            "[1e+]",
            "[0.5e]",
            "[0.5e-]",
            "[1e400]",
            "[1e39]",
            "[0.5}",
            "[0x5]",
            "[0.5f]",
            "[0.1234567\u{660}]",
            "[0.\u{660}]",
            "[0.5/]",
            "[0.5:]",
            "[0.5\u{b}]",
        ] {
            assert_eq!(scanned(list), None, "{list}");
        }
        // It may break off anywhere.
        let list = "[0.123456789,-0.123456789012345678901234,1e-05, 7.5 ]";
        for end in 1..list.len() {
            assert_eq!(scan_list(&list[..end], usize::MAX), None, "{end}");
        }
        assert!(scan_list(list, usize::MAX).is_some());
    }
    /// True for an optional sign, `0.` and 1 to 15 digits.
    fn has_short_fraction(text: &str) -> bool {
        let digits = text.strip_prefix('-').unwrap_or(text).strip_prefix("0.");
        digits.is_some_and(|digits| {
            (1..=15).contains(&digits.len()) && digits.bytes().all(|byte| byte.is_ascii_digit())
        })
    }

    #[test]
    fn sums_of_random_numbers_are_those_of_the_standard_parser() {
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        for round in 0..50_000_u32 {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            let text = match round % 6 {
                0 => format!("{}", f64::from_bits(state >> 2 | 0x3f00_0000_0000_0000)),
                1 => format!("{:e}", f64::from_bits(state)),
                2 => format!("-{}.{}", state >> 40, state % 1_000_000),
                3 => format!("0.{state}E{}", round % 30),
                4 => format!("-0.{}", &state.to_string()[..round as usize % 17 + 1]),
                _ => state.to_string(),
            };
            let expected: f64 = text.parse().expect("a number");
            #[allow(clippy::cast_possible_truncation)] // As the scan does.
            let expected = (expected as f32).is_finite().then_some((expected.abs(), text.len()));
            let list = format!("{text},{}", "7".repeat(20));
            let fraction = scan_fraction(list.as_bytes());
            assert_eq!(fraction.is_some(), has_short_fraction(&text), "{text}");
            match (fraction.or_else(|| scan_number(&list)), expected) {
                (Some((number, length)), Some((value, end))) => {
                    assert!((number - value).abs() <= value * 1e-15, "{text}: {number}");
                    assert_eq!(length, end, "{text}");
                }
                (scanned, expected) => assert_eq!(scanned, expected, "{text}"),
            }
        }
    }
}
