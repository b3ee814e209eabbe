//! `/api/embed` and `/api/embeddings` to `embeddings`, and back (ollama-api.md 10, openai-wire.md 7).
//!
//! An [`EmbedResponseBuilder`] is made while the upstream's answers arrive, batch after batch. Bodies of which all
//! vectors stay as they are are kept, and not copied; no more than one vector at a time is held as
//! numbers. Pure; nothing here knows how often the upstream is asked.

mod batch;
mod float_text;
mod pieces;
mod scan;
mod skeleton;
mod vector;

use std::borrow::Cow;

use serde_json::value::RawValue;

pub use self::batch::{BatchBounds, BatchRejection, classify_rejection};
pub use self::pieces::Pieces;
use self::skeleton::{NumberList, Skeleton};
use self::vector::{VectorFormat, VectorWriter};
use crate::api::ollama::response::EmbedMetrics;
use crate::api::openai::embeddings::{Embedding, EmbeddingsResponse};
use crate::api::openai::request::EmbeddingRequest;
use crate::api::wire::ndjson;
use crate::backends::errors;
use crate::backends::errors::ErrorDetails;
use crate::error::{Error, Result};

/// What llama.cpp says of an input that does not fit its physical batch.
const PHYSICAL_BATCH_TEXT: &str = "too large to process";

/// Reads `input`: nothing, one text or many.
///
/// # Errors
/// [`Error::InvalidRequest`] for anything but a string and a list of strings.
pub fn parse_inputs(input: Option<&RawValue>) -> Result<Vec<Cow<'_, str>>> {
    let Some(raw) = input else { return Ok(Vec::new()) };
    let invalid = |_| Error::invalid_request("invalid input type");
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
    let Some((_, message)) = status_and_text(error) else { return false };
    message.contains(PHYSICAL_BATCH_TEXT)
        || message.contains("must have less than")
        || errors::is_context_overflow(&ErrorDetails { message, ..ErrorDetails::default() })
}

