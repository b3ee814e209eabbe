//! Log probabilities in Ollama's shape (ollama-api.md 6.4, openai-wire.md 4.9).

use crate::ollama::answer::Logprob;
use crate::openai::answer::{Logprobs, TokenLogprob};

/// The tokens of a chunk, with at most `top` alternatives each, the likeliest first.
#[must_use]
pub fn to_ollama(logprobs: Logprobs, top: usize) -> Vec<Logprob> {
    let tokens = if logprobs.content.is_empty() { from_lists(logprobs) } else { logprobs.content };
    tokens.into_iter().map(|token| to_token(token, top)).collect()
}

fn to_token(token: TokenLogprob, top: usize) -> Logprob {
    let mut others = token.top_logprobs;
    others.sort_by(|a, b| b.logprob.total_cmp(&a.logprob));
    others.truncate(top);
    Logprob {
        // Some servers write the bytes of half a character; those of the text are what clients
        // compare with.
        bytes: token.token.clone().into_bytes(),
        logprob: token.logprob,
        top_logprobs: others.into_iter().map(|other| to_token(other, 0)).collect(),
        token: token.token,
    }
}

/// The parallel lists of `completions` as tokens; the first may have no probability.
fn from_lists(logprobs: Logprobs) -> Vec<TokenLogprob> {
    let mut tops = logprobs.top_logprobs.into_iter();
    let tokens = logprobs.tokens.into_iter().zip(logprobs.token_logprobs);
    tokens
        .filter_map(|(token, logprob)| {
            let top = tops.next().flatten().unwrap_or_default();
            let other = |(token, logprob): (String, serde_json::Value)| TokenLogprob {
                token,
                logprob: logprob.as_f64().unwrap_or_default(),
                ..TokenLogprob::default()
            };
            let top_logprobs = top.into_iter().map(other).collect();
            Some(TokenLogprob { token, logprob: logprob?, top_logprobs })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(logprobs: &str, top: usize, expected: &str) {
        let logprobs: Logprobs = serde_json::from_str(logprobs).expect("valid");
        let found = serde_json::to_string(&to_ollama(logprobs, top)).expect("serialisable");
        assert_eq!(found, expected);
    }

    #[test]
    fn alternatives_are_sorted_and_as_many_as_were_asked_for() {
        let chat = r#"{"content":[{"token":" Hi","logprob":-0.5,"bytes":null,"top_logprobs":[
            {"token":"é","logprob":-2},{"token":" Hi","logprob":-0.5}]},{"token":"","logprob":-1}]}"#;
        check(
            chat,
            5,
            r#"[{"token":" Hi","logprob":-0.5,"bytes":[32,72,105],"top_logprobs":[{"token":" Hi","logprob":-0.5,"bytes":[32,72,105]},{"token":"é","logprob":-2.0,"bytes":[195,169]}]},{"token":"","logprob":-1.0}]"#,
        );
        check(
            chat,
            0,
            r#"[{"token":" Hi","logprob":-0.5,"bytes":[32,72,105]},{"token":"","logprob":-1.0}]"#,
        );
    }

    #[test]
    fn the_lists_of_completions_are_read_too() {
        check(
            r#"{"tokens":["a","b"],"token_logprobs":[null,-1.5],"top_logprobs":[null,{"b":-1.5,"c":-2}],"text_offset":[0,1]}"#,
            2,
            r#"[{"token":"b","logprob":-1.5,"bytes":[98],"top_logprobs":[{"token":"b","logprob":-1.5,"bytes":[98]},{"token":"c","logprob":-2.0,"bytes":[99]}]}]"#,
        );
        check("{}", 2, "[]");
    }
}
