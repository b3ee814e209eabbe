//! Ollama's wire types: what clients send and what they are answered.
//!
//! Field names and their order are those of ollama-api.md; optional members are absent, never
//! `null`, where Ollama leaves them out. Nothing here talks to anyone or decides anything:
//! [`decode`] turns bytes into [`request`] types as leniently as Go's decoder does, and the answer
//! types of [`response`] only print themselves.

pub mod decode;
pub mod manage;
pub mod request;
pub mod response;
pub mod schema;
pub mod text_line;
