//! The response of `embeddings`.
//!
//! Vectors stay as the text that came, borrowed from the body: most of them pass through, and the
//! reader decides whether one is a list of numbers or base64. Of an item only its JSON is checked; a
//! member of an unexpected type counts as absent.

use serde::Deserialize;
use serde_json::value::RawValue;

use super::chunk::{Usage, lenient};

/// A whole response.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct EmbeddingsResponse<'a> {
    /// One entry for each input, in any order.
    #[serde(borrow)]
    pub data: Vec<Embedding<'a>>,
    /// The counts.
    #[serde(deserialize_with = "lenient")]
    pub usage: Option<Usage>,
    /// An error inside a success.
    #[serde(borrow)]
    pub error: Option<&'a RawValue>,
}

/// One vector.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Embedding<'a> {
    /// The index of its input.
    #[serde(deserialize_with = "lenient")]
    pub index: Option<usize>,
    /// A list of numbers, or base64 of little-endian 32-bit floats, regardless of the requested format.
    #[serde(borrow)]
    pub embedding: Option<&'a RawValue>,
}
