//! Inputs that are longer than a model's context, cut at their end as Ollama cuts them
//! (ollama-api.md 10.1, openai-wire.md 7.3).
//!
//! Nothing here counts tokens: the upstream says that an input is too long, mostly also how many
//! tokens it has and how many it may have, and that is what the cut goes by. Pure; an input is only
//! ever cut between characters, and each cut makes it shorter.

use crate::error::Error;

/// How often one input is cut before it counts as too long for good.
pub const MAX_ATTEMPTS: u32 = 5;

/// Numbers below this in an error are no token counts, but the place of an input, say.
const MIN_TOKEN_COUNT: u64 = 16;

/// Bytes that a token has at least, on average, in most languages.
const BYTES_PER_TOKEN: u64 = 3;

/// The beginning of `text` that is to be tried next; `None` when there is nothing left to cut.
#[must_use]
pub fn shorten<'a>(text: &'a str, error: &Error) -> Option<&'a str> {
    let length = text.len() as u64;
    let wanted = match parse_token_counts(&error.message()) {
        // A twentieth less, because tokens are not spread evenly.
        (Some(limit), Some(given)) => {
            u64::try_from(u128::from(length) * u128::from(limit) * 95 / (u128::from(given) * 100))
                .unwrap_or(length)
        }
        (Some(limit), None) if limit.saturating_mul(BYTES_PER_TOKEN) < length => {
            limit.saturating_mul(BYTES_PER_TOKEN)
        }
        _ => length / 2,
    };
    let most = usize::try_from(wanted.min(length.saturating_sub(1))).unwrap_or(0);
    let end = (0..=most).rev().find(|&at| text.is_char_boundary(at))?;
    (end > 0).then(|| &text[..end])
}

/// How many tokens there may be and how many there are, as far as a message tells: of two numbers
/// the smaller is the limit, and a lone one is.
fn parse_token_counts(message: &str) -> (Option<u64>, Option<u64>) {
    let words = message.split(|c: char| !c.is_ascii_digit());
    let mut numbers: Vec<u64> = words
        .filter_map(|word| word.parse().ok())
        .filter(|number| *number >= MIN_TOKEN_COUNT)
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
        Error::UpstreamStatus { status: 400, message: message.into(), retry: Retry::Never }
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
