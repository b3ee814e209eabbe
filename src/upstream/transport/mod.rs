//! Everything that knows ureq: its agent, our connections beneath it, and reads that have a deadline.
//!
//! [`agent`] sends one request, with the `headers` and the [`key`] that belong to the upstream, and
//! [`errors`] turns ureq's errors into ours. `connector` makes connections that a request can be cancelled
//! on, from the sockets of `tcp` and their `buffers`, through the proxy of `proxy_connector` if there is one,
//! and with the TLS of `tls`, by the rules of [`tls_config`] and the files of [`tls_files`]. `workarounds`
//! holds what ureq has no setting for. Never decides whether an attempt is repeated.
//! Invariant: no other module names ureq's transport traits, which are exempt from its semantic
//! versioning.

mod absolute_form;
pub(in crate::upstream) mod agent;
mod buffers;
mod connect_failure;
mod connector;
pub(in crate::upstream) mod errors;
mod handshake;
mod headers;
pub(in crate::upstream) mod key;
mod proxy_connector;
pub(in crate::upstream) mod read_deadline;
mod socks;
mod tcp;
#[cfg(test)]
mod tests;
mod tls;
pub(in crate::upstream) mod tls_config;
mod tls_errors;
pub(in crate::upstream) mod tls_files;
pub(in crate::upstream) mod workarounds;

use std::time::Duration;

/// Connecting, TLS included, takes at most this long, and so does the name lookup before it.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Bytes of each of ureq's buffers for a connection. Larger response heads are an error.
const BUFFER_BYTES: usize = 16 * 1024;

/// What the program calls itself.
const USER_AGENT: &str = concat!("ollama-openai-proxy/", env!("CARGO_PKG_VERSION"));
