//! Sockets, threads and the process: everything below HTTP.
//!
//! The acceptor, the connection guard, worker pools, cancellation, the system's limits, and [`sys`],
//! the only unsafe code. Never looks into a request's body, and knows no API. Invariant: every wait
//! has a timeout and every collection has a limit.

pub mod acceptor;
pub mod cancel;
pub mod connection_guard;
pub mod limits;
pub(crate) mod listen_address;
pub mod sys;
pub mod worker_pool;
