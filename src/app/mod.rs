//! Puts the program together: sockets, threads, settings, start and stop.
//!
//! [`server`] starts everything, `dispatcher` takes a request and hands it to a worker, and
//! [`shutdown`] ends it; `--check` and `--healthcheck` are here, too. The only room that knows all
//! others, and the only one that reads [`crate::config`]. Never translates or calls upstream itself.
//! Invariant: every request that was accepted gets exactly one response, also while the program stops.

pub mod check;
pub(crate) mod dispatcher;
pub mod healthcheck;
pub mod server;
pub mod shutdown;
