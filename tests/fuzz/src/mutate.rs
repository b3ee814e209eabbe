//! Reproducible random numbers, and inputs mutated from others.

/// Numbers from a seed (SplitMix64): the same seed always gives the same ones.
pub struct Dice(u64);

impl Dice {
    /// From a number.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// From an input, so that its body does the same each time.
    #[must_use]
    pub fn of(data: &[u8]) -> Self {
        let mix = |sum: u64, byte: &u8| (sum ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01B3);
        Self(data.iter().fold(0xCBF2_9CE4_8422_2325, mix))
    }

    /// The next number.
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    /// A number below another one; 0 below 0.
    pub fn below(&mut self, end: usize) -> usize {
        if end == 0 { 0 } else { (self.next() % end as u64) as usize }
    }
}

/// The longest input that is made.
pub const LONGEST: usize = 8 * 1024;

/// Makes an input of one of the seeds: some changes, one after another.
pub fn mutated(seeds: &[Vec<u8>], words: &[&str], dice: &mut Dice) -> Vec<u8> {
    let mut data = seeds.get(dice.below(seeds.len())).cloned().unwrap_or_default();
    for _ in 0..=dice.below(5) {
        change(&mut data, seeds, words, dice);
    }
    data.truncate(LONGEST);
    data
}

fn change(data: &mut Vec<u8>, seeds: &[Vec<u8>], words: &[&str], dice: &mut Dice) {
    const ODD: &[u8] = b"\0\x01\t\n\r \"'%*,-./0:;<=>?[\\]{}\x7f\x80\xc2\xe2\xed\xff";
    let at = dice.below(data.len() + 1);
    let length = dice.below(data.len() - at + 1);
    let short = length.min(dice.below(32) + 1);
    match dice.below(10) {
        0 if at < data.len() => data[at] ^= 1 << dice.below(8),
        1 if at < data.len() => data[at] = ODD[dice.below(ODD.len())],
        2 => data.insert(at, ODD[dice.below(ODD.len())]),
        3 => drop(data.drain(at..at + short)),
        4 => drop(data.drain(at..at + length)),
        5 => {
            let piece = data[at..at + short].to_vec();
            let place = dice.below(data.len() + 1);
            drop(data.splice(place..place, piece));
        }
        6 | 7 if !words.is_empty() => {
            let word = words[dice.below(words.len())].bytes();
            drop(data.splice(at..at + dice.below(short + 1), word));
        }
        8 => {
            let Some(other) = seeds.get(dice.below(seeds.len())) else { return };
            let from = dice.below(other.len() + 1);
            let to = from + dice.below((other.len() - from).min(512) + 1);
            drop(data.splice(at..at + length, other[from..to].iter().copied()));
        }
        _ => {
            // A number grows: lengths and counters have bounds.
            let digit = |byte: &u8| byte.is_ascii_digit();
            if let Some(place) = data[at..].iter().position(digit) {
                let zeros = [b"9".as_slice(), b"00000000", b"e308", b".5"][dice.below(4)];
                drop(data.splice(at + place + 1..at + place + 1, zeros.iter().copied()));
            }
        }
    }
}
