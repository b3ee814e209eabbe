//! Writes a compaction, as the object of `/v1/responses/compact` or as the item of a response.
//!
//! ```text
//! created, in_progress  ->  output_item.added, output_item.done  ->  completed
//! ```
//!
//! The summary is not streamed: nothing but a sign of life is sent while the model writes it. Invariant:
//! a compaction has a summary; without one the response fails.

use super::super::output_item::{ItemKind, OutputItem};
use super::super::response_object::{ResponseIds, to_usage, unix_seconds};
use super::encode_payload;
use crate::api::openai::responses::CompactedResponse;
use crate::api::wire::ndjson;
use crate::error::{Error, ErrorCode, Result};
use crate::translate::stream::{Completion, Delta};

/// Collects the summary, and writes it.
#[derive(Debug)]
pub struct CompactionEncoder {
    ids: ResponseIds,
    retained: Vec<String>,
    summary: String,
}

impl CompactionEncoder {
    /// An encoder for a compaction that keeps these messages.
    pub fn new(ids: ResponseIds, retained: Vec<String>) -> Self {
        Self { ids, retained, summary: String::new() }
    }

    /// Adds what the model wrote.
    pub fn append(&mut self, delta: &Delta<'_>) {
        self.summary.push_str(&delta.content);
    }

    /// Whether there is a summary, once `rest` is added.
    ///
    /// # Errors
    /// [`Error::Coded`] if there is none.
    pub fn check_complete(&self, rest: &Delta<'_>) -> Result<()> {
        if !self.summary.trim().is_empty() || !rest.content.trim().is_empty() {
            return Ok(());
        }
        let text = "compaction failed: the model wrote no summary";
        Err(Error::Coded(ErrorCode::COMPACTION_FAILED, text.to_owned()))
    }

    /// The compaction as the item of a response.
    pub fn item(&self) -> OutputItem {
        let text = encode_payload(self.summary.trim(), &self.retained);
        OutputItem { kind: ItemKind::Compaction, id: self.ids.compaction_id(), text }
    }

    /// Writes the object.
    pub fn encode_whole(&self, out: &mut Vec<u8>, created_at: &str, outcome: &Completion) {
        let item = self.item();
        let response = CompactedResponse {
            id: &self.ids.compact_response_id(),
            object: "response.compaction",
            created_at: unix_seconds(created_at),
            output: &[item.to_item(true)],
            usage: to_usage(outcome),
        };
        ndjson::append(out, &response);
    }
}
