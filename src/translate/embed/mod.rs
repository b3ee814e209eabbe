//! `/api/embed` and `/api/embeddings` to `embeddings`, and back (ollama-api.md 10, openai-wire.md 7).
//!
//! An [`Answer`] is written while the upstream's answers arrive, batch after batch, into one buffer;
//! no more than one vector at a time is held as numbers. Pure; nothing here knows how often the
//! upstream is asked.

mod batch;
mod vector;

use std::borrow::Cow;

use serde_json::value::RawValue;

pub use self::batch::{Bounds, Refusal, refusal};
use self::vector::{Form, Writer};
use crate::error::{Error, Result};
use crate::ndjson;
use crate::ollama::answer::EmbedMetrics;
use crate::openai::embeddings::{Embedding, Embeddings};
use crate::openai::request::EmbeddingRequest;
use crate::upstream_error::{self, Details};

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
    EmbeddingRequest { model, input, encoding_format: "float" }
}

/// The answer of one of the two routes, written as the vectors come.
pub struct Answer {
    out: Vec<u8>,
    writer: Writer,
    form: Form,
    count: usize,
}

impl Answer {
    /// The beginning of an answer of `/api/embed`, which names the model and may cut each vector.
    #[must_use]
    pub fn embed(model: &str, dimensions: Option<i64>) -> Self {
        let mut out = br#"{"model":"#.to_vec();
        ndjson::append(&mut out, &model);
        out.extend_from_slice(br#","embeddings":["#);
        Self::begun(out, Form::Unit { dimensions })
    }

    /// The beginning of an answer of `/api/embeddings`.
    #[must_use]
    pub fn embeddings() -> Self {
        Self::begun(br#"{"embedding":"#.to_vec(), Form::Raw)
    }

    fn begun(out: Vec<u8>, form: Form) -> Self {
        Self { out, writer: Writer::default(), form, count: 0 }
    }

    /// Adds the vectors of an upstream's whole answer to a request with so many inputs, in the order
    /// of these, and gives the tokens that it counted.
    ///
    /// # Errors
    /// The error that came in place of vectors, [`Error::UpstreamProtocol`] for what is no answer to
    /// that request, and Ollama's sentence for numbers that are none. What was written then makes no
    /// answer.
    pub fn add(&mut self, text: &str, inputs: usize) -> Result<Option<u64>> {
        let answer = self.read(text)?;
        let vectors = in_order(answer.data, inputs)?;
        self.out.reserve(vectors.iter().map(|vector| vector.get().len() + 1).sum());
        for vector in vectors {
            if self.count > 0 {
                self.out.push(b',');
            }
            self.writer.append(&mut self.out, vector, self.form)?;
            self.count += 1;
        }
        Ok(answer.usage.and_then(|usage| usage.prompt_tokens))
    }

    /// How many vectors there are so far.
    #[must_use]
    pub fn count(&self) -> usize {
        self.count
    }

    /// The whole answer. Only that of `/api/embed` has counters, and only where something was
    /// embedded.
    #[must_use]
    pub fn finish(self, metrics: Option<EmbedMetrics>) -> Vec<u8> {
        let Self { mut out, form, count, .. } = self;
        match form {
            Form::Unit { .. } => out.push(b']'),
            Form::Raw if count == 0 => out.extend_from_slice(b"[]"),
            Form::Raw => {}
        }
        match metrics {
            Some(metrics) => {
                let members = out.len();
                ndjson::append(&mut out, &metrics);
                // They go on in this object instead of beginning their own.
                out[members] = b',';
            }
            None => out.push(b'}'),
        }
        out
    }

    fn read<'a>(&self, text: &'a str) -> Result<Embeddings<'a>> {
        let parsed = serde_json::from_str::<Embeddings<'_>>(text);
        match parsed {
            Ok(answer) if answer.error.is_none() && !answer.data.is_empty() => Ok(answer),
            // Only what is no plain success is looked through for an error.
            parsed => match (upstream_error::error_in(text), parsed) {
                (Some(error), _) => Err(error),
                (None, Ok(answer)) => Ok(answer),
                (None, Err(_)) if holds_bare_words(text) => Err(self.form.not_finite()),
                (None, Err(_)) => Err(Error::protocol("something that holds no embeddings")),
            },
        }
    }
}

/// Whether a text holds embeddings but for the words that Python writes for numbers that are none.
fn holds_bare_words(text: &str) -> bool {
    let plain =
        text.replace("NaN", "null").replace("-Infinity", "null").replace("Infinity", "null");
    serde_json::from_str::<Embeddings<'_>>(&plain).is_ok_and(|answer| !answer.data.is_empty())
}

/// The vectors in the order of the inputs. Where no item says which it is, the order given is the
/// order meant.
fn in_order(data: Vec<Embedding<'_>>, inputs: usize) -> Result<Vec<&RawValue>> {
    if data.len() != inputs {
        let message = format!("backend returned {} embeddings for {inputs} inputs", data.len());
        return Err(Error::UpstreamInBand { status: 502, message });
    }
    let as_given = data.iter().all(|item| item.index.is_none());
    let mut places = vec![None; inputs];
    for (given, item) in data.into_iter().enumerate() {
        let index = if as_given { Some(given) } else { item.index };
        let Some(place) = index.and_then(|index| places.get_mut(index)) else {
            return Err(Error::protocol("an embedding of no input"));
        };
        let Some(vector) = item.embedding else {
            return Err(Error::protocol("an embedding without numbers"));
        };
        if place.replace(vector).is_some() {
            return Err(Error::protocol("two embeddings of one input"));
        }
    }
    Ok(places.into_iter().flatten().collect())
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

    fn said(status: u16, message: &str) -> Error {
        let message = message.to_owned();
        Error::UpstreamStatus { status, message, retry: crate::error::Retry::Never }
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
}
