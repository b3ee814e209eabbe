//! `/api/embed` and `/api/embeddings` to OpenAI's `embeddings`, and back.
//!
//! An [`EmbedResponseBuilder`] writes the response while the upstream's responses arrive, batch after
//! batch. There are two paths for a vector: the digits of one that stays as it is are copied, and any
//! other is parsed and written anew. Pure; nothing here knows how often the upstream is asked.
//!
//! # Requests and vectors
//!
//! - Inputs are sent in batches of at most the family's number (mostly 256) and 750,000 bytes. A
//!   rejected batch is halved; what the upstream then accepts is remembered until the process ends.
//! - An input that is too long is truncated on `/api/embed`, by what the upstream says of its
//!   length and at most 5 times, unless `truncate` is false.
//! - An empty text is sent as a space, because some servers refuse an empty one.
//! - `/api/embed` returns vectors of unit length: a vector that has unit length already keeps the
//!   upstream's digits, any other is normalized as in Ollama. `/api/embeddings` normalizes none.
//! - Vectors in base64 are read, too.

mod batch;
mod outline;
mod vector;

use std::borrow::Cow;
use std::mem::MaybeUninit;

use serde_json::value::RawValue;

pub use self::batch::{BatchBounds, BatchRejection, classify_rejection};
use self::outline::{NumberList, Outline, scan_list};
use self::vector::VectorFormat;
use crate::api::ollama::response::EmbedMetrics;
use crate::api::openai::embeddings::{Embedding, EmbeddingsResponse};
use crate::api::openai::request::EmbeddingRequest;
use crate::api::wire::ndjson;
use crate::backends::errors;
use crate::backends::errors::ErrorDetails;
use crate::error::{Error, Result};

/// llama.cpp's text about an input that does not fit its physical batch.
const PHYSICAL_BATCH_TEXT: &str = "too large to process";

/// Parses `input`: absent, a string or a list of strings.
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

/// True if an input is longer than the model's context.
pub fn is_too_long(error: &Error) -> bool {
    let Some((_, message)) = status_and_text(error) else { return false };
    message.contains(PHYSICAL_BATCH_TEXT)
        || message.contains("must have less than")
        || errors::is_context_overflow(&ErrorDetails { message, ..ErrorDetails::default() })
}

/// The status and the lower-case text of an upstream's error.
fn status_and_text(error: &Error) -> Option<(u16, String)> {
    match error {
        Error::UpstreamStatus { status, message, .. }
        | Error::UpstreamInBand { status, message, .. } => Some((*status, message.to_lowercase())),
        _ => None,
    }
}

/// The request for the upstream. An empty text becomes a space: several servers refuse empty ones.
pub fn to_openai<'a>(model: &'a str, inputs: Vec<Cow<'a, str>>) -> EmbeddingRequest<'a> {
    let input = inputs
        .into_iter()
        .map(|text| if text.is_empty() { Cow::Borrowed(" ") } else { text })
        .collect();
    EmbeddingRequest { model, input, encoding_format: Some("float") }
}

/// The response of one of the two routes, written as the vectors come.
pub struct EmbedResponseBuilder {
    out: Vec<u8>,
    format: VectorFormat,
    vector_count: usize,
}

