//! Sockets, threads and the process: what is below HTTP.
//!
//! The acceptor, the connection guard, worker pools, cancellation, limits of the system, and
//! [`sys`], the only unsafe code. Never looks into a request's body and knows no API. Invariant:
//! everything that waits has a bound, and everything that grows has a limit.

pub mod acceptor;
pub mod cancel;
pub mod connection_guard;
pub mod limits;
pub(crate) mod listen_address;
pub mod sys;
pub mod worker_pool;
