//! The answer of `embeddings` (openai-wire.md 7.1).
//!
//! Vectors are kept as the text that came, borrowed from the body: most of them pass through, and
//! whether one is a list of numbers or base64 is for whoever reads it. Nothing of an item is judged
//! here but that it is JSON; a member of an unexpected type counts as absent.

use serde::Deserialize;
use serde_json::value::RawValue;

use super::chunk::{Usage, lenient};

/// A whole answer.
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
    /// Which input it belongs to.
    #[serde(deserialize_with = "lenient")]
    pub index: Option<usize>,
    /// A list of numbers, or base64 of little-endian 32-bit floats, whatever was asked for.
    #[serde(borrow)]
    pub embedding: Option<&'a RawValue>,
}
