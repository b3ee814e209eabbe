//! `/api/embed` and `/api/embeddings` to `embeddings`, and back (ollama-api.md 10, openai-wire.md 7).

use std::borrow::Cow;

use serde_json::value::RawValue;

use crate::error::{Error, Result};
use crate::openai::answer::{Embedding, Embeddings};
use crate::openai::request::EmbeddingRequest;
use crate::upstream_error::{self, Details};

/// How many bytes the inputs of one request may have together: some 250,000 tokens, where OpenAI
/// takes 300,000 (openai-wire.md 7.2).
const BATCH_BYTES: usize = 750_000;

/// What llama.cpp says of an input that does not fit its physical batch.
const PHYSICAL_BATCH: &str = "too large to process";

/// Reads `input`: nothing, one text or many.
///
/// # Errors
/// [`Error::InvalidRequest`] for anything but a string and a list of strings.
pub fn inputs(input: Option<&RawValue>) -> Result<Vec<Cow<'_, str>>> {
    let Some(raw) = input else { return Ok(Vec::new()) };
    let invalid = |_| Error::invalid("invalid input type");
    match raw.get().as_bytes().first() {
        Some(b'n') => Ok(Vec::new()),
        Some(b'"') => {
            let text: Cow<'_, str> = serde_json::from_str(raw.get()).map_err(invalid)?;
            Ok(if text.is_empty() { Vec::new() } else { vec![text] })
        }
        _ => serde_json::from_str(raw.get()).map_err(invalid),
    }
}

