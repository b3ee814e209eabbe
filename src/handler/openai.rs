//! OpenAI's protocol, which the upstream speaks itself (ollama-api.md 14).

use super::{Context, not_implemented};
use crate::error::Result;

/// `GET /v1/models`.
pub(super) fn models(_context: &mut Context<'_>) -> Result<()> {
    Err(not_implemented("models"))
}

/// `GET /v1/models/:model`.
pub(super) fn model(_context: &mut Context<'_>) -> Result<()> {
    Err(not_implemented("models/model"))
}

/// `POST /v1/chat/completions`.
pub(super) fn chat(_context: &mut Context<'_>, _body: Vec<u8>) -> Result<()> {
    Err(not_implemented("chat/completions"))
}

/// `POST /v1/completions`.
pub(super) fn completions(_context: &mut Context<'_>, _body: Vec<u8>) -> Result<()> {
    Err(not_implemented("completions"))
}

/// `POST /v1/embeddings`.
pub(super) fn embeddings(_context: &mut Context<'_>, _body: Vec<u8>) -> Result<()> {
    Err(not_implemented("embeddings"))
}

/// `POST /v1/responses`.
pub(super) fn responses(context: &mut Context<'_>, body: Vec<u8>) -> Result<()> {
    super::responses::responses(context, body)
}

/// `POST /v1/audio/transcriptions`.
pub(super) fn transcriptions(_context: &mut Context<'_>) -> Result<()> {
    Err(not_implemented("audio/transcriptions"))
}
