//! Prompts that exceed the context: how the error is known, how long the prompt is, and how much the context
//! holds.
//!
//! Servers tell the numbers in their own members (llama.cpp) or only in a sentence. Invariant: a number that the
//! error does not hold is never made up.

use super::phrases::ErrorClassifier;
use super::{ErrorDetails, numbers};
use crate::error::ContextOverflow;

const OVERFLOW_CODES: [&str; 3] =
    ["contextlengthexceeded", "exceedcontextsize", "contextwindowexceeded"];

const OVERFLOW_TEXTS: [&str; 23] = [
    "context limit",
    "maximum context",
    "exceeds the context",
    "larger than the context",
    "maximum sequence length",
    "longer than the specified maximum sequence length",
    "maximum model length",
    "max_model_len",
    "input is too long",
    "input too long",
    "context length",
    "context window",
    "context size",
    "input tokens exceed",
    "is longer than the model's context",
    "exceeds the maximum number of tokens",
    "prompt is too long",
    "prompt too long",
    "maximum prompt length",
    "maximum input length",
    "reduce the length of the messages",
    "too many tokens",
    "`inputs` tokens + `max_new_tokens` must be",
];

/// Smaller numbers are no counts of tokens.
const MIN_TOKENS: u64 = 16;

/// The size of the context stands behind these.
const WINDOW_PHRASES: [&str; 12] = [
    "context length",
    "context window",
    "context size",
    "context limit",
    "model length",
    "sequence length",
    "prompt length",
    "input length",
    "maximum",
    "max_model_len",
    "<=",
    "limit",
];

/// The length of the prompt stands before these, wherever another count stands for prompt and answer
/// together.
const PROMPT_ENDS: [&str; 8] = [
    " in the messages",
    " in the prompt",
    " in your prompt",
    " of text input",
    " tokens from the input",
    " input tokens",
    " tokens in the messages",
    " `inputs`",
];

/// Numbers behind these count something else: a status, or how much is too much.
const OTHER_STARTS: [&str; 5] = ["code:", "code", "http", "status", " by"];

impl ErrorClassifier {
    /// The prompt exceeds the context window.
    pub(super) fn is_context_overflow(&self) -> bool {
        self.has_code(&OVERFLOW_CODES)
            || (self.contains_any(&OVERFLOW_TEXTS)
                && !self.contains_any(&["rate limit", "per min"]))
    }
}

/// The numbers of an error that is a context overflow.
pub(super) fn find_counts(details: &ErrorDetails) -> ContextOverflow {
    let text = details.message.to_ascii_lowercase();
    let is_count = |(at, number): &(usize, u64)| {
        let before = text[..*at].trim_end();
        *number >= MIN_TOKENS && !OTHER_STARTS.iter().any(|start| before.ends_with(start))
    };
    let counts: Vec<_> = numbers(&text).into_iter().filter(is_count).collect();
    let (prompt, window) = find_in_text(&text, &counts);
    ContextOverflow {
        prompt_tokens: details.prompt_tokens.or(prompt),
        context_window: details.context_window.or(window),
    }
}

/// The prompt and the window by a text in lower case.
fn find_in_text(text: &str, counts: &[(usize, u64)]) -> (Option<u64>, Option<u64>) {
    let all = || counts.iter().map(|(_, number)| *number);
    let Some(most) = all().max() else { return (None, None) };
    let phrase = find_window(text, counts);
    let named = counts.iter().find(|(at, _)| is_prompt(text, *at)).map(|(_, number)| *number);
    if counts.len() == 1 {
        return if phrase.is_some() { (named, phrase) } else { (named.or(Some(most)), None) };
    }
    // "prompt + limit > window"
    if let (Some((sum, window)), None) = (text.split_once(" > "), named)
        && sum.contains(" + ")
    {
        let is_before = |(at, _): &&(usize, u64)| *at < text.len() - window.len();
        let prompt = counts.iter().find(is_before);
        let window = counts.iter().find(|count| !is_before(count));
        return (prompt.map(|(_, it)| *it), window.map(|(_, it)| *it));
    }
    let prompt = named.unwrap_or(most);
    let others = || all().filter(|number| *number != prompt);
    let is_window = |window: &u64| *window != prompt && (named.is_some() || *window < prompt);
    (Some(prompt), phrase.filter(is_window).or_else(|| others().min()))
}

