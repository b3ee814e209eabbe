//! Knowledge of the families of upstreams: what they take, what their errors mean, what is known of
//! their models.
//!
//! Profiles, phrases and shapes of errors, delays told in texts, names and well-known models, all of
//! it data and pure functions. Never sends anything and never decides about a request; the rooms
//! above ask. Invariant: an unknown family is treated by the OpenAI API reference, and what nobody
//! has seen is not claimed.

pub(crate) mod capabilities;
pub mod errors;
pub(crate) mod known_models;
pub mod names;
pub mod profiles;
pub mod retry_after;
