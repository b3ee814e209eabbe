//! The wire types and formats of the three APIs, and of the streams that carry them.
//!
//! Owns the members of requests and responses of Ollama, OpenAI and Anthropic, by the names in each
//! API's documentation, and how they are read and written: JSON, server-sent events, NDJSON,
//! durations. Never translates one API to another, and does no I/O. Invariant: a request is accepted
//! if and only if the API's own server accepts it, and a response is written byte for byte as that
//! server writes it.

pub mod anthropic;
pub mod ollama;
pub mod openai;
pub mod wire;
