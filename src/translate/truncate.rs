//! Truncates an input that is longer than a model's context at its end, as Ollama does for `/api/embed`.
//!
//! Counts no tokens: the upstream's error says that an input is too long, and mostly how many tokens
//! it has and how many are allowed. Pure. Invariant: an input is cut between characters only, and each
//! cut makes it shorter.

use crate::error::Error;

/// Attempts to shorten one input before it is refused.
pub const MAX_ATTEMPTS: u32 = 5;

/// Smaller numbers in an error are not token counts but, for example, the index of an input.
const MIN_TOKEN_COUNT: u64 = 16;

/// A low estimate of the bytes in a token, which holds on average in most languages.
const BYTES_PER_TOKEN: u64 = 3;

/// A high estimate. vLLM counts the characters of a long input before its tokens; cut to this, the
/// input is refused with the number of its tokens, and then cut by that.
const MAX_BYTES_PER_TOKEN: u64 = 8;

/// The beginning of `text` to try next; `None` if nothing is left.
pub fn shorten<'a>(text: &'a str, error: &Error) -> Option<&'a str> {
    let length = text.len() as u64;
    let wanted = match parse_token_counts(&error.message()) {
        // 5% less, because tokens are not spread evenly.
        (Some(limit), Some(given)) => {
            u64::try_from(u128::from(length) * u128::from(limit) * 95 / (u128::from(given) * 100))
                .unwrap_or(length)
        }
        (Some(limit), None) => {
            let estimates = [MAX_BYTES_PER_TOKEN, BYTES_PER_TOKEN];
            let counts_characters = has_character_count(&error.message());
            let estimates = &estimates[usize::from(!counts_characters)..];
            let lengths = estimates.iter().map(|estimate| limit.saturating_mul(*estimate));
            lengths.into_iter().find(|bytes| *bytes < length).unwrap_or(length / 2)
        }
        _ => length / 2,
    };
    let most = usize::try_from(wanted.min(length.saturating_sub(1))).unwrap_or(0);
    let end = (0..=most).rev().find(|&at| text.is_char_boundary(at))?;
    (end > 0).then(|| &text[..end])
}

/// The numbers of a message, each with true if it counts characters or bytes.
fn numbers(message: &str) -> impl Iterator<Item = (u64, bool)> {
    message
        .split_inclusive(|c: char| !c.is_ascii_digit())
        .scan(0, |at, word| {
            *at += word.len();
            let digits = word.trim_end_matches(|c: char| !c.is_ascii_digit());
            let unit = message[*at..].trim_start().trim_start_matches(['(', '[']);
            let is_unit = |name: &&str| {
                unit.get(..name.len()).is_some_and(|start| start.eq_ignore_ascii_case(name))
            };
            let number = digits.parse().ok();
            Some(number.map(|number| (number, ["char", "byte", "letter"].iter().any(is_unit))))
        })
        .flatten()
}

/// True if a message has token counts and the length of an input in characters.
fn has_character_count(message: &str) -> bool {
    numbers(message).any(|(_, counts_characters)| counts_characters)
}

/// The limit of tokens and their number, as far as a message tells them. The smaller of two numbers
/// is the limit, and so is a single one. Characters count only if nothing else does.
fn parse_token_counts(message: &str) -> (Option<u64>, Option<u64>) {
    let is_large = |(number, _): &(u64, bool)| *number >= MIN_TOKEN_COUNT;
    let all: Vec<_> = numbers(message).filter(is_large).collect();
    let all_are_characters = all.iter().all(|(_, counts_characters)| *counts_characters);
    let mut numbers: Vec<u64> = all
        .into_iter()
        .filter(|(_, counts_characters)| all_are_characters || !counts_characters)
        .map(|(number, _)| number)
        .collect();
    numbers.sort_unstable();
    let limit = numbers.first().copied();
    let given = numbers.last().copied().filter(|given| Some(*given) > limit);
    (limit, given)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Retry;

    fn error(message: &str) -> Error {
        Error::upstream_status(400, message, Retry::Never)
    }

    fn check(message: &str, length: usize, expected: Option<usize>) {
        let text = "x".repeat(length);
        let found = shorten(&text, &error(message)).map(str::len);
        assert_eq!(found, expected, "{message} {length}");
    }

    #[test]
    fn the_cut_goes_by_what_the_upstream_says() {
        let openai = "This model's maximum context length is 8192 tokens, however you requested 16384 tokens";
        check(openai, 40_000, Some(19_000));
        let newer = "Invalid 'input[0]': maximum input length is 8192 tokens.";
        check(newer, 40_000, Some(24_576));
        check(newer, 20_000, Some(10_000));
        let llama = "input (1024 tokens) is too large to process. increase the physical batch size (current batch size: 512)";
        check(llama, 4_000, Some(1_900));
        check("`inputs` must have less than 512 tokens. Given: 512", 3_000, Some(1_536));
        check("the input is longer than the context length", 3_000, Some(1_500));
    }

    #[test]
    fn units_are_read_with_the_numbers() {
        // vLLM 0.32 counts characters first, and tokens once the text could fit.
        let characters = "This model's maximum context length is 256 tokens. However, your prompt \
                          contains 30000 characters. Please reduce its length.";
        check(characters, 30_000, Some(2048));
        check(characters, 2048, Some(768));
        let tokens = "This model's maximum context length is 256 tokens. However, you requested \
                      480 tokens in the input";
        check(tokens, 2048, Some(1037));
        check("at most 8000 characters, got 16000 characters", 16_000, Some(7600));
        check("limit: 512 tokens (your 9000-byte input)", 9000, Some(4096));
        check("the limit is 512 tokens", 9000, Some(1536));
    }

    #[test]
    fn every_cut_is_shorter_and_ends_between_characters() {
        let text = "é😀".repeat(50);
        let mut rest = text.as_str();
        while let Some(next) = shorten(rest, &error("context length")) {
            assert!(next.len() < rest.len() && text.starts_with(next));
            rest = next;
        }
        check("context length", 1, None);
        check("context length", 0, None);
        check("maximum is 18446744073709551615 tokens, given 18446744073709551615", 10, Some(5));
    }
}