/// How many of `inputs`, from the first on, go into one request: at most `most`, no more than fit
/// the upstream's sum of tokens, and at least one.
#[must_use]
pub fn batch(inputs: &[Cow<'_, str>], most: usize) -> usize {
    let mut bytes = 0_usize;
    let fitting = inputs.iter().take_while(|input| {
        bytes = bytes.saturating_add(input.len());
        bytes <= BATCH_BYTES
    });
    fitting.take(most).count().max(1)
}

/// Whether a request had too many inputs, or too many tokens in all, so that a smaller one may
/// succeed (openai-wire.md 7.2).
#[must_use]
pub fn is_batch_too_large(error: &Error) -> bool {
    const TEXTS: &[&str] =
        &["batch size", "in one batch", "max_tokens_per_request", "tokens per request"];
    let Some((status, text)) = told(error) else { return false };
    // llama.cpp speaks of its batch size when a single input does not fit.
    !text.contains(PHYSICAL_BATCH)
        && (status == 413 || TEXTS.iter().any(|known| text.contains(known)))
}

/// Whether an input was longer than the model's context.
#[must_use]
pub fn is_too_long(error: &Error) -> bool {
    let Some((_, message)) = told(error) else { return false };
    message.contains(PHYSICAL_BATCH)
        || message.contains("must have less than")
        || upstream_error::is_context_overflow(&Details { message, ..Details::default() })
}

/// Status and text of an upstream's error, the text in lower case.
fn told(error: &Error) -> Option<(u16, String)> {
    match error {
        Error::UpstreamStatus { status, message, .. }
        | Error::UpstreamInBand { status, message } => Some((*status, message.to_lowercase())),
        _ => None,
    }
}

/// The request for the upstream. An empty text becomes a blank: several servers refuse it.
#[must_use]
pub fn to_openai<'a>(model: &'a str, inputs: Vec<Cow<'a, str>>) -> EmbeddingRequest<'a> {
    let input = inputs
        .into_iter()
        .map(|text| if text.is_empty() { Cow::Borrowed(" ") } else { text })
        .collect();
    EmbeddingRequest { model, input, encoding_format: Some("float") }
}

/// The vectors in the order of the inputs.
///
/// # Errors
/// [`Error::UpstreamProtocol`] when there are more or fewer than inputs.
pub fn vectors(answer: Embeddings, inputs: usize) -> Result<Vec<Vec<f64>>> {
    let mut data = answer.data;
    if data.len() != inputs {
        let count = data.len();
        return Err(Error::protocol(format!("{count} embeddings for {inputs} inputs")));
    }
    // Where no item says which it is, the order given is the order meant.
    data.sort_by_key(|item| item.index.unwrap_or(0));
    if data.iter().any(|item| item.embedding.is_empty()) {
        return Err(Error::protocol("an embedding without numbers"));
    }
    Ok(data.into_iter().map(|Embedding { embedding, .. }| embedding).collect())
}

/// A vector cut to `dimensions`, when that is shorter, and brought to unit length.
#[must_use]
pub fn normalised(mut vector: Vec<f64>, dimensions: Option<i64>) -> Vec<f32> {
    if let Some(wanted) = dimensions.and_then(|wanted| usize::try_from(wanted).ok())
        && wanted > 0
    {
        vector.truncate(wanted);
    }
    let length = vector.iter().map(|number| number * number).sum::<f64>().sqrt().max(1e-12);
    #[allow(clippy::cast_possible_truncation)] // Ollama's vectors are 32 bits wide.
    vector.into_iter().map(|number| (number / length) as f32).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inputs_come_in_every_documented_form() {
        let check = |input: &str, expected: &[&str]| {
            let raw = RawValue::from_string(input.to_owned()).expect("valid JSON");
            assert_eq!(inputs(Some(&raw)).expect("valid"), expected, "{input}");
        };
        check("null", &[]);
        check(r#""""#, &[]);
        check("[]", &[]);
        check(r#""a\nb""#, &["a\nb"]);
        check(r#"["a",""]"#, &["a", ""]);
        assert_eq!(inputs(None).expect("valid"), Vec::<&str>::new());
    }

    #[test]
    fn other_inputs_are_refused() {
        for input in ["5", "{}", "[1]", r#"["a",null]"#, "true"] {
            let raw = RawValue::from_string(input.to_owned()).expect("valid JSON");
            let error = inputs(Some(&raw)).expect_err("refused");
            assert_eq!(
                (error.status(), error.message().as_str()),
                (Some(400), "invalid input type")
            );
        }
    }

    #[test]
    fn a_batch_has_a_bound_on_items_and_on_bytes() {
        let check = |lengths: &[usize], most: usize, expected: usize| {
            let inputs: Vec<_> = lengths.iter().map(|length| "x".repeat(*length).into()).collect();
            assert_eq!(batch(&inputs, most), expected, "{lengths:?} {most}");
        };
        check(&[1, 1, 1], 256, 3);
        check(&[1, 1, 1], 2, 2);
        check(&[1, 1, 1], 1, 1);
        check(&[BATCH_BYTES, 0, 1], 256, 2);
        check(&[BATCH_BYTES + 1, 1], 256, 1);
        check(&[BATCH_BYTES / 2, BATCH_BYTES / 2, 1], 256, 2);
        check(&[1], 0, 1);
    }

    fn said(status: u16, message: &str) -> Error {
        let message = message.to_owned();
        Error::UpstreamStatus { status, message, retry: crate::error::Retry::Never }
    }

    #[test]
    fn a_batch_that_is_too_large_is_told_from_other_errors() {
        let check = |status, message: &str, expected: bool| {
            assert_eq!(is_batch_too_large(&said(status, message)), expected, "{message}");
        };
        check(400, "Requested 313102 tokens, max 300000 tokens per request", true);
        check(
            400,
            "* BatchEmbedContentsRequest.requests: at most 100 requests can be in one batch",
            true,
        );
        check(400, "batch size is invalid, it should not be larger than 10", true);
        check(422, "input batch size 136 > maximum allowed batch size 64", true);
        check(400, "max_tokens_per_request", true);
        check(413, "length limit exceeded", true);
        check(
            500,
            "input (596 tokens) is too large to process. increase the physical batch size (current batch size: 512)",
            false,
        );
        check(400, "This model's maximum context length is 8192 tokens", false);
        check(429, "Rate limit reached", false);
        let in_band = Error::UpstreamInBand { status: 400, message: "Batch size 3".into() };
        assert!(is_batch_too_large(&in_band));
        assert!(!is_batch_too_large(&Error::UpstreamClosed));
    }

    #[test]
    fn an_input_that_is_too_long_is_told_from_other_errors() {
        let check = |message: &str, expected: bool| {
            assert_eq!(is_too_long(&said(400, message)), expected, "{message}");
        };
        check(
            "This model's maximum context length is 8192 tokens, however you requested 51435",
            true,
        );
        check("Invalid 'input[0]': maximum input length is 8192 tokens.", true);
        check("input (596 tokens) is too large to process. increase the physical batch size", true);
        check("Input validation error: `inputs` must have less than 512 tokens. Given: 534", true);
        check("input batch size 136 > maximum allowed batch size 64", false);
        check("no such thing", false);
        assert!(!is_too_long(&Error::UpstreamClosed));
    }

    #[test]
    fn vectors_follow_their_index() {
        let check = |answer: &str, inputs: usize, expected: Option<Vec<Vec<f64>>>| {
            let answer: Embeddings = serde_json::from_str(answer).expect("valid JSON");
            assert_eq!(vectors(answer, inputs).ok(), expected);
        };
        let shuffled = r#"{"data":[{"index":1,"embedding":[2]},{"index":0,"embedding":[1]}]}"#;
        check(shuffled, 2, Some(vec![vec![1.0], vec![2.0]]));
        check(
            r#"{"data":[{"embedding":[2]},{"embedding":[1]}]}"#,
            2,
            Some(vec![vec![2.0], vec![1.0]]),
        );
        check(shuffled, 3, None);
        check(r#"{"data":[{"embedding":[]}]}"#, 1, None);
        check("{}", 1, None);
    }

    #[test]
    fn vectors_have_unit_length_after_they_are_cut() {
        assert_eq!(normalised(vec![3.0, -4.0], None), [0.6, -0.8]);
        assert_eq!(normalised(vec![3.0, -4.0], Some(1)), [1.0]);
        assert_eq!(normalised(vec![3.0, -4.0], Some(2)), [0.6, -0.8]);
        assert_eq!(normalised(vec![3.0, -4.0], Some(9)), [0.6, -0.8]);
        assert_eq!(normalised(vec![3.0, -4.0], Some(0)), [0.6, -0.8]);
        assert_eq!(normalised(vec![0.0], None), [0.0]);
    }
}
