//! Translates log probabilities to Ollama's form.
//!
//! Reads both of OpenAI's forms, the objects of `chat/completions` and the parallel lists of
//! `completions`. Pure.

use crate::api::ollama::response::Logprob;
use crate::api::openai::chunk::{Logprobs, TokenLogprob};

/// OpenAI's value for a very unlikely token: JSON has no infinity.
const MIN_LOGPROB: f64 = -9999.0;

/// The tokens of a chunk, with at most `top` alternatives each, the likeliest first. `text` is the
/// text of the chunk, which stands for the token if one number came without it.
pub fn to_ollama(mut logprobs: Logprobs, top: usize, text: &str) -> Vec<Logprob> {
    if logprobs.tokens.is_empty() && logprobs.token_logprobs.len() == 1 && !text.is_empty() {
        logprobs.tokens.push(text.to_owned());
    }
    let tokens =
        if logprobs.content.is_empty() { tokens_from_lists(logprobs) } else { logprobs.content };
    tokens.into_iter().map(|token| to_logprob(token, top)).collect()
}

/// Drops the tokens of `hidden`, the end of the text that the client is not shown. Drops all if the
/// tokens do not match the text.
pub fn drop_hidden_tokens(tokens: &mut Vec<Logprob>, mut hidden: &str) {
    while !hidden.is_empty() {
        let Some(token) = tokens.pop() else { return };
        // A token without text, such as the end of the turn, is dropped with the text around it.
        hidden = match hidden.strip_suffix(token.token.as_str()) {
            Some(rest) => rest,
            // The text is cut within this token.
            None if token.token.ends_with(hidden) => return,
            None => hidden,
        };
    }
}

fn to_logprob(token: TokenLogprob, top: usize) -> Logprob {
    let logprob = finite_logprob(&token);
    // The likeliest first.
    let mut others: Vec<TokenLogprob> = Vec::new();
    for other in token.top_logprobs {
        let number = finite_logprob(&other);
        let place = others.partition_point(|before| finite_logprob(before) >= number);
        others.insert(place, other);
        others.truncate(top);
    }
    Logprob {
        // Some servers send the bytes of half a character; clients compare them with the text.
        bytes: token.token.clone().into_bytes(),
        logprob,
        top_logprobs: others.into_iter().map(|other| to_logprob(other, 0)).collect(),
        token: token.token,
    }
}

/// The log probability of a token, from whichever member holds it.
fn finite_logprob(token: &TokenLogprob) -> f64 {
    let logprob = token.logprob.or_else(|| token.prob.map(libm::log));
    logprob.filter(|number| number.is_finite()).unwrap_or(MIN_LOGPROB)
}