/// Status and text of an upstream's error, the text in lower case.
fn status_and_text(error: &Error) -> Option<(u16, String)> {
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

/// The answer of one of the two routes, written as the vectors come.
pub struct EmbedResponseBuilder {
    /// All but the vectors that are passed on.
    out: Pieces,
    writer: VectorWriter,
    format: VectorFormat,
    vector_count: usize,
}

impl EmbedResponseBuilder {
    /// The beginning of an answer of `/api/embed`, which names the model and may cut each vector.
    #[must_use]
    pub fn for_embed(model: &str, dimensions: Option<i64>) -> Self {
        let mut out = br#"{"model":"#.to_vec();
        ndjson::append(&mut out, &model);
        out.extend_from_slice(br#","embeddings":["#);
        Self::with_prefix(out, VectorFormat::Unit { dimensions })
    }

    /// The beginning of an answer of `/api/embeddings`.
    #[must_use]
    pub fn for_embeddings() -> Self {
        Self::with_prefix(br#"{"embedding":"#.to_vec(), VectorFormat::Raw)
    }

    fn with_prefix(out: Vec<u8>, format: VectorFormat) -> Self {
        Self { out: Pieces::new(out), writer: VectorWriter::default(), format, vector_count: 0 }
    }

    /// Adds the vectors of an upstream's whole answer to a request with so many inputs, in the order
    /// of these, and gives the tokens that it counted.
    ///
    /// # Errors
    /// The error that came in place of vectors, [`Error::UpstreamProtocol`] for what is no answer to
    /// that request, and Ollama's sentence for numbers that are none. What was written then makes no
    /// answer.
    pub fn add_response(&mut self, text: String, inputs: usize) -> Result<Option<u64>> {
        let Some(outline) = Skeleton::extract(&text) else { return self.add_parsed(&text, inputs) };
        let Some(answer) = outline.parse() else { return self.add_parsed(&text, inputs) };
        let vectors = sort_by_index(answer.data, inputs)?;
        let lists: Option<Vec<&NumberList>> =
            vectors.iter().map(|vector| outline.find_list(vector.get())).collect();
        let Some(lists) = lists else { return self.add_parsed(&text, inputs) };
        let tokens = answer.usage.and_then(|usage| usage.prompt_tokens);
        let passes = |list: &NumberList| self.format.accepts_unchanged(&list.scan);
        let all_pass = lists.iter().all(|list| !list.scan.has_blanks && passes(list));
        let digits: usize = lists.iter().map(|list| list.range.len()).sum();
        if all_pass && digits >= text.len() / 4 * 3 {
            for list in &lists {
                self.push_separator();
                self.out.push_slice(list.range.clone());
                self.vector_count += 1;
            }
            self.out.push_body(text);
            return Ok(tokens);
        }
        self.out.written.reserve(digits + lists.len());
        for list in lists {
            self.push_separator();
            let (out, vector) = (&mut self.out.written, &text[list.range.clone()]);
            if self.format.accepts_unchanged(&list.scan) {
                out.extend(vector.split_ascii_whitespace().flat_map(str::bytes));
            } else {
                self.writer.append(out, vector, self.format)?;
            }
            self.vector_count += 1;
        }
        Ok(tokens)
    }

    /// As [`EmbedResponseBuilder::add_response`], for what is not the usual.
    fn add_parsed(&mut self, text: &str, inputs: usize) -> Result<Option<u64>> {
        let answer = self.parse_response(text)?;
        let vectors = sort_by_index(answer.data, inputs)?;
        self.out.written.reserve(vectors.iter().map(|vector| vector.get().len() + 1).sum());
        for vector in vectors {
            self.push_separator();
            self.writer.append(&mut self.out.written, vector.get(), self.format)?;
            self.vector_count += 1;
        }
        Ok(answer.usage.and_then(|usage| usage.prompt_tokens))
    }

    fn push_separator(&mut self) {
        if self.vector_count > 0 {
            self.out.written.push(b',');
        }
    }

    /// How many vectors there are so far.
    #[must_use]
    pub fn vector_count(&self) -> usize {
        self.vector_count
    }

    /// The whole answer. Only that of `/api/embed` has counters, and only where something was
    /// embedded.
    #[must_use]
    pub fn finish(self, metrics: Option<EmbedMetrics>) -> Pieces {
        let Self { out: mut whole, format: form, vector_count: count, .. } = self;
        let out = &mut whole.written;
        match form {
            VectorFormat::Unit { .. } => out.push(b']'),
            VectorFormat::Raw if count == 0 => out.extend_from_slice(b"[]"),
            VectorFormat::Raw => {}
        }
        match metrics {
            Some(metrics) => {
                let members = out.len();
                ndjson::append(out, &metrics);
                // They go on in this object instead of beginning their own.
                out[members] = b',';
            }
            None => out.push(b'}'),
        }
        whole
    }

    fn parse_response<'a>(&self, text: &'a str) -> Result<EmbeddingsResponse<'a>> {
        let parsed = serde_json::from_str::<EmbeddingsResponse<'_>>(text);
        match parsed {
            Ok(answer) if answer.error.is_none() && !answer.data.is_empty() => Ok(answer),
            // Only what is no plain success is looked through for an error.
            parsed => match (errors::find_in_band_error(text), parsed) {
                (Some(error), _) => Err(error),
                (None, Ok(answer)) => Ok(answer),
                (None, Err(_)) if has_python_literals(text) => Err(self.format.non_finite_error()),
                (None, Err(_)) => {
                    Err(Error::upstream_protocol("something that holds no embeddings"))
                }
            },
        }
    }
}

/// Whether a text holds embeddings but for the words that Python writes for numbers that are none.
fn has_python_literals(text: &str) -> bool {
    let plain =
        text.replace("NaN", "null").replace("-Infinity", "null").replace("Infinity", "null");
    serde_json::from_str::<EmbeddingsResponse<'_>>(&plain)
        .is_ok_and(|answer| !answer.data.is_empty())
}

/// The vectors in the order of the inputs. Where no item says which it is, the order given is the
/// order meant.
fn sort_by_index(data: Vec<Embedding<'_>>, inputs: usize) -> Result<Vec<&RawValue>> {
    if data.len() != inputs {
        let message = format!("backend returned {} embeddings for {inputs} inputs", data.len());
        return Err(Error::UpstreamInBand { status: 502, message });
    }
    let as_given = data.iter().all(|item| item.index.is_none());
    let mut places = vec![None; inputs];
    for (given, item) in data.into_iter().enumerate() {
        let index = if as_given { Some(given) } else { item.index };
        let Some(place) = index.and_then(|index| places.get_mut(index)) else {
            return Err(Error::upstream_protocol("an embedding of no input"));
        };
        let Some(vector) = item.embedding else {
            return Err(Error::upstream_protocol("an embedding without numbers"));
        };
        if place.replace(vector).is_some() {
            return Err(Error::upstream_protocol("two embeddings of one input"));
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
            assert_eq!(parse_inputs(Some(&raw)).expect("valid"), expected, "{input}");
        };
        check("null", &[]);
        check(r#""""#, &[]);
        check("[]", &[]);
        check(r#""a\nb""#, &["a\nb"]);
        check(r#"["a",""]"#, &["a", ""]);
        assert_eq!(parse_inputs(None).expect("valid"), Vec::<&str>::new());
    }

    #[test]
    fn other_inputs_are_refused() {
        for input in ["5", "{}", "[1]", r#"["a",null]"#, "true"] {
            let raw = RawValue::from_string(input.to_owned()).expect("valid JSON");
            let error = parse_inputs(Some(&raw)).expect_err("refused");
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
        assert!(!is_too_long(&Error::IncompleteStream));
    }

    /// What an answer of `/api/embed` holds after these bodies, each with its number of inputs.
    fn answered(bodies: &[(&str, usize)]) -> std::result::Result<String, (u16, String)> {
        let mut answer = EmbedResponseBuilder::for_embed("m", None);
        for (body, inputs) in bodies {
            answer
                .add_response((*body).to_owned(), *inputs)
                .map_err(|error| (error.status().unwrap_or(0), error.message()))?;
        }
        let text = String::from_utf8(answer.finish(None).to_vec()).expect("UTF-8");
        let list = text.strip_prefix(r#"{"model":"m","embeddings":"#).expect("what begins all");
        Ok(list.strip_suffix('}').expect("an end").to_owned())
    }

    #[test]
    fn vectors_follow_their_index() {
        let check = |body: &str, inputs: usize, expected: &str| {
            assert_eq!(answered(&[(body, inputs)]).as_deref(), Ok(expected), "{body}");
        };
        let shuffled = r#"{"data":[{"index":1,"embedding":[-1]},{"index":0,"embedding":[1]}]}"#;
        check(shuffled, 2, "[[1],[-1]]");
        check(r#"{"data":[{"embedding":[-1]},{"embedding":[1]}]}"#, 2, "[[-1],[1]]");
        // What is no index counts as none.
        check(
            r#"{"data":[{"index":"b","embedding":[-1]},{"index":null,"embedding":[1]}]}"#,
            2,
            "[[-1],[1]]",
        );
        let one = r#"{"data":[{"index":0,"embedding":[1.0]}]}"#;
        assert_eq!(answered(&[(shuffled, 2), (one, 1)]).as_deref(), Ok("[[1],[-1],[1.0]]"));
        assert_eq!(answered(&[]).as_deref(), Ok("[]"));
    }

    #[test]
    fn an_order_that_makes_no_sense_is_told() {
        let check = |body: &str, expected: &str| {
            let text = format!("invalid response from the upstream: {expected}");
            assert_eq!(answered(&[(body, 2)]), Err((502, text)), "{body}");
        };
        for index in [2, usize::MAX] {
            let body = format!(
                r#"{{"data":[{{"index":{index},"embedding":[1]}},{{"index":0,"embedding":[1]}}]}}"#
            );
            check(&body, "an embedding of no input");
        }
        let some = r#"{"data":[{"index":0,"embedding":[1]},{"embedding":[1]}]}"#;
        check(some, "an embedding of no input");
        let twice = r#"{"data":[{"index":1,"embedding":[1]},{"index":1,"embedding":[1]}]}"#;
        check(twice, "two embeddings of one input");
        check(r#"{"data":[{"embedding":[1]},{"embedding":null}]}"#, "an embedding without numbers");
        check(r#"{"data":[{"embedding":[1]},{}]}"#, "an embedding without numbers");
    }

    #[test]
    fn what_comes_in_place_of_vectors_is_told() {
        let check = |body: &str, status: u16, expected: &str| {
            assert_eq!(answered(&[(body, 1)]), Err((status, expected.to_owned())), "{body}");
        };
        let two = r#"{"data":[{"embedding":[1]},{"embedding":[1]}]}"#;
        check(two, 502, "backend returned 2 embeddings for 1 inputs");
        check("{}", 502, "backend returned 0 embeddings for 1 inputs");
        check(r#"{"data":[]}"#, 502, "backend returned 0 embeddings for 1 inputs");
        let nothing = "invalid response from the upstream: something that holds no embeddings";
        for body in ["", "nonsense", "5", r#"{"data":[{"embedding":[1"#, r#"{"data":null}"#, "NaN"]
        {
            check(body, 502, nothing);
        }
        check(r#"{"error":{"message":"slow","code":429}}"#, 429, "slow");
        check(r#"{"data":[{"embedding":[1]}],"error":"broken"}"#, 502, "broken");
        check(r#"{"object":"error","message":"broken","code":400}"#, 400, "broken");
        let not_finite = "embedding contains NaN or Inf values";
        for word in ["NaN", "Infinity", "-Infinity", "null"] {
            let body = format!(r#"{{"data":[{{"embedding":[1, {word}]}}]}}"#);
            check(&body, 400, not_finite);
        }
        // An error that says nothing is none.
        let sound = r#"{"data":[{"embedding":[1]}],"error":null}"#;
        assert_eq!(answered(&[(sound, 1)]).as_deref(), Ok("[[1]]"));
        let empty = r#"{"data":[{"embedding":[1]}],"error":{}}"#;
        assert_eq!(answered(&[(empty, 1)]).as_deref(), Ok("[[1]]"));
    }

    /// Both ways to read a body: each with what it made of it, and whether it has an outline.
    fn both_ways(body: &str, inputs: usize, begin: fn() -> EmbedResponseBuilder) -> bool {
        let read =
            |mut answer: EmbedResponseBuilder,
             add: &dyn Fn(&mut EmbedResponseBuilder) -> Result<Option<u64>>| {
                let tokens = add(&mut answer);
                let tokens =
                    tokens.map_err(|error| (error.status().unwrap_or(0), error.message()))?;
                let (count, whole) = (answer.vector_count(), answer.finish(None).to_vec());
                Ok::<_, (u16, String)>((tokens, count, String::from_utf8(whole).expect("UTF-8")))
            };
        let quick = read(begin(), &|answer| answer.add_response(body.to_owned(), inputs));
        let full = read(begin(), &|answer| answer.add_parsed(body, inputs));
        assert_eq!(quick, full, "{body}");
        Skeleton::extract(body).is_some_and(|outline| outline.parse().is_some())
    }

    #[test]
    fn an_outline_tells_what_the_answer_does() {
        let begins = [
            || EmbedResponseBuilder::for_embed("m", None),
            || EmbedResponseBuilder::for_embed("m", Some(2)),
            EmbedResponseBuilder::for_embeddings,
        ];
        let check = |body: &str, inputs: usize, has_outline: bool| {
            for begin in begins {
                assert_eq!(both_ways(body, inputs, begin), has_outline, "{body}");
            }
        };
        let unit = r#"{"object":"embedding","index":0,"embedding":[0.6,-0.80,0.0]}"#;
        let other = r#"{"embedding":[3,4.0,1e-2],"index":1,"object":"embedding"}"#;
        let usage = r#""usage":{"prompt_tokens":7,"total_tokens":7}"#;
        check(&format!(r#"{{"data":[{unit}],{usage}}}"#), 1, true);
        check(&format!(r#"{{"data":[{unit},{other}],{usage}}}"#), 2, true);
        check(&format!(r#"{{{usage},"data":[{other},{unit}]}}"#), 2, true);
        check(&format!(r#"{{"data":[{other},{unit}]}}"#), 3, true);
        check(&format!(r#"{{"data":[{unit},{unit}]}}"#), 2, true);
        check("{\n \"data\" : [ {\"embedding\" :\t[ 0.6,\n  -0.8\r\n] } ] }\n", 1, true);
        check(r#"{"model":"\"[\\","data":[{"embedding":[1]}],"\u00e9é":"embedding"}"#, 1, true);
        check(r#"{"embedding":[1],"data":[{"x":{"embedding":[2]},"embedding":[1]}]}"#, 1, true);
        // What stands for a list must not be taken for one, nor a list for what stands for one.
        check(r#"{"data":[{"embedding":[1]},{"embedding":[0]}]}"#, 2, true);
        check(r#"{"data":[[0,[0]],{"index":1,"embedding":[1]}]}"#, 2, false);
        check(r#"{"data":[{"embedding":[1]}],"usage":[5,6]}"#, 1, false);
        check(r#"{"data":[{"embedding":[1]},{"\u0065mbedding":[0]}]}"#, 2, false);
        for body in [
            "",
            "{}",
            r#"{"data":[]}"#,
            r#"{"data":[{}]}"#,
            r#"{"data":[{"embedding":null}]}"#,
            r#"{"data":[{"embedding":[]}]}"#,
            r#"{"data":[{"embedding":[1,null]}]}"#,
            r#"{"data":[{"embedding":[NaN]}]}"#,
            r#"{"data":[{"embedding":"AACAPw=="}]}"#,
            r#"{"data":[{"embedding":[1],"embedding":[1]}]}"#,
            r#"{"data":[{"embedding":[1]}],"error":{"message":"broken"}}"#,
            r#"{"data":[{"embedding":[1]}],"error":{"embedding":[1]}}"#,
            r#"{"data":[{"embedding":[1]}]"#,
            r#"{"data":[{"embedding":[1]]}"#,
            r#"{"data":[{"embedding":[1]}]}}"#,
            r#"{"data":[{"embedding":[1]}],"a":"\x"}"#,
            r#"{"data":[{"embedding":[1]}],"a":"open"#,
            r#"{"data":[{"embedding":[1]}],"a":"open\"#,
        ] {
            let has_outline = body == r#"{"data":[{}]}"#;
            check(body, 1, has_outline);
        }
    }

    #[test]
    fn bodies_that_are_kept_and_bodies_that_are_not_make_one_answer() {
        let vector = |number: &str| format!("[{}]", [number; 100].join(","));
        let body = |vector: &str| format!(r#"{{"data":[{{"embedding":{vector}}}]}}"#);
        // Each has a sum of squares of 1, and of 0.25.
        let (unit, blanks, other) = (vector("0.1"), vector("0.1 "), vector("0.05"));
        let mut answer = EmbedResponseBuilder::for_embed("m", None);
        for list in [&unit, &blanks, &other, &unit, &unit] {
            assert!(answer.add_response(body(list), 1).is_ok());
        }
        let whole = answer.finish(None);
        // Behind each of the three that are kept something is written.
        assert_eq!(whole.as_slices().len(), 7);
        let all = [unit.as_str(); 5].join(",");
        let expected = format!(r#"{{"model":"m","embeddings":[{all}]}}"#);
        assert_eq!(String::from_utf8(whole.to_vec()), Ok(expected));
    }

    #[test]
    fn each_route_has_its_frame() {
        let body = r#"{"data":[{"embedding":[3,4]}],"usage":{"prompt_tokens":2}}"#;
        let metrics = EmbedMetrics { total_duration: 9, load_duration: 1, prompt_eval_count: 2 };
        let mut answer = EmbedResponseBuilder::for_embed("a\"<b", Some(1));
        assert_eq!(
            (answer.add_response(body.to_owned(), 1).ok(), answer.vector_count()),
            (Some(Some(2)), 1)
        );
        assert_eq!(
            String::from_utf8_lossy(&answer.finish(Some(metrics)).to_vec()),
            r#"{"model":"a\"\u003cb","embeddings":[[1]],"total_duration":9,"load_duration":1,"prompt_eval_count":2}"#
        );
        assert_eq!(
            EmbedResponseBuilder::for_embed("m", None).finish(None).to_vec(),
            br#"{"model":"m","embeddings":[]}"#
        );
        assert_eq!(
            EmbedResponseBuilder::for_embeddings().finish(None).to_vec(),
            br#"{"embedding":[]}"#
        );
        let mut answer = EmbedResponseBuilder::for_embeddings();
        assert_eq!(
            answer.add_response(r#"{"data":[{"embedding":[3,4]}]}"#.to_owned(), 1).ok(),
            Some(None)
        );
        assert_eq!(answer.finish(None).to_vec(), br#"{"embedding":[3,4]}"#);
    }
}