impl EmbedResponseBuilder {
    /// Starts a response of `/api/embed`, which names the model and may cut each vector.
    pub fn for_embed(model: &str, dimensions: Option<i64>) -> Self {
        let mut out = br#"{"model":"#.to_vec();
        ndjson::append(&mut out, &model);
        out.extend_from_slice(br#","embeddings":["#);
        Self { out, format: VectorFormat::Unit { dimensions }, vector_count: 0 }
    }

    /// Starts a response of `/api/embeddings`.
    pub fn for_embeddings() -> Self {
        let out = br#"{"embedding":"#.to_vec();
        Self { out, format: VectorFormat::Raw, vector_count: 0 }
    }

    /// Makes room for the vectors of a body of so many bytes, and returns the unused room.
    pub fn reserve(&mut self, bytes: usize) -> &mut [MaybeUninit<u8>] {
        self.out.reserve(bytes);
        self.out.spare_capacity_mut()
    }

    /// Adds the vectors of an upstream's response to a request with so many inputs, in the order of
    /// the inputs, and returns the tokens that the upstream counted.
    ///
    /// # Errors
    /// The error that came in place of vectors, [`Error::UpstreamProtocol`] for a body that does not
    /// answer the request, and Ollama's sentence for numbers that are not finite. The response must
    /// not be sent then.
    pub fn add_response(&mut self, body: &str, inputs: usize) -> Result<Option<u64>> {
        let outline = Outline::extract(body, self.format.max_len());
        let response = self.parse_response(&outline.text, body)?;
        for vector in sort_by_index(response.data, inputs)? {
            if self.vector_count > 0 {
                self.out.push(b',');
            }
            let vector = vector.get();
            let list = outline.resolve(vector).or_else(|| scan_list(vector, self.format.max_len()));
            append_vector(&mut self.out, vector, list, self.format)?;
            self.vector_count += 1;
        }
        Ok(response.usage.and_then(|usage| usage.prompt_tokens))
    }

    /// How many vectors there are so far.
    pub fn vector_count(&self) -> usize {
        self.vector_count
    }

    /// The whole response. Only that of `/api/embed` has counters, and only where something was
    /// embedded.
    #[must_use]
    pub fn finish(self, metrics: Option<EmbedMetrics>) -> Vec<u8> {
        let Self { mut out, format, vector_count } = self;
        match format {
            VectorFormat::Unit { .. } => out.push(b']'),
            VectorFormat::Raw if vector_count == 0 => out.extend_from_slice(b"[]"),
            VectorFormat::Raw => {}
        }
        match metrics {
            Some(metrics) => {
                let members = out.len();
                ndjson::append(&mut out, &metrics);
                // The counters are members of this object, so their own brace becomes a comma.
                out[members] = b',';
            }
            None => out.push(b'}'),
        }
        out
    }

    /// Parses the outline of a body. The body itself is searched for an error only if the outline is
    /// not a plain success.
    fn parse_response<'a>(&self, outline: &'a str, body: &str) -> Result<EmbeddingsResponse<'a>> {
        let parsed = serde_json::from_str::<EmbeddingsResponse<'_>>(outline);
        match parsed {
            Ok(response) if response.error.is_none() && !response.data.is_empty() => Ok(response),
            parsed => match (errors::find_in_band_error(body), parsed) {
                (Some(error), _) => Err(error),
                (None, Ok(response)) => Ok(response),
                (None, Err(_)) if has_python_literals(body) => Err(self.format.non_finite_error()),
                (None, Err(_)) => {
                    Err(Error::upstream_protocol("the response contains no embeddings"))
                }
            },
        }
    }
}

/// Appends a vector, given as JSON and as its number list if it is one: the digits of the list if they
/// need no change, else its numbers.
fn append_vector(
    out: &mut Vec<u8>,
    json: &str,
    list: Option<NumberList<'_>>,
    format: VectorFormat,
) -> Result<()> {
    match list {
        Some(list) if format.accepts(list.squares) => {
            vector::append_digits(out, &list);
            Ok(())
        }
        list => {
            let json = list.map_or(json, |list| list.text);
            vector::append_numbers(out, &vector::parse_vector(json)?, format)
        }
    }
}

/// True if a body holds embeddings once Python's spellings of numbers that are not finite, which are
/// not JSON, are replaced.
fn has_python_literals(body: &str) -> bool {
    let json = body.replace("NaN", "null").replace("-Infinity", "null").replace("Infinity", "null");
    serde_json::from_str::<EmbeddingsResponse<'_>>(&json)
        .is_ok_and(|response| !response.data.is_empty())
}

