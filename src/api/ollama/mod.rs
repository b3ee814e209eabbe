//! Ollama's wire types: what clients send and receive.
//!
//! Names and order of members are those of Ollama's `api/types.go`; optional members are absent, never
//! `null`, where Ollama leaves them out. [`decode`] turns bytes into [`request`] types as leniently as
//! Go's decoder does; the types of [`response`] only serialise themselves. Nothing here does I/O or
//! decides what a member means.

pub mod decode;
pub mod manage;
pub mod native;
pub mod request;
pub mod response;
pub mod schema;
pub mod text_line;
