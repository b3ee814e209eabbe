//! OpenAI's protocol, which the upstream speaks itself (ollama-api.md 14).

use std::sync::atomic::Ordering;

use super::{Context, pass_through, responses};
use crate::error::Result;
use crate::translate::pass_through::Endpoint;

/// `POST /v1/chat/completions`.
pub(super) fn chat(context: &mut Context<'_>) -> Result<()> {
    pass_through::pass(context, Endpoint::Chat)
}

/// `POST /v1/completions`.
pub(super) fn completions(context: &mut Context<'_>) -> Result<()> {
    pass_through::pass(context, Endpoint::Completions)
}

/// `POST /v1/embeddings`.
pub(super) fn embeddings(context: &mut Context<'_>) -> Result<()> {
    pass_through::pass(context, Endpoint::Embeddings)
}

/// `POST /v1/responses`: passed on until the upstream says that it has no such route, translated from
/// then on.
pub(super) fn responses(context: &mut Context<'_>, body: Vec<u8>) -> Result<()> {
    let lacks = &context.app.lacks_responses;
    if lacks.load(Ordering::Relaxed) {
        return responses::responses(context, body);
    }
    match pass_through::pass_buffered(context, Endpoint::Responses, body)? {
        None => Ok(()),
        Some(body) => {
            lacks.store(true, Ordering::Relaxed);
            responses::responses(context, body)
        }
    }
}
