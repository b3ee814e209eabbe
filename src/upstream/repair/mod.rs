//! Repairs a request that an upstream rejected because of a parameter.
//!
//! `refusal` reads which members a rejection names, `plan` decides what may be done about them, `apply`
//! and `raw` change the request, and [`cache`] remembers what worked, so that the next request is not
//! rejected. Pure: the time is an argument. Never touches messages, tools or a requested format without
//! keeping what they say.
//! Invariant: a repaired request still asks for the same; a rejection that only a person can resolve
//! goes back to the client.

mod apply;
pub mod cache;
mod plan;
mod raw;
mod refusal;

pub use self::plan::{Repair, Repairable, plan_repairs};

/// The most repairs and resends of one request. Most upstreams name one member at a time.
pub const MAX_ROUNDS: usize = 4;
