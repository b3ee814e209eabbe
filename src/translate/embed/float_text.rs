//! Decimal fractions below 1, whose digits are read eight at a time.
//!
//! This is for speed: most numbers of most vectors are such. There is no branch that depends on a sign or
//! on how many digits there are: each would be guessed wrong half of the time. Invariant: a fraction is
//! what JSON takes for one, and stands there whole; all else is none.

/// Eight times the same byte.
const fn all(byte: u8) -> u64 {
    u64::from_le_bytes([byte; 8])
}

/// Bytes that are looked at together: a sign, `0.`, some twenty digits and what follows them.
pub(super) const WINDOW: usize = 24;

/// Up to this, 64-bit floats hold every whole number.
pub(super) const EXACT: u64 = 1 << 53;

/// The powers of ten that 64-bit floats hold exactly.
pub(super) const POWERS: [f64; 23] = [
    1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15, 1e16,
    1e17, 1e18, 1e19, 1e20, 1e21, 1e22,
];

/// Powers of ten, for what has more than eight digits.
const SHIFTS: [u64; 9] = [1, 10, 100, 1_000, 10_000, 100_000, 1_000_000, 10_000_000, 100_000_000];

/// A fraction at the beginning of a window: an optional sign, `0.` and digits.
pub(super) struct Fraction<'a> {
    window: &'a [u8; WINDOW],
    /// How long the sign is.
    sign: usize,
    length: usize,
}

impl<'a> Fraction<'a> {
    /// The fraction there, if there is one without an exponent, and its end can be seen.
    #[inline]
    pub(super) fn at(window: &'a [u8; WINDOW]) -> Option<Self> {
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
        let is_whole = length > 2 + sign && window[length] | 0x20 != b'e';
        is_whole.then_some(Self { window, sign, length })
    }

    /// How many bytes it takes.
    pub(super) fn length(&self) -> usize {
        self.length
    }

    /// The whole number that its first eight digits make. Those that there are not count as zeros.
    #[inline]
    pub(super) fn leading(&self) -> u32 {
        let digits = self.digits(0);
        // Nothing but the digits before the first mark stays.
        let mark = marks(digits);
        let kept = ((mark & mark.wrapping_neg()) >> 7).wrapping_sub(1);
        eight_digits(digits & kept)
    }

    /// Its value, where one division gives what the standard library would: its digits and the power of
    /// ten are then exact, and only the quotient is rounded.
    #[inline]
    pub(super) fn value(&self) -> Option<f64> {
        let places = self.length - 2 - self.sign;
        let number = match places {
            0..=8 => u64::from(last_digits(self.digits(0), places)),
            9..=16 => {
                let last = u64::from(last_digits(self.digits(8), places - 8));
                u64::from(eight_digits(self.digits(0))) * SHIFTS[places - 8] + last
            }
            _ => return None,
        };
        if number > EXACT {
            return None;
        }
        #[allow(clippy::cast_precision_loss)] // Not below the bound.
        let value = number as f64 / POWERS[places];
        Some(if self.sign == 1 { -value } else { value })
    }

    /// Eight bytes, so many behind the point, without the bits of `0`.
    #[inline]
    fn digits(&self, behind: usize) -> u64 {
        let begin = 2 + self.sign + behind;
        let bytes = self.window[begin..].first_chunk();
        u64::from_le_bytes(*bytes.unwrap_or(&[0; 8])) ^ all(b'0')
    }
}

/// Marks the bytes that are no digits, given what is left of each without the bits of `0`. Marks above
/// the lowest may be wrong.
fn marks(word: u64) -> u64 {
    (word.wrapping_add(all(0x76)) | word) & all(0x80)
}

/// The number that the first `count` of eight digits make.
fn last_digits(digits: u64, count: usize) -> u32 {
    // Zeros come in front, and what is no digit falls out behind.
    eight_digits(digits.checked_shl(64 - 8 * u32::try_from(count).unwrap_or(0)).unwrap_or(0))
}

/// The number that eight digits make, the first one in the lowest byte: pairs, then fours, then all.
#[allow(clippy::cast_possible_truncation)] // What is above 32 bits was shifted out of use.
fn eight_digits(digits: u64) -> u32 {
    let pairs = digits.wrapping_mul(10 << 8 | 1) >> 8 & 0x00ff_00ff_00ff_00ff;
    let fours = pairs.wrapping_mul(100 << 16 | 1) >> 16 & 0x0000_ffff_0000_ffff;
    (fours.wrapping_mul(10_000 << 32 | 1) >> 32) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Option<(u32, usize)> {
        let mut window = [b'7'; WINDOW];
        window[..text.len()].copy_from_slice(text.as_bytes());
        let fraction = Fraction::at(&window)?;
        let whole = &text[..fraction.length()];
        if let Some(value) = fraction.value() {
            let expected: f64 = whole.parse().expect("a number");
            assert_eq!(value.to_bits(), expected.to_bits(), "{whole}");
        }
        Some((fraction.leading(), fraction.length()))
    }

    #[test]
    fn the_first_eight_digits_count() {
        for number in [0, 1, 9, 10, 12_345_678, 90_000_000, 99_999_999_u32, 10_203_040] {
            for more in 0..12 {
                let text = format!("-0.{number:08}{}", &"93081726354455"[..more]);
                assert_eq!(read(&format!("{text},")), Some((number, text.len())));
                assert_eq!(read(&format!("{}]", &text[1..])), Some((number, text.len() - 1)));
            }
        }
        assert_eq!(read("0.5,"), Some((50_000_000, 3)));
        assert_eq!(read("-0.05]"), Some((5_000_000, 5)));
        assert_eq!(read("0.9007199254740992,"), Some((90_071_992, 18)));
        assert_eq!(read("-0.9007199254740993,"), Some((90_071_992, 19)));
    }

    #[test]
    fn what_is_none_or_has_no_end_is_told() {
        for text in ["0.,", "-0.]", "0.7e5,", "0.7E5,", "1.5,", "00.5,", "--0.5", "0.", "-0.7"] {
            assert_eq!(read(text), None, "{text}");
        }
    }
}