/// The vectors in the order of the inputs. If no item has an index, the items are in that order.
fn sort_by_index(data: Vec<Embedding<'_>>, inputs: usize) -> Result<Vec<&RawValue>> {
    if data.len() != inputs {
        let message = format!("backend returned {} embeddings for {inputs} inputs", data.len());
        return Err(Error::upstream_in_band(502, message));
    }
    let as_given = data.iter().all(|item| item.index.is_none());
    let mut places = vec![None; inputs];
    for (given, item) in data.into_iter().enumerate() {
        let index = if as_given { Some(given) } else { item.index };
        let Some(place) = index.and_then(|index| places.get_mut(index)) else {
            return Err(Error::upstream_protocol("the index of an embedding is out of range"));
        };
        let Some(vector) = item.embedding else {
            return Err(Error::upstream_protocol("an embedding is empty"));
        };
        if place.replace(vector).is_some() {
            return Err(Error::upstream_protocol("two embeddings have the same index"));
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
        Error::upstream_status(status, message, crate::error::Retry::Never)
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
                .add_response(body, *inputs)
                .map_err(|error| (error.status().unwrap_or(0), error.message()))?;
        }
        let text = String::from_utf8(answer.finish(None)).expect("UTF-8");
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
            check(&body, "the index of an embedding is out of range");
        }
        let some = r#"{"data":[{"index":0,"embedding":[1]},{"embedding":[1]}]}"#;
        check(some, "the index of an embedding is out of range");
        let twice = r#"{"data":[{"index":1,"embedding":[1]},{"index":1,"embedding":[1]}]}"#;
        check(twice, "two embeddings have the same index");
        check(r#"{"data":[{"embedding":[1]},{"embedding":null}]}"#, "an embedding is empty");
        check(r#"{"data":[{"embedding":[1]},{}]}"#, "an embedding is empty");
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
        let nothing = "invalid response from the upstream: the response contains no embeddings";
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

    /// What a body with so many inputs gives: tokens, vectors and the response, or status and text.
    fn read(
        body: &str,
        inputs: usize,
        mut answer: EmbedResponseBuilder,
    ) -> std::result::Result<(Option<u64>, usize, String), (u16, String)> {
        let tokens = answer
            .add_response(body, inputs)
            .map_err(|error| (error.status().unwrap_or(0), error.message()))?;
        let count = answer.vector_count();
        Ok((tokens, count, String::from_utf8(answer.finish(None)).expect("UTF-8")))
    }

    #[test]
    fn an_outline_gives_what_the_whole_body_gives() {
        let begins = [
            || EmbedResponseBuilder::for_embed("m", None),
            || EmbedResponseBuilder::for_embed("m", Some(2)),
            EmbedResponseBuilder::for_embeddings,
        ];
        // An escape in the member's name hides the lists from the outline.
        let check = |body: &str, inputs: usize| {
            let hidden = body.replace("\"embedding\"", "\"\\u0065mbedding\"");
            assert!(matches!(Outline::extract(&hidden, usize::MAX).text, Cow::Borrowed(_)));
            for begin in begins {
                assert_eq!(read(body, inputs, begin()), read(&hidden, inputs, begin()), "{body}");
            }
            matches!(Outline::extract(body, usize::MAX).text, Cow::Owned(_))
        };
        let unit = r#"{"object":"embedding","index":0,"embedding":[0.6,-0.80,0.0]}"#;
        let other = r#"{"embedding":[3,4.0,1e-2],"index":1,"object":"embedding"}"#;
        let usage = r#""usage":{"prompt_tokens":7,"total_tokens":7}"#;
        assert!(check(&format!(r#"{{"data":[{unit}],{usage}}}"#), 1));
        assert!(check(&format!(r#"{{"data":[{unit},{other}],{usage}}}"#), 2));
        assert!(check(&format!(r#"{{{usage},"data":[{other},{unit}]}}"#), 2));
        assert!(check(&format!(r#"{{"data":[{other},{unit}]}}"#), 3));
        assert!(check(&format!(r#"{{"data":[{unit},{unit}]}}"#), 2));
        assert!(check("{\n \"data\" : [ {\"embedding\" :\t[ 0.6,\n  -0.8\r\n] } ] }\n", 1));
        assert!(check(r#"{"model":"\"[\\","data":[{"embedding":[1]}],"\u00e9é":"embedding"}"#, 1));
        assert!(check(r#"{"embedding":[1],"data":[{"x":{"embedding":[2]},"embedding":[1]}]}"#, 1));
        // What stands for a list must not be taken for one, nor a list for what stands for one.
        assert!(check(r#"{"data":[{"embedding":[1]},{"embedding":[0]}]}"#, 2));
        check(r#"{"data":[[0,[0]],{"index":1,"embedding":[1]}]}"#, 2);
        check(r#"{"data":[{"embedding":[1]}],"usage":[5,6]}"#, 1);
        check(r#"{"data":[{"embedding":[1]},{"\u0065mbedding":[0]}]}"#, 2);
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
            check(body, 1);
        }
    }

    #[test]
    fn digits_are_copied_and_scaled_numbers_are_written_in_one_response() {
        let vector = |number: &str| format!("[{}]", [number; 100].join(","));
        // Each has a sum of squares of 1, and of 0.25.
        let (unit, blanks, other) = (vector("0.10"), vector("0.10 "), vector("0.05"));
        let bodies = [&unit, &blanks, &other, &unit]
            .map(|vector| (format!(r#"{{"data":[{{"embedding":{vector}}}]}}"#), 1));
        let bodies = bodies.each_ref().map(|(body, inputs)| (body.as_str(), *inputs));
        let expected = [unit.as_str(), &unit, &vector("0.1"), &unit].join(",");
        assert_eq!(answered(&bodies), Ok(format!("[{expected}]")));
    }

    #[test]
    fn each_route_has_its_frame() {
        let body = r#"{"data":[{"embedding":[3,4]}],"usage":{"prompt_tokens":2}}"#;
        let metrics = EmbedMetrics { total_duration: 9, load_duration: 1, prompt_eval_count: 2 };
        let mut answer = EmbedResponseBuilder::for_embed("a\"<b", Some(1));
        assert_eq!((answer.add_response(body, 1).ok(), answer.vector_count()), (Some(Some(2)), 1));
        assert_eq!(
            String::from_utf8_lossy(&answer.finish(Some(metrics))),
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
        assert_eq!(answer.add_response(r#"{"data":[{"embedding":[3,4]}]}"#, 1).ok(), Some(None));
        assert_eq!(answer.finish(None), br#"{"embedding":[3,4]}"#);
    }
}
