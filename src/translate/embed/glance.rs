//! A quick look at a list of numbers: whether it is JSON, and between what its sum of squares lies.
//!
//! Most vectors are of unit length, and need no more than that to be known. Eight digits behind the
//! point say enough, and are read eight at a time, some nanoseconds a number. Invariant: the bounds are
//! true ones; whatever is not understood is left to the exact way, and so is what they leave open.

/// Eight times the same byte.
const fn all(byte: u8) -> u64 {
    u64::from_le_bytes([byte; 8])
}

/// Bytes that are looked at together: a sign, `0.` and some twenty digits.
const WINDOW: usize = 24;

/// Digits behind the point that count.
const UNITS: f64 = 1e8;

/// Lists longer than this are left to the exact way: what rounding can do grows with the length.
const MOST_NUMBERS: usize = 1 << 20;

/// More than rounding can do to a sum of squares near 1, here and in the exact way together: each
/// adds less than 2^-52 a number.
const ROUNDING: f64 = 1e-9;

/// What a glance tells of a list: it is one of finite numbers, at least one.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Glance {
    /// Where its closing bracket stands.
    pub(super) end: usize,
    /// Whether there are blanks between its brackets.
    pub(super) has_blanks: bool,
    /// How many numbers there are.
    pub(super) numbers: usize,
    /// Between what their sum of squares lies, but for rounding.
    bounds: (f64, f64),
}

impl Glance {
    /// Whether the sum of squares is surely within `tolerance` of 1, however it is worked out.
    pub(super) fn is_unit(&self, tolerance: f64) -> bool {
        let (least, most) = self.bounds;
        let margin = tolerance - ROUNDING;
        self.numbers <= MOST_NUMBERS && least >= 1.0 - margin && most <= 1.0 + margin
    }
}

/// Looks at the list whose opening bracket stands before `start`.
pub(super) fn glance(text: &[u8], start: usize) -> Option<Glance> {
    // What was cut off of `sum` units is less than one of them for each of `cut` numbers.
    let (mut at, mut cut, mut others, mut has_blanks) = (start, 0_u64, 0_usize, false);
    let (mut sum, mut squares, mut exact) = (0_u64, 0.0, 0.0);
    loop {
        let mut rest = text.get(at..)?;
        let length = if let Some((units, length)) = rest.first_chunk().and_then(fraction) {
            cut += 1;
            sum += u64::from(units);
            squares += f64::from(units) * f64::from(units);
            length
        } else if let blanks @ 1.. = blanks(rest) {
            has_blanks = true;
            at += blanks;
            continue;
        } else {
            let (number, length) = any_number(rest)?;
            others += 1;
            exact += number * number;
            length
        };
        rest = &rest[length..];
        at += length;
        if let Some(b' ' | b'\n' | b'\r' | b'\t') = rest.first() {
            has_blanks = true;
            at += blanks(rest);
            rest = text.get(at..)?;
        }
        match rest.first()? {
            b',' => at += 1,
            b']' => break,
            _ => return None,
        }
    }
    #[allow(clippy::cast_precision_loss)] // Rounding is allowed for.
    let open = 2.0 * sum as f64 + cut as f64;
    let bound = |squares: f64| squares / (UNITS * UNITS) + exact;
    let numbers = usize::try_from(cut).ok()?.checked_add(others)?;
    Some(Glance { end: at, has_blanks, numbers, bounds: (bound(squares), bound(squares + open)) })
}

/// How many blanks stand at the beginning.
pub(super) fn blanks(text: &[u8]) -> usize {
    let is_blank = |byte: &&u8| matches!(byte, b' ' | b'\n' | b'\r' | b'\t');
    text.iter().take_while(is_blank).count()
}

/// Marks the bytes that are no digits, given what is left of each without the bits of `0`. Marks above
/// the lowest may be wrong.
fn marks(word: u64) -> u64 {
    (word.wrapping_add(all(0x76)) | word) & all(0x80)
}

