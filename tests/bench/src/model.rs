//! What the name of a model asks the scripted upstream for, and so what the load generator expects. Pure.

/// More tokens than this are no model.
const MAX_TOKENS: u64 = 100_000;
/// More tokens a second than this are no model. So many are all due at once, each in a write of its own.
const MAX_RATE: u64 = 1_000_000_000;
/// More numbers than this in one answer are no model: some 200 MB.
const MAX_NUMBERS: u64 = 1 << 24;

/// What `bench-upstream` lists; other numbers are served as well.
pub const LISTED: &[&str] = &[
    "short", "stream-1", "stream-16", "stream-64", "stream-256", "stream-1024", "paced-10-50",
    "paced-20-100", "paced-50-50", "paced-50-100", "paced-50-250", "paced-50-500",
    "paced-1000000000-256", "embed-1x768", "embed-1x1536", "embed-16x1536", "embed-256x1536",
];

/// What an answer is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A whole answer of a few tokens.
    Short,
    /// A stream of so many tokens, as fast as the socket takes them.
    Stream(u64),
    /// A stream of so many tokens at so many a second.
    Paced {
        /// Tokens a second.
        rate: u64,
        /// Tokens in all.
        count: u64,
    },
    /// Vectors of numbers.
    Embed {
        /// How many vectors.
        vectors: u64,
        /// How many numbers each has.
        numbers: u64,
    },
}

impl Kind {
    /// What a name asks for; none where the scripted upstream knows no such model.
    pub fn of(name: &str) -> Option<Self> {
        if name == "short" {
            return Some(Self::Short);
        }
        let (word, rest) = name.split_once('-')?;
        match word {
            "stream" => Some(Self::Stream(number(rest, MAX_TOKENS)?)),
            "paced" => {
                let (rate, count) = rest.split_once('-')?;
                let (rate, count) = (number(rate, MAX_RATE)?, number(count, MAX_TOKENS)?);
                Some(Self::Paced { rate, count })
            }
            "embed" => {
                let (vectors, numbers) = rest.split_once('x')?;
                let vectors = number(vectors, MAX_NUMBERS)?;
                Some(Self::Embed { vectors, numbers: number(numbers, MAX_NUMBERS / vectors)? })
            }
            _ => None,
        }
    }

    /// How many content tokens a stream of it has.
    pub fn tokens(self) -> Option<u64> {
        match self {
            Self::Stream(count) | Self::Paced { count, .. } => Some(count),
            Self::Short | Self::Embed { .. } => None,
        }
    }
}

/// Digits only, from 1 to the maximum.
fn number(text: &str, max: u64) -> Option<u64> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|number| digits && (1..=max).contains(number))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_ask_for_what_they_say() {
        let check = |name, kind| assert_eq!(Kind::of(name), kind, "{name}");
        check("short", Some(Kind::Short));
        check("stream-256", Some(Kind::Stream(256)));
        check("paced-50-100", Some(Kind::Paced { rate: 50, count: 100 }));
        check("embed-256x1536", Some(Kind::Embed { vectors: 256, numbers: 1536 }));
        for name in [
            "",
            "short-1",
            "stream",
            "stream-",
            "stream-0",
            "stream-+1",
            "stream-100001",
            "stream-1-1",
            "paced-50",
            "paced-0-1",
            "paced-1-0",
            "embed-1",
            "embed-0x1",
            "embed-1x0",
            "embed-65536x65536",
            "embed-1x99999999999999999999",
            "other-1",
        ] {
            check(name, None);
        }
        assert!(LISTED.iter().all(|name| Kind::of(name).is_some()));
    }
}
