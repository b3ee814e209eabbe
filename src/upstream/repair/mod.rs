//! Repairs a request that an upstream refused because of a parameter (openai-wire.md 3.9).
//!
//! `refusal` reads which members a refusal names, `repair` decides what may be done about them,
//! `apply` does it, and [`cache`] remembers what worked, so that the next request pays nothing. Pure: values
//! in, values out, and the time is an argument. Invariant: messages, tools and a wanted form of the
//! answer are never dropped, so a repaired request still asks for the same; a refusal that only a
//! person can mend goes back to the client.

mod apply;
pub mod cache;
mod plan;
mod raw;
mod refusal;

pub use self::plan::{Repair, Repairable, plan_repairs};

/// How many times one request is mended and sent again at the most. Most upstreams name one member at
/// a time.
pub const MAX_ROUNDS: usize = 4;
