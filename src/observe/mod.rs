//! What the operator sees: the log, the log of bodies, metrics; and what keeps secrets out of them.
//!
//! Imports nothing of the program. Never decides anything about a request. Invariant: no key is
//! written anywhere, and no prompt and no answer unless the operator asks for bodies.

pub mod body_log;
pub mod circuit_state;
pub mod lock;
pub mod logging;
pub mod metrics;
pub mod proc_field;
pub mod redact;
pub mod timestamp;
