//! placeholder
pub mod error;
pub mod redact;