/// A decimal fraction below 1 at the beginning of `window`: its first eight digits behind the point, as
/// a number, and the length of all of it. There is no branch that depends on the number of its digits,
/// nor on its sign: each would be guessed wrong half of the time.
#[inline]
fn fraction(window: &[u8; WINDOW]) -> Option<(u32, usize)> {
    let (words, _) = window.as_chunks::<8>();
    let [first, second, third] = [words[0], words[1], words[2]].map(u64::from_le_bytes);
    let sign = usize::from(window[0] == b'-');
    if first >> (8 * sign) & 0xffff != u64::from(u16::from_le_bytes(*b"0.")) {
        return None;
    }
    // Neither sign nor point ends it.
    let begun = marks(first ^ all(b'0')) & (u64::MAX << (8 * (2 + sign)));
    let near = u128::from(marks(second ^ all(b'0'))) << 64 | u128::from(begun);
    let length = if near == 0 {
        let far = marks(third ^ all(b'0'));
        if far == 0 {
            return None;
        }
        16 + far.trailing_zeros() / 8
    } else {
        near.trailing_zeros() / 8
    } as usize;
    if length == 2 + sign || window[length] | 0x20 == b'e' {
        return None;
    }
    let digits = *window[2 + sign..].first_chunk()?;
    let digits = u64::from_le_bytes(digits) ^ all(b'0');
    // Nothing but the digits before the first mark stays; the others count as zeros.
    let mark = marks(digits);
    let kept = ((mark & mark.wrapping_neg()) >> 7).wrapping_sub(1);
    Some((eight_digits(digits & kept), length))
}

/// The number that eight digits make, the first one in the lowest byte: pairs, then fours, then all.
#[allow(clippy::cast_possible_truncation)] // What is above 32 bits was shifted out of use.
fn eight_digits(digits: u64) -> u32 {
    let pairs = digits.wrapping_mul(10 << 8 | 1) >> 8 & 0x00ff_00ff_00ff_00ff;
    let fours = pairs.wrapping_mul(100 << 16 | 1) >> 16 & 0x0000_ffff_0000_ffff;
    (fours.wrapping_mul(10_000 << 32 | 1) >> 32) as u32
}

/// A number of JSON at the beginning of `text`, in any spelling, and its length; none where 32 bits do
/// not hold it.
fn any_number(text: &[u8]) -> Option<(f64, usize)> {
    let digits = |at: usize| text[at..].iter().take_while(|byte| byte.is_ascii_digit()).count();
    let mut at = usize::from(text.first() == Some(&b'-'));
    match (text.get(at)?, digits(at)) {
        (_, 0) => return None,
        (b'0', more) if more > 1 => return None,
        (_, count) => at += count,
    }
    if text.get(at) == Some(&b'.') {
        let count = digits(at + 1);
        at += 1 + count;
        (count > 0).then_some(())?;
    }
    if let Some(b'e' | b'E') = text.get(at) {
        at += 1 + usize::from(matches!(text.get(at + 1), Some(b'+' | b'-')));
        let count = if at <= text.len() { digits(at) } else { 0 };
        at += count;
        (count > 0).then_some(())?;
    }
    let number: f64 = std::str::from_utf8(&text[..at]).ok()?.parse().ok()?;
    #[allow(clippy::cast_possible_truncation)] // What is too large for 32 bits is infinite.
    (number as f32).is_finite().then_some((number, at))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(list: &str) -> Option<Glance> {
        glance(format!("{list} and whatever follows, at some length").as_bytes(), 1)
    }

    #[test]
    fn lists_of_numbers_are_seen_whatever_their_spelling() {
        let check = |list: &str, numbers: usize, has_blanks: bool, sum: f64| {
            let seen = seen(list).expect(list);
            assert_eq!((seen.end, seen.numbers), (list.len() - 1, numbers), "{list}");
            assert_eq!(seen.has_blanks, has_blanks, "{list}");
            let (least, most) = seen.bounds;
            assert!(least <= sum * (1.0 + 1e-15) && sum <= most * (1.0 + 1e-15), "{list}");
            assert!(most - least < 1e-6, "{list}");
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
    fn what_is_no_list_of_finite_numbers_is_left_to_others() {
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
            assert_eq!(seen(list), None, "{list}");
        }
        // It may break off anywhere.
        let list = b"[0.123456789,-0.123456789012345678901234,1e-05, 7.5 ]";
        for end in 1..list.len() {
            assert_eq!(glance(&list[..end], 1), None, "{end}");
        }
        assert!(glance(list, 1).is_some());
    }

    #[test]
    fn the_first_eight_digits_count() {
        for number in [0, 1, 9, 10, 12_345_678, 90_000_000, 99_999_999_u32, 10_203_040] {
            let mut window = [b'7'; WINDOW];
            window[..11].copy_from_slice(format!("-0.{number:08}").as_bytes());
            window[20] = b',';
            assert_eq!(fraction(&window), Some((number, 20)));
            window[11] = b']';
            assert_eq!(fraction(&window), Some((number, 11)));
        }
        assert_eq!(fraction(b"0.5,99999999999999999999"), Some((50_000_000, 3)));
        assert_eq!(fraction(b"-0.05]99999999999999999,"), Some((5_000_000, 5)));
        assert_eq!(fraction(&[b'0'; WINDOW]), None);
    }
}
