//! Anthropic's wire types: what clients of `/v1/messages` send and receive.
//!
//! Names are those of Anthropic's API reference; the order of members is that of Ollama's own
//! Anthropic routes (`anthropic/anthropic.go`). Requests are read as leniently as Ollama's
//! ([`crate::api::ollama::decode`]). Nothing here decides what a missing or unknown member means:
//! `translate` does.

pub mod lenient;
pub mod request;
pub mod response;
