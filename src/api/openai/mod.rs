//! OpenAI's wire types: what upstreams are sent and what they answer; and, in [`responses`], what
//! clients send and are answered where the upstream lacks a route of OpenAI's.
//!
//! Field names are those of OpenAI's own documents and openai-wire.md. Requests hold only what was
//! asked for: an absent member is not written, never `null`. Answers take everything as optional
//! and skip what has an unexpected type, because no two servers agree.

pub mod chunk;
pub mod chunk_template;
pub mod embeddings;
pub mod multipart;
pub mod pass_head;
pub mod raw_object;
pub mod request;
pub mod request_body;
pub mod responses;
pub mod sse_end;