/// The first number behind a phrase that announces the window.
fn find_window(text: &str, counts: &[(usize, u64)]) -> Option<u64> {
    WINDOW_PHRASES.iter().find_map(|phrase| {
        let end = text.find(phrase)? + phrase.len();
        counts.iter().find(|(at, _)| *at >= end).map(|(_, number)| *number)
    })
}

/// True if the number at this place counts the prompt alone.
fn is_prompt(text: &str, at: usize) -> bool {
    let behind = text[at..].trim_start_matches(|c: char| c.is_ascii_digit() || c == ',');
    PROMPT_ENDS.iter().any(|end| behind.starts_with(end))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(message: &str, prompt: impl Into<Option<u64>>, window: impl Into<Option<u64>>) {
        let details = ErrorDetails { message: message.to_owned(), ..ErrorDetails::default() };
        let expected =
            ContextOverflow { prompt_tokens: prompt.into(), context_window: window.into() };
        assert_eq!(find_counts(&details), expected, "{message}");
    }

    #[test]
    fn the_numbers_are_found_in_the_words_of_each_server() {
        let openai = "This model's maximum context length is 8192 tokens. However, your messages \
                      resulted in 10000 tokens. Please reduce the length of the messages.";
        check(openai, 10_000, 8192);
        let vllm = "This model's maximum context length is 4096 tokens. However, you requested 5200 \
                    tokens (4200 in the messages, 1000 in the completion).";
        check(vllm, 4200, 4096);
        check(
            "The decoder prompt (length 5000) is longer than the maximum model length of 4096.",
            5000,
            4096,
        );
        let llama = "request (5000 tokens) exceeds the available context size (4096 tokens), try \
                     increasing it";
        check(llama, 5000, 4096);
        check("prompt is too long: 210000 tokens > 200000 maximum", 210_000, 200_000);
        let gemini = "The input token count (1200000) exceeds the maximum number of tokens allowed \
                      (1048576).";
        check(gemini, 1_200_000, 1_048_576);
        let mistral = "Prompt contains 40000 tokens and 0 draft tokens, too large for model with \
                       32768 maximum context length";
        check(mistral, 40_000, 32_768);
        let xai = "This model's maximum prompt length is 131072 but the request contains 200000 \
                   tokens.";
        check(xai, 200_000, 131_072);
        let router = "This endpoint's maximum context length is 131072 tokens. However, you \
                      requested about 150000 tokens (149000 of text input, 1000 in the output).";
        check(router, 149_000, 131_072);
        let sglang = "Requested token count exceeds the model's maximum context length of 4096 \
                      tokens. You requested a total of 5300 tokens: 4300 tokens from the input \
                      messages and 1000 tokens for the completion";
        check(sglang, 4300, 4096);
        check(
            "The input (5,000 tokens) is longer than the model's context length (4,096 tokens).",
            5000,
            4096,
        );
        check("Current length is 9000 while limit is 8192", 9000, 8192);
    }

    #[test]
    fn a_prompt_that_fits_by_itself_is_told() {
        let anthropic =
            "input length and `max_tokens` exceed context limit: 190000 + 32000 > 200000";
        check(anthropic, 190_000, 200_000);
        let vllm = "'max_tokens' or 'max_completion_tokens' is too large: 32000. This model's \
                    maximum context length is 40000 tokens and your request has 9000 input tokens \
                    (32000 > 40000 - 9000).";
        check(vllm, 9000, 40_000);
    }

    #[test]
    fn what_is_not_told_is_not_made_up() {
        check("Your input exceeds the context window of this model.", None, None);
        let one =
            "Requested token count exceeds the model's maximum context length of 4096 tokens.";
        check(one, None, 4096);
        check("Error code: 400 - prompt is too long: 9000 tokens", 9000, None);
        check("prompt too long; exceeded max context length by 500 tokens", None, None);
        let details = ErrorDetails {
            message: "exceeds the context".to_owned(),
            prompt_tokens: Some(9),
            context_window: Some(8),
            ..ErrorDetails::default()
        };
        let found = find_counts(&details);
        assert_eq!((found.prompt_tokens, found.context_window), (Some(9), Some(8)));
    }
}
