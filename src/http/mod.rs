//! One downstream exchange: a client's request and its response, over tiny_http.
//!
//! Routes, heads, framing, unread bodies, CORS, the check of `Host`, client keys, and the error
//! format of each protocol. Never knows what a request means, nor any upstream.
//! Invariant: an exchange ends exactly once, and its head is written with the first byte of its
//! body, so that a failure before that gets a real status.

pub mod access;
pub mod client_keys;
pub mod cors;
pub mod error_format;
pub mod exchange;
pub mod framing;
pub mod host_info;
mod key_digests;
pub mod key_lines;
pub mod named_keys;
pub mod routes;
pub mod same_origin;
pub mod threat_model;
pub mod unread_body;
pub mod wrong_keys;
