//! Formats that more than one API uses: server-sent events, NDJSON, durations, base64, digests; and what
//! JSON costs in memory.
//!
//! Bytes in, values out, and back. Never knows which API a value belongs to. Invariant: the result
//! does not depend on where the input was cut into pieces.

pub mod base64;
pub mod digest;
pub mod json_cost;
pub mod json_writer;
pub mod keep_alive;
pub mod ndjson;
pub mod small_sort;
pub mod sse;
