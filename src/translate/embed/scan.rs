//! A quick look at a list of numbers: whether it is JSON, and between what its sum of squares lies.
//!
//! Most vectors are of unit length, and need no more than that to be known. Eight digits behind the
//! point say enough, and are read eight at a time, some nanoseconds a number. Invariant: the bounds are
//! true ones; whatever is not understood is left to the exact way, and so is what they leave open.

use super::float_text::Fraction;

/// Digits behind the point that count.
const UNITS: f64 = 1e8;

/// Lists longer than this are left to the exact way: what rounding can do grows with the length.
const MAX_NUMBERS: usize = 1 << 20;

/// More than rounding can do to a sum of squares near 1, here and in the exact way together: each
/// adds less than 2^-52 a number.
const MAX_ROUNDING_ERROR: f64 = 1e-9;

/// What a glance tells of a list: it is one of finite numbers, at least one.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct ListScan {
    /// Where its closing bracket stands.
    pub(super) end: usize,
    /// Whether there are blanks between its brackets.
    pub(super) has_blanks: bool,
    /// How many numbers there are.
    pub(super) numbers: usize,
    /// Between what their sum of squares lies, but for rounding.
    bounds: (f64, f64),
}

impl ListScan {
    /// Whether the sum of squares is surely within `tolerance` of 1, however it is worked out.
    pub(super) fn is_unit(&self, tolerance: f64) -> bool {
        let (least, most) = self.bounds;
        let margin = tolerance - MAX_ROUNDING_ERROR;
        self.numbers <= MAX_NUMBERS && least >= 1.0 - margin && most <= 1.0 + margin
    }
}

/// Looks at the list whose opening bracket stands before `start`.
pub(super) fn scan_list(text: &[u8], start: usize) -> Option<ListScan> {
    // What was cut off of `sum` units is less than one of them for each of `cut` numbers.
    let (mut at, mut cut, mut others, mut has_blanks) = (start, 0_u64, 0_usize, false);
    let (mut sum, mut squares, mut exact) = (0_u64, 0.0, 0.0);
    loop {
        let mut rest = text.get(at..)?;
        let length = if let Some(fraction) = rest.first_chunk().and_then(Fraction::at) {
            let units = fraction.leading();
            cut += 1;
            sum += u64::from(units);
            squares += f64::from(units) * f64::from(units);
            fraction.length()
        } else if let blanks @ 1.. = count_whitespace(rest) {
            has_blanks = true;
            at += blanks;
            continue;
        } else {
            let (number, length) = parse_number(rest)?;
            others += 1;
            exact += number * number;
            length
        };
        rest = &rest[length..];
        at += length;
        if let Some(b' ' | b'\n' | b'\r' | b'\t') = rest.first() {
            has_blanks = true;
            at += count_whitespace(rest);
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
    Some(ListScan { end: at, has_blanks, numbers, bounds: (bound(squares), bound(squares + open)) })
}

/// How many blanks stand at the beginning.
pub(super) fn count_whitespace(text: &[u8]) -> usize {
    let is_blank = |byte: &&u8| matches!(byte, b' ' | b'\n' | b'\r' | b'\t');
    text.iter().take_while(is_blank).count()
}

/// A number of JSON at the beginning of `text`, in any spelling, and its length; none where 32 bits do
/// not hold it.
fn parse_number(text: &[u8]) -> Option<(f64, usize)> {
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

    fn seen(list: &str) -> Option<ListScan> {
        scan_list(format!("{list} and whatever follows, at some length").as_bytes(), 1)
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
            assert_eq!(scan_list(&list[..end], 1), None, "{end}");
        }
        assert!(scan_list(list, 1).is_some());
    }
}
