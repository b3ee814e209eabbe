//! The wire types and formats of the three APIs, and of the streams that carry them.
//!
//! Owns what stands in a request or an answer of Ollama, OpenAI or Anthropic, with the field names
//! of each API's own documents, and how it is read and written: JSON, server-sent events, NDJSON,
//! durations. Never translates one API to another, and does no I/O. Invariant: what is read here is
//! exactly what the API's own server would accept, and a text is written byte for byte as that
//! server writes it.

pub mod anthropic;
pub mod ollama;
pub mod openai;
pub mod wire;
