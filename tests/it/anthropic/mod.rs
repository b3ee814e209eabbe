//! Anthropic's protocol, `/v1/messages`.

mod count_tokens;
mod errors;
mod messages;
