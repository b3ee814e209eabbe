//! What Ollama does with an account at ollama.com (ollama-api.md 11.3, 13), of which a proxy has
//! none: every answer is that of a server where nobody is signed in and the cloud is off.
//!
//! Nobody else is ever asked. No address to sign in at is given, because signing in there would
//! change nothing here.

use serde::Serialize;

use super::Context;
use crate::api::ollama::response::ErrorResponse;
use crate::error::{Error, Result};

/// The answer of `GET /api/status`.
#[derive(Serialize)]
struct Status {
    cloud: Cloud,
}

#[derive(Serialize)]
struct Cloud {
    disabled: bool,
    source: &'static str,
}

/// The answer of `GET /api/experimental/model-recommendations`.
#[derive(Serialize)]
struct Recommendations {
    recommendations: [(); 0],
}

/// `GET /api/status`: clients that see the cloud disabled hide what needs it.
pub(super) fn status(context: &mut Context<'_>) -> Result<()> {
    let cloud = Cloud { disabled: true, source: "config" };
    context.answer_json(200, &Status { cloud })
}

/// `POST /api/me`.
pub(super) fn me(context: &mut Context<'_>) -> Result<()> {
    context.answer_json(401, &ErrorResponse { error: "unauthorized" })
}

/// `POST /api/signout` and `DELETE /api/user/keys/:encodedKey`.
pub(super) fn sign_out(context: &mut Context<'_>) -> Result<()> {
    context.answer_json(401, &ErrorResponse { error: "you are not currently signed in" })
}

/// `POST /api/experimental/web_search` and `web_fetch`. Ollama does not look into the body either.
pub(super) fn refuse_web_tool(context: &mut Context<'_>, body: &[u8], what: &str) -> Result<()> {
    if body.trim_ascii().is_empty() {
        return Err(Error::MissingBody);
    }
    let error = format!("ollama cloud is disabled: {what} is unavailable");
    context.answer_json(403, &ErrorResponse { error: &error })
}

/// `GET /api/experimental/model-recommendations`.
pub(super) fn recommendations(context: &mut Context<'_>) -> Result<()> {
    context.answer_json(200, &Recommendations { recommendations: [] })
}
