//! `/v1/responses` over an upstream that has only chat completions (ollama-api.md 14.6).
//!
//! Called by the pass-through once the upstream said that it has no such route, and from then on.

use super::{Context, not_implemented};
use crate::error::Result;

/// Translates a request to chat completions and the answer back. `body` is decompressed.
pub(super) fn responses(_context: &mut Context<'_>, _body: Vec<u8>) -> Result<()> {
    Err(not_implemented("responses"))
}
