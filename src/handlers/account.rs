//! Routes about an account at ollama.com: the responses are those of an Ollama server that is signed
//! out and has its cloud features disabled.
//!
//! Never contacts ollama.com or the upstream. No sign-in URL is given, because signing in would not
//! change anything here.

use serde_json::json;

use super::Context;
use crate::api::ollama::response::ErrorResponse;
use crate::error::{Error, Result};

/// `GET /api/status`: clients hide cloud features when the cloud is disabled.
pub(super) fn status(context: &mut Context<'_>) -> Result<()> {
    context.answer_json(200, &json!({"cloud": {"disabled": true, "source": "config"}}))
}

/// `POST /api/me`.
pub(super) fn me(context: &mut Context<'_>) -> Result<()> {
    context.answer_json(401, &ErrorResponse { error: "unauthorized" })
}

/// `POST /api/signout` and `DELETE /api/user/keys/:encodedKey`.
pub(super) fn sign_out(context: &mut Context<'_>) -> Result<()> {
    context.answer_json(401, &ErrorResponse { error: "you are not currently signed in" })
}

/// `POST /api/experimental/web_search`.
pub(super) fn web_search(context: &mut Context<'_>) -> Result<()> {
    refuse_web_tool(context, "web search")
}

/// `POST /api/experimental/web_fetch`.
pub(super) fn web_fetch(context: &mut Context<'_>) -> Result<()> {
    refuse_web_tool(context, "web fetch")
}

/// As in Ollama, the body is not parsed.
fn refuse_web_tool(context: &mut Context<'_>, what: &str) -> Result<()> {
    if context.read_body()?.trim_ascii().is_empty() {
        return Err(Error::MissingBody);
    }
    let error = format!("ollama cloud is disabled: {what} is unavailable");
    context.answer_json(403, &ErrorResponse { error: &error })
}

/// `GET /api/experimental/model-recommendations`.
pub(super) fn recommendations(context: &mut Context<'_>) -> Result<()> {
    context.answer_json(200, &json!({"recommendations": []}))
}
