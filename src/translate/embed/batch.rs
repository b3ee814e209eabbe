//! How many inputs go into one request, and what an upstream says when they are too many.
//!
//! Pure and stateless: the handler keeps what it learnt of an upstream. Invariant: each rejection makes
//! the next batch smaller, so that halving ends.

use std::borrow::Cow;

use super::{PHYSICAL_BATCH_TEXT, is_too_long, status_and_text};
use crate::error::Error;

/// The most bytes of all inputs of one request: about 250,000 tokens, where OpenAI accepts 300,000.
const MAX_BATCH_BYTES: usize = 750_000;

/// The limits of one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchBounds {
    /// The most inputs.
    pub items: usize,
    /// The most bytes of all inputs, at three bytes to a token.
    pub bytes: usize,
}

/// What a rejected request had too much of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BatchRejection {
    /// Inputs.
    Items,
    /// Tokens, or bytes.
    Size,
}

impl BatchBounds {
    /// The limits for an upstream of which only the number of inputs is known.
    pub fn with_max_items(items: usize) -> Self {
        Self { items, bytes: MAX_BATCH_BYTES }
    }

    /// How many of `inputs`, from the first on, go into one request; at least one.
    #[must_use]
    pub fn count_fitting(self, inputs: &[Cow<'_, str>]) -> usize {
        let mut bytes = 0_usize;
        let fitting = inputs.iter().take_while(|input| {
            bytes = bytes.saturating_add(input_bytes(input));
            bytes <= self.bytes
        });
        fitting.take(self.items).count().max(1)
    }

    /// The limits after a rejection: half of what the batch had too much of.
    #[must_use]
    pub fn halve(self, rejection: BatchRejection, rejected: &[Cow<'_, str>]) -> Self {
        match rejection {
            BatchRejection::Items => Self { items: rejected.len() / 2, ..self },
            BatchRejection::Size => Self {
                bytes: rejected.iter().map(|input| input_bytes(input)).sum::<usize>() / 2,
                ..self
            },
        }
    }
}

/// The bytes of an input; an empty one is sent as a space.
fn input_bytes(input: &str) -> usize {
    input.len().max(1)
}

/// Whether a request had too many inputs or too many tokens, so that a smaller one may succeed.
pub fn classify_rejection(error: &Error) -> Option<BatchRejection> {
    let (status, text) = status_and_text(error)?;
    let says = |known: &[&str]| known.iter().any(|known| text.contains(known));
    // llama.cpp mentions its batch size when a single input does not fit.
    if text.contains(PHYSICAL_BATCH_TEXT) {
        None
    } else if says(&["batch size", "in one batch"]) {
        Some(BatchRejection::Items)
    } else if says(&["max_tokens_per_request", "tokens per request"]) {
        Some(BatchRejection::Size)
    } else {
        // A smaller batch does not help if a single input is too long.
        (status == 413 && !is_too_long(error)).then_some(BatchRejection::Size)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(lengths: &[usize]) -> Vec<Cow<'static, str>> {
        lengths.iter().map(|length| "x".repeat(*length).into()).collect()
    }

    #[test]
    fn a_batch_has_a_bound_on_items_and_on_bytes() {
        let check = |lengths: &[usize], most: usize, expected: usize| {
            let count = BatchBounds::with_max_items(most).count_fitting(&texts(lengths));
            assert_eq!(count, expected, "{lengths:?} {most}");
        };
        check(&[1, 1, 1], 256, 3);
        check(&[1, 1, 1], 2, 2);
        check(&[1, 1, 1], 1, 1);
        check(&[MAX_BATCH_BYTES - 1, 0, 1], 256, 2);
        check(&[MAX_BATCH_BYTES + 1, 1], 256, 1);
        check(&[MAX_BATCH_BYTES / 2, MAX_BATCH_BYTES / 2, 1], 256, 2);
        check(&[1], 0, 1);
    }

    #[test]
    fn every_refusal_makes_the_next_batch_smaller() {
        for refusal in [BatchRejection::Items, BatchRejection::Size] {
            for lengths in [&[0, 0, 0][..], &[5, 1, 900_000], &[1; 300], &[900_000, 1], &[0; 2]] {
                let texts = texts(lengths);
                let mut bounds = BatchBounds::with_max_items(256);
                let mut count = bounds.count_fitting(&texts);
                while count > 1 {
                    bounds = bounds.halve(refusal, &texts[..count]);
                    let next = bounds.count_fitting(&texts);
                    assert!(next < count, "{refusal:?} {lengths:?}: {count}, then {next}");
                    count = next;
                }
            }
        }
        let halved =
            |refusal| BatchBounds::with_max_items(256).halve(refusal, &texts(&[10, 20, 30, 40]));
        assert_eq!(halved(BatchRejection::Items), BatchBounds { items: 2, bytes: MAX_BATCH_BYTES });
        assert_eq!(halved(BatchRejection::Size), BatchBounds { items: 256, bytes: 50 });
    }

    #[test]
    fn a_batch_that_is_too_large_is_told_from_other_errors() {
        let check = |status, message: &str, expected: Option<BatchRejection>| {
            let message = message.to_owned();
            let retry = crate::error::Retry::Never;
            let error = Error::upstream_status(status, message, retry);
            assert_eq!(classify_rejection(&error), expected, "{error}");
        };
        let (items, size) = (Some(BatchRejection::Items), Some(BatchRejection::Size));
        check(400, "Requested 313102 tokens, max 300000 tokens per request", size);
        check(
            400,
            "* BatchEmbedContentsRequest.requests: at most 100 requests can be in one batch",
            items,
        );
        check(400, "batch size is invalid, it should not be larger than 10", items);
        check(422, "input batch size 136 > maximum allowed batch size 64", items);
        check(413, "batch size 136 > maximum allowed batch size 64", items);
        check(400, "max_tokens_per_request", size);
        check(413, "length limit exceeded", size);
        check(413, "`inputs` must have less than 512 tokens. Given: 534", None);
        check(
            500,
            "input (596 tokens) is too large to process. increase the physical batch size (current batch size: 512)",
            None,
        );
        check(400, "This model's maximum context length is 8192 tokens", None);
        check(429, "Rate limit reached", None);
        let in_band = Error::upstream_in_band(400, "Batch size 3");
        assert_eq!(classify_rejection(&in_band), items);
        assert_eq!(classify_rejection(&Error::IncompleteStream), None);
    }
}
