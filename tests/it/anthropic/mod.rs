//! Anthropic's protocol, `/v1/messages`.

mod cache_marks;
mod count_tokens;
mod errors;
mod messages;
