//! `/api/embed` and `/api/embeddings` to `embeddings`, and back (ollama-api.md 10, openai-wire.md 7).

use std::borrow::Cow;

use serde_json::value::RawValue;

use crate::error::{Error, Result};
use crate::openai::answer::{Embedding, Embeddings};
use crate::openai::request::EmbeddingRequest;

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

/// The request for the upstream. An empty text becomes a blank: several servers refuse it.
#[must_use]
pub fn to_openai<'a>(model: &'a str, inputs: Vec<Cow<'a, str>>) -> EmbeddingRequest<'a> {
    let input = inputs
        .into_iter()
        .map(|text| if text.is_empty() { Cow::Borrowed(" ") } else { text })
        .collect();
    EmbeddingRequest { model, input, encoding_format: "float" }
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