/// The tokens of the parallel lists of `completions`; the first may lack a probability.
fn tokens_from_lists(logprobs: Logprobs) -> Vec<TokenLogprob> {
    let mut tops = logprobs.top_logprobs.into_iter();
    let tokens = logprobs.tokens.into_iter().zip(logprobs.token_logprobs);
    tokens
        .filter_map(|(token, logprob)| {
            let top = tops.next().flatten().unwrap_or_default();
            let other = |(token, logprob): (String, serde_json::Value)| TokenLogprob {
                token,
                logprob: logprob.as_f64(),
                ..TokenLogprob::default()
            };
            let top_logprobs = top.into_iter().map(other).collect();
            Some(TokenLogprob {
                token,
                logprob: Some(logprob?),
                top_logprobs,
                ..TokenLogprob::default()
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::openai::chunk::Choice;

    fn check(logprobs: &str, top: usize, expected: &str) {
        let logprobs: Logprobs = serde_json::from_str(logprobs).expect("valid");
        let found = serde_json::to_string(&to_ollama(logprobs, top, "")).expect("serialisable");
        assert_eq!(found, expected);
    }

    #[test]
    fn alternatives_are_sorted_and_as_many_as_were_asked_for() {
        let chat = r#"{"content":[{"token":" Hi","logprob":-0.5,"bytes":null,"top_logprobs":[
            {"token":"é","logprob":-2},{"token":" Hi","logprob":-0.5}]},{"token":"","logprob":-1}]}"#;
        let two = r#"[{"token":" Hi","logprob":-0.5,"bytes":[32,72,105],"top_logprobs":[{"token":" Hi","logprob":-0.5,"bytes":[32,72,105]},{"token":"é","logprob":-2.0,"bytes":[195,169]}]},{"token":"","logprob":-1.0}]"#;
        check(chat, 5, two);
        let none =
            r#"[{"token":" Hi","logprob":-0.5,"bytes":[32,72,105]},{"token":"","logprob":-1.0}]"#;
        check(chat, 0, none);
    }

    #[test]
    fn the_lists_of_completions_are_read_too() {
        let lists = r#"{"tokens":["a","b"],"token_logprobs":[null,-1.5],"top_logprobs":[null,{"b":-1.5,"c":-2}],"text_offset":[0,1]}"#;
        let told = r#"[{"token":"b","logprob":-1.5,"bytes":[98],"top_logprobs":[{"token":"b","logprob":-1.5,"bytes":[98]},{"token":"c","logprob":-2.0,"bytes":[99]}]}]"#;
        check(lists, 2, told);
        check("{}", 2, "[]");
    }

    /// A choice with these members beside a text, and what is told of its tokens.
    fn check_choice(members: &str, text: &str, expected: &str) {
        let choice = format!(r#"{{"index":0,{members}}}"#);
        let choice: Choice<'_> = serde_json::from_str(&choice).expect("valid");
        let mut given = choice.logprobs.expect("log probabilities");
        given.top_logprobs.extend(choice.top_logprobs.map(Some));
        let found = serde_json::to_string(&to_ollama(given, 2, text)).expect("serialisable");
        assert_eq!(found, expected, "{members}");
    }

    #[test]
    fn one_number_belongs_to_the_text_of_its_chunk() {
        let told = r#"[{"token":"a","logprob":-0.5,"bytes":[97],"top_logprobs":[{"token":"a","logprob":-0.5,"bytes":[97]},{"token":"b","logprob":-2.0,"bytes":[98]}]}]"#;
        check_choice(r#""logprobs":-0.5,"top_logprobs":{"b":-2,"a":-0.5}"#, "a", told);
        check_choice(r#""logprobs":[-0.5]"#, "a", r#"[{"token":"a","logprob":-0.5,"bytes":[97]}]"#);
        check_choice(r#""logprobs":-0.5"#, "", "[]");
        // Which number is whose cannot be told.
        check_choice(r#""logprobs":[-0.5,-1]"#, "ab", "[]");
    }

    #[test]
    fn probabilities_become_their_logarithms() {
        check(
            r#"{"content":[{"id":1,"token":"a","bytes":[97],"prob":1.0,"top_probs":[
                {"id":2,"token":"b","prob":0.0},{"id":3,"token":"c","prob":0.5},
                {"id":1,"token":"a","prob":1.0}]}]}"#,
            3,
            r#"[{"token":"a","logprob":0.0,"bytes":[97],"top_logprobs":[{"token":"a","logprob":0.0,"bytes":[97]},{"token":"c","logprob":-0.6931471805599453,"bytes":[99]},{"token":"b","logprob":-9999.0,"bytes":[98]}]}]"#,
        );
        let null = r#"{"content":[{"token":"a","logprob":null},{"token":null,"logprob":-1}]}"#;
        let told = r#"[{"token":"a","logprob":-9999.0,"bytes":[97]},{"token":"","logprob":-1.0}]"#;
        check(null, 0, told);
    }

    #[test]
    fn the_tokens_of_text_that_is_not_shown_are_left_out() {
        let check = |tokens: &[&str], unseen: &str, expected: &[&str]| {
            let token = |token: &&str| Logprob { token: (*token).to_owned(), ..Logprob::default() };
            let mut found: Vec<_> = tokens.iter().map(token).collect();
            drop_hidden_tokens(&mut found, unseen);
            let found: Vec<_> = found.iter().map(|it| it.token.as_str()).collect();
            assert_eq!(found, expected, "{tokens:?} {unseen:?}");
        };
        check(&["a", "b", "c"], "c", &["a", "b"]);
        check(&["a", "bc", "d", "<eos>"], "cd", &["a"]);
        check(&["a", "b"], "", &["a", "b"]);
        check(&["x", "y"], "z", &[]);
    }
}
