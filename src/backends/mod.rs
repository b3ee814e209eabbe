//! Knowledge of upstream families: their parameters, their errors, their models and model names.
//!
//! Profiles, shapes and phrases of errors, delays before a retry, names and well-known models, all as
//! data and pure functions. Never sends a request and never decides about one. Invariant: an unknown
//! family is treated as the OpenAI API reference describes.

pub(crate) mod capabilities;
pub mod errors;
pub mod fim_prompts;
pub mod glob;
pub(crate) mod known_models;
pub mod model_families;
pub mod names;
pub mod profiles;
pub mod retry_after;
pub mod thinking_modes;
