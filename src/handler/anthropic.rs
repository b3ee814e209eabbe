//! `/v1/messages`, Anthropic's protocol (ollama-api.md 15).

use super::{Context, not_implemented};
use crate::error::Result;

/// `POST /v1/messages`. `body` is decompressed.
pub(super) fn messages(_context: &mut Context<'_>, _body: Vec<u8>) -> Result<()> {
    Err(not_implemented("messages"))
}

/// `POST /v1/messages/count_tokens`. `body` is decompressed.
pub(super) fn count_tokens(_context: &mut Context<'_>, _body: Vec<u8>) -> Result<()> {
    Err(not_implemented("count_tokens"))
}
