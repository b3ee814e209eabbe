//! Anthropic's protocol, `/v1/messages`.

mod answers;
mod any_input;
mod cache_marks;
mod conversation;
mod count_tokens;
mod errors;
mod messages;
mod models;
mod tools;
