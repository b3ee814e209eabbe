//! Anthropic's wire types: what clients of `/v1/messages` send and what they are answered.
//!
//! Field names are those of Anthropic's documents, the order of an answer's members that of
//! ollama-api.md 15. Requests are read as leniently as Ollama's own ([`crate::api::ollama::decode`]); what
//! a missing or an unknown member means is decided by `translate`. Nothing here decides
//! anything.

pub mod request;
pub mod response;
