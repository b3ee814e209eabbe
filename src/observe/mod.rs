//! What operators see: the log, the log of bodies, metrics, and what the status page shows of requests; and
//! the redaction of secrets in them.
//!
//! Imports no other room. Never decides anything about a request. Invariant: no key is ever written,
//! and no prompt or response unless the operator turns on the log of bodies.

pub mod board;
pub mod body_log;
pub mod circuit_state;
pub mod first_times;
mod key_list;
pub mod lock;
pub mod logging;
pub mod metrics;
pub mod panics;
pub mod plural;
pub mod proc_field;
pub mod redact;
mod secret;
pub mod system_error;
pub mod timestamp;
