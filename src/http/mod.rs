//! One downstream exchange: the request of a client and the reply to it, over tiny_http.
//!
//! Routes, heads, framing, bodies that nobody reads, CORS, the check of the host, client keys, and
//! what an error looks like in each protocol. Never knows what a request means, nor any upstream.
//! Invariant: an exchange ends exactly once, and its head is written with the first byte of its
//! body, so that a failure before that gets a real status.

pub mod access;
pub mod client_keys;
pub mod cors;
pub mod error_format;
pub mod exchange;
pub mod framing;
pub mod host_info;
pub mod routes;
pub mod unread_body;
